//! Writes messages of LEDGER as rows, whole batches at a time, together with the place in the stream: all of it or nothing.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use deadpool_postgres::{GenericClient, Object};
use futures::future::try_join_all;
use tokio_postgres::types::ToSql;

use crate::balances::Balances;
use crate::crash;
use crate::round::Message;
use crate::rows::{Rows, Seldom, signed};
use crate::store::{Apart, Place, Position, STREAM, Store};

/// Facts in one transaction; one message more may pass it.
pub const BATCH_FACTS_MAX: usize = 1024;

/// Writing found that somebody else moved the cursor: nothing was written.
#[derive(Debug, thiserror::Error)]
#[error("the database is no longer at sequence {0}: another worker projects")]
pub struct Moved(pub u64);

/// How long one transaction may take before the connection is given up: a stopped database says nothing at all.
pub const PATIENCE: Duration = Duration::from_secs(10);

impl Store {
    /// Writes consecutive messages from `from` on in one transaction, within `patience`; returns the new place. `known` is what the
    /// accounts had before and have afterwards, where that is known.
    ///
    /// # Errors
    /// [`Moved`], [`Apart`], or what the database says. An error at the end leaves open whether it was written: read the place again.
    pub async fn project(
        &self,
        from: &Place,
        messages: &[Message],
        known: &mut Option<Balances>,
        patience: Duration,
    ) -> anyhow::Result<Place> {
        let mut client = tokio::time::timeout(patience, self.client()).await.context("the database does not answer")??;
        let work = async {
            let transaction = client.transaction().await.map_err(told)?;
            let to = write(&transaction, from, messages, known.as_ref()).await?;
            crash::at("before_commit");
            transaction.commit().await.map_err(told).context("failed to commit")?;
            crash::at("after_commit");
            Ok(to)
        };
        let done = tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(anyhow!("the database does not answer")));
        let error = match done {
            Ok(Written { to, moved }) => {
                if let Some(known) = known {
                    moved.iter().for_each(|(account, delta)| known.add(account, *delta));
                }
                return Ok(to);
            }
            Err(error) => error,
        };
        // Whatever this connection still has under way, nobody waits for it.
        drop(Object::take(client));
        // Rows that another worker has just written, or a rebuild, are in the way like wrong ones: the cursor tells which they are.
        if error.is::<Apart>() {
            let now = tokio::time::timeout(patience, self.position()).await.context("the database does not answer")??;
            if now != from.position {
                return Err(Moved(from.position.seq).into());
            }
        }
        Err(error)
    }
}

pub(crate) fn told(error: tokio_postgres::Error) -> anyhow::Error {
    anyhow!("{}", crate::store::chain(&error))
}

/// What the database says to a row. One that breaks a key or a check stands beside rows that the stream did not make.
fn refused(error: tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(db) if db.code().code().starts_with(INTEGRITY) => Apart(format!("{}: {OTHER_ROWS}", db.message())).into(),
        Some(_) | None => told(error),
    }
}

/// The class of SQLSTATE for broken keys and checks.
const INTEGRITY: &str = "23";
const OTHER_ROWS: &str = "the database is not what the stream made (next: mesh-ledger verify, then mesh-ledger rebuild)";

/// What was written.
pub struct Written {
    pub to: Place,
    /// What it added to each account's balance.
    pub moved: Vec<(String, i64)>,
}

/// Writes messages inside the caller's transaction, into the tables of its search path. `known` is what the accounts have.
///
/// # Errors
/// As [`Store::project`].
pub async fn write(client: &impl GenericClient, from: &Place, messages: &[Message], known: Option<&Balances>) -> anyhow::Result<Written> {
    let Some(last) = messages.last() else { return Ok(Written { to: from.clone(), moved: vec![] }) };
    let consecutive = messages.iter().zip(from.position.seq + 1..).all(|(message, seq)| message.seq == seq);
    ensure!(consecutive, "messages after sequence {} are missing: a gap in the stream", from.position.seq);
    let mut tree = from.tree.clone();
    let rows = Rows::of(messages, &mut tree);
    let to = Place { position: Position { seq: last.seq, chain: last.chain }, tree };
    for seldom in &rows.seldom {
        write_seldom(client, seldom).await?;
    }
    let (old, new) = (signed(from.position.seq), signed(to.position.seq));
    let (old_chain, new_chain) = (from.position.chain.as_slice(), to.position.chain.as_slice());
    let Rows { events, facts, legs, accounts, openings, closings, vesting, vested, reviews, reviewed, checkpoints, nodes, .. } = &rows;
    let close = &openings.closing;
    let before: Vec<Option<i64>> = accounts.id.iter().map(|id| known.map(|known| known.get(id))).collect();
    let steps: Vec<Step<'_>> = vec![
        Step::of("cursor", CURSOR, 1, vec![&STREAM, &old, &old_chain, &new, &new_chain]),
        Step::of("event", EVENT, events.seq.len(), vec![&events.seq, &events.envelope, &events.chain, &events.facts]),
        Step::of("merkle", MERKLE, nodes.level.len(), vec![&nodes.level, &nodes.idx, &nodes.hash]),
        Step::of("fact", FACT, facts.seq.len(), vec![&facts.seq, &facts.i, &facts.id, &facts.kind, &facts.job, &facts.at_ms, &facts.body]),
        Step::of("leg", LEG, legs.seq.len(), vec![&legs.seq, &legs.i, &legs.n, &legs.debit, &legs.credit, &legs.amount]),
        Step::of("account", ACCOUNT, accounts.id.len(), vec![&accounts.id, &accounts.delta, &accounts.last_seq, &before]),
        Step::of(
            "hold",
            OPENING,
            openings.job.len(),
            vec![
                &openings.job,
                &openings.member,
                &openings.amount,
                &openings.expires,
                &openings.opened_seq,
                &close.state,
                &close.closed_seq,
                &close.device,
                &close.attempt,
                &close.receipt,
                &close.paid,
                &close.fee,
                &close.discount,
                &close.vests_at,
                &close.reason,
            ],
        ),
        Step::of(
            "hold",
            CLOSING,
            closings.job.len(),
            vec![
                &closings.job,
                &closings.state,
                &closings.closed_seq,
                &closings.device,
                &closings.attempt,
                &closings.receipt,
                &closings.paid,
                &closings.fee,
                &closings.discount,
                &closings.vests_at,
                &closings.reason,
            ],
        ),
        Step::of(
            "vesting",
            VESTING,
            vesting.job.len(),
            vec![&vesting.job, &vesting.member, &vesting.at, &vesting.amount, &vesting.opened_seq, &vesting.closed_seq],
        ),
        Step::of("vesting", VESTED, vested.job.len(), vec![&vested.job, &vested.closed_seq]),
        Step::of(
            "review",
            REVIEW,
            reviews.job.len(),
            vec![&reviews.job, &reviews.member, &reviews.amount, &reviews.opened_seq, &reviews.closed_seq, &reviews.released],
        ),
        Step::of("review", REVIEWED, reviewed.job.len(), vec![&reviewed.job, &reviewed.closed_seq, &reviewed.released]),
        Step::of(
            "checkpoint",
            CHECKPOINT,
            checkpoints.seq.len(),
            vec![&checkpoints.seq, &checkpoints.message_seq, &checkpoints.chain, &checkpoints.root, &checkpoints.state],
        ),
    ];
    let steps: Vec<Step<'_>> = steps.into_iter().filter(|step| step.rows > 0).collect();
    let mut prepared = Vec::with_capacity(steps.len());
    for step in &steps {
        prepared.push(client.prepare_cached(step.sql).await.map_err(told)?);
    }
    // All are sent before the first answer is awaited: one round trip. Each must touch exactly its rows.
    let sent = prepared
        .iter()
        .zip(&steps)
        .map(|(statement, step)| -> Pin<Box<dyn Future<Output = _> + Send>> { Box::pin(client.execute(statement, &step.values)) });
    let touched = try_join_all(sent).await.map_err(refused)?;
    for (step, touched) in steps.iter().zip(touched) {
        if step.table == "cursor" && touched == 0 {
            return Err(Moved(from.position.seq).into());
        }
        if usize::try_from(touched) != Ok(step.rows) {
            let (table, rows) = (step.table, step.rows);
            return Err(Apart(format!("{touched} rows of {table} were touched instead of {rows}: {OTHER_ROWS}")).into());
        }
    }
    Ok(Written { to, moved: rows.accounts.id.into_iter().zip(rows.accounts.delta).collect() })
}

/// One statement, and how many rows it must touch.
struct Step<'a> {
    table: &'static str,
    sql: &'static str,
    rows: usize,
    values: Vec<&'a (dyn ToSql + Sync)>,
}
impl<'a> Step<'a> {
    fn of(table: &'static str, sql: &'static str, rows: usize, values: Vec<&'a (dyn ToSql + Sync)>) -> Self {
        Self { table, sql, rows, values }
    }
}

pub(crate) const CURSOR: &str = "update cursor set seq = $4, chain = $5 where stream = $1 and seq = $2 and chain = $3";
const EVENT: &str = "insert into event (seq, envelope, chain, facts)
    select * from unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::integer[])";
const MERKLE: &str = "insert into merkle (level, idx, hash) select * from unnest($1::smallint[], $2::bigint[], $3::bytea[])";
const FACT: &str = "insert into fact (seq, i, id, kind, job, at_ms, body)
    select * from unnest($1::bigint[], $2::smallint[], $3::bytea[], $4::text[], $5::bytea[], $6::bigint[], $7::text[])";
const LEG: &str = "insert into leg (seq, i, n, debit, credit, amount)
    select * from unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::text[], $5::text[], $6::bigint[])";
pub(crate) const ACCOUNT: &str = "update account set balance = account.balance + change.delta, last_seq = change.seq
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) as change (id, delta, seq, before)
    where account.id = change.id and (change.before is null or account.balance = change.before)";
const OPENING: &str = "insert into hold (job, member, amount, expires, opened_seq, state, closed_seq, device, attempt, receipt, paid, fee,
                      discount, vests_at, reason)
    select * from unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::text[],
                         $9::bytea[], $10::bytea[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[])";
const CLOSING: &str =
    "update hold set state = c.state, closed_seq = c.closed_seq, device = c.device, attempt = c.attempt, receipt = c.receipt,
                    paid = c.paid, fee = c.fee, discount = c.discount, vests_at = c.vests_at, reason = c.reason
    from unnest($1::bytea[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::bytea[], $7::bigint[], $8::bigint[], $9::bigint[],
                $10::bigint[], $11::text[])
         as c (job, state, closed_seq, device, attempt, receipt, paid, fee, discount, vests_at, reason)
    where hold.job = c.job and hold.state = 'open'";
const VESTING: &str = "insert into vesting (job, member, at, amount, opened_seq, closed_seq)
    select * from unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])";
const VESTED: &str = "update vesting set closed_seq = c.seq from unnest($1::bytea[], $2::bigint[]) as c (job, seq)
    where vesting.job = c.job and vesting.closed_seq is null";
const REVIEW: &str = "insert into review (job, member, amount, opened_seq, closed_seq, released)
    select * from unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])";
const REVIEWED: &str = "update review set closed_seq = c.seq, released = c.released
    from unnest($1::bytea[], $2::bigint[], $3::boolean[]) as c (job, seq, released)
    where review.job = c.job and review.closed_seq is null";
const CHECKPOINT: &str = "insert into checkpoint (seq, message_seq, chain, root, state)
    select * from unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[])";

pub(crate) async fn write_seldom(client: &impl GenericClient, seldom: &Seldom) -> anyhow::Result<()> {
    if seldom_row(client, seldom).await.map_err(refused)? != 1 {
        return Err(Apart(format!("a fact about {seldom:?} found no row: {OTHER_ROWS}")).into());
    }
    Ok(())
}

async fn seldom_row(client: &impl GenericClient, seldom: &Seldom) -> Result<u64, tokio_postgres::Error> {
    Ok(match seldom {
        Seldom::Member { id, did, seq } => {
            let id = id.to_string();
            client
                .execute(
                    "insert into account (id, balance, last_seq)
                     values ($1 || '/available', 0, $2), ($1 || '/held', 0, $2), ($1 || '/vesting', 0, $2)",
                    &[&id, seq],
                )
                .await?;
            client.execute("insert into member (id, did, seq) values ($1, $2, $3)", &[&id, &did.to_string(), seq]).await?
        }
        Seldom::Device { id, did, member, seq } => {
            client
                .execute(
                    "insert into device (id, did, member, bound_seq) values ($1, $2, $3, $4)",
                    &[&id.to_string(), &did.to_string(), &member.to_string(), seq],
                )
                .await?
        }
        Seldom::Tier { id, tier } => client.execute("update device set tier = $2 where id = $1", &[&id.to_string(), tier]).await?,
        Seldom::Policy { version, rules, seq } => {
            client.execute("insert into policy (version, rules, seq) values ($1, $2::text::jsonb, $3)", &[version, rules, seq]).await?
        }
        Seldom::Revoked { id, seq } => client.execute("update device set revoked_seq = $2 where id = $1", &[&id.to_string(), seq]).await?,
    })
}
