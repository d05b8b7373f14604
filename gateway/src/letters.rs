//! Dead letters: what could not be done for good, whose it is, and what may still be done about it.
//!
//! A failed job's letter is made of HISTORY in the transaction that takes its end into the rows, so there is none without; the other
//! letters are those of DLQ. Whatever was tried again or dropped is a message of DLQ as well: told twice it is done once, and any gateway
//! knows it.

pub mod rows;

use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bus::direct::StoredMessage;
use bus_schemas::api::ask::LetterLs;
use bus_schemas::api::letters::{LetterList, LetterView, MarkView};
use bus_schemas::envelope::JsonBatch;
use bus_schemas::id::{Asker, CID_TEXT_PREFIX, JobId, LetterId, MemberId, NetworkId};
use bus_schemas::job::JobState;
use bus_schemas::letter::{Entry, Letter, Mark, Original, Stage};
use bus_schemas::{Code, Problem, stream, subject};

use crate::history::{Jobs, Known, Rank};
use crate::intake::{self, DOOR_KEY};
use crate::jobs::{About, parse_cursor, prefix_of};
use crate::views;
use crate::world::{World, crash_point, lock, rfc3339};
use rows::Kept;

const LIST_DEFAULT: u32 = 50;
const LIST_MAX: u32 = 200;
const STORE_WITHIN: Duration = Duration::from_secs(5);
/// A header that says more is none that says what a message is.
const HEADER_MAX: usize = 300;

/// Who asks about letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Sees its own, and may try them again.
    Member(Asker, MemberId),
    /// Sees all, and may drop them.
    Operator,
}
impl Reader {
    fn of(self) -> Option<MemberId> {
        match self {
            Self::Member(_, member) => Some(member),
            Self::Operator => None,
        }
    }
    pub fn name(self) -> String {
        match self {
            Self::Member(_, member) => member.to_string(),
            Self::Operator => "operator".to_owned(),
        }
    }
}

/// The letters of jobs that failed for good.
pub fn of_jobs(net: NetworkId, jobs: &Jobs) -> Vec<Letter> {
    jobs.iter().filter_map(|((member, job), known)| of_job(net, *member, *job, known)).collect()
}
fn of_job(net: NetworkId, member: MemberId, job: JobId, known: &Known) -> Option<Letter> {
    let failed = known.rank == Rank::Ended && known.state == Some(JobState::Failed);
    failed.then(|| Letter {
        net,
        id: LetterId::of_job(&job),
        at: known.finished_at.unwrap_or(known.created_at),
        stage: Stage::Failed,
        member: Some(member),
        job: Some(job),
        attempts: known.attempts,
        problem: known.problem.clone().unwrap_or_else(|| Problem::new(Code::JobFailed, "no reason was recorded")),
        original: None,
    })
}

/// The letter about a message that cannot be used.
pub fn about(net: NetworkId, stage: Stage, stored_at: u64, original: Original, problem: Problem) -> Letter {
    let id = LetterId::of_message(&original.stream, original.seq, stored_at);
    Letter { net, id, at: stored_at, stage, member: None, job: None, attempts: 0, problem, original: Some(original) }
}

/// What one message of DLQ says. One that none of our parts signed is a letter, too: somebody should know.
pub fn entry_of(world: &World, message: &StoredMessage) -> Entry {
    signed(world, message).unwrap_or_else(|problem| {
        let advisory = message.subject != subject::DLQ;
        let (stage, problem) = match advisory {
            true => (Stage::Advisory, Problem::new(Code::Internal, advised(&message.payload))),
            false => (Stage::Foreign, problem),
        };
        let seen = &message.payload[..message.payload.len().min(4_096)];
        let original =
            Original { bytes: message.payload.len() as u64, ..Original::keeping(stream::DLQ, message.seq, &message.subject, seen) };
        Entry::Letter(Box::new(about(world.net, stage, message.time_ms, original, problem)))
    })
}

fn signed(world: &World, message: &StoredMessage) -> Result<Entry, Problem> {
    let batch = JsonBatch::decode(&message.payload)?;
    let keys = [&world.document.gateway_keys, &world.document.scheduler_keys];
    if !keys.iter().any(|keys| keys.contains(&batch.k)) {
        return Err(Problem::new(Code::WrongSigner, format!("{} does not speak for this network here", batch.k)));
    }
    let entry = batch.verify::<Entry>(&mut lock(&world.verifier))?.into_iter().next().map(bus_schemas::Verified::into_body);
    let entry = entry.ok_or_else(|| Problem::new(Code::Empty, "nothing is in it"))?;
    let net = match &entry {
        Entry::Letter(letter) => letter.net,
        Entry::Retried { net, .. } | Entry::Dropped { net, .. } => *net,
    };
    if net == world.net { Ok(entry) } else { Err(Problem::new(Code::WrongNetwork, format!("it is about {net}"))) }
}

/// The server's own words about a consumer, in one line.
fn advised(payload: &[u8]) -> String {
    let told: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    let text =
        |name: &str| told.get(name).map_or_else(|| "?".to_owned(), |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let why = told.get("reason").map(|_| format!(": {}", text("reason"))).unwrap_or_default();
    format!(
        "consumer {} of {} gave up sequence {} after {} deliveries{why}",
        text("consumer"),
        text("stream"),
        text("stream_seq"),
        text("deliveries")
    )
}

fn view(kept: Kept) -> LetterView {
    let mark = |mark: Mark| MarkView { at: rfc3339(mark.at), by: mark.by, job: mark.job };
    let Letter { id, at, stage, member, job, attempts, problem, original, .. } = kept.letter;
    let about = job.map_or_else(|| id.short(), |job| job.short());
    LetterView {
        id,
        short: id.short(),
        at: rfc3339(at),
        stage,
        member,
        job,
        attempts,
        error: problem.body().about(&about),
        original,
        history: vec![],
        retried: kept.retried.map(mark),
        dropped: kept.dropped.map(mark),
    }
}

impl World {
    /// Stores a letter; says whether it is there.
    pub async fn keep_letter(&self, letter: Letter) -> bool {
        match self.store_entry(&Entry::Letter(Box::new(letter))).await {
            Ok(()) => {
                crash_point("after_letter");
                true
            }
            Err(problem) => {
                tracing::error!(%problem, "a dead letter cannot be stored");
                false
            }
        }
    }

    async fn store_entry(&self, entry: &Entry) -> Result<(), Problem> {
        let stored = self.bus.store(subject::DLQ.to_owned(), None, entry.signed(&self.signer).into(), STORE_WITHIN).await;
        stored.map(|_| ()).map_err(|error| Problem::new(Code::Unavailable, format!("DLQ took nothing: {error}")))
    }

    /// # Errors
    /// [`Code::BadValue`] for a limit or cursor that is none; [`Code::Unavailable`].
    pub async fn dlq_ls(&self, reader: Reader, ask: &LetterLs) -> Result<LetterList, Problem> {
        let limit = ask.limit.unwrap_or(LIST_DEFAULT);
        if !(1..=LIST_MAX).contains(&limit) {
            return Err(Problem::new(Code::BadValue, format!("limit is {limit}; 1 to {LIST_MAX} are allowed")));
        }
        let after = ask.cursor.as_deref().map(parse_cursor::<LetterId>).transpose()?;
        // Letters of failed jobs are made of HISTORY.
        let age = self.age().await;
        self.catch_up(stream::DLQ).await?;
        let kept = rows::list(&self.store, reader.of(), after, limit).await?;
        let whole_page = kept.len() == usize::try_from(limit).unwrap_or(usize::MAX);
        let cursor = kept.last().filter(|_| whole_page).map(|kept| format!("{}.{}", kept.letter.at, kept.letter.id));
        // A list is for looking over: the bytes are in `show`.
        let brief = |mut kept: Kept| {
            kept.letter.original.iter_mut().for_each(|original| original.payload = None);
            view(kept)
        };
        Ok(LetterList { letters: kept.into_iter().map(brief).collect(), cursor, as_of: age.as_of, behind_ms: age.behind_ms })
    }

    async fn find_letter(&self, reader: Reader, text: &str) -> Result<Kept, Problem> {
        let shown: String = text.chars().take(80).collect();
        let none = || Problem::new(Code::NoSuchLetter, format!("no dead letter {shown} among those that you may see"));
        // A failed job's letter may be named by the job.
        let (of_job, prefix) = match prefix_of("dlq_", text)? {
            Some(prefix) => (false, prefix),
            None => (true, prefix_of("job_", text)?.ok_or_else(none)?),
        };
        self.catch_up(stream::DLQ).await?;
        let mut found = rows::like(&self.store, reader.of(), &prefix, of_job || text.starts_with(CID_TEXT_PREFIX)).await?;
        if let [one, other, ..] = found.as_slice() {
            let (one, other) = (one.letter.id.short(), other.letter.id.short());
            return Err(Problem::new(Code::Ambiguous, format!("{shown} may be {one} or {other}")));
        }
        found.pop().ok_or_else(none)
    }

    /// One letter, with how the attempts of its job ended.
    ///
    /// # Errors
    /// [`Code::NoSuchLetter`], also for another member's; [`Code::Ambiguous`], [`Code::Unavailable`]. Here and in all that name one.
    pub async fn dlq_show(&self, reader: Reader, id: &str) -> Result<LetterView, Problem> {
        let kept = self.find_letter(reader, id).await?;
        let known = match (kept.letter.member, kept.letter.job) {
            (Some(member), Some(job)) => self.store.job(&member, &job).await?,
            (Some(_) | None, _) => None,
        };
        let mut history = known.map(|known| known.failed).unwrap_or_default();
        let names = self.fleet.names(history.iter().map(|attempt| attempt.device));
        history.iter_mut().for_each(|attempt| attempt.device_name = names.get(&attempt.device).cloned());
        history.sort_by_key(|attempt| attempt.number);
        Ok(LetterView { history, ..view(kept) })
    }

    /// Tries what the letter is about once more: a failed job as a new job of its member, a submission as it was sent.
    ///
    /// # Errors
    /// As [`Self::dlq_show`]; [`Code::CannotResend`] and [`Code::Forbidden`] where it must not be; what [`World::job_retry`] refuses.
    pub async fn dlq_retry(&self, reader: Reader, id: &str) -> Result<LetterView, About> {
        let kept = self.find_letter(reader, id).await?;
        may_retry(&kept)?;
        if let Some(mark) = &kept.retried {
            self.still_tried(&kept.letter, mark.job).await?;
            return Ok(view(kept));
        }
        let job = match kept.letter.stage {
            Stage::Failed => self.retry_failed(reader, &kept.letter).await?,
            Stage::Submission => Some(self.resend(reader, &kept.letter).await?).flatten(),
            stage @ (Stage::Job | Stage::History | Stage::Advisory | Stage::Foreign) => {
                let detail =
                    format!("it is about a message of stage {}: only a submission or a failed job can be tried again", stage.name());
                return Err(Problem::new(Code::CannotResend, detail).into());
            }
        };
        crash_point("after_retry");
        Ok(self.mark(reader, kept, job, |net, id, mark| Entry::Retried { net, id, mark }).await?)
    }

    /// Whether the job that tries a failed one again still stands for it.
    async fn still_tried(&self, letter: &Letter, again: Option<JobId>) -> Result<(), About> {
        let (Some(member), Some(failed), Some(again)) = (letter.member, letter.job, again) else { return Ok(()) };
        let Some(known) = self.store.job(&member, &again).await? else { return Ok(()) };
        crate::jobs::tried(failed, again, views::state(&known, &self.moment(&again, &known)))
    }

    async fn retry_failed(&self, reader: Reader, letter: &Letter) -> Result<Option<JobId>, About> {
        let (Some(member), Some(job)) = (letter.member, letter.job) else {
            return Err(Problem::new(Code::CannotResend, "it names no job").into());
        };
        match reader {
            Reader::Member(asker, asking) if asking == member => Ok(Some(self.job_retry(&asker, &job.to_string()).await?.id)),
            Reader::Member(..) | Reader::Operator => {
                let detail = format!("{} is paid by {member}, who alone may try it again", job.short());
                Err(Problem::new(Code::Forbidden, detail).into())
            }
        }
    }

    /// Stores a submission again as it came. The server let nobody but its asker publish it; it is safe once that asker is known.
    async fn resend(&self, reader: Reader, letter: &Letter) -> Result<Option<JobId>, Problem> {
        let no = |detail: String| Problem::new(Code::CannotResend, detail);
        if reader != Reader::Operator {
            return Err(Problem::new(Code::Forbidden, "only the operator may send it again"));
        }
        let original = letter.original.as_ref().ok_or_else(|| no("the message is not known".to_owned()))?;
        let asker = subject::asker_of(&original.subject).ok_or_else(|| no(format!("its subject {} names nobody", original.subject)))?;
        let member = self.member_of(&asker).await.map_err(|problem| no(format!("it is still nobody's: {}", problem.detail)))?;
        let payload = original.payload().ok_or_else(|| no(format!("its {} bytes were not kept", original.bytes)))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &original.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                headers.insert(name, value);
            }
        }
        // However often it is sent again, it is one job.
        if headers.get(DOOR_KEY).is_none() && headers.get(subject::header::OUTBOX_KEY).is_none() {
            headers.insert(DOOR_KEY, format!("letter:{}", letter.id).as_str());
        }
        let sorted = intake::sorted(self, member, Some(&headers), &payload, original.seq, self.now()).into_vec();
        let stored = self.bus.store(subject::submit(&asker), Some(headers), payload.into(), STORE_WITHIN).await;
        stored.map_err(|error| Problem::new(Code::Unavailable, format!("it could not be stored: {error}")))?;
        Ok(sorted.first().map(crate::admission::Candidate::job))
    }

    /// A person has looked at it.
    ///
    /// # Errors
    /// As [`Self::dlq_show`]; [`Code::Forbidden`] for anybody but the operator.
    pub async fn dlq_drop(&self, reader: Reader, id: &str) -> Result<LetterView, Problem> {
        if reader != Reader::Operator {
            return Err(Problem::new(Code::Forbidden, "only the operator drops dead letters"));
        }
        let kept = self.find_letter(reader, id).await?;
        if kept.dropped.is_some() {
            return Ok(view(kept));
        }
        self.mark(reader, kept, None, |net, id, mark| Entry::Dropped { net, id, mark }).await
    }

    /// Whether a failed job's letter lets it be tried again.
    ///
    /// # Errors
    /// [`Code::CannotResend`] where it was put away; [`Code::Unavailable`].
    pub async fn may_retry_failed(&self, failed: &JobId) -> Result<(), Problem> {
        self.catch_up(stream::DLQ).await?;
        let id = LetterId::of_job(failed).to_string();
        rows::like(&self.store, None, &id, false).await?.iter().try_for_each(may_retry)
    }

    /// A failed job was tried again by its own command: its letter says so.
    pub async fn note_retried(&self, by: &MemberId, failed: &JobId, job: JobId) {
        let mark = Mark { at: self.now(), by: by.to_string(), job: Some(job) };
        let entry = Entry::Retried { net: self.net, id: LetterId::of_job(failed), mark };
        if let Err(problem) = self.store_entry(&entry).await {
            tracing::warn!(%problem, job = %failed, "its dead letter does not say that it was tried again");
        }
    }

    async fn mark(
        &self,
        reader: Reader,
        kept: Kept,
        job: Option<JobId>,
        entry: impl Fn(NetworkId, LetterId, Mark) -> Entry,
    ) -> Result<LetterView, Problem> {
        let mark = Mark { at: self.now(), by: reader.name(), job };
        self.store_entry(&entry(self.net, kept.letter.id, mark)).await?;
        let id = kept.letter.id.to_string();
        // As it stands now: somebody else may have been first.
        Ok(view(self.find_letter(reader, &id).await.unwrap_or(kept)))
    }
}

/// What was put away is done with at every door, by its own id and by its job's.
fn may_retry(kept: &Kept) -> Result<(), Problem> {
    let Some(dropped) = &kept.dropped else { return Ok(()) };
    let letter = kept.letter.id.short();
    let detail =
        format!("its letter {letter} was put away by {} at {}; submit the work anew where it is wanted", dropped.by, rfc3339(dropped.at));
    Err(Problem::new(Code::CannotResend, detail))
}

/// Headers of a submission that say what it is.
pub fn telling(headers: Option<&HeaderMap>) -> std::collections::BTreeMap<String, String> {
    use bus_schemas::envelope::{HEADER_KEY, HEADER_SIG, HEADER_TYPE};
    let names = [
        subject::header::JOB_KEY,
        subject::header::NATS_MSG_ID,
        subject::header::OUTBOX_KEY,
        DOOR_KEY,
        "Content-Type",
        HEADER_TYPE,
        HEADER_KEY,
        HEADER_SIG,
    ];
    let value = |name: &str| intake::header(headers, name).filter(|value| value.len() <= HEADER_MAX).map(str::to_owned);
    names.into_iter().filter_map(|name| Some((name.to_owned(), value(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::{Cid, Signer};

    #[test]
    fn jobs_that_failed_have_a_letter_and_no_others() {
        let key = Signer::from_seed(&[1; 32]).public();
        let (net, member, job) = (key.network_id(), key.member_id(), JobId(Cid::of(b"j")));
        let known = |rank, state| Known { rank, state: Some(state), finished_at: Some(7), attempts: 4, ..Known::default() };
        let letters = |known: Known| of_jobs(net, &Jobs::from([((member, job), known)]));
        for (rank, state) in [
            (Rank::Ended, JobState::Completed),
            (Rank::Ended, JobState::Cancelled),
            (Rank::Rejected, JobState::Rejected),
            (Rank::Admitted, JobState::Submitted),
        ] {
            assert!(letters(known(rank, state)).is_empty(), "{state}");
        }
        let problem = Problem::new(Code::NothingFits, "nobody came");
        let made = letters(Known { problem: Some(problem.clone()), ..known(Rank::Ended, JobState::Failed) });
        let [letter] = made.as_slice() else { panic!("one letter") };
        assert_eq!((letter.id, letter.member, letter.job, letter.attempts), (LetterId::of_job(&job), Some(member), Some(job), 4));
        assert_eq!((letter.at, letter.stage, &letter.problem), (7, Stage::Failed, &problem));
    }

    #[test]
    fn an_advisory_reads_as_a_sentence() {
        let told =
            br#"{"type":"io.nats.jetstream.advisory.v1.max_deliver","stream":"JOBS","consumer":"high","stream_seq":12,"deliveries":5}"#;
        assert_eq!(advised(told), "consumer high of JOBS gave up sequence 12 after 5 deliveries");
        assert_eq!(advised(b"\xff"), "consumer ? of ? gave up sequence ? after ? deliveries");
    }
}
