//! The shell: connects, listens, and carries out what the cores decide. One loop owns all state, so nothing is locked.
//!
//! In: offers, control messages, what the member watches, questions of this machine, and what has happened meanwhile (an engine has
//! finished, a stream has stored). Out: bids, answers, receipts, events, heartbeats.

use std::io::{Seek, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::Subscriber;
use bus_schemas::limits::Timings;
use bus_schemas::{Code, subject};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::disk;
use crate::enrol::bad_file;
use crate::home::Home;
use crate::identity::Identity;
use crate::link::Links;
use crate::local::Local;
use crate::outbox::{Counts, Forwarder};
use crate::renewal::Renewal;

mod asleep;
mod attempts;
mod auction;
mod books;
mod consent;
mod control;
mod owner;
pub mod parts;
pub mod pulse;
mod resume;
mod state;
mod store;

use state::{Agent, Happened};

/// How long an orderly stop waits for the last receipts.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// Runs the device of `home` until `stop`: `mesh start`.
///
/// # Errors
/// Where the home is not initialised or already has an agent, its files cannot be used, or its server does not start. What goes wrong
/// later is waited out.
pub async fn run_agent(home: Home, stop: CancellationToken) -> anyhow::Result<()> {
    let device = home.device()?;
    let health = bus::Health::default();
    serve_health(&health).await?;
    home.create()?;
    if let Some(problem) = home.revoked() {
        return Err(problem.into());
    }
    disk::wait_for_room(&home, &health, &stop).await;
    if stop.is_cancelled() {
        return Ok(());
    }
    let _lock = Lock::take(&home)?;
    let network = bus::keys::read_network(&home.network_json())
        .map_err(|error| bad_file(&error.context(home.network_json().display().to_string())))?;
    ensure!(network.network == device.network, "network.json is about {}, device.toml about {}", network.network, device.network);
    let signer = Arc::new(Identity::device_signer(&home).map_err(|error| bad_file(&error))?);
    ensure!(signer.public() == device.device.did, "keys/device.key is not the key of device.toml");

    Renewal::at_start(&home, &device).await;
    // It may have learned where the network is now.
    let device = home.device()?;
    if let Some(problem) = home.revoked() {
        return Err(problem.into());
    }
    let links = Links::open(&home, &device).await?;
    let (uplink, leaf) = (links.uplink.clone(), links.leaf);
    let ended = async {
        let local = match links.local {
            Some(bus) => Some(Local::open(bus).await?),
            None => None,
        };
        let reload = leaf.as_ref().map(|leaf| leaf.reloader(&home, &device));
        let renewing = stop.child_token();
        tokio::spawn(Renewal::of(&home, &device, uplink.clone(), reload).run(renewing.clone(), stop.clone()));
        let (happened, happenings) = mpsc::unbounded_channel();
        let timings = Timings::divided(time_divisor());
        let counts = Arc::new(Counts::default());
        let mut agent = Agent::new(home.clone(), device, &network, signer, uplink, local, timings, happened, counts.clone())?;
        agent.local_url = leaf.as_ref().map(crate::leaf::Leaf::url);
        agent.health = health;
        if let Some(leaf) = &leaf {
            agent.restart_server = leaf.restarter();
        }
        let doors = Doors::open(&agent).await?;
        agent.resume().await?;
        agent.start_paused();
        agent.keep_to_consent();
        agent.watch_books(network, time_divisor());
        let forwarding = CancellationToken::new();
        let forwarder = forward(&agent, counts, &forwarding);
        tracing::info!(device = %agent.trust.device, name = agent.device.name, local_url = agent.local_url, kinds = ?agent.kinds, "the agent runs");
        agent.listen(doors, happenings, stop).await;
        forwarding.cancel();
        renewing.cancel();
        if let Some(forwarder) = forwarder {
            let _ = forwarder.await;
        }
        let _ = agent.uplink.client.flush().await;
        anyhow::Ok(())
    }
    .await;
    if let Some(leaf) = leaf {
        leaf.stop().await;
    }
    match home.revoked() {
        Some(problem) => Err(problem.into()),
        None => ended,
    }
}

/// Tests run that much faster.
pub(crate) fn time_divisor() -> u32 {
    std::env::var("MESH_TIME_DIVISOR").ok().and_then(|text| text.parse().ok()).filter(|divisor| *divisor > 0).unwrap_or(1)
}

/// `/healthz`, `/readyz` and `/metrics`, where `MESH_HTTP` names an address.
async fn serve_health(health: &bus::Health) -> anyhow::Result<()> {
    let Some(address) = std::env::var("MESH_HTTP").ok().filter(|text| !text.is_empty()) else { return Ok(()) };
    let address = address.parse().with_context(|| format!("MESH_HTTP is no address: {address}"))?;
    let metrics = bus::telemetry::metrics("mesh", env!("CARGO_PKG_VERSION"))?;
    let routes = bus::health::routes(health.clone(), metrics);
    bus::health::serve(address, routes, CancellationToken::new()).await?;
    Ok(())
}

fn forward(agent: &Agent, counts: Arc<Counts>, stop: &CancellationToken) -> Option<tokio::task::JoinHandle<()>> {
    let forwarder = Forwarder {
        local: agent.local.clone()?,
        uplink: agent.uplink.clone(),
        device: agent.trust.device,
        key: agent.signer.public(),
        counts,
    };
    let stop = stop.clone();
    Some(tokio::spawn(async move {
        // The consumers are made again at the next try: the local server may be starting.
        while let Err(error) = forwarder.clone().run(stop.clone()).await {
            tracing::warn!(error = format!("{error:#}"), "the outbox is tried again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }))
}

/// How often, and with which pause, a lock is tried that another agent holds.
const LOCK_TRIES: u32 = 60;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Held while this agent runs; names its process.
struct Lock {
    _file: std::fs::File,
    home: Home,
}
impl Lock {
    fn take(home: &Home) -> anyhow::Result<Self> {
        let path = home.agent_lock();
        let mut file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        // One that was killed a moment ago holds it until the last of its threads is gone.
        let mut tries = 0..LOCK_TRIES;
        while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            if tries.next().is_none() {
                return Err(bus_schemas::Problem::new(Code::AlreadyRunning, format!("an agent runs in {}", home.root().display())).into());
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        std::fs::write(home.agent_pid(), format!("{}\n", std::process::id())).context("failed to write agent.pid")?;
        Ok(Self { _file: file, home: home.clone() })
    }
}
impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.home.agent_pid());
    }
}

/// The few subscriptions of a device: more than a role allows would be dropped at random after a reconnect.
struct Doors {
    offers: Subscriber,
    control: Subscriber,
    watch: Subscriber,
    questions: Option<Subscriber>,
    wishes: Option<Subscriber>,
}
impl Doors {
    async fn open(agent: &Agent) -> anyhow::Result<Self> {
        let (client, device) = (&agent.uplink.client, &agent.trust.device);
        let (questions, wishes) = match &agent.local {
            Some(local) => {
                let client = &local.bus.client;
                (Some(client.subscribe(subject::local::STATUS).await?), Some(client.subscribe(subject::local::OWNER).await?))
            }
            None => (None, None),
        };
        Ok(Self {
            offers: client.subscribe(subject::offer(device)).await?,
            control: client.subscribe(subject::ctl_all(device)).await?,
            watch: client.subscribe(subject::watch_all(&agent.device.member.id)).await?,
            questions,
            wishes,
        })
    }
}

async fn next(questions: &mut Option<Subscriber>) -> Option<async_nats::Message> {
    match questions {
        Some(questions) => questions.next().await,
        None => std::future::pending().await,
    }
}

impl Agent {
    async fn listen(&mut self, mut doors: Doors, mut happenings: mpsc::UnboundedReceiver<Happened>, stop: CancellationToken) {
        let mut drained_at: Option<Instant> = None;
        loop {
            self.start_waiting();
            let over = drained_at.is_some_and(|deadline| Instant::now() >= deadline);
            if over || ((drained_at.is_some() || self.leaving) && self.is_drained()) {
                return self.last_beat().await;
            }
            self.resume_if_due();
            let wake = [drained_at, self.resume_due()].into_iter().flatten().fold(self.next_beat, Instant::min);
            tokio::select! {
                () = stop.cancelled(), if drained_at.is_none() => {
                    drained_at = Some(Instant::now() + DRAIN_MAX);
                    self.drain();
                }
                Some(message) = doors.control.next() => self.on_control(message).await,
                Some(message) = doors.offers.next() => self.on_offers(message).await,
                Some(message) = doors.watch.next() => self.on_watch(message).await,
                Some(happened) = happenings.recv() => self.on_happened(happened).await,
                Some(message) = next(&mut doors.questions) => self.on_question(message),
                Some(message) = next(&mut doors.wishes) => self.on_wish(message).await,
                () = tokio::time::sleep_until(self.next_look().unwrap_or(wake).into()), if self.next_look().is_some() => self.look(),
                () = tokio::time::sleep_until(self.next_store_look().unwrap_or(wake).into()), if self.next_store_look().is_some() => self.look_at_store(),
                () = tokio::time::sleep_until(self.next_consent_look.into()) => self.look_at_consent(),
                () = tokio::time::sleep_until(wake.into()) => if Instant::now() >= self.next_beat { self.beat() },
            }
        }
    }

    async fn on_watch(&mut self, message: async_nats::Message) {
        if let Some(local) = &self.local {
            local.republish(self.trust.device, &message.subject, message.headers.as_ref(), &message.payload).await;
        }
    }

    async fn on_happened(&mut self, happened: Happened) {
        match happened {
            Happened::Kept(kept) => self.on_kept(kept).await,
            Happened::Fetched { attempt, input } => self.on_fetched(attempt, input),
            Happened::Part(attempt, part) => self.on_part(attempt, part),
            Happened::PartStored(attempt, checkpoint) => self.on_part_stored(attempt, checkpoint),
            Happened::Finished(finished) => self.on_finished(finished),
            Happened::Uploaded { attempt, result } => self.on_uploaded(attempt, result),
            Happened::Sent { number, stored } => self.on_sent(number, stored),
            Happened::Beat(answer) => self.on_beat(answer),
            Happened::Asked(asked) => self.on_asked(asked).await,
            Happened::Books(alarm) => self.on_books(alarm),
            Happened::Store(found) => self.on_store(found),
        }
    }
}
