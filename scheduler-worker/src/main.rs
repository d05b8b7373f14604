//! `mesh-scheduler`: turns jobs into assignments and keeps their leases.

use anyhow::Context;
use bus::connect::Connect;
use bus::{Bus, Health};
use clap::{Parser, Subcommand};
use scheduler_worker::config::Args;

/// The scheduler of a Mesh network.
#[derive(Parser)]
#[command(name = "mesh-scheduler", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}
#[derive(Subcommand)]
enum Command {
    /// Takes jobs until it is told to stop (SIGTERM: what can end within five seconds ends, the rest is given back).
    Run(Box<Args>),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Command::Run(args) = Cli::parse().command;
    let _logs = bus::telemetry::logs("mesh-scheduler", None, "info");
    let config = args.check()?;
    if args.check_config {
        args.bus.check()?;
        println!("ok: network {} ({}), at {}", config.network.name, config.network.network, args.bus.nats_url);
        return Ok(());
    }
    let stop = bus::shutdown::on_signal()?;
    let health = Health::default();
    let metrics = bus::telemetry::metrics("mesh-scheduler", env!("CARGO_PKG_VERSION"))?;
    if let Some(address) = args.http {
        let bound = bus::health::serve(address, bus::health::routes(health.clone(), metrics), stop.clone()).await?;
        tracing::info!(%bound, "serving metrics");
    }
    health.set("jobs", Err("not pulling yet".into()));
    let bus = Bus::connect(Connect::new(&args.bus, "mesh-scheduler", "_INBOX.scheduler"), &health).await?;
    scheduler_worker::run::run(bus, config, health, stop).await.context("the scheduler stopped")
}
