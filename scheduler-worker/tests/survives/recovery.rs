//! What a killed scheduler had in hand goes to another.

use std::time::Instant;

use crate::network::device::{OnAssign, Script, completed};
use crate::network::{Network, next, result_text, setting, timings, until};

const ONE_TEXT: &str = r#"{"kind":"embed","text":"hello"}"#;

/// `MESH_TEST_DIVISOR=1` measures it with the real times, and checks the limit.
#[tokio::test]
async fn a_thousand_jobs_in_flight_are_recovered_and_none_is_run_again() {
    let count: usize = setting("MESH_TEST_IN_FLIGHT", 1_000);
    let network = Network::start().await;
    let mut devices = Vec::new();
    for n in 1..=20 {
        devices.push(network.device(n, Script { kinds: vec!["embed".into()], ..Script::echo().that(OnAssign::Keep) }).await);
    }
    let mut first = network.scheduler();
    let mut results = network.results().await;
    let keys: Vec<String> = (0..count).map(|n| format!("k{n}")).collect();
    let jobs = network.admit(&keys, ONE_TEXT).await;
    let assigned = || devices.iter().map(|device| device.assigned().len()).sum::<usize>();
    until("all to be on devices", async || (assigned() == count).then_some(())).await;
    let second = network.scheduler();
    first.signal("KILL");
    let killed = Instant::now();
    first.ended().await;
    // Half of them end while nobody holds them: their receipts lie there.
    for device in &devices[..10] {
        device.finish(completed).await;
    }
    let limit = timings().ack_wait + timings().heartbeat;
    let says = |text: &str| second.log.lock().unwrap().matches(text).count();
    let mut told = std::collections::BTreeSet::new();
    let ended: usize = devices[..10].iter().map(|device| device.assigned().len()).sum();
    for _ in 0..ended {
        told.insert(result_text(&next(&mut results).await).0);
    }
    let told_after = killed.elapsed();
    until("all to be taken over", async || (says("taken over") == count).then_some(())).await;
    let taken_after = killed.elapsed();
    println!("{count} in flight: {ended} receipts told after {told_after:?}, all taken over after {taken_after:?}; the limit is {limit:?}");
    for device in &devices[10..] {
        device.finish(completed).await;
    }
    for _ in ended..count {
        told.insert(result_text(&next(&mut results).await).0);
    }
    network.jobs_are_gone().await;
    assert_eq!((told.len(), assigned()), (jobs.len(), count), "each told, none run again");
    assert_eq!(network.books.closed(), (count as u64, 0));
    if std::env::var_os("MESH_TEST_DIVISOR").is_some() {
        assert!(taken_after < limit && told_after < limit, "{told_after:?}, {taken_after:?}");
    }
}

/// Asked by the job's new holder, a device sends the receipt and answers; where the receipt is read first, it counts once the answer has come.
#[tokio::test]
async fn a_receipt_that_is_quicker_than_the_devices_answer_is_not_asked_for_again() {
    let network = Network::start().await;
    let device = network.device(1, Script { kinds: vec!["embed".into()], ..Script::echo().that(OnAssign::Keep) }).await;
    let mut first = network.scheduler();
    let mut results = network.results().await;
    let job = network.admit_one("a", ONE_TEXT).await;
    until("an attempt", async || (device.assigned().len() == 1).then_some(())).await;
    first.signal("KILL");
    first.ended().await;
    device.finish(completed).await;
    device.be_hasty();
    let _second = network.scheduler();
    assert_eq!(result_text(&next(&mut results).await).0, job);
    assert_eq!(device.adopts(), 1, "it was asked once");
    network.jobs_are_gone().await;
    assert_eq!((network.books.closed(), device.assigned().len()), ((1, 0), 1));
}
