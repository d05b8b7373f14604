//! The nodes of the hub: how many there are, and where each listens.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use super::files::FilesArgs;
use super::net_dir::{NODES, NetDir};

/// One node as the flags place it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Unique in the hub.
    pub name: String,
    pub conf: PathBuf,
    pub client_listen: SocketAddr,
    pub leaf_listen: SocketAddr,
    pub ws_listen: Option<SocketAddr>,
    pub monitor_listen: SocketAddr,
    pub route_listen: SocketAddr,
    /// Absolute.
    pub store: PathBuf,
}

/// The nodes of a hub, and where they find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes {
    pub nodes: Vec<Node>,
    /// `host:port` of each; empty for a single one.
    pub routes: Vec<String>,
}

/// # Errors
/// Where the folder's hub has another number of nodes, or the flags do not say where each is.
pub fn nodes(args: &FilesArgs, dir: &NetDir) -> anyhow::Result<Nodes> {
    let count = count(args.nodes, dir.nodes())?;
    let store = match &args.store {
        Some(store) => std::path::absolute(store).with_context(|| format!("{} is no path", store.display()))?,
        None => dir.root().join("store"),
    };
    let node = |n: usize| -> anyhow::Result<Node> {
        let name = format!("hub-{n}");
        Ok(Node {
            conf: if count == 1 { dir.hub_conf() } else { dir.node_conf(n) },
            client_listen: nth("--client-listen", &args.client_listen, n, count)?,
            leaf_listen: nth("--leaf-listen", &args.leaf_listen, n, count)?,
            ws_listen: nth("--ws-listen", &args.ws_listen, n, count)?.0,
            monitor_listen: nth("--monitor-listen", &args.monitor_listen, n, count)?,
            route_listen: nth("--route-listen", &args.route_listen, n, count)?,
            // Never one folder for two, even on one machine.
            store: if count == 1 { store.clone() } else { store.join(&name) },
            name,
        })
    };
    let nodes = (1..=count).map(node).collect::<anyhow::Result<Vec<Node>>>()?;
    let routes = if count == 1 { vec![] } else { routes(&args.routes, &nodes)? };
    Ok(Nodes { nodes, routes })
}

/// A hub keeps its number of nodes: what one server has stored is not what three would find.
fn count(asked: Option<u8>, found: Option<usize>) -> anyhow::Result<usize> {
    match (asked.map(usize::from), found) {
        (None, found) => Ok(found.unwrap_or(1)),
        (Some(asked @ (1 | NODES)), None) => Ok(asked),
        (Some(asked), Some(found)) if asked == found => Ok(asked),
        (Some(asked), Some(found)) => bail!(
            "error[M0206]: the hub of this folder has {}, and is left as it is; not {asked} (next: docs/operating.md, \"From one node to three\")",
            if found == 1 { "one node".to_owned() } else { format!("{found} nodes") }
        ),
        (Some(asked), None) => bail!("--nodes {asked}: a hub has 1 or {NODES} nodes (two are no majority)"),
    }
}

/// One address for all, or one for each.
fn nth<T: Copy>(flag: &str, all: &[T], n: usize, count: usize) -> anyhow::Result<T> {
    ensure!(all.len() == 1 || all.len() == count, "{flag}: one address, or {count} separated by commas; not {}", all.len());
    all.get(n - 1).or(all.first()).copied().with_context(|| format!("{flag}: an address is missing"))
}

/// Where the nodes find each other: as told, or where they listen if these are addresses that others can reach.
fn routes(told: &[String], nodes: &[Node]) -> anyhow::Result<Vec<String>> {
    let routes: Vec<String> =
        if told.is_empty() { nodes.iter().map(|node| node.route_listen.to_string()).collect() } else { told.to_vec() };
    ensure!(
        routes.len() == nodes.len(),
        "--routes: {} addresses separated by commas, one for each node; not {}",
        nodes.len(),
        routes.len()
    );
    let mut distinct = routes.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let reachable = !told.is_empty() || nodes.iter().all(|node| !node.route_listen.ip().is_unspecified());
    ensure!(
        distinct.len() == nodes.len() && reachable,
        "--routes HOST:PORT,HOST:PORT,HOST:PORT is needed: --route-listen alone does not tell where each node finds the others"
    );
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(dir: &std::path::Path, flags: &[&str]) -> anyhow::Result<Nodes> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: FilesArgs,
        }
        let fixed = ["x", "--dir", dir.to_str().unwrap()];
        let args = <Cli as clap::Parser>::try_parse_from(fixed.into_iter().chain(flags.iter().copied()))?.args;
        nodes(&args, &NetDir::new(dir).unwrap())
    }

    #[test]
    fn one_node_or_three_that_know_each_other() {
        let dir = std::path::Path::new("/no/such/folder");
        let one = placed(dir, &[]).unwrap();
        assert_eq!((one.nodes.len(), one.routes.len(), one.nodes[0].store.as_path()), (1, 0, dir.join("store").as_path()));
        assert!(one.nodes[0].conf.ends_with("hub.conf"));
        let here = placed(
            dir,
            &[
                "--nodes",
                "3",
                "--client-listen",
                "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3",
                "--route-listen",
                "127.0.0.1:4,127.0.0.1:5,127.0.0.1:6",
                "--ws-listen",
                "off",
            ],
        )
        .unwrap();
        assert_eq!(here.routes, ["127.0.0.1:4", "127.0.0.1:5", "127.0.0.1:6"]);
        assert_eq!(here.nodes.iter().map(|node| node.client_listen.port()).collect::<Vec<_>>(), [1, 2, 3]);
        let named = ["--nodes", "3", "--client-listen", "0.0.0.0:4222", "--route-listen", "0.0.0.0:6222", "--store", "/data"];
        let routes = ["--routes", "hub-1:6222,hub-2:6222,hub-3:6222"];
        let apart = placed(dir, &[&named[..], &routes].concat()).unwrap();
        assert_eq!(apart.nodes[2].store, std::path::Path::new("/data/hub-3"));
        for (flags, why) in [
            (&named[..], "--routes"),
            (&["--nodes", "3"][..], "--routes"),
            (&["--nodes", "2"][..], "no majority"),
            (&["--nodes", "3", "--routes", "a:1,a:1,a:1"][..], "--routes"),
            (&["--nodes", "3", "--routes", "a:1,b:1"][..], "not 2"),
            (&["--client-listen", "127.0.0.1:1,127.0.0.1:2"][..], "--client-listen"),
        ] {
            let error = placed(dir, flags).unwrap_err().to_string();
            assert!(error.contains(why), "{flags:?}: {error}");
        }
    }
}
