//! Settings: each is a flag and an environment variable, read and checked once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bus::BusSettings;
use bus_schemas::limits::Timings;
use bus_schemas::network::NetworkDocument;
use bus_schemas::{InstanceId, Signer};

use crate::auction::{Scoring, Weights};

/// Turns jobs into assignments and keeps their leases.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub bus: BusSettings,
    /// Key of the network's schedulers (an Ed25519 identity key file).
    #[arg(long, env = "MESH_KEY")]
    pub key: PathBuf,
    /// The signed network document.
    #[arg(long, env = "MESH_NETWORK")]
    pub network: PathBuf,
    /// Serve /metrics, /healthz and /readyz here.
    #[arg(long, env = "MESH_HTTP")]
    pub http: Option<SocketAddr>,
    /// Jobs held at once; more wait in the stream.
    #[arg(long, env = "MESH_JOBS_MAX", default_value_t = 8192)]
    pub jobs_max: usize,
    /// How much a low price counts, from a term of 0 to 10,000.
    #[arg(long, env = "MESH_WEIGHT_PRICE", default_value_t = 1)]
    pub weight_price: u32,
    /// How much reputation counts.
    #[arg(long, env = "MESH_WEIGHT_REPUTATION", default_value_t = 50)]
    pub weight_reputation: u32,
    /// How much free hardware counts.
    #[arg(long, env = "MESH_WEIGHT_RESOURCES", default_value_t = 1)]
    pub weight_resources: u32,
    /// How much an early finish counts.
    #[arg(long, env = "MESH_WEIGHT_LATENCY", default_value_t = 1)]
    pub weight_latency: u32,
    /// Check the settings, print what they come to, and exit.
    #[arg(long)]
    pub check_config: bool,
}

/// Checked settings.
#[derive(Clone)]
pub struct Config {
    /// This process: random, new at each start.
    pub s: InstanceId,
    pub signer: Arc<Signer>,
    pub network: NetworkDocument,
    pub timings: Timings,
    pub jobs_max: usize,
    pub scoring: Arc<dyn Scoring>,
}

impl Args {
    /// # Errors
    /// Where a file is missing or wrong, or a number makes no sense.
    pub fn check(&self) -> anyhow::Result<Config> {
        let signer = bus::keys::read_key_file(&self.key)?;
        let network = bus::keys::read_network(&self.network)?;
        ensure!(
            network.scheduler_keys.contains(&signer.public()),
            "error[M0302]: {} is not a scheduler key of network {}",
            self.key.display(),
            network.name
        );
        ensure!((64..=65_536).contains(&self.jobs_max), "error[M0210]: --jobs-max is {}, 64 to 65536 are allowed", self.jobs_max);
        let scoring = Weights {
            price: self.weight_price,
            reputation: self.weight_reputation,
            resources: self.weight_resources,
            latency: self.weight_latency,
        };
        Ok(Config {
            s: new_instance()?,
            signer: Arc::new(signer),
            network,
            timings: self.bus.timings(),
            jobs_max: self.jobs_max,
            scoring: Arc::new(scoring),
        })
    }
}

/// A new random name for this process.
///
/// # Errors
/// Where the operating system has no randomness.
pub fn new_instance() -> anyhow::Result<InstanceId> {
    format!("s{}", bus::keys::random_hex::<4>()?).parse().context("an instance id")
}
