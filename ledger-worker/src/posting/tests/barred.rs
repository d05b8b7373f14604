//! Members who are suspended and come back, and the logins that end.

use super::world::*;

fn suspend(n: u8, receipts_seq: impl Into<Option<u64>>) -> Op {
    Op::SuspendMember { member: member_id(n), receipts_seq: receipts_seq.into(), logins: vec![], reason: "left".into() }
}
fn restore(n: u8) -> Op {
    Op::RestoreMember { member: member_id(n), reason: String::new() }
}

#[test]
fn a_suspended_member_holds_gives_and_earns_nothing_until_it_is_restored() {
    let mut world = World::peopled(rules());
    assert_eq!(says(&world.ask(restore(1))), "NotAllowed M0116", "never suspended");
    world.ok(suspend(1, 7));
    assert_eq!(says(&world.ask(suspend(1, 99))), "known", "the first place stays");
    let gift =
        |key: &str| Op::Transfer { from: member_id(1), to: member_id(0), amount_mmana: mmana(5), key: key.into(), note: String::new() };
    assert_eq!(says(&world.ask(hold(9, 1, "k", Some(10)))), "MemberSuspended M0406");
    assert_eq!(says(&world.ask(gift("a"))), "MemberSuspended M0406");
    // What its device sent before is paid, what it sent after is not.
    assert_eq!(says(&world.earn(10_000, &Work { receipt_seq: 8, ..Work::on(1) })), "MemberSuspended M0406");
    assert_eq!(says(&world.earn(10_000, &Work { receipt_seq: 7, ..Work::on(2) })), "done");
    world.ok(restore(1));
    assert_eq!(says(&world.ask(restore(1))), "known");
    world.ok(gift("b"));
    assert_eq!(says(&world.earn(10_000, &Work { receipt_seq: 9, ..Work::on(3) })), "done");
    world.ok(suspend(1, 9));
    assert_eq!(says(&world.ask(gift("c"))), "MemberSuspended M0406", "a second time is another fact");
    world.sound();
}

#[test]
fn what_a_suspended_member_s_devices_have_accepted_is_paid_unless_their_logins_ended() {
    let mut world = World::peopled(rules());
    world.ok(suspend(1, None));
    assert_eq!(says(&world.ask(hold(9, 1, "k", Some(10)))), "MemberSuspended M0406");
    assert_eq!(says(&world.earn(10_000, &Work { receipt_seq: 8, ..Work::on(1) })), "done");
    assert_eq!(says(&world.ask(suspend(1, None))), "known");
    // Their logins may end later; that counts once, and is not taken back by a milder word.
    world.ok(suspend(1, 8));
    assert_eq!((says(&world.ask(suspend(1, 99))), says(&world.ask(suspend(1, None)))), ("known".into(), "known".into()));
    assert_eq!(says(&world.earn(10_000, &Work { receipt_seq: 9, ..Work::on(2) })), "MemberSuspended M0406");
    world.ok(restore(1));
    assert_eq!(says(&world.earn(10_000, &Work { receipt_seq: 10, ..Work::on(3) })), "done");
    world.sound();
}

#[test]
fn logins_are_keys_of_users() {
    let mut world = World::peopled(rules());
    let of = |logins: &[&str]| logins.iter().map(|login| (*login).to_owned()).collect::<Vec<_>>();
    let good = "U".repeat(56);
    for bad in ["", "U", &"A".repeat(56), &"u".repeat(56), &format!("{}!", "U".repeat(55)), &"U".repeat(57)] {
        let op = Op::RevokeDevice { device: device_id(0), receipts_seq: 1, logins: of(&[&good, bad]) };
        assert_eq!(says(&world.ask(op)), "BadAmount M0116", "{bad}");
    }
    world.ok(Op::RevokeDevice { device: device_id(0), receipts_seq: 1, logins: of(&[&good]) });
    world.sound();
}
