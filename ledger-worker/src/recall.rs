//! Looking up what the books have forgotten: facts older than a day stand in the database alone, and what was accepted once must
//! be known for ever.

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bus_schemas::ledger::{Fact, HoldState, HoldView, SettleOutcome, What};
use bus_schemas::{AttemptId, Cid, FactId, JobId, MilliMana, ReceiptId};
use tokio_postgres::Row;

use crate::posting::{self, Standing};
use crate::rows::signed;
use crate::store::{STREAM, Store, chain};

/// What waits for the database longer than this gets no answer; the asker asks again.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A fact as the database has it, with the hold that it closed.
#[derive(Debug, Clone)]
pub struct Found {
    pub seq: u64,
    pub fact: Fact,
    pub hold: Option<HoldView>,
}

/// The facts that an answer to these commands depends on and that the books may have forgotten.
pub fn missing<'a>(standing: &Standing, ops: impl Iterator<Item = &'a bus_schemas::ledger::Op>) -> Vec<FactId> {
    let books = standing.books();
    ops.flat_map(|op| posting::depends_on(standing, op)).filter(|id| books.may_be_forgotten(id) && books.fact(id).is_none()).collect()
}

impl Store {
    /// Those of the facts that were ever recorded, in one question. `past`: the last sequence that the answer must cover; a
    /// database that is not there yet cannot say that a fact was never recorded.
    ///
    /// # Errors
    /// Where the database is away, behind, or holds what cannot be read.
    pub async fn recall(&self, ids: &[FactId], past: u64) -> anyhow::Result<Vec<Found>> {
        let ask = async {
            let client = self.client().await?;
            let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.0.to_bytes().to_vec()).collect();
            let statement = client.prepare_cached(RECALL).await?;
            client.query(&statement, &[&STREAM, &ids]).await.map_err(|error| anyhow!("{}", chain(&error)))
        };
        let rows = tokio::time::timeout(PATIENCE, ask).await.context("the database does not answer")??;
        let at: i64 = rows.first().context("the database does not know its place in the stream (next: mesh-ledger rebuild)")?.get("at");
        ensure!(at >= signed(past), "the database is at sequence {at}, what was forgotten reaches to {past}");
        rows.iter().filter_map(|row| found(row).transpose()).collect()
    }
}

const RECALL: &str =
    "select c.seq as at, f.seq, f.id, f.body, h.job, h.member, h.amount, h.expires, h.state, h.attempt, h.receipt, h.device,
           h.paid, h.reason
    from cursor c left join fact f on f.id = any($2) left join hold h on h.job = f.job and f.kind in ('settle', 'void')
    where c.stream = $1";

/// One row; `None` where it says only where the database stands.
fn found(row: &Row) -> anyhow::Result<Option<Found>> {
    let Some(seq) = row.get::<_, Option<i64>>("seq") else { return Ok(None) };
    let fact: Fact = serde_json::from_str(row.get("body")).with_context(|| format!("a fact of sequence {seq} cannot be read"))?;
    ensure!(fact.id.0.to_bytes().as_slice() == row.get::<_, &[u8]>("id"), "a fact of sequence {seq} stands under another id");
    let hold = match row.get::<_, Option<&[u8]>>("job") {
        Some(job) => Some(hold(row, JobId(cid(job)?), &fact)?),
        None => None,
    };
    Ok(Some(Found { seq: u64::try_from(seq)?, fact, hold }))
}

/// The hold that this fact closed.
fn hold(row: &Row, job: JobId, closed_by: &Fact) -> anyhow::Result<HoldView> {
    let amount = |column: &str| -> anyhow::Result<MilliMana> {
        MilliMana::new(row.try_get(column)?).with_context(|| format!("the {column} of {job:?} is out of range"))
    };
    let text = |column: &str| -> anyhow::Result<&str> { Ok(row.try_get(column)?) };
    let state = match text("state")? {
        "settled" => HoldState::Settled {
            attempt: AttemptId(cid(row.try_get("attempt")?)?),
            receipt: ReceiptId(cid(row.try_get("receipt")?)?),
            device: text("device")?.parse().map_err(|error| anyhow!("the device of {job:?}: {error}"))?,
            paid_mmana: amount("paid")?,
            outcome: if let What::Settle { outcome, .. } = closed_by.what { outcome } else { SettleOutcome::default() },
        },
        "voided" => HoldState::Voided { reason: serde_json::from_value(text("reason")?.into())? },
        _ => HoldState::Open,
    };
    let member = text("member")?.parse().map_err(|error| anyhow!("the member of {job:?}: {error}"))?;
    Ok(HoldView { job, member, amount_mmana: amount("amount")?, expires: u64::try_from(row.try_get::<_, i64>("expires")?)?, state })
}

fn cid(bytes: &[u8]) -> anyhow::Result<Cid> {
    Cid::from_bytes(bytes).map_err(|error| anyhow!("a content id in the database: {error}"))
}
