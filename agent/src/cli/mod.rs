//! The `mesh` command line.
//!
//! In: arguments, and the context that says which network, as whom. Out: data on stdout, everything else on stderr, and an
//! exit code that scripts may rely on. `args` is the tree of commands; `output` and `failure` are the contract of what is
//! printed; `context` and `client` find and ask the network; the other files are one noun each.
//!
//! It asks the network through NATS like any other client of the member. Nothing here decides about jobs or credit, and no
//! command but `init`, `context` and `dev` changes a setting.

pub mod args;
pub mod bench;
pub mod blob;
pub mod client;
pub mod consent;
pub mod context;
pub mod credit;
pub mod device;
pub mod dlq;
pub mod doctor;
pub mod duration;
pub mod failure;
pub mod job;
pub mod joining;
pub mod meta;
mod network;
pub mod node;
pub mod operator;
pub mod output;
pub mod owner;
mod parts;
pub mod people;
pub mod sign;
mod usage;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use failure::{Done, Failure};
use output::Output;

/// Parses the arguments, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage::fail(&error)),
    };
    let output = Output::new(&cli.global);
    // The command's own words are on stdout and stderr; logs are for whoever asks with -v or MESH_LOG.
    let is_agent = matches!(&cli.command, Command::Start(start) if !start.detach);
    let level = match cli.global.verbose {
        _ if cli.global.quiet => "error",
        0 if is_agent => "info",
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    let folder = is_agent.then(|| device::home_folder().map(|home| home.join("logs"))).flatten();
    let _logs = bus::telemetry::logs("mesh", folder.as_deref(), level);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ExitCode::from(output.fail(&Failure::ours(format!("no runtime: {error}")))),
    };
    let code = match runtime.block_on(run(&cli, &output)) {
        Ok(done) => done.code(),
        Err(failure) => output.fail(&helped(failure, &cli.command, std::env::args_os())),
    };
    let code = output.end(code);
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(cli: &Cli, output: &Output) -> Done {
    match &cli.command {
        Command::Dev(args) => crate::dev::run(args, output).await,
        Command::Hub(command) => crate::hub::run(command, output).await,
        Command::Init(args) => device::init(args, output).await,
        Command::Start(args) => device::start(args, output).await,
        Command::Stop(args) => owner::stop(args, output).await,
        Command::Pause(args) => owner::pause(args, output).await,
        Command::Resume => owner::resume(output).await,
        Command::Consent(command) => consent::run(command, output),
        Command::Status(args) => device::status(cli, args, output).await,
        Command::Metrics => device::metrics(output).await,
        Command::Doctor(args) => doctor::run(cli, args, output).await,
        Command::Node(args) => node::run(cli, args, output).await,
        Command::Job(args) => job::run(cli, args, output).await,
        Command::Dlq(command) => dlq::run(cli, command, output).await,
        Command::Blob(args) => blob::run(cli, args, output).await,
        Command::Credit(args) => credit::run(cli, args, output).await,
        Command::Network(args) => network::run(cli, args, output).await,
        Command::Context(args) => context::run(cli, args, output),
        Command::Sign(args) => sign::run(cli, args, output),
        Command::Bench(args) => bench::run(cli, args, output).await,
        Command::Completion(args) => meta::completion(args, output),
        Command::Explain(args) => meta::explain(args, output),
        Command::Version => meta::version(output),
        Command::DevGuard(args) => {
            crate::dev::guard::run(args);
            Ok(failure::End::Fine)
        }
    }
}

/// Where all that is known to do next is about job files and the command is about none, its own help says more.
fn helped(failure: Failure, command: &Command, words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Failure {
    let about_jobs = ["mesh job submit --dry-run FILE", "mesh job run echo --text hello", "mesh --help"].contains(&failure.code().next());
    if !about_jobs || !failure.next.is_empty() || matches!(command, Command::Job(_) | Command::Sign(_)) {
        return failure;
    }
    match Cli::command().try_get_matches_from(words) {
        Ok(matches) => failure.next(format!("{} --help", path_of(&matches))),
        Err(_) => failure,
    }
}

/// The command that was understood, without what it was given: `mesh credit transfer`.
fn path_of(matches: &clap::ArgMatches) -> String {
    let (mut matches, mut path) = (matches, String::from("mesh"));
    while let Some((name, sub)) = matches.subcommand() {
        path = format!("{path} {name}");
        matches = sub;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_next_is_about_the_command() {
        use bus_schemas::Code;
        let history = "mesh -o json -c dev credit history --cursor job";
        let transfer = "mesh credit transfer mem_a 1 --note mesh";
        for (words, code, next) in [
            (history, Code::BadValue, "mesh credit history --help"),
            (transfer, Code::WrongType, "mesh credit transfer --help"),
            (transfer, Code::TooLittleMana, "mesh credit balance"),
            ("mesh node show x", Code::NoSuchDevice, "mesh node ls"),
            ("mesh coop policy show", Code::NotFound, "mesh network policy show --help"),
            ("mesh bench latency --kind x", Code::UnknownKind, "mesh bench latency --help"),
            ("mesh job run echo --text a", Code::BadValue, "mesh job submit --dry-run FILE"),
            ("mesh sign job.json", Code::NotJson, "mesh job submit --dry-run FILE"),
        ] {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            let cli = Cli::try_parse_from(&words).unwrap();
            assert_eq!(helped(Failure::new(code, ""), &cli.command, &words).body().next, [next], "{words:?}");
            let own = Failure::new(code, "").next("mesh status");
            assert_eq!(helped(own.clone(), &cli.command, &words), own);
        }
    }
}
