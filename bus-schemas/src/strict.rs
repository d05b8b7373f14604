//! Strict decoding: size, depth, duplicate keys and trailing bytes are refused before any type is built.
//!
//! serde alone would take the last of two equal keys in a map, and MessagePack readers accept trailing bytes and an array
//! where a map belongs. Two readers that disagree about one message are an attack, so every body passes here first.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::code::{Code, Problem};
use crate::envelope::Form;
use crate::limits::DEPTH_MAX;

/// Decodes one body in the given form after all strict checks. The top level must be a map.
///
/// # Errors
/// A [`Problem`] with the code of the first thing that is wrong and a sentence that says where.
pub fn decode<T: DeserializeOwned>(form: Form, bytes: &[u8], bytes_max: usize) -> Result<T, Problem> {
    sized(bytes, bytes_max)?;
    match form {
        Form::Json => serde_json::from_str(check_json(bytes)?).map_err(|error| match json_problem(&error) {
            // It is JSON, so what was expected there is another type: serde says so of enums.
            problem if problem.code == Code::NotJson => Problem::new(Code::WrongType, problem.detail),
            problem => problem,
        }),
        Form::Msgpack => {
            check_msgpack(bytes)?;
            rmp_serde::from_slice(bytes).map_err(|error| field_problem(&error.to_string()))
        }
    }
}

/// As [`decode`] of JSON, in one pass, for types that are closed: structs without unknown fields at every depth, whose own reading
/// refuses all that the checks would. What it refuses is read again, so that it is named as [`decode`] names it.
///
/// # Errors
/// As [`decode`].
pub fn decode_closed<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, Problem> {
    sized(bytes, bytes_max)?;
    let object = std::str::from_utf8(bytes).ok().filter(|text| text.trim_start().starts_with('{'));
    match object.and_then(|text| serde_json::from_str(text).ok()) {
        Some(value) => Ok(value),
        None => decode(Form::Json, bytes, bytes_max),
    }
}

/// The checks alone, for bodies that are parsed later or kept verbatim.
pub fn check(form: Form, bytes: &[u8], bytes_max: usize) -> Result<(), Problem> {
    sized(bytes, bytes_max)?;
    match form {
        Form::Json => check_json(bytes).map(|_| ()),
        Form::Msgpack => check_msgpack(bytes),
    }
}

fn sized(bytes: &[u8], bytes_max: usize) -> Result<(), Problem> {
    if bytes.is_empty() {
        return Err(Problem::new(Code::Empty, "the message is empty"));
    }
    if bytes.len() > bytes_max {
        return Err(Problem::new(Code::TooLarge, format!("{} bytes, at most {bytes_max} are allowed", bytes.len())));
    }
    Ok(())
}

fn check_json(bytes: &[u8]) -> Result<&str, Problem> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| Problem::new(Code::NotUtf8, format!("byte {} is not UTF-8", error.valid_up_to())))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    Walk { depth: 0 }.deserialize(&mut reader).map_err(|error| json_problem(&error))?;
    reader.end().map_err(|error| json_problem(&error))?;
    if text.trim_start().starts_with('{') { Ok(text) } else { Err(Problem::new(Code::WrongType, "a JSON object is expected")) }
}

fn check_msgpack(bytes: &[u8]) -> Result<(), Problem> {
    if !matches!(bytes[0], 0x80..=0x8f | 0xde | 0xdf) {
        return Err(Problem::new(Code::NotMsgpack, "a MessagePack map is expected"));
    }
    let mut rest = bytes;
    let mut reader = rmp_serde::Deserializer::new(&mut rest);
    reader.set_max_depth(DEPTH_MAX + 8);
    Walk { depth: 0 }.deserialize(&mut reader).map_err(|error| msgpack_problem(&error))?;
    if rest.is_empty() { Ok(()) } else { Err(Problem::new(Code::NotMsgpack, format!("{} bytes follow the message", rest.len()))) }
}

const DUPLICATE: &str = "duplicate key ";
const DEEP: &str = "deeper than ";

fn json_problem(error: &serde_json::Error) -> Problem {
    use serde_json::error::Category;
    let text = error.to_string();
    match error.classify() {
        _ if text.contains(DUPLICATE) || text.contains("duplicate field") => Problem::new(Code::DuplicateKey, text),
        _ if text.contains(DEEP) || text.contains("recursion limit") => {
            Problem::new(Code::TooDeep, format!("nested deeper than {DEPTH_MAX} levels"))
        }
        Category::Data => field_problem(&text),
        Category::Syntax | Category::Eof | Category::Io => Problem::new(Code::NotJson, text),
    }
}

fn msgpack_problem(error: &rmp_serde::decode::Error) -> Problem {
    let text = error.to_string();
    if text.contains(DUPLICATE) {
        Problem::new(Code::DuplicateKey, text)
    } else if text.contains(DEEP) || matches!(error, rmp_serde::decode::Error::DepthLimitExceeded) {
        Problem::new(Code::TooDeep, format!("nested deeper than {DEPTH_MAX} levels"))
    } else {
        Problem::new(Code::NotMsgpack, text)
    }
}

/// Sorts what serde says about a field into a code. serde has no typed errors, so its own fixed phrases decide.
fn field_problem(text: &str) -> Problem {
    let code = if text.contains("unknown field") {
        Code::UnknownField
    } else if text.contains("missing field") {
        Code::MissingField
    } else if text.contains("duplicate field") {
        Code::DuplicateKey
    } else if text.contains(crate::mana::written::MARK) {
        Code::BadAmount
    } else {
        Code::WrongType
    };
    Problem::new(code, text)
}

/// Walks any value without building it, counting depth and watching the keys of each map.
#[derive(Clone, Copy)]
struct Walk {
    depth: usize,
}
impl Walk {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX { Err(E::custom(format!("{DEEP}{DEPTH_MAX} levels"))) } else { Ok(Self { depth: self.depth + 1 }) }
    }
}
impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}
impl<'de> Visitor<'de> for Walk {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_bytes<E>(self, _: &[u8]) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_some<D: de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
    fn visit_newtype_struct<D: de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        // A MessagePack extension: nothing of ours uses one.
        let _ = d;
        Err(de::Error::custom("extension types are not allowed"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = Seen::default();
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            if seen.has(&key) {
                let shown: String = key.chars().take(60).collect();
                return Err(de::Error::custom(format!("{DUPLICATE}\"{shown}\"")));
            }
            seen.insert(key);
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// The keys of one map: a few are compared one by one, which is quickest; many are sorted, so that no message is slow to check.
#[derive(Default)]
struct Seen<'de> {
    few: Vec<Cow<'de, str>>,
    many: BTreeSet<Cow<'de, str>>,
}
const FEW: usize = 24;
impl<'de> Seen<'de> {
    fn has(&self, key: &str) -> bool {
        self.few.iter().any(|seen| seen == key) || self.many.contains(key)
    }
    fn insert(&mut self, key: Cow<'de, str>) {
        if self.few.len() < FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
    }
}

/// Keys are text everywhere. Borrowed where nothing in it is escaped.
pub(crate) struct Key<'de>(pub Cow<'de, str>);
impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text key")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        d.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(form: Form, bytes: &[u8]) -> Option<Code> {
        check(form, bytes, 200_000).err().map(|problem| problem.code)
    }

    #[test]
    fn json_is_strict() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let cases: [(&[u8], Option<Code>); 12] = [
            (b"{\"a\":1}", None),
            (b" {\"a\":{\"a\":[1,{\"a\":null}]}} \n", None),
            (b"", Some(Code::Empty)),
            (b"nope", Some(Code::NotJson)),
            (b"{\"a\":NaN}", Some(Code::NotJson)),
            (b"{\"a\":1} {", Some(Code::NotJson)),
            (b"{\"a\":\xff}", Some(Code::NotUtf8)),
            (b"[1]", Some(Code::WrongType)),
            (b"{\"a\":1,\"a\":2}", Some(Code::DuplicateKey)),
            (b"{\"x\":[{\"b\":1,\"\\u0062\":2}]}", Some(Code::DuplicateKey)),
            (deep.as_bytes(), Some(Code::TooDeep)),
            (&[b' '; 200_001], Some(Code::TooLarge)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(code(Form::Json, bytes), expected, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
        }
    }

    #[test]
    fn a_value_of_another_type_is_no_broken_json() {
        for priority in ["-1", "1.5", "300", "[]", "null", "\"loud\""] {
            let body = format!("{{\"kind\":\"echo\",\"text\":\"a\",\"priority\":{priority}}}");
            let refused = decode::<crate::job::JobSpec>(Form::Json, body.as_bytes(), 1000).unwrap_err();
            assert_eq!(refused.code, Code::WrongType, "{priority}: {refused}");
        }
    }

    #[test]
    fn msgpack_is_strict() {
        let deep = [vec![0x81, 0xa1, b'a'], vec![0x91; 100_000], vec![0xc0]].concat();
        let cases: [(&[u8], Option<Code>); 8] = [
            (&[0x81, 0xa1, b'a', 1], None),
            (&[], Some(Code::Empty)),
            (&[0x91, 1], Some(Code::NotMsgpack)),
            (&[0x81, 0xa1, b'a', 1, 0], Some(Code::NotMsgpack)),
            (&[0x82, 0xa1, b'a', 1, 0xa1, b'a', 2], Some(Code::DuplicateKey)),
            (&[0x81, 0xa1, b'a'], Some(Code::NotMsgpack)),
            (&[0xdf, 0xff, 0xff, 0xff, 0xff], Some(Code::NotMsgpack)),
            (&deep, Some(Code::TooDeep)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(code(Form::Msgpack, bytes), expected, "{:02x?}", &bytes[..bytes.len().min(10)]);
        }
    }

    #[test]
    fn a_key_is_found_among_many() {
        for keys in [2, FEW, FEW + 1, 5 * FEW] {
            let pairs: Vec<String> = (0..keys).map(|n| format!("\"k{n}\":1")).collect();
            assert_eq!(code(Form::Json, format!("{{{}}}", pairs.join(",")).as_bytes()), None, "{keys}");
            for twice in [0, keys - 1] {
                let text = format!("{{{},\"k{twice}\":2}}", pairs.join(","));
                assert_eq!(code(Form::Json, text.as_bytes()), Some(Code::DuplicateKey), "{keys}: {twice}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (code(Form::Json, &bytes), code(Form::Msgpack, &bytes));
        }
    }
}
