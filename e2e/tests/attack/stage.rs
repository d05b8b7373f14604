//! Where the attacks happen: a running network, an honest neighbour who submits jobs all the while, and watchers on both sides of the hub.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bus::Bus;
use bus::async_nats::HeaderMap;
use bus::connect::Login;
use futures::StreamExt;
use serde_json::{Value, json};
use testkit::{HUNG, Stack, http, until};

use crate::rogue::Rogue;

/// No job of the neighbour takes longer, or it has noticed something.
const UNNOTICED: Duration = Duration::from_secs(10);

/// What an attack came to: what happened, or what should not have.
pub type Outcome = Result<String, String>;

struct Row {
    group: &'static str,
    tried: String,
    outcome: Outcome,
    neighbour: String,
}

pub struct Stage {
    pub stack: Stack,
    pub rogue: Rogue,
    /// Everything that is said in CONTROL, and every right there.
    pub control: Bus,
    said: Arc<Mutex<Vec<(String, String)>>>,
    neighbour: Neighbour,
    link: Value,
    rows: Vec<Row>,
    counted: usize,
}

/// What must not follow from an attack.
#[macro_export]
macro_rules! must {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

impl Stage {
    pub async fn set() -> Self {
        let stack = Stack::start(&["--agents", "2"], &[]);
        let rogue = Rogue::join(&stack).await;
        let hub = stack.text("/nats/url");
        let bootstrap = Login::Creds(stack.path("/data_dir").join("network/creds/bootstrap.creds"));
        let control = stack.connect(&hub, bootstrap, "_INBOX.bootstrap").await;
        let said = Arc::new(Mutex::new(vec![]));
        let mut all = control.client.subscribe(">").await.expect("a subscription");
        control.client.flush().await.expect("a flush");
        let noted = said.clone();
        tokio::spawn(async move {
            while let Some(message) = all.next().await {
                let text = format!("{:?} {}", message.headers, String::from_utf8_lossy(&message.payload));
                if message.subject.contains("evil-") || text.contains("evil-") {
                    noted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((message.subject.to_string(), text.chars().take(300).collect()));
                }
            }
        });
        let neighbour = Neighbour::begin(&stack).await;
        let link = link(&stack).await;
        Self { stack, rogue, control, said, neighbour, link, rows: vec![], counted: 0 }
    }

    /// The honest neighbour's device, and its member.
    pub fn victim(&self) -> String {
        self.stack.text("/devices/1/id")
    }
    pub fn victim_member(&self) -> String {
        self.stack.text("/member/id")
    }

    /// Notes what an attack came to, once the neighbour has had another job done.
    pub async fn row(&mut self, group: &'static str, tried: &str, outcome: Outcome) {
        self.neighbour.two_more().await;
        let jobs: Vec<Job> = self.neighbour.jobs.lock().unwrap_or_else(PoisonError::into_inner)[self.counted..].to_vec();
        self.counted += jobs.len();
        let (neighbour, harmed) = told(&jobs);
        let mut outcome = outcome;
        if outcome.is_ok() {
            let said = std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner));
            let foreign = said
                .into_iter()
                .find(|(subject, _)| !self.rogue.may(subject) && !subject.starts_with("_INBOX.") && !subject.starts_with("_R_."));
            let link = link(&self.stack).await;
            if let Some((subject, text)) = foreign {
                outcome = Err(format!("arrived in CONTROL on {subject}: {text}"));
            } else if link != self.link {
                outcome = Err(format!("the neighbour's link was cut: {link} instead of {}", self.link));
            } else if let Some(why) = harmed {
                outcome = Err(format!("the neighbour noticed: {why}"));
            }
            self.link = link;
        }
        self.rows.push(Row { group, tried: tried.to_owned(), outcome, neighbour });
    }

    /// Counts none of the neighbour's jobs until the next one begins: what it noticed so far is no row's.
    pub async fn forget(&mut self) {
        self.neighbour.two_more().await;
        self.counted = self.neighbour.jobs.lock().unwrap_or_else(PoisonError::into_inner).len();
    }

    /// Number of messages and the last sequence of each stream.
    pub async fn streams(&self) -> Vec<(String, u64, u64)> {
        let answer = self.control.ask_bytes("$JS.API.STREAM.LIST".into(), "{}".into(), HUNG).await.expect("the list of streams");
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        let streams = answer["streams"].as_array().cloned().unwrap_or_default();
        let number = |stream: &Value, name: &str| stream["state"][name].as_u64().unwrap_or_default();
        let row = |stream: &Value| {
            (stream["config"]["name"].as_str().unwrap_or_default().to_owned(), number(stream, "messages"), number(stream, "last_seq"))
        };
        streams.iter().map(row).collect()
    }
    /// Names of all streams with their consumers and configurations: what no attack may change.
    pub async fn shape(&self) -> Value {
        let list = self.control.ask_bytes("$JS.API.STREAM.LIST".into(), "{}".into(), HUNG).await.expect("the list of streams");
        let list: Value = serde_json::from_slice(&list).expect("JSON");
        let mut shape = vec![];
        for stream in list["streams"].as_array().cloned().unwrap_or_default() {
            let name = stream["config"]["name"].as_str().unwrap_or_default();
            let consumers =
                self.control.ask_bytes(format!("$JS.API.CONSUMER.LIST.{name}"), "{}".into(), HUNG).await.expect("the list of consumers");
            let consumers: Value = serde_json::from_slice(&consumers).expect("JSON");
            let mut names: Vec<String> =
                consumers["consumers"].as_array().cloned().unwrap_or_default().iter().map(|one| one["config"].to_string()).collect();
            names.sort_unstable();
            shape.push(json!([stream["config"], names]));
        }
        shape.sort_by_key(|one| one[0]["name"].to_string());
        json!(shape)
    }
    /// A number of the hub's `/varz`.
    pub async fn varz(&self, name: &str) -> u64 {
        let (_, varz) = http::send("GET", &format!("{}/varz", self.stack.text("/nats/nodes/0/monitor_url")), &[], "").await;
        varz[name].as_u64().unwrap_or_default()
    }

    /// Prints the table.
    ///
    /// # Panics
    /// Where an attack came to something.
    pub fn finish(self) {
        let Self { rows, stack, .. } = self;
        for row in &rows {
            let (sign, what) = match &row.outcome {
                Ok(what) => ("held", what),
                Err(what) => ("HARM", what),
            };
            println!("{sign} | {:10} | {} | {what} | {}", row.group, row.tried, row.neighbour);
        }
        let harm = rows.iter().filter(|row| row.outcome.is_err()).count();
        println!("{} attacks, {harm} came to something", rows.len());
        let died: Vec<Value> =
            stack.events().into_iter().filter(|event| event["event"] == "restarted" || event["event"] == "exited").collect();
        assert!(died.is_empty(), "a process died: {died:?}");
        assert_eq!(harm, 0, "see the table");
    }
}

/// Whether the neighbour's link is still the one it was: its number at the hub and when it began.
async fn link(stack: &Stack) -> Value {
    let url = format!("{}/leafz", stack.text("/nats/nodes/0/monitor_url"));
    let name = server_name(stack);
    until("the neighbour's link", || async {
        let (_, leafz) = http::send("GET", &url, &[], "").await;
        let links = leafz["leafs"].as_array()?;
        links.iter().find(|link| link["name"] == name).map(|link| json!([link["id"], link["start"]]))
    })
    .await
}

/// The neighbour's server has a name that nobody else knows.
pub fn server_name(stack: &Stack) -> String {
    let conf = stack.path("/devices/1/home").join("nats/leaf.conf");
    let text = std::fs::read_to_string(conf).expect("the configuration of the neighbour's server");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("server_name:")).expect("a name");
    line.split('"').nth(1).expect("a name").to_owned()
}

#[derive(Debug, Clone)]
struct Job {
    took: Result<Duration, String>,
}

/// For people, and what harm was done.
fn told(jobs: &[Job]) -> (String, Option<String>) {
    let mut times: Vec<Duration> = jobs.iter().filter_map(|job| job.took.clone().ok()).collect();
    times.sort_unstable();
    let failed = jobs.iter().find_map(|job| job.took.clone().err());
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default();
    let longest = times.last().copied().unwrap_or_default();
    let text =
        format!("{} jobs, p50 {} ms, p99 {} ms, longest {} ms", jobs.len(), at(50).as_millis(), at(99).as_millis(), longest.as_millis());
    let slow = (longest > UNNOTICED).then(|| format!("a job took {longest:?}"));
    (text, failed.or(slow))
}

/// A member and a device who know nothing of all this.
struct Neighbour {
    jobs: Arc<Mutex<Vec<Job>>>,
}

impl Neighbour {
    async fn begin(stack: &Stack) -> Self {
        let (member, device) = (stack.text("/member/id"), stack.text("/devices/1/id"));
        let bus = stack.member().await;
        let mut results = bus.client.subscribe(format!("mesh.v1.watch.{member}.*.result")).await.expect("a subscription");
        bus.client.flush().await.expect("a flush");
        let jobs = Arc::new(Mutex::new(vec![]));
        let noted = jobs.clone();
        tokio::spawn(async move {
            for n in 0_u64.. {
                let key = format!("neighbour-{n}");
                let body = json!({"kind": "echo", "text": format!("private-{n}"), "target": device}).to_string();
                let mut headers = HeaderMap::new();
                headers.insert("Mesh-Job-Key", key.as_str());
                let begun = Instant::now();
                let stored = bus.store_once(format!("mesh.v1.submit.{member}"), Some(headers), body.into(), UNNOTICED).await;
                let end = async {
                    while let Some(message) = results.next().await {
                        let header =
                            |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str());
                        if header("Mesh-Asker").is_some() && header("Mesh-Job-Key") == Some(&key) {
                            return Ok(begun.elapsed());
                        }
                    }
                    Err("no more results".to_owned())
                };
                let took = match stored {
                    Err(error) => Err(format!("{key} was not stored: {error}")),
                    Ok(_) => tokio::time::timeout(HUNG, end).await.unwrap_or_else(|_| Err(format!("{key} has no end"))),
                };
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(Job { took });
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let neighbour = Self { jobs };
        neighbour.two_more().await;
        neighbour
    }

    /// Waits until a job that began from now on has ended.
    async fn two_more(&self) {
        let count = || self.jobs.lock().unwrap_or_else(PoisonError::into_inner).len();
        let before = count();
        until("the neighbour's jobs", || async { (count() >= before + 2).then_some(()) }).await;
    }
}
