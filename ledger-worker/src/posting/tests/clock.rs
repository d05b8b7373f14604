//! What time alone brings: vesting, epochs, checkpoints.

use super::world::*;

use bus_schemas::limits::STEP_MAX;

use crate::round;

const DAY: u64 = 24 * 3600 * 1000;

#[test]
fn pay_vests_by_fact_time() {
    let mut world = World::peopled(Policy { vesting_ms: 10_000, fee_bp: 1000, ..rules() });
    assert_eq!(says(&world.earn(10_000, &Work::on(1))), "done");
    world.later(3_000);
    assert_eq!(says(&world.earn(10_000, &Work::at(2, 0, 1, world.now))), "done");
    let cases = [
        (0, 3600, 100_000, "nothing is ripe"),
        (6_999, 3600, 100_000, "a millisecond before"),
        (1, 1800, 101_800, "the first, at its millisecond"),
        (2_999, 1800, 101_800, "the second is not"),
        (1, 0, 103_600, "the second"),
        (DAY, 0, 103_600, "only once"),
    ];
    for (later, vesting, available, name) in cases {
        world.later(later).sweep();
        assert_eq!(world.balances(1), (available, 0, vesting), "{name}");
    }
    let vests: Vec<Vec<JobId>> = world.messages.iter().flat_map(|message| &message.facts).filter_map(|(fact, _)| vest_of(fact)).collect();
    assert_eq!(vests, [vec![job(1)], vec![job(2)]]);
    world.sound();
}

fn vest_of(fact: &Fact) -> Option<Vec<JobId>> {
    match &fact.what {
        What::Vest { jobs, .. } => Some(jobs.clone()),
        _ => None,
    }
}

#[test]
fn what_is_ripe_together_vests_in_one_fact_a_member() {
    let mut world = World::peopled(Policy { vesting_ms: 10, ..rules() });
    for n in 0..100 {
        let (payer, device) = if n % 10 == 9 { (1, 0) } else { (0, 1) };
        assert_eq!(says(&world.earn(500, &Work { claimed_ms: 50, ..Work::at(n, payer, device, NOW) })), "done");
    }
    world.later(10).sweep();
    let mut counts: Vec<usize> =
        world.messages.last().unwrap().facts.iter().filter_map(|(fact, _)| vest_of(fact)).map(|jobs| jobs.len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [10, 26, STEP_MAX], "at most 64 jobs a fact");
    assert_eq!((world.balances(0).2, world.balances(1).2), (0, 0));
    assert!(world.standing.ripe(UnixMs::MAX, 10).is_empty());
    world.sound();
}

#[test]
fn a_change_of_the_policy_leaves_what_is_vesting_as_it_is() {
    let mut world = World::peopled(Policy { vesting_ms: 1000, ..rules() });
    world.earn(10_000, &Work::on(1));
    world.policy(|rules| rules.vesting_ms = 0);
    world.earn(10_000, &Work::on(2));
    assert_eq!(world.balances(1), (102_000, 0, 2000), "the second is paid at once");
    world.later(999).sweep();
    assert_eq!(world.balances(1).2, 2000);
    world.later(1).sweep();
    assert_eq!(world.balances(1), (104_000, 0, 0));
    world.sound();
}

fn regenerating(amount: i64, cap: i64) -> Policy {
    Policy { regen_mmana: mmana(amount), regen_cap_mmana: mmana(cap), epoch_ms: DAY, ..rules() }
}

#[test]
fn members_regenerate_up_to_a_cap() {
    let mut world = World::peopled(regenerating(30_000, 150_000));
    world.hold(1, 80_000);
    let next_epoch = |world: &mut World| {
        world.now = (world.now / DAY + 1) * DAY;
        // Holds live an hour; this one is not what is looked at.
        world.later(1).sweep();
    };
    assert_eq!((world.balances(0), world.balances(1)), ((20_000, 80_000, 0), (100_000, 0, 0)));
    world.sweep();
    assert_eq!(
        (world.balances(0), world.balances(1)),
        ((50_000, 80_000, 0), (130_000, 0, 0)),
        "the first epoch begins with the first sweep"
    );
    world.sweep();
    assert_eq!(world.balances(1), (130_000, 0, 0), "once an epoch");
    next_epoch(&mut world);
    assert_eq!((world.balances(0), world.balances(1)), ((150_000, 0, 0), (150_000, 0, 0)), "available and held together reach the cap");
    let before = world.messages.len();
    next_epoch(&mut world);
    assert_eq!((world.balances(0), world.balances(1)), ((150_000, 0, 0), (150_000, 0, 0)));
    assert_eq!(world.messages.len(), before + 1, "an epoch without legs is still written down");
    assert_eq!(world.balance(Account::Mint), -300_000);
    world.sound();
}

#[test]
fn a_member_above_the_cap_keeps_what_it_has() {
    let mut world = World::peopled(regenerating(30_000, 60_000));
    world.sweep();
    assert_eq!(world.balances(0), (100_000, 0, 0));
    world.sound();
}

#[test]
fn an_epoch_without_a_worker_is_not_made_up_for() {
    let mut world = World::peopled(regenerating(1000, 900_000));
    world.sweep();
    world.later(10 * DAY).sweep();
    assert_eq!(world.balances(0), (102_000, 0, 0));
    world.sound();
}

#[test]
fn all_credit_together_has_a_limit() {
    let mut world = World::peopled(regenerating(MAX_MMANA, MAX_MMANA));
    world.sweep();
    let (a, b) = (world.balances(0).0, world.balances(1).0);
    assert_eq!(a.max(b), 100_000, "both would be more than there can be");
    assert!(-world.balance(Account::Mint) <= MAX_MMANA);
    world.sound();
}

#[test]
fn an_epoch_of_many_members_comes_in_parts() {
    let mut world = World::new(Policy { grant_mmana: mmana(1), ..regenerating(1_000, MAX_MMANA) });
    let members: Vec<Signer> = (0..1203_u32)
        .map(|n| {
            let mut seed = [7; 32];
            seed[..4].copy_from_slice(&n.to_be_bytes());
            Signer::from_seed(&seed)
        })
        .collect();
    for members in members.chunks(64) {
        let open = |did: bus_schemas::PublicKey| Command { net: net(), at: NOW, op: Op::Open { member: did.member_id(), did } };
        let commands: Vec<Command> = members.iter().map(|member| open(member.public())).collect();
        assert!(world.ask_all(GATEWAY, &commands, &Evidence::default()).iter().all(|outcome| says(outcome) == "done"));
    }
    let before = world.messages.len();
    world.sweep();
    let parts: Vec<(u32, bool, usize)> = world.messages[before..]
        .iter()
        .flat_map(|message| &message.facts)
        .filter_map(|(fact, _)| match &fact.what {
            What::Regen { part, next, .. } => Some((*part, next.is_some(), fact.legs.len())),
            _ => None,
        })
        .collect();
    assert_eq!(parts, [(0, true, 500), (1, true, 500), (2, false, 203)]);
    for member in &members {
        assert_eq!(world.balance(Account::Available(member.public().member_id())), 1001);
    }
    world.sweep();
    assert!(world.messages[before..].iter().all(|message| message.payload.len() < bus_schemas::limits::BATCH_BYTES_MAX));
    assert!(world.books().epoch_next().is_none());
    world.sound();
}

#[test]
fn a_writer_that_stops_between_the_parts_of_an_epoch_is_followed_by_one_that_goes_on() {
    let mut world = World::new(Policy { grant_mmana: mmana(1), ..regenerating(1_000, MAX_MMANA) });
    for n in 0..501_u32 {
        let mut seed = [8; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        let did = Signer::from_seed(&seed).public();
        world.ok(Op::Open { member: did.member_id(), did });
    }
    let mut round = Round::new(&mut world.standing, signer(LEDGER));
    let _ = round.expire(NOW, 1);
    drop(round);
    let first = clock::epoch(&world.standing, NOW).unwrap();
    world.standing.apply(world.standing.books().seq() + 1, &first).unwrap();
    world.policy(|rules| rules.regen_mmana = mmana(5));
    let second = clock::epoch(&world.standing, NOW + 2 * DAY).unwrap();
    assert!(matches!(second.what, What::Regen { part: 1, decay: 0, next: None, .. }), "{second:?}");
    assert_eq!((second.legs.len(), second.legs[0].amount_mmana), (1, mmana(5)), "by the rules of its own time");
}

#[test]
fn a_checkpoint_comes_by_count_or_by_age_alone_in_its_message() {
    let mut world = World::peopled(rules());
    let checkpoint = |world: &mut World, every: u64, age_ms: u64| {
        let Some(message) = round::checkpoint(&world.standing, signer(LEDGER), world.now, every, age_ms) else { return 0 };
        world.messages.push(round::take_checkpoint(&mut world.standing, message).unwrap());
        1
    };
    // Six facts and a genesis so far.
    assert_eq!(checkpoint(&mut world, 8, u64::MAX), 0);
    world.hold(1, 1000);
    assert_eq!(checkpoint(&mut world, 8, u64::MAX), 1, "by count");
    assert_eq!(checkpoint(&mut world, 1, 0), 0, "nothing new");
    world.later(500);
    assert_eq!(checkpoint(&mut world, 8, 500), 0, "age alone is nothing");
    world.ok(hold_by(2, 0, 10, world.now));
    assert_eq!(checkpoint(&mut world, 8, 501), 0);
    world.later(1);
    assert_eq!(checkpoint(&mut world, 8, 501), 1, "by age");
    let last = world.messages.last().unwrap().clone();
    let What::Checkpoint(CheckpointState { seq, chain, .. }) = last.facts[0].0.what else { panic!("{last:?}") };
    assert_eq!((last.facts.len(), seq), (1, last.seq - 1));
    assert_eq!(chain.0, world.messages[world.messages.len() - 2].chain);
    world.sound();
}

#[test]
fn a_checkpoint_that_says_something_else_is_wrong() {
    let mut world = World::peopled(rules());
    world.hold(1, 1000);
    let good = clock::checkpoint(&world.standing, NOW).unwrap();
    let What::Checkpoint(state) = good.what else { panic!("{good:?}") };
    let other = bus_schemas::ledger::Hash32([7; 32]);
    let cases = [
        ("seq", CheckpointState { seq: state.seq - 1, ..state }),
        ("chain", CheckpointState { chain: other, ..state }),
        ("root", CheckpointState { root: other, ..state }),
        ("state", CheckpointState { state: other, ..state }),
    ];
    for (name, state) in cases {
        let mut standing = world.standing.clone();
        assert!(standing.apply(state.seq + 1, &Fact { what: What::Checkpoint(state), ..good.clone() }).is_err(), "{name}");
    }
    assert!(world.standing.apply(state.seq + 1, &good).is_ok());
}
