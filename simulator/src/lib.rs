//! A whole network in one thread and one second: the deciding cores of all rooms run together over a bus in memory, with a clock that is moved
//! by hand, while everything that can fail does.
//!
//! ```text
//! plan (a seed) ─> sim: next event ─> a process handles it ─> effects, cut off where it dies ─> hub, network, disks ─> check
//! ```
//!
//! In: a seed. Out: an [`Outcome`]: how often which fault came, and the first thing that must not be. The same seed is the same run, event by
//! event (`hash`). What decides is the rooms' own code, called and not written again: `admission` and `funding`, `next_step`, `auction`,
//! `verdict`, `fleet`, `job`, `sweep::due`, `checkpoint::check`, `posting` and `round`, `bidding`, `work` and `receipts`, and replay as the judge.
//! What their shells do around it (who holds a lease, what is written before what) is written here as processes of their own, in the same order
//! of effects: `gateway`, `scheduler`, `ledger`, `device`.
//!
//! `mutation` breaks one rule at a time, to show that `check` sees it. Not here: real sockets and disks (e2e), and speed (`mesh bench`).

#![allow(clippy::wildcard_enum_match_arm)] // A process hears what it listens to; all else passes it by.

pub mod cast;
pub mod message;
pub mod mutation;
pub mod plan;

pub mod cx;
pub mod hub;

pub mod device;
pub mod disk;
pub mod gateway;
pub mod ledger;
pub mod scheduler;

pub mod check;
pub mod counters;
mod seeds;
mod sim;
mod trace;

pub use counters::Counters;
pub use mutation::Mutation;
pub use seeds::{Summary, replay_command, run_seeds};
pub use sim::{Options, Outcome, run};
