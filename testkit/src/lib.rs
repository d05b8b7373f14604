//! Real servers for tests: a whole stack started by `mesh dev`, clients for every door, and the tools to break it.
//!
//! In: the programs in `MESH_BIN_DIR` (or beside the test). Out: a [`Stack`] that is stopped, with all it started, when dropped.
//! Everything binds to loopback and free ports. Nothing here sleeps to wait: [`until`] looks again until a deadline that means *hung*.

pub mod cli;
pub mod dice;
pub mod disk;
pub mod http;
pub mod peer;
pub mod postgres;
pub mod proc;
pub mod proxy;
pub mod raw;
pub mod stack;

use std::future::Future;
use std::time::{Duration, Instant};

pub use cli::Cli;
pub use dice::Dice;
pub use disk::Disk;
pub use peer::Peer;
pub use proxy::{Proxy, Way};
pub use stack::{Launch, Stack};

/// A deadline that means *hung*.
pub const HUNG: Duration = Duration::from_secs(120);

/// Looks again until `look` gives something.
///
/// # Panics
/// After [`HUNG`], naming what was waited for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    within(HUNG, look).await.unwrap_or_else(|| panic!("hung: waited {HUNG:?} for {what}"))
}

/// Looks again until `look` gives something, or the time is over.
pub async fn within<T, F: Future<Output = Option<T>>>(time: Duration, look: impl Fn() -> F) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if start.elapsed() > time {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
