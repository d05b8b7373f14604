//! What a job's attempts come to: shown by a device, ended without a result, or paid; and what is handed on of a job that is given back.
//! No I/O, and the time comes in: the shells carry it out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_schemas::assignment::{Assignment, HeldState};
use bus_schemas::history::{AttemptEnded, Back, CompletedEnd, Ended, EndedAttempt, HistoryEvent, HistoryRecord};
use bus_schemas::job::JobState;
use bus_schemas::ledger::Op;
use bus_schemas::receipt::{Failure, FailureClass, Outcome, Receipt};
use bus_schemas::{AttemptId, Code, DeviceId, NetworkId, Problem, Proof, ReceiptId, UnixMs};
use serde_bytes::ByteBuf;

use crate::job::{Attempt, Evidence, Job, Left};
use crate::next_step::{Retry, after_failure, avoided};
use crate::wait::no_decision;

/// An attempt that has ended without a result, and what follows.
#[derive(Debug)]
pub struct EndedNow {
    pub attempt: AttemptId,
    pub number: u32,
    pub device: DeviceId,
    /// Hub time.
    pub assigned_at: UnixMs,
    pub next: Retry,
    /// For HISTORY.
    pub record: HistoryRecord,
}

/// The end of a job that a receipt pays for.
#[derive(Debug)]
pub struct SettledBy {
    pub op: Op,
    pub end: Ended,
    /// The signed assignment of the paid attempt.
    pub assignment: Evidence,
    /// The current attempt, where an earlier one is paid: it works for nothing.
    pub other: Option<(DeviceId, AttemptId)>,
}

/// When an attempt was made, and begun where that is known; hub time.
struct When {
    assigned_at: UnixMs,
    started_at: Option<UnixMs>,
}

/// How a job ends that was cancelled while it ran.
pub fn stopped() -> Problem {
    Problem::new(Code::JobCancelled, "it was stopped while it ran; the time used is paid")
}

impl Job {
    /// What whoever takes this job next should know of it.
    pub fn back(&self, net: NetworkId, at: UnixMs) -> Back {
        Back {
            net,
            job: self.admitted.job,
            at,
            ended: self.ended.clone(),
            waited: self.waited,
            last_attempt: self.last_number,
            delivered: self.lease.delivered,
            // A past that was not looked up is not vouched for: the device that may have it is still to be found.
            on: self.current().map(|attempt| attempt.device),
            attempt: self.current,
            kept: self.kept,
        }
    }

    /// The same of a job that goes on: of what its holder does next it says nothing, so it is no word that nobody has it.
    pub fn back_on_the_way(&self, net: NetworkId, at: UnixMs) -> Back {
        Back { delivered: 0, ..self.back(net, at) }
    }

    /// The record of BACK as it counts for this delivery: where its holder gave the job back itself and got it again, it stands for what
    /// happened since.
    pub fn vouched_back(&self, stored: Option<&Back>, net: NetworkId, at: UnixMs) -> Option<Back> {
        if !self.lease.vouched {
            return stored.cloned();
        }
        let back = stored.cloned().unwrap_or_else(|| self.back(net, at));
        Some(Back { delivered: self.lease.delivered.saturating_sub(1), ..back })
    }

    /// A device shows an assignment of this job that it holds: it is watched like one that was sent from here.
    pub fn show(&mut self, id: AttemptId, assignment: &Assignment, proof: Proof, state: HeldState, now: Instant, silence: Duration) {
        if self.attempt(&id).is_none() {
            let evidence = Evidence { proof: Arc::new(proof), batch: None };
            let attempt = Attempt::new(id, assignment, evidence, now, now + silence);
            self.attempts.push(Attempt { accepted: Some(now), ..attempt });
            self.last_number = self.last_number.max(assignment.attempt);
        }
        self.left = None;
        if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id)
            && state != HeldState::Waiting
            && attempt.started.is_none()
        {
            // When it really began is not known here, and what it began with must not lower its pay.
            attempt.started = Some((attempt.assigned_at, now));
        }
    }

    /// The current attempt ended without a result: it is counted, and its device left out. It stays the current one until it is taken off
    /// its device.
    pub fn end_current(&mut self, failure: Failure, net: NetworkId, at: UnixMs, actor: impl Into<String>) -> Option<EndedNow> {
        let Attempt { id, number, device, assigned_at, started, cancel_sent, .. } = *self.current()?;
        // What had begun when it was told to stop is paid, and does not end like this.
        let let_go = cancel_sent.is_some() && failure.class == FailureClass::DeviceDeclined;
        let ended = EndedAttempt { attempt: id, number, device, failure, let_go };
        let when = When { assigned_at, started_at: started.map(|(at, _)| at).filter(|at| *at > assigned_at) };
        Some(self.end_attempt(ended, when, net, at, actor))
    }

    /// What the last holder left on a device is not there any more: it ended while nobody watched, and is counted like any other.
    pub fn end_left(&mut self, message: &str, net: NetworkId, at: UnixMs, actor: impl Into<String>) -> Option<EndedNow> {
        let Left { attempt, number, device, at: assigned_at } = self.left.take()?;
        // Counted, but the record that says so was written before the one that does not.
        if self.ended.iter().any(|ended| ended.attempt == attempt) {
            return None;
        }
        let failure = Failure { class: FailureClass::DeviceDisconnect, message: message.to_owned(), retryable: true };
        let ended = EndedAttempt { attempt, number, device, failure, let_go: false };
        Some(self.end_attempt(ended, When { assigned_at, started_at: None }, net, at, actor))
    }

    fn end_attempt(&mut self, ended: EndedAttempt, when: When, net: NetworkId, at: UnixMs, actor: impl Into<String>) -> EndedNow {
        let When { assigned_at, started_at } = when;
        let EndedAttempt { attempt, number, device, failure, .. } = ended.clone();
        // It may have been counted before by a holder that could not tell its device: then that one says so again.
        if self.ended.iter().all(|known| known.attempt != attempt) {
            self.ended.push(ended);
        }
        self.avoid = avoided(&self.needs, &self.ended);
        let next = after_failure(&self.ended, at.saturating_sub(assigned_at));
        if matches!(next, Retry::After { .. }) {
            self.note(JobState::Submitted, at, format!("{}: {}", failure.class.name(), failure.message), actor);
        }
        let decision = self.decision.take().unwrap_or_else(|| no_decision(at));
        let ended = AttemptEnded { attempt, number, device, assigned_at, started_at, failure, kept: self.kept, decision };
        let record = self.record(net, at, HistoryEvent::AttemptEnded(Box::new(ended)));
        EndedNow { attempt, number, device, assigned_at, next, record }
    }

    /// A receipt of one of its attempts pays for it: completed, or stopped with the time used. `None`: it is of no attempt that is known.
    pub fn settled_by(
        &mut self,
        receipt: &Receipt,
        id: ReceiptId,
        proof: &Proof,
        result: Option<Vec<u8>>,
        at: UnixMs,
    ) -> Option<SettledBy> {
        let attempt = self.attempt(&receipt.attempt).cloned()?;
        let other = self.current().filter(|current| current.id != attempt.id).map(|current| (current.device, current.id));
        let actor = receipt.device.to_string();
        let (state, problem) = match &receipt.outcome {
            Outcome::Completed(_) => {
                self.note(JobState::Completed, at, "receipt", actor);
                (JobState::Completed, None)
            }
            Outcome::Cancelled | Outcome::Failed(_) => {
                self.note(JobState::Cancelled, at, "stopped on request", actor);
                (JobState::Cancelled, Some(stopped()))
            }
        };
        // Both are paid by this receipt, and whoever pays may see it.
        let done = CompletedEnd {
            attempt: attempt.id,
            receipt: id,
            receipt_seq: 0,
            receipt_proof: proof.clone(),
            assignment_proof: Some((*attempt.evidence.proof).clone()),
            result: result.map(ByteBuf::from),
        };
        let op = Op::Settle {
            job: receipt.job,
            attempt: attempt.id,
            receipt: id,
            receipt_at: 0,
            receipt_seq: 0,
            started_at: attempt.started.map(|(at, _)| at),
            ended: self.ended_badly(),
        };
        let end = Ended {
            state,
            attempts: self.last_number,
            device: Some(receipt.device),
            problem,
            paid_mmana: None,
            done: Some(done),
            decision: self.decision.take(),
        };
        Some(SettledBy { op, end, assignment: attempt.evidence, other })
    }
}
