//! The device's own nats-server: found, configured from nats/leaf.conf, started as a child, restarted if it dies, stopped in order.
//!
//! It links outward to the hub, holds what people submit while the hub is away, and is where programs on this machine connect.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bus::connect::Login;
use bus_schemas::Code;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::door::{self, Door};
use crate::home::{Device, Home};
use crate::http::Http;
use crate::nats_process;

const TEMPLATE: &str = include_str!("../../nats/leaf.conf");
const START_MAX: Duration = Duration::from_secs(10);
const STOP_MAX: Duration = Duration::from_secs(5);
/// The server's collector works harder above this; a device lends memory, it does not give it to plumbing.
const GO_MEMORY: &str = "64MiB";
/// Processors that it uses at once: it carries a handful of messages a job.
const GO_PROCESSORS: usize = 1;

/// What the server keeps from one start to the next; mode 0600.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Random, never published: who knows it can push the link aside.
    server_name: String,
    app_password: String,
    agent_password: String,
    sys_password: String,
    /// 0 until the first start.
    port: u16,
    monitor_port: u16,
}

/// The running server of a device.
pub struct Leaf {
    kept: Kept,
    door: Door,
    stop: CancellationToken,
    restart: Arc<Notify>,
    supervisor: tokio::task::JoinHandle<()>,
}

impl Leaf {
    /// Starts the server and waits until it listens. An orphan of an agent that died is stopped before.
    ///
    /// # Errors
    /// Where no server is found, it is too old, its port is taken, or it does not start; with the server's own words.
    pub async fn start(home: &Home, device: &Device) -> anyhow::Result<Self> {
        let program = find_server().await?;
        // The server reads them whatever their mode.
        if home.device_creds().exists() {
            bus::keys::read_secret(&home.device_creds())?;
        }
        stop_orphan(home).await?;
        let mut kept = Kept::read_or_create(home)?;
        let chosen = device.settings.local_port;
        let wanted = if chosen == 0 { kept.port } else { chosen };
        let keeps_port = wanted != 0 && is_free(wanted);
        ensure!(
            chosen == 0 || keeps_port,
            "error[{}]: port {chosen} on 127.0.0.1 is taken (local_port in {})",
            Code::PortTaken,
            home.device_toml().display()
        );
        kept.port = if keeps_port { wanted } else { 0 };
        kept.monitor_port = if keeps_port && is_free(kept.monitor_port) { kept.monitor_port } else { free_port()? };
        let door = Door::default();
        door.choose(device).await;
        let server = Server { program, home: home.clone(), device: device.clone(), door: door.clone() };
        let (child, ports) = loop {
            match server.start(&kept).await {
                // Somebody was quicker.
                Err(error) if !is_free(kept.monitor_port) => {
                    tracing::warn!(error = format!("{error:#}"), "the device's nats-server did not start; trying another port");
                    kept.monitor_port = free_port()?;
                }
                started => break started?,
            }
        };
        (kept.port, kept.monitor_port) = ports;
        // A restart must come back on the same port: people and programs have it by now.
        kept.write(home)?;
        server.write_config(&kept)?;
        let stop = CancellationToken::new();
        let restart = Arc::new(Notify::new());
        let supervisor = tokio::spawn(server.supervise(child, kept.clone(), stop.clone(), restart.clone()));
        Ok(Self { kept, door, stop, restart, supervisor })
    }

    /// Where programs on this machine connect, without credentials.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.kept.port)
    }
    /// Where the server tells about itself (`/leafz`).
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.kept.monitor_port)
    }
    /// The agent's own login: its account is the one that is linked to the hub.
    pub fn uplink_login(&self) -> Login {
        Login::UserPassword("agent".into(), self.kept.agent_password.clone())
    }
    /// The agent's login where the people and programs of this machine are; they have one that may less.
    pub fn local_login(&self) -> Login {
        Login::UserPassword("local".into(), self.kept.agent_password.clone())
    }
    /// Where whoever waits is told, the running server is started again.
    pub fn restarter(&self) -> Arc<Notify> {
        self.restart.clone()
    }
    /// What tells the server to read its configuration again.
    pub fn reloader(&self, home: &Home, device: &Device) -> Reload {
        Reload { home: home.clone(), device: device.clone(), kept: self.kept.clone(), door: self.door.clone() }
    }
    /// Stops the server: asks, waits, and kills where asking did not help.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.supervisor.await;
    }
}

/// Lets the running server take new credentials: a configuration that names the file in use, and the signal to read it.
pub struct Reload {
    home: Home,
    device: Device,
    kept: Kept,
    door: Door,
}
impl Reload {
    /// # Errors
    /// Where the configuration cannot be written, or no server of ours runs.
    pub fn reload(&self) -> anyhow::Result<()> {
        let path = config_path(&self.home);
        bus::keys::write_secret(&path, config(&self.home, &self.device, &self.kept, &self.door)?.as_bytes())?;
        let running = Home::live_pid(&self.home.nats_pid()).filter(|found| runs_config(*found, &path)).and_then(pid);
        kill_process(running.context("no server runs")?, Signal::HUP).context("the server cannot be signalled")
    }
}

impl Kept {
    fn path(home: &Home) -> PathBuf {
        home.nats().join("leaf.toml")
    }
    fn read_or_create(home: &Home) -> anyhow::Result<Self> {
        let path = Self::path(home);
        if path.exists() {
            let text = bus::keys::read_secret(&path)?;
            return toml::from_str(&text).with_context(|| format!("{} is damaged", path.display()));
        }
        let kept = Self {
            server_name: format!("lf-{}", bus::keys::random_hex::<16>()?),
            app_password: bus::keys::random_hex::<16>()?,
            agent_password: bus::keys::random_hex::<16>()?,
            sys_password: bus::keys::random_hex::<16>()?,
            port: 0,
            monitor_port: 0,
        };
        kept.write(home)?;
        Ok(kept)
    }
    fn write(&self, home: &Home) -> anyhow::Result<()> {
        bus::keys::write_secret(&Self::path(home), toml::to_string(self)?.as_bytes())
    }
}

struct Server {
    program: PathBuf,
    home: Home,
    device: Device,
    door: Door,
}

impl Server {
    fn config(&self) -> PathBuf {
        config_path(&self.home)
    }
    fn write_config(&self, kept: &Kept) -> anyhow::Result<()> {
        let text = config(&self.home, &self.device, kept, &self.door)?;
        bus::keys::write_secret(&self.config(), text.as_bytes())
    }

    /// Starts one process and waits until it has told its ports.
    async fn start(&self, kept: &Kept) -> anyhow::Result<(Child, (u16, u16))> {
        self.write_config(kept)?;
        let folder = self.home.nats();
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(self.config())
            .arg("--ports_file_dir")
            .arg(&folder)
            .envs(nats_process::environment(GO_MEMORY, GO_PROCESSORS))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the agent, which stops its server last.
            .process_group(0);
        let started = nats_process::with_lazy_timers(|| command.spawn());
        let mut child = started.with_context(|| format!("failed to start {}", self.program.display()))?;
        let pid = child.id().context("the server ended at once")?;
        std::fs::write(self.home.nats_pid(), format!("{pid}\n")).context("failed to write nats.pid")?;
        let name = self.program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let told = folder.join(format!("{name}_{pid}.ports"));
        let deadline = Instant::now() + START_MAX;
        loop {
            if let Some(ports) = read_ports(&told) {
                let _ = std::fs::remove_file(&told);
                return Ok((child, ports));
            }
            if let Some(status) = child.try_wait()? {
                bail!("nats-server ended at once ({status}): {}", last_complaint(&self.home, pid).unwrap_or_default());
            }
            if Instant::now() > deadline {
                terminate(&mut child).await;
                bail!(
                    "nats-server did not listen within {} s: {}",
                    START_MAX.as_secs(),
                    last_complaint(&self.home, pid).unwrap_or_default()
                );
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn supervise(self, mut child: Child, kept: Kept, stop: CancellationToken, restart: Arc<Notify>) {
        let mut pause = Duration::from_millis(200);
        let (http, monitor) = (Http::default(), format!("http://127.0.0.1:{}", kept.monitor_port));
        let mut look = tokio::time::interval(door::LOOK / crate::run::time_divisor());
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let since = Instant::now();
            tokio::select! {
                () = stop.cancelled() => break terminate(&mut child).await,
                () = restart.notified() => terminate(&mut child).await,
                () = self.door.moved(&self.device, &monitor, &http, &mut look) => {
                    tracing::warn!(urls = self.door.urls(&self.device), "the hub is reached another way; the device's nats-server is started again");
                    terminate(&mut child).await;
                }
                status = child.wait() => tracing::error!(?status, "the device's nats-server ended; starting it again"),
            }
            if since.elapsed() > Duration::from_secs(60) {
                pause = Duration::from_millis(200);
            }
            child = loop {
                tokio::select! {
                    () = stop.cancelled() => {
                        let _ = std::fs::remove_file(self.home.nats_pid());
                        return;
                    }
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(Duration::from_secs(10));
                match self.start(&kept).await {
                    Ok((child, _)) => break child,
                    Err(error) => tracing::error!(error = format!("{error:#}"), "the device's nats-server does not start"),
                }
            };
        }
        let _ = std::fs::remove_file(self.home.nats_pid());
    }
}

fn config_path(home: &Home) -> PathBuf {
    home.nats().join("leaf.conf")
}

/// The configuration: the template with its places filled, and where to log.
fn config(home: &Home, device: &Device, kept: &Kept, door: &Door) -> anyhow::Result<String> {
    let urls: Vec<String> = door.urls(device).split(',').map(|url| format!("\"{}\"", url.trim())).collect();
    let port = |port: u16| if port == 0 { "-1".to_owned() } else { port.to_string() };
    let file = |path: &Path| path.display().to_string();
    let tls = home.ca().map(|ca| format!("      tls {{ ca_file: \"{}\" }}", file(&ca))).unwrap_or_default();
    let values = [
        ("SERVER_NAME", kept.server_name.clone()),
        ("PORT", port(kept.port)),
        ("MONITOR_PORT", port(kept.monitor_port)),
        ("STORE", file(&home.nats().join("store"))),
        ("JS_DOMAIN", format!("dev-{}", device.device.id)),
        ("APP_PASSWORD", kept.app_password.clone()),
        ("AGENT_PASSWORD", kept.agent_password.clone()),
        ("SYS_PASSWORD", kept.sys_password.clone()),
        ("HUB_URLS", urls.join(", ")),
        ("CREDS_FILE", file(&home.device_creds())),
        ("TLS", tls),
    ];
    for (name, value) in &values {
        let quotes = if *name == "HUB_URLS" { urls.len() * 2 } else { 0 };
        let found = value.matches('"').count();
        ensure!(*name == "TLS" || found == quotes && !value.contains(['\n', '\\']), "{name} cannot stand in a configuration: {value}");
    }
    let mut text = TEMPLATE.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), &value);
    }
    let log = file(&log_path(home));
    text.push_str(&format!("\nlog_file: \"{log}\"\nlogfile_size_limit: 4MB\nlogfile_max_num: 2\n"));
    Ok(text)
}

fn log_path(home: &Home) -> PathBuf {
    home.logs().join("nats-server.log")
}

/// Why the link is down, in the words of the server that runs now; nothing where it said nothing of the link since it was up last.
pub fn last_words(home: &Home) -> Option<String> {
    of_the_link(&log_end(home)?, Home::live_pid(&home.nats_pid())?)
}

/// The last error or warning that a server wrote.
fn last_complaint(home: &Home, pid: u32) -> Option<String> {
    let log = log_end(home)?;
    // Said at each start, and true: the passwords in that file are random and its mode is 0600.
    of_process(&log, pid).filter(|line| !line.contains("Plaintext passwords detected")).filter_map(complaint).last()
}

fn of_the_link(log: &str, pid: u32) -> Option<String> {
    let mut last = None;
    for line in of_process(log, pid) {
        if line.contains("Leafnode connection created") {
            last = None;
        } else if let Some(words) = complaint(line).filter(|words| is_about_link(words)) {
            last = Some(words);
        }
    }
    last
}

/// `lid:` is how the server names a link's connection; whatever programs on this machine do wrong has a `cid:`.
fn is_about_link(words: &str) -> bool {
    let lower = words.to_ascii_lowercase();
    ["leafnode", " - lid:", "dial tcp", "tls handshake"].iter().any(|part| lower.contains(part)) && !lower.contains("ports file")
}

/// What one process wrote since it started; an earlier one may have had its number.
fn of_process(log: &str, pid: u32) -> impl Iterator<Item = &str> {
    let head = format!("[{pid}] ");
    let mut lines: Vec<&str> = log.lines().filter(|line| line.starts_with(&head)).collect();
    if let Some(start) = lines.iter().rposition(|line| line.ends_with("[INF] Starting nats-server")) {
        lines.drain(..start);
    }
    lines.into_iter()
}

/// The words of a line that is an error or a warning.
fn complaint(line: &str) -> Option<String> {
    let words = ["[ERR] ", "[FTL] ", "[WRN] "].iter().find_map(|level| line.split_once(level)).map(|(_, words)| words);
    words.map(|words| words.chars().take(300).collect())
}

/// The end of the server's log.
fn log_end(home: &Home) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(log_path(home)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(16_384))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[derive(Deserialize)]
struct Ports {
    #[serde(default)]
    nats: Vec<String>,
    #[serde(default)]
    monitoring: Vec<String>,
}

fn read_ports(path: &Path) -> Option<(u16, u16)> {
    let ports: Ports = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let port =
        |list: &[String]| list.first().and_then(|url| url.rsplit(':').next()).and_then(|port| port.trim_end_matches('/').parse().ok());
    Some((port(&ports.nats)?, port(&ports.monitoring).unwrap_or(0)))
}

fn is_free(port: u16) -> bool {
    port != 0 && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// A port that nobody has. One for monitoring that the server chose itself it takes for changed when it is told to read its configuration
/// again, which then names it, and takes nothing of that: no new login either.
fn free_port() -> anyhow::Result<u16> {
    let held = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no port is free")?;
    Ok(held.local_addr()?.port())
}

async fn terminate(child: &mut Child) {
    if let Some(pid) = child.id().and_then(pid) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_MAX, child.wait()).await.is_err() {
        tracing::warn!("the device's nats-server does not stop; killing it");
        let _ = child.kill().await;
    }
}

fn pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Stops the server of an agent that was killed. A process that merely got its number is left alone.
///
/// # Errors
/// Where it does not go.
pub async fn stop_orphan(home: &Home) -> anyhow::Result<()> {
    let Some(found) = Home::live_pid(&home.nats_pid()).filter(|found| runs_config(*found, &config_path(home))) else {
        let _ = std::fs::remove_file(home.nats_pid());
        return Ok(());
    };
    let Some(target) = pid(found) else { return Ok(()) };
    tracing::warn!(pid = found, "stopping the nats-server that a dead agent left behind");
    for signal in [Signal::TERM, Signal::KILL] {
        let _ = kill_process(target, signal);
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline {
            if Home::live_pid(&home.nats_pid()).is_none() || !runs_config(found, &config_path(home)) {
                let _ = std::fs::remove_file(home.nats_pid());
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
    bail!("the nats-server with process id {found} does not stop")
}

/// Whether a process was started with this configuration file.
fn runs_config(pid: u32, config: &Path) -> bool {
    use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};
    let Ok(mut system) = System::new() else { return false };
    let pid = sysinfo::Pid::from_u32(pid);
    let what = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    system.process(pid).is_some_and(|process| process.cmd().iter().any(|word| Path::new(word) == config))
}

/// A nats-server that is new enough: `NATS_SERVER_BIN`, the one on PATH, or the newest in the cache folder.
///
/// # Errors
/// `M0207` where the named one is too old, `M0205` where there is none.
pub async fn find_server() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("NATS_SERVER_BIN").filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(program) = named {
        let version = version(&program).await.with_context(|| format!("NATS_SERVER_BIN={} does not run", program.display()))?;
        bus::connect::check_version(&version).with_context(|| format!("NATS_SERVER_BIN={}", program.display()))?;
        return Ok(program);
    }
    let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).map(|folder| folder.join("nats-server")).collect());
    let mut candidates: Vec<PathBuf> = on_path.unwrap_or_default();
    candidates.extend(cached());
    for program in candidates.into_iter().filter(|program| program.is_file()) {
        match version(&program).await {
            Ok(version) if bus::connect::check_version(&version).is_ok() => return Ok(program),
            Ok(version) => tracing::info!(program = %program.display(), version, "too old, not used"),
            Err(error) => tracing::info!(program = %program.display(), error = format!("{error:#}"), "does not run, not used"),
        }
    }
    bail!("error[{}]: no nats-server 2.14.3 or newer was found (next: make deps, or set NATS_SERVER_BIN)", Code::MissingTool)
}

/// Servers that were built into the cache folder, newest first.
fn cached() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("MESH_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("mesh")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/mesh")));
    let entries = folder.and_then(|folder| std::fs::read_dir(folder.join("tools")).ok()).into_iter().flatten().flatten();
    let numbers = |path: &Path| -> Option<Vec<u32>> {
        let version = path.file_name()?.to_str()?.strip_prefix("nats-server-")?;
        version.split('.').map(|part| part.parse().ok()).collect()
    };
    let mut found: Vec<(Vec<u32>, PathBuf)> =
        entries.map(|entry| entry.path()).filter_map(|path| numbers(&path).map(|numbers| (numbers, path))).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

async fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.trim().strip_prefix("nats-server: v").context("it is no nats-server")?;
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::{DeviceName, MemberName, Settings};
    use bus_schemas::Signer;

    fn device(leaf_url: &str) -> Device {
        let key = Signer::from_seed(&[1; 32]).public();
        Device {
            name: "laptop".into(),
            network: key.network_id(),
            gateway_url: String::new(),
            leaf_url: leaf_url.into(),
            nats_url: String::new(),
            ws_url: "wss://w:443".into(),
            device: DeviceName { id: key.device_id(), did: key },
            member: MemberName { id: key.member_id(), did: key },
            settings: Settings::default(),
            told: None,
        }
    }

    #[test]
    fn the_configuration_is_filled_wholly() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        home.create().unwrap();
        let kept = Kept::read_or_create(&home).unwrap();
        assert_eq!(Kept::read_or_create(&home).unwrap(), kept, "a device keeps its name and passwords");
        let text = config(&home, &device("tls://a:7422, tls://b:7422"), &kept, &Door::default()).unwrap();
        assert!(!text.contains("{{") || text.lines().all(|line| !line.contains("{{") || line.trim_start().starts_with('#')), "{text}");
        for part in ["\"tls://a:7422\", \"tls://b:7422\"", &kept.server_name, "127.0.0.1:-1", "domain: \"dev-dev_"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("ca_file: \""), "no private CA here");
        assert!(config(&home, &device("nats://a:1\" ] } evil {"), &kept, &Door::default()).is_err());
    }

    #[test]
    fn the_servers_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        home.create().unwrap();
        let me = std::process::id();
        assert_eq!((last_words(&home), last_complaint(&home, me)), (None, None));
        let refused = "Error trying to connect as leafnode to remote server \"x:1\" (attempt 3): refused";
        std::fs::write(home.nats_pid(), format!("{me}\n")).unwrap();
        std::fs::write(log_path(&home), format!("[{me}] 2026/11/21 09:00:00.000000 [ERR] {refused}\n")).unwrap();
        assert_eq!(last_words(&home).as_deref(), Some(refused));
        assert_eq!(last_complaint(&home, me).as_deref(), Some(refused));
        std::fs::write(home.nats_pid(), "\n").unwrap();
        assert_eq!(last_words(&home), None, "no server runs");
    }

    #[test]
    fn only_what_the_running_server_says_of_its_link_is_the_reason() {
        const START: &str = "7 [INF] Starting nats-server";
        const REFUSED: &str = "7 [ERR] Error trying to connect as leafnode to remote server \"x:1\" (attempt 3): refused";
        const VIOLATION: &str = "7 [ERR] 127.0.0.1:40857 - lid:7 - Leafnode Error 'Authorization Violation'";
        const CREATED: &str = "7 [INF] 127.0.0.1:40857 - lid:7 - Leafnode connection created for account: UPLINK ";
        let said = |line: &str| line.split_once("[ERR] ").map(|(_, words)| words.to_owned());
        let rows: [(&[&str], Option<&str>); 10] = [
            (&[], None),
            (&[START, REFUSED], Some(REFUSED)),
            (&[START, VIOLATION, "7 [INF] Server is ready"], Some(VIOLATION)),
            // Another process, an earlier one, and one with the same number before.
            (&["5 [ERR] Error trying to connect as leafnode to remote server: refused", START], None),
            (&[START, REFUSED, "8 [INF] Starting nats-server"], Some(REFUSED)),
            (&[REFUSED, START], None),
            (&[START, REFUSED, CREATED], None),
            (&[START, REFUSED, CREATED, VIOLATION], Some(VIOLATION)),
            (&[START, "7 [ERR] Error cleaning up ports file /leafnode/nats-server_7.ports: no such file"], None),
            (
                &[START, "7 [ERR] 127.0.0.1:1 - cid:9 - Publish Violation", "7 [WRN] Plaintext passwords detected, use nkeys or bcrypt"],
                None,
            ),
        ];
        for (lines, expected) in rows {
            let log: String = lines
                .iter()
                .filter_map(|line| line.split_once(' '))
                .map(|(pid, words)| format!("[{pid}] 2026/11/21 09:00:00.000000 {words}\n"))
                .collect();
            assert_eq!(of_the_link(&log, 7), expected.and_then(said), "{log}");
        }
    }
}
