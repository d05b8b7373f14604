//! A scheduler that stood still for longer than its lease, and then goes on.

use bus::async_nats::jetstream::consumer::PullConsumer;
use bus_schemas::job::{Class, JobState};
use bus_schemas::stream;

use crate::network::device::{OnAssign, Script, completed};
use crate::network::{Network, next, result_text, timings, until};
use crate::{ECHO, ends};

#[tokio::test]
async fn a_frozen_scheduler_that_wakes_up_does_no_harm() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    let frozen = network.scheduler();
    let mut results = network.results().await;
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let jobs = network.admit(&keys, ECHO).await;
    until("the device to have them", async || (device.assigned().len() == 20).then_some(())).await;
    frozen.signal("STOP");
    let other = network.scheduler();
    until("the other to have them", async || (other.log.lock().unwrap().matches("taken over").count() == 20).then_some(())).await;
    // Half of them end while it is frozen, half when both are there.
    let (first, second) = jobs.split_at(10);
    device.finish_some(first, completed).await;
    for _ in first {
        assert!(first.contains(&result_text(&next(&mut results).await).0));
    }
    frozen.signal("CONT");
    until("it to let go", async || frozen.says("letting go").then_some(())).await;
    device.finish_some(second, completed).await;
    network.jobs_are_gone().await;
    tokio::time::sleep(timings().heartbeat).await;
    assert_eq!((network.books.closed(), device.assigned().len()), ((20, 0), 20), "settled once, run once");
    for job in &jobs {
        assert_eq!(ends(&network, *job).await, [JobState::Completed]);
    }
    assert!(frozen.says("this process stood still"), "{}", frozen.log.lock().unwrap());
    // And it works like any other afterwards.
    drop(other);
    device.script(|script| script.on_assign = OnAssign::Echo);
    let job = network.admit_one("after", ECHO).await;
    assert_eq!(network.end_of(job).await.state, JobState::Completed);
}

/// Nobody else can have had what was delivered while it slept: it goes on at once, and does not wait until those leases are over.
#[tokio::test]
async fn the_only_scheduler_goes_on_as_soon_as_it_wakes() {
    let network = Network::start().await;
    let device = network.device(1, Script::echo().that(OnAssign::Keep)).await;
    let frozen = network.scheduler();
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let jobs = network.admit(&keys, ECHO).await;
    until("the device to have them", async || (device.assigned().len() == 20).then_some(())).await;
    frozen.signal("STOP");
    let streams = bus::async_nats::jetstream::new(network.bus.client.clone()).get_stream(stream::JOBS).await.unwrap();
    let mut consumer: PullConsumer = streams.get_consumer(stream::jobs_consumer(Class::Normal)).await.unwrap();
    // All have been delivered again, to a process that stands still.
    until("all to be delivered again", async || (consumer.info().await.unwrap().num_redelivered == 20).then_some(())).await;
    frozen.signal("CONT");
    let woke = std::time::Instant::now();
    let taken_over = || frozen.log.lock().unwrap().matches("taken over").count();
    until("it to have them again", async || (taken_over() == 20).then_some(())).await;
    let took = woke.elapsed();
    println!("20 jobs in hand again {took:?} after the scheduler woke, ack_wait {:?}", timings().ack_wait);
    assert!(took < timings().ack_wait / 2, "{took:?}: {}", frozen.log.lock().unwrap());
    device.finish(completed).await;
    network.jobs_are_gone().await;
    assert_eq!((network.books.closed(), device.assigned().len()), ((20, 0), 20), "settled once, run once");
    for job in &jobs {
        assert_eq!(ends(&network, *job).await, [JobState::Completed]);
    }
}

/// Nothing of it was assigned yet: the other one auctions it, and the frozen one's auction comes to nothing.
#[tokio::test]
async fn a_scheduler_frozen_in_an_auction_assigns_nothing_when_it_wakes() {
    let network = Network::start().await;
    let device = network.device(1, Script { on_offer: crate::network::device::OnOffer::Ignore, ..Script::echo() }).await;
    let frozen = network.scheduler();
    let job = network.admit_one("a", ECHO).await;
    until("an offer", async || (device.offers() > 0).then_some(())).await;
    frozen.signal("STOP");
    device.script(|script| script.on_offer = crate::network::device::OnOffer::Bid);
    let _other = network.scheduler();
    assert_eq!(network.end_of(job).await.state, JobState::Completed);
    frozen.signal("CONT");
    until("it to let go", async || frozen.says("letting go").then_some(())).await;
    network.jobs_are_gone().await;
    tokio::time::sleep(timings().heartbeat).await;
    assert_eq!((network.books.closed(), device.assigned().len()), ((1, 0), 1));
    assert_eq!(ends(&network, job).await, [JobState::Completed]);
}
