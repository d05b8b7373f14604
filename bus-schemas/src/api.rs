//! What people script against: the same JSON at every door. The JSON Schemas in `docs/schemas` are generated from these types.
//!
//! Times are hub time. Where they are text they are RFC 3339 in UTC; where they are numbers they are Unix milliseconds, as the part that
//! recorded them wrote and signed them (transitions, decisions, attempts, draining, `watch` messages). No field is ever both.

pub mod ledger;
pub mod letters;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::UnixMs;
use crate::code::{Code, Problem};
use crate::event::{Checkpoint, Progress};
use crate::history::{Considered, Decision, Transition};
use crate::holding::HoldingPhase;
use crate::id::{AttemptId, Cid, DeviceId, JobId, MemberId, PublicKey, ReceiptId};
use crate::job::JobState;
use crate::mana::{MilliMana, mana_text};
use crate::network::Draining;
use crate::receipt::Receipt;
use crate::replay::Books;
use crate::resources::Resources;

/// Any error (RFC 9457 with our code).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ErrorBody {
    #[serde(rename = "type")]
    pub kind: String,
    pub code: Code,
    pub title: String,
    pub detail: String,
    /// Commands to run next.
    pub next: Vec<String>,
    /// Of an asker that asks too much: when the same may be asked again, in milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}
impl ErrorBody {
    /// About one thing: its id stands where the commands to run next have none.
    #[must_use]
    pub fn about(mut self, id: &str) -> Self {
        for next in &mut self.next {
            if let Some(command) = next.strip_suffix(" ID") {
                *next = format!("{command} {}", id.chars().take(80).collect::<String>());
            }
        }
        self
    }
}
impl From<ErrorBody> for Problem {
    fn from(body: ErrorBody) -> Self {
        Self::new(body.code, body.detail).wait(body.wait_ms.unwrap_or(0))
    }
}

/// The answer to a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Submitted {
    pub id: JobId,
    /// What people see and may type.
    pub short: String,
    pub state: JobState,
    /// Why it waits, when nothing fits now: "0 of 9 devices fit …".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// The idempotency key that was used.
    pub key: String,
}

/// A job as lists and `job show` give it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobView {
    pub id: JobId,
    pub short: String,
    pub state: JobState,
    /// Absent where a rejected message did not even name one.
    pub kind: Option<String>,
    pub member: MemberId,
    pub device: Option<DeviceId>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    pub attempts: u32,
    pub key: Option<String>,
    /// RFC 3339, hub time.
    pub created_at: String,
    pub finished_at: Option<String>,
    /// What was charged, in mana; null until settled.
    pub cost: Option<String>,
    pub cost_mmana: Option<MilliMana>,
    /// The most it may cost.
    pub hold_mmana: Option<MilliMana>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// For how long nothing was heard of its device, where a heartbeat of it is missing: what is told of the job is of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_silent_ms: Option<u64>,
    /// It has run for more than a second.
    #[serde(default)]
    pub is_long_running: bool,
    /// How far it is kept: another device would go on behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// Somebody wants it to end, and it has not yet.
    #[serde(default)]
    pub cancelling: bool,
    /// Why it should have moved on by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue: Option<String>,
    /// Why it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Why it failed or was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The job that this one tries again; in lists it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<JobId>,
    /// The job that tries this one again; in lists it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_as: Option<JobId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transitions: Vec<Transition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobList {
    pub jobs: Vec<JobView>,
    /// Pass as `cursor` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Up to when all that was recorded is in this list, and how long ago that was, in milliseconds: a moment as a rule, more while the records
    /// are not taken in. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
}

/// A result with its receipt. `result` is what the executor made, verbatim (echo: `{"text":…}`, embed:
/// `{"model":…,"dims":384,"vectors":[[…],…]}`), or `{"cid":…,"bytes":…}` where it is larger than 32 KiB.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResultView {
    pub id: JobId,
    pub state: JobState,
    pub result: Box<RawValue>,
    pub receipt: ReceiptView,
}
/// The shape of [`ResultView`], for the published schema.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "ResultView")]
pub struct ResultShape {
    pub id: JobId,
    pub state: JobState,
    pub result: ResultJson,
    pub receipt: ReceiptView,
}
/// What executors make.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum ResultJson {
    Echo { text: String },
    Embed { model: String, dims: u32, vectors: Vec<Vec<f32>>, truncated: Vec<u32> },
    Large(BlobRef),
}

/// A part of an `embed` result, kept while the job runs; told on `mesh.v1.watch.<m>.<j>.out` as its [`crate::event::Checkpoint`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartialResult {
    pub model: String,
    pub dims: u32,
    /// The first text of this part, counted from 0.
    pub from: u32,
    /// One vector per text.
    pub vectors: Vec<Vec<f32>>,
    /// Texts of the job that were cut, among those of this part.
    pub truncated: Vec<u32>,
    /// The part before this one; absent in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BlobRef>,
}

/// What stands in `result` for a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    pub cid: Cid,
    pub bytes: u64,
}

/// A receipt for people and programs, with all that is needed to check it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReceiptView {
    pub id: ReceiptId,
    pub job: JobId,
    pub attempt: AttemptId,
    pub device: DeviceId,
    /// The key that signed.
    pub did: PublicKey,
    pub body: Receipt,
    /// The signed carrier (MessagePack `Proof`), base64url: what `mesh job receipt --verify` checks.
    pub proof: String,
    /// The assignment it answers, likewise; absent where it was not kept: a scheduler died before the end of the job was written, and the
    /// device was gone. The books had checked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<String>,
}

/// What a member sees on `mesh.v1.watch.<m>.<j>.state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WatchState {
    pub id: JobId,
    pub state: JobState,
    pub at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The winner's name and price, how many bid, how many did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_mmana: Option<MilliMana>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bids: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<u32>,
    /// Texts that earlier attempts have done: the device goes on behind them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_units: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

impl WatchState {
    /// A change of state, with nothing else to say.
    pub fn of(id: JobId, state: JobState, at: UnixMs) -> Self {
        Self {
            id,
            state,
            at,
            device: None,
            device_name: None,
            price_mmana: None,
            bids: None,
            rejected: None,
            resumed_units: None,
            why: None,
            error: None,
        }
    }
}

/// `job explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Explanation {
    pub id: JobId,
    pub short: String,
    pub state: JobState,
    /// One sentence.
    pub summary: String,
    /// Each auction or look, newest first.
    pub decisions: Vec<Decision>,
    /// Oldest first: those that failed, and the one that goes on or was paid.
    pub attempts: Vec<AttemptView>,
    /// What happens next, and when, in plain words; what may be done, once it has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
    /// Who has it in hand now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseView>,
    /// Somebody wants it to end, and it has not ended yet.
    #[serde(default)]
    pub cancelling: bool,
    /// Why it should have moved on by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue: Option<String>,
    /// When it is looked at again, and when it gives up (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_look_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_up_at: Option<String>,
    pub transitions: Vec<Transition>,
    /// Every device considered last, with its verdict.
    pub devices: Vec<Considered>,
}
/// The scheduler that holds a job's message, by its own word. Times are RFC 3339, hub time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeaseView {
    pub scheduler: String,
    pub since: String,
    /// The last renewal that the server confirmed, and the next.
    pub renewed_at: String,
    pub renews_at: String,
    /// It lets go by then if no renewal is confirmed.
    pub ends_at: String,
    pub phase: HoldingPhase,
}
/// How an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// Its device was asked to take it.
    Offered,
    /// It is in its device's queue.
    Waiting,
    Running,
    Completed,
    /// Stopped on request; the time used is paid.
    Cancelled,
    /// As its class says. What was stored before there were others is of this kind.
    #[default]
    Failed,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AttemptView {
    pub attempt: AttemptId,
    #[serde(default)]
    pub state: AttemptState,
    pub number: u32,
    pub device: DeviceId,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// How it failed, and a sentence; both are empty unless it did.
    pub class: String,
    pub message: String,
    /// Texts of the job that were done and kept when it ended: the next one went on behind them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_units: Option<u32>,
    /// Hub time, Unix milliseconds, as they were recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<UnixMs>,
    /// Whether another device may fare better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
}

/// A device as `node ls` and `/api/v1/devices` give it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeviceInfo {
    pub id: DeviceId,
    pub did: PublicKey,
    pub name: String,
    pub member: MemberId,
    /// Attested: what is paid.
    pub tier: u8,
    pub claimed_tier: Option<u8>,
    /// 0 to 100, from the ledger; 50 at the start.
    #[serde(default)]
    pub reputation: u32,
    pub online: bool,
    /// "idle", "working", "paused …", "draining since …" (it takes nothing new and still has work), "drained, as asked at …" (and has none
    /// left), "offline since …".
    pub status: String,
    /// It ends what it has and takes nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
    pub last_seen: Option<String>,
    /// The same as it was recorded: when its last heartbeat was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard_at: Option<UnixMs>,
    pub kinds: Vec<String>,
    pub capabilities: Vec<String>,
    pub total: Resources,
    pub free: Resources,
    pub jobs: u32,
    pub version: Option<String>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeviceList {
    pub devices: Vec<DeviceInfo>,
    /// Most devices fell silent at once, and the schedulers leave their jobs with them for a while: their own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_back: Option<String>,
}

/// `credit balance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BalanceView {
    pub member: MemberId,
    pub available_mmana: i64,
    pub held_mmana: i64,
    pub vesting_mmana: i64,
    /// The same in mana, for people.
    pub available: String,
    pub held: String,
    pub vesting: String,
    /// Last fact that the answer covers.
    pub ledger_seq: u64,
}
/// One line of `credit history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CreditEntry {
    pub seq: u64,
    pub at: String,
    pub kind: String,
    pub job: Option<JobId>,
    pub account: String,
    /// Into the account (+) or out of it (-).
    pub amount_mmana: i64,
    pub counterpart: String,
    /// What somebody wrote beside it: the note of a transfer, the reason of a grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CreditHistory {
    pub member: MemberId,
    pub entries: Vec<CreditEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
/// `credit verify` and `mesh-ledger verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VerifyReport {
    pub ok: bool,
    /// Last sequence replayed.
    pub seq: u64,
    pub facts: u64,
    /// SHA-256 of all balances and open holds, hex.
    pub digest: String,
    /// Hash chain over the stored messages, hex.
    pub chain: String,
    /// Sum of all balances; 0.
    pub total_mmana: i64,
    pub accounts: u64,
    pub open_holds: u64,
    /// What is wrong, one sentence each; the first names the sequence.
    pub wrong: Vec<String>,
    /// What counts for nothing and contradicts nothing: somebody stored it, and someone should know who.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// Digest of the database, where it was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_digest: Option<String>,
}
impl VerifyReport {
    /// What a replay came to: the books as they stand, what was found on the way, and what [`Books::check_all`] finds in them.
    pub fn of(books: &Books, mut wrong: Vec<String>, alarms: Vec<String>, database_digest: Option<String>) -> Self {
        if let Err(more) = books.check_all() {
            wrong.extend(more);
        }
        Self {
            ok: wrong.is_empty(),
            seq: books.seq(),
            facts: books.fact_count(),
            digest: HEXLOWER.encode(&books.digest()),
            chain: HEXLOWER.encode(books.chain()),
            total_mmana: i64::try_from(books.total()).unwrap_or(i64::MAX),
            accounts: books.balances().len() as u64,
            open_holds: books.open_holds().count() as u64,
            wrong,
            alarms,
            database_digest,
        }
    }

    /// The report for people, without a last line break.
    pub fn text(&self) -> String {
        let verdict = if self.ok { "the books add up" } else { "THE BOOKS ARE WRONG" };
        let mut text = format!(
            "{verdict}: {} facts up to sequence {}, {} accounts, sum {} mana, {} open holds\n  digest  {}\n  chain   {}",
            self.facts,
            self.seq,
            self.accounts,
            mana_text(self.total_mmana),
            self.open_holds,
            self.digest,
            self.chain
        );
        match &self.database_digest {
            Some(digest) if *digest != self.digest => text.push_str(&format!("\n  database: its digest is {digest}")),
            Some(_) if self.ok => text.push_str("\n  database: the same, row by row"),
            Some(_) | None => {}
        }
        self.wrong.iter().for_each(|wrong| text.push_str(&format!("\n  wrong: {wrong}")));
        self.alarms.iter().for_each(|alarm| text.push_str(&format!("\n  alarm: {alarm}")));
        text
    }
}

/// `blob put` answers this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BlobStored {
    pub cid: Cid,
    pub bytes: u64,
}

/// Requests of the NATS service (`mesh.v1.api.<a>.<noun>.<verb>`); empty payload = defaults.
pub mod people;

pub mod ask {
    use super::{Cid, Deserialize, JobState, Serialize};

    /// job.show|result|explain|cancel|receipt: full id, `job_…`, or a unique prefix of it.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct ById {
        pub id: String,
    }
    #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct JobLs {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub state: Option<JobState>,
        /// Only those that should have moved on by now, oldest first.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub overdue: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub limit: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cursor: Option<String>,
    }
    /// dlq.ls
    #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct LetterLs {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub limit: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cursor: Option<String>,
    }
    /// device.drain
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Drain {
        /// A device's full id.
        pub id: String,
        /// It takes work again.
        #[serde(default)]
        pub undo: bool,
        /// Why; told to those whose jobs wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
    }
    /// device.revoke, member.suspend, member.restore
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Bar {
        /// A device's or a member's full id.
        pub id: String,
        /// Why; it stands in the books.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// member.suspend: the logins of its devices end, too, and what they have goes elsewhere; otherwise they end it and are paid.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub now: bool,
    }
    /// member.role
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct SetRole {
        /// A member's full id.
        pub id: String,
        pub role: crate::network::Role,
    }
    /// network.audit
    #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Audit {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub limit: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cursor: Option<String>,
    }
    /// blob.put (MessagePack): one chunk of at most `limits::BLOB_CHUNK` bytes; the answer is [`super::BlobStored`] with its own content id.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct BlobPut {
        pub data: serde_bytes::ByteBuf,
    }
    /// blob.commit (MessagePack): these chunks, in order, are the blob. Verified against `cid` before anyone can read it.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct BlobCommit {
        pub cid: Cid,
        pub chunks: Vec<Cid>,
        /// A device that stores a result shows the signed assignment (MessagePack `Proof`): its member may read the blob.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub assignment: Option<serde_bytes::ByteBuf>,
    }
    /// blob.get (MessagePack): the answer is the raw bytes of chunk `chunk` (from 0), with the blob's size and number of chunks
    /// in the headers `Mesh-Blob-Bytes` and `Mesh-Blob-Chunks`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct BlobGet {
        pub cid: Cid,
        pub chunk: u32,
        /// A device that reads an input shows the signed assignment (MessagePack `Proof`): it reads what its member may read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub assignment: Option<serde_bytes::ByteBuf>,
    }
}

/// What makes a blob readable by one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BlobInfo {
    pub bytes: u64,
    pub chunks: Vec<Cid>,
}

/// On answers of blob.get.
pub const BLOB_BYTES_HEADER: &str = "Mesh-Blob-Bytes";
pub const BLOB_CHUNKS_HEADER: &str = "Mesh-Blob-Chunks";
