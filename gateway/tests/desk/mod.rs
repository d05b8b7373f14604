//! A gateway as people meet it: the program on a real hub and a real Postgres, with somebody who keeps simple books.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus::Bus;
use bus_schemas::envelope::encode;
use bus_schemas::id::{AttemptId, Cid, FactId, JobId, MemberId, ReceiptId};
use bus_schemas::ledger::{self, Done, HoldState, HoldView, LedgerOutcome, LedgerReply, LedgerRequest, Op, RefusalKind, SettleOutcome};
use bus_schemas::limits::COST_DEFAULT;
use bus_schemas::network::{EnrolRequest, EnrolStatement};
use bus_schemas::resources::Resources;
use bus_schemas::{Code, Form, MilliMana, Signer, Verifier, strict, subject};
use futures::StreamExt;
use nkeys::KeyPair;
use serde_json::Value;

use super::support::postgres::Postgres;
use super::support::{HUNG, Hub};

pub const SECRET: &str = "a-secret-for-all";
/// What each member has in these books.
pub const FUNDS: i64 = 100_000;

/// Simple books: holds, and nothing is ever paid.
#[derive(Default)]
pub struct Books {
    pub holds: BTreeMap<(MemberId, String), HoldView>,
    pub members: BTreeSet<MemberId>,
    /// Questions so far.
    pub asked: usize,
    /// How long each answer takes.
    pub pause: Duration,
}
impl Books {
    /// The job that was submitted under this key is paid.
    pub fn settle(&mut self, member: MemberId, key: &str) {
        let hold = self.holds.get_mut(&(member, key.to_owned())).unwrap();
        let (attempt, receipt) = (AttemptId(Cid::of(b"a")), ReceiptId(Cid::of(b"r")));
        let device = Signer::from_seed(&[50; 32]).public().device_id();
        hold.state = HoldState::Settled { attempt, receipt, device, paid_mmana: MilliMana::mana(1), outcome: SettleOutcome::Completed };
    }
    #[allow(clippy::wildcard_enum_match_arm)]
    fn answer(&mut self, op: &Op) -> LedgerOutcome {
        let done = |repeat, hold| LedgerOutcome::Done(Done { fact: FactId(Cid::of(b"f")), seq: 1, repeat, hold });
        let refused = |code, why| LedgerOutcome::Refused { code, why, detail: "no".into() };
        match op {
            Op::Open { member, .. } => done(!self.members.insert(*member), None),
            Op::BindDevice { .. } | Op::AttestTier { .. } => done(false, None),
            Op::SuspendMember { .. } | Op::RestoreMember { .. } => done(false, None),
            Op::Hold { member, .. } if !self.members.contains(member) => refused(Code::Refused, RefusalKind::UnknownMember),
            Op::Hold { job, member, key, amount_mmana, expires } => {
                if let Some(hold) = self.holds.get(&(*member, key.clone())) {
                    let same = hold.job == *job;
                    return if same { done(true, Some(hold.clone())) } else { refused(Code::Conflict, RefusalKind::KeyConflict) };
                }
                let amount = amount_mmana.unwrap_or(COST_DEFAULT);
                if amount.get() > FUNDS {
                    return refused(Code::TooLittleMana, RefusalKind::InsufficientMana);
                }
                let hold = HoldView { job: *job, member: *member, amount_mmana: amount, expires: *expires, state: HoldState::Open };
                self.holds.insert((*member, key.clone()), hold.clone());
                done(false, Some(hold))
            }
            // Nothing else is asked by what these tests drive.
            _ => refused(Code::Refused, RefusalKind::NotAllowed),
        }
    }
}

async fn keep_books(hub: &Hub) -> Arc<Mutex<Books>> {
    let books = Arc::new(Mutex::new(Books::default()));
    let bus = hub.bus("ledger").await;
    let mut questions = bus.client.subscribe(subject::LEDGER_DO).await.unwrap();
    bus.client.flush().await.unwrap();
    let (kept, key) = (books.clone(), hub.document().gateway_keys[0]);
    tokio::spawn(async move {
        while let Some(message) = questions.next().await {
            let request: LedgerRequest = strict::decode(Form::Msgpack, &message.payload, 1 << 20).unwrap();
            assert_eq!(request.commands.k, key, "signed by the gateway's key");
            let commands = request.commands.verify::<ledger::Command>(&mut Verifier::default()).unwrap();
            assert!((1..=64).contains(&commands.len()));
            let outcomes = {
                let mut books = kept.lock().unwrap();
                books.asked += 1;
                commands.iter().map(|command| books.answer(&command.op)).collect()
            };
            let pause = kept.lock().unwrap().pause;
            tokio::time::sleep(pause).await;
            bus.client.publish(message.reply.unwrap(), encode(&LedgerReply { outcomes }).into()).await.unwrap();
        }
    });
    books
}

/// The program, stopped when dropped.
pub struct Program(Child);
impl Program {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
    /// As an operator would: SIGTERM, and wait.
    pub fn stop(mut self) -> bool {
        testkit::proc::signal(self.0.id(), "TERM");
        self.0.wait().unwrap().success()
    }
}
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Desk {
    pub hub: Hub,
    pub postgres: Postgres,
    pub books: Arc<Mutex<Books>>,
    pub api: String,
    divisor: u32,
}

/// Somebody who was let in.
pub struct Guest {
    pub key: Signer,
    pub id: MemberId,
    pub token: String,
    pub bus: Bus,
}

impl Desk {
    pub async fn new(divisor: u32) -> Self {
        let (hub, postgres) = (Hub::start(), Postgres::start().await);
        hub.streams(divisor).await.unwrap();
        let books = keep_books(&hub).await;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { hub, postgres, books, api: format!("http://127.0.0.1:{port}"), divisor }
    }

    /// Starts a gateway; `variables` beside the ordinary ones.
    pub async fn open(&self, variables: &[(&str, &str)]) -> Program {
        let dir = &self.hub.dir;
        let invite = self.hub.folder.path().join("invite");
        bus::keys::write_secret(&invite, SECRET.as_bytes()).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.hub.folder.path().join("gateway.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mesh-gateway"))
            .arg("run")
            .env_clear()
            .env("MESH_NATS_URL", &self.hub.url)
            .env("MESH_CREDS", dir.creds("gateway"))
            .env("MESH_KEY", dir.key("gateway"))
            .env("MESH_NETWORK", dir.network())
            .env("MESH_HTTP", self.api.trim_start_matches("http://"))
            .env("MESH_TIME_DIVISOR", self.divisor.to_string())
            .env("DATABASE_URL", self.postgres.url())
            .env("MESH_INVITE_FILE", &invite)
            .env("MESH_ATTEST_CLAIMED", "true")
            .env("MESH_LOG", "debug,async_nats=error,hyper=error,tokio_postgres=error")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut program = Program(child);
        let start = Instant::now();
        while !self.is_ready().await {
            assert!(!program.has_ended(), "{}", self.log());
            assert!(start.elapsed() < HUNG, "not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        program
    }
    async fn is_ready(&self) -> bool {
        let address = self.api.trim_start_matches("http://");
        std::net::TcpStream::connect(address).is_ok() && testkit::http::send("GET", &format!("{}/readyz", self.api), &[], "").await.0 == 200
    }
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.hub.folder.path().join("gateway.log")).unwrap_or_default()
    }

    /// Lets a member in over HTTP, as people come in.
    pub async fn guest(&self, seed: u8) -> Guest {
        let joining = Joining::new(seed, SECRET);
        let (status, answer) = joining.ask(self).await;
        assert_eq!(status, 200, "{answer}\n{}", self.log());
        let Joining { key, transport, .. } = joining;
        let id: MemberId = answer["member"].as_str().unwrap().parse().unwrap();
        let creds = self.hub.folder.path().join(format!("{id}.creds"));
        let text = gateway::jwt::creds_file(answer["member_jwt"].as_str().unwrap(), &transport.seed().unwrap());
        bus::keys::write_secret(&creds, text.as_bytes()).unwrap();
        let bus = self.hub.bus_with(&creds, &format!("_INBOX.{id}")).await;
        Guest { key, id, token: answer["token"].as_str().unwrap().to_owned(), bus }
    }
}

/// A member without a device that asks to come in.
pub struct Joining {
    pub key: Signer,
    pub id: MemberId,
    transport: KeyPair,
    secret: String,
}
impl Joining {
    pub fn new(seed: u8, secret: &str) -> Self {
        let key = Signer::from_seed(&[seed; 32]);
        Self { id: key.public().member_id(), key, transport: KeyPair::new_user(), secret: secret.to_owned() }
    }
    pub async fn ask(&self, desk: &Desk) -> (u16, Value) {
        let statement = serde_json::to_string(&EnrolStatement {
            net: desk.hub.document().network,
            device: self.key.public(),
            member: self.key.public(),
            transport: self.transport.public_key(),
            name: "guest".into(),
            at: bus::hub_time::here_ms(),
            secret: self.secret.clone(),
            claimed_tier: 0,
            total: Resources::default(),
            kinds: vec![],
            member_only: true,
        })
        .unwrap();
        let [.., (_, sig)] = self.key.headers::<EnrolStatement>(statement.as_bytes());
        let transport_sig = data_encoding::BASE64URL_NOPAD.encode(&self.transport.sign(statement.as_bytes()).unwrap());
        let request = EnrolRequest { statement, device_sig: sig.clone(), member_sig: sig, transport_sig };
        testkit::http::send("POST", &format!("{}/api/v1/enrol", desk.api), &[], serde_json::to_vec(&request).unwrap()).await
    }
}

impl Guest {
    pub async fn http(
        &self,
        desk: &Desk,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> (u16, Value) {
        let bearer = format!("Bearer {}", self.token);
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        testkit::http::send(method, &format!("{}/api/v1{path}", desk.api), &all, body).await
    }
    pub async fn get(&self, desk: &Desk, path: &str) -> (u16, Value) {
        self.http(desk, "GET", path, &[], "").await
    }
    pub async fn post(&self, desk: &Desk, body: &str, key: Option<&str>) -> (u16, Value) {
        let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
        self.http(desk, "POST", "/jobs", &headers, body.to_owned()).await
    }
    /// Asks the service.
    pub async fn ask(&self, call: &str, payload: impl Into<bytes::Bytes>, headers: &[(&str, &str)]) -> async_nats::Message {
        let mut map = async_nats::HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        let request = async_nats::client::Request::new().payload(payload.into()).headers(map).timeout(Some(HUNG));
        self.bus.client.send_request(format!("mesh.v1.api.{}.{call}", self.id), request).await.unwrap()
    }
    pub async fn ask_json(&self, call: &str, payload: impl Into<bytes::Bytes>) -> Value {
        serde_json::from_slice(&self.ask(call, payload, &[]).await.payload).unwrap()
    }
    /// Publishes to the submit subject, waiting for the PubAck.
    pub async fn send(&self, payload: impl Into<bytes::Bytes>, headers: &[(&str, &str)]) {
        let mut map = async_nats::HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        self.bus.store(format!("mesh.v1.submit.{}", self.id), Some(map), payload.into(), HUNG).await.unwrap();
    }
    /// The job that has this key, once it is listed as more than a stored submission.
    pub async fn listed(&self, desk: &Desk, key: &str) -> Value {
        until(desk, key, || async {
            let (status, list) = self.get(desk, "/jobs?limit=200").await;
            assert_eq!(status, 200, "{list}");
            let is_taken = |job: &Value| !job["waiting"].as_str().is_some_and(|why| why.starts_with("it is stored, and becomes a job"));
            list["jobs"].as_array().unwrap().iter().find(|job| job["key"] == key && is_taken(job)).cloned()
        })
        .await
    }
}

pub async fn until<T, F: Future<Output = Option<T>>>(desk: &Desk, what: &str, look: impl Fn() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < HUNG, "hung: {what}\n{}", desk.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The messages that JOBS holds for a job.
pub async fn in_jobs(bus: &Bus, job: &JobId) -> Option<bytes::Bytes> {
    let subject = format!("mesh.v1.job.normal.{job}");
    bus.last_by_subject("JOBS", &subject).await.unwrap().map(|message| message.payload)
}
pub fn job_id(value: &Value) -> JobId {
    value["id"].as_str().unwrap_or_else(|| panic!("{value}")).parse().unwrap()
}
pub fn mana(mana: u32) -> MilliMana {
    MilliMana::mana(mana)
}
