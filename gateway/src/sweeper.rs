//! Looks at every job that has not ended, one gateway at a time, and names those that should have moved on by now: in `job explain`, in
//! the log and as a number in the metrics. One whose message is gone and whose hold the ledger has returned is ended here, so that no job
//! stays open for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bus_schemas::history::{Ended, HistoryEvent, HistoryRecord, Transition};
use bus_schemas::id::{JobId, MemberId};
use bus_schemas::job::JobState;
use bus_schemas::ledger::{HoldState, LedgerOutcome, Op};
use bus_schemas::{Code, Problem, limits, stream, subject};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::history::Known;
use crate::ledger_client;
use crate::overdue::{Standing, overdue};
use crate::recorder::Entry;
use crate::store::{Store, StoreError, big, read, unsigned};
use crate::views;
use crate::world::World;

/// Held while one gateway sweeps.
const LOCK: i64 = 0x6d65_7368_7377;
/// Jobs looked at in one pass.
const PASS: i64 = 256;
/// Each open job is looked at about once in so many renewals, however many there are, as far as passes that come a hundred times as fast do.
const ROUND: u32 = 6;
const FASTER_MAX: u32 = 100;
/// All jobs are looked through for open ones this often: records may come late.
const FROM_THE_FIRST: Duration = Duration::from_secs(3600);
const LEDGER_WITHIN: Duration = Duration::from_secs(5);

/// One job as it was found.
struct Found {
    member: MemberId,
    id: JobId,
    known: Known,
    cancelled_at: Option<u64>,
    was_overdue: bool,
    missing_since: Option<u64>,
}

/// Sweeps until `stop`.
///
/// # Errors
/// Never: what does not answer now is asked again.
pub async fn run(world: Arc<World>, records: mpsc::Sender<Entry>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut whole: Option<tokio::time::Instant> = None;
    let mut pause = world.timings.renewal;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        let from_the_first = whole.is_none_or(|at| at.elapsed() > FROM_THE_FIRST);
        // A pass that is cut short has changed nothing.
        let passed = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            passed = pass(&world, from_the_first) => passed,
        };
        match passed {
            Ok(Passed { ended, open }) => {
                pause = pause_after(world.timings.renewal, open);
                whole = if from_the_first { Some(tokio::time::Instant::now()) } else { whole };
                if !ended.is_empty() && records.send(Entry { records: ended, ..Entry::default() }).await.is_err() {
                    return Ok(());
                }
            }
            Err(problem) => tracing::debug!(%problem, "open jobs are looked at later"),
        }
    }
}

/// What a pass came to.
#[derive(Default)]
struct Passed {
    /// Ends to write down.
    ended: Vec<HistoryRecord>,
    /// Jobs that have not ended.
    open: u64,
}

/// When the next pass is: a lost job behind thousands that wait is found as soon as one behind a few.
fn pause_after(renewal: Duration, open: u64) -> Duration {
    let passes = u32::try_from(open.div_ceil(PASS.unsigned_abs())).unwrap_or(u32::MAX).max(1);
    (renewal * ROUND / passes).clamp(renewal / FASTER_MAX, renewal)
}

/// One pass; answers the ends to write down. Another gateway at it: nothing.
async fn pass(world: &World, from_the_first: bool) -> Result<Passed, Problem> {
    let now = world.now();
    let mut client = world.store.client().await?;
    let transaction = client.transaction().await.map_err(StoreError::Query)?;
    let row = transaction.query_one("select pg_try_advisory_xact_lock($1)", &[&LOCK]).await.map_err(StoreError::Query)?;
    if !row.get::<_, bool>(0) {
        return Ok(Passed::default());
    }
    note_open(&transaction, now.saturating_sub(silence_ms(world) * 3), from_the_first).await?;
    let found = oldest(&transaction).await?;
    let there = in_jobs(world, &found).await?;
    // The hub may have taken its time, and a row that was read before may be old by now.
    let open = still_open(&transaction, &found).await?;
    let mut lost = Vec::new();
    for job in found.into_iter().filter(|job| open.contains(&job.id)) {
        let in_jobs = there.contains(&job.id);
        let missing_since = if in_jobs { None } else { Some(job.missing_since.unwrap_or(now)) };
        let said = standing(world, &job, in_jobs, now);
        if let Some(why) = said.as_ref().filter(|_| !job.was_overdue) {
            tracing::error!(job = %job.id, member = %job.member, why, "a job should have moved on by now");
        }
        let set = "update open_job set swept_at = $3, overdue = $4, missing_since = $5 where member = $1 and id = $2";
        let (member, id) = (job.member.to_string(), job.id.to_string());
        let updated = transaction.execute(set, &[&member, &id, &big(now), &said, &missing_since.map(big)]).await;
        updated.map_err(StoreError::Query)?;
        let waited = missing_since.is_some_and(|since| now > since.saturating_add(silence_ms(world) * 3));
        if said.is_some() && waited && job.known.hold_expires.is_some_and(|at| at < now) {
            lost.push(job);
        }
    }
    let row = transaction
        .query_one("select count(*) filter (where overdue is not null), count(*) from open_job", &[])
        .await
        .map_err(StoreError::Query)?;
    transaction.commit().await.map_err(StoreError::Query)?;
    #[allow(clippy::cast_precision_loss)] // a gauge
    metrics::gauge!("mesh_jobs_overdue").set(unsigned(row.get(0)) as f64);
    Ok(Passed { ended: ends(world, lost, now).await?, open: unsigned(row.get(1)) })
}

/// Keeps the small table: jobs created up to `until` that have not ended go in, those that have go out.
async fn note_open(transaction: &deadpool_postgres::Transaction<'_>, until: u64, from_the_first: bool) -> Result<(), StoreError> {
    let from = match from_the_first {
        true => 0,
        false => transaction.query_one("select until from sweep", &[]).await?.get::<_, i64>(0),
    };
    // Behind those that were looked at before: a stream of new ones must not keep the old ones from being looked at again.
    let new = "insert into open_job (member, id, swept_at) select member, id, $2 from job where created_at > $1 and created_at <= $2 and rank = 1 \
               on conflict do nothing";
    transaction.execute(new, &[&from, &big(until)]).await?;
    transaction.execute("update sweep set until = greatest(until, $1)", &[&big(until)]).await?;
    let ended = "delete from open_job using job where job.member = open_job.member and job.id = open_job.id and job.rank <> 1";
    transaction.execute(ended, &[]).await?;
    Ok(())
}

async fn oldest(transaction: &deadpool_postgres::Transaction<'_>) -> Result<Vec<Found>, StoreError> {
    let sql = "select job.*, cancel_wish.at as cancelled_at, open_job.overdue is not null as was_overdue, open_job.missing_since \
               from (select * from open_job order by swept_at limit $1) open_job \
               join job on job.member = open_job.member and job.id = open_job.id left join cancel_wish on cancel_wish.job = job.id";
    let rows = transaction.query(sql, &[&PASS]).await?;
    let number = |row: &tokio_postgres::Row, name: &str| row.get::<_, Option<i64>>(name).map(unsigned);
    let found = |row: &tokio_postgres::Row| {
        Some(Found {
            member: row.get::<_, String>("member").parse().ok()?,
            id: row.get::<_, String>("id").parse().ok()?,
            known: read(row, true),
            cancelled_at: number(row, "cancelled_at"),
            was_overdue: row.get("was_overdue"),
            missing_since: number(row, "missing_since"),
        })
    };
    Ok(rows.iter().filter_map(found).collect())
}

/// Those that have not ended by what the rows say now.
async fn still_open(transaction: &deadpool_postgres::Transaction<'_>, found: &[Found]) -> Result<BTreeSet<JobId>, StoreError> {
    let ids: Vec<String> = found.iter().map(|job| job.id.to_string()).collect();
    let sql = "select job.id from open_job join job on job.member = open_job.member and job.id = open_job.id \
               where open_job.id = any($1) and job.rank = 1";
    let rows = transaction.query(sql, &[&ids]).await?;
    Ok(rows.iter().filter_map(|row| row.get::<_, String>(0).parse().ok()).collect())
}

/// Those of which JOBS has the message. While rows lag behind HISTORY a missing one may have ended: then all count as there.
async fn in_jobs(world: &World, found: &[Found]) -> Result<BTreeSet<JobId>, Problem> {
    let away = |error: bus::direct::ReadError| Problem::new(Code::Unavailable, error.to_string());
    let all = || found.iter().map(|job| job.id).collect::<BTreeSet<_>>();
    if found.is_empty() {
        return Ok(all());
    }
    let subjects: Vec<String> = found.iter().map(|job| format!("mesh.v1.job.*.{}", job.id)).collect();
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    let there = world.bus.multi_last(stream::JOBS, &subjects).await.map_err(away)?;
    // An end is written down before its message leaves JOBS; so the end of HISTORY is looked at after JOBS.
    let end = world.bus.stream_end(stream::HISTORY).await.map_err(away)?;
    if end.last_seq != 0 && !world.store.has_applied(end.last_seq).await? {
        return Ok(all());
    }
    Ok(there.iter().filter_map(|message| subject::job_of(&message.subject)).collect())
}

fn silence_ms(world: &World) -> u64 {
    u64::try_from(world.timings.silence.as_millis()).unwrap_or(u64::MAX)
}

fn standing(world: &World, job: &Found, in_jobs: bool, now: u64) -> Option<String> {
    let spec = job.known.spec();
    let timeout_ms = spec.as_ref().map_or(limits::TIMEOUT_MS_MAX, bus_schemas::job::JobSpec::timeout_ms);
    let own = spec.as_ref().map(|spec| job.known.created_at + spec.max_execution_wait_ms());
    let standing = Standing {
        state: views::state(&job.known, &world.moment(&job.id, &job.known)),
        created_at: job.known.created_at,
        transitions: &job.known.transitions,
        gives_up_at: job.known.gives_up_at.or(own),
        timeout_ms,
        hold_expires: job.known.hold_expires,
        cancelled_at: job.cancelled_at,
        in_jobs,
        silence_ms: silence_ms(world),
    };
    overdue(&standing, now)
}

/// The ends of jobs that are lost: their message is gone, and the ledger has returned what was held.
async fn ends(world: &World, lost: Vec<Found>, now: u64) -> Result<Vec<HistoryRecord>, Problem> {
    let mut records = Vec::new();
    for chunk in lost.chunks(limits::STEP_MAX) {
        let ops: Vec<Op> = chunk.iter().map(|job| Op::Look { job: job.id }).collect();
        let asked = ledger_client::ask(world, ops, tokio::time::Instant::now() + LEDGER_WITHIN).await;
        let outcomes = asked.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))?;
        for (job, outcome) in chunk.iter().zip(outcomes) {
            let hold = match outcome {
                LedgerOutcome::Done(done) => done.hold,
                LedgerOutcome::Refused { .. } => None,
            };
            match hold.map(|hold| hold.state) {
                Some(HoldState::Voided { .. }) => records.push(end(world, job, now)),
                Some(HoldState::Settled { .. }) => tracing::error!(job = %job.id, "it was paid, and its end was never written down"),
                Some(HoldState::Open) | None => {}
            }
        }
    }
    Ok(records)
}

fn end(world: &World, job: &Found, now: u64) -> HistoryRecord {
    let problem = Problem::new(Code::JobLost, "its message in JOBS was gone, and the ledger has returned its hold");
    tracing::error!(job = %job.id, member = %job.member, "a lost job is ended");
    let transition = Transition { to: JobState::Failed, at: now, cause: problem.to_string(), actor: "gateway".to_owned() };
    let ended = Ended {
        state: JobState::Failed,
        attempts: job.known.attempts,
        device: None,
        problem: Some(problem),
        paid_mmana: None,
        done: None,
        decision: None,
    };
    let what = HistoryEvent::Ended(Box::new(ended));
    HistoryRecord { net: world.net, member: job.member, job: job.id, at: now, transitions: vec![transition], what }
}

impl Store {
    /// Why a job should have moved on by now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn overdue(&self, member: &MemberId, job: &JobId) -> Result<Option<String>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("select overdue from open_job where member = $1 and id = $2").await?;
        let row = client.query_opt(&statement, &[&member.to_string(), &job.to_string()]).await?;
        Ok(row.and_then(|row| row.get(0)))
    }

    /// A member's jobs that should have moved on by now, with why; oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn all_overdue(&self, member: &MemberId, limit: u32) -> Result<Vec<(JobId, Known, String)>, StoreError> {
        let client = self.client().await?;
        let sql = "select job.*, open_job.overdue from open_job join job on job.member = open_job.member and job.id = open_job.id \
                   where open_job.member = $1 and open_job.overdue is not null and job.rank = 1 order by job.created_at limit $2";
        let statement = client.prepare_cached(sql).await?;
        let rows = client.query(&statement, &[&member.to_string(), &i64::from(limit)]).await?;
        let one = |row: &tokio_postgres::Row| Some((row.get::<_, String>("id").parse().ok()?, read(row, false), row.get("overdue")));
        Ok(rows.iter().filter_map(one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_come_faster_the_more_jobs_are_open() {
        let renewal = Duration::from_secs(10);
        for (open, ms) in [(0, 10_000), (256, 10_000), (6 * 256, 10_000), (12 * 256, 5_000), (50_000, 306), (1_000_000, 100)] {
            assert_eq!(pause_after(renewal, open).as_millis(), ms, "{open}");
        }
    }
}
