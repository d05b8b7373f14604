//! The server stores and passes on header bytes as a publisher wrote them: whatever they are, nobody who receives them is harmed,
//! and the message counts as if they were not there.

use bus::connect::Login;
use bus_schemas::subject;
use e2e::doors;
use e2e::foreign::{self, BLOCKS};
use serde_json::json;
use testkit::raw::Raw;
use testkit::{Stack, http, until};

#[tokio::test]
async fn headers_of_a_stranger_harm_nobody() {
    let stack = Stack::start(&["--agents", "2"], &[]);
    let data = stack.path("/data_dir");
    let hub = stack.text("/nats/url");
    doors::http(&stack, &doors::echo("before"), "before").await;

    let (member, inbox) = (stack.text("/member/id"), stack.text("/member/inbox_prefix"));
    let mut by_member = Raw::connect(&hub, Some(&stack.path("/member/creds"))).await;
    let device = stack.text("/devices/0/id");
    let mut by_device = Raw::connect(&hub, Some(&foreign::creds_of(&stack.path("/devices/0/home")))).await;
    let mut on_device = Raw::connect(&stack.text("/devices/1/local_url"), None).await;
    let scheduler = scheduler_of(&stack).await;
    let mut by_ledger = Raw::connect(&hub, Some(&data.join("network/creds/ledger.creds"))).await;

    for (n, block) in BLOCKS.into_iter().enumerate() {
        // A job under each of them is a job like any other.
        let job = |door: &str| json!({"kind": "echo", "text": "x", "key": format!("{door}-{n}")}).to_string();
        by_member.publish(&format!("mesh.v1.submit.{member}"), None, block, job("member").as_bytes()).await;
        by_device.publish(&format!("mesh.v1.submit.{device}"), None, block, job("device").as_bytes()).await;
        for call in ["job.submit", "job.list", "no.such"] {
            let reply = format!("{inbox}.{n}");
            by_member.publish(&format!("mesh.v1.api.{member}.{call}"), Some(&reply), block, b"{}").await;
        }
        for what in ["hb", "evt.started", "evt.progress", "evt.nothing", "receipt.any"] {
            by_device.publish(&format!("mesh.v1.dev.{device}.{what}"), None, block, b"x").await;
        }
        for what in ["bid", "receipt"] {
            by_device.publish(&format!("mesh.v1.dev.{device}.{what}.{scheduler}"), None, block, b"x").await;
        }
        on_device.publish("submit", None, block, job("local").as_bytes()).await;
        for what in ["mesh.status", "mesh.owner"] {
            on_device.publish(what, Some("_INBOX.x"), block, b"x").await;
        }
        by_ledger.publish(subject::LEDGER_FACTS, None, block, b"x").await;
        // The next job is not kept waiting, and what was not a job is not one now.
        doors::http(&stack, &doors::echo("between"), &format!("between-{n}")).await;
    }
    for (n, block) in BLOCKS.iter().enumerate() {
        for door in ["member", "device", "local"] {
            let key = format!("{door}-{n}");
            until(&format!("the end of {key} under {:?}", String::from_utf8_lossy(block)), || async {
                completed(&stack, door, &key).await.then_some(())
            })
            .await;
        }
    }

    // Nobody lost a connection, and no process ended.
    assert!(!stack.events().iter().any(|event| event["event"] == "restarted" || event["event"] == "exited"), "{:?}", stack.events());
    let mut said = Vec::new();
    for log in std::fs::read_dir(data.join("logs")).expect("the logs").flatten() {
        let text = std::fs::read_to_string(log.path()).expect("a log");
        let name = log.file_name().to_string_lossy().into_owned();
        said.extend(
            text.lines().filter(|line| line.contains("disconnected") || line.contains("panicked")).map(|line| format!("{name}: {line}")),
        );
    }
    assert!(said.is_empty(), "{said:#?}");
    // The books: what a stranger stored counts for nothing, and the writer is the same.
    let verified = stack.cli.ok_async(&["credit", "balance"]).await;
    assert!(verified["available_mmana"].is_u64(), "{verified}");
}

/// Has the job with this key ended as it should? Whoever it belongs to is asked: the member, or the device's owner.
async fn completed(stack: &Stack, door: &str, key: &str) -> bool {
    let token = match door {
        "device" => std::fs::read_to_string(stack.path("/devices/0/home").join("token")).expect("a token"),
        "local" => std::fs::read_to_string(stack.path("/devices/1/home").join("token")).expect("a token"),
        _ => stack.token(),
    };
    let authorization = format!("Bearer {}", token.trim());
    let (_, list) = http::send("GET", &stack.api("/api/v1/jobs?limit=200"), &[("authorization", &authorization)], "").await;
    list["jobs"].as_array().is_some_and(|jobs| jobs.iter().any(|job| job["key"] == key && job["state"] == "Completed"))
}

/// The id of the scheduler, as it tells it in its heartbeat.
async fn scheduler_of(stack: &Stack) -> String {
    let operator = stack
        .connect(&stack.text("/nats/url"), Login::Creds(stack.path("/data_dir").join("network/creds/operator.creds")), "_INBOX.operator")
        .await;
    let mut heard = operator.client.subscribe(subject::SCHEDULER_HEARTBEATS).await.expect("a subscription");
    let message =
        tokio::time::timeout(testkit::HUNG, futures::StreamExt::next(&mut heard)).await.expect("hung: no scheduler").expect("a heartbeat");
    message.subject.split('.').nth(3).expect("its id").to_owned()
}
