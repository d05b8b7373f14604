//! The books with what deciding needs beside them: open holds by expiry, and amounts under mint keys.

use std::collections::{BTreeMap, BTreeSet};

use bus_schemas::ledger::{Fact, HoldState, HoldView, RefusalKind, What, fact_id};
use bus_schemas::replay::{Books, LedgerKeys, Wrong, read_facts};
use bus_schemas::{Code, FactId, JobId, MilliMana, NetworkId, UnixMs, Verifier};

use super::Refusal;
use super::settle::Closing;

/// What a stored message did to the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    Facts(usize),
    /// No valid batch of a ledger key: part of the chain, moves nothing.
    Foreign(String),
}

/// [`Books`], and indexes over them that replay does not need.
#[derive(Debug, Clone)]
pub struct Standing {
    books: Books,
    keys: LedgerKeys,
    /// The fact of each open hold.
    open: BTreeMap<JobId, FactId>,
    by_expiry: BTreeSet<(UnixMs, JobId)>,
    /// Amount of each mint, so that the same key with another amount is a conflict.
    minted: BTreeMap<FactId, MilliMana>,
}

impl Standing {
    pub fn new(net: NetworkId, keys: LedgerKeys) -> Self {
        Self { books: Books::new(net, keys.clone()), keys, open: BTreeMap::new(), by_expiry: BTreeSet::new(), minted: BTreeMap::new() }
    }

    pub fn books(&self) -> &Books {
        &self.books
    }
    pub fn open_holds(&self) -> usize {
        self.open.len()
    }
    pub fn minted(&self, fact: &FactId) -> Option<MilliMana> {
        self.minted.get(fact).copied()
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
        self.books.apply(seq, fact)?;
        match &fact.what {
            What::Hold { job, expires, .. } => {
                self.open.insert(*job, fact.id);
                self.by_expiry.insert((*expires, *job));
            }
            What::Settle { job, .. } | What::Void { job, .. } => {
                self.open.remove(job);
                if let Some(hold) = self.books.hold(job) {
                    self.by_expiry.remove(&(hold.expires, *job));
                }
            }
            What::Mint { .. } => {
                if let Some(leg) = fact.legs.first() {
                    self.minted.insert(fact.id, leg.amount_mmana);
                }
            }
            What::Genesis { .. } | What::Open { .. } | What::BindDevice { .. } | What::AttestTier { .. } | What::RevokeDevice { .. } => {}
        }
        Ok(())
    }

    /// Steps the chain over a message whose facts were applied.
    pub fn link(&mut self, seq: u64, payload: &[u8]) {
        self.books.link(seq, payload);
    }

    /// Applies one message as it is stored.
    ///
    /// # Errors
    /// [`Wrong`] where a signed fact contradicts the books: stop and keep the evidence.
    pub fn take(&mut self, verifier: &mut Verifier, seq: u64, payload: &[u8]) -> Result<Taken, Wrong> {
        let taken = match read_facts(&self.books.net, &self.keys, verifier, payload) {
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
