//! What must always hold, seen from outside: by what the streams hold and what clients were told, never by what a process believes.

use std::collections::{BTreeMap, BTreeSet};

use bus_schemas::event::{Event, EventKind};
use bus_schemas::history::{Back, HistoryEvent, HistoryRecord};
use bus_schemas::job::{AdmittedJob, JobState};
use bus_schemas::ledger::{Fact, HoldState, What};
use bus_schemas::receipt::{Outcome, Receipt};
use bus_schemas::replay::{Applied, Books};
use bus_schemas::{AttemptId, Cid, DeviceId, JobId, Verifier};
use bytes::Bytes;
use gateway::history::{self, Jobs};

use crate::cast::Cast;
use crate::device::receipts_of;
use crate::ledger::ending;
use crate::message::Ms;

/// All that came to pass.
pub struct Truth {
    /// A second fold over LEDGER.
    pub books: Books,
    history: Jobs,
    /// How each job was told to have ended.
    ends: BTreeMap<JobId, JobState>,
    named: BTreeSet<JobId>,
    assignments: BTreeMap<AttemptId, (JobId, DeviceId)>,
    /// The attempts of each job in the order in which they were assigned, and those that HISTORY lists as ended.
    attempts: BTreeMap<JobId, Vec<AttemptId>>,
    listed: BTreeSet<AttemptId>,
    /// Attempts that stood in BACK: whoever takes their job next knows of them.
    in_back: BTreeSet<AttemptId>,
    /// When an attempt told how far it is.
    told: BTreeMap<AttemptId, Vec<(Ms, u32)>>,
    receipts: BTreeMap<Cid, Receipt>,
    settled: BTreeSet<JobId>,
    /// How often a device began with a job, and how often it failed at one.
    pub runs: BTreeMap<JobId, u32>,
    pub failures: BTreeMap<JobId, u32>,
    /// How often a device gave up or gave back a job.
    pub excuses: BTreeMap<JobId, u32>,
    pub wrong: Vec<String>,
}

impl Truth {
    pub fn new(cast: &Cast) -> Self {
        Self {
            books: Books::new(cast.net, cast.ledger_keys()),
            history: Jobs::new(),
            ends: BTreeMap::new(),
            named: BTreeSet::new(),
            assignments: BTreeMap::new(),
            attempts: BTreeMap::new(),
            listed: BTreeSet::new(),
            in_back: BTreeSet::new(),
            told: BTreeMap::new(),
            receipts: BTreeMap::new(),
            settled: BTreeSet::new(),
            runs: BTreeMap::new(),
            failures: BTreeMap::new(),
            excuses: BTreeMap::new(),
            wrong: vec![],
        }
    }

    fn says(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// An assignment was sent.
    pub fn assigned(&mut self, attempt: AttemptId, job: JobId, device: DeviceId) {
        let known = self.assignments.insert(attempt, (job, device));
        if known.is_some_and(|known| known != (job, device)) {
            self.says(format!("{attempt:?} is the attempt of two jobs"));
        }
        if known.is_none() {
            self.attempts.entry(job).or_default().push(attempt);
        }
    }

    pub fn back_stored(&mut self, back: &Back) {
        self.in_back.extend(back.attempt);
    }

    pub fn event_stored(&mut self, now: Ms, event: &Event) {
        if let EventKind::Checkpoint(checkpoint) = &event.what {
            self.told.entry(event.attempt).or_default().push((now, checkpoint.units));
        }
    }

    /// How far attempts that whoever holds the job must know of have told to be, a second ago or before.
    pub fn told_before(&self, job: &JobId, now: Ms) -> u32 {
        let known = self.attempts.get(job).into_iter().flatten().filter(|attempt| self.in_back.contains(attempt));
        let told = known.filter_map(|attempt| self.told.get(attempt)).flatten();
        told.filter(|(at, _)| at + 1_000 <= now).map(|(_, units)| *units).max().unwrap_or(0)
    }

    /// Attempts that stood in BACK, had a successor, and are not listed as ended.
    pub fn not_listed(&self, job: &JobId) -> Vec<AttemptId> {
        let all = self.attempts.get(job).map_or(&[][..], Vec::as_slice);
        let followed = all.split_last().map_or(&[][..], |(_, before)| before);
        followed.iter().filter(|attempt| self.in_back.contains(attempt) && !self.listed.contains(attempt)).copied().collect()
    }

    pub fn receipts_stored(&mut self, bytes: &Bytes) {
        for (cid, receipt) in receipts_of(bytes) {
            if self.receipts.contains_key(&cid) {
                continue;
            }
            if matches!(&receipt.outcome, Outcome::Failed(failure) if failure.message.contains("computed here")) {
                *self.failures.entry(receipt.job).or_default() += 1;
            }
            if !matches!(receipt.outcome, Outcome::Completed(_)) {
                *self.excuses.entry(receipt.job).or_default() += 1;
            }
            self.receipts.insert(cid, receipt);
        }
    }

    /// A message is in LEDGER: every invariant of the books.
    pub fn ledger_stored(&mut self, verifier: &mut Verifier, seq: u64, bytes: &Bytes) {
        match self.books.apply_message(verifier, seq, bytes) {
            Ok(Applied::Facts(facts)) => facts.iter().for_each(|fact| self.fact(fact)),
            Ok(Applied::Foreign(why)) => self.says(format!("LEDGER {seq} counts for nothing: {why}")),
            Err(wrong) => self.says(format!("LEDGER {seq} contradicts the books: {wrong}")),
        }
        if let Err(wrong) = self.books.check_all() {
            self.says(wrong.join("; "));
        }
    }

    fn fact(&mut self, fact: &Fact) {
        match &fact.what {
            What::Settle { job, attempt, receipt, device, paid_mmana, fee_mmana, .. } => {
                if !self.settled.insert(*job) {
                    self.says(format!("{job:?} was settled twice"));
                }
                if self.assignments.get(attempt) != Some(&(*job, *device)) {
                    self.says(format!("{job:?} was settled with an attempt that was never assigned to {device}"));
                }
                let valid = self.receipts.get(&receipt.0).is_some_and(|receipt| {
                    receipt.job == *job && receipt.attempt == *attempt && !matches!(receipt.outcome, Outcome::Failed(_))
                });
                if !valid {
                    self.says(format!("{job:?} was settled with a receipt that was not stored, or is of a failure"));
                }
                let held = self.books.hold(job).map_or(0, |hold| hold.amount_mmana.get());
                if paid_mmana.get() + fee_mmana.get() > held {
                    self.says(format!("{job:?} was paid more than its hold"));
                }
            }
            What::Void { job, .. } if self.settled.contains(job) => self.says(format!("{job:?} was settled and void")),
            _ => {}
        }
    }

    /// A job is in JOBS: its hold is in the books.
    pub fn job_stored(&mut self, job: &AdmittedJob) {
        match self.books.hold(&job.job) {
            Some(hold) if hold.amount_mmana == job.hold_mmana && hold.member == job.member => {}
            Some(_) => self.says(format!("{:?} is in JOBS with another hold than in the books", job.job)),
            None => self.says(format!("{:?} is in JOBS without a hold", job.job)),
        }
    }

    /// A job left JOBS: nothing is left to do for it.
    pub fn job_acked(&mut self, job: &JobId) {
        match self.books.hold(job).map(|hold| hold.state.clone()) {
            Some(HoldState::Open) => self.says(format!("{job:?} was acknowledged, its hold is open")),
            None => self.says(format!("{job:?} was acknowledged, it has no hold")),
            Some(HoldState::Settled { .. } | HoldState::Voided { .. }) => {}
        }
        if !self.ends.contains_key(job) {
            self.says(format!("{job:?} was acknowledged, HISTORY does not say how it ended"));
        }
    }

    pub fn submission_acked(&mut self, jobs: &[JobId]) {
        for job in jobs {
            if !self.named.contains(job) {
                self.says(format!("the submission of {job:?} was acknowledged, HISTORY does not know the job"));
            }
        }
    }

    /// A record is in HISTORY: what clients are told.
    pub fn history_stored(&mut self, seq: u64, record: &HistoryRecord) {
        let (job, member) = (record.job, record.member);
        self.named.insert(job);
        if let HistoryEvent::AttemptEnded(ended) = &record.what {
            self.listed.insert(ended.attempt);
            let assigned = self.attempts.get(&job).map_or(0, Vec::len);
            if ended.number as usize > assigned {
                self.says(format!("{job:?} has attempt {}, and was assigned {assigned} times", ended.number));
            }
        }
        if let HistoryEvent::Ended(end) = &record.what {
            if let Some(before) = self.ends.insert(job, end.state)
                && before != end.state
            {
                self.says(format!("{job:?} was told to be {before}, then {}", end.state));
            }
            let hold = self.books.hold(&job).map(|hold| hold.state.clone());
            let paid = matches!(hold, Some(HoldState::Settled { .. }));
            let by_receipt = end.done.is_some() || end.paid_mmana.is_some();
            if (end.state == JobState::Completed || by_receipt) != paid || matches!(hold, Some(HoldState::Open) | None) {
                let hold = hold.as_ref().map_or("unknown", ending);
                self.says(format!("{job:?} was told to be {}, its hold is {hold}", end.state));
            }
        }
        let before = self.history.get(&(member, job)).filter(|known| known.rank == history::Rank::Ended).and_then(|known| known.state);
        history::fold(&mut self.history, seq, [record.clone()]);
        let after = self.history.get(&(member, job)).and_then(|known| known.state);
        if before.is_some() && before != after {
            self.says(format!("{job:?} is shown as {before:?}, then as {after:?}"));
        }
    }

    /// How people see it.
    pub fn state(&self, job: &JobId) -> Option<JobState> {
        self.history.iter().find(|((_, id), _)| id == job).and_then(|(_, known)| known.state)
    }
}
