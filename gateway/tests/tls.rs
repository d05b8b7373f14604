//! TLS of the hub with real servers: each listener with the right CA, and in plain words why not with another one; three nodes.

// A test stops at the first surprise, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bus::connect::{Connect, Login};
use bus::{Bus, Health};
use gateway::bootstrap::files::{FilesArgs, files};
use gateway::bootstrap::net_dir::NetDir;
use gateway::bootstrap::streams::{StreamsArgs, streams};
use rcgen::{CertificateParams, KeyPair};
use support::{HUNG, Server, free_port};

fn now_s() -> u64 {
    bus::hub_time::here_ms() / 1000
}

fn args(dir: &Path, flags: &[String]) -> FilesArgs {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: FilesArgs,
    }
    let fixed = ["x".to_owned(), "--dir".into(), dir.display().to_string()];
    <Cli as clap::Parser>::try_parse_from(fixed.iter().chain(flags)).unwrap().args
}

fn flags(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

/// A hub of one node with TLS, every listener on a free port.
struct Hub {
    _server: Server,
    _folder: tempfile::TempDir,
    dir: NetDir,
    client: SocketAddr,
    leaf: SocketAddr,
    ws: SocketAddr,
}

impl Hub {
    fn start(tls: &[&str], at_s: u64) -> Self {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let [client, leaf, ws, monitor] = std::array::from_fn(|_| free_port());
            let mut all = flags(tls);
            for (flag, at) in [("--client-listen", client), ("--leaf-listen", leaf), ("--ws-listen", ws), ("--monitor-listen", monitor)] {
                all.extend([flag.to_owned(), at.to_string()]);
            }
            let args = args(&folder.path().join("net"), &all);
            files(&args, at_s).unwrap();
            let dir = NetDir::new(&args.dir).unwrap();
            if let Some(server) = Server::start(&dir.hub_conf(), client) {
                return Self { _server: server, _folder: folder, dir, client, leaf, ws };
            }
        }
        panic!("no hub in five tries");
    }

    async fn connect(&self, url: String, ca: Option<PathBuf>) -> anyhow::Result<Bus> {
        let how = Connect {
            urls: url,
            login: Login::Creds(self.dir.creds("gateway")),
            ca,
            name: "test".into(),
            inbox_prefix: "_INBOX.gateway".into(),
            wait: Duration::ZERO,
        };
        tokio::time::timeout(HUNG, Bus::connect(how, &Health::default())).await.unwrap()
    }

    /// Why a connection to the client and the WebSocket listener fails.
    async fn refusals(&self, ca: Option<PathBuf>) -> Vec<String> {
        let mut said = Vec::new();
        for url in [format!("tls://{}", self.client), format!("nats://{}", self.client), format!("wss://{}", self.ws)] {
            said.push(format!("{:#}", self.connect(url, ca.clone()).await.err().expect("a refusal")));
        }
        said
    }
}

#[tokio::test]
async fn the_networks_own_ca_and_no_other() {
    let hub = Hub::start(&["--tls-names", "hub.example.org"], now_s());
    let ca = Some(hub.dir.ca_cert());
    for url in [format!("tls://{}", hub.client), format!("nats://{}", hub.client), format!("wss://{}", hub.ws)] {
        hub.connect(url, ca.clone()).await.unwrap().client.flush().await.unwrap();
    }
    let other = Hub::start(&["--tls-names", "hub.example.org"], now_s());
    // Without a CA the system's count, which did not make this one.
    for ca in [Some(other.dir.ca_cert()), None] {
        for said in hub.refusals(ca.clone()).await {
            assert!(said.contains("its certificate is of another CA than the network's"), "{ca:?}: {said}");
        }
    }
    assert_eq!(bus::keys::read_network(&hub.dir.network()).unwrap().ca_sha256, Some(bus::tls::fingerprint_of(&hub.dir.ca_cert()).unwrap()));
}

/// The server speaks first, in plain text, and nothing else of the protocol without TLS.
#[test]
fn plain_clients_are_told_and_cut() {
    let hub = Hub::start(&["--tls-names", "hub.example.org"], now_s());
    for (listener, hello) in [
        (hub.client, "CONNECT {\"verbose\":false}\r\nPING\r\n"),
        (hub.leaf, "CONNECT {\"name\":\"lf-1\",\"version\":\"2.15.2\"}\r\nPING\r\n"),
    ] {
        let mut stream = TcpStream::connect(listener).unwrap();
        stream.set_read_timeout(Some(HUNG)).unwrap();
        let _ = stream.write_all(hello.as_bytes());
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("\"tls_required\":true") && !said.contains("PONG") && !said.contains("+OK"), "{listener}: {said}");
    }
    let mut stream = TcpStream::connect(hub.ws).unwrap();
    stream.set_read_timeout(Some(HUNG)).unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n");
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn an_expired_certificate_is_called_expired() {
    const YEARS_S: u64 = 2 * 365 * 24 * 3600;
    let hub = Hub::start(&["--tls-names", "hub.example.org"], now_s() - YEARS_S);
    for said in hub.refusals(Some(hub.dir.ca_cert())).await {
        assert!(said.contains("its certificate has expired"), "{said}");
    }
}

/// A certificate that is given, of a private CA, for another host.
#[tokio::test]
async fn another_host_name_is_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut about = CertificateParams::default();
    about.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let ca = about.self_signed(&ca_key).unwrap();
    let cert = CertificateParams::new(vec!["elsewhere.example.org".to_owned()]).unwrap();
    let cert = cert.signed_by(&key, &rcgen::Issuer::from_params(&about, &ca_key)).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        bus::keys::write_secret(&path, text.as_bytes()).unwrap();
        path.display().to_string()
    };
    let (cert, key, ca) = (file("cert.pem", cert.pem()), file("key.pem", key.serialize_pem()), file("ca.pem", ca.pem()));
    let hub = Hub::start(&["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca], now_s());
    for said in hub.refusals(Some(ca.into())).await {
        assert!(said.contains("its certificate is for another host name"), "{said}");
    }
}

#[tokio::test]
async fn three_nodes_with_tls_are_one_hub() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = flags(&["--nodes", "3", "--tls-names", "hub.example.org", "--ws-listen", "off"]);
    let ports: Vec<[SocketAddr; 4]> = (0..3).map(|_| std::array::from_fn(|_| free_port())).collect();
    for (n, flag) in ["--client-listen", "--leaf-listen", "--monitor-listen", "--route-listen"].into_iter().enumerate() {
        all.extend([flag.to_owned(), ports.iter().map(|ports| ports[n].to_string()).collect::<Vec<_>>().join(",")]);
    }
    let args = args(&folder.path().join("net"), &all);
    files(&args, now_s()).unwrap();
    let dir = NetDir::new(&args.dir).unwrap();
    let _nodes: Vec<Server> = (1..=3).map(|n| Server::start(&dir.node_conf(n), ports[n - 1][0]).expect("a node")).collect();
    let urls = ports.iter().map(|ports| format!("tls://{}", ports[0])).collect::<Vec<_>>().join(",");
    // Streams of three replicas are made once the nodes have found each other.
    let wanted = StreamsArgs {
        dir: dir.root().to_owned(),
        nats_url: urls,
        ca: Some(dir.ca_cert()),
        grant_mana: None,
        time_divisor: 1,
        wait: HUNG,
        replicas: None,
    };
    let made = streams(&wanted).await.unwrap();
    assert!(made.iter().any(|change| change.what == "stream JOBS"), "{made:?}");
    let conf = std::fs::read_to_string(dir.node_conf(1)).unwrap();
    let cluster = &conf[conf.find("cluster {").unwrap()..];
    assert!(cluster.contains("password:") && cluster[..cluster.find("\n}\n").unwrap()].contains("ca_file:"), "{cluster}");
}

#[test]
fn what_others_could_hear_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("net");
    let refused = |more: &[&str]| files(&args(&dir, &flags(more)), now_s()).unwrap_err().to_string();
    for (flag, at) in [("--client-listen", "0.0.0.0:4222"), ("--leaf-listen", "192.0.2.1:7422"), ("--ws-listen", "[::]:8443")] {
        let said = refused(&[flag, at]);
        assert!(said.contains(&format!("{flag} {at}")) && said.contains("--tls-names"), "{said}");
    }
    let tls = ["--tls-names", "hub", "--client-listen", "0.0.0.0:4222"];
    let said = refused(&[&tls[..], &["--monitor-listen", "0.0.0.0:8222"]].concat());
    assert!(said.contains("--monitor-listen 0.0.0.0:8222") && !said.contains("--client-listen 0"), "{said}");
    for bad in ["hub:443", "a b", "0.0.0.0", "a.-x", ""] {
        assert!(refused(&["--tls-names", bad]).contains("--tls-names"), "{bad}");
    }
    files(&args(&dir, &flags(&["--client-listen", "0.0.0.0:4222", "--allow-plain"])), now_s()).unwrap();
    files(&args(&dir, &flags(&tls)), now_s()).unwrap();
}

#[test]
fn the_ca_stays_and_certificates_are_renewed() {
    const DAY_S: u64 = 24 * 3600;
    let folder = tempfile::tempdir().unwrap();
    let dir = NetDir::new(&folder.path().join("net")).unwrap();
    let run = |more: &[&str], at_s: u64| files(&args(dir.root(), &flags(more)), at_s);
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    let now = now_s();
    run(&["--tls-names", "hub"], now).unwrap();
    let (ca, cert, key) = (read(dir.ca_cert()), read(dir.tls_cert()), read(dir.tls_key()));
    // Left out the second time: TLS stays on. The CA's key is not needed meanwhile.
    let away = dir.ca_key().with_extension("away");
    std::fs::rename(dir.ca_key(), &away).unwrap();
    run(&[], now + 100 * DAY_S).unwrap();
    assert_eq!((read(dir.tls_cert()), read(dir.tls_key())), (cert.clone(), key));
    assert!(read(dir.hub_conf()).contains("cert_file"));
    // Half of its life is over: it is needed, and said so.
    let said = format!("{:#}", run(&[], now + 250 * DAY_S).unwrap_err());
    assert!(said.contains("keys/ca.key") && said.contains("M0206"), "{said}");
    std::fs::rename(&away, dir.ca_key()).unwrap();
    let changes: Vec<String> = run(&[], now + 250 * DAY_S).unwrap().into_iter().map(|change| change.what).collect();
    assert!(changes.contains(&"tls.pem".into()) && !changes.contains(&"ca.pem".into()), "{changes:?}");
    let renewed = read(dir.tls_cert());
    run(&["--tls-names", "hub,10.0.0.7"], now + 251 * DAY_S).unwrap();
    assert!(renewed != cert && read(dir.tls_cert()) != renewed && read(dir.ca_cert()) == ca);
    for secret in [dir.ca_key(), dir.tls_key()] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600, "{}", secret.display());
    }
}
