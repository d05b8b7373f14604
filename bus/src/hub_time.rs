//! The hub's clock, learned from the timestamps of streams. A part's own clock never decides about money or deadlines.
//!
//! What was learned is kept as the distance to a clock of this machine that nobody sets and that goes on while the machine sleeps
//! (CLOCK_BOOTTIME): the wall clock may be wrong, and set forward or back at any moment, and a laptop that slept is as much later as the
//! network is. Only before anything was learned hub time is the wall clock.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// Hub time in Unix milliseconds. Until something was observed it is this machine's wall clock, as it was when this was made.
#[derive(Clone, Default)]
pub struct HubTime(Arc<Offset>);
struct Offset {
    /// hub - steady, in milliseconds.
    offset: AtomicI64,
    /// Whether the hub itself has told its time.
    known: AtomicBool,
    /// When the offset was last set, by the steady clock.
    at: AtomicU64,
}
impl Default for Offset {
    fn default() -> Self {
        Self { offset: AtomicI64::new(signed(here_ms()) - signed(steady_ms())), known: AtomicBool::new(false), at: AtomicU64::new(0) }
    }
}
/// An old observation gives way to a new one after this long, so that a drifting clock is followed.
const FRESH_MS: u64 = 60_000;

impl HubTime {
    /// The hub has just told its time, or stored a message that it sent at once. That was before it arrived, so the largest
    /// difference seen is the nearest to the truth.
    pub fn observe(&self, stream_ms: u64) {
        let steady = steady_ms();
        let offset = signed(stream_ms) - signed(steady);
        let first = !self.0.known.swap(true, Ordering::Relaxed);
        let old = first || steady.saturating_sub(self.0.at.load(Ordering::Relaxed)) > FRESH_MS;
        if old || offset > self.0.offset.load(Ordering::Relaxed) {
            self.0.offset.store(offset, Ordering::Relaxed);
            self.0.at.store(steady, Ordering::Relaxed);
        }
    }
    /// A message with this stream time has arrived, and may have waited before: the hub's clock is at least there. A message that
    /// waited for ten seconds must not set the clock back by ten seconds, or it would seem to have just been stored.
    pub fn at_least(&self, stream_ms: u64) {
        self.0.offset.fetch_max(signed(stream_ms) - signed(steady_ms()), Ordering::Relaxed);
    }
    pub fn now_ms(&self) -> u64 {
        u64::try_from(signed(steady_ms()) + self.0.offset.load(Ordering::Relaxed)).unwrap_or(0)
    }
    /// Whether the hub itself has told its time. Before, the time may be as wrong as this machine's wall clock.
    pub fn is_known(&self) -> bool {
        self.0.known.load(Ordering::Relaxed)
    }
    /// How far this machine's wall clock is ahead of the hub's, in milliseconds; `None` where the hub has not told its time.
    pub fn ahead_ms(&self) -> Option<i64> {
        self.is_known().then(|| signed(here_ms()) - signed(self.now_ms()))
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Milliseconds since this machine began, those in which it slept with them. Nobody sets this clock.
fn steady_ms() -> u64 {
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = since.tv_sec.saturating_mul(1000).saturating_add(since.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

/// This machine's wall clock, Unix milliseconds. Everything that reads it reads it here.
pub fn here_ms() -> u64 {
    let ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    ms.saturating_add_signed(wrong_by_ms())
}

/// For tests: how wrong this program's wall clock is to be. `MESH_CLOCK_FILE` names a file with a line for each program, such as
/// `mesh-ledger -300000`, in milliseconds; the device's agent is `agent`. It is read each time, so that a clock can be set.
fn wrong_by_ms() -> i64 {
    static FILE: OnceLock<Option<(PathBuf, String)>> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let file = std::env::var_os("MESH_CLOCK_FILE").map(PathBuf::from)?;
        let mut words = std::env::args();
        let program = PathBuf::from(words.next()?).file_name()?.to_str()?.to_owned();
        let is_agent = program == "mesh" && words.next().as_deref() == Some("start");
        Some((file, if is_agent { "agent".to_owned() } else { program }))
    });
    let Some((file, program)) = file else { return 0 };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let wrong = text.lines().find_map(|line| line.strip_prefix(program.as_str())?.strip_prefix(' ')?.trim().parse().ok());
    wrong.unwrap_or(0)
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

    #[test]
    fn it_says_whether_it_was_told() {
        let time = HubTime::default();
        time.at_least(here_ms());
        assert!(!time.is_known() && time.ahead_ms().is_none(), "what waited tells no time");
        time.observe(here_ms() - 300_000);
        let ahead = time.ahead_ms().unwrap();
        assert!((299_900..=300_100).contains(&ahead), "{ahead}");
    }
}
