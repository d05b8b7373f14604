//! A job: what a member asks for, as written by people or programs, and as admitted by the gateway.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::UnixMs;
use crate::code::{Code, Problem};
use crate::envelope::{Body, Form, Proof};
use crate::id::{Asker, Cid, DeviceId, JobId, MemberId, NetworkId, PublicKey};
use crate::limits;
use crate::mana::MilliMana;
use crate::resources::Resources;
use crate::strict;

/// Kinds that this version knows.
pub const KINDS: [&str; 2] = ["echo", "embed"];

/// One text or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub enum Text {
    One(String),
    Many(Vec<String>),
}
impl Text {
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// Which job goes first where several wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    High,
    #[default]
    Normal,
    Low,
}
impl Class {
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];
    pub const fn token(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// How freely what a job holds may be shown. A device's owner says which classes the device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataClass {
    /// Anybody may see it.
    Public,
    /// Members of the network may.
    #[default]
    Internal,
    /// Not for every device: an owner may leave it to others.
    Confidential,
    /// As `confidential`, for what the law or a contract protects.
    Restricted,
}
impl DataClass {
    pub const ALL: [Self; 4] = [Self::Public, Self::Internal, Self::Confidential, Self::Restricted];
    pub const fn token(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Restricted => "restricted",
        }
    }
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
impl std::fmt::Display for DataClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.token())
    }
}
impl std::str::FromStr for DataClass {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let named = Self::ALL.into_iter().find(|class| class.token() == text);
        named.ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Problem::new(Code::BadValue, format!("\"{shown}\" is no data class: {}", Self::ALL.map(Self::token).join(", ")))
        })
    }
}

/// A job as it is sent. Only `kind` and the input are needed; the first five fields belong to signed jobs.
///
/// `{"kind":"embed","text":["a","b"]}` and `{"kind":"echo","text":"a"}` are whole jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Network the job is for (signed jobs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetworkId>,
    /// Who signs and pays (signed jobs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<PublicKey>,
    /// The client's idempotency key: the same key is the same job. In an unsigned job it may instead come in a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it was signed, by the signer's clock (signed jobs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<UnixMs>,
    /// Until when it may be admitted, at most 24 h after `at` (signed jobs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<UnixMs>,

    /// What is to be done: `echo` or `embed`.
    pub kind: String,
    /// The texts, here in the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// Or blobs that hold them: JSON lines `{"text":…}`, uploaded before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Cid>,
    /// How many texts the blob holds: devices quote by it, and a job whose blob holds more fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<u32>,
    /// Hardware that must be free.
    #[serde(default, skip_serializing_if = "Resources::is_none")]
    pub required_resources: Resources,
    /// Capabilities that a device must list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required_capabilities: Vec<String>,
    /// Trust scope that a device must belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_trust_scope: Option<String>,
    /// Reputation (0 to 100) that a device must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_executor_reputation: Option<u32>,
    /// Federations that may take it; empty = this network alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_federations: Vec<String>,
    /// One device, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<DeviceId>,
    /// How long it may wait for a device, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_execution_wait_ms: Option<u64>,
    /// How long one attempt may run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The most it may cost, in mana: a number or a decimal string.
    #[serde(
        default,
        deserialize_with = "crate::mana::written::option",
        serialize_with = "cost_text",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<serde_json::Value>")]
    pub cost_mana: Option<MilliMana>,
    #[serde(default, skip_serializing_if = "is_normal")]
    pub priority: Class,
    /// How freely what it holds may be shown; absent: `internal`.
    #[serde(default, skip_serializing_if = "DataClass::is_default")]
    pub data_class: DataClass,
    /// For people: what they want to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The job that this one tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<JobId>,
}
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_normal(class: &Class) -> bool {
    *class == Class::Normal
}
fn cost_text<S: serde::Serializer>(cost: &Option<MilliMana>, s: S) -> Result<S::Ok, S::Error> {
    match cost {
        Some(cost) => s.collect_str(cost),
        None => s.serialize_none(),
    }
}

impl Body for JobSpec {
    const KIND: &'static str = "job";
    const BYTES_MAX: usize = limits::JOB_BYTES_MAX;
}

impl JobSpec {
    /// Reads and checks what a person or a program wrote.
    ///
    /// # Errors
    /// The first thing that is wrong, by code.
    pub fn parse(form: Form, bytes: &[u8]) -> Result<Self, Problem> {
        let spec: Self = strict::decode(form, bytes, limits::JOB_BYTES_MAX)?;
        spec.check()?;
        Ok(spec)
    }

    /// Checks values, not who asks.
    pub fn check(&self) -> Result<(), Problem> {
        if !KINDS.contains(&self.kind.as_str()) {
            let shown: String = self.kind.chars().take(40).collect();
            return Err(Problem::new(Code::UnknownKind, format!("\"{shown}\" is not one of {}", KINDS.join(", "))));
        }
        if let Some(key) = &self.key {
            check_key(key)?;
        }
        self.check_texts()?;
        let range = |name: &str, value: Option<u64>, max: u64| match value {
            Some(0) => Err(Problem::new(Code::BadTimeout, format!("{name} must be at least 1"))),
            Some(ms) if ms > max => Err(Problem::new(Code::BadTimeout, format!("{name} is {ms}, at most {max} is allowed"))),
            Some(_) | None => Ok(()),
        };
        range("timeout_ms", self.timeout_ms, limits::TIMEOUT_MS_MAX)?;
        range("max_execution_wait_ms", self.max_execution_wait_ms, limits::MAX_EXECUTION_WAIT_MS_MAX)?;
        if self.cost_mana == Some(MilliMana::ZERO) {
            return Err(Problem::new(Code::BadAmount, "cost_mana must be more than 0"));
        }
        if self.min_executor_reputation.is_some_and(|score| score > 100) {
            return Err(Problem::new(Code::BadValue, "min_executor_reputation is a score of 0 to 100"));
        }
        for (name, list) in [("required_capabilities", &self.required_capabilities), ("allowed_federations", &self.allowed_federations)] {
            if list.len() > limits::LABELS_MAX || list.iter().any(|item| item.is_empty() || item.len() > limits::LABEL_CHARS_MAX) {
                return Err(Problem::new(
                    Code::TooMany,
                    format!("{name}: at most {} entries of 1 to {} characters", limits::LABELS_MAX, limits::LABEL_CHARS_MAX),
                ));
            }
        }
        if self.labels.len() > limits::LABELS_MAX
            || self
                .labels
                .iter()
                .any(|(name, value)| name.is_empty() || name.len() > limits::LABEL_CHARS_MAX || value.len() > limits::LABEL_CHARS_MAX)
        {
            return Err(Problem::new(
                Code::TooMany,
                format!("labels: at most {} of {} characters", limits::LABELS_MAX, limits::LABEL_CHARS_MAX),
            ));
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), Problem> {
        let texts = match (&self.text, self.inputs.as_slice()) {
            (Some(_), [_, ..]) => return Err(Problem::new(Code::BadValue, "either text or inputs, not both")),
            (None, []) => return Err(Problem::new(Code::MissingField, "missing field `text` (or `inputs`)")),
            (None, [_]) if self.kind == "embed" => return self.check_units(),
            (None, _) => return Err(Problem::new(Code::BadValue, "inputs: exactly one blob, for embed only")),
            (Some(_), []) if self.units.is_some() => {
                return Err(Problem::new(Code::BadValue, "units is for inputs; the texts of a job are counted"));
            }
            (Some(text), []) => text,
        };
        if self.kind == "echo" && matches!(texts, Text::Many(_)) {
            return Err(Problem::new(Code::WrongType, "echo takes one text, not a list"));
        }
        check_texts(texts.as_slice())
    }

    fn check_units(&self) -> Result<(), Problem> {
        match self.units {
            None => Err(Problem::new(Code::MissingField, "missing field `units`: how many texts the blob of `inputs` holds")),
            Some(0) => Err(Problem::new(Code::BadValue, "units must be at least 1")),
            Some(units) if units as usize > limits::TEXTS_MAX => {
                Err(Problem::new(Code::TooMany, format!("units is {units}, at most {} texts are allowed in one job", limits::TEXTS_MAX)))
            }
            Some(_) => Ok(()),
        }
    }

    pub fn timeout_ms(&self) -> u64 {
        self.timeout_ms.unwrap_or(limits::TIMEOUT_MS_DEFAULT)
    }
    pub fn max_execution_wait_ms(&self) -> u64 {
        self.max_execution_wait_ms.unwrap_or(limits::MAX_EXECUTION_WAIT_MS_DEFAULT)
    }
    /// How many texts: counted where they are here in the job, as it says where they are in a blob.
    pub fn units(&self) -> u32 {
        let counted = self.text.as_ref().map(|text| u32::try_from(text.as_slice().len()).unwrap_or(u32::MAX));
        counted.or(self.units).unwrap_or(1)
    }
}

/// Checks texts wherever they come from: none empty, none too long, not too many. Blank ones are fine.
pub fn check_texts(texts: &[String]) -> Result<(), Problem> {
    if texts.is_empty() {
        return Err(Problem::new(Code::EmptyText, "the list of texts is empty"));
    }
    if texts.len() > limits::TEXTS_MAX {
        return Err(Problem::new(Code::TooMany, format!("{} texts, at most {} are allowed in one job", texts.len(), limits::TEXTS_MAX)));
    }
    for (i, text) in texts.iter().enumerate() {
        if text.is_empty() {
            return Err(Problem::new(Code::EmptyText, format!("text {} is empty", i + 1)));
        }
        if text.len() > limits::TEXT_CHARS_MAX && text.chars().count() > limits::TEXT_CHARS_MAX {
            return Err(Problem::new(
                Code::TextTooLong,
                format!("text {} has {} characters, at most {} are allowed", i + 1, text.chars().count(), limits::TEXT_CHARS_MAX),
            ));
        }
    }
    Ok(())
}

/// Checks an idempotency key: 1 to 128 printable characters.
pub fn check_key(key: &str) -> Result<(), Problem> {
    let fine = (1..=limits::KEY_CHARS_MAX).contains(&key.chars().count()) && !key.chars().any(char::is_control);
    if fine { Ok(()) } else { Err(Problem::new(Code::BadKey, format!("1 to {} printable characters", limits::KEY_CHARS_MAX))) }
}

/// The id of an unsigned job: who, which key, which bytes. No clock is in it, so the same message is the same job.
pub fn unsigned_job_id(member: &MemberId, key: &str, raw: &[u8]) -> JobId {
    #[derive(Serialize)]
    struct Unsigned<'a> {
        by: &'a MemberId,
        key: &'a str,
        #[serde(with = "serde_bytes")]
        raw: &'a [u8],
    }
    JobId(Cid::of(&crate::envelope::encode(&Unsigned { by: member, key, raw })))
}

/// A job that was verified, funded and admitted; the message of JOBS, as one [`Proof`] signed by the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmittedJob {
    pub net: NetworkId,
    pub job: JobId,
    pub member: MemberId,
    /// Who submitted: the member itself or one of its devices.
    pub asker: Asker,
    pub key: String,
    /// When it came in: hub time of the SUBMIT message.
    pub submitted_at: UnixMs,
    /// When it was admitted: hub time.
    pub at: UnixMs,
    pub class: Class,
    /// The held amount: the most it may cost.
    pub hold_mmana: MilliMana,
    pub hold_expires: UnixMs,
    pub form: Form,
    /// The body, verbatim as it was submitted; parse it with [`JobSpec::parse`].
    pub body: ByteBuf,
    /// The submitter's signature over `body`; absent where the job came unsigned on a subject that proves the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedBy>,
}
impl Body for AdmittedJob {
    const KIND: &'static str = "admitted-job";
    const BYTES_MAX: usize = limits::JOB_BYTES_MAX + 8 * 1024;
}

/// A sound job whose hold is being asked for, so that its auction can begin meanwhile. A hint: the job itself comes through JOBS, or never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedJob {
    pub net: NetworkId,
    pub job: JobId,
    pub member: MemberId,
    pub class: Class,
    /// What its hold will be, if there is enough.
    pub hold_mmana: MilliMana,
    pub form: Form,
    pub body: ByteBuf,
}
impl Body for AnnouncedJob {
    const KIND: &'static str = "announced-job";
}

/// A proof without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBy {
    pub t: String,
    pub i: u32,
    pub n: u32,
    pub h: Vec<ByteBuf>,
    pub k: PublicKey,
    pub s: ByteBuf,
}
impl SignedBy {
    /// The proof over `body`, for whoever wants to check it again.
    pub fn proof(&self, body: ByteBuf) -> Proof {
        Proof { v: 1, t: self.t.clone(), b: body, i: self.i, n: self.n, h: self.h.clone(), k: self.k, s: self.s.clone() }
    }
}
impl From<Proof> for SignedBy {
    fn from(proof: Proof) -> Self {
        Self { t: proof.t, i: proof.i, n: proof.n, h: proof.h, k: proof.k, s: proof.s }
    }
}

/// The states of a job's life, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum JobState {
    Submitted,
    BiddingOpen,
    BiddingClosed,
    Assigned,
    Executing,
    Completed,
    Failed,
    Cancelled,
    Rejected,
}
impl JobState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submitted => "Submitted",
            Self::BiddingOpen => "BiddingOpen",
            Self::BiddingClosed => "BiddingClosed",
            Self::Assigned => "Assigned",
            Self::Executing => "Executing",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Rejected => "Rejected",
        }
    }
    /// Nothing follows.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Rejected)
    }
}
impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<JobSpec, Code> {
        JobSpec::parse(Form::Json, json.as_bytes()).map_err(|problem| problem.code)
    }

    #[test]
    fn what_people_write() {
        assert!(check(r#"{"kind":"embed","text":["a","b"]}"#).is_ok());
        assert!(check(r#"{"kind":"echo","text":" "}"#).is_ok(), "blank text is fine");
        let blob = r#"{"kind":"embed","inputs":["bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"],"units":400}"#;
        assert_eq!(check(blob).unwrap().units(), 400, "what devices quote by");
        assert_eq!(check(r#"{"kind":"echo","text":"a","cost_mana":1.25}"#).unwrap().cost_mana, MilliMana::new(1250));
        assert_eq!(check(r#"{"kind":"echo","text":"a","cost_mana":"0.001"}"#).unwrap().cost_mana, MilliMana::new(1));
        let long = "x".repeat(limits::TEXT_CHARS_MAX + 1);
        let cases = [
            ("{}", Code::MissingField),
            (r#"{"kind":"echo"}"#, Code::MissingField),
            (r#"{"kind":"paint","text":"a"}"#, Code::UnknownKind),
            (r#"{"kind":7,"text":"a"}"#, Code::WrongType),
            (r#"{"kind":"echo","text":7}"#, Code::WrongType),
            (r#"{"kind":"echo","text":["a"]}"#, Code::WrongType),
            (r#"{"kind":"echo","text":"a","extra":1}"#, Code::UnknownField),
            (r#"{"kind":"echo","text":"a","kind":"echo"}"#, Code::DuplicateKey),
            (r#"{"kind":"echo","text":""}"#, Code::EmptyText),
            (r#"{"kind":"embed","text":[]}"#, Code::EmptyText),
            (r#"{"kind":"embed","text":["a",""]}"#, Code::EmptyText),
            (r#"{"kind":"echo","text":"a","timeout_ms":0}"#, Code::BadTimeout),
            (r#"{"kind":"echo","text":"a","cost_mana":0}"#, Code::BadAmount),
            (r#"{"kind":"echo","text":"a","cost_mana":-1}"#, Code::BadAmount),
            (r#"{"kind":"echo","text":"a","cost_mana":1e300}"#, Code::BadAmount),
            (r#"{"kind":"echo","text":"a","cost_mana":NaN}"#, Code::NotJson),
            (r#"{"kind":"echo","text":"a","key":""}"#, Code::BadKey),
            (r#"{"kind":"echo","text":"a","target":"here"}"#, Code::WrongType),
            (r#"{"kind":"embed","text":"a","inputs":["bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"]}"#, Code::BadValue),
            (r#"{"kind":"embed","inputs":["bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"]}"#, Code::MissingField),
            (r#"{"kind":"embed","inputs":["bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"],"units":0}"#, Code::BadValue),
            (r#"{"kind":"embed","inputs":["bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"],"units":12001}"#, Code::TooMany),
            (r#"{"kind":"embed","text":["a"],"units":1}"#, Code::BadValue),
            (&format!(r#"{{"kind":"echo","text":"{long}"}}"#), Code::TextTooLong),
        ];
        for (json, code) in cases {
            assert_eq!(check(json).unwrap_err(), code, "{}", &json[..json.len().min(80)]);
        }
    }

    #[test]
    fn the_same_message_is_the_same_job() {
        let member = Signer::from_seed(&[1; 32]).public().member_id();
        let id = unsigned_job_id(&member, "k", b"{}");
        assert_eq!(id, unsigned_job_id(&member, "k", b"{}"));
        assert_ne!(id, unsigned_job_id(&member, "l", b"{}"));
        assert_ne!(id, unsigned_job_id(&Signer::from_seed(&[2; 32]).public().member_id(), "k", b"{}"));
    }
    use crate::envelope::Signer;
}
