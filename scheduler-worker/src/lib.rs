//! Turns an admitted job into an assignment, and keeps its lease until a receipt settles it.
//!
//! In: admitted jobs (JOBS; the un-acked message is the lease), bids, receipts and events of devices, their heartbeats and
//! records, cancels. Out: offers, assignments and other control messages to devices, results to members (`watch`), questions
//! to the ledger, HISTORY, and last of all the ack.
//!
//! Who decides: `auction` (who wins) and `next_step` (what a job's past asks for) are plain functions. [`world::World`] is the
//! state of one process; its methods, one file per hop, change it and say what is to be sent. `run` alone waits:
//! it takes what has arrived, lets the world act, and sends. One job's walk is `take -> look -> bidding -> assign -> watch ->
//! tell -> settle`; what stops it half-way is healed by the message coming again to whoever takes it.
//!
//! Not here, on purpose: prices (the agent's `bidding`), balances (the ledger-worker's `posting`), admission (the gateway's),
//! any file or database. A timer or task per job: one tick of 100 ms and one sweep a second serve all.

pub mod ahead;
pub mod assign;
pub mod attempts;
pub mod auction;
pub mod awake;
pub mod backlog;
pub mod bidding;
pub mod cancel;
pub mod checkpoint;
pub mod config;
pub mod count;
pub mod crash;
pub mod early;
pub mod elsewhere;
pub mod fleet;
pub mod holding;
pub mod job;
pub mod lease;
pub mod ledger;
pub mod look;
pub mod measure;
pub mod next_step;
pub mod parked;
pub mod parts;
pub mod ready;
pub mod run;
pub mod settle;
pub mod stored;
pub mod sweep;
pub mod take;
pub mod tell;
pub mod verdict;
pub mod wait;
pub mod watch;
pub mod world;
