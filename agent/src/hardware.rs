//! What this machine has: cores, memory, disk, GPU, and what its processor can do.

use std::path::Path;
use std::process::Command;

use bus_schemas::resources::Resources;
use sysinfo::{Disks, System};

use crate::bidding::minus;
use crate::home::{Home, Settings};

const MIB: u64 = 1024 * 1024;

/// The machine as it is lent: hardware within the owner's limits.
pub struct Hardware {
    pub total: Resources,
    /// Words that a job's `required_capabilities` may ask for.
    pub capabilities: Vec<String>,
    system: Option<System>,
}

impl Hardware {
    /// Looks once. What cannot be found out counts as not there.
    pub fn probe(home: &Home, settings: &Settings) -> Self {
        let mut system = System::new().ok();
        let memory = system.as_mut().map_or(0, |system| {
            system.refresh_memory();
            // Inside a container the machine's memory is not ours.
            let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
            system.total_memory().min(if limit == 0 { u64::MAX } else { limit })
        });
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
        let gpu_mb = gpu_mb();
        let mut capabilities = processor();
        if gpu_mb > 0 {
            capabilities.push("gpu".to_owned());
        }
        let total = Resources { cpu_cores: cores, memory_mb: mib(memory), storage_mb: storage_mb(home.root()), gpu_mb };
        Self { total: lent(total, settings), capabilities, system }
    }

    /// What is free now: the total without what running jobs have asked for, and no more memory than the system can give.
    pub fn free(&mut self, reserved: &Resources) -> Resources {
        let mut free = minus(&self.total, reserved);
        if let Some(system) = &mut self.system {
            system.refresh_memory();
            free.memory_mb = free.memory_mb.min(mib(system.available_memory()));
        }
        free
    }
}

/// The owner's limits, where they are less than what is there.
fn lent(total: Resources, settings: &Settings) -> Resources {
    let least = |has: u32, limit: u32| if limit == 0 { has } else { has.min(limit) };
    Resources { cpu_cores: least(total.cpu_cores, settings.cores), memory_mb: least(total.memory_mb, settings.memory_mb), ..total }
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}

/// Free space of the disk that holds the home.
fn storage_mb(home: &Path) -> u32 {
    let home = std::fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
    let Ok(disks) = Disks::new_with_refreshed_list() else { return 0 };
    let holds = disks.iter().filter(|disk| home.starts_with(disk.mount_point()));
    holds.max_by_key(|disk| disk.mount_point().components().count()).map_or(0, |disk| mib(disk.available_space()))
}

fn processor() -> Vec<String> {
    let mut list = vec![std::env::consts::ARCH.to_owned(), std::env::consts::OS.to_owned()];
    #[cfg(target_arch = "x86_64")]
    for (name, there) in [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
    ] {
        if there {
            list.push(name.to_owned());
        }
    }
    list
}

/// Memory of the largest graphics card in MiB; 0 where there is none.
fn gpu_mb() -> u32 {
    let cards = std::fs::read_dir("/sys/class/drm").into_iter().flatten().flatten();
    let amd = cards.filter_map(|card| {
        let bytes = std::fs::read_to_string(card.path().join("device/mem_info_vram_total")).ok()?;
        Some(mib(bytes.trim().parse().ok()?))
    });
    amd.chain(nvidia()).max().unwrap_or(0)
}

fn nvidia() -> Vec<u32> {
    // The driver's own folder says cheaply that there is nothing to ask.
    if !Path::new("/proc/driver/nvidia").exists() {
        return vec![];
    }
    let asked = Command::new("nvidia-smi").args(["--query-gpu=memory.total", "--format=csv,noheader,nounits"]).output();
    let text = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let mut hardware = Hardware::probe(&home, &Settings::default());
        let total = hardware.total;
        assert!(total.cpu_cores > 0 && total.memory_mb > 0 && total.storage_mb > 0, "{total:?}");
        let used = Resources { cpu_cores: 1, memory_mb: total.memory_mb, ..Resources::default() };
        let free = hardware.free(&used);
        assert_eq!((free.cpu_cores, free.memory_mb), (total.cpu_cores - 1, 0));
        let lent = Hardware::probe(&home, &Settings { cores: 1, memory_mb: 100, ..Settings::default() }).total;
        assert_eq!((lent.cpu_cores, lent.memory_mb), (1, 100));
    }
}
