//! One attempt from its start to its receipt.

use std::time::{Duration, Instant};

use bus_schemas::event::{Event, EventKind, Progress, WHOLE_BASIS_POINTS};
use bus_schemas::id::Asker;
use bus_schemas::receipt::{FailureClass, Outcome, Receipt, ResultRef};
use bus_schemas::{AttemptId, Cid, Code, InstanceId, Problem, limits, subject};
use bytes::Bytes;

use super::parts;
use super::state::{Agent, Happened, Held, Input, Stage};
use crate::blobs::{self, Blobs};
use crate::executor::{self, Ended, Finished, Order, failure, stage};
use crate::receipts::{self, Draft, Number, is_inline};
use crate::work::Was;
use crate::{bidding, crash};

/// How often running work is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Work that ends within this tells nothing on its way.
const QUIET: Duration = Duration::from_millis(limits::STARTED_AFTER_MS);
/// Why an attempt is dropped.
pub const GAVE_WAY: &str = "its place in the device's queue went to a newer job";
const EXPIRED: &str = "it waited in the device's queue for longer than it may (max_execution_wait_ms)";
const STORE_MAX: Duration = Duration::from_secs(5);
/// A receipt that no stream took is tried again this soon.
const AGAIN_SOON: Duration = Duration::from_secs(1);

impl Agent {
    /// Starts what waits, while there is room.
    pub fn start_waiting(&mut self) {
        while let Some(task) = self.work.start_next() {
            self.start(task.attempt);
        }
    }

    fn start(&mut self, attempt: AttemptId) {
        self.look_at_consent();
        // What runs may just have been handed back.
        if self.work.look(&attempt) == Was::Done {
            return;
        }
        let now = self.uplink.time.now_ms();
        let Some(held) = self.held.get_mut(&attempt) else {
            self.work.close(&attempt);
            return;
        };
        if has_expired(held, now) {
            return self.dropped(&attempt, EXPIRED);
        }
        if let Err(no) = self.still_consents(&attempt) {
            return self.hand_back_one(&attempt, &no.to_string());
        }
        let Some(held) = self.held.get_mut(&attempt) else { return };
        (held.started, held.asleep_before) = (Some(Instant::now()), self.asleep.so_far());
        crash::point("after_start");
        let Some(spec) = held.spec.take() else { return self.fail(&attempt, FailureClass::ExecutionError, "its body is gone", true) };
        let resume = held.resume;
        held.stages = executor::stages(&spec.kind, spec.text.is_none() || resume.is_some());
        match (spec.text, spec.inputs.first().copied()) {
            (Some(text), _) if resume.is_none() => {
                let input = Input { texts: text.as_slice().to_vec(), kept: vec![] };
                self.compute(attempt, spec.kind, input);
            }
            (None, None) => self.fail(&attempt, FailureClass::ExecutionError, "the job has no input", false),
            (text, cid) => {
                held.stage = Stage::Fetching;
                let Some(blobs) = self.blobs(&attempt) else { return };
                let happened = self.happened.clone();
                let told = spec.units.unwrap_or(1);
                tokio::spawn(async move {
                    let texts = match (text, cid) {
                        (Some(text), _) => Ok(text.as_slice().to_vec()),
                        (None, Some(cid)) => blobs.get(cid).await.and_then(|bytes| blobs::texts(&bytes, told)),
                        (None, None) => Ok(vec![]),
                    };
                    let input = match texts {
                        Ok(texts) => Ok(Input { kept: parts::fetch(&blobs, resume).await, texts }),
                        Err(problem) => Err(problem),
                    };
                    let _ = happened.send(Happened::Fetched { attempt, input });
                });
                self.remember_kind(&attempt, spec.kind);
            }
        }
    }

    /// While an input is fetched, what is left of the job is its kind.
    fn remember_kind(&mut self, attempt: &AttemptId, kind: String) {
        if let Some(held) = self.held.get_mut(attempt) {
            held.spec = Some(bus_schemas::job::JobSpec { kind, ..Default::default() });
        }
    }

    pub fn blobs(&self, attempt: &AttemptId) -> Option<Blobs> {
        let proof = self.held.get(attempt)?.shown.proof()?;
        Some(Blobs::new(self.uplink.clone(), Asker::Device(self.trust.device), proof.encode()))
    }

    pub fn on_fetched(&mut self, attempt: AttemptId, input: Result<Input, Problem>) {
        // It may have been cancelled or closed meanwhile.
        let Some(held) = self.held.get_mut(&attempt).filter(|held| held.stage == Stage::Fetching) else { return };
        let kind = held.spec.take().map(|spec| spec.kind).unwrap_or_default();
        match input {
            Ok(input) => self.compute(attempt, kind, input),
            Err(problem) => self.fail(&attempt, FailureClass::ExecutionError, &format!("its input: {problem}"), false),
        }
    }

    fn compute(&mut self, attempt: AttemptId, kind: String, input: Input) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        held.stage = Stage::Computing;
        let started = held.started.unwrap_or_else(Instant::now);
        let deadline = started.checked_add(Duration::from_millis(held.assignment.timeout_ms)).unwrap_or(started);
        let Input { texts, kept } = input;
        let order = Order { attempt, kind, texts, kept, deadline, reins: held.reins.clone() };
        if self.engines.run(order).is_err() {
            self.fail(&attempt, FailureClass::ExecutionError, "its engine is gone", true);
        }
    }

    pub fn on_finished(&mut self, finished: Finished) {
        let Finished { attempt, kind, units, result, took } = finished;
        if self.ending.remove(&attempt) {
            return;
        }
        let Some(held) = self.held.get_mut(&attempt).filter(|held| held.stage == Stage::Computing) else { return };
        // What nobody computed is not claimed.
        held.took = took.saturating_sub(self.asleep.so_far().saturating_sub(held.asleep_before));
        match result {
            Ok((bytes, cid)) => {
                let took_us = u64::try_from(held.took.as_micros()).unwrap_or(u64::MAX);
                let learned = bidding::learn(self.speeds.get(&kind).copied(), units, took_us);
                self.speeds.insert(kind, learned);
                if is_inline(&bytes) {
                    let outcome = Outcome::Completed(ResultRef { cid, bytes: bytes.len() as u64 });
                    self.finish(&attempt, outcome, Some(bytes.into()));
                } else {
                    held.stage = Stage::Storing;
                    self.upload(attempt, bytes, cid);
                }
            }
            Err(Ended::Failed(failure)) => self.finish(&attempt, Outcome::Failed(failure), None),
            Err(Ended::Stopped) => self.finish(&attempt, Outcome::Cancelled, None),
        }
    }

    /// A large result becomes a blob before its receipt is written.
    pub fn upload(&mut self, attempt: AttemptId, bytes: Vec<u8>, cid: Cid) {
        let Some(blobs) = self.blobs(&attempt) else { return };
        let happened = self.happened.clone();
        tokio::spawn(async move {
            let result = ResultRef { cid, bytes: bytes.len() as u64 };
            let result = blobs.put(cid, bytes.into()).await.map(|()| result);
            let _ = happened.send(Happened::Uploaded { attempt, result });
        });
    }

    pub fn on_uploaded(&mut self, attempt: AttemptId, result: Result<ResultRef, Problem>) {
        if self.held.get(&attempt).is_none_or(|held| held.stage != Stage::Storing) {
            return;
        }
        crash::point("after_upload");
        match result {
            Ok(result) => self.finish(&attempt, Outcome::Completed(result), None),
            Err(problem) => {
                // No other device's result would be smaller.
                let retryable = problem.code != Code::TooLarge;
                self.fail(&attempt, FailureClass::ExecutionError, &format!("its result could not be stored: {problem}"), retryable);
            }
        }
    }

    /// Stops an attempt: what waits ends now, what computes within a step.
    pub fn cancel(&mut self, attempt: &AttemptId) {
        let Some(held) = self.held.get(attempt) else { return };
        match (self.work.look(attempt), held.stage) {
            (Was::Running, Stage::Computing) => held.reins.stop(),
            (Was::Running | Was::Waiting, _) => self.finish(attempt, Outcome::Cancelled, None),
            (Was::Done | Was::Unknown, _) => {}
        }
    }

    /// An attempt leaves the queue before it has begun: it goes back at once.
    pub fn dropped(&mut self, attempt: &AttemptId, why: &str) {
        tracing::info!(%attempt, why, "dropped from the queue");
        self.event(attempt, EventKind::Dropped { reason: why.into() });
        self.fail(attempt, FailureClass::DeviceDeclined, why, true);
    }

    /// Gives back what has waited here longer than its member allows.
    pub fn drop_expired(&mut self) {
        let now = self.uplink.time.now_ms();
        let waits = |attempt: &AttemptId| self.work.look(attempt) == Was::Waiting;
        let expired = |attempt: &AttemptId| self.held.get(attempt).is_some_and(|held| has_expired(held, now));
        let attempts: Vec<AttemptId> =
            self.work.attempts_at_work().into_iter().filter(|attempt| waits(attempt) && expired(attempt)).collect();
        attempts.iter().for_each(|attempt| self.dropped(attempt, EXPIRED));
    }

    pub fn fail(&mut self, attempt: &AttemptId, class: FailureClass, message: &str, retryable: bool) {
        self.finish(attempt, Outcome::Failed(failure(class, message, retryable)), None);
    }

    fn finish(&mut self, attempt: &AttemptId, outcome: Outcome, result: Option<Bytes>) {
        let Some(draft) = self.end(attempt, outcome, result) else { return };
        let Some(to) = self.held.get(attempt).map(|held| held.to.clone()) else { return };
        self.send_receipts(&to, vec![draft]);
    }

    /// Ends an attempt in the queue and writes its receipt; `None` where it has ended before.
    pub fn end(&mut self, attempt: &AttemptId, outcome: Outcome, result: Option<Bytes>) -> Option<Draft> {
        let held = self.held.get_mut(attempt)?;
        (held.spec, held.parts) = (None, None);
        held.stage = Stage::Waiting;
        let waited = held.started.unwrap_or_else(Instant::now).duration_since(held.arrived);
        let cancelled = matches!(outcome, Outcome::Cancelled);
        let count = match &outcome {
            Outcome::Completed(_) => &mut self.totals.completed,
            Outcome::Failed(failure) if failure.class == FailureClass::DeviceDeclined => &mut self.totals.handed_back,
            Outcome::Failed(_) => &mut self.totals.failed,
            Outcome::Cancelled => &mut self.totals.cancelled,
        };
        *count += 1;
        let receipt = Receipt {
            net: self.trust.net,
            device: self.trust.device,
            job: held.assignment.job,
            attempt: *attempt,
            at: self.uplink.time.now_ms(),
            outcome,
            // What was stopped before it began took no time.
            claimed_ms: if cancelled && held.started.is_none() { 0 } else { claimed_ms(held) },
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(0),
        };
        self.work.finish(attempt);
        Some(Draft { receipt, result })
    }

    /// Signs receipts, at most 64 a message, and sends them.
    pub fn send_receipts(&mut self, to: &InstanceId, drafts: Vec<Draft>) {
        if drafts.is_empty() {
            return;
        }
        crash::point("before_receipt");
        for pack in receipts::pack(drafts) {
            let bytes = receipts::sign(&self.signer, &pack);
            crash::point("after_signed");
            let attempts = pack.iter().map(|draft| draft.receipt.attempt).collect();
            let number = self.unsettled.add(to.clone(), attempts, bytes, self.now());
            let attempt = |draft: &Draft| draft.receipt.attempt;
            let kept: Vec<AttemptId> = pack
                .iter()
                .map(attempt)
                .filter(|attempt| self.held.get_mut(attempt).is_some_and(|held| std::mem::take(&mut held.kept)))
                .collect();
            if !kept.is_empty() {
                self.kept_until_stored.insert(number, kept);
            }
            self.send_message(number, false);
        }
        for attempt in self.unsettled.shrink() {
            self.work.close(&attempt);
            self.held.remove(&attempt);
        }
    }

    /// Sends a message of receipts to its scheduler or to any: straight to the hub, or into the OUTBOX where that fails.
    pub fn send_message(&mut self, number: Number, to_any: bool) {
        let Some(message) = self.unsettled.get(number) else { return };
        let device = &self.trust.device;
        let to = if to_any { subject::receipt_any(device) } else { subject::receipt(device, &message.to) };
        let (bytes, uplink, local, happened) = (message.bytes.clone(), self.uplink.clone(), self.local.clone(), self.happened.clone());
        self.sending += 1;
        tokio::spawn(async move {
            let stored = match (uplink.store_once(to, None, bytes.clone(), STORE_MAX).await, &local) {
                (Ok(_), _) => true,
                (Err(error), Some(local)) => {
                    tracing::info!(%error, "receipts go through the outbox");
                    local.bus.store_once(subject::local::OUT_RECEIPT.into(), None, bytes, STORE_MAX).await.is_ok()
                }
                (Err(error), None) => {
                    tracing::info!(%error, "receipts are sent again later");
                    false
                }
            };
            let _ = happened.send(Happened::Sent { number, stored });
        });
    }

    pub fn on_sent(&mut self, number: Number, stored: bool) {
        self.sending = self.sending.saturating_sub(1);
        let now = self.now();
        if stored {
            crash::point("after_receipt");
            self.unsettled.stored(number);
            self.unsettled.sent(number, now, self.timings.renewal);
            if let (Some(kept), Some(local)) = (self.kept_until_stored.remove(&number), self.local.clone()) {
                tokio::spawn(async move {
                    for attempt in kept {
                        local.done(&attempt).await;
                    }
                });
            }
        } else {
            self.unsettled.sent(number, now, AGAIN_SOON);
        }
    }

    /// When running work is to be looked at; `None` while nothing runs.
    pub fn next_look(&self) -> Option<Instant> {
        (self.work.running() > 0).then_some(self.next_look)
    }

    /// Tells how far running work is, once it has run for a second, and ends what takes too long outside an engine.
    pub fn look(&mut self) {
        self.next_look = Instant::now() + LOOK;
        for attempt in self.work.attempts_at_work() {
            let Some(held) = self.held.get_mut(&attempt) else { continue };
            let Some(ran) = held.started.map(|at| at.elapsed()).filter(|ran| *ran > QUIET) else { continue };
            if held.stage != Stage::Computing && ran > Duration::from_millis(held.assignment.timeout_ms) {
                self.fail(&attempt, FailureClass::Timeout, "moving its input or result took longer than its timeout", true);
                continue;
            }
            let progress = progress(held);
            let now = (progress.basis_points, progress.stage.clone());
            let (first, news) = (held.told.is_none(), held.told.as_ref() != Some(&now));
            held.told = Some(now);
            if first {
                self.event(&attempt, EventKind::Started);
            }
            if news {
                self.event(&attempt, EventKind::Progress(progress));
            }
        }
    }

    /// Publishes one event. Of one that the hub does not take, only what must not be lost waits in the OUTBOX: the next word of a start or
    /// of progress tells more.
    pub fn event(&self, attempt: &AttemptId, what: EventKind) {
        let Some(held) = self.held.get(attempt) else { return };
        let to = subject::event(&self.trust.device, what.token());
        let waits = match what {
            EventKind::Checkpoint(_) | EventKind::Dropped { .. } => {
                self.local.clone().map(|local| (local, subject::local::out_event(what.token())))
            }
            EventKind::Started | EventKind::Progress(_) => None,
        };
        let (net, device, job) = (self.trust.net, self.trust.device, held.assignment.job);
        let event = Event { net, device, at: self.uplink.time.now_ms(), job, attempt: *attempt, what };
        let (uplink, payload) = (self.uplink.clone(), self.signer.batch(&[event]).encode());
        tokio::spawn(async move {
            let payload = Bytes::from(payload);
            let Err(error) = uplink.store_once(to, None, payload.clone(), STORE_MAX).await else { return };
            tracing::debug!(%error, "an event was not stored");
            if let Some((local, to)) = waits
                && let Err(error) = local.bus.store_once(to, None, payload, STORE_MAX).await
            {
                tracing::warn!(%error, "an event is lost");
            }
        });
    }

    /// Gives what is here to other devices: what waits, and what runs as well where `running`. How many jobs go.
    pub fn hand_back(&mut self, why: &'static str, running: bool) -> usize {
        let mut handed_back = 0;
        for attempt in self.work.attempts_at_work() {
            if !running && self.work.look(&attempt) == Was::Running {
                continue;
            }
            if self.held.contains_key(&attempt) {
                handed_back += 1;
                self.hand_back_one(&attempt, why);
            }
        }
        handed_back
    }
    /// Nothing is at work and no receipt is on its way.
    pub fn is_drained(&self) -> bool {
        self.work.waiting() + self.work.running() + self.ending.len() + self.sending == 0
    }
}

/// Whether it has waited here longer than its member allows, by hub time. Only what has not begun has its body.
fn has_expired(held: &Held, now: u64) -> bool {
    let waits = held.spec.as_ref().map(bus_schemas::job::JobSpec::max_execution_wait_ms);
    waits.is_some_and(|ms| held.assignment.assigned_at.saturating_add(ms) < now)
}

/// Work time in whole milliseconds, rounded up: never less than one.
fn claimed_ms(held: &Held) -> u64 {
    u64::try_from(held.took.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

/// Where it is, with the stages behind it and before it.
fn progress(held: &Held) -> Progress {
    let computed = held.reins.progress();
    let told = match held.stage {
        Stage::Fetching => Progress { stage: stage::FETCHING.into(), ..Progress::default() },
        Stage::Storing => Progress { basis_points: WHOLE_BASIS_POINTS, stage: stage::STORING.into(), ..Progress::default() },
        Stage::Waiting | Stage::Computing => computed,
    };
    told.among(&held.stages)
}
