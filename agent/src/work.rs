//! The device's queue: what waits, what runs, what has ended and is not settled. Decides and touches nothing.
//!
//! An attempt enters by [`Work::admit`], waits until [`Work::start_next`] names it, runs, ends by [`Work::finish`], and is forgotten by
//! [`Work::close`]. Instant work never waits: it is admitted as running and needs no slot.

use std::collections::{BTreeMap, VecDeque};

use bus_schemas::assignment::HeldState;
use bus_schemas::job::Class;
use bus_schemas::limits::QUEUE_MAX;
use bus_schemas::offer::Decline;
use bus_schemas::resources::Resources;
use bus_schemas::{AttemptId, JobId};
use serde::{Deserialize, Serialize};

use crate::bidding::{fits, minus};

/// What goes when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FullQueue {
    /// The new job.
    #[default]
    RejectNew,
    /// The job that waits longest in the lowest class.
    DropOldest,
}

/// How many ended jobs are remembered, so that an older attempt of one of them is refused.
const REMEMBERED_MAX: usize = 4096;

/// One attempt as the queue sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    pub job: JobId,
    pub attempt: AttemptId,
    /// 1, 2, …: the higher one of a job is the newer one.
    pub number: u32,
    pub class: Class,
    pub needs: Resources,
    /// How long it is expected to run.
    pub expected_ms: u64,
    /// Done at once, beside whatever runs.
    pub instant: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Being stored; it may not start before that is sure.
    Storing,
    Waiting,
    Running,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    task: Task,
    phase: Phase,
    /// Order of arrival.
    arrival: u64,
}

/// What became of an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is instant: run it now.
    Run,
    /// It has a place. Store it, then [`Work::stored`]. `dropped` lost its own place to it.
    Queue {
        dropped: Option<AttemptId>,
    },
    /// The same attempt is here.
    Known(HeldState),
    Decline(Decline),
}

/// What a cancelled or closed attempt was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    Unknown,
    Waiting,
    Running,
    Done,
}

/// The queue.
#[derive(Debug, Clone)]
pub struct Work {
    full: FullQueue,
    slots: usize,
    total: Resources,
    /// What waits or runs.
    entries: BTreeMap<AttemptId, Entry>,
    /// What has ended and is not settled.
    done: BTreeMap<AttemptId, JobId>,
    /// The newest attempt's number of each job that is here or was lately, and how many attempts here or remembered are its.
    newest: BTreeMap<JobId, (u32, u32)>,
    remembered: VecDeque<JobId>,
    arrivals: u64,
}

impl Work {
    pub fn new(full: FullQueue, slots: usize, total: Resources) -> Self {
        Self {
            full,
            slots: slots.max(1),
            total,
            entries: BTreeMap::new(),
            done: BTreeMap::new(),
            newest: BTreeMap::new(),
            remembered: VecDeque::new(),
            arrivals: 0,
        }
    }

    /// Takes an attempt in again that had a place here before a restart: what ran then waits now, so there may be more than 64.
    pub fn admit_again(&mut self, task: Task) -> Admission {
        self.known(&task).unwrap_or_else(|| self.enter(task, None))
    }

    /// Takes an attempt in, or says why not.
    pub fn admit(&mut self, task: Task) -> Admission {
        if let Some(known) = self.known(&task) {
            return known;
        }
        let mut dropped = None;
        if !task.instant && self.waiting() >= QUEUE_MAX {
            match (self.full, self.oldest_of_lowest()) {
                (FullQueue::DropOldest, Some((class, attempt))) if class >= task.class => dropped = Some(attempt),
                (FullQueue::DropOldest | FullQueue::RejectNew, _) => return Admission::Decline(Decline::QueueFull),
            }
        }
        self.enter(task, dropped)
    }

    /// What is to be said of an attempt that needs no place, or can have none.
    fn known(&self, task: &Task) -> Option<Admission> {
        if let Some(entry) = self.entries.get(&task.attempt) {
            return Some(Admission::Known(held(entry.phase)));
        }
        if self.done.contains_key(&task.attempt) {
            return Some(Admission::Known(HeldState::Done));
        }
        if self.newest.get(&task.job).is_some_and(|(newest, _)| *newest > task.number) {
            return Some(Admission::Decline(Decline::Superseded));
        }
        fits(&task.needs, &self.total).err().map(Admission::Decline)
    }

    fn enter(&mut self, task: Task, dropped: Option<AttemptId>) -> Admission {
        if let Some(attempt) = dropped {
            self.finish(&attempt);
        }
        self.arrivals += 1;
        let phase = if task.instant { Phase::Running } else { Phase::Storing };
        self.entries.insert(task.attempt, Entry { task, phase, arrival: self.arrivals });
        let (newest, count) = self.newest.entry(task.job).or_default();
        (*newest, *count) = (task.number, *count + 1);
        if task.instant { Admission::Run } else { Admission::Queue { dropped } }
    }

    /// The attempt is kept safe and may start.
    pub fn stored(&mut self, attempt: &AttemptId) {
        self.change(attempt, Phase::Storing, Phase::Waiting);
    }

    /// Which attempt starts next: by class, then by arrival, once a slot and what it needs are free. It runs from now on.
    pub fn start_next(&mut self) -> Option<Task> {
        let running = self.entries.values().filter(|entry| entry.phase == Phase::Running && !entry.task.instant).count();
        if running >= self.slots {
            return None;
        }
        let free = minus(&self.total, &self.reserved());
        // Strictly in order: a job that needs much is not overtaken for ever by those that need little.
        // One attempt of a job at a time: while an older one runs, it may well be the one that is paid.
        let runs = |job: &JobId| self.entries.values().any(|other| other.phase == Phase::Running && other.task.job == *job);
        let waiting = self.entries.values().filter(|entry| entry.phase == Phase::Waiting && !runs(&entry.task.job));
        let first = waiting.min_by_key(|entry| (entry.task.class, entry.arrival))?;
        let task = first.task;
        fits(&task.needs, &free).ok()?;
        self.change(&task.attempt, Phase::Waiting, Phase::Running);
        Some(task)
    }

    /// The attempt has ended: its receipt is under way. What it was doing before.
    pub fn finish(&mut self, attempt: &AttemptId) -> Was {
        let was = self.look(attempt);
        if let Some(entry) = self.entries.remove(attempt) {
            self.done.insert(*attempt, entry.task.job);
        }
        was
    }

    /// The attempt is settled, or will not be paid: forget it. What it was doing; something that runs must be stopped.
    pub fn close(&mut self, attempt: &AttemptId) -> Was {
        let was = self.look(attempt);
        let job = self.entries.remove(attempt).map(|entry| entry.task.job).or_else(|| self.done.remove(attempt));
        self.remembered.extend(job);
        if self.remembered.len() > REMEMBERED_MAX
            && let Some(job) = self.remembered.pop_front()
            && let Some((_, count)) = self.newest.get_mut(&job)
        {
            *count -= 1;
            if *count == 0 {
                self.newest.remove(&job);
            }
        }
        was
    }

    /// What the attempt is doing.
    pub fn look(&self, attempt: &AttemptId) -> Was {
        match self.entries.get(attempt) {
            Some(entry) if is_waiting(entry.phase) => Was::Waiting,
            Some(_) => Was::Running,
            None if self.done.contains_key(attempt) => Was::Done,
            None => Was::Unknown,
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| is_waiting(entry.phase)).count()
    }
    /// The lowest class that waits, where its oldest job would give its place to one of a higher class.
    pub fn gives_way(&self) -> Option<Class> {
        match self.full {
            FullQueue::DropOldest => self.oldest_of_lowest().map(|(class, _)| class),
            FullQueue::RejectNew => None,
        }
    }
    /// How many run.
    pub fn running(&self) -> usize {
        self.entries.values().filter(|entry| entry.phase == Phase::Running).count()
    }
    /// Jobs that wait or run.
    pub fn at_work(&self) -> Vec<JobId> {
        // In the order in which they are done.
        let mut all: Vec<&Entry> = self.entries.values().collect();
        all.sort_by_key(|entry| (entry.phase != Phase::Running, entry.task.class, entry.arrival));
        all.into_iter().map(|entry| entry.task.job).collect()
    }
    /// Attempts that wait or run.
    pub fn attempts_at_work(&self) -> Vec<AttemptId> {
        self.entries.keys().copied().collect()
    }
    /// Jobs that ended and are not settled: at most `max`, and how many more.
    pub fn unsettled(&self, max: usize) -> (Vec<JobId>, u32) {
        let more = u32::try_from(self.done.len().saturating_sub(max)).unwrap_or(u32::MAX);
        (self.done.values().take(max).copied().collect(), more)
    }
    /// Every attempt of these jobs that is here; of all jobs where none is named.
    pub fn held(&self, jobs: Option<&[JobId]>) -> Vec<(JobId, AttemptId, HeldState)> {
        let asked = |job: &JobId| jobs.is_none_or(|jobs| jobs.contains(job));
        let at_work = self.entries.values().map(|entry| (entry.task.job, entry.task.attempt, held(entry.phase)));
        let done = self.done.iter().map(|(attempt, job)| (*job, *attempt, HeldState::Done));
        at_work.chain(done).filter(|(job, _, _)| asked(job)).collect()
    }
    /// What running jobs have asked for.
    pub fn reserved(&self) -> Resources {
        self.entries.values().filter(|entry| entry.phase == Phase::Running).fold(Resources::default(), |sum, entry| Resources {
            cpu_cores: sum.cpu_cores.saturating_add(entry.task.needs.cpu_cores),
            memory_mb: sum.memory_mb.saturating_add(entry.task.needs.memory_mb),
            storage_mb: sum.storage_mb.saturating_add(entry.task.needs.storage_mb),
            gpu_mb: sum.gpu_mb.saturating_add(entry.task.needs.gpu_mb),
        })
    }
    /// Milliseconds until everything that waits and runs is done, by estimate.
    pub fn busy_ms(&self) -> u64 {
        let sum: u64 = self.entries.values().map(|entry| entry.task.expected_ms).fold(0, u64::saturating_add);
        sum / self.slots as u64
    }

    fn change(&mut self, attempt: &AttemptId, from: Phase, to: Phase) {
        if let Some(entry) = self.entries.get_mut(attempt)
            && entry.phase == from
        {
            entry.phase = to;
        }
    }
    fn oldest_of_lowest(&self) -> Option<(Class, AttemptId)> {
        let waiting = self.entries.values().filter(|entry| is_waiting(entry.phase));
        let last = waiting.max_by_key(|entry| (entry.task.class, std::cmp::Reverse(entry.arrival)))?;
        Some((last.task.class, last.task.attempt))
    }
}

fn is_waiting(phase: Phase) -> bool {
    matches!(phase, Phase::Storing | Phase::Waiting)
}
fn held(phase: Phase) -> HeldState {
    match phase {
        Phase::Storing | Phase::Waiting => HeldState::Waiting,
        Phase::Running => HeldState::Running,
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Cid;
    use proptest::prelude::*;

    const TOTAL: Resources = Resources { cpu_cores: 4, memory_mb: 1000, storage_mb: 0, gpu_mb: 0 };

    fn work(full: FullQueue) -> Work {
        Work::new(full, 1, TOTAL)
    }
    /// `j1#2!` = job 1, attempt 2, high class; `-` low; `@` instant; `c3` needs three cores.
    fn task(text: &str) -> Task {
        let (name, rest) = text.split_once('#').unwrap();
        let number = rest.chars().next().unwrap().to_digit(10).unwrap();
        let class = if rest.contains('!') {
            Class::High
        } else if rest.contains('-') {
            Class::Low
        } else {
            Class::Normal
        };
        let cores = rest.split_once('c').map_or(0, |(_, cores)| cores.parse().unwrap());
        Task {
            job: JobId(Cid::of(name.as_bytes())),
            attempt: AttemptId(Cid::of(format!("{name}#{number}").as_bytes())),
            number,
            class,
            needs: Resources { cpu_cores: cores, ..Resources::default() },
            expected_ms: 10,
            instant: rest.contains('@'),
        }
    }
    fn take(work: &mut Work, text: &str) -> Admission {
        let task = task(text);
        let admission = work.admit(task);
        work.stored(&task.attempt);
        admission
    }
    fn started(work: &mut Work) -> Option<AttemptId> {
        work.start_next().map(|task| task.attempt)
    }

    #[test]
    fn by_class_then_by_arrival_one_at_a_time() {
        let mut work = work(FullQueue::RejectNew);
        for text in ["a#1", "b#1-", "c#1!", "d#1"] {
            assert_eq!(take(&mut work, text), Admission::Queue { dropped: None });
        }
        let order = ["c#1!", "a#1", "d#1", "b#1-"];
        for (nth, text) in order.into_iter().enumerate() {
            assert_eq!(started(&mut work), Some(task(text).attempt), "{text}");
            assert_eq!(started(&mut work), None, "one slot");
            assert_eq!(work.at_work(), order[nth..].iter().map(|text| task(text).job).collect::<Vec<_>>(), "told in that order");
            assert_eq!(work.finish(&task(text).attempt), Was::Running);
        }
        assert_eq!((work.at_work().len(), work.unsettled(3)), (0, (work.unsettled(9).0[..3].to_vec(), 1)));
    }

    #[test]
    fn nothing_starts_before_it_is_stored_or_before_there_is_room() {
        let mut work = Work::new(FullQueue::RejectNew, 2, TOTAL);
        let first = task("a#1c3");
        assert_eq!(work.admit(first), Admission::Queue { dropped: None });
        assert_eq!(started(&mut work), None);
        work.stored(&first.attempt);
        assert_eq!(started(&mut work), Some(first.attempt));
        take(&mut work, "b#1c2");
        take(&mut work, "c#1c1");
        assert_eq!(started(&mut work), None, "b needs two of the one free core, and c does not overtake it");
        work.finish(&first.attempt);
        assert_eq!((started(&mut work), started(&mut work)), (Some(task("b#1").attempt), Some(task("c#1").attempt)));
    }

    #[test]
    fn one_attempt_of_a_job_at_a_time() {
        let mut work = Work::new(FullQueue::RejectNew, 2, TOTAL);
        for text in ["a#1", "a#2", "b#1"] {
            take(&mut work, text);
        }
        assert_eq!(started(&mut work), Some(task("a#1").attempt));
        assert_eq!(started(&mut work), Some(task("b#1").attempt), "the newer attempt of a waits, and holds nobody up");
        work.finish(&task("a#1").attempt);
        assert_eq!(started(&mut work), Some(task("a#2").attempt));
    }

    #[test]
    fn repeats_and_older_attempts() {
        let mut work = work(FullQueue::RejectNew);
        assert_eq!(take(&mut work, "a#2@"), Admission::Run);
        assert_eq!(take(&mut work, "a#2@"), Admission::Known(HeldState::Running));
        work.finish(&task("a#2").attempt);
        assert_eq!(take(&mut work, "a#2@"), Admission::Known(HeldState::Done));
        assert_eq!(take(&mut work, "a#1@"), Admission::Decline(Decline::Superseded));
        assert_eq!(work.close(&task("a#2").attempt), Was::Done);
        assert_eq!(take(&mut work, "a#1@"), Admission::Decline(Decline::Superseded), "also after it is forgotten");
        assert_eq!(take(&mut work, "a#3@"), Admission::Run);
        assert_eq!(take(&mut work, "b#1c5"), Admission::Decline(Decline::Resources("CPU cores: asked 5, free 4".into())));
        assert_eq!((work.close(&task("z#1").attempt), work.look(&task("a#3").attempt)), (Was::Unknown, Was::Running));
    }

    #[test]
    fn a_full_queue() {
        for (full, newcomer, expected) in [
            (FullQueue::RejectNew, "n#1!", None),
            (FullQueue::DropOldest, "n#1!", Some("w0#1")),
            (FullQueue::DropOldest, "n#1", Some("w0#1")),
            (FullQueue::DropOldest, "n#1-", None),
        ] {
            let mut work = work(full);
            for i in 0..QUEUE_MAX {
                take(&mut work, &format!("w{i}#1"));
            }
            let admission = take(&mut work, newcomer);
            match expected {
                None => assert_eq!(admission, Admission::Decline(Decline::QueueFull), "{full:?} {newcomer}"),
                Some(oldest) => {
                    let dropped = Some(task(oldest).attempt);
                    assert_eq!(admission, Admission::Queue { dropped }, "{full:?} {newcomer}");
                    assert_eq!(work.look(&task(oldest).attempt), Was::Done, "its receipt says that it was dropped");
                }
            }
            assert_eq!(work.waiting(), QUEUE_MAX);
            assert_eq!(take(&mut work, "i#1@"), Admission::Run, "instant work needs no place");
        }
    }

    #[test]
    fn a_restart_drops_nothing() {
        for full in [FullQueue::RejectNew, FullQueue::DropOldest] {
            let mut work = work(full);
            for i in 0..=QUEUE_MAX {
                assert_eq!(work.admit_again(task(&format!("w{i}#2"))), Admission::Queue { dropped: None }, "one ran, the others waited");
            }
            assert_eq!(work.admit_again(task("w3#1")), Admission::Decline(Decline::Superseded));
            assert_eq!((work.waiting(), take(&mut work, "n#1-")), (QUEUE_MAX + 1, Admission::Decline(Decline::QueueFull)));
        }
    }

    #[test]
    fn memory_of_ended_jobs_is_bounded() {
        let mut work = work(FullQueue::RejectNew);
        for i in 0..REMEMBERED_MAX + 100 {
            let task = task(&format!("{i}#1@"));
            work.admit(task);
            work.finish(&task.attempt);
            work.close(&task.attempt);
        }
        assert_eq!((work.newest.len(), work.remembered.len(), work.done.len()), (REMEMBERED_MAX, REMEMBERED_MAX, 0));
    }

    proptest! {
        #[test]
        fn never_more_than_the_slots_and_the_queue(steps in proptest::collection::vec((0..6_u8, 0..90_u32, 1..3_u32, 0..3_u8), 0..400)) {
            let mut work = Work::new(FullQueue::DropOldest, 2, TOTAL);
            for (step, job, number, class) in steps {
                let mark = ["!", "", "-"][usize::from(class)];
                let task = task(&format!("{job}#{number}{mark}"));
                match step {
                    0 | 1 => { if let Admission::Queue { .. } = work.admit(task) { work.stored(&task.attempt); } }
                    2 => { work.start_next(); }
                    3 => { work.finish(&task.attempt); }
                    4 => { work.close(&task.attempt); }
                    _ => { work.admit(Task { instant: true, ..task }); }
                }
                let running = work.entries.values().filter(|e| e.phase == Phase::Running && !e.task.instant).count();
                prop_assert!(running <= 2 && work.waiting() <= QUEUE_MAX);
                for entry in work.entries.values() {
                    prop_assert!(work.newest[&entry.task.job].0 >= entry.task.number);
                    prop_assert!(!work.done.contains_key(&entry.task.attempt));
                }
                let counted: u32 = work.newest.values().map(|(_, count)| count).sum();
                prop_assert_eq!(counted as usize, work.entries.len() + work.done.len() + work.remembered.len());
            }
        }
    }
}
