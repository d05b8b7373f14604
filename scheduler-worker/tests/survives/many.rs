//! One kind must not starve another.

use std::time::{Duration, Instant};

use bus_schemas::job::JobState;
use bus_schemas::ledger::{HoldState, VoidReason};

use crate::ECHO;
use crate::network::device::Script;
use crate::network::{HUNG, Network, next, result_text, setting, timings, until};

const NOBODY: &str = r#"{"kind":"embed","text":"x"}"#;

/// From admission to the told result, sorted.
pub async fn latencies(network: &Network, results: &mut bus::async_nats::Subscriber, prefix: &str) -> Vec<Duration> {
    let mut all = Vec::new();
    for n in 0..21 {
        let start = Instant::now();
        let job = network.admit_one(&format!("{prefix}{n}"), ECHO).await;
        assert_eq!(result_text(&next(results).await).0, job);
        all.push(start.elapsed());
    }
    all.sort_unstable();
    all
}

/// `MESH_TEST_WAITING=50000 MESH_TEST_EXPIRE_MS=150000` for the full measure.
#[tokio::test]
async fn jobs_that_nobody_serves_stop_nobody() {
    let (waiting, expire_ms): (usize, u64) = (setting("MESH_TEST_WAITING", 6_000), setting("MESH_TEST_EXPIRE_MS", 6_000));
    let network = Network::start().await;
    let device = network.device(1, Script::echo()).await;
    let jobs_max = if waiting > 10_000 { "8192" } else { "1024" };
    let scheduler = network.scheduler_with(&[("MESH_JOBS_MAX", jobs_max)]);
    let mut results = network.results().await;
    let before = latencies(&network, &mut results, "before").await;

    let keys = |what: &str| (0..waiting / 3).map(|n| format!("{what}{n}")).collect::<Vec<String>>();
    let start = Instant::now();
    let to_cancel = network.admit(&keys("c"), NOBODY).await;
    let expiring = format!(r#"{{"kind":"embed","text":"x","max_execution_wait_ms":{expire_ms}}}"#);
    let to_expire = network.admit(&keys("e"), &expiring).await;
    let to_serve = network.admit(&keys("s"), NOBODY).await;
    let admitted = start.elapsed();
    let behind = latencies(&network, &mut results, "behind").await;
    // Each was looked at once they have all been given their first pause.
    tokio::time::sleep(timings().wait_again[0]).await;
    let (cpu, hub_cpu, since) = (scheduler.cpu_s(), network.nats.cpu_s(), Instant::now());
    tokio::time::sleep(timings().wait_again[0]).await;
    let seconds = since.elapsed().as_secs_f64();
    let (cpu, hub_cpu) = ((scheduler.cpu_s() - cpu) / seconds, (network.nats.cpu_s() - hub_cpu) / seconds);
    let with = latencies(&network, &mut results, "with").await;
    println!(
        "{waiting} wait (admitted in {admitted:?}): a served job p50 {:?} worst {:?}, right behind them {:?}, without them {:?} worst {:?}; \
         while they wait: scheduler {cpu:.2} CPU and {} MiB, hub {hub_cpu:.2} CPU",
        with[10],
        with[20],
        behind[0],
        before[10],
        before[20],
        scheduler.rss_mib(),
    );
    assert!(with[10] < before[10] * 4 + Duration::from_millis(500), "{with:?}, without them {before:?}");
    assert_eq!(device.assigned().len(), 63);
    let all_wait = to_cancel.len() as u64 * 3;
    until("all others to be acked", async || (network.bus.stream_end("JOBS").await.unwrap().messages == all_wait).then_some(())).await;

    let start = Instant::now();
    for some in to_cancel.chunks(256) {
        futures::future::join_all(some.iter().map(|job| network.cancel(*job))).await;
    }
    let hung = Instant::now() + HUNG + Duration::from_millis(expire_ms);
    let all = |jobs: &[bus_schemas::JobId], reason| jobs.iter().all(|job| network.books.of(*job) == HoldState::Voided { reason });
    let ended = async |jobs, reason| {
        while !all(jobs, reason) {
            assert!(Instant::now() < hung, "hung: {} JOBS", network.bus.stream_end("JOBS").await.unwrap().messages);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        println!("{reason:?} after {:?}", start.elapsed());
    };
    ended(&to_expire, VoidReason::NotPlaced).await;
    let served_from = Instant::now();
    device.script(|script| script.kinds.push("embed".into()));
    for _ in &to_serve {
        next(&mut results).await;
    }
    println!("served, once a device served them, after {:?}", served_from.elapsed());
    ended(&to_cancel, VoidReason::Cancelled).await;
    until("JOBS to be empty", async || (network.bus.stream_end("JOBS").await.unwrap().messages == 0).then_some(())).await;
    assert_eq!(network.books.closed(), (63 + to_serve.len() as u64, 2 * to_serve.len() as u64));
    assert_eq!(network.end_of(to_cancel[0]).await.state, JobState::Cancelled);
}
