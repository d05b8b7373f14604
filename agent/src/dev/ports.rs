//! Which ports the stack uses: the usual ones, the ones asked for, or any free ones.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use bus_schemas::Code;
use serde::{Deserialize, Serialize};

use crate::cli::failure::Failure;

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Ports")]
pub struct PortArgs {
    /// The first gateway: HTTP API; the others follow [default: 8085].
    #[arg(long, value_name = "PORT")]
    pub gateway_port: Option<u16>,
    /// The first hub node: members and workers; the others follow, as with the next three [default: 4222].
    #[arg(long, value_name = "PORT")]
    pub hub_port: Option<u16>,
    /// The hub: devices [default: 7422].
    #[arg(long, value_name = "PORT")]
    pub leaf_port: Option<u16>,
    /// The hub: WebSocket [default: 8443].
    #[arg(long, value_name = "PORT")]
    pub ws_port: Option<u16>,
    /// The hub: monitoring [default: 8222].
    #[arg(long, value_name = "PORT")]
    pub monitor_port: Option<u16>,
    /// The first device's own server; the others follow [default: 4230].
    #[arg(long, value_name = "PORT")]
    pub device_port: Option<u16>,
}

impl PortArgs {
    /// The flags that were given.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, u16)> {
        let all = [
            ("--gateway-port", self.gateway_port),
            ("--hub-port", self.hub_port),
            ("--leaf-port", self.leaf_port),
            ("--ws-port", self.ws_port),
            ("--monitor-port", self.monitor_port),
            ("--device-port", self.device_port),
        ];
        all.into_iter().filter_map(|(flag, port)| Some((flag, port?)))
    }
}

/// Of how many there are ports to choose.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub gateways: u8,
    pub hubs: u8,
    pub devices: u8,
    pub workers: u8,
}

/// Of one node of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubPorts {
    pub client: u16,
    pub leaf: u16,
    pub ws: u16,
    pub monitor: u16,
    /// Where the other nodes connect; of no use to a single one.
    pub route: u16,
}

/// Chosen ports, all free a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    pub gateways: Vec<u16>,
    pub hubs: Vec<HubPorts>,
    pub devices: Vec<u16>,
    /// For /readyz of the workers; nobody else needs them.
    pub workers: Vec<u16>,
}

/// What others reach, where the stack is for others.
const OPEN: [&str; 3] = ["--gateway-port", "--hub-port", "--leaf-port"];

impl Ports {
    /// `listen`: where others reach it; loopback where nobody does.
    ///
    /// # Errors
    /// Where ports are taken: which, and the flag of each.
    pub fn choose(asked: &PortArgs, random: bool, counts: Counts, listen: IpAddr) -> Result<Self, Failure> {
        // All are held until the last is chosen, so that no two are the same.
        let mut held = Vec::new();
        let mut taken = Vec::new();
        let mut one = |flag: &str, asked: Option<u16>, usual: u16| {
            let wanted = asked.unwrap_or(if random { 0 } else { usual });
            let ip = if OPEN.contains(&flag) { listen } else { Ipv4Addr::LOCALHOST.into() };
            match TcpListener::bind(SocketAddr::new(ip, wanted)) {
                Ok(listener) => {
                    let port = listener.local_addr().map_or(wanted, |address| address.port());
                    held.push(listener);
                    port
                }
                Err(error) => {
                    taken.push(format!("port {wanted} ({flag}): {error}"));
                    wanted
                }
            }
        };
        // The n-th of its kind follows the first one.
        let mut nth = |flag: &str, first: Option<u16>, usual: u16, n: u8| {
            let n = u16::from(n);
            one(flag, first.map(|first| first.saturating_add(n)), usual + n)
        };
        let gateways = (0..counts.gateways).map(|n| nth("--gateway-port", asked.gateway_port, 8085, n)).collect();
        let hubs = (0..counts.hubs)
            .map(|n| HubPorts {
                client: nth("--hub-port", asked.hub_port, 4222, n),
                leaf: nth("--leaf-port", asked.leaf_port, 7422, n),
                ws: nth("--ws-port", asked.ws_port, 8443, n),
                monitor: nth("--monitor-port", asked.monitor_port, 8222, n),
                route: if counts.hubs == 1 { 0 } else { nth("any free port", Some(0), 0, 0) },
            })
            .collect();
        let devices = (0..counts.devices).map(|n| nth("--device-port", asked.device_port, 4230, n)).collect();
        let workers = (0..counts.workers).map(|_| nth("any free port", Some(0), 0, 0)).collect();
        if taken.is_empty() {
            return Ok(Self { gateways, hubs, devices, workers });
        }
        Err(Failure::new(Code::PortTaken, taken.join("; ")).next("mesh dev --random-ports"))
    }
}

impl Ports {
    /// One that somebody listens on. Asked once our own programs have ended, it is one that was lost to another.
    pub fn taken(&self) -> Option<u16> {
        self.all().into_iter().find(|port| TcpListener::bind(loopback(*port)).is_err())
    }

    fn all(&self) -> Vec<u16> {
        let hubs = self.hubs.iter().flat_map(|hub| [hub.client, hub.leaf, hub.ws, hub.monitor, hub.route]).filter(|port| *port != 0);
        self.gateways.iter().copied().chain(hubs).chain(self.devices.iter().copied()).chain(self.workers.iter().copied()).collect()
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const COUNTS: Counts = Counts { gateways: 2, hubs: 3, devices: 3, workers: 3 };

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let asked = PortArgs { gateway_port: Some(port), ..PortArgs::default() };
        let failure = Ports::choose(&asked, true, COUNTS, HERE).unwrap_err();
        let text = failure.text();
        assert!(text.contains("M0204") && text.contains(&port.to_string()) && text.contains("--gateway-port"), "{text}");
    }

    #[test]
    fn random_ports_differ() {
        let ports = Ports::choose(&PortArgs::default(), true, COUNTS, HERE).unwrap();
        let mut all = ports.all();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2 + 3 * 5 + 3 + 3);
        assert_eq!(Ports::choose(&PortArgs::default(), true, Counts { hubs: 1, ..COUNTS }, HERE).unwrap().hubs[0].route, 0);
    }

    #[test]
    fn a_port_that_was_lost_is_found() {
        let mut ports = Ports::choose(&PortArgs::default(), true, COUNTS, HERE).unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let lost = other.local_addr().unwrap().port();
        ports.devices[1] = lost;
        assert_eq!(ports.taken(), Some(lost));
        drop(other);
        ports.devices.truncate(1);
        assert_ne!(ports.taken(), Some(lost));
    }
}
