//! Submissions that are stored and no jobs yet: their hold waits for the ledger. Whoever was told their id may ask about them, and may
//! cancel them; "no such job" would make a program send the work again.

use bus_schemas::history::Decision;
use bus_schemas::id::{Asker, JobId, MemberId};
use bus_schemas::job::JobState;
use bus_schemas::{Code, Problem, stream, subject};

use crate::admission::{Admit, Candidate};
use crate::history::{Known, Rank};
use crate::intake;
use crate::world::World;

/// What such a job waits for, as every door says it.
pub const WHY: &str = "it is stored, and becomes a job once the ledger has made its hold";
/// Read at once, and in all: more wait only where the ledger has been away for long.
const PAGE: usize = 64;
const LOOKED_MAX: usize = 2_048;

impl World {
    /// The job of a stored submission of this member, by its id or the beginning of it.
    ///
    /// # Errors
    /// [`Code::Unavailable`] where SUBMIT cannot be read; [`Code::Ambiguous`].
    pub async fn awaited(&self, member: &MemberId, is_meant: impl Fn(&JobId) -> bool) -> Result<Option<(JobId, Known)>, Problem> {
        let mut found: Option<(JobId, Known)> = None;
        for (job, known) in self.all_awaited(member, is_meant).await? {
            match &found {
                Some((other, _)) if *other != job => {
                    let detail = format!("it may be {} or {}", other.short(), job.short());
                    return Err(Problem::new(Code::Ambiguous, detail));
                }
                Some(_) => {}
                None => found = Some((job, known)),
            }
        }
        Ok(found)
    }

    /// The jobs of this member's stored submissions, oldest first for each who sent them, as far as they are looked at.
    ///
    /// # Errors
    /// [`Code::Unavailable`] where SUBMIT cannot be read.
    pub async fn all_awaited(&self, member: &MemberId, is_meant: impl Fn(&JobId) -> bool) -> Result<Vec<(JobId, Known)>, Problem> {
        let askers = std::iter::once(Asker::Member(*member)).chain(self.fleet.devices_of(member).into_iter().map(Asker::Device));
        let (mut found, mut looked) = (Vec::new(), 0);
        for asker in askers {
            let (subject, mut from) = (subject::submit(&asker), 1);
            while looked < LOOKED_MAX {
                let page = self.bus.next_by_subject_sure(stream::SUBMIT, &subject, from, PAGE).await;
                let page = page.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))?;
                let Some(last) = page.last() else { break };
                from = last.seq + 1;
                looked += page.len();
                for message in &page {
                    let (headers, payload) = (Some(&message.headers), &message.payload);
                    for candidate in intake::sorted(self, *member, headers, payload, message.seq, message.time_ms).into_vec() {
                        if let Candidate::Admit(admit) = candidate
                            && is_meant(&admit.job)
                        {
                            found.push((admit.job, known(*admit, asker, message.time_ms)));
                        }
                    }
                }
            }
        }
        Ok(found)
    }
}

fn known(admit: Admit, asker: Asker, stored_at: u64) -> Known {
    let decision = Decision { round: 0, at: stored_at, took_ms: 0, considered: vec![], winner: None, why: WHY.into() };
    Known {
        rank: Rank::Admitted,
        state: Some(JobState::Submitted),
        kind: Some(admit.spec.kind),
        key: Some(admit.key),
        asker: Some(asker),
        created_at: stored_at,
        form: Some(admit.form),
        body: Some(admit.body),
        signed: admit.signed,
        decisions: vec![decision],
        ..Known::default()
    }
}
