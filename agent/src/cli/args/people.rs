//! Commands about members.

use std::path::PathBuf;

use bus_schemas::network::Role;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum MembersCommand {
    /// All members; for admins, auditors and the operator.
    #[command(before_help = "  mesh network members ls\n  mesh network members ls -o json")]
    Ls {
        /// As the operator; otherwise with the context's key, or as the member.
        #[arg(long, value_name = "FILE")]
        network_key: Option<PathBuf>,
    },
    /// Let a member submit nothing and its devices take nothing new, until it is restored; an admin's or the operator's.
    #[command(
        before_help = "  mesh network members suspend mem_a2c4 --reason \"left the lab\"\n  mesh network members suspend mem_a2c4 -o json"
    )]
    Suspend(SuspendArgs),
    /// Let a suspended member come back.
    #[command(
        before_help = "  mesh network members restore mem_a2c4\n  mesh network members restore mem_a2c4 --reason \"back from leave\""
    )]
    Restore(BarArgs),
    /// Say what a member may do to others; an admin's or the operator's.
    #[command(
        before_help = "  mesh network members role mem_a2c4 auditor\n  mesh network members role mem_a2c4 admin --network-key network.key"
    )]
    Role(RoleArgs),
}

#[derive(Debug, Args)]
pub struct BarArgs {
    /// Its id.
    pub member: String,
    /// Why; it stands in the books.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// As the operator; otherwise with the context's key, or as the member.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct SuspendArgs {
    #[command(flatten)]
    pub bar: BarArgs,
    /// End the logins of its devices at once: what they have goes elsewhere. Otherwise they end it, and are paid.
    #[arg(long)]
    pub now: bool,
}

#[derive(Debug, Args)]
pub struct RoleArgs {
    /// Its id.
    pub member: String,
    /// owner, admin, auditor, member or guest.
    pub role: Role,
    /// As the operator; otherwise with the context's key, or as the member.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// How many, at most 200.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub limit: u32,
    /// Where the last list ended.
    #[arg(long)]
    pub cursor: Option<String>,
    /// As the operator; otherwise with the context's key, or as the member.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}
