//! A stranger replays the ledger: `examples/replay.py`, with auditor's credentials and nothing of ours, comes to the same books.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bus::connect::Login;
use bus_schemas::subject;
use e2e::foreign::BLOCKS;
use e2e::{books, doors};
use serde_json::json;
use testkit::raw::Raw;
use testkit::{Stack, until};

#[tokio::test]
async fn a_stranger_comes_to_the_same_books() {
    let stack = Stack::start(&["--agents", "2"], &[]);
    for n in 0..20 {
        doors::http(&stack, &doors::echo(&format!("number {n}")), &format!("stranger-{n}")).await;
    }
    // Some credit stays on hold, so that the digest covers open holds as well.
    let nobody_can = json!({"kind": "echo", "text": "x", "required_resources": {"gpu_mb": 999_999}});
    let (status, answer) = doors::post(&stack, &nobody_can.to_string(), Some("stranger-waits")).await;
    assert_eq!(status, 202, "{answer}");
    let auditor = stack.auditor().await;
    until("one open hold and a checkpoint", || async {
        let replayed = books::replay(&stack, &auditor).await;
        (replayed.open_holds() == 1 && replayed.books.checkpoint().is_some()).then_some(())
    })
    .await;

    // Somebody who may publish where the ledger does, without its key: nothing of it moves anything.
    let creds = stack.path("/data_dir").join("network/creds/ledger.creds");
    let intruder = stack.connect(&stack.text("/nats/url"), Login::Creds(creds.clone()), "_INBOX.ledger").await;
    let copied = auditor.from_seq("LEDGER", 2, 1).await.expect("LEDGER can be read").remove(0).payload;
    for bytes in [copied, "not a fact".into()] {
        intruder.store(subject::LEDGER_FACTS.into(), None, bytes, Duration::from_secs(5)).await.expect("stored");
    }
    let mut raw = Raw::connect(&stack.text("/nats/url"), Some(&creds)).await;
    for block in BLOCKS {
        raw.publish(subject::LEDGER_FACTS, None, block, b"x").await;
    }
    let foreign = 2 + BLOCKS.len();
    doors::http(&stack, &doors::echo("the books go on"), "stranger-after").await;

    // A fact may come between the two readings; then they are repeated.
    let (ours, theirs) = until("both to end at the same sequence", || async {
        let ours = books::replay_with_foreign(&stack, &auditor).await;
        let (theirs, alarms) = by_script(&stack);
        assert!(ours.foreign.len() == foreign && ours.foreign[0] == "a copy of sequence 2", "{:?}", ours.foreign);
        assert!(alarms.len() == foreign && alarms[0].contains("a copy of a message before it"), "{alarms:?}");
        (theirs["seq"] == ours.books.seq().to_string()).then_some((ours.books, theirs))
    })
    .await;
    let state = ours.state().expect("a stream with messages");
    assert_eq!(theirs["chain"], state.chain.to_string());
    assert_eq!(theirs["root"], state.root.to_string());
    assert_eq!(theirs["digest"], state.state.to_string());
    assert_eq!(theirs["facts"], ours.fact_count().to_string());
    assert_eq!(theirs["open_holds"], "1");
    assert_eq!(theirs["sum"], "0");
    assert_ne!(theirs["checkpoints"], "0");
    for (account, balance) in ours.balances() {
        assert_eq!(theirs[&account.to_string()], balance.to_string(), "{account}");
    }
}

/// What the script prints, by name, and its alarms. The network document comes over HTTP, as a stranger would get it.
fn by_script(stack: &Stack) -> (BTreeMap<String, String>, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = Command::new(root.join("scripts/replay_venv.sh")).output().expect("scripts/replay_venv.sh runs");
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let python = String::from_utf8(python.stdout).expect("a path");
    let output = Command::new(python.trim())
        .arg(root.join("examples/replay.py"))
        .arg(stack.text("/nats/url"))
        .arg(stack.path("/auditor/creds"))
        .arg(stack.api("/api/v1/network"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python runs");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{wrong}");
    let alarms = wrong.lines().filter(|line| line.starts_with("alarm:")).map(str::to_owned).collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // A balance stands before its account, a number after its name.
    let named = |line: &str| match words(line).as_slice() {
        [first, second] if first.parse::<i64>().is_ok() => Some((second.clone(), first.clone())),
        [first, second] => Some((first.clone(), second.clone())),
        _ => None,
    };
    (said.lines().filter_map(named).collect(), alarms)
}
