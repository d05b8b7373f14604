//! Each rule broken once, on purpose: the simulator says so within a few seeds.

use simulator::{Mutation, Options, replay_command, run_seeds};

/// Seeds within which a broken rule must show.
const WITHIN: u64 = 1_600;

#[test]
fn every_broken_rule_is_caught() {
    let mut missed = Vec::new();
    for broken in Mutation::ALL {
        let options = Options { broken: Some(*broken), trace: false };
        let summary = run_seeds(0, WITHIN, options, 1);
        match summary.failed.first() {
            Some(outcome) => {
                println!("{broken}: {} ({})", outcome.wrong.as_deref().unwrap_or_default(), replay_command(outcome.seed, options));
            }
            None => missed.push(broken.name()),
        }
    }
    assert!(missed.is_empty(), "not caught within {WITHIN} seeds: {missed:?}");
}
