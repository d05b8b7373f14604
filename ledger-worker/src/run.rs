//! The life of one worker: stands by and follows the stream; takes its turn at writing when the lease is free; steps down and
//! builds its books again when it finds that it is not the active one.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context;
use bus::{Bus, Health};
use bus_schemas::limits::Timings;
use bus_schemas::network::NetworkDocument;
use bus_schemas::replay::Books;
use bus_schemas::stream::{KV_LEDGER, LEDGER};
use bus_schemas::{InstanceId, Signer, Verifier, subject};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::active::{Lookups, NO_LEDGER, Turn, TurnOver};
use crate::append::NotStored;
use crate::balances::Snapshot;
use crate::follow::{FollowError, Foreign, catch_up};
use crate::freshness::Moment;
use crate::lease::{Lease, LeaseError, Stand};
use crate::posting::Standing;
use crate::projector::{Feed, Projector, ahead, other_chain};
use crate::refused::{self, Refused};
use crate::settings::parts;
use crate::store::{Apart, Position, Store};
use crate::whole::{unlike, unlike_the_table, whole};

/// How long the rows may take to catch up when the worker is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the rows are looked at before a worker becomes active: it must take over within 5 s.
const LOOK: Duration = Duration::from_millis(500);
/// The same for one who knows that something is wrong with them.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How long the readers of the rows are told why nobody writes, and how often a writer tells it or takes it back.
const ALARM: Duration = Duration::from_secs(2);
const NO_ALARM: Duration = Duration::from_secs(10);

/// All that a worker is made of.
pub struct Worker {
    pub bus: Bus,
    pub store: Store,
    pub network: NetworkDocument,
    pub signer: Signer,
    pub instance: InstanceId,
    pub timings: Timings,
    pub time_divisor: u32,
    /// How long facts stay in memory.
    pub remember: Duration,
    pub health: Health,
}

/// What a worker knows between its turns.
struct Known {
    standing: Standing,
    /// When the stream that they were read from was made: one that is made again has to be read again.
    created_ns: i128,
    verifier: Verifier,
    /// Why the rows are not what the stream made, until they are seen to be.
    apart: Option<Apart>,
    /// Why the stream took no facts, until it is seen to take some.
    refused: Option<Refused>,
    /// Messages that count for nothing were told of, up to here.
    foreign: Foreign,
}

/// Why a worker does not become active now.
enum NotYet {
    /// Another one is; look again after this.
    Standby(Duration),
    /// Something is missing; the sentence says what.
    Missing(String),
    /// Nobody writes: these rows and the stream are not one, or the stream is not set up to keep facts; the sentence says why.
    NotOne(String),
}

impl Worker {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// Where a decision of ours contradicts the books: a person must look.
    pub async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        // Said from the first moment, so that an alarm on them finds them.
        metrics::gauge!("mesh_ledger_active").set(0.0);
        metrics::gauge!("mesh_ledger_stopped").set(0.0);
        self.prepare("postgres", &stop, async || {
            let applied = self.store.migrate().await?;
            if !applied.is_empty() {
                tracing::info!(?applied, "the database schema was brought to this version");
            }
            Ok(())
        })
        .await;
        let lease_stream = format!("KV_{KV_LEDGER}");
        self.prepare("ledger", &stop, async || {
            match self.bus.check_streams(&self.timings, &[LEDGER, &lease_stream], &[]).await {
                // Told with an alarm, below.
                Err(error) if unlike(&error).is_some() => Ok(()),
                checked => Ok(checked?),
            }
        })
        .await;
        let mut lease = Lease::new(self.bus.clone(), self.instance.clone(), self.timings.ledger_lease);
        let mut known = self.nothing();
        let mut said = String::new();
        while !stop.is_cancelled() {
            match self.become_active(&mut lease, &mut known).await {
                Ok(requests) => {
                    said.clear();
                    let over = self.turn(&mut lease, &mut known, requests, &stop).await;
                    metrics::gauge!("mesh_ledger_active").set(0.0);
                    if !over.keeps_books() {
                        known.standing = self.no_books();
                    }
                    // Before the lease is free, so that nobody sees this worker well and idle.
                    self.tell_end(&over, &mut known).await;
                    lease.release().await;
                    match over {
                        TurnOver::Stop => break,
                        TurnOver::Wrong(_) => {
                            self.health.set("ledger", Err(over.to_string()));
                            return Err(anyhow::Error::new(over).context("the books are stopped; look with: mesh-ledger verify"));
                        }
                        TurnOver::NotStored(_)
                        | TurnOver::Behind { .. }
                        | TurnOver::OtherStream
                        | TurnOver::Lease(_)
                        | TurnOver::Deaf
                        | TurnOver::Apart(_)
                        | TurnOver::Unfit(_) => {
                            metrics::counter!("mesh_ledger_step_downs_total").increment(1);
                            let books = if over.keeps_books() { "go on from where they are" } else { "are built again from the stream" };
                            tracing::warn!(why = %over, "stepped down; the books {books}");
                        }
                    }
                    if let (TurnOver::NotStored(NotStored::Refused(_)), Some(refused)) = (&over, &known.refused) {
                        wait_or(&stop, refused.pause).await;
                    }
                }
                Err(NotYet::Standby(wait)) => {
                    if said != "standby" {
                        tracing::info!("standing by: another worker writes");
                        "standby".clone_into(&mut said);
                    }
                    refused::tell(&self.health, known.refused.as_ref());
                    // The rows are the writer's work: what this one last saw of them is old.
                    self.health.set("postgres", Ok(()));
                    metrics::gauge!("mesh_ledger_projection_behind").set(0.0);
                    wait_or(&stop, wait).await;
                }
                Err(not_yet @ (NotYet::Missing(_) | NotYet::NotOne(_))) => {
                    let why = match not_yet {
                        NotYet::NotOne(why) => {
                            self.alarm(&why).await;
                            why
                        }
                        NotYet::Missing(why) => why,
                        NotYet::Standby(_) => continue,
                    };
                    metrics::gauge!("mesh_ledger_stopped").set(1.0);
                    lease.release().await;
                    if said != why {
                        tracing::error!(why, "this worker cannot write now");
                        said.clone_from(&why);
                    }
                    self.health.set("ledger", Err(why));
                    wait_or(&stop, lease.beat()).await;
                }
            }
        }
        Ok(())
    }

    /// Tells readers and `/readyz` why a turn ended, where that keeps everybody from writing.
    async fn tell_end(&self, over: &TurnOver, known: &mut Known) {
        let stops = matches!(over, TurnOver::Apart(_) | TurnOver::Unfit(_) | TurnOver::NotStored(NotStored::Refused(_)));
        if stops || matches!(over, TurnOver::Wrong(_)) {
            self.alarm(&over.to_string()).await;
        }
        if stops {
            metrics::gauge!("mesh_ledger_stopped").set(1.0);
            self.health.set("ledger", Err(over.to_string()));
        }
        if let TurnOver::Apart(why) = over {
            known.apart = Some(why.clone());
        }
    }

    fn remember_ms(&self) -> u64 {
        u64::try_from(self.remember.as_millis()).unwrap_or(u64::MAX)
    }

    fn nothing(&self) -> Known {
        Known {
            standing: self.no_books(),
            created_ns: 0,
            verifier: Verifier::default(),
            apart: None,
            refused: None,
            foreign: Foreign::default(),
        }
    }

    fn no_books(&self) -> Standing {
        Standing::new(self.network.network, self.network.ledger_keys.iter().copied().collect())
    }

    /// Tries until it works; what is missing stands in `/readyz`, and once in the log.
    async fn prepare(&self, part: &'static str, stop: &CancellationToken, make_ready: impl AsyncFn() -> anyhow::Result<()>) {
        let mut said = String::new();
        while !stop.is_cancelled() {
            match make_ready().await {
                Ok(()) => return self.health.set(part, Ok(())),
                Err(error) => {
                    let text = format!("{error:#}");
                    if said != text {
                        tracing::warn!(error = text, part, "not ready; trying on");
                        said.clone_from(&text);
                    }
                    self.health.set(part, Err(text));
                }
            }
            wait_or(stop, Duration::from_millis(300)).await;
        }
    }

    /// Follows the stream, and where the lease is free takes it and checks that stream, books and database are one.
    ///
    /// Without the database nobody becomes active: it may know facts that the stream has lost, and writing on would fork the
    /// books. One who is active goes on without it.
    async fn become_active(&self, lease: &mut Lease, known: &mut Known) -> Result<bus::async_nats::Subscriber, NotYet> {
        // First, since a stream that is set up otherwise may not even be readable.
        if let Some(why) = unlike_the_table(&self.bus, &self.timings).await {
            return Err(NotYet::NotOne(why));
        }
        self.follow(known).await?;
        let away = |error: LeaseError| {
            NotYet::Missing(format!("{error} (next: is the hub up? where KV_{KV_LEDGER} is gone: mesh-gateway bootstrap streams)"))
        };
        match lease.look().await.map_err(away)? {
            Stand::Held(wait) => return Err(NotYet::Standby(wait)),
            Stand::Free | Stand::Mine => {}
        }
        let rows = tokio::time::timeout(Duration::from_secs(5), self.database_end()).await;
        let rows = rows.map_err(|_| anyhow::anyhow!("the database does not answer")).flatten();
        let rows = rows.map_err(|error| NotYet::Missing(format!("{error:#}")))?;
        self.health.set("postgres", Ok(()));
        self.fits(&known.standing, &rows).await.map_err(|error| NotYet::NotOne(format!("{error:#}")))?;
        if known.standing.books().fact_count() == 0 {
            return Err(NotYet::Missing("LEDGER has no genesis yet (next: mesh-gateway bootstrap streams)".into()));
        }
        self.look(known).await?;
        match lease.take().await {
            Ok(()) => {}
            Err(LeaseError::Lost) => return Err(NotYet::Standby(Duration::ZERO)),
            Err(error @ LeaseError::Away(_)) => return Err(away(error)),
        }
        let missing = |error: &dyn std::fmt::Display| NotYet::Missing(format!("{error} {NO_LEDGER}"));
        // First listen, then read the rest: a request that arrives meanwhile waits.
        let requests = self.bus.client.subscribe(subject::LEDGER_DO).await.map_err(|error| missing(&error))?;
        self.bus.client.flush().await.map_err(|error| missing(&error))?;
        loop {
            self.follow(known).await?;
            let end = self.bus.stream_end(LEDGER).await.map_err(|error| missing(&error))?;
            match end.last_seq.cmp(&known.standing.books().seq()) {
                std::cmp::Ordering::Equal => return Ok(requests),
                // A replica that lags answered the reads.
                std::cmp::Ordering::Greater => tokio::time::sleep(Duration::from_millis(20)).await,
                std::cmp::Ordering::Less => {
                    let (books, stream) = (known.standing.books().seq(), end.last_seq);
                    known.standing = self.no_books();
                    return Err(NotYet::Missing(format!("LEDGER ends at {stream}, it was at {books} before: facts are lost {NO_LEDGER}")));
                }
            }
        }
    }

    async fn follow(&self, known: &mut Known) -> Result<(), NotYet> {
        let end = self.bus.stream_end(LEDGER).await.map_err(|error| NotYet::Missing(format!("{error} {NO_LEDGER}")))?;
        if known.created_ns != end.created_ns {
            (known.standing, known.created_ns) = (self.no_books(), end.created_ns);
            (known.refused, known.foreign) = (None, Foreign::default());
        }
        match catch_up(&self.bus, &mut known.standing, &mut known.verifier, &mut known.foreign, self.remember_ms()).await {
            Ok(_) => {
                known.refused.take_if(|refused| known.standing.books().seq() > refused.end);
                Ok(())
            }
            Err(error @ FollowError::Read(_)) => Err(NotYet::Missing(format!("{error} {NO_LEDGER}"))),
            Err(error) => {
                // What can be read is kept in rows: the way back may lead through them.
                let rows = self.look(known).await;
                known.standing = self.no_books();
                rows.and(Err(NotYet::NotOne(error.to_string())))
            }
        }
    }

    /// What ended one worker's turn must keep the next one from writing: the rows are brought a step further and added up first. A
    /// database that is full or slow keeps nobody from it, unless it is known to be apart.
    async fn look(&self, known: &mut Known) -> Result<(), NotYet> {
        let Known { standing, apart, .. } = known;
        let books = Position { seq: standing.books().seq(), chain: *standing.books().chain() };
        let patience = if apart.is_some() { LOOK_AGAIN } else { LOOK };
        match self.projector(Feed::new(books.seq), standing.books()).look(books, patience).await {
            Ok(()) => *apart = None,
            Err(error) => match error.downcast::<Apart>() {
                Ok(found) => *apart = Some(found),
                Err(error) => tracing::info!(why = format!("{error:#}"), "the rows were not looked at as a whole"),
            },
        }
        apart.as_ref().map_or(Ok(()), |why| Err(NotYet::NotOne(why.to_string())))
    }

    /// Tells the readers of the rows, as far as the database lets it; said again at each try.
    async fn alarm(&self, why: &str) {
        match tokio::time::timeout(ALARM, self.store.alarm(Some(why))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = format!("{error:#}"), "the readers were not told"),
            Err(_) => tracing::debug!("the readers were not told: the database does not answer"),
        }
    }

    /// While this worker writes: tells the readers of a stream that takes nothing, until it does (`taken`). Then takes alarms back; both
    /// again and again, since another worker's word may arrive late.
    async fn alarms(store: Store, refused: Option<String>, taken: Arc<Notify>) {
        if let Some(why) = refused {
            loop {
                if let Err(error) = store.alarm(Some(&why)).await {
                    tracing::debug!(error = format!("{error:#}"), "the readers were not told; trying again");
                }
                if tokio::time::timeout(NO_ALARM, taken.notified()).await.is_ok() {
                    break;
                }
            }
        }
        loop {
            if let Err(error) = store.alarm(None).await {
                tracing::debug!(error = format!("{error:#}"), "an alarm was not taken back; trying again");
            }
            tokio::time::sleep(NO_ALARM).await;
        }
    }

    fn projector(&self, feed: Feed, books: &Books) -> Projector {
        Projector {
            store: self.store.clone(),
            bus: self.bus.clone(),
            feed,
            net: self.network.network,
            keys: self.network.ledger_keys.iter().copied().collect(),
            // Who asks for a hold waits while rows are made, so they are made in smaller portions than what else runs on the tick.
            tick: self.timings.tick * 2 / 5,
            health: self.health.clone(),
            seen: AtomicU64::new(0),
            books: Snapshot::of(books),
        }
    }

    /// Where the database stands, and its last message.
    async fn database_end(&self) -> anyhow::Result<(Position, Option<Vec<u8>>)> {
        let position = self.store.position().await?;
        let last = self.store.envelope(position.seq).await?;
        Ok((position, last))
    }

    /// The database must be a part of this stream: not ahead of it, and its last message the same bytes. The stream must be whole: nobody
    /// can rebuild anything from one that is not.
    async fn fits(&self, standing: &Standing, (position, last): &(Position, Option<Vec<u8>>)) -> anyhow::Result<()> {
        let end = self.bus.stream_end(LEDGER).await.map_err(|error| anyhow::anyhow!("{error} {NO_LEDGER}"))?;
        whole(&end).map_err(anyhow::Error::msg)?;
        anyhow::ensure!(position.seq <= end.last_seq, "{}", ahead(position.seq, end.last_seq));
        if position.seq > 0 {
            let row = last.as_ref().context("the database lacks its own last message (next: mesh-ledger verify, mesh-ledger rebuild)")?;
            let stored = self.bus.from_leader(LEDGER, position.seq).await?.context("LEDGER lacks a message")?;
            anyhow::ensure!(
                stored == *row,
                "sequence {} in the database is not what LEDGER has there: they are of two streams (next: mesh-ledger verify; then mesh-ledger rebuild if LEDGER is right, or delete LEDGER and mesh-ledger reseed if the database is)",
                position.seq
            );
            anyhow::ensure!(
                position.seq != standing.books().seq() || position.chain == *standing.books().chain(),
                "{}",
                other_chain(position.seq)
            );
        }
        Ok(())
    }

    async fn turn(
        &self,
        lease: &mut Lease,
        known: &mut Known,
        requests: bus::async_nats::Subscriber,
        stop: &CancellationToken,
    ) -> TurnOver {
        let Known { standing, verifier, created_ns, refused, foreign, .. } = known;
        let seq = standing.books().seq();
        let feed = Feed::new(seq);
        let over = CancellationToken::new();
        let mut projecting = tokio::spawn(self.projector(feed.clone(), standing.books()).run(over.clone()));
        let parts = parts(&self.network);
        refused::tell(&self.health, refused.as_ref());
        metrics::gauge!("mesh_ledger_active").set(1.0);
        metrics::gauge!("mesh_ledger_seq").set(f64::from(u32::try_from(seq).unwrap_or(u32::MAX)));
        tracing::info!(seq, facts = standing.books().fact_count(), "active: this worker writes");
        let taken = Arc::new(Notify::new());
        let alarms = Self::alarms(self.store.clone(), refused.as_ref().map(|refused| refused.why.clone()), taken.clone());
        let mut turn = Turn {
            bus: &self.bus,
            standing,
            signer: &self.signer,
            parts: &parts,
            verifier,
            foreign,
            lease,
            feed: &feed,
            store: &self.store,
            lookups: Lookups::new(),
            health: &self.health,
            refused,
            taken: &taken,
            timings: &self.timings,
            remember_ms: self.remember_ms(),
            patience: self.timings.ack_wait,
            time_divisor: self.time_divisor,
            // Nothing was stored by this turn yet: the first answer without an append takes a look.
            seen: Moment::never(),
            created_ns: *created_ns,
        };
        let alarms = tokio::spawn(alarms);
        let ended = turn.serve(requests, stop).await;
        alarms.abort();
        over.cancel();
        // Whoever writes next projects what is missing, so only an orderly stop waits for the rows.
        let patience = if matches!(ended, TurnOver::Stop) { DRAIN } else { Duration::ZERO };
        match tokio::time::timeout(patience, &mut projecting).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the projection ended badly"),
            Err(_) => projecting.abort(),
        }
        ended
    }
}

async fn wait_or(stop: &CancellationToken, wait: Duration) {
    tokio::select! { () = tokio::time::sleep(wait) => {}, () = stop.cancelled() => {} }
}
