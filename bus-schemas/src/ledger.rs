//! What the ledger is asked (commands), what it answers (outcomes), and what it writes (facts).
//!
//! A fact carries explicit legs; replay applies legs and never re-runs a rule. Amounts in JSON are integers in fields ending `_mmana`.

mod account;
mod command;
mod fact;
pub mod fact_id;
mod fact_read;
mod policy;

pub use account::{Account, Balance, Balances};
pub use command::{Command, Done, HoldState, HoldView, LedgerOutcome, LedgerReply, LedgerRequest, Op, RefusalKind};
pub use fact::{CheckpointState, Ended, Fact, FlagWhy, Hash32, Leg, SettleOutcome, VoidReason, What};
pub use policy::Policy;
