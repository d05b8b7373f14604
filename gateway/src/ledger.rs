//! The books for people and strangers: facts, balances, checkpoints and proofs, read from the ledger's rows; orders handed to the
//! ledger.
//!
//! Rows follow LEDGER by a tick. What is told here covers at least all that LEDGER held when the question came: where the rows do
//! not catch up in time, the answer is that they are behind, never money as it was. Where the ledger has found them to be false and
//! stopped, the answer is its reason.

pub mod facts;
pub mod orders;
pub mod proofs;

use std::future::Future;
use std::time::Duration;

use bus_schemas::stream::LEDGER;
use bus_schemas::{Code, Problem};
use deadpool_postgres::Object;
use tokio::time::{Instant, sleep, timeout_at};

use crate::store::StoreError;
use crate::world::World;

/// Rows that have not caught up within this are behind.
const ROWS_WITHIN: Duration = Duration::from_secs(3);
const CURSOR: &str = "select seq, alarm from ledger.cursor where stream = 'LEDGER'";

/// A connection to the ledger's rows.
pub struct Rows {
    client: Object,
    /// They hold all of LEDGER up to here.
    pub seq: u64,
}
impl Rows {
    /// # Errors
    /// [`Code::Unavailable`]; also where the database does not answer in time.
    pub async fn query(
        &self,
        sql: &'static str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, Problem> {
        let asked = async {
            let statement = self.client.prepare_cached(sql).await?;
            self.client.query(&statement, values).await
        };
        in_time(Instant::now() + ROWS_WITHIN, asked).await?.map_err(unread)
    }
}

impl World {
    /// The ledger's rows, no older than LEDGER is now.
    ///
    /// # Errors
    /// [`Code::Unavailable`], with the reason: the database or the hub does not answer, or the rows are behind or ahead.
    pub async fn ledger_rows(&self) -> Result<Rows, Problem> {
        let deadline = Instant::now() + ROWS_WITHIN;
        let end = self.ledger_end().await?;
        let client = in_time(deadline, self.store.client()).await?.map_err(Problem::from)?;
        loop {
            // A look that begins just before the deadline is no database that does not answer.
            let row = in_time(Instant::now() + ROWS_WITHIN, client.query_opt(CURSOR, &[])).await?.map_err(unread)?;
            if let Some(why) = row.as_ref().and_then(|row| row.get::<_, Option<String>>(1)) {
                return Err(stopped(&why));
            }
            let seq = row.map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
            if seq > end {
                // Facts that came after the first look, or a stream that lost some.
                let again = self.ledger_end().await?;
                if seq > again {
                    let detail =
                        format!("the database holds the books up to sequence {seq}, LEDGER ends at {again}: the stream lost facts");
                    return Err(Problem::new(Code::Unavailable, detail));
                }
            }
            if seq >= end {
                return Ok(Rows { client, seq });
            }
            if Instant::now() >= deadline {
                let detail = format!("the database holds the books up to sequence {seq}, LEDGER ends at {end}; no old balance is told");
                return Err(Problem::new(Code::Unavailable, detail));
            }
            sleep(self.timings.tick).await;
        }
    }

    /// Why the ledger gave no answer: its own reason where it has said one.
    pub async fn ledger_silent(&self, error: impl std::fmt::Display) -> Problem {
        let looked = async {
            let row = self.store.client().await.ok()?.query_opt(CURSOR, &[]).await.ok()??;
            row.get::<_, Option<String>>(1)
        };
        match in_time(Instant::now() + ROWS_WITHIN, looked).await {
            Ok(Some(why)) => stopped(&why),
            Ok(None) | Err(_) => Problem::new(Code::Unavailable, error.to_string()),
        }
    }

    async fn ledger_end(&self) -> Result<u64, Problem> {
        let end = self.bus.stream_end(LEDGER).await;
        end.map(|end| end.last_seq).map_err(|error| Problem::new(Code::Unavailable, format!("where LEDGER ends is not known: {error}")))
    }
}

async fn in_time<T>(deadline: Instant, asked: impl Future<Output = T>) -> Result<T, Problem> {
    let late = |_| Problem::new(Code::Unavailable, format!("the ledger's database does not answer within {} s", ROWS_WITHIN.as_secs()));
    timeout_at(deadline, asked).await.map_err(late)
}

/// The ledger's own word that rows and stream are not one.
fn stopped(why: &str) -> Problem {
    Problem::new(Code::Unavailable, format!("the ledger has stopped: {why}"))
}

fn unread(error: tokio_postgres::Error) -> Problem {
    // Another room makes these tables: not there yet, or not for this role.
    let problem = Problem::from(StoreError::Query(error));
    Problem::new(problem.code, "the ledger's rows cannot be read here")
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
fn limit_of(limit: Option<u32>, default: u32, most: u32) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(default);
    if (1..=most).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::new(Code::BadValue, format!("limit is {limit}; 1 to {most} are allowed")))
    }
}
fn damaged(what: &str) -> Problem {
    Problem::new(Code::Unavailable, format!("{what} (next: mesh-ledger verify)"))
}
