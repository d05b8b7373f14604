//! Attempts that end while nobody watches them: they are listed like any other, and counted.

use bus_schemas::job::JobState;
use bus_schemas::receipt::FailureClass;
use bus_schemas::stream;

use crate::network::device::{OnAssign, Script};
use crate::network::{Network, until};
use crate::{ECHO, ended_attempts};

/// A job that a device has for long enough that whoever takes it next knows, and a scheduler that dies.
async fn left_with_a_device() -> (Network, bus_schemas::JobId, crate::network::device::Device) {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    let mut scheduler = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    until("BACK to name the device", async || (network.bus.stream_end(stream::BACK).await.unwrap().messages == 1).then_some(())).await;
    scheduler.signal("KILL");
    scheduler.ended().await;
    (network, job, device)
}

#[tokio::test]
async fn device_and_scheduler_die_together() {
    let (network, job, device) = left_with_a_device().await;
    let first = device.assigned()[0];
    device.die();
    let good = network.device(2, Script::echo()).await;
    let _next = network.scheduler();
    let end = network.end_of(job).await;
    let [left] = <[_; 1]>::try_from(ended_attempts(&network, job).await).unwrap();
    assert_eq!((left.attempt, left.number, left.device, left.failure.class), (first, 1, device.id, FailureClass::DeviceDisconnect));
    assert_eq!(left.failure.message, "its scheduler was gone, and the device was not heard of since");
    assert_eq!((end.state, end.attempts, end.device), (JobState::Completed, 2, Some(good.id)));
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (1, 0));
}

#[tokio::test]
async fn the_device_came_back_without_it() {
    let (network, job, device) = left_with_a_device().await;
    device.die();
    let device = network.device(1, Script::echo()).await;
    let _next = network.scheduler();
    let end = network.end_of(job).await;
    let [left] = <[_; 1]>::try_from(ended_attempts(&network, job).await).unwrap();
    assert_eq!(left.failure.message, "its scheduler was gone, and the device does not have it any more");
    assert_eq!((end.state, end.attempts, device.assigned().len()), (JobState::Completed, 2, 1));
}

/// The number of an attempt says how many there were, not how often the job was delivered.
#[tokio::test]
async fn deliveries_are_no_attempts() {
    let network = Network::start().await;
    let job = network.admit_one("a", ECHO).await;
    for _ in 0..2 {
        let mut scheduler = network.scheduler();
        until("it to wait", async || scheduler.says("the scheduler starts").then_some(())).await;
        scheduler.signal("TERM");
        scheduler.ended().await;
    }
    let _device = network.device(1, Script::echo()).await;
    let _last = network.scheduler();
    let end = network.end_of(job).await;
    assert_eq!((end.state, end.attempts), (JobState::Completed, 1));
    assert!(ended_attempts(&network, job).await.is_empty());
}
