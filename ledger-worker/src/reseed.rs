//! From the database to the stream: what a stream has lost is stored again, the very bytes at the very sequences.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bus::Bus;
use bus::direct::ReadError;
use bus_schemas::limits::Timings;
use bus_schemas::replay::chain_next;
use bus_schemas::stream::{self, LEDGER};
use bytes::Bytes;
use deadpool_postgres::Object;

use crate::append::append;
use crate::follow::READ_BATCH;
use crate::round::Message;
use crate::rows::signed;
use crate::store::{Store, position};
use crate::whole::whole;

/// How long one message may take to be stored.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reseeded {
    /// The stream was made anew.
    pub made: bool,
    /// Messages that the stream still had, equal to those of the database.
    pub compared: u64,
    pub published: u64,
}

/// Stores in LEDGER what only the database has. LEDGER may be missing, empty or shorter; where it has other bytes than the database,
/// or has lost its beginning or what lay between, nothing is changed.
///
/// # Errors
/// What does not fit, or cannot be reached.
pub async fn reseed(bus: &Bus, store: &Store, replicas: Option<usize>) -> anyhow::Result<Reseeded> {
    let client = store.alone().await?;
    let goal = position(&client).await?;
    let (end, made) = match bus.stream_end(LEDGER).await {
        Ok(end) => (end, false),
        Err(ReadError::Refused { reason, .. }) if reason.contains("not found") => {
            make(bus, replicas).await?;
            (bus.stream_end(LEDGER).await?, true)
        }
        Err(error) => return Err(error.into()),
    };
    // Nothing can be put before what is there, or between it.
    whole(&end).map_err(anyhow::Error::msg)?;
    ensure!(
        end.last_seq <= goal.seq,
        "LEDGER is at sequence {}, the database at {}: nothing is lost (next: mesh-ledger run, or mesh-ledger rebuild)",
        end.last_seq,
        goal.seq
    );
    let mut rows = Rows { client, seq: 0, chain: [0; 32] };
    while rows.seq < end.last_seq {
        let stored = bus.from_seq_sure(LEDGER, rows.seq + 1, READ_BATCH).await?;
        ensure!(!stored.is_empty(), "LEDGER does not show sequence {}", rows.seq + 1);
        for (message, ours) in stored.iter().zip(rows.next(stored.len()).await?) {
            let same = message.seq == ours.seq && message.payload == ours.payload;
            ensure!(
                same,
                "sequence {} in LEDGER is not what the database has there: nothing is changed (next: mesh-ledger verify)",
                ours.seq
            );
        }
    }
    let (compared, mut published) = (rows.seq, 0);
    // Everything is looked at before the first byte is stored.
    let mut check = Rows { client: store.alone().await?, seq: rows.seq, chain: rows.chain };
    while check.seq < goal.seq {
        check.next(READ_BATCH).await?;
    }
    ensure!(check.chain == goal.chain, "the rows of the database do not lead to the chain of its cursor (next: mesh-ledger verify)");
    while rows.seq < goal.seq {
        for message in rows.next(READ_BATCH).await? {
            append(bus, &message, PATIENCE, |_| ()).await.with_context(|| format!("sequence {} was not stored", message.seq))?;
            published += 1;
        }
    }
    Ok(Reseeded { made, compared, published })
}

async fn make(bus: &Bus, replicas: Option<usize>) -> anyhow::Result<()> {
    let spec = stream::spec(&Timings::default(), LEDGER).context("LEDGER is not in the table of streams")?;
    let context = bus::async_nats::jetstream::new(bus.client.clone());
    let replicas = match replicas {
        Some(asked) => asked,
        None => context.get_stream(stream::SUBMIT).await.map_or(1, |other| other.cached_info().config.num_replicas),
    };
    let made = context.create_stream(bus::streams::config(&spec, replicas)).await;
    made.map(|_| ()).context("LEDGER does not exist, and these credentials may not make it (next: --creds with those of bootstrap)")
}

/// The stored messages in order, each checked to lead to the chain beside it.
struct Rows {
    client: Object,
    seq: u64,
    chain: [u8; 32],
}
impl Rows {
    async fn next(&mut self, count: usize) -> anyhow::Result<Vec<Message>> {
        let sql = "select seq, envelope, chain from event where seq > $1 order by seq limit $2";
        let rows = self.client.query(sql, &[&signed(self.seq), &i64::try_from(count)?]).await?;
        let mut messages = Vec::with_capacity(rows.len());
        for row in &rows {
            let seq = u64::try_from(row.get::<_, i64>(0))?;
            ensure!(seq == self.seq + 1, "the database lacks sequence {}: it cannot restore the stream", self.seq + 1);
            let payload = Bytes::copy_from_slice(row.get(1));
            let chain = chain_next(&self.chain, seq, &payload);
            if chain.as_slice() != row.get::<_, &[u8]>(2) {
                bail!("sequence {seq} in the database was altered: its bytes do not lead to its chain (next: mesh-ledger verify)");
            }
            (self.seq, self.chain) = (seq, chain);
            messages.push(Message { seq, payload, chain, facts: vec![] });
        }
        ensure!(!messages.is_empty(), "the database lacks sequence {}: it cannot restore the stream", self.seq + 1);
        Ok(messages)
    }
}
