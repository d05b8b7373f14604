//! A hub that several networks share. The first network's folder holds the hub: operator, system account, configuration. Each further one has
//! accounts, keys and an owner of its own, and of the hub only who signs for it; its accounts are given to the running nodes, which keep them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use bus::Bus;

use super::net_dir::{Change, NetDir};
use crate::jwt::{self, Account};
use crate::revoker::nodes::Nodes;

/// The network whose hub is shared.
#[derive(Debug)]
pub struct Host {
    pub dir: NetDir,
}

/// The one that was asked for or, later, the one that it is; `None` for a hub of its own.
///
/// # Errors
/// Where a network would change its hub, or that folder holds none.
pub fn of(asked: Option<&Path>, dir: &NetDir) -> anyhow::Result<Option<Host>> {
    let found = noted(dir)?;
    let asked = asked.map(|path| std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))).transpose()?;
    let root = match (asked, found) {
        (None, None) => return Ok(None),
        (Some(asked), Some(found)) if asked != found => {
            bail!("error[M0206]: this network shares the hub of {}, and is left as it is; not {}", found.display(), asked.display())
        }
        (Some(asked), None) if dir.nodes().is_some() => {
            bail!("error[M0206]: this network has a hub of its own, and is left as it is; not that of {}", asked.display())
        }
        (Some(root), _) | (None, Some(root)) => root,
    };
    let host = NetDir::new(&root)?;
    ensure!(
        host.network().exists(),
        "error[M0203]: {} is no network's folder (next: mesh-gateway bootstrap files --dir {})",
        root.display(),
        root.display()
    );
    if let Some(its) = noted(&host)? {
        bail!("error[M0206]: {} shares a hub itself (next: --hub-of {})", root.display(), its.display());
    }
    Ok(Some(Host { dir: host }))
}

fn noted(dir: &NetDir) -> anyhow::Result<Option<PathBuf>> {
    let path = dir.hub_of();
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    Ok(Some(text.trim_end_matches('\n').into()))
}

impl Host {
    /// Keeps in `dir` whose hub it is, and the CA that vouches for it.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn note(&self, dir: &NetDir, changes: &mut Vec<Change>) -> anyhow::Result<()> {
        dir.put(&dir.hub_of(), format!("{}\n", self.dir.root().display()).as_bytes(), changes)?;
        let ca = self.dir.ca_cert();
        if ca.exists() {
            let pem = std::fs::read(&ca).with_context(|| format!("failed to read {}", ca.display()))?;
            dir.put(&dir.ca_cert(), &pem, changes)?;
        }
        Ok(())
    }
}

/// Gives the running hub the accounts of a network that shares it. Its nodes keep them, and one that is away gets them from the others.
///
/// # Errors
/// Where no node takes one.
pub async fn give_accounts(sys: Bus, dir: &NetDir, changes: &mut Vec<Change>) -> anyhow::Result<()> {
    let mut nodes = Nodes::of(sys);
    nodes.look().await;
    for name in ["control", "edge"] {
        let token = bus::keys::read_secret(&dir.jwt(name))?.trim().to_owned();
        let account = jwt::decode::<Account>(&token)?.sub;
        let found = nodes.have(&account).await;
        if !found.is_empty() && found.iter().all(|found| found.trim() == token) {
            continue;
        }
        let told = nodes.update(&token).await;
        ensure!(told.nodes > 0, "error[M0701]: no node of the hub took the account {name} of this network (next: run it again)");
        changes.push(Change::new(format!("account {name}"), format!("given to {} of {} nodes of the hub", told.nodes, told.of)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(hub_of: Option<&NetDir>) -> (tempfile::TempDir, NetDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = NetDir::new(&folder.path().join("net")).unwrap();
        files_of(&dir, hub_of).unwrap();
        (folder, dir)
    }
    fn files_of(dir: &NetDir, hub_of: Option<&NetDir>) -> anyhow::Result<Vec<Change>> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: super::super::files::FilesArgs,
        }
        let root = |dir: &NetDir| dir.root().to_str().unwrap().to_owned();
        let shared = hub_of.map(|hub| ["--hub-of".to_owned(), root(hub)]);
        let flags = ["x".to_owned(), "--dir".into(), root(dir)].into_iter().chain(shared.into_iter().flatten());
        super::super::files::files(&<Cli as clap::Parser>::parse_from(flags).args, 1_800_000_000)
    }

    #[test]
    fn a_further_network_has_all_but_a_hub() {
        let (_first, hub) = made(None);
        let (_second, dir) = made(Some(&hub));
        for absent in [dir.nkey("operator"), dir.nkey("operator-signing"), dir.nkey("sys"), dir.jwt("operator"), dir.hub_conf()] {
            assert!(!absent.exists(), "{}", absent.display());
        }
        let signer = crate::bootstrap::files::read_nkey(&hub.nkey("operator-signing")).unwrap().public_key();
        for name in ["control", "edge"] {
            let token = |dir: &NetDir| jwt::decode::<Account>(bus::keys::read_secret(&dir.jwt(name)).unwrap().trim()).unwrap();
            assert_eq!(token(&dir).iss, signer);
            assert_ne!(token(&dir).sub, token(&hub).sub);
        }
        assert_eq!(files_of(&dir, None).unwrap(), [], "whose hub it is stays");
        assert_eq!(files_of(&hub, None).unwrap(), [], "the other one is as it was");
    }

    #[test]
    fn a_network_stays_where_it_is() {
        let ((_first, hub), (_other, own)) = (made(None), made(None));
        let (_second, dir) = made(Some(&hub));
        let nowhere = NetDir::new(Path::new("/no/such/folder")).unwrap();
        let fresh = tempfile::tempdir().unwrap();
        let fresh = NetDir::new(fresh.path()).unwrap();
        for (dir, hub_of, said) in [
            (&dir, &own, "shares the hub of"),
            (&own, &hub, "has a hub of its own"),
            (&fresh, &nowhere, "is no network's folder"),
            (&fresh, &dir, "shares a hub itself"),
        ] {
            let error = files_of(dir, Some(hub_of)).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("M020"), "{error}");
        }
    }
}
