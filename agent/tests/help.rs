//! What `--help` says, of every command: people and scripts rely on these words, so a change of them is seen.

use std::process::{Command, Stdio};

use agent::cli::args::Cli;
use clap::CommandFactory;

/// Paths of all commands, such as `mesh job run`; hidden ones are not for people.
fn walk(command: &clap::Command, path: &[&str], all: &mut Vec<Vec<String>>) {
    all.push(path.iter().map(|word| (*word).to_owned()).collect());
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
        walk(sub, &[path, &[sub.get_name()]].concat(), all);
    }
}

/// Without the options that are the same everywhere, and `--help` itself.
fn without_global(text: &str) -> String {
    let (before, global) = text.split_once("\nEverywhere:\n").expect("the options that are the same everywhere");
    let after = global.lines().skip_while(|line| line.is_empty() || line.starts_with(' '));
    format!("{before}\n{}", after.collect::<Vec<_>>().join("\n"))
}

#[test]
fn every_command_has_help() {
    let mut all = Vec::new();
    walk(&Cli::command(), &[], &mut all);
    let mut told = String::new();
    let has_commands = |words: &[String]| all.iter().any(|other| other.len() > words.len() && other.starts_with(words));
    for words in &all {
        let output = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(words)
            .arg("--help")
            .env_remove("MESH_CONTEXT")
            .stdin(Stdio::null())
            .output()
            .expect("mesh starts");
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        let examples = text.lines().take_while(|line| line.starts_with("  mesh ") || line.starts_with("  cat ")).count();
        assert!(examples >= 2 || has_commands(words) || words[0] == "credit", "{words:?} does not open with two examples");
        let text = if words.is_empty() { text } else { without_global(&text) };
        told.push_str(&format!("$ mesh {} --help\n{}\n", words.join(" "), text.trim_end()).replace("mesh  --help", "mesh --help"));
        told.push('\n');
    }
    insta::assert_snapshot!("help", told.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
}
