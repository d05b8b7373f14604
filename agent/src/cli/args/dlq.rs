//! The commands of `mesh dlq`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// What failed for good, newest first.
    #[command(before_help = "  mesh dlq ls\n  mesh dlq ls --all --network-key network.key")]
    Ls(DlqLsArgs),
    /// One dead letter, with how each attempt ended.
    #[command(before_help = "  mesh dlq show dlq_7f3kq2ab\n  mesh dlq show dlq_7f3k -o json")]
    Show(LetterArgs),
    /// Try what it is about again: a failed job as a new job, a submission as it was sent.
    #[command(before_help = "  mesh dlq retry dlq_7f3kq2ab\n  mesh dlq retry dlq_7f3kq2ab --all")]
    Retry(LetterArgs),
    /// Put it away; the operator's.
    #[command(before_help = "  mesh dlq drop dlq_7f3kq2ab\n  mesh dlq drop dlq_7f3kq2ab --network-key network.key")]
    Drop(DropArgs),
}

#[derive(Debug, Args)]
pub struct DlqLsArgs {
    /// How many, at most 200.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200), allow_negative_numbers = true)]
    pub limit: u32,
    /// Where the last list ended.
    #[arg(long)]
    pub cursor: Option<String>,
    #[command(flatten)]
    pub operator: AsOperator,
}

#[derive(Debug, Args)]
pub struct LetterArgs {
    /// Its id, `dlq_…`, or a unique prefix of either; or the id of the job that failed.
    pub id: String,
    #[command(flatten)]
    pub operator: AsOperator,
}

#[derive(Debug, Args)]
pub struct DropArgs {
    /// Its id, `dlq_…`, or a unique prefix of either; or the id of the job that failed.
    pub id: String,
    /// The network's key; otherwise that of the context.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct AsOperator {
    /// As the operator: everybody's, and what is nobody's.
    #[arg(long)]
    pub all: bool,
    /// The network's key, for --all; otherwise that of the context.
    #[arg(long, value_name = "FILE", requires = "all")]
    pub network_key: Option<PathBuf>,
}
