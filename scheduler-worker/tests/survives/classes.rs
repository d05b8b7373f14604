//! Each way an attempt can fail has its rule: what it counts, how long the job backs off, and who is left out.

use bus_schemas::event::EventKind;
use bus_schemas::history::{AttemptEnded, Verdict};
use bus_schemas::job::{Class, JobState};
use bus_schemas::limits::BACKOFF_MS;
use bus_schemas::receipt::{Failure, FailureClass, Outcome};
use bus_schemas::{Code, JobId};

use bus_schemas::offer::Decline;

use crate::network::device::{OnAssign, OnOffer, Script, completed};
use crate::network::{Network, next, result_text, timings, until};
use crate::{ECHO, ended_attempts};

/// Keeps what it is given; longer than this job may take.
const SHORT: &str = r#"{"kind":"echo","text":"hello","timeout_ms":300}"#;

fn failure(class: FailureClass, retryable: bool) -> Failure {
    Failure { class, message: "so it is".into(), retryable }
}
fn bad_luck(message: &str) -> Failure {
    Failure { class: FailureClass::ExecutionError, message: message.into(), retryable: true }
}

/// One job on a device that fails it in some way, beside one that does not; how it went on from there.
async fn goes_on_elsewhere(class: FailureClass, body: &str, on_assign: OnAssign) -> (AttemptEnded, u64) {
    let network = Network::start().await;
    let bad = network.device(1, Script::echo().that(on_assign)).await;
    let good = network.device(2, Script { on_offer: OnOffer::No(Decline::Paused), ..Script::echo() }).await;
    let _scheduler = network.scheduler();
    let mut results = network.results().await;
    let job = network.admit_one("a", body).await;
    let attempt = until("the attempt", async || bad.assigned().first().copied()).await;
    // By then the scheduler knows the other one, too.
    tokio::time::sleep(timings().heartbeat * 2).await;
    good.script(|script| script.on_offer = OnOffer::Bid);
    match class {
        FailureClass::DeviceDisconnect => bad.die(),
        FailureClass::DeviceDeclined => {
            bad.tells(job, attempt, EventKind::Dropped { reason: "its owner is back".into() }, bad.signer()).await;
        }
        FailureClass::Timeout | FailureClass::ExecutionError => {}
    }
    assert_eq!(result_text(&next(&mut results).await).0, job);
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.attempts, end.device), (JobState::Completed, 2, Some(good.id)), "{class:?}");
    network.jobs_are_gone().await;
    assert_eq!(
        (network.books.closed(), bad.assigned().len(), good.assigned().len()),
        ((1, 0), 1, 1),
        "{class:?}: the failing one is avoided"
    );
    let [one] = <[_; 1]>::try_from(ended_attempts(&network, job).await).unwrap();
    assert_eq!((one.failure.class, one.device, one.number), (class, bad.id, 1));
    let considered = end.decision.clone().unwrap().considered;
    let left_out: Vec<_> = considered.into_iter().filter(|one| one.device == bad.id).map(|one| one.verdict).collect();
    let did = if class == FailureClass::DeviceDeclined { "handed this job back" } else { "failed this job" };
    match class {
        // It is out because nothing is heard of it.
        FailureClass::DeviceDisconnect => assert!(matches!(&left_out[..], [Verdict::Out { .. }]), "{left_out:?}"),
        _ => assert_eq!(left_out, [Verdict::Out { reasons: vec![format!("it {did} before: attempt 1, {}", class.name())] }]),
    }
    let again = end.done.unwrap().assignment_proof.unwrap();
    let assigned = again.verify::<bus_schemas::assignment::Assignment>(&mut bus_schemas::Verifier::default()).unwrap().into_body();
    let ended_at = network.history(job).await.into_iter().find(|r| matches!(r.what, bus_schemas::history::HistoryEvent::AttemptEnded(_)));
    let after = assigned.assigned_at.saturating_sub(ended_at.unwrap().at);
    (one, after)
}

#[tokio::test]
async fn every_class_goes_on_elsewhere() {
    let (gone, after) = goes_on_elsewhere(FailureClass::DeviceDisconnect, ECHO, OnAssign::Keep).await;
    assert!(gone.failure.message.starts_with("the device was not heard of for") && after >= 249, "{gone:?} {after} ms");
    let (late, after) = goes_on_elsewhere(FailureClass::Timeout, SHORT, OnAssign::Keep).await;
    assert!(late.failure.message == "no result within 300 ms of its start" && after >= 249, "{late:?} {after} ms");
    let (no, after) = goes_on_elsewhere(FailureClass::DeviceDeclined, ECHO, OnAssign::Keep).await;
    assert!(no.failure.message == "its owner is back" && after < 250, "made good at once: {no:?} {after} ms");
}

#[tokio::test]
async fn four_attempts_with_their_back_offs_then_a_dead_letter() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Fail(bad_luck("out of paper")))).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.attempts), (JobState::Failed, 4));
    let said = end.problem.unwrap();
    assert!(said.code == Code::JobFailed && said.detail.starts_with("4 attempts failed: "), "{said:?}");
    assert_eq!(said.detail.matches("out of paper").count(), 4, "the whole history: {said:?}");
    let attempts: Vec<(u64, AttemptEnded)> = network
        .history(job)
        .await
        .into_iter()
        .filter_map(|record| match record.what {
            bus_schemas::history::HistoryEvent::AttemptEnded(ended) => Some((record.at, *ended)),
            _ => None,
        })
        .collect();
    for (pair, least) in attempts.windows(2).zip(BACKOFF_MS) {
        let between = pair[1].1.assigned_at.saturating_sub(pair[0].0);
        assert!(between >= least, "{between} ms instead of {least}");
    }
    network.jobs_are_gone().await;
    let end = network.bus.stream_end("DLQ").await.unwrap();
    assert_eq!((network.books.closed(), end.messages, device.assigned().len()), ((0, 1), 1, 4));
}

#[tokio::test]
async fn what_cannot_work_is_not_tried_again_and_a_no_counts_nothing() {
    let network = Network::start().await;
    let hopeless = OnAssign::Fail(failure(FailureClass::ExecutionError, false));
    let device = network.device(1, Script::echo().that(hopeless)).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    assert_eq!((network.end_of(job).await.attempts, network.books.closed()), (1, (0, 1)));
    // Six times no, and then it runs: none of them was an attempt that failed.
    device.script(|script| script.on_assign = OnAssign::Keep);
    let job: JobId = network.admit_one("b", ECHO).await;
    for n in 2..8 {
        let attempt = until("one more attempt", async || device.assigned().get(n - 1).copied()).await;
        if n == 7 {
            break;
        }
        device.tells(job, attempt, EventKind::Dropped { reason: "not now".into() }, device.signer()).await;
    }
    device.finish(completed).await;
    let end = network.end_of(job).await;
    assert_eq!(end.state, JobState::Completed, "{end:?}");
    assert!(ended_attempts(&network, job).await.iter().all(|one| one.failure.class == FailureClass::DeviceDeclined));
}

#[tokio::test]
async fn higher_classes_go_first() {
    let network = Network::start().await;
    let _scheduler = network.scheduler();
    let mut results = network.results().await;
    let keys = |what: &str| (0..20).map(|n| format!("{what}{n}")).collect::<Vec<String>>();
    let low = network.admit_as(Class::Low, &keys("l"), ECHO).await;
    let normal = network.admit_as(Class::Normal, &keys("n"), ECHO).await;
    let high = network.admit_as(Class::High, &keys("h"), ECHO).await;
    // All have been looked at, and wait.
    for job in [low[19], normal[19], high[19]] {
        until("it to wait", async || (!network.history(job).await.is_empty()).then_some(())).await;
    }
    let _device = network.device(1, Script::echo()).await;
    let mut told = Vec::new();
    for _ in 0..60 {
        told.push(result_text(&next(&mut results).await).0);
    }
    let place = |jobs: &[JobId]| jobs.iter().map(|job| told.iter().position(|one| one == job).unwrap()).collect::<Vec<_>>();
    assert!(place(&high).iter().max() < place(&normal).iter().min(), "{told:?}");
    assert!(place(&normal).iter().max() < place(&low).iter().min(), "{told:?}");
    network.jobs_are_gone().await;
}

#[tokio::test]
async fn a_cancelled_attempt_that_was_finished_all_the_same() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    let attempt = until("the attempt", async || device.assigned().first().copied()).await;
    device.ignore_cancels();
    network.cancel(job).await;
    // Asked again and again until something comes.
    until("two cancels", async || (device.cancelled().len() >= 2).then_some(())).await;
    device.finish(completed).await;
    let end = network.end_of(job).await;
    assert_eq!((end.state, network.books.closed()), (JobState::Completed, (1, 0)), "the work was done, so it is told and paid");
    network.jobs_are_gone().await;
    // Whatever it says later of the same attempt changes nothing.
    device.claims(job, attempt, Outcome::Cancelled, "").await;
    network.cancel(job).await;
    until("the device to be told", async || (device.closed().iter().filter(|closed| closed.attempt == attempt).count() > 1).then_some(()))
        .await;
    assert_eq!(network.books.closed(), (1, 0));
    assert_eq!(crate::ends(&network, job).await, [JobState::Completed]);
}
