//! Lets the hub refuse who was revoked: follows LEDGER, and is the one writer of EDGE's account token.
//!
//! In: facts that a ledger key signed, which name the logins that end. Out: the account token with those logins, to every node of the hub over
//! the system account, and to `jwt/edge.jwt`, so that `bootstrap files` knows it. It holds an operator signing key and the system account's
//! login, opens no door, and does nothing else. `list` decides and touches nothing.
//!
//! It may die anywhere: what the facts say is read again at its start, and what a node has that was away is written again when it is back.

pub mod list;
pub mod nodes;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bus::connect::{Connect, Login};
use bus::{Bus, BusSettings, Health};
use bus_schemas::api::people::HubTold;
use bus_schemas::replay::{LedgerKeys, read_facts};
use bus_schemas::{NetworkId, Verifier, limits, stream, subject};
use futures::StreamExt;
use nkeys::KeyPair;
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::bootstrap::files::read_nkey;
use crate::jwt::{self, Account, Claims};
use list::Refused;
use nodes::Nodes;

/// Settings of the revoker: each is a flag and an environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    #[command(flatten)]
    pub bus: BusSettings,
    /// The network's folder, as `bootstrap files` made it.
    #[arg(long, env = "MESH_DIR")]
    pub dir: PathBuf,
    /// Address for `/healthz`, `/readyz` and `/metrics`; none without it.
    #[arg(long, env = "MESH_HTTP")]
    pub http: Option<SocketAddr>,
    /// Seconds that logins of devices and members last at most; what was revoked longer ago is forgotten.
    #[arg(long, env = "MESH_CREDENTIALS_S", default_value_t = limits::CREDENTIALS_S, value_parser = clap::value_parser!(u64).range(1..))]
    pub credentials_s: u64,
    /// Reads and checks all files and settings, and ends.
    #[arg(long)]
    pub check_config: bool,
}

/// Facts are read in batches.
const BATCH: usize = 64;
/// LEDGER is looked at this often where nobody tells of a new fact.
const LOOK: Duration = Duration::from_secs(1);
/// A replica may show a fact a moment later than the stream tells of it.
const LAGS: Duration = Duration::from_millis(5);
/// Who is up is asked this often: a node that was down gets the token at once.
const NODES: Duration = Duration::from_secs(1);
/// What the nodes have is compared this often.
const COMPARE: Duration = Duration::from_secs(30);

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// Where a file cannot be used, or the hub cannot be reached at the start.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let dir = crate::bootstrap::net_dir::NetDir::new(&settings.dir)?;
    let document = bus::keys::read_network(&dir.network())?;
    let host = crate::bootstrap::host::of(None, &dir)?;
    let signing = read_nkey(&host.as_ref().map_or(&dir, |host| &host.dir).nkey("operator-signing"))?;
    let own = Token::read(&dir.jwt("edge"), &dir.edge_pub(), signing)?;
    if settings.check_config {
        settings.bus.check()?;
        println!("ok: revoker of {} ({})", document.name, document.network);
        return Ok(());
    }
    let stop = bus::shutdown::on_signal()?;
    let health = Health::default();
    health.set("hub", Err("starting".into()));
    if let Some(address) = settings.http {
        let metrics = bus::telemetry::metrics("mesh-revoker", env!("CARGO_PKG_VERSION"))?;
        bus::health::serve(address, bus::health::routes(health.clone(), metrics), stop.clone()).await?;
    }
    let creds = settings.bus.creds.clone().unwrap_or_else(|| dir.creds("revoker"));
    let connect =
        |creds: PathBuf, name: &str, inbox: &str| Connect { login: Login::Creds(creds), ..Connect::new(&settings.bus, name, inbox) };
    let bus = Bus::connect(connect(creds, "mesh-revoker", "_INBOX.revoker"), &health).await?;
    let sys = Bus::connect(connect(dir.creds("sys"), "mesh-revoker", "_INBOX.revoker-sys"), &health).await?;
    let mut revoker = Revoker {
        net: document.network,
        keys: document.ledger_keys.iter().copied().collect::<LedgerKeys>(),
        verifier: Verifier::default(),
        nodes: Nodes::of(sys),
        bus,
        token: own,
        refused: Refused::default(),
        life_s: settings.credentials_s.max(limits::CREDENTIALS_S),
        next: 1,
        known_end: 0,
        told: HubTold { nodes: 0, of: 0 },
        pushed: false,
        health,
    };
    tracing::info!(network = %document.network, "the revoker follows the books");
    revoker.follow(&stop).await
}

/// EDGE's account token: the one that counts, the file where it is kept, and the key that signs the next one.
struct Token {
    current: Claims<Account>,
    text: String,
    file: PathBuf,
    signing: KeyPair,
}
impl Token {
    fn read(file: &Path, edge_pub: &Path, signing: KeyPair) -> anyhow::Result<Self> {
        let text = bus::keys::read_secret(file)?.trim().to_owned();
        let edge = std::fs::read_to_string(edge_pub).with_context(|| format!("failed to read {}", edge_pub.display()))?;
        let only = std::collections::BTreeSet::from([signing.public_key()]);
        let current: Claims<Account> = jwt::decode_from(&text, &only).with_context(|| format!("{} cannot be used", file.display()))?;
        ensure!(current.sub == edge.trim(), "{} is another account's than edge.pub", file.display());
        Ok(Self { current, text, file: file.to_owned(), signing })
    }

    /// Takes what a node has, where that is ours and later: an earlier run of this program may not have kept it.
    fn take(&mut self, text: &str) -> bool {
        let only = std::collections::BTreeSet::from([self.signing.public_key()]);
        let Ok(found) = jwt::decode_from::<Account>(text.trim(), &only) else { return false };
        let later = found.sub == self.current.sub && found.iat > self.current.iat;
        if later {
            (self.current, self.text) = (found, text.trim().to_owned());
        }
        later
    }

    fn renew(&mut self, next: &Claims<Account>) -> anyhow::Result<()> {
        let text = jwt::encode(next, &self.signing)?;
        // What is sent must be right: a hub that was given a wrong one lets nobody in after its next start.
        let only = std::collections::BTreeSet::from([self.signing.public_key()]);
        self.current = jwt::decode_from(&text, &only)?;
        self.text = text;
        if let Err(error) = bus::keys::write_secret(&self.file, format!("{}\n", self.text).as_bytes()) {
            tracing::warn!(
                error = format!("{error:#}"),
                "the account token is not kept beside the network's keys; the hub's nodes keep it"
            );
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Question {
    seq: u64,
}

struct Revoker {
    bus: Bus,
    nodes: Nodes,
    net: NetworkId,
    keys: LedgerKeys,
    verifier: Verifier,
    token: Token,
    refused: Refused,
    /// The longest life of a login, in seconds.
    life_s: u64,
    /// The next sequence of LEDGER to read.
    next: u64,
    /// LEDGER goes at least so far.
    known_end: u64,
    told: HubTold,
    /// All nodes that are up have the token.
    pushed: bool,
    health: Health,
}

impl Revoker {
    async fn follow(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut stored = self.bus.client.subscribe(subject::LEDGER_STORED).await?;
        let mut questions = self.bus.client.subscribe(subject::REVOKER_DONE).await?;
        self.bus.client.flush().await?;
        let mut ticks = (interval(LOOK), interval(NODES), interval(COMPARE));
        for tick in [&mut ticks.0, &mut ticks.1, &mut ticks.2] {
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        self.start().await;
        let mut waiting: Vec<(u64, async_nats::Subject, Instant)> = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                message = stored.next() => match message {
                    Some(message) => self.known_end = self.known_end.max(sequence(&message).unwrap_or(0)),
                    None => anyhow::bail!("the connection to the hub ended"),
                },
                Some(message) = questions.next() => {
                    let asked: Option<Question> = serde_json::from_slice(&message.payload).ok();
                    if let (Some(Question { seq }), Some(reply)) = (asked, message.reply) {
                        waiting.push((seq, reply, Instant::now()));
                        self.known_end = self.known_end.max(seq);
                    }
                }
                _ = ticks.0.tick() => {}
                _ = ticks.1.tick() => if self.nodes.look().await { self.pushed = false },
                _ = ticks.2.tick() => self.compare().await,
            }
            if let Err(error) = self.catch_up().await {
                tracing::warn!(error = format!("{error:#}"), "LEDGER is read again");
            }
            if !self.pushed {
                self.push().await;
            }
            let not_all = || format!("{} of {} nodes of the hub have the account token", self.told.nodes, self.told.of);
            self.health.set("hub", if self.pushed { Ok(()) } else { Err(not_all()) });
            let (next, told) = (self.next, self.told);
            for (_, reply, _) in waiting.extract_if(.., |(seq, ..)| *seq < next) {
                let answer = serde_json::to_vec(&told).unwrap_or_default();
                let _ = self.bus.client.publish(reply, answer.into()).await;
            }
            waiting.retain(|(.., since)| since.elapsed() < Duration::from_secs(10));
        }
    }

    /// Where the facts begin that still matter, and what the nodes have.
    async fn start(&mut self) {
        let since = list::since(self.bus.time.now_ms(), self.life_s) * 1000;
        loop {
            match self.bus.next_by_subject_since(stream::LEDGER, subject::LEDGER_FACTS, since, 1).await {
                Ok(found) => {
                    // None: LEDGER is empty, or all of it is old; whatever comes is new.
                    self.next = found.first().map_or(1, |message| message.seq);
                    break;
                }
                Err(error) => tracing::warn!(%error, "LEDGER cannot be read yet"),
            }
            tokio::time::sleep(LOOK).await;
        }
        self.nodes.look().await;
        self.compare().await;
    }

    async fn catch_up(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let messages = self.bus.from_seq(stream::LEDGER, self.next, BATCH).await?;
            if messages.is_empty() {
                if self.next > self.known_end || begun.elapsed() > LOOK {
                    break;
                }
                tokio::time::sleep(LAGS).await;
                continue;
            }
            for message in messages {
                self.next = message.seq + 1;
                if !list::may_say(&message.payload) {
                    continue;
                }
                match read_facts(&self.net, &self.keys, &mut self.verifier, &message.payload) {
                    Ok(facts) => {
                        for (fact, _) in facts {
                            if self.refused.apply(&fact) {
                                tracing::info!(seq = message.seq, fact = %fact.id, kind = fact.what.kind(), "logins end");
                            }
                        }
                    }
                    Err(reason) => tracing::error!(seq = message.seq, reason, "a message in LEDGER counts for nothing"),
                }
            }
            if self.next > self.known_end {
                break;
            }
        }
        let now = self.bus.time.now_ms();
        if let Some(next) = self.refused.token_after(&self.token.current, now / 1000, list::since(now, self.life_s)) {
            self.token.renew(&next)?;
            self.pushed = false;
        }
        Ok(())
    }

    async fn push(&mut self) {
        self.told = self.nodes.update(&self.token.text).await;
        self.pushed = self.told.nodes > 0 && self.told.nodes == self.told.of;
        if self.pushed {
            tracing::info!(
                nodes = self.told.nodes,
                iat = self.token.current.iat,
                revoked = self.token.current.nats.revocations.len(),
                "the hub knows"
            );
        } else {
            tracing::warn!(
                nodes = self.told.nodes,
                of = self.told.of,
                "not all nodes of the hub have taken the account token; it is sent again"
            );
        }
    }

    /// What the nodes have counts where it is later; where one has less, all get it again.
    async fn compare(&mut self) {
        for text in self.nodes.have(&self.token.current.sub).await {
            if self.token.take(&text) {
                tracing::info!(iat = self.token.current.iat, "the hub has a later account token than the file");
            }
            if text.trim() != self.token.text {
                self.pushed = false;
            }
        }
    }
}

/// The sequence that a republished header names.
fn sequence(message: &async_nats::Message) -> Option<u64> {
    message.headers.as_ref()?.get("Nats-Sequence")?.as_str().parse().ok()
}
