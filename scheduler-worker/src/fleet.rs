//! The devices as this scheduler sees them: who they are (KV `devices`), how they are (signed heartbeats), and what was
//! measured about them. No socket: messages and the time come in as values.
//!
//! Ages are measured on arrival by the monotonic clock. Silence counts only while the bus itself works, which a scheduler
//! knows by its own heartbeat coming back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus_schemas::eligibility::DeviceView;
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::holding::HoldBack;
use bus_schemas::network::{DeviceRecord, both_reasons};
use bus_schemas::replay::{Reputation, reputation};
use bus_schemas::resources::Resources;
use bus_schemas::{Batch, Code, DeviceId, NetworkId, Problem, UnixMs, Verifier, date_and_time};

/// Who missed this many bid windows is not waited for until its next bid.
const MISSED_MAX: u8 = 2;
/// Heartbeats kept of devices whose record has not arrived yet.
const STRANGERS_MAX: usize = 256;
/// More devices than this, and more than half of them silent at once, is taken for a fault of the hub.
const MASS: usize = 4;
/// Of so few as this or more, only all of them: then nobody is left to go on with what they have.
const MASS_WHOLE: usize = 2;

/// How long the rest of a fleet has to follow once most of it is heard again after a mass silence.
fn follows_in(silence: Duration) -> Duration {
    silence / 2
}

/// How a device was heard of last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Never,
    /// A value read at start: its age is not known.
    Stored,
    Live(Instant),
}

/// One enrolled device.
pub struct Device {
    pub record: DeviceRecord,
    pub view: DeviceView,
    /// Jobs waiting or running there, and unsettled ones, by its last heartbeat.
    pub heartbeat: Option<Heartbeat>,
    heard: Heard,
    /// Any other word of it: receipts, events, answers.
    word: Option<Instant>,
    /// Since when it counts as gone; text for people.
    silent: Option<String>,
    went_silent: Option<Instant>,
    unreachable: Option<String>,
    missed: u8,
    /// From offer to bid, smoothed, in milliseconds.
    pub round_trip_ms: u64,
    /// It said that its queue is full; until then, or until its next receipt.
    pub full_until: Option<Instant>,
    /// Where the next receipt of it may lie in RECEIPTS; 0 = not known.
    pub receipts_from: u64,
}

impl Device {
    /// When its last live heartbeat arrived.
    pub fn heard_at(&self) -> Option<Instant> {
        match self.heard {
            Heard::Live(at) => Some(at),
            Heard::Never | Heard::Stored => None,
        }
    }
    /// When its last word of any kind arrived.
    pub fn last_word(&self) -> Option<Instant> {
        self.heard_at().max(self.word)
    }
    /// Since when its silence counts, where it counts `from` a moment at the earliest.
    fn counted_from(&self, from: Instant) -> Option<Instant> {
        let counted = match self.heard {
            Heard::Live(at) => at.max(from),
            Heard::Stored => from,
            Heard::Never => return None,
        };
        Some(self.word.map_or(counted, |word| word.max(counted)))
    }
    /// Heard of lately; it may still take no work.
    pub fn is_live(&self) -> bool {
        self.record.barred().is_none() && self.silent.is_none() && matches!(self.heard, Heard::Live(_))
    }
    /// Whether its bid is waited for.
    pub fn is_expected(&self) -> bool {
        self.missed < MISSED_MAX
    }
    pub fn missed_a_window(&mut self) {
        self.missed = self.missed.saturating_add(1);
    }
    pub fn bid_after(&mut self, ms: u64) {
        self.missed = 0;
        self.unreachable = None;
        self.round_trip_ms = if self.round_trip_ms == 0 { ms } else { (self.round_trip_ms * 7 + ms) / 8 };
        self.refresh();
    }

    fn refresh(&mut self) {
        self.view.away = if let Some(barred) = self.record.barred() {
            Some(barred)
        } else if let Some(since) = &self.silent {
            Some(format!("offline since {since}"))
        } else {
            match (&self.heard, &self.unreachable, &self.heartbeat) {
                (Heard::Never, ..) => Some("not heard of lately".into()),
                (Heard::Stored, ..) => Some("not heard of since this scheduler started".into()),
                (Heard::Live(_), Some(since), _) => Some(format!("nobody listens there since {since}")),
                (Heard::Live(_), None, heartbeat) => {
                    let jobs = heartbeat.as_ref().map_or(0, |heartbeat| heartbeat.jobs.len());
                    let draining = self.record.aside().map(|draining| draining.said(jobs));
                    let own = heartbeat.as_ref().and_then(|heartbeat| heartbeat.not_working.clone());
                    both_reasons(draining, own)
                }
            }
        };
    }
}

/// What a change of the fleet means for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// A device may take work that it could not take before: waiting jobs look again.
    pub look_again: bool,
    /// It was silent for so long that its jobs went elsewhere, and is heard again.
    pub is_back: bool,
}

/// All enrolled devices.
pub struct Fleet {
    net: NetworkId,
    silence: Duration,
    devices: BTreeMap<DeviceId, Device>,
    strangers: BTreeMap<DeviceId, bytes::Bytes>,
    reputation: BTreeMap<DeviceId, Reputation>,
    /// Own heartbeat came back last.
    bus_works: Instant,
    /// Silence is counted from here at the earliest: set anew when the bus comes back.
    silence_from: Instant,
    mass_silence: Option<MassSilence>,
}

/// So many devices fell silent at once that the bus is taken to have failed, not they: their jobs stay where they are for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MassSilence {
    until: Instant,
    until_ms: UnixMs,
    /// Silent ones, of how many that were there.
    gone: usize,
    there: usize,
}
impl MassSilence {
    /// For people.
    pub fn said(&self) -> String {
        let Self { gone, there, until_ms, .. } = self;
        format!("{gone} of {there} devices fell silent at once: their jobs stay with them until {}", date_and_time(*until_ms))
    }
    /// For those who ask about a job; `silence`: that of the fleet.
    pub fn told(&self, silence: Duration) -> HoldBack {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let follow_ms = u64::try_from(follows_in(silence).as_millis()).unwrap_or(u64::MAX);
        HoldBack { gone: count(self.gone), there: count(self.there), until: self.until_ms, follow_ms }
    }
}

impl Fleet {
    pub fn new(net: NetworkId, silence: Duration, now: Instant) -> Self {
        Self {
            net,
            silence,
            devices: BTreeMap::new(),
            strangers: BTreeMap::new(),
            reputation: BTreeMap::new(),
            bus_works: now,
            // A device that is only known from the stream has half a silence to be heard of.
            silence_from: now.checked_sub(silence / 2).unwrap_or(now),
            mass_silence: None,
        }
    }
    pub fn get(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.get(device)
    }
    pub fn get_mut(&mut self, device: &DeviceId) -> Option<&mut Device> {
        self.devices.get_mut(device)
    }
    pub fn views(&self) -> impl Iterator<Item = &DeviceView> {
        self.devices.values().map(|device| &device.view)
    }
    pub fn live(&self) -> impl Iterator<Item = &Device> {
        self.devices.values().filter(|device| device.is_live())
    }
    pub fn name(&self, device: &DeviceId) -> String {
        self.devices.get(device).map_or_else(|| device.to_string(), |found| found.view.name.clone())
    }
    /// Whether each device that was there before this scheduler started was heard of since, or is gone; until then "nobody has it" cannot be
    /// said.
    pub fn is_settled(&self) -> bool {
        self.devices
            .values()
            .all(|device| device.record.barred().is_some() || device.silent.is_some() || !matches!(device.heard, Heard::Stored))
    }

    /// A value of KV `devices` (JSON [`DeviceRecord`]).
    ///
    /// # Errors
    /// Where the value cannot be read.
    pub fn record(&mut self, value: &[u8], now: Instant, verifier: &mut Verifier) -> Result<Changed, Problem> {
        let record: DeviceRecord =
            serde_json::from_slice(value).map_err(|error| Problem::new(Code::WrongType, format!("a device record: {error}")))?;
        let id = record.device;
        let record = record.after(self.devices.get(&id).map(|known| &known.record));
        let changed = match self.devices.get_mut(&id) {
            Some(known) => {
                let changed = known.record != record;
                known.view.member = record.member;
                known.view.tier = record.tier;
                known.record = record;
                known.refresh();
                changed
            }
            None => {
                let reputation = self.reputation.get(&id);
                let view = DeviceView {
                    id,
                    member: record.member,
                    name: record.name.clone(),
                    kinds: vec![],
                    capabilities: vec![],
                    trust_scopes: vec![],
                    federations: vec![],
                    total: Resources::default(),
                    reputation: reputation.map_or(reputation::START, |known| known.score.min(reputation::MAX)),
                    tier: record.tier,
                    results: reputation.map_or(0, |known| known.verified),
                    away: None,
                };
                let mut device = Device {
                    record,
                    view,
                    heartbeat: None,
                    heard: Heard::Never,
                    word: None,
                    silent: None,
                    went_silent: None,
                    unreachable: None,
                    missed: 0,
                    round_trip_ms: 0,
                    full_until: None,
                    receipts_from: 0,
                };
                device.refresh();
                self.devices.insert(id, device);
                if let Some(early) = self.strangers.remove(&id) {
                    // A bad one was a stranger's anyway.
                    let _ = self.heartbeat(id, &early, true, now, verifier);
                }
                true
            }
        };
        Ok(Changed { look_again: changed, is_back: false })
    }

    /// A value of KV `reputation`.
    pub fn reputation(&mut self, device: DeviceId, value: &[u8]) {
        let Ok(known) = serde_json::from_slice::<Reputation>(value) else { return };
        if let Some(found) = self.devices.get_mut(&device) {
            found.view.reputation = known.score.min(reputation::MAX);
            found.view.results = known.verified;
        }
        self.reputation.insert(device, known);
    }

    /// A heartbeat on the subject of `device`; `live` = heard just now, else read from the stream at start.
    ///
    /// # Errors
    /// Where it is not that device's own, signed word.
    pub fn heartbeat(
        &mut self,
        device: DeviceId,
        payload: &bytes::Bytes,
        live: bool,
        now: Instant,
        verifier: &mut Verifier,
    ) -> Result<Changed, Problem> {
        let Some(found) = self.devices.get_mut(&device) else {
            if self.strangers.len() < STRANGERS_MAX {
                self.strangers.insert(device, payload.clone());
            }
            return Ok(Changed { look_again: false, is_back: false });
        };
        let heartbeat = Batch::decode(payload)?
            .verify::<Heartbeat>(verifier)?
            .into_iter()
            .next()
            .ok_or_else(|| Problem::new(Code::Empty, "a heartbeat without a body"))?;
        if heartbeat.by() != found.record.did || heartbeat.device != device {
            return Err(Problem::new(Code::WrongSigner, format!("a heartbeat on the subject of {device} is another's")));
        }
        if heartbeat.net != self.net {
            return Err(Problem::new(Code::WrongNetwork, "a heartbeat of another network"));
        }
        heartbeat.check()?;
        let heartbeat = heartbeat.into_body();
        // What is heard live replaces what was read; a stored value never replaces a live one.
        if !live && found.heard_at().is_some() {
            return Ok(Changed { look_again: false, is_back: false });
        }
        let consent_at = |found: &Device| found.heartbeat.as_ref().and_then(|heartbeat| heartbeat.consent_at);
        let consented = consent_at(found);
        let before = (found.view.away.clone(), found.view.kinds.clone(), found.view.capabilities.clone(), found.view.total);
        found.view.name.clone_from(&heartbeat.name);
        found.view.kinds.clone_from(&heartbeat.kinds);
        found.view.capabilities.clone_from(&heartbeat.capabilities);
        found.view.trust_scopes.clone_from(&heartbeat.trust_scopes);
        found.view.federations.clone_from(&heartbeat.federations);
        found.view.total = heartbeat.total;
        found.heartbeat = Some(heartbeat);
        let is_back = live && found.silent.is_some();
        if live {
            if is_back {
                tracing::info!(%device, name = found.view.name, "the device is back");
            }
            found.heard = Heard::Live(now);
            found.silent = None;
            found.went_silent = None;
            found.unreachable = None;
        } else {
            found.heard = Heard::Stored;
        }
        found.refresh();
        let after = (&found.view.away, &found.view.kinds, &found.view.capabilities, &found.view.total);
        let look_again = (&before.0, &before.1, &before.2, &before.3) != after || consented != consent_at(found);
        Ok(Changed { look_again, is_back })
    }

    /// A word of a device that is no heartbeat: it is not silent. One that counts as gone is back with its next heartbeat, which says what it
    /// has.
    pub fn heard(&mut self, device: &DeviceId, now: Instant) {
        if let Some(found) = self.devices.get_mut(device).filter(|found| found.silent.is_none()) {
            found.word = Some(now);
        }
    }

    /// When a device counts as gone if nothing more is heard of it. `None`: its silence does not count now, or it is gone already.
    pub fn gone_at(&self, device: &DeviceId, now: Instant) -> Option<Instant> {
        let found = self.devices.get(device).filter(|found| !found.record.revoked && found.silent.is_none())?;
        let bus_works = now.duration_since(self.bus_works) <= self.silence / 2;
        found.counted_from(self.silence_from).filter(|_| bus_works).map(|from| from + self.silence)
    }

    /// Its server said that nobody listens: nothing goes there until its next word.
    pub fn unreachable(&mut self, device: &DeviceId, hub_ms: UnixMs) {
        if let Some(found) = self.devices.get_mut(device) {
            found.unreachable = Some(date_and_time(hub_ms));
            found.refresh();
        }
    }

    /// Own heartbeat came back: the bus works.
    pub fn bus_works(&mut self, now: Instant) {
        if now.duration_since(self.bus_works) > self.silence / 2 {
            tracing::info!("the bus works again; silence is counted from now on");
            self.silence_from = now;
        }
        self.bus_works = now;
    }

    /// A mass silence that is being waited out.
    pub fn mass_silence(&self) -> Option<MassSilence> {
        self.mass_silence
    }

    /// When the next device falls silent if nothing is heard of it: a sweep then finds it at once.
    pub fn silent_at(&self) -> Option<Instant> {
        let live = self.devices.values().filter(|device| device.is_live());
        live.filter_map(|device| device.counted_from(self.silence_from)).map(|from| from + self.silence).min()
    }

    /// Devices of which nothing was heard for half of the silence, or that fell silent as lately, of how many that were there. Heartbeats
    /// come one after the other: when the first device is given up, those that went quiet with it have missed theirs too.
    fn quiet(&self, now: Instant) -> (usize, usize) {
        let half = self.silence / 2;
        let lately = self.devices.values().filter(|device| device.went_silent.is_some_and(|at| now.duration_since(at) <= half)).count();
        let there = self.devices.values().filter(|device| !device.record.revoked && device.silent.is_none());
        let counted: Vec<Instant> = there.filter_map(|device| device.counted_from(self.silence_from)).collect();
        let quiet = counted.iter().filter(|from| now.duration_since(**from) >= half).count();
        (quiet + lately, counted.len() + lately)
    }

    /// Looks who has fallen silent since the last look. Gives the devices that are newly gone.
    pub fn sweep(&mut self, now: Instant, hub_ms: UnixMs) -> Vec<DeviceId> {
        if now.duration_since(self.bus_works) > self.silence / 2 {
            return Vec::new();
        }
        let (silence, from) = (self.silence, self.silence_from);
        let silent_now = |device: &Device| device.counted_from(from).is_some_and(|from| now.duration_since(from) >= silence);
        let newly: Vec<DeviceId> = self
            .devices
            .values()
            .filter(|device| device.record.barred().is_none() && device.silent.is_none() && silent_now(device))
            .map(|device| device.record.device)
            .collect();
        if newly.is_empty() && self.mass_silence.is_none() {
            return newly;
        }
        let (gone, there) = self.quiet(now);
        let is_mass = (there > MASS && gone * 2 > there) || (there >= MASS_WHOLE && gone == there);
        match &mut self.mass_silence {
            None if is_mass => {
                let wait = silence * 3;
                let until_ms = hub_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(0));
                let mass = MassSilence { until: now + wait, until_ms, gone, there };
                tracing::warn!(gone, there, "{}", mass.said());
                self.mass_silence = Some(mass);
                return Vec::new();
            }
            Some(mass) if is_mass && now < mass.until => {
                (mass.gone, mass.there) = (gone, there);
                return Vec::new();
            }
            Some(_) if is_mass => tracing::warn!(gone, there, "most devices stayed silent: their jobs move on"),
            Some(_) => {
                tracing::info!(gone, there, "most devices are heard again: the others have half a silence to follow");
                self.silence_from = now.checked_sub(silence - follows_in(silence)).unwrap_or(now);
                self.mass_silence = None;
                return Vec::new();
            }
            None => {}
        }
        self.mass_silence = None;
        for id in &newly {
            if let Some(device) = self.devices.get_mut(id) {
                device.silent = Some(date_and_time(hub_ms.saturating_sub(u64::try_from(silence.as_millis()).unwrap_or(0))));
                device.word = None;
                device.went_silent = Some(now);
                device.refresh();
                tracing::info!(device = %id, name = device.view.name, "the device is silent");
            }
        }
        newly
    }
}

#[cfg(test)]
mod tests;
