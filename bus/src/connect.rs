//! One connection of one part to its nats-server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_nats::{Client, ConnectOptions, Event};

use crate::health::Health;
use crate::hub_time::HubTime;
use crate::settings::BusSettings;

/// The least server that checks what a leaf publishes.
pub const SERVER_MIN: (u32, u32, u32) = (2, 14, 3);

/// The server is asked this often whether it is there; two questions without an answer end the connection, at the third.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// A connection with what every part needs beside it. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    pub client: Client,
    /// The hub's clock, learned from stream timestamps.
    pub time: HubTime,
    /// Subject prefix of the JetStream API: `$JS.API`, or `mesh.v1.audit` for an auditor.
    pub api_prefix: Arc<str>,
}

/// How to log in.
#[derive(Debug, Clone, Default)]
pub enum Login {
    /// A server without accounts, or `no_auth_user`.
    #[default]
    None,
    /// A credentials file, read again at each connect so that a renewal takes effect.
    Creds(PathBuf),
    UserPassword(String, String),
}

/// All that a connection is made of.
#[derive(Debug, Clone)]
pub struct Connect {
    pub urls: String,
    pub login: Login,
    pub ca: Option<PathBuf>,
    /// Shown by the server.
    pub name: String,
    /// Replies arrive under it; the role allows no other.
    pub inbox_prefix: String,
    /// How long to try before giving up.
    pub wait: Duration,
}

impl Connect {
    pub fn new(settings: &BusSettings, name: &str, inbox_prefix: &str) -> Self {
        Self {
            urls: settings.nats_url.clone(),
            login: settings.creds.clone().map_or(Login::None, Login::Creds),
            ca: settings.ca.clone(),
            name: name.to_owned(),
            inbox_prefix: inbox_prefix.to_owned(),
            wait: Duration::from_secs(10),
        }
    }
}

/// Addresses separated by commas.
///
/// # Errors
/// Where one is none.
pub fn addresses(urls: &str) -> anyhow::Result<Vec<async_nats::ServerAddr>> {
    anyhow::ensure!(urls.split(',').all(|url| !url.trim().is_empty()), "not a list of NATS addresses: {urls:?}");
    let addresses: Result<Vec<_>, _> = urls.split(',').map(|url| url.trim().parse()).collect();
    addresses.with_context(|| format!("not a list of NATS addresses: {urls}"))
}

impl Bus {
    /// Connects, trying until `wait` is over, and refuses a server that is too old.
    ///
    /// # Errors
    /// Where no server answers, the login is refused, or the server is older than [`SERVER_MIN`].
    pub async fn connect(how: Connect, health: &Health) -> anyhow::Result<Self> {
        install_tls();
        let addresses = addresses(&how.urls)?;
        let deadline = tokio::time::Instant::now() + how.wait;
        let client = loop {
            match options(&how, health, &addresses)?.connect(addresses.clone()).await {
                Ok(client) => break client,
                Err(error) if tokio::time::Instant::now() < deadline => {
                    tracing::debug!(%error, "not connected yet");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => {
                    let why = crate::tls::complaint(&error).map(|why| format!(": {why}")).unwrap_or_default();
                    return Err(error).with_context(|| format!("cannot reach NATS at {}{why}", how.urls));
                }
            }
        };
        let bus = Self { client, time: HubTime::default(), api_prefix: "$JS.API".into() };
        check_version(&bus.client.server_info().version)?;
        health.set("nats", Ok(()));
        Ok(bus)
    }

    /// The same connection with another API prefix.
    pub fn with_api_prefix(&self, prefix: &str) -> Self {
        Self { api_prefix: prefix.into(), ..self.clone() }
    }
}

/// # Errors
/// One clear sentence where the version is older than [`SERVER_MIN`] or unreadable.
pub fn check_version(version: &str) -> anyhow::Result<()> {
    let (major, minor, patch) = SERVER_MIN;
    let numbers: Vec<u32> = version.trim_start_matches('v').split(['.', '-', '+']).take(3).map_while(|part| part.parse().ok()).collect();
    let new_enough = <[u32; 3]>::try_from(numbers).is_ok_and(|found| found >= [major, minor, patch]);
    anyhow::ensure!(
        new_enough,
        "error[M0207]: nats-server {version} is too old, at least {major}.{minor}.{patch} is needed (next: make deps)"
    );
    Ok(())
}

/// The one TLS provider; without it the first TLS connection would panic.
pub fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn options(how: &Connect, health: &Health, addresses: &[async_nats::ServerAddr]) -> anyhow::Result<ConnectOptions> {
    let options = match &how.login {
        Login::None => ConnectOptions::new(),
        Login::UserPassword(user, password) => ConnectOptions::with_user_and_password(user.clone(), password.clone()),
        Login::Creds(path) => {
            // Read once now, so that a missing or open file is an error of its own and not a failed login.
            crate::keys::read_secret(path)?;
            let path = path.clone();
            ConnectOptions::with_auth_callback(move |nonce| {
                let path = path.clone();
                async move { login(&path, &nonce).map_err(|error| async_nats::AuthError::new(format!("{error:#}"))) }
            })
        }
    };
    let health = health.clone();
    let options = options
        .name(&how.name)
        .custom_inbox_prefix(&how.inbox_prefix)
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(5)))
        // A node that froze keeps its connections: who hears nothing goes to another one.
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(|attempt| {
            let base = Duration::from_millis(50 * (1 << attempt.min(6)));
            let jitter = crate::keys::random::<1>().map_or(0, |[byte]| u64::from(byte));
            base.min(Duration::from_secs(2)) + Duration::from_millis(jitter)
        })
        .event_callback(move |event| {
            let health = health.clone();
            async move { note(&health, &event) }
        });
    // A WebSocket among others is for networks that let nothing else out: it comes last.
    let mixed = addresses.iter().any(async_nats::ServerAddr::is_websocket) && !addresses.iter().all(async_nats::ServerAddr::is_websocket);
    let options = if mixed { options.retain_servers_order() } else { options };
    Ok(match &how.ca {
        // That CA alone is trusted, and a server that would do without TLS is not spoken to.
        Some(ca) => options.add_root_certificates(ca.clone()).require_tls(true),
        None => options,
    })
}

fn note(health: &Health, event: &Event) {
    match event {
        Event::Connected => {
            health.set("nats", Ok(()));
            tracing::info!("connected to NATS");
        }
        Event::Disconnected => {
            health.set("nats", Err("not connected to NATS".into()));
            tracing::warn!("disconnected from NATS");
        }
        // A refused API call looks like a timeout to the caller; the reason arrives only here.
        Event::ServerError(error) => tracing::warn!(%error, "NATS server error"),
        Event::ClientError(error) => tracing::warn!(%error, "NATS client error"),
        Event::SlowConsumer(subscription) => {
            metrics::counter!("mesh_bus_messages_dropped_total").increment(1);
            tracing::error!(subscription, "messages were dropped: a subscription is full");
        }
        Event::LameDuckMode | Event::Draining | Event::Closed => tracing::info!(%event, "NATS connection"),
    }
}

/// Signs a server's nonce with the transport key. A nonce is short and has no blanks; anything else could be a frame that a
/// hostile server wants signed, and is refused.
fn login(path: &std::path::Path, nonce: &[u8]) -> anyhow::Result<async_nats::Auth> {
    let harmless = nonce.len() <= 64 && nonce.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    anyhow::ensure!(harmless, "the server asked for a signature over something that is no nonce");
    let creds = crate::keys::read_secret(path)?;
    let (jwt, seed) = parse_creds(&creds).with_context(|| format!("{} is no credentials file", path.display()))?;
    let key = nkeys::KeyPair::from_seed(seed)?;
    let mut auth = async_nats::Auth::new();
    auth.jwt = Some(jwt.to_owned());
    auth.signature = Some(key.sign(nonce)?);
    Ok(auth)
}

/// The JWT and the seed of a credentials file.
pub fn parse_creds(creds: &str) -> Option<(&str, &str)> {
    let block = |name: &str| {
        let rest = &creds[creds.find(&format!("BEGIN {name}"))?..];
        rest.lines().nth(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('-'))
    };
    Some((block("NATS USER JWT")?, block("USER NKEY SEED")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_refused_in_one_sentence() {
        for good in ["2.14.3", "2.15.2", "3.0.0", "2.15.0-beta.1"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for old in ["2.14.2", "2.9.10", "1.4.1", "", "x"] {
            let text = check_version(old).unwrap_err().to_string();
            assert!(text.contains("M0207") && text.contains("2.14.3"), "{text}");
        }
    }
}
