//! Takes HISTORY into Postgres: what came meanwhile in one transaction, acknowledged after it. A transaction begins a tick after the
//! first message, and two ticks after the one before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::pull::{self, Delivery};
use bus_schemas::history::HistoryRecord;
use bus_schemas::{Problem, stream, subject};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::history::{Jobs, fold};
use crate::world::World;

/// Messages of one transaction.
const BATCH: usize = 256;
/// Ticks from the start of one transaction to that of the next: nobody waits for rows, and each costs the database as much as ten jobs.
const TICKS_APART: u32 = 2;
const TIDY: Duration = Duration::from_secs(3600);

/// Runs until `stop`.
///
/// # Errors
/// Where the consumer is not there.
pub async fn run(world: Arc<World>, health: bus::Health, stop: CancellationToken) -> anyhow::Result<()> {
    let mut deliveries = pull::deliveries(&world.bus, stream::HISTORY, stream::PROJECTION, BATCH * 2).await?;
    let (sender, mut receiver) = mpsc::channel(BATCH);
    let pulling = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = pulling.cancelled() => break,
                delivery = deliveries.next() => match delivery {
                    Some(delivery) => if sender.send(delivery).await.is_err() { break },
                    None => break,
                },
            }
        }
    });
    let mut tidied = tokio::time::Instant::now();
    let mut batch: Vec<Delivery> = Vec::new();
    let mut next = tokio::time::Instant::now();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH {
            tokio::time::sleep_until(next.max(tokio::time::Instant::now() + world.timings.tick)).await;
        }
        next = tokio::time::Instant::now() + world.timings.tick * TICKS_APART;
        while batch.len() < BATCH
            && let Ok(delivery) = receiver.try_recv()
        {
            batch.push(delivery);
        }
        project(&world, &health, std::mem::take(&mut batch), &stop).await;
        if tidied.elapsed() > TIDY {
            tidied = tokio::time::Instant::now();
            if let Err(error) = world.store.tidy().await {
                tracing::warn!(%error, "old places of HISTORY stay noted");
            }
        }
    }
    Ok(())
}

/// Writes one batch, trying until it is written or `stop`.
async fn project(world: &World, health: &bus::Health, batch: Vec<Delivery>, stop: &CancellationToken) {
    let mut readable: BTreeMap<u64, (String, Vec<HistoryRecord>)> = BTreeMap::new();
    for delivery in batch {
        match records(world, &delivery.payload) {
            Ok(records) => {
                readable.insert(delivery.stream_seq, (delivery.ack_subject, records));
            }
            Err(problem) => {
                dead_letter(world, delivery.stream_seq, &problem.to_string()).await;
                ack(world, delivery.ack_subject).await;
            }
        }
    }
    let mut pause = Duration::from_millis(100);
    loop {
        let places: Vec<u64> = readable.keys().copied().collect();
        match write(world, &readable, &places).await {
            Ok(()) => {
                health.set("postgres", Ok(()));
                break;
            }
            Err(error) if error.is_permanent() => {
                // One of them cannot be written; it must not hold up the others.
                one_by_one(world, &readable).await;
                break;
            }
            Err(error) => {
                health.set("postgres", Err("the database does not answer".into()));
                tracing::warn!(error = &error as &dyn std::error::Error, messages = places.len(), "history waits for the database");
            }
        }
        tokio::select! {
            // What is not acknowledged comes again.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
    for (ack_subject, records) in readable.into_values() {
        for record in records {
            if record.transitions.iter().any(|transition| transition.to.is_final()) {
                world.live.forget(&record.job);
            }
        }
        ack(world, ack_subject).await;
    }
}

async fn write(
    world: &World,
    readable: &BTreeMap<u64, (String, Vec<HistoryRecord>)>,
    places: &[u64],
) -> Result<(), crate::store::StoreError> {
    let folded = |new: &[u64]| {
        let mut jobs = Jobs::new();
        for seq in new {
            if let Some((_, records)) = readable.get(seq) {
                fold(&mut jobs, *seq, records.iter().cloned());
            }
        }
        jobs
    };
    world.store.apply(places, folded).await
}

async fn one_by_one(world: &World, readable: &BTreeMap<u64, (String, Vec<HistoryRecord>)>) {
    for seq in readable.keys() {
        if let Err(error) = write(world, readable, &[*seq]).await {
            dead_letter(world, *seq, &format!("{:#}", anyhow::Error::from(error))).await;
        }
    }
}

fn records(world: &World, payload: &[u8]) -> Result<Vec<HistoryRecord>, Problem> {
    let keys = [world.document.gateway_keys.as_slice(), world.document.scheduler_keys.as_slice()];
    let records = world.verified::<HistoryRecord>(payload, &keys)?;
    Ok(records.into_iter().map(bus_schemas::Verified::into_body).filter(|record| record.net == world.net).collect())
}

async fn dead_letter(world: &World, seq: u64, why: &str) {
    tracing::error!(seq, why, "a message of HISTORY cannot be projected");
    let letter = serde_json::json!({"stream": stream::HISTORY, "seq": seq, "error": why});
    if let Err(error) = world.bus.store(subject::DLQ.to_owned(), None, letter.to_string().into(), Duration::from_secs(5)).await {
        tracing::error!(%error, seq, "and its dead letter cannot be stored");
    }
}

async fn ack(world: &World, ack_subject: String) {
    // Where it is lost the message comes again, and its place is noted already.
    let _ = world.bus.client.publish(ack_subject, "+ACK".into()).await;
}
