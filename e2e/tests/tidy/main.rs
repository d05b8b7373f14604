//! The rules of the house, as tests.
//!
//! In: what cargo says about the packages, and the files of this repository. Out: a list of what breaks a rule, in words
//! that say what to do. Each rule is a function on values with a sample of its own that it must catch.
//!
//! Not here: format and lints (`make check` runs rustfmt and clippy) and known vulnerabilities (their list changes daily).

mod features;
mod files;
mod keys;
mod licences;
mod packages;
mod purity;
mod rooms;
mod rust_text;
mod sbom;
mod workspace;

/// Fails with every problem on a line of its own.
#[track_caller]
fn expect_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} against the rules:\n  {}\n", problems.len(), problems.join("\n  "));
}

/// Fails unless the rule caught the sample, and said so with this word.
#[track_caller]
fn expect_caught(problems: &[String], word: &str) {
    assert!(problems.iter().any(|problem| problem.contains(word)), "not caught ({word}): {problems:?}");
}
