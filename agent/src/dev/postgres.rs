//! A private Postgres from the system's own programs: made once into a template, copied, reached through a socket alone.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bus_schemas::Code;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::child::{Role, Running, Spec};
use super::place::{self, Account, Place};
use super::tools::{cache_folder, is_program, on_path, output_of, set};
use crate::cli::failure::Failure;

/// Part of the template's name; another number where its making changes.
const TEMPLATE: u32 = 3;
const SUPERUSER: &str = "mesh";
const DATABASE: &str = "mesh";
/// The gateway makes a schema of its own. The books belong to one who only migrates and rebuilds them; the worker adds to them, the
/// reader sees all rows and changes none. The gateway reads balances.
const SETUP: &str = "create role mesh_gateway login;
create role mesh_owner login;
create role mesh_ledger login;
create role mesh_reader login;
create database mesh;
grant create on database mesh to mesh_gateway, mesh_owner;
grant mesh_reader to mesh_gateway;
";
const SETUP_DATABASE: &str = "alter default privileges for role mesh_gateway grant usage on schemas to mesh_reader;
alter default privileges for role mesh_gateway grant select on tables to mesh_reader;
";
/// Kept data of a version whose worker owned the books; their next migration gives it the rights that it keeps.
const OLDER: &str = "do $$ begin
    if not exists (select from pg_roles where rolname = 'mesh_owner') then
        create role mesh_owner login;
        grant create on database mesh to mesh_owner;
        revoke create on database mesh from mesh_ledger;
        reassign owned by mesh_ledger to mesh_owner;
    end if;
end $$";
/// Small, safe, and quiet while nothing happens: no process wakes more often than it must.
const SETTINGS: &str = "listen_addresses=''
fsync=on
synchronous_commit=on
full_page_writes=on
shared_buffers=24MB
max_connections=40
wal_level=minimal
max_wal_senders=0
min_wal_size=16MB
max_wal_size=512MB
checkpoint_timeout=30min
autovacuum_naptime=5min
autovacuum_max_workers=1
bgwriter_delay=10s
bgwriter_lru_maxpages=0
wal_writer_delay=10s
max_logical_replication_workers=0
max_worker_processes=1
max_parallel_workers=0
jit=off
huge_pages=off
logging_collector=off
log_min_messages=warning
log_checkpoints=off
unix_socket_permissions=0777
";

/// How long a database of one's own may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Looks whether the database of `DATABASE_URL` answers, so that no part has to say so in the middle of a start.
///
/// # Errors
/// Where it is no address, or nobody answers there.
pub async fn check_url(url: &str) -> Result<(), Failure> {
    let next = "set DATABASE_URL to postgresql://USER:PASSWORD@HOST/DATABASE, or unset it";
    let config: tokio_postgres::Config =
        url.parse().map_err(|error| Failure::new(Code::BadValue, "DATABASE_URL is no Postgres address").cause(error).next(next))?;
    let away = |why: String| Failure::new(Code::Unavailable, "the database of DATABASE_URL does not answer").cause(why).next(next);
    match tokio::time::timeout(ANSWER_WAIT, config.connect(tokio_postgres::NoTls)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(away(error.to_string())),
        Err(_) => Err(away(format!("no answer within {} s", ANSWER_WAIT.as_secs()))),
    }
}

/// The programs and as whom they run.
#[derive(Debug, Clone)]
pub struct Postgres {
    bin: PathBuf,
    pub version: String,
    account: Option<Account>,
    /// The account cannot pass through a folder above the data: it is helped by this program.
    setpriv: Option<PathBuf>,
    data: PathBuf,
    socket: PathBuf,
}

impl Postgres {
    /// Finds the programs.
    ///
    /// # Errors
    /// Where they are missing, too old, or cannot run here.
    pub async fn find(place: &Place) -> Result<Self, Failure> {
        let (bin, version) = find_bin().await?;
        let account = place::postgres_account()?;
        let data = place.postgres();
        let setpriv = match &account {
            Some(account) if !place::reachable(&data, account) => Some(on_path("setpriv").ok_or_else(|| {
                let why = format!("Postgres runs as {} here, which may not enter {}", account.name, place.root.display());
                Failure::new(Code::BadFile, why).next("choose a --data-dir that others may pass through")
            })?),
            Some(_) | None => None,
        };
        Ok(Self { bin, version, account, setpriv, data, socket: place.socket.clone() })
    }

    /// As whom it runs, where that is not oneself.
    pub fn account_name(&self) -> Option<&str> {
        self.account.as_ref().map(|account| account.name.as_str())
    }

    /// `postgresql://ROLE@/mesh?host=SOCKET`.
    pub fn url(&self, role: &str) -> String {
        let path: String = self.socket.to_string_lossy().bytes().fold(String::new(), |mut text, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(byte)),
                other => text.push_str(&format!("%{other:02X}")),
            }
            text
        });
        format!("postgresql://{role}@/{DATABASE}?host={path}")
    }

    /// Makes the data, unless they are there: a copy of the template, or new ones that become the template.
    ///
    /// # Errors
    /// Where a program fails or a folder cannot be written.
    pub async fn prepare(&self) -> Result<(), Failure> {
        place::make_folder(&self.socket)?;
        if let Some(account) = &self.account {
            place::give(&self.socket, account)?;
        }
        // Whoever reaches the socket is let in, so nobody else may pass.
        place::set_mode(&self.socket, 0o700)?;
        if self.data.join("PG_VERSION").exists() {
            return Ok(());
        }
        let template = cache_folder().map(|cache| cache.join(format!("postgres-template-{}-{TEMPLATE}", self.version)));
        // Made beside its place, so that a start that is interrupted leaves nothing that looks whole.
        let fresh = self.data.with_extension("new");
        place::remove(&fresh);
        let put = |fresh: &Path| std::fs::rename(fresh, &self.data).map_err(|error| Failure::new(Code::BadFile, error.to_string()));
        if let Some(template) = template.clone().filter(|template| template.join("PG_VERSION").exists()) {
            let (to, account) = (fresh.clone(), self.account.clone());
            let copied = tokio::task::spawn_blocking(move || {
                place::copy(&template, &to).map_err(|error| Failure::new(Code::BadFile, format!("{}: {error}", template.display())))?;
                account.map_or(Ok(()), |account| place::give(&to, &account))
            });
            copied.await.map_err(|error| Failure::ours(error.to_string()))??;
            return put(&fresh);
        }
        self.initdb(&fresh).await?;
        put(&fresh)?;
        if let Some(template) = template {
            let data = self.data.clone();
            // A template that cannot be kept costs time at the next start, nothing else.
            let _ = tokio::task::spawn_blocking(move || keep(&data, &template)).await;
        }
        Ok(())
    }

    async fn initdb(&self, data: &Path) -> Result<(), Failure> {
        place::make_folder(data)?;
        if let Some(account) = &self.account {
            place::give(data, account)?;
        }
        let data: OsString = data.into();
        let words = [
            "--username",
            SUPERUSER,
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--wal-segsize=4",
            "--no-instructions",
            "--pgdata",
        ];
        self.run("initdb", words.iter().map(OsString::from).chain([data.clone()]).collect(), "").await?;
        for (database, sql) in [("postgres", SETUP), (DATABASE, SETUP_DATABASE)] {
            let args = ["--single".into(), "-j".into(), "-D".into(), data.clone(), database.into()].to_vec();
            // With -j a statement ends at a semicolon and an empty line.
            let said = self.run("postgres", args, &sql.replace(";\n", ";\n\n")).await?;
            if said.contains("ERROR:") {
                return Err(Failure::ours(format!("Postgres could not be prepared: {said}")));
            }
        }
        Ok(())
    }

    /// Runs one of the programs to its end with `input`; what it said.
    async fn run(&self, program: &str, args: Vec<OsString>, input: &str) -> Result<String, Failure> {
        let (path, args) = self.command(program, args);
        let failed = |why: String| Failure::new(Code::MissingTool, format!("{program}: {why}")).next("mesh doctor --only tools");
        let mut command = tokio::process::Command::new(path);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/").kill_on_drop(true);
        self.as_account(command.as_std_mut());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read it has failed, and says so.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(said) } else { Err(failed(said.trim().to_owned())) }
    }

    /// The command, through `setpriv` where the account needs help to reach the data.
    fn command(&self, program: &str, args: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
        let path = self.bin.join(program);
        match (&self.setpriv, &self.account) {
            (Some(setpriv), Some(account)) => {
                let caps = "-all,+dac_read_search";
                let before = [
                    format!("--reuid={}", account.uid),
                    format!("--regid={}", account.gid),
                    "--clear-groups".into(),
                    format!("--inh-caps={caps}"),
                    format!("--ambient-caps={caps}"),
                    format!("--bounding-set={caps}"),
                ];
                (setpriv.clone(), before.into_iter().map(OsString::from).chain([path.into()]).chain(args).collect())
            }
            _ => (path, args),
        }
    }
    fn as_account(&self, command: &mut std::process::Command) {
        use std::os::unix::process::CommandExt;
        if let (Some(account), None) = (&self.account, &self.setpriv) {
            command.uid(account.uid).gid(account.gid);
        }
    }

    /// How it is started.
    pub fn spec(&self, log: PathBuf) -> Spec {
        let mut args: Vec<OsString> = vec!["-D".into(), self.data.clone().into(), "-k".into(), self.socket.clone().into()];
        for setting in SETTINGS.lines() {
            args.extend(["-c".into(), setting.replace('\'', "").into()]);
        }
        let (program, args) = self.command("postgres", args);
        let account = self.account.clone().filter(|_| self.setpriv.is_none());
        Spec {
            role: Role::Postgres,
            name: "postgres".into(),
            program,
            args,
            env: vec![("PGDATA", self.data.clone().into())],
            log,
            ours: false,
            http: None,
            account,
            lazy_timers: false,
            mark: Some(self.data.clone()),
        }
    }

    /// Waits until it answers, and sees to its roles.
    ///
    /// # Errors
    /// Where it ends, or does not answer in time.
    pub async fn wait_ready(&self, running: &Running, wait: Duration) -> Result<(), Failure> {
        let until = Instant::now() + wait;
        loop {
            match tokio_postgres::connect(&self.url(SUPERUSER), tokio_postgres::NoTls).await {
                Ok((client, connection)) => {
                    let roles = async move { client.batch_execute(OLDER).await };
                    let (done, _) = tokio::join!(roles, connection);
                    return done.map_err(|error| Failure::ours(format!("the roles of Postgres: {error}")));
                }
                Err(error) if running.status().is_some() || Instant::now() > until => {
                    return Err(Failure::new(Code::Unavailable, "Postgres did not start").tried(running.last_words()).cause(error));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(15)).await,
            }
        }
    }
    pub fn data(&self) -> &Path {
        &self.data
    }
}

/// Keeps fresh data as the template: whole or not at all.
fn keep(data: &Path, template: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Code::BadFile, error.to_string());
    let parent = template.parent().ok_or_else(|| Failure::ours("no folder for the template"))?;
    place::make_folder(parent)?;
    let temporary = parent.join(format!(".postgres-template-{}", bus::keys::random_hex::<6>()?));
    let made = place::copy(data, &temporary).and_then(|()| std::fs::rename(&temporary, template));
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    made.map_err(failed)
}

/// The oldest Postgres that will do.
const MAJOR_MIN: u32 = 15;

/// The folder with `initdb` and `postgres`, and the version: `MESH_PG_BIN`, what PATH leads to, `pg_config`, or the places of
/// the systems' packages, newest first.
///
/// # Errors
/// Where there is none, or none new enough.
pub async fn find_bin() -> Result<(PathBuf, String), Failure> {
    let missing =
        |why: String| Failure::new(Code::MissingTool, why).next("make deps").next("export DATABASE_URL=postgresql://USER@HOST/DATABASE");
    if let Some(named) = set("MESH_PG_BIN") {
        let named = PathBuf::from(named);
        return match version_in(&named).await {
            Some(version) if major(&version) >= MAJOR_MIN => Ok((named, version)),
            Some(version) => Err(missing(format!("MESH_PG_BIN={} is Postgres {version}, at least {MAJOR_MIN} is needed", named.display()))),
            None => Err(missing(format!("MESH_PG_BIN={} does not hold initdb and postgres", named.display()))),
        };
    }
    let mut places: Vec<PathBuf> =
        ["postgres", "initdb"].iter().filter_map(|name| std::fs::canonicalize(on_path(name)?).ok()?.parent().map(Path::to_owned)).collect();
    if let Some(config) = on_path("pg_config")
        && let Ok(folder) = output_of(&config, &["--bindir"]).await
    {
        places.push(folder.into());
    }
    places.extend(package_places());
    let mut old = None;
    for folder in places {
        match version_in(&folder).await {
            Some(version) if major(&version) >= MAJOR_MIN => return Ok((folder, version)),
            Some(version) => old = old.or(Some(format!("{} is Postgres {version}, at least {MAJOR_MIN} is needed", folder.display()))),
            None => (),
        }
    }
    Err(missing(old.unwrap_or_else(|| "no Postgres server programs (initdb, postgres) on this machine".into())))
}

fn package_places() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for (parent, prefix, rest) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/usr/local/pgsql", "bin", ""),
    ] {
        let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let version = name.strip_prefix(prefix)?;
                Some((major(version), if rest.is_empty() { entry.path() } else { entry.path().join(rest) }))
            })
            .filter(|(_, path)| is_program(&path.join("initdb")))
            .collect();
        versions.sort();
        found.extend(versions.into_iter().rev().map(|(_, path)| path));
    }
    found
}

async fn version_in(folder: &Path) -> Option<String> {
    if !is_program(&folder.join("initdb")) {
        return None;
    }
    let text = output_of(&folder.join("postgres"), &["--version"]).await.ok()?;
    text.strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next().map(str::to_owned)
}

fn major(version: &str) -> u32 {
    version.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_their_first_number() {
        assert_eq!((major("15.18"), major("9.6"), major("17beta1"), major("x")), (15, 9, 17, 0));
    }

    #[test]
    fn the_address_holds_any_path() {
        let postgres = Postgres {
            bin: PathBuf::new(),
            version: "15.1".into(),
            account: None,
            setpriv: None,
            data: "data".into(),
            socket: "/a b/ü&x".into(),
        };
        let url = postgres.url("mesh_reader");
        let config: tokio_postgres::Config = url.parse().unwrap();
        assert_eq!(config.get_hosts(), [tokio_postgres::config::Host::Unix("/a b/ü&x".into())]);
        assert_eq!((config.get_user(), config.get_dbname()), (Some("mesh_reader"), Some("mesh")));
    }
}
