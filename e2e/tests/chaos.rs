//! Random death, silence and full disks under a load at every door, and then the promise: what was accepted is done once and paid once.
//!
//! `make chaos SECONDS=n SEED=s`; see `e2e::chaos`. More settings: `MESH_CHAOS_EVERY_MS`, `_PACE_MS`, `_DIVISOR`, `_HUBS`, `_GATEWAYS`,
//! `_SCHEDULERS`, `_LEDGERS`, `_DEVICES`, `_SMALL_DISKS`.

use e2e::chaos::plan::Shape;
use e2e::chaos::{Settings, run};

const SHAPE: Shape = Shape { hubs: 3, gateways: 2, schedulers: 2, ledgers: 2, devices: 4, small_disks: true };

/// One network at a time: two would take the machine from each other.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Ten times shorter than the times that networks run with.
#[tokio::test]
async fn what_was_accepted_is_done_once_whatever_dies() {
    let _alone = ONE.lock().await;
    let settings = Settings { seed: 1, seconds: 120, divisor: 10, every_ms: 1_000, pace_ms: 800, shape: SHAPE };
    run(settings.or_environment()).await;
}

/// The times that networks run with, so that no promise rests on short ones.
#[tokio::test]
async fn and_with_real_times() {
    let _alone = ONE.lock().await;
    run(Settings { seed: 2, seconds: 75, divisor: 1, every_ms: 5_000, pace_ms: 2_000, shape: SHAPE }).await;
}
