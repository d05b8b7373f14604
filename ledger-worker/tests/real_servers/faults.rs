//! Postgres stopped, stopped dead, or read-only; and a worker that dies at any step.

use crate::support::{World, done, free_address, hold, http, signal, until};
use crate::{all_there_once, steady};

/// A server with all its processes.
pub fn signal_all(pid: u32, name: &str) {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()).chain([pid]) {
        signal(child, name);
    }
}

#[tokio::test]
async fn a_database_that_hangs_or_refuses_stops_no_fact() {
    let world = World::start().await;
    let address = free_address();
    let _worker = world.worker_at(&address);
    world.people().await;
    world.projected().await;

    signal_all(world.postgres.pid(), "STOP");
    steady(&world, 0..20, |_| {}).await;
    let why = until("it to say that the rows are behind", async || {
        let (status, body) = http(&address, "/readyz").await?;
        (status == 503).then_some(body)
    })
    .await;
    signal_all(world.postgres.pid(), "CONT");
    assert!(why.contains("does not answer") && why.contains("the rows are at sequence"), "{why}");
    all_there_once(&world, 20).await;
    until("it to be ready", async || (http(&address, "/readyz").await?.0 == 200).then_some(())).await;

    let client = world.postgres.client().await;
    let set = |how: &str| format!("alter system set default_transaction_read_only = {how}");
    client.batch_execute(&set("on")).await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    steady(&world, 20..40, |_| {}).await;
    let why = until("it to say that it may not write", async || {
        let (status, body) = http(&address, "/readyz").await?;
        (status == 503).then_some(body)
    })
    .await;
    assert!(why.contains("read-only"), "{why}");
    client.batch_execute("set default_transaction_read_only = off").await.unwrap();
    client.batch_execute(&set("off")).await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    all_there_once(&world, 40).await;
    until("it to be ready", async || (http(&address, "/readyz").await?.0 == 200).then_some(())).await;
}

#[tokio::test]
async fn a_worker_may_die_at_any_step() {
    let world = World::start().await;
    let first = world.worker();
    world.people().await;
    drop(first);
    let mut jobs = 0_u64;
    for point in ["before_append", "after_append", "before_commit", "after_commit", "before_reply", "after_reply"] {
        let mut dying = world.worker_with(&[("MESH_CRASH_AT", &format!("ledger.{point}"))]);
        until("it to write, or to die of it", async || {
            (dying.says("active: this worker writes") || dying.child.try_wait().unwrap().is_some()).then_some(())
        })
        .await;
        let standby = world.worker();
        // Each is asked until it is answered: by the one that dies, or by the next.
        loop {
            let outcomes = world.ask(vec![hold(jobs)]).await;
            assert_eq!(done(&outcomes), 1, "{point}: {outcomes:?}");
            jobs += 1;
            if dying.child.try_wait().unwrap().is_some() {
                break;
            }
            assert!(jobs < 5_000, "{point} was never reached");
        }
        assert!(!dying.ended().await.success() && dying.says("dying here"), "{point}");
        all_there_once(&world, jobs).await;
        drop(standby);
    }
}
