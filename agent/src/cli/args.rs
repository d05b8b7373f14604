//! The tree of commands. Same verbs and same flags mean the same everywhere; the same words name the API's subjects.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub mod consent;
mod credit;
mod dlq;
mod people;

use super::duration;
use super::output::{Color, Format};
pub use consent::ConsentCommand;
pub use credit::{CreditCommand, ExportArgs, ExportFormat, GrantArgs, NetworkCommand, PolicyCommand, TransferArgs};
pub use dlq::{DlqCommand, DlqLsArgs, LetterArgs};
pub use people::{
    ApprovalsCommand, ApproveArgs, AuditArgs, BarArgs, DenyArgs, InviteArgs, InvitesCommand, MembersCommand, RoleArgs, SuspendArgs,
};

/// Pool the computers of a co-op, a lab or a company: submit jobs, lend a device, check every credit.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, propagate_version = true, max_term_width = 120)]
#[command(before_help = "  mesh dev                                    a whole network on this machine\n  \
                         mesh job run embed --text \"hello mesh\"      run a job and see its result")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// How data is printed on stdout.
    #[arg(short = 'o', long = "output", global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Which network, as whom: a name of `mesh context ls`, or a file.
    #[arg(short = 'c', long, global = true, env = "MESH_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    /// No progress and no hints.
    #[arg(short = 'q', long, global = true)]
    pub quiet: bool,
    /// More about what happens; twice for everything.
    #[arg(short = 'v', long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to colour.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub color: Color,
    /// Never ask a question.
    #[arg(long, global = true)]
    pub no_input: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// A whole network on this machine: hub, Postgres, gateway, schedulers, ledger, devices.
    Dev(crate::dev::DevArgs),
    /// A network for other machines: its hub and all that belongs to it, with data kept.
    #[command(subcommand)]
    Hub(crate::hub::HubCommand),
    /// Make this machine a device of a network. Safe to run again; never overwrites a key.
    Init(InitArgs),
    /// Run this device's agent.
    Start(StartArgs),
    /// Stop this device's agent.
    Stop(StopArgs),
    /// Take no work on this device, at once.
    Pause(PauseArgs),
    /// Take work on this device again.
    #[command(before_help = "  mesh resume\n  mesh resume -o json")]
    Resume,
    /// What this device takes: kinds, members, data classes, models. Its owner's word, and it counts at once.
    #[command(subcommand)]
    Consent(ConsentCommand),
    /// This device and its network.
    Status(StatusArgs),
    /// Counters of this device, as Prometheus reads them.
    #[command(before_help = "  mesh metrics\n  mesh metrics -o json")]
    Metrics,
    /// Look for what is wrong; changes nothing.
    #[command(alias = "netcheck")]
    Doctor(DoctorArgs),
    /// The devices of the network.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Jobs: run, follow, explain, check.
    Job(Box<JobArgs>),
    /// What failed for good: look, try again, put away.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Content by its hash.
    #[command(subcommand)]
    Blob(BlobCommand),
    /// Credit: balances, movements, and whether the books add up.
    #[command(subcommand)]
    Credit(CreditCommand),
    /// Who speaks for the network, and by which rules credit moves.
    #[command(subcommand, alias = "coop")]
    Network(NetworkCommand),
    /// Which network, as whom.
    #[command(subcommand)]
    Context(ContextCommand),
    /// Sign a job file; prints the three headers for `nats pub`.
    Sign(SignArgs),
    /// How fast is this network?
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Completions for a shell.
    Completion(CompletionArgs),
    /// What an error code means, and what to do.
    Explain(ExplainArgs),
    /// Version and build of this program.
    #[command(before_help = "  mesh version\n  mesh version -o json")]
    Version,
    /// Stops what a killed `mesh dev` left; started by `mesh dev` itself.
    #[command(hide = true)]
    DevGuard(crate::dev::guard::GuardArgs),
}

#[derive(Debug, Args)]
#[command(before_help = "  mesh init --join mesh1.eyJ…        join with an invite\n  mesh init --join INVITE --name lab-3")]
pub struct InitArgs {
    /// The invite: one line that begins with `mesh1.`.
    #[arg(long, value_name = "INVITE")]
    pub join: Option<String>,
    /// What others call this device; the host's name otherwise.
    #[arg(long)]
    pub name: Option<String>,
    /// Join as the member whose key this is (keys/member.key of another device of yours); otherwise as a new one.
    #[arg(long, value_name = "FILE", requires = "join")]
    pub member_key: Option<PathBuf>,
    /// Join as a member that lends no device, such as a guest.
    #[arg(long, requires = "join")]
    pub no_device: bool,
}

#[derive(Debug, Args)]
#[command(before_help = "  mesh start              in the foreground\n  mesh start --detach     in the background")]
pub struct StartArgs {
    /// Return once it runs; it goes on by itself.
    #[arg(long)]
    pub detach: bool,
}

#[derive(Debug, Args)]
#[command(before_help = "  mesh stop           lets running work end\n  mesh stop --now     gives it back")]
pub struct StopArgs {
    /// Do not wait for running work.
    #[arg(long)]
    pub now: bool,
}

#[derive(Debug, Args)]
#[command(
    before_help = "  mesh pause                            until mesh resume; running work goes to other devices\n  mesh pause --for 2h --reason \"in use\""
)]
pub struct PauseArgs {
    /// Take work again after this long.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::pause, allow_hyphen_values = true)]
    pub duration: Option<Duration>,
    /// Why; it is told to those whose jobs wait.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(before_help = "  mesh status\n  mesh status --watch")]
pub struct StatusArgs {
    /// Look again every two seconds.
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
#[command(before_help = "  mesh doctor\n  mesh doctor --only net,tools")]
pub struct DoctorArgs {
    /// Only these groups: device, tools, net.
    #[arg(long, value_delimiter = ',', value_name = "GROUPS")]
    pub only: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// All devices.
    #[command(before_help = "  mesh node ls\n  mesh node ls -o json")]
    Ls,
    /// One device.
    #[command(before_help = "  mesh node show laptop-a\n  mesh node show dev_wk7f")]
    Show {
        /// Its id, a unique prefix of it, or its name.
        device: String,
    },
    /// Let a device end what it has and take nothing new; its owner's or the operator's.
    #[command(before_help = "  mesh node drain laptop-a --reason \"new disk\"\n  mesh node drain laptop-a --undo")]
    Drain(DrainArgs),
    /// End a device's logins for ever; its work goes elsewhere at once. Its owner's, an admin's or the operator's.
    #[command(before_help = "  mesh node revoke laptop-a --reason stolen\n  mesh node revoke dev_wk7f --network-key network.key")]
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Its id, a unique prefix of it, or its name.
    pub device: String,
    /// Why; it stands in the audit log.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// As the operator, with the network's key; otherwise as its owner, or with the context's key where the device is another's.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Its id, a unique prefix of it, or its name.
    pub device: String,
    /// It takes work again.
    #[arg(long, conflicts_with = "reason")]
    pub undo: bool,
    /// Why; it is told to those whose jobs wait.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// As the operator, with the network's key; otherwise as its owner, or with the context's key where the device is another's.
    #[arg(long, value_name = "FILE")]
    pub network_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_required = false, arg_required_else_help = true)]
#[command(before_help = "  mesh job run embed --file notes.txt\n  mesh job --workload embed --input \"Hello\"")]
pub struct JobArgs {
    #[command(subcommand)]
    pub command: Option<JobCommand>,
    /// Same as `mesh job run KIND`.
    #[arg(long, value_name = "KIND", requires = "input")]
    pub workload: Option<String>,
    /// Same as `--text`.
    #[arg(long, value_name = "TEXT", requires = "workload")]
    pub input: Vec<String>,
    #[command(flatten)]
    pub options: JobOptions,
}

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job and wait for its result.
    #[command(before_help = "  mesh job run echo --text hello\n  mesh job run embed --file notes.txt --max-mana 5")]
    Run(SubmitArgs),
    /// Submit a job and return.
    #[command(before_help = "  mesh job submit job.json\n  mesh job submit embed --text \"hello mesh\"")]
    Submit(SubmitArgs),
    /// Your jobs, newest first.
    #[command(before_help = "  mesh job ls\n  mesh job ls --state Failed --limit 100")]
    Ls(LsArgs),
    /// One job.
    #[command(before_help = "  mesh job show job_7f3kq2ab\n  mesh job show job_7f3k -o json")]
    Show(JobId),
    /// Wait until a job has ended.
    #[command(before_help = "  mesh job wait job_7f3kq2ab\n  mesh job wait job_7f3kq2ab --timeout 5m")]
    Wait(WaitArgs),
    /// The result of a job.
    #[command(before_help = "  mesh job result job_7f3kq2ab\n  mesh job result job_7f3kq2ab -o json")]
    Result(JobId),
    /// Why it waits, or why it ran where it ran.
    #[command(before_help = "  mesh job explain job_7f3kq2ab\n  mesh job explain job_7f3kq2ab -o json")]
    Explain(JobId),
    /// The signed receipt of a job.
    #[command(before_help = "  mesh job receipt job_7f3kq2ab\n  mesh job receipt job_7f3kq2ab --verify")]
    Receipt(ReceiptArgs),
    /// Cancel a job.
    #[command(before_help = "  mesh job cancel job_7f3kq2ab\n  mesh job cancel job_7f3kq2ab -o json")]
    Cancel(JobId),
    /// Try a job that failed or was cancelled again, as a new job.
    #[command(before_help = "  mesh job retry job_7f3kq2ab\n  mesh job retry job_7f3kq2ab --wait")]
    Retry(RetryArgs),
}
impl JobCommand {
    /// The job that it is about.
    pub fn about(&self) -> Option<&str> {
        match self {
            Self::Show(job) | Self::Result(job) | Self::Explain(job) | Self::Cancel(job) => Some(&job.id),
            Self::Wait(wait) => Some(&wait.job.id),
            Self::Retry(retry) => Some(&retry.job.id),
            Self::Receipt(receipt) => Some(&receipt.job.id),
            Self::Run(_) | Self::Submit(_) | Self::Ls(_) => None,
        }
    }
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    #[command(flatten)]
    pub job: JobId,
    /// Wait for its end.
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after this long; the job lives on.
    #[arg(long, value_name = "DURATION", value_parser = duration::some, allow_hyphen_values = true, requires = "wait")]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct JobId {
    /// Its id, `job_…`, or a unique prefix of either.
    pub id: String,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// A kind (echo, embed), or a file with a job in JSON; `-` is stdin.
    #[arg(value_name = "KIND|FILE")]
    pub what: String,
    /// The text; several times for several texts.
    #[arg(long, value_name = "TEXT", alias = "input")]
    pub text: Vec<String>,
    /// Texts in a file: .txt holds one a line, .jsonl one `{"text":…}` a line.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub options: JobOptions,
}

#[derive(Debug, Clone, Default, Args)]
pub struct JobOptions {
    /// Only this device: its id, a prefix of it, or its name.
    #[arg(long, value_name = "DEVICE")]
    pub target: Option<String>,
    /// The most it may cost.
    #[arg(long, value_name = "MANA", allow_hyphen_values = true)]
    pub max_mana: Option<String>,
    /// The same key is the same job, however often it is sent.
    #[arg(long)]
    pub key: Option<String>,
    /// Wait at most this long; the job lives on.
    #[arg(long, value_name = "DURATION", value_parser = duration::some, allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
    /// Let the job run at most this long.
    #[arg(long, value_name = "DURATION", value_parser = duration::some, allow_hyphen_values = true)]
    pub run_timeout: Option<Duration>,
    /// Give up if no device has taken it after this long.
    #[arg(long, value_name = "DURATION", value_parser = duration::some, allow_hyphen_values = true)]
    pub max_wait: Option<Duration>,
    /// Return as soon as it is submitted.
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
    /// Wait for the result.
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// For finding it again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// high, normal or low.
    #[arg(long, value_parser = priority)]
    pub priority: Option<bus_schemas::job::Class>,
    /// public, internal (otherwise), confidential or restricted: some devices take only some.
    #[arg(long, value_name = "CLASS")]
    pub data_class: Option<bus_schemas::job::DataClass>,
    /// Check and print the job; send nothing.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only jobs in this state, such as Completed.
    #[arg(long, value_parser = state)]
    pub state: Option<bus_schemas::job::JobState>,
    /// Only those that should have moved on by now.
    #[arg(long, conflicts_with_all = ["state", "cursor"])]
    pub overdue: bool,
    /// How many, at most 200.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200), allow_negative_numbers = true)]
    pub limit: u32,
    /// Where the last list ended.
    #[arg(long)]
    pub cursor: Option<String>,
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    #[command(flatten)]
    pub job: JobId,
    /// Wait at most this long; the job lives on.
    #[arg(long, value_name = "DURATION", value_parser = duration::some, allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct ReceiptArgs {
    #[command(flatten)]
    pub job: JobId,
    /// Check every signature, and that the result is the one that was signed.
    #[arg(long)]
    pub verify: bool,
}

#[derive(Debug, Subcommand)]
pub enum BlobCommand {
    /// Store a file; prints its content id.
    #[command(before_help = "  mesh blob put notes.txt\n  cat notes.txt | mesh blob put -")]
    Put {
        /// `-` is stdin.
        file: PathBuf,
    },
    /// Fetch content by its id, checked against it.
    #[command(before_help = "  mesh blob get CID\n  mesh blob get CID --to notes.txt")]
    Get {
        cid: String,
        /// Where to; stdout otherwise.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// All contexts; the current one is marked.
    #[command(before_help = "  mesh context ls\n  mesh context ls -o json")]
    Ls,
    /// Make one the current one; `-` is the one before.
    #[command(before_help = "  mesh context use dev\n  mesh context use -")]
    Use { name: String },
    /// One context, without secrets.
    #[command(before_help = "  mesh context show\n  mesh context show dev -o json")]
    Show { name: Option<String> },
}

#[derive(Debug, Args)]
#[command(before_help = "  mesh sign job.json\n  mesh sign job.json --nats")]
pub struct SignArgs {
    /// A job in JSON; `-` is stdin.
    pub file: PathBuf,
    /// Where the signed body goes; FILE.signed.json otherwise.
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// How long it may be submitted.
    #[arg(long, value_name = "DURATION", value_parser = duration::some, allow_hyphen_values = true, default_value = "1h")]
    pub valid: Duration,
    /// Print a whole `nats pub` command.
    #[arg(long)]
    pub nats: bool,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Jobs per second, with many in flight.
    Throughput(BenchArgs),
    /// How long one job takes, alone.
    Latency(BenchArgs),
}
#[derive(Debug, Args)]
#[command(before_help = "  mesh bench latency --jobs 200\n  mesh bench throughput --jobs 10000 --in-flight 1024")]
pub struct BenchArgs {
    /// How many jobs.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), allow_negative_numbers = true)]
    pub jobs: u32,
    /// How many at once.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=8192), allow_negative_numbers = true)]
    pub in_flight: u32,
    /// echo or embed.
    #[arg(long, default_value = "echo")]
    pub kind: String,
    /// Jobs that run before the clock starts.
    #[arg(long, default_value_t = 64)]
    pub warm_up: u32,
}

#[derive(Debug, Args)]
#[command(before_help = "  mesh completion bash\n  mesh completion zsh >~/.zfunc/_mesh")]
pub struct CompletionArgs {
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
#[command(before_help = "  mesh explain M0203\n  mesh explain")]
pub struct ExplainArgs {
    /// Such as M0203; all of them otherwise.
    pub code: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "write NAME=VALUE".into())
}
fn named<T: serde::de::DeserializeOwned>(text: &str, words: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| format!("one of {words}"))
}
fn priority(text: &str) -> Result<bus_schemas::job::Class, String> {
    named(text, "high, normal, low")
}
fn state(text: &str) -> Result<bus_schemas::job::JobState, String> {
    named(text, "Submitted, BiddingOpen, BiddingClosed, Assigned, Executing, Completed, Failed, Cancelled, Rejected")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_prints_json() {
        fn walk(command: &clap::Command, path: &str, leaves: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if !command.has_subcommands() || !command.is_subcommand_required_set() {
                assert!(command.get_arguments().any(|arg| arg.get_id() == "output"), "{path} has no -o");
                leaves.push(path.clone());
            }
            command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(|sub| walk(sub, &path, leaves));
        }
        let mut tree = Cli::command();
        tree.build();
        let mut leaves = vec![];
        walk(&tree, "", &mut leaves);
        assert!(leaves.len() >= 30, "{leaves:?}");
        // And each of them accepts it.
        for leaf in leaves.iter().filter(|leaf| !leaf.ends_with("mesh job")) {
            let mut words: Vec<String> = leaf.split_whitespace().map(str::to_owned).collect();
            words.extend(["-o".into(), "json".into()]);
            let error = Cli::try_parse_from(&words).err().map(|error| error.kind());
            assert!(matches!(error, None | Some(clap::error::ErrorKind::MissingRequiredArgument)), "{leaf}: {error:?}");
        }
    }

    #[test]
    fn what_people_type() {
        let good = [
            "mesh dev --agents 3 --random-ports -o json",
            "mesh job --workload embed --input Hello",
            "mesh job --workload embed --input a --input b --max-mana 1.5 --target laptop-a -o json",
            "mesh -o json job run embed --file notes.txt --timeout 30s --label a=b --priority high",
            "mesh job submit job.json --dry-run",
            "mesh job submit -",
            "mesh job ls --state Completed",
            "mesh job receipt job_abc --verify",
            "mesh init --join mesh1.abc --name lab",
            "mesh bench throughput --jobs 10000 --in-flight 1024 --kind echo",
            "mesh context use -",
            "mesh credit history --limit 5",
            "mesh credit transfer mem_a 1.5 --key k",
            "mesh credit transfer mem_a -1",
            "mesh credit grant mem_a 5 --reason welcome --network-key network.key",
            "mesh credit export --format csv --since 2026-11-01",
            "mesh credit proof rcp_abc",
            "mesh network policy set rules.json --dry-run",
            "mesh completion bash",
            "mesh explain M0203",
        ];
        for line in good {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let bad = [
            "mesh",
            "mesh job",
            "mesh job run",
            "mesh job --workload embed",
            "mesh job run echo --text a --timeout 5",
            "mesh job ls --state Done",
            "mesh bench throughput --jobs 0",
            "mesh dev --agents many",
            "mesh credit grant mem_a 5",
            "mesh credit history --limit 0",
            "mesh credit export --format xls",
            "mesh frobnicate",
        ];
        for line in bad {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        for reason in ["", " ", "\t\n", "\u{2003}"] {
            assert!(Cli::try_parse_from(["mesh", "credit", "grant", "mem_a", "5", "--reason", reason]).is_err(), "{reason:?}");
        }
    }
}
