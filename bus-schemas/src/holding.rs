//! Who holds a job now, and what it waits for: asked by gateways for people (`mesh.v1.sched.holding`), answered only by the scheduler that
//! has the job in hand, in a batch of one signed by its key.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::envelope::Body;
use crate::event::Checkpoint;
use crate::history::Transition;
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
    /// How often a device said no to it, in words: that does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub declined: u32,
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
    /// Which, and for how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_back: Option<HoldBack>,
    /// Changes of state that no record of HISTORY covers yet, oldest first; at most [`Self::UNWRITTEN_MAX`], the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unwritten: Vec<Transition>,
}
impl Holding {
    pub const UNWRITTEN_MAX: usize = 32;
}
fn is_zero(n: &u32) -> bool {
    *n == 0
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

/// So many devices fell silent at once that the bus is suspected, not they: what they have stays with them for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldBack {
    /// Silent ones, of how many that were there.
    pub gone: u32,
    pub there: u32,
    /// Where most are still silent by then, their jobs go elsewhere.
    pub until: UnixMs,
    /// Once most are heard again, the others have this long to follow.
    pub follow_ms: u64,
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
    /// It was not heard of since this scheduler started: `silent_ms` is no measure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unheard: bool,
    /// At this much silence the job goes elsewhere.
    pub silence_max_ms: u64,
    /// When that is, if no word of the device comes; absent while silence does not count, because the bus itself does not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<UnixMs>,
    pub timeout_ms: u64,
    /// While it waits in the device's queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<Queued>,
}

/// What a job that a device has not begun waits for, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// Jobs before it, by the device's last heartbeat; absent where that does not name it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u32>,
    /// When the device expected to begin, by its bid; absent where another scheduler knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<UnixMs>,
    /// Not begun by then, it goes to another device that has room; absent where it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_at: Option<UnixMs>,
    /// Not begun by then, it fails.
    pub gives_up_at: UnixMs,
}
