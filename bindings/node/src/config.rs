//! Settings of the command line: flag over environment over file over default.
//!
//! Every key of a settings file is also a variable `APIARY_<KEY>` and can be set with
//! `--set key=value`. All three are checked by the one table [`KEYS`], so a key means the same
//! wherever it stands. Unknown keys are refused in all three, with the place and the nearest key.

use crate::links::is_link;
use apiary::Settings;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Where data lies when nothing says otherwise.
pub const DEFAULT_STORAGE: &str = "./apiary-data";
pub const DEFAULT_LOG: &str = "warn";
const ENVIRONMENT_PREFIX: &str = "APIARY_";
/// Variables that are no settings: the parser of arguments reads them, or the Python package does.
const OTHER_VARIABLES: [&str; 3] = ["APIARY_CONFIG", "APIARY_HISTORY", "APIARY_PROGRESS"];

/// What a key's text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Text,
    Count,
    Switch,
    /// Bytes: `268435456`, `256MiB`, `1.5 GB`.
    Size,
    /// The same, or `off` for none.
    SizeOrOff,
    /// Milliseconds: `1500ms`, `30s`, `5min`, `1h`; a bare number is milliseconds.
    Duration,
}

/// A key as users write it, the field of [`Settings`] that it sets (none: the command line's own),
/// and what it means.
struct Key {
    name: &'static str,
    field: Option<&'static str>,
    shape: Shape,
    help: &'static str,
}

const fn key(
    name: &'static str,
    field: Option<&'static str>,
    shape: Shape,
    help: &'static str,
) -> Key {
    Key {
        name,
        field,
        shape,
        help,
    }
}

const KEYS: &[Key] = &[
    key(
        "storage",
        None,
        Shape::Text,
        "where the data lies: a directory or a URI",
    ),
    key(
        "log",
        None,
        Shape::Text,
        "log filter, as `info` or `warn,apiary_engine=debug`",
    ),
    key("log_format", None, Shape::Text, "`text` or `json`"),
    key(
        "name",
        Some("name"),
        Shape::Text,
        "name of this node for people",
    ),
    key(
        "memory",
        Some("memory_bytes"),
        Shape::Size,
        "memory that the process may use",
    ),
    key(
        "bees",
        Some("bees"),
        Shape::Count,
        "bees: tasks that run at once, one core each",
    ),
    key(
        "scratch_directory",
        Some("scratch_directory"),
        Shape::Text,
        "where operators spill",
    ),
    key(
        "scratch_max",
        Some("scratch_bytes_max"),
        Shape::Size,
        "most scratch of one task",
    ),
    key(
        "cache",
        Some("cache_bytes_max"),
        Shape::SizeOrOff,
        "most bytes of cells kept on local disk, or `off`",
    ),
    key(
        "cache_directory",
        Some("cache_directory"),
        Shape::Text,
        "where they are kept",
    ),
    key(
        "codec",
        Some("codec"),
        Shape::Text,
        "of new cells: `lz4_raw`, `zstd`, `snappy`, `none`",
    ),
    key(
        "sync",
        Some("sync"),
        Shape::Switch,
        "local commits survive a power cut once acknowledged",
    ),
    key(
        "row_group_rows",
        Some("row_group_rows_max"),
        Shape::Count,
        "rows of a row group",
    ),
    key(
        "target_cell",
        Some("target_cell_bytes"),
        Shape::Size,
        "size of new cells",
    ),
    key(
        "max_partitions",
        Some("max_partitions"),
        Shape::Count,
        "partitions that a write may touch",
    ),
    key(
        "query_deadline",
        Some("query_deadline_ms"),
        Shape::Duration,
        "longest query or write",
    ),
    key(
        "storage_deadline",
        Some("storage_deadline_ms"),
        Shape::Duration,
        "longest storage request",
    ),
    key(
        "backpressure",
        Some("backpressure"),
        Shape::Text,
        "a write on a hot node: `block`, `error`, `ignore`",
    ),
    key(
        "checkpoint_interval",
        Some("checkpoint_interval"),
        Shape::Count,
        "commits between checkpoints",
    ),
    key(
        "keeper_interval",
        Some("keeper_interval_ms"),
        Shape::Duration,
        "pause between two looks of house-keeping",
    ),
    key(
        "keeper_requests",
        Some("keeper_requests_per_minute"),
        Shape::Count,
        "storage requests per minute for house-keeping",
    ),
    key(
        "distribute",
        Some("distribute"),
        Shape::Text,
        "share queries with other nodes: `auto`, `on`, `off`",
    ),
    key(
        "sweep_age",
        Some("sweep_age_ms"),
        Shape::Duration,
        "age of what no version names before it is swept",
    ),
];

/// A setting that is wrong; the text names the key and where it stands. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

type Result<T> = std::result::Result<T, ConfigError>;

fn refuse<T>(text: String) -> Result<T> {
    Err(ConfigError(text))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// All that a command needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    pub storage: String,
    /// Whether somebody named the storage; `demo` has a default of its own.
    pub storage_is_given: bool,
    pub log: String,
    pub log_format: LogFormat,
    pub settings: Settings,
}

/// One layer: key to value, with where it was read, for messages.
type Layer = BTreeMap<&'static str, (Value, String)>;

/// Reads all layers. `flags` are (key, text) pairs in the order given.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Config> {
    let variables = from_environment(environment)?;
    let mut layer = Layer::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("settings file {}: {error}", path.display())))?;
        layer.extend(from_toml(&path.display().to_string(), &text)?);
    }
    layer.extend(variables);
    for (name, text) in flags {
        let place = format!("the flag --{name}");
        let key = known(name).ok_or_else(|| unknown(name, "in --set"))?;
        layer.insert(key.name, (from_text(key, text, &place)?, place));
    }
    assemble(layer)
}

/// The settings table for `--help`.
pub fn keys_help() -> String {
    let mut text = String::new();
    for key in KEYS {
        text.push_str(&format!("  {:<20} {}\n", key.name, key.help));
    }
    text
}

fn known(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn unknown(name: &str, place: &str) -> ConfigError {
    let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    let nearest = names
        .iter()
        .min_by_key(|known| distance(known, name))
        .copied()
        .unwrap_or_default();
    ConfigError(format!(
        "unknown setting {name:?} {place}; the nearest is {nearest:?}; there are: {}",
        names.join(", ")
    ))
}

/// How many letters must be put in, left out or changed to make one text of the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

fn from_environment(environment: impl Iterator<Item = (String, String)>) -> Result<Layer> {
    let mut layer = Layer::new();
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else {
            continue;
        };
        if OTHER_VARIABLES.contains(&variable.as_str()) {
            continue;
        }
        // Whatever it says, a key of ours is not a link (`NAME` is both).
        if known(&name.to_ascii_lowercase()).is_none() && is_link(name, &text) {
            continue;
        }
        let name = name.to_ascii_lowercase();
        let place = format!("the variable {variable}");
        let key = known(&name).ok_or_else(|| unknown(&name, &format!("from {place}")))?;
        layer.insert(key.name, (from_text(key, &text, &place)?, place));
    }
    Ok(layer)
}

fn from_toml(file: &str, text: &str) -> Result<Layer> {
    let table: toml::Table = text
        .parse()
        .map_err(|error| ConfigError(format!("settings file {file}: {error}")))?;
    let mut layer = Layer::new();
    for (name, value) in table {
        let key =
            known(&name).ok_or_else(|| unknown(&name, &format!("in settings file {file}")))?;
        let place = format!("settings file {file}");
        let value = match (key.shape, value) {
            (_, toml::Value::String(text)) => from_text(key, &text, &place)?,
            (
                Shape::Count | Shape::Size | Shape::SizeOrOff | Shape::Duration,
                toml::Value::Integer(number),
            ) if number >= 0 => Value::from(number),
            (Shape::Switch, toml::Value::Boolean(switch)) => Value::from(switch),
            (shape, value) => return refuse(wrong(key, &value.to_string(), &place, shape)),
        };
        layer.insert(key.name, (value, place));
    }
    Ok(layer)
}

fn from_text(key: &Key, text: &str, place: &str) -> Result<Value> {
    let text = text.trim();
    let value = match key.shape {
        Shape::Text => (!text.is_empty()).then(|| Value::from(text)),
        Shape::Count => text.replace('_', "").parse::<u64>().ok().map(Value::from),
        Shape::Switch => match text {
            "true" | "on" | "yes" | "1" => Some(Value::from(true)),
            "false" | "off" | "no" | "0" => Some(Value::from(false)),
            _ => None,
        },
        Shape::SizeOrOff if text == "off" => Some(Value::from(0)),
        Shape::Size | Shape::SizeOrOff => parse_size(text).map(Value::from),
        Shape::Duration => parse_duration_ms(text).map(Value::from),
    };
    value.ok_or_else(|| ConfigError(wrong(key, text, place, key.shape)))
}

fn wrong(key: &Key, text: &str, place: &str, shape: Shape) -> String {
    let wanted = match shape {
        Shape::Text => "a text",
        Shape::Count => "a whole number",
        Shape::Switch => "true or false",
        Shape::Size => "a size such as 256MiB",
        Shape::SizeOrOff => "a size such as 4GiB, or off",
        Shape::Duration => "a duration such as 30s, 5min or 1500ms",
    };
    format!(
        "setting {} in {place} is {text:?}; it wants {wanted}",
        key.name
    )
}

fn assemble(mut layer: Layer) -> Result<Config> {
    let mut own = |name: &str| {
        let (value, place) = layer.remove(name)?;
        value.as_str().map(|text| (text.to_owned(), place))
    };
    let storage = own("storage");
    let log = own("log").map_or_else(|| DEFAULT_LOG.to_owned(), |(text, _)| text);
    let log_format = match own("log_format") {
        None => LogFormat::Text,
        Some((text, _)) if text == "text" => LogFormat::Text,
        Some((text, _)) if text == "json" => LogFormat::Json,
        Some((text, place)) => {
            return refuse(format!(
                "setting log_format in {place} is {text:?}; text or json"
            ));
        }
    };
    let mut fields = Map::new();
    for (name, (value, place)) in layer {
        let Some(field) = known(name).and_then(|key| key.field) else {
            continue;
        };
        // One at a time, so that a value that is refused (an unknown codec) is named with its place.
        let single = Value::from(Map::from_iter([(field.to_owned(), value.clone())]));
        if let Err(error) = serde_json::from_value::<Settings>(single) {
            return refuse(format!("setting {name} in {place}: {error}"));
        }
        fields.insert(field.to_owned(), value);
    }
    let settings = serde_json::from_value(Value::from(fields))
        .map_err(|error| ConfigError(error.to_string()))?;
    Ok(Config {
        storage_is_given: storage.is_some(),
        storage: storage.map_or_else(|| DEFAULT_STORAGE.to_owned(), |(text, _)| text),
        log,
        log_format,
        settings,
    })
}

/// Bytes: a number and an optional unit (B, kB, KiB, MB, MiB, GB, GiB, TB, TiB, or K, M, G, T, which
/// are binary), in any case.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "t" | "tib" => 1024f64.powi(4),
        _ => return None,
    };
    let bytes = number * factor;
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

fn parse_duration_ms(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor: f64 = match unit {
        "" | "ms" => 1.0,
        "s" => 1e3,
        "m" | "min" => 60e3,
        "h" => 3600e3,
        _ => return None,
    };
    let milliseconds = number * factor;
    (milliseconds < u64::MAX as f64).then_some(milliseconds as u64)
}

fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

#[cfg(test)]
mod tests;
