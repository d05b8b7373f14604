//! A scheduler: takes jobs, looks up their past, auctions, assigns, watches, settles, and acknowledges last. Deciding, the job in hand and the
//! fleet are the scheduler-worker's own; here is what its shell does around them, in the same order.

mod auction;
mod settle;
mod take;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bus_schemas::assignment::{Closed, Control, Payload, Verb};
use bus_schemas::history::HistoryRecord;
use bus_schemas::ledger::{Command, LedgerRequest, Op};
use bus_schemas::limits::SKEW_MS;
use bus_schemas::{AttemptId, DeviceId, JobId, Proof};
use bytes::Bytes;
use scheduler_worker::fleet::Fleet;
use scheduler_worker::job::{Evidence, Job, Phase};
use scheduler_worker::lease::Ear;
use scheduler_worker::sweep::{Due, due};
use serde_bytes::ByteBuf;

use crate::cx::{Asks, Cx, Stores};
use crate::message::{Acked, Ms, Msg, Queue, Store, To, Who};
use crate::mutation::Mutation;

pub use auction::Auction;
pub use settle::Ending;
pub use take::Look;

/// Requests to devices wait so long.
const REQUEST: Ms = 5_000;
/// BACK is stored so long.
const BACK_WITHIN: Ms = 15_000;
const SWEEP: Ms = 1_000;
const TICK: Ms = 100;

/// What an answer of the ledger is for.
pub(super) enum Asked {
    Look(JobId),
    Stray {
        device: DeviceId,
        attempt: AttemptId,
        receipt: bus_schemas::ReceiptId,
    },
    End(u64),
    /// After a refusal: the hold is returned.
    Void(u64),
}

/// What a store is for.
#[derive(Clone)]
pub(super) enum Stored {
    History(Option<u64>),
    Back,
    /// BACK with the attempt that has just ended, before its device is told and the job goes on.
    Counted {
        job: JobId,
        ended: usize,
        ready_at: Instant,
        closed: Option<(DeviceId, Closed)>,
    },
    /// BACK before the job is given back.
    GiveBack {
        seq: u64,
        delay: Ms,
    },
}

/// A request to a device.
pub(super) enum Request {
    Assign { job: JobId, attempt: AttemptId, device: DeviceId, assignment: Arc<Proof>, payload: Arc<Payload> },
    Adopt { device: DeviceId, group: Option<JobId> },
    Control,
}

/// A job with the place of its message in JOBS.
pub struct InHand {
    pub job: Job,
    pub seq: u64,
    /// The renewal that is on its way.
    renewal: Option<(u64, Instant)>,
}

pub struct Scheduler {
    n: usize,
    fleet: Fleet,
    jobs: BTreeMap<JobId, InHand>,
    auctions: BTreeMap<u64, Auction>,
    looks: BTreeMap<JobId, Look>,
    on_device: BTreeMap<DeviceId, BTreeSet<JobId>>,
    cancels: BTreeSet<JobId>,
    ready: Vec<JobId>,
    ready_armed: bool,
    tick_armed: bool,
    endings: BTreeMap<u64, Ending>,
    acks: BTreeMap<u64, JobId>,
    closed: BTreeMap<AttemptId, Closed>,
    told: BTreeMap<DeviceId, Vec<Closed>>,
    requests: BTreeMap<u64, Request>,
    asks: Asks<Asked>,
    stores: Stores<Stored>,
    stopping: bool,
    ear: Ear,
}

impl Scheduler {
    pub fn new(n: usize, cx: &mut Cx<'_>) -> Self {
        let now = cx.instant();
        let mut fleet = Fleet::new(cx.cast.net, cx.cast.timings.silence, now);
        for device in 0..cx.cast.device_ids.len() {
            let record = serde_json::to_vec(&cx.cast.record(device)).unwrap_or_default();
            let _ = fleet.record(&record, now, cx.verifier);
        }
        for (device, bytes) in &cx.hub.heartbeats {
            let _ = fleet.heartbeat(*device, bytes, false, now, cx.verifier);
        }
        Self {
            n,
            fleet,
            jobs: BTreeMap::new(),
            auctions: BTreeMap::new(),
            looks: BTreeMap::new(),
            on_device: BTreeMap::new(),
            cancels: if cx.is_broken(Mutation::IgnoreCancel) {
                BTreeSet::new()
            } else {
                cx.hub.cancels.iter().map(|(job, _)| *job).collect()
            },
            ready: vec![],
            ready_armed: false,
            tick_armed: false,
            endings: BTreeMap::new(),
            acks: BTreeMap::new(),
            closed: BTreeMap::new(),
            told: BTreeMap::new(),
            requests: BTreeMap::new(),
            asks: Asks::default(),
            stores: Stores::default(),
            stopping: false,
            ear: Ear::new(now),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.endings.is_empty()
    }
    pub fn jobs(&self) -> impl Iterator<Item = (&JobId, &InHand)> {
        self.jobs.iter()
    }
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub fn on(&mut self, cx: &mut Cx<'_>, msg: Msg) {
        // The shell lets go of what it may have lost before it acts on anything that came while it was not looking.
        if !cx.is_broken(Mutation::NoSelfFencing) {
            self.let_go(cx);
        }
        self.ear.listen(cx.instant(), cx.cast.timings.renewal);
        let before: BTreeMap<JobId, u32> = self.jobs.iter().map(|(id, one)| (*id, one.job.kept.map_or(0, |kept| kept.units))).collect();
        match msg {
            Msg::Start => {
                cx.after(SWEEP, Msg::Sweep);
                cx.after(1, Msg::Beat);
            }
            Msg::Job(delivery) => self.take(cx, delivery),
            Msg::LookRead(job) => self.look_read(cx, job),
            Msg::Bid(bid) => self.hear_bid(cx, bid),
            Msg::Window(round) => self.close_auction(cx, round),
            Msg::AssignAnswered { id, answer } => self.assign_answered(cx, id, answer),
            Msg::ControlAnswered { id, device, reply } => self.control_answered(cx, id, device, Some(reply)),
            Msg::RequestTimeout(id) => self.request_timed_out(cx, id),
            Msg::Receipts { device, bytes } => self.hear_receipts(cx, device, &bytes),
            Msg::Event(event) => self.hear_event(cx, event),
            Msg::Lasts { job, attempt } => self.lasts(cx, job, attempt),
            Msg::Parts { job, device, attempt } => self.parts_found(cx, job, device, attempt),
            Msg::BlobSeen { job, attempt, checkpoint } => self.checkpoint_seen(cx, job, attempt, checkpoint),
            Msg::Heartbeat { device, bytes } => self.hear_heartbeat(cx, device, &bytes),
            Msg::OwnHeartbeat => self.fleet.bus_works(cx.instant()),
            Msg::Cancel { job, member } => self.hear_cancel(cx, job, member),
            Msg::Answer { id, outcomes } => {
                if let Some(asked) = self.asks.answered(id) {
                    self.answered(cx, asked, outcomes);
                }
            }
            Msg::PubAck { id, .. } => {
                if let Some(stored) = self.stores.acked(id) {
                    self.stored(cx, stored);
                }
            }
            Msg::AckNoted { id } => self.noted(cx, id),
            Msg::Again(id) => {
                let _ = self.asks.again(cx, id);
                if let Some(stored) = self.stores.again(cx, id) {
                    self.stored(cx, stored);
                }
                self.ack_again(cx, id);
            }
            Msg::Sweep => {
                cx.after(SWEEP, Msg::Sweep);
                self.sweep(cx);
            }
            Msg::Beat => {
                cx.after(5_000, Msg::Beat);
                if cx.linked {
                    cx.after(3, Msg::OwnHeartbeat);
                }
            }
            Msg::Tick => {
                self.tick_armed = false;
                self.tick(cx);
            }
            Msg::Ready => {
                self.ready_armed = false;
                self.open_auctions(cx);
            }
            Msg::Stop => {
                cx.counters.add("schedulers stopped in order");
                self.stopping = true;
                let all: Vec<JobId> = self.jobs.keys().copied().collect();
                all.iter().for_each(|id| self.give_back(cx, id, 100));
            }
            _ => {}
        }
        for (id, units) in before {
            let after = self.jobs.get(&id).map(|one| (one.job.kept.map_or(0, |kept| kept.units), one.job.units));
            if let Some((kept, whole)) = after
                && (kept < units || (kept > 0 && kept >= whole))
            {
                cx.wrong(format!("the checkpoint of {id:?} went from {units} to {kept} of {whole}"));
            }
        }
    }

    /// Something is done for a job: never with a lease that may be lost.
    pub(super) fn fenced(&self, cx: &mut Cx<'_>, id: &JobId, what: &str) {
        let Some(one) = self.jobs.get(id) else { return };
        let age = cx.instant().duration_since(one.job.lease.confirmed);
        if age >= cx.cast.timings.fence {
            cx.wrong(format!("scheduler {} did something ({what}) for {id:?} with a lease of {age:?}", self.n));
        }
    }

    fn let_go(&mut self, cx: &mut Cx<'_>) {
        let (now, fence) = (cx.instant(), cx.cast.timings.fence);
        let lost: Vec<JobId> =
            self.jobs.iter().filter(|(_, one)| now.duration_since(one.job.lease.confirmed) >= fence).map(|(id, _)| *id).collect();
        for id in lost {
            cx.counters.add("leases given up");
            if cx.is_broken(Mutation::VoidWithoutLease) {
                self.fenced(cx, &id, "void");
                let op = Op::Void { job: id, reason: bus_schemas::ledger::VoidReason::Failed, ended: vec![] };
                let bytes = self.question(cx, vec![op], vec![], vec![]);
                self.asks.ask(cx, bytes, cx.now + 1_000_000, Asked::Void(0));
            }
            self.forget(&id);
        }
    }

    pub(super) fn forget(&mut self, id: &JobId) {
        self.off_device(id);
        self.looks.remove(id);
        self.jobs.remove(id);
        // Its end is not asked for, unless that is under way already.
        self.endings.retain(|_, ending| ending.job != *id || ending.asked);
    }

    pub(super) fn off_device(&mut self, id: &JobId) {
        let Some(one) = self.jobs.get_mut(id) else { return };
        if let Some(device) = one.job.current().map(|attempt| attempt.device)
            && let Some(jobs) = self.on_device.get_mut(&device)
        {
            jobs.remove(id);
        }
        one.job.current = None;
    }

    pub(super) fn need_tick(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.tick_armed, true) {
            cx.after(TICK, Msg::Tick);
        }
    }

    fn tick(&mut self, cx: &mut Cx<'_>) {
        self.confirm_receipts(cx);
        for (device, closed) in std::mem::take(&mut self.told) {
            self.control_device(cx, device, Verb::Closed { attempts: closed }, Request::Control);
        }
    }

    pub(super) fn question(&self, cx: &Cx<'_>, ops: Vec<Op>, assignments: Vec<&Evidence>, receipts: Vec<&Evidence>) -> Bytes {
        let commands: Vec<Command> = ops.into_iter().map(|op| Command { net: cx.cast.net, at: cx.hub_ms(), op }).collect();
        let pack = |all: Vec<&Evidence>| all.into_iter().map(|one| ByteBuf::from(one.proof.encode())).collect();
        let request =
            LedgerRequest { commands: cx.cast.scheduler_key.batch(&commands), assignments: pack(assignments), receipts: pack(receipts) };
        bus_schemas::envelope::encode(&request).into()
    }

    pub(super) fn control_device(&mut self, cx: &mut Cx<'_>, device: DeviceId, verb: Verb, request: Request) {
        let Some(to) = cx.cast.device(&device) else { return };
        let (id, at) = (cx.id(), cx.hub_ms());
        let control = Control { net: cx.cast.net, device, at, exp: at + SKEW_MS, s: cx.cast.instances[self.n].clone(), verb };
        cx.send(Who::Device(to), Msg::Control { from: self.n, id, control: Arc::new(control) });
        cx.after(REQUEST, Msg::RequestTimeout(id));
        self.requests.insert(id, request);
    }

    fn request_timed_out(&mut self, cx: &mut Cx<'_>, id: u64) {
        match self.requests.remove(&id) {
            Some(request @ Request::Assign { .. }) => self.assign_again(cx, request),
            Some(Request::Adopt { device, group }) => self.adopted(cx, device, group, None),
            Some(Request::Control) | None => {}
        }
    }

    fn control_answered(&mut self, cx: &mut Cx<'_>, id: u64, device: DeviceId, reply: Option<bus_schemas::assignment::ControlReply>) {
        if let Some(Request::Adopt { group, .. }) = self.requests.remove(&id) {
            self.adopted(cx, device, group, reply);
        }
    }

    fn stored(&mut self, cx: &mut Cx<'_>, stored: Stored) {
        match stored {
            Stored::History(Some(ending)) => self.written(cx, ending),
            Stored::History(None) | Stored::Back => {}
            Stored::Counted { job, ended, ready_at, closed } => self.counted(cx, job, ended, ready_at, closed),
            Stored::GiveBack { seq, delay } => {
                let from = cx.me;
                cx.send(Who::Hub, Msg::Ack { from, id: 0, queue: Queue::Jobs, seq, what: Acked::Nak(delay) });
            }
        }
    }

    pub(super) fn record(&mut self, cx: &mut Cx<'_>, record: HistoryRecord, ending: Option<u64>) {
        self.stores.store(cx, Store::History(Box::new(record)), Ms::MAX, Stored::History(ending));
    }

    /// What is known goes into BACK first, so that whoever takes it goes on at once.
    pub(super) fn give_back(&mut self, cx: &mut Cx<'_>, id: &JobId, delay: Ms) {
        let Some(one) = self.jobs.get(id) else { return };
        let back = one.job.back(cx.cast.net, cx.hub_ms());
        let knows = one.job.phase != Phase::Looking && one.job.phase != Phase::Closing;
        let seq = one.seq;
        cx.counters.add("jobs given back");
        self.forget(id);
        if knows {
            self.stores.store(cx, Store::Back(Box::new(back)), cx.now + BACK_WITHIN, Stored::GiveBack { seq, delay });
        } else {
            self.stored(cx, Stored::GiveBack { seq, delay });
        }
    }

    fn sweep(&mut self, cx: &mut Cx<'_>) {
        self.renew(cx);
        let (now, at) = (cx.instant(), cx.hub_ms());
        for device in self.fleet.sweep(now, at) {
            cx.counters.add("devices found silent");
            let jobs: Vec<JobId> = self.on_device.get(&device).map(|jobs| jobs.iter().copied().collect()).unwrap_or_default();
            for id in jobs {
                self.attempt_failed(cx, &id, bus_schemas::receipt::FailureClass::DeviceDisconnect, "the device was not heard of");
            }
        }
        let timings = cx.cast.timings;
        let all: Vec<(JobId, Due)> =
            self.jobs.iter().filter_map(|(id, one)| due(&one.job, &timings, at, now).map(|due| (*id, due))).collect();
        for (id, due) in all {
            self.act_on(cx, id, due);
        }
        let looks: Vec<JobId> = self.looks.keys().copied().collect();
        for id in looks {
            self.ask_around(cx, &id);
            self.go_on(cx, &id);
        }
        let over: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(_, one)| matches!(one.job.phase, Phase::BackOff { until } if until <= now))
            .map(|(id, _)| *id)
            .collect();
        over.iter().for_each(|id| self.make_ready(cx, id));
        self.confirm_receipts(cx);
        // Core subscriptions can miss something: read again once a minute.
        if cx.now % 60_000 < SWEEP && cx.linked && !cx.is_broken(Mutation::IgnoreCancel) {
            let all: Vec<_> = cx.hub.cancels.clone();
            all.into_iter().for_each(|(job, member)| self.hear_cancel(cx, job, member));
        }
    }

    fn renew(&mut self, cx: &mut Cx<'_>) {
        let (now, from) = (cx.instant(), cx.me);
        let renewal = cx.cast.timings.renewal;
        for one in self.jobs.values_mut() {
            let age = now.duration_since(one.job.lease.confirmed);
            let asked = one.renewal.is_some_and(|(_, at)| now.duration_since(at).as_millis() < 4_000);
            if age >= renewal && !asked {
                *cx.next_id += 1;
                let id = *cx.next_id;
                one.renewal = Some((id, now));
                let msg = Msg::Ack { from, id, queue: Queue::Jobs, seq: one.seq, what: Acked::InProgress };
                cx.out.push(crate::cx::Effect::Send(To::One(Who::Hub), msg));
            }
        }
    }

    fn noted(&mut self, cx: &mut Cx<'_>, id: u64) {
        if let Some(one) = self.jobs.values_mut().find(|one| one.renewal.is_some_and(|(asked, _)| asked == id)) {
            if let Some((_, asked)) = one.renewal.take() {
                cx.counters.add("leases renewed");
                one.job.lease.confirmed = one.job.lease.confirmed.max(asked);
            }
            return;
        }
        if let Some(job) = self.acks.remove(&id) {
            self.acked(&job);
        }
    }
}
