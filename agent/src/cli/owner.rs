//! `mesh pause`, `resume` and `stop`: the owner of this machine's device says when it works.

use std::time::Duration;

use bus_schemas::api::ErrorBody;
use bus_schemas::subject::local;
use bus_schemas::{Code, DeviceId, date_and_time};
use rustix::process::Signal;
use serde::Serialize;

use super::args::{PauseArgs, StopArgs};
use super::device::{ask_agent, running};
use super::failure::{Done, End, Failure};
use super::output::{Output, count};
use crate::dev::child::signal;
use crate::dev::leftovers::stop_orphan_of;
use crate::home::{Device, Home, Settings};
use crate::local::{self as own, Granted, Wish};

/// How long an agent that was told to stop at once may take.
const NOW_MAX: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a pause or its end came to.
#[derive(Serialize)]
struct Said {
    device: DeviceId,
    name: String,
    /// Whether an agent runs here that has heard it; otherwise it holds from its next start.
    running: bool,
    paused: bool,
    /// RFC 3339; absent: until `mesh resume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    handed_back: usize,
}

/// `mesh pause`.
pub async fn pause(args: &PauseArgs, output: &Output) -> Done {
    let for_ms = args.duration.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
    let reason =
        own::reason(args.reason.as_deref()).map_err(|problem| Failure::new(Code::Usage, format!("--reason: {}", problem.detail)))?;
    let wish = Wish::Pause { for_ms, reason: reason.map(str::to_owned) };
    let (home, now) = (Home::discover(), bus::hub_time::here_ms());
    let (device, granted) = tell(&home, &wish, |settings| settings.pause(now, for_ms, reason)).await?;
    let until_ms = for_ms.map(|ms| now.saturating_add(ms));
    let until = until_ms.and_then(|ms| jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()).map(|at| format!("{at:.0}"));
    let handed_back = granted.as_ref().map_or(0, |granted| granted.handed_back);
    let said = Said { device: device.device.id, name: device.name, running: granted.is_some(), paused: true, until, handed_back };
    let human = || {
        let until = until_ms.map(|ms| format!(" until {}", date_and_time(ms))).unwrap_or_default();
        let how = match handed_back {
            _ if !said.running => "; it is not running, and will not work when it starts".to_owned(),
            0 => String::new(),
            jobs => format!("; {} handed back", count(jobs as u64, "job")),
        };
        format!("{} is paused{until}{how}   next: mesh resume", said.name)
    };
    output.print("pause", &said, || said.device.to_string(), human);
    Ok(End::Fine)
}

/// `mesh resume`.
pub async fn resume(output: &Output) -> Done {
    let home = Home::discover();
    let (device, granted) = tell(&home, &Wish::Resume {}, |settings| {
        settings.resume();
    })
    .await?;
    let said = Said { device: device.device.id, name: device.name, running: granted.is_some(), paused: false, until: None, handed_back: 0 };
    let human = || match said.running {
        true => format!("{} takes work   next: mesh status", said.name),
        false => format!("{} takes work when it runs   next: mesh start", said.name),
    };
    output.print("resume", &said, || said.device.to_string(), human);
    Ok(End::Fine)
}

/// Tells the agent, which keeps it; where none runs, its file is changed.
async fn tell(home: &Home, wish: &Wish, otherwise: impl FnOnce(&mut Settings)) -> Result<(Device, Option<Granted>), Failure> {
    let mut device = home.device()?;
    if running(home).is_some() {
        return Ok((device, Some(ask(home, wish).await?)));
    }
    otherwise(&mut device.settings);
    home.save(&device)?;
    Ok((device, None))
}

async fn ask(home: &Home, wish: &Wish) -> Result<Granted, Failure> {
    let question = serde_json::to_vec(wish).map_err(|error| Failure::ours(error.to_string()))?;
    let answer = ask_agent(home, local::OWNER, question.into()).await?;
    serde_json::from_slice(&answer).map_err(|error| match serde_json::from_slice::<ErrorBody>(&answer) {
        Ok(body) => body.into(),
        Err(_) => Failure::ours(format!("the agent's answer cannot be read: {error}")),
    })
}

/// `mesh stop`: what runs ends here, unless `--now`; what waits goes elsewhere.
pub async fn stop(args: &StopArgs, output: &Output) -> Done {
    let home = Home::discover();
    let device = home.device()?;
    let Some(pid) = running(&home) else {
        // An agent that was killed may have left its server.
        let orphan = stop_orphan_of(home.root());
        let left = orphan.map(|pid| format!("; its orphaned nats-server (pid {pid}) was stopped")).unwrap_or_default();
        return Err(Failure::new(Code::NotRunning, format!("{} is not running{left}", device.name)));
    };
    let granted = if args.now { None } else { ask(&home, &Wish::Stop {}).await.ok() };
    let waits = granted.as_ref().is_some_and(|granted| granted.running > 0);
    match &granted {
        Some(granted) if waits => {
            let jobs = count(granted.running as u64, "job");
            output.say(&format!("{} ends {jobs} first; mesh stop --now hands back what runs", device.name));
        }
        Some(_) => {}
        // One that does not answer on its own server hears a signal.
        None => signal(pid, Signal::TERM),
    }
    let start = tokio::time::Instant::now();
    while running(&home) == Some(pid) {
        if !waits && start.elapsed() > NOW_MAX {
            return Err(Failure::new(Code::Internal, format!("{} (pid {pid}) does not stop", device.name)).next("mesh stop --now"));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            _ = tokio::signal::ctrl_c() => {
                output.say(&format!("{} stops once its work has ended; mesh resume keeps it", device.name));
                return Ok(End::Exit(super::failure::EXIT_INTERRUPTED));
            }
        }
    }
    stop_orphan_of(home.root());
    #[derive(Serialize)]
    struct Stopped {
        device: DeviceId,
        name: String,
        pid: u32,
        handed_back: usize,
    }
    let handed_back = granted.map_or(0, |granted| granted.handed_back);
    let stopped = Stopped { device: device.device.id, name: device.name, pid, handed_back };
    output.print("stop", &stopped, || stopped.device.to_string(), || format!("{} stopped", stopped.name));
    Ok(End::Fine)
}
