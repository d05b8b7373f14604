//! Whether the database and the hub answer, looked at without anybody asking: `/readyz` is to turn before people's questions fail,
//! also where nothing is written that would show it. A frozen hub keeps its connections, so that they are up says nothing.

use std::sync::Arc;
use std::time::Duration;

use bus::Health;
use bus_schemas::stream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::world::World;

const EVERY: Duration = Duration::from_secs(2);
/// What takes longer is away. Together with [`EVERY`] it is how late `/readyz` may be.
const WITHIN: Duration = Duration::from_secs(3);

/// The revoker is no part of a job's way: that it is away is told, and decides nothing.
const REVOKER_EVERY: Duration = Duration::from_secs(10);

/// Tells until `stop` whether a revoker runs, and what the hub's nodes have taken from it.
///
/// # Errors
/// Never; as every task of the gateway.
pub async fn watch_revoker(world: Arc<World>, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = interval(REVOKER_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let told = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            told = async { ticks.tick().await; world.ask_revoker(0).await } => told,
        };
        let found = match told {
            Some(told) if told.nodes == told.of => Ok(format!("{} of {} nodes of the hub have what it says", told.nodes, told.of)),
            Some(told) => Err(format!("{} of {} nodes of the hub have what it says", told.nodes, told.of)),
            None => Err("mesh-gateway revoker does not answer: the hub lets in whoever is revoked until it runs".to_owned()),
        };
        metrics::gauge!("mesh_revoker_up").set(f64::from(u8::from(told.is_some())));
        health.tell("revoker", found);
    }
}

/// Looks until `stop`. Of names of their own in `health`: that rows of HISTORY are written, and that a connection is up, are other
/// questions, answered where they are.
///
/// # Errors
/// Never; as every task of the gateway.
pub async fn watch(world: Arc<World>, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fine = [true; 2];
    loop {
        let seen = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            seen = async {
                ticks.tick().await;
                let (database, hub) = (world.store.answers(), world.bus.stream_end(stream::SUBMIT));
                // So that a list can say how old it is while one of them is away.
                let looked = async { drop(world.age().await) };
                let ((), database, hub) = tokio::join!(looked, answers("database", database), answers("hub", hub));
                (database, hub)
            } => [("database", seen.0), ("hub", seen.1)],
        };
        for ((name, seen), fine) in seen.into_iter().zip(&mut fine) {
            match &seen {
                Err(why) if *fine => tracing::warn!(why, "not ready"),
                Ok(()) if !*fine => tracing::info!("the {name} answers again"),
                Err(_) | Ok(()) => {}
            }
            *fine = seen.is_ok();
            health.set(name, seen);
        }
    }
}

async fn answers<T, E>(what: &str, asked: impl Future<Output = Result<T, E>>) -> Result<(), String>
where
    anyhow::Error: From<E>,
{
    match timeout(WITHIN, asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("the {what} does not answer: {:#}", anyhow::Error::from(error))),
        Err(_) => Err(format!("the {what} does not answer within {} s", WITHIN.as_secs())),
    }
}
