//! How soon real devices' work goes on elsewhere: handed back by `mesh stop --now`, and after a SIGKILL. Prints what it measured.
//!
//! With the real times, since agents that `mesh start` starts have those. `MESH_TEST_STOPS=20 MESH_TEST_KILLS=3` measures more (a job whose
//! devices die four times has failed); `MESH_TEST_DIVISOR=1` also asserts the limits.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bus_schemas::limits::{ATTEMPTS_MAX, Timings};
use e2e::doors;
use serde_json::Value;
use testkit::cli::Cli;
use testkit::{Stack, proc, until};

/// Minutes of work: it is cancelled at the end.
const TEXTS: usize = 10_000;

fn setting<T: std::str::FromStr>(name: &str, usual: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[tokio::test]
async fn work_that_is_handed_back_or_lost_goes_on() {
    let (stops, kills, divisor): (usize, usize, u32) =
        (setting("MESH_TEST_STOPS", 2), setting("MESH_TEST_KILLS", 1), setting("MESH_TEST_DIVISOR", 1));
    assert!(kills < ATTEMPTS_MAX as usize, "a job whose devices die {ATTEMPTS_MAX} times has failed");
    let stack = Stack::start(&["--agents", "3"], &[("MESH_TIME_DIVISOR", &divisor.to_string())]);
    let file = stack.folder().join("texts.txt");
    std::fs::write(&file, (0..TEXTS).map(|n| format!("{n}: {}\n", "boats and trees, ".repeat(30))).collect::<String>()).expect("a file");
    let words = ["job", "submit", "embed", "--file", file.to_str().expect("a path"), "--max-mana", "1000", "--run-timeout", "60m"];
    let job = stack.cli.ok(&words)["id"].as_str().expect("an id").to_owned();
    at_work(&stack, &job, 0).await;

    let mut pids = agents(&stack);
    let mut handed_back = Vec::new();
    for _ in 0..stops {
        let (seen, device) = on_a_device(&stack, &job).await;
        let owner = owner(&stack, &device);
        let asked_at = bus::hub_time::here_ms();
        let stopping = owner.clone();
        let stopped = tokio::task::spawn_blocking(move || stopping.ok(&["stop", "--now"]));
        handed_back.push(at_work(&stack, &job, seen.len()).await.saturating_sub(asked_at));
        stopped.await.expect("mesh stop");
        pids.insert(device.clone(), pid(&owner.ok_async(&["start", "--detach"]).await));
        online(&stack, &device).await;
    }
    let said = |what: &str, all: &mut Vec<u64>| {
        all.sort_unstable();
        println!(
            "{what}: {} times, on another device after p50 {} ms, worst {} ms: {all:?}",
            all.len(),
            all[all.len() / 2],
            all[all.len() - 1]
        );
        all[all.len() - 1]
    };
    let worst = said("mesh stop --now", &mut handed_back);

    let mut lost = Vec::new();
    for _ in 0..kills {
        let (seen, device) = on_a_device(&stack, &job).await;
        proc::signal(pids[&device], "KILL");
        let killed_at = bus::hub_time::here_ms();
        lost.push(at_work(&stack, &job, seen.len()).await.saturating_sub(killed_at));
        pids.insert(device.clone(), again(owner(&stack, &device), pids[&device]).await);
        online(&stack, &device).await;
    }
    let silence = u64::try_from(Timings::divided(divisor).silence.as_millis()).expect("short");
    let latest = if lost.is_empty() { 0 } else { said("SIGKILL", &mut lost) };
    println!("a device counts as gone after {silence} ms");
    stack.cli.ok_async(&["job", "cancel", &job]).await;
    until("its end", || async { (doors::get(&stack, &format!("/jobs/{job}")).await.1["state"] == "Cancelled").then_some(()) }).await;
    if std::env::var_os("MESH_TEST_DIVISOR").is_some() {
        assert!(worst <= 1_000, "handed back, but on another device only after {worst} ms");
        assert!(latest <= silence + 1_000, "killed, and on another device only after {latest} ms");
    }
}

/// Starts an agent that was killed, unless `mesh dev`, which looks after those that it started itself, was quicker.
async fn again(owner: Cli, killed: u32) -> u32 {
    let file = owner.mesh_home.join("agent.pid");
    tokio::task::spawn_blocking(move || owner.run(&["start", "--detach"])).await.expect("mesh runs");
    until("its new process", || async { std::fs::read_to_string(&file).ok()?.trim().parse().ok().filter(|pid| *pid != killed) }).await
}

fn pid(started: &Value) -> u32 {
    started["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_else(|| panic!("no pid in {started}"))
}

/// Process ids of the agents, by device.
fn agents(stack: &Stack) -> BTreeMap<String, u32> {
    let processes = stack.ready["processes"].as_array().expect("processes");
    let of = |name: &Value| processes.iter().find(|one| one["role"] == "agent" && one["name"] == *name).map(pid).expect("its agent");
    let devices = stack.ready["devices"].as_array().expect("devices");
    devices.iter().map(|device| (device["id"].as_str().expect("an id").to_owned(), of(&device["name"]))).collect()
}

/// The times at which it was assigned, and its device.
async fn assigned(stack: &Stack, job: &str) -> (Vec<u64>, String) {
    let (_, shown) = doors::get(stack, &format!("/jobs/{job}")).await;
    let transitions = shown["transitions"].as_array().cloned().unwrap_or_default();
    let times = transitions.iter().filter(|one| one["to"] == "Assigned").filter_map(|one| one["at"].as_u64()).collect();
    (times, shown["device"].as_str().unwrap_or_default().to_owned())
}

/// The same, once it is on a device.
async fn on_a_device(stack: &Stack, job: &str) -> (Vec<u64>, String) {
    until("its device", || async { Some(assigned(stack, job).await).filter(|(_, device)| !device.is_empty()) }).await
}

/// When it was assigned for the next time after `before` times, as its records tell; it is at work there.
async fn at_work(stack: &Stack, job: &str, before: usize) -> u64 {
    until("it to be at work", || async {
        let (times, device) = assigned(stack, job).await;
        (!device.is_empty()).then_some(())?;
        times.get(before..)?.last().copied()
    })
    .await
}

async fn online(stack: &Stack, device: &str) {
    until("it to be back", || async {
        let (_, list) = doors::get(stack, "/devices").await;
        list["devices"].as_array()?.iter().any(|one| one["id"] == device && one["status"] == "idle").then_some(())
    })
    .await;
}

/// The command line of the machine that a device runs on.
fn owner(stack: &Stack, device: &str) -> Cli {
    let devices: &Vec<Value> = stack.ready["devices"].as_array().expect("devices");
    let home = devices.iter().find(|one| one["id"] == device).and_then(|one| one["home"].as_str()).expect("its home");
    Cli { mesh_home: PathBuf::from(home), ..stack.cli.clone() }
}
