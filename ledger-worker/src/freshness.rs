//! How old a look at the stream's end is. A refusal from stale books would be a lie, so it needs a fresh look.

use std::time::{Duration, Instant};

use bus::hub_time::here_ms;

/// One moment by both clocks: the monotonic one stands still while a machine is suspended, the other may be set back.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    monotonic: Instant,
    /// Unix milliseconds.
    wall: u64,
}

impl Moment {
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: here_ms() }
    }

    /// Older than anything.
    pub fn never() -> Self {
        Self { wall: 0, ..Self::now() }
    }

    /// Whether less than `age` has passed by either clock. A clock that went back counts as old.
    pub fn is_younger_than(&self, age: Duration) -> bool {
        self.monotonic.elapsed() < age && here_ms().checked_sub(self.wall).is_some_and(|ms| Duration::from_millis(ms) < age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_clock_makes_it_old() {
        let hour = Duration::from_secs(3600);
        let now = Moment::now();
        assert!(now.is_younger_than(hour));
        assert!(!Moment { wall: now.wall - 3_600_000, ..now }.is_younger_than(hour), "suspended for an hour");
        assert!(!Moment { wall: now.wall + 3_600_000, ..now }.is_younger_than(hour), "the clock was set back");
    }
}
