//! A command line that cannot be read: what clap says of it, in the shape of every other error.

use std::io::Write;

use bus_schemas::Code;
use clap::CommandFactory;
use clap::error::ErrorKind;

use super::args::Cli;
use super::failure::Failure;
use super::output::{Format, Output};

/// Prints it; gives the exit code. Help and version are no errors.
pub fn fail(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        let _ = error.print();
        return 0;
    }
    let words: Vec<String> = std::env::args().collect();
    let format = Format::from_words(&words);
    if format != Format::Human {
        return Output::plain(format).fail(&failure(error, &words));
    }
    let _ = write!(anstream::stderr().lock(), "{}", text(error, &words));
    2
}

fn failure(error: &clap::Error, words: &[String]) -> Failure {
    let path = path_of(words);
    let said = if is_whole_help(error) {
        format!("{} needs one of: {}", path.join(" "), below(&path).join(", "))
    } else {
        said(&error.to_string())
    };
    Failure::new(Code::Usage, said).next(help_of(&path))
}

/// For people: the text is clap's, with how to use the command; the code and what to run next are ours, as everywhere.
fn text(error: &clap::Error, words: &[String]) -> String {
    let path = path_of(words);
    let next = format!("  next: {}      more: mesh explain {}\n", help_of(&path), Code::Usage);
    let text = error.render().ansi().to_string().replacen("error:", &format!("error[{}]:", Code::Usage), 1);
    if is_whole_help(error) {
        let Failure { problem, .. } = failure(error, words);
        return format!("{}\n\nerror[{}]: {}\n{next}", text.trim_end(), problem.code, problem.detail);
    }
    // Clap's own last line names no command.
    let kept = text.rfind("For more information, try").map_or(text.as_str(), |at| &text[..at]);
    format!("{}\n{next}", kept.trim_end())
}

/// Where a command is missing, clap's text is the help of what was given.
fn is_whole_help(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What is wrong, in one line: the first paragraph of clap's text, which names missing arguments in lines of their own.
fn said(text: &str) -> String {
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    first.join(" ").trim_start_matches("error: ").to_owned()
}

/// The command that was meant, as far as these words name one: `mesh job ls`. Options and the values of those that are the same
/// everywhere stand between.
fn path_of(words: &[String]) -> Vec<String> {
    let (mut command, mut path) = (Cli::command(), vec!["mesh".to_owned()]);
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        if word.starts_with('-') {
            if ["-o", "--output", "-c", "--context", "--color"].contains(&word.as_str()) {
                words.next();
            }
            continue;
        }
        let Some(sub) = command.find_subcommand(word).cloned() else { break };
        path.push(sub.get_name().to_owned());
        command = sub;
    }
    path
}

/// What stands below a command, for people.
fn below(path: &[String]) -> Vec<String> {
    let tree = Cli::command();
    let command = path.iter().skip(1).try_fold(&tree, |command, name| command.find_subcommand(name));
    let subs = command.into_iter().flat_map(clap::Command::get_subcommands).filter(|sub| !sub.is_hide_set());
    subs.map(|sub| sub.get_name().to_owned()).collect()
}

fn help_of(path: &[String]) -> String {
    format!("{} --help", path.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }
    fn wrong(line: &str) -> (Vec<String>, clap::Error) {
        (words(line), Cli::try_parse_from(line.split(' ')).unwrap_err())
    }

    #[test]
    fn what_is_missing_is_named_in_json_too() {
        for (line, named) in [
            ("mesh job show", "<ID>"),
            ("mesh job run echo --texxt a", "'--texxt'"),
            ("mesh credit transfer", "<"),
            ("mesh -o json node", "mesh node needs one of: ls, show, drain"),
            ("mesh", "mesh needs one of: dev, hub, init"),
        ] {
            let (words, error) = wrong(line);
            let detail = failure(&error, &words).problem.detail;
            assert!(detail.contains(named) && !detail.contains("Usage") && !detail.contains("dev-guard"), "{detail}");
        }
    }

    #[test]
    fn people_are_told_what_to_run_next() {
        for (line, says, next) in [
            ("mesh job submit", "required arguments", "mesh job submit --help"),
            ("mesh -o human job ls --limit 900", "900 is not in 1..=200", "mesh job ls --help"),
            ("mesh job ls --limit -1", "-1 is not in 1..=200", "mesh job ls --help"),
            ("mesh job run echo --text a --timeout -5s", "\"-5s\" is no duration; write 30s, 5m or 2h", "mesh job run --help"),
            ("mesh pause --for -2h", "\"-2h\" is no duration; write 30s, 5m or 2h", "mesh pause --help"),
            ("mesh node", "mesh node needs one of: ls, show, drain", "mesh node --help"),
        ] {
            let (words, error) = wrong(line);
            let text = text(&error, &words);
            let end = format!("  next: {next}      more: mesh explain M0210\n");
            assert!(text.contains("M0210") && text.contains(says) && text.ends_with(&end), "{line}: {text}");
            assert!(!text.contains("For more information") && !text.contains("use '-- -"), "{line}: {text}");
        }
    }

    #[test]
    fn help_is_that_of_the_command() {
        for (line, help) in [
            ("mesh", "mesh --help"),
            ("mesh frobnicate", "mesh --help"),
            ("mesh job ls --state Done", "mesh job ls --help"),
            ("mesh -o json job run echo job", "mesh job run --help"),
            ("mesh --context dev --output=json -q job run", "mesh job run --help"),
            ("mesh job run echo --label a -o json", "mesh job run --help"),
            ("mesh coop policy", "mesh network policy --help"),
        ] {
            assert_eq!(help_of(&path_of(&words(line))), help, "{line}");
        }
    }
}
