//! The disk of one node of the hub is full, and that of Postgres: what is accepted is done, and all heals by itself once there is room.

use std::time::Duration;

use bus::Bus;
use bus_schemas::JobId;
use bus_schemas::job::unsigned_job_id;
use e2e::chaos::fleet::{POSTGRES_DATA, node_data, verify_rows};
use e2e::{books, doors};
use serde_json::Value;
use testkit::{Disk, Stack, http, until};

/// What one node of the hub holds here is a tenth of it.
const MEGABYTES: u32 = 256;
/// What the streams of a job wait for when a node that leads some of them drops out.
const ELECTION: Duration = Duration::from_secs(30);

/// A stack of one device whose folder lies on a small disk; `None`, and why, where none can be mounted.
fn on_a_small_disk(args: &[&str], folder: &str) -> Option<Stack> {
    if let Err(why) = Disk::possible() {
        println!("skipped: {why}");
        return None;
    }
    let mut stack = Stack::start(args, &[("MESH_TIME_DIVISOR", "10")]);
    stack.stop();
    stack.move_to_disk(folder, MEGABYTES);
    stack.start_again();
    Some(stack)
}

/// Status and answer of a node about itself.
async fn health(monitor: &str, question: &str) -> Option<(u16, String)> {
    let (status, answer) = http::try_send("GET", &format!("{monitor}/healthz{question}"), &[], "").await.ok()?;
    Some((status, String::from_utf8_lossy(&answer).into_owned()))
}

/// Submits one job, repeated until it is taken, and waits for its end; how that is called.
async fn one_job(stack: &Stack, key: &str) -> String {
    let authorization = format!("Bearer {}", stack.token());
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json"), ("idempotency-key", key)];
    let body = doors::echo(key).to_string();
    let id = until("the job to be taken", || async {
        let (status, answer) = http::try_send("POST", &stack.api("/api/v1/jobs"), &headers, body.clone()).await.ok()?;
        let answer: Value = serde_json::from_slice(&answer).ok()?;
        matches!(status, 200 | 202).then(|| answer["id"].as_str().map(str::to_owned))?
    })
    .await;
    end_of(stack, &id.parse().expect("an id")).await
}

/// How a job ended, once it has.
async fn end_of(stack: &Stack, id: &JobId) -> String {
    let (url, authorization) = (stack.api(&format!("/api/v1/jobs/{id}")), format!("Bearer {}", stack.token()));
    until("the job to end", || async {
        let (_, answer) = http::try_send("GET", &url, &[("authorization", &authorization)], "").await.ok()?;
        let answer: Value = serde_json::from_slice(&answer).ok()?;
        answer["state"].as_str().filter(|state| ["Completed", "Failed", "Cancelled"].contains(state)).map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn a_node_without_room_drops_out_and_comes_back() {
    let Some(stack) = on_a_small_disk(&["--agents", "1", "--hub", "3"], &node_data(2)) else { return };
    let disk = stack.disk(&node_data(2)).expect("a disk");
    let monitor = stack.text("/nats/nodes/2/monitor_url");
    assert_eq!(one_job(&stack, "before").await, "Completed");

    disk.fill();
    let mut n = 0;
    let why = loop {
        // It notices when it is to write.
        n += 1;
        assert_eq!(one_job(&stack, &format!("full {n}")).await, "Completed");
        if let Some((status, why)) = health(&monitor, "?js-enabled-only=true").await
            && status != 200
        {
            break why;
        }
    };
    println!("after {n} jobs the node says: {why}");
    let began = std::time::Instant::now();
    for n in 0..20 {
        assert_eq!(one_job(&stack, &format!("without it {n}")).await, "Completed");
    }
    assert!(began.elapsed() < ELECTION, "20 jobs took {:?}", began.elapsed());
    assert_ne!(health(&monitor, "?js-enabled-only=true").await.map(|(status, _)| status), Some(200), "there is still no room");

    disk.free();
    until("the node to have all that it should", || async { (health(&monitor, "").await?.0 == 200).then_some(()) }).await;
    assert_eq!(one_job(&stack, "after").await, "Completed");
}

/// What a server answers when it is asked whether it can work, once it cannot.
async fn not_ready(stack: &Stack, role: &str) -> String {
    let processes = stack.ready["processes"].as_array().cloned().unwrap_or_default();
    let server = processes.iter().find(|process| process["role"] == role).and_then(|process| process["http"].as_str());
    let url = format!("{}/readyz", server.expect("an address"));
    until(&format!("{role} to say that it cannot go on"), || async {
        let (status, answer) = http::try_send("GET", &url, &[], "").await.ok()?;
        (status == 503).then(|| String::from_utf8_lossy(&answer).into_owned())
    })
    .await
}

#[tokio::test]
async fn postgres_without_room_costs_no_job() {
    let Some(stack) = on_a_small_disk(&["--agents", "1"], POSTGRES_DATA) else { return };
    let disk = stack.disk(POSTGRES_DATA).expect("a disk");
    assert_eq!(one_job(&stack, "before").await, "Completed");

    disk.fill();
    // Whatever is taken now is on the hub, and its rows follow.
    let member = stack.member().await;
    let ids: Vec<JobId> = futures::future::join_all((0..200).map(|n| store(&stack, &member, n))).await;
    let why = not_ready(&stack, "ledger").await;
    println!("the ledger-worker says: {why}");
    assert!(why.contains("No space left on device"), "{why}");

    disk.free();
    for id in &ids {
        assert_eq!(end_of(&stack, id).await, "Completed");
    }
    assert_eq!(one_job(&stack, "after").await, "Completed");
    let verified = until("the rows to be those of the stream", || async {
        let (ok, report) = verify_rows(&stack).await;
        ok.then_some(report)
    })
    .await;
    let replayed = books::replay(&stack, &stack.auditor().await).await;
    assert!(ids.iter().all(|id| replayed.settlements(id) == 1) && replayed.open_holds() == 0);
    assert_eq!(verified["digest"], books::hex(&replayed.books.digest()));
}

/// Submits one job over NATS; its id.
async fn store(stack: &Stack, member: &Bus, n: u32) -> JobId {
    let (key, body) = (format!("full {n}"), doors::echo(&format!("full {n}")).to_string());
    doors::store(stack, member, body.clone(), Some(&key)).await;
    unsigned_job_id(&stack.text("/member/id").parse().expect("a member"), &key, body.as_bytes())
}

#[tokio::test]
async fn a_hub_of_one_node_without_room_takes_nothing_and_loses_nothing() {
    let Some(stack) = on_a_small_disk(&["--agents", "1"], "network/store") else { return };
    let disk = stack.disk("network/store").expect("a disk");
    let member = stack.member().await;
    let before = store(&stack, &member, 0).await;
    assert_eq!(end_of(&stack, &before).await, "Completed");

    disk.fill();
    let body = doors::echo("refused").to_string();
    let answer = until("the hub to take nothing more", || async {
        let (status, answer) = doors::post(&stack, &body, Some("refused")).await;
        (status != 202 && status != 200).then_some((status, answer))
    })
    .await;
    println!("a gateway says: {answer:?}");
    assert_eq!(answer.0, 503, "{answer:?}");

    disk.free();
    assert_eq!(one_job(&stack, "after").await, "Completed");
    assert_eq!(end_of(&stack, &before).await, "Completed");
    until("no hold to be open", || async {
        let replayed = books::replay(&stack, &stack.auditor().await).await;
        (replayed.settlements(&before) == 1 && replayed.open_holds() == 0).then_some(())
    })
    .await;
}
