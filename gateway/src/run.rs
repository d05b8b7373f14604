//! `mesh-gateway run`: all tasks of one gateway, until it is told to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use bus::check::{START, until_told};
use bus::connect::Connect;
use bus::{Bus, BusSettings, Health};
use bus_schemas::Code;
use bus_schemas::network::Invite;
use bus_schemas::{limits, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::enrolment::{self, EnrolContext, EnrolSettings};
use crate::fleet::{self, Fleet};
use crate::freshness::Freshness;
use crate::live::{self, Live};
use crate::store::Store;
use crate::turns::{Rates, Turns};
use crate::world::World;
use crate::{doors, intake, projection, readiness, recorder, routes, service, sweeper, tail, turns};

/// Settings of a running gateway: each is a flag and an environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    #[command(flatten)]
    pub bus: BusSettings,
    /// The gateway's key, which the network document names.
    #[arg(long, env = "MESH_KEY")]
    pub key: PathBuf,
    /// The signed network document.
    #[arg(long, env = "MESH_NETWORK")]
    pub network: PathBuf,
    /// Where the API listens.
    #[arg(long, env = "MESH_HTTP", default_value = "127.0.0.1:8085")]
    pub http: SocketAddr,
    /// The gateway's database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The folder with the signing keys of devices and members (role-device.nk, role-member.nk); default: keys, beside the
    /// network document.
    #[arg(long, env = "MESH_ROLE_KEYS")]
    pub role_keys: Option<PathBuf>,
    /// Public key of the EDGE account; default: edge.pub, beside the network document.
    #[arg(long, env = "MESH_EDGE_ACCOUNT")]
    pub edge_account: Option<PathBuf>,
    /// Where devices reach the hub, as they are told.
    #[arg(long, env = "MESH_LEAF_URL", default_value = "nats://127.0.0.1:7422")]
    pub leaf_url: String,
    /// Where members reach the hub, as they are told.
    #[arg(long, env = "MESH_PUBLIC_NATS_URL", default_value = "nats://127.0.0.1:4222")]
    pub public_nats_url: String,
    /// Addresses of all gateways, separated by commas, as members and devices are told; default: those of their invite.
    #[arg(long, env = "MESH_PUBLIC_GATEWAY_URL")]
    pub public_gateway_url: Option<String>,
    /// Where devices and members reach the hub by WebSocket, as they are told: for networks that let nothing out but HTTPS.
    #[arg(long, env = "MESH_PUBLIC_WS_URL")]
    pub public_ws_url: Option<String>,
    #[command(flatten)]
    pub doors: doors::DoorSettings,
    /// Pays devices by the tier they claim. For development: nobody has looked at them.
    #[arg(long, env = "MESH_ATTEST_CLAIMED")]
    pub attest_claimed: bool,
    /// Seconds that the logins of devices and members last; agents renew theirs at half of it.
    #[arg(long, env = "MESH_CREDENTIALS_S", default_value_t = limits::CREDENTIALS_S, value_parser = clap::value_parser!(u64).range(1..))]
    pub credentials_s: u64,
    #[command(flatten)]
    pub rates: Rates,
    /// A file with an invite line that lets in as many as come, for as long as the network lives. For development.
    #[arg(long, env = "MESH_INVITE_FILE")]
    pub invite_file: Option<PathBuf>,
    /// Reads and checks all files and settings, and ends.
    #[arg(long)]
    pub check_config: bool,
}

impl Settings {
    fn beside(&self, name: &str) -> PathBuf {
        self.network.parent().unwrap_or(Path::new(".")).join(name)
    }
    fn enrol(&self) -> EnrolSettings {
        let keys = self.role_keys.clone().unwrap_or_else(|| self.beside("keys"));
        EnrolSettings {
            role_device_key: keys.join("role-device.nk"),
            role_member_key: keys.join("role-member.nk"),
            edge_pub: self.edge_account.clone().unwrap_or_else(|| self.beside("edge.pub")),
            leaf_url: self.leaf_url.clone(),
            public_nats_url: self.public_nats_url.clone(),
            public_gateway_url: self.public_gateway_url.clone(),
            ws_url: self.public_ws_url.clone(),
            attest_claimed: self.attest_claimed,
            credentials_s: self.credentials_s,
        }
    }
}

/// How long people who wait for an answer may take to get it: a door waits 5 s for what intake makes of a submission.
const ANSWERS: Duration = Duration::from_secs(6);
/// How long what was begun may take to end, after that.
const DRAIN: Duration = Duration::from_secs(4);

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// Where it cannot start, or a task ends that should not.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let (document, document_text) = enrolment::read_document(&settings.network)?;
    let signer = bus::keys::read_key_file(&settings.key)?;
    anyhow::ensure!(
        document.gateway_keys.contains(&signer.public()),
        "{} is not a gateway key of network {}",
        settings.key.display(),
        document.network
    );
    let tls = settings.doors.check(&settings)?;
    let secret = settings.invite_file.as_deref().map(read_secret).transpose()?;
    if settings.check_config {
        settings.bus.check()?;
        EnrolContext::check_files(&settings.enrol())?;
        println!("ok: network {} ({})", document.name, document.network);
        return Ok(());
    }
    let stop = bus::shutdown::on_signal()?;
    let health = Health::default();
    for what in ["nats", "postgres", "intake", "devices", "service"] {
        health.set(what, Err("starting".into()));
    }
    let metrics = bus::telemetry::metrics("mesh-gateway", env!("CARGO_PKG_VERSION"))?;
    let bus = Bus::connect(Connect::new(&settings.bus, "mesh-gateway", "_INBOX.gateway"), &health).await?;
    let timings = settings.bus.timings();
    tokio::select! {
        checked = check(&bus, &settings) => checked?,
        () = stop.cancelled() => return Ok(()),
    }
    let store = Store::open(&settings.database_url).await?;
    health.set("postgres", Ok(()));
    if let Some(secret) = secret {
        let put = enrolment::rows::put_invite(store.pool(), &secret, "standing", u32::MAX, None, bus.time.now_ms()).await;
        // After a restart it is there already.
        put.or_else(|problem| if problem.code == Code::AlreadyEnrolled { Ok(()) } else { Err(problem) })?;
    }
    let for_enrolment = bus::keys::read_key_file(&settings.key)?;
    let enrol = EnrolContext::new(&settings.enrol(), bus.clone(), store.pool().clone(), for_enrolment, &document, document_text.clone())?;
    let world = Arc::new(World {
        net: document.network,
        bus,
        document,
        document_text,
        signer,
        timings,
        fleet: Fleet::new(timings.silence),
        live: Live::default(),
        store,
        verifier: Mutex::default(),
        freshness: Freshness::default(),
        solvent: Mutex::default(),
        turns: Turns::new(&settings.rates),
        enrol,
    });
    let own = bus::health::routes(health.clone(), metrics);
    let api = routes::api(world.clone()).merge(own).merge(settings.doors.tunnel(settings.bus.ca.as_deref())?);
    let (address, http) = bus::health::serving_with(settings.http, tls, routes::dressed(api), stop.clone()).await?;
    tracing::info!(%address, network = %world.net, "the doors are open");
    tasks(world, settings.rates, health, http, stop).await
}

/// Starts the tasks and waits for all to end; one that fails stops the others. The doors close first, while what answers them goes on.
///
/// # Errors
/// The first failure.
async fn tasks(world: Arc<World>, rates: Rates, health: Health, http: JoinHandle<()>, stop: CancellationToken) -> anyhow::Result<()> {
    let (records, recorded) = mpsc::channel(64);
    let (doors, stop) = (stop, CancellationToken::new());
    // Writing must outlive what it is written for, so it ends when the intake is gone.
    let recorder = tokio::spawn(recorder::run(world.clone(), recorded));
    let service = spawn("service", &doors, service::run(world.clone(), health.clone(), doors.clone()));
    let running = vec![
        spawn("devices", &stop, fleet::follow(world.clone(), stop.clone())),
        spawn("live", &stop, live::follow(world.clone(), stop.clone())),
        spawn("sweeper", &stop, sweeper::run(world.clone(), records.clone(), stop.clone())),
        spawn("intake", &stop, intake::run(world.clone(), records, stop.clone())),
        spawn("projection", &stop, projection::run(world.clone(), health.clone(), stop.clone())),
        spawn("readiness", &stop, readiness::watch(world.clone(), health.clone(), stop.clone())),
        spawn("revoker", &stop, readiness::watch_revoker(world.clone(), health.clone(), stop.clone())),
        spawn("policy", &stop, turns::follow_policy(world.clone(), rates, stop.clone())),
        spawn("letters", &stop, tail::follow(world.clone(), stop.clone())),
    ];
    health.set("intake", Ok(()));
    health.set("devices", Ok(()));
    tokio::select! { () = doors.cancelled() => {}, () = stop.cancelled() => doors.cancel() }
    health.set("doors", Err("this gateway stops".into()));
    let answered = async {
        let _ = http.await;
        service.await.unwrap_or_else(|error| Err(anyhow::anyhow!("a task panicked: {error}")))
    };
    let answered = tokio::time::timeout(ANSWERS, answered).await.unwrap_or_else(|_| {
        tracing::warn!("stopped while somebody waited for an answer");
        Ok(())
    });
    stop.cancel();
    let all = async {
        let mut first = answered;
        for task in running {
            let ended = task.await.unwrap_or_else(|error| Err(anyhow::anyhow!("a task panicked: {error}")));
            first = first.and(ended);
        }
        let _ = recorder.await;
        first
    };
    let ended = tokio::time::timeout(DRAIN, all).await;
    let _ = world.bus.client.flush().await;
    ended.unwrap_or_else(|_| {
        // What is not acknowledged comes again, to this gateway or another.
        tracing::warn!("stopped with work in hand");
        Ok(())
    })
}

fn spawn(
    name: &'static str,
    stop: &CancellationToken,
    task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) -> JoinHandle<anyhow::Result<()>> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let ended = task.await.with_context(|| format!("{name} failed"));
        if !stop.is_cancelled() {
            tracing::error!(name, "a task ended before it was told to");
            stop.cancel();
            return ended.and(Err(anyhow::anyhow!("{name} ended")));
        }
        ended
    })
}

/// Compares what a gateway uses with the table; a hub that elects a leader is waited for.
async fn check(bus: &Bus, settings: &Settings) -> anyhow::Result<()> {
    let streams =
        [stream::SUBMIT, stream::JOBS, stream::HISTORY, stream::CANCELS, stream::HEARTBEATS, stream::DLQ, stream::BLOBS, "KV_devices"];
    let consumers = [(stream::SUBMIT, stream::INTAKE), (stream::HISTORY, stream::PROJECTION)];
    let timings = settings.bus.timings();
    Ok(until_told(START, || bus.check_streams(&timings, &streams, &consumers)).await?)
}

/// The secret of an invite line, or the file's only line itself.
fn read_secret(path: &Path) -> anyhow::Result<String> {
    let text = bus::keys::read_secret(path)?;
    let line = text.trim();
    anyhow::ensure!(!line.is_empty() && !line.contains(char::is_whitespace), "{} is no invite", path.display());
    Ok(Invite::parse(line).map_or_else(|_| line.to_owned(), |invite| invite.secret))
}
