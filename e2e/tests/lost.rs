//! A job whose message was taken out of JOBS by hand, while nobody had it in hand: it is found and named, the ledger returns its hold at
//! its end, and then it is ended, so that no state hangs.

use bus::connect::Login;
use serde_json::{Value, json};
use testkit::{Stack, until};

#[tokio::test]
async fn a_job_without_its_message_is_named_and_ended() {
    let stack = Stack::start(&["--agents", "1"], &[("MESH_TIME_DIVISOR", "10")]);
    // A frozen scheduler takes nothing; killed, it forgets what was on its way to it.
    let frozen = stack.pids("scheduler");
    frozen.iter().for_each(|pid| testkit::proc::signal(*pid, "STOP"));
    let options = ["--key", "lost", "--max-wait", "1s", "--run-timeout", "1s", "--max-mana", "7"];
    let submitted = stack.cli.ok(&[&["job", "submit", "echo", "--text", "x"], options.as_slice()].concat());
    let (id, short) = (submitted["id"].as_str().expect("an id"), submitted["short"].as_str().expect("an id"));
    assert_eq!(stack.cli.ok(&["credit", "balance"])["held_mmana"], 7_000);
    let creds = stack.path("/data_dir").join("network/creds/bootstrap.creds");
    let all_rights = stack.connect(&stack.text("/nats/url"), Login::Creds(creds), "_INBOX.bootstrap").await;
    let message =
        all_rights.last_by_subject("JOBS", &format!("mesh.v1.job.normal.{id}")).await.expect("JOBS answers").expect("its message");
    let delete = json!({"seq": message.seq}).to_string();
    let answer = all_rights.client.request("$JS.API.STREAM.MSG.DELETE.JOBS", delete.into()).await.expect("an answer");
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"success\":true"), "{answer:?}");
    frozen.iter().for_each(|pid| testkit::proc::signal(*pid, "KILL"));

    let explained = until("it to be named", async || {
        let explained = stack.cli.ok(&["job", "explain", short]);
        explained["overdue"].is_string().then_some(explained)
    })
    .await;
    let overdue = explained["overdue"].as_str().expect("why");
    assert!(overdue.starts_with("its message in JOBS is gone, so no scheduler can go on with it; its hold is returned at "), "{overdue}");
    let (code, report) = stack.cli.json(&["doctor", "--only", "net"]);
    assert_eq!(code, 10, "{report}");
    assert!(report.to_string().contains(&format!("{short} is overdue: ")), "{report}");
    assert_eq!(stack.cli.ok(&["job", "ls", "--overdue"])["jobs"][0]["id"], id);

    let ended = until("its end", async || {
        let shown = stack.cli.ok(&["job", "show", short]);
        (shown["state"] == "Failed").then_some(shown)
    })
    .await;
    assert_eq!(ended["error"]["code"], "M0517", "{ended}");
    assert_eq!(stack.cli.ok(&["credit", "balance"])["held_mmana"], 0);
    assert_eq!(stack.cli.ok(&["job", "ls", "--overdue"])["jobs"], Value::Array(vec![]));
    let letter = stack.cli.ok(&["dlq", "ls"])["letters"][0].clone();
    assert_eq!((&letter["job"], &letter["error"]["code"]), (&json!(id), &json!("M0517")), "{letter}");
    // What was lost is tried again like any other.
    assert_eq!(stack.cli.ok_async(&["job", "retry", short, "--wait"]).await["state"], "Completed");
}
