//! From messages of LEDGER to columns of Postgres: a fold, without a database.
//!
//! A hold that opens and closes in the same batch is written once, a balance once per account and batch.

use std::collections::BTreeMap;

use bus_schemas::ledger::{Account, CheckpointState, Fact, What};
use bus_schemas::merkle::{self, Frontier};
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
    pub discount: Vec<Option<i64>>,
    pub vests_at: Vec<Option<i64>>,
    pub reason: Vec<Option<String>>,
}
/// Pay that is set apart for a job: in vesting, or in review.
#[derive(Debug, Default)]
pub struct Apart {
    pub job: Vec<Vec<u8>>,
    pub member: Vec<String>,
    /// When it vests; 0 in a review.
    pub at: Vec<i64>,
    pub amount: Vec<i64>,
    pub opened_seq: Vec<i64>,
    pub closed_seq: Vec<Option<i64>>,
    /// Of a closed review: whether its earner got it.
    pub released: Vec<Option<bool>>,
}
/// Ends of what was set apart in an earlier batch.
#[derive(Debug, Default)]
pub struct ApartEnds {
    pub job: Vec<Vec<u8>>,
    pub closed_seq: Vec<i64>,
    pub released: Vec<Option<bool>>,
}
#[derive(Debug, Default)]
pub struct Checkpoints {
    pub seq: Vec<i64>,
    pub message_seq: Vec<i64>,
    pub chain: Vec<Vec<u8>>,
    pub root: Vec<Vec<u8>>,
    pub state: Vec<Vec<u8>>,
}
/// Complete subtrees of the tree over the messages.
#[derive(Debug, Default)]
pub struct Nodes {
    pub level: Vec<i16>,
    pub idx: Vec<i64>,
    pub hash: Vec<Vec<u8>>,
}
/// What happens so seldom that each gets a statement of its own, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Seldom {
    Member {
        id: MemberId,
        did: PublicKey,
        seq: i64,
    },
    Device {
        id: DeviceId,
        did: PublicKey,
        member: MemberId,
        seq: i64,
    },
    Tier {
        id: DeviceId,
        tier: i16,
    },
    Revoked {
        id: DeviceId,
        seq: i64,
    },
    /// The rules as they were signed.
    Policy {
        version: i32,
        rules: String,
        seq: i64,
    },
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
    pub vesting: Apart,
    pub vested: ApartEnds,
    pub reviews: Apart,
    pub reviewed: ApartEnds,
    pub checkpoints: Checkpoints,
    pub nodes: Nodes,
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
/// What is set apart in these messages, and what of earlier ones ends in them.
#[derive(Default)]
struct Aside {
    opened: BTreeMap<JobId, SetApart>,
    ended: BTreeMap<JobId, (i64, Option<bool>)>,
}
struct SetApart {
    member: MemberId,
    at: i64,
    amount: i64,
    seq: i64,
    end: Option<(i64, Option<bool>)>,
}
impl Aside {
    fn open(&mut self, job: &JobId, member: MemberId, at: i64, amount: i64, seq: i64) {
        self.opened.insert(*job, SetApart { member, at, amount, seq, end: None });
    }
    fn end(&mut self, job: &JobId, seq: i64, released: Option<bool>) {
        match self.opened.get_mut(job) {
            Some(opened) => opened.end = Some((seq, released)),
            None => {
                self.ended.insert(*job, (seq, released));
            }
        }
    }
    fn rows(self) -> (Apart, ApartEnds) {
        let (mut apart, mut ends) = (Apart::default(), ApartEnds::default());
        for (job, opened) in self.opened {
            apart.job.push(job.0.to_bytes().to_vec());
            apart.member.push(opened.member.to_string());
            apart.at.push(opened.at);
            apart.amount.push(opened.amount);
            apart.opened_seq.push(opened.seq);
            apart.closed_seq.push(opened.end.map(|(seq, _)| seq));
            apart.released.push(opened.end.and_then(|(_, released)| released));
        }
        for (job, (seq, released)) in self.ended {
            ends.job.push(job.0.to_bytes().to_vec());
            ends.closed_seq.push(seq);
            ends.released.push(released);
        }
        (apart, ends)
    }
}

impl<'a> Rows<'a> {
    /// `tree` is that of all messages before, and grows by these.
    pub fn of(messages: &'a [Message], tree: &mut Frontier) -> Self {
        let mut rows = Self::default();
        let mut balances: BTreeMap<Account, (i64, i64)> = BTreeMap::new();
        let mut opened: BTreeMap<JobId, Opening<'_>> = BTreeMap::new();
        let mut closed: BTreeMap<JobId, Closing<'_>> = BTreeMap::new();
        let (mut vesting, mut reviews) = (Aside::default(), Aside::default());
        for message in messages {
            let seq = signed(message.seq);
            rows.events.seq.push(seq);
            rows.events.envelope.push(&message.payload);
            rows.events.chain.push(&message.chain);
            rows.events.facts.push(i32::try_from(message.facts.len()).unwrap_or(i32::MAX));
            for (level, index, hash) in tree.push(merkle::leaf(&message.payload)) {
                rows.nodes.level.push(i16::from(level));
                rows.nodes.idx.push(signed(index));
                rows.nodes.hash.push(hash.to_vec());
            }
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
                    What::Settle { job, payee, paid_mmana, vests_at, .. } => {
                        closed.insert(*job, Closing { fact, seq });
                        if let Some(at) = vests_at.filter(|_| paid_mmana.get() > 0) {
                            vesting.open(job, *payee, signed(at), paid_mmana.get(), seq);
                        }
                    }
                    What::Void { job, .. } => {
                        closed.insert(*job, Closing { fact, seq });
                    }
                    What::Open { member, did } => rows.seldom.push(Seldom::Member { id: *member, did: *did, seq }),
                    What::BindDevice { device, did, member } => {
                        rows.seldom.push(Seldom::Device { id: *device, did: *did, member: *member, seq });
                    }
                    What::AttestTier { device, tier } => rows.seldom.push(Seldom::Tier { id: *device, tier: i16::from(*tier) }),
                    What::RevokeDevice { device, .. } => rows.seldom.push(Seldom::Revoked { id: *device, seq }),
                    What::Vest { jobs, .. } => jobs.iter().for_each(|job| vesting.end(job, seq, None)),
                    What::Flag { job, .. } => {
                        if let Some(leg) = fact.legs.first()
                            && let Some(member) = leg.from.member()
                        {
                            reviews.open(job, member, 0, leg.amount_mmana.get(), seq);
                            if matches!(leg.from, Account::Vesting(_)) {
                                vesting.end(job, seq, None);
                            }
                        }
                    }
                    What::ReviewRelease { job, .. } => reviews.end(job, seq, Some(true)),
                    What::ReviewSeize { job, .. } => reviews.end(job, seq, Some(false)),
                    What::Genesis { rules, .. } | What::Policy { rules } => rows.seldom.push(Seldom::Policy {
                        version: i32::try_from(rules.version).unwrap_or(i32::MAX),
                        rules: signed_rules(body),
                        seq,
                    }),
                    What::Checkpoint(state) => rows.checkpoints.push(state, seq),
                    What::Mint { .. } | What::Regen { .. } | What::Transfer { .. } | What::Fee { .. } | What::Correction { .. } => {}
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
        (rows.vesting, rows.vested) = vesting.rows();
        (rows.reviews, rows.reviewed) = reviews.rows();
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
            Some(What::Settle { device, attempt, receipt, paid_mmana, fee_mmana, discount_mmana, vests_at, .. }) => {
                ("settled", Some((device, attempt, receipt, (paid_mmana, fee_mmana, discount_mmana), vests_at)), None)
            }
            Some(What::Void { reason, .. }) => ("voided", None, Some(reason)),
            // Only a settlement or a void closes a hold.
            Some(_) | None => ("open", None, None),
        };
        self.state.push(state);
        self.device.push(settled.map(|(device, ..)| device.to_string()));
        self.attempt.push(settled.map(|(_, attempt, ..)| attempt.0.to_bytes().to_vec()));
        self.receipt.push(settled.map(|(_, _, receipt, ..)| receipt.0.to_bytes().to_vec()));
        let money = settled.map(|(_, _, _, money, _)| money);
        self.paid.push(money.map(|(paid, ..)| paid.get()));
        self.fee.push(money.map(|(_, fee, _)| fee.get()));
        self.discount.push(money.map(|(.., discount)| discount.get()));
        self.vests_at.push(settled.and_then(|(.., vests_at)| vests_at.map(signed)));
        self.reason.push(voided.and_then(|reason| serde_json::to_value(reason).ok()?.as_str().map(str::to_owned)));
    }
}

impl Checkpoints {
    fn push(&mut self, state: &CheckpointState, message_seq: i64) {
        self.seq.push(signed(state.seq));
        self.message_seq.push(message_seq);
        self.chain.push(state.chain.0.to_vec());
        self.root.push(state.root.0.to_vec());
        self.state.push(state.state.0.to_vec());
    }
}

/// The rules of a policy fact, verbatim but for spaces.
fn signed_rules(body: &str) -> String {
    let rules =
        serde_json::from_str::<serde_json::Value>(body).ok().and_then(|mut body| body.get_mut("rules").map(serde_json::Value::take));
    rules.unwrap_or_default().to_string()
}

/// Sequences and times as Postgres has them; neither comes near the limit.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
