//! With the credentials of a device or member, by the client and the leaf protocol.

use std::time::Duration;

use bus_schemas::api::ask::BlobGet;
use e2e::doors;
use serde_json::json;
use testkit::{HUNG, Peer, http};

use crate::must;
use crate::stage::{Outcome, Stage, server_name};

const GROUP: &str = "wire";
/// How long what must not come is waited for.
const SILENT: Duration = Duration::from_millis(300);

pub async fn attacks(stage: &mut Stage) {
    let done = acks(stage).await;
    stage.row(GROUP, "ack, nak, progress and term of a job that another waits for", done).await;
    let done = as_leaf(stage).await;
    stage.row(GROUP, "an auditor's or a member's login as a leaf, whose answers would be acks", done).await;
    let done = as_another(stage).await;
    stage.row(GROUP, "publish as another device, member or part", done).await;
    let done = overhear(stage).await;
    stage.row(GROUP, "hear others' offers, assignments, bids, results and inboxes", done).await;
    let done = streams(stage).await;
    stage.row(GROUP, "every verb of the JetStream API, buckets and objects", done).await;
    let done = domains(stage).await;
    stage.row(GROUP, "be the JetStream domain of the hub, or of another device", done).await;
    let done = names(stage).await;
    stage.row(GROUP, "take a server name that one can know", done).await;
    let done = message_ids(stage).await;
    stage.row(GROUP, "swallow another's message by its Nats-Msg-Id", done).await;
    let done = replies(stage).await;
    stage.row(GROUP, "let answers to one's own questions fall on another's subjects", done).await;
    let done = traces(stage).await;
    stage.row(GROUP, "let the server's message traces fall on another's subjects", done).await;
    let done = headers(stage).await;
    stage.row(GROUP, "JetStream headers: rollup, expectations, schedules, batches, counters", done).await;
    let done = another_login(stage).await;
    stage.row(GROUP, "a second CONNECT, as somebody else or with another's token", done).await;
}

/// An auditor's question ends with an empty message, and an empty message is an ack. Clients may not name such a reply subject; leafs may.
async fn as_leaf(stage: &Stage) -> Outcome {
    for creds in [stage.stack.path("/auditor/creds"), stage.rogue.member_creds.clone()] {
        let leaf = Peer::leaf(&stage.rogue.leaf, Some(&creds), "lf-evil", &json!({})).await;
        must!(leaf.is_err(), "{} got in as a leaf", creds.display());
        let mut client = Peer::client(&stage.rogue.hub, Some(&creds), &json!({})).await.map_err(|error| error.to_string())?;
        client.publish("mesh.v1.audit.DIRECT.GET.LEDGER", Some("$JS.ACK.JOBS.normal.1.1.1.1.0"), b"", br#"{"seq":999999}"#).await;
        client.settle().await;
        must!(!client.errors.is_empty(), "{} may send answers to an ack subject", creds.display());
    }
    Ok("an auditor's and a member's login are clients' only, and a client may not name an ack subject as reply".into())
}

/// The same by both protocols; a connection that the server closes is made again for the next try.
async fn both(stage: &Stage) -> [Peer; 2] {
    [stage.rogue.client().await, stage.rogue.leaf().await]
}

/// Publishes each of these by both protocols, each over a connection of its own where the one before was closed.
async fn publish_all(stage: &Stage, subjects: &[String], reply: Option<&str>, body: &[u8]) {
    let mut peers = both(stage).await;
    for subject in subjects {
        for (which, peer) in peers.iter_mut().enumerate() {
            if peer.closed {
                *peer = if which == 0 { stage.rogue.client().await } else { stage.rogue.leaf().await };
            }
            peer.publish(subject, reply, b"", body).await;
            peer.settle().await;
        }
    }
}

async fn acks(stage: &Stage) -> Outcome {
    let nobody_can = json!({"kind": "echo", "text": "x", "required_resources": {"gpu_mb": 999_999}});
    let (_, answer) = doors::post(&stage.stack, &nobody_can.to_string(), Some("attack-waits")).await;
    let id = answer["id"].as_str().ok_or("no job")?.to_owned();
    let held = || async {
        let answer = stage
            .control
            .ask_bytes(
                "$JS.API.STREAM.MSG.GET.JOBS".into(),
                json!({"last_by_subj": format!("mesh.v1.job.normal.{id}")}).to_string().into(),
                HUNG,
            )
            .await
            .ok()?;
        let answer: serde_json::Value = serde_json::from_slice(&answer).ok()?;
        answer["message"]["seq"].as_u64()
    };
    let seq = testkit::until("the job in JOBS", held).await;
    let mut subjects = vec![];
    for delivery in 1..=3_u64 {
        for consumer_seq in [seq, seq + 1, seq + 2] {
            for stream in ["JOBS.normal", "SUBMIT.intake", "HISTORY.projection"] {
                subjects.push(format!("$JS.ACK.{stream}.{delivery}.{seq}.{consumer_seq}.1700000000000000000.0"));
                subjects.push(format!("$JS.ACK.hub.ABCDEFGH.{stream}.{delivery}.{seq}.{consumer_seq}.1700000000000000000.0"));
            }
        }
    }
    for word in ["+ACK", "-NAK", "+WPI", "+TERM", "+NXT"] {
        publish_all(stage, &subjects[..if word == "+ACK" { subjects.len() } else { 6 }], None, word.as_bytes()).await;
    }
    must!(held().await == Some(seq), "the job is gone from JOBS");
    // Words that others say: the answer to a question, sent where an ack would go. The server passes such a reply subject on as it is.
    for word in ["+ACK", "+TERM", "-NAK", "+WPI", "+NXT"] {
        let cid = upload(stage, word).await?;
        let ask = bus_schemas::envelope::encode(&BlobGet { cid: cid.parse().map_err(|_| "no content id")?, chunk: 0, assignment: None });
        let call = format!("mesh.v1.api.{}.blob.get", stage.rogue.device_id);
        for mut peer in both(stage).await {
            for consumer_seq in [seq, seq + 1] {
                let reply = format!("$JS.ACK.JOBS.normal.1.{seq}.{consumer_seq}.1700000000000000000.0");
                peer.publish(&call, Some(&reply), b"", &ask).await;
                peer.settle().await;
            }
        }
        doors::http(&stage.stack, &doors::echo("after"), &format!("after-{word}")).await;
        must!(held().await == Some(seq), "an answer that says {word}, sent to the ack subject of another's job, took it away");
    }
    let (_, view) = doors::get(&stage.stack, &format!("/jobs/{id}")).await;
    must!(view["state"] != "Completed" && view["state"] != "Failed" && view["state"] != "Cancelled", "it ended: {view}");
    let letters = stage.streams().await.into_iter().find(|(name, ..)| name == "DLQ").map(|(_, messages, _)| messages);
    must!(letters == Some(0), "{letters:?} dead letters");
    Ok(format!("{} forged words; the job still waits, nothing terminated", 2 * (subjects.len() + 24)))
}

/// The content id of a blob of the rogue's.
async fn upload(stage: &Stage, body: &str) -> Result<String, String> {
    let authorization = format!("Bearer {}", stage.rogue.token);
    let headers = [("authorization", authorization.as_str())];
    let (_, answer) = http::send("POST", &stage.stack.api("/api/v1/blobs"), &headers, body.to_owned()).await;
    answer["cid"].as_str().map(str::to_owned).ok_or(format!("no blob: {answer}"))
}

async fn as_another(stage: &Stage) -> Outcome {
    let (device, member, rogue) = (stage.victim(), stage.victim_member(), stage.rogue.device_id);
    let subjects: Vec<String> = [
        format!("mesh.v1.dev.{device}.hb"),
        format!("mesh.v1.dev.{device}.bid.s1"),
        format!("mesh.v1.dev.{device}.evt.started"),
        format!("mesh.v1.dev.{device}.receipt.any"),
        format!("mesh.v1.dev.{rogue}.{device}.hb"),
        format!("mesh.v1.submit.{device}"),
        format!("mesh.v1.submit.{member}"),
        format!("mesh.v1.api.{member}.credit.balance"),
        format!("mesh.v1.api.{device}.job.ls"),
        "mesh.v1.job.normal.evil-".to_owned(),
        format!("mesh.v1.offer.{device}"),
        format!("mesh.v1.ctl.{device}.cancel"),
        format!("mesh.v1.watch.{member}.evil-.result"),
        format!("mesh.v1.history.{member}"),
        "mesh.v1.bcast.evil-".to_owned(),
        "mesh.v1.announce".to_owned(),
        "mesh.v1.sched.holding".to_owned(),
        "mesh.v1.sched.evil-.hb".to_owned(),
        "mesh.v1.cancel.evil-".to_owned(),
        "mesh.v1.back.evil-".to_owned(),
        "mesh.v1.dlq".to_owned(),
        "mesh.v1.ledger.do".to_owned(),
        "mesh.v1.ledger.facts".to_owned(),
        "mesh.v1.ledger.stored".to_owned(),
        "mesh.v1.blob.evil-.chunk".to_owned(),
        format!("_INBOX.{device}.evil-"),
        "_INBOX.gateway.evil-".to_owned(),
        "$SYS.REQ.CLAIMS.UPDATE".to_owned(),
        "$SYS.REQ.SERVER.PING".to_owned(),
        "$SRV.PING".to_owned(),
    ]
    .into();
    let mut spy = stage_spy(stage).await;
    publish_all(stage, &subjects, None, b"evil-as-another").await;
    let mut member_peer = stage.rogue.as_member().await;
    for subject in &subjects {
        if member_peer.closed {
            member_peer = stage.rogue.as_member().await;
        }
        member_peer.publish(subject, None, b"", b"evil-as-another").await;
        member_peer.settle().await;
    }
    spy.settle().await;
    spy.listen(SILENT).await;
    must!(!spy.heard.iter().any(|heard| heard.holds("evil-")), "the neighbour's subjects got {:?}", spy.heard);
    Ok(format!("{} subjects by client, leaf and member: nothing arrived in CONTROL or at the neighbour", subjects.len()))
}

/// Whatever arrives for the neighbour's device in EDGE, with its own login.
async fn stage_spy(stage: &Stage) -> Peer {
    let device = stage.victim();
    let creds = e2e::foreign::creds_of(&stage.stack.path("/devices/1/home"));
    let mut spy = Peer::client(&stage.rogue.hub, Some(&creds), &json!({})).await.expect("the neighbour's login");
    for subject in
        [format!("mesh.v1.offer.{device}"), format!("mesh.v1.ctl.{device}.*"), format!("_INBOX.{device}.>"), "mesh.v1.bcast.>".to_owned()]
    {
        spy.subscribe(&subject, None).await;
    }
    spy.settle().await;
    assert!(spy.errors.is_empty(), "{:?}", spy.errors);
    spy
}

async fn overhear(stage: &Stage) -> Outcome {
    let (device, member) = (stage.victim(), stage.victim_member());
    let wanted: Vec<String> = [
        ">".to_owned(),
        "*".to_owned(),
        "mesh.>".to_owned(),
        "mesh.v1.>".to_owned(),
        "mesh.v1.*.*".to_owned(),
        "mesh.v1.offer.*".to_owned(),
        format!("mesh.v1.offer.{device}"),
        "mesh.v1.ctl.*.*".to_owned(),
        format!("mesh.v1.ctl.{device}.assign"),
        "mesh.v1.dev.>".to_owned(),
        format!("mesh.v1.dev.{device}.bid.*"),
        format!("mesh.v1.dev.{device}.receipt.*"),
        "mesh.v1.submit.*".to_owned(),
        "mesh.v1.api.>".to_owned(),
        "mesh.v1.watch.*.*.*".to_owned(),
        format!("mesh.v1.watch.{member}.*.*"),
        "_INBOX.>".to_owned(),
        format!("_INBOX.{device}.>"),
        format!("_INBOX.{member}.>"),
        "_R_.>".to_owned(),
        "$JS.>".to_owned(),
        "$JS.ACK.>".to_owned(),
        "$KV.>".to_owned(),
        "$SYS.>".to_owned(),
        "$SYS.ACCOUNT.>".to_owned(),
        "$GR.>".to_owned(),
        "_GR_.>".to_owned(),
        "$NRG.>".to_owned(),
    ]
    .into();
    let mut heard = vec![];
    for queue in [None, Some("gateway"), Some("evil")] {
        // What is exactly another's cuts the connection off, so it has one of its own.
        let (wide, exact): (Vec<&String>, Vec<&String>) = wanted.iter().partition(|subject| subject.contains(['*', '>']));
        let mut peers = vec![];
        for subjects in std::iter::once(wide).chain(exact.into_iter().map(|one| vec![one])) {
            for mut peer in both(stage).await {
                for subject in &subjects {
                    peer.subscribe(subject, queue).await;
                }
                peer.settle().await;
                peers.push((subjects[0], peer));
            }
        }
        let member = stage.rogue.as_member().await;
        peers.push((&wanted[0], member));
        doors::http(&stage.stack, &json!({"kind": "echo", "text": "private-over-http"}), &format!("overheard-{queue:?}")).await;
        tokio::time::sleep(SILENT).await;
        for (subject, mut peer) in peers {
            peer.settle().await;
            heard.extend(
                peer.heard
                    .into_iter()
                    .map(|heard| format!("{subject} ({queue:?}): {} {}", heard.subject, String::from_utf8_lossy(&heard.body))),
            );
        }
    }
    // Notices are everybody's, and there are none here.
    must!(heard.is_empty(), "{} messages were overheard, such as {:?}", heard.len(), heard.first());
    Ok(format!("{} subjects, plain and in queue groups, by client and leaf: nothing was heard", wanted.len()))
}

async fn streams(stage: &Stage) -> Outcome {
    let before = (stage.shape().await, stage.streams().await);
    let mut subjects = vec![];
    for prefix in ["$JS.API", "$JS.hub.API", "mesh.v1.audit"] {
        for call in [
            "INFO",
            "STREAM.NAMES",
            "STREAM.LIST",
            "STREAM.CREATE.EVIL",
            "STREAM.UPDATE.LEDGER",
            "STREAM.DELETE.LEDGER",
            "STREAM.PURGE.JOBS",
            "STREAM.INFO.LEDGER",
            "STREAM.MSG.GET.LEDGER",
            "STREAM.MSG.DELETE.HISTORY",
            "STREAM.SNAPSHOT.LEDGER",
            "STREAM.RESTORE.EVIL",
            "STREAM.PEER.REMOVE.LEDGER",
            "STREAM.LEADER.STEPDOWN.LEDGER",
            "DIRECT.GET.LEDGER",
            "DIRECT.GET.KV_devices",
            "DIRECT.GET.BLOBS",
            "CONSUMER.CREATE.JOBS",
            "CONSUMER.CREATE.JOBS.evil",
            "CONSUMER.DURABLE.CREATE.JOBS.evil",
            "CONSUMER.DELETE.JOBS.normal",
            "CONSUMER.PAUSE.JOBS.normal",
            "CONSUMER.UNPIN.JOBS.normal",
            "CONSUMER.RESET.JOBS.normal",
            "CONSUMER.LEADER.STEPDOWN.JOBS.normal",
            "CONSUMER.MSG.NEXT.JOBS.normal",
            "CONSUMER.INFO.JOBS.normal",
            "META.LEADER.STEPDOWN",
            "SERVER.REMOVE",
            "ACCOUNT.PURGE.EVIL",
        ] {
            subjects.push(format!("{prefix}.{call}"));
        }
    }
    subjects.extend(
        [
            "$KV.devices.evil",
            "$KV.policy.evil",
            "$KV.ledger.writer",
            "$O.blobs.C.evil",
            "$O.blobs.M.evil",
            "$JS.FC.JOBS.evil.x",
            "$JS.SNAPSHOT.ACK.LEDGER.x",
        ]
        .map(str::to_owned),
    );
    let inbox = format!("_INBOX.{}.evil", stage.rogue.device_id);
    let body =
        json!({"name": "EVIL", "subjects": ["mesh.v1.evil-"], "seq": 1, "batch": 10, "config": {"name": "evil", "deliver_subject": inbox}});
    let mut answers = stage.rogue.client().await;
    answers.subscribe(&inbox, None).await;
    answers.settle().await;
    publish_all(stage, &subjects, Some(&inbox), body.to_string().as_bytes()).await;
    answers.settle().await;
    answers.listen(SILENT).await;
    must!(!answers.heard.iter().any(|heard| !heard.body.is_empty()), "JetStream answered: {:?}", answers.heard.first());
    let after = (stage.shape().await, stage.streams().await);
    must!(before.0 == after.0, "streams or consumers changed");
    for ((name, messages, _), (_, now, _)) in before.1.iter().zip(&after.1) {
        let fixed = ["KV_devices", "KV_policy", "BLOBS", "DLQ", "CANCELS"].contains(&name.as_str());
        must!(!fixed || messages == now, "{name} had {messages} messages and has {now}");
    }
    Ok(format!("{} calls by client and leaf: no answer, no stream, consumer or bucket changed", subjects.len()))
}

async fn domains(stage: &Stage) -> Outcome {
    let victim = stage.victim();
    for domain in ["hub".to_owned(), format!("dev-{victim}")] {
        let name = format!("lf-{}", bus::keys::random_hex::<16>().map_err(|error| error.to_string())?);
        let more = json!({"domain": domain, "jetstream": true});
        let Ok(mut leaf) = Peer::leaf(&stage.rogue.leaf, Some(&stage.rogue.creds), &name, &more).await else { continue };
        for subject in [
            format!("$JS.{domain}.API.>"),
            "$JS.API.>".to_owned(),
            format!("$JS.{domain}.>"),
            "out.submit.*".to_owned(),
            "submit".to_owned(),
        ] {
            leaf.subscribe(&subject, None).await;
        }
        leaf.settle().await;
        let local = stage.stack.local(1).await;
        let key = format!("shadow-{domain}");
        doors::local(&local, &json!({"kind": "echo", "text": "private", "key": key}).to_string(), &key).await;
        leaf.settle().await;
        must!(leaf.heard.is_empty(), "as {domain} it heard {:?}", leaf.heard.first());
    }
    Ok("the neighbour's outbox and the hub's PubAcks are their own; nothing was heard".into())
}

async fn names(stage: &Stage) -> Outcome {
    let secret = server_name(&stage.stack);
    must!(secret.len() >= 32, "the name is short: {secret}");
    // What anybody can read of the network does not hold it.
    for path in ["/devices", "/network", "/jobs?limit=200", "/ledger/facts"] {
        let (_, answer) = doors::get(&stage.stack, path).await;
        must!(!answer.to_string().contains(&secret), "{path} tells the neighbour's server name");
    }
    let victim = stage.victim();
    for name in ["hub-1".to_owned(), victim.clone(), format!("lf-{victim}"), format!("dev-{victim}"), "UPLINK".to_owned(), String::new()] {
        for more in [
            json!({}),
            json!({"cluster": "hub", "remote_account": "UPLINK", "domain": format!("dev-{victim}")}),
            json!({"is_hub": true}),
            json!({"cluster": "a b"}),
        ] {
            if let Ok(mut leaf) = Peer::leaf(&stage.rogue.leaf, Some(&stage.rogue.creds), &name, &more).await {
                leaf.subscribe(&format!("mesh.v1.ctl.{}.*", stage.rogue.device_id), None).await;
                leaf.settle().await;
            }
        }
    }
    Ok("24 handshakes under names that can be known: the neighbour's link stays; its own name is 128 random bits that nothing tells".into())
}

async fn message_ids(stage: &Stage) -> Outcome {
    let (device, member) = (stage.rogue.device_id, stage.rogue.member_id);
    let mut peers = both(stage).await;
    let mut swallowing = stage.rogue.as_member().await;
    let bus = stage.stack.member().await;
    let mut swallowed = 0;
    for n in 0..20 {
        let key = format!("swallowed-{n}");
        let block = format!("NATS/1.0\r\nNats-Msg-Id: {key}\r\n\r\n");
        for (peer, subject) in [(&mut swallowing, format!("mesh.v1.submit.{member}"))] {
            peer.publish(&subject, None, block.as_bytes(), b"{}").await;
        }
        for peer in &mut peers {
            for subject in [
                format!("mesh.v1.submit.{device}"),
                format!("mesh.v1.dev.{device}.receipt.any"),
                format!("mesh.v1.dev.{device}.evt.started"),
            ] {
                peer.publish(&subject, None, block.as_bytes(), b"{}").await;
            }
            peer.settle().await;
        }
        swallowing.settle().await;
        let before = stage.streams().await.into_iter().find(|(name, ..)| name == "SUBMIT").map(|(.., last)| last);
        let seq = doors::store(&stage.stack, &bus, doors::echo("mine").to_string(), Some(&key)).await;
        // A duplicate would be given the sequence of the one before it.
        swallowed += u32::from(before.is_some_and(|before| seq <= before));
    }
    must!(swallowed == 0, "{swallowed} of 20 submissions were swallowed");
    Ok("20 submissions of the neighbour under the same ids: all stored, for none of our parts uses that header there".into())
}

async fn replies(stage: &Stage) -> Outcome {
    let (device, victim, member) = (stage.rogue.device_id, stage.victim(), stage.victim_member());
    let before = stage.streams().await;
    let mut spy = stage_spy(stage).await;
    let targets: Vec<String> = [
        format!("mesh.v1.ctl.{victim}.assign"),
        format!("mesh.v1.ctl.{victim}.closed"),
        format!("mesh.v1.ctl.{victim}.cancel"),
        format!("mesh.v1.offer.{victim}"),
        "mesh.v1.bcast.evil-".to_owned(),
        format!("_INBOX.{victim}.evil-"),
        format!("mesh.v1.submit.{member}"),
        format!("mesh.v1.dev.{victim}.hb"),
        format!("mesh.v1.dev.{victim}.receipt.any"),
        format!("mesh.v1.api.{member}.job.submit"),
        "mesh.v1.ledger.facts".to_owned(),
        "mesh.v1.ledger.do".to_owned(),
        "$JS.API.STREAM.PURGE.JOBS".to_owned(),
        "$JS.ACK.JOBS.normal.1.1.1.1.0".to_owned(),
        "$KV.devices.evil-".to_owned(),
        "$SYS.REQ.SERVER.PING".to_owned(),
    ]
    .into();
    let mut peers = both(stage).await;
    for target in &targets {
        for (which, peer) in peers.iter_mut().enumerate() {
            for (call, body) in [("job.show", r#"{"id":"evil-"}"#), ("evil-.call", "{}")] {
                if peer.closed {
                    *peer = if which == 0 { stage.rogue.client().await } else { stage.rogue.leaf().await };
                }
                peer.publish(&format!("mesh.v1.api.{device}.{call}"), Some(target), b"", body.as_bytes()).await;
                peer.settle().await;
            }
            peer.publish(&format!("mesh.v1.submit.{device}"), Some(target), b"", b"evil-").await;
            peer.settle().await;
        }
    }
    spy.listen(SILENT).await;
    spy.settle().await;
    let arrived = spy.heard.iter().filter(|heard| !heard.subject.starts_with("_INBOX")).count();
    let after = stage.streams().await;
    for ((name, messages, _), (_, now, _)) in before.iter().zip(&after) {
        let fixed = ["KV_devices", "KV_policy", "CANCELS", "DLQ"].contains(&name.as_str());
        must!(!fixed || messages == now, "{name} had {messages} messages and has {now}");
    }
    Ok(format!(
        "{} targets: in CONTROL nothing; {arrived} messages reached the neighbour's subjects, unsigned, and its agent does nothing on them",
        targets.len()
    ))
}

async fn traces(stage: &Stage) -> Outcome {
    let (device, victim, member) = (stage.rogue.device_id, stage.victim(), stage.victim_member());
    let mut spy = stage_spy(stage).await;
    let own = format!("mesh.v1.api.{device}.credit.balance");
    let mut peers = both(stage).await;
    let targets: Vec<String> = [
        format!("mesh.v1.ctl.{victim}.cancel"),
        format!("mesh.v1.offer.{victim}"),
        format!("_INBOX.{victim}.evil-"),
        format!("mesh.v1.submit.{member}"),
        format!("mesh.v1.dev.{victim}.hb"),
        "mesh.v1.ledger.facts".to_owned(),
        "mesh.v1.ledger.do".to_owned(),
        "$JS.API.STREAM.PURGE.JOBS".to_owned(),
        "_R_.evil-".to_owned(),
    ]
    .into();
    for target in &targets {
        for only in ["", "Nats-Trace-Only: true\r\n"] {
            for (which, peer) in peers.iter_mut().enumerate() {
                if peer.closed {
                    *peer = if which == 0 { stage.rogue.client().await } else { stage.rogue.leaf().await };
                }
                let block = format!(
                    "NATS/1.0\r\nNats-Trace-Dest: {target}\r\n{only}traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nX: evil-trace\r\n\r\n"
                );
                for subject in [&own, &format!("mesh.v1.submit.{device}"), &format!("mesh.v1.dev.{device}.evt.started")] {
                    peer.publish(subject, Some(&format!("_INBOX.{device}.x")), block.as_bytes(), b"{}").await;
                    peer.settle().await;
                }
            }
        }
    }
    spy.listen(SILENT).await;
    spy.settle().await;
    must!(!spy.heard.iter().any(|heard| heard.holds("evil-trace")), "a trace reached the neighbour: {:?}", spy.heard.first());
    Ok(format!("{} destinations, with and without the message itself: no trace arrived anywhere", targets.len()))
}

async fn headers(stage: &Stage) -> Outcome {
    let (device, victim) = (stage.rogue.device_id, stage.victim());
    let before = stage.shape().await;
    let mut peers = both(stage).await;
    for header in [
        "Nats-Rollup: all",
        "Nats-Rollup: sub",
        "Nats-TTL: 1s",
        "Nats-TTL: never",
        "Nats-Expected-Last-Sequence: 0",
        "Nats-Expected-Last-Subject-Sequence: 1",
        "Nats-Expected-Stream: LEDGER",
        "Nats-Expected-Last-Msg-Id: x",
        "Nats-Batch-Id: evil\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1",
        "Nats-Batch-Id: evil\r\nNats-Batch-Sequence: 1",
        "Nats-Incr: +1",
        "Nats-Schedule: @every 1s\r\nNats-Schedule-Target: mesh.v1.ledger.facts",
        "Nats-Schedule: @at 2099-01-01T00:00:00Z\r\nNats-Schedule-Target: mesh.v1.submit.x",
        "Nats-Marker-Reason: Purge",
        "KV-Operation: PURGE",
        "Nats-Required-Api-Level: 99",
        "Nats-Request-Info: {\"acc\":\"CONTROL\"}",
        "Mesh-Asker: network",
    ] {
        let block = format!("NATS/1.0\r\n{header}\r\n\r\n");
        for peer in &mut peers {
            for kind in ["hb", "evt.started", "receipt.any", "bid.s1"] {
                peer.publish(
                    &format!("mesh.v1.dev.{device}.{kind}"),
                    Some(&format!("_INBOX.{device}.x")),
                    block.as_bytes(),
                    b"evil-header",
                )
                .await;
            }
            peer.settle().await;
            must!(!peer.closed, "{header} cut the connection");
        }
    }
    must!(before == stage.shape().await, "streams or consumers changed");
    let last = stage.control.last_by_subject("HEARTBEATS", &format!("mesh.v1.dev.{victim}.hb")).await.map_err(|error| error.to_string())?;
    must!(last.is_some(), "the neighbour's last heartbeat is gone");
    Ok("18 headers on one's own subjects by client and leaf: what others stored is there, no stream changed".into())
}

async fn another_login(stage: &Stage) -> Outcome {
    let text = std::fs::read_to_string(e2e::foreign::creds_of(&stage.stack.path("/devices/1/home"))).map_err(|error| error.to_string())?;
    let (theirs, _) = bus::connect::parse_creds(&text).ok_or("credentials")?;
    // Their token, which is public to whoever saw it once, with one's own signature or none.
    let mine = stage.rogue.transport.sign(b"nonce").map_err(|error| error.to_string())?;
    let mine = data_encoding::BASE64URL_NOPAD.encode(&mine);
    for more in [
        json!({"jwt": theirs}),
        json!({"jwt": theirs, "sig": ""}),
        json!({"jwt": theirs, "sig": mine}),
        json!({"jwt": theirs, "nkey": stage.rogue.transport.public_key()}),
        json!({"jwt": "", "user": "agent", "pass": "x"}),
    ] {
        for creds in [Some(stage.rogue.creds.as_path()), None] {
            must!(Peer::client(&stage.rogue.hub, creds, &more).await.is_err(), "a client got in with {more}");
            must!(Peer::leaf(&stage.rogue.leaf, creds, "lf-x", &more).await.is_err(), "a leaf got in with {more}");
        }
    }
    let mut spy = stage_spy(stage).await;
    let mut peer = stage.rogue.client().await;
    peer.say(format!("CONNECT {}\r\n", json!({"jwt": theirs, "verbose": false})).as_bytes()).await;
    peer.publish(&format!("mesh.v1.dev.{}.hb", stage.victim()), None, b"", b"evil-second-login").await;
    peer.settle().await;
    spy.settle().await;
    Ok("20 logins with another's token refused; a second CONNECT gives no right".into())
}
