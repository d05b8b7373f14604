//! Cancels: a stream that every scheduler follows; only the holder of the job message acts.

use std::collections::HashMap;
use std::time::Instant;

use bus_schemas::assignment::Verb;
use bus_schemas::history::{CancelRequest, EndedAttempt};
use bus_schemas::ledger::VoidReason;
use bus_schemas::{AttemptId, Batch, Code, DeviceId, JobId, MemberId, Problem, subject};

use crate::crash;
use crate::job::{Phase, Stop};
use crate::measure;
use crate::next_step::said;
use crate::world::World;

/// Jobs that are to be cancelled; a job that is taken later is checked against them.
#[derive(Default)]
pub struct Cancels {
    /// Whose job it must be.
    jobs: HashMap<JobId, (MemberId, Stop)>,
    /// Read up to here.
    pub next_seq: u64,
}
impl Cancels {
    pub fn stop(&self, job: &JobId, member: &MemberId) -> Stop {
        self.jobs.get(job).filter(|(whose, _)| whose == member).map_or(Stop::No, |(_, stop)| *stop)
    }
    /// The stricter of two wishes counts.
    fn note(&mut self, wish: &CancelRequest) {
        let stop = self.stop(&wish.job, &wish.member).max(Stop::of(wish));
        self.jobs.insert(wish.job, (wish.member, stop));
    }
}

/// What is said of a job that was cancelled and is not paid; `last`: how its last attempt ended.
pub fn cancelled(last: Option<&EndedAttempt>) -> String {
    match last.filter(|last| !last.let_go) {
        None => "cancelled before it ran".to_owned(),
        Some(last) => format!("cancelled; its last attempt ended before: {}", said(last)),
    }
}

impl World {
    /// A message of `mesh.v1.cancel.<j>`, live or read from the stream.
    pub fn hear_cancel(&mut self, subject: &str, payload: &[u8], now: Instant) {
        let read = Batch::decode(payload).and_then(|batch| batch.verify::<CancelRequest>(&mut self.verifier));
        let cancel = match read.map(|mut all| all.pop()) {
            Ok(Some(cancel)) => cancel,
            Ok(None) => return,
            Err(problem) => {
                measure::refused("cancel");
                tracing::warn!(%problem, subject, "a cancel was refused");
                return;
            }
        };
        let genuine =
            self.config.network.gateway_keys.contains(&cancel.by()) && cancel.net == self.net && subject == subject::cancel(&cancel.job);
        if !genuine {
            measure::refused("cancel");
            tracing::warn!(subject, by = %cancel.by(), "a cancel was refused: it is not a gateway's word about this job");
            return;
        }
        let id = cancel.job;
        self.cancels.note(&cancel);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.admitted.member != cancel.member {
            measure::refused("cancel");
            tracing::warn!(job = ?id, by = %cancel.member, "a cancel was refused: the job is another member's");
            return;
        }
        let stop = Stop::of(&cancel);
        if job.stop >= stop {
            return;
        }
        job.stop = stop;
        match job.phase {
            // Whoever has it next reads the flag.
            Phase::Looking | Phase::Assigning | Phase::Closing => (),
            Phase::Running if stop == Stop::Now => self.cancel_running(&id, now),
            Phase::Running => (),
            Phase::Ready { .. } | Phase::Bidding { .. } | Phase::BackOff { .. } | Phase::Waiting { .. } => self.close_cancelled(id),
        }
    }

    /// Nothing of it runs: the hold returns, and the job has ended.
    pub fn close_cancelled(&mut self, id: JobId) {
        let last = self.jobs.get(&id).and_then(|job| job.ended.last());
        let problem = Problem::new(Code::JobCancelled, cancelled(last));
        self.close_failed(id, &problem, VoidReason::Cancelled);
    }

    /// The device stops it; its receipt settles the time used. Asked again by the sweep until something comes.
    pub fn cancel_running(&mut self, id: &JobId, now: Instant) {
        let Some(attempt) = self.jobs.get_mut(id).and_then(|job| job.current_mut()) else { return };
        attempt.cancel_sent = Some(now);
        attempt.cancel_since.get_or_insert(now);
        let (device, attempt) = (attempt.device, attempt.id);
        self.cancel_attempts(device, vec![attempt]);
        crash::at("after_cancel");
    }

    pub fn cancel_attempts(&self, device: DeviceId, attempts: Vec<AttemptId>) {
        self.control(device, Verb::Cancel { attempts });
    }
}
