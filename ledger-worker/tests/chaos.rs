//! Death under load: the active worker and all of Postgres are killed again and again while commands come in, and the books are in
//! the end those of a run in which nothing died.
//!
//! `MESH_CHAOS_SEED` says which load and which deaths, `MESH_CHAOS_KILLS` how many of the worker; every tenth kill one of Postgres.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // A test stops at the first surprise.

mod plan;
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus::Bus;
use bus_schemas::envelope::JsonBatch;
use bus_schemas::ledger::{LedgerOutcome, LedgerReply, LedgerRequest, RefusalKind};
use bus_schemas::replay::{Applied, Books};
use bus_schemas::{FactId, Verifier, envelope, subject};
use ledger_worker::posting::Standing;
use ledger_worker::request::{Request, read};
use ledger_worker::round::Round;
use ledger_worker::settings::parts;
use plan::Lane;
use support::{HUNG, Proc, World, free_address, gateway, http, signal, signer, until};
use testkit::Dice;

const LANES: u64 = 4;
/// Where a worker can be told to die.
const POINTS: [&str; 6] = ["before_append", "after_append", "before_commit", "after_commit", "before_reply", "after_reply"];

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// What was asked, lane by lane, and what was answered; when, and after how long.
#[derive(Default)]
struct Told {
    lanes: Vec<Vec<(LedgerRequest, Vec<LedgerOutcome>)>>,
    waits: Vec<(Instant, Duration)>,
}

/// What died and came back, and when.
#[derive(Clone, Default)]
struct Deaths(Arc<Mutex<Vec<(Instant, String)>>>);
impl Deaths {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push((Instant::now(), what.into()));
    }
    /// Notes when the database can be asked again.
    fn await_postgres(&self, url: String) {
        let (deaths, killed) = (self.clone(), Instant::now());
        tokio::spawn(async move {
            while tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            deaths.note(format!("Postgres is back after {:.1?}", killed.elapsed()));
        });
    }
    /// The longest wait, and what happened in it.
    fn around(&self, (asked, took): (Instant, Duration)) -> Vec<String> {
        let all = self.0.lock().unwrap();
        let within = all.iter().filter(|(at, _)| *at + Duration::from_secs(1) >= asked && *at <= asked + took);
        let since = |at: &Instant| at.saturating_duration_since(asked).as_secs_f64() - asked.saturating_duration_since(*at).as_secs_f64();
        within.map(|(at, what)| format!("{what} at {:+.1} s", since(at))).collect()
    }
    fn of_postgres(&self, (asked, took): (Instant, Duration)) -> bool {
        self.around((asked, took)).iter().any(|what| what.contains("Postgres"))
    }
}

/// A steady load, until it is told to end.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    told: Arc<Mutex<Told>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}
impl Load {
    async fn start(bus: &Bus, seed: u64) -> Self {
        let at = bus::hub_time::here_ms();
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let first = vec![plan::people(at), plan::rules(at)];
        let mut begun = vec![];
        for request in first {
            let outcomes = ask(bus, &request).await;
            begun.push((request, outcomes));
        }
        let told = Arc::new(Mutex::new(Told { lanes: vec![begun], waits: vec![] }));
        let tasks = (0..LANES).map(|n| {
            let (bus, stop, answered, told) = (bus.clone(), stop.clone(), answered.clone(), told.clone());
            tokio::spawn(async move {
                let mut lane = Lane::new(seed, n + 1, at);
                let mut log = vec![];
                while !stop.load(Ordering::Relaxed) {
                    let request = lane.next();
                    let asked = Instant::now();
                    let outcomes = ask(&bus, &request).await;
                    let wait = (asked, asked.elapsed());
                    answered.fetch_add(outcomes.len() as u64, Ordering::Relaxed);
                    log.push((request, outcomes));
                    told.lock().unwrap().waits.push(wait);
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                told.lock().unwrap().lanes.push(log);
            })
        });
        let tasks = tasks.collect();
        Self { stop, answered, told, tasks }
    }
    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
    /// Waits until so many more were answered: somebody is active and works.
    async fn goes_on(&self, more: u64) {
        let goal = self.answered() + more;
        until("the load to go on", async || (self.answered() >= goal).then_some(())).await;
    }
    async fn end(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// Asks until there is an answer, as the real askers do.
async fn ask(bus: &Bus, request: &LedgerRequest) -> Vec<LedgerOutcome> {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < HUNG, "hung: no answer from the ledger");
        let answer: Result<LedgerReply, _> = bus.ask(subject::LEDGER_DO.into(), request, Duration::from_millis(500)).await;
        match answer {
            Ok(answer) => return answer.outcomes,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Every command that was answered is in LEDGER once; the books are those of the same requests with nothing in between.
async fn all_of_it_once(world: &World, told: &Told) -> String {
    world.projected().await;
    let mut verifier = Verifier::default();
    let mut facts: BTreeMap<FactId, u64> = BTreeMap::new();
    let mut replayed = Books::new(world.document.network, world.document.ledger_keys.iter().copied().collect());
    let mut clean = Standing::new(world.document.network, world.document.ledger_keys.iter().copied().collect());
    let mut next = 1;
    loop {
        let messages = world.bus.from_seq("LEDGER", next, 64).await.unwrap();
        let Some(last) = messages.last() else { break };
        next = last.seq + 1;
        for message in &messages {
            if message.seq == 1 {
                clean.take(&mut verifier, 1, &message.payload).unwrap();
            }
            let Applied::Facts(new) = replayed.apply_message(&mut verifier, message.seq, &message.payload).unwrap() else { continue };
            for fact in new {
                let earlier = facts.insert(fact.id, message.seq);
                assert_eq!(earlier, None, "{:?} is in LEDGER twice", fact.id);
            }
        }
    }
    let parts = parts(&world.document);
    let (mut commands, mut requests) = (0, 0);
    for (request, outcomes) in told.lanes.iter().flatten() {
        requests += 1;
        for outcome in outcomes {
            commands += 1;
            match outcome {
                LedgerOutcome::Done(done) => assert_eq!(facts.get(&done.fact), Some(&done.seq), "{done:?} is not where it was said to be"),
                refused => panic!("all of the load can be done, but: {refused:?}"),
            }
        }
        let Request::Good { commands, evidence } = read(&mut verifier, &envelope::encode(request)) else { panic!("a good request") };
        let mut round = Round::new(&mut clean, &SIGNER);
        let now = bus::hub_time::here_ms();
        let clean = round.answer(&parts, now, &commands, &evidence).unwrap();
        assert!(clean.iter().all(|outcome| matches!(outcome, LedgerOutcome::Done(_))), "{clean:?}");
        round.finish();
    }
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
    let digest = bus_schemas::ledger::Hash32(clean.books().digest()).to_string();
    assert_eq!(report["digest"], digest.as_str(), "another digest than without deaths");
    assert_eq!(report["database_digest"], digest.as_str());
    format!("{commands} commands in {requests} requests, {} facts in {} messages, digest {digest}", facts.len(), next - 1)
}

static SIGNER: std::sync::LazyLock<bus_schemas::Signer> = std::sync::LazyLock::new(|| signer(4));

/// A worker that may have been told where to die.
struct Mortal {
    proc: Proc,
    point: Option<String>,
}
fn worker(world: &World, dice: &mut Dice) -> Mortal {
    let point = (dice.below(2) == 0).then(|| {
        let point = POINTS[dice.below(POINTS.len() as u64) as usize];
        format!("ledger.{point}:{}", 1 + dice.below(20))
    });
    let mut command = world.command(&["run"]);
    if let Some(point) = &point {
        command.env("MESH_CRASH_AT", point);
    }
    Mortal { proc: Proc::spawn(&mut command, "TERM"), point }
}
impl Mortal {
    fn is_active(&self) -> bool {
        let log = self.proc.log.lock().unwrap();
        log.matches("active: this worker writes").count() > log.matches("stepped down").count()
    }
    fn last_words(&self) -> String {
        let log = self.proc.log.lock().unwrap();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
    fn is_dead(&mut self) -> bool {
        matches!(self.proc.child.try_wait(), Ok(Some(_)))
    }
}

/// Notes where a worker died.
fn died(point: &Option<String>, deaths: &Deaths, points: &mut BTreeMap<String, u32>) {
    let point = point.as_deref().map_or("anywhere", |point| point.split(':').next().unwrap_or(point)).to_owned();
    deaths.note(format!("a worker died ({point})"));
    *points.entry(point).or_default() += 1;
}

/// Kills the server and all that it started, as a power cut of the database alone would.
async fn kill_postgres(world: &mut World) {
    let pid = world.postgres.pid();
    // Stopped first, and seen to be: a child that it starts meanwhile would live on, and keep the next server from starting.
    signal(pid, "STOP");
    let stopped = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") T") || stat.contains(") Z"));
    until("Postgres to stand still", async || stopped().then_some(())).await;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    signal(pid, "KILL");
    let children: Vec<u32> = children.split_whitespace().filter_map(|child| child.parse().ok()).collect();
    for child in &children {
        signal(*child, "KILL");
    }
    let gone = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z"));
    until("all of Postgres to be dead", async || children.iter().all(gone).then_some(())).await;
    world.postgres.crash();
    world.postgres.start_again();
}

#[tokio::test]
async fn killed_again_and_again_the_books_are_those_of_a_quiet_day() {
    let (seed, kills) = (setting("MESH_CHAOS_SEED", 1), setting("MESH_CHAOS_KILLS", 10));
    let mut dice = Dice::new(seed);
    let mut world = World::start().await;
    world.divisor = 10;
    let mut workers = vec![worker(&world, &mut dice), worker(&world, &mut dice)];
    let load = Load::start(&world.bus, seed).await;
    let began = Instant::now();
    let mut points: BTreeMap<String, u32> = BTreeMap::new();
    let mut postgres = 0;
    let deaths = Deaths::default();
    for kill in 1..=kills {
        let (goal, waited) = (load.answered() + 1 + dice.below(60), Instant::now());
        while load.answered() < goal {
            // On a slow machine both may come to where they were told to die before anything is answered.
            for mortal in workers.iter_mut().filter_map(|mortal| mortal.is_dead().then_some(mortal)) {
                died(&mortal.point, &deaths, &mut points);
                *mortal = worker(&world, &mut dice);
            }
            if waited.elapsed() > HUNG - Duration::from_secs(5) {
                let postgres = tokio_postgres::connect(&world.postgres.url_of("mesh"), tokio_postgres::NoTls).await.is_ok();
                let said: Vec<String> = workers.iter().map(Mortal::last_words).collect();
                panic!("hung: the load does not go on before kill {kill}; Postgres answers: {postgres}\n{}", said.join("\n---\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if kill % 10 == 5 {
            deaths.note("Postgres was killed");
            kill_postgres(&mut world).await;
            deaths.await_postgres(world.postgres.url_of("mesh"));
            postgres += 1;
        }
        // One that was told where to die gets the time to come there; any other dies now.
        let told = Instant::now();
        let dead = until("a worker to die", async || {
            if let Some(dead) = (0..workers.len()).find(|n| workers[*n].is_dead()) {
                return Some(dead);
            }
            let active = (0..workers.len()).find(|n| workers[*n].is_active())?;
            if workers[active].point.is_none() || told.elapsed() > Duration::from_secs(3) {
                signal(workers[active].proc.pid(), "KILL");
                workers[active].point = None;
                let _ = workers[active].proc.child.wait();
                return Some(active);
            }
            None
        })
        .await;
        died(&workers[dead].point, &deaths, &mut points);
        workers[dead] = worker(&world, &mut dice);
    }
    // Those that are left are told nothing, so that the rest is done in peace.
    let calm = Mortal { proc: world.worker(), point: None };
    workers.retain(|worker| worker.point.is_none());
    load.goes_on(200).await;
    let told = load.end().await;
    let took = began.elapsed();
    let summary = all_of_it_once(&world, &told).await;
    let kills: u32 = points.values().sum();
    println!("seed {seed}: {kills} kills of the worker ({points:?}), {postgres} of Postgres, in {took:.0?}; {summary}");
    for with_postgres in [false, true] {
        let waits = told.waits.iter().filter(|wait| deaths.of_postgres(**wait) == with_postgres);
        if let Some(longest) = waits.max_by_key(|(_, took)| *took) {
            let of = if with_postgres { "with Postgres killed as well" } else { "of the worker alone" };
            println!("  longest wait {of}: {:.1?}; {:?}", longest.1, deaths.around(*longest));
        }
    }
    drop((workers, calm));
}

#[tokio::test]
async fn two_hundred_holds_at_once_against_a_balance_for_ten() {
    let world = World::start().await;
    let (_first, _second) = (world.worker(), world.worker());
    let at = bus::hub_time::here_ms();
    ask(&world.bus, &plan::people(at)).await;
    // A member starts with 1,000,000 mana.
    let requests: Vec<LedgerRequest> = (0..200).map(|n| plan::request(&gateway(), at, vec![plan::hold(at, 0, n, 100_000)])).collect();
    let outcomes = futures::future::join_all(requests.iter().map(|request| ask(&world.bus, request))).await;
    let held = outcomes.iter().flatten().filter(|outcome| matches!(outcome, LedgerOutcome::Done(_))).count();
    let poor = |outcome: &&LedgerOutcome| matches!(outcome, LedgerOutcome::Refused { why: RefusalKind::InsufficientMana, .. });
    assert_eq!((held, outcomes.iter().flatten().filter(poor).count()), (10, 190));
    world.projected().await;
    let client = world.postgres.client().await;
    let row = client.query_one("select count(*), sum(amount)::bigint from ledger.hold where state = 'open'", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (10, 1_000_000_000));
    let sum = client.query_one("select sum(balance)::bigint from ledger.account", &[]).await.unwrap();
    assert_eq!(sum.get::<_, i64>(0), 0);
    let (ok, report) = world.verify();
    assert!(ok, "{report}");
}

#[tokio::test]
async fn foreign_bytes_under_load_are_passed_over_with_an_alarm() {
    let mut world = World::start().await;
    world.divisor = 10;
    let addresses = [free_address(), free_address()];
    let workers = addresses.each_ref().map(|address| world.worker_at(address));
    let load = Load::start(&world.bus, 7).await;
    let stranger = signer(9).json_batch::<bus_schemas::ledger::Fact>(vec!["{}".into()]).encode();
    let foreign: [&[u8]; 5] = [b"not a fact", b"", &[0xff; 70_000], b"{\"v\":1}", &stranger];
    for bytes in foreign {
        load.goes_on(20).await;
        world.stores(bytes).await;
    }
    // What the ledger itself signed, stored again by somebody without its key: as it was, and in other bytes.
    let (key, all) = (world.ledger_key().public(), world.bus.from_seq("LEDGER", 10, 100).await.unwrap());
    let genuine = all.iter().find(|message| JsonBatch::decode(&message.payload).is_ok_and(|batch| batch.k == key)).unwrap().seq;
    for seq in [1, 2, genuine] {
        load.goes_on(20).await;
        let copy = world.bus.from_seq("LEDGER", seq, 1).await.unwrap().remove(0).payload;
        world.stores(&copy).await;
        world.stores(&serde_json::to_vec_pretty(&JsonBatch::decode(&copy).unwrap()).unwrap()).await;
    }
    // Headers that say what only the server may say.
    let tricks = [
        "\r\nNats-Sequence: 1",
        "\r\nNats-Stream: X\r\nNats-Subject: y\r\nNats-Time-Stamp: z",
        "\r\nStatus: 204",
        " 204 EOB",
        " 404",
        " 503 x",
    ];
    for trick in tricks {
        load.goes_on(20).await;
        world.stores_under(&format!("NATS/1.0{trick}")).await;
    }
    // Many, one every few milliseconds: the writer goes on between them. Without any pause it could only wait until they end.
    let (copy, before) = (world.bus.from_seq("LEDGER", 2, 1).await.unwrap().remove(0).payload, load.answered());
    let (mut flood, began) = (0, Instant::now());
    // More facts than stand under one checkpoint, which cannot simply be put one place further on.
    while load.answered() < before + 2_500 {
        assert!(began.elapsed() < HUNG, "hung: {flood} foreign messages, and nothing was answered between them");
        world.stores(&copy).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        flood += 1;
    }
    load.goes_on(100).await;
    let told = load.end().await;
    let mut seen = 0;
    for address in &addresses {
        let metrics = http(address, "/metrics").await.unwrap().1;
        let count = metrics.lines().find_map(|line| line.strip_prefix("mesh_ledger_foreign_total "));
        seen += count.map_or(0, |count| count.trim().parse::<u64>().unwrap());
    }
    assert!(seen >= 17 + flood, "the metric counts {seen} of 17 and {flood}");
    for worker in &workers {
        assert!(!worker.says("stepped down"), "nobody steps down for what counts for nothing:\n{}", worker.log.lock().unwrap());
    }
    assert!(workers.iter().any(|worker| worker.says("no valid batch of a ledger key")));
    assert!(workers.iter().any(|worker| worker.says(&format!("a copy of sequence {genuine}"))));
    println!("17 foreign messages and {flood} in a flood: {}", all_of_it_once(&world, &told).await);
    // Those that nobody handed over: rows that follow the stream by themselves, and rows that are made again.
    drop(workers);
    let end = world.bus.stream_end("LEDGER").await.unwrap().last_seq;
    for seq in [end, 2, end] {
        let copy = world.bus.from_seq("LEDGER", seq, 1).await.unwrap().remove(0).payload;
        world.stores(&copy).await;
    }
    let _worker = world.worker();
    println!("and three copies at rest: {}", all_of_it_once(&world, &told).await);
    world.as_owner(&["rebuild"]).unwrap();
    println!("rebuilt: {}", all_of_it_once(&world, &told).await);
}
