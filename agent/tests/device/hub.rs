//! A hub in operator mode with the accounts and the device role of the design, and a device that belongs to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent::home::{Device, DeviceName, Home, MemberName, Settings};
use agent::identity::Identity;
use agent::local::Status;
use bus::connect::{Connect, Login};
use bus::{Bus, Health};
use bus_schemas::limits::Timings;
use bus_schemas::network::NetworkDocument;
use bus_schemas::{DeviceId, Signer};
use nkeys::KeyPair;
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("../../../nats/hub.conf");
/// Nothing here takes longer unless it hangs.
pub const HUNG: Duration = Duration::from_secs(30);

pub fn scheduler_key() -> Signer {
    Signer::from_seed(&[2; 32])
}
fn network_key() -> Signer {
    Signer::from_seed(&[1; 32])
}

/// Keys and files of a network; its hub runs only after [`Network::start_hub`].
pub struct Network {
    pub folder: tempfile::TempDir,
    operator: KeyPair,
    control: KeyPair,
    edge: KeyPair,
    system: KeyPair,
    device_role: KeyPair,
    client_port: u16,
    leaf_port: u16,
}

impl Network {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            operator: KeyPair::new_operator(),
            control: KeyPair::new_account(),
            edge: KeyPair::new_account(),
            system: KeyPair::new_account(),
            device_role: KeyPair::new_account(),
            client_port: free_port(),
            leaf_port: free_port(),
        }
    }

    /// A home that has joined, without the gateway that would let it join.
    pub fn device(&self, settings: Settings) -> Home {
        let home = Home::at(self.folder.path().join("home"));
        let identity = Identity::read_or_create(&home).unwrap();
        let (device, member) = (identity.device.public(), identity.member.public());
        let network = network_key().public();
        let document = NetworkDocument {
            network: network.network_id(),
            network_key: network,
            name: "lab".into(),
            version: 1,
            gateway_keys: vec![],
            scheduler_keys: vec![scheduler_key().public()],
            ledger_keys: vec![],
            ca_sha256: None,
        };
        let document = network_key().json_batch::<NetworkDocument>(vec![serde_json::to_string(&document).unwrap()]);
        bus::keys::write_secret(&home.network_json(), &document.encode()).unwrap();
        let claims = json!({
            "iss": self.device_role.public_key(), "sub": identity.transport(), "name": device.device_id().to_string(),
            "nats": {"type": "user", "version": 2, "issuer_account": self.edge.public_key(), "tags": [format!("member:{}", member.member_id())]}
        });
        bus::keys::write_secret(&home.device_creds(), identity.creds(&jwt(&self.device_role, claims)).unwrap().as_bytes()).unwrap();
        home.save(&Device {
            name: "laptop".into(),
            network: network.network_id(),
            gateway_url: "http://127.0.0.1:1".into(),
            leaf_url: format!("nats://127.0.0.1:{}", self.leaf_port),
            nats_url: format!("nats://127.0.0.1:{}", self.client_port),
            ws_url: String::new(),
            device: DeviceName { id: device.device_id(), did: device },
            member: MemberName { id: member.member_id(), did: member },
            settings,
            told: None,
        })
        .unwrap();
        home
    }

    /// Starts the hub and makes the streams that devices write to.
    pub async fn start_hub(&self) -> Hub {
        let conf = self.folder.path().join("hub.conf");
        std::fs::write(&conf, self.config()).unwrap();
        let program = agent::leaf::find_server().await.unwrap();
        let child =
            Command::new(program).arg("--config").arg(&conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let user = KeyPair::new_user();
        let claims = json!({
            "iss": self.control.public_key(), "sub": user.public_key(), "name": "scheduler",
            "nats": {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        });
        let creds = self.folder.path().join("control.creds");
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(&self.control, claims),
            user.seed().unwrap()
        );
        bus::keys::write_secret(&creds, text.as_bytes()).unwrap();
        let hub = Hub { child: child.unwrap(), bus: connect(&format!("nats://127.0.0.1:{}", self.client_port), Login::Creds(creds)).await };
        let context = async_nats::jetstream::new(hub.bus.client.clone());
        for wanted in bus::streams::wanted(&Timings::default(), 1) {
            if ["SUBMIT", "BIDS", "EVENTS", "RECEIPTS", "HEARTBEATS"].contains(&wanted.config.name.as_str()) {
                context.create_stream(wanted.config).await.unwrap();
            }
        }
        hub
    }

    fn config(&self) -> String {
        let account = |key: &KeyPair, name: &str, more: Value| {
            let mut nats = json!({
                "type": "account", "version": 2,
                "limits": {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1}
            });
            for (field, value) in more.as_object().unwrap() {
                if field == "limits" {
                    nats["limits"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
                } else {
                    nats[field] = value.clone();
                }
            }
            jwt(&self.operator, json!({"iss": self.operator.public_key(), "sub": key.public_key(), "name": name, "nats": nats}))
        };
        let (control, edge) = (self.control.public_key(), self.edge.public_key());
        let export = |subject: &str, kind: &str| json!({"name": subject, "subject": subject, "type": kind});
        let import = |subject: &str, kind: &str, of: &str| json!({"name": subject, "subject": subject, "type": kind, "account": of});
        let down = ["mesh.v1.watch.*.*.*", "mesh.v1.offer.*"];
        let up = ["mesh.v1.dev.>", "mesh.v1.submit.*", "mesh.v1.api.>"];
        let exports: Vec<Value> = up.iter().map(|s| export(s, "service")).chain(down.iter().map(|s| export(s, "stream"))).collect();
        let imports: Vec<Value> =
            up.iter().map(|s| import(s, "service", &control)).chain(down.iter().map(|s| import(s, "stream", &control))).collect();
        let unlimited = json!({"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "max_ack_pending": -1,
            "mem_max_stream_bytes": -1, "disk_max_stream_bytes": -1});
        let publish = ["hb", "bid.*", "evt.*", "receipt.*"].map(|what| format!("mesh.v1.dev.{{{{name()}}}}.{what}"));
        let publish: Vec<String> =
            publish.into_iter().chain(["mesh.v1.submit.{{name()}}", "mesh.v1.api.{{name()}}.>", "_R_.>"].map(str::to_owned)).collect();
        let subscribe =
            ["_INBOX.{{name()}}.>", "mesh.v1.offer.{{name()}}", "mesh.v1.ctl.{{name()}}.*", "mesh.v1.watch.{{tag(member)}}.*.*"];
        let role = json!({"kind": "user_scope", "key": self.device_role.public_key(), "role": "device", "template": {
            "pub": {"allow": publish}, "sub": {"allow": subscribe}, "subs": 100, "data": -1, "payload": 400_000, "allowed_connection_types": []}});
        let ctl = "mesh.v1.ctl.*.*";
        let operator = jwt(
            &self.operator,
            json!({"iss": self.operator.public_key(), "sub": self.operator.public_key(), "name": "mesh",
                "nats": {"type": "operator", "version": 2, "system_account": self.system.public_key()}}),
        );
        let values = [
            ("SERVER_NAME", "hub-1".into()),
            ("CLUSTER", String::new()),
            ("CLIENT_LISTEN", format!("127.0.0.1:{}", self.client_port)),
            ("MONITOR_LISTEN", format!("127.0.0.1:{}", free_port())),
            ("LEAF_LISTEN", format!("127.0.0.1:{}", self.leaf_port)),
            ("OPERATOR_JWT", operator),
            ("STORE", self.folder.path().join("hub").display().to_string()),
            ("SYNC_INTERVAL", "2m".into()),
            ("SYS_PUBLIC_KEY", self.system.public_key()),
            ("SYS_ACCOUNT_JWT", account(&self.system, "SYS", json!({}))),
            ("CONTROL_PUBLIC_KEY", control.clone()),
            (
                "CONTROL_ACCOUNT_JWT",
                account(
                    &self.control,
                    "CONTROL",
                    json!({"limits": unlimited, "exports": exports, "imports": [import(ctl, "service", &edge)]}),
                ),
            ),
            ("EDGE_PUBLIC_KEY", edge.clone()),
            (
                "EDGE_ACCOUNT_JWT",
                account(&self.edge, "EDGE", json!({"exports": [export(ctl, "service")], "imports": imports, "signing_keys": [role]})),
            ),
            ("CLIENT_TLS", String::new()),
            ("LEAF_TLS", String::new()),
            ("WEBSOCKET", String::new()),
        ];
        values.into_iter().fold(TEMPLATE.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), &value))
    }
}

fn jwt(signer: &KeyPair, mut claims: Value) -> String {
    claims["iat"] = json!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    claims["jti"] = json!(bus::keys::random_hex::<16>().unwrap());
    let part = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims));
    let signature = data_encoding::BASE64URL_NOPAD.encode(&signer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn connect(url: &str, login: Login) -> Bus {
    let how = Connect { urls: url.into(), login, ca: None, name: "test".into(), inbox_prefix: "_INBOX".into(), wait: HUNG };
    Bus::connect(how, &Health::default()).await.unwrap()
}

/// Why no disk of its own can be made here.
pub fn small_disks() -> Result<(), String> {
    let mut mount = Command::new("unshare");
    mount.args(["--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs"]).arg(std::env::temp_dir());
    match mount.output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!("unshare: {}", String::from_utf8_lossy(&done.stderr).trim())),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

/// The running hub, seen as a worker of CONTROL sees it.
pub struct Hub {
    child: Child,
    pub bus: Bus,
}
impl Hub {
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `mesh start` of a home.
pub struct Running {
    child: Child,
    home: Home,
}
impl Running {
    pub fn start(home: &Home, variables: &[(&str, &str)]) -> Self {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_mesh")), home, variables)
    }
    /// As [`Self::start`], with the store of its server on a disk of its own; `ballast_mb` of it are used already.
    pub fn start_on_small_disk(home: &Home, megabytes: u32, ballast_mb: u32, variables: &[(&str, &str)]) -> Self {
        let script = "set -e; mkdir -p \"$1\"; mount -t tmpfs -o size=$2m,mode=0700 tmpfs \"$1\"
            dd if=/dev/zero of=\"$1/ballast\" bs=1M count=$3 2>/dev/null; shift 3; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(home.nats().join("store"));
        command.args([megabytes, ballast_mb].map(|number| number.to_string())).arg(env!("CARGO_BIN_EXE_mesh"));
        Self::start_as(command, home, variables)
    }
    /// A file of the disk that only this agent and its server see.
    pub fn on_its_disk(&self, name: &str) -> PathBuf {
        let path = self.home.nats().join("store").join(name);
        Path::new(&format!("/proc/{}/root", self.child.id())).join(path.strip_prefix("/").unwrap())
    }
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
    fn start_as(mut command: Command, home: &Home, variables: &[(&str, &str)]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log(home)).unwrap();
        command.arg("start").env("MESH_HOME", home.root()).env("MESH_LOG", "debug,async_nats=error").envs(variables.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, home: home.clone() }
    }
    /// A connection as any program of this machine, once the server is there.
    pub async fn local(&self) -> Bus {
        let path = self.home.nats().join("leaf.toml");
        let port = eventually("the local port", || async {
            let text: toml::Table = toml::from_str(&std::fs::read_to_string(&path).ok()?).ok()?;
            let port = text.get("port")?.as_integer().filter(|port| *port > 0)?;
            std::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).ok()?)).ok()?;
            Some(port)
        })
        .await;
        connect(&format!("nats://127.0.0.1:{port}"), Login::None).await
    }
    pub async fn status(&self, local: &Bus) -> Option<Status> {
        let answer = local.client.request("mesh.status", "".into()).await.ok()?;
        Some(serde_json::from_slice(&answer.payload).unwrap())
    }
    /// Waits until the agent says so of itself.
    pub async fn until(&self, local: &Bus, what: &str, is: impl Fn(&Status) -> bool) -> Status {
        eventually(what, || async { self.status(local).await.filter(|status| is(status)) }).await
    }
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
    pub async fn ended(&mut self) {
        eventually("the agent's end", || std::future::ready(self.child.try_wait().unwrap())).await;
    }
    /// Stops its process for a while, as a machine that is set aside.
    pub async fn freeze(&self, time: std::time::Duration) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        tokio::time::sleep(time).await;
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    }
    /// Asks it to stop, as `mesh stop` does.
    pub async fn stop(&mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.ended().await;
        assert!(Home::live_pid(&self.home.nats_pid()).is_none(), "its server is gone too");
    }
}
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in servers_of(&self.home).into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(log(&self.home)).unwrap_or_default());
        }
    }
}

/// The servers that run on a home's configuration, also where the home, and with it the file that names its server, is gone already.
fn servers_of(home: &Home) -> Vec<i32> {
    let folder = home.nats().display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    let of_home = |pid: &i32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words[0].contains("nats-server") && words.iter().any(|word| word.starts_with(&folder))
    };
    pids.filter(of_home).collect()
}

fn log(home: &Home) -> PathBuf {
    Path::new(home.root()).join("test.log")
}

pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

pub fn id(home: &Home) -> DeviceId {
    home.device().unwrap().device.id
}

/// Looks again and again until there is something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let end = Instant::now() + HUNG;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
