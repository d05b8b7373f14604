//! The digest of balances and open holds, as `docs/ledger-format.md` has it.
//!
//! The writer computes it for every checkpoint while people wait for their holds, so it makes no text of its own for each line.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::ledger::{Account, HoldView};

/// One text, cut into lines.
#[derive(Default)]
struct Lines {
    text: String,
    ends: Vec<usize>,
}
impl Lines {
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a text does not fail.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
        self.ends.push(self.text.len());
    }
    /// In the order of their bytes. All begin with the same `same` bytes, so the 8 after these tell nearly all of them apart.
    fn hash(&self, same: usize, into: &mut Sha256) {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let mut lines: Vec<(u64, &[u8])> = starts
            .zip(&self.ends)
            .map(|(start, end)| {
                let line = &self.text.as_bytes()[start..*end];
                let mut first = [0; 8];
                for (to, from) in first.iter_mut().zip(line.iter().skip(same)) {
                    *to = *from;
                }
                (u64::from_be_bytes(first), line)
            })
            .collect();
        lines.sort_unstable();
        lines.iter().for_each(|(_, line)| into.update(line));
    }
}

/// SHA-256 over one line `<account> <balance>\n` per account with a balance other than 0, sorted by account text, then one
/// line `hold <job> <member> <amount>\n` per open hold, sorted by job text.
pub(super) fn digest<'a>(balances: impl Iterator<Item = (&'a Account, &'a i64)>, open: impl Iterator<Item = &'a HoldView>) -> [u8; 32] {
    let (mut accounts, mut holds) = (Lines::default(), Lines::default());
    balances.filter(|(_, balance)| **balance != 0).for_each(|(account, balance)| accounts.add(format_args!("{account} {balance}")));
    open.for_each(|hold| holds.add(format_args!("hold {} {} {}", hold.job, hold.member, hold.amount_mmana.get())));
    let mut hasher = Sha256::new();
    accounts.hash(0, &mut hasher);
    holds.hash("hold bafkrei".len(), &mut hasher);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::HoldState;
    use crate::{Cid, JobId, MemberId, MilliMana, Signer};
    use proptest::prelude::*;

    fn member(n: u8) -> MemberId {
        Signer::from_seed(&[n; 32]).public().member_id()
    }

    proptest! {
        /// The page's words, word for word.
        #[test]
        fn it_is_what_the_page_says(
            balances in proptest::collection::btree_map((0_u8..5, 0_u8..5), -3_i64..1000, 0..12),
            jobs in proptest::collection::btree_map(any::<u16>(), (0_u8..5, 1_i64..9999), 0..40),
        ) {
            let account = |(kind, n): (u8, u8)| match kind {
                0 => Account::Mint,
                1 => Account::Commons,
                2 => Account::Available(member(n)),
                3 => Account::Held(member(n)),
                _ => Account::Vesting(member(n)),
            };
            let balances: std::collections::BTreeMap<Account, i64> = balances.into_iter().map(|(at, balance)| (account(at), balance)).collect();
            let holds: Vec<HoldView> = jobs
                .into_iter()
                .map(|(job, (by, amount))| HoldView {
                    job: JobId(Cid::of(&job.to_be_bytes())),
                    member: member(by),
                    amount_mmana: MilliMana::new(amount).unwrap(),
                    expires: 1,
                    state: HoldState::Open,
                })
                .collect();
            let mut lines: Vec<String> =
                balances.iter().filter(|(_, balance)| **balance != 0).map(|(account, balance)| format!("{account} {balance}\n")).collect();
            lines.sort();
            let mut of_holds: Vec<String> =
                holds.iter().map(|hold| format!("hold {} {} {}\n", hold.job, hold.member, hold.amount_mmana.get())).collect();
            of_holds.sort();
            let expected = crate::id::sha256(format!("{}{}", lines.concat(), of_holds.concat()).as_bytes());
            prop_assert_eq!(digest(balances.iter(), holds.iter()), expected);
        }
    }
}
