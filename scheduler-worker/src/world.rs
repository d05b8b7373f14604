//! All that one scheduler process holds. Methods change it and put what is to be sent into `out`; nothing here waits.
//!
//! What takes time (a request, a read, a store) is spawned with all it needs and comes back as a [`Done`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bus::Bus;
use bus_schemas::history::HistoryRecord;
use bus_schemas::job::Class;
use bus_schemas::{AttemptId, DeviceId, InstanceId, JobId, NetworkId, UnixMs, Verifier};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::ahead::Ahead;
use crate::assign::Answered;
use crate::bidding::Auction;
use crate::cancel::Cancels;
use crate::config::Config;
use crate::fleet::Fleet;
use crate::job::{Job, Phase};
use crate::lease::Ear;
use crate::look::{Adopted, LookGroup, Looked};
use crate::parked::Parking;
use crate::ready::{Ready, group_name};
use crate::settle::{Closing, Confirmed, Ended};
use crate::watch::StrayAnswers;

/// One message to be sent.
#[derive(Debug)]
pub struct Out {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: Option<HeaderMap>,
    pub payload: Bytes,
}

/// What came back from spawned work.
pub enum Done {
    Looked(Looked),
    Adopted(Adopted),
    Answered(Answered),
    Confirmed(Confirmed),
    Recalled(crate::settle::Recalled),
    Ended(Ended),
    Renewed {
        asked: Instant,
        jobs: Vec<(JobId, bool)>,
    },
    Strays(StrayAnswers),
    Elsewhere(crate::elsewhere::Answers),
    Sought(Box<crate::stored::Sought>),
    Kept(Box<crate::checkpoint::Seen>),
    Parts(crate::parts::Parts),
    Counted(crate::count::Counted),
    Refreshed(crate::run::Refreshed),
    Others(crate::awake::Others),
    /// Something was sent or stored that nobody waits for.
    Sent,
}

/// What this scheduler has put on one device.
#[derive(Debug, Default)]
pub struct Load {
    pub jobs: HashSet<JobId>,
    /// How many of them take a place in the device's queue.
    pub queued: usize,
}

/// Done at once, beside whatever runs: it takes no place in a device's queue.
pub fn is_instant(kind: &str) -> bool {
    kind == "echo"
}

/// Short memory of closed attempts, so that a device that sends a receipt again is answered at once.
#[derive(Default)]
pub struct RecentlyClosed {
    order: VecDeque<AttemptId>,
    known: HashMap<AttemptId, bus_schemas::assignment::Closed>,
}
const CLOSED_MAX: usize = 16_384;
impl RecentlyClosed {
    pub fn insert(&mut self, closed: bus_schemas::assignment::Closed) {
        let id = closed.attempt;
        if self.known.insert(id, closed).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > CLOSED_MAX {
            if let Some(old) = self.order.pop_front() {
                self.known.remove(&old);
            }
        }
    }
    pub fn get(&self, attempt: &AttemptId) -> Option<&bus_schemas::assignment::Closed> {
        self.known.get(attempt)
    }
}

pub struct World {
    pub bus: Bus,
    pub config: Config,
    pub net: NetworkId,
    pub s: InstanceId,
    pub verifier: Verifier,
    pub fleet: Fleet,
    pub jobs: HashMap<JobId, Job>,
    /// Jobs for the next auctions.
    pub ready: Ready,
    /// Something changed that may let an auction open.
    pub try_open: bool,
    /// A device that was full is asked again then.
    pub open_at: Option<Instant>,
    pub auctions: BTreeMap<u64, Auction>,
    /// Auctions whose jobs may come.
    pub ahead: BTreeMap<u64, Ahead>,
    /// Jobs whose current attempt is on a device.
    pub on_device: BTreeMap<DeviceId, Load>,
    pub looks: BTreeMap<u64, LookGroup>,
    pub next_look: u64,
    pub cancels: Cancels,
    /// Receipts of attempts that nobody here knows: their devices were asked for the assignments.
    pub unshown: BTreeMap<DeviceId, Vec<crate::watch::Stray>>,
    /// Receipts of jobs whose past is being looked up.
    pub early: crate::early::Early,
    pub elsewhere: crate::elsewhere::Elsewhere,
    pub closing: Closing,
    pub closed: RecentlyClosed,
    /// Records for HISTORY that nothing waits for.
    pub history: Vec<HistoryRecord>,
    /// Accepted attempts whose `Assigned` is told only if they last.
    pub quiet: VecDeque<(Instant, JobId, AttemptId)>,
    /// Those that have lasted, and go to HISTORY if they go on.
    pub lasting: VecDeque<(Instant, JobId, AttemptId)>,
    pub waiting: BTreeSet<JobId>,
    pub parking: Parking,
    /// How fast each group of ready jobs is.
    pub paces: crate::backlog::Paces,
    pub out: Vec<Out>,
    pub done: mpsc::UnboundedSender<Done>,
    /// Set while something waits for the tick.
    pub tick_at: Option<Instant>,
    /// When it last did anything.
    pub awake_at: Instant,
    /// How lately deliveries of each class were taken as they came.
    pub ears: [Ear; 3],
    /// It is asked who else may have what was delivered while this process stood still, and those deliveries.
    pub in_doubt: bool,
    pub doubtful: Vec<bus::pull::Delivery>,
    pub sweep_at: Instant,
    /// A device falls silent before the next sweep.
    pub silent_at: Option<Instant>,
    pub beat_at: Instant,
    /// The earliest end of a back-off, if any job backs off.
    pub back_off_at: Option<Instant>,
    /// A device changed, so waiting jobs look again.
    pub look_again: bool,
    pub stopping: bool,
}

impl World {
    pub fn new(bus: Bus, config: Config, done: mpsc::UnboundedSender<Done>, now: Instant) -> Self {
        let net = config.network.network;
        Self {
            bus,
            net,
            s: config.s.clone(),
            verifier: Verifier::default(),
            fleet: Fleet::new(net, config.timings.silence, now),
            jobs: HashMap::new(),
            ready: Ready::default(),
            try_open: false,
            open_at: None,
            auctions: BTreeMap::new(),
            ahead: BTreeMap::new(),
            on_device: BTreeMap::new(),
            looks: BTreeMap::new(),
            next_look: 0,
            cancels: Cancels::default(),
            unshown: BTreeMap::new(),
            early: crate::early::Early::default(),
            elsewhere: crate::elsewhere::Elsewhere::default(),
            closing: Closing::default(),
            closed: RecentlyClosed::default(),
            history: Vec::new(),
            quiet: VecDeque::new(),
            lasting: VecDeque::new(),
            waiting: BTreeSet::new(),
            parking: Parking::default(),
            paces: crate::backlog::Paces::new(),
            out: Vec::new(),
            done,
            tick_at: None,
            awake_at: now,
            ears: [Ear::new(now); 3],
            in_doubt: false,
            doubtful: Vec::new(),
            sweep_at: now,
            silent_at: None,
            beat_at: now,
            back_off_at: None,
            look_again: false,
            stopping: false,
            config,
        }
    }

    pub fn hub_ms(&self) -> UnixMs {
        self.bus.time.now_ms()
    }
    pub fn actor(&self) -> String {
        format!("scheduler {}", self.s)
    }

    /// Work that takes time; its outcome comes back to [`World::finished`].
    pub fn spawn(&self, work: impl Future<Output = Done> + Send + 'static) {
        let done = self.done.clone();
        tokio::spawn(async move {
            let _ = done.send(work.await);
        });
    }

    pub fn send(&mut self, subject: String, payload: impl Into<Bytes>) {
        self.out.push(Out { subject, reply: None, headers: None, payload: payload.into() });
    }

    /// Something waits for the tick.
    pub fn need_tick(&mut self, now: Instant) {
        if self.tick_at.is_none() {
            self.tick_at = Some(now + self.config.timings.tick);
        }
    }

    /// How often the sweep runs: a tenth of a renewal.
    pub fn sweep_every(&self) -> Duration {
        self.config.timings.renewal / 10
    }

    /// When something is due that no message brings.
    pub fn wake_at(&self) -> Instant {
        let windows = self.auctions.values().map(|auction| auction.deadline);
        windows
            .chain([self.sweep_at, self.beat_at])
            .chain(self.tick_at)
            .chain(self.back_off_at)
            .chain(self.open_at)
            .chain(self.silent_at)
            .min()
            .unwrap_or(self.sweep_at)
    }

    /// How many more jobs of a class may be taken: higher classes keep some room to themselves.
    pub fn room(&self, class: Class) -> usize {
        let max = self.config.jobs_max;
        let share = match class {
            Class::High => max,
            Class::Normal => max - max / 8,
            Class::Low => max - max / 4,
        };
        if self.stopping { 0 } else { share.saturating_sub(self.jobs.len()) }
    }

    /// Puts a job into the queue for the next auction.
    pub fn make_ready(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let place = self.ready.push(group_name(&job.needs, &job.avoid), job.admitted.class, id);
        job.phase = Phase::Ready { place };
        self.waiting.remove(&id);
        self.try_open = true;
    }

    /// The current attempt of a job is on this device from now on.
    pub fn put_on_device(&mut self, id: &JobId, device: DeviceId) {
        let queued = self.jobs.get(id).is_some_and(|job| !is_instant(&job.needs.kind));
        let load = self.on_device.entry(device).or_default();
        if load.jobs.insert(*id) {
            load.queued += usize::from(queued);
        }
    }

    /// The current attempt is no longer on its device, whatever became of it.
    pub fn off_device(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let Some(device) = job.current().map(|attempt| attempt.device)
            && let Some(load) = self.on_device.get_mut(&device)
            && load.jobs.remove(id)
        {
            load.queued -= usize::from(!is_instant(&job.needs.kind));
            self.try_open = true;
        }
        job.current = None;
    }

    /// Lets go of a job without a word: its message comes again to somebody.
    pub fn forget(&mut self, id: &JobId) {
        self.off_device(id);
        self.waiting.remove(id);
        self.jobs.remove(id);
    }

    /// Everything that is due or has become possible.
    pub fn turn(&mut self, now: Instant) {
        self.close_due_auctions(now);
        if self.back_off_at.is_some_and(|at| at <= now) {
            self.end_back_offs(now);
        }
        if self.sweep_at <= now {
            self.sweep_at = now + self.sweep_every();
            self.sweep(now);
        }
        if self.silent_at.is_some_and(|at| at <= now) {
            self.sweep_fleet(now);
        }
        if self.look_again {
            self.look_again = false;
            self.try_open = true;
            self.wake_waiting();
        }
        if self.open_at.is_some_and(|at| at <= now) {
            self.open_at = None;
            self.try_open = true;
        }
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = None;
            self.tick(now);
        }
        if self.beat_at <= now {
            self.beat_at = now + self.config.timings.heartbeat;
            self.beat();
        }
        self.open_auctions(now);
        self.listening(now);
    }

    /// Takes in what spawned work came to.
    pub fn finished(&mut self, done: Done, now: Instant) {
        match done {
            Done::Looked(looked) => self.looked(looked, now),
            Done::Adopted(adopted) => self.adopted(adopted, now),
            Done::Answered(answered) => self.answered(answered, now),
            Done::Confirmed(confirmed) => self.confirmed(confirmed, now),
            Done::Recalled(recalled) => self.recalled(recalled),
            Done::Ended(ended) => self.ended(ended, now),
            Done::Renewed { asked, jobs } => self.renewed(asked, &jobs),
            Done::Strays(answers) => self.strays_answered(answers),
            Done::Elsewhere(answers) => self.others_answered(&answers),
            Done::Sought(sought) => self.sought(*sought, now),
            Done::Kept(seen) => self.checkpoint_seen(*seen, now),
            Done::Parts(parts) => self.parts_found(parts),
            Done::Counted(counted) => self.counted(counted, now),
            Done::Others(others) => self.others_known(others, now),
            Done::Refreshed(refreshed) => self.refreshed(refreshed, now),
            Done::Sent => (),
        }
    }

    fn end_back_offs(&mut self, now: Instant) {
        let mut next: Option<Instant> = None;
        let mut over = Vec::new();
        for (id, job) in &self.jobs {
            if let Phase::BackOff { until } = job.phase {
                if until <= now {
                    over.push(*id);
                } else {
                    next = Some(next.map_or(until, |other| other.min(until)));
                }
            }
        }
        self.back_off_at = next;
        // In the order of submission, not of a hash map.
        over.sort_by_key(|id| self.jobs.get(id).map(Job::age));
        for id in over {
            self.make_ready(id);
        }
    }

    /// What no member waits for.
    fn tick(&mut self, now: Instant) {
        self.tell_quiet(now);
        self.record_lasting(now);
        self.confirm_receipts(now);
        self.close_batches(now);
        self.send_closed();
        self.store_history();
        self.look_up_strays();
        if self.closing.has_work() || !self.quiet.is_empty() || !self.lasting.is_empty() {
            self.need_tick(now);
        }
    }

    /// Queues a record for HISTORY.
    pub fn record(&mut self, record: HistoryRecord, now: Instant) {
        self.history.push(record);
        self.need_tick(now);
    }

    fn store_history(&mut self) {
        if self.history.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.history);
        let (bus, signer) = (self.bus.clone(), Arc::clone(&self.config.signer));
        self.spawn(async move {
            crate::settle::store_history(&bus, &signer, records).await;
            Done::Sent
        });
    }
}
