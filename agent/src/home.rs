//! The agent's folder: which file is where, and how each is written.
//!
//! ```text
//! device.toml            who this device is, where its network is, what its owner allows      0600
//! keys/device.key        identity key of the device (Ed25519); keys/member.key: of its owner   0600
//! keys/transport.nk      seed of the nkey that logs in to NATS                                  0600
//! consent.toml           what its owner lets it take; absent: all
//! network.json           the network document, as the network signed it
//! creds-a.creds, -b      NATS credentials of the device; two names, so that a renewal is a new file
//! member.creds, token    NATS credentials and HTTP token of the member                         0600
//! ca.pem                 the hub's private CA, where there is one
//! pending.json           the invite of a device that waits for an admin's approval               0600
//! nats/                  configuration and store of the device's own nats-server; nats.pid its process
//! agent.pid, agent.lock  the running agent
//! checkpoints/           the last checkpoint seen of each network's books
//! logs/                  daily log files
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bus_schemas::network::EnrolReply;
use bus_schemas::{Code, DeviceId, MemberId, NetworkId, Problem, PublicKey};
use serde::{Deserialize, Serialize};

pub use crate::work::FullQueue;

/// The folder of one device. Cheap to clone; making one touches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// `MESH_HOME`, otherwise `~/.meshnet`.
    pub fn discover() -> Self {
        let named = std::env::var_os("MESH_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
        Self::at(named.unwrap_or_else(|| std::env::home_dir().unwrap_or_else(|| PathBuf::from("/var/lib")).join(".meshnet")))
    }
    /// The folder at `root`; a relative one is taken from the current folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { root: std::path::absolute(&root).unwrap_or(root) }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn device_toml(&self) -> PathBuf {
        self.root.join("device.toml")
    }
    pub fn consent_toml(&self) -> PathBuf {
        self.root.join("consent.toml")
    }
    pub fn device_key(&self) -> PathBuf {
        self.root.join("keys/device.key")
    }
    pub fn member_key(&self) -> PathBuf {
        self.root.join("keys/member.key")
    }
    pub fn transport_seed(&self) -> PathBuf {
        self.root.join("keys/transport.nk")
    }
    pub fn network_json(&self) -> PathBuf {
        self.root.join("network.json")
    }
    /// The device's credentials in use: the newer one of the two names.
    pub fn device_creds(&self) -> PathBuf {
        let [a, b] = [self.root.join("creds-a.creds"), self.root.join("creds-b.creds")];
        let written = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        if written(&b) > written(&a) { b } else { a }
    }
    /// Where the next credentials go: the name that is not in use, since a server reads a file only when its name is new.
    pub fn device_creds_next(&self) -> PathBuf {
        let [a, b] = [self.root.join("creds-a.creds"), self.root.join("creds-b.creds")];
        if !a.exists() || self.device_creds() == b { a } else { b }
    }
    pub fn member_creds(&self) -> PathBuf {
        self.root.join("member.creds")
    }
    pub fn token(&self) -> PathBuf {
        self.root.join("token")
    }
    /// The hub's private CA, where there is one.
    pub fn ca(&self) -> Option<PathBuf> {
        Some(self.ca_file()).filter(|path| path.is_file())
    }
    /// Where it goes.
    pub fn ca_file(&self) -> PathBuf {
        self.root.join("ca.pem")
    }
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
    /// Configuration and store of the device's own nats-server.
    pub fn nats(&self) -> PathBuf {
        self.root.join("nats")
    }
    /// Process id of the device's own nats-server.
    pub fn nats_pid(&self) -> PathBuf {
        self.root.join("nats.pid")
    }
    /// Process id of the running agent.
    /// There once the network has said that this device was revoked: why.
    pub fn revoked_note(&self) -> PathBuf {
        self.root.join("revoked")
    }
    /// Why this device works for its network no more; a new identity is needed, in another folder.
    pub fn revoked(&self) -> Option<Problem> {
        let why = std::fs::read_to_string(self.revoked_note()).ok()?;
        Some(Problem::new(Code::Revoked, why.trim().to_owned()))
    }
    /// Invite and name of one that waits for approval.
    pub fn pending(&self) -> PathBuf {
        self.root.join("pending.json")
    }
    pub fn agent_pid(&self) -> PathBuf {
        self.root.join("agent.pid")
    }
    /// Held while an agent runs, so that two cannot share a home.
    pub fn agent_lock(&self) -> PathBuf {
        self.root.join("agent.lock")
    }

    /// Makes the folders, mode 0700.
    ///
    /// # Errors
    /// Where they cannot be made.
    pub fn create(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for folder in [self.root.clone(), self.root.join("keys"), self.logs(), self.nats()] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.with_context(|| format!("failed to make the folder {}", folder.display()))?;
        }
        Ok(())
    }

    /// The device of this home.
    ///
    /// # Errors
    /// [`Code::NotInitialised`] where there is none yet, [`Code::BadFile`] where `device.toml` cannot be used.
    pub fn device(&self) -> Result<Device, Problem> {
        let path = self.device_toml();
        if !path.exists() {
            return Err(Problem::new(Code::NotInitialised, format!("{} is not there", path.display())));
        }
        let bad = |why: String| Problem::new(Code::BadFile, format!("{}: {why}", path.display()));
        let text = bus::keys::read_secret(&path).map_err(|error| bad(format!("{error:#}")))?;
        toml::from_str(&text).map_err(|error| bad(error.to_string()))
    }

    /// Writes `device.toml`, whole or not at all, mode 0600.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn save(&self, device: &Device) -> anyhow::Result<()> {
        let text = toml::to_string_pretty(device).context("failed to write device.toml")?;
        bus::keys::write_secret(&self.device_toml(), text.as_bytes())
    }

    /// Process id that a pid file names, if that process lives.
    pub fn live_pid(path: &Path) -> Option<u32> {
        let pid: u32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        let raw = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
        match rustix::process::test_kill_process(raw) {
            Ok(()) | Err(rustix::io::Errno::PERM) => Some(pid),
            Err(_) => None,
        }
    }
}

/// `device.toml`: who this device is and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub network: NetworkId,
    /// The gateway's address.
    pub gateway_url: String,
    /// Where the device's own nats-server links to; several addresses are separated by commas.
    pub leaf_url: String,
    /// Where clients connect to the hub.
    pub nats_url: String,
    /// Where both connect by WebSocket, from a network that lets nothing else out; empty: nowhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ws_url: String,
    pub device: DeviceName,
    pub member: MemberName,
    #[serde(default)]
    pub settings: Settings,
    /// Where the network said last that it is; absent where it joined before that was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}
/// Addresses as the network tells them when a device joins and with each renewal of its logins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_url: Option<String>,
    pub leaf_url: String,
    pub nats_url: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ws_url: String,
}
impl Told {
    pub fn of(reply: &EnrolReply) -> Self {
        Self {
            gateway_url: reply.gateway_url.clone(),
            leaf_url: reply.leaf_url.clone(),
            nats_url: reply.nats_url.clone(),
            ws_url: reply.ws_url.clone().unwrap_or_default(),
        }
    }
}
impl Device {
    /// Takes over addresses that the network has changed since it told them last; those that the owner wrote here stay. The names of
    /// those that are others now.
    pub fn hear(&mut self, told: Told) -> Vec<&'static str> {
        let Some(before) = self.told.replace(told.clone()) else { return vec![] };
        let gateway = before.gateway_url.as_ref().zip(told.gateway_url.as_ref());
        let mut changed = Vec::new();
        for (name, own, pair) in [
            ("gateway_url", &mut self.gateway_url, gateway),
            ("leaf_url", &mut self.leaf_url, Some((&before.leaf_url, &told.leaf_url))),
            ("nats_url", &mut self.nats_url, Some((&before.nats_url, &told.nats_url))),
            ("ws_url", &mut self.ws_url, Some((&before.ws_url, &told.ws_url))),
        ] {
            if let Some((before, now)) = pair
                && own == before
                && now != before
            {
                own.clone_from(now);
                changed.push(name);
            }
        }
        changed
    }
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceName {
    pub id: DeviceId,
    pub did: PublicKey,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberName {
    pub id: MemberId,
    pub did: PublicKey,
}

/// How the device reaches its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// Through a nats-server of its own, which keeps submissions while the hub is away.
    #[default]
    Leaf,
    /// Directly; nothing can be submitted on this machine while the hub is away.
    Client,
}

/// What the owner has chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub link: Link,
    /// Port of the device's own nats-server on loopback; 0: any free one, kept from then on.
    pub local_port: u16,
    /// Kinds of jobs to take; empty: all that can run here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Cores and memory (MiB) to lend; 0: all.
    pub cores: u32,
    pub memory_mb: u32,
    pub full_queue: FullQueue,
    /// Jobs that compute at the same time; 0: one.
    pub slots: u32,
    /// Why it takes no work now; empty: it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub paused: String,
    /// When it goes on by itself, Unix milliseconds of this machine's clock; 0: when its owner says so.
    #[serde(skip_serializing_if = "is_zero")]
    pub paused_until_ms: u64,
}
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's shape
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Device {
    /// All addresses at which a client of the hub may be heard, the best ones first.
    pub fn client_urls(&self) -> String {
        if self.ws_url.is_empty() { self.nats_url.clone() } else { format!("{},{}", self.nats_url, self.ws_url) }
    }
}

impl Settings {
    /// Takes no work from now on, for so long or until its owner says otherwise; `now` in Unix milliseconds.
    pub fn pause(&mut self, now: u64, for_ms: Option<u64>, reason: Option<&str>) {
        self.paused_until_ms = for_ms.map_or(0, |ms| now.saturating_add(ms));
        let until = for_ms.map(|_| format!(" until {}", bus_schemas::date_and_time(self.paused_until_ms))).unwrap_or_default();
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        self.paused = format!("{}{until}{reason}", bus_schemas::offer::Decline::Paused);
    }
    /// Takes work again; whether it did not before.
    pub fn resume(&mut self) -> bool {
        self.paused_until_ms = 0;
        !std::mem::take(&mut self.paused).is_empty()
    }
    /// Whether a pause is over by this machine's clock.
    pub fn is_over(&self, now: u64) -> bool {
        self.paused_until_ms != 0 && self.paused_until_ms <= now
    }
}

/// Makes a secret file unless it is there.
///
/// # Errors
/// Where it cannot be written, or is open to others.
pub fn secret_or_new(path: &Path, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<zeroize::Zeroizing<String>> {
    if !path.exists() {
        bus::keys::write_secret(path, make()?.as_bytes())?;
    }
    let text = bus::keys::read_secret(path)?;
    ensure!(!text.trim().is_empty(), "{} is empty", path.display());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::PAUSE_MS_MAX;
    use bus_schemas::Signer;
    use std::os::unix::fs::PermissionsExt;

    fn device() -> Device {
        let key = Signer::from_seed(&[1; 32]).public();
        Device {
            name: "laptop".into(),
            network: key.network_id(),
            gateway_url: "http://127.0.0.1:1".into(),
            leaf_url: "nats://127.0.0.1:2".into(),
            nats_url: "nats://127.0.0.1:3".into(),
            ws_url: "wss://127.0.0.1:4".into(),
            device: DeviceName { id: key.device_id(), did: key },
            member: MemberName { id: key.member_id(), did: key },
            settings: Settings { kinds: vec!["echo".into()], ..Settings::default() },
            told: None,
        }
    }

    #[test]
    fn a_device_is_written_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("a"));
        assert_eq!(home.device().unwrap_err().code, Code::NotInitialised);
        home.create().unwrap();
        home.save(&device()).unwrap();
        assert_eq!(home.device().unwrap(), device());
        assert_eq!(fs::metadata(home.device_toml()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(home.root()).unwrap().permissions().mode() & 0o777, 0o700);
        bus::keys::write_secret(&home.device_toml(), b"name = 1").unwrap();
        assert_eq!(home.device().unwrap_err().code, Code::BadFile);
    }

    #[test]
    fn addresses_follow_the_network_unless_the_owner_wrote_them() {
        let told = |gateway: Option<&str>, leaf: &str, nats: &str| Told {
            gateway_url: gateway.map(str::to_owned),
            leaf_url: leaf.into(),
            nats_url: nats.into(),
            ws_url: device().ws_url,
        };
        let first = told(Some("http://127.0.0.1:1"), "nats://127.0.0.1:2", "nats://127.0.0.1:3");
        let mut home = device();
        assert!(home.hear(told(None, "nats://new:2", "nats://new:3")).is_empty(), "what was told before is not known");
        assert_eq!(home.leaf_url, device().leaf_url);
        let joined = || Device { told: Some(first.clone()), ..device() };
        let moved = Told { ws_url: "wss://b".into(), ..first.clone() };
        assert_eq!(joined().hear(moved), ["ws_url"]);
        for (own_leaf, now, changed, leaf) in [
            (None, first.clone(), vec![], "nats://127.0.0.1:2"),
            (None, told(Some("http://b"), "nats://b", "nats://c"), vec!["gateway_url", "leaf_url", "nats_url"], "nats://b"),
            (None, told(None, "nats://b", "nats://127.0.0.1:3"), vec!["leaf_url"], "nats://b"),
            (Some("nats://tunnel"), told(Some("http://b"), "nats://b", "nats://127.0.0.1:3"), vec!["gateway_url"], "nats://tunnel"),
        ] {
            let mut device = joined();
            device.leaf_url = own_leaf.map_or(device.leaf_url, str::to_owned);
            assert_eq!((device.hear(now.clone()), device.leaf_url.as_str()), (changed, leaf));
            assert_eq!(device.told, Some(now));
            let read: Device = toml::from_str(&toml::to_string_pretty(&device).unwrap()).unwrap();
            assert_eq!(read, device);
        }
    }

    #[test]
    fn a_pause_says_until_when_and_why() {
        let now = 1_800_000_000_000;
        for (for_ms, reason, said, over_after) in [
            (None, None, "paused by its owner", None),
            (None, Some("I play"), "paused by its owner: I play", None),
            (Some(7_200_000), None, "paused by its owner until 2027-01-15 10:00:00 UTC", Some(7_200_000)),
            (Some(1), Some("x"), "paused by its owner until 2027-01-15 08:00:00 UTC: x", Some(1)),
            (Some(PAUSE_MS_MAX), None, "paused by its owner until 2028-01-15 08:00:00 UTC", Some(PAUSE_MS_MAX)),
        ] {
            let mut settings = Settings::default();
            settings.pause(now, for_ms, reason);
            assert_eq!(settings.paused, said);
            assert!(!settings.is_over(now), "{said}");
            assert_eq!(over_after, over_after.filter(|ms| settings.is_over(now + ms)), "{said}");
            let mut again: Settings = toml::from_str(&toml::to_string(&settings).unwrap()).unwrap();
            assert_eq!(again, settings, "it outlives a restart");
            assert!(again.resume() && !again.resume() && again == Settings::default());
        }
    }

    #[test]
    fn credentials_alternate() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        assert!(home.device_creds_next().ends_with("creds-a.creds"));
        let mut before = home.device_creds_next();
        for _ in 0..4 {
            bus::keys::write_secret(&before, b"x").unwrap();
            // Times of files are coarse; the order of two writes must be visible in them.
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
            fs::File::options().write(true).open(&before).unwrap().set_modified(later).unwrap();
            assert_eq!(home.device_creds(), before);
            let next = home.device_creds_next();
            assert_ne!(next, before);
            let earlier = later - std::time::Duration::from_secs(9);
            fs::File::options().write(true).open(&before).unwrap().set_modified(earlier).unwrap();
            before = next;
        }
    }
}
