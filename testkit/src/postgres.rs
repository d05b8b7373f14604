//! A Postgres of one's own: a fresh cluster in a folder, served on one port of loopback. Never as uid 0, which Postgres refuses.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::proc;

/// Who may log in, and to what.
#[derive(Debug, Clone)]
pub struct Access {
    pub user: String,
    pub password: String,
    pub database: String,
}

/// Makes the cluster in `data` and gives the command that serves it on `port`. `programs` is the folder with `initdb`.
///
/// # Errors
/// Where Postgres' programs fail, or root finds no account that they may run as.
pub fn serve(access: &Access, programs: &Path, data: &Path, port: u16) -> Result<Command> {
    let account = Account::choose()?;
    std::fs::create_dir_all(data)?;
    let passwords = data.with_extension("password");
    std::fs::write(&passwords, format!("{}\n", access.password))?;
    account.give(data)?;
    account.give(&passwords)?;

    let mut initdb = account.command(&programs.join("initdb"));
    initdb.args(["--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "-U", &access.user, "-D"]);
    done(initdb.arg(data).arg("--pwfile").arg(&passwords).output()?, "initdb")?;
    std::fs::remove_file(&passwords)?;

    let mut single = account.command(&programs.join("postgres"));
    single.args(["--single", "-D"]).arg(data).arg("postgres").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = single.spawn()?;
    child.stdin.take().context("a pipe")?.write_all(format!("CREATE DATABASE {}\n", access.database).as_bytes())?;
    done(child.wait_with_output()?, "create database")?;

    let mut serve = account.command(&programs.join("postgres"));
    serve.arg("-D").arg(data).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k", ""]);
    Ok(serve)
}

/// A Postgres that runs until it is dropped.
pub struct Postgres {
    child: Child,
    /// For `DATABASE_URL`.
    pub url: String,
}

impl Postgres {
    /// Starts one in `folder`, which other accounts must be able to pass through, and waits until it answers. `MESH_PG_BIN` names
    /// the folder of its programs.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(folder: &Path) -> Result<Self> {
        let programs = std::env::var_os("MESH_PG_BIN").context("MESH_PG_BIN is not set; run: make test")?;
        let access = Access { user: "mesh".into(), password: "mesh".into(), database: "mesh".into() };
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut serve = serve(&access, Path::new(&programs), &folder.join("postgres"), port)?;
        let log = std::fs::File::create(folder.join("postgres.log"))?;
        let child = serve.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let url = format!("postgresql://mesh:mesh@127.0.0.1:{port}/mesh");
        let postgres = Self { child, url };
        crate::until("Postgres to answer", || async {
            tokio_postgres::connect(&postgres.url, tokio_postgres::NoTls).await.ok().map(|_| ())
        })
        .await;
        Ok(postgres)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, without waiting for its clients.
        proc::signal(self.child.id(), "INT");
        let _ = self.child.wait();
    }
}

fn done(output: std::process::Output, what: &str) -> Result<()> {
    ensure!(output.status.success(), "{what}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// As whom Postgres runs: as oneself; root becomes `postgres`, else `nobody`.
struct Account(Option<(u32, u32)>);

impl Account {
    fn choose() -> Result<Self> {
        if !proc::is_root() {
            return Ok(Self(None));
        }
        let found = ["postgres", "nobody"].iter().find_map(|name| proc::account(name));
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
