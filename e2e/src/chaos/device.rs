//! A device of the fleet: a home of its own, its link through a proxy, and somebody who starts its agent again when it dies.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bus_schemas::MemberId;
use testkit::{Cli, Disk, HUNG, Proxy, Stack, proc};

use super::ms;

/// Somebody sees that the agent is gone, and starts it.
const START_AGAIN: Duration = Duration::from_millis(300);

pub struct Device {
    pub name: String,
    pub home: PathBuf,
    pub id: String,
    pub member: MemberId,
    pub token: String,
    /// Of the device's own server.
    pub local_url: String,
    pub proxy: Proxy,
    pub disk: Option<Disk>,
    agent: Arc<Mutex<Agent>>,
    log: PathBuf,
}

/// The agent's process, and how often it was started.
struct Agent {
    child: Option<Child>,
    starts: u64,
    wanted: bool,
}

impl Device {
    /// Joins the network of the stack, and starts the agent behind a proxy.
    ///
    /// # Panics
    /// Where it does not join.
    pub fn join(stack: &Stack, name: &str, divisor: u64, disk: Option<u32>) -> Self {
        let home = stack.folder().join("devices").join(name);
        std::fs::create_dir_all(&home).expect("a folder");
        let disk = disk.map(|megabytes| Disk::mount(&home, megabytes).expect("a small disk"));
        let cli = Cli { config_home: stack.folder().join("devices").join(format!("{name}-config")), mesh_home: home.clone() };
        let joined = cli.ok(&["init", "--join", &stack.text("/invite"), "--name", name]);
        let file = home.join("device.toml");
        let written = std::fs::read_to_string(&file).expect("device.toml");
        let hubs: Vec<String> = value(&written, "leaf_url").split(',').map(|url| url.trim_start_matches("nats://").to_owned()).collect();
        let proxy = Proxy::start(&hubs);
        let links: Vec<String> = proxy.addresses().iter().map(|address| format!("nats://{address}")).collect();
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let with = |text: &str, name: &str, with: &str| {
            let lines =
                text.lines().map(|line| if line.starts_with(&format!("{name} = ")) { format!("{name} = {with}") } else { line.into() });
            lines.collect::<Vec<_>>().join("\n") + "\n"
        };
        let written = with(&written, "leaf_url", &format!("{:?}", links.join(",")));
        bus::keys::write_secret(&file, with(&written, "local_port", &port.to_string()).as_bytes()).expect("device.toml");
        let text =
            |pointer: &str| joined.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_else(|| panic!("no {pointer} in {joined}"));
        let log = stack.folder().join("devices").join(format!("{name}.log"));
        let agent = Arc::new(Mutex::new(Agent { child: None, starts: 0, wanted: true }));
        let device = Self {
            id: text("/device/id").to_owned(),
            member: text("/member/id").parse().expect("a member"),
            token: std::fs::read_to_string(home.join("token")).expect("a token").trim().to_owned(),
            local_url: format!("nats://127.0.0.1:{port}"),
            name: name.to_owned(),
            proxy,
            disk,
            agent,
            log,
            home,
        };
        device.supervise(divisor);
        device
    }

    /// Keeps the agent running, in a thread of its own.
    fn supervise(&self, divisor: u64) {
        let (agent, home, log) = (Arc::clone(&self.agent), self.home.clone(), self.log.clone());
        std::thread::spawn(move || {
            loop {
                {
                    let mut agent = lock(&agent);
                    if !agent.wanted {
                        return;
                    }
                    if agent.child.as_mut().is_none_or(|child| child.try_wait().ok().flatten().is_some()) {
                        agent.child = Some(start(&home, &log, divisor));
                        agent.starts += 1;
                    }
                }
                std::thread::sleep(START_AGAIN);
            }
        });
    }

    pub fn pid(&self) -> Option<u32> {
        let mut agent = lock(&self.agent);
        let child = agent.child.as_mut()?;
        child.try_wait().ok()?.is_none().then(|| child.id())
    }
    /// Of the device's own server.
    pub fn leaf_pid(&self) -> Option<u32> {
        let pid = std::fs::read_to_string(self.home.join("nats.pid")).ok()?.trim().parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        (String::from_utf8_lossy(&command).contains(&*self.home.to_string_lossy()) && proc::runs(pid)).then_some(pid)
    }
    /// How often the agent was started.
    pub fn starts(&self) -> u64 {
        lock(&self.agent).starts
    }
    pub fn logs(&self) -> Vec<PathBuf> {
        let more = std::fs::read_dir(self.home.join("logs")).into_iter().flatten().flatten().map(|entry| entry.path());
        std::iter::once(self.log.clone()).chain(more).collect()
    }

    /// Ends the agent and what it left running.
    fn end(&self) {
        lock(&self.agent).wanted = false;
        let child = lock(&self.agent).child.take();
        if let Some(mut child) = child {
            for name in ["CONT", "TERM"] {
                proc::signal(child.id(), name);
            }
            let begun = Instant::now();
            while child.try_wait().ok().flatten().is_none() && begun.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(ms(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(pid) = self.leaf_pid() {
            for name in ["CONT", "KILL"] {
                proc::signal(pid, name);
            }
            let begun = Instant::now();
            while proc::runs(pid) && begun.elapsed() < HUNG {
                std::thread::sleep(ms(20));
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(agent: &Mutex<Agent>) -> MutexGuard<'_, Agent> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(home: &Path, log: &Path, divisor: u64) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(log).expect("a log");
    let mut command = Command::new(proc::bin_dir().join("mesh"));
    command.arg("start").env("MESH_HOME", home).env("MESH_TIME_DIVISOR", divisor.to_string());
    // It ends where its standard input does, so also where this test is killed.
    command.env("MESH_STOP_WITH_PARENT", "1").stdin(Stdio::piped());
    command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("mesh start")
}

/// The text of `name = "…"`.
fn value(toml: &str, name: &str) -> String {
    let line = toml.lines().find_map(|line| line.strip_prefix(&format!("{name} = "))).unwrap_or_else(|| panic!("no {name} in {toml}"));
    line.trim_matches('"').to_owned()
}
