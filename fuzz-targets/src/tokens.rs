//! NATS tokens: what is signed is read back, and nothing else passes as signed.

use bus_schemas::id::sha256;
use gateway::jwt::{Account, Claims, JwtError, Operator, User, decode, decode_from, encode, is_user_key, verify};
use nkeys::{KeyPair, KeyPairType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::LazyLock;

use crate::bytes::Bytes;

static SIGNER: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::new_from_raw(KeyPairType::Account, [7; 32]).expect("32 bytes are a key"));

/// The first byte says whether a token is read as it came, or made from claims and then changed.
///
/// # Panics
/// Where a token is believed that nobody signed.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    if bytes.byte().is_multiple_of(2) {
        let Ok(text) = std::str::from_utf8(bytes.rest()) else { return };
        read::<User>(text);
        read::<Account>(text);
        read::<Operator>(text);
        let _ = is_user_key(text);
        assert!(!verify(text, b"x", text.as_bytes()), "a text is no signature");
    } else {
        let (at, to) = (usize::from(bytes.word()), bytes.byte());
        let rest = bytes.rest();
        made::<User>(rest, at, to);
        made::<Account>(rest, at, to);
        made::<Operator>(rest, at, to);
    }
}

/// Nobody who fuzzes has a key: what verifies carries a seed's signature, and then so does its own issuer's name.
fn read<N: DeserializeOwned + Debug>(text: &str) {
    if let Ok(claims) = decode::<N>(text) {
        assert!(decode_from::<N>(text, &BTreeSet::from([claims.iss.clone()])).is_ok());
        let other = decode_from::<N>(text, &BTreeSet::new());
        assert!(matches!(other, Err(JwtError::WrongIssuer(_))), "nobody may sign, and somebody did: {other:?}");
    }
}

fn made<N: Serialize + DeserializeOwned + Clone + PartialEq + Debug>(json: &[u8], at: usize, to: u8) {
    let Ok(claims) = serde_json::from_slice::<Claims<N>>(json) else { return };
    let Ok(token) = encode(&claims, &SIGNER) else { return };
    let read = decode::<N>(&token).expect("what is signed is read");
    assert_eq!(read.iss, SIGNER.public_key());
    let same = Claims { iss: read.iss.clone(), jti: read.jti.clone(), ..claims };
    assert_eq!(read, same, "what is signed is what is read");

    let mut changed = token.clone().into_bytes();
    let at = at % changed.len();
    changed[at] ^= to;
    let Ok(changed) = String::from_utf8(changed) else { return };
    if changed.trim() != token && decode::<N>(&changed).is_ok() {
        panic!("another text verifies: {} of {}", at, sha256(token.as_bytes())[0]);
    }
}
