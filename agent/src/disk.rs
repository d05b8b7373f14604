//! Whether there is room for what the device must keep, and what to do about its server where there was none. Decides and touches
//! nothing, but for [`free_bytes`] and [`wait_for_room`].
//!
//! A nats-server that finds its disk full turns its streams off until it is started again; so the device takes no work while there is
//! little room left, and starts its server again once there is room and the streams do not answer.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::home::Home;

/// With less room than this nothing is taken; with this much more than that it is taken again.
const FLOOR: u64 = 16 << 20;
const HYSTERESIS: u64 = 4 << 20;
/// How often room is looked for before the start.
const LOOK: Duration = Duration::from_millis(500);

/// What was found at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Bytes that are free where the device keeps things; `None`: nobody says.
    pub free: Option<u64>,
    /// The streams of the device's own server answer.
    pub answers: bool,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// Nothing can be kept: why, in a sentence.
    Full(String),
    /// There is room, but the server's streams are away: one that stays so is to be started again.
    Away,
}

/// Decides; `full`: it was full at the last look.
pub fn verdict(found: Found, full: bool) -> Verdict {
    let needed = if full { FLOOR + HYSTERESIS } else { FLOOR };
    match found.free {
        Some(free) if free < needed => {
            Verdict::Full(format!("its disk is full: {} MiB are free where it keeps jobs, it needs {}", free >> 20, needed >> 20))
        }
        Some(_) | None if found.answers => Verdict::Fine,
        Some(_) | None => Verdict::Away,
    }
}

/// Bytes that are free where the home and its server keep things, the lesser of the two.
pub fn free_bytes(home: &Home) -> Option<u64> {
    let free = |path: &Path| rustix::fs::statvfs(path).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    [free(home.root()), free(&home.nats().join("store"))].into_iter().flatten().min()
}

/// Waits until there is room to start; a device that cannot write its files would only die and be started again and again.
pub async fn wait_for_room(home: &Home, health: &bus::Health, stop: &CancellationToken) {
    let mut told = false;
    while let Verdict::Full(why) = verdict(Found { free: free_bytes(home), answers: true }, told) {
        if !told {
            tracing::error!(home = %home.root().display(), why, "it starts once there is room");
            health.set(HEALTH, Err(why));
            told = true;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    health.set(HEALTH, Ok(()));
}

/// Under which name readiness tells of it.
pub const HEALTH: &str = "store";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_decides_before_the_server_does() {
        let mib = |n: u64| Some(n << 20);
        for (free, answers, was_full, expected) in [
            (mib(100), true, false, Verdict::Fine),
            (mib(16), true, false, Verdict::Fine),
            (mib(16), true, true, Verdict::Full("its disk is full: 16 MiB are free where it keeps jobs, it needs 20".into())),
            (mib(20), true, true, Verdict::Fine),
            (mib(0), false, false, Verdict::Full("its disk is full: 0 MiB are free where it keeps jobs, it needs 16".into())),
            (mib(100), false, true, Verdict::Away),
            (None, true, true, Verdict::Fine),
            (None, false, false, Verdict::Away),
        ] {
            assert_eq!(verdict(Found { free, answers }, was_full), expected, "{free:?} {answers} {was_full}");
        }
    }

    #[test]
    fn this_disk_has_some_room() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(&Home::at(folder.path())).unwrap() > 0);
        assert_eq!(free_bytes(&Home::at(folder.path().join("not there"))), None);
    }
}
