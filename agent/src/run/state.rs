//! All that the loop knows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, Health};
use bus_schemas::assignment::{AssignAnswer, Assignment};
use bus_schemas::event::Checkpoint;
use bus_schemas::job::{DataClass, JobSpec};
use bus_schemas::limits::Timings;
use bus_schemas::network::NetworkDocument;
use bus_schemas::offer::Decline;
use bus_schemas::receipt::ResultRef;
use bus_schemas::resources::{Resources, claimed_tier};
use bus_schemas::{AttemptId, Batch, InstanceId, Problem, Proof, Signer};
use tokio::sync::{Notify, mpsc};

use crate::bidding::minus;
use crate::bidding::{Desk, Offered};
use crate::consent_file::Watched;
use crate::disk::Found;
use crate::executor::{self, Engines, Finished, Part, Reins, Reported, echo, embed};
use crate::hardware::Hardware;
use crate::home::{Device, Home};
use crate::link::Trust;
use crate::local::{LinkStatus, Local, Status, Totals};
use crate::outbox::Counts;
use crate::receipts::{Number, Unsettled};
use crate::run::asleep::Asleep;
use crate::run::parts::Parts;
use crate::run::pulse::{Asked, SetAside};
use crate::run::store::Store;
use crate::work::Work;

/// What has come to pass since the loop started it.
pub enum Happened {
    /// Accepted jobs are in WORK, or could not be kept.
    Kept(Box<Keeping>),
    Fetched {
        attempt: AttemptId,
        input: Result<Input, Problem>,
    },
    /// A part of a result that runs.
    Part(AttemptId, Part),
    /// It is stored.
    PartStored(AttemptId, Checkpoint),
    Finished(Finished),
    Uploaded {
        attempt: AttemptId,
        result: Result<ResultRef, Problem>,
    },
    /// A message of receipts was sent; `stored`: a stream has it.
    Sent {
        number: Number,
        stored: bool,
    },
    /// A heartbeat's answer: how long it took, or why there was none.
    Beat(Result<Duration, String>),
    /// This machine asked how the device does, and what was to be found out for that is there.
    Asked(Asked),
    /// The books were looked at; what is wrong with them.
    Books(Option<Problem>),
    /// The device's own store was looked at.
    Store(Found),
}

/// What an engine works on.
pub struct Input {
    pub texts: Vec<String>,
    /// What earlier attempts have left of the result.
    pub kept: Vec<Vec<u8>>,
}

/// An assign request that waits for WORK.
pub struct Keeping {
    pub reply: async_nats::Subject,
    pub answers: Vec<AssignAnswer>,
    /// Which answer is about which attempt, and whether it was kept.
    pub kept: Vec<(usize, AttemptId, Result<(), Problem>)>,
}

/// The signed assignment of an attempt: as it came, one of many.
#[derive(Clone)]
pub enum Shown {
    InBatch(Arc<Batch>, usize),
    Alone(Box<Proof>),
}
impl Shown {
    pub fn proof(&self) -> Option<Proof> {
        match self {
            Self::InBatch(batch, index) => batch.proof(*index),
            Self::Alone(proof) => Some((**proof).clone()),
        }
    }
}

/// Where running work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Waiting,
    Fetching,
    Computing,
    Storing,
}

/// An attempt that is here.
pub struct Held {
    pub assignment: Assignment,
    pub shown: Shown,
    /// The scheduler that its receipt goes to.
    pub to: InstanceId,
    /// Absent where it ended at once.
    pub spec: Option<JobSpec>,
    /// Kind and data class; absent where it ended at once.
    pub asks: Option<(String, DataClass)>,
    pub stage: Stage,
    pub reins: Reins,
    pub arrived: Instant,
    pub started: Option<Instant>,
    /// How long this program had been stopped by then.
    pub asleep_before: Duration,
    /// Computing alone.
    pub took: Duration,
    /// It is in WORK.
    pub kept: bool,
    /// How far it was when that was last told; `None`: nothing was told.
    pub told: Option<(u32, String)>,
    /// Those that it goes through, the first one first.
    pub stages: Vec<&'static str>,
    /// How far it was kept before it began here.
    pub resume: Option<Checkpoint>,
    /// Where its parts are stored, once there is one.
    pub parts: Option<Parts>,
    /// The last part that was stored.
    pub newest: Option<Checkpoint>,
}

pub struct Agent {
    pub home: Home,
    pub device: Device,
    pub network_name: String,
    pub signer: Arc<Signer>,
    pub trust: Trust,
    pub uplink: Bus,
    pub local: Option<Local>,
    pub local_url: Option<String>,
    pub timings: Timings,
    pub happened: mpsc::UnboundedSender<Happened>,

    hardware: Hardware,
    /// What running jobs leave, as it was when it was last looked at.
    pub free_memory_mb: u32,
    pub kinds: Vec<String>,
    /// Microseconds per text, by kind.
    pub speeds: BTreeMap<String, u64>,
    pub engines: Engines,

    pub work: Work,
    pub held: HashMap<AttemptId, Held>,
    pub unsettled: Unsettled,
    /// What WORK keeps until a stream has the receipts.
    pub kept_until_stored: HashMap<Number, Vec<AttemptId>>,
    /// Handed back while an engine was at them; it ends its step, and nobody waits for what comes of it.
    pub ending: HashSet<AttemptId>,
    /// Messages of receipts on their way.
    pub sending: usize,
    /// Why it takes no work.
    pub closed: Option<Decline>,
    /// What its owner lets it take.
    pub consent: Watched,
    /// Whether what is accepted can be kept.
    pub store: Store,
    pub health: Health,
    /// Has the device's own server started again.
    pub restart_server: Arc<Notify>,
    /// It stops once what runs has ended.
    pub leaving: bool,
    /// What it is paid as, by its last assignment; until then, what it says it is.
    pub tier: u8,

    pub started: Instant,
    pub asleep: Asleep,
    pub next_beat: Instant,
    pub next_look: Instant,
    pub next_consent_look: Instant,
    pub link: LinkStatus,
    /// What its record says of it, by the last answer.
    pub set_aside: SetAside,
    /// What is wrong with the network's books.
    pub alarm: Option<Problem>,
    pub totals: Totals,
    pub counts: Arc<Counts>,
}

impl Agent {
    /// # Errors
    /// Where the system gives no thread.
    #[allow(clippy::too_many_arguments)] // Every one is a thing of its own, and this is called once.
    pub fn new(
        home: Home,
        device: Device,
        network: &NetworkDocument,
        signer: Arc<Signer>,
        uplink: Bus,
        local: Option<Local>,
        timings: Timings,
        happened: mpsc::UnboundedSender<Happened>,
        counts: Arc<Counts>,
    ) -> anyhow::Result<Self> {
        let hardware = Hardware::probe(&home, &device.settings);
        let slots = usize::try_from(device.settings.slots.max(1)).unwrap_or(1);
        let to_loop = happened.clone();
        let engines = Engines::start(&device.settings, slots, move |reported| {
            let _ = to_loop.send(match reported {
                Reported::Part(attempt, part) => Happened::Part(attempt, part),
                Reported::Finished(finished) => Happened::Finished(finished),
            });
        })?;
        let now = Instant::now();
        let paused = (!device.settings.paused.is_empty()).then_some(Decline::Paused);
        Ok(Self {
            network_name: network.name.clone(),
            trust: Trust::new(network, device.device.id),
            work: Work::new(device.settings.full_queue, slots, hardware.total),
            free_memory_mb: hardware.total.memory_mb,
            kinds: executor::kinds(&device.settings),
            speeds: BTreeMap::new(),
            tier: claimed_tier(&hardware.total),
            hardware,
            engines,
            held: HashMap::new(),
            unsettled: Unsettled::default(),
            kept_until_stored: HashMap::new(),
            ending: HashSet::new(),
            sending: 0,
            closed: paused,
            consent: Watched::open(home.consent_toml()),
            store: Store::default(),
            health: Health::default(),
            restart_server: Arc::default(),
            leaving: false,
            started: now,
            asleep: Asleep::watch(),
            next_beat: now,
            next_look: now,
            next_consent_look: now,
            link: LinkStatus::default(),
            set_aside: SetAside::default(),
            alarm: None,
            totals: Totals::default(),
            local_url: None,
            home,
            device,
            signer,
            uplink,
            local,
            timings,
            happened,
            counts,
        })
    }

    /// Monotonic time.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }
    pub fn total(&self) -> Resources {
        self.hardware.total
    }
    pub fn capabilities(&self) -> &[String] {
        &self.hardware.capabilities
    }
    /// What is free, by the last look at memory.
    pub fn free(&self) -> Resources {
        let free = minus(&self.hardware.total, &self.work.reserved());
        Resources { memory_mb: free.memory_mb.min(self.free_memory_mb), ..free }
    }
    /// Looks at memory and at which kinds can run.
    pub fn look_around(&mut self) {
        self.free_memory_mb = self.hardware.free(&Resources::default()).memory_mb;
        self.kinds = executor::kinds(&self.device.settings);
        if let Ok(consent) = self.consent.consent() {
            self.kinds.retain(|kind| consent.allows_kind(kind));
        }
    }
    pub fn per_unit_us(&self, kind: &str) -> u64 {
        let guess = if kind == embed::KIND { embed::PER_TEXT_US } else { 50 };
        self.speeds.get(kind).copied().unwrap_or(guess)
    }

    /// What a bid is made from.
    pub fn desk(&self) -> Desk {
        let loaded = self.engines.is_loaded();
        let offered = self.kinds.iter().map(|kind| Offered {
            kind: kind.clone(),
            instant: kind == echo::KIND,
            per_unit_us: self.per_unit_us(kind),
            warm_up_ms: if kind == embed::KIND && !loaded { embed::LOAD_MS } else { 0 },
        });
        Desk {
            offered: offered.collect(),
            closed: self.refuses(),
            total: self.total(),
            free: self.free(),
            waiting: self.work.waiting(),
            gives_way: self.work.gives_way(),
            busy_ms: self.work.busy_ms(),
            tier: self.tier,
        }
    }

    /// Its no to any work.
    pub fn refuses(&self) -> Option<Decline> {
        let full = || self.store.full.clone().map(Decline::Resources);
        self.closed.clone().or_else(full).or_else(|| self.consent_unreadable())
    }

    /// Why it takes no work now.
    pub fn not_working(&self) -> Option<String> {
        match &self.closed {
            None => self.store.full.clone().or_else(|| self.consent_unreadable().map(|no| no.to_string())),
            Some(Decline::Paused) if !self.device.settings.paused.is_empty() => Some(self.device.settings.paused.clone()),
            Some(why) => Some(why.to_string()),
        }
    }

    /// What `mesh status` shows; how many wait in the OUTBOX is asked for apart.
    pub fn status(&self) -> Status {
        use std::sync::atomic::Ordering::Relaxed;
        let missing = bus_schemas::job::KINDS.iter().filter(|kind| !self.kinds.iter().any(|offered| offered == *kind));
        let why = missing.map(|kind| match executor::engine(kind, &self.device.settings).map(|engine| engine.available()) {
            Some(Err(why)) => format!("{kind}: {why}"),
            Some(Ok(())) if self.consent.consent().is_ok_and(|consent| !consent.allows_kind(kind)) => {
                format!("{kind}: not allowed by consent.toml")
            }
            Some(Ok(())) | None => format!("{kind}: not among the kinds of device.toml"),
        });
        // Only this machine is told what is wrong with the file.
        let not_working = match (self.not_working(), self.consent.consent()) {
            (Some(why), Err(problem)) if self.closed.is_none() && self.store.full.is_none() => Some(format!("{why}: {}", problem.detail)),
            (why, _) => why,
        };
        Status {
            id: self.trust.device,
            name: self.device.name.clone(),
            member: self.device.member.id,
            network: self.trust.net,
            network_name: self.network_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            link: self.link.clone(),
            alarm: self.alarm.clone(),
            local_url: self.local_url.clone(),
            tier: self.tier,
            kinds: self.kinds.clone(),
            not_offered: why.collect(),
            total: self.total(),
            free: self.free(),
            waiting: self.work.waiting(),
            running: self.work.running(),
            unsettled: self.unsettled.len(),
            outbox: None,
            not_working,
            model_loaded: self.engines.is_loaded(),
            totals: Totals {
                forwarded: self.counts.forwarded.load(Relaxed),
                refused: self.counts.refused.load(Relaxed),
                ..self.totals.clone()
            },
        }
    }
}
