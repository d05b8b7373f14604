//! Many seeds of everything that can fail; and that the faults do come.

use bus_schemas::Verifier;
use simulator::{Options, replay_command, run, run_seeds};

const SEEDS: u64 = 2000;

/// Faults, and what is done about them, that must have come in so many seeds.
const MUST_COME: &[&str] = &[
    "acks of stores lost",
    "appends repeated",
    "assignments sent again",
    "assignments that were known",
    "attempts ended, device declined",
    "attempts ended, device gone",
    "attempts ended, execution error",
    "attempts ended, timeout",
    "attempts taken over",
    "attempts that a device has lost",
    "attempts that nobody had watched",
    "attempts tried again",
    "cancels of jobs in hand",
    "checkpoints kept",
    "checkpoints of the books",
    "checkpoints refused",
    "crashes between two effects",
    "deliveries from before a freeze",
    "devices found silent",
    "devices paused",
    "disks full",
    "disks wiped",
    "dropped from a full queue",
    "fenced appends",
    "freezes",
    "gave up waiting",
    "handed back by a device",
    "holds refused",
    "jobs delivered again",
    "jobs found paid",
    "jobs found void",
    "jobs given back",
    "jobs looked up",
    "jobs taken up after a restart",
    "jobs that came again to their holder",
    "jobs that go on by BACK",
    "jobs that were in JOBS already",
    "leases given up",
    "leases renewed",
    "links cut, both ways",
    "links cut, inward",
    "links cut, outward",
    "messages dropped",
    "messages late",
    "messages twice",
    "offers refused, queue full",
    "own appends found stored",
    "parts found in EVENTS",
    "receipts of earlier attempts",
    "receipts of jobs that are not in hand",
    "receipts sent again",
    "receipts through the outbox",
    "resumed behind a checkpoint",
    "schedulers stopped in order",
    "settlements asked again",
    "submissions delivered again",
    "submissions of ended jobs",
    "submissions through an outbox",
    "waits for a device",
    "writers fenced by a look",
    "writers lost the lease",
    "writers took over",
];

#[test]
fn whatever_fails_every_promise_is_kept() {
    let options = Options::default();
    let summary = run_seeds(0, SEEDS, options, 5);
    let told: Vec<String> = summary
        .failed
        .iter()
        .map(|outcome| format!("{}: {}", replay_command(outcome.seed, options), outcome.wrong.as_deref().unwrap_or_default()))
        .collect();
    assert!(told.is_empty(), "{} of {SEEDS} seeds:\n  {}\n", told.len(), told.join("\n  "));
    let missing: Vec<&&str> = MUST_COME.iter().filter(|what| summary.counters.get(what) == 0).collect();
    assert!(missing.is_empty(), "never came in {SEEDS} seeds, so nothing was tried: {missing:?}");
    println!("{} seeds, {} events", summary.seeds, summary.events);
    for (what, count) in summary.counters.iter() {
        println!("{count:>10}  {what}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..32 {
        let runs = [0, 1].map(|_| run(seed, Options::default(), &mut Verifier::default()));
        let [first, second] = &runs;
        assert_eq!((first.hash, first.events, &first.counters), (second.hash, second.events, &second.counters), "seed {seed}");
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 32, "different seeds are different runs");
}
