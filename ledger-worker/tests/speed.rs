//! A measurement, not a check: `cargo test --release -p ledger-worker --test speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // A test stops at the first surprise.

mod support;

use std::time::Instant;

use futures::StreamExt;
use support::{World, cpu_s, done, hold, settlement};

/// CPU seconds of the processes whose parent is `pid` or that are it.
fn family_cpu_s(pid: u32) -> f64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    cpu_s(pid) + children.split_whitespace().filter_map(|child| child.parse().ok()).map(cpu_s).sum::<f64>()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn holds_and_settlements_per_second() {
    let world = World::start().await;
    let worker = world.worker();
    world.people().await;
    let per_request: u64 = std::env::var("PER_REQUEST").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    let in_flight: usize = std::env::var("IN_FLIGHT").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let jobs: u64 = std::env::var("JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(30_000);
    let lists: Vec<Vec<u64>> = (0..jobs).collect::<Vec<_>>().chunks(per_request as usize).map(<[u64]>::to_vec).collect();
    // Made beforehand, so that the asker's work is not measured.
    let requests: Vec<_> = lists
        .iter()
        .map(|list| (world.request(&support::gateway(), list.iter().copied().map(hold).collect()), settlement(&world, list)))
        .collect();
    let cpu = || (worker.cpu_s(), family_cpu_s(world.postgres.pid()), world.nats.cpu_s());
    let (before, began) = (cpu(), Instant::now());
    let world_ref = &world;
    let ended: usize = futures::stream::iter(&requests)
        .map(|(hold, settle)| async move {
            assert_eq!(done(&world_ref.ask_with(hold).await), hold.commands.b.len());
            done(&world_ref.ask_with(settle).await)
        })
        .buffer_unordered(in_flight)
        .fold(0, |sum, n| async move { sum + n })
        .await;
    let answered = began.elapsed().as_secs_f64();
    world.projected().await;
    let (all, after) = (began.elapsed().as_secs_f64(), cpu());
    assert_eq!(ended as u64, jobs);
    let thousands = jobs as f64 / 1000.0;
    println!(
        "{jobs} jobs, {per_request} a request, {in_flight} in flight: {:.0} facts/s answered, {:.0} facts/s projected; CPU s per 1,000 jobs: ledger {:.3}, Postgres {:.3}, hub {:.3}",
        2.0 * jobs as f64 / answered,
        2.0 * jobs as f64 / all,
        (after.0 - before.0) / thousands,
        (after.1 - before.1) / thousands,
        (after.2 - before.2) / thousands,
    );
    let began = Instant::now();
    let (ok, report) = world.verify();
    println!("verify of {} facts: {:.1} s, ok {ok}", report["facts"], began.elapsed().as_secs_f64());
}
