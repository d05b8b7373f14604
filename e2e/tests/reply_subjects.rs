//! No server checks where a question asks its answer to go. What comes back there is the answer of whoever was asked; it must not pass
//! for anything else, and nobody may overhear answers that are not his.

use std::process::Stdio;
use std::time::Duration;

use bus_schemas::api::ask::BlobGet;
use bus_schemas::envelope;
use e2e::doors;
use e2e::foreign::creds_of;
use futures::StreamExt;
use serde_json::{Value, json};
use testkit::raw::Raw;
use testkit::{HUNG, Stack, http};

/// Somebody uploads what reads like the end of another's job, and asks for it to be sent where that member watches.
#[tokio::test]
async fn an_answer_sent_to_anothers_watch_subject_ends_no_wait() {
    let stack = Stack::start(&["--agents", "1"], &[]);
    let nobody_can = json!({"kind": "echo", "text": "x", "required_resources": {"gpu_mb": 999_999}});
    let (status, answer) = doors::post(&stack, &nobody_can.to_string(), Some("waits")).await;
    assert_eq!(status, 202, "{answer}");
    let (id, member) = (answer["id"].as_str().expect("an id").to_owned(), stack.text("/member/id"));
    let watched = format!("mesh.v1.watch.{member}.{id}.state");

    let mut waiting = stack.cli.command(&["job", "wait", &id, "-o", "json"]);
    let mut waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mesh runs");
    let bus = stack.member().await;
    let mut heard = bus.client.subscribe(watched.clone()).await.expect("a subscription");
    bus.client.flush().await.expect("a flush");

    let (device, home) = (stack.text("/devices/0/id"), stack.path("/devices/0/home"));
    let mut stranger = Raw::connect(&stack.text("/nats/url"), Some(&creds_of(&home))).await;
    let forged = json!({"id": id, "state": "Failed", "at": 1});
    let ask = question(&put_blob(&stack, &home, forged.to_string()).await);
    // The wait has begun at some moment of these; each would end it.
    for _ in 0..30 {
        stranger.publish(&format!("mesh.v1.api.{device}.blob.get"), Some(&watched), b"NATS/1.0\r\n\r\n", &ask).await;
        let message = tokio::time::timeout(HUNG, heard.next()).await.expect("hung: no answer went there").expect("a message");
        let told: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let by_the_network = message.headers.as_ref().is_some_and(|headers| headers.get("Mesh-Asker").is_some());
        assert_eq!(told["at"] == 1, !by_the_network, "{message:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(waiting.try_wait().expect("a child").is_none(), "the wait was ended by a stranger");
    }
    let (status, _) = cancel(&stack, &id).await;
    assert_eq!(status, 200);
    let output = tokio::task::spawn_blocking(move || waiting.wait_with_output()).await.expect("a wait").expect("an end");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("M0510"), "{said}");
}

/// Programs on a device's machine may read `_INBOX.>`; what the agent reads from its own streams is not there.
#[tokio::test]
async fn a_program_on_the_device_hears_nothing_of_others() {
    let stack = Stack::start(&["--agents", "1"], &[]);
    let (spy, program) = (stack.local(0).await, stack.local(0).await);
    let mut heard = spy.client.subscribe("_INBOX.>").await.expect("a subscription");
    spy.client.flush().await.expect("a flush");
    let secret = "nobody else may read this";
    for key in ["first", "second"] {
        doors::local(&program, &json!({"kind": "echo", "text": secret, "key": key}).to_string(), key).await;
    }
    doors::http(&stack, &doors::echo(secret), "anothers").await;
    let mut seen = 0;
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(500), heard.next()).await {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        assert!(!text.contains(secret), "{}: {}", message.subject, text.chars().take(300).collect::<String>());
        seen += 1;
    }
    assert!(seen >= 1, "the spy hears at least what the local server answers to programs");
}

/// Uploads with the token in this home; the content id.
async fn put_blob(stack: &Stack, home: &std::path::Path, body: String) -> String {
    let token = std::fs::read_to_string(home.join("token")).expect("a token");
    let authorization = format!("Bearer {}", token.trim());
    let (status, answer) = http::send("POST", &stack.api("/api/v1/blobs"), &[("authorization", &authorization)], body).await;
    assert!(status < 300, "{answer}");
    answer["cid"].as_str().expect("a content id").to_owned()
}

/// The question for the first chunk of a blob, as the service takes it.
fn question(cid: &str) -> Vec<u8> {
    envelope::encode(&BlobGet { cid: cid.parse().expect("a content id"), chunk: 0, assignment: None })
}

async fn cancel(stack: &Stack, id: &str) -> (u16, Value) {
    let authorization = format!("Bearer {}", stack.token());
    http::send("POST", &stack.api(&format!("/api/v1/jobs/{id}/cancel")), &[("authorization", &authorization)], "").await
}
