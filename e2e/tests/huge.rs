//! What is far too large is refused at each door before it is read, and neither that nor readers that stopped reading are noticed by others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::doors;
use serde_json::Value;
use testkit::raw::Raw;
use testkit::{Stack, http, proc};

const HUGE: usize = 8 << 20;
const ASKED: usize = 200;
/// What a machine of two cores that does other things as well adds to the slowest.
const SLACK: Duration = Duration::from_millis(100);

/// The time from asking to the answer of one who does small things, sorted.
async fn neighbour(stack: &Stack) -> Vec<Duration> {
    let (authorization, body) = (format!("Bearer {}", stack.token()), |n: usize| doors::echo(&format!("small {n}")).to_string());
    let (url, mut took) = (stack.api("/api/v1/jobs"), Vec::with_capacity(ASKED));
    for n in 0..ASKED {
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        let begun = Instant::now();
        let (status, answer) = http::send("POST", &url, &headers, body(n)).await;
        assert!(matches!(status, 200 | 202), "{answer}");
        took.push(begun.elapsed());
    }
    took.sort();
    took
}
fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

/// Sends what is too large at every door; how often it was refused.
async fn flood(stack: &Stack, stop: &AtomicBool) -> usize {
    let (submit, creds) = (stack.text("/member/submit_subject"), stack.path("/member/creds"));
    let (hub, local) = (stack.text("/nats/url"), stack.text("/devices/0/local_url"));
    let authorization = format!("Bearer {}", stack.token());
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        let said = Raw::connect(&hub, Some(&creds)).await.refused(&submit, HUGE).await;
        assert!(said.is_empty() || said.contains("Maximum Payload"), "{said}");
        let said = Raw::connect(&local, None).await.refused("submit", HUGE).await;
        assert!(said.is_empty() || said.contains("Maximum Payload"), "{said}");
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        match http::try_send("POST", &stack.api("/api/v1/jobs"), &headers, vec![b' '; HUGE]).await {
            Ok((status, answer)) => {
                let answer: Value = serde_json::from_slice(&answer).expect("JSON");
                assert_eq!((status, &answer["code"]), (413, &Value::from("M0107")), "{answer}");
                assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains("bytes")), "{answer}");
            }
            // The gateway hung up while it was being sent.
            Err(error) => println!("over HTTP: {error}"),
        }
        refused += 3;
    }
    refused
}

#[tokio::test]
async fn nobody_notices_what_is_too_large_or_does_not_read() {
    let stack = Arc::new(Stack::start(&["--agents", "2"], &[]));
    let file = stack.folder().join("huge.txt");
    std::fs::write(&file, vec![b'x'; HUGE]).expect("a file");
    let begun = Instant::now();
    let (code, said) = stack.cli.json(&["job", "run", "echo", "--file", &file.display().to_string()]);
    println!("the command line says within {:?}: {code} {said}", begun.elapsed());
    assert!(code != 0 && said["next"].as_array().is_some_and(|next| !next.is_empty()), "{said}");

    let _ = neighbour(&stack).await;
    let before = neighbour(&stack).await;
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = tokio::spawn({
        let (stack, stop) = (stack.clone(), stop.clone());
        async move { flood(&stack, &stop).await }
    });
    let during = neighbour(&stack).await;
    stop.store(true, Ordering::Relaxed);
    let refused = flooding.await.expect("a flood");
    println!(
        "p50, p99 of {ASKED} submissions: {:?} {:?}; while {refused} of 8 MiB were refused: {:?} {:?}",
        before[ASKED / 2],
        p99(&before),
        during[ASKED / 2],
        p99(&during)
    );
    assert!(p99(&during) < 2 * p99(&before) + SLACK, "{:?} became {:?}", p99(&before), p99(&during));

    let member = stack.text("/member/id");
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let raw = Raw::connect(&stack.text("/nats/url"), Some(&stack.path("/member/creds"))).await;
        stalled.push(raw.stall(&format!("mesh.v1.watch.{member}.*.*")).await);
    }
    let unread = neighbour(&stack).await;
    println!("with {} readers that do not read: {:?} {:?}", stalled.len(), unread[ASKED / 2], p99(&unread));
    assert!(p99(&unread) < 2 * p99(&before) + SLACK, "{:?} became {:?}", p99(&before), p99(&unread));

    // A device's own server stands still: its bids do not come, so an auction lasts its whole window.
    let leaf = stack.pids("leaf")[1];
    proc::signal(leaf, "STOP");
    let frozen = neighbour(&stack).await;
    proc::signal(leaf, "CONT");
    println!("with a leaf that stands still: {:?} {:?}", frozen[ASKED / 2], p99(&frozen));
    assert!(p99(&frozen) < 2 * p99(&before) + SLACK, "{:?} became {:?}", p99(&before), p99(&frozen));
}
