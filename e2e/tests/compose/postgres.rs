//! The `postgres` image as a local process: the same variables, a cluster made at the first start, no uid 0.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::file::Service;

/// Makes the cluster in `data`, with the user, password and database that the variables name, and gives the command that serves it.
///
/// # Errors
/// Where a variable is missing or Postgres' programs fail.
pub fn serve(service: &Service, programs: &Path, data: &Path, port: u16) -> Result<Command> {
    let variable = |name: &str| service.environment.get(name).with_context(|| format!("postgres: {name} is not set"));
    let (user, password, database) = (variable("POSTGRES_USER")?, variable("POSTGRES_PASSWORD")?, variable("POSTGRES_DB")?);
    let account = Account::choose()?;
    std::fs::create_dir_all(data)?;
    let passwords = data.with_extension("password");
    std::fs::write(&passwords, format!("{password}\n"))?;
    account.give(data)?;
    account.give(&passwords)?;

    let mut initdb = account.command(&programs.join("initdb"));
    initdb.args(["--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "-U", user, "-D"]).arg(data).arg("--pwfile").arg(&passwords);
    done(initdb.output()?, "initdb")?;
    std::fs::remove_file(&passwords)?;

    let mut single = account.command(&programs.join("postgres"));
    let mut child = single.args(["--single", "-D"]).arg(data).arg("postgres").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(format!("CREATE DATABASE {database}\n").as_bytes())?;
    done(child.wait_with_output()?, "create database")?;

    let mut serve = account.command(&programs.join("postgres"));
    serve.arg("-D").arg(data).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k", ""]);
    Ok(serve)
}

fn done(output: std::process::Output, what: &str) -> Result<()> {
    ensure!(output.status.success(), "{what}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// As whom Postgres runs: as oneself; root, whom Postgres refuses, becomes `postgres`, else `nobody`.
struct Account(Option<(u32, u32)>);

impl Account {
    fn choose() -> Result<Self> {
        let id = |arguments: &[&str]| -> Option<u32> {
            let output = Command::new("id").args(arguments).stderr(Stdio::null()).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        if id(&["-u"]) != Some(0) {
            return Ok(Self(None));
        }
        let found = ["postgres", "nobody"].iter().find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)));
        found.map(|ids| Self(Some(ids))).context("Postgres does not run as root, and there is no account postgres or nobody")
    }
    fn give(&self, path: &Path) -> Result<()> {
        if let Self(Some((uid, gid))) = self {
            std::os::unix::fs::chown(path, Some(*uid), Some(*gid))?;
        }
        Ok(())
    }
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // A folder that this account may stand in.
        command.current_dir("/").env("LC_ALL", "C.UTF-8");
        if let Self(Some((uid, gid))) = self {
            command.uid(*uid).gid(*gid);
        }
        command
    }
}
