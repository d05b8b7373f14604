//! What the device says when the books do not extend what it remembers of them, or it cannot read what it remembers.

use agent::checkpoint::{Memory, Seen};
use bus_schemas::Code;
use bus_schemas::ledger::Hash32;
use futures::StreamExt;

use crate::echo_only;
use crate::hub::{Network, Running};

const FAST: [(&str, &str); 1] = [("MESH_TIME_DIVISOR", "10")];

#[tokio::test]
async fn a_damaged_memory_of_the_books_is_an_alarm_and_is_kept() {
    let network = Network::new();
    let home = network.device(echo_only());
    let _hub = network.start_hub().await;
    let kept = Memory::of(&home).path(&home.device().unwrap().network);
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    for damaged in ["", "{\"network\":1}", "\u{0}\u{0}"] {
        std::fs::write(&kept, damaged).unwrap();
        let mut agent = Running::start(&home, &FAST);
        let local = agent.local().await;
        let alarm = agent.until(&local, "the alarm", |status| status.alarm.is_some()).await.alarm.unwrap();
        assert_eq!(alarm.code, Code::BadFile);
        assert!(alarm.detail.contains(&kept.display().to_string()), "it names the file: {alarm:?}");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), damaged, "evidence is not written over");
        agent.stop().await;
    }
}

#[tokio::test]
async fn books_that_went_back_are_an_alarm() {
    let network = Network::new();
    let home = network.device(echo_only());
    let hub = network.start_hub().await;
    let document = home.device().unwrap().network;
    let seen = Seen { network: document, seq: 7, message_seq: 8, chain: Hash32([1; 32]), root: Hash32([2; 32]) };
    Memory::of(&home).save(&seen).unwrap();
    // A gateway that shows books without a checkpoint.
    let client = hub.bus.client.clone();
    let mut asked = client.subscribe("mesh.v1.api.*.ledger.checkpoints").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            client.publish(message.reply.unwrap(), r#"{"checkpoints":[],"ledger_seq":3}"#.into()).await.unwrap();
        }
    });
    let agent = Running::start(&home, &FAST);
    let local = agent.local().await;
    let alarm = agent.until(&local, "the alarm", |status| status.alarm.is_some()).await.alarm.unwrap();
    assert_eq!(alarm.code, Code::BooksWrong);
    assert!(alarm.detail.contains("seen one of sequence 7"), "{alarm:?}");
    assert_eq!(Memory::of(&home).load(&document).unwrap(), Some(seen));
}
