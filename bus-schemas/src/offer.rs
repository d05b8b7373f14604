//! Offers from a scheduler to devices, and what devices answer: a bid, or a signed no with its reason.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::envelope::Body;
use crate::id::{DeviceId, InstanceId, JobId, MemberId, NetworkId};
use crate::job::{Class, DataClass};
use crate::mana::MilliMana;
use crate::resources::Resources;

/// A job that a device may bid for; a message of `mesh.v1.offer.<d>` is a batch of 1 to 64, signed by the scheduler key.
///
/// An offer names no device, so that one signed batch goes to all candidates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub net: NetworkId,
    /// Hub time.
    pub at: UnixMs,
    /// Bids after this are late.
    pub exp: UnixMs,
    pub job: JobId,
    /// This auction: random, new for each one. A bid is bound to (job, round).
    pub round: u64,
    pub member: MemberId,
    pub kind: String,
    /// How many texts the job has.
    pub units: u32,
    /// Size of the job's body in bytes.
    pub bytes: u32,
    pub class: Class,
    pub timeout_ms: u64,
    /// The most the member will pay.
    pub hold_mmana: MilliMana,
    #[serde(default, skip_serializing_if = "Resources::is_none")]
    pub required_resources: Resources,
    #[serde(default, skip_serializing_if = "DataClass::is_default")]
    pub data_class: DataClass,
}
impl Body for Offer {
    const KIND: &'static str = "offer";
}

/// What a device says to one offer; a message of `mesh.v1.dev.<d>.bid.<s>` is a batch of 1 to 64, signed by the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bid {
    pub net: NetworkId,
    pub device: DeviceId,
    /// The scheduler that asked (the subject's last token is dropped when the bid is stored).
    pub to: InstanceId,
    /// The device's clock.
    pub at: UnixMs,
    pub job: JobId,
    pub round: u64,
    pub answer: BidAnswer,
}
impl Body for Bid {
    const KIND: &'static str = "bid";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BidAnswer {
    Bid(Quote),
    No(Decline),
}

/// A price and a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Quote {
    /// The most this device will charge.
    pub price_mmana: MilliMana,
    /// When it would start, counted from now, and how long it would take, by its own estimate.
    pub start_in_ms: u64,
    pub duration_ms: u64,
    /// Free hardware, in basis points of what it has.
    pub free_bp: u32,
}

/// Why a device says no, to an offer or to an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decline {
    /// 64 jobs wait already.
    QueueFull,
    /// The kind is not offered here.
    KindNotOffered,
    /// Not enough free hardware: what, asked, free.
    Resources(String),
    /// It would cost more than the hold.
    Price,
    /// Its owner paused it.
    Paused,
    /// It is shutting down.
    Draining,
    /// Its owner does not allow this.
    NotAllowed(String),
    /// The offer or assignment came too late.
    Expired,
    /// A newer attempt of the job is known here.
    Superseded,
    /// It could not be read or checked.
    Invalid(String),
    /// It has not given an answer in words: its server said that nobody listens.
    Unreachable,
}
impl std::fmt::Display for Decline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::QueueFull => f.write_str("its queue is full"),
            Self::KindNotOffered => f.write_str("the kind is not offered there"),
            Self::Resources(what) => write!(f, "not enough free: {what}"),
            Self::Price => f.write_str("it would cost more than the job may cost (cost_mana)"),
            Self::Paused => f.write_str("paused by its owner"),
            Self::Draining => f.write_str("it is shutting down"),
            Self::NotAllowed(what) => write!(f, "not allowed by its owner: {what}"),
            Self::Expired => f.write_str("the message came too late"),
            Self::Superseded => f.write_str("a newer attempt is known there"),
            Self::Invalid(what) => write!(f, "the message was refused: {what}"),
            Self::Unreachable => f.write_str("nobody listens there"),
        }
    }
}
