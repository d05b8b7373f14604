//! `mesh bench`: how many jobs a second, at what cost, and how long one takes; over a running network, with everything on.
//!
//! `load` sends signed jobs and waits for their results; `cpu` reads what each process of a local stack used meanwhile.

mod cpu;
mod load;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus_schemas::Code;
use bus_schemas::job::KINDS;
use serde::Serialize;

use super::args::{BenchArgs, BenchCommand, Cli};
use super::client::Session;
use super::failure::{Done, End, Failure};
use super::output::Output;
use super::sign;

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub bench: &'static str,
    pub kind: String,
    pub jobs: u32,
    pub in_flight: u32,
    pub seconds: f64,
    pub jobs_per_s: f64,
    /// CPU seconds of all processes of the stack and of this one, per 1,000 jobs; null where their pids are not known.
    pub cpu_s_per_1000: Option<f64>,
    /// The same by role.
    pub cpu_by_process: BTreeMap<String, f64>,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    /// What one strict signature check takes on this machine right now: machines change their speed.
    pub verify_strict_us: f64,
    pub machine: String,
}

/// `mesh bench …`.
pub async fn run(cli: &Cli, command: &BenchCommand, output: &Output) -> Done {
    let (bench, args, in_flight) = match command {
        BenchCommand::Throughput(args) => ("throughput", args, args.in_flight),
        BenchCommand::Latency(args) => ("latency", args, 1),
    };
    if !KINDS.contains(&args.kind.as_str()) {
        return Err(Failure::new(Code::UnknownKind, format!("\"{}\" is not one of {}", args.kind, KINDS.join(", "))));
    }
    let session = Session::open(cli).await?;
    let signer = sign::key_of(&session.context)?;
    let load = load::Load::new(&session, signer, &args.kind).await?;
    let report = measure(bench, args, in_flight, load, &session, output).await?;
    output.print(&format!("bench.{bench}"), &report, || format!("{:.1}", report.jobs_per_s), || text(&report));
    Ok(End::Fine)
}

async fn measure(
    bench: &'static str,
    args: &BenchArgs,
    in_flight: u32,
    mut load: load::Load,
    session: &Session,
    output: &Output,
) -> Result<Report, Failure> {
    if args.warm_up > 0 {
        output.say(&format!("warming up with {} jobs", args.warm_up));
        load.run(args.warm_up, in_flight).await?;
    }
    let verify_strict_us = verify_strict_us();
    let processes = session.context.processes.as_deref().map(cpu::Processes::read).unwrap_or_default();
    output.say(&format!("{} {} jobs, {in_flight} in flight", args.jobs, args.kind));
    let before = processes.used();
    let mut done = load.run(args.jobs, in_flight).await?;
    // Results come before their settlement; its cost belongs to the jobs as well.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = processes.used();
    let per_1000 = |seconds: f64| seconds * 1000.0 / f64::from(args.jobs);
    let cpu_by_process: BTreeMap<String, f64> =
        after.iter().map(|(name, used)| (name.clone(), round(per_1000(used - before.get(name).copied().unwrap_or(0.0)), 4))).collect();
    let cpu_s_per_1000 = (!processes.is_empty()).then(|| round(cpu_by_process.values().sum(), 4));
    done.latencies.sort_unstable();
    let at = |share: f64| round(percentile(&done.latencies, share).as_secs_f64() * 1000.0, 3);
    Ok(Report {
        bench,
        kind: args.kind.clone(),
        jobs: args.jobs,
        in_flight,
        seconds: round(done.took.as_secs_f64(), 3),
        jobs_per_s: round(f64::from(args.jobs) / done.took.as_secs_f64().max(1e-9), 1),
        cpu_s_per_1000,
        cpu_by_process,
        p50_ms: at(0.50),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        verify_strict_us: round(verify_strict_us, 1),
        machine: cpu::machine(),
    })
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

/// The value that `share` of all do not exceed (nearest rank); of sorted values.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts of jobs
    let rank = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Median time of one strict check, in microseconds.
fn verify_strict_us() -> f64 {
    use ed25519_dalek::{Signer as _, SigningKey};
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = key.verifying_key();
    let mut times: Vec<Duration> = (0..200_u32)
        .filter_map(|n| {
            let message = [n.to_be_bytes().as_slice(), &[0; 396]].concat();
            let signature = key.sign(&message);
            let start = Instant::now();
            public.verify_strict(&message, &signature).ok()?;
            Some(start.elapsed())
        })
        .collect();
    times.sort_unstable();
    percentile(&times, 0.5).as_secs_f64() * 1e6
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{:.0} jobs/s   ({} {} jobs in {:.2} s, {} in flight)\n  latency   p50 {:.2} ms   p95 {:.2} ms   p99 {:.2} ms\n",
        report.jobs_per_s, report.jobs, report.kind, report.seconds, report.in_flight, report.p50_ms, report.p95_ms, report.p99_ms
    );
    match report.cpu_s_per_1000 {
        Some(all) => {
            let parts: Vec<String> = report.cpu_by_process.iter().map(|(name, used)| format!("{name} {used:.3}")).collect();
            text.push_str(&format!("  CPU       {all:.3} s per 1,000 jobs: {}\n", parts.join(", ")));
        }
        None => text.push_str("  CPU       unknown: the stack runs elsewhere\n"),
    }
    text.push_str(&format!("  machine   {}; one strict signature check takes {:.1} us now", report.machine, report.verify_strict_us));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let ms = |n: u64| Duration::from_millis(n);
        let values: Vec<Duration> = (1..=100).map(ms).collect();
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.95), percentile(&values, 0.99)), (ms(50), ms(95), ms(99)));
        assert_eq!(percentile(&values[..1], 0.99), ms(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn a_signature_check_takes_some_time() {
        let us = verify_strict_us();
        assert!(us > 1.0 && us < 100_000.0, "{us}");
    }
}
