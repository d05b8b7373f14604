//! Processes: where the programs are, signals by pid, and what still runs.

use std::path::PathBuf;
use std::process::Command;

/// The folder that holds the programs: `MESH_BIN_DIR`, else the folder of the build that made this test.
///
/// # Panics
/// Where `mesh` is not there: `make build` makes it.
pub fn bin_dir() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent()?.parent().map(PathBuf::from));
    let dir = std::env::var_os("MESH_BIN_DIR").map(PathBuf::from).or(beside).unwrap_or_default();
    assert!(dir.join("mesh").exists(), "no mesh program in {}; run: make build", dir.display());
    dir
}

/// Sends a signal (`KILL`, `TERM`, `STOP`, `CONT`) to one process that this test started.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

/// Whether a process runs (a zombie does not).
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| state != 'Z' && state != 'X')
}

/// A number that `id` prints.
fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).stderr(std::process::Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
pub fn is_root() -> bool {
    id(&["-u"]) == Some(0)
}
/// An account's uid and gid, where this machine has it.
pub fn account(name: &str) -> Option<(u32, u32)> {
    Some((id(&["-u", name])?, id(&["-g", name])?))
}
