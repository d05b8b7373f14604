//! Keeps Postgres behind the stream by a moment: a tick of 40 ms after the first fact, at most every second tick while more follow,
//! asleep while there is none.
//!
//! The writer hands over what it stored; whatever is missing (after a start, or when Postgres was away for long) is read from
//! the stream. A fault of the database never stops the writer: the rows follow when it is back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bus::{Bus, Health};
use bus_schemas::replay::{LedgerKeys, chain_next, read_facts};
use bus_schemas::stream::LEDGER;
use bus_schemas::{NetworkId, Verifier};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::project::{BATCH_FACTS_MAX, Moved};
use crate::round::Message;
use crate::store::{Place, Position, Store};

/// Ticks from the start of one transaction to that of the next: nobody waits for rows, and each costs the database as much as ten facts.
const TICKS_APART: u32 = 2;
/// Facts that wait in memory; beyond it they are read from the stream again.
const WAITING_FACTS_MAX: usize = 16 * 1024;

/// From the writer to the projection. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    waiting: Arc<Mutex<Waiting>>,
    head: watch::Sender<u64>,
}
#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    facts: usize,
}

impl Feed {
    /// `head`: the last sequence stored so far.
    pub fn new(head: u64) -> Self {
        Self { waiting: Arc::default(), head: watch::Sender::new(head) }
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
}

/// How long the database may take to say where it stands.
const LOOK: Duration = Duration::from_secs(5);

/// Something only a person can put right.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Stopped(String);

impl Projector {
    /// Runs until `stop`, and then until the rows have caught up; the caller limits how long that may take.
    pub async fn run(self, stop: CancellationToken) {
        let mut head = self.feed.head.subscribe();
        let mut at = At { place: None, checked: false };
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
                    at = At { place: None, checked: false };
                    pause = (pause * 2).clamp(Duration::from_millis(100), Duration::from_secs(2));
                    let text = format!("{error:#}");
                    metrics::counter!("mesh_ledger_projection_errors_total").increment(1);
                    if complained != text {
                        tracing::error!(error = text, "the projection into Postgres does not go on");
                        complained.clone_from(&text);
                    }
                    if error.downcast_ref::<Moved>().is_none() {
                        let (head, seen) = (*head.borrow(), self.seen.load(Ordering::Relaxed));
                        metrics::gauge!("mesh_ledger_projection_behind").set(count(head.saturating_sub(seen)));
                        let behind = format!("{text}; the rows are at sequence {seen}, LEDGER at {head}");
                        self.health.set("postgres", Err(behind));
                    }
                    if error.downcast_ref::<Stopped>().is_some() {
                        pause = Duration::from_secs(2);
                    }
                }
            }
        }
    }

    /// Projects up to `target`, one transaction after the other.
    async fn until(&self, at: &mut At, target: u64, verifier: &mut Verifier) -> anyhow::Result<()> {
        loop {
            let place = match at.place.take() {
                Some(place) => place,
                None => tokio::time::timeout(LOOK, self.store.place()).await.context("the database does not answer")??,
            };
            let position = place.position;
            self.seen.store(position.seq, Ordering::Relaxed);
            if position.seq >= target {
                at.place = Some(place);
                return self.not_ahead(position, target);
            }
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
            let to = self.store.project(&place, &messages).await?;
            metrics::histogram!("mesh_ledger_projection_seconds").record(started.elapsed());
            let facts: usize = messages.iter().map(|message| message.facts.len()).sum();
            metrics::counter!("mesh_ledger_projected_facts_total").increment(u64::try_from(facts).unwrap_or(0));
            metrics::gauge!("mesh_ledger_projected_seq").set(count(to.position.seq));
            metrics::gauge!("mesh_ledger_projection_behind").set(count(target.saturating_sub(to.position.seq)));
            self.seen.store(to.position.seq, Ordering::Relaxed);
            at.place = Some(to);
        }
    }

    fn not_ahead(&self, position: Position, target: u64) -> anyhow::Result<()> {
        // Another worker may have projected what this one has not heard of; the head of its own stream it cannot pass.
        if position.seq > target && *self.feed.head.borrow() < position.seq {
            return Err(Stopped(ahead(position.seq, target)).into());
        }
        Ok(())
    }

    /// The next messages from the stream, for what was not handed over.
    async fn read(&self, position: Position, target: u64, verifier: &mut Verifier) -> anyhow::Result<Vec<Message>> {
        let stored = self.bus.from_seq(LEDGER, position.seq + 1, crate::follow::READ_BATCH).await?;
        let mut messages: Vec<Message> = vec![];
        let (mut chain, mut facts) = (position.chain, 0);
        for (message, seq) in stored.into_iter().zip(position.seq + 1..=target) {
            if message.seq != seq {
                return Err(Stopped(format!("sequence {seq} is missing in LEDGER: facts are lost (next: mesh-ledger reseed)")).into());
            }
            let read = read_facts(&self.net, &self.keys, verifier, &message.payload).unwrap_or_default();
            facts += read.len();
            if facts > BATCH_FACTS_MAX && !messages.is_empty() {
                break;
            }
            chain = chain_next(&chain, seq, &message.payload);
            messages.push(Message { seq, payload: message.payload, chain, facts: read });
        }
        (!messages.is_empty()).then_some(messages).context("the stream does not show its last messages yet")
    }
}

struct At {
    place: Option<Place>,
    /// Whether the chain in the database was seen to be that of the writer.
    checked: bool,
}

/// The database's chain must lead to the writer's: else its rows come from another stream.
fn check_chain(position: Position, messages: &[Message]) -> Result<(), Stopped> {
    match messages.first() {
        Some(first) if chain_next(&position.chain, first.seq, &first.payload) != first.chain => Err(Stopped(format!(
            "the rows up to sequence {} come from another stream than LEDGER (next: mesh-ledger verify)",
            position.seq
        ))),
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
}
