//! Where the data of a stack lie, and as whom Postgres may use them.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bus_schemas::Code;

use crate::cli::failure::Failure;

/// The folder of one stack.
#[derive(Debug, Clone)]
pub struct Place {
    pub root: PathBuf,
    /// It goes when the stack ends.
    pub temporary: bool,
    /// Of the socket, where the folder's own path is too long for one.
    pub socket: PathBuf,
}

/// A socket's path has 107 characters; `.s.PGSQL.5432` is one of them.
const SOCKET_FOLDER_MAX: usize = 90;

impl Place {
    /// Makes the folder, or takes the one that is asked for.
    ///
    /// # Errors
    /// Where it cannot be made, or another stack uses it.
    pub fn make(asked: Option<&Path>) -> Result<Self, Failure> {
        let (root, temporary) = match asked {
            Some(path) => {
                let path = std::path::absolute(path).map_err(|error| bad(path, &error))?;
                make_folder(&path)?;
                (fs::canonicalize(&path).map_err(|error| bad(&path, &error))?, false)
            }
            None => (fresh("mesh-dev-")?, true),
        };
        // Only what another account must reach is open: it may pass through this folder, not list it.
        set_mode(&root, if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 })?;
        let own = root.join("run");
        let socket = if own.as_os_str().len() <= SOCKET_FOLDER_MAX { own } else { fresh("mesh-")? };
        for name in ["logs", "agents", "run", "contexts"] {
            make_folder(&root.join(name))?;
        }
        set_mode(&root.join("run"), 0o700)?;
        Ok(Self { root, temporary, socket })
    }
    pub fn network(&self) -> PathBuf {
        self.root.join("network")
    }
    pub fn postgres(&self) -> PathBuf {
        self.root.join("postgres")
    }
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }
    pub fn agent(&self, name: &str) -> PathBuf {
        self.root.join("agents").join(name)
    }
    pub fn member(&self) -> PathBuf {
        self.root.join("member")
    }
    pub fn contexts(&self) -> PathBuf {
        self.root.join("contexts")
    }
    pub fn processes(&self) -> PathBuf {
        self.root.join("processes.json")
    }
    /// Where the hub is, for a network beside this one.
    pub fn hub(&self) -> PathBuf {
        self.root.join("hub.json")
    }
    pub fn invite(&self) -> PathBuf {
        self.root.join("invite")
    }
    /// Removes what is temporary.
    pub fn clear(&self) {
        if self.temporary {
            remove(&self.root);
        }
        if !self.socket.starts_with(&self.root) {
            remove(&self.socket);
        }
    }
}

/// Removes a folder of a stack; a last writer may still be at it.
pub fn remove(folder: &Path) {
    for _ in 0..20 {
        if fs::remove_dir_all(folder).is_ok() || !folder.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// A new folder of its own in the system's folder for temporary files.
fn fresh(prefix: &str) -> Result<PathBuf, Failure> {
    let parent = std::env::temp_dir();
    let parent = fs::canonicalize(&parent).map_err(|error| bad(&parent, &error))?;
    let path = parent.join(format!("{prefix}{}", bus::keys::random_hex::<4>()?));
    fs::DirBuilder::new().mode(0o711).create(&path).map_err(|error| bad(&path, &error))?;
    Ok(path)
}

pub fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| bad(path, &error))
}
pub fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| bad(path, &error))
}
fn bad(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::BadFile, format!("{}: {error}", path.display())).next("mesh dev --data-dir DIR")
}

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// As whom Postgres runs: as oneself; root, whom Postgres refuses, becomes `postgres`, else `nobody`.
///
/// # Errors
/// Where root finds neither account.
pub fn postgres_account() -> Result<Option<Account>, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = ["postgres", "nobody"].iter().find_map(|name| account(&accounts, name));
    let missing = || {
        Failure::new(Code::MissingTool, "Postgres does not run as root, and there is no account postgres or nobody")
            .next("run mesh dev as an ordinary user")
    };
    found.map(Some).ok_or_else(missing)
}

fn account(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { name: name.to_owned(), uid, gid })
    })
}

/// Whether the account may pass through every folder above `path`.
pub fn reachable(path: &Path, account: &Account) -> bool {
    path.ancestors().skip(1).all(|folder| {
        fs::metadata(folder).is_ok_and(|meta| {
            let bit = if meta.uid() == account.uid {
                0o100
            } else if meta.gid() == account.gid {
                0o010
            } else {
                0o001
            };
            meta.mode() & bit != 0
        })
    })
}

/// Gives a folder and all in it to an account.
///
/// # Errors
/// Where that is not allowed.
pub fn give(path: &Path, account: &Account) -> Result<(), Failure> {
    let failed = |error: std::io::Error| bad(path, &error);
    std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid)).map_err(failed)?;
    if fs::symlink_metadata(path).map_err(failed)?.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            give(&entry.map_err(failed)?.path(), account)?;
        }
    }
    Ok(())
}

/// Copies a folder and all in it; plain files and folders only.
///
/// # Errors
/// Where something cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mode = fs::metadata(from)?.permissions().mode();
    fs::DirBuilder::new().mode(mode).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name() {
        let passwd = "root:x:0:0:root:/:/bin/sh\npostgres2:x:9:9::/:\npostgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\nodd:x:q:1::/:\n";
        assert_eq!(account(passwd, "postgres"), Some(Account { name: "postgres".into(), uid: 101, gid: 104 }));
        assert_eq!(account(passwd, "odd"), None);
        assert_eq!(account(passwd, "nobody"), None);
    }

    #[test]
    fn a_temporary_place_goes() {
        let place = Place::make(None).unwrap();
        assert!(place.root.join("logs").is_dir() && place.socket.as_os_str().len() <= SOCKET_FOLDER_MAX);
        fs::write(place.root.join("logs").join("x.log"), "x").unwrap();
        let copied = place.root.join("copy");
        copy(&place.root.join("logs"), &copied).unwrap();
        assert_eq!(fs::read_to_string(copied.join("x.log")).unwrap(), "x");
        place.clear();
        assert!(!place.root.exists());
    }

    #[test]
    fn a_long_path_gets_a_short_socket() {
        let parent = Place::make(None).unwrap();
        let long = parent.root.join("d".repeat(100));
        let place = Place::make(Some(&long)).unwrap();
        assert!(!place.socket.starts_with(&place.root) && place.socket.as_os_str().len() <= SOCKET_FOLDER_MAX);
        place.clear();
        assert!(place.root.exists() && !place.socket.exists(), "what one asked for stays");
        parent.clear();
    }
}
