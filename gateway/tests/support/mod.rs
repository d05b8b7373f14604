//! Real servers for this crate's tests: a hub as bootstrap makes it, a device's leaf, a private Postgres. Loopback and free ports
//! only; each is stopped, with its data, when dropped.
#![allow(dead_code)]

pub mod postgres;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::connect::{Connect, Login};
use bus::{Bus, Health};
use bus_schemas::MilliMana;
use bus_schemas::id::{DeviceId, MemberId};
use bus_schemas::network::NetworkDocument;
use gateway::bootstrap::files::{FilesArgs, WsListen, files};
use gateway::bootstrap::net_dir::{Change, NetDir};
use gateway::bootstrap::streams::{StreamsArgs, streams};
use gateway::enrolment::mint::Minter;
use gateway::jwt::creds_file;
use nkeys::KeyPair;

/// A deadline that means *hung*.
pub const HUNG: Duration = Duration::from_secs(60);

/// `NATS_SERVER_BIN`, or the one that `make nats-server` keeps in the cache folder.
pub fn nats_server() -> PathBuf {
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

pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A child that ends with its owner.
pub struct Server(Child);
impl Server {
    /// Starts nats-server and waits until it listens; `None` where it ended at once (a port was taken meanwhile).
    pub fn start(conf: &Path, listen: SocketAddr) -> Option<Self> {
        let log = std::fs::File::create(conf.with_extension("log")).unwrap();
        let mut server =
            Self(Command::new(nats_server()).arg("-c").arg(conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let start = Instant::now();
        while TcpStream::connect_timeout(&listen, Duration::from_millis(200)).is_err() {
            if server.0.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(start.elapsed() < HUNG, "nats-server does not listen on {listen}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }
}
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn args_of(dir: PathBuf) -> FilesArgs {
    FilesArgs {
        dir,
        name: Some("test".into()),
        hub_of: None,
        nodes: None,
        client_listen: vec![],
        leaf_listen: vec![],
        ws_listen: vec![WsListen(None)],
        monitor_listen: vec![],
        route_listen: vec![free_port()],
        routes: vec![],
        store: None,
        sync_interval: None,
        tls: <_>::default(),
    }
}

/// A hub with a network of its own; streams on request.
pub struct Hub {
    server: Arc<Server>,
    pub folder: tempfile::TempDir,
    pub dir: NetDir,
    pub url: String,
    pub leaf: SocketAddr,
}
impl Hub {
    pub fn start() -> Self {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let (client_listen, leaf_listen, monitor_listen) = (free_port(), free_port(), free_port());
            let args = FilesArgs {
                client_listen: vec![client_listen],
                leaf_listen: vec![leaf_listen],
                monitor_listen: vec![monitor_listen],
                ..args_of(folder.path().join("net"))
            };
            files(&args, bus::hub_time::here_ms() / 1000).unwrap();
            let dir = NetDir::new(&args.dir).unwrap();
            if let Some(server) = Server::start(&dir.hub_conf(), client_listen) {
                return Self { server: Arc::new(server), folder, dir, url: format!("nats://{client_listen}"), leaf: leaf_listen };
            }
        }
        panic!("no hub in five tries");
    }

    /// Another network on the same hub; without streams yet.
    pub fn beside(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("net");
        files(&FilesArgs { hub_of: Some(self.dir.root().to_owned()), ..args_of(dir.clone()) }, bus::hub_time::here_ms() / 1000).unwrap();
        Self { server: self.server.clone(), folder, dir: NetDir::new(&dir).unwrap(), url: self.url.clone(), leaf: self.leaf }
    }

    /// Kills the server and starts another one with the same configuration and data.
    pub fn start_again(&self) -> Server {
        self.signal("KILL");
        let listen = self.url.trim_start_matches("nats://").parse().unwrap();
        let start = Instant::now();
        while TcpStream::connect_timeout(&listen, Duration::from_millis(200)).is_ok() {
            assert!(start.elapsed() < HUNG, "the hub goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        Server::start(&self.dir.hub_conf(), listen).expect("a hub")
    }

    /// Sends a signal to the server: STOP freezes it, CONT lets it go on.
    pub fn signal(&self, name: &str) {
        testkit::proc::signal(self.server.0.id(), name);
    }

    pub async fn with_streams() -> Self {
        let hub = Self::start();
        hub.streams(1).await.unwrap();
        hub
    }

    pub async fn streams(&self, time_divisor: u32) -> anyhow::Result<Vec<Change>> {
        streams(&self.streams_args(time_divisor)).await
    }
    pub fn streams_args(&self, time_divisor: u32) -> StreamsArgs {
        StreamsArgs {
            dir: self.dir.root().to_owned(),
            nats_url: self.url.clone(),
            ca: None,
            grant_mana: Some(MilliMana::mana(100)),
            time_divisor,
            wait: Duration::from_secs(10),
            replicas: None,
        }
    }

    pub fn document(&self) -> NetworkDocument {
        bus::keys::read_network(&self.dir.network()).unwrap()
    }

    /// A connection as a part: gateway, scheduler, ledger, …
    pub async fn bus(&self, role: &str) -> Bus {
        self.bus_with(&self.dir.creds(role), &format!("_INBOX.{role}")).await
    }
    pub async fn bus_with(&self, creds: &Path, inbox: &str) -> Bus {
        let how = Connect {
            urls: self.url.clone(),
            login: Login::Creds(creds.to_owned()),
            ca: None,
            name: "test".into(),
            inbox_prefix: inbox.to_owned(),
            wait: Duration::from_secs(5),
        };
        Bus::connect(how, &Health::default()).await.unwrap()
    }

    pub fn minter(&self) -> Minter {
        Minter::read(&self.dir.nkey("role-device"), &self.dir.nkey("role-member"), &self.dir.edge_pub()).unwrap()
    }
    /// Credentials files of a device and of its member.
    pub fn creds_of(&self, device: &DeviceId, member: &MemberId) -> (PathBuf, PathBuf) {
        let transport = KeyPair::new_user();
        let now = bus::hub_time::here_ms() / 1000;
        let write = |id: &str, token: String| {
            let path = self.folder.path().join(format!("{id}.creds"));
            bus::keys::write_secret(&path, creds_file(&token, &transport.seed().unwrap()).as_bytes()).unwrap();
            path
        };
        let minter = self.minter();
        let device_jwt = minter.device(&transport.public_key(), device, member, now, 3600).unwrap();
        let member_jwt = minter.member(&transport.public_key(), member, now, 3600).unwrap();
        (write(&device.to_string(), device_jwt), write(&member.to_string(), member_jwt))
    }
}

/// A device's own server with its link to the hub, filled in from nats/leaf.conf.
pub struct Leaf {
    server: Server,
    folder: tempfile::TempDir,
    /// For people at that machine: no login needed.
    pub url: String,
}
impl Leaf {
    pub fn start(hub: &Hub, device: &DeviceId, creds: &Path) -> Self {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let (listen, monitor) = (free_port(), free_port());
            let values = [
                ("SERVER_NAME", format!("lf-{}", bus::keys::random_hex::<16>().unwrap())),
                ("PORT", listen.port().to_string()),
                ("MONITOR_PORT", monitor.port().to_string()),
                ("STORE", folder.path().join("js").display().to_string()),
                ("JS_DOMAIN", format!("dev-{device}")),
                ("APP_PASSWORD", "app".into()),
                ("AGENT_PASSWORD", "agent".into()),
                ("SYS_PASSWORD", "sys".into()),
                ("HUB_URLS", format!("\"nats://{}\"", hub.leaf)),
                ("CREDS_FILE", creds.display().to_string()),
                ("TLS", String::new()),
            ];
            let template = include_str!("../../../nats/leaf.conf").to_owned();
            let text = values.iter().fold(template, |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value));
            assert!(!text.contains("{{"), "{text}");
            let conf = folder.path().join("leaf.conf");
            std::fs::write(&conf, text).unwrap();
            if let Some(server) = Server::start(&conf, listen) {
                return Self { server, folder, url: format!("nats://{listen}") };
            }
        }
        panic!("no leaf in five tries");
    }

    /// As the agent: the account that is linked to the hub.
    pub async fn uplink(&self, device: &DeviceId) -> Bus {
        let how = Connect {
            urls: self.url.clone(),
            login: Login::UserPassword("agent".into(), "agent".into()),
            ca: None,
            name: "test".into(),
            inbox_prefix: format!("_INBOX.{device}"),
            wait: Duration::from_secs(5),
        };
        Bus::connect(how, &Health::default()).await.unwrap()
    }
}
