//! Flags and reviews, the policy, corrections.

use super::world::*;

fn flag(n: u8, why: FlagWhy) -> Op {
    Op::Flag { job: job(n), why, note: "odd".into() }
}
fn release(n: u8) -> Op {
    Op::ReviewRelease { job: job(n), reason: "it was right".into() }
}
fn seize(n: u8) -> Op {
    Op::ReviewSeize { job: job(n), reason: "it was wrong".into() }
}

#[test]
fn a_flag_puts_pay_into_review_and_a_person_decides() {
    for (name, vesting_ms, end, available, commons) in [
        ("release", 0, release(1), 102_000, 0),
        ("release of what was vesting", 60_000, release(1), 102_000, 0),
        ("seize", 0, seize(1), 100_000, 2000),
        ("seize of what was vesting", 60_000, seize(1), 100_000, 2000),
    ] {
        let mut world = World::peopled(Policy { vesting_ms, ..rules() });
        world.earn(10_000, &Work::on(1));
        assert_eq!(says(&world.ask(end.clone())), "NotInReview M0513", "{name}: nothing is there yet");
        assert_eq!(says(&world.ask(flag(1, FlagWhy::Operator))), "done", "{name}");
        assert_eq!((world.balances(1), world.balance(Account::Review)), ((100_000, 0, 0), 2000), "{name}");
        assert_eq!(says(&world.ask(flag(1, FlagWhy::Operator))), "known", "{name}");
        assert_eq!(says(&world.ask(flag(1, FlagWhy::Anomaly))), "done", "{name}: another reason, no more money");
        assert_eq!(world.balance(Account::Review), 2000, "{name}");
        world.later(60_000).sweep();
        assert_eq!(world.balances(1).2, 0, "{name}: what is in review does not ripen");
        assert_eq!(says(&world.ask(end.clone())), "done", "{name}");
        assert_eq!(says(&world.ask(end)), "known", "{name}");
        assert_eq!(says(&world.ask(flag(1, FlagWhy::FailedCheck))), "done", "{name}: a name can still suffer");
        assert_eq!(
            (world.balances(1).0, world.balance(Account::Commons), world.balance(Account::Review)),
            (available, commons, 0),
            "{name}"
        );
        world.sound();
    }
}

#[test]
fn a_review_ends_once() {
    for (first, second) in [(release(1), seize(1)), (seize(1), release(1))] {
        let mut world = World::peopled(rules());
        world.earn(10_000, &Work::on(1));
        world.ok(flag(1, FlagWhy::Lie));
        world.ok(first.clone());
        let before = world.books().digest();
        assert_eq!(says(&world.ask(second)), "NotInReview M0502", "the other end is not what was done");
        assert_eq!(says(&world.ask(first)), "known");
        assert_eq!(world.books().digest(), before);
    }
}

#[test]
fn pay_that_is_spent_is_not_taken_twice() {
    let mut world = World::peopled(rules());
    world.earn(10_000, &Work::on(1));
    let spend = |amount: i64, key: &str| Op::Transfer {
        from: member_id(1),
        to: member_id(0),
        amount_mmana: mmana(amount),
        key: key.into(),
        note: String::new(),
    };
    world.ok(spend(101_500, "t1"));
    assert_eq!(says(&world.ask(flag(1, FlagWhy::Operator))), "done");
    assert_eq!((world.balances(1).0, world.balance(Account::Review)), (0, 500), "as far as it is there");
    world.earn(10_000, &Work::on(2));
    world.ok(spend(2000, "t2"));
    assert_eq!(says(&world.ask(flag(2, FlagWhy::Operator))), "done");
    assert_eq!(says(&world.ask(seize(2))), "NotInReview M0513", "nothing was left");
    world.ok(seize(1));
    assert_eq!(world.balance(Account::Commons), 500);
    world.sound();
}

#[test]
fn what_cannot_be_flagged() {
    let mut world = World::peopled(rules());
    world.hold(1, 1000);
    world.hold(2, 1000);
    world.ok(Op::Void { job: job(2), reason: VoidReason::Cancelled, ended: vec![] });
    world.earn(10_000, &Work::on(3));
    let long = Op::Flag { job: job(3), why: FlagWhy::Operator, note: "x".repeat(201) };
    let long_reason = Op::ReviewSeize { job: job(3), reason: "x".repeat(201) };
    for (name, op, expected) in [
        ("an open job", flag(1, FlagWhy::Operator), "UnknownJob M0501"),
        ("a void", flag(2, FlagWhy::Operator), "UnknownJob M0501"),
        ("nothing at all", flag(99, FlagWhy::Operator), "UnknownJob M0501"),
        ("with a novel", long, "BadAmount M0116"),
        ("seized with a novel", long_reason, "BadAmount M0116"),
        ("released without a flag", release(3), "NotInReview M0513"),
        ("seized without a job", seize(99), "NotInReview M0513"),
    ] {
        assert_eq!(says(&world.ask(op)), expected, "{name}");
    }
}

#[test]
fn a_claim_without_a_sound_time_is_flagged_by_the_books() {
    let mut world = World::peopled(rules());
    world.earn(10_000, &Work { receipt_at: NOW - 9_000, ..Work::on(1) });
    match world.last()[..] {
        [What::Settle { paid_mmana, billed_ms: 1, .. }, What::Flag { why: FlagWhy::AbsurdTime, .. }] => assert_eq!(paid_mmana.get(), 2),
        ref other => panic!("{other:?}"),
    }
    assert_eq!(world.balance(Account::Review), 0, "the least was paid; there is nothing to hold back");
    assert_eq!(says(&world.ask(flag(1, FlagWhy::AbsurdTime))), "known");
    world.sound();
}

#[test]
fn versions_of_the_policy_follow_each_other() {
    let mut world = World::peopled(rules());
    let first = world.books().policy.clone();
    let of = |change: fn(&mut Policy)| {
        let mut rules = first.clone();
        rules.version = 2;
        change(&mut rules);
        Op::SetPolicy { rules }
    };
    let cases: Vec<(&str, Op, &str)> = vec![
        ("the one in force", Op::SetPolicy { rules: first.clone() }, "known"),
        ("another of the same version", of(|p| (p.version, p.fee_bp) = (1, 7)), "BadPolicy M0116"),
        ("one left out", of(|p| p.version = 3), "BadPolicy M0116"),
        ("the last there can be", of(|p| p.version = u32::MAX), "BadPolicy M0116"),
        ("more fee than pay", of(|p| p.fee_bp = 10_001), "BadPolicy M0116"),
        ("growth without end", of(|p| p.regen_mmana = mmana(1)), "BadPolicy M0116"),
        ("an epoch of nothing", of(|p| p.epoch_ms = 0), "BadPolicy M0116"),
        ("the next", of(|p| p.fee_bp = 1000), "done"),
        ("again", of(|p| p.fee_bp = 1000), "known"),
        ("another under its version", of(|p| p.fee_bp = 1001), "BadPolicy M0116"),
        ("the one before", Op::SetPolicy { rules: first.clone() }, "BadPolicy M0116"),
    ];
    for (name, op, expected) in cases {
        assert_eq!(says(&world.ask(op)), expected, "{name}");
    }
    world.earn(10_000, &Work::on(1));
    let cited = |world: &World| world.messages.last().unwrap().facts[0].0.policy;
    assert_eq!((world.balance(Account::Commons), cited(&world)), (200, 2), "the fee of the new rules, which the fact cites");
    world.policy(|rules| rules.fee_bp = 0);
    assert_eq!(cited(&world), 2, "the change itself is made under the old rules");
    world.earn(10_000, &Work::on(2));
    assert_eq!((world.balance(Account::Commons), cited(&world)), (200, 3));
    world.sound();
}

#[test]
fn corrections() {
    let mut world = World::peopled(rules());
    world.ok(Op::Fee { member: member_id(0), amount_mmana: mmana(1000), reason: String::new(), key: "f".into() });
    let of = fact_id::fee(&member_id(0), "f");
    let (a, b) = (Account::Available(member_id(0)), Account::Available(member_id(1)));
    let correct = |legs: Vec<(Account, Account, i64)>, key: &str| {
        let legs = legs.into_iter().map(|(from, to, amount)| leg(from, to, mmana(amount))).collect();
        Op::Correct { of, legs, reason: "booked twice".into(), key: key.into() }
    };
    let (held, vesting, stranger) = (Account::Held(member_id(0)), Account::Vesting(member_id(0)), Account::Available(member_id(7)));
    let many = vec![(a, b, 1); 65];
    let cases: Vec<(&str, Op, &str)> = vec![
        ("back from the commons", correct(vec![(Account::Commons, a, 1000)], "c1"), "done"),
        ("again", correct(vec![(Account::Commons, a, 1000)], "c1"), "known"),
        ("other legs under the key", correct(vec![(Account::Commons, a, 999)], "c1"), "KeyConflict M0502"),
        ("what the commons do not have", correct(vec![(Account::Commons, a, 1)], "c2"), "InsufficientMana M0601"),
        ("through an account that fills first", correct(vec![(a, Account::Commons, 5), (Account::Commons, b, 5)], "c3"), "done"),
        ("in the wrong order", correct(vec![(Account::Commons, b, 5), (a, Account::Commons, 5)], "c4"), "InsufficientMana M0601"),
        ("burnt", correct(vec![(b, Account::Burn, 5)], "c5"), "done"),
        ("given back to mint", correct(vec![(b, Account::Mint, 7)], "c6"), "done"),
        ("minted", correct(vec![(Account::Mint, b, 7)], "c7"), "done"),
        ("more than there can be", correct(vec![(Account::Mint, b, MAX_MMANA)], "c8"), "BadAmount M0114"),
        (
            "more than there can be in two",
            correct(vec![(Account::Mint, b, MAX_MMANA), (Account::Mint, a, MAX_MMANA)], "c8"),
            "BadAmount M0116",
        ),
        ("held", correct(vec![(held, a, 1)], "c8"), "BadAmount M0116"),
        ("vesting", correct(vec![(a, vesting, 1)], "c8"), "BadAmount M0116"),
        ("review", correct(vec![(Account::Mint, Account::Review, 1)], "c8"), "BadAmount M0116"),
        ("a stranger's", correct(vec![(Account::Mint, stranger, 1)], "c8"), "UnknownMember M0513"),
        ("to itself", correct(vec![(a, a, 1)], "c8"), "BadAmount M0116"),
        ("nothing", correct(vec![(a, b, 0)], "c8"), "BadAmount M0114"),
        ("no legs", correct(vec![], "c8"), "BadAmount M0116"),
        ("too many legs", correct(many, "c8"), "BadAmount M0116"),
        ("without a key", correct(vec![(a, b, 1)], ""), "NotAllowed M0118"),
    ];
    for (name, op, expected) in cases {
        let before = world.books().digest();
        assert_eq!(says(&world.ask(op)), expected, "{name}");
        assert!(expected == "done" || world.books().digest() == before, "{name}: nothing moved");
    }
    assert_eq!((world.balance(a), world.balance(b)), (99_995, 100_000));
    assert_eq!((world.balance(Account::Burn), world.balance(Account::Mint)), (5, -200_000));
    world.sound();
}
