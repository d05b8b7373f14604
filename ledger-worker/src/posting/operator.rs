//! What an operator decides: flags and reviews, the policy, corrections.

use bus_schemas::ledger::{Account, FlagWhy, HoldState, Leg, Policy, RefusalKind, What, fact_id};
use bus_schemas::{Code, FactId, JobId, MilliMana, UnixMs};

use super::standing::ReviewEnd;
use super::{
    Decided, Refusal, Standing, available, check_amount, check_key, check_note, check_reason, known_member, leg, mintable, record, repeat,
};

/// Puts the pay of a settled job into review, as far as it is still there.
pub fn flag(standing: &Standing, now: UnixMs, job: &JobId, why: FlagWhy, note: &str) -> Result<Decided, Refusal> {
    check_note(note)?;
    let id = fact_id::flag(job, why.name());
    let books = standing.books();
    if let Some((seq, _)) = books.fact(&id) {
        return Ok(Decided::Known { fact: id, seq, hold: None });
    }
    let unknown = |detail: String| Refusal::new(RefusalKind::UnknownJob, Code::NoSuchJob, detail);
    let hold = books.hold(job).ok_or_else(|| unknown(format!("{} has no hold", job.short())))?;
    let HoldState::Settled { device, paid_mmana, .. } = &hold.state else {
        return Err(unknown(format!("{} is not settled: there is no pay to look at", job.short())));
    };
    let Some(known) = books.device(device) else {
        return Err(Refusal::new(RefusalKind::UnknownDevice, Code::NoSuchDevice, format!("{device} is bound to no member")));
    };
    let reviewed = books.review_of(job).is_some() || books.fact(&fact_id::review(job)).is_some();
    let (from, amount) = match books.vesting_of(job) {
        Some(vesting) => (Account::Vesting(vesting.member), vesting.amount),
        None => (Account::Available(known.member), (*paid_mmana).min(available(standing, &known.member))),
    };
    let legs = if reviewed || amount == MilliMana::ZERO { vec![] } else { vec![leg(from, Account::Review, amount)] };
    Ok(record(standing, now, id, legs, What::Flag { job: *job, device: *device, why, note: note.to_owned() }))
}

/// Ends a review: to the earner, or to the commons.
pub fn review(standing: &Standing, now: UnixMs, job: &JobId, reason: &str, release: bool) -> Result<Decided, Refusal> {
    check_reason(reason)?;
    let id = fact_id::review(job);
    let end = if release { ReviewEnd::Released } else { ReviewEnd::Seized };
    if let Some((seq, _)) = standing.books().fact(&id) {
        return match standing.review_end(&id) {
            Some(other) if other != end => {
                let detail = format!("nothing of {} is in review: it was {}", job.short(), other.name());
                Err(Refusal::new(RefusalKind::NotInReview, Code::Conflict, detail))
            }
            Some(_) | None => Ok(Decided::Known { fact: id, seq, hold: None }),
        };
    }
    let nothing = || Refusal::new(RefusalKind::NotInReview, Code::NotFound, format!("nothing of {} is in review", job.short()));
    let review = standing.books().review_of(job).ok_or_else(nothing)?;
    let (job, reason) = (*job, reason.to_owned());
    let (to, what) = if release {
        (Account::Available(review.member), What::ReviewRelease { job, reason })
    } else {
        (Account::Commons, What::ReviewSeize { job, reason })
    };
    Ok(record(standing, now, id, vec![leg(Account::Review, to, review.amount)], what))
}

/// The fact that states a version of the rules; those of version 1 stand in the genesis.
pub fn policy_fact(standing: &Standing, version: u32) -> FactId {
    if version <= 1 { fact_id::genesis(&standing.books().net) } else { fact_id::policy(version) }
}

pub fn policy(standing: &Standing, now: UnixMs, rules: &Policy) -> Result<Decided, Refusal> {
    let in_force = &standing.books().policy;
    let id = policy_fact(standing, rules.version);
    if rules == in_force {
        let seq = standing.books().fact(&id).map_or(0, |(seq, _)| seq);
        return Ok(Decided::Known { fact: id, seq, hold: None });
    }
    let bad = |detail: String| Err(Refusal::new(RefusalKind::BadPolicy, Code::BadValue, detail));
    if Some(rules.version) != in_force.version.checked_add(1) {
        return bad(format!("version {} is in force, so the next is {}, not {}", in_force.version, in_force.version + 1, rules.version));
    }
    if let Err(why) = rules.check() {
        return bad(why);
    }
    Ok(record(standing, now, id, vec![], What::Policy { rules: rules.clone() }))
}

/// Legs that an operator names, between accounts that nothing else accounts for.
pub fn correct(standing: &Standing, now: UnixMs, of: FactId, legs: &[Leg], reason: &str, key: &str) -> Result<Decided, Refusal> {
    check_key(key)?;
    check_reason(reason)?;
    let id = fact_id::correction(key);
    let what = What::Correction { of, reason: reason.to_owned(), key: key.to_owned() };
    if let Some(known) = repeat(standing, id, &what, legs)? {
        return Ok(known);
    }
    let bad = |detail: String| Refusal::new(RefusalKind::BadAmount, Code::BadValue, detail);
    if legs.is_empty() || legs.len() > 64 {
        return Err(bad("a correction has 1 to 64 legs".into()));
    }
    let mut after = bus_schemas::ledger::Balances::new();
    let mut minted: i64 = 0;
    for leg in legs {
        check_amount(leg.amount_mmana)?;
        if leg.from == leg.to {
            return Err(bad(format!("a leg from {} to itself moves nothing", leg.from)));
        }
        for account in [leg.from, leg.to] {
            match account {
                Account::Mint | Account::Commons | Account::Burn => {}
                Account::Available(member) => known_member(standing, &member)?,
                Account::Held(_) | Account::Vesting(_) | Account::Review => {
                    return Err(bad(format!("{account} follows from jobs; a correction cannot touch it")));
                }
            }
        }
        let amount = leg.amount_mmana.get();
        minted = minted.saturating_add(if leg.from == Account::Mint { amount } else { 0 });
        for (account, change) in [(leg.from, -amount), (leg.to, amount)] {
            let balance = after.entry(account).or_insert_with(|| standing.books().balance_of(&account));
            *balance = balance.saturating_add(change);
            if *balance < 0 && account != Account::Mint {
                let detail = format!("{account} would fall to {balance} milli-mana");
                return Err(Refusal::new(RefusalKind::InsufficientMana, Code::TooLittleMana, detail));
            }
        }
    }
    mintable(standing, MilliMana::new(minted).ok_or_else(|| bad("more than there can be".into()))?)?;
    Ok(record(standing, now, id, legs.to_vec(), what))
}
