//! The answered doors' way to submit: sort out, store in SUBMIT as the asker, and wait for what intake makes of it.

use std::time::Duration;

use async_nats::HeaderMap;
use bus::store::StoreError;
use bus_schemas::api::{ErrorBody, Submitted};
use bus_schemas::envelope::{HEADER_KEY, HEADER_SIG, HEADER_TYPE};
use bus_schemas::id::{Asker, JobId, MemberId};
use bus_schemas::job::JobState;
use bus_schemas::{Code, Problem, limits, subject};
use futures::future::join_all;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::admission::{self, Candidate, Headers, Sorted, Submission};
use crate::awaited::WHY;
use crate::history::Rank;
use crate::intake::DOOR_KEY;
use crate::live::Told;
use crate::views::{self, Moment};
use crate::world::{World, crash_point, lock};

/// How long a door waits to hear; the job lives on without it.
const WAIT: Duration = Duration::from_secs(5);
/// How long it tries to store a submission: longer than the election of a stream's leader takes, and less than clients wait.
const STORE_WAIT: Duration = Duration::from_secs(10);
/// When it looks by itself: a job that ended long ago is told of by nobody.
const LOOK: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// What came of a submission.
#[derive(Debug)]
pub enum Answer {
    One(Submitted),
    /// A list was sent; in its order.
    Many(Vec<Each>),
}
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Each {
    Fine(Submitted),
    Wrong(ErrorBody),
}
impl Answer {
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::One(submitted) => serde_json::to_vec(submitted),
            Self::Many(list) => serde_json::to_vec(list),
        }
    }
}

impl World {
    /// Submits as `asker`.
    ///
    /// # Errors
    /// What is wrong with the job, or why it could not be stored. In a list each has its own.
    pub async fn submit(&self, asker: &Asker, headers: Headers<'_>, payload: bytes::Bytes) -> Result<Answer, Problem> {
        let member = self.member_of(asker).await?;
        let made = bus::keys::random_hex::<12>().map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        let door_key = format!("door:{made}");
        let submission = Submission { net: self.net, member, headers, payload: &payload, fallback_key: &door_key, now: self.now() };
        let sorted = admission::sort(&submission, &mut lock(&self.verifier));
        let sound = sorted.as_slice().iter().any(|candidate| matches!(candidate, Candidate::Admit(_)));
        if !sound {
            metrics::counter!("mesh_jobs_submitted_total").increment(sorted.as_slice().len() as u64);
            metrics::counter!("mesh_jobs_rejected_total").increment(sorted.as_slice().len() as u64);
            return all_wrong(sorted);
        }
        let waiting: Vec<_> = sorted.as_slice().iter().map(|candidate| self.live.wait_for(member, candidate.job())).collect();
        let deadline = Instant::now() + WAIT;
        let stored = self.store_submission(asker, headers, payload, &door_key).await;
        crash_point("after_store");
        let answer = match stored {
            Err(problem) => Err(problem),
            Ok(()) => match sorted {
                Sorted::One(candidate) => self.hear(&member, candidate, waiting.into_iter().next(), deadline).await.map(Answer::One),
                Sorted::Many(list) => {
                    let each = list.into_iter().zip(waiting).map(|(candidate, told)| self.hear(&member, candidate, Some(told), deadline));
                    let answers = join_all(each).await.into_iter();
                    Ok(Answer::Many(answers.map(|answer| answer.map_or_else(|problem| Each::Wrong(problem.body()), Each::Fine)).collect()))
                }
            },
        };
        self.live.tidy(&member);
        answer
    }

    async fn store_submission(&self, asker: &Asker, from: Headers<'_>, payload: bytes::Bytes, door_key: &str) -> Result<(), Problem> {
        let mut headers = HeaderMap::new();
        // A message id would be one name space for all who submit; as our own header it means the same.
        let key = from.job_key.or(from.msg_id);
        let named = [
            (subject::header::JOB_KEY, key),
            (DOOR_KEY, Some(door_key)),
            ("Content-Type", from.content_type),
            (HEADER_TYPE, from.mesh_type),
            (HEADER_KEY, from.mesh_key),
            (HEADER_SIG, from.mesh_sig),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        match self.bus.store(subject::submit(asker), Some(headers), payload, STORE_WAIT).await {
            Ok(_) => Ok(()),
            Err(StoreError::Refused { err_code: StoreError::MAX_PER_SUBJECT, .. }) => {
                Err(Problem::new(Code::TooManyWaiting, "10,000 of your submissions wait already"))
            }
            Err(StoreError::TooLarge(bytes)) => {
                Err(Problem::new(Code::TooLarge, format!("{bytes} bytes, at most {} are allowed", limits::SUBMISSION_BYTES_MAX)))
            }
            Err(StoreError::TimedOut) => Err(Problem::new(
                Code::Unavailable,
                format!(
                    "it is not known whether the submission was stored; send it again with the key {} and it is one job",
                    key.unwrap_or(door_key)
                ),
            )),
            Err(error @ (StoreError::Refused { .. } | StoreError::NoStream(_) | StoreError::Other(_))) => {
                Err(Problem::new(Code::Unavailable, format!("the submission could not be stored: {error}")))
            }
        }
    }

    /// Waits until it is known what became of one job.
    async fn hear(
        &self,
        member: &MemberId,
        candidate: Candidate,
        told: Option<oneshot::Receiver<Told>>,
        deadline: Instant,
    ) -> Result<Submitted, Problem> {
        let admit = match candidate {
            Candidate::Admit(admit) => admit,
            Candidate::Refuse(refused) => return Err(refused.problem),
        };
        let heard = async {
            match told {
                Some(told) => told.await.ok(),
                None => None,
            }
        };
        let looked = self.look_until_known(member, &admit.job);
        tokio::select! {
            Some(told) = heard => match told {
                Told::Admitted { waiting } => Ok(views::submitted(admit.job, &admit.key, JobState::Submitted, waiting)),
                Told::Rejected(problem) => Err(problem),
            },
            state = looked => Ok(views::submitted(admit.job, &admit.key, state, None)),
            () = tokio::time::sleep_until(deadline) => {
                let waiting = Some(WHY.to_owned());
                Ok(views::submitted(admit.job, &admit.key, JobState::Submitted, waiting))
            }
            else => Ok(views::submitted(admit.job, &admit.key, JobState::Submitted, None)),
        }
    }

    /// Comes back only once the rows know the job as one.
    async fn look_until_known(&self, member: &MemberId, job: &JobId) -> JobState {
        for pause in LOOK {
            tokio::time::sleep(pause).await;
            if let Ok(Some(known)) = self.store.job(member, job).await
                && known.rank > Rank::Rejected
            {
                return views::state(&known, &Moment::default());
            }
        }
        std::future::pending().await
    }
}

fn all_wrong(sorted: Sorted) -> Result<Answer, Problem> {
    let problem = |candidate: Candidate| match candidate {
        Candidate::Refuse(refused) => refused.problem,
        Candidate::Admit(admit) => Problem::new(Code::Internal, format!("{} is sound", admit.job)),
    };
    match sorted {
        Sorted::One(candidate) => Err(problem(candidate)),
        Sorted::Many(list) => Ok(Answer::Many(list.into_iter().map(|candidate| Each::Wrong(problem(candidate).body())).collect())),
    }
}
