//! The scheduler as a program on a real nats-server; gateway, ledger and devices are scripted peers.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // The scripted peers, too, may stop at the first surprise.

mod network;

use std::time::{Duration, Instant};

use bus_schemas::api::BlobInfo;
use bus_schemas::event::{Checkpoint, EventKind};
use bus_schemas::history::HistoryEvent;
use bus_schemas::job::JobState;
use bus_schemas::ledger::{HoldState, VoidReason};
use bus_schemas::offer::Decline;
use bus_schemas::receipt::{Failure, FailureClass, ResultRef};
use bus_schemas::{AttemptId, Code, JobId, MilliMana, Signer, stream, subject};
use network::device::{OnAssign, OnOffer, Script, completed};
use network::{HUNG, Network, cid, gateway, member, next, result_text, until};

const ECHO: &str = r#"{"kind":"echo","text":"hello"}"#;

#[tokio::test]
async fn a_job_is_matched_told_settled_and_acked() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo()).await;
    let _scheduler = network.scheduler();
    let mut results = network.results().await;
    let jobs = network.admit(&["a".into(), "b".into(), "c".into()], ECHO).await;
    for _ in &jobs {
        let message = next(&mut results).await;
        let (id, text) = result_text(&message);
        assert!(jobs.contains(&id) && text == "hello");
        let headers = message.headers.unwrap();
        assert!(headers.get(subject::header::JOB_KEY).is_some() && headers.get(subject::header::ASKER).is_some());
    }
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (3, 0));
    let end = network.end_of(jobs[0]).await;
    assert_eq!((end.state, end.attempts, end.device), (JobState::Completed, 1, Some(device.id)));
    let done = end.done.unwrap();
    assert!(done.receipt_seq > 0 && done.result.is_some());
    assert!(end.decision.unwrap().why.starts_with("d1 was the only one to bid"));
    until("the device to be told", async || (device.closed().len() == 3).then_some(())).await;
    assert!(device.closed().iter().all(|closed| closed.paid_mmana.is_some()));
}

#[tokio::test]
async fn a_definite_no_lets_the_next_bid_win() {
    let network = Network::start().await;
    let first = network.device(1, Script::echo().that(OnAssign::Decline(Decline::Paused))).await;
    let second = network.device(2, Script { start_in_ms: 30, ..Script::echo() }).await;
    let _scheduler = network.scheduler();
    let mut results = network.results().await;
    let job = network.admit_one("a", ECHO).await;
    assert_eq!(result_text(&next(&mut results).await).0, job);
    let end = network.end_of(job).await;
    assert_eq!(end.device, Some(second.id));
    // Where both were known at the auction, the first one won it and said no.
    let why = end.decision.unwrap().why;
    assert!(why.contains("d1 won but declined (paused by its owner)") || first.offers() == 0, "{why}");
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (1, 0));
}

#[tokio::test]
async fn a_silent_device_loses_its_job_to_another() {
    let network = Network::start().await;
    let first = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    let scheduler = network.scheduler();
    let mut results = network.results().await;
    let job = network.admit_one("a", ECHO).await;
    until("the first device to have it", async || (first.assigned().len() == 1).then_some(())).await;
    let second = network.device(2, Script::echo()).await;
    first.die();
    assert_eq!(result_text(&next(&mut results).await).0, job);
    let end = network.end_of(job).await;
    assert_eq!((end.device, end.attempts), (Some(second.id), 2), "{}", scheduler.log.lock().unwrap());
    let failures: Vec<FailureClass> = network
        .history(job)
        .await
        .into_iter()
        .filter_map(|record| match record.what {
            HistoryEvent::AttemptEnded(ended) => Some(ended.failure.class),
            _ => None,
        })
        .collect();
    assert_eq!(failures, [FailureClass::DeviceDisconnect]);
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (1, 0));
}

#[tokio::test]
async fn another_scheduler_adopts_what_a_device_has() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    let mut first = network.scheduler();
    let mut results = network.results().await;
    let job = network.admit_one("a", ECHO).await;
    until("the device to have it", async || (device.assigned().len() == 1).then_some(())).await;
    // What lasts stands in HISTORY with its auction, so that its reason outlives who decided.
    let assigned = until("the assignment to be recorded", async || {
        network.history(job).await.into_iter().find_map(|record| match record.what {
            HistoryEvent::Assigned(assigned) => Some(assigned),
            _ => None,
        })
    })
    .await;
    assert_eq!((assigned.device, assigned.decision.winner, assigned.number), (device.id, Some(device.id), 1));
    first.signal("KILL");
    first.ended().await;
    let second = network.scheduler();
    until("the job to be taken over", async || second.says("taken over").then_some(())).await;
    device.finish(completed).await;
    assert_eq!(result_text(&next(&mut results).await), (job, "hello".into()));
    network.jobs_are_gone().await;
    assert_eq!((network.books.closed(), device.assigned().len()), ((1, 0), 1), "the same attempt");
    assert_eq!(network.end_of(job).await.device, Some(device.id));
}

#[tokio::test]
async fn a_stopped_scheduler_gives_back_and_another_goes_on() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    let mut first = network.scheduler();
    let mut results = network.results().await;
    let waiting = network.admit_one("w", r#"{"kind":"embed","text":"x"}"#).await;
    let job = network.admit_one("a", ECHO).await;
    until("the device to have it", async || (device.assigned().len() == 1).then_some(())).await;
    let second = network.scheduler();
    first.signal("TERM");
    assert!(first.ended().await.success());
    until("the job to be taken over", async || second.says("taken over").then_some(())).await;
    device.finish(completed).await;
    assert_eq!(result_text(&next(&mut results).await).0, job);
    device.script(|script| script.kinds.push("embed".into()));
    device.script(|script| script.on_assign = OnAssign::Echo);
    assert_eq!(result_text(&next(&mut results).await).0, waiting);
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (2, 0));
}

#[tokio::test]
async fn a_job_that_nothing_fits_waits_with_its_reasons() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo()).await;
    let _scheduler = network.scheduler();
    let mut results = network.results().await;
    let job = network.admit_one("a", r#"{"kind":"embed","text":"x"}"#).await;
    let why = until("a reason", async || {
        network.history(job).await.into_iter().find_map(|record| match record.what {
            HistoryEvent::Waiting { decision, .. } if decision.why.contains("embed") => Some(decision.why),
            _ => None,
        })
    })
    .await;
    assert!(why.contains("0 of 1 devices fit") && why.contains("kind embed is not offered"), "{why}");
    device.script(|script| script.kinds.push("embed".into()));
    assert_eq!(result_text(&next(&mut results).await).0, job);
    network.jobs_are_gone().await;
}

#[tokio::test]
async fn a_job_that_waits_too_long_fails() {
    let network = Network::start().await;
    let _device = network.device(1, Script::echo()).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", r#"{"kind":"embed","text":"x","max_execution_wait_ms":500}"#).await;
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.problem.unwrap().code), (JobState::Failed, Code::NothingFits));
    network.jobs_are_gone().await;
    assert_eq!(network.books.of(job), HoldState::Voided { reason: VoidReason::NotPlaced });
}

#[tokio::test]
async fn cancelled_before_and_while_it_runs() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    let _scheduler = network.scheduler();
    let waiting = network.admit_one("w", r#"{"kind":"embed","text":"x"}"#).await;
    let running = network.admit_one("a", ECHO).await;
    until("the device to have it", async || (device.assigned().len() == 1).then_some(())).await;
    network.cancel(waiting).await;
    let end = network.end_of(waiting).await;
    assert_eq!((end.state, end.problem.unwrap().code), (JobState::Cancelled, Code::JobCancelled));
    assert_eq!(network.books.of(waiting), HoldState::Voided { reason: VoidReason::Cancelled });
    network.cancel(running).await;
    let end = network.end_of(running).await;
    assert_eq!((end.state, end.paid_mmana.is_some()), (JobState::Cancelled, true), "the time used is paid");
    assert_eq!(device.cancelled(), device.assigned());
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (1, 1));
}

#[tokio::test]
async fn a_job_that_cannot_work_fails_at_once_and_one_that_may_is_tried_four_times() {
    let network = Network::start().await;
    let failure = |retryable| Failure { class: FailureClass::ExecutionError, message: "out of paper".into(), retryable };
    let device = network.device(1, Script::echo().that(OnAssign::Fail(failure(false)))).await;
    let _scheduler = network.scheduler();
    let hopeless = network.admit_one("a", ECHO).await;
    let end = network.end_of(hopeless).await;
    assert_eq!((end.state, end.attempts), (JobState::Failed, 1));
    assert!(end.problem.unwrap().detail.contains("out of paper"));
    device.script(|script| script.on_assign = OnAssign::Fail(failure(true)));
    let job: JobId = network.admit_one("b", ECHO).await;
    let start = Instant::now();
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.attempts), (JobState::Failed, 4));
    assert!(start.elapsed() > Duration::from_millis(250 + 500 + 1000), "with its back-offs");
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (0, 2));
    assert_eq!(network.bus.stream_end("DLQ").await.unwrap().messages, 2, "dead letters are kept");
    until("the device to be told", async || (device.closed().len() == 5).then_some(())).await;
    assert!(device.closed().iter().all(|closed| closed.not_paid.as_deref() == Some("out of paper")));
}

#[tokio::test]
async fn a_large_result_is_paid_once_its_member_can_read_it() {
    let network = Network::start().await;
    let blob = ResultRef { cid: cid(b"a large one"), bytes: 300_000 };
    let device = network.device(1, Script::echo().that(OnAssign::Claim(blob.clone()))).await;
    let _scheduler = network.scheduler();
    let mut results = network.results().await;
    let lost = network.admit_one("a", ECHO).await;
    let end = network.end_of(lost).await;
    assert_eq!((end.state, end.attempts), (JobState::Failed, 4), "it says so of each attempt");
    let said = end.problem.unwrap().detail;
    assert!(said.contains(&format!("its result does not count: blob {} was never stored", blob.cid)), "{said}");
    // As the gateway lists it, but another size than the receipt says; then the right one.
    let info = |bytes| serde_json::to_vec(&BlobInfo { bytes, chunks: vec![blob.cid] }).unwrap();
    let listed = stream::blob::info(&blob.cid, &member().public().member_id());
    network.bus.store(listed, None, info(1).into(), HUNG).await.unwrap();
    let small = network.end_of(network.admit_one("b", ECHO).await).await;
    assert_eq!(small.state, JobState::Failed);
    assert!(small.problem.unwrap().detail.contains("has 1 bytes, not 300000"));
    let there = ResultRef { cid: cid(b"another"), bytes: 300_000 };
    let listed = stream::blob::info(&there.cid, &member().public().member_id());
    network.bus.store(listed, None, info(there.bytes).into(), HUNG).await.unwrap();
    device.script(|script| script.on_assign = OnAssign::Claim(there.clone()));
    let good = network.admit_one("c", ECHO).await;
    assert_eq!(network.end_of(good).await.state, JobState::Completed);
    let told: serde_json::Value = serde_json::from_slice(&next(&mut results).await.payload).unwrap();
    assert_eq!(
        (told["id"].as_str(), told["result"]["bytes"].as_u64()),
        (Some(good.to_string().as_str()), Some(there.bytes)),
        "and nothing before"
    );
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (1, 2));
}

#[tokio::test]
async fn the_next_attempt_goes_on_behind_the_last_checkpoint() {
    let network = Network::start().await;
    let script = || Script { kinds: vec!["embed".into()], ..Script::echo().that(OnAssign::Keep) };
    let first = network.device(1, script()).await;
    let scheduler = network.scheduler();
    let mut parts = network.bus.client.subscribe(subject::watch_jobs(&member().public().member_id(), "out")).await.unwrap();
    let job = network.admit_one("a", r#"{"kind":"embed","text":["0","1","2","3","4","5","6","7","8","9"]}"#).await;
    let attempt = until("an attempt", async || first.assigned().first().copied()).await;
    let at = |units: u32| {
        let info = serde_json::to_vec(&BlobInfo { bytes: 7, chunks: vec![] }).unwrap();
        let checkpoint = Checkpoint { cid: cid(&units.to_be_bytes()), bytes: 7, units };
        (checkpoint, stream::blob::info(&checkpoint.cid, &member().public().member_id()), info)
    };
    let stored = async |units| {
        let (checkpoint, listed, info) = at(units);
        network.bus.store(listed, None, info.into(), HUNG).await.unwrap();
        checkpoint
    };
    let tell = async |attempt, checkpoint, by: &Signer| first.tells(job, attempt, EventKind::Checkpoint(checkpoint), by).await;
    // Of what is no checkpoint nobody hears, and nobody goes on behind it.
    let stranger = Signer::from_seed(&[9; 32]);
    tell(attempt, stored(9).await, &stranger).await;
    tell(AttemptId(cid(b"another")), stored(8).await, first.signer()).await;
    tell(attempt, stored(10).await, first.signer()).await;
    tell(attempt, stored(0).await, first.signer()).await;
    tell(attempt, Checkpoint { bytes: u64::MAX, ..at(7).0 }, first.signer()).await;
    tell(attempt, at(6).0, first.signer()).await;
    tell(attempt, stored(4).await, first.signer()).await;
    let told: Checkpoint = serde_json::from_slice(&next(&mut parts).await.payload).unwrap();
    assert_eq!(told, at(4).0);
    tell(attempt, stored(3).await, first.signer()).await;
    for refusal in [
        "10 texts are done, the job has 10",
        "0 texts are done, 0 were before",
        "it has 18446744073709551615 bytes",
        "was never stored",
        "3 texts are done, 4 were before",
    ] {
        until(refusal, async || scheduler.says(refusal).then_some(())).await;
    }
    // The scheduler dies, another one takes the job over, and then its device dies.
    drop(scheduler);
    let other = network.scheduler();
    until("it to be taken over", async || other.says("taken over").then_some(())).await;
    tell(attempt, stored(5).await, first.signer()).await;
    let told: Checkpoint = serde_json::from_slice(&next(&mut parts).await.payload).unwrap();
    assert_eq!(told, at(5).0, "the one that took it over hears of what is kept");
    let second = network.device(2, script()).await;
    first.die();
    until("another attempt", async || second.assigned().first().copied()).await;
    assert_eq!((second.resumed(), second.offered_units().last().copied()), (vec![Some(5)], Some(5)), "five texts are left, and bid for");
    second.finish(completed).await;
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.attempts), (JobState::Completed, 2));
    let kept = network.history(job).await.into_iter().find_map(|record| match record.what {
        HistoryEvent::AttemptEnded(ended) => ended.kept,
        _ => None,
    });
    assert_eq!(kept, Some(at(5).0));
    assert!(futures::FutureExt::now_or_never(futures::StreamExt::next(&mut parts)).is_none(), "nothing else was told as kept");
}

#[tokio::test]
async fn a_full_or_mute_device_does_not_stop_the_others() {
    let network = Network::start().await;
    let _full = network.device(1, Script { on_offer: OnOffer::No(Decline::QueueFull), ..Script::echo() }).await;
    let _mute = network.device(2, Script { on_offer: OnOffer::Ignore, ..Script::echo() }).await;
    let good = network.device(3, Script::echo()).await;
    let _scheduler = network.scheduler();
    let mut results = network.results().await;
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    network.admit(&keys, ECHO).await;
    for _ in 0..100 {
        next(&mut results).await;
    }
    network.jobs_are_gone().await;
    assert_eq!((network.books.closed(), good.assigned().len()), ((100, 0), 100));
}

#[tokio::test]
async fn a_crash_at_any_point_is_healed() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo()).await;
    let points =
        ["after_ahead", "after_offer", "after_assign", "after_receipt", "after_tell", "after_settle", "after_history", "before_ack"];
    for (n, point) in points.into_iter().enumerate() {
        let mut dying = network.crashing_scheduler(point);
        if point == "after_ahead" {
            until("the scheduler to listen and to hear of the job", async || {
                network.announce(&gateway(), point, ECHO, |_| ()).await;
                dying.child.try_wait().unwrap()
            })
            .await;
        }
        let job = network.admit_one(point, ECHO).await;
        assert!(!dying.ended().await.success(), "{point}");
        let healer = network.scheduler();
        network.jobs_are_gone().await;
        assert_eq!(network.books.closed(), (n as u64 + 1, 0), "{point}: settled once; {}", healer.log.lock().unwrap());
        let ends: Vec<_> = network.history(job).await.into_iter().filter(|r| matches!(r.what, HistoryEvent::Ended(_))).collect();
        assert!(!ends.is_empty(), "{point}: HISTORY knows the end");
        let end = network.end_of(job).await;
        assert!(end.state == JobState::Completed && end.done.is_some_and(|done| done.result.is_some()), "{point}: with the result");
    }
    until("the device to be told of all", async || (device.closed().len() >= points.len()).then_some(())).await;
}

/// Its offers go out while the hold is asked for; the job finds the bids, and nothing more is offered.
#[tokio::test]
async fn the_auction_of_an_announced_job_has_begun_when_it_comes() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo()).await;
    let scheduler = network.scheduler();
    let mut results = network.results().await;
    // The window is short here, and the announcement must be first: where the job comes too late, it has an auction of its own.
    network.admit_one("first", ECHO).await;
    next(&mut results).await;
    let mut tries = 0..50;
    loop {
        let key = format!("announced-{}", tries.next().expect("none of 50 announced jobs found its auction begun"));
        let before = device.offers();
        network.announce(&gateway(), &key, ECHO, |_| ()).await;
        until("an offer ahead of the job", async || (device.offers() > before).then_some(())).await;
        let job = network.admit_one(&key, ECHO).await;
        assert_eq!(result_text(&next(&mut results).await).0, job);
        network.jobs_are_gone().await;
        let end = network.end_of(job).await;
        assert!(end.decision.unwrap().why.starts_with("d1 was the only one to bid"));
        if device.offers() == before + 1 {
            break;
        }
    }
    // Not the job that was announced: another auction.
    let before = device.offers();
    network.announce(&gateway(), "other", ECHO, |announced| announced.hold_mmana = MilliMana::mana(11)).await;
    until("an offer ahead of the job", async || (device.offers() > before).then_some(())).await;
    let job = network.admit_one("other", ECHO).await;
    assert_eq!(result_text(&next(&mut results).await).0, job);
    network.jobs_are_gone().await;
    assert_eq!(device.offers(), before + 2);
    // One that never comes leaves nothing behind; one that nobody here announced is not offered.
    let (closed, assigned) = (network.books.closed(), device.assigned().len());
    network.announce(&gateway(), "never", ECHO, |_| ()).await;
    until("an offer ahead of the job", async || (device.offers() > before + 2).then_some(())).await;
    network.announce(&Signer::from_seed(&[9; 32]), "stranger", ECHO, |_| ()).await;
    network.announce(&gateway(), "nonsense", "{}", |_| ()).await;
    for why in ["not announced by a gateway of this network", "missing field `kind`"] {
        until("the refusal", async || scheduler.says(why).then_some(())).await;
    }
    let job = network.admit_one("after", ECHO).await;
    assert_eq!(result_text(&next(&mut results).await).0, job);
    network.jobs_are_gone().await;
    assert_eq!((network.books.closed().0, device.offers(), device.assigned().len()), (closed.0 + 1, before + 4, assigned + 1));
    let never = bus_schemas::job::unsigned_job_id(&network::member().public().member_id(), "never", ECHO.as_bytes());
    assert!(network.history(never).await.is_empty());
}

#[tokio::test]
async fn jobs_that_waited_long_are_looked_up_and_run() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo()).await;
    let mut results = network.results().await;
    let keys: Vec<String> = (0..300).map(|n| format!("k{n}")).collect();
    let jobs = network.admit(&keys, ECHO).await;
    network.books.void(jobs[0], VoidReason::Expired);
    tokio::time::sleep(network::timings().look_first + Duration::from_millis(100)).await;
    let _scheduler = network.scheduler();
    for _ in 1..300 {
        next(&mut results).await;
    }
    network.jobs_are_gone().await;
    assert_eq!((network.books.closed(), device.assigned().len()), ((299, 1), 299), "the void one is dropped");
    let end = network.end_of(jobs[0]).await;
    assert_eq!((end.state, end.problem.unwrap().detail.as_str()), (JobState::Failed, "its hold expired"));
}

#[tokio::test]
async fn a_revoked_device_loses_its_jobs_at_once() {
    let network = Network::start().await;
    let first = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    let _scheduler = network.scheduler();
    let mut results = network.results().await;
    let job = network.admit_one("a", ECHO).await;
    until("the first device to have it", async || (first.assigned().len() == 1).then_some(())).await;
    let second = network.device(2, Script::echo()).await;
    network.revoke(1).await;
    assert_eq!(result_text(&next(&mut results).await).0, job);
    assert_eq!(network.end_of(job).await.device, Some(second.id));
    network.jobs_are_gone().await;
}

#[tokio::test]
async fn two_schedulers_share_the_work() {
    let network = Network::start().await;
    let devices = [network.device(1, Script::echo()).await, network.device(2, Script::echo()).await];
    let (_one, _two) = (network.scheduler(), network.scheduler());
    let mut results = network.results().await;
    let keys: Vec<String> = (0..500).map(|n| format!("k{n}")).collect();
    network.admit(&keys, ECHO).await;
    for _ in 0..500 {
        next(&mut results).await;
    }
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (500, 0));
    assert_eq!(devices[0].assigned().len() + devices[1].assigned().len(), 500);
}

#[tokio::test]
async fn nonsense_on_every_subject_stops_nothing() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo()).await;
    let mut scheduler = network.scheduler();
    let mut results = network.results().await;
    network.admit_one("a", ECHO).await;
    next(&mut results).await;
    let (id, stranger) = (device.id, bus_schemas::Signer::from_seed(&[77; 32]).public().device_id());
    for junk in [&b""[..], b"{}", b"\x80", b"\xff\xff\xff", &[0x91; 300]] {
        for subject in [
            format!("mesh.v1.dev.{id}.hb"),
            format!("mesh.v1.dev.{id}.evt.started"),
            format!("mesh.v1.dev.{id}.receipt.any"),
            format!("mesh.v1.dev.{stranger}.receipt.any"),
            format!("mesh.v1.dev.{stranger}.hb"),
            "mesh.v1.cancel.x".to_owned(),
            "mesh.v1.job.high.x".to_owned(),
            "mesh.v1.job.normal.y".to_owned(),
            format!("$KV.devices.{stranger}"),
            format!("$KV.reputation.{id}"),
        ] {
            network.bus.client.publish(subject, junk.to_vec().into()).await.unwrap();
        }
    }
    network.bus.client.flush().await.unwrap();
    network.admit_one("b", ECHO).await;
    next(&mut results).await;
    network.jobs_are_gone().await;
    assert!(scheduler.child.try_wait().unwrap().is_none(), "it lives");
}

/// How much it costs: `cargo test --release -p scheduler-worker --test real_server -- --ignored --nocapture cost`.
#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn cost_of_ten_thousand_jobs() {
    let network = Network::start().await;
    let devices = [network.device(1, Script::echo()).await, network.device(2, Script::echo()).await];
    let scheduler = network.scheduler();
    let mut results = network.results().await;
    network.admit_one("warm", ECHO).await;
    next(&mut results).await;
    let mut alone = Vec::new();
    for n in 0..50 {
        let start = Instant::now();
        network.admit_one(&format!("alone{n}"), ECHO).await;
        next(&mut results).await;
        alone.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    alone.sort();
    const JOBS: usize = 10_000;
    let keys: Vec<String> = (0..JOBS).map(|n| format!("k{n}")).collect();
    let (cpu, start) = (scheduler.cpu_s(), Instant::now());
    let admitting = network.admit(&keys, ECHO);
    let hearing = async {
        for _ in 0..JOBS {
            next(&mut results).await;
        }
        start.elapsed()
    };
    let (_, told) = tokio::join!(admitting, hearing);
    network.jobs_are_gone().await;
    let cpu = (scheduler.cpu_s() - cpu) * 1000.0 / JOBS as f64;
    let (offers, messages) = devices[0].batching();
    println!(
        "{:.0} jobs/s told, {:.0} jobs/s acked; scheduler {cpu:.3} CPU-s per 1000; {:.1} offers a message; shares {} {}; alone p50 {:?} p98 {:?}",
        JOBS as f64 / told.as_secs_f64(),
        JOBS as f64 / start.elapsed().as_secs_f64(),
        offers as f64 / messages.max(1) as f64,
        devices[0].assigned().len(),
        devices[1].assigned().len(),
        alone[25],
        alone[48],
    );
}
