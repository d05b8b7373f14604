//! What devices say while a job runs, to a scheduler on a real nats-server: what is dropped goes on at once, what cannot be is refused
//! by name and changes nothing.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // The scripted peers, too, may stop at the first surprise.

mod network;

use std::time::Instant;

use bus_schemas::envelope::encode;
use bus_schemas::event::{Checkpoint, EventKind, Progress};
use bus_schemas::history::{HistoryEvent, Transition};
use bus_schemas::holding::{Holding, HoldingAsk, HoldingPhase};
use bus_schemas::job::JobState;
use bus_schemas::limits::ATTEMPTS_MAX;
use bus_schemas::offer::Decline;
use bus_schemas::receipt::{Failure, FailureClass, Outcome};
use bus_schemas::{AttemptId, Batch, JobId, Verifier, subject};
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

/// What the holder of a job says of it.
async fn holding(network: &Network, job: JobId) -> Option<Holding> {
    let ask = encode(&HoldingAsk { job });
    let answer = network.bus.ask_bytes(subject::HOLDING.into(), ask.into(), timings().heartbeat).await.ok()?;
    let told = Batch::decode(&answer).unwrap().verify::<Holding>(&mut Verifier::default()).unwrap();
    told.into_iter().next().map(bus_schemas::Verified::into_body)
}

#[tokio::test]
async fn the_holder_tells_what_a_job_waits_for_and_what_is_not_written_yet() {
    let network = Network::start().await;
    let device = network.device(1, Script { start_in_ms: 600_000, ..keeps().that(OnAssign::Decline(Decline::Paused)) }).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", TEN).await;
    let told = |what: &'static str, wanted: fn(&Holding) -> bool| {
        let network = &network;
        async move { until(what, async || holding(network, job).await.filter(wanted)).await }
    };
    // A no is told, and no attempt is used up by it.
    let no = told("three refusals", |told| told.declined >= 3).await;
    assert_eq!(no.attempts_used, 0);
    let refused = |change: &Transition| change.cause.contains("declined: ");
    assert!(no.unwritten.iter().any(refused) && no.unwritten.len() <= Holding::UNWRITTEN_MAX, "{:?}", no.unwritten);

    // In a queue: for what it waits, and how long.
    device.script(|script| script.on_assign = OnAssign::Queue);
    let waits =
        told("its place", |told| told.current.as_ref().is_some_and(|on| on.queued.is_some_and(|queued| queued.ahead == Some(0)))).await;
    let (on, silence) = (waits.current.unwrap(), u64::try_from(timings().silence.as_millis()).unwrap());
    let queued = on.queued.unwrap();
    assert_eq!((waits.phase, on.started_at, waits.attempts_used), (HoldingPhase::Running, None, 0));
    assert!(on.number > ATTEMPTS_MAX.min(3), "{on:?}: each offer has its number");
    let starts_in = queued.starts_at.expect("it knows the bid") - on.assigned_at;
    // Its own clock and the hub's are read one after the other.
    assert!((599_900..=600_100).contains(&starts_in), "{starts_in}");
    assert!(queued.late_at.unwrap() >= on.assigned_at + 600_000 + silence + on.timeout_ms - 100, "{queued:?}");
    assert_eq!(queued.gives_up_at, waits.gives_up_at);
    let gone_in = on.gone_at.expect("silence counts").saturating_sub(waits.at);
    assert!(!on.unheard && gone_in <= silence && gone_in + on.silent_ms + 100 >= silence, "{gone_in} {on:?}");

    // Begun: nothing is written of it yet, or it is.
    device.tells(job, on.attempt, EventKind::Started, device.signer()).await;
    let runs = told("its start", |told| told.current.as_ref().is_some_and(|on| on.started_at.is_some())).await;
    let written: Vec<Transition> = network.history(job).await.into_iter().flat_map(|record| record.transitions).collect();
    for to in [JobState::Assigned, JobState::Executing] {
        assert!(runs.unwritten.iter().chain(&written).any(|change| change.to == to), "{to}: {:?} {written:?}", runs.unwritten);
    }
    assert_eq!(runs.current.and_then(|on| on.queued), None);
    device.finish(completed).await;
    assert_eq!(network.end_of(job).await.state, JobState::Completed);
}
