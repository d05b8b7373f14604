//! Settings: each is a flag and an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use bus::BusSettings;
use bus_schemas::Signer;
use bus_schemas::network::NetworkDocument;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::posting::Parts;
use crate::store::Store;

/// Keeps the books of a Mesh network: decides about credit, records facts in LEDGER, and projects them into Postgres.
#[derive(Debug, Parser)]
#[command(name = "mesh-ledger", version)]
pub struct Cli {
    #[command(flatten)]
    pub settings: Settings,
    /// Checks the settings and the files they name, and does nothing.
    #[arg(long, global = true)]
    pub check_config: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keeps the books: one worker is active, all others stand by.
    Run(Run),
    /// Replays LEDGER from its first message and compares the database with it, row by row.
    Verify(Verify),
    /// Stores in LEDGER again what it has lost, byte by byte from the database. Refuses where the two contradict each other.
    Reseed(Reseed),
    /// Makes all rows again from LEDGER and lets them take the place of the old ones. Needs the owner of the schema. Refuses where they
    /// have facts that LEDGER has lost.
    Rebuild(Rebuild),
    /// Brings the database schema to this version.
    Migrate,
}

#[derive(Debug, Args)]
pub struct Run {
    /// How many seconds facts stay in memory; older ones are looked up in the database. Commands live for a day, so 25 hours.
    #[arg(long, env = "MESH_LEDGER_REMEMBER", default_value_t = 25 * 3600)]
    pub remember: u64,
}

#[derive(Debug, Args)]
pub struct Reseed {
    /// Copies of LEDGER, where it must be made anew [default: as many as SUBMIT has].
    #[arg(long)]
    pub replicas: Option<usize>,
    /// Prefix under which answers may arrive.
    #[arg(long, default_value = "_INBOX.ledger")]
    pub inbox_prefix: String,
}

#[derive(Debug, Args)]
pub struct Rebuild {
    /// Also where the database has facts that LEDGER has lost: they are gone for good then. `mesh-ledger reseed` keeps them.
    #[arg(long)]
    pub discard_facts: bool,
}

/// Of JetStream, where nothing stands before it.
pub const API_PREFIX: &str = "$JS.API";

#[derive(Debug, Args)]
pub struct Verify {
    #[arg(short, long, value_enum, default_value_t = Output::Human)]
    pub output: Output,
    /// Prefix of the JetStream API; `mesh.v1.audit` with an auditor's credentials.
    #[arg(long, default_value = API_PREFIX)]
    pub api_prefix: String,
    /// Prefix under which answers may arrive.
    #[arg(long, default_value = "_INBOX.ledger")]
    pub inbox_prefix: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Human,
    Json,
}

#[derive(Debug, Args)]
pub struct Settings {
    #[command(flatten)]
    pub bus: BusSettings,
    /// The ledger's identity key (only needed by run).
    #[arg(long, env = "MESH_KEY", global = true)]
    pub key: Option<PathBuf>,
    /// The network document.
    #[arg(long, env = "MESH_NETWORK", global = true)]
    pub network: Option<PathBuf>,
    /// Postgres, such as postgresql://mesh_ledger@127.0.0.1/mesh or postgresql:///mesh?host=/run/postgresql
    #[arg(long, env = "DATABASE_URL", global = true, hide_env_values = true)]
    pub database_url: Option<String>,
    /// Where to serve /metrics, /healthz and /readyz, such as 127.0.0.1:9103
    #[arg(long, env = "MESH_HTTP", global = true)]
    pub http: Option<SocketAddr>,
}

impl Settings {
    /// # Errors
    /// Where no document is named, or the file is none.
    pub fn network(&self) -> anyhow::Result<NetworkDocument> {
        bus::keys::read_network(self.network.as_deref().context("the network document is not named (--network or MESH_NETWORK)")?)
    }

    /// # Errors
    /// Where no address is given, or it is none.
    pub fn store(&self) -> anyhow::Result<Store> {
        Store::new(self.database_url.as_deref().context("the database is not named (--database-url or DATABASE_URL)")?)
    }

    /// The key that signs facts; it must be one of the document's ledger keys, or nobody would believe them.
    ///
    /// # Errors
    /// Where the key is missing, open to others, or not the network's.
    pub fn signer(&self, network: &NetworkDocument) -> anyhow::Result<Signer> {
        let path = self.key.as_deref().context("the ledger's key is not named (--key or MESH_KEY)")?;
        let signer = bus::keys::read_key_file(path)?;
        ensure!(network.ledger_keys.contains(&signer.public()), "{} is no ledger key of network {}", signer.public(), network.network);
        Ok(signer)
    }
}

/// Who may ask what, from the network document.
pub fn parts(network: &NetworkDocument) -> Parts {
    Parts { gateway: network.gateway_keys.clone(), scheduler: network.scheduler_keys.clone(), operator: vec![network.network_key] }
}
