//! What work earns, and what bears a claim.

use super::world::*;

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
fn a_revoked_device_is_paid_for_what_was_stored_before() {
    for (last, receipt_seq, expected) in [(7, 7, "done"), (7, 8, "DeviceRevoked M0402"), (0, 1, "DeviceRevoked M0402")] {
        let mut world = World::peopled(rules());
        world.ok(Op::RevokeDevice { device: device_id(1), receipts_seq: last, logins: vec![] });
        assert_eq!(says(&world.ask(Op::RevokeDevice { device: device_id(1), receipts_seq: 99, logins: vec![] })), "known");
        assert_eq!(says(&world.earn(10_000, &Work { receipt_seq, ..Work::on(1) })), expected, "{receipt_seq} after {last}");
        world.sound();
    }
}

#[test]
fn a_hold_closed_by_the_clock_is_not_settled() {
    let mut world = World::peopled(rules());
    world.hold(1, 10_000);
    assert_eq!(world.later(3_600_001).sweep(), 1);
    let (op, evidence) = Work::on(1).claim();
    assert_eq!(says(&world.ask_as(SCHEDULER, op, &evidence)), "AlreadyVoided M0602");
    assert_eq!(says(&world.ask(Op::Void { job: job(1), reason: VoidReason::Failed, ended: vec![] })), "known");
    assert_eq!(world.balances(0), (100_000, 0, 0));
}
