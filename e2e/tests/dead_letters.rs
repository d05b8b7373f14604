//! What an operator and a member can do from outside: see what failed for good and try it again, let a device drain, and be told what a
//! job waits for and until when.

use serde_json::Value;
use testkit::{Stack, until};

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} of {value}"))
}

#[tokio::test]
async fn what_failed_is_tried_again_and_devices_drain() {
    let stack = Stack::start(&["--agents", "2"], &[("MESH_TIME_DIVISOR", "10")]);
    let devices = stack.cli.ok(&["node", "ls"]);
    let (name, id) = (text(&devices, "/devices/0/name").to_owned(), text(&devices, "/devices/0/id").to_owned());
    let status = || text(&stack.cli.ok(&["node", "show", &name]), "/status").to_owned();

    // Drained: it takes nothing new, says so, and whoever waits for it is told.
    let drained = stack.cli.ok(&["node", "drain", &name, "--reason", "new disk"]);
    assert!(text(&drained, "/status").starts_with("drained, as asked at ") && drained["draining"]["reason"] == "new disk", "{drained}");
    let again = stack.cli.ok(&["node", "drain", &name]);
    assert_eq!(again["draining"], drained["draining"], "asked again it changes nothing");
    let waits = stack.cli.ok(&["job", "submit", "echo", "--text", "later", "--target", &name, "--key", "waits"]);
    let waits = text(&waits, "/short").to_owned();
    let explained = until("the reason", async || {
        let explained = stack.cli.ok(&["job", "explain", &waits]);
        (explained["lease"].is_object() && explained["summary"].as_str()?.contains("drained, as asked at ")).then_some(explained)
    })
    .await;
    let next: Vec<&str> = explained["next"].as_array().expect("next").iter().filter_map(Value::as_str).collect();
    assert!(next[0].starts_with("offered again ") && next[0].ends_with("(0 of 4 attempts used)"), "{next:?}");
    assert!(next[1].starts_with("given up at ") && next[1].contains(" in 24 h"), "{next:?}");
    assert!(explained["summary"].as_str().expect("a summary").contains("new disk"), "{explained}");

    // It outlives the gateway.
    for pid in stack.pids("gateway") {
        testkit::proc::signal(pid, "KILL");
    }
    until("a gateway again", async || {
        let (code, shown) = stack.cli.json(&["node", "show", &name]);
        (code == 0 && shown["status"].as_str()?.starts_with("drained, as asked at ")).then_some(())
    })
    .await;

    // What nobody takes in time fails for good, with a letter; the device takes work again, and so does the letter's job.
    let failed = stack.cli.run(&["job", "run", "echo", "--text", "again", "--target", &name, "--max-wait", "1s", "--key", "fails"]);
    assert_eq!(failed.status.code(), Some(4), "{}", String::from_utf8_lossy(&failed.stderr));
    let letter = until("its letter", async || {
        let list = stack.cli.ok(&["dlq", "ls"]);
        list["letters"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!((text(&letter, "/stage"), text(&letter, "/error/code")), ("failed", "M0512"), "{letter}");
    assert_eq!(stack.cli.ok(&["dlq", "ls", "--all"])["letters"][0], letter, "the operator sees it too");
    stack.cli.ok(&["node", "drain", &name, "--undo"]);
    until("it to take work", async || (status() == "idle").then_some(())).await;
    assert_eq!(stack.cli.ok_async(&["job", "wait", &waits]).await["receipt"]["device"], id.as_str(), "a changed device wakes what waits");
    let short = text(&letter, "/short").to_owned();
    let retried = stack.cli.ok(&["dlq", "retry", &short]);
    let job = text(&retried, "/retried/job").to_owned();
    assert_eq!(stack.cli.ok_async(&["job", "wait", &job]).await["state"], "Completed");
    assert_eq!(stack.cli.ok(&["dlq", "retry", &short])["retried"]["job"], job.as_str());
    let shown = stack.cli.ok(&["job", "show", &job]);
    assert_eq!(shown["retry_of"], letter["job"], "{shown}");

    // Put away, it is seen no more.
    assert_eq!(stack.cli.ok(&["dlq", "drop", &short])["dropped"]["by"], "operator");
    assert_eq!(stack.cli.ok(&["dlq", "ls", "--all"])["letters"], Value::Array(vec![]));
    let (code, none) = stack.cli.json(&["dlq", "show", "dlq_aaaaaaaa"]);
    assert_eq!((code, &none["code"]), (9, &Value::from("M0515")), "{none}");
}
