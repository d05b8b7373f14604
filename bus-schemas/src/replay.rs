//! Replay: the books as a fold over the stored messages of LEDGER. The writer, the projection, `verify`, the CLI and every
//! auditor use this one function, and a stranger can write it again from `docs/`.
//!
//! `apply` checks the invariants on what each fact touches: the legs move what is there (only `mint` goes below zero), a job
//! is settled or voided at most once, the held account of a member is the sum of its open holds, no payout exceeds its hold.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::envelope::{JsonBatch, Verifier};
use crate::id::{DeviceId, FactId, JobId, MemberId, NetworkId, PublicKey};
use crate::ledger::{Account, Balance, Balances, Fact, HoldState, HoldView, Policy, What};
use crate::mana::MilliMana;

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
}

/// What one stored message turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    Facts(Vec<Fact>),
    /// No valid batch of a ledger key: part of the chain, moves nothing, raises an alarm.
    Foreign(String),
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
    let facts = batch.verify::<Fact>(verifier).map_err(|problem| problem.to_string())?;
    if facts.iter().any(|fact| fact.net != *net) {
        return Err("facts of another network".into());
    }
    Ok(facts.into_iter().map(crate::Verified::into_body).zip(batch.b).collect())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub did: PublicKey,
    pub member: MemberId,
    /// Attested tier; 0 until attested.
    pub tier: u8,
    pub revoked: bool,
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
    holds: BTreeMap<JobId, HoldView>,
    /// Fact id -> (sequence, job of a hold). For ever, so that an accepted command is never done twice.
    facts: BTreeMap<FactId, (u64, Option<JobId>)>,
    /// Last sequence applied; 0 before the first.
    seq: u64,
    chain: [u8; 32],
    last_at: u64,
    fact_count: u64,
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
            holds: BTreeMap::new(),
            facts: BTreeMap::new(),
            seq: 0,
            chain: [0; 32],
            last_at: 0,
            fact_count: 0,
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
    pub fn hold(&self, job: &JobId) -> Option<&HoldView> {
        self.holds.get(job)
    }
    pub fn holds(&self) -> impl Iterator<Item = &HoldView> {
        self.holds.values()
    }
    /// Where a fact stands, and for a hold its job.
    pub fn fact(&self, id: &FactId) -> Option<(u64, Option<JobId>)> {
        self.facts.get(id).copied()
    }
    /// Sum of all balances; zero in sound books.
    pub fn total(&self) -> i128 {
        self.balances.values().map(|balance| i128::from(*balance)).sum()
    }

    /// SHA-256 over one line `<account> <balance>\n` per account with a balance other than 0, sorted by account text, then one
    /// line `hold <job> <member> <amount>\n` per open hold, sorted by job text.
    pub fn digest(&self) -> [u8; 32] {
        let mut lines: Vec<String> =
            self.balances.iter().filter(|(_, b)| **b != 0).map(|(account, balance)| format!("{account} {balance}\n")).collect();
        lines.sort_unstable();
        let mut holds: Vec<String> = self
            .holds
            .values()
            .filter(|hold| hold.state == HoldState::Open)
            .map(|hold| format!("hold {} {} {}\n", hold.job, hold.member, hold.amount_mmana.get()))
            .collect();
        holds.sort_unstable();
        let mut hasher = Sha256::new();
        lines.iter().chain(&holds).for_each(|line| hasher.update(line));
        hasher.finalize().into()
    }

    /// Applies one stored message: chain first, then every fact, or nothing at all.
    ///
    /// # Errors
    /// [`Wrong`] where a signed fact contradicts the books: stop and keep the evidence.
    pub fn apply_message(&mut self, verifier: &mut Verifier, seq: u64, payload: &[u8]) -> Result<Applied, Wrong> {
        let facts = match self.read(verifier, payload) {
            Ok(facts) => facts,
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

    fn read(&self, verifier: &mut Verifier, payload: &[u8]) -> Result<Vec<Fact>, String> {
        let facts = read_facts(&self.net, &self.keys, verifier, payload)?;
        Ok(facts.into_iter().map(|(fact, _)| fact).collect())
    }

    /// Steps the chain over one stored message whose facts were applied one by one; for the writer.
    pub fn link(&mut self, seq: u64, payload: &[u8]) {
        self.chain = chain_next(&self.chain, seq, payload);
        self.seq = seq;
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
        self.check_what(fact)?;
        for leg in &fact.legs {
            let out = self.balance_of(&leg.from).checked_sub(leg.amount_mmana.get()).ok_or(Wrong::Overflow)?;
            if out < 0 && leg.from != Account::Mint {
                return Err(Wrong::BelowZero { account: leg.from, balance: out });
            }
            self.balances.insert(leg.from, out);
            let into = self.balance_of(&leg.to).checked_add(leg.amount_mmana.get()).ok_or(Wrong::Overflow)?;
            self.balances.insert(leg.to, into);
        }
        let mut job_of_hold = None;
        match &fact.what {
            What::Genesis { rules, .. } => self.policy = rules.clone(),
            What::Open { member, did } => {
                self.members.insert(*member, *did);
            }
            What::Mint { .. } => {}
            What::BindDevice { device, did, member } => {
                self.devices.insert(*device, Device { did: *did, member: *member, tier: 0, revoked: false });
            }
            What::AttestTier { device, tier } => {
                if let Some(device) = self.devices.get_mut(device) {
                    device.tier = *tier;
                }
            }
            What::RevokeDevice { device, .. } => {
                if let Some(device) = self.devices.get_mut(device) {
                    device.revoked = true;
                }
            }
            What::Hold { job, member, amount_mmana, expires, .. } => {
                job_of_hold = Some(*job);
                let hold = HoldView { job: *job, member: *member, amount_mmana: *amount_mmana, expires: *expires, state: HoldState::Open };
                self.holds.insert(*job, hold);
            }
            What::Settle { job, attempt, receipt, device, paid_mmana, .. } => {
                if let Some(hold) = self.holds.get_mut(job) {
                    hold.state = HoldState::Settled { attempt: *attempt, receipt: *receipt, device: *device, paid_mmana: *paid_mmana };
                }
            }
            What::Void { job, reason, .. } => {
                if let Some(hold) = self.holds.get_mut(job) {
                    hold.state = HoldState::Voided { reason: *reason };
                }
            }
        }
        self.facts.insert(fact.id, (seq, job_of_hold));
        self.last_at = fact.at_ms;
        self.fact_count += 1;
        Ok(())
    }

    fn check_what(&self, fact: &Fact) -> Result<(), Wrong> {
        let kind = fact.what.kind();
        let legs = |detail: &str| Wrong::Legs { kind, detail: detail.to_owned() };
        let moved = |from: Account, to: Option<Account>| -> i64 {
            fact.legs.iter().filter(|leg| leg.from == from && to.is_none_or(|to| leg.to == to)).map(|leg| leg.amount_mmana.get()).sum()
        };
        if fact.legs.iter().any(|leg| leg.amount_mmana == MilliMana::ZERO || leg.from == leg.to) {
            return Err(legs("a leg moves nothing"));
        }
        let known = |member: &MemberId| self.members.contains_key(member).then_some(()).ok_or(Wrong::Unknown { kind, what: "member" });
        match &fact.what {
            What::Genesis { .. } if self.fact_count > 0 => Err(Wrong::NoGenesis),
            What::Genesis { .. } => {
                if fact.legs.is_empty() {
                    Ok(())
                } else {
                    Err(legs("a genesis moves nothing"))
                }
            }
            What::Open { member, .. } | What::Mint { member, .. } => {
                if matches!(fact.what, What::Mint { .. }) {
                    known(member)?;
                }
                let to = Account::Available(*member);
                if fact.legs.iter().all(|leg| leg.from == Account::Mint && leg.to == to) {
                    Ok(())
                } else {
                    Err(legs("credit goes from mint to the member alone"))
                }
            }
            What::BindDevice { member, .. } => known(member),
            What::AttestTier { device, .. } | What::RevokeDevice { device, .. } => {
                self.devices.contains_key(device).then_some(()).ok_or(Wrong::Unknown { kind, what: "device" })
            }
            What::Hold { job, member, amount_mmana, .. } => {
                known(member)?;
                if self.holds.contains_key(job) {
                    return Err(Wrong::HoldTwice(*job));
                }
                let right = fact.legs.len() == 1 && moved(Account::Available(*member), Some(Account::Held(*member))) == amount_mmana.get();
                if right { Ok(()) } else { Err(legs("a hold moves its amount from available to held")) }
            }
            What::Settle { job, payer, payee, paid_mmana, fee_mmana, .. } => {
                known(payee)?;
                let hold = self.open_hold(job)?;
                let held = Account::Held(hold.member);
                let amount = hold.amount_mmana.get();
                let paid = moved(held, Some(Account::Available(*payee))) + moved(held, Some(Account::Vesting(*payee)));
                let back = moved(held, Some(Account::Available(*payer)));
                let fee = moved(held, Some(Account::Commons));
                let own = payer == payee;
                let right = hold.member == *payer
                    && fact.legs.iter().all(|leg| leg.from == held)
                    && moved(held, None) == amount
                    && fee == fee_mmana.get()
                    && if own { paid + fee == amount } else { paid == paid_mmana.get() && paid + fee + back == amount };
                if right { Ok(()) } else { Err(legs("a settlement empties the hold into pay, fee and rest")) }
            }
            What::Void { job, member, .. } => {
                let hold = self.open_hold(job)?;
                let right = hold.member == *member
                    && fact.legs.len() == 1
                    && moved(Account::Held(*member), Some(Account::Available(*member))) == hold.amount_mmana.get();
                if right { Ok(()) } else { Err(legs("a void returns the whole hold")) }
            }
        }
    }

    fn open_hold(&self, job: &JobId) -> Result<&HoldView, Wrong> {
        self.holds.get(job).filter(|hold| hold.state == HoldState::Open).ok_or(Wrong::NoHold(*job))
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
        let mut open: BTreeMap<MemberId, i64> = BTreeMap::new();
        for hold in self.holds.values().filter(|hold| hold.state == HoldState::Open) {
            *open.entry(hold.member).or_default() += hold.amount_mmana.get();
        }
        for member in self.members.keys() {
            let (held, holds) = (self.balance_of(&Account::Held(*member)), open.get(member).copied().unwrap_or(0));
            if held != holds {
                wrong.push(format!("{member} has {held} milli-mana held, but open holds of {holds}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}
