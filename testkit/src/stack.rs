//! One whole stack, started by `mesh dev` as a user would, and read through its `ready` line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bus::connect::{Connect, Login};
use bus::{Bus, Health};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Cli, Disk, HUNG, proc};

/// A running stack; dropped, it stops.
pub struct Stack {
    child: Child,
    /// The `ready` object of `mesh dev -o json`.
    pub ready: Value,
    pub cli: Cli,
    /// What `mesh dev` told after it was ready.
    events: Arc<Mutex<Vec<Value>>>,
    /// By what lies on them. Before the folder: they are unmounted first.
    disks: BTreeMap<PathBuf, Disk>,
    folder: TempDir,
    launch: Launch,
}

/// Where its programs keep what they could make again.
const CACHE: &str = "cache";

/// How a stack is started, beside `mesh dev --random-ports -o json --data-dir DIR`.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    pub args: Vec<String>,
    pub variables: Vec<(String, String)>,
    /// As whom (uid, gid), where that is not oneself; then the programs lie where that account finds them.
    pub account: Option<(u32, u32)>,
    pub programs: Option<PathBuf>,
}

impl Launch {
    /// Starts it in a folder of its own and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not become ready; what it said is in the message.
    pub fn start(&self) -> Stack {
        let folder = tempfile::Builder::new().prefix("mesh-e2e-").tempdir().expect("a temporary folder");
        if let Some((uid, gid)) = self.account {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("root may give a folder away");
        }
        let cli = Cli { config_home: folder.path().join("config"), mesh_home: folder.path().join("home") };
        let Begun { child, ready, events } = self.begin(folder.path(), &cli);
        Stack { child, ready, cli, events, disks: BTreeMap::new(), folder, launch: self.clone() }
    }

    fn begin(&self, folder: &Path, cli: &Cli) -> Begun {
        let log = std::fs::File::create(folder.join("dev.log")).expect("a log file");
        let programs = self.programs.clone().unwrap_or_else(proc::bin_dir);
        let mut command = Command::new(programs.join("mesh"));
        command
            .args(["dev", "--random-ports", "-o", "json", "--data-dir"])
            .arg(folder.join("data"))
            .args(&self.args)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("MESH_CONFIG_HOME", &cli.config_home)
            .env("XDG_CACHE_HOME", folder.join(CACHE))
            // As most people have it.
            .env_remove("ORT_DISABLE_TELEMETRY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid).current_dir(folder).env("HOME", folder);
        }
        let mut child = command.spawn().expect("mesh dev starts");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, receiver) = mpsc::channel();
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = events.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if value["event"] == "ready" {
                    let _ = sender.send(value.clone());
                }
                told.lock().unwrap_or_else(PoisonError::into_inner).push(value);
            }
        });
        match receiver.recv_timeout(HUNG) {
            Ok(ready) => Begun { child, ready, events },
            Err(_) => {
                proc::signal(child.id(), "TERM");
                let _ = child.wait();
                let log = std::fs::read_to_string(folder.join("dev.log")).unwrap_or_default();
                panic!("mesh dev did not become ready: {:?}\n{log}", events.lock().unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

/// What a start gave.
struct Begun {
    child: Child,
    ready: Value,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Stack {
    /// The folder in which its programs keep what they could make again.
    pub fn cache(&self) -> PathBuf {
        self.folder.path().join(CACHE)
    }
    /// Starts `mesh dev --random-ports -o json` with more arguments and variables, and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not become ready; what it said is in the message.
    pub fn start(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let launch = Launch {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..Launch::default()
        };
        launch.start()
    }

    /// Starts it again, after [`Self::stop`], in the same folder.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_again(&mut self) {
        assert!(self.child.try_wait().ok().flatten().is_some(), "it still runs");
        let Begun { child, ready, events } = self.launch.begin(self.folder.path(), &self.cli);
        (self.child, self.ready, self.events) = (child, ready, events);
    }

    /// Moves a folder of its data to a small disk, after [`Self::stop`].
    ///
    /// # Panics
    /// Where it still runs, or no disk can be mounted here.
    pub fn move_to_disk(&mut self, of_data: &str, megabytes: u32) {
        assert!(self.child.try_wait().ok().flatten().is_some(), "it still runs");
        let disk = Disk::mount(&self.path("/data_dir").join(of_data), megabytes).expect("a small disk");
        self.disks.insert(of_data.into(), disk);
    }
    /// The small disk on which that folder of its data lies.
    pub fn disk(&self, of_data: &str) -> Option<&Disk> {
        self.disks.get(Path::new(of_data))
    }

    /// A text of the `ready` object by JSON pointer, such as `/nats/url`.
    ///
    /// # Panics
    /// Where there is none.
    pub fn text(&self, pointer: &str) -> String {
        self.ready.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {}", self.ready)).to_owned()
    }
    pub fn path(&self, pointer: &str) -> PathBuf {
        self.text(pointer).into()
    }
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
    /// The member's bearer token.
    ///
    /// # Panics
    /// Where its file cannot be read.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.path("/member/token_file")).expect("the token file").trim().to_owned()
    }
    pub fn api(&self, path: &str) -> String {
        format!("{}{path}", self.text("/gateway/url").trim_end_matches('/').trim_end_matches("/api"))
    }
    /// Process ids of a role: hub, postgres, gateway, scheduler, ledger, agent, leaf.
    pub fn pids(&self, role: &str) -> Vec<u32> {
        let processes = self.ready["processes"].as_array().cloned().unwrap_or_default();
        let pids = processes.iter().filter(|process| process["role"] == role).filter_map(|process| process["pid"].as_u64());
        pids.filter_map(|pid| u32::try_from(pid).ok()).collect()
    }
    /// The ledger-worker that writes, as its own metrics tell: its name and process id.
    ///
    /// # Panics
    /// Where none of them says so.
    pub async fn active_ledger(&self) -> (String, u32) {
        let processes = self.ready["processes"].as_array().cloned().unwrap_or_default();
        let ledgers: Vec<Value> = processes.into_iter().filter(|process| process["role"] == "ledger").collect();
        crate::until("the active ledger-worker", || async {
            for process in &ledgers {
                let url = format!("{}/metrics", process["http"].as_str()?);
                let Ok((200, metrics)) = crate::http::try_send("GET", &url, &[], "").await else { continue };
                if String::from_utf8_lossy(&metrics).lines().any(|line| line == "mesh_ledger_active 1") {
                    return Some((process["name"].as_str()?.to_owned(), u32::try_from(process["pid"].as_u64()?).ok()?));
                }
            }
            None
        })
        .await
    }
    /// What `mesh dev` told so far.
    pub fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection with the member's credentials.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn member(&self) -> Bus {
        self.connect(&self.text("/nats/url"), Login::Creds(self.path("/member/creds")), &self.text("/member/inbox_prefix")).await
    }
    /// A connection with the auditor's credentials; reads LEDGER under its prefix.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn auditor(&self) -> Bus {
        let bus = self.connect(&self.text("/nats/url"), Login::Creds(self.path("/auditor/creds")), "_INBOX.auditor").await;
        bus.with_api_prefix(&self.text("/auditor/js_prefix"))
    }
    /// A connection to a device's local server, without credentials, as any program on that machine.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn local(&self, device: usize) -> Bus {
        self.connect(&self.text(&format!("/devices/{device}/local_url")), Login::None, "_INBOX").await
    }
    /// A connection as whoever one likes.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn connect(&self, url: &str, login: Login, inbox_prefix: &str) -> Bus {
        let how = Connect {
            urls: url.to_owned(),
            login,
            ca: None,
            name: "e2e".into(),
            inbox_prefix: inbox_prefix.to_owned(),
            wait: Duration::from_secs(20),
        };
        Bus::connect(how, &Health::default()).await.expect("a connection")
    }

    /// Stops the stack as Ctrl-C does; how long it took.
    ///
    /// # Panics
    /// Where it hangs.
    pub fn stop(&mut self) -> Duration {
        let start = Instant::now();
        proc::signal(self.child.id(), "INT");
        while self.child.try_wait().ok().flatten().is_none() {
            assert!(start.elapsed() < HUNG, "hung: mesh dev does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
        start.elapsed()
    }
    /// Process id of `mesh dev` itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            proc::signal(self.child.id(), "INT");
            let start = Instant::now();
            while self.child.try_wait().ok().flatten().is_none() && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("dev.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- last lines of mesh dev's log");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
