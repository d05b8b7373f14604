//! What the books answer to one command: a fact to record, nothing new, or a refusal by name.
//!
//! In: the books as they stand, the fact time, one verified command and the evidence beside it. Out: [`Decided`] or [`Refusal`].
//! The same command on the same books gets the same answer; who may ask what is decided here as well.
//!
//! Not here: signatures (a [`Verified`] was checked where it was made), the stream, the database.

mod barred;
pub mod clock;
mod operator;
mod people;
pub mod settle;
pub mod standing;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bus_schemas::assignment::Assignment;
use bus_schemas::ledger::{Account, Command, Ended, Fact, HoldView, Leg, Op, RefusalKind, VoidReason, What, fact_id};
use bus_schemas::limits::{COST_DEFAULT, EXP_MAX_MS, MAX_EXECUTION_WAIT_MS_MAX, SKEW_MS, TIER_RATES, TIMEOUT_MS_MAX, hold_expires};
use bus_schemas::mana::MAX_MMANA;
use bus_schemas::receipt::Receipt;
use bus_schemas::{Cid, Code, DeviceId, FactId, JobId, MemberId, MilliMana, Problem, PublicKey, UnixMs, Verified};

pub use standing::Standing;

/// Longest reason or note, in characters.
const REASON_CHARS_MAX: usize = 200;

/// Whose keys the network document names; all others may ask nothing.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    pub gateway: Vec<PublicKey>,
    pub scheduler: Vec<PublicKey>,
    /// The network key: whoever holds it is the operator.
    pub operator: Vec<PublicKey>,
}

/// Signed assignments and receipts that came with a request, by content id.
#[derive(Debug, Default)]
pub struct Evidence {
    pub assignments: BTreeMap<Cid, Verified<Assignment>>,
    pub receipts: BTreeMap<Cid, Verified<Receipt>>,
}

/// What follows from a command that is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// Facts to record, the answer to the command first; until they are stored nothing has happened.
    Record(Vec<Fact>),
    /// It was done earlier, or was only a question. `seq` is 0 where the fact is yet to come.
    Known { fact: FactId, seq: u64, hold: Option<Box<HoldView>> },
}

/// Why the books refuse a command: the same command on the same books is always refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    pub kind: RefusalKind,
    pub code: Code,
    /// One sentence with the ids and, for money, the numbers in mana.
    pub detail: String,
}
impl Refusal {
    pub fn new(kind: RefusalKind, code: Code, detail: impl Into<String>) -> Self {
        Self { kind, code, detail: detail.into() }
    }
}

/// Answers one command. `now` is the writer's clock in hub time; the fact time is never before that of the last fact.
///
/// # Errors
/// [`Refusal`].
pub fn decide(
    standing: &Standing,
    parts: &Parts,
    now: UnixMs,
    command: &Verified<Command>,
    evidence: &Evidence,
) -> Result<Decided, Refusal> {
    let now = fact_time(standing, now);
    may_ask(parts, &command.by(), &command.op)?;
    in_time(standing, now, command)?;
    let decided = match &command.op {
        Op::Open { member, did } => open(standing, now, member, did),
        Op::Mint { member, amount_mmana, reason, key } => people::mint(standing, now, member, *amount_mmana, reason, key),
        Op::BindDevice { device, did, member } => bind_device(standing, now, device, did, member),
        Op::RevokeDevice { device, receipts_seq, logins } => barred::revoke_device(standing, now, device, *receipts_seq, logins),
        Op::SuspendMember { member, receipts_seq, logins, reason } => {
            barred::suspend_member(standing, now, member, *receipts_seq, logins, reason)
        }
        Op::RestoreMember { member, reason } => barred::restore_member(standing, now, member, reason),
        Op::AttestTier { device, tier } => attest_tier(standing, now, device, *tier),
        Op::Hold { job, member, key, amount_mmana, expires } => {
            hold(standing, now, &Wish { job: *job, member: *member, key, amount: *amount_mmana, expires: *expires })
        }
        Op::Settle { job, attempt, receipt, receipt_at, receipt_seq, started_at, ended } => {
            let claim = settle::Claim {
                job: *job,
                attempt: *attempt,
                receipt: *receipt,
                receipt_at: *receipt_at,
                receipt_seq: *receipt_seq,
                started_at: *started_at,
                ended,
            };
            settle::settle(standing, parts, now, &claim, evidence)
        }
        Op::Void { job, reason, ended } => void(standing, now, job, *reason, ended),
        Op::Transfer { from, to, amount_mmana, key, note } => people::transfer(standing, now, (from, to), *amount_mmana, key, note),
        Op::Fee { member, amount_mmana, reason, key } => people::fee(standing, now, member, *amount_mmana, reason, key),
        Op::Flag { job, why, note } => operator::flag(standing, now, job, *why, note),
        Op::ReviewRelease { job, reason } => operator::review(standing, now, job, reason, true),
        Op::ReviewSeize { job, reason } => operator::review(standing, now, job, reason, false),
        Op::SetPolicy { rules } => operator::policy(standing, now, rules),
        Op::Correct { of, legs, reason, key } => operator::correct(standing, now, *of, legs, reason, key),
        Op::Look { job } => look(standing, job),
    };
    decided.map(|decided| ordered(decided, command))
}

/// A fact that somebody ordered cites the signed order, unless it cites more or is about a job, whose id is that of what its member sent.
fn ordered(mut decided: Decided, command: &Verified<Command>) -> Decided {
    if let (Decided::Record(facts), false) = (&mut decided, matches!(command.op, Op::Hold { .. } | Op::Settle { .. } | Op::Void { .. })) {
        facts.iter_mut().filter(|fact| fact.evidence.is_empty()).for_each(|fact| fact.evidence.push(command.cid()));
    }
    decided
}

/// Never before the last fact, whatever the clock says.
pub fn fact_time(standing: &Standing, now: UnixMs) -> UnixMs {
    standing.books().last_at().max(now)
}

/// The facts that an answer to the command depends on. Those that the books may have forgotten must be looked up before it is
/// decided ([`Standing::recall`]): what was accepted once is never done twice.
pub fn depends_on(standing: &Standing, op: &Op) -> Vec<FactId> {
    match op {
        Op::Open { member, .. } => vec![fact_id::open(member)],
        Op::BindDevice { device, .. } => vec![fact_id::bind_device(device)],
        Op::RevokeDevice { device, .. } => vec![fact_id::revoke_device(device)],
        Op::SuspendMember { member, .. } | Op::RestoreMember { member, .. } => barred::last_fact(standing, member).into_iter().collect(),
        // What the books always remember is enough to decide; where the answer is a repeat, it names the fact's place.
        Op::AttestTier { device, .. } => last_attested(standing, device).into_iter().collect(),
        Op::SetPolicy { rules } => vec![operator::policy_fact(standing, rules.version)],
        Op::Mint { member, key, .. } => vec![fact_id::mint(member, key)],
        Op::Fee { member, key, .. } => vec![fact_id::fee(member, key)],
        Op::Transfer { from, key, .. } => vec![fact_id::transfer(from, key)],
        Op::Correct { key, .. } => vec![fact_id::correction(key)],
        Op::Hold { job, member, key, .. } => vec![fact_id::hold(member, key), fact_id::close(job)],
        Op::Settle { job, .. } | Op::Void { job, .. } => vec![fact_id::close(job)],
        Op::Look { job } => vec![standing.hold_fact(job).unwrap_or(fact_id::close(job))],
        Op::Flag { job, why, .. } => vec![fact_id::close(job), fact_id::flag(job, why.name()), fact_id::review(job)],
        // The answer tells how the hold of the job stands.
        Op::ReviewRelease { job, .. } | Op::ReviewSeize { job, .. } => vec![fact_id::close(job), fact_id::review(job)],
    }
}

fn may_ask(parts: &Parts, by: &PublicKey, op: &Op) -> Result<(), Refusal> {
    let allowed = match op {
        Op::Open { .. } | Op::BindDevice { .. } | Op::Hold { .. } | Op::Transfer { .. } => parts.gateway.contains(by),
        Op::AttestTier { .. } | Op::RevokeDevice { .. } | Op::SuspendMember { .. } | Op::RestoreMember { .. } => {
            parts.gateway.contains(by) || parts.operator.contains(by)
        }
        Op::Mint { .. }
        | Op::Fee { .. }
        | Op::Flag { .. }
        | Op::ReviewRelease { .. }
        | Op::ReviewSeize { .. }
        | Op::SetPolicy { .. }
        | Op::Correct { .. } => parts.operator.contains(by),
        Op::Settle { .. } => parts.scheduler.contains(by),
        Op::Void { reason, .. } => match reason {
            VoidReason::Cancelled | VoidReason::NotAdmitted => parts.gateway.contains(by) || parts.scheduler.contains(by),
            VoidReason::Failed | VoidReason::NotPlaced => parts.scheduler.contains(by),
            // Written by the ledger's own sweeper, from fact time.
            VoidReason::Expired => false,
        },
        Op::Look { .. } => parts.gateway.contains(by) || parts.scheduler.contains(by) || parts.operator.contains(by),
    };
    if allowed { Ok(()) } else { Err(Refusal::new(RefusalKind::NotAllowed, Code::Forbidden, format!("{by} may not ask for this"))) }
}

fn in_time(standing: &Standing, now: UnixMs, command: &Command) -> Result<(), Refusal> {
    if command.net != standing.books().net {
        let detail = format!("the command is for {}, these are the books of {}", command.net, standing.books().net);
        return Err(Refusal::new(RefusalKind::NotAllowed, Code::WrongNetwork, detail));
    }
    if command.at.saturating_add(EXP_MAX_MS) < now {
        return Err(Refusal::new(RefusalKind::Expired, Code::Expired, "the command is older than 24 hours"));
    }
    if command.at > now.saturating_add(SKEW_MS) {
        return Err(Refusal::new(RefusalKind::Expired, Code::NotYetValid, "the command is dated in the future"));
    }
    Ok(())
}

fn record(standing: &Standing, now: UnixMs, id: FactId, legs: Vec<Leg>, what: What) -> Decided {
    Decided::Record(vec![fact(standing, now, id, legs, vec![], what)])
}

fn fact(standing: &Standing, now: UnixMs, id: FactId, legs: Vec<Leg>, evidence: Vec<Cid>, what: What) -> Fact {
    let books = standing.books();
    Fact { net: books.net, id, at_ms: now, policy: books.policy.version, legs, evidence, what }
}

fn leg(from: Account, to: Account, amount_mmana: MilliMana) -> Leg {
    Leg { from, to, amount_mmana }
}

fn open(standing: &Standing, now: UnixMs, member: &MemberId, did: &PublicKey) -> Result<Decided, Refusal> {
    let id = fact_id::open(member);
    if let Some((seq, _)) = standing.books().fact(&id) {
        return Ok(Decided::Known { fact: id, seq, hold: None });
    }
    if did.member_id() != *member {
        return Err(Refusal::new(RefusalKind::BadEvidence, Code::BadValue, format!("{member} is not the member of {did}")));
    }
    let grant = standing.books().policy.grant_mmana;
    let mut legs = vec![];
    if grant > MilliMana::ZERO {
        mintable(standing, grant)?;
        legs.push(leg(Account::Mint, Account::Available(*member), grant));
    }
    Ok(record(standing, now, id, legs, What::Open { member: *member, did: *did }))
}

/// All credit together stays at most 2^53 - 1 milli-mana, so that every balance is exact in JSON and none can overflow.
fn mintable(standing: &Standing, amount: MilliMana) -> Result<(), Refusal> {
    let minted = -standing.books().balance_of(&Account::Mint);
    if minted.checked_add(amount.get()).is_some_and(|sum| sum <= MAX_MMANA) {
        Ok(())
    } else {
        let detail = format!("{amount} mana more would pass the limit of {} mana in all", MAX_MMANA / 1000);
        Err(Refusal::new(RefusalKind::BadAmount, Code::BadAmount, detail))
    }
}

fn bind_device(standing: &Standing, now: UnixMs, device: &DeviceId, did: &PublicKey, member: &MemberId) -> Result<Decided, Refusal> {
    let id = fact_id::bind_device(device);
    if let (Some(bound), Some((seq, _))) = (standing.books().device(device), standing.books().fact(&id)) {
        return if bound.member == *member && bound.did == *did {
            Ok(Decided::Known { fact: id, seq, hold: None })
        } else {
            let detail = format!("{device} is bound to {}", bound.member);
            Err(Refusal::new(RefusalKind::DeviceBoundElsewhere, Code::AlreadyEnrolled, detail))
        };
    }
    known_member(standing, member)?;
    if did.device_id() != *device {
        return Err(Refusal::new(RefusalKind::BadEvidence, Code::BadValue, format!("{device} is not the device of {did}")));
    }
    let most = standing.books().policy.devices_max;
    let has = || standing.books().devices().filter(|(_, other)| other.member == *member && other.revoked.is_none()).count();
    if most > 0 && has() >= usize::try_from(most).unwrap_or(usize::MAX) {
        let detail =
            format!("{member} has {most} devices, which is the most that the policy allows (devices_max; mesh network policy set)");
        return Err(Refusal::new(RefusalKind::NotAllowed, Code::OverLimit, detail));
    }
    Ok(record(standing, now, id, vec![], What::BindDevice { device: *device, did: *did, member: *member }))
}

fn attest_tier(standing: &Standing, now: UnixMs, device: &DeviceId, tier: u8) -> Result<Decided, Refusal> {
    let unknown = || Refusal::new(RefusalKind::UnknownDevice, Code::NoSuchDevice, format!("{device} is bound to no member"));
    let attested = standing.books().device(device).ok_or_else(unknown)?.tier;
    if usize::from(tier) >= TIER_RATES.len() {
        let detail = format!("there is no tier {tier}; tiers are 0 to {}", TIER_RATES.len() - 1);
        return Err(Refusal::new(RefusalKind::BadAmount, Code::BadValue, detail));
    }
    if let Some(fact) = last_attested(standing, device).filter(|_| attested == tier) {
        let seq = standing.books().fact(&fact).map_or(0, |(seq, _)| seq);
        return Ok(Decided::Known { fact, seq, hold: None });
    }
    let times = standing.books().device(device).map_or(0, |known| known.attested);
    Ok(record(standing, now, fact_id::attest_tier(device, times), vec![], What::AttestTier { device: *device, tier }))
}

/// The fact that gave a device the tier it has; `None` before the first.
fn last_attested(standing: &Standing, device: &DeviceId) -> Option<FactId> {
    let last = standing.books().device(device)?.attested.checked_sub(1)?;
    Some(fact_id::attest_tier(device, last))
}

struct Wish<'a> {
    job: JobId,
    member: MemberId,
    key: &'a str,
    amount: Option<MilliMana>,
    expires: UnixMs,
}

fn hold(standing: &Standing, now: UnixMs, wish: &Wish<'_>) -> Result<Decided, Refusal> {
    check_key(wish.key)?;
    let Wish { job, member, .. } = *wish;
    let id = fact_id::hold(&member, wish.key);
    match standing.books().fact(&id) {
        Some((seq, Some(held))) if held == job => {
            return Ok(Decided::Known { fact: id, seq, hold: standing.books().hold(&job).cloned().map(Box::new) });
        }
        Some((_, held)) => {
            let other = held.map_or_else(|| "something else".to_owned(), |held| held.short());
            let detail = format!("the key was used for {other}, not for {}", job.short());
            return Err(Refusal::new(RefusalKind::KeyConflict, Code::Conflict, detail));
        }
        None => {}
    }
    if standing.books().hold(&job).is_some() {
        let detail = format!("{} has a hold under another key", job.short());
        return Err(Refusal::new(RefusalKind::KeyConflict, Code::Conflict, detail));
    }
    known_member(standing, &member)?;
    barred::check_member(standing, &member)?;
    let most = standing.books().policy.open_holds_max;
    if most > 0 && standing.books().open_holds_of(&member) >= most {
        let detail = format!(
            "{member} has {most} holds open, which is the most that the policy allows (open_holds_max); try again when a job has ended"
        );
        return Err(Refusal::new(RefusalKind::TooManyHolds, Code::TooManyWaiting, detail));
    }
    if wish.expires <= now {
        return Err(Refusal::new(RefusalKind::HoldExpired, Code::NotAdmitted, format!("the hold for {} would have expired", job.short())));
    }
    if wish.expires > hold_expires(now.saturating_add(SKEW_MS), MAX_EXECUTION_WAIT_MS_MAX, TIMEOUT_MS_MAX) {
        let detail = format!("the hold for {} would outlive the longest job", job.short());
        return Err(Refusal::new(RefusalKind::BadAmount, Code::BadValue, detail));
    }
    let available = available(standing, &member);
    let amount = wish.amount.unwrap_or(COST_DEFAULT.min(available));
    let too_little = |detail: String| Err(Refusal::new(RefusalKind::InsufficientMana, Code::TooLittleMana, detail));
    if wish.amount.is_none() && available == MilliMana::ZERO {
        return too_little("0 mana available".to_owned());
    }
    if amount == MilliMana::ZERO {
        return Err(Refusal::new(RefusalKind::BadAmount, Code::BadAmount, "the amount must be more than zero"));
    }
    if amount > available {
        return too_little(format!("{amount} mana needed, {available} available"));
    }
    let (most, held) = (standing.books().policy.held_max_mmana, standing.books().balance_of(&Account::Held(member)));
    if most > MilliMana::ZERO && held.saturating_add(amount.get()) > most.get() {
        let detail = format!(
            "{amount} mana more would be held, with {} already, and the policy allows {most} (held_max_mmana); try again when a job has ended",
            MilliMana::new(held).unwrap_or(MilliMana::ZERO)
        );
        return Err(Refusal::new(RefusalKind::TooManyHolds, Code::TooManyWaiting, detail));
    }
    let legs = vec![leg(Account::Available(member), Account::Held(member), amount)];
    let what = What::Hold { job, member, key: wish.key.to_owned(), amount_mmana: amount, expires: wish.expires };
    Ok(record(standing, now, id, legs, what))
}

fn void(standing: &Standing, now: UnixMs, job: &JobId, reason: VoidReason, ended: &[Ended]) -> Result<Decided, Refusal> {
    match standing.closing(job)? {
        settle::Closing::Open(hold) => {
            let ended = settle::bad_ends(standing, ended)?;
            Ok(Decided::Record(vec![void_fact(standing, now, hold, reason, ended)]))
        }
        settle::Closing::Voided { fact, seq, hold, .. } => Ok(Decided::Known { fact, seq, hold: Some(Box::new(hold.clone())) }),
        settle::Closing::Settled { .. } => {
            Err(Refusal::new(RefusalKind::AlreadySettled, Code::Refused, format!("{} is settled", job.short())))
        }
    }
}

fn void_fact(standing: &Standing, now: UnixMs, hold: &HoldView, reason: VoidReason, ended: Vec<Ended>) -> Fact {
    let legs = vec![leg(Account::Held(hold.member), Account::Available(hold.member), hold.amount_mmana)];
    fact(standing, now, fact_id::close(&hold.job), legs, vec![], What::Void { job: hold.job, member: hold.member, reason, ended })
}

/// For an open hold the fact is the hold itself, for a closed one what closed it.
fn look(standing: &Standing, job: &JobId) -> Result<Decided, Refusal> {
    Ok(match standing.closing(job)? {
        settle::Closing::Open(hold) => {
            let fact = standing.hold_fact(job).unwrap_or(fact_id::close(job));
            let seq = standing.books().fact(&fact).map_or(0, |(seq, _)| seq);
            Decided::Known { fact, seq, hold: Some(Box::new(hold.clone())) }
        }
        settle::Closing::Voided { fact, seq, hold, .. } | settle::Closing::Settled { fact, seq, hold, .. } => {
            Decided::Known { fact, seq, hold: Some(Box::new(hold.clone())) }
        }
    })
}

fn available(standing: &Standing, member: &MemberId) -> MilliMana {
    MilliMana::new(standing.books().balance_of(&Account::Available(*member))).unwrap_or(MilliMana::ZERO)
}

fn known_member(standing: &Standing, member: &MemberId) -> Result<(), Refusal> {
    let unknown = || Refusal::new(RefusalKind::UnknownMember, Code::NotFound, format!("{member} has no account"));
    standing.books().member(member).map(|_| ()).ok_or_else(unknown)
}

/// What the same key did before, if anything: the same again is known, another thing is a conflict.
fn repeat(standing: &Standing, id: FactId, what: &What, legs: &[Leg]) -> Result<Option<Decided>, Refusal> {
    let Some((seq, _)) = standing.books().fact(&id) else { return Ok(None) };
    if standing.body_of(&id).is_some_and(|earlier| earlier != standing::body_id(what, legs)) {
        let detail = format!("the key was used for another {}", what.kind());
        return Err(Refusal::new(RefusalKind::KeyConflict, Code::Conflict, detail));
    }
    Ok(Some(Decided::Known { fact: id, seq, hold: None }))
}

fn check_amount(amount: MilliMana) -> Result<(), Refusal> {
    if amount > MilliMana::ZERO {
        return Ok(());
    }
    Err(Refusal::new(RefusalKind::BadAmount, Code::BadAmount, "the amount must be more than zero"))
}

fn check_reason(reason: &str) -> Result<(), Refusal> {
    check_text("reason", reason)
}
fn check_note(note: &str) -> Result<(), Refusal> {
    check_text("note", note)
}
/// `name` is what whoever gave it calls it.
fn check_text(name: &str, text: &str) -> Result<(), Refusal> {
    if text.chars().count() <= REASON_CHARS_MAX {
        return Ok(());
    }
    Err(Refusal::new(RefusalKind::BadAmount, Code::BadValue, format!("the {name} has more than {REASON_CHARS_MAX} characters")))
}

fn check_key(key: &str) -> Result<(), Refusal> {
    let bad = |problem: Problem| Refusal::new(RefusalKind::NotAllowed, problem.code, format!("the key must have {}", problem.detail));
    bus_schemas::job::check_key(key).map_err(bad)
}
