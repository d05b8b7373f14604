//! Streams that are read without a consumer, by place: DLQ and CANCELS, into Postgres. Each batch and its place are one transaction, and
//! one gateway at a time reads a stream, so nothing counts twice however many there are.

use std::sync::Arc;
use std::time::Duration;

use bus::direct::StoredMessage;
use bus_schemas::history::CancelRequest;
use bus_schemas::{Code, Problem, stream, subject};
use deadpool_postgres::Transaction;
use tokio_util::sync::CancellationToken;

use crate::letters;
use crate::store::{StoreError, big, unsigned};
use crate::world::World;

const STREAMS: [&str; 2] = [stream::DLQ, stream::CANCELS];
const BATCH: usize = 256;
const TIDY: Duration = Duration::from_secs(3600);

/// Reads until `stop`.
///
/// # Errors
/// Never: what does not answer now is asked again.
pub async fn follow(world: Arc<World>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tidied = tokio::time::Instant::now();
    loop {
        for stream in STREAMS {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = world.read_on(stream) => {}
            }
        }
        if tidied.elapsed() > TIDY {
            tidied = tokio::time::Instant::now();
            if let Err(error) = letters::rows::tidy(&world.store, world.now()).await {
                tracing::warn!(%error, "old dead letters stay");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // For what only the server or another part has stored: whoever stores or asks here reads at once.
            () = tokio::time::sleep(world.timings.ack_wait) => {}
        }
    }
}

impl World {
    /// Reads on in a stream where something was just stored, without letting anybody wait; what is not read now, the next look reads.
    pub async fn read_on(&self, stream: &'static str) {
        if let Err(problem) = self.catch_up(stream).await {
            tracing::debug!(%problem, stream, "it is read later");
        }
    }

    /// Reads a stream to its end of now.
    ///
    /// # Errors
    /// [`Code::Unavailable`] where hub or database do not answer.
    pub async fn catch_up(&self, stream: &'static str) -> Result<(), Problem> {
        let away = |error: bus::direct::ReadError| Problem::new(Code::Unavailable, error.to_string());
        let end = self.bus.stream_end(stream).await.map_err(away)?;
        let created = end.created_ns.to_string();
        loop {
            let mut client = self.store.client().await?;
            let transaction = client.transaction().await.map_err(StoreError::Query)?;
            let row = transaction.query_one("select created, seq from tail where stream = $1 for update", &[&stream]).await;
            let row = row.map_err(StoreError::Query)?;
            let same = row.get::<_, String>(0) == created;
            let read = if same { unsigned(row.get(1)) } else { 0 };
            if read >= end.last_seq {
                return Ok(());
            }
            let messages = self.bus.from_seq(stream, read + 1, BATCH).await.map_err(away)?;
            // All that is left was deleted, or a replica does not have it yet: then the next look does.
            let Some(last) = messages.last().map(|message| message.seq) else { return Ok(()) };
            for message in &messages {
                apply(self, &transaction, stream, message).await?;
            }
            let moved = "update tail set created = $2, seq = $3 where stream = $1";
            transaction.execute(moved, &[&stream, &created, &big(last)]).await.map_err(StoreError::Query)?;
            transaction.commit().await.map_err(StoreError::Query)?;
        }
    }
}

async fn apply(world: &World, transaction: &Transaction<'_>, stream: &str, message: &StoredMessage) -> Result<(), StoreError> {
    if stream == stream::DLQ {
        return letters::rows::insert(transaction, letters::entry_of(world, message)).await;
    }
    let wished = world.verified::<CancelRequest>(&message.payload, &[world.document.gateway_keys.as_slice()]);
    for wish in wished.unwrap_or_default() {
        if !wish.unless_assigned && wish.net == world.net && subject::job_of(&message.subject) == Some(wish.job) {
            let statement = "insert into cancel_wish (job, at) values ($1, $2) on conflict do nothing";
            transaction.execute(statement, &[&wish.job.to_string(), &big(message.time_ms)]).await?;
        }
    }
    Ok(())
}
