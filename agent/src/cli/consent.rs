//! `mesh consent`: what the owner of this machine's device lets it take. The file is the truth; a running agent follows it by itself.

use std::path::{Path, PathBuf};

use bus_schemas::Code;
use serde::Serialize;

use super::args::ConsentCommand;
use super::args::consent::word;
use super::device::running;
use super::failure::{Done, End, Failure};
use super::output::Output;
use crate::consent::{Consent, What};
use crate::consent_file;
use crate::home::Home;

#[derive(Serialize)]
struct Said<'a> {
    file: PathBuf,
    /// Whether there is one; without it all is allowed.
    exists: bool,
    /// Whether an agent runs here that follows it; otherwise it holds from its next start.
    running: bool,
    consent: &'a Consent,
}

/// `mesh consent …`.
pub fn run(command: &ConsentCommand, output: &Output) -> Done {
    let home = Home::discover();
    home.device()?;
    let path = home.consent_toml();
    let read = consent_file::read(&path).map_err(|problem| Failure::from(problem).next(fix(&path)));
    let consent = match command {
        ConsentCommand::Show => read?,
        ConsentCommand::Nothing => {
            if read.is_err() {
                set_aside(&path)?;
            }
            kept(&path, Consent::nothing())?
        }
        ConsentCommand::Allow(_)
        | ConsentCommand::Deny(_)
        | ConsentCommand::Only(_)
        | ConsentCommand::Any { .. }
        | ConsentCommand::Group { .. }
        | ConsentCommand::Running { .. } => kept(&path, changed(read?, command)?)?,
    };
    let said = Said { exists: path.exists(), running: running(&home).is_some(), file: path, consent: &consent };
    output.print("consent", &said, || said.file.display().to_string(), || text(&said));
    Ok(End::Fine)
}

/// What helps where the file cannot be used, and lets nobody in.
pub fn fix(path: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o022 != 0 => format!("chmod go-w {}", path.display()),
        Ok(_) | Err(_) => "mesh consent nothing".to_owned(),
    }
}

fn changed(mut consent: Consent, command: &ConsentCommand) -> Result<Consent, Failure> {
    let done = match command {
        ConsentCommand::Allow(named) => consent.allow(named.what, &named.names),
        ConsentCommand::Deny(named) => consent.deny(named.what, &named.names),
        ConsentCommand::Only(named) => consent.only(named.what, &named.names),
        ConsentCommand::Any { what } => {
            what.map_or(&What::ALL[..], |_| &[]).iter().copied().chain(*what).for_each(|what| consent.any(what));
            Ok(())
        }
        ConsentCommand::Group { name, members } => consent.group(name, members),
        ConsentCommand::Running { what } => {
            consent.stop_running = what == "stops";
            Ok(())
        }
        ConsentCommand::Show | ConsentCommand::Nothing => Ok(()),
    };
    done.map_err(|problem| Failure::new(Code::Usage, problem.detail))?;
    Ok(consent)
}

fn kept(path: &Path, consent: Consent) -> Result<Consent, Failure> {
    consent_file::write(path, &consent)?;
    Ok(consent)
}

/// Keeps a file that cannot be read under another name; no earlier one is lost.
fn set_aside(path: &Path) -> Result<(), Failure> {
    let to = (1..).map(|n| path.with_extension(format!("toml.bad-{n}"))).find(|to| !to.exists());
    let Some(to) = to.filter(|_| path.exists()) else { return Ok(()) };
    std::fs::rename(path, &to).map_err(|error| Failure::new(Code::BadFile, format!("{}: {error}", path.display())))
}

fn text(said: &Said<'_>) -> String {
    let rows = What::ALL.map(|what| row(said.consent, what));
    let groups: Vec<String> = said
        .consent
        .groups
        .iter()
        .map(|(name, members)| {
            format!("  {:<12} {}", name.to_string(), members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        })
        .collect();
    let groups = if groups.is_empty() { String::new() } else { format!("groups\n{}\n", groups.join("\n")) };
    let running = if said.consent.stop_running { "goes to another device" } else { "ends here" };
    let nothing = if said.consent.takes_nothing() { "   this device takes nothing" } else { "" };
    let next = if said.running { "" } else { "   it is not running; next: mesh start" };
    let file = if said.exists { said.file.display().to_string() } else { format!("{} is not there: all is allowed", said.file.display()) };
    format!("takes{nothing}\n{}\n{groups}running work that is allowed no more {running}\n{file}{next}", rows.join("\n"))
}

fn row(consent: &Consent, what: What) -> String {
    let list = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    // Members and groups are one question: where one of the two is listed, the other one is no "all".
    let asks_who = consent.allow.members.is_some() || consent.allow.groups.is_some();
    let otherwise = if asks_who && matches!(what, What::Member | What::Group) { "no others" } else { "all" };
    let allowed = consent.allow.named(what).map_or_else(|| otherwise.to_owned(), list);
    let denied = consent.deny.named(what).filter(|names| !names.is_empty()).map(|names| format!("   never: {}", names.join(", ")));
    format!("  {:<12} {allowed}{}", word(what), denied.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_in_words() {
        let mut consent = Consent::default();
        let said = |consent: &Consent| text(&Said { file: "/h/consent.toml".into(), exists: false, running: true, consent });
        assert!(said(&consent).contains("  kind         all\n") && said(&consent).contains("is not there: all is allowed"));
        consent.group("lab", &["me".to_owned()]).unwrap();
        consent.only(What::Group, &["lab".to_owned()]).unwrap();
        consent.deny(What::DataClass, &["restricted".to_owned()]).unwrap();
        let told = said(&consent);
        for line in [
            "  member       no others\n",
            "  group        lab\n",
            "  data-class   all   never: restricted\n",
            "groups\n  lab          me\n",
        ] {
            assert!(told.contains(line), "{told}");
        }
        assert!(said(&Consent::nothing()).starts_with("takes   this device takes nothing\n  kind         none\n"));
    }
}
