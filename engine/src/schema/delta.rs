//! Delta's schema serialisation, both ways.
//!
//! Source: the Delta protocol, "Schema Serialization Format". Bytes come from a ledger, so nesting
//! and numbers are bounded (serde_json stops at a depth of 128).

use super::types;
use crate::error::{Error, Result};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Field metadata that names a logical type Delta lacks. Types inside arrays and maps, which have no
/// metadata of their own, are named on the field around them: `apiary.type.element`,
/// `apiary.type.key`, `apiary.type.value.element`.
pub const TYPE_KEY: &str = "apiary.type";

pub fn schema_string(fields: &Fields) -> String {
    struct_type(fields).to_string()
}

fn struct_type(fields: &Fields) -> Value {
    let fields: Vec<Value> = fields.iter().map(|field| struct_field(field)).collect();
    json!({"type": "struct", "fields": fields})
}

fn struct_field(field: &Field) -> Value {
    let mut metadata: Map<String, Value> = Map::new();
    let mut ours: Vec<_> = field.metadata().iter().collect();
    ours.sort();
    for (key, value) in ours {
        metadata.insert(key.clone(), Value::String(value.clone()));
    }
    let data_type = type_value(field.data_type(), TYPE_KEY, &mut metadata);
    json!({
        "name": field.name(),
        "type": data_type,
        "nullable": field.is_nullable(),
        "metadata": metadata,
    })
}

/// The Delta type of a logical type; what Delta lacks is noted under `key` in `notes`.
fn type_value(logical: &DataType, key: &str, notes: &mut Map<String, Value>) -> Value {
    let mut note = |name: &str| {
        notes.insert(key.to_string(), Value::String(name.to_string()));
    };
    Value::String(match logical {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "byte".into(),
        DataType::Int16 => "short".into(),
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "long".into(),
        DataType::UInt8 => {
            note("uint8");
            "short".into()
        }
        DataType::UInt16 => {
            note("uint16");
            "integer".into()
        }
        DataType::UInt32 => {
            note("uint32");
            "long".into()
        }
        DataType::UInt64 => {
            note("uint64");
            "decimal(20,0)".into()
        }
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Date32 => "date".into(),
        DataType::Timestamp(unit, zone) => {
            if *unit == TimeUnit::Nanosecond {
                note("timestamp_ns");
            }
            if zone.is_some() {
                "timestamp".into()
            } else {
                "timestamp_ntz".into()
            }
        }
        DataType::BinaryView => "binary".into(),
        DataType::List(element) => {
            return json!({
                "type": "array",
                "elementType": type_value(element.data_type(), &format!("{key}.element"), notes),
                "containsNull": element.is_nullable(),
            });
        }
        DataType::Map(entries, _) if types::map_fields(entries).is_some() => {
            let Some((map_key, map_value)) = types::map_fields(entries) else {
                return Value::Null;
            };
            return json!({
                "type": "map",
                "keyType": type_value(map_key.data_type(), &format!("{key}.key"), notes),
                "valueType": type_value(map_value.data_type(), &format!("{key}.value"), notes),
                "valueContainsNull": map_value.is_nullable(),
            });
        }
        DataType::Struct(fields) => return struct_type(fields),
        // `normalise` lets nothing else through but strings.
        _ => "string".into(),
    })
}

/// The logical fields of a `metaData.schemaString`.
pub fn parse_schema(text: &str) -> Result<Vec<Field>> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| corrupt(format!("not JSON: {error}")))?;
    if value.get("type").and_then(Value::as_str) != Some("struct") {
        return Err(corrupt("its root is not a struct"));
    }
    parse_fields(&value, "")
}

fn corrupt(reason: impl ToString) -> Error {
    Error::corrupt("metaData.schemaString", reason)
}

fn parse_fields(value: &Value, prefix: &str) -> Result<Vec<Field>> {
    let fields = value
        .get("fields")
        .and_then(Value::as_array)
        .ok_or_else(|| corrupt(format!("struct {prefix:?} has no fields")))?;
    fields
        .iter()
        .map(|field| parse_field(field, prefix))
        .collect()
}

fn parse_field(value: &Value, prefix: &str) -> Result<Field> {
    let name = value
        .get("name")
        .and_then(Value::as_str)
        .ok_or_else(|| corrupt(format!("a field of {prefix:?} has no name")))?;
    let path = format!("{prefix}{name}");
    let data_type = value
        .get("type")
        .ok_or_else(|| corrupt(format!("field {path:?} has no type")))?;
    let nullable = value
        .get("nullable")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let none = Map::new();
    let notes = value
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let data_type = parse_type(data_type, &path, TYPE_KEY, notes)?;
    let metadata: HashMap<String, String> = notes
        .iter()
        .filter(|(key, _)| !key.starts_with(TYPE_KEY))
        .map(|(key, value)| match value {
            Value::String(text) => (key.clone(), text.clone()),
            other => (key.clone(), other.to_string()),
        })
        .collect();
    Ok(Field::new(name, data_type, nullable).with_metadata(metadata))
}

fn parse_type(
    value: &Value,
    path: &str,
    key: &str,
    notes: &Map<String, Value>,
) -> Result<DataType> {
    if let Some(name) = value.as_str() {
        let stored = parse_primitive(name, path)?;
        return Ok(restore(stored, notes.get(key).and_then(Value::as_str)));
    }
    let part = |name: &str| {
        value
            .get(name)
            .ok_or_else(|| corrupt(format!("the type of {path:?} has no {name}")))
    };
    let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(true);
    match value.get("type").and_then(Value::as_str) {
        Some("struct") => {
            let fields = parse_fields(value, &format!("{path}."))?;
            if fields.is_empty() {
                return Err(unsupported("a struct without fields", path));
            }
            Ok(DataType::Struct(fields.into()))
        }
        Some("array") => {
            let element = parse_type(
                part("elementType")?,
                &format!("{path}.element"),
                &format!("{key}.element"),
                notes,
            )?;
            Ok(types::list(element, flag("containsNull")))
        }
        Some("map") => {
            let nested = |what: &str, name: &str| {
                parse_type(
                    part(name)?,
                    &format!("{path}.{what}"),
                    &format!("{key}.{what}"),
                    notes,
                )
            };
            Ok(types::map(
                nested("key", "keyType")?,
                nested("value", "valueType")?,
                flag("valueContainsNull"),
            ))
        }
        Some(other) => Err(unsupported(other, path)),
        None => Err(corrupt(format!(
            "the type of {path:?} is neither a name nor an object"
        ))),
    }
}

fn parse_primitive(name: &str, path: &str) -> Result<DataType> {
    Ok(match name {
        "string" => DataType::Utf8View,
        "long" => DataType::Int64,
        "integer" => DataType::Int32,
        "short" => DataType::Int16,
        "byte" => DataType::Int8,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "binary" => DataType::BinaryView,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some(types::UTC.into())),
        "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "decimal" => DataType::Decimal128(10, 0),
        other => match parse_decimal(other) {
            Some(decimal) => decimal,
            None => return Err(unsupported(other, path)),
        },
    })
}

fn parse_decimal(name: &str) -> Option<DataType> {
    let (precision, scale) = name
        .strip_prefix("decimal(")?
        .strip_suffix(')')?
        .split_once(',')?;
    let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let valid = (1..=types::DECIMAL_PRECISION_MAX).contains(&precision)
        && scale >= 0
        && scale as u8 <= precision;
    valid.then_some(DataType::Decimal128(precision, scale))
}

fn unsupported(name: &str, path: &str) -> Error {
    Error::Unsupported(format!("type {name} of column {path:?}"))
}

/// The logical type that a note names. A note that does not go with the stored type is left aside:
/// a foreign writer may have changed the column and kept the note.
fn restore(stored: DataType, note: Option<&str>) -> DataType {
    match (note, &stored) {
        (Some("uint8"), DataType::Int16) => DataType::UInt8,
        (Some("uint16"), DataType::Int32) => DataType::UInt16,
        (Some("uint32"), DataType::Int64) => DataType::UInt32,
        (Some("uint64"), stored) if *stored == types::UINT64_STORED => DataType::UInt64,
        (Some("timestamp_ns"), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            DataType::Timestamp(TimeUnit::Nanosecond, zone.clone())
        }
        _ => stored,
    }
}
