//! A device whose disk is really full: it says so, takes no work, goes on, and heals by itself.

use std::io::Write;
use std::time::Duration;

use bus_schemas::assignment::AssignAnswer;
use bus_schemas::id::Asker;
use bus_schemas::offer::{BidAnswer, Decline};
use bus_schemas::receipt::Outcome;
use bus_schemas::subject::submit;

use crate::echo_only;
use crate::hub::{Network, Running, eventually, free_port, id, small_disks};
use crate::scheduler::Scheduler;

const DISK_MB: u32 = 64;

/// Status and body of `/readyz`.
pub async fn ready(port: u16) -> Option<(bool, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some((answer.starts_with("HTTP/1.1 200"), answer))
}

/// Writes until nothing more goes.
fn fill(agent: &Running) {
    let mut file = std::fs::File::options().create(true).append(true).open(agent.on_its_disk("ballast")).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
fn empty(agent: &Running) {
    std::fs::remove_file(agent.on_its_disk("ballast")).unwrap();
}

#[tokio::test]
async fn a_full_disk_is_said_and_heals() {
    if let Err(why) = small_disks() {
        return eprintln!("skipped: {why}");
    }
    let network = Network::new();
    let home = network.device(echo_only());
    let hub = network.start_hub().await;
    let port = free_port();
    let http = format!("127.0.0.1:{port}");
    let variables = [("MESH_TIME_DIVISOR", "10"), ("MESH_HTTP", http.as_str())];
    let mut agent = Running::start_on_small_disk(&home, DISK_MB, 0, &variables);
    let local = agent.local().await;
    agent.until(&local, "the link", |status| status.link.up && status.not_working.is_none()).await;
    let mut scheduler = Scheduler::new(&hub, id(&home), "s-1").await;
    assert!(ready(port).await.unwrap().0);

    fill(&agent);
    let full = agent.until(&local, "the full disk", |status| status.not_working.is_some()).await;
    let said = "its disk is full: 0 MiB are free where it keeps jobs, it needs 16";
    assert!(full.not_working.as_deref().unwrap().starts_with("its disk is full: 0 MiB are free"), "{full:?}");
    let (is_ready, body) = ready(port).await.unwrap();
    assert!(!is_ready && body.contains(said), "{body}");
    eventually("the schedulers to know", || async { scheduler.heartbeat().await.not_working }).await;
    let no = scheduler.assign(&[scheduler.echo("hi", 1)]).await;
    assert!(matches!(&no[..], [AssignAnswer::Declined(Decline::Resources(why))] if why.contains("disk is full")), "{no:?}");
    assert!(matches!(scheduler.offer(&["echo"]).await[0].answer, BidAnswer::No(Decline::Resources(_))));

    // Nothing can be kept: who submits is told, and the agent goes on.
    let big = bytes::Bytes::from(format!(r#"{{"kind":"echo","text":"{}"}}"#, "x".repeat(5_000)));
    let refused = eventually("a refusal", || {
        let (local, big) = (local.clone(), big.clone());
        async move { local.store_once("submit".into(), None, big, Duration::from_secs(2)).await.err() }
    })
    .await;
    eprintln!("a submission was refused: {refused}");
    assert!(agent.runs());
    assert!(agent.status(&local).await.is_some(), "it still says how it is");

    // Room again: everything is as before, without anybody's help.
    empty(&agent);
    agent.until(&local, "the work to go on", |status| status.not_working.is_none() && status.link.up && status.outbox.is_some()).await;
    assert!(ready(port).await.unwrap().0 && agent.runs());
    eventually("the device behind the link", || async { scheduler.reaches().await.then_some(()) }).await;
    assert_eq!(scheduler.assign(&[scheduler.echo("hi", 1)]).await, [AssignAnswer::Accepted]);
    assert!(matches!(scheduler.receipts().await[0].0.outcome, Outcome::Completed(_)));
    let last = r#"{"kind":"echo","text":"there is room"}"#;
    local.store_once("submit".into(), None, last.into(), Duration::from_secs(5)).await.unwrap();
    eventually("it to reach the hub", || async {
        hub.bus.last_by_subject("SUBMIT", &submit(&Asker::Device(id(&home)))).await.unwrap().filter(|message| message.payload == last)
    })
    .await;
    agent.stop().await;
}

#[tokio::test]
async fn a_device_without_room_waits_with_its_start() {
    if let Err(why) = small_disks() {
        return eprintln!("skipped: {why}");
    }
    let network = Network::new();
    let home = network.device(echo_only());
    let _hub = network.start_hub().await;
    let port = free_port();
    let http = format!("127.0.0.1:{port}");
    let mut agent = Running::start_on_small_disk(&home, DISK_MB, DISK_MB - 4, &[("MESH_TIME_DIVISOR", "10"), ("MESH_HTTP", &http)]);
    let body = eventually("it to say why it waits", || async { ready(port).await.filter(|(is_ready, _)| !is_ready) }).await.1;
    assert!(body.contains("its disk is full: 4 MiB are free where it keeps jobs, it needs 16"), "{body}");
    assert!(agent.runs() && !home.nats_pid().exists(), "no server is started");
    empty(&agent);
    let local = agent.local().await;
    agent.until(&local, "the link", |status| status.link.up && status.not_working.is_none()).await;
    assert!(ready(port).await.unwrap().0);
    agent.stop().await;
}
