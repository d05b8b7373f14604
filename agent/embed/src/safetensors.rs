//! Where each tensor lies in a `model.safetensors`: 8 bytes of header length, a JSON header, then the raw data.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The most bytes a header may have. The model's own has 10 KB.
pub const HEADER_MAX: u64 = 16 << 20;

/// Tensor name to place, for one file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights(BTreeMap<String, Place>);

/// One tensor of little-endian float32 values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub dims: Vec<usize>,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Says how long the header is, from the file's first 8 bytes.
///
/// # Errors
/// Where that is more than the file has, or than [`HEADER_MAX`].
pub fn header_length(first: [u8; 8], file_size: u64) -> Result<u64, String> {
    let length = u64::from_le_bytes(first);
    if length > HEADER_MAX || length > file_size.saturating_sub(8) {
        return Err(format!("its header claims {length} bytes"));
    }
    Ok(length)
}

impl Weights {
    /// Reads the header. Tensors that are not float32 are left out: the model has one such table, which nothing uses.
    ///
    /// # Errors
    /// Where the header is no valid JSON, or an entry points outside the file or does not fit its shape.
    pub fn parse(header: &[u8], file_size: u64) -> Result<Self, String> {
        let entries: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(header).map_err(|error| format!("its header is malformed: {error}"))?;
        let base = 8 + header.len() as u64;
        let mut places = BTreeMap::new();
        for (name, value) in entries {
            if name == "__metadata__" {
                continue;
            }
            let entry: Entry =
                serde_json::from_value(value).map_err(|error| format!("the entry of tensor {name:?} is malformed: {error}"))?;
            if entry.dtype != "F32" {
                continue;
            }
            let (start, end) = entry.data_offsets;
            let length = end.checked_sub(start).ok_or_else(|| format!("tensor {name:?} ends before it starts"))?;
            let offset = base.checked_add(start).ok_or_else(|| format!("tensor {name:?} lies outside the file"))?;
            if offset.checked_add(length).is_none_or(|end| end > file_size) {
                return Err(format!("tensor {name:?} lies outside the file"));
            }
            let wanted = entry.shape.iter().try_fold(4u64, |bytes, &dim| bytes.checked_mul(dim as u64));
            if wanted != Some(length) {
                return Err(format!("tensor {name:?} of shape {:?} has {length} bytes", entry.shape));
            }
            places.insert(name, Place { dims: entry.shape, offset, length });
        }
        Ok(Self(places))
    }

    /// The place of a tensor that must have this shape.
    ///
    /// # Errors
    /// Where the tensor is missing or has another shape.
    pub fn place(&self, name: &str, dims: &[usize]) -> Result<&Place, String> {
        let place = self.0.get(name).ok_or_else(|| format!("the float32 tensor {name:?} is missing"))?;
        if place.dims != dims {
            return Err(format!("tensor {name:?} has shape {:?}, expected {dims:?}", place.dims));
        }
        Ok(place)
    }

    /// A file that has each of these tensors, one after the other.
    #[cfg(test)]
    pub fn laid_out(tensors: &[(String, Vec<usize>)]) -> Self {
        let mut offset = 0;
        let place = |(name, dims): &(String, Vec<usize>)| {
            let length = 4 * dims.iter().product::<usize>() as u64;
            offset += length;
            (name.clone(), Place { dims: dims.clone(), offset: offset - length, length })
        };
        Self(tensors.iter().map(place).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Weights, header_length};

    #[track_caller]
    fn check(header: &str, data: u64, expected: Result<(u64, u64), &str>) {
        let size = 8 + header.len() as u64 + data;
        let found = Weights::parse(header.as_bytes(), size)
            .and_then(|weights| weights.place("w", &[2, 3]).map(|place| (place.offset, place.length)));
        match (found, expected) {
            (Ok(found), Ok((offset, length))) => {
                assert_eq!(found, (8 + header.len() as u64 + offset, length))
            }
            (Err(said), Err(words)) => assert!(said.contains(words), "{said}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn places_and_refusals() {
        check(r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]}}  "#, 28, Ok((4, 24)));
        check(r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]}}"#, 27, Err("outside the file"));
        check(r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[4,27]}}"#, 99, Err("has 23 bytes"));
        check(r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[28,4]}}"#, 99, Err("ends before"));
        check(r#"{"w":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]}}"#, 99, Err("expected [2, 3]"));
        check(r#"{"w":{"dtype":"I64","shape":[2,3],"data_offsets":[0,48]}}"#, 99, Err("missing"));
        check(r#"{"v":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#, 99, Err("\"w\" is missing"));
        check(r#"{"w":{"dtype":"F32"}}"#, 99, Err("entry of tensor \"w\""));
        check(r#"{"w":7"#, 99, Err("malformed"));
        check(
            r#"{"w":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,18446744073709551615]}}"#,
            99,
            Err("outside the file"),
        );
    }

    #[test]
    fn header_lengths() {
        assert_eq!(header_length(10u64.to_le_bytes(), 18), Ok(10));
        assert!(header_length(11u64.to_le_bytes(), 18).is_err());
        assert!(header_length([0xff; 8], u64::MAX).is_err());
        assert!(header_length([0; 8], 0).is_ok());
    }

    proptest! {
        #[test]
        fn any_header_gets_an_answer(header in any::<Vec<u8>>(), size in any::<u64>()) {
            let _ = Weights::parse(&header, size);
        }

        #[test]
        fn what_is_accepted_lies_in_the_file(start in any::<u64>(), end in any::<u64>(), rows in any::<usize>(), size in any::<u64>()) {
            let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{rows}],"data_offsets":[{start},{end}]}}}}"#);
            if let Ok(weights) = Weights::parse(header.as_bytes(), size) {
                let place = weights.place("w", &[rows]).expect("was accepted");
                prop_assert!(place.offset + place.length <= size);
            }
        }
    }
}
