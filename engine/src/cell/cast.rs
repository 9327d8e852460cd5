//! Brings one column of a batch to a frame's type, or says which row cannot come along.
//!
//! Never changes a value silently: a cast is widening, or proved exact value by value; float64 to
//! float32, which rounds, is the one exception. Works on the type a frame shows (*logical*) first
//! and on the type that is written after that, so uint8's bounds hold although it is stored in 16
//! bits.

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options, kernels::cmp};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use arrow::util::display::array_value_to_string;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::schema::types;

/// Why a column was not accepted.
#[derive(Debug)]
pub struct Refusal {
    /// Row in the array that was given; `None` when the type alone is the reason.
    pub row: Option<usize>,
    /// `column.field.element…`
    pub path: String,
    pub reason: String,
}

type Outcome<T = ArrayRef> = Result<T, Refusal>;

fn refuse<T>(row: Option<usize>, path: &str, reason: impl Into<String>) -> Outcome<T> {
    Err(Refusal {
        row,
        path: path.into(),
        reason: reason.into(),
    })
}

/// A column (or nested field) as `logical` wants it, in the type that is written. `outer` are the
/// nulls of what encloses it: below a null, a required field may be null too.
pub fn convert_field(
    array: &ArrayRef,
    logical: &Field,
    written: &DataType,
    path: &str,
    outer: Option<&NullBuffer>,
    warnings: &mut BTreeSet<String>,
) -> Outcome {
    let converted = convert(array, logical.data_type(), written, path, warnings)?;
    if !logical.is_nullable()
        && let Some(nulls) = converted.logical_nulls()
    {
        let missing = (0..nulls.len())
            .find(|row| nulls.is_null(*row) && outer.is_none_or(|outer| outer.is_valid(*row)));
        if let Some(row) = missing {
            return refuse(
                Some(row),
                path,
                "is null, and the column does not allow null",
            );
        }
    }
    Ok(converted)
}

fn convert(
    array: &ArrayRef,
    logical: &DataType,
    written: &DataType,
    path: &str,
    warnings: &mut BTreeSet<String>,
) -> Outcome {
    use DataType::*;
    match (array.data_type(), logical, written) {
        (Dictionary(_, value), _, _) => {
            let plain = plain_cast(array, value, path)?;
            convert(&plain, logical, written, path, warnings)
        }
        (RunEndEncoded(_, values), _, _) => {
            let plain = plain_cast(array, &values.data_type().clone(), path)?;
            convert(&plain, logical, written, path, warnings)
        }
        (Null, _, _) => Ok(new_null_array(written, array.len())),
        (Struct(_), Struct(fields), Struct(written)) => {
            convert_struct(array.as_struct(), fields, written, path, warnings)
        }
        (Map(_, _), Map(entries, _), Map(written, _)) => {
            convert_map(array.as_map(), entries, written, path, warnings)
        }
        (LargeList(e) | FixedSizeList(e, _) | ListView(e) | LargeListView(e), List(_), _) => {
            let list = plain_cast(array, &List(e.clone()), path)?;
            convert(&list, logical, written, path, warnings)
        }
        (List(_), List(element), List(written)) => {
            convert_list(array.as_list(), element, written, path, warnings)
        }
        (from, _, _) if from.is_nested() || logical.is_nested() => {
            refuse(None, path, no_cast(from, logical))
        }
        _ => convert_leaf(array, logical, written, path),
    }
}

fn no_cast(from: &DataType, to: &DataType) -> String {
    format!("is {from} and cannot be stored as {to} without loss; cast it before writing")
}

fn plain_cast(array: &ArrayRef, to: &DataType, path: &str) -> Outcome {
    let options = CastOptions {
        safe: false,
        ..Default::default()
    };
    cast_with_options(array, to, &options).map_err(|error| Refusal {
        row: None,
        path: path.into(),
        reason: format!("cannot be read as {to}: {error}"),
    })
}

fn convert_struct(
    array: &StructArray,
    fields: &Fields,
    written: &Fields,
    path: &str,
    warnings: &mut BTreeSet<String>,
) -> Outcome {
    let plan = match_fields(array.fields(), fields, path, warnings)?;
    let mut columns = Vec::with_capacity(fields.len());
    for ((field, target), source) in fields.iter().zip(written).zip(plan) {
        let path = format!("{path}.{}", field.name());
        columns.push(match source {
            Some(index) => {
                let column = array.column(index);
                convert_field(
                    column,
                    field,
                    target.data_type(),
                    &path,
                    array.nulls(),
                    warnings,
                )?
            }
            None => new_null_array(target.data_type(), array.len()),
        });
    }
    StructArray::try_new_with_length(
        written.clone(),
        columns,
        array.nulls().cloned(),
        array.len(),
    )
    .map(|array| Arc::new(array) as ArrayRef)
    .or_else(|error| refuse(None, path, error.to_string()))
}

/// For each wanted field the index of the given one: the exact name first, then the only one that
/// differs in case alone. Extra fields are warned of; a missing one must be nullable.
pub fn match_fields(
    given: &Fields,
    wanted: &Fields,
    path: &str,
    warnings: &mut BTreeSet<String>,
) -> Outcome<Vec<Option<usize>>> {
    let name = |field: &str| {
        if path.is_empty() {
            field.into()
        } else {
            format!("{path}.{field}")
        }
    };
    let mut plan = Vec::with_capacity(wanted.len());
    for field in wanted {
        let mut exact = (0..given.len()).filter(|index| given[*index].name() == field.name());
        let (exact, again) = (exact.next(), exact.next());
        let folded = field.name().to_lowercase();
        let similar: Vec<usize> = (0..given.len())
            .filter(|index| given[*index].name().to_lowercase() == folded)
            .collect();
        plan.push(match (exact, similar.as_slice()) {
            (Some(_), _) if again.is_some() => {
                return refuse(None, &name(field.name()), "is given twice; name it once");
            }
            (Some(index), _) => Some(index),
            (None, [index]) => Some(*index),
            (None, []) if field.is_nullable() => None,
            (None, []) => {
                let reason = "is missing, and the column does not allow null; add it to the rows";
                return refuse(None, &name(field.name()), reason);
            }
            (None, _) => {
                let reason = "is given in several spellings; use the frame's";
                return refuse(None, &name(field.name()), reason);
            }
        });
    }
    for (index, field) in given.iter().enumerate() {
        if !plan.contains(&Some(index)) {
            warnings.insert(format!(
                "column {:?} is not in the frame and was dropped",
                name(field.name())
            ));
        }
    }
    Ok(plan)
}

/// Rows of a list that child rows belong to.
fn parent_row(offsets: &[i32], child: usize) -> usize {
    let first = offsets.first().copied().unwrap_or(0);
    offsets
        .partition_point(|offset| (offset - first) as usize <= child)
        .saturating_sub(1)
}

fn rebased(offsets: &[i32]) -> (OffsetBuffer<i32>, usize, usize) {
    let first = offsets.first().copied().unwrap_or(0);
    let last = offsets.last().copied().unwrap_or(0);
    let shifted: ScalarBuffer<i32> = offsets.iter().map(|offset| offset - first).collect();
    (
        OffsetBuffer::new(shifted),
        first as usize,
        (last - first) as usize,
    )
}

fn convert_list(
    list: &ListArray,
    element: &Field,
    written: &FieldRef,
    path: &str,
    warnings: &mut BTreeSet<String>,
) -> Outcome {
    let (offsets, first, length) = rebased(list.value_offsets());
    let child = list.values().slice(first, length);
    let inner = format!("{path}.element");
    let values = convert_field(&child, element, written.data_type(), &inner, None, warnings)
        .map_err(|refusal| Refusal {
            row: refusal.row.map(|row| parent_row(&offsets, row)),
            ..refusal
        })?;
    ListArray::try_new(written.clone(), offsets, values, list.nulls().cloned())
        .map(|array| Arc::new(array) as ArrayRef)
        .or_else(|error| refuse(None, path, error.to_string()))
}

fn convert_map(
    map: &MapArray,
    entries: &Field,
    written: &FieldRef,
    path: &str,
    warnings: &mut BTreeSet<String>,
) -> Outcome {
    let (Some((key, value)), Some((key_to, value_to))) =
        (types::map_fields(entries), types::map_fields(written))
    else {
        return refuse(None, path, "is not a map of keys and values");
    };
    let (offsets, first, length) = rebased(map.value_offsets());
    let mut part = |column: &ArrayRef, field: &Field, to: &Field| {
        let inner = format!("{path}.{}", field.name());
        let column = column.slice(first, length);
        convert_field(&column, field, to.data_type(), &inner, None, warnings).map_err(|refusal| {
            Refusal {
                row: refusal.row.map(|row| parent_row(&offsets, row)),
                ..refusal
            }
        })
    };
    let columns = vec![
        part(map.keys(), key, key_to)?,
        part(map.values(), value, value_to)?,
    ];
    let DataType::Struct(fields) = written.data_type() else {
        return refuse(None, path, "is not a map of keys and values");
    };
    StructArray::try_new(fields.clone(), columns, None)
        .and_then(|entries| {
            MapArray::try_new(
                written.clone(),
                offsets,
                entries,
                map.nulls().cloned(),
                false,
            )
        })
        .map(|array| Arc::new(array) as ArrayRef)
        .or_else(|error| refuse(None, path, error.to_string()))
}

fn convert_leaf(array: &ArrayRef, logical: &DataType, written: &DataType, path: &str) -> Outcome {
    use DataType::*;
    let from = array.data_type();
    let shown = match (from, logical) {
        (from, logical) if from == logical => array.clone(),
        (Utf8 | LargeUtf8 | Utf8View, Utf8View)
        | (Binary | LargeBinary | BinaryView | FixedSizeBinary(_), BinaryView) => {
            return plain_cast(array, written, path);
        }
        (from, to) if from.is_integer() && (to.is_integer() || matches!(to, Decimal128(_, _))) => {
            checked(array, to, path)?
        }
        (from, Float32 | Float64) if from.is_integer() => exact(array, logical, path)?,
        (Float16, Float32 | Float64) | (Float32, Float64) => plain_cast(array, logical, path)?,
        (Float64, Float32) => narrowed_float(array, path)?,
        (
            Decimal32(_, _) | Decimal64(_, _) | Decimal128(_, _) | Decimal256(_, _),
            Decimal128(_, _),
        )
        | (Date64, Date32)
        | (Date32, Timestamp(_, None)) => exact(array, logical, path)?,
        (Timestamp(_, zone), Timestamp(_, wanted)) if zone.is_some() == wanted.is_some() => {
            exact(array, logical, path)?
        }
        (Timestamp(_, None), Timestamp(_, Some(_))) => {
            return refuse(
                None,
                path,
                "is a timestamp without zone; cast it to one with a zone",
            );
        }
        (Timestamp(_, Some(_)), Timestamp(_, None)) => {
            return refuse(
                None,
                path,
                "is a timestamp with zone; cast it to one without zone",
            );
        }
        _ => return refuse(None, path, no_cast(from, logical)),
    };
    match logical {
        _ if logical == written => Ok(shown),
        Timestamp(TimeUnit::Nanosecond, _) => exact(&shown, written, path),
        _ => plain_cast(&shown, written, path),
    }
}

/// A cast in which every value must have a place.
fn checked(array: &ArrayRef, to: &DataType, path: &str) -> Outcome {
    let options = CastOptions {
        safe: true,
        ..Default::default()
    };
    let cast = cast_with_options(array, to, &options)
        .or_else(|error| refuse(None, path, format!("cannot be stored as {to}: {error}")))?;
    if cast.null_count() > array.null_count() {
        let lost = (0..array.len()).find(|row| array.is_valid(*row) && cast.is_null(*row));
        return refuse(lost, path, does_not_fit(array, lost, to));
    }
    Ok(cast)
}

/// A cast that leads back to the same values.
fn exact(array: &ArrayRef, to: &DataType, path: &str) -> Outcome {
    let cast = checked(array, to, path)?;
    let options = CastOptions {
        safe: true,
        ..Default::default()
    };
    let changed = cast_with_options(&cast, array.data_type(), &options)
        .and_then(|back| cmp::distinct(array, &back))
        .or_else(|error| refuse(None, path, format!("cannot be stored as {to}: {error}")))?;
    match changed.values().set_indices().next() {
        None => Ok(cast),
        row => refuse(row, path, does_not_fit(array, row, to)),
    }
}

/// float64 to float32: rounds; a finite value that would become infinite is refused.
fn narrowed_float(array: &ArrayRef, path: &str) -> Outcome {
    let cast = plain_cast(array, &DataType::Float32, path)?;
    let wide = array.as_primitive::<arrow::datatypes::Float64Type>();
    let narrow = cast.as_primitive::<arrow::datatypes::Float32Type>();
    let lost = (0..wide.len()).find(|row| {
        wide.is_valid(*row) && wide.value(*row).is_finite() && narrow.value(*row).is_infinite()
    });
    match lost {
        None => Ok(cast),
        row => refuse(row, path, does_not_fit(array, row, &DataType::Float32)),
    }
}

fn does_not_fit(array: &ArrayRef, row: Option<usize>, to: &DataType) -> String {
    let value = row
        .and_then(|row| array_value_to_string(array, row).ok())
        .unwrap_or_default();
    let value: String = value.chars().take(64).collect();
    format!("holds {value}, which does not fit {to} exactly; change the value or the column's type")
}
