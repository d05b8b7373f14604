//! With the stolen login of a part that runs in CONTROL: it may do its own work, and no more.

use std::path::PathBuf;
use std::time::Duration;

use bus::Bus;
use bus::connect::Login;
use bus_schemas::subject;
use e2e::{books, doors};
use serde_json::json;
use testkit::Peer;

use crate::must;
use crate::stage::{Outcome, Stage};

const GROUP: &str = "workers";
const ROLES: [&str; 5] = ["gateway", "scheduler", "ledger", "revoker", "operator"];

pub async fn attacks(stage: &mut Stage) {
    let done = consumers(stage).await;
    stage.row(GROUP, "a push consumer, stream, mirror or republish that writes into LEDGER, with each role", done).await;
    let done = stored(stage).await;
    stage.row(GROUP, "bytes stored in LEDGER through a reply subject, with each role", done).await;
}

fn creds(stage: &Stage, role: &str) -> PathBuf {
    stage.stack.path("/data_dir").join(format!("network/creds/{role}.creds"))
}

async fn consumers(stage: &Stage) -> Outcome {
    let before = stage.shape().await;
    let mut tried = 0;
    for role in ROLES {
        let mut peer = Peer::client(&stage.rogue.hub, Some(&creds(stage, role)), &json!({})).await.map_err(|error| error.to_string())?;
        let inbox = format!("_INBOX.{role}.evil");
        peer.subscribe(&inbox, None).await;
        for stream in ["JOBS", "SUBMIT", "HISTORY", "RECEIPTS", "EVENTS", "BIDS", "LEDGER", "BLOBS", "DLQ", "KV_devices"] {
            let consumer = json!({"stream_name": stream, "action": "create", "config": {
                "name": "evil", "durable_name": "evil", "deliver_subject": subject::LEDGER_FACTS, "ack_policy": "none", "deliver_policy": "all"}});
            let update =
                json!({"name": stream, "subjects": [subject::LEDGER_FACTS], "republish": {"src": ">", "dest": subject::LEDGER_FACTS}});
            for (call, body) in [
                (format!("CONSUMER.CREATE.{stream}"), &consumer),
                (format!("CONSUMER.CREATE.{stream}.evil"), &consumer),
                (format!("CONSUMER.CREATE.{stream}.evil.mesh.v1.>"), &consumer),
                (format!("CONSUMER.DURABLE.CREATE.{stream}.evil"), &consumer),
                (format!("STREAM.UPDATE.{stream}"), &update),
                (format!("STREAM.PURGE.{stream}"), &update),
                (format!("STREAM.MSG.DELETE.{stream}"), &update),
                (format!("STREAM.SNAPSHOT.{stream}"), &json!({"deliver_subject": subject::LEDGER_FACTS})),
            ] {
                peer.publish(&format!("$JS.API.{call}"), Some(&inbox), b"", body.to_string().as_bytes()).await;
                tried += 1;
            }
        }
        let mirror = json!({"name": "EVIL", "sources": [{"name": "JOBS"}], "republish": {"src": ">", "dest": subject::LEDGER_FACTS}});
        peer.publish("$JS.API.STREAM.CREATE.EVIL", Some(&inbox), b"", mirror.to_string().as_bytes()).await;
        peer.settle().await;
        must!(peer.heard.is_empty(), "{role} was answered: {:?}", peer.heard.first());
        must!(peer.errors.len() >= 80, "{role} was refused {} times only", peer.errors.len());
    }
    must!(before == stage.shape().await, "streams or consumers changed");
    Ok(format!("{tried} calls with {} roles, each refused by the server", ROLES.len()))
}

async fn stored(stage: &Stage) -> Outcome {
    let hub = &stage.rogue.hub;
    let auditor = stage.stack.auditor().await;
    let foreign_before = books::replay_with_foreign(&stage.stack, &auditor).await.foreign.len();
    let balance_before = balance_of_all(stage, &auditor).await;
    let mut asked = 0;
    for role in ["gateway", "scheduler", "ledger", "revoker", "operator"] {
        let bus: Bus = stage.stack.connect(hub, Login::Creds(creds(stage, role)), &format!("_INBOX.{role}")).await;
        // A genuine fact again, a message of the part's own, an answer of JetStream's.
        for (call, body) in [
            ("$JS.API.DIRECT.GET.LEDGER", json!({"seq": 2})),
            ("$JS.API.DIRECT.GET.HISTORY", json!({"seq": 1})),
            ("$JS.API.DIRECT.GET.KV_devices", json!({"seq": 1})),
            ("$JS.API.STREAM.INFO.LEDGER", json!({})),
        ] {
            let _ = bus.client.publish_with_reply(call, subject::LEDGER_FACTS, body.to_string().into()).await;
            asked += 1;
        }
        bus.client.flush().await.map_err(|error| error.to_string())?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    doors::http(&stage.stack, &doors::echo("the books go on"), "attack-books").await;
    let after = books::replay_with_foreign(&stage.stack, &auditor).await;
    let foreign = after.foreign.len() - foreign_before;
    must!(foreign > 0, "nothing was stored: this row shows nothing");
    let credits = balance_of_all(stage, &auditor).await;
    must!(credits == balance_before, "the sum of the books was {balance_before} and is {credits}");
    Ok(format!("{asked} questions; {foreign} foreign messages lie in LEDGER, none counts, the writer goes on and the books balance"))
}

/// What all accounts together have: nothing, for what one has another owes. And minted is what members were given.
async fn balance_of_all(stage: &Stage, auditor: &Bus) -> i64 {
    let replayed = books::replay_with_foreign(&stage.stack, auditor).await;
    replayed.books.balances().values().sum()
}
