//! Settlement: what one receipt is worth, in integers, rounded down; the remainder stays with the payer.
//!
//! ```text
//! billable = max(1, min(claimed, hub_elapsed, timeout))         milliseconds
//! gross    = min(billable * rate[tier], price, hold)            milli-mana
//! fee      = gross * fee_bp / 10_000                            payee: gross - fee; payer: hold - gross back
//! discount = gross * discount_bp * points / (10_000 * 50)       commons to payer; points: reputation above 50
//! ```
//! Where the policy limits what may be earned in a day, `gross` is at most what is left of it.
//! The device's own numbers may lower its pay, never raise it.

use bus_schemas::assignment::Assignment;
use bus_schemas::ledger::{Account, Ended, FlagWhy, HoldView, RefusalKind, SettleOutcome, VoidReason, What, fact_id};
use bus_schemas::limits::{SKEW_MS, STEP_MAX, tier_rate};
use bus_schemas::mana::MAX_MMANA;
use bus_schemas::receipt::{Outcome, Receipt};
use bus_schemas::replay::{Device, Earner, reputation};
use bus_schemas::{AttemptId, Code, DeviceId, FactId, JobId, MilliMana, ReceiptId, UnixMs, Verified};

use super::{Decided, Evidence, Parts, Refusal, Standing, fact, leg};

/// How a job's hold stands, with the fact that closed it and its sequence.
#[derive(Debug, Clone, Copy)]
pub enum Closing<'a> {
    Open(&'a HoldView),
    Settled { fact: FactId, seq: u64, hold: &'a HoldView, attempt: AttemptId, receipt: ReceiptId },
    Voided { fact: FactId, seq: u64, hold: &'a HoldView, reason: VoidReason },
}

/// What a scheduler asks to be paid. Times are stream times.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    pub job: JobId,
    pub attempt: AttemptId,
    pub receipt: ReceiptId,
    pub receipt_at: UnixMs,
    pub receipt_seq: u64,
    pub started_at: Option<UnixMs>,
    pub ended: &'a [Ended],
}

fn bad(detail: String) -> Refusal {
    Refusal::new(RefusalKind::BadEvidence, Code::Refused, detail)
}

/// Turns an open hold into pay, where the evidence bears it.
pub fn settle(standing: &Standing, parts: &Parts, now: UnixMs, claim: &Claim<'_>, evidence: &Evidence) -> Result<Decided, Refusal> {
    let hold = match standing.closing(&claim.job)? {
        Closing::Open(hold) => hold,
        Closing::Settled { fact, seq, hold, attempt, receipt } if attempt == claim.attempt && receipt == claim.receipt => {
            return Ok(Decided::Known { fact, seq, hold: Some(Box::new(hold.clone())) });
        }
        Closing::Settled { receipt, .. } => {
            let detail = format!("{} was settled with {}", claim.job.short(), receipt.short());
            return Err(Refusal::new(RefusalKind::AlreadySettled, Code::Refused, detail));
        }
        Closing::Voided { reason, .. } => {
            let detail = format!("the hold of {} was returned: {}", claim.job.short(), reason_text(reason));
            return Err(Refusal::new(RefusalKind::AlreadyVoided, Code::Refused, detail));
        }
    };
    let (assignment, receipt) = cited(standing, parts, claim, hold, evidence)?;
    let (device, outcome) = paid_device(standing, claim, assignment, receipt)?;
    let ended = bad_ends(standing, claim.ended)?;
    let pay = pay(standing, now, claim, hold, assignment, receipt, device);
    let vesting_ms = standing.books().policy.vesting_ms;
    let vests_at = (vesting_ms > 0).then(|| now.saturating_add(vesting_ms));
    let earned_to = if vests_at.is_some() { Account::Vesting(device.member) } else { Account::Available(device.member) };
    let (held, payer) = (Account::Held(hold.member), Account::Available(hold.member));
    let legs = [
        leg(held, earned_to, pay.paid),
        leg(held, Account::Commons, pay.fee),
        leg(held, payer, pay.back),
        leg(Account::Commons, payer, pay.discount),
    ];
    let what = What::Settle {
        job: claim.job,
        payer: hold.member,
        payee: device.member,
        device: assignment.device,
        attempt: claim.attempt,
        receipt: claim.receipt,
        billed_ms: pay.billed_ms,
        paid_mmana: pay.paid,
        fee_mmana: pay.fee,
        discount_mmana: pay.discount,
        vests_at,
        outcome,
        ended,
    };
    let legs = legs.into_iter().filter(|leg| leg.amount_mmana > MilliMana::ZERO).collect();
    let cites = vec![assignment.cid(), receipt.cid()];
    let mut facts = vec![fact(standing, now, fact_id::close(&claim.job), legs, cites, what)];
    if pay.absurd {
        let (job, why) = (claim.job, FlagWhy::AbsurdTime);
        let what = What::Flag { job, device: assignment.device, why, note: "the least was paid".to_owned() };
        facts.push(fact(standing, now, fact_id::flag(&job, why.name()), vec![], vec![], what));
    }
    Ok(Decided::Record(facts))
}

/// The attempts that ended badly, as the asker's signature says, as far as they can be.
///
/// # Errors
/// [`RefusalKind::BadEvidence`] for more than there can be, or one attempt twice.
pub fn bad_ends(standing: &Standing, ended: &[Ended]) -> Result<Vec<Ended>, Refusal> {
    let mut seen = std::collections::BTreeSet::new();
    if ended.len() > STEP_MAX || !ended.iter().all(|end| seen.insert(end.attempt)) {
        return Err(bad(format!("at most {STEP_MAX} attempts, each once, can have ended before")));
    }
    Ok(ended.iter().filter(|end| standing.books().device(&end.device).is_some()).copied().collect())
}

fn reason_text(reason: VoidReason) -> &'static str {
    match reason {
        VoidReason::Cancelled => "it was cancelled",
        VoidReason::Failed => "every attempt failed",
        VoidReason::NotPlaced => "no device could take it in time",
        VoidReason::Expired => "the hold expired",
        VoidReason::NotAdmitted => "it was not admitted",
    }
}

/// The assignment and the receipt that a claim cites, once they say the same thing.
fn cited<'a>(
    standing: &Standing,
    parts: &Parts,
    claim: &Claim<'_>,
    hold: &HoldView,
    evidence: &'a Evidence,
) -> Result<(&'a Verified<Assignment>, &'a Verified<Receipt>), Refusal> {
    let (attempt, receipt_id) = (claim.attempt, claim.receipt);
    let missing = |what: &str, id: String| bad(format!("no validly signed {what} {id} came with the claim"));
    let assignment = evidence.assignments.get(&attempt.0).ok_or_else(|| missing("assignment", attempt.short()))?;
    let receipt = evidence.receipts.get(&receipt_id.0).ok_or_else(|| missing("receipt", receipt_id.short()))?;
    if !parts.scheduler.contains(&assignment.by()) {
        return Err(bad(format!("{} is not signed by a scheduler of this network", attempt.short())));
    }
    let checks = [
        (assignment.net == standing.books().net, "the assignment is of another network"),
        (receipt.net == standing.books().net, "the receipt is of another network"),
        (assignment.job == claim.job, "the assignment is of another job"),
        (receipt.job == claim.job, "the receipt is of another job"),
        (receipt.attempt == attempt, "the receipt is of another attempt"),
        (receipt.device == assignment.device, "the receipt is of another device than the assignment"),
        (assignment.member == hold.member, "the assignment names another payer than the hold"),
    ];
    match checks.iter().find(|(holds, _)| !holds) {
        Some((_, why)) => Err(bad(format!("{} cannot be settled: {why}", claim.job.short()))),
        None => Ok((assignment, receipt)),
    }
}

/// The device that is paid, as the books know it: bound, not revoked, and the signer of the receipt.
fn paid_device<'a>(
    standing: &'a Standing,
    claim: &Claim<'_>,
    assignment: &Assignment,
    receipt: &Verified<Receipt>,
) -> Result<(&'a Device, SettleOutcome), Refusal> {
    let id = assignment.device;
    let unknown = || Refusal::new(RefusalKind::UnknownDevice, Code::NoSuchDevice, format!("{id} is bound to no member"));
    let device = standing.books().device(&id).ok_or_else(unknown)?;
    if device.did != receipt.by() {
        return Err(bad(format!("the receipt is signed by {}, {id} has the key {}", receipt.by(), device.did)));
    }
    // What was stored before the revocation stays payable.
    if device.revoked.is_some_and(|last| claim.receipt_seq > last) {
        return Err(Refusal::new(RefusalKind::DeviceRevoked, Code::Forbidden, format!("{id} was revoked before it sent the receipt")));
    }
    let suspended = standing.books().suspension(&device.member).and_then(|found| found.receipts_seq);
    if suspended.is_some_and(|last| claim.receipt_seq > last) {
        let detail = format!("{} was suspended before {id} sent the receipt", device.member);
        return Err(Refusal::new(RefusalKind::MemberSuspended, Code::Suspended, detail));
    }
    match &receipt.outcome {
        Outcome::Completed(_) => Ok((device, SettleOutcome::Completed)),
        Outcome::Cancelled => Ok((device, SettleOutcome::Cancelled)),
        Outcome::Failed(failure) => Err(bad(format!("the attempt failed ({}); a failure earns nothing", failure.class.name()))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pay {
    billed_ms: u64,
    paid: MilliMana,
    fee: MilliMana,
    back: MilliMana,
    discount: MilliMana,
    absurd: bool,
}

fn pay(
    standing: &Standing,
    now: UnixMs,
    claim: &Claim<'_>,
    hold: &HoldView,
    assignment: &Assignment,
    receipt: &Receipt,
    device: &Device,
) -> Pay {
    let elapsed = hub_elapsed(now, claim.receipt_at, claim.started_at, assignment.assigned_at);
    let billed_ms = receipt.claimed_ms.min(elapsed.unwrap_or(1)).min(assignment.timeout_ms).max(1);
    let rate = tier_rate(device.tier.min(assignment.tier));
    let gross = MilliMana::for_time(billed_ms, rate).min(assignment.price_mmana).min(hold.amount_mmana);
    let gross = gross.min(earnings_left(standing, now, assignment.device, device));
    // At most the whole: a fee above 10,000 basis points would be a faulty policy, and must not make the books impossible.
    let fee = share(gross, standing.books().policy.fee_bp.min(10_000), 10_000);
    let minus = |a: MilliMana, b: MilliMana| a.checked_sub(b).unwrap_or(MilliMana::ZERO);
    let discount = if device.member == hold.member { MilliMana::ZERO } else { discount(standing, hold, gross) };
    Pay { billed_ms, paid: minus(gross, fee), fee, back: minus(hold.amount_mmana, gross), discount, absurd: elapsed.is_none() }
}

/// `amount * part / whole`, rounded down.
fn share(amount: MilliMana, part: u32, whole: u32) -> MilliMana {
    let product = i128::from(amount.get()) * i128::from(part) / i128::from(whole.max(1));
    i64::try_from(product).ok().and_then(MilliMana::new).unwrap_or(MilliMana::ZERO)
}

/// What a payer of good reputation saves: the commons pay it while they can, and the price stays at least 1.
fn discount(standing: &Standing, hold: &HoldView, gross: MilliMana) -> MilliMana {
    let books = standing.books();
    if books.policy.discount_bp == 0 {
        return MilliMana::ZERO;
    }
    let points = books.member_reputation(&hold.member).saturating_sub(reputation::START);
    let most = share(gross, books.policy.discount_bp.min(5_000) * points, 10_000 * (reputation::MAX - reputation::START));
    let commons = MilliMana::new(books.balance_of(&Account::Commons)).unwrap_or(MilliMana::ZERO);
    let but_one = MilliMana::new(gross.get() - 1).unwrap_or(MilliMana::ZERO);
    most.min(commons).min(but_one)
}

/// What the device and its member may still earn today.
fn earnings_left(standing: &Standing, now: UnixMs, id: DeviceId, device: &Device) -> MilliMana {
    let books = standing.books();
    let left = |limit: MilliMana, earner: Earner| {
        let most = MilliMana::new(MAX_MMANA).unwrap_or(MilliMana::ZERO);
        if limit == MilliMana::ZERO { most } else { limit.checked_sub(books.earned_on(&earner, now)).unwrap_or(MilliMana::ZERO) }
    };
    let member = left(books.policy.earn_day_member_mmana, Earner::Member(device.member));
    member.min(left(books.policy.earn_day_device_mmana, Earner::Device(id)))
}

/// What the hub measured. Waiting in a queue is not paid, so it counts from `started` where there is one; a receipt before
/// that, or from the future, is absurd: `None`.
fn hub_elapsed(now: UnixMs, receipt_at: UnixMs, started_at: Option<UnixMs>, assigned_at: UnixMs) -> Option<u64> {
    let from = started_at.map_or(assigned_at, |started| started.max(assigned_at));
    if receipt_at > now.saturating_add(SKEW_MS) { None } else { receipt_at.checked_sub(from) }
}
