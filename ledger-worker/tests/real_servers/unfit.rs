//! A stream that loses facts, is set up to lose them, or takes none: said by the workers, and nothing is acknowledged that may not stay.

use std::process::Stdio;
use std::time::Duration;

use bus::async_nats::jetstream::{self, stream::Config};
use bus_schemas::stream::{KV_LEDGER, LEDGER};

use crate::apart::{ALARM, Pair, four_held, refused_by_silence};
use crate::faults::signal_all;
use crate::recoveries::{delete_stream, replace_stream, some_books};
use crate::support::{HUNG, World, done, free_address, hold, http, said, until};

/// What an operator's `nats stream edit LEDGER` does; the configuration before.
async fn change(world: &World, how: impl FnOnce(&mut Config)) -> Config {
    let context = jetstream::new(world.bus.client.clone());
    let before = context.get_stream(LEDGER).await.unwrap().cached_info().config.clone();
    let mut config = before.clone();
    how(&mut config);
    context.update_stream(config).await.unwrap();
    before
}

/// What to do about a stream that is not as the table says.
const BOOTSTRAP: &str = "(next: mesh-gateway bootstrap streams)";

async fn alarm(world: &World) -> Option<String> {
    world.postgres.client().await.query_one(ALARM, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_stream_that_loses_facts_stops_the_active_worker_and_whoever_follows() {
    type Change = fn(&mut Config);
    let cases: [(u64, &str, Change); 2] = [
        (3, "LEDGER has lost facts: it begins at sequence ", |config| config.max_messages = 3),
        (0, "LEDGER has lost facts: it holds 0 of ", |config| {
            (config.max_age, config.duplicate_window) = (Duration::from_secs(1), Duration::from_secs(1));
        }),
    ];
    for (left, named, how) in cases {
        println!("{left} are left");
        let (world, pair) = four_held().await;
        pair.ready().await;
        let before = change(&world, how).await;
        until("facts to be lost", async || (world.bus.stream_end(LEDGER).await.unwrap().messages == left).then_some(())).await;
        // Set up as it was: what is lost stays lost.
        change(&world, |config| *config = before).await;
        // The one that was active says it in these words; who reads the stream again, how far it comes.
        until("a worker to say it", async || pair.workers.iter().any(|worker| worker.says(named)).then_some(())).await;
        pair.stopped("(next: keep a copy of LEDGER, delete it, mesh-ledger reseed)").await;
        until("the readers to be told", async || alarm(&world).await.filter(|why| why.contains("lost"))).await;
        refused_by_silence(&world, hold(100)).await;
        delete_stream(&world).await;
        said(&mut world.command(&["reseed"])).unwrap();
        assert_eq!(done(&world.ask(vec![hold(4)]).await), 1, "it goes on by itself");
        pair.ready().await;
        world.projected().await;
        let (ok, report) = world.verify();
        assert!(ok, "{report}");
    }
}

#[tokio::test]
async fn a_stream_that_is_set_up_to_lose_facts_stops_all_until_it_is_as_before() {
    let mut world = World::start().await;
    world.divisor = 10;
    let pair = Pair::start(&world).await;
    type Change = fn(&mut Config);
    let cases: [(&str, Change); 3] = [
        ("max_msgs is 1000000 instead of -1", |config| config.max_messages = 1_000_000),
        ("allow_direct", |config| config.allow_direct = false),
        ("subjects", |config| config.subjects = vec!["mesh.v1.ledger.other".into()]),
    ];
    for (n, (named, how)) in (0_u64..).zip(cases) {
        println!("{named}");
        assert_eq!(done(&world.ask(vec![hold(2 * n)]).await), 1);
        world.projected().await;
        pair.ready().await;
        let before = change(&world, how).await;
        pair.stopped(BOOTSTRAP).await;
        refused_by_silence(&world, hold(100)).await;
        until("the readers to be told", async || alarm(&world).await.filter(|why| why.contains(named) && why.contains(BOOTSTRAP))).await;
        // One that begins now says the same.
        let address = free_address();
        let third = world.worker_at(&address);
        until("it to say so", async || {
            let ((status, body), metrics) = (http(&address, "/readyz").await?, http(&address, "/metrics").await?.1);
            let told = ["mesh_ledger_stopped 1", "mesh_ledger_active 0"].into_iter().all(|gauge| metrics.contains(gauge));
            (status == 503 && body.contains(named) && told).then_some(())
        })
        .await;
        drop(third);
        change(&world, |config| *config = before).await;
        assert_eq!(done(&world.ask(vec![hold(2 * n + 1)]).await), 1, "it goes on by itself");
        pair.ready().await;
        until("the alarm to be taken back", async || alarm(&world).await.is_none().then_some(())).await;
    }
}

#[tokio::test]
async fn a_stream_that_refuses_facts_is_said_until_it_takes_one() {
    const NAMED: &str = "the stream refuses facts: ";
    let world = World::start().await;
    let address = free_address();
    let worker = world.worker_at(&address);
    world.people().await;
    assert_eq!(done(&world.ask(vec![hold(0)]).await), 1);
    world.projected().await;
    let mut room = 0;
    change(&world, |config| room = std::mem::replace(&mut config.max_message_size, 100)).await;
    refused_by_silence(&world, hold(1)).await;
    let refuses = async || {
        let ((status, body), metrics) = (http(&address, "/readyz").await?, http(&address, "/metrics").await?.1);
        (status == 503 && body.contains(NAMED) && metrics.contains("mesh_ledger_stopped 1")).then_some(())
    };
    until("it to say so", refuses).await;
    until("the readers to be told", async || alarm(&world).await.filter(|why| why.contains(NAMED))).await;
    // It stays, also while the worker is active again and nobody asks.
    let actives = || worker.log.lock().unwrap().matches("active: this worker writes").count();
    until("it to try again", async || (actives() >= 2).then_some(())).await;
    for _ in 0..30 {
        assert!(refuses().await.is_some(), "{:?}", http(&address, "/readyz").await);
        assert!(alarm(&world).await.is_some());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused_by_silence(&world, hold(2)).await;
    change(&world, |config| config.max_message_size = room).await;
    assert_eq!(done(&world.ask(vec![hold(3)]).await), 1, "it goes on by itself");
    until("it to be ready", async || (http(&address, "/readyz").await?.0 == 200).then_some(())).await;
    assert!(http(&address, "/metrics").await.unwrap().1.contains("mesh_ledger_stopped 0"));
    until("the alarm to be taken back", async || alarm(&world).await.is_none().then_some(())).await;
    world.projected().await;
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
}

#[tokio::test]
async fn who_stands_by_says_nothing_of_rows_that_it_no_longer_writes() {
    let world = World::start().await;
    let address = free_address();
    let _worker = world.worker_at(&address);
    world.people().await;
    world.projected().await;
    signal_all(world.postgres.pid(), "STOP");
    assert_eq!(done(&world.ask(vec![hold(0)]).await), 1);
    until("it to say that the rows are behind", async || {
        let (status, body) = http(&address, "/readyz").await?;
        (status == 503 && body.contains("\"postgres\":")).then_some(())
    })
    .await;
    // Another one takes the lease, and keeps it.
    until("it to be a healthy standby", async || {
        let holder = format!("{{\"instance\":\"stranger\",\"at_ms\":{}}}", bus::hub_time::here_ms());
        world.bus.store(format!("$KV.{KV_LEDGER}.writer"), None, holder.into(), HUNG).await.unwrap();
        let ((status, body), metrics) = (http(&address, "/readyz").await?, http(&address, "/metrics").await?.1);
        let idle = metrics.contains("mesh_ledger_active 0") && metrics.contains("mesh_ledger_projection_behind 0");
        (status == 200 && idle && !body.contains("postgres")).then_some(())
    })
    .await;
    signal_all(world.postgres.pid(), "CONT");
}

#[tokio::test]
async fn a_rebuild_does_not_lose_what_only_the_rows_have() {
    let (world, payloads) = some_books().await;
    let count = async || {
        let row = world.postgres.client().await.query_one("select count(*) from ledger.event", &[]).await.unwrap();
        usize::try_from(row.get::<_, i64>(0)).unwrap()
    };
    replace_stream(&world, &payloads[..3]).await;
    let why = world.as_owner(&["rebuild"]).unwrap_err();
    let said = format!("the database has facts up to sequence {}, LEDGER ends at 3: they would be lost", payloads.len());
    assert!(why.contains(&said) && why.contains("(next: mesh-ledger reseed; or mesh-ledger rebuild --discard-facts)"), "{why}");
    assert_eq!(count().await, payloads.len());
    world.as_owner(&["rebuild", "--discard-facts"]).unwrap();
    assert_eq!(count().await, 3);
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
    // Without rows there is nothing to keep.
    world.postgres.client().await.batch_execute("drop schema ledger cascade").await.unwrap();
    world.as_owner(&["rebuild"]).unwrap();
    assert_eq!(count().await, 3);
}

#[tokio::test]
async fn who_reads_no_further_gets_the_verdict_and_no_backtrace() {
    let (world, _) = some_books().await;
    for output in ["human", "json"] {
        let mut command = world.command(&["verify", "-o", output]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success() && !text.contains("panicked"), "{output}: {}: {text}", ended.status);
    }
}
