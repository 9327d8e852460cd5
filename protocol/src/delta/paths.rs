//! Paths of cells: `add.path` (URI-encoded) to the key below the location, and back; partition
//! directories.
//!
//! There are two layers of escaping and both are needed: the *physical* name of a partition directory
//! is `column=value` with `%XX` for what a file system or a reader could stumble over, and `add.path`
//! is the URI encoding of that physical name, so its `%` becomes `%25`. Readers that take partition
//! values from the path (Polars) undo both, readers that take them from the log undo one.
//!
//! Invariant: a decoded path never leaves the location and names one object.

use crate::keys::LOG_DIRECTORY;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The directory value that stands for a null partition value.
pub const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Kept as they are in physical partition directories.
const PARTITION: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Kept as they are in `add.path`: RFC 3986's unreserved characters and those of a path.
const URI_PATH: &AsciiSet = &PARTITION
    .remove(b'~')
    .remove(b'/')
    .remove(b'=')
    .remove(b'+')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b',')
    .remove(b';');

/// Longest path that is believed, in bytes.
const PATH_BYTES_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("path {0:?} is absolute or leaves the frame's location")]
    Outside(String),
    #[error("path {0:?} is not a valid relative URI")]
    Malformed(String),
}

/// `column=value`, escaped: one directory of a cell's physical path.
pub fn partition_segment(column: &str, value: Option<&str>) -> String {
    let column = utf8_percent_encode(column, PARTITION);
    match value {
        Some(value) => format!("{column}={}", utf8_percent_encode(value, PARTITION)),
        None => format!("{column}={NULL_PARTITION}"),
    }
}

/// The `add.path` of a physical path below the location.
pub fn encode_path(physical: &str) -> String {
    utf8_percent_encode(physical, URI_PATH).to_string()
}

/// The physical path below the location that an `add.path` names. Refuses whatever is absolute, has
/// a scheme, leaves the location, or is not one plain object name.
pub fn decode_path(path: &str) -> Result<String, PathError> {
    let malformed = || PathError::Malformed(shortened(path));
    if path.is_empty() || path.len() > PATH_BYTES_MAX {
        return Err(malformed());
    }
    let outside = || PathError::Outside(shortened(path));
    if path.starts_with('/') || has_scheme(path) {
        return Err(outside());
    }
    let decoded = percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| malformed())?;
    if decoded.starts_with('/') || decoded.contains('\\') && decoded.contains("..") {
        return Err(outside());
    }
    if decoded.chars().any(char::is_control) {
        return Err(malformed());
    }
    for segment in decoded.split('/') {
        match segment {
            ".." => return Err(outside()),
            "" | "." => return Err(malformed()),
            _ => {}
        }
    }
    // The log itself is no place for a cell: a vacuum of ours must never be pointed at it.
    if decoded.split('/').next() == Some(LOG_DIRECTORY) {
        return Err(outside());
    }
    Ok(decoded.into_owned())
}

/// `scheme:` before the first slash. Our own encoding turns a colon into `%3A`, so a colon there
/// means a URI.
fn has_scheme(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or("");
    match first.split_once(':') {
        Some((scheme, _)) => {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        }
        None => false,
    }
}

fn shortened(path: &str) -> String {
    path.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_value_survives_both_layers() {
        for value in [
            "a b",
            "50%",
            "é/ü",
            "..",
            "x=y",
            "2026-01-01 00:00:00",
            "'\"#?*",
            "日本",
        ] {
            let physical = format!("{}/part-0.parquet", partition_segment("c ol", Some(value)));
            assert!(!physical.contains(' '), "{physical}");
            let path = encode_path(&physical);
            assert_eq!(decode_path(&path).unwrap(), physical);
            let directory = physical.split('/').next().unwrap();
            let (_, escaped) = directory.split_once('=').unwrap();
            assert_eq!(percent_decode_str(escaped).decode_utf8().unwrap(), value);
        }
        assert_eq!(partition_segment("d", None), "d=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(encode_path("d=a%20b/x.parquet"), "d=a%2520b/x.parquet");
    }

    #[test]
    fn a_path_that_leaves_the_location_is_refused() {
        for path in [
            "/etc/passwd",
            "../x.parquet",
            "a/../../x.parquet",
            "a/%2e%2e/x.parquet",
            "%2Fetc/passwd",
            "s3://bucket/x.parquet",
            "file:/x.parquet",
            "_delta_log/x.parquet",
            "_delta_log",
            "C:/x",
            "a\\..\\b",
        ] {
            assert!(
                matches!(decode_path(path), Err(PathError::Outside(_))),
                "{path}"
            );
        }
        for path in ["", "a//b", "a/./b", "a/", "%ff", "a%00b", &"x".repeat(5000)] {
            assert!(
                matches!(decode_path(path), Err(PathError::Malformed(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn foreign_spellings_of_one_path_decode_alike() {
        assert_eq!(decode_path("p=a%20b/f.parquet").unwrap(), "p=a b/f.parquet");
        assert_eq!(decode_path("p=a b/f.parquet").unwrap(), "p=a b/f.parquet");
        assert_eq!(decode_path("p%3Da/f.parquet").unwrap(), "p=a/f.parquet");
        assert_eq!(
            decode_path("t=10:30/f.parquet").unwrap(),
            "t=10:30/f.parquet"
        );
    }
}
