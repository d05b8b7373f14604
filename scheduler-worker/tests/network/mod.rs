//! A small network for tests: a real nats-server with the streams of the table, the scheduler as a program, and scripted
//! peers in the places of the other rooms (gateway, ledger, devices). All stop when dropped.

#![allow(dead_code)] // Each test uses its part of it.

pub mod books;
pub mod device;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus::connect::{Connect, Login};
use bus::{Bus, Health};
use bus_schemas::history::{CancelRequest, Ended, HistoryEvent, HistoryRecord};
use bus_schemas::id::Asker;
use bus_schemas::job::{AdmittedJob, AnnouncedJob, Class};
use bus_schemas::limits::Timings;
use bus_schemas::network::{DeviceRecord, NetworkDocument};
use bus_schemas::{Batch, Cid, Form, JobId, MilliMana, NetworkId, Signer, Verifier, stream, subject};
use futures::StreamExt;
use serde_bytes::ByteBuf;

/// A deadline that means *hung*.
pub const HUNG: Duration = Duration::from_secs(60);
/// Waiting times are divided by this; a measurement with real ones sets `MESH_TEST_DIVISOR=1`.
pub fn divisor() -> u32 {
    setting("MESH_TEST_DIVISOR", 5)
}
/// A number that whoever runs a test may choose.
pub fn setting<T: std::str::FromStr>(name: &str, usual: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
/// A waiting time of this network.
pub fn timings() -> Timings {
    Timings::divided(divisor())
}

/// Looks again until `look` gives something.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < HUNG, "hung: waited {HUNG:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn net() -> NetworkId {
    Signer::from_seed(&[1; 32]).public().network_id()
}
pub fn gateway() -> Signer {
    Signer::from_seed(&[2; 32])
}
pub fn member() -> Signer {
    Signer::from_seed(&[100; 32])
}

/// A child whose log is kept; it is killed when dropped.
pub struct Proc {
    pub child: Child,
    pub log: Arc<Mutex<String>>,
}
impl Proc {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a child starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, to) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if std::env::var_os("MESH_TEST_LOG").is_some() {
                    eprintln!("{line}");
                }
                let mut to = to.lock().unwrap();
                to.push_str(&line);
                to.push('\n');
            }
        });
        Self { child, log }
    }
    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
    }
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let child = &mut self.child;
        until("a child to end", async || child.try_wait().unwrap()).await
    }
    pub fn says(&self, text: &str) -> bool {
        self.log.lock().unwrap().contains(text)
    }
    /// Memory that it has, in MiB.
    pub fn rss_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).map(|rest| rest.trim().trim_end_matches(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024
    }
    /// CPU seconds so far.
    pub fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum();
        ticks / 100.0
    }
}
impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `NATS_SERVER_BIN`, or the one that `make nats-server` keeps in the cache folder.
fn nats_server() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER_BIN") {
        return path.into();
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = std::env::var_os("MESH_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("mesh"));
    let tools = std::fs::read_dir(cache.join("tools")).expect("a nats-server: run `make nats-server`, or set NATS_SERVER_BIN");
    let mut servers: Vec<PathBuf> = tools
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nats-server-")))
        .collect();
    servers.sort();
    servers.pop().expect("a nats-server: run `make nats-server`, or set NATS_SERVER_BIN")
}

pub struct Network {
    pub bus: Bus,
    pub books: books::Books,
    url: String,
    dir: tempfile::TempDir,
    pub nats: Proc,
}

pub async fn connect(url: &str) -> Bus {
    let how =
        Connect { urls: url.to_owned(), login: Login::None, ca: None, name: "test".into(), inbox_prefix: "_INBOX.test".into(), wait: HUNG };
    Bus::connect(how, &Health::default()).await.unwrap()
}

impl Network {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("hub.conf");
        // As in nats/hub.conf: without it, a disk with less free than the sum of all limits refuses the streams.
        let text = format!(
            "listen: \"127.0.0.1:-1\"\nports_file_dir: \"{}\"\njetstream {{ store_dir: \"{}\", max_file_store: 64GB }}\n",
            dir.path().display(),
            dir.path().join("js").display()
        );
        std::fs::write(&config, text).unwrap();
        let nats = Proc::spawn(Command::new(nats_server()).arg("-c").arg(&config));
        let url = until("nats-server to listen", async || {
            let file =
                std::fs::read_dir(dir.path()).ok()?.filter_map(Result::ok).find(|f| f.path().extension().is_some_and(|e| e == "ports"))?;
            let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
            Some(ports["nats"][0].as_str()?.to_owned())
        })
        .await;
        let bus = connect(&url).await;
        let context = bus::async_nats::jetstream::new(bus.client.clone());
        for wanted in bus::streams::wanted(&timings(), 1) {
            let name = wanted.config.name.clone();
            context.create_stream(wanted.config).await.unwrap();
            for consumer in wanted.consumers {
                context.create_consumer_on_stream(consumer, &name).await.unwrap();
            }
        }
        let key = bus::keys::create_key_file(&dir.path().join("scheduler.key")).unwrap();
        let document = NetworkDocument {
            network: net(),
            network_key: Signer::from_seed(&[1; 32]).public(),
            name: "test".into(),
            version: 1,
            gateway_keys: vec![gateway().public()],
            scheduler_keys: vec![key.public()],
            ledger_keys: vec![],
            ca_sha256: None,
        };
        let signed = Signer::from_seed(&[1; 32]).json_batch::<NetworkDocument>(vec![serde_json::to_string(&document).unwrap()]);
        std::fs::write(dir.path().join("network.json"), signed.encode()).unwrap();
        let books = books::Books::start(connect(&url).await, key.public()).await;
        Self { bus, books, url, dir, nats }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn command(&self, crash_at: Option<&str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-scheduler"));
        command
            .arg("run")
            .env("MESH_NATS_URL", &self.url)
            .env("MESH_KEY", self.dir.path().join("scheduler.key"))
            .env("MESH_NETWORK", self.dir.path().join("network.json"))
            .env("MESH_TIME_DIVISOR", divisor().to_string())
            .env_remove("MESH_CREDS")
            .env_remove("MESH_HTTP")
            .env_remove("MESH_CRASH_AT");
        if let Some(point) = crash_at {
            command.env("MESH_CRASH_AT", format!("scheduler.{point}"));
        }
        command
    }
    /// The scheduler as a program.
    pub fn scheduler(&self) -> Proc {
        Proc::spawn(&mut self.command(None))
    }
    /// The scheduler with more in its environment.
    pub fn scheduler_with(&self, more: &[(&str, &str)]) -> Proc {
        Proc::spawn(self.command(None).envs(more.iter().copied()))
    }
    pub fn crashing_scheduler(&self, point: &str) -> Proc {
        Proc::spawn(&mut self.command(Some(point)))
    }

    /// Enrols a device (its record in KV) and starts it.
    pub async fn device(&self, n: u8, script: device::Script) -> device::Device {
        self.record(n, false).await;
        device::Device::start(connect(&self.url).await, n, script).await
    }
    pub async fn revoke(&self, n: u8) {
        self.record(n, true).await;
    }
    async fn record(&self, n: u8, revoked: bool) {
        let did = Signer::from_seed(&[150 + n; 32]).public();
        let record = DeviceRecord { revoked, ..DeviceRecord::new(did, did.member_id(), format!("d{n}"), 0, 1) };
        let value = serde_json::to_vec(&record).unwrap();
        self.bus.store(format!("$KV.{}.{}", stream::KV_DEVICES, record.device), None, value.into(), HUNG).await.unwrap();
    }

    /// Admits jobs as a gateway does: held in the books, one proof each under one signature.
    pub async fn admit(&self, keys: &[String], body: &str) -> Vec<JobId> {
        self.admit_as(Class::Normal, keys, body).await
    }
    pub async fn admit_as(&self, class: Class, keys: &[String], body: &str) -> Vec<JobId> {
        let jobs: Vec<AdmittedJob> = keys.iter().map(|key| AdmittedJob { class, ..self.admitted(key, body) }).collect();
        for some in jobs.chunks(64) {
            for job in some {
                self.books.hold(job.job, job.member, job.hold_mmana);
            }
            let proofs = gateway().batch(some).proofs();
            let stored = some
                .iter()
                .zip(proofs)
                .map(|(job, proof)| self.bus.store(subject::job(job.class, &job.job), None, proof.encode().into(), HUNG));
            for one in futures::future::join_all(stored).await {
                one.unwrap();
            }
        }
        jobs.into_iter().map(|job| job.job).collect()
    }
    fn admitted(&self, key: &str, body: &str) -> AdmittedJob {
        let (at, member) = (self.bus.time.now_ms(), member().public().member_id());
        AdmittedJob {
            net: net(),
            job: bus_schemas::job::unsigned_job_id(&member, key, body.as_bytes()),
            member,
            asker: Asker::Member(member),
            key: key.to_owned(),
            submitted_at: at,
            at,
            class: Class::Normal,
            hold_mmana: MilliMana::mana(10),
            hold_expires: at + 3_600_000,
            form: Form::Json,
            body: ByteBuf::from(body.as_bytes()),
            signed: None,
        }
    }
    /// Announces a job as a gateway does while it asks for its hold; changed where it is not to be the one that comes.
    pub async fn announce(&self, by: &Signer, key: &str, body: &str, change: impl FnOnce(&mut AnnouncedJob)) {
        let AdmittedJob { net, job, member, class, hold_mmana, form, body, .. } = self.admitted(key, body);
        let mut announced = AnnouncedJob { net, job, member, class, hold_mmana, form, body };
        change(&mut announced);
        self.bus.client.publish(subject::ANNOUNCE, by.batch(&[announced]).encode().into()).await.unwrap();
        self.bus.client.flush().await.unwrap();
    }
    pub async fn admit_one(&self, key: &str, body: &str) -> JobId {
        self.admit(&[key.to_owned()], body).await[0]
    }

    pub async fn cancel(&self, job: JobId) {
        let cancel =
            CancelRequest { net: net(), job, member: member().public().member_id(), at: self.bus.time.now_ms(), unless_assigned: false };
        self.bus.store(subject::cancel(&job), None, gateway().batch(&[cancel]).encode().into(), HUNG).await.unwrap();
    }

    /// All results told from now on.
    pub async fn results(&self) -> bus::async_nats::Subscriber {
        let results = self.bus.client.subscribe(format!("mesh.v1.watch.{}.*.result", member().public().member_id())).await.unwrap();
        self.bus.client.flush().await.unwrap();
        results
    }

    /// All records of one job in HISTORY.
    pub async fn history(&self, job: JobId) -> Vec<HistoryRecord> {
        let mut verifier = Verifier::default();
        let mut records = Vec::new();
        let mut from = 1;
        loop {
            let messages = self.bus.from_seq(stream::HISTORY, from, 200).await.unwrap();
            let Some(last) = messages.last() else { return records };
            from = last.seq + 1;
            for message in messages {
                let batch = Batch::decode(&message.payload).unwrap().verify::<HistoryRecord>(&mut verifier).unwrap();
                records.extend(batch.into_iter().map(bus_schemas::Verified::into_body).filter(|record| record.job == job));
            }
        }
    }
    /// The end of a job in HISTORY.
    pub async fn end_of(&self, job: JobId) -> Ended {
        until("the job's end in HISTORY", async || {
            self.history(job).await.into_iter().find_map(|record| match record.what {
                HistoryEvent::Ended(end) => Some(*end),
                _ => None,
            })
        })
        .await
    }
    /// Waits until every job message was acked.
    pub async fn jobs_are_gone(&self) {
        until("JOBS to be empty", async || (self.bus.stream_end(stream::JOBS).await.unwrap().messages == 0).then_some(())).await;
    }
}

pub fn result_text(message: &bus::async_nats::Message) -> (JobId, String) {
    let value: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    let id = value["id"].as_str().unwrap().parse().unwrap();
    (id, value["result"]["text"].as_str().unwrap_or_default().to_owned())
}

pub async fn next(subscriber: &mut bus::async_nats::Subscriber) -> bus::async_nats::Message {
    tokio::time::timeout(HUNG, subscriber.next()).await.expect("hung: waited for a message").unwrap()
}

pub fn cid(bytes: &[u8]) -> Cid {
    Cid::of(bytes)
}
