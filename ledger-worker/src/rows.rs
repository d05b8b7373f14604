//! From messages of LEDGER to columns of Postgres: a fold, without a database.
//!
//! A hold that opens and closes in the same batch is written once, a balance once per account and batch.

use std::collections::BTreeMap;

use bus_schemas::ledger::{Account, Fact, What};
use bus_schemas::{DeviceId, JobId, MemberId, PublicKey};

use crate::round::Message;

/// A column per field, a row per index.
#[derive(Debug, Default)]
pub struct Events<'a> {
    pub seq: Vec<i64>,
    pub envelope: Vec<&'a [u8]>,
    pub chain: Vec<&'a [u8]>,
    pub facts: Vec<i32>,
}
#[derive(Debug, Default)]
pub struct Facts<'a> {
    pub seq: Vec<i64>,
    pub i: Vec<i16>,
    pub id: Vec<Vec<u8>>,
    pub kind: Vec<&'static str>,
    pub job: Vec<Option<Vec<u8>>>,
    pub at_ms: Vec<i64>,
    pub body: Vec<&'a str>,
}
#[derive(Debug, Default)]
pub struct Legs {
    pub seq: Vec<i64>,
    pub i: Vec<i16>,
    pub n: Vec<i16>,
    pub debit: Vec<String>,
    pub credit: Vec<String>,
    pub amount: Vec<i64>,
}
#[derive(Debug, Default)]
pub struct Accounts {
    pub id: Vec<String>,
    pub delta: Vec<i64>,
    pub last_seq: Vec<i64>,
}
/// Holds that open here; those that close here as well have the columns of [`Closings`] filled.
#[derive(Debug, Default)]
pub struct Openings {
    pub job: Vec<Vec<u8>>,
    pub member: Vec<String>,
    pub amount: Vec<i64>,
    pub expires: Vec<i64>,
    pub opened_seq: Vec<i64>,
    pub closing: Closings,
}
#[derive(Debug, Default)]
pub struct Closings {
    pub job: Vec<Vec<u8>>,
    pub state: Vec<&'static str>,
    pub closed_seq: Vec<Option<i64>>,
    pub device: Vec<Option<String>>,
    pub attempt: Vec<Option<Vec<u8>>>,
    pub receipt: Vec<Option<Vec<u8>>>,
    pub paid: Vec<Option<i64>>,
    pub fee: Vec<Option<i64>>,
    pub reason: Vec<Option<String>>,
}
/// What happens so seldom that each gets a statement of its own, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Seldom {
    Member { id: MemberId, did: PublicKey, seq: i64 },
    Device { id: DeviceId, did: PublicKey, member: MemberId, seq: i64 },
    Tier { id: DeviceId, tier: i16 },
    Revoked { id: DeviceId, seq: i64 },
}

/// All rows of some consecutive messages.
#[derive(Debug, Default)]
pub struct Rows<'a> {
    pub events: Events<'a>,
    pub facts: Facts<'a>,
    pub legs: Legs,
    pub accounts: Accounts,
    pub openings: Openings,
    pub closings: Closings,
    pub seldom: Vec<Seldom>,
}

struct Opening<'a> {
    fact: &'a Fact,
    seq: i64,
}
struct Closing<'a> {
    fact: &'a Fact,
    seq: i64,
}

impl<'a> Rows<'a> {
    pub fn of(messages: &'a [Message]) -> Self {
        let mut rows = Self::default();
        let mut balances: BTreeMap<Account, (i64, i64)> = BTreeMap::new();
        let mut opened: BTreeMap<JobId, Opening<'_>> = BTreeMap::new();
        let mut closed: BTreeMap<JobId, Closing<'_>> = BTreeMap::new();
        for message in messages {
            let seq = signed(message.seq);
            rows.events.seq.push(seq);
            rows.events.envelope.push(&message.payload);
            rows.events.chain.push(&message.chain);
            rows.events.facts.push(i32::try_from(message.facts.len()).unwrap_or(i32::MAX));
            for (i, (fact, body)) in message.facts.iter().enumerate() {
                let i = i16::try_from(i).unwrap_or(i16::MAX);
                rows.fact(seq, i, fact, body);
                for (n, leg) in fact.legs.iter().enumerate() {
                    rows.legs.seq.push(seq);
                    rows.legs.i.push(i);
                    rows.legs.n.push(i16::try_from(n).unwrap_or(i16::MAX));
                    rows.legs.debit.push(leg.from.to_string());
                    rows.legs.credit.push(leg.to.to_string());
                    rows.legs.amount.push(leg.amount_mmana.get());
                    for (account, change) in [(leg.from, -leg.amount_mmana.get()), (leg.to, leg.amount_mmana.get())] {
                        let entry = balances.entry(account).or_default();
                        *entry = (entry.0 + change, seq);
                    }
                }
                match &fact.what {
                    What::Hold { job, .. } => {
                        opened.insert(*job, Opening { fact, seq });
                    }
                    What::Settle { job, .. } | What::Void { job, .. } => {
                        closed.insert(*job, Closing { fact, seq });
                    }
                    What::Open { member, did } => rows.seldom.push(Seldom::Member { id: *member, did: *did, seq }),
                    What::BindDevice { device, did, member } => {
                        rows.seldom.push(Seldom::Device { id: *device, did: *did, member: *member, seq });
                    }
                    What::AttestTier { device, tier } => rows.seldom.push(Seldom::Tier { id: *device, tier: i16::from(*tier) }),
                    What::RevokeDevice { device, .. } => rows.seldom.push(Seldom::Revoked { id: *device, seq }),
                    What::Genesis { .. }
                    | What::Mint { .. }
                    | What::Regen { .. }
                    | What::Transfer { .. }
                    | What::Fee { .. }
                    | What::Vest { .. }
                    | What::Flag { .. }
                    | What::ReviewRelease { .. }
                    | What::ReviewSeize { .. }
                    | What::Policy { .. }
                    | What::Correction { .. }
                    | What::Checkpoint(_) => {}
                }
            }
        }
        for (account, (delta, last_seq)) in balances {
            rows.accounts.id.push(account.to_string());
            rows.accounts.delta.push(delta);
            rows.accounts.last_seq.push(last_seq);
        }
        for (job, opening) in &opened {
            rows.openings.push(job, opening, closed.remove(job).as_ref());
        }
        for (job, closing) in &closed {
            rows.closings.push(job, Some(closing));
        }
        rows
    }

    fn fact(&mut self, seq: i64, i: i16, fact: &Fact, body: &'a str) {
        self.facts.seq.push(seq);
        self.facts.i.push(i);
        self.facts.id.push(fact.id.0.to_bytes().to_vec());
        self.facts.kind.push(fact.what.kind());
        self.facts.job.push(fact.what.job().map(|job| job.0.to_bytes().to_vec()));
        self.facts.at_ms.push(signed(fact.at_ms));
        self.facts.body.push(body);
    }
}

impl Openings {
    fn push(&mut self, job: &JobId, opening: &Opening<'_>, closing: Option<&Closing<'_>>) {
        if let What::Hold { member, amount_mmana, expires, .. } = &opening.fact.what {
            self.job.push(job.0.to_bytes().to_vec());
            self.member.push(member.to_string());
            self.amount.push(amount_mmana.get());
            self.expires.push(signed(*expires));
            self.opened_seq.push(opening.seq);
            self.closing.push(job, closing);
        }
    }
}

impl Closings {
    fn push(&mut self, job: &JobId, closing: Option<&Closing<'_>>) {
        self.job.push(job.0.to_bytes().to_vec());
        self.closed_seq.push(closing.map(|closing| closing.seq));
        let what = closing.map(|closing| &closing.fact.what);
        #[allow(clippy::wildcard_enum_match_arm)]
        let (state, settled, voided) = match what {
            Some(What::Settle { device, attempt, receipt, paid_mmana, fee_mmana, .. }) => {
                ("settled", Some((device, attempt, receipt, paid_mmana, fee_mmana)), None)
            }
            Some(What::Void { reason, .. }) => ("voided", None, Some(reason)),
            // Only a settlement or a void closes a hold.
            Some(_) | None => ("open", None, None),
        };
        self.state.push(state);
        self.device.push(settled.map(|(device, ..)| device.to_string()));
        self.attempt.push(settled.map(|(_, attempt, ..)| attempt.0.to_bytes().to_vec()));
        self.receipt.push(settled.map(|(_, _, receipt, ..)| receipt.0.to_bytes().to_vec()));
        self.paid.push(settled.map(|(_, _, _, paid, _)| paid.get()));
        self.fee.push(settled.map(|(_, _, _, _, fee)| fee.get()));
        self.reason.push(voided.and_then(|reason| serde_json::to_value(reason).ok()?.as_str().map(str::to_owned)));
    }
}

/// Sequences and times as Postgres has them; neither comes near the limit.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
