//! What each role may do, tried on a real hub: own messages get through, everything else is refused by the server.

// A test stops at the first surprise, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use bus_schemas::id::{Asker, Cid, DeviceId, InstanceId, JobId, MemberId};
use bus_schemas::{Signer, stream, subject};
use futures::StreamExt;
use gateway::enrolment::mint::Minter;
use support::{HUNG, Hub, Leaf};
use tokio::sync::mpsc;

fn device(seed: u8) -> DeviceId {
    Signer::from_seed(&[seed; 32]).public().device_id()
}
fn member(seed: u8) -> MemberId {
    Signer::from_seed(&[seed; 32]).public().member_id()
}
fn scheduler_id() -> InstanceId {
    "s1".parse().unwrap()
}

/// A client that tells what the server complains about.
struct Watched {
    client: Client,
    complaints: mpsc::UnboundedReceiver<String>,
}
impl Watched {
    async fn connect(hub: &Hub, creds: &Path, inbox: &str) -> Self {
        let (sender, complaints) = mpsc::unbounded_channel();
        let options =
            ConnectOptions::new().credentials_file(creds).await.unwrap().custom_inbox_prefix(inbox).event_callback(move |event| {
                let sender = sender.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        let _ = sender.send(error.to_string().to_lowercase());
                    }
                }
            });
        Self { client: options.connect(hub.url.as_str()).await.unwrap(), complaints }
    }
    async fn complaint(&mut self) -> String {
        tokio::time::timeout(HUNG, self.complaints.recv()).await.expect("the server complains").unwrap()
    }
    async fn may_not_publish(&mut self, subject: &str) {
        self.client.publish(subject.to_owned(), "x".into()).await.unwrap();
        let complaint = self.complaint().await;
        assert!(complaint.contains("permissions violation") && complaint.contains(&subject.to_lowercase()), "{subject}: {complaint}");
    }
    async fn may_not_hear(&mut self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        let complaint = self.complaint().await;
        assert!(complaint.contains("permissions violation") && complaint.contains(&subject.to_lowercase()), "{subject}: {complaint}");
    }
}

/// Everything sent before has been taken note of: subscriptions of this connection are heard from here on.
async fn round_trip(part: &bus::Bus) {
    part.stream_end(stream::LEDGER).await.unwrap();
}

const STORED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_device_speaks_for_itself_and_nobody_else() {
    let hub = Hub::with_streams().await;
    let (d, other, m) = (device(1), device(2), member(1));
    let (creds, _) = hub.creds_of(&d, &m);
    let bus = hub.bus_with(&creds, &format!("_INBOX.{d}")).await;
    for (said, stream) in [
        (subject::heartbeat(&d), stream::HEARTBEATS),
        (subject::bid(&d, &scheduler_id()), stream::BIDS),
        (subject::event(&d, "started"), stream::EVENTS),
        (subject::receipt(&d, &scheduler_id()), stream::RECEIPTS),
        (subject::receipt_any(&d), stream::RECEIPTS),
        (subject::submit(&Asker::Device(d)), stream::SUBMIT),
    ] {
        let stored = bus.store_once(said.clone(), None, "x".into(), STORED).await.unwrap();
        assert_eq!(stored.stream, stream, "{said}");
    }
    let mut watched = Watched::connect(&hub, &creds, &format!("_INBOX.{d}")).await;
    for said in [
        subject::heartbeat(&other),
        subject::receipt(&other, &scheduler_id()),
        subject::submit(&Asker::Device(other)),
        subject::submit(&Asker::Member(m)),
        subject::api(&Asker::Device(other), "job.ls"),
        subject::offer(&d),
        subject::ctl(&other, "closed"),
        subject::watch(&m, &JobId(Cid::of(b"j")), "result"),
        subject::LEDGER_FACTS.to_owned(),
        subject::LEDGER_DO.to_owned(),
        "$JS.API.STREAM.CREATE.X".to_owned(),
        "$JS.API.STREAM.DELETE.LEDGER".to_owned(),
        "$JS.API.CONSUMER.CREATE.JOBS.x".to_owned(),
        "$JS.ACK.JOBS.normal.1.1.1.1.0".to_owned(),
        format!("$KV.devices.{d}"),
        "mesh.v1.audit.DIRECT.GET.LEDGER".to_owned(),
        format!("_INBOX.{other}.x"),
    ] {
        watched.may_not_publish(&said).await;
    }
    for heard in [
        subject::offer(&other),
        subject::ctl_all(&other),
        subject::watch_all(&member(2)),
        "mesh.v1.watch.*.*.*".to_owned(),
        subject::HEARTBEATS.to_owned(),
        ">".to_owned(),
        "_INBOX.>".to_owned(),
    ] {
        watched.may_not_hear(&heard).await;
    }
}

#[tokio::test]
async fn a_member_submits_asks_and_hears_its_own() {
    let hub = Hub::with_streams().await;
    let (d, m) = (device(1), member(1));
    let (device_creds, member_creds) = hub.creds_of(&d, &m);
    let bus = hub.bus_with(&member_creds, &format!("_INBOX.{m}")).await;
    let stored = bus.store_once(subject::submit(&Asker::Member(m)), None, "{}".into(), STORED).await.unwrap();
    assert_eq!(stored.stream, stream::SUBMIT);

    // The service, as the gateway offers it: who asks stands in the subject.
    let gateway = hub.bus("gateway").await;
    let mut asked = gateway.client.queue_subscribe(subject::API_ALL, "gateway".into()).await.unwrap();
    round_trip(&gateway).await;
    let answering = gateway.clone();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let who = subject::asker_of(&message.subject).map(|asker| asker.to_string()).unwrap_or_default();
            answering.client.publish(message.reply.unwrap(), who.into()).await.unwrap();
        }
    });
    let answer = bus.ask_bytes(subject::api(&Asker::Member(m), "job.ls"), "".into(), STORED).await.unwrap();
    assert_eq!(answer, m.to_string());
    let device_bus = hub.bus_with(&device_creds, &format!("_INBOX.{d}")).await;
    let answer = device_bus.ask_bytes(subject::api(&Asker::Device(d), "blob.put"), "".into(), STORED).await.unwrap();
    assert_eq!(answer, d.to_string());

    // What is told to a member arrives at the member and at its device, and nowhere else.
    let mut at_member = bus.client.subscribe(subject::watch_all(&m)).await.unwrap();
    let mut at_device = device_bus.client.subscribe(subject::watch_all(&m)).await.unwrap();
    // An answer to a later request: the server has taken note of the subscription.
    bus.ask_bytes(subject::api(&Asker::Member(m), "job.ls"), "".into(), STORED).await.unwrap();
    device_bus.ask_bytes(subject::api(&Asker::Device(d), "job.ls"), "".into(), STORED).await.unwrap();
    let told = subject::watch(&m, &JobId(Cid::of(b"j")), "state");
    gateway.client.publish(subject::watch(&member(2), &JobId(Cid::of(b"j")), "state"), "not yours".into()).await.unwrap();
    gateway.client.publish(told.clone(), "yours".into()).await.unwrap();
    for heard in [&mut at_member, &mut at_device] {
        let message = tokio::time::timeout(HUNG, heard.next()).await.unwrap().unwrap();
        assert_eq!((message.subject.as_str(), &message.payload[..]), (told.as_str(), &b"yours"[..]));
    }

    let mut watched = Watched::connect(&hub, &member_creds, &format!("_INBOX.{m}")).await;
    for said in [
        subject::heartbeat(&d),
        subject::submit(&Asker::Member(member(2))),
        subject::submit(&Asker::Device(d)),
        subject::api(&Asker::Member(member(2)), "job.ls"),
        "$JS.API.STREAM.CREATE.X".to_owned(),
        "$JS.API.STREAM.INFO.LEDGER".to_owned(),
        "_R_.x".to_owned(),
    ] {
        watched.may_not_publish(&said).await;
    }
    watched.may_not_hear(&subject::watch_all(&member(2))).await;
}

#[tokio::test]
async fn an_auditor_reads_the_ledger_and_only_that() {
    let hub = Hub::with_streams().await;
    let auditor = hub.bus_with(&hub.dir.creds("auditor"), "_INBOX.auditor").await.with_api_prefix(subject::AUDIT_PREFIX);
    assert_eq!(auditor.stream_end(stream::LEDGER).await.unwrap().last_seq, 1);
    let facts = auditor.from_seq(stream::LEDGER, 1, 256).await.unwrap();
    assert!(facts.len() == 1 && String::from_utf8_lossy(&facts[0].payload).contains("genesis"));
    assert_eq!(auditor.from_leader(stream::LEDGER, 1).await.unwrap().unwrap(), facts[0].payload);
    let mut watched = Watched::connect(&hub, &hub.dir.creds("auditor"), "_INBOX.auditor").await;
    for said in [
        subject::LEDGER_FACTS,
        "mesh.v1.audit.STREAM.PURGE.LEDGER",
        "mesh.v1.audit.STREAM.INFO.JOBS",
        "mesh.v1.audit.CONSUMER.CREATE.LEDGER",
        "$JS.API.DIRECT.GET.LEDGER",
    ] {
        watched.may_not_publish(said).await;
    }
}

#[tokio::test]
async fn parts_have_no_more_than_they_need() {
    let hub = Hub::with_streams().await;
    let refused = [
        ("gateway", [subject::LEDGER_FACTS, "$JS.API.STREAM.DELETE.JOBS", "$JS.API.CONSUMER.CREATE.HISTORY.x"]),
        ("scheduler", [subject::LEDGER_FACTS, "mesh.v1.job.high.x", "$JS.API.CONSUMER.CREATE.JOBS.x"]),
        ("ledger", ["mesh.v1.job.high.x", "$JS.API.STREAM.PURGE.LEDGER", "$KV.devices.x"]),
        ("revoker", [subject::LEDGER_FACTS, "$JS.API.DIRECT.GET.JOBS", "$KV.devices.x"]),
        ("operator", [subject::LEDGER_FACTS, "$JS.API.STREAM.PURGE.JOBS", "$JS.ACK.JOBS.high.1.1.1.1.0"]),
    ];
    for (role, subjects) in refused {
        let mut watched = Watched::connect(&hub, &hub.dir.creds(role), &format!("_INBOX.{role}")).await;
        for said in subjects {
            watched.may_not_publish(said).await;
        }
    }
    // Who has a job in hand: asked by a gateway, answered by a scheduler.
    let (asking, holder) = (hub.bus("gateway").await, hub.bus("scheduler").await);
    let mut asked = holder.client.subscribe(subject::HOLDING).await.unwrap();
    round_trip(&holder).await;
    let answering = holder.clone();
    tokio::spawn(async move {
        let question = asked.next().await.unwrap();
        answering.client.publish(question.reply.unwrap(), "held".into()).await.unwrap();
    });
    assert_eq!(asking.ask_bytes(subject::HOLDING.into(), "".into(), STORED).await.unwrap(), "held");
    // The operator sees the streams, and what answers to $SRV.
    let operator = hub.bus("operator").await;
    let names = operator.ask_bytes("$JS.API.STREAM.NAMES".into(), "{}".into(), STORED).await.unwrap();
    assert!(String::from_utf8_lossy(&names).contains("LEDGER"));
    let gateway = hub.bus("gateway").await;
    let mut pings = gateway.client.subscribe("$SRV.PING").await.unwrap();
    round_trip(&gateway).await;
    let answering = gateway.clone();
    tokio::spawn(async move {
        let ping = pings.next().await.unwrap();
        answering.client.publish(ping.reply.unwrap(), "pong".into()).await.unwrap();
    });
    assert_eq!(operator.ask_bytes("$SRV.PING".into(), "".into(), STORED).await.unwrap(), "pong");
}

#[tokio::test]
async fn a_device_behind_its_own_server_is_reached_and_heard() {
    let hub = Hub::with_streams().await;
    let (d, m, s) = (device(1), member(1), scheduler_id());
    let (creds, _) = hub.creds_of(&d, &m);
    let leaf = Leaf::start(&hub, &d, &creds);
    let uplink = leaf.uplink(&d).await;
    let scheduler = hub.bus("scheduler").await;

    let mut ctl = uplink.client.subscribe(subject::ctl_all(&d)).await.unwrap();
    let mut offers = uplink.client.subscribe(subject::offer(&d)).await.unwrap();
    let answering = uplink.client.clone();
    tokio::spawn(async move {
        while let Some(message) = ctl.next().await {
            let reply = message.reply.unwrap();
            assert!(reply.starts_with("_R_."), "{reply}");
            answering.publish(reply, "accepted".into()).await.unwrap();
        }
    });
    // The link comes up by itself: ask until somebody is there.
    let start = std::time::Instant::now();
    let answer = loop {
        match scheduler.ask_bytes(subject::ctl(&d, "assign"), "x".into(), STORED).await {
            Ok(answer) => break answer,
            Err(error) => assert!(start.elapsed() < HUNG, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(answer, "accepted");

    // An offer's reply subject is the bid's: stored, and heard by that scheduler.
    let mut bids = scheduler.client.subscribe(subject::bids_for(&s)).await.unwrap();
    round_trip(&scheduler).await;
    scheduler.client.publish_with_reply(subject::offer(&d), subject::bid(&d, &s), "offer".into()).await.unwrap();
    let offer = tokio::time::timeout(HUNG, offers.next()).await.unwrap().unwrap();
    let reply = offer.reply.unwrap().to_string();
    assert_eq!(reply, subject::bid(&d, &s));
    let stored = uplink.store(reply, None, "bid".into(), HUNG).await.unwrap();
    assert_eq!(stored.stream, stream::BIDS);
    assert_eq!(tokio::time::timeout(HUNG, bids.next()).await.unwrap().unwrap().payload, "bid");

    let stored = uplink.store(subject::receipt(&d, &s), None, "receipt".into(), HUNG).await.unwrap();
    let receipt = scheduler.last_by_subject(stream::RECEIPTS, &subject::receipt_stored(&d)).await.unwrap().unwrap();
    assert_eq!((receipt.seq, &receipt.payload[..]), (stored.seq, &b"receipt"[..]));
    uplink.store(subject::heartbeat(&d), None, "hb".into(), HUNG).await.unwrap();

    // Nobody there: a definite no, at once.
    let nobody = scheduler.ask_bytes(subject::ctl(&device(2), "assign"), "x".into(), STORED).await;
    assert!(matches!(nobody, Err(bus::ask::AskError::Nobody(_))), "{nobody:?}");

    // People at that machine need no login, and do not reach the hub.
    let app = async_nats::connect(leaf.url.as_str()).await.unwrap();
    let answer = app.request(subject::submit(&Asker::Device(d)), "x".into()).await;
    assert!(answer.is_err(), "what is published in LOCAL stays there");
}

/// Where two networks share a hub, neither can tell that the other is there.
#[tokio::test]
async fn networks_on_one_hub_know_nothing_of_each_other() {
    let hub = Hub::with_streams().await;
    let second = hub.beside();
    let made = second.streams(1).await.unwrap();
    assert!(made.iter().any(|change| change.what == "fact genesis"), "{made:?}");
    assert_eq!(second.streams(1).await.unwrap(), [], "a second run");
    assert_ne!(hub.document().network, second.document().network);

    // The same keys are enrolled in both.
    let (d, m, s) = (device(1), member(1), scheduler_id());
    let (here, there) = (hub.creds_of(&d, &m).0, second.creds_of(&d, &m).0);
    let inbox = format!("_INBOX.{d}");
    let (here, there) = (hub.bus_with(&here, &inbox).await, second.bus_with(&there, &inbox).await);
    let part = hub.bus("bootstrap").await;
    let mut anything = part.client.subscribe("mesh.v1.>").await.unwrap();
    let mut offered_here = here.client.subscribe(subject::offer(&d)).await.unwrap();
    let mut offered_there = there.client.subscribe(subject::offer(&d)).await.unwrap();
    round_trip(&part).await;
    // An answer to a later request: the server has taken note of the subscriptions.
    there.store(subject::receipt(&d, &s), None, "there".into(), HUNG).await.unwrap();
    let scheduler = second.bus("scheduler").await;
    scheduler.client.publish_with_reply(subject::offer(&d), subject::bid(&d, &s), "there".into()).await.unwrap();
    let offer = tokio::time::timeout(HUNG, offered_there.next()).await.unwrap().unwrap();
    assert_eq!(offer.payload, "there");
    here.store(subject::receipt(&d, &s), None, "here".into(), HUNG).await.unwrap();
    let receipt = |bus: bus::Bus| async move {
        bus.last_by_subject(stream::RECEIPTS, &subject::receipt_stored(&d)).await.unwrap().map(|stored| (stored.seq, stored.payload))
    };
    assert_eq!(receipt(hub.bus("scheduler").await).await, Some((1, "here".into())));
    assert_eq!(receipt(scheduler).await, Some((1, "there".into())));
    let first = tokio::time::timeout(HUNG, anything.next()).await.unwrap().unwrap();
    assert_eq!(first.payload, "here", "{}: what the other's device stored went by unheard", first.subject);
    assert!(futures::FutureExt::now_or_never(offered_here.next()).is_none());

    // A login that one network's gateway signs for the other's account.
    let forged = Minter::read(&hub.dir.nkey("role-device"), &hub.dir.nkey("role-member"), &second.dir.edge_pub()).unwrap();
    let transport = nkeys::KeyPair::new_user();
    let token = forged.device(&transport.public_key(), &d, &m, bus::hub_time::here_ms() / 1000, 3600).unwrap();
    let options = ConnectOptions::with_jwt(token, move |nonce| {
        let signed = transport.sign(&nonce).map_err(async_nats::AuthError::new);
        async move { signed }
    });
    let refused = options.max_reconnects(1).connect(hub.url.as_str()).await.unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("authorization violation"), "{refused}");

    // The hub knows both when it is started again: it was told of the second one while it ran.
    let _again = hub.start_again();
    let ends = [&hub, &second].map(|network| async move { network.bus("ledger").await.stream_end(stream::LEDGER).await.unwrap().last_seq });
    assert_eq!(futures::future::join_all(ends).await, [1, 1]);
}
