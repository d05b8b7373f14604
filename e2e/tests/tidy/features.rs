//! Programs and tests use the same dependencies with the same features, so that cargo builds each of them once.
//!
//! A feature that only a test tool asks for gives that dependency, and all that stands on it, a second build: minutes on two cores.

use crate::{expect_caught, expect_none, workspace};
use anyhow::Result;
use std::collections::BTreeSet;

/// Lines `package version [features]` of a tree without test dependencies that the tree with them lacks.
pub fn problems(programs: &str, everything: &str) -> Vec<String> {
    let lines = |tree: &str| tree.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect::<BTreeSet<_>>();
    let everything = lines(everything);
    let explain = |line: &String| {
        format!(
            "tests use other features than programs of {line}: ask for them in [dependencies] of e2e (`cargo tree -e features -i` says who differs)"
        )
    };
    lines(programs).iter().filter(|line| !everything.contains(*line)).map(explain).collect()
}

#[test]
fn programs_and_tests_share_their_dependencies() -> Result<()> {
    let tree = |edges: &str| workspace::cargo(&["tree", "--locked", "--workspace", "--prefix", "none", "-f", "{p} [{f}]", "-e", edges]);
    expect_none(&problems(&tree("normal,build")?, &tree("normal,build,dev")?));
    Ok(())
}

#[test]
fn a_second_set_of_features_is_caught() {
    let programs = "bus v0.1.0 []\nserde v1.0.0 [std]\nserde v1.0.0 [std] (*)";
    expect_none(&problems(programs, "serde v1.0.0 [std]\nproptest v1.0.0 []\nbus v0.1.0 [] (*)"));
    expect_caught(&problems(programs, "serde v1.0.0 [rc,std]\nbus v0.1.0 []"), "serde v1.0.0 [std]");
}
