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

/// network.invite: one line that lets somebody in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteAsk {
    /// What whoever comes in may do; a member that is here already keeps its role.
    pub role: Role,
    /// For another device of whoever asks, and for nobody else.
    #[serde(default)]
    pub device: bool,
    /// How many it lets in.
    pub uses: u32,
    /// Seconds that it holds.
    pub expires_s: u64,
    /// Whoever comes waits until an admin says yes.
    #[serde(default)]
    pub approve: bool,
    /// Addresses of gateways as the line is to name them, where the gateway was not told its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}
/// An invite that was just made. The line is told once; the gateway keeps a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InviteMade {
    #[serde(flatten)]
    pub info: InviteInfo,
    /// `mesh1.…`
    pub line: String,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InviteInfo {
    /// `inv_…`, of the hash of its secret.
    pub id: String,
    pub role: Role,
    /// Whose devices alone it lets in; absent: anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_of: Option<MemberId>,
    pub approve: bool,
    pub uses_left: u32,
    /// RFC 3339; absent: as long as the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// `mem_…`, or `operator`.
    pub by: String,
    /// RFC 3339.
    pub made: String,
    /// `open`, `used`, `expired` or `revoked`.
    pub state: String,
}
/// Newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InviteList {
    pub invites: Vec<InviteInfo>,
}

/// network.decide: whether one that waits comes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideAsk {
    /// `dev_…` or `mem_…`, or how it begins.
    pub id: String,
    #[serde(default)]
    pub deny: bool,
    /// Why; told to whoever is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
/// Somebody who has shown an invite that asks for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WaitingInfo {
    /// `dev_…`, or `mem_…` of one who brings no device.
    pub id: String,
    /// As it names itself.
    pub name: String,
    pub member: MemberId,
    pub role: Role,
    /// `waiting`, `approved` or `denied`.
    pub state: String,
    /// RFC 3339.
    pub asked: String,
    /// `inv_…`
    pub invite: String,
    /// Who made the invite.
    pub invited_by: String,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}
/// Oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WaitingList {
    pub waiting: Vec<WaitingInfo>,
}
