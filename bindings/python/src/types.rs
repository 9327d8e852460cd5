//! Column types in words, as `create_frame` takes them and `get_frame` shows them.

use apiary::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;

/// Field metadata with a column as its maker wrote it, in JSON, so that it can be shown like that.
pub const DECLARED_KEY: &str = "apiary.declared";

/// A column as Python gives it: name, type in words, whether it may be null, and as it was written.
pub type Declared = (String, String, bool, String);

/// Columns as an Arrow schema; the reason when one has no type that we know.
pub fn schema_of(columns: Vec<Declared>) -> Result<SchemaRef, String> {
    let fields = columns.into_iter().map(|(name, kind, nullable, written)| {
        let data_type = of_word(&kind).ok_or_else(|| {
            format!("column {name:?} has the unknown type {kind:?}; known are {KNOWN}")
        })?;
        let metadata = [(DECLARED_KEY.to_string(), written)];
        Ok(Field::new(name, data_type, nullable).with_metadata(metadata.into()))
    });
    let fields = fields.collect::<Result<Vec<_>, String>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

const KNOWN: &str = "int8 to int64, uint8 to uint64, float32, float64, string, bool, date, timestamp, \
                     timestamptz, binary, decimal(p,s); a pyarrow schema can have others";

fn of_word(word: &str) -> Option<DataType> {
    let word = word.trim().to_ascii_lowercase();
    Some(match word.as_str() {
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float" | "float32" => DataType::Float32,
        "double" | "float64" => DataType::Float64,
        "string" | "utf8" => DataType::Utf8View,
        "bool" | "boolean" => DataType::Boolean,
        "date" | "date32" => DataType::Date32,
        "timestamp" | "datetime" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "binary" => DataType::BinaryView,
        _ => return decimal(&word),
    })
}

fn decimal(word: &str) -> Option<DataType> {
    let inner = word
        .strip_prefix("decimal")?
        .trim_start_matches("128")
        .trim();
    let inner = inner.strip_prefix('(')?.strip_suffix(')')?;
    let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
    let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    Some(DataType::Decimal128(precision, scale))
}

/// A type in words; in Arrow's own where there is no word for it.
pub fn word_of(data_type: &DataType) -> String {
    match data_type {
        DataType::Int8 => "int8".into(),
        DataType::Int16 => "int16".into(),
        DataType::Int32 => "int32".into(),
        DataType::Int64 => "int64".into(),
        DataType::UInt8 => "uint8".into(),
        DataType::UInt16 => "uint16".into(),
        DataType::UInt32 => "uint32".into(),
        DataType::UInt64 => "uint64".into(),
        DataType::Float32 => "float32".into(),
        DataType::Float64 => "float64".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".into(),
        DataType::Boolean => "bool".into(),
        DataType::Date32 => "date".into(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp".into(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamptz".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        other => other.to_string(),
    }
}

/// The types that every Arrow library computes with: views of strings and bytes become plain ones.
pub fn plain(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| plain_field(field));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn plain_field(field: &Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.retain(|key, _| key != DECLARED_KEY);
    let data_type = plain_type(field.data_type());
    Field::new(field.name(), data_type, field.is_nullable()).with_metadata(metadata)
}

fn plain_type(data_type: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| Arc::new(plain_field(field));
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(element) => DataType::List(inner(element)),
        DataType::LargeList(element) => DataType::LargeList(inner(element)),
        DataType::FixedSizeList(element, size) => DataType::FixedSizeList(inner(element), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Map(entries, sorted) => DataType::Map(inner(entries), *sorted),
        other => other.clone(),
    }
}
