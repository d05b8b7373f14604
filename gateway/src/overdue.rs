//! Jobs that should have moved on by now. Each state has an owner and a deadline; past it the job is named. Pure: what is known and the
//! clock come in.
//!
//! | state | owner | deadline |
//! |---|---|---|
//! | submitted, in bidding | the schedulers | when it gives up waiting, and a grace |
//! | assigned, executing | the scheduler that holds it | the timeout from the last assignment or start, silence, and a grace; the hold's end |
//! | cancelling | whoever holds it | a grace after the wish |
//! | its message is gone | nobody | at once: the ledger returns the hold at its end, and then the job is ended here |

use bus_schemas::history::Transition;
use bus_schemas::job::JobState;
use bus_schemas::{UnixMs, date_and_time};

/// What is known of a job that has not ended.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    pub state: JobState,
    pub created_at: UnixMs,
    pub transitions: &'a [Transition],
    pub gives_up_at: Option<UnixMs>,
    pub timeout_ms: u64,
    pub hold_expires: Option<UnixMs>,
    pub cancelled_at: Option<UnixMs>,
    /// JOBS still has its message.
    pub in_jobs: bool,
    pub silence_ms: u64,
}

/// Why it should have moved on by now, and whose it is to do so.
pub fn overdue(job: &Standing<'_>, now: UnixMs) -> Option<String> {
    // As long as three silences: redelivery, a look at what happened, and the records behind it.
    let grace = job.silence_ms * 3;
    let past = |at: UnixMs| now > at.saturating_add(grace);
    if job.state.is_final() || !past(job.created_at) {
        return None;
    }
    let hold = job.hold_expires.map(|at| format!("; its hold is returned at {}", date_and_time(at))).unwrap_or_default();
    if !job.in_jobs {
        return Some(format!("its message in JOBS is gone, so no scheduler can go on with it{hold}"));
    }
    if let Some(at) = job.cancelled_at.filter(|at| past(*at)) {
        return Some(format!("it was cancelled at {} and has not ended; whoever holds it has to end it", date_and_time(at)));
    }
    if let Some(at) = job.hold_expires.filter(|at| past(*at)) {
        return Some(format!("its hold ended at {}, and no scheduler has ended it", date_and_time(at)));
    }
    match job.state {
        JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed => {
            let at = job.gives_up_at.filter(|at| past(*at))?;
            Some(format!("it gave up waiting at {}, and no scheduler has ended it", date_and_time(at)))
        }
        // How long it may wait on its device depends on what runs there: the hold's end bounds it.
        JobState::Assigned => None,
        JobState::Executing => {
            let began = job.transitions.iter().filter(|change| change.to == JobState::Executing).map(|change| change.at).max()?;
            let by = began.saturating_add(job.timeout_ms).saturating_add(job.silence_ms);
            let by_text = date_and_time(by);
            past(by).then(|| format!("its attempt had until {by_text}, and the scheduler that holds it has not ended it"))
        }
        JobState::Completed | JobState::Failed | JobState::Cancelled | JobState::Rejected => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = 1_800_000_000_000;
    const GRACE: u64 = 60_000;

    fn standing(state: JobState) -> Standing<'static> {
        Standing {
            state,
            created_at: NOW - 3_600_000,
            transitions: &[],
            gives_up_at: Some(NOW + 1),
            timeout_ms: 10_000,
            hold_expires: Some(NOW + 1),
            cancelled_at: None,
            in_jobs: true,
            silence_ms: 20_000,
        }
    }

    #[test]
    fn each_state_has_its_deadline() {
        use JobState::{Assigned, Completed, Executing, Submitted};
        let began = |at: UnixMs| vec![Transition { to: Executing, at, cause: "started".into(), actor: "dev".into() }];
        let (late, fine) = (began(NOW - 10_000 - 20_000 - GRACE - 1), began(NOW - 10_000 - 20_000 - GRACE));
        let past = Some(NOW - GRACE - 1);
        let rows = [
            (standing(Submitted), None),
            (standing(Assigned), None),
            (standing(Executing), None),
            (Standing { gives_up_at: Some(NOW - GRACE), ..standing(Submitted) }, None),
            (Standing { gives_up_at: past, ..standing(Submitted) }, Some("gave up waiting at 2027-01-15 07:58:59 UTC")),
            (Standing { gives_up_at: past, ..standing(Executing) }, None),
            (Standing { transitions: &fine, ..standing(Executing) }, None),
            (Standing { transitions: &late, ..standing(Executing) }, Some("its attempt had until")),
            (Standing { cancelled_at: past, ..standing(Executing) }, Some("it was cancelled at 2027-01-15 07:58:59 UTC")),
            (Standing { cancelled_at: Some(NOW - GRACE), ..standing(Executing) }, None),
            (Standing { hold_expires: past, ..standing(Assigned) }, Some("its hold ended at")),
            (Standing { in_jobs: false, ..standing(Assigned) }, Some("its message in JOBS is gone")),
            // Its message may not be there yet, or its end not be written down yet.
            (Standing { in_jobs: false, created_at: NOW - GRACE, ..standing(Submitted) }, None),
            (Standing { in_jobs: false, ..standing(Completed) }, None),
        ];
        for (job, expected) in rows {
            let said = overdue(&job, NOW);
            match expected {
                None => assert_eq!(said, None, "{job:?}"),
                Some(part) => assert!(said.as_ref().is_some_and(|said| said.contains(part)), "{job:?}: {said:?}"),
            }
        }
    }
}
