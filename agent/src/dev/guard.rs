//! `mesh dev-guard`, hidden: a small child that outlives a killed `mesh dev` for a moment. It stops the servers that cannot
//! watch their parent by themselves (hub, Postgres, the devices' nats-servers), and removes temporary data.

use std::io::Read;
use std::path::PathBuf;

use super::{leftovers, place};

#[derive(Debug, Clone, clap::Args)]
pub struct GuardArgs {
    /// The stack's folder.
    pub root: PathBuf,
    /// Folders to remove.
    #[arg(long)]
    pub remove: Vec<PathBuf>,
}

/// What the parent says before it goes in good order.
pub const DONE: u8 = b'.';

/// Waits until standard input ends. Without [`DONE`] before, the parent was killed.
pub fn run(args: &GuardArgs) {
    let mut said = Vec::new();
    let _ = std::io::stdin().lock().take(64).read_to_end(&mut said);
    if said.contains(&DONE) {
        return;
    }
    // The programs of ours have seen the same end of input and are stopping; agents stop their servers first.
    std::thread::sleep(std::time::Duration::from_secs(2));
    for home in leftovers::homes(&args.root.join("agents")) {
        leftovers::stop_agent_of(&home, std::time::Duration::from_secs(4));
        leftovers::stop_orphan_of(&home);
    }
    leftovers::stop_noted(&args.root.join("run"));
    args.remove.iter().for_each(|folder| place::remove(folder));
}
