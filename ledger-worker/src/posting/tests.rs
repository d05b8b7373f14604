//! Tables of cases, and properties of any history.

#![allow(clippy::wildcard_enum_match_arm)] // A test says what it expects; everything else fails it.
#![allow(clippy::type_complexity)] // Tables of cases.

use super::*;
use bus_schemas::ledger::{HoldState, LedgerOutcome, Policy, VoidReason};
use bus_schemas::receipt::{Failure, FailureClass, ResultRef};
use bus_schemas::replay::{Books, LedgerKeys};
use bus_schemas::{AttemptId, NetworkId, ReceiptId, Signer, Verifier};
use proptest::prelude::*;

use crate::round::{Message, Round};

const NOW: UnixMs = 1_800_000_000_000;
const MANA: i64 = 1000;

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}
fn member(n: u8) -> Signer {
    signer(100 + n)
}
fn device(n: u8) -> Signer {
    signer(150 + n)
}
fn job(n: u8) -> JobId {
    JobId(Cid::of(&[n]))
}
fn mmana(amount: i64) -> MilliMana {
    MilliMana::new(amount).unwrap()
}
fn net() -> NetworkId {
    signer(1).public().network_id()
}

/// Books with a genesis, and the keys of everybody who speaks.
struct World {
    standing: Standing,
    now: UnixMs,
    messages: Vec<Message>,
}
const GATEWAY: u8 = 2;
const OPERATOR: u8 = 77;
const SCHEDULER: u8 = 3;
const LEDGER: u8 = 4;
const STRANGER: u8 = 9;

fn parts() -> Parts {
    Parts {
        gateway: vec![signer(GATEWAY).public()],
        scheduler: vec![signer(SCHEDULER).public()],
        operator: vec![signer(OPERATOR).public()],
    }
}
fn keys() -> LedgerKeys {
    LedgerKeys::from([signer(LEDGER).public()])
}

impl World {
    fn new(rules: Policy) -> Self {
        let mut standing = Standing::new(net(), keys());
        let what = What::Genesis { network: net(), network_key: signer(1).public(), rules };
        let genesis = fact(&standing, NOW, fact_id::genesis(&net()), vec![], vec![], what);
        let body = serde_json::to_string(&genesis).unwrap();
        let payload = bytes::Bytes::from(signer(LEDGER).json_batch::<Fact>(vec![body.clone()]).encode());
        standing.take(&mut Verifier::default(), 1, &payload).unwrap();
        let chain = *standing.books().chain();
        Self { standing, now: NOW, messages: vec![Message { seq: 1, payload, chain, facts: vec![(genesis, body)] }] }
    }
    /// Two members with 100 mana each and a device of tier 1 for each.
    fn peopled(rules: Policy) -> Self {
        let mut world = Self::new(Policy { grant_mmana: mmana(100 * MANA), ..rules });
        for n in 0..2 {
            let (member, device) = (member(n).public(), device(n).public());
            world.ok(Op::Open { member: member.member_id(), did: member });
            world.ok(Op::BindDevice { device: device.device_id(), did: device, member: member.member_id() });
            world.ok(Op::AttestTier { device: device.device_id(), tier: 1 });
        }
        world
    }
    fn ask_as(&mut self, by: u8, op: Op, evidence: &Evidence) -> LedgerOutcome {
        let command = Command { net: net(), at: self.now, op };
        self.ask_all(by, &[command], evidence).remove(0)
    }
    fn ask_all(&mut self, by: u8, commands: &[Command], evidence: &Evidence) -> Vec<LedgerOutcome> {
        let commands = signer(by).batch(commands).verify::<Command>(&mut Verifier::default()).unwrap();
        let key = signer(LEDGER);
        let mut round = Round::new(&mut self.standing, &key);
        let outcomes = round.answer(&parts(), self.now, &commands, evidence).expect("a decision that the books accept");
        self.messages.extend(round.finish());
        outcomes
    }
    /// Asked by whoever may ask it.
    fn ask(&mut self, op: Op) -> LedgerOutcome {
        let by = match &op {
            Op::Settle { .. } => SCHEDULER,
            Op::Void { reason: VoidReason::Failed | VoidReason::NotPlaced, .. } => SCHEDULER,
            _ => GATEWAY,
        };
        self.ask_as(by, op, &Evidence::default())
    }
    fn ok(&mut self, op: Op) -> Done {
        match self.ask(op.clone()) {
            LedgerOutcome::Done(done) => done,
            LedgerOutcome::Refused { detail, .. } => panic!("{op:?}: {detail}"),
        }
    }
    fn hold(&mut self, n: u8, amount: i64) -> Done {
        self.ok(hold(n, 0, &format!("k{n}"), Some(amount)))
    }
    fn balances(&self, n: u8) -> (i64, i64, i64) {
        let balance = self.standing.books().member_balance(&member(n).public().member_id()).unwrap();
        (balance.available_mmana, balance.held_mmana, balance.vesting_mmana)
    }
    /// Plays the stored messages into fresh books.
    fn replayed(&self) -> Books {
        let mut books = Books::new(net(), keys());
        for message in &self.messages {
            books.apply_message(&mut Verifier::default(), message.seq, &message.payload).unwrap();
        }
        books
    }
}
use bus_schemas::ledger::Done;

fn hold(n: u8, of: u8, key: &str, amount: Option<i64>) -> Op {
    let member = member(of).public().member_id();
    Op::Hold { job: job(n), member, key: key.into(), amount_mmana: amount.map(mmana), expires: NOW + 3_600_000 }
}

/// A claim with its evidence, honest unless changed.
#[derive(Clone)]
struct Work {
    job: u8,
    payer: u8,
    device: u8,
    receipt_device: u8,
    receipt_job: u8,
    receipt_signer: u8,
    assigner: u8,
    attempt: u32,
    price: i64,
    tier: u8,
    claimed_ms: u64,
    timeout_ms: u64,
    assigned_at: u64,
    started_at: Option<u64>,
    receipt_at: u64,
    outcome: Outcome,
    cited_attempt: Option<AttemptId>,
}
use bus_schemas::receipt::Outcome;

impl Work {
    /// Device 1 (of member 1) did job `n` for member 0 in a second, at 2 milli-mana per millisecond.
    fn on(n: u8) -> Self {
        Self {
            job: n,
            payer: 0,
            device: 1,
            receipt_device: 1,
            receipt_job: n,
            receipt_signer: 151,
            assigner: SCHEDULER,
            attempt: 1,
            price: 50 * MANA,
            tier: 1,
            claimed_ms: 1000,
            timeout_ms: 60_000,
            assigned_at: NOW - 5_000,
            started_at: None,
            receipt_at: NOW - 1_000,
            outcome: Outcome::Completed(ResultRef { cid: Cid::of(b"result"), bytes: 6 }),
            cited_attempt: None,
        }
    }
    fn claim(&self) -> (Op, Evidence) {
        let assignment = Assignment {
            net: net(),
            job: job(self.job),
            attempt: self.attempt,
            device: device(self.device).public().device_id(),
            member: member(self.payer).public().member_id(),
            assigned_at: self.assigned_at,
            exp: self.assigned_at + 60_000,
            price_mmana: mmana(self.price),
            tier: self.tier,
            timeout_ms: self.timeout_ms,
            payload: Cid::of(b"payload"),
        };
        let mut verifier = Verifier::default();
        let assignment = signer(self.assigner).batch(&[assignment]).verify::<Assignment>(&mut verifier).unwrap().remove(0);
        let attempt = AttemptId(assignment.cid());
        let receipt = Receipt {
            net: net(),
            device: device(self.receipt_device).public().device_id(),
            job: job(self.receipt_job),
            attempt: self.cited_attempt.unwrap_or(attempt),
            at: NOW,
            outcome: self.outcome.clone(),
            claimed_ms: self.claimed_ms,
            waited_ms: 0,
        };
        let receipt = signer(self.receipt_signer).batch(&[receipt]).verify::<Receipt>(&mut verifier).unwrap().remove(0);
        let op = Op::Settle {
            job: job(self.job),
            attempt,
            receipt: ReceiptId(receipt.cid()),
            receipt_at: self.receipt_at,
            receipt_seq: 1,
            started_at: self.started_at,
            ended: vec![],
        };
        let evidence = Evidence {
            assignments: BTreeMap::from([(assignment.cid(), assignment)]),
            receipts: BTreeMap::from([(receipt.cid(), receipt)]),
        };
        (op, evidence)
    }
}

fn says(outcome: &LedgerOutcome) -> String {
    match outcome {
        LedgerOutcome::Done(done) if done.repeat => "known".into(),
        LedgerOutcome::Done(_) => "done".into(),
        LedgerOutcome::Refused { code, why, .. } => format!("{why:?} {code}"),
    }
}

fn rules() -> Policy {
    Policy::first(MilliMana::ZERO)
}

#[test]
fn what_is_done_and_what_is_refused() {
    let a = member(0).public();
    let m0 = a.member_id();
    let d0 = device(0).public();
    let stranger = member(7).public();
    let mut world = World::peopled(rules());
    world.hold(1, 5 * MANA);
    world.hold(2, 5 * MANA);
    world.ok(Op::Void { job: job(2), reason: VoidReason::Cancelled, ended: vec![] });
    let mint = |amount: i64, key: &str| Op::Mint { member: m0, amount_mmana: mmana(amount), reason: "gift".into(), key: key.into() };
    let late = |expires| Op::Hold { job: job(30), member: m0, key: "late".into(), amount_mmana: Some(mmana(1)), expires };
    let cases: Vec<(&str, Op, &str)> = vec![
        ("open again", Op::Open { member: m0, did: a }, "known"),
        ("open with another's key", Op::Open { member: stranger.member_id(), did: a }, "BadEvidence M0116"),
        ("open a third", Op::Open { member: member(2).public().member_id(), did: member(2).public() }, "done"),
        ("mint", mint(7, "m1"), "done"),
        ("mint again", mint(7, "m1"), "known"),
        ("mint another amount under the key", mint(8, "m1"), "KeyConflict M0502"),
        ("mint nothing", mint(0, "m2"), "BadAmount M0114"),
        ("mint more than can be", mint(MAX_MMANA, "m3"), "BadAmount M0114"),
        ("mint without a key", mint(1, ""), "NotAllowed M0118"),
        ("bind again", Op::BindDevice { device: d0.device_id(), did: d0, member: m0 }, "known"),
        (
            "bind to another member",
            Op::BindDevice { device: d0.device_id(), did: d0, member: member(1).public().member_id() },
            "DeviceBoundElsewhere M0404",
        ),
        (
            "bind to nobody",
            Op::BindDevice { device: device(5).public().device_id(), did: device(5).public(), member: stranger.member_id() },
            "UnknownMember M0513",
        ),
        ("bind with another's key", Op::BindDevice { device: device(5).public().device_id(), did: d0, member: m0 }, "BadEvidence M0116"),
        ("attest the same tier", Op::AttestTier { device: d0.device_id(), tier: 1 }, "known"),
        ("attest another tier", Op::AttestTier { device: d0.device_id(), tier: 3 }, "done"),
        ("attest back", Op::AttestTier { device: d0.device_id(), tier: 1 }, "done"),
        ("attest a tier that is none", Op::AttestTier { device: d0.device_id(), tier: 5 }, "BadAmount M0116"),
        ("attest a stranger", Op::AttestTier { device: device(5).public().device_id(), tier: 1 }, "UnknownDevice M0506"),
        ("hold", hold(3, 0, "k3", Some(MANA)), "done"),
        ("hold again", hold(3, 0, "k3", Some(MANA)), "known"),
        ("hold again after its end", hold(2, 0, "k2", Some(5 * MANA)), "known"),
        ("hold for another job under the key", hold(4, 0, "k3", Some(MANA)), "KeyConflict M0502"),
        ("hold for the job under another key", hold(3, 0, "other", Some(MANA)), "KeyConflict M0502"),
        ("another member's same key", hold(4, 1, "k3", Some(MANA)), "done"),
        ("hold too much", hold(5, 0, "k5", Some(1000 * MANA)), "InsufficientMana M0601"),
        ("hold nothing", hold(5, 0, "k5", Some(0)), "BadAmount M0114"),
        ("hold for nobody", hold(5, 7, "k5", Some(1)), "UnknownMember M0513"),
        ("hold with nothing there", hold(6, 2, "k6", None), "done"),
        ("hold in the past", late(NOW), "HoldExpired M0505"),
        ("hold a moment", late(NOW + 1), "done"),
        ("void", Op::Void { job: job(1), reason: VoidReason::NotAdmitted, ended: vec![] }, "done"),
        ("void again", Op::Void { job: job(1), reason: VoidReason::Failed, ended: vec![] }, "known"),
        ("void what is not", Op::Void { job: job(99), reason: VoidReason::Failed, ended: vec![] }, "UnknownJob M0501"),
        ("look", Op::Look { job: job(1) }, "known"),
        ("look at an open one", Op::Look { job: job(3) }, "known"),
        ("look at nothing", Op::Look { job: job(99) }, "UnknownJob M0501"),
    ];
    for (name, op, expected) in cases {
        assert_eq!(says(&world.ask(op)), expected, "{name}");
    }
    assert_eq!(world.replayed().digest(), world.standing.books().digest());
    assert_eq!(world.standing.books().check_all(), Ok(()));
}

#[test]
fn an_absent_amount_is_ten_mana_or_what_is_there() {
    let mut world = World::peopled(rules());
    assert_eq!(world.ok(hold(1, 0, "a", None)).hold.unwrap().amount_mmana, mmana(10 * MANA));
    world.hold(2, 85 * MANA);
    assert_eq!(world.ok(hold(3, 0, "c", None)).hold.unwrap().amount_mmana, mmana(5 * MANA));
    match world.ask(hold(4, 0, "d", None)) {
        LedgerOutcome::Refused { why: RefusalKind::InsufficientMana, detail, .. } => assert_eq!(detail, "0 mana available"),
        other => panic!("{other:?}"),
    }
    match world.ask(hold(5, 1, "e", Some(100_250))) {
        LedgerOutcome::Refused { detail, .. } => assert_eq!(detail, "100.25 mana needed, 100 available"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_may_ask_what() {
    let void = |reason| Op::Void { job: job(1), reason, ended: vec![] };
    let (settle, _) = Work::on(1).claim();
    let gateway_only = [
        Op::Open { member: member(0).public().member_id(), did: member(0).public() },
        hold(1, 0, "k", Some(1)),
        void(VoidReason::NotAdmitted),
        Op::AttestTier { device: device(0).public().device_id(), tier: 1 },
    ];
    let refused = |by: u8, op: &Op| {
        let outcome = World::peopled(rules()).ask_as(by, op.clone(), &Evidence::default());
        matches!(outcome, LedgerOutcome::Refused { why: RefusalKind::NotAllowed, code: Code::Forbidden, .. })
    };
    for op in &gateway_only {
        assert!(!refused(GATEWAY, op) && refused(STRANGER, op) && refused(LEDGER, op), "{op:?}");
        assert_eq!(refused(SCHEDULER, op), !matches!(op, Op::Void { .. }), "{op:?}");
    }
    for op in [settle, void(VoidReason::Failed), void(VoidReason::NotPlaced)] {
        assert!(refused(GATEWAY, &op) && !refused(SCHEDULER, &op) && refused(STRANGER, &op), "{op:?}");
    }
    for by in [GATEWAY, SCHEDULER, STRANGER] {
        assert!(refused(by, &void(VoidReason::Expired)), "only the sweeper says that a hold expired");
    }
    let look = Op::Look { job: job(1) };
    assert!(!refused(GATEWAY, &look) && !refused(SCHEDULER, &look) && refused(STRANGER, &look));
}

#[test]
fn a_command_lives_a_day_in_its_own_network() {
    let mut world = World::peopled(rules());
    let day = EXP_MAX_MS;
    let other = signer(77).public().network_id();
    for (at, of, expected) in [
        (NOW - day, net(), "UnknownJob M0501"),
        (NOW - day - 1, net(), "Expired M0304"),
        (NOW + SKEW_MS, net(), "UnknownJob M0501"),
        (NOW + SKEW_MS + 1, net(), "Expired M0305"),
        (NOW, other, "NotAllowed M0306"),
    ] {
        let command = Command { net: of, at, op: Op::Look { job: job(1) } };
        let outcome = world.ask_all(GATEWAY, &[command], &Evidence::default()).remove(0);
        assert_eq!(says(&outcome), expected, "{at}");
    }
}

/// What one piece of work earns: billed milliseconds, paid, fee, back.
fn earns(rules: Policy, held: i64, work: &Work) -> (u64, i64, i64, i64) {
    let mut world = World::peopled(rules);
    world.hold(work.job, held);
    let (op, evidence) = work.claim();
    let outcome = world.ask_as(SCHEDULER, op, &evidence);
    assert_eq!(says(&outcome), "done", "{outcome:?}");
    let fact = &world.messages.last().unwrap().facts[0].0;
    let (billed, paid, fee) = match &fact.what {
        What::Settle { billed_ms, paid_mmana, fee_mmana, .. } => (*billed_ms, paid_mmana.get(), fee_mmana.get()),
        other => panic!("{other:?}"),
    };
    assert_eq!(fact.evidence.len(), 2);
    assert_eq!(world.replayed().digest(), world.standing.books().digest());
    (billed, paid, fee, held - paid - fee)
}

#[test]
fn what_work_earns() {
    let fee = |fee_bp| Policy { fee_bp, ..rules() };
    let one = Work::on(1);
    let cases: Vec<(&str, Policy, i64, Work, (u64, i64, i64, i64))> = vec![
        ("a second at tier 1", rules(), 10_000, one.clone(), (1000, 2000, 0, 8000)),
        ("claimed ten times", rules(), 50_000, Work { claimed_ms: 40_000, ..one.clone() }, (4000, 8000, 0, 42_000)),
        ("claimed without end", rules(), 50_000, Work { claimed_ms: u64::MAX, ..one.clone() }, (4000, 8000, 0, 42_000)),
        ("claimed nothing", rules(), 50_000, Work { claimed_ms: 0, ..one.clone() }, (1, 2, 0, 49_998)),
        ("over its timeout", rules(), 50_000, Work { claimed_ms: 4000, timeout_ms: 300, ..one.clone() }, (300, 600, 0, 49_400)),
        (
            "waiting is not paid",
            rules(),
            50_000,
            Work { claimed_ms: 4000, started_at: Some(NOW - 1_500), ..one.clone() },
            (500, 1000, 0, 49_000),
        ),
        (
            "started before it was assigned",
            rules(),
            50_000,
            Work { claimed_ms: 9000, started_at: Some(5), ..one.clone() },
            (4000, 8000, 0, 42_000),
        ),
        ("received before it was assigned", rules(), 50_000, Work { receipt_at: NOW - 9_000, ..one.clone() }, (1, 2, 0, 49_998)),
        ("received in the future", rules(), 50_000, Work { receipt_at: NOW + 3_600_000, ..one.clone() }, (1, 2, 0, 49_998)),
        ("the quote is the most", rules(), 50_000, Work { price: 700, ..one.clone() }, (1000, 700, 0, 49_300)),
        ("the hold is the most", rules(), 900, one.clone(), (1000, 900, 0, 0)),
        ("for nothing", rules(), 900, Work { price: 0, ..one.clone() }, (1000, 0, 0, 900)),
        ("a tier above the attested", rules(), 50_000, Work { tier: 4, ..one.clone() }, (1000, 2000, 0, 48_000)),
        ("a tier below the attested", rules(), 50_000, Work { tier: 0, ..one.clone() }, (1000, 1000, 0, 49_000)),
        ("fees are rounded down", fee(333), 10_000, one.clone(), (1000, 1934, 66, 8000)),
        ("all of it is fee", fee(10_000), 10_000, one.clone(), (1000, 0, 2000, 8000)),
        ("cancelled midway", rules(), 10_000, Work { outcome: Outcome::Cancelled, claimed_ms: 200, ..one.clone() }, (200, 400, 0, 9600)),
    ];
    for (name, rules, held, work, expected) in cases {
        assert_eq!(earns(rules, held, &work), expected, "{name}");
    }
}

#[test]
fn pay_vests_where_the_policy_says_so_and_one_may_work_for_oneself() {
    let mut world = World::peopled(Policy { vesting_ms: 1000, ..rules() });
    world.hold(1, 10_000);
    let (op, evidence) = Work::on(1).claim();
    world.ask_as(SCHEDULER, op, &evidence);
    assert_eq!((world.balances(0), world.balances(1)), ((98_000, 0, 0), (100_000, 0, 2000)));
    let mut world = World::peopled(Policy { fee_bp: 1000, ..rules() });
    world.hold(1, 10_000);
    let own = Work { device: 0, receipt_device: 0, receipt_signer: 150, ..Work::on(1) };
    let (op, evidence) = own.claim();
    assert_eq!(says(&world.ask_as(SCHEDULER, op, &evidence)), "done");
    assert_eq!(world.balances(0), (99_800, 0, 0));
    assert_eq!(world.standing.books().balance_of(&Account::Commons), 200);
    assert_eq!(world.replayed().digest(), world.standing.books().digest());
}

#[test]
fn evidence_that_does_not_bear_the_claim() {
    let one = Work::on(1);
    let failed = Outcome::Failed(Failure { class: FailureClass::ExecutionError, message: "x".into(), retryable: true });
    let cases: Vec<(&str, Work, &str)> = vec![
        ("another job's receipt", Work { receipt_job: 2, ..one.clone() }, "BadEvidence M0602"),
        ("another device's receipt", Work { receipt_device: 0, receipt_signer: 150, ..one.clone() }, "BadEvidence M0602"),
        ("signed by another device", Work { receipt_signer: 150, ..one.clone() }, "BadEvidence M0602"),
        ("another attempt's receipt", Work { cited_attempt: Some(AttemptId(Cid::of(b"x"))), ..one.clone() }, "BadEvidence M0602"),
        ("assigned by a stranger", Work { assigner: STRANGER, ..one.clone() }, "BadEvidence M0602"),
        ("assigned by the gateway", Work { assigner: GATEWAY, ..one.clone() }, "BadEvidence M0602"),
        ("another payer", Work { payer: 1, ..one.clone() }, "BadEvidence M0602"),
        ("a failure", Work { outcome: failed, ..one.clone() }, "BadEvidence M0602"),
        ("a device nobody bound", Work { device: 5, receipt_device: 5, receipt_signer: 155, ..one.clone() }, "UnknownDevice M0506"),
        ("no hold", Work { job: 9, receipt_job: 9, ..one.clone() }, "UnknownJob M0501"),
    ];
    for (name, work, expected) in cases {
        let mut world = World::peopled(rules());
        world.hold(1, 10_000);
        let before = world.standing.books().digest();
        let (op, evidence) = work.claim();
        assert_eq!(says(&world.ask_as(SCHEDULER, op, &evidence)), expected, "{name}");
        assert_eq!(world.standing.books().digest(), before, "{name}: nothing moved");
    }
    let mut world = World::peopled(rules());
    world.hold(1, 10_000);
    let (op, mut evidence) = one.claim();
    assert_eq!(says(&world.ask_as(SCHEDULER, op.clone(), &Evidence::default())), "BadEvidence M0602", "none at all");
    evidence.receipts.clear();
    assert_eq!(says(&world.ask_as(SCHEDULER, op, &evidence)), "BadEvidence M0602", "half of it");
}

#[test]
fn a_hold_ends_once() {
    let mut world = World::peopled(rules());
    world.hold(1, 10_000);
    let (op, evidence) = Work::on(1).claim();
    let (second, second_evidence) = Work { attempt: 2, ..Work::on(1) }.claim();
    assert_eq!(says(&world.ask_as(SCHEDULER, op.clone(), &evidence)), "done");
    assert_eq!(says(&world.ask_as(SCHEDULER, op.clone(), &Evidence::default())), "known", "a repeat needs no evidence");
    assert_eq!(says(&world.ask_as(SCHEDULER, second, &second_evidence)), "AlreadySettled M0602");
    assert_eq!(says(&world.ask(Op::Void { job: job(1), reason: VoidReason::Failed, ended: vec![] })), "AlreadySettled M0602");
    world.hold(2, 10_000);
    world.ok(Op::Void { job: job(2), reason: VoidReason::Cancelled, ended: vec![] });
    let (op, evidence) = Work::on(2).claim();
    assert_eq!(says(&world.ask_as(SCHEDULER, op, &evidence)), "AlreadyVoided M0602");
}

#[test]
fn the_sweeper_voids_what_outlived_its_job() {
    let mut world = World::peopled(rules());
    world.hold(1, 10_000);
    world.hold(2, 10_000);
    world.ok(Op::Void { job: job(2), reason: VoidReason::Failed, ended: vec![] });
    let sweep = |world: &mut World, now: UnixMs| {
        let key = signer(LEDGER);
        let mut round = Round::new(&mut world.standing, &key);
        let voided = round.expire(now, 100).unwrap();
        world.messages.extend(round.finish());
        voided
    };
    assert_eq!(sweep(&mut world, NOW + 3_600_000), 0, "a hold lives up to its last millisecond");
    assert_eq!(sweep(&mut world, NOW + 3_600_001), 1);
    assert_eq!(sweep(&mut world, NOW + 9_999_999), 0);
    assert_eq!(world.standing.books().hold(&job(1)).unwrap().state, HoldState::Voided { reason: VoidReason::Expired });
    assert_eq!(world.balances(0), (100_000, 0, 0));
    world.now = NOW;
    assert_eq!(says(&world.ask(hold(3, 0, "k3", Some(1)))), "HoldExpired M0505", "fact time never goes back");
    assert_eq!(world.replayed().digest(), world.standing.books().digest());
}

#[test]
fn commands_of_one_request_see_each_other() {
    let mut world = World::peopled(rules());
    let command = |n: u8| Command { net: net(), at: NOW, op: hold(n, 0, &format!("k{n}"), Some(30 * MANA)) };
    let commands: Vec<Command> = [1, 2, 3, 4, 1].map(command).into();
    let outcomes = world.ask_all(GATEWAY, &commands, &Evidence::default());
    assert_eq!(outcomes.iter().map(says).collect::<Vec<_>>(), ["done", "done", "done", "InsufficientMana M0601", "known"]);
    assert_eq!(world.messages.last().unwrap().facts.len(), 3, "one message for all of them");
}

#[test]
fn a_round_fills_messages_of_at_most_256_facts() {
    let mut world = World::peopled(Policy { grant_mmana: mmana(1_000_000), ..rules() });
    let key = signer(LEDGER);
    let m0 = member(0).public().member_id();
    let before = world.standing.books().seq();
    let mut round = Round::new(&mut world.standing, &key);
    for chunk in 0..10_u32 {
        let commands: Vec<Command> = (0..64_u32)
            .map(|i| {
                let n = (chunk * 64 + i).to_be_bytes();
                let key = format!("key {}", u32::from_be_bytes(n));
                let op = Op::Hold { job: JobId(Cid::of(&n)), member: m0, key, amount_mmana: Some(mmana(1)), expires: NOW + 10 };
                Command { net: net(), at: NOW, op }
            })
            .collect();
        let commands = signer(GATEWAY).batch(&commands).verify::<Command>(&mut Verifier::default()).unwrap();
        let outcomes = round.answer(&parts(), NOW, &commands, &Evidence::default()).unwrap();
        assert!(outcomes.iter().all(|outcome| says(outcome) == "done"));
    }
    let messages = round.finish();
    assert!(messages.len() >= 3 && messages.iter().all(|message| message.facts.len() <= 256 && message.payload.len() < 400_000));
    assert_eq!(messages.iter().map(|message| message.facts.len()).sum::<usize>(), 640);
    let seqs: Vec<u64> = messages.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (before + 1..=before + messages.len() as u64).collect::<Vec<_>>());
    world.messages.extend(messages);
    let replayed = world.replayed();
    assert_eq!((replayed.digest(), replayed.chain()), (world.standing.books().digest(), world.standing.books().chain()));
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u8, Op),
    Work { job: u8, device: u8, attempt: u32, claimed: u64, price: i64, failed: bool },
    Sweep { later: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let who = prop_oneof![6 => Just(GATEWAY), 3 => Just(SCHEDULER), 1 => Just(STRANGER)];
    let small = 0_u8..6;
    let amount = prop_oneof![Just(0_i64), 1_i64..60_000, Just(MAX_MMANA)];
    let op = prop_oneof![
        (0_u8..4).prop_map(|n| Op::Open { member: member(n).public().member_id(), did: member(n).public() }),
        (0_u8..4, amount.clone(), 0_u8..3).prop_map(|(n, amount, key)| Op::Mint {
            member: member(n).public().member_id(),
            amount_mmana: mmana(amount),
            reason: "r".into(),
            key: format!("m{key}")
        }),
        (0_u8..4, 0_u8..4).prop_map(|(d, n)| Op::BindDevice {
            device: device(d).public().device_id(),
            did: device(d).public(),
            member: member(n).public().member_id()
        }),
        (0_u8..4, 0_u8..6).prop_map(|(d, tier)| Op::AttestTier { device: device(d).public().device_id(), tier }),
        (small.clone(), 0_u8..4, 0_u8..8, proptest::option::of(amount), 0_u64..100_000).prop_map(|(n, of, key, amount, expires)| {
            Op::Hold {
                job: job(n),
                member: member(of).public().member_id(),
                key: format!("k{key}"),
                amount_mmana: amount.map(mmana),
                expires: NOW + expires,
            }
        }),
        (small.clone(), prop_oneof![Just(VoidReason::Failed), Just(VoidReason::Cancelled), Just(VoidReason::Expired)])
            .prop_map(|(n, reason)| Op::Void { job: job(n), reason, ended: vec![] }),
        small.clone().prop_map(|n| Op::Look { job: job(n) }),
    ];
    prop_oneof![
        6 => (who, op).prop_map(|(by, op)| Step::Ask(by, op)),
        4 => (small, 0_u8..4, 1_u32..3, 0_u64..20_000, 0_i64..50_000, proptest::bool::weighted(0.1))
            .prop_map(|(job, device, attempt, claimed, price, failed)| Step::Work { job, device, attempt, claimed, price, failed }),
        1 => (0_u64..50_000).prop_map(|later| Step::Sweep { later }),
    ]
}

fn take_step(world: &mut World, step: &Step) -> Option<LedgerOutcome> {
    match step {
        Step::Ask(by, op) => Some(world.ask_as(*by, op.clone(), &Evidence::default())),
        Step::Work { job: n, device, attempt, claimed, price, failed } => {
            let payer = (0..4).find(|m| world.standing.books().hold(&job(*n)).is_some_and(|h| h.member == member(*m).public().member_id()));
            let failure = Failure { class: FailureClass::Timeout, message: String::new(), retryable: true };
            let work = Work {
                payer: payer.unwrap_or(0),
                device: *device,
                receipt_device: *device,
                receipt_signer: 150 + *device,
                attempt: *attempt,
                claimed_ms: *claimed,
                price: *price,
                tier: 4,
                outcome: if *failed { Outcome::Failed(failure) } else { Work::on(0).outcome },
                ..Work::on(*n)
            };
            let (op, evidence) = work.claim();
            Some(world.ask_as(SCHEDULER, op, &evidence))
        }
        Step::Sweep { later } => {
            let key = signer(LEDGER);
            let mut round = Round::new(&mut world.standing, &key);
            round.expire(NOW + later, 256).unwrap();
            world.messages.extend(round.finish());
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Mana is moved, never made; a job is settled or voided, never both; what was stored replays to the same books.
    #[test]
    fn any_history_keeps_the_books(steps in proptest::collection::vec(any_step(), 0..80), fee_bp in 0_u32..2_000, vesting in 0_u64..2) {
        let mut world = World::new(Policy { fee_bp, vesting_ms: vesting, grant_mmana: mmana(50_000), ..rules() });
        let mut ends: BTreeMap<JobId, HoldState> = BTreeMap::new();
        for step in &steps {
            let minted = world.standing.books().balance_of(&Account::Mint);
            take_step(&mut world, step);
            let books = world.standing.books();
            prop_assert_eq!(books.total(), 0);
            prop_assert_eq!(books.check_all(), Ok(()));
            let may_mint = matches!(step, Step::Ask(GATEWAY, Op::Open { .. } | Op::Mint { .. }));
            prop_assert!(may_mint || books.balance_of(&Account::Mint) == minted);
            for hold in books.holds().filter(|hold| hold.state != HoldState::Open) {
                let before = ends.entry(hold.job).or_insert_with(|| hold.state.clone());
                prop_assert_eq!(&*before, &hold.state, "an end is an end");
            }
            prop_assert_eq!(books.holds().filter(|hold| hold.state == HoldState::Open).count(), world.standing.open_holds());
        }
        let replayed = world.replayed();
        prop_assert_eq!(replayed.digest(), world.standing.books().digest());
        prop_assert_eq!(replayed.chain(), world.standing.books().chain());
        prop_assert_eq!(replayed.balances(), world.standing.books().balances());
    }

    /// Asking again changes nothing and is never refused.
    #[test]
    fn what_was_done_is_known_when_it_is_asked_again(steps in proptest::collection::vec(any_step(), 0..40)) {
        let mut world = World::new(Policy { grant_mmana: mmana(50_000), ..rules() });
        for step in &steps {
            let Some(LedgerOutcome::Done(first)) = take_step(&mut world, step) else { continue };
            let (seq, digest) = (world.standing.books().seq(), world.standing.books().digest());
            match take_step(&mut world, step) {
                Some(LedgerOutcome::Done(again)) => {
                    prop_assert!(again.repeat);
                    prop_assert_eq!((again.fact, again.seq, again.hold), (first.fact, first.seq, first.hold));
                }
                other => prop_assert!(false, "{:?} then {:?}", step, other),
            }
            prop_assert_eq!((seq, digest), (world.standing.books().seq(), world.standing.books().digest()));
        }
    }
}
