//! Points where a test makes the process die: `MESH_CRASH_AT=scheduler.<point>`. Nothing is set in real life.

use std::sync::OnceLock;

/// Dies here and now, without any clean-up, if this point was asked for.
pub fn at(point: &str) {
    static ASKED: OnceLock<Option<String>> = OnceLock::new();
    let asked = ASKED.get_or_init(|| std::env::var("MESH_CRASH_AT").ok());
    if asked.as_deref().and_then(|asked| asked.strip_prefix("scheduler.")) == Some(point) {
        tracing::error!(point, "dying here, as MESH_CRASH_AT asks");
        std::process::abort();
    }
}
