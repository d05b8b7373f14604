//! Commands about members.

use std::path::PathBuf;
use std::time::Duration;

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

#[derive(Debug, Args)]
pub struct InviteArgs {
    /// admin, auditor, member or guest.
    #[arg(long, default_value = "member")]
    pub role: Role,
    /// For another device of yours; it needs your member's key: mesh init --join INVITE --member-key FILE.
    #[arg(long, conflicts_with = "role")]
    pub device: bool,
    /// How many it lets in, at most 1000.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub uses: u32,
    /// How long it holds: 30m, 1h, 7d; at most 90 days.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::cli::duration::some)]
    pub expires: Duration,
    /// Whoever comes waits until an admin says yes.
    #[arg(long)]
    pub approve: bool,
    /// As the operator; otherwise with the context's key, or as the member.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum InvitesCommand {
    /// Yours, or all of them for admins, auditors and the operator; newest first.
    #[command(before_help = "  mesh network invites ls\n  mesh network invites ls -o json")]
    Ls {
        /// As the operator; otherwise with the context's key, or as the member.
        #[arg(long, value_name = "FILE")]
        network_key: Option<PathBuf>,
    },
    /// It lets nobody in any more, nor those who wait by it; who came in stays.
    #[command(before_help = "  mesh network invites revoke inv_0a1b2c3d4e5f\n  mesh network invites revoke inv_0a1b2c3d4e5f -o json")]
    Revoke {
        /// Its id, as `mesh network invites ls` shows it.
        invite: String,
        /// As the operator; otherwise with the context's key, or as the member.
        #[arg(long, value_name = "FILE")]
        network_key: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ApprovalsCommand {
    /// Oldest first; for admins, auditors and the operator.
    #[command(before_help = "  mesh network approvals ls\n  mesh network approvals ls -o json")]
    Ls {
        /// As the operator; otherwise with the context's key, or as the member.
        #[arg(long, value_name = "FILE")]
        network_key: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// Its id, or at least the first 12 characters of it.
    pub id: String,
    /// As the operator; otherwise with the context's key, or as the member.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DenyArgs {
    /// Its id, or at least the first 12 characters of it.
    pub id: String,
    /// Why; told to whoever is refused.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// As the operator; otherwise with the context's key, or as the member.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}
