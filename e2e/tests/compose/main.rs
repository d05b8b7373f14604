//! `docker-compose.yml` without a container engine: each service's command line runs as a local process with its environment, in the
//! order of `depends_on`, until each health check passes; then a job goes through.
//!
//! `file` reads it, `place` puts local ports and folders where the containers' own would be, `run` is one container as a process.
//! `dockerfile` holds the images against it. What only an engine can show (builds, limits, users) is not tested here.

mod dockerfile;
mod file;
mod place;
mod run;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use file::{Compose, Condition};
use place::Place;
use run::{Image, Running};
use serde_json::json;
use testkit::postgres::Access;
use testkit::{http, until};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

fn read() -> Result<Compose> {
    Compose::read(&std::fs::read_to_string(root().join("docker-compose.yml"))?)
}

#[test]
fn the_file_says_what_runs() -> Result<()> {
    let compose = read()?;
    let order = compose.in_order()?;
    let at = |name: &str| order.iter().position(|other| *other == name).with_context(|| format!("no service {name}"));
    for (before, after) in [
        ("files", "hub-1"),
        ("hub-1", "streams"),
        ("hub-3", "streams"),
        ("streams", "gateway"),
        ("postgres", "roles"),
        ("roles", "books"),
        ("books", "gateway"),
        ("gateway", "agent"),
    ] {
        ensure!(at(before)? < at(after)?, "{before} comes before {after}: {order:?}");
    }
    ensure!(compose.services["scheduler"].deploy.replicas == 2 && compose.services["ledger"].deploy.replicas == 2);
    for (name, service) in &compose.services {
        ensure!(service.is_one_shot() != service.healthcheck.is_some(), "{name}: a health check, or an end");
        for port in &service.ports {
            ensure!(port.starts_with("127.0.0.1:"), "{name} opens {port} to others than this machine");
        }
        for (other, dependency) in &service.depends_on {
            let waits_for_end = dependency.condition == Condition::ServiceCompletedSuccessfully;
            ensure!(waits_for_end == compose.services[other].is_one_shot(), "{name} waits for {other} in the wrong way");
        }
        if service.image.is_none() {
            ensure!(service.read_only && service.cap_drop == ["ALL"], "{name} may write to its image, or has capabilities");
            ensure!(service.security_opt == ["no-new-privileges:true"], "{name} may gain privileges");
            ensure!(service.tmpfs == ["/tmp"] && service.stop_grace_period == "15s", "{name}");
        }
    }
    ensure!(compose.services["files"].network_mode.as_deref() == Some("none"), "what makes keys needs no network");
    Ok(())
}

#[tokio::test]
async fn every_service_becomes_healthy_and_a_job_goes_through() -> Result<()> {
    let compose = read()?;
    let folder = tempfile::Builder::new().prefix("mesh-compose-").permissions(std::fs::Permissions::from_mode(0o711)).tempdir()?;
    let image = image(folder.path())?;
    let mut place = Place::new(folder.path(), compose.services.keys().cloned());
    for volume in compose.volumes.keys() {
        std::fs::create_dir_all(place.volume(volume))?;
        // As in the images: a volume is its owner's alone.
        std::fs::set_permissions(place.volume(volume), std::fs::Permissions::from_mode(0o700))?;
    }

    let mut up = Up(Vec::new());
    for name in compose.in_order()? {
        let service = &compose.services[name];
        for replica in 1..=service.deploy.replicas {
            let name = if service.deploy.replicas == 1 { name.to_owned() } else { format!("{name}-{replica}") };
            eprintln!("compose: {name}");
            let mut running = match service.image.as_deref() {
                Some(image_name) => {
                    ensure!(image_name.starts_with("postgres:"), "{name}: how does {image_name} start here?");
                    if service.command.is_empty() {
                        postgres(&name, service, &image, &mut place, folder.path())?
                    } else {
                        Running::start(&name, service, &image, &mut place, folder.path())?
                    }
                }
                None => {
                    configure(&name, service, &mut place)?;
                    Running::start(&name, service, &image, &mut place, folder.path())?
                }
            };
            if service.is_one_shot() {
                running.completed()?;
            } else {
                running.healthy()?;
                up.0.push(running);
            }
        }
    }

    // The device's own member submits over HTTP.
    let home = place.volume("device");
    let token = std::fs::read_to_string(home.join("token")).context("the member's token")?;
    let gateway = place.port("gateway", 8085)?;
    let api = |path: &str| format!("http://127.0.0.1:{gateway}/api/v1{path}");
    let authorization = format!("Bearer {}", token.trim());
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let (status, job) = http::send("POST", &api("/jobs"), &headers, json!({"kind": "echo", "text": "from a container"}).to_string()).await;
    ensure!(status == 202, "{status} {job}");
    let id = job["id"].as_str().context("an id")?;
    let ended = until("the end of the job", || async {
        let (_, job) = http::send("GET", &api(&format!("/jobs/{id}")), &headers, "").await;
        matches!(job["state"].as_str(), Some("Completed" | "Failed" | "Cancelled" | "Rejected")).then_some(job)
    })
    .await;
    ensure!(ended["state"] == "Completed", "{ended}");
    let (status, result) = http::send("GET", &api(&format!("/jobs/{id}/result")), &headers, "").await;
    ensure!(status == 200 && result["result"]["text"] == "from a container", "{status} {result}");
    let worker = format!("postgresql://mesh_ledger:mesh@127.0.0.1:{}/mesh", place.port("postgres", 5432)?);
    let (client, connection) = tokio_postgres::connect(&worker, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let deleted = client.batch_execute("delete from ledger.fact").await.err().context("a ledger-worker deletes facts")?;
    ensure!(deleted.as_db_error().is_some_and(|why| why.message().contains("permission denied")), "{deleted}");
    // Postgres waits for its clients before it stops.
    drop(client);
    connection.await??;
    up.stop()
}

/// A configuration file that the command names was written by another container, in words that hold inside this one: they are put
/// in their place, too.
fn configure(name: &str, service: &file::Service, place: &mut Place) -> Result<()> {
    let mounts = service.mounts()?;
    for word in service.command.iter().filter(|word| word.starts_with('/') && word.ends_with(".conf")) {
        let file = place.local(None, &mounts, word)?;
        let text = std::fs::read_to_string(&file).with_context(|| format!("{name} reads {word}"))?;
        std::fs::write(&file, place.local(Some(name), &mounts, &text)?)?;
    }
    Ok(())
}

/// The services that run, in the order in which they were started.
struct Up(Vec<Running>);
impl Up {
    fn stop(mut self) -> Result<()> {
        while let Some(mut last) = self.0.pop() {
            last.stop()?;
        }
        Ok(())
    }
}
impl Drop for Up {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// The `postgres` service: started as its image would, its health check as in the file.
fn postgres(name: &str, service: &file::Service, image: &Image, place: &mut Place, folder: &Path) -> Result<Running> {
    let mounts = service.mounts()?;
    let (volume, _) = mounts.first().context("postgres keeps its data in a volume")?;
    let (data, port) = (place.volume(volume).join("data"), place.port(name, 5432)?);
    // Another account may have to reach it.
    for open in [place.volume(volume), folder.join("volumes")] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o711))?;
    }
    let programs = tool("MESH_PG_BIN", "scripts/postgres.sh")?;
    let variable = |name: &str| service.environment.get(name).cloned().with_context(|| format!("{name} is not set"));
    let access = Access { user: variable("POSTGRES_USER")?, password: variable("POSTGRES_PASSWORD")?, database: variable("POSTGRES_DB")? };
    let mut serve = testkit::postgres::serve(&access, &programs, &data, port)?;
    let health = Running::health(name, service, image, place)?;
    Running::spawn(name, &mut serve, health, folder)
}

/// A folder with the programs under the names that the images give them, and what the agent's image brings along.
fn image(folder: &Path) -> Result<Image> {
    let bin = folder.join("bin");
    std::fs::create_dir(&bin)?;
    for program in ["mesh", "mesh-gateway", "mesh-scheduler", "mesh-ledger"] {
        let built = testkit::proc::bin_dir().join(program);
        ensure!(built.is_file(), "no {program} beside mesh; run: make build");
        symlink(built, bin.join(program))?;
    }
    let nats_server = tool("NATS_SERVER_BIN", "scripts/nats-server.sh")?;
    symlink(&nats_server, bin.join("nats-server"))?;
    let of_machine = std::env::var_os("PATH").unwrap_or_default();
    let path = [bin, tool("MESH_PG_BIN", "scripts/postgres.sh")?].into_iter().chain(std::env::split_paths(&of_machine));
    let path = std::env::join_paths(path)?.into_string().ok().context("PATH is not text")?;
    let text = |path: PathBuf| path.display().to_string();
    let variables = BTreeMap::from([
        ("NATS_SERVER_BIN".to_owned(), text(nats_server)),
        ("MESH_ONNXRUNTIME".to_owned(), text(tool("MESH_ONNXRUNTIME", "scripts/onnxruntime.sh")?)),
        ("MESH_MODEL_DIR".to_owned(), text(tool("MESH_MODEL_DIR", "scripts/model.sh")?)),
        // Beside an image's PATH: the folder for temporary files, which a container has to itself.
        ("TMPDIR".to_owned(), text(folder.to_owned())),
    ]);
    Ok(Image { path, variables })
}

/// What `make` has put into the environment, or else what its script finds.
fn tool(variable: &str, script: &str) -> Result<PathBuf> {
    if let Some(set) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
        return Ok(set.into());
    }
    let output = Command::new(root().join(script)).output().with_context(|| script.to_owned())?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().into())
}
