//! Who signs: identity keys sign only what the envelope frames, in one module; who else signs is in a list with its reason. And no code
//! of ours goes round the compiler's checks.

use crate::rust_text::{self, Word};
use crate::{expect_caught, expect_none, workspace};
use anyhow::Result;
use std::path::Path;

/// Files that name the type whose values hold a private Ed25519 key, and why.
const HOLD_IDENTITY_KEYS: [(&str, &str); 2] = [
    ("bus-schemas/src/envelope.rs", "signs DSSE frames, and gives no key out"),
    ("agent/src/cli/bench/mod.rs", "measures one check of a signature with a key of its own, which is nobody's"),
];

/// Files that sign bytes as they come, and why: nkeys, which log in, or vouch for those that do.
const SIGN_BYTES: [(&str, &str); 5] = [
    ("bus-schemas/src/envelope.rs", "the frame"),
    ("agent/src/cli/bench/mod.rs", "as above"),
    ("bus/src/connect.rs", "a server's nonce, with the transport key, where it looks like one"),
    ("agent/src/identity.rs", "a statement of enrolment, with the transport key that is to log in"),
    ("gateway/src/jwt.rs", "tokens of NATS, with the nkeys of the network"),
];

/// Modules of ours that may go round the compiler's checks, and why. There is none; `unsafe_code` is denied for the whole workspace.
const UNSAFE: [(&str, &str); 0] = [];

fn listed(list: &[(&str, &str)], file: &str) -> bool {
    list.iter().any(|(known, _)| *known == file)
}

/// What is wrong with one source file of a program. Test code may use anything but `unsafe`.
pub fn problems(file: &str, source: &str) -> Vec<String> {
    let all = rust_text::words(source);
    let mut problems = Vec::new();
    let mut say = |word: &Word, what: String| problems.push(format!("{file}:{}: {what}", word.line));
    for word in all.iter().filter(|word| matches!(word.text.as_str(), "unsafe" | "unsafe_code")) {
        if !listed(&UNSAFE, file) {
            say(word, "`unsafe` stands outside the modules of e2e/tests/tidy/keys.rs; use a crate that is made for it".into());
        }
    }
    if file.contains("/tests/")
        || file.ends_with("/tests.rs")
        || ["testkit/", "e2e/", "simulator/"].iter().any(|room| file.starts_with(room))
    {
        return problems;
    }
    let words = rust_text::without_tests(&all);
    for (at, word) in words.iter().enumerate() {
        // A method, or one named by its type; a function of a module takes a signer, which signs only frames.
        let of_a_type = |at: usize| words[at].text.starts_with(char::is_uppercase);
        let called = |name: &str| {
            word.text == name
                && words.get(at + 1).is_some_and(|next| next.text == "(")
                && match at.checked_sub(1).map_or("", |before| words[before].text.as_str()) {
                    "." => true,
                    "::" => at > 1 && of_a_type(at - 2),
                    _ => false,
                }
        };
        if matches!(word.text.as_str(), "SigningKey" | "ExpandedSecretKey" | "hazmat") && !listed(&HOLD_IDENTITY_KEYS, file) {
            let what = format!("`{}` holds an identity key; use bus_schemas::Signer, which signs only frames", word.text);
            problems.push(format!("{file}:{}: {what}", word.line));
        }
        // `.sign(bytes)` of an nkey; a method of our own with that name is a problem too, since nobody could tell them apart.
        if (called("sign") || called("try_sign")) && !listed(&SIGN_BYTES, file) {
            problems.push(format!("{file}:{}: signs bytes as they are; say in e2e/tests/tidy/keys.rs with which key and why", word.line));
        }
    }
    problems
}

fn ours() -> Result<Vec<(String, String)>> {
    let mut sources = Vec::new();
    for path in workspace::files()? {
        let name = path.display().to_string();
        if Path::new(&name).extension().is_some_and(|ext| ext == "rs") && !name.starts_with("vendor/") {
            sources.push((name, std::fs::read_to_string(workspace::root().join(&path))?));
        }
    }
    Ok(sources)
}

#[test]
fn who_signs_and_with_what_is_listed() -> Result<()> {
    let sources = ours()?;
    expect_none(&sources.iter().flat_map(|(name, source)| problems(name, source)).collect::<Vec<_>>());
    // A list that names what is not there says nothing.
    for (file, why) in HOLD_IDENTITY_KEYS.iter().chain(&SIGN_BYTES).chain(&UNSAFE) {
        assert!(sources.iter().any(|(name, _)| name == file) && !why.is_empty(), "{file} is listed and not there");
    }
    Ok(())
}

#[test]
fn a_signer_gives_out_no_key_and_signs_no_bytes() -> Result<()> {
    let source = std::fs::read_to_string(workspace::root().join("bus-schemas/src/envelope.rs"))?;
    let (_, from) = source.split_once("impl Signer {").expect("the signer");
    let (body, _) = from.split_once("\n}\n").expect("its end");
    let public: Vec<&str> = body.split("pub fn ").skip(1).map(|rest| rest.split(['(', '<']).next().unwrap_or_default()).collect();
    assert_eq!(public, ["from_seed", "public", "batch", "batch_of_bytes", "json_batch", "headers"], "what else does a signer do?");
    assert!(source.contains("pub struct Signer {\n    key: SigningKey,"), "the key is nobody else's to read");
    Ok(())
}

#[test]
fn every_crate_takes_the_rules_of_the_workspace() -> Result<()> {
    let root = std::fs::read_to_string(workspace::root().join("Cargo.toml"))?;
    assert!(root.contains("unsafe_code = \"deny\""), "unsafe code is denied");
    for member in workspace::members()? {
        let manifest = std::fs::read_to_string(member.folder.join("Cargo.toml"))?;
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} does not take the lints of the workspace", member.name);
    }
    Ok(())
}

#[test]
fn what_goes_round_the_rules_is_caught() {
    expect_none(&problems("agent/src/run.rs", "fn f(signer: &Signer) -> Batch { signer.batch(&[sign()]) }"));
    expect_none(&problems("agent/src/run.rs", "fn f(signer: &Signer) { receipts::sign(signer, &pack); }"));
    expect_none(&problems("agent/tests/x.rs", "fn f(key: &KeyPair) { key.sign(b\"x\"); }"));
    expect_none(&problems("agent/src/x.rs", "#[cfg(test)] mod tests { fn f(key: &KeyPair) { key.sign(b\"x\"); } }"));
    expect_caught(&problems("agent/src/run.rs", "fn f(key: &KeyPair) { key.sign(b\"x\"); }"), "signs bytes");
    expect_caught(&problems("agent/src/run.rs", "fn f() { Signer::sign(&key, b\"x\"); }"), "signs bytes");
    expect_caught(&problems("gateway/src/run.rs", "use ed25519_dalek::SigningKey;"), "holds an identity key");
    expect_caught(&problems("gateway/src/run.rs", "fn f() { unsafe { g() } }"), "unsafe");
    expect_caught(&problems("testkit/src/x.rs", "#![allow(unsafe_code)]"), "unsafe");
}
