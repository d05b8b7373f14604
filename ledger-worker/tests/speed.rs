//! Measurements, not checks; `make bench-ledger` runs those that have floors, one after the other.
//!
//! `MESH_BENCH_PROJECT_FACTS`, `MESH_BENCH_REPLAY_FACTS`, `MESH_BENCH_HOLD_SECONDS` and `MESH_BENCH_HOLDS_PER_S` say how much. Each prints
//! a line `measured {..}` for the script.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // A test stops at the first surprise.

mod plan;
mod support;

use std::time::{Duration, Instant};

use bus_schemas::ledger::{Command, Hash32, LedgerRequest, Op, VoidReason};
use bus_schemas::{Verifier, envelope, subject};
use futures::StreamExt;
use ledger_worker::posting::Standing;
use ledger_worker::request::{Request, read};
use ledger_worker::round::Round;
use ledger_worker::settings::parts;
use serde_json::json;
use support::{Proc, World, cpu_s, done, hold, job, scheduler, settlement};

/// CPU seconds of the processes whose parent is `pid` or that are it, those that have ended among them.
fn family_cpu_s(pid: u32) -> f64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(13).take(2);
    let ended = ended.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0;
    cpu_s(pid) + ended + children.split_whitespace().filter_map(|child| child.parse().ok()).map(cpu_s).sum::<f64>()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn holds_and_settlements_per_second() {
    let world = World::start().await;
    let worker = world.worker();
    world.people().await;
    let per_request: u64 = std::env::var("PER_REQUEST").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    let in_flight: usize = std::env::var("IN_FLIGHT").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let jobs: u64 = std::env::var("JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(30_000);
    let lists: Vec<Vec<u64>> = (0..jobs).collect::<Vec<_>>().chunks(per_request as usize).map(<[u64]>::to_vec).collect();
    // Made beforehand, so that the asker's work is not measured.
    let requests: Vec<_> = lists
        .iter()
        .map(|list| (world.request(&support::gateway(), list.iter().copied().map(hold).collect()), settlement(&world, list)))
        .collect();
    let cpu = || (worker.cpu_s(), family_cpu_s(world.postgres.pid()), world.nats.cpu_s());
    let (before, began) = (cpu(), Instant::now());
    let world_ref = &world;
    let ended: usize = futures::stream::iter(&requests)
        .map(|(hold, settle)| async move {
            assert_eq!(done(&world_ref.ask_with(hold).await), hold.commands.b.len());
            done(&world_ref.ask_with(settle).await)
        })
        .buffer_unordered(in_flight)
        .fold(0, |sum, n| async move { sum + n })
        .await;
    let answered = began.elapsed().as_secs_f64();
    world.projected().await;
    let (all, after) = (began.elapsed().as_secs_f64(), cpu());
    assert_eq!(ended as u64, jobs);
    let thousands = jobs as f64 / 1000.0;
    println!(
        "{jobs} jobs, {per_request} a request, {in_flight} in flight: {:.0} facts/s answered, {:.0} facts/s projected; CPU s per 1,000 jobs: ledger {:.3}, Postgres {:.3}, hub {:.3}",
        2.0 * jobs as f64 / answered,
        2.0 * jobs as f64 / all,
        (after.0 - before.0) / thousands,
        (after.1 - before.1) / thousands,
        (after.2 - before.2) / thousands,
    );
    let began = Instant::now();
    let (ok, report) = world.verify();
    println!("verify of {} facts: {:.1} s, ok {ok}", report["facts"], began.elapsed().as_secs_f64());
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn measured(what: &serde_json::Value) {
    println!("measured {what}");
}

/// What was written before is on the disk: its own waits are no wait of what is measured next.
fn at_rest() {
    assert!(std::process::Command::new("sync").status().unwrap().success());
}

/// Fills LEDGER with jobs that were held and then settled or voided over ten days, and returns how many facts that are and the
/// digest of the books. Full messages: batches of 256 facts under one signature.
async fn fill(world: &World, facts: u64) -> (u64, String) {
    const AT_ONCE: u64 = 256;
    let key = world.ledger_key();
    let parts = parts(&world.document);
    let mut verifier = Verifier::default();
    let mut standing = Standing::new(world.document.network, world.document.ledger_keys.iter().copied().collect());
    let genesis = world.bus.from_seq("LEDGER", 1, 1).await.unwrap().remove(0);
    standing.take(&mut verifier, 1, &genesis.payload).unwrap();
    let days = 10 * 24 * 3_600_000;
    let begin = bus::hub_time::here_ms() - days;
    let mut made = 0;
    let mut first = 0;
    while made < facts {
        let at = begin + days * made / facts;
        let jobs: Vec<plan::Done> =
            (first..first + AT_ONCE).map(|n| plan::Done { job: n, payer: (n % 4) as u8, device: ((n / 64) % 4) as u8 }).collect();
        first += AT_ONCE;
        let mut rounds: Vec<Vec<LedgerRequest>> = vec![];
        if made == 0 {
            rounds.push(vec![plan::people(at), plan::rules(at)]);
        }
        let holds = |jobs: &[plan::Done]| {
            let ops = jobs.iter().map(|done| plan::hold(at, done.payer, done.job, 10)).collect();
            plan::request(&support::gateway(), at, ops)
        };
        rounds.push(jobs.chunks(64).map(holds).collect());
        let closes = |jobs: &[plan::Done]| {
            let void = |done: &plan::Done| Op::Void { job: job(done.job), reason: VoidReason::NotPlaced, ended: vec![] };
            let (voided, settled) = jobs.split_at(4);
            [plan::request(&scheduler(), at, voided.iter().map(void).collect()), plan::settle(at, settled[0].device, settled)]
        };
        rounds.push(jobs.chunks(64).flat_map(closes).collect());
        for requests in rounds {
            let mut round = Round::new(&mut standing, &key);
            for request in &requests {
                let Request::Good { commands, evidence } = read(&mut verifier, &envelope::encode(request)) else {
                    panic!("a good request")
                };
                let outcomes = round.answer(&parts, at, &commands, &evidence).unwrap();
                assert_eq!(done(&outcomes), outcomes.len(), "{:?}", outcomes[0]);
            }
            for message in round.finish() {
                made += message.facts.len() as u64;
                let stored = world.bus.store(subject::LEDGER_FACTS.into(), None, message.payload, Duration::from_secs(30)).await.unwrap();
                assert_eq!(stored.seq, message.seq);
            }
        }
        // The generator's own memory does not matter here.
        standing.forget(at.saturating_sub(25 * 3_600_000));
    }
    (made, Hash32(standing.books().digest()).to_string())
}

/// The most memory that a process has had, in MB.
fn peak_mb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1000)
}

/// Waits until the rows are those of the whole stream.
async fn caught_up(world: &World) {
    let client = world.postgres.client().await;
    let end = i64::try_from(world.bus.stream_end("LEDGER").await.unwrap().last_seq).unwrap();
    until_slowly("the rows to be there", async || {
        let seq: i64 = client.query_one("select seq from ledger.cursor", &[]).await.ok()?.get(0);
        (seq == end).then_some(())
    })
    .await;
}

/// As [`until`], for what may take minutes.
async fn until_slowly(what: &str, mut look: impl AsyncFnMut() -> Option<()>) {
    let begun = Instant::now();
    while look().await.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(1800), "hung: waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_0_strict_verification() {
    let (by, at) = (support::gateway(), 5);
    let batches: Vec<_> = (0..2_000).map(|n| plan::request(&by, at, vec![hold(n)]).commands).collect();
    let mut verifier = Verifier::default();
    let began = Instant::now();
    for batch in &batches {
        batch.verify::<Command>(&mut verifier).unwrap();
    }
    let us = began.elapsed().as_secs_f64() * 1e6 / batches.len() as f64;
    measured(&json!({ "name": "verify", "us": us }));
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_1_projection() {
    let world = World::start().await;
    let (facts, digest) = fill(&world, setting("MESH_BENCH_PROJECT_FACTS", 200_000)).await;
    at_rest();
    let client = world.postgres.client().await;
    let settings = client.query_one("select current_setting('fsync') || ' ' || current_setting('synchronous_commit')", &[]).await.unwrap();
    assert_eq!(settings.get::<_, String>(0), "on on");
    let worker = world.worker();
    let until_active = Instant::now();
    until_slowly("the worker to be active", async || worker.says("active: this worker writes").then_some(())).await;
    let until_active = until_active.elapsed().as_secs_f64();
    let (cpu, began) = ((worker.cpu_s(), family_cpu_s(world.postgres.pid())), Instant::now());
    caught_up(&world).await;
    let seconds = began.elapsed().as_secs_f64();
    let peak_mb = peak_mb(worker.pid());
    let cpu = (worker.cpu_s() - cpu.0, family_cpu_s(world.postgres.pid()) - cpu.1);
    let (ok, report) = world.verify();
    assert!(ok && report["digest"] == digest.as_str(), "{report}");
    measured(&json!({
        "name": "projection", "facts": facts, "seconds": seconds, "facts_per_s": facts as f64 / seconds, "peak_mb": peak_mb,
        "books_s": until_active, "books_facts_per_s": facts as f64 / until_active, "worker_cpu_s": cpu.0, "postgres_cpu_s": cpu.1,
    }));
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_2_replay() {
    let world = World::start().await;
    let filling = Instant::now();
    let (facts, digest) = fill(&world, setting("MESH_BENCH_REPLAY_FACTS", 1_000_000)).await;
    let filled_s = filling.elapsed().as_secs_f64();
    let cpu = || (family_cpu_s(world.postgres.pid()), world.nats.cpu_s());
    let (before, began) = (cpu(), Instant::now());
    let mut replay = Proc::spawn(world.command(&["rebuild"]).env("DATABASE_URL", world.postgres.url_of("mesh_owner")), "KILL");
    let (mut most, mut own_cpu_s) = (0, 0.0);
    let mut ended = None;
    until_slowly("the replay to end", async || {
        most = most.max(peak_mb(replay.pid()).unwrap_or(0));
        own_cpu_s = f64::max(own_cpu_s, replay.cpu_s());
        ended = replay.child.try_wait().unwrap();
        ended.map(|_| ())
    })
    .await;
    let seconds = began.elapsed().as_secs_f64();
    let after = cpu();
    assert!(ended.is_some_and(|status| status.success()), "{}", replay.log.lock().unwrap());
    eprint!("{}", replay.log.lock().unwrap());
    let verifying = Instant::now();
    let (ok, report) = world.verify();
    assert!(ok && report["digest"] == digest.as_str() && report["database_digest"] == digest.as_str(), "{report}");
    measured(&json!({
        "name": "replay", "facts": facts, "seconds": seconds, "facts_per_s": facts as f64 / seconds, "peak_mb": most,
        "filled_s": filled_s, "verify_s": verifying.elapsed().as_secs_f64(),
        "replay_cpu_s": own_cpu_s, "postgres_cpu_s": after.0 - before.0, "hub_cpu_s": after.1 - before.1,
    }));
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_3_holds() {
    at_rest();
    let world = World::start().await;
    let _worker = world.worker();
    let (seconds, per_s) = (setting("MESH_BENCH_HOLD_SECONDS", 20), setting("MESH_BENCH_HOLDS_PER_S", 500));
    let at = bus::hub_time::here_ms();
    world.ask_with(&plan::people(at)).await;
    // Made beforehand, so that the asker's work is not measured.
    let requests: Vec<LedgerRequest> =
        (0..seconds * per_s).map(|n| plan::request(&support::gateway(), at, vec![plan::hold(at, (n % 4) as u8, n, 1)])).collect();
    for request in &requests[..requests.len().min(50)] {
        world.ask_with(request).await;
    }
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / per_s));
    let mut asked = vec![];
    let began = Instant::now();
    for request in requests {
        tick.tick().await;
        let bus = world.bus.clone();
        asked.push(tokio::spawn(async move {
            let began = Instant::now();
            let answer: Result<bus_schemas::ledger::LedgerReply, _> =
                bus.ask(subject::LEDGER_DO.into(), &request, Duration::from_secs(5)).await;
            (began.elapsed(), answer.is_ok_and(|answer| done(&answer.outcomes) == 1))
        }));
    }
    let took = began.elapsed().as_secs_f64();
    let mut waits = vec![];
    for one in asked {
        let (waited, good) = one.await.unwrap();
        assert!(good, "a hold was not answered");
        waits.push(waited.as_secs_f64() * 1e3);
    }
    waits.sort_by(f64::total_cmp);
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    measured(&json!({
        "name": "holds", "asked": waits.len(), "per_s": waits.len() as f64 / took, "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
    }));
    world.projected().await;
}
