//! An attempt that ended without a result is counted in BACK before anything follows from it: before its device is told that it may
//! forget it, and before the job is assigned again. So a scheduler that dies does not take the count along.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::Bus;
use bus_schemas::assignment::Closed;
use bus_schemas::history::Back;
use bus_schemas::ledger::VoidReason;
use bus_schemas::{DeviceId, JobId, Signer, subject};

use crate::attempts::EndedNow;
use crate::crash;
use crate::job::{Left, Phase, Stop};
use crate::next_step::{Retry, after_failure};
use crate::world::{Done, World};

/// Longer than the election of a stream's leader, and well within what is left of the lease: a job that goes on without its record has lost
/// count of its attempts.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// Writes a record of BACK; where it cannot be written in time, whoever takes the job knows less of its past and looks first.
pub async fn store_back(bus: &Bus, signer: &Signer, back: Back) {
    let (job, subject) = (back.job, subject::back(&back.job));
    let payload = signer.batch(&[back]).encode();
    if let Err(error) = bus.store(subject, None, payload.into(), BACK_WITHIN).await {
        tracing::warn!(?job, %error, "BACK was not written; whoever takes the job may know less of its attempts");
    }
}

/// The end of an attempt is in BACK, or could not be written there in time.
pub struct Counted {
    job: JobId,
    /// How many had ended with it.
    ended: usize,
    /// The next auction is not before.
    ready_at: Instant,
    /// What its device is told now.
    closed: Option<(DeviceId, Closed)>,
}

impl World {
    /// Writes down the attempt of a job that ended last, and goes on with [`Self::counted`].
    pub fn count(&self, id: &JobId, ready_at: Instant, closed: Option<(DeviceId, Closed)>) {
        let Some(job) = self.jobs.get(id) else { return };
        let counted = Counted { job: *id, ended: job.ended.len(), ready_at, closed };
        let back = job.back_on_the_way(self.net, self.hub_ms());
        let (bus, signer) = (self.bus.clone(), Arc::clone(&self.config.signer));
        self.spawn(async move {
            store_back(&bus, &signer, back).await;
            crash::at("after_count");
            Done::Counted(counted)
        });
    }

    /// Writes BACK while the job goes on: should this scheduler die, the next one knows how far it is.
    pub fn store_back(&self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let back = job.back_on_the_way(self.net, self.hub_ms());
        let (bus, signer) = (self.bus.clone(), Arc::clone(&self.config.signer));
        self.spawn(async move {
            store_back(&bus, &signer, back).await;
            Done::Sent
        });
    }

    pub fn counted(&mut self, counted: Counted, now: Instant) {
        let Counted { job: id, ended, ready_at, closed } = counted;
        if let Some((device, closed)) = closed {
            self.closing.tell_closed(device, closed);
            self.need_tick(now);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if !matches!(job.phase, Phase::BackOff { .. }) || job.ended.len() != ended {
            return;
        }
        if ready_at <= now {
            self.make_ready(id);
        } else {
            job.phase = Phase::BackOff { until: ready_at };
            self.back_off_by(ready_at);
        }
    }

    /// The job backs off: at least until it is counted, at the latest when that counts as failed.
    pub fn back_off_uncounted(&mut self, id: &JobId, ms: u64, now: Instant) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let until = now + BACK_WITHIN * 2 + Duration::from_millis(ms);
        job.phase = Phase::BackOff { until };
        self.back_off_by(until);
    }

    /// An attempt has ended: recorded, counted, and what follows from it. Its device is told `closed` once it is counted.
    pub fn after_end(&mut self, id: &JobId, ended: EndedNow, closed: Option<Closed>, now: Instant) {
        let failure = self.jobs.get(id).and_then(|job| job.ended.last()).map(|ended| &ended.failure);
        let (class, message) = failure.map(|failure| (failure.class.name(), failure.message.as_str())).unwrap_or_default();
        tracing::info!(job = ?id, attempt = ended.number, device = %ended.device, class, message, "an attempt ended");
        self.record(ended.record, now);
        crash::at("after_attempt_ended");
        self.off_device(id);
        let ms = if let Retry::After { ms } = ended.next { ms } else { 0 };
        self.count(id, now + Duration::from_millis(ms), closed.map(|closed| (ended.device, closed)));
        if self.jobs.get(id).is_some_and(|job| job.stop > Stop::No) {
            return self.close_cancelled(*id);
        }
        match ended.next {
            Retry::GiveUp(problem) => self.close_failed(*id, &problem, VoidReason::Failed),
            // It has waited as long as it may: no other device gets it in between.
            Retry::After { .. } if self.has_waited(id) => self.gave_up_waiting(*id),
            Retry::After { ms } => self.back_off_uncounted(id, ms, now),
        }
    }

    /// What follows for a job that nobody has: it may have ended before with its holder.
    pub fn go_on_alone(&mut self, id: JobId) {
        let (net, at, actor) = (self.net, self.hub_ms(), self.actor());
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let has_gone = |left: Left| self.fleet.get(&left.device).is_none_or(|device| !device.is_live());
        let message = match job.left.is_some_and(has_gone) {
            true => "its scheduler was gone, and the device was not heard of since",
            false => "its scheduler was gone, and the device does not have it any more",
        };
        if let Some(ended) = job.end_left(message, net, at, actor) {
            return self.after_end(&id, ended, None, Instant::now());
        }
        if job.stop > Stop::No {
            return self.close_cancelled(id);
        }
        match after_failure(&job.ended, 0) {
            Retry::GiveUp(problem) => self.close_failed(id, &problem, VoidReason::Failed),
            Retry::After { .. } => self.make_ready(id),
        }
    }
}
