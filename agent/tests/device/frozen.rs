//! A device that is stopped in the middle of its work claims no pay for the time in which it did nothing.

use std::time::{Duration, Instant};

use agent::home::Settings;
use bus_schemas::assignment::AssignAnswer;
use bus_schemas::receipt::Outcome;

use crate::{AtWork, at_work, can_embed};

const STOPPED: Duration = Duration::from_secs(4);

#[tokio::test]
async fn time_in_which_it_was_frozen_is_not_claimed() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let AtWork { network: _network, hub, agent, local, mut scheduler, .. } =
        at_work(Settings::default(), &[("MESH_TIME_DIVISOR", "10")]).await;
    let _door = crate::scheduler::Door::open(&hub).await;
    let texts: Vec<String> = (0..500).map(|n| format!("sentence number {n} about boats and trees")).collect();
    let job = scheduler.embed(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let start = Instant::now();
    assert_eq!(scheduler.assign(&[job]).await, [AssignAnswer::Accepted]);
    agent.until(&local, "it at work", |status| status.running == 1).await;
    agent.freeze(STOPPED).await;
    let (receipt, _) = scheduler.receipts().await.remove(0);
    let took = start.elapsed();
    assert!(matches!(receipt.outcome, Outcome::Completed(_)), "{receipt:?}");
    let claimed = Duration::from_millis(receipt.claimed_ms);
    eprintln!("{took:?} from assignment to receipt, {STOPPED:?} of them frozen, {claimed:?} claimed");
    // What it measures of its stop is short by less than one look.
    assert!(claimed + STOPPED <= took + Duration::from_millis(300), "{claimed:?} of {took:?}");
}
