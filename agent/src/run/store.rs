//! Looks whether the device's own store can keep things. While it cannot, the device takes no work and says why.

use std::time::{Duration, Instant};

use super::state::{Agent, Happened};
use crate::disk::{self, Found, Verdict};

/// Streams that did not answer so often in a row, with room on the disk, do not come back by themselves: the server is started again, and
/// once more after as many.
const AWAY_MAX: u32 = 3;
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// How the store was found.
#[derive(Default)]
pub struct Store {
    /// Why nothing can be kept.
    pub full: Option<String>,
    /// Something could not be kept: it is to be found out whether anything can.
    pub failed: bool,
    away: u32,
    looking: bool,
    next: Option<Instant>,
}

impl Agent {
    /// When the store is to be looked at; `None` while somebody is at it, or there is none.
    pub fn next_store_look(&self) -> Option<Instant> {
        (self.local.is_some() && !self.store.looking).then(|| self.store.next.unwrap_or_else(Instant::now))
    }

    pub fn look_at_store(&mut self) {
        let Some(local) = self.local.clone() else { return };
        self.store.looking = true;
        let (home, happened) = (self.home.clone(), self.happened.clone());
        let by_writing = self.store.full.is_some() || self.store.failed;
        tokio::spawn(async move {
            let free = disk::free_bytes(&home);
            let answers = tokio::time::timeout(ANSWER_MAX, local.answers(by_writing)).await.unwrap_or(false);
            let _ = happened.send(Happened::Store(Found { free, answers }));
        });
    }

    pub fn on_store(&mut self, found: Found) {
        self.store.looking = false;
        self.store.next = Some(Instant::now() + self.timings.heartbeat / 2);
        let before = self.store.full.is_some();
        let suspect = before || self.store.failed;
        match disk::verdict(found, before) {
            Verdict::Fine => {
                (self.store.full, self.store.failed, self.store.away) = (None, false, 0);
            }
            Verdict::Full(why) => {
                (self.store.full, self.store.away) = (Some(why), 0);
            }
            Verdict::Away => {
                self.store.away += 1;
                // What was full is not healed before it takes something again, and a server that had no room takes nothing more.
                if self.store.away % AWAY_MAX == u32::from(suspect) {
                    tracing::error!("the device's own server keeps nothing; starting it again");
                    self.restart_server.notify_waiters();
                }
            }
        }
        match (before, &self.store.full) {
            (false, Some(why)) => tracing::error!(why, "the device takes no work"),
            (true, None) => tracing::info!("there is room again: the device takes work"),
            (true, Some(_)) | (false, None) => return,
        }
        self.health.set(disk::HEALTH, self.store.full.clone().map_or(Ok(()), Err));
        // All schedulers are to know at once.
        self.next_beat = Instant::now();
    }
}
