//! Renews the device's logins at half of their life, so that a device stays in its network for as long as its owner wants.
//!
//! The gateway is asked over HTTP, which works where the link is down because its login has ended (a laptop that slept for a week),
//! and over the link where HTTP does not get through. [`due`] decides and touches nothing.

use std::time::Duration;

use anyhow::Context as _;
use bus::connect::parse_creds;
use bus::{Bus, HubTime};
use bus_schemas::id::Asker;
use bus_schemas::network::{EnrolReply, EnrolRequest};
use bus_schemas::{Code, Problem, UnixMs};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::enrol;
use crate::home::{Device, Home, Link, Told};
use crate::http::Http;
use crate::identity::Identity;
use crate::leaf::{self, Reload};
use crate::link::ask_gateway;

/// The wall clock is looked at this often: a machine that slept does not notice by its timers.
const LOOK: Duration = Duration::from_secs(60);
/// The link is looked at this often: a hub that refuses the login says why only to who asks for another.
const LOOK_AT_LINK: Duration = Duration::from_secs(5);
/// A login that was just renewed is given time before it is taken for refused.
const REFUSED_AGAIN: Duration = Duration::from_secs(15);
/// The first pause after a try that failed; it doubles up to [`LOOK`].
const AGAIN: Duration = Duration::from_secs(2);

/// When these credentials are to be renewed: half of their life after they were issued. `None` where they say no end, or are none.
pub fn due(creds: &str) -> Option<UnixMs> {
    #[derive(Deserialize)]
    struct Claims {
        iat: u64,
        exp: u64,
    }
    let (jwt, _) = parse_creds(creds)?;
    let claims = data_encoding::BASE64URL_NOPAD.decode(jwt.split('.').nth(1)?.as_bytes()).ok()?;
    let Claims { iat, exp } = serde_json::from_slice(&claims).ok()?;
    Some((iat + exp.saturating_sub(iat) / 2).saturating_mul(1000))
}

/// As [`due`], of a file; a file that cannot be read is due at once.
pub fn due_of(creds: &std::path::Path) -> Option<UnixMs> {
    bus::keys::read_secret(creds).map_or(Some(0), |text| due(&text))
}

/// Renews the logins of one device.
pub struct Renewal {
    home: Home,
    device: Device,
    /// `None`: the device has no link yet.
    uplink: Option<Bus>,
    /// `None`: no server of its own is to be told.
    leaf: Option<Reload>,
    time: HubTime,
}

impl Renewal {
    /// Before the device has a link: renews what is due, while the old login may have ended.
    pub async fn at_start(home: &Home, device: &Device) {
        let mut renewal = Self { home: home.clone(), device: device.clone(), uplink: None, leaf: None, time: HubTime::default() };
        if renewal.left().is_zero()
            && let Err(problem) = renewal.renew().await
        {
            if problem.code == Code::Revoked {
                let _ = note_revoked(home, &problem);
            }
            tracing::warn!(%problem, "the device's login is older than half of its life and was not renewed; it is tried again");
        }
    }

    pub fn of(home: &Home, device: &Device, uplink: Bus, leaf: Option<Reload>) -> Self {
        let time = uplink.time.clone();
        Self { home: home.clone(), device: device.clone(), uplink: Some(uplink), leaf, time }
    }

    /// Runs until `stop`, or until the network says that this device was revoked: then `revoked` is cancelled, and a note left at home.
    pub async fn run(mut self, stop: CancellationToken, revoked: CancellationToken) {
        let mut pause = AGAIN;
        loop {
            let left = self.left();
            let refused = self.is_refused();
            let wait = if left.is_zero() || refused {
                match self.renew().await {
                    Ok(()) => {
                        tracing::info!("the device's logins were renewed");
                        pause = AGAIN;
                        if refused { REFUSED_AGAIN } else { Duration::ZERO }
                    }
                    Err(problem) if problem.code == Code::Revoked => {
                        tracing::error!(%problem, "this device works for its network no more");
                        if let Err(error) = note_revoked(&self.home, &problem) {
                            tracing::error!(error = format!("{error:#}"), "what the network said is not kept");
                        }
                        revoked.cancel();
                        return;
                    }
                    Err(problem) => {
                        tracing::warn!(%problem, "the device's logins were not renewed; they are tried again");
                        pause = (pause * 2).min(LOOK);
                        pause
                    }
                }
            } else {
                left.min(LOOK_AT_LINK)
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// How long until the logins are due; nothing where they are.
    fn left(&self) -> Duration {
        due_of(&self.home.device_creds()).map_or(LOOK, |due| Duration::from_millis(due.saturating_sub(self.time.now_ms())))
    }

    /// Whether the hub refuses the login, as far as this machine can tell.
    fn is_refused(&self) -> bool {
        let away = |uplink: &Bus| uplink.client.connection_state() != async_nats::connection::State::Connected;
        match self.device.settings.link {
            Link::Leaf => leaf::last_words(&self.home).is_some_and(|words| is_refusal(&words)),
            Link::Client => self.uplink.as_ref().is_some_and(away),
        }
    }

    async fn renew(&mut self) -> Result<(), Problem> {
        let identity = Identity::read_or_create(&self.home).map_err(|error| enrol::bad_file(&error))?;
        let reply = self.ask(&identity).await?;
        let network = enrol::check_reply(&identity, &self.device.network, &reply)?;
        if network.version < bus::keys::read_network(&self.home.network_json()).map_or(0, |known| known.version) {
            return Err(Problem::new(Code::WrongNetwork, "the gateway's network document is older than the one known here"));
        }
        self.write(&identity, &reply).map_err(|error| enrol::bad_file(&error))?;
        self.hear(Told::of(&reply))
    }

    /// Keeps where the network says that it is now. Gateways are asked there from now on; a server takes no other address of its hub while it
    /// runs, so that one counts from the next start.
    fn hear(&mut self, told: Told) -> Result<(), Problem> {
        // As the file is now: its owner may have changed other lines of it.
        let mut device = self.home.device()?;
        if device.told.as_ref() == Some(&told) {
            return Ok(());
        }
        let changed = device.hear(told);
        self.home.save(&device).map_err(|error| enrol::bad_file(&error))?;
        if !changed.is_empty() {
            tracing::warn!(
                changed = changed.join(", "),
                leaf_url = device.leaf_url,
                "the network is at other addresses; the hub's counts from the next start"
            );
        }
        self.device.gateway_url = device.gateway_url;
        Ok(())
    }

    async fn ask(&self, identity: &Identity) -> Result<EnrolReply, Problem> {
        let request = |at| enrol::renewal(&self.home, identity, &self.device, at);
        let urls = &self.device.gateway_url;
        let posted = async {
            let http = Http::to(urls, self.home.ca().as_deref())?;
            enrol::ask_stated(&http, urls, "/api/v1/enrol/renew", &self.time, request).await
        };
        let by_http = match posted.await {
            Err(problem) if matches!(problem.code, Code::Unreachable | Code::UntrustedServer | Code::Unavailable | Code::BadValue) => {
                problem
            }
            answer => return answer,
        };
        let Some(uplink) = &self.uplink else { return Err(by_http) };
        let ask = async |request: EnrolRequest| ask_gateway(uplink, &Asker::Device(self.device.device.id), "cred.renew", &request).await;
        let by_link = match ask(request(self.time.now_ms())?).await {
            // The refusal has told the time.
            Err(problem) if enrol::is_of_another_moment(&problem) => ask(request(self.time.now_ms())?).await,
            answer => answer,
        };
        by_link.map_err(|problem| Problem::new(problem.code, format!("{by_http}; over the link: {problem}")))
    }

    /// The new device login goes to the name that is not in use, and the server is told; a login that is read at each connect stays
    /// where it is.
    fn write(&self, identity: &Identity, reply: &EnrolReply) -> anyhow::Result<()> {
        let secret = bus::keys::write_secret;
        secret(&self.home.network_json(), reply.network.as_bytes())?;
        secret(&self.home.member_creds(), identity.creds(&reply.member_jwt)?.as_bytes())?;
        let device = match self.device.settings.link {
            Link::Leaf => self.home.device_creds_next(),
            Link::Client => self.home.device_creds(),
        };
        secret(&device, identity.creds(&reply.device_jwt)?.as_bytes())?;
        match &self.leaf {
            Some(leaf) => leaf.reload().context("its server was not told; it takes the new login when the old one ends"),
            None => Ok(()),
        }
    }
}

/// In a server's words.
fn is_refusal(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["authorization", "authentication", "revoked"].iter().any(|part| words.contains(part))
}

fn note_revoked(home: &Home, problem: &Problem) -> anyhow::Result<()> {
    bus::keys::write_secret(&home.revoked_note(), format!("{}\n", problem.detail).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creds(claims: &str) -> String {
        let jwt = format!("e30.{}.c2ln", data_encoding::BASE64URL_NOPAD.encode(claims.as_bytes()));
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\nSU\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn a_refused_login_is_told_from_a_dead_line() {
        for words in ["127.0.0.1:7422 - lid:6 - Leafnode Error 'Authorization Violation'", "User Authentication Revoked"] {
            assert!(is_refusal(words), "{words}");
        }
        for words in ["Error trying to connect as leafnode to remote server: dial tcp: connection refused", "Permissions Violation"] {
            assert!(!is_refusal(words), "{words}");
        }
    }

    #[test]
    fn half_of_a_life_is_when_it_is_renewed() {
        for (claims, wanted) in [
            (r#"{"iat":1000,"exp":87400}"#, Some(44_200_000)),
            (r#"{"iat":1000,"exp":1001}"#, Some(1_000_000)),
            (r#"{"iat":1000,"exp":900}"#, Some(1_000_000)),
            (r#"{"iat":1000}"#, None),
            ("no claims", None),
        ] {
            assert_eq!(due(&creds(claims)), wanted, "{claims}");
        }
        assert_eq!(due("no credentials"), None);
        assert_eq!(due_of(std::path::Path::new("/nowhere/a.creds")), Some(0));
    }
}
