//! Deciding code touches nothing: no clock, socket, file, thread, randomness or unordered map.
//!
//! A pure file uses `std` without those, the words (`bus_schemas`), the crates that describe data, and pure neighbours.
//! Its test code may use anything.

use crate::rust_text::{self, PathUse};
use crate::workspace;
use crate::{expect_caught, expect_none};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The pure modules of each room: `name.rs`, or the folder `name` as well. Some rooms grow theirs later (`false`).
const PURE: [(&str, &[(&str, bool)]); 4] = [
    ("gateway", &[("admission", true), ("fair", true), ("funding", true), ("next", true), ("overdue", true)]),
    ("scheduler-worker", &[("auction", true), ("next_step", true), ("verdict", true)]),
    ("ledger-worker", &[("posting", true), ("reputation", false)]),
    ("agent", &[("bidding", true), ("consent", true), ("work", true)]),
];

/// The room that is pure as a whole, and may use whatever its Cargo.toml lists.
const WORDS: &str = "bus-schemas";

const CRATES: [&str; 4] = ["bus_schemas", "serde", "thiserror", "schemars"];

const FORBIDDEN: [&str; 14] = [
    "std::env",
    "std::fs",
    "std::hash::BuildHasher",
    "std::hash::RandomState",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net",
    "std::os",
    "std::process",
    "std::random",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Files that remember in an unordered map what they only ever ask for by key, and never walk.
const ASKS_BY_KEY: [&str; 2] = ["bus-schemas/src/envelope.rs", "bus-schemas/src/replay.rs"];

/// The tools that attributes name.
const TOOLS: [&str; 3] = ["clippy", "rustdoc", "rustfmt"];

const FORBIDDEN_WORDS: [&str; 7] = ["async", "await", "dbg", "eprint", "eprintln", "print", "println"];

const UNORDERED: [&str; 4] = ["HashMap", "HashSet", "hash_map", "hash_set"];

const PRIMITIVES: [&str; 17] =
    ["bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "str", "u8", "u16", "u32", "u64", "u128", "usize"];

/// What a pure file may use.
pub struct Allowed {
    crates: Vec<String>,
    /// The pure modules of its room; `None` where the whole room is pure.
    neighbours: Option<Vec<String>>,
    /// How many modules down from the root of its room it stands.
    depth: usize,
}

/// What a pure file uses and must not.
pub fn problems(file: &str, source: &str, allowed: &Allowed) -> Vec<String> {
    let words = rust_text::without_tests(&rust_text::words(source));
    let modules = rust_text::modules(&words);
    let unordered = |word: &str| UNORDERED.contains(&word) && !ASKS_BY_KEY.contains(&file);
    let mut problems: Vec<String> = words
        .iter()
        .filter(|word| FORBIDDEN_WORDS.contains(&word.text.as_str()) || unordered(&word.text))
        .map(|word| format!("{file}:{} has `{}` in deciding code: hand the value in, or move this to the shell", word.line, word.text))
        .collect();
    for path in rust_text::paths(&words) {
        if let Some(why) = refusal(&path, &modules, allowed) {
            problems.push(format!("{file}:{} uses `{}`, {why}", path.line, path.segments.join("::")));
        }
    }
    problems
}

/// Why a path may not stand in a pure file.
fn refusal(path: &PathUse, modules: &[String], allowed: &Allowed) -> Option<&'static str> {
    let first = path.segments.first().map(String::as_str).unwrap_or_default();
    match first {
        "std" | "core" | "alloc" => {
            let whole = std::iter::once("std").chain(path.segments.iter().skip(1).map(String::as_str)).collect::<Vec<_>>().join("::");
            forbidden(&whole).then_some("which is no part of deciding: hand the value in, or move this to the shell")
        }
        "crate" => from_root(&path.segments[1..], allowed),
        "super" => {
            let up = path.segments.iter().take_while(|segment| *segment == "super").count();
            if up < allowed.depth { None } else { from_root(&path.segments[up..], allowed) }
        }
        "self" | "Self" => None,
        _ if first.starts_with(char::is_uppercase) || PRIMITIVES.contains(&first) => None,
        _ if TOOLS.contains(&first) => None,
        _ if modules.iter().any(|module| module == first) || allowed.crates.iter().any(|name| name == first) => None,
        _ => Some("which a pure file may not use (see e2e/tests/tidy/purity.rs)"),
    }
}

/// A path from the root of the room: only to its pure modules.
fn from_root(segments: &[String], allowed: &Allowed) -> Option<&'static str> {
    match (&allowed.neighbours, segments.first()) {
        (None, _) => None,
        (Some(pure), Some(first)) if pure.contains(first) => None,
        (Some(_), _) => Some("which is not one of the room's pure modules"),
    }
}

/// Is it, or does a `*` in it bring in, something forbidden?
fn forbidden(path: &str) -> bool {
    let starts = |whole: &str, start: &str| whole.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    FORBIDDEN.iter().any(|bad| starts(path, bad) || path.strip_suffix("::*").is_some_and(|open| starts(bad, open)))
}

/// The files of a pure module, and how deep each stands; test files left out.
fn files_of(folder: &Path, module: &str) -> Result<Vec<(PathBuf, usize)>> {
    let mut files = Vec::new();
    let alone = folder.join(format!("{module}.rs"));
    if alone.is_file() {
        files.push((alone, 1));
    }
    let inner = folder.join(module);
    if inner.is_dir() {
        files.extend(workspace::below(&inner)?.into_iter().map(|path| {
            let steps = path.strip_prefix(folder).map_or(1, |path| path.components().count());
            let depth = if path.ends_with("mod.rs") { steps - 1 } else { steps };
            (path, depth)
        }));
    }
    files.retain(|(path, _)| path.extension().is_some_and(|end| end == "rs") && !is_test(path));
    Ok(files)
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests") || path.components().any(|part| part.as_os_str() == "tests")
}

fn check_file(path: &Path, allowed: &Allowed) -> Result<Vec<String>> {
    let label = path.strip_prefix(workspace::root()).unwrap_or(path).display().to_string();
    Ok(problems(&label, &std::fs::read_to_string(path)?, allowed))
}

#[test]
fn deciding_code_is_pure() -> Result<()> {
    let mut all = Vec::new();
    for (room, modules) in PURE {
        let folder = workspace::root().join(room).join("src");
        let has_code =
            workspace::below(&folder)?.iter().any(|path| !path.ends_with("lib.rs") && path.extension().is_some_and(|end| end == "rs"));
        let neighbours: Vec<String> = modules.iter().map(|(name, _)| (*name).to_owned()).collect();
        for (module, needed) in modules {
            let files = files_of(&folder, module)?;
            if files.is_empty() && has_code && *needed {
                all.push(format!(
                    "{room}/src/{module}.rs is missing: deciding code of {room} belongs there (see e2e/tests/tidy/purity.rs)"
                ));
            }
            for (path, depth) in files {
                let allowed = Allowed { crates: CRATES.map(str::to_owned).into(), neighbours: Some(neighbours.clone()), depth };
                all.extend(check_file(&path, &allowed)?);
            }
        }
    }
    expect_none(&all);
    Ok(())
}

#[test]
fn the_words_are_pure() -> Result<()> {
    let members = workspace::members()?;
    let words = members.iter().find(|member| member.name == WORDS);
    let crates: Vec<String> =
        words.iter().flat_map(|room| &room.dependencies).filter(|uses| !uses.dev).map(|uses| uses.name.replace('-', "_")).collect();
    assert!(!crates.is_empty(), "{WORDS} has no dependencies: is the name right?");
    let mut all = Vec::new();
    for path in workspace::below(&workspace::root().join(WORDS).join("src"))? {
        if path.extension().is_some_and(|end| end == "rs") && !is_test(&path) {
            all.extend(check_file(&path, &Allowed { crates: crates.clone(), neighbours: None, depth: 1 })?);
        }
    }
    expect_none(&all);
    Ok(())
}

#[cfg(test)]
fn check(source: &str, depth: usize) -> Vec<String> {
    let neighbours = Some(vec!["auction".to_owned(), "next_step".to_owned()]);
    problems("auction.rs", source, &Allowed { crates: CRATES.map(str::to_owned).into(), neighbours, depth })
}

#[test]
fn pure_code_passes() {
    expect_none(&check(
        "//! `std::fs` in words.
        use bus_schemas::{bid::Bid, limits};
        use std::{cmp::Reverse, collections::{BTreeMap, BTreeSet}, fmt, time::Duration};
        use crate::next_step::Step;
        use super::next_step;
        mod score;
        #[derive(Debug, serde::Serialize, thiserror::Error)]
        #[error(\"std::net\")]
        pub struct Unfit;
        impl fmt::Display for Bid {}
        fn decide(wait: Duration) -> u64 { score::of(limits::BID_WINDOW, u64::MAX, Self::new(), next_step::Step::Drop) }
        fn collect() { x.iter().collect::<Vec<_>>(); Vec::<u8>::new() }
        #[cfg(test)]
        mod tests { use proptest::prelude::*; use std::time::Instant; }",
        1,
    ));
    expect_none(&check("use super::Bid; use super::score;", 2));
    expect_none(&check("use super::super::next_step;", 2));
}

#[test]
fn impure_code_is_caught() {
    let caught = |source: &str, word: &str| expect_caught(&check(source, 1), word);
    caught("use std::time::Instant;", "std::time::Instant");
    caught("use std::time::{Duration, SystemTime};", "std::time::SystemTime");
    caught("use std::time; fn a() { time::Instant::now() }", "std::time::Instant::now");
    caught("use std::time::*;", "std::time::*");
    caught("use std::*;", "std::*");
    caught("fn a() { std::thread::sleep(b) }", "std::thread::sleep");
    caught("fn a() { ::std::fs::read(b) }", "std::fs::read");
    caught("use core::net::IpAddr;", "core::net::IpAddr");
    caught("use std::collections::HashMap;", "HashMap");
    caught("fn a() { println!(\"b\") }", "println");
    caught("async fn a() {}", "async");
    caught("use tokio::time;", "tokio::time");
    caught("fn a() { tracing::info!(\"b\") }", "tracing::info");
    caught("use ::rand::random;", "rand::random");
    caught("use crate::run::World;", "crate::run::World");
    caught("use super::run;", "super::run");
    caught("\n\nuse std::env;", "auction.rs:3");
    expect_caught(&check("use super::super::run;", 2), "super::super::run");
    expect_none(&check("use super::run;", 2));
}
