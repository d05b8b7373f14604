//! Keeps Postgres behind the stream by a moment: a tick of 40 ms after the first fact, at most every second tick while more follow,
//! asleep while there is none.
//!
//! The writer hands over what it stored; whatever is missing (after a start, or when Postgres was away for long) is read from
//! the stream. A database that is away or full never stops the writer: the rows follow when it is back. One whose rows are not what
//! the stream made ends its turn ([`Apart`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bus::direct::StoredMessage;
use bus::{Bus, Health};
use bus_schemas::ledger::What;
use bus_schemas::replay::{LedgerKeys, chain_next, read_facts};
use bus_schemas::stream::LEDGER;
use bus_schemas::{FactId, NetworkId, Verifier};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::balances::{Balances, Snapshot};
use crate::follow::FollowError;
use crate::project::{BATCH_FACTS_MAX, Moved, PATIENCE};
use crate::round::Message;
use crate::store::{Apart, Place, Position, Store};

/// Ticks from the start of one transaction to that of the next: nobody waits for rows, and each costs the database as much as ten facts.
const TICKS_APART: u32 = 2;
/// Facts that wait in memory; beyond it they are read from the stream again.
const WAITING_FACTS_MAX: usize = 16 * 1024;

/// From the writer to the projection, and back that there is nothing to go on from. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    waiting: Arc<Mutex<Waiting>>,
    head: watch::Sender<u64>,
    apart: watch::Sender<Option<Apart>>,
}
#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    facts: usize,
}

impl Feed {
    /// `head`: the last sequence stored so far.
    pub fn new(head: u64) -> Self {
        Self { waiting: Arc::default(), head: watch::Sender::new(head), apart: watch::Sender::new(None) }
    }

    /// Waits until the projection finds stream and database apart.
    pub async fn apart(&self) -> Apart {
        let mut apart = self.apart.subscribe();
        loop {
            if let Some(apart) = apart.borrow_and_update().clone() {
                return apart;
            }
            // The sender lives as long as this.
            let _ = apart.changed().await;
        }
    }

    /// A message is stored.
    pub fn push(&self, message: Message) {
        let seq = message.seq;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.facts < WAITING_FACTS_MAX {
            waiting.facts += message.facts.len();
            waiting.messages.push_back(message);
        }
        drop(waiting);
        self.head.send_replace(seq);
    }

    /// The next messages after `seq`, at most [`BATCH_FACTS_MAX`] facts (and at least one message); none where the next one is
    /// not here.
    fn take(&self, seq: u64) -> Vec<Message> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<Message> = vec![];
        let mut facts = 0;
        while let Some(front) = waiting.messages.front() {
            let next = taken.last().map_or(seq, |message| message.seq) + 1;
            let wanted = front.seq == next && (taken.is_empty() || facts + front.facts.len() <= BATCH_FACTS_MAX);
            if front.seq >= next && !wanted {
                break;
            }
            if let Some(message) = waiting.messages.pop_front() {
                waiting.facts -= message.facts.len();
                // What is in the database already is passed over.
                if wanted {
                    facts += message.facts.len();
                    taken.push(message);
                }
            }
        }
        taken
    }
}

/// The task that projects.
pub struct Projector {
    pub store: Store,
    pub bus: Bus,
    pub feed: Feed,
    pub net: NetworkId,
    pub keys: LedgerKeys,
    pub tick: Duration,
    pub health: Health,
    /// The last sequence known to be in the database; 0 before it was seen.
    pub seen: AtomicU64,
    /// The books when this began: what the rows must be there.
    pub books: Snapshot,
}

/// How long the database may take to say where it stands.
const LOOK: Duration = Duration::from_secs(5);

/// How long the database may add up its balances before it is asked another time.
const SUMS: Duration = Duration::from_secs(5);
/// Adding up takes at most this part of the time.
const SUMS_SHARE: u32 = 50;

impl Projector {
    /// Runs until `stop`, and then until the rows have caught up; the caller limits how long that may take.
    pub async fn run(self, stop: CancellationToken) {
        let mut head = self.feed.head.subscribe();
        let mut at = At::default();
        let mut pause = Duration::ZERO;
        let mut verifier = Verifier::default();
        let mut complained = String::new();
        let mut next = Instant::now();
        loop {
            let behind = at.place.as_ref().is_none_or(|place| place.position.seq < *head.borrow_and_update());
            if !behind {
                if stop.is_cancelled() {
                    return;
                }
                tokio::select! {
                    changed = head.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => {}
                }
            }
            // Everything that arrives meanwhile goes into one transaction.
            tokio::time::sleep_until(next.max(Instant::now() + self.tick.max(pause))).await;
            next = Instant::now() + self.tick * TICKS_APART;
            let target = *head.borrow();
            match self.until(&mut at, target, &mut verifier).await {
                Ok(()) => {
                    self.health.set("postgres", Ok(()));
                    pause = Duration::ZERO;
                    complained.clear();
                }
                Err(error) => {
                    at.lost();
                    pause = (pause * 2).clamp(Duration::from_millis(100), Duration::from_secs(2));
                    let text = format!("{error:#}");
                    metrics::counter!("mesh_ledger_projection_errors_total").increment(1);
                    if complained != text {
                        tracing::error!(error = text, "the projection into Postgres does not go on");
                        complained.clone_from(&text);
                    }
                    if let Some(apart) = error.downcast_ref::<Apart>() {
                        self.feed.apart.send_replace(Some(apart.clone()));
                        return;
                    }
                    if error.downcast_ref::<Moved>().is_none() {
                        let (head, seen) = (*head.borrow(), self.seen.load(Ordering::Relaxed));
                        metrics::gauge!("mesh_ledger_projection_behind").set(count(head.saturating_sub(seen)));
                        let behind = format!("{text}; the rows are at sequence {seen}, LEDGER at {head}");
                        self.health.set("postgres", Err(behind));
                    }
                }
            }
        }
    }

    /// For one who is about to write: brings the rows towards `books` for about as long as `patience`, and says whether they are what
    /// the stream made, as far as that can be seen.
    ///
    /// # Errors
    /// [`Apart`], or why it cannot be seen.
    pub async fn look(&self, books: Position, patience: Duration) -> anyhow::Result<()> {
        let (mut at, mut verifier, end) = (At::default(), Verifier::default(), Instant::now() + patience);
        let mut now = self.step(&mut at, books.seq, &mut verifier, patience).await?;
        while now.seq < books.seq && Instant::now() < end {
            now = self.step(&mut at, books.seq, &mut verifier, patience).await?;
        }
        if now.seq == books.seq && now.chain != books.chain {
            return Err(Apart(other_chain(now.seq)).into());
        }
        let known = (now.seq == self.books.seq).then_some((now.seq, &self.books.balances));
        self.store.sums(known, patience).await
    }

    /// Projects up to `target`, one transaction after the other.
    async fn until(&self, at: &mut At, target: u64, verifier: &mut Verifier) -> anyhow::Result<()> {
        while self.step(at, target, verifier, PATIENCE).await?.seq < target {}
        Ok(())
    }

    /// Writes what comes next, unless the rows are at `target`; returns where they are.
    async fn step(&self, at: &mut At, target: u64, verifier: &mut Verifier, patience: Duration) -> anyhow::Result<Position> {
        let place = match at.place.take() {
            Some(place) => place,
            None => tokio::time::timeout(LOOK, self.place()).await.context("the database does not answer")??,
        };
        let position = place.position;
        self.seen.store(position.seq, Ordering::Relaxed);
        if at.balances.is_none() {
            at.balances = self.balances(position.seq).await?;
        }
        if position.seq >= target {
            at.place = Some(place);
            return Ok(position);
        }
        // A stop where it is known what the rows must be.
        let target = if position.seq < self.books.seq { target.min(self.books.seq) } else { target };
        let fed = self.feed.take(position.seq);
        let messages = if fed.is_empty() {
            at.checked = false;
            self.read(position, target, verifier).await?
        } else {
            if !at.checked {
                check_chain(position, &fed)?;
                at.checked = true;
            }
            fed
        };
        let started = Instant::now();
        let to = self.store.project(&place, &messages, &mut at.balances, patience).await?;
        metrics::histogram!("mesh_ledger_projection_seconds").record(started.elapsed());
        let facts: usize = messages.iter().map(|message| message.facts.len()).sum();
        metrics::counter!("mesh_ledger_projected_facts_total").increment(u64::try_from(facts).unwrap_or(0));
        metrics::gauge!("mesh_ledger_projected_seq").set(count(to.position.seq));
        metrics::gauge!("mesh_ledger_projection_behind").set(count(target.saturating_sub(to.position.seq)));
        self.seen.store(to.position.seq, Ordering::Relaxed);
        let position = to.position;
        at.place = Some(to);
        let mut whats = messages.iter().flat_map(|message| &message.facts).map(|(fact, _)| &fact.what);
        if whats.any(|what| matches!(what, What::Checkpoint(_))) && at.sums_from <= Instant::now() {
            self.sums(at).await?;
        }
        Ok(position)
    }

    /// Where the rows are. Whoever is ahead of the stream says so first: nothing else about its rows can be right.
    async fn place(&self) -> anyhow::Result<Place> {
        let position = self.store.position().await?;
        if *self.feed.head.borrow() < position.seq {
            // Another worker may have projected what this one has not heard of.
            let end = self.bus.stream_end(LEDGER).await?;
            if end.last_seq < position.seq {
                return Err(Apart(ahead(position.seq, end.last_seq)).into());
            }
        }
        if self.store.cursor_is_changed().await? {
            return Err(Apart(other_chain(position.seq)).into());
        }
        self.store.place().await
    }

    /// What the accounts have at a sequence that the rows have reached: as the books say, where these are known there; behind them, as the
    /// rows say; `None` before.
    async fn balances(&self, seq: u64) -> anyhow::Result<Option<Balances>> {
        match seq.cmp(&self.books.seq) {
            std::cmp::Ordering::Less => Ok(None),
            std::cmp::Ordering::Equal => Ok(Some(self.books.balances.clone())),
            std::cmp::Ordering::Greater => Ok(Some(Balances::in_rows(&self.store.client().await?).await?)),
        }
    }

    /// With a checkpoint the balances are added up. Where the database is too slow for it, the rows go on.
    async fn sums(&self, at: &mut At) -> anyhow::Result<()> {
        let began = Instant::now();
        let known = at.place.as_ref().map(|place| place.position.seq).zip(at.balances.as_ref());
        let added = self.store.sums(known, SUMS).await;
        at.sums_from = Instant::now() + began.elapsed() * SUMS_SHARE;
        match added {
            Err(error) if !error.is::<Apart>() && !error.is::<Moved>() => {
                tracing::warn!(error = format!("{error:#}"), "the balances in the database were not added up");
                Ok(())
            }
            added => added,
        }
    }

    /// The next messages from the stream, for what was not handed over.
    async fn read(&self, position: Position, target: u64, verifier: &mut Verifier) -> anyhow::Result<Vec<Message>> {
        let stored = self.bus.from_seq(LEDGER, position.seq + 1, crate::follow::READ_BATCH).await?;
        let (mut messages, mut firsts, mut facts): (Vec<Message>, Vec<FactId>, usize) = (vec![], vec![], 0);
        for (StoredMessage { seq: found, payload, .. }, seq) in stored.into_iter().zip(position.seq + 1..=target) {
            if found != seq {
                // What can be read before a gap is written first.
                if !messages.is_empty() {
                    break;
                }
                return Err(Apart(FollowError::Gap { expected: seq, found }.to_string()).into());
            }
            let read = read_facts(&self.net, &self.keys, verifier, &payload).unwrap_or_default();
            facts += read.len();
            if facts > BATCH_FACTS_MAX && !messages.is_empty() {
                break;
            }
            firsts.extend(read.first().map(|(fact, _)| fact.id));
            messages.push(Message { seq, payload, chain: [0; 32], facts: read });
        }
        let mut known = self.store.recorded(&firsts).await?;
        let mut chain = position.chain;
        for message in &mut messages {
            if message.facts.first().is_some_and(|(fact, _)| known.get(&fact.id).is_some_and(|at| *at < message.seq)) {
                // A copy, as `Books::facts_of` says it.
                message.facts.clear();
            }
            known.extend(message.facts.iter().map(|(fact, _)| (fact.id, message.seq)));
            chain = chain_next(&chain, message.seq, &message.payload);
            message.chain = chain;
        }
        (!messages.is_empty()).then_some(messages).context("the stream does not show its last messages yet")
    }
}

struct At {
    place: Option<Place>,
    /// Whether the chain in the database was seen to be that of the writer.
    checked: bool,
    /// The balances are not added up again before this.
    sums_from: Instant,
    /// What the accounts have in the rows, where that is known.
    balances: Option<Balances>,
}
impl Default for At {
    fn default() -> Self {
        Self { place: None, checked: false, sums_from: Instant::now(), balances: None }
    }
}
impl At {
    /// After an error nobody knows what was written.
    fn lost(&mut self) {
        (self.place, self.checked, self.balances) = (None, false, None);
    }
}

/// The database's chain must lead to the writer's: else its rows come from another stream.
fn check_chain(position: Position, messages: &[Message]) -> Result<(), Apart> {
    match messages.first() {
        Some(first) if chain_next(&position.chain, first.seq, &first.payload) != first.chain => Err(Apart(other_chain(position.seq))),
        Some(_) | None => Ok(()),
    }
}

fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// What to say where the database knows more than the stream.
pub fn ahead(database: u64, stream: u64) -> String {
    format!("the database is at sequence {database}, LEDGER ends at {stream}: the stream lost facts (next: mesh-ledger reseed)")
}

/// What to say where the database was led to its place by other messages than those of the stream.
pub fn other_chain(seq: u64) -> String {
    format!("the chain of the database at sequence {seq} is not that of LEDGER: one of them was changed (next: mesh-ledger verify)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: u64) -> Message {
        Message { seq, payload: bytes::Bytes::from(seq.to_string()), chain: [0; 32], facts: vec![] }
    }

    #[test]
    fn the_feed_gives_what_follows_and_nothing_else() {
        let feed = Feed::new(0);
        for seq in [3, 4, 6] {
            feed.push(message(seq));
        }
        let take = |seq| feed.take(seq).iter().map(|message| message.seq).collect::<Vec<_>>();
        assert_eq!(take(1), [] as [u64; 0], "2 is not here: read it from the stream");
        assert_eq!(take(3), [4], "3 is passed over, 6 does not follow");
        assert_eq!(take(4), [] as [u64; 0]);
        assert_eq!(take(5), [6]);
    }

    #[tokio::test]
    async fn the_writer_hears_that_there_is_nothing_to_go_on_from() {
        let feed = Feed::new(0);
        let told = Apart("why (next: what)".into());
        let (heard, ()) = tokio::join!(feed.apart(), async {
            feed.apart.send_replace(Some(told.clone()));
        });
        assert_eq!((heard, feed.apart().await), (told.clone(), told), "then, and whenever it asks");
    }
}
