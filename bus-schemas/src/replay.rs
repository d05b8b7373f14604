//! Replay: the books as a fold over the stored messages of LEDGER. The writer, the projection, `verify`, the CLI and every
//! auditor use this one function, and a stranger can write it again from `docs/`.
//!
//! `apply` checks the invariants on what each fact touches: the legs move what is there (only `mint` goes below zero), a job
//! is settled or voided at most once, the held account of a member is the sum of its open holds, no payout exceeds its hold.
//! A checkpoint must say what the books are.

mod check;
mod digest;
pub mod reputation;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::UnixMs;
use crate::envelope::{JsonBatch, Verifier};
use crate::id::{DeviceId, FactId, JobId, MemberId, NetworkId, PublicKey};
use crate::ledger::{Account, Balance, Balances, CheckpointState, Fact, Hash32, HoldState, HoldView, Policy, What};
use crate::mana::MilliMana;
use crate::merkle::{self, Frontier};

pub use reputation::Reputation;

/// Length of a day of fact time, for what may be earned in one.
pub const DAY_MS: u64 = 24 * 3600 * 1000;

/// Who signs what in this network; LEDGER counts only what a ledger key signed.
pub type LedgerKeys = BTreeSet<PublicKey>;

/// Why a fact cannot follow the books it stands on. Never happens in a sound ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("the first fact is not a genesis of this network")]
    NoGenesis,
    #[error("fact {0:?} appears twice")]
    Twice(FactId),
    #[error("{account} would fall to {balance} milli-mana")]
    BelowZero { account: Account, balance: i64 },
    #[error("an amount is out of range")]
    Overflow,
    #[error("{0:?} has no open hold")]
    NoHold(JobId),
    #[error("{0:?} already has a hold")]
    HoldTwice(JobId),
    #[error("the legs of {kind} do not say what it says: {detail}")]
    Legs { kind: &'static str, detail: String },
    #[error("{kind} names an unknown {what}")]
    Unknown { kind: &'static str, what: &'static str },
    #[error("fact time goes back from {from} to {to}")]
    TimeBack { from: u64, to: u64 },
    #[error("the fact cites policy version {cited}, in force is {in_force}")]
    PolicyVersion { cited: u32, in_force: u32 },
    #[error("no such policy can follow: {detail}")]
    Policy { detail: String },
    #[error("the hold of {job:?} is made at {at}, after its end at {expires}")]
    HoldLate { job: JobId, expires: u64, at: u64 },
    #[error("the settlement of {0:?} does not cite its assignment and receipt")]
    NoEvidence(JobId),
    #[error("nothing of {0:?} is in review")]
    NotInReview(JobId),
    #[error("the checkpoint of sequence {seq} is wrong: {what}")]
    Checkpoint { seq: u64, what: &'static str },
}

/// What one stored message turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    Facts(Vec<Fact>),
    /// No valid batch of a ledger key, or a copy of one: part of the chain, moves nothing, raises an alarm.
    Foreign(String),
}

/// Why a message does not count that was stored a second time.
pub fn a_copy_of(seq: u64) -> String {
    format!("a copy of sequence {seq}")
}

/// `chain_n = SHA-256(chain_{n-1} ‖ be64(seq) ‖ SHA-256(payload as stored))`.
pub fn chain_next(chain: &[u8; 32], seq: u64, payload: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(chain).chain_update(seq.to_be_bytes()).chain_update(Sha256::digest(payload)).finalize().into()
}

/// The facts of one stored message, each with its body text as stored.
///
/// # Errors
/// One sentence, where the message is no valid batch of a ledger key of this network.
pub fn read_facts(net: &NetworkId, keys: &LedgerKeys, verifier: &mut Verifier, payload: &[u8]) -> Result<Vec<(Fact, String)>, String> {
    let batch = JsonBatch::decode(payload).map_err(|problem| problem.to_string())?;
    if !keys.contains(&batch.k) {
        return Err(format!("signed by {}, which is no ledger key", batch.k));
    }
    let facts = batch.verify_bodies::<Fact>(verifier).map_err(|problem| problem.to_string())?;
    if facts.iter().any(|fact| fact.net != *net) {
        return Err("facts of another network".into());
    }
    Ok(facts.into_iter().zip(batch.b).collect())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub did: PublicKey,
    pub member: MemberId,
    /// Attested tier; 0 until attested.
    pub tier: u8,
    /// How often it was attested.
    pub attested: u32,
    /// The last sequence of RECEIPTS that stays payable, where it is revoked.
    pub revoked: Option<u64>,
    pub reputation: Reputation,
}

/// Whether a member is suspended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Suspension {
    /// How often it was suspended or restored.
    pub times: u32,
    pub is_suspended: bool,
    /// Where the logins of its devices ended as well: the last sequence of RECEIPTS that stays payable.
    pub receipts_seq: Option<u64>,
}

impl Suspension {
    /// Whether a suspension adds to it: the first does, and one that ends the logins of devices which kept them.
    pub const fn may_follow(&self, receipts_seq: Option<u64>) -> bool {
        !self.is_suspended || (receipts_seq.is_some() && self.receipts_seq.is_none())
    }
}

/// Pay that has not vested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vesting {
    pub member: MemberId,
    pub at: UnixMs,
    pub amount: MilliMana,
}

/// Pay that a person must look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Review {
    pub member: MemberId,
    pub amount: MilliMana,
}

/// Who earns; limits count members and devices apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Earner {
    Member(MemberId),
    Device(DeviceId),
}

/// A remembered fact: where it stands, and the job that it is about.
#[derive(Debug, Clone, Copy)]
struct Known {
    seq: u64,
    job: Option<JobId>,
}

/// What may be forgotten once it is old enough.
#[derive(Debug, Clone, Copy)]
struct Passing {
    at: UnixMs,
    fact: FactId,
    /// The job whose hold this fact closed.
    closed: Option<JobId>,
}

/// A place in the stream, with what leads to it.
#[derive(Debug, Clone)]
pub struct Place {
    seq: u64,
    chain: [u8; 32],
    tree: Frontier,
}

/// The books at one place of the stream.
#[derive(Debug, Clone)]
pub struct Books {
    pub net: NetworkId,
    keys: LedgerKeys,
    pub policy: Policy,
    balances: Balances,
    members: BTreeMap<MemberId, PublicKey>,
    devices: BTreeMap<DeviceId, Device>,
    suspensions: BTreeMap<MemberId, Suspension>,
    open: BTreeMap<JobId, HoldView>,
    closed: BTreeMap<JobId, HoldView>,
    open_holds: BTreeMap<MemberId, u32>,
    vesting: BTreeMap<JobId, Vesting>,
    reviews: BTreeMap<JobId, Review>,
    /// Day of fact time and what was earned in it.
    earned: BTreeMap<Earner, (u64, MilliMana)>,
    facts: BTreeMap<FactId, Known>,
    passing: VecDeque<Passing>,
    /// The first 8 bytes of the ids of facts that were forgotten: asked, never listed.
    forgotten: HashSet<u64>,
    forgotten_to: u64,
    /// Fact time of the last epoch fact.
    epoch_at: UnixMs,
    /// Part and first member of what is still to come of that epoch.
    epoch_next: Option<(u32, MemberId)>,
    /// Last sequence applied; 0 before the first.
    seq: u64,
    /// Facts applied since the chain was last stepped.
    in_message: u32,
    chain: [u8; 32],
    tree: Frontier,
    checkpoint: Option<CheckpointState>,
    last_at: u64,
    fact_count: u64,
    /// Once it was asked for; empty again with the next fact.
    digest: OnceLock<[u8; 32]>,
}

impl Books {
    pub fn new(net: NetworkId, keys: LedgerKeys) -> Self {
        Self {
            net,
            keys,
            policy: Policy::first(MilliMana::ZERO),
            balances: Balances::new(),
            members: BTreeMap::new(),
            devices: BTreeMap::new(),
            suspensions: BTreeMap::new(),
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
            open_holds: BTreeMap::new(),
            vesting: BTreeMap::new(),
            reviews: BTreeMap::new(),
            earned: BTreeMap::new(),
            facts: BTreeMap::new(),
            passing: VecDeque::new(),
            forgotten: HashSet::new(),
            forgotten_to: 0,
            epoch_at: 0,
            epoch_next: None,
            seq: 0,
            in_message: 0,
            chain: [0; 32],
            tree: Frontier::default(),
            checkpoint: None,
            last_at: 0,
            fact_count: 0,
            digest: OnceLock::new(),
        }
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }
    pub fn chain(&self) -> &[u8; 32] {
        &self.chain
    }
    pub fn last_at(&self) -> u64 {
        self.last_at
    }
    pub fn fact_count(&self) -> u64 {
        self.fact_count
    }
    pub fn balances(&self) -> &Balances {
        &self.balances
    }
    pub fn balance_of(&self, account: &Account) -> i64 {
        self.balances.get(account).copied().unwrap_or(0)
    }
    pub fn member_balance(&self, member: &MemberId) -> Option<Balance> {
        self.members.contains_key(member).then(|| Balance {
            available_mmana: self.balance_of(&Account::Available(*member)),
            held_mmana: self.balance_of(&Account::Held(*member)),
            vesting_mmana: self.balance_of(&Account::Vesting(*member)),
        })
    }
    pub fn member(&self, member: &MemberId) -> Option<&PublicKey> {
        self.members.get(member)
    }
    pub fn members(&self) -> impl Iterator<Item = &MemberId> {
        self.members.keys()
    }
    pub fn device(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.get(device)
    }
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceId, &Device)> {
        self.devices.iter()
    }
    /// `None`: it never was suspended.
    pub fn suspension(&self, member: &MemberId) -> Option<Suspension> {
        self.suspensions.get(member).copied()
    }
    fn suspended(&mut self, member: &MemberId, is_suspended: bool, receipts_seq: Option<u64>) {
        let found = self.suspensions.entry(*member).or_default();
        *found = Suspension { times: found.times.saturating_add(1), is_suspended, receipts_seq };
    }
    pub fn hold(&self, job: &JobId) -> Option<&HoldView> {
        self.open.get(job).or_else(|| self.closed.get(job))
    }
    /// All that are remembered, open and closed.
    pub fn holds(&self) -> impl Iterator<Item = &HoldView> {
        self.open.values().chain(self.closed.values())
    }
    pub fn open_holds(&self) -> impl Iterator<Item = &HoldView> {
        self.open.values()
    }
    /// Where a fact stands, and the job that it is about; `None` also where it was forgotten.
    pub fn fact(&self, id: &FactId) -> Option<(u64, Option<JobId>)> {
        self.facts.get(id).map(|known| (known.seq, known.job))
    }
    pub fn open_holds_of(&self, member: &MemberId) -> u32 {
        self.open_holds.get(member).copied().unwrap_or(0)
    }
    pub fn vesting(&self) -> impl Iterator<Item = (&JobId, &Vesting)> {
        self.vesting.iter()
    }
    pub fn vesting_of(&self, job: &JobId) -> Option<&Vesting> {
        self.vesting.get(job)
    }
    pub fn reviews(&self) -> impl Iterator<Item = (&JobId, &Review)> {
        self.reviews.iter()
    }
    pub fn review_of(&self, job: &JobId) -> Option<&Review> {
        self.reviews.get(job)
    }
    /// What was earned in the day of fact time that `at` falls into.
    pub fn earned_on(&self, earner: &Earner, at: UnixMs) -> MilliMana {
        self.earned.get(earner).filter(|(day, _)| *day == at / DAY_MS).map_or(MilliMana::ZERO, |(_, amount)| *amount)
    }
    /// Fact time of the last epoch fact; 0 where there was none.
    pub fn epoch_at(&self) -> UnixMs {
        self.epoch_at
    }
    /// Where an epoch's credit has not reached all members yet: the next part, and the last member that was looked at.
    pub fn epoch_next(&self) -> Option<(u32, MemberId)> {
        self.epoch_next
    }
    /// The last checkpoint among the facts.
    pub fn checkpoint(&self) -> Option<&CheckpointState> {
        self.checkpoint.as_ref()
    }
    /// What a checkpoint of the books as they stand would say; `None` before the first message.
    pub fn state(&self) -> Option<CheckpointState> {
        let root = self.tree.root()?;
        Some(CheckpointState { seq: self.seq, chain: Hash32(self.chain), root: Hash32(root), state: Hash32(self.digest()) })
    }
    /// The highest score among a member's devices that are not revoked; the start where it has none.
    pub fn member_reputation(&self, member: &MemberId) -> u32 {
        let own = self.devices.values().filter(|device| device.member == *member && device.revoked.is_none());
        own.map(|device| device.reputation.score).max().unwrap_or(reputation::START)
    }

    /// Whether a fact of this id may have been forgotten: look it up before deciding. A `false` is certain.
    pub fn may_be_forgotten(&self, id: &FactId) -> bool {
        self.forgotten.contains(&prefix(id))
    }
    /// The last sequence with a forgotten fact: only who has everything up to it can say that a fact was never recorded.
    pub fn forgotten_to(&self) -> u64 {
        self.forgotten_to
    }
    /// Forgets facts older than `before` and the holds that they closed, so that memory follows the load of a day and not the age of
    /// the network; 8 bytes of each id stay. What is as old as the last fact is kept: a copy of it is known by its whole id.
    pub fn forget(&mut self, before: UnixMs) {
        let before = before.min(self.last_at);
        while let Some(passing) = self.passing.front().copied().filter(|passing| passing.at < before) {
            self.passing.pop_front();
            if let Some(known) = self.facts.remove(&passing.fact) {
                self.forgotten_to = self.forgotten_to.max(known.seq);
            }
            self.forgotten.insert(prefix(&passing.fact));
            if let Some(job) = passing.closed {
                self.closed.remove(&job);
            }
        }
    }
    /// Takes back a forgotten fact that was looked up, with the closed hold of its job; it is forgotten again in its turn.
    pub fn recall(&mut self, id: FactId, seq: u64, job: Option<JobId>, hold: Option<HoldView>) {
        self.facts.entry(id).or_insert(Known { seq, job });
        let closed = hold.filter(|hold| hold.state != HoldState::Open).map(|hold| {
            let job = hold.job;
            self.closed.entry(job).or_insert(hold);
            job
        });
        self.passing.push_back(Passing { at: self.last_at, fact: id, closed });
    }
    /// Sum of all balances; zero in sound books.
    pub fn total(&self) -> i128 {
        self.balances.values().map(|balance| i128::from(*balance)).sum()
    }

    /// SHA-256 over one line `<account> <balance>\n` per account with a balance other than 0, sorted by account text, then one
    /// line `hold <job> <member> <amount>\n` per open hold, sorted by job text.
    pub fn digest(&self) -> [u8; 32] {
        // A checkpoint is made of books that are then asked again whether it is right.
        *self.digest.get_or_init(|| digest::digest(self.balances.iter(), self.open.values()))
    }

    /// Applies one stored message: chain first, then every fact, or nothing at all.
    ///
    /// # Errors
    /// [`Wrong`] where a signed fact contradicts the books: stop and keep the evidence.
    pub fn apply_message(&mut self, verifier: &mut Verifier, seq: u64, payload: &[u8]) -> Result<Applied, Wrong> {
        let facts: Vec<Fact> = match self.facts_of(verifier, payload) {
            Ok(facts) => facts.into_iter().map(|(fact, _)| fact).collect(),
            Err(reason) => {
                self.link(seq, payload);
                return Ok(Applied::Foreign(reason));
            }
        };
        self.apply_facts(seq, payload, &facts)?;
        Ok(Applied::Facts(facts))
    }

    /// As [`Self::apply_message`], for the writer, which made the message itself.
    pub fn apply_facts(&mut self, seq: u64, payload: &[u8], facts: &[Fact]) -> Result<(), Wrong> {
        for fact in facts {
            self.apply(seq, fact)?;
        }
        self.link(seq, payload);
        Ok(())
    }

    /// The facts of the message that comes next, each with its body text as stored.
    ///
    /// # Errors
    /// One sentence, where it counts for nothing: it is no valid batch of a ledger key, or a copy of one that was here before.
    pub fn facts_of(&self, verifier: &mut Verifier, payload: &[u8]) -> Result<Vec<(Fact, String)>, String> {
        let facts = read_facts(&self.net, &self.keys, verifier, payload)?;
        match facts.first().and_then(|(first, _)| self.copy_of(first)) {
            Some(copied) => Err(copied),
            None => Ok(facts),
        }
    }

    /// Why a message counts for nothing, for a writer whose books run ahead of the stream: they hold all facts before sequence `from` as they
    /// are stored, and their own after it. `None`: it counts.
    pub fn counts_for_nothing(&self, verifier: &mut Verifier, payload: &[u8], from: u64) -> Option<String> {
        match read_facts(&self.net, &self.keys, verifier, payload) {
            Err(reason) => Some(reason),
            Ok(facts) => {
                let (first, _) = facts.first()?;
                // A fact that these books have only decided may stand there by another writer's hand.
                if self.facts.get(&first.id).is_some_and(|known| known.seq >= from) { None } else { self.copy_of(first) }
            }
        }
    }

    /// Signed messages can be stored again by who has no key: one whose first fact was here before is a copy.
    fn copy_of(&self, first: &Fact) -> Option<String> {
        if let Some(known) = self.facts.get(&first.id) {
            return Some(a_copy_of(known.seq));
        }
        // What was forgotten is older than the last fact; eight bytes of an id alone could be hit on purpose.
        let forgotten = first.at_ms < self.last_at && self.may_be_forgotten(&first.id);
        forgotten.then(|| "a copy of an old message".to_owned())
    }

    /// Where the books stand in the stream.
    pub fn place(&self) -> Place {
        Place { seq: self.seq, chain: self.chain, tree: self.tree.clone() }
    }
    /// Back to an earlier place, for a writer whose messages are to stand behind others; the facts stay.
    pub fn step_back(&mut self, place: Place) {
        (self.seq, self.chain, self.tree, self.in_message) = (place.seq, place.chain, place.tree, 0);
    }
    /// These facts stand in message `seq`.
    pub fn moved<'a>(&mut self, facts: impl IntoIterator<Item = &'a FactId>, seq: u64) {
        for fact in facts {
            if let Some(known) = self.facts.get_mut(fact) {
                known.seq = seq;
            }
        }
    }

    /// Steps the chain over one stored message whose facts were applied one by one; for the writer.
    ///
    /// Returns the complete subtrees of the Merkle tree that it closed (see [`Frontier::push`]).
    pub fn link(&mut self, seq: u64, payload: &[u8]) -> Vec<(u8, u64, merkle::Hash)> {
        self.chain = chain_next(&self.chain, seq, payload);
        self.seq = seq;
        self.in_message = 0;
        self.tree.push(merkle::leaf(payload))
    }

    /// Applies one fact of message `seq`, without the chain: the writer decides each command on books that hold the earlier
    /// ones of the same message, and calls [`Self::link`] once the message is made.
    ///
    /// # Errors
    /// [`Wrong`]; the books may then hold part of the fact and must be dropped.
    pub fn apply(&mut self, seq: u64, fact: &Fact) -> Result<(), Wrong> {
        if self.fact_count == 0 && !matches!(&fact.what, What::Genesis { network, .. } if *network == self.net) {
            return Err(Wrong::NoGenesis);
        }
        if self.facts.contains_key(&fact.id) {
            return Err(Wrong::Twice(fact.id));
        }
        if fact.at_ms < self.last_at {
            return Err(Wrong::TimeBack { from: self.last_at, to: fact.at_ms });
        }
        check::check(self, fact)?;
        self.digest = OnceLock::new();
        for leg in &fact.legs {
            let out = self.balance_of(&leg.from).checked_sub(leg.amount_mmana.get()).ok_or(Wrong::Overflow)?;
            if out < 0 && leg.from != Account::Mint {
                return Err(Wrong::BelowZero { account: leg.from, balance: out });
            }
            self.balances.insert(leg.from, out);
            let into = self.balance_of(&leg.to).checked_add(leg.amount_mmana.get()).ok_or(Wrong::Overflow)?;
            self.balances.insert(leg.to, into);
        }
        let closed = self.change(fact);
        self.facts.insert(fact.id, Known { seq, job: fact.what.job() });
        self.passing.push_back(Passing { at: fact.at_ms, fact: fact.id, closed });
        self.last_at = fact.at_ms;
        self.fact_count += 1;
        self.in_message += 1;
        Ok(())
    }

    /// What a checked fact changes beside balances; the job whose hold it closed.
    fn change(&mut self, fact: &Fact) -> Option<JobId> {
        match &fact.what {
            What::Genesis { rules, .. } | What::Policy { rules } => self.policy = rules.clone(),
            What::Open { member, did } => {
                self.members.insert(*member, *did);
            }
            What::Mint { .. } | What::Transfer { .. } | What::Fee { .. } | What::Correction { .. } => {}
            What::BindDevice { device, did, member } => {
                let bound = Device { did: *did, member: *member, tier: 0, attested: 0, revoked: None, reputation: Reputation::default() };
                self.devices.insert(*device, bound);
            }
            What::AttestTier { device, tier } => {
                if let Some(device) = self.devices.get_mut(device) {
                    device.tier = *tier;
                    device.attested += 1;
                }
            }
            What::RevokeDevice { device, receipts_seq, .. } => {
                if let Some(device) = self.devices.get_mut(device) {
                    device.revoked = Some(*receipts_seq);
                }
            }
            What::SuspendMember { member, receipts_seq, .. } => self.suspended(member, true, *receipts_seq),
            What::RestoreMember { member, .. } => self.suspended(member, false, None),
            What::Hold { job, member, amount_mmana, expires, .. } => {
                let hold = HoldView { job: *job, member: *member, amount_mmana: *amount_mmana, expires: *expires, state: HoldState::Open };
                self.open.insert(*job, hold);
                *self.open_holds.entry(*member).or_default() += 1;
            }
            What::Settle { job, payer, payee, attempt, receipt, device, paid_mmana, vests_at, outcome, ended, .. } => {
                let (attempt, receipt, device, paid_mmana, outcome) = (*attempt, *receipt, *device, *paid_mmana, *outcome);
                self.close(job, HoldState::Settled { attempt, receipt, device, paid_mmana, outcome });
                self.ended(ended, payer);
                if outcome.is_completed()
                    && payer != payee
                    && let Some(device) = self.devices.get_mut(&device)
                {
                    device.reputation.verified();
                }
                if let Some(at) = vests_at
                    && paid_mmana > MilliMana::ZERO
                {
                    self.vesting.insert(*job, Vesting { member: *payee, at: *at, amount: paid_mmana });
                }
                for earner in [Earner::Member(*payee), Earner::Device(device)] {
                    let sum = self.earned_on(&earner, fact.at_ms).checked_add(paid_mmana).unwrap_or(paid_mmana);
                    self.earned.insert(earner, (fact.at_ms / DAY_MS, sum));
                }
                return Some(*job);
            }
            What::Void { job, member, reason, ended } => {
                self.close(job, HoldState::Voided { reason: *reason });
                self.ended(ended, member);
                return Some(*job);
            }
            What::Regen { part, decay, next, .. } => {
                self.epoch_at = fact.at_ms;
                self.epoch_next = next.map(|member| (part + 1, member));
                if *part == 0 {
                    self.devices.values_mut().for_each(|device| device.reputation.decay(*decay));
                }
            }
            What::Vest { jobs, .. } => jobs.iter().for_each(|job| {
                self.vesting.remove(job);
            }),
            What::Flag { job, device, why, .. } => {
                if let Some(device) = self.devices.get_mut(device) {
                    device.reputation.flagged(*why);
                }
                if let Some(leg) = fact.legs.first()
                    && let Some(member) = leg.from.member()
                {
                    self.vesting.remove(job);
                    self.reviews.insert(*job, Review { member, amount: leg.amount_mmana });
                }
            }
            What::ReviewRelease { job, .. } | What::ReviewSeize { job, .. } => {
                self.reviews.remove(job);
            }
            What::Checkpoint(state) => self.checkpoint = Some(*state),
        }
        None
    }

    fn close(&mut self, job: &JobId, state: HoldState) {
        if let Some(mut hold) = self.open.remove(job) {
            hold.state = state;
            if let Some(open) = self.open_holds.get_mut(&hold.member) {
                *open = open.saturating_sub(1);
            }
            self.closed.insert(*job, hold);
        }
    }

    fn ended(&mut self, ended: &[crate::ledger::Ended], payer: &MemberId) {
        for attempt in ended {
            if let Some(device) = self.devices.get_mut(&attempt.device).filter(|device| device.member != *payer) {
                device.reputation.ended(attempt.class);
            }
        }
    }

    /// Every invariant over the whole books; for `verify`.
    ///
    /// # Errors
    /// One sentence for each that does not hold.
    pub fn check_all(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        if self.total() != 0 {
            wrong.push(format!("all balances sum to {} instead of 0", self.total()));
        }
        for (account, balance) in &self.balances {
            if *balance < 0 && *account != Account::Mint {
                wrong.push(format!("{account} is at {balance} milli-mana"));
            }
        }
        let (mut open, mut vesting): (BTreeMap<MemberId, i64>, BTreeMap<MemberId, i64>) = Default::default();
        for hold in self.open.values() {
            *open.entry(hold.member).or_default() += hold.amount_mmana.get();
        }
        for entry in self.vesting.values() {
            *vesting.entry(entry.member).or_default() += entry.amount.get();
        }
        for member in self.members.keys() {
            let (held, holds) = (self.balance_of(&Account::Held(*member)), open.get(member).copied().unwrap_or(0));
            if held != holds {
                wrong.push(format!("{member} has {held} milli-mana held, but open holds of {holds}"));
            }
            let (balance, entries) = (self.balance_of(&Account::Vesting(*member)), vesting.get(member).copied().unwrap_or(0));
            if balance != entries {
                wrong.push(format!("{member} has {balance} milli-mana vesting, but entries of {entries}"));
            }
        }
        let in_review: i64 = self.reviews.values().map(|review| review.amount.get()).sum();
        if self.balance_of(&Account::Review) != in_review {
            wrong.push(format!("review is at {} milli-mana, its entries at {in_review}", self.balance_of(&Account::Review)));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

fn prefix(id: &FactId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *id.0.digest();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
