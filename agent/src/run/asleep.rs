//! How long this program was stopped while it should have run: a frozen process, a virtual machine that was set aside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often it looks whether time goes on.
const LOOK: Duration = Duration::from_millis(250);
/// A look that comes so much later than that was not held up by a busy processor.
const LATE: Duration = Duration::from_secs(1);

/// The sum of all stops so far. Cheap to clone.
#[derive(Clone, Default)]
pub struct Asleep(Arc<AtomicU64>);

impl Asleep {
    /// Watches until the last clone is dropped.
    pub fn watch() -> Self {
        let asleep = Self::default();
        let sum = Arc::downgrade(&asleep.0);
        tokio::spawn(async move {
            loop {
                let before = Instant::now();
                tokio::time::sleep(LOOK).await;
                let Some(sum) = sum.upgrade() else { return };
                let stopped = stopped(before.elapsed());
                if stopped > Duration::ZERO {
                    tracing::warn!(ms = stopped.as_millis(), "this program was stopped");
                    sum.fetch_add(u64::try_from(stopped.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
            }
        });
        asleep
    }
    pub fn so_far(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// For how long it was stopped, where a look took so long.
fn stopped(took: Duration) -> Duration {
    let late = took.saturating_sub(LOOK);
    if late > LATE { late } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_much_too_late_was_stopped() {
        for (took_ms, stopped_ms) in [(0, 0), (250, 0), (1_250, 0), (1_251, 1_001), (20_250, 20_000)] {
            assert_eq!(stopped(Duration::from_millis(took_ms)), Duration::from_millis(stopped_ms), "{took_ms}");
        }
    }
}
