//! One object of the storage as JSON, for people: `apiary-node inspect KEY`.
//!
//! Reads and never writes; starts no node. What is damaged is shown as far as it can be read, with
//! the reason, because a damaged object is what one inspects.

use apiary_engine::store::Meadow;
use apiary_engine::{Error, Result};
use apiary_protocol::envelope;
use bytes::Bytes;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde_json::{Value, json};

/// Bytes that are shown as they are of what cannot be read.
const RAW_BYTES_MAX: usize = 256;

pub(crate) async fn inspect(meadow: &Meadow, key: &str) -> Result<Value> {
    let key = key.trim_start_matches('/');
    let Some(bytes) = meadow.get(key).await? else {
        return Err(Error::NotFound {
            what: format!("object {key} in {}", meadow.label()),
        });
    };
    let (kind, content) = content_of(key, &bytes);
    Ok(json!({ "key": key, "size_bytes": bytes.len(), "kind": kind, "content": content }))
}

/// Pure: what the bytes under a key say.
fn content_of(key: &str, bytes: &Bytes) -> (&'static str, Value) {
    let file = key.rsplit('/').next().unwrap_or(key);
    if file.ends_with(".parquet") {
        let kind = if file.contains(".checkpoint") {
            "checkpoint"
        } else {
            "cell"
        };
        return (kind, footer(bytes));
    }
    if key.contains("/_delta_log/") && file.ends_with(".json") {
        return ("commit", json_lines(bytes));
    }
    let kind = match key {
        "apiary.json" => "manifest",
        key if key.starts_with("_registry/") => "registry",
        _ if file == "_last_checkpoint" => "last_checkpoint",
        _ => "object",
    };
    if kind == "last_checkpoint" {
        let hint = serde_json::from_slice(bytes);
        return (kind, hint.unwrap_or_else(|reason| damaged(bytes, &reason)));
    }
    (
        kind,
        envelope::inspect(bytes).unwrap_or_else(|reason| damaged(bytes, &reason)),
    )
}

fn json_lines(bytes: &[u8]) -> Value {
    let lines = bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty());
    lines
        .map(|line| serde_json::from_slice(line).unwrap_or_else(|reason| damaged(line, &reason)))
        .collect()
}

fn damaged(bytes: &[u8], reason: &dyn std::fmt::Display) -> Value {
    let shown = &bytes[..bytes.len().min(RAW_BYTES_MAX)];
    json!({ "unreadable": reason.to_string(), "starts_with": String::from_utf8_lossy(shown) })
}

fn footer(bytes: &Bytes) -> Value {
    match ParquetMetaDataReader::new().parse_and_finish(bytes) {
        Ok(metadata) => footer_json(&metadata),
        Err(reason) => json!({ "unreadable": reason.to_string() }),
    }
}

fn footer_json(metadata: &ParquetMetaData) -> Value {
    let file = metadata.file_metadata();
    let columns: Vec<Value> = match parquet_to_arrow_schema(file.schema_descr(), None) {
        Ok(schema) => schema
            .fields()
            .iter()
            .map(|field| {
                json!({
                    "name": field.name(),
                    "type": field.data_type().to_string(),
                    "nullable": field.is_nullable(),
                })
            })
            .collect(),
        Err(reason) => vec![json!({ "unreadable": reason.to_string() })],
    };
    let row_groups: Vec<Value> = metadata
        .row_groups()
        .iter()
        .map(|group| {
            json!({
                "rows": group.num_rows(),
                "compressed_bytes": group.compressed_size(),
                "uncompressed_bytes": group.total_byte_size(),
            })
        })
        .collect();
    json!({
        "rows": file.num_rows(),
        "created_by": file.created_by(),
        "columns": columns,
        "row_groups": row_groups,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_shown_line_by_line_and_a_torn_line_with_its_reason() {
        let bytes = Bytes::from_static(b"{\"protocol\":{}}\n{\"add\":{\"pa");
        let (kind, content) = content_of("h/b/f/_delta_log/00000000000000000001.json", &bytes);
        assert_eq!(kind, "commit");
        assert_eq!(content[0], json!({ "protocol": {} }));
        assert_eq!(content[1]["starts_with"], "{\"add\":{\"pa");
        assert!(content[1]["unreadable"].is_string());
    }

    #[test]
    fn bytes_that_are_no_object_of_ours_are_shown_as_they_begin() {
        let (_, content) = content_of("_swarm/bell", &Bytes::from_static(b"ding"));
        assert_eq!(content["starts_with"], "ding");
    }

    #[test]
    fn a_truncated_checkpoint_says_that_it_cannot_be_read() {
        let key = "f/_delta_log/00000000000000000100.checkpoint.parquet";
        let (kind, content) = content_of(key, &Bytes::from_static(b"PAR1"));
        assert_eq!(kind, "checkpoint");
        assert!(content["unreadable"].is_string());
    }
}
