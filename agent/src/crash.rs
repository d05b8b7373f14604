//! Places where a test may have the program die: `MESH_CRASH_AT=agent.after_accept`.

use std::sync::OnceLock;

/// Every place, in the order in which a job comes by.
pub const POINTS: [&str; 9] = [
    "after_kept",
    "after_accept",
    "after_start",
    "after_part",
    "after_upload",
    "before_receipt",
    "after_signed",
    "after_receipt",
    "after_closed",
];

/// Whether the environment names this place.
pub fn is_set(name: &str) -> bool {
    static AT: OnceLock<Option<String>> = OnceLock::new();
    let at = AT.get_or_init(|| std::env::var("MESH_CRASH_AT").ok());
    at.as_deref().is_some_and(|at| at.strip_prefix("agent.") == Some(name))
}

/// Ends the program as SIGKILL would, where the environment names this place.
pub fn point(name: &str) {
    if is_set(name) {
        // No destructor runs and nothing is flushed: what was not sent is gone.
        std::process::abort();
    }
}
