use super::*;
use bus_schemas::resources::Resources;
use bus_schemas::{Cid, Signer};
use proptest::prelude::*;

fn view(n: u8, reputation: u32, results: u64) -> DeviceView {
    let key = Signer::from_seed(&[n; 32]).public();
    DeviceView {
        id: key.device_id(),
        member: key.member_id(),
        name: format!("d{n}"),
        kinds: vec!["echo".into()],
        capabilities: vec![],
        trust_scopes: vec![],
        federations: vec![],
        total: Resources::default(),
        reputation,
        tier: 0,
        results,
        away: None,
    }
}

fn quote(price: i64, start: u64, duration: u64, free: u32) -> Quote {
    Quote { price_mmana: MilliMana::new(price).unwrap(), start_in_ms: start, duration_ms: duration, free_bp: free }
}

fn job(n: u8, answers: Vec<Option<BidAnswer>>) -> Bidding {
    Bidding { job: JobId(Cid::of(&[n])), hold: MilliMana::new(1000).unwrap(), gives_up_at: 60_000, left_out: vec![], answers }
}

#[test]
fn who_would_begin_after_the_job_has_given_up_does_not_win() {
    let devices = [view(1, 90, 20), view(2, 10, 20)];
    let none: Vec<String> = vec![];
    assert_eq!(order(&devices, 1, &[(5, 60_000, 10, 1), (5, 59_000, 10, 1)]), ["d2"], "the better one is too late");
    assert_eq!(order(&devices, 1, &[(5, 60_000, 10, 1), (5, 70_000, 10, 1)]), none);
    let candidates: Vec<Candidate<'_>> = devices[..1].iter().map(|device| Candidate { device, round_trip_ms: 1 }).collect();
    let bid = || vec![Some(BidAnswer::Bid(quote(5, 0, 40_000, 1)))];
    let window = Window { round: 1, at: 1, took_ms: 2 };
    let decided = decide(&Weights::default(), window, &candidates, &[], &[job(1, bid()), job(2, bid()), job(3, bid())]);
    assert_eq!(decided.iter().map(|one| one.order.len()).collect::<Vec<_>>(), [1, 1, 0], "the third would stand behind two");
    assert_eq!(decided[2].nobody, Some(Nobody::Busy), "it is asked again when something ends there");
}

/// Runs one job with a quote per device (price, start, duration, free) and gives the names in winning order.
fn order(devices: &[DeviceView], round: u64, quotes: &[(i64, u64, u64, u32)]) -> Vec<String> {
    let candidates: Vec<Candidate<'_>> = devices.iter().map(|device| Candidate { device, round_trip_ms: 1 }).collect();
    let answers = quotes.iter().map(|(p, s, d, f)| Some(BidAnswer::Bid(quote(*p, *s, *d, *f)))).collect();
    let window = Window { round, at: 1, took_ms: 2 };
    let decided = decide(&Weights::default(), window, &candidates, &[], &[job(1, answers)]);
    let name = |id: &DeviceId| devices.iter().find(|d| d.id == *id).unwrap().name.clone();
    decided[0].order.iter().map(|(device, _)| name(device)).collect()
}

#[test]
fn the_better_bid_wins() {
    let devices = [view(1, 50, 50), view(2, 50, 50)];
    let (lower, higher) = if devices[0].id < devices[1].id { ("d1", "d2") } else { ("d2", "d1") };
    type Quotes = [(i64, u64, u64, u32); 2];
    let cases: [(&str, Quotes, [&str; 2]); 6] = [
        ("ties go to the lower device id", [(10, 0, 5, 5000); 2], [lower, higher]),
        ("cheaper", [(500, 0, 5, 5000), (100, 0, 5, 5000)], ["d2", "d1"]),
        ("more free", [(10, 0, 5, 9000), (10, 0, 5, 1000)], ["d1", "d2"]),
        ("sooner", [(10, 40, 5, 5000), (10, 0, 5, 5000)], ["d2", "d1"]),
        ("more than twice as late is behind, whatever else", [(1, 9000, 5, 10_000), (900, 0, 5, 0)], ["d2", "d1"]),
        ("a little noise does not put it out", [(1, 40, 1, 10_000), (900, 0, 1, 0)], ["d1", "d2"]),
    ];
    for (what, quotes, expected) in cases {
        assert_eq!(order(&devices, 1, &quotes), expected, "{what}");
    }
}

#[test]
fn reputation_weighs_most_but_one_round_in_ten_prefers_newcomers() {
    let devices = [view(1, 90, 500), view(2, 50, 3)];
    let quotes = [(900, 0, 5, 0), (1, 0, 5, 10_000)];
    assert_eq!(order(&devices, 7, &quotes), ["d1", "d2"]);
    assert_eq!(order(&devices, 70, &quotes), ["d2", "d1"]);
    let candidates: Vec<Candidate<'_>> = devices.iter().map(|device| Candidate { device, round_trip_ms: 1 }).collect();
    let answers = vec![Some(BidAnswer::Bid(quote(900, 0, 5, 0))), Some(BidAnswer::Bid(quote(1, 0, 5, 10_000)))];
    let said = decide(&Weights::default(), Window { round: 70, at: 1, took_ms: 1 }, &candidates, &[], &[job(1, answers)]);
    let why = &said[0].decision.why;
    assert_eq!(why, "d2 has fewer than 10 results, and one round in ten prefers such (second: d1); 2 bid, 0 did not");
    // One that wins by its score owes nothing to the preference.
    let devices = [view(1, 50, 500), view(2, 90, 3)];
    let candidates: Vec<Candidate<'_>> = devices.iter().map(|device| Candidate { device, round_trip_ms: 1 }).collect();
    let answers = vec![Some(BidAnswer::Bid(quote(1, 0, 5, 0))), Some(BidAnswer::Bid(quote(1, 0, 5, 0)))];
    let said = decide(&Weights::default(), Window { round: 70, at: 1, took_ms: 1 }, &candidates, &[], &[job(1, answers)]);
    assert!(said[0].decision.why.starts_with("d2 scores "), "{}", said[0].decision.why);
}

#[test]
fn who_was_left_out_stands_in_the_record_and_counts() {
    let device = view(1, 50, 50);
    let candidates = [Candidate { device: &device, round_trip_ms: 1 }];
    let reasons = vec!["it failed this job before: attempt 1, Timeout".to_owned()];
    let left_out = Considered { device: view(2, 50, 50).id, name: "d2".into(), verdict: Verdict::Out { reasons } };
    for (answer, why) in [
        (Some(BidAnswer::Bid(quote(1, 0, 5, 0))), "d1 was the only one to bid; 1 bid, 0 did not"),
        (Some(BidAnswer::No(Decline::Paused)), "0 of 2 devices took it: paused by its owner"),
    ] {
        let bidding = Bidding { left_out: vec![left_out.clone()], ..job(1, vec![answer]) };
        let said = decide(&Weights::default(), Window { round: 7, at: 1, took_ms: 1 }, &candidates, &[], &[bidding]);
        assert_eq!((said[0].decision.why.as_str(), said[0].decision.considered.last()), (why, Some(&left_out)));
    }
}

#[test]
fn a_price_above_the_hold_is_out() {
    let devices = [view(1, 50, 50), view(2, 50, 50)];
    assert_eq!(order(&devices, 1, &[(1001, 0, 5, 0), (1000, 0, 5, 0)]), ["d2"]);
}

#[test]
fn two_equal_devices_share_a_batch() {
    let devices = [view(1, 50, 50), view(2, 50, 50)];
    let candidates: Vec<Candidate<'_>> = devices.iter().map(|device| Candidate { device, round_trip_ms: 1 }).collect();
    // One is slightly freer: that must not draw the whole batch.
    let answers = vec![Some(BidAnswer::Bid(quote(1, 0, 1, 8010))), Some(BidAnswer::Bid(quote(1, 0, 1, 8000)))];
    let jobs: Vec<Bidding> = (0..64).map(|n| job(n, answers.clone())).collect();
    let decided = decide(&Weights::default(), Window { round: 1, at: 1, took_ms: 1 }, &candidates, &[], &jobs);
    let first = decided.iter().filter(|d| d.order[0].0 == devices[0].id).count();
    assert!((28..=36).contains(&first), "{first} of 64");
    assert!(decided[0].decision.why.contains("2 bid, 0 did not"), "{}", decided[0].decision.why);
}

#[test]
fn nobody_bids_and_why() {
    let devices = [view(1, 50, 50), view(2, 50, 50)];
    let candidates: Vec<Candidate<'_>> = devices.iter().map(|device| Candidate { device, round_trip_ms: 1 }).collect();
    let window = Window { round: 1, at: 1, took_ms: 250 };
    let no = |decline| Some(BidAnswer::No(decline));
    let cases = [
        (vec![no(Decline::QueueFull), no(Decline::QueueFull)], Nobody::Busy, "every device that answered is busy (2 of 2 asked)"),
        (vec![no(Decline::QueueFull), None], Nobody::Busy, "every device that answered is busy (1 of 2 asked)"),
        (
            vec![no(Decline::Paused), no(Decline::QueueFull)],
            Nobody::Willing,
            "0 of 2 devices took it: its queue is full; paused by its owner",
        ),
        (vec![None, None], Nobody::Answered, "0 of 2 devices took it: 2 did not answer"),
    ];
    for (answers, nobody, why) in cases {
        let decided = decide(&Weights::default(), window, &candidates, &[], &[job(1, answers)]);
        assert_eq!((decided[0].nobody, decided[0].decision.why.as_str()), (Some(nobody), why));
        assert_eq!(decided[0].decision.winner, None);
    }
}

#[test]
fn few_are_asked_and_the_best_known_among_them() {
    let devices: Vec<DeviceView> = (0..40).map(|n| view(n + 1, u32::from(n), 0)).collect();
    let asked = choose_whom_to_ask(devices.iter().collect(), 12345);
    assert_eq!(asked.len(), OFFERS_MAX);
    for best in 36..40 {
        assert!(asked.iter().any(|device| device.reputation == best), "reputation {best} is asked");
    }
    assert_eq!(choose_whom_to_ask(devices.iter().take(3).collect(), 1).len(), 3);
}

#[test]
fn latency_falls_by_doublings() {
    assert_eq!([0, 1, 3, 1023, u64::MAX].map(latency), [10_000, 9_500, 9_000, 5_000, 0]);
}

proptest! {
    #[test]
    fn any_answers_are_decided_the_same_in_any_order(
        quotes in proptest::collection::vec((0_i64..2000, 0_u64..100_000, 0_u64..100_000, 0_u32..20_000, 0_u32..120, 0_u64..30), 1..8),
        round in any::<u64>(),
    ) {
        let devices: Vec<DeviceView> =
            quotes.iter().enumerate().map(|(n, q)| view(u8::try_from(n + 1).unwrap(), q.4, q.5)).collect();
        let run = |at: &[usize]| {
            let candidates: Vec<Candidate<'_>> = at.iter().map(|i| Candidate { device: &devices[*i], round_trip_ms: 1 }).collect();
            let answers = at.iter().map(|i| { let q = quotes[*i]; Some(BidAnswer::Bid(quote(q.0, q.1, q.2, q.3))) }).collect();
            decide(&Weights::default(), Window { round, at: 0, took_ms: 0 }, &candidates, &[], &[job(1, answers)]).remove(0).order
        };
        let forward: Vec<usize> = (0..devices.len()).collect();
        let backward: Vec<usize> = (0..devices.len()).rev().collect();
        let order = run(&forward);
        prop_assert_eq!(&order, &run(&backward), "arrival order changes nothing");
        prop_assert!(order.iter().all(|(_, quote)| quote.price_mmana.get() <= 1000), "nobody above the hold");
        prop_assert_eq!(order.len(), quotes.iter().filter(|q| q.0 <= 1000 && q.1 <= 60_000).count(), "nobody who begins too late");
    }

    #[test]
    fn terms_stay_in_range(hold in 0_i64..=9_007_199_254_740_991, price in 0_i64..=9_007_199_254_740_991, start in any::<u64>(), free in any::<u32>(), reputation in any::<u32>()) {
        let t = terms(MilliMana::new(hold).unwrap(), &quote(price, start, 1, free), reputation, start);
        for term in [t.price, t.reputation, t.resources, t.latency] {
            prop_assert!(term <= 10_000);
        }
    }
}
