//! What is left to do once a device or the books have spoken about one job. Touches nothing.

use bus_schemas::ledger::{HoldState, LedgerOutcome, Op, RefusalKind};
use bus_schemas::receipt::{Failure, FailureClass, Outcome, Receipt, ResultRef};
use bus_schemas::{AttemptId, Code, MilliMana, Problem, ReceiptId};

/// What a valid receipt of one of the job's attempts means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// There is a result: told, then paid.
    Completed(ResultRef),
    /// Stopped on the member's word; the time used is paid.
    Stopped,
    /// The attempt is not paid.
    Failed(Failure),
}

/// Reads a receipt; `cancelled`: the member asked for the job's end.
pub fn meaning(receipt: &Receipt, cancelled: bool) -> Meaning {
    match &receipt.outcome {
        Outcome::Completed(result) => Meaning::Completed(result.clone()),
        Outcome::Failed(failure) => Meaning::Failed(failure.clone()),
        // The member asked for it, and what was used until then is paid.
        Outcome::Cancelled if receipt.claimed_ms > 0 && cancelled => Meaning::Stopped,
        Outcome::Cancelled => {
            let why = if receipt.claimed_ms > 0 { "stopped on the device" } else { "taken from the device's queue" };
            Meaning::Failed(Failure { class: FailureClass::DeviceDeclined, message: why.into(), retryable: true })
        }
    }
}

/// What is left to do after the books have spoken about the end of one job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What the device of the paid attempt is told: the pay, or why there is none.
    pub closed: Option<(Option<MilliMana>, Option<String>)>,
    /// What was paid for it by this receipt.
    pub paid: Option<MilliMana>,
    /// The books refused to settle.
    pub problem: Option<Problem>,
    /// HISTORY gets the record; otherwise whoever closed the hold has written it.
    pub write: bool,
    /// The hold is still open and nobody will close it.
    pub void: bool,
}

/// Reads the books' answer to a settlement, to a void, or (`None`) to nothing at all. Where it is not what was asked for, the end is not
/// written: the message comes again, and the job ends as the books say.
pub fn judge(op: Option<&Op>, outcome: Option<LedgerOutcome>) -> Verdict {
    let (receipt, reason) = match op {
        Some(Op::Settle { receipt, .. }) => (Some(*receipt), None),
        Some(Op::Void { reason, .. }) => (None, Some(*reason)),
        Some(_) | None => (None, None),
    };
    let closed = |paid, not_paid: Option<String>| receipt.map(|_| (paid, not_paid));
    let done = Verdict { write: true, ..Verdict::default() };
    match outcome {
        None => done,
        Some(LedgerOutcome::Done(answer)) => match answer.hold.map(|hold| hold.state) {
            Some(HoldState::Settled { receipt: by, paid_mmana, .. }) if receipt == Some(by) => {
                Verdict { closed: closed(Some(paid_mmana), None), paid: Some(paid_mmana), ..done }
            }
            Some(HoldState::Settled { .. }) => {
                Verdict { closed: closed(None, Some("another receipt settled the job".into())), ..Verdict::default() }
            }
            // It had ended in another way before.
            Some(HoldState::Voided { reason: before }) if reason.is_some_and(|reason| reason != before) => Verdict::default(),
            Some(HoldState::Voided { .. } | HoldState::Open) | None => Verdict { closed: closed(None, None), ..done },
        },
        // A job is in hand because its hold was granted: whoever says that there is none has old books.
        Some(LedgerOutcome::Refused { why: RefusalKind::UnknownJob, .. }) => Verdict::default(),
        // It had ended before, and may have been told to have; its device learns that there is no pay.
        Some(LedgerOutcome::Refused { why: RefusalKind::AlreadyVoided, detail, .. }) => {
            Verdict { closed: closed(None, Some(detail)), ..Verdict::default() }
        }
        Some(LedgerOutcome::Refused { why, detail, .. }) => {
            let settled_otherwise = why == RefusalKind::AlreadySettled;
            let still_open = receipt.is_some() && !settled_otherwise;
            let problem = (receipt.is_some() && !settled_otherwise).then(|| Problem::new(Code::Refused, detail.clone()));
            Verdict { closed: closed(None, Some(detail)), paid: None, problem, write: !settled_otherwise, void: still_open }
        }
    }
}

/// What a device is told of an attempt that nobody waited for (no `receipt`: it runs there still): the pay, or why there is none. `None`:
/// nothing yet, since the hold is open: the job is in another scheduler's hand, or will be.
pub fn of_stray(stray: AttemptId, receipt: Option<ReceiptId>, hold: Option<HoldState>) -> Option<Result<MilliMana, &'static str>> {
    Some(match hold {
        Some(HoldState::Open) => return None,
        // Its receipt is known: only the device does not know it any more.
        Some(HoldState::Settled { attempt, paid_mmana, .. }) if attempt == stray && receipt.is_none() => Ok(paid_mmana),
        Some(HoldState::Settled { receipt: by, paid_mmana, .. }) if Some(by) == receipt => Ok(paid_mmana),
        Some(HoldState::Settled { .. }) => Err("another receipt settled the job"),
        Some(HoldState::Voided { .. }) => Err("the job had ended"),
        None => Err("the books do not know the job"),
    })
}
