//! Postgres: the schema `gateway`. Rows are written in batches, and each batch with its places in HISTORY in one transaction.

use std::str::FromStr;

use anyhow::Context;
use bus_schemas::envelope::encode;
use bus_schemas::history::CompletedEnd;
use bus_schemas::id::{JobId, MemberId, NetworkId, PublicKey};
use bus_schemas::job::{JobState, SignedBy};
use bus_schemas::{Code, Form, MilliMana, Problem};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::{Client, NoTls, Row};

use crate::history::{Jobs, Known, Rank};
use crate::letters;

refinery::embed_migrations!("src/migrations");

pub const SCHEMA: &str = "gateway";
/// Taken while the schema is made, so that two gateways do not make it at once.
const MIGRATION_LOCK: i64 = 0x6d65_7368_6777;

/// The database of this gateway. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
}

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database cannot be reached")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("the database refused")]
    Query(#[from] tokio_postgres::Error),
}
impl StoreError {
    /// The same rows will be refused again.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Pool(_) => false,
            // Class 22: a value that the column cannot hold; 23: a constraint.
            Self::Query(error) => error.code().is_some_and(|state| state.code().starts_with("22") || state.code().starts_with("23")),
        }
    }
}
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "the database did not answer a question");
        Self::new(Code::Unavailable, "the gateway's database does not answer")
    }
}

impl Store {
    /// Connects and brings the schema up to date.
    ///
    /// # Errors
    /// Where the database is not there or the schema cannot be made.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let mut config = tokio_postgres::Config::from_str(url).context("DATABASE_URL is no address of a database")?;
        let options = config.get_options().map_or_else(String::new, |options| format!("{options} "));
        config.options(format!("{options}-c search_path={SCHEMA}"));
        config.application_name("mesh-gateway");
        migrate(&config).await.context("failed to bring the schema gateway up to date")?;
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager).max_size(8).build().context("failed to make a pool of connections")?;
        Ok(Self { pool })
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether this key is a member's that was let in.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_member(&self, key: &PublicKey) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let statement =
            client.prepare_cached("select exists (select from enrolled_member where member = $1 and suspended is null)").await?;
        Ok(client.query_one(&statement, &[&key.member_id().to_string()]).await?.get(0))
    }

    /// A connection; its search path is the schema `gateway`.
    ///
    /// # Errors
    /// Where the database is not there.
    pub async fn client(&self) -> Result<deadpool_postgres::Object, StoreError> {
        Ok(self.pool.get().await?)
    }

    /// Asks the least that there is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn answers(&self) -> Result<(), StoreError> {
        Ok(self.client().await?.batch_execute("select 1").await?)
    }

    /// Writes what the messages at these places say, once however often it is asked.
    ///
    /// `fold` is given the places that are new.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was written then.
    pub async fn apply(&self, net: NetworkId, places: &[u64], fold: impl FnOnce(&[u64]) -> Jobs) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let places: Vec<i64> = places.iter().copied().map(big).collect();
        let statement = transaction
            .prepare_cached("insert into applied (seq) select unnest($1::bigint[]) on conflict do nothing returning seq")
            .await?;
        let rows = transaction.query(&statement, &[&places]).await?;
        let new: Vec<u64> = rows.iter().map(|row| unsigned(row.get(0))).collect();
        let jobs = fold(&new);
        if !jobs.is_empty() {
            upsert(&transaction, &jobs).await?;
            letters::rows::insert_letters(&transaction, &letters::of_jobs(net, &jobs)).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Whether the message at this place of HISTORY is in the rows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_applied(&self, seq: u64) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("select exists (select from applied where seq = $1)").await?;
        Ok(client.query_one(&statement, &[&big(seq)]).await?.get(0))
    }

    /// Forgets places that no delivery can name any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tidy(&self) -> Result<(), StoreError> {
        self.client().await?.execute("delete from applied where at < now() - interval '2 days'", &[]).await?;
        Ok(())
    }

    /// One job of a member.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn job(&self, member: &MemberId, id: &JobId) -> Result<Option<Known>, StoreError> {
        let client = self.client().await?;
        let text = format!("select {WHOLE} from job where member = $1 and id = $2");
        let statement = client.prepare_cached(&text).await?;
        let row = client.query_opt(&statement, &[&member.to_string(), &id.to_string()]).await?;
        Ok(row.map(|row| read(&row, true)))
    }

    /// Since when somebody wants a job to end.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn cancelled_at(&self, job: &JobId) -> Result<Option<u64>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("select at from cancel_wish where job = $1").await?;
        Ok(client.query_opt(&statement, &[&job.to_string()]).await?.map(|row| unsigned(row.get(0))))
    }

    /// Ids of a member's jobs that begin so; at most two.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ids_like(&self, member: &MemberId, prefix: &str) -> Result<Vec<JobId>, StoreError> {
        let client = self.client().await?;
        // Everything that begins with the prefix lies between it and it followed by the highest character of ids.
        let statement = client.prepare_cached("select id from job where member = $1 and id >= $2 and id < $3 order by id limit 2").await?;
        let rows = client.query(&statement, &[&member.to_string(), &prefix, &format!("{prefix}~")]).await?;
        Ok(rows.iter().filter_map(|row| row.get::<_, String>(0).parse().ok()).collect())
    }

    /// A member's jobs, newest first, after `(created_at, id)`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn jobs(
        &self,
        member: &MemberId,
        state: Option<JobState>,
        after: Option<(u64, JobId)>,
        limit: u32,
    ) -> Result<Vec<(JobId, Known)>, StoreError> {
        let client = self.client().await?;
        let text = format!(
            "select {BRIEF} from job where member = $1 and ($2::text is null or state = $2) \
             and ($3::bigint is null or (created_at, id) < ($3, $4::text)) order by created_at desc, id desc limit $5"
        );
        let statement = client.prepare_cached(&text).await?;
        let (created_at, id) = after.map_or((None, None), |(at, id)| (Some(big(at)), Some(id.to_string())));
        let state = state.map(JobState::name);
        let rows = client.query(&statement, &[&member.to_string(), &state, &created_at, &id, &i64::from(limit)]).await?;
        Ok(rows.iter().filter_map(|row| Some((row.get::<_, String>("id").parse().ok()?, read(row, false)))).collect())
    }
}

async fn migrate(config: &tokio_postgres::Config) -> anyhow::Result<()> {
    let (mut client, connection) = config.connect(NoTls).await.context("the database cannot be reached")?;
    let connection = tokio::spawn(connection);
    let done = migrate_on(&mut client).await;
    // The lock goes with its connection.
    drop(client);
    let _ = connection.await;
    done
}

async fn migrate_on(client: &mut Client) -> anyhow::Result<()> {
    client.execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    let there: Option<String> = client.query_one("select to_regnamespace($1)::text", &[&SCHEMA]).await?.get(0);
    if there.is_none() {
        client.batch_execute(&format!("create schema {SCHEMA}")).await?;
    }
    migrations::runner().set_grouped(true).run_async(client).await?;
    Ok(())
}

const BRIEF: &str = "id, rank, state, kind, key, asker, created_at, finished_at, device, attempts, paid_mmana, hold_mmana, hold_expires, \
                     problem, next_look_at, gives_up_at, decisions, last_seq";
const WHOLE: &str = "id, rank, state, kind, key, asker, created_at, finished_at, device, attempts, paid_mmana, hold_mmana, hold_expires, \
                     problem, next_look_at, gives_up_at, decisions, last_seq, form, body, signed, done, transitions, failed";

/// The same as [`Known::merge`].
const UPSERT: &str = "
insert into job (member, id, rank, state, kind, key, asker, created_at, finished_at, device, attempts, paid_mmana, hold_mmana,
    hold_expires, problem, form, body, signed, done, next_look_at, gives_up_at, transitions, decisions, failed, last_seq)
select * from unnest($1::text[], $2::text[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
    $9::bigint[], $10::text[], $11::integer[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[], $16::text[], $17::bytea[],
    $18::bytea[], $19::bytea[], $20::bigint[], $21::bigint[], $22::text[], $23::text[], $24::text[], $25::bigint[])
on conflict (member, id) do update set
    rank = greatest(job.rank, excluded.rank),
    state = case when excluded.rank > job.rank then excluded.state else job.state end,
    finished_at = case when excluded.rank > job.rank then excluded.finished_at
        when excluded.rank = job.rank then coalesce(job.finished_at, excluded.finished_at) else job.finished_at end,
    device = case when excluded.rank > job.rank then excluded.device
        when excluded.rank = job.rank then coalesce(job.device, excluded.device) else job.device end,
    paid_mmana = case when excluded.rank > job.rank then excluded.paid_mmana
        when excluded.rank = job.rank then coalesce(job.paid_mmana, excluded.paid_mmana) else job.paid_mmana end,
    problem = case when excluded.rank > job.rank then excluded.problem
        when excluded.rank = job.rank then coalesce(job.problem, excluded.problem) else job.problem end,
    done = case when excluded.rank > job.rank then excluded.done
        when excluded.rank = job.rank then coalesce(job.done, excluded.done) else job.done end,
    kind = case when excluded.rank > job.rank then coalesce(excluded.kind, job.kind) else coalesce(job.kind, excluded.kind) end,
    key = case when excluded.rank > job.rank then coalesce(excluded.key, job.key) else coalesce(job.key, excluded.key) end,
    asker = case when excluded.rank > job.rank then coalesce(excluded.asker, job.asker) else coalesce(job.asker, excluded.asker) end,
    hold_mmana = coalesce(job.hold_mmana, excluded.hold_mmana),
    hold_expires = coalesce(job.hold_expires, excluded.hold_expires),
    form = coalesce(job.form, excluded.form),
    body = coalesce(job.body, excluded.body),
    signed = coalesce(job.signed, excluded.signed),
    created_at = least(job.created_at, excluded.created_at),
    attempts = greatest(job.attempts, excluded.attempts),
    next_look_at = greatest(job.next_look_at, excluded.next_look_at),
    gives_up_at = greatest(job.gives_up_at, excluded.gives_up_at),
    transitions = job.transitions || excluded.transitions,
    decisions = job.decisions || excluded.decisions,
    failed = job.failed || excluded.failed,
    last_seq = greatest(job.last_seq, excluded.last_seq)";

async fn upsert(transaction: &deadpool_postgres::Transaction<'_>, jobs: &Jobs) -> Result<(), StoreError> {
    fn all<'a, T>(jobs: &'a Jobs, of: impl Fn(&'a Known) -> T) -> Vec<T> {
        jobs.values().map(of).collect()
    }
    let member: Vec<String> = jobs.keys().map(|(member, _)| member.to_string()).collect();
    let id: Vec<String> = jobs.keys().map(|(_, id)| id.to_string()).collect();
    let statement = transaction.prepare_cached(UPSERT).await?;
    transaction
        .execute(
            &statement,
            &[
                &member,
                &id,
                &all(jobs, |job| job.rank.number()),
                &all(jobs, |job| job.state.unwrap_or(JobState::Submitted).name()),
                &all(jobs, |job| job.kind.as_deref().map(storable)),
                &all(jobs, |job| job.key.as_deref().map(storable)),
                &all(jobs, |job| job.asker.map(|asker| asker.to_string())),
                &all(jobs, |job| big(job.created_at)),
                &all(jobs, |job| job.finished_at.map(big)),
                &all(jobs, |job| job.device.map(|device| device.to_string())),
                &all(jobs, |job| i32::try_from(job.attempts).unwrap_or(i32::MAX)),
                &all(jobs, |job| job.paid.map(MilliMana::get)),
                &all(jobs, |job| job.hold.map(MilliMana::get)),
                &all(jobs, |job| job.hold_expires.map(big)),
                &all(jobs, |job| job.problem.as_ref().map(json)),
                &all(jobs, |job| job.form.map(Form::name)),
                &all(jobs, |job| job.body.as_deref()),
                &all(jobs, |job| job.signed.as_ref().map(encode)),
                &all(jobs, |job| job.done.as_ref().map(encode)),
                &all(jobs, |job| job.next_look_at.map(big)),
                &all(jobs, |job| job.gives_up_at.map(big)),
                &all(jobs, |job| lines(&job.transitions)),
                &all(jobs, |job| lines(&job.decisions)),
                &all(jobs, |job| lines(&job.failed)),
                &all(jobs, |job| big(job.last_seq)),
            ],
        )
        .await?;
    Ok(())
}

pub fn read(row: &Row, whole: bool) -> Known {
    let text = |name: &str| row.get::<_, Option<String>>(name);
    let number = |name: &str| row.get::<_, Option<i64>>(name);
    let known = Known {
        rank: Rank::of_number(row.get("rank")),
        state: text("state").and_then(|state| parse_json(&format!("\"{state}\""))),
        kind: text("kind"),
        key: text("key"),
        asker: text("asker").and_then(|asker| asker.parse().ok()),
        created_at: unsigned(row.get("created_at")),
        finished_at: number("finished_at").map(unsigned),
        device: text("device").and_then(|device| device.parse().ok()),
        attempts: u32::try_from(row.get::<_, i32>("attempts")).unwrap_or(0),
        paid: number("paid_mmana").and_then(MilliMana::new),
        hold: number("hold_mmana").and_then(MilliMana::new),
        hold_expires: number("hold_expires").map(unsigned),
        problem: text("problem").and_then(|problem| parse_json(&problem)),
        next_look_at: number("next_look_at").map(unsigned),
        gives_up_at: number("gives_up_at").map(unsigned),
        decisions: parse_lines(&row.get::<_, String>("decisions")),
        last_seq: unsigned(row.get("last_seq")),
        ..Known::default()
    };
    if !whole {
        return known;
    }
    let bytes = |name: &str| row.get::<_, Option<Vec<u8>>>(name);
    Known {
        form: text("form").and_then(|form| parse_json(&format!("\"{form}\""))),
        body: bytes("body"),
        signed: bytes("signed").and_then(|bytes| rmp_serde::from_slice::<SignedBy>(&bytes).ok()),
        done: bytes("done").and_then(|bytes| rmp_serde::from_slice::<CompletedEnd>(&bytes).ok()),
        transitions: parse_lines(&row.get::<_, String>("transitions")),
        failed: parse_lines(&row.get::<_, String>("failed")),
        ..known
    }
}

/// Postgres keeps no NUL in texts.
pub fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
pub fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
pub fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
pub fn parse_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}
fn lines<T: Serialize>(values: &[T]) -> String {
    values.iter().map(|value| json(value) + "\n").collect()
}
fn parse_lines<T: DeserializeOwned>(text: &str) -> Vec<T> {
    text.lines().filter_map(parse_json).collect()
}
