//! Which ports the stack uses: the usual ones, the ones asked for, or any free ones.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use bus_schemas::Code;

use crate::cli::failure::Failure;

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Ports")]
pub struct PortArgs {
    /// The gateway: HTTP API [default: 8085].
    #[arg(long, value_name = "PORT")]
    pub gateway_port: Option<u16>,
    /// The hub: members and workers [default: 4222].
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

/// Chosen ports, all free a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    pub gateway: u16,
    pub hub: u16,
    pub leaf: u16,
    pub ws: u16,
    pub monitor: u16,
    pub devices: Vec<u16>,
    /// For /readyz of the workers; nobody else needs them.
    pub workers: Vec<u16>,
}

impl Ports {
    /// # Errors
    /// Where ports are taken: which, and the flag of each.
    pub fn choose(asked: &PortArgs, random: bool, devices: u8, workers: u8) -> Result<Self, Failure> {
        // All are held until the last is chosen, so that no two are the same.
        let mut held = Vec::new();
        let mut taken = Vec::new();
        let mut one = |flag: &str, asked: Option<u16>, usual: u16| {
            let wanted = asked.unwrap_or(if random { 0 } else { usual });
            match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, wanted))) {
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
        let (gateway, hub) = (one("--gateway-port", asked.gateway_port, 8085), one("--hub-port", asked.hub_port, 4222));
        let (leaf, ws) = (one("--leaf-port", asked.leaf_port, 7422), one("--ws-port", asked.ws_port, 8443));
        let monitor = one("--monitor-port", asked.monitor_port, 8222);
        let device = |n: u8| (asked.device_port.map(|first| first.saturating_add(u16::from(n))), 4230 + u16::from(n));
        let devices = (0..devices).map(device).map(|(asked, usual)| one("--device-port", asked, usual)).collect();
        let workers = (0..workers).map(|_| one("any free port", Some(0), 0)).collect();
        if taken.is_empty() {
            return Ok(Self { gateway, hub, leaf, ws, monitor, devices, workers });
        }
        Err(Failure::new(Code::PortTaken, taken.join("; ")).next("mesh dev --random-ports"))
    }
}

impl Ports {
    /// One that somebody listens on. Asked once our own programs have ended, it is one that was lost to another.
    pub fn taken(&self) -> Option<u16> {
        let own = [self.gateway, self.hub, self.leaf, self.ws, self.monitor];
        own.iter().chain(&self.devices).chain(&self.workers).copied().find(|port| TcpListener::bind(loopback(*port)).is_err())
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let asked = PortArgs { gateway_port: Some(port), ..PortArgs::default() };
        let failure = Ports::choose(&asked, true, 2, 2).unwrap_err();
        let text = failure.text();
        assert!(text.contains("M0204") && text.contains(&port.to_string()) && text.contains("--gateway-port"), "{text}");
    }

    #[test]
    fn random_ports_differ() {
        let ports = Ports::choose(&PortArgs::default(), true, 3, 3).unwrap();
        let mut all = [vec![ports.gateway, ports.hub, ports.leaf, ports.ws, ports.monitor], ports.devices, ports.workers].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 11);
    }

    #[test]
    fn a_port_that_was_lost_is_found() {
        let mut ports = Ports::choose(&PortArgs::default(), true, 2, 2).unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let lost = other.local_addr().unwrap().port();
        ports.devices[1] = lost;
        assert_eq!(ports.taken(), Some(lost));
        drop(other);
        ports.devices.truncate(1);
        assert_ne!(ports.taken(), Some(lost));
    }
}
