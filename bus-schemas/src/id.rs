//! Names of things: content ids (CIDv1), keys (`did:key`), and the ids derived from keys.
//!
//! A `JobId` and a `DeviceId` cannot be swapped. Ids of members, devices and networks are derived from an Ed25519 key, never
//! chosen, because they land in subjects and permissions: `mem_` / `dev_` / `net_` + 26 characters of base32(SHA-256(key)).

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Why a piece of text or bytes is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("not a CIDv1 (raw, sha2-256) content id: {0}")]
    Cid(String),
    #[error("not a did:key of an Ed25519 key: {0}")]
    Did(String),
    #[error("not a {prefix} id ({prefix}_ and 26 characters a-z, 2-7): {text}")]
    Derived { prefix: &'static str, text: String },
    #[error("not an instance id (1 to 24 characters a-z, 0-9, -): {0}")]
    Instance(String),
}

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Content id: CIDv1, codec raw (0x55), multihash sha2-256; prints as `bafkrei…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid([u8; 32]);

/// The length of a CID's text.
const CID_CHARS: usize = 59;

const CID_PREFIX: [u8; 4] = [0x01, 0x55, 0x12, 0x20];
/// What every one of our CIDs starts with in text; short forms begin after it.
pub const CID_TEXT_PREFIX: &str = "bafkrei";

impl Cid {
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256(bytes))
    }
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }
    pub fn digest(&self) -> &[u8; 32] {
        &self.0
    }
    /// The 36 bytes of the binary CID.
    pub fn to_bytes(&self) -> [u8; 36] {
        let mut out = [0; 36];
        out[..4].copy_from_slice(&CID_PREFIX);
        out[4..].copy_from_slice(&self.0);
        out
    }
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        let rest = bytes.strip_prefix(&CID_PREFIX).and_then(|rest| <[u8; 32]>::try_from(rest).ok());
        rest.map(Self).ok_or_else(|| IdError::Cid(format!("{} bytes", bytes.len())))
    }
    /// The 8 characters after `bafkrei`, which people see.
    pub fn short(&self) -> String {
        self.to_string()[CID_TEXT_PREFIX.len()..CID_TEXT_PREFIX.len() + 8].to_owned()
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'b'; CID_CHARS];
        data_encoding::BASE32_NOPAD.encode_mut(&self.to_bytes(), &mut text[1..]);
        text.make_ascii_lowercase();
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}
impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Cid {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError::Cid(text.chars().take(80).collect());
        let upper = |text: &str| text.bytes().any(|byte| byte.is_ascii_uppercase());
        if !text.starts_with(CID_TEXT_PREFIX) || text.len() != CID_CHARS || upper(text) {
            return Err(bad());
        }
        let mut bytes = [0; 36];
        // Bits at the end that are no part of a byte must be 0, so that no id has two texts.
        data_encoding::BASE32_NOPAD_NOCASE.decode_mut(&text.as_bytes()[1..], &mut bytes).map_err(|_| bad())?;
        Self::from_bytes(&bytes).map_err(|_| bad())
    }
}

/// Reads a text and parses it, without a copy of it.
///
/// # Errors
/// What the format or the parser says.
pub(crate) fn parse<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(d: D) -> Result<T, D::Error> {
    struct Text<T>(PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    d.deserialize_str(Text(PhantomData))
}

struct BytesOrText<T>(&'static str, PhantomData<T>);
impl<T: FromStr<Err = IdError> + FromBytes> Visitor<'_> for BytesOrText<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<T, E> {
        T::from_id_bytes(bytes).map_err(E::custom)
    }
}
trait FromBytes: Sized {
    fn from_id_bytes(bytes: &[u8]) -> Result<Self, IdError>;
}
impl FromBytes for Cid {
    fn from_id_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        Self::from_bytes(bytes)
    }
}

impl Serialize for Cid {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_bytes(&self.to_bytes()) }
    }
}
impl<'de> Deserialize<'de> for Cid {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let visitor = BytesOrText("a CID", PhantomData);
        if d.is_human_readable() { d.deserialize_str(visitor) } else { d.deserialize_bytes(visitor) }
    }
}
impl schemars::JsonSchema for Cid {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cid".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^bafkrei[a-z2-7]{52}$"})
    }
}

macro_rules! cid_id {
    ($name:ident, $short:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Cid);
        impl $name {
            /// What people see; both forms parse wherever an id is asked for.
            pub fn short(&self) -> String {
                format!(concat!($short, "_{}"), self.0.short())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.short())
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.parse().map(Self)
            }
        }
    };
}
cid_id!(JobId, "job", "Content id of a job's body (signed), or of who, key and raw bytes (unsigned).");
cid_id!(AttemptId, "att", "Content id of the assignment that began the attempt.");
cid_id!(ReceiptId, "rcp", "Content id of a receipt's body.");
cid_id!(FactId, "fact", "What makes a fact unique for ever: SHA-256 of what it is about.");
cid_id!(LetterId, "dlq", "A dead letter, by what it is about: told twice it is one letter.");

/// An Ed25519 public key; prints as `did:key:z6Mk…` and travels as 32 bytes.
///
/// Parsing the text form refuses weak points. The 32 bytes of a binary message are taken as they are: nothing they sign
/// passes the strict check of [`crate::Verifier`] if they are no good key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// # Errors
    /// [`IdError::Did`] where the bytes are no curve point or a weak one (a forged signature would pass a lax check).
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, IdError> {
        match ed25519_dalek::VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(bytes)),
            Ok(_) => Err(IdError::Did("a weak key".into())),
            Err(_) => Err(IdError::Did("not a point of the curve".into())),
        }
    }
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    pub fn member_id(&self) -> MemberId {
        MemberId(derive(&self.0))
    }
    pub fn device_id(&self) -> DeviceId {
        DeviceId(derive(&self.0))
    }
    pub fn network_id(&self) -> NetworkId {
        NetworkId(derive(&self.0))
    }
}
impl From<&ed25519_dalek::VerifyingKey> for PublicKey {
    fn from(key: &ed25519_dalek::VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}
impl FromBytes for PublicKey {
    fn from_id_bytes(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::Did(format!("{} bytes", bytes.len())))
    }
}
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![0xed, 0x01];
        bytes.extend_from_slice(&self.0);
        write!(f, "did:key:{}", multibase::encode(multibase::Base::Base58Btc, bytes))
    }
}
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for PublicKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError::Did(text.chars().take(80).collect());
        let encoded = text.strip_prefix("did:key:").filter(|rest| rest.starts_with("z6Mk") && rest.len() < 64).ok_or_else(bad)?;
        let (_, bytes) = multibase::decode(encoded).map_err(|_| bad())?;
        let key = bytes.strip_prefix(&[0xed, 0x01]).ok_or_else(bad)?;
        Self::from_bytes(key.try_into().map_err(|_| bad())?)
    }
}
impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_bytes(&self.0) }
    }
}
impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let visitor = BytesOrText("a did:key", PhantomData);
        if d.is_human_readable() { d.deserialize_str(visitor) } else { d.deserialize_bytes(visitor) }
    }
}
impl schemars::JsonSchema for PublicKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Did".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^did:key:z6Mk[1-9A-HJ-NP-Za-km-z]+$"})
    }
}

fn derive(key: &[u8; 32]) -> [u8; 26] {
    let text = data_encoding::BASE32_NOPAD.encode(&sha256(key)).to_ascii_lowercase();
    let mut out = [0; 26];
    out.copy_from_slice(&text.as_bytes()[..26]);
    out
}

macro_rules! derived_id {
    ($name:ident, $prefix:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 26]);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(std::str::from_utf8(&self.0).map_err(|_| fmt::Error)?)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|rest| <[u8; 26]>::try_from(rest.as_bytes()).ok())
                    .filter(|bytes| bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')))
                    .map(Self)
                    .ok_or_else(|| IdError::Derived { prefix: $prefix, text: text.chars().take(80).collect() })
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                parse(d)
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": concat!("^", $prefix, "_[a-z2-7]{26}$")})
            }
        }
    };
}
derived_id!(MemberId, "mem", "A member: who pays and is paid.");
derived_id!(DeviceId, "dev", "A device: what bids and computes. Bound to a member by a fact.");
derived_id!(NetworkId, "net", "A network, derived from the key that signs its document.");

/// Who asks at a door: the token in `mesh.v1.submit.<a>` and `mesh.v1.api.<a>.…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    Member(MemberId),
    Device(DeviceId),
}
impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(id) => fmt::Display::fmt(id, f),
            Self::Device(id) => fmt::Display::fmt(id, f),
        }
    }
}
impl FromStr for Asker {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.starts_with("dev_") { text.parse().map(Self::Device) } else { text.parse().map(Self::Member) }
    }
}
impl Serialize for Asker {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Asker {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        parse(d)
    }
}

/// One running process of a part (`<s>` in subjects): chosen at start, random, safe as a subject token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InstanceId(String);
impl InstanceId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for InstanceId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let fine = (1..=24).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if fine { Ok(Self(text.to_owned())) } else { Err(IdError::Instance(text.chars().take(80).collect())) }
    }
}
impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        parse(d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cid_prints_and_parses() {
        let cid = Cid::of(b"hello");
        // The same text as `ipfs add --raw-leaves --cid-version 1` gives for these five bytes.
        assert_eq!(cid.to_string(), "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq");
        assert_eq!(cid.to_string().parse::<Cid>(), Ok(cid));
        assert_eq!(JobId(cid).short(), "job_bm6jg3ux");
        for bad in [
            "",
            "bafkrei",
            "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
            "BAFKREIBM6JG3UX5QUMHCN2B3FLC3TYU6DMLB4XA7U5BF44YEGNRJHC4YEQ",
            // One letter is upper case; a letter that base32 does not have; the same bytes with another bit after the last one.
            "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeQ",
            "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4ye1",
            "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yer",
            "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4ye",
        ] {
            assert!(bad.parse::<Cid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_did_is_strict() {
        // W3C did:key test vector.
        let did = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
        let key: PublicKey = did.parse().unwrap();
        assert_eq!(key.to_string(), did);
        assert!("did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme".parse::<PublicKey>().is_err());
        assert!(PublicKey::from_bytes([0; 32]).is_err(), "a weak point");
        assert!(
            PublicKey::from_bytes({
                let mut one = [0; 32];
                one[0] = 1;
                one
            })
            .is_err(),
            "the identity point"
        );
        let id = key.device_id();
        assert_eq!(id.to_string().parse::<DeviceId>(), Ok(id));
        assert!(id.to_string().parse::<MemberId>().is_err(), "a device is no member");
    }
}
