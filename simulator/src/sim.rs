//! The loop: takes the next event, lets a process handle it, carries out what it asks for as far as it lives, and checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bus_schemas::assignment::Assignment;
use bus_schemas::ledger::Policy;
use bus_schemas::{AttemptId, Cid, JobId, MilliMana, Verifier};
use fastrand::Rng;
use gateway::admission::{self, Headers};

use crate::cast::{Cast, EPOCH, WORKERS, cast};
use crate::check::Truth;
use crate::counters::Counters;
use crate::cx::{Cx, Effect, Stores};
use crate::device::Device;
use crate::disk::DiskState;
use crate::gateway::Gateway;
use crate::hub::{Gone, Hub, Stored};
use crate::ledger::Ledger;
use crate::message::{Disk, Ms, Msg, OutboxItem, Store, Submission, To, Who};
use crate::mutation::Mutation;
use crate::plan::{Plan, Profile};
use crate::scheduler::Scheduler;
use crate::trace::{detail, name};

mod end;
mod faults;

/// A run that is not quiet by then never will be.
const END: Ms = 3_600_000;

#[allow(clippy::large_enum_variant)] // nearly all events are the large one
enum Event {
    /// For the process of this generation, or for whoever is there.
    Deliver {
        to: Who,
        generation: Option<u32>,
        msg: Msg,
    },
    HubTick,
    /// Each second: faults come and go.
    Second,
    Restart(Who),
}

/// What is there of a process.
enum Actor {
    Gateway(Box<Gateway>),
    Scheduler(Box<Scheduler>),
    Ledger(Box<Ledger>),
    Device(Box<Device>),
    Down,
}

struct Process {
    actor: Actor,
    generation: u32,
    frozen_until: Ms,
    /// Nothing goes to the hub, or nothing comes from it, until then.
    cut_out: Ms,
    cut_in: Ms,
}

/// The outcome of one seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub seed: u64,
    pub profile: Profile,
    /// The same for the same seed.
    pub hash: u64,
    pub events: u64,
    pub ended_at: Ms,
    pub counters: Counters,
    /// What must not be, the first of it.
    pub wrong: Option<String>,
}

/// How a seed is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub broken: Option<Mutation>,
    /// Prints every event.
    pub trace: bool,
}

struct Sim {
    cast: &'static Cast,
    options: Options,
    plan: Plan,
    rng: Rng,
    now: Ms,
    queue: BTreeMap<(Ms, u64), Event>,
    next_event: u64,
    next_id: u64,
    hub: Hub,
    processes: BTreeMap<Who, Process>,
    disks: Vec<DiskState>,
    client: Stores<usize>,
    cancels: BTreeMap<u64, usize>,
    truth: Truth,
    counters: Counters,
    hash: u64,
    events: u64,
    /// Jobs of each submission, and whether somebody was told that it is kept.
    jobs_of: Vec<Vec<JobId>>,
    acked: BTreeSet<usize>,
    /// Kept in an OUTBOX that was wiped before it went on.
    wiped: BTreeSet<usize>,
    cancel_done: BTreeMap<JobId, Ms>,
    quiet_since: Option<Ms>,
    /// Ids of the copies that a submission has in SUBMIT.
    hub_tick: BTreeSet<Ms>,
}

/// Runs one seed to its end, or to the first thing that must not be.
pub fn run(seed: u64, options: Options, verifier: &mut Verifier) -> Outcome {
    let cast = cast();
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::new(seed, cast, &mut rng);
    let mut sim = Sim::new(cast, options, plan, rng);
    sim.begin(verifier);
    sim.go(verifier);
    Outcome {
        seed,
        profile: sim.plan.profile,
        hash: sim.hash,
        events: sim.events,
        ended_at: sim.now,
        counters: sim.counters,
        wrong: sim.truth.wrong.first().cloned(),
    }
}

impl Sim {
    fn new(cast: &'static Cast, options: Options, plan: Plan, rng: Rng) -> Self {
        let disk = |n: usize| DiskState { outbox_id: format!("o{n}"), ..DiskState::default() };
        Self {
            cast,
            options,
            disks: (0..plan.devices.len()).map(disk).collect(),
            jobs_of: vec![vec![]; plan.submissions.len()],
            plan,
            rng,
            now: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            next_id: 0,
            hub: Hub::default(),
            processes: BTreeMap::new(),
            client: Stores::default(),
            cancels: BTreeMap::new(),
            truth: Truth::new(cast),
            counters: Counters::default(),
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            acked: BTreeSet::new(),
            wiped: BTreeSet::new(),
            cancel_done: BTreeMap::new(),
            quiet_since: None,
            hub_tick: BTreeSet::new(),
        }
    }

    fn begin(&mut self, verifier: &mut Verifier) {
        let vesting_ms = if self.rng.bool() { 20_000 } else { 0 };
        let rules = Policy { fee_bp: 500, vesting_ms, ..Policy::first(MilliMana::ZERO) };
        for bytes in self.cast.first_messages(&self.plan.grants, rules) {
            self.hub.ledger.push((bytes.clone(), 0));
            self.truth.ledger_stored(verifier, self.hub.ledger_end(), &bytes);
        }
        let workers = (0..WORKERS).flat_map(|n| [Who::Gateway(n), Who::Scheduler(n), Who::Ledger(n)]);
        let all: Vec<Who> = workers.chain((0..self.disks.len()).map(Who::Device)).collect();
        for who in all {
            let process = Process { actor: Actor::Down, generation: 0, frozen_until: 0, cut_out: 0, cut_in: 0 };
            self.processes.insert(who, process);
            let at = self.rng.u64(0..500);
            self.schedule(at, Event::Restart(who));
        }
        for n in 0..self.plan.submissions.len() {
            self.schedule(self.plan.submissions[n].at, Event::Deliver { to: Who::Client, generation: None, msg: Msg::Submit(n) });
        }
        self.schedule(1_000, Event::Second);
    }

    fn go(&mut self, verifier: &mut Verifier) {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.events += 1;
            match event {
                Event::Deliver { to, generation, msg } => self.deliver(verifier, to, generation, msg),
                Event::HubTick => self.hub_tick(),
                Event::Second => {
                    self.second();
                    if self.quiet_since.is_some_and(|since| at - since > 12_000) {
                        self.finish(verifier);
                        return;
                    }
                }
                Event::Restart(who) => self.restart(verifier, who),
            }
            if !self.truth.wrong.is_empty() {
                return;
            }
            if at > END {
                let left = self.what_is_left();
                self.truth.wrong.push(format!("it never ends: {left}"));
                return;
            }
        }
    }

    fn schedule(&mut self, at: Ms, event: Event) {
        self.next_event += 1;
        self.queue.insert((at.max(self.now), self.next_event), event);
    }

    fn roll(&mut self, chance: u16) -> bool {
        self.has_faults() && chance > 0 && self.rng.u16(0..10_000) < chance
    }
    fn has_faults(&self) -> bool {
        self.now < self.plan.faults_until
    }

    fn note(&mut self, to: Who, msg: &Msg) {
        let name = name(msg);
        if self.options.trace {
            eprintln!("{:>8} {to:?} {name} {}", self.now, detail(msg));
        }
        let mut step = |byte: u8| self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        self.now.to_le_bytes().into_iter().chain(name.bytes()).chain(format!("{to:?}").bytes()).for_each(&mut step);
    }

    fn deliver(&mut self, verifier: &mut Verifier, to: Who, generation: Option<u32>, msg: Msg) {
        match to {
            Who::Hub => {
                self.note(to, &msg);
                self.at_hub(verifier, msg);
            }
            Who::Client => {
                self.note(to, &msg);
                self.at_client(verifier, msg);
            }
            Who::Gateway(_) | Who::Scheduler(_) | Who::Ledger(_) | Who::Device(_) => self.at_process(verifier, to, generation, msg),
        }
    }

    fn at_process(&mut self, verifier: &mut Verifier, who: Who, generation: Option<u32>, msg: Msg) {
        let Some(process) = self.processes.get_mut(&who) else { return };
        if generation.is_some_and(|generation| generation != process.generation) || matches!(process.actor, Actor::Down) {
            return;
        }
        if process.frozen_until > self.now {
            let at = process.frozen_until;
            return self.schedule(at, Event::Deliver { to: who, generation: Some(self.processes[&who].generation), msg });
        }
        self.note(who, &msg);
        let stops = matches!(msg, Msg::Stop);
        let chance = match who {
            Who::Scheduler(_) => self.plan.faults.crash_scheduler,
            Who::Ledger(_) => self.plan.faults.crash_ledger,
            Who::Device(_) => self.plan.faults.crash_device,
            Who::Gateway(_) | Who::Client | Who::Hub => self.plan.faults.crash_worker,
        };
        let dies = !matches!(msg, Msg::Heartbeat { .. }) && self.roll(chance);
        let effects = self.handle(verifier, who, msg);
        let done = if dies { self.rng.usize(0..=effects.len()) } else { effects.len() };
        for effect in effects.into_iter().take(done) {
            self.carry_out(who, effect);
        }
        if dies {
            self.counters.add("crashes between two effects");
            let after = self.rng.u64(200..30_000);
            self.kill(who, after);
        } else if stops {
            // What it gave back is stored and acknowledged before it goes.
            self.schedule(
                self.now + 6_000,
                Event::Deliver { to: who, generation: Some(self.processes[&who].generation), msg: Msg::Submit(0) },
            );
        }
    }

    fn kill(&mut self, who: Who, after: Ms) {
        let Some(process) = self.processes.get_mut(&who) else { return };
        process.actor = Actor::Down;
        process.generation += 1;
        process.frozen_until = 0;
        self.schedule(self.now + after, Event::Restart(who));
    }

    fn restart(&mut self, verifier: &mut Verifier, who: Who) {
        if !matches!(self.processes[&who].actor, Actor::Down) {
            return;
        }
        let mut out = vec![];
        let actor = self.with(verifier, who, &mut out, |cx, plan, _| match who {
            Who::Gateway(_) => Actor::Gateway(Box::default()),
            Who::Scheduler(n) => Actor::Scheduler(Box::new(Scheduler::new(n, cx))),
            Who::Ledger(_) => Actor::Ledger(Box::new(Ledger::new(cx))),
            Who::Device(n) => Actor::Device(Box::new(Device::new(n, plan.devices[n]))),
            Who::Client | Who::Hub => Actor::Down,
        });
        let Some(process) = self.processes.get_mut(&who) else { return };
        process.actor = actor;
        let generation = Some(process.generation);
        self.schedule(self.now, Event::Deliver { to: who, generation, msg: Msg::Start });
        self.hub_soon(1);
    }

    /// Lets something be done with the world in hand.
    fn with<T>(
        &mut self,
        verifier: &mut Verifier,
        who: Who,
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Cx<'_>, &Plan, &[DiskState]) -> T,
    ) -> T {
        let linked = self.processes.get(&who).is_none_or(|process| process.cut_in <= self.now && process.cut_out <= self.now);
        let (mut wrong, mut runs) = (vec![], vec![]);
        let mut cx = Cx {
            now: self.now,
            me: who,
            cast: self.cast,
            hub: &self.hub,
            linked,
            rng: &mut self.rng,
            verifier,
            counters: &mut self.counters,
            out,
            wrong: &mut wrong,
            runs: &mut runs,
            broken: self.options.broken,
            next_id: &mut self.next_id,
        };
        let done = act(&mut cx, &self.plan, &self.disks);
        self.truth.wrong.extend(wrong);
        for job in runs {
            *self.truth.runs.entry(job).or_default() += 1;
        }
        done
    }

    fn handle(&mut self, verifier: &mut Verifier, who: Who, msg: Msg) -> Vec<Effect> {
        let Some(process) = self.processes.get_mut(&who) else { return vec![] };
        let mut actor = std::mem::replace(&mut process.actor, Actor::Down);
        let mut out = vec![];
        let mut leaves = false;
        self.with(verifier, who, &mut out, |cx, _, disks| match (&mut actor, who) {
            (Actor::Gateway(gateway), _) => gateway.on(cx, msg),
            (Actor::Scheduler(scheduler), _) => {
                // The end of an orderly stop.
                leaves = matches!(msg, Msg::Submit(_)) && scheduler.is_stopping();
                scheduler.on(cx, msg);
            }
            (Actor::Ledger(ledger), _) => ledger.on(cx, msg),
            (Actor::Device(device), Who::Device(n)) => device.on(cx, &disks[n], msg),
            (Actor::Device(_) | Actor::Down, _) => {}
        });
        if let Some(process) = self.processes.get_mut(&who) {
            process.actor = actor;
        }
        if leaves {
            let after = self.rng.u64(500..5_000);
            self.kill(who, after);
        }
        out
    }

    fn carry_out(&mut self, from: Who, effect: Effect) {
        match effect {
            Effect::After(ms, msg) => {
                let generation = self.processes.get(&from).map(|process| process.generation);
                self.schedule(self.now + ms, Event::Deliver { to: from, generation, msg });
            }
            Effect::Disk(change) => {
                if let Who::Device(n) = from {
                    if let Disk::OutAcked(_) = &change {
                        self.counters.add("outbox messages that went on");
                    }
                    self.disks[n].apply(change);
                }
            }
            Effect::Send(To::One(to), msg) => self.send(from, to, msg),
            Effect::Send(To::Ledgers, msg) => (0..WORKERS).for_each(|n| self.send(from, Who::Ledger(n), msg.clone())),
            Effect::Send(To::Schedulers, msg) => (0..WORKERS).for_each(|n| self.send(from, Who::Scheduler(n), msg.clone())),
            Effect::Send(To::AnyScheduler, msg) => {
                if let Some(to) = self.any_up(Who::Scheduler) {
                    self.send(from, to, msg);
                }
            }
        }
    }

    /// One of the workers that are there; now and then one that has just gone.
    fn any_up(&mut self, who: impl Fn(usize) -> Who) -> Option<Who> {
        let up = |who: &Who| match &self.processes[who].actor {
            Actor::Down => false,
            Actor::Scheduler(scheduler) => !scheduler.is_stopping(),
            Actor::Gateway(_) | Actor::Ledger(_) | Actor::Device(_) => true,
        };
        let all: Vec<Who> = (0..WORKERS).map(&who).filter(up).collect();
        if all.is_empty() { None } else { Some(all[self.rng.usize(0..all.len())]) }
    }

    fn send(&mut self, from: Who, to: Who, msg: Msg) {
        if let Msg::Assign { assignment, .. } = &msg
            && let Ok(assignment_body) = bus_schemas::strict::decode::<bus_schemas::assignment::Assignment>(
                bus_schemas::Form::Msgpack,
                &assignment.b,
                bus_schemas::limits::BODY_BYTES_MAX,
            )
        {
            self.assigned(AttemptId(Cid::of(&assignment.b)), &assignment_body);
        }
        let now = self.now;
        let out = self.processes.get(&from).is_none_or(|process| process.cut_out <= now);
        let into = self.processes.get(&to).is_none_or(|process| process.cut_in <= now);
        if !out || !into {
            self.counters.add("messages into a cut link");
            return;
        }
        if self.roll(self.plan.faults.drop) {
            self.counters.add("messages dropped");
            return;
        }
        let device = matches!(from, Who::Device(_)) || matches!(to, Who::Device(_));
        let stored = matches!(
            msg,
            Msg::Store { .. } | Msg::Ack { .. } | Msg::PubAck { .. } | Msg::AckNoted { .. } | Msg::Job(_) | Msg::Submitted(_)
        );
        let mut delay = if device { self.rng.u64(4..40) } else { self.rng.u64(1..6) };
        if self.roll(self.plan.faults.late) {
            self.counters.add("messages late");
            delay += self.rng.u64(50..8_000);
        }
        // An answer goes to the process that asked.
        let answer = matches!(
            msg,
            Msg::PubAck { .. } | Msg::AckNoted { .. } | Msg::Answer { .. } | Msg::AssignAnswered { .. } | Msg::ControlAnswered { .. }
        );
        let generation = if answer { self.processes.get(&to).map(|process| process.generation) } else { None };
        if !stored && self.roll(self.plan.faults.twice) {
            self.counters.add("messages twice");
            let again = delay + self.rng.u64(1..4_000);
            self.schedule(now + again, Event::Deliver { to, generation, msg: msg.clone() });
        }
        self.schedule(now + delay, Event::Deliver { to, generation, msg });
    }

    fn assigned(&mut self, attempt: AttemptId, assignment: &Assignment) {
        self.truth.assigned(attempt, assignment.job, assignment.device);
        let from = assignment.resume.map_or(0, |resume| resume.units);
        // Where messages get lost, so does what devices tell.
        if self.plan.profile == Profile::Crashes && EPOCH + self.now == assignment.assigned_at {
            let told = self.truth.told_before(&assignment.job, self.now);
            if from < told {
                self.truth.wrong.push(format!("{:?} goes on behind {from} texts, {told} were told to be done", assignment.job));
            }
        }
    }

    fn at_hub(&mut self, verifier: &mut Verifier, msg: Msg) {
        match msg {
            Msg::Store { from, id, what } => {
                let copies = what.clone();
                let answer = match self.hub.store(what, EPOCH + self.now, self.now) {
                    Ok((seq, stored)) => {
                        self.see(verifier, stored);
                        self.live(copies);
                        self.hub_soon(1);
                        Ok(seq)
                    }
                    Err(refused) => {
                        self.counters.add("stores refused");
                        Err(refused)
                    }
                };
                if self.roll(self.plan.faults.ack_lost) {
                    self.counters.add("acks of stores lost");
                } else {
                    self.send(Who::Hub, from, Msg::PubAck { id, answer });
                }
            }
            Msg::Ack { from, id, queue, seq, what } => {
                match self.hub.ack(queue, seq, what, self.now) {
                    Gone::Job(job) => self.truth.job_acked(&job.job),
                    Gone::Submission(submission) => {
                        let jobs = self.jobs(verifier, &submission);
                        self.truth.submission_acked(&jobs);
                    }
                    Gone::Nothing => {}
                }
                if id > 0 {
                    self.send(Who::Hub, from, Msg::AckNoted { id });
                }
                self.hub_soon(1);
            }
            _ => {}
        }
    }

    /// Live copies of what was stored, for whoever listens.
    fn live(&mut self, what: Store) {
        match what {
            Store::Event(event) => self.carry_out(Who::Hub, Effect::Send(To::Schedulers, Msg::Event(event))),
            Store::Receipts { device, to, bytes } => {
                let to = to.map_or(To::AnyScheduler, |n| To::One(Who::Scheduler(n)));
                self.carry_out(Who::Hub, Effect::Send(to, Msg::Receipts { device, bytes }));
            }
            Store::Heartbeat { device, bytes } => self.carry_out(Who::Hub, Effect::Send(To::Schedulers, Msg::Heartbeat { device, bytes })),
            Store::Cancel { job, member } => self.carry_out(Who::Hub, Effect::Send(To::Schedulers, Msg::Cancel { job, member })),
            Store::Submit(_) | Store::Job(_) | Store::Back(_) | Store::Ledger { .. } | Store::History(_) | Store::Lease { .. } => {}
        }
    }

    fn see(&mut self, verifier: &mut Verifier, stored: Stored) {
        match stored {
            Stored::Job(job) => self.truth.job_stored(&job),
            Stored::Ledger(seq, bytes) => self.truth.ledger_stored(verifier, seq, &bytes),
            Stored::History(record) => {
                let seq = self.hub.history.len() as u64;
                self.truth.history_stored(seq, &record);
            }
            Stored::Receipts(bytes) => self.truth.receipts_stored(&bytes),
            Stored::Back(back) => self.truth.back_stored(&back),
            Stored::Event(event) => self.truth.event_stored(self.now, &event),
            Stored::Submit(_) | Stored::Cancel(..) | Stored::Other => {}
        }
    }

    fn hub_soon(&mut self, ms: Ms) {
        let at = self.now + ms;
        if self.hub_tick.insert(at) {
            self.schedule(at, Event::HubTick);
        }
    }

    /// Delivers what is due in the work queues.
    fn hub_tick(&mut self) {
        self.hub_tick.retain(|at| *at > self.now);
        if self.any_up(Who::Gateway).is_some() {
            for delivery in self.hub.submit.deliveries(self.now) {
                if let Some(to) = self.any_up(Who::Gateway) {
                    self.send(Who::Hub, to, Msg::Submitted(delivery));
                }
            }
        }
        if self.any_up(Who::Scheduler).is_some() {
            for delivery in self.hub.jobs.deliveries(self.now) {
                if let Some(to) = self.any_up(Who::Scheduler) {
                    self.send(Who::Hub, to, Msg::Job(delivery));
                }
            }
        }
        let due = [self.hub.submit.next_due(), self.hub.jobs.next_due()].into_iter().flatten().min();
        if let Some(due) = due.filter(|due| *due > self.now) {
            self.hub_soon(due - self.now);
        }
    }

    fn jobs(&self, verifier: &mut Verifier, submission: &Submission) -> Vec<JobId> {
        let sent = admission::Submission {
            net: self.cast.net,
            member: submission.member,
            headers: Headers { job_key: submission.key.as_deref(), ..Headers::default() },
            payload: &submission.payload,
            fallback_key: submission.outbox_key.as_deref().unwrap_or("submit:0"),
            now: EPOCH + self.now,
        };
        admission::sort(&sent, verifier).as_slice().iter().map(admission::Candidate::job).collect()
    }

    fn at_client(&mut self, verifier: &mut Verifier, msg: Msg) {
        match msg {
            Msg::Submit(n) => self.submit(verifier, n),
            Msg::PubAck { id, .. } => {
                if let Some(n) = self.client.acked(id) {
                    self.acked.insert(n);
                    self.cancel_later(n);
                }
            }
            Msg::Again(id) => {
                let mut out = vec![];
                let mut client = std::mem::take(&mut self.client);
                self.with(verifier, Who::Client, &mut out, |cx, _, _| client.again(cx, id));
                self.client = client;
                out.into_iter().for_each(|effect| self.carry_out(Who::Client, effect));
                if let Some(n) = self.cancels.get(&id).copied() {
                    self.cancel(id, n);
                }
            }
            Msg::CancelDone { id } => {
                if let Some(n) = self.cancels.remove(&id)
                    && let Some(job) = self.jobs_of[n].first()
                {
                    self.cancel_done.insert(*job, self.now);
                }
            }
            _ => {}
        }
    }

    fn submit(&mut self, verifier: &mut Verifier, n: usize) {
        let planned = self.plan.submissions[n].clone();
        match planned.device {
            None => {
                self.jobs_of[n] = self.jobs(verifier, &planned.submission);
                let mut out = vec![];
                let mut client = std::mem::take(&mut self.client);
                self.with(verifier, Who::Client, &mut out, |cx, _, _| client.store(cx, Store::Submit(planned.submission), Ms::MAX, n));
                self.client = client;
                out.into_iter().for_each(|effect| self.carry_out(Who::Client, effect));
            }
            Some(device) => {
                let disk = &mut self.disks[device];
                if disk.full {
                    self.counters.add("submissions refused, disk full");
                    return self.schedule(self.now + 3_000, Event::Deliver { to: Who::Client, generation: None, msg: Msg::Submit(n) });
                }
                let outbox_key = Some(format!("{}:{}", disk.outbox_id, disk.last + 1));
                let submission = Arc::new(Submission { outbox_key, ..(*planned.submission).clone() });
                disk.apply(Disk::Out(OutboxItem::Submit(n, submission.clone())));
                self.counters.add("submissions through an outbox");
                self.jobs_of[n] = self.jobs(verifier, &submission);
                self.acked.insert(n);
                self.cancel_later(n);
                self.schedule(self.now + 1, Event::Deliver { to: Who::Device(device), generation: None, msg: Msg::Forward });
            }
        }
    }

    fn cancel_later(&mut self, n: usize) {
        if let Some(at) = self.plan.submissions[n].cancel_at {
            self.next_id += 1;
            let id = self.next_id;
            self.cancels.insert(id, n);
            self.schedule(at, Event::Deliver { to: Who::Client, generation: None, msg: Msg::Again(id) });
        }
    }

    /// Asks a gateway, and again until it has said that it is done.
    fn cancel(&mut self, id: u64, n: usize) {
        let Some(job) = self.jobs_of[n].first().copied() else { return };
        let member = self.plan.submissions[n].submission.member;
        if let Some(to) = self.any_up(Who::Gateway) {
            self.send(Who::Client, to, Msg::CancelAsked { id, job, member });
        }
        self.schedule(self.now + 3_000, Event::Deliver { to: Who::Client, generation: None, msg: Msg::Again(id) });
    }
}
