//! Values of the ledger's statistics: from their text to an array of the column's type.
//!
//! What may have been rounded on its way into the log is widened, so that it is still a bound.

use super::json::text;
use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, StringArray, StringViewArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, TimeUnit};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use std::sync::Arc;

/// Unscaled decimals below this have at most 15 digits, which a float64 gives back unchanged.
const FLOAT_SAFE: i128 = 1_000_000_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Min,
    Max,
}

/// One bound of a column, cell after cell.
pub(super) enum Values {
    Integers(Vec<Option<i64>>),
    /// What does not fit into 64 bits with a sign.
    Wide(Vec<Option<i128>>),
    Floats(Vec<Option<f64>>),
    Texts(Vec<Option<String>>),
    Unordered,
}

impl Values {
    pub fn of(data_type: &DataType, count: usize) -> Self {
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
    pub fn push(&mut self, raw: Option<&str>, data_type: &DataType, side: Side) -> bool {
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

    pub fn finish(self, data_type: &DataType) -> Option<ArrayRef> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_keeps_all_its_digits() {
        let exact = 1_234_567_890_123_456_789_012;
        assert_eq!(decimal("12345678901234567890.12", 2), Some(exact));
        assert_eq!(decimal("1.005", 2), None);
        assert_eq!(decimal("-0.10", 1), Some(-1));
    }

    #[test]
    fn infinities_and_text_are_no_float_bounds() {
        assert_eq!(float("\"NaN\"", Side::Max), None);
        assert_eq!(float("1e999", Side::Max), None);
        assert!(float("0", Side::Min).unwrap().is_sign_negative());
    }
}
