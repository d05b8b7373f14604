//! Ends jobs: the receipt's place in RECEIPTS, the books, HISTORY, the device, and last of all the ack.
//!
//! Nobody waits for this, so it runs on the tick, in batches. Every step may be done twice, and a crash anywhere is healed by
//! the job message coming again: the books settle once, and they are asked before HISTORY is written and the message acked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bus::Bus;
use bus_schemas::assignment::{Closed, Control, ControlReply, Verb};
use bus_schemas::history::{CompletedEnd, Ended as EndedEvent, HistoryEvent, HistoryRecord};
use bus_schemas::job::{AdmittedJob, Class, JobState};
use bus_schemas::ledger::{Op, VoidReason};
use bus_schemas::limits::STEP_MAX;
use bus_schemas::receipt::Receipt;
use bus_schemas::{DeviceId, JobId, Problem, ReceiptId, UnixMs, subject};
use bytes::Bytes;

use crate::attempts::{SettledBy, stopped};
use crate::crash;
use crate::job::{Evidence, Job, Phase};
use crate::measure;
use crate::watch::Stray;
use crate::world::{Done, World};

mod books;
mod history;
mod place;
mod recalled;
pub use history::store_history;
pub use place::Confirmed;
pub use recalled::{Recalled, Settled};

/// Batches of endings at work at once.
const IN_FLIGHT: usize = 4;

/// One message of receipts as it was heard.
pub struct Carried {
    pub device: DeviceId,
    pub payload: Bytes,
    /// Hub time and own time.
    pub heard_ms: UnixMs,
    pub heard: Instant,
}

/// What is shown to the books, so that they pay.
pub struct Paid {
    pub device: DeviceId,
    pub receipt: ReceiptId,
    pub assignment: Evidence,
    pub evidence: Evidence,
}

/// The end of one job on its way.
pub struct Item {
    pub job: JobId,
    pub admitted: Arc<AdmittedJob>,
    pub ack: String,
    /// `None`: the books know already.
    pub op: Option<Op>,
    pub paid: Option<Paid>,
    /// What a device is told that was paid before.
    pub paid_before: Option<(DeviceId, Closed)>,
    pub record: HistoryRecord,
}
impl Item {
    pub fn end(&mut self) -> Option<&mut EndedEvent> {
        match &mut self.record.what {
            HistoryEvent::Ended(end) => Some(end),
            HistoryEvent::Admitted(_)
            | HistoryEvent::Rejected { .. }
            | HistoryEvent::Waiting { .. }
            | HistoryEvent::Assigned(_)
            | HistoryEvent::AttemptEnded(_) => None,
        }
    }
}

/// A job that has ended and was acked (or will come again).
pub struct Ended {
    pub jobs: Vec<JobId>,
    pub closed: Vec<Closed>,
}

/// Ends in the making.
#[derive(Default)]
pub struct Closing {
    /// Waiting for the receipt's place, by device and message.
    unconfirmed: BTreeMap<DeviceId, Vec<place::Unconfirmed>>,
    reading: BTreeSet<DeviceId>,
    /// Ready for the books.
    queue: Vec<Item>,
    in_flight: usize,
    pub strays: Vec<Stray>,
    /// What devices are to be told.
    told: BTreeMap<DeviceId, Vec<Closed>>,
}
impl Closing {
    /// Something waits for the tick.
    pub fn has_work(&self) -> bool {
        self.unconfirmed.keys().any(|device| !self.reading.contains(device)) || !self.strays.is_empty() || !self.told.is_empty()
    }
    pub fn tell_closed(&mut self, device: DeviceId, closed: Closed) {
        self.told.entry(device).or_default().push(closed);
    }
    /// Nothing is on its way any more.
    pub fn is_done(&self) -> bool {
        self.unconfirmed.is_empty() && self.queue.is_empty() && self.in_flight == 0 && self.told.is_empty()
    }
}

impl World {
    /// A valid receipt ends the job: completed, or cancelled with the time used.
    pub fn settle(
        &mut self,
        receipt: Receipt,
        id: ReceiptId,
        evidence: Evidence,
        result: Option<Vec<u8>>,
        carried: &Arc<Carried>,
        now: Instant,
    ) {
        let at = self.hub_ms();
        let Some(job) = self.jobs.get_mut(&receipt.job) else { return };
        let Some(SettledBy { op, end, assignment, other }) = job.settled_by(&receipt, id, &evidence.proof, result, at) else { return };
        if end.state == JobState::Completed {
            measure::completed()
        } else {
            measure::failed()
        }
        let paid = Paid { device: receipt.device, receipt: id, assignment, evidence };
        if let Some(item) = self.item(&receipt.job, Some(op), Some(paid), end, at) {
            self.closing.wait_for_place(Arc::clone(carried), item);
        }
        if let Some((device, attempt)) = other {
            self.cancel_attempts(device, vec![attempt]);
        }
        self.need_tick(now);
    }

    /// Ends a job without a result: the hold returns.
    pub fn close_failed(&mut self, id: JobId, problem: &Problem, reason: VoidReason) {
        let state = if reason == VoidReason::Cancelled { JobState::Cancelled } else { JobState::Failed };
        let ended = self.jobs.get(&id).map(Job::ended_badly).unwrap_or_default();
        self.close_without_result(id, state, problem, Some(Op::Void { job: id, reason, ended }));
    }

    /// Ends a job whose hold is closed already (`op` absent), or closes it.
    pub fn close_without_result(&mut self, id: JobId, state: JobState, problem: &Problem, op: Option<Op>) {
        let (at, actor) = (self.hub_ms(), self.actor());
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.note(state, at, problem.detail.clone(), actor);
        let end = EndedEvent {
            state,
            attempts: job.last_number,
            device: None,
            problem: Some(problem.clone()),
            paid_mmana: None,
            done: None,
            decision: job.decision.take(),
        };
        measure::failed();
        tracing::info!(job = ?id, %state, why = problem.detail, "a job ended without a result");
        if let Some(item) = self.item(&id, op, None, end, at) {
            self.closing.queue.push(item);
        }
        self.need_tick(Instant::now());
    }

    /// Ends a job that was paid before, by whoever held it then. How it ended is what the books say: its member may have cancelled it since.
    pub fn close_paid_before(&mut self, paid: &Settled, done: Option<CompletedEnd>) {
        let (at, actor) = (self.hub_ms(), self.actor());
        let Some(job) = self.jobs.get_mut(&paid.job) else { return };
        let state = if paid.outcome.is_completed() { JobState::Completed } else { JobState::Cancelled };
        job.note(state, at, "the books had paid it", actor);
        let end = EndedEvent {
            state,
            attempts: job.last_number,
            device: Some(paid.device),
            problem: (!paid.outcome.is_completed()).then(stopped),
            paid_mmana: Some(paid.paid),
            done,
            decision: None,
        };
        let closed = Closed { attempt: paid.attempt, paid_mmana: Some(paid.paid), not_paid: None };
        if let Some(item) = self.item(&paid.job, None, None, end, at) {
            let item = Item { paid_before: Some((paid.device, closed)), ..item };
            self.closing.queue.push(item);
        }
        self.need_tick(Instant::now());
    }

    fn item(&mut self, id: &JobId, op: Option<Op>, paid: Option<Paid>, end: EndedEvent, at: UnixMs) -> Option<Item> {
        self.off_device(id);
        self.waiting.remove(id);
        let job = self.jobs.get_mut(id)?;
        job.phase = Phase::Closing;
        job.bids_left.clear();
        let record = job.record(self.net, at, HistoryEvent::Ended(Box::new(end)));
        Some(Item { job: *id, admitted: Arc::clone(&job.admitted), ack: job.lease.ack.clone(), op, paid, paid_before: None, record })
    }

    /// Takes what is ready to the books, while not too many batches are at work.
    pub fn close_batches(&mut self, now: Instant) {
        let fence = self.config.timings.fence;
        while !self.closing.queue.is_empty() && self.closing.in_flight < IN_FLIGHT {
            let rest = self.closing.queue.split_off(self.closing.queue.len().min(STEP_MAX));
            let mut items = std::mem::replace(&mut self.closing.queue, rest);
            // A holder that may have lost its lease does nothing more for the job.
            items.retain(|item| self.jobs.get(&item.job).is_some_and(|job| now.duration_since(job.lease.confirmed) < fence));
            if items.is_empty() {
                continue;
            }
            self.closing.in_flight += 1;
            let asker = self.ledger();
            let s = self.s.clone();
            self.spawn(async move { Done::Ended(books::end_batch(asker, s, items).await) });
        }
    }

    /// A batch of endings is over.
    pub fn ended(&mut self, ended: Ended, now: Instant) {
        self.closing.in_flight -= 1;
        for closed in ended.closed {
            self.closed.insert(closed);
        }
        for id in ended.jobs {
            self.forget(&id);
        }
        self.close_batches(now);
    }

    /// Tells devices what became of their attempts.
    pub fn send_closed(&mut self) {
        for (device, closed) in std::mem::take(&mut self.closing.told) {
            for some in closed.chunks(STEP_MAX) {
                self.control(device, Verb::Closed { attempts: some.to_vec() });
            }
        }
    }

    /// Sends a control message whose answer nobody waits for: what is missed is asked for again by the device or by us.
    pub fn control(&self, device: DeviceId, verb: Verb) {
        let asker = self.ledger();
        let s = self.s.clone();
        let timeout = self.config.timings.heartbeat;
        self.spawn(async move {
            let _ = ask_device(&asker, s, device, verb, timeout).await;
            Done::Sent
        });
    }
}

/// Asks one device, signed by the scheduler key.
///
/// # Errors
/// Where nobody answers, or the answer cannot be read.
pub async fn ask_device(
    asker: &crate::ledger::Asker,
    s: bus_schemas::InstanceId,
    device: DeviceId,
    verb: Verb,
    timeout: std::time::Duration,
) -> Result<ControlReply, bus::ask::AskError> {
    let subject = subject::ctl(&device, verb.token());
    let at = asker.bus.time.now_ms();
    let exp = at + bus_schemas::limits::SKEW_MS;
    let control = Control { net: asker.net, device, at, exp, s, verb };
    let payload = asker.signer.batch(&[control]).encode().into();
    let answer = asker.bus.ask_bytes(subject, payload, timeout).await?;
    bus_schemas::strict::decode(bus_schemas::Form::Msgpack, &answer, 1 << 20)
        .map_err(|problem| bus::ask::AskError::Unreadable(problem.to_string()))
}

/// Acks jobs until the server has noted it.
async fn ack_all(bus: &Bus, acks: Vec<(Class, String)>) {
    crash::at("before_ack");
    let mut by_consumer = BTreeMap::<Class, Vec<String>>::new();
    for (class, ack) in acks {
        by_consumer.entry(class).or_default().push(ack);
    }
    let one = |acks: Vec<String>| async move {
        for _ in 0..3 {
            match bus.ack_all_confirmed(&acks).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, jobs = acks.len(), "acking again"),
            }
        }
        // What comes again has its hold closed by then, and is dropped.
    };
    futures::future::join_all(by_consumer.into_values().map(one)).await;
}
