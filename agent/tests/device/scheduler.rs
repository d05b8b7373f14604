//! What a scheduler and the gateway's door for blobs say to a device, spoken by hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use bus::hub_time::here_ms;
use bus_schemas::api::{BLOB_BYTES_HEADER, BLOB_CHUNKS_HEADER, ask};
use bus_schemas::assignment::{AssignAnswer, AssignReply, AssignRequest, Assignment, Closed, Control, ControlReply, Payload, Verb};
use bus_schemas::envelope::{Batch, Body, encode};
use bus_schemas::event::Event;
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::job::{Class, DataClass};
use bus_schemas::limits::BLOB_CHUNK;
use bus_schemas::offer::{Bid, Offer};
use bus_schemas::receipt::{Receipt, ReceiptMessage};
use bus_schemas::resources::Resources;
use bus_schemas::{AttemptId, Cid, DeviceId, Form, InstanceId, JobId, MilliMana, NetworkId, Signer, Verifier, strict, subject};
use bytes::Bytes;
use futures::StreamExt;
use serde_bytes::ByteBuf;

use crate::hub::{Hub, scheduler_key};
use crate::next;

/// An assignment with its own content id, and the job's body.
#[derive(Clone)]
pub struct Job(Assignment);
impl Job {
    pub fn cid(&self) -> Cid {
        Cid::of(&encode(&self.0))
    }
    pub fn attempt(&self) -> AttemptId {
        AttemptId(self.cid())
    }
}
pub type Assigned = (Job, Payload);

pub struct Scheduler {
    bus: bus::Bus,
    s: InstanceId,
    device: DeviceId,
    net: NetworkId,
    bids: Subscriber,
    receipts: Subscriber,
}

impl Scheduler {
    pub async fn new(hub: &Hub, device: DeviceId, name: &str) -> Self {
        let s: InstanceId = name.parse().unwrap();
        let client = &hub.bus.client;
        let bids = client.subscribe(subject::bids_for(&s)).await.unwrap();
        let receipts = client.subscribe(subject::receipts_for(&s)).await.unwrap();
        client.flush().await.unwrap();
        let net = Signer::from_seed(&[1; 32]).public().network_id();
        Self { bus: hub.bus.clone(), s, device, net, bids, receipts }
    }

    fn offers(&self, kinds: &[&str]) -> Vec<Offer> {
        let offer = |kind: &&str| Offer {
            net: self.net,
            at: here_ms(),
            exp: here_ms() + 10_000,
            job: JobId(Cid::of(kind.as_bytes())),
            round: 1,
            member: scheduler_key().public().member_id(),
            kind: (*kind).into(),
            units: 1,
            bytes: 30,
            class: Class::Normal,
            timeout_ms: 60_000,
            hold_mmana: MilliMana::mana(10),
            required_resources: Resources::default(),
            data_class: DataClass::default(),
        };
        kinds.iter().map(offer).collect()
    }
    /// Offers one job of each kind; the device's answers.
    pub async fn offer(&mut self, kinds: &[&str]) -> Vec<Bid> {
        self.offer_as(kinds, Class::Normal).await
    }
    pub async fn offer_as(&mut self, kinds: &[&str], class: Class) -> Vec<Bid> {
        let offers: Vec<Offer> = self.offers(kinds).into_iter().map(|offer| Offer { class, ..offer }).collect();
        let batch = scheduler_key().batch(&offers).encode();
        let reply = subject::bid(&self.device, &self.s);
        self.bus.client.publish_with_reply(subject::offer(&self.device), reply, batch.into()).await.unwrap();
        let bids = Batch::decode(&next(&mut self.bids).await.payload).unwrap();
        assert_eq!(bids.k.device_id(), self.device);
        bids.verify::<Bid>(&mut Verifier::default()).unwrap().into_iter().map(bus_schemas::Verified::into_body).collect()
    }

    fn job(&self, body: String, name: &str, attempt: u32) -> Assigned {
        let body = body.into_bytes();
        let assignment = Assignment {
            net: self.net,
            job: JobId(Cid::of(name.as_bytes())),
            attempt,
            device: self.device,
            member: scheduler_key().public().member_id(),
            assigned_at: here_ms(),
            exp: here_ms() + 20_000,
            price_mmana: MilliMana::mana(1),
            tier: 1,
            timeout_ms: 60_000,
            payload: Cid::of(&body),
            resume: None,
        };
        (Job(assignment), Payload { form: Form::Json, body: ByteBuf::from(body) })
    }
    /// A job with this body.
    pub fn of(&self, name: &str, body: &serde_json::Value) -> Assigned {
        self.job(body.to_string(), name, 1)
    }
    pub fn echo(&self, text: &str, attempt: u32) -> Assigned {
        self.job(serde_json::json!({"kind": "echo", "text": text}).to_string(), text, attempt)
    }
    pub fn embed(&self, texts: &[&str]) -> Assigned {
        self.job(serde_json::json!({"kind": "embed", "text": texts}).to_string(), texts[0], 1)
    }
    pub fn embed_blob(&self, cid: Cid, units: u32) -> Assigned {
        self.job(serde_json::json!({"kind": "embed", "inputs": [cid], "units": units}).to_string(), "blob", 1)
    }
    /// The same job as another attempt.
    pub fn again(&self, (job, payload): &Assigned, attempt: u32) -> Assigned {
        (Job(Assignment { attempt, ..job.0.clone() }), payload.clone())
    }
    /// Assignments that must be declined, each with what the answer says.
    pub fn odd(&self) -> Vec<(Assigned, &'static str)> {
        let (job, payload) = self.echo("x", 1);
        let change = |change: fn(&mut Assignment)| {
            let mut assignment = job.0.clone();
            change(&mut assignment);
            (Job(assignment), payload.clone())
        };
        vec![
            (change(|a| a.net = Signer::from_seed(&[8; 32]).public().network_id()), "another network"),
            (change(|a| a.device = Signer::from_seed(&[8; 32]).public().device_id()), "another device"),
            (change(|a| a.exp = 1), "too late"),
            (change(|a| a.payload = Cid::of(b"other")), "not the one that was assigned"),
            (self.job("{\"kind\":\"echo\"}".into(), "no text", 1), "missing field"),
            (self.embed(&["a"]), "not offered"),
            (self.job(r#"{"kind":"echo","text":"a","required_resources":{"gpu_mb":4000000}}"#.into(), "gpu", 1), "GPU memory"),
        ]
    }

    pub async fn assign(&self, jobs: &[Assigned]) -> Vec<AssignAnswer> {
        let assignments: Vec<Assignment> = jobs.iter().map(|(job, _)| job.0.clone()).collect();
        let payloads = jobs.iter().map(|(_, payload)| payload.clone()).collect();
        let request = AssignRequest { s: self.s.clone(), assignments: scheduler_key().batch(&assignments), payloads };
        self.assign_bytes(encode(&request).into()).await
    }
    pub async fn assign_bytes(&self, bytes: Bytes) -> Vec<AssignAnswer> {
        let answer = self.bus.ask_bytes(subject::ctl(&self.device, "assign"), bytes, Duration::from_secs(10)).await.unwrap();
        let reply: AssignReply = strict::decode(Form::Msgpack, &answer, 1 << 20).unwrap();
        reply.answers
    }
    /// One job, to a device that may die before it answers.
    pub async fn try_assign(&self, (job, payload): &Assigned) -> Option<AssignAnswer> {
        let assignments = scheduler_key().batch(std::slice::from_ref(&job.0));
        let request = AssignRequest { s: self.s.clone(), assignments, payloads: vec![payload.clone()] };
        let asked = self.bus.ask_bytes(subject::ctl(&self.device, "assign"), encode(&request).into(), Duration::from_secs(2)).await;
        let reply: AssignReply = strict::decode(Form::Msgpack, &asked.ok()?, 1 << 20).unwrap();
        reply.answers.into_iter().next()
    }
    /// As [`Self::control`], to a device that may die before it answers.
    pub async fn say(&self, verb: Verb) {
        let token = verb.token();
        let control = Control { net: self.net, device: self.device, at: here_ms(), exp: here_ms() + 10_000, s: self.s.clone(), verb };
        let batch = scheduler_key().batch(&[control]).encode();
        let _ = self.bus.ask_bytes(subject::ctl(&self.device, token), batch.into(), Duration::from_secs(2)).await;
    }
    /// All receipts that the hub has stored, oldest first.
    pub async fn stored_receipts(&self) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        let mut from = 1;
        loop {
            let messages = self.bus.from_seq("RECEIPTS", from, 256).await.unwrap();
            let Some(last) = messages.last() else { return receipts };
            from = last.seq + 1;
            for message in messages {
                let message: ReceiptMessage = strict::decode(Form::Msgpack, &message.payload, 400_000).unwrap();
                let verified = message.receipts.verify::<Receipt>(&mut Verifier::default()).unwrap();
                receipts.extend(verified.into_iter().map(bus_schemas::Verified::into_body));
            }
        }
    }
    /// Whether anybody listens for control messages.
    pub async fn reaches(&self) -> bool {
        self.bus.ask_bytes(subject::ctl(&self.device, "have"), Bytes::new(), Duration::from_secs(10)).await.is_ok()
    }
    pub async fn control(&self, verb: Verb) -> ControlReply {
        let token = verb.token();
        let control = Control { net: self.net, device: self.device, at: here_ms(), exp: here_ms() + 10_000, s: self.s.clone(), verb };
        self.speak(&scheduler_key(), token, &control).await
    }
    async fn speak<T: Body + Clone>(&self, signer: &Signer, verb: &str, body: &T) -> ControlReply {
        let batch = signer.batch(std::slice::from_ref(body)).encode();
        let answer = self.bus.ask_bytes(subject::ctl(&self.device, verb), batch.into(), Duration::from_secs(10)).await.unwrap();
        strict::decode(Form::Msgpack, &answer, 1 << 20).unwrap()
    }
    /// What the device has told since the beginning, in the order in which the hub stored it.
    pub async fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut from = 1;
        loop {
            let messages = self.bus.from_seq("EVENTS", from, 64).await.unwrap();
            let Some(last) = messages.last() else { return events };
            from = last.seq + 1;
            for message in messages {
                let batch = Batch::decode(&message.payload).unwrap();
                assert_eq!(batch.k.device_id(), self.device);
                events.extend(batch.verify::<Event>(&mut Verifier::default()).unwrap().into_iter().map(bus_schemas::Verified::into_body));
            }
        }
    }
    /// The receipts of the next message, verified, with their results.
    pub async fn receipts(&mut self) -> Vec<(Receipt, Option<Vec<u8>>)> {
        let message: ReceiptMessage = strict::decode(Form::Msgpack, &next(&mut self.receipts).await.payload, 400_000).unwrap();
        assert_eq!(message.receipts.k.device_id(), self.device);
        let receipts = message.receipts.verify::<Receipt>(&mut Verifier::default()).unwrap();
        let results = message.results.into_iter().map(|result| result.map(ByteBuf::into_vec));
        receipts.into_iter().map(bus_schemas::Verified::into_body).zip(results).collect()
    }
    /// An offer and a control message by a stranger.
    pub async fn forge(&self) {
        let stranger = Signer::from_seed(&[66; 32]);
        let reply = subject::bid(&self.device, &self.s);
        let batch = stranger.batch(&self.offers(&["echo"])).encode();
        self.bus.client.publish_with_reply(subject::offer(&self.device), reply, batch.into()).await.unwrap();
        let s = self.s.clone();
        let control = Control { net: self.net, device: self.device, at: here_ms(), exp: here_ms() + 10_000, s, verb: Verb::Have };
        let answer = self.speak(&stranger, "have", &control).await;
        assert!(answer.have.is_empty() && answer.declined.is_some());
    }
    pub async fn heartbeat(&self) -> Heartbeat {
        let last = self.bus.last_by_subject("HEARTBEATS", &subject::heartbeat(&self.device)).await.unwrap().expect("a heartbeat");
        let batch = Batch::decode(&last.payload).unwrap();
        batch.verify::<Heartbeat>(&mut Verifier::default()).unwrap().remove(0).into_body()
    }
}

pub fn closed(attempt: AttemptId) -> Closed {
    Closed { attempt, paid_mmana: MilliMana::new(7), not_paid: None }
}

/// The gateway's door for blobs, as far as a device uses it.
#[derive(Clone, Default)]
pub struct Door {
    chunks: Arc<Mutex<HashMap<Cid, Vec<u8>>>>,
    blobs: Arc<Mutex<HashMap<Cid, Vec<u8>>>>,
}
impl Door {
    pub async fn open(hub: &Hub) -> Self {
        let door = Self::default();
        let client = hub.bus.client.clone();
        let mut asked = client.subscribe("mesh.v1.api.*.blob.*").await.unwrap();
        client.flush().await.unwrap();
        let served = door.clone();
        tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                let (headers, body) = served.answer(&message.subject, &message.payload);
                client.publish_with_headers(message.reply.unwrap(), headers, body.into()).await.unwrap();
            }
        });
        door
    }
    pub fn put(&self, bytes: Vec<u8>) -> Cid {
        let cid = Cid::of(&bytes);
        self.blobs.lock().unwrap().insert(cid, bytes);
        cid
    }
    pub fn get(&self, cid: &Cid) -> Option<Vec<u8>> {
        self.blobs.lock().unwrap().get(cid).cloned()
    }
    fn answer(&self, subject: &str, payload: &[u8]) -> (HeaderMap, Vec<u8>) {
        let mut headers = HeaderMap::new();
        match subject.rsplit('.').next().unwrap() {
            "put" => {
                let put: ask::BlobPut = strict::decode(Form::Msgpack, payload, 400_000).unwrap();
                assert!(put.data.len() <= BLOB_CHUNK);
                self.chunks.lock().unwrap().insert(Cid::of(&put.data), put.data.into_vec());
                (headers, vec![0x80])
            }
            "commit" => {
                let commit: ask::BlobCommit = strict::decode(Form::Msgpack, payload, 400_000).unwrap();
                let proof = bus_schemas::Proof::decode(&commit.assignment.unwrap()).unwrap();
                proof.verify::<Assignment>(&mut Verifier::default()).unwrap();
                let chunks = self.chunks.lock().unwrap();
                let bytes: Vec<u8> = commit.chunks.iter().flat_map(|chunk| chunks[chunk].clone()).collect();
                assert_eq!(self.put(bytes), commit.cid);
                (headers, vec![0x80])
            }
            "get" => {
                let get: ask::BlobGet = strict::decode(Form::Msgpack, payload, 400_000).unwrap();
                let bytes = self.get(&get.cid).unwrap();
                // Small chunks, so that there are several.
                let chunks: Vec<&[u8]> = bytes.chunks(500).collect();
                headers.insert(BLOB_BYTES_HEADER, bytes.len().to_string().as_str());
                headers.insert(BLOB_CHUNKS_HEADER, chunks.len().to_string().as_str());
                (headers, chunks[get.chunk as usize].to_vec())
            }
            other => panic!("{other}"),
        }
    }
}
