//! From the stream to the database: all rows made again beside the old ones, which they replace in one moment.
//!
//! Three hands work at once: one reads the stream, one checks and makes rows of a batch, two write those of the batches before by
//! binary copy, each its tables. Every row is written once: what may still change (open holds, pay that has not vested) stays in
//! memory until it is over, as it does in the books. Keys and indexes are made once everything is in. Each hand works in one
//! transaction on tables that it emptied in it: rows stand as committed from the start, and a server that keeps no log for replicas
//! (`wal_level = minimal`) writes none for them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bus::Bus;
use bus::direct::StoredMessage;
use bus_schemas::network::NetworkDocument;
use bus_schemas::stream::LEDGER;
use deadpool_postgres::{GenericClient, Object};
use futures::SinkExt;
use futures::future::try_join_all;
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;

use crate::copy::{Sheet, sheets};
use crate::fold::Fold;
use crate::project::{ACCOUNT, CURSOR, told, write_seldom};
use crate::rows::{Changing, Rows, Seldom, signed};
use crate::store::{MIGRATION_LOCK, Place, SCHEMA, STREAM, Store, give_rights, migrate, position};

/// Where the new rows stand until they are whole.
const BESIDE: &str = "ledger_rebuild";
/// Facts in one batch.
const BATCH_FACTS: usize = 4 * 1024;
/// Bytes asked of the stream at once, as far as the messages before tell; and the fewest and most messages.
const READ_BYTES: usize = 4 << 20;
const READ_MESSAGES: std::ops::RangeInclusive<usize> = 16..=1024;
/// Pieces that wait for the next hand.
const WAITING: usize = 2;
/// Memory for sorting the keys of one index.
const SORT_MB: u32 = 128;
/// Tables that only grow, those of each of the two hands: about the same work. Their keys and indexes are made at the end.
const GROWING: [&[&str]; 2] = [&["fact", "hold"], &["event", "leg", "merkle", "vesting", "review", "checkpoint"]];
/// How often the new rows try to take the place of old ones that somebody reads.
const SWAP_TRIES: u32 = 10;
/// How often it is said how far the work is.
const SAY: Duration = Duration::from_secs(5);

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub seq: u64,
    pub facts: u64,
    pub digest: [u8; 32],
}

/// Makes the schema of the books again from the first message of LEDGER. Until the end the old rows stay as they are; a worker that
/// projects meanwhile goes on with the new ones. Needs the schema's owner. Facts that only the old rows have are lost where
/// `discard_facts` says so.
///
/// # Errors
/// Where the stream contradicts itself or has fewer facts than the rows, or something is out of reach; the old rows stand then.
pub async fn rebuild(bus: &Bus, network: &NetworkDocument, store: &Store, discard_facts: bool) -> anyhow::Result<Rebuilt> {
    let mut client = store.alone().await?;
    client.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    if !discard_facts {
        nothing_is_lost(bus, &client).await?;
    }
    let empty = format!("drop schema if exists {BESIDE} cascade; create schema {BESIDE}");
    client.batch_execute(&empty).await.context("the role may not make a schema (next: run it as the owner of the books)")?;
    migrate(&mut client, BESIDE).await?;
    let other = store.alone().await?;
    for client in [&client, &other] {
        // The last commit is durable, and all before it with it.
        let sql = format!("set search_path = {BESIDE}; set synchronous_commit = off; set maintenance_work_mem = '{SORT_MB}MB'");
        client.batch_execute(&sql).await?;
    }
    let hands = [Hand::new(&client, GROWING[0]).await?, Hand::new(&other, GROWING[1]).await?];

    let (stored, to_check) = mpsc::channel(WAITING);
    let (senders, pieces): (Vec<_>, Vec<_>) = hands.iter().map(|_| mpsc::channel(WAITING)).unzip();
    let fold = Fold::new(network.network, network.ledger_keys.iter().copied().collect());
    let end = bus.stream_end(LEDGER).await?.last_seq;
    let checking = async { tokio::task::spawn_blocking(move || check(fold, to_check, &senders, end)).await? };
    let writing = try_join_all(hands.iter().zip(pieces).map(|(hand, pieces)| hand.work(pieces)));
    let (checked, _, ()) = tokio::try_join!(checking, writing, read(bus, stored))?;

    let Checked { fold, place, rest } = checked;
    let books = fold.standing.books();
    ensure!(place.position.chain == *books.chain(), "the rows end elsewhere than the books");
    let before = vec![Some(0_i64); rest.accounts.id.len()];
    let changes: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&rest.accounts.id, &rest.accounts.delta, &rest.accounts.last_seq, &before];
    let accounts = client.execute(ACCOUNT, &changes).await.map_err(told)?;
    ensure!(usize::try_from(accounts) == Ok(rest.accounts.id.len()), "an account of the books has no row");
    let start = Place::start().position;
    let (old_chain, new_chain) = (start.chain.as_slice(), place.position.chain.as_slice());
    let cursor: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&STREAM, &signed(start.seq), &old_chain, &signed(place.position.seq), &new_chain];
    ensure!(client.execute(CURSOR, &cursor).await.map_err(told)? == 1, "the new rows have no cursor");
    give_rights(&client, BESIDE).await?;
    let swap = format!(
        "set synchronous_commit = on; begin; drop schema if exists {SCHEMA} cascade; alter schema {BESIDE} rename to {SCHEMA}; commit"
    );
    let mut tries = 1..SWAP_TRIES;
    while let Err(error) = client.batch_execute(&swap).await {
        // Somebody reads the old rows, one table after the other, and each waits for the other: the next try finds the tables free.
        let crossed = error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) && tries.next().is_some();
        if !crossed {
            return Err(error).context("the new rows cannot take the place of the old ones (next: run it as the owner of the books)");
        }
        client.batch_execute("rollback").await?;
    }
    Ok(Rebuilt { seq: books.seq(), facts: books.fact_count(), digest: books.digest() })
}

/// The old rows may be the only ones that have what a stream has lost. Where they do not say how far they are, there is nothing to keep.
async fn nothing_is_lost(bus: &Bus, client: &Object) -> anyhow::Result<()> {
    let Ok(rows) = position(client).await else { return Ok(()) };
    let end = bus.stream_end(LEDGER).await?.last_seq;
    ensure!(
        rows.seq <= end,
        "the database has facts up to sequence {}, LEDGER ends at {end}: they would be lost (next: mesh-ledger reseed; or mesh-ledger rebuild --discard-facts)",
        rows.seq
    );
    Ok(())
}

/// Reads the stream to its end, some megabytes at a time.
async fn read(bus: &Bus, to: mpsc::Sender<Vec<StoredMessage>>) -> anyhow::Result<()> {
    let (mut next, mut messages) = (1, *READ_MESSAGES.start());
    loop {
        let stored = bus.from_seq_sure(LEDGER, next, messages).await?;
        let Some(last) = stored.last() else { return Ok(()) };
        next = last.seq + 1;
        let bytes: usize = stored.iter().map(|message| message.payload.len()).sum();
        messages = (READ_BYTES * stored.len() / bytes.max(1)).clamp(*READ_MESSAGES.start(), *READ_MESSAGES.end());
        // Who checks says why it ended.
        if to.send(stored).await.is_err() {
            return Ok(());
        }
    }
}

/// The books, and what was not written yet.
struct Checked {
    fold: Fold,
    place: Place,
    rest: Rows<'static>,
}

/// What one hand writes at once.
enum Piece {
    Seldom(Vec<Seldom>),
    Sheet(Sheet),
}

/// Checks every message and makes its rows. Work for a processor of its own.
fn check(mut fold: Fold, mut from: mpsc::Receiver<Vec<StoredMessage>>, hands: &[mpsc::Sender<Piece>], end: u64) -> anyhow::Result<Checked> {
    let (mut place, mut changing) = (Place::start(), Changing::default());
    let (mut batch, mut count) = (vec![], 0);
    let mut said = Instant::now();
    let send = |rows: &mut Rows<'_>| -> anyhow::Result<()> {
        let sheets = sheets(rows).into_iter().map(|sheet| (GROWING.iter().position(|tables| tables.contains(&sheet.table)), sheet));
        hands[0].blocking_send(Piece::Seldom(std::mem::take(&mut rows.seldom))).context("the writing ended")?;
        for (hand, sheet) in sheets {
            let hand = hand.with_context(|| format!("nobody writes {}", sheet.table))?;
            hands[hand].blocking_send(Piece::Sheet(sheet)).context("the writing ended")?;
        }
        Ok(())
    };
    loop {
        let stored = from.blocking_recv();
        let over = stored.is_none();
        for message in stored.into_iter().flatten() {
            let message = fold.take(message).context("LEDGER contradicts itself (next: mesh-ledger verify)")?;
            count += message.facts.len();
            batch.push(message);
        }
        if let Some(last) = batch.last().filter(|_| over || count >= BATCH_FACTS) {
            place.position = crate::store::Position { seq: last.seq, chain: last.chain };
            send(&mut Rows::over(&batch, &mut place.tree, &mut changing))?;
            batch.clear();
            count = 0;
        }
        // Whether a fact appears twice, the rows tell at the end.
        let last_at = fold.standing.books().last_at();
        fold.standing.forget(last_at);
        for (seq, reason) in fold.foreign.drain(..) {
            tracing::warn!(seq, reason, "a message in LEDGER counts for nothing: it is no valid batch of a ledger key, or a copy of one");
        }
        if over || said.elapsed() >= SAY {
            said = Instant::now();
            tracing::info!(facts = fold.standing.books().fact_count(), seq = place.position.seq, end, "the stream is read");
        }
        if over {
            let mut rest = Rows::default();
            rest.rest(changing);
            send(&mut rest)?;
            let strays = rest.closings.job.len() + rest.vested.job.len() + rest.reviewed.job.len();
            ensure!(strays == 0, "{strays} ends of what never began are among the facts");
            return Ok(Checked { fold, place, rest });
        }
    }
}

/// Who writes some of the tables.
struct Hand<'a> {
    client: &'a Object,
    /// What makes their keys and indexes again.
    later: Vec<String>,
}
impl<'a> Hand<'a> {
    /// Takes keys and indexes off the tables and begins.
    async fn new(client: &'a Object, tables: &[&str]) -> anyhow::Result<Self> {
        let later = without_indexes(client, tables).await?;
        client.batch_execute(&format!("begin; truncate {}", tables.join(", "))).await?;
        Ok(Self { client, later })
    }

    /// Writes what comes, then makes keys and indexes.
    async fn work(&self, mut from: mpsc::Receiver<Piece>) -> anyhow::Result<()> {
        while let Some(piece) = from.recv().await {
            match piece {
                Piece::Seldom(seldom) => {
                    for one in &seldom {
                        write_seldom(self.client, one).await?;
                    }
                }
                Piece::Sheet(sheet) => self.write(sheet).await?,
            }
        }
        for sql in &self.later {
            self.client.batch_execute(sql).await.with_context(|| format!("the rows are not what the schema allows: {sql}"))?;
            tracing::info!(sql, "made a key or an index");
        }
        self.client.batch_execute("commit").await?;
        Ok(())
    }

    async fn write(&self, Sheet { table, sql, rows, bytes }: Sheet) -> anyhow::Result<()> {
        let statement = self.client.prepare_cached(&sql).await.map_err(told)?;
        let mut sink = std::pin::pin!(self.client.copy_in(&statement).await.map_err(told)?);
        let sent = async {
            sink.send(bytes).await?;
            sink.as_mut().finish().await
        };
        let written = sent.await.map_err(told).with_context(|| format!("the rows of {table} are not what the schema allows"))?;
        ensure!(usize::try_from(written) == Ok(rows), "{written} rows of {table} were written instead of {rows}");
        Ok(())
    }
}

/// Takes the indexes and keys off tables; returns what makes them again.
async fn without_indexes(client: &impl GenericClient, tables: &[&str]) -> anyhow::Result<Vec<String>> {
    let keys = "select c.conrelid::regclass::text, c.conname::text, pg_get_constraintdef(c.oid) from pg_constraint c
         where c.connamespace = $1::text::regnamespace and c.contype in ('p', 'u') and c.conrelid::regclass::text = any($2) order by 1, 2";
    let indexes = "select i.tablename::text, i.indexname::text, i.indexdef from pg_indexes i
         where i.schemaname = $1::text and i.tablename = any($2) order by 1, 2";
    let mut later = vec![];
    for row in client.query(keys, &[&BESIDE, &tables]).await? {
        let (table, name, definition): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        client.batch_execute(&format!("alter table {table} drop constraint {name}")).await?;
        later.push(format!("alter table {table} add constraint {name} {definition}"));
    }
    // The indexes of keys went with them.
    for row in client.query(indexes, &[&BESIDE, &tables]).await? {
        let (name, definition): (String, String) = (row.get(1), row.get(2));
        client.batch_execute(&format!("drop index {name}")).await?;
        later.push(definition);
    }
    Ok(later)
}
