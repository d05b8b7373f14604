//! The attempts of a job and its changes of state, as people and programs are shown them. Pure: the rows and this moment come in.

use std::collections::BTreeSet;

use bus_schemas::api::{AttemptState, AttemptView};
use bus_schemas::assignment::Assignment;
use bus_schemas::envelope::{Body, form_of};
use bus_schemas::holding::{HeldAttempt, Holding, HoldingPhase};
use bus_schemas::history::{CompletedEnd, Transition};
use bus_schemas::id::{AttemptId, DeviceId};
use bus_schemas::job::JobState;
use bus_schemas::receipt::{FailureClass, Receipt};
use bus_schemas::{Proof, UnixMs, limits, strict};

use crate::history::Known;
use crate::next::Held;
use crate::views::Moment;

/// What a scheduler writes beside a change to Assigned, before the attempt's number.
const CAUSE: &str = "attempt ";

/// In the order of time, each once; with those that its holder has not written down yet. An end that was told again, because who told it
/// died before it let go of the job, is one end.
pub fn transitions(known: &Known, held: &Held) -> Vec<Transition> {
    let unwritten = match held {
        Held::By(holding) => holding.unwritten.as_slice(),
        Held::Nobody | Held::Silent(_) | Held::NoScheduler { .. } | Held::Unknown => &[],
    };
    let mut all: Vec<Transition> = Vec::new();
    let mut sorted: Vec<&Transition> = known.transitions.iter().chain(unwritten).collect();
    sorted.sort_by_key(|transition| (transition.at, transition.to.is_final()));
    let mut ended = BTreeSet::new();
    for transition in sorted {
        // What is the same has the same time, so it is near.
        let again = all.iter().rev().take_while(|before| before.at == transition.at).any(|before| before == transition);
        if !again && (!transition.to.is_final() || ended.insert(transition.to)) {
            all.push(transition.clone());
        }
    }
    all
}

/// Whether nothing tells how a completed job came to its end: who had it in hand died before it wrote that down, and what was found later
/// are its receipt and the books.
pub fn is_unwritten(known: &Known) -> bool {
    let told = |transition: &Transition| matches!(transition.to, JobState::Assigned | JobState::Executing);
    known.state == Some(JobState::Completed) && !known.transitions.iter().any(told)
}

/// Failed attempts that counted.
pub fn counted(known: &Known) -> usize {
    let declined = FailureClass::DeviceDeclined.name();
    let ids: BTreeSet<AttemptId> = known.failed.iter().filter(|failed| failed.class != declined).map(|failed| failed.attempt).collect();
    ids.len()
}

/// Oldest first: those that failed, and the one that goes on or was paid. Without their devices' names.
pub fn attempts(known: &Known, moment: &Moment) -> Vec<AttemptView> {
    let mut seen = BTreeSet::new();
    // One whose end was told twice ended once.
    let mut all: Vec<AttemptView> = known.failed.iter().filter(|failed| seen.insert(failed.attempt)).cloned().collect();
    let ended = known.state.is_some_and(JobState::is_final);
    let last = match &known.done {
        Some(done) => paid(known, done),
        None if ended => None,
        None => going(known, moment),
    };
    for failed in &mut all {
        let begun = changed_at(known, failed.device, JobState::Executing, failed.assigned_at);
        failed.started_at = begun.filter(|at| failed.ended_at.is_none_or(|end| *at <= end));
    }
    if let Some(last) = last {
        match all.iter_mut().find(|failed| failed.attempt == last.attempt) {
            // It had counted as ended, and its device came back with the result.
            Some(failed) => {
                failed.state = last.state;
                failed.ended_at = last.ended_at.or(failed.ended_at);
            }
            None => all.push(last),
        }
    }
    all.sort_by_key(|attempt| attempt.number);
    all
}

/// The attempt whose receipt was paid.
fn paid(known: &Known, done: &CompletedEnd) -> Option<AttemptView> {
    let assignment: Option<Assignment> = done.assignment_proof.as_ref().and_then(body);
    let receipt: Option<Receipt> = body(&done.receipt_proof);
    let failed = known.failed.iter().find(|failed| failed.attempt == done.attempt);
    let number = assignment.as_ref().map(|assignment| assignment.attempt).or(failed.map(|failed| failed.number));
    let device = known.device.or(receipt.map(|receipt| receipt.device)).or(failed.map(|failed| failed.device))?;
    let state = if known.state == Some(JobState::Completed) { AttemptState::Completed } else { AttemptState::Cancelled };
    let assigned_at = assignment.map(|assignment| assignment.assigned_at).or_else(|| changed_at(known, device, JobState::Assigned, None));
    Some(AttemptView {
        assigned_at,
        started_at: changed_at(known, device, JobState::Executing, assigned_at),
        ended_at: known.finished_at,
        ..view(done.attempt, number.unwrap_or(known.attempts.max(1)), device, state)
    })
}

/// The attempt that goes on: its holder knows best, then the device's own word.
fn going(known: &Known, moment: &Moment) -> Option<AttemptView> {
    if let Held::By(holding) = &moment.held {
        return holding.current.as_ref().map(|current| by_its_holder(holding, current));
    }
    let running = moment.running.as_ref()?;
    let actor = running.device.to_string();
    let mine = |change: &&Transition| change.to == JobState::Assigned && change.actor == actor;
    let assigned = known.transitions.iter().filter(mine).max_by_key(|change| change.at);
    let number = assigned.and_then(|change| change.cause.strip_prefix(CAUSE)?.parse().ok());
    let assigned_at = assigned.map(|change| change.at);
    Some(AttemptView {
        assigned_at,
        started_at: changed_at(known, running.device, JobState::Executing, assigned_at),
        ..view(running.attempt, number.unwrap_or(known.attempts + 1), running.device, AttemptState::Running)
    })
}

fn by_its_holder(holding: &Holding, current: &HeldAttempt) -> AttemptView {
    let state = match (holding.phase, current.started_at) {
        (HoldingPhase::Assigning, _) => AttemptState::Offered,
        (_, Some(_)) => AttemptState::Running,
        (_, None) => AttemptState::Waiting,
    };
    AttemptView {
        assigned_at: Some(current.assigned_at),
        started_at: current.started_at,
        ..view(current.attempt, current.number, current.device, state)
    }
}

fn view(attempt: AttemptId, number: u32, device: DeviceId, state: AttemptState) -> AttemptView {
    AttemptView {
        attempt,
        state,
        number,
        device,
        device_name: None,
        class: String::new(),
        message: String::new(),
        kept_units: None,
        assigned_at: None,
        started_at: None,
        ended_at: None,
        retryable: None,
    }
}

/// When a device last changed the job to this state, as was written; not before `since`.
fn changed_at(known: &Known, device: DeviceId, to: JobState, since: Option<UnixMs>) -> Option<UnixMs> {
    let actor = device.to_string();
    let changes = known.transitions.iter().filter(|change| change.to == to && change.actor == actor);
    changes.map(|change| change.at).filter(|at| since.is_none_or(|since| *at >= since)).max()
}

/// What a stored proof is about; it was verified before it was stored.
fn body<T: Body>(proof: &Proof) -> Option<T> {
    strict::decode(form_of::<T>(&proof.t).ok()?, &proof.b, limits::BODY_BYTES_MAX).ok()
}
