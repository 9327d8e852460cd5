//! `add.stats`: what a cell holds, as JSON inside JSON.
//!
//! Statistics are hints that make reading cheaper. They were written by whoever wrote the cell, so a
//! reader that finds none, or nonsense, does without.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One cell's statistics. Column names are keys; a struct column is an object of its fields.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    /// Rows in the file, before deletion vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_records: Option<u64>,
    /// Lower bounds, rounded down where they are not exact.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub min_values: Map<String, Value>,
    /// Upper bounds, rounded up where they are not exact.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub max_values: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub null_count: Map<String, Value>,
    /// `false` when rows were deleted since: bounds still hold, but may not be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tight_bounds: Option<bool>,
}

impl Statistics {
    /// `None` when the text is not statistics.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// `numRecords` alone, without building the rest.
    pub fn parse_row_count(text: &str) -> Option<u64> {
        #[derive(Deserialize)]
        struct RowCount {
            #[serde(rename = "numRecords")]
            num_records: Option<u64>,
        }
        serde_json::from_str::<RowCount>(text).ok()?.num_records
    }

    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_survive_their_text() {
        let text = r#"{"numRecords":3,"minValues":{"a":1,"s":{"x":"k"}},"maxValues":{"a":9},"nullCount":{"a":0,"s":{"x":1}},"tightBounds":false}"#;
        let statistics = Statistics::parse(text).unwrap();
        assert_eq!(statistics.encode(), text);
        assert_eq!(Statistics::parse_row_count(text), Some(3));
    }

    #[test]
    fn nonsense_is_no_statistics() {
        for text in [
            "",
            "null",
            "[]",
            r#"{"numRecords":-1}"#,
            r#"{"numRecords":"x"}"#,
            "{",
        ] {
            assert_eq!(Statistics::parse_row_count(text), None, "{text}");
        }
        assert_eq!(Statistics::parse_row_count("{}"), None);
    }
}
