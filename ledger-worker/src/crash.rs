//! Points where a test makes the process die: `MESH_CRASH_AT=ledger.<point>`, or `ledger.<point>:<n>` for the n-th time it is
//! reached. Points: before_append, after_append, before_commit, after_commit, before_reply, after_reply. Nothing is set in real life.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

struct Asked {
    point: String,
    left: AtomicU32,
}

fn asked(point: &str) -> Option<&'static Asked> {
    static ASKED: OnceLock<Option<Asked>> = OnceLock::new();
    let asked = ASKED.get_or_init(|| {
        let text = std::env::var("MESH_CRASH_AT").ok()?;
        let text = text.strip_prefix("ledger.")?;
        let (point, times) = text.split_once(':').unwrap_or((text, "1"));
        Some(Asked { point: point.to_owned(), left: AtomicU32::new(times.parse().unwrap_or(1)) })
    });
    asked.as_ref().filter(|asked| asked.point == point)
}

/// Whether this point was asked for: what is on its way should leave before the process dies there.
pub fn is_asked(point: &str) -> bool {
    asked(point).is_some()
}

/// Dies here and now, without any clean-up, if this point was asked for.
pub fn at(point: &str) {
    if asked(point).is_some_and(|asked| asked.left.fetch_sub(1, Ordering::Relaxed) == 1) {
        tracing::error!(point, "dying here, as MESH_CRASH_AT asks");
        std::process::abort();
    }
}
