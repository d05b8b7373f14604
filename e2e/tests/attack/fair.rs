//! One member who asks for more than its share, by each door, for seconds: what another member's lone jobs take meanwhile.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bus_schemas::api::ask::{BlobGet, BlobPut};
use bus_schemas::envelope::encode;
use serde_json::{Value, json};
use testkit::{Peer, http, until};

use crate::must;
use crate::rogue::Rogue;
use crate::stage::{Outcome, Stage};

const GROUP: &str = "fairness";
/// How long each flood lasts.
const LASTS: Duration = Duration::from_secs(8);

pub async fn attacks(stage: &mut Stage) {
    tokio::time::sleep(LASTS).await;
    stage.row(GROUP, "nothing: the neighbour alone", Ok("that is what its jobs take".into())).await;
    let done = submissions(stage).await;
    stage.row(GROUP, "10,000 submissions by `nats pub`, without waiting", done).await;
    calm(stage).await;
    let done = posts(stage).await;
    stage.row(GROUP, "jobs over HTTP, 200 connections at once", done).await;
    calm(stage).await;
    let done = reads(stage).await;
    stage.row(GROUP, "questions over HTTP, 200 connections at once", done).await;
    let done = questions(stage).await;
    stage.row(GROUP, "questions to the service, 3,000 at once, again and again", done).await;
    let done = blobs(stage).await;
    stage.row(GROUP, "chunks of blobs, 400 questions and 100 new ones at once", done).await;
    calm(stage).await;
}

/// Waits until what a flood has left in the streams is gone, and does not count what the neighbour notices of that.
async fn calm(stage: &mut Stage) {
    until("the end of a flood's jobs", || async {
        let streams = stage.streams().await;
        let waiting: u64 = streams.iter().filter(|(name, ..)| name == "SUBMIT" || name == "JOBS").map(|(_, messages, _)| messages).sum();
        (waiting < 10).then_some(())
    })
    .await;
    stage.forget().await;
}

fn job(stage: &Stage) -> Value {
    json!({"kind": "echo", "text": "flood", "target": stage.stack.text("/devices/0/id")})
}

/// Does the same `at_once` times beside itself, until the time is over; answers how often it was done.
async fn again_and_again<F: Future<Output = ()> + Send + 'static>(at_once: usize, what: impl Fn() -> F + Send + Sync + 'static) -> u64 {
    let (what, done) = (Arc::new(what), Arc::new(AtomicU64::new(0)));
    let until = tokio::time::Instant::now() + LASTS;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let (what, done) = (what.clone(), done.clone());
        tasks.spawn(async move {
            while tokio::time::timeout_at(until, what()).await.is_ok() {
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    done.load(Ordering::Relaxed)
}

async fn submissions(stage: &Stage) -> Outcome {
    let mut peer = stage.rogue.as_member().await;
    let (subject, body) = (format!("mesh.v1.submit.{}", stage.rogue.member_id), job(stage).to_string());
    let begun = Instant::now();
    for _ in 0..10_000 {
        peer.publish(&subject, None, b"", body.as_bytes()).await;
    }
    peer.settle().await;
    let sent = begun.elapsed();
    tokio::time::sleep(LASTS.saturating_sub(sent)).await;
    let left: u64 = stage.streams().await.iter().filter(|(name, ..)| name == "SUBMIT").map(|(_, messages, _)| messages).sum();
    Ok(format!("sent in {} ms; {left} wait in SUBMIT after {} ms", sent.as_millis(), begun.elapsed().as_millis()))
}

async fn over_http(stage: &Stage, method: &'static str, path: &str, body: String) -> String {
    let (url, authorization) = (stage.stack.api(path), format!("Bearer {}", stage.rogue.token));
    let refused = Arc::new(AtomicU64::new(0));
    let seen = refused.clone();
    let asked = again_and_again(200, move || {
        let (url, authorization, body, seen) = (url.clone(), authorization.clone(), body.clone(), seen.clone());
        async move {
            let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
            let answer = http::try_send(method, &url, &headers, body).await;
            if answer.is_ok_and(|(status, _)| status == 429) {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    format!("{asked} answered, {} of them 429", refused.load(Ordering::Relaxed))
}

async fn posts(stage: &Stage) -> Outcome {
    Ok(over_http(stage, "POST", "/api/v1/jobs", job(stage).to_string()).await)
}

async fn reads(stage: &Stage) -> Outcome {
    Ok(over_http(stage, "GET", "/api/v1/jobs?limit=100", String::new()).await)
}

/// Asks the service `at_once` questions and waits for their answers, again and again; `bodies` are those of the calls.
async fn rounds(rogue: &Rogue, at_once: usize, calls: &[(&str, Vec<u8>)]) -> (usize, usize) {
    let inbox = format!("_INBOX.{}.rounds", rogue.device_id);
    let mut peer = Peer::client(&rogue.hub, Some(&rogue.creds), &json!({})).await.expect("a login");
    peer.subscribe(&inbox, None).await;
    peer.settle().await;
    let (begun, mut answered, mut refused) = (Instant::now(), 0, 0);
    while begun.elapsed() < LASTS && !peer.closed {
        for n in 0..at_once {
            let (call, body) = &calls[n % calls.len()];
            peer.publish(&format!("mesh.v1.api.{}.{call}", rogue.device_id), Some(&inbox), b"", body).await;
        }
        while peer.heard.len() < at_once && !peer.closed && begun.elapsed() < LASTS {
            peer.listen(Duration::from_millis(100)).await;
        }
        answered += peer.heard.len();
        refused += peer.heard.iter().filter(|heard| String::from_utf8_lossy(&heard.headers).contains("M0703")).count();
        peer.heard.clear();
    }
    (answered, refused)
}

async fn questions(stage: &Stage) -> Outcome {
    let calls = ["job.ls", "device.ls", "credit.balance"].map(|call| (call, b"{}".to_vec()));
    let (answered, refused) = rounds(&stage.rogue, 3_000, &calls).await;
    must!(answered > 0, "nobody answered");
    Ok(format!("{answered} answered, {refused} of them are told to wait"))
}

async fn blobs(stage: &Stage) -> Outcome {
    let authorization = format!("Bearer {}", stage.rogue.token);
    let blob = "x".repeat(128 * 1024);
    let (_, answer) = http::send("POST", &stage.stack.api("/api/v1/blobs"), &[("authorization", &authorization)], blob).await;
    let cid = answer["cid"].as_str().and_then(|cid| cid.parse().ok()).ok_or("no blob")?;
    let get = ("blob.get", encode(&BlobGet { cid, chunk: 0, assignment: None }));
    let put = ("blob.put", encode(&BlobPut { data: serde_bytes::ByteBuf::from(bus::keys::random::<65_536>().expect("random").to_vec()) }));
    let calls = [get.clone(), get.clone(), get.clone(), get, put];
    let (answered, refused) = rounds(&stage.rogue, 500, &calls).await;
    Ok(format!("{answered} answered, {refused} of them are told to wait"))
}
