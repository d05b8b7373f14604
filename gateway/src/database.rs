//! Whether the database answers, looked at without anybody asking: `/readyz` is to turn before people's questions fail, also where
//! nothing is written that would show it.

use std::sync::Arc;
use std::time::Duration;

use bus::Health;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::world::World;

const EVERY: Duration = Duration::from_secs(2);
/// One that takes longer is away. Together with [`EVERY`] it is how late `/readyz` may be.
const WITHIN: Duration = Duration::from_secs(3);

/// Looks until `stop`. Of its own name in `health`: that rows of HISTORY are written is another question, answered where they are.
///
/// # Errors
/// Never; as every task of the gateway.
pub async fn watch(world: Arc<World>, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fine = true;
    loop {
        let seen = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            seen = async { ticks.tick().await; look(&world.store).await } => seen,
        };
        match &seen {
            Err(why) if fine => tracing::warn!(why, "not ready"),
            Ok(()) if !fine => tracing::info!("the database answers again"),
            Err(_) | Ok(()) => {}
        }
        fine = seen.is_ok();
        health.set("database", seen);
    }
}

async fn look(store: &Store) -> Result<(), String> {
    match timeout(WITHIN, store.answers()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("the database does not answer: {:#}", anyhow::Error::from(error))),
        Err(_) => Err(format!("the database does not answer within {} s", WITHIN.as_secs())),
    }
}
