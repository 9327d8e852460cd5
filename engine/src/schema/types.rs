//! Which Arrow types a frame can hold, and how each is stored.
//!
//! | given | logical | stored (Delta) |
//! |---|---|---|
//! | int8..int64, boolean, float32/64, date32 | same | byte, short, integer, long, boolean, float, double, date |
//! | uint8, uint16, uint32, uint64 | same | short, integer, long, decimal(20,0) |
//! | float16 | float32 (every value fits) | float |
//! | decimal32/64/128, decimal256 of at most 38 digits | decimal128 | decimal(p,s) |
//! | utf8, large, view | utf8 view | string |
//! | binary, large, view, fixed size | binary view | binary |
//! | date64 | date32 | date |
//! | timestamp s, ms, us / ns | timestamp us / ns, zone UTC or none | timestamp, timestamp_ntz (us) |
//! | list, large, fixed size, views | list | array |
//! | map, struct | same | map, struct |
//! | dictionary, run-end encoded | the value type | |
//!
//! Null, time, duration, interval and union types are refused by name.

use crate::error::{Error, Result};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use std::sync::Arc;

/// Digits that Delta's decimal can hold.
pub const DECIMAL_PRECISION_MAX: u8 = 38;
/// The only zone that instants are kept in.
pub const UTC: &str = "UTC";
/// Key in Arrow's field metadata that belongs to a file, not to a frame.
const PARQUET_FIELD_ID: &str = "PARQUET:field_id";

/// How a uint64 is stored.
pub const UINT64_STORED: DataType = DataType::Decimal128(20, 0);

/// The logical field of a user's field; metadata that belongs to a file is dropped.
pub fn normalise_field(field: &Field, path: &str) -> Result<Field> {
    let data_type = normalise(field.data_type(), path)?;
    let mut metadata = field.metadata().clone();
    metadata.remove(PARQUET_FIELD_ID);
    metadata.retain(|key, _| !key.starts_with(super::delta::TYPE_KEY));
    Ok(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(metadata))
}

/// The logical type of a user's type; `path` names the column in the refusal.
pub fn normalise(data_type: &DataType, path: &str) -> Result<DataType> {
    use DataType::*;
    Ok(match data_type {
        Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32
        | Float64 | Date32 => data_type.clone(),
        Float16 => Float32,
        Date64 => Date32,
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => {
            normalise_decimal(*p, *s, path)?
        }
        Utf8 | LargeUtf8 | Utf8View => Utf8View,
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => BinaryView,
        Timestamp(unit, zone) => {
            let unit = match unit {
                TimeUnit::Nanosecond => TimeUnit::Nanosecond,
                _ => TimeUnit::Microsecond,
            };
            Timestamp(unit, zone.as_ref().map(|_| UTC.into()))
        }
        Dictionary(_, value) => normalise(value, path)?,
        RunEndEncoded(_, values) => normalise(values.data_type(), path)?,
        List(element)
        | LargeList(element)
        | FixedSizeList(element, _)
        | ListView(element)
        | LargeListView(element) => list(
            normalise(element.data_type(), &format!("{path}.element"))?,
            element.is_nullable(),
        ),
        Struct(fields) if fields.is_empty() => {
            return Err(refused(
                path,
                "a struct without fields",
                "give it at least one field",
            ));
        }
        Struct(fields) => Struct(
            fields
                .iter()
                .map(|field| normalise_field(field, &format!("{path}.{}", field.name())))
                .collect::<Result<_>>()?,
        ),
        Map(entries, _) => {
            let (key, value) = map_fields(entries).ok_or_else(|| {
                refused(
                    path,
                    "a map without a key and a value",
                    "use a map of two fields",
                )
            })?;
            map(
                normalise(key.data_type(), &format!("{path}.key"))?,
                normalise(value.data_type(), &format!("{path}.value"))?,
                value.is_nullable(),
            )
        }
        Null => return Err(refused(path, "null", "give the column a type")),
        Time32(_) | Time64(_) => {
            return Err(refused(
                path,
                &data_type.to_string(),
                "use a timestamp or an integer",
            ));
        }
        Duration(_) | Interval(_) => {
            return Err(refused(
                path,
                &data_type.to_string(),
                "use an integer with its unit",
            ));
        }
        Union(_, _) => return Err(refused(path, "union", "use a struct of nullable fields")),
    })
}

fn normalise_decimal(precision: u8, scale: i8, path: &str) -> Result<DataType> {
    let name = || format!("decimal({precision}, {scale})");
    if precision > DECIMAL_PRECISION_MAX {
        return Err(refused(path, &name(), "use at most 38 digits"));
    }
    if precision == 0 || scale < 0 || scale as u8 > precision {
        return Err(refused(
            path,
            &name(),
            "use a scale between 0 and the precision",
        ));
    }
    Ok(DataType::Decimal128(precision, scale))
}

fn refused(path: &str, what: &str, advice: &str) -> Error {
    Error::rejected(format!(
        "column {path:?} has type {what}, which a frame cannot hold; {advice}"
    ))
}

/// What a cell's Parquet file holds for a logical type.
pub fn stored(logical: &DataType) -> DataType {
    use DataType::*;
    match logical {
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 => Int64,
        UInt64 => UINT64_STORED,
        Timestamp(TimeUnit::Nanosecond, zone) => Timestamp(TimeUnit::Microsecond, zone.clone()),
        List(element) => List(Arc::new(Field::new(
            "element",
            stored(element.data_type()),
            element.is_nullable(),
        ))),
        Struct(fields) => Struct(
            fields
                .iter()
                .map(|f| Field::new(f.name(), stored(f.data_type()), f.is_nullable()))
                .collect(),
        ),
        Map(entries, sorted) => match map_fields(entries) {
            Some((key, value)) => Map(
                entries_field(
                    "key_value",
                    stored(key.data_type()),
                    stored(value.data_type()),
                    value.is_nullable(),
                ),
                *sorted,
            ),
            None => logical.clone(),
        },
        other => other.clone(),
    }
}

/// A logical list: its element has the name that DataFusion's functions give.
pub fn list(element: DataType, nullable: bool) -> DataType {
    DataType::List(Arc::new(Field::new(
        Field::LIST_FIELD_DEFAULT_NAME,
        element,
        nullable,
    )))
}

/// A logical map.
pub fn map(key: DataType, value: DataType, value_nullable: bool) -> DataType {
    DataType::Map(entries_field("entries", key, value, value_nullable), false)
}

fn entries_field(name: &str, key: DataType, value: DataType, value_nullable: bool) -> FieldRef {
    let fields = vec![
        Field::new("key", key, false),
        Field::new("value", value, value_nullable),
    ];
    Arc::new(Field::new(name, DataType::Struct(fields.into()), false))
}

/// Key and value fields of a map's entries.
pub fn map_fields(entries: &Field) -> Option<(&FieldRef, &FieldRef)> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Some((&fields[0], &fields[1])),
        _ => None,
    }
}

/// Whether a timestamp without zone is in it, which is a Delta table feature.
pub fn has_naive_timestamp(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(_, zone) => zone.is_none(),
        DataType::List(field) | DataType::Map(field, _) => has_naive_timestamp(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| has_naive_timestamp(f.data_type())),
        _ => false,
    }
}
