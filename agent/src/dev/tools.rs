//! Where the programs are: beside this one, where a variable says, or on PATH.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bus_schemas::Code;

use crate::cli::failure::Failure;

/// The programs of a stack.
#[derive(Debug, Clone)]
pub struct Tools {
    pub mesh: PathBuf,
    pub gateway: PathBuf,
    pub scheduler: PathBuf,
    pub ledger: PathBuf,
    pub nats_server: PathBuf,
}

impl Tools {
    /// # Errors
    /// Where one is missing: which, where it was looked for, and what makes it.
    pub fn find() -> Result<Self, Failure> {
        let mesh = std::env::current_exe().map_err(|error| Failure::ours(format!("this program does not know where it is: {error}")))?;
        let ours = |name: &str| {
            let beside = mesh.parent().map(|folder| folder.join(name));
            let named = set("MESH_BIN_DIR").map(|folder| PathBuf::from(folder).join(name));
            let found = beside.into_iter().chain(named).find(|path| is_program(path)).or_else(|| on_path(name));
            found.ok_or_else(|| {
                Failure::new(Code::MissingTool, format!("{name} is neither beside mesh, nor in MESH_BIN_DIR, nor on PATH"))
                    .next("make build")
            })
        };
        Ok(Self {
            gateway: ours("mesh-gateway")?,
            scheduler: ours("mesh-scheduler")?,
            ledger: ours("mesh-ledger")?,
            nats_server: nats_server()?,
            mesh: mesh.clone(),
        })
    }
}

/// The nats-server: `NATS_SERVER_BIN`, beside this program, the newest one of the cache folder, or on PATH.
///
/// # Errors
/// Where there is none.
pub fn nats_server() -> Result<PathBuf, Failure> {
    let missing = |why: String| Failure::new(Code::MissingTool, why).next("make deps");
    if let Some(named) = set("NATS_SERVER_BIN") {
        let named = PathBuf::from(named);
        return if is_program(&named) { Ok(named) } else { Err(missing(format!("NATS_SERVER_BIN={} is no program", named.display()))) };
    }
    let beside =
        std::env::current_exe().ok().and_then(|exe| exe.parent().map(|folder| folder.join("nats-server"))).filter(|path| is_program(path));
    let built = || {
        let mut built: Vec<PathBuf> = std::fs::read_dir(cache_folder()?.join("tools"))
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("nats-server-")) && is_program(path)
            })
            .collect();
        built.sort();
        built.pop()
    };
    beside
        .or_else(built)
        .or_else(|| on_path("nats-server"))
        .ok_or_else(|| missing("nats-server is neither named by NATS_SERVER_BIN nor on PATH".into()))
}

/// What a server says of its version: `2.15.2`.
///
/// # Errors
/// Where it does not run, or is too old.
pub async fn check_nats_version(program: &Path) -> Result<String, Failure> {
    let text = output_of(program, &["--version"]).await?;
    let version = text.strip_prefix("nats-server: v").map(str::trim).ok_or_else(|| {
        let said: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
        Failure::new(Code::MissingTool, format!("{} is no nats-server: it says {said:?}", program.display()))
    })?;
    let version = version.to_owned();
    bus::connect::check_version(&version)?;
    Ok(version)
}

/// What a program prints on stdout.
///
/// # Errors
/// Where it does not run or fails.
pub async fn output_of(program: &Path, args: &[&str]) -> Result<String, Failure> {
    let shown = program.display();
    let output = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| Failure::new(Code::MissingTool, format!("{shown}: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(Code::MissingTool, format!("{shown} {}: {}", args.join(" "), said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `MESH_CACHE`, else `$XDG_CACHE_HOME/mesh`, else `~/.cache/mesh`.
pub fn cache_folder() -> Option<PathBuf> {
    set("MESH_CACHE")
        .map(PathBuf::from)
        .or_else(|| set("XDG_CACHE_HOME").map(|xdg| PathBuf::from(xdg).join("mesh")))
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache").join("mesh")))
}

/// A variable that is set to something.
pub fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

pub fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| is_program(path))
}

pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
