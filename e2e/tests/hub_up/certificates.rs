//! What a gateway shows of itself at its HTTPS port, and what a device that wants to join makes of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use bus::tls::ServerFiles;
use bus_schemas::Signer;
use bus_schemas::network::Invite;
use futures::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use testkit::{Cli, HUNG};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A CA of the test's own.
struct Authority {
    about: CertificateParams,
    key: KeyPair,
    file: PathBuf,
}
impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut about = CertificateParams::default();
        about.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let file = write(folder, &format!("{name}.pem"), &about.self_signed(&key).expect("a CA").pem());
        Self { about, key, file }
    }

    /// A certificate of it for `name`, valid between these years.
    fn certificate(&self, folder: &Path, name: &str, years: (i32, i32)) -> ServerFiles {
        let key = KeyPair::generate().expect("a key");
        let mut about = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (about.not_before, about.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let signed = about.signed_by(&key, &Issuer::from_params(&self.about, &self.key)).expect("a certificate");
        ServerFiles {
            cert: write(folder, "cert.pem", &signed.pem()),
            key: write(folder, "key.pem", &key.serialize_pem()),
            ca: Some(self.file.clone()),
        }
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(folder).expect("a folder");
    bus::keys::write_secret(&path, text.as_bytes()).expect("a file");
    path
}

/// Serves as the gateway does, and counts what it is asked.
struct Door {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
    _stop: DropGuard,
}
impl Door {
    async fn open(files: &ServerFiles) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let routes = Router::new().fallback(move || {
            count.fetch_add(1, Ordering::Relaxed);
            async { (StatusCode::SERVICE_UNAVAILABLE, "not now") }
        });
        let stop = CancellationToken::new();
        let tls = Some(files.config().expect("usable files"));
        let (at, _) = bus::health::serving_with(([127, 0, 0, 1], 0).into(), tls, routes, stop.clone()).await.expect("a listener");
        Self { at, asked, _stop: stop.drop_guard() }
    }
    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.at.port())
    }
}

#[tokio::test]
async fn nothing_is_said_to_a_server_whose_certificate_is_not_good() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let (ours, other) = (Authority::new(path, "ours"), Authority::new(path, "other"));
    let network = Signer::from_seed(&[7; 32]).public().network_id();
    let invite = |url: String| {
        let ca_sha256 = Some(bus::tls::fingerprint_of(&ours.file).expect("a CA"));
        Invite { url, network, secret: "s3cret".into(), ca_sha256 }.to_line()
    };
    let join = async |name: &str, line: String| {
        let laptop = Cli { config_home: path.join(name).join("config"), mesh_home: path.join(name).join("home") };
        let joined = laptop.mesh_home.join("device.toml");
        let output = tokio::task::spawn_blocking(move || laptop.run(&["init", "--join", &line])).await.expect("mesh runs");
        assert!(!output.status.success() && !joined.exists(), "{name}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let good = Door::open(&ours.certificate(&path.join("good"), "localhost", (2020, 2100))).await;
    for (name, files, why) in [
        ("expired", ours.certificate(&path.join("1"), "localhost", (2020, 2021)), "its certificate has expired"),
        ("early", ours.certificate(&path.join("2"), "localhost", (2099, 2100)), "its certificate is not valid yet"),
        ("elsewhere", ours.certificate(&path.join("3"), "hub.example.org", (2020, 2100)), "its certificate is for another host name"),
        ("stranger", other.certificate(&path.join("4"), "localhost", (2020, 2100)), "its certificate is of another CA"),
        // It shows the network's CA, which is no secret, and has a certificate of its own.
        (
            "impostor",
            ServerFiles { ca: Some(ours.file.clone()), ..other.certificate(&path.join("5"), "localhost", (2020, 2100)) },
            "its certificate is of another CA",
        ),
    ] {
        let bad = Door::open(&files).await;
        let said = join(name, invite(bad.url("localhost"))).await;
        assert!(said.contains("M0308") && said.contains(why) && said.contains("nothing was sent"), "{name}: {said}");
        // One of several that is good is asked, that one never.
        let said = join(name, invite(format!("{},{}", bad.url("localhost"), good.url("localhost")))).await;
        assert!(said.contains("not now"), "{name}: {said}");
        assert_eq!(bad.asked.load(Ordering::Relaxed), 0, "{name}");
    }
    assert_eq!(good.asked.load(Ordering::Relaxed), 5);
}

/// Who opens a connection and says nothing, before TLS or behind it, is cut off, and nobody waits for him.
#[tokio::test]
async fn silent_connections_end_with_tls_as_well() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ours = Authority::new(folder.path(), "ours");
    let door = Door::open(&ours.certificate(folder.path(), "localhost", (2020, 2100))).await;
    let tls = TlsConnector::from(Arc::new(bus::tls::client(Some(&ours.file)).expect("a client")));
    let connect = || async { TcpStream::connect(door.at).await.expect("a connection") };
    let encrypted = || async {
        let name = "localhost".try_into().expect("a name");
        tls.connect(name, connect().await).await.expect("TLS")
    };
    let before = std::time::Instant::now();
    let (silent, quiet) = (join_all((0..100).map(|_| connect())).await, join_all((0..100).map(|_| encrypted())).await);
    let mut asking = encrypted().await;
    asking.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("it takes a request");
    let mut said = Vec::new();
    let _ = asking.read_to_end(&mut said).await;
    assert!(said.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&said));
    assert!(before.elapsed() < Duration::from_secs(9), "nobody waits until they are gone");
    let ends = silent.into_iter().map(|mut stream| async move { stream.read(&mut [0]).await.unwrap_or(0) });
    let quiet_ends = quiet.into_iter().map(|mut stream| async move { stream.read(&mut [0]).await.unwrap_or(0) });
    let ended = async { (join_all(ends).await, join_all(quiet_ends).await) };
    let (ends, quiet_ends) = tokio::time::timeout(HUNG, ended).await.expect("all are cut off");
    assert!(ends.iter().chain(&quiet_ends).all(|read| *read == 0));
}
