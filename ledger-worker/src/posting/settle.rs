//! Settlement: what one receipt is worth, in integers, rounded down; the remainder stays with the payer.
//!
//! ```text
//! billable = max(1, min(claimed, hub_elapsed, timeout))         milliseconds
//! gross    = min(billable * rate[tier], price, hold)            milli-mana
//! fee      = gross * fee_bp / 10_000                            payee: gross - fee; payer: hold - gross back
//! ```
//! The device's own numbers may lower its pay, never raise it.

use bus_schemas::assignment::Assignment;
use bus_schemas::ledger::{Account, HoldView, RefusalKind, VoidReason, What, fact_id};
use bus_schemas::limits::{SKEW_MS, tier_rate};
use bus_schemas::receipt::{Outcome, Receipt};
use bus_schemas::replay::Device;
use bus_schemas::{AttemptId, Code, FactId, JobId, MilliMana, ReceiptId, UnixMs, Verified};

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
pub struct Claim {
    pub job: JobId,
    pub attempt: AttemptId,
    pub receipt: ReceiptId,
    pub receipt_at: UnixMs,
    pub started_at: Option<UnixMs>,
}

fn bad(detail: String) -> Refusal {
    Refusal::new(RefusalKind::BadEvidence, Code::Refused, detail)
}

/// Turns an open hold into pay, where the evidence bears it.
pub fn settle(standing: &Standing, parts: &Parts, now: UnixMs, claim: &Claim, evidence: &Evidence) -> Result<Decided, Refusal> {
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
    let device = paid_device(standing, assignment, receipt)?;
    let pay = pay(standing, now, claim, hold, assignment, receipt, device);
    let earned_to =
        if standing.books().policy.vesting_ms == 0 { Account::Available(device.member) } else { Account::Vesting(device.member) };
    let held = Account::Held(hold.member);
    let legs = [leg(held, earned_to, pay.paid), leg(held, Account::Commons, pay.fee), leg(held, Account::Available(hold.member), pay.back)];
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
    };
    let legs = legs.into_iter().filter(|leg| leg.amount_mmana > MilliMana::ZERO).collect();
    let cites = vec![assignment.cid(), receipt.cid()];
    Ok(Decided::Record(Box::new(fact(standing, now, fact_id::close(&claim.job), legs, cites, what))))
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
    claim: &Claim,
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
fn paid_device<'a>(standing: &'a Standing, assignment: &Assignment, receipt: &Verified<Receipt>) -> Result<&'a Device, Refusal> {
    let id = assignment.device;
    let unknown = || Refusal::new(RefusalKind::UnknownDevice, Code::NoSuchDevice, format!("{id} is bound to no member"));
    let device = standing.books().device(&id).ok_or_else(unknown)?;
    if device.did != receipt.by() {
        return Err(bad(format!("the receipt is signed by {}, {id} has the key {}", receipt.by(), device.did)));
    }
    if device.revoked {
        return Err(Refusal::new(RefusalKind::NotAllowed, Code::Forbidden, format!("{id} is revoked")));
    }
    match &receipt.outcome {
        Outcome::Completed(_) | Outcome::Cancelled => Ok(device),
        Outcome::Failed(failure) => Err(bad(format!("the attempt failed ({}); a failure earns nothing", failure.class.name()))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pay {
    billed_ms: u64,
    paid: MilliMana,
    fee: MilliMana,
    back: MilliMana,
}

fn pay(
    standing: &Standing,
    now: UnixMs,
    claim: &Claim,
    hold: &HoldView,
    assignment: &Assignment,
    receipt: &Receipt,
    device: &Device,
) -> Pay {
    let elapsed = hub_elapsed(now, claim.receipt_at, claim.started_at, assignment.assigned_at);
    let billed_ms = receipt.claimed_ms.min(elapsed).min(assignment.timeout_ms).max(1);
    let rate = tier_rate(device.tier.min(assignment.tier));
    let gross = MilliMana::for_time(billed_ms, rate).min(assignment.price_mmana).min(hold.amount_mmana);
    // At most the whole: a fee above 10,000 basis points would be a faulty policy, and must not make the books impossible.
    let fee_bp = i128::from(standing.books().policy.fee_bp.min(10_000));
    let fee = i64::try_from(i128::from(gross.get()) * fee_bp / 10_000).ok().and_then(MilliMana::new).unwrap_or(MilliMana::ZERO);
    let minus = |a: MilliMana, b: MilliMana| a.checked_sub(b).unwrap_or(MilliMana::ZERO);
    Pay { billed_ms, paid: minus(gross, fee), fee, back: minus(hold.amount_mmana, gross) }
}

/// What the hub measured. Waiting in a queue is not paid, so it counts from `started` where there is one; a receipt before
/// that, or from the future, is absurd and pays the least.
fn hub_elapsed(now: UnixMs, receipt_at: UnixMs, started_at: Option<UnixMs>, assigned_at: UnixMs) -> u64 {
    let from = started_at.map_or(assigned_at, |started| started.max(assigned_at));
    if receipt_at > now.saturating_add(SKEW_MS) { 1 } else { receipt_at.saturating_sub(from).max(1) }
}
