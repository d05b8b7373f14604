//! More than is good: subjects, subscriptions, bytes, connections. Each row tells what the neighbour's jobs took meanwhile.

use std::time::{Duration, Instant};

use e2e::doors;
use serde_json::json;
use testkit::Peer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::must;
use crate::stage::{Outcome, Stage};

const GROUP: &str = "floods";
/// To see that a connection has ended long ago.
const LOOK: Duration = Duration::from_secs(2);

pub async fn attacks(stage: &mut Stage, half_open: (Instant, Vec<TcpStream>)) {
    let done = oversize(stage).await;
    stage.row(GROUP, "frames that are too long, cut, nested, garbage", done).await;
    let done = subjects(stage).await;
    stage.row(GROUP, "20,000 subjects of one's own, and the longest", done).await;
    let done = subscriptions(stage).await;
    stage.row(GROUP, "10,000 subscriptions on each of two connections", done).await;
    let done = messages(stage).await;
    stage.row(GROUP, "20,000 heartbeats, events and receipts that are none", done).await;
    let done = questions(stage).await;
    stage.row(GROUP, "3,000 questions at once", done).await;
    let done = slow_reader(stage).await;
    stage.row(GROUP, "100 MB of answers that nobody reads", done).await;
    let done = attempts(stage).await;
    stage.row(GROUP, "10,000 attempts to connect", done).await;
    let done = still_open(half_open).await;
    stage.row(GROUP, "400 connections that never log in, to clients' and leafs' doors", done).await;
}

async fn both(stage: &Stage) -> [Peer; 2] {
    [stage.rogue.client().await, stage.rogue.leaf().await]
}
fn count(streams: &[(String, u64, u64)], name: &str) -> u64 {
    streams.iter().find(|(stream, ..)| stream == name).map_or(0, |(_, messages, _)| *messages)
}

async fn oversize(stage: &Stage) -> Outcome {
    let own = format!("mesh.v1.dev.{}.evt.started", stage.rogue.device_id);
    let mut cut = 0;
    let frames: Vec<Vec<u8>> = vec![
        b"PUB x 99999999999999999999\r\n".to_vec(),
        format!("PUB {own} -1\r\n").into_bytes(),
        format!("PUB {own} 400001\r\n{}\r\n", "x".repeat(400_001)).into_bytes(),
        format!("LMSG {own} 400001\r\n{}\r\n", "x".repeat(400_001)).into_bytes(),
        format!("HPUB {own} 10 5\r\nNATS/1.0\r\n\r\n").into_bytes(),
        format!("HPUB {own} 99999 5\r\nhello\r\n").into_bytes(),
        format!("PUB {}\r\n", "x".repeat(100_000)).into_bytes(),
        format!("SUB {} 1\r\n", "x.".repeat(20_000)).into_bytes(),
        [b"CONNECT ".as_slice(), "[".repeat(3_000).as_bytes(), b"\r\n"].concat(),
        b"INFO {}\r\n".to_vec(),
        b"RS+ CONTROL mesh.> \r\n".to_vec(),
        b"A+ CONTROL\r\n".to_vec(),
        b"RMSG CONTROL mesh.v1.ledger.facts 4\r\nevil\r\n".to_vec(),
        b"LS+ mesh.v1.> x 99999999999999999999\r\n".to_vec(),
        (0..=255_u8).cycle().take(10_000).collect(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 0, 0xff, 1, 0, 0, 0xfb, 3, 3],
    ];
    for frame in &frames {
        for mut peer in both(stage).await {
            peer.say(frame).await;
            peer.say(b"\r\n").await;
            let settled = tokio::time::timeout(Duration::from_millis(500), peer.settle()).await;
            cut += u32::from(settled.is_ok() && peer.closed);
        }
    }
    Ok(format!("{} frames by client and leaf: {cut} of {} connections cut, nothing else", frames.len(), 2 * frames.len()))
}

async fn subjects(stage: &Stage) -> Outcome {
    let device = stage.rogue.device_id;
    let mut refused = vec![];
    for mut peer in both(stage).await {
        for n in 0..10_000 {
            peer.publish(&format!("mesh.v1.dev.{device}.evt.{n:x}"), None, b"", b"x").await;
        }
        peer.settle().await;
        for subject in [
            format!("mesh.v1.dev.{device}.evt.{}", "x".repeat(3_900)),
            format!("mesh.v1.api.{device}.{}", "a.".repeat(1_900) + "b"),
            format!("mesh.v1.api.{device}..x"),
            format!("mesh.v1.dev.{device}.evt.*"),
            format!("mesh.v1.dev.{device}.evt.>"),
            format!("mesh.v1.dev.{device}.evt.\u{202e}"),
        ] {
            peer.publish(&subject, None, b"", b"x").await;
            peer.settle().await;
            if peer.closed {
                refused.push(subject.chars().skip(34).take(20).collect::<String>());
                break;
            }
        }
    }
    doors::http(&stage.stack, &doors::echo("after"), "after-subjects").await;
    let answer = stage.control.ask_bytes("$JS.API.STREAM.INFO.EVENTS".into(), r#"{"subjects_filter":">"}"#.into(), testkit::HUNG).await;
    let answer: serde_json::Value =
        serde_json::from_slice(&answer.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    let (subjects, messages) =
        (answer["state"]["num_subjects"].as_u64().unwrap_or(u64::MAX), answer["state"]["messages"].as_u64().unwrap_or(u64::MAX));
    must!(subjects <= 3, "EVENTS has {subjects} subjects for three devices");
    let most = answer["state"]["subjects"][format!("mesh.v1.dev.{device}.evt")].as_u64().unwrap_or_default();
    must!(most <= 10_000, "one device has {most} messages in EVENTS");
    Ok(format!("EVENTS has {subjects} subjects and {messages} messages, at most 10,000 a device; cut at {refused:?}"))
}

async fn subscriptions(stage: &Stage) -> Outcome {
    let before = stage.varz("subscriptions").await;
    let device = stage.rogue.device_id;
    let mut told = vec![];
    let mut open = vec![];
    for mut peer in both(stage).await {
        for n in 0..10_000 {
            peer.subscribe(&format!("_INBOX.{device}.{n}"), None).await;
        }
        peer.settle().await;
        told.push(format!("{} errors{}", peer.errors.len(), if peer.closed { ", cut" } else { "" }));
        open.push(peer);
    }
    let after = stage.varz("subscriptions").await;
    must!(after <= before + 400, "the hub has {} subscriptions more", after - before);
    Ok(format!("the hub has {} more; client and leaf: {told:?}", after.saturating_sub(before)))
}

async fn messages(stage: &Stage) -> Outcome {
    let device = stage.rogue.device_id;
    let before = stage.streams().await;
    let begun = Instant::now();
    let [mut client, mut leaf] = both(stage).await;
    for n in 0..5_000 {
        let body = format!("evil {n}");
        for (peer, kinds) in [(&mut client, ["hb", "receipt.any"]), (&mut leaf, ["evt.progress", "bid.s1"])] {
            for kind in kinds {
                peer.publish(&format!("mesh.v1.dev.{device}.{kind}"), None, b"", body.as_bytes()).await;
            }
        }
    }
    client.settle().await;
    leaf.settle().await;
    let took = begun.elapsed();
    doors::http(&stage.stack, &doors::echo("after"), "after-messages").await;
    let after = stage.streams().await;
    for (stream, most) in [("BIDS", 1_000), ("EVENTS", 10_000)] {
        let grown = count(&after, stream).saturating_sub(count(&before, stream));
        must!(grown <= most, "{stream} has {grown} messages more");
    }
    Ok(format!("sent in {} ms; the limits per device hold: 1,000 bids, 10,000 events, one heartbeat", took.as_millis()))
}

async fn questions(stage: &Stage) -> Outcome {
    let device = stage.rogue.device_id;
    let inbox = format!("_INBOX.{device}.q");
    let mut peer = stage.rogue.client().await;
    peer.subscribe(&inbox, None).await;
    peer.settle().await;
    let begun = Instant::now();
    for n in 0..3_000 {
        let call = ["job.ls", "device.ls", "credit.balance"][n % 3];
        peer.publish(&format!("mesh.v1.api.{device}.{call}"), Some(&inbox), b"", b"{}").await;
    }
    while peer.heard.len() < 3_000 && !peer.closed && begun.elapsed() < Duration::from_secs(20) {
        peer.listen(Duration::from_secs(1)).await;
    }
    let (answered, took) = (peer.heard.len(), begun.elapsed());
    Ok(format!("{answered} answered in {} ms", took.as_millis()))
}

async fn slow_reader(stage: &Stage) -> Outcome {
    let device = stage.rogue.device_id;
    let authorization = format!("Bearer {}", stage.rogue.token);
    let blob = "x".repeat(128 * 1024);
    let (_, answer) = testkit::http::send("POST", &stage.stack.api("/api/v1/blobs"), &[("authorization", &authorization)], blob).await;
    let cid = answer["cid"].as_str().ok_or("no blob")?.to_owned();
    let ask = bus_schemas::api::ask::BlobGet { cid: cid.parse().map_err(|_| "a content id")?, chunk: 0, assignment: None };
    let ask = bus_schemas::envelope::encode(&ask);
    let before = stage.varz("mem").await;
    let inbox = format!("_INBOX.{device}.slow");
    // It asks, and does not read.
    let mut reader = stage.rogue.client().await;
    reader.subscribe(&inbox, None).await;
    reader.settle().await;
    let mut asker = stage.rogue.client().await;
    for _ in 0..800 {
        asker.publish(&format!("mesh.v1.api.{device}.blob.get"), Some(&inbox), b"", &ask).await;
    }
    asker.settle().await;
    let mut most = before;
    for _ in 0..20 {
        most = most.max(stage.varz("mem").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(reader);
    let grown = most.saturating_sub(before) / (1024 * 1024);
    must!(grown < 512, "the hub grew by {grown} MiB");
    Ok(format!("the hub grew by {grown} MiB at most; a connection's share is 64 MiB"))
}

/// Where the hub listens, as `host:port`.
fn doors_of(stage: &Stage) -> [String; 2] {
    [&stage.rogue.hub, &stage.rogue.leaf].map(|url| url.split("://").nth(1).unwrap_or_default().to_owned())
}

async fn attempts(stage: &Stage) -> Outcome {
    let before = (stage.varz("connections").await, stage.varz("mem").await);
    let begun = Instant::now();
    let [client, leaf] = doors_of(stage);
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..50_usize {
        let address = if worker % 2 == 0 { client.clone() } else { leaf.clone() };
        tasks.spawn(async move {
            let mut made = 0;
            for n in 0..200 {
                let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
                let mut chunk = [0_u8; 4096];
                let _ = stream.read(&mut chunk).await;
                let hello = json!({"jwt": format!("eyJ.{n}.x"), "sig": "x", "verbose": false, "name": "lf-x", "version": "2.15.2"});
                let _ = stream.write_all(format!("CONNECT {hello}\r\nPING\r\n").as_bytes()).await;
                let _ = stream.read(&mut chunk).await;
                made += 1;
            }
            made
        });
    }
    let made: usize = tasks.join_all().await.into_iter().sum();
    let took = begun.elapsed();
    let after = (stage.varz("connections").await, stage.varz("mem").await);
    must!(after.0 <= before.0 + 50, "{} connections are left", after.0 - before.0);
    let grown = after.1.saturating_sub(before.1) / (1024 * 1024);
    Ok(format!(
        "{made} refused in {} ms, {} connections left over, the hub grew by {grown} MiB",
        took.as_millis(),
        after.0.saturating_sub(before.0)
    ))
}

/// Connections that say nothing at all, and since when.
pub async fn half_open(stage: &Stage) -> std::io::Result<(Instant, Vec<TcpStream>)> {
    let mut open = vec![];
    for address in doors_of(stage) {
        for _ in 0..200 {
            open.push(TcpStream::connect(&address).await?);
        }
    }
    Ok((Instant::now(), open))
}

async fn still_open((begun, open): (Instant, Vec<TcpStream>)) -> Outcome {
    // Clients have 2 s, leafs 20 s: a storm of reconnects needs them.
    let closed = |mut stream: TcpStream| async move {
        let mut chunk = [0_u8; 4096];
        let gone = async { while stream.read(&mut chunk).await.is_ok_and(|count| count > 0) {} };
        tokio::time::timeout(Duration::from_secs(25).saturating_sub(begun.elapsed()).max(LOOK), gone).await.is_ok()
    };
    let ended = futures::future::join_all(open.into_iter().map(closed)).await;
    let left = ended.iter().filter(|closed| !**closed).count();
    must!(left == 0, "{left} of {} are still open after {:?}", ended.len(), begun.elapsed());
    Ok("all closed by the hub within 25 s (leafs have 20 s, clients 2 s), none in the way of a login".into())
}
