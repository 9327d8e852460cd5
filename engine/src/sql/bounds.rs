//! The statistics of a ledger as arrays: for one column, the bounds and null counts of every cell.
//!
//! Statistics were written by whoever wrote the cell, so they are input. What cannot be read is
//! *unknown*, never a bound; what may have been rounded is widened, so that a bound always holds:
//! `min ≤ every value ≤ max` for every row of the cell.
//!
//! What other writers are known to get wrong:
//! - Bounds of floats leave out NaN, which sorts above every number (and below, with its sign set):
//!   they hold only where the statistics say that there is none, as ours do with `nanCount`.
//! - Bounds of decimals pass through a float64 (delta-rs).
//! - Null counts of lists, maps and structs are those of the Parquet leaves inside (delta-rs).

use crate::ledger::Cell;
use apiary_protocol::delta::paths::NULL_PARTITION;
use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, StringArray, StringViewArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use datafusion::common::ColumnStatistics;
use std::sync::{Arc, OnceLock};

/// Unscaled decimals below this have at most 15 digits, which a float64 gives back unchanged.
const FLOAT_SAFE: i128 = 1_000_000_000_000_000;

/// Objects and arrays nest no deeper than this in statistics that are believed.
const DEPTH_MAX: usize = 64;

/// Bounds of one column in every cell of a snapshot, in the order of the cells.
#[derive(Debug)]
pub(super) struct Bounds {
    /// In the column's type; absent when the type has no bounds in the log.
    pub min: Option<ArrayRef>,
    pub max: Option<ArrayRef>,
    /// UInt64; null where unknown.
    pub null_count: ArrayRef,
    /// Whether a known bound is a value of the cell and not one beyond it.
    pub is_exact: bool,
    /// What the bounds of all cells say together, once somebody asked.
    pub of_all: OnceLock<ColumnStatistics>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Min,
    Max,
}

/// Collects one column while the cells go by.
pub(super) struct BoundsBuilder {
    pub column: String,
    data_type: DataType,
    min: Values,
    max: Values,
    null_count: Vec<Option<u64>>,
    is_tight: bool,
}

enum Values {
    Integers(Vec<Option<i64>>),
    /// What does not fit into 64 bits with a sign.
    Wide(Vec<Option<i128>>),
    Floats(Vec<Option<f64>>),
    Texts(Vec<Option<String>>),
    Unordered,
}

impl Values {
    fn of(data_type: &DataType, count: usize) -> Self {
        match data_type {
            DataType::Float32 | DataType::Float64 => Self::Floats(Vec::with_capacity(count)),
            DataType::Utf8 | DataType::Utf8View => Self::Texts(Vec::with_capacity(count)),
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::Date32
            | DataType::Timestamp(..) => Self::Integers(Vec::with_capacity(count)),
            DataType::UInt64 | DataType::Decimal128(..) => Self::Wide(Vec::with_capacity(count)),
            _ => Self::Unordered,
        }
    }

    /// Returns whether the bound, if there is one, is as it was written.
    fn push(&mut self, raw: Option<&str>, data_type: &DataType, side: Side) -> bool {
        match self {
            Self::Integers(values) => {
                let value = raw.and_then(|raw| integer(raw, data_type, side));
                values.push(value.and_then(|value| value.try_into().ok()));
            }
            Self::Wide(values) => {
                let value = raw.and_then(|raw| integer(raw, data_type, side));
                let wide = value.and_then(|value| unrounded(value, data_type, side));
                values.push(wide);
                return wide == value;
            }
            Self::Floats(values) => values.push(raw.and_then(|raw| float(raw, side))),
            Self::Texts(values) => values.push(raw.and_then(text)),
            Self::Unordered => {}
        }
        true
    }

    fn finish(self, data_type: &DataType) -> Option<ArrayRef> {
        Some(match self {
            Self::Integers(values) => integers(values, data_type)?,
            Self::Wide(values) => wide(values, data_type)?,
            Self::Floats(values) if *data_type == DataType::Float32 => Arc::new(
                values
                    .into_iter()
                    .map(|value| value.map(|value| value as f32))
                    .collect::<Float32Array>(),
            ),
            Self::Floats(values) => Arc::new(values.into_iter().collect::<Float64Array>()),
            Self::Texts(values) if *data_type == DataType::Utf8View => {
                Arc::new(values.into_iter().collect::<StringViewArray>())
            }
            Self::Texts(values) => Arc::new(values.into_iter().collect::<StringArray>()),
            Self::Unordered => return None,
        })
    }
}

impl BoundsBuilder {
    /// `count`: cells that will go by.
    pub fn new(column: &str, data_type: &DataType, count: usize) -> Self {
        Self {
            column: column.to_string(),
            data_type: data_type.clone(),
            min: Values::of(data_type, count),
            max: Values::of(data_type, count),
            null_count: Vec::with_capacity(count),
            is_tight: true,
        }
    }

    fn push(&mut self, found: &Found<'_>, is_tight: bool, rows: Option<u64>) {
        let may_hold_nan = self.data_type.is_floating() && found.nan_count != Some("0");
        let (min, max) = match may_hold_nan {
            true => (None, None),
            false => (found.min, found.max),
        };
        let is_written = self.min.push(min, &self.data_type, Side::Min)
            & self.max.push(max, &self.data_type, Side::Max);
        self.is_tight &= is_tight && is_written;
        let null_count = found
            .null_count
            .filter(|_| !self.data_type.is_nested())
            .and_then(|raw| raw.parse::<u64>().ok())
            .filter(|nulls| rows.is_none_or(|rows| *nulls <= rows));
        self.null_count.push(null_count);
    }

    pub fn finish(self) -> Bounds {
        // Strings may have been cut, floats leave NaN out, timestamps may have been rounded.
        let is_exact = self.is_tight
            && !matches!(
                self.data_type,
                DataType::Float32
                    | DataType::Float64
                    | DataType::Utf8
                    | DataType::Utf8View
                    | DataType::Timestamp(..)
            );
        Bounds {
            min: self.min.finish(&self.data_type),
            max: self.max.finish(&self.data_type),
            null_count: Arc::new(self.null_count.into_iter().collect::<UInt64Array>()),
            is_exact,
            of_all: OnceLock::new(),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Found<'a> {
    min: Option<&'a str>,
    max: Option<&'a str>,
    null_count: Option<&'a str>,
    nan_count: Option<&'a str>,
}

/// Reads one cell's statistics into every builder; each gets exactly one more entry.
pub(super) fn push_statistics<'a>(statistics: Option<&'a str>, builders: &mut [BoundsBuilder]) {
    let mut rows = None;
    let mut found: Vec<Found<'a>> = vec![Found::default(); builders.len()];
    let mut is_tight = true;
    let is_whole = statistics.and_then(|statistics| {
        members(statistics, |key, value| {
            if key == "tightBounds" {
                is_tight = value == "true";
                return;
            }
            if key == "numRecords" {
                rows = value.parse::<u64>().ok();
                return;
            }
            let slot: for<'f> fn(&'f mut Found<'a>) -> &'f mut Option<&'a str> = match key {
                "minValues" => |found| &mut found.min,
                "maxValues" => |found| &mut found.max,
                "nullCount" => |found| &mut found.null_count,
                "nanCount" => |found| &mut found.nan_count,
                _ => return,
            };
            let _ = members(value, |column, raw| {
                if let Some(index) = builders
                    .iter()
                    .position(|builder| is_key(column, &builder.column))
                {
                    *slot(&mut found[index]) = Some(raw);
                }
            });
        })
    });
    if is_whole.is_none() {
        found.fill(Found::default());
    }
    for (builder, found) in builders.iter_mut().zip(&found) {
        builder.push(found, is_tight, rows);
    }
}

/// Bounds of a partition column: its value in each cell.
pub(super) fn partition_bounds(values: ArrayRef, rows: &[Option<u64>]) -> Bounds {
    let null_count = rows
        .iter()
        .enumerate()
        .map(|(index, rows)| {
            if values.is_null(index) {
                *rows
            } else {
                Some(0)
            }
        })
        .collect::<UInt64Array>();
    Bounds {
        min: Some(Arc::clone(&values)),
        max: Some(values),
        null_count: Arc::new(null_count),
        is_exact: true,
        of_all: OnceLock::new(),
    }
}

/// The value of a partition column as the log has it; an empty text is a null, as Delta says, and some
/// writers put the directory's word for a null into the log.
pub(super) fn partition_text<'a>(cell: &'a Cell, column: &str) -> Option<&'a str> {
    let value = cell.partition_value(column)?;
    (!value.is_empty() && value != NULL_PARTITION).then_some(value)
}

/// Partition texts in the column's type; fails on one that is no value of it.
pub(super) fn partition_array(
    texts: Vec<Option<&str>>,
    data_type: &DataType,
) -> Result<ArrayRef, ArrowError> {
    let texts: ArrayRef = Arc::new(StringArray::from(texts));
    cast_with_options(
        &texts,
        data_type,
        &CastOptions {
            safe: false,
            ..CastOptions::default()
        },
    )
}

fn integers(values: Vec<Option<i64>>, data_type: &DataType) -> Option<ArrayRef> {
    macro_rules! array {
        ($array:ty, $native:ty) => {
            values
                .into_iter()
                .map(|value| value.and_then(|value| <$native>::try_from(value).ok()))
                .collect::<$array>()
        };
    }
    macro_rules! zoned {
        ($array:ty, $zone:expr) => {
            Arc::new(array!($array, i64).with_timezone_opt($zone.clone()))
        };
    }
    Some(match data_type {
        DataType::Int8 => Arc::new(array!(Int8Array, i8)),
        DataType::Int16 => Arc::new(array!(Int16Array, i16)),
        DataType::Int32 => Arc::new(array!(Int32Array, i32)),
        DataType::Int64 => Arc::new(array!(Int64Array, i64)),
        DataType::UInt8 => Arc::new(array!(UInt8Array, u8)),
        DataType::UInt16 => Arc::new(array!(UInt16Array, u16)),
        DataType::UInt32 => Arc::new(array!(UInt32Array, u32)),
        DataType::Date32 => Arc::new(array!(Date32Array, i32)),
        DataType::Timestamp(TimeUnit::Second, zone) => zoned!(TimestampSecondArray, zone),
        DataType::Timestamp(TimeUnit::Millisecond, zone) => zoned!(TimestampMillisecondArray, zone),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => zoned!(TimestampMicrosecondArray, zone),
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => zoned!(TimestampNanosecondArray, zone),
        _ => return None,
    })
}

fn wide(values: Vec<Option<i128>>, data_type: &DataType) -> Option<ArrayRef> {
    let values = values.into_iter();
    Some(match data_type {
        DataType::UInt64 => Arc::new(
            values
                .map(|value| value.and_then(|value| u64::try_from(value).ok()))
                .collect::<UInt64Array>(),
        ),
        DataType::Decimal128(precision, scale) => Arc::new(
            values
                .collect::<Decimal128Array>()
                .with_precision_and_scale(*precision, *scale)
                .ok()?,
        ),
        _ => return None,
    })
}

fn integer(raw: &str, data_type: &DataType, side: Side) -> Option<i128> {
    match data_type {
        DataType::Decimal128(_, scale) => decimal(raw, *scale),
        DataType::Date32 => {
            let date = NaiveDate::parse_from_str(&text(raw)?, "%Y-%m-%d").ok()?;
            Some(i128::from(
                date.signed_duration_since(NaiveDate::default()).num_days(),
            ))
        }
        DataType::Timestamp(unit, _) => timestamp(&text(raw)?, *unit, side),
        _ => raw.parse().ok(),
    }
}

/// A bound that still holds when the number passed through a float64 on its way into the log; the
/// same where that changes nothing.
fn unrounded(value: i128, data_type: &DataType, side: Side) -> Option<i128> {
    if !matches!(data_type, DataType::Decimal128(..) | DataType::UInt64)
        || value.unsigned_abs() < FLOAT_SAFE.unsigned_abs()
    {
        return Some(value);
    }
    // A float64 has 53 bits; the scaling may have cost two more.
    let slack = (value.checked_abs()? >> 50) + 1;
    match side {
        Side::Min => value.checked_sub(slack),
        Side::Max => value.checked_add(slack),
    }
}

/// Delta's timestamps have milliseconds or microseconds; the former were cut, so the true maximum
/// lies up to one millisecond later.
fn timestamp(text: &str, unit: TimeUnit, side: Side) -> Option<i128> {
    let time = DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc().naive_utc())
        .or_else(|_| {
            NaiveDateTime::parse_from_str(text.trim_end_matches('Z'), "%Y-%m-%dT%H:%M:%S%.f")
                .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
        });
    let mut micros = i128::from(time.ok()?.and_utc().timestamp_micros());
    let fraction = text.rsplit_once('.').map_or(0, |(_, rest)| {
        rest.bytes().take_while(u8::is_ascii_digit).count()
    });
    if side == Side::Max && fraction <= 3 {
        micros += 999;
    }
    let up = i128::from(side == Side::Max);
    Some(match unit {
        TimeUnit::Second => micros.div_euclid(1_000_000) + up,
        TimeUnit::Millisecond => micros.div_euclid(1_000) + up,
        TimeUnit::Microsecond => micros,
        TimeUnit::Nanosecond => micros * 1_000 + up * 999,
    })
}

fn float(raw: &str, side: Side) -> Option<f64> {
    let value: f64 = raw.parse().ok()?;
    // Arrow's order puts −0 below 0, writers need not.
    match side {
        _ if !value.is_finite() => None,
        Side::Min if value == 0.0 => Some(-0.0),
        Side::Max if value == 0.0 => Some(0.0),
        _ => Some(value),
    }
}

/// A JSON number as a decimal of this scale, exactly; `None` when it has more digits.
fn decimal(raw: &str, scale: i8) -> Option<i128> {
    let (mantissa, exponent) = match raw.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (raw, 0),
    };
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut value: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value
            .checked_mul(10)?
            .checked_add(i128::from(digit - b'0'))?;
    }
    let shift = i32::from(scale) + exponent - i32::try_from(fraction.len()).ok()?;
    if value == 0 {
        return Some(0);
    }
    let power = 10_i128.checked_pow(shift.unsigned_abs())?;
    match shift >= 0 {
        true => value.checked_mul(power)?.checked_mul(sign),
        false if value % power == 0 => Some(sign * (value / power)),
        false => None,
    }
}

/// A JSON string without its quotes and escapes.
fn text(raw: &str) -> Option<String> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw).ok()
    } else {
        Some(inner.to_string())
    }
}

/// Whether a raw key (escapes not undone) names the column.
fn is_key(raw: &str, column: &str) -> bool {
    if raw.contains('\\') {
        text(&format!("\"{raw}\"")).as_deref() == Some(column)
    } else {
        raw == column
    }
}

/// Calls back with each raw key and raw value of a JSON object; `None` when the text is no object.
/// Builds nothing: a snapshot may have a hundred thousand of these with a hundred columns each.
fn members<'a>(json: &'a str, mut found: impl FnMut(&'a str, &'a str)) -> Option<()> {
    let bytes = json.as_bytes();
    let mut at = blank(bytes, 0);
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    at = blank(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return Some(());
    }
    loop {
        let key_end = string_end(bytes, at)?;
        let key = json.get(at + 1..key_end - 1)?;
        at = blank(bytes, key_end);
        if bytes.get(at) != Some(&b':') {
            return None;
        }
        at = blank(bytes, at + 1);
        let end = value_end(bytes, at)?;
        found(key, json.get(at..end)?);
        at = blank(bytes, end);
        match bytes.get(at) {
            Some(b',') => at = blank(bytes, at + 1),
            Some(b'}') => return Some(()),
            _ => return None,
        }
    }
}

fn blank(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Behind the closing quote of the string that starts here.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Behind the value that starts here.
fn value_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    let mut depth = 0_usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b',' | b'}' | b']' if depth == 0 => return (at > start).then_some(at),
            b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return (at > start).then_some(at),
            _ => at += 1,
        }
        if depth > DEPTH_MAX {
            return None;
        }
        if depth == 0 && matches!(bytes.get(at - 1), Some(b'"' | b'}' | b']')) {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType, UInt64Type};

    fn bounds(statistics: &[Option<&str>], column: &str, data_type: &DataType) -> Bounds {
        let mut builders = [BoundsBuilder::new(column, data_type, statistics.len())];
        for statistics in statistics {
            push_statistics(*statistics, &mut builders);
        }
        let [builder] = builders;
        builder.finish()
    }

    #[test]
    fn bounds_are_found_among_other_columns_and_odd_spellings() {
        let found = bounds(
            &[
                Some(
                    r#"{"numRecords":3,"minValues":{"x":"}\"{","a":-5,"s":{"a":7}},"maxValues":{"a":9},"nullCount":{"a":1}}"#,
                ),
                Some(" { \"maxValues\" : { \"a\" : 4 , \"b\":[1,{}] } , \"minValues\" : { } } "),
                None,
                Some("not json"),
                Some(r#"{"minValues":{"a":1},"maxValues":{"a":2}"#),
            ],
            "a",
            &DataType::Int64,
        );
        let (min, max) = (found.min.unwrap(), found.max.unwrap());
        assert_eq!(
            min.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
            [Some(-5), None, None, None, None]
        );
        assert_eq!(
            max.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
            [Some(9), Some(4), None, None, None]
        );
        assert_eq!(found.null_count.as_primitive::<UInt64Type>().value(0), 1);
        assert!(found.null_count.is_null(1));
        assert!(found.is_exact);
    }

    #[test]
    fn a_decimal_keeps_all_its_digits() {
        let found = bounds(
            &[Some(
                r#"{"minValues":{"d":12345678901234567890.12},"maxValues":{"d":1.5E3}}"#,
            )],
            "d",
            &DataType::Decimal128(38, 2),
        );
        let min = found.min.unwrap().as_primitive::<Decimal128Type>().value(0);
        // All of them, and then room for a writer that had only 53 bits.
        assert_eq!(decimal("12345678901234567890.12", 2), Some(EXACT));
        const EXACT: i128 = 1_234_567_890_123_456_789_012;
        assert!((EXACT - EXACT / 500_000_000_000_000..EXACT).contains(&min));
        assert!(!found.is_exact);
        assert_eq!(
            found.max.unwrap().as_primitive::<Decimal128Type>().value(0),
            150_000
        );
        assert_eq!(decimal("1.005", 2), None);
        assert_eq!(decimal("-0.10", 1), Some(-1));
    }

    #[test]
    fn a_timestamp_cut_to_milliseconds_is_widened_upwards() {
        let zone = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let found = bounds(
            &[Some(
                r#"{"minValues":{"t":"2026-01-01T00:00:00.123Z"},"maxValues":{"t":"2026-01-01T00:00:00.123Z"}}"#,
            )],
            "t",
            &zone,
        );
        let min = found
            .min
            .unwrap()
            .as_primitive::<TimestampMicrosecondType>()
            .value(0);
        let max = found
            .max
            .unwrap()
            .as_primitive::<TimestampMicrosecondType>()
            .value(0);
        assert_eq!(max - min, 999);
        assert!(!found.is_exact);
    }

    #[test]
    fn loose_bounds_are_not_exact() {
        let found = bounds(
            &[Some(
                r#"{"minValues":{"a":1},"maxValues":{"a":2},"tightBounds":false}"#,
            )],
            "a",
            &DataType::Int64,
        );
        assert!(!found.is_exact);
    }

    #[test]
    fn infinities_and_text_are_no_float_bounds() {
        assert_eq!(float("\"NaN\"", Side::Max), None);
        assert_eq!(float("1e999", Side::Max), None);
        assert!(float("0", Side::Min).unwrap().is_sign_negative());
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 7_u64;
        let alphabet = br#"{}[]",:\ an1.eE-tf"#;
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..24)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    alphabet[(state >> 33) as usize % alphabet.len()]
                })
                .collect();
            let text = String::from_utf8(text).unwrap();
            let found = bounds(
                &[Some(&format!("{{\"minValues\":{text}"))],
                "a",
                &DataType::Int64,
            );
            assert_eq!(found.null_count.len(), 1);
        }
    }
}
