//! The heartbeat, which also shows whether the hub is there; receipts that are sent again; and what the agent tells about itself.

use std::time::{Duration, Instant};

use async_nats::Message;
use bus::Bus;
use bus_schemas::DeviceId;
use bus_schemas::api::{DeviceInfo, ask};
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::id::Asker;
use bus_schemas::limits::UNSETTLED_LISTED_MAX;
use bus_schemas::resources::claimed_tier;
use bus_schemas::subject;
use bytes::Bytes;

use super::state::{Agent, Happened};

/// While the hub is away it is tried this often; at first more often, since a fresh link takes less than a tenth of a second.
const TRY_AGAIN: Duration = Duration::from_millis(500);
const TRY_SOON: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Less than `mesh status` waits for all of it.
const RECORD_WITHIN: Duration = Duration::from_millis(700);

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
        };
        self.signer.batch(&[heartbeat]).encode().into()
    }

    pub fn on_beat(&mut self, answer: Result<Duration, String>) {
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

    /// Answers `mesh.status` on the local server.
    pub fn on_question(&mut self, message: Message) {
        let (Some(local), Some(reply)) = (self.local.clone(), message.reply) else { return };
        let mut status = self.status();
        let uplink = self.link.up.then(|| self.uplink.clone());
        tokio::spawn(async move {
            let (outbox, record) = tokio::join!(local.outbox_waiting(), of_record(uplink, status.id));
            status.outbox = outbox;
            // Its own reason comes first: that one it can do something about.
            status.not_working = status.not_working.or(record.and_then(|info| set_aside(&info)));
            let body = serde_json::to_vec(&status).unwrap_or_default();
            let _ = local.bus.client.publish(reply, body.into()).await;
        });
    }
}

/// How the network sees this device; `None` where it does not say so soon.
async fn of_record(uplink: Option<Bus>, device: DeviceId) -> Option<DeviceInfo> {
    let question = serde_json::to_vec(&ask::ById { id: device.to_string() }).ok()?;
    let subject = subject::api(&Asker::Device(device), "device.show");
    let answer = uplink?.ask_bytes(subject, question.into(), RECORD_WITHIN).await.ok()?;
    serde_json::from_slice(&answer).ok()
}

/// Why nobody offers it work, where that stands in its record and not here.
fn set_aside(info: &DeviceInfo) -> Option<String> {
    let revoked = (info.status == "revoked").then(|| "it was revoked".to_owned());
    revoked.or_else(|| info.draining.as_ref().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Signer;
    use bus_schemas::network::Draining;
    use bus_schemas::resources::Resources;

    #[test]
    fn what_stands_in_its_record_is_said_here() {
        let key = Signer::from_seed(&[1; 32]).public();
        let draining = Draining { at: 1_800_000_000_000, by: "operator".into(), reason: Some("new disk".into()) };
        for (status, draining, said) in [
            ("idle", None, None),
            ("working", None, None),
            ("drained since", Some(draining), Some("draining since 2027-01-15 08:00:00 UTC: new disk")),
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
                kinds: vec![],
                capabilities: vec![],
                total: Resources::default(),
                free: Resources::default(),
                jobs: 0,
                version: None,
            };
            assert_eq!(set_aside(&info).as_deref(), said, "{status}");
        }
    }
}
