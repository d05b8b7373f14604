//! What time alone brings: holds that outlived their jobs, pay that has vested, epochs, checkpoints. Decided by the writer from
//! fact time, never by a reader.

use std::collections::BTreeMap;

use bus_schemas::ledger::{Account, Fact, VoidReason, What, fact_id};
use bus_schemas::{JobId, MemberId, MilliMana, UnixMs};

use super::{Standing, fact, fact_time, leg, mintable, void_fact};

/// A checkpoint follows so many facts,
pub const CHECKPOINT_FACTS: u64 = 1024;
/// Jobs in one vest fact.
const VEST_JOBS_MAX: usize = 64;
/// Members that one regen fact looks at; its legs stay within a message.
const REGEN_MEMBERS_MAX: usize = 500;

/// The fact that voids a hold which outlived its job; `None` unless it is open and past its time.
pub fn expire(standing: &Standing, now: UnixMs, job: &JobId) -> Option<Fact> {
    let now = fact_time(standing, now);
    let hold = standing.open_hold(job)?;
    (hold.expires < now).then(|| void_fact(standing, now, hold, VoidReason::Expired, vec![]))
}

/// The facts that make ripe pay available, at most `max` jobs; one for each member.
pub fn vest(standing: &Standing, now: UnixMs, max: usize) -> Vec<Fact> {
    let now = fact_time(standing, now);
    let mut ripe: BTreeMap<MemberId, Vec<(JobId, MilliMana)>> = BTreeMap::new();
    for job in standing.ripe(now, max) {
        if let Some(vesting) = standing.books().vesting_of(&job) {
            ripe.entry(vesting.member).or_default().push((job, vesting.amount));
        }
    }
    let one = |member: &MemberId, jobs: &[(JobId, MilliMana)]| {
        let sum = jobs.iter().try_fold(MilliMana::ZERO, |sum, (_, amount)| sum.checked_add(*amount))?;
        let (first, _) = jobs.first()?;
        let legs = vec![leg(Account::Vesting(*member), Account::Available(*member), sum)];
        let what = What::Vest { member: *member, jobs: jobs.iter().map(|(job, _)| *job).collect() };
        Some(fact(standing, now, fact_id::vest(first), legs, vec![], what))
    };
    ripe.iter().flat_map(|(member, jobs)| jobs.chunks(VEST_JOBS_MAX).filter_map(move |jobs| one(member, jobs))).collect()
}

/// The next part of an epoch that has begun; `None` where all of it is written down. An epoch without a worker is not made up for.
pub fn epoch(standing: &Standing, now: UnixMs) -> Option<Fact> {
    let now = fact_time(standing, now);
    let books = standing.books();
    let policy = &books.policy;
    let (part, after) = match books.epoch_next() {
        Some((part, member)) => (part, Some(member)),
        None if policy.has_epochs() && policy.epoch(now) > policy.epoch(books.epoch_at()) => (0, None),
        None => return None,
    };
    let members: Vec<MemberId> =
        books.members().filter(|member| after.is_none_or(|after| **member > after)).take(REGEN_MEMBERS_MAX).copied().collect();
    let next = members.last().copied().filter(|_| members.len() == REGEN_MEMBERS_MAX);
    let mut sum = MilliMana::ZERO;
    let mut legs = vec![];
    for member in members {
        let has = books.balance_of(&Account::Available(member)).saturating_add(books.balance_of(&Account::Held(member)));
        let room = MilliMana::new(policy.regen_cap_mmana.get().saturating_sub(has)).unwrap_or(MilliMana::ZERO);
        let amount = policy.regen_mmana.min(room);
        let whole = sum.checked_add(amount).filter(|whole| mintable(standing, *whole).is_ok());
        if let Some(whole) = whole.filter(|_| amount > MilliMana::ZERO) {
            sum = whole;
            legs.push(leg(Account::Mint, Account::Available(member), amount));
        }
    }
    let epoch = policy.epoch(if part == 0 { now } else { books.epoch_at() });
    let decay = if part == 0 { policy.decay } else { 0 };
    Some(fact(standing, now, fact_id::regen(policy.version, epoch, part), legs, vec![], What::Regen { epoch, part, decay, next }))
}

/// A checkpoint of the books as they stand; `None` where nothing is new. Must be alone in its message.
pub fn checkpoint(standing: &Standing, now: UnixMs) -> Option<Fact> {
    let state = standing.books().state().filter(|_| standing.since_checkpoint() > 0)?;
    Some(fact(standing, fact_time(standing, now), fact_id::checkpoint(state.seq), vec![], vec![], What::Checkpoint(state)))
}
