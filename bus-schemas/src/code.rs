//! One catalogue of errors for every door: a code, a title, an HTTP status, an exit code and the next command.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! catalogue {
    ($($name:ident $code:literal $http:literal $exit:literal $title:literal => $next:literal;)*) => {
        /// What is wrong, by name. The code never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $title] $name,)* }
        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            pub const fn code(self) -> &'static str { match self { $(Self::$name => $code,)* } }
            pub const fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
            /// Status of the HTTP answer.
            pub const fn http(self) -> u16 { match self { $(Self::$name => $http,)* } }
            /// Exit code of the CLI: 1 ours, 2 usage, 3 job failed, 4 rejected, 5 gave up waiting, 6 not connected, 7 not allowed,
            /// 8 too little mana, 9 no such thing.
            pub const fn exit(self) -> u8 { match self { $(Self::$name => $exit,)* } }
            /// The next command to run.
            pub const fn next(self) -> &'static str { match self { $(Self::$name => $next,)* } }
        }
    };
}

catalogue! {
    // What was sent cannot be read.
    Empty            "M0101" 400 2 "the message is empty" => "mesh job run echo --text hello";
    NotUtf8          "M0102" 400 2 "the message is not UTF-8" => "mesh job submit --dry-run FILE";
    NotJson          "M0103" 400 2 "the message is not JSON" => "mesh job submit --dry-run FILE";
    NotMsgpack       "M0104" 400 2 "the message is not the MessagePack it claims to be" => "mesh sign FILE";
    DuplicateKey     "M0105" 400 2 "a key appears twice" => "mesh job submit --dry-run FILE";
    TooDeep          "M0106" 400 2 "the message is nested too deeply" => "mesh job submit --dry-run FILE";
    TooLarge         "M0107" 413 2 "the message is too large" => "mesh blob put FILE";
    WrongType        "M0108" 400 2 "a field has the wrong type" => "mesh job submit --dry-run FILE";
    UnknownField     "M0109" 400 2 "a field is not known" => "mesh job submit --dry-run FILE";
    MissingField     "M0110" 400 2 "a field is missing" => "mesh job submit --dry-run FILE";
    UnknownKind      "M0111" 400 4 "no such kind of job" => "mesh job run echo --text hello";
    EmptyText        "M0112" 400 2 "a text is empty" => "mesh job run echo --text hello";
    TextTooLong      "M0113" 413 2 "a text is too long" => "split the text and submit the parts in one job";
    BadAmount        "M0114" 400 2 "an amount is not valid" => "mesh credit balance";
    BadTimeout       "M0115" 400 2 "a duration is not valid" => "mesh job submit --dry-run FILE";
    BadValue         "M0116" 400 2 "a value is not valid" => "mesh job submit --dry-run FILE";
    TooMany          "M0117" 413 2 "there are too many of them" => "split the input into several jobs";
    BadKey           "M0118" 400 2 "the idempotency key is not valid" => "use 1 to 128 printable characters";
    WrongMethod      "M0119" 405 2 "this path knows no such method" => "use GET to read and POST to change";
    // This machine and its connection.
    NoContext        "M0201" 400 6 "no network is configured here" => "mesh dev";
    NotInitialised   "M0202" 400 6 "this device is not initialised" => "mesh init --join INVITE";
    Unreachable      "M0203" 503 6 "cannot reach the network" => "mesh doctor";
    PortTaken        "M0204" 500 1 "a port is taken" => "mesh dev --random-ports";
    MissingTool      "M0205" 500 1 "a program that is needed is missing" => "make deps";
    BadFile          "M0206" 400 2 "a file cannot be used" => "mesh doctor";
    OldServer        "M0207" 500 1 "nats-server is too old" => "make deps";
    NotRunning       "M0208" 503 6 "the agent is not running" => "mesh start";
    AlreadyRunning   "M0209" 409 2 "it is already running" => "mesh status";
    Usage            "M0210" 400 2 "the command line is not valid" => "mesh --help";
    // Signatures.
    BadSignature     "M0301" 401 7 "the signature is not valid" => "mesh sign FILE";
    WrongSigner      "M0302" 403 7 "the signature is another's" => "mesh context ls";
    SignedOther      "M0303" 400 7 "the signature is over another type" => "mesh sign FILE";
    Expired          "M0304" 400 7 "the message has expired" => "mesh sign FILE";
    NotYetValid      "M0305" 400 7 "the message is dated in the future" => "mesh doctor";
    WrongNetwork     "M0306" 400 7 "the message is for another network" => "mesh context ls";
    Replayed         "M0307" 409 7 "the message was seen before" => "mesh job ls";
    UntrustedServer  "M0308" 403 6 "the server is not the one that it should be" => "ask for a new invite";
    // Who asks.
    Unauthenticated  "M0401" 401 7 "it is not clear who asks" => "mesh context ls";
    Forbidden        "M0402" 403 7 "this is not allowed" => "mesh context ls";
    BadInvite        "M0403" 403 7 "the invite is not valid" => "ask for a new invite";
    AlreadyEnrolled  "M0404" 409 7 "this key is already enrolled" => "mesh status";
    Revoked          "M0405" 403 7 "the device was revoked" => "MESH_HOME=FOLDER mesh init --join INVITE";
    Suspended        "M0406" 403 7 "the member is suspended" => "ask an admin of the network";
    AwaitsApproval   "M0407" 403 7 "an admin has yet to let it in" => "mesh start";
    JoinDenied       "M0408" 403 7 "an admin has refused to let it in" => "ask an admin of the network";
    // Jobs.
    NoSuchJob        "M0501" 404 9 "no such job" => "mesh job ls";
    Conflict         "M0502" 409 4 "the same key was used for something else" => "mesh job ls";
    CannotCancel     "M0503" 409 4 "the job can no longer be cancelled" => "mesh job show ID";
    NotFinished      "M0504" 409 5 "the job has not finished" => "mesh job wait ID";
    NotAdmitted      "M0505" 409 4 "the job was not admitted in time" => "mesh job ls";
    NoSuchDevice     "M0506" 404 9 "no such device" => "mesh node ls";
    Ambiguous        "M0507" 409 2 "the id is ambiguous" => "mesh job ls";
    JobFailed        "M0508" 409 3 "the job failed" => "mesh job explain ID";
    NoSuchBlob       "M0509" 404 9 "no such blob" => "mesh job show ID";
    JobCancelled     "M0510" 409 3 "the job was cancelled" => "mesh job show ID";
    GaveUpWaiting    "M0511" 408 5 "gave up waiting; the job lives on" => "mesh job wait ID";
    NothingFits      "M0512" 409 4 "no device could take the job in time" => "mesh job explain ID";
    NotFound         "M0513" 404 9 "no such thing here" => "mesh --help";
    CannotRetry      "M0514" 409 4 "the job cannot be tried again" => "mesh job show ID";
    NoSuchLetter     "M0515" 404 9 "no such dead letter" => "mesh dlq ls";
    JobLost          "M0517" 409 3 "the job was lost" => "mesh job retry ID";
    CannotResend     "M0516" 409 4 "the dead letter cannot be tried again" => "mesh dlq show ID";
    JobRejected      "M0518" 409 4 "the job was rejected" => "mesh job show ID";
    OverLimit        "M0520" 409 4 "a limit of the network is reached" => "mesh network policy show";
    TriedAgain       "M0519" 409 4 "it was tried again already" => "mesh job retry ID";
    // Money.
    TooLittleMana    "M0601" 402 8 "too little mana" => "mesh credit balance";
    Refused          "M0602" 409 4 "the ledger refused" => "mesh credit history";
    BooksWrong       "M0603" 500 1 "the books do not add up" => "mesh-ledger verify";
    NotCovered       "M0604" 409 5 "no checkpoint covers it yet" => "try again in a minute";
    // The service itself.
    Unavailable      "M0701" 503 6 "a part is not answering" => "mesh doctor";
    Internal         "M0702" 500 1 "a fault of ours" => "mesh doctor";
    TooManyWaiting   "M0703" 429 4 "too much is waiting already" => "mesh job ls";
    TooFast          "M0704" 429 4 "more was asked than one asker's share" => "ask again after wait_ms milliseconds";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
impl std::str::FromStr for Code {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|code| code.code() == text).ok_or_else(|| format!("no such code: {text}"))
    }
}
impl Serialize for Code {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.code())
    }
}
impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        // A code of a newer part is still an error to an older reader, not a reason to fail.
        Ok(text.parse().unwrap_or(Self::Internal))
    }
}
impl schemars::JsonSchema for Code {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Code".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let all: Vec<&str> = Self::ALL.iter().map(|code| code.code()).collect();
        schemars::json_schema!({"type": "string", "enum": all})
    }
}

/// One thing that is wrong: its code and one sentence about this case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, thiserror::Error)]
#[error("{}: {detail}", code.title())]
pub struct Problem {
    pub code: Code,
    pub detail: String,
    /// When the same may be asked again, in milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<NonZeroU32>,
}
impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if detail.len() > 500 {
            let cut = (0..=500).rev().find(|at| detail.is_char_boundary(*at)).unwrap_or(0);
            detail.truncate(cut);
            detail.push('…');
        }
        Self { code, detail, wait_ms: None }
    }
    /// The same may be asked again after so many milliseconds.
    #[must_use]
    pub fn wait(self, wait_ms: u64) -> Self {
        Self { wait_ms: NonZeroU32::new(u32::try_from(wait_ms).unwrap_or(u32::MAX)), ..self }
    }
    /// What every door answers (RFC 9457 with our code).
    pub fn body(&self) -> crate::api::ErrorBody {
        crate::api::ErrorBody {
            kind: format!("urn:mesh:error:{}", self.code),
            code: self.code,
            title: self.code.title().to_owned(),
            detail: self.detail.clone(),
            next: vec![self.code.next().to_owned()],
            wait_ms: self.wait_ms.map(|wait| wait.get().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_one_thing_names_it() {
        for (code, next) in
            [(Code::NotFinished, "mesh job wait job_a"), (Code::JobFailed, "mesh job explain job_a"), (Code::NotJson, Code::NotJson.next())]
        {
            assert_eq!(Problem::new(code, "").body().about("job_a").next, [next], "{code}");
        }
    }

    #[test]
    fn codes_are_unique_and_well_formed() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.code()), "{code} twice");
            assert!(code.code().len() == 5 && code.code().starts_with('M'));
            assert!((400..600).contains(&code.http()) && (1..=9).contains(&code.exit()) && !code.next().is_empty());
            assert_eq!(code.code().parse(), Ok(*code));
        }
    }
}
