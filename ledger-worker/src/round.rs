//! One round: everything that waits is decided, command by command, and packed into messages for LEDGER.
//!
//! Each command sees what the earlier ones of the round did. The books run ahead of the stream until the messages are
//! stored; if that fails they are dropped and built again from the stream.

use bus_schemas::ledger::{Done, Fact, LedgerOutcome, Op, RefusalKind};
use bus_schemas::limits::{BATCH_MAX, STEP_BYTES_TARGET};
use bus_schemas::replay::Wrong;
use bus_schemas::{Code, JobId, Signer, UnixMs, Verified};
use bus_schemas::{envelope::JsonBatch, ledger::Command};
use bytes::Bytes;

use crate::posting::{self, Decided, Evidence, Parts, Standing, clock};

/// One message of LEDGER with what the projection needs of it.
#[derive(Debug, Clone)]
pub struct Message {
    pub seq: u64,
    /// As it is stored.
    pub payload: Bytes,
    /// The chain with this message.
    pub chain: [u8; 32],
    /// Each fact with its body text; none in a message that counts for nothing.
    pub facts: Vec<(Fact, String)>,
}

/// A round in the making.
pub struct Round<'a> {
    standing: &'a mut Standing,
    signer: &'a Signer,
    messages: Vec<Message>,
    facts: Vec<(Fact, String)>,
    bytes: usize,
}

impl<'a> Round<'a> {
    pub fn new(standing: &'a mut Standing, signer: &'a Signer) -> Self {
        Self { standing, signer, messages: vec![], facts: vec![], bytes: 0 }
    }

    /// Decides the commands of one request, in order.
    ///
    /// # Errors
    /// [`Wrong`] where a decision of ours contradicts the books: a fault of ours, and the end of these books.
    pub fn answer(
        &mut self,
        parts: &Parts,
        now: UnixMs,
        commands: &[Verified<Command>],
        evidence: &Evidence,
    ) -> Result<Vec<LedgerOutcome>, Wrong> {
        commands.iter().map(|command| self.answer_one(parts, now, command, evidence)).collect()
    }

    fn answer_one(&mut self, parts: &Parts, now: UnixMs, command: &Verified<Command>, evidence: &Evidence) -> Result<LedgerOutcome, Wrong> {
        Ok(match posting::decide(self.standing, parts, now, command, evidence) {
            Ok(Decided::Record(facts)) => {
                let mut first = None;
                for fact in facts {
                    let id = fact.id;
                    let seq = self.add(fact)?;
                    first.get_or_insert((id, seq));
                }
                // A record has at least one fact.
                let Some((id, seq)) = first else { return Ok(nothing()) };
                let hold = job_of(&command.op).and_then(|job| self.standing.books().hold(&job)).cloned();
                LedgerOutcome::Done(Done { fact: id, seq, repeat: false, hold })
            }
            Ok(Decided::Known { fact, seq, hold }) => LedgerOutcome::Done(Done { fact, seq, repeat: true, hold: hold.map(|hold| *hold) }),
            Err(refusal) => LedgerOutcome::Refused { code: refusal.code, why: refusal.kind, detail: refusal.detail },
        })
    }

    /// Adds the facts that void holds which outlived their jobs, at most `max`; returns how many.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn expire(&mut self, now: UnixMs, max: usize) -> Result<usize, Wrong> {
        let now = posting::fact_time(self.standing, now);
        let outlived = self.standing.outlived(now, max);
        let mut voided = 0;
        for job in &outlived {
            if let Some(fact) = clock::expire(self.standing, now, job) {
                self.add(fact)?;
                voided += 1;
            }
        }
        Ok(voided)
    }

    /// Adds what else time has brought: pay that has vested (at most `max` jobs) and an epoch that has begun.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn ripen(&mut self, now: UnixMs, max: usize) -> Result<(), Wrong> {
        for fact in clock::vest(self.standing, now, max) {
            self.add(fact)?;
        }
        while let Some(fact) = clock::epoch(self.standing, now) {
            self.add(fact)?;
        }
        Ok(())
    }

    /// Applies a fact and puts it into the message in the making; returns that message's sequence.
    fn add(&mut self, fact: Fact) -> Result<u64, Wrong> {
        // Our own types always encode; nothing at all would be refused by every reader, by name.
        let body = serde_json::to_string(&fact).unwrap_or_default();
        if self.facts.len() >= BATCH_MAX || (self.bytes + body.len() > STEP_BYTES_TARGET && !self.facts.is_empty()) {
            self.close();
        }
        let seq = self.standing.books().seq() + 1;
        self.standing.apply(seq, &fact)?;
        self.bytes += body.len();
        self.facts.push((fact, body));
        Ok(seq)
    }

    fn close(&mut self) {
        if self.facts.is_empty() {
            return;
        }
        let (facts, bodies): (Vec<Fact>, Vec<String>) = self.facts.drain(..).unzip();
        self.bytes = 0;
        let batch: JsonBatch = self.signer.json_batch::<Fact>(bodies);
        let payload = Bytes::from(batch.encode());
        let seq = self.standing.books().seq() + 1;
        self.standing.link(seq, &payload);
        let facts = facts.into_iter().zip(batch.b).collect();
        self.messages.push(Message { seq, payload, chain: *self.standing.books().chain(), facts });
    }

    /// The messages to store, in order; none where nothing was decided.
    pub fn finish(mut self) -> Vec<Message> {
        self.close();
        self.messages
    }
}

/// A checkpoint, where `every` facts came since the last one or it is older than `age_ms`: a message of its own, to be stored as the next.
/// It states its place, so the books take it only once it stands there ([`take_checkpoint`]).
pub fn checkpoint(standing: &Standing, signer: &Signer, now: UnixMs, every: u64, age_ms: u64) -> Option<Message> {
    let (since, at) = (standing.since_checkpoint(), standing.checkpoint_at());
    if since < every && (since == 0 || now.saturating_sub(at) < age_ms) {
        return None;
    }
    let fact = clock::checkpoint(standing, now)?;
    let body = serde_json::to_string(&fact).unwrap_or_default();
    let batch: JsonBatch = signer.json_batch::<Fact>(vec![body]);
    let payload = Bytes::from(batch.encode());
    let facts = std::iter::once(fact).zip(batch.b).collect();
    Some(Message { seq: standing.books().seq() + 1, payload, chain: *standing.books().chain(), facts })
}

/// The books take a checkpoint that was stored; its message with the chain over it.
///
/// # Errors
/// [`Wrong`], as for any decision of ours.
pub fn take_checkpoint(standing: &mut Standing, mut message: Message) -> Result<Message, Wrong> {
    for (fact, _) in &message.facts {
        standing.apply(message.seq, fact)?;
    }
    standing.link(message.seq, &message.payload);
    message.chain = *standing.books().chain();
    Ok(message)
}

fn nothing() -> LedgerOutcome {
    let detail = "nothing was decided".to_owned();
    LedgerOutcome::Refused { code: Code::Internal, why: RefusalKind::NotAllowed, detail }
}

fn job_of(op: &Op) -> Option<JobId> {
    match op {
        Op::Hold { job, .. } | Op::Settle { job, .. } | Op::Void { job, .. } | Op::Look { job } => Some(*job),
        Op::Flag { job, .. } | Op::ReviewRelease { job, .. } | Op::ReviewSeize { job, .. } => Some(*job),
        Op::Open { .. }
        | Op::Mint { .. }
        | Op::BindDevice { .. }
        | Op::AttestTier { .. }
        | Op::Transfer { .. }
        | Op::Fee { .. }
        | Op::SetPolicy { .. }
        | Op::Correct { .. }
        | Op::RevokeDevice { .. }
        | Op::SuspendMember { .. }
        | Op::RestoreMember { .. } => None,
    }
}
