//! Attempts are counted once, whoever holds the job.

use std::collections::BTreeSet;

use bus_schemas::job::JobState;
use bus_schemas::receipt::{Failure, FailureClass};
use bus_schemas::stream;

use crate::network::device::{OnAssign, Script};
use crate::network::{Network, timings, until};
use crate::{ECHO, ended_attempts};

fn failing() -> Script {
    let failure = Failure { class: FailureClass::ExecutionError, message: "out of paper".into(), retryable: true };
    Script::echo().that(OnAssign::Fail(failure))
}

#[tokio::test]
async fn four_in_all_whoever_dies_after_each() {
    let network = Network::start().await;
    let device = network.device(1, failing()).await;
    let job = network.admit_one("a", ECHO).await;
    let ended = async || ended_attempts(&network, job).await.into_iter().map(|ended| ended.attempt).collect::<BTreeSet<_>>().len();
    for tried in 1..=3 {
        let mut scheduler = network.scheduler();
        until("one more failure", async || (ended().await >= tried).then_some(())).await;
        scheduler.signal("KILL");
        scheduler.ended().await;
    }
    let _last = network.scheduler();
    let end = network.end_of(job).await;
    let problem = end.problem.unwrap().detail;
    assert_eq!((end.state, device.assigned().len()), (JobState::Failed, 4), "{problem}");
    assert!(problem.starts_with("4 attempts failed: ExecutionError"), "{problem}");
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (0, 1));
}

/// A failure that a scheduler took with it to its grave is heard again, for its device is told only once it is counted.
#[tokio::test]
async fn what_was_heard_but_not_counted_is_heard_again() {
    let network = Network::start().await;
    let device = network.device(1, failing()).await;
    let job = network.admit_one("a", ECHO).await;
    for _ in 1..=2 {
        assert!(!network.crashing_scheduler("after_attempt_ended").ended().await.success());
    }
    assert_eq!((device.assigned().len(), device.closed().len()), (1, 0));
    let _last = network.scheduler();
    assert_eq!(network.end_of(job).await.state, JobState::Failed);
    assert_eq!(device.assigned().len(), 4);
}

/// The record of a failure says nothing about what was assigned after it.
#[tokio::test]
async fn what_is_assigned_after_a_failure_is_not_assigned_again() {
    let network = Network::start().await;
    let device = network.device(1, failing()).await;
    let mut first = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    until("a failure", async || (!ended_attempts(&network, job).await.is_empty()).then_some(())).await;
    device.script(|script| script.on_assign = OnAssign::Keep);
    until("an attempt that lasts", async || device.closed().len().checked_add(1).filter(|next| device.assigned().len() == *next)).await;
    tokio::time::sleep(timings().heartbeat / 4).await;
    let before = device.assigned().len();
    first.signal("KILL");
    first.ended().await;
    let second = network.scheduler();
    until("it to be taken over", async || second.says("taken over").then_some(())).await;
    assert_eq!(device.assigned().len(), before, "it went on where it was");
}

#[tokio::test]
async fn a_job_that_succeeds_writes_no_record() {
    let network = Network::start().await;
    let _device = network.device(1, Script::echo()).await;
    let _scheduler = network.scheduler();
    network.admit_one("a", ECHO).await;
    network.jobs_are_gone().await;
    assert_eq!(network.bus.stream_end(stream::BACK).await.unwrap().messages, 0);
}

/// A failure that was counted, whose device was not told any more, is shown by the device again: it is the same one.
#[tokio::test]
async fn what_was_counted_is_not_counted_again() {
    let network = Network::start().await;
    let device = network.device(1, failing()).await;
    let job = network.admit_one("a", ECHO).await;
    for _ in 1..=2 {
        assert!(!network.crashing_scheduler("after_count").ended().await.success());
    }
    assert_eq!((device.assigned().len(), device.closed().len()), (1, 0));
    let _last = network.scheduler();
    let end = network.end_of(job).await;
    let problem = end.problem.unwrap().detail;
    assert_eq!((end.state, device.assigned().len()), (JobState::Failed, 4), "{problem}");
    assert!(problem.starts_with("4 attempts failed: ExecutionError"), "{problem}");
}
