//! The heartbeat, which also shows whether the hub is there; receipts that are sent again; and what the agent tells about itself.

use std::time::{Duration, Instant};

use async_nats::Message;
use bus::Bus;
use bus_schemas::DeviceId;
use bus_schemas::api::{DeviceInfo, ask};
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::id::Asker;
use bus_schemas::limits::UNSETTLED_LISTED_MAX;
use bus_schemas::network::{Draining, both_reasons};
use bus_schemas::resources::claimed_tier;
use bus_schemas::subject;
use bytes::Bytes;

use super::state::{Agent, Happened};
use crate::local::{LinkStatus, Status};

/// While the hub is away it is tried this often; at first more often, since a fresh link takes less than a tenth of a second.
const TRY_AGAIN: Duration = Duration::from_millis(500);
const TRY_SOON: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// So long an answer waits for what is not known here: a gateway that is there answers within a few milliseconds, and where none does
/// the last word counts.
const ASKED_WITHIN: Duration = Duration::from_millis(150);

/// A question of this machine, with what was to be asked elsewhere first; a late answer is none.
pub struct Asked {
    reply: async_nats::Subject,
    /// Messages that wait for the hub.
    outbox: Option<u64>,
    record: Option<SetAside>,
}

/// Why nobody offers it work, where that stands in its record and not here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAside {
    revoked: bool,
    draining: Option<Draining>,
}
impl SetAside {
    fn of(info: DeviceInfo) -> Self {
        Self { revoked: info.status == "revoked", draining: info.draining }
    }
    /// In words, where it has so many jobs now.
    fn said(&self, jobs: usize) -> Option<String> {
        let revoked = self.revoked.then(|| "it was revoked".to_owned());
        revoked.or_else(|| Some(self.draining.as_ref()?.status(jobs)))
    }
}

impl Agent {
    /// Sends a heartbeat and sets when the next one is due.
    pub fn beat(&mut self) {
        self.look_around();
        self.drop_expired();
        self.next_beat = Instant::now() + self.timings.heartbeat;
        let payload = self.heartbeat(self.not_working());
        let (bus, to, happened) = (self.uplink.clone(), subject::heartbeat(&self.trust.device), self.happened.clone());
        tokio::spawn(async move {
            let start = Instant::now();
            let answer = bus.store_once(to, None, payload, ANSWER_MAX).await;
            let _ = happened.send(Happened::Beat(answer.map(|_| start.elapsed()).map_err(|error| error.to_string())));
        });
    }

    fn heartbeat(&self, not_working: Option<String>) -> Bytes {
        let (unsettled, unsettled_more) = self.work.unsettled(UNSETTLED_LISTED_MAX);
        let heartbeat = Heartbeat {
            net: self.trust.net,
            device: self.trust.device,
            at: self.uplink.time.now_ms(),
            name: self.device.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kinds: self.kinds.clone(),
            capabilities: self.capabilities().to_vec(),
            trust_scopes: vec![],
            federations: vec![],
            claimed_tier: claimed_tier(&self.total()),
            total: self.total(),
            free: self.free(),
            jobs: self.work.at_work(),
            unsettled,
            unsettled_more,
            not_working,
            consent_at: self.consent.read_at(),
        };
        self.signer.batch(&[heartbeat]).encode().into()
    }

    pub fn on_beat(&mut self, answer: Result<Duration, String>) {
        self.note_beat(answer);
        // Read from a file, so only where it matters.
        let words = (!self.link.up && self.local.is_some()).then(|| crate::leaf::last_words(&self.home)).flatten();
        for (what, found) in reached(&self.link, words, &self.device.leaf_url) {
            self.health.tell(what, found);
        }
    }

    fn note_beat(&mut self, answer: Result<Duration, String>) {
        match answer {
            Ok(took) => {
                if !self.link.up {
                    tracing::info!(round_trip_us = took.as_micros(), "connected to the network");
                }
                self.link.up = true;
                self.link.why = None;
                self.link.round_trip_us = u64::try_from(took.as_micros()).ok();
                self.send_again();
            }
            Err(why) => {
                let words = self.local.is_some().then(|| crate::leaf::last_words(&self.home)).flatten();
                let why = words.map_or_else(|| why.clone(), |words| format!("{why}; its server says: {words}"));
                if self.link.up {
                    tracing::warn!(why, "the network is away");
                }
                self.link.up = false;
                self.link.why = Some(why);
                let pause = if self.started.elapsed() < SOON { TRY_SOON } else { TRY_AGAIN };
                self.next_beat = Instant::now() + pause.min(self.timings.heartbeat);
            }
        }
    }

    /// Receipts that nobody has closed for a while go to whichever scheduler takes them.
    fn send_again(&mut self) {
        let (now, every) = (self.now(), self.timings.renewal);
        for number in self.unsettled.due(now, every) {
            self.send_message(number, true);
        }
    }

    /// The last word: nothing is expected of this device until it is back.
    pub async fn last_beat(&mut self) {
        if self.link.up {
            let payload = self.heartbeat(Some(Heartbeat::STOPPED.into()));
            let answer = self.uplink.store_once(subject::heartbeat(&self.trust.device), None, payload, Duration::from_secs(1)).await;
            if let Err(error) = answer {
                tracing::debug!(%error, "the last heartbeat was not stored");
            }
        }
    }

    /// Hears `mesh.status` on the local server: what is not known here is asked for, and then it is answered.
    pub fn on_question(&mut self, message: Message) {
        let (Some(local), Some(reply)) = (self.local.clone(), message.reply) else { return };
        let (device, happened) = (self.trust.device, self.happened.clone());
        let uplink = self.link.up.then(|| self.uplink.clone());
        tokio::spawn(async move {
            let outbox = async { tokio::time::timeout(ASKED_WITHIN, local.outbox_waiting()).await.ok().flatten() };
            let (outbox, record) = tokio::join!(outbox, of_record(uplink, device));
            let _ = happened.send(Happened::Asked(Asked { reply, outbox, record: record.map(SetAside::of) }));
        });
    }

    /// Answers with what is so now.
    pub async fn on_asked(&mut self, asked: Asked) {
        let Some(local) = &self.local else { return };
        if let Some(record) = asked.record {
            self.set_aside = record;
        }
        let status = self.status();
        // Its own comes first: that one it can do something about.
        let not_working = both_reasons(status.not_working.clone(), self.set_aside.said(status.waiting + status.running));
        let status = Status { outbox: asked.outbox, not_working, ..status };
        let _ = local.bus.client.publish(asked.reply, serde_json::to_vec(&status).unwrap_or_default().into()).await;
    }
}

/// For `/readyz`, beside what decides: the link to the network, and whether the hub behind it keeps what is sent. A device whose hub is
/// away is ready all the same: it keeps what is submitted, and goes on with what it has.
fn reached(link: &LinkStatus, words: Option<String>, to: &str) -> [(&'static str, Result<String, String>); 2] {
    match (link.up, words) {
        (true, _) => {
            let took = link.round_trip_us.map(|us| format!(" after {} ms", us / 1000)).unwrap_or_default();
            [("link", Ok(format!("up, to {to}"))), ("hub", Ok(format!("kept the last heartbeat{took}")))]
        }
        (false, words) => {
            let why = link.why.clone().unwrap_or_else(|| "no word from the hub".to_owned());
            let link = words.map_or_else(|| Ok(format!("to {to}; nothing is said against it")), |words| Err(format!("to {to}: {words}")));
            [("link", link), ("hub", Err(why))]
        }
    }
}

/// How the network sees this device; `None` where it does not say so soon.
async fn of_record(uplink: Option<Bus>, device: DeviceId) -> Option<DeviceInfo> {
    let question = serde_json::to_vec(&ask::ById { id: device.to_string() }).ok()?;
    let subject = subject::api(&Asker::Device(device), "device.show");
    let answer = uplink?.ask_bytes(subject, question.into(), ASKED_WITHIN).await.ok()?;
    serde_json::from_slice(&answer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Signer;
    use bus_schemas::resources::Resources;

    #[test]
    fn link_and_hub_are_told_apart() {
        let link = |up, why: Option<&str>| LinkStatus { up, round_trip_us: up.then_some(12_345), why: why.map(str::to_owned) };
        let told = |link: LinkStatus, words: Option<&str>| reached(&link, words.map(str::to_owned), "nats://hub:7422");
        let fine = [("link", Ok("up, to nats://hub:7422".into())), ("hub", Ok("kept the last heartbeat after 12 ms".into()))];
        assert_eq!(told(link(true, None), Some("an old word")), fine);
        let [link_up, hub] = told(link(false, Some("no answer in time")), None);
        assert!(link_up.1.is_ok() && hub == ("hub", Err("no answer in time".into())), "{link_up:?} {hub:?}");
        let [link_down, _] = told(link(false, Some("no answer in time")), Some("connection refused"));
        assert_eq!(link_down, ("link", Err("to nats://hub:7422: connection refused".into())));
    }

    #[test]
    fn a_device_that_is_paused_and_drained_tells_both() {
        let word = |text: &str| Some(text.to_owned());
        assert_eq!(both_reasons(word("paused"), word("drained")), word("paused; also drained"));
        let one = (both_reasons(None, word("drained")), both_reasons(word("paused"), None), both_reasons(None, None));
        assert_eq!(one, (word("drained"), word("paused"), None));
    }

    #[test]
    fn what_stands_in_its_record_is_said_here() {
        let key = Signer::from_seed(&[1; 32]).public();
        let draining = Draining { at: 1_800_000_000_000, by: "operator".into(), reason: Some("new disk".into()) };
        for (status, draining, said) in [
            ("idle", None, None),
            ("working", None, None),
            ("drained, as asked at", Some(draining), Some("draining since 2027-01-15 08:00:00 UTC: new disk; 2 jobs to end")),
            ("revoked", None, Some("it was revoked")),
        ] {
            let info = DeviceInfo {
                id: key.device_id(),
                did: key,
                name: "a".into(),
                member: key.member_id(),
                tier: 0,
                claimed_tier: None,
                reputation: 50,
                online: true,
                status: status.into(),
                draining,
                last_seen: None,
                last_heard_at: None,
                kinds: vec![],
                capabilities: vec![],
                total: Resources::default(),
                free: Resources::default(),
                jobs: 0,
                version: None,
            };
            assert_eq!(SetAside::of(info).said(2).as_deref(), said, "{status}");
        }
        let draining = Some(Draining { at: 1_800_000_000_000, by: "operator".into(), reason: None });
        assert_eq!(SetAside { revoked: false, draining }.said(0).as_deref(), Some("drained, as asked at 2027-01-15 08:00:00 UTC"));
    }
}
