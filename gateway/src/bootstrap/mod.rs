//! Makes a network before anything of it runs, and is then gone: it alone holds the operator's and CONTROL's keys.
//!
//! `files` makes the network's folder: keys, account tokens, credentials, hub configuration, network document. `streams` makes
//! or compares what lives in the hub: streams, consumers, buckets, and the genesis fact. Both may be run again at any time and say what
//! they changed. `roles` is the table of permissions, `accounts` what crosses between accounts, `nodes` where each node of the hub is, `hub_conf` its file,
//! `tls` its certificates, `host` a hub that several networks share.
//!
//! Not here: revocations (the revoker is their only writer), and anything that runs on.

pub mod accounts;
pub mod files;
pub mod host;
pub mod hub_conf;
pub mod net_dir;
pub mod nodes;
pub mod roles;
pub mod streams;
pub mod tls;

use std::io::Write as _;

use net_dir::Change;

/// `mesh-gateway bootstrap …`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Bootstrap {
    /// Makes keys, tokens, credentials and the hub's configuration; never overwrites a key.
    Files {
        #[command(flatten)]
        args: Box<files::FilesArgs>,
        #[command(flatten)]
        output: Output,
    },
    /// Makes or compares streams, consumers and buckets on a running hub, and writes the first fact.
    Streams {
        #[command(flatten)]
        args: streams::StreamsArgs,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Output {
    /// How to print what was changed.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Human)]
    pub format: Format,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Human,
    Json,
}

/// # Errors
/// What [`files::files`] and [`streams::streams`] find.
pub async fn run(command: &Bootstrap) -> anyhow::Result<()> {
    match command {
        Bootstrap::Files { args, output } => print(*output, &files::files(args, bus::hub_time::here_ms() / 1000)?),
        Bootstrap::Streams { args, output } => print(*output, &streams::streams(args).await?),
    }
}

/// One line per change, or one JSON object `{"changed":[{"what":…,"how":…}]}`.
fn print(output: Output, changes: &[Change]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match output.format {
        Format::Json => writeln!(out, "{}", serde_json::json!({ "changed": changes }))?,
        Format::Human if changes.is_empty() => writeln!(out, "nothing to change")?,
        Format::Human => {
            for change in changes {
                writeln!(out, "{}: {}", change.what, change.how)?;
            }
        }
    }
    Ok(())
}
