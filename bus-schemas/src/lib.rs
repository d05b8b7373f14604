//! The words and the rules that two rooms share.
//!
//! In reading order: what things are called (`id`, `mana`), how a message is decoded and trusted (`strict`, `envelope`),
//! what one job says on its way (`job` → `offer` → `assignment` → `event` → `receipt`), what the books say (`ledger`,
//! `replay`), what is told to people (`history`, `api`, `code`), and where it all travels (`subject`, `stream`, `limits`).
//!
//! Not here, on purpose: sockets, clocks, randomness, threads. Everything is a value or a plain function.

pub mod api;
pub mod assignment;
pub mod code;
pub mod eligibility;
pub mod envelope;
pub mod event;
pub mod heartbeat;
pub mod history;
pub mod holding;
pub mod id;
pub mod job;
pub mod ledger;
pub mod letter;
pub mod limits;
pub mod mana;
pub mod merkle;
pub mod network;
pub mod offer;
pub mod order;
pub mod receipt;
pub mod replay;
pub mod resources;
pub mod stream;
pub mod strict;
pub mod subject;
pub mod submission;

pub use code::{Code, Problem};
pub use envelope::{Batch, Form, Proof, Signer, Verified, Verifier};
pub use id::{AttemptId, Cid, DeviceId, FactId, InstanceId, JobId, LetterId, MemberId, NetworkId, PublicKey, ReceiptId};
pub use mana::MilliMana;

/// Milliseconds since the Unix epoch. Whose clock it is stands beside each field.
pub type UnixMs = u64;

/// The time of day in UTC as it stands in reasons, so that a reason reads the same whoever gives it.
pub fn time_of_day(at: UnixMs) -> String {
    let s = at / 1000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_of_day() {
        for (at, text) in [(0, "00:00:00 UTC"), (1_800_000_000_123, "08:00:00 UTC"), (86_399_999, "23:59:59 UTC")] {
            assert_eq!(super::time_of_day(at), text);
        }
    }
}
