//! A job that was paid, and whose scheduler died before it wrote so: it ends as the books say, with the receipt that they name.

use bus_schemas::history::Ended;
use bus_schemas::job::JobState;
use bus_schemas::receipt::{Outcome, Receipt};
use bus_schemas::{Code, JobId, ReceiptId, Verifier};

use crate::network::device::{Device, OnAssign, Script, completed, echo_result};
use crate::network::{Network, until};
use crate::{ECHO, TEN_TEXTS, ends};

/// The one end of a paid job, whoever wrote it, with its receipt.
async fn end(network: &Network, job: JobId, state: JobState) -> (Ended, Receipt) {
    network.jobs_are_gone().await;
    let all = ends(network, job).await;
    assert!(!all.is_empty() && all.iter().all(|one| *one == state), "{all:?}");
    assert_eq!(network.books.closed(), (1, 0), "paid once");
    let end = network.end_of(job).await;
    let done = end.done.clone().expect("a paid job has its receipt");
    let receipt = done.receipt_proof.verify::<Receipt>(&mut Verifier::default()).unwrap();
    assert_eq!((ReceiptId(receipt.cid()), receipt.job, receipt.attempt), (done.receipt, job, done.attempt));
    assert!(done.receipt_seq > 0 && end.device == Some(receipt.device) && end.paid_mmana.is_some(), "{end:?}");
    (end, receipt.into_body())
}

/// A job that was paid, and a scheduler that died before it could say so.
async fn paid_and_not_told() -> (Network, Device, JobId) {
    let network = Network::start().await;
    let device = network.device(1, Script::echo()).await;
    let mut dying = network.crashing_scheduler("after_settle");
    let job = network.admit_one("a", ECHO).await;
    assert!(!dying.ended().await.success());
    (network, device, job)
}

#[tokio::test]
async fn its_device_forgot_the_receipt_and_its_member_cancelled_too_late() {
    let (network, device, job) = paid_and_not_told().await;
    // Another scheduler had told it that all is well: it has nothing any more.
    device.die();
    let device = network.device(1, Script::echo()).await;
    network.cancel(job).await;
    let _healer = network.scheduler();
    let (end, receipt) = end(&network, job, JobState::Completed).await;
    assert_eq!(end.done.unwrap().result.unwrap().into_vec(), echo_result("hello"));
    assert_eq!((receipt.outcome, device.assigned().len(), end.problem), (completed("hello"), 0, None));
}

#[tokio::test]
async fn its_device_is_gone() {
    let (network, device, job) = paid_and_not_told().await;
    device.die();
    let _healer = network.scheduler();
    let (end, _) = end(&network, job, JobState::Completed).await;
    assert!(end.done.unwrap().assignment_proof.is_none(), "only the device had it");
}

#[tokio::test]
async fn its_device_has_all_of_it() {
    let (network, device, job) = paid_and_not_told().await;
    let _healer = network.scheduler();
    let (end, _) = end(&network, job, JobState::Completed).await;
    assert!(end.done.unwrap().assignment_proof.is_some());
    until("the device to be told", async || device.closed().iter().any(|closed| closed.paid_mmana.is_some()).then_some(())).await;
}

#[tokio::test]
async fn it_was_stopped_while_it_ran() {
    let network = Network::start().await;
    let kinds = vec!["embed".to_owned()];
    let device = network.device(1, Script { kinds, ..Script::echo().that(OnAssign::Keep) }).await;
    let mut dying = network.crashing_scheduler("after_settle");
    let job = network.admit_one("a", TEN_TEXTS).await;
    until("an attempt", async || (device.assigned().len() == 1).then_some(())).await;
    network.cancel(job).await;
    assert!(!dying.ended().await.success());
    device.die();
    let _healer = network.scheduler();
    let (end, receipt) = end(&network, job, JobState::Cancelled).await;
    assert_eq!((receipt.outcome, end.problem.unwrap().code), (Outcome::Cancelled, Code::JobCancelled));
}
