//! An independent reader of one frame: its own replay of the Delta log from version 0, without
//! checkpoints and without a line of the engine's, and Parquet's own reader for the cells.

use crate::trace::checksum;
use crate::workload::rows::{self, Row};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A live cell as the log names it and as it was found.
#[derive(Debug)]
pub struct CellReading {
    pub named_bytes: u64,
    pub found_bytes: Option<u64>,
}

/// A version that replaced cells by others and says that no row changed.
#[derive(Debug)]
pub struct Rewrite {
    pub version: u64,
    pub removed: Vec<String>,
    pub added: Vec<String>,
}

/// One frame, read from the objects of a meadow.
#[derive(Debug, Default)]
pub struct FrameReading {
    /// Checksum of each version's commit.
    pub versions: BTreeMap<u64, u32>,
    pub cells: BTreeMap<String, CellReading>,
    pub rewrites: Vec<Rewrite>,
    pub rows: Vec<Row>,
}

/// Keys of the cells that some version of some frame names, whether they are there or not.
pub fn ever_named(objects: &BTreeMap<String, Bytes>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (key, body) in objects {
        let Some((location, _)) = key.split_once("/_delta_log/") else {
            continue;
        };
        let text = std::str::from_utf8(body).unwrap_or_default();
        for line in text.lines() {
            let action: Value = serde_json::from_str(line).unwrap_or_default();
            let path = action["add"]["path"].as_str();
            named.extend(path.map(|path| format!("{location}/{path}")));
        }
    }
    named
}

/// Reads the frame at a location. `objects` are all objects by key.
pub fn read(objects: &BTreeMap<String, Bytes>, location: &str) -> Result<FrameReading, String> {
    let mut frame = read_log(objects, location)?;
    for path in frame.cells.keys() {
        frame.rows.extend(read_cell(objects, location, path)?);
    }
    Ok(frame)
}

/// Reads what the log of a frame says, and whether its cells are there.
pub fn read_log(objects: &BTreeMap<String, Bytes>, location: &str) -> Result<FrameReading, String> {
    let mut frame = FrameReading::default();
    let log = format!("{location}/_delta_log/");
    let mut live: BTreeMap<String, u64> = BTreeMap::new();
    for (key, body) in objects.range(log.clone()..) {
        let Some(name) = key.strip_prefix(&log) else {
            break;
        };
        let Some(version) = name
            .strip_suffix(".json")
            .and_then(|version| version.parse().ok())
        else {
            continue;
        };
        frame.versions.insert(version, checksum([body.as_ref()]));
        let rewrite = replay(version, body, &mut live);
        let rewrite = rewrite.map_err(|error| format!("LEDGER-1: {key} is torn: {error}"))?;
        frame.rewrites.extend(rewrite);
    }
    for (path, named_bytes) in live {
        let body = objects.get(&format!("{location}/{path}"));
        let found_bytes = body.map(|body| body.len() as u64);
        frame.cells.insert(
            path,
            CellReading {
                named_bytes,
                found_bytes,
            },
        );
    }
    Ok(frame)
}

/// Gives what the version says that it rewrote.
fn replay(
    version: u64,
    commit: &Bytes,
    live: &mut BTreeMap<String, u64>,
) -> Result<Option<Rewrite>, String> {
    let text = std::str::from_utf8(commit).map_err(|error| error.to_string())?;
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    if !lines.iter().any(|line| line.get("commitInfo").is_some()) {
        return Err("it has no commitInfo".into());
    }
    let path = |action: &Value| action["path"].as_str().map(str::to_string).ok_or("no path");
    let (mut removed, mut added, mut is_rewrite) = (Vec::new(), Vec::new(), true);
    for action in lines.iter().filter_map(|line| line.get("remove")) {
        live.remove(&path(action)?);
        removed.push(path(action)?);
        is_rewrite &= action["dataChange"] == false;
    }
    for action in lines.iter().filter_map(|line| line.get("add")) {
        let size = action["size"].as_u64().ok_or("an add without a size")?;
        if live.insert(path(action)?, size).is_some() {
            return Err(format!("{} is added twice", path(action)?));
        }
        added.push(path(action)?);
        is_rewrite &= action["dataChange"] == false;
    }
    Ok((is_rewrite && !removed.is_empty()).then_some(Rewrite {
        version,
        removed,
        added,
    }))
}

/// The rows of a cell of a frame that clients write; none of one that is not there.
pub fn read_cell(
    objects: &BTreeMap<String, Bytes>,
    location: &str,
    path: &str,
) -> Result<Vec<Row>, String> {
    let Some(body) = objects.get(&format!("{location}/{path}")) else {
        return Ok(Vec::new());
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(body.clone());
    let reader = reader.and_then(|builder| builder.build());
    let unreadable = |error: String| format!("LEDGER-4: the cell {path} cannot be read: {error}");
    let batches: Result<Vec<_>, _> = reader.map_err(|e| unreadable(e.to_string()))?.collect();
    rows::from_arrow(&batches.map_err(|e| unreadable(e.to_string()))?).map_err(unreadable)
}
