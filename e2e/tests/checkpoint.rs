//! A long job outlives its device, and so does what was computed: the next one goes on behind the last part that was kept.

use bus_schemas::api::PartialResult;
use bus_schemas::event::Checkpoint;
use e2e::doors;
use futures::StreamExt;
use serde_json::{Value, json};
use testkit::{HUNG, Stack, proc, until};

const TEXTS: usize = 10_000;
/// What is kept together (`agent/src/executor/embed.rs`).
const CHUNK: u64 = 512;

fn text(n: usize) -> String {
    format!("boat {n} and tree {}", n * 7)
}

#[tokio::test]
async fn of_ten_thousand_texts_at_most_one_chunk_is_computed_twice() {
    let stack = Stack::start(&["--agents", "2"], &[("MESH_TIME_DIVISOR", "4")]);
    let file = stack.folder().join("texts.txt");
    std::fs::write(&file, (0..TEXTS).map(|n| text(n) + "\n").collect::<String>()).expect("a file");
    let member = stack.member().await;
    let who = stack.text("/member/id");
    let mut parts = member.client.subscribe(format!("mesh.v1.watch.{who}.*.out")).await.expect("a member may watch");
    let mut progress = member.client.subscribe(format!("mesh.v1.watch.{who}.*.progress")).await.expect("a member may watch");
    member.client.flush().await.expect("the hub answers");
    let path = file.to_str().expect("a path");
    let job = stack.cli.ok_async(&["job", "submit", "embed", "--file", path, "--max-mana", "1000", "--run-timeout", "10m"]).await;
    let id = job["id"].as_str().expect("an id").to_owned();

    // Killed at 40 %, with what it had told by then.
    let mut told = 0;
    while told < 4_000 {
        let message = tokio::time::timeout(HUNG, progress.next()).await.expect("hung: no progress").expect("the subscription lives");
        let seen: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let done = seen["message"].as_str().and_then(|words| words.split(' ').next()?.parse::<u64>().ok());
        told = done.unwrap_or(told);
    }
    let (_, shown) = doors::get(&stack, &format!("/jobs/{id}")).await;
    let device = shown["device"].as_str().expect("a device").to_owned();
    let devices = stack.ready["devices"].as_array().expect("devices").clone();
    let name = devices.iter().find(|one| one["id"] == device.as_str()).expect("the device")["name"].clone();
    let agents = stack.ready["processes"].as_array().expect("processes").clone();
    let agent = agents.iter().find(|one| one["role"] == "agent" && one["name"] == name).expect("its agent")["pid"].as_u64();
    proc::signal(u32::try_from(agent.expect("a pid")).expect("a pid"), "KILL");
    println!("{name} was killed when it had told of {told} texts");

    // What was kept can be read by the member while the job goes on.
    let first = tokio::time::timeout(HUNG, parts.next()).await.expect("hung: nothing was kept").expect("the subscription lives");
    let first: Checkpoint = serde_json::from_slice(&first.payload).expect("a checkpoint");
    let (status, part) = doors::get(&stack, &format!("/blobs/{}", first.cid)).await;
    let part: PartialResult = serde_json::from_value(part).expect("a part of a result");
    assert_eq!((status, part.from, part.vectors.len(), first.units), (200, 0, 512, 512));

    let ended = stack.cli.ok_async(&["job", "wait", &id, "--timeout", "5m"]).await;
    assert_eq!(ended["state"], "Completed", "{ended}");
    let explained = stack.cli.ok_async(&["job", "explain", &id]).await;
    let kept = explained["attempts"][0]["kept_units"].as_u64().expect("what was kept of the first attempt");
    println!("{kept} texts were kept, so {} of those it told of were computed twice", told.saturating_sub(kept));
    assert!(kept + CHUNK >= told && kept % CHUNK == 0, "of {told} texts only {kept} were kept");
    let said = stack.cli.run(&["job", "explain", &id, "-o", "human"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("{kept} texts kept, the next one goes on behind them")), "{said}");

    // The whole of it, as if nothing had happened.
    let (_, result) = doors::get(&stack, &format!("/jobs/{id}/result")).await;
    let vectors = doors::vectors(&stack, &result).await;
    assert_eq!(vectors.len(), TEXTS);
    let probes = [0, 511, 512, usize::try_from(kept).expect("small") - 1, usize::try_from(kept).expect("small"), TEXTS - 1];
    let texts: Vec<String> = probes.iter().map(|n| text(*n)).collect();
    let view = doors::http(&stack, &json!({"kind": "embed", "text": texts}), "probes").await;
    for (n, alone) in probes.iter().zip(doors::vectors(&stack, &view).await) {
        assert!(doors::cosine(&vectors[*n], &alone) > 0.9999, "text {n} has another vector");
    }
    let (_, receipt) = doors::get(&stack, &format!("/jobs/{id}/receipt")).await;
    assert_ne!(receipt["device"], device.as_str());
    until("no open hold", || async { (stack.cli.ok_async(&["credit", "balance"]).await["held_mmana"] == 0).then_some(()) }).await;
    assert_eq!(stack.cli.ok_async(&["credit", "verify"]).await["ok"], true);
}
