//! What was lost or changed, on either side: said by name, and put right by the command that it names.

use std::time::Duration;

use bus::async_nats::jetstream;
use bus::direct::StoredMessage;
use bus_schemas::ledger::{Op, VoidReason};
use bus_schemas::limits::Timings;
use bus_schemas::stream::{self, LEDGER};
use bus_schemas::subject;

use crate::support::{HUNG, World, done, free_address, hold, http, job, said, settlement, signal, until};

pub async fn messages(world: &World) -> Vec<StoredMessage> {
    let mut all: Vec<StoredMessage> = vec![];
    loop {
        let from = all.last().map_or(1, |last| last.seq + 1);
        let more = world.bus.from_seq(LEDGER, from, 64).await.unwrap();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

pub async fn delete_stream(world: &World) {
    jetstream::new(world.bus.client.clone()).delete_stream(LEDGER).await.unwrap();
}

/// Puts another stream in the place of LEDGER.
pub async fn replace_stream(world: &World, payloads: &[Vec<u8>]) {
    delete_stream(world).await;
    let spec = stream::spec(&Timings::default(), LEDGER).unwrap();
    jetstream::new(world.bus.client.clone()).create_stream(bus::streams::config(&spec, 1)).await.unwrap();
    for payload in payloads {
        world.bus.store(subject::LEDGER_FACTS.into(), None, payload.clone().into(), HUNG).await.unwrap();
    }
}

/// A world with a few messages in both places and no worker.
pub async fn some_books() -> (World, Vec<Vec<u8>>) {
    let world = World::start().await;
    let mut worker = world.worker();
    world.people().await;
    for n in 0..6 {
        assert_eq!(done(&world.ask(vec![hold(n)]).await), 1);
    }
    assert_eq!(done(&world.ask_with(&settlement(&world, &[0, 1])).await), 2);
    world.projected().await;
    signal(worker.pid(), "TERM");
    assert!(worker.ended().await.success());
    let payloads = messages(&world).await.into_iter().map(|message| message.payload.to_vec()).collect();
    (world, payloads)
}

async fn same_stream(world: &World, payloads: &[Vec<u8>]) {
    let now = messages(world).await;
    assert!(now.len() >= payloads.len());
    for (n, (message, payload)) in now.iter().zip(payloads).enumerate() {
        assert!(message.seq == n as u64 + 1 && message.payload == *payload, "message {}", n + 1);
    }
}

#[tokio::test]
async fn a_stream_that_lost_facts_gets_them_back_from_the_database() {
    let (world, payloads) = some_books().await;
    delete_stream(&world).await;
    let text = said(&mut world.command(&["reseed"])).unwrap();
    assert!(text.contains("LEDGER was made anew") && text.contains(&format!("{} were stored again", payloads.len())), "{text}");
    same_stream(&world, &payloads).await;
    assert!(world.verify().0);

    // Rolled back under a worker: it says so, and goes on by itself once the facts are there again.
    replace_stream(&world, &payloads[..3]).await;
    let address = free_address();
    let worker = world.worker_at(&address);
    until("it to say why it does not write", async || worker.says("(next: mesh-ledger reseed)").then_some(())).await;
    let (status, body) = http(&address, "/readyz").await.unwrap();
    assert!(status == 503 && body.contains("LEDGER ends at 3"), "{body}");
    assert!(http(&address, "/metrics").await.unwrap().1.contains("mesh_ledger_stopped 1"));
    let text = said(&mut world.command(&["reseed"])).unwrap();
    assert!(text.contains("3 messages were there"), "{text}");
    same_stream(&world, &payloads).await;
    assert_eq!(done(&world.ask(vec![hold(50)]).await), 1);
    world.projected().await;
    assert!(world.verify().0);
    assert!(said(&mut world.command(&["reseed"])).unwrap().contains("0 were stored again"));

    // Under the active one as well: its next append finds out.
    replace_stream(&world, &payloads[..4]).await;
    let refused = world.request(&crate::support::gateway(), vec![hold(51)]);
    let answer: Result<bus_schemas::ledger::LedgerReply, _> =
        world.bus.ask(subject::LEDGER_DO.into(), &refused, Duration::from_secs(2)).await;
    assert!(answer.is_err(), "{answer:?}");
    until("it to stop", async || worker.says("LEDGER ends at 4").then_some(())).await;
    said(&mut world.command(&["reseed"])).unwrap();
    assert_eq!(done(&world.ask(vec![hold(51)]).await), 1);
    drop(worker);

    // A stream with other bytes is not touched.
    let mut other = payloads.clone();
    other[1].push(b' ');
    replace_stream(&world, &other[..4]).await;
    let why = said(&mut world.command(&["reseed"])).unwrap_err();
    assert!(why.contains("sequence 2 in LEDGER is not what the database has"), "{why}");
    assert_eq!(messages(&world).await.len(), 4);
    // Nor is anything stored again from rows that were changed.
    replace_stream(&world, &payloads[..2]).await;
    world.postgres.client().await.batch_execute("update ledger.event set envelope = envelope || 'x' where seq = 4").await.unwrap();
    let why = said(&mut world.command(&["reseed"])).unwrap_err();
    assert!(why.contains("sequence 4 in the database was altered"), "{why}");
    assert_eq!(messages(&world).await.len(), 2);
}

#[tokio::test]
async fn equal_messages_at_two_places_are_stored_again_at_both() {
    let world = World::start().await;
    let worker = world.worker();
    world.people().await;
    for n in 0..3 {
        world.bus.store(subject::LEDGER_FACTS.into(), None, "the same twice".into(), HUNG).await.unwrap();
        assert_eq!(done(&world.ask(vec![hold(n)]).await), 1);
    }
    world.bus.store(subject::LEDGER_FACTS.into(), None, "the same twice".into(), HUNG).await.unwrap();
    assert_eq!(done(&world.ask(vec![hold(3)]).await), 1);
    world.projected().await;
    drop(worker);
    let payloads: Vec<Vec<u8>> = messages(&world).await.into_iter().map(|message| message.payload.to_vec()).collect();
    assert_eq!(payloads.iter().filter(|payload| payload.as_slice() == b"the same twice").count(), 4);
    delete_stream(&world).await;
    let text = said(&mut world.command(&["reseed"])).unwrap();
    assert!(text.contains(&format!("{} were stored again", payloads.len())), "{text}");
    same_stream(&world, &payloads).await;
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
    assert_eq!(report["alarms"].as_array().unwrap().len(), 4, "{report}");
}

#[tokio::test]
async fn rows_that_were_lost_come_back_from_the_stream() {
    let (world, _) = some_books().await;
    let worker = world.worker();
    assert_eq!(done(&world.ask(vec![hold(60)]).await), 1);
    world.projected().await;
    let client = world.postgres.client().await;
    client
        .batch_execute("delete from ledger.leg; update ledger.account set balance = 0; delete from ledger.fact where seq = 4")
        .await
        .unwrap();
    let (ok, report) = world.verify();
    assert!(!ok && report["wrong"].to_string().contains("sequence 4: fact 0 is missing"), "{report}");
    // The worker's role may not; the owner may, while the worker works.
    let why = said(&mut world.command(&["rebuild"])).unwrap_err();
    assert!(why.contains("as the owner"), "{why}");
    let text = world.as_owner(&["rebuild"]).unwrap();
    let digest = world.verify_stream().1["digest"].as_str().unwrap().to_owned();
    assert!(text.contains(&digest), "{text}");
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
    assert_eq!(done(&world.ask(vec![hold(61)]).await), 1);
    world.projected().await;
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
    // Indexes and keys are there again.
    let made = |schema: &str| format!("select count(*) from pg_indexes where schemaname = '{schema}'");
    let rebuilt: i64 = client.query_one(&made("ledger"), &[]).await.unwrap().get(0);
    client.batch_execute("drop schema ledger cascade").await.unwrap();
    world.migrate();
    let fresh: i64 = client.query_one(&made("ledger"), &[]).await.unwrap().get(0);
    assert_eq!(rebuilt, fresh);
    drop(worker);
}

#[tokio::test]
async fn nobody_deletes() {
    let (world, _) = some_books().await;
    for role in ["mesh_ledger", "mesh_owner", "mesh_reader"] {
        let client = world.postgres.client_of(role).await;
        for table in
            ["event", "fact", "leg", "account", "hold", "member", "device", "vesting", "review", "policy", "checkpoint", "merkle", "cursor"]
        {
            client.query(&format!("select * from ledger.{table} limit 1"), &[]).await.unwrap();
            for change in [format!("delete from ledger.{table}"), format!("truncate ledger.{table}")] {
                let error = client.batch_execute(&change).await.unwrap_err().as_db_error().unwrap().message().to_owned();
                assert!(error.contains("permission denied"), "{role}: {change}: {error}");
            }
        }
        if role != "mesh_owner" {
            let change = "update ledger.leg set amount = amount + 1";
            assert!(client.batch_execute(change).await.is_err(), "{role}: {change}");
        }
    }
    let reader = world.postgres.client_of("mesh_reader").await;
    assert!(reader.batch_execute("update ledger.account set balance = 0").await.is_err());
}

#[tokio::test]
async fn a_changed_stream_is_named_by_sequence() {
    let (world, good) = some_books().await;
    type Change = fn(&mut Vec<Vec<u8>>);
    let cases: [(&str, Change); 3] = [
        ("one byte", |all| {
            // Within the body of the fact.
            let at = all[3].len() / 3;
            all[3][at] ^= 1;
        }),
        ("left out", |all| {
            all.remove(3);
        }),
        ("swapped", |all| all.swap(3, 4)),
    ];
    for (what, change) in cases {
        let mut changed = good.clone();
        change(&mut changed);
        replace_stream(&world, &changed).await;
        let (ok, report) = world.verify();
        let first = report["wrong"][0].as_str().unwrap_or_default().to_owned();
        assert!(!ok && first.starts_with("sequence 4:"), "{what}: {report}");
        assert!(report["wrong"].to_string().contains("LEDGER was changed"), "{what}: {report}");
    }
    // Without the database a byte that breaks the signature is an alarm until something contradicts it.
    let mut changed = good.clone();
    let at = changed[3].len() / 3;
    changed[3][at] ^= 1;
    replace_stream(&world, &changed).await;
    let (_, report) = world.verify_stream();
    assert!(report["alarms"][0].as_str().unwrap_or_default().starts_with("sequence 4 counts for nothing"), "{report}");
    // The settlement of a job whose hold was altered away cannot follow.
    let hold = good.iter().position(|message| String::from_utf8_lossy(message).contains(r#"\"kind\":\"hold\""#)).unwrap();
    let mut changed = good.clone();
    let at = changed[hold].len() / 3;
    changed[hold][at] ^= 1;
    replace_stream(&world, &changed).await;
    let (ok, report) = world.verify_stream();
    let first = report["wrong"][0].as_str().unwrap_or_default();
    let seq = hold + 1;
    assert!(!ok && first.starts_with(&format!("sequence {seq}: no valid batch")), "{report}");
    assert!(report["wrong"][1].as_str().unwrap_or_default().contains(&format!("suspicious are first {seq}")), "{report}");

    // In the rows: a byte, a row that is gone, two that changed places.
    replace_stream(&world, &good).await;
    assert!(world.verify().0);
    let client = world.postgres.client().await;
    let changes = [
        ("update ledger.event set envelope = set_byte(envelope, 60, get_byte(envelope, 60) # 1) where seq = 5", "do not lead to its chain"),
        ("delete from ledger.event where seq = 5", "is missing in the database"),
        (
            "update ledger.event e set envelope = o.envelope from ledger.event o where e.seq in (5, 6) and o.seq in (5, 6) and o.seq <> e.seq",
            "do not lead to its chain",
        ),
    ];
    for (change, named) in changes {
        client.batch_execute(&format!("create table saved as select * from ledger.event; {change}")).await.unwrap();
        let (ok, report) = world.verify();
        let first = report["wrong"][0].as_str().unwrap_or_default();
        assert!(!ok && first.starts_with("sequence 5:") && first.contains(named), "{change}: {report}");
        let back = "delete from ledger.event; insert into ledger.event select * from saved; drop table saved";
        client.batch_execute(back).await.unwrap();
    }
    assert!(world.verify().0);
}

#[tokio::test]
async fn rows_of_the_first_version_are_brought_up_to_this_one() {
    let (world, _) = some_books().await;
    let client = world.postgres.client().await;
    client.batch_execute("create schema first; set search_path = first").await.unwrap();
    client.batch_execute(include_str!("../../migrations/V1__ledger.sql")).await.unwrap();
    let copy = "insert into event select * from ledger.event; insert into fact select * from ledger.fact;
        insert into hold select job, member, amount, expires, state, opened_seq, closed_seq, device, attempt, receipt, paid, fee, reason
        from ledger.hold";
    client.batch_execute(copy).await.unwrap();
    client.batch_execute(include_str!("../../migrations/V2__books.sql")).await.unwrap();
    client.batch_execute(include_str!("../../migrations/V3__hold_by_receipt.sql")).await.unwrap();
    for (table, key) in [("merkle", "level, idx"), ("policy", "version"), ("checkpoint", "seq"), ("vesting", "job"), ("review", "job")] {
        let sql = format!(
            "select count(*), count(*) filter (where row(a.*) is distinct from row(b.*)) from first.{table} a full join ledger.{table} b using ({key})"
        );
        let row = client.query_one(&sql, &[]).await.unwrap();
        let (all, other): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(other, 0, "{table}");
        assert!(all > 0 || ["vesting", "review"].contains(&table), "{table} is empty");
    }
    let other = "select count(*) from first.hold a join ledger.hold b using (job) where (a.discount, a.vests_at) is distinct from (b.discount, b.vests_at)";
    assert_eq!(client.query_one(other, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_receipt_is_found_without_reading_every_hold() {
    let (world, _) = some_books().await;
    let client = world.postgres.client().await;
    let many = "set session_replication_role = replica;
        insert into ledger.hold (job, member, amount, expires, state, opened_seq, closed_seq, device, attempt, receipt, paid, fee, discount)
        select '\\x01551220'::bytea || sha256(n::text::bytea), 'mem_x', 10, 0, 'settled', 1, 2, 'dev_x', 'a',
               '\\x01551220'::bytea || sha256(('r' || n)::bytea), 5, 0, 0
        from generate_series(1, 20000) n;
        analyze ledger.hold; set plan_cache_mode = force_generic_plan";
    client.batch_execute(many).await.unwrap();
    // As the gateway asks, for a receipt or for what its id begins with.
    let asked = "select job from ledger.hold where receipt between $1 and $2 order by receipt limit 2";
    client.batch_execute(&format!("prepare asked (bytea, bytea) as {asked}")).await.unwrap();
    let plan = "explain execute asked('\\x0155122000'::bytea, '\\x0155122001'::bytea)";
    let plan: Vec<String> = client.query(plan, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("hold_receipt")), "{plan:#?}");
    let one = "select '\\x01551220'::bytea || sha256('r77'::bytea)";
    let receipt: Vec<u8> = client.query_one(one, &[]).await.unwrap().get(0);
    assert_eq!(client.query(asked, &[&receipt, &receipt]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn holds_are_closed_by_key_also_by_who_began_with_an_empty_table() {
    const JOBS: u64 = 1_500;
    let world = World::start().await;
    let _worker = world.worker();
    world.people().await;
    for first in (0..JOBS).step_by(50) {
        assert_eq!(done(&world.ask((first..first + 50).map(hold).collect()).await), 50);
        // In a transaction of their own, so that they are found again to be closed; often enough that plans are made and kept.
        world.projected().await;
        let void = |n| Op::Void { job: job(n), reason: VoidReason::Cancelled, ended: vec![] };
        assert_eq!(done(&world.ask((first..first + 50).map(void).collect()).await), 50);
    }
    let client = world.postgres.client().await;
    let sql = "select coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where schemaname = 'ledger' and relname = 'hold'";
    // Counted when a connection rests; whole tables are read by nobody but who adds up balances.
    until("the database to have counted what was found by key", async || {
        let fetched: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        (fetched >= i64::try_from(JOBS).unwrap()).then_some(())
    })
    .await;
}
