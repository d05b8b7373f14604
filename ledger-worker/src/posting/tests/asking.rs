//! Who may ask what, and what is done and refused.

use super::world::*;

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

/// One of each op, as its letter says who may ask it: gateway, scheduler, operator.
fn one_of_each() -> Vec<(&'static str, Op)> {
    let (member, device) = (member(0).public(), device(0).public());
    let (m, d, reason) = (member.member_id(), device.device_id(), String::new());
    let amount_mmana = mmana(1);
    let void = |reason| Op::Void { job: job(1), reason, ended: vec![] };
    vec![
        ("g", Op::Open { member: m, did: member }),
        ("o", Op::Mint { member: m, amount_mmana, reason: reason.clone(), key: "k".into() }),
        ("g", Op::BindDevice { device: d, did: device, member: m }),
        ("go", Op::AttestTier { device: d, tier: 1 }),
        ("go", Op::RevokeDevice { device: d, receipts_seq: 1, logins: vec![] }),
        ("g", hold(1, 0, "k", Some(1))),
        ("s", Work::on(1).claim().0),
        ("gs", void(VoidReason::Cancelled)),
        ("gs", void(VoidReason::NotAdmitted)),
        ("s", void(VoidReason::Failed)),
        ("s", void(VoidReason::NotPlaced)),
        ("", void(VoidReason::Expired)),
        ("g", Op::Transfer { from: m, to: member_id(1), amount_mmana, key: "k".into(), note: String::new() }),
        ("o", Op::Fee { member: m, amount_mmana, reason: reason.clone(), key: "k".into() }),
        ("o", Op::Flag { job: job(1), why: FlagWhy::Operator, note: String::new() }),
        ("o", Op::ReviewRelease { job: job(1), reason: reason.clone() }),
        ("o", Op::ReviewSeize { job: job(1), reason: reason.clone() }),
        ("o", Op::SetPolicy { rules: rules() }),
        ("o", Op::Correct { of: fact_id::open(&m), legs: vec![], reason, key: "k".into() }),
        ("gso", Op::Look { job: job(1) }),
    ]
}

#[test]
fn who_may_ask_what() {
    // The ledger itself and a member are strangers here: only keys of the network document speak.
    let askers = [('g', GATEWAY), ('s', SCHEDULER), ('o', OPERATOR), ('x', STRANGER), ('x', LEDGER), ('x', 100), ('x', 1)];
    for (may, op) in one_of_each() {
        for (letter, by) in askers {
            let mut world = World::peopled(rules());
            let before = world.books().digest();
            let outcome = world.ask_as(by, op.clone(), &Evidence::default());
            let refused = matches!(outcome, LedgerOutcome::Refused { why: RefusalKind::NotAllowed, code: Code::Forbidden, .. });
            assert_eq!(refused, !may.contains(letter), "{by} asks {op:?}: {outcome:?}");
            assert!(!refused || world.books().digest() == before, "{op:?}: nothing moved");
        }
    }
}

/// A request whose one command is a grant, with the nine bytes of its amount replaced.
fn request_for(amount: [u8; 9]) -> Vec<u8> {
    let op = Op::Mint { member: member_id(0), amount_mmana: mmana(MAX_MMANA), reason: String::new(), key: "k".into() };
    let mut body = bus_schemas::envelope::encode(&Command { net: net(), at: NOW, op });
    let most = [0xcf, 0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let at = body.windows(9).position(|window| window == most).expect("the amount is there");
    body[at..at + 9].copy_from_slice(&amount);
    let commands = signer(GATEWAY).batch_of_bytes::<Command>(bus_schemas::Form::Msgpack, vec![body]);
    bus_schemas::envelope::encode(&bus_schemas::ledger::LedgerRequest { commands, assignments: vec![], receipts: vec![] })
}

#[test]
fn no_amount_outside_what_there_can_be_is_even_read() {
    let of = |first: u8, number: i64| {
        let mut bytes = [first; 9];
        bytes[1..].copy_from_slice(&number.to_be_bytes());
        bytes
    };
    for (name, amount, readable) in [
        ("the most", of(0xcf, MAX_MMANA), true),
        ("one more", of(0xcf, MAX_MMANA + 1), false),
        ("the most of an i64", of(0xcf, i64::MAX), false),
        ("more than an i64", [0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false),
        ("minus one", of(0xd3, -1), false),
        ("the least", of(0xd3, i64::MIN), false),
        ("a float", of(0xcb, 0x3ff0_0000_0000_0000), false),
    ] {
        match crate::request::read(&mut Verifier::default(), &request_for(amount)) {
            crate::request::Request::Good { commands, .. } => assert!(readable && commands.len() == 1, "{name}"),
            crate::request::Request::Refused(outcomes) => {
                assert!(!readable && matches!(outcomes[..], [LedgerOutcome::Refused { .. }]), "{name}: {outcomes:?}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn numbers_that_no_reader_can_keep_are_refused() {
    let mut world = World::peopled(rules());
    let expiring = |key: &str, expires| Op::Hold { job: job(1), member: member_id(0), key: key.into(), amount_mmana: None, expires };
    let longest = bus_schemas::limits::hold_expires(
        NOW + SKEW_MS,
        bus_schemas::limits::MAX_EXECUTION_WAIT_MS_MAX,
        bus_schemas::limits::TIMEOUT_MS_MAX,
    );
    for (name, op, expected) in [
        ("a hold for ever", expiring("k", u64::MAX), "BadAmount M0116"),
        ("longer than any job", expiring("k", longest + 1), "BadAmount M0116"),
        ("the longest job", expiring("k", longest), "done"),
        (
            "a place that no stream has",
            Op::RevokeDevice { device: device_id(0), receipts_seq: u64::MAX, logins: vec![] },
            "BadAmount M0116",
        ),
        ("the last place", Op::RevokeDevice { device: device_id(0), receipts_seq: (1 << 53) - 1, logins: vec![] }, "done"),
    ] {
        assert_eq!(says(&world.ask(op)), expected, "{name}");
    }
    world.sound();
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
