//! What an earlier stack in the same folder left running, because it was killed: found by pid file, stopped only where the
//! process still is what the file says.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::child::signal;

/// Notes a process: its pid, and a piece of its command line that no other process has.
pub fn note(folder: &Path, name: &str, pid: u32, mark: &Path) {
    // Without the note it works as well; only a kill -9 would leave it running.
    let _ = fs::write(folder.join(format!("{name}.pid")), format!("{pid}\n{}\n", mark.display()));
}

/// Stops every noted process of `folder` that still runs; their names.
pub fn stop_noted(folder: &Path) -> Vec<String> {
    let mut stopped = Vec::new();
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".pid")) else { continue };
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut lines = text.lines();
        if let (Some(Ok(pid)), Some(mark)) = (lines.next().map(str::parse), lines.next())
            && stop_if(pid, mark, if name == "postgres" { Signal::INT } else { Signal::TERM })
        {
            stopped.push(name.to_owned());
        }
        let _ = fs::remove_file(path);
    }
    stopped
}

/// Stops the nats-server that a dead agent left, where its home's pid file names one; whether there was one.
pub fn stop_orphan_of(home: &Path) -> Option<u32> {
    let pid = orphan_of(home)?;
    stop_if(pid, &home.display().to_string(), Signal::TERM).then_some(pid)
}

/// Stops the agent of a home, also one that somebody started again by hand, and waits until it has gone; its pid, where one ran.
pub fn stop_agent_of(home: &Path, wait: Duration) -> Option<u32> {
    let (pid, lock) = (fs::read_to_string(home.join("agent.pid")).ok()?.trim().parse().ok()?, home.join("agent.lock"));
    if !is_locked(&lock) {
        return None;
    }
    signal(pid, Signal::TERM);
    let start = Instant::now();
    while is_locked(&lock) && start.elapsed() < wait {
        std::thread::sleep(Duration::from_millis(10));
    }
    if is_locked(&lock) {
        signal(pid, Signal::KILL);
    }
    Some(pid)
}

/// An agent holds this lock for as long as it lives.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = fs::OpenOptions::new().write(true).open(path) else { return false };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

/// The nats-server of a home, if it runs.
pub fn orphan_of(home: &Path) -> Option<u32> {
    let pid = fs::read_to_string(home.join("nats.pid")).ok()?.trim().parse().ok()?;
    is(pid, &home.display().to_string()).then_some(pid)
}

/// All homes of devices in a folder.
pub fn homes(agents: &Path) -> Vec<PathBuf> {
    fs::read_dir(agents).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Stops a process, if its command line bears the mark: a pid is used again sooner or later.
fn stop_if(pid: u32, mark: &str, how: Signal) -> bool {
    if !is(pid, mark) {
        return false;
    }
    signal(pid, how);
    let start = Instant::now();
    while is(pid, mark) && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    if is(pid, mark) {
        signal(pid, Signal::KILL);
    }
    true
}

fn is(pid: u32, mark: &str) -> bool {
    !mark.is_empty() && command_line(pid).is_some_and(|line| line.contains(mark))
}

/// The command line of a running process; a zombie has none.
pub fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self").exists() {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&bytes).replace('\0', " ")).filter(|line| !line.is_empty());
    }
    let output = std::process::Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned()).filter(|line| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("mesh-leftovers-{}", bus::keys::random_hex::<6>().unwrap()));
        fs::create_dir(&folder).unwrap();
        folder
    }

    /// A process with `mark` in its command line, as a server has its configuration there.
    fn sleeper(mark: &Path) -> std::process::Child {
        let child = Command::new("/bin/sh").args(["-c", "while :; do sleep 0.01; done", "x"]).arg(mark).spawn().unwrap();
        // Until it is `sh`, it is a copy of this test.
        while !is(child.id(), &mark.display().to_string()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    #[test]
    fn only_what_bears_the_mark_is_stopped() {
        let folder = folder();
        let mark = folder.join("hub.conf");
        let (mut ours, mut other) = (sleeper(&mark), sleeper(Path::new("somebody")));
        note(&folder, "hub", ours.id(), &mark);
        note(&folder, "reused", other.id(), &mark);
        // The zombie of a stopped child has no command line, so the wait inside ends.
        assert_eq!(stop_noted(&folder), ["hub"]);
        assert!(ours.wait().unwrap().code().is_none());
        assert!(other.try_wait().unwrap().is_none(), "another process with a reused pid lives");
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_orphan_is_found_by_its_home() {
        let home = folder();
        assert_eq!(stop_orphan_of(&home), None);
        let mut orphan = sleeper(&home.join("nats").join("leaf.conf"));
        fs::write(home.join("nats.pid"), format!("{}\n", orphan.id())).unwrap();
        assert_eq!(stop_orphan_of(&home), Some(orphan.id()));
        orphan.wait().unwrap();
        fs::remove_dir_all(home).unwrap();
    }
}
