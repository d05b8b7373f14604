//! What people and programs are shown of a job. Pure: the rows, what is known of this moment, and the clock come in.

use std::collections::BTreeSet;

use bus_schemas::api::{BlobRef, Explanation, JobView, LeaseView, ReceiptView, ResultView, Submitted};
use bus_schemas::envelope::{Proof, form_of};
use bus_schemas::event::Checkpoint;
use bus_schemas::history::{CompletedEnd, Decision, Transition};
use bus_schemas::id::{DeviceId, JobId, MemberId};
use bus_schemas::job::JobState;
use bus_schemas::limits::Timings;
use bus_schemas::receipt::{Outcome, Receipt};
use bus_schemas::{Code, MilliMana, Problem, UnixMs, limits, strict};
use data_encoding::BASE64URL_NOPAD;
use serde_json::value::RawValue;

use crate::awaited;
use crate::history::Known;
use crate::live::Running;
use crate::next::{self, Held, Now};
use crate::world::rfc3339;

/// Decisions that an explanation carries; the newest ones.
const DECISIONS_SHOWN: usize = 20;
/// Devices that one decision carries.
const DEVICES_SHOWN: usize = 500;

/// What this moment adds to the rows.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// A device told of it.
    pub running: Option<Running>,
    /// A device's heartbeat lists it.
    pub holder: Option<DeviceId>,
    /// Who has its message in hand, where that was asked.
    pub held: Held,
    /// Since when somebody wants it to end, where that was looked up.
    pub cancelled_at: Option<UnixMs>,
    /// Why it should have moved on by now, as the sweeper found.
    pub overdue: Option<String>,
}

/// The state of a job at this moment.
pub fn state(known: &Known, moment: &Moment) -> JobState {
    let stored = known.state.unwrap_or(JobState::Submitted);
    if stored.is_final() {
        stored
    } else if moment.running.is_some() {
        JobState::Executing
    } else if moment.holder.is_some() {
        JobState::Assigned
    } else {
        // Its device has not been heard of lately, and nobody said that it has lost the job.
        let last = known.transitions.iter().max_by_key(|change| change.at).map(|change| change.to);
        last.filter(|last| matches!(last, JobState::Assigned | JobState::Executing)).unwrap_or(stored)
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
    let at_work = moment.running.as_ref().map(|running| running.device).or(moment.holder).filter(|_| !state.is_final());
    // What ended without a charge cost nothing; what never began has no cost.
    let nothing = (state.is_final() && state != JobState::Rejected).then_some(MilliMana::ZERO);
    let paid = known.paid.or(nothing);
    JobView {
        id,
        short: id.short(),
        state,
        kind: known.kind.clone(),
        member,
        device: known.device.or(at_work),
        attempts: known.attempts + u32::from(at_work.is_some()),
        key: known.key.clone(),
        created_at: rfc3339(known.created_at),
        finished_at: known.finished_at.filter(|_| state.is_final()).map(rfc3339),
        cost: paid.map(|paid| paid.to_string()),
        cost_mmana: paid,
        hold_mmana: known.hold,
        progress: moment.running.as_ref().filter(|_| !state.is_final()).and_then(|running| running.progress.clone()),
        is_long_running: moment.running.is_some() && !state.is_final(),
        checkpoint: kept(moment).filter(|_| !state.is_final()),
        cancelling: moment.cancelled_at.is_some() && !state.is_final(),
        overdue: moment.overdue.clone().filter(|_| !state.is_final()),
        waiting: waiting(known, state),
        error: known.problem.as_ref().map(Problem::body),
        transitions: transitions(known),
        retry_of: None,
    }
}

/// In the order of time, each once. An end that was told again, because who told it died before it let go of the job, is one end.
fn transitions(known: &Known) -> Vec<Transition> {
    let mut transitions = known.transitions.clone();
    transitions.sort_by_key(|transition| transition.at);
    transitions.dedup();
    let mut ended = BTreeSet::new();
    transitions.retain(|transition| !transition.to.is_final() || ended.insert(transition.to));
    transitions
}

pub fn submitted(id: JobId, key: &str, state: JobState, waiting: Option<String>) -> Submitted {
    Submitted { id, short: id.short(), state, waiting, key: key.to_owned() }
}

/// How far it is kept, by the word of its holder.
fn kept(moment: &Moment) -> Option<Checkpoint> {
    match &moment.held {
        Held::By(holding) => holding.kept,
        Held::Nobody | Held::NoScheduler | Held::Unknown => None,
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

/// What happens next, and when.
fn what_is_next(known: &Known, moment: &Moment, state: JobState, now: UnixMs, timings: &Timings) -> Vec<String> {
    let last = known.transitions.iter().filter(|change| change.actor.starts_with("scheduler ")).max_by_key(|change| change.at);
    let awaits_hold = newest(&known.decisions).is_some_and(|decision| decision.why == awaited::WHY);
    let now = Now {
        state,
        held: &moment.held,
        at: now,
        gives_up_at: gives_up_at(known),
        cancelled_at: moment.cancelled_at,
        awaits_hold,
        last_holder: last.map(|change| change.actor.as_str()),
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
    let mut attempts = known.failed.clone();
    attempts.sort_by_key(|attempt| attempt.number);
    let waits = !state.is_final();
    Explanation {
        id,
        short: id.short(),
        state,
        summary: summary(known, moment, state),
        attempts,
        next: what_is_next(known, moment, state, now, timings),
        lease: lease(&moment.held).filter(|_| waits),
        overdue: moment.overdue.clone().filter(|_| waits),
        next_look_at: known.next_look_at.filter(|_| waits).map(rfc3339),
        gives_up_at: gives_up_at(known).filter(|_| waits).map(rfc3339),
        transitions: transitions(known),
        devices: decisions.first().map(|decision| decision.considered.clone()).unwrap_or_default(),
        decisions,
    }
}

fn gives_up_at(known: &Known) -> Option<UnixMs> {
    let own = || Some(known.created_at + known.spec()?.max_execution_wait_ms());
    known.gives_up_at.or_else(own)
}

fn summary(known: &Known, moment: &Moment, state: JobState) -> String {
    let last = newest(&known.decisions);
    let why = last.map_or_else(String::new, |decision| format!(": {}", decision.why));
    let reason = known.problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
    let on = known.device.map_or_else(String::new, |device| format!(" on {}", name(known, device)));
    match state {
        JobState::Completed => {
            let attempt = match settled_attempt(known) {
                0 | 1 => String::new(),
                n => format!(" at attempt {n}"),
            };
            format!("completed{on}{attempt}{}", known.device.map_or(why, |device| won(known, device)))
        }
        JobState::Failed => format!("failed{on} after {} of {} attempts{reason}", known.attempts, limits::ATTEMPTS_MAX),
        JobState::Cancelled => format!("cancelled{on}{}", known.problem.as_ref().map_or_else(String::new, cancelled)),
        JobState::Rejected => format!("never became a job{reason}"),
        JobState::Executing | JobState::Assigned => {
            let device = moment.running.as_ref().map(|running| running.device).or(moment.holder).or(last.and_then(|last| last.winner));
            let verb = if state == JobState::Executing { "runs" } else { "waits in the queue" };
            device.map_or_else(|| verb.to_owned(), |device| format!("{verb} on {}{}", name(known, device), won(known, device)))
        }
        JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed => match last {
            Some(decision) if decision.winner.is_none() => format!("waits since {}{why}", rfc3339(known.created_at)),
            Some(_) | None => format!("waits since {} for a device{why}", rfc3339(known.created_at)),
        },
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

/// What people call a device, as far as an auction of this job has said.
fn name(known: &Known, device: DeviceId) -> String {
    let mut considered = known.decisions.iter().flat_map(|decision| &decision.considered);
    considered.find(|one| one.device == device).map_or_else(|| device.to_string(), |one| one.name.clone())
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
        JobState::Rejected => Err(known.problem.clone().unwrap_or_else(|| Problem::new(Code::Internal, detail()))),
        going @ (JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed | JobState::Assigned | JobState::Executing) => {
            Err(Problem::new(Code::NotFinished, format!("{} is {going}", id.short())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::history::{Considered, Verdict};
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
            (Known { problem: Some(Problem::new(Code::TooLittleMana, "no")), ..known(JobState::Rejected) }, Code::TooLittleMana),
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
            running: Some(Running { attempt: bus_schemas::AttemptId(Cid::of(b"a")), device, progress: None }),
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
    fn the_reason_is_that_of_the_device_that_has_it() {
        let (first, second) = (Signer::from_seed(&[2; 32]).public().device_id(), Signer::from_seed(&[3; 32]).public().device_id());
        let mut known = known(JobState::Submitted);
        let one = |at, winner, why: &str| {
            let considered = vec![Considered { device: winner, name: format!("box-{at}"), verdict: Verdict::NotAsked }];
            Decision { considered, ..decision(at, why, Some(winner)) }
        };
        known.decisions = vec![one(1, first, "the first scores 2"), one(1, first, "the first scores 2")];
        let on = |device| Moment {
            running: Some(Running { attempt: bus_schemas::AttemptId(Cid::of(b"a")), device, progress: None }),
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
