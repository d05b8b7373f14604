//! Facts: the entries of the books.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Account, Policy};
use crate::UnixMs;
use crate::envelope::Body;
use crate::id::{AttemptId, Cid, DeviceId, FactId, JobId, MemberId, NetworkId, PublicKey, ReceiptId};
use crate::mana::MilliMana;
use crate::receipt::FailureClass;

/// One movement: `amount` leaves `from` and arrives at `to`, so the legs of a fact net to zero by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Leg {
    pub from: Account,
    pub to: Account,
    /// More than zero.
    pub amount_mmana: MilliMana,
}

/// One entry of the books; LEDGER carries 1 to 256 of them under the ledger key's signature, as JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Fact {
    pub net: NetworkId,
    /// Unique for ever.
    pub id: FactId,
    /// Fact time: max(previous, the writer's clock), in Unix milliseconds.
    pub at_ms: UnixMs,
    /// The policy version that was applied.
    pub policy: u32,
    pub legs: Vec<Leg>,
    /// Content ids of the evidence (settle: the assignment and the receipt).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Cid>,
    #[serde(flatten)]
    pub what: What,
}
impl Body for Fact {
    const KIND: &'static str = "fact";
}

/// What a fact says. `docs/ledger-format.md` has the fields and legs of each kind for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// The first fact: binds the stream to the network and states the first policy.
    Genesis {
        network: NetworkId,
        network_key: PublicKey,
        rules: Policy,
    },
    /// A member's accounts exist from here on; a leg from mint is the starting grant.
    Open {
        member: MemberId,
        did: PublicKey,
    },
    /// Credit given by an operator.
    Mint {
        member: MemberId,
        reason: String,
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
    /// Money set aside for a job, before bidding.
    Hold {
        job: JobId,
        member: MemberId,
        key: String,
        amount_mmana: MilliMana,
        expires: UnixMs,
    },
    /// The hold becomes pay; what is left returns.
    Settle {
        job: JobId,
        payer: MemberId,
        payee: MemberId,
        device: DeviceId,
        attempt: AttemptId,
        receipt: ReceiptId,
        billed_ms: u64,
        /// What the payee gets; without the fee.
        paid_mmana: MilliMana,
        fee_mmana: MilliMana,
        /// What the commons give back to the payer.
        #[serde(default, skip_serializing_if = "is_zero")]
        discount_mmana: MilliMana,
        /// The pay is in vesting until then; absent: it is available at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vests_at: Option<UnixMs>,
        #[serde(default)]
        outcome: SettleOutcome,
        /// Attempts of the job that ended badly before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ended: Vec<Ended>,
    },
    /// The hold returns whole.
    Void {
        job: JobId,
        member: MemberId,
        reason: VoidReason,
        /// The attempts of the job, all of which ended badly.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ended: Vec<Ended>,
    },
    /// What later receipts claim is not paid: `receipts_seq` is the last sequence of RECEIPTS before.
    RevokeDevice {
        device: DeviceId,
        receipts_seq: u64,
        /// Public nkeys that it logged in with.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logins: Vec<String>,
    },
    /// Until it is restored, the member submits nothing and its devices get nothing; what they have accepted ends and is paid.
    /// Where there is a `receipts_seq`, their logins end as well, and what later receipts claim is not paid.
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
    /// An epoch begins: credit for members (legs from mint), and reputations move towards the start. Parts after the first carry only legs.
    Regen {
        epoch: u64,
        #[serde(default)]
        part: u32,
        #[serde(default)]
        decay: u32,
        /// The last member that was looked at, where another part follows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<MemberId>,
    },
    /// From one member to another.
    Transfer {
        from: MemberId,
        to: MemberId,
        key: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        note: String,
    },
    /// A member pays the commons.
    Fee {
        member: MemberId,
        reason: String,
        key: String,
    },
    /// The pay of these jobs has vested.
    Vest {
        member: MemberId,
        jobs: Vec<JobId>,
    },
    /// Something is odd about a settled job; legs, if any, put its pay into review.
    Flag {
        job: JobId,
        device: DeviceId,
        why: FlagWhy,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        note: String,
    },
    /// A person found it right: what is in review goes to its earner.
    ReviewRelease {
        job: JobId,
        reason: String,
    },
    /// A person found it wrong: what is in review goes to the commons.
    ReviewSeize {
        job: JobId,
        reason: String,
    },
    /// From the next fact on, these rules hold.
    Policy {
        rules: Policy,
    },
    /// An operator puts right what a fault of ours booked wrongly; explicit legs between accounts that nothing else accounts for.
    Correction {
        of: FactId,
        reason: String,
        key: String,
    },
    /// What the books are after message `seq`; alone in its message, which is the one after `seq`.
    Checkpoint(CheckpointState),
}
impl What {
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Genesis { .. } => "genesis",
            Self::Open { .. } => "open",
            Self::Mint { .. } => "mint",
            Self::BindDevice { .. } => "bind_device",
            Self::AttestTier { .. } => "attest_tier",
            Self::Hold { .. } => "hold",
            Self::Settle { .. } => "settle",
            Self::Void { .. } => "void",
            Self::RevokeDevice { .. } => "revoke_device",
            Self::SuspendMember { .. } => "suspend_member",
            Self::RestoreMember { .. } => "restore_member",
            Self::Regen { .. } => "regen",
            Self::Transfer { .. } => "transfer",
            Self::Fee { .. } => "fee",
            Self::Vest { .. } => "vest",
            Self::Flag { .. } => "flag",
            Self::ReviewRelease { .. } => "review_release",
            Self::ReviewSeize { .. } => "review_seize",
            Self::Policy { .. } => "policy",
            Self::Correction { .. } => "correction",
            Self::Checkpoint(_) => "checkpoint",
        }
    }

    /// The job that it is about, if it is about one.
    pub const fn job(&self) -> Option<JobId> {
        match self {
            Self::Hold { job, .. }
            | Self::Settle { job, .. }
            | Self::Void { job, .. }
            | Self::Flag { job, .. }
            | Self::ReviewRelease { job, .. }
            | Self::ReviewSeize { job, .. } => Some(*job),
            Self::Genesis { .. }
            | Self::Open { .. }
            | Self::Mint { .. }
            | Self::BindDevice { .. }
            | Self::AttestTier { .. }
            | Self::RevokeDevice { .. }
            | Self::SuspendMember { .. }
            | Self::RestoreMember { .. }
            | Self::Regen { .. }
            | Self::Transfer { .. }
            | Self::Fee { .. }
            | Self::Vest { .. }
            | Self::Policy { .. }
            | Self::Correction { .. }
            | Self::Checkpoint(_) => None,
        }
    }
}

/// Whether the paid attempt gave a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SettleOutcome {
    #[default]
    Completed,
    /// Stopped on the member's word; the time used is paid.
    Cancelled,
}

impl SettleOutcome {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
    pub fn is_completed(&self) -> bool {
        *self == Self::Completed
    }
}

/// An attempt that ended without a result, as the scheduler's signature says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Ended {
    pub attempt: AttemptId,
    pub device: DeviceId,
    pub class: FailureClass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlagWhy {
    /// The times of the claim cannot be right; the least was paid.
    AbsurdTime,
    /// Far from what such work usually takes.
    Anomaly,
    /// Another device computed another result.
    FailedCheck,
    /// The device signed two things that exclude each other.
    Lie,
    /// A person's word.
    Operator,
}
impl FlagWhy {
    pub const fn name(self) -> &'static str {
        match self {
            Self::AbsurdTime => "absurd_time",
            Self::Anomaly => "anomaly",
            Self::FailedCheck => "failed_check",
            Self::Lie => "lie",
            Self::Operator => "operator",
        }
    }
}

/// The books after message `seq`, in numbers that anyone can compute again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CheckpointState {
    /// The last message that it covers.
    pub seq: u64,
    /// The hash chain after it.
    pub chain: Hash32,
    /// RFC 6962 Merkle root over the messages 1 to `seq` as stored.
    pub root: Hash32,
    /// Digest of balances and open holds.
    pub state: Hash32,
}

/// SHA-256 as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash32(pub [u8; 32]);
impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}
impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Hash32 {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| "a hash is 64 lower-case hexadecimal digits".to_owned())
    }
}
impl Serialize for Hash32 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Hash32 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::id::parse(d)
    }
}
impl schemars::JsonSchema for Hash32 {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Hash32".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks with a reference
fn is_zero(amount: &MilliMana) -> bool {
    *amount == MilliMana::ZERO
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VoidReason {
    /// Cancelled before it was assigned.
    Cancelled,
    /// Every attempt ended without a result.
    Failed,
    /// Nothing fitted within its waiting time.
    NotPlaced,
    /// The hold outlived its job.
    Expired,
    /// It never became a job.
    NotAdmitted,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::fact_id;

    #[test]
    fn a_fact_is_flat_json() {
        let member = crate::Signer::from_seed(&[1; 32]).public().member_id();
        let net = crate::Signer::from_seed(&[9; 32]).public().network_id();
        let fact = Fact {
            net,
            id: fact_id::hold(&member, "k"),
            at_ms: 5,
            policy: 1,
            legs: vec![Leg { from: Account::Available(member), to: Account::Held(member), amount_mmana: MilliMana::mana(1) }],
            evidence: vec![],
            what: What::Hold { job: JobId(Cid::of(b"j")), member, key: "k".into(), amount_mmana: MilliMana::mana(1), expires: 9 },
        };
        let text = serde_json::to_string(&fact).unwrap();
        assert!(text.contains(r#""kind":"hold""#), "{text}");
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
        let hash = Hash32([0xab; 32]);
        let state = What::Checkpoint(CheckpointState { seq: 7, chain: hash, root: hash, state: hash });
        let checkpoint = Fact { id: fact_id::checkpoint(7), legs: vec![], what: state, ..fact };
        let text = serde_json::to_string(&checkpoint).unwrap();
        assert!(text.contains(r#""kind":"checkpoint","seq":7,"chain":"abab"#), "{text}");
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), checkpoint);
    }
}
