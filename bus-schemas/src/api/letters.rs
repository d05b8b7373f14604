//! Dead letters as doors show them.

use serde::{Deserialize, Serialize};

use super::{AttemptView, ErrorBody};
use crate::id::{JobId, LetterId, MemberId};
use crate::letter::{Original, Stage};

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LetterView {
    pub id: LetterId,
    /// What people see and may type.
    pub short: String,
    /// RFC 3339, hub time.
    pub at: String,
    pub stage: Stage,
    pub member: Option<MemberId>,
    pub job: Option<JobId>,
    pub attempts: u32,
    pub error: ErrorBody,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
    /// How the attempts of its job ended, oldest first; in lists it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<AttemptView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried: Option<MarkView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<MarkView>,
}

/// What somebody did with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MarkView {
    /// RFC 3339, hub time.
    pub at: String,
    /// `mem_…`, or `operator`.
    pub by: String,
    /// The job that tries it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LetterList {
    /// Newest first, without those that were dropped.
    pub letters: Vec<LetterView>,
    /// Pass as `cursor` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Up to when all that was recorded is in this list, and how long ago that was, in milliseconds: a moment as a rule, more while the records
    /// are not taken in. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
}
