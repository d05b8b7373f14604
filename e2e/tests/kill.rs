//! Kill -9 at work: 500 mixed jobs complete, each settled once, whatever dies.

use std::collections::BTreeSet;

use bus_schemas::JobId;
use e2e::{books, doors};
use futures::StreamExt;
use serde_json::{Value, json};
use testkit::{HUNG, Stack, proc, until};

#[tokio::test]
async fn five_hundred_jobs_then_the_same_with_kills() {
    let stack = Stack::start(&["--agents", "3", "--schedulers", "2", "--ledgers", "2"], &[("MESH_TIME_DIVISOR", "4")]);
    let calm = submit(&stack, "calm").await;
    complete(&stack, &calm).await;

    let member = stack.member().await;
    let told = stack.text("/member/id");
    let mut results = member.client.subscribe(format!("mesh.v1.watch.{told}.*.result")).await.expect("a subscription");
    member.client.flush().await.expect("a flush");
    let stormy = submit(&stack, "stormy").await;
    // Midway: some are done, most are not.
    let mut done = 0;
    while done < 50 {
        tokio::time::timeout(HUNG, results.next()).await.expect("hung: no results").expect("a message");
        done += 1;
    }
    let (writer, ledger) = stack.active_ledger().await;
    for pid in [stack.pids("scheduler")[0], ledger, stack.pids("agent")[0]] {
        proc::signal(pid, "KILL");
    }
    complete(&stack, &stormy).await;

    let auditor = stack.auditor().await;
    until("no open hold", || async { (books::replay(&stack, &auditor).await.open_holds() == 0).then_some(()) }).await;
    let replayed = books::replay(&stack, &auditor).await;
    for job in calm.iter().chain(&stormy) {
        assert_eq!(replayed.settlements(job), 1, "{job} is settled once");
    }
    assert_eq!(replayed.books.total(), 0, "the books balance");
    let report = stack.cli.ok_async(&["credit", "verify"]).await;
    assert_eq!((&report["ok"], report["digest"].as_str()), (&Value::Bool(true), Some(books::hex(&replayed.books.digest()).as_str())));
    for (role, what) in [("scheduler", "restarted"), ("ledger", "restarted"), ("agent", "exited")] {
        let told = stack.events().into_iter().find(|event| event["role"] == role && event["event"] == what);
        let told = told.unwrap_or_else(|| panic!("the death of a {role} is not reported: {:?}", stack.events()));
        assert!(role != "ledger" || told["name"] == writer.as_str(), "the one that wrote died: {told}");
    }
}

/// 450 echo and 50 embed jobs in 10 submissions of 50; their ids.
async fn submit(stack: &Stack, name: &str) -> BTreeSet<JobId> {
    let mut ids = BTreeSet::new();
    for part in 0..10 {
        let jobs: Vec<Value> = (0..50)
            .map(|n| match n % 10 {
                0 => json!({"kind": "embed", "text": [format!("{name} {part} {n}"), "another sentence of this job"]}),
                _ => doors::echo(&format!("{name} {part} {n}")),
            })
            .collect();
        let (status, answers) = doors::post(stack, &Value::Array(jobs).to_string(), Some(&format!("{name}-{part}"))).await;
        assert!(matches!(status, 200 | 202), "{answers}");
        ids.extend(
            answers
                .as_array()
                .expect("a list")
                .iter()
                .map(|answer| answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).parse::<JobId>().expect("a CID")),
        );
    }
    assert_eq!(ids.len(), 500);
    ids
}

/// Waits until every job is settled, as the books tell.
async fn complete(stack: &Stack, jobs: &BTreeSet<JobId>) {
    let auditor = stack.auditor().await;
    until("every job to be settled", || async {
        let replayed = books::replay(stack, &auditor).await;
        jobs.iter().all(|job| replayed.is_settled(job)).then_some(())
    })
    .await;
}
