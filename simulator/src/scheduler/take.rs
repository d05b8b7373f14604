//! A delivered job: put in hand, and where it may have a past, looked up first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bus_schemas::assignment::{Assignment, ControlReply, Held, Verb};
use bus_schemas::history::Back;
use bus_schemas::job::{AdmittedJob, JobSpec, JobState};
use bus_schemas::ledger::{HoldState, LedgerOutcome, Op, RefusalKind, VoidReason};
use bus_schemas::{AttemptId, Code, DeviceId, JobId, Problem};
use scheduler_worker::job::{Job, Lease, Left, Phase, Stop};
use scheduler_worker::next_step::{Arrival, Past, Step, must_look, next_step};

use super::{Asked, InHand, Request, Scheduler};
use crate::cx::Cx;
use crate::message::{Delivery, Ms, Msg};
use crate::mutation::Mutation;

/// What was found out about one job so far.
pub struct Look {
    since: Ms,
    back: Option<Back>,
    hold: Option<HoldState>,
    payee_forgot: bool,
    /// BACK and the books have answered.
    read: bool,
    heard: BTreeSet<DeviceId>,
    asked: BTreeMap<DeviceId, Ms>,
}

impl Scheduler {
    pub(super) fn take(&mut self, cx: &mut Cx<'_>, delivery: Delivery<Arc<AdmittedJob>>) {
        let Delivery { seq, delivered, stored_at, body } = delivery;
        if self.stopping {
            return;
        }
        let age = Duration::from_millis(cx.hub_ms().saturating_sub(stored_at));
        let came = if cx.is_broken(Mutation::NoSelfFencing) {
            cx.instant()
        } else if let Some(came) = self.ear.came(age, delivered > 1, cx.instant(), cx.cast.timings.renewal) {
            came
        } else {
            return cx.counters.add("deliveries from before a freeze");
        };
        if delivered > 1 {
            cx.counters.add("jobs delivered again");
        }
        let id = body.job;
        let lease = Lease { ack: String::new(), since: came, confirmed: came, asking: false, delivered, seq, vouched: false };
        if let Some(known) = self.jobs.get_mut(&id) {
            cx.counters.add("jobs that came again to their holder");
            (known.job.lease, known.seq) = (lease, seq);
            return;
        }
        let Ok(spec) = JobSpec::parse(body.form, &body.body) else { return cx.wrong("a job that cannot be read") };
        let job = Job::new((*body).clone(), &spec, lease, if self.cancels.contains(&id) { Stop::Now } else { Stop::No });
        let arrival = Arrival { delivered, age_ms: cx.hub_ms().saturating_sub(stored_at), look_first_ms: 10_000 };
        let cancelled = job.stop > Stop::No;
        self.jobs.insert(id, InHand { job, seq, renewal: None });
        if must_look(&arrival) && !cx.is_broken(Mutation::NoLook) {
            cx.counters.add("jobs looked up");
            let look = Look {
                since: cx.now,
                back: None,
                hold: None,
                payee_forgot: false,
                read: false,
                heard: BTreeSet::new(),
                asked: BTreeMap::new(),
            };
            self.looks.insert(id, look);
            cx.after(3, Msg::LookRead(id));
        } else if cancelled {
            self.close_cancelled(cx, id);
        } else {
            self.make_ready(cx, &id);
        }
    }

    pub(super) fn look_read(&mut self, cx: &mut Cx<'_>, id: JobId) {
        let Some(look) = self.looks.get_mut(&id) else { return };
        if !cx.linked {
            return cx.after(500, Msg::LookRead(id));
        }
        look.back = cx.hub.back.get(&id).cloned();
        let bytes = self.question(cx, vec![Op::Look { job: id }], vec![], vec![]);
        self.asks.ask(cx, bytes, Ms::MAX, Asked::Look(id));
    }

    pub(super) fn looked(&mut self, cx: &mut Cx<'_>, id: JobId, outcome: Option<LedgerOutcome>) {
        let Some(look) = self.looks.get_mut(&id) else { return };
        match outcome {
            Some(LedgerOutcome::Done(done)) => look.hold = done.hold.map(|hold| hold.state),
            Some(LedgerOutcome::Refused { why: RefusalKind::UnknownJob, .. }) => look.hold = None,
            Some(LedgerOutcome::Refused { .. }) | None => return self.give_back(cx, &id, 5_000),
        }
        look.read = true;
        self.ask_around(cx, &id);
        self.go_on(cx, &id);
    }

    /// Asks devices whether they have the job.
    pub(super) fn ask_around(&mut self, cx: &mut Cx<'_>, id: &JobId) {
        let now = cx.now;
        let Some(look) = self.looks.get(id).filter(|look| look.read) else { return };
        let mut ask: BTreeSet<DeviceId> = self.fleet.live().map(|device| device.record.device).collect();
        if let Some(HoldState::Settled { device, .. }) = &look.hold {
            ask.insert(*device);
        }
        ask.extend(look.back.as_ref().and_then(|back| back.on));
        ask.retain(|device| !look.heard.contains(device) && look.asked.get(device).is_none_or(|at| now - at > 5_000));
        for device in ask {
            if let Some(look) = self.looks.get_mut(id) {
                look.asked.insert(device, now);
            }
            self.adopt(cx, device, *id, Some(*id));
        }
    }

    pub(super) fn adopt(&mut self, cx: &mut Cx<'_>, device: DeviceId, job: JobId, group: Option<JobId>) {
        self.control_device(cx, device, Verb::Adopt { jobs: vec![job] }, Request::Adopt { device, group });
    }

    pub(super) fn adopted(&mut self, cx: &mut Cx<'_>, device: DeviceId, group: Option<JobId>, reply: Option<ControlReply>) {
        let mut has = BTreeSet::new();
        let spoke = match reply {
            Some(ControlReply { declined: Some(_), .. }) | None => false,
            Some(reply) => {
                for held in reply.have {
                    has.insert(held.job);
                    self.take_over(cx, device, &held);
                }
                true
            }
        };
        let Some(id) = group else { return };
        let is_gone = self.fleet.get(&device).is_none_or(|found| !found.is_live());
        let Some(look) = self.looks.get_mut(&id) else { return };
        if spoke {
            look.heard.insert(device);
        }
        let payee = matches!(&look.hold, Some(HoldState::Settled { device: payee, .. }) if *payee == device);
        look.payee_forgot |= payee && !has.contains(&id) && (spoke || is_gone);
        self.go_on(cx, &id);
    }

    /// A device shows the signed assignment that it holds: same content id, same attempt.
    fn take_over(&mut self, cx: &mut Cx<'_>, device: DeviceId, held: &Held) {
        let Ok(assignment) = held.assignment.verify::<Assignment>(cx.verifier) else {
            return cx.wrong("a device shows a forged assignment");
        };
        let id = AttemptId(assignment.cid());
        let assignment = assignment.into_body();
        let (now, silence) = (cx.instant(), cx.cast.timings.silence);
        let Some(one) = self.jobs.get_mut(&held.job) else { return };
        let job = &mut one.job;
        job.show(id, &assignment, held.assignment.clone(), held.state, now, silence);
        if job.phase == Phase::Looking {
            cx.counters.add("attempts taken over");
            job.phase = Phase::Running;
            job.current = Some(id);
            let cancelled = job.stop > Stop::No;
            self.on_device.entry(device).or_default().insert(held.job);
            let back = self.looks.remove(&held.job).and_then(|look| look.back);
            if let Some(one) = self.jobs.get_mut(&held.job) {
                if let Some(back) = back {
                    one.job.recall(back);
                    one.job.left = None;
                }
                one.job.revive(&id);
                one.job.keep(assignment.resume);
            }
            if cancelled {
                self.cancel_running(cx, &held.job);
            }
        }
    }

    /// A device was heard: what waits for its word may go on.
    pub(super) fn looks_heard(&mut self, cx: &mut Cx<'_>, device: DeviceId) {
        let all: Vec<JobId> = self.looks.keys().copied().collect();
        for id in all {
            let heartbeat = self.fleet.get(&device).and_then(|known| known.heartbeat.as_ref());
            let clear = heartbeat.is_some_and(|heartbeat| {
                heartbeat.unsettled_more == 0 && !heartbeat.jobs.contains(&id) && !heartbeat.unsettled.contains(&id)
            });
            if clear {
                if let Some(look) = self.looks.get_mut(&id) {
                    look.heard.insert(device);
                }
                self.go_on(cx, &id);
            } else {
                self.ask_around(cx, &id);
            }
        }
    }

    /// Lets the job go on, once its past is clear.
    pub(super) fn go_on(&mut self, cx: &mut Cx<'_>, id: &JobId) {
        let Some(look) = self.looks.get(id).filter(|look| look.read) else { return };
        let Some(one) = self.jobs.get(id).filter(|one| one.job.phase == Phase::Looking) else {
            self.looks.remove(id);
            return;
        };
        let payee_heard = matches!(&look.hold, Some(HoldState::Settled { device, .. }) if look.heard.contains(device));
        let since = cx.cast.instant(look.since);
        let silent_ones = usize::from(!self.fleet.is_settled());
        let unheard: Vec<DeviceId> =
            self.fleet.live().map(|device| device.record.device).filter(|device| !look.heard.contains(device)).collect();
        let names = |device: &&DeviceId| {
            let known = self.fleet.get(device).filter(|known| known.heard_at().is_some_and(|at| at > since));
            known
                .and_then(|known| known.heartbeat.as_ref())
                .is_some_and(|heartbeat| heartbeat.jobs.contains(id) || heartbeat.unsettled.contains(id))
        };
        let past = Past {
            delivered: one.job.lease.delivered,
            back: one.job.vouched_back(look.back.as_ref(), cx.cast.net, cx.hub_ms()),
            hold: look.hold.clone(),
            named: unheard.iter().filter(names).copied().collect(),
            unheard: unheard.len() + silent_ones,
            young: cx.hub_ms().saturating_sub(one.job.admitted.at) < 10_000,
            payee_forgot: look.payee_forgot || payee_heard,
        };
        match next_step(&past) {
            Step::Wait | Step::TakeOver { .. } | Step::AskPayee { .. } => {}
            step @ (Step::Auction { .. } | Step::Finish { .. } | Step::Drop { .. } | Step::DropUnfunded | Step::AskAgain) => {
                self.looks.remove(id);
                self.step(cx, *id, step);
            }
        }
    }

    fn step(&mut self, cx: &mut Cx<'_>, id: JobId, step: Step) {
        match step {
            Step::Auction { known } => {
                let Some(one) = self.jobs.get_mut(&id) else { return };
                if let Some(back) = known {
                    cx.counters.add("jobs that go on by BACK");
                    one.job.recall(back);
                }
                if let Some(Left { device, attempt, .. }) = one.job.left
                    && self.seek_parts(cx, id, device, attempt)
                {
                    return;
                }
                self.go_on_alone(cx, id);
            }
            Step::Finish { device, paid, outcome, .. } => {
                cx.counters.add("jobs found paid");
                self.close_paid_before(cx, id, device, paid, outcome);
            }
            Step::Drop { reason } => {
                cx.counters.add("jobs found void");
                let (state, code) = match reason {
                    VoidReason::Cancelled => (JobState::Cancelled, Code::JobCancelled),
                    VoidReason::Failed => (JobState::Failed, Code::JobFailed),
                    VoidReason::NotPlaced | VoidReason::Expired => (JobState::Failed, Code::NothingFits),
                    VoidReason::NotAdmitted => (JobState::Failed, Code::NotAdmitted),
                };
                self.close_without_result(cx, id, state, &Problem::new(code, "its hold was void"), None);
            }
            Step::AskAgain => self.give_back(cx, &id, 5_000),
            Step::DropUnfunded => {
                cx.wrong(format!("{id:?} was in JOBS and the books do not know it"));
                self.close_without_result(cx, id, JobState::Failed, &Problem::new(Code::Refused, "unfunded"), None);
            }
            Step::Wait | Step::TakeOver { .. } | Step::AskPayee { .. } => {}
        }
    }
}
