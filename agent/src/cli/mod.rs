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
pub mod context;
pub mod credit;
pub mod device;
pub mod doctor;
pub mod duration;
pub mod failure;
pub mod job;
pub mod meta;
pub mod network;
pub mod node;
pub mod output;
pub mod sign;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use failure::{Done, Failure};
use output::{Format, Output};

/// Parses the arguments, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error)),
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
        Err(failure) => output.fail(&failure),
    };
    let code = output.end(code);
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(cli: &Cli, output: &Output) -> Done {
    match &cli.command {
        Command::Dev(args) => crate::dev::run(args, output).await,
        Command::Init(args) => device::init(args, output).await,
        Command::Start(args) => device::start(args, output).await,
        Command::Stop(args) => device::stop(args, output).await,
        Command::Status(args) => device::status(cli, args, output).await,
        Command::Metrics => device::metrics(output).await,
        Command::Doctor(args) => doctor::run(cli, args, output).await,
        Command::Node(args) => node::run(cli, args, output).await,
        Command::Job(args) => job::run(cli, args, output).await,
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

/// What clap refuses, in the shape of every other error. Help and version are no errors.
fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        let _ = error.print();
        return 0;
    }
    let words: Vec<String> = std::env::args().collect();
    let format = Format::from_words(&words);
    if format == Format::Human {
        // The text is clap's, with how to use the command; the code is ours, as everywhere.
        let text = error.render().ansi().to_string().replacen("error:", &format!("error[{}]:", bus_schemas::Code::Usage), 1);
        let _ = write!(anstream::stderr().lock(), "{text}");
        return 2;
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Output::plain(format).fail(&Failure::new(bus_schemas::Code::Usage, first).next(help_of(&words)))
}

/// The command that explains the one in these words, such as `mesh job ls --help`.
fn help_of(words: &[String]) -> String {
    let (mut command, mut path) = (Cli::command(), String::from("mesh"));
    for word in words.iter().skip(1).filter(|word| !word.starts_with('-')) {
        let Some(sub) = command.find_subcommand(word).cloned() else { break };
        path = format!("{path} {}", sub.get_name());
        command = sub;
    }
    format!("{path} --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_that_of_the_command() {
        for (words, help) in [
            ("mesh", "mesh --help"),
            ("mesh frobnicate", "mesh --help"),
            ("mesh job ls --state Done", "mesh job ls --help"),
            ("mesh -o json job run echo job", "mesh --help"),
            ("mesh job run echo --label a -o json", "mesh job run --help"),
        ] {
            assert_eq!(help_of(&words.split(' ').map(str::to_owned).collect::<Vec<_>>()), help, "{words}");
        }
    }
}
