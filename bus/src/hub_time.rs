//! The hub's clock, learned from the timestamps of streams. A part's own clock never decides about money or deadlines.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Hub time in Unix milliseconds. Until something was observed it is this machine's clock.
#[derive(Clone, Default)]
pub struct HubTime(Arc<Offset>);
#[derive(Default)]
struct Offset {
    /// hub - here, in milliseconds.
    offset: AtomicI64,
    /// When the offset was last set, by this machine's clock; 0 = never.
    at: AtomicU64,
}
/// An old observation gives way to a new one after this long, so that a drifting clock is followed.
const FRESH_MS: u64 = 60_000;

impl HubTime {
    /// The hub has just told its time, or stored a message that it sent at once. That was before it arrived, so the largest
    /// difference seen is the nearest to the truth.
    pub fn observe(&self, stream_ms: u64) {
        let here = here_ms();
        let offset = i64::try_from(stream_ms).unwrap_or(0) - i64::try_from(here).unwrap_or(0);
        let old = here.saturating_sub(self.0.at.load(Ordering::Relaxed)) > FRESH_MS;
        if old || offset > self.0.offset.load(Ordering::Relaxed) {
            self.0.offset.store(offset, Ordering::Relaxed);
            self.0.at.store(here, Ordering::Relaxed);
        }
    }
    /// A message with this stream time has arrived, and may have waited before: the hub's clock is at least there. A message that
    /// waited for ten seconds must not set the clock back by ten seconds, or it would seem to have just been stored.
    pub fn at_least(&self, stream_ms: u64) {
        let offset = i64::try_from(stream_ms).unwrap_or(0) - i64::try_from(here_ms()).unwrap_or(0);
        self.0.offset.fetch_max(offset, Ordering::Relaxed);
    }
    pub fn now_ms(&self) -> u64 {
        u64::try_from(i64::try_from(here_ms()).unwrap_or(0) + self.0.offset.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// This machine's clock, Unix milliseconds.
pub fn here_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far hub time is ahead of this machine's, in seconds, after observations of a hub that is so far ahead.
    fn after(observed: &[(&str, i64)]) -> i64 {
        let time = HubTime::default();
        for (how, ahead_s) in observed {
            let stream_ms = u64::try_from(i64::try_from(here_ms()).unwrap() + ahead_s * 1000).unwrap();
            if *how == "at_least" { time.at_least(stream_ms) } else { time.observe(stream_ms) }
        }
        let ahead = i64::try_from(time.now_ms()).unwrap() - i64::try_from(here_ms()).unwrap();
        (ahead + 500).div_euclid(1000)
    }

    #[test]
    fn what_waited_does_not_set_the_clock_back() {
        for (observed, ahead_s) in [
            (vec![], 0),
            (vec![("told", 5)], 5),
            (vec![("told", -5)], -5),
            (vec![("told", -5), ("told", -9)], -5),
            (vec![("at_least", -10)], 0),
            (vec![("at_least", 10)], 10),
            (vec![("told", -5), ("at_least", -10)], -5),
            (vec![("told", -5), ("at_least", -3)], -3),
            (vec![("at_least", -10), ("told", -5)], -5),
        ] {
            assert_eq!(after(&observed), ahead_s, "{observed:?}");
        }
    }
}
