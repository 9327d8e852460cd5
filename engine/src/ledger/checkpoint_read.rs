//! A checkpoint into a replay.
//!
//! Checkpoints of ours carry a checksum over their pages in the footer; those of others are as good
//! as Parquet makes them. Features are checked by name before a single add is used, because a
//! feature may say that the adds are elsewhere. The writer's Arrow schema is ignored: it would choose
//! our types. Runs on a blocking thread.

use super::checkpoint_write::{ACTION_COUNT, CHECKSUM, SEALED_BYTES, TIMESTAMP_MS};
use super::replay::Replay;
use crate::error::{Error, Result};
use apiary_protocol::delta::features::check_readable;
use apiary_protocol::delta::{
    Action, Add, DeletionVector, DomainMetadata, Format, Metadata, Protocol, Remove, StringMap,
    Txn, crc32,
};
use arrow::array::{
    Array, AsArray, BooleanArray, Int32Array, Int64Array, ListArray, MapArray, RecordBatch,
    StringArray, StructArray,
};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

const BATCH_ROWS: usize = 4096;

/// More actions than any checkpoint that fits a small machine.
const ACTIONS_MAX: i64 = 100_000_000;

/// Reads all parts (key, bytes) of the checkpoint of a version into a fresh replay.
pub(super) fn read_checkpoint(
    location: &str,
    version: u64,
    parts: &[(String, Bytes)],
) -> Result<Replay> {
    // The Parquet reader has been known to panic on bytes that are not Parquet.
    match catch_unwind(AssertUnwindSafe(|| read_parts(location, version, parts))) {
        Ok(result) => result,
        Err(_) => {
            let key = parts.first().map_or(location, |(key, _)| key);
            Err(Error::corrupt(key, "it cannot be decoded"))
        }
    }
}

fn read_parts(location: &str, version: u64, parts: &[(String, Bytes)]) -> Result<Replay> {
    let mut replay = Replay::new(location);
    let mut head = Vec::new();
    let mut announced = None;
    let mut found = 0;
    for (key, bytes) in parts {
        let seal = check_seal(bytes).map_err(|reason| Error::corrupt(key, reason))?;
        announced = seal.action_count.or(announced);
        seal.timestamp_ms
            .into_iter()
            .for_each(|timestamp| replay.raise_timestamp(timestamp));
        for_each_batch(bytes, &["protocol", "metaData"], |batch| {
            read_head(batch, &mut head)
        })
        .map_err(|reason| Error::corrupt(key, reason))?;
    }
    let first_key = parts.first().map_or(location, |(key, _)| key);
    check_features(location, &head).map_err(|error| match error {
        Some(unsupported) => unsupported,
        None => Error::corrupt(first_key, "it lacks a protocol or a metaData action"),
    })?;
    found += head.len();
    let applied = replay.apply_checkpoint(version, head);
    applied.map_err(|reason| Error::corrupt(first_key, reason))?;
    for (key, bytes) in parts {
        for_each_batch(
            bytes,
            &["txn", "domainMetadata", "remove", "add"],
            |batch| {
                let actions = read_body(batch)?;
                found += actions.len();
                replay.apply_checkpoint(version, actions)
            },
        )
        .map_err(|reason| Error::corrupt(key, reason))?;
    }
    match announced {
        Some(announced) if announced != found as u64 => Err(Error::corrupt(
            first_key,
            format!("it announces {announced} actions and holds {found}"),
        )),
        _ => Ok(replay),
    }
}

/// `Err(None)` when there is nothing to check.
fn check_features(location: &str, head: &[Action]) -> Result<(), Option<Error>> {
    let protocol = head.iter().find_map(|action| match action {
        Action::Protocol(protocol) => Some(protocol),
        _ => None,
    });
    let metadata = head.iter().find_map(|action| match action {
        Action::MetaData(metadata) => Some(metadata),
        _ => None,
    });
    let (Some(protocol), Some(metadata)) = (protocol, metadata) else {
        return Err(None);
    };
    check_readable(protocol, metadata)
        .map_err(|error| Some(Error::Unsupported(format!("{error} (table {location})"))))
}

#[derive(Default)]
struct Seal {
    action_count: Option<u64>,
    timestamp_ms: Option<i64>,
}

/// Verifies the checksum of a checkpoint of ours; one without a seal passes.
fn check_seal(bytes: &Bytes) -> Result<Seal, String> {
    let builder = open(bytes)?;
    if builder.metadata().file_metadata().num_rows() > ACTIONS_MAX {
        return Err("it claims more actions than can be".into());
    }
    let pairs = builder.metadata().file_metadata().key_value_metadata();
    let values: BTreeMap<&str, &str> = pairs
        .into_iter()
        .flatten()
        .filter_map(|pair| Some((pair.key.as_str(), pair.value.as_deref()?)))
        .collect();
    if !values.keys().any(|key| key.starts_with("apiary.")) {
        return Ok(Seal::default());
    }
    let number = |key: &str| values.get(key).and_then(|value| value.parse::<i64>().ok());
    let (Some(sealed_bytes), Some(checksum), Some(count), Some(timestamp_ms)) = (
        number(SEALED_BYTES),
        number(CHECKSUM),
        number(ACTION_COUNT),
        number(TIMESTAMP_MS),
    ) else {
        return Err("half of its seal is missing".into());
    };
    let sealed = usize::try_from(sealed_bytes)
        .ok()
        .and_then(|end| bytes.get(..end));
    if sealed.map(|sealed| i64::from(crc32(sealed))) != Some(checksum) {
        return Err("its pages do not match its checksum".into());
    }
    let action_count = u64::try_from(count).map_err(|_| "its action count is negative")?;
    Ok(Seal {
        action_count: Some(action_count),
        timestamp_ms: Some(timestamp_ms),
    })
}

fn open(bytes: &Bytes) -> Result<ParquetRecordBatchReaderBuilder<Bytes>, String> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options)
        .map_err(|error| error.to_string())
}

fn for_each_batch(
    bytes: &Bytes,
    columns: &[&str],
    mut visit: impl FnMut(&RecordBatch) -> Result<(), String>,
) -> Result<(), String> {
    let builder = open(bytes)?;
    let schema = builder.parquet_schema();
    let leaves = (0..schema.num_columns()).filter(|index| {
        let column = schema.column(*index);
        let path = column.path().parts();
        // The `_parsed` twins repeat what the maps and texts beside them say.
        let is_twin = path.get(1).is_some_and(|name| name.ends_with("_parsed"));
        path.first()
            .is_some_and(|name| columns.contains(&name.as_str()))
            && !is_twin
    });
    let mask = ProjectionMask::leaves(schema, leaves);
    let reader = builder
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build();
    for batch in reader.map_err(|error| error.to_string())? {
        visit(&batch.map_err(|error| error.to_string())?)?;
    }
    Ok(())
}

fn read_head(batch: &RecordBatch, actions: &mut Vec<Action>) -> Result<(), String> {
    if let Some(rows) = Rows::of(batch, "protocol")? {
        let (reader, writer) = (
            rows.longs("minReaderVersion")?,
            rows.longs("minWriterVersion")?,
        );
        let reader_features = rows.lists("readerFeatures")?;
        let writer_features = rows.lists("writerFeatures")?;
        for row in rows.valid() {
            let version = |longs: &Longs<'_>, name| {
                let version = i32::try_from(rows.need(longs.get(row), name)?);
                version.map_err(|_| format!("protocol.{name} is out of range"))
            };
            actions.push(Action::Protocol(Protocol {
                min_reader_version: version(&reader, "minReaderVersion")?,
                min_writer_version: version(&writer, "minWriterVersion")?,
                reader_features: reader_features.get(row)?,
                writer_features: writer_features.get(row)?,
            }));
        }
    }
    if let Some(rows) = Rows::of(batch, "metaData")? {
        let (id, name) = (rows.texts("id")?, rows.texts("name")?);
        let (description, schema) = (rows.texts("description")?, rows.texts("schemaString")?);
        let (partitions, configuration) =
            (rows.lists("partitionColumns")?, rows.maps("configuration")?);
        let created_time = rows.longs("createdTime")?;
        let format = rows.inner("format", "metaData.format")?;
        for row in rows.valid() {
            let format = match &format {
                Some(format) => Format {
                    provider: format.need(format.texts("provider")?.text(row), "provider")?,
                    options: format.maps("options")?.get(row)?.unwrap_or_default(),
                },
                None => Format {
                    provider: "parquet".into(),
                    options: StringMap::new(),
                },
            };
            actions.push(Action::MetaData(Metadata {
                id: rows.need(id.text(row), "id")?,
                name: name.text(row),
                description: description.text(row),
                format,
                schema_string: rows.need(schema.text(row), "schemaString")?,
                partition_columns: partitions.get(row)?.unwrap_or_default(),
                configuration: configuration.get(row)?.unwrap_or_default(),
                created_time: created_time.get(row),
            }));
        }
    }
    actions.iter().try_for_each(Action::check)
}

fn read_body(batch: &RecordBatch) -> Result<Vec<Action>, String> {
    let mut actions = Vec::new();
    if let Some(rows) = Rows::of(batch, "txn")? {
        let (app_id, version) = (rows.texts("appId")?, rows.longs("version")?);
        let last_updated = rows.longs("lastUpdated")?;
        for row in rows.valid() {
            actions.push(Action::Txn(Txn {
                app_id: rows.need(app_id.text(row), "appId")?,
                version: rows.need(version.get(row), "version")?,
                last_updated: last_updated.get(row),
            }));
        }
    }
    if let Some(rows) = Rows::of(batch, "domainMetadata")? {
        let (domain, configuration) = (rows.texts("domain")?, rows.texts("configuration")?);
        let removed = rows.flags("removed")?;
        for row in rows.valid() {
            actions.push(Action::DomainMetadata(DomainMetadata {
                domain: rows.need(domain.text(row), "domain")?,
                configuration: configuration.text(row).unwrap_or_default(),
                removed: removed.get(row).unwrap_or(false),
            }));
        }
    }
    read_removes(batch, &mut actions)?;
    read_adds(batch, &mut actions)?;
    actions.iter().try_for_each(Action::check)?;
    Ok(actions)
}

fn read_removes(batch: &RecordBatch, actions: &mut Vec<Action>) -> Result<(), String> {
    let Some(rows) = Rows::of(batch, "remove")? else {
        return Ok(());
    };
    let (path, deleted_at) = (rows.texts("path")?, rows.longs("deletionTimestamp")?);
    let (extended, size) = (rows.flags("extendedFileMetadata")?, rows.longs("size")?);
    let (partition_values, vectors) = (rows.maps("partitionValues")?, Vectors::of(&rows)?);
    for row in rows.valid() {
        actions.push(Action::Remove(Remove {
            path: rows.need(path.text(row), "path")?,
            deletion_timestamp: deleted_at.get(row),
            data_change: false,
            extended_file_metadata: extended.get(row),
            partition_values: partition_values.get(row)?,
            size: size.get(row),
            deletion_vector: vectors.get(row)?,
        }));
    }
    Ok(())
}

fn read_adds(batch: &RecordBatch, actions: &mut Vec<Action>) -> Result<(), String> {
    let Some(rows) = Rows::of(batch, "add")? else {
        return Ok(());
    };
    let (path, size) = (rows.texts("path")?, rows.longs("size")?);
    let (modified, stats) = (rows.longs("modificationTime")?, rows.texts("stats")?);
    let (partition_values, tags) = (rows.maps("partitionValues")?, rows.maps("tags")?);
    let (row_id, row_version) = (
        rows.longs("baseRowId")?,
        rows.longs("defaultRowCommitVersion")?,
    );
    let (clustering, vectors) = (rows.texts("clusteringProvider")?, Vectors::of(&rows)?);
    for row in rows.valid() {
        actions.push(Action::Add(Add {
            path: rows.need(path.text(row), "path")?,
            partition_values: partition_values.get(row)?.unwrap_or_default(),
            size: rows.need(size.get(row), "size")?,
            modification_time: modified.get(row).unwrap_or(0),
            data_change: false,
            stats: stats.text(row),
            tags: tags.get(row)?,
            deletion_vector: vectors.get(row)?,
            base_row_id: row_id.get(row),
            default_row_commit_version: row_version.get(row),
            clustering_provider: clustering.text(row),
        }));
    }
    Ok(())
}

/// A struct column. An absent column reads as nulls; one of another type is an error, because
/// overlooking a deletion vector would bring deleted rows back.
struct Rows<'a> {
    array: &'a StructArray,
    kind: &'static str,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch, kind: &'static str) -> Result<Option<Self>, String> {
        match batch.column_by_name(kind) {
            Some(column) => {
                let array = column
                    .as_struct_opt()
                    .ok_or(format!("{kind} is no struct"))?;
                Ok(Some(Self { array, kind }))
            }
            None => Ok(None),
        }
    }

    fn inner(&self, name: &str, kind: &'static str) -> Result<Option<Rows<'a>>, String> {
        let array = self.typed(name, |column| column.as_struct_opt())?;
        Ok(array.map(|array| Rows { array, kind }))
    }

    fn valid(&self) -> impl Iterator<Item = usize> + 'a {
        let array = self.array;
        (0..array.len()).filter(move |row| array.is_valid(*row))
    }

    fn need<T>(&self, value: Option<T>, name: &str) -> Result<T, String> {
        value.ok_or_else(|| format!("{}.{name} is missing", self.kind))
    }

    fn typed<T>(
        &self,
        name: &str,
        cast: impl FnOnce(&'a dyn Array) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.array.column_by_name(name) {
            Some(column) => match cast(column.as_ref()) {
                Some(array) => Ok(Some(array)),
                None => Err(format!("{}.{name} has an unexpected type", self.kind)),
            },
            None => Ok(None),
        }
    }

    fn texts(&self, name: &str) -> Result<Texts<'a>, String> {
        Ok(Texts(self.typed(name, |column| column.as_string_opt())?))
    }

    fn flags(&self, name: &str) -> Result<Flags<'a>, String> {
        Ok(Flags(self.typed(name, |column| column.as_boolean_opt())?))
    }

    fn longs(&self, name: &str) -> Result<Longs<'a>, String> {
        let longs = self.typed(name, |column| {
            let long = column.as_primitive_opt().map(Longs::Long);
            long.or_else(|| column.as_primitive_opt().map(Longs::Int))
        })?;
        Ok(longs.unwrap_or(Longs::Absent))
    }

    fn maps(&self, name: &str) -> Result<Maps<'a>, String> {
        Ok(Maps(self.typed(name, |column| column.as_map_opt())?))
    }

    fn lists(&self, name: &str) -> Result<Lists<'a>, String> {
        Ok(Lists(self.typed(name, |column| column.as_list_opt())?))
    }
}

struct Texts<'a>(Option<&'a StringArray>);

impl Texts<'_> {
    fn text(&self, row: usize) -> Option<String> {
        self.0
            .filter(|array| array.is_valid(row))
            .map(|array| array.value(row).to_string())
    }
}

struct Flags<'a>(Option<&'a BooleanArray>);

impl Flags<'_> {
    fn get(&self, row: usize) -> Option<bool> {
        self.0
            .filter(|array| array.is_valid(row))
            .map(|array| array.value(row))
    }
}

/// Writers differ in the width of small numbers.
enum Longs<'a> {
    Absent,
    Long(&'a Int64Array),
    Int(&'a Int32Array),
}

impl Longs<'_> {
    fn get(&self, row: usize) -> Option<i64> {
        match self {
            Longs::Absent => None,
            Longs::Long(array) => array.is_valid(row).then(|| array.value(row)),
            Longs::Int(array) => array.is_valid(row).then(|| i64::from(array.value(row))),
        }
    }
}

struct Maps<'a>(Option<&'a MapArray>);

impl Maps<'_> {
    fn get(&self, row: usize) -> Result<Option<StringMap>, String> {
        let Some(map) = self.0.filter(|map| map.is_valid(row)) else {
            return Ok(None);
        };
        let (keys, values) = (
            map.keys().as_string_opt::<i32>(),
            map.values().as_string_opt::<i32>(),
        );
        let (Some(keys), Some(values)) = (keys, values) else {
            return Err("a map does not hold texts".into());
        };
        let offsets = map.value_offsets();
        let entries = offsets[row] as usize..offsets[row + 1] as usize;
        let pairs = entries.map(|entry| {
            let value = values
                .is_valid(entry)
                .then(|| values.value(entry).to_string());
            (keys.value(entry), value)
        });
        Ok(Some(pairs.collect()))
    }
}

struct Lists<'a>(Option<&'a ListArray>);

impl Lists<'_> {
    fn get(&self, row: usize) -> Result<Option<Vec<String>>, String> {
        let Some(list) = self.0.filter(|list| list.is_valid(row)) else {
            return Ok(None);
        };
        let values = list.value(row);
        let texts = values
            .as_string_opt::<i32>()
            .ok_or("a list does not hold texts")?;
        Ok(Some(texts.iter().flatten().map(str::to_string).collect()))
    }
}

/// The `deletionVector` of adds or removes.
struct Vectors<'a> {
    rows: Option<Rows<'a>>,
}

impl<'a> Vectors<'a> {
    fn of(parent: &Rows<'a>) -> Result<Self, String> {
        Ok(Self {
            rows: parent.inner("deletionVector", "deletionVector")?,
        })
    }

    fn get(&self, row: usize) -> Result<Option<DeletionVector>, String> {
        let Some(rows) = self.rows.as_ref().filter(|rows| rows.array.is_valid(row)) else {
            return Ok(None);
        };
        let int = |name: &str| -> Result<Option<i32>, String> {
            let number = rows.longs(name)?.get(row).map(i32::try_from).transpose();
            number.map_err(|_| format!("deletionVector.{name} is out of range"))
        };
        Ok(Some(DeletionVector {
            storage_type: rows.need(rows.texts("storageType")?.text(row), "storageType")?,
            path_or_inline_dv: rows
                .need(rows.texts("pathOrInlineDv")?.text(row), "pathOrInlineDv")?,
            offset: int("offset")?,
            size_in_bytes: rows.need(int("sizeInBytes")?, "sizeInBytes")?,
            cardinality: rows.need(rows.longs("cardinality")?.get(row), "cardinality")?,
        }))
    }
}
