//! CPU time of the processes of a local stack, from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Linux tells times in hundredths of a second, whatever the machine.
const TICKS_PER_S: f64 = 100.0;

/// Whom to watch: pid and role.
#[derive(Debug, Clone, Default)]
pub struct Processes(Vec<(u32, String)>);

#[derive(Deserialize)]
struct Listed {
    role: String,
    pid: u32,
}

impl Processes {
    /// The processes that `mesh dev` wrote down; none where they cannot be read.
    pub fn read(path: &Path) -> Self {
        let listed: Vec<Listed> = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self(listed.into_iter().map(|process| (process.pid, process.role)).collect())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// CPU seconds so far by role, children without a role of their own included, and `bench` for this program.
    pub fn used(&self) -> BTreeMap<String, f64> {
        if self.is_empty() {
            return BTreeMap::new();
        }
        let all = all();
        let listed: BTreeSet<u32> = self.0.iter().map(|(pid, _)| *pid).collect();
        let mut used = BTreeMap::from([("bench".to_owned(), all.get(&std::process::id()).map_or(0.0, |process| process.seconds))]);
        for (pid, role) in &self.0 {
            *used.entry(role.clone()).or_default() += with_children(*pid, &all, &listed);
        }
        used
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Process {
    parent: u32,
    /// Its own and those of its ended children.
    seconds: f64,
}

fn with_children(pid: u32, all: &BTreeMap<u32, Process>, listed: &BTreeSet<u32>) -> f64 {
    let own = all.get(&pid).map_or(0.0, |process| process.seconds);
    let children = all.iter().filter(|(child, process)| process.parent == pid && !listed.contains(child));
    own + children.map(|(child, _)| with_children(*child, all, listed)).sum::<f64>()
}

fn all() -> BTreeMap<u32, Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// Fields of `/proc/PID/stat` after the name, which may hold blanks and brackets: parent is the 2nd, the four clocks the 12th
/// to 15th.
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    Some(Process { parent: fields.get(1)?.parse().ok()?, seconds: ticks as f64 / TICKS_PER_S })
}

/// Processor, cores and kernel.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let uname = rustix::system::uname();
    let system = format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
    format!("{cores} cores, {}, {system}", model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_whatever_the_name() {
        let stat = "7 (a) b (c)) S 3 7 7 0 -1 4194560 1 2 3 4 100 50 30 20 20 0 1 0 5 6 7";
        assert_eq!(parse(stat), Some(Process { parent: 3, seconds: 2.0 }));
        assert_eq!(parse("7 (x"), None);
        assert_eq!(parse("7 (x) S"), None);
    }

    #[test]
    fn children_count_unless_they_are_listed() {
        let process = |parent, seconds| Process { parent, seconds };
        let all = BTreeMap::from([(1, process(0, 1.0)), (2, process(1, 2.0)), (3, process(2, 4.0)), (4, process(1, 8.0))]);
        assert!((with_children(1, &all, &BTreeSet::from([1, 4])) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn this_machine_is_described() {
        assert!(machine().contains("cores"));
    }
}
