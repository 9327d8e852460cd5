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

mod json;
mod values;

use crate::ledger::Cell;
use apiary_protocol::delta::paths::NULL_PARTITION;
use arrow::array::{ArrayRef, StringArray, UInt64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::ColumnStatistics;
use json::{is_key, members};
use std::sync::{Arc, OnceLock};
use values::{Side, Values};

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

/// Collects one column while the cells go by.
pub(super) struct BoundsBuilder {
    pub column: String,
    data_type: DataType,
    min: Values,
    max: Values,
    null_count: Vec<Option<u64>>,
    is_tight: bool,
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{
        Decimal128Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt64Type,
    };

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
    fn a_long_decimal_is_widened_by_what_a_float_may_have_lost() {
        let found = bounds(
            &[Some(
                r#"{"minValues":{"d":12345678901234567890.12},"maxValues":{"d":1.5E3}}"#,
            )],
            "d",
            &DataType::Decimal128(38, 2),
        );
        let min = found.min.unwrap().as_primitive::<Decimal128Type>().value(0);
        // Room for a writer that had only 53 bits.
        const EXACT: i128 = 1_234_567_890_123_456_789_012;
        assert!((EXACT - EXACT / 500_000_000_000_000..EXACT).contains(&min));
        assert!(!found.is_exact);
        assert_eq!(
            found.max.unwrap().as_primitive::<Decimal128Type>().value(0),
            150_000
        );
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
