//! From messages of LEDGER to columns of Postgres: a fold, without a database.
//!
//! A hold that opens and closes in the same batch is written once, a balance once per account and batch. A rebuild keeps in
//! [`Changing`] what is not over, and so writes every row once.

use std::collections::BTreeMap;

use bus_schemas::ledger::{Account, CheckpointState, Fact, VoidReason, What};
use bus_schemas::merkle::{self, Frontier};
use bus_schemas::{AttemptId, DeviceId, JobId, MemberId, PublicKey, ReceiptId};

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

/// What later messages may still change.
#[derive(Default)]
pub struct Changing {
    balances: BTreeMap<Account, (i64, i64)>,
    opened: BTreeMap<JobId, Opening>,
    closed: BTreeMap<JobId, Closing>,
    vesting: Aside,
    reviews: Aside,
}
struct Opening {
    member: MemberId,
    amount: i64,
    expires: i64,
    seq: i64,
}
struct Closing {
    seq: i64,
    how: How,
}
enum How {
    Settled { device: DeviceId, attempt: AttemptId, receipt: ReceiptId, paid: i64, fee: i64, discount: i64, vests_at: Option<i64> },
    Voided { reason: VoidReason },
}
/// What is set apart, and ends of it or of what was set apart earlier.
#[derive(Default)]
struct Aside {
    opened: BTreeMap<JobId, SetApart>,
    ended: BTreeMap<JobId, End>,
}
struct SetApart {
    member: MemberId,
    at: i64,
    amount: i64,
    seq: i64,
}
/// Where it ended; of a review, whether its earner got it.
type End = (i64, Option<bool>);
impl Aside {
    fn open(&mut self, job: &JobId, member: MemberId, at: i64, amount: i64, seq: i64) {
        self.opened.insert(*job, SetApart { member, at, amount, seq });
    }
    fn end(&mut self, job: &JobId, seq: i64, released: Option<bool>) {
        self.ended.insert(*job, (seq, released));
    }
    /// What was opened and is over.
    fn over(&mut self, to: &mut Apart) {
        let opened = &mut self.opened;
        self.ended.retain(|job, end| match opened.remove(job) {
            Some(whole) => {
                to.push(job, &whole, Some(*end));
                false
            }
            None => true,
        });
    }
    fn rest(self, to: &mut Apart, ends: &mut ApartEnds) {
        for (job, whole) in &self.opened {
            to.push(job, whole, self.ended.get(job).copied());
        }
        for (job, (seq, released)) in self.ended.into_iter().filter(|(job, _)| !self.opened.contains_key(job)) {
            ends.job.push(job.0.to_bytes().to_vec());
            ends.closed_seq.push(seq);
            ends.released.push(released);
        }
    }
}
impl Apart {
    fn push(&mut self, job: &JobId, whole: &SetApart, end: Option<End>) {
        self.job.push(job.0.to_bytes().to_vec());
        self.member.push(whole.member.to_string());
        self.at.push(whole.at);
        self.amount.push(whole.amount);
        self.opened_seq.push(whole.seq);
        self.closed_seq.push(end.map(|(seq, _)| seq));
        self.released.push(end.and_then(|(_, released)| released));
    }
}

impl<'a> Rows<'a> {
    /// `tree` is that of all messages before, and grows by these.
    pub fn of(messages: &'a [Message], tree: &mut Frontier) -> Self {
        let mut changing = Changing::default();
        let mut rows = Self::adding(messages, tree, &mut changing);
        rows.rest(changing);
        rows
    }

    /// The rows that no later message changes; all others are kept in `changing`.
    pub fn over(messages: &'a [Message], tree: &mut Frontier, changing: &mut Changing) -> Self {
        let mut rows = Self::adding(messages, tree, changing);
        let (openings, opened) = (&mut rows.openings, &mut changing.opened);
        changing.closed.retain(|job, closing| match opened.remove(job) {
            Some(opening) => {
                openings.push(job, &opening, Some(closing));
                false
            }
            None => true,
        });
        changing.vesting.over(&mut rows.vesting);
        changing.reviews.over(&mut rows.reviews);
        rows
    }

    /// Adds what was kept.
    pub fn rest(&mut self, changing: Changing) {
        let Changing { balances, opened, closed, vesting, reviews } = changing;
        for (account, (delta, last_seq)) in balances {
            self.accounts.id.push(account.to_string());
            self.accounts.delta.push(delta);
            self.accounts.last_seq.push(last_seq);
        }
        for (job, opening) in &opened {
            self.openings.push(job, opening, closed.get(job));
        }
        for (job, closing) in closed.iter().filter(|(job, _)| !opened.contains_key(job)) {
            self.closings.push(job, Some(closing));
        }
        vesting.rest(&mut self.vesting, &mut self.vested);
        reviews.rest(&mut self.reviews, &mut self.reviewed);
    }

    fn adding(messages: &'a [Message], tree: &mut Frontier, changing: &mut Changing) -> Self {
        let mut rows = Self::default();
        let Changing { balances, opened, closed, vesting, reviews } = changing;
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
                    What::Hold { job, member, amount_mmana, expires, .. } => {
                        opened.insert(*job, Opening { member: *member, amount: amount_mmana.get(), expires: signed(*expires), seq });
                    }
                    What::Settle { job, payee, device, attempt, receipt, paid_mmana, fee_mmana, discount_mmana, vests_at, .. } => {
                        let how = How::Settled {
                            device: *device,
                            attempt: *attempt,
                            receipt: *receipt,
                            paid: paid_mmana.get(),
                            fee: fee_mmana.get(),
                            discount: discount_mmana.get(),
                            vests_at: vests_at.map(signed),
                        };
                        closed.insert(*job, Closing { seq, how });
                        if let Some(at) = vests_at.filter(|_| paid_mmana.get() > 0) {
                            vesting.open(job, *payee, signed(at), paid_mmana.get(), seq);
                        }
                    }
                    What::Void { job, reason, .. } => {
                        closed.insert(*job, Closing { seq, how: How::Voided { reason: *reason } });
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
                    // The fact itself says it all; nothing is paid or shown by it.
                    What::SuspendMember { .. } | What::RestoreMember { .. } => {}
                }
            }
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
    fn push(&mut self, job: &JobId, opening: &Opening, closing: Option<&Closing>) {
        self.job.push(job.0.to_bytes().to_vec());
        self.member.push(opening.member.to_string());
        self.amount.push(opening.amount);
        self.expires.push(opening.expires);
        self.opened_seq.push(opening.seq);
        self.closing.push(job, closing);
    }
}

impl Closings {
    fn push(&mut self, job: &JobId, closing: Option<&Closing>) {
        self.job.push(job.0.to_bytes().to_vec());
        self.closed_seq.push(closing.map(|closing| closing.seq));
        let (state, settled, voided) = match closing.map(|closing| &closing.how) {
            Some(How::Settled { device, attempt, receipt, paid, fee, discount, vests_at }) => {
                ("settled", Some((device, attempt, receipt, (*paid, *fee, *discount), *vests_at)), None)
            }
            Some(How::Voided { reason }) => ("voided", None, Some(reason)),
            None => ("open", None, None),
        };
        self.state.push(state);
        self.device.push(settled.map(|(device, ..)| device.to_string()));
        self.attempt.push(settled.map(|(_, attempt, ..)| attempt.0.to_bytes().to_vec()));
        self.receipt.push(settled.map(|(_, _, receipt, ..)| receipt.0.to_bytes().to_vec()));
        let money = settled.map(|(_, _, _, money, _)| money);
        self.paid.push(money.map(|(paid, ..)| paid));
        self.fee.push(money.map(|(_, fee, _)| fee));
        self.discount.push(money.map(|(.., discount)| discount));
        self.vests_at.push(settled.and_then(|(.., vests_at)| vests_at));
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

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::ledger::{Leg, SettleOutcome};
    use bus_schemas::{Cid, FactId, MilliMana, Signer};

    fn message(seq: u64, whats: Vec<What>) -> Message {
        let key = Signer::from_seed(&[1; 32]).public();
        let leg = Leg { from: Account::Mint, to: Account::Commons, amount_mmana: MilliMana::mana(1) };
        let facts = whats.into_iter().enumerate().map(|(i, what)| {
            let id = FactId(Cid::of(&[seq.to_be_bytes(), (i as u64).to_be_bytes()].concat()));
            (Fact { net: key.network_id(), id, at_ms: seq, policy: 1, legs: vec![leg], evidence: vec![], what }, "{}".to_owned())
        });
        Message { seq, payload: bytes::Bytes::from(seq.to_string()), chain: [1; 32], facts: facts.collect() }
    }

    #[test]
    fn a_rebuild_writes_each_row_once() {
        let key = Signer::from_seed(&[1; 32]).public();
        let (member, device) = (key.member_id(), key.device_id());
        let job = |n: u8| JobId(Cid::of(&[n]));
        let hold = |n| What::Hold { job: job(n), member, key: n.to_string(), amount_mmana: MilliMana::mana(2), expires: 9 };
        let settle = |n| What::Settle {
            job: job(n),
            payer: member,
            payee: member,
            device,
            attempt: AttemptId(Cid::of(b"a")),
            receipt: ReceiptId(Cid::of(b"r")),
            billed_ms: 1,
            paid_mmana: MilliMana::mana(1),
            fee_mmana: MilliMana::ZERO,
            discount_mmana: MilliMana::ZERO,
            vests_at: Some(7),
            outcome: SettleOutcome::Completed,
            ended: vec![],
        };
        let void = |n| What::Void { job: job(n), member, reason: VoidReason::Expired, ended: vec![] };
        let messages = [
            message(1, vec![hold(1), hold(2), hold(3)]),
            message(2, vec![settle(1), settle(2)]),
            message(3, vec![hold(4), void(4), What::Vest { member, jobs: vec![job(1)] }]),
        ];
        let (mut tree, mut changing) = (Frontier::default(), Changing::default());
        let mut written = vec![];
        let mut note = |rows: &Rows<'_>| {
            let holds = rows.openings.job.iter().zip(&rows.openings.closing.state);
            written.push((
                holds.map(|(job, state)| (Cid::from_bytes(job).unwrap(), *state)).collect::<Vec<_>>(),
                rows.vesting.closed_seq.clone(),
                (rows.closings.job.len(), rows.vested.job.len(), rows.accounts.delta.clone()),
            ));
        };
        for one in &messages {
            note(&Rows::over(std::slice::from_ref(one), &mut tree, &mut changing));
        }
        let mut rest = Rows::default();
        rest.rest(changing);
        note(&rest);
        let mut settled = vec![(job(1).0, "settled"), (job(2).0, "settled")];
        settled.sort();
        let none = (0, 0, vec![]);
        assert_eq!(
            written,
            [
                (vec![], vec![], none.clone()),
                (settled, vec![], none.clone()),
                (vec![(job(4).0, "voided")], vec![Some(3)], none),
                (vec![(job(3).0, "open")], vec![None], (0, 0, vec![-8000, 8000])),
            ]
        );
        // All at once they are the same rows; in batches, what is over changes rows of the batches before.
        let rows = Rows::of(&messages, &mut Frontier::default());
        assert_eq!((rows.openings.job.len(), rows.closings.job.len(), rows.vesting.job.len(), rows.vested.job.len()), (4, 0, 2, 0));
        let rows = Rows::of(&messages[1..], &mut Frontier::default());
        assert_eq!((rows.openings.job.len(), rows.closings.job.len(), rows.vesting.job.len(), rows.vested.job.len()), (1, 2, 2, 0));
        let rows = Rows::of(&messages[2..], &mut Frontier::default());
        assert_eq!((rows.vesting.job.len(), rows.vested.job.len(), rows.vested.closed_seq.clone()), (0, 1, vec![3]));
    }
}
