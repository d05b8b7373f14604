//! Watches what devices say about the jobs they have: receipts, events, heartbeats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_schemas::assignment::Closed;
use bus_schemas::event::{Event, EventKind};
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::job::JobState;
use bus_schemas::ledger::HoldView;
use bus_schemas::limits::{CROSSING_BYTES_MAX, STARTED_AFTER_MS};
use bus_schemas::receipt::{Failure, FailureClass, Receipt, ReceiptMessage};
use bus_schemas::{AttemptId, Batch, DeviceId, Form, JobId, Problem, ReceiptId, Verified, subject};
use bytes::Bytes;

use crate::crash;
use crate::early::Heard;
use crate::job::{Attempt, Evidence, Job, Phase, Stop};
use crate::measure;
use crate::settle::Carried;
use crate::stored::Completed;
use crate::tell::result_json;
use crate::verdict::{self, Meaning};
use crate::world::{Done, World};

/// Missing from so many full heartbeats in a row, a job has ended on its device.
const ABSENT_MAX: u8 = 2;

/// Receipts of one device whose assignments it is asked for, at once.
const UNSHOWN_MAX: usize = 256;

/// What a device says of a failure, and the characters of it that are passed on: it stands in records and on screens.
const SAID_CHARS: usize = 500;

fn plain(said: &str) -> String {
    // Bidirectional marks would turn around what stands behind them.
    let odd = |sign: char| sign.is_control() || matches!(sign, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    said.chars().take(SAID_CHARS).map(|sign| if odd(sign) { ' ' } else { sign }).collect()
}

/// Attempts of a job that have ended for the network while a successor is at it on another device.
fn stale(job: &Job, device: DeviceId) -> Vec<AttemptId> {
    let elsewhere = job.current().is_some_and(|current| current.device != device && current.accepted.is_some());
    let ended = job.ended.iter().filter(|ended| elsewhere && ended.device == device);
    ended.map(|ended| ended.attempt).collect()
}

/// An attempt at a job that is not in hand here.
#[derive(Clone, Copy)]
pub struct Stray {
    pub job: JobId,
    pub attempt: AttemptId,
    /// Absent while it runs.
    pub receipt: Option<ReceiptId>,
    pub device: DeviceId,
}
/// What the books say about strays.
pub struct StrayAnswers(pub Vec<(Stray, Option<HoldView>)>);

/// What a full heartbeat says of an attempt that its device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Here,
    /// It ended there, and its receipt is unsettled.
    EndedThere,
    /// Not named so often that the device has lost it.
    Lost,
}

/// Reads a heartbeat for one attempt, and counts how often in a row it was missing. What was accepted less than `settled_in` ago may not have
/// been there when the list was made.
pub fn word_of(attempt: &mut Attempt, job: &JobId, heartbeat: &Heartbeat, now: Instant, settled_in: Duration) -> Word {
    if attempt.accepted.is_none_or(|at| now.duration_since(at) < settled_in) || heartbeat.jobs.contains(job) {
        attempt.absent = 0;
        return Word::Here;
    }
    if heartbeat.unsettled.contains(job) {
        return Word::EndedThere;
    }
    if heartbeat.unsettled_more == 0 {
        attempt.absent += 1;
    }
    if heartbeat.unsettled_more == 0 && attempt.absent >= ABSENT_MAX { Word::Lost } else { Word::Here }
}

impl World {
    /// A message on `mesh.v1.dev.<d>.receipt.<s>` or `….receipt.any`.
    pub fn hear_receipts(&mut self, message: &async_nats::Message, now: Instant) {
        let Some(device) = subject::device_of(&message.subject) else { return };
        if let Err(problem) = self.read_receipts(device, &message.payload, now) {
            measure::refused("receipt");
            tracing::warn!(%device, %problem, "receipts were refused");
        }
    }

    fn read_receipts(&mut self, device: DeviceId, payload: &Bytes, now: Instant) -> Result<(), Problem> {
        let Some(did) = self.fleet.get(&device).map(|found| found.record.did) else {
            return Err(Problem::new(bus_schemas::Code::NoSuchDevice, "receipts of a device that is not enrolled"));
        };
        let message: ReceiptMessage = bus_schemas::strict::decode(Form::Msgpack, payload, CROSSING_BYTES_MAX)?;
        let receipts = message.receipts.verify::<Receipt>(&mut self.verifier)?;
        if message.receipts.k != did {
            return Err(Problem::new(bus_schemas::Code::WrongSigner, "receipts signed by another key than the device's"));
        }
        if let Some(found) = self.fleet.get_mut(&device) {
            found.full_until = None;
        }
        self.fleet.heard(&device, now);
        self.try_open = true;
        let carried = Arc::new(Carried { device, payload: payload.clone(), heard_ms: self.hub_ms(), heard: now });
        let proofs = message.receipts.proofs();
        let batch = Arc::new(message.receipts);
        let results = message.results.into_iter().map(Some).chain(std::iter::repeat(None)).map(Option::flatten);
        for ((receipt, proof), result) in receipts.into_iter().zip(proofs).zip(results) {
            if receipt.device != device || receipt.net != self.net {
                measure::refused("receipt");
                tracing::warn!(%device, named = %receipt.device, net = %receipt.net, "a receipt was refused: it is in another's name");
                continue;
            }
            let result = result.map(serde_bytes::ByteBuf::into_vec);
            self.hear_receipt(Heard { receipt, proof, batch: Arc::clone(&batch), result, carried: Arc::clone(&carried) }, now);
        }
        crash::at("after_receipt");
        Ok(())
    }

    pub fn hear_receipt(&mut self, heard: Heard, now: Instant) {
        let attempt = heard.receipt.attempt;
        let Some(job) = self.jobs.get(&heard.receipt.job) else { return self.hear_stray(&heard, now) };
        if job.phase == Phase::Looking && job.attempt(&attempt).is_none() {
            return self.early.keep(heard);
        }
        let Heard { receipt, proof, batch, result, carried } = heard;
        let id = ReceiptId(receipt.cid());
        let did = receipt.by();
        let receipt = receipt.into_body();
        let Some(job) = self.jobs.get_mut(&receipt.job) else { return };
        // Its end is on its way; `closed` will follow.
        if job.phase == Phase::Closing {
            return;
        }
        let Some(attempt) = job.attempts.iter().find(|attempt| attempt.id == receipt.attempt && attempt.device == receipt.device) else {
            let stray = Stray { job: receipt.job, attempt: receipt.attempt, receipt: Some(id), device: receipt.device };
            if job.declined.contains(&receipt.attempt) {
                self.refuse_receipt(&stray, "its device had declined this assignment", now);
            } else {
                // An attempt that another scheduler began: the device shows its assignment when asked.
                let unshown = self.unshown.entry(receipt.device).or_default();
                if unshown.len() < UNSHOWN_MAX {
                    unshown.push(stray);
                }
                self.adopt(receipt.device, vec![receipt.job], None);
            }
            return;
        };
        let (member, since, is_current) = (job.admitted.member, attempt.at, job.current == Some(attempt.id));
        let evidence = Evidence { proof: Arc::new(proof), batch: Some(batch) };
        measure::receipt(now.duration_since(since));
        if is_current && job.phase == Phase::Assigning {
            // The receipt is quicker than the answer to the assignment.
            self.accepted(&receipt.job, now);
        }
        let cancelled = self.jobs.get(&receipt.job).is_some_and(|job| job.stop == Stop::Now);
        match verdict::meaning(&receipt, cancelled) {
            Meaning::Completed(signed) => match result_json(&signed, result.as_deref()) {
                Ok(told) => {
                    let completed = Completed { receipt, id, did, evidence, result, told, carried };
                    if completed.result.is_some() { self.completed(completed, now) } else { self.seek_blob(completed, signed, member) }
                }
                Err(what) => {
                    let failure = Failure { class: FailureClass::ExecutionError, message: what, retryable: true };
                    self.failed_there(&receipt, failure, is_current, now);
                }
            },
            Meaning::Failed(failure) => {
                let failure = Failure { message: plain(&failure.message), ..failure };
                self.failed_there(&receipt, failure, is_current, now);
            }
            Meaning::Stopped => self.settle(receipt, id, evidence, None, &carried, now),
        }
    }

    /// A receipt of a job that is not in hand here.
    fn hear_stray(&mut self, heard: &Heard, now: Instant) {
        let Receipt { job, attempt, device, .. } = *heard.receipt;
        match self.closed.get(&attempt).cloned() {
            Some(closed) => self.closing.tell_closed(device, closed),
            None => self.closing.strays.push(Stray { job, attempt, receipt: Some(ReceiptId(heard.receipt.cid())), device }),
        }
        self.need_tick(now);
    }

    /// The device has answered: receipts whose assignments it did not show are of attempts that nobody assigned.
    pub fn refuse_unshown(&mut self, device: DeviceId, now: Instant) {
        for stray in self.unshown.remove(&device).unwrap_or_default() {
            let shown = self.jobs.get(&stray.job).is_none_or(|job| {
                job.phase == Phase::Closing || job.attempt(&stray.attempt).is_some_and(|attempt| attempt.device == device)
            });
            if !shown {
                self.refuse_receipt(&stray, "nobody assigned this attempt", now);
            }
        }
    }

    fn refuse_receipt(&mut self, stray: &Stray, why: &str, now: Instant) {
        measure::refused("receipt");
        tracing::warn!(job = ?stray.job, device = %stray.device, why, "a receipt was refused");
        let closed = Closed { attempt: stray.attempt, paid_mmana: None, not_paid: Some(why.to_owned()) };
        self.closing.tell_closed(stray.device, closed);
        self.need_tick(now);
    }

    /// A receipt that is not paid.
    pub fn failed_there(&mut self, receipt: &Receipt, failure: Failure, is_current: bool, now: Instant) {
        let closed = Closed { attempt: receipt.attempt, paid_mmana: None, not_paid: Some(failure.message.clone()) };
        self.closed.insert(closed.clone());
        if is_current {
            self.end_attempt(&receipt.job, failure, Some(closed), now);
        } else {
            self.closing.tell_closed(receipt.device, closed);
            self.need_tick(now);
        }
    }

    /// The current attempt ended without a result: record it, and let the job go on or fail.
    pub fn attempt_ended(&mut self, id: &JobId, failure: Failure, now: Instant) {
        self.end_attempt(id, failure, None, now);
    }

    /// As [`Self::attempt_ended`]; its device is told `closed` once it is counted.
    fn end_attempt(&mut self, id: &JobId, failure: Failure, closed: Option<Closed>, now: Instant) {
        let at = self.hub_ms();
        let actor = self.actor();
        let Some(job) = self.jobs.get_mut(id) else { return };
        let Some(ended) = job.end_current(failure, self.net, at, actor) else { return };
        // What it told of its parts may have been said while this scheduler was cut off, or did not have the job yet.
        self.seek_parts(*id, ended.device, ended.attempt, ended.assigned_at);
        self.after_end(id, ended, closed, now);
    }

    /// A message on `mesh.v1.dev.<d>.evt.<kind>`: everybody's, so most are for jobs that are not in hand here.
    pub fn hear_events(&mut self, message: &async_nats::Message, now: Instant) {
        let Some(device) = subject::device_of(&message.subject) else { return };
        match self.read_events(device, &message.payload) {
            Ok(events) => self.take_events(device, events, now),
            Err(problem) => {
                measure::refused("event");
                tracing::warn!(%device, %problem, "events were refused");
            }
        }
    }

    fn read_events(&mut self, device: DeviceId, payload: &Bytes) -> Result<Vec<Event>, Problem> {
        let Some(did) = self.fleet.get(&device).map(|found| found.record.did) else {
            return Err(Problem::new(bus_schemas::Code::NoSuchDevice, "events of a device that is not enrolled"));
        };
        let batch = Batch::decode(payload)?;
        if !self.concerns_us(&batch) {
            return Ok(vec![]);
        }
        let events = batch.verify::<Event>(&mut self.verifier)?;
        if batch.k != did {
            return Err(Problem::new(bus_schemas::Code::WrongSigner, "events signed by another key than the device's"));
        }
        Ok(events.into_iter().map(Verified::into_body).collect())
    }

    fn take_events(&mut self, device: DeviceId, events: Vec<Event>, now: Instant) {
        let at = self.hub_ms();
        if !events.is_empty() {
            self.fleet.heard(&device, now);
        }
        for event in events {
            if event.device != device || event.net != self.net {
                measure::refused("event");
                tracing::warn!(%device, named = %event.device, net = %event.net, "an event was refused: it is in another's name");
                continue;
            }
            let id = event.job;
            if !self.jobs.contains_key(&id) {
                self.hear_of_another(&event);
                continue;
            }
            if let EventKind::Checkpoint(checkpoint) = event.what {
                self.hear_checkpoint(device, id, event.attempt, checkpoint);
                continue;
            }
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            let theirs = job.attempt(&event.attempt).is_some_and(|attempt| attempt.device == device);
            if !theirs || job.current != Some(event.attempt) {
                if job.phase != Phase::Looking && !theirs {
                    measure::refused("event");
                    tracing::warn!(job = ?id, %device, what = event.what.token(), "an event was refused: that device has no such attempt");
                }
                continue;
            }
            match &event.what {
                EventKind::Started => {
                    let Some(attempt) = job.current_mut().filter(|attempt| attempt.started.is_none()) else { continue };
                    let began = at.saturating_sub(STARTED_AFTER_MS).max(attempt.assigned_at);
                    attempt.started = Some((began, now));
                    job.note(JobState::Executing, began, "started", device.to_string());
                    self.tell_matched(&id);
                }
                EventKind::Progress(progress) => {
                    let Some(attempt) = job.current_mut() else { continue };
                    if let Err(why) = progress.follows(attempt.progress.as_ref()) {
                        measure::refused("progress");
                        tracing::warn!(job = ?id, %device, why, "progress was refused");
                        continue;
                    }
                    attempt.progress = Some(progress.clone());
                    if attempt.started.is_none() {
                        // The word of its start was lost. When it really began is not known, and what is not known must not lower its pay.
                        attempt.started = Some((attempt.assigned_at, now));
                        let began = attempt.assigned_at;
                        job.note(JobState::Executing, began, "it tells of progress", device.to_string());
                        self.tell_matched(&id);
                    }
                    self.tell_progress(&id, progress);
                }
                // Above.
                EventKind::Checkpoint(_) => {}
                EventKind::Dropped { reason } => {
                    let failure = Failure { class: FailureClass::DeviceDeclined, message: reason.clone(), retryable: true };
                    self.attempt_ended(&id, failure, now);
                }
            }
        }
    }

    /// A live heartbeat: which of our jobs does it name, and which does it miss?
    pub fn hear_heartbeat(&mut self, message: &async_nats::Message, now: Instant) {
        let Some(device) = subject::device_of(&message.subject) else { return };
        let changed = match self.fleet.heartbeat(device, &message.payload, true, now, &mut self.verifier) {
            Ok(changed) => changed,
            Err(problem) => {
                measure::refused("heartbeat");
                tracing::warn!(%device, %problem, "a heartbeat was refused");
                return;
            }
        };
        self.look_again |= changed.look_again;
        self.looks_heard(device, now);
        self.stop_stale(device, changed.is_back);
        let Some(heartbeat) = self.fleet.get(&device).and_then(|found| found.heartbeat.as_ref()) else { return };
        let Some(ours) = self.on_device.get(&device).map(|load| &load.jobs).filter(|ours| !ours.is_empty()) else { return };
        let settled_in = self.config.timings.heartbeat / 2;
        let (mut ended_there, mut lost) = (Vec::new(), Vec::new());
        for id in ours {
            let Some(job) = self.jobs.get_mut(id) else { continue };
            let Some(attempt) = job.current_mut() else { continue };
            match word_of(attempt, id, heartbeat, now, settled_in) {
                Word::Here => {}
                Word::EndedThere => ended_there.push(*id),
                Word::Lost => lost.push(*id),
            }
        }
        if !ended_there.is_empty() {
            // It ended there, but its receipt has not reached us.
            ended_there.sort_unstable();
            self.adopt(device, ended_there, None);
        }
        lost.sort_unstable();
        for id in lost {
            let failure =
                Failure { class: FailureClass::DeviceDisconnect, message: "the device does not have it any more".into(), retryable: true };
            self.attempt_ended(&id, failure, now);
        }
    }

    /// Has a device that was silent stop what goes on elsewhere: it would race its successor, and not be paid.
    fn stop_stale(&self, device: DeviceId, is_back: bool) {
        let Some(heartbeat) = self.fleet.get(&device).and_then(|found| found.heartbeat.as_ref()) else { return };
        let stale = heartbeat.jobs.iter().filter_map(|id| self.jobs.get(id)).flat_map(|job| stale(job, device)).collect::<Vec<_>>();
        if !stale.is_empty() {
            tracing::info!(%device, attempts = stale.len(), "its attempts go on elsewhere: it is told to stop them");
            self.cancel_attempts(device, stale);
        }
        // What is in nobody's hand may have ended meanwhile; the device shows which attempts it has.
        if is_back && heartbeat.jobs.iter().any(|id| !self.jobs.contains_key(id)) {
            self.ask_what_it_has(device);
        }
    }

    /// Asks the books about receipts of jobs that are not in hand here.
    pub fn look_up_strays(&mut self) {
        if self.closing.strays.is_empty() {
            return;
        }
        let strays = std::mem::take(&mut self.closing.strays);
        for some in strays.chunks(bus_schemas::limits::STEP_MAX) {
            let some = some.to_vec();
            let asker = self.ledger();
            self.spawn(async move {
                let holds = asker.look(&some.iter().map(|stray| stray.job).collect::<Vec<_>>()).await;
                Done::Strays(StrayAnswers(some.into_iter().zip(holds.unwrap_or_default()).collect()))
            });
        }
    }

    /// Tells devices what became of receipts that nobody here waited for. An open hold is left alone: the job is in another
    /// scheduler's hand, or will be.
    pub fn strays_answered(&mut self, answers: StrayAnswers) {
        let mut told = BTreeMap::<DeviceId, Vec<Closed>>::new();
        for (stray, hold) in answers.0 {
            if hold.is_none() {
                measure::refused("receipt");
                tracing::warn!(job = ?stray.job, device = %stray.device, "a receipt was refused: the books do not know its job");
            }
            let hold = hold.map(|hold| hold.state);
            let Some(said) = verdict::of_stray(stray.attempt, stray.receipt, hold) else { continue };
            if let (Some(_), Some(why)) = (stray.receipt, said.err()) {
                measure::refused("late_receipt");
                tracing::info!(job = ?stray.job, attempt = %stray.attempt, device = %stray.device, why, "a receipt is not paid");
            }
            let verdict = Closed { attempt: stray.attempt, paid_mmana: said.ok(), not_paid: said.err().map(str::to_owned) };
            self.closed.insert(verdict.clone());
            told.entry(stray.device).or_default().push(verdict);
        }
        for (device, closed) in told {
            for one in closed {
                self.closing.tell_closed(device, one);
            }
        }
        self.need_tick(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_says_is_one_line_of_bounded_length() {
        assert_eq!(plain("out of\nmemory\u{1b}[2J \u{202e}é"), "out of memory [2J  é");
        assert_eq!(plain(&"x".repeat(60_000)).chars().count(), SAID_CHARS);
    }
}
