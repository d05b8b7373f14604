//! The network document, invites, and enrolment: how a device and its member come to be known.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::code::{Code, Problem};
use crate::envelope::Body;
use crate::id::{DeviceId, MemberId, NetworkId, PublicKey};
use crate::resources::Resources;

/// Who speaks for the network; signed by the network key (a [`crate::envelope::JsonBatch`] of one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NetworkDocument {
    pub network: NetworkId,
    /// The id is derived from this key.
    pub network_key: PublicKey,
    pub name: String,
    pub version: u32,
    pub gateway_keys: Vec<PublicKey>,
    pub scheduler_keys: Vec<PublicKey>,
    pub ledger_keys: Vec<PublicKey>,
    /// SHA-256 of the hub's CA certificate, in hex; absent on loopback without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_sha256: Option<String>,
}
impl Body for NetworkDocument {
    const KIND: &'static str = "network";
}
impl NetworkDocument {
    /// Whether the document is about the key that signed it.
    pub fn check(&self, signed_by: &PublicKey) -> Result<(), Problem> {
        if self.network_key == *signed_by && self.network == signed_by.network_id() {
            Ok(())
        } else {
            Err(Problem::new(Code::WrongSigner, "the network document is not signed by the network's own key"))
        }
    }
}

/// One line that lets somebody in: `mesh1.<base64url of JSON>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// Addresses of the gateways, separated by commas: any of them lets in.
    pub url: String,
    pub network: NetworkId,
    /// Shown once; the gateway keeps only its hash.
    pub secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_sha256: Option<String>,
}
const INVITE_PREFIX: &str = "mesh1.";
impl Invite {
    pub fn to_line(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{INVITE_PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&json))
    }
    /// # Errors
    /// [`Code::BadInvite`] where the line is none.
    pub fn parse(line: &str) -> Result<Self, Problem> {
        let bad = |what: &str| Problem::new(Code::BadInvite, format!("the invite line {what}"));
        let encoded = line.trim().strip_prefix(INVITE_PREFIX).ok_or_else(|| bad("does not begin with mesh1."))?;
        let json = data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| bad("is cut or altered"))?;
        serde_json::from_slice(&json).map_err(|_| bad("is cut or altered"))
    }
}

/// What a member may do to others; see the gateway's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Beside what admins may: appoints admins.
    Owner,
    /// Revokes any device, suspends members, lets devices drain.
    Admin,
    /// Reads all, changes nothing of others.
    Auditor,
    /// Its own jobs, devices and credit.
    Member,
    /// Submits; no devices, no transfers.
    Guest,
}
impl Role {
    pub const ALL: [Self; 5] = [Self::Owner, Self::Admin, Self::Auditor, Self::Member, Self::Guest];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Auditor => "auditor",
            Self::Member => "member",
            Self::Guest => "guest",
        }
    }
}
impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| "owner, admin, auditor, member or guest is expected".into())
    }
}

/// What a joiner states, in the header form, signed by the device's identity key. The member's key and the transport key
/// sign the same bytes (see [`EnrolRequest`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolStatement {
    pub net: NetworkId,
    pub device: PublicKey,
    pub member: PublicKey,
    /// The nkey (U…) that will log in to NATS.
    pub transport: String,
    pub name: String,
    pub at: UnixMs,
    /// The invite's secret: a statement is good for one invite.
    pub secret: String,
    pub claimed_tier: u8,
    pub total: Resources,
    pub kinds: Vec<String>,
    /// `member` alone wants credentials without a device.
    #[serde(default)]
    pub member_only: bool,
}
impl Body for EnrolStatement {
    const KIND: &'static str = "enrol";
}

/// `POST /api/v1/enrol`: the statement's bytes and three signatures over them (each with the DSSE frame of its type).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// JSON text of [`EnrolStatement`], verbatim.
    pub statement: String,
    /// `Mesh-Sig` by the device's identity key.
    pub device_sig: String,
    /// `Mesh-Sig` by the member's identity key.
    pub member_sig: String,
    /// The transport nkey's signature over the statement's bytes, base64url.
    pub transport_sig: String,
}

/// The answer to an enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolReply {
    /// The signed network document (JSON batch), verbatim.
    pub network: String,
    pub device: DeviceId,
    pub member: MemberId,
    /// Contents of the device's NATS credentials, without the seed: the JWT alone.
    pub device_jwt: String,
    /// JWT for the member's own connections: same transport key, member role.
    pub member_jwt: String,
    /// Bearer token for HTTP.
    pub token: String,
    pub leaf_url: String,
    pub nats_url: String,
    /// Addresses of all gateways, separated by commas; absent: those of the invite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_url: Option<String>,
    /// Where both reach it by WebSocket, from networks that let nothing else out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ws_url: Option<String>,
    /// When the credentials end.
    pub expires: UnixMs,
}

/// KV `devices`, key = device id: who a device is. Written by the gateway, read by schedulers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    pub device: DeviceId,
    pub did: PublicKey,
    pub member: MemberId,
    pub name: String,
    /// Attested tier: what is paid.
    pub tier: u8,
    pub enrolled_at: UnixMs,
    #[serde(default)]
    pub revoked: bool,
    /// Present: it ends what it has and takes nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
    /// Present: its member is suspended, and it gets nothing until that ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspended>,
}
impl DeviceRecord {
    /// A device that was just enrolled, with the id that follows from its key.
    pub fn new(did: PublicKey, member: MemberId, name: impl Into<String>, tier: u8, enrolled_at: UnixMs) -> Self {
        let (device, name) = (did.device_id(), name.into());
        Self { device, did, member, name, tier, enrolled_at, revoked: false, draining: None, suspended: None }
    }
    /// Why nothing is given to it any more and what it has goes elsewhere at once; `None`: it is welcome.
    pub fn barred(&self) -> Option<String> {
        if self.revoked {
            return Some("revoked".to_owned());
        }
        self.suspended.as_ref().filter(|suspended| suspended.now).map(ToString::to_string)
    }
    /// Since when it takes nothing new and ends what it has: it was asked to, or its member is suspended.
    pub fn aside(&self) -> Option<Draining> {
        self.draining.clone().or_else(|| {
            let Suspended { at, by, reason, .. } = self.suspended.as_ref()?;
            let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            Some(Draining { at: *at, by: by.clone(), reason: Some(format!("its member is suspended{why}")) })
        })
    }
}

/// Since when a member is suspended, on whose word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Suspended {
    /// Hub time.
    pub at: UnixMs,
    /// `mem_…`, or `operator`.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The logins of its devices ended as well; otherwise they end what they have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
}
impl std::fmt::Display for Suspended {
    /// As it stands in reasons.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "its member is suspended since {}", crate::time_of_day(self.at))?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

impl DeviceRecord {
    /// The record as it counts after what was `known` before: what a lagging replica says of earlier does not take a revocation back.
    #[must_use]
    pub fn after(self, known: Option<&Self>) -> Self {
        Self { revoked: self.revoked || known.is_some_and(|known| known.revoked), ..self }
    }
}

/// Two reasons why a device takes nothing, as they are told together: `drained …; also paused …`.
pub fn both_reasons(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}; also {second}")),
        (first, second) => first.or(second),
    }
}

/// Since when a device takes nothing new, and on whose word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Draining {
    /// Hub time.
    pub at: UnixMs,
    /// `mem_…`, or `operator`.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
impl Draining {
    /// `draining since 2027-01-15 08:00:00 UTC: new disk`, of a device with so many jobs, waiting and running. Whoever speaks of it uses
    /// these two words: a device that takes nothing new is *draining* while it still has work, and *drained* once it has none.
    pub fn said(&self, jobs: usize) -> String {
        // When its last job ended is not recorded.
        let word = if jobs > 0 { "draining since" } else { "drained, as asked at" };
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{word} {}{reason}", crate::date_and_time(self.at))
    }
    /// As [`Self::said`], with how much is left: `draining since …: new disk; 2 jobs to end`.
    pub fn status(&self, jobs: usize) -> String {
        let said = self.said(jobs);
        match jobs {
            0 => said,
            1 => format!("{said}; 1 job to end"),
            jobs => format!("{said}; {jobs} jobs to end"),
        }
    }
}
