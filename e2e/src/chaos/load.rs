//! Clients at every door. Each sends one job after the other and notes exactly what it was told; an unclear answer is asked for again with
//! the same key until it is clear, as a real client would.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bus::Bus;
use bus::async_nats::HeaderMap;
use bus_schemas::job::unsigned_job_id;
use bus_schemas::{Code, JobId};
use futures::StreamExt;
use serde_json::Value;
use testkit::{Cli, Dice, http};

use super::fleet::{Fleet, Who};
use super::work::{Kind, Work};
use super::{Settings, ms};

/// One answer is waited for this long.
const ANSWER: Duration = Duration::from_secs(10);
/// Without a clear answer for this long, the door is broken: parts are down for seconds, not minutes.
const UNCLEAR_MAX: Duration = Duration::from_secs(180);

/// What clients were told.
#[derive(Debug, Default)]
pub struct Told {
    pub jobs: BTreeMap<JobId, Ack>,
    /// What cannot be: a good job refused, a repeat with another id, a door that never answers.
    pub broken: Vec<String>,
    /// Every end that was told live to the member of the stack.
    pub watched: BTreeMap<JobId, BTreeSet<String>>,
    /// Questions whose answer was unclear.
    pub repeats: u64,
    /// Longest time to a clear answer.
    pub slowest: Duration,
}

/// A submission that was acknowledged.
#[derive(Debug, Clone)]
pub struct Ack {
    /// Of [`Fleet::people`].
    pub who: usize,
    pub door: &'static str,
    pub work: Work,
    pub cancel_asked: bool,
    pub retry_of: Option<JobId>,
}

/// Where a client knocks.
enum Door {
    /// One gateway after the other.
    Http,
    /// The service, asked over NATS.
    Service(Bus),
    /// The submit subject of the hub.
    Subject(Bus),
    Cli(Cli),
    /// A device's own server.
    Local(Bus),
}
impl Door {
    const fn name(&self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Service(_) => "service",
            Self::Subject(_) => "subject",
            Self::Cli(_) => "cli",
            Self::Local(_) => "local",
        }
    }
}

enum Answer {
    Acked(JobId),
    Refused(String),
    Unclear,
}

struct Client {
    door: Door,
    who: usize,
    person: Who,
    gateways: Vec<String>,
    dice: Dice,
    name: String,
    blob: Option<String>,
    pace_ms: u64,
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    watching: tokio::task::JoinHandle<()>,
}

impl Load {
    /// Starts a client at each door, and one at each device.
    ///
    /// # Panics
    /// Where a door is closed before anything was broken.
    pub async fn start(fleet: &Fleet, settings: &Settings) -> Self {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
        let (people, gateways) = (fleet.people(), fleet.gateways());
        let texts: String = (0..3).map(|n| format!("{{\"text\":\"seed {} {n}\"}}\n", settings.seed)).collect();
        let authorization = format!("Bearer {}", people[0].token);
        let (status, stored) =
            http::send("POST", &format!("{}/api/v1/blobs", gateways[0]), &[("authorization", &authorization)], texts).await;
        assert_eq!(status, 201, "{stored}");
        let blob = stored["cid"].as_str().map(str::to_owned);
        let member = fleet.stack.member().await;
        let watching = watch(&member, &people[0], &told).await;
        let mut doors = vec![
            (Door::Http, 0),
            (Door::Http, 0),
            (Door::Service(member.clone()), 0),
            (Door::Subject(member), 0),
            (Door::Cli(fleet.stack.cli.clone()), 0),
        ];
        for (n, device) in fleet.own.iter().enumerate() {
            let local = fleet.stack.connect(&device.local_url, bus::connect::Login::None, "_INBOX").await;
            doors.push((Door::Local(local), n + 1));
        }
        let tasks = doors.into_iter().enumerate().map(|(lane, (door, who))| {
            let client = Client {
                name: format!("{}-{lane}-{}", settings.seed, door.name()),
                door,
                who,
                person: people[who].clone(),
                gateways: gateways.clone(),
                dice: Dice::of(settings.seed, lane as u64 + 1),
                blob: blob.clone().filter(|_| who == 0),
                pace_ms: settings.pace_ms,
                told: Arc::clone(&told),
                stop: Arc::clone(&stop),
            };
            tokio::spawn(client.run())
        });
        Self { tasks: tasks.collect(), stop, told, watching }
    }

    /// Waits until so many more were acknowledged.
    pub async fn goes_on(&self, more: u64) {
        let count = || self.told.lock().unwrap_or_else(PoisonError::into_inner).jobs.len() as u64;
        let goal = count() + more;
        testkit::until("the load to go on", || async { (count() >= goal).then_some(()) }).await;
    }

    /// Lets every client come to a clear answer; all that they were told.
    ///
    /// # Panics
    /// Where a client ended in a panic.
    pub async fn end(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a client ends in order");
        }
        self.watching.abort();
        std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Notes every end that is told live. What is told while the connection is down is missed, as by any client.
async fn watch(member: &Bus, person: &Who, told: &Arc<Mutex<Told>>) -> tokio::task::JoinHandle<()> {
    let mut live = member.client.subscribe(format!("mesh.v1.watch.{}.*.state", person.member)).await.expect("a subscription");
    member.client.flush().await.expect("a flush");
    let told = Arc::clone(told);
    tokio::spawn(async move {
        while let Some(message) = live.next().await {
            let Ok(state) = serde_json::from_slice::<Value>(&message.payload) else { continue };
            let ended = matches!(state["state"].as_str(), Some("Completed" | "Failed" | "Cancelled" | "Rejected"));
            if let (true, Some(Ok(id)), Some(name)) = (ended, state["id"].as_str().map(str::parse), state["state"].as_str()) {
                told.lock().unwrap_or_else(PoisonError::into_inner).watched.entry(id).or_default().insert(name.to_owned());
            }
        }
    })
}

impl Client {
    async fn run(mut self) {
        let mut failed: Option<JobId> = None;
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let work = Work::draw(&mut self.dice, format!("{}-{n}", self.name), self.blob.as_deref());
            let (cancels, repeats, retries) = (self.dice.percent(8), self.dice.percent(10), self.dice.percent(15));
            if let Some(id) = self.until_clear(&work).await {
                if cancels {
                    self.cancel(&id).await;
                }
                if repeats && self.until_clear(&work).await.is_some_and(|again| again != id) {
                    self.broken(format!("{} got another id when it was sent again than {id}", work.key));
                }
                if let Some(old) = failed.filter(|_| retries) {
                    self.retry(&old).await;
                    failed = None;
                }
                if matches!(work.kind, Kind::Nobody | Kind::Fails) {
                    failed = Some(id);
                }
            }
            let pause = self.dice.between(self.pace_ms / 4, self.pace_ms * 7 / 4);
            tokio::time::sleep(ms(pause)).await;
        }
    }

    /// Submits until the answer is clear; the id, where it was acknowledged.
    async fn until_clear(&mut self, work: &Work) -> Option<JobId> {
        let begun = Instant::now();
        loop {
            match self.submit(work).await {
                Answer::Acked(id) => {
                    let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.slowest = told.slowest.max(begun.elapsed());
                    let (who, door) = (self.who, self.door.name());
                    told.jobs.entry(id).or_insert_with(|| Ack { who, door, work: work.clone(), cancel_asked: false, retry_of: None });
                    return Some(id);
                }
                Answer::Refused(why) => {
                    self.broken(format!("{} was refused at {}: {why}", work.key, self.door.name()));
                    return None;
                }
                Answer::Unclear if begun.elapsed() > UNCLEAR_MAX => {
                    self.broken(format!("{} got no clear answer at {} within {UNCLEAR_MAX:?}", work.key, self.door.name()));
                    return None;
                }
                Answer::Unclear => {
                    self.told.lock().unwrap_or_else(PoisonError::into_inner).repeats += 1;
                    tokio::time::sleep(ms(200)).await;
                }
            }
        }
    }

    async fn submit(&mut self, work: &Work) -> Answer {
        match &self.door {
            Door::Http => {
                let key = [("idempotency-key", work.key.as_str()), ("content-type", "application/json")];
                self.post("/jobs", &key, &work.body).await
            }
            Door::Service(bus) => {
                let subject = format!("mesh.v1.api.{}.job.submit", self.person.member);
                let request = bus::async_nats::client::Request::new().payload(work.body.clone().into()).headers(key_header(&work.key));
                match bus.client.send_request(subject, request.timeout(Some(ANSWER))).await {
                    Ok(answer) => clear(&serde_json::from_slice(&answer.payload).unwrap_or(Value::Null)),
                    Err(_) => Answer::Unclear,
                }
            }
            Door::Subject(bus) => self.store(bus, format!("mesh.v1.submit.{}", self.person.member), work).await,
            Door::Local(bus) => self.store(bus, "submit".into(), work).await,
            Door::Cli(cli) => by_cli(cli.clone(), work.clone()).await,
        }
    }

    /// A PubAck is the acknowledgement; the id follows from who, key and bytes.
    async fn store(&self, bus: &Bus, subject: String, work: &Work) -> Answer {
        match bus.store_once(subject, Some(key_header(&work.key)), work.body.clone().into(), ANSWER).await {
            Ok(_) => Answer::Acked(unsigned_job_id(&self.person.member, &work.key, work.body.as_bytes())),
            Err(_) => Answer::Unclear,
        }
    }

    /// Asks a gateway, another one each time.
    async fn post(&mut self, path: &str, more: &[(&str, &str)], body: &str) -> Answer {
        let n = self.dice.below(self.gateways.len() as u64);
        let url = format!("{}/api/v1{path}", self.gateways[usize::try_from(n).unwrap_or(0)]);
        let authorization = format!("Bearer {}", self.person.token);
        let headers = [&[("authorization", authorization.as_str())], more].concat();
        match tokio::time::timeout(ANSWER, http::try_send("POST", &url, &headers, body.to_owned())).await {
            Ok(Ok((_, answer))) => clear(&serde_json::from_slice(&answer).unwrap_or(Value::Null)),
            Ok(Err(_)) | Err(_) => Answer::Unclear,
        }
    }

    /// Asks for its end, once: whatever the answer, it may be cancelled from now on.
    async fn cancel(&mut self, id: &JobId) {
        if let Some(ack) = self.told.lock().unwrap_or_else(PoisonError::into_inner).jobs.get_mut(id) {
            ack.cancel_asked = true;
        }
        let _ = self.post(&format!("/jobs/{id}/cancel"), &[], "").await;
    }

    /// Tries a job again that cannot succeed; where it has not ended, that is refused, and nothing is to be expected.
    async fn retry(&mut self, id: &JobId) {
        let Answer::Acked(new) = self.post(&format!("/jobs/{id}/retry"), &[], "").await else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(old) = told.jobs.get(id).cloned() else { return };
        told.jobs.entry(new).or_insert(Ack { cancel_asked: false, retry_of: Some(*id), door: "retry", ..old });
    }

    fn broken(&self, what: String) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).broken.push(what);
    }
}

/// An id is an acknowledgement; a code that may pass, or no answer at all, is unclear.
fn clear(answer: &Value) -> Answer {
    if let Some(Ok(id)) = answer["id"].as_str().map(str::parse) {
        return Answer::Acked(id);
    }
    match answer["code"].as_str().and_then(|code| code.parse::<Code>().ok()) {
        Some(code) if code.http() < 500 && !matches!(code.http(), 408 | 429) => Answer::Refused(answer.to_string()),
        Some(_) | None => Answer::Unclear,
    }
}

async fn by_cli(cli: Cli, work: Work) -> Answer {
    let run = tokio::task::spawn_blocking(move || {
        let file = std::env::temp_dir().join(format!("mesh-chaos-{}-{}.json", std::process::id(), work.key));
        std::fs::write(&file, &work.body).expect("a file");
        let output = cli.run(&["job", "submit", &file.to_string_lossy(), "--key", &work.key, "-o", "json"]);
        let _ = std::fs::remove_file(file);
        output
    });
    let Ok(output) = run.await else { return Answer::Unclear };
    clear(&serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

fn key_header(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Mesh-Job-Key", key);
    headers
}
