//! Which tables we read and write: features by name.
//!
//! A feature that we do not know may change what any byte of the table means, so it is refused by
//! name. Old protocol versions stand for bundles of features, and a table that went through an
//! upgrade lists features that nobody switched on: those are harmless until schema or configuration
//! use them, which is looked up.
//!
//! Appending to a table with `deletionVectors` is safe: our adds carry no vector, and our removes
//! name the vector of the cell that they remove.

use super::{Metadata, Protocol};
use serde_json::Value;
use std::collections::BTreeSet;

/// Understood when reading.
const READABLE: &[&str] = &[
    "appendOnly",
    "deletionVectors",
    "domainMetadata",
    "invariants",
    "timestampNtz",
    "vacuumProtocolCheck",
];

/// Kept when writing. `appendOnly` is obeyed by refusing removes.
const WRITABLE: &[&str] = &[
    "appendOnly",
    "deletionVectors",
    "domainMetadata",
    "timestampNtz",
    "vacuumProtocolCheck",
];

/// Not understood, but visible in schema or configuration when they are switched on.
const DETECTABLE: &[&str] = &[
    "changeDataFeed",
    "checkConstraints",
    "columnMapping",
    "generatedColumns",
    "identityColumns",
    "invariants",
];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Delta table feature {}", .0.join(", "))]
pub struct UnsupportedFeatures(pub Vec<String>);

/// Whether `delta.appendOnly` forbids removing data.
pub fn is_append_only(metadata: &Metadata) -> bool {
    flag(metadata, "delta.appendOnly")
}

/// Refuses tables whose cells we could misread.
pub fn check_readable(protocol: &Protocol, metadata: &Metadata) -> Result<(), UnsupportedFeatures> {
    let mut refused = BTreeSet::new();
    let mapped = column_mapping(metadata);
    match protocol.min_reader_version {
        1 | 2 => {}
        3 => match &protocol.reader_features {
            Some(features) => {
                let known = |f: &str| READABLE.contains(&f) || (f == "columnMapping" && !mapped);
                refused.extend(features.iter().filter(|f| !known(f)).cloned());
            }
            None => {
                refused.insert("minReaderVersion 3 without readerFeatures".to_string());
            }
        },
        version => {
            refused.insert(format!("minReaderVersion {version}"));
        }
    }
    if mapped {
        refused.insert("columnMapping".to_string());
    }
    if metadata.format.provider != "parquet" {
        refused.insert(format!("format {}", metadata.format.provider));
    }
    refuse(refused)
}

/// Refuses tables whose rules for writers we could break. A writable table is readable.
pub fn check_writable(protocol: &Protocol, metadata: &Metadata) -> Result<(), UnsupportedFeatures> {
    check_readable(protocol, metadata)?;
    let mut refused = BTreeSet::new();
    match protocol.min_writer_version {
        1..=6 => {}
        7 => match &protocol.writer_features {
            Some(features) => {
                let known = |f: &str| WRITABLE.contains(&f) || DETECTABLE.contains(&f);
                refused.extend(features.iter().filter(|f| !known(f)).cloned());
            }
            None => {
                refused.insert("minWriterVersion 7 without writerFeatures".to_string());
            }
        },
        version => {
            refused.insert(format!("minWriterVersion {version}"));
        }
    }
    refused.extend(features_in_use(metadata).into_iter().map(str::to_string));
    refuse(refused)
}

fn refuse(refused: BTreeSet<String>) -> Result<(), UnsupportedFeatures> {
    if refused.is_empty() {
        Ok(())
    } else {
        Err(UnsupportedFeatures(refused.into_iter().collect()))
    }
}

/// Which of the [`DETECTABLE`] features are switched on.
fn features_in_use(metadata: &Metadata) -> BTreeSet<&'static str> {
    let mut used = BTreeSet::new();
    if metadata
        .configuration
        .keys()
        .any(|key| key.starts_with("delta.constraints."))
    {
        used.insert("checkConstraints");
    }
    if flag(metadata, "delta.enableChangeDataFeed") {
        used.insert("changeDataFeed");
    }
    if column_mapping(metadata) {
        used.insert("columnMapping");
    }
    // A schema that does not parse is refused elsewhere, with its reason.
    if let Ok(schema) = serde_json::from_str::<Value>(&metadata.schema_string) {
        visit_field_metadata(&schema, &mut |key| match key {
            "delta.invariants" => _ = used.insert("invariants"),
            "delta.generationExpression" => _ = used.insert("generatedColumns"),
            key if key.starts_with("delta.identity.") => _ = used.insert("identityColumns"),
            _ => {}
        });
    }
    used
}

/// Calls `visit` with every key of every `metadata` object of a schema. Depth is bounded by the JSON
/// parser's own limit.
fn visit_field_metadata<'a>(value: &'a Value, visit: &mut impl FnMut(&'a str)) {
    match value {
        Value::Object(object) => {
            for (key, inner) in object {
                match inner {
                    Value::Object(metadata) if key == "metadata" => {
                        metadata.keys().for_each(|key| visit(key));
                    }
                    inner => visit_field_metadata(inner, visit),
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| visit_field_metadata(item, visit)),
        _ => {}
    }
}

fn column_mapping(metadata: &Metadata) -> bool {
    match setting(metadata, "delta.columnMapping.mode") {
        None => false,
        Some(mode) => !mode.eq_ignore_ascii_case("none"),
    }
}

fn flag(metadata: &Metadata, key: &str) -> bool {
    setting(metadata, key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn setting<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a str> {
    metadata.configuration.get(key)?.as_deref()
}

#[cfg(test)]
mod tests {
    use super::super::{Format, StringMap};
    use super::*;

    fn metadata(configuration: &[(&str, &str)], field_metadata: &str) -> Metadata {
        Metadata {
            id: "id".into(),
            name: None,
            description: None,
            format: Format {
                provider: "parquet".into(),
                options: StringMap::new(),
            },
            schema_string: format!(
                r#"{{"type":"struct","fields":[{{"name":"s","nullable":true,"metadata":{{}},"type":{{"type":"struct","fields":[{{"name":"a","type":"long","nullable":true,"metadata":{field_metadata}}}]}}}}]}}"#
            ),
            partition_columns: vec![],
            configuration: configuration
                .iter()
                .map(|(k, v)| (k.to_string(), Some(v.to_string())))
                .collect(),
            created_time: None,
        }
    }

    fn legacy(reader: i32, writer: i32) -> Protocol {
        Protocol {
            min_reader_version: reader,
            min_writer_version: writer,
            reader_features: None,
            writer_features: None,
        }
    }

    fn features(reader: &[&str], writer: &[&str]) -> Protocol {
        let texts = |list: &[&str]| Some(list.iter().map(|f| f.to_string()).collect());
        Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: texts(reader),
            writer_features: texts(writer),
        }
    }

    fn refused(result: Result<(), UnsupportedFeatures>) -> String {
        result.map_or_else(|e| e.0.join(","), |()| String::new())
    }

    #[test]
    fn unknown_reader_features_are_refused_by_name() {
        let plain = metadata(&[], "{}");
        let known = features(
            &["timestampNtz", "deletionVectors", "vacuumProtocolCheck"],
            &[],
        );
        assert_eq!(refused(check_readable(&known, &plain)), "");
        let unknown = features(&["v2Checkpoint", "typeWidening", "timestampNtz"], &[]);
        assert_eq!(
            refused(check_readable(&unknown, &plain)),
            "typeWidening,v2Checkpoint"
        );
        assert_eq!(
            refused(check_readable(&legacy(4, 7), &plain)),
            "minReaderVersion 4"
        );
        let listless = legacy(3, 7);
        assert!(check_readable(&listless, &plain).is_err());
    }

    #[test]
    fn column_mapping_is_refused_only_where_it_is_switched_on() {
        let plain = metadata(&[], "{}");
        let mapped = metadata(&[("delta.columnMapping.mode", "name")], "{}");
        let off = metadata(&[("delta.columnMapping.mode", "none")], "{}");
        assert_eq!(refused(check_readable(&legacy(2, 5), &plain)), "");
        assert_eq!(refused(check_readable(&legacy(2, 5), &off)), "");
        assert_eq!(
            refused(check_readable(&legacy(2, 5), &mapped)),
            "columnMapping"
        );
        let listed = features(&["columnMapping"], &["columnMapping"]);
        assert_eq!(refused(check_writable(&listed, &plain)), "");
        assert_eq!(refused(check_writable(&listed, &mapped)), "columnMapping");
    }

    #[test]
    fn old_writer_versions_are_writable_until_they_use_what_we_do_not_keep() {
        for writer in 1..=6 {
            assert_eq!(
                refused(check_writable(&legacy(1, writer), &metadata(&[], "{}"))),
                ""
            );
        }
        let cases = [
            (
                metadata(&[("delta.constraints.positive", "a > 0")], "{}"),
                "checkConstraints",
            ),
            (
                metadata(&[("delta.enableChangeDataFeed", "true")], "{}"),
                "changeDataFeed",
            ),
            (metadata(&[], r#"{"delta.invariants":"{}"}"#), "invariants"),
            (
                metadata(&[], r#"{"delta.generationExpression":"a+1"}"#),
                "generatedColumns",
            ),
            (
                metadata(&[], r#"{"delta.identity.start":1}"#),
                "identityColumns",
            ),
        ];
        for (metadata, name) in cases {
            assert_eq!(refused(check_writable(&legacy(1, 6), &metadata)), name);
            let listed = features(&[], &[name]);
            assert_eq!(refused(check_writable(&listed, &metadata)), name);
            assert_eq!(refused(check_readable(&legacy(1, 6), &metadata)), "");
        }
    }

    #[test]
    fn invariants_are_found_wherever_a_field_can_be() {
        let field =
            r#"{"name":"a","type":"long","nullable":true,"metadata":{"delta.invariants":"{}"}}"#;
        let inner = format!(r#"{{"type":"struct","fields":[{field}]}}"#);
        let of = |data_type: &str| {
            format!(
                r#"{{"type":"struct","fields":[{{"name":"metadata","nullable":true,"metadata":{{}},"type":{data_type}}}]}}"#
            )
        };
        let schemas = [
            inner.clone(),
            of(&inner),
            of(&of(&inner)),
            of(&format!(
                r#"{{"type":"array","containsNull":true,"elementType":{inner}}}"#
            )),
            of(&format!(
                r#"{{"type":"map","valueContainsNull":true,"keyType":{inner},"valueType":"long"}}"#
            )),
            of(&format!(
                r#"{{"type":"map","valueContainsNull":true,"keyType":"long","valueType":{inner}}}"#
            )),
        ];
        for schema_string in schemas {
            let metadata = Metadata {
                schema_string,
                ..metadata(&[], "{}")
            };
            let checked = check_writable(&legacy(1, 2), &metadata);
            assert_eq!(refused(checked), "invariants", "{}", metadata.schema_string);
        }
    }

    #[test]
    fn unknown_writer_features_are_refused_by_name() {
        let plain = metadata(&[], "{}");
        let protocol = features(
            &["deletionVectors"],
            &["deletionVectors", "rowTracking", "icebergCompatV2"],
        );
        assert_eq!(refused(check_readable(&protocol, &plain)), "");
        assert_eq!(
            refused(check_writable(&protocol, &plain)),
            "icebergCompatV2,rowTracking"
        );
        assert_eq!(
            refused(check_writable(&legacy(1, 8), &plain)),
            "minWriterVersion 8"
        );
    }

    #[test]
    fn append_only_is_read_from_the_configuration() {
        assert!(is_append_only(&metadata(
            &[("delta.appendOnly", "TRUE")],
            "{}"
        )));
        assert!(!is_append_only(&metadata(&[], "{}")));
    }
}
