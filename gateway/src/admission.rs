//! From what somebody sent to jobs, or to what is wrong with them. Pure: the same message is the same answer on every gateway.
//!
//! Four forms: a JSON object, a JSON array of such objects, a JSON object signed by three headers, and MessagePack
//! (a signed batch of jobs, or one job with its proof). Whoever asks was proved by the subject or the door, never by headers.

use bus_schemas::envelope::{self, Batch, Form, HEADER_KEY, HEADER_SIG, HEADER_TYPE, Proof, Verifier};
use bus_schemas::id::{Cid, JobId, MemberId, NetworkId};
use bus_schemas::job::{JobSpec, SignedBy, check_key, unsigned_job_id};
use bus_schemas::submission::{Carrier, Peek, split_array};
use bus_schemas::{Code, Problem, PublicKey, UnixMs, limits};

/// One message as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    pub net: NetworkId,
    /// Who pays: the asker, or the member of the asking device.
    pub member: MemberId,
    pub headers: Headers<'a>,
    pub payload: &'a [u8],
    /// The key of a job that names none: `submit:<sequence>`, or what the door made.
    pub fallback_key: &'a str,
    /// Hub time at which it was stored.
    pub now: UnixMs,
}

/// The headers that matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    pub job_key: Option<&'a str>,
    pub msg_id: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub mesh_type: Option<&'a str>,
    pub mesh_key: Option<&'a str>,
    pub mesh_sig: Option<&'a str>,
}

/// What one job of a message turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Candidate {
    Admit(Box<Admit>),
    Refuse(Refused),
}
impl Candidate {
    pub fn job(&self) -> JobId {
        match self {
            Self::Admit(admit) => admit.job,
            Self::Refuse(refused) => refused.job,
        }
    }
}

/// A job that is sound; whether it is funded, the ledger says.
#[derive(Debug, Clone, PartialEq)]
pub struct Admit {
    pub job: JobId,
    pub key: String,
    pub spec: JobSpec,
    pub form: Form,
    /// Verbatim.
    pub body: Vec<u8>,
    pub signed: Option<SignedBy>,
}

/// What cannot become a job, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Of an unsigned one the id that it would have had; a signed one gets an id of its own, because the body may be that of another's job.
    pub job: JobId,
    pub key: Option<String>,
    /// Where it could be read.
    pub kind: Option<String>,
    pub problem: Problem,
}

/// What a message holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Sorted {
    /// One job, or a message that is wrong as a whole.
    One(Candidate),
    /// A list; each stands for itself.
    Many(Vec<Candidate>),
}
impl Sorted {
    pub fn into_vec(self) -> Vec<Candidate> {
        match self {
            Self::One(candidate) => vec![candidate],
            Self::Many(candidates) => candidates,
        }
    }
    pub fn as_slice(&self) -> &[Candidate] {
        match self {
            Self::One(candidate) => std::slice::from_ref(candidate),
            Self::Many(candidates) => candidates,
        }
    }
}

/// Sorts out one message. Any bytes get an answer.
pub fn sort(submission: &Submission<'_>, verifier: &mut Verifier) -> Sorted {
    let payload = submission.payload;
    if payload.is_empty() {
        return Sorted::One(submission.refuse_whole(Problem::new(Code::Empty, "the message is empty")));
    }
    if payload.len() > limits::SUBMISSION_BYTES_MAX {
        let detail = format!("{} bytes, at most {} are allowed", payload.len(), limits::SUBMISSION_BYTES_MAX);
        return Sorted::One(submission.refuse_whole(Problem::new(Code::TooLarge, detail)));
    }
    let headers = submission.headers;
    if headers.mesh_type.is_some() || headers.mesh_key.is_some() || headers.mesh_sig.is_some() {
        return Sorted::One(submission.header_form(verifier));
    }
    match form_of(headers.content_type, payload) {
        Form::Msgpack => submission.msgpack(verifier),
        Form::Json if first_mark(payload) == Some(b'[') => submission.array(),
        Form::Json => Sorted::One(submission.unsigned(payload, None)),
    }
}

/// The content type decides where it names one of ours; otherwise the first byte does.
fn form_of(content_type: Option<&str>, payload: &[u8]) -> Form {
    let named = content_type.map(str::to_ascii_lowercase);
    match named.as_deref() {
        Some(text) if text.contains("msgpack") => Form::Msgpack,
        Some(text) if text.contains("json") => Form::Json,
        Some(_) | None if matches!(payload.first(), Some(0x80..=0x8f | 0xde | 0xdf)) => Form::Msgpack,
        Some(_) | None => Form::Json,
    }
}
/// Two keys that differ leave open which of them a repeat is to meet, so neither is taken.
fn two_keys(header: &str, body: &str) -> Option<Problem> {
    let shown = |key: &str| key.chars().take(80).collect::<String>();
    let detail = || format!("the header's key is \"{}\", `key` in the body is \"{}\": a job has one key", shown(header), shown(body));
    (header != body).then(|| Problem::new(Code::BadValue, detail()))
}
fn first_mark(payload: &[u8]) -> Option<u8> {
    payload.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

impl Submission<'_> {
    fn refuse_whole(&self, problem: Problem) -> Candidate {
        let key = self.headers.job_key.or(self.headers.msg_id).unwrap_or(self.fallback_key);
        let key = if check_key(key).is_ok() { key } else { self.fallback_key };
        let job = unsigned_job_id(&self.member, key, self.payload);
        Candidate::Refuse(Refused { job, key: Some(key.to_owned()), kind: None, problem })
    }

    /// One job without a signature; `place` is its place in an array.
    fn unsigned(&self, raw: &[u8], place: Option<usize>) -> Candidate {
        let numbered = |key: &str| place.map_or_else(|| key.to_owned(), |place| format!("{key}/{place}"));
        let header_key = self.headers.job_key.or(self.headers.msg_id).map(numbered);
        let parsed = JobSpec::parse(Form::Json, raw);
        let body_key = parsed.as_ref().ok().and_then(|spec| spec.key.clone());
        let two = self.headers.job_key.and_then(|_| two_keys(header_key.as_deref()?, body_key.as_deref()?));
        let key = header_key.or(body_key).unwrap_or_else(|| numbered(self.fallback_key));
        let refuse = |key: Option<String>, problem: Problem| {
            let name = key.clone().unwrap_or_else(|| numbered(self.fallback_key));
            let job = unsigned_job_id(&self.member, &name, raw);
            Candidate::Refuse(Refused { job, key, kind: Peek::at(Form::Json, raw).kind, problem })
        };
        // In an array the header's key is numbered: an empty one would look whole.
        let own = self.headers.job_key.or(self.headers.msg_id).map_or(Ok(()), check_key);
        if let Err(problem) = own.and_then(|()| check_key(&key)) {
            return refuse(None, problem);
        }
        let spec = match (parsed, two) {
            (Ok(spec), None) => spec,
            (Err(problem), _) | (Ok(_), Some(problem)) => return refuse(Some(key), problem),
        };
        let signed_fields =
            [("net", spec.net.is_some()), ("by", spec.by.is_some()), ("at", spec.at.is_some()), ("exp", spec.exp.is_some())];
        if let Some((field, _)) = signed_fields.into_iter().find(|(_, present)| *present) {
            let detail = format!("field `{field}` belongs to signed jobs, and this one carries no signature");
            return refuse(Some(key), Problem::new(Code::BadSignature, detail));
        }
        let job = unsigned_job_id(&self.member, &key, raw);
        Candidate::Admit(Box::new(Admit { job, key, spec, form: Form::Json, body: raw.to_vec(), signed: None }))
    }

    fn array(&self) -> Sorted {
        match split_array(self.payload) {
            Ok(jobs) => Sorted::Many(jobs.into_iter().enumerate().map(|(i, job)| self.unsigned(job, Some(i))).collect()),
            Err(problem) => Sorted::One(self.refuse_whole(problem)),
        }
    }

    fn header_form(&self, verifier: &mut Verifier) -> Candidate {
        let Headers { mesh_type: Some(type_text), mesh_key: Some(key), mesh_sig: Some(signature), .. } = self.headers else {
            let detail = format!("a signed job has all three headers {HEADER_TYPE}, {HEADER_KEY} and {HEADER_SIG}");
            return self.refuse_signed(Form::Json, self.payload, Problem::new(Code::BadSignature, detail));
        };
        let form = envelope::form_of::<JobSpec>(type_text).unwrap_or(Form::Json);
        let sorted = envelope::verify_headers::<JobSpec>(verifier, type_text, key, signature, self.payload).and_then(|job| {
            self.check_signed(&job, job.by())?;
            let proof = envelope::headers_as_proof(type_text, job.by(), signature, self.payload)?;
            Ok(self.signed(job.into_body(), form, proof))
        });
        sorted.unwrap_or_else(|problem| self.refuse_signed(form, self.payload, problem))
    }

    fn msgpack(&self, verifier: &mut Verifier) -> Sorted {
        let carrier = Carrier::of(self.payload).and_then(|carrier| match carrier {
            Carrier::Batch => Batch::decode(self.payload).map(Ok),
            Carrier::Proof => Proof::decode(self.payload).map(Err),
        });
        match carrier {
            Err(problem) => Sorted::One(self.refuse_whole(problem)),
            Ok(Err(proof)) => Sorted::One(self.proved(proof, verifier)),
            Ok(Ok(batch)) => Sorted::Many(self.batch(&batch, verifier)),
        }
    }

    fn batch(&self, batch: &Batch, verifier: &mut Verifier) -> Vec<Candidate> {
        match batch.verify::<JobSpec>(verifier) {
            // One bad signature is one verdict on all, not one check each.
            Err(problem) if matches!(problem.code, Code::BadSignature | Code::SignedOther) => {
                batch.b.iter().map(|body| self.refuse_signed(Form::Msgpack, body, problem.clone())).collect()
            }
            Ok(_) | Err(_) => batch.proofs().into_iter().map(|proof| self.proved(proof, verifier)).collect(),
        }
    }

    fn proved(&self, proof: Proof, verifier: &mut Verifier) -> Candidate {
        let form = envelope::form_of::<JobSpec>(&proof.t).unwrap_or(Form::Msgpack);
        match proof.verify::<JobSpec>(verifier).and_then(|job| self.check_signed(&job, job.by()).map(|()| job)) {
            Ok(job) => self.signed(job.into_body(), form, proof),
            Err(problem) => self.refuse_signed(form, &proof.b, problem),
        }
    }

    fn check_signed(&self, spec: &JobSpec, signer: PublicKey) -> Result<(), Problem> {
        spec.check()?;
        let (Some(net), Some(by), Some(_), Some(at), Some(exp)) = (spec.net, spec.by, &spec.key, spec.at, spec.exp) else {
            return Err(Problem::new(Code::MissingField, "a signed job needs the fields `net`, `by`, `key`, `at` and `exp`"));
        };
        if net != self.net {
            return Err(Problem::new(Code::WrongNetwork, format!("it is for {net}, this is {}", self.net)));
        }
        if by != signer {
            return Err(Problem::new(Code::WrongSigner, format!("it says it is by {by}, but {signer} signed it")));
        }
        if by.member_id() != self.member {
            let detail = format!("it is by {}, but came on a subject of {}", by.member_id(), self.member);
            return Err(Problem::new(Code::WrongSigner, detail));
        }
        if at > self.now + limits::SKEW_MS {
            let detail = format!(
                "`at` is {} s ahead of the network's clock: set the clock of the machine that signed it (timedatectl set-ntp true), sign again",
                (at - self.now) / 1000
            );
            return Err(Problem::new(Code::NotYetValid, detail));
        }
        if exp > at.saturating_add(limits::EXP_MAX_MS) {
            return Err(Problem::new(Code::Expired, "`exp` may be at most 24 h after `at`"));
        }
        if exp <= self.now {
            return Err(Problem::new(
                Code::Expired,
                format!("it expired {} s before it came in, by the network's clock", (self.now - exp) / 1000),
            ));
        }
        Ok(())
    }

    fn signed(&self, spec: JobSpec, form: Form, proof: Proof) -> Candidate {
        let body = proof.b.to_vec();
        let job = JobId(Cid::of(&body));
        let key = spec.key.clone().unwrap_or_default();
        Candidate::Admit(Box::new(Admit { job, key, spec, form, body, signed: Some(SignedBy::from(proof)) }))
    }

    fn refuse_signed(&self, form: Form, body: &[u8], problem: Problem) -> Candidate {
        let Peek { kind, key } = Peek::at(form, body);
        // Not the id of the body: a job of that id may be a sound one, and go on or have ended.
        let job = unsigned_job_id(&self.member, self.fallback_key, body);
        Candidate::Refuse(Refused { job, key, kind, problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Signer;
    use bus_schemas::envelope::{Body, encode};
    use bus_schemas::submission::ARRAY_MAX;
    use proptest::prelude::*;
    use serde::Serialize;

    const NOW: u64 = 1_800_000_000_000;

    fn me() -> Signer {
        Signer::from_seed(&[1; 32])
    }
    fn other() -> Signer {
        Signer::from_seed(&[2; 32])
    }
    fn net() -> NetworkId {
        Signer::from_seed(&[9; 32]).public().network_id()
    }
    fn sorted(headers: Headers<'_>, payload: &[u8]) -> Sorted {
        let submission = Submission { net: net(), member: me().public().member_id(), headers, payload, fallback_key: "submit:7", now: NOW };
        sort(&submission, &mut Verifier::default())
    }
    fn code(headers: Headers<'_>, payload: &[u8]) -> Option<Code> {
        match sorted(headers, payload) {
            Sorted::One(Candidate::Refuse(refused)) => Some(refused.problem.code),
            Sorted::One(Candidate::Admit(_)) => None,
            Sorted::Many(list) => panic!("a list of {}", list.len()),
        }
    }
    fn admitted(sorted: Sorted) -> Admit {
        match sorted {
            Sorted::One(Candidate::Admit(admit)) => *admit,
            Sorted::One(Candidate::Refuse(refused)) => panic!("refused: {}", refused.problem),
            Sorted::Many(_) => panic!("a list"),
        }
    }
    fn spec() -> JobSpec {
        JobSpec {
            net: Some(net()),
            by: Some(me().public()),
            key: Some("k".into()),
            at: Some(NOW),
            exp: Some(NOW + 1000),
            kind: "echo".into(),
            text: Some(bus_schemas::job::Text::One("a".into())),
            ..JobSpec::default()
        }
    }

    #[test]
    fn what_an_unsigned_message_gets() {
        let long = format!(r#"{{"kind":"echo","text":"{}"}}"#, "x".repeat(limits::TEXT_CHARS_MAX + 1));
        let deep = format!(r#"{{"kind":"echo","text":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let big = vec![b'x'; 1_000_001];
        let cases: [(&[u8], Option<Code>); 28] = [
            (br#"{"kind":"echo","text":"a"}"#, None),
            (br#"{"kind":"embed","text":["a","b"]}"#, None),
            (br#"{"kind":"echo","text":" "}"#, None),
            (b"", Some(Code::Empty)),
            (b"hello", Some(Code::NotJson)),
            (b"\xff\xfe", Some(Code::NotUtf8)),
            (b"{\"kind\":\"echo\",\"text\":\"\xc3\x28\"}", Some(Code::NotUtf8)),
            (b"42", Some(Code::WrongType)),
            (b"null", Some(Code::WrongType)),
            (br#""echo""#, Some(Code::WrongType)),
            (br#"{"kind":1,"text":"a"}"#, Some(Code::WrongType)),
            (br#"{"kind":"echo","text":{"a":1}}"#, Some(Code::WrongType)),
            (br#"{"kind":"mine","text":"a"}"#, Some(Code::UnknownKind)),
            (br#"{"kind":"echo","text":"a","colour":"red"}"#, Some(Code::UnknownField)),
            (br#"{"kind":"echo"}"#, Some(Code::MissingField)),
            (br#"{"text":"a"}"#, Some(Code::MissingField)),
            (br#"{"kind":"echo","text":""}"#, Some(Code::EmptyText)),
            (long.as_bytes(), Some(Code::TextTooLong)),
            (&big, Some(Code::TooLarge)),
            (deep.as_bytes(), Some(Code::TooDeep)),
            (br#"{"kind":"echo","text":"a","text":"b"}"#, Some(Code::DuplicateKey)),
            (br#"{"kind":"echo","text":"a","cost_mana":NaN}"#, Some(Code::NotJson)),
            (br#"{"kind":"echo","text":"a","cost_mana":-5}"#, Some(Code::BadAmount)),
            (br#"{"kind":"echo","text":"a","cost_mana":99999999999999999999}"#, Some(Code::BadAmount)),
            (br#"{"kind":"echo","text":"a","timeout_ms":0}"#, Some(Code::BadTimeout)),
            (br#"{"kind":"echo","text":"a","at":1}"#, Some(Code::BadSignature)),
            (br#"{"kind":"echo","text":"a","key":""}"#, Some(Code::BadKey)),
            (br#"{"kind":"echo","text":"a"} x"#, Some(Code::NotJson)),
        ];
        for (payload, expected) in cases {
            assert_eq!(code(Headers::default(), payload), expected, "{}", String::from_utf8_lossy(&payload[..payload.len().min(60)]));
        }
    }

    #[test]
    fn the_kind_is_told_where_it_can_be_read() {
        let Sorted::One(Candidate::Refuse(refused)) = sorted(Headers::default(), br#"{"kind":"mine","text":"a"}"#) else { panic!() };
        assert_eq!((refused.kind.as_deref(), refused.key.as_deref()), (Some("mine"), Some("submit:7")));
    }

    #[test]
    fn keys_in_their_order() {
        let body: &[u8] = br#"{"kind":"echo","text":"a","key":"body"}"#;
        let bare: &[u8] = br#"{"kind":"echo","text":"a"}"#;
        let with = |job_key, msg_id| Headers { job_key, msg_id, ..Headers::default() };
        let cases = [
            (with(Some("head"), Some("id")), bare, "head"),
            (with(Some("body"), Some("id")), body, "body"),
            (with(None, Some("id")), body, "id"),
            (with(None, None), body, "body"),
            (with(None, None), bare, "submit:7"),
        ];
        for (headers, payload, key) in cases {
            let admit = admitted(sorted(headers, payload));
            assert_eq!(admit.key, key);
            assert_eq!(admit.job, unsigned_job_id(&me().public().member_id(), key, payload), "the id is of the bytes as they came");
        }
        assert_eq!(code(with(Some("head"), None), body), Some(Code::BadValue), "two keys are none");
        let long = "k".repeat(limits::KEY_CHARS_MAX + 1);
        assert_eq!(code(with(Some(&long), None), bare), Some(Code::BadKey));
        assert_eq!(code(with(Some("a\u{7}"), None), bare), Some(Code::BadKey));
        assert_eq!(code(with(Some(""), None), bare), Some(Code::BadKey));
        let Sorted::Many(list) = sorted(with(Some(""), None), br#"[{"kind":"echo","text":"a"}]"#) else { panic!() };
        assert!(
            matches!(&list[0], Candidate::Refuse(refused) if refused.problem.code == Code::BadKey),
            "an empty key is none in an array either"
        );
    }

    #[test]
    fn an_array_is_many_jobs_each_verbatim() {
        let payload = br#" [ {"kind":"echo","text":"a"} , {"kind":"echo", "text":""},{"kind":"echo","text":"c","key":"own"}, 5 ]"#;
        let Sorted::Many(list) = sorted(Headers::default(), payload) else { panic!() };
        assert_eq!(list.len(), 4);
        let Candidate::Admit(first) = &list[0] else { panic!() };
        assert_eq!((first.key.as_str(), first.body.as_slice()), ("submit:7/0", br#"{"kind":"echo","text":"a"}"#.as_slice()));
        let Candidate::Refuse(second) = &list[1] else { panic!() };
        assert_eq!((second.key.as_deref(), second.problem.code), (Some("submit:7/1"), Code::EmptyText));
        let Candidate::Admit(third) = &list[2] else { panic!() };
        assert_eq!(third.key, "own");
        let Candidate::Refuse(fourth) = &list[3] else { panic!() };
        assert_eq!(fourth.problem.code, Code::WrongType);
        let Sorted::Many(list) = sorted(Headers { job_key: Some("k"), ..Headers::default() }, payload) else { panic!() };
        let Candidate::Admit(first) = &list[0] else { panic!() };
        assert_eq!(first.key, "k/0");
        let Candidate::Refuse(third) = &list[2] else { panic!() };
        assert_eq!((third.key.as_deref(), third.problem.code), (Some("k/2"), Code::BadValue), "it has a key of its own");
    }

    #[test]
    fn what_a_wrong_array_gets() {
        let many = format!("[{}1]", "1,".repeat(ARRAY_MAX));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let cases: [(&[u8], Code); 5] = [
            (b"[]", Code::Empty),
            (b"[{}", Code::NotJson),
            (b"[\"\xff\"]", Code::NotUtf8),
            (many.as_bytes(), Code::TooMany),
            (b"[1] 2", Code::NotJson),
        ];
        for (payload, expected) in cases {
            assert_eq!(code(Headers::default(), payload), Some(expected));
        }
        // However deep, it is an answer: as a whole, or for its one element.
        let refused = sorted(Headers::default(), deep.as_bytes()).into_vec();
        assert!(matches!(&refused[..], [Candidate::Refuse(refused)] if matches!(refused.problem.code, Code::TooDeep | Code::WrongType)));
    }

    #[derive(Serialize, serde::Deserialize)]
    struct Stranger {
        kind: String,
    }
    impl Body for Stranger {
        const KIND: &'static str = "stranger";
    }

    #[test]
    fn what_a_signed_message_gets() {
        let fine = |change: fn(&mut JobSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec
        };
        let cases: [(JobSpec, Option<Code>); 12] = [
            (fine(|_| ()), None),
            (fine(|s| s.key = None), Some(Code::MissingField)),
            (fine(|s| s.exp = None), Some(Code::MissingField)),
            (fine(|s| s.net = Some(other().public().network_id())), Some(Code::WrongNetwork)),
            (fine(|s| s.by = Some(other().public())), Some(Code::WrongSigner)),
            (fine(|s| s.at = Some(NOW + limits::SKEW_MS + 1)), Some(Code::NotYetValid)),
            (fine(|s| (s.at, s.exp) = (Some(NOW + limits::SKEW_MS), Some(NOW + limits::SKEW_MS + 1))), None),
            (fine(|s| s.exp = Some(NOW)), Some(Code::Expired)),
            (fine(|s| s.exp = Some(NOW + limits::EXP_MAX_MS + 1)), Some(Code::Expired)),
            (fine(|s| s.exp = Some(NOW + limits::EXP_MAX_MS)), None),
            (fine(|s| s.kind = "mine".into()), Some(Code::UnknownKind)),
            (fine(|s| s.text = None), Some(Code::MissingField)),
        ];
        for (spec, expected) in cases {
            let json = serde_json::to_vec(&spec).unwrap();
            let [(_, t), (_, k), (_, s)] = me().headers::<JobSpec>(&json);
            let headers = Headers { mesh_type: Some(&t), mesh_key: Some(&k), mesh_sig: Some(&s), ..Headers::default() };
            assert_eq!(code(headers, &json), expected, "headers: {spec:?}");
            // A copy under a false signature is not told as the job that it copies.
            let forged = Headers { mesh_sig: Some("AAAA"), ..headers };
            let refused = sorted(forged, &json).into_vec().remove(0);
            assert!(matches!(refused, Candidate::Refuse(_)) && refused.job() != JobId(Cid::of(&json)), "{refused:?}");
            let batch = me().batch(std::slice::from_ref(&spec));
            assert_eq!(code(Headers::default(), &batch.proof(0).unwrap().encode()), expected, "proof: {spec:?}");
            let Sorted::Many(list) = sorted(Headers::default(), &batch.encode()) else { panic!() };
            let got = match &list[..] {
                [Candidate::Refuse(refused)] => Some(refused.problem.code),
                _ => None,
            };
            assert_eq!(got, expected, "batch: {spec:?}");
        }
    }

    #[test]
    fn a_signature_is_not_taken_for_another() {
        let json = serde_json::to_vec(&spec()).unwrap();
        let [(_, t), (_, k), (_, s)] = me().headers::<JobSpec>(&json);
        let [_, (_, k2), (_, s2)] = other().headers::<JobSpec>(&json);
        let [(_, t3), _, (_, s3)] = me().headers::<Stranger>(&json);
        let headers = |t, k, s| Headers { mesh_type: t, mesh_key: k, mesh_sig: s, ..Headers::default() };
        let cases = [
            (headers(Some(&*t), Some(&*k), Some(&*s2)), Code::BadSignature),
            (headers(Some(&*t), Some(&*k2), Some(&*s)), Code::BadSignature),
            (headers(Some(&*t), Some(&*k2), Some(&*s2)), Code::WrongSigner),
            (headers(Some(&*t3), Some(&*k), Some(&*s3)), Code::SignedOther),
            (headers(Some(&*t), Some(&*k), None), Code::BadSignature),
            (headers(Some(&*t), Some("did:key:no"), Some(&*s)), Code::BadSignature),
            (headers(Some(&*t), Some(&*k), Some("!!")), Code::BadSignature),
        ];
        for (headers, expected) in cases {
            assert_eq!(code(headers, &json), Some(expected), "{headers:?}");
        }
        let strangers = me().batch(&[Stranger { kind: "echo".into() }]);
        let Sorted::Many(list) = sorted(Headers::default(), &strangers.encode()) else { panic!() };
        assert!(matches!(&list[..], [Candidate::Refuse(refused)] if refused.problem.code == Code::SignedOther));
    }

    #[test]
    fn one_bad_job_of_a_signed_batch_stands_alone() {
        let bad = JobSpec { text: None, ..spec() };
        let Sorted::Many(list) = sorted(Headers::default(), &me().batch(&[spec(), bad, spec()]).encode()) else { panic!() };
        assert!(matches!(&list[..], [Candidate::Admit(_), Candidate::Refuse(_), Candidate::Admit(_)]));
        let Candidate::Admit(admit) = &list[0] else { panic!() };
        assert_eq!(admit.job, JobId(Cid::of(&encode(&spec()))));
        let proof = admit.signed.as_ref().unwrap().proof(admit.body.clone().into());
        assert!(proof.verify::<JobSpec>(&mut Verifier::default()).is_ok(), "it stays provable by itself");
    }

    #[test]
    fn the_content_type_decides_and_then_the_first_byte() {
        let json: &[u8] = br#"{"kind":"echo","text":"a"}"#;
        let with = |content_type| Headers { content_type: Some(content_type), ..Headers::default() };
        assert_eq!(code(with("application/json; charset=utf-8"), json), None);
        assert_eq!(code(with("application/x-www-form-urlencoded"), json), None, "what curl -d says");
        assert_eq!(code(with("application/msgpack"), json), Some(Code::NotMsgpack));
        assert_eq!(code(Headers::default(), &[0x80]), Some(Code::NotMsgpack));
        assert_eq!(code(with("application/json"), &[0x81, 0xa1, b'b', 0x90]), Some(Code::NotUtf8));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400), head in any::<bool>()) {
            let headers = if head { Headers { mesh_sig: Some("x"), ..Headers::default() } } else { Headers::default() };
            prop_assert!(!sorted(headers, &bytes).into_vec().is_empty());
        }
        #[test]
        fn any_json_like_text_gets_an_answer(text in r#"[\[\]{}",:a-z0-9 ]{0,60}"#) {
            prop_assert!(!sorted(Headers::default(), text.as_bytes()).into_vec().is_empty());
        }
        #[test]
        fn a_flipped_bit_never_becomes_a_job(at in 0_usize..2000, bit in 0_u8..8) {
            let mut bytes = me().batch(&[spec()]).encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let refused = sorted(Headers::default(), &bytes).into_vec();
            prop_assert!(refused.iter().all(|candidate| matches!(candidate, Candidate::Refuse(_))));
        }
    }
}
