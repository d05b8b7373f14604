//! What a member asks about its jobs, the same at every door. Another member's job does not exist.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use bus_schemas::api::ask::JobLs;
use bus_schemas::api::{BlobRef, ErrorBody, Explanation, JobList, JobView, ReceiptView, ResultView, Submitted};
use bus_schemas::history::CancelRequest;
use bus_schemas::id::{Asker, CID_TEXT_PREFIX, DeviceId, JobId, MemberId};
use bus_schemas::job::{JobSpec, JobState};
use bus_schemas::{Code, Problem, stream, subject};

use crate::admission::{self, Candidate, Headers, Submission};
use crate::freshness::Age;
use crate::history::{Known, Rank};
use crate::live::Running;
use crate::next::{is_quiet, ms};
use crate::store::StoreError;
use crate::submit::Answer;
use crate::views::{self, Moment};
use crate::world::{World, lock};

const LIST_DEFAULT: u32 = 50;
const LIST_MAX: u32 = 200;
/// Rows follow HISTORY by a tick; a job that is not there yet is waited for at most this long.
const ROWS_MAY_LAG: Duration = Duration::from_secs(1);
const SHORT: &str = "job_";
/// The fewest characters of an id that are worth a search.
const PREFIX_MIN: usize = 4;

impl World {
    pub fn moment(&self, id: &JobId, known: &Known) -> Moment {
        // What a device told last may be of an attempt that has ended since.
        let goes_on = |running: &Running| known.failed.iter().all(|ended| ended.attempt != running.attempt);
        // Any device can say that it has a job; it does where it won an auction of it.
        let has_won = |device: &DeviceId| known.decisions.iter().any(|decision| decision.winner == Some(*device));
        let running = self.live.running(id).filter(goes_on).filter(|running| has_won(&running.device));
        let holder = self.fleet.holder_of(id).filter(has_won);
        let ended = known.failed.iter().map(|attempt| attempt.device);
        let devices = running.iter().map(|running| running.device).chain(holder).chain(known.device).chain(ended);
        let names = self.fleet.names(devices);
        let moment = Moment { running, holder, names, ..Moment::default() };
        let silent_ms = self.silent_ms(&moment);
        Moment { silent_ms, quiet_ms: silent_ms.filter(|silent| is_quiet(*silent, &self.timings)), ..moment }
    }

    /// For how long nothing was heard of the device that has it, by its own word.
    fn silent_ms(&self, moment: &Moment) -> Option<u64> {
        let device = moment.heard_of()?;
        let beat = self.fleet.silent_for(&device).map(ms);
        let told = moment.running.as_ref().filter(|running| running.device == device);
        beat.into_iter().chain(told.map(|running| self.now().saturating_sub(running.at))).min()
    }

    /// With who has it in hand, and whether somebody wants it to end.
    async fn whole_moment(&self, member: &MemberId, id: &JobId, known: &Known) -> Result<Moment, Problem> {
        if known.state.is_some_and(JobState::is_final) {
            let retried_as = self.retry_of(member, id, known).await?.map(|(again, _)| again);
            return Ok(Moment { retried_as, ..self.moment(id, known) });
        }
        let (held, cancelled_at, overdue) = tokio::join!(self.held(id), self.store.cancelled_at(id), self.store.overdue(member, id));
        let holder_silent_ms = views::last_scheduler(known).and_then(|s| self.fleet.scheduler_silent_for(&s)).map(ms);
        Ok(Moment { held, holder_silent_ms, cancelled_at: cancelled_at?, overdue: overdue?, ..self.moment(id, known) })
    }

    /// The job that a full id, a short one or a unique beginning names.
    async fn find(&self, member: &MemberId, text: &str) -> Result<(JobId, Known), Problem> {
        let deadline = tokio::time::Instant::now() + ROWS_MAY_LAG;
        let mut up_to_date = false;
        loop {
            if let Some(found) = self.look(member, text).await? {
                return Ok(found);
            }
            if up_to_date || tokio::time::Instant::now() >= deadline {
                if let Some(found) = self.look_at_awaited(member, text).await? {
                    return Ok(found);
                }
                let shown: String = text.chars().take(80).collect();
                return Err(Problem::new(Code::NoSuchJob, format!("you have no job {shown}")));
            }
            // Once the rows hold all that HISTORY has now, a miss is a miss.
            tokio::time::sleep(self.timings.tick).await;
            let end = self.bus.stream_end(stream::HISTORY).await;
            up_to_date = match end {
                Ok(end) => end.last_seq == 0 || self.store.has_applied(end.last_seq).await?,
                Err(_) => false,
            };
        }
    }

    async fn look_at_awaited(&self, member: &MemberId, text: &str) -> Result<Option<(JobId, Known)>, Problem> {
        match text.parse::<JobId>() {
            Ok(id) => self.awaited(member, |job| *job == id).await,
            Err(_) => match prefix_of(SHORT, text)? {
                Some(prefix) => self.awaited(member, |job| job.to_string().starts_with(&prefix)).await,
                None => Ok(None),
            },
        }
    }

    async fn look(&self, member: &MemberId, text: &str) -> Result<Option<(JobId, Known)>, Problem> {
        let id = match text.parse::<JobId>() {
            Ok(id) => id,
            Err(_) => {
                let Some(prefix) = prefix_of(SHORT, text)? else { return Ok(None) };
                match self.store.ids_like(member, &prefix).await?.as_slice() {
                    [] => return Ok(None),
                    [one] => *one,
                    [one, other, ..] => {
                        let detail = format!("{text} may be {} or {}", one.short(), other.short());
                        return Err(Problem::new(Code::Ambiguous, detail));
                    }
                }
            }
        };
        Ok(self.store.job(member, &id).await?.map(|known| (id, known)))
    }

    /// # Errors
    /// [`Code::NoSuchJob`], [`Code::Ambiguous`], [`Code::Unavailable`], here and in all that name one job.
    pub async fn job_show(&self, member: &MemberId, id: &str) -> Result<JobView, Problem> {
        let (id, known) = self.find(member, id).await?;
        let retry_of = known.spec().and_then(|spec| spec.retry_of);
        let moment = self.whole_moment(member, &id, &known).await?;
        Ok(JobView { retry_of, ..views::job(*member, id, &known, &moment) })
    }

    /// # Errors
    /// As [`Self::job_show`].
    pub async fn job_explain(&self, member: &MemberId, id: &str) -> Result<Explanation, Problem> {
        let (id, known) = self.find(member, id).await?;
        let moment = self.whole_moment(member, &id, &known).await?;
        Ok(views::explanation(id, &known, &moment, self.now(), &self.timings))
    }

    /// The result, and where its bytes are, if they are not in it.
    ///
    /// # Errors
    /// As [`Self::job_show`]; also why there is no result.
    pub async fn job_result(&self, member: &MemberId, id: &str) -> Result<(ResultView, Option<BlobRef>), Problem> {
        let (id, known) = self.find(member, id).await?;
        views::result(id, &known, &self.moment(&id, &known))
    }

    /// # Errors
    /// As [`Self::job_result`].
    pub async fn job_receipt(&self, member: &MemberId, id: &str) -> Result<ReceiptView, Problem> {
        let (id, known) = self.find(member, id).await?;
        let done = match &known.done {
            // Cancelled work that was paid has one, too.
            Some(done) => done,
            None => views::done(id, &known, &self.moment(&id, &known))?,
        };
        views::receipt(id, done)
    }

    /// Asks whoever holds the job to end it; the answer is its state now.
    ///
    /// # Errors
    /// As [`Self::job_show`]; [`Code::CannotCancel`] where it has ended.
    pub async fn job_cancel(&self, member: &MemberId, id: &str) -> Result<JobView, Problem> {
        let (id, known) = self.find(member, id).await?;
        let view = views::job(*member, id, &known, &self.moment(&id, &known));
        if view.state.is_final() {
            return Err(Problem::new(Code::CannotCancel, format!("{} is {} already", view.short, view.state)));
        }
        let request = CancelRequest { net: self.net, job: id, member: *member, at: self.now(), unless_assigned: false };
        let batch = self.signer.batch(&[request]).encode();
        match self.bus.store(subject::cancel(&id), None, batch.into(), Duration::from_secs(5)).await {
            Ok(_) => {
                // So that `job show` says at any gateway that it is being cancelled.
                let _ = tokio::time::timeout(ROWS_MAY_LAG, self.read_on(stream::CANCELS)).await;
                Ok(JobView { cancelling: true, ..view })
            }
            Err(error) => Err(Problem::new(Code::Unavailable, format!("the wish could not be stored: {error}"))),
        }
    }

    /// The job that tries this one again, where there is one: its key follows from this one's id, and its id from both.
    async fn retry_of(&self, member: &MemberId, id: &JobId, known: &Known) -> Result<Option<(JobId, Known)>, Problem> {
        let state = views::state(known, &Moment::default());
        let Ok((key, payload)) = retried(*id, state, known).and_then(|again| message(id, &again)) else { return Ok(None) };
        let headers = Headers { job_key: Some(&key), ..Headers::default() };
        let submission = Submission { net: self.net, member: *member, headers, payload: &payload, fallback_key: &key, now: self.now() };
        let sorted = admission::sort(&submission, &mut lock(&self.verifier)).into_vec();
        let Some(again) = sorted.first().map(Candidate::job) else { return Ok(None) };
        let found = self.store.job(member, &again).await?;
        // One that was refused is no try; it may be made once more.
        Ok(found.filter(|known| known.rank > Rank::Rejected).map(|known| (again, known)))
    }

    /// Submits the work of a job that failed or was cancelled once more, as a new job. While that one goes on or once it has completed, to
    /// ask again changes nothing; where it ended without a result, it is the one to try again.
    ///
    /// # Errors
    /// As [`Self::job_show`]; [`Code::NotFinished`], [`Code::CannotRetry`], [`Code::TriedAgain`] and [`Code::CannotResend`] (its letter was
    /// put away) where there is nothing to try again;
    /// what submitting refuses.
    pub async fn job_retry(&self, asker: &Asker, id: &str) -> Result<Submitted, About> {
        let member = self.member_of(asker).await?;
        let (id, known) = self.find(&member, id).await?;
        let state = views::state(&known, &self.moment(&id, &known));
        let (key, payload) = retried(id, state, &known).and_then(|again| message(&id, &again))?;
        if state == JobState::Failed {
            self.may_retry_failed(&id).await?;
        }
        if let Some((again, its)) = self.retry_of(&member, &id, &known).await? {
            let state = views::state(&its, &self.moment(&again, &its));
            return tried(id, again, state).map(|()| views::submitted(again, &key, state, None));
        }
        let headers = Headers { job_key: Some(&key), ..Headers::default() };
        match self.submit(asker, headers, payload.into()).await? {
            Answer::One(submitted) => {
                if state == JobState::Failed {
                    self.note_retried(&member, &id, submitted.id).await;
                }
                Ok(submitted)
            }
            Answer::Many(_) => Err(Problem::new(Code::Internal, "one job became a list").into()),
        }
    }

    /// # Errors
    /// [`Code::BadValue`] for a limit or cursor that is none, [`Code::Unavailable`].
    pub async fn job_ls(&self, member: &MemberId, ask: &JobLs) -> Result<JobList, Problem> {
        let limit = ask.limit.unwrap_or(LIST_DEFAULT);
        if !(1..=LIST_MAX).contains(&limit) {
            return Err(Problem::new(Code::BadValue, format!("limit is {limit}; 1 to {LIST_MAX} are allowed")));
        }
        let after = ask.cursor.as_deref().map(parse_cursor).transpose()?;
        // First: what comes into the rows meanwhile makes the list newer than it says.
        let age = self.age().await;
        if ask.overdue {
            let found = self.store.all_overdue(member, limit).await?;
            let view = |(id, known, overdue): (JobId, Known, String)| {
                views::job(*member, id, &known, &Moment { overdue: Some(overdue), ..self.moment(&id, &known) })
            };
            let Age { as_of, behind_ms } = age;
            return Ok(JobList { jobs: found.into_iter().map(view).collect(), cursor: None, as_of, behind_ms });
        }
        // Rows know of jobs that go on that they were submitted; the rest is of this moment.
        let stored = ask.state.map(|state| if state.is_final() { state } else { JobState::Submitted });
        let rows = self.store.jobs(member, stored, after, limit).await?;
        let whole_page = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
        let cursor = rows.last().filter(|_| whole_page).map(|(id, known)| format!("{}.{id}", known.created_at));
        let waiting = match after.is_none() && ask.state.is_none_or(|state| state == JobState::Submitted) {
            true => self.waiting(member, &rows, limit).await,
            false => vec![],
        };
        let all = waiting.iter().chain(&rows);
        let views = all.map(|(id, known)| views::job(*member, *id, known, &self.moment(id, known)));
        let jobs = views.filter(|view| ask.state.is_none_or(|state| state == view.state)).collect();
        Ok(JobList { jobs, cursor, as_of: age.as_of, behind_ms: age.behind_ms })
    }
}

impl World {
    /// Submissions that are stored and no jobs yet, newest first: they stand before the first page. A list is worth having without them.
    async fn waiting(&self, member: &MemberId, rows: &[(JobId, Known)], limit: u32) -> Vec<(JobId, Known)> {
        let awaited = async {
            // As a rule nothing waits, and a member may have many devices to ask for.
            self.bus.stream_end(stream::SUBMIT).await.ok().filter(|end| end.messages > 0)?;
            self.all_awaited(member, |job| rows.iter().all(|(id, _)| id != job)).await.ok()
        };
        let Ok(Some(mut awaited)) = tokio::time::timeout(ROWS_MAY_LAG, awaited).await else { return vec![] };
        awaited.sort_by_key(|(id, known)| (std::cmp::Reverse(known.created_at), *id));
        let mut seen = BTreeSet::new();
        awaited.retain(|(id, _)| seen.insert(*id));
        let mut waiting = Vec::new();
        for (id, known) in awaited.into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX)) {
            // A repeat of an older job, or one that has become a job since.
            if matches!(self.store.job(member, &id).await, Ok(None)) {
                waiting.push((id, known));
            }
        }
        waiting
    }
}

/// The same work as a new job. The member asks for it by itself now, so what a signature was about falls away.
fn retried(id: JobId, state: JobState, known: &Known) -> Result<JobSpec, Problem> {
    match state {
        JobState::Failed | JobState::Cancelled => (),
        JobState::Completed => return Err(Problem::new(Code::CannotRetry, format!("{} has completed; its result is there", id.short()))),
        JobState::Rejected => return Err(Problem::new(Code::CannotRetry, format!("{} never became a job; submit it anew", id.short()))),
        JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed | JobState::Assigned | JobState::Executing => {
            return Err(Problem::new(Code::NotFinished, format!("{} is {state}; what has ended can be tried again", id.short())));
        }
    }
    let spec = known.spec().ok_or_else(|| Problem::new(Code::CannotRetry, format!("what {} asked for is not known here", id.short())))?;
    Ok(JobSpec { net: None, by: None, key: None, at: None, exp: None, retry_of: Some(id), ..spec })
}

/// What a retry sends: its key and its bytes.
fn message(id: &JobId, again: &JobSpec) -> Result<(String, Vec<u8>), Problem> {
    let payload = serde_json::to_vec(again).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok((format!("retry:{id}"), payload))
}

/// Whether a retry that was made before still stands for the job that it tries again.
///
/// # Errors
/// [`Code::TriedAgain`], about the retry, where that has ended without a result.
pub fn tried(id: JobId, again: JobId, state: JobState) -> Result<(), About> {
    match state {
        JobState::Failed | JobState::Cancelled => {
            let detail = format!("{} was tried again as {}, which is {state}; that one can be tried again", id.short(), again.short());
            Err(About { problem: Problem::new(Code::TriedAgain, detail), id: Some(again.short()) })
        }
        JobState::Submitted
        | JobState::BiddingOpen
        | JobState::BiddingClosed
        | JobState::Assigned
        | JobState::Executing
        | JobState::Completed
        | JobState::Rejected => Ok(()),
    }
}

/// A refusal that is about another job than the one that was named.
#[derive(Debug)]
pub struct About {
    pub problem: Problem,
    /// What stands in the commands to run next, instead of what was asked about.
    pub id: Option<String>,
}
impl About {
    /// For people; `asked` is what they named.
    pub fn body(&self, asked: &str) -> ErrorBody {
        self.problem.body().about(self.id.as_deref().unwrap_or(asked))
    }
}
impl From<Problem> for About {
    fn from(problem: Problem) -> Self {
        Self { problem, id: None }
    }
}
impl From<StoreError> for About {
    fn from(error: StoreError) -> Self {
        Problem::from(error).into()
    }
}

/// Where a page ended: a time and an id.
///
/// # Errors
/// [`Code::BadValue`].
pub fn parse_cursor<T: FromStr>(cursor: &str) -> Result<(u64, T), Problem> {
    let parsed = cursor.split_once('.').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
    parsed.ok_or_else(|| Problem::new(Code::BadValue, "the cursor is none that was given out"))
}

/// The beginning of full ids that a short form (`job_…`) stands for; `None` where no id begins so.
///
/// # Errors
/// [`Code::Ambiguous`] where it is too short to look for.
pub fn prefix_of(short: &str, text: &str) -> Result<Option<String>, Problem> {
    let rest = match text.strip_prefix(short) {
        Some(rest) => rest,
        None if text.starts_with(CID_TEXT_PREFIX) => &text[CID_TEXT_PREFIX.len()..],
        None => text,
    };
    if rest.len() > 52 || !rest.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')) {
        return Ok(None);
    }
    if rest.len() < PREFIX_MIN {
        return Err(Problem::new(Code::Ambiguous, format!("{text:?} may be anything; give at least {PREFIX_MIN} letters of its id")));
    }
    Ok(Some(format!("{CID_TEXT_PREFIX}{rest}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_ids() {
        let cases = [
            ("job_bm6jg3ux", Ok(Some("bafkreibm6jg3ux"))),
            ("bm6j", Ok(Some("bafkreibm6j"))),
            ("bafkreibm6jg", Ok(Some("bafkreibm6jg"))),
            ("job_", Err(Code::Ambiguous)),
            ("bm6", Err(Code::Ambiguous)),
            ("job_%", Ok(None)),
            ("job_BM6JG3UX", Ok(None)),
            ("job_nothere1", Ok(None)),
        ];
        for (text, expected) in cases {
            let found = prefix_of(SHORT, text).map_err(|problem| problem.code);
            assert_eq!(found, expected.map(|prefix| prefix.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn what_may_be_tried_again() {
        let id = JobId(bus_schemas::Cid::of(b"job"));
        let body = |text: &str| Known { form: Some(bus_schemas::Form::Json), body: Some(text.as_bytes().to_vec()), ..Known::default() };
        let known = body(r#"{"kind":"echo","text":"a","key":"k","at":1,"exp":2,"cost_mana":"1.5","priority":"low"}"#);
        for (state, code) in [
            (JobState::Failed, None),
            (JobState::Cancelled, None),
            (JobState::Completed, Some(Code::CannotRetry)),
            (JobState::Rejected, Some(Code::CannotRetry)),
            (JobState::Submitted, Some(Code::NotFinished)),
            (JobState::Executing, Some(Code::NotFinished)),
        ] {
            assert_eq!(retried(id, state, &known).err().map(|problem| problem.code), code, "{state}");
        }
        let again = serde_json::to_value(retried(id, JobState::Failed, &known).unwrap()).unwrap();
        let expected = serde_json::json!({"kind": "echo", "text": "a", "cost_mana": "1.5", "priority": "low", "retry_of": id});
        assert_eq!(again, expected, "the same work, without what a signature was about");
        assert_eq!(retried(id, JobState::Failed, &Known::default()).unwrap_err().code, Code::CannotRetry);
    }

    #[test]
    fn a_retry_stands_unless_it_ended_without_a_result() {
        let (id, again) = (JobId(bus_schemas::Cid::of(b"j")), JobId(bus_schemas::Cid::of(b"k")));
        for state in [JobState::Submitted, JobState::BiddingOpen, JobState::Assigned, JobState::Executing, JobState::Completed] {
            assert!(tried(id, again, state).is_ok(), "{state}");
        }
        for state in [JobState::Failed, JobState::Cancelled] {
            let refused = tried(id, again, state).unwrap_err().body(&id.to_string());
            assert_eq!((refused.code, refused.next), (Code::TriedAgain, vec![format!("mesh job retry {}", again.short())]));
            assert!(refused.detail.contains(&format!("as {}, which is {state}", again.short())), "{}", refused.detail);
        }
        assert_eq!(About::from(Problem::new(Code::CannotRetry, "")).body("job_a").next, ["mesh job show job_a"]);
    }

    #[test]
    fn cursors() {
        let id = JobId(bus_schemas::Cid::of(b"j"));
        assert_eq!(parse_cursor(&format!("5.{id}")), Ok((5, id)));
        for bad in ["", "5", "x.y", "5.bafkrei"] {
            assert_eq!(parse_cursor::<JobId>(bad).unwrap_err().code, Code::BadValue, "{bad}");
        }
    }
}
