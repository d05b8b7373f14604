//! Where a container would have its own network and folders, a local process has free ports and temporary folders: the same
//! words, with addresses and paths put in their place.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Addresses and folders of all services.
pub struct Place {
    folder: PathBuf,
    /// Port of a service's replica in its container -> port on loopback here.
    ports: BTreeMap<(String, u16), u16>,
    hosts: Vec<String>,
}

impl Place {
    pub fn new(folder: &Path, hosts: impl IntoIterator<Item = String>) -> Self {
        Self { folder: folder.to_owned(), ports: BTreeMap::new(), hosts: hosts.into_iter().collect() }
    }

    pub fn volume(&self, name: &str) -> PathBuf {
        self.folder.join("volumes").join(name)
    }

    /// The local port that stands for `port` of `instance`; the same at each call.
    ///
    /// # Errors
    /// Where no port is free.
    pub fn port(&mut self, instance: &str, port: u16) -> Result<u16> {
        if let Some(local) = self.ports.get(&(instance.to_owned(), port)) {
            return Ok(*local);
        }
        let local = loop {
            let free = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?.local_addr()?.port();
            if !self.ports.values().any(|taken| *taken == free) {
                break free;
            }
        };
        self.ports.insert((instance.to_owned(), port), local);
        Ok(local)
    }

    /// A word of a command line, a value of the environment or a configuration file, as `instance` would mean it. `None` is a container
    /// without a network: what it says of its own addresses is meant for another.
    ///
    /// # Errors
    /// As [`Self::port`].
    pub fn local(&mut self, instance: Option<&str>, mounts: &[(String, String)], text: &str) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(':') {
            let host_at =
                rest[..at].rfind(|sign: char| !(sign.is_ascii_alphanumeric() || ".-".contains(sign))).map_or(0, |before| before + 1);
            let host = &rest[host_at..at];
            let digits = rest[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
            let port = rest[at + 1..at + 1 + digits].parse::<u16>().ok();
            let owner = match host {
                "0.0.0.0" | "127.0.0.1" => instance.map(str::to_owned),
                _ => self.hosts.iter().find(|known| *known == host).cloned(),
            };
            // What another container's file has been given already stays.
            let placed = host == "127.0.0.1" && port.is_some_and(|port| self.ports.values().any(|local| *local == port));
            match (owner.filter(|_| !placed), port) {
                (Some(owner), Some(port)) => {
                    let local = self.port(&owner, port)?;
                    out.push_str(&format!("{}127.0.0.1:{local}", &rest[..host_at]));
                    rest = &rest[at + 1 + digits..];
                }
                _ => {
                    out.push_str(&rest[..=at]);
                    rest = &rest[at + 1..];
                }
            }
        }
        out.push_str(rest);
        Ok(mounts.iter().fold(out, |text, (volume, target)| with_folder(&text, target, &self.volume(volume))))
    }
}

/// Puts `folder` in the place of `target` wherever that is a whole path or its beginning.
fn with_folder(text: &str, target: &str, folder: &Path) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(target) {
        let whole = |sign: Option<char>| !sign.is_some_and(|sign| sign.is_ascii_alphanumeric() || "_-.".contains(sign));
        let after = &rest[at + target.len()..];
        let is_path = whole(rest[..at].chars().next_back()) && whole(after.chars().next());
        out.push_str(&rest[..at]);
        out.push_str(&if is_path { folder.display().to_string() } else { target.to_owned() });
        rest = after;
    }
    out.push_str(rest);
    out
}

#[test]
fn words_are_put_in_their_place() -> Result<()> {
    let mut place = Place::new(Path::new("/t"), ["hub".into(), "postgres".into()]);
    let mounts = [("network".to_owned(), "/etc/mesh".to_owned())];
    let (hub, mine, database) = (place.port("hub", 4222)?, place.port("gateway", 8085)?, place.port("postgres", 5432)?);
    assert_eq!(hub, place.port("hub", 4222)?);
    assert!(hub != mine && mine != database);
    let cases = [
        ("nats://hub:4222", format!("nats://127.0.0.1:{hub}")),
        ("nats://hub:4222,nats://hub:4222", format!("nats://127.0.0.1:{hub},nats://127.0.0.1:{hub}")),
        ("http://127.0.0.1:8085", format!("http://127.0.0.1:{mine}")),
        (&format!("nats-route://node:5e:c@127.0.0.1:{hub}"), format!("nats-route://node:5e:c@127.0.0.1:{hub}")),
        ("0.0.0.0:8085", format!("127.0.0.1:{mine}")),
        ("http://127.0.0.1:8085/readyz", format!("http://127.0.0.1:{mine}/readyz")),
        ("postgresql://mesh:mesh@postgres:5432/mesh", format!("postgresql://mesh:mesh@127.0.0.1:{database}/mesh")),
        ("--dir=/etc/mesh", "--dir=/t/volumes/network".to_owned()),
        ("cat /etc/mesh/invite \"/etc/mesh\"", "cat /t/volumes/network/invite \"/t/volumes/network\"".to_owned()),
        ("/etc/meshed /x/etc/mesh", "/etc/meshed /x/etc/mesh".to_owned()),
        ("other:4222 a:b mesh", "other:4222 a:b mesh".to_owned()),
    ];
    for (text, local) in cases {
        assert_eq!(place.local(Some("gateway"), &mounts, text)?, local, "{text}");
    }
    assert_eq!(
        place.local(None, &mounts, "--listen=0.0.0.0:4222 nats://hub:4222")?,
        format!("--listen=0.0.0.0:4222 nats://127.0.0.1:{hub}")
    );
    Ok(())
}
