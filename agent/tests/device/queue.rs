//! The device's queue at its limit, on a real leaf: 64 jobs wait and no more, by either rule of its owner; what runs stays; what goes
//! goes back at once, with the reason.

use std::collections::BTreeSet;

use agent::home::Settings;
use agent::work::FullQueue;
use bus_schemas::AttemptId;
use bus_schemas::assignment::{AssignAnswer, Verb};
use bus_schemas::event::EventKind;
use bus_schemas::job::Class;
use bus_schemas::limits::QUEUE_MAX;
use bus_schemas::offer::{BidAnswer, Decline};
use bus_schemas::receipt::{FailureClass, Outcome};
use serde_json::json;

use crate::hub::eventually;
use crate::scheduler::{Assigned, Scheduler};
use crate::{AtWork, at_work, can_embed};

/// A job that runs for as long as one message allows, so that the others wait.
fn long(scheduler: &Scheduler) -> Assigned {
    let words = "a b c d e f g h i j k l m n o p q r s t u v w x y z ".repeat(9);
    let texts: Vec<String> = (0..500).map(|n| format!("{n} {words}")).collect();
    scheduler.embed(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}
fn short(scheduler: &Scheduler, name: &str, priority: &str) -> Assigned {
    scheduler.of(name, &json!({"kind": "embed", "text": [name], "priority": priority}))
}

/// One job runs and 64 wait.
async fn full(at: &AtWork) -> (AttemptId, Vec<Assigned>) {
    let long = long(&at.scheduler);
    assert_eq!(at.scheduler.assign(std::slice::from_ref(&long)).await, [AssignAnswer::Accepted]);
    at.agent.until(&at.local, "the long one at work", |status| (status.running, status.waiting) == (1, 0)).await;
    let waiting: Vec<Assigned> = (0..QUEUE_MAX).map(|n| short(&at.scheduler, &format!("w{n}"), "normal")).collect();
    assert_eq!(at.scheduler.assign(&waiting).await, vec![AssignAnswer::Accepted; QUEUE_MAX]);
    at.agent.until(&at.local, "a full queue", |status| (status.running, status.waiting) == (1, QUEUE_MAX)).await;
    (long.0.attempt(), waiting)
}

/// The jobs that WORK holds: what a restart would take up again.
async fn in_work(at: &AtWork) -> BTreeSet<AttemptId> {
    at.scheduler.control(Verb::Have).await.have.into_iter().map(|held| AttemptId(bus_schemas::Cid::of(&held.assignment.b))).collect()
}

#[tokio::test]
async fn a_full_queue_rejects_the_new() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let mut at = at_work(Settings { full_queue: FullQueue::RejectNew, ..Settings::default() }, &[]).await;
    let (running, waiting) = full(&at).await;
    for priority in ["normal", "high"] {
        let newcomer = short(&at.scheduler, priority, priority);
        assert_eq!(at.scheduler.assign(&[newcomer]).await, [AssignAnswer::Declined(Decline::QueueFull)]);
    }
    let bids = at.scheduler.offer_as(&["embed"], Class::High).await;
    assert_eq!(bids[0].answer, BidAnswer::No(Decline::QueueFull));
    let bids = at.scheduler.offer(&["echo"]).await;
    assert!(matches!(bids[0].answer, BidAnswer::Bid(_)), "what is instant needs no place: {bids:?}");
    let here = in_work(&at).await;
    assert_eq!(here.len(), QUEUE_MAX + 1);
    assert!(here.contains(&running) && waiting.iter().all(|(job, _)| here.contains(&job.attempt())));
    // A place that becomes free is given again.
    at.scheduler.control(Verb::Cancel { attempts: vec![waiting[7].0.attempt()] }).await;
    assert_eq!(at.scheduler.receipts().await[0].0.outcome, Outcome::Cancelled);
    assert_eq!(at.scheduler.assign(&[short(&at.scheduler, "late", "low")]).await, [AssignAnswer::Accepted]);
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let mut at = at_work(Settings { full_queue: FullQueue::DropOldest, ..Settings::default() }, &[]).await;
    let (running, waiting) = full(&at).await;

    // It bids only where a higher class would take the place of a lower one.
    for (class, bids) in [(Class::High, true), (Class::Normal, false), (Class::Low, false)] {
        let answer = at.scheduler.offer_as(&["embed"], class).await.remove(0).answer;
        assert_eq!(matches!(answer, BidAnswer::Bid(_)), bids, "{class:?}: {answer:?}");
    }

    let newcomers: Vec<Assigned> = [("n0", "normal"), ("n1", "high"), ("n2", "low"), ("n3", "normal")]
        .map(|(name, priority)| short(&at.scheduler, name, priority))
        .to_vec();
    let answers = at.scheduler.assign(&newcomers).await;
    let expected = [AssignAnswer::Accepted, AssignAnswer::Accepted, AssignAnswer::Declined(Decline::QueueFull), AssignAnswer::Accepted];
    assert_eq!(answers, expected, "nothing of a higher class goes for the low one");

    // The three oldest went back at once, with the reason; the running one stayed.
    let mut dropped = Vec::new();
    while dropped.len() < 3 {
        dropped.extend(at.scheduler.receipts().await);
    }
    let gone: Vec<AttemptId> = dropped.iter().map(|(receipt, _)| receipt.attempt).collect();
    assert_eq!(gone, waiting[..3].iter().map(|(job, _)| job.attempt()).collect::<Vec<_>>());
    for (receipt, _) in &dropped {
        let Outcome::Failed(failure) = &receipt.outcome else { panic!("{receipt:?}") };
        assert_eq!((failure.class, failure.retryable), (FailureClass::DeviceDeclined, true));
        assert_eq!(failure.message, "its place in the device's queue went to a newer job");
    }
    let told = eventually("the events", || async {
        let events = at.scheduler.events().await;
        let dropped: Vec<AttemptId> =
            events.iter().filter(|event| matches!(event.what, EventKind::Dropped { .. })).map(|event| event.attempt).collect();
        (dropped.len() == 3).then_some(dropped)
    })
    .await;
    assert_eq!(told, gone, "in order");
    let status = at.agent.until(&at.local, "the same state", |status| status.waiting == QUEUE_MAX).await;
    assert_eq!(status.running, 1);
    assert!(in_work(&at).await.contains(&running), "what runs is never dropped");

    // After a restart the dropped ones are not taken up again.
    at.scheduler.control(Verb::Closed { attempts: gone.iter().map(|attempt| crate::scheduler::closed(*attempt)).collect() }).await;
    at.agent.kill();
    at.agent = crate::hub::Running::start(&at.home, &[]);
    at.local = at.agent.local().await;
    let status = at.agent.until(&at.local, "the link", |status| status.link.up).await;
    // The high one goes first, and may be done by now; the next one, which ran before, lasts.
    let left = status.running + status.waiting;
    assert!((QUEUE_MAX..=QUEUE_MAX + 1).contains(&left), "{left}");
    let here = in_work(&at).await;
    assert!(here.contains(&running) && gone.iter().all(|attempt| !here.contains(attempt)));
}

#[tokio::test]
async fn what_has_waited_too_long_leaves_the_queue() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let mut at = at_work(Settings::default(), &[("MESH_TIME_DIVISOR", "10")]).await;
    let patient = short(&at.scheduler, "patient", "normal");
    let hasty = at.scheduler.of("hasty", &json!({"kind": "embed", "text": ["hasty"], "max_execution_wait_ms": 1000}));
    assert_eq!(at.scheduler.assign(&[long(&at.scheduler), patient, hasty.clone()]).await, vec![AssignAnswer::Accepted; 3]);
    let (receipt, _) = at.scheduler.receipts().await.remove(0);
    assert_eq!(receipt.attempt, hasty.0.attempt());
    assert!(receipt.waited_ms >= 900, "{receipt:?}");
    let Outcome::Failed(failure) = &receipt.outcome else { panic!("{receipt:?}") };
    assert_eq!((failure.class, failure.retryable), (FailureClass::DeviceDeclined, true));
    assert!(failure.message.contains("max_execution_wait_ms"), "{failure:?}");
    let status = at.agent.until(&at.local, "the others", |status| status.waiting == 1).await;
    assert_eq!(status.running, 1);
}
