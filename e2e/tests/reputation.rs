//! Reputation on real servers: results raise it, the list of devices shows it, and `min_executor_reputation` filters by it.

use e2e::doors;
use serde_json::json;
use testkit::{Stack, until};

#[tokio::test]
async fn results_earn_reputation_and_a_job_may_ask_for_it() {
    let mut stack = Stack::start(&["--agents", "1"], &[]);
    let device = stack.text("/devices/0/id");
    for n in 0..3 {
        doors::http(&stack, &doors::echo("work"), &format!("rep-{n}")).await;
    }
    let shown = until("a reputation of 53", || async {
        let (_, list) = doors::get(&stack, "/devices").await;
        list["devices"].as_array()?.iter().find(|one| one["id"] == device.as_str() && one["reputation"] == 53).cloned()
    })
    .await;
    assert_eq!(shown["reputation"], 53);

    let mut asks = doors::echo("only for the trusted");
    asks["min_executor_reputation"] = json!(53);
    assert_eq!(doors::http(&stack, &asks, "rep-enough").await["state"], "Completed");
    asks["min_executor_reputation"] = json!(90);
    let (status, waiting) = doors::post(&stack, &asks.to_string(), Some("rep-too-much")).await;
    assert_eq!(status, 202, "{waiting}");
    assert!(waiting.to_string().contains("is below 90"), "{waiting}");
    stack.stop();
}
