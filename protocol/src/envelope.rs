//! The envelope of coordination objects: MessagePack with named fields behind a small header.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 6 | magic `APIARY` |
//! | 6 | 1 | layout of this header, 1 |
//! | 7 | 1 | length `n` of the build text |
//! | 8 | 2 | kind |
//! | 10 | 2 | format of that kind |
//! | 12 | 4 | length `m` of the body |
//! | 16 | 4 | CRC-32 (IEEE) of bytes 0..16 and of all after byte 20 |
//! | 20 | n | build text, UTF-8 |
//! | 20+n | m | body, MessagePack |
//!
//! Numbers are little-endian. Identifiers in the body are text. Unknown fields are ignored. No
//! length is believed before it was compared with the bytes that are there, and the body is parsed
//! only when the checksum is right.

use crate::cache::UseOrder;
use crate::format::{BUILD, FormatError};
use crate::heartbeat::Heartbeat;
use crate::query::{Bell, Claim, End, Failure, Output, QueryPlan};
use crate::sealed_json;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Largest object that is read, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = 256 << 20;

const MAGIC: &[u8; 6] = b"APIARY";
const LAYOUT: u8 = 1;
const HEADER_BYTES: usize = 20;
/// Nesting of a body; ours have far less.
const DEPTH_MAX: usize = 64;

/// What an envelope holds. Numbers are never used twice.
pub trait Body: Serialize + DeserializeOwned {
    const KIND: u16;
    /// For messages.
    const NAME: &'static str;
    /// The newest format that this build writes and reads; older ones are read for ever.
    const FORMAT: u16;
}

struct Opened<'a> {
    kind: u16,
    format: u16,
    build: &'a str,
    body: &'a [u8],
}

/// Puts a body into its envelope.
pub fn seal<T: Body>(body: &T) -> Result<Vec<u8>, FormatError> {
    let unwritable = |reason: String| FormatError::Corrupt(format!("cannot be written: {reason}"));
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(MAGIC);
    bytes.push(LAYOUT);
    bytes.push(u8::try_from(BUILD.len()).map_err(|error| unwritable(error.to_string()))?);
    bytes.extend_from_slice(&T::KIND.to_le_bytes());
    bytes.extend_from_slice(&T::FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(BUILD.as_bytes());
    let body_at = bytes.len();
    let mut writer = rmp_serde::Serializer::new(&mut bytes)
        .with_struct_map()
        .with_human_readable();
    body.serialize(&mut writer)
        .map_err(|error| unwritable(error.to_string()))?;
    if bytes.len() > ENVELOPE_BYTES_MAX {
        return Err(unwritable(format!("{} bytes are too many", bytes.len())));
    }
    let length =
        u32::try_from(bytes.len() - body_at).map_err(|error| unwritable(error.to_string()))?;
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Takes a body of the kind `T` out of its envelope.
pub fn open<T: Body>(bytes: &[u8]) -> Result<T, FormatError> {
    let opened = unseal(bytes)?;
    if opened.kind != T::KIND {
        let found =
            kind_name(opened.kind).map_or_else(|| format!("kind {}", opened.kind), str::to_string);
        return Err(FormatError::WrongKind {
            expected: T::NAME,
            found,
        });
    }
    check_format::<T>(&opened)?;
    decode(opened.body)
}

/// Any coordination object as JSON, for people: header and body, fields unknown to this build too.
pub fn inspect(bytes: &[u8]) -> Result<Value, FormatError> {
    if sealed_json::looks_sealed(bytes) {
        let text = sealed_json::verify(bytes)?;
        return serde_json::from_str(text).map_err(|error| FormatError::Corrupt(error.to_string()));
    }
    let opened = unseal(bytes)?;
    let Some(kind) = kind_name(opened.kind) else {
        return Err(FormatError::UnknownKind {
            kind: opened.kind.to_string(),
            build: opened.build.to_string(),
        });
    };
    let Shown(body) = decode(opened.body)?;
    Ok(
        serde_json::json!({ "kind": kind, "format": opened.format, "build": opened.build, "body": body }),
    )
}

/// The kinds that this build knows.
fn kind_name(kind: u16) -> Option<&'static str> {
    fn known<T: Body>() -> (u16, &'static str) {
        (T::KIND, T::NAME)
    }
    let kinds = [
        known::<Heartbeat>(),
        known::<QueryPlan>(),
        known::<Claim>(),
        known::<Output>(),
        known::<Failure>(),
        known::<End>(),
        known::<Bell>(),
        known::<UseOrder>(),
    ];
    let found = kinds.iter().find(|(known, _)| *known == kind);
    found.map(|(_, name)| *name)
}

fn check_format<T: Body>(opened: &Opened<'_>) -> Result<(), FormatError> {
    if opened.format > T::FORMAT {
        return Err(FormatError::Newer {
            kind: T::NAME.to_string(),
            found: opened.format.into(),
            supported: T::FORMAT.into(),
            build: opened.build.to_string(),
        });
    }
    Ok(())
}

/// Checks all of the header and the checksum; reads nothing of the body.
fn unseal(bytes: &[u8]) -> Result<Opened<'_>, FormatError> {
    if bytes.len() > ENVELOPE_BYTES_MAX {
        return Err(FormatError::Corrupt(format!(
            "{} bytes are more than any object has",
            bytes.len()
        )));
    }
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(FormatError::Foreign("it does not begin with APIARY".into()));
    }
    let torn = FormatError::Torn {
        length: bytes.len(),
    };
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(torn);
    };
    if header[6] > LAYOUT {
        return Err(FormatError::Newer {
            kind: "envelope".into(),
            found: header[6].into(),
            supported: LAYOUT.into(),
            build: String::new(),
        });
    }
    let build_length = usize::from(header[7]);
    let body_length = u32::from_le_bytes([header[12], header[13], header[14], header[15]]) as usize;
    let expected = build_length.saturating_add(body_length);
    if rest.len() < expected {
        return Err(torn);
    }
    if rest.len() > expected {
        return Err(FormatError::Corrupt(format!(
            "{} bytes too many",
            rest.len() - expected
        )));
    }
    let claimed = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
    let actual = checksum(bytes);
    if actual != claimed {
        return Err(FormatError::Corrupt(format!(
            "its checksum is {actual:08x}, not {claimed:08x}"
        )));
    }
    let (build, body) = rest.split_at(build_length);
    Ok(Opened {
        kind: u16::from_le_bytes([header[8], header[9]]),
        format: u16::from_le_bytes([header[10], header[11]]),
        build: std::str::from_utf8(build)
            .map_err(|error| FormatError::Corrupt(error.to_string()))?,
        body,
    })
}

/// Of everything but the checksum's own place. `bytes` is at least a header long.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..16]);
    hasher.update(&bytes[HEADER_BYTES..]);
    hasher.finalize()
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FormatError> {
    let corrupt = |error: rmp_serde::decode::Error| FormatError::Corrupt(error.to_string());
    let mut reader = rmp_serde::Deserializer::from_read_ref(body).with_human_readable();
    reader.set_max_depth(DEPTH_MAX);
    let value = T::deserialize(&mut reader).map_err(corrupt)?;
    Ok(value)
}

/// A MessagePack value as JSON: bytes become hexadecimal text, keys of any type become text.
struct Shown(Value);

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShownVisitor).map(Self)
    }
}

struct ShownVisitor;

impl<'de> Visitor<'de> for ShownVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MessagePack value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(value
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
            .into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Shown::deserialize(deserializer).map(|shown| shown.0)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Shown(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(array.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = serde_json::Map::new();
        while let Some((Shown(key), Shown(value))) = entries.next_entry()? {
            let key = key.as_str().map_or_else(|| key.to_string(), str::to_string);
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Small {
        number: u64,
        #[serde(default)]
        text: Option<String>,
    }
    impl Body for Small {
        const KIND: u16 = 60_000;
        const NAME: &'static str = "small";
        const FORMAT: u16 = 1;
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Later {
        number: u64,
        unknown: Vec<(u8, f64)>,
    }
    impl Body for Later {
        const KIND: u16 = 60_000;
        const NAME: &'static str = "small";
        const FORMAT: u16 = 1;
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Newer {}
    impl Body for Newer {
        const KIND: u16 = 60_000;
        const NAME: &'static str = "small";
        const FORMAT: u16 = 2;
    }

    fn small() -> Small {
        Small {
            number: u64::MAX,
            text: Some("größe".into()),
        }
    }

    #[test]
    fn a_body_comes_back() -> Result<(), FormatError> {
        assert_eq!(open::<Small>(&seal(&small())?)?, small());
        Ok(())
    }

    #[test]
    fn every_cut_is_torn_and_every_flipped_bit_is_noticed() -> Result<(), FormatError> {
        let bytes = seal(&small())?;
        for length in 0..bytes.len() {
            assert_eq!(
                open::<Small>(&bytes[..length]),
                Err(FormatError::Torn { length })
            );
        }
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[index] ^= 1 << bit;
                assert!(open::<Small>(&damaged).is_err(), "byte {index} bit {bit}");
            }
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(
            open::<Small>(&longer),
            Err(FormatError::Corrupt(_))
        ));
        assert!(matches!(
            open::<Small>(b"PAR1...."),
            Err(FormatError::Foreign(_))
        ));
        Ok(())
    }

    #[test]
    fn unknown_fields_are_ignored_and_missing_ones_take_their_default() -> Result<(), FormatError> {
        let later = Later {
            number: 3,
            unknown: vec![(1, 0.5)],
        };
        assert_eq!(
            open::<Small>(&seal(&later)?)?,
            Small {
                number: 3,
                text: None
            }
        );
        Ok(())
    }

    #[test]
    fn newer_formats_unknown_kinds_and_wrong_kinds_are_different_errors() -> Result<(), FormatError>
    {
        let newer = seal(&Newer {})?;
        assert!(matches!(
            open::<Small>(&newer),
            Err(FormatError::Newer {
                found: 2,
                supported: 1,
                ..
            })
        ));
        assert!(matches!(
            inspect(&newer),
            Err(FormatError::UnknownKind { .. })
        ));
        let error = open::<Heartbeat>(&newer).expect_err("another kind");
        assert_eq!(error.to_string(), "a kind 60000 where a heartbeat belongs");
        let mut layout = newer;
        layout[6] = 9;
        assert!(open::<Small>(&layout).is_err_and(|error| error.is_too_new()));
        Ok(())
    }

    #[test]
    fn lengths_inside_a_body_are_not_believed() {
        // An array of 2^32-1 elements and a text of 2^32-1 bytes, in 6 bytes each.
        for body in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff, 0x00][..],
            &[0xdb, 0xff, 0xff, 0xff, 0xff, 0x00],
            &[],
        ] {
            assert!(decode::<Vec<u64>>(body).is_err());
            assert!(decode::<Shown>(body).is_err());
        }
        let nested = vec![0x91; 100_000];
        assert!(decode::<Shown>(&nested).is_err());
    }

    #[test]
    fn inspection_shows_sealed_json_and_enveloped_bodies() -> Result<(), FormatError> {
        let heartbeat = seal(&crate::heartbeat::tests::example())?;
        let shown = inspect(&heartbeat)?;
        assert_eq!(shown["kind"], "heartbeat");
        assert_eq!(
            shown["body"]["node"],
            "22222222-2222-4222-a222-222222222222"
        );
        let manifest = crate::manifest::Manifest {
            id: crate::ids::MeadowId::from_random([1; 16]),
        };
        assert_eq!(inspect(&manifest.to_bytes()?)?["kind"], "meadow");
        assert!(inspect(b"").is_err());
        Ok(())
    }
}
