//! The owner's consent file, changed while the device works: the next offer and the next assignment go by it, and so does the queue.

use std::path::Path;
use std::time::Instant;

use agent::home::Settings;
use bus_schemas::assignment::AssignAnswer;
use bus_schemas::offer::{BidAnswer, Decline};
use bus_schemas::receipt::{FailureClass, Outcome, Receipt};
use serde_json::json;

use crate::hub::{Running, eventually, scheduler_key};
use crate::scheduler::{Assigned, Scheduler};
use crate::{at_work, can_embed, echo_only};

fn says(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}
fn no(what: &str) -> Decline {
    Decline::NotAllowed(what.into())
}

#[tokio::test]
async fn the_next_offer_goes_by_what_its_owner_has_just_written() {
    let mut at = at_work(echo_only(), &[]).await;
    let file = at.home.consent_toml();
    let member = scheduler_key().public().member_id();
    let group = format!("[allow]\ngroups = [\"lab\"]\n[groups]\nlab = [\"{member}\"]\n");
    let unreadable = "what its owner consents to cannot be read";
    assert!(matches!(at.scheduler.offer(&["echo"]).await[0].answer, BidAnswer::Bid(_)), "no file: all is allowed");
    for (nth, (text, declined)) in [
        ("[allow]\nmembers = [\"me\"]\n", Some(format!("jobs of {member}"))),
        ("[deny]\nkinds = [\"echo\"]\n", Some("kind echo".to_owned())),
        ("[allow]\ndata_classes = [\"public\"]\n", Some("data class internal".to_owned())),
        (&group, None),
        ("[allow]\nkinds = [\"ecco\"]\n", Some(unreadable.to_owned())),
        ("[allow]\nkinds = [\"echo\"]\n", None),
    ]
    .into_iter()
    .enumerate()
    {
        // Nothing between the change and the offer: the file itself counts.
        says(&file, text);
        let bid = at.scheduler.offer(&["echo"]).await.remove(0).answer;
        let answer = at.scheduler.assign(&[at.scheduler.echo(&format!("job {nth}"), 1)]).await.remove(0);
        match declined.as_deref().map(no) {
            Some(declined) => assert_eq!((bid, answer), (BidAnswer::No(declined.clone()), AssignAnswer::Declined(declined)), "{text}"),
            None => {
                assert!(matches!(bid, BidAnswer::Bid(_)), "{text}: {bid:?}");
                assert_eq!(answer, AssignAnswer::Accepted, "{text}");
            }
        }
    }

    // Without an offer it is seen as well, and told: to its owner with the line, to others without the folder.
    says(&file, "[allow]\nkinds = [\"ecco\"]\n");
    let status = at.agent.until(&at.local, "what is wrong", |status| status.not_working.is_some()).await;
    let why = status.not_working.unwrap();
    assert!(why.contains("consent.toml: line 2: \"ecco\" is no kind of job"), "{why}");
    let beat = eventually("a heartbeat", || async { Some(at.scheduler.heartbeat().await).filter(|beat| beat.not_working.is_some()) }).await;
    assert_eq!(beat.not_working, Some(no(unreadable).to_string()));
    let (start, before) = (Instant::now(), beat.consent_at);
    says(&file, "[deny]\nkinds = [\"echo\"]\n");
    let status = at.agent.until(&at.local, "the change", |status| status.kinds.is_empty()).await;
    println!("seen {:?} after it was written", start.elapsed());
    assert!(status.not_offered.contains(&"echo: not allowed by consent.toml".to_owned()), "{:?}", status.not_offered);
    let other = |beat: &bus_schemas::heartbeat::Heartbeat| beat.consent_at != before && beat.kinds.is_empty() && beat.not_working.is_none();
    eventually("a heartbeat that says so", || async { Some(at.scheduler.heartbeat().await).filter(other) }).await;
}

fn long(scheduler: &Scheduler, name: &str) -> Assigned {
    let words = "a b c d e f g h i j k l m n o p q r s t u v w x y z ".repeat(9);
    let texts: Vec<String> = (0..500).map(|n| format!("{name} {n} {words}")).collect();
    scheduler.of(name, &json!({"kind": "embed", "text": texts}))
}
fn handed_back(receipt: &Receipt) -> &str {
    let Outcome::Failed(failure) = &receipt.outcome else { panic!("{receipt:?}") };
    assert_eq!((failure.class, failure.retryable), (FailureClass::DeviceDeclined, true));
    &failure.message
}

#[tokio::test]
async fn what_waits_goes_back_and_what_runs_goes_as_its_owner_says() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let mut at = at_work(Settings::default(), &[]).await;
    let file = at.home.consent_toml();
    let runs = long(&at.scheduler, "runs");
    let waits = at.scheduler.of("waits", &json!({"kind": "embed", "text": ["a"], "data_class": "confidential"}));
    let stays = at.scheduler.of("stays", &json!({"kind": "embed", "text": ["b"]}));
    assert_eq!(at.scheduler.assign(std::slice::from_ref(&runs)).await, [AssignAnswer::Accepted]);
    assert_eq!(at.scheduler.assign(&[waits.clone(), stays.clone()]).await, vec![AssignAnswer::Accepted; 2]);
    at.agent.until(&at.local, "one at work", |status| (status.running, status.waiting) == (1, 2)).await;

    says(&file, "[allow]\ndata_classes = [\"public\", \"internal\"]\n");
    let (receipt, _) = at.scheduler.receipts().await.remove(0);
    assert_eq!(receipt.attempt, waits.0.attempt());
    assert_eq!(handed_back(&receipt), no("data class confidential").to_string());
    let status = at.agent.until(&at.local, "the rest", |status| status.waiting == 1).await;
    assert_eq!(status.running, 1, "what runs ends here");

    // After a crash all that it had waits; what its owner has written meanwhile counts.
    at.agent.kill();
    says(&file, "[deny]\nkinds = [\"embed\"]\n");
    at.agent = Running::start(&at.home, &[]);
    at.local = at.agent.local().await;
    let mut back = Vec::new();
    while back.len() < 2 {
        back.extend(at.scheduler.receipts().await.into_iter().map(|(receipt, _)| receipt));
    }
    back.retain(|receipt| receipt.attempt != waits.0.attempt());
    assert!(back.iter().all(|receipt| handed_back(receipt) == no("kind embed").to_string()), "{back:?}");

    // And what runs goes too, where its owner wants it so.
    says(&file, "");
    let again = long(&at.scheduler, "again");
    eventually("it to be taken", || async {
        (at.scheduler.assign(std::slice::from_ref(&again)).await == [AssignAnswer::Accepted]).then_some(())
    })
    .await;
    at.agent.until(&at.local, "it at work", |status| status.running == 1).await;
    says(&file, "stop_running = true\n[deny]\nkinds = [\"embed\"]\n");
    loop {
        let (receipt, _) = at.scheduler.receipts().await.remove(0);
        if receipt.attempt == again.0.attempt() {
            assert_eq!(handed_back(&receipt), no("kind embed").to_string());
            break;
        }
    }
    at.agent.until(&at.local, "nothing at work", |status| status.running == 0).await;
}
