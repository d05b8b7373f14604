//! From the stream to the database: all rows made again beside the old ones, which they replace in one moment.
//!
//! Secondary indexes are made once everything is in. Memory holds the books, a few batches, and 8 bytes a fact.

use anyhow::{Context, ensure};
use bus::Bus;
use bus_schemas::network::NetworkDocument;
use bus_schemas::stream::LEDGER;
use deadpool_postgres::{GenericClient, Object};
use tokio::sync::mpsc;

use crate::fold::Fold;
use crate::follow::READ_BATCH;
use crate::project::write;
use crate::round::Message;
use crate::store::{MIGRATION_LOCK, Place, SCHEMA, Store, make};

/// Where the new rows stand until they are whole.
const BESIDE: &str = "ledger_rebuild";
/// Facts in one transaction.
const BATCH_FACTS: usize = 8 * 1024;
/// Batches that wait to be written.
const WAITING: usize = 2;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub seq: u64,
    pub facts: u64,
    pub digest: [u8; 32],
}

/// Makes the schema of the books again from the first message of LEDGER. Until the end the old rows stay as they are; a worker that
/// projects meanwhile goes on with the new ones. Needs the schema's owner.
///
/// # Errors
/// Where the stream contradicts itself, or something is out of reach; the old rows stand then.
pub async fn rebuild(bus: &Bus, network: &NetworkDocument, store: &Store) -> anyhow::Result<Rebuilt> {
    let mut client = store.alone().await?;
    client.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    let empty = format!("drop schema if exists {BESIDE} cascade; create schema {BESIDE}");
    client.batch_execute(&empty).await.context("the role may not make a schema (next: run it as the owner of the books)")?;
    make(&mut client, BESIDE).await?;
    // The last commit is durable, and all before it with it.
    client.batch_execute(&format!("set search_path = {BESIDE}; set synchronous_commit = off")).await?;
    let later = without_indexes(&client).await?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let (fold, place) = tokio::try_join!(read(bus, network, sender), fill(&mut client, receiver))?;
    ensure!(place.position.chain == *fold.standing.books().chain(), "the rows end elsewhere than the books");
    for sql in later {
        client.batch_execute(&sql).await.with_context(|| format!("the rows are not what the schema allows: {sql}"))?;
    }
    let swap = format!(
        "set synchronous_commit = on; begin; drop schema if exists {SCHEMA} cascade; alter schema {BESIDE} rename to {SCHEMA}; commit"
    );
    client
        .batch_execute(&swap)
        .await
        .context("the new rows cannot take the place of the old ones (next: run it as the owner of the books)")?;
    let books = fold.standing.books();
    Ok(Rebuilt { seq: books.seq(), facts: books.fact_count(), digest: books.digest() })
}

/// Reads and checks the stream, a batch of facts at a time.
async fn read(bus: &Bus, network: &NetworkDocument, to: mpsc::Sender<Vec<Message>>) -> anyhow::Result<Fold> {
    let mut fold = Fold::new(network.network, network.ledger_keys.iter().copied().collect());
    let mut batch: Vec<Message> = vec![];
    let mut facts = 0;
    loop {
        let stored = bus.from_seq(LEDGER, fold.seq() + 1, READ_BATCH).await?;
        if stored.is_empty() {
            break;
        }
        // Checking is work for a processor; meanwhile the database is written to.
        let work = tokio::task::spawn_blocking(move || {
            let taken: Result<Vec<Message>, _> = stored.into_iter().map(|message| fold.take(message)).collect();
            // Whether a fact appears twice, the rows tell at the end.
            let last_at = fold.standing.books().last_at();
            fold.standing.forget(last_at);
            (fold, taken)
        });
        let (back, taken) = work.await?;
        fold = back;
        for message in taken.context("LEDGER contradicts itself (next: mesh-ledger verify)")? {
            facts += message.facts.len();
            batch.push(message);
        }
        if facts >= BATCH_FACTS {
            facts = 0;
            to.send(std::mem::take(&mut batch)).await.context("the writing ended")?;
        }
        for (seq, reason) in fold.foreign.drain(..) {
            tracing::warn!(seq, reason, "a message in LEDGER is no valid batch of a ledger key; it counts for nothing");
        }
    }
    to.send(batch).await.context("the writing ended")?;
    Ok(fold)
}

async fn fill(client: &mut Object, mut from: mpsc::Receiver<Vec<Message>>) -> anyhow::Result<Place> {
    let mut place = Place::start();
    while let Some(batch) = from.recv().await {
        let transaction = client.transaction().await?;
        place = write(&transaction, &place, &batch).await?;
        transaction.commit().await?;
    }
    Ok(place)
}

/// Takes the indexes and keys off the tables that only grow; returns what makes them again.
async fn without_indexes(client: &impl GenericClient) -> anyhow::Result<Vec<String>> {
    let keys = client
        .query(
            "select c.conname, c.conrelid::regclass::text, pg_get_constraintdef(c.oid) from pg_constraint c
             join pg_namespace n on n.oid = c.connamespace
             where n.nspname = $1 and c.contype in ('p', 'u') and c.conrelid::regclass::text in ('event', 'fact', 'leg', 'merkle')
             order by 1",
            &[&BESIDE],
        )
        .await?;
    let mut later = vec![];
    for row in keys {
        let (name, table, definition): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        client.batch_execute(&format!("alter table {table} drop constraint {name}")).await?;
        later.push(format!("alter table {table} add constraint {name} {definition}"));
    }
    let indexes = client
        .query(
            "select i.indexname, i.indexdef from pg_indexes i where i.schemaname = $1
             and i.indexname not in (select conname from pg_constraint c join pg_namespace n on n.oid = c.connamespace where n.nspname = $1)
             order by 1",
            &[&BESIDE],
        )
        .await?;
    for row in indexes {
        let (name, definition): (String, String) = (row.get(0), row.get(1));
        client.batch_execute(&format!("drop index {name}")).await?;
        later.push(definition);
    }
    Ok(later)
}
