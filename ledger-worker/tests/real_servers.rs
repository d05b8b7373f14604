//! The worker as a program, on a real nats-server and a real Postgres.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // A test stops at the first surprise.

#[path = "real_servers/apart.rs"]
mod apart;
#[path = "real_servers/checkpoints.rs"]
mod checkpoints;
#[path = "real_servers/faults.rs"]
mod faults;
#[path = "real_servers/full.rs"]
mod full;
#[path = "real_servers/memory.rs"]
mod memory;
#[path = "real_servers/recoveries.rs"]
mod recoveries;
mod support;
#[path = "real_servers/turns.rs"]
mod turns;
#[path = "real_servers/unfit.rs"]
mod unfit;

use std::time::{Duration, Instant};

use bus_schemas::ledger::{HoldState, LedgerOutcome, Op, RefusalKind, VoidReason};
use bus_schemas::{Code, subject};
use support::{World, done, free_address, gateway, hold, http, job, member, settlement, signal, until};

type Rows = Vec<(String, i64)>;

async fn balances(world: &World) -> Rows {
    let client = world.postgres.client().await;
    let rows = client.query("select id, balance from ledger.account where balance <> 0 order by id", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn from_a_hold_to_rows_and_back() {
    let world = World::start().await;
    let mut worker = world.worker();
    world.people().await;

    let outcomes = world.ask((0..10).map(hold).collect()).await;
    assert_eq!(done(&outcomes), 10, "{outcomes:?}");
    assert_eq!(done(&world.ask_with(&settlement(&world, &[0, 1, 2])).await), 3);
    assert_eq!(done(&world.ask_with(&settlement(&world, &[0, 1, 2])).await), 0, "a second receipt of a settled job earns nothing");
    world.ask(vec![Op::Void { job: job(3), reason: VoidReason::Cancelled, ended: vec![] }]).await;
    match &world.ask(vec![Op::Look { job: job(0) }]).await[..] {
        [LedgerOutcome::Done(done)] => {
            let hold = done.hold.as_ref().unwrap();
            assert!(matches!(&hold.state, HoldState::Settled { paid_mmana, .. } if paid_mmana.get() == 2000), "{hold:?}");
        }
        other => panic!("{other:?}"),
    }

    world.projected().await;
    let rows = balances(&world).await;
    let (a, b) = (member(0).public().member_id(), member(1).public().member_id());
    let grant = 1_000_000_000_i64;
    let mut expected = vec![
        (format!("{a}/available"), grant - 60_000 - 6_000),
        (format!("{a}/held"), 60_000),
        (format!("{b}/available"), grant + 6_000),
        ("mint".to_owned(), -2 * grant),
    ];
    expected.sort();
    assert_eq!(rows, expected);
    let (ok, report) = world.verify();
    assert!(ok && report["ok"] == true, "{report}");
    assert_eq!(report["digest"], report["database_digest"]);
    assert_eq!((&report["total_mmana"], &report["open_holds"]), (&0.into(), &6.into()));

    // Stopped in order; then the rows are lost, and all come back.
    signal(worker.pid(), "TERM");
    assert!(worker.ended().await.success());
    let client = world.postgres.client().await;
    client.batch_execute("drop schema ledger cascade").await.unwrap();
    world.migrate();
    let worker = world.worker();
    world.projected().await;
    assert_eq!(balances(&world).await, expected);
    let (ok, again) = world.verify();
    assert!(ok, "{again}");
    assert_eq!(again["digest"], report["digest"]);
    drop(worker);

    // Whatever is changed behind its back is found and named.
    let client = world.postgres.client().await;
    let seq: i64 = client.query_one("select min(seq) from ledger.fact where kind = 'hold'", &[]).await.unwrap().get(0);
    let changes = [
        ("update ledger.account set balance = balance + 1 where id = 'mint'", "account mint"),
        ("update ledger.event set envelope = set_byte(envelope, 40, 65) where seq = N", "sequence N: the message"),
        (
            "update ledger.event set facts = facts - 1 where seq = N",
            "its bytes are the same, but not its number of facts: the database was",
        ),
        ("delete from ledger.leg where seq = N and i = 2 and n = 0", "sequence N: leg 0 of fact 2 is missing"),
        ("update ledger.hold set expires = expires + 1 where state = 'voided'", "hold of job bafkrei"),
        ("insert into ledger.member (id, did, seq) values ('mem_x', 'did', 2)", "sequence 2: mem_x is in the database but not"),
        ("update ledger.fact set body = replace(body, 'hold', 'void') where seq = N and i = 1", "sequence N: fact 1 is another"),
        (
            "update ledger.merkle set hash = set_byte(hash, 0, get_byte(hash, 0) # 1) where level = 0 and idx = 0",
            "sequence 1: the tree at level 0",
        ),
        ("update ledger.policy set rules = '{}'", "sequence 1: policy 1"),
    ];
    let changes = changes.map(|(change, named)| (change.replace('N', &seq.to_string()), named.replace('N', &seq.to_string())));
    for (change, named) in changes {
        let client = world.postgres.client().await;
        let table = change.split_whitespace().find(|word| word.starts_with("ledger.")).unwrap();
        client.batch_execute(&format!("create table saved as select * from {table}; {change}")).await.unwrap();
        let (ok, report) = world.verify();
        let wrong = report["wrong"].to_string();
        assert!(!ok && report["ok"] == false && wrong.contains(&named), "{change}: {wrong}");
        assert!(!wrong.contains("LEDGER was changed"), "{change}: {wrong}");
        let back = format!(
            "set session_replication_role = replica; delete from {table}; insert into {table} select * from saved; drop table saved"
        );
        client.batch_execute(&back).await.unwrap();
        assert!(world.verify().0, "{change}: put back");
    }
}

#[tokio::test]
async fn what_is_no_request_changes_nothing() {
    let world = World::start().await;
    let worker = world.worker();
    world.people().await;
    let before = beside_checkpoints(&world).await;
    for garbage in [&b""[..], b"{}", b"\x80", &[0xc1; 2000]] {
        world.bus.client.publish_with_reply(subject::LEDGER_DO, "_INBOX.test.x", garbage.to_vec().into()).await.unwrap();
    }
    // A reply subject that is no inbox would store the ledger's answer among the facts.
    let good = bus_schemas::envelope::encode(&world.request(&gateway(), vec![hold(1)]));
    world.bus.client.publish_with_reply(subject::LEDGER_DO, subject::LEDGER_FACTS, good.clone().into()).await.unwrap();
    world.bus.client.publish(subject::LEDGER_DO, good.into()).await.unwrap();
    let mut forged = world.request(&gateway(), vec![hold(1), hold(2)]);
    forged.commands.s[5] ^= 1;
    let refused = world.ask_with(&forged).await;
    assert_eq!(refused.len(), 2);
    for outcome in refused {
        assert!(matches!(outcome, LedgerOutcome::Refused { why: RefusalKind::NotAllowed, code: Code::BadSignature, .. }), "{outcome:?}");
    }
    let stranger = world.ask_with(&world.request(&member(0), vec![hold(1)])).await;
    assert!(matches!(stranger[..], [LedgerOutcome::Refused { code: Code::Forbidden, .. }]), "{stranger:?}");
    assert_eq!(beside_checkpoints(&world).await, before);

    // Bytes of a stranger in LEDGER count for nothing, and the writer goes on behind them.
    world.bus.store(subject::LEDGER_FACTS.into(), None, "not a fact".into(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(done(&world.ask(vec![hold(1)]).await), 1);
    assert!(!worker.says("stepped down") && worker.says("no valid batch of a ledger key"));
    assert_eq!(beside_checkpoints(&world).await, before + 2);
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
}

/// Messages of LEDGER, all of them rows by now, without the checkpoints: one is made when a minute has passed, whoever asks for what.
async fn beside_checkpoints(world: &World) -> i64 {
    world.projected().await;
    let count =
        "select count(*) from ledger.event e where not exists (select from ledger.fact f where f.seq = e.seq and f.kind = 'checkpoint')";
    world.postgres.client().await.query_one(count, &[]).await.unwrap().get(0)
}

/// Holds job after job, each asked until it is answered, and returns the longest wait.
async fn steady(world: &World, jobs: std::ops::Range<u64>, mut between: impl FnMut(u64)) -> Duration {
    let mut longest = Duration::ZERO;
    for n in jobs {
        between(n);
        let asked = Instant::now();
        let outcomes = world.ask(vec![hold(n)]).await;
        assert_eq!(done(&outcomes), 1, "job {n}: {outcomes:?}");
        longest = longest.max(asked.elapsed());
    }
    longest
}

/// Every hold is in the stream once, and in the rows, and verify agrees.
async fn all_there_once(world: &World, jobs: u64) {
    world.projected().await;
    let client = world.postgres.client().await;
    let row = client.query_one("select count(*), count(distinct job) from ledger.fact where kind = 'hold'", &[]).await.unwrap();
    let jobs = i64::try_from(jobs).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (jobs, jobs));
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
}

#[tokio::test]
async fn a_killed_writer_is_replaced_within_five_seconds() {
    let world = World::start().await;
    let mut workers = vec![world.worker()];
    world.people().await;
    workers.push(world.worker());
    let standby = &workers[1];
    until("the second to stand by", async || standby.says("standing by").then_some(())).await;
    let first = workers[0].pid();
    let longest = steady(&world, 0..120, |n| {
        if n == 50 {
            signal(first, "KILL");
        }
    })
    .await;
    assert!(workers[1].says("active: this worker writes"));
    assert!(longest < Duration::from_secs(5), "took over after {longest:?}");
    all_there_once(&world, 120).await;
}

#[tokio::test]
async fn a_frozen_writer_neither_writes_nor_refuses_from_stale_books() {
    let world = World::start().await;
    let first = world.worker();
    world.people().await;
    let second = world.worker();
    until("the second to stand by", async || second.says("standing by").then_some(())).await;
    steady(&world, 0..5, |_| {}).await;
    signal(first.pid(), "STOP");
    steady(&world, 5..10, |_| {}).await;
    // The frozen one has not heard of this member.
    let late = member(2).public();
    world.ask(vec![Op::Open { member: late.member_id(), did: late }]).await;
    signal(first.pid(), "CONT");
    for n in 10..30 {
        let op = Op::Hold {
            job: job(n),
            member: late.member_id(),
            key: format!("late {n}"),
            amount_mmana: None,
            expires: bus::hub_time::here_ms() + 3_600_000,
        };
        let outcomes = world.ask(vec![op]).await;
        assert_eq!(done(&outcomes), 1, "{outcomes:?}");
    }
    until("the first to step down", async || first.says("stepped down").then_some(())).await;
    // What it knew was right, only old: it goes on from there, and has all of it when it is its turn again.
    assert!(first.says("the books go on from where they are"), "{}", first.log.lock().unwrap());
    signal(second.pid(), "KILL");
    steady(&world, 30..40, |_| {}).await;
    assert_eq!(done(&world.ask(vec![Op::Open { member: late.member_id(), did: late }]).await), 1, "it has heard of this member meanwhile");
    all_there_once(&world, 40).await;
}

#[tokio::test]
async fn facts_go_on_without_postgres_and_the_rows_follow() {
    let mut world = World::start().await;
    let address = free_address();
    let _worker = world.worker_at(&address);
    world.people().await;
    world.projected().await;
    assert_eq!(http(&address, "/healthz").await.unwrap().0, 200);
    assert_eq!(http(&address, "/readyz").await.unwrap().0, 200);
    world.postgres.crash();
    steady(&world, 0..20, |_| {}).await;
    let why = until("it to say that it is not ready", async || {
        let (status, body) = http(&address, "/readyz").await?;
        (status == 503).then_some(body)
    })
    .await;
    assert!(why.contains("postgres"), "{why}");
    world.postgres.start_again();
    all_there_once(&world, 20).await;
    until("it to be ready", async || (http(&address, "/readyz").await?.0 == 200).then_some(())).await;
    let metrics = http(&address, "/metrics").await.unwrap().1;
    for name in ["mesh_ledger_active 1", "mesh_ledger_facts_total ", "mesh_ledger_append_seconds_count", "mesh_build_info"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
}

#[tokio::test]
async fn a_database_that_does_not_fit_the_stream_stops_the_writer() {
    let world = World::start().await;
    let mut worker = world.worker();
    world.people().await;
    let seq = world.projected().await;
    signal(worker.pid(), "TERM");
    assert!(worker.ended().await.success());
    let client = world.postgres.client().await;
    let cases = [
        ("update ledger.cursor set seq = seq + 5", "update ledger.cursor set seq = seq - 5", "the database is at sequence"),
        (
            "update ledger.event set envelope = envelope || 'x' where seq = (select seq from ledger.cursor)",
            "update ledger.event set envelope = substring(envelope for length(envelope) - 1) where seq = (select seq from ledger.cursor)",
            "they are of two streams",
        ),
    ];
    for (change, back, named) in cases {
        client.batch_execute(change).await.unwrap();
        let address = free_address();
        let worker = world.worker_at(&address);
        until("it to say why it does not write", async || worker.says(named).then_some(())).await;
        let (status, body) = http(&address, "/readyz").await.unwrap();
        assert!(status == 503 && body.contains(named), "{body}");
        let (ok, report) = world.verify();
        assert!(!ok && report["ok"] == false, "{report}");
        client.batch_execute(back).await.unwrap();
        assert_eq!(done(&world.ask(vec![hold(1)]).await), 1, "it goes on by itself");
        assert!(world.projected().await > seq);
    }
}

/// Cuts the connection between the stream's answer and the writer, once: the fact is stored, and the writer does not know.
async fn cutting_proxy(to: &str, cut: std::sync::Arc<std::sync::atomic::AtomicBool>) -> String {
    use std::sync::atomic::Ordering;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let to = to.trim_start_matches("nats://").to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(&to).await.unwrap();
            let cut = cut.clone();
            tokio::spawn(async move {
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    let mut bytes = vec![0; 64 * 1024];
                    loop {
                        let n = from_server.read(&mut bytes).await.unwrap_or(0);
                        let answers_an_append = bytes[..n].windows(15).any(|window| window == b"\"stream\":\"LEDGE");
                        if n == 0 || (answers_an_append && cut.swap(false, Ordering::SeqCst)) {
                            break;
                        }
                        if to_client.write_all(&bytes[..n]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! { _ = up => {}, () = down => {} }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_lost_answer_to_an_append_is_not_taken_for_another_writer() {
    let mut world = World::start().await;
    let cut = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let hub = world.nats_url.clone();
    world.nats_url = cutting_proxy(&hub, cut.clone()).await;
    let worker = world.worker();
    world.people().await;
    let before = world.bus.stream_end("LEDGER").await.unwrap().last_seq;
    cut.store(true, std::sync::atomic::Ordering::SeqCst);
    let outcomes = world.ask(vec![hold(1)]).await;
    assert_eq!(done(&outcomes), 1, "{outcomes:?}");
    assert!(!cut.load(std::sync::atomic::Ordering::SeqCst), "the answer was cut");
    until("the worker to say so", async || worker.says("no answer to an append").then_some(())).await;
    assert!(!worker.says("stepped down"), "{}", worker.log.lock().unwrap());
    // A checkpoint may have come in between; that the hold is there once is seen below.
    assert!(world.bus.stream_end("LEDGER").await.unwrap().last_seq > before);
    // `verify` is waited for on the thread that would serve the proxy.
    world.nats_url = hub;
    all_there_once(&world, 1).await;
}

#[tokio::test]
async fn settings_are_checked_without_a_connection() {
    let world = World::start().await;
    let good = world.command(&["--check-config"]).output().unwrap();
    assert!(good.status.success() && String::from_utf8_lossy(&good.stdout).contains("ok: network net_"));
    for (variable, value, named) in [
        ("MESH_NETWORK", "/nowhere.json", "failed to read the network document"),
        ("MESH_KEY", "/nowhere.key", "failed to read /nowhere.key"),
        ("DATABASE_URL", "http://x", "no Postgres address"),
    ] {
        let bad = world.command(&["--check-config"]).env(variable, value).output().unwrap();
        let text = String::from_utf8_lossy(&bad.stderr).into_owned();
        assert!(!bad.status.success() && text.contains(named), "{variable}: {text}");
    }
    let version = world.command(&["--version"]).output().unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("mesh-ledger 0."));
    world.postgres.client().await.batch_execute("drop schema ledger cascade").await.unwrap();
    let worker = world.command(&["migrate"]).output().unwrap();
    let refused = String::from_utf8_lossy(&worker.stderr).into_owned();
    assert!(!worker.status.success() && refused.contains("as its owner"), "{refused}");
    assert!(world.migrate().contains("applied"));
    assert!(world.migrate().contains("up to date"));
}
