//! A device: bids, takes work into its queue and WORK, computes by chunks, signs receipts and sends them until they are closed. Deciding is
//! the agent's own `bidding`, `work` and `receipts`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent::bidding::{self, Desk, Offered, expected_ms, minus};
use agent::local::Kept;
use agent::receipts::{self, Draft, Number, Unsettled};
use agent::work::{Admission, FullQueue, Task, Was, Work};
use bus_schemas::assignment::{AssignAnswer, Assignment, Closed, Control, ControlReply, Held as HeldJob, HeldState, Payload, Verb};
use bus_schemas::event::{Checkpoint, Event, EventKind};
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::job::JobSpec;
use bus_schemas::limits::{self, QUEUE_MAX, UNSETTLED_LISTED_MAX};
use bus_schemas::offer::{Bid, BidAnswer, Decline, Offer};
use bus_schemas::receipt::{Failure, FailureClass, Outcome, Receipt};
use bus_schemas::resources::Resources;
use bus_schemas::{AttemptId, Cid, Form, JobId, Proof, strict};
use bytes::Bytes;

use crate::cast::EPOCH;
use crate::cx::Cx;
use crate::disk::DiskState;
use crate::message::{Disk, Ms, Msg, OutboxItem, Store, Who, Wish};
use crate::mutation::Mutation;

const TOTAL: Resources = Resources { cpu_cores: 4, memory_mb: 8_000, storage_mb: 0, gpu_mb: 0 };
/// Texts between two checkpoints.
pub const CHUNK: u32 = 4;
const STORE_MAX: Ms = 5_000;
const GRACE: u64 = 60_000;

/// How one device is.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    pub full: FullQueue,
    pub slots: usize,
    /// Milliseconds for one text.
    pub per_unit_ms: u64,
    /// Of its clock, ahead of the hub's.
    pub skew_ms: i64,
    pub embeds: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Computing,
    Ended,
}

struct Held {
    assignment: Assignment,
    proof: Arc<Proof>,
    to: usize,
    spec: JobSpec,
    stage: Stage,
    started: Option<Ms>,
    arrived: Ms,
    kept: bool,
    told: bool,
    stop: bool,
    resume: Option<Checkpoint>,
    newest: Option<Checkpoint>,
}

/// What a store of the device's is about.
enum Sent {
    Beat,
    Receipts(Number),
    Out(u64),
}

pub struct Device {
    n: usize,
    build: Build,
    work: Work,
    held: BTreeMap<AttemptId, Held>,
    unsettled: Unsettled,
    kept_until_stored: BTreeMap<Number, Vec<AttemptId>>,
    sent: BTreeMap<u64, Sent>,
    /// The answer to an assignment waits for WORK.
    answers: BTreeMap<AttemptId, (usize, u64)>,
    closed: Option<Decline>,
    beat: (Vec<u8>, Bytes),
    next_beat: Ms,
}

impl Device {
    /// Starts, and takes up what WORK kept.
    pub fn new(n: usize, build: Build) -> Self {
        Self {
            n,
            build,
            work: Work::new(build.full, build.slots, TOTAL),
            held: BTreeMap::new(),
            unsettled: Unsettled::default(),
            kept_until_stored: BTreeMap::new(),
            sent: BTreeMap::new(),
            answers: BTreeMap::new(),
            closed: None,
            beat: (vec![], Bytes::new()),
            next_beat: 0,
        }
    }
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }
    pub fn at_work(&self) -> usize {
        self.work.waiting() + self.work.running()
    }

    fn here_ms(&self, cx: &Cx<'_>) -> u64 {
        (EPOCH + cx.now).saturating_add_signed(self.build.skew_ms)
    }

    pub fn on(&mut self, cx: &mut Cx<'_>, disk: &DiskState, msg: Msg) {
        let (waited, restarts) = (self.work.waiting(), matches!(msg, Msg::Start));
        match msg {
            Msg::Start => {
                self.resume(cx, disk);
                cx.after(1, Msg::Beat);
                cx.after(5, Msg::Forward);
            }
            Msg::Beat => self.heartbeat(cx),
            Msg::Offer { from, offer } => self.bid(cx, from, &offer),
            Msg::Assign { from, id, assignment, payload } => self.assign(cx, disk, from, id, assignment, &payload),
            Msg::KeptInWork(attempt) => self.kept(cx, attempt),
            Msg::Control { from, id, control } => self.control(cx, from, id, &control),
            Msg::Engine { attempt, units } => self.engine(cx, attempt, units),
            Msg::Tick => self.tell_started(cx),
            Msg::PubAck { id, .. } => self.acked(cx, id),
            Msg::RequestTimeout(id) => self.timed_out(cx, disk, id),
            Msg::Forward => self.forward(cx, disk),
            Msg::Owner(Wish::Pause) => {
                cx.counters.add("devices paused");
                self.closed = Some(Decline::Paused);
                self.hand_back(cx, "paused by its owner");
            }
            Msg::Owner(Wish::Resume) => self.closed = None,
            _ => {}
        }
        self.start_waiting(cx);
        // What ran before a restart waits behind the queue.
        if self.work.waiting() > QUEUE_MAX.max(waited) && !restarts {
            cx.wrong(format!("{} jobs wait on device {}", self.work.waiting(), self.n));
        }
    }

    fn resume(&mut self, cx: &mut Cx<'_>, disk: &DiskState) {
        for (attempt, kept) in &disk.work {
            let taken = self.take_up(cx, *attempt, kept);
            if taken.is_none() {
                cx.disk(Disk::Done(*attempt));
            } else {
                cx.counters.add("jobs taken up after a restart");
            }
        }
    }

    fn take_up(&mut self, cx: &mut Cx<'_>, attempt: AttemptId, kept: &Kept) -> Option<()> {
        let assignment = kept.assignment.verify::<Assignment>(cx.verifier).ok()?.into_body();
        if assignment.assigned_at + assignment.timeout_ms + GRACE < cx.hub_ms() {
            return None;
        }
        let spec = JobSpec::parse(kept.payload.form, &kept.payload.body).ok()?;
        match self.work.admit_again(self.task(&assignment, attempt, &spec)) {
            Admission::Queue { .. } => {}
            Admission::Run | Admission::Known(_) | Admission::Decline(_) => return None,
        }
        let to = cx.cast.scheduler(&kept.s)?;
        let resume = kept.resume.or(assignment.resume);
        let proof = Arc::new(kept.assignment.clone());
        self.hold(cx, attempt, assignment, proof, to, spec, resume);
        if let Some(held) = self.held.get_mut(&attempt) {
            held.kept = true;
        }
        self.work.stored(&attempt);
        Some(())
    }

    #[allow(clippy::too_many_arguments)] // Each is a thing of its own.
    fn hold(
        &mut self,
        cx: &Cx<'_>,
        attempt: AttemptId,
        assignment: Assignment,
        proof: Arc<Proof>,
        to: usize,
        spec: JobSpec,
        resume: Option<Checkpoint>,
    ) {
        let held = Held {
            assignment,
            proof,
            to,
            spec,
            stage: Stage::Waiting,
            started: None,
            arrived: cx.now,
            kept: false,
            told: false,
            stop: false,
            resume,
            newest: None,
        };
        self.held.insert(attempt, held);
    }

    fn per_unit_us(&self, kind: &str) -> u64 {
        if kind == "echo" { 50 } else { self.build.per_unit_ms * 1000 }
    }

    fn task(&self, assignment: &Assignment, attempt: AttemptId, spec: &JobSpec) -> Task {
        let units = spec.units().saturating_sub(assignment.resume.map_or(0, |resume| resume.units));
        Task {
            job: assignment.job,
            attempt,
            number: assignment.attempt,
            class: spec.priority,
            needs: spec.required_resources,
            expected_ms: expected_ms(units, self.per_unit_us(&spec.kind)),
            instant: spec.kind == "echo",
        }
    }

    fn bid(&mut self, cx: &mut Cx<'_>, from: usize, offer: &Offer) {
        let offered = |kind: &str, instant| Offered { kind: kind.into(), instant, per_unit_us: self.per_unit_us(kind), warm_up_ms: 0 };
        let mut all = vec![offered("echo", true)];
        if self.build.embeds {
            all.push(offered("embed", false));
        }
        let desk = Desk {
            offered: all,
            closed: self.closed.clone(),
            total: TOTAL,
            free: minus(&TOTAL, &self.work.reserved()),
            waiting: self.work.waiting(),
            gives_way: self.work.gives_way(),
            busy_ms: self.work.busy_ms(),
            tier: 1,
        };
        let answer = if offer.exp + 20 < cx.hub_ms() { BidAnswer::No(Decline::Expired) } else { bidding::answer(offer, &desk) };
        if matches!(answer, BidAnswer::No(Decline::QueueFull)) {
            cx.counters.add("offers refused, queue full");
        }
        let (net, device) = (cx.cast.net, cx.cast.device_ids[self.n]);
        let to = cx.cast.instances[from].clone();
        let bid = Bid { net, device, to, at: self.here_ms(cx), job: offer.job, round: offer.round, answer };
        cx.send(Who::Scheduler(from), Msg::Bid(bid));
    }

    fn assign(&mut self, cx: &mut Cx<'_>, disk: &DiskState, from: usize, id: u64, proof: Arc<Proof>, payload: &Arc<Payload>) {
        let answer = match self.check(cx, &proof, payload) {
            Ok((assignment, spec)) => self.take(cx, disk, from, id, assignment, spec, proof, payload),
            Err(no) => Some(AssignAnswer::Declined(no)),
        };
        if let Some(answer) = answer {
            cx.send(Who::Scheduler(from), Msg::AssignAnswered { id, answer });
        }
    }

    fn check(&self, cx: &mut Cx<'_>, proof: &Proof, payload: &Payload) -> Result<(Assignment, JobSpec), Decline> {
        let invalid = |what: &str| Decline::Invalid(what.to_owned());
        let assignment = proof.verify::<Assignment>(cx.verifier).map_err(|problem| invalid(&problem.to_string()))?.into_body();
        if assignment.device != cx.cast.device_ids[self.n] {
            return Err(invalid("it is for another device"));
        }
        if assignment.exp < cx.hub_ms() {
            cx.counters.add("assignments that came too late");
            return Err(Decline::Expired);
        }
        if Cid::of(&payload.body) != assignment.payload {
            return Err(invalid("the body is not the one that was assigned"));
        }
        if let Some(why) = &self.closed {
            return Err(why.clone());
        }
        let spec = JobSpec::parse(payload.form, &payload.body).map_err(|problem| invalid(&problem.to_string()))?;
        Ok((assignment, spec))
    }

    #[allow(clippy::too_many_arguments)] // One step of `assign`.
    fn take(
        &mut self,
        cx: &mut Cx<'_>,
        disk: &DiskState,
        from: usize,
        id: u64,
        assignment: Assignment,
        spec: JobSpec,
        proof: Arc<Proof>,
        payload: &Arc<Payload>,
    ) -> Option<AssignAnswer> {
        let attempt = AttemptId(Cid::of(&proof.b));
        let task = self.task(&assignment, attempt, &spec);
        let resume = assignment.resume;
        match self.work.admit(task) {
            Admission::Decline(no) => {
                cx.counters.add(if no == Decline::Superseded { "older attempts refused" } else { "assignments declined" });
                Some(AssignAnswer::Declined(no))
            }
            Admission::Known(state) => {
                cx.counters.add("assignments that were known");
                self.redirect(cx, &attempt, from);
                Some(match state {
                    HeldState::Waiting | HeldState::Running => AssignAnswer::Running,
                    HeldState::Done => AssignAnswer::Done,
                })
            }
            Admission::Run => {
                self.hold(cx, attempt, assignment, proof, from, spec, None);
                cx.send(Who::Scheduler(from), Msg::AssignAnswered { id, answer: AssignAnswer::Accepted });
                self.ended_at_once(cx, &attempt);
                None
            }
            Admission::Queue { dropped } => {
                if let Some(dropped) = dropped {
                    self.drop_from_queue(cx, &dropped);
                }
                let running = self.held.iter().find(|(_, held)| held.stage == Stage::Computing).map(|(attempt, _)| *attempt);
                if let Some(running) = running.filter(|_| cx.is_broken(Mutation::DropRunning)) {
                    self.drop_from_queue(cx, &running);
                }
                if disk.full {
                    cx.counters.add("declined, disk full");
                    self.work.close(&attempt);
                    return Some(AssignAnswer::Declined(Decline::Resources("the local store: no space".into())));
                }
                let s = cx.cast.instances[from].clone();
                let kept = Kept { s, assignment: (*proof).clone(), payload: (**payload).clone(), resume: None };
                self.hold(cx, attempt, assignment, proof, from, spec, resume);
                self.answers.insert(attempt, (from, id));
                cx.disk(Disk::Keep(attempt, Box::new(kept)));
                cx.after(1, Msg::KeptInWork(attempt));
                None
            }
        }
    }

    fn kept(&mut self, cx: &mut Cx<'_>, attempt: AttemptId) {
        if let Some(held) = self.held.get_mut(&attempt) {
            held.kept = held.stage != Stage::Ended;
        }
        self.work.stored(&attempt);
        if let Some((from, id)) = self.answers.remove(&attempt) {
            cx.send(Who::Scheduler(from), Msg::AssignAnswered { id, answer: AssignAnswer::Accepted });
        }
    }

    fn drop_from_queue(&mut self, cx: &mut Cx<'_>, attempt: &AttemptId) {
        cx.counters.add("dropped from a full queue");
        if self.held.get(attempt).is_some_and(|held| held.stage == Stage::Computing) {
            cx.wrong("a running job was dropped from the queue");
        }
        let why = "its place in the device's queue went to a newer job";
        self.event(cx, attempt, EventKind::Dropped { reason: why.into() });
        self.fail(cx, attempt, FailureClass::DeviceDeclined, why, true);
    }

    fn start_waiting(&mut self, cx: &mut Cx<'_>) {
        while let Some(task) = self.work.start_next() {
            let other = |(other, held): (&AttemptId, &Held)| {
                held.stage == Stage::Computing && held.assignment.job == task.job && *other != task.attempt
            };
            if self.held.iter().any(other) {
                cx.wrong(format!("device {} runs two attempts of {:?} at once", self.n, task.job));
            }
            let Some(held) = self.held.get_mut(&task.attempt) else {
                self.work.close(&task.attempt);
                continue;
            };
            (held.started, held.stage) = (Some(cx.now), Stage::Computing);
            cx.runs.push(task.job);
            let from = held.resume.map_or(0, |resume| resume.units);
            if from > 0 {
                cx.counters.add("resumed behind a checkpoint");
            }
            cx.after(1_000, Msg::Tick);
            self.next_chunk(cx, task.attempt, from);
        }
    }

    fn next_chunk(&mut self, cx: &mut Cx<'_>, attempt: AttemptId, done: u32) {
        let Some(held) = self.held.get(&attempt) else { return };
        let units = held.spec.units().min(done + CHUNK);
        let took = u64::from(units - done) * self.build.per_unit_ms;
        cx.after(took.max(1), Msg::Engine { attempt, units });
    }

    /// The engine has done so many texts, or was stopped at them.
    fn engine(&mut self, cx: &mut Cx<'_>, attempt: AttemptId, units: u32) {
        let Some(held) = self.held.get_mut(&attempt).filter(|held| held.stage == Stage::Computing) else { return };
        let ran = cx.now - held.started.unwrap_or(cx.now);
        if held.stop {
            return self.finish(cx, &attempt, Outcome::Cancelled, None);
        }
        if ran > held.assignment.timeout_ms {
            cx.counters.add("timed out on the device");
            return self.fail(cx, &attempt, FailureClass::Timeout, "it took longer than its timeout", true);
        }
        if units < held.spec.units() {
            let part = format!("{}:{units}", held.assignment.job);
            let checkpoint = Checkpoint { cid: Cid::of(part.as_bytes()), bytes: 100, units };
            held.newest = Some(checkpoint);
            if held.kept {
                cx.disk(Disk::KeepOn(attempt, checkpoint));
            }
            self.event(cx, &attempt, EventKind::Checkpoint(checkpoint));
            return self.next_chunk(cx, attempt, units);
        }
        let text = held.spec.text.as_ref().and_then(|text| text.as_slice().first()).map_or("", String::as_str);
        if text.contains("poison") {
            cx.counters.add("failed on a device");
            return self.fail(cx, &attempt, FailureClass::ExecutionError, "it cannot be computed here", true);
        }
        if text.contains("broken") {
            return self.fail(cx, &attempt, FailureClass::ExecutionError, "it cannot be computed at all", false);
        }
        let result = Bytes::from(format!(r#"{{"of":"{}"}}"#, held.assignment.job));
        self.finish(cx, &attempt, receipts::completed(&result), Some(result));
    }

    fn ended_at_once(&mut self, cx: &mut Cx<'_>, attempt: &AttemptId) {
        let Some(held) = self.held.get(attempt) else { return };
        let result = Bytes::from(format!(r#"{{"of":"{}"}}"#, held.assignment.job));
        self.finish(cx, attempt, receipts::completed(&result), Some(result));
    }

    fn tell_started(&mut self, cx: &mut Cx<'_>) {
        let ready = |held: &Held| {
            held.stage == Stage::Computing && !held.told && held.started.is_some_and(|at| cx.now - at >= limits::STARTED_AFTER_MS)
        };
        let all: Vec<AttemptId> = self.held.iter().filter(|(_, held)| ready(held)).map(|(attempt, _)| *attempt).collect();
        for attempt in all {
            if let Some(held) = self.held.get_mut(&attempt) {
                held.told = true;
            }
            self.event(cx, &attempt, EventKind::Started);
        }
    }

    fn event(&mut self, cx: &mut Cx<'_>, attempt: &AttemptId, what: EventKind) {
        let Some(held) = self.held.get(attempt) else { return };
        let (net, device, at) = (cx.cast.net, cx.cast.device_ids[self.n], self.here_ms(cx));
        cx.store_once(Store::Event(Event { net, device, at, job: held.assignment.job, attempt: *attempt, what }));
    }

    fn cancel(&mut self, cx: &mut Cx<'_>, attempt: &AttemptId) {
        let Some(held) = self.held.get_mut(attempt) else { return };
        match (self.work.look(attempt), held.stage) {
            (Was::Running, Stage::Computing) => {
                held.stop = true;
                let units = held.newest.map_or(0, |newest| newest.units);
                cx.after(200, Msg::Engine { attempt: *attempt, units });
            }
            (Was::Running | Was::Waiting, _) => self.finish(cx, attempt, Outcome::Cancelled, None),
            (Was::Done | Was::Unknown, _) => {}
        }
    }

    fn fail(&mut self, cx: &mut Cx<'_>, attempt: &AttemptId, class: FailureClass, message: &str, retryable: bool) {
        self.finish(cx, attempt, Outcome::Failed(Failure { class, message: message.into(), retryable }), None);
    }

    fn finish(&mut self, cx: &mut Cx<'_>, attempt: &AttemptId, outcome: Outcome, result: Option<Bytes>) {
        let at = self.here_ms(cx);
        let Some(held) = self.held.get_mut(attempt).filter(|held| held.stage != Stage::Ended) else { return };
        let cancelled = matches!(outcome, Outcome::Cancelled);
        let took = held.started.map(|started| (cx.now - started).max(1));
        let receipt = Receipt {
            net: cx.cast.net,
            device: cx.cast.device_ids[self.n],
            job: held.assignment.job,
            attempt: *attempt,
            at,
            outcome,
            claimed_ms: if cancelled && held.started.is_none() { 0 } else { took.unwrap_or(1) },
            waited_ms: held.started.unwrap_or(cx.now) - held.arrived,
        };
        held.stage = Stage::Ended;
        let (to, kept) = (held.to, std::mem::take(&mut held.kept));
        self.work.finish(attempt);
        let bytes = receipts::sign(&cx.cast.devices[self.n], &[Draft { receipt, result }]);
        let s = cx.cast.instances[to].clone();
        let number = self.unsettled.add(s, vec![*attempt], bytes, Duration::from_millis(cx.now));
        if kept {
            self.kept_until_stored.insert(number, vec![*attempt]);
        }
        self.send_message(cx, number, false);
    }

    fn send_message(&mut self, cx: &mut Cx<'_>, number: Number, to_any: bool) {
        let Some(message) = self.unsettled.get(number) else { return };
        let to = if to_any { None } else { cx.cast.scheduler(&message.to) };
        let what = Store::Receipts { device: cx.cast.device_ids[self.n], to, bytes: message.bytes.clone() };
        let id = cx.store_once(what);
        cx.after(STORE_MAX, Msg::RequestTimeout(id));
        self.sent.insert(id, Sent::Receipts(number));
        if cx.is_broken(Mutation::ForgetReceipt) {
            let all: Vec<AttemptId> = self.held.keys().filter(|attempt| self.unsettled.of(attempt) == Some(number)).copied().collect();
            for attempt in all {
                self.work.close(&attempt);
                self.unsettled.close(&attempt);
                self.held.remove(&attempt);
                cx.disk(Disk::Done(attempt));
            }
        }
    }

    fn receipts_sent(&mut self, cx: &mut Cx<'_>, number: Number, stored: bool) {
        let now = Duration::from_millis(cx.now);
        if !stored {
            return self.unsettled.sent(number, now, Duration::from_secs(1));
        }
        self.unsettled.stored(number);
        self.unsettled.sent(number, now, cx.cast.timings.renewal);
        for attempt in self.kept_until_stored.remove(&number).unwrap_or_default() {
            cx.disk(Disk::Done(attempt));
        }
    }

    fn acked(&mut self, cx: &mut Cx<'_>, id: u64) {
        match self.sent.remove(&id) {
            Some(Sent::Beat) => {
                let due = self.unsettled.due(Duration::from_millis(cx.now), cx.cast.timings.renewal);
                for number in due {
                    cx.counters.add("receipts sent again");
                    self.send_message(cx, number, true);
                }
            }
            Some(Sent::Receipts(number)) => self.receipts_sent(cx, number, true),
            Some(Sent::Out(seq)) => cx.disk(Disk::OutAcked(seq)),
            None => {}
        }
    }

    fn timed_out(&mut self, cx: &mut Cx<'_>, disk: &DiskState, id: u64) {
        match self.sent.remove(&id) {
            Some(Sent::Beat) => {
                self.next_beat = cx.now + 500;
                cx.after(500, Msg::Beat);
            }
            Some(Sent::Receipts(number)) => {
                let Some(message) = self.unsettled.get(number) else { return };
                if !disk.full {
                    cx.counters.add("receipts through the outbox");
                    cx.disk(Disk::Out(OutboxItem::Receipts(message.bytes.clone())));
                    cx.after(1, Msg::Forward);
                }
                self.receipts_sent(cx, number, !disk.full);
            }
            Some(Sent::Out(_)) => cx.after(500, Msg::Forward),
            None => {}
        }
    }

    /// Each message of the OUTBOX, until the hub has it.
    fn forward(&mut self, cx: &mut Cx<'_>, disk: &DiskState) {
        for (seq, item) in &disk.outbox {
            if self.sent.values().any(|sent| matches!(sent, Sent::Out(under_way) if under_way == seq)) {
                continue;
            }
            let what = match item {
                OutboxItem::Submit(_, submission) => Store::Submit(submission.clone()),
                OutboxItem::Receipts(bytes) => Store::Receipts { device: cx.cast.device_ids[self.n], to: None, bytes: bytes.clone() },
            };
            let id = cx.store_once(what);
            cx.after(STORE_MAX, Msg::RequestTimeout(id));
            if cx.is_broken(Mutation::OutboxDeletedFirst) {
                cx.disk(Disk::OutAcked(*seq));
            }
            self.sent.insert(id, Sent::Out(*seq));
        }
    }

    fn heartbeat(&mut self, cx: &mut Cx<'_>) {
        if cx.now < self.next_beat {
            return;
        }
        self.next_beat = cx.now + 5_000;
        let (unsettled, unsettled_more) = self.work.unsettled(UNSETTLED_LISTED_MAX);
        let mut kinds = vec!["echo".to_owned()];
        if self.build.embeds {
            kinds.push("embed".into());
        }
        let heartbeat = Heartbeat {
            net: cx.cast.net,
            device: cx.cast.device_ids[self.n],
            at: EPOCH,
            name: format!("d{}", self.n),
            version: "simulated".into(),
            kinds,
            capabilities: vec![],
            trust_scopes: vec![],
            federations: vec![],
            claimed_tier: 1,
            total: TOTAL,
            free: TOTAL,
            jobs: self.work.at_work(),
            unsettled,
            unsettled_more,
            not_working: self.closed.as_ref().map(ToString::to_string),
            consent_at: None,
        };
        let body = bus_schemas::envelope::encode(&heartbeat);
        if body != self.beat.0 {
            let bytes = cx.cast.devices[self.n].batch_of_bytes::<Heartbeat>(Form::Msgpack, vec![body.clone()]).encode();
            self.beat = (body, bytes.into());
        }
        let id = cx.store_once(Store::Heartbeat { device: cx.cast.device_ids[self.n], bytes: self.beat.1.clone() });
        self.sent.insert(id, Sent::Beat);
        cx.after(2_000, Msg::RequestTimeout(id));
        cx.after(5_000, Msg::Beat);
    }

    fn control(&mut self, cx: &mut Cx<'_>, from: usize, id: u64, control: &Control) {
        let mut reply = ControlReply::default();
        if control.exp < cx.hub_ms() {
            reply.declined = Some(Decline::Expired);
        } else {
            match &control.verb {
                Verb::Adopt { jobs } if cx.is_broken(Mutation::DenyOnAdopt) => drop(jobs.clone()),
                Verb::Adopt { jobs } => reply.have = self.adopt(cx, jobs, from),
                Verb::Have => reply.have = self.have(None),
                Verb::Cancel { attempts } => attempts.iter().for_each(|attempt| self.cancel(cx, attempt)),
                Verb::Closed { attempts } => attempts.iter().for_each(|closed| self.close(cx, closed)),
            }
        }
        let device = cx.cast.device_ids[self.n];
        cx.send(Who::Scheduler(from), Msg::ControlAnswered { id, device, reply });
    }

    fn have(&self, jobs: Option<&[JobId]>) -> Vec<HeldJob> {
        let all = self.work.held(jobs).into_iter();
        let shown = |(job, attempt, state)| Some(HeldJob { job, assignment: (*self.held.get(&attempt)?.proof).clone(), state });
        all.filter_map(shown).collect()
    }

    fn adopt(&mut self, cx: &mut Cx<'_>, jobs: &[JobId], to: usize) -> Vec<HeldJob> {
        let have = self.have(Some(jobs));
        for (_, attempt, _) in self.work.held(Some(jobs)) {
            self.redirect(cx, &attempt, to);
            if let Some(newest) = self.held.get(&attempt).and_then(|held| held.newest) {
                self.event(cx, &attempt, EventKind::Checkpoint(newest));
            }
        }
        have
    }

    fn redirect(&mut self, cx: &mut Cx<'_>, attempt: &AttemptId, to: usize) {
        if let Some(held) = self.held.get_mut(attempt) {
            held.to = to;
        }
        if let Some(number) = self.unsettled.of(attempt) {
            self.unsettled.redirect(number, &cx.cast.instances[to]);
            self.send_message(cx, number, false);
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>, closed: &Closed) {
        self.work.close(&closed.attempt);
        self.unsettled.close(&closed.attempt);
        if self.held.remove(&closed.attempt).is_some_and(|held| held.kept) {
            cx.disk(Disk::Done(closed.attempt));
        }
    }

    fn hand_back(&mut self, cx: &mut Cx<'_>, why: &str) {
        for attempt in self.work.attempts_at_work() {
            cx.counters.add("handed back by a device");
            self.fail(cx, &attempt, FailureClass::DeviceDeclined, why, true);
        }
    }
}

/// The receipts of one message, for who looks from outside.
pub fn receipts_of(bytes: &Bytes) -> Vec<(Cid, Receipt)> {
    let Ok(message) = strict::decode::<bus_schemas::receipt::ReceiptMessage>(Form::Msgpack, bytes, limits::CROSSING_BYTES_MAX) else {
        return vec![];
    };
    let read = |body: &serde_bytes::ByteBuf| {
        let receipt = strict::decode::<Receipt>(Form::Msgpack, body, limits::BODY_BYTES_MAX).ok()?;
        Some((Cid::of(body), receipt))
    };
    message.receipts.b.iter().filter_map(read).collect()
}
