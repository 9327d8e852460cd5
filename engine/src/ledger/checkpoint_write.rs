//! A snapshot as a checkpoint, and the hint that names it.
//!
//! The bytes depend on the snapshot alone: actions are sorted, retention is counted from the
//! snapshot's own timestamp. So two nodes that write the same checkpoint write the same object.
//! Tombstones whose retention is over are left out.

use super::{Ledger, Snapshot};
use crate::error::{Error, Result};
use apiary_protocol::delta::{Action, Add, Remove, crc32};
use apiary_protocol::keys;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Footer keys: how many bytes from the start are sealed, their checksum, the number of actions, and
/// the snapshot's timestamp, which no action carries.
pub(super) const SEALED_BYTES: &str = "apiary.sealedBytes";
pub(super) const CHECKSUM: &str = "apiary.crc32";
pub(super) const ACTION_COUNT: &str = "apiary.actionCount";
pub(super) const TIMESTAMP_MS: &str = "apiary.timestampMs";

/// Actions that are turned into one batch.
const CHUNK_ACTIONS: usize = 4096;

/// `_last_checkpoint`.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hint {
    pub version: u64,
    /// Number of actions.
    #[serde(default)]
    pub size: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_in_bytes: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_of_add_files: Option<i64>,
}

impl Ledger {
    pub(super) async fn write_checkpoint(&self, snapshot: &Snapshot) -> Result<()> {
        let key = keys::checkpoint(&self.location, snapshot.version);
        let owned = snapshot.clone();
        let encoded = self.host.blocking.call(move || encode(&owned)).await;
        let encoded = encoded.map_err(|source| Error::Io {
            path: key.clone(),
            source,
        })?;
        let (bytes, action_count) = encoded.map_err(|source| Error::Other {
            what: format!("encoding {key}"),
            source,
        })?;
        let hint = Hint {
            version: snapshot.version,
            size: action_count,
            size_in_bytes: i64::try_from(bytes.len()).ok(),
            num_of_add_files: i64::try_from(snapshot.cell_count()).ok(),
        };
        self.meadow.put(&key, bytes.into()).await?;
        // A hint that is older than the one before would only make readers read more.
        if self
            .read_hint()
            .await?
            .is_some_and(|known| known.version >= hint.version)
        {
            return Ok(());
        }
        let body = serde_json::to_vec(&hint).map_err(|error| Error::Bug(error.to_string()))?;
        self.meadow
            .put(&keys::last_checkpoint(&self.location), body.into())
            .await
    }
}

type EncodeError = Box<dyn std::error::Error + Send + Sync>;

/// The checkpoint's bytes and its number of actions.
pub(super) fn encode(snapshot: &Snapshot) -> Result<(Vec<u8>, i64), EncodeError> {
    let schema = schema();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))?;
    let mut decoder = arrow::json::ReaderBuilder::new(schema)
        .with_batch_size(CHUNK_ACTIONS)
        .build_decoder()?;
    let mut actions = actions(snapshot);
    let mut count = 0;
    loop {
        let chunk: Vec<Action> = actions.by_ref().take(CHUNK_ACTIONS).collect();
        if chunk.is_empty() {
            break;
        }
        count += chunk.len();
        decoder.serialize(&chunk)?;
        if let Some(batch) = decoder.flush()? {
            writer.write(&batch)?;
        }
    }
    writer.flush()?;
    writer.sync()?;
    let sealed = writer.inner();
    let seal = [
        (SEALED_BYTES, sealed.len().to_string()),
        (CHECKSUM, crc32(sealed).to_string()),
        (ACTION_COUNT, count.to_string()),
        (TIMESTAMP_MS, snapshot.timestamp_ms.to_string()),
    ];
    for (key, value) in seal {
        writer.append_key_value_metadata(KeyValue::new(key.to_string(), value));
    }
    Ok((writer.into_inner()?, i64::try_from(count)?))
}

/// Everything that a reader of this version needs, in a fixed order.
fn actions(snapshot: &Snapshot) -> impl Iterator<Item = Action> {
    let head = [
        Action::Protocol(snapshot.protocol.clone()),
        Action::MetaData((*snapshot.metadata).clone()),
    ];
    let txns = snapshot.txns.values().map(|txn| Action::Txn(txn.clone()));
    let domains = snapshot
        .domains
        .values()
        .map(|domain| Action::DomainMetadata(domain.clone()));
    let removes = snapshot.retained_tombstones().map(|tombstone| {
        Action::Remove(Remove {
            data_change: false,
            ..tombstone.remove.clone()
        })
    });
    let adds = snapshot.cells().map(|cell| {
        Action::Add(Add {
            data_change: false,
            ..cell.add()
        })
    });
    head.into_iter()
        .chain(txns)
        .chain(domains)
        .chain(removes)
        .chain(adds)
}

fn schema() -> SchemaRef {
    use DataType::{Boolean, Int32, Int64, Utf8};
    let vector = || {
        structure(vec![
            required("storageType", Utf8),
            required("pathOrInlineDv", Utf8),
            optional("offset", Int32),
            required("sizeInBytes", Int32),
            required("cardinality", Int64),
        ])
    };
    let txn = vec![
        required("appId", Utf8),
        required("version", Int64),
        optional("lastUpdated", Int64),
    ];
    let add = vec![
        required("path", Utf8),
        required("partitionValues", map()),
        required("size", Int64),
        required("modificationTime", Int64),
        required("dataChange", Boolean),
        optional("stats", Utf8),
        optional("tags", map()),
        optional("deletionVector", vector()),
        optional("baseRowId", Int64),
        optional("defaultRowCommitVersion", Int64),
        optional("clusteringProvider", Utf8),
    ];
    let remove = vec![
        required("path", Utf8),
        optional("deletionTimestamp", Int64),
        required("dataChange", Boolean),
        optional("extendedFileMetadata", Boolean),
        optional("partitionValues", map()),
        optional("size", Int64),
        optional("deletionVector", vector()),
    ];
    let format = vec![required("provider", Utf8), optional("options", map())];
    let metadata = vec![
        required("id", Utf8),
        optional("name", Utf8),
        optional("description", Utf8),
        required("format", structure(format)),
        required("schemaString", Utf8),
        required("partitionColumns", list()),
        optional("configuration", map()),
        optional("createdTime", Int64),
    ];
    let protocol = vec![
        required("minReaderVersion", Int32),
        required("minWriterVersion", Int32),
        optional("readerFeatures", list()),
        optional("writerFeatures", list()),
    ];
    let domain = vec![
        required("domain", Utf8),
        required("configuration", Utf8),
        required("removed", Boolean),
    ];
    Arc::new(Schema::new(vec![
        optional("txn", structure(txn)),
        optional("add", structure(add)),
        optional("remove", structure(remove)),
        optional("metaData", structure(metadata)),
        optional("protocol", structure(protocol)),
        optional("domainMetadata", structure(domain)),
    ]))
}

fn required(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

fn optional(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn structure(fields: Vec<Field>) -> DataType {
    DataType::Struct(Fields::from(fields))
}

fn map() -> DataType {
    let entry = vec![
        required("key", DataType::Utf8),
        optional("value", DataType::Utf8),
    ];
    DataType::Map(Arc::new(required("key_value", structure(entry))), false)
}

fn list() -> DataType {
    DataType::List(Arc::new(optional("element", DataType::Utf8)))
}
