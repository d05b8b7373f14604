//! The hub's configuration file, from the template in `nats/`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::ensure;

const TEMPLATE: &str = include_str!("../../../nats/hub.conf");

/// What the file is filled with. Tokens; the one secret is that of the routes between nodes.
pub struct HubConf<'a> {
    /// Of this node.
    pub name: &'a str,
    /// Where it is not the only one.
    pub cluster: Option<Cluster<'a>>,
    pub client_listen: SocketAddr,
    pub leaf_listen: SocketAddr,
    pub ws_listen: Option<SocketAddr>,
    pub monitor_listen: SocketAddr,
    /// Absolute.
    pub store: &'a Path,
    pub sync_interval: &'a str,
    pub tls: Option<&'a TlsFiles>,
    pub operator_jwt: &'a str,
    /// Public key and token.
    pub sys: (&'a str, &'a str),
    pub control: (&'a str, &'a str),
    pub edge: (&'a str, &'a str),
}

/// What makes several nodes one hub.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    /// Where the other nodes connect to this one.
    pub listen: SocketAddr,
    /// Where each node is for the others, this one among them: `host:port`.
    pub routes: &'a [String],
    /// Whoever reaches that port and knows it is a node. Letters and digits.
    pub secret: &'a str,
}

/// Certificate and key of the hub, absolute paths.
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Of a private CA.
    pub ca: Option<PathBuf>,
}

/// # Errors
/// Where a value cannot stand in such a file, or websockets without TLS would be open to others.
pub fn render(conf: &HubConf<'_>) -> anyhow::Result<String> {
    if let Some(ws) = conf.ws_listen {
        ensure!(
            conf.tls.is_some() || ws.ip().is_loopback(),
            "websockets without TLS are for loopback only, not {ws}: give --tls-cert and --tls-key, or --ws-listen off"
        );
    }
    let tls = |indent: &str| -> anyhow::Result<String> {
        Ok(match conf.tls {
            None => String::new(),
            Some(files) => {
                format!(
                    "{indent}tls {{\n{indent}  cert_file: {}\n{indent}  key_file: {}\n{indent}}}",
                    quoted(&files.cert)?,
                    quoted(&files.key)?
                )
            }
        })
    };
    let websocket = match conf.ws_listen {
        None => String::new(),
        Some(listen) => {
            let safety =
                if conf.tls.is_some() { tls("  ")? } else { "  no_tls: true                                # loopback only".into() };
            format!(
                "websocket {{                                   # browsers and, under /leafnode, leafs\n  listen: \"{listen}\"\n{safety}\n}}"
            )
        }
    };
    let store = quoted(conf.store)?;
    let cluster = conf.cluster.map(|cluster| cluster_block(&cluster, conf.tls)).transpose()?.unwrap_or_default();
    let values = [
        ("SERVER_NAME", conf.name.to_owned()),
        ("CLUSTER", cluster),
        ("CLIENT_LISTEN", conf.client_listen.to_string()),
        ("MONITOR_LISTEN", conf.monitor_listen.to_string()),
        ("LEAF_LISTEN", conf.leaf_listen.to_string()),
        ("STORE", store.trim_matches('"').to_owned()),
        ("SYNC_INTERVAL", sync_interval(conf.sync_interval)?),
        ("OPERATOR_JWT", conf.operator_jwt.to_owned()),
        ("SYS_PUBLIC_KEY", conf.sys.0.to_owned()),
        ("SYS_ACCOUNT_JWT", conf.sys.1.to_owned()),
        ("CONTROL_PUBLIC_KEY", conf.control.0.to_owned()),
        ("CONTROL_ACCOUNT_JWT", conf.control.1.to_owned()),
        ("EDGE_PUBLIC_KEY", conf.edge.0.to_owned()),
        ("EDGE_ACCOUNT_JWT", conf.edge.1.to_owned()),
        ("CLIENT_TLS", tls("")?),
        ("LEAF_TLS", tls("  ")?),
        ("WEBSOCKET", websocket),
    ];
    let text = values.iter().fold(TEMPLATE.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value));
    ensure!(!text.contains("{{"), "the template of hub.conf has a placeholder that nothing fills");
    Ok(text)
}

/// Routes ask for a password, and with TLS for the certificate of the other node as well. Clients are told all nodes by
/// ourselves: what a node knows of the others are addresses that may mean nothing outside.
fn cluster_block(cluster: &Cluster<'_>, tls: Option<&TlsFiles>) -> anyhow::Result<String> {
    let Cluster { listen, routes, secret } = cluster;
    let mut urls = Vec::new();
    for route in *routes {
        let fine = route.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']'))
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        ensure!(fine, "--routes {route}: host:port is expected");
        urls.push(format!("\"nats-route://hub:{secret}@{route}\""));
    }
    let tls = match tls {
        None => String::new(),
        Some(files) => {
            let ca = files.ca.as_deref().map(quoted).transpose()?.map(|ca| format!("    ca_file: {ca}\n")).unwrap_or_default();
            let (cert, key) = (quoted(&files.cert)?, quoted(&files.key)?);
            format!(
                "  tls {{                                       # the certificate serves both ends\n    cert_file: {cert}\n    key_file: {key}\n{ca}  }}\n"
            )
        }
    };
    Ok(format!(
        "cluster {{                                     # the other nodes of the hub
  name: hub
  listen: \"{listen}\"
  authorization {{
    user: hub
    password: \"{secret}\"
    timeout: 5
  }}
  routes: [ {} ]
  no_advertise: true                          # every client is told all nodes by us
{tls}}}
",
        urls.join(", ")
    ))
}

fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().unwrap_or_default();
    let fine = !text.is_empty() && !text.contains(['"', '\\', '\n', '\r', '{', '}']);
    ensure!(fine, "{} cannot stand in a configuration file: choose a path without quotes, braces and backslashes", path.display());
    Ok(format!("\"{text}\""))
}

/// `always`, or a number with `s`, `m` or `h`.
/// A line of a setting is no longer than this; tokens are.
const SETTING_CHARS_MAX: usize = 200;

/// What two configurations say otherwise, tokens left out: an address that is not given falls back to this machine alone.
pub fn changed_lines(old: &str, new: &str) -> Vec<String> {
    let settings = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned());
        lines.filter(|line| !line.is_empty() && !line.starts_with('#') && line.len() <= SETTING_CHARS_MAX).collect()
    };
    let (old, new) = (settings(old), settings(new));
    let only = |these: &[String], those: &[String], sign: char| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    [only(&old, &new, '-'), only(&new, &old, '+')].concat()
}

/// What a configuration that [`render`] made says.
pub fn sync_interval_of(conf: &str) -> Option<String> {
    let rest = conf.lines().find_map(|line| line.trim().strip_prefix("sync_interval:"))?;
    rest.split_whitespace().next().map(|value| value.trim_matches('"').to_owned())
}

fn sync_interval(text: &str) -> anyhow::Result<String> {
    let number = text.strip_suffix(['s', 'm', 'h']);
    let fine = text == "always" || number.is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n > 0));
    ensure!(fine, "--sync-interval {text}: write always, or a duration such as 10s or 2m");
    Ok(if text == "always" { text.to_owned() } else { format!("\"{text}\"") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(store: &Path, sync: &str, ws: Option<&str>) -> anyhow::Result<String> {
        filled(store, sync, ws, None)
    }

    fn filled(store: &Path, sync: &str, ws: Option<&str>, routes: Option<&[String]>) -> anyhow::Result<String> {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        render(&HubConf {
            name: "hub-1",
            cluster: routes.map(|routes| Cluster { listen: at(4), routes, secret: "5ec4e7" }),
            client_listen: at(1),
            leaf_listen: at(2),
            ws_listen: ws.map(|ws| ws.parse().unwrap()),
            monitor_listen: at(3),
            store,
            sync_interval: sync,
            tls: None,
            operator_jwt: "o.o.o",
            sys: ("AS", "s.s.s"),
            control: ("AC", "c.c.c"),
            edge: ("AE", "e.e.e"),
        })
    }

    #[test]
    fn websockets_without_tls_stay_at_home() {
        let store = Path::new("/net/store");
        let text = with(store, "2m", Some("127.0.0.1:8443")).unwrap();
        assert!(text.contains("no_tls: true") && text.contains("AE: e.e.e") && text.contains("sync_interval: \"2m\""), "{text}");
        assert!(with(store, "always", None).unwrap().contains("sync_interval: always"));
        for said in ["always", "2m", "10s"] {
            assert_eq!(sync_interval_of(&with(store, said, None).unwrap()).as_deref(), Some(said));
        }
        assert_eq!(sync_interval_of("port: 1"), None);
        let (open, closed) = (with(store, "always", Some("127.0.0.1:8443")).unwrap(), with(store, "2m", None).unwrap());
        assert_eq!(changed_lines(&open, &open), [""; 0]);
        let changed = changed_lines(&open, &closed);
        assert!(changed.contains(&"- sync_interval: always".into()) && changed.contains(&"+ sync_interval: \"2m\"".into()), "{changed:?}");
        assert!(changed.contains(&"- listen: \"127.0.0.1:8443\"".into()), "{changed:?}");
        assert!(with(store, "2m", Some("0.0.0.0:8443")).unwrap_err().to_string().contains("--ws-listen off"));
    }

    #[test]
    fn nodes_know_each_other_by_a_password() {
        let alone = with(Path::new("/net/store"), "2m", None).unwrap();
        assert!(!alone.contains("cluster {") && alone.contains("server_name: hub-1\n"), "{alone}");
        let routes = ["hub-1:6222".to_owned(), "10.0.0.2:6222".to_owned()];
        let text = filled(Path::new("/net/store"), "always", None, Some(&routes)).unwrap();
        for part in
            ["nats-route://hub:5ec4e7@hub-1:6222\", \"nats-route://hub:5ec4e7@10.0.0.2:6222", "password: \"5ec4e7\"", "no_advertise: true"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        for bad in ["hub-1", "hub-1:", ":6222", "a b:1", "a\":1", "x}:1", "u:p@h:1"] {
            assert!(filled(Path::new("/net/store"), "always", None, Some(&[bad.to_owned()])).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_breaks_out_of_its_place() {
        for (store, sync) in [("/a\"b", "2m"), ("/a\nb", "2m"), ("/a", "2m } x {"), ("/a", "0s"), ("/a", "")] {
            assert!(with(Path::new(store), sync, None).is_err(), "{store:?} {sync:?}");
        }
    }
}
