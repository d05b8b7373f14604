//! The lease: renewed while a job is in hand, given up when it may be lost, given back when this process stops.

use std::time::{Duration, Instant};

use bus::pull::Delivery;
use bus_schemas::job::Class;
use bus_schemas::{JobId, subject};

use crate::crash;
use crate::job::Phase;
use crate::world::{Done, World};

/// Renewals asked for at once.
const TOGETHER: usize = 64;
/// A job that is given back on a stop comes again after this.
const SOON: Duration = Duration::from_millis(100);
/// Longer than the election of a stream's leader, and well within what is left of the lease: a job that is given back without its record
/// has lost count of its attempts.
pub const BACK_WITHIN: Duration = Duration::from_secs(15);

impl World {
    /// Called before anything else after a wait. A process that stood still so long that leases may be lost (stopped, swapped out, a
    /// machine that slept) looks at them first: what it thought it held may be in other hands.
    pub fn woke(&mut self, now: Instant) {
        let stood_still = now.duration_since(self.awake_at);
        self.awake_at = now;
        if stood_still > self.config.timings.renewal {
            tracing::warn!(?stood_still, "this process stood still: leases first");
            self.renew_leases(now);
        }
    }

    /// Deliveries of the classes that have room are taken as they come.
    pub fn listening(&mut self, now: Instant) {
        for (at, class) in Class::ALL.into_iter().enumerate() {
            if self.room(class) == 0 {
                continue;
            }
            if now.duration_since(self.listened_at[at]) > self.config.timings.renewal {
                self.distrust_until[at] = Some(now + self.config.timings.renewal / 2);
            }
            self.listened_at[at] = now;
        }
    }

    /// Whether a delivery may have lain here for so long (while this process stood still, or had no room) that its lease is over and another
    /// has the job. It is let lie: where nobody has it, it comes again.
    pub fn is_stale(&mut self, delivery: &Delivery, now: Instant) -> bool {
        let Some(at) = Class::ALL.iter().position(|class| delivery.subject.starts_with(&subject::jobs_of(*class))) else { return false };
        self.listening(now);
        let age = Duration::from_millis(self.hub_ms().saturating_sub(delivery.stored_at));
        // One that was stored a moment ago cannot have lain here for long.
        let is_stale = self.distrust_until[at].is_some_and(|until| now < until) && age >= self.config.timings.renewal;
        if is_stale {
            tracing::warn!(seq = delivery.stream_seq, "a delivery that may be an old one is let lie");
        }
        is_stale
    }

    /// Renews what is due. A holder whose last confirmed renewal is too old lets go: somebody else may have the job.
    pub fn renew_leases(&mut self, now: Instant) {
        let (renewal, fence) = (self.config.timings.renewal, self.config.timings.fence);
        let mut lost = Vec::new();
        let mut due = Vec::new();
        for (id, job) in &mut self.jobs {
            let age = now.duration_since(job.lease.confirmed);
            if age >= fence {
                lost.push(*id);
            } else if age >= renewal && !job.lease.asking {
                job.lease.asking = true;
                due.push((*id, job.lease.ack.clone()));
            }
        }
        lost.sort_unstable();
        for id in lost {
            tracing::warn!(job = ?id, "its lease could not be renewed: letting go");
            self.forget(&id);
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
                if let Err(error) = bus.store(subject, None, payload.into(), BACK_WITHIN).await {
                    tracing::warn!(%error, "BACK was not written; whoever takes the job looks first");
                }
            }
            crash::at("after_back");
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
