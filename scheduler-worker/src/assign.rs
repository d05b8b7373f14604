//! Signs assignments and sends them to the winners; takes their answers.
//!
//! A definite no lets the next bid of the same auction win. A missing answer is no refusal: the same device is asked again
//! with the same bytes until it counts as silent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::ask::AskError;
use bus_schemas::assignment::{AssignAnswer, AssignReply, AssignRequest, Assignment, Payload};
use bus_schemas::job::JobState;
use bus_schemas::limits::{STEP_BYTES_TARGET, STEP_MAX};
use bus_schemas::offer::{Decline, Quote};
use bus_schemas::{AttemptId, Cid, DeviceId, Form, JobId, subject};
use bytes::Bytes;

use crate::crash;
use crate::job::{Attempt, Evidence, Phase, Stop};
use crate::measure;
use crate::sweep::assignment_lasts;
use crate::world::{Done, World};

/// One message of assignments, kept so that it can be sent again unchanged.
#[derive(Clone)]
pub struct Sent {
    pub device: DeviceId,
    pub attempts: Vec<(JobId, AttemptId)>,
    request: Bytes,
}
/// What a device answered to it, or why not.
pub struct Answered {
    sent: Sent,
    answer: Result<AssignReply, AskError>,
}

/// What an assignment and its payload weigh beside the body.
const OVERHEAD: usize = 600;

impl World {
    /// Assigns jobs to the devices that won them.
    pub fn assign(&mut self, wins: BTreeMap<DeviceId, Vec<(JobId, Quote)>>, now: Instant) {
        for (device, jobs) in wins {
            let mut batch = Vec::new();
            let mut bytes = 0;
            for (id, quote) in jobs {
                let weight = OVERHEAD + self.jobs.get(&id).map_or(0, |job| job.admitted.body.len());
                if !batch.is_empty() && (batch.len() == STEP_MAX || bytes + weight > STEP_BYTES_TARGET) {
                    self.send_assignments(device, std::mem::take(&mut batch), now);
                    bytes = 0;
                }
                bytes += weight;
                batch.push((id, quote));
            }
            if !batch.is_empty() {
                self.send_assignments(device, batch, now);
            }
        }
    }

    fn send_assignments(&mut self, device: DeviceId, jobs: Vec<(JobId, Quote)>, now: Instant) {
        let at = self.hub_ms();
        let tier = self.fleet.get(&device).map_or(0, |found| found.record.tier);
        let lasts = assignment_lasts(&self.config.timings);
        let exp = at + u64::try_from(lasts.as_millis()).unwrap_or(0);
        let mut assignments = Vec::with_capacity(jobs.len());
        let mut payloads = Vec::with_capacity(jobs.len());
        let mut ids = Vec::with_capacity(jobs.len());
        for (id, quote) in jobs {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.last_number += 1;
            assignments.push(Assignment {
                net: self.net,
                job: id,
                attempt: job.last_number,
                device,
                member: job.admitted.member,
                assigned_at: at,
                exp,
                price_mmana: quote.price_mmana,
                tier,
                timeout_ms: job.timeout_ms,
                payload: job.payload,
                resume: job.kept,
            });
            payloads.push(Payload { form: job.admitted.form, body: job.admitted.body.clone() });
            ids.push((id, quote));
        }
        let batch = Arc::new(self.config.signer.batch(&assignments));
        let mut attempts = Vec::with_capacity(ids.len());
        for (((id, quote), assignment), proof) in ids.into_iter().zip(assignments).zip(batch.proofs()) {
            let attempt = AttemptId(Cid::of(&proof.b));
            let start_in = Duration::from_millis(quote.start_in_ms.min(assignment.timeout_ms));
            let start_by = now + start_in + self.config.timings.silence;
            if let Some(job) = self.jobs.get_mut(&id) {
                job.phase = Phase::Assigning;
                job.current = Some(attempt);
                let evidence = Evidence { proof: Arc::new(proof), batch: Some(Arc::clone(&batch)) };
                job.attempts.push(Attempt::new(attempt, &assignment, evidence, now, start_by));
            }
            self.put_on_device(&id, device);
            attempts.push((id, attempt));
        }
        crash::at("before_assign");
        let request = AssignRequest { s: self.s.clone(), assignments: (*batch).clone(), payloads };
        self.ask_to_take(Sent { device, attempts, request: bus_schemas::envelope::encode(&request).into() });
    }

    fn ask_to_take(&self, sent: Sent) {
        let (bus, timeout) = (self.bus.clone(), self.config.timings.heartbeat);
        self.spawn(async move {
            let answer = bus.ask_bytes(subject::ctl(&sent.device, "assign"), sent.request.clone(), timeout).await;
            let answer = answer.and_then(|bytes| {
                bus_schemas::strict::decode(Form::Msgpack, &bytes, 1 << 20).map_err(|problem| AskError::Unreadable(problem.to_string()))
            });
            Done::Answered(Answered { sent, answer })
        });
    }

    /// What came of one message of assignments.
    pub fn answered(&mut self, answered: Answered, now: Instant) {
        let Answered { sent, answer } = answered;
        let said = answer.is_ok();
        if said {
            self.fleet.heard(&sent.device, now);
        }
        let answers = match answer {
            Ok(reply) if reply.answers.len() == sent.attempts.len() => reply.answers,
            Ok(reply) => {
                let what = format!("{} answers to {} assignments", reply.answers.len(), sent.attempts.len());
                vec![AssignAnswer::Declined(Decline::Invalid(what)); sent.attempts.len()]
            }
            Err(AskError::Nobody(_)) => {
                let at = self.hub_ms();
                self.fleet.unreachable(&sent.device, at);
                vec![AssignAnswer::Declined(Decline::Unreachable); sent.attempts.len()]
            }
            Err(AskError::Unreadable(what)) => vec![AssignAnswer::Declined(Decline::Invalid(what)); sent.attempts.len()],
            // A missing answer is no refusal: the device may have it. Silence ends it (see `sweep`).
            Err(error @ (AskError::TimedOut | AskError::Other(_))) => {
                tracing::debug!(device = %sent.device, %error, "assigning again");
                if sent.attempts.iter().any(|(job, attempt)| self.is_awaited(job, attempt)) {
                    self.ask_to_take(sent);
                }
                return;
            }
        };
        let mut wins = BTreeMap::<DeviceId, Vec<_>>::new();
        let at = self.hub_ms();
        for ((id, attempt), answer) in sent.attempts.into_iter().zip(answers) {
            if !self.is_awaited(&id, &attempt) {
                continue;
            }
            match answer {
                AssignAnswer::Accepted | AssignAnswer::Running | AssignAnswer::Done => self.accepted(&id, now),
                AssignAnswer::Declined(decline) => {
                    // Said in words, not read out of a missing answer: what comes of it later does not count.
                    if said && let Some(job) = self.jobs.get_mut(&id) {
                        job.declined.push(attempt);
                    }
                    if let Some(next) = self.declined(&id, &decline, at, now) {
                        wins.entry(next.0).or_default().push((id, next.1));
                    }
                }
            }
        }
        self.need_tick(now);
        crash::at("after_assign");
        self.assign(wins, now);
    }

    fn is_awaited(&self, job: &JobId, attempt: &AttemptId) -> bool {
        self.jobs.get(job).is_some_and(|job| job.phase == Phase::Assigning && job.current == Some(*attempt))
    }

    /// The device has the current attempt.
    pub fn accepted(&mut self, id: &JobId, now: Instant) {
        let at = self.hub_ms();
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.phase = Phase::Running;
        let since = Duration::from_millis(at.saturating_sub(job.admitted.submitted_at));
        let Some(attempt) = job.current_mut() else { return };
        attempt.accepted = Some(now);
        let (attempt, device, assigned_at, number) = (attempt.id, attempt.device, attempt.assigned_at, attempt.number);
        job.note(JobState::Assigned, assigned_at, format!("attempt {number}"), device.to_string());
        measure::assigned(since);
        self.quiet.push_back((now, *id, attempt));
        if self.jobs.get(id).is_some_and(|job| job.stop == Stop::Now) {
            self.cancel_running(id, now);
        }
    }

    /// A definite no. Gives the next bid, if there is one; otherwise the job goes on by itself.
    fn declined(&mut self, id: &JobId, decline: &Decline, at: u64, now: Instant) -> Option<(DeviceId, Quote)> {
        let device = self.jobs.get(id).and_then(|job| job.current().map(|attempt| attempt.device))?;
        self.off_device(id);
        let job = self.jobs.get_mut(id)?;
        // The attempt never began there: it is no evidence of anything.
        job.attempts.pop();
        if *decline == Decline::QueueFull
            && let Some(found) = self.fleet.get_mut(&device)
        {
            found.full_until = Some(now + crate::bidding::FULL_FOR);
            self.open_at = Some(now + crate::bidding::FULL_FOR);
        }
        let name = self.fleet.name(&device);
        let job = self.jobs.get_mut(id)?;
        job.note(JobState::BiddingClosed, at, format!("{name} declined: {decline}"), device.to_string());
        if job.stop > Stop::No {
            self.close_cancelled(*id);
            return None;
        }
        while let Some((next, quote)) = job.bids_left.pop_front() {
            if self.fleet.get(&next).is_some_and(|found| found.view.away.is_none()) {
                if let Some(decision) = &mut job.decision {
                    decision.winner = Some(next);
                    decision.why = format!("{name} won but declined ({decline}); {} was next", self.fleet.name(&next));
                }
                return Some((next, quote));
            }
        }
        // Nobody is left of this auction: another one, a little later so that a refusing fleet is not asked in a loop.
        job.phase = Phase::BackOff { until: now + crate::bidding::FULL_FOR };
        self.back_off_by(now + crate::bidding::FULL_FOR);
        None
    }

    /// A back-off ends at this time.
    pub fn back_off_by(&mut self, until: Instant) {
        self.back_off_at = Some(self.back_off_at.map_or(until, |at| at.min(until)));
    }
}
