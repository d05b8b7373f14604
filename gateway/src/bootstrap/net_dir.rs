//! The network's folder: where each file is, and writing one only when its content changes.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

/// Nodes of a hub that outlives one of them.
pub const NODES: usize = 3;

/// One thing that bootstrap did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// A file below the network's folder, a stream, a consumer, a fact.
    pub what: String,
    /// `made`, `renewed`, or what was changed.
    pub how: String,
}
impl Change {
    pub fn new(what: impl Into<String>, how: impl Into<String>) -> Self {
        Self { what: what.into(), how: how.into() }
    }
}

/// The folder that `bootstrap files` makes: folders 0700, files 0600.
#[derive(Debug, Clone)]
pub struct NetDir(PathBuf);
impl NetDir {
    pub fn new(root: &Path) -> anyhow::Result<Self> {
        Ok(Self(std::path::absolute(root).with_context(|| format!("{} is no path", root.display()))?))
    }
    pub fn root(&self) -> &Path {
        &self.0
    }
    pub fn network(&self) -> PathBuf {
        self.0.join("network.json")
    }
    /// Of a hub of one node.
    pub fn hub_conf(&self) -> PathBuf {
        self.0.join("hub.conf")
    }
    /// Of the n-th node of a hub of several, counted from 1.
    pub fn node_conf(&self, n: usize) -> PathBuf {
        self.0.join(format!("hub-{n}.conf"))
    }
    /// How many nodes the hub of this folder has, where one was made: 1 or 3.
    pub fn nodes(&self) -> Option<usize> {
        // A run that was killed may have left fewer.
        if (1..=NODES).any(|n| self.node_conf(n).exists()) {
            return Some(NODES);
        }
        self.hub_conf().exists().then_some(1)
    }
    /// Whose hub it is, where it is another network's: that one's folder.
    pub fn hub_of(&self) -> PathBuf {
        self.0.join("hub_of")
    }
    /// What the nodes of a hub know each other by.
    pub fn route_secret(&self) -> PathBuf {
        self.0.join("keys/route.secret")
    }
    /// Certificate of the network's own CA; its key.
    pub fn ca_cert(&self) -> PathBuf {
        self.0.join("ca.pem")
    }
    pub fn ca_key(&self) -> PathBuf {
        self.0.join("keys/ca.key")
    }
    /// The hub's certificate, with that of the CA behind it; its key.
    pub fn tls_cert(&self) -> PathBuf {
        self.0.join("tls.pem")
    }
    pub fn tls_key(&self) -> PathBuf {
        self.0.join("keys/tls.key")
    }
    /// Public key of the EDGE account.
    pub fn edge_pub(&self) -> PathBuf {
        self.0.join("edge.pub")
    }
    /// An Ed25519 identity key: network, gateway, scheduler, ledger.
    pub fn key(&self, name: &str) -> PathBuf {
        self.0.join(format!("keys/{name}.key"))
    }
    /// An nkey seed: operator, operator-signing, sys, control, edge, role-device, role-member, role-auditor.
    pub fn nkey(&self, name: &str) -> PathBuf {
        self.0.join(format!("keys/{name}.nk"))
    }
    /// A token: operator, sys, control, edge.
    pub fn jwt(&self, name: &str) -> PathBuf {
        self.0.join(format!("jwt/{name}.jwt"))
    }
    /// A credentials file: gateway, scheduler, ledger, revoker, operator, bootstrap, sys, auditor.
    pub fn creds(&self, name: &str) -> PathBuf {
        self.0.join(format!("creds/{name}.creds"))
    }

    /// # Errors
    /// Where the folders cannot be made.
    pub fn make(&self) -> anyhow::Result<()> {
        for folder in [self.0.clone(), self.0.join("keys"), self.0.join("jwt"), self.0.join("creds")] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .with_context(|| format!("failed to make the folder {}", folder.display()))?;
        }
        for folder in ["keys", "jwt", "creds"] {
            fs::set_permissions(self.0.join(folder), fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Holds off a second bootstrap in the same folder until the answer is dropped.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn lock(&self) -> anyhow::Result<fs::File> {
        let path = self.0.join(".lock");
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("failed to write {}", path.display()))?;
        file.lock().with_context(|| format!("failed to lock {}", path.display()))?;
        Ok(file)
    }

    /// Writes a file (0600, by rename) if its content differs.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn put(&self, path: &Path, content: &[u8], changes: &mut Vec<Change>) -> anyhow::Result<()> {
        let old = fs::read(path).ok();
        if old.as_deref() != Some(content) {
            bus::keys::write_secret(path, content)?;
            changes.push(Change::new(self.shown(path), if old.is_none() { "made" } else { "written anew" }));
        }
        Ok(())
    }

    /// A path as people see it: below the folder.
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.0).unwrap_or(path).display().to_string()
    }
}
