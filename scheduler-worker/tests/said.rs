//! What devices say while a job runs, to a scheduler on a real nats-server: what is dropped goes on at once, what cannot be is refused
//! by name and changes nothing.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // The scripted peers, too, may stop at the first surprise.

mod network;

use std::time::Instant;

use bus_schemas::event::{Checkpoint, EventKind, Progress};
use bus_schemas::history::HistoryEvent;
use bus_schemas::job::JobState;
use bus_schemas::receipt::{Failure, FailureClass, Outcome};
use bus_schemas::{AttemptId, subject};
use network::device::{OnAssign, Script, completed};
use network::{Network, cid, member, next, timings, until};

fn keeps() -> Script {
    Script { kinds: vec!["embed".into()], ..Script::echo().that(OnAssign::Keep) }
}
const TEN: &str = r#"{"kind":"embed","text":["0","1","2","3","4","5","6","7","8","9"]}"#;

#[tokio::test]
async fn what_a_device_drops_goes_on_elsewhere_at_once() {
    let network = Network::start().await;
    let quick = || keeps().that(OnAssign::Echo);
    let devices = [network.device(1, quick()).await, network.device(2, quick()).await];
    let _scheduler = network.scheduler();
    // The scheduler knows both.
    let mut tries = 0;
    until("both to be offered something", async || {
        tries += 1;
        network.admit_one(&format!("before {tries}"), TEN).await;
        devices.iter().all(|device| device.offers() > 0).then_some(())
    })
    .await;
    network.jobs_are_gone().await;
    devices.iter().for_each(|device| device.script(|script| script.on_assign = OnAssign::Keep));
    let before: Vec<usize> = devices.iter().map(|device| device.assigned().len()).collect();
    let job = network.admit_one("a", TEN).await;
    let at = until("an attempt", async || devices.iter().zip(&before).position(|(device, before)| device.assigned().len() > *before)).await;
    let (first, second) = (&devices[at], &devices[1 - at]);
    let attempt = first.assigned()[before[at]];
    let why = "its place in the device's queue went to a newer job";
    let start = Instant::now();
    first.tells(job, attempt, EventKind::Dropped { reason: why.into() }, first.signer()).await;
    until("another attempt", async || second.assigned().get(before[1 - at]).copied()).await;
    let took = start.elapsed();
    eprintln!("dropped, and assigned elsewhere after {took:?}");
    assert!(took < timings().silence, "nobody waited for it to fall silent: {took:?}");
    // Its receipt says the same once more, and changes nothing.
    let failure = Failure { class: FailureClass::DeviceDeclined, message: why.into(), retryable: true };
    first.finish(|_| Outcome::Failed(failure.clone())).await;
    until("it to be closed there", async || first.closed().iter().any(|closed| closed.attempt == attempt).then_some(())).await;
    second.finish(completed).await;
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.attempts, end.device), (JobState::Completed, 2, Some(second.id)));
    let ended: Vec<Failure> = network
        .history(job)
        .await
        .into_iter()
        .filter_map(|record| match record.what {
            HistoryEvent::AttemptEnded(ended) => Some(ended.failure),
            _ => None,
        })
        .collect();
    assert_eq!(ended, [failure], "one end, with the reason");
    assert_eq!(network.books.closed(), (tries + 1, 0));
}

#[tokio::test]
async fn progress_that_cannot_be_is_refused_by_name() {
    let network = Network::start().await;
    let device = network.device(1, keeps()).await;
    let scheduler = network.scheduler();
    let watch = subject::watch_jobs(&member().public().member_id(), "progress");
    let mut told = network.bus.client.subscribe(watch).await.unwrap();
    let job = network.admit_one("a", TEN).await;
    let attempt = until("an attempt", async || device.assigned().first().copied()).await;
    let other = network.admit_one("b", TEN).await;
    let theirs = until("another job's attempt", async || device.assigned().get(1).copied()).await;
    let tell = async |attempt: AttemptId, basis_points: u32| {
        let progress = Progress { basis_points, stage: "embedding".into(), ..Progress::default() };
        device.tells(job, attempt, EventKind::Progress(progress), device.signer()).await;
    };
    for (attempt, basis_points) in
        [(attempt, 5_000), (attempt, 4_999), (attempt, 10_001), (attempt, u32::MAX), (theirs, 5_500), (attempt, 6_000)]
    {
        tell(attempt, basis_points).await;
    }
    for expected in [5_000, 6_000] {
        let progress: Progress = serde_json::from_slice(&next(&mut told).await.payload).unwrap();
        assert_eq!(progress.basis_points, expected);
    }
    for refusal in ["49.99 % after 50.00 %: it goes backwards", "100.01 % are more than the whole", "42949672.95 % are more"] {
        until(refusal, async || scheduler.says(refusal).then_some(())).await;
    }
    // A checkpoint of another job's attempt, and one of an attempt that never was.
    let checkpoint = Checkpoint { cid: cid(b"part"), bytes: 7, units: 3 };
    device.tells(job, theirs, EventKind::Checkpoint(checkpoint), device.signer()).await;
    device.tells(other, AttemptId(cid(b"none")), EventKind::Checkpoint(checkpoint), device.signer()).await;
    until("its refusal", async || scheduler.says("it is of no attempt of this job on this device").then_some(())).await;
    device.finish(completed).await;
    for job in [job, other] {
        assert_eq!(network.end_of(job).await.state, JobState::Completed);
    }
}
