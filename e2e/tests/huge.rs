//! What is far too large is refused at each door before it is read, and neither that nor readers that stopped reading are noticed by others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::doors;
use serde_json::Value;
use testkit::raw::Raw;
use testkit::{Stack, http, proc};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const HUGE: usize = 8 << 20;
const ASKED: usize = 200;
/// What a machine of two cores that does other things as well adds to the slowest.
const SLACK: Duration = Duration::from_millis(25);
/// Between two rounds of what is too large: as fast as it goes, this test would measure itself.
const PACE: Duration = Duration::from_millis(100);
/// What a hub keeps in memory for one reader at most, and how long for one that reads nothing (nats-server's own defaults).
const UNREAD_MAX: u64 = 64 << 20;
const UNREAD_FOR_NS: u64 = 10_000_000_000;

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

/// As many bytes as [`flood`] sends, as often, to somebody who is no part of a network: what the sending alone takes from others.
async fn control(_stack: Arc<Stack>, stop: Arc<AtomicBool>) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let sink = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    });
    let mut sent = 0;
    let mut pace = paced();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(&vec![b'x'; HUGE]).await.expect("it is read");
            sent += 1;
        }
    }
    sink.abort();
    sent
}
fn paced() -> tokio::time::Interval {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    pace
}

/// The neighbour's times while something else goes on, and how often that happened. It has a thread of its own: who sends much must not
/// hold up who measures.
async fn beside<F: Future<Output = usize>>(
    stack: &Arc<Stack>,
    what: impl FnOnce(Arc<Stack>, Arc<AtomicBool>) -> F + Send + 'static,
) -> (Vec<Duration>, usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let other = std::thread::spawn({
        let (stack, stop) = (stack.clone(), stop.clone());
        move || runtime.block_on(what(stack, stop))
    });
    let took = neighbour(stack).await;
    stop.store(true, Ordering::Relaxed);
    (took, other.join().expect("it ends well"))
}

/// Sends what is too large at every door; how often it was refused.
async fn flood(stack: Arc<Stack>, stop: Arc<AtomicBool>) -> usize {
    let (submit, creds) = (stack.text("/member/submit_subject"), stack.path("/member/creds"));
    let (hub, local) = (stack.text("/nats/url"), stack.text("/devices/0/local_url"));
    let authorization = format!("Bearer {}", stack.token());
    let mut refused = 0;
    let mut pace = paced();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
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

/// The hub keeps little for each of the readers that do not read, and would neither keep more nor keep it for long.
async fn bounded(stack: &Stack, readers: usize) {
    let monitor = stack.text("/nats/nodes/0/monitor_url");
    let (_, limits) = http::send("GET", &format!("{monitor}/varz"), &[], "").await;
    let (pending, deadline) =
        (limits["max_pending"].as_u64().expect("max_pending"), limits["write_deadline"].as_u64().expect("a deadline"));
    assert!((1..=UNREAD_MAX).contains(&pending) && (1..=UNREAD_FOR_NS).contains(&deadline), "{pending} bytes, {deadline} ns");
    let (_, clients) = http::send("GET", &format!("{monitor}/connz?limit=1000"), &[], "").await;
    let raw = clients["connections"].as_array().into_iter().flatten().filter(|client| client["lang"] == "raw");
    let held: Vec<u64> = raw.filter_map(|client| client["pending_bytes"].as_u64()).collect();
    println!("the hub holds {held:?} bytes for readers that do not read; {} were cut off", readers - held.len());
    assert!(held.len() <= readers && held.iter().all(|held| *held < pending), "{held:?}");
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
    let (control, sent) = beside(&stack, control).await;
    let (during, refused) = beside(&stack, flood).await;
    println!(
        "p50, p99 of {ASKED} submissions: {:?} {:?}; while {sent} of 8 MiB went elsewhere: {:?} {:?}; while {refused} were refused: {:?} {:?}",
        before[ASKED / 2],
        p99(&before),
        control[ASKED / 2],
        p99(&control),
        during[ASKED / 2],
        p99(&during)
    );
    let without = p99(&before).max(p99(&control));
    assert!(refused > 0 && p99(&during) < 2 * without + SLACK, "{without:?} became {:?}", p99(&during));

    let member = stack.text("/member/id");
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let raw = Raw::connect(&stack.text("/nats/url"), Some(&stack.path("/member/creds"))).await;
        stalled.push(raw.stall(&format!("mesh.v1.watch.{member}.*.*")).await);
    }
    let unread = neighbour(&stack).await;
    println!("with {} readers that do not read: {:?} {:?}", stalled.len(), unread[ASKED / 2], p99(&unread));
    assert!(p99(&unread) < 2 * p99(&before) + SLACK, "{:?} became {:?}", p99(&before), p99(&unread));

    bounded(&stack, stalled.len()).await;
    drop(stalled);

    // A device's own server stands still: its bids do not come, so an auction lasts its whole window.
    let leaf = stack.pids("leaf")[1];
    proc::signal(leaf, "STOP");
    let frozen = neighbour(&stack).await;
    proc::signal(leaf, "CONT");
    println!("with a leaf that stands still: {:?} {:?}", frozen[ASKED / 2], p99(&frozen));
    assert!(p99(&frozen) < 2 * p99(&before) + SLACK, "{:?} became {:?}", p99(&before), p99(&frozen));
}
