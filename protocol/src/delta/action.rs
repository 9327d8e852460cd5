//! The actions of a commit, field by field as the protocol names them.
//!
//! Plain data: nothing here is checked. What comes out of storage is checked by
//! [`super::commit::decode_commit`] and by the checkpoint reader through [`Action::check`].

use super::string_map::StringMap;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub provider: String,
    #[serde(default)]
    pub options: StringMap,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub format: Format,
    pub schema_string: String,
    pub partition_columns: Vec<String>,
    #[serde(default)]
    pub configuration: StringMap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeletionVector {
    pub storage_type: String,
    pub path_or_inline_dv: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i32>,
    pub size_in_bytes: i32,
    pub cardinality: i64,
}

impl DeletionVector {
    /// The protocol's unique id, which tells two versions of one file apart.
    pub fn unique_id(&self) -> String {
        match self.offset {
            Some(offset) => format!("{}{}@{offset}", self.storage_type, self.path_or_inline_dv),
            None => format!("{}{}", self.storage_type, self.path_or_inline_dv),
        }
    }
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// URI-encoded, relative to the table's location.
    pub path: String,
    pub partition_values: StringMap,
    pub size: i64,
    pub modification_time: i64,
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<StringMap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_row_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_row_commit_version: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clustering_provider: Option<String>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<StringMap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVector>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    pub app_id: String,
    pub version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DomainMetadata {
    pub domain: String,
    pub configuration: String,
    pub removed: bool,
}

/// One line of a commit.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    CommitInfo(serde_json::Map<String, serde_json::Value>),
    Protocol(Protocol),
    MetaData(Metadata),
    Txn(Txn),
    DomainMetadata(DomainMetadata),
    Add(Add),
    Remove(Remove),
}

impl Action {
    /// Refuses values that no writer may have meant: negative sizes and counts, empty paths.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Action::Add(add) => {
                not_empty("add.path", &add.path)?;
                not_negative("add.size", Some(add.size))?;
                check_vector(add.deletion_vector.as_ref())
            }
            Action::Remove(remove) => {
                not_empty("remove.path", &remove.path)?;
                not_negative("remove.size", remove.size)?;
                check_vector(remove.deletion_vector.as_ref())
            }
            Action::Protocol(protocol) => {
                for (what, version) in [
                    ("protocol.minReaderVersion", protocol.min_reader_version),
                    ("protocol.minWriterVersion", protocol.min_writer_version),
                ] {
                    if version < 1 {
                        return Err(format!("{what} is {version}"));
                    }
                }
                Ok(())
            }
            Action::MetaData(metadata) => not_empty("metaData.id", &metadata.id),
            Action::Txn(txn) => not_empty("txn.appId", &txn.app_id),
            Action::CommitInfo(_) | Action::DomainMetadata(_) => Ok(()),
        }
    }
}

fn not_empty(what: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        Err(format!("{what} is empty"))
    } else {
        Ok(())
    }
}

fn not_negative(what: &str, number: Option<i64>) -> Result<(), String> {
    match number {
        Some(number) if number < 0 => Err(format!("{what} is {number}")),
        _ => Ok(()),
    }
}

fn check_vector(vector: Option<&DeletionVector>) -> Result<(), String> {
    let Some(vector) = vector else { return Ok(()) };
    not_negative("deletionVector.offset", vector.offset.map(i64::from))?;
    not_negative(
        "deletionVector.sizeInBytes",
        Some(i64::from(vector.size_in_bytes)),
    )?;
    not_negative("deletionVector.cardinality", Some(vector.cardinality))
}
