//! JSON that people can read and that carries its own checksum.
//!
//! ```text
//! {
//!   "crc32": "89abcdef",
//!   "kind": "registry",
//!   "format": 1,
//!   "build": "apiary 0.1.0",
//!   …the fields of the body…
//! }
//! ```
//!
//! One valid JSON object, written pretty, ending in a newline. The checksum (CRC-32, IEEE) covers
//! every byte after its own line, so nothing depends on how a JSON library orders or prints; an
//! edit by hand is noticed. The last line, `}` without indentation, occurs nowhere else: a text
//! without it is torn. Unknown fields are ignored.

use crate::format::{BUILD, FormatError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Largest document that is read, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 20;

const HEAD: &str = "{\n  \"crc32\": \"";
const HEAD_END: &str = "\",\n";
const TAIL: &str = "\n}\n";

/// One kind of document.
pub trait Document: Serialize + DeserializeOwned {
    const KIND: &'static str;
    /// The newest format that this build writes and reads; older ones are read for ever.
    const FORMAT: u32;
}

#[derive(Serialize)]
struct Sealed<'a, T> {
    kind: &'static str,
    format: u32,
    build: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct Header {
    kind: String,
    format: u32,
    build: String,
}

/// The whole text of a document.
pub fn seal<T: Document>(body: &T) -> Result<Vec<u8>, FormatError> {
    let sealed = Sealed {
        kind: T::KIND,
        format: T::FORMAT,
        build: BUILD,
        body,
    };
    let text = serde_json::to_string_pretty(&sealed)
        .map_err(|error| FormatError::Corrupt(format!("cannot be written: {error}")))?;
    let rest = text
        .strip_prefix("{\n")
        .ok_or_else(|| FormatError::Corrupt("the JSON writer changed its layout".into()))?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(rest.as_bytes());
    hasher.update(b"\n");
    Ok(format!("{HEAD}{:08x}{HEAD_END}{rest}\n", hasher.finalize()).into_bytes())
}

/// Reads a document of the kind `T`.
pub fn open<T: Document>(bytes: &[u8]) -> Result<T, FormatError> {
    let text = verify(bytes)?;
    let header: Header = parse(text)?;
    if header.kind != T::KIND {
        return Err(FormatError::WrongKind {
            expected: T::KIND,
            found: header.kind,
        });
    }
    if header.format > T::FORMAT {
        return Err(FormatError::Newer {
            kind: header.kind,
            found: header.format,
            supported: T::FORMAT,
            build: header.build,
        });
    }
    parse(text)
}

/// Whether the bytes begin like a sealed document, whole or not.
pub fn looks_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(HEAD.as_bytes())
}

/// Checks length and checksum, whatever the kind; gives the text.
pub fn verify(bytes: &[u8]) -> Result<&str, FormatError> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(FormatError::Corrupt(format!(
            "{} bytes are more than any document has",
            bytes.len()
        )));
    }
    let known = bytes.len().min(HEAD.len());
    if bytes[..known] != HEAD.as_bytes()[..known] {
        return Err(FormatError::Foreign(
            "it does not begin with a crc32 field".into(),
        ));
    }
    if !bytes.ends_with(TAIL.as_bytes()) {
        return Err(FormatError::Torn {
            length: bytes.len(),
        });
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| FormatError::Corrupt(error.to_string()))?;
    let claimed = text
        .get(HEAD.len()..HEAD.len() + 8)
        .ok_or_else(|| FormatError::Corrupt("its checksum is not eight characters".into()))?;
    let covered = text
        .get(HEAD.len() + 8..)
        .and_then(|rest| rest.strip_prefix(HEAD_END))
        .ok_or_else(|| FormatError::Corrupt("its checksum line is not whole".into()))?;
    let actual = format!("{:08x}", crc32fast::hash(covered.as_bytes()));
    if actual != claimed {
        return Err(FormatError::Corrupt(format!(
            "its checksum is {actual}, not {claimed}"
        )));
    }
    Ok(text)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, FormatError> {
    serde_json::from_str(text).map_err(|error| FormatError::Corrupt(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Body {
        number: u64,
        list: Vec<String>,
    }
    impl Document for Body {
        const KIND: &'static str = "test";
        const FORMAT: u32 = 1;
    }

    /// The same body as a later build writes it.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Later {
        number: u64,
        list: Vec<String>,
        extra: Option<bool>,
    }
    impl Document for Later {
        const KIND: &'static str = "test";
        const FORMAT: u32 = 1;
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Newer {
        other: u64,
    }
    impl Document for Newer {
        const KIND: &'static str = "test";
        const FORMAT: u32 = 2;
    }

    fn body() -> Body {
        Body {
            number: u64::MAX,
            list: vec!["größe".into(), "}\n".into()],
        }
    }

    #[test]
    fn a_document_is_valid_json_and_comes_back() -> Result<(), FormatError> {
        let bytes = seal(&body())?;
        assert_eq!(open::<Body>(&bytes)?, body());
        let value: serde_json::Value = parse(verify(&bytes)?)?;
        assert_eq!(value["kind"], "test");
        Ok(())
    }

    #[test]
    fn every_cut_is_torn_and_every_flipped_bit_is_noticed() -> Result<(), FormatError> {
        let bytes = seal(&body())?;
        for length in 0..bytes.len() {
            assert_eq!(
                open::<Body>(&bytes[..length]),
                Err(FormatError::Torn { length })
            );
        }
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[index] ^= 1 << bit;
                assert!(
                    open::<Body>(&damaged).is_err_and(|e| !e.is_too_new()),
                    "byte {index} bit {bit}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn unknown_fields_are_ignored_newer_formats_and_other_kinds_refused() -> Result<(), FormatError>
    {
        let later = Later {
            number: 1,
            list: vec![],
            extra: Some(true),
        };
        assert_eq!(
            open::<Body>(&seal(&later)?)?,
            Body {
                number: 1,
                list: vec![]
            }
        );
        let error = open::<Body>(&seal(&Newer { other: 1 })?).expect_err("newer");
        assert!(
            error.is_too_new() && error.to_string().contains("upgrade"),
            "{error}"
        );
        let manifest = crate::manifest::Manifest {
            id: crate::ids::MeadowId::from_random([1; 16]),
        };
        assert!(matches!(
            open::<Body>(&seal(&manifest)?),
            Err(FormatError::WrongKind { .. })
        ));
        assert!(matches!(
            open::<Body>(b"hello"),
            Err(FormatError::Foreign(_))
        ));
        Ok(())
    }
}
