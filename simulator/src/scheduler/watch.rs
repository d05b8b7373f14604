//! What devices say about the jobs that they have: receipts, events, heartbeats; deadlines; and cancels.

use std::time::{Duration, Instant};

use bus_schemas::assignment::{Closed, Verb};
use bus_schemas::event::{Checkpoint, Event, EventKind};
use bus_schemas::job::JobState;
use bus_schemas::ledger::{LedgerOutcome, Op, VoidReason};
use bus_schemas::limits::{ATTEMPTS_MAX, CROSSING_BYTES_MAX, STARTED_AFTER_MS};
use bus_schemas::receipt::{Failure, FailureClass, Outcome, Receipt, ReceiptMessage, ResultRef};
use bus_schemas::{AttemptId, Code, DeviceId, Form, JobId, MemberId, Problem, Proof, ReceiptId, Verified, strict};
use bytes::Bytes;
use scheduler_worker::attempts::EndedNow;
use scheduler_worker::checkpoint;
use scheduler_worker::fleet::Device;
use scheduler_worker::job::{Evidence, Phase, Stop};
use scheduler_worker::next_step::{Retry, after_failure, counts};
use scheduler_worker::parts::part;
use scheduler_worker::sweep::Due;
use scheduler_worker::verdict::{Meaning, meaning, of_stray};
use scheduler_worker::watch::{Word, word_of};

use super::{Asked, BACK_WITHIN, Request, Scheduler, Stored};
use crate::cx::Cx;
use crate::message::{Ms, Msg, Store};
use crate::mutation::Mutation;

impl Scheduler {
    pub(super) fn hear_receipts(&mut self, cx: &mut Cx<'_>, device: DeviceId, bytes: &Bytes) {
        let Ok(message) = strict::decode::<ReceiptMessage>(Form::Msgpack, bytes, CROSSING_BYTES_MAX) else {
            return cx.wrong("receipts that cannot be read");
        };
        let Ok(receipts) = message.receipts.verify::<Receipt>(cx.verifier) else { return cx.wrong("receipts that were forged") };
        for (receipt, proof) in receipts.into_iter().zip(message.receipts.proofs()) {
            self.hear_receipt(cx, device, &receipt, proof, bytes);
        }
    }

    fn hear_receipt(&mut self, cx: &mut Cx<'_>, device: DeviceId, receipt: &Verified<Receipt>, proof: Proof, bytes: &Bytes) {
        let id = ReceiptId(receipt.cid());
        let Some(one) = self.jobs.get_mut(&receipt.job) else {
            match self.closed.get(&receipt.attempt).cloned() {
                Some(closed) => self.tell_closed(cx, device, closed),
                None => {
                    cx.counters.add("receipts of jobs that are not in hand");
                    let bytes = self.question(cx, vec![Op::Look { job: receipt.job }], vec![], vec![]);
                    let stray = Asked::Stray { device, attempt: receipt.attempt, receipt: id };
                    self.asks.ask(cx, bytes, Ms::MAX, stray);
                }
            }
            return;
        };
        let job = &one.job;
        if job.phase == Phase::Closing {
            return;
        }
        let Some(attempt) = job.attempts.iter().find(|attempt| attempt.id == receipt.attempt && attempt.device == receipt.device) else {
            if job.phase != Phase::Looking {
                self.adopt(cx, device, receipt.job, None);
            }
            return;
        };
        let is_current = job.current == Some(attempt.id);
        if !is_current {
            cx.counters.add("receipts of earlier attempts");
        }
        let cancelled = job.stop > Stop::No;
        if is_current && job.phase == Phase::Assigning {
            self.accepted(cx, &receipt.job);
        }
        let evidence = Evidence { proof: std::sync::Arc::new(proof), batch: None };
        match meaning(receipt, cancelled) {
            Meaning::Completed(_) | Meaning::Stopped => self.settle(cx, receipt, id, evidence, bytes),
            Meaning::Failed(_) if cx.is_broken(Mutation::FailureIsResult) => {
                let told = Receipt { outcome: Outcome::Completed(ResultRef { cid: id.0, bytes: 1 }), ..(**receipt).clone() };
                self.settle_as(cx, &told, id, evidence, bytes);
            }
            Meaning::Failed(failure) => {
                let closed = Closed { attempt: receipt.attempt, paid_mmana: None, not_paid: Some(failure.message.clone()) };
                self.closed.insert(closed.attempt, closed.clone());
                if is_current {
                    self.end_current(cx, &receipt.job, failure, Some(closed));
                } else {
                    self.tell_closed(cx, device, closed);
                }
            }
        }
    }

    pub(super) fn tell_closed(&mut self, cx: &mut Cx<'_>, device: DeviceId, closed: Closed) {
        self.told.entry(device).or_default().push(closed);
        self.need_tick(cx);
    }

    pub(super) fn stray_answered(
        &mut self,
        cx: &mut Cx<'_>,
        device: DeviceId,
        attempt: AttemptId,
        receipt: ReceiptId,
        outcome: Option<LedgerOutcome>,
    ) {
        let hold = match outcome {
            Some(LedgerOutcome::Done(done)) => done.hold.map(|hold| hold.state),
            Some(LedgerOutcome::Refused { .. }) | None => None,
        };
        let Some(said) = of_stray(attempt, Some(receipt), hold) else { return };
        let closed = Closed { attempt, paid_mmana: said.ok(), not_paid: said.err().map(str::to_owned) };
        self.closed.insert(attempt, closed.clone());
        self.tell_closed(cx, device, closed);
    }

    pub(super) fn attempt_failed(&mut self, cx: &mut Cx<'_>, id: &JobId, class: FailureClass, why: &str) {
        self.end_current(cx, id, Failure { class, message: why.into(), retryable: true }, None);
    }

    /// The current attempt ended without a result.
    fn end_current(&mut self, cx: &mut Cx<'_>, id: &JobId, failure: Failure, closed: Option<Closed>) {
        self.fenced(cx, id, "the end of an attempt");
        let class = failure.class;
        let Some(one) = self.jobs.get_mut(id) else { return };
        let Some(ended) = one.job.end_current(failure, cx.cast.net, cx.hub_ms(), "scheduler") else { return };
        cx.counters.add(match class {
            FailureClass::DeviceDisconnect => "attempts ended, device gone",
            FailureClass::Timeout => "attempts ended, timeout",
            FailureClass::DeviceDeclined => "attempts ended, device declined",
            FailureClass::ExecutionError => "attempts ended, execution error",
        });
        self.seek_parts(cx, *id, ended.device, ended.attempt);
        self.after_end(cx, id, ended, closed);
    }

    /// An attempt has ended: recorded, counted, and what follows from it.
    fn after_end(&mut self, cx: &mut Cx<'_>, id: &JobId, ended: EndedNow, closed: Option<Closed>) {
        let now = cx.instant();
        self.record(cx, ended.record, None);
        self.off_device(id);
        let next = match ended.next {
            Retry::GiveUp(_) if cx.is_broken(Mutation::NoEndOfAttempts) => Retry::After { ms: 250 },
            other => other,
        };
        let Some(one) = self.jobs.get_mut(id) else { return };
        let job = &mut one.job;
        let counted = job.ended.iter().filter(|end| counts(end.failure.class)).count();
        if matches!(next, Retry::After { .. }) && counted >= ATTEMPTS_MAX as usize {
            cx.wrong(format!("{id:?} goes on after {counted} attempts that count"));
        }
        let ms = if let Retry::After { ms } = next { ms } else { 0 };
        let ready_at = now + Duration::from_millis(ms);
        job.phase = Phase::BackOff { until: ready_at + 2 * Duration::from_millis(BACK_WITHIN) };
        let told = Stored::Counted { job: *id, ended: job.ended.len(), ready_at, closed: closed.map(|closed| (ended.device, closed)) };
        let (back, cancelled) = (job.back_on_the_way(cx.cast.net, cx.hub_ms()), job.stop > Stop::No);
        if cx.is_broken(Mutation::UncountedEnds) {
            self.stored(cx, told);
        } else {
            self.stores.store(cx, Store::Back(Box::new(back)), cx.now + BACK_WITHIN, told);
        }
        if cancelled {
            return self.close_cancelled(cx, *id);
        }
        match next {
            Retry::GiveUp(problem) => self.close_failed(cx, *id, &problem, VoidReason::Failed),
            // It has waited as long as it may: no other device gets it in between.
            Retry::After { .. } if self.jobs.get(id).is_some_and(|one| one.job.has_waited(cx.hub_ms())) => {
                cx.counters.add("ended with their last attempt, their wait over");
                self.close_failed(cx, *id, &Problem::new(Code::NothingFits, "no device could take it in time"), VoidReason::NotPlaced);
            }
            Retry::After { .. } => cx.counters.add("attempts tried again"),
        }
    }

    /// The end of an attempt is in BACK, or could not be written there in time.
    pub(super) fn counted(&mut self, cx: &mut Cx<'_>, id: JobId, ended: usize, ready_at: Instant, closed: Option<(DeviceId, Closed)>) {
        if let Some((device, closed)) = closed {
            self.tell_closed(cx, device, closed);
        }
        let now = cx.instant();
        let Some(one) = self.jobs.get_mut(&id) else { return };
        if !matches!(one.job.phase, Phase::BackOff { .. }) || one.job.ended.len() != ended {
            return;
        }
        if ready_at <= now { self.make_ready(cx, &id) } else { one.job.phase = Phase::BackOff { until: ready_at } }
    }

    /// What follows for a job that nobody has: it may have ended before with its holder.
    pub(super) fn go_on_alone(&mut self, cx: &mut Cx<'_>, id: JobId) {
        let Some(one) = self.jobs.get_mut(&id) else { return };
        if cx.is_broken(Mutation::ForgetLeft) {
            one.job.left = None;
        }
        if let Some(ended) = one.job.end_left("its scheduler was gone", cx.cast.net, cx.hub_ms(), "scheduler") {
            cx.counters.add("attempts that nobody had watched");
            return self.after_end(cx, &id, ended, None);
        }
        if one.job.stop > Stop::No {
            return self.close_cancelled(cx, id);
        }
        match after_failure(&one.job.ended, 0) {
            Retry::GiveUp(problem) if !cx.is_broken(Mutation::NoEndOfAttempts) => self.close_failed(cx, id, &problem, VoidReason::Failed),
            Retry::GiveUp(_) | Retry::After { .. } => self.make_ready(cx, &id),
        }
    }

    /// Parts that a device told of and nobody here heard lie in EVENTS. Says whether there can be any.
    pub(super) fn seek_parts(&mut self, cx: &mut Cx<'_>, id: JobId, device: DeviceId, attempt: AttemptId) -> bool {
        let has_parts = self.jobs.get(&id).is_some_and(|one| one.job.units > 1);
        if has_parts {
            cx.after(3, Msg::Parts { job: id, device, attempt });
        }
        has_parts
    }

    pub(super) fn parts_found(&mut self, cx: &mut Cx<'_>, id: JobId, device: DeviceId, attempt: AttemptId) {
        if !cx.linked {
            return cx.after(500, Msg::Parts { job: id, device, attempt });
        }
        let Some(one) = self.jobs.get_mut(&id).filter(|one| one.job.phase != Phase::Closing) else { return };
        let job = &mut one.job;
        let told = cx.hub.events.iter().filter(|event| (event.job, event.device, event.attempt) == (id, device, attempt));
        let parts = told.filter_map(|event| part(&event.what, job.units, job.kept.as_ref()));
        let found = parts.max_by_key(|checkpoint| checkpoint.units).filter(|_| !cx.is_broken(Mutation::IgnoreEvents));
        if found.is_some() {
            cx.counters.add("parts found in EVENTS");
            job.keep(found);
            let back = job.back_on_the_way(cx.cast.net, cx.hub_ms());
            self.stores.store(cx, Store::Back(Box::new(back)), cx.now + BACK_WITHIN, Stored::Back);
        }
        if self.jobs.get(&id).is_some_and(|one| one.job.phase == Phase::Looking) {
            self.go_on_alone(cx, id);
        }
    }

    pub(super) fn hear_event(&mut self, cx: &mut Cx<'_>, event: Event) {
        let Event { device, job: id, attempt, what, .. } = event;
        if let EventKind::Checkpoint(checkpoint) = what {
            return self.hear_checkpoint(cx, device, id, attempt, checkpoint);
        }
        let (now, at) = (cx.instant(), cx.hub_ms());
        let Some(one) = self.jobs.get_mut(&id).filter(|one| one.job.current == Some(attempt)) else { return };
        match what {
            EventKind::Started => {
                let Some(attempt) = one.job.current_mut().filter(|attempt| attempt.started.is_none()) else { return };
                attempt.started = Some((at.saturating_sub(STARTED_AFTER_MS).max(attempt.assigned_at), now));
            }
            EventKind::Dropped { reason } => self.attempt_failed(cx, &id, FailureClass::DeviceDeclined, &reason),
            EventKind::Progress(_) | EventKind::Checkpoint(_) => {}
        }
    }

    fn hear_checkpoint(&mut self, cx: &mut Cx<'_>, device: DeviceId, id: JobId, attempt: AttemptId, checkpoint: Checkpoint) {
        let Some(one) = self.jobs.get(&id) else { return };
        let job = &one.job;
        if job.phase == Phase::Closing || job.attempt(&attempt).is_none_or(|attempt| attempt.device != device) {
            return;
        }
        if checkpoint::check(&checkpoint, job.units, job.kept.as_ref()).is_err() {
            cx.counters.add("checkpoints refused");
            if !cx.is_broken(Mutation::OldCheckpoint) {
                return;
            }
        }
        // The blob is looked for meanwhile.
        cx.after(10, Msg::BlobSeen { job: id, attempt, checkpoint });
    }

    pub(super) fn checkpoint_seen(&mut self, cx: &mut Cx<'_>, id: JobId, _: AttemptId, checkpoint: Checkpoint) {
        let Some(one) = self.jobs.get_mut(&id).filter(|one| one.job.phase != Phase::Closing) else { return };
        let job = &mut one.job;
        if checkpoint::check(&checkpoint, job.units, job.kept.as_ref()).is_err() && !cx.is_broken(Mutation::OldCheckpoint) {
            return;
        }
        cx.counters.add("checkpoints kept");
        job.kept = Some(checkpoint);
        let back = job.back_on_the_way(cx.cast.net, cx.hub_ms());
        self.stores.store(cx, Store::Back(Box::new(back)), cx.now + BACK_WITHIN, Stored::Back);
    }

    pub(super) fn hear_heartbeat(&mut self, cx: &mut Cx<'_>, device: DeviceId, bytes: &Bytes) {
        let now = cx.instant();
        let looks_again = match self.fleet.heartbeat(device, bytes, true, now, cx.verifier) {
            Ok(changed) => changed.look_again,
            Err(problem) => return cx.wrong(format!("a heartbeat was refused: {problem}")),
        };
        if looks_again {
            let all: Vec<JobId> =
                self.jobs.iter().filter(|(_, one)| matches!(one.job.phase, Phase::Waiting { .. })).map(|(id, _)| *id).collect();
            all.iter().for_each(|id| self.make_ready(cx, id));
        }
        self.looks_heard(cx, device);
        let Some(heartbeat) = self.fleet.get(&device).and_then(|found| found.heartbeat.as_ref()) else { return };
        let settled_in = cx.cast.timings.heartbeat / 2;
        let (mut ended_there, mut lost) = (Vec::new(), Vec::new());
        for id in self.on_device.get(&device).into_iter().flatten() {
            let Some(attempt) = self.jobs.get_mut(id).and_then(|one| one.job.current_mut()) else { continue };
            match word_of(attempt, id, heartbeat, now, settled_in) {
                Word::Here => {}
                Word::EndedThere => ended_there.push(*id),
                Word::Lost => lost.push(*id),
            }
        }
        for id in ended_there {
            self.adopt(cx, device, id, None);
        }
        for id in lost {
            cx.counters.add("attempts that a device has lost");
            self.attempt_failed(cx, &id, FailureClass::DeviceDisconnect, "the device does not have it any more");
        }
    }

    pub(super) fn act_on(&mut self, cx: &mut Cx<'_>, id: JobId, due: Due) {
        match due {
            Due::GaveUpWaiting => {
                cx.counters.add("gave up waiting");
                self.close_failed(cx, id, &Problem::new(Code::NothingFits, "no device could take it in time"), VoidReason::NotPlaced);
            }
            Due::LookAgain => self.make_ready(cx, &id),
            Due::CancelAgain => self.cancel_running(cx, &id),
            Due::TimedOut => {
                let Some((device, attempt)) = self.current(&id) else { return };
                self.control_device(cx, device, Verb::Cancel { attempts: vec![attempt] }, Request::Control);
                self.attempt_failed(cx, &id, FailureClass::Timeout, "no result in time");
            }
            Due::NoStart => {
                let (now, silence) = (cx.instant(), cx.cast.timings.silence);
                let Some(attempt) = self.jobs.get_mut(&id).and_then(|one| one.job.current_mut()) else { return };
                attempt.ask_at = now + silence;
                let device = attempt.device;
                self.adopt(cx, device, id, None);
            }
            Due::NoAnswer => self.no_answer(cx, &id),
            Due::GaveUpQueued => {
                let Some((device, attempt)) = self.current(&id) else { return };
                cx.counters.add("gave up in a device's queue");
                self.control_device(cx, device, Verb::Cancel { attempts: vec![attempt] }, Request::Control);
                self.attempt_failed(cx, &id, FailureClass::Timeout, "the device had not begun with it in time");
            }
            Due::CancelIgnored => {
                cx.counters.add("cancels that a device ignored");
                self.attempt_failed(cx, &id, FailureClass::Timeout, "the device did not stop it");
            }
        }
    }

    fn no_answer(&mut self, cx: &mut Cx<'_>, id: &JobId) {
        let (now, lately) = (cx.instant(), 2 * cx.cast.timings.heartbeat);
        let Some((device, _)) = self.current(id) else { return };
        let heard = |found: &&Device| found.heard_at().is_some_and(|at| now.duration_since(at) < lately);
        let Some(found) = self.fleet.get(&device).filter(heard) else { return };
        if found.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.jobs.contains(id) || heartbeat.unsettled.contains(id)) {
            return self.accepted(cx, id);
        }
        cx.counters.add("assignments without an answer");
        self.attempt_failed(cx, id, FailureClass::DeviceDisconnect, "the device did not answer to the assignment");
    }

    pub(super) fn current(&self, id: &JobId) -> Option<(DeviceId, AttemptId)> {
        self.jobs.get(id)?.job.current().map(|attempt| (attempt.device, attempt.id))
    }

    pub(super) fn hear_cancel(&mut self, cx: &mut Cx<'_>, id: JobId, member: MemberId) {
        if cx.is_broken(Mutation::IgnoreCancel) {
            return;
        }
        self.cancels.insert(id);
        let Some(one) = self.jobs.get_mut(&id) else { return };
        if one.job.stop > Stop::No || one.job.admitted.member != member {
            return;
        }
        cx.counters.add("cancels of jobs in hand");
        one.job.stop = Stop::Now;
        match one.job.phase {
            Phase::Looking | Phase::Assigning | Phase::Closing => {}
            Phase::Running => self.cancel_running(cx, &id),
            Phase::Ready { .. } | Phase::Bidding { .. } | Phase::BackOff { .. } | Phase::Waiting { .. } => self.close_cancelled(cx, id),
        }
    }

    pub(super) fn close_cancelled(&mut self, cx: &mut Cx<'_>, id: JobId) {
        self.close_failed(cx, id, &Problem::new(Code::JobCancelled, "cancelled before it ran"), VoidReason::Cancelled);
    }

    pub(super) fn cancel_running(&mut self, cx: &mut Cx<'_>, id: &JobId) {
        let now = cx.instant();
        let Some(attempt) = self.jobs.get_mut(id).and_then(|one| one.job.current_mut()) else { return };
        attempt.cancel_sent = Some(now);
        let (device, attempt) = (attempt.device, attempt.id);
        self.control_device(cx, device, Verb::Cancel { attempts: vec![attempt] }, Request::Control);
    }

    pub(super) fn close_failed(&mut self, cx: &mut Cx<'_>, id: JobId, problem: &Problem, reason: VoidReason) {
        let state = if reason == VoidReason::Cancelled { JobState::Cancelled } else { JobState::Failed };
        let ended = self.jobs.get(&id).map(|one| one.job.ended_badly()).unwrap_or_default();
        self.close_without_result(cx, id, state, problem, Some(Op::Void { job: id, reason, ended }));
    }
}
