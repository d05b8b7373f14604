//! The lease: renewed while a job is in hand, given up when it may be lost, given back when this process stops.

use std::time::{Duration, Instant};

use bus::pull::Delivery;
use bus_schemas::job::Class;
use bus_schemas::{JobId, subject};

use crate::count::store_back;
use crate::crash;
use crate::job::{Job, Phase};
use crate::world::{Done, World};

/// Renewals asked for at once.
const TOGETHER: usize = 64;
/// A job that is given back on a stop comes again after this.
const SOON: Duration = Duration::from_millis(100);

/// How lately deliveries of one class were taken as they came: not while the process stood still, nor while it had no room.
#[derive(Debug, Clone, Copy)]
pub struct Ear {
    listened: Instant,
    /// The time before.
    before: Instant,
    /// Until then what is taken may have lain here.
    distrust_until: Option<Instant>,
}

impl Ear {
    pub fn new(now: Instant) -> Self {
        Self { listened: now, before: now, distrust_until: None }
    }

    /// Whatever has come is taken now.
    pub fn listen(&mut self, now: Instant, renewal: Duration) {
        if now.duration_since(self.listened) > renewal {
            self.distrust_until = Some(now + renewal / 2);
        }
        (self.before, self.listened) = (self.listened, now);
    }

    /// Nobody else can have what lay here.
    pub fn trust(&mut self) {
        self.distrust_until = None;
    }
    /// What lay here will have been taken by then.
    pub fn distrust_until_at_most(&mut self, moment: Instant) {
        self.distrust_until = self.distrust_until.map(|until| until.min(moment));
    }

    /// When a delivery that is taken now came, at the earliest: its lease counts from then, and is no older than a renewal. `age`: since it was
    /// stored.
    ///
    /// `None`: it may have lain here until its lease was over and another had the job. It is let lie: where nobody has it, it comes again. So
    /// is every job with a past (`again`) that comes meanwhile: a look at it would take what devices said before for their word since.
    pub fn came(&self, age: Duration, again: bool, now: Instant, renewal: Duration) -> Option<Instant> {
        // One that was stored a moment ago cannot have lain here for long.
        if self.distrust_until.is_some_and(|until| now < until) && (again || age >= renewal) {
            return None;
        }
        Some(now.checked_sub(age).map_or(self.before, |stored| stored.max(self.before)).min(now))
    }
}

impl World {
    /// Called before anything is acted on after a wait. A process that stood still (stopped, swapped out, a machine that slept) looks at its
    /// leases first: what it thought it held may be in other hands.
    pub fn woke(&mut self, now: Instant) {
        let stood_still = now.duration_since(self.awake_at);
        self.awake_at = now;
        if stood_still > 2 * self.sweep_every() {
            self.let_go(now);
        }
        if stood_still > self.config.timings.renewal {
            tracing::warn!(?stood_still, "this process stood still: leases first");
            self.ask_for_others();
        }
    }

    /// Deliveries of the classes that have room are taken as they come.
    pub fn listening(&mut self, now: Instant) {
        let renewal = self.config.timings.renewal;
        for (at, class) in Class::ALL.into_iter().enumerate() {
            if self.room(class) > 0 {
                self.ears[at].listen(now, renewal);
            }
        }
    }

    /// When a delivery came here, at the earliest; see [`Ear::came`].
    pub fn came(&self, delivery: &Delivery, now: Instant) -> Option<Instant> {
        let age = Duration::from_millis(self.hub_ms().saturating_sub(delivery.stored_at));
        // A subject of no class is refused by name later.
        let Some(at) = Class::ALL.iter().position(|class| delivery.subject.starts_with(&subject::jobs_of(*class))) else {
            return Some(now);
        };
        self.ears[at].came(age, delivery.delivered > 1, now, self.config.timings.renewal)
    }

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
        let Some(job) = self.jobs.get(id) else { return };
        let back = job.back(self.net, self.hub_ms());
        let knows = job.phase != Phase::Looking && job.phase != Phase::Closing;
        let (bus, signer, ack) = (self.bus.clone(), std::sync::Arc::clone(&self.config.signer), job.lease.ack.clone());
        self.forget(id);
        self.spawn(async move {
            if knows {
                store_back(&bus, &signer, back).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_lain_here_for_long_is_let_lie() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let renewal = 10 * second;
        let mut ear = Ear::new(start);
        let came = |ear: &Ear, age, again, now| ear.came(age, again, now, renewal);
        // As it should be: what is taken has come since the time before.
        let at = start + 4 * second;
        ear.listen(at, renewal);
        assert_eq!(came(&ear, 60 * second, true, at), Some(start));
        assert_eq!(came(&ear, second, false, at), Some(at - second));
        assert_eq!(came(&ear, Duration::ZERO, false, at), Some(at));
        // Eleven seconds that nobody listened.
        let woke = at + 11 * second;
        ear.listen(woke, renewal);
        let rest = woke + second;
        for (age, again, now, expected) in [
            (10 * second, false, woke, None),
            (9 * second, true, woke, None),
            (9 * second, false, woke, Some(woke - 9 * second)),
            (60 * second, true, rest, None),
        ] {
            assert_eq!(came(&ear, age, again, now), expected, "{age:?} {again}");
        }
        // What lay here has been taken by now.
        let later = woke + 5 * second;
        ear.listen(later, renewal);
        assert_eq!(came(&ear, 60 * second, true, later), Some(woke));
    }
}
