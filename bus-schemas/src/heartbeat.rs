//! Heartbeats: liveness is per device, not per job.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::envelope::Body;
use crate::id::{DeviceId, InstanceId, JobId, NetworkId};
use crate::resources::Resources;

/// `mesh.v1.dev.<d>.hb`, a batch of one signed by the device, every 5 s whatever runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub net: NetworkId,
    pub device: DeviceId,
    /// The device's clock.
    pub at: UnixMs,
    pub name: String,
    pub version: String,
    pub kinds: Vec<String>,
    pub capabilities: Vec<String>,
    pub trust_scopes: Vec<String>,
    pub federations: Vec<String>,
    /// What it says it is; the attested tier is what is paid.
    pub claimed_tier: u8,
    pub total: Resources,
    pub free: Resources,
    /// Jobs waiting or running here, complete (at most 64 wait).
    pub jobs: Vec<JobId>,
    /// Jobs that ended here and are not settled; at most 64, and how many more.
    pub unsettled: Vec<JobId>,
    #[serde(default)]
    pub unsettled_more: u32,
    /// Why it takes no work now; absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_working: Option<String>,
}
impl Heartbeat {
    /// What `not_working` says in the last word of an agent that ends.
    pub const STOPPED: &str = "stopped";

    /// The agent has ended: it is gone now, not only after its silence.
    pub fn has_stopped(&self) -> bool {
        self.not_working.as_deref() == Some(Self::STOPPED)
    }
}
impl Body for Heartbeat {
    const KIND: &'static str = "heartbeat";
    // 128 job ids of 38 bytes and the rest.
    const BYTES_MAX: usize = 64 * 1024;
}

/// `mesh.v1.sched.<s>.hb`, a batch of one signed by the scheduler key. While it comes back, the bus works and silence counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerHeartbeat {
    pub net: NetworkId,
    pub s: InstanceId,
    pub at: UnixMs,
    /// Jobs in hand: in bidding, executing, and waiting for a device.
    pub bidding: u32,
    pub executing: u32,
    pub waiting: u32,
    /// Why it moves no jobs away from silent devices now, for people; absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_back: Option<String>,
}
impl Body for SchedulerHeartbeat {
    const KIND: &'static str = "scheduler-heartbeat";
}
