//! Arrow schemas and Delta schemas, and what each frame's columns look like in both.
//!
//! Three views of the same columns: *logical* (what users see), *stored* (what a cell's Parquet file
//! holds), and the Delta schema in the ledger, which describes the stored types and carries the
//! logical ones that Delta lacks in field metadata. This module does no I/O and never touches data:
//! whoever reads a cell casts each stored column to its logical type.
//!
//! Invariants:
//! - `FrameSchema::new(s).to_schema_string()` read back by [`FrameSchema::from_metadata`] is the same
//!   `FrameSchema`.
//! - Stored fields are the logical ones in order, less the partition columns.
//! - Every logical and stored type is one that [`types::normalise`] can return (or its stored form).

mod delta;
pub mod types;

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use apiary_protocol::delta::{Metadata, Protocol};
use apiary_protocol::names::check_column;
use arrow::datatypes::{Field, FieldRef, Fields, Schema, SchemaRef};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The columns of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameSchema {
    /// What users see and write: all columns in order, partition columns among them, types restored
    /// (uint64, nanoseconds) from field metadata. Strings are `Utf8View` and binaries `BinaryView`,
    /// as DataFusion reads Parquet and plans `VARCHAR` by default.
    pub logical: SchemaRef,
    /// What a cell's Parquet file holds: without the partition columns, with the stored types.
    pub stored: SchemaRef,
    /// Names of the partition columns, in directory order.
    pub partition_columns: Vec<String>,
}

impl FrameSchema {
    /// Checks user columns for a new frame: names, types (others are refused by name), partitioning.
    ///
    /// Types are brought to the ones that frames have (see [`types::normalise`]); partition columns
    /// are found ignoring case and take the spelling of the schema.
    pub fn new(logical: SchemaRef, partition_columns: Vec<String>) -> Result<Self> {
        let mut fields = Vec::with_capacity(logical.fields().len());
        for field in logical.fields() {
            fields.push(types::normalise_field(field, field.name())?);
        }
        Self::assemble(fields, partition_columns)
    }

    /// What a ledger says. Types that this build cannot read are refused by name.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let fields = delta::parse_schema(&metadata.schema_string)?;
        Self::assemble(fields, metadata.partition_columns.clone())
    }

    /// `metaData.schemaString`.
    pub fn to_schema_string(&self) -> String {
        delta::schema_string(self.logical.fields())
    }

    /// The least protocol that these columns need (1/2, or 3/7 with `timestampNtz`).
    pub fn protocol(&self) -> Protocol {
        if self
            .logical
            .fields()
            .iter()
            .any(|field| types::has_naive_timestamp(field.data_type()))
        {
            let features = || Some(vec!["timestampNtz".to_string()]);
            return Protocol {
                min_reader_version: 3,
                min_writer_version: 7,
                reader_features: features(),
                writer_features: features(),
            };
        }
        Protocol {
            min_reader_version: 1,
            min_writer_version: 2,
            reader_features: None,
            writer_features: None,
        }
    }

    /// Whether a column, by its exact name, is a partition column.
    pub fn is_partition_column(&self, name: &str) -> bool {
        self.partition_columns
            .iter()
            .any(|partition| partition == name)
    }

    /// The logical fields of the partition columns, in directory order.
    pub fn partition_fields(&self) -> Vec<FieldRef> {
        self.partition_columns
            .iter()
            .filter_map(|name| self.logical.field_with_name(name).ok())
            .map(|field| Arc::new(field.clone()))
            .collect()
    }

    fn assemble(fields: Vec<Field>, partition_columns: Vec<String>) -> Result<Self> {
        let fields: Fields = fields.into();
        if fields.is_empty() {
            return Err(Error::rejected("a frame needs at least one column"));
        }
        check_names(&fields, "")?;
        let partition_columns = resolve_partitions(&fields, partition_columns)?;
        let stored: Fields = fields
            .iter()
            .filter(|field| !partition_columns.contains(field.name()))
            .map(|field| {
                Field::new(
                    field.name(),
                    types::stored(field.data_type()),
                    field.is_nullable(),
                )
            })
            .collect();
        Ok(Self {
            logical: Arc::new(Schema::new(fields)),
            stored: Arc::new(Schema::new(stored)),
            partition_columns,
        })
    }
}

/// Names of one level of a schema, and of the structs inside.
fn check_names(fields: &Fields, prefix: &str) -> Result<()> {
    let mut seen = BTreeSet::new();
    for field in fields {
        let name = field.name();
        let path = format!("{prefix}{name}");
        check_column(name, &path)?;
        if !seen.insert(name.to_lowercase()) {
            return Err(Error::rejected(format!(
                "column name {path:?} appears twice (names are compared ignoring case); rename one \
                 of them"
            )));
        }
        check_nested_names(field, &path)?;
    }
    Ok(())
}

fn check_nested_names(field: &Field, path: &str) -> Result<()> {
    use arrow::datatypes::DataType;
    match field.data_type() {
        DataType::Struct(fields) => check_names(fields, &format!("{path}.")),
        DataType::List(element) => check_nested_names(element, &format!("{path}.element")),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(entries) => entries.iter().try_for_each(|field| {
                check_nested_names(field, &format!("{path}.{}", field.name()))
            }),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn resolve_partitions(fields: &Fields, wanted: Vec<String>) -> Result<Vec<String>> {
    let mut resolved: Vec<String> = Vec::with_capacity(wanted.len());
    for name in wanted {
        let field = fields
            .iter()
            .find(|field| *field.name() == name)
            .or_else(|| {
                fields
                    .iter()
                    .find(|field| field.name().to_lowercase() == name.to_lowercase())
            })
            .ok_or_else(|| {
                Error::rejected(format!(
                    "partition column {name:?} is not a column of the frame"
                ))
            })?;
        if field.data_type().is_nested() {
            return Err(Error::rejected(format!(
                "partition column {name:?} is {}; partition by a column of a primitive type",
                field.data_type()
            )));
        }
        if resolved.contains(field.name()) {
            return Err(Error::rejected(format!(
                "partition column {name:?} is named twice"
            )));
        }
        resolved.push(field.name().clone());
    }
    if resolved.len() == fields.len() {
        return Err(Error::rejected(
            "every column is a partition column; leave at least one column to store",
        ));
    }
    Ok(resolved)
}
