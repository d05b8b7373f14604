//! Parts that nobody heard of. What a device tells of its checkpoints lies in EVENTS; where the scheduler that should have heard it died, or
//! was cut off, and then the device too, the job's next attempt goes on behind the last part that was stored before.

use bus::Bus;
use bus_schemas::event::{Checkpoint, Event, EventKind};
use bus_schemas::receipt::ResultRef;
use bus_schemas::{AttemptId, Batch, DeviceId, JobId, MemberId, NetworkId, PublicKey, UnixMs, Verifier, stream, subject};
use bytes::Bytes;

use crate::checkpoint::check;
use crate::job::Phase;
use crate::measure;
use crate::stored::missing;
use crate::world::{Done, World};

/// Messages of EVENTS read at once, and reads at most: a device keeps 10,000.
const READ_BATCH: usize = 200;
const READS_MAX: usize = 50;
/// A part may have been stored so long before the last record of its job, and not be looked at yet.
const BEFORE_MS: u64 = 60_000;

/// The furthest part of a job that its member can read.
pub struct Parts {
    job: JobId,
    found: Option<Checkpoint>,
}

/// Whose parts are sought.
struct Sought {
    net: NetworkId,
    job: JobId,
    attempt: AttemptId,
    member: MemberId,
    device: DeviceId,
    did: PublicKey,
    units: u32,
    kept: Option<Checkpoint>,
}

impl Sought {
    /// What messages of EVENTS say about this job, furthest first; only the device's own word counts.
    fn checkpoints(&self, payloads: &[Bytes]) -> Vec<Checkpoint> {
        let mut verifier = Verifier::default();
        let mut found: Vec<Checkpoint> = payloads
            .iter()
            .filter_map(|payload| Batch::decode(payload).ok()?.verify::<Event>(&mut verifier).ok())
            .flatten()
            .filter(|event| event.by() == self.did && event.device == self.device && event.net == self.net)
            .filter(|event| event.job == self.job && event.attempt == self.attempt)
            .filter_map(|event| part(&event.what, self.units, self.kept.as_ref()))
            .collect();
        found.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.units));
        found.dedup();
        found
    }

    async fn seek(&self, bus: &Bus, since: UnixMs) -> Option<Checkpoint> {
        for checkpoint in self.checkpoints(&read(bus, &self.device, since).await) {
            let blob = ResultRef { cid: checkpoint.cid, bytes: checkpoint.bytes };
            match missing(bus, &blob, &self.member).await {
                None => return Some(checkpoint),
                Some(why) => {
                    measure::refused("checkpoint");
                    tracing::warn!(job = ?self.job, why, "a checkpoint does not count");
                }
            }
        }
        None
    }
}

/// The part that an event tells of, where it goes further than what is kept.
pub fn part(what: &EventKind, units: u32, kept: Option<&Checkpoint>) -> Option<Checkpoint> {
    match what {
        EventKind::Checkpoint(checkpoint) => check(checkpoint, units, kept).is_ok().then_some(*checkpoint),
        EventKind::Started | EventKind::Progress(_) | EventKind::Dropped { .. } => None,
    }
}

/// What a device told since; as much as can be read.
async fn read(bus: &Bus, device: &DeviceId, since: UnixMs) -> Vec<Bytes> {
    let subject = subject::event_stored(device);
    let mut all = Vec::new();
    let mut from = None;
    for _ in 0..READS_MAX {
        let some = match from {
            None => bus.next_by_subject_since(stream::EVENTS, &subject, since, READ_BATCH).await,
            Some(from) => bus.next_by_subject(stream::EVENTS, &subject, from, READ_BATCH).await,
        };
        match some {
            Ok(some) => {
                let whole = some.len() < READ_BATCH;
                from = some.last().map(|message| message.seq + 1);
                all.extend(some.into_iter().map(|message| message.payload));
                if whole {
                    break;
                }
            }
            Err(error) => tracing::warn!(%error, %device, "EVENTS is read again"),
        }
    }
    all
}

impl World {
    /// Seeks parts of a job that its last device told of and nobody here heard; goes on with [`Self::parts_found`].
    ///
    /// Says whether there is anything to seek: a job of one text has no parts.
    pub fn seek_parts(&self, id: JobId, device: DeviceId, attempt: AttemptId, since: UnixMs) -> bool {
        let Some(job) = self.jobs.get(&id).filter(|job| job.units > 1) else { return false };
        let Some(did) = self.fleet.get(&device).map(|found| found.record.did) else { return false };
        let sought = Sought { net: self.net, job: id, attempt, member: job.admitted.member, device, did, units: job.units, kept: job.kept };
        let bus = self.bus.clone();
        self.spawn(async move {
            let found = sought.seek(&bus, since.saturating_sub(BEFORE_MS)).await;
            Done::Parts(Parts { job: sought.job, found })
        });
        true
    }

    pub fn parts_found(&mut self, parts: Parts) {
        let Parts { job: id, found } = parts;
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.phase != Phase::Closing) else { return };
        if let Some(checkpoint) = found {
            let before = job.kept;
            job.keep(found);
            if job.kept != before {
                tracing::info!(job = ?id, units = checkpoint.units, "it goes on behind a part that nobody had heard of");
                measure::checkpoint();
                self.tell_kept(&id, &checkpoint);
                self.store_back(&id);
            }
        }
        if self.jobs.get(&id).is_some_and(|job| job.phase == Phase::Looking) {
            self.go_on_alone(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::{Cid, Signer};

    #[test]
    fn only_the_devices_own_word_about_this_job_counts() {
        let (device, stranger) = (Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32]));
        let net = Signer::from_seed(&[9; 32]).public().network_id();
        let (job, other) = (JobId(Cid::of(b"j")), JobId(Cid::of(b"k")));
        let at = |units| Checkpoint { cid: Cid::of(b"x"), bytes: 9, units };
        let told = |by: &Signer, job, net, what| {
            let event = Event { net, device: device.public().device_id(), at: 1, job, attempt: AttemptId(Cid::of(b"a")), what };
            Bytes::from(by.batch(&[event]).encode())
        };
        let sought = Sought {
            net,
            job,
            attempt: AttemptId(Cid::of(b"a")),
            member: device.public().member_id(),
            device: device.public().device_id(),
            did: device.public(),
            units: 100,
            kept: Some(at(20)),
        };
        let all = [
            told(&device, job, net, EventKind::Checkpoint(at(30))),
            told(&device, job, net, EventKind::Started),
            told(&device, job, net, EventKind::Checkpoint(at(50))),
            told(&device, job, net, EventKind::Checkpoint(at(20))),
            told(&device, job, net, EventKind::Checkpoint(at(100))),
            told(&device, other, net, EventKind::Checkpoint(at(60))),
            told(&device, job, Signer::from_seed(&[8; 32]).public().network_id(), EventKind::Checkpoint(at(61))),
            told(&stranger, job, net, EventKind::Checkpoint(at(70))),
            Bytes::from_static(b"nonsense"),
            told(&device, job, net, EventKind::Checkpoint(at(50))),
        ];
        assert_eq!(sought.checkpoints(&all), [at(50), at(30)]);
    }
}
