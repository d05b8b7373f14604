//! `mesh node`: the devices of the network.

use std::time::Duration;

use bus_schemas::api::{DeviceInfo, DeviceList, ask};
use bus_schemas::order::What;
use bus_schemas::{Code, UnixMs};

use super::args::{Cli, DrainArgs, NodeCommand};
use super::client::Session;
use super::duration;
use super::failure::{Done, End, Failure};
use super::operator;
use super::output::{self, Output};
use super::people;

/// `mesh node …`.
pub async fn run(cli: &Cli, command: &NodeCommand, output: &Output) -> Done {
    let session = Session::open(cli).await?;
    match command {
        NodeCommand::Ls => {
            let list = all(&session).await?;
            output.print_list(
                "node.ls",
                &list,
                &list.devices,
                |device| device.id.to_string(),
                || ls_text(&session, &list, session.bus.time.now_ms()),
            );
        }
        NodeCommand::Show { device } => {
            let device = find(&session, device).await?;
            output.print("node.show", &device, || device.id.to_string(), || show_text(&device));
        }
        NodeCommand::Drain(args) => drain(&session, args, output).await?,
        NodeCommand::Revoke(args) => people::revoke(&session, args, output).await?,
    }
    Ok(End::Fine)
}

async fn drain(session: &Session, args: &DrainArgs, output: &Output) -> Result<(), Failure> {
    let device = find(session, &args.device).await?;
    let ask = ask::Drain { id: device.id.to_string(), undo: args.undo, reason: args.reason.clone() };
    let own = device.member == session.context.member.id;
    let device: DeviceInfo = match args.network_key.is_none() && (own || session.context.network_key.is_none()) {
        true => session.ask("device.drain", &ask).await?,
        false => operator::order(session, args.network_key.as_deref(), What::Drain(ask)).await?,
    };
    output.print("node.drain", &device, || device.id.to_string(), || drain_text(&device));
    Ok(())
}

fn drain_text(device: &DeviceInfo) -> String {
    let (name, status) = (&device.name, &device.status);
    match device.draining {
        Some(_) => format!("{name} takes nothing new: {status}   next: mesh node drain {name} --undo"),
        None if matches!(status.as_str(), "idle" | "working") => format!("{name} takes work again: {status}"),
        // Another reason than the drain keeps it from work: a pause, or it is away.
        None => format!("{name} is drained no more; still {status}"),
    }
}

/// # Errors
/// Where the network does not answer.
pub async fn all(session: &Session) -> Result<DeviceList, Failure> {
    session.ask("device.ls", &serde_json::json!({})).await
}

/// One device by id, unique prefix of it (with or without `dev_`), or name.
///
/// # Errors
/// Where none or more than one matches.
pub async fn find(session: &Session, wanted: &str) -> Result<DeviceInfo, Failure> {
    pick(all(session).await?.devices, wanted)
}

fn pick(devices: Vec<DeviceInfo>, wanted: &str) -> Result<DeviceInfo, Failure> {
    let exact = devices.iter().find(|device| device.id.to_string() == wanted || device.did.to_string() == wanted);
    if let Some(device) = exact {
        return Ok(device.clone());
    }
    let prefix = format!("dev_{}", wanted.strip_prefix("dev_").unwrap_or(wanted));
    let named: Vec<&DeviceInfo> = devices.iter().filter(|device| device.name == wanted).collect();
    let matching =
        if named.is_empty() { devices.iter().filter(|device| device.id.to_string().starts_with(&prefix)).collect() } else { named };
    match matching.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Failure::new(Code::NoSuchDevice, format!("no device \"{wanted}\" among {}", devices.len()))),
        many => {
            let ids: Vec<String> = many.iter().map(|device| device.id.to_string()).collect();
            Err(Failure::new(Code::Ambiguous, format!("\"{wanted}\" fits {}", ids.join(", "))).next("mesh node ls"))
        }
    }
}

fn ls_text(session: &Session, list: &DeviceList, now: UnixMs) -> String {
    let context = &session.context;
    let online = list.devices.iter().filter(|device| device.online).count();
    let held = list.holds_back.as_ref().map(|why| format!("{why}\n")).unwrap_or_default();
    let head = format!("{}   {} devices, {online} online   context: {}\n{held}", context.network_name, list.devices.len(), context.name);
    if list.devices.is_empty() {
        return format!("{head}none yet; next: mesh init --join INVITE && mesh start");
    }
    head + &table(list, now)
}

fn table(list: &DeviceList, now: UnixMs) -> String {
    let row = |device: &DeviceInfo| {
        [
            device.name.clone(),
            device.id.to_string(),
            device.status.clone(),
            heard(device, now),
            device.tier.to_string(),
            device.kinds.join(", "),
            jobs(device),
            device.member.to_string(),
        ]
    };
    output::table(["NAME", "DEVICE", "STATUS", "HEARD", "TIER", "KINDS", "JOBS", "MEMBER"], list.devices.iter().map(row))
}

/// When it was last heard of, by the hub's clock: `3 s ago`.
fn heard(device: &DeviceInfo, now: UnixMs) -> String {
    let ago = |at: UnixMs| duration::ago(Duration::from_millis(now.saturating_sub(at)));
    device.last_heard_at.map_or_else(|| "never".to_owned(), ago)
}

/// What an offline one said last is old.
fn jobs(device: &DeviceInfo) -> String {
    if device.online { device.jobs.to_string() } else { "-".into() }
}

fn show_text(device: &DeviceInfo) -> String {
    let claimed =
        device.claimed_tier.filter(|claimed| *claimed != device.tier).map(|claimed| format!(" (claims {claimed})")).unwrap_or_default();
    let has = |what: &bus_schemas::resources::Resources| {
        let gpu = if what.gpu_mb > 0 { format!(", GPU {} MiB", what.gpu_mb) } else { String::new() };
        format!("{} cores, {} MiB, disk {} MiB{gpu}", what.cpu_cores, what.memory_mb, what.storage_mb)
    };
    let lines = [
        ("id", device.id.to_string()),
        ("key", device.did.to_string()),
        ("member", device.member.to_string()),
        ("tier", format!("{}{claimed}", device.tier)),
        ("kinds", device.kinds.join(", ")),
        ("can", device.capabilities.join(", ")),
        ("has", has(&device.total)),
        ("free", has(&device.free)),
        ("jobs", jobs(device)),
        ("seen", device.last_seen.clone().unwrap_or_else(|| "never".into())),
        ("version", device.version.clone().unwrap_or_default()),
    ];
    let lines: Vec<String> =
        lines.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("  {name:<8} {value}")).collect();
    format!("{}   {}\n{}", device.name, device.status, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::resources::Resources;

    fn device(seed: u8, name: &str) -> DeviceInfo {
        let key = bus_schemas::Signer::from_seed(&[seed; 32]).public();
        DeviceInfo {
            id: key.device_id(),
            did: key,
            name: name.into(),
            member: key.member_id(),
            tier: 1,
            reputation: 50,
            claimed_tier: None,
            online: true,
            status: "idle".into(),
            draining: None,
            last_seen: None,
            last_heard_at: None,
            kinds: vec![],
            capabilities: vec![],
            total: Resources::default(),
            free: Resources::default(),
            jobs: 0,
            version: None,
        }
    }

    #[test]
    fn jobs_of_an_offline_device_are_not_told() {
        let online = DeviceInfo { jobs: 2, ..device(1, "laptop-a") };
        let offline = DeviceInfo { online: false, ..online.clone() };
        assert!(show_text(&online).contains("  jobs     2\n"), "{}", show_text(&online));
        assert!(show_text(&offline).contains("  jobs     -\n"), "{}", show_text(&offline));
    }

    #[test]
    fn a_list_says_when_each_was_last_heard_of() {
        let list =
            |at: Option<u64>| DeviceList { devices: vec![DeviceInfo { last_heard_at: at, ..device(1, "laptop-a") }], holds_back: None };
        let now = 1_800_000_000_000;
        for (at, said) in [
            (None, "never"),
            (Some(now + 400), "0 s ago"),
            (Some(now - 3_900), "3 s ago"),
            (Some(now - 250_000), "4 min 10 s ago"),
            (Some(now - 7_500_000), "2 h 5 min ago"),
        ] {
            let told = table(&list(at), now);
            assert!(told.contains(&format!("  idle    {said}  ")) && told.contains("  HEARD "), "{told}");
        }
    }

    #[test]
    fn a_device_is_found_by_what_people_type() {
        let devices = vec![device(1, "laptop-a"), device(2, "laptop-b"), device(3, "laptop-b")];
        let id = devices[0].id.to_string();
        for wanted in ["laptop-a", &id, &id[..9], &id[4..9], &devices[0].did.to_string()] {
            assert_eq!(pick(devices.clone(), wanted).unwrap().id, devices[0].id, "{wanted}");
        }
        assert_eq!(pick(devices.clone(), "laptop-b").unwrap_err().code(), Code::Ambiguous);
        assert_eq!(pick(devices.clone(), "").unwrap_err().code(), Code::Ambiguous);
        assert_eq!(pick(devices, "nope").unwrap_err().exit(), 9);
    }
}
