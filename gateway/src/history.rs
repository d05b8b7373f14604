//! Folds records of HISTORY into what is known of each job. Pure, and it does not matter in which order records come.

use std::collections::BTreeMap;

use bus_schemas::UnixMs;
use bus_schemas::api::{AttemptState, AttemptView};
use bus_schemas::history::{CompletedEnd, Decision, HistoryEvent, HistoryRecord, Transition};
use bus_schemas::id::{Asker, DeviceId, JobId, MemberId};
use bus_schemas::job::{JobSpec, JobState, SignedBy};
use bus_schemas::{Form, MilliMana, Problem};

/// What some records say of one job; `None` and empty = they do not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    pub rank: Rank,
    pub state: Option<JobState>,
    pub kind: Option<String>,
    pub key: Option<String>,
    pub asker: Option<Asker>,
    pub created_at: UnixMs,
    pub finished_at: Option<UnixMs>,
    pub device: Option<DeviceId>,
    pub attempts: u32,
    pub paid: Option<MilliMana>,
    pub hold: Option<MilliMana>,
    pub hold_expires: Option<UnixMs>,
    pub problem: Option<Problem>,
    pub form: Option<Form>,
    pub body: Option<Vec<u8>>,
    pub signed: Option<SignedBy>,
    pub done: Option<CompletedEnd>,
    pub next_look_at: Option<UnixMs>,
    pub gives_up_at: Option<UnixMs>,
    pub transitions: Vec<Transition>,
    pub decisions: Vec<Decision>,
    /// Attempts that ended without a result.
    pub failed: Vec<AttemptView>,
    /// Place in HISTORY of the last record.
    pub last_seq: u64,
}

impl Known {
    /// What was asked for, where it ever became a job.
    pub fn spec(&self) -> Option<JobSpec> {
        JobSpec::parse(self.form?, self.body.as_deref()?).ok()
    }
}

/// How far a job is. It never falls: a rejected job may be admitted at a second try, an ended one stays ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Rank {
    #[default]
    Rejected,
    Admitted,
    Ended,
}
impl Rank {
    pub const fn number(self) -> i16 {
        match self {
            Self::Rejected => 0,
            Self::Admitted => 1,
            Self::Ended => 2,
        }
    }
    pub const fn of_number(number: i16) -> Self {
        match number {
            0 => Self::Rejected,
            1 => Self::Admitted,
            _ => Self::Ended,
        }
    }
}

/// Jobs by owner and id.
pub type Jobs = BTreeMap<(MemberId, JobId), Known>;

/// Adds the records of the message at `seq`.
pub fn fold(jobs: &mut Jobs, seq: u64, records: impl IntoIterator<Item = HistoryRecord>) {
    for record in records {
        let place = (record.member, record.job);
        let known = known(seq, record);
        match jobs.remove(&place) {
            Some(before) => jobs.insert(place, before.merge(known)),
            None => jobs.insert(place, known),
        };
    }
}

fn known(seq: u64, record: HistoryRecord) -> Known {
    let first = record.transitions.iter().map(|transition| transition.at).min().unwrap_or(record.at);
    let base = Known { created_at: first, transitions: record.transitions, last_seq: seq, ..Known::default() };
    match record.what {
        HistoryEvent::Rejected { asker, key, kind, problem } => Known {
            rank: Rank::Rejected,
            state: Some(JobState::Rejected),
            asker: Some(asker),
            key,
            kind,
            finished_at: Some(record.at),
            problem: Some(problem),
            ..base
        },
        HistoryEvent::Admitted(admitted) => Known {
            rank: Rank::Admitted,
            state: Some(JobState::Submitted),
            asker: Some(admitted.asker),
            key: Some(admitted.key),
            kind: Some(admitted.kind),
            created_at: admitted.submitted_at,
            hold: Some(admitted.hold_mmana),
            hold_expires: Some(admitted.hold_expires),
            form: Some(admitted.form),
            body: Some(admitted.body.into_vec()),
            signed: admitted.signed,
            decisions: admitted.nothing_fits.into_iter().collect(),
            ..base
        },
        HistoryEvent::Waiting { decision, next_look_at, gives_up_at } => Known {
            rank: Rank::Admitted,
            state: Some(JobState::Submitted),
            decisions: vec![decision],
            next_look_at: Some(next_look_at),
            gives_up_at: Some(gives_up_at),
            ..base
        },
        // Who has it at this moment, the device's own word says better.
        HistoryEvent::Assigned(assigned) => {
            Known { rank: Rank::Admitted, state: Some(JobState::Submitted), decisions: vec![assigned.decision], ..base }
        }
        HistoryEvent::AttemptEnded(ended) => Known {
            rank: Rank::Admitted,
            state: Some(JobState::Submitted),
            attempts: ended.number,
            failed: vec![AttemptView {
                attempt: ended.attempt,
                number: ended.number,
                device: ended.device,
                device_name: None,
                class: ended.failure.class.name().to_owned(),
                message: ended.failure.message,
                kept_units: ended.kept.map(|kept| kept.units),
                state: AttemptState::Failed,
                assigned_at: Some(ended.assigned_at),
                started_at: ended.started_at,
                ended_at: Some(record.at),
                retryable: Some(ended.failure.retryable),
            }],
            decisions: vec![ended.decision],
            ..base
        },
        HistoryEvent::Ended(ended) => Known {
            rank: Rank::Ended,
            state: Some(ended.state),
            finished_at: Some(record.at),
            device: ended.device,
            attempts: ended.attempts,
            paid: ended.paid_mmana,
            problem: ended.problem,
            done: ended.done,
            decisions: ended.decision.into_iter().collect(),
            ..base
        },
    }
}

impl Known {
    /// Both together; `store` says the same in SQL. What a higher rank says stands; what both say stays as it was first.
    pub fn merge(self, other: Self) -> Self {
        let (mut high, low) = if other.rank > self.rank { (other, self) } else { (self, other) };
        // Below the last rank an end is no end.
        if low.rank == high.rank {
            high.finished_at = high.finished_at.or(low.finished_at);
            high.device = high.device.or(low.device);
            high.paid = high.paid.or(low.paid);
            high.problem = high.problem.or(low.problem);
            high.done = high.done.or(low.done);
        }
        high.transitions.extend(low.transitions);
        high.decisions.extend(low.decisions);
        high.failed.extend(low.failed);
        Self {
            state: high.state.or(low.state),
            kind: high.kind.or(low.kind),
            key: high.key.or(low.key),
            asker: high.asker.or(low.asker),
            created_at: high.created_at.min(low.created_at),
            attempts: high.attempts.max(low.attempts),
            hold: high.hold.or(low.hold),
            hold_expires: high.hold_expires.or(low.hold_expires),
            form: high.form.or(low.form),
            body: high.body.or(low.body),
            signed: high.signed.or(low.signed),
            next_look_at: high.next_look_at.max(low.next_look_at),
            gives_up_at: high.gives_up_at.max(low.gives_up_at),
            last_seq: high.last_seq.max(low.last_seq),
            ..high
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::history::{Admitted, Ended};
    use bus_schemas::{Cid, Code, Signer};
    use proptest::prelude::*;

    fn record(at: u64, what: HistoryEvent) -> HistoryRecord {
        let key = Signer::from_seed(&[1; 32]).public();
        let to = match &what {
            HistoryEvent::Rejected { .. } => JobState::Rejected,
            HistoryEvent::Ended(ended) => ended.state,
            HistoryEvent::Admitted(_) | HistoryEvent::Waiting { .. } | HistoryEvent::Assigned(_) | HistoryEvent::AttemptEnded(_) => {
                JobState::Submitted
            }
        };
        let transitions = vec![Transition { to, at, cause: "c".into(), actor: "a".into() }];
        HistoryRecord { net: key.network_id(), member: key.member_id(), job: JobId(Cid::of(b"j")), at, transitions, what }
    }
    fn asker() -> Asker {
        Asker::Member(Signer::from_seed(&[1; 32]).public().member_id())
    }
    fn decision(at: u64) -> Decision {
        Decision { round: at, at, took_ms: 0, considered: vec![], winner: None, why: "0 of 0 devices fit".into() }
    }
    fn admitted() -> HistoryEvent {
        HistoryEvent::Admitted(Box::new(Admitted {
            asker: asker(),
            key: "k".into(),
            kind: "echo".into(),
            submitted_at: 9,
            hold_mmana: MilliMana::mana(10),
            hold_expires: 99,
            form: Form::Json,
            body: b"{}".to_vec().into(),
            signed: None,
            nothing_fits: None,
        }))
    }
    fn rejected() -> HistoryEvent {
        let problem = Problem::new(Code::TooLittleMana, "no");
        HistoryEvent::Rejected { asker: asker(), key: Some("k".into()), kind: Some("echo".into()), problem }
    }
    fn waiting() -> HistoryEvent {
        HistoryEvent::Waiting { decision: decision(11), next_look_at: 12, gives_up_at: 99 }
    }
    fn ended() -> HistoryEvent {
        HistoryEvent::Ended(Box::new(Ended {
            state: JobState::Cancelled,
            attempts: 1,
            device: None,
            problem: Some(Problem::new(Code::JobCancelled, "because")),
            paid_mmana: None,
            done: None,
            decision: Some(decision(13)),
        }))
    }
    fn folded(records: &[(u64, HistoryRecord)]) -> Known {
        let mut jobs = Jobs::new();
        for (seq, record) in records {
            fold(&mut jobs, *seq, [record.clone()]);
        }
        let mut known = jobs.into_values().next().unwrap();
        known.transitions.sort_by_key(|transition| transition.at);
        known.decisions.sort_by_key(|decision| decision.at);
        known
    }

    #[test]
    fn a_rejected_job_may_be_admitted_later_and_an_ended_one_stays() {
        let (rejected, admitted, ended) = ((1, record(8, rejected())), (2, record(10, admitted())), (3, record(14, ended())));
        let one = folded(&[rejected.clone(), admitted.clone()]);
        assert_eq!((one.state, one.problem.clone(), one.finished_at), (Some(JobState::Submitted), None, None));
        let two = folded(&[ended.clone(), admitted.clone(), rejected.clone()]);
        assert_eq!((two.state, two.finished_at, two.hold), (Some(JobState::Cancelled), Some(14), Some(MilliMana::mana(10))));
        assert_eq!((two.created_at, two.last_seq, two.transitions.len()), (8, 3, 3));
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(order in Just(vec![0_usize, 1, 2, 3]).prop_shuffle()) {
            let records = [(1, record(8, rejected())), (2, record(10, admitted())), (3, record(11, waiting())), (4, record(14, ended()))];
            let shuffled: Vec<_> = order.iter().map(|i| records[*i].clone()).collect();
            prop_assert_eq!(folded(&shuffled), folded(&records));
        }
    }
}
