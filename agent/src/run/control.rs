//! Control messages: assign, adopt, have, cancel, closed. Each is believed only with a signature of a scheduler of this network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Message, Subject};
use bus_schemas::assignment::{
    AssignAnswer, AssignReply, AssignRequest, Assignment, Closed, Control, ControlReply, Held as HeldJob, HeldState, Payload, Verb,
};
use bus_schemas::envelope::{Batch, encode};
use bus_schemas::event::{Checkpoint, EventKind};
use bus_schemas::job::JobSpec;
use bus_schemas::limits::CROSSING_BYTES_MAX;
use bus_schemas::offer::Decline;
use bus_schemas::{AttemptId, Cid, Form, InstanceId, JobId, Problem, Verified, strict};
use futures::future::join_all;

use super::attempts;
use super::state::{Agent, Happened, Held, Keeping, Shown, Stage};
use crate::bidding::expected_ms;
use crate::executor::{self, Reins, echo};
use crate::local::Kept;
use crate::receipts::{Draft, completed, is_inline};
use crate::work::{Admission, Task, Was};
use crate::{crash, link};

/// What one answer to `adopt` or `have` may list, so that it stays under what may cross.
const HAVE_MAX: usize = 256;

/// Receipts of jobs that ended at once.
type AtOnce = Vec<Draft>;
/// Jobs that are to be kept before they are accepted: the index of their answer, and what is kept.
type ToKeep = Vec<(usize, AttemptId, Kept)>;

impl Agent {
    pub async fn on_control(&mut self, message: Message) {
        let Some((reply, verb)) = link::control(&message) else { return self.drop_message(&message, "no genuine reply subject") };
        if verb == "assign" { self.on_assign(message, reply).await } else { self.on_verb(message, reply, &verb).await }
    }

    async fn answer(&self, reply: Subject, body: Vec<u8>) {
        if let Err(error) = self.uplink.client.publish(reply, body.into()).await {
            tracing::warn!(%error, "an answer was not sent");
        }
    }

    /// Verifies once, runs what is instant, and answers; what must wait is kept first.
    async fn on_assign(&mut self, message: Message, reply: Subject) {
        let request: Result<AssignRequest, Problem> = strict::decode(Form::Msgpack, &message.payload, CROSSING_BYTES_MAX);
        let request = match request {
            Ok(request) => request,
            Err(problem) => return self.refuse_assign(&message, reply, 1, &problem).await,
        };
        let count = request.assignments.b.len();
        let assignments = match self.trust.by_scheduler::<Assignment>(&request.assignments) {
            Ok(assignments) if request.payloads.len() == count => assignments,
            Ok(_) => {
                let problem = Problem::new(bus_schemas::Code::BadValue, "not one payload per assignment");
                return self.refuse_assign(&message, reply, count, &problem).await;
            }
            Err(problem) => return self.refuse_assign(&message, reply, count, &problem).await,
        };
        self.look_at_consent();
        if let Some(newest) = assignments.iter().map(|assignment| assignment.assigned_at).max() {
            self.uplink.time.observe(newest);
        }
        let batch = Arc::new(request.assignments);
        let (mut at_once, mut to_keep) = (Vec::with_capacity(count), ToKeep::new());
        let mut answers = Vec::with_capacity(count);
        for (index, (assignment, payload)) in assignments.into_iter().zip(request.payloads).enumerate() {
            let shown = Shown::InBatch(batch.clone(), index);
            let answer = match self.check(&assignment, &payload) {
                Ok(spec) => self.take(assignment, payload, spec, shown, &request.s, index, &mut at_once, &mut to_keep),
                Err(no) => AssignAnswer::Declined(no),
            };
            answers.push(answer);
        }
        self.totals.assigned += answers.iter().filter(|answer| matches!(answer, AssignAnswer::Accepted)).count() as u64;
        self.totals.declined += answers.iter().filter(|answer| matches!(answer, AssignAnswer::Declined(_))).count() as u64;
        match self.local.clone() {
            Some(local) if !to_keep.is_empty() => {
                let happened = self.happened.clone();
                tokio::spawn(async move {
                    let kept = join_all(to_keep.into_iter().map(|(index, attempt, kept)| {
                        let local = &local;
                        async move { (index, attempt, local.keep(&attempt, &kept).await) }
                    }));
                    let _ = happened.send(Happened::Kept(Box::new(Keeping { reply, answers, kept: kept.await })));
                });
            }
            // Without a store of its own a device accepts on its word; a restart shows in its heartbeats.
            Some(_) | None => {
                to_keep.iter().for_each(|(_, attempt, _)| self.work.stored(attempt));
                self.answer(reply, encode(&AssignReply { answers })).await;
                self.accepted().await;
            }
        }
        self.send_receipts(&request.s, at_once);
    }

    async fn refuse_assign(&mut self, message: &Message, reply: Subject, count: usize, problem: &Problem) {
        self.drop_message(message, &problem.to_string());
        let no = AssignAnswer::Declined(Decline::Invalid(problem.to_string()));
        self.answer(reply, encode(&AssignReply { answers: vec![no; count.max(1)] })).await;
    }

    /// Whether an assignment is for us, in time, and about the body that came with it.
    fn check(&self, assignment: &Assignment, payload: &Payload) -> Result<JobSpec, Decline> {
        let invalid = |what: &str| Decline::Invalid(what.to_owned());
        if assignment.net != self.trust.net {
            return Err(invalid("it is for another network"));
        }
        if assignment.device != self.trust.device {
            return Err(invalid("it is for another device"));
        }
        if assignment.exp < self.uplink.time.now_ms() {
            return Err(Decline::Expired);
        }
        if Cid::of(&payload.body) != assignment.payload {
            return Err(invalid("the body is not the one that was assigned"));
        }
        if let Some(why) = self.refuses() {
            return Err(why);
        }
        let spec = JobSpec::parse(payload.form, &payload.body).map_err(|problem| invalid(&problem.to_string()))?;
        self.consents(&spec.kind, assignment.member, spec.data_class)?;
        if self.kinds.contains(&spec.kind) { Ok(spec) } else { Err(Decline::KindNotOffered) }
    }

    /// The queue's view of a job.
    pub fn task(&self, assignment: &Assignment, attempt: AttemptId, spec: &JobSpec) -> Task {
        Task {
            job: assignment.job,
            attempt,
            number: assignment.attempt,
            class: spec.priority,
            needs: spec.required_resources,
            expected_ms: expected_ms(Checkpoint::left(assignment.resume, spec.units()), self.per_unit_us(&spec.kind)),
            instant: spec.kind == echo::KIND,
        }
    }

    #[allow(clippy::too_many_arguments)] // One step of `on_assign`.
    fn take(
        &mut self,
        assignment: Verified<Assignment>,
        payload: Payload,
        spec: JobSpec,
        shown: Shown,
        to: &InstanceId,
        index: usize,
        at_once: &mut AtOnce,
        to_keep: &mut ToKeep,
    ) -> AssignAnswer {
        let attempt = AttemptId(assignment.cid());
        self.tier = assignment.tier;
        let task = self.task(&assignment, attempt, &spec);
        match self.work.admit(task) {
            Admission::Decline(no) => AssignAnswer::Declined(no),
            Admission::Known(state) => {
                self.redirect(&attempt, to);
                match state {
                    HeldState::Waiting | HeldState::Running => AssignAnswer::Running,
                    HeldState::Done => AssignAnswer::Done,
                }
            }
            Admission::Run => {
                let result = echo::result(spec.text.as_ref().map_or("", |text| text.as_slice().first().map_or("", String::as_str)));
                let inline = is_inline(&result);
                self.hold(attempt, assignment.into_body(), shown, to, None, if inline { Stage::Waiting } else { Stage::Storing });
                if inline {
                    let outcome = completed(&result);
                    at_once.extend(self.end(&attempt, outcome, Some(result.into())));
                } else {
                    if let Some(held) = self.held.get_mut(&attempt) {
                        held.started = Some(Instant::now());
                        held.stages = executor::stages(echo::KIND, false);
                    }
                    let cid = Cid::of(&result);
                    self.upload(attempt, result, cid);
                }
                AssignAnswer::Accepted
            }
            Admission::Queue { dropped } => {
                if let Some(dropped) = dropped {
                    self.dropped(&dropped, attempts::GAVE_WAY);
                }
                if let Some(proof) = shown.proof() {
                    to_keep.push((index, attempt, Kept { s: to.clone(), assignment: proof, payload, resume: None }));
                }
                self.hold(attempt, assignment.into_body(), shown, to, Some(spec), Stage::Waiting);
                AssignAnswer::Accepted
            }
        }
    }

    /// Remembers an attempt.
    pub fn hold(&mut self, attempt: AttemptId, assignment: Assignment, shown: Shown, to: &InstanceId, spec: Option<JobSpec>, stage: Stage) {
        let held = Held {
            resume: assignment.resume,
            assignment,
            shown,
            to: to.clone(),
            asks: spec.as_ref().map(|spec| (spec.kind.clone(), spec.data_class)),
            spec,
            stage,
            reins: Reins::default(),
            arrived: Instant::now(),
            started: None,
            asleep_before: Duration::ZERO,
            took: Duration::ZERO,
            kept: false,
            told: None,
            stages: vec![],
            parts: None,
            newest: None,
        };
        self.held.insert(attempt, held);
    }

    /// WORK has the jobs, so they are accepted; one that it could not keep is declined.
    pub async fn on_kept(&mut self, keeping: Box<Keeping>) {
        crash::point("after_kept");
        let Keeping { reply, mut answers, kept } = *keeping;
        for (index, attempt, kept) in kept {
            match kept {
                Ok(()) if self.work.look(&attempt) == Was::Waiting => {
                    if let Some(held) = self.held.get_mut(&attempt) {
                        held.kept = true;
                    }
                    self.work.stored(&attempt);
                }
                // It was dropped, cancelled or closed meanwhile, and after a restart it must not begin.
                Ok(()) => self.forget_kept(attempt),
                Err(problem) => {
                    tracing::error!(%problem, %attempt, "an accepted job could not be kept");
                    self.store.failed = true;
                    self.work.close(&attempt);
                    self.held.remove(&attempt);
                    if let Some(answer) = answers.get_mut(index) {
                        *answer = AssignAnswer::Declined(Decline::Resources(problem.detail));
                    }
                }
            }
        }
        self.answer(reply, encode(&AssignReply { answers })).await;
        self.accepted().await;
    }

    /// Takes a job out of WORK.
    fn forget_kept(&self, attempt: AttemptId) {
        let Some(local) = self.local.clone() else { return };
        tokio::spawn(async move { local.done(&attempt).await });
    }

    async fn accepted(&self) {
        if crash::is_set("after_accept") {
            let _ = self.uplink.client.flush().await;
            crash::point("after_accept");
        }
    }

    async fn on_verb(&mut self, message: Message, reply: Subject, verb: &str) {
        let read = Batch::decode(&message.payload).and_then(|batch| self.trust.by_scheduler::<Control>(&batch));
        let control = match read.map(|controls| controls.into_iter().next()) {
            Ok(Some(control)) => control.into_body(),
            Ok(None) => return,
            Err(problem) => {
                self.drop_message(&message, &problem.to_string());
                let declined = Some(Decline::Invalid(problem.to_string()));
                return self.answer(reply, encode(&ControlReply { have: vec![], declined })).await;
            }
        };
        self.uplink.time.observe(control.at);
        let declined = if control.net != self.trust.net || control.device != self.trust.device {
            Some(Decline::Invalid("it is for another device".into()))
        } else if control.verb.token() != verb {
            Some(Decline::Invalid(format!("its subject says {verb}, its body {}", control.verb.token())))
        } else if control.exp < self.uplink.time.now_ms() {
            Some(Decline::Expired)
        } else {
            None
        };
        if let Some(no) = declined {
            tracing::warn!(subject = %message.subject, %no, "refused");
            return self.answer(reply, encode(&ControlReply { have: vec![], declined: Some(no) })).await;
        }
        let have = match control.verb {
            Verb::Adopt { jobs } => self.adopt(&jobs, &control.s),
            Verb::Have => self.have(None),
            Verb::Cancel { attempts } => {
                attempts.iter().for_each(|attempt| self.cancel(attempt));
                vec![]
            }
            Verb::Closed { attempts } => {
                attempts.iter().for_each(|closed| self.close(closed));
                vec![]
            }
        };
        self.answer(reply, encode(&ControlReply { have, declined: None })).await;
    }

    fn have(&self, jobs: Option<&[JobId]>) -> Vec<HeldJob> {
        let here = self.work.held(jobs).into_iter().take(HAVE_MAX);
        here.filter_map(|(job, attempt, state)| Some(HeldJob { job, assignment: self.held.get(&attempt)?.shown.proof()?, state })).collect()
    }

    fn adopt(&mut self, jobs: &[JobId], to: &InstanceId) -> Vec<HeldJob> {
        let have = self.have(Some(jobs));
        for (_, attempt, _) in self.work.held(Some(jobs)) {
            self.redirect(&attempt, to);
            // Nobody may have heard of it while the job was in nobody's hand.
            if let Some(newest) = self.held.get(&attempt).and_then(|held| held.newest) {
                self.event(&attempt, EventKind::Checkpoint(newest));
            }
        }
        have
    }

    /// The attempt's receipt goes to this scheduler from now on; one that is written already is sent to it again.
    fn redirect(&mut self, attempt: &AttemptId, to: &InstanceId) {
        if let Some(held) = self.held.get_mut(attempt) {
            held.to = to.clone();
        }
        if let Some(number) = self.unsettled.of(attempt) {
            self.unsettled.redirect(number, to);
            self.send_message(number, false);
        }
    }

    fn close(&mut self, closed: &Closed) {
        let attempt = &closed.attempt;
        let was = self.work.close(attempt);
        self.unsettled.close(attempt);
        let Some(held) = self.held.remove(attempt) else { return };
        crash::point("after_closed");
        if was == Was::Running {
            held.reins.stop();
        }
        if held.kept {
            self.forget_kept(*attempt);
        }
        match (closed.paid_mmana, &closed.not_paid) {
            (Some(paid), _) => {
                self.totals.settled += 1;
                self.totals.earned_mmana = self.totals.earned_mmana.saturating_add(paid.get());
            }
            (None, why) => {
                self.totals.not_paid += 1;
                tracing::info!(job = %held.assignment.job, %attempt, why, "not paid");
            }
        }
    }
}
