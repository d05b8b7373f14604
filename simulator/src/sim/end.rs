//! The end of a run: faults have stopped, time has run on, and what was promised is looked at as a whole.

use bus_schemas::Verifier;

use super::{Actor, Sim};
use crate::plan::Profile;

impl Sim {
    pub(super) fn is_quiet(&self) -> bool {
        let awake = self.processes.values().all(|process| process.frozen_until <= self.now);
        let idle = self.processes.values().all(|process| match &process.actor {
            Actor::Gateway(gateway) => gateway.is_idle(),
            Actor::Scheduler(scheduler) => scheduler.is_idle(),
            Actor::Ledger(ledger) => ledger.is_idle(),
            Actor::Device(device) => device.unsettled() == 0 && device.at_work() == 0,
            Actor::Down => false,
        });
        let outboxes = self.disks.iter().all(|disk| disk.outbox.is_empty());
        let submitted = self.plan.submissions.iter().all(|planned| planned.at < self.now);
        let cancels = self.cancels.is_empty();
        awake
            && idle
            && outboxes
            && submitted
            && cancels
            && self.hub.submit.is_empty()
            && self.hub.jobs.is_empty()
            && self.client.is_empty()
    }

    pub(super) fn what_is_left(&self) -> String {
        let mut left = vec![];
        for (who, process) in &self.processes {
            match &process.actor {
                Actor::Scheduler(scheduler) => {
                    let jobs = scheduler.jobs().map(|(id, one)| format!("{}:{:?}", id.short(), one.job.phase));
                    left.push(format!("{who:?} {:?}", jobs.collect::<Vec<_>>()));
                }
                Actor::Device(device) => left.push(format!("{who:?} unsettled {} at work {}", device.unsettled(), device.at_work())),
                Actor::Gateway(gateway) => left.push(format!("{who:?} idle {}", gateway.is_idle())),
                Actor::Ledger(ledger) => left.push(format!("{who:?} idle {}", ledger.is_idle())),
                Actor::Down => left.push(format!("{who:?} down")),
            }
        }
        let jobs: Vec<String> = self.hub.jobs.bodies().map(|job| job.job.short()).collect();
        let outboxes: usize = self.disks.iter().map(|disk| disk.outbox.len()).sum();
        format!("JOBS {jobs:?}, SUBMIT empty {}, outboxes {outboxes}; {}", self.hub.submit.is_empty(), left.join("; "))
    }

    /// Faults have stopped and time has run on: what everybody was promised.
    pub(super) fn finish(&mut self, verifier: &mut Verifier) {
        let mut wrong = vec![];
        for n in &self.acked {
            for job in &self.jobs_of[*n] {
                match self.truth.state(job) {
                    Some(state) if state.is_final() => {}
                    None if self.wiped.contains(n) => {}
                    other => wrong.push(format!("submission {n} was acknowledged, its {job:?} is {other:?}")),
                }
            }
        }
        let open: Vec<String> = self.truth.books.open_holds().map(|hold| hold.job.short()).collect();
        if !open.is_empty() {
            wrong.push(format!("holds are open: {open:?}"));
        }
        let replayed = self.replay(verifier);
        if replayed != self.truth.books.digest() {
            wrong.push("a replay has another digest".into());
        }
        for (who, process) in &self.processes {
            if let Actor::Ledger(ledger) = &process.actor
                && let Some((seq, digest)) = ledger.digest()
                && (seq != self.hub.ledger_end() || digest != replayed)
            {
                wrong.push(format!("the books of {who:?} at {seq} are not those of LEDGER at {}", self.hub.ledger_end()));
            }
        }
        wrong.extend(self.strict());
        self.truth.wrong.extend(wrong);
    }

    fn replay(&self, verifier: &mut Verifier) -> [u8; 32] {
        let mut books = bus_schemas::replay::Books::new(self.cast.net, self.cast.ledger_keys());
        for (seq, (bytes, _)) in (1..).zip(&self.hub.ledger) {
            let _ = books.apply_message(verifier, seq, bytes);
        }
        books.digest()
    }

    /// What holds where fewer things fail.
    fn strict(&self) -> Vec<String> {
        let mut wrong = vec![];
        let profile = self.plan.profile;
        for (planned, jobs) in self.plan.submissions.iter().zip(&self.jobs_of) {
            for job in jobs {
                let runs = self.truth.runs.get(job).copied().unwrap_or(0);
                let failures = self.truth.failures.get(job).copied().unwrap_or(0);
                if matches!(profile, Profile::Schedulers | Profile::Orderly | Profile::Calm)
                    && planned.poison
                    && failures > bus_schemas::limits::ATTEMPTS_MAX
                {
                    wrong.push(format!("{job:?} failed {failures} times"));
                }
                if matches!(profile, Profile::Schedulers | Profile::Orderly | Profile::Calm)
                    && !planned.poison
                    && runs > 1 + self.truth.excuses.get(job).copied().unwrap_or(0)
                {
                    wrong.push(format!("devices began {runs} times with {job:?}, and none of them failed"));
                }
                let not_listed = self.truth.not_listed(job);
                if matches!(profile, Profile::Crashes | Profile::Orderly | Profile::Calm) && !not_listed.is_empty() {
                    wrong.push(format!("HISTORY does not list attempts of {job:?}: {not_listed:?}"));
                }
                let cancelled = self.cancel_done.get(job).is_some_and(|_| planned.hopeless);
                let state = self.truth.state(job);
                if cancelled
                    && profile == Profile::Calm
                    && state.is_some_and(|state| {
                        state != bus_schemas::job::JobState::Cancelled && state != bus_schemas::job::JobState::Rejected
                    })
                {
                    wrong.push(format!("{job:?} was cancelled while it waited, and is {state:?}"));
                }
            }
        }
        wrong
    }
}
