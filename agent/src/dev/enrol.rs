//! The stack's own people: a member who submits, and devices whose owners are members of their own.

use bus::HubTime;
use bus_schemas::network::{EnrolReply, EnrolStatement, Invite};
use bus_schemas::resources::Resources;
use bus_schemas::{Code, MemberId, Problem, PublicKey};

use super::place::Place;
use crate::cli::failure::Failure;
use crate::enrol::{Joined, join_with};
use crate::home::{Home, Settings};
use crate::identity::Identity;

/// A member without a device.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: MemberId,
    pub did: PublicKey,
    pub home: Home,
}

/// Enrols the member of the stack: identity key, credentials and token in a folder of its own.
///
/// # Errors
/// What the gateway refuses, or a file that cannot be written.
pub async fn member(place: &Place, invite: &str, name: &str) -> Result<Member, Failure> {
    let home = Home::at(place.member());
    let invite = Invite::parse(invite)?;
    let identity = Identity::read_or_create(&home).map_err(|error| bad_file(&error))?;
    let statement = EnrolStatement {
        net: invite.network,
        device: identity.device.public(),
        member: identity.member.public(),
        transport: identity.transport(),
        name: name.into(),
        at: bus::hub_time::here_ms(),
        secret: invite.secret.clone(),
        claimed_tier: 0,
        total: Resources::default(),
        kinds: vec![],
        member_only: true,
    };
    let request = identity.enrol(&statement).map_err(|error| bad_file(&error))?;
    let gateway = crate::pin::gateway_of(&home, &invite).await?;
    let reply: EnrolReply = gateway.post_to_any(&invite.url, "/api/v1/enrol", &request, &HubTime::default()).await?;
    let did = identity.member.public();
    if reply.member != did.member_id() {
        return Err(Problem::new(Code::WrongSigner, "the gateway enrolled somebody else").into());
    }
    let creds = identity.creds(&reply.member_jwt).map_err(|error| bad_file(&error))?;
    let write = bus::keys::write_secret;
    write(&home.member_creds(), creds.as_bytes())?;
    write(&home.token(), format!("{}\n", reply.token.trim()).as_bytes())?;
    write(&home.network_json(), reply.network.as_bytes())?;
    Ok(Member { id: did.member_id(), did, home })
}

/// Joins one device. A home of an earlier run keeps its keys and learns the addresses of this one.
///
/// # Errors
/// As [`join_with`].
pub async fn device(place: &Place, invite: &str, name: &str, port: u16, hub: &Addresses) -> Result<Joined, Failure> {
    let home = Home::at(place.agent(name));
    let settings = Settings { local_port: port, ..Settings::default() };
    let joined = join_with(&home, invite, name, settings).await?;
    let mut device = home.device()?;
    let now = (hub.gateway.as_str(), hub.leaf.as_str(), hub.nats.as_str(), port);
    if (device.gateway_url.as_str(), device.leaf_url.as_str(), device.nats_url.as_str(), device.settings.local_port) != now {
        device.gateway_url.clone_from(&hub.gateway);
        device.leaf_url.clone_from(&hub.leaf);
        device.nats_url.clone_from(&hub.nats);
        device.settings.local_port = port;
        home.save(&device).map_err(|error| bad_file(&error))?;
    }
    Ok(joined)
}

/// Where the parts of this run are.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub gateway: String,
    pub nats: String,
    pub leaf: String,
    pub ws: String,
}

/// `laptop-a`, `laptop-b`, …
pub fn name(n: u8) -> String {
    format!("laptop-{}", char::from(b'a' + n % 26))
}

fn bad_file(error: &anyhow::Error) -> Failure {
    Failure::new(Code::BadFile, format!("{error:#}"))
}
