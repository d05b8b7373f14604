//! SIGTERM: what is here goes back within the deadline, by way of the OUTBOX where the hub is away; nothing is left behind.

use agent::home::Settings;
use bus_schemas::assignment::AssignAnswer;
use bus_schemas::receipt::{FailureClass, Outcome, Receipt};

use crate::hub::{Running, eventually};
use crate::{AtWork, at_work, can_embed};

/// One job runs, two wait; the attempts.
async fn busy(at: &AtWork) -> Vec<bus_schemas::AttemptId> {
    let texts: Vec<String> = (0..3_000).map(|n| format!("sentence number {n} about boats and trees")).collect();
    let many: Vec<&str> = texts.iter().map(String::as_str).collect();
    let jobs = [at.scheduler.embed(&many), at.scheduler.embed(&["a"]), at.scheduler.embed(&["b"])];
    assert_eq!(at.scheduler.assign(&jobs).await, vec![AssignAnswer::Accepted; 3]);
    at.agent.until(&at.local, "one at work", |status| (status.running, status.waiting) == (1, 2)).await;
    jobs.iter().map(|(job, _)| job.attempt()).collect()
}

fn handed_back(receipts: &[Receipt], attempts: &[bus_schemas::AttemptId]) {
    for attempt in attempts {
        let of: Vec<&Receipt> = receipts.iter().filter(|receipt| receipt.attempt == *attempt).collect();
        let Outcome::Failed(failure) = &of[0].outcome else { panic!("{of:?}") };
        assert_eq!((failure.class, failure.retryable), (FailureClass::DeviceDeclined, true));
        assert_eq!(failure.message, "its device was stopped by its owner");
        assert!(of.iter().all(|receipt| receipt.outcome == of[0].outcome), "{of:?}");
    }
}

#[tokio::test]
async fn a_signal_to_stop_hands_everything_back_at_once() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let mut at = at_work(Settings::default(), &[]).await;
    let attempts = busy(&at).await;
    let start = std::time::Instant::now();
    at.agent.stop().await;
    let took = start.elapsed();
    eprintln!("stopped in {took:?}");
    let receipts = at.scheduler.stored_receipts().await;
    assert_eq!(receipts.len(), 3, "all are stored when it has ended: {receipts:?}");
    handed_back(&receipts, &attempts);
    assert_eq!(at.scheduler.heartbeat().await.not_working.as_deref(), Some("stopped"));
    assert!(at.scheduler.heartbeat().await.jobs.is_empty());

    let agent = Running::start(&at.home, &[]);
    let local = agent.local().await;
    let status = agent.until(&local, "the link", |status| status.link.up).await;
    assert_eq!((status.waiting, status.running), (0, 0), "nothing is taken up again");
}

#[tokio::test]
async fn what_is_handed_back_while_the_hub_is_away_gets_there() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let mut at = at_work(Settings::default(), &[]).await;
    let attempts = busy(&at).await;
    at.hub.kill();
    at.agent.until(&at.local, "the loss of the hub", |status| !status.link.up).await;
    at.agent.stop().await;

    let hub = at.network.start_hub().await;
    let scheduler = crate::scheduler::Scheduler::new(&hub, crate::hub::id(&at.home), "s-2").await;
    let agent = Running::start(&at.home, &[]);
    let local = agent.local().await;
    let status = agent.until(&local, "an empty outbox", |status| status.link.up && status.outbox == Some(0)).await;
    assert_eq!((status.waiting, status.running), (0, 0), "nothing is taken up again: {status:?}");
    let receipts = eventually("the receipts", || async {
        let receipts = scheduler.stored_receipts().await;
        attempts.iter().all(|attempt| receipts.iter().any(|receipt| receipt.attempt == *attempt)).then_some(receipts)
    })
    .await;
    handed_back(&receipts, &attempts);
}
