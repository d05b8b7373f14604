//! A private Postgres for one test: unix socket only, stopped and deleted when dropped. As root it runs as another user.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, Pool};
use tokio_postgres::NoTls;

pub struct Postgres {
    server: Child,
    folder: tempfile::TempDir,
}

fn programs() -> PathBuf {
    if let Some(path) = std::env::var_os("MESH_PG_BIN") {
        return path.into();
    }
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| entry.ok().map(|entry| entry.path().join("bin"))).collect())
        .unwrap_or_default();
    versions.retain(|path| path.join("initdb").exists());
    versions.sort();
    versions.pop().expect("Postgres' server programs: run `make postgres`, or set MESH_PG_BIN")
}

/// The numeric user and group that Postgres runs as: it refuses root.
fn other_user() -> Option<(u32, u32)> {
    let id = |flag: &str, user: Option<&str>| -> Option<u32> {
        let out = Command::new("id").arg(flag).args(user).output().ok()?;
        String::from_utf8(out.stdout).ok()?.trim().parse().ok()
    };
    if id("-u", None)? != 0 {
        return None;
    }
    ["postgres", "nobody"].into_iter().find_map(|user| Some((id("-u", Some(user))?, id("-g", Some(user))?)))
}

fn command(program: &Path, user: Option<(u32, u32)>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Postgres {
    pub async fn start() -> Self {
        let (bin, user) = (programs(), other_user());
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = folder.path().join("data");
        let made = command(&bin.join("initdb"), user, folder.path())
            .args(["--auth=trust", "--username=mesh", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(&data)
            .status()
            .unwrap();
        assert!(made.success(), "initdb: {made}");
        let server = command(&bin.join("postgres"), user, folder.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", folder.path().display()))
            .arg("-D")
            .arg(&data)
            .spawn()
            .unwrap();
        let postgres = Self { server, folder };
        let start = Instant::now();
        while postgres.config().connect(NoTls).await.is_err() {
            assert!(start.elapsed() < super::HUNG, "Postgres does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        postgres
    }

    fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.folder.path()).user("mesh").dbname("postgres");
        config
    }

    /// An address as `DATABASE_URL` has it.
    pub fn url(&self) -> String {
        format!("host={} user=mesh dbname=postgres", self.folder.path().display())
    }

    /// Sends a signal to the server and all that it started: STOP freezes it, CONT lets it go on.
    pub fn signal(&self, name: &str) {
        let parent = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let own = self.server.id();
        all.filter(|pid| *pid == own || parent(*pid) == Some(own)).for_each(|pid| testkit::proc::signal(pid, name));
    }

    /// Connections to the tables of a gateway.
    pub async fn pool(&self) -> Pool {
        let pool = Pool::builder(Manager::new(self.config(), NoTls)).max_size(4).build().unwrap();
        let client = pool.get().await.unwrap();
        for migration in [
            include_str!("../../src/migrations/V1__gateway.sql"),
            include_str!("../../src/migrations/V2__jobs.sql"),
            include_str!("../../src/migrations/V3__letters.sql"),
            include_str!("../../src/migrations/V4__overdue.sql"),
            include_str!("../../src/migrations/V5__trust.sql"),
            include_str!("../../src/migrations/V6__invites.sql"),
        ] {
            client.batch_execute(migration).await.unwrap();
        }
        pool
    }
}
impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
