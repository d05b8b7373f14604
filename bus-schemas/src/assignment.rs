//! Assignments and the other control messages from the network to one device (`mesh.v1.ctl.<d>.<verb>`).

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::UnixMs;
use crate::envelope::{Batch, Body, Form, Proof};
use crate::event::Checkpoint;
use crate::id::{AttemptId, Cid, DeviceId, InstanceId, JobId, MemberId, NetworkId};
use crate::mana::MilliMana;
use crate::offer::Decline;

/// One attempt of a job on one device, signed by the network's scheduler key. Its content id is the [`AttemptId`].
///
/// It names no scheduler: the same assignment may be watched by another one later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub net: NetworkId,
    pub job: JobId,
    /// 1, 2, …: for people, and so that a device refuses an older attempt of a job.
    pub attempt: u32,
    pub device: DeviceId,
    /// Who pays.
    pub member: MemberId,
    /// Hub time.
    pub assigned_at: UnixMs,
    /// A device that gets it later than this declines.
    pub exp: UnixMs,
    /// The device's quote: the most that is paid.
    pub price_mmana: MilliMana,
    /// The attested tier that is paid.
    pub tier: u8,
    pub timeout_ms: u64,
    /// Content id of the job's body, which travels beside.
    pub payload: Cid,
    /// What earlier attempts have kept: the device goes on behind it where it can, and from the start where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Checkpoint>,
}
impl Body for Assignment {
    const KIND: &'static str = "assignment";
}

/// A job's body beside its assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    pub form: Form,
    pub body: ByteBuf,
}

/// `mesh.v1.ctl.<d>.assign`: signed assignments, each with its payload. Receipts go to `s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignRequest {
    pub s: InstanceId,
    pub assignments: Batch,
    pub payloads: Vec<Payload>,
}

/// The answer: one per assignment, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignReply {
    pub answers: Vec<AssignAnswer>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssignAnswer {
    /// Taken: a receipt will follow.
    Accepted,
    Declined(Decline),
    /// The same attempt is waiting or running here already.
    Running,
    /// The same attempt has ended here; its receipt is sent again.
    Done,
}

/// Any other control message: one body in a [`Batch`], signed by the scheduler key (`pause`, `drain`: the gateway key).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub net: NetworkId,
    pub device: DeviceId,
    pub at: UnixMs,
    pub exp: UnixMs,
    /// The scheduler that asks.
    pub s: InstanceId,
    pub verb: Verb,
}
impl Body for Control {
    const KIND: &'static str = "control";
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// `adopt`: which of these jobs do you have? Send receipts to `s` from now on.
    Adopt { jobs: Vec<JobId> },
    /// `have`: list everything that waits, runs, or is unsettled.
    Have,
    /// `cancel`: stop these attempts; a receipt `cancelled` settles the time used.
    Cancel { attempts: Vec<AttemptId> },
    /// `closed`: these attempts are settled, or not paid and why; forget them.
    Closed { attempts: Vec<Closed> },
}
impl Verb {
    /// The last token of the subject.
    pub const fn token(&self) -> &'static str {
        match self {
            Self::Adopt { .. } => "adopt",
            Self::Have => "have",
            Self::Cancel { .. } => "cancel",
            Self::Closed { .. } => "closed",
        }
    }
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    pub attempt: AttemptId,
    /// What was paid; absent where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_mmana: Option<MilliMana>,
    /// Why nothing was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_paid: Option<String>,
}

/// The answer to any [`Control`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ControlReply {
    /// What the device has of the jobs asked for (`adopt`) or at all (`have`). A job that is not listed is unknown there.
    #[serde(default)]
    pub have: Vec<Held>,
    /// Why the message was not obeyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declined: Option<Decline>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub job: JobId,
    /// The signed assignment, so that a new scheduler need not trust the device.
    pub assignment: Proof,
    pub state: HeldState,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldState {
    Waiting,
    Running,
    /// Ended; the receipt is sent again to the scheduler that asked.
    Done,
}
