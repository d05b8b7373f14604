//! Who may do what, who may no longer, and who did what.

use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, FactId, MemberId, PublicKey};
use crate::network::Role;

/// How many nodes of the hub refuse the old logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HubTold {
    /// Nodes that said so.
    pub nodes: u32,
    /// Nodes that are up.
    pub of: u32,
}

/// What a revocation, a suspension or its end came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BarView {
    /// `dev_…` or `mem_…`.
    pub id: String,
    /// A device's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `revoked`, `suspended` or `restored`.
    pub is: String,
    /// `mem_…`, or `operator`.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub fact: FactId,
    /// Sequence in LEDGER.
    pub seq: u64,
    /// It was so already.
    pub repeat: bool,
    /// Devices that it is about.
    pub devices: Vec<DeviceId>,
    /// Logins that the hub is to refuse.
    pub logins: u32,
    /// Absent: the revoker did not answer; the hub's nodes may still let the old logins in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubTold>,
    /// Jobs of the member that were cancelled, so that their holds return.
    #[serde(default)]
    pub cancelled: u32,
}

/// One member of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MemberInfo {
    pub id: MemberId,
    pub did: PublicKey,
    pub role: Role,
    /// Since when and why; absent: it is not suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<String>,
    pub devices: u32,
    /// RFC 3339.
    pub enrolled: String,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MemberList {
    pub members: Vec<MemberInfo>,
}

/// One thing that somebody did to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AuditEntry {
    /// RFC 3339.
    pub at: String,
    /// `mem_…`, or `operator`.
    pub by: String,
    /// Such as `device.revoke`.
    pub did: String,
    /// What it was about.
    pub about: String,
    /// `done`, or the code of the refusal.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}
/// Newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AuditList {
    pub entries: Vec<AuditEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
