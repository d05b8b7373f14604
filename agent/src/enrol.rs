//! Joining a network: an invite becomes a device with credentials.
//!
//! Safe to run again: keys that are there stay, and so do the name and the choices of a home that belongs to the invite's network
//! already; it only learns the network's new addresses, where the invite has others.

use anyhow::Context as _;
use bus_schemas::network::{EnrolReply, EnrolRequest, EnrolStatement, Invite, NetworkDocument};
use bus_schemas::resources::claimed_tier;
use bus_schemas::{Code, DeviceId, MemberId, NetworkId, Problem, PublicKey};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use crate::hardware::Hardware;
use crate::home::{Device, DeviceName, Home, MemberName, Settings};
use crate::http::Http;
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
            if device.gateway_url == invite.url {
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
    let request = request(home, &identity, &invite, &name, &settings)?;
    let url = format!("{}/api/v1/enrol", invite.url.trim_end_matches('/'));
    let reply: EnrolReply = Http::default().post(&url, &request).await?;
    let device = accept(&identity, &invite, &name, settings, &reply)?;
    write(home, &identity, &device, &reply).map_err(|error| bad_file(&error))?;
    Ok(joined(home, &device))
}

fn request(home: &Home, identity: &Identity, invite: &Invite, name: &str, settings: &Settings) -> Result<EnrolRequest, Problem> {
    state(home, identity, invite.network, &invite.secret, name, settings)
}

/// What a device that has joined asks new logins with: no invite, the same keys.
///
/// # Errors
/// Where the statement cannot be written.
pub fn renewal(home: &Home, identity: &Identity, device: &Device) -> Result<EnrolRequest, Problem> {
    state(home, identity, device.network, "", &device.name, &device.settings)
}

fn state(home: &Home, identity: &Identity, net: NetworkId, secret: &str, name: &str, settings: &Settings) -> Result<EnrolRequest, Problem> {
    let total = Hardware::probe(home, settings).total;
    let statement = EnrolStatement {
        net,
        device: identity.device.public(),
        member: identity.member.public(),
        transport: identity.transport(),
        name: name.to_owned(),
        at: bus::hub_time::here_ms(),
        secret: secret.to_owned(),
        claimed_tier: claimed_tier(&total),
        total,
        kinds: crate::executor::kinds(settings),
        member_only: false,
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
    let (device, member) = (identity.device.public(), identity.member.public());
    Ok(Device {
        name: name.to_owned(),
        network: network.network,
        gateway_url: invite.url.clone(),
        leaf_url: reply.leaf_url.clone(),
        nats_url: reply.nats_url.clone(),
        device: DeviceName { id: reply.device, did: device },
        member: MemberName { id: reply.member, did: member },
        settings,
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
