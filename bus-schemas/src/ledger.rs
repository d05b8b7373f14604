//! What the ledger is asked (commands), what it answers (outcomes), and what it writes (facts).
//!
//! A fact carries explicit legs; replay applies legs and never re-runs a rule. Amounts in JSON are integers in fields ending `_mmana`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::UnixMs;
use crate::code::Code;
use crate::envelope::{Batch, Body};
use crate::id::{AttemptId, Cid, DeviceId, FactId, JobId, MemberId, NetworkId, PublicKey, ReceiptId};
use crate::mana::MilliMana;

/// One account. Text form: `mint`, `commons`, `review`, `burn`, or `mem_…/available|held|vesting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// Where credit comes from; the only one that may be below zero.
    Mint,
    /// Fees in, mutual aid out.
    Commons,
    /// Payouts that a person must look at.
    Review,
    /// Credit that is gone.
    Burn,
    Available(MemberId),
    Held(MemberId),
    Vesting(MemberId),
}
impl Account {
    pub const fn member(&self) -> Option<MemberId> {
        match self {
            Self::Available(member) | Self::Held(member) | Self::Vesting(member) => Some(*member),
            Self::Mint | Self::Commons | Self::Review | Self::Burn => None,
        }
    }
}
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mint => f.write_str("mint"),
            Self::Commons => f.write_str("commons"),
            Self::Review => f.write_str("review"),
            Self::Burn => f.write_str("burn"),
            Self::Available(member) => write!(f, "{member}/available"),
            Self::Held(member) => write!(f, "{member}/held"),
            Self::Vesting(member) => write!(f, "{member}/vesting"),
        }
    }
}
impl FromStr for Account {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("no such account: {}", text.chars().take(60).collect::<String>());
        match text {
            "mint" => Ok(Self::Mint),
            "commons" => Ok(Self::Commons),
            "review" => Ok(Self::Review),
            "burn" => Ok(Self::Burn),
            other => {
                let (member, class) = other.split_once('/').ok_or_else(bad)?;
                let member = member.parse().map_err(|_| bad())?;
                match class {
                    "available" => Ok(Self::Available(member)),
                    "held" => Ok(Self::Held(member)),
                    "vesting" => Ok(Self::Vesting(member)),
                    _ => Err(bad()),
                }
            }
        }
    }
}
impl Serialize for Account {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
impl schemars::JsonSchema for Account {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Account".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^(mint|commons|review|burn|mem_[a-z2-7]{26}/(available|held|vesting))$"})
    }
}

/// One movement: `amount` leaves `from` and arrives at `to`, so the legs of a fact net to zero by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Leg {
    pub from: Account,
    pub to: Account,
    /// More than zero.
    pub amount_mmana: MilliMana,
}

/// One entry of the books; LEDGER carries 1 to 256 of them under the ledger key's signature, as JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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

/// What a fact says. (regen, transfer, fee, vest, flag, reviews and corrections come with the complete books.)
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
        paid_mmana: MilliMana,
        fee_mmana: MilliMana,
    },
    /// The hold returns whole.
    Void {
        job: JobId,
        member: MemberId,
        reason: VoidReason,
    },
    RevokeDevice {
        device: DeviceId,
        receipts_seq: u64,
    },
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
        }
    }
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

/// The rules of a network, version by version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Policy {
    pub version: u32,
    /// Basis points of the gross that go to the commons.
    pub fee_bp: u32,
    /// How long earnings vest, in milliseconds; 0 = pay goes to available.
    pub vesting_ms: u64,
    /// Given to each member when its account opens.
    pub grant_mmana: MilliMana,
    /// Regeneration per epoch; 0 = none.
    pub regen_mmana: MilliMana,
}
impl Policy {
    /// Version 1: no fee, no vesting, no regeneration.
    pub fn first(grant: MilliMana) -> Self {
        Self { version: 1, fee_bp: 0, vesting_ms: 0, grant_mmana: grant, regen_mmana: MilliMana::ZERO }
    }
}

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
    },
    Void {
        job: JobId,
        reason: VoidReason,
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
    Settled { attempt: AttemptId, receipt: ReceiptId, device: DeviceId, paid_mmana: MilliMana },
    Voided { reason: VoidReason },
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
}

/// Balances of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Balance {
    pub available_mmana: i64,
    pub held_mmana: i64,
    pub vesting_mmana: i64,
}

/// All balances, by account, sorted.
pub type Balances = BTreeMap<Account, i64>;

/// Fact ids. What makes a fact unique is what it is about, not who asked or when.
pub mod fact_id {
    use super::*;

    fn of(kind: &str, parts: &[&[u8]]) -> FactId {
        let mut text = kind.as_bytes().to_vec();
        for part in parts {
            // Lengths keep ("ab","c") and ("a","bc") apart.
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part);
        }
        FactId(Cid::of(&text))
    }
    pub fn genesis(network: &NetworkId) -> FactId {
        of("genesis", &[network.to_string().as_bytes()])
    }
    pub fn open(member: &MemberId) -> FactId {
        of("open", &[member.to_string().as_bytes()])
    }
    pub fn mint(member: &MemberId, key: &str) -> FactId {
        of("mint", &[member.to_string().as_bytes(), key.as_bytes()])
    }
    pub fn bind_device(device: &DeviceId) -> FactId {
        of("bind_device", &[device.to_string().as_bytes()])
    }
    pub fn attest_tier(device: &DeviceId, tier: u8, policy: u32) -> FactId {
        of("attest_tier", &[device.to_string().as_bytes(), &[tier], &policy.to_be_bytes()])
    }
    pub fn hold(member: &MemberId, key: &str) -> FactId {
        of("hold", &[member.to_string().as_bytes(), key.as_bytes()])
    }
    /// A job is settled or voided at most once, never both: both have this id.
    pub fn close(job: &JobId) -> FactId {
        of("close", &[job.0.to_bytes().as_slice()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_print_and_parse() {
        let member = crate::Signer::from_seed(&[1; 32]).public().member_id();
        for account in [
            Account::Mint,
            Account::Commons,
            Account::Review,
            Account::Burn,
            Account::Available(member),
            Account::Held(member),
            Account::Vesting(member),
        ] {
            assert_eq!(account.to_string().parse(), Ok(account));
        }
        assert!("mem_x/available".parse::<Account>().is_err());
    }

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
    }
}
