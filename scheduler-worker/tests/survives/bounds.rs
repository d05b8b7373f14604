//! No state lasts for ever, although the device that has the job is there and says so every five seconds.

use bus_schemas::Code;
use bus_schemas::event::EventKind;
use bus_schemas::job::JobState;
use bus_schemas::ledger::{HoldState, VoidReason};
use bus_schemas::limits::STARTED_AFTER_MS;
use bus_schemas::receipt::{Failure, FailureClass};

use crate::network::device::{OnAssign, OnOffer, Script, completed};
use crate::network::{Network, until};
use crate::{ECHO, ended_attempts, ends};

#[tokio::test]
async fn a_device_that_does_not_stop_what_was_cancelled_is_not_waited_for() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    device.ignore_cancels();
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    let attempt = until("the attempt", async || device.assigned().first().copied()).await;
    network.cancel(job).await;
    let end = network.end_of(job).await;
    let problem = end.problem.unwrap();
    assert_eq!((end.state, problem.code), (JobState::Cancelled, Code::JobCancelled));
    assert!(problem.detail.contains("the device did not stop it within"), "{problem:?}");
    assert!(device.cancelled().len() > 1, "asked again before");
    let [ended] = <[_; 1]>::try_from(ended_attempts(&network, job).await).unwrap();
    assert_eq!((ended.attempt, ended.failure.class), (attempt, FailureClass::Timeout));
    network.jobs_are_gone().await;
    assert_eq!(network.books.of(job), HoldState::Voided { reason: VoidReason::Cancelled });
    // What it makes of it later is not paid, and it is told so.
    device.finish(completed).await;
    until("the device to be told", async || device.closed().iter().any(|closed| closed.attempt == attempt).then_some(())).await;
    assert!(device.closed().iter().all(|closed| closed.paid_mmana.is_none()));
    assert_eq!(ends(&network, job).await, [JobState::Cancelled]);
}

#[tokio::test]
async fn what_is_cancelled_in_a_devices_queue_had_not_run() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Queue)).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    until("the attempt", async || device.assigned().first().copied()).await;
    network.cancel(job).await;
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.problem.unwrap().detail.as_str()), (JobState::Cancelled, "cancelled before it ran"));
    // One that had failed before says so.
    let failure = Failure { class: FailureClass::ExecutionError, message: "bad luck".into(), retryable: true };
    device.script(|script| script.on_assign = OnAssign::Fail(failure));
    let job = network.admit_one("b", ECHO).await;
    until("an attempt that failed", async || (!ended_attempts(&network, job).await.is_empty()).then_some(())).await;
    device.script(|script| script.on_offer = OnOffer::Ignore);
    network.cancel(job).await;
    let end = network.end_of(job).await;
    let detail = end.problem.unwrap().detail;
    let said = format!("cancelled; its last attempt ended before: ExecutionError on {}: bad luck", device.id);
    assert_eq!((end.state, detail), (JobState::Cancelled, said));
}

#[tokio::test]
async fn an_attempt_that_ended_says_when_it_began() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Queue)).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    let attempt = until("the attempt", async || device.assigned().first().copied()).await;
    // So long it waits in the device's queue.
    tokio::time::sleep(std::time::Duration::from_millis(STARTED_AFTER_MS + 300)).await;
    device.tells(job, attempt, EventKind::Started, device.signer()).await;
    device.tells(job, attempt, EventKind::Dropped { reason: "its owner is back".into() }, device.signer()).await;
    let [ended] = until("the end of the attempt", async || <[_; 1]>::try_from(ended_attempts(&network, job).await).ok()).await;
    let waited = ended.started_at.expect("it began").saturating_sub(ended.assigned_at);
    assert!((250..5_000).contains(&waited), "{waited} ms");
}

#[tokio::test]
async fn a_job_waits_in_a_devices_queue_no_longer_than_its_member_allows() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Queue)).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", r#"{"kind":"echo","text":"x","max_execution_wait_ms":1000}"#).await;
    let end = network.end_of(job).await;
    let problem = end.problem.unwrap();
    assert_eq!((end.state, problem.code, end.attempts), (JobState::Failed, Code::NothingFits, 1));
    assert_eq!(problem.detail, "Timeout on d1: the device had not begun with it when the job's time to wait was over");
    let [attempt] = ended_attempts(&network, job).await.try_into().expect("its one attempt");
    assert_eq!((attempt.number, attempt.started_at, attempt.failure.class), (1, None, FailureClass::Timeout));
    network.jobs_are_gone().await;
    assert_eq!(network.books.of(job), HoldState::Voided { reason: VoidReason::NotPlaced });
    until("the device to be told", async || (device.cancelled() == device.assigned()).then_some(())).await;
}

#[tokio::test]
async fn what_a_device_drops_after_all_its_waiting_goes_nowhere_else() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Queue)).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", r#"{"kind":"echo","text":"x","max_execution_wait_ms":1000}"#).await;
    let attempt = until("the attempt", async || device.assigned().first().copied()).await;
    let other = network.device(2, Script::echo()).await;
    // The wait itself; the scheduler would end it by itself later.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    device.tells(job, attempt, EventKind::Dropped { reason: "it waited too long".into() }, device.signer()).await;
    let end = network.end_of(job).await;
    let problem = end.problem.unwrap();
    assert_eq!((end.state, problem.code, end.attempts), (JobState::Failed, Code::NothingFits, 1));
    assert_eq!(problem.detail, "DeviceDeclined on d1: it waited too long");
    assert_eq!(network.books.of(job), HoldState::Voided { reason: VoidReason::NotPlaced });
    assert_eq!(other.assigned(), []);
}

#[tokio::test]
async fn what_waits_far_too_long_on_one_device_goes_to_another() {
    let network = Network::start().await;
    let slow = network.device(1, Script::echo().that(OnAssign::Queue)).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", r#"{"kind":"echo","text":"x","timeout_ms":200}"#).await;
    until("the attempt", async || slow.assigned().first().copied()).await;
    let quick = network.device(2, Script::echo()).await;
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.attempts, end.device), (JobState::Completed, 2, Some(quick.id)));
    let [late] = <[_; 1]>::try_from(ended_attempts(&network, job).await).unwrap();
    assert_eq!((late.device, late.failure.class), (slow.id, FailureClass::Timeout));
    assert_eq!(late.failure.message, "the device had not begun with it 200 ms after it was to");
    network.jobs_are_gone().await;
}

#[tokio::test]
async fn a_device_that_never_answers_to_an_assignment_loses_it() {
    let network = Network::start().await;
    let deaf = network.device(1, Script::echo().that(OnAssign::Ignore)).await;
    let _scheduler = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    until("an assignment", async || (deaf.unanswered() > 1).then_some(())).await;
    let good = network.device(2, Script::echo()).await;
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.device), (JobState::Completed, Some(good.id)));
    let [ended] = <[_; 1]>::try_from(ended_attempts(&network, job).await).unwrap();
    assert_eq!((ended.device, ended.failure.class), (deaf.id, FailureClass::DeviceDisconnect));
    assert!(ended.failure.message.starts_with("the device did not answer to the assignment within"), "{ended:?}");
}
