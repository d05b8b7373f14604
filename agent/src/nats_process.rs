//! How a nats-server of ours is started: with little memory, few processors, and timers that need not be exact.

/// Variables of its Go runtime: its collector works harder above `memory`; it runs on so many `processors` at once, because a Go
/// program spends a third of a small load on waking the others.
pub fn environment(memory: &str, processors: usize) -> [(&'static str, String); 2] {
    [("GOMEMLIMIT", memory.to_owned()), ("GOMAXPROCS", processors.to_string())]
}

/// Runs `start`, so that a process started in it may be woken by a timer this much later than it asked.
///
/// While it has work, a Go program sets a timer of 20 µs over and over to look after itself. On a virtual machine each of them costs
/// more than what it looks after: without this, a fifth of the hub's time under a light load.
#[cfg(target_os = "linux")]
pub fn with_lazy_timers<T>(start: impl FnOnce() -> T) -> T {
    use rustix::thread::{current_timer_slack, set_current_timer_slack};
    use std::num::NonZeroU64;

    /// What NATS waits for (pings, expiries, redelivery) is counted in tenths of a second or more.
    const LATE_NS: NonZeroU64 = NonZeroU64::new(4_000_000).unwrap();

    // A child inherits it from the thread that starts it. Where it cannot be set, the child works as well, at a higher price.
    let before = current_timer_slack().ok().and_then(NonZeroU64::new);
    let _ = set_current_timer_slack(Some(LATE_NS));
    let started = start();
    let _ = set_current_timer_slack(before);
    started
}

#[cfg(not(target_os = "linux"))]
pub fn with_lazy_timers<T>(start: impl FnOnce() -> T) -> T {
    start()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_child_inherits_lazy_timers_and_its_parent_keeps_its_own() {
        let slack = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
        let before = slack("/proc/self/timerslack_ns");
        let child = with_lazy_timers(|| std::process::Command::new("cat").arg("/proc/self/timerslack_ns").output()).unwrap();
        assert_eq!(String::from_utf8(child.stdout).unwrap().trim(), "4000000");
        assert_eq!(slack("/proc/self/timerslack_ns"), before);
    }
}
