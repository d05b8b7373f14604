//! One container as one local process: its command line and environment as the file gives them, put in its place, and its health
//! check run as given.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::{HUNG, proc};

use crate::file::Service;
use crate::place::Place;

/// How long a service may take to stop; the file says `stop_grace_period: 15s`.
const GRACE: Duration = Duration::from_secs(15);

/// A started service.
pub struct Running {
    /// `scheduler-2`, or the service's name where it has one replica.
    pub name: String,
    child: Child,
    health: Option<Command>,
    log: PathBuf,
}

/// What a container finds in its image, found on this machine.
pub struct Image {
    /// Programs by the names that the file uses.
    pub path: String,
    /// As the Dockerfile's `ENV`.
    pub variables: BTreeMap<String, String>,
}

impl Running {
    /// Starts one replica.
    ///
    /// # Errors
    /// Where its program cannot be started.
    pub fn start(name: &str, service: &Service, image: &Image, place: &mut Place, folder: &Path) -> Result<Self> {
        let mut start = inside(name, service, image, place, &service.command)?;
        let health = Self::health(name, service, image, place)?;
        Self::spawn(name, &mut start, health, folder)
    }

    /// The health check, run as given.
    ///
    /// # Errors
    /// Where it is written otherwise, or its program is not in the image.
    pub fn health(name: &str, service: &Service, image: &Image, place: &mut Place) -> Result<Option<Command>> {
        let Some(check) = &service.healthcheck else { return Ok(None) };
        let words = match check.test.as_slice() {
            [how, words @ ..] if how == "CMD" => words.to_vec(),
            [how, line] if how == "CMD-SHELL" => vec!["sh".into(), "-c".into(), line.clone()],
            other => bail!("{name}: the health check {other:?} is neither CMD nor CMD-SHELL"),
        };
        inside(name, service, image, place, &words).map(Some)
    }

    /// Starts a command that stands for a container.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(name: &str, start: &mut Command, health: Option<Command>, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log)?;
        let child =
            start.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn().with_context(|| format!("{name}: {start:?}"))?;
        Ok(Self { name: name.to_owned(), child, health, log })
    }

    /// Waits until a one-shot service has ended well.
    ///
    /// # Errors
    /// Where it failed or hangs.
    pub fn completed(&mut self) -> Result<()> {
        let status = self.ended_within(HUNG)?.with_context(|| format!("hung: {} does not end\n{}", self.name, self.said()))?;
        ensure!(status.success(), "{} ended with {status}\n{}", self.name, self.said());
        Ok(())
    }

    /// Waits until the health check passes.
    ///
    /// # Errors
    /// Where the service ended, or does not become healthy.
    pub fn healthy(&mut self) -> Result<()> {
        let start = Instant::now();
        let check = self.health.as_mut().with_context(|| format!("{} has no health check", self.name))?;
        loop {
            let last = check.stdin(Stdio::null()).output().with_context(|| format!("the health check of {}: {check:?}", self.name))?;
            if last.status.success() {
                return Ok(());
            }
            let why = format!("{}{}", String::from_utf8_lossy(&last.stdout), String::from_utf8_lossy(&last.stderr));
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}; its health check said: {why}\n{}", self.name, said(&self.log));
            }
            ensure!(
                start.elapsed() < HUNG,
                "hung: {} does not become healthy; its health check says: {why}\n{}",
                self.name,
                said(&self.log)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks it to stop, as the container engine does, and waits; what does not stop in time is killed.
    ///
    /// # Errors
    /// Where it had to be killed.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        proc::signal(self.child.id(), "TERM");
        if self.ended_within(GRACE)?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
            bail!("{} did not stop within {GRACE:?}\n{}", self.name, self.said());
        }
        Ok(())
    }

    fn ended_within(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                None if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(20)),
                status => return Ok(status),
            }
        }
    }

    fn said(&self) -> String {
        said(&self.log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// A command line with the environment it would have inside the container, and no other.
fn inside(name: &str, service: &Service, image: &Image, place: &mut Place, words: &[String]) -> Result<Command> {
    let mounts = service.mounts()?;
    let instance = service.has_network().then_some(name);
    let mut variables = image.variables.clone();
    // Home of the images' user.
    variables.insert("HOME".to_owned(), place.local(instance, &mounts, "/var/lib/mesh")?);
    for (variable, value) in &service.environment {
        variables.insert(variable.clone(), place.local(instance, &mounts, value)?);
    }
    let words = words.iter().map(|word| place.local(instance, &mounts, word)).collect::<Result<Vec<_>>>()?;
    let (program, arguments) = words.split_first().with_context(|| format!("{name}: an empty command"))?;
    let found = std::env::split_paths(&image.path).map(|folder| folder.join(program)).find(|file| file.is_file());
    let mut command = Command::new(found.with_context(|| format!("{name}: {program} is not in the image"))?);
    command.args(arguments).env_clear().env("PATH", &image.path).envs(variables);
    Ok(command)
}

fn said(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
