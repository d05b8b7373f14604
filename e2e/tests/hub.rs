//! A hub of three nodes under load: any of them is killed, also the leader of a stream, and nothing that was acknowledged is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bus::Bus;
use bus::async_nats::HeaderMap;
use bus_schemas::JobId;
use bus_schemas::ledger::What;
use e2e::{books, doors};
use serde_json::Value;
use testkit::{HUNG, Stack, http, proc, until};

/// Between two submissions of one door.
const PACE: Duration = Duration::from_millis(100);
/// An election takes 4 to 9 s, whatever this network's own times are; who has no answer after that hangs.
const STALL_MAX: Duration = Duration::from_secs(30);

/// What clients were told.
#[derive(Default)]
struct Told {
    /// Keys whose submission was acknowledged.
    acknowledged: BTreeSet<String>,
    /// Ids, where the door says them.
    ids: BTreeSet<JobId>,
    /// The longest wait for an answer at each door since it was looked at last.
    stalls: BTreeMap<&'static str, Duration>,
}
impl Told {
    fn answered(&mut self, door: &'static str, key: String, took: Duration) {
        assert!(self.acknowledged.insert(key), "a key is used once");
        let stall = self.stalls.entry(door).or_default();
        *stall = took.max(*stall);
    }
    /// How many submissions each door has acknowledged.
    fn of_each_door(&self) -> [usize; 2] {
        DOORS.map(|door| self.acknowledged.iter().filter(|key| key.starts_with(door)).count())
    }
}
/// So many answers mean that a door works.
const FEW: usize = 5;
const DOORS: [&str; 2] = ["nats", "http"];
type Shared = Arc<Mutex<Told>>;

fn lock(told: &Shared) -> std::sync::MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Members who submit over NATS, as fast as they are answered.
async fn over_nats(bus: Bus, subject: String, told: Shared, stop: Arc<AtomicBool>) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("nats-{n}");
        let mut headers = HeaderMap::new();
        headers.insert("Mesh-Job-Key", key.as_str());
        let began = Instant::now();
        let payload = doors::echo(&key).to_string().into();
        bus.store(subject.clone(), Some(headers), payload, HUNG).await.expect("the submission is acknowledged");
        lock(&told).answered(DOORS[0], key, began.elapsed());
        tokio::time::sleep(PACE).await;
    }
}

/// A program that submits over HTTP, to each gateway in turn, and repeats what was not acknowledged.
async fn over_http(gateways: Vec<String>, token: String, told: Shared, stop: Arc<AtomicBool>) {
    let authorization = format!("Bearer {token}");
    for (n, gateway) in gateways.iter().cycle().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("http-{n}");
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let (url, body, began) = (format!("{gateway}/api/v1/jobs"), doors::echo(&key).to_string(), Instant::now());
        let id = until("an acknowledgement over HTTP", || async {
            let (status, answer) = http::try_send("POST", &url, &headers, body.clone()).await.ok()?;
            let answer: Value = serde_json::from_slice(&answer).ok()?;
            matches!(status, 200 | 202).then(|| answer["id"].as_str().and_then(|id| id.parse::<JobId>().ok()))?
        })
        .await;
        lock(&told).answered(DOORS[1], key, began.elapsed());
        lock(&told).ids.insert(id);
        tokio::time::sleep(PACE).await;
    }
}

/// The nodes of the hub.
struct Nodes<'a> {
    stack: &'a Stack,
}
impl Nodes<'_> {
    fn names(&self) -> Vec<String> {
        self.stack.ready["nats"]["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|node| node["name"].as_str().map(str::to_owned))
            .collect()
    }
    fn monitors(&self) -> Vec<String> {
        let nodes = self.stack.ready["nats"]["nodes"].as_array().into_iter().flatten();
        nodes.filter_map(|node| node["monitor_url"].as_str().map(str::to_owned)).collect()
    }
    fn pid(&self, name: &str) -> u32 {
        let file = self.stack.path("/data_dir").join("processes.json");
        let processes: Vec<Value> = serde_json::from_slice(&std::fs::read(file).expect("processes.json")).expect("a list");
        let pid = processes.iter().find(|process| process["name"] == name).and_then(|process| process["pid"].as_u64());
        pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_else(|| panic!("no pid of {name}"))
    }
    /// Waits until each node is there and has all that it should: only then may the next one die.
    async fn all_current(&self) {
        for monitor in self.monitors() {
            until(&format!("{monitor} to be current"), || async {
                let (status, _) = http::try_send("GET", &format!("{monitor}/healthz"), &[], "").await.ok()?;
                (status == 200).then_some(())
            })
            .await;
        }
    }
    /// Which node leads a stream.
    async fn leader(&self, stream: &str) -> String {
        until(&format!("the leader of {stream}"), || async {
            let (_, answer) = http::try_send("GET", &format!("{}/jsz?streams=true", self.monitors()[0]), &[], "").await.ok()?;
            let answer: Value = serde_json::from_slice(&answer).ok()?;
            let accounts = answer["account_details"].as_array()?;
            let mut streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
            let found = streams.find(|found| found["name"] == stream)?;
            found["cluster"]["leader"].as_str().filter(|leader| !leader.is_empty()).map(str::to_owned)
        })
        .await
    }
    /// Freezes a node under load until both doors have answered again, and lets it go on; the longest wait of a client meanwhile.
    async fn freeze(&self, name: &str, told: &Shared) -> BTreeMap<&'static str, Duration> {
        let pid = self.pid(name);
        let before = {
            let mut told = lock(told);
            told.stalls.clear();
            told.of_each_door()
        };
        proc::signal(pid, "STOP");
        until("acknowledgements at both doors", || async {
            let now = lock(told).of_each_door();
            before.iter().zip(now).all(|(before, now)| now > before + FEW).then_some(())
        })
        .await;
        proc::signal(pid, "CONT");
        self.all_current().await;
        lock(told).stalls.clone()
    }
    /// Kills a node under load and waits until it has come back; the longest wait of a client meanwhile.
    async fn kill(&self, name: &str, told: &Shared) -> BTreeMap<&'static str, Duration> {
        let pid = self.pid(name);
        lock(told).stalls.clear();
        proc::signal(pid, "KILL");
        until(&format!("the restart of {name}"), || async { (self.pid(name) != pid).then_some(()) }).await;
        self.all_current().await;
        let before = lock(told).of_each_door();
        until("acknowledgements at both doors", || async {
            let now = lock(told).of_each_door();
            before.iter().zip(now).all(|(before, now)| now > before + FEW).then_some(())
        })
        .await;
        lock(told).stalls.clone()
    }
}

/// With the real times: an election does not get faster because everything else does.
#[tokio::test]
async fn any_node_may_die_and_nothing_acknowledged_is_lost() {
    let stack = Stack::start(&["--hub", "3", "--agents", "3", "--schedulers", "2", "--ledgers", "2", "--gateways", "2"], &[]);
    let nodes = Nodes { stack: &stack };
    nodes.all_current().await;
    assert_eq!(nodes.names(), ["hub-1", "hub-2", "hub-3"]);
    let (told, stop) = (Shared::default(), Arc::new(AtomicBool::new(false)));
    let gateways =
        stack.ready["gateway"]["urls"].as_array().into_iter().flatten().filter_map(|url| url.as_str().map(str::to_owned)).collect();
    let load = [
        tokio::spawn(over_nats(stack.member().await, stack.text("/member/submit_subject"), told.clone(), stop.clone())),
        tokio::spawn(over_http(gateways, stack.token(), told.clone(), stop.clone())),
    ];
    for name in nodes.names() {
        let stall = nodes.kill(&name, &told).await;
        println!("kill -9 {name}: the longest wait for an acknowledgement was {stall:.1?}");
        assert!(stall.values().all(|stall| *stall < STALL_MAX), "{name}: {stall:?}");
    }
    for stream in ["JOBS", "SUBMIT", "LEDGER", "RECEIPTS"] {
        let name = nodes.leader(stream).await;
        let stall = nodes.kill(&name, &told).await;
        println!("kill -9 {name}, leader of {stream}: {stall:.1?}");
        assert!(stall.values().all(|stall| *stall < STALL_MAX), "leader of {stream}: {stall:?}");
    }
    // It keeps its connections, so that nobody is told: whoever asks it gets no answer.
    let name = nodes.leader("JOBS").await;
    let stall = nodes.freeze(&name, &told).await;
    println!("{name}, leader of JOBS, frozen: {stall:.1?}");
    assert!(stall.values().all(|stall| *stall < STALL_MAX), "frozen: {stall:?}");
    stop.store(true, Ordering::Relaxed);
    for door in load {
        tokio::time::timeout(HUNG, door).await.expect("hung: a door").expect("the load ends well");
    }

    let told = std::mem::take(&mut *lock(&told));
    println!("{} acknowledged submissions", told.acknowledged.len());
    let auditor = stack.auditor().await;
    let replayed = until("a settlement for each acknowledged submission", || async {
        let replayed = books::replay(&stack, &auditor).await;
        (settled(&replayed).len() >= told.acknowledged.len() && replayed.open_holds() == 0).then_some(replayed)
    })
    .await;
    let settled = settled(&replayed);
    assert_eq!(settled.len(), told.acknowledged.len(), "as many jobs as submissions");
    assert!(told.ids.is_subset(&settled), "each job whose id was told is settled");
    assert!(settled.iter().all(|job| replayed.settlements(job) == 1) && replayed.books.total() == 0);
    let report = stack.cli.ok_async(&["credit", "verify"]).await;
    assert_eq!((&report["ok"], report["digest"].as_str()), (&Value::Bool(true), Some(books::hex(&replayed.books.digest()).as_str())));
}

fn settled(replayed: &books::Replayed) -> BTreeSet<JobId> {
    let job = |fact: &bus_schemas::ledger::Fact| if let What::Settle { job, .. } = &fact.what { Some(*job) } else { None };
    replayed.facts.iter().filter_map(job).collect()
}
