//! `mesh-gateway`: the doors of a network, and what makes one.

use std::process::ExitCode;

use clap::Parser;
use gateway::bootstrap::{self, Bootstrap};

#[derive(Debug, Parser)]
#[command(name = "mesh-gateway", version, about = "The doors of a Mesh network", propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes a network: first its files, then, on a running hub, its streams.
    #[command(subcommand)]
    Bootstrap(Box<Bootstrap>),
    /// Lets the hub refuse who was revoked, until it is told to stop; one a network, beside its keys.
    Revoker(Box<gateway::revoker::Settings>),
    /// Opens the doors until it is told to stop.
    Run(Box<gateway::run::Settings>),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Bootstrap(command) => {
            let _logs = bus::telemetry::logs("mesh-gateway", None, "warn");
            bootstrap::run(&command).await
        }
        Command::Revoker(settings) => {
            let _logs = bus::telemetry::logs("mesh-revoker", None, "info");
            gateway::revoker::run(*settings).await
        }
        Command::Run(settings) => {
            let _logs = bus::telemetry::logs("mesh-gateway", None, "info");
            gateway::run::run(*settings).await
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("{}", if text.starts_with("error[") { text } else { format!("error: {text}") });
            ExitCode::FAILURE
        }
    }
}
