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

/// A growing tree in little memory: the roots of its complete subtrees, the largest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    count: u64,
    peaks: Vec<Hash>,
}
impl Frontier {
    /// A tree of `count` leaves from its complete subtrees, those of [`cover`]`(0, count)`; `None` where their number is another.
    pub fn restore(count: u64, peaks: Vec<Hash>) -> Option<Self> {
        (usize::try_from(count.count_ones()) == Ok(peaks.len())).then_some(Self { count, peaks })
    }
    pub fn count(&self) -> u64 {
        self.count
    }
    /// Adds a leaf hash. Returns the complete subtrees that it closed, as (level, index, hash): level 0 are the leaves, and subtree
    /// `index` of a level covers the leaves from `index << level` on.
    pub fn push(&mut self, leaf: Hash) -> Vec<(u8, u64, Hash)> {
        let mut closed = vec![(0, self.count, leaf)];
        let (mut hash, mut index, mut level) = (leaf, self.count, 0);
        while index & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            (hash, index, level) = (node(&left, &hash), index >> 1, level + 1);
            closed.push((level, index, hash));
        }
        self.peaks.push(hash);
        self.count += 1;
        closed
    }
    /// `None` where there is no leaf.
    pub fn root(&self) -> Option<Hash> {
        fold(&self.peaks)
    }
}

/// The root over neighbouring complete subtrees, the largest first.
pub fn fold(peaks: &[Hash]) -> Option<Hash> {
    peaks.iter().rev().copied().reduce(|right, left| node(&left, &right))
}

/// Leaves `start..end` as the complete subtrees (level, index) that make them up, the largest first. `start` is where such a
/// range may begin in a tree: a multiple of the largest power of two in it.
pub fn cover(start: u64, end: u64) -> Vec<(u8, u64)> {
    let (mut at, mut parts) = (start, Vec::new());
    while at < end {
        let mut level = 63 - (end - at).leading_zeros();
        while at & ((1 << level) - 1) != 0 {
            level -= 1;
        }
        parts.push((u8::try_from(level).unwrap_or(u8::MAX), at >> level));
        at += 1 << level;
    }
    parts
}

/// Ranges of leaves whose roots, in order, are the inclusion path of leaf `index` among `count` (as [`path`]).
pub fn path_ranges(index: u64, count: u64) -> Vec<(u64, u64)> {
    fn walk(index: u64, start: u64, end: u64, out: &mut Vec<(u64, u64)>) {
        if end - start <= 1 {
            return;
        }
        let middle = start + (end - start).next_power_of_two() / 2;
        if index < middle {
            walk(index, start, middle, out);
            out.push((middle, end));
        } else {
            walk(index, middle, end, out);
            out.push((start, middle));
        }
    }
    let mut out = Vec::new();
    if index < count {
        walk(index, 0, count, &mut out);
    }
    out
}

/// Ranges of leaves whose roots, in order, prove that the tree of `old` leaves is the beginning of that of `new` (RFC 6962, 2.1.2).
pub fn consistency_ranges(old: u64, new: u64) -> Vec<(u64, u64)> {
    fn walk(old: u64, start: u64, end: u64, whole: bool, out: &mut Vec<(u64, u64)>) {
        if old == end - start {
            if !whole {
                out.push((start, end));
            }
            return;
        }
        let k = (end - start).next_power_of_two() / 2;
        if old <= k {
            walk(old, start, start + k, whole, out);
            out.push((start + k, end));
        } else {
            walk(old - k, start + k, end, false, out);
            out.push((start, start + k));
        }
    }
    let mut out = Vec::new();
    if old > 0 && old < new {
        walk(old, 0, new, true, &mut out);
    }
    out
}

/// Whether `proof` shows that the tree of `old` leaves with root `old_root` is the beginning of the one of `new` leaves with
/// `new_root`.
pub fn extends(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 || old > new {
        return false;
    }
    // Both roots are built up again from the proof, the smaller tree's from those parts alone that lie within it.
    fn walk(old: u64, size: u64, whole: bool, root: &Hash, proof: &mut std::slice::Iter<'_, Hash>) -> Option<(Hash, Hash)> {
        if old == size {
            let hash = if whole { *root } else { *proof.next()? };
            return Some((hash, hash));
        }
        let k = size.next_power_of_two() / 2;
        if old <= k {
            let (was, is) = walk(old, k, whole, root, proof)?;
            Some((was, node(&is, proof.next()?)))
        } else {
            let (was, is) = walk(old - k, size - k, false, root, proof)?;
            let left = proof.next()?;
            Some((node(left, &was), node(left, &is)))
        }
    }
    let mut rest = proof.iter();
    let built = walk(old, new, true, old_root, &mut rest);
    rest.next().is_none() && built == Some((*old_root, *new_root))
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

    #[test]
    fn a_frontier_grows_the_same_tree_and_proves_it() {
        let leaves: Vec<Hash> = (0..70_u32).map(|i| leaf(&i.to_be_bytes())).collect();
        let mut frontier = Frontier::default();
        let mut nodes = std::collections::BTreeMap::new();
        assert_eq!(frontier.root(), None);
        for (n, leaf) in leaves.iter().enumerate() {
            nodes.extend(frontier.push(*leaf).into_iter().map(|(level, index, hash)| ((level, index), hash)));
            assert_eq!(frontier.root(), root(&leaves[..=n]));
            let peaks: Vec<Hash> = cover(0, frontier.count()).iter().map(|at| nodes[at]).collect();
            assert_eq!(Frontier::restore(frontier.count(), peaks), Some(frontier.clone()));
            assert_eq!(Frontier::restore(frontier.count(), vec![]), None);
        }
        let of = |ranges: Vec<(u64, u64)>| -> Vec<Hash> {
            let part = |(start, end)| fold(&cover(start, end).iter().map(|at| nodes[at]).collect::<Vec<_>>()).unwrap();
            ranges.into_iter().map(part).collect()
        };
        for new in 1..=70_usize {
            let new_root = root(&leaves[..new]).unwrap();
            for old in 1..=new {
                let old_root = root(&leaves[..old]).unwrap();
                let proof = of(consistency_ranges(old as u64, new as u64));
                assert!(extends(old as u64, &old_root, new as u64, &new_root, &proof), "{old} {new}");
                assert!(!extends(old as u64, &leaf(b"other"), new as u64, &new_root, &proof), "{old} {new}");
                assert!(old == new || !extends(old as u64, &old_root, new as u64, &leaf(b"other"), &proof), "{old} {new}");
                assert_eq!(of(path_ranges(old as u64 - 1, new as u64)), path(&leaves[..new], old - 1));
            }
        }
        assert!(!extends(0, &[0; 32], 3, &root(&leaves[..3]).unwrap(), &[]));
        assert!(!extends(3, &root(&leaves[..3]).unwrap(), 2, &root(&leaves[..2]).unwrap(), &[]));
    }
}
