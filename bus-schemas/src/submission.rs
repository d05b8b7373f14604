//! Telling the forms of a submission apart, before anything is believed of it.

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::code::{Code, Problem};
use crate::envelope::Form;
use crate::job::check_key;
use crate::limits;

/// Jobs of one JSON array.
pub const ARRAY_MAX: usize = 1_000;

/// The jobs of a JSON array, each verbatim.
///
/// # Errors
/// [`Code::NotUtf8`], [`Code::NotJson`], [`Code::Empty`], [`Code::TooMany`], [`Code::TooDeep`].
pub fn split_array(payload: &[u8]) -> Result<Vec<&[u8]>, Problem> {
    let text =
        std::str::from_utf8(payload).map_err(|error| Problem::new(Code::NotUtf8, format!("byte {} is not UTF-8", error.valid_up_to())))?;
    let jobs: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| match error.to_string() {
        deep if deep.contains("recursion limit") => Problem::new(Code::TooDeep, format!("nested deeper than {} levels", limits::DEPTH_MAX)),
        other => Problem::new(Code::NotJson, other),
    })?;
    match jobs.len() {
        0 => Err(Problem::new(Code::Empty, "the list of jobs is empty")),
        n if n > ARRAY_MAX => Err(Problem::new(Code::TooMany, format!("{n} jobs, at most {ARRAY_MAX} are allowed in one message"))),
        _ => Ok(jobs.into_iter().map(|job| job.get().as_bytes()).collect()),
    }
}

/// A signed carrier in MessagePack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// `b` is a list of bodies.
    Batch,
    /// `b` is one body.
    Proof,
}
impl Carrier {
    /// # Errors
    /// [`Code::NotMsgpack`] where it is neither.
    pub fn of(payload: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Shape {
            b: Carrier,
        }
        msgpack::<Shape>(payload).map(|shape| shape.b).map_err(|error| {
            let detail = format!("a signed batch `{{v,t,b,k,s}}` or a proof `{{v,t,b,i,n,h,k,s}}` is expected: {error}");
            Problem::new(Code::NotMsgpack, detail)
        })
    }
}
impl<'de> Deserialize<'de> for Carrier {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Carrier;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes or a list of bytes")
            }
            fn visit_bytes<E>(self, _: &[u8]) -> Result<Carrier, E> {
                Ok(Carrier::Proof)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Carrier, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Carrier::Batch)
            }
        }
        d.deserialize_any(Look)
    }
}

/// What can be told of a body that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Peek {
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub key: Option<String>,
}
impl Peek {
    pub fn at(form: Form, body: &[u8]) -> Self {
        let peek: Self = match form {
            Form::Json => serde_json::from_slice(body).unwrap_or_default(),
            Form::Msgpack => msgpack(body).unwrap_or_default(),
        };
        let kind = peek.kind.map(|kind| kind.chars().take(40).collect());
        Self { kind, key: peek.key.filter(|key| check_key(key).is_ok()) }
    }
}

fn msgpack<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, rmp_serde::decode::Error> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(limits::DEPTH_MAX + 8);
    T::deserialize(&mut reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Signer;
    use crate::job::JobSpec;
    use proptest::prelude::*;

    #[test]
    fn forms_are_told_apart() {
        let batch = Signer::from_seed(&[1; 32]).batch(&[JobSpec { kind: "echo".into(), ..JobSpec::default() }]);
        assert_eq!(Carrier::of(&batch.encode()), Ok(Carrier::Batch));
        assert_eq!(Carrier::of(&batch.proof(0).unwrap().encode()), Ok(Carrier::Proof));
        for bad in [&[0x80][..], &[0x81, 0xa1, b'b', 0xc0], &[0xc0], b"{}"] {
            assert_eq!(Carrier::of(bad).unwrap_err().code, Code::NotMsgpack);
        }
        assert_eq!(Peek::at(Form::Msgpack, &batch.b[0]).kind.as_deref(), Some("echo"));
        assert_eq!(split_array(b" [ {} ,5]").unwrap(), [b"{}".as_slice(), b"5"]);
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (split_array(&bytes), Carrier::of(&bytes), Peek::at(Form::Json, &bytes), Peek::at(Form::Msgpack, &bytes));
        }
    }
}
