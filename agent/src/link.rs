//! The device's connections, and what counts of all that comes down to it.
//!
//! Two connections: UPLINK, on which it speaks to the network, and LOCAL, where people and programs of this machine are. A neighbour
//! can make an answer to a request of its own land on our subjects, so a message counts only with a signature of the network's
//! scheduler key, and one without the reply subject that a genuine one has is dropped unread.

use std::time::Duration;

use async_nats::client::Request;
use async_nats::{Message, Subject};
use bus::connect::{Connect, Login};
use bus::{Bus, Health};
use bus_schemas::api::ErrorBody;
use bus_schemas::envelope::{Batch, Body};
use bus_schemas::id::Asker;
use bus_schemas::network::NetworkDocument;
use bus_schemas::{Code, DeviceId, InstanceId, NetworkId, Problem, PublicKey, Verified, Verifier, subject};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::home::{Device, Home, Link};
use crate::leaf::Leaf;

/// How long a door of the gateway may take.
const ANSWER_MAX: Duration = Duration::from_secs(12);

/// The connections of one device.
pub struct Links {
    pub uplink: Bus,
    /// Absent where the device has no server of its own.
    pub local: Option<Bus>,
    pub leaf: Option<Leaf>,
}

/// Where the agent hears answers of the local server: others' work is among them, and every program on this machine may read `_INBOX.>`.
const LOCAL_INBOX: &str = "_AGENT";

impl Links {
    /// Opens them as `device.toml` says: through a server of its own, or directly.
    ///
    /// # Errors
    /// Where the server does not start, or a server refuses the login.
    pub async fn open(home: &Home, device: &Device) -> anyhow::Result<Self> {
        let inbox = format!("_INBOX.{}", device.device.id);
        let name = |what: &str| format!("mesh agent {} {what}", device.name);
        match device.settings.link {
            Link::Leaf => {
                let leaf = Leaf::start(home, device).await?;
                let uplink = connect(&leaf.url(), leaf.uplink_login(), None, name("uplink"), inbox).await;
                let local = connect(&leaf.url(), leaf.local_login(), None, name("local"), LOCAL_INBOX.into()).await;
                match (uplink, local) {
                    (Ok(uplink), Ok(local)) => Ok(Self { uplink, local: Some(local), leaf: Some(leaf) }),
                    (Err(error), _) | (_, Err(error)) => {
                        leaf.stop().await;
                        Err(error)
                    }
                }
            }
            Link::Client => {
                let login = Login::Creds(home.device_creds());
                let uplink = connect(&device.client_urls(), login, home.ca(), name("client"), inbox).await?;
                Ok(Self { uplink, local: None, leaf: None })
            }
        }
    }
}

async fn connect(urls: &str, login: Login, ca: Option<std::path::PathBuf>, name: String, inbox_prefix: String) -> anyhow::Result<Bus> {
    let how = Connect { urls: urls.to_owned(), login, ca, name, inbox_prefix, wait: Duration::from_secs(10) };
    Bus::connect(how, &Health::default()).await
}

/// Asks a door of the gateway over the link.
///
/// # Errors
/// The gateway's own error, or [`Code::Unavailable`].
pub async fn ask_gateway<Q: Serialize + Sync, A: DeserializeOwned>(
    uplink: &Bus,
    asker: &Asker,
    call: &str,
    question: &Q,
) -> Result<A, Problem> {
    let away = |why: String| Problem::new(Code::Unavailable, format!("{call}: {why}"));
    let payload = serde_json::to_vec(question).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let request = Request::new().payload(payload.into()).timeout(Some(ANSWER_MAX));
    let answer = uplink.client.send_request(subject::api(asker, call), request).await.map_err(|error| away(error.to_string()))?;
    note_time(uplink, &answer);
    if let Some(error) = error_of(&answer) {
        return Err(error.into());
    }
    serde_json::from_slice(&answer.payload).map_err(|error| away(error.to_string()))
}

/// Learns the hub's time from an answer of the gateway that has just been made.
pub fn note_time(bus: &Bus, answer: &Message) {
    let told = answer.headers.as_ref().and_then(|headers| headers.get(subject::header::TIME));
    told.and_then(|ms| ms.as_str().parse().ok()).into_iter().for_each(|ms| bus.time.observe(ms));
}

/// The door's own error, where the answer is one.
pub fn error_of(answer: &Message) -> Option<ErrorBody> {
    let headers = answer.headers.as_ref()?;
    let code = headers.get(subject::header::SERVICE_ERROR_CODE)?;
    Some(serde_json::from_slice(&answer.payload).unwrap_or_else(|_| {
        let text = headers.get(subject::header::SERVICE_ERROR).map_or("", |text| text.as_str());
        Problem::new(code.as_str().parse().unwrap_or(Code::Internal), text).body()
    }))
}

/// Whose word counts.
pub struct Trust {
    pub net: NetworkId,
    pub device: DeviceId,
    scheduler_keys: Vec<PublicKey>,
    verifier: Verifier,
}

impl Trust {
    pub fn new(network: &NetworkDocument, device: DeviceId) -> Self {
        Self { net: network.network, device, scheduler_keys: network.scheduler_keys.clone(), verifier: Verifier::default() }
    }

    /// The bodies of a batch, if a scheduler of this network signed it.
    ///
    /// # Errors
    /// What is wrong with the batch, or [`Code::WrongSigner`].
    pub fn by_scheduler<T: Body>(&mut self, batch: &Batch) -> Result<Vec<Verified<T>>, Problem> {
        if !self.scheduler_keys.contains(&batch.k) {
            return Err(Problem::new(Code::WrongSigner, format!("{} is no scheduler key of this network", batch.k)));
        }
        batch.verify::<T>(&mut self.verifier)
    }

    /// One body by itself, if a scheduler of this network signed it.
    ///
    /// # Errors
    /// As [`Self::by_scheduler`].
    pub fn one_by_scheduler<T: Body>(&mut self, proof: &bus_schemas::Proof) -> Result<Verified<T>, Problem> {
        if !self.scheduler_keys.contains(&proof.k) {
            return Err(Problem::new(Code::WrongSigner, format!("{} is no scheduler key of this network", proof.k)));
        }
        proof.verify::<T>(&mut self.verifier)
    }

    /// Where the bids for an offer go: only a subject of our own is a genuine offer's reply.
    pub fn offer_reply(&self, message: &Message) -> Option<InstanceId> {
        let reply = message.reply.as_ref()?.as_str();
        let scheduler: InstanceId = reply.rsplit('.').next()?.parse().ok()?;
        (subject::bid(&self.device, &scheduler) == reply).then_some(scheduler)
    }
}

/// The reply subject of a genuine control message, and its verb.
pub fn control(message: &Message) -> Option<(Subject, String)> {
    let reply = message.reply.clone().filter(|reply| reply.starts_with("_R_."))?;
    Some((reply, message.subject.rsplit('.').next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Signer;
    use bus_schemas::offer::Offer;

    fn message(subject: &str, reply: Option<&str>) -> Message {
        Message {
            subject: subject.to_owned().into(),
            reply: reply.map(|reply| reply.to_owned().into()),
            payload: bytes::Bytes::new(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    fn trust() -> Trust {
        let (network, scheduler) = (Signer::from_seed(&[1; 32]).public(), Signer::from_seed(&[2; 32]).public());
        let document = NetworkDocument {
            network: network.network_id(),
            network_key: network,
            name: "lab".into(),
            version: 1,
            gateway_keys: vec![],
            scheduler_keys: vec![scheduler],
            ledger_keys: vec![],
            ca_sha256: None,
        };
        Trust::new(&document, network.device_id())
    }

    #[test]
    fn what_lacks_the_genuine_reply_is_dropped() {
        let trust = trust();
        let own = trust.device;
        let other = Signer::from_seed(&[9; 32]).public().device_id();
        let cases = [
            (Some(format!("mesh.v1.dev.{own}.bid.s-1")), Some("s-1")),
            (Some(format!("mesh.v1.dev.{other}.bid.s-1")), None),
            (Some(format!("mesh.v1.dev.{own}.receipt.s-1")), None),
            (Some(format!("mesh.v1.dev.{own}.bid.x.s-1")), None),
            (Some("_INBOX.abc".into()), None),
            (None, None),
        ];
        for (reply, expected) in cases {
            let found = trust.offer_reply(&message("mesh.v1.offer.x", reply.as_deref()));
            assert_eq!(found.map(|s| s.to_string()).as_deref(), expected, "{reply:?}");
        }
        assert_eq!(control(&message("mesh.v1.ctl.d.assign", Some("_R_.a.b"))).unwrap().1, "assign");
        for forged in [None, Some("_INBOX.x"), Some("_R_"), Some("mesh.v1.ctl.d.closed")] {
            assert!(control(&message("mesh.v1.ctl.d.assign", forged)).is_none());
        }
    }

    #[test]
    fn only_a_scheduler_of_this_network_is_believed() {
        let mut trust = trust();
        let forged = Signer::from_seed(&[3; 32]).batch(&[crate::bidding::tests::offer("echo", 1, 10)]);
        assert_eq!(trust.by_scheduler::<Offer>(&forged).unwrap_err().code, Code::WrongSigner);
        let mut renamed = forged;
        renamed.k = Signer::from_seed(&[2; 32]).public();
        assert_eq!(trust.by_scheduler::<Offer>(&renamed).unwrap_err().code, Code::BadSignature);
    }
}
