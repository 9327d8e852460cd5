//! QUERY-2: a task's output is committed once. While it is there it never changes; the same holds for
//! everything else that is written once: versions, commits, plans, claims, ends, cells.

use crate::trace::checksum;
use bytes::Bytes;
use std::collections::BTreeMap;

/// The written-once objects that are there, by key: their checksums.
#[derive(Debug, Default)]
pub struct Outputs(BTreeMap<String, u32>);

impl Outputs {
    pub fn written(&mut self, key: &str, body: &Bytes) -> Result<(), String> {
        let Some(invariant) = written_once(key) else {
            return Ok(());
        };
        let crc = checksum([body.as_ref()]);
        match self.0.insert(key.to_string(), crc) {
            Some(before) if before != crc => Err(format!(
                "{invariant}: {key} was {before:08x} and was overwritten with {crc:08x}"
            )),
            _ => Ok(()),
        }
    }

    pub fn deleted(&mut self, key: &str) {
        self.0.remove(key);
    }
}

/// The invariant that says that an object is written once; `None` for hints and for what has one writer.
fn written_once(key: &str) -> Option<&'static str> {
    let name = key.rsplit('/').next()?;
    let is_hint = name.starts_with('_');
    match () {
        () if key.starts_with("_swarm/queries/") => Some("QUERY-2"),
        // Whoever writes a checkpoint anew writes the same.
        () if key.contains("/_delta_log/") => {
            (name.ends_with(".json") && !is_hint).then_some("LEDGER-1")
        }
        () if key.starts_with("_registry/") => (!is_hint).then_some("LEDGER-1"),
        () if key.ends_with(".parquet") => Some("LEDGER-4"),
        () => None,
    }
}
