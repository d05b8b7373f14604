//! Postgres: connection, migrations, and where the projection stands.

use std::time::Duration;

use anyhow::Context;
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
/// Held while migrations run, so that two starting workers do not run them at once. (The letters "mesh".)
const MIGRATION_LOCK: i64 = 0x6d65_7368;

/// A place in the stream: sequence and chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub seq: u64,
    pub chain: [u8; 32],
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
        let manager = Manager::from_config(config.clone(), NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        Ok(Self { pool: Pool::builder(manager).max_size(2).build()?, config })
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

    /// Brings the schema to this program's version; forward only. Two at once wait for each other.
    ///
    /// # Errors
    /// Where the database is away, the role may not, or the schema is newer or altered.
    pub async fn migrate(&self) -> anyhow::Result<Vec<String>> {
        let mut guard = self.client().await?;
        let lock = guard.transaction().await?;
        lock.execute("select pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
        let mut client = self.client().await?;
        let there = client.query_one("select to_regnamespace($1) is not null", &[&SCHEMA]).await?.get::<_, bool>(0);
        if !there {
            client.batch_execute(&format!("create schema {SCHEMA}")).await.context("the role may not create the schema of the books")?;
        }
        let report = embedded::migrations::runner().run_async(&mut **client.as_mut()).await.context("the schema cannot be migrated")?;
        let readable = format!(
            "do $$ begin
                 if exists (select from pg_roles where rolname = '{READER}') then
                     grant usage on schema {SCHEMA} to {READER};
                     grant select on all tables in schema {SCHEMA} to {READER};
                 end if;
             end $$"
        );
        client.batch_execute(&readable).await.with_context(|| format!("{READER} cannot be given the right to read"))?;
        lock.commit().await?;
        Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
    }

    /// Where the projection stands.
    ///
    /// # Errors
    /// Where the database is away or has no books.
    pub async fn position(&self) -> anyhow::Result<Position> {
        position(&self.client().await?).await
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
        .context("the database does not know its place in the stream")?;
    let (seq, chain): (i64, Vec<u8>) = (row.get(0), row.get(1));
    let chain = <[u8; 32]>::try_from(chain).map_err(|_| anyhow::anyhow!("the cursor's chain is not 32 bytes"))?;
    Ok(Position { seq: u64::try_from(seq)?, chain })
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
