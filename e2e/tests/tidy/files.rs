//! What holds for the files of the repository: short, introduced by a sentence, and free of any one machine.

use crate::workspace;
use crate::{expect_caught, expect_none};
use anyhow::Result;
use std::path::Path;

/// A file that needs a table of contents is ready to be a folder.
const LINES_MAX: usize = 700;

/// Folders of a machine where somebody works on this, not of those where it runs. In halves, so that this file holds none.
const MACHINE: [&str; 3] = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/tm", "p/")];

/// Package hosts: which one is asked is a setting of the machine.
const HOSTS: [&str; 12] = [
    concat!("crates", ".io"),
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("proxy.gol", "ang.org"),
    concat!("sum.gol", "ang.org"),
    concat!("deb.deb", "ian.org"),
    concat!("docker", ".io"),
    concat!("gh", "cr.io"),
    concat!("qu", "ay.io"),
    concat!("hugging", "face.co"),
];

/// Sources of others, as they were released but for what vendor/README.md says.
const VENDOR: &str = "vendor/";

/// Written by cargo, which names the registry of every package.
const LOCK: &str = "Cargo.lock";

/// What is wrong with one text file.
pub fn problems(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        for folder in MACHINE.iter().filter(|folder| has_path(line, folder)) {
            problems.push(format!("{path}:{number} names {folder}, a folder of one machine"));
        }
        for host in HOSTS.iter().filter(|host| !path.ends_with(LOCK) && line.contains(**host)) {
            problems.push(format!("{path}:{number} names {host}; leave the choice of package host to the machine"));
        }
    }
    let lines = text.lines().count();
    if path.ends_with(".rs") && lines > LINES_MAX {
        problems.push(format!("{path} has {lines} lines, more than {LINES_MAX}: make it a folder, one idea per file"));
    }
    problems
}

/// Does a path that begins with this folder stand in the line, rather than a folder of the same name further down?
fn has_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|sign| sign.is_alphanumeric() || "_-.})*~/".contains(sign))
    })
}

/// Does a crate open with its map?
pub fn introduced(path: &str, text: &str) -> Option<String> {
    let opens = text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!"));
    (!opens).then(|| format!("{path} is the root of a crate and does not open with `//!`: say what comes in, what goes out, who decides"))
}

#[test]
fn files_are_tidy() -> Result<()> {
    let mut all = Vec::new();
    for path in
        workspace::files()?.into_iter().filter(|path| !path.starts_with(VENDOR) || path.extension().is_some_and(|kind| kind == "md"))
    {
        // What is not text (images, golden bytes) holds no words.
        if let Ok(text) = String::from_utf8(std::fs::read(workspace::root().join(&path))?) {
            all.extend(problems(&path.to_string_lossy(), &text));
        }
    }
    expect_none(&all);
    Ok(())
}

#[test]
fn crates_open_with_their_map() -> Result<()> {
    let root = workspace::root();
    let mut all = Vec::new();
    for path in workspace::members()?.iter().flat_map(|member| &member.crate_roots) {
        let label = path.strip_prefix(&root).unwrap_or(path).display().to_string();
        all.extend(introduced(&label, &std::fs::read_to_string(path)?));
    }
    expect_none(&all);
    Ok(())
}

#[test]
fn members_lie_inside_the_repository() -> Result<()> {
    let root = workspace::root();
    let outside = |folder: &Path| !folder.starts_with(&root);
    let all: Vec<String> =
        workspace::members()?.iter().filter(|member| outside(&member.folder)).map(|member| member.name.clone()).collect();
    expect_none(&all);
    Ok(())
}

#[test]
fn untidy_files_are_caught() {
    for folder in MACHINE {
        expect_caught(&problems("a.md", &format!("first\nsee `{folder}notes`")), "a.md:2");
        expect_none(&problems("a.md", &format!("agent/src{folder}mod.rs ${{HOME}}{folder}x")));
    }
    for host in HOSTS {
        expect_caught(&problems("a.sh", &format!("curl {host}")), host);
    }
    expect_none(&problems(LOCK, HOSTS[0]));
    expect_caught(&problems(LOCK, MACHINE[0]), MACHINE[0]);
    expect_caught(&problems("a.rs", &"\n".repeat(LINES_MAX + 1)), "701 lines");
    expect_none(&problems("a.rs", &"\n".repeat(LINES_MAX)));
    expect_none(&problems("a.json", &"\n".repeat(LINES_MAX + 1)));
    assert!(introduced("lib.rs", "\nuse std::fmt;").is_some());
    assert!(introduced("lib.rs", "").is_some());
    assert!(introduced("lib.rs", "\n//! Words.\n").is_none());
}
