//! What the ledger's answer to a question for a hold means. Pure: every gateway reads the same answer alike.

use bus_schemas::ledger::{HoldState, HoldView, LedgerOutcome, RefusalKind, VoidReason};
use bus_schemas::{Code, JobId, Problem};

/// What a hold, or none, means for a job that waits for it.
#[derive(Debug, PartialEq, Eq)]
pub enum Judged {
    /// Money is set aside: it becomes a job.
    Go(HoldView),
    /// The same job was here before and has ended.
    Ended(HoldView),
    /// It never becomes one.
    Refuse(Problem),
}

/// What the ledger's answer means for the job.
pub fn judge(job: &JobId, outcome: LedgerOutcome) -> Judged {
    match outcome {
        LedgerOutcome::Refused { code, why, detail } => {
            let code = match why {
                RefusalKind::InsufficientMana => Code::TooLittleMana,
                RefusalKind::KeyConflict => Code::Conflict,
                RefusalKind::UnknownMember
                | RefusalKind::UnknownDevice
                | RefusalKind::UnknownJob
                | RefusalKind::AlreadySettled
                | RefusalKind::AlreadyVoided
                | RefusalKind::BadEvidence
                | RefusalKind::BadAmount
                | RefusalKind::NotAllowed
                | RefusalKind::Expired
                | RefusalKind::DeviceBoundElsewhere
                | RefusalKind::HoldExpired
                | RefusalKind::TooManyHolds
                | RefusalKind::SelfTransfer
                | RefusalKind::NotInReview
                | RefusalKind::BadPolicy
                | RefusalKind::DeviceRevoked
                | RefusalKind::MemberSuspended => code,
            };
            Judged::Refuse(Problem::new(code, detail))
        }
        LedgerOutcome::Done(done) => match done.hold {
            Some(hold) if hold.job != *job => Judged::Refuse(Problem::new(Code::Conflict, "the key was used for another job")),
            Some(hold) => match &hold.state {
                HoldState::Open => Judged::Go(hold),
                HoldState::Voided { reason: VoidReason::Expired | VoidReason::NotAdmitted } => Judged::Refuse(Problem::new(
                    Code::NotAdmitted,
                    "its hold was returned before it became a job; send it again with a new key",
                )),
                HoldState::Settled { .. }
                | HoldState::Voided { reason: VoidReason::Cancelled | VoidReason::Failed | VoidReason::NotPlaced } => Judged::Ended(hold),
            },
            None => Judged::Refuse(Problem::new(Code::Internal, "the ledger answered without a hold")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::ledger::Done;
    use bus_schemas::{Cid, FactId, MilliMana, Signer};

    fn done(job: JobId, repeat: bool, state: HoldState) -> LedgerOutcome {
        let hold =
            HoldView { job, member: Signer::from_seed(&[1; 32]).public().member_id(), amount_mmana: MilliMana::mana(1), expires: 9, state };
        LedgerOutcome::Done(Done { fact: FactId(Cid::of(b"f")), seq: 1, repeat, hold: Some(hold) })
    }

    #[test]
    fn what_an_answer_of_the_ledger_means() {
        let job = JobId(Cid::of(b"j"));
        let voided = |reason| HoldState::Voided { reason };
        let refused = |why| LedgerOutcome::Refused { code: Code::Refused, why, detail: "because".into() };
        let name = |judged: Judged| match judged {
            Judged::Go(_) => "go".to_owned(),
            Judged::Ended(_) => "ended".to_owned(),
            Judged::Refuse(problem) => problem.code.to_string(),
        };
        let cases = [
            (done(job, false, HoldState::Open), "go"),
            (done(job, true, HoldState::Open), "go"),
            (done(job, true, voided(VoidReason::Cancelled)), "ended"),
            (done(job, true, voided(VoidReason::Failed)), "ended"),
            (done(job, true, voided(VoidReason::Expired)), "M0505"),
            (done(job, true, voided(VoidReason::NotAdmitted)), "M0505"),
            (done(JobId(Cid::of(b"other")), true, HoldState::Open), "M0502"),
            (refused(RefusalKind::InsufficientMana), "M0601"),
            (refused(RefusalKind::KeyConflict), "M0502"),
            (refused(RefusalKind::UnknownMember), "M0602"),
        ];
        for (outcome, expected) in cases {
            assert_eq!(name(judge(&job, outcome.clone())), expected, "{outcome:?}");
        }
    }
}
