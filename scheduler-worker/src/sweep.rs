//! Once a second, all jobs in hand at a glance: leases, silent devices, deadlines; and the scheduler's own heartbeat.

use std::time::{Duration, Instant};

use bus_schemas::heartbeat::SchedulerHeartbeat;
use bus_schemas::ledger::VoidReason;
use bus_schemas::limits::Timings;
use bus_schemas::receipt::{Failure, FailureClass};
use bus_schemas::{Code, DeviceId, JobId, Problem, UnixMs, subject};

use crate::job::{Job, Phase};
use crate::measure;
use crate::world::World;

/// What a sweep found about one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    GaveUpWaiting,
    LookAgain,
    TimedOut,
    NoStart,
    CancelAgain,
}

/// What is due for one job by now (`at`: hub time).
pub fn due(job: &Job, timings: &Timings, at: UnixMs, now: Instant) -> Option<Due> {
    if job.is_unassigned() && job.gives_up_at <= at {
        return Some(Due::GaveUpWaiting);
    }
    match job.phase {
        Phase::Waiting { next_look } if next_look <= now => Some(Due::LookAgain),
        Phase::Running => {
            let attempt = job.current()?;
            // The device ends it by itself and says so; this is for one that does not.
            let grace = timings.heartbeat;
            let timeout = Duration::from_millis(job.timeout_ms) + grace;
            if let Some(sent) = attempt.cancel_sent {
                return (now.duration_since(sent) > grace).then_some(Due::CancelAgain);
            }
            match attempt.started {
                Some((_, since)) if now.duration_since(since) > timeout => Some(Due::TimedOut),
                None if attempt.start_by + timeout < now => Some(Due::TimedOut),
                None if attempt.start_by < now && attempt.absent == 0 => Some(Due::NoStart),
                Some(_) | None => None,
            }
        }
        Phase::Looking
        | Phase::Ready { .. }
        | Phase::Bidding { .. }
        | Phase::Assigning
        | Phase::BackOff { .. }
        | Phase::Waiting { .. }
        | Phase::Closing => None,
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
        for (id, due) in all {
            self.act_on(id, &due, now);
        }
        self.sweep_looks(now);
        self.forget_early();
        self.ask_of_others();
        self.drop_late_auctions(now);
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

    fn act_on(&mut self, id: JobId, due: &Due, now: Instant) {
        match due {
            Due::GaveUpWaiting => {
                let why = self.jobs.get(&id).and_then(|job| job.waiting_why.clone()).unwrap_or_else(|| "every device was busy".into());
                let problem = Problem::new(Code::NothingFits, format!("no device could take it in time: {why}"));
                self.close_failed(id, &problem, VoidReason::NotPlaced);
            }
            Due::LookAgain => self.make_ready(id),
            Due::CancelAgain => self.cancel_running(&id, now),
            Due::TimedOut => {
                let Some(job) = self.jobs.get(&id) else { return };
                let Some((device, attempt)) = job.current().map(|attempt| (attempt.device, attempt.id)) else { return };
                let message = format!("no result within {} ms", job.timeout_ms);
                self.cancel_attempts(device, vec![attempt]);
                self.attempt_ended(&id, Failure { class: FailureClass::Timeout, message, retryable: true }, now);
            }
            Due::NoStart => {
                // No word of a start: ask. A device that does not know the job has lost it, and its heartbeats will say so.
                let silence = self.config.timings.silence;
                let Some(attempt) = self.jobs.get_mut(&id).and_then(|job| job.current_mut()) else { return };
                attempt.start_by += silence;
                let device = attempt.device;
                self.adopt(device, vec![id], None);
            }
        }
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
