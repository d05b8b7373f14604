//! A device that is cut off goes on: what it ended and what was submitted there wait in its OUTBOX, and all of it arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agent::home::Settings;
use async_nats::jetstream;
use bus_schemas::AttemptId;
use bus_schemas::assignment::AssignAnswer;
use bus_schemas::event::EventKind;
use bus_schemas::receipt::Outcome;
use bus_schemas::subject::header;
use serde_json::json;

use crate::hub::{Hub, Running, eventually, id};
use crate::scheduler::{Assigned, Scheduler};
use crate::{AtWork, at_work, can_embed, echo_only};

const MANY: usize = 1_000;
const FAST: [(&str, &str); 1] = [("MESH_TIME_DIVISOR", "10")];

async fn submit(local: &bus::Bus, text: &str) {
    let job = json!({"kind": "echo", "text": text}).to_string();
    local.store_once("submit".into(), None, job.into(), Duration::from_secs(5)).await.unwrap();
}

/// The keys under which submissions reached the hub, and each one's text.
async fn submissions(hub: &Hub) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut from = 1;
    loop {
        let messages = hub.bus.from_seq("SUBMIT", from, 256).await.unwrap();
        let Some(last) = messages.last() else { return all };
        from = last.seq + 1;
        for message in messages {
            let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            let key = message.headers.get(header::OUTBOX_KEY).unwrap().as_str().to_owned();
            all.push((key, body["text"].as_str().unwrap().to_owned()));
        }
    }
}

/// A thousand receipts and a thousand submissions wait on a device without a hub. The stream of receipts is taken away first, so that
/// the jobs can be assigned while their receipts cannot go.
#[tokio::test]
async fn a_thousand_receipts_and_submissions_arrive_in_the_end() {
    let AtWork { network, home, hub, mut agent, local, scheduler } = at_work(echo_only(), &FAST).await;
    jetstream::new(hub.bus.client.clone()).delete_stream("RECEIPTS").await.unwrap();
    let jobs: Vec<Assigned> = (0..MANY).map(|n| scheduler.echo(&format!("job {n}"), 1)).collect();
    // In small messages: each makes a message of receipts of its own.
    for some in jobs.chunks(4) {
        assert_eq!(scheduler.assign(some).await, vec![AssignAnswer::Accepted; some.len()]);
    }
    let receipts = u64::try_from(MANY / 4).unwrap();
    agent.until(&local, "the receipts to wait", |status| status.outbox.is_some_and(|waiting| waiting >= receipts)).await;
    drop(hub);
    agent.until(&local, "the loss of the hub", |status| !status.link.up).await;
    for n in 0..MANY {
        submit(&local, &format!("submission {n}")).await;
    }
    agent.until(&local, "all to wait", |status| status.outbox.is_some_and(|waiting| waiting >= receipts + MANY as u64)).await;
    // Whatever happens to the agent meanwhile.
    agent.kill();
    let mut agent = Running::start(&home, &FAST);
    let local = agent.local().await;
    // `MESH_TEST_AWAY_S=3600`: an hour of it.
    let away: u64 = std::env::var("MESH_TEST_AWAY_S").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
    tokio::time::sleep(Duration::from_secs(away)).await;

    let start = std::time::Instant::now();
    let hub = network.start_hub().await;
    let scheduler = Scheduler::new(&hub, id(&home), "s-2").await;
    agent.until(&local, "an empty outbox", |status| status.link.up && status.outbox == Some(0)).await;
    eprintln!("{MANY} submissions and {receipts} messages of receipts got there in {:?}", start.elapsed());

    // Each submission under a key of its own, which is the same however often it is sent: so it is one job.
    let keys: BTreeMap<String, String> = submissions(&hub).await.into_iter().collect();
    assert_eq!(keys.len(), MANY);
    assert_eq!(keys.values().collect::<BTreeSet<_>>().len(), MANY);
    let stored = scheduler.stored_receipts().await;
    let wanted: BTreeSet<AttemptId> = jobs.iter().map(|(job, _)| job.attempt()).collect();
    assert_eq!(stored.iter().map(|receipt| receipt.attempt).collect::<BTreeSet<_>>(), wanted);
    assert!(stored.iter().all(|receipt| matches!(receipt.outcome, Outcome::Completed(_))));
    agent.stop().await;
}

#[tokio::test]
async fn a_wiped_outbox_is_not_taken_for_the_old_one() {
    let AtWork { network: _network, home, hub, mut agent, local, .. } = at_work(echo_only(), &FAST).await;
    for _ in 0..3 {
        submit(&local, "same").await;
    }
    agent.until(&local, "what goes on", |status| status.outbox == Some(0)).await;
    agent.stop().await;
    std::fs::remove_dir_all(home.nats().join("store")).unwrap();

    let mut agent = Running::start(&home, &FAST);
    let local = agent.local().await;
    agent.until(&local, "its streams", |status| status.outbox == Some(0)).await;
    for _ in 0..3 {
        submit(&local, "same").await;
    }
    agent.until(&local, "the link", |status| status.link.up && status.outbox == Some(0)).await;
    let keys: Vec<String> = submissions(&hub).await.into_iter().map(|(key, _)| key).collect();
    assert_eq!((keys.len(), keys.iter().collect::<BTreeSet<_>>().len()), (6, 6), "the places are the same, the keys are not: {keys:?}");
    agent.stop().await;
}

/// What must not be lost of a job while it runs waits as well, in order; a receipt behind it.
#[tokio::test]
async fn what_is_told_of_a_job_arrives_in_order() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let AtWork { network: _network, hub, mut agent, local, scheduler, .. } = at_work(Settings::default(), &FAST).await;
    let context = jetstream::new(hub.bus.client.clone());
    let _door = crate::scheduler::Door::open(&hub).await;
    // The hub takes no events for a while.
    let config = context.get_stream("EVENTS").await.unwrap().cached_info().config.clone();
    context.delete_stream("EVENTS").await.unwrap();
    let texts: Vec<String> = (0..1_800).map(|n| format!("boat {n}")).collect();
    let job = scheduler.embed(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(scheduler.assign(std::slice::from_ref(&job)).await, [AssignAnswer::Accepted]);
    agent.until(&local, "three parts to wait", |status| status.outbox == Some(3)).await;
    context.create_stream(config).await.unwrap();
    agent.until(&local, "an empty outbox", |status| status.outbox == Some(0)).await;
    let kept: Vec<u32> = scheduler
        .events()
        .await
        .iter()
        .filter_map(|event| match &event.what {
            EventKind::Checkpoint(checkpoint) => Some(checkpoint.units),
            EventKind::Started | EventKind::Progress(_) | EventKind::Dropped { .. } => None,
        })
        .collect();
    assert_eq!(kept, [512, 1024, 1536]);
    eventually("the receipt", || async { scheduler.stored_receipts().await.pop() }).await;
    agent.stop().await;
}
