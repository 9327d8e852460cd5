//! What the log says about a cell: row count, and per column smallest, largest and number of nulls.
//!
//! Taken from the statistics of the row groups that were just written. A bound that is not known to
//! hold is left out; one that is there may be wider than the values, never narrower.
//!
//! - Float bounds are left out when a NaN is among the values, which sorts above all of them. Where
//!   none is, `nanCount` (an addition of ours to Delta's statistics) says so: other writers leave NaN
//!   out of bounds silently, so bounds without it mean nothing to our reader.
//! - Strings are cut at 32 characters, the upper bound then raised to the next code point.
//! - Timestamps are milliseconds, the upper bound rounded up.
//! - Binaries and booleans have null counts only; what lies inside arrays and maps has none.

use super::nans::{NanWatch, leaf_count};
use arrow::datatypes::{DataType, Fields};
use chrono::{DateTime, Datelike};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use std::fmt::Write;

const STRING_CHARACTERS_MAX: usize = 32;
/// Leaf columns with statistics, in order; beyond, the log would outgrow what it saves.
const LEAVES_MAX: usize = 256;

/// `add.stats` of a finished cell; `fields` are those of its file.
pub fn describe(fields: &Fields, metadata: &ParquetMetaData, nans: &NanWatch) -> String {
    let mut leaves = Vec::new();
    collect(fields, metadata, nans, &mut leaves);
    let rows = metadata.file_metadata().num_rows();
    let mut text = format!("{{\"numRecords\":{rows}");
    let mut section = |name: &str, value: &dyn Fn(&Leaf) -> Option<String>| {
        let mut at = 0;
        let object = object(fields, &leaves, &mut at, value).unwrap_or_else(|| "{}".into());
        let _ = write!(text, ",\"{name}\":{object}");
    };
    section("minValues", &|leaf| {
        leaf.min
            .as_ref()
            .and_then(|bound| bound.lower(&leaf.data_type))
    });
    section("maxValues", &|leaf| {
        leaf.max
            .as_ref()
            .and_then(|bound| bound.upper(&leaf.data_type))
    });
    section("nullCount", &|leaf| {
        leaf.nulls.map(|count| count.to_string())
    });
    if leaves.iter().any(|leaf| leaf.is_free_of_nan) {
        section("nanCount", &|leaf| leaf.is_free_of_nan.then(|| "0".into()));
    }
    text.push('}');
    text
}

#[derive(Debug)]
struct Leaf {
    data_type: DataType,
    min: Option<Bound>,
    max: Option<Bound>,
    nulls: Option<u64>,
    /// Only said of floats.
    is_free_of_nan: bool,
}

impl Leaf {
    fn unknown() -> Self {
        Self {
            data_type: DataType::Null,
            min: None,
            max: None,
            nulls: None,
            is_free_of_nan: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Bound {
    Integer(i128),
    Float(f64),
    Text(String),
}

/// One entry per Parquet leaf; those inside arrays and maps stay empty.
fn collect(fields: &Fields, metadata: &ParquetMetaData, nans: &NanWatch, leaves: &mut Vec<Leaf>) {
    for field in fields {
        match field.data_type() {
            DataType::Struct(fields) => collect(fields, metadata, nans, leaves),
            data_type @ (DataType::List(_) | DataType::Map(_, _)) => {
                for _ in 0..leaf_count(data_type) {
                    leaves.push(Leaf::unknown());
                }
            }
            data_type => {
                let leaf = match leaves.len() < LEAVES_MAX {
                    true => merge(data_type, leaves.len(), metadata, nans),
                    false => Leaf::unknown(),
                };
                leaves.push(leaf);
            }
        }
    }
}

/// The bounds of a leaf over all row groups; unknown in one is unknown in all.
fn merge(data_type: &DataType, index: usize, metadata: &ParquetMetaData, nans: &NanWatch) -> Leaf {
    let mut nulls = Some(0);
    let mut bounds: Option<(Bound, Bound)> = None;
    let mut known = !nans.has_nan(index);
    for group in metadata.row_groups() {
        let column = group.column(index);
        let group_nulls = column.statistics().and_then(|s| s.null_count_opt());
        nulls = nulls.zip(group_nulls).map(|(sum, count)| sum + count);
        if group_nulls == Some(column.num_values() as u64) {
            continue;
        }
        let Some((low, high)) = column.statistics().and_then(|s| decode(data_type, s)) else {
            known = false;
            continue;
        };
        bounds = Some(match bounds {
            None => (low, high),
            Some((min, max)) => (
                if low < min { low } else { min },
                if high > max { high } else { max },
            ),
        });
    }
    let (min, max) = match bounds.filter(|_| known) {
        Some((min, max)) => (Some(min), Some(max)),
        None => (None, None),
    };
    Leaf {
        data_type: data_type.clone(),
        min,
        max,
        nulls,
        is_free_of_nan: nans.is_free(index),
    }
}

fn decode(data_type: &DataType, statistics: &Statistics) -> Option<(Bound, Bound)> {
    let decimal = matches!(data_type, DataType::Decimal128(_, _));
    match (statistics, data_type) {
        (Statistics::Int32(s), _) => Some((
            Bound::Integer((*s.min_opt()?).into()),
            Bound::Integer((*s.max_opt()?).into()),
        )),
        (Statistics::Int64(s), _) => Some((
            Bound::Integer((*s.min_opt()?).into()),
            Bound::Integer((*s.max_opt()?).into()),
        )),
        (Statistics::Float(s), _) => Some((
            Bound::Float((*s.min_opt()?).into()),
            Bound::Float((*s.max_opt()?).into()),
        )),
        (Statistics::Double(s), _) => {
            Some((Bound::Float(*s.min_opt()?), Bound::Float(*s.max_opt()?)))
        }
        (Statistics::FixedLenByteArray(s), _) if decimal => Some((
            Bound::Integer(big_endian(s.min_opt()?.data())?),
            Bound::Integer(big_endian(s.max_opt()?.data())?),
        )),
        (Statistics::ByteArray(s), DataType::Utf8 | DataType::Utf8View) => Some((
            Bound::Text(std::str::from_utf8(s.min_opt()?.data()).ok()?.to_string()),
            Bound::Text(std::str::from_utf8(s.max_opt()?.data()).ok()?.to_string()),
        )),
        _ => None,
    }
}

/// A two's complement number of at most 16 bytes.
fn big_endian(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    let mut wide = [if first & 0x80 == 0 { 0 } else { 0xff }; 16];
    wide.get_mut(16usize.checked_sub(bytes.len())?..)?
        .copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}

impl Bound {
    fn lower(&self, data_type: &DataType) -> Option<String> {
        match self {
            Bound::Text(text) => {
                json_string(&text.chars().take(STRING_CHARACTERS_MAX).collect::<String>())
            }
            other => other.json(data_type, |micros| micros.div_euclid(1000)),
        }
    }

    fn upper(&self, data_type: &DataType) -> Option<String> {
        match self {
            Bound::Text(text) => json_string(&upper_prefix(text)?),
            other => other.json(data_type, |micros| {
                micros.div_euclid(1000) + i64::from(micros.rem_euclid(1000) != 0)
            }),
        }
    }

    fn json(&self, data_type: &DataType, to_millis: impl Fn(i64) -> i64) -> Option<String> {
        match (self, data_type) {
            (Bound::Integer(value), DataType::Decimal128(_, scale)) => {
                Some(decimal_text(*value, *scale))
            }
            (Bound::Integer(value), DataType::Date32) => {
                let time = DateTime::from_timestamp(i64::try_from(*value).ok()? * 86_400, 0)?;
                common_year(&time).then(|| format!("\"{}\"", time.format("%Y-%m-%d")))
            }
            (Bound::Integer(value), DataType::Timestamp(_, zone)) => {
                let time = DateTime::from_timestamp_millis(to_millis(i64::try_from(*value).ok()?))?;
                let zone = if zone.is_some() { "Z" } else { "" };
                common_year(&time)
                    .then(|| format!("\"{}{zone}\"", time.format("%Y-%m-%dT%H:%M:%S%.3f")))
            }
            (Bound::Integer(value), _) => Some(value.to_string()),
            (Bound::Float(value), DataType::Float32) => value
                .is_finite()
                .then(|| serde_json::to_string(&(*value as f32)).ok())
                .flatten(),
            (Bound::Float(value), _) => value
                .is_finite()
                .then(|| serde_json::to_string(value).ok())
                .flatten(),
            (Bound::Text(_), _) => None,
        }
    }
}

/// Years that every reader's date parser takes.
fn common_year(time: &DateTime<chrono::Utc>) -> bool {
    (1..=9999).contains(&time.year())
}

fn json_string(text: &str) -> Option<String> {
    serde_json::to_string(text).ok()
}

/// The text itself, or a short text that sorts after everything that begins like it.
fn upper_prefix(text: &str) -> Option<String> {
    let mut characters: Vec<char> = text.chars().take(STRING_CHARACTERS_MAX + 1).collect();
    if characters.len() <= STRING_CHARACTERS_MAX {
        return Some(text.to_string());
    }
    characters.truncate(STRING_CHARACTERS_MAX);
    while let Some(last) = characters.pop() {
        // Surrogates are no characters; the next one after them is U+E000.
        let next = if last == '\u{d7ff}' {
            Some('\u{e000}')
        } else {
            char::from_u32(last as u32 + 1)
        };
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

/// An unscaled number with its decimal point.
pub fn decimal_text(value: i128, scale: i8) -> String {
    let scale = scale.max(0) as usize;
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let sign = if value < 0 { "-" } else { "" };
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    }
}

/// A JSON object over the fields that have a value; `None` when none has.
fn object(
    fields: &Fields,
    leaves: &[Leaf],
    at: &mut usize,
    value: &dyn Fn(&Leaf) -> Option<String>,
) -> Option<String> {
    let mut parts = Vec::new();
    for field in fields {
        let text = match field.data_type() {
            DataType::Struct(fields) => object(fields, leaves, at, value),
            data_type => {
                let leaf = leaves.get(*at);
                *at += leaf_count(data_type);
                leaf.filter(|_| !data_type.is_nested()).and_then(value)
            }
        };
        if let (Some(text), Some(name)) = (text, json_string(field.name())) {
            parts.push(format!("{name}:{text}"));
        }
    }
    (!parts.is_empty()).then(|| format!("{{{}}}", parts.join(",")))
}
