//! Every secret that a run made, and where it stands: in the files that are there to keep it, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bus_schemas::network::Invite;
use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use nkeys::KeyPair;

/// Files that keep secrets, by the end of their name. Whoever else may read them is a finding.
const KEEPERS: [&str; 11] =
    [".key", ".nk", ".creds", "token", "token.previous", "invite", "leaf.toml", "leaf.conf", ".conf", "-key.pem", "ca.key.pem"];

/// What a run made, by what it is; each in the forms in which it could be written.
#[derive(Default)]
pub struct Secrets {
    what: Vec<String>,
    known: BTreeSet<Vec<u8>>,
    /// Pieces by their first eight bytes: with which number of `what`.
    pieces: BTreeMap<[u8; 8], Vec<(Vec<u8>, usize)>>,
}

impl Secrets {
    /// All that the files below the folder keep.
    ///
    /// # Panics
    /// Where a file that is there cannot be read.
    pub fn below(folder: &Path) -> Self {
        let mut secrets = Self::default();
        for path in files(folder) {
            let Ok(bytes) = fs::read(&path) else { continue };
            if bytes.len() > 1 << 20 {
                continue;
            }
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
            secrets.keys(&name, &text);
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if file == "token" || file.ends_with(".token") {
                secrets.text(&format!("the token of {name}"), text.trim());
            }
            if let Ok(invite) = Invite::parse(&text) {
                secrets.text(&format!("the invite of {name}"), &invite.secret);
            }
            if file == "leaf.toml" {
                for line in text.lines().filter(|line| line.contains("_password")) {
                    let value = line.split('"').nth(1).unwrap_or_default();
                    secrets.text(&format!("{} of {name}", line.split(' ').next().unwrap_or_default()), value);
                }
            }
        }
        secrets
    }

    /// Identity keys, nkeys and private keys of TLS in a text.
    fn keys(&mut self, name: &str, text: &str) {
        for (at, marker) in text.match_indices("mesh-ed25519-seed ") {
            let hex = text[at + marker.len()..].split_whitespace().next().unwrap_or_default();
            if let Ok(seed) = HEXLOWER.decode(hex.as_bytes()) {
                self.raw(&format!("the identity key of {name}"), &seed);
            }
        }
        for word in text.split(|sign: char| !sign.is_ascii_alphanumeric()).filter(|word| word.len() == 58 && word.starts_with('S')) {
            if KeyPair::from_seed(word).is_ok() {
                self.text(&format!("the nkey of {name}"), word);
                // Two bytes of prefix, the key, two of checksum.
                let raw = BASE32_NOPAD.decode(word.as_bytes()).expect("a seed is base32");
                self.raw(&format!("the nkey of {name}"), &raw[2..34]);
            }
        }
        let pem = text.split("PRIVATE KEY-----").nth(1).unwrap_or_default();
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        // What it begins with is the same in every key.
        if let Some(own) = body.len().checked_sub(40) {
            self.text(&format!("the TLS key of {name}"), &body[own..]);
        }
    }

    fn raw(&mut self, what: &str, bytes: &[u8]) {
        if !self.known.insert(bytes.to_vec()) {
            return;
        }
        self.forms(what, bytes);
        self.pieces_of(what, bytes);
    }
    fn text(&mut self, what: &str, text: &str) {
        assert!(text.len() >= 16, "{what} is too short to be a secret");
        if !self.known.insert(text.as_bytes().to_vec()) {
            return;
        }
        self.forms(what, text.as_bytes());
        self.pieces_of(what, text.as_bytes());
    }
    fn forms(&mut self, what: &str, bytes: &[u8]) {
        let base32 = BASE32_NOPAD.encode(bytes);
        for form in [
            HEXLOWER.encode(bytes),
            HEXUPPER.encode(bytes),
            BASE64_NOPAD.encode(bytes),
            BASE64URL_NOPAD.encode(bytes),
            base32.to_lowercase(),
            base32,
        ] {
            self.pieces_of(what, form.as_bytes());
        }
    }
    /// Both halves, so that a secret is found that was cut.
    fn pieces_of(&mut self, what: &str, form: &[u8]) {
        self.what.push(what.to_owned());
        let number = self.what.len() - 1;
        for piece in [&form[..form.len() / 2], &form[form.len() / 2..]] {
            let first: [u8; 8] = piece[..8].try_into().expect("a piece of a secret is long");
            self.pieces.entry(first).or_default().push((piece.to_vec(), number));
        }
    }

    /// How many secrets there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What of them stands in these bytes.
    pub fn in_bytes(&self, bytes: &[u8]) -> BTreeSet<String> {
        // Most places are told apart by two bytes; the rest is looked up.
        let mut begins = vec![false; 1 << 16];
        for first in self.pieces.keys() {
            begins[usize::from(u16::from_be_bytes([first[0], first[1]]))] = true;
        }
        let mut found = BTreeSet::new();
        for (at, window) in bytes.windows(8).enumerate() {
            if !begins[usize::from(u16::from_be_bytes([window[0], window[1]]))] {
                continue;
            }
            let Ok(first) = <[u8; 8]>::try_from(window) else { continue };
            for (piece, number) in self.pieces.get(&first).into_iter().flatten() {
                if bytes[at..].starts_with(piece) {
                    found.insert(self.what[*number].clone());
                }
            }
        }
        found
    }

    /// Files below the folder in which a secret stands, other than those that keep it and that only their owner may read.
    pub fn spilt_below(&self, folder: &Path) -> Vec<String> {
        let mut spilt = Vec::new();
        for path in files(folder) {
            let Ok(bytes) = fs::read(&path) else { continue };
            let found = self.in_bytes(&bytes);
            if found.is_empty() {
                continue;
            }
            let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
            let keeps = KEEPERS.iter().any(|end| name.ends_with(end));
            let mode = fs::metadata(&path).map_or(0, |meta| meta.permissions().mode() & 0o777);
            if !keeps {
                spilt.push(format!("{name} has {found:?}"));
            } else if mode & 0o077 != 0 {
                spilt.push(format!("{name} keeps {found:?} with mode {mode:o}"));
            }
        }
        spilt
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                Ok(_) | Err(_) => {}
            }
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form_and_where_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let seed = [0x5a_u8; 32].map(|byte| byte.wrapping_mul(7) ^ 0x31);
        let user = KeyPair::new_user().seed().unwrap();
        let token = "0123456789abcdef0123456789abcdef";
        for (name, text) in [
            ("device.key", format!("mesh-ed25519-seed {}\n", HEXLOWER.encode(&seed))),
            ("user.creds", format!("-----BEGIN USER NKEY SEED-----\n{user}\n")),
            ("token", token.to_owned()),
        ] {
            bus::keys::write_secret(&folder.path().join(name), text.as_bytes()).unwrap();
        }
        let secrets = Secrets::below(folder.path());
        assert_eq!(secrets.len(), 4, "a seed, an nkey in two forms, a token");
        assert_eq!(secrets.spilt_below(folder.path()), [""; 0]);
        let hex = HEXUPPER.encode(&seed);
        for leak in
            [hex.clone(), hex[20..].to_owned(), BASE64URL_NOPAD.encode(&seed), format!("x{user}y"), user[..40].to_owned(), token.into()]
        {
            assert_eq!(secrets.in_bytes(format!("error: {leak}").as_bytes()).len(), 1, "{leak}");
        }
        assert_eq!(secrets.in_bytes(&[b"x".as_slice(), &seed].concat()).len(), 1);
        assert!(secrets.in_bytes(b"nothing of the kind").is_empty());
        fs::write(folder.path().join("agent.log"), token).unwrap();
        fs::set_permissions(folder.path().join("user.creds"), fs::Permissions::from_mode(0o640)).unwrap();
        let spilt = secrets.spilt_below(folder.path());
        assert_eq!(spilt.len(), 2, "{spilt:?}");
    }
}
