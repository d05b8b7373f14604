//! Settings that every part has: each is a flag and an environment variable.

use std::path::PathBuf;

use anyhow::Context as _;
use bus_schemas::limits::Timings;

/// How to reach the hub, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub struct BusSettings {
    /// Addresses of the hub's nats-servers, separated by commas.
    #[arg(long, env = "MESH_NATS_URL", global = true, default_value = "nats://127.0.0.1:4222")]
    pub nats_url: String,
    /// NATS credentials file; read again at each reconnect.
    #[arg(long, env = "MESH_CREDS", global = true)]
    pub creds: Option<PathBuf>,
    /// CA certificate of the hub, where it is a private one.
    #[arg(long, env = "MESH_CA", global = true)]
    pub ca: Option<PathBuf>,
    /// Divides every waiting time; for tests.
    #[arg(long, env = "MESH_TIME_DIVISOR", global = true, default_value_t = 1, hide = true)]
    pub time_divisor: u32,
}

impl BusSettings {
    /// Looks at the files that these settings name, as `--check-config` does; whether anybody answers is not asked.
    ///
    /// # Errors
    /// The first that is missing, open to others, or not what it should be.
    pub fn check(&self) -> anyhow::Result<()> {
        crate::connect::addresses(&self.nats_url)?;
        if let Some(path) = &self.creds {
            let text = crate::keys::read_secret(path)?;
            crate::connect::parse_creds(&text).with_context(|| format!("{} is no credentials file", path.display()))?;
        }
        if let Some(path) = &self.ca {
            crate::tls::client(Some(path))?;
        }
        Ok(())
    }

    pub fn timings(&self) -> Timings {
        Timings::divided(self.time_divisor)
    }
}
