//! Whether a fact may follow the books it stands on: what it says and what its legs move must be the same thing.

use super::{Books, Wrong};
use crate::ledger::{Account, CheckpointState, Fact, HoldView, What};
use crate::{JobId, MemberId, MilliMana};

type Checked = Result<(), Wrong>;

/// A fact under the eye.
struct Look<'a> {
    books: &'a Books,
    fact: &'a Fact,
}

/// Checks one fact, before any of its legs is applied.
pub(super) fn check(books: &Books, fact: &Fact) -> Checked {
    let look = Look { books, fact };
    if fact.legs.iter().any(|leg| leg.amount_mmana == MilliMana::ZERO || leg.from == leg.to) {
        return Err(look.legs("a leg moves nothing"));
    }
    let genesis = matches!(fact.what, What::Genesis { .. });
    if !genesis && fact.policy != books.policy.version {
        return Err(Wrong::PolicyVersion { cited: fact.policy, in_force: books.policy.version });
    }
    look.what()
}

impl Look<'_> {
    fn legs(&self, detail: &str) -> Wrong {
        Wrong::Legs { kind: self.fact.what.kind(), detail: detail.to_owned() }
    }
    fn unknown(&self, what: &'static str) -> Wrong {
        Wrong::Unknown { kind: self.fact.what.kind(), what }
    }
    fn right(&self, holds: bool, otherwise: &str) -> Checked {
        if holds { Ok(()) } else { Err(self.legs(otherwise)) }
    }
    fn known(&self, member: &MemberId) -> Checked {
        self.books.members.contains_key(member).then_some(()).ok_or_else(|| self.unknown("member"))
    }
    /// What the legs move from one account, to another one or to all.
    fn moved(&self, from: Account, to: Option<Account>) -> i64 {
        let legs = self.fact.legs.iter().filter(|leg| leg.from == from && to.is_none_or(|to| leg.to == to));
        legs.map(|leg| leg.amount_mmana.get()).fold(0, i64::saturating_add)
    }
    fn one_leg(&self, from: Account, to: Account) -> bool {
        self.fact.legs.len() == 1 && self.moved(from, Some(to)) > 0
    }
    fn open_hold(&self, job: &JobId) -> Result<&HoldView, Wrong> {
        self.books.open.get(job).ok_or(Wrong::NoHold(*job))
    }

    #[allow(clippy::too_many_lines)] // one arm a kind, read top to bottom
    fn what(&self) -> Checked {
        let Self { books, fact } = self;
        match &fact.what {
            What::Genesis { .. } if books.fact_count > 0 => Err(Wrong::NoGenesis),
            What::Genesis { rules, .. } => {
                self.right(fact.legs.is_empty(), "a genesis moves nothing")?;
                rules.check().map_err(|detail| Wrong::Policy { detail })
            }
            What::Open { member, .. } => {
                let to = Account::Available(*member);
                self.right(
                    fact.legs.iter().all(|leg| leg.from == Account::Mint && leg.to == to),
                    "credit goes from mint to the member alone",
                )
            }
            What::Mint { member, .. } => {
                self.known(member)?;
                self.right(self.one_leg(Account::Mint, Account::Available(*member)), "credit goes from mint to the member alone")
            }
            What::BindDevice { member, .. } => {
                self.known(member)?;
                self.right(fact.legs.is_empty(), "a binding moves nothing")
            }
            What::AttestTier { device, .. } | What::RevokeDevice { device, .. } => {
                books.devices.get(device).ok_or_else(|| self.unknown("device"))?;
                self.right(fact.legs.is_empty(), "a word about a device moves nothing")
            }
            What::SuspendMember { member, .. } | What::RestoreMember { member, .. } => {
                self.known(member)?;
                self.right(fact.legs.is_empty(), "a word about a member moves nothing")?;
                let found = books.suspension(member).unwrap_or_default();
                let follows = if let What::SuspendMember { receipts_seq, .. } = &fact.what {
                    found.may_follow(*receipts_seq)
                } else {
                    found.is_suspended
                };
                self.right(follows, "a member is suspended and restored in turn")
            }
            What::Hold { job, member, amount_mmana, expires, .. } => {
                self.known(member)?;
                if books.hold(job).is_some() {
                    return Err(Wrong::HoldTwice(*job));
                }
                if fact.at_ms > *expires {
                    return Err(Wrong::HoldLate { job: *job, expires: *expires, at: fact.at_ms });
                }
                let whole = self.moved(Account::Available(*member), Some(Account::Held(*member))) == amount_mmana.get();
                self.right(fact.legs.len() == 1 && whole, "a hold moves its amount from available to held")
            }
            What::Settle { .. } => self.settle(),
            What::Void { job, member, .. } => {
                let hold = self.open_hold(job)?;
                let whole = self.moved(Account::Held(*member), Some(Account::Available(*member))) == hold.amount_mmana.get();
                self.right(hold.member == *member && fact.legs.len() == 1 && whole, "a void returns the whole hold")
            }
            What::Regen { part, decay, .. } => {
                let expected = books.epoch_next.map_or(0, |(part, _)| part);
                self.right(*part == expected, "the parts of an epoch follow each other")?;
                let to_members = fact.legs.iter().all(|leg| leg.from == Account::Mint && matches!(leg.to, Account::Available(_)));
                self.right(to_members && (*part == 0 || *decay == 0), "regeneration goes from mint to available accounts")?;
                fact.legs.iter().filter_map(|leg| leg.to.member()).try_for_each(|member| self.known(&member))
            }
            What::Transfer { from, to, .. } => {
                self.known(from)?;
                self.known(to)?;
                self.right(self.one_leg(Account::Available(*from), Account::Available(*to)), "a transfer goes from one to the other")
            }
            What::Fee { member, .. } => {
                self.known(member)?;
                self.right(self.one_leg(Account::Available(*member), Account::Commons), "a fee goes from the member to the commons")
            }
            What::Vest { member, jobs } => {
                let mut sum = 0;
                for (n, job) in jobs.iter().enumerate() {
                    let vesting = books.vesting.get(job).filter(|vesting| vesting.member == *member && vesting.at <= fact.at_ms);
                    let vesting = vesting.filter(|_| !jobs[..n].contains(job)).ok_or_else(|| self.legs("nothing of a job is ripe"))?;
                    sum += vesting.amount.get();
                }
                let whole = sum > 0 && self.moved(Account::Vesting(*member), Some(Account::Available(*member))) == sum;
                self.right(fact.legs.len() == 1 && whole, "what is ripe goes from vesting to available")
            }
            What::Flag { job, device, .. } => {
                books.devices.get(device).ok_or_else(|| self.unknown("device"))?;
                if fact.legs.is_empty() {
                    return Ok(());
                }
                let amount = fact.legs[0].amount_mmana;
                let fits = fact.legs.len() == 1 && fact.legs[0].to == Account::Review && !books.reviews.contains_key(job);
                let from = match fact.legs[0].from {
                    Account::Vesting(member) => {
                        books.vesting.get(job).is_some_and(|vesting| vesting.member == member && vesting.amount == amount)
                    }
                    Account::Available(_) => !books.vesting.contains_key(job),
                    Account::Mint | Account::Commons | Account::Review | Account::Burn | Account::Held(_) => false,
                };
                self.right(fits && from, "a flag moves the pay of its job into review, once")
            }
            What::ReviewRelease { job, .. } | What::ReviewSeize { job, .. } => {
                let review = books.reviews.get(job).ok_or(Wrong::NotInReview(*job))?;
                let to = if matches!(fact.what, What::ReviewRelease { .. }) { Account::Available(review.member) } else { Account::Commons };
                let whole = self.moved(Account::Review, Some(to)) == review.amount.get();
                self.right(fact.legs.len() == 1 && whole, "all that is in review for the job leaves it")
            }
            What::Policy { rules } => {
                self.right(fact.legs.is_empty(), "a policy moves nothing")?;
                if rules.version != books.policy.version + 1 {
                    let detail = format!("version {} follows version {}", rules.version, books.policy.version);
                    return Err(Wrong::Policy { detail });
                }
                rules.check().map_err(|detail| Wrong::Policy { detail })
            }
            What::Correction { .. } => {
                let free = |account: &Account| match account {
                    Account::Mint | Account::Commons | Account::Burn => true,
                    Account::Available(member) => books.members.contains_key(member),
                    Account::Review | Account::Held(_) | Account::Vesting(_) => false,
                };
                let all = !fact.legs.is_empty() && fact.legs.iter().all(|leg| free(&leg.from) && free(&leg.to));
                self.right(all, "a correction moves between mint, commons, burn and available accounts")
            }
            What::Checkpoint(state) => self.checkpoint(state),
        }
    }

    fn settle(&self) -> Checked {
        let Self { books, fact } = self;
        let What::Settle { job, payer, payee, device, attempt, receipt, paid_mmana, fee_mmana, discount_mmana, vests_at, .. } = &fact.what
        else {
            return Ok(());
        };
        self.known(payee)?;
        if books.devices.get(device).is_none_or(|known| known.member != *payee) {
            return Err(self.unknown("device of the payee"));
        }
        if !fact.evidence.contains(&attempt.0) || !fact.evidence.contains(&receipt.0) {
            return Err(Wrong::NoEvidence(*job));
        }
        let hold = self.open_hold(job)?;
        let (held, back_to) = (Account::Held(hold.member), Account::Available(*payer));
        let pay_to = if vests_at.is_some() { Account::Vesting(*payee) } else { Account::Available(*payee) };
        let (paid, back) = (self.moved(held, Some(pay_to)), self.moved(held, Some(back_to)));
        let (fee, discount) = (self.moved(held, Some(Account::Commons)), self.moved(Account::Commons, Some(back_to)));
        let amount = hold.amount_mmana.get();
        let sources = fact.legs.iter().all(|leg| leg.from == held || (leg.from == Account::Commons && leg.to == back_to));
        // Pay and rest of a member's own job arrive at one account.
        let shares = if pay_to == back_to { paid + fee == amount } else { paid == paid_mmana.get() && paid + fee + back == amount };
        let right = hold.member == *payer
            && sources
            && shares
            && self.moved(held, None) == amount
            && fee == fee_mmana.get()
            && discount == discount_mmana.get()
            && paid_mmana.get().saturating_add(fee) <= amount;
        self.right(right, "a settlement empties the hold into pay, fee and rest")
    }

    fn checkpoint(&self, state: &CheckpointState) -> Checked {
        let books = self.books;
        self.right(self.fact.legs.is_empty(), "a checkpoint moves nothing")?;
        let wrong = |what: &'static str| Err(Wrong::Checkpoint { seq: state.seq, what });
        if state.seq != books.seq || books.in_message > 0 {
            return wrong("it is not about the message before it");
        }
        if state.chain.0 != books.chain {
            return wrong("its chain is another");
        }
        if Some(state.root.0) != books.tree.root() {
            return wrong("its Merkle root is another");
        }
        if state.state.0 != books.digest() {
            return wrong("its digest of balances and holds is another");
        }
        Ok(())
    }
}
