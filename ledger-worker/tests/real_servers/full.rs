//! A database that really runs out of room, under a worker that is asked for holds.

use std::collections::BTreeMap;

use bus_schemas::ledger::LedgerOutcome;
use bus_schemas::replay::read_facts;
use bus_schemas::{FactId, Verifier};

use crate::recoveries::messages;
use crate::support::{World, free_address, hold, http, signal, small_disks, until};
use crate::{all_there_once, steady};

/// What a cluster takes at first is about half of it.
const DISK_MEGABYTES: u32 = 64;

/// Fills the disk with rows, down to the last page.
async fn fill(world: &World) -> tokio_postgres::Client {
    let client = world.postgres.client().await;
    client.batch_execute("create table ballast (text text); alter table ballast alter text set storage plain").await.unwrap();
    for rows in [4_000, 400, 40, 4, 4] {
        let more = format!("insert into ballast select repeat('x', 2000) from generate_series(1, {rows})");
        let full = until("the disk to be full", async || client.batch_execute(&more).await.err()).await;
        assert_eq!(full.code(), Some(&tokio_postgres::error::SqlState::DISK_FULL), "{full}");
    }
    client
}

/// Asks for holds; each is answered, and the answer kept.
async fn held(world: &World, jobs: std::ops::Range<u64>, told: &mut BTreeMap<FactId, u64>) {
    for n in jobs {
        match &world.ask(vec![hold(n)]).await[..] {
            [LedgerOutcome::Done(done)] => told.insert(done.fact, done.seq),
            other => panic!("job {n}: {other:?}"),
        };
    }
}

/// Every fact that was told stands in LEDGER where it was said to.
async fn told_is_stored(world: &World, told: &BTreeMap<FactId, u64>) {
    let keys = world.document.ledger_keys.iter().copied().collect();
    let mut stored = BTreeMap::new();
    for message in messages(world).await {
        let facts = read_facts(&world.document.network, &keys, &mut Verifier::default(), &message.payload).unwrap_or_default();
        for (fact, _) in facts {
            assert_eq!(stored.insert(fact.id, message.seq), None, "{:?} twice", fact.id);
        }
    }
    for (fact, seq) in told {
        assert_eq!(stored.get(fact), Some(seq), "{fact:?}");
    }
}

async fn not_ready(address: &str) -> String {
    until("it to say that the rows are behind", async || {
        let (status, body) = http(address, "/readyz").await?;
        (status == 503).then_some(body)
    })
    .await
}

#[tokio::test]
async fn a_full_database_costs_no_fact_and_is_caught_up_with_by_itself() {
    if let Err(why) = small_disks() {
        println!("skipped: {why}");
        return;
    }
    let world = World::start_on(Some(DISK_MEGABYTES)).await;
    let addresses = [free_address(), free_address()];
    let mut first = world.worker_at(&addresses[0]);
    world.people().await;
    steady(&world, 0..20, |_| {}).await;
    world.projected().await;

    let client = fill(&world).await;
    let mut told = BTreeMap::new();
    held(&world, 20..60, &mut told).await;
    let why = not_ready(&addresses[0]).await;
    assert!(why.contains("No space left on device") && why.contains("the rows are at sequence"), "{why}");
    held(&world, 60..80, &mut told).await;
    told_is_stored(&world, &told).await;

    // Another one takes over from a database that is full: it can still be read.
    signal(first.pid(), "KILL");
    first.ended().await;
    let second = world.worker_at(&addresses[1]);
    held(&world, 80..100, &mut told).await;
    let why = not_ready(&addresses[1]).await;
    assert!(why.contains("No space left on device"), "{why}");
    told_is_stored(&world, &told).await;

    client.batch_execute("drop table ballast").await.unwrap();
    all_there_once(&world, 100).await;
    until("it to be ready", async || (http(&addresses[1], "/readyz").await?.0 == 200).then_some(())).await;
    assert!(!second.says("stepped down"), "nothing but the rows waited");
}
