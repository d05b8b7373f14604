//! Storing a round, behind whatever counts for nothing. Somebody with the ledger's credentials, but without its key, can store bytes in
//! LEDGER between two messages of the writer: they move nothing, so what the writer has decided stands, one place further on. Where a
//! message counts, another writer is at work, and the turn is over.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bus::direct::StoredMessage;
use bus_schemas::ledger::LedgerOutcome;
use bus_schemas::replay::Place;
use bus_schemas::stream::LEDGER;
use bus_schemas::subject::LEDGER_FACTS;
use bytes::Bytes;
use tokio::time::Instant;

use crate::active::{NO_LEDGER, SWEEP, Turn, TurnOver};
use crate::append::{NotStored, append};
use crate::crash;
use crate::follow::READ_BATCH;
use crate::posting::clock;
use crate::refused::{self, Refused};
use crate::round::{self, Message};
use crate::whole::until_unlike;

/// A replica may not show yet what the stream's leader has refused an append for.
const AGAIN: Duration = Duration::from_millis(5);

/// Where messages stand that were to stand elsewhere.
#[derive(Debug, Default)]
pub struct Moved(BTreeMap<u64, u64>);
impl Moved {
    /// Puts the places right that answers name.
    pub fn tell(&self, outcomes: &mut [LedgerOutcome]) {
        for outcome in outcomes {
            if let LedgerOutcome::Done(done) = outcome
                && let Some(seq) = self.0.get(&done.seq)
            {
                done.seq = *seq;
            }
        }
    }
}

/// Where the stream ended, as its refusal of an append says (`wrong last sequence: 17`); only a hint.
fn ends_at(refusal: &str) -> Option<u64> {
    refusal.rsplit(' ').next()?.parse().ok()
}

/// One of our messages, and the place that it was decided for.
struct Pending {
    decided: u64,
    message: Message,
}

impl Turn<'_> {
    /// Stores messages that were decided on the books at `place`, in order, and hands each to the projection.
    pub async fn store(&mut self, place: Place, messages: Vec<Message>) -> Result<Moved, TurnOver> {
        let mut pending: VecDeque<Pending> = messages.into_iter().map(|message| Pending { decided: message.seq, message }).collect();
        let from = pending.front().map_or(0, |first| first.decided);
        let (mut stored, mut moved) = (Vec::<(u64, Bytes)>::new(), Moved::default());
        let patience = Instant::now() + self.patience;
        while let Some(Pending { decided, message }) = pending.front() {
            match self.append(message).await? {
                None => {}
                Some(fenced) if Instant::now() < patience => {
                    let between = self.between(message.seq, from, fenced).await?;
                    self.step_aside(&place, &mut stored, between, &mut pending);
                    continue;
                }
                Some(fenced) => return Err(fenced.into()),
            }
            if *decided != message.seq {
                moved.0.insert(*decided, message.seq);
            }
            if let Some(Pending { message, .. }) = pending.pop_front() {
                stored.push((message.seq, message.payload.clone()));
                self.feed.push(message);
            }
        }
        Ok(moved)
    }

    /// Stores a checkpoint, where one is due. It states its place: where another message takes that, the checkpoint is made anew behind
    /// it; where others come without a pause, it is tried again after the next round.
    pub async fn checkpoint(&mut self, age_ms: u64) -> Result<(), TurnOver> {
        let patience = Instant::now() + self.patience;
        let now = self.bus.time.now_ms();
        while let Some(message) = round::checkpoint(self.standing, self.signer, now, clock::CHECKPOINT_FACTS, age_ms) {
            match self.append(&message).await? {
                None => {
                    let message = round::take_checkpoint(self.standing, message)?;
                    self.feed.push(message);
                    return Ok(());
                }
                Some(fenced) => self.take_between(fenced).await?,
            }
            if Instant::now() >= patience {
                tracing::warn!("foreign messages keep taking a checkpoint's place; it is tried again later");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Appends one message; why not, where another one stands in its place.
    async fn append(&mut self, message: &Message) -> Result<Option<NotStored>, TurnOver> {
        let began = Instant::now();
        crash::at("before_append");
        let silent = |error: &str| self.health.set("ledger", Err(format!("an append to LEDGER got no answer: {error} {NO_LEDGER}")));
        let unlike = until_unlike(self.bus, self.timings, SWEEP / self.time_divisor.max(1));
        let appended = tokio::select! {
            biased;
            appended = append(self.bus, message, self.patience, silent) => appended,
            // It may be why there is no answer.
            why = unlike => return Err(TurnOver::Unfit(why)),
        };
        match appended {
            Ok(seen) => self.seen = seen,
            Err(fenced @ NotStored::Fenced(_)) => return Ok(Some(fenced)),
            Err(refused @ NotStored::Refused(_)) => {
                *self.refused = Some(Refused::after(self.refused.take(), refused.to_string(), message.seq - 1));
                return Err(refused.into());
            }
            Err(error) => return Err(error.into()),
        }
        if self.refused.take().is_some() {
            self.taken.notify_one();
        }
        refused::tell(self.health, None);
        crash::at("after_append");
        metrics::histogram!("mesh_ledger_append_seconds").record(began.elapsed());
        metrics::counter!("mesh_ledger_facts_total").increment(u64::try_from(message.facts.len()).unwrap_or(0));
        metrics::gauge!("mesh_ledger_seq").set(f64::from(u32::try_from(message.seq).unwrap_or(u32::MAX)));
        Ok(None)
    }

    /// Takes what came without a request of ours, up to `end`.
    pub async fn pass_over(&mut self, end: u64) -> Result<(), TurnOver> {
        let patience = Instant::now() + self.patience;
        while self.standing.books().seq() < end {
            if Instant::now() >= patience {
                return Err(NotStored::Silent(self.patience).into());
            }
            let behind = format!("LEDGER ends at {end}, these books at {}", self.standing.books().seq());
            self.take_between(NotStored::Fenced(behind)).await?;
        }
        Ok(())
    }

    /// Takes what counts for nothing and stands where the next message of these books was to stand; none of ours waits to be stored.
    async fn take_between(&mut self, fenced: NotStored) -> Result<(), TurnOver> {
        let (place, next) = (self.standing.books().place(), self.standing.books().seq() + 1);
        let between = self.between(next, next, fenced).await?;
        self.step_aside(&place, &mut vec![], between, &mut VecDeque::new());
        Ok(())
    }

    /// What stands from `seq` on, where all of it counts for nothing; none where a replica does not show it yet. The books hold their own
    /// facts from sequence `from` on.
    async fn between(&mut self, seq: u64, from: u64, fenced: NotStored) -> Result<Vec<StoredMessage>, TurnOver> {
        // One alone is read faster: while others store without a pause, the writer has to come between two of them.
        let alone = matches!(&fenced, NotStored::Fenced(said) if ends_at(said) == Some(seq));
        let read = if alone {
            self.bus.next_by_subject(LEDGER, LEDGER_FACTS, seq, 1).await
        } else {
            self.bus.from_seq(LEDGER, seq, READ_BATCH).await
        };
        let read = read.map_err(|error| NotStored::Fenced(format!("{fenced}; what stands there cannot be read: {error}")))?;
        for (message, expected) in read.iter().zip(seq..) {
            let nothing = self.standing.books().counts_for_nothing(self.verifier, &message.payload, from);
            match nothing.filter(|_| message.seq == expected) {
                Some(reason) => self.foreign.tell(message.seq, &reason),
                None => return Err(fenced.into()),
            }
        }
        if read.is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
        Ok(read)
    }

    /// Puts what waits behind the messages between.
    fn step_aside(&mut self, place: &Place, stored: &mut Vec<(u64, Bytes)>, between: Vec<StoredMessage>, pending: &mut VecDeque<Pending>) {
        self.standing.step_back(place.clone());
        for (seq, payload) in stored.iter() {
            self.standing.link(*seq, payload);
        }
        for StoredMessage { seq, payload, .. } in between {
            self.standing.link(seq, &payload);
            stored.push((seq, payload.clone()));
            self.feed.push(Message { seq, payload, chain: *self.standing.books().chain(), facts: vec![] });
        }
        for Pending { message, .. } in pending {
            message.seq = self.standing.books().seq() + 1;
            self.standing.moved(message.facts.iter().map(|(fact, _)| &fact.id), message.seq);
            self.standing.link(message.seq, &message.payload);
            message.chain = *self.standing.books().chain();
        }
    }
}
