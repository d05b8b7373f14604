//! Mass silence is the bus, not the fleet.

use bus_schemas::Batch;
use bus_schemas::heartbeat::SchedulerHeartbeat;
use bus_schemas::{Verifier, stream};

use crate::network::device::{OnAssign, Script, completed};
use crate::network::{Network, timings, until};
use crate::{ECHO, ended_attempts};

/// A scheduler that starts while most devices are silent holds back like those that were there before.
#[tokio::test]
async fn a_scheduler_that_starts_in_a_mass_silence_holds_back() {
    let network = Network::start().await;
    let mut devices = Vec::new();
    for n in 1..=6 {
        devices.push(network.device(n, Script::echo().that(OnAssign::Keep)).await);
    }
    let mut first = network.scheduler();
    let keys: Vec<String> = (0..60).map(|n| format!("k{n}")).collect();
    tokio::time::sleep(timings().heartbeat * 2).await;
    network.admit(&keys, ECHO).await;
    let assigned = |devices: &[crate::network::device::Device]| devices.iter().map(|device| device.assigned().len()).sum::<usize>();
    until("all to be assigned", async || (assigned(&devices) == 60).then_some(())).await;
    devices.iter().take(5).for_each(|device| device.mute(true));
    first.signal("KILL");
    first.ended().await;
    let second = network.scheduler();
    until("it to be noticed", async || second.says("of 6 devices fell silent at once").then_some(())).await;
    // The jobs have come to it by then, and a second silence has passed.
    tokio::time::sleep(timings().ack_wait + timings().silence).await;
    assert_eq!(assigned(&devices), 60, "nothing was assigned anew: {}", second.log.lock().unwrap());
    devices.iter().for_each(|device| device.mute(false));
    until("all to be taken over", async || (second.log.lock().unwrap().matches("taken over").count() == 60).then_some(())).await;
    for device in &devices {
        device.finish(completed).await;
    }
    network.jobs_are_gone().await;
    assert_eq!((network.books.closed(), assigned(&devices)), ((60, 0), 60));
}

#[tokio::test]
async fn most_devices_silent_at_once_keep_their_jobs() {
    let network = Network::start().await;
    let mut devices = Vec::new();
    for n in 1..=6 {
        devices.push(network.device(n, Script::echo().that(OnAssign::Keep)).await);
    }
    let scheduler = network.scheduler();
    // Each has been heard of, twice.
    until("the scheduler to listen", async || {
        let all = network.bus.multi_last(stream::HEARTBEATS, &["mesh.v1.sched.*.hb"]).await.unwrap();
        (!all.is_empty()).then_some(())
    })
    .await;
    tokio::time::sleep(timings().heartbeat * 2).await;
    let keys: Vec<String> = (0..60).map(|n| format!("k{n}")).collect();
    let jobs = network.admit(&keys, ECHO).await;
    let assigned = |devices: &[crate::network::device::Device]| devices.iter().map(|device| device.assigned().len()).sum::<usize>();
    until("all to be assigned", async || (assigned(&devices) == 60).then_some(())).await;

    // Five of six hear and say nothing; what they have stays with them, and the schedulers say why.
    devices.iter().take(5).for_each(|device| device.mute(true));
    until("it to be noticed", async || scheduler.says("of 6 devices fell silent at once: their jobs stay with them until").then_some(()))
        .await;
    let said = until("the scheduler's heartbeat to say so", async || {
        let all = network.bus.multi_last(stream::HEARTBEATS, &["mesh.v1.sched.*.hb"]).await.unwrap();
        let body = Batch::decode(&all.first()?.payload).unwrap().verify::<SchedulerHeartbeat>(&mut Verifier::default()).unwrap().remove(0);
        body.into_body().holds_back
    })
    .await;
    assert!(said.contains("fell silent at once"), "{said}");
    tokio::time::sleep(timings().silence * 2).await;
    assert_eq!(assigned(&devices), 60, "nothing was assigned anew: {}", scheduler.log.lock().unwrap());

    // They are heard again: nothing was lost, nothing is begun anew, and the next one that dies alone loses its jobs in time.
    devices.iter().for_each(|device| device.mute(false));
    until("it to be over", async || scheduler.says("most devices are heard again").then_some(())).await;
    for job in &jobs {
        assert!(ended_attempts(&network, *job).await.is_empty());
    }
    let dead = devices.pop().unwrap();
    let had = dead.assigned().len();
    dead.die();
    until("what it had to be elsewhere", async || (assigned(&devices) == 60).then_some(())).await;
    assert!(had > 0 && scheduler.says("d6"), "{}", scheduler.log.lock().unwrap());
    for device in &devices {
        device.finish(completed).await;
    }
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (60, 0));
}
