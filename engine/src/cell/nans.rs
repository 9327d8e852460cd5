//! Which float columns of a cell hold no NaN.
//!
//! Parquet's bounds leave NaN out, which sorts above (or with its sign set, below) all other values, and
//! do not say whether there is one. So they mean nothing for a filter, unless the footer's key-value
//! metadata says under [`KEY`] that the column has none: the numbers of those leaf columns, separated
//! by blanks. The bounds in the ledger have `nanCount` for the same.
//!
//! Floats inside lists and maps are not watched, and nothing is said of them.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Fields, Float32Type, Float64Type};
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use std::collections::BTreeSet;

pub const KEY: &str = "apiary.without_nan";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// No float, or one that is not watched.
    Nothing,
    Numbers,
    Nan,
}

/// Notes per leaf column what Parquet's statistics do not say: whether a NaN was written.
#[derive(Clone, Debug)]
pub struct NanWatch(Vec<Seen>);

impl NanWatch {
    /// Watches the float columns of a file with these fields, also those in structs.
    pub fn new(fields: &Fields) -> Self {
        let mut leaves = Vec::new();
        watch(fields, &mut leaves);
        Self(leaves)
    }

    /// Looks at a top-level column whose first leaf is `leaf`; returns the leaf after it.
    pub fn observe(&mut self, column: &ArrayRef, leaf: usize) -> usize {
        let has_nan = match column.data_type() {
            DataType::Float32 => {
                let values = column.as_primitive::<Float32Type>().values();
                values.iter().any(|value| value.is_nan())
            }
            DataType::Float64 => {
                let values = column.as_primitive::<Float64Type>().values();
                values.iter().any(|value| value.is_nan())
            }
            DataType::Struct(_) => {
                let columns = column.as_struct().columns();
                return columns.iter().fold(leaf, |leaf, c| self.observe(c, leaf));
            }
            _ => false,
        };
        if has_nan && let Some(seen) = self.0.get_mut(leaf) {
            *seen = Seen::Nan;
        }
        leaf + leaf_count(column.data_type())
    }

    pub fn has_nan(&self, leaf: usize) -> bool {
        self.0.get(leaf).is_none_or(|seen| *seen == Seen::Nan)
    }

    /// Whether it is a float column that was watched and has no NaN.
    pub fn is_free(&self, leaf: usize) -> bool {
        self.0.get(leaf) == Some(&Seen::Numbers)
    }

    /// What the footer says; nothing where there is no such column.
    pub fn entry(&self) -> Option<KeyValue> {
        let free = (0..self.0.len()).filter(|leaf| self.is_free(*leaf));
        let free: Vec<String> = free.map(|leaf| leaf.to_string()).collect();
        (!free.is_empty()).then(|| KeyValue::new(KEY.into(), free.join(" ")))
    }
}

fn watch(fields: &Fields, leaves: &mut Vec<Seen>) {
    for field in fields {
        match field.data_type() {
            DataType::Struct(fields) => watch(fields, leaves),
            DataType::Float32 | DataType::Float64 => leaves.push(Seen::Numbers),
            other => leaves.extend(std::iter::repeat_n(Seen::Nothing, leaf_count(other))),
        }
    }
}

/// Parquet leaf columns of a type.
pub fn leaf_count(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|f| leaf_count(f.data_type())).sum(),
        DataType::List(field) | DataType::Map(field, _) => leaf_count(field.data_type()),
        _ => 1,
    }
}

/// The leaf columns of which a footer says that they hold no NaN.
pub fn columns_without(metadata: &ParquetMetaData) -> BTreeSet<usize> {
    let entries = metadata.file_metadata().key_value_metadata();
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == KEY));
    let text = entry.and_then(|entry| entry.value.as_deref());
    let numbers = text.unwrap_or_default().split_ascii_whitespace();
    numbers.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, ListArray, StructArray};
    use arrow::datatypes::{Field, Schema};
    use std::sync::Arc;

    #[test]
    fn floats_in_structs_are_watched_and_those_in_lists_are_not() {
        let floats = |value| Arc::new(Float64Array::from(vec![1.0, value])) as ArrayRef;
        let field = |name, column: &ArrayRef| Field::new(name, column.data_type().clone(), true);
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let (good, bad) = (floats(2.0), floats(f64::NAN));
        let inner = vec![
            (Arc::new(field("good", &good)), good.clone()),
            (Arc::new(field("bad", &bad)), bad.clone()),
        ];
        let inner: ArrayRef = Arc::new(StructArray::from(inner));
        let lists = vec![Some(vec![Some(f64::NAN)]), None];
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists));
        let columns = [("a", whole), ("s", inner), ("l", lists), ("f", good)];
        let fields: Vec<Field> = columns.iter().map(|(name, c)| field(name, c)).collect();
        let mut nans = NanWatch::new(Schema::new(fields).fields());
        let next = columns
            .iter()
            .fold(0, |leaf, (_, column)| nans.observe(column, leaf));
        assert_eq!(next, 5);
        assert_eq!(nans.entry().unwrap().value.as_deref(), Some("1 4"));
        assert!(nans.has_nan(2) && !nans.has_nan(3) && nans.has_nan(5));
    }
}
