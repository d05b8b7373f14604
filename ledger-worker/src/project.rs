//! Writes messages of LEDGER as rows, whole batches at a time, together with the place in the stream: all of it or nothing.

use std::pin::Pin;

use anyhow::{Context, ensure};
use deadpool_postgres::GenericClient;
use futures::future::try_join_all;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::round::Message;
use crate::rows::{Rows, Seldom, signed};
use crate::store::{Position, STREAM, Store};

/// Facts in one transaction; one message more may pass it.
pub const BATCH_FACTS_MAX: usize = 1024;

/// Writing found that somebody else moved the cursor: nothing was written.
#[derive(Debug, thiserror::Error)]
#[error("the database is no longer at sequence {0}: another worker projects")]
pub struct Moved(pub u64);

impl Store {
    /// Writes consecutive messages from `from` on in one transaction; returns the new place.
    ///
    /// # Errors
    /// [`Moved`], or what the database says. An error at the end leaves open whether it was written: read the position again.
    pub async fn project(&self, from: Position, messages: &[Message]) -> anyhow::Result<Position> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let to = write(&transaction, from, messages).await?;
        transaction.commit().await.context("failed to commit")?;
        Ok(to)
    }
}

/// Writes messages inside the caller's transaction, into the tables of its search path.
///
/// # Errors
/// As [`Store::project`].
pub async fn write(client: &impl GenericClient, from: Position, messages: &[Message]) -> anyhow::Result<Position> {
    let Some(last) = messages.last() else { return Ok(from) };
    let consecutive = messages.iter().zip(from.seq + 1..).all(|(message, seq)| message.seq == seq);
    ensure!(consecutive, "messages after sequence {} are missing: a gap in the stream", from.seq);
    let to = Position { seq: last.seq, chain: last.chain };
    let rows = Rows::of(messages);
    let sql = Statements::prepare(client).await?;
    let (old, new) = (signed(from.seq), signed(to.seq));

    for seldom in &rows.seldom {
        write_seldom(client, seldom).await?;
    }
    let moved_cursor: [&(dyn ToSql + Sync); 5] = [&STREAM, &old, &from.chain.as_slice(), &new, &to.chain.as_slice()];
    let Rows { events, facts, legs, accounts, openings, closings, .. } = &rows;
    let close = &openings.closing;
    let event: [&(dyn ToSql + Sync); 4] = [&events.seq, &events.envelope, &events.chain, &events.facts];
    let fact: [&(dyn ToSql + Sync); 7] = [&facts.seq, &facts.i, &facts.id, &facts.kind, &facts.job, &facts.at_ms, &facts.body];
    let leg: [&(dyn ToSql + Sync); 6] = [&legs.seq, &legs.i, &legs.n, &legs.debit, &legs.credit, &legs.amount];
    let account: [&(dyn ToSql + Sync); 3] = [&accounts.id, &accounts.delta, &accounts.last_seq];
    let opening: [&(dyn ToSql + Sync); 13] = [
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
        &close.reason,
    ];
    let closing: [&(dyn ToSql + Sync); 9] = [
        &closings.job,
        &closings.state,
        &closings.closed_seq,
        &closings.device,
        &closings.attempt,
        &closings.receipt,
        &closings.paid,
        &closings.fee,
        &closings.reason,
    ];
    // All are sent before the first answer is awaited: one round trip. Each must touch exactly its rows.
    let steps: Vec<(&Statement, &[&(dyn ToSql + Sync)], usize, &str)> = vec![
        (&sql.cursor, &moved_cursor, 1, "cursor"),
        (&sql.event, &event, events.seq.len(), "event"),
        (&sql.fact, &fact, facts.seq.len(), "fact"),
        (&sql.leg, &leg, legs.seq.len(), "leg"),
        (&sql.account, &account, accounts.id.len(), "account"),
        (&sql.opening, &opening, openings.job.len(), "hold"),
        (&sql.closing, &closing, closings.job.len(), "hold"),
    ];
    let steps: Vec<_> = steps.into_iter().filter(|(_, _, expected, _)| *expected > 0).collect();
    let sent = steps
        .iter()
        .map(|(statement, params, _, _)| -> Pin<Box<dyn Future<Output = _> + Send>> { Box::pin(client.execute(*statement, params)) });
    let touched = try_join_all(sent).await.map_err(|error| anyhow::anyhow!("{}", crate::store::chain(&error)))?;
    for ((_, _, expected, table), touched) in steps.iter().zip(touched) {
        if *table == "cursor" && touched == 0 {
            return Err(Moved(from.seq).into());
        }
        ensure!(
            usize::try_from(touched).is_ok_and(|touched| touched == *expected),
            "{touched} rows of {table} were touched instead of {expected}: the database is not what the stream made"
        );
    }
    Ok(to)
}

struct Statements {
    cursor: Statement,
    event: Statement,
    fact: Statement,
    leg: Statement,
    account: Statement,
    opening: Statement,
    closing: Statement,
}

impl Statements {
    /// Prepared once per connection.
    async fn prepare(client: &impl GenericClient) -> anyhow::Result<Self> {
        Ok(Self {
            cursor: client.prepare_cached("update cursor set seq = $4, chain = $5 where stream = $1 and seq = $2 and chain = $3").await?,
            event: client
                .prepare_cached(
                    "insert into event (seq, envelope, chain, facts)
                     select * from unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::integer[])",
                )
                .await?,
            fact: client
                .prepare_cached(
                    "insert into fact (seq, i, id, kind, job, at_ms, body)
                     select * from unnest($1::bigint[], $2::smallint[], $3::bytea[], $4::text[], $5::bytea[], $6::bigint[], $7::text[])",
                )
                .await?,
            leg: client
                .prepare_cached(
                    "insert into leg (seq, i, n, debit, credit, amount)
                     select * from unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::text[], $5::text[], $6::bigint[])",
                )
                .await?,
            account: client
                .prepare_cached(
                    "update account set balance = account.balance + change.delta, last_seq = change.seq
                     from unnest($1::text[], $2::bigint[], $3::bigint[]) as change (id, delta, seq)
                     where account.id = change.id",
                )
                .await?,
            opening: client
                .prepare_cached(
                    "insert into hold (job, member, amount, expires, opened_seq, state, closed_seq, device, attempt, receipt, paid, fee, reason)
                     select * from unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
                                          $8::text[], $9::bytea[], $10::bytea[], $11::bigint[], $12::bigint[], $13::text[])",
                )
                .await?,
            closing: client
                .prepare_cached(
                    "update hold set state = c.state, closed_seq = c.closed_seq, device = c.device, attempt = c.attempt,
                                     receipt = c.receipt, paid = c.paid, fee = c.fee, reason = c.reason
                     from unnest($1::bytea[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::bytea[], $7::bigint[],
                                 $8::bigint[], $9::text[])
                          as c (job, state, closed_seq, device, attempt, receipt, paid, fee, reason)
                     where hold.job = c.job and hold.state = 'open'",
                )
                .await?,
        })
    }
}

async fn write_seldom(client: &impl GenericClient, seldom: &Seldom) -> anyhow::Result<()> {
    let touched = match seldom {
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
        Seldom::Revoked { id, seq } => client.execute("update device set revoked_seq = $2 where id = $1", &[&id.to_string(), seq]).await?,
    };
    ensure!(touched == 1, "a fact about {seldom:?} found no row: the database is not what the stream made");
    Ok(())
}
