//! `mesh dev`: a whole network on this machine, on loopback, as child processes. `mesh hub up` is the same stack for other machines: its
//! [`Open`] says where it listens and what others are told.
//!
//! In: a few flags, and the programs beside this one. Out: a running hub, Postgres, gateway, schedulers, ledger-workers and
//! devices; every address on stdout; and nothing left behind. `stack` starts it in order and in parallel where it can; `supervise`
//! restarts what dies and stops it all; `child` is one process; `tools`, `ports`, `postgres`, `place` find and prepare what
//! they need; `guard` stops the rest where this program itself is killed.
//!
//! Not here: any rule of the network. Each part is the program that runs in production, told by environment variables where
//! the others are.

pub mod child;
pub mod enrol;
pub mod guard;
pub mod hub;
pub mod leftovers;
pub mod place;
pub mod ports;
pub mod postgres;
pub mod ready;
pub mod room;
pub mod stack;
pub mod supervise;
pub mod tools;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use bus_schemas::Code;
use serde::{Deserialize, Serialize};

use crate::cli::failure::{Done, End, Failure};
use crate::cli::output::Output;

#[derive(Debug, Clone, clap::Args)]
#[command(
    before_help = "  mesh dev                                two devices, data deleted on exit\n  mesh dev --agents 3 --data-dir ~/mesh   three devices, data kept"
)]
pub struct DevArgs {
    /// Devices.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=26))]
    pub agents: u8,
    /// Nodes of the hub: 1, or 3 of which any one may die.
    #[arg(long, default_value_t = 1, value_name = "NODES", value_parser = hub_nodes)]
    pub hub: u8,
    /// Gateways.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub gateways: u8,
    /// Schedulers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub schedulers: u8,
    /// Ledger-workers: one writes, the others stand by.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub ledgers: u8,
    /// Keep the data here; without it they are temporary.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Any free ports instead of the usual ones.
    #[arg(long)]
    pub random_ports: bool,
    #[command(flatten)]
    pub ports: ports::PortArgs,
    /// For other machines as well, with TLS.
    #[arg(skip)]
    pub open: Option<Open>,
}

/// What makes a stack a network for other machines.
#[derive(Debug, Clone)]
pub struct Open {
    pub listen: IpAddr,
    /// Names and addresses under which others reach this machine; the first is the one that they are told.
    pub hosts: Vec<String>,
    /// Of a new network.
    pub network: Option<String>,
    pub grant_mana: u32,
    /// The hub of another network here, which this one shares.
    pub beside: Option<Beside>,
}

/// A hub that another stack runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// That network's folder.
    pub network: PathBuf,
    pub at: HubAt,
}
/// Where the hub of a stack for other machines is; kept in its data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubAt {
    pub listen: IpAddr,
    pub hosts: Vec<String>,
    pub ports: Vec<ports::HubPorts>,
}

impl Open {
    /// Where programs of this machine reach it.
    pub fn inside(&self) -> IpAddr {
        match (self.listen.is_unspecified(), self.listen.is_ipv4()) {
            (true, true) => Ipv4Addr::LOCALHOST.into(),
            (true, false) => Ipv6Addr::LOCALHOST.into(),
            (false, _) => self.listen,
        }
    }
    /// `host:port` as others are told.
    pub fn told(&self, port: u16) -> String {
        let host = self.hosts.first().cloned().unwrap_or_else(|| self.inside().to_string());
        match host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{port}"),
            Err(_) => format!("{host}:{port}"),
        }
    }
}

impl DevArgs {
    /// What starts such a stack again, from any folder.
    pub fn again(&self, place: &place::Place) -> String {
        let counts = [
            ("--agents", self.agents, 2),
            ("--hub", self.hub, 1),
            ("--gateways", self.gateways, 1),
            ("--schedulers", self.schedulers, 1),
            ("--ledgers", self.ledgers, 1),
        ];
        let mut command = "mesh dev".to_owned();
        for (flag, count, _) in counts.into_iter().filter(|(_, count, usual)| count != usual) {
            command.push_str(&format!(" {flag} {count}"));
        }
        for (flag, port) in self.ports.given() {
            command.push_str(&format!(" {flag} {port}"));
        }
        if self.random_ports {
            command.push_str(" --random-ports");
        }
        if self.data_dir.is_some() {
            command.push_str(&format!(" --data-dir {}", shell(&place.root.display().to_string())));
        }
        command
    }
}

/// A word of a command as a shell takes it.
pub fn shell(word: &str) -> String {
    let plain = !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "/._-+:@".contains(c));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn hub_nodes(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("1 or 3 is expected: two nodes are no majority".into()),
    }
}

/// Between the choice of a free port and its use another program may take it; with ports that nobody chose, others do as well.
const STARTS_MAX: u8 = 3;

/// Runs the stack until a signal comes.
///
/// # Errors
/// What kept it from starting. What was started by then is stopped.
pub async fn run(args: &DevArgs, output: &Output) -> Done {
    let mut stop = supervise::signals()?;
    let mut starts = 0;
    let mut stack = loop {
        starts += 1;
        let mut stack = stack::Stack::new(args, output)?;
        let started = tokio::select! {
            started = stack.start() => started,
            () = stop.requested() => Err(Failure::new(Code::Internal, "interrupted")),
        };
        let Err(failure) = started else { break stack };
        stack.stop(&mut stop).await;
        if stop.was_requested() {
            return Ok(End::Exit(crate::cli::failure::EXIT_INTERRUPTED));
        }
        match stack.taken_port() {
            Some(port) if args.random_ports && starts < STARTS_MAX => {
                output.warn(&format!("{failure}; another program took port {port} meanwhile: starting again with others"));
            }
            Some(_) | None => return Err(failure),
        }
    };
    let ended = stack.supervise(&mut stop).await;
    stack.stop(&mut stop).await;
    ended.map(|()| End::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DevArgs,
    }

    #[test]
    fn what_starts_it_again_is_a_command_of_any_folder() {
        let place = |root: &str| place::Place { root: root.into(), temporary: false, socket: root.into() };
        for (line, root, again) in [
            ("dev", "/srv/x", "mesh dev"),
            ("dev --data-dir data --hub 3", "/home/a/data", "mesh dev --hub 3 --data-dir /home/a/data"),
            ("dev --data-dir data --agents 0", "/home/a b/it's", "mesh dev --agents 0 --data-dir '/home/a b/it'\\''s'"),
            ("dev --random-ports --gateway-port 9000", "/srv/x", "mesh dev --gateway-port 9000 --random-ports"),
        ] {
            let parsed = Line::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(parsed.args.again(&place(root)), again);
        }
    }
}
