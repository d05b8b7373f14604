//! What a scheduler survives: the program on a real nats-server; gateway, ledger and devices are scripted peers.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // The scripted peers, too, may stop at the first surprise.

#[path = "../network/mod.rs"]
mod network;

mod many;
