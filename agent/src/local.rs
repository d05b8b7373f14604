//! The doors on this machine: what people submit is kept until the hub has it, results come back, and the agent tells how it does.
//!
//! `submit` is stored in OUTBOX by the server itself, so it works while the agent or the hub is away. WORK holds the jobs that this
//! device has accepted and not ended.

use std::collections::HashMap;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use bus::Bus;
use bus_schemas::api::{ErrorBody, WatchState};
use bus_schemas::assignment::Payload;
use bus_schemas::event::Checkpoint;
use bus_schemas::id::Asker;
use bus_schemas::job::JobState;
use bus_schemas::subject::{header, local};
use bus_schemas::{AttemptId, Code, DeviceId, Form, InstanceId, JobId, MemberId, Problem, Proof, limits, strict};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

const GIB: i64 = 1 << 30;
const OUTBOX_ID: &str = "mesh-outbox-id";

/// The streams of the device's own server. Cheap to clone.
#[derive(Clone)]
pub struct Local {
    pub bus: Bus,
    work: Stream,
    outbox: Stream,
    /// Random, new with each store: sequences start over then, and a key made of one must not.
    pub outbox_id: String,
}

/// One accepted job in WORK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub s: InstanceId,
    pub assignment: Proof,
    pub payload: Payload,
    /// How far this device has come with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Checkpoint>,
}

impl Local {
    /// Makes the streams that are not there yet. Only after this may the address be told: before it, the server would say
    /// "published" and drop the job.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn open(bus: Bus) -> anyhow::Result<Self> {
        let context = jetstream::new(bus.client.clone());
        let base = Config { storage: StorageType::File, allow_direct: true, max_message_size: 400_000, ..Config::default() };
        let work = Config {
            name: local::WORK.into(),
            subjects: vec![local::WORK_SUBJECT.into()],
            retention: RetentionPolicy::Limits,
            // The queue itself keeps to 64; this is only a net.
            max_messages_per_subject: 1,
            max_bytes: GIB / 2,
            discard: DiscardPolicy::New,
            ..base.clone()
        };
        let fresh_id = bus::keys::random_hex::<6>()?;
        let outbox = Config {
            name: local::OUTBOX.into(),
            subjects: vec!["out.>".into()],
            retention: RetentionPolicy::WorkQueue,
            max_bytes: GIB,
            discard: DiscardPolicy::New,
            metadata: HashMap::from([(OUTBOX_ID.to_owned(), fresh_id.clone())]),
            ..base
        };
        let made = |error: jetstream::context::CreateStreamError| anyhow::anyhow!("failed to make a stream on the local server: {error}");
        let work = context.get_or_create_stream(work).await.map_err(made)?;
        let outbox = context.get_or_create_stream(outbox).await.map_err(made)?;
        let outbox_id = outbox.cached_info().config.metadata.get(OUTBOX_ID).cloned().unwrap_or(fresh_id);
        Ok(Self { bus, work, outbox, outbox_id })
    }

    /// Keeps an accepted job.
    ///
    /// # Errors
    /// Why it could not be kept.
    pub async fn keep(&self, attempt: &AttemptId, kept: &Kept) -> Result<(), Problem> {
        let payload = bus_schemas::envelope::encode(kept).into();
        let stored = self.bus.store_once(format!("work.{attempt}"), None, payload, std::time::Duration::from_secs(5)).await;
        stored.map(|_| ()).map_err(|error| Problem::new(Code::Unavailable, format!("the local store: {error}")))
    }
    /// Notes how far a kept job is; the note takes the place of what was kept.
    ///
    /// # Errors
    /// [`Code::Unavailable`]; the job is kept as before then.
    pub async fn keep_on(&self, attempt: &AttemptId, resume: Checkpoint) -> Result<(), Problem> {
        let away = |error: &dyn std::fmt::Display| Problem::new(Code::Unavailable, format!("the local store: {error}"));
        let found = self.bus.last_by_subject(local::WORK, &format!("work.{attempt}")).await.map_err(|error| away(&error))?;
        let message = found.ok_or_else(|| away(&"the job is not there"))?;
        let kept: Kept = strict::decode(Form::Msgpack, &message.payload, limits::BATCH_BYTES_MAX)?;
        self.keep(attempt, &Kept { resume: Some(resume), ..kept }).await
    }
    /// Forgets a job that has ended.
    pub async fn done(&self, attempt: &AttemptId) {
        if let Err(error) = self.work.purge().filter(format!("work.{attempt}")).await {
            // It would be taken up again after a restart, and its receipt would be a second one: harmless, but say so.
            tracing::warn!(%error, %attempt, "an ended job stays in WORK");
        }
    }
    /// Forgets what is no job that can be taken up.
    pub async fn forget(&self, seq: u64) {
        if let Err(error) = self.work.delete_message(seq).await {
            tracing::warn!(%error, seq, "what cannot be taken up stays in WORK");
        }
    }
    /// Every job that was kept, oldest first, with its sequence.
    ///
    /// # Errors
    /// Where the stream cannot be read.
    pub async fn kept(&self) -> anyhow::Result<Vec<(u64, Result<Kept, Problem>)>> {
        let mut all = Vec::new();
        let mut from = 1;
        loop {
            let messages = self.bus.from_seq(local::WORK, from, 32).await?;
            let Some(last) = messages.last() else { return Ok(all) };
            from = last.seq + 1;
            all.extend(
                messages.iter().map(|message| (message.seq, strict::decode(Form::Msgpack, &message.payload, limits::BATCH_BYTES_MAX))),
            );
        }
    }
    /// How many messages wait for the hub.
    pub async fn outbox_waiting(&self) -> Option<u64> {
        self.outbox.get_info().await.ok().map(|info| info.state.messages)
    }

    /// Whether the streams answer; `by_writing`: and whether they take anything. A server that once had no room answers and takes nothing.
    pub async fn answers(&self, by_writing: bool) -> bool {
        const PROBE: &str = "out.probe";
        if !by_writing {
            return self.outbox_waiting().await.is_some();
        }
        let wait = std::time::Duration::from_secs(1);
        let takes = self.bus.store_once(PROBE.into(), None, Bytes::new(), wait).await.is_ok();
        self.outbox.purge().filter(PROBE).await.is_ok() && takes
    }

    /// Gives what a member sees on `watch` to the programs of this machine, where this device submitted the job.
    pub async fn republish(&self, own: DeviceId, subject: &str, headers: Option<&HeaderMap>, payload: &Bytes) {
        let Some(headers) = headers else { return };
        let text = |name: &str| headers.get(name).map(|value| value.as_str());
        if text(header::ASKER).and_then(|asker| asker.parse().ok()) != Some(Asker::Device(own)) {
            return;
        }
        let Some((job, told)) = told(subject, payload) else { return };
        self.tell(&job.to_string(), told.clone()).await;
        if let Some(key) = text(header::JOB_KEY) {
            self.tell(&subject_words(key), told).await;
        }
    }
    /// Publishes on `result.<of>`.
    pub async fn tell(&self, of: &str, payload: Bytes) {
        if let Err(error) = self.bus.client.publish(local::result(of), payload).await {
            tracing::debug!(%error, of, "a result was not told");
        }
    }
}

/// What `result.<job>` says, if this watch message is an end: the result as it is, or the error.
fn told(subject: &str, payload: &Bytes) -> Option<(JobId, Bytes)> {
    let mut tokens = subject.strip_prefix("mesh.v1.watch.")?.split('.').skip(1);
    let job: JobId = tokens.next()?.parse().ok()?;
    match tokens.next()? {
        "result" => Some((job, payload.clone())),
        "state" => {
            let state: WatchState = serde_json::from_slice(payload).ok()?;
            let error = match state.state {
                JobState::Failed | JobState::Cancelled | JobState::Rejected => state.error.clone().unwrap_or_else(|| ended(&state)),
                JobState::Submitted
                | JobState::BiddingOpen
                | JobState::BiddingClosed
                | JobState::Assigned
                | JobState::Executing
                | JobState::Completed => return None,
            };
            let ended = Ended { id: job, state: state.state, error };
            Some((job, serde_json::to_vec(&ended).ok()?.into()))
        }
        _ => None,
    }
}

/// What is told of a job that has no result: the error, and of which job, like a result.
#[derive(Serialize)]
struct Ended {
    id: JobId,
    state: JobState,
    #[serde(flatten)]
    error: ErrorBody,
}

fn ended(told: &WatchState) -> ErrorBody {
    let code = if told.state == JobState::Cancelled { Code::JobCancelled } else { Code::JobFailed };
    let why = told.why.clone().unwrap_or_else(|| format!("the job is {}", told.state));
    Problem::new(code, why).body().about(&told.id.short())
}

/// A key as the end of a subject: what no subject may hold becomes `_`.
pub fn subject_words(key: &str) -> String {
    let plain = |c: char| if c.is_whitespace() || c.is_control() || matches!(c, '*' | '>') { '_' } else { c };
    let words: Vec<String> = key.split('.').map(|word| word.chars().map(plain).collect()).collect();
    words.iter().map(|word| if word.is_empty() { "_" } else { word }).collect::<Vec<_>>().join(".")
}

/// What its owner asks of the agent, on `mesh.owner`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Wish {
    /// Takes no work, and hands back what it has, running work too; for so long, or until `resume`.
    Pause {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Takes work again.
    Resume {},
    /// Takes no work, hands back what waits, ends what runs, and stops.
    Stop {},
}

/// The longest pause that ends by itself: a year. A longer one is meant to last until its owner says otherwise.
pub const PAUSE_MS_MAX: u64 = 365 * 24 * 3600 * 1000;

/// For how long an owner's pause may last.
///
/// # Errors
/// [`Code::BadTimeout`].
pub fn pause_ms(for_ms: Option<u64>) -> Result<Option<u64>, Problem> {
    match for_ms {
        Some(ms) if !(1..=PAUSE_MS_MAX).contains(&ms) => {
            let detail = format!("a pause that ends by itself lasts 1 to {PAUSE_MS_MAX} ms; without for_ms it lasts until it is resumed");
            Err(Problem::new(Code::BadTimeout, detail))
        }
        for_ms => Ok(for_ms),
    }
}

/// The longest reason that an owner may give, in characters: it is told to everybody whose job waits.
const REASON_CHARS_MAX: usize = 100;

/// An owner's reason as it may be told; none where it says nothing.
///
/// # Errors
/// [`Code::BadValue`].
pub fn reason(text: Option<&str>) -> Result<Option<&str>, Problem> {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    if text.is_some_and(|text| text.chars().count() > REASON_CHARS_MAX || text.contains(char::is_control)) {
        return Err(Problem::new(Code::BadValue, format!("a reason is one line of at most {REASON_CHARS_MAX} characters")));
    }
    Ok(text)
}

/// What the agent answers on `mesh.owner`; or an error as every door's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Jobs that go elsewhere now.
    pub handed_back: usize,
    /// Jobs that end here first.
    pub running: usize,
    /// Why it takes no work now; absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_working: Option<String>,
}

/// What the agent answers on `mesh.status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub id: DeviceId,
    pub name: String,
    pub member: MemberId,
    pub network: bus_schemas::NetworkId,
    pub network_name: String,
    pub version: String,
    pub pid: u32,
    pub uptime_s: u64,
    pub link: LinkStatus,
    /// The network's books do not extend what this device has seen of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<Problem>,
    /// Where programs on this machine connect; absent where the device has no server of its own.
    pub local_url: Option<String>,
    pub tier: u8,
    pub kinds: Vec<String>,
    /// Why a kind that this version knows is not offered.
    pub not_offered: Vec<String>,
    pub total: bus_schemas::resources::Resources,
    pub free: bus_schemas::resources::Resources,
    /// Jobs that wait and that run.
    pub waiting: usize,
    pub running: usize,
    /// Receipts that are not settled.
    pub unsettled: usize,
    /// Messages that wait for the hub.
    pub outbox: Option<u64>,
    /// Why it takes no work now; absent: it does.
    pub not_working: Option<String>,
    pub model_loaded: bool,
    pub totals: Totals,
}
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkStatus {
    pub up: bool,
    /// Round trip to the hub's streams, by the last heartbeat.
    pub round_trip_us: Option<u64>,
    /// Why it is down.
    pub why: Option<String>,
}
/// Counters since the agent started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    pub offers: u64,
    pub bids: u64,
    pub declined: u64,
    pub assigned: u64,
    pub completed: u64,
    pub failed: u64,
    /// Given to other devices: on a pause or a stop of its owner, or because it could not take them after all.
    #[serde(default)]
    pub handed_back: u64,
    pub cancelled: u64,
    /// Attempts that were settled, and what they paid.
    pub settled: u64,
    pub earned_mmana: i64,
    pub not_paid: u64,
    /// Submissions that went on to the hub, and that could not.
    pub forwarded: u64,
    pub refused: u64,
    /// Messages from above that were not believed.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Cid;

    #[test]
    fn only_ends_are_told() {
        let job = JobId(Cid::of(b"job"));
        let member = bus_schemas::Signer::from_seed(&[1; 32]).public().member_id();
        let subject = |what: &str| format!("mesh.v1.watch.{member}.{job}.{what}");
        let state = |state: &str| Bytes::from(format!(r#"{{"id":"{job}","state":"{state}","at":1,"why":"no device"}}"#));
        assert_eq!(told(&subject("result"), &Bytes::from_static(b"{}")), Some((job, Bytes::from_static(b"{}"))));
        for running in ["Submitted", "Executing", "Completed"] {
            assert_eq!(told(&subject("state"), &state(running)), None, "{running}");
        }
        for (end, code) in [("Failed", "M0508"), ("Rejected", "M0508"), ("Cancelled", "M0510")] {
            let (_, body) = told(&subject("state"), &state(end)).unwrap();
            let body: ErrorBody = serde_json::from_slice(&body).unwrap();
            assert_eq!((body.code.code(), body.detail.as_str()), (code, "no device"));
        }
        for odd in ["mesh.v1.watch.x", "mesh.v1.watch.m.j.result", &subject("log"), "other"] {
            assert_eq!(told(odd, &Bytes::new()), None, "{odd}");
        }
    }

    #[test]
    fn a_key_becomes_part_of_a_subject() {
        for (key, words) in [("k-1", "k-1"), ("a b\t*>", "a_b___"), ("a..b.", "a._.b._"), ("ü/0", "ü/0"), ("", "_")] {
            assert_eq!(subject_words(key), words);
        }
    }
}
