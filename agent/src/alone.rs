//! A member that brings no device: a guest, an auditor, or somebody who submits from a machine that lends nothing. Its home has keys, a login
//! and a token; no agent renews the login, so the commands that use it do.

use bus::HubTime;
use bus_schemas::network::{EnrolReply, Invite};
use bus_schemas::{Code, NetworkId, Problem};

use crate::enrol::{Pending, Whose, ask_stated, bad_file, check_reply, state};
use crate::home::{Home, Settings};
use crate::http::Http;
use crate::identity::Identity;
use crate::renewal::due_of;

/// Joins the network of the invite without a device. Again with the same invite it is the same enrolment.
///
/// # Errors
/// As [`crate::enrol::join`].
pub async fn join(home: &Home, invite_line: &str, name: &str) -> Result<(Invite, EnrolReply), Problem> {
    let invite = Invite::parse(invite_line)?;
    if home.device_toml().exists() {
        let there = format!("{} is the home of a device; set MESH_HOME to join without one", home.root().display());
        return Err(Problem::new(Code::AlreadyEnrolled, there));
    }
    if let Ok(known) = bus::keys::read_network(&home.network_json())
        && known.network != invite.network
    {
        let other = format!("{} belongs to {}; set MESH_HOME to join another network", home.root().display(), known.network);
        return Err(Problem::new(Code::WrongNetwork, other));
    }
    let identity = Identity::read_or_create(home).map_err(|error| bad_file(&error))?;
    let gateway = crate::pin::gateway_of(home, &invite).await?;
    let (settings, net) = (Settings::default(), invite.network);
    let request = |at| state(home, &identity, net, &invite.secret, name, &settings, at, Whose::Member);
    let answer = ask_stated(&gateway, &invite.url, "/api/v1/enrol", &HubTime::default(), request).await;
    let pending = Pending { invite: invite_line.trim().to_owned(), name: name.to_owned(), no_device: true };
    let reply = pending.after(home, answer)?;
    let network = check_reply(&identity, &net, &reply)?;
    if invite.ca_sha256.is_some() && network.ca_sha256 != invite.ca_sha256 {
        return Err(Problem::new(Code::UntrustedServer, "the network's document names another CA than the invite"));
    }
    let secret = bus::keys::write_secret;
    let written = secret(&home.token(), format!("{}\n", reply.token.trim()).as_bytes()).and_then(|()| keep(home, &identity, &reply));
    written.map_err(|error| bad_file(&error))?;
    Pending::forget(home);
    Ok((invite, reply))
}

fn keep(home: &Home, identity: &Identity, reply: &EnrolReply) -> anyhow::Result<()> {
    bus::keys::write_secret(&home.network_json(), reply.network.as_bytes())?;
    bus::keys::write_secret(&home.member_creds(), identity.creds(&reply.member_jwt)?.as_bytes())
}

/// Renews the member's login of a home without a device, where half of its life is over.
///
/// # Errors
/// What the gateway refuses, or that none answers: the old login may still do.
pub async fn renew_if_due(home: &Home, net: NetworkId, gateway_urls: &str) -> Result<(), Problem> {
    let time = HubTime::default();
    if due_of(&home.member_creds()).is_none_or(|due| due > time.now_ms()) {
        return Ok(());
    }
    let identity = Identity::read_or_create(home).map_err(|error| bad_file(&error))?;
    let http = Http::to(gateway_urls, home.ca().as_deref())?;
    let request = |at| state(home, &identity, net, "", "member", &Settings::default(), at, Whose::Member);
    let reply = ask_stated(&http, gateway_urls, "/api/v1/enrol/renew", &time, request).await?;
    let network = check_reply(&identity, &net, &reply)?;
    if network.version < bus::keys::read_network(&home.network_json()).map_or(0, |known| known.version) {
        return Err(Problem::new(Code::WrongNetwork, "the gateway's network document is older than the one known here"));
    }
    keep(home, &identity, &reply).map_err(|error| bad_file(&error))
}
