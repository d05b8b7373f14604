//! What cargo and git say about this repository, read once.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// A package in the dependency tree, for whatever platform.
#[derive(Clone, Debug, Default)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// `None` for a package in a folder.
    pub source: Option<String>,
    pub licence: Option<String>,
    /// Is it one of the crates of this repository?
    pub member: bool,
    pub folder: PathBuf,
    pub dependencies: Vec<Dependency>,
    /// The first file of each library, program, test, …
    pub crate_roots: Vec<PathBuf>,
}

#[derive(Clone, Debug, Default)]
pub struct Dependency {
    pub name: String,
    /// For tests only.
    pub dev: bool,
}

/// The folder of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Runs cargo without the network; with it only where a package is not on this machine yet.
pub fn cargo(arguments: &[&str]) -> Result<String> {
    let run = |offline: &[&str]| {
        Command::new(env!("CARGO")).args(arguments).args(offline).current_dir(root()).output().context("cargo does not start")
    };
    let mut output = run(&["--offline"])?;
    if !output.status.success() {
        output = run(&[])?;
    }
    if !output.status.success() {
        bail!("cargo {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Every package of every platform, all features on.
pub fn packages() -> Result<&'static [Package]> {
    static READ: LazyLock<Result<Vec<Package>>> = LazyLock::new(|| {
        let text = cargo(&["metadata", "--format-version", "1", "--locked", "--all-features"])?;
        from_metadata(&serde_json::from_str(&text)?)
    });
    READ.as_deref().map_err(|error| anyhow::anyhow!("{error:#}"))
}

/// The crates of this repository.
pub fn members() -> Result<Vec<&'static Package>> {
    Ok(packages()?.iter().filter(|package| package.member).collect())
}

fn from_metadata(metadata: &Value) -> Result<Vec<Package>> {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().with_context(|| format!("cargo metadata has no {field}"));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let members = list(metadata, "workspace_members")?;
    let mut packages = Vec::new();
    for package in list(metadata, "packages")? {
        let manifest = PathBuf::from(text(&package["manifest_path"]).unwrap_or_default());
        packages.push(Package {
            name: text(&package["name"]).context("a package has no name")?,
            version: text(&package["version"]).unwrap_or_default(),
            source: text(&package["source"]),
            licence: text(&package["license"]),
            member: members.contains(&package["id"]),
            folder: manifest.parent().unwrap_or(Path::new("")).to_owned(),
            dependencies: list(&package, "dependencies")?
                .iter()
                .map(|one| Dependency { name: text(&one["name"]).unwrap_or_default(), dev: one["kind"] == "dev" })
                .collect(),
            crate_roots: list(&package, "targets")?.iter().filter_map(|target| text(&target["src_path"])).map(PathBuf::from).collect(),
        });
    }
    Ok(packages)
}

/// The files of the repository that git would keep, as paths from its root. Without git, all but hidden folders and build outputs.
pub fn files() -> Result<Vec<PathBuf>> {
    let listed = Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root()).output();
    let mut files: Vec<PathBuf> = match listed {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout)?.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from).collect()
        }
        Ok(_) | Err(_) => below(&root())?.iter().filter_map(|path| path.strip_prefix(root()).ok()).map(Path::to_owned).collect(),
    };
    files.retain(|path| root().join(path).is_file());
    files.sort();
    Ok(files)
}

/// The files in a folder and the folders in it.
pub fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let outputs = ["target", "bin"].map(|name| root().join(name));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && !outputs.contains(&path) {
            found.extend(below(&path)?);
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn metadata_is_read() -> Result<()> {
    let packages = packages()?;
    assert!(packages.iter().any(|package| package.name == "serde" && !package.member && package.source.is_some()));
    assert!(packages.iter().any(|package| package.name == "bus-schemas" && package.member && !package.crate_roots.is_empty()));
    Ok(())
}

#[test]
fn both_ways_of_listing_see_the_same_sources() -> Result<()> {
    let listed = files()?;
    assert!(listed.contains(&PathBuf::from("Cargo.toml")), "{listed:?}");
    let walked = below(&root().join("bus-schemas"))?;
    assert!(walked.contains(&root().join("bus-schemas/src/lib.rs")), "{walked:?}");
    Ok(())
}
