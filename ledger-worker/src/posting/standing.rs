//! The books with what deciding needs beside them: open holds by expiry, and amounts under mint keys.

use std::collections::{BTreeMap, BTreeSet};

use bus_schemas::ledger::{Fact, HoldState, HoldView, Leg, RefusalKind, What, fact_id};
use bus_schemas::replay::{Books, LedgerKeys, Place, Wrong};
use bus_schemas::{Cid, Code, FactId, JobId, NetworkId, UnixMs, Verifier};

use super::Refusal;
use super::settle::Closing;

/// What a stored message did to the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    Facts(usize),
    /// It counts for nothing: part of the chain, moves nothing.
    Foreign(String),
}

/// How a review ended; both ends have the same fact id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewEnd {
    Released,
    Seized,
}
impl ReviewEnd {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Seized => "seized",
        }
    }
}

/// [`Books`], and indexes over them that replay does not need.
#[derive(Debug, Clone)]
pub struct Standing {
    books: Books,
    /// The fact of each open hold.
    open: BTreeMap<JobId, FactId>,
    by_expiry: BTreeSet<(UnixMs, JobId)>,
    /// What each keyed fact says and moves, so that the same key with another body is a conflict.
    bodies: BTreeMap<FactId, Cid>,
    review_ends: BTreeMap<FactId, ReviewEnd>,
    by_ripeness: BTreeSet<(UnixMs, JobId)>,
    since_checkpoint: u64,
    checkpoint_at: UnixMs,
}

/// The content of a keyed fact, without when and by which policy.
pub fn body_id(what: &What, legs: &[Leg]) -> Cid {
    Cid::of(&bus_schemas::envelope::encode(&(what, legs)))
}

impl Standing {
    pub fn new(net: NetworkId, keys: LedgerKeys) -> Self {
        Self {
            books: Books::new(net, keys),
            open: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            bodies: BTreeMap::new(),
            review_ends: BTreeMap::new(),
            by_ripeness: BTreeSet::new(),
            since_checkpoint: 0,
            checkpoint_at: 0,
        }
    }

    pub fn books(&self) -> &Books {
        &self.books
    }
    pub fn open_holds(&self) -> usize {
        self.open.len()
    }
    pub fn body_of(&self, fact: &FactId) -> Option<Cid> {
        self.bodies.get(fact).copied()
    }
    pub fn review_end(&self, fact: &FactId) -> Option<ReviewEnd> {
        self.review_ends.get(fact).copied()
    }
    /// Jobs whose pay has vested by `now`, the oldest first, at most `max`.
    pub fn ripe(&self, now: UnixMs, max: usize) -> Vec<JobId> {
        self.by_ripeness.iter().take_while(|(at, _)| *at <= now).take(max).map(|(_, job)| *job).collect()
    }
    /// Facts after the last checkpoint.
    pub fn since_checkpoint(&self) -> u64 {
        self.since_checkpoint
    }
    /// Fact time of the last checkpoint; 0 before the first.
    pub fn checkpoint_at(&self) -> UnixMs {
        self.checkpoint_at
    }
    pub fn open_hold(&self, job: &JobId) -> Option<&HoldView> {
        self.books.hold(job).filter(|hold| hold.state == HoldState::Open)
    }
    /// The fact that opened a hold which is still open.
    pub fn hold_fact(&self, job: &JobId) -> Option<FactId> {
        self.open.get(job).copied()
    }
    /// Open holds whose time was over before `now`, the oldest first, at most `max`.
    pub fn outlived(&self, now: UnixMs, max: usize) -> Vec<JobId> {
        self.by_expiry.iter().take_while(|(expires, _)| *expires < now).take(max).map(|(_, job)| *job).collect()
    }

    /// How a job's hold stands, with the fact that closed it.
    ///
    /// # Errors
    /// [`RefusalKind::UnknownJob`].
    pub fn closing(&self, job: &JobId) -> Result<Closing<'_>, Refusal> {
        let unknown = || Refusal::new(RefusalKind::UnknownJob, Code::NoSuchJob, format!("{} has no hold", job.short()));
        let hold = self.books.hold(job).ok_or_else(unknown)?;
        let fact = fact_id::close(job);
        let seq = self.books.fact(&fact).map_or(0, |(seq, _)| seq);
        Ok(match &hold.state {
            HoldState::Open => Closing::Open(hold),
            HoldState::Voided { reason } => Closing::Voided { fact, seq, hold, reason: *reason },
            HoldState::Settled { attempt, receipt, .. } => Closing::Settled { fact, seq, hold, attempt: *attempt, receipt: *receipt },
        })
    }

    /// Applies one fact of message `seq`; [`Self::link`] follows once the message is whole.
    ///
    /// # Errors
    /// [`Wrong`]; the books may hold part of the fact then and must be dropped.
    pub fn apply(&mut self, seq: u64, fact: &Fact) -> Result<(), Wrong> {
        if let What::Vest { jobs, .. } = &fact.what {
            jobs.iter().for_each(|job| self.not_ripening(job));
        }
        if let What::Flag { job, .. } = &fact.what
            && !fact.legs.is_empty()
        {
            self.not_ripening(job);
        }
        self.books.apply(seq, fact)?;
        self.since_checkpoint += 1;
        self.note_body(fact);
        match &fact.what {
            What::Hold { job, expires, .. } => {
                self.open.insert(*job, fact.id);
                self.by_expiry.insert((*expires, *job));
            }
            What::Settle { job, .. } | What::Void { job, .. } => {
                if let Some(vesting) = self.books.vesting_of(job) {
                    self.by_ripeness.insert((vesting.at, *job));
                }
                self.open.remove(job);
                if let Some(hold) = self.books.hold(job) {
                    self.by_expiry.remove(&(hold.expires, *job));
                }
            }
            What::Checkpoint(_) => {
                self.since_checkpoint = 0;
                self.checkpoint_at = fact.at_ms;
            }
            What::Genesis { .. }
            | What::Open { .. }
            | What::Mint { .. }
            | What::BindDevice { .. }
            | What::AttestTier { .. }
            | What::RevokeDevice { .. }
            | What::SuspendMember { .. }
            | What::RestoreMember { .. }
            | What::Regen { .. }
            | What::Transfer { .. }
            | What::Fee { .. }
            | What::Vest { .. }
            | What::Flag { .. }
            | What::ReviewRelease { .. }
            | What::ReviewSeize { .. }
            | What::Policy { .. }
            | What::Correction { .. } => {}
        }
        Ok(())
    }

    fn not_ripening(&mut self, job: &JobId) {
        if let Some(vesting) = self.books.vesting_of(job) {
            self.by_ripeness.remove(&(vesting.at, *job));
        }
    }

    fn note_body(&mut self, fact: &Fact) {
        if matches!(fact.what, What::Mint { .. } | What::Transfer { .. } | What::Fee { .. } | What::Correction { .. }) {
            self.bodies.insert(fact.id, body_id(&fact.what, &fact.legs));
        }
        if matches!(fact.what, What::ReviewRelease { .. }) {
            self.review_ends.insert(fact.id, ReviewEnd::Released);
        }
        if matches!(fact.what, What::ReviewSeize { .. }) {
            self.review_ends.insert(fact.id, ReviewEnd::Seized);
        }
    }

    /// Takes back a fact that the books have forgotten, as it was looked up, with its hold where it closed one.
    pub fn recall(&mut self, seq: u64, fact: &Fact, hold: Option<HoldView>) {
        self.note_body(fact);
        self.books.recall(fact.id, seq, fact.what.job(), hold);
    }

    /// Forgets what is older than `before`; see [`Books::forget`].
    pub fn forget(&mut self, before: UnixMs) {
        self.books.forget(before);
        self.bodies.retain(|fact, _| self.books.fact(fact).is_some());
        self.review_ends.retain(|fact, _| self.books.fact(fact).is_some());
    }

    /// Steps the chain over a message whose facts were applied.
    pub fn link(&mut self, seq: u64, payload: &[u8]) {
        self.books.link(seq, payload);
    }
    /// See [`Books::step_back`].
    pub fn step_back(&mut self, place: Place) {
        self.books.step_back(place);
    }
    /// See [`Books::moved`].
    pub fn moved<'a>(&mut self, facts: impl IntoIterator<Item = &'a FactId>, seq: u64) {
        self.books.moved(facts, seq);
    }

    /// Applies one message as it is stored.
    ///
    /// # Errors
    /// [`Wrong`] where a signed fact contradicts the books: stop and keep the evidence.
    pub fn take(&mut self, verifier: &mut Verifier, seq: u64, payload: &[u8]) -> Result<Taken, Wrong> {
        let taken = match self.books.facts_of(verifier, payload) {
            Ok(facts) => {
                for (fact, _) in &facts {
                    self.apply(seq, fact)?;
                }
                Taken::Facts(facts.len())
            }
            Err(reason) => Taken::Foreign(reason),
        };
        self.link(seq, payload);
        Ok(taken)
    }
}
