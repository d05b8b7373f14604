//! `make simulate SEEDS=n`, or `SEED=s` for one seed with every event printed.

use std::process::ExitCode;

use bus_schemas::Verifier;
use simulator::{Mutation, Options, replay_command, run, run_seeds};

fn main() -> ExitCode {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let broken = match std::env::var("BREAK").ok().filter(|text| !text.is_empty()).map(|text| text.parse::<Mutation>()) {
        Some(Ok(broken)) => Some(broken),
        Some(Err(why)) => {
            eprintln!("BREAK={why}");
            return ExitCode::FAILURE;
        }
        None => None,
    };
    if let Some(seed) = number("SEED") {
        let outcome = run(seed, Options { broken, trace: true }, &mut Verifier::default());
        println!(
            "seed {seed} ({:?}): {} events in {} s of its time, hash {:016x}",
            outcome.profile,
            outcome.events,
            outcome.ended_at / 1000,
            outcome.hash
        );
        return match outcome.wrong {
            None => ExitCode::SUCCESS,
            Some(wrong) => {
                println!("WRONG: {wrong}");
                ExitCode::FAILURE
            }
        };
    }
    let options = Options { broken, trace: false };
    let began = std::time::Instant::now();
    let summary = run_seeds(number("FROM").unwrap_or(0), number("SEEDS").unwrap_or(2000), options, 20);
    for (what, count) in summary.counters.iter() {
        println!("{count:>10}  {what}");
    }
    for outcome in &summary.failed {
        println!(
            "seed {} ({:?}): {}\n  {}",
            outcome.seed,
            outcome.profile,
            outcome.wrong.as_deref().unwrap_or_default(),
            replay_command(outcome.seed, options)
        );
    }
    println!(
        "{} seeds, {} events, {} failed, in {:.1} s",
        summary.seeds,
        summary.events,
        summary.failed.len(),
        began.elapsed().as_secs_f64()
    );
    if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
