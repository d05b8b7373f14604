//! Files that hold secrets: identity keys (Ed25519), NATS credentials. Mode 0600, refused if wider; written whole or not at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use bus_schemas::Signer;
use bus_schemas::envelope::JsonBatch;
use bus_schemas::network::NetworkDocument;
use zeroize::Zeroizing;

const PREFIX: &str = "mesh-ed25519-seed ";

/// Random bytes from the operating system.
///
/// # Errors
/// Where the operating system has none.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness from the operating system: {error}"))?;
    Ok(bytes)
}

/// A random token of `N` bytes in lower-case hex: safe in subjects, names and files.
///
/// # Errors
/// As [`random`].
pub fn random_hex<const N: usize>() -> anyhow::Result<String> {
    Ok(random::<N>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a secret file with mode 0600: a temporary file beside it, then a rename.
///
/// # Errors
/// Where the folder cannot be written.
pub fn write_secret(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("failed to write {}", path.display()))
}

fn temporary_beside(path: &Path) -> anyhow::Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} is no file name", path.display()))?;
    Ok(path.with_file_name(format!(".{name}.{}", random_hex::<6>()?)))
}

/// Reads a secret file; refused where others than the owner may read it.
///
/// # Errors
/// Where it is missing, unreadable or open to others.
pub fn read_secret(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let meta = fs::metadata(path).with_context(|| format!("failed to read {}", path.display()))?;
    let mode = meta.permissions().mode() & 0o777;
    ensure!(mode & 0o077 == 0, "{} may be read by others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display());
    fs::read_to_string(path).map(Zeroizing::new).with_context(|| format!("failed to read {}", path.display()))
}

/// Makes a new identity key and writes it; never overwrites one.
///
/// # Errors
/// Where the file exists or cannot be written.
pub fn create_key_file(path: &Path) -> anyhow::Result<Signer> {
    if path.exists() {
        bail!("{} exists; a key is never overwritten", path.display());
    }
    let seed = Zeroizing::new(random::<32>()?);
    let text = Zeroizing::new(format!("{PREFIX}{}\n", encode(seed.as_slice())));
    write_secret(path, text.as_bytes())?;
    Ok(Signer::from_seed(&seed))
}

/// Reads an identity key.
///
/// # Errors
/// Where the file is missing, open to others, or no key.
pub fn read_key_file(path: &Path) -> anyhow::Result<Signer> {
    let text = read_secret(path)?;
    let encoded =
        text.trim().strip_prefix(PREFIX.trim_end()).map(str::trim).with_context(|| format!("{} is no identity key", path.display()))?;
    let seed = decode(encoded).with_context(|| format!("{} is no identity key", path.display()))?;
    Ok(Signer::from_seed(&seed))
}

/// The key of `path`, made if it is not there yet.
///
/// # Errors
/// As [`read_key_file`] and [`create_key_file`].
pub fn read_or_create_key_file(path: &Path) -> anyhow::Result<Signer> {
    if path.exists() { read_key_file(path) } else { create_key_file(path) }
}

fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
fn decode(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut out = Zeroizing::new([0; 32]);
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

/// Reads the network document and checks that the network's own key signed it.
///
/// # Errors
/// Where the file is missing or not such a document.
pub fn read_network(path: &Path) -> anyhow::Result<NetworkDocument> {
    let bytes = fs::read(path).with_context(|| format!("failed to read the network document {}", path.display()))?;
    parse_network(&bytes).with_context(|| format!("{} is no network document", path.display()))
}

/// As [`read_network`], from bytes.
///
/// # Errors
/// Where the bytes are not such a document.
pub fn parse_network(bytes: &[u8]) -> anyhow::Result<NetworkDocument> {
    let batch = JsonBatch::decode(bytes)?;
    let documents = batch.verify::<NetworkDocument>(&mut bus_schemas::Verifier::default())?;
    let document = documents.into_iter().next().context("it is empty")?;
    document.check(&document.by())?;
    Ok(document.into_body())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_keeps_its_key_to_itself() {
        let dir = std::env::temp_dir().join(format!("mesh-keys-{}", random_hex::<8>().unwrap()));
        fs::create_dir(&dir).unwrap();
        let path = dir.join("identity.key");
        let made = create_key_file(&path).unwrap();
        assert_eq!(read_key_file(&path).unwrap().public(), made.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(create_key_file(&path).unwrap_err().to_string().contains("never overwritten"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_key_file(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
