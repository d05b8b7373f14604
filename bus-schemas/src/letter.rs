//! Dead letters: what could not be done for good. A message of `mesh.v1.dlq` is a JSON batch of one [`Entry`], signed by a gateway or
//! scheduler key, so that `nats stream view DLQ` shows it to people and no other part can make one up. The server's own advisories about
//! consumers stand in the same stream.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::code::Problem;
use crate::envelope::{Body, Signer};
use crate::id::{Cid, JobId, LetterId, MemberId, NetworkId};

/// Of larger messages only place and length are kept.
pub const KEPT_BYTES_MAX: usize = 240 * 1024;

/// One message of DLQ. Entries about one letter may come in any order and more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    Letter(Box<Letter>),
    /// It was tried again.
    Retried {
        net: NetworkId,
        id: LetterId,
        mark: Mark,
    },
    /// A person has looked at it and wants to see it no more.
    Dropped {
        net: NetworkId,
        id: LetterId,
        mark: Mark,
    },
}
impl Body for Entry {
    const KIND: &'static str = "dead-letter";
    const BYTES_MAX: usize = 380_000;
}

impl Entry {
    /// The bytes that are stored.
    pub fn signed(&self, by: &Signer) -> Vec<u8> {
        by.json_batch::<Self>(vec![serde_json::to_string(self).unwrap_or_default()]).encode()
    }
}

/// What could not be done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Letter {
    pub net: NetworkId,
    pub id: LetterId,
    /// Hub time.
    pub at: UnixMs,
    pub stage: Stage,
    /// Whose it is; absent: nobody's, and only the operator sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Attempts that were made.
    #[serde(default)]
    pub attempts: u32,
    pub problem: Problem,
    /// The message that it is about; absent for a job, whose body HISTORY has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A message of SUBMIT that is nobody's.
    Submission,
    /// A message of JOBS that is no job of this network.
    Job,
    /// A message of HISTORY that cannot be read or written down.
    History,
    /// A job that failed for good.
    Failed,
    /// The server's own word about a consumer.
    Advisory,
    /// A message of DLQ that no part of this network signed.
    Foreign,
}
impl Stage {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submission => "submission",
            Self::Job => "job",
            Self::History => "history",
            Self::Failed => "failed",
            Self::Advisory => "advisory",
            Self::Foreign => "foreign",
        }
    }
}

/// A message as it was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Original {
    pub stream: String,
    pub seq: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    pub bytes: u64,
    /// Headers that say what it is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The bytes themselves, base64url: where the message leaves its stream, and is no larger than 240 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}
impl Original {
    /// With the bytes, as far as they are kept.
    pub fn keeping(stream: &str, seq: u64, subject: &str, payload: &[u8]) -> Self {
        let kept = (payload.len() <= KEPT_BYTES_MAX).then(|| BASE64URL_NOPAD.encode(payload));
        Self {
            stream: stream.to_owned(),
            seq,
            subject: subject.chars().take(300).collect(),
            bytes: payload.len() as u64,
            headers: BTreeMap::new(),
            payload: kept,
        }
    }
    /// The bytes that were kept.
    pub fn payload(&self) -> Option<Vec<u8>> {
        BASE64URL_NOPAD.decode(self.payload.as_ref()?.as_bytes()).ok()
    }
}

/// What somebody did with a letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Mark {
    /// Hub time.
    pub at: UnixMs,
    /// `mem_…`, or `operator`.
    pub by: String,
    /// The job that tries it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

impl LetterId {
    /// The letter of a job that failed.
    pub fn of_job(job: &JobId) -> Self {
        Self(Cid::of(format!("job {job}").as_bytes()))
    }
    /// The letter about a message: its place, and when it was stored there, because a stream may be made again.
    pub fn of_message(stream: &str, seq: u64, stored_at: UnixMs) -> Self {
        Self(Cid::of(format!("message {stream} {seq} {stored_at}").as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Verifier, envelope::JsonBatch};

    #[test]
    fn an_entry_is_one_signed_line_of_json() {
        let signer = Signer::from_seed(&[7; 32]);
        let (net, job) = (signer.public().network_id(), JobId(Cid::of(b"j")));
        let entry = Entry::Letter(Box::new(Letter {
            net,
            id: LetterId::of_job(&job),
            at: 5,
            stage: Stage::Submission,
            member: None,
            job: Some(job),
            attempts: 4,
            problem: Problem::new(Code::JobFailed, "four attempts"),
            original: Some(Original::keeping("SUBMIT", 7, "mesh.v1.submit.x", &vec![0xff; KEPT_BYTES_MAX])),
        }));
        let stored = entry.signed(&signer);
        assert!(stored.len() < 400_000, "{} bytes fit into DLQ", stored.len());
        let read = JsonBatch::decode(&stored).unwrap().verify::<Entry>(&mut Verifier::default()).unwrap();
        assert_eq!(*read[0], entry);
        let Entry::Letter(letter) = &*read[0] else { panic!("a letter") };
        assert_eq!(letter.original.as_ref().and_then(Original::payload), Some(vec![0xff; KEPT_BYTES_MAX]));
        assert_eq!(Original::keeping("SUBMIT", 7, "s", &vec![0; KEPT_BYTES_MAX + 1]).payload(), None);
    }
}
