//! Who holds a job now, and what it waits for: asked by gateways for people (`mesh.v1.sched.holding`), answered only by the scheduler that
//! has the job in hand, in a batch of one signed by its key.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::envelope::Body;
use crate::event::Checkpoint;
use crate::id::{AttemptId, DeviceId, InstanceId, JobId, NetworkId};

/// The question (MessagePack, unsigned: nothing follows from it).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldingAsk {
    pub job: JobId,
}

/// The holder's own word. Times are hub time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    pub net: NetworkId,
    pub job: JobId,
    pub s: InstanceId,
    pub at: UnixMs,
    /// When its message was delivered here.
    pub since: UnixMs,
    /// The last renewal that the server confirmed, when the next is asked for, and when it lets go if none is confirmed.
    pub renewed_at: UnixMs,
    pub renews_at: UnixMs,
    pub ends_at: UnixMs,
    pub phase: HoldingPhase,
    /// When the phase is over by itself: the next auction of a job in back-off, the next look of one that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMs>,
    /// Attempts that counted, of [`crate::limits::ATTEMPTS_MAX`].
    pub attempts_used: u32,
    pub gives_up_at: UnixMs,
    pub cancelled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<HeldAttempt>,
    /// How far it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Checkpoint>,
    /// Most devices went quiet at once: nothing is given to others meanwhile.
    #[serde(default)]
    pub holds_back: bool,
}
impl Body for Holding {
    const KIND: &'static str = "holding";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldingPhase {
    /// What happened to it before is being looked up.
    Looking,
    /// It goes into the next auction.
    Ready,
    Bidding,
    /// The winner's answer is awaited.
    Assigning,
    /// A device has it.
    Running,
    BackOff,
    /// Nothing fits.
    Waiting,
    /// It has ended; books, HISTORY and ack follow.
    Closing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAttempt {
    pub attempt: AttemptId,
    pub number: u32,
    pub device: DeviceId,
    pub name: String,
    pub assigned_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    /// How long the device has been silent.
    pub silent_ms: u64,
    /// At this much silence the job goes elsewhere.
    pub silence_max_ms: u64,
    pub timeout_ms: u64,
}
