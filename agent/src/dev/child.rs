//! One child process: how it is started, that it ended, and how it is stopped.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bus_schemas::Code;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, watch};

use super::place::Account;
use crate::cli::failure::Failure;
use crate::nats_process::with_lazy_timers;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Hub,
    Postgres,
    Ledger,
    Scheduler,
    Gateway,
    /// The gateway's program as the revoker.
    Revoker,
    Agent,
    /// A device's own nats-server: the agent's child, not ours.
    Leaf,
}
impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Postgres => "postgres",
            Self::Ledger => "ledger",
            Self::Scheduler => "scheduler",
            Self::Gateway => "gateway",
            Self::Revoker => "revoker",
            Self::Agent => "agent",
            Self::Leaf => "leaf",
        }
    }
    /// What ends it in good order.
    pub const fn stop_signal(self) -> Signal {
        match self {
            // Fast: sessions are cut, the last checkpoint is written.
            Self::Postgres => Signal::INT,
            Self::Hub | Self::Ledger | Self::Scheduler | Self::Gateway | Self::Revoker | Self::Agent | Self::Leaf => Signal::TERM,
        }
    }
    /// Whether it is started again where it ends by itself.
    pub const fn restarts(self) -> bool {
        match self {
            Self::Hub | Self::Postgres | Self::Ledger | Self::Scheduler | Self::Gateway | Self::Revoker => true,
            Self::Agent | Self::Leaf => false,
        }
    }
}

/// How a child is started, the first time and again.
#[derive(Debug, Clone)]
pub struct Spec {
    pub role: Role,
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(&'static str, OsString)>,
    /// Standard output and errors are appended here.
    pub log: PathBuf,
    /// A program of ours: it ends where its standard input does, so also where this process is killed.
    pub ours: bool,
    /// Answers on /readyz when it can work.
    pub http: Option<u16>,
    /// As whom, where that is not oneself.
    pub account: Option<Account>,
    /// See [`crate::nats_process::with_lazy_timers`].
    pub lazy_timers: bool,
    /// A piece of its command line that no other process has; noted with its pid, for one of ours that does not end with us.
    pub mark: Option<PathBuf>,
}

/// A child that was started.
pub struct Running {
    pub spec: Spec,
    pub pid: u32,
    pub restarts: u32,
    stdin: Option<ChildStdin>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Spec {
    /// Starts it; its pid is told on `exits` when it ends.
    ///
    /// # Errors
    /// Where it cannot be started at all.
    pub fn start(&self, exits: &mpsc::UnboundedSender<u32>) -> Result<Running, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Code::MissingTool, format!("{} cannot be started: {}: {error}", self.name, self.program.display()))
        };
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(failed)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(if self.ours { Stdio::piped() } else { Stdio::null() })
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            // A group of its own: Ctrl-C in the terminal reaches this program alone, which then stops them in order.
            .process_group(0);
        if self.ours {
            command.env("MESH_STOP_WITH_PARENT", "1");
        }
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid).current_dir("/");
        }
        let started = if self.lazy_timers { with_lazy_timers(|| command.spawn()) } else { command.spawn() };
        let mut child = started.map_err(failed)?;
        let pid = child.id().ok_or_else(|| Failure::ours(format!("{} ended at once", self.name)))?;
        let stdin = child.stdin.take();
        let (tell, ended) = watch::channel(None);
        let exits = exits.clone();
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                let _ = tell.send(Some(status));
            }
            let _ = exits.send(pid);
        });
        Ok(Running { spec: self.clone(), pid, restarts: 0, stdin, ended })
    }
}

impl Running {
    /// How it ended; `None` while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }
    /// Waits for its end, at most so long; whether it has ended.
    pub async fn ended_within(&mut self, wait: Duration) -> bool {
        let ended = async { self.ended.wait_for(Option::is_some).await.is_ok() };
        // A closed channel means that nobody watches it any more: it is gone as well.
        tokio::time::timeout(wait, ended).await.is_ok()
    }
    /// Asks it to end, waits, and ends it where it does not.
    pub async fn stop(&mut self, wait: Duration) {
        if self.status().is_some() {
            return;
        }
        signal(self.pid, self.spec.role.stop_signal());
        self.stdin = None;
        if !self.ended_within(wait).await {
            signal(self.pid, Signal::KILL);
            self.ended_within(Duration::from_secs(1)).await;
        }
    }
    /// The last lines it wrote, for an error.
    pub fn last_words(&self) -> String {
        last_words(&self.spec.log)
    }
}

/// The last lines of a log.
pub fn last_words(log: &std::path::Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// In words: "exit code 1", "signal 9".
pub fn words(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("exit code {code}"),
        Some((None, Some(signal))) => format!("signal {signal}"),
        Some((None, None)) | None => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(script: &str, ours: bool) -> Spec {
        let log = std::env::temp_dir().join(format!("mesh-child-{}.log", bus::keys::random_hex::<6>().unwrap()));
        let args = vec!["-c".into(), script.into()];
        Spec {
            role: Role::Gateway,
            name: "x".into(),
            program: "/bin/sh".into(),
            args,
            env: vec![("GREETING", "hello".into())],
            log,
            ours,
            http: None,
            account: None,
            lazy_timers: false,
            mark: None,
        }
    }

    #[tokio::test]
    async fn a_child_speaks_into_its_log_and_ends_as_asked() {
        let (exits, mut told) = mpsc::unbounded_channel();
        let spec = spec("echo $GREETING; trap 'exit 7' TERM; while :; do sleep 0.01; done", false);
        let mut child = spec.start(&exits).unwrap();
        while !child.last_words().contains("hello") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(child.status(), None);
        child.stop(Duration::from_secs(10)).await;
        assert_eq!(words(child.status()), "exit code 7");
        assert_eq!(told.recv().await, Some(child.pid));
        std::fs::remove_file(spec.log).unwrap();
    }

    #[tokio::test]
    async fn who_does_not_listen_is_ended_and_ours_ends_with_its_input() {
        let (exits, _told) = mpsc::unbounded_channel();
        let deaf = spec("trap '' TERM; echo deaf; while :; do sleep 0.01; done", false);
        let mut child = deaf.start(&exits).unwrap();
        while !child.last_words().contains("deaf") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.stop(Duration::from_millis(50)).await;
        assert_eq!(words(child.status()), "signal 9");
        let ours = spec("trap '' TERM; echo ours; cat; exit 3", true);
        let mut child = ours.start(&exits).unwrap();
        // A signal before the trap is set would end it.
        while !child.last_words().contains("ours") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.stop(Duration::from_secs(10)).await;
        assert_eq!(words(child.status()), "exit code 3");
        std::fs::remove_file(deaf.log).unwrap();
        std::fs::remove_file(ours.log).unwrap();
    }

    #[test]
    fn a_missing_program_is_named() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (exits, _told) = mpsc::unbounded_channel();
        let spec = Spec { program: "no-such-program".into(), ..spec("", false) };
        let failure = runtime.block_on(async { spec.start(&exits).err() }).unwrap();
        assert!(failure.text().contains("no-such-program"), "{}", failure.text());
        let _ = std::fs::remove_file(spec.log);
    }
}
