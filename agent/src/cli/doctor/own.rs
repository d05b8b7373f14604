//! What `mesh doctor` finds out about this machine's device by looking at its own files. Nothing is written, and no secret is shown.

use std::os::unix::fs::PermissionsExt;

use bus::connect::parse_creds;
use bus_schemas::Problem;
use serde::Deserialize;

use super::{Finding, Verdict, bad, pass, skipped};
use crate::cli::{consent as command, duration};
use crate::consent::Consent;
use crate::disk::{self, Found};
use crate::home::{Device, Home, Link};
use crate::{consent_file, identity::Identity};

const GROUP: &str = "device";
/// Less room than this is worth a word: a model, a day's logs and a full queue fit into it.
const LITTLE_ROOM: u64 = 1 << 30;
const JOIN_AGAIN: &str = "mesh init --join INVITE";

/// `device.toml` is there and cannot be used.
pub fn unusable(home: &Home, problem: &Problem) -> Finding {
    let path = home.device_toml();
    let shown = path.display();
    let detail = problem.detail.lines().next().unwrap_or_default().to_owned();
    let wide = std::fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
    // A setting that no version knows may go; anything else of the file is who this device is.
    let unknown = problem.detail.contains("unknown field");
    let line =
        problem.detail.split("at line ").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    let fix = match line {
        _ if wide => format!("chmod 600 {shown}"),
        Some(line) if unknown => format!("sed -i '{line}d' {shown}"),
        Some(_) | None => JOIN_AGAIN.to_owned(),
    };
    let why = problem.detail.lines().rfind(|text| !text.trim().is_empty() && problem.detail.lines().count() > 1);
    let detail = why.map_or_else(|| detail.clone(), |why| format!("{detail}: {why}"));
    bad(GROUP, "identity", Verdict::Fail, detail, fix)
}

/// Who may put files into the home: whoever can could put other keys there.
pub fn folder(home: &Home) -> Finding {
    let path = home.root();
    for folder in [path.to_owned(), path.join("keys")] {
        let mode = std::fs::metadata(&folder).map_or(0o700, |meta| meta.permissions().mode() & 0o777);
        if mode & 0o022 != 0 {
            let detail = format!("others may change what is in {} (mode {mode:o})", folder.display());
            return bad(GROUP, "folder", Verdict::Fail, detail, format!("chmod go-w {}", folder.display()));
        }
    }
    pass(GROUP, "folder", format!("only its owner may change {}", path.display()))
}

/// Whether the keys are those of `device.toml`; nothing where one cannot be read, which is another finding.
pub fn keys(home: &Home, device: &Device) -> Option<Finding> {
    let own = Identity::device_signer(home).ok()?.public();
    let member = bus::keys::read_key_file(&home.member_key()).ok()?.public();
    let other = [("keys/device.key", own == device.device.did), ("keys/member.key", member == device.member.did)];
    Some(match other.into_iter().find(|(_, is_own)| !is_own) {
        Some((file, _)) => bad(GROUP, "keys", Verdict::Fail, format!("{file} is not the key of device.toml"), JOIN_AGAIN),
        None => pass(GROUP, "keys", "they are those of device.toml"),
    })
}

/// How long the login to NATS lasts.
pub fn login(home: &Home, now_ms: u64, runs: bool) -> Option<Finding> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default)]
        exp: Option<u64>,
    }
    let text = bus::keys::read_secret(&home.device_creds()).ok()?;
    let claims = parse_creds(&text).and_then(|(jwt, _)| data_encoding::BASE64URL_NOPAD.decode(jwt.split('.').nth(1)?.as_bytes()).ok());
    let Some(claims) = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok()) else {
        return Some(bad(GROUP, "login", Verdict::Fail, "the credentials hold no login", JOIN_AGAIN));
    };
    let Some(end_ms) = claims.exp.map(|exp| exp.saturating_mul(1000)) else { return Some(pass(GROUP, "login", "has no end")) };
    let left = |ms: u64| duration::show(std::time::Duration::from_secs(ms / 1000));
    if end_ms > now_ms {
        return Some(pass(GROUP, "login", format!("lasts {} more; the agent renews it", left(end_ms - now_ms))));
    }
    let detail = format!("ended {} ago; the agent renews it as soon as a gateway answers", left(now_ms - end_ms));
    let fix = if runs { "mesh doctor --only net" } else { "mesh start --detach" };
    Some(bad(GROUP, "login", Verdict::Warn, detail, fix))
}

/// What its owner lets it take.
pub fn consent(home: &Home) -> Finding {
    let path = home.consent_toml();
    match consent_file::read(&path) {
        Ok(consent) if consent.takes_nothing() => pass(GROUP, "consent", "its owner lets it take nothing (mesh consent show)"),
        Ok(consent) if consent == Consent::default() => pass(GROUP, "consent", "its owner lets it take all"),
        Ok(_) => pass(GROUP, "consent", "its owner lets it take some (mesh consent show)"),
        Err(problem) => bad(GROUP, "consent", Verdict::Fail, format!("{}: nothing new is taken", problem.detail), command::fix(&path)),
    }
}

/// Room where it keeps jobs and logs.
pub fn room(home: &Home) -> Finding {
    let Some(free) = disk::free_bytes(home) else { return skipped(GROUP, "disk", "the system does not say how much is free") };
    let fix = format!("find {} -type f -mtime +1 -delete", home.logs().display());
    match disk::verdict(Found { free: Some(free), answers: true }, false) {
        disk::Verdict::Full(why) => bad(GROUP, "disk", Verdict::Fail, why, fix),
        disk::Verdict::Fine | disk::Verdict::Away if free < LITTLE_ROOM => {
            bad(GROUP, "disk", Verdict::Warn, format!("{} MiB are free", free >> 20), fix)
        }
        disk::Verdict::Fine | disk::Verdict::Away => pass(GROUP, "disk", format!("{} MiB are free", free >> 20)),
    }
}

/// Whether its owner has paused it.
pub fn willing(device: &Device, now_ms: u64) -> Finding {
    let settings = &device.settings;
    if settings.paused.is_empty() || settings.is_over(now_ms) {
        pass(GROUP, "willing", "its owner has not paused it")
    } else {
        bad(GROUP, "willing", Verdict::Warn, settings.paused.clone(), "mesh resume")
    }
}

/// The device's own nats-server, without its agent: it would hold the port and the store.
pub fn orphan(home: &Home, device: &Device) -> Option<Finding> {
    if device.settings.link == Link::Client {
        return None;
    }
    let pid = Home::live_pid(&home.nats_pid())?;
    let of_home = crate::dev::leftovers::command_line(pid).is_some_and(|line| line.contains(&home.nats().display().to_string()));
    of_home.then(|| bad(GROUP, "leaf", Verdict::Warn, format!("its nats-server (pid {pid}) runs without its agent"), "mesh start --detach"))
}
