//! Many seeds, on two threads; each is a run of its own, so how they are shared out changes nothing.

use bus_schemas::Verifier;

use crate::counters::Counters;
use crate::sim::{Options, Outcome, run};

/// What many seeds came to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub seeds: u64,
    pub events: u64,
    pub counters: Counters,
    /// Those that must not be, by seed.
    pub failed: Vec<Outcome>,
}

/// How one seed is run again.
pub fn replay_command(seed: u64, options: Options) -> String {
    let broken = options.broken.map(|broken| format!(" BREAK={broken}")).unwrap_or_default();
    format!("make simulate SEED={seed}{broken}")
}

/// Runs `seeds` seeds from `first` on; `enough` failures end it.
pub fn run_seeds(first: u64, seeds: u64, options: Options, enough: usize) -> Summary {
    const THREADS: u64 = 2;
    let part = |thread: u64| {
        let mut verifier = Verifier::default();
        let mut summary = Summary::default();
        for seed in (first..first + seeds).filter(|seed| seed % THREADS == thread) {
            let outcome = run(seed, options, &mut verifier);
            summary.seeds += 1;
            summary.events += outcome.events;
            summary.counters.merge(&outcome.counters);
            if outcome.wrong.is_some() {
                summary.failed.push(outcome);
            }
            if summary.failed.len() >= enough {
                break;
            }
        }
        summary
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| part(1));
        let mut all = part(0);
        if let Ok(other) = other.join() {
            all.seeds += other.seeds;
            all.events += other.events;
            all.counters.merge(&other.counters);
            all.failed.extend(other.failed);
        }
        all.failed.sort_by_key(|outcome| outcome.seed);
        all
    })
}
