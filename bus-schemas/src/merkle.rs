//! RFC 6962 Merkle tree over the bodies of one batch: one signature covers many bodies, and each stays provable by itself.

use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

pub fn leaf(body: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(body).finalize().into()
}
fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Root over the leaf hashes; `None` where there are none.
pub fn root(leaves: &[Hash]) -> Option<Hash> {
    match leaves {
        [] => None,
        [one] => Some(*one),
        more => {
            let (left, right) = more.split_at(split(more.len()));
            Some(node(&root(left)?, &root(right)?))
        }
    }
}

/// The hashes, from the leaf upwards, that lead from leaf `index` to the root.
pub fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut inner, other) = if index < k { (path(left, index), root(right)) } else { (path(right, index - k), root(left)) };
    inner.extend(other);
    inner
}

/// The paths of all leaves at once: as [`path`] for each, in one walk over the tree.
pub fn paths(leaves: &[Hash]) -> Vec<Vec<Hash>> {
    fn walk(leaves: &[Hash], out: &mut [Vec<Hash>]) -> Hash {
        if let [one] = leaves {
            return *one;
        }
        let k = split(leaves.len());
        let (left_out, right_out) = out.split_at_mut(k);
        let (left, right) = (walk(&leaves[..k], left_out), walk(&leaves[k..], right_out));
        left_out.iter_mut().for_each(|path| path.push(right));
        right_out.iter_mut().for_each(|path| path.push(left));
        node(&left, &right)
    }
    let mut out = vec![Vec::new(); leaves.len()];
    if leaves.len() > 1 {
        walk(leaves, &mut out);
    }
    out
}

/// The root that a leaf, its place and its path lead to; `None` where the path has the wrong length.
pub fn root_of_path(leaf: Hash, index: u32, count: u32, path: &[Hash]) -> Option<Hash> {
    if index >= count {
        return None;
    }
    fn up(leaf: Hash, index: u32, count: u32, path: &[Hash]) -> Option<Hash> {
        if count == 1 {
            return path.is_empty().then_some(leaf);
        }
        let (last, rest) = path.split_last()?;
        let k = u32::try_from(split(count as usize)).ok()?;
        if index < k { Some(node(&up(leaf, index, k, rest)?, last)) } else { Some(node(last, &up(leaf, index - k, count - k, rest)?)) }
    }
    up(leaf, index, count, path)
}

/// The largest power of two below `n` (n > 1).
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_proves_itself_and_nothing_else() {
        for count in 1..=65_u32 {
            let leaves: Vec<Hash> = (0..count).map(|i| leaf(&i.to_be_bytes())).collect();
            let top = root(&leaves).unwrap();
            let together = paths(&leaves);
            for i in 0..count {
                let steps = path(&leaves, i as usize);
                assert_eq!(root_of_path(leaves[i as usize], i, count, &steps), Some(top));
                assert_eq!(together[i as usize], steps);
                assert_ne!(root_of_path(leaf(b"other"), i, count, &steps), Some(top));
                assert_ne!(root_of_path(leaves[i as usize], (i + 1) % count, count, &steps), if count == 1 { None } else { Some(top) });
                let mut longer = steps.clone();
                longer.push([0; 32]);
                assert_eq!(root_of_path(leaves[i as usize], i, count, &longer), None);
            }
        }
    }
}
