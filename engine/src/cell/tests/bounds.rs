//! Statistics of random cells against the rows that an independent reader finds in them.

use super::*;
use crate::host::testing::SeededEntropy;
use apiary_protocol::delta::statistics::Statistics;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde_json::{Map, Value};

const SEEDS: u64 = 40;

/// A value of a column that has an order; timestamps in microseconds, decimals unscaled.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Key {
    Integer(i128),
    Float(f64),
    Text(String),
}

/// Draws values, with a liking for those at the edges.
struct Dice(SeededEntropy);

impl Dice {
    fn integer(&self, low: i128, high: i128) -> i128 {
        match self.0.below(8) {
            0 => low,
            1 => high,
            2 | 3 => i128::from(self.0.below(20)).clamp(low, high),
            _ => {
                let half = || i128::from(self.0.below(u64::MAX));
                let wide = (half() << 64) | half();
                low + wide.rem_euclid(high.saturating_sub(low).saturating_add(1))
            }
        }
    }

    fn float(&self) -> f64 {
        match self.0.below(14) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::NEG_INFINITY,
            3 => -0.0,
            4 => 0.0,
            5 => f64::MIN_POSITIVE,
            6 => f64::MAX,
            _ => self.0.below(2_000_001) as f64 / 7.0 - 142_857.0,
        }
    }

    fn text(&self) -> String {
        let alphabet = [
            'a',
            'b',
            'é',
            '\u{d7ff}',
            '\u{10ffff}',
            '"',
            '\\',
            '\u{1}',
            '蜂',
        ];
        let length = [0, 1, 5, 31, 32, 33, 80][self.0.below(7) as usize];
        // Long common beginnings, so that cutting them matters.
        let first = alphabet[self.0.below(alphabet.len() as u64) as usize];
        let mut text: String = std::iter::repeat_n(first, length).collect();
        if self.0.below(2) == 0 {
            text.pop();
            text.push(alphabet[self.0.below(alphabet.len() as u64) as usize]);
        }
        text
    }

    /// A column with or without nulls, sometimes of nothing else.
    fn column<T>(&self, rows: usize, value: impl Fn(&Self) -> T) -> Vec<Option<T>> {
        let nulls = [0, 0, 1, 5, 10][self.0.below(5) as usize];
        (0..rows)
            .map(|_| (self.0.below(10) >= nulls).then(|| value(self)))
            .collect()
    }
}

fn random_rows(dice: &Dice, rows: usize) -> RecordBatch {
    macro_rules! integers {
        ($array:ty, $native:ty) => {
            Arc::new(<$array>::from(dice.column(rows, |dice| {
                dice.integer(<$native>::MIN.into(), <$native>::MAX.into()) as $native
            }))) as ArrayRef
        };
    }
    let decimals = |precision: u8, scale: i8| {
        let most = 10_i128.pow(precision.into()) - 1;
        let values = dice.column(rows, |dice| dice.integer(-most, most));
        let array = Decimal128Array::from(values).with_precision_and_scale(precision, scale);
        Arc::new(array.unwrap()) as ArrayRef
    };
    // From before the year 1 to after 9999, which not every reader's dates reach.
    let micros = |step: i128| {
        dice.column(rows, |dice| {
            (dice.integer(-70_000_000_000_000_000, 300_000_000_000_000_000) / step * step) as i64
        })
    };
    let nanos = dice.column(rows, |dice| {
        dice.integer(-9_000_000_000_000_000, 9_000_000_000_000_000) as i64 * 1_000
    });
    let texts = |dice: &Dice| dice.column(rows, Dice::text);
    let floats = dice.column(rows, Dice::float);
    let tame = dice.column(rows, |dice| dice.0.below(1_000) as f64 / 8.0 - 60.0);
    let inner = RecordBatch::try_from_iter_with_nullable([
        ("n", integers!(Int64Array, i64), true),
        (
            "t",
            Arc::new(StringArray::from(texts(dice))) as ArrayRef,
            true,
        ),
    ])
    .unwrap();
    batch(vec![
        ("i8", integers!(Int8Array, i8)),
        ("i16", integers!(Int16Array, i16)),
        ("i32", integers!(Int32Array, i32)),
        ("i64", integers!(Int64Array, i64)),
        ("u8", integers!(UInt8Array, u8)),
        ("u16", integers!(UInt16Array, u16)),
        ("u32", integers!(UInt32Array, u32)),
        ("u64", integers!(UInt64Array, u64)),
        ("d9", decimals(9, 2)),
        ("d18", decimals(18, 18)),
        ("d38", decimals(38, 5)),
        ("f64", Arc::new(Float64Array::from(floats.clone()))),
        ("tame", Arc::new(Float64Array::from(tame))),
        (
            "f32",
            Arc::new(
                floats
                    .iter()
                    .map(|v| v.map(|v| v as f32))
                    .collect::<Float32Array>(),
            ),
        ),
        ("text", Arc::new(StringArray::from(texts(dice)))),
        (
            "view",
            Arc::new(texts(dice).into_iter().collect::<StringViewArray>()),
        ),
        (
            "date",
            Arc::new(Date32Array::from(
                dice.column(rows, |dice| dice.integer(-800_000, 3_000_000) as i32),
            )),
        ),
        (
            "zoned",
            Arc::new(TimestampMicrosecondArray::from(micros(1)).with_timezone("UTC")),
        ),
        (
            "naive",
            Arc::new(TimestampMicrosecondArray::from(micros(1_000))),
        ),
        ("nanos", Arc::new(TimestampNanosecondArray::from(nanos))),
        (
            "flag",
            Arc::new(BooleanArray::from(
                dice.column(rows, |dice| dice.0.below(2) == 0),
            )),
        ),
        ("inner", Arc::new(StructArray::from(inner))),
    ])
}

/// The values that are there, as keys; `None` for a type without bounds in the log.
fn keys(array: &ArrayRef) -> Option<Vec<Key>> {
    let plain = match array.data_type() {
        DataType::Boolean => return None,
        DataType::Utf8 => {
            let texts = array.as_string::<i32>().iter().flatten();
            return Some(texts.map(|text| Key::Text(text.into())).collect());
        }
        DataType::Float32 | DataType::Float64 => {
            let floats = cast(array, &DataType::Float64).unwrap();
            let floats = floats.as_primitive::<Float64Type>().iter().flatten();
            return Some(floats.map(Key::Float).collect());
        }
        DataType::Decimal128(..) => {
            let values = array.as_primitive::<Decimal128Type>().iter().flatten();
            return Some(values.map(Key::Integer).collect());
        }
        DataType::Date32 => cast(array, &DataType::Int32).unwrap(),
        _ => Arc::clone(array),
    };
    let plain = cast(&plain, &DataType::Int64).unwrap();
    let values = plain.as_primitive::<Int64Type>().iter().flatten();
    Some(values.map(|value| Key::Integer(value.into())).collect())
}

/// A bound as the log spells it. Decimals and floats are taken from the text, of which a parsed number
/// keeps less.
fn bound(data_type: &DataType, value: &Value, spelled: &str) -> Key {
    match (data_type, value) {
        (DataType::Decimal128(_, scale), _) => {
            let (whole, fraction) = spelled.split_once('.').unwrap_or((spelled, ""));
            assert_eq!(fraction.len(), *scale as usize, "{spelled}");
            Key::Integer(format!("{whole}{fraction}").parse().unwrap())
        }
        (DataType::Date32, Value::String(text)) => {
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").unwrap();
            Key::Integer((date - NaiveDate::default()).num_days().into())
        }
        (DataType::Timestamp(_, Some(_)), Value::String(text)) => {
            let time = DateTime::parse_from_rfc3339(text).unwrap();
            Key::Integer(time.timestamp_micros().into())
        }
        (DataType::Timestamp(_, None), Value::String(text)) => {
            let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.3f").unwrap();
            Key::Integer(time.and_utc().timestamp_micros().into())
        }
        (DataType::Utf8, Value::String(text)) => Key::Text(text.clone()),
        (DataType::Float32, _) => Key::Float(spelled.parse::<f32>().unwrap().into()),
        (DataType::Float64, _) => Key::Float(spelled.parse().unwrap()),
        (_, Value::Number(number)) => Key::Integer(number.as_i128().unwrap()),
        _ => panic!("{data_type} has the bound {value}"),
    }
}

/// Whether a bound is as near to the value as the format allows.
fn is_near(data_type: &DataType, bound: &Key, value: &Key) -> bool {
    match (bound, value) {
        (Key::Integer(bound), Key::Integer(value)) => match data_type {
            DataType::Timestamp(..) => (bound - value).abs() < 1_000,
            _ => bound == value,
        },
        (Key::Text(_), Key::Text(value)) if value.chars().count() > 32 => true,
        (bound, value) => bound == value,
    }
}

/// Bounds that need not be there: no reader's clock or number shows them.
fn may_be_absent(data_type: &DataType, extreme: &Key) -> bool {
    const YEAR_1: i128 = -719_162;
    const YEAR_10000: i128 = 2_932_897;
    let (day, value) = match (data_type, extreme) {
        (DataType::Date32, Key::Integer(value)) => (1, *value),
        (DataType::Timestamp(..), Key::Integer(value)) => (86_400_000_000, *value),
        (_, Key::Float(value)) => return !value.is_finite(),
        // Nothing short sorts behind it.
        (_, Key::Text(text)) => return text.starts_with('\u{10ffff}'),
        _ => return false,
    };
    // The last millisecond may be rounded over the edge.
    value < YEAR_1 * day || value > YEAR_10000 * day - 1_000
}

type Section<'a> = Option<&'a Map<String, Value>>;

/// One column against its part of `minValues`, `maxValues` and `nullCount`.
fn check(name: &str, array: &ArrayRef, sections: [Section<'_>; 3], stats: &str, at: &str) {
    let [min, max, nulls] = sections.map(|section| section.and_then(|map| map.get(name)));
    if let Some(inner) = array.as_struct_opt() {
        for (field, column) in inner.fields().iter().zip(inner.columns()) {
            let sections = [min, max, nulls].map(|value| value.and_then(Value::as_object));
            check(field.name(), column, sections, stats, at);
        }
        return;
    }
    let at = format!("{at}, column {name}");
    let null_count = nulls.and_then(Value::as_u64);
    assert_eq!(null_count, Some(array.null_count() as u64), "{at}");
    let Some(keys) = keys(array) else {
        assert!(min.is_none() && max.is_none(), "{at}");
        return;
    };
    let has_nan = keys
        .iter()
        .any(|key| matches!(key, Key::Float(v) if v.is_nan()));
    if keys.is_empty() || has_nan {
        assert!(min.is_none() && max.is_none(), "{at}: bounds of nothing");
        return;
    }
    let data_type = array.data_type();
    let by = |a: &&Key, b: &&Key| a.partial_cmp(b).unwrap();
    let (least, most) = (keys.iter().min_by(by), keys.iter().max_by(by));
    for (section, value, extreme) in [("minValues", min, least), ("maxValues", max, most)] {
        let extreme = extreme.unwrap();
        let Some(value) = value else {
            assert!(may_be_absent(data_type, extreme), "{at}: no {section}");
            continue;
        };
        let bound = bound(data_type, value, spelled(stats, section, name));
        let holds = match section {
            "minValues" => bound <= *extreme,
            _ => bound >= *extreme,
        };
        assert!(holds, "{at}: {section} {bound:?} against {extreme:?}");
        assert!(
            is_near(data_type, &bound, extreme),
            "{at}: {section} {bound:?} is far from {extreme:?}"
        );
    }
}

/// The text of a plain value in a section.
fn spelled<'a>(stats: &'a str, section: &str, name: &str) -> &'a str {
    let (_, rest) = stats.split_once(&format!("\"{section}\":")).unwrap();
    let (_, rest) = rest.split_once(&format!("\"{name}\":")).unwrap();
    rest.split([',', '}']).next().unwrap()
}

#[tokio::test]
async fn statistics_of_random_cells_are_bounds_of_their_rows() {
    for seed in 0..SEEDS {
        let dice = Dice(SeededEntropy::new(seed));
        let rows = 1 + dice.0.below(60) as usize;
        let batches: Vec<_> = (0..1 + dice.0.below(3))
            .map(|_| random_rows(&dice, rows))
            .collect();
        let world = world(256 << 20, 1);
        let schema = batches[0].schema().as_ref().clone();
        let spec = WriteSpec {
            // Several row groups, so that bounds have to be merged.
            row_group_rows_max: 1 + dice.0.below(40) as usize,
            ..spec(schema, &[])
        };
        let written = world.write(&spec, batches).await.unwrap();
        assert!(!written.adds.is_empty());
        for add in &written.adds {
            let text = add.stats.as_deref().unwrap();
            let stats = Statistics::parse(text).unwrap();
            let found = world.read(add).await;
            assert_eq!(stats.num_records, Some(found.num_rows() as u64));
            let sections = [&stats.min_values, &stats.max_values, &stats.null_count];
            for (field, column) in found.schema().fields().iter().zip(found.columns()) {
                let at = format!("seed {seed}");
                check(field.name(), column, sections.map(Some), text, &at);
            }
        }
    }
}
