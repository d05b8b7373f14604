//! Books that forget, and take back what they are asked for.

use bus_schemas::replay::Applied;

use super::world::*;
use crate::posting::standing::Taken;

/// What a database would know: every fact with its sequence, and how each hold ended.
#[derive(Default)]
pub struct Archive {
    facts: BTreeMap<FactId, (u64, Fact)>,
    closed: BTreeMap<JobId, HoldView>,
}
impl Archive {
    pub fn take(&mut self, standing: &Standing, messages: &[Message]) {
        for message in messages {
            for (fact, _) in &message.facts {
                self.facts.insert(fact.id, (message.seq, fact.clone()));
                if let (What::Settle { job, .. } | What::Void { job, .. }, Some(hold)) =
                    (&fact.what, fact.what.job().and_then(|job| standing.books().hold(&job)))
                {
                    self.closed.insert(*job, hold.clone());
                }
            }
        }
    }
    /// What the shell does before it decides.
    pub fn recall(&self, standing: &mut Standing, op: &Op) {
        for id in depends_on(standing, op) {
            if standing.books().may_be_forgotten(&id)
                && let Some((seq, fact)) = self.facts.get(&id)
            {
                let closes = matches!(fact.what, What::Settle { .. } | What::Void { .. });
                let hold = fact.what.job().filter(|_| closes).and_then(|job| self.closed.get(&job));
                standing.recall(*seq, fact, hold.cloned());
            }
        }
    }
}

/// A world in which much has happened, all of it long ago.
fn old() -> (World, Archive) {
    let mut world = World::peopled(rules());
    let mut archive = Archive::default();
    for n in 1..4 {
        world.earn(10_000, &Work::on(n));
    }
    world.hold(5, 10_000);
    world.ok(Op::Void { job: job(5), reason: VoidReason::Cancelled, ended: vec![] });
    world.ok(Op::Flag { job: job(1), why: FlagWhy::Operator, note: String::new() });
    world.ok(Op::Flag { job: job(2), why: FlagWhy::Operator, note: String::new() });
    world.ok(Op::ReviewSeize { job: job(2), reason: String::new() });
    world.ok(mint(7));
    world.hold(6, 10_000);
    archive.take(&world.standing, &world.messages);
    world.later(3_000_000);
    // Everything before the last fact may be forgotten.
    world.ok(Op::Open { member: member_id(9), did: member(9).public() });
    world.standing.forget(world.now);
    (world, archive)
}
fn mint(amount: i64) -> Op {
    Op::Mint { member: member_id(0), amount_mmana: mmana(amount), reason: String::new(), key: "m".into() }
}

#[test]
fn what_was_forgotten_is_answered_as_before_once_it_is_looked_up() {
    let did = member(0).public();
    let bound = device(0).public();
    let void = |n| Op::Void { job: job(n), reason: VoidReason::Failed, ended: vec![] };
    let flag = |n, why| Op::Flag { job: job(n), why, note: String::new() };
    let cases: Vec<(&str, Op, &str)> = vec![
        ("open", Op::Open { member: did.member_id(), did }, "known"),
        ("bind", Op::BindDevice { device: bound.device_id(), did: bound, member: did.member_id() }, "known"),
        ("attest", Op::AttestTier { device: bound.device_id(), tier: 1 }, "known"),
        ("mint", mint(7), "known"),
        ("mint another amount", mint(8), "KeyConflict M0502"),
        ("hold of a settled job", hold(1, 0, "k1", Some(10_000)), "known"),
        ("hold of a settled job under another key", hold(1, 0, "other", Some(10_000)), "KeyConflict M0502"),
        ("hold of another job under its key", hold(9, 0, "k1", Some(10_000)), "KeyConflict M0502"),
        ("hold of an open job", hold(6, 0, "k6", Some(10_000)), "known"),
        ("void of a settled job", void(3), "AlreadySettled M0602"),
        ("void of a void", void(5), "known"),
        ("look", Op::Look { job: job(3) }, "known"),
        ("look at an open hold", Op::Look { job: job(6) }, "known"),
        ("the rules of the genesis", Op::SetPolicy { rules: old().0.books().policy.clone() }, "known"),
        ("flag again", flag(1, FlagWhy::Operator), "known"),
        ("flag of a void", flag(5, FlagWhy::Operator), "UnknownJob M0501"),
        ("seize what is in review", Op::ReviewSeize { job: job(1), reason: String::new() }, "done"),
        ("seize again", Op::ReviewSeize { job: job(2), reason: String::new() }, "known"),
        ("release what was seized", Op::ReviewRelease { job: job(2), reason: String::new() }, "NotInReview M0502"),
        ("flag what was seized", flag(2, FlagWhy::Lie), "done"),
    ];
    for (name, op, expected) in cases {
        let (mut world, archive) = old();
        assert!(world.books().fact(&fact_id::close(&job(1))).is_none());
        archive.recall(&mut world.standing, &op);
        let review = world.balance(Account::Review);
        let outcome = world.ask(op);
        assert_eq!(says(&outcome), expected, "{name}");
        if let LedgerOutcome::Done(done) = &outcome
            && done.repeat
        {
            let recorded = archive.facts.get(&done.fact).map(|(seq, _)| *seq);
            assert_eq!(Some(done.seq), recorded, "{name}: the answer names where the fact stands");
        }
        assert!(world.balance(Account::Review) <= review, "{name}: pay is looked at once");
        world.sound();
    }
    let (mut world, archive) = old();
    let (op, evidence) = Work::on(1).claim();
    archive.recall(&mut world.standing, &op);
    assert_eq!(says(&world.ask_as(SCHEDULER, op, &evidence)), "known", "settled once");
    let (op, evidence) = Work::on(6).claim();
    archive.recall(&mut world.standing, &op);
    assert_eq!(says(&world.ask_as(SCHEDULER, op, &evidence)), "done", "an open hold is never forgotten");
    world.sound();
}

#[test]
fn rules_and_tiers_that_were_given_again_are_answered_with_the_last_fact() {
    let (mut world, mut archive) = old();
    let bound = device(1).public().device_id();
    world.policy(|rules| rules.fee_bp = 7);
    for tier in [2, 3, 1] {
        world.ok(Op::AttestTier { device: bound, tier });
    }
    archive.take(&world.standing, &world.messages);
    let recorded = world.books().seq();
    world.later(3_000_000);
    world.ok(Op::Open { member: member_id(8), did: member(8).public() });
    world.standing.forget(world.now);
    let rules = world.books().policy.clone();
    for (op, seq) in [(Op::SetPolicy { rules }, recorded - 3), (Op::AttestTier { device: bound, tier: 1 }, recorded)] {
        assert_eq!(depends_on(&world.standing, &op).len(), 1);
        archive.recall(&mut world.standing, &op);
        let done = world.ok(op);
        assert_eq!((done.repeat, done.seq), (true, seq), "{done:?}");
    }
    // What is new needs no look at the past.
    let unknown = Op::AttestTier { device: device(7).public().device_id(), tier: 1 };
    assert_eq!(depends_on(&world.standing, &unknown), []);
}

#[test]
fn memory_follows_the_load_of_a_day() {
    let (world, _) = old();
    assert_eq!(world.books().holds().count(), 1, "the open one");
    assert_eq!(world.balances(0).1, 10_000);
}

/// The same signed bodies in other bytes: no key is needed for it.
fn written_otherwise(payload: &[u8]) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
    serde_json::to_vec_pretty(&value).unwrap()
}

#[test]
fn a_signed_message_that_is_stored_again_moves_nothing() {
    let (world, _) = old();
    let mut books = world.replayed();
    let mut forgetful = world.standing.clone();
    let (before, facts) = (books.digest(), books.fact_count());
    let copies = world.messages.iter().flat_map(|message| [message.payload.to_vec(), written_otherwise(&message.payload)]);
    for copy in copies {
        let seq = books.seq() + 1;
        let applied = books.apply_message(&mut Verifier::default(), seq, &copy);
        assert!(matches!(&applied, Ok(Applied::Foreign(why)) if why.starts_with("a copy of sequence ")), "{applied:?}");
        let taken = forgetful.take(&mut Verifier::default(), seq, &copy);
        assert!(matches!(&taken, Ok(Taken::Foreign(why)) if why.starts_with("a copy of ")), "{taken:?}");
    }
    assert_eq!((books.digest(), books.fact_count()), (before, facts));
    assert_eq!((forgetful.books().digest(), forgetful.books().chain()), (before, books.chain()));
    books.check_all().unwrap();
}
