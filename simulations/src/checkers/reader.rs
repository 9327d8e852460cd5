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

/// One frame, read from the objects of a meadow.
#[derive(Debug, Default)]
pub struct FrameReading {
    /// Checksum of each version's commit.
    pub versions: BTreeMap<u64, u32>,
    pub cells: BTreeMap<String, CellReading>,
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
        replay(body, &mut live).map_err(|error| format!("{key}: {error}"))?;
    }
    for (path, named_bytes) in live {
        let body = objects.get(&format!("{location}/{path}"));
        if let Some(body) = body {
            let found = read_cell(body.clone()).map_err(|error| format!("{path}: {error}"))?;
            frame.rows.extend(found);
        }
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

fn replay(commit: &Bytes, live: &mut BTreeMap<String, u64>) -> Result<(), String> {
    let text = std::str::from_utf8(commit).map_err(|error| error.to_string())?;
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|error| format!("{error} in {line:?}")))
        .collect::<Result<_, _>>()?;
    if !lines.iter().any(|line| line.get("commitInfo").is_some()) {
        return Err("a commit without commitInfo: torn".into());
    }
    let path = |action: &Value| action["path"].as_str().map(str::to_string).ok_or("no path");
    for removed in lines.iter().filter_map(|line| line.get("remove")) {
        live.remove(&path(removed)?);
    }
    for added in lines.iter().filter_map(|line| line.get("add")) {
        let size = added["size"].as_u64().ok_or("an add without a size")?;
        if live.insert(path(added)?, size).is_some() {
            return Err(format!("{} is added twice", path(added)?));
        }
    }
    Ok(())
}

fn read_cell(body: Bytes) -> Result<Vec<Row>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build());
    let batches: Result<Vec<_>, _> = reader.map_err(|error| error.to_string())?.collect();
    rows::from_arrow(&batches.map_err(|error| error.to_string())?)
}
