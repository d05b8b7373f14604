//! The hub of the stack: one node, or three.

use std::net::SocketAddr;
use std::path::PathBuf;

use bus_schemas::Code;
use futures::future::try_join_all;

use super::child::Role;
use super::ports::loopback;
use super::ready::NodeAt;
use super::stack::{Stack, Started, text, wait_for};
use super::tools::check_nats_version;
use super::{Beside, HubAt, shell};
use crate::cli::context;
use crate::cli::failure::Failure;
use crate::nats_process;

/// The Go servers' memory; what they lend themselves beyond it they must give back.
const GO_MEMORY: &str = "192MiB";

/// What each new member of `mesh dev` is given.
const GRANT_MANA: u32 = 1_000_000;

/// Processors that the hub uses at once: it shares this machine with all other parts, and for each message it would wake the rest of
/// them to look for more.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |all| (all.get() / 2).max(1))
}

impl Stack<'_> {
    /// Where each node of the hub is.
    pub(super) fn nodes(&self) -> Vec<NodeAt> {
        let alone = self.ports.hubs.len() == 1;
        let tls = self.args.open.is_some();
        let (nats, ws) = if tls { ("tls", "wss") } else { ("nats", "ws") };
        let node = |(n, ports): (usize, &super::ports::HubPorts)| NodeAt {
            name: if alone { "hub".into() } else { format!("hub-{n}") },
            url: format!("{nats}://{}", self.reached(ports.client)),
            leaf_url: format!("{nats}://{}", self.reached(ports.leaf)),
            ws_url: format!("{ws}://{}", loopback(ports.ws)),
            monitor_url: format!("http://{}", loopback(ports.monitor)),
        };
        (1..).zip(&self.ports.hubs).map(node).collect()
    }

    /// Files of the network, the hub's nodes, and its streams; the server's version.
    pub(super) async fn hub(&self) -> Started<String> {
        let mut started = Started::nothing();
        started.what = async {
            let dir = self.place.network();
            let dir_text = text(&dir)?;
            let nodes = match self.beside() {
                Some(beside) => self.runs(beside).await.map(|()| vec![])?,
                None => self.nodes(),
            };
            let arguments = self.files_arguments(&dir_text);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let (version, files) =
                tokio::join!(check_nats_version(&self.tools.nats_server), self.run(&self.tools.gateway, &arguments, &[]));
            let version = version?;
            files?;
            for node in nodes {
                let conf: PathBuf = dir.join(format!("{}.conf", node.name));
                let mut spec = self.spec(Role::Hub, &node.name, &self.tools.nats_server, &["--config", &text(&conf)?]);
                spec.ours = false;
                spec.lazy_timers = true;
                spec.mark = Some(conf);
                spec.env.extend(nats_process::environment(GO_MEMORY, processors()).map(|(name, value)| (name, value.into())));
                started.children.push(self.begin(&spec)?);
            }
            let listen = started.children.iter().zip(&self.ports.hubs).map(|(node, ports)| {
                let address = self.reached(ports.client);
                wait_for(&node.spec.name, node, move || async move { tokio::net::TcpStream::connect(address).await.is_ok() })
            });
            try_join_all(listen).await?;
            self.note_hub()?;
            // With three nodes this waits until they have elected their leader.
            let url = self.addresses().nats;
            let grant = self.args.open.as_ref().map_or(GRANT_MANA, |open| open.grant_mana).to_string();
            let streams = ["bootstrap", "streams", "--dir", &dir_text, "--nats-url", &url, "--grant-mana", &grant, "--wait", "30s"];
            let ca = self.ca().map(|ca| text(&ca)).transpose()?;
            let trust: Vec<(&str, &str)> = ca.iter().map(|ca| ("MESH_CA", ca.as_str())).collect();
            self.run(&self.tools.gateway, &streams, &trust).await?;
            Ok(version)
        }
        .await;
        started
    }

    pub(super) fn beside(&self) -> Option<&Beside> {
        self.args.open.as_ref()?.beside.as_ref()
    }
    /// The folder of the network that runs the hub.
    pub(super) fn hub_network(&self) -> PathBuf {
        self.beside().map_or_else(|| self.place.network(), |beside| beside.network.clone())
    }

    async fn runs(&self, beside: &Beside) -> Result<(), Failure> {
        let at = beside.at.ports.first().map(|ports| self.reached(ports.client));
        if let Some(at) = at
            && tokio::net::TcpStream::connect(at).await.is_ok()
        {
            return Ok(());
        }
        let data = beside.network.parent().unwrap_or(&beside.network).display().to_string();
        let why = format!("the hub of {data} does not run");
        Err(Failure::new(Code::Unreachable, why).next(format!("mesh hub up --listen {} --data {}", beside.at.listen, shell(&data))))
    }

    /// Keeps where the hub is, for networks beside this one.
    fn note_hub(&self) -> Result<(), Failure> {
        let (Some(open), None) = (&self.args.open, self.beside()) else { return Ok(()) };
        let at = HubAt { listen: open.listen, hosts: open.hosts.clone(), ports: self.ports.hubs.clone() };
        context::write_json(&self.place.hub(), &at)
    }

    /// Of `mesh-gateway bootstrap files`.
    fn files_arguments(&self, dir: &str) -> Vec<String> {
        let hubs = &self.ports.hubs;
        let all =
            |of: fn(&super::ports::HubPorts) -> u16| hubs.iter().map(|ports| loopback(of(ports)).to_string()).collect::<Vec<_>>().join(",");
        // Where others are meant to come in.
        let open = |of: fn(&super::ports::HubPorts) -> u16| match &self.args.open {
            None => all(of),
            Some(open) => hubs.iter().map(|ports| SocketAddr::new(open.listen, of(ports)).to_string()).collect::<Vec<_>>().join(","),
        };
        let mut arguments = vec!["bootstrap".to_owned(), "files".to_owned()];
        let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        flag("dir", dir.to_owned());
        if let Some(beside) = self.beside() {
            flag("hub-of", beside.network.display().to_string());
            if let Some(name) = self.args.open.as_ref().and_then(|open| open.network.clone()) {
                flag("name", name);
            }
            return arguments;
        }
        match &self.args.open {
            None => flag("name", "dev".into()),
            Some(asked) => {
                if let Some(name) = &asked.network {
                    flag("name", name.clone());
                }
                flag("tls-names", asked.hosts.iter().cloned().chain([asked.inside().to_string()]).collect::<Vec<_>>().join(","));
                // What was acknowledged outlives a power cut.
                flag("sync-interval", "always".into());
            }
        }
        flag("client-listen", open(|ports| ports.client));
        flag("leaf-listen", open(|ports| ports.leaf));
        flag("ws-listen", all(|ports| ports.ws));
        flag("monitor-listen", all(|ports| ports.monitor));
        flag("nodes", hubs.len().to_string());
        if hubs.len() > 1 {
            flag("route-listen", all(|ports| ports.route));
        }
        arguments
    }
}
