//! What each process holds: memory, and messages that were handed out and not acknowledged.

use std::collections::BTreeMap;

use serde_json::Value;
use testkit::http;

use super::fleet::{Fleet, monitors};

#[derive(Debug, Clone, Default)]
pub struct Pulse {
    /// Resident memory in MiB, by name.
    pub memory: BTreeMap<String, u64>,
    /// Messages out, by stream and consumer; of the node that leads it.
    pub pending: BTreeMap<String, u64>,
}

/// A process that has this much more, and this many times as much, has grown. An agent loads its model at the first job that needs it.
const GROWTH_MIB: u64 = 320;
const GROWTH_FACTOR: u64 = 3;

pub async fn look(fleet: &Fleet) -> Pulse {
    let servers = fleet.processes().into_iter().map(|process| (process.name, process.pid));
    let agents = fleet.own.iter().filter_map(|device| Some((device.name.clone(), device.pid()?)));
    let leaves = fleet.own.iter().filter_map(|device| Some((format!("{}-leaf", device.name), device.leaf_pid()?)));
    let memory = servers.chain(agents).chain(leaves).filter_map(|(name, pid)| Some((name, resident_mib(pid)?))).collect();
    let mut pending = BTreeMap::new();
    for monitor in monitors(&fleet.stack) {
        let url = format!("{monitor}/jsz?accounts=true&streams=true&consumers=true");
        let Ok((200, body)) = http::try_send("GET", &url, &[], "").await else { continue };
        let all: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        for account in list(&all, "account_details") {
            for stream in list(account, "stream_detail") {
                for consumer in list(stream, "consumer_detail") {
                    let name = format!("{}/{}", text(stream, "name"), text(consumer, "name"));
                    let out = consumer["num_ack_pending"].as_u64().unwrap_or(0);
                    // Followers know less than the leader, never more.
                    let known = pending.entry(name).or_insert(0);
                    *known = out.max(*known);
                }
            }
        }
    }
    Pulse { memory, pending }
}

impl Pulse {
    /// What holds much more than it did.
    pub fn grown_since(&self, before: &Self) -> Vec<String> {
        let grown = |(name, now): (&String, &u64)| {
            let then = *before.memory.get(name)?;
            let much = *now > then + GROWTH_MIB && *now > then * GROWTH_FACTOR;
            much.then(|| format!("{name} grew from {then} to {now} MiB"))
        };
        self.memory.iter().filter_map(grown).collect()
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn resident_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib / 1024)
}
