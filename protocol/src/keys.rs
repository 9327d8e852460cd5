//! Every key in the meadow is built and parsed here. Keys are relative to the meadow's root.
//!
//! Versions are exactly twenty digits, so that the order of keys is the order of versions; anything
//! else is not a version. Names need no escaping (see [`crate::names`]), so a key is its path.

use crate::delta::paths::{PathError, decode_path};
use crate::ids::{AttemptId, FrameId, NodeId, QueryId};
use crate::names::FrameName;
use crate::query::TaskKey;

pub const MANIFEST: &str = "apiary.json";
pub const REGISTRY_PREFIX: &str = "_registry";
/// Hint: the newest registry version that somebody saw.
pub const REGISTRY_HEAD: &str = "_registry/_head";
/// Where makers of frames say where their cells go.
pub const MAKING_PREFIX: &str = "_making";
pub const BELL: &str = "_swarm/bell";
pub const NODES_PREFIX: &str = "_swarm/nodes";
pub const QUERIES_PREFIX: &str = "_swarm/queries";
/// What a node writes to try out a store that it does not trust yet.
pub const PROOFS_PREFIX: &str = "_swarm/proof";
/// The directory of a frame's log inside its location.
pub const LOG_DIRECTORY: &str = "_delta_log";

/// Bytes of a key: what S3 and GCS take.
pub const KEY_BYTES_MAX: usize = 1024;

/// Why a path is not taken for a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} {reason}")]
pub struct KeyError {
    pub path: String,
    pub reason: &'static str,
}

/// A file of a log directory that the protocol gives a meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogFile {
    Commit {
        version: u64,
    },
    Checkpoint {
        version: u64,
        shape: CheckpointShape,
    },
}

/// How a checkpoint is laid out in files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckpointShape {
    /// `{version}.checkpoint.parquet`
    Whole,
    /// `{version}.checkpoint.{part:010}.{parts:010}.parquet`; parts count from 1.
    Part { part: u32, parts: u32 },
    /// `{version}.checkpoint.{uuid}.parquet` or `.json`: a v2 checkpoint.
    Unique { uuid: String, json: bool },
}

/// `{location}/_delta_log/{version:020}.json`
pub fn commit(location: &str, version: u64) -> String {
    format!("{location}/{LOG_DIRECTORY}/{version:020}.json")
}

/// `{location}/_delta_log`
pub fn log_prefix(location: &str) -> String {
    format!("{location}/{LOG_DIRECTORY}")
}

/// `{location}/_delta_log/{version:020}.checkpoint.parquet`
pub fn checkpoint(location: &str, version: u64) -> String {
    format!("{location}/{LOG_DIRECTORY}/{version:020}.checkpoint.parquet")
}

/// `{location}/_delta_log/_last_checkpoint`
pub fn last_checkpoint(location: &str) -> String {
    format!("{location}/{LOG_DIRECTORY}/_last_checkpoint")
}

/// `_registry/{version:020}.json`
pub fn registry(version: u64) -> String {
    format!("{REGISTRY_PREFIX}/{version:020}.json")
}

/// The version that a key of the registry names; `None` for every other key.
pub fn registry_version(key: &str) -> Option<u64> {
    let name = key.strip_prefix(REGISTRY_PREFIX)?.strip_prefix('/')?;
    version(name.strip_suffix(".json")?)
}

/// `_swarm/nodes/{node}`
pub fn heartbeat(node: NodeId) -> String {
    format!("{NODES_PREFIX}/{node}")
}

/// `_making/{frame}`
pub fn making(frame: FrameId) -> String {
    format!("{MAKING_PREFIX}/{frame}")
}

/// The node whose heartbeat a key is; `None` for every other key.
pub fn heartbeat_node(key: &str) -> Option<NodeId> {
    let text = key.strip_prefix(NODES_PREFIX)?.strip_prefix('/')?;
    let node = NodeId::parse(text)?;
    (node.to_string() == text).then_some(node)
}

/// `_swarm/queries/{query}`
pub fn query_prefix(query: QueryId) -> String {
    format!("{QUERIES_PREFIX}/{query}")
}

/// The query whose object a key is, or whose prefix; `None` for every other key.
pub fn query_of(key: &str) -> Option<QueryId> {
    let rest = key.strip_prefix(QUERIES_PREFIX)?.strip_prefix('/')?;
    let text = rest.split('/').next()?;
    let query = QueryId::parse(text)?;
    (query.to_string() == text).then_some(query)
}

/// `_swarm/queries/{query}/plan`
pub fn query_plan(query: QueryId) -> String {
    format!("{}/plan", query_prefix(query))
}

/// `_swarm/queries/{query}/end`
pub fn query_end(query: QueryId) -> String {
    format!("{}/end", query_prefix(query))
}

/// `_swarm/queries/{query}/outputs`
pub fn query_outputs(query: QueryId) -> String {
    format!("{}/outputs", query_prefix(query))
}

/// `_swarm/queries/{query}/outputs/{stage:03}-{task:05}`
pub fn query_output(query: QueryId, key: TaskKey) -> String {
    let TaskKey { stage, task } = key;
    format!("{}/{stage:03}-{task:05}", query_outputs(query))
}

/// `_swarm/queries/{query}/data/{stage:03}-{task:05}-{id}`
pub fn query_data(query: QueryId, key: TaskKey, id: AttemptId) -> String {
    let TaskKey { stage, task } = key;
    format!("{}/data/{stage:03}-{task:05}-{id}", query_prefix(query))
}

/// `_swarm/queries/{query}/claims/{stage:03}-{task:05}-{attempt:02}`
pub fn query_claim(query: QueryId, key: TaskKey, attempt: u32) -> String {
    let TaskKey { stage, task } = key;
    format!(
        "{}/claims/{stage:03}-{task:05}-{attempt:02}",
        query_prefix(query)
    )
}

/// `_swarm/queries/{query}/failures`
pub fn query_failures(query: QueryId) -> String {
    format!("{}/failures", query_prefix(query))
}

/// `_swarm/queries/{query}/failures/{stage:03}-{task:05}-{attempt:02}`
pub fn query_failure(query: QueryId, key: TaskKey, attempt: u32) -> String {
    let TaskKey { stage, task } = key;
    format!(
        "{}/{stage:03}-{task:05}-{attempt:02}",
        query_failures(query)
    )
}

/// What a file of a log directory is, from its key or its bare name.
pub fn log_file(key: &str) -> Option<LogFile> {
    let name = key.rsplit('/').next()?;
    let (digits, rest) = name.split_once('.')?;
    let version = version(digits)?;
    if rest == "json" {
        return Some(LogFile::Commit { version });
    }
    let rest = rest.strip_prefix("checkpoint.")?;
    let shape = match rest.split('.').collect::<Vec<_>>()[..] {
        ["parquet"] => CheckpointShape::Whole,
        [part, parts, "parquet"] => {
            let (part, parts) = (part_number(part)?, part_number(parts)?);
            if part == 0 || part > parts {
                return None;
            }
            CheckpointShape::Part { part, parts }
        }
        [uuid, suffix @ ("parquet" | "json")] if uuid::Uuid::try_parse(uuid).is_ok() => {
            CheckpointShape::Unique {
                uuid: uuid.to_string(),
                json: suffix == "json",
            }
        }
        _ => return None,
    };
    Some(LogFile::Checkpoint { version, shape })
}

/// `hive/box/frame`, or `hive/box/frame.<id8>` for a frame whose plain location was used before.
pub fn frame_location(name: &FrameName, id: Option<FrameId>) -> String {
    let FrameName {
        hive,
        box_name,
        frame,
    } = name;
    match id {
        None => format!("{hive}/{box_name}/{frame}"),
        Some(id) => format!("{hive}/{box_name}/{frame}.{}", id.short()),
    }
}

/// The file name of a new cell. One that a task of a shared query writes says whose it is.
pub fn cell_name(id: uuid::Uuid, query: Option<QueryId>) -> String {
    match query {
        None => format!("part-{id}.parquet"),
        Some(query) => format!("part-{id}.{query}.parquet"),
    }
}

/// Whether a key is that of a cell which a task of this query wrote.
pub fn is_cell_of(key: &str, query: QueryId) -> bool {
    key.ends_with(&format!(".{query}.parquet"))
}

/// The key of a cell or of a file beside it. `path` is physical and below the location: what
/// [`crate::delta::paths::decode_path`] gives, or what a writer of ours made. Refuses a key that is
/// too long for some store.
pub fn cell(location: &str, path: &str) -> Result<String, KeyError> {
    let key = format!("{location}/{path}");
    if key.len() > KEY_BYTES_MAX {
        return Err(refusal(path, "makes a key of more than 1024 bytes"));
    }
    Ok(key)
}

/// The key of the cell that an `add.path` names.
pub fn added_cell(location: &str, add_path: &str) -> Result<String, KeyError> {
    let path = decode_path(add_path).map_err(|error| match error {
        PathError::Outside(path) => refusal(&path, "is absolute or leaves the frame's location"),
        PathError::Malformed(path) => refusal(&path, "is not a valid relative URI"),
    })?;
    cell(location, &path)
}

/// Checks a location that came from a user or from storage: relative, no way out of the root, and
/// not among the meadow's own objects.
pub fn check_location(location: &str) -> Result<(), KeyError> {
    check_relative(location)?;
    if location.len() > KEY_BYTES_MAX / 2 {
        return Err(refusal(location, "is longer than 512 bytes"));
    }
    if location.split('/').any(|part| part == LOG_DIRECTORY) || location.starts_with('_') {
        return Err(refusal(
            location,
            "is reserved; a location has no part _delta_log and does not begin with _",
        ));
    }
    Ok(())
}

/// Whether one location is the other or lies inside it, whatever the case: a case-insensitive file
/// system would put both into one directory.
pub fn locations_overlap(a: &str, b: &str) -> bool {
    let (a, b) = (crate::names::fold(a), crate::names::fold(b));
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(&short)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check_relative(path: &str) -> Result<(), KeyError> {
    if path.is_empty() {
        return Err(refusal(path, "is empty"));
    }
    if path.starts_with('/') {
        return Err(refusal(
            path,
            "is absolute; only paths below the location are read",
        ));
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return Err(refusal(path, "holds a backslash or a control character"));
    }
    if has_scheme(path) {
        return Err(refusal(
            path,
            "names another store; only paths below the location are read",
        ));
    }
    for part in path.split('/') {
        match part {
            "" => return Err(refusal(path, "has an empty part")),
            "." | ".." => {
                return Err(refusal(
                    path,
                    "has a part . or .., which could leave the location",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// RFC 3986: a letter, then letters, digits, `+`, `-`, `.`, then a colon.
fn has_scheme(path: &str) -> bool {
    path.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

fn refusal(path: &str, reason: &'static str) -> KeyError {
    KeyError {
        path: path.chars().take(200).collect(),
        reason,
    }
}

/// Exactly twenty digits that fit.
fn version(digits: &str) -> Option<u64> {
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// Exactly ten digits that fit.
fn part_number(digits: &str) -> Option<u32> {
    (digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_parsed_back() {
        for version in [0, 1, 7_000_000_000, i64::MAX as u64, u64::MAX] {
            assert_eq!(registry_version(&registry(version)), Some(version));
            assert_eq!(
                log_file(&commit("a/b", version)),
                Some(LogFile::Commit { version })
            );
            let shape = CheckpointShape::Whole;
            assert_eq!(
                log_file(&checkpoint("a/b", version)),
                Some(LogFile::Checkpoint { version, shape })
            );
        }
        assert_eq!(
            log_file("a/_delta_log/00000000000000000003.checkpoint.0000000002.0000000004.parquet"),
            Some(LogFile::Checkpoint {
                version: 3,
                shape: CheckpointShape::Part { part: 2, parts: 4 }
            })
        );
        let node = NodeId::from_random([7; 16]);
        assert_eq!(heartbeat_node(&heartbeat(node)), Some(node));
    }

    #[test]
    fn versions_are_exactly_twenty_digits() {
        for key in [
            "_registry/1.json",
            "_registry/000000000000000000001.json",
            "_registry/0000000000000000001x.json",
            "_registry/+0000000000000000001.json",
            "_registry/99999999999999999999.json",
            "_registry/00000000000000000001.json.tmp",
            "_registry/_head",
            "_registry00000000000000000001.json",
            "x/_registry/00000000000000000001.json",
            "_registry/00000000000000000001",
        ] {
            assert_eq!(registry_version(key), None, "{key}");
        }
        for name in [
            "1.json",
            "00000000000000000001.crc",
            "00000000000000000001.json.tmp",
            "_last_checkpoint",
            "00000000000000000001.checkpoint.1.2.parquet",
            "00000000000000000001.checkpoint.x.parquet",
            "00000000000000000001.checkpoint.0000000003.0000000002.parquet",
            "00000000000000000001.checkpoint.0000000000.0000000002.parquet",
            ".json",
            "",
            "00000000000000000000.00000000000000000003.compacted.json",
        ] {
            assert_eq!(log_file(name), None, "{name}");
        }
        assert_eq!(
            log_file("00000000000000000010.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json"),
            Some(LogFile::Checkpoint {
                version: 10,
                shape: CheckpointShape::Unique {
                    uuid: "80a083e8-7026-4e79-81be-64bd76c43a11".into(),
                    json: true
                },
            })
        );
        assert_eq!(heartbeat_node("_swarm/nodes/not-a-node"), None);
        assert_eq!(
            heartbeat_node("_swarm/nodes/07070707070747078707070707070707"),
            None
        );
    }

    #[test]
    fn a_frame_has_its_plain_location_or_one_with_its_id() -> Result<(), crate::names::NameError> {
        let name = FrameName::parse("Default", "my box", "größe")?;
        assert_eq!(frame_location(&name, None), "Default/my box/größe");
        let id = FrameId::from_random([0xab; 16]);
        assert_eq!(
            frame_location(&name, Some(id)),
            "Default/my box/größe.abababab"
        );
        Ok(())
    }

    #[test]
    fn a_cells_key_is_as_long_as_every_store_takes() {
        assert_eq!(
            cell("h/b/f", "p=a b/x.parquet"),
            Ok("h/b/f/p=a b/x.parquet".into())
        );
        let longest = KEY_BYTES_MAX - "h/b/f/".len();
        assert!(cell("h/b/f", &"x".repeat(longest)).is_ok());
        let error = cell("h/b/f", &"x".repeat(longest + 1)).unwrap_err();
        assert!(
            error.to_string().contains("more than 1024 bytes"),
            "{error}"
        );
    }

    #[test]
    fn locations_stay_under_the_root_and_off_the_meadows_own_objects() {
        for location in [
            "",
            "/a",
            "a/../b",
            "_registry",
            "_making/x",
            "_swarm/x",
            "a/_delta_log",
            "s3://a/b",
            "a/",
            "~\\x",
        ] {
            assert!(check_location(location).is_err(), "{location}");
        }
        assert_eq!(check_location("lake/tables/old one"), Ok(()));
    }

    #[test]
    fn overlap_is_the_same_place_or_one_inside_the_other() {
        assert!(locations_overlap("a/b", "a/b"));
        assert!(locations_overlap("a/b", "A/B/c"));
        assert!(locations_overlap("a/b/c", "a"));
        assert!(!locations_overlap("a/b", "a/bc"));
        assert!(!locations_overlap("a/b.c", "a/b"));
    }
}
