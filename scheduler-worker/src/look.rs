//! Looks up the past of jobs that come again, or come late: BACK, the books, and the devices' own word.
//!
//! Jobs that arrive together are looked up together: one read of BACK, one question to the books per 64, one `adopt` per
//! device. Few devices are asked at once; of many, only those that name a job, and the others' next heartbeat is awaited.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bus::ask::AskError;
use bus_schemas::assignment::{Assignment, ControlReply, Held, HeldState, Verb};
use bus_schemas::history::Back;
use bus_schemas::job::JobState;
use bus_schemas::ledger::{HoldState, HoldView, VoidReason};
use bus_schemas::{AttemptId, Batch, Code, DeviceId, JobId, Problem, stream, subject};

use crate::crash;
use crate::fleet::Device;
use crate::job::{Left, Phase, Stop};
use crate::measure;
use crate::next_step::{Past, Step, next_step};
use crate::settle::{Settled, ask_device};
use crate::watch::Stray;
use crate::world::{Done, World};

/// Jobs looked up together: their subjects fit into one read.
const GROUP_MAX: usize = 256;
/// Up to so many live devices are asked; of more, heartbeats are awaited.
const ASKED_MAX: usize = 32;

/// What was found about one job so far.
#[derive(Default)]
struct Found {
    back: Option<Back>,
    hold: Option<HoldState>,
    payee_forgot: bool,
}

/// Jobs whose past is being looked up.
pub struct LookGroup {
    /// When the youngest of them arrived.
    since: Instant,
    jobs: BTreeMap<JobId, Found>,
    /// BACK and the books have answered.
    read: bool,
    /// Devices that have spoken since.
    heard: BTreeSet<DeviceId>,
    asked: BTreeMap<DeviceId, Instant>,
}

/// What BACK and the books said.
pub struct Looked {
    group: u64,
    backs: Vec<(JobId, bytes::Bytes)>,
    holds: Option<Vec<(JobId, Option<HoldView>)>>,
}

/// What a device has of some jobs.
pub struct Adopted {
    device: DeviceId,
    group: Option<u64>,
    answer: Result<ControlReply, AskError>,
}

impl World {
    /// Begins to look up jobs that arrived together.
    pub fn look_up(&mut self, jobs: Vec<JobId>, now: Instant) {
        for some in jobs.chunks(GROUP_MAX) {
            let group = self.next_look;
            self.next_look += 1;
            let jobs: Vec<JobId> = some.to_vec();
            self.looks.insert(
                group,
                LookGroup {
                    since: now,
                    jobs: jobs.iter().map(|id| (*id, Found::default())).collect(),
                    read: false,
                    heard: BTreeSet::new(),
                    asked: BTreeMap::new(),
                },
            );
            let asker = self.ledger();
            self.spawn(async move {
                let subjects: Vec<String> = jobs.iter().map(subject::back).collect();
                let backs = loop {
                    match asker.bus.each_last_from_leader(stream::BACK, &subjects).await {
                        Ok(messages) => break messages,
                        Err(error) => {
                            tracing::warn!(%error, "BACK is read again");
                            tokio::time::sleep(Duration::from_millis(500)).await;
                        }
                    }
                };
                let backs = backs.into_iter().filter_map(|message| Some((subject::job_of(&message.subject)?, message.payload))).collect();
                let holds = asker.look(&jobs).await.map(|holds| jobs.into_iter().zip(holds).collect());
                Done::Looked(Looked { group, backs, holds })
            });
        }
    }

    pub fn looked(&mut self, looked: Looked, now: Instant) {
        let Looked { group, backs, holds } = looked;
        let Some(mut found) = self.looks.remove(&group) else { return };
        let Some(holds) = holds else {
            for id in found.jobs.keys() {
                self.give_back(id, self.config.timings.heartbeat);
            }
            return;
        };
        for (id, payload) in backs {
            let verified = Batch::decode(&payload).and_then(|batch| batch.verify::<Back>(&mut self.verifier)).map(|mut all| all.pop());
            match verified {
                Ok(Some(back)) if self.config.network.scheduler_keys.contains(&back.by()) && back.job == id => {
                    if let Some(one) = found.jobs.get_mut(&id) {
                        one.back = Some(back.into_body());
                    }
                }
                Ok(_) | Err(_) => {
                    measure::refused("back");
                    tracing::warn!(job = ?id, "a record of BACK is not a scheduler's");
                }
            }
        }
        for (id, hold) in holds {
            if let Some(one) = found.jobs.get_mut(&id) {
                one.hold = hold.map(|hold| hold.state);
            }
        }
        found.read = true;
        self.looks.insert(group, found);
        crash::at("after_look");
        self.ask_around(group, now);
        self.go_on(group);
    }

    /// Asks devices whether they have any of the group's jobs.
    fn ask_around(&mut self, group: u64, now: Instant) {
        let again = self.config.timings.heartbeat;
        let Some(found) = self.looks.get(&group).filter(|found| found.read) else { return };
        let few = self.fleet.live().count() <= ASKED_MAX;
        let names = |device: &Device| {
            device.heartbeat.as_ref().is_some_and(|heartbeat| {
                heartbeat.unsettled_more > 0 || heartbeat.jobs.iter().chain(&heartbeat.unsettled).any(|id| found.jobs.contains_key(id))
            })
        };
        let mut ask: BTreeSet<DeviceId> =
            self.fleet.live().filter(|device| few || names(device)).map(|device| device.record.device).collect();
        for one in found.jobs.values() {
            if let Some(HoldState::Settled { device, .. }) = &one.hold {
                ask.insert(*device);
            }
            ask.extend(one.back.as_ref().and_then(|back| back.on));
        }
        ask.retain(|device| !found.heard.contains(device) && found.asked.get(device).is_none_or(|at| now.duration_since(*at) > again));
        let jobs: Vec<JobId> = found.jobs.keys().copied().collect();
        for device in ask {
            if let Some(found) = self.looks.get_mut(&group) {
                found.asked.insert(device, now);
            }
            self.adopt(device, jobs.clone(), Some(group));
        }
    }

    /// Asks one device what it has of these jobs; from now on it sends their receipts here.
    pub fn adopt(&self, device: DeviceId, jobs: Vec<JobId>, group: Option<u64>) {
        let asker = self.ledger();
        let s = self.s.clone();
        let timeout = self.config.timings.heartbeat;
        self.spawn(async move {
            let answer = ask_device(&asker, s, device, Verb::Adopt { jobs }, timeout).await;
            Done::Adopted(Adopted { device, group, answer })
        });
    }

    /// Asks a device for all its attempts; their receipts go where they went before.
    pub fn ask_what_it_has(&self, device: DeviceId) {
        let (asker, s, timeout) = (self.ledger(), self.s.clone(), self.config.timings.heartbeat);
        self.spawn(async move {
            let answer = ask_device(&asker, s, device, Verb::Have, timeout).await;
            Done::Adopted(Adopted { device, group: None, answer })
        });
    }

    pub fn adopted(&mut self, adopted: Adopted, now: Instant) {
        let Adopted { device, group, answer } = adopted;
        let mut has = BTreeSet::new();
        let answered = matches!(&answer, Ok(reply) if reply.declined.is_none());
        let spoke = match answer {
            Ok(ControlReply { declined: Some(decline), .. }) => {
                tracing::warn!(%device, %decline, "a device does not say what it has");
                false
            }
            Ok(reply) => {
                for held in reply.have {
                    has.insert(held.job);
                    self.take_over(device, &held, now);
                }
                true
            }
            Err(error) => {
                tracing::debug!(%device, %error, "a device did not say what it has");
                false
            }
        };
        if answered {
            self.fleet.heard(&device, now);
            self.refuse_unshown(device, now);
        }
        let Some(group_id) = group else { return };
        let is_gone = self.fleet.get(&device).is_none_or(|found| !found.is_live());
        let Some(found) = self.looks.get_mut(&group_id) else { return };
        if spoke {
            found.heard.insert(device);
        }
        for (id, one) in &mut found.jobs {
            let payee = matches!(&one.hold, Some(HoldState::Settled { device: payee, .. }) if *payee == device);
            one.payee_forgot |= payee && !has.contains(id) && (spoke || is_gone);
        }
        self.go_on(group_id);
    }

    /// A device shows the signed assignment that it holds: same content id, same attempt.
    fn take_over(&mut self, device: DeviceId, held: &Held, now: Instant) {
        let assignment = match held.assignment.verify::<Assignment>(&mut self.verifier) {
            Ok(assignment) => assignment,
            Err(problem) => {
                measure::refused("assignment");
                tracing::warn!(%device, %problem, "a device shows an assignment that is none");
                return;
            }
        };
        let genuine = self.config.network.scheduler_keys.contains(&assignment.by())
            && assignment.job == held.job
            && assignment.device == device
            && assignment.net == self.net;
        if !genuine {
            measure::refused("assignment");
            tracing::warn!(%device, "a device shows an assignment that is not its own");
            return;
        }
        let id = AttemptId(assignment.cid());
        let assignment = assignment.into_body();
        let silence = self.config.timings.silence;
        // What was paid is not watched any more: its receipt lies in RECEIPTS.
        let holds = self.looks.values().filter_map(|group| group.jobs.get(&held.job)).filter_map(|found| found.hold.as_ref());
        let is_paid = holds.into_iter().any(|hold| matches!(hold, HoldState::Settled { .. }));
        let Some(job) = self.jobs.get_mut(&held.job) else {
            // What has ended there comes as a receipt.
            if held.state != HeldState::Done {
                self.closing.strays.push(Stray { job: held.job, attempt: id, receipt: None, device });
                self.need_tick(now);
            }
            return;
        };
        if job.declined.contains(&id) {
            measure::refused("assignment");
            tracing::warn!(job = ?held.job, %device, "a device shows an assignment that it declined");
            return;
        }
        job.show(id, &assignment, held.assignment.clone(), held.state, now, silence);
        if job.phase == Phase::Looking && !is_paid {
            job.phase = Phase::Running;
            job.current = Some(id);
            let cancelled = job.stop == Stop::Now;
            self.put_on_device(&held.job, device);
            let found = self.looks.values_mut().filter_map(|group| group.jobs.remove(&held.job)).filter_map(|found| found.back).last();
            if let Some(job) = self.jobs.get_mut(&held.job) {
                if let Some(back) = found {
                    job.recall(back);
                    // This is what was left, or came after it.
                    job.left = None;
                }
                job.revive(&id);
                job.keep(assignment.resume);
            }
            tracing::info!(job = ?held.job, %device, attempt = assignment.attempt, state = ?held.state, "taken over");
            if cancelled {
                self.cancel_running(&held.job, now);
            } else {
                self.tell_matched(&held.job);
            }
            crash::at("after_adopt");
            self.hear_early(held.job, device, now);
        }
    }

    /// A device was heard: groups that wait for its word may go on.
    pub fn looks_heard(&mut self, device: DeviceId, now: Instant) {
        let groups: Vec<u64> = self.looks.keys().copied().collect();
        for group in groups {
            let Some(found) = self.looks.get_mut(&group) else { continue };
            let heartbeat = self.fleet.get(&device).and_then(|known| known.heartbeat.as_ref());
            let clear = heartbeat.is_some_and(|heartbeat| {
                heartbeat.unsettled_more == 0 && !heartbeat.jobs.iter().chain(&heartbeat.unsettled).any(|id| found.jobs.contains_key(id))
            });
            if clear {
                found.heard.insert(device);
                self.go_on(group);
            } else {
                self.ask_around(group, now);
            }
        }
    }

    pub fn sweep_looks(&mut self, now: Instant) {
        let groups: Vec<u64> = self.looks.keys().copied().collect();
        for group in groups {
            self.ask_around(group, now);
            self.go_on(group);
        }
    }

    /// Lets every job of the group go on whose past is clear.
    fn go_on(&mut self, group: u64) {
        let Some(mut found) = self.looks.remove(&group) else { return };
        if !found.read {
            self.looks.insert(group, found);
            return;
        }
        let silent_ones = usize::from(!self.fleet.is_settled());
        let unheard: Vec<DeviceId> =
            self.fleet.live().map(|device| device.record.device).filter(|device| !found.heard.contains(device)).collect();
        let named_by = |fleet: &crate::fleet::Fleet, id: &JobId| -> Vec<DeviceId> {
            let names = |device: &&DeviceId| {
                fleet
                    .get(device)
                    .filter(|known| known.heard_at().is_some_and(|at| at > found.since))
                    .and_then(|known| known.heartbeat.as_ref())
                    .is_some_and(|heartbeat| heartbeat.jobs.contains(id) || heartbeat.unsettled.contains(id))
            };
            unheard.iter().filter(names).copied().collect()
        };
        let mut left = BTreeMap::new();
        let mut steps = Vec::new();
        let now_ms = self.hub_ms();
        let look_first_ms = u64::try_from(self.config.timings.look_first.as_millis()).unwrap_or(u64::MAX);
        for (id, one) in std::mem::take(&mut found.jobs) {
            let Some(job) = self.jobs.get(&id).filter(|job| job.phase == Phase::Looking) else { continue };
            // A heartbeat that does not name the job may have come before the books said who was paid: then nobody asks that device again.
            let payee_heard = matches!(&one.hold, Some(HoldState::Settled { device, .. }) if found.heard.contains(device));
            let past = Past {
                delivered: job.lease.delivered,
                back: job.vouched_back(one.back.as_ref(), self.net, now_ms),
                hold: one.hold.clone(),
                named: named_by(&self.fleet, &id),
                unheard: unheard.len() + silent_ones,
                young: now_ms.saturating_sub(job.admitted.at) < look_first_ms,
                payee_forgot: one.payee_forgot || payee_heard,
            };
            match next_step(&past) {
                Step::Wait | Step::TakeOver { .. } | Step::AskPayee { .. } => {
                    left.insert(id, one);
                }
                step @ (Step::Auction { .. } | Step::Finish { .. } | Step::Drop { .. } | Step::DropUnfunded | Step::AskAgain) => {
                    steps.push((id, step));
                }
            }
        }
        found.jobs = left;
        if !found.jobs.is_empty() {
            self.looks.insert(group, found);
        }
        let mut paid = BTreeMap::<DeviceId, Vec<Settled>>::new();
        for (id, step) in steps {
            self.step(id, step, &mut paid);
        }
        for (device, paid) in paid {
            self.recall(device, paid);
        }
    }

    fn step(&mut self, id: JobId, step: Step, settled: &mut BTreeMap<DeviceId, Vec<Settled>>) {
        match step {
            Step::Auction { known } => {
                let Some(job) = self.jobs.get_mut(&id) else { return };
                if let Some(back) = known {
                    job.recall(back);
                }
                // The device that had it says no, or says nothing any more.
                if let Some(Left { device, attempt, at, .. }) = job.left
                    && self.seek_parts(id, device, attempt, at)
                {
                    return;
                }
                self.go_on_alone(id);
            }
            Step::Finish { attempt, receipt, device, paid, outcome } => {
                settled.entry(device).or_default().push(Settled { job: id, device, attempt, receipt, paid, outcome });
            }
            Step::Drop { reason } => {
                let (state, problem) = match reason {
                    VoidReason::Cancelled => (JobState::Cancelled, Problem::new(Code::JobCancelled, "cancelled before it ran")),
                    VoidReason::Failed => (JobState::Failed, Problem::new(Code::JobFailed, "its attempts failed")),
                    VoidReason::NotPlaced => (JobState::Failed, Problem::new(Code::NothingFits, "no device could take it in time")),
                    VoidReason::Expired => (JobState::Failed, Problem::new(Code::NothingFits, "its hold expired")),
                    VoidReason::NotAdmitted => (JobState::Failed, Problem::new(Code::NotAdmitted, "it was not admitted in time")),
                };
                self.close_without_result(id, state, &problem, None);
            }
            Step::AskAgain => self.give_back(&id, self.config.timings.heartbeat),
            Step::DropUnfunded => {
                let problem = Problem::new(Code::Refused, "the books do not know it: nothing was set aside for it");
                self.close_without_result(id, JobState::Failed, &problem, None);
            }
            Step::Wait | Step::TakeOver { .. } | Step::AskPayee { .. } => (),
        }
    }
}
