//! `mesh hub up`: a network for other machines, joined with the one line that it prints; its end, its second start, and whoever is not it.

mod certificates;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use bus_schemas::network::Invite;
use serde_json::Value;
use testkit::{Cli, HUNG, proc, until};

/// A free port of each door.
fn ports() -> [String; 3] {
    let held: [std::net::TcpListener; 3] = std::array::from_fn(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.map(|listener| listener.local_addr().expect("an address").port().to_string())
}

struct Hub {
    child: Child,
    ready: Value,
}
impl Hub {
    fn command(folder: &Path, ports: &[String; 3]) -> Command {
        let mut command = Command::new(proc::bin_dir().join("mesh"));
        let [https, hub, leaf] = ports;
        command
            .args(["hub", "up", "--listen", "127.0.0.1", "--host", "localhost", "--network", "co-op", "-o", "json"])
            .args(["--https-port", https, "--hub-port", hub, "--leaf-port", leaf, "--data"])
            .arg(folder.join("data"))
            .env("MESH_CONFIG_HOME", folder.join("config"))
            .stdin(Stdio::null());
        command
    }
    fn start(folder: &Path, ports: &[String; 3]) -> Self {
        Self::of(Self::command(folder, ports), folder)
    }
    /// Another network on the hub of `folder`.
    fn beside(folder: &Path, https: &str) -> Command {
        let mut command = Command::new(proc::bin_dir().join("mesh"));
        command
            .args(["hub", "up", "--network", "lab", "-o", "json", "--https-port", https, "--beside"])
            .arg(folder.join("data"))
            .env("MESH_CONFIG_HOME", folder.join("config"))
            .stdin(Stdio::null());
        command
    }
    fn of(mut command: Command, folder: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("hub.log")).expect("a log file");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("mesh hub up starts");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if value["event"] == "ready" {
                    let _ = sender.send(value);
                }
            }
        });
        let Ok(ready) = receiver.recv_timeout(HUNG) else {
            proc::signal(child.id(), "TERM");
            panic!("mesh hub up did not become ready: {}", std::fs::read_to_string(folder.join("hub.log")).unwrap_or_default());
        };
        Self { child, ready }
    }
    fn text(&self, pointer: &str) -> String {
        self.ready.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} in {}", self.ready)).to_owned()
    }
    /// Ends it as Ctrl-C does; its exit code.
    fn stop(mut self) -> Option<i32> {
        proc::signal(self.child.id(), "TERM");
        let status = self.child.wait().expect("its end");
        status.code()
    }
}
impl Drop for Hub {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            proc::signal(self.child.id(), "TERM");
            let _ = self.child.wait();
        }
    }
}

/// A machine elsewhere: a home of its own, and an agent that is stopped with it.
struct Laptop(Cli);
impl Laptop {
    fn new(folder: &Path, name: &str) -> Self {
        Self(Cli { config_home: folder.join(name).join("config"), mesh_home: folder.join(name).join("home") })
    }
    fn toml(&self) -> PathBuf {
        self.0.mesh_home.join("device.toml")
    }
    fn errors(&self, args: &[&str]) -> String {
        let output = self.0.run(args);
        assert!(!output.status.success(), "mesh {args:?} went well");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
    async fn works(&self, key: &str) {
        until("a result", || async {
            let output = self.0.run(&["job", "run", "echo", "--text", "hello", "--key", key, "--timeout", "20s"]);
            output.status.success().then_some(())
        })
        .await;
    }
}
impl Drop for Laptop {
    fn drop(&mut self) {
        let _ = self.0.run(&["stop"]);
    }
}

#[tokio::test]
async fn a_laptop_joins_with_one_line_and_finds_the_network_again() {
    let folder = tempfile::Builder::new().prefix("mesh-hub-").tempdir().expect("a temporary folder");
    let (path, ports) = (folder.path(), ports());
    let hub = Hub::start(path, &ports);
    let (line, network) = (hub.text("/invite"), hub.text("/network"));
    let invite = Invite::parse(&line).expect("an invite");
    assert!(invite.url.starts_with("https://localhost:") && invite.ca_sha256.as_ref().is_some_and(|hash| hash.len() == 64), "{invite:?}");
    assert!(hub.text("/nats/url").starts_with("tls://") && hub.text("/nats/ws_url").starts_with("wss://"));

    // Who says that it is the hub, and is not: nothing is sent to it, and nothing is left here.
    let stranger = Laptop::new(path, "stranger");
    let wrong = Invite { ca_sha256: Some("0".repeat(64)), ..invite.clone() }.to_line();
    let said = stranger.errors(&["init", "--join", &wrong]);
    assert!(said.contains("M0308") && said.contains("of another CA") && said.contains("nothing was sent"), "{said}");
    let plain = Invite { url: invite.url.replace("https", "http"), ..invite.clone() }.to_line();
    let said = stranger.errors(&["init", "--join", &plain]);
    assert!(said.contains("M0308") && said.contains("not https"), "{said}");
    let elsewhere = Invite { url: "http://192.0.2.1:8085".into(), ca_sha256: None, ..invite.clone() }.to_line();
    let said = stranger.errors(&["init", "--join", &elsewhere]);
    assert!(said.contains("M0308") && said.contains("plain text to another machine"), "{said}");
    assert!(!stranger.toml().exists());
    // Plain text at the door itself is told what to do.
    let (status, said) =
        testkit::http::try_send("GET", &format!("{}/healthz", invite.url.replace("https", "http")), &[], "").await.expect("an answer");
    assert_eq!((status, String::from_utf8_lossy(&said).contains("use https://")), (400, true), "{said:?}");

    let laptop = Laptop::new(path, "laptop");
    laptop.0.ok(&["init", "--join", &line, "--name", "laptop"]);
    assert_eq!(bus::tls::fingerprint_of(&laptop.0.mesh_home.join("ca.pem")).ok(), invite.ca_sha256);
    assert!(laptop.0.run(&["start", "--detach"]).status.success());
    laptop.works("before").await;

    // A second one on the same data.
    let second = Hub::command(path, &self::ports()).output().expect("mesh runs");
    let said = String::from_utf8_lossy(&second.stderr).into_owned() + &String::from_utf8_lossy(&second.stdout);
    assert!(!second.status.success() && said.contains("M0209"), "{said}");

    let books = laptop.0.ok(&["credit", "balance"]);
    assert_eq!(hub.stop(), Some(0));
    let hub = Hub::start(path, &ports);
    assert_eq!((hub.text("/network"), hub.text("/invite")), (network, line), "the same network, and the line still holds");
    laptop.works("after").await;
    let after = laptop.0.ok(&["credit", "balance"]);
    assert_eq!(books["member"], after["member"]);

    // The agent's own server wants the network's CA as well.
    assert!(laptop.0.run(&["stop"]).status.success());
    let ca = laptop.0.mesh_home.join("ca.pem");
    let right = std::fs::read(&ca).expect("a CA");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hub_up/other_ca.pem"), &ca).expect("another CA");
    assert!(laptop.0.run(&["start", "--detach"]).status.success());
    until("the reason why the link is down", || async {
        let status = laptop.0.run(&["status", "-o", "json"]);
        String::from_utf8_lossy(&status.stdout).contains("unknown authority").then_some(())
    })
    .await;
    std::fs::write(&ca, right).expect("the right CA");
    assert!(laptop.0.run(&["stop"]).status.success());
    drop(laptop);
    assert_eq!(hub.stop(), Some(0));
}

#[tokio::test]
async fn two_networks_share_a_hub_and_nothing_else() {
    let folder = tempfile::Builder::new().prefix("mesh-hub-").tempdir().expect("a temporary folder");
    let (path, ports, [https, ..]) = (folder.path(), ports(), ports());
    let said = Hub::beside(path, &https).output().expect("mesh runs");
    let said = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("hub.json") && said.contains("mesh hub up --listen ADDR"), "{said}");
    let hub = Hub::start(path, &ports);
    let lab = Hub::of(Hub::beside(path, &https), path);
    assert!(path.join("data-lab").is_dir(), "beside the other's data");
    assert_eq!(hub.text("/nats/leaf_url"), lab.text("/nats/leaf_url"));
    assert_ne!(hub.text("/network"), lab.text("/network"));

    let (mine, theirs) = (Laptop::new(path, "mine"), Laptop::new(path, "theirs"));
    for (laptop, line) in [(&mine, hub.text("/invite")), (&theirs, lab.text("/invite"))] {
        laptop.0.ok(&["init", "--join", &line]);
        assert!(laptop.0.run(&["start", "--detach"]).status.success());
        laptop.works("a").await;
        let nodes = laptop.0.ok(&["node", "ls"]);
        assert_eq!(nodes["devices"].as_array().map(Vec::len), Some(1), "{nodes}");
    }
    // Each ends and begins without the other.
    assert_eq!(lab.stop(), Some(0));
    mine.works("b").await;
    let lab = Hub::of(Hub::beside(path, &https), path);
    theirs.works("b").await;
    drop((mine, theirs));
    assert_eq!((lab.stop(), hub.stop()), (Some(0), Some(0)));
}
