//! A hub and two devices on machines of their own, each device behind a router that translates addresses and lets nothing in; one router lets
//! nothing out but port 443.

mod net;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use net::{HUB, Net};
use serde_json::Value;
use testkit::{HUNG, proc, until};

/// Logins last so long: each is renewed at half of it, while this test runs, and outlives the cut.
const CREDENTIALS_S: &str = "60";
/// They take some seconds, of which a quarter is a part that is kept (512 texts).
const TEXTS: usize = 4_000;

struct Machine<'a> {
    net: &'a Net,
    name: &'static str,
    folder: PathBuf,
}

impl Machine<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.net.command(self.name, &proc::bin_dir().join("mesh"));
        command
            .args(args)
            .env("MESH_CONFIG_HOME", self.folder.join("config"))
            .env("MESH_HOME", self.folder.join("home"))
            .env("MESH_CREDENTIALS_S", CREDENTIALS_S)
            .stdin(Stdio::null());
        command
    }
    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("mesh starts")
    }
    fn ok(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["-o", "json"]].concat());
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{} mesh {args:?}: {said}{wrong}", self.name);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
    fn join(&self, invite: &str) -> String {
        let joined = self.ok(&["init", "--join", invite, "--name", self.name]);
        let output = self.run(&["start", "--detach"]);
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        joined["device"]["id"].as_str().expect("an id").to_owned()
    }
    /// Runs a job to its end; which device ran it.
    fn job(&self, words: &[&str]) -> String {
        let job = self.ok(&[&["job", "run", "--timeout", "60s"], words].concat());
        assert_eq!(job["state"], "Completed", "{job}");
        self.worker(&job)
    }
    /// Which device ran a job.
    fn worker(&self, job: &Value) -> String {
        let shown = self.ok(&["job", "show", job["id"].as_str().expect("an id")]);
        shown["device"].as_str().unwrap_or_else(|| panic!("no device in {shown}")).to_owned()
    }
    /// The newest login of the device.
    fn login(&self) -> Option<std::time::SystemTime> {
        let written = |name: &str| std::fs::metadata(self.folder.join("home").join(name)).and_then(|meta| meta.modified()).ok();
        written("creds-a.creds").max(written("creds-b.creds"))
    }
    fn leaf_configuration(&self) -> String {
        std::fs::read_to_string(self.folder.join("home/nats/leaf.conf")).unwrap_or_default()
    }
    /// What its agent says of the link.
    fn link(&self) -> Option<bool> {
        let output = self.run(&["metrics", "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        status.pointer("/link/up")?.as_bool()
    }
    async fn is_linked(&self) {
        until(&format!("the link of {}", self.name), || async { self.link().filter(|up| *up) }).await;
    }
    async fn is_cut(&self) {
        until(&format!("{} to notice", self.name), || async { self.link().filter(|up| !*up) }).await;
    }
}
impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = self.run(&["stop"]);
    }
}

struct Hub(Child);
impl Hub {
    fn start(net: &Net, folder: &Path) -> (Self, Value) {
        let log = std::fs::File::create(folder.join("hub.log")).expect("a log file");
        let mut child = net
            .command("hub", &proc::bin_dir().join("mesh"))
            .args(["hub", "up", "--listen", HUB, "-o", "json", "--data"])
            .arg(folder.join("data"))
            .env("MESH_CONFIG_HOME", folder.join("config"))
            .env("MESH_CREDENTIALS_S", CREDENTIALS_S)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("mesh hub up starts");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(value) = serde_json::from_str::<Value>(&line).ok().filter(|value| value["event"] == "ready") {
                    let _ = sender.send(value);
                }
            }
        });
        let hub = Self(child);
        let ready = receiver.recv_timeout(HUNG);
        let said = || std::fs::read_to_string(folder.join("hub.log")).unwrap_or_default();
        (hub, ready.unwrap_or_else(|_| panic!("mesh hub up did not become ready: {}", said())))
    }
}
impl Drop for Hub {
    fn drop(&mut self) {
        proc::signal(self.0.id(), "TERM");
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn two_machines_behind_routers_work_for_each_other() {
    if let Some(why) = net::missing() {
        println!("skipped: {why}");
        return;
    }
    let began = std::time::Instant::now();
    let told = |what: &str| println!("{:5.1} s  {what}", began.elapsed().as_secs_f64());
    let net = Net::new([None, Some(443)]);
    let folder = tempfile::Builder::new().prefix("mesh-apart-").tempdir().expect("a temporary folder");
    let (hub, ready) = Hub::start(&net, folder.path());
    told("the hub is ready");
    let invite = ready["invite"].as_str().expect("an invite");
    let machine = |name: &'static str| Machine { net: &net, name, folder: folder.path().join(name) };
    let (open, closed) = (machine("dev1"), machine("dev2"));
    let (open_id, closed_id) = (open.join(invite), closed.join(invite));
    for device in [&open, &closed] {
        device.is_linked().await;
    }
    assert!(open.leaf_configuration().contains("\"tls://203.0.113.1:7422\""), "{}", open.leaf_configuration());
    assert!(closed.leaf_configuration().contains("\"wss://203.0.113.1:443\""), "{}", closed.leaf_configuration());
    told("both are linked, one through port 443 alone");

    // Each asks, the other one works.
    let (first, second) = (open.login(), closed.login());
    closed.ok(&["pause"]);
    assert_eq!(closed.job(&["echo", "--text", "from behind port 443"]), open_id);
    closed.ok(&["resume"]);
    open.ok(&["pause"]);
    let words = open.folder.join("texts.txt");
    std::fs::write(&words, (0..TEXTS).map(|n| format!("boat {n}\n")).collect::<String>()).expect("a file");
    let file = words.to_str().expect("a path");
    let job = open.ok(&["job", "submit", "embed", "--file", file, "--max-mana", "900"]);
    let id = job["id"].as_str().expect("an id");
    until("the first part of a long job", || async {
        let shown = open.ok(&["job", "show", id]);
        (shown["device"] == closed_id.as_str() && shown.pointer("/progress/basis_points")?.as_u64()? > 1_500).then_some(())
    })
    .await;
    // Its owner wants the machine back: the other one goes on behind what was kept.
    open.ok(&["resume"]);
    closed.ok(&["pause"]);
    assert_eq!(open.ok(&["job", "wait", id, "--timeout", "60s"])["state"], "Completed");
    let explained = open.ok(&["job", "explain", id]);
    assert!(explained["attempts"][0]["kept_units"].as_u64().is_some_and(|kept| kept >= 512), "nothing was kept: {explained}");
    assert_eq!(open.worker(&job), open_id);
    closed.ok(&["resume"]);
    told("results and what is kept of a long job came through");

    // A cut of one, and another address for the other: nobody does anything about either.
    net.plug("nat2", false);
    net.readdress("nat1", "203.0.113.11", "203.0.113.21");
    assert_eq!(open.job(&["echo", "--text", "from another address"]), open_id);
    told("the changed address has healed");
    closed.is_cut().await;
    net.plug("nat2", true);
    closed.is_linked().await;
    open.ok(&["pause"]);
    assert_eq!(closed.job(&["echo", "--text", "after the cut"]), closed_id);
    open.ok(&["resume"]);
    told("the cut has healed");

    for (device, before) in [(&open, first), (&closed, second)] {
        until("a renewed login", || async { (device.login() > before).then_some(()) }).await;
        device.is_linked().await;
    }
    told("both logins were renewed");
    drop((open, closed));
    drop(hub);
}
