//! `consent.toml`: what the owner of this device consents to ([`Consent`]), read anew as soon as it has changed.
//!
//! No file: all is allowed. A file that cannot be read: nothing new is, since nobody knows what it means.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bus_schemas::{Code, Problem, UnixMs};

use crate::consent::Consent;

/// Far more than anybody writes.
const BYTES_MAX: u64 = 256 * 1024;
/// Two changes within this may leave a file with the same times: one that is younger is read again.
const COARSE: Duration = Duration::from_millis(100);

/// What a file is known by: where it is, how large, who may write, when it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: u64,
    bytes: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The file, and what it says.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    seen: Option<Seen>,
    /// It was old enough when it was read.
    settled: bool,
    consent: Result<Consent, Problem>,
    read_at: Option<UnixMs>,
}

impl Watched {
    pub fn open(path: PathBuf) -> Self {
        let mut watched = Self { path, seen: None, settled: false, consent: Ok(Consent::default()), read_at: None };
        watched.refresh();
        watched
    }

    /// Looks at the file, and reads it where it is another; whether it says something else now.
    pub fn refresh(&mut self) -> bool {
        let now = look(&self.path);
        if self.settled && now == self.seen {
            return false;
        }
        let age = now.and_then(|seen| {
            let since = Duration::new(u64::try_from(seen.changed.0).ok()?, u32::try_from(seen.changed.1).ok()?);
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since).ok()
        });
        (self.seen, self.settled) = (now, now.is_none() || age.is_some_and(|age| age > COARSE));
        let consent = read(&self.path);
        let is_other = consent != self.consent;
        if is_other || (self.read_at.is_none() && now.is_some()) {
            self.read_at = Some(bus::hub_time::here_ms());
        }
        self.consent = consent;
        is_other
    }

    /// What holds now.
    ///
    /// # Errors
    /// [`Code::BadFile`], and what is wrong with the file.
    pub fn consent(&self) -> Result<&Consent, &Problem> {
        self.consent.as_ref()
    }
    /// When that was read, by this machine's clock; `None`: there was never a file.
    pub fn read_at(&self) -> Option<UnixMs> {
        self.read_at
    }
}

fn look(path: &Path) -> Option<Seen> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Seen {
        inode: meta.ino(),
        bytes: meta.len(),
        mode: meta.mode(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// What the file says; all is allowed where there is none.
///
/// # Errors
/// [`Code::BadFile`]: what is wrong with it, and in which line.
pub fn read(path: &Path) -> Result<Consent, Problem> {
    let bad = |why: String| Problem::new(Code::BadFile, format!("{}: {why}", path.display()));
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Consent::default()),
        Err(error) => return Err(bad(error.to_string())),
    };
    if meta.mode() & 0o022 != 0 {
        return Err(bad(format!("others may change it (mode {:o})", meta.mode() & 0o777)));
    }
    if !meta.is_file() || meta.len() > BYTES_MAX {
        return Err(bad(format!("no file of at most {BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    parse(&text).map_err(bad)
}

fn parse(text: &str) -> Result<Consent, String> {
    let consent: Consent = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        format!("{line}{}", error.message().lines().collect::<Vec<_>>().join("; "))
    })?;
    consent.whole().map_err(|(problem, words)| {
        let line = text.lines().position(|line| line.contains(&words)).map(|line| format!("line {}: ", line + 1));
        format!("{}{}", line.unwrap_or_default(), problem.detail)
    })?;
    Ok(consent)
}

const HEAD: &str = "# What this device takes; `mesh consent` changes it, and so may you: it counts as soon as it is written.
# A list that is absent under [allow] allows all; an empty one allows nothing; what stands under [deny] is never taken.
# kinds, members (mem_… or me), groups (named below), data_classes (public, internal, confidential, restricted), models (SHA-256).
# stop_running: what runs is handed back too once it is no longer allowed; otherwise it ends here.

";

/// Writes it, whole or not at all.
///
/// # Errors
/// [`Code::BadFile`] where the folder cannot be written.
pub fn write(path: &Path, consent: &Consent) -> Result<(), Problem> {
    let bad = |why: String| Problem::new(Code::BadFile, format!("{}: {why}", path.display()));
    let text = toml::to_string_pretty(consent).map_err(|error| bad(error.to_string()))?;
    bus::keys::write_secret(path, format!("{HEAD}{text}").as_bytes()).map_err(|error| bad(format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consent::What;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_read_as_soon_as_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("consent.toml");
        let mut watched = Watched::open(path.clone());
        assert_eq!((watched.consent(), watched.read_at()), (Ok(&Consent::default()), None));
        assert!(!watched.refresh());
        // Of the same size, one right after the other.
        for kind in ["echo", "echo", "none", "echo"] {
            let before = watched.consent().ok().map(|consent| consent.allows_kind("echo"));
            std::fs::write(&path, format!("[deny]\nkinds = [\"{kind}\"]\n")).unwrap();
            watched.refresh();
            assert_eq!(watched.consent().is_ok(), kind == "echo", "{before:?}");
        }
        assert!(watched.consent().is_ok_and(|consent| !consent.allows_kind("echo")));
        let mut other = Consent::default();
        other.only(What::Kind, &["echo".to_owned()]).unwrap();
        write(&path, &other).unwrap();
        assert!(watched.refresh() && watched.consent() == Ok(&other));
        // Writable by others: whose consent is it?
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(watched.refresh());
        assert!(watched.consent().is_err_and(|problem| problem.detail.ends_with("others may change it (mode 664)")));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(watched.refresh() && watched.consent().is_ok());
        std::fs::remove_file(&path).unwrap();
        assert!(watched.refresh() && watched.consent() == Ok(&Consent::default()) && watched.read_at().is_some());
        std::fs::create_dir(&path).unwrap();
        assert!(watched.refresh() && watched.consent().is_err());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, said) in [
            ("# mine\n[allow]\nkinds = [\"ecco\"]\n", "line 3: \"ecco\" is no kind of job"),
            ("[allow]\nkids = []\n", "line 2: unknown field `kids`"),
            ("[allow]\n\ngroups = [\"lab\"]\n", "line 3: the group lab is not under [groups]"),
            ("stop_running = yes\n", "line 1: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(said) && !error.contains('\n'), "{error}");
        }
        assert_eq!(parse(HEAD), Ok(Consent::default()));
    }
}
