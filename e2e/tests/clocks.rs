//! Clocks that are five minutes wrong, in both directions, and one that is set back while its program runs: jobs complete and are paid
//! right, nothing expires early, and the time of facts never falls.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus_schemas::JobId;
use bus_schemas::ledger::{Fact, What};
use e2e::{books, doors};
use serde_json::{Value, json};
use testkit::{Stack, until};

const WRONG_MS: i64 = 300_000;

/// How wrong each program's clock is; `mesh dev` itself is right.
struct Clocks {
    folder: tempfile::TempDir,
}
impl Clocks {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }
    fn path(&self) -> PathBuf {
        self.folder.path().join("clocks")
    }
    fn set(&self, clocks: &[(&str, i64)]) {
        let text: String = clocks.iter().map(|(program, ms)| format!("{program} {ms}\n")).collect();
        // Replaced as a whole: programs read it all the time.
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).expect("a file");
        std::fs::rename(new, self.path()).expect("a file");
    }
}

async fn completes(stack: &Stack, text: &str, key: &str) -> JobId {
    let job = json!({"kind": "echo", "text": text, "max_execution_wait_ms": 30_000, "timeout_ms": 30_000});
    let (status, answer) = doors::post(stack, &job.to_string(), Some(key)).await;
    assert!(matches!(status, 200 | 202), "{answer}");
    let id = answer["id"].as_str().expect("an id").to_owned();
    let view = doors::result_of(stack, &id).await;
    assert_eq!(view["result"]["text"], text, "{view}");
    id.parse().expect("a job id")
}

#[tokio::test]
async fn wrong_clocks_break_no_promise() {
    let clocks = Clocks::new();
    let wrong = [("agent", WRONG_MS), ("mesh-scheduler", WRONG_MS), ("mesh-ledger", -WRONG_MS), ("mesh-gateway", WRONG_MS)];
    clocks.set(&wrong);
    let file = clocks.path().display().to_string();
    let stack = Stack::start(&["--agents", "1", "--ledgers", "2"], &[("MESH_CLOCK_FILE", &file)]);
    let mut jobs = vec![completes(&stack, "all are wrong", "a").await];

    // The command line of a machine that is five minutes behind signs by the hub's clock what goes over a connection …
    clocks.set(&[&wrong[..], &[("mesh", -WRONG_MS)]].concat());
    let mesh = |args: &[&str]| {
        let output = stack.cli.command(&[args, &["-o", "json"]].concat()).env("MESH_CLOCK_FILE", &file).output().expect("mesh runs");
        let text = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout }).into_owned();
        (output.status.code(), serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text)))
    };
    let me = stack.text("/member/id");
    for args in [
        &["dlq", "ls", "--all"][..],
        &["credit", "grant", &me, "1", "--reason", "a wrong clock", "--key", "wrong-clock"],
        &["credit", "balance"],
    ] {
        let (code, said) = mesh(args);
        assert_eq!(code, Some(0), "mesh {args:?}: {said}");
    }
    // … and is told by doctor.
    let (_, doctor) = mesh(&["doctor", "--only", "net"]);
    let findings = doctor["findings"].as_array().cloned().unwrap_or_default();
    let clock = findings.iter().find(|finding| finding["check"] == "clock").unwrap_or_else(|| panic!("{doctor}"));
    assert_eq!((&clock["verdict"], clock["fix"].as_str()), (&json!("fail"), Some("timedatectl set-ntp true")), "{clock}");
    assert!(clock["detail"].as_str().is_some_and(|detail| detail.contains("behind the network's")), "{clock}");

    // A ledger-worker's clock goes back by an hour while it writes; the scheduler's and the device's leap.
    for (step, ledger, others) in [("back", -3_900_000, WRONG_MS), ("forward", WRONG_MS, -WRONG_MS)] {
        clocks.set(&[("mesh-ledger", ledger), ("mesh-scheduler", others), ("agent", others), ("mesh-gateway", others)]);
        for n in 0..5 {
            jobs.push(completes(&stack, &format!("{step} {n}"), &format!("{step}-{n}")).await);
        }
    }

    let auditor = stack.auditor().await;
    let replayed = until("all settlements", || async {
        let replayed = books::replay(&stack, &auditor).await;
        (jobs.iter().all(|job| replayed.settlements(job) == 1) && replayed.open_holds() == 0).then_some(replayed)
    })
    .await;
    let times: Vec<u64> = replayed.facts.iter().map(|fact: &Fact| fact.at_ms).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "the time of facts falls: {times:?}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
    let near = |at: &u64| Duration::from_millis(*at).abs_diff(now) < Duration::from_secs(120);
    assert!(times.iter().all(near), "facts are timed by the hub's clock: {times:?}, it is {now:?}");
    for fact in &replayed.facts {
        assert!(!matches!(fact.what, What::Void { .. }), "ended early: {fact:?}");
        if let What::Settle { billed_ms, .. } = &fact.what {
            assert!(*billed_ms < 5_000, "paid for the error of a clock: {fact:?}");
        }
    }
    println!(
        "{} jobs completed and were paid once each; {} facts, their times span {} ms",
        jobs.len(),
        times.len(),
        times[times.len() - 1] - times[0]
    );
}
