//! A device that is frozen for longer than its silence, and wakes up: it stops what goes on elsewhere, and forgets what has ended.

use serde_json::Value;
use testkit::{Stack, proc, until};

async fn status(stack: &Stack, device: usize) -> Value {
    let local = stack.local(device).await;
    let answer = local.ask_bytes("mesh.status".into(), "".into(), testkit::HUNG).await.expect("an answer");
    serde_json::from_slice(&answer).expect("a status")
}

/// Submits so many texts; the job and, once it runs, the place of its device among the devices.
async fn runs(stack: &Stack, name: &str, texts: usize) -> (String, usize) {
    let file = stack.folder().join(name);
    std::fs::write(&file, (0..texts).map(|n| format!("{name} {n} and tree {}\n", n * 7)).collect::<String>()).expect("a file");
    let path = file.to_str().expect("a path");
    let job = stack.cli.ok_async(&["job", "submit", "embed", "--file", path, "--max-mana", "1000", "--run-timeout", "10m"]).await;
    let id = job["id"].as_str().expect("an id").to_owned();
    let device = until("a device to run it", || async { executing(stack, &id).await }).await;
    (id, place(stack, &device))
}
async fn executing(stack: &Stack, id: &str) -> Option<String> {
    let shown = stack.cli.ok_async(&["job", "show", id]).await;
    (shown["state"] == "Executing").then(|| shown["device"].as_str().map(str::to_owned))?
}
fn place(stack: &Stack, device: &str) -> usize {
    stack.ready["devices"].as_array().expect("devices").iter().position(|one| one["id"] == device).expect("the device")
}
fn agent_of(stack: &Stack, place: usize) -> u32 {
    let name = &stack.ready["devices"][place]["name"];
    let agents = stack.ready["processes"].as_array().expect("processes");
    let agent = agents.iter().find(|one| one["role"] == "agent" && one["name"] == *name).expect("its agent");
    u32::try_from(agent["pid"].as_u64().expect("a pid")).expect("a pid")
}

#[tokio::test]
async fn a_frozen_device_gives_up_what_goes_on_elsewhere() {
    let stack = Stack::start(&["--agents", "2"], &[("MESH_TIME_DIVISOR", "10")]);
    let (job, first) = runs(&stack, "long", 10_000).await;
    let frozen = agent_of(&stack, first);
    proc::signal(frozen, "STOP");
    let second = until("another device to run it", || async {
        executing(&stack, &job).await.map(|device| place(&stack, &device)).filter(|place| *place != first)
    })
    .await;
    proc::signal(frozen, "CONT");
    let woken = until("it to stop what goes on elsewhere", || async {
        let status = status(&stack, first).await;
        (status["totals"]["cancelled"] == 1 && status["running"] == 0).then_some(status)
    })
    .await;
    assert_eq!(woken["totals"]["completed"], 0, "{woken:?}");
    let shown = stack.cli.ok_async(&["job", "show", &job]).await;
    assert_eq!(shown["device"], stack.ready["devices"][second]["id"], "its successor goes on: {shown}");
    until("it to be forgotten there", || async { (status(&stack, first).await["unsettled"] == 0).then_some(()) }).await;

    let ended = stack.cli.ok_async(&["job", "wait", &job, "--timeout", "5m"]).await;
    assert_eq!(ended["state"], "Completed", "{ended}");
    let explained = stack.cli.ok_async(&["job", "explain", &job]).await;
    assert_eq!(
        explained["attempts"][0]["failure"]["class"].as_str().or(explained["attempts"][0]["class"].as_str()),
        Some("DeviceDisconnect"),
        "{explained}"
    );

    // One whose job has ended meanwhile is told so, and does not work on for nothing.
    let (job, third) = runs(&stack, "short", 3_000).await;
    let before = status(&stack, third).await["totals"].clone();
    let frozen = agent_of(&stack, third);
    proc::signal(frozen, "STOP");
    let ended = stack.cli.ok_async(&["job", "wait", &job, "--timeout", "5m"]).await;
    assert_eq!(ended["state"], "Completed", "{ended}");
    until("the books to be closed", || async { (stack.cli.ok_async(&["credit", "balance"]).await["held_mmana"] == 0).then_some(()) }).await;
    proc::signal(frozen, "CONT");
    let woken = until("it to give up what has ended", || async {
        let status = status(&stack, third).await;
        (status["running"] == 0 && status["totals"]["not_paid"] != before["not_paid"]).then_some(status)
    })
    .await;
    assert_eq!((&woken["unsettled"], &woken["totals"]["completed"]), (&Value::from(0), &before["completed"]), "{woken}");
    assert_eq!(stack.cli.ok_async(&["credit", "verify"]).await["ok"], Value::Bool(true));
}

#[tokio::test]
async fn a_mass_silence_is_named_with_what_to_look_at() {
    let stack = Stack::start(&["--agents", "2"], &[("MESH_TIME_DIVISOR", "10")]);
    let checked = async || {
        let (cli, args) = (stack.cli.clone(), ["doctor", "--only", "net"]);
        let (_, report) = tokio::task::spawn_blocking(move || cli.json(&args)).await.expect("a report");
        let findings = report["findings"].as_array().expect("findings").clone();
        findings.into_iter().find(|finding| finding["check"] == "silence").unwrap_or_else(|| panic!("{report}"))
    };
    assert_eq!(checked().await["verdict"], "pass");
    let before = stack.cli.ok_async(&["node", "ls"]).await;
    assert!(before["holds_back"].is_null() && before["devices"][0]["last_heard_at"].is_u64(), "{before}");
    let agents = stack.pids("agent");
    agents.iter().for_each(|pid| proc::signal(*pid, "STOP"));
    // The wait for them lasts 6 s here.
    let held = until("the schedulers to hold back", async || {
        let list = stack.cli.ok_async(&["node", "ls"]).await;
        list["holds_back"].is_string().then_some(list)
    })
    .await;
    assert!(held["holds_back"].as_str().expect("words").starts_with("2 of 2 devices fell silent at once: "), "{held}");
    let finding = checked().await;
    assert_eq!((&finding["verdict"], &finding["fix"]), (&Value::from("warn"), &Value::from("mesh node ls")), "{finding}");
    agents.iter().for_each(|pid| proc::signal(*pid, "CONT"));
    until("all to be heard again", async || (checked().await["verdict"] == "pass").then_some(())).await;
}
