//! No banned package, none from elsewhere than the default registry, and a licence that the list allows.
//!
//! The lists are those of deny.toml, so that they hold without cargo-deny too.

use crate::workspace::{self, Package};
use crate::{expect_caught, expect_none, licences};
use anyhow::{Context, Result};
use toml_edit::{DocumentMut, Item};

/// How cargo names the default registry, in its two protocols.
const REGISTRIES: [&str; 2] =
    [concat!("registry+https://github.com/rust-lang/crates", ".io-index"), concat!("sparse+https://index.crates", ".io/")];

/// Changed copies of released packages; vendor/README.md says why each is there.
const VENDORED: [&str; 1] = ["async-nats"];

/// What deny.toml says.
pub struct Lists {
    /// Package and reason.
    pub banned: Vec<(String, String)>,
    pub licences: Vec<String>,
}

/// Reads the lists out of the text of deny.toml.
pub fn lists(text: &str) -> Result<Lists> {
    let document: DocumentMut = text.parse()?;
    let array = |table: &str, key: &str| {
        let list = document.get(table).and_then(|table| table.get(key)).and_then(Item::as_array);
        list.with_context(|| format!("deny.toml has no list {table}.{key}"))
    };
    let mut banned = Vec::new();
    for entry in array("bans", "deny")? {
        let field = |name: &str| entry.as_inline_table().and_then(|table| table.get(name)).and_then(|value| value.as_str());
        let name = field("crate").context("an entry of bans.deny names no crate")?;
        banned.push((name.to_owned(), field("reason").context("a ban has no reason")?.to_owned()));
    }
    let licences = array("licenses", "allow")?.iter().filter_map(|value| value.as_str()).map(str::to_owned).collect();
    Ok(Lists { banned, licences })
}

/// What is wrong with the packages.
pub fn problems(packages: &[Package], lists: &Lists) -> Vec<String> {
    packages.iter().flat_map(|package| problems_of(package, lists)).collect()
}

fn problems_of(package: &Package, lists: &Lists) -> Vec<String> {
    let mut problems = Vec::new();
    let label = format!("{} {}", package.name, package.version);
    if let Some((_, reason)) = lists.banned.iter().find(|(name, _)| *name == package.name) {
        problems.push(format!("{label} is banned by deny.toml: {reason}; `cargo tree -i {}` says who brings it", package.name));
    }
    match &package.source {
        None if package.member => {}
        None if VENDORED.contains(&package.name.as_str()) && package.folder == workspace::root().join("vendor").join(&package.name) => {}
        None => problems.push(format!("{label} comes from a folder and is no crate of this workspace")),
        Some(source) if REGISTRIES.contains(&source.as_str()) => {}
        Some(source) => problems.push(format!("{label} comes from {source}, not from the default registry")),
    }
    match package.licence.as_deref().map(|licence| (licence, licences::allowed(licence, &lists.licences))) {
        Some((_, Ok(true))) => {}
        Some((licence, Ok(false))) => problems.push(format!("{label} has the licence `{licence}`, which deny.toml does not allow")),
        Some((licence, Err(error))) => problems.push(format!("{label} has the licence `{licence}`: {error}")),
        None => problems.push(format!("{label} states no licence")),
    }
    problems
}

fn deny_toml() -> Result<Lists> {
    lists(&std::fs::read_to_string(workspace::root().join("deny.toml"))?)
}

#[test]
fn packages_are_allowed() -> Result<()> {
    expect_none(&problems(workspace::packages()?, &deny_toml()?));
    Ok(())
}

#[test]
fn deny_toml_bans_what_must_never_come_in() -> Result<()> {
    let lists = deny_toml()?;
    for name in ["aws-lc-sys", "openssl-sys", "native-tls", "bincode", "did-key"] {
        assert!(lists.banned.iter().any(|(banned, _)| banned == name), "{name} is not banned");
    }
    assert!(!lists.licences.iter().any(|licence| licence.contains("GPL")), "{:?}", lists.licences);
    Ok(())
}

#[test]
fn bad_packages_are_caught() -> Result<()> {
    let lists = deny_toml()?;
    let good =
        Package { name: "some".into(), source: Some(REGISTRIES[0].into()), licence: Some("MIT/Apache-2.0".into()), ..Package::default() };
    expect_none(&problems(std::slice::from_ref(&good), &lists));
    expect_none(&problems(&[Package { source: None, member: true, ..good.clone() }], &lists));

    let check = |bad: Package, word: &str| expect_caught(&problems(&[bad], &lists), word);
    check(Package { name: "bincode".into(), ..good.clone() }, "banned");
    check(Package { source: Some("git+https://example.org/some#1".into()), ..good.clone() }, "not from the default registry");
    check(Package { source: Some("registry+https://example.org/index".into()), ..good.clone() }, "not from the default registry");
    check(Package { source: None, ..good.clone() }, "folder");
    check(Package { name: VENDORED[0].into(), source: None, ..good.clone() }, "folder");
    let vendored =
        |name: &str| Package { name: name.into(), source: None, folder: workspace::root().join("vendor").join(name), ..good.clone() };
    expect_none(&problems(&[vendored(VENDORED[0])], &lists));
    check(vendored("other"), "folder");
    check(Package { licence: Some("AGPL-3.0-only".into()), ..good.clone() }, "AGPL-3.0-only");
    check(Package { licence: Some("MIT AND (".into()), ..good.clone() }, "ends too early");
    check(Package { licence: None, ..good }, "states no licence");
    Ok(())
}

#[test]
fn a_list_without_reasons_is_caught() {
    assert!(lists("bans.deny = [{ crate = \"a\" }]\nlicenses.allow = []").is_err());
    assert!(lists("bans.deny = []").is_err());
}
