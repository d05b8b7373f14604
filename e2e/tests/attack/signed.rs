//! Signed messages that say what is not so: forged, altered, replayed, or true of somebody else.
//!
//! Job messages (wrong key, expired, future, another network, altered, another type) are in `bad_input.rs`.

use std::time::Duration;

use bus_schemas::assignment::{AssignAnswer, AssignReply, AssignRequest, Assignment};
use bus_schemas::envelope::{Body, HEADER_KEY, HEADER_SIG, HEADER_TYPE, encode};
use bus_schemas::event::{Event, EventKind, Progress};
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::job::JobSpec;
use bus_schemas::offer::{Bid, BidAnswer, Offer, Quote};
use bus_schemas::receipt::{Outcome as Ended, Receipt, ReceiptMessage, ResultRef};
use bus_schemas::resources::Resources;
use bus_schemas::{AttemptId, Batch, Cid, Form, JobId, MilliMana, NetworkId, PublicKey, Signer, Verifier, strict};
use e2e::doors;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use testkit::{Peer, http, until};

use crate::must;
use crate::stage::{Outcome, Stage};

const GROUP: &str = "signed";

pub async fn attacks(stage: &mut Stage) {
    let done = signatures(stage).await;
    stage.row(GROUP, "signatures of weak keys, the identity point, s + L, cut, of another type", done).await;
    let done = heartbeats(stage).await;
    stage.row(GROUP, "heartbeats of others, altered, replayed, weakly signed, too large to be shown", done).await;
    let done = events(stage).await;
    stage.row(GROUP, "started and progress of a job that another device has, or nobody", done).await;
    let done = receipts(stage).await;
    stage.row(GROUP, "receipts: replayed, altered, of another job, attempt, type, key", done).await;
    let done = auction(stage).await;
    stage.row(GROUP, "two different bids, a tier of one's own, a price above, a time tenfold", done).await;
}

fn net(stage: &Stage) -> NetworkId {
    stage.stack.text("/network").parse().expect("a network")
}
fn now() -> u64 {
    bus::hub_time::here_ms()
}

/// The group's order, little-endian: `s + L` is another number and the same scalar.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0x10,
];
fn plus_l(signature: &[u8]) -> Vec<u8> {
    let mut out = signature.to_vec();
    let mut carry = 0_u16;
    for (byte, add) in out[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = u8::try_from(sum & 0xff).unwrap_or_default();
        carry = sum >> 8;
    }
    out
}

/// Keys and signatures that a check which is not strict would let pass, each with what it is.
fn weak() -> Vec<(&'static str, [u8; 32], Vec<u8>)> {
    let mut identity = [0_u8; 32];
    identity[0] = 1;
    let zeros = [0_u8; 32];
    let mut order_two = [0xff_u8; 32];
    (order_two[0], order_two[31]) = (0xec, 0x7f);
    let signature = |r: &[u8; 32]| [r.as_slice(), &[0; 32]].concat();
    vec![
        ("the identity point", identity, signature(&identity)),
        ("a point of order two", order_two, signature(&identity)),
        ("a point of order four", zeros, signature(&identity)),
        ("the identity point, another R", identity, signature(&zeros)),
    ]
}

/// A key as a binary message carries it, where only the check of a signature says whether it is one. (As text none of these is read.)
fn unchecked(point: [u8; 32]) -> PublicKey {
    rmp_serde::from_slice(&[[0xc4, 32].as_slice(), &point].concat()).expect("32 bytes")
}

async fn signatures(stage: &Stage) -> Outcome {
    let signer = &stage.rogue.member;
    let spec = |by: PublicKey, key: &str| JobSpec {
        net: Some(net(stage)),
        by: Some(by),
        key: Some(key.to_owned()),
        at: Some(now()),
        exp: Some(now() + 60_000),
        kind: "echo".into(),
        text: Some(bus_schemas::job::Text::One("signed".into())),
        ..JobSpec::default()
    };
    let body = serde_json::to_vec(&spec(signer.public(), "attack-signed")).expect("JSON");
    let [(_, kind), (_, key), (_, signature)] = signer.headers::<JobSpec>(&body);
    let bytes = data_encoding::BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let other = bus_schemas::envelope::type_name::<Receipt>(Form::Json);
    let mut rows: Vec<(String, String, String, String)> = [
        ("s + L", text(&plus_l(&bytes))),
        ("cut", text(&bytes[..63])),
        ("longer", text(&[bytes.as_slice(), &[0]].concat())),
        ("zeros", text(&[0; 64])),
        ("another's alphabet", data_encoding::BASE64.encode(&bytes) + "+/"),
        ("none", String::new()),
    ]
    .into_iter()
    .map(|(name, signature)| (name.to_owned(), kind.clone(), key.clone(), signature))
    .collect();
    rows.push(("of another type".into(), other, key.clone(), signature.clone()));
    for (name, kind, key, signature) in &rows {
        let headers = [(HEADER_TYPE, kind.as_str()), (HEADER_KEY, key.as_str()), (HEADER_SIG, signature.as_str())];
        let (status, answer) = http::send("POST", &stage.stack.api("/api/v1/jobs"), &headers, body.clone()).await;
        must!((400..404).contains(&status), "{name}: {status} {answer}");
    }
    // The same in binary, where keys are bytes: a batch of the submit subject becomes a rejection, never a job.
    let mut peer = stage.rogue.as_member().await;
    for (name, point, forged) in weak() {
        let point = unchecked(point);
        let mut batch = signer.batch(&[spec(point, &format!("attack {name}"))]);
        (batch.k, batch.s) = (point, ByteBuf::from(forged));
        peer.publish(&format!("mesh.v1.submit.{}", stage.rogue.member_id), None, b"", &batch.encode()).await;
    }
    peer.settle().await;
    Ok(format!("{} at the HTTP door refused, {} batches on the bus", rows.len(), weak().len()))
}

fn heartbeat(stage: &Stage, name: &str) -> Heartbeat {
    Heartbeat {
        net: net(stage),
        device: stage.rogue.device_id,
        at: now(),
        name: name.to_owned(),
        version: "0.1.0".into(),
        kinds: vec!["echo".into()],
        capabilities: vec![],
        trust_scopes: vec![],
        federations: vec![],
        claimed_tier: 4,
        total: Resources { cpu_cores: 64, memory_mb: 65_536, storage_mb: 1_000_000, ..Resources::default() },
        free: Resources { cpu_cores: 64, memory_mb: 65_536, storage_mb: 1_000_000, ..Resources::default() },
        jobs: vec![],
        unsettled: vec![],
        unsettled_more: 0,
        not_working: None,
        consent_at: None,
    }
}

/// The rogue, as the network's list has it.
async fn rogue(stage: &Stage) -> Result<Value, String> {
    let (status, list) = doors::get(&stage.stack, "/devices").await;
    let devices = list["devices"].as_array().cloned().unwrap_or_default();
    let id = stage.rogue.device_id.to_string();
    devices.into_iter().find(|device| device["id"] == id).ok_or(format!("no list: {status} {list:.200}"))
}

async fn heartbeats(stage: &Stage) -> Outcome {
    let victim = stage.victim();
    let stored =
        stage.control.last_by_subject("HEARTBEATS", &format!("mesh.v1.dev.{victim}.hb")).await.map_err(|error| error.to_string())?;
    let theirs = stored.ok_or("no heartbeat of the neighbour")?.payload;
    let mine = |change: &dyn Fn(&mut Heartbeat)| {
        let mut one = heartbeat(stage, "rogue");
        change(&mut one);
        one
    };
    let signer = &stage.rogue.device;
    let their_device = stage.victim().parse().map_err(|_| "an id")?;
    let mut altered = signer.batch(&[heartbeat(stage, "rogue")]);
    altered.b = vec![ByteBuf::from(encode(&heartbeat(stage, "altered")))];
    let mut longer = signer.batch(&[heartbeat(stage, "rogue")]);
    longer.s = ByteBuf::from(plus_l(&longer.s));
    let stranger = Signer::from_seed(&[77; 32]);
    let mut rows: Vec<(&str, Vec<u8>)> = vec![
        ("the neighbour's own", theirs.to_vec()),
        ("in the neighbour's name", signer.batch(&[mine(&|one| one.device = their_device)]).encode()),
        ("of another network", signer.batch(&[mine(&|one| one.net = stranger.public().network_id())]).encode()),
        ("of another key", stranger.batch(&[heartbeat(stage, "rogue")]).encode()),
        ("altered", altered.encode()),
        ("s + L", longer.encode()),
        (
            "of another type",
            signer
                .batch(&[Event {
                    net: net(stage),
                    device: stage.rogue.device_id,
                    at: 1,
                    job: JobId(Cid::of(b"x")),
                    attempt: AttemptId(Cid::of(b"x")),
                    what: EventKind::Started,
                }])
                .encode(),
        ),
        ("a name of 60,000 NULs", signer.batch(&[heartbeat(stage, &"\0".repeat(60_000))]).encode()),
        ("a name that clears the screen", signer.batch(&[heartbeat(stage, "x\u{1b}[2J\u{1b}[31m")]).encode()),
        ("a name that turns text", signer.batch(&[heartbeat(stage, "\u{202e}gnp.exe")]).encode()),
        ("500 kinds", signer.batch(&[mine(&|one| one.kinds = vec!["k".repeat(100); 500])]).encode()),
        ("a capability of 60,000 characters", signer.batch(&[mine(&|one| one.capabilities = vec!["c".repeat(60_000)])]).encode()),
    ];
    for (name, point, forged) in weak() {
        let mut batch = signer.batch(&[heartbeat(stage, "weak")]);
        (batch.k, batch.s) = (unchecked(point), ByteBuf::from(forged));
        rows.push((name, batch.encode()));
    }
    let mut peer = stage.rogue.client().await;
    let member = stage.stack.member().await;
    for (name, payload) in &rows {
        peer.publish(&format!("mesh.v1.dev.{}.hb", stage.rogue.device_id), None, b"", payload).await;
        peer.settle().await;
        must!(!peer.closed, "{name} cut the connection: {:?}", peer.errors);
        doors::http(&stage.stack, &doors::echo("beside"), &format!("beside {name}")).await;
        let list = doors::service(&stage.stack, &member, "device.ls", "{}", None).await;
        must!(list["devices"].is_array(), "after {name} nobody can list devices: {list:.200}");
        must!(list.to_string().len() < 20_000, "after {name} the list of devices has {} bytes", list.to_string().len());
        let shown = rogue(stage).await?;
        must!(shown["online"] == false && shown["name"] == "rogue", "{name} was believed: {shown:.300}");
    }
    let (_, list) = doors::get(&stage.stack, "/devices").await;
    let intact = list["devices"].as_array().is_some_and(|all| {
        all.iter().any(|one| one["id"] == victim && one["online"] == true && one["member"] == stage.stack.text("/devices/1/member"))
    });
    must!(intact, "the neighbour's device changed: {list:.500}");
    Ok(format!("{} heartbeats, none believed", rows.len()))
}

fn event(stage: &Stage, job: JobId, what: EventKind) -> Event {
    Event { net: net(stage), device: stage.rogue.device_id, at: now(), job, attempt: AttemptId(Cid::of(b"no such attempt")), what }
}

async fn events(stage: &Stage) -> Outcome {
    let nobody_can = json!({"kind": "echo", "text": "x", "required_resources": {"gpu_mb": 999_999}});
    let (_, answer) = doors::post(&stage.stack, &nobody_can.to_string(), Some("attack-events")).await;
    let id = answer["id"].as_str().ok_or("no job")?.to_owned();
    let job: JobId = id.parse().map_err(|_| "an id")?;
    until("the job to wait", || async {
        let (_, view) = doors::get(&stage.stack, &format!("/jobs/{id}")).await;
        (view["state"] == "Submitted" || view["state"] == "BiddingOpen").then_some(())
    })
    .await;
    let progress = Progress { basis_points: 9_900, stage: "evil".into(), ..Progress::default() };
    let mut peer = stage.rogue.client().await;
    for what in [EventKind::Started, EventKind::Progress(progress), EventKind::Dropped { reason: "evil".into() }, EventKind::Started] {
        let batch = stage.rogue.device.batch(&[event(stage, job, what.clone())]);
        peer.publish(&format!("mesh.v1.dev.{}.evt.{}", stage.rogue.device_id, what.token()), None, b"", &batch.encode()).await;
        peer.settle().await;
    }
    doors::http(&stage.stack, &doors::echo("after"), "after-events").await;
    let (_, view) = doors::get(&stage.stack, &format!("/jobs/{id}")).await;
    must!(
        view["state"] != "Executing" && view["state"] != "Assigned" && view["device"].is_null(),
        "its member sees it at the rogue's: {view:.400}"
    );
    must!(!view.to_string().contains("evil"), "its member sees the rogue's progress: {view:.400}");
    Ok("4 signed events of one's own about another's job: its member sees none of it".into())
}

/// Where receipts of the rogue go.
async fn send(stage: &Stage, peer: &mut Peer, message: &ReceiptMessage) {
    for to in ["any", "s1"] {
        peer.publish(&format!("mesh.v1.dev.{}.receipt.{to}", stage.rogue.device_id), None, b"", &encode(message)).await;
    }
    peer.settle().await;
}

fn receipt(stage: &Stage, job: JobId, attempt: AttemptId, result: &[u8]) -> Receipt {
    let done = ResultRef { cid: Cid::of(result), bytes: result.len() as u64 };
    Receipt {
        net: net(stage),
        device: stage.rogue.device_id,
        job,
        attempt,
        at: now(),
        outcome: Ended::Completed(done),
        claimed_ms: 1,
        waited_ms: 0,
    }
}

/// What the rogue has.
async fn balance(stage: &Stage) -> String {
    let mine = format!("Bearer {}", stage.rogue.token);
    let (_, answer) = http::send("GET", &stage.stack.api("/api/v1/balance"), &[("authorization", &mine)], "").await;
    let wanted = ["available_mmana", "held_mmana", "vesting_mmana"];
    wanted.map(|name| format!("{name} {}", answer[name])).join(" ")
}

fn under<T: Body>(signer: &Signer, bodies: &[T], result: &[u8]) -> ReceiptMessage {
    ReceiptMessage { receipts: signer.batch(bodies), results: bodies.iter().map(|_| Some(ByteBuf::from(result))).collect() }
}

async fn receipts(stage: &Stage) -> Outcome {
    let before = balance(stage).await;
    // A job of the neighbour that is over, and one that waits.
    let (_, answer) = doors::post(&stage.stack, &doors::echo("done").to_string(), Some("attack-receipt")).await;
    let over = answer["id"].as_str().ok_or("no job")?.to_owned();
    doors::result_of(&stage.stack, &over).await;
    let nobody_can = json!({"kind": "echo", "text": "x", "required_resources": {"gpu_mb": 999_999}});
    let (_, answer) = doors::post(&stage.stack, &nobody_can.to_string(), Some("attack-receipt-waits")).await;
    let waits = answer["id"].as_str().ok_or("no job")?.to_owned();
    let (over_id, waits_id): (JobId, JobId) = (over.parse().map_err(|_| "an id")?, waits.parse().map_err(|_| "an id")?);
    let stored = until("a receipt of somebody else", || async {
        for device in ["/devices/0/id", "/devices/1/id"] {
            let subject = format!("mesh.v1.dev.{}.receipt", stage.stack.text(device));
            if let Ok(Some(message)) = stage.control.last_by_subject("RECEIPTS", &subject).await {
                return Some(message.payload);
            }
        }
        None
    })
    .await;
    let theirs: ReceiptMessage = strict::decode(Form::Msgpack, &stored, 1 << 20).map_err(|error| error.to_string())?;
    let known = theirs.receipts.verify::<Receipt>(&mut Verifier::default()).map_err(|error| error.to_string())?;
    let attempt = known.first().ok_or("no receipt")?.attempt;
    let (signer, result) = (&stage.rogue.device, b"{\"text\":\"evil\"}".as_slice());
    let foreign = AttemptId(Cid::of(b"no such attempt"));
    let mut altered = theirs.clone();
    let mut body = known[0].clone().into_body();
    body.claimed_ms += 1_000_000;
    altered.receipts.b = vec![ByteBuf::from(encode(&body)); altered.receipts.b.len()];
    let mut longer = under(signer, &[receipt(stage, waits_id, foreign, result)], result);
    longer.receipts.s = ByteBuf::from(plus_l(&longer.receipts.s));
    let mut rows = vec![
        ("the neighbour's own, replayed", theirs.clone()),
        ("altered", altered),
        ("s + L", longer),
        ("of a job that is over", under(signer, &[receipt(stage, over_id, attempt, result)], result)),
        ("of an attempt of another device", under(signer, &[receipt(stage, waits_id, attempt, result)], result)),
        ("of an attempt never assigned", under(signer, &[receipt(stage, waits_id, foreign, result)], result)),
        ("of a job that is none", under(signer, &[receipt(stage, JobId(Cid::of(b"none")), foreign, result)], result)),
        ("of a strange key", under(&Signer::from_seed(&[78; 32]), &[receipt(stage, waits_id, foreign, result)], result)),
        ("another type", under(signer, &[event(stage, waits_id, EventKind::Started)], result)),
        ("a result of other bytes", under(signer, &[receipt(stage, waits_id, attempt, b"other")], result)),
        (
            "of another network",
            under(signer, &[Receipt { net: signer.public().network_id(), ..receipt(stage, waits_id, attempt, result) }], result),
        ),
    ];
    for (name, point, forged) in weak() {
        let mut message = under(signer, &[receipt(stage, waits_id, foreign, result)], result);
        (message.receipts.k, message.receipts.s) = (unchecked(point), ByteBuf::from(forged));
        rows.push((name, message));
    }
    let mut peer = stage.rogue.client().await;
    for (_, message) in &rows {
        send(stage, &mut peer, message).await;
    }
    // Two more jobs are settled behind them.
    for n in 0..2 {
        doors::http(&stage.stack, &doors::echo("behind"), &format!("behind-receipts-{n}")).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, view) = doors::get(&stage.stack, &format!("/jobs/{waits}")).await;
    must!(view["state"] != "Completed" && view["state"] != "Failed", "the waiting job ended: {view:.300}");
    let after = balance(stage).await;
    must!(before == after, "the rogue had {before} and has {after}");
    Ok(format!("{} receipts: no job ended, nobody was paid", rows.len()))
}

async fn auction(stage: &Stage) -> Outcome {
    let mut peer = stage.rogue.client().await;
    let own = stage.rogue.device_id;
    for subject in [format!("mesh.v1.offer.{own}"), format!("mesh.v1.ctl.{own}.*")] {
        peer.subscribe(&subject, None).await;
    }
    // It lives, and says that it is of the highest tier.
    peer.publish(&format!("mesh.v1.dev.{own}.hb"), None, b"", &stage.rogue.device.batch(&[heartbeat(stage, "rogue")]).encode()).await;
    peer.settle().await;
    until("the rogue to be seen", || async { rogue(stage).await.ok().filter(|shown| shown["online"] == true) }).await;
    let body = json!({"kind": "echo", "text": "paid", "target": own, "cost_mana": 10});
    let (_, answer) = doors::post(&stage.stack, &body.to_string(), Some("attack-auction")).await;
    let id = answer["id"].as_str().ok_or(format!("no job: {answer}"))?.to_owned();
    let begun = std::time::Instant::now();
    let signer = &stage.rogue.device;
    let (mut bids, mut receipted) = (0, false);
    while begun.elapsed() < Duration::from_secs(20) && !receipted {
        peer.listen(Duration::from_secs(1)).await;
        for heard in std::mem::take(&mut peer.heard) {
            if heard.subject.starts_with("mesh.v1.offer.") {
                let reply = heard.reply.clone().ok_or("an offer without a reply subject")?;
                let offers = Batch::decode(&heard.body)
                    .and_then(|batch| batch.verify::<Offer>(&mut Verifier::default()))
                    .map_err(|error| error.to_string())?;
                let to: bus_schemas::id::InstanceId =
                    reply.rsplit('.').next().unwrap_or_default().parse().map_err(|_| "a scheduler's id")?;
                for offer in &offers {
                    // Two prices for one round, the second below; and one above what the job may cost.
                    for price in [9, 1, 99_000] {
                        let quote = Quote { price_mmana: MilliMana::mana(price), start_in_ms: 0, duration_ms: 1, free_bp: 10_000 };
                        let answer = BidAnswer::Bid(quote);
                        let bid =
                            Bid { net: net(stage), device: own, to: to.clone(), at: now(), job: offer.job, round: offer.round, answer };
                        peer.publish(&reply, None, b"", &signer.batch(&[bid]).encode()).await;
                        bids += 1;
                    }
                }
                peer.settle().await;
            } else if heard.subject.ends_with(".assign") {
                let ask: AssignRequest = strict::decode(Form::Msgpack, &heard.body, 1 << 20).map_err(|error| error.to_string())?;
                let assigned = ask.assignments.verify::<Assignment>(&mut Verifier::default()).map_err(|error| error.to_string())?;
                let answers = assigned.iter().map(|_| AssignAnswer::Accepted).collect();
                peer.publish(&heard.reply.clone().ok_or("no reply")?, None, b"", &encode(&AssignReply { answers })).await;
                peer.settle().await;
                must!(assigned.iter().all(|one| one.tier == 0), "the tier is its own word: {:?}", assigned[0].tier);
                tokio::time::sleep(Duration::from_millis(300)).await;
                let result = b"{\"text\":\"paid\"}".as_slice();
                let told: Vec<Receipt> = assigned
                    .iter()
                    .map(|one| Receipt { claimed_ms: 3_600_000, ..receipt(stage, one.job, AttemptId(one.cid()), result) })
                    .collect();
                let message = under(signer, &told, result);
                // Twice, and once more as if by another attempt.
                for _ in 0..2 {
                    peer.publish(&format!("mesh.v1.dev.{own}.receipt.{}", ask.s), None, b"", &encode(&message)).await;
                }
                peer.settle().await;
                receipted = true;
            }
        }
    }
    must!(receipted, "the rogue was never assigned the job: {bids} bids; this row shows nothing");
    let elapsed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let view = until("its end", || async {
        let (_, view) = doors::get(&stage.stack, &format!("/jobs/{id}")).await;
        (view["state"] == "Completed" && !view["cost_mmana"].is_null()).then_some(view)
    })
    .await;
    let paid = view["cost_mmana"].as_u64().unwrap_or(u64::MAX);
    // Tier 0 earns one milli-mana for each millisecond, from where the work was assigned.
    must!(paid <= elapsed, "{paid} milli-mana were paid for {elapsed} ms");
    // It is gone again, so that nobody offers it anything.
    let stopped = Heartbeat { not_working: Some(Heartbeat::STOPPED.into()), ..heartbeat(stage, "rogue") };
    peer.publish(&format!("mesh.v1.dev.{own}.hb"), None, b"", &signer.batch(&[stopped]).encode()).await;
    peer.settle().await;
    Ok(format!("{bids} bids of one round, 3,600,000 ms claimed at tier 4: {paid} milli-mana paid, for at most {elapsed} ms at tier 0"))
}
