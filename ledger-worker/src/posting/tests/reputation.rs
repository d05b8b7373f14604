//! What each event does to a device's name.

use super::world::*;

fn score(world: &World, n: u8) -> (u32, u64, u64) {
    let reputation = world.books().device(&device_id(n)).unwrap().reputation;
    (reputation.score, reputation.verified, reputation.streak)
}
fn end(n: u8, class: FailureClass, nth: u8) -> Ended {
    Ended { attempt: AttemptId(Cid::of(&[n, nth])), device: device_id(n), class }
}

#[test]
fn what_each_event_counts() {
    let own = |n: u8| Work::at(n, 1, 1, NOW);
    let cases: Vec<(&str, fn(&mut World), (u32, u64, u64))> = vec![
        ("nothing", |_| {}, (50, 0, 0)),
        ("a result that another pays for", |world| drop(world.earn(1000, &Work::on(1))), (51, 1, 1)),
        ("a cancelled job", |world| drop(world.earn(1000, &Work { outcome: Outcome::Cancelled, ..Work::on(1) })), (50, 0, 0)),
        (
            "a job that waited for nobody",
            |world| {
                world.hold(1, 1000);
                world.ok(Op::Void { job: job(1), reason: VoidReason::NotPlaced, ended: vec![] });
            },
            (50, 0, 0),
        ),
        (
            "an error and a timeout",
            |world| {
                world.hold(1, 1000);
                let ended = vec![end(1, FailureClass::ExecutionError, 1), end(1, FailureClass::Timeout, 2)];
                world.ok(Op::Void { job: job(1), reason: VoidReason::Failed, ended });
            },
            (48, 0, 0),
        ),
        (
            "an owner who pulls the plug, or has no time",
            |world| {
                world.hold(1, 1000);
                let ended = vec![end(1, FailureClass::DeviceDisconnect, 1), end(1, FailureClass::DeviceDeclined, 2)];
                world.ok(Op::Void { job: job(1), reason: VoidReason::Failed, ended });
            },
            (50, 0, 0),
        ),
        (
            "an error of a first attempt, then a result",
            |world| drop(world.earn(1000, &Work { ended: vec![end(1, FailureClass::ExecutionError, 1)], ..Work::on(1) })),
            (50, 1, 1),
        ),
        (
            "a failed check",
            |world| {
                world.earn(1000, &Work::on(1));
                world.ok(Op::Flag { job: job(1), why: FlagWhy::FailedCheck, note: String::new() });
            },
            (41, 1, 0),
        ),
        (
            "a lie",
            |world| {
                world.earn(1000, &Work::on(1));
                world.ok(Op::Flag { job: job(1), why: FlagWhy::Lie, note: String::new() });
            },
            (0, 1, 0),
        ),
        (
            "a second look, an odd time",
            |world| {
                world.earn(1000, &Work { receipt_at: NOW - 9_000, ..Work::on(1) });
                world.ok(Op::Flag { job: job(1), why: FlagWhy::Anomaly, note: String::new() });
                world.ok(Op::Flag { job: job(1), why: FlagWhy::Operator, note: String::new() });
            },
            (51, 1, 1),
        ),
    ];
    for (name, events, expected) in cases {
        let mut world = World::peopled(rules());
        events(&mut world);
        assert_eq!(score(&world, 1), expected, "{name}");
        world.sound();
    }
    let mut world = World::peopled(rules());
    world.earn(1000, &own(1));
    world.ok(hold_by(2, 1, 1000, NOW));
    let ended = vec![end(1, FailureClass::ExecutionError, 1), end(0, FailureClass::ExecutionError, 2), end(9, FailureClass::Timeout, 3)];
    world.ok(Op::Void { job: job(2), reason: VoidReason::Failed, ended });
    assert_eq!(score(&world, 1), (50, 0, 0), "one's own jobs count nothing");
    assert_eq!(score(&world, 0), (49, 0, 0), "a device that nobody bound is left out, the others count");
    match world.last()[..] {
        [What::Void { ended, .. }] => assert_eq!(ended.len(), 2),
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn an_attempt_counts_once() {
    let mut world = World::peopled(rules());
    world.hold(1, 1000);
    let twice = vec![end(1, FailureClass::Timeout, 1); 2];
    let many: Vec<Ended> = (0..65).map(|n| end(1, FailureClass::Timeout, n)).collect();
    for ended in [twice, many] {
        let op = Op::Void { job: job(1), reason: VoidReason::Failed, ended };
        assert_eq!(says(&world.ask(op)), "BadEvidence M0602");
    }
    assert_eq!(score(&world, 1), (50, 0, 0));
}

#[test]
fn time_heals_by_epochs() {
    const DAY: u64 = 24 * 3600 * 1000;
    let mut world = World::peopled(Policy { decay: 4, ..rules() });
    world.sweep();
    world.earn(1000, &Work::on(1));
    world.ok(Op::Flag { job: job(1), why: FlagWhy::FailedCheck, note: String::new() });
    for n in 2..8 {
        world.earn(1000, &Work::at(n, 1, 0, NOW));
    }
    for expected in [(56, 41), (52, 45), (50, 49), (50, 50), (50, 50)] {
        assert_eq!((score(&world, 0).0, score(&world, 1).0), expected);
        world.later(DAY).sweep();
    }
    world.sound();
}
