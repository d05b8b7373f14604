//! The envelope: sign the bytes that travel, many at once; verify, then parse the same bytes.
//!
//! The signature covers the DSSE frame `"DSSEv1" SP len(type) SP type SP 32 SP root`, where `root` is the Merkle root of 1 to n
//! bodies and `type` is `application/vnd.mesh.<kind>.v<major>+<json|msgpack>`. Carriers: [`Batch`] (many bodies),
//! [`Proof`] (one body with its path), both MessagePack maps; a JSON batch for the ledger; and the header form, where the NATS
//! payload is the JSON body and `Mesh-Type`, `Mesh-Key`, `Mesh-Sig` are headers.
//!
//! [`Verified`] can only be made here: a core that takes one cannot be handed an unchecked message.

use std::collections::HashMap;
use std::ops::Deref;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::code::{Code, Problem};
use crate::id::{Cid, PublicKey, sha256};
use crate::limits::{BATCH_BYTES_MAX, BATCH_MAX};
use crate::merkle::{self, Hash};
use crate::strict;

pub const HEADER_TYPE: &str = "Mesh-Type";
pub const HEADER_KEY: &str = "Mesh-Key";
pub const HEADER_SIG: &str = "Mesh-Sig";

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    Json,
    Msgpack,
}
impl Form {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Msgpack => "msgpack",
        }
    }
}

/// A kind of body that can be signed. The name is part of what is signed, so a signature over one kind is none over another.
pub trait Body: Serialize + DeserializeOwned {
    const KIND: &'static str;
    const MAJOR: u32 = 1;
    const BYTES_MAX: usize = crate::limits::BODY_BYTES_MAX;
}

/// The full type string of a body.
pub fn type_name<T: Body>(form: Form) -> String {
    format!("application/vnd.mesh.{}.v{}+{}", T::KIND, T::MAJOR, form.name())
}

/// Reads a type string as one of `T`'s.
///
/// # Errors
/// [`Code::SignedOther`] where the string names another kind or version.
pub fn form_of<T: Body>(type_text: &str) -> Result<Form, Problem> {
    [Form::Msgpack, Form::Json].into_iter().find(|form| type_name::<T>(*form) == type_text).ok_or_else(|| {
        let shown: String = type_text.chars().take(80).collect();
        Problem::new(Code::SignedOther, format!("signed as \"{shown}\", expected \"{}\"", type_name::<T>(Form::Msgpack)))
    })
}

/// Encodes a body as named MessagePack.
///
/// Our own types always encode (text keys, no unsized maps), so a failure here would be a bug in a type; it ends as empty
/// bytes, which every reader refuses by name.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap_or_default()
}

fn frame(type_text: &str, root: &Hash) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {type_text} 32 ", type_text.len()).into_bytes();
    out.extend_from_slice(root);
    out
}

/// Holds one signing key. The key never leaves it.
pub struct Signer {
    key: SigningKey,
    public: PublicKey,
}
impl Signer {
    /// From the 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey::from(&key.verifying_key());
        Self { key, public }
    }
    pub fn public(&self) -> PublicKey {
        self.public
    }
    fn sign(&self, type_text: &str, root: &Hash) -> ByteBuf {
        ByteBuf::from(self.key.sign(&frame(type_text, root)).to_bytes())
    }
    /// Signs 1 to [`BATCH_MAX`] bodies with one signature.
    pub fn batch<T: Body>(&self, bodies: &[T]) -> Batch {
        self.batch_of_bytes::<T>(Form::Msgpack, bodies.iter().map(encode).collect())
    }
    /// Signs bodies that are already bytes.
    pub fn batch_of_bytes<T: Body>(&self, form: Form, bodies: Vec<Vec<u8>>) -> Batch {
        let t = type_name::<T>(form);
        let leaves: Vec<Hash> = bodies.iter().map(|body| merkle::leaf(body)).collect();
        let s = self.sign(&t, &merkle::root(&leaves).unwrap_or_default());
        Batch { v: 1, t, b: bodies.into_iter().map(ByteBuf::from).collect(), k: self.public, s }
    }
    /// The JSON batch of the ledger: bodies are JSON text, verbatim.
    pub fn json_batch<T: Body>(&self, bodies: Vec<String>) -> JsonBatch {
        let batch = self.batch_of_bytes::<T>(Form::Json, bodies.iter().map(|body| body.clone().into_bytes()).collect());
        JsonBatch { v: 1, t: batch.t, b: bodies, k: batch.k, s: data_encoding::BASE64URL_NOPAD.encode(&batch.s) }
    }
    /// The three headers of the header form for one JSON body: type, key, signature.
    pub fn headers<T: Body>(&self, body: &[u8]) -> [(&'static str, String); 3] {
        let t = type_name::<T>(Form::Json);
        let s = self.sign(&t, &merkle::leaf(body));
        [(HEADER_TYPE, t), (HEADER_KEY, self.public.to_string()), (HEADER_SIG, data_encoding::BASE64URL_NOPAD.encode(&s))]
    }
}
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public)
    }
}

/// Many bodies under one signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub v: u8,
    pub t: String,
    pub b: Vec<ByteBuf>,
    pub k: PublicKey,
    pub s: ByteBuf,
}

/// One body of a batch with its way to the signed root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    pub v: u8,
    pub t: String,
    pub b: ByteBuf,
    pub i: u32,
    pub n: u32,
    pub h: Vec<ByteBuf>,
    pub k: PublicKey,
    pub s: ByteBuf,
}

/// A batch wholly in JSON, so that strangers read it with standard tools. `s` is base64url without padding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonBatch {
    pub v: u8,
    pub t: String,
    pub b: Vec<String>,
    pub k: PublicKey,
    pub s: String,
}

fn decode_carrier<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, Problem> {
    strict::decode(Form::Msgpack, bytes, bytes_max)
}

impl Batch {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
    /// # Errors
    /// What [`strict::decode`] finds; also a batch of no or too many bodies, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        let batch: Self = decode_carrier(bytes, BATCH_BYTES_MAX)?;
        check_shape(batch.v, batch.b.len())?;
        Ok(batch)
    }
    /// Body `index` by itself; `None` past the end.
    pub fn proof(&self, index: usize) -> Option<Proof> {
        let leaves: Vec<Hash> = self.b.iter().map(|body| merkle::leaf(body)).collect();
        self.b.get(index)?;
        self.proof_from(merkle::path(&leaves, index), index)
    }
    /// Every body by itself.
    pub fn proofs(&self) -> Vec<Proof> {
        let leaves: Vec<Hash> = self.b.iter().map(|body| merkle::leaf(body)).collect();
        merkle::paths(&leaves).into_iter().enumerate().filter_map(|(index, path)| self.proof_from(path, index)).collect()
    }
    fn proof_from(&self, path: Vec<Hash>, index: usize) -> Option<Proof> {
        Some(Proof {
            v: 1,
            t: self.t.clone(),
            b: self.b.get(index)?.clone(),
            i: u32::try_from(index).ok()?,
            n: u32::try_from(self.b.len()).ok()?,
            h: path.into_iter().map(|hash| ByteBuf::from(hash.to_vec())).collect(),
            k: self.k,
            s: self.s.clone(),
        })
    }
    /// Checks the signature and parses every body.
    ///
    /// # Errors
    /// [`Code::SignedOther`], [`Code::BadSignature`], or what is wrong with a body.
    pub fn verify<T: Body>(&self, verifier: &mut Verifier) -> Result<Vec<Verified<T>>, Problem> {
        // Again, for a batch that travelled inside another message.
        check_shape(self.v, self.b.len())?;
        let form = form_of::<T>(&self.t)?;
        let leaves: Vec<Hash> = self.b.iter().map(|body| merkle::leaf(body)).collect();
        verifier.check(&self.t, &merkle::root(&leaves).unwrap_or_default(), &self.k, &self.s)?;
        self.b.iter().map(|body| Verified::parse(form, body, self.k)).collect()
    }
}

impl Proof {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
    /// # Errors
    /// What [`strict::decode`] finds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        let proof: Self = decode_carrier(bytes, BATCH_BYTES_MAX)?;
        check_shape(proof.v, proof.n as usize)?;
        Ok(proof)
    }
    /// Checks the signature and parses the body.
    ///
    /// # Errors
    /// [`Code::SignedOther`], [`Code::BadSignature`], or what is wrong with the body.
    pub fn verify<T: Body>(&self, verifier: &mut Verifier) -> Result<Verified<T>, Problem> {
        check_shape(self.v, self.n as usize)?;
        let form = form_of::<T>(&self.t)?;
        let bad = || Problem::new(Code::BadSignature, "the proof does not lead to a root");
        let path = self.h.iter().map(|hash| Hash::try_from(hash.as_slice()).map_err(|_| bad())).collect::<Result<Vec<_>, _>>()?;
        let root = merkle::root_of_path(merkle::leaf(&self.b), self.i, self.n, &path).ok_or_else(bad)?;
        verifier.check(&self.t, &root, &self.k, &self.s)?;
        Verified::parse(form, &self.b, self.k)
    }
}

impl JsonBatch {
    /// The bytes that are stored: compact JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
    /// # Errors
    /// What [`strict::decode`] finds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        let batch: Self = strict::decode_closed(bytes, 2 * BATCH_BYTES_MAX)?;
        check_shape(batch.v, batch.b.len())?;
        Ok(batch)
    }
    /// Checks the signature and parses every body.
    ///
    /// # Errors
    /// [`Code::SignedOther`], [`Code::BadSignature`], or what is wrong with a body.
    pub fn verify<T: Body>(&self, verifier: &mut Verifier) -> Result<Vec<Verified<T>>, Problem> {
        let form = self.check::<T>(verifier)?;
        self.b.iter().map(|body| Verified::parse(form, body.as_bytes(), self.k)).collect()
    }
    /// As [`Self::verify`], for whoever reads very many and needs no content ids: the bodies alone, all signed by `k`.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_bodies<T: Body>(&self, verifier: &mut Verifier) -> Result<Vec<T>, Problem> {
        let form = self.check::<T>(verifier)?;
        self.b.iter().map(|body| strict::decode(form, body.as_bytes(), T::BYTES_MAX)).collect()
    }
    fn check<T: Body>(&self, verifier: &mut Verifier) -> Result<Form, Problem> {
        let form = form_of::<T>(&self.t)?;
        let leaves: Vec<Hash> = self.b.iter().map(|body| merkle::leaf(body.as_bytes())).collect();
        let signature = base64url(&self.s)?;
        verifier.check(&self.t, &merkle::root(&leaves).unwrap_or_default(), &self.k, &signature)?;
        Ok(form)
    }
}

/// Verifies the header form: the payload is the JSON body itself.
///
/// # Errors
/// [`Code::SignedOther`], [`Code::BadSignature`], or what is wrong with the body.
pub fn verify_headers<T: Body>(
    verifier: &mut Verifier,
    type_text: &str,
    key: &str,
    signature: &str,
    body: &[u8],
) -> Result<Verified<T>, Problem> {
    let form = form_of::<T>(type_text)?;
    let key: PublicKey = key.parse().map_err(|error| Problem::new(Code::BadSignature, format!("{HEADER_KEY}: {error}")))?;
    verifier.check(type_text, &merkle::leaf(body), &key, &base64url(signature)?)?;
    Verified::parse(form, body, key)
}

/// Turns the three headers of the header form into a proof of one body, so that it can travel on in MessagePack.
pub fn headers_as_proof(type_text: &str, key: PublicKey, signature: &str, body: &[u8]) -> Result<Proof, Problem> {
    Ok(Proof {
        v: 1,
        t: type_text.to_owned(),
        b: ByteBuf::from(body),
        i: 0,
        n: 1,
        h: vec![],
        k: key,
        s: ByteBuf::from(base64url(signature)?),
    })
}

fn base64url(text: &str) -> Result<Vec<u8>, Problem> {
    let bad = || Problem::new(Code::BadSignature, "the signature is not base64url of 64 bytes");
    data_encoding::BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes()).map_err(|_| bad())
}

fn check_shape(version: u8, bodies: usize) -> Result<(), Problem> {
    if version != 1 {
        return Err(Problem::new(Code::SignedOther, format!("envelope version {version}; this program reads version 1")));
    }
    if bodies == 0 || bodies > BATCH_MAX {
        return Err(Problem::new(Code::TooLarge, format!("{bodies} bodies under one signature; 1 to {BATCH_MAX} are allowed")));
    }
    Ok(())
}

/// A body whose signature was checked, with the key that made it and its content id.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    body: T,
    by: PublicKey,
    cid: Cid,
}
impl<T: Body> Verified<T> {
    fn parse(form: Form, bytes: &[u8], by: PublicKey) -> Result<Self, Problem> {
        Ok(Self { body: strict::decode(form, bytes, T::BYTES_MAX)?, by, cid: Cid::of(bytes) })
    }
}
impl<T> Verified<T> {
    /// Who signed.
    pub fn by(&self) -> PublicKey {
        self.by
    }
    /// Content id of the body's bytes as they travelled.
    pub fn cid(&self) -> Cid {
        self.cid
    }
    pub fn into_body(self) -> T {
        self.body
    }
}
impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.body
    }
}

/// Checks signatures: keys are parsed once, and a verdict is remembered, so that 64 proofs of one root cost one check.
#[derive(Default)]
pub struct Verifier {
    keys: HashMap<PublicKey, VerifyingKey>,
    /// Digests of (frame, key, signature) that were good. Bounded: cleared when full.
    good: std::collections::HashSet<[u8; 32]>,
}
const REMEMBERED_MAX: usize = 16_384;

impl Verifier {
    fn check(&mut self, type_text: &str, root: &Hash, key: &PublicKey, signature: &[u8]) -> Result<(), Problem> {
        let bad = || Problem::new(Code::BadSignature, format!("the signature does not match the body and {key}"));
        let signature: [u8; 64] = signature.try_into().map_err(|_| bad())?;
        let frame = frame(type_text, root);
        let verdict = sha256(&[key.as_bytes().as_slice(), &signature, &frame].concat());
        if self.good.contains(&verdict) {
            return Ok(());
        }
        if self.keys.len() > REMEMBERED_MAX {
            self.keys.clear();
        }
        let parsed = match self.keys.get(key) {
            Some(parsed) => *parsed,
            None => {
                let parsed = VerifyingKey::from_bytes(key.as_bytes()).map_err(|_| bad())?;
                self.keys.insert(*key, parsed);
                parsed
            }
        };
        parsed.verify_strict(&frame, &Signature::from_bytes(&signature)).map_err(|_| bad())?;
        if self.good.len() >= REMEMBERED_MAX {
            self.good.clear();
        }
        self.good.insert(verdict);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Note {
        n: u32,
    }
    impl Body for Note {
        const KIND: &'static str = "note";
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Other {
        n: u32,
    }
    impl Body for Other {
        const KIND: &'static str = "other";
    }

    fn signer(seed: u8) -> Signer {
        Signer::from_seed(&[seed; 32])
    }

    #[test]
    fn a_batch_travels_and_each_body_proves_itself() {
        let notes: Vec<Note> = (0..7).map(|n| Note { n }).collect();
        let batch = Batch::decode(&signer(1).batch(&notes).encode()).unwrap();
        let verified = batch.verify::<Note>(&mut Verifier::default()).unwrap();
        assert_eq!(verified.iter().map(|v| v.n).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
        for (i, note) in notes.iter().enumerate() {
            let proof = Proof::decode(&batch.proof(i).unwrap().encode()).unwrap();
            let one = proof.verify::<Note>(&mut Verifier::default()).unwrap();
            assert_eq!((&*one, one.cid()), (note, verified[i].cid()));
            let mut wrong = proof.clone();
            wrong.b = ByteBuf::from(encode(&Note { n: 99 }));
            assert_eq!(wrong.verify::<Note>(&mut Verifier::default()).unwrap_err().code, Code::BadSignature);
        }
    }

    #[test]
    fn what_is_refused() {
        let fresh = Verifier::default;
        let batch = signer(1).batch(&[Note { n: 1 }]);
        assert_eq!(batch.verify::<Other>(&mut fresh()).unwrap_err().code, Code::SignedOther, "right signature on another type");
        let mut forged = batch.clone();
        forged.k = signer(2).public();
        assert_eq!(forged.verify::<Note>(&mut fresh()).unwrap_err().code, Code::BadSignature);
        let mut renamed = batch.clone();
        renamed.t = type_name::<Other>(Form::Msgpack);
        assert_eq!(renamed.verify::<Other>(&mut fresh()).unwrap_err().code, Code::BadSignature);
        let mut short = batch.clone();
        short.s = ByteBuf::from(vec![0; 63]);
        assert_eq!(short.verify::<Note>(&mut fresh()).unwrap_err().code, Code::BadSignature);
        let empty = Batch { b: vec![], ..batch };
        assert_eq!(Batch::decode(&empty.encode()).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn a_good_verdict_is_not_a_verdict_on_another_body() {
        let mut verifier = Verifier::default();
        let batch = signer(1).batch(&[Note { n: 1 }]);
        batch.verify::<Note>(&mut verifier).unwrap();
        let other = Batch { b: vec![ByteBuf::from(encode(&Note { n: 2 }))], ..batch };
        assert_eq!(other.verify::<Note>(&mut verifier).unwrap_err().code, Code::BadSignature);
    }

    #[test]
    fn header_and_json_forms() {
        let body = br#"{"n":5}"#;
        let [(_, t), (_, k), (_, s)] = signer(3).headers::<Note>(body);
        let note = verify_headers::<Note>(&mut Verifier::default(), &t, &k, &s, body).unwrap();
        assert_eq!(note.n, 5);
        assert!(verify_headers::<Note>(&mut Verifier::default(), &t, &k, &s, br#"{"n":6}"#).is_err());
        let proof = headers_as_proof(&t, note.by(), &s, body).unwrap();
        assert_eq!(proof.verify::<Note>(&mut Verifier::default()).unwrap().cid(), note.cid());

        let ledger = signer(3).json_batch::<Note>(vec![r#"{"n":1}"#.into(), r#"{"n":2}"#.into()]);
        let back = JsonBatch::decode(&ledger.encode()).unwrap();
        assert_eq!(back.verify::<Note>(&mut Verifier::default()).unwrap()[1].n, 2);
    }

    #[test]
    fn an_identity_point_key_never_verifies() {
        // The trap of lax verification: key = identity point, R = identity, s = 0 passes `verify` for any message.
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(PublicKey::from_bytes(identity).is_err());
    }

    #[test]
    fn a_json_batch_in_one_pass_is_refused_as_in_two() {
        let good = String::from_utf8(signer(3).json_batch::<Note>(vec![r#"{"n":1}"#.into()]).encode()).unwrap();
        let array = serde_json::from_str::<serde_json::Value>(&good)
            .map(|batch| serde_json::json!([batch["v"], batch["t"], batch["b"], batch["k"], batch["s"]]));
        let changes = [
            good.clone(),
            format!(" {good}\n"),
            format!("{good} 1"),
            array.unwrap().to_string(),
            good.replacen("\"v\":1", "\"v\":1,\"v\":1", 1),
            good.replacen("\"v\":1", "\"v\":1,\"\\u0076\":1", 1),
            good.replacen("\"v\":1", "\"v\":1,\"w\":{\"a\":1,\"a\":1}", 1),
            good.replacen("\"v\":1", "\"v\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", 1),
            good.replacen("\"v\":1", "\"v\":\"1\"", 1),
            good.replacen("\"v\":1,", "", 1),
            good.replacen("\"b\":[", "\"b\":[\"\\ud800\",", 1),
            String::new(),
            "{".to_owned(),
        ];
        for text in changes {
            let two: Result<JsonBatch, Problem> = strict::decode(Form::Json, text.as_bytes(), BATCH_BYTES_MAX);
            let one: Result<JsonBatch, Problem> = strict::decode_closed(text.as_bytes(), BATCH_BYTES_MAX);
            assert_eq!(format!("{one:?}"), format!("{two:?}"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_json_batch_is_read_alike_in_one_pass(at in 0_usize..1000, to in any::<u8>(), cut in 0_usize..4) {
            let mut bytes = signer(3).json_batch::<Note>(vec![r#"{"n":1}"#.into(), r#"{"n":"\u00e4"}"#.into()]).encode();
            let at = at % bytes.len();
            bytes[at] = to;
            bytes.drain(at..(at + cut).min(bytes.len()));
            let two: Result<JsonBatch, Problem> = strict::decode(Form::Json, &bytes, BATCH_BYTES_MAX);
            let one: Result<JsonBatch, Problem> = strict::decode_closed(&bytes, BATCH_BYTES_MAX);
            prop_assert_eq!(format!("{one:?}"), format!("{two:?}"));
        }
        #[test]
        fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Batch::decode(&bytes).map(|b| b.verify::<Note>(&mut Verifier::default()));
            let _ = Proof::decode(&bytes).map(|p| p.verify::<Note>(&mut Verifier::default()));
            let _ = JsonBatch::decode(&bytes);
        }
        #[test]
        fn one_flipped_bit_is_found(at in 0_usize..1000, bit in 0_u8..8) {
            let mut bytes = signer(1).batch(&[Note { n: 1 }, Note { n: 2 }]).encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let ok = Batch::decode(&bytes).and_then(|b| b.verify::<Note>(&mut Verifier::default()));
            prop_assert!(ok.is_err());
        }
    }
}
