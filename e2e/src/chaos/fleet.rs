//! The network that is broken: the servers as `mesh dev` keeps them, and devices of our own behind proxies.

use std::path::PathBuf;
use std::process::Command;

use bus_schemas::MemberId;
use serde_json::Value;
use testkit::{Disk, Stack, http, proc, until};

use super::Settings;
use super::device::Device;
use super::plan::{Role, Shape, Target};

/// What holds a device's server, its logs and little else.
const DEVICE_MEGABYTES: u32 = 64;
/// A node of the hub writes about 40 MB in two minutes of chaos; Postgres 60 MB, most of it what it begins with.
const HUB_MEGABYTES: u32 = 512;
const POSTGRES_MEGABYTES: u32 = 512;
/// Where `mesh dev` has the data of Postgres.
pub const POSTGRES_DATA: &str = "postgres";

pub struct Fleet {
    // First: devices end before what they are linked to.
    pub own: Vec<Device>,
    pub stack: Stack,
    /// As this machine lets us have it.
    pub shape: Shape,
}

/// Who asks over HTTP.
#[derive(Debug, Clone)]
pub struct Who {
    pub member: MemberId,
    pub token: String,
}

/// A process of the stack, as it is now.
#[derive(Debug, Clone)]
pub struct Process {
    pub role: String,
    pub name: String,
    pub pid: u32,
    pub http: Option<String>,
}

impl Fleet {
    /// Starts everything and waits until each device is seen.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start(settings: &Settings) -> Self {
        let shape = &settings.shape;
        let count = |n: u64| n.to_string();
        let mut args: Vec<String> = vec!["--agents".into(), "0".into()];
        // What it has one of is not asked for, so that an older `mesh dev` will do.
        for (name, n) in
            [("--hub", shape.hubs), ("--gateways", shape.gateways), ("--schedulers", shape.schedulers), ("--ledgers", shape.ledgers)]
        {
            if n > 1 {
                args.extend([name.to_owned(), count(n)]);
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut stack = Stack::start(&args, &[("MESH_TIME_DIVISOR", &count(settings.divisor))]);
        let shape = Shape { small_disks: shape.small_disks && may_mount(), ..*shape };
        if shape.small_disks {
            stack.stop();
            shape.on_small_disk(Role::Hub).iter().for_each(|hub| stack.move_to_disk(&node_data(hub.n), HUB_MEGABYTES));
            shape.on_small_disk(Role::Postgres).iter().for_each(|_| stack.move_to_disk(POSTGRES_DATA, POSTGRES_MEGABYTES));
            stack.start_again();
        }
        let disk = |n: u64| (shape.small_disks && n + 1 == shape.devices).then_some(DEVICE_MEGABYTES);
        let own = (0..shape.devices).map(|n| Device::join(&stack, &format!("device-{n}"), settings.divisor, disk(n))).collect();
        let fleet = Self { own, stack, shape };
        fleet.devices_are_seen().await;
        fleet
    }

    pub fn devices(&self) -> u32 {
        u32::try_from(self.own.len()).unwrap_or(u32::MAX)
    }
    /// The small disk of this role.
    pub fn disk(&self, role: Role) -> Option<&Disk> {
        let target = self.shape.on_small_disk(role)?;
        match role {
            Role::Agent => self.own.get(target.n)?.disk.as_ref(),
            Role::Hub => self.stack.disk(&node_data(target.n)),
            Role::Postgres => self.stack.disk(POSTGRES_DATA),
            Role::Gateway | Role::Scheduler | Role::Ledger | Role::Leaf => None,
        }
    }

    /// The stack's processes in the order of their names, as `mesh dev` has them now.
    pub fn processes(&self) -> Vec<Process> {
        let text = std::fs::read(self.stack.path("/data_dir").join("processes.json")).unwrap_or_default();
        let listed: Vec<Value> = serde_json::from_slice(&text).unwrap_or_default();
        let mut all: Vec<Process> = listed
            .iter()
            .filter_map(|one| {
                Some(Process {
                    role: one["role"].as_str()?.to_owned(),
                    name: one["name"].as_str()?.to_owned(),
                    pid: u32::try_from(one["pid"].as_u64()?).ok()?,
                    http: one["http"].as_str().map(str::to_owned),
                })
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
    /// The process that is meant, where it runs.
    pub fn pid(&self, target: Target) -> Option<u32> {
        let device = || self.own.get(target.n);
        match target.role {
            Role::Agent => device()?.pid(),
            Role::Leaf => device()?.leaf_pid(),
            Role::Hub | Role::Postgres | Role::Gateway | Role::Scheduler | Role::Ledger => {
                let found = self.processes().into_iter().filter(|process| process.role == target.role.name()).nth(target.n)?;
                proc::runs(found.pid).then_some(found.pid)
            }
        }
    }
    /// Addresses of the gateways.
    pub fn gateways(&self) -> Vec<String> {
        self.processes().into_iter().filter(|process| process.role == Role::Gateway.name()).filter_map(|process| process.http).collect()
    }
    /// The member of the stack, and the owner of each device.
    pub fn people(&self) -> Vec<Who> {
        let first = Who { member: self.stack.text("/member/id").parse().expect("a member"), token: self.stack.token() };
        std::iter::once(first).chain(self.own.iter().map(|device| Who { member: device.member, token: device.token.clone() })).collect()
    }

    async fn devices_are_seen(&self) {
        until("every device to be seen", || async {
            let (_, list) = self.get(0, "/devices").await?;
            let online = |device: &Device| {
                list["devices"].as_array().is_some_and(|all| all.iter().any(|one| one["id"] == device.id.as_str() && one["online"] == true))
            };
            self.own.iter().all(online).then_some(())
        })
        .await;
    }

    /// Waits until all runs and says that it can work.
    ///
    /// # Panics
    /// Where something does not come back.
    pub async fn whole_again(&self) {
        until("every server to be ready", || async {
            let all = self.processes();
            for process in &all {
                if !proc::runs(process.pid) {
                    return None;
                }
                if let Some(url) = &process.http
                    && !matches!(http::try_send("GET", &format!("{url}/readyz"), &[], "").await, Ok((200, _)))
                {
                    return None;
                }
            }
            (all.iter().any(|process| process.role == "gateway") && self.own.iter().all(|device| device.leaf_pid().is_some())).then_some(())
        })
        .await;
        self.devices_are_seen().await;
    }

    /// Asks a gateway, as one of [`Self::people`]; `None` where none answers.
    pub async fn get(&self, who: usize, path: &str) -> Option<(u16, Value)> {
        let people = self.people();
        let authorization = format!("Bearer {}", people.get(who)?.token);
        for gateway in self.gateways() {
            let url = format!("{gateway}/api/v1{path}");
            let headers = [("authorization", authorization.as_str())];
            let asked = tokio::time::timeout(std::time::Duration::from_secs(20), http::try_send("GET", &url, &headers, "")).await;
            if let Ok(Ok((status, body))) = asked {
                return Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)));
            }
        }
        None
    }

    /// Copies all logs to a place where they stay.
    pub fn keep(&self) -> PathBuf {
        let to = std::env::temp_dir().join(format!("mesh-chaos-{}", std::process::id()));
        let _ = std::fs::create_dir_all(&to);
        let stack = std::fs::read_dir(self.stack.path("/data_dir").join("logs")).into_iter().flatten().flatten().map(|entry| entry.path());
        for from in stack.chain([self.stack.folder().join("dev.log")]) {
            let _ = std::fs::copy(&from, to.join(from.file_name().unwrap_or_default()));
        }
        for device in &self.own {
            for (n, from) in device.logs().iter().enumerate() {
                let _ = std::fs::copy(from, to.join(format!("{}-{n}.log", device.name)));
            }
        }
        let _ = std::fs::write(to.join("events.json"), serde_json::to_string_pretty(&self.stack.events()).unwrap_or_default());
        to
    }
}

/// Where `mesh dev` has the data of a node of several, counted from 0.
pub fn node_data(n: usize) -> String {
    format!("network/store/hub-{}", n + 1)
}

/// Whether we may mount small disks; if not it is said, and those faults are left out.
fn may_mount() -> bool {
    let may = Disk::possible();
    if let Err(why) = &may {
        println!("chaos: no full disks, since none can be mounted here: {why}");
    }
    may.is_ok()
}

/// Where each node of the hub tells about itself.
pub fn monitors(stack: &Stack) -> Vec<String> {
    let nodes = stack.ready["nats"]["nodes"].as_array().cloned().unwrap_or_default();
    nodes.iter().filter_map(|node| node["monitor_url"].as_str().map(str::to_owned)).collect()
}

/// `mesh-ledger verify` against the rows: whether they are those of the stream, and its report.
pub async fn verify_rows(stack: &Stack) -> (bool, Value) {
    let mut command = Command::new(proc::bin_dir().join("mesh-ledger"));
    command.args([
        "verify",
        "-o",
        "json",
        "--api-prefix",
        &stack.text("/auditor/js_prefix"),
        "--inbox-prefix",
        &stack.text("/auditor/inbox_prefix"),
    ]);
    command.env("MESH_NATS_URL", stack.text("/nats/url")).env("MESH_CREDS", stack.path("/auditor/creds"));
    command.env("MESH_NETWORK", stack.path("/data_dir").join("network/network.json")).env("DATABASE_URL", stack.text("/postgres/url"));
    let run = tokio::task::spawn_blocking(move || command.output()).await;
    match run {
        Ok(Ok(output)) => {
            let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or(Value::String(said)))
        }
        Ok(Err(error)) => (false, Value::String(error.to_string())),
        Err(error) => (false, Value::String(error.to_string())),
    }
}
