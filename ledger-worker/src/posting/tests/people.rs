//! Transfers, grants, fees: credit that a person moves.

use super::world::*;

#[test]
fn transfers() {
    let mut world = World::peopled(rules());
    world.hold(1, 40 * MANA);
    let send = |from: u8, to: u8, amount: i64, key: &str, note: &str| Op::Transfer {
        from: member_id(from),
        to: member_id(to),
        amount_mmana: mmana(amount),
        key: key.into(),
        note: note.into(),
    };
    let long = "x".repeat(201);
    let long_key = "k".repeat(129);
    let cases: Vec<(&str, Op, &str)> = vec![
        ("to another", send(0, 1, 10_000, "t1", "thanks"), "done"),
        ("again", send(0, 1, 10_000, "t1", "thanks"), "known"),
        ("another amount under the key", send(0, 1, 10_001, "t1", "thanks"), "KeyConflict M0502"),
        ("another note under the key", send(0, 1, 10_000, "t1", ""), "KeyConflict M0502"),
        ("another payee under the key", send(0, 2, 10_000, "t1", "thanks"), "KeyConflict M0502"),
        ("another member's same key", send(1, 0, 10_000, "t1", "thanks"), "done"),
        ("to oneself", send(0, 0, 1, "t2", ""), "SelfTransfer M0116"),
        ("nothing", send(0, 1, 0, "t2", ""), "BadAmount M0114"),
        ("to nobody", send(0, 7, 1, "t2", ""), "UnknownMember M0513"),
        ("from nobody", send(7, 0, 1, "t2", ""), "UnknownMember M0513"),
        ("without a key", send(0, 1, 1, "", ""), "NotAllowed M0118"),
        ("under too long a key", send(0, 1, 1, &long_key, ""), "NotAllowed M0118"),
        ("with a novel", send(0, 1, 1, "t2", &long), "BadAmount M0116"),
        ("what is held", send(0, 1, 60_001, "t2", ""), "InsufficientMana M0601"),
        ("as much as there can be", send(0, 1, MAX_MMANA, "t2", ""), "InsufficientMana M0601"),
        ("all that is there", send(0, 1, 60_000, "t2", ""), "done"),
        ("and one more", send(0, 1, 1, "t3", ""), "InsufficientMana M0601"),
    ];
    for (name, op, expected) in cases {
        let before = world.books().digest();
        let outcome = world.ask(op);
        assert_eq!(says(&outcome), expected, "{name}");
        assert!(expected == "done" || world.books().digest() == before, "{name}: nothing moved");
    }
    assert_eq!((world.balances(0), world.balances(1)), ((0, 40_000, 0), (160_000, 0, 0)));
    world.sound();
}

#[test]
fn fees_and_grants() {
    let mut world = World::peopled(rules());
    let fee = |of: u8, amount: i64, key: &str| Op::Fee {
        member: member_id(of),
        amount_mmana: mmana(amount),
        reason: "room".into(),
        key: key.into(),
    };
    let mint = |of: u8, amount: i64, key: &str| Op::Mint {
        member: member_id(of),
        amount_mmana: mmana(amount),
        reason: "gift".into(),
        key: key.into(),
    };
    let long = "x".repeat(201);
    let cases: Vec<(&str, Op, &str)> = vec![
        ("a fee", fee(0, 5_000, "f1"), "done"),
        ("again", fee(0, 5_000, "f1"), "known"),
        ("another amount", fee(0, 5_001, "f1"), "KeyConflict M0502"),
        ("another member's same key", fee(1, 5_000, "f1"), "done"),
        ("nothing", fee(0, 0, "f2"), "BadAmount M0114"),
        ("of nobody", fee(7, 1, "f2"), "UnknownMember M0513"),
        ("more than there is", fee(0, 95_001, "f2"), "InsufficientMana M0601"),
        ("without a key", fee(0, 1, ""), "NotAllowed M0118"),
        ("a grant under a fee's key", mint(0, 1, "f1"), "done"),
        ("a grant for nobody", mint(7, 1, "m1"), "UnknownMember M0513"),
        ("all that there can be, once", mint(0, MAX_MMANA - 200_001, "m2"), "done"),
        ("one more than there can be", mint(0, 1, "m3"), "BadAmount M0114"),
        (
            "a fee with a novel",
            Op::Fee { member: member_id(0), amount_mmana: mmana(1), reason: long.clone(), key: "f3".into() },
            "BadAmount M0116",
        ),
        (
            "a grant with a novel",
            Op::Mint { member: member_id(0), amount_mmana: mmana(1), reason: long, key: "m4".into() },
            "BadAmount M0116",
        ),
    ];
    for (name, op, expected) in cases {
        let before = world.books().digest();
        assert_eq!(says(&world.ask_as(OPERATOR, op, &Evidence::default())), expected, "{name}");
        assert!(expected == "done" || world.books().digest() == before, "{name}: nothing moved");
    }
    assert_eq!((world.balance(Account::Commons), world.balance(Account::Mint)), (10_000, -MAX_MMANA));
    let third = member(2).public();
    let opened = world.ask(Op::Open { member: third.member_id(), did: third });
    assert_eq!(says(&opened), "BadAmount M0114", "no grant is left for a newcomer");
    world.sound();
}

#[test]
fn a_payer_of_good_name_saves_what_the_commons_can_pay() {
    // Each member's first device has done twenty jobs for the other: 70 points, 20 of 50 above the start.
    let respected = |commons: i64, discount_bp: u32| {
        let mut world = World::peopled(rules());
        for n in 0..20 {
            let (payer, device) = (n % 2, 1 - n % 2);
            world.earn(1000, &Work { claimed_ms: 1, ..Work::at(100 + n, payer, device, NOW) });
            world.earn(1000, &Work { claimed_ms: 1, ..Work::at(200 + n, payer, device, NOW) });
        }
        if commons > 0 {
            world.ok(Op::Fee { member: member_id(1), amount_mmana: mmana(commons), reason: "aid".into(), key: "f".into() });
        }
        world.policy(|rules| rules.discount_bp = discount_bp);
        world
    };
    let discount = |world: &mut World, work: &Work| {
        let outcome = world.earn(10_000, work);
        assert_eq!(says(&outcome), "done");
        world.sound();
        match world.last()[..] {
            [What::Settle { discount_mmana, .. }] => discount_mmana.get(),
            ref other => panic!("{other:?}"),
        }
    };
    // 2,000 gross at tier 1; 5,000 bp at 100 points, so 20 of 50 points save 20 %.
    let one = Work::on(1);
    let own = Work { device: 0, receipt_device: 0, receipt_signer: 150, ..one.clone() };
    let cases: Vec<(&str, i64, u32, Work, i64)> = vec![
        ("what the policy says", 50_000, 5_000, one.clone(), 400),
        ("half of it", 50_000, 2_500, one.clone(), 200),
        ("switched off", 50_000, 0, one.clone(), 0),
        ("empty commons", 0, 5_000, one.clone(), 0),
        ("poor commons", 7, 5_000, one.clone(), 7),
        ("one's own job", 50_000, 5_000, own, 0),
        ("nothing to pay", 50_000, 5_000, Work { price: 0, ..one.clone() }, 0),
        ("a price of one stays one", 50_000, 5_000, Work { price: 1, ..one.clone() }, 0),
        ("rounded down", 50_000, 5_000, Work { price: 4, ..one }, 0),
    ];
    for (name, commons, bp, work, expected) in cases {
        let mut world = respected(commons, bp);
        assert_eq!(world.books().member_reputation(&member_id(0)), 70);
        assert_eq!(discount(&mut world, &work), expected, "{name}");
        assert_eq!(world.balance(Account::Commons), commons - expected, "{name}");
    }
    let mut world = respected(50_000, 5_000);
    world.ok(Op::RevokeDevice { device: device_id(0), receipts_seq: 0, logins: vec![] });
    assert_eq!(discount(&mut world, &Work::on(1)), 0, "a revoked device speaks for nobody");
}

#[test]
fn a_day_has_a_limit_for_a_member_and_for_a_device() {
    const DAY: u64 = 24 * 3600 * 1000;
    let second = |n: u8, now: UnixMs| Work { device: 2, receipt_device: 2, receipt_signer: 152, ..Work::at(n, 0, 1, now) };
    for (name, per_member, per_device, expected) in [
        ("none", 0, 0, [2000, 2000, 2000, 2000]),
        ("of a device", 0, 3_000, [2000, 1000, 2000, 1000]),
        ("of a member", 3_000, 0, [2000, 1000, 0, 0]),
        ("of both", 5_000, 3_000, [2000, 1000, 2000, 0]),
    ] {
        let rules = Policy { earn_day_member_mmana: mmana(per_member), earn_day_device_mmana: mmana(per_device), ..rules() };
        let mut world = World::peopled(rules);
        let did = device(2).public();
        world.ok(Op::BindDevice { device: did.device_id(), did, member: member_id(1) });
        world.ok(Op::AttestTier { device: did.device_id(), tier: 1 });
        let paid = |world: &mut World, work: &Work| {
            let before = world.balances(1).0;
            assert_eq!(says(&world.earn(10_000, work)), "done", "{name}");
            world.balances(1).0 - before
        };
        let now = world.now;
        let earned = [
            paid(&mut world, &Work::on(1)),
            paid(&mut world, &Work::on(2)),
            paid(&mut world, &second(3, now)),
            paid(&mut world, &second(4, now)),
        ];
        assert_eq!(earned, expected, "{name}");
        assert_eq!(world.balances(0).1, 0, "{name}: what is not paid returns");
        world.now = (NOW / DAY + 1) * DAY;
        let now = world.now;
        assert_eq!(paid(&mut world, &Work::at(5, 0, 1, now)), 2000, "{name}: a new day");
        world.sound();
    }
}
