//! `mesh version`, `mesh explain`, `mesh completion`.

use bus_schemas::Code;
use clap::CommandFactory;
use serde::Serialize;

use super::args::{Cli, CompletionArgs, ExplainArgs};
use super::failure::{Done, End, Failure};
use super::output::{self, Output};

/// `mesh version`.
pub fn version(output: &Output) -> Done {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
        os: &'static str,
        arch: &'static str,
    }
    let version = Version { version: env!("CARGO_PKG_VERSION"), os: std::env::consts::OS, arch: std::env::consts::ARCH };
    output.print("version", &version, || version.version.into(), || format!("mesh {} ({} {})", version.version, version.os, version.arch));
    Ok(End::Fine)
}

#[derive(Serialize)]
struct Page {
    code: Code,
    title: &'static str,
    http_status: u16,
    exit_code: u8,
    next: &'static str,
}
impl Page {
    fn of(code: Code) -> Self {
        Self { code, title: code.title(), http_status: code.http(), exit_code: code.exit(), next: code.next() }
    }
}

/// `mesh explain`.
pub fn explain(args: &ExplainArgs, output: &Output) -> Done {
    let Some(code) = &args.code else {
        #[derive(Serialize)]
        struct Pages {
            codes: Vec<Page>,
        }
        let pages = Pages { codes: Code::ALL.iter().copied().map(Page::of).collect() };
        let row = |page: &Page| [page.code.to_string(), page.title.into(), page.exit_code.to_string(), page.next.into()];
        let human = || output::table(["CODE", "WHAT", "EXIT", "NEXT"], pages.codes.iter().map(row));
        output.print_list("explain", &pages, &pages.codes, |page| page.code.to_string(), human);
        return Ok(End::Fine);
    };
    let found = code.trim().to_ascii_uppercase().parse::<Code>();
    let page = Page::of(found.map_err(|error| Failure::new(Code::NotFound, error).next("mesh explain"))?);
    let human = || {
        format!("{}: {}\n  exit code {}, HTTP status {}\n  next: {}", page.code, page.title, page.exit_code, page.http_status, page.next)
    };
    output.print("explain", &page, || page.code.to_string(), human);
    Ok(End::Fine)
}

/// `mesh completion SHELL`.
pub fn completion(args: &CompletionArgs, output: &Output) -> Done {
    #[derive(Serialize)]
    struct Script {
        shell: String,
        script: String,
    }
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mesh", &mut bytes);
    let script = Script { shell: args.shell.to_string(), script: String::from_utf8_lossy(&bytes).into_owned() };
    output.print("completion", &script, || script.shell.clone(), || script.script.clone());
    Ok(End::Fine)
}
