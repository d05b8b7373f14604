//! What people and programs are shown of a job. Pure: the rows, what is known of this moment, and the clock come in.

use std::collections::BTreeMap;

use bus_schemas::api::{BlobRef, Explanation, JobView, LeaseView, ReceiptView, ResultView, Submitted};
use bus_schemas::envelope::{Proof, form_of};
use bus_schemas::event::{Checkpoint, Progress};
use bus_schemas::history::{CompletedEnd, Decision};
use bus_schemas::holding::{Holding, HoldingPhase};
use bus_schemas::id::{DeviceId, InstanceId, JobId, MemberId};
use bus_schemas::job::JobState;
use bus_schemas::limits::Timings;
use bus_schemas::receipt::{Outcome, Receipt};
use bus_schemas::{Code, MilliMana, Problem, UnixMs, limits, strict};
use data_encoding::BASE64URL_NOPAD;
use serde_json::value::RawValue;

use crate::attempts::{self, attempts, transitions};
use crate::awaited;
use crate::history::Known;
use crate::live::Running;
use crate::next::{self, Held, Now, On};
use crate::world::rfc3339;

/// Decisions that an explanation carries; the newest ones.
const DECISIONS_SHOWN: usize = 20;
/// Devices that one decision carries.
const DEVICES_SHOWN: usize = 500;

/// How a scheduler signs what it changes.
const SCHEDULER: &str = "scheduler ";

/// What this moment adds to the rows.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// A device told of it.
    pub running: Option<Running>,
    /// A device's heartbeat lists it.
    pub holder: Option<DeviceId>,
    /// For how long nothing was heard of the device that said so.
    pub silent_ms: Option<u64>,
    /// The same, where a heartbeat of it is missing.
    pub quiet_ms: Option<u64>,
    /// For how long nothing was heard of the scheduler that had it last, where it was heard at all.
    pub holder_silent_ms: Option<u64>,
    /// Who has its message in hand, where that was asked.
    pub held: Held,
    /// Since when somebody wants it to end, where that was looked up.
    pub cancelled_at: Option<UnixMs>,
    /// Why it should have moved on by now, as the sweeper found.
    pub overdue: Option<String>,
    /// The job that tries this one again.
    pub retried_as: Option<JobId>,
    /// What people call the devices that it is about.
    pub names: BTreeMap<DeviceId, String>,
}
impl Moment {
    /// The device that has it now: its holder knows best, then the device's own word.
    pub fn device(&self) -> Option<DeviceId> {
        match &self.held {
            Held::By(holding) => holding.current.as_ref().map(|current| current.device),
            Held::Nobody | Held::Silent(_) | Held::NoScheduler { .. } | Held::Unknown => self.heard_of(),
        }
    }
    /// The device that said so itself.
    pub fn heard_of(&self) -> Option<DeviceId> {
        self.running.as_ref().map(|running| running.device).or(self.holder)
    }
}

/// The state of a job at this moment.
pub fn state(known: &Known, moment: &Moment) -> JobState {
    let stored = known.state.unwrap_or(JobState::Submitted);
    if stored.is_final() {
        return stored;
    }
    let last = known.transitions.iter().max_by_key(|change| change.at).map(|change| change.to);
    let told = last.filter(|last| matches!(last, JobState::Assigned | JobState::Executing));
    match by_its_holder(moment) {
        Some(state) => state,
        None if moment.running.is_some() => JobState::Executing,
        // A heartbeat lists what waits and what runs; that it began may have been told to another gateway.
        None if moment.holder.is_some() => told.unwrap_or(JobState::Assigned),
        // Its device has not been heard of lately, and nobody said that it has lost the job.
        None => told.unwrap_or(stored),
    }
}

/// Where its holder says that it stands; nothing where that is about to be written down.
fn by_its_holder(moment: &Moment) -> Option<JobState> {
    let Held::By(holding) = &moment.held else { return None };
    match (holding.phase, &holding.current) {
        (HoldingPhase::Ready | HoldingPhase::BackOff | HoldingPhase::Waiting, _) => Some(JobState::Submitted),
        (HoldingPhase::Bidding, _) => Some(JobState::BiddingOpen),
        (HoldingPhase::Assigning, _) => Some(JobState::BiddingClosed),
        (HoldingPhase::Running, Some(current)) => {
            let told = moment.running.as_ref().is_some_and(|running| running.attempt == current.attempt);
            Some(if told || current.started_at.is_some() { JobState::Executing } else { JobState::Assigned })
        }
        (HoldingPhase::Running | HoldingPhase::Looking | HoldingPhase::Closing, _) => None,
    }
}

/// Why it waits, where it does.
fn waiting(known: &Known, state: JobState) -> Option<String> {
    let last = newest(&known.decisions)?;
    (state == JobState::Submitted && last.winner.is_none()).then(|| last.why.clone())
}
fn newest(decisions: &[Decision]) -> Option<&Decision> {
    decisions.iter().max_by_key(|decision| decision.at)
}

pub fn job(member: MemberId, id: JobId, known: &Known, moment: &Moment) -> JobView {
    let state = state(known, moment);
    let at_work = moment.device().filter(|_| !state.is_final());
    let device = known.device.or(at_work);
    // What ended without a charge cost nothing; what never began has no cost.
    let nothing = (state.is_final() && state != JobState::Rejected).then_some(MilliMana::ZERO);
    let paid = known.paid.or(nothing);
    JobView {
        id,
        short: id.short(),
        state,
        kind: known.kind.clone(),
        member,
        device,
        device_name: device.and_then(|device| moment.names.get(&device).cloned()),
        attempts: known.attempts + u32::from(at_work.is_some()),
        key: known.key.clone(),
        created_at: rfc3339(known.created_at),
        finished_at: known.finished_at.filter(|_| state.is_final()).map(rfc3339),
        cost: paid.map(|paid| paid.to_string()),
        cost_mmana: paid,
        hold_mmana: known.hold,
        progress: moment.running.as_ref().filter(|_| !state.is_final()).and_then(|running| progress(running, moment)),
        device_silent_ms: moment.quiet_ms.filter(|_| !state.is_final()),
        is_long_running: moment.running.is_some() && !state.is_final(),
        checkpoint: kept(moment).filter(|_| !state.is_final()),
        cancelling: moment.cancelled_at.is_some() && !state.is_final(),
        overdue: moment.overdue.clone().filter(|_| !state.is_final()),
        waiting: waiting(known, state),
        error: known.problem.as_ref().map(Problem::body),
        transitions: transitions(known, &moment.held),
        retry_of: None,
        retried_as: moment.retried_as,
    }
}

pub fn submitted(id: JobId, key: &str, state: JobState, waiting: Option<String>) -> Submitted {
    Submitted { id, short: id.short(), state, waiting, key: key.to_owned() }
}

/// How far it is kept, by the word of its holder.
fn kept(moment: &Moment) -> Option<Checkpoint> {
    match &moment.held {
        Held::By(holding) => holding.kept,
        Held::Nobody | Held::Silent(_) | Held::NoScheduler { .. } | Held::Unknown => None,
    }
}

/// Who has it in hand.
fn lease(held: &Held) -> Option<LeaseView> {
    let Held::By(holding) = held else { return None };
    Some(LeaseView {
        scheduler: holding.s.to_string(),
        since: rfc3339(holding.since),
        renewed_at: rfc3339(holding.renewed_at),
        renews_at: rfc3339(holding.renews_at),
        ends_at: rfc3339(holding.ends_at),
        phase: holding.phase,
    })
}

/// What its device told last; how much is left of it is not known of one that is silent.
fn progress(running: &Running, moment: &Moment) -> Option<Progress> {
    let told = running.progress.clone()?;
    Some(Progress { eta_ms: told.eta_ms.filter(|_| moment.quiet_ms.is_none()), ..told })
}

/// Who had it in hand last, as its history says: `scheduler s1`.
fn last_holder(known: &Known) -> Option<&str> {
    let by_schedulers = known.transitions.iter().filter(|change| change.actor.starts_with(SCHEDULER));
    by_schedulers.max_by_key(|change| change.at).map(|change| change.actor.as_str())
}
/// The same by its name alone.
pub fn last_scheduler(known: &Known) -> Option<InstanceId> {
    last_holder(known)?.strip_prefix(SCHEDULER)?.parse().ok()
}

/// What happens next, and when.
fn what_is_next(id: JobId, known: &Known, moment: &Moment, state: JobState, now: UnixMs, timings: &Timings) -> Vec<String> {
    if state.is_final() {
        return next::ended(state, id, moment.retried_as);
    }
    let on = moment.heard_of().map(|device| On { name: name(known, moment, device), silent_ms: moment.silent_ms });
    let awaits_hold = newest(&known.decisions).is_some_and(|decision| decision.why == awaited::WHY);
    let now = Now {
        state,
        held: &moment.held,
        at: now,
        gives_up_at: gives_up_at(known),
        cancelled_at: moment.cancelled_at,
        awaits_hold,
        last_holder: last_holder(known).map(|actor| (actor, moment.holder_silent_ms)),
        on: on.as_ref(),
    };
    next::next(&now, timings)
}

pub fn explanation(id: JobId, known: &Known, moment: &Moment, now: UnixMs, timings: &Timings) -> Explanation {
    let state = state(known, moment);
    let mut decisions = known.decisions.clone();
    decisions.sort_by_key(|decision| std::cmp::Reverse(decision.at));
    // One that lasted is told while it goes on and with its end.
    decisions.dedup();
    decisions.truncate(DECISIONS_SHOWN);
    for decision in &mut decisions {
        decision.considered.truncate(DEVICES_SHOWN);
    }
    let mut attempts = attempts(known, moment);
    attempts.iter_mut().for_each(|attempt| attempt.device_name = known_name(known, moment, attempt.device));
    let waits = !state.is_final();
    let cancelling = waits && moment.cancelled_at.is_some();
    let summary = summary(id, known, moment, state, timings);
    Explanation {
        id,
        short: id.short(),
        state,
        summary: if cancelling { format!("is being cancelled: {summary}") } else { summary },
        attempts,
        next: what_is_next(id, known, moment, state, now, timings),
        lease: lease(&moment.held).filter(|_| waits),
        cancelling,
        overdue: moment.overdue.clone().filter(|_| waits),
        next_look_at: known.next_look_at.filter(|_| waits).map(rfc3339),
        gives_up_at: gives_up_at(known).filter(|_| waits).map(rfc3339),
        transitions: transitions(known, &moment.held),
        devices: decisions.first().map(|decision| decision.considered.clone()).unwrap_or_default(),
        decisions,
    }
}

fn gives_up_at(known: &Known) -> Option<UnixMs> {
    let own = || Some(known.created_at + known.spec()?.max_execution_wait_ms());
    known.gives_up_at.or_else(own)
}

fn summary(id: JobId, known: &Known, moment: &Moment, state: JobState, timings: &Timings) -> String {
    let why = newest(&known.decisions).map_or_else(String::new, |decision| format!(": {}", decision.why));
    let reason = known.problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
    let on = known.device.map_or_else(String::new, |device| format!(" on {}", name(known, moment, device)));
    match state {
        JobState::Completed if attempts::is_unwritten(known) => format!(
            "completed{on}; whoever had it in hand ended before it could write down how: its receipt (mesh job receipt {}) and the books tell \
             the rest",
            id.short()
        ),
        JobState::Completed => {
            let attempt = match settled_attempt(known) {
                0 | 1 => String::new(),
                n => format!(" at attempt {n}"),
            };
            format!("completed{on}{attempt}{}", known.device.map_or(why, |device| won(known, device)))
        }
        JobState::Failed => format!("failed{on} after {} of {} attempts{reason}", attempts::counted(known), limits::ATTEMPTS_MAX),
        JobState::Cancelled => format!("cancelled{on}{}", known.problem.as_ref().map_or_else(String::new, cancelled)),
        JobState::Rejected => format!("never became a job{reason}"),
        JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed | JobState::Assigned | JobState::Executing => {
            match &moment.held {
                Held::By(holding) => headline(known, moment, holding, state),
                Held::Nobody | Held::Silent(_) | Held::NoScheduler { .. } | Held::Unknown => as_last_told(known, moment, state, timings),
            }
        }
    }
}

/// Where it stands by the word of its holder, who says as well what comes next: so the two cannot contradict each other.
fn headline(known: &Known, moment: &Moment, holding: &Holding, state: JobState) -> String {
    let last = newest(&known.decisions);
    let since = || format!("waits since {}", rfc3339(known.created_at));
    match (holding.phase, &holding.current) {
        (HoldingPhase::Looking, _) => format!("scheduler {} has just taken it up", holding.s),
        (HoldingPhase::Ready, _) => format!("{} for a device", since()),
        (HoldingPhase::Waiting, _) => match last.filter(|decision| decision.winner.is_none()) {
            Some(decision) => format!("{}: {}", since(), decision.why),
            None => format!("{} for a device", since()),
        },
        (HoldingPhase::Bidding, _) => "is offered to devices".to_owned(),
        (HoldingPhase::BackOff, _) => match known.failed.iter().max_by_key(|failed| failed.number) {
            Some(failed) => {
                let name = name(known, moment, failed.device);
                format!("waits for its next attempt: attempt {} on {name} ended: {} ({})", failed.number, failed.class, failed.message)
            }
            None => "waits for its next attempt".to_owned(),
        },
        (HoldingPhase::Assigning, Some(on)) => format!("goes to {}{}", on.name, won(known, on.device)),
        (HoldingPhase::Running, Some(on)) if next::is_silent(on) => {
            let did = if state == JobState::Executing { "ran" } else { "waited in the queue" };
            format!("{did} on {} when that was last heard of{}", on.name, won(known, on.device))
        }
        (HoldingPhase::Running, Some(on)) if state == JobState::Executing => format!("runs on {}{}", on.name, won(known, on.device)),
        (HoldingPhase::Running, Some(on)) => format!("waits in the queue on {}{}", on.name, won(known, on.device)),
        (HoldingPhase::Assigning | HoldingPhase::Running, None) => "a device has it".to_owned(),
        (HoldingPhase::Closing, _) => "has ended, and its end is being written down".to_owned(),
    }
}

/// Where it stands by what was told last, while no scheduler says so.
fn as_last_told(known: &Known, moment: &Moment, state: JobState, timings: &Timings) -> String {
    let (last, on) = (newest(&known.decisions), moment.heard_of());
    let sure = match on {
        Some(_) => !next::is_quiet(moment.silent_ms.unwrap_or(0), timings),
        None => moment.held == Held::Unknown,
    };
    let (verb, told) = match (state == JobState::Executing, sure) {
        (true, true) => ("runs", ""),
        (true, false) => ("ran", " when it was last told of"),
        (false, true) => ("waits in the queue", ""),
        (false, false) => ("waited in the queue", " when it was last told of"),
    };
    match state {
        JobState::Executing | JobState::Assigned => match on.or(last.and_then(|last| last.winner)) {
            Some(device) => format!("{verb} on {}{told}{}", name(known, moment, device), won(known, device)),
            None => format!("{verb}{told}"),
        },
        JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed => match last.filter(|decision| decision.winner.is_none()) {
            Some(decision) => format!("waits since {}: {}", rfc3339(known.created_at), decision.why),
            None => format!("waits since {}", rfc3339(known.created_at)),
        },
        JobState::Completed | JobState::Failed | JobState::Cancelled | JobState::Rejected => state.to_string(),
    }
}

/// Why it was cancelled, after the word itself.
fn cancelled(problem: &Problem) -> String {
    match problem.detail.strip_prefix("cancelled") {
        Some(rest) if problem.code == Code::JobCancelled => rest.to_owned(),
        None if problem.code == Code::JobCancelled => format!(": {}", problem.detail),
        Some(_) | None => format!(": {problem}"),
    }
}

/// What people call a device; its id where that is not known here.
fn name(known: &Known, moment: &Moment, device: DeviceId) -> String {
    known_name(known, moment, device).unwrap_or_else(|| device.to_string())
}
fn known_name(known: &Known, moment: &Moment, device: DeviceId) -> Option<String> {
    let mut considered = known.decisions.iter().flat_map(|decision| &decision.considered);
    let told = considered.find(|one| one.device == device).map(|one| &one.name);
    moment.names.get(&device).or(told).cloned()
}

/// Why this device got the job; nothing where the auction that it won is not known (yet).
fn won(known: &Known, device: DeviceId) -> String {
    let its = known.decisions.iter().filter(|decision| decision.winner == Some(device));
    its.max_by_key(|decision| decision.at).map_or_else(String::new, |decision| format!(": {}", decision.why))
}

/// The number of the attempt that was paid: an earlier one, where its device came back with the result.
fn settled_attempt(known: &Known) -> u32 {
    let paid = known.done.as_ref().and_then(|done| known.failed.iter().find(|failed| failed.attempt == done.attempt));
    paid.map_or(known.attempts, |failed| failed.number)
}

/// The receipt of a job that was paid, completed or cancelled on the way, with what it takes to check it again.
///
/// # Errors
/// [`Code::Internal`] where what was stored cannot be read.
pub fn receipt(id: JobId, done: &CompletedEnd) -> Result<ReceiptView, Problem> {
    let body = receipt_body(&done.receipt_proof)?;
    Ok(ReceiptView {
        id: done.receipt,
        job: id,
        attempt: done.attempt,
        device: body.device,
        did: done.receipt_proof.k,
        body,
        proof: BASE64URL_NOPAD.encode(&done.receipt_proof.encode()),
        assignment: done.assignment_proof.as_ref().map(|proof| BASE64URL_NOPAD.encode(&proof.encode())),
    })
}
fn receipt_body(proof: &Proof) -> Result<Receipt, Problem> {
    let form = form_of::<Receipt>(&proof.t)?;
    strict::decode(form, &proof.b, limits::BODY_BYTES_MAX).map_err(|problem| Problem::new(Code::Internal, problem.to_string()))
}

/// The result of a job that has one; and where its bytes are, if they are a blob.
///
/// # Errors
/// Why there is none (yet): it has not finished, or how it ended.
pub fn result(id: JobId, known: &Known, moment: &Moment) -> Result<(ResultView, Option<BlobRef>), Problem> {
    let done = done(id, known, moment)?;
    let receipt = receipt(id, done)?;
    let (text, blob) = match (&done.result, &receipt.body.outcome) {
        (Some(bytes), _) => (String::from_utf8(bytes.to_vec()).map_err(|_| unreadable())?, None),
        (None, Outcome::Completed(reference)) => {
            let blob = BlobRef { cid: reference.cid, bytes: reference.bytes };
            (serde_json::to_string(&blob).map_err(|_| unreadable())?, Some(blob))
        }
        (None, Outcome::Failed(_) | Outcome::Cancelled) => return Err(unreadable()),
    };
    let result = RawValue::from_string(text).map_err(|_| unreadable())?;
    Ok((ResultView { id, state: JobState::Completed, result, receipt }, blob))
}
fn unreadable() -> Problem {
    Problem::new(Code::Internal, "the stored result is no JSON")
}

/// The end of a completed job.
///
/// # Errors
/// As [`result`].
pub fn done<'a>(id: JobId, known: &'a Known, moment: &Moment) -> Result<&'a CompletedEnd, Problem> {
    let detail = || known.problem.as_ref().map_or_else(|| "no reason was recorded".to_owned(), Problem::to_string);
    match state(known, moment) {
        JobState::Completed => {
            known.done.as_ref().ok_or_else(|| Problem::new(Code::Internal, "the end of the job was recorded without its receipt"))
        }
        JobState::Failed => Err(Problem::new(Code::JobFailed, detail())),
        JobState::Cancelled => Err(Problem::new(Code::JobCancelled, detail())),
        // Its own code would say that there is something wrong with this question.
        JobState::Rejected => Err(Problem::new(Code::JobRejected, detail())),
        going @ (JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed | JobState::Assigned | JobState::Executing) => {
            Err(Problem::new(Code::NotFinished, format!("{} is {going}", id.short())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::history::{Considered, Transition, Verdict};
    use bus_schemas::holding::HeldAttempt;
    use bus_schemas::{Cid, Signer};

    fn known(state: JobState) -> Known {
        Known { state: Some(state), created_at: 1_800_000_000_000, finished_at: Some(1_800_000_000_500), ..Known::default() }
    }
    fn explained(known: &Known) -> Explanation {
        explanation(JobId(Cid::of(b"j")), known, &Moment::default(), 9, &Timings::default())
    }
    fn decision(at: u64, why: &str, winner: Option<DeviceId>) -> Decision {
        Decision { round: at, at, took_ms: 1, considered: vec![], winner, why: why.into() }
    }

    #[test]
    fn each_state_says_what_its_result_is() {
        let id = JobId(Cid::of(b"j"));
        let failed = Known { problem: Some(Problem::new(Code::NothingFits, "none came")), ..known(JobState::Failed) };
        let cases = [
            (known(JobState::Submitted), Code::NotFinished),
            (failed, Code::JobFailed),
            (known(JobState::Cancelled), Code::JobCancelled),
            (Known { problem: Some(Problem::new(Code::TooLittleMana, "no")), ..known(JobState::Rejected) }, Code::JobRejected),
        ];
        for (known, code) in cases {
            assert_eq!(result(id, &known, &Moment::default()).unwrap_err().code, code);
        }
    }

    #[test]
    fn the_moment_shows_on_jobs_that_have_not_ended() {
        let member = Signer::from_seed(&[1; 32]).public().member_id();
        let device = Signer::from_seed(&[2; 32]).public().device_id();
        let id = JobId(Cid::of(b"j"));
        let runs = Moment {
            running: Some(Running { attempt: bus_schemas::AttemptId(Cid::of(b"a")), device, progress: None, at: 1 }),
            holder: Some(device),
            ..Moment::default()
        };
        let queued = Moment { holder: Some(device), ..Moment::default() };
        let view = job(member, id, &known(JobState::Submitted), &runs);
        assert_eq!((view.state, view.device, view.attempts, view.finished_at), (JobState::Executing, Some(device), 1, None));
        assert_eq!(job(member, id, &known(JobState::Submitted), &queued).state, JobState::Assigned);
        let view = job(member, id, &known(JobState::Completed), &runs);
        assert_eq!((view.state, view.device, view.attempts), (JobState::Completed, None, 0));
        assert_eq!(view.cost.as_deref(), Some("0"));
        assert_eq!(job(member, id, &known(JobState::Rejected), &runs).cost, None);
    }

    #[test]
    fn what_a_silent_device_told_last_is_of_then() {
        let (member, device) = (Signer::from_seed(&[1; 32]).public().member_id(), Signer::from_seed(&[2; 32]).public().device_id());
        let told = Progress { basis_points: 1_200, stage: "embedding".into(), eta_ms: Some(48_600), ..Progress::default() };
        let running = Running { attempt: bus_schemas::AttemptId(Cid::of(b"a")), device, progress: Some(told.clone()), at: 1 };
        for (quiet_ms, eta_ms) in [(None, Some(48_600)), (Some(11_000), None)] {
            let moment = Moment { running: Some(running.clone()), quiet_ms, ..Moment::default() };
            let view = job(member, JobId(Cid::of(b"j")), &known(JobState::Submitted), &moment);
            assert_eq!((view.progress, view.device_silent_ms), (Some(Progress { eta_ms, ..told.clone() }), quiet_ms));
        }
    }

    #[test]
    fn the_reason_is_that_of_the_device_that_has_it() {
        let (first, second) = (Signer::from_seed(&[2; 32]).public().device_id(), Signer::from_seed(&[3; 32]).public().device_id());
        let mut known = known(JobState::Submitted);
        let one = |at, winner, why: &str| {
            let considered = vec![Considered { device: winner, name: format!("box-{at}"), verdict: Verdict::NotAsked }];
            Decision { considered, ..decision(at, why, Some(winner)) }
        };
        known.decisions = vec![one(1, first, "the first scores 2"), one(1, first, "the first scores 2")];
        let on = |device| Moment {
            running: Some(Running { attempt: bus_schemas::AttemptId(Cid::of(b"a")), device, progress: None, at: 1 }),
            holder: Some(device),
            ..Moment::default()
        };
        let explain = |known: &Known, moment: &Moment| explanation(JobId(Cid::of(b"j")), known, moment, 9, &Timings::default());
        let explained = explain(&known, &on(first));
        assert_eq!((explained.summary.as_str(), explained.decisions.len()), ("runs on box-1: the first scores 2", 1));
        assert_eq!(explain(&known, &on(second)).summary, format!("runs on {second}"), "its auction is not known yet");
        known.decisions.push(one(3, second, "the second scores 1"));
        assert_eq!(explain(&known, &on(second)).summary, "runs on box-3: the second scores 1");
        let change = |at, to| Transition { to, at, cause: "c".into(), actor: "a".into() };
        known.transitions = vec![change(5, JobState::Assigned), change(1, JobState::Submitted)];
        let explained = explain(&known, &Moment::default());
        assert_eq!((explained.state, explained.summary.as_str()), (JobState::Assigned, "waits in the queue on box-3: the second scores 1"));
        known.transitions.push(change(9, JobState::Submitted));
        assert_eq!(explain(&known, &Moment::default()).state, JobState::Submitted);
        let ended = Known { state: Some(JobState::Completed), device: Some(first), attempts: 2, ..known };
        assert_eq!(explain(&ended, &Moment::default()).summary, "completed on box-1 at attempt 2: the first scores 2");
    }

    /// What the holder says of a job that laptop-a has, or had.
    fn held(phase: HoldingPhase, on: Option<(DeviceId, Option<UnixMs>)>) -> Moment {
        let now = 1_800_000_000_000;
        let current = on.map(|(device, started_at)| HeldAttempt {
            attempt: bus_schemas::AttemptId(Cid::of(b"a")),
            number: 1,
            device,
            name: "laptop-a".into(),
            assigned_at: now,
            started_at,
            silent_ms: 0,
            unheard: false,
            silence_max_ms: 20_000,
            gone_at: Some(now + 20_000),
            timeout_ms: 60_000,
            queued: None,
        });
        let holding = Holding {
            net: Signer::from_seed(&[1; 32]).public().network_id(),
            job: JobId(Cid::of(b"j")),
            s: "s1".parse().unwrap(),
            at: now,
            since: now,
            renewed_at: now,
            renews_at: now + 10_000,
            ends_at: now + 20_000,
            phase,
            until: None,
            attempts_used: 1,
            declined: 0,
            gives_up_at: now + 3_600_000,
            cancelled: false,
            current,
            kept: None,
            holds_back: false,
            hold_back: None,
            unwritten: vec![],
        };
        Moment { held: Held::By(Box::new(holding)), ..Moment::default() }
    }

    #[test]
    fn the_headline_and_what_is_next_say_the_same() {
        use HoldingPhase::{Assigning, BackOff, Bidding, Closing, Looking, Ready, Running, Waiting};
        let device = Signer::from_seed(&[2; 32]).public().device_id();
        let mut known = known(JobState::Submitted);
        // Of an auction that is over: nothing of it is said of what goes on now.
        known.decisions = vec![decision(1, "the first scores 2", Some(Signer::from_seed(&[3; 32]).public().device_id()))];
        let on = |started| Some((device, started));
        let rows = [
            (Looking, None, JobState::Submitted, "scheduler s1 has just taken it up", "scheduler s1 finds out what happened to it"),
            (Ready, None, JobState::Submitted, "waits since 2027-01-15T08:00:00.000Z for a device", "it goes into the next auction"),
            (Bidding, None, JobState::BiddingOpen, "is offered to devices", "devices were asked; their bids are awaited"),
            (Assigning, on(None), JobState::BiddingClosed, "goes to laptop-a", "laptop-a won and was asked to take it"),
            (Running, on(None), JobState::Assigned, "waits in the queue on laptop-a", "laptop-a has attempt 1, and has not said"),
            (Running, on(Some(1_800_000_000_000)), JobState::Executing, "runs on laptop-a", "laptop-a runs attempt 1; stopped at"),
            (BackOff, None, JobState::Submitted, "waits for its next attempt", "next attempt now"),
            (Waiting, None, JobState::Submitted, "waits since 2027-01-15T08:00:00.000Z for a device", "offered again now, or when"),
            (Closing, None, JobState::Submitted, "has ended, and its end is being written down", "it has ended: books, history"),
        ];
        for (phase, on, state, summary, next) in rows {
            let explained = explanation(JobId(Cid::of(b"j")), &known, &held(phase, on), 1_800_000_000_000, &Timings::default());
            assert_eq!((explained.state, explained.summary.as_str()), (state, summary), "{phase:?}");
            assert!(explained.next[0].starts_with(next), "{phase:?}: {:?}", explained.next);
        }
    }

    #[test]
    fn what_nobody_says_is_not_said_as_if_it_were_so() {
        let device = Signer::from_seed(&[2; 32]).public().device_id();
        let mut known = known(JobState::Submitted);
        known.decisions = vec![decision(1, "it scores 2", Some(device))];
        known.transitions = vec![Transition { to: JobState::Executing, at: 5, cause: "c".into(), actor: "scheduler s1".into() }];
        let names = BTreeMap::from([(device, "laptop-a".to_owned())]);
        let explain = |moment: Moment| explanation(JobId(Cid::of(b"j")), &known, &moment, 9, &Timings::default());
        let silent = Moment { held: Held::Silent(None), names: names.clone(), ..Moment::default() };
        assert_eq!(explain(silent.clone()).summary, "ran on laptop-a when it was last told of: it scores 2");
        let quiet = explain(Moment { holder: Some(device), silent_ms: Some(12_000), ..silent.clone() });
        assert_eq!(quiet.summary, "ran on laptop-a when it was last told of: it scores 2");
        assert!(quiet.next[1].starts_with("laptop-a has it, and was last heard of 12 s ago: it counts as gone at"), "{:?}", quiet.next);
        let heard = explain(Moment { holder: Some(device), ..silent });
        assert_eq!((heard.state, heard.summary.as_str()), (JobState::Executing, "runs on laptop-a: it scores 2"));
        assert!(heard.next[1].starts_with("laptop-a goes on with it meanwhile"), "{:?}", heard.next);
    }

    #[test]
    fn an_end_that_was_told_twice_is_one_end() {
        let change = |at, to, actor: &str| Transition { to, at, cause: "c".into(), actor: actor.into() };
        let (first, again) = (change(5, JobState::Completed, "scheduler a"), change(9, JobState::Completed, "scheduler b"));
        let known =
            Known { transitions: vec![again, change(1, JobState::Submitted, "gateway"), first.clone()], ..known(JobState::Completed) };
        let id = JobId(Cid::of(b"j"));
        let shown = job(Signer::from_seed(&[1; 32]).public().member_id(), id, &known, &Moment::default()).transitions;
        assert_eq!(shown, [change(1, JobState::Submitted, "gateway"), first]);
    }

    #[test]
    fn a_silent_device_does_not_run_a_job_in_the_headline() {
        let device = Signer::from_seed(&[2; 32]).public().device_id();
        let silent = |started, silent_ms| {
            let mut moment = held(HoldingPhase::Running, Some((device, started)));
            if let Held::By(holding) = &mut moment.held {
                holding.current.as_mut().unwrap().silent_ms = silent_ms;
            }
            explanation(JobId(Cid::of(b"j")), &known(JobState::Submitted), &moment, 1_800_000_000_000, &Timings::default())
        };
        assert_eq!(silent(Some(1), 7_500).summary, "runs on laptop-a");
        assert_eq!(silent(Some(1), 7_501).summary, "ran on laptop-a when that was last heard of");
        assert_eq!(silent(None, 12_000).summary, "waited in the queue on laptop-a when that was last heard of");
    }

    #[test]
    fn a_job_that_is_being_cancelled_says_so_until_it_has_ended() {
        let moment = Moment { cancelled_at: Some(5), ..Moment::default() };
        let explain = |state| explanation(JobId(Cid::of(b"j")), &known(state), &moment, 9, &Timings::default());
        let explained = explain(JobState::Submitted);
        assert!(explained.cancelling && explained.summary.starts_with("is being cancelled: waits since "), "{}", explained.summary);
        assert!(!explain(JobState::Cancelled).cancelling);
    }

    #[test]
    fn an_end_without_its_beginning_says_so() {
        let device = Signer::from_seed(&[2; 32]).public().device_id();
        let change = |to| Transition { to, at: 5, cause: "c".into(), actor: "scheduler s1".into() };
        let mut unwritten = Known { device: Some(device), ..known(JobState::Completed) };
        unwritten.transitions = vec![change(JobState::Submitted), change(JobState::Completed)];
        let id = JobId(Cid::of(b"j"));
        let said = format!(
            "completed on {device}; whoever had it in hand ended before it could write down how: its receipt (mesh job receipt {}) and the \
             books tell the rest",
            id.short()
        );
        assert_eq!(explained(&unwritten).summary, said);
        unwritten.transitions.push(change(JobState::Assigned));
        assert_eq!(explained(&unwritten).summary, format!("completed on {device}"));
    }

    #[test]
    fn a_cancelled_job_says_so_once() {
        for (code, detail, said) in [
            (Code::JobCancelled, "cancelled before it ran", "cancelled before it ran"),
            (Code::JobCancelled, "it was stopped while it ran", "cancelled: it was stopped while it ran"),
            (Code::NothingFits, "none came", "cancelled: no device could take the job in time: none came"),
        ] {
            let known = Known { problem: Some(Problem::new(code, detail)), ..known(JobState::Cancelled) };
            assert_eq!(explained(&known).summary, said);
        }
        assert_eq!(explained(&known(JobState::Cancelled)).summary, "cancelled");
    }

    #[test]
    fn an_explanation_begins_with_the_newest() {
        let id = JobId(Cid::of(b"j"));
        let mut waits = known(JobState::Submitted);
        waits.decisions = vec![decision(1, "0 of 2 devices fit", None), decision(3, "0 of 3 devices fit", None)];
        let explained = explained(&waits);
        assert_eq!(explained.decisions.iter().map(|d| d.at).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(explained.summary, "waits since 2027-01-15T08:00:00.000Z: 0 of 3 devices fit");
        assert_eq!(
            job(Signer::from_seed(&[1; 32]).public().member_id(), id, &waits, &Moment::default()).waiting.unwrap(),
            "0 of 3 devices fit"
        );
    }
}
