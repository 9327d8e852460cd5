//! Columns of text files, without losing a part of any value.
//!
//! Arrow's readers cut what does not fit: 1.5 becomes 1 in an integer column of JSON lines, a time of
//! day goes where a date is wanted, and digits of a second where there is no room for them. So such
//! columns are read as texts first and then converted, and what does not fit is refused.

use apiary::arrow::array::{ArrayRef, AsArray, StringArray};
use apiary::arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use apiary::arrow::compute::{CastOptions, cast_with_options};
use apiary::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use apiary::arrow::error::ArrowError;
use std::sync::Arc;

const DAY_NANOSECONDS: i64 = 86_400_000_000_000;
/// Whole numbers up to here are told apart by a double.
const DOUBLE_WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
const MICROSECOND_DIGITS: usize = 6;

/// The schema to read a text file with, in place of `schema`: texts where the reader would cut.
pub fn readable(schema: &SchemaRef, is_json: bool) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _) => DataType::Utf8,
            other if is_json => whole_as_text(other),
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(data_type)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Integers at any depth as texts. The reader of CSV refuses what is no integer itself.
fn whole_as_text(data_type: &DataType) -> DataType {
    let inside = |field: &Arc<Field>| {
        let data_type = whole_as_text(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    };
    match data_type {
        whole if whole.is_integer() => DataType::Utf8,
        DataType::List(item) => DataType::List(inside(item)),
        DataType::LargeList(item) => DataType::LargeList(inside(item)),
        DataType::Map(entries, sorted) => DataType::Map(inside(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inside).collect()),
        other => other.clone(),
    }
}

/// A column as another type.
///
/// # Errors
/// Names the first value that does not fit.
pub fn converted(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let options = CastOptions {
        safe: false,
        ..Default::default()
    };
    let cast = |column: &ArrayRef| cast_with_options(column, to, &options);
    match (column.as_string_opt::<i32>(), to) {
        (Some(texts), whole) if whole.is_integer() => {
            let texts: StringArray = texts.iter().map(|text| text.map(whole_number)).collect();
            cast(&(Arc::new(texts) as ArrayRef))
        }
        (Some(texts), DataType::Date32) => {
            refuse_first(texts, "has a time of day; the column is a date", has_time)?;
            cast(column)
        }
        (Some(texts), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
            refuse_first(
                texts,
                "is more exact than a microsecond",
                is_below_microseconds,
            )?;
            cast(column)
        }
        _ => cast(column),
    }
}

fn refuse_first(
    texts: &StringArray,
    reason: &str,
    is_wrong: impl Fn(&str) -> bool,
) -> Result<(), ArrowError> {
    match texts.iter().flatten().find(|text| is_wrong(text)) {
        Some(text) => Err(ArrowError::CastError(format!("{text:?} {reason}"))),
        None => Ok(()),
    }
}

/// `5.0` and `2e3` as integers are written; everything else as it is.
fn whole_number(text: &str) -> String {
    match text.parse::<f64>() {
        Ok(number)
            if text.contains(['.', 'e', 'E'])
                && number.fract() == 0.0
                && number.abs() < DOUBLE_WHOLE_MAX =>
        {
            format!("{number:.0}")
        }
        _ => text.to_owned(),
    }
}

/// Whether a text that can be read as a date says more than that. Years beyond 9999 have a sign.
fn has_time(text: &str) -> bool {
    let nanoseconds = || string_to_timestamp_nanos(text);
    text.len() > "2025-01-31".len()
        && !text.starts_with(['+', '-'])
        && !nanoseconds().is_ok_and(|time| time % DAY_NANOSECONDS == 0)
}

fn is_below_microseconds(text: &str) -> bool {
    let Some((_, rest)) = text.split_once('.') else {
        return false;
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit);
    digits.skip(MICROSECOND_DIGITS).any(|digit| digit != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiary::arrow::array::{Array, Int64Array};

    fn texts(texts: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(texts.to_vec()))
    }

    fn refused(text: &str, to: &DataType) -> bool {
        converted(&texts(&[text]), to).is_err_and(|error| error.to_string().contains(text))
    }

    #[test]
    fn whole_numbers_come_in_every_way_of_writing_and_others_are_refused() {
        let numbers = converted(
            &texts(&["7", "5.0", "2e3", "-1", "9007199254740993"]),
            &DataType::Int64,
        );
        let expected = Int64Array::from(vec![7, 5, 2000, -1, 9_007_199_254_740_993]);
        assert_eq!(numbers.unwrap().as_ref(), &expected as &dyn Array);
        for text in ["1.5", "true", "9223372036854775808", ""] {
            assert!(refused(text, &DataType::Int64), "{text}");
        }
        assert!(refused("300", &DataType::Int8));
    }

    #[test]
    fn a_time_of_day_is_no_date_and_midnight_is() {
        assert!(converted(&texts(&["2025-01-31"]), &DataType::Date32).is_ok());
        assert!(converted(&texts(&["2025-01-31T00:00:00"]), &DataType::Date32).is_ok());
        assert!(refused("2025-01-31T00:00:01", &DataType::Date32));
        assert!(refused("2025-01-31 12:30:00", &DataType::Date32));
    }

    #[test]
    fn digits_below_a_microsecond_are_refused_unless_they_are_nought() {
        let to = DataType::Timestamp(TimeUnit::Microsecond, None);
        assert!(converted(&texts(&["2025-01-31T00:00:01.123456"]), &to).is_ok());
        assert!(converted(&texts(&["2025-01-31T00:00:01.123456000"]), &to).is_ok());
        assert!(refused("2025-01-31T00:00:01.1234567", &to));
    }
}
