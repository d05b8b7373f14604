//! The commands of `mesh credit` and `mesh network`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum CreditCommand {
    /// What you have.
    Balance,
    /// What came and went.
    History {
        /// How many lines, at most 200.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200), allow_negative_numbers = true)]
        limit: u32,
        /// Where the last list ended.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Give credit to another member.
    #[command(
        before_help = "  mesh credit transfer mem_... 12.5 --note \"for the GPU hours\"\n  mesh credit transfer mem_... 12.5 --key rent-2026-11"
    )]
    Transfer(TransferArgs),
    /// Every movement, for a spreadsheet or a program.
    #[command(before_help = "  mesh credit export > statement.csv\n  mesh credit export --format jsonl --since 2026-11-01")]
    Export(ExportArgs),
    /// Replay the ledger and check that it all adds up.
    #[command(before_help = "  mesh credit verify\n  mesh credit verify -o json")]
    Verify,
    /// Prove that a job's pay stands in the books; checked on this machine.
    #[command(before_help = "  mesh credit proof rcp_wk7f\n  mesh credit proof job_g2dd -o json")]
    Proof {
        /// A receipt (rcp_…) or a job (job_…): full id or short one.
        #[arg(value_name = "RECEIPT|JOB")]
        id: String,
    },
    /// Give new credit to a member; the operator's.
    #[command(
        before_help = "  mesh credit grant mem_... 100 --reason \"joined the lab\"\n  mesh credit grant mem_... 100 --reason welcome --network-key network.key"
    )]
    Grant(GrantArgs),
}

#[derive(Debug, Args)]
pub struct TransferArgs {
    /// A member: mem_… or did:key:….
    pub to: String,
    /// In mana.
    #[arg(allow_hyphen_values = true)]
    pub amount: String,
    /// What for; it stays in the ledger for ever, and whoever may read the books can read it, not only you two.
    #[arg(long)]
    pub note: Option<String>,
    /// The same key moves credit once, however often it is sent.
    #[arg(long)]
    pub key: Option<String>,
}

#[derive(Debug, Args)]
pub struct GrantArgs {
    /// A member: mem_… or did:key:….
    pub member: String,
    /// In mana.
    #[arg(allow_hyphen_values = true)]
    pub amount: String,
    /// Why; it stays in the ledger for ever, and whoever may read the books can read it.
    #[arg(long, value_parser = said)]
    pub reason: String,
    /// The same key grants once to a member, however often it is sent; other members under it are other grants.
    #[arg(long)]
    pub key: Option<String>,
    /// The network's key; otherwise that of the context.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}

/// What somebody has to say in words.
fn said(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("say why, in a few words".into()) } else { Ok(text.to_owned()) }
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// csv opens in a spreadsheet; as -o says otherwise, and csv where it says nothing.
    #[arg(long, value_enum)]
    pub format: Option<ExportFormat>,
    /// Only from then on: a day, or a time such as 2026-11-01T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    Csv,
    Json,
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// The signed network document.
    #[command(before_help = "  mesh network show\n  mesh network show -o json")]
    Show,
    /// The rules by which credit moves.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Its members: who they are, what they may do, who may no longer.
    #[command(subcommand)]
    Members(super::MembersCommand),
    /// Who did what to others, newest first; for admins, auditors and the operator.
    #[command(before_help = "  mesh network audit\n  mesh network audit --limit 100 -o json")]
    Audit(super::AuditArgs),
    /// One line that lets somebody in; it is shown once.
    #[command(before_help = "  mesh network invite                                  one member with a device, within the hour\n  \
                       mesh network invite --role guest --uses 20 --expires 7d\n  \
                       mesh network invite --approve                        it waits until an admin says yes\n  \
                       mesh network invite --device                         another machine of yours")]
    Invite(super::InviteArgs),
    /// The invites there are.
    #[command(subcommand)]
    Invites(super::InvitesCommand),
    /// Who waits for approval.
    #[command(subcommand)]
    Approvals(super::ApprovalsCommand),
    /// Let in one that waits; an admin's or the operator's.
    #[command(before_help = "  mesh network approvals ls\n  mesh network approve dev_wk7fa2c4")]
    Approve(super::ApproveArgs),
    /// Refuse one that waits; an admin's or the operator's.
    #[command(
        before_help = "  mesh network deny dev_wk7fa2c4\n  mesh network deny dev_wk7fa2c4 --reason \"nobody here knows this machine\""
    )]
    Deny(super::DenyArgs),
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// The rules in force.
    #[command(before_help = "  mesh network policy show\n  mesh network policy show -o json")]
    Show,
    /// Put other rules in force; the operator's.
    #[command(
        before_help = "  mesh network policy show -o json | jq '.rules | del(.version)' > rules.json\n  mesh network policy set rules.json --dry-run"
    )]
    Set {
        /// The rules in JSON, as `policy show -o json` gives them under `rules`, without `version` or with the next one; `-` is stdin.
        file: PathBuf,
        /// Say what would change; change nothing.
        #[arg(long)]
        dry_run: bool,
        /// The network's key; otherwise that of the context.
        #[arg(long, value_name = "FILE")]
        network_key: Option<PathBuf>,
    },
}
