//! Jobs that nothing fits now: held with their reasons, looked at again when a device changes and after 5, 15 and 60 s.

use std::time::Instant;

use bus_schemas::history::{Decision, HistoryEvent};
use bus_schemas::{JobId, UnixMs};

use crate::crash;
use crate::job::{Job, Phase};
use crate::world::World;

/// More waiting jobs than this share of what may be in hand are given back with a delay: one kind that nobody serves must not
/// stop the others.
const WAITING_SHARE: usize = 4;

/// Where no auction led to something.
pub fn no_decision(at: UnixMs) -> Decision {
    Decision { round: 0, at, took_ms: 0, considered: vec![], winner: None, why: "taken over from another scheduler".into() }
}

impl World {
    /// The job waits; its reasons are told and recorded when they are new.
    pub fn wait(&mut self, id: JobId, decision: Decision, now: Instant) {
        let at = self.hub_ms();
        let pauses = self.config.timings.wait_again;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let pause = pauses.get(job.waited as usize).or(pauses.last()).copied().unwrap_or(self.config.timings.heartbeat);
        job.waited = job.waited.saturating_add(1);
        job.phase = Phase::Waiting { next_look: now + pause };
        self.waiting.insert(id);
        let next_look_at = at + u64::try_from(pause.as_millis()).unwrap_or(0);
        let news = job.waiting_why.as_deref() != Some(decision.why.as_str());
        if news {
            let why = decision.why.clone();
            job.waiting_why = Some(why.clone());
            let gives_up_at = job.gives_up_at;
            let record = job.record(self.net, at, HistoryEvent::Waiting { decision, next_look_at, gives_up_at });
            self.record(record, now);
            self.tell_waiting(&id, &why);
        } else {
            // The same look as before: its transitions would only repeat.
            job.transitions.clear();
        }
        crash::at("after_wait");
        if self.waiting.len() > self.config.jobs_max / WAITING_SHARE {
            self.park(&id, pause, now);
        }
    }

    /// A device changed: everybody looks again.
    pub fn wake_waiting(&mut self) {
        // A set is ordered by id; the order of submission is fairer and the queue keeps it.
        let mut all: Vec<JobId> = self.waiting.iter().copied().collect();
        all.sort_by_key(|id| self.jobs.get(id).map(Job::age));
        for id in all {
            self.make_ready(id);
        }
    }
}
