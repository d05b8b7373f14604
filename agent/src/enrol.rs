//! Joining a network: an invite becomes a device with credentials.
//!
//! Safe to run again: keys that are there stay, and so do the name and the choices of a home that belongs to the invite's network
//! already; it only learns the network's new addresses, where the invite has others.

use anyhow::Context as _;
use bus::HubTime;
use bus_schemas::network::{EnrolReply, EnrolRequest, EnrolStatement, Invite, NetworkDocument};
use bus_schemas::resources::{Resources, claimed_tier};
use bus_schemas::{Code, DeviceId, MemberId, NetworkId, Problem, PublicKey, UnixMs};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use crate::hardware::Hardware;
use crate::home::{Device, DeviceName, Home, MemberName, Settings, Told};
use crate::http::{Http, each};
use crate::identity::Identity;

/// What `mesh init -o json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub device: Who<DeviceId>,
    pub member: Who<MemberId>,
    /// The device's NATS credentials.
    pub creds: PathBuf,
    pub home: PathBuf,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who<Id> {
    pub id: Id,
    pub did: PublicKey,
}

/// Makes the home's keys without joining anything: `mesh init` without an invite.
///
/// # Errors
/// Where a key cannot be read or written.
pub fn keys(home: &Home) -> Result<(Who<DeviceId>, Who<MemberId>), Problem> {
    let identity = Identity::read_or_create(home).map_err(|error| bad_file(&error))?;
    let (device, member) = (identity.device.public(), identity.member.public());
    Ok((Who { id: device.device_id(), did: device }, Who { id: member.member_id(), did: member }))
}

/// Joins the network of the invite as `name`.
///
/// # Errors
/// What is wrong with the invite or a file, that the gateway cannot be reached, or why it refuses.
pub async fn join(home: &Home, invite_line: &str, name: &str) -> Result<Joined, Problem> {
    join_with(home, invite_line, name, Settings::default()).await
}

/// As [`join`], with what the owner has chosen; a home that has joined keeps its own choices.
///
/// # Errors
/// As [`join`].
pub async fn join_with(home: &Home, invite_line: &str, name: &str, settings: Settings) -> Result<Joined, Problem> {
    let invite = Invite::parse(invite_line)?;
    if name.trim().is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
        return Err(Problem::new(Code::BadValue, "a device's name has 1 to 64 printable characters"));
    }
    let (mut name, mut settings) = (name.trim().to_owned(), settings);
    if let Some(problem) = home.revoked() {
        return Err(problem);
    }
    match home.device() {
        Ok(device) if device.network == invite.network && home.device_creds().exists() => {
            let addresses_known = each(&invite.url).all(|url| each(&device.gateway_url).any(|known| known == url));
            if addresses_known && known_authority(home) == invite.ca_sha256 {
                return Ok(joined(home, &device));
            }
            (name, settings) = (device.name, device.settings);
        }
        Ok(device) if device.network != invite.network => {
            let other = format!("{} belongs to {}; set MESH_HOME to join another network", home.root().display(), device.network);
            return Err(Problem::new(Code::WrongNetwork, other));
        }
        Ok(_) => {}
        Err(problem) if problem.code == Code::NotInitialised => {}
        Err(problem) => return Err(problem),
    }
    let identity = Identity::read_or_create(home).map_err(|error| bad_file(&error))?;
    let gateway = crate::pin::gateway_of(home, &invite).await?;
    let request = |at| state(home, &identity, invite.network, &invite.secret, &name, &settings, at, Whose::Device);
    let answer = ask_stated(&gateway, &invite.url, "/api/v1/enrol", &HubTime::default(), request).await;
    let pending = Pending { invite: invite_line.trim().to_owned(), name: name.clone(), no_device: false };
    let reply = pending.after(home, answer)?;
    let device = accept(&identity, &invite, &name, settings, &reply)?;
    write(home, &identity, &device, &reply).map_err(|error| bad_file(&error))?;
    Pending::forget(home);
    Ok(joined(home, &device))
}

/// What a device that waits for approval asks again with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub invite: String,
    pub name: String,
    /// A member that brings no device.
    #[serde(default)]
    pub no_device: bool,
}
impl Pending {
    /// `None`: nothing of this home waits.
    ///
    /// # Errors
    /// [`Code::BadFile`].
    pub fn of(home: &Home) -> Result<Option<Self>, Problem> {
        let path = home.pending();
        if !path.exists() {
            return Ok(None);
        }
        let text = bus::keys::read_secret(&path).map_err(|error| bad_file(&error))?;
        let bad = |error: serde_json::Error| Problem::new(Code::BadFile, format!("{}: {error}", path.display()));
        serde_json::from_str(&text).map(Some).map_err(bad)
    }
    /// Keeps what is asked again with while it waits, and forgets it once the network refuses.
    pub(crate) fn after<T>(&self, home: &Home, answer: Result<T, Problem>) -> Result<T, Problem> {
        match answer {
            Err(problem) if problem.code == Code::AwaitsApproval => {
                let text = serde_json::to_vec(self).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
                bus::keys::write_secret(&home.pending(), &text).map_err(|error| bad_file(&error))?;
                Err(problem)
            }
            Err(problem) if matches!(problem.code, Code::BadInvite | Code::JoinDenied) => {
                // Another line that was tried in between does not end the waiting by the first.
                if Self::of(home)?.is_some_and(|kept| kept.invite == self.invite) {
                    Self::forget(home);
                }
                Err(problem)
            }
            answer => answer,
        }
    }
    /// A file that stays is met by a device that has joined, which needs it no more.
    pub(crate) fn forget(home: &Home) {
        let _ = std::fs::remove_file(home.pending());
    }
}

/// Joins as the member whose key is in `file`, in a home that has no member's key yet, or this one.
///
/// # Errors
/// [`Code::BadFile`]; [`Code::AlreadyEnrolled`] where the home is another member's.
pub fn take_member_key(home: &Home, file: &std::path::Path) -> Result<(), Problem> {
    let given = bus::keys::read_key_file(file).map_err(|error| bad_file(&error))?;
    home.create().map_err(|error| bad_file(&error))?;
    let own = home.member_key();
    if own.exists() {
        let known = bus::keys::read_key_file(&own).map_err(|error| bad_file(&error))?.public();
        let other = format!("{} is the home of {}; set MESH_HOME to join as another member", home.root().display(), known.member_id());
        return if known == given.public() { Ok(()) } else { Err(Problem::new(Code::AlreadyEnrolled, other)) };
    }
    let text = bus::keys::read_secret(file).map_err(|error| bad_file(&error))?;
    bus::keys::write_secret(&own, text.as_bytes()).map_err(|error| bad_file(&error))
}

/// The CA that this home trusts, as invites name it.
fn known_authority(home: &Home) -> Option<String> {
    bus::tls::fingerprint_of(&home.ca()?).ok()
}

/// Asks gateways with a statement of this moment. One of them that finds it to be of another moment tells what time it is: then it is
/// stated anew, since this machine's clock is wrong.
///
/// # Errors
/// As [`Http::post_to_any`].
pub async fn ask_stated(
    http: &Http,
    urls: &str,
    path: &str,
    time: &HubTime,
    state: impl Fn(UnixMs) -> Result<EnrolRequest, Problem>,
) -> Result<EnrolReply, Problem> {
    match http.post_to_any(urls, path, &state(time.now_ms())?, time).await {
        Err(problem) if is_of_another_moment(&problem) && time.is_known() => {
            tracing::warn!(%problem, ahead_ms = time.ahead_ms(), "this machine's clock is wrong; asking again by the network's clock");
            http.post_to_any(urls, path, &state(time.now_ms())?, time).await
        }
        answer => answer,
    }
}
pub fn is_of_another_moment(problem: &Problem) -> bool {
    matches!(problem.code, Code::Expired | Code::NotYetValid)
}

/// What a device that has joined asks new logins with at hub time `at`: no invite, the same keys.
///
/// # Errors
/// Where the statement cannot be written.
pub fn renewal(home: &Home, identity: &Identity, device: &Device, at: UnixMs) -> Result<EnrolRequest, Problem> {
    state(home, identity, device.network, "", &device.name, &device.settings, at, Whose::Device)
}

/// Whose login it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Device,
    /// Of one who brings no device.
    Member,
}

#[allow(clippy::too_many_arguments)] // the fields of one statement
pub(crate) fn state(
    home: &Home,
    identity: &Identity,
    net: NetworkId,
    secret: &str,
    name: &str,
    settings: &Settings,
    at: UnixMs,
    whose: Whose,
) -> Result<EnrolRequest, Problem> {
    let member_only = whose == Whose::Member;
    let total = if member_only { Resources::default() } else { Hardware::probe(home, settings).total };
    let statement = EnrolStatement {
        net,
        device: identity.device.public(),
        member: identity.member.public(),
        transport: identity.transport(),
        name: name.to_owned(),
        at,
        secret: secret.to_owned(),
        claimed_tier: if member_only { 0 } else { claimed_tier(&total) },
        total,
        kinds: if member_only { vec![] } else { crate::executor::kinds(settings) },
        member_only,
    };
    identity.enrol(&statement).map_err(|error| Problem::new(Code::Internal, format!("{error:#}")))
}

/// Checks that an answer is about us and about this network; gives the network's document.
///
/// # Errors
/// [`Code::BadSignature`], [`Code::WrongNetwork`], [`Code::WrongSigner`].
pub fn check_reply(identity: &Identity, net: &NetworkId, reply: &EnrolReply) -> Result<NetworkDocument, Problem> {
    let network = bus::keys::parse_network(reply.network.as_bytes())
        .map_err(|error| Problem::new(Code::BadSignature, format!("the gateway's network document: {error:#}")))?;
    if network.network != *net {
        let other = format!("the gateway speaks for {}, not for {net}", network.network);
        return Err(Problem::new(Code::WrongNetwork, other));
    }
    if reply.device != identity.device.public().device_id() || reply.member != identity.member.public().member_id() {
        return Err(Problem::new(Code::WrongSigner, "the gateway enrolled somebody else"));
    }
    Ok(network)
}

/// What the network that invited us makes of us.
fn accept(identity: &Identity, invite: &Invite, name: &str, settings: Settings, reply: &EnrolReply) -> Result<Device, Problem> {
    let network = check_reply(identity, &invite.network, reply)?;
    if invite.ca_sha256.is_some() && network.ca_sha256 != invite.ca_sha256 {
        return Err(Problem::new(Code::UntrustedServer, "the network's document names another CA than the invite"));
    }
    let (device, member) = (identity.device.public(), identity.member.public());
    Ok(Device {
        name: name.to_owned(),
        network: network.network,
        gateway_url: reply.gateway_url.clone().unwrap_or_else(|| invite.url.clone()),
        leaf_url: reply.leaf_url.clone(),
        nats_url: reply.nats_url.clone(),
        ws_url: reply.ws_url.clone().unwrap_or_default(),
        device: DeviceName { id: reply.device, did: device },
        member: MemberName { id: reply.member, did: member },
        settings,
        told: Some(Told::of(reply)),
    })
}

/// `device.toml` comes last: while it is not there, nothing counts as done.
fn write(home: &Home, identity: &Identity, device: &Device, reply: &EnrolReply) -> anyhow::Result<()> {
    let secret = bus::keys::write_secret;
    secret(&home.network_json(), reply.network.as_bytes())?;
    secret(&home.device_creds_next(), identity.creds(&reply.device_jwt)?.as_bytes())?;
    secret(&home.member_creds(), identity.creds(&reply.member_jwt)?.as_bytes())?;
    secret(&home.token(), format!("{}\n", reply.token.trim()).as_bytes())?;
    home.save(device).context("failed to write device.toml")
}

fn joined(home: &Home, device: &Device) -> Joined {
    Joined {
        device: Who { id: device.device.id, did: device.device.did },
        member: Who { id: device.member.id, did: device.member.did },
        creds: home.device_creds(),
        home: home.root().to_owned(),
    }
}

/// A file that cannot be used.
pub fn bad_file(error: &anyhow::Error) -> Problem {
    Problem::new(Code::BadFile, format!("{error:#}"))
}
