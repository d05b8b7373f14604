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
    /// A message with this stream time has just arrived. It was stored before it arrived, so the largest difference seen is
    /// the nearest to the truth.
    pub fn observe(&self, stream_ms: u64) {
        let here = here_ms();
        let offset = i64::try_from(stream_ms).unwrap_or(0) - i64::try_from(here).unwrap_or(0);
        let old = here.saturating_sub(self.0.at.load(Ordering::Relaxed)) > FRESH_MS;
        if old || offset > self.0.offset.load(Ordering::Relaxed) {
            self.0.offset.store(offset, Ordering::Relaxed);
            self.0.at.store(here, Ordering::Relaxed);
        }
    }
    pub fn now_ms(&self) -> u64 {
        u64::try_from(i64::try_from(here_ms()).unwrap_or(0) + self.0.offset.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// This machine's clock, Unix milliseconds.
pub fn here_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
