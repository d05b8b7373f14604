//! NATS tokens (JWT version 2): made, signed, read and checked; and credentials files.
//!
//! `header.claims.signature`, each base64url; signed by an nkey over `header.claims`; `jti` = base32 of SHA-256 of the claims with
//! an empty `jti`. Limits are written out as -1: a server takes an absent limit of an account for none at all.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use ed25519_dalek::{Signature, VerifyingKey};
use nkeys::{KeyPair, KeyPairType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
/// No token of ours comes near it.
const BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("not a token: {0}")]
    Malformed(String),
    #[error("the signature of the token is not valid")]
    BadSignature,
    #[error("the token is signed by {0}, which may not sign it")]
    WrongIssuer(String),
    #[error("failed to sign: {0}")]
    Key(String),
}

/// The claims of one token; `nats` is what the kind of token adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims<N> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// Unix seconds.
    pub iat: u64,
    /// Public nkey of the signer.
    #[serde(default)]
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    pub name: String,
    /// Public nkey the token is about.
    pub sub: String,
    pub nats: N,
}
impl<N> Claims<N> {
    pub fn new(sub: impl Into<String>, name: impl Into<String>, iat: u64, nats: N) -> Self {
        Self { exp: None, iat, iss: String::new(), jti: String::new(), name: name.into(), sub: sub.into(), nats }
    }
    pub fn expires(self, at: u64) -> Self {
        Self { exp: Some(at), ..self }
    }
}

/// What every `nats` part says first: which kind of token it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Operator,
    Account,
    User,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    #[serde(rename = "type")]
    pub kind: Kind,
    pub version: u32,
    pub signing_keys: Vec<String>,
    pub system_account: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    #[serde(rename = "type")]
    pub kind: Kind,
    pub version: u32,
    pub limits: AccountLimits,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<ScopedKey>,
    /// User nkey -> Unix seconds: tokens issued up to then are dead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revocations: BTreeMap<String, u64>,
}
impl Account {
    /// No limits of NATS itself, and JetStream only where `jetstream` says so.
    pub fn new(jetstream: bool) -> Self {
        Self {
            kind: Kind::Account,
            version: 2,
            limits: AccountLimits::unlimited(jetstream),
            exports: vec![],
            imports: vec![],
            signing_keys: vec![],
            revocations: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLimits {
    pub subs: i64,
    pub data: i64,
    pub payload: i64,
    pub imports: i64,
    pub exports: i64,
    pub wildcards: bool,
    pub conn: i64,
    pub leaf: i64,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub jetstream: Option<JetStreamLimits>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JetStreamLimits {
    pub mem_storage: i64,
    pub disk_storage: i64,
    pub streams: i64,
    pub consumer: i64,
    pub max_ack_pending: i64,
    pub mem_max_stream_bytes: i64,
    pub disk_max_stream_bytes: i64,
}
impl AccountLimits {
    fn unlimited(jetstream: bool) -> Self {
        let jetstream = jetstream.then_some(JetStreamLimits {
            mem_storage: -1,
            disk_storage: -1,
            streams: -1,
            consumer: -1,
            max_ack_pending: -1,
            mem_max_stream_bytes: -1,
            disk_max_stream_bytes: -1,
        });
        Self { subs: -1, data: -1, payload: -1, imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1, jetstream }
    }
}

/// How a subject crosses between accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crossing {
    Stream,
    Service,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub name: String,
    pub subject: String,
    #[serde(rename = "type")]
    pub crossing: Crossing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_token_position: Option<u32>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    pub name: String,
    pub subject: String,
    pub account: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_subject: Option<String>,
    #[serde(rename = "type")]
    pub crossing: Crossing,
}

/// A signing key whose users get exactly this role; they carry no permissions of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopedKey {
    pub kind: String,
    pub key: String,
    pub role: String,
    pub template: Template,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    #[serde(rename = "pub")]
    pub publish: Allow,
    #[serde(rename = "sub")]
    pub subscribe: Allow,
    pub subs: i64,
    pub data: i64,
    pub payload: i64,
    pub allowed_connection_types: Vec<String>,
}
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
}

/// A user. One that a scoped key signs names only its account and tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    #[serde(rename = "type")]
    pub kind: Kind,
    pub version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_account: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Rights>,
}
/// Rights of a user that the account's own key signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    pub subs: i64,
    pub data: i64,
    pub payload: i64,
    #[serde(rename = "pub")]
    pub publish: Allow,
    #[serde(rename = "sub")]
    pub subscribe: Allow,
    /// May answer what it was asked, wherever the reply goes.
    #[serde(default, rename = "resp", skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    pub max: i64,
    /// Nanoseconds.
    pub ttl: i64,
}
impl User {
    /// Signed by a scoped key of `account`.
    pub fn scoped(account: &str, tags: Vec<String>) -> Self {
        Self { kind: Kind::User, version: 2, issuer_account: Some(account.to_owned()), tags, own: None }
    }
    /// Signed by the account's own key.
    pub fn with_rights(rights: Rights) -> Self {
        Self { kind: Kind::User, version: 2, issuer_account: None, tags: vec![], own: Some(rights) }
    }
}

/// Signs claims; fills `iss` and `jti`.
///
/// # Errors
/// Where the key has no secret part.
pub fn encode<N: Serialize + Clone>(claims: &Claims<N>, signer: &KeyPair) -> Result<String, JwtError> {
    let key = |error: &dyn std::fmt::Display| JwtError::Key(error.to_string());
    let mut claims = Claims { iss: signer.public_key(), jti: String::new(), ..claims.clone() };
    let unnamed = serde_json::to_vec(&claims).map_err(|error| key(&error))?;
    claims.jti = BASE32_NOPAD.encode(&Sha256::digest(&unnamed));
    let body = serde_json::to_vec(&claims).map_err(|error| key(&error))?;
    let signed = format!("{}.{}", BASE64URL_NOPAD.encode(HEADER.as_bytes()), BASE64URL_NOPAD.encode(&body));
    let signature = signer.sign(signed.as_bytes()).map_err(|error| key(&error))?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

/// Reads a token and checks its signature against its own issuer. Who may be the issuer is the caller's question: [`decode_from`].
///
/// # Errors
/// [`JwtError`].
pub fn decode<N: DeserializeOwned>(token: &str) -> Result<Claims<N>, JwtError> {
    let malformed = |what: &str| JwtError::Malformed(what.to_owned());
    if token.len() > BYTES_MAX {
        return Err(malformed("too large"));
    }
    let parts: Vec<&str> = token.trim().split('.').collect();
    let [header, body, signature] = parts[..] else { return Err(malformed("three parts are expected")) };
    let bytes = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| malformed("not base64url"));
    #[derive(Deserialize)]
    struct Header {
        alg: String,
    }
    let head: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| malformed("no header"))?;
    if head.alg != "ed25519-nkey" {
        return Err(malformed("another algorithm"));
    }
    let claims: Claims<N> = serde_json::from_slice(&bytes(body)?).map_err(|error| JwtError::Malformed(error.to_string()))?;
    if !verify(&claims.iss, format!("{header}.{body}").as_bytes(), &bytes(signature)?) {
        return Err(JwtError::BadSignature);
    }
    Ok(claims)
}

/// As [`decode`], and the issuer must be one of `issuers`.
///
/// # Errors
/// [`JwtError`].
pub fn decode_from<N: DeserializeOwned>(token: &str, issuers: &BTreeSet<String>) -> Result<Claims<N>, JwtError> {
    let claims = decode(token)?;
    if issuers.contains(&claims.iss) { Ok(claims) } else { Err(JwtError::WrongIssuer(claims.iss)) }
}

/// Whether `signature` is `key`'s (a public nkey) over `bytes`. Strict: a weak key verifies nothing.
pub fn verify(key: &str, bytes: &[u8], signature: &[u8]) -> bool {
    let key = nkeys::from_public_key(key).ok().and_then(|(_, raw)| VerifyingKey::from_bytes(&raw).ok());
    let signature = <[u8; 64]>::try_from(signature).ok();
    match (key, signature) {
        (Some(key), Some(signature)) => key.verify_strict(bytes, &Signature::from_bytes(&signature)).is_ok(),
        _ => false,
    }
}

/// Whether this is the public nkey of a user, and no weak key.
pub fn is_user_key(key: &str) -> bool {
    KeyPair::from_public_key(key).is_ok_and(|pair| matches!(pair.key_pair_type(), KeyPairType::User))
        && nkeys::from_public_key(key).is_ok_and(|(_, raw)| VerifyingKey::from_bytes(&raw).is_ok_and(|key| !key.is_weak()))
}

/// A new nkey from the operating system's randomness.
///
/// # Errors
/// Where there is none.
pub fn new_nkey(kind: KeyPairType) -> anyhow::Result<KeyPair> {
    KeyPair::new_from_raw(kind, bus::keys::random()?).map_err(|error| anyhow::anyhow!("{error}"))
}

/// The text of a credentials file: token and seed. A secret.
pub fn creds_file(token: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         Keep this file to yourself: whoever has it is you.\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(kind: KeyPairType, byte: u8) -> KeyPair {
        KeyPair::new_from_raw(kind, [byte; 32]).unwrap()
    }

    #[test]
    fn a_user_token_is_golden() {
        let (role, user, edge) = (pair(KeyPairType::Account, 1), pair(KeyPairType::User, 2), pair(KeyPairType::Account, 3));
        let claims = Claims::new(user.public_key(), "dev_x", 1_700_000_000, User::scoped(&edge.public_key(), vec!["member:mem_y".into()]));
        let token = encode(&claims.expires(1_700_086_400), &role).unwrap();
        insta::assert_snapshot!(token);
        let body = BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap();
        insta::assert_snapshot!(String::from_utf8(body).unwrap());
        let back: Claims<User> = decode(&token).unwrap();
        assert_eq!((back.name.as_str(), back.iss, back.nats.own), ("dev_x", role.public_key(), None));
    }

    #[test]
    fn an_account_writes_every_limit_out() {
        let operator = pair(KeyPairType::Operator, 4);
        let mut account = Account::new(true);
        account.revocations.insert("U1".into(), 7);
        let token = encode(&Claims::new("A1", "CONTROL", 1, account.clone()), &operator).unwrap();
        let body = BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap();
        insta::assert_snapshot!(String::from_utf8(body).unwrap());
        assert_eq!(decode::<Account>(&token).unwrap().nats, account);
    }

    #[test]
    fn what_is_refused() {
        let (one, two) = (pair(KeyPairType::Operator, 1), pair(KeyPairType::Operator, 2));
        let token = encode(&Claims::new("A1", "EDGE", 1, Account::new(false)), &one).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let other = encode(&Claims::new("A1", "EDGE", 2, Account::new(false)), &one).unwrap();
        let mixed = format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2]);
        assert_eq!(decode::<Account>(&mixed), Err(JwtError::BadSignature));
        let only = |key: &KeyPair| BTreeSet::from([key.public_key()]);
        assert!(decode_from::<Account>(&token, &only(&one)).is_ok());
        assert_eq!(decode_from::<Account>(&token, &only(&two)), Err(JwtError::WrongIssuer(one.public_key())));
        for bad in ["", "a.b", "a.b.c", &token.replace('.', ""), &format!("{token}.x")] {
            assert!(matches!(decode::<Account>(bad), Err(JwtError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn a_transport_key_is_a_users_and_strong() {
        assert!(is_user_key(&pair(KeyPairType::User, 9).public_key()));
        assert!(!is_user_key(&pair(KeyPairType::Account, 9).public_key()));
        for bad in ["", "U", &"U".repeat(56)] {
            assert!(!is_user_key(bad), "{bad}");
        }
    }

    #[test]
    fn a_credentials_file_is_read_back() {
        let user = pair(KeyPairType::User, 5);
        let text = creds_file("a.b.c", &user.seed().unwrap());
        assert_eq!(bus::connect::parse_creds(&text), Some(("a.b.c", user.seed().unwrap().as_str())));
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in ".{0,300}") {
            let _ = (decode::<User>(&text), verify(&text, b"x", text.as_bytes()), is_user_key(&text));
        }
    }
}
