use super::*;
use bus_schemas::Signer;

const SILENCE: Duration = Duration::from_secs(20);

struct World {
    fleet: Fleet,
    verifier: Verifier,
    start: Instant,
}
fn net() -> NetworkId {
    Signer::from_seed(&[99; 32]).public().network_id()
}
fn signer(n: u8) -> Signer {
    Signer::from_seed(&[n; 32])
}
fn world(devices: u8) -> World {
    let start = Instant::now();
    let mut world = World { fleet: Fleet::new(net(), SILENCE, start), verifier: Verifier::default(), start };
    for n in 1..=devices {
        let record = record(n);
        world.fleet.record(&serde_json::to_vec(&record).unwrap(), start, &mut world.verifier).unwrap();
    }
    world
}
fn record(n: u8) -> DeviceRecord {
    let did = signer(n).public();
    DeviceRecord::new(did, did.member_id(), format!("d{n}"), 0, 1)
}
fn heartbeat(n: u8, by: u8) -> bytes::Bytes {
    let body = Heartbeat {
        net: net(),
        device: signer(n).public().device_id(),
        at: 1,
        name: format!("d{n}"),
        version: "1".into(),
        kinds: vec!["echo".into()],
        capabilities: vec![],
        trust_scopes: vec![],
        federations: vec![],
        claimed_tier: 0,
        total: Resources::default(),
        free: Resources::default(),
        jobs: vec![],
        unsettled: vec![],
        unsettled_more: 0,
        not_working: None,
        consent_at: None,
    };
    signer(by).batch(&[body]).encode().into()
}
impl World {
    fn beat(&mut self, n: u8, at: u64, live: bool) -> Result<Changed, Problem> {
        let now = self.start + Duration::from_secs(at);
        self.fleet.heartbeat(signer(n).public().device_id(), &heartbeat(n, n), live, now, &mut self.verifier)
    }
    fn sweep(&mut self, at: u64) -> usize {
        let now = self.start + Duration::from_secs(at);
        self.fleet.bus_works(now);
        self.fleet.sweep(now, 0).len()
    }
    fn away(&self, n: u8) -> Option<String> {
        self.fleet.get(&signer(n).public().device_id()).unwrap().view.away.clone()
    }
}

#[test]
fn a_device_comes_goes_and_comes_back() {
    let mut world = world(1);
    assert_eq!(world.away(1).unwrap(), "not heard of lately");
    world.beat(1, 0, false).unwrap();
    assert_eq!(world.away(1).unwrap(), "not heard of since this scheduler started");
    assert!(world.beat(1, 1, true).unwrap().look_again);
    assert_eq!(world.away(1), None);
    assert!(!world.beat(1, 6, true).unwrap().look_again, "nothing new");
    assert_eq!((world.sweep(10), world.sweep(20), world.sweep(26)), (0, 0, 1));
    assert!(world.away(1).unwrap().starts_with("offline since "));
    assert!(world.beat(1, 27, true).unwrap().look_again);
    assert_eq!(world.away(1), None);
}

#[test]
fn only_its_own_signature_counts() {
    let mut world = world(2);
    let id = signer(1).public().device_id();
    let mut say = |payload: bytes::Bytes| world.fleet.heartbeat(id, &payload, true, world.start, &mut world.verifier).map_err(|p| p.code);
    assert_eq!(say(heartbeat(1, 2)), Err(Code::WrongSigner), "signed by a neighbour");
    assert_eq!(say(heartbeat(2, 2)), Err(Code::WrongSigner), "a neighbour's own");
    assert!(say(bytes::Bytes::from_static(b"nonsense")).is_err());
    assert!(say(heartbeat(1, 1)).is_ok());
}

#[test]
fn a_heartbeat_before_the_record_is_kept() {
    let mut world = world(0);
    assert_eq!(world.beat(3, 0, true), Ok(Changed { look_again: false, is_back: false }));
    world.fleet.record(&serde_json::to_vec(&record(3)).unwrap(), world.start, &mut world.verifier).unwrap();
    assert_eq!(world.away(3), None);
}

#[test]
fn silence_does_not_count_while_the_bus_is_away() {
    let mut world = world(1);
    world.beat(1, 0, true).unwrap();
    let now = world.start + Duration::from_secs(60);
    assert_eq!(world.fleet.sweep(now, 0), [], "own heartbeat has not come back either");
    assert_eq!(world.sweep(61), 0, "back: counted from now");
    assert_eq!((world.sweep(71), world.sweep(80), world.sweep(82)), (0, 0, 1));
}

#[test]
fn a_mass_silence_is_waited_out() {
    let mut world = world(6);
    for n in 1..=6 {
        world.beat(n, 0, true).unwrap();
    }
    for at in (5..=20).step_by(5) {
        world.beat(6, at, true).unwrap();
        world.sweep(at);
    }
    world.beat(6, 25, true).unwrap();
    assert_eq!(world.sweep(25), 0, "five of six at once");
    for at in (30..=75).step_by(5) {
        world.beat(6, at, true).unwrap();
        world.beat(5, at, true).unwrap();
        assert_eq!(world.sweep(at), 0, "{at}");
    }
    assert_eq!(world.sweep(80), 4, "after a minute they are gone");
}

#[test]
fn of_a_few_devices_some_may_fail_together_but_not_all() {
    let mut few = world(4);
    for n in 1..=4 {
        few.beat(n, 0, true).unwrap();
    }
    for at in [9, 18, 25] {
        few.beat(4, at, true).unwrap();
        assert_eq!(few.sweep(at), if at == 25 { 3 } else { 0 }, "one is left that can go on with what they had");
    }
    for devices in 2..=4 {
        let mut all = world(devices);
        (1..=devices).for_each(|n| assert!(all.beat(n, 0, true).is_ok()));
        assert_eq!((all.sweep(9), all.sweep(18), all.sweep(25)), (0, 0, 0), "nobody is left");
        let said = all.fleet.mass_silence().unwrap().said();
        assert!(said.starts_with(&format!("{devices} of {devices} devices fell silent at once")), "{said}");
        assert_eq!((all.sweep(33), all.sweep(42), all.sweep(51), all.sweep(60), all.sweep(69), all.sweep(78)), (0, 0, 0, 0, 0, 0));
        assert_eq!(all.sweep(86), usize::from(devices), "after a minute they are gone");
    }
    let mut one = world(1);
    one.beat(1, 0, true).unwrap();
    assert_eq!((one.sweep(9), one.sweep(18), one.sweep(21)), (0, 0, 1), "a lone device is gone");
}

#[test]
fn devices_that_a_new_scheduler_has_not_heard_of_yet_count() {
    let mut world = world(6);
    for n in 1..=6 {
        world.beat(n, 0, false).unwrap();
    }
    world.beat(6, 1, true).unwrap();
    world.beat(6, 6, true).unwrap();
    assert_eq!((world.sweep(9), world.fleet.is_settled()), (0, false));
    world.beat(6, 11, true).unwrap();
    assert_eq!((world.sweep(11), world.fleet.is_settled()), (0, false), "five of six are silent");
    assert!(world.fleet.mass_silence().unwrap().said().starts_with("5 of 6 devices fell silent at once"));
    for n in 1..=4 {
        world.beat(n, 20, true).unwrap();
    }
    world.beat(6, 20, true).unwrap();
    assert_eq!((world.sweep(20), world.fleet.mass_silence(), world.fleet.is_settled()), (0, None, false));
    (1..=4).chain([6]).for_each(|n| assert!(world.beat(n, 29, true).is_ok()));
    assert_eq!((world.sweep(29), world.sweep(31), world.fleet.is_settled()), (0, 1, true), "half a silence to follow");
}

#[test]
fn one_of_many_that_a_new_scheduler_does_not_hear_of_is_gone_after_half_a_silence() {
    let mut world = world(2);
    world.beat(1, 0, false).unwrap();
    world.beat(2, 0, false).unwrap();
    world.beat(1, 5, true).unwrap();
    assert_eq!((world.sweep(9), world.fleet.is_settled()), (0, false));
    assert_eq!((world.sweep(10), world.fleet.is_settled()), (1, true));
}

#[test]
fn a_second_mass_silence_is_waited_out_like_the_first() {
    let mut world = world(6);
    let all_speak = |world: &mut World, at| {
        for n in 1..=6 {
            world.beat(n, at, true).unwrap();
        }
    };
    let (mut at, mut silences) = (0, 0);
    all_speak(&mut world, at);
    while silences < 2 {
        assert_eq!((world.sweep(at + 9), world.sweep(at + 18), world.fleet.mass_silence()), (0, 0, None));
        assert_eq!(world.sweep(at + 21), 0, "all six at once");
        let said = world.fleet.mass_silence().unwrap().said();
        assert!(said.starts_with("6 of 6 devices fell silent at once: their jobs stay with them until 1970-01-01 00:01:00"), "{said}");
        assert_eq!(world.sweep(at + 30), 0);
        all_speak(&mut world, at + 31);
        assert_eq!((world.sweep(at + 32), world.fleet.mass_silence()), (0, None), "they are heard again");
        silences += 1;
        at += 31;
    }
    // One alone then is gone after its silence, as ever.
    for later in [5, 10, 15, 20] {
        for n in 2..=6 {
            world.beat(n, at + later, true).unwrap();
        }
        assert_eq!(world.sweep(at + later), usize::from(later == 20));
    }
}

#[test]
fn the_next_silence_is_known_beforehand() {
    let mut world = world(3);
    assert_eq!(world.fleet.silent_at(), None);
    world.beat(1, 3, true).unwrap();
    world.beat(2, 5, true).unwrap();
    // It is heard of all the time: not all are silent.
    world.beat(3, 15, true).unwrap();
    let due = world.start + Duration::from_secs(23);
    assert_eq!(world.fleet.silent_at(), Some(due));
    world.sweep(9);
    world.sweep(18);
    world.fleet.bus_works(due);
    assert_eq!(world.fleet.sweep(due, 0).len(), 1);
    assert_eq!(world.fleet.silent_at(), Some(world.start + Duration::from_secs(25)));
}

#[test]
fn any_word_of_a_device_counts_until_it_is_gone() {
    let mut world = world(2);
    let id = signer(1).public().device_id();
    let (start, at) = (world.start, |at| Duration::from_secs(at));
    let gone_at = |world: &World, now| world.fleet.gone_at(&id, start + at(now)).map(|gone| (gone - start).as_secs());
    world.beat(1, 0, true).unwrap();
    for now in (5..=30).step_by(5) {
        world.beat(2, now, true).unwrap();
        assert_eq!(world.sweep(now), usize::from(now == 30), "{now}");
        if now == 10 {
            world.fleet.heard(&id, start + at(10));
            assert_eq!(world.fleet.get(&id).unwrap().heard_at(), Some(start), "no heartbeat: it did not say what it has");
            assert_eq!(world.fleet.silent_at(), Some(start + at(30)));
        }
        let expected = [Some(20), Some(30), Some(30), Some(30), Some(30), None];
        assert_eq!(gone_at(&world, now), expected[usize::try_from(now / 5).unwrap() - 1], "{now}");
    }
    world.fleet.heard(&id, start + at(31));
    assert!(world.away(1).unwrap().starts_with("offline since "), "it is back with its next heartbeat");
    world.beat(1, 32, true).unwrap();
    assert_eq!(gone_at(&world, 32), Some(52));
    assert_eq!(gone_at(&world, 60), None, "the bus does not work");
}

#[test]
fn a_mass_silence_says_when_it_ends() {
    let mut world = world(6);
    (1..=6).for_each(|n| assert!(world.beat(n, 0, true).is_ok()));
    for at in [9, 18, 20] {
        world.beat(6, at, true).unwrap();
        assert_eq!(world.sweep(at), 0);
    }
    let told = world.fleet.mass_silence().unwrap().told(SILENCE);
    assert_eq!(told, HoldBack { gone: 5, there: 6, until: 60_000, follow_ms: 10_000 });
}
