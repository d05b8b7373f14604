//! The agent dies at each of its named places; after the next start the job ends once, with one result.

use std::collections::BTreeSet;

use agent::crash::POINTS;
use agent::home::Settings;
use bus_schemas::Cid;
use bus_schemas::assignment::{AssignAnswer, Verb};
use bus_schemas::receipt::Outcome;

use crate::hub::{Running, eventually};
use crate::scheduler::{Door, closed};
use crate::{AtWork, at_work, can_embed};

/// How many texts a job has: with 40 the result is a blob, with more than 512 a part of it is kept before.
fn texts(point: &str) -> Vec<String> {
    let count = match point {
        "after_part" => 520,
        "after_upload" => 40,
        _ => 2,
    };
    (0..count).map(|n| format!("boat {n}")).collect()
}

async fn dies_at(point: &str) {
    assert!(POINTS.contains(&point));
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let crash = format!("agent.{point}");
    let AtWork { network: _network, home, hub, mut agent, local, scheduler } =
        at_work(Settings::default(), &[("MESH_CRASH_AT", &crash), ("MESH_TIME_DIVISOR", "10")]).await;
    let _door = Door::open(&hub).await;
    let texts = texts(point);
    let job = scheduler.embed(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let attempt = job.0.attempt();
    // It may die before it answers.
    let answer = scheduler.try_assign(&job).await;
    assert!(matches!(answer, Some(AssignAnswer::Accepted) | None), "{answer:?}");
    if point == "after_closed" {
        agent.until(&local, "the receipt", |status| status.unsettled == 1).await;
        eventually("its place", || async { scheduler.stored_receipts().await.pop() }).await;
        scheduler.say(Verb::Closed { attempts: vec![closed(attempt)] }).await;
    }
    agent.ended().await;

    let mut agent = Running::start(&home, &[("MESH_TIME_DIVISOR", "10")]);
    let local = agent.local().await;
    agent.until(&local, "the link", |status| status.link.up).await;
    if point != "after_closed" {
        // Whoever got no answer asks again, with the same bytes.
        let answer = eventually("an answer", || scheduler.try_assign(&job)).await;
        assert!(matches!(answer, AssignAnswer::Accepted | AssignAnswer::Running | AssignAnswer::Done), "{answer:?}");
    }
    let ended = eventually("the receipt", || async {
        let receipts = scheduler.stored_receipts().await;
        receipts.iter().any(|receipt| receipt.attempt == attempt).then_some(receipts)
    })
    .await;
    scheduler.control(Verb::Closed { attempts: vec![closed(attempt)] }).await;
    agent.until(&local, "nothing left", |status| (status.unsettled, status.waiting, status.running) == (0, 0, 0)).await;
    let results: BTreeSet<Cid> = ended
        .iter()
        .map(|receipt| match &receipt.outcome {
            Outcome::Completed(result) => result.cid,
            Outcome::Failed(_) | Outcome::Cancelled => panic!("{receipt:?}"),
        })
        .collect();
    assert_eq!(results.len(), 1, "one result: {ended:?}");
    assert!(ended.iter().all(|receipt| receipt.attempt == attempt));

    // It is over: nothing is taken up by a third start.
    agent.stop().await;
    let agent = Running::start(&home, &[]);
    let local = agent.local().await;
    let status = agent.until(&local, "the link", |status| status.link.up).await;
    assert_eq!((status.waiting, status.running, status.totals.completed), (0, 0, 0));
}

macro_rules! dies {
    ($($point:ident)*) => {
        $(
            #[tokio::test]
            async fn $point() {
                dies_at(stringify!($point)).await;
            }
        )*
        #[test]
        fn every_place_has_a_test() {
            assert_eq!(POINTS, [$(stringify!($point)),*]);
        }
    };
}
dies! { after_kept after_accept after_start after_part after_upload before_receipt after_signed after_receipt after_closed }
