//! The devices of the network as this gateway sees them: who they are (bucket `devices`) and how they are (heartbeats).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus::Bus;
use bus::direct::StoredMessage;
use bus_schemas::api::{DeviceInfo, DeviceList};
use bus_schemas::eligibility::{DeviceView, Needs, nothing_fits, reasons_against, sort_out};
use bus_schemas::envelope::Batch;
use bus_schemas::heartbeat::{Heartbeat, SchedulerHeartbeat};
use bus_schemas::history::Decision;
use bus_schemas::id::{DeviceId, InstanceId, JobId, MemberId};
use bus_schemas::network::{DeviceRecord, both_reasons};
use bus_schemas::replay::Reputation;
use bus_schemas::{date_and_time, stream, subject};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::world::{World, lock, rfc3339};

/// The bucket's subjects.
const DEVICES: &str = "$KV.devices.";
const DEVICES_ALL: &str = "$KV.devices.>";
const DEVICES_STREAM: &str = "KV_devices";
const REPUTATION_STREAM: &str = "KV_reputation";
const REPUTATION: &str = "$KV.reputation.";
const REPUTATION_ALL: &str = "$KV.reputation.>";
/// Everything is read again this often: what a reconnect swallowed comes back.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// A list of devices is made at most this often.
const VIEW_FRESH: Duration = Duration::from_millis(200);

/// Cheap to ask, shared by all tasks.
#[derive(Default)]
pub struct Fleet(Mutex<Inner>);
#[derive(Default)]
struct Inner {
    records: BTreeMap<DeviceId, DeviceRecord>,
    beats: BTreeMap<DeviceId, Beat>,
    /// As the ledger tells them; none = as at the start.
    reputations: BTreeMap<DeviceId, Reputation>,
    /// The bucket and the last heartbeats were read once.
    read: bool,
    silence: Duration,
    views: Option<(Instant, Arc<Vec<DeviceView>>)>,
    schedulers: BTreeMap<InstanceId, Schedules>,
}
/// The last word of a scheduler about the fleet.
struct Schedules {
    holds_back: Option<String>,
    heard: Instant,
}
impl Inner {
    /// Why schedulers leave work with silent devices, by whoever of them says so and is heard itself.
    fn holds_back(&self, now: Instant) -> Option<String> {
        let mut heard = self.schedulers.values().filter(|scheduler| now.duration_since(scheduler.heard) <= self.silence);
        heard.find_map(|scheduler| scheduler.holds_back.clone())
    }
    fn reputation(&self, record: &DeviceRecord) -> Reputation {
        self.reputations.get(&record.device).copied().unwrap_or_default()
    }
}
struct Beat {
    heartbeat: Heartbeat,
    heard: Instant,
    /// Hub time of arrival, for people.
    at: u64,
}
impl Beat {
    /// Waiting and running there.
    fn jobs(&self) -> usize {
        self.heartbeat.jobs.len()
    }
}

impl Fleet {
    pub fn new(silence: Duration) -> Self {
        Self(Mutex::new(Inner { silence, ..Inner::default() }))
    }
    pub fn record(&self, device: &DeviceId) -> Option<DeviceRecord> {
        lock(&self.0).records.get(device).cloned()
    }
    /// The devices that belong to a member.
    pub fn devices_of(&self, member: &MemberId) -> Vec<DeviceId> {
        let inner = lock(&self.0);
        inner.records.values().filter(|record| record.member == *member && record.barred().is_none()).map(|record| record.device).collect()
    }
    /// What people call these devices; none where they are not known (any more).
    pub fn names(&self, devices: impl IntoIterator<Item = DeviceId>) -> BTreeMap<DeviceId, String> {
        let inner = lock(&self.0);
        let name = |device: DeviceId| {
            let told = inner.beats.get(&device).map(|beat| beat.heartbeat.name.clone());
            told.or_else(|| inner.records.get(&device).map(|record| record.name.clone())).map(|name| (device, name))
        };
        devices.into_iter().filter_map(name).collect()
    }
    /// The last heartbeats and the bucket were read.
    pub fn is_read(&self) -> bool {
        lock(&self.0).read
    }
    pub fn note_record(&self, record: DeviceRecord) {
        let mut inner = lock(&self.0);
        inner.views = None;
        let device = record.device;
        let record = record.after(inner.records.get(&device));
        inner.records.insert(device, record);
    }
    fn forget(&self, device: &DeviceId) {
        let mut inner = lock(&self.0);
        inner.views = None;
        inner.records.remove(device);
    }
    /// `age` is how long ago it was stored.
    fn note_beat(&self, heartbeat: Heartbeat, age: Duration, at: u64) {
        let now = Instant::now();
        let heard = now.checked_sub(age).unwrap_or(now);
        let mut inner = lock(&self.0);
        if inner.beats.get(&heartbeat.device).is_none_or(|known| known.heard <= heard) {
            inner.beats.insert(heartbeat.device, Beat { heartbeat, heard, at });
        }
    }

    /// `age` is how long ago it was stored.
    fn note_scheduler(&self, beat: SchedulerHeartbeat, age: Duration) {
        let now = Instant::now();
        let heard = now.checked_sub(age).unwrap_or(now);
        let mut inner = lock(&self.0);
        // A scheduler that starts anew has another name; what one had in hand is delivered anew a while after its last word.
        let kept = inner.silence * 4;
        inner.schedulers.retain(|_, scheduler| now.duration_since(scheduler.heard) <= kept);
        if inner.schedulers.get(&beat.s).is_none_or(|known| known.heard <= heard) {
            inner.schedulers.insert(beat.s, Schedules { holds_back: beat.holds_back, heard });
        }
    }

    /// For how long nothing was heard of a scheduler.
    pub fn scheduler_silent_for(&self, s: &InstanceId) -> Option<Duration> {
        lock(&self.0).schedulers.get(s).map(|scheduler| scheduler.heard.elapsed())
    }

    /// Every known device, with the reason why it is away where it is.
    fn views(&self) -> Arc<Vec<DeviceView>> {
        let mut inner = lock(&self.0);
        if let Some((made, views)) = &inner.views
            && made.elapsed() < VIEW_FRESH
        {
            return views.clone();
        }
        let now = Instant::now();
        let views = Arc::new(
            inner
                .records
                .values()
                .map(|record| view(record, inner.beats.get(&record.device), inner.reputation(record), now, inner.silence))
                .collect(),
        );
        inner.views = Some((now, Arc::clone(&views)));
        views
    }

    /// Why no device fits now; `None` where one does, or where it is not known yet.
    pub fn nothing_fits(&self, needs: &Needs, hub_now: u64) -> Option<Decision> {
        if !self.is_read() {
            return None;
        }
        let views = self.views();
        if views.iter().any(|view| reasons_against(needs, view).is_empty()) {
            return None;
        }
        let (_, out) = sort_out(needs, views.iter());
        Some(nothing_fits(hub_now, out))
    }

    /// The device whose last heartbeat lists this job as waiting or running there.
    pub fn holder_of(&self, job: &JobId) -> Option<DeviceId> {
        let inner = lock(&self.0);
        let fresh = |beat: &&Beat| beat.heard.elapsed() <= inner.silence;
        inner.beats.values().filter(fresh).find(|beat| beat.heartbeat.jobs.contains(job)).map(|beat| beat.heartbeat.device)
    }

    /// How long ago a device's last heartbeat was stored; `None` where none is known.
    pub fn silent_for(&self, device: &DeviceId) -> Option<Duration> {
        lock(&self.0).beats.get(device).map(|beat| beat.heard.elapsed())
    }

    /// For people.
    pub fn list(&self) -> DeviceList {
        let inner = lock(&self.0);
        let now = Instant::now();
        let info = |record: &DeviceRecord| {
            let beat = inner.beats.get(&record.device);
            let away = away(record, beat, now, inner.silence, rfc3339);
            let heartbeat = beat.map(|beat| &beat.heartbeat);
            let here = |beat: &Beat| now.duration_since(beat.heard) <= inner.silence && !beat.heartbeat.has_stopped();
            let online = record.barred().is_none() && beat.is_some_and(here);
            // What an offline one said last is old: its jobs may run elsewhere by now.
            let jobs = heartbeat.filter(|_| online).map_or(0, |beat| u32::try_from(beat.jobs.len()).unwrap_or(u32::MAX));
            let drained = record.aside().filter(|_| online).map(|draining| draining.status(beat.map_or(0, Beat::jobs)));
            let drained = drained.and_then(|drained| both_reasons(Some(drained), heartbeat.and_then(|beat| beat.not_working.clone())));
            DeviceInfo {
                id: record.device,
                did: record.did,
                name: heartbeat.map_or_else(|| record.name.clone(), |beat| beat.name.clone()),
                member: record.member,
                tier: record.tier,
                reputation: inner.reputation(record).score,
                claimed_tier: heartbeat.map(|beat| beat.claimed_tier),
                online,
                draining: record.aside(),
                status: drained.or(away).unwrap_or_else(|| if jobs > 0 { "working".into() } else { "idle".into() }),
                last_seen: beat.map(|beat| rfc3339(beat.at)),
                last_heard_at: beat.map(|beat| beat.at),
                kinds: heartbeat.map(|beat| beat.kinds.clone()).unwrap_or_default(),
                capabilities: heartbeat.map(|beat| beat.capabilities.clone()).unwrap_or_default(),
                total: heartbeat.map(|beat| beat.total).unwrap_or_default(),
                free: heartbeat.map(|beat| beat.free).unwrap_or_default(),
                jobs,
                version: heartbeat.map(|beat| beat.version.clone()),
            }
        };
        DeviceList { devices: inner.records.values().map(info).collect(), holds_back: inner.holds_back(now) }
    }

    /// Asks the bucket itself; remembers the answer.
    pub async fn look_up(&self, bus: &Bus, device: &DeviceId) -> Option<DeviceRecord> {
        let message = bus.last_from_leader(DEVICES_STREAM, &format!("{DEVICES}{device}")).await.ok()??;
        let record = record_of(&message.payload)?;
        self.note_record(record.clone());
        Some(record)
    }
}

/// Why a device takes nothing now, in the words of schedulers; `when` writes since when.
fn away(record: &DeviceRecord, beat: Option<&Beat>, now: Instant, silence: Duration, when: fn(u64) -> String) -> Option<String> {
    match beat {
        _ if record.barred().is_some() => record.barred(),
        None => Some("not heard of lately".to_owned()),
        Some(beat) if now.duration_since(beat.heard) > silence => Some(format!("offline since {}", when(beat.at))),
        Some(beat) if beat.heartbeat.has_stopped() => beat.heartbeat.not_working.clone(),
        Some(beat) => {
            let draining = record.aside().map(|draining| draining.said(beat.jobs()));
            both_reasons(draining, beat.heartbeat.not_working.clone())
        }
    }
}

fn view(record: &DeviceRecord, beat: Option<&Beat>, reputation: Reputation, now: Instant, silence: Duration) -> DeviceView {
    let heartbeat = beat.map(|beat| &beat.heartbeat);
    DeviceView {
        id: record.device,
        member: record.member,
        name: heartbeat.map_or_else(|| record.name.clone(), |beat| beat.name.clone()),
        kinds: heartbeat.map(|beat| beat.kinds.clone()).unwrap_or_default(),
        capabilities: heartbeat.map(|beat| beat.capabilities.clone()).unwrap_or_default(),
        trust_scopes: heartbeat.map(|beat| beat.trust_scopes.clone()).unwrap_or_default(),
        federations: heartbeat.map(|beat| beat.federations.clone()).unwrap_or_default(),
        total: heartbeat.map(|beat| beat.total).unwrap_or_default(),
        reputation: reputation.score,
        tier: record.tier,
        results: reputation.verified,
        away: away(record, beat, now, silence, date_and_time),
    }
}

fn record_of(payload: &[u8]) -> Option<DeviceRecord> {
    serde_json::from_slice(payload).ok()
}

/// Follows bucket and heartbeats until `stop`.
///
/// # Errors
/// Where the subscriptions cannot be made.
pub async fn follow(world: Arc<World>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut devices = world.bus.client.subscribe(DEVICES_ALL).await?;
    let mut beats = world.bus.client.subscribe(subject::HEARTBEATS).await?;
    let mut reputations = world.bus.client.subscribe(REPUTATION_ALL).await?;
    let mut schedulers = world.bus.client.subscribe(subject::SCHEDULER_HEARTBEATS).await?;
    world.bus.client.flush().await?;
    read_all(&world).await;
    let mut again = tokio::time::interval(READ_AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    again.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = again.tick() => read_all(&world).await,
            Some(message) = devices.next() => note_device(&world, &message.subject, &message.payload),
            Some(message) = reputations.next() => note_reputation(&world, &message.subject, &message.payload),
            Some(message) = schedulers.next() => note_scheduler(&world, &message.payload, Duration::ZERO),
            Some(message) = beats.next() => note_heartbeat(&world, &message.payload, Duration::ZERO, world.now()),
            else => return Ok(()),
        }
    }
}

async fn read_all(world: &World) {
    let devices = last_values(&world.bus, DEVICES_STREAM, DEVICES_ALL).await;
    let beats = last_values(&world.bus, stream::HEARTBEATS, subject::HEARTBEATS).await;
    match last_values(&world.bus, REPUTATION_STREAM, REPUTATION_ALL).await {
        Ok(reputations) => reputations.iter().for_each(|message| note_reputation(world, &message.subject, &message.payload)),
        Err(error) => tracing::warn!(%error, "the reputations cannot be read now"),
    }
    match last_values(&world.bus, stream::HEARTBEATS, subject::SCHEDULER_HEARTBEATS).await {
        Ok(schedulers) => {
            let age = |message: &StoredMessage| Duration::from_millis(world.now().saturating_sub(message.time_ms));
            schedulers.iter().for_each(|message| note_scheduler(world, &message.payload, age(message)));
        }
        Err(error) => tracing::warn!(%error, "the schedulers' last words cannot be read now"),
    }
    match (devices, beats) {
        (Ok(devices), Ok(beats)) => {
            for message in devices {
                note_device(world, &message.subject, &message.payload);
            }
            let now = world.now();
            for message in beats {
                note_heartbeat(world, &message.payload, Duration::from_millis(now.saturating_sub(message.time_ms)), message.time_ms);
            }
            lock(&world.fleet.0).read = true;
        }
        (Err(error), _) | (_, Err(error)) => tracing::warn!(%error, "the devices cannot be read now"),
    }
}

/// The last message of every subject; more than one request where there are many.
async fn last_values(bus: &Bus, stream: &str, subjects: &str) -> Result<Vec<StoredMessage>, bus::direct::ReadError> {
    match bus.multi_last(stream, &[subjects]).await {
        // Too many subjects for one request: these streams hold last values alone, so all of it is read.
        Err(bus::direct::ReadError::Refused { reason, .. }) if reason.contains("413") => {
            let mut all = Vec::new();
            let mut from = 1;
            loop {
                let some = bus.from_seq(stream, from, 500).await?;
                let Some(last) = some.last() else { return Ok(all) };
                from = last.seq + 1;
                all.extend(some);
            }
        }
        answer => answer,
    }
}

fn note_device(world: &World, subject: &str, payload: &[u8]) {
    let Some(device) = subject.strip_prefix(DEVICES).and_then(|id| id.parse::<DeviceId>().ok()) else { return };
    match record_of(payload) {
        Some(record) if record.device == device => world.fleet.note_record(record),
        // A deleted key is an empty message.
        Some(_) | None if payload.is_empty() => world.fleet.forget(&device),
        Some(_) | None => tracing::warn!(%device, "the record of a device cannot be read"),
    }
}

fn note_reputation(world: &World, subject: &str, payload: &[u8]) {
    let device = subject.strip_prefix(REPUTATION).and_then(|id| id.parse::<DeviceId>().ok());
    if let (Some(device), Ok(reputation)) = (device, serde_json::from_slice::<Reputation>(payload)) {
        let mut inner = lock(&world.fleet.0);
        inner.views = None;
        inner.reputations.insert(device, reputation);
    }
}

fn note_scheduler(world: &World, payload: &[u8], age: Duration) {
    let beats = world.verified::<SchedulerHeartbeat>(payload, &[world.document.scheduler_keys.as_slice()]).unwrap_or_default();
    for beat in beats.into_iter().filter(|beat| beat.net == world.net) {
        world.fleet.note_scheduler(beat.into_body(), age);
    }
}

fn note_heartbeat(world: &World, payload: &[u8], age: Duration, at: u64) {
    let Ok(batch) = Batch::decode(payload) else { return };
    let device = batch.k.device_id();
    if world.fleet.record(&device).is_none_or(|record| record.did != batch.k) {
        return;
    }
    let Ok(heartbeats) = batch.verify::<Heartbeat>(&mut lock(&world.verifier)) else { return };
    for heartbeat in heartbeats {
        if heartbeat.net == world.net && heartbeat.device == device && heartbeat.check().is_ok() {
            world.fleet.note_beat(heartbeat.into_body(), age, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Signer;
    use bus_schemas::history::Verdict;
    use bus_schemas::resources::Resources;

    fn record(seed: u8) -> DeviceRecord {
        let key = Signer::from_seed(&[seed; 32]).public();
        DeviceRecord::new(key, key.member_id(), format!("laptop-{seed}"), 1, 1)
    }
    fn heartbeat(record: &DeviceRecord) -> Heartbeat {
        Heartbeat {
            net: record.did.network_id(),
            device: record.device,
            at: 1,
            name: record.name.clone(),
            version: "0.1.0".into(),
            kinds: vec!["echo".into()],
            capabilities: vec![],
            trust_scopes: vec![],
            federations: vec![],
            claimed_tier: 2,
            total: Resources { cpu_cores: 4, ..Resources::default() },
            free: Resources::default(),
            jobs: vec![],
            unsettled: vec![],
            unsettled_more: 0,
            not_working: None,
            consent_at: None,
        }
    }

    #[test]
    fn nothing_fits_says_how_many_and_why() {
        let fleet = Fleet::new(Duration::from_secs(20));
        let needs = Needs { kind: "echo".into(), ..Needs::default() };
        assert!(fleet.nothing_fits(&needs, 5).is_none(), "nothing is known yet");
        lock(&fleet.0).read = true;
        assert_eq!(fleet.nothing_fits(&needs, 5).unwrap().why, "0 of 0 devices fit");
        let (one, two) = (record(1), record(2));
        fleet.note_record(one.clone());
        fleet.note_record(two.clone());
        fleet.note_beat(heartbeat(&one), Duration::from_secs(21), 7);
        fleet.note_beat(Heartbeat { not_working: Some("paused by its owner".into()), ..heartbeat(&two) }, Duration::ZERO, 9);
        lock(&fleet.0).views = None;
        let decision = fleet.nothing_fits(&needs, 5).unwrap();
        assert_eq!((decision.considered.len(), &decision.why[..18]), (2, "0 of 2 devices fit"));
        let reasons: Vec<_> = decision
            .considered
            .iter()
            .map(|considered| match &considered.verdict {
                Verdict::Out { reasons } => reasons.join("; "),
                Verdict::NotAsked | Verdict::Declined { .. } | Verdict::NoAnswer | Verdict::Bid { .. } => panic!("asked"),
            })
            .collect();
        assert!(reasons.contains(&"offline since 1970-01-01 00:00:00 UTC".to_owned()), "as a scheduler writes it: {reasons:?}");
        assert!(reasons.contains(&"paused by its owner".to_owned()), "{reasons:?}");
        fleet.note_beat(heartbeat(&one), Duration::ZERO, 10);
        lock(&fleet.0).views = None;
        assert!(fleet.nothing_fits(&needs, 5).is_none());
    }

    #[test]
    fn what_schedulers_hold_back_is_told_while_they_are_heard() {
        let fleet = Fleet::new(Duration::from_secs(20));
        let net = record(1).did.network_id();
        let beat = |s: &str, holds_back: Option<&str>| {
            let (s, holds_back) = (s.parse().unwrap(), holds_back.map(str::to_owned));
            SchedulerHeartbeat { net, s, at: 1, bidding: 0, executing: 0, waiting: 0, holds_back }
        };
        let (said, other) = (Some("5 of 6 devices fell silent at once"), Some("7 of 7"));
        for (scheduler, holds_back, age_s, told) in [
            ("s1", None, 0, None),
            ("s2", said, 0, said),
            ("s1", None, 0, said),
            ("s2", None, 9, said),
            ("s2", None, 0, None),
            ("s3", other, 21, None),
            ("s3", other, 19, other),
        ] {
            fleet.note_scheduler(beat(scheduler, holds_back), Duration::from_secs(age_s));
            assert_eq!(fleet.list().holds_back.as_deref(), told, "{scheduler} {age_s}");
        }
    }

    #[test]
    fn an_older_heartbeat_does_not_replace_a_newer_one() {
        let fleet = Fleet::new(Duration::from_secs(20));
        let one = record(1);
        fleet.note_record(one.clone());
        let job = JobId(bus_schemas::Cid::of(b"j"));
        fleet.note_beat(Heartbeat { jobs: vec![job], ..heartbeat(&one) }, Duration::ZERO, 10);
        fleet.note_beat(heartbeat(&one), Duration::from_secs(5), 5);
        assert_eq!(fleet.holder_of(&job), Some(one.device));
        let list = fleet.list();
        assert_eq!((list.devices[0].status.as_str(), list.devices[0].online, list.devices[0].jobs), ("working", true, 1));
    }

    #[test]
    fn an_offline_device_has_no_jobs() {
        let fleet = Fleet::new(Duration::from_secs(20));
        let one = record(1);
        fleet.note_record(one.clone());
        let told = || fleet.list().devices.remove(0);
        assert_eq!((told().status.as_str(), told().jobs), ("not heard of lately", 0));
        let job = JobId(bus_schemas::Cid::of(b"j"));
        fleet.note_beat(Heartbeat { jobs: vec![job], ..heartbeat(&one) }, Duration::from_secs(21), 7);
        assert_eq!((told().status.as_str(), told().online, told().jobs), ("offline since 1970-01-01T00:00:00.007Z", false, 0));
        fleet.note_beat(Heartbeat { jobs: vec![job], ..heartbeat(&one) }, Duration::ZERO, 9);
        assert_eq!((told().online, told().jobs), (true, 1));
        let draining = bus_schemas::network::Draining { at: 0, by: "operator".into(), reason: Some("new disk".into()) };
        fleet.note_record(DeviceRecord { draining: Some(draining), ..one.clone() });
        assert_eq!(told().status, "draining since 1970-01-01 00:00:00 UTC: new disk; 1 job to end");
        assert_eq!(told().last_heard_at, Some(9));
        fleet.note_beat(heartbeat(&one), Duration::ZERO, 9);
        assert_eq!(told().status, "drained, as asked at 1970-01-01 00:00:00 UTC: new disk");
        fleet.note_beat(Heartbeat { not_working: Some("paused by its owner".into()), ..heartbeat(&one) }, Duration::ZERO, 9);
        assert_eq!(told().status, "drained, as asked at 1970-01-01 00:00:00 UTC: new disk; also paused by its owner");
        fleet.note_beat(Heartbeat { not_working: Some("stopped".into()), ..heartbeat(&one) }, Duration::ZERO, 9);
        assert_eq!(told().status, "stopped");
        fleet.note_record(one.clone());
        for (why, online) in [("stopped", false), ("paused by its owner", true)] {
            let beat = Heartbeat { not_working: Some(why.into()), jobs: vec![job], ..heartbeat(&one) };
            fleet.note_beat(beat, Duration::ZERO, 10);
            assert_eq!((told().status.as_str(), told().online, told().jobs), (why, online, u32::from(online)));
        }
    }
}
