//! What a scheduler survives: the program on a real nats-server; gateway, ledger and devices are scripted peers.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // The scripted peers, too, may stop at the first surprise.

#[path = "../network/mod.rs"]
mod network;

mod bounds;
mod classes;
mod crash_points;
mod deaths;
mod fleet;
mod frozen;
mod left;
mod many;
mod paid;
mod parts;
mod recovery;
mod refused;
mod slow;
mod tries;

use bus_schemas::JobId;
use bus_schemas::history::{AttemptEnded, HistoryEvent};
use network::Network;

pub const ECHO: &str = r#"{"kind":"echo","text":"hello"}"#;
pub const TEN_TEXTS: &str = r#"{"kind":"embed","text":["0","1","2","3","4","5","6","7","8","9"]}"#;

/// How a job's attempts ended without a result, oldest first.
pub async fn ended_attempts(network: &Network, job: JobId) -> Vec<AttemptEnded> {
    let ended = |event| match event {
        HistoryEvent::AttemptEnded(ended) => Some(*ended),
        _ => None,
    };
    network.history(job).await.into_iter().filter_map(|record| ended(record.what)).collect()
}
/// Records of a job's end; two are possible where a scheduler died in between, but they say the same.
pub async fn ends(network: &Network, job: JobId) -> Vec<bus_schemas::job::JobState> {
    let end = |event| match event {
        HistoryEvent::Ended(end) => Some(end.state),
        _ => None,
    };
    network.history(job).await.into_iter().filter_map(|record| end(record.what)).collect()
}
