//! Checks that a file is the pinned one, and remembers it, so that 91 MB are not hashed at every start.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{EmbedError, folder};

/// The publisher's files, as scripts/model.sh fetches them.
pub const WEIGHTS_SHA256: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";
pub const TOKENIZER_SHA256: &str = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037";

/// The notes' file in the cache folder.
const NOTES: &str = "verified.json";

/// What a file looked like when it was hashed. A file that still looks so is not hashed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    bytes: u64,
    /// Nanoseconds since 1970, as text: JSON numbers are not that long.
    modified_ns: String,
    sha256: String,
}

/// Checks that the file has this sha256 (lower-case hex).
///
/// # Errors
/// [`EmbedError::NotTheModel`] where it has another, [`EmbedError::Read`] where it cannot be read. That the check cannot
/// be remembered is no error: it is then repeated at the next start.
pub fn verify(path: &Path, expected: &'static str, cache_dir: &Path) -> Result<(), EmbedError> {
    let unreadable = |source| EmbedError::Read { path: path.into(), source };
    let (bytes, modified_ns) = look(path).map_err(unreadable)?;
    let notes_path = cache_dir.join(NOTES);
    // Notes that cannot be read are no notes.
    let mut notes: BTreeMap<String, Note> =
        fs::read(&notes_path).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let key = path.display().to_string();
    let noted = notes.get(&key).filter(|note| note.bytes == bytes && note.modified_ns == modified_ns);
    let found = match noted {
        Some(note) => note.sha256.clone(),
        None => sha256(path).map_err(unreadable)?,
    };
    if found != expected {
        return Err(EmbedError::NotTheModel { path: path.into(), found, expected });
    }
    if noted.is_none() {
        notes.insert(key, Note { bytes, modified_ns, sha256: found });
        let written = serde_json::to_vec_pretty(&notes).map_err(io::Error::other).and_then(|json| folder::write_whole(&notes_path, &json));
        if let Err(error) = written {
            tracing::debug!(path = %notes_path.display(), %error, "cannot remember which model files were checked");
        }
    }
    Ok(())
}

fn look(path: &Path) -> io::Result<(u64, String)> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((metadata.len(), modified.as_nanos().to_string()))
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => {
                return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
            }
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::SystemTime};

    use super::{NOTES, verify};
    use crate::EmbedError;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn a_checked_file_is_remembered_until_it_changes() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (file, cache) = (folder.path().join("file"), folder.path().join("new/cache"));
        fs::write(&file, "hello").expect("write");
        verify(&file, HELLO, &cache).expect("is the file");
        assert!(fs::read_to_string(cache.join(NOTES)).expect("notes").contains(HELLO));

        // Same size and time: believed without reading, which is what makes a start cheap.
        let time = fs::metadata(&file).and_then(|metadata| metadata.modified()).expect("time");
        fs::write(&file, "jello").expect("write");
        fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(time)).expect("set time");
        verify(&file, HELLO, &cache).expect("looks the same");

        fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH)).expect("set time");
        let said = verify(&file, HELLO, &cache).expect_err("changed");
        assert!(matches!(said, EmbedError::NotTheModel { .. }), "{said}");
        assert!(said.to_string().contains("make model"), "{said}");
    }

    #[test]
    fn broken_notes_and_unwritable_caches_are_no_error() {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = folder.path().join("file");
        fs::write(&file, "hello").expect("write");
        fs::write(folder.path().join(NOTES), "{\"a\": 7").expect("write");
        verify(&file, HELLO, folder.path()).expect("is the file");
        verify(&file, HELLO, &file.join("under-a-file")).expect("is the file");
        let said = verify(&folder.path().join("none"), HELLO, folder.path()).expect_err("no file");
        assert!(matches!(said, EmbedError::Read { .. }), "{said}");
    }
}
