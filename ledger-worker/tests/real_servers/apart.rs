//! Rows that are not what the stream made, and a stream that is gone, found under an active worker: nobody writes, each says why and what
//! to do, and all go on once the cause is gone.

use std::time::Duration;

use bus_schemas::ledger::{LedgerReply, Op, VoidReason};
use bus_schemas::subject;

use crate::recoveries::{delete_stream, messages, replace_stream};
use crate::support::{Proc, World, done, free_address, gateway, hold, http, job, said, until};

pub const ALARM: &str = "select alarm from ledger.cursor";

/// Two workers, one of them active.
pub struct Pair {
    addresses: [String; 2],
    pub workers: [Proc; 2],
}
impl Pair {
    pub async fn start(world: &World) -> Self {
        let addresses = [free_address(), free_address()];
        let workers = addresses.each_ref().map(|address| world.worker_at(address));
        world.people().await;
        until("one to stand by", async || workers.iter().any(|worker| worker.says("standing by")).then_some(())).await;
        Self { addresses, workers }
    }
    /// Waits until both say this in `/readyz`.
    pub async fn stopped(&self, named: &str) {
        for address in &self.addresses {
            let mut last = String::new();
            until(&format!("{address} to say: {named}"), async || {
                let (status, body) = http(address, "/readyz").await?;
                let metrics = http(address, "/metrics").await?.1;
                let stopped = metrics.contains("mesh_ledger_stopped 1") && metrics.contains("mesh_ledger_active 0");
                if last != body {
                    println!("{address}: {body}");
                    last.clone_from(&body);
                }
                (status == 503 && body.contains(named) && stopped).then_some(())
            })
            .await;
        }
    }
    pub async fn ready(&self) {
        for address in &self.addresses {
            until("it to be ready", async || (http(address, "/readyz").await?.0 == 200).then_some(())).await;
        }
    }
}

/// Two workers, with four open holds in the stream and in the rows.
pub async fn four_held() -> (World, Pair) {
    let world = World::start().await;
    let pair = Pair::start(&world).await;
    for n in 0..4 {
        assert_eq!(done(&world.ask(vec![hold(n)]).await), 1);
    }
    world.projected().await;
    (world, pair)
}

async fn end(world: &World) -> u64 {
    world.bus.stream_end("LEDGER").await.unwrap().last_seq
}

/// Asks once; nobody answers, and nothing is written.
pub async fn refused_by_silence(world: &World, op: Op) {
    let before = end(world).await;
    let answer: Result<LedgerReply, _> =
        world.bus.ask(subject::LEDGER_DO.into(), &world.request(&gateway(), vec![op]), Duration::from_secs(3)).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(end(world).await, before);
}

#[tokio::test]
async fn rows_that_were_changed_under_the_active_worker_stop_all_until_they_are_put_back() {
    let (world, pair) = four_held().await;
    let client = world.postgres.client().await;
    let void = |n| Op::Void { job: job(n), reason: VoidReason::Cancelled, ended: vec![] };
    let cases = [
        (
            "create table saved as select * from ledger.hold where state = 'open'; delete from ledger.hold where state = 'open'",
            "insert into ledger.hold select * from saved; drop table saved",
            void(0),
            "rows of hold were touched instead of 1",
        ),
        ("update ledger.cursor set seq = seq + 5", "update ledger.cursor set seq = seq - 5", hold(10), "LEDGER ends at"),
        (
            "update ledger.cursor set seq = seq - 1, chain = (select chain from ledger.event e where e.seq = cursor.seq - 1)",
            "update ledger.cursor set seq = seq + 1, chain = (select chain from ledger.event e where e.seq = cursor.seq + 1)",
            hold(11),
            "violates unique constraint",
        ),
        (
            "update ledger.cursor set chain = set_byte(chain, 0, get_byte(chain, 0) # 1)",
            "update ledger.cursor set chain = (select chain from ledger.event e where e.seq = cursor.seq)",
            hold(12),
            "is not that of LEDGER",
        ),
        (
            "create table saved as select * from ledger.cursor; delete from ledger.cursor",
            "insert into ledger.cursor select * from saved; drop table saved",
            hold(13),
            "does not know its place in the stream (next: mesh-ledger rebuild)",
        ),
    ];
    for (n, (change, back, op, named)) in cases.into_iter().enumerate() {
        println!("{change}");
        world.projected().await;
        client.batch_execute(change).await.unwrap();
        // The one that is active stores it, and finds out when it becomes rows.
        assert_eq!(done(&world.ask(vec![op]).await), 1);
        pair.stopped(named).await;
        refused_by_silence(&world, hold(100)).await;
        pair.stopped("(next: mesh-ledger ").await;
        client.batch_execute(back).await.unwrap();
        assert_eq!(done(&world.ask(vec![hold(20 + n as u64)]).await), 1, "it goes on by itself");
        pair.ready().await;
    }
    world.projected().await;
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
}

#[tokio::test]
async fn a_balance_that_was_changed_is_seen_at_the_next_checkpoint_or_by_the_next_worker() {
    let mut world = World::start().await;
    world.divisor = 20;
    let pair = Pair::start(&world).await;
    assert_eq!(done(&world.ask(vec![hold(0), hold(1)]).await), 2);
    world.projected().await;
    let client = world.postgres.client().await;
    let cases = [
        ("update ledger.account set balance = balance + 1000000 where id = 'burn'", "together are 1000000 milli-mana"),
        // Nothing is missing, but somebody holds what another one should.
        (
            "update ledger.account set balance = balance + case when id = 'mint' then -10000 else 10000 end where id in ('mint', 'review')",
            "the rows that it stands for",
        ),
        // All rows fit each other, but not the stream.
        (
            "update ledger.account set balance = balance + case when id = 'mint' then -777 else 777 end where id in ('mint', 'burn')",
            "account burn has 777 milli-mana in the database, the stream makes it 0",
        ),
        // A fact touches it before the next checkpoint.
        (
            "update ledger.account set balance = balance + case when id = 'mint' then -2000 else 1000 end
             where id = 'mint' or id in (select id from ledger.account where id like '%/available' and balance > 0)",
            "the stream makes it 1000000000",
        ),
    ];
    for (n, (change, named)) in cases.iter().enumerate() {
        client.batch_execute(change).await.unwrap();
        assert_eq!(done(&world.ask(vec![hold(10 + n as u64)]).await), 1);
        pair.stopped(named).await;
        refused_by_silence(&world, hold(100)).await;
        pair.stopped("(next: mesh-ledger verify, then mesh-ledger rebuild)").await;
        let alarm = || async { client.query_one(ALARM, &[]).await.unwrap().get::<_, Option<String>>(0) };
        until("the readers to be told", async || alarm().await.filter(|why| why.contains(named))).await;
        let (ok, report) = world.verify();
        assert!(!ok && report["wrong"].to_string().contains("account "), "{report}");
        world.as_owner(&["rebuild"]).unwrap();
        assert_eq!(done(&world.ask(vec![hold(20 + n as u64)]).await), 1);
        pair.ready().await;
        assert_eq!(alarm().await, None);
    }
    // Another worker's alarm that arrives late is taken back as well.
    client.batch_execute("update ledger.cursor set alarm = 'late'").await.unwrap();
    until("it to be taken back", async || client.query_one(ALARM, &[]).await.unwrap().get::<_, Option<String>>(0).is_none().then_some(()))
        .await;
    world.projected().await;
    let (ok, report) = world.verify();
    assert!(ok, "{report}");

    drop(pair);
    client.batch_execute(cases[2].0).await.unwrap();
    let worker = world.worker();
    until("the next worker to see it", async || worker.says(cases[2].1).then_some(())).await;
    refused_by_silence(&world, hold(100)).await;
}

#[tokio::test]
async fn another_stream_of_the_same_length_stops_the_active_worker() {
    let (world, pair) = four_held().await;
    pair.ready().await;
    let right: Vec<Vec<u8>> = messages(&world).await.into_iter().map(|message| message.payload.to_vec()).collect();
    let mut payloads = right.clone();
    let last = payloads.len() - 1;
    payloads.swap(last - 1, last - 2);
    replace_stream(&world, &payloads).await;
    pair.stopped("(next: mesh-ledger ").await;
    refused_by_silence(&world, hold(100)).await;
    // The same messages in the right order are the same books, whenever they were stored.
    replace_stream(&world, &right).await;
    assert_eq!(done(&world.ask(vec![hold(5)]).await), 1);
    pair.ready().await;
    world.projected().await;
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
}

#[tokio::test]
async fn a_stream_that_is_gone_is_said_by_both_even_while_nobody_asks() {
    let world = World::start().await;
    let pair = Pair::start(&world).await;
    assert_eq!(done(&world.ask(vec![hold(0)]).await), 1);
    world.projected().await;
    pair.ready().await;
    delete_stream(&world).await;
    let command = "(next: is the hub up? where LEDGER is gone: mesh-ledger reseed)";
    for address in &pair.addresses {
        until("it to say that LEDGER is gone", async || {
            let (status, body) = http(address, "/readyz").await?;
            (status == 503 && body.contains("\"ledger\":") && body.contains(command)).then_some(())
        })
        .await;
    }
    // Nor does an append change that.
    let answer: Result<LedgerReply, _> =
        world.bus.ask(subject::LEDGER_DO.into(), &world.request(&gateway(), vec![hold(1)]), Duration::from_secs(1)).await;
    assert!(answer.is_err(), "{answer:?}");
    for address in &pair.addresses {
        let (status, body) = http(address, "/readyz").await.unwrap();
        assert!(status == 503 && body.contains(command), "{body}");
    }
    said(&mut world.command(&["reseed"])).unwrap();
    assert_eq!(done(&world.ask(vec![hold(2)]).await), 1);
    pair.ready().await;
    world.projected().await;
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
}
