//! `mesh-ledger`.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use bus::connect::Connect;
use bus::direct::ReadError;
use bus::{Bus, Health};
use bus_schemas::{Code, Problem};
use clap::{CommandFactory, Parser};
use ledger_worker::run::Worker;
use ledger_worker::settings::{API_PREFIX, Cli, Command, Output, Rebuild, Reseed, Run, Settings, Verify};
use ledger_worker::{rebuild, reseed, verify};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match &cli.command {
        Some(Command::Run(_)) => "info",
        // Long work tells how far it is.
        Some(Command::Rebuild(_)) => "warn,ledger_worker=info",
        _ => "warn",
    };
    let _logs = bus::telemetry::logs("mesh-ledger", None, level);
    let done = match &cli.command {
        command if cli.check_config => check_config(&cli.settings, command.as_ref()),
        Some(Command::Run(how)) => run(&cli.settings, how).await.map(|()| ExitCode::SUCCESS),
        Some(Command::Verify(how)) => run_verify(&cli.settings, how).await,
        Some(Command::Reseed(how)) => run_reseed(&cli.settings, how).await.map(|()| ExitCode::SUCCESS),
        Some(Command::Rebuild(how)) => run_rebuild(&cli.settings, how).await.map(|()| ExitCode::SUCCESS),
        Some(Command::Migrate) => migrate(&cli.settings).await.map(|()| ExitCode::SUCCESS),
        None => {
            let _ = Cli::command().print_help();
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        if let Some(Command::Verify(Verify { output: Output::Json, .. })) = &cli.command {
            // Whoever reads JSON reads an error as JSON, too; where even that cannot be written, the exit code says enough.
            let _ = serde_json::to_string(&problem_of(&error).body()).map(|body| say(&body));
            return ExitCode::FAILURE;
        }
        eprintln!("mesh-ledger: {error:#}");
        ExitCode::FAILURE
    })
}

/// What each command needs, and nothing else.
fn check_config(settings: &Settings, command: Option<&Command>) -> anyhow::Result<ExitCode> {
    let network = || settings.network().map(|network| format!("network {}", network.network));
    let about = match command {
        Some(Command::Run(_)) | None => {
            let network = settings.network()?;
            settings.signer(&network)?;
            settings.store()?;
            format!("network {}", network.network)
        }
        Some(Command::Verify(_)) => {
            settings.database_url.is_some().then(|| settings.store()).transpose()?;
            network()?
        }
        Some(Command::Rebuild(_)) => {
            settings.store()?;
            network()?
        }
        Some(Command::Reseed(_) | Command::Migrate) => {
            settings.store()?;
            "the database's address".to_owned()
        }
    };
    settings.bus.check()?;
    say(&format!("ok: {about}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(settings: &Settings, how: &Run) -> anyhow::Result<()> {
    let network = settings.network()?;
    let signer = settings.signer(&network)?;
    let store = settings.store()?;
    let stop = bus::shutdown::on_signal()?;
    let health = Health::default();
    for part in ["nats", "postgres", "ledger"] {
        health.set(part, Err("starting".into()));
    }
    let metrics = bus::telemetry::metrics("mesh-ledger", env!("CARGO_PKG_VERSION"))?;
    if let Some(address) = settings.http {
        bus::health::serve(address, bus::health::routes(health.clone(), metrics), stop.clone()).await?;
    }
    let instance = bus::keys::random_hex::<6>()?;
    let connect = Connect::new(&settings.bus, &format!("mesh-ledger {instance}"), "_INBOX.ledger");
    let worker = Worker {
        bus: Bus::connect(connect, &health).await?,
        store,
        network,
        signer,
        instance: instance.parse()?,
        timings: settings.bus.timings(),
        time_divisor: settings.bus.time_divisor,
        remember: Duration::from_secs(how.remember),
        health,
    };
    tracing::info!(instance, network = %worker.network.network, "mesh-ledger {} started", env!("CARGO_PKG_VERSION"));
    worker.run(stop).await
}

/// An error with its code, as every door gives one.
fn problem_of(error: &anyhow::Error) -> Problem {
    let coded = error.chain().find_map(|cause| cause.downcast_ref::<Problem>()).cloned();
    coded.unwrap_or_else(|| Problem::new(Code::Unavailable, format!("{error:#}")))
}

async fn run_verify(settings: &Settings, how: &Verify) -> anyhow::Result<ExitCode> {
    let told = |code: Code| move |error: anyhow::Error| anyhow::Error::new(Problem::new(code, format!("{error:#}")));
    let network = settings.network().map_err(told(Code::Usage))?;
    let store = settings.database_url.is_some().then(|| settings.store()).transpose().map_err(told(Code::Usage))?;
    let connect = Connect::new(&settings.bus, "mesh-ledger verify", &how.inbox_prefix);
    let bus = Bus::connect(connect, &Health::default()).await.map_err(told(Code::Unreachable))?.with_api_prefix(&how.api_prefix);
    // A login that may not ask like this is told nothing: it only hears no answer.
    let unread = |error: anyhow::Error| match error.downcast_ref::<ReadError>() {
        Some(ReadError::TimedOut(_)) if how.api_prefix == API_PREFIX => error.context(UNREAD),
        _ => error,
    };
    let report = verify::verify(&bus, &network, store.as_ref()).await.map_err(unread)?;
    match how.output {
        Output::Json => say(&serde_json::to_string(&report)?)?,
        Output::Human => say(&report.text())?,
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const UNREAD: &str = "LEDGER could not be read (next: with an auditor's credentials add \
    --api-prefix mesh.v1.audit --inbox-prefix _INBOX.auditor; is the hub up?)";

async fn run_reseed(settings: &Settings, how: &Reseed) -> anyhow::Result<()> {
    let store = settings.store()?;
    let connect = Connect::new(&settings.bus, "mesh-ledger reseed", &how.inbox_prefix);
    let bus = Bus::connect(connect, &Health::default()).await?;
    let done = reseed::reseed(&bus, &store, how.replicas).await?;
    let made = if done.made { "LEDGER was made anew; " } else { "" };
    say(&format!("{made}{} messages were there and are the same, {} were stored again", done.compared, done.published))
}

async fn run_rebuild(settings: &Settings, how: &Rebuild) -> anyhow::Result<()> {
    let (network, store) = (settings.network()?, settings.store()?);
    let bus = Bus::connect(Connect::new(&settings.bus, "mesh-ledger rebuild", "_INBOX.ledger"), &Health::default()).await?;
    let began = Instant::now();
    let done = rebuild::rebuild(&bus, &network, &store, how.discard_facts).await?;
    let digest: String = done.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let took = began.elapsed().as_secs_f64();
    say(&format!("rebuilt {} facts up to sequence {} in {took:.1} s\n  digest  {digest}", done.facts, done.seq))
}

async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let applied = settings.store()?.migrate().await?;
    match applied.as_slice() {
        [] => say("the schema is up to date"),
        applied => applied.iter().try_for_each(|migration| say(&format!("applied {migration}"))),
    }
}

/// Writes a line for whoever asked. Who closes the pipe has read enough.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("the answer cannot be written"),
        Ok(()) | Err(_) => Ok(()),
    }
}
