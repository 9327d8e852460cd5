//! SQL column types as Arrow types, for `CREATE TABLE`.
//!
//! The mapping is DataFusion's, with three differences that follow from what a cell can hold: a
//! timestamp without a precision has microseconds, a timestamp with a time zone is in UTC, and
//! Arrow's own names (`uint32`, `large_binary` …) are understood too.

use crate::error::{Error, Result};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, ObjectName, TimezoneInfo,
};
use std::sync::Arc;

/// Decimal digits when a `DECIMAL` names none.
const DEFAULT_DECIMAL: (u8, i8) = (38, 10);

pub(super) fn column_field(name: &str, sql_type: &SqlType, is_nullable: bool) -> Result<Field> {
    Ok(Field::new(name, arrow_type(name, sql_type)?, is_nullable))
}

fn unsupported(column: &str, sql_type: &impl std::fmt::Display) -> Error {
    Error::Unsupported(format!("type {sql_type} of column {column}"))
}

fn arrow_type(column: &str, sql_type: &SqlType) -> Result<DataType> {
    Ok(match sql_type {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(_) => DataType::Int8,
        SqlType::SmallInt(_) | SqlType::Int2(_) | SqlType::Int16 => DataType::Int16,
        SqlType::Int(_)
        | SqlType::Integer(_)
        | SqlType::Int4(_)
        | SqlType::MediumInt(_)
        | SqlType::Int32 => DataType::Int32,
        SqlType::BigInt(_) | SqlType::Int8(_) | SqlType::Int64 => DataType::Int64,
        SqlType::TinyIntUnsigned(_) | SqlType::UTinyInt | SqlType::UInt8 => DataType::UInt8,
        SqlType::SmallIntUnsigned(_)
        | SqlType::Int2Unsigned(_)
        | SqlType::USmallInt
        | SqlType::UInt16 => DataType::UInt16,
        SqlType::IntUnsigned(_)
        | SqlType::IntegerUnsigned(_)
        | SqlType::Int4Unsigned(_)
        | SqlType::UInt32 => DataType::UInt32,
        SqlType::BigIntUnsigned(_)
        | SqlType::Int8Unsigned(_)
        | SqlType::UBigInt
        | SqlType::UInt64 => DataType::UInt64,
        SqlType::Float(_) | SqlType::Real | SqlType::Float4 | SqlType::Float32 => DataType::Float32,
        SqlType::Double(ExactNumberInfo::None)
        | SqlType::DoublePrecision
        | SqlType::Float8
        | SqlType::Float64 => DataType::Float64,
        SqlType::Numeric(digits) | SqlType::Decimal(digits) | SqlType::Dec(digits) => {
            decimal(column, sql_type, *digits)?
        }
        SqlType::Char(_)
        | SqlType::Character(_)
        | SqlType::Varchar(_)
        | SqlType::CharVarying(_)
        | SqlType::CharacterVarying(_)
        | SqlType::Nvarchar(_)
        | SqlType::Text
        | SqlType::String(_) => DataType::Utf8,
        SqlType::Bytea
        | SqlType::Binary(_)
        | SqlType::Varbinary(_)
        | SqlType::Blob(_)
        | SqlType::Bytes(_) => DataType::Binary,
        SqlType::Date | SqlType::Date32 => DataType::Date32,
        SqlType::Timestamp(precision, zone) => timestamp(column, sql_type, *precision, *zone)?,
        SqlType::Datetime(precision) => {
            timestamp(column, sql_type, *precision, TimezoneInfo::None)?
        }
        SqlType::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::SquareBracket(item, _)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => DataType::List(Arc::new(Field::new(
            "item",
            arrow_type(column, item)?,
            true,
        ))),
        SqlType::Struct(members, _) => {
            let fields = members.iter().enumerate().map(|(index, member)| {
                let name = match &member.field_name {
                    Some(name) if name.quote_style.is_some() => name.value.clone(),
                    Some(name) => name.value.to_lowercase(),
                    None => format!("c{index}"),
                };
                Ok(Field::new(
                    name,
                    arrow_type(column, &member.field_type)?,
                    true,
                ))
            });
            DataType::Struct(fields.collect::<Result<Fields>>()?)
        }
        SqlType::Map(key, value) => map(arrow_type(column, key)?, arrow_type(column, value)?),
        SqlType::Custom(name, arguments) if arguments.is_empty() => {
            custom(name).ok_or_else(|| unsupported(column, sql_type))?
        }
        other => return Err(unsupported(column, other)),
    })
}

fn map(key: DataType, value: DataType) -> DataType {
    let entries = Fields::from(vec![
        Field::new("key", key, false),
        Field::new("value", value, true),
    ]);
    DataType::Map(
        Arc::new(Field::new("entries", DataType::Struct(entries), false)),
        false,
    )
}

fn decimal(column: &str, sql_type: &SqlType, digits: ExactNumberInfo) -> Result<DataType> {
    let (precision, scale) = match digits {
        ExactNumberInfo::None => (u64::from(DEFAULT_DECIMAL.0), i64::from(DEFAULT_DECIMAL.1)),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale))
            if scale >= 0 && scale as u64 <= u64::from(precision) =>
        {
            Ok(DataType::Decimal128(precision, scale))
        }
        _ => Err(unsupported(column, sql_type)),
    }
}

fn timestamp(
    column: &str,
    sql_type: &SqlType,
    precision: Option<u64>,
    zone: TimezoneInfo,
) -> Result<DataType> {
    let unit = match precision {
        Some(0) => TimeUnit::Second,
        Some(3) => TimeUnit::Millisecond,
        None | Some(6) => TimeUnit::Microsecond,
        Some(9) => TimeUnit::Nanosecond,
        Some(_) => return Err(unsupported(column, sql_type)),
    };
    let zone = match zone {
        TimezoneInfo::Tz | TimezoneInfo::WithTimeZone => Some("UTC".into()),
        TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => None,
    };
    Ok(DataType::Timestamp(unit, zone))
}

/// Arrow's and Delta's names of types, for people who know those.
fn custom(name: &ObjectName) -> Option<DataType> {
    Some(match name.to_string().to_lowercase().as_str() {
        "int8" | "byte" => DataType::Int8,
        "int16" | "short" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" | "long" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        "utf8" | "large_utf8" => DataType::Utf8,
        "large_binary" => DataType::Binary,
        "date32" => DataType::Date32,
        "timestamp_s" => DataType::Timestamp(TimeUnit::Second, None),
        "timestamp_ms" => DataType::Timestamp(TimeUnit::Millisecond, None),
        "timestamp_us" | "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "timestamp_ns" => DataType::Timestamp(TimeUnit::Nanosecond, None),
        _ => return None,
    })
}
