//! Commands: what the ledger is asked, and what it answers.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Ended, FlagWhy, Leg, Policy, SettleOutcome, VoidReason};
use crate::UnixMs;
use crate::code::Code;
use crate::envelope::{Batch, Body};
use crate::id::{AttemptId, DeviceId, FactId, JobId, MemberId, NetworkId, PublicKey, ReceiptId};
use crate::mana::MilliMana;

/// One question to the books; a message of `mesh.v1.ledger.do` is a [`LedgerRequest`] whose batch is signed by the asking part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub net: NetworkId,
    /// The asker's clock; refused when older than 24 h.
    pub at: UnixMs,
    pub op: Op,
}
impl Body for Command {
    const KIND: &'static str = "command";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Opens a member's accounts with the policy's grant. A repeat changes nothing.
    Open {
        member: MemberId,
        did: PublicKey,
    },
    Mint {
        member: MemberId,
        amount_mmana: MilliMana,
        reason: String,
        key: String,
    },
    BindDevice {
        device: DeviceId,
        did: PublicKey,
        member: MemberId,
    },
    AttestTier {
        device: DeviceId,
        tier: u8,
    },
    /// `amount` absent: min(10 mana, available). Keyed by (member, key): another job under the same key is a conflict.
    Hold {
        job: JobId,
        member: MemberId,
        key: String,
        amount_mmana: Option<MilliMana>,
        expires: UnixMs,
    },
    /// Evidence: the assignment (scheduler key) and the receipt (device key), each in a carrier beside the commands.
    Settle {
        job: JobId,
        attempt: AttemptId,
        receipt: ReceiptId,
        /// Stream time of the receipt, as stored in RECEIPTS, and its sequence there.
        receipt_at: UnixMs,
        receipt_seq: u64,
        /// Stream time of `started`, where there was one: waiting in a queue is not paid.
        started_at: Option<UnixMs>,
        /// Attempts of the job that ended badly before this one.
        #[serde(default)]
        ended: Vec<Ended>,
    },
    Void {
        job: JobId,
        reason: VoidReason,
        #[serde(default)]
        ended: Vec<Ended>,
    },
    /// Keyed by (from, key). Asked by the gateway for the member whose subject or token proves it.
    Transfer {
        from: MemberId,
        to: MemberId,
        amount_mmana: MilliMana,
        key: String,
        #[serde(default)]
        note: String,
    },
    /// A member pays the commons; keyed by (member, key). The operator's.
    Fee {
        member: MemberId,
        amount_mmana: MilliMana,
        reason: String,
        key: String,
    },
    /// Puts the pay of a settled job into review, as far as it is there. The operator's.
    Flag {
        job: JobId,
        why: FlagWhy,
        note: String,
    },
    ReviewRelease {
        job: JobId,
        reason: String,
    },
    ReviewSeize {
        job: JobId,
        reason: String,
    },
    /// `rules.version` must be one more than that in force. The operator's.
    SetPolicy {
        rules: Policy,
    },
    /// Legs between mint, commons, burn and available accounts. The operator's.
    Correct {
        of: FactId,
        legs: Vec<Leg>,
        reason: String,
        key: String,
    },
    /// `receipts_seq`: the last sequence of RECEIPTS that stays payable.
    RevokeDevice {
        device: DeviceId,
        receipts_seq: u64,
        /// Public nkeys that it logs in with: the hub refuses them from then on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logins: Vec<String>,
    },
    /// A member submits nothing and its devices get nothing until it is restored; what they have accepted ends and is paid.
    /// With `receipts_seq`, as above, their logins end as well, and later receipts are not paid.
    SuspendMember {
        member: MemberId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receipts_seq: Option<u64>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logins: Vec<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    RestoreMember {
        member: MemberId,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// How does this job's hold stand? Changes nothing.
    Look {
        job: JobId,
    },
}

/// `mesh.v1.ledger.do`: 1 to 64 commands under one signature, with the signed evidence they cite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRequest {
    /// Batch of [`Command`].
    pub commands: Batch,
    /// Encoded [`Batch`]es or [`crate::Proof`]s of assignments.
    #[serde(default)]
    pub assignments: Vec<ByteBuf>,
    /// Encoded [`Batch`]es or [`crate::Proof`]s of receipts.
    #[serde(default)]
    pub receipts: Vec<ByteBuf>,
}

/// The answer: one outcome per command, in order. No answer at all means: ask again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerReply {
    pub outcomes: Vec<LedgerOutcome>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // nearly all outcomes are the large one
pub enum LedgerOutcome {
    /// Done, now or earlier: the same command has the same effect once.
    Done(Done),
    /// The same command on the same books is always refused.
    Refused { code: Code, why: RefusalKind, detail: String },
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub fact: FactId,
    /// Sequence in LEDGER.
    pub seq: u64,
    /// It was done earlier.
    pub repeat: bool,
    /// How the hold of the job stands now (hold, settle, void, look).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldView>,
}
/// How a hold stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HoldView {
    pub job: JobId,
    pub member: MemberId,
    pub amount_mmana: MilliMana,
    pub expires: UnixMs,
    pub state: HoldState,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldState {
    Open,
    Settled {
        attempt: AttemptId,
        receipt: ReceiptId,
        device: DeviceId,
        paid_mmana: MilliMana,
        /// Whether there is a result.
        #[serde(default, skip_serializing_if = "SettleOutcome::is_completed")]
        outcome: SettleOutcome,
    },
    Voided {
        reason: VoidReason,
    },
}

/// Every refusal has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    UnknownMember,
    UnknownDevice,
    UnknownJob,
    InsufficientMana,
    /// The same (member, key) holds for another job.
    KeyConflict,
    AlreadySettled,
    AlreadyVoided,
    BadEvidence,
    BadAmount,
    NotAllowed,
    Expired,
    DeviceBoundElsewhere,
    HoldExpired,
    /// The policy allows a member only so many open holds.
    TooManyHolds,
    /// From a member to itself.
    SelfTransfer,
    /// Nothing of this job is in review.
    NotInReview,
    /// The rules make no sense, or their version is not the next.
    BadPolicy,
    DeviceRevoked,
    /// Until it is restored.
    MemberSuspended,
}
