//! What a device tells while it works; a message of `mesh.v1.dev.<d>.evt.<kind>` is a batch of 1 to 64, signed by the device.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::envelope::Body;
use crate::id::{AttemptId, Cid, DeviceId, JobId, NetworkId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub net: NetworkId,
    pub device: DeviceId,
    /// The device's clock.
    pub at: UnixMs,
    pub job: JobId,
    pub attempt: AttemptId,
    pub what: EventKind,
}
impl Body for Event {
    const KIND: &'static str = "event";
}

/// All of a message's events are of the kind that its subject names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Started,
    Progress(Progress),
    /// A part of the result is kept: another device could go on behind it.
    Checkpoint(Checkpoint),
    /// The device gave the job back before it ended.
    Dropped {
        reason: String,
    },
}
impl EventKind {
    pub const fn token(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Progress(_) => "progress",
            Self::Checkpoint(_) => "checkpoint",
            Self::Dropped { .. } => "dropped",
        }
    }
}

/// How far a job is kept: a blob of its member, which names the one before it, back to the first text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Checkpoint {
    /// The newest part: [`crate::api::PartialResult`] as JSON.
    pub cid: Cid,
    pub bytes: u64,
    /// Texts of the job that are done, from the first on.
    pub units: u32,
}
impl Checkpoint {
    /// How many of a job's `units` texts are left to compute behind what is kept.
    pub fn left(kept: Option<Self>, units: u32) -> u32 {
        units.saturating_sub(kept.map_or(0, |kept| kept.units))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Progress {
    /// 0 to 10,000.
    pub basis_points: u32,
    pub stage: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done_stages: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remaining_stages: Vec<String>,
}
