//! Takes HISTORY into Postgres: what came meanwhile in one transaction, acknowledged after it. A transaction begins a tick after the
//! first message, and two ticks after the one before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::pull::{self, Delivery};
use bus_schemas::history::HistoryRecord;
use bus_schemas::letter::{Original, Stage};
use bus_schemas::{Code, Problem, stream};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::history::{Jobs, fold};
use crate::letters;
use crate::world::{World, crash_point};

/// Messages of one transaction.
const BATCH: usize = 256;
/// Ticks from the start of one transaction to that of the next: nobody waits for rows, and each costs the database as much as ten jobs.
const TICKS_APART: u32 = 2;
const TIDY: Duration = Duration::from_secs(3600);

/// One message of HISTORY.
struct Read {
    ack: String,
    at: u64,
    records: Vec<HistoryRecord>,
}
/// By place in HISTORY.
type Readable = BTreeMap<u64, Read>;

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
    let mut readable = Readable::new();
    for delivery in batch {
        match records(world, &delivery.payload) {
            Ok(records) => {
                readable.insert(delivery.stream_seq, Read { ack: delivery.ack_subject, at: delivery.stored_at, records });
            }
            Err(problem) => {
                // Without a letter it comes again, and gets one then.
                if dead_letter(world, delivery.stream_seq, delivery.stored_at, problem).await {
                    note_place(world, delivery.stream_seq).await;
                    ack(world, delivery.ack_subject).await;
                }
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
                readable = one_by_one(world, readable).await;
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
    crash_point("after_rows");
    for Read { ack: ack_subject, records, .. } in readable.into_values() {
        for record in records {
            if record.transitions.iter().any(|transition| transition.to.is_final()) {
                world.live.forget(&record.job);
            }
        }
        ack(world, ack_subject).await;
    }
}

async fn write(world: &World, readable: &Readable, places: &[u64]) -> Result<(), crate::store::StoreError> {
    let folded = |new: &[u64]| {
        let mut jobs = Jobs::new();
        for seq in new {
            if let Some(read) = readable.get(seq) {
                fold(&mut jobs, *seq, read.records.iter().cloned());
            }
        }
        jobs
    };
    world.store.apply(world.net, places, folded).await
}

/// Writes each by itself; answers what is done with: written, or a dead letter. The rest comes again.
async fn one_by_one(world: &World, readable: Readable) -> Readable {
    let mut done = Readable::new();
    for (seq, read) in readable {
        let at = read.at;
        let one = Readable::from([(seq, read)]);
        let written = match write(world, &one, &[seq]).await {
            Ok(()) => true,
            Err(error) if error.is_permanent() => {
                let problem = Problem::new(Code::Internal, format!("{:#}", anyhow::Error::from(error)));
                let has_letter = dead_letter(world, seq, at, problem).await;
                if has_letter {
                    note_place(world, seq).await;
                }
                has_letter
            }
            Err(_) => false,
        };
        if written {
            done.extend(one);
        }
    }
    done
}

fn records(world: &World, payload: &[u8]) -> Result<Vec<HistoryRecord>, Problem> {
    let keys = [world.document.gateway_keys.as_slice(), world.document.scheduler_keys.as_slice()];
    let records = world.verified::<HistoryRecord>(payload, &keys)?;
    Ok(records.into_iter().map(bus_schemas::Verified::into_body).filter(|record| record.net == world.net).collect())
}

/// HISTORY keeps the message itself.
async fn dead_letter(world: &World, seq: u64, at: u64, problem: Problem) -> bool {
    tracing::error!(seq, %problem, "a message of HISTORY cannot be projected");
    let original =
        Original { stream: stream::HISTORY.to_owned(), seq, subject: String::new(), bytes: 0, headers: BTreeMap::new(), payload: None };
    world.keep_letter(letters::about(world.net, Stage::History, at, original, problem)).await
}

/// What has a letter is done with: rows without it are not behind. Best effort; who reads them says so for at most a day.
async fn note_place(world: &World, seq: u64) {
    if let Err(error) = world.store.apply(world.net, &[seq], |_| Jobs::new()).await {
        tracing::debug!(%error, seq, "the place of a letter is not noted");
    }
}

async fn ack(world: &World, ack_subject: String) {
    // Where it is lost the message comes again, and its place is noted already.
    let _ = world.bus.client.publish(ack_subject, "+ACK".into()).await;
}
