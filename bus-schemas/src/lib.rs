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

/// Day and time in UTC, for what may be of another day than the one on which it is read.
pub fn date_and_time(at: UnixMs) -> String {
    // Days since 1 March of year 0, so that a leap day is the last of its year; 400 years have always as many days.
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = at / 86_400_000 + DAYS_TO_1970;
    let (eras, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = eras * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{:02} {}", day - (153 * from_march + 2) / 5 + 1, time_of_day(at))
}

#[cfg(test)]
mod tests {
    #[test]
    fn days_have_dates() {
        for (at, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399_000, "2000-02-28 23:59:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (951_868_800_000, "2000-03-01 00:00:00 UTC"),
            (1_800_000_000_123, "2027-01-15 08:00:00 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(super::date_and_time(at), text);
        }
    }

    #[test]
    fn times_of_day() {
        for (at, text) in [(0, "00:00:00 UTC"), (1_800_000_000_123, "08:00:00 UTC"), (86_399_999, "23:59:59 UTC")] {
            assert_eq!(super::time_of_day(at), text);
        }
    }
}
