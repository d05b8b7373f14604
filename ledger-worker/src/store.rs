//! Postgres: connection, migrations, and where the projection stands.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use bus_schemas::merkle::{Frontier, Hash, cover};
use bus_schemas::{Cid, FactId};
use deadpool_postgres::{GenericClient, Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use tokio_postgres::NoTls;

use crate::rows::signed;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The schema of the books.
pub const SCHEMA: &str = "ledger";
/// The stream's name in the cursor.
pub const STREAM: &str = "LEDGER";
/// Who may read the rows, where such a role exists.
const READER: &str = "mesh_reader";
/// Who keeps them, where that is not their owner.
const WORKER: &str = "mesh_ledger";
/// Held while migrations run, so that two starting workers do not run them at once. (The letters "mesh".)
pub const MIGRATION_LOCK: i64 = 0x6d65_7368;

/// The rows are not what the stream made: whoever writes on would build on one of two different books. A sentence that ends with the
/// command to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Apart(pub String);

/// What is asked over the shared connections is found by key. A plan of a prepared statement lasts: one that was made while tables were
/// nearly empty would read all of them, for every few facts, until somebody analyses them.
const BY_KEY: &str = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off";
/// Inside a transaction that reads whole tables after all.
pub const AS_A_WHOLE: &str = "set local enable_seqscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on";

/// A place in the stream: sequence and chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub seq: u64,
    pub chain: [u8; 32],
}

/// A place with the Merkle tree over all messages up to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub position: Position,
    pub tree: Frontier,
}
impl Place {
    /// Before the first message.
    pub fn start() -> Self {
        Self { position: Position { seq: 0, chain: [0; 32] }, tree: Frontier::default() }
    }
}

/// Connections to the database of the books. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    config: tokio_postgres::Config,
}

impl Store {
    /// Prepares connections; none is made yet.
    ///
    /// # Errors
    /// Where the address is no Postgres address.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let mut config: tokio_postgres::Config = url.parse().context("DATABASE_URL is no Postgres address")?;
        let options = config.get_options().map_or_else(String::new, |options| format!("{options} "));
        // A fact that was told to be in the database must survive a power cut.
        config.options(format!("{options}-c search_path={SCHEMA} -c synchronous_commit=on"));
        config.application_name("mesh-ledger").connect_timeout(Duration::from_secs(5));
        let mut by_key = config.clone();
        by_key.options(format!("{} {BY_KEY}", config.get_options().unwrap_or_default()));
        let manager = Manager::from_config(by_key, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        Ok(Self { pool: Pool::builder(manager).max_size(4).build()?, config })
    }

    /// # Errors
    /// Where the database cannot be reached.
    pub async fn client(&self) -> anyhow::Result<Object> {
        self.pool.get().await.map_err(|error| anyhow::anyhow!("the database cannot be reached: {}", chain(&error)))
    }

    /// A connection of its own, which is closed after use.
    ///
    /// # Errors
    /// Where the database cannot be reached.
    pub async fn alone(&self) -> anyhow::Result<Object> {
        let manager = Manager::from_config(self.config.clone(), NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager).max_size(1).build()?;
        pool.get().await.map_err(|error| anyhow::anyhow!("the database cannot be reached: {}", chain(&error)))
    }

    /// Brings the schema to this program's version; forward only. Two at once wait for each other. A role that owns nothing only
    /// looks whether the owner did it.
    ///
    /// # Errors
    /// Where the database is away, the role may not, or the schema is newer or altered.
    pub async fn migrate(&self) -> anyhow::Result<Vec<String>> {
        let mut guard = self.client().await?;
        let lock = guard.transaction().await?;
        lock.execute("select pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
        let mut client = self.client().await?;
        let owner = "select pg_has_role(nspowner, 'usage') from pg_namespace where nspname = $1";
        let applied = match client.query_opt(owner, &[&SCHEMA]).await?.map(|row| row.get(0)) {
            Some(false) => {
                as_migrated(&client).await?;
                vec![]
            }
            Some(true) => make(&mut client, SCHEMA).await?,
            None => {
                let made = client.batch_execute(&format!("create schema {SCHEMA}")).await;
                made.context("the role may not create the schema of the books (next: mesh-ledger migrate, as its owner)")?;
                make(&mut client, SCHEMA).await?
            }
        };
        lock.commit().await?;
        Ok(applied)
    }

    /// Where the projection stands.
    ///
    /// # Errors
    /// Where the database is away or has no books.
    pub async fn position(&self) -> anyhow::Result<Position> {
        position(&self.client().await?).await
    }

    /// Where the projection stands, with the tree.
    ///
    /// # Errors
    /// As [`Self::position`]; also where the tree's rows are not those of its place.
    pub async fn place(&self) -> anyhow::Result<Place> {
        place(&self.client().await?).await
    }

    /// Whether the cursor's chain is another than that beside its last message, where there is one.
    ///
    /// # Errors
    /// Where the database is away.
    pub async fn cursor_is_changed(&self) -> anyhow::Result<bool> {
        let sql =
            "select 1 from cursor left join event using (seq) where stream = $1 and seq > 0 and cursor.chain is distinct from event.chain";
        Ok(self.client().await?.query_opt(sql, &[&STREAM]).await?.is_some())
    }

    /// Says beside the cursor why nobody writes, so that whoever tells money tells this instead; `None`: somebody does.
    ///
    /// # Errors
    /// Where the database is away or takes no writes.
    pub async fn alarm(&self, why: Option<&str>) -> anyhow::Result<()> {
        let sql = "update cursor set alarm = $2 where stream = $1 and alarm is distinct from $2";
        self.client().await?.execute(sql, &[&STREAM, &why]).await?;
        Ok(())
    }

    /// Which of these facts have rows, each with the sequence of its message.
    ///
    /// # Errors
    /// Where the database is away.
    pub async fn recorded(&self, facts: &[FactId]) -> anyhow::Result<BTreeMap<FactId, u64>> {
        let ids: Vec<Vec<u8>> = facts.iter().map(|fact| fact.0.to_bytes().to_vec()).collect();
        let client = self.client().await?;
        let statement = client.prepare_cached("select id, seq from fact where id = any($1)").await?;
        let rows = client.query(&statement, &[&ids]).await?;
        rows.iter().map(|row| Ok((FactId(Cid::from_bytes(row.get(0))?), u64::try_from(row.get::<_, i64>(1))?))).collect()
    }

    /// The stored bytes of one message, as the projection wrote them.
    ///
    /// # Errors
    /// Where the database is away.
    pub async fn envelope(&self, seq: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let row = self.client().await?.query_opt("select envelope from event where seq = $1", &[&signed(seq)]).await?;
        Ok(row.map(|row| row.get(0)))
    }
}

/// Makes or brings up the tables of a schema, and says who may do what with them.
async fn make(client: &mut Object, schema: &str) -> anyhow::Result<Vec<String>> {
    let applied = migrate(client, schema).await?;
    give_rights(client, schema).await?;
    Ok(applied)
}

/// Makes or brings up the tables of a schema.
///
/// # Errors
/// As [`Store::migrate`].
pub async fn migrate(client: &mut Object, schema: &str) -> anyhow::Result<Vec<String>> {
    client.batch_execute(&format!("set search_path = {schema}")).await?;
    let report = embedded::migrations::runner().run_async(&mut ***client).await.context("the schema cannot be migrated")?;
    client.batch_execute(&format!("set search_path = {SCHEMA}")).await?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

/// Says who may do what with the tables of a schema.
///
/// # Errors
/// Where the role does not own them.
pub async fn give_rights(client: &impl GenericClient, schema: &str) -> anyhow::Result<()> {
    client.batch_execute(&rights(schema)).await.context("the roles cannot be given their rights")
}

/// Nobody deletes, not even the owner by mistake. The worker's role, where it is not the owner, inserts, and updates what changes;
/// the reader reads.
fn rights(schema: &str) -> String {
    format!(
        "revoke delete, truncate on all tables in schema {schema} from current_user;
         do $$ begin
             if exists (select from pg_roles where rolname = '{READER}') then
                 grant usage on schema {schema} to {READER};
                 grant select on all tables in schema {schema} to {READER};
             end if;
             if current_user <> '{WORKER}' and exists (select from pg_roles where rolname = '{WORKER}') then
                 grant usage on schema {schema} to {WORKER};
                 grant select on all tables in schema {schema} to {WORKER};
                 grant insert on {schema}.event, {schema}.fact, {schema}.leg, {schema}.account, {schema}.hold, {schema}.member,
                     {schema}.device, {schema}.vesting, {schema}.review, {schema}.policy, {schema}.checkpoint, {schema}.merkle to {WORKER};
                 grant update on {schema}.cursor, {schema}.account, {schema}.hold, {schema}.device, {schema}.vesting, {schema}.review
                     to {WORKER};
             end if;
         end $$"
    )
}

/// Whether the schema has this program's version; for a role that cannot bring it there.
async fn as_migrated(client: &impl GenericClient) -> anyhow::Result<()> {
    let applied = client.query("select version, name, checksum from refinery_schema_history order by version", &[]).await;
    let applied = applied.context("the schema of the books cannot be read (next: mesh-ledger migrate, as its owner)")?;
    let applied: Vec<(i32, String, String)> = applied.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let runner = embedded::migrations::runner();
    let ours: Vec<(i32, String, String)> =
        runner.get_migrations().iter().map(|one| (one.version(), one.name().to_owned(), one.checksum().to_string())).collect();
    ensure!(applied.len() >= ours.len(), "the schema of the books is older than this program (next: mesh-ledger migrate, as its owner)");
    ensure!(applied == ours, "the schema of the books is newer than this program, or was altered");
    Ok(())
}

/// The SQL that makes the tables, in whatever schema is first on the search path.
pub fn tables() -> Vec<String> {
    embedded::migrations::runner().get_migrations().iter().filter_map(|migration| migration.sql().map(str::to_owned)).collect()
}

/// Where the projection in the current schema stands.
///
/// # Errors
/// Where there is no such schema.
pub async fn position(client: &impl GenericClient) -> anyhow::Result<Position> {
    let row = client
        .query_opt("select seq, chain from cursor where stream = $1", &[&STREAM])
        .await
        .context("the database has no books (next: mesh-ledger migrate)")?
        .ok_or_else(|| Apart("the database does not know its place in the stream (next: mesh-ledger rebuild)".into()))?;
    let (seq, chain): (i64, Vec<u8>) = (row.get(0), row.get(1));
    let chain = <[u8; 32]>::try_from(chain).map_err(|_| anyhow::anyhow!("the cursor's chain is not 32 bytes"))?;
    Ok(Position { seq: u64::try_from(seq)?, chain })
}

/// Where the projection in the current schema stands, with the tree over its messages.
///
/// # Errors
/// As [`position`]; also [`Apart`] where the tree's rows are not those of its place.
pub async fn place(client: &impl GenericClient) -> anyhow::Result<Place> {
    let mut at = position(client).await?;
    loop {
        if let Some(tree) = tree(client, at).await? {
            return Ok(Place { position: at, tree });
        }
        // A rebuild may have put other rows in their place meanwhile.
        let now = position(client).await?;
        if now == at {
            return Err(Apart("the tree over the messages is not whole in the database (next: mesh-ledger rebuild)".into()).into());
        }
        at = now;
    }
}

async fn tree(client: &impl GenericClient, position: Position) -> anyhow::Result<Option<Frontier>> {
    let peaks = cover(0, position.seq);
    let levels: Vec<i16> = peaks.iter().map(|(level, _)| i16::from(*level)).collect();
    let indexes: Vec<i64> = peaks.iter().map(|(_, index)| signed(*index)).collect();
    let rows = client
        .query(
            "select m.hash from unnest($1::smallint[], $2::bigint[]) with ordinality as p (level, idx, n)
             join merkle m on m.level = p.level and m.idx = p.idx order by p.n",
            &[&levels, &indexes],
        )
        .await?;
    let hashes: Option<Vec<Hash>> = rows.iter().map(|row| row.get::<_, &[u8]>(0).try_into().ok()).collect();
    Ok(hashes.and_then(|hashes| Frontier::restore(position.seq, hashes)))
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
