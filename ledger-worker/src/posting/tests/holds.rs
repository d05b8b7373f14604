//! Holds: amounts, ends, rounds.

use super::world::*;

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
fn the_sweeper_voids_what_outlived_its_job() {
    let mut world = World::peopled(rules());
    world.hold(1, 10_000);
    world.hold(2, 10_000);
    world.ok(Op::Void { job: job(2), reason: VoidReason::Failed, ended: vec![] });
    let sweep = |world: &mut World, now: UnixMs| {
        let mut round = Round::new(&mut world.standing, signer(LEDGER));
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
    let m0 = member(0).public().member_id();
    let before = world.standing.books().seq();
    let mut round = Round::new(&mut world.standing, signer(LEDGER));
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

#[test]
fn a_member_may_have_so_many_holds_open() {
    let mut world = World::peopled(Policy { open_holds_max: 2, ..rules() });
    world.hold(1, 10);
    world.hold(2, 10);
    assert_eq!(says(&world.ask(hold(3, 0, "k3", Some(10)))), "TooManyHolds M0703");
    assert_eq!(says(&world.ask(hold(2, 0, "k2", Some(10)))), "known", "asking again opens nothing");
    assert_eq!(says(&world.ask(hold(3, 1, "k3", Some(10)))), "done", "another member has its own");
    world.ok(Op::Void { job: job(1), reason: VoidReason::Cancelled, ended: vec![] });
    assert_eq!(says(&world.ask(hold(4, 0, "k4", Some(10)))), "done");
    let (op, evidence) = Work::on(2).claim();
    assert_eq!(says(&world.ask_as(SCHEDULER, op, &evidence)), "done");
    assert_eq!(says(&world.ask(hold(5, 0, "k5", Some(10)))), "done");
    world.later(3_600_001);
    assert_eq!(says(&world.ask(hold_by(6, 0, 10, world.now))), "TooManyHolds M0703", "until the sweeper has been there");
    world.sweep();
    assert_eq!(says(&world.ask(hold_by(6, 0, 10, world.now))), "done");
    world.sound();
}

#[test]
fn a_member_may_have_so_much_held() {
    let mut world = World::peopled(Policy { held_max_mmana: mmana(25), ..rules() });
    world.hold(1, 10);
    world.hold(2, 10);
    assert_eq!(says(&world.ask(hold(3, 0, "k3", Some(10)))), "TooManyHolds M0703");
    assert_eq!(says(&world.ask(hold(3, 0, "k3", Some(5)))), "done", "up to the limit itself");
    assert_eq!(says(&world.ask(hold(4, 1, "k4", Some(25)))), "done", "another member has its own");
    world.ok(Op::Void { job: job(1), reason: VoidReason::Cancelled, ended: vec![] });
    assert_eq!(says(&world.ask(hold(5, 0, "k5", Some(10)))), "done");
    world.sound();
}

#[test]
fn two_hundred_holds_against_a_balance_for_ten() {
    let mut world = World::peopled(rules());
    let command = |n: u8| Command { net: net(), at: NOW, op: hold(n, 0, &format!("k{n}"), Some(10 * MANA)) };
    let mut outcomes = vec![];
    for numbers in (0..200).collect::<Vec<u8>>().chunks(64) {
        let commands: Vec<Command> = numbers.iter().map(|n| command(*n)).collect();
        outcomes.extend(world.ask_all(GATEWAY, &commands, &Evidence::default()).iter().map(says));
    }
    let count = |wanted: &str| outcomes.iter().filter(|outcome| *outcome == wanted).count();
    assert_eq!((count("done"), count("InsufficientMana M0601")), (10, 190));
    assert_eq!(world.balances(0), (0, 100_000, 0));
    world.sound();
}
