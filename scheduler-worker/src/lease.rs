//! The lease: renewed while a job is in hand, given up when it may be lost, given back when this process stops.

use std::time::{Duration, Instant};

use bus_schemas::{JobId, subject};

use crate::job::{Job, Phase};
use crate::world::{Done, World};

/// Renewals asked for at once.
const TOGETHER: usize = 64;
/// A job that is given back on a stop comes again after this.
const SOON: Duration = Duration::from_millis(100);

impl World {
    /// Renews what is due. A holder whose last confirmed renewal is too old lets go: somebody else may have the job.
    pub fn renew_leases(&mut self, now: Instant) {
        self.let_go(now);
        let renewal = self.config.timings.renewal;
        let mut due = Vec::new();
        for (id, job) in &mut self.jobs {
            if now.duration_since(job.lease.confirmed) >= renewal && !job.lease.asking {
                job.lease.asking = true;
                due.push((*id, job.lease.ack.clone()));
            }
        }
        for some in due.chunks(TOGETHER) {
            let some = some.to_vec();
            let bus = self.bus.clone();
            self.spawn(async move {
                // What is confirmed later counts from when it was asked.
                let asked = Instant::now();
                let bus = &bus;
                let all = some.into_iter().map(|(id, ack)| async move { (id, bus.renew_confirmed(&ack).await.is_ok()) });
                Done::Renewed { asked, jobs: futures::future::join_all(all).await }
            });
        }
    }

    /// Before anything is acted on that came while this process did not run: whoever was frozen lets go of what it may have lost meanwhile.
    pub fn woke(&mut self, now: Instant) {
        let asleep = now.duration_since(self.awake);
        if asleep > 2 * self.sweep_every() {
            self.let_go(now);
        }
        if asleep >= self.config.timings.fence {
            tracing::warn!(?asleep, "this scheduler was frozen: what was delivered meanwhile is left to come again");
            self.drowsy_until = Some(now + self.sweep_every());
        }
    }

    /// Lets go of every job whose last confirmed renewal is too old: somebody else may have it.
    fn let_go(&mut self, now: Instant) {
        let fence = self.config.timings.fence;
        let is_lost = |job: &Job| now.duration_since(job.lease.confirmed) >= fence;
        let mut lost: Vec<JobId> = self.jobs.iter().filter(|(_, job)| is_lost(job)).map(|(id, _)| *id).collect();
        lost.sort_unstable();
        for id in lost {
            tracing::warn!(job = ?id, "its lease could not be renewed: letting go");
            self.forget(&id);
        }
    }

    pub fn renewed(&mut self, asked: Instant, jobs: &[(JobId, bool)]) {
        for (id, confirmed) in jobs {
            if let Some(job) = self.jobs.get_mut(id) {
                job.lease.asking = false;
                if *confirmed {
                    job.lease.confirmed = job.lease.confirmed.max(asked);
                }
            }
        }
    }

    /// Gives a job back: what is known about it goes into BACK first, so that whoever takes it goes on at once.
    pub fn give_back(&mut self, id: &JobId, delay: Duration) {
        let (Some(job), Some(back)) = (self.jobs.get(id), self.back(id)) else { return };
        let knows = job.phase != Phase::Looking && job.phase != Phase::Closing;
        let (bus, signer, ack) = (self.bus.clone(), std::sync::Arc::clone(&self.config.signer), job.lease.ack.clone());
        let subject = subject::back(id);
        self.forget(id);
        self.spawn(async move {
            if knows {
                let payload = signer.batch(&[back]).encode();
                if let Err(error) = bus.store(subject, None, payload.into(), Duration::from_secs(5)).await {
                    tracing::warn!(%error, "BACK was not written; whoever takes the job looks first");
                }
            }
            let _ = bus.give_back(&ack, delay).await;
            Done::Sent
        });
    }

    /// On a stop: what is not on a device goes to others at once.
    pub fn give_back_unassigned(&mut self) {
        let mut all: Vec<JobId> = self.jobs.iter().filter(|(_, job)| job.is_unassigned()).map(|(id, _)| *id).collect();
        all.sort_unstable();
        for id in all {
            self.give_back(&id, SOON);
        }
    }

    /// On a stop: everything. What a device has stays there, and whoever takes the job adopts it.
    pub fn give_back_all(&mut self) {
        let mut all: Vec<JobId> = self.jobs.keys().copied().collect();
        all.sort_unstable();
        for id in all {
            self.give_back(&id, SOON);
        }
    }
}
