//! One kind must not starve another, although its devices serve it: slowly.

use std::time::Duration;

use crate::many::latencies;
use crate::network::device::{OnAssign, Script, completed};
use crate::network::{Network, setting, timings, until};

const SLOW: &str = r#"{"kind":"embed","text":"x"}"#;

#[tokio::test]
async fn many_jobs_of_a_slow_kind_stop_nobody() {
    let many: usize = setting("MESH_TEST_WAITING", 3_000);
    let network = Network::start().await;
    let _quick = network.device(1, Script::echo()).await;
    let slow = network.device(2, Script { kinds: vec!["embed".into()], ..Script::echo().that(OnAssign::Keep) }).await;
    let scheduler = network.scheduler_with(&[("MESH_JOBS_MAX", "512")]);
    let mut results = network.results().await;
    let before = latencies(&network, &mut results, "before").await;
    let keys: Vec<String> = (0..many).map(|n| format!("s{n}")).collect();
    let jobs = network.admit(&keys, SLOW).await;
    until("the slow device to be full", async || (slow.assigned().len() == 64).then_some(())).await;
    // Behind all of them in the stream.
    let behind = latencies(&network, &mut results, "behind").await;
    tokio::time::sleep(timings().wait_again[0] * 2).await;
    let with = latencies(&network, &mut results, "with").await;
    println!(
        "{many} of a slow kind wait: a quick one p50 {:?} worst {:?}, right behind them {:?} worst {:?}, without them {:?} worst {:?}; {} MiB",
        with[10],
        with[20],
        behind[10],
        behind[20],
        before[10],
        before[20],
        scheduler.rss_mib(),
    );
    assert!(with[10] < before[10] * 4 + Duration::from_millis(200), "{with:?}, without them {before:?}");
    assert!(behind[20] < timings().heartbeat * 4, "{behind:?}");
    assert_eq!(slow.assigned().len(), 64);
    // The kind becomes quick: all are served, each once.
    slow.script(|script| script.on_assign = OnAssign::Echo);
    slow.finish(completed).await;
    network.jobs_are_gone().await;
    assert_eq!((network.books.closed(), slow.assigned().len()), ((63 + many as u64, 0), jobs.len()));
}
