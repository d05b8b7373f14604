//! `mesh hub up`: a network for other machines. The same stack as `mesh dev`, with its data kept, TLS of its own CA at every door that
//! others reach, and no devices: those join from elsewhere with the line that it prints.
//!
//! Not here: how parts are started, watched and stopped (`dev`), and certificates (`mesh-gateway bootstrap files`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bus_schemas::Code;

use crate::cli::failure::{Done, Failure};
use crate::cli::output::Output;
use crate::dev::ports::PortArgs;
use crate::dev::{self, Beside, DevArgs, HubAt, Open};

#[derive(Debug, Clone, clap::Subcommand)]
pub enum HubCommand {
    /// Run the hub, Postgres, gateway, scheduler and ledger of a network here, for devices on other machines.
    Up(UpArgs),
}

#[derive(Debug, Clone, clap::Args)]
#[command(
    before_help = "  mesh hub up --listen 192.0.2.10                              others reach it under that address\n  mesh hub up --listen 0.0.0.0 --host hub.example.org --data /srv/mesh\n  mesh hub up --beside /srv/mesh --network lab --https-port 8443         another network on that hub"
)]
pub struct UpArgs {
    /// Address of this machine to listen on; 0.0.0.0 or :: for all.
    #[arg(long, value_name = "ADDR", required_unless_present = "beside")]
    pub listen: Option<IpAddr>,
    /// Data folder of a network whose hub runs already: this one shares it, with keys, books and an owner of its own.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["listen", "host", "hub_port", "leaf_port"])]
    pub beside: Option<PathBuf>,
    /// Name or address under which others reach it, several separated by commas: the first stands in the invite [default: what --listen says].
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub host: Vec<String>,
    /// Where the network's keys, messages, books and logs are kept [default: ~/.mesh-hub; with --beside DIR, DIR-NAME].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Name of a new network, for people.
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// What each new member is given, where the network is new.
    #[arg(long, default_value_t = 1000, value_name = "MANA")]
    pub grant_mana: u32,
    /// The API, and by WebSocket everything: the one port that a closed network has to let out.
    #[arg(long, default_value_t = 443, value_name = "PORT")]
    pub https_port: u16,
    /// Members and workers.
    #[arg(long, default_value_t = 4222, value_name = "PORT")]
    pub hub_port: u16,
    /// Devices.
    #[arg(long, default_value_t = 7422, value_name = "PORT")]
    pub leaf_port: u16,
}

/// Runs it until a signal comes.
///
/// # Errors
/// What kept it from starting.
pub async fn run(command: &HubCommand, output: &Output) -> Done {
    let HubCommand::Up(args) = command;
    dev::run(&stack_of(args)?, output).await
}

fn stack_of(args: &UpArgs) -> Result<DevArgs, Failure> {
    let beside = args.beside.as_deref().map(hub_at).transpose()?;
    let (listen, hosts) = match (&beside, args.listen) {
        (Some(beside), _) => (beside.at.listen, beside.at.hosts.clone()),
        (None, Some(listen)) => (listen, hosts(args, listen)?),
        (None, None) => return Err(Failure::new(Code::Usage, "--listen or --beside is needed").next("mesh hub up --help")),
    };
    let data = args.data.clone().map_or_else(|| own_folder(args), Ok)?;
    Ok(DevArgs {
        agents: 0,
        // Three nodes on one machine outlive no machine.
        hub: 1,
        gateways: 1,
        schedulers: 1,
        ledgers: 1,
        data_dir: Some(data),
        random_ports: false,
        ports: PortArgs {
            gateway_port: Some(args.https_port),
            hub_port: Some(args.hub_port),
            leaf_port: Some(args.leaf_port),
            // Only programs of this machine connect to these.
            ws_port: Some(0),
            monitor_port: Some(0),
            device_port: None,
        },
        open: Some(Open { listen, hosts, network: args.network.clone(), grant_mana: args.grant_mana, beside }),
    })
}

fn hosts(args: &UpArgs, listen: IpAddr) -> Result<Vec<String>, Failure> {
    match args.host.as_slice() {
        [] if listen.is_unspecified() => {
            let why = format!("--listen {listen} does not tell others where this machine is");
            Err(Failure::new(Code::Usage, why).next(format!("mesh hub up --listen {listen} --host NAME")))
        }
        [] => Ok(vec![listen.to_string()]),
        hosts => Ok(hosts.to_vec()),
    }
}

fn own_folder(args: &UpArgs) -> Result<PathBuf, Failure> {
    if let Some(beside) = &args.beside {
        let missing = || Failure::new(Code::Usage, "where is this network to be kept?").next("mesh hub up --beside DIR --data DIR");
        let (name, folder) = (args.network.as_ref().ok_or_else(missing)?, beside.file_name().ok_or_else(missing)?);
        let plain: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        return Ok(beside.with_file_name(format!("{}-{plain}", folder.display())));
    }
    let home =
        std::env::home_dir().ok_or_else(|| Failure::new(Code::Usage, "this account has no home folder").next("mesh hub up --data DIR"))?;
    Ok(home.join(".mesh-hub"))
}

/// The hub that the stack of this data folder runs.
fn hub_at(data: &Path) -> Result<Beside, Failure> {
    let data = std::path::absolute(data).map_err(|error| Failure::new(Code::BadFile, format!("{}: {error}", data.display())))?;
    let path = data.join("hub.json");
    let bad = |why: String| {
        Failure::new(Code::BadFile, format!("{}: {why}", path.display()))
            .next(format!("mesh hub up --listen ADDR --data {}", data.display()))
    };
    let text = std::fs::read(&path).map_err(|error| bad(error.to_string()))?;
    let at: HubAt = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    Ok(Beside { network: data.join("network"), at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(flags: &[&str]) -> Result<DevArgs, Failure> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: UpArgs,
        }
        stack_of(&<Cli as clap::Parser>::try_parse_from(["x"].iter().chain(flags)).unwrap().args)
    }

    #[test]
    fn others_are_told_an_address_that_means_something() {
        let told = |flags: &[&str]| asked(flags).map(|args| args.open.unwrap().hosts);
        assert_eq!(told(&["--listen", "192.0.2.1"]).unwrap(), ["192.0.2.1"]);
        assert_eq!(told(&["--listen", "0.0.0.0", "--host", "hub.example.org,10.0.0.1"]).unwrap(), ["hub.example.org", "10.0.0.1"]);
        for everywhere in ["0.0.0.0", "::"] {
            let failure = told(&["--listen", everywhere]).unwrap_err();
            assert!(failure.text().contains("--host NAME"), "{}", failure.text());
        }
    }
}
