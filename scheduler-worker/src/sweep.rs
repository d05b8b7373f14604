//! Once a second, all jobs in hand at a glance: leases, silent devices, deadlines; and the scheduler's own heartbeat.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus_schemas::heartbeat::SchedulerHeartbeat;
use bus_schemas::ledger::VoidReason;
use bus_schemas::limits::{ATTEMPTS_MAX, Timings};
use bus_schemas::receipt::{Failure, FailureClass};
use bus_schemas::{AttemptId, Code, DeviceId, JobId, Problem, UnixMs, subject};

use crate::bidding::Candidates;
use crate::job::{Attempt, Job, Phase};
use crate::measure;
use crate::next_step::counts;
use crate::world::World;

/// What a sweep found about one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    GaveUpWaiting,
    LookAgain,
    /// No answer to its assignment, although that is over by now.
    NoAnswer,
    TimedOut,
    NoStart,
    /// It waits in a device's queue for longer than its member allows.
    GaveUpQueued,
    CancelAgain,
    /// Its device does not stop it.
    CancelIgnored,
}

/// A device that takes an assignment does so within this.
pub fn assignment_lasts(timings: &Timings) -> Duration {
    timings.silence + timings.look_first
}

/// Whether an attempt that its device has not begun is so late that another device should have it: by its whole timeout.
pub fn is_late(attempt: &Attempt, timeout_ms: u64, timings: &Timings, now: Instant) -> bool {
    late_from(attempt, timeout_ms, timings) < now
}
/// From then on it is so late.
pub fn late_from(attempt: &Attempt, timeout_ms: u64, timings: &Timings) -> Instant {
    attempt.start_by + Duration::from_millis(timeout_ms) + timings.heartbeat
}

/// Whether a job may leave the queue that it waits in for another device's: not as its last attempt, for waiting is no failure of the job.
pub fn may_move(job: &Job) -> bool {
    let tried = job.ended.iter().filter(|ended| counts(ended.failure.class)).count();
    job.needs.target.is_none() && tried + 1 < ATTEMPTS_MAX as usize
}

/// What is due for one job by now (`at`: hub time).
pub fn due(job: &Job, timings: &Timings, at: UnixMs, now: Instant) -> Option<Due> {
    if job.is_unassigned() && job.has_waited(at) {
        return Some(Due::GaveUpWaiting);
    }
    match job.phase {
        Phase::Waiting { next_look } if next_look <= now => Some(Due::LookAgain),
        Phase::Running => {
            let attempt = job.current()?;
            // The device ends it by itself and says so; this is for one that does not.
            let grace = timings.heartbeat;
            let timeout = Duration::from_millis(job.timeout_ms) + grace;
            if attempt.cancel_since.is_some_and(|since| now.duration_since(since) > timings.silence) {
                return Some(Due::CancelIgnored);
            }
            if let Some(sent) = attempt.cancel_sent {
                return (now.duration_since(sent) > grace).then_some(Due::CancelAgain);
            }
            match attempt.started {
                Some((_, since)) if now.duration_since(since) > timeout => Some(Due::TimedOut),
                None if attempt.start_by < now && job.has_waited(at) => Some(Due::GaveUpQueued),
                None if attempt.ask_at < now && attempt.absent == 0 => Some(Due::NoStart),
                Some(_) | None => None,
            }
        }
        Phase::Assigning => {
            let sent = job.current()?.at;
            (now.duration_since(sent) > assignment_lasts(timings) + timings.heartbeat).then_some(Due::NoAnswer)
        }
        Phase::Looking | Phase::Ready { .. } | Phase::Bidding { .. } | Phase::BackOff { .. } | Phase::Waiting { .. } | Phase::Closing => {
            None
        }
    }
}

impl World {
    pub fn sweep(&mut self, now: Instant) {
        self.renew_leases(now);
        let (waiting, bidding, executing) = self.counts();
        measure::in_hand(waiting, bidding, executing);
        self.sweep_fleet(now);
        let at = self.hub_ms();
        let timings = self.config.timings;
        let mut all: Vec<(JobId, Due)> =
            self.jobs.iter().filter_map(|(id, job)| due(job, &timings, at, now).map(|due| (*id, due))).collect();
        all.sort_by_key(|(id, _)| *id);
        let mut ask = BTreeMap::<DeviceId, Vec<JobId>>::new();
        for (id, due) in all {
            if let Some(device) = self.act_on(id, &due, now) {
                ask.entry(device).or_default().push(id);
            }
        }
        for (device, jobs) in ask {
            self.adopt(device, jobs, None);
        }
        self.sweep_looks(now);
        self.forget_early();
        self.ask_of_others();
        self.drop_late_auctions(now);
        self.sweep_backlog(now);
        self.parking.forget_old(now);
    }

    /// Devices that have fallen silent. Also between two sweeps, at the very moment: a job moves on no later than it must.
    pub fn sweep_fleet(&mut self, now: Instant) {
        let gone = self.fleet.sweep(now, self.hub_ms());
        measure::mass_silence(self.fleet.mass_silence().is_some());
        if !gone.is_empty() {
            self.look_again = true;
        }
        let why = format!("the device was not heard of for {} s", self.config.timings.silence.as_secs());
        for device in gone {
            self.moves_on(device, &why, now);
        }
        // What is due already waits for the bus or for the rest of the fleet.
        self.silent_at = self.fleet.silent_at().filter(|at| *at > now && *at < self.sweep_at);
    }

    /// What a device had is tried elsewhere.
    pub fn moves_on(&mut self, device: DeviceId, why: &str, now: Instant) {
        let mut jobs: Vec<JobId> = self.on_device.get(&device).map(|load| load.jobs.iter().copied().collect()).unwrap_or_default();
        jobs.sort_unstable();
        for id in jobs {
            let failure = Failure { class: FailureClass::DeviceDisconnect, message: why.to_owned(), retryable: true };
            self.attempt_ended(&id, failure, now);
        }
    }

    /// Gives the device that is to be asked whether it has the job.
    fn act_on(&mut self, id: JobId, due: &Due, now: Instant) -> Option<DeviceId> {
        match due {
            Due::GaveUpWaiting => self.gave_up_waiting(id),
            Due::LookAgain => self.make_ready(id),
            Due::CancelAgain => self.cancel_running(&id, now),
            Due::TimedOut => {
                let (device, attempt) = self.current(&id)?;
                let job = self.jobs.get(&id)?;
                let message = format!("no result within {} ms of its start", job.timeout_ms);
                self.cancel_attempts(device, vec![attempt]);
                self.attempt_ended(&id, Failure { class: FailureClass::Timeout, message, retryable: true }, now);
            }
            Due::NoAnswer => self.no_answer(&id, now),
            Due::NoStart => return self.no_start(id, now),
            Due::GaveUpQueued => {
                let (device, attempt) = self.current(&id)?;
                self.cancel_attempts(device, vec![attempt]);
                let message = "the device had not begun with it when the job's time to wait was over".to_owned();
                self.attempt_ended(&id, Failure { class: FailureClass::Timeout, message, retryable: true }, now);
            }
            Due::CancelIgnored => {
                let message = format!("the device did not stop it within {} s", self.config.timings.silence.as_secs());
                self.attempt_ended(&id, Failure { class: FailureClass::Timeout, message, retryable: true }, now);
            }
        }
        None
    }

    /// Its time to wait for a begin is over.
    pub fn has_waited(&self, id: &JobId) -> bool {
        self.jobs.get(id).is_some_and(|job| job.has_waited(self.hub_ms()))
    }

    /// A job that has waited as long as it may: failed, with what stood in its way last.
    pub fn gave_up_waiting(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let last = job
            .ended
            .last()
            .map(|ended| format!("{} on {}: {}", ended.failure.class.name(), self.fleet.name(&ended.device), ended.failure.message));
        let waiting = job.waiting_why.clone();
        let why = if matches!(job.phase, Phase::Waiting { .. }) { waiting.or(last) } else { last.or(waiting) };
        let why = why.unwrap_or_else(|| "every device was busy".into());
        self.close_failed(id, &Problem::new(Code::NothingFits, why), VoidReason::NotPlaced);
    }

    fn current(&self, id: &JobId) -> Option<(DeviceId, AttemptId)> {
        self.jobs.get(id)?.current().map(|attempt| (attempt.device, attempt.id))
    }

    /// A device that is there, and did not answer to an assignment as long as it lasted: it has the job if it says so, and cannot take it any
    /// more if not. One that is not heard of is waited for like any.
    fn no_answer(&mut self, id: &JobId, now: Instant) {
        let Some((device, _)) = self.current(id) else { return };
        let lately = 2 * self.config.timings.heartbeat;
        let Some(found) = self.fleet.get(&device).filter(|found| found.heard_at().is_some_and(|at| now.duration_since(at) < lately)) else {
            return;
        };
        if found.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.jobs.contains(id) || heartbeat.unsettled.contains(id)) {
            return self.accepted(id, now);
        }
        let message = format!("the device did not answer to the assignment within {} s", assignment_lasts(&self.config.timings).as_secs());
        self.attempt_ended(id, Failure { class: FailureClass::DeviceDisconnect, message, retryable: true }, now);
    }

    /// No word of a start: gives the device, to be asked. A device that does not know the job has lost it, and its heartbeats will say so. One
    /// that has it, but is late by the job's whole timeout, loses it where another one has room.
    fn no_start(&mut self, id: JobId, now: Instant) -> Option<DeviceId> {
        let timings = self.config.timings;
        let job = self.jobs.get(&id)?;
        let attempt = job.current()?;
        let (device, attempt, late) = (attempt.device, attempt.id, is_late(attempt, job.timeout_ms, &timings, now));
        let elsewhere = |found: Candidates<'_>| found.with_room.iter().any(|(view, _)| view.id != device && !job.avoid.contains(&view.id));
        if late && may_move(job) && self.candidates(&job.needs, &job.avoid, now).is_ok_and(elsewhere) {
            let message = format!("the device had not begun with it {} ms after it was to", job.timeout_ms);
            self.cancel_attempts(device, vec![attempt]);
            self.attempt_ended(&id, Failure { class: FailureClass::Timeout, message, retryable: true }, now);
            return None;
        }
        if let Some(attempt) = self.jobs.get_mut(&id).and_then(|job| job.current_mut()) {
            attempt.ask_at = now + timings.silence;
        }
        Some(device)
    }

    /// Jobs that wait, that are in an auction or being assigned, and that a device has.
    fn counts(&self) -> (u32, u32, u32) {
        let (mut waiting, mut bidding, mut executing) = (0_u32, 0_u32, 0_u32);
        for job in self.jobs.values() {
            match job.phase {
                Phase::Bidding { .. } | Phase::Assigning => bidding += 1,
                Phase::Running => executing += 1,
                Phase::Looking | Phase::Ready { .. } | Phase::BackOff { .. } | Phase::Waiting { .. } => waiting += 1,
                Phase::Closing => (),
            }
        }
        (waiting, bidding, executing)
    }

    /// The scheduler's own heartbeat. While it comes back, the bus works and silence counts.
    pub fn beat(&mut self) {
        let (waiting, bidding, executing) = self.counts();
        let at = self.hub_ms();
        let holds_back = self.fleet.mass_silence().map(|mass| mass.said());
        let body = SchedulerHeartbeat { net: self.net, s: self.s.clone(), at, bidding, executing, waiting, holds_back };
        let payload = self.config.signer.batch(&[body]).encode();
        self.send(subject::scheduler_heartbeat(&self.s), payload);
    }
}
