//! The device: it answers offers, runs what it is assigned, and signs what came of it. And the `mesh` command line.
//!
//! ```text
//! Offer ─> bidding ─> Bid                             AssignRequest ─> work ─> executor ─> Receipt
//! this machine: submit ─> OUTBOX ─> outbox ─> hub     hub: watch ─> local ─> result.<job>
//! ```
//!
//! `bidding`, `consent`, `work` and `receipts` decide and touch nothing; `run` listens and carries out. `identity` is the only module that has
//! the keys, `link` says what is believed of all that comes down, `leaf` runs the device's own nats-server.
//!
//! Not here, on purpose: which device is chosen (the scheduler), what a device is paid (the ledger), and the model's arithmetic
//! (`agent-embed`).

pub mod alone;
pub mod home;
pub mod http;
pub mod hub;
pub mod identity;

pub mod enrol;
pub mod hardware;
pub mod renewal;

pub mod leaf;
pub mod link;
pub mod nats_process;

pub mod bidding;
pub mod consent;
pub mod receipts;
pub mod work;

pub mod blobs;
pub mod checkpoint;
pub mod consent_file;
pub mod disk;
pub mod door;
pub mod executor;
pub mod local;
pub mod outbox;
pub mod pin;

pub mod run;

pub mod crash;

pub mod cli;
pub mod dev;
