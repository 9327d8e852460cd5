//! Deletion vectors: which rows of a cell are gone.
//!
//! Source: "Deletion Vectors" and "Deletion Vector Format" in the Delta protocol. A vector that
//! cannot be read whole is an error: without it deleted rows would come back.

use crate::error::{Error, Result};
use crate::store::Meadow;
use apiary_protocol::delta::paths::decode_path;
use apiary_protocol::delta::{DeletionVector, crc32};
use apiary_protocol::keys;
use futures::future::try_join;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use roaring::RoaringTreemap;

/// First four bytes of a vector in the portable format, little endian.
const MAGIC: u32 = 1_681_511_377;

/// The only version of vector files.
const FILE_VERSION: u8 = 1;

/// A vector of 128 MiB marks a billion scattered rows: more than one cell holds.
const VECTOR_BYTES_MAX: i32 = 128 << 20;

/// A vector that begins within so many bytes is read together with the file's first byte.
const NEAR_BYTES: u64 = 64 << 10;

/// Reads the rows that a vector deletes, as indices into the cell's file. `location` is the frame's.
pub async fn read_deletion_vector(
    meadow: &Meadow,
    location: &str,
    vector: &DeletionVector,
) -> Result<RoaringTreemap> {
    let id = vector.unique_id();
    let name = format!(
        "deletion vector {} of {location}",
        id.get(..80).unwrap_or(&id)
    );
    let corrupt = |reason: String| Error::corrupt(&name, reason);
    if !(0..=VECTOR_BYTES_MAX).contains(&vector.size_in_bytes) {
        return Err(corrupt(format!(
            "its size is {} bytes",
            vector.size_in_bytes
        )));
    }
    let bitmap = match vector.storage_type.as_str() {
        "i" => {
            let mut bytes = z85(&vector.path_or_inline_dv).map_err(corrupt)?;
            let size = vector.size_in_bytes as usize;
            // Inline vectors are padded to whole groups of four bytes.
            if bytes.len() < size || bytes.len() - size > 3 {
                return Err(corrupt(format!(
                    "{} bytes where {size} must be",
                    bytes.len()
                )));
            }
            bytes.truncate(size);
            bytes
        }
        "u" | "p" => {
            let path = match vector.storage_type.as_str() {
                "u" => relative_path(&vector.path_or_inline_dv),
                _ => path_under(meadow, location, &vector.path_or_inline_dv),
            };
            let path = path.map_err(corrupt)?;
            let key = keys::cell(location, &path).map_err(|error| corrupt(error.to_string()))?;
            read_file(meadow, &key, vector).await?
        }
        other => return Err(corrupt(format!("its storage type is {other:?}"))),
    };
    let rows = parse(&bitmap).map_err(corrupt)?;
    match u64::try_from(vector.cardinality) {
        Ok(expected) if expected == rows.len() => Ok(rows),
        _ => Err(corrupt(format!(
            "it marks {} rows and not {}",
            rows.len(),
            vector.cardinality
        ))),
    }
}

/// `{prefix}/deletion_vector_{uuid}.bin` of a random prefix, which may be empty, and an encoded UUID.
fn relative_path(encoded: &str) -> Result<String, String> {
    let split = encoded
        .len()
        .checked_sub(20)
        .filter(|at| encoded.is_char_boundary(*at));
    let (prefix, uuid) = encoded.split_at(split.ok_or("its path is too short")?);
    let bytes = <[u8; 16]>::try_from(z85(uuid)?).map_err(|_| "its path holds no UUID")?;
    let name = format!("deletion_vector_{}.bin", hyphenated(bytes));
    let path = if prefix.is_empty() {
        name
    } else {
        format!("{prefix}/{name}")
    };
    decode_path(&path).map_err(|error| error.to_string())
}

fn hyphenated(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// An absolute path is followed only when it leads into the frame's own location.
fn path_under(meadow: &Meadow, location: &str, absolute: &str) -> Result<String, String> {
    let root = meadow.label().trim_end_matches('/');
    let inside = [root, root.strip_prefix("file://").unwrap_or(root)]
        .into_iter()
        .find_map(|root| {
            absolute
                .strip_prefix(root)?
                .strip_prefix('/')?
                .strip_prefix(location)
        });
    let inside = inside.and_then(|rest| rest.strip_prefix('/'));
    let inside = inside.ok_or("its absolute path is not inside the frame's location")?;
    decode_path(inside).map_err(|error| error.to_string())
}

/// Files hold the vectors of many cells, so only this one's bytes are read: its size, itself and its
/// checksum, and the version in the file's first byte.
async fn read_file(meadow: &Meadow, key: &str, vector: &DeletionVector) -> Result<Vec<u8>> {
    const TORN: &str = "the vector in it is torn or has another size or checksum";
    let corrupt = |reason: &str| Error::corrupt(key, reason);
    let path = Path::parse(key).map_err(|error| corrupt(&error.to_string()))?;
    let size = vector.size_in_bytes.unsigned_abs();
    // Behind the file's version byte when nothing is said.
    let start = u64::try_from(vector.offset.unwrap_or(1))
        .map_err(|_| corrupt("the vector's offset is below zero"))?;
    let end = start + 8 + u64::from(size);
    let store = meadow.object_store();
    let read = async {
        if start > NEAR_BYTES {
            return try_join(
                store.get_range(&path, 0..1),
                store.get_range(&path, start..end),
            )
            .await;
        }
        let mut version = store.get_range(&path, 0..end).await?;
        let framed = version.split_off(version.len().min(start as usize));
        Ok((version, framed))
    };
    let (version, framed) = match read.await {
        Ok(parts) => parts,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(corrupt("it is missing and a cell refers to it"));
        }
        // Stores differ in what they answer to a range beyond the end.
        Err(error) => match store.head(&path).await {
            Ok(meta) if meta.size < end => return Err(corrupt(TORN)),
            _ => {
                return Err(Error::Store {
                    action: "reading",
                    key: key.into(),
                    source: error,
                });
            }
        },
    };
    if version.first() != Some(&FILE_VERSION) {
        return Err(corrupt("it is empty or of an unknown version"));
    }
    let framed = framed
        .split_first_chunk::<4>()
        .and_then(|(announced, rest)| {
            let (bitmap, rest) = rest.split_at_checked(size as usize)?;
            let (checksum, _) = rest.split_first_chunk::<4>()?;
            Some((
                u32::from_be_bytes(*announced),
                bitmap,
                u32::from_be_bytes(*checksum),
            ))
        });
    match framed {
        Some((announced, bitmap, checksum)) if announced == size && crc32(bitmap) == checksum => {
            Ok(bitmap.to_vec())
        }
        _ => Err(corrupt(TORN)),
    }
}

fn parse(bytes: &[u8]) -> Result<RoaringTreemap, String> {
    let Some((magic, bitmaps)) = bytes.split_first_chunk::<4>() else {
        return Err("it is shorter than its magic number".into());
    };
    match u32::from_le_bytes(*magic) {
        MAGIC => RoaringTreemap::deserialize_from(bitmaps).map_err(|error| error.to_string()),
        other => Err(format!("its format {other} is not known")),
    }
}

/// Decodes Z85 (ZeroMQ RFC 32): five characters a group of four bytes.
fn z85(text: &str) -> Result<Vec<u8>, String> {
    const ALPHABET: &[u8; 85] =
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    let mut bytes = Vec::with_capacity(text.len() / 5 * 4);
    for group in text.as_bytes().chunks(5) {
        if group.len() != 5 {
            return Err("its text is not whole groups of five characters".into());
        }
        let value = group.iter().try_fold(0_u64, |value, character| {
            let digit = ALPHABET.iter().position(|known| known == character)?;
            Some(value * 85 + digit as u64)
        });
        let value = value.and_then(|value| u32::try_from(value).ok());
        bytes.extend(value.ok_or("its text is not Z85")?.to_be_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z85_decodes_the_standard_example() {
        let expected = [0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b];
        assert_eq!(z85("HelloWorld").unwrap(), expected);
        for text in ["Hello!", "~~~~~", "#####"] {
            assert!(z85(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_relative_path_is_a_prefix_and_a_uuid() {
        // The example of the protocol's text.
        let path = relative_path("ab^-aqEH.-t@S}K{vb[*k^").unwrap();
        assert_eq!(
            path,
            "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin"
        );
        for encoded in [
            "",
            "short",
            "../../..^-aqEH.-t@S}K{vb[*k^",
            "aé-aqEH.-t@S}K{vb[*k",
        ] {
            assert!(relative_path(encoded).is_err(), "{encoded}");
        }
    }

    /// An inline vector that `delta_kernel` is tested with.
    const INLINE: &str = "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L";

    #[test]
    fn an_inline_vector_marks_its_rows() {
        let bytes = z85(INLINE).unwrap();
        let rows = parse(&bytes).unwrap();
        assert_eq!(rows.iter().collect::<Vec<_>>(), vec![3, 4, 7, 11, 18, 29]);
    }

    #[test]
    fn torn_and_foreign_bitmaps_are_refused() {
        let bytes = z85(INLINE).unwrap();
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(parse(&[0; 40]).is_err());
    }
}
