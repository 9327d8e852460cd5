//! A commit as bytes: one action a line.
//!
//! Ours start with `commitInfo`, which carries the count and the checksum of what follows. A file
//! system that lost power can leave a commit empty or cut at a line break, and both would otherwise
//! read as a smaller commit. Commits of other writers have no such seal; they are read as they are,
//! except that an empty one is corrupt whoever wrote it.

use super::{Action, Add, DomainMetadata, Metadata, Protocol, Remove, Txn, crc32};
use crate::ids::CommitId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `commitInfo` keys of our own, as [`HeadFields`] writes them.
const ACTION_COUNT: &str = "apiary.actionCount";
const CHECKSUM: &str = "apiary.crc32";
const MEMBERS: &str = "apiary.members";

/// Timestamps outside years 1970 to 9999 are nonsense and would poison what is ordered by them.
const TIMESTAMP_MS_MAX: i64 = 253_402_300_799_999;

/// A line of a large commit, an add, has at least so many bytes.
const LINE_BYTES: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    #[error("it holds no action")]
    Empty,
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: String },
    #[error("its head announces {expected} actions and {found} follow")]
    Count { expected: u64, found: u64 },
    #[error("its actions do not match the checksum in its head")]
    Checksum,
    #[error("its head is not valid: {0}")]
    Head(&'static str),
}

/// What the head of a commit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The commit's own id.
    pub id: CommitId,
    /// Ids of the intents in it, when it is a group of more than one.
    pub members: Vec<CommitId>,
    /// `WRITE`, `CREATE TABLE`, `OPTIMIZE` …
    pub operation: String,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Adds cells and read nothing.
    pub is_blind_append: bool,
    pub engine_info: String,
}

/// A commit that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// All actions but `commitInfo`, in order.
    pub actions: Vec<Action>,
    /// `commitInfo.timestamp`, when it is there and sane.
    pub timestamp_ms: Option<i64>,
    /// `commitInfo.isBlindAppend`; absence counts as `false`.
    pub is_blind_append: bool,
    /// `commitInfo.txnId` and our members.
    pub ids: Vec<String>,
}

impl Commit {
    /// Whether an intent is in this commit.
    pub fn contains(&self, id: CommitId) -> bool {
        let id = id.to_string();
        self.ids.contains(&id)
    }
}

/// The bytes of a commit of ours. The order of keys and lines is fixed: equal input, equal bytes.
pub fn encode_commit(head: &Head, actions: &[Action]) -> Result<Vec<u8>, serde_json::Error> {
    let mut body = Vec::with_capacity(actions.len() * 384);
    for action in actions {
        serde_json::to_writer(&mut body, action)?;
        body.push(b'\n');
    }
    let head_line = HeadLine {
        commit_info: HeadFields {
            timestamp: head.timestamp_ms,
            operation: &head.operation,
            operation_parameters: Map::new(),
            is_blind_append: head.is_blind_append,
            engine_info: &head.engine_info,
            txn_id: head.id,
            action_count: actions.len(),
            checksum: crc32(&body),
            members: &head.members,
        },
    };
    let mut bytes = serde_json::to_vec(&head_line)?;
    bytes.push(b'\n');
    bytes.append(&mut body);
    Ok(bytes)
}

/// Reads a commit and checks it: its seal when it is ours, its values always.
pub fn decode_commit(bytes: &[u8]) -> Result<Commit, CommitError> {
    let mut commit = Commit::default();
    // A list that grows is there twice while it moves. Short lines are no reason to reserve much.
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    commit
        .actions
        .reserve_exact(lines.min(bytes.len() / LINE_BYTES));
    let mut line_count = 0_u64;
    let mut seal = None;
    let mut rest = bytes;
    let mut line_number = 0;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or(&[]);
        line_number += 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        line_count += 1;
        let at = |reason: String| CommitError::Line {
            line: line_number,
            reason,
        };
        let line: Line = serde_json::from_slice(line).map_err(|e| at(e.to_string()))?;
        if let Some(info) = &line.commit_info {
            read_info(info, &mut commit);
            if line_count == 1 && !crate::planted!(CommitUnchecked) {
                seal = read_seal(info)?;
                if seal.is_some_and(|(_, checksum)| crc32(rest) != checksum) {
                    // The count tells a cut commit from a changed one.
                    let found = rest
                        .split(|b| *b == b'\n')
                        .filter(|l| !l.is_empty())
                        .count();
                    return match seal {
                        Some((expected, _)) if expected != found as u64 => {
                            Err(CommitError::Count {
                                expected,
                                found: found as u64,
                            })
                        }
                        _ => Err(CommitError::Checksum),
                    };
                }
            }
        }
        line.push_into(&mut commit.actions).map_err(at)?;
    }
    if line_count == 0 {
        return Err(CommitError::Empty);
    }
    if let Some((expected, _)) = seal.filter(|(expected, _)| *expected != line_count - 1) {
        return Err(CommitError::Count {
            expected,
            found: line_count - 1,
        });
    }
    Ok(commit)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeadLine<'a> {
    commit_info: HeadFields<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeadFields<'a> {
    timestamp: i64,
    operation: &'a str,
    operation_parameters: Map<String, Value>,
    is_blind_append: bool,
    engine_info: &'a str,
    txn_id: CommitId,
    #[serde(rename = "apiary.actionCount")]
    action_count: usize,
    #[serde(rename = "apiary.crc32")]
    checksum: u32,
    #[serde(rename = "apiary.members", skip_serializing_if = "<[_]>::is_empty")]
    members: &'a [CommitId],
}

/// One line. Unknown keys are ignored, so an action of an unknown kind reads as nothing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    commit_info: Option<Map<String, Value>>,
    protocol: Option<Protocol>,
    meta_data: Option<Metadata>,
    txn: Option<Txn>,
    domain_metadata: Option<DomainMetadata>,
    add: Option<Add>,
    remove: Option<Remove>,
}

impl Line {
    fn push_into(self, actions: &mut Vec<Action>) -> Result<(), String> {
        let found = [
            self.protocol.map(Action::Protocol),
            self.meta_data.map(Action::MetaData),
            self.txn.map(Action::Txn),
            self.domain_metadata.map(Action::DomainMetadata),
            self.add.map(Action::Add),
            self.remove.map(Action::Remove),
        ];
        for action in found.into_iter().flatten() {
            action.check()?;
            actions.push(action);
        }
        Ok(())
    }
}

fn read_info(info: &Map<String, Value>, commit: &mut Commit) {
    let timestamp = info.get("timestamp").and_then(Value::as_i64);
    commit.timestamp_ms = timestamp.filter(|t| (0..=TIMESTAMP_MS_MAX).contains(t));
    commit.is_blind_append = info.get("isBlindAppend").and_then(Value::as_bool) == Some(true);
    let members = info
        .get(MEMBERS)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let ids = info.get("txnId").into_iter().chain(members);
    commit.ids = ids.filter_map(Value::as_str).map(str::to_string).collect();
}

/// Count and checksum, when the head is ours. Half a seal is no seal of ours.
fn read_seal(info: &Map<String, Value>) -> Result<Option<(u64, u32)>, CommitError> {
    match (info.get(ACTION_COUNT), info.get(CHECKSUM)) {
        (None, None) => Ok(None),
        (Some(count), Some(checksum)) => {
            let count = count
                .as_u64()
                .ok_or(CommitError::Head("the action count"))?;
            let checksum = checksum.as_u64().and_then(|c| u32::try_from(c).ok());
            Ok(Some((
                count,
                checksum.ok_or(CommitError::Head("the checksum"))?,
            )))
        }
        _ => Err(CommitError::Head("half of its seal is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::StringMap;
    use super::*;

    fn id(n: u8) -> CommitId {
        CommitId::from_random([n; 16])
    }

    fn head() -> Head {
        Head {
            id: id(1),
            members: vec![id(2), id(3)],
            operation: "WRITE".into(),
            timestamp_ms: 7,
            is_blind_append: true,
            engine_info: "apiary".into(),
        }
    }

    fn add(path: &str) -> Action {
        Action::Add(Add {
            path: path.into(),
            partition_values: StringMap::new(),
            size: 10,
            modification_time: 5,
            data_change: true,
            stats: Some(r#"{"numRecords":1}"#.into()),
            ..Add::default()
        })
    }

    fn ours() -> (Vec<Action>, Vec<u8>) {
        let actions = vec![
            Action::Txn(Txn {
                app_id: "app".into(),
                version: 3,
                last_updated: None,
            }),
            add("a"),
            add("b"),
            Action::Remove(Remove {
                path: "c".into(),
                deletion_timestamp: Some(7),
                data_change: true,
                extended_file_metadata: None,
                partition_values: None,
                size: None,
                deletion_vector: None,
            }),
        ];
        let bytes = encode_commit(&head(), &actions).unwrap();
        (actions, bytes)
    }

    #[test]
    fn a_commit_reads_back_as_it_was_written() {
        let (actions, bytes) = ours();
        let commit = decode_commit(&bytes).unwrap();
        assert_eq!(commit.actions, actions);
        assert_eq!(commit.timestamp_ms, Some(7));
        assert!(commit.is_blind_append);
        for n in [1, 2, 3] {
            assert!(commit.contains(id(n)));
        }
        assert!(!commit.contains(id(4)));
    }

    /// The format of ledgers that exist: this file never changes.
    #[test]
    fn the_golden_commit_is_written_and_read_as_ever() {
        let golden: &[u8] = include_bytes!("../../tests-data/commit-1.json");
        let (actions, bytes) = ours();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            String::from_utf8_lossy(golden)
        );
        assert_eq!(decode_commit(golden).unwrap().actions, actions);
    }

    #[test]
    fn our_commit_cut_anywhere_is_refused() {
        let (_, bytes) = ours();
        for cut in 0..bytes.len() {
            assert!(decode_commit(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn our_commit_with_any_byte_of_its_actions_changed_is_refused() {
        let (_, bytes) = ours();
        let start = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        for at in start..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(decode_commit(&changed).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn our_commit_with_something_appended_is_refused() {
        let (_, mut bytes) = ours();
        bytes.extend_from_slice(b"\n");
        assert!(decode_commit(&bytes).is_err());
    }

    #[test]
    fn an_empty_commit_is_corrupt_whoever_wrote_it() {
        assert_eq!(decode_commit(b""), Err(CommitError::Empty));
        assert_eq!(decode_commit(b"\n \n"), Err(CommitError::Empty));
        assert!(decode_commit(&[0; 64]).is_err());
    }

    #[test]
    fn a_foreign_commit_may_end_without_a_line_break_and_know_more_than_we_do() {
        let text = concat!(
            r#"{"futureAction":{"x":[1,2]}}"#,
            "\r\n\n",
            r#"{"add":{"path":"a","partitionValues":{},"size":1,"modificationTime":2,"dataChange":true,"novelty":1}}"#,
            "\n",
            r#"{"commitInfo":{"timestamp":9,"operation":"WRITE"}}"#
        );
        let commit = decode_commit(text.as_bytes()).unwrap();
        assert_eq!(commit.actions.len(), 1);
        assert_eq!(commit.timestamp_ms, Some(9));
        assert!(!commit.is_blind_append);
    }

    #[test]
    fn values_that_nobody_can_have_meant_are_refused() {
        for text in [
            r#"{"add":{"path":"a","partitionValues":{},"size":-1,"modificationTime":2,"dataChange":true}}"#,
            r#"{"add":{"path":"","partitionValues":{},"size":1,"modificationTime":2,"dataChange":true}}"#,
            r#"{"add":{"path":"a","partitionValues":{},"size":1e99,"modificationTime":2,"dataChange":true}}"#,
            r#"{"protocol":{"minReaderVersion":0,"minWriterVersion":2}}"#,
            r#"{"add":{"path":"a","partitionValues":{},"size":1,"modificationTime":2,"dataChange":true,"deletionVector":{"storageType":"u","pathOrInlineDv":"x","sizeInBytes":-4,"cardinality":1}}}"#,
        ] {
            assert!(
                matches!(
                    decode_commit(text.as_bytes()),
                    Err(CommitError::Line { .. })
                ),
                "{text}"
            );
        }
        let far = r#"{"commitInfo":{"timestamp":9223372036854775807}}"#;
        assert_eq!(decode_commit(far.as_bytes()).unwrap().timestamp_ms, None);
    }
}
