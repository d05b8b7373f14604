//! The books at the doors: facts as they stand, balances, checkpoints and proofs, transfers. `docs/ledger-format.md` says how to
//! check each of them.

use serde::{Deserialize, Serialize};

use crate::id::{FactId, JobId, MemberId, ReceiptId};
use crate::ledger::{Account, Hash32, Policy};
use crate::mana::MilliMana;

/// One fact, verbatim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FactView {
    /// Sequence of its message in LEDGER.
    pub seq: u64,
    /// Place in that message, from 0.
    pub i: u32,
    /// The JSON text that was signed.
    pub body: String,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FactList {
    /// In the order of the ledger.
    pub facts: Vec<FactView>,
    /// Pass as `after` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Last message that the answer covers.
    pub ledger_seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AccountBalance {
    pub account: Account,
    pub balance_mmana: i64,
    /// The same in mana, for people.
    pub balance: String,
}
/// One's own accounts, and the four that belong to nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BalanceList {
    pub balances: Vec<AccountBalance>,
    pub ledger_seq: u64,
}

/// What the writer stated about the books after message `seq`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CheckpointView {
    /// The last message that it covers.
    pub seq: u64,
    /// The message that states it.
    pub message_seq: u64,
    pub chain: Hash32,
    pub root: Hash32,
    pub state: Hash32,
    /// That message as stored: signed by a ledger key.
    pub message: String,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CheckpointList {
    /// Newest first.
    pub checkpoints: Vec<CheckpointView>,
    /// Pass as `before` for older ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    pub ledger_seq: u64,
}

/// That one job's end stands in the books, with all that is needed to check it: RFC 6962, 2.1.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ProofView {
    pub job: JobId,
    /// Absent where the hold was returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<ReceiptId>,
    /// The message that ends the job's hold; its leaf is number `seq` - 1.
    pub seq: u64,
    /// The fact's place in it.
    pub i: u32,
    /// That message as stored.
    pub message: String,
    /// From the leaf upwards, in the tree of `checkpoint.seq` leaves.
    pub path: Vec<Hash32>,
    pub checkpoint: CheckpointView,
}

/// That the first `from` messages of the first `to` are still the same: RFC 6962, 2.1.2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConsistencyView {
    pub from: u64,
    pub to: u64,
    pub path: Vec<Hash32>,
}

/// What a transfer moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TransferView {
    pub fact: FactId,
    /// Sequence in LEDGER.
    pub seq: u64,
    /// It was done earlier, under the same key.
    pub repeat: bool,
    pub from: MemberId,
    pub to: MemberId,
    pub amount_mmana: MilliMana,
    /// The same in mana, for people.
    pub amount: String,
    pub key: String,
}

/// The rules in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PolicyView {
    pub rules: Policy,
    /// The message that put them in force.
    pub since_seq: u64,
    pub ledger_seq: u64,
}

/// Questions.
pub mod ask {
    use super::{Deserialize, MemberId, MilliMana, Serialize};

    /// ledger.facts: what follows `after` ("SEQ" = after that message, or a cursor).
    #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Facts {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub after: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub limit: Option<u32>,
    }
    /// ledger.checkpoints: the newest first.
    #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Checkpoints {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub before: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub limit: Option<u32>,
    }
    /// ledger.consistency.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Consistency {
        pub from: u64,
        pub to: u64,
    }
    /// credit.transfer. The same key moves credit once, however often it is sent.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Transfer {
        pub to: MemberId,
        /// Either of these; people write mana (a number or a decimal string).
        #[serde(default, deserialize_with = "crate::mana::written::option", skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<String>")]
        pub amount: Option<MilliMana>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub amount_mmana: Option<MilliMana>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        pub note: String,
        /// Over HTTP the header `Idempotency-Key` may say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub key: Option<String>,
    }
}
