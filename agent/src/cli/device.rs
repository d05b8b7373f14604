//! This machine as a device: `init`, `start`, `status`, `metrics`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bus::connect::{Connect, Login};
use bus::{Bus, Health};
use bus_schemas::mana::mana_text;
use bus_schemas::network::{EnrolReply, Invite};
use bus_schemas::subject::local;
use bus_schemas::{Code, DeviceId, MemberId, NetworkId, Problem, PublicKey};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::args::{Cli, InitArgs, StartArgs, StatusArgs};
use super::client::Session;
use super::context::{Context, Contexts, Device, Identity};
use super::duration;
use super::failure::{Done, End, Failure};
use super::output::{Output, count};
use crate::dev::leftovers::command_line;
use crate::enrol::{self, Pending, Who};
use crate::home::Home;
use crate::local::Status;

/// The folder of this machine's device.
pub fn home_folder() -> Option<PathBuf> {
    Some(Home::discover().root().to_owned())
}

/// `mesh init`.
pub async fn init(args: &InitArgs, output: &Output) -> Done {
    let home = Home::discover();
    if let Some(file) = &args.member_key {
        enrol::take_member_key(&home, file)?;
    }
    // Who waits for approval asks again with the same invite.
    let pending = if args.join.is_none() && home.device().is_err() { Pending::of(&home)? } else { None };
    let Some(invite) = args.join.as_ref().or(pending.as_ref().map(|pending| &pending.invite)) else {
        #[derive(Serialize)]
        struct Keys {
            device: Who<DeviceId>,
            member: Who<MemberId>,
            home: PathBuf,
        }
        let (device, member) = enrol::keys(&home)?;
        let keys = Keys { device, member, home: home.root().to_owned() };
        let next = match home.device() {
            Err(_) => "mesh init --join INVITE",
            Ok(_) if running(&home).is_some() => "mesh status",
            Ok(_) => "mesh start",
        };
        let human =
            || format!("{}   {}\n  keys are in {}\nnext: {next}", keys.device.id, keys.device.did, keys.home.join("keys").display());
        output.print("init", &keys, || keys.device.id.to_string(), human);
        return Ok(End::Fine);
    };
    let name = args.name.clone().or_else(|| pending.as_ref().map(|pending| pending.name.clone())).unwrap_or_else(host_name);
    if args.no_device || pending.as_ref().is_some_and(|pending| pending.no_device) {
        return init_alone(&home, invite, &name, output).await;
    }
    let joined = match enrol::join(&home, invite, &name).await {
        Err(problem) if problem.code == Code::AwaitsApproval => {
            print_waiting(&home, &problem, false, output)?;
            return Ok(End::Fine);
        }
        Err(problem) if problem.code == Code::BadValue => {
            return Err(Failure::from(problem).next("mesh init --join INVITE --name NAME"));
        }
        answer => answer?,
    };
    let context = register(&home)?;
    // A device that had joined before stays what it was.
    let kept = home.device()?.name;
    if args.name.as_ref().is_some_and(|asked| asked.trim() != kept) {
        output.warn(&format!("this device had joined already, as {kept}; it keeps that name"));
    }
    let human = || {
        format!(
            "{}   joined as {kept}\n  member   {}\n  home     {}\n  context  {context}\nnext: mesh start",
            joined.device.id,
            joined.member.id,
            joined.home.display()
        )
    };
    output.print("init", &joined, || joined.device.id.to_string(), human);
    Ok(End::Fine)
}

/// `mesh init --join INVITE --no-device`.
async fn init_alone(home: &Home, invite: &str, name: &str, output: &Output) -> Done {
    #[derive(Serialize)]
    struct Alone {
        member: Who<MemberId>,
        context: String,
        home: PathBuf,
    }
    let (invite, reply) = match crate::alone::join(home, invite, name).await {
        Err(problem) if problem.code == Code::AwaitsApproval => {
            print_waiting(home, &problem, true, output)?;
            return Ok(End::Fine);
        }
        answer => answer?,
    };
    let (_, member) = enrol::keys(home)?;
    let alone = Alone { member, context: register_alone(home, name, &invite, &reply)?, home: home.root().to_owned() };
    let human = || {
        let (member, home) = (&alone.member.id, alone.home.display());
        format!("{member}   joined without a device\n  home     {home}\n  context  {}\nnext: mesh status", alone.context)
    };
    output.print("init", &alone, || alone.member.id.to_string(), human);
    Ok(End::Fine)
}

/// One that waits for an admin, and what that one types.
#[derive(Serialize)]
struct Waiting {
    waiting: bool,
    /// Absent: it brings none.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Who<DeviceId>>,
    member: Who<MemberId>,
    detail: String,
    /// For an admin of the network.
    approve: String,
    home: PathBuf,
}

fn print_waiting(home: &Home, problem: &Problem, alone: bool, output: &Output) -> Result<(), Failure> {
    let (device, member) = enrol::keys(home)?;
    let id = if alone { member.id.to_string() } else { device.id.to_string() };
    let waiting = Waiting {
        waiting: true,
        device: (!alone).then_some(device),
        member,
        detail: problem.detail.clone(),
        approve: format!("mesh network approve {id}"),
        home: home.root().to_owned(),
    };
    let next = if alone { "mesh init      once that is done" } else { "mesh start     it comes in by itself once that is done" };
    let human = || {
        let (member, home, approve) = (&waiting.member.id, waiting.home.display(), &waiting.approve);
        format!("{id}   waits for approval\n  member   {member}\n  home     {home}\nan admin of the network types: {approve}\nnext: {next}")
    };
    output.print("init", &waiting, || id.clone(), human);
    Ok(())
}

/// How often one that waits asks.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Waits for an admin where this home has asked to come in, and joins.
async fn await_approval(home: &Home, output: &Output) -> Result<(), Failure> {
    let mut told = false;
    while home.device().is_err() {
        let Some(pending) = Pending::of(home)?.filter(|pending| !pending.no_device) else { return Ok(()) };
        match enrol::join(home, &pending.invite, &pending.name).await {
            Ok(_) => {
                register(home)?;
            }
            Err(problem) if matches!(problem.code, Code::AwaitsApproval | Code::Unreachable | Code::Unavailable) => {
                if !told {
                    output.warn(&problem.detail);
                    told = true;
                }
                tokio::time::sleep(ASK_AGAIN / crate::run::time_divisor()).await;
            }
            Err(problem) => return Err(problem.into()),
        }
    }
    Ok(())
}

/// Makes a context of a device's home, so that its owner's commands find the network. It becomes the current one only where
/// there is none.
fn register(home: &Home) -> Result<String, Failure> {
    let device = home.device()?;
    let plain = plain_context(home, &device.name, (device.member.id, device.member.did))?;
    add(Context {
        nats_url: device.client_urls(),
        gateway_url: device.gateway_url,
        device: Some(Device { id: device.device.id, home: home.root().to_owned() }),
        ..plain
    })
}

/// As [`register`], of a home without a device.
fn register_alone(home: &Home, name: &str, invite: &Invite, reply: &EnrolReply) -> Result<String, Failure> {
    let (_, member) = enrol::keys(home)?;
    let plain = plain_context(home, name, (member.id, member.did))?;
    add(Context {
        nats_url: reply.ws_url.iter().fold(reply.nats_url.clone(), |urls, ws| format!("{urls},{ws}")),
        gateway_url: reply.gateway_url.clone().unwrap_or_else(|| invite.url.clone()),
        home: Some(home.root().to_owned()),
        ..plain
    })
}

fn add(context: Context) -> Result<String, Failure> {
    let contexts = Contexts::of_user()?;
    let select = contexts.find(None).is_err();
    contexts.add(context, select)
}

/// What follows from a home's own files.
fn plain_context(home: &Home, name: &str, (id, did): (MemberId, PublicKey)) -> Result<Context, Failure> {
    let document = bus::keys::read_network(&home.network_json()).map_err(|error| Failure::new(Code::BadFile, format!("{error:#}")))?;
    Ok(Context {
        name: context_name(&document.name, name),
        network: document.network,
        network_name: document.name,
        nats_url: String::new(),
        ca: home.ca(),
        member: Identity {
            id,
            did,
            creds: home.member_creds(),
            inbox_prefix: format!("_INBOX.{id}"),
            token_file: home.token(),
            key: Some(home.member_key()),
        },
        gateway_url: String::new(),
        network_file: home.network_json(),
        auditor: None,
        operator: None,
        network_key: None,
        device: None,
        home: None,
        processes: None,
        made_by_pid: None,
        start_again: None,
        stopped: false,
    })
}

fn context_name(network: &str, device: &str) -> String {
    let plain = |text: &str| text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect::<String>();
    format!("{}-{}", plain(network), plain(device))
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().into_owned();
    let name = name.split('.').next().unwrap_or_default().chars().take(64).collect::<String>();
    if name.is_empty() { "device".into() } else { name }
}

/// ONNX Runtime, as it is published, makes an id of the machine and a store of events to be sent to its makers in the home of whoever
/// runs it, before it can be told not to; with this in the environment it does not.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

/// Takes this program's place once more where that is not set: what a member lends a machine for is nobody else's business.
fn tell_nobody() -> Result<(), Failure> {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(NO_TELEMETRY).is_some() {
        return Ok(());
    }
    let error = std::process::Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(NO_TELEMETRY, "1").exec();
    Err(Failure::ours(format!("{} could not be set: {error}", NO_TELEMETRY)))
}

/// `mesh start`.
pub async fn start(args: &StartArgs, output: &Output) -> Done {
    let home = Home::discover();
    await_approval(&home, output).await?;
    let device = home.device()?;
    if let Some(pid) = running(&home) {
        return Err(Failure::new(Code::AlreadyRunning, format!("{} runs already (pid {pid})", device.name)));
    }
    #[derive(Serialize)]
    struct Started {
        device: DeviceId,
        name: String,
        pid: u32,
        home: PathBuf,
    }
    let started = |pid: u32| Started { device: device.device.id, name: device.name.clone(), pid, home: home.root().to_owned() };
    if !args.detach {
        tell_nobody()?;
        let stop = bus::shutdown::on_signal()?;
        if output.format.is_json() {
            let started = started(std::process::id());
            output.print("start", &started, || started.device.to_string(), String::new);
        }
        crate::run::run_agent(home, stop).await?;
        return Ok(End::Fine);
    }
    let log = home.logs().join("start.log");
    let bad = |error: std::io::Error| Failure::new(Code::BadFile, format!("{}: {error}", log.display()));
    home.create()?;
    let file = std::fs::File::create(&log).map_err(bad)?;
    let exe = std::env::current_exe()?;
    let mut child = {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new(exe);
        command.arg("start").env("MESH_HOME", home.root()).env_remove("MESH_STOP_WITH_PARENT").env(NO_TELEMETRY, "1");
        command.stdin(Stdio::null()).stdout(file.try_clone().map_err(bad)?).stderr(file).process_group(0).spawn()?
    };
    let pid = child.id();
    for _ in 0..300 {
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(Failure::from(anyhow::anyhow!("{}", said.trim())).tried(format!("the agent ended ({status})")));
        }
        if ask_status(&home).await.is_ok() {
            let started = started(pid);
            output.print(
                "start",
                &started,
                || started.device.to_string(),
                || format!("{} runs (pid {pid})   next: mesh status", started.name),
            );
            return Ok(End::Fine);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Failure::new(Code::Unavailable, format!("{} (pid {pid}) does not answer after 30 s", device.name))
        .next(format!("read {}", log.display())))
}

/// The agent of a home, where one runs: its pid file is held by a lock and names a process of this program.
pub fn running(home: &Home) -> Option<u32> {
    let pid = Home::live_pid(&home.agent_pid())?;
    command_line(pid).filter(|line| line.split(' ').any(|word| word == "start")).map(|_| pid)
}

/// Where programs on this machine connect.
fn local_url(home: &Home) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Kept {
        port: u16,
    }
    let not_running = || Failure::new(Code::NotRunning, "its own nats-server was never started");
    let text = bus::keys::read_secret(&home.nats().join("leaf.toml")).map_err(|_| not_running())?;
    let kept: Kept = toml::from_str(&text).map_err(|_| not_running())?;
    Ok(format!("nats://127.0.0.1:{}", kept.port))
}

/// Asks this machine's agent how it does.
///
/// # Errors
/// Where there is no device here, or its agent does not answer.
pub async fn ask_status(home: &Home) -> Result<Status, Failure> {
    let answer = ask_agent(home, local::STATUS, Bytes::new()).await?;
    serde_json::from_slice(&answer).map_err(|error| Failure::ours(format!("the agent's answer cannot be read: {error}")))
}

/// Asks this machine's agent over the device's own server.
///
/// # Errors
/// As [`ask_status`].
pub async fn ask_agent(home: &Home, subject: &str, question: Bytes) -> Result<Bytes, Failure> {
    let device = home.device()?;
    let url = local_url(home)?;
    let how = Connect {
        urls: url.clone(),
        login: Login::None,
        ca: None,
        name: "mesh status".into(),
        inbox_prefix: "_INBOX".into(),
        wait: Duration::ZERO,
    };
    let not_running =
        |why: String| Failure::new(Code::NotRunning, format!("{} does not answer", device.name)).tried(format!("tried {url}")).cause(why);
    let bus = Bus::connect(how, &Health::default()).await.map_err(|error| not_running(format!("{error:#}")))?;
    bus.ask_bytes(subject.to_owned(), question, Duration::from_secs(2)).await.map_err(|error| not_running(error.to_string()))
}

#[derive(Serialize)]
struct StatusView {
    context: Option<String>,
    network: Option<NetworkId>,
    device: Option<Status>,
    /// Why there is no device here, or it does not answer.
    device_error: Option<bus_schemas::api::ErrorBody>,
    /// The device that has joined from here, where its agent is not running.
    #[serde(skip)]
    stopped: Option<String>,
    fleet: Option<Fleet>,
    fleet_error: Option<bus_schemas::api::ErrorBody>,
}
#[derive(Serialize)]
struct Fleet {
    devices: usize,
    online: usize,
    jobs: u32,
}

/// `mesh status`.
pub async fn status(cli: &Cli, args: &StatusArgs, output: &Output) -> Done {
    loop {
        let view = look(cli).await;
        output.print(
            "status",
            &view,
            || view.device.as_ref().map(|device| device.id.to_string()).unwrap_or_default(),
            || status_text(&view),
        );
        if !args.watch {
            // Nothing here at all is worth an exit code; one of the two is enough.
            return match (view.device_error, view.fleet_error) {
                (Some(_), Some(fleet)) if view.context.is_none() => Err(fleet.into()),
                _ => Ok(End::Fine),
            };
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(2)) => (),
            _ = tokio::signal::ctrl_c() => return Ok(End::Fine),
        }
    }
}

async fn look(cli: &Cli) -> StatusView {
    let context = Contexts::of_user().and_then(|contexts| contexts.find(cli.global.context.as_deref()));
    let home = Home::discover();
    let device = match home.revoked() {
        Some(problem) => Err(problem.into()),
        None => ask_status(&home).await,
    };
    let stopped =
        home.device().ok().filter(|_| device.is_err() && running(&home).is_none() && home.revoked().is_none()).map(|device| device.name);
    let name = context.as_ref().ok().map(|context| context.name.clone());
    let network = context.as_ref().ok().map(|context| context.network);
    let fleet = match context {
        Ok(context) => fleet(context).await,
        Err(failure) => Err(failure),
    };
    let error = |failure: &Failure| failure.body();
    StatusView {
        context: name,
        network,
        device_error: device.as_ref().err().map(error),
        device: device.ok(),
        stopped,
        fleet_error: fleet.as_ref().err().map(error),
        fleet: fleet.ok(),
    }
}

async fn fleet(context: Context) -> Result<Fleet, Failure> {
    let session = Session::open_context(context).await?;
    let list = super::node::all(&session).await?;
    let online = list.devices.iter().filter(|device| device.online).count();
    Ok(Fleet { devices: list.devices.len(), online, jobs: list.devices.iter().map(|device| device.jobs).sum() })
}

fn status_text(view: &StatusView) -> String {
    let context = view.context.as_ref().map(|context| format!("   context: {context}")).unwrap_or_default();
    let mut lines = Vec::new();
    match (&view.device, &view.device_error) {
        (Some(device), _) => {
            let link = match (device.link.up, device.link.round_trip_us) {
                (true, Some(us)) => format!("connected ({} ms round trip)", us / 1000),
                (true, None) => "connected".into(),
                (false, _) => format!("not connected: {}", device.link.why.as_deref().unwrap_or("the hub does not answer")),
            };
            lines.push(format!("{} / {}   {link}{context}", device.network_name, device.name));
            if let Some(alarm) = &device.alarm {
                lines.push(format!("  ALARM     {} ({})   next: mesh credit verify", alarm.detail, alarm.code));
            }
            let working = match &device.not_working {
                Some(why) => format!("no: {why}"),
                None if device.running > 0 => format!("yes: {} running, {} waiting", device.running, device.waiting),
                None => "idle: takes work".into(),
            };
            lines.push(format!("  working   {working}"));
            let cores = format!("{} of {} cores, {} MiB", device.free.cpu_cores, device.total.cpu_cores, device.free.memory_mb);
            lines.push(format!("  offers    {cores}   tier {}   kinds: {}", device.tier, device.kinds.join(", ")));
            device.not_offered.iter().for_each(|why| lines.push(format!("            not offered: {why}")));
            let totals = &device.totals;
            lines.push(format!(
                "  done      {} completed, {} failed, {} handed back, {} mana earned   up {}",
                totals.completed,
                totals.failed,
                totals.handed_back,
                mana_text(totals.earned_mmana),
                duration::show(Duration::from_secs(device.uptime_s))
            ));
            if let Some(url) = &device.local_url {
                let outbox = device.outbox.map_or_else(|| "not known now".to_owned(), |waiting| waiting.to_string());
                lines.push(format!("  local     {url}   outbox {outbox}"));
            }
        }
        (None, Some(error)) => lines.push(match &view.stopped {
            Some(name) => format!("{name} is not running   next: mesh start{context}"),
            // It runs and does not answer, or there is none.
            None if error.code == Code::NotRunning => format!("{}   next: mesh doctor --only device{context}", error.detail),
            None => format!("no device here: {}   next: {}{context}", error.title, error.next.join(", ")),
        }),
        (None, None) => (),
    }
    match (&view.fleet, &view.fleet_error) {
        (Some(fleet), _) => {
            let devices = count(fleet.devices as u64, "device");
            lines.push(format!("  network   {devices}, {} online   jobs on them: {}", fleet.online, fleet.jobs))
        }
        (None, Some(error)) => lines.push(format!("  network   {} ({}); next: {}", error.title, error.detail, error.next.join(", "))),
        (None, None) => (),
    }
    lines.join("\n")
}

/// `mesh metrics`: what the agent counts, as Prometheus reads it; an agent opens no port, so a collector runs this.
pub async fn metrics(output: &Output) -> Done {
    let status = ask_status(&Home::discover()).await?;
    output.print("metrics", &status, || status.id.to_string(), || metrics_text(&status));
    Ok(End::Fine)
}

fn metrics_text(status: &Status) -> String {
    let totals = &status.totals;
    let gauge = |up: bool| u64::from(up);
    let rows: [(&str, &str, u64); 19] = [
        ("mesh_device_offers_total", "counter", totals.offers),
        ("mesh_device_bids_total", "counter", totals.bids),
        ("mesh_device_declined_total", "counter", totals.declined),
        ("mesh_jobs_assigned_total", "counter", totals.assigned),
        ("mesh_jobs_completed_total", "counter", totals.completed),
        ("mesh_jobs_failed_total", "counter", totals.failed),
        ("mesh_jobs_handed_back_total", "counter", totals.handed_back),
        ("mesh_jobs_cancelled_total", "counter", totals.cancelled),
        ("mesh_device_settled_total", "counter", totals.settled),
        ("mesh_device_earned_mmana_total", "counter", u64::try_from(totals.earned_mmana).unwrap_or(0)),
        ("mesh_device_forwarded_total", "counter", totals.forwarded),
        ("mesh_device_messages_dropped_total", "counter", totals.dropped),
        ("mesh_device_link_up", "gauge", gauge(status.link.up)),
        ("mesh_device_books_wrong", "gauge", gauge(status.alarm.is_some())),
        ("mesh_device_jobs_waiting", "gauge", status.waiting as u64),
        ("mesh_device_jobs_running", "gauge", status.running as u64),
        ("mesh_device_receipts_unsettled", "gauge", status.unsettled as u64),
        ("mesh_device_outbox_messages", "gauge", status.outbox.unwrap_or(0)),
        ("mesh_device_uptime_seconds", "gauge", status.uptime_s),
    ];
    let mut text = format!("# TYPE mesh_build_info gauge\nmesh_build_info{{program=\"mesh\",version=\"{}\"}} 1\n", status.version);
    for (name, kind, value) in rows {
        text.push_str(&format!("# TYPE {name} {kind}\n{name} {value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_device_is_no_missing_one() {
        let view = |code: Code, stopped: Option<&str>| StatusView {
            context: Some("lab".into()),
            network: None,
            device: None,
            device_error: Some(Failure::new(code, "laptop does not answer").body()),
            stopped: stopped.map(str::to_owned),
            fleet: Some(Fleet { devices: 1, online: 0, jobs: 0 }),
            fleet_error: None,
        };
        for (code, stopped, said) in [
            (Code::NotRunning, Some("laptop"), "laptop is not running   next: mesh start   context: lab"),
            (Code::NotRunning, None, "laptop does not answer   next: mesh doctor --only device   context: lab"),
            (Code::NotInitialised, None, "no device here: this device is not initialised   next: mesh init --join INVITE   context: lab"),
        ] {
            assert_eq!(status_text(&view(code, stopped)), format!("{said}\n  network   1 device, 0 online   jobs on them: 0"));
        }
    }

    #[test]
    fn names_of_contexts_are_plain() {
        assert_eq!(context_name("Acme Co-op", "Lab 3"), "acme-co-op-lab-3");
        assert!(!host_name().is_empty());
    }
}
