//! The turn of the active worker: takes what is waiting, decides, stores, answers; until it is told to stop or finds that it is
//! not the active one.

use std::time::Duration;

use bus::async_nats::Subject;
use bus::direct::ReadError;
use bus::{Bus, Health};
use bus_schemas::envelope;
use bus_schemas::ledger::{Command, LedgerOutcome, LedgerReply};
use bus_schemas::limits::{BATCH_MAX, Timings};
use bus_schemas::replay::Wrong;
use bus_schemas::{Signer, Verified, Verifier, stream::LEDGER};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::append::NotStored;
use crate::crash;
use crate::follow::Foreign;
use crate::freshness::Moment;
use crate::lease::{Lease, LeaseError};
use crate::posting::{Evidence, Parts, Standing};
use crate::projector::Feed;
use crate::recall::{self, Found};
use crate::refused::{self, Refused};
use crate::request::{self, Request};
use crate::round::Round;
use crate::store::{Apart, Store};
use crate::told::{self, Told};
use crate::whole::{unlike_the_table, whole};

/// Requests taken into one round.
pub const ROUND_REQUESTS_MAX: usize = 64;
/// An answer that stores nothing needs a look at the stream's end, or a PubAck, younger than this.
const FRESH: Duration = Duration::from_secs(1);
/// How long that look may take.
const LOOK: Duration = Duration::from_secs(2);
/// What to do where LEDGER says nothing.
pub const NO_LEDGER: &str = "(next: is the hub up? where LEDGER is gone: mesh-ledger reseed)";
/// How often holds that outlived their jobs are looked for, and whether LEDGER is still set up to keep facts.
pub const SWEEP: Duration = Duration::from_secs(10);
/// How often changed reputations are told.
const TELL: Duration = Duration::from_secs(1);
/// A checkpoint is made of new facts at the first sweep after this: 60 s after a fact at the latest.
const CHECKPOINT_AGE_MS: u64 = 50_000;
/// Questions to the database under way at once; what comes beyond them is asked again.
const LOOKUPS_MAX: usize = 4;
/// Only these can be replies to a request: anything else would let an asker make the ledger publish where it likes.
const INBOX: &str = "_INBOX.";

/// Why a turn ended.
#[derive(Debug, thiserror::Error)]
pub enum TurnOver {
    #[error("told to stop")]
    Stop,
    #[error(transparent)]
    NotStored(#[from] NotStored),
    #[error("LEDGER ends at {stream}, these books at {books}: another writer is at work")]
    Behind { stream: u64, books: u64 },
    #[error("LEDGER is another stream than the one that these books were read from")]
    OtherStream,
    #[error(transparent)]
    Lease(LeaseError),
    #[error("the subscription to requests ended")]
    Deaf,
    /// The rows are not what the stream made: nobody writes before they are.
    #[error(transparent)]
    Apart(Apart),
    /// LEDGER has lost facts, or is set up to lose them: nobody writes before it is put right.
    #[error("{0}")]
    Unfit(String),
    /// A fault of ours: the worker stops and keeps the evidence.
    #[error("a decision contradicts the books: {0}")]
    Wrong(#[from] Wrong),
}

impl TurnOver {
    /// Are the books still what the stream made? Elsewhere they may be ahead of it: what was decided but not stored never happened. Who
    /// only lost the lease had nothing undecided, and would lose it again while it reads everything anew on a busy machine.
    pub fn keeps_books(&self) -> bool {
        match self {
            Self::Lease(_) | Self::Deaf => true,
            Self::Stop
            | Self::NotStored(_)
            | Self::Behind { .. }
            | Self::OtherStream
            | Self::Apart(_)
            | Self::Unfit(_)
            | Self::Wrong(_) => false,
        }
    }
}

/// A request that was checked and waits for its answer.
pub struct Asked {
    reply: Subject,
    commands: Vec<Verified<Command>>,
    evidence: Evidence,
}

/// Requests that wait for what the books have forgotten; everything else goes on meanwhile.
pub type Lookups = FuturesUnordered<BoxFuture<'static, (Vec<Asked>, anyhow::Result<Vec<Found>>)>>;

/// One turn at writing.
pub struct Turn<'a> {
    pub bus: &'a Bus,
    pub standing: &'a mut Standing,
    pub signer: &'a Signer,
    pub parts: &'a Parts,
    pub verifier: &'a mut Verifier,
    pub foreign: &'a mut Foreign,
    pub lease: &'a mut Lease,
    pub feed: &'a Feed,
    pub store: &'a Store,
    pub lookups: Lookups,
    pub health: &'a Health,
    /// The stream's last refusal, until it takes something.
    pub refused: &'a mut Option<Refused>,
    /// Told when it does.
    pub taken: &'a Notify,
    pub timings: &'a Timings,
    /// Facts older than this are forgotten, in milliseconds.
    pub remember_ms: u64,
    /// How long an append without an answer is repeated.
    pub patience: Duration,
    pub time_divisor: u32,
    /// When the stream's end was last seen to be where the books are.
    pub seen: Moment,
    /// When the stream that the books were read from was made.
    pub created_ns: i128,
}

impl Turn<'_> {
    /// Serves until the turn is over.
    pub async fn serve(&mut self, requests: bus::async_nats::Subscriber, stop: &CancellationToken) -> TurnOver {
        let mut requests = requests.ready_chunks(ROUND_REQUESTS_MAX);
        let mut beat = tokio::time::interval(self.lease.beat());
        let mut sweep = tokio::time::interval(SWEEP / self.time_divisor.max(1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tell = tokio::time::interval(TELL / self.time_divisor.max(1));
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = Told::default();
        loop {
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => Err(TurnOver::Stop),
                apart = self.feed.apart() => Err(TurnOver::Apart(apart)),
                _ = beat.tick() => self.beat().await,
                waiting = requests.next() => match waiting {
                    Some(waiting) => self.round(waiting).await,
                    None => Err(TurnOver::Deaf),
                },
                Some((asked, found)) = self.lookups.next(), if !self.lookups.is_empty() => self.looked_up(asked, found).await,
                _ = sweep.tick() => {
                    // An epoch may be shorter than the pause between two sweeps.
                    let epoch = Duration::from_millis(self.standing.books().policy.epoch_ms);
                    sweep.reset_after(SWEEP.min(epoch) / self.time_divisor.max(1));
                    self.sweep().await
                }
                _ = tell.tick() => {
                    told::tell(self.bus, known.changed(self.standing.books())).await;
                    Ok(())
                }
            };
            if let Err(over) = done {
                return over;
            }
        }
    }

    /// Keeps the lease, and sees whether LEDGER is still there: while nobody asks, nothing else would find out.
    async fn beat(&mut self) -> Result<(), TurnOver> {
        match self.lease.renew().await {
            Ok(()) => {}
            Err(LeaseError::Lost) => return Err(TurnOver::Lease(LeaseError::Lost)),
            // The lease does not fence: without it, appends still say who writes.
            Err(error @ LeaseError::Away(_)) => tracing::warn!(%error, "the lease was not renewed"),
        }
        // Also while appends succeed: they would on another stream of the same length.
        self.look().await.map(|_| ())
    }

    /// Everything that waits, in one round: read, decided, stored, answered.
    async fn round(&mut self, waiting: Vec<bus::async_nats::Message>) -> Result<(), TurnOver> {
        let (mut ready, mut forgotten, mut answers, mut ids) = (vec![], vec![], vec![], vec![]);
        for message in waiting {
            let Some(reply) = message.reply.filter(|reply| reply.starts_with(INBOX)) else {
                unanswered("reply");
                continue;
            };
            match request::read(self.verifier, &message.payload) {
                Request::Good { commands, evidence } => {
                    let missing = recall::missing(self.standing, commands.iter().map(|command| &command.op));
                    let to = if missing.is_empty() { &mut ready } else { &mut forgotten };
                    to.push(Asked { reply, commands, evidence });
                    ids.extend(missing);
                }
                Request::Refused(outcomes) => answers.push((reply, outcomes)),
                Request::Unreadable(problem) => {
                    unanswered("unreadable");
                    tracing::warn!(%problem, "a request to the ledger cannot be read");
                }
            }
        }
        if !forgotten.is_empty() {
            self.look_up(forgotten, ids);
        }
        self.decide(ready, answers).await
    }

    /// Asks the database for facts that may have been forgotten.
    fn look_up(&mut self, asked: Vec<Asked>, ids: Vec<bus_schemas::FactId>) {
        if self.lookups.len() >= LOOKUPS_MAX {
            asked.iter().for_each(|_| unanswered("lookup"));
            return;
        }
        let (store, past) = (self.store.clone(), self.standing.books().forgotten_to());
        self.lookups.push(async move { (asked, store.recall(&ids, past).await) }.boxed());
    }

    async fn looked_up(&mut self, asked: Vec<Asked>, found: anyhow::Result<Vec<Found>>) -> Result<(), TurnOver> {
        match found {
            Ok(found) => {
                metrics::counter!("mesh_ledger_recalled_total").increment(u64::try_from(found.len()).unwrap_or(0));
                for one in found {
                    self.standing.recall(one.seq, &one.fact, one.hold);
                }
                self.decide(asked, vec![]).await
            }
            Err(error) => {
                asked.iter().for_each(|_| unanswered("lookup"));
                tracing::warn!(error = format!("{error:#}"), "what was forgotten cannot be looked up; the asker will ask again");
                Ok(())
            }
        }
    }

    async fn decide(&mut self, asked: Vec<Asked>, mut answers: Vec<(Subject, Vec<LedgerOutcome>)>) -> Result<(), TurnOver> {
        let began = Instant::now();
        let (now, place) = (self.bus.time.now_ms(), self.standing.books().place());
        let mut round = Round::new(self.standing, self.signer);
        for Asked { reply, commands, evidence } in asked {
            answers.push((reply, round.answer(self.parts, now, &commands, &evidence)?));
        }
        let messages = round.finish();
        let stored_any = !messages.is_empty();
        let moved = self.store(place, messages).await?;
        if !stored_any && !answers.is_empty() && !self.fresh().await? {
            unanswered("not_fresh");
            return Ok(());
        }
        if answers.is_empty() {
            return Ok(());
        }
        crash::at("before_reply");
        for (reply, mut outcomes) in answers {
            moved.tell(&mut outcomes);
            count(&outcomes);
            let answer = envelope::encode(&LedgerReply { outcomes });
            if let Err(error) = self.bus.client.publish(reply, answer.into()).await {
                tracing::warn!(%error, "an answer was not sent; the asker will ask again");
            }
        }
        if crash::is_asked("after_reply") {
            let _ = self.bus.client.flush().await;
            crash::at("after_reply");
        }
        metrics::histogram!("mesh_ledger_round_seconds").record(began.elapsed());
        // After the answers: nobody waits for it.
        self.checkpoint(u64::MAX).await
    }

    async fn sweep(&mut self) -> Result<(), TurnOver> {
        if let Some(why) = unlike_the_table(self.bus, self.timings).await {
            return Err(TurnOver::Unfit(why));
        }
        let (now, place) = (self.bus.time.now_ms(), self.standing.books().place());
        let mut round = Round::new(self.standing, self.signer);
        let voided = round.expire(now, BATCH_MAX)?;
        round.ripen(now, BATCH_MAX)?;
        let messages = round.finish();
        self.store(place, messages).await?;
        self.checkpoint(CHECKPOINT_AGE_MS / u64::from(self.time_divisor.max(1))).await?;
        self.standing.forget(now.saturating_sub(self.remember_ms));
        if voided > 0 {
            tracing::info!(voided, "holds that outlived their jobs were returned");
        }
        let open = u32::try_from(self.standing.open_holds()).unwrap_or(u32::MAX);
        metrics::gauge!("mesh_ledger_open_holds").set(f64::from(open));
        Ok(())
    }

    /// Whether the books are surely those at the stream's end. `false`: it cannot be seen; ask again.
    async fn fresh(&mut self) -> Result<bool, TurnOver> {
        if self.seen.is_younger_than(FRESH) { Ok(true) } else { self.look().await }
    }

    /// Looks at the stream's end. `false`: it cannot be seen.
    async fn look(&mut self) -> Result<bool, TurnOver> {
        let asked = Moment::now();
        let end = tokio::time::timeout(LOOK, self.bus.stream_end(LEDGER)).await;
        match end.unwrap_or_else(|_| Err(ReadError::TimedOut(LEDGER.to_owned()))) {
            Ok(end) if end.created_ns != self.created_ns => Err(TurnOver::OtherStream),
            Ok(end) if let Err(lost) = whole(&end) => Err(TurnOver::Unfit(lost)),
            Ok(end) if end.last_seq == self.standing.books().seq() => {
                self.seen = asked;
                refused::tell(self.health, self.refused.as_ref());
                Ok(asked.is_younger_than(FRESH))
            }
            Ok(end) if end.last_seq > self.standing.books().seq() => self.pass_over(end.last_seq).await.map(|()| false),
            Ok(end) => Err(TurnOver::Behind { stream: end.last_seq, books: self.standing.books().seq() }),
            Err(error) => {
                tracing::warn!(%error, "the end of LEDGER cannot be seen; nothing is answered");
                self.health.set("ledger", Err(format!("the end of LEDGER cannot be seen: {error} {NO_LEDGER}")));
                Ok(false)
            }
        }
    }
}

fn unanswered(why: &'static str) {
    metrics::counter!("mesh_ledger_unanswered_total", "why" => why).increment(1);
}

fn count(outcomes: &[LedgerOutcome]) {
    let of = |wanted: fn(&LedgerOutcome) -> bool| u64::try_from(outcomes.iter().filter(|outcome| wanted(outcome)).count()).unwrap_or(0);
    let refused = of(|outcome| matches!(outcome, LedgerOutcome::Refused { .. }));
    let repeats = of(|outcome| matches!(outcome, LedgerOutcome::Done(done) if done.repeat));
    let all = u64::try_from(outcomes.len()).unwrap_or(0);
    metrics::counter!("mesh_ledger_commands_total", "outcome" => "done").increment(all - refused - repeats);
    if refused > 0 {
        metrics::counter!("mesh_ledger_commands_total", "outcome" => "refused").increment(refused);
    }
    if repeats > 0 {
        metrics::counter!("mesh_ledger_commands_total", "outcome" => "known").increment(repeats);
    }
}
