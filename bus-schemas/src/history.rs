//! HISTORY: what happened to a job, few messages each; the gateway projects it for `job ls, show, explain`.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::UnixMs;
use crate::code::Problem;
use crate::envelope::{Body, Form, Proof};
use crate::event::Checkpoint;
use crate::id::{Asker, AttemptId, DeviceId, JobId, MemberId, NetworkId, ReceiptId};
use crate::job::{JobState, SignedBy};
use crate::mana::MilliMana;
use crate::offer::Quote;
use crate::receipt::Failure;

/// A message of `mesh.v1.history.<m>` is a batch of 1 to 64 records of one member, signed by the gateway or the scheduler key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRecord {
    pub net: NetworkId,
    pub member: MemberId,
    pub job: JobId,
    /// Hub time.
    pub at: UnixMs,
    /// Every change of state that this record covers, with time, cause and actor.
    pub transitions: Vec<Transition>,
    pub what: HistoryEvent,
}
impl Body for HistoryRecord {
    const KIND: &'static str = "history";
    const BYTES_MAX: usize = crate::limits::JOB_BYTES_MAX + 8 * 1024;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Transition {
    pub to: JobState,
    pub at: UnixMs,
    pub cause: String,
    /// `gateway`, `scheduler <s>`, `dev_…`, `mem_…`.
    pub actor: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryEvent {
    Admitted(Box<Admitted>),
    /// It never became a job. `job` is the id it would have had.
    Rejected {
        asker: Asker,
        key: Option<String>,
        kind: Option<String>,
        problem: Problem,
    },
    /// The job waits, and why. Written when the reasons change, not on every look.
    Waiting {
        decision: Decision,
        next_look_at: UnixMs,
        gives_up_at: UnixMs,
    },
    /// A device has the job, for a while already, and why that device. What is over sooner is told by its end alone.
    Assigned(Box<Assigned>),
    /// One attempt ended without a result.
    AttemptEnded(Box<AttemptEnded>),
    Ended(Box<Ended>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    pub asker: Asker,
    pub key: String,
    pub kind: String,
    pub submitted_at: UnixMs,
    pub hold_mmana: MilliMana,
    pub hold_expires: UnixMs,
    pub form: Form,
    pub body: ByteBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedBy>,
    /// What eligibility said at intake, when nothing fitted: "0 of 9 devices fit".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nothing_fits: Option<Decision>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    pub attempt: AttemptId,
    pub number: u32,
    pub device: DeviceId,
    pub assigned_at: UnixMs,
    /// The auction that led to it; told again with the end.
    pub decision: Decision,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnded {
    pub attempt: AttemptId,
    pub number: u32,
    pub device: DeviceId,
    pub assigned_at: UnixMs,
    /// When its device began with it, after a wait in its queue; absent where that is not known, or was at once, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    pub failure: Failure,
    pub decision: Decision,
    /// How much of the job was kept when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Checkpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Completed, Failed or Cancelled.
    pub state: JobState,
    /// Attempts made in all.
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// What was charged; absent where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_mmana: Option<MilliMana>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<CompletedEnd>,
    /// The auction that led to the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedEnd {
    pub attempt: AttemptId,
    pub receipt: ReceiptId,
    /// Place in RECEIPTS.
    pub receipt_seq: u64,
    pub receipt_proof: Proof,
    /// Absent where the scheduler that signed it died before this was written, and the device had forgotten it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_proof: Option<Proof>,
    /// The result where it is small; absent: a blob with the receipt's content id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ByteBuf>,
}

/// The record of one auction: who was considered, who was out or said no and why, who bid what, why the winner won.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Decision {
    pub round: u64,
    pub at: UnixMs,
    /// How long the window was open.
    pub took_ms: u64,
    pub considered: Vec<Considered>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub winner: Option<DeviceId>,
    /// In plain words.
    pub why: String,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Considered {
    pub device: DeviceId,
    pub name: String,
    pub verdict: Verdict,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Failed a hard requirement: each reason.
    Out { reasons: Vec<String> },
    /// Fits, but others were asked first.
    NotAsked,
    /// Said no.
    Declined { reason: String },
    /// Did not answer in time.
    NoAnswer,
    /// Bid; its score by term and in all, higher is better.
    Bid { quote: Quote, score: Score },
}
/// Terms 0 to 10,000, each already multiplied by its weight in `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Score {
    pub price: u32,
    pub reputation: u32,
    pub resources: u32,
    pub latency: u32,
    pub total: u64,
}

/// BACK: why a job was given back, stored before the message is; whoever takes it next goes on at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Back {
    pub net: NetworkId,
    pub job: JobId,
    pub at: UnixMs,
    /// Attempts that ended, oldest first.
    pub ended: Vec<EndedAttempt>,
    /// How often nothing fitted.
    pub waited: u32,
    /// The last assignment's number; the next one is higher.
    pub last_attempt: u32,
    /// The delivery it was given back from: only the very next one may go on at once, a later one looks first. 0: it was not given back, so
    /// whoever takes it looks.
    #[serde(default)]
    pub delivered: u64,
    /// The device that holds an attempt without an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<DeviceId>,
    /// That attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    /// The last checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Checkpoint>,
}
impl Body for Back {
    const KIND: &'static str = "back";
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedAttempt {
    pub attempt: AttemptId,
    pub number: u32,
    pub device: DeviceId,
    pub failure: Failure,
    /// Its device had not begun with it, and let it go because the job was cancelled.
    #[serde(default, skip_serializing_if = "is_false")]
    pub let_go: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// CANCELS: `mesh.v1.cancel.<j>`, a batch of one signed by the gateway key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    pub net: NetworkId,
    pub job: JobId,
    pub member: MemberId,
    pub at: UnixMs,
    /// What a device has accepted ends there and is paid; nothing new begins. Its member was suspended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unless_assigned: bool,
}
impl Body for CancelRequest {
    const KIND: &'static str = "cancel";
}
