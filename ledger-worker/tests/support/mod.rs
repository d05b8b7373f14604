//! A private nats-server and Postgres, a small network's keys, and `mesh-ledger` as a child process. All stop when dropped.

#![allow(dead_code)] // Each test file uses its part of it.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus::connect::{Connect, Login};
use bus::{Bus, BusSettings, Health};
use bus_schemas::assignment::Assignment;
use bus_schemas::ledger::{Command as Ask, Fact, LedgerOutcome, LedgerReply, LedgerRequest, Op, Policy, What, fact_id};
use bus_schemas::limits::Timings;
use bus_schemas::network::NetworkDocument;
use bus_schemas::receipt::{Outcome, Receipt, ResultRef};
use bus_schemas::{AttemptId, Cid, JobId, MilliMana, NetworkId, ReceiptId, Signer, subject};

/// A deadline that means *hung*.
pub const HUNG: Duration = Duration::from_secs(60);

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

pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

/// A child that is killed when dropped.
pub struct Proc {
    pub child: Child,
    pub log: Arc<Mutex<String>>,
    stop: &'static str,
}
impl Proc {
    pub fn spawn(command: &mut Command, stop: &'static str) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a child starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, to) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut to = to.lock().unwrap();
                to.push_str(&line);
                to.push('\n');
            }
        });
        Self { child, log, stop }
    }
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    pub fn says(&self, text: &str) -> bool {
        self.log.lock().unwrap().contains(text)
    }
    /// Ended, and all that it said has been read.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let child = &mut self.child;
        let status = until("a child to end", async || child.try_wait().unwrap()).await;
        // Its reader lets go of the log at the end.
        until("its last words", async || (Arc::strong_count(&self.log) == 1).then_some(())).await;
        status
    }
    /// CPU seconds so far, its children not counted.
    pub fn cpu_s(&self) -> f64 {
        cpu_s(self.pid())
    }
}
pub fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}
impl Drop for Proc {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.pid(), "CONT");
            signal(self.pid(), self.stop);
            let _ = self.child.wait();
        }
    }
}

fn tool(variable: &str, name: &str, fallback: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| PathBuf::from(fallback).join(name), PathBuf::from)
}

pub struct Postgres {
    proc: Option<Proc>,
    server: Command,
    dir: PathBuf,
}
impl Postgres {
    /// A cluster of its own behind a unix socket; as root its server runs as an ordinary user. With `megabytes` all but its WAL lies on
    /// a disk of that size, which goes with the server: only root can make one.
    fn start(root: &Path, megabytes: Option<u32>) -> Self {
        let bin = std::env::var_os("MESH_PG_BIN").map(PathBuf::from).expect("MESH_PG_BIN is set; run: eval \"$(scripts/deps.sh)\"");
        let dir = root.join("pg");
        std::fs::create_dir(&dir).unwrap();
        let account = ordinary_user();
        if let Some((uid, gid)) = account {
            chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        let command = |name: &str| {
            let mut command = Command::new(bin.join(name));
            command.current_dir(&dir);
            if let Some((uid, gid)) = account {
                command.uid(uid).gid(gid);
            }
            command
        };
        let data = dir.join("data");
        let mut initdb = command("initdb");
        initdb.args(["--auth=trust", "--username=mesh", "--no-sync", "-D"]).arg(&data);
        if megabytes.is_some() {
            initdb.arg("--waldir").arg(dir.join("wal"));
        }
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server = match (megabytes, account) {
            (Some(megabytes), Some((uid, gid))) => on_a_small_disk(megabytes, &data, &bin.join("postgres"), uid, gid),
            (Some(_), None) => panic!("only root can make a small disk"),
            (None, _) => command("postgres"),
        };
        server.arg("-D").arg(&data).arg("-k").arg(&dir).args(["-c", "listen_addresses="]);
        Self { proc: Some(Proc::spawn(&mut server, "QUIT")), server, dir }
    }
    pub fn pid(&self) -> u32 {
        self.proc.as_ref().map_or(0, Proc::pid)
    }
    /// Ends it as a crash would.
    pub fn crash(&mut self) {
        self.proc = None;
    }
    pub fn start_again(&mut self) {
        self.proc = Some(Proc::spawn(&mut self.server, "QUIT"));
    }
    /// The worker's address.
    pub fn url(&self) -> String {
        self.url_of("mesh_ledger")
    }
    pub fn url_of(&self, role: &str) -> String {
        format!("postgresql:///postgres?host={}&user={role}", self.dir.display())
    }
    /// The roles as an installation has them: one owns the schema, one keeps the books, one reads.
    async fn make_roles(&self) {
        let roles = "create role mesh_owner login; create role mesh_ledger login; create role mesh_reader login;
                     grant create on database postgres to mesh_owner";
        self.client().await.batch_execute(roles).await.unwrap();
    }
    /// A connection that may do anything.
    pub async fn client(&self) -> tokio_postgres::Client {
        self.client_of("mesh").await
    }
    pub async fn client_of(&self, role: &str) -> tokio_postgres::Client {
        let url = self.url_of(role);
        until("Postgres to start", async || {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.ok()?;
            tokio::spawn(connection);
            Some(client)
        })
        .await
    }
}

/// Whether this machine lets us give a server a small disk: why not, otherwise.
pub fn small_disks() -> Result<(), String> {
    let mut mount = Command::new("unshare");
    mount.args(["--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs"]).arg(std::env::temp_dir());
    let tried = mount.output();
    match (ordinary_user(), tried) {
        (None, _) => Err("only root can make a small disk".into()),
        (_, Ok(done)) if done.status.success() => Ok(()),
        (_, Ok(done)) => Err(format!("unshare: {}", String::from_utf8_lossy(&done.stderr).trim())),
        (_, Err(error)) => Err(format!("unshare: {error}")),
    }
}

/// The server in a mount namespace of its own, where a small disk with a copy of the data lies over them.
fn on_a_small_disk(megabytes: u32, data: &Path, postgres: &Path, uid: u32, gid: u32) -> Command {
    let script = "set -e; cp -a \"$1\" \"$1.made\"; mount -t tmpfs -o \"size=$2m,mode=0700,uid=$3,gid=$4\" tmpfs \"$1\"
        cp -a \"$1.made/.\" \"$1/\"; p=$5; u=$3; g=$4; shift 5; exec setpriv --reuid=\"$u\" --regid=\"$g\" --clear-groups \"$p\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(data);
    command.args([megabytes, uid, gid].map(|number| number.to_string())).arg(postgres);
    command
}

fn ordinary_user() -> Option<(u32, u32)> {
    let me = std::fs::read_to_string("/proc/self/status").unwrap();
    let root = me.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let entry = |name: &str| {
        let fields: Vec<&str> = passwd.lines().find(|line| line.starts_with(&format!("{name}:")))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    if root { entry("postgres").or_else(|| entry("nobody")) } else { None }
}

/// All that a ledger-worker needs.
pub struct World {
    pub bus: Bus,
    pub nats_url: String,
    pub nats: Proc,
    pub postgres: Postgres,
    pub document: NetworkDocument,
    /// Divides the waiting times of workers.
    pub divisor: u32,
    dir: tempfile::TempDir,
}

pub fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}
pub fn member(n: u8) -> Signer {
    signer(100 + n)
}
pub fn device(n: u8) -> Signer {
    signer(150 + n)
}
pub fn job(n: u64) -> JobId {
    JobId(Cid::of(&n.to_be_bytes()))
}
pub fn net() -> NetworkId {
    signer(1).public().network_id()
}
pub fn gateway() -> Signer {
    signer(2)
}
pub fn scheduler() -> Signer {
    signer(3)
}

impl World {
    /// A hub with the streams of the table, an empty Postgres, and a genesis.
    pub async fn start() -> Self {
        Self::start_on(None).await
    }
    /// As [`Self::start`], with the database on a disk of so many megabytes; see [`small_disks`].
    pub async fn start_on(megabytes: Option<u32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let postgres = Postgres::start(dir.path(), megabytes);
        let config = dir.path().join("hub.conf");
        let store = dir.path().join("js");
        let text = format!(
            "listen: \"127.0.0.1:-1\"\nports_file_dir: \"{}\"\njetstream {{ store_dir: \"{}\", max_file_store: 64GB }}\n",
            dir.path().display(),
            store.display()
        );
        std::fs::write(&config, text).unwrap();
        let nats = Proc::spawn(Command::new(tool("NATS_SERVER_BIN", "nats-server", "")).arg("-c").arg(&config), "KILL");
        let ports = find_ports(dir.path()).await;
        let nats_url = until("nats-server to listen", async || {
            let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(&ports).ok()?).ok()?;
            Some(ports["nats"][0].as_str()?.to_owned())
        })
        .await;
        let bus = connect(&nats_url).await;
        let context = bus::async_nats::jetstream::new(bus.client.clone());
        for wanted in bus::streams::wanted(&Timings::default(), 1) {
            if ["LEDGER", "KV_ledger"].contains(&wanted.config.name.as_str()) {
                context.create_stream(wanted.config).await.unwrap();
            }
        }
        let ledger = bus::keys::create_key_file(&dir.path().join("ledger.key")).unwrap();
        let network_key = signer(1).public();
        let document = NetworkDocument {
            network: net(),
            network_key,
            name: "test".into(),
            version: 1,
            gateway_keys: vec![gateway().public()],
            scheduler_keys: vec![scheduler().public()],
            ledger_keys: vec![ledger.public()],
            ca_sha256: None,
        };
        let signed = signer(1).json_batch::<NetworkDocument>(vec![serde_json::to_string(&document).unwrap()]);
        std::fs::write(dir.path().join("network.json"), signed.encode()).unwrap();
        let genesis = Fact {
            net: net(),
            id: fact_id::genesis(&net()),
            at_ms: 1,
            policy: 1,
            legs: vec![],
            evidence: vec![],
            what: What::Genesis { network: net(), network_key, rules: Policy::first(MilliMana::mana(1_000_000)) },
        };
        let genesis = ledger.json_batch::<Fact>(vec![serde_json::to_string(&genesis).unwrap()]);
        bus.store(subject::LEDGER_FACTS.into(), None, genesis.encode().into(), HUNG).await.unwrap();
        postgres.make_roles().await;
        let world = Self { bus, nats_url, nats, postgres, document, divisor: 1, dir };
        world.migrate();
        world
    }

    /// Makes the schema, as its owner.
    pub fn migrate(&self) -> String {
        self.as_owner(&["migrate"]).unwrap()
    }
    /// Runs a command of `mesh-ledger` with the rights of the schema's owner: what it says, or why it failed.
    pub fn as_owner(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command(arguments);
        said(command.env("DATABASE_URL", self.postgres.url_of("mesh_owner")))
    }
    /// Stores bytes in LEDGER, as whoever may publish there.
    pub async fn stores(&self, bytes: &[u8]) {
        self.bus.store(subject::LEDGER_FACTS.into(), None, bytes.to_vec().into(), Duration::from_secs(5)).await.unwrap();
    }
    /// Stores bytes under headers as they stand here, the first line with them.
    pub async fn stores_under(&self, headers: &str) {
        use tokio::io::AsyncWriteExt;
        let end = self.bus.stream_end("LEDGER").await.unwrap().last_seq;
        let mut to = tokio::net::TcpStream::connect(self.nats_url.strip_prefix("nats://").unwrap()).await.unwrap();
        let (head, body) = (format!("{headers}\r\n\r\n"), "x");
        let line = format!("HPUB {} {} {}\r\n{head}{body}\r\n", subject::LEDGER_FACTS, head.len(), head.len() + body.len());
        let hello = "CONNECT {\"verbose\":false,\"headers\":true,\"protocol\":1}\r\n";
        to.write_all(format!("{hello}{line}PING\r\n").as_bytes()).await.unwrap();
        until("the message to be stored", async || (self.bus.stream_end("LEDGER").await.unwrap().last_seq > end).then_some(())).await;
    }
    pub fn ledger_key(&self) -> Signer {
        bus::keys::read_key_file(&self.dir.path().join("ledger.key")).unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-ledger"));
        command
            .args(arguments)
            .env("MESH_NATS_URL", &self.nats_url)
            .env("MESH_KEY", self.dir.path().join("ledger.key"))
            .env("MESH_NETWORK", self.dir.path().join("network.json"))
            .env("DATABASE_URL", self.postgres.url())
            .env("MESH_TIME_DIVISOR", self.divisor.to_string())
            .env_remove("MESH_CREDS")
            .env_remove("MESH_CRASH_AT")
            .env_remove("MESH_LEDGER_REMEMBER")
            .env_remove("MESH_HTTP")
            .env_remove("MESH_LOG");
        command
    }
    pub fn worker(&self) -> Proc {
        Proc::spawn(&mut self.command(&["run"]), "TERM")
    }
    /// A worker that serves HTTP at this address.
    pub fn worker_at(&self, http: &str) -> Proc {
        Proc::spawn(&mut self.command(&["run", "--http", http]), "TERM")
    }
    pub fn worker_with(&self, variables: &[(&str, &str)]) -> Proc {
        Proc::spawn(self.command(&["run"]).envs(variables.iter().copied()), "TERM")
    }
    /// As [`Self::verify`], of the stream alone.
    pub fn verify_stream(&self) -> (bool, serde_json::Value) {
        report(self.command(&["verify", "-o", "json"]).env_remove("DATABASE_URL"))
    }
    /// `mesh-ledger verify -o json`: exit code 0?, and its report.
    pub fn verify(&self) -> (bool, serde_json::Value) {
        report(&mut self.command(&["verify", "-o", "json"]))
    }

    pub fn request(&self, by: &Signer, ops: Vec<Op>) -> LedgerRequest {
        let at = bus::hub_time::here_ms();
        let commands: Vec<Ask> = ops.into_iter().map(|op| Ask { net: net(), at, op }).collect();
        LedgerRequest { commands: by.batch(&commands), assignments: vec![], receipts: vec![] }
    }
    /// Asks until there is an answer, as the real askers do.
    pub async fn ask_with(&self, request: &LedgerRequest) -> Vec<LedgerOutcome> {
        let mut answer: Option<LedgerReply> = None;
        let start = Instant::now();
        while answer.is_none() {
            assert!(start.elapsed() < HUNG, "hung: no answer from the ledger");
            answer = self.bus.ask(subject::LEDGER_DO.into(), request, Duration::from_secs(1)).await.ok();
            if answer.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        answer.unwrap().outcomes
    }
    pub async fn ask(&self, ops: Vec<Op>) -> Vec<LedgerOutcome> {
        let by = if ops.iter().any(|op| matches!(op, Op::Settle { .. })) { scheduler() } else { gateway() };
        self.ask_with(&self.request(&by, ops)).await
    }
    /// Opens members 0 and 1, each with a device.
    pub async fn people(&self) {
        let outcomes = self.ask_with(&self.people_request()).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, LedgerOutcome::Done(_))), "{outcomes:?}");
    }
    pub fn people_request(&self) -> LedgerRequest {
        let ops = (0..2).flat_map(|n| {
            let (member, device) = (member(n).public(), device(n).public());
            [
                Op::Open { member: member.member_id(), did: member },
                Op::BindDevice { device: device.device_id(), did: device, member: member.member_id() },
                Op::AttestTier { device: device.device_id(), tier: 1 },
            ]
        });
        self.request(&gateway(), ops.collect())
    }
    /// Waits until the rows have caught up with the stream.
    pub async fn projected(&self) -> i64 {
        let client = self.postgres.client().await;
        until("the projection to catch up", async || {
            let end = self.bus.stream_end("LEDGER").await.ok()?;
            let seq: i64 = client.query_one("select seq from ledger.cursor", &[]).await.ok()?.get(0);
            (u64::try_from(seq) == Ok(end.last_seq)).then_some(seq)
        })
        .await
    }
}

fn report(command: &mut Command) -> (bool, serde_json::Value) {
    let done = command.output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&done.stderr)));
    (done.status.success(), report)
}

/// Runs a command to its end: what it says, or why it failed.
pub fn said(command: &mut Command) -> Result<String, String> {
    let done = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout).into_owned(), String::from_utf8_lossy(&done.stderr).into_owned());
    if done.status.success() { Ok(out) } else { Err(format!("{out}{err}")) }
}

async fn find_ports(dir: &Path) -> PathBuf {
    until("the file of ports", async || {
        let files = std::fs::read_dir(dir).ok()?;
        files.filter_map(|file| Some(file.ok()?.path())).find(|path| path.extension().is_some_and(|end| end == "ports"))
    })
    .await
}

/// Status and body of a plain HTTP request; `None` where nobody listens.
pub async fn http(address: &str, path: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
}

/// An address on which nobody listens now.
pub fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

pub async fn connect(url: &str) -> Bus {
    let settings = BusSettings { nats_url: url.into(), creds: None, ca: None, time_divisor: 1 };
    let connect = Connect { login: Login::None, ..Connect::new(&settings, "test", "_INBOX.test") };
    Bus::connect(connect, &Health::default()).await.unwrap()
}

pub fn hold(n: u64) -> Op {
    Op::Hold {
        job: job(n),
        member: member(0).public().member_id(),
        key: format!("key {n}"),
        amount_mmana: Some(MilliMana::mana(10)),
        expires: bus::hub_time::here_ms() + 3_600_000,
    }
}

/// Settles jobs that device 1 did for member 0 in a second: the request as a scheduler sends it.
pub fn settlement(world: &World, jobs: &[u64]) -> LedgerRequest {
    let now = bus::hub_time::here_ms();
    let (payer, by) = (member(0).public().member_id(), device(1));
    let assignments: Vec<Assignment> = jobs
        .iter()
        .map(|n| Assignment {
            net: net(),
            job: job(*n),
            attempt: 1,
            device: by.public().device_id(),
            member: payer,
            assigned_at: now - 2_000,
            exp: now,
            price_mmana: MilliMana::mana(5),
            tier: 1,
            timeout_ms: 60_000,
            payload: Cid::of(b"payload"),
            resume: None,
        })
        .collect();
    let assigned = scheduler().batch(&assignments);
    let attempts: Vec<AttemptId> = assigned.b.iter().map(|body| AttemptId(Cid::of(body))).collect();
    let receipts: Vec<Receipt> = jobs
        .iter()
        .zip(&attempts)
        .map(|(n, attempt)| Receipt {
            net: net(),
            device: by.public().device_id(),
            job: job(*n),
            attempt: *attempt,
            at: now,
            outcome: Outcome::Completed(ResultRef { cid: Cid::of(b"result"), bytes: 6 }),
            claimed_ms: 1_000,
            waited_ms: 0,
        })
        .collect();
    let received = by.batch(&receipts);
    let ops = jobs
        .iter()
        .zip(attempts)
        .zip(&received.b)
        .map(|((n, attempt), receipt)| Op::Settle {
            job: job(*n),
            attempt,
            receipt: ReceiptId(Cid::of(receipt)),
            receipt_at: now,
            receipt_seq: 1,
            started_at: None,
            ended: vec![],
        })
        .collect();
    LedgerRequest {
        assignments: vec![assigned.encode().into()],
        receipts: vec![received.encode().into()],
        ..world.request(&scheduler(), ops)
    }
}

pub fn done(outcomes: &[LedgerOutcome]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, LedgerOutcome::Done(_))).count()
}
