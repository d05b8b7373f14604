//! The attempts of a job and its changes of state, as people and programs are shown them. Pure: the rows and this moment come in.

use std::collections::BTreeSet;

use bus_schemas::api::{AttemptState, AttemptView};
use bus_schemas::assignment::Assignment;
use bus_schemas::envelope::{Body, form_of};
use bus_schemas::history::{CompletedEnd, Transition};
use bus_schemas::holding::{HeldAttempt, Holding, HoldingPhase};
use bus_schemas::id::{AttemptId, DeviceId};
use bus_schemas::job::JobState;
use bus_schemas::receipt::{FailureClass, Receipt};
use bus_schemas::{Proof, UnixMs, limits, strict};

use crate::history::Known;
use crate::next::Held;
use crate::views::Moment;

/// What a scheduler writes beside a change to Assigned, before the attempt's number.
const CAUSE: &str = "attempt ";

/// Beside the change to Submitted of a job that was admitted.
pub const ADMITTED: &str = "admitted";

/// In the order of time, each once; with those that its holder has not written down yet. An end that was told again, because who told it
/// died before it let go of the job, is one end; so is a submission that was delivered again and admitted again one admission.
pub fn transitions(known: &Known, held: &Held) -> Vec<Transition> {
    let unwritten = match held {
        Held::By(holding) => holding.unwritten.as_slice(),
        Held::Nobody | Held::Silent(_) | Held::NoScheduler { .. } | Held::Unknown => &[],
    };
    let mut all: Vec<Transition> = Vec::new();
    let mut sorted: Vec<&Transition> = known.transitions.iter().chain(unwritten).collect();
    sorted.sort_by_key(|transition| (transition.at, transition.to.is_final()));
    let (mut ended, mut is_admitted) = (BTreeSet::new(), false);
    for transition in sorted {
        // What is the same has the same time, so it is near.
        let again = all.iter().rev().take_while(|before| before.at == transition.at).any(|before| before == transition);
        let admits = transition.to == JobState::Submitted && transition.cause == ADMITTED;
        let again = again || (admits && std::mem::replace(&mut is_admitted, true));
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

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::receipt::{Outcome, ResultRef};
    use bus_schemas::{Cid, JobId, MilliMana, ReceiptId, Signer};

    use crate::live::Running;

    const AT: UnixMs = 1_800_000_000_000;

    fn signer(n: u8) -> Signer {
        Signer::from_seed(&[n; 32])
    }
    fn device(n: u8) -> DeviceId {
        signer(n).public().device_id()
    }
    fn id(text: &str) -> AttemptId {
        AttemptId(Cid::of(text.as_bytes()))
    }
    fn change(to: JobState, at: UnixMs, cause: &str, actor: String) -> Transition {
        Transition { to, at, cause: cause.into(), actor }
    }
    fn failed(attempt: AttemptId, number: u32, class: FailureClass) -> AttemptView {
        let failed = view(attempt, number, device(2), AttemptState::Failed);
        AttemptView { class: class.name().into(), message: "m".into(), assigned_at: Some(AT), ended_at: Some(AT + 9), ..failed }
    }
    /// A receipt of `attempt`, and the assignment numbered `number` where it was kept.
    fn done(attempt: AttemptId, number: Option<u32>) -> CompletedEnd {
        let (net, job, by) = (signer(9).public().network_id(), JobId(Cid::of(b"j")), device(3));
        let outcome = Outcome::Completed(ResultRef { cid: Cid::of(b"{}"), bytes: 2 });
        let receipt = Receipt { net, device: by, job, attempt, at: AT, outcome, claimed_ms: 5, waited_ms: 0 };
        let assignment = |attempt| Assignment {
            net,
            job,
            attempt,
            device: by,
            member: signer(1).public().member_id(),
            assigned_at: AT + 20,
            exp: AT + 1_000,
            price_mmana: MilliMana::mana(1),
            tier: 1,
            timeout_ms: 1_000,
            payload: Cid::of(b"{}"),
            resume: None,
        };
        let receipt_proof = signer(3).batch(&[receipt]).proof(0).unwrap();
        CompletedEnd {
            attempt,
            receipt: ReceiptId(Cid::of(&receipt_proof.b)),
            receipt_seq: 1,
            receipt_proof,
            assignment_proof: number.map(|number| signer(8).batch(&[assignment(number)]).proof(0).unwrap()),
            result: None,
        }
    }
    /// Number, state, device, and when it was assigned, began and ended, after [`AT`].
    type Row = (u32, AttemptState, DeviceId, [Option<u64>; 3]);
    fn rows(known: &Known, moment: &Moment) -> Vec<Row> {
        let row = |one: AttemptView| {
            let times = [one.assigned_at, one.started_at, one.ended_at].map(|at| at.map(|at| at - AT));
            (one.number, one.state, one.device, times)
        };
        attempts(known, moment).into_iter().map(row).collect()
    }
    fn completed() -> Known {
        let third = device(3).to_string();
        Known {
            state: Some(JobState::Completed),
            finished_at: Some(AT + 30),
            device: Some(device(3)),
            attempts: 4,
            transitions: vec![
                change(JobState::Executing, AT + 2, "started", device(2).to_string()),
                // An earlier attempt of the same device.
                change(JobState::Executing, AT + 15, "started", third.clone()),
                change(JobState::Assigned, AT + 20, "attempt 4", third.clone()),
                change(JobState::Executing, AT + 21, "started", third),
            ],
            failed: vec![failed(id("one"), 1, FailureClass::Timeout), failed(id("one"), 1, FailureClass::Timeout)],
            ..Known::default()
        }
    }

    #[test]
    fn the_paid_attempt_stands_behind_those_that_failed() {
        let first = (1, AttemptState::Failed, device(2), [Some(0), Some(2), Some(9)]);
        for (kept, last) in [(Some(4), [Some(20), Some(21), Some(30)]), (None, [Some(20), Some(21), Some(30)])] {
            let known = Known { done: Some(done(id("two"), kept)), ..completed() };
            let paid = (4, AttemptState::Completed, device(3), last);
            assert_eq!(rows(&known, &Moment::default()), [first, paid], "once, though its end was told twice");
        }
        let bare = Known { done: Some(done(id("two"), None)), device: None, transitions: vec![], failed: vec![], ..completed() };
        assert_eq!(rows(&bare, &Moment::default()), [(4, AttemptState::Completed, device(3), [None, None, Some(30)])]);
        let stopped = Known { state: Some(JobState::Cancelled), done: Some(done(id("two"), Some(4))), ..completed() };
        assert_eq!(rows(&stopped, &Moment::default())[1].1, AttemptState::Cancelled);
        let unpaid = Known { state: Some(JobState::Failed), ..completed() };
        assert_eq!(rows(&unpaid, &Moment::default()), [first]);
    }

    #[test]
    fn an_attempt_that_had_counted_as_ended_and_was_paid_is_one() {
        let known =
            Known { done: Some(done(id("one"), Some(1))), failed: vec![failed(id("one"), 1, FailureClass::Timeout)], ..completed() };
        let [paid] = <[_; 1]>::try_from(attempts(&known, &Moment::default())).unwrap();
        assert_eq!((paid.state, paid.class.as_str(), paid.ended_at), (AttemptState::Completed, "Timeout", Some(AT + 30)));
    }

    #[test]
    fn one_that_goes_on_is_listed_by_the_word_of_its_holder_or_of_its_device() {
        let going = |state: Option<JobState>, moment: &Moment| {
            let mut known = Known { state, ..completed() };
            known.transitions.push(change(JobState::Completed, AT + 40, "c", "a".into()));
            rows(&known, moment)
        };
        let running = Some(Running { attempt: id("two"), device: device(3), progress: None, at: AT });
        let told = Moment { running, ..Moment::default() };
        assert_eq!(going(None, &told)[1], (4, AttemptState::Running, device(3), [Some(20), Some(21), None]));
        assert_eq!(going(Some(JobState::Failed), &told).len(), 1, "what a device says of an ended job is old");
        for (phase, started_at, state) in [
            (HoldingPhase::Assigning, None, AttemptState::Offered),
            (HoldingPhase::Running, None, AttemptState::Waiting),
            (HoldingPhase::Running, Some(AT + 23), AttemptState::Running),
        ] {
            let moment = Moment { held: by(phase, started_at, vec![]), ..told.clone() };
            let times = [Some(22), started_at.map(|at| at - AT), None];
            assert_eq!(going(None, &moment)[1], (5, state, device(4), times), "{phase:?}");
        }
    }

    fn by(phase: HoldingPhase, started_at: Option<UnixMs>, unwritten: Vec<Transition>) -> Held {
        let current = HeldAttempt {
            attempt: id("three"),
            number: 5,
            device: device(4),
            name: "d".into(),
            assigned_at: AT + 22,
            started_at,
            silent_ms: 0,
            unheard: false,
            silence_max_ms: 20_000,
            gone_at: None,
            timeout_ms: 1_000,
            queued: None,
        };
        Held::By(Box::new(Holding {
            net: signer(9).public().network_id(),
            job: JobId(Cid::of(b"j")),
            s: "s1".parse().unwrap(),
            at: AT,
            since: AT,
            renewed_at: AT,
            renews_at: AT,
            ends_at: AT,
            phase,
            until: None,
            attempts_used: 1,
            declined: 0,
            gives_up_at: AT,
            cancelled: false,
            current: Some(current),
            kept: None,
            holds_back: false,
            hold_back: None,
            unwritten,
        }))
    }

    #[test]
    fn a_submission_that_came_twice_was_admitted_once() {
        let one = |at, cause| change(JobState::Submitted, at, cause, "a".into());
        let rejected = change(JobState::Rejected, 1, "c", "a".into());
        let told = vec![rejected.clone(), one(2, ADMITTED), one(9, ADMITTED), one(5, "attempt 1 ended"), one(7, "attempt 2 ended")];
        let known = Known { transitions: told, ..Known::default() };
        let at: Vec<UnixMs> = transitions(&known, &Held::Nobody).iter().map(|change| change.at).collect();
        assert_eq!(at, [1, 2, 5, 7]);
    }

    #[test]
    fn what_the_holder_has_not_written_yet_is_shown_once() {
        let one = |to, at| change(to, at, "c", "a".into());
        let known = Known { transitions: vec![one(JobState::Assigned, 5), one(JobState::Submitted, 1)], ..Known::default() };
        let unwritten = vec![one(JobState::Assigned, 5), one(JobState::Executing, 5), one(JobState::Executing, 6)];
        let shown = transitions(&known, &by(HoldingPhase::Running, None, unwritten.clone()));
        assert_eq!(shown, [vec![one(JobState::Submitted, 1)], unwritten].concat());
        assert_eq!(transitions(&known, &Held::Unknown).len(), 2);
    }

    #[test]
    fn a_no_is_no_attempt() {
        let failed = vec![
            failed(id("one"), 1, FailureClass::Timeout),
            failed(id("one"), 1, FailureClass::Timeout),
            failed(id("two"), 2, FailureClass::DeviceDeclined),
            failed(id("three"), 3, FailureClass::DeviceDisconnect),
        ];
        assert_eq!(counted(&Known { failed, ..Known::default() }), 2);
    }

    #[test]
    fn rows_of_older_versions_are_of_failed_attempts() {
        let mut old = serde_json::to_value(failed(id("one"), 1, FailureClass::Timeout)).unwrap();
        old.as_object_mut().unwrap().remove("state");
        assert_eq!(serde_json::from_value::<AttemptView>(old).unwrap().state, AttemptState::Failed);
    }
}
