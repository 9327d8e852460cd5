//! The registry: which hives, boxes and frames exist, one document per version.
//!
//! Maps a name to (frame id, location, state) and to nothing else: schema and partitioning live in
//! the frame's ledger. Transitions are pure: they give the next document or say why not. They do no
//! I/O and draw no ids; the caller brings them, and writes the result as the next version.
//!
//! Invariants ([`Registry::check`]):
//! - names are unique ignoring case on each level; `default.default` is always there;
//! - frame ids are unique among frames, and so are locations: none lies inside another;
//! - a location that a frame was made at, or that was attached, is in `used_locations` or carries
//!   the frame's id, so that no later frame is made there;
//! - a frame goes creating → live → dropping → gone, or creating → gone; an attached one live → gone.

mod transitions;

use crate::format::FormatError;
use crate::ids::{ChangeId, FrameId};
use crate::keys;
use crate::names::{FrameName, Name, fold};
use crate::sealed_json::{self, Document};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

pub const DEFAULT_HIVE: &str = "default";
pub const DEFAULT_BOX: &str = "default";

/// Key of a ledger's `metaData.configuration` that says that the frame was dropped: whoever finds it
/// in a commit that won must not rebase on it.
pub const DROPPED_PROPERTY: &str = "apiary.dropped";

/// One version of the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registry {
    pub version: u64,
    /// Unique; tells this change from every other that tried for the same version.
    pub change: ChangeId,
    #[serde(deserialize_with = "unique_names")]
    pub hives: BTreeMap<Name, Hive>,
    /// Dropped frames whose data is being deleted, by location.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub purging: BTreeMap<String, FrameId>,
    /// Locations (folded) where no new frame may be made, because one was there. Those with an id in
    /// their name are left out: nobody draws the same id again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub used_locations: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hive {
    #[serde(deserialize_with = "unique_names")]
    pub boxes: BTreeMap<Name, FrameBox>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FrameBox {
    #[serde(deserialize_with = "unique_names")]
    pub frames: BTreeMap<Name, FrameRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRecord {
    pub id: FrameId,
    /// Relative to the meadow's root.
    pub location: String,
    pub state: FrameState,
    /// An existing Delta table that was attached: never purged, its ledger not touched by a drop.
    #[serde(default, skip_serializing_if = "is_false")]
    pub attached: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameState {
    /// Id and location are reserved; version 0 of the ledger may or may not be there.
    Creating,
    Live,
    /// Gone for readers; its ledger may not say so yet.
    Dropping,
    /// As `Dropping`, and its data goes as well.
    DroppingWithData,
}

impl FrameState {
    pub fn is_dropping(self) -> bool {
        matches!(self, Self::Dropping | Self::DroppingWithData)
    }
}

/// Why a transition is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("hive {0} not found")]
    HiveMissing(Name),
    #[error("box {0}.{1} not found")]
    BoxMissing(Name, Name),
    #[error("frame {0} not found")]
    FrameMissing(FrameName),
    #[error("hive {0} already exists")]
    HiveExists(Name),
    #[error("box {0}.{1} already exists")]
    BoxExists(Name, Name),
    /// There is one, in whatever state.
    #[error("frame {0} already exists")]
    FrameExists(FrameName),
    /// There is another frame of that name by now: the one that was meant is gone.
    #[error("frame {0} was replaced by another")]
    FrameReplaced(FrameName),
    #[error("frame {name} is {state:?}")]
    WrongState { name: FrameName, state: FrameState },
    #[error("{what} is not empty: it holds {example}; drop that first, or use CASCADE")]
    NotEmpty { what: String, example: String },
    #[error("{0} always exists and cannot be dropped")]
    Permanent(String),
    #[error("location {location} overlaps {other}, which belongs to frame {frame}")]
    LocationTaken {
        location: String,
        other: String,
        frame: FrameName,
    },
    #[error("location {0} is being deleted; wait until that is done")]
    LocationPurging(String),
    #[error(transparent)]
    Location(#[from] keys::KeyError),
}

/// Where the newest registry version is, as somebody saw it: a hint, never the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryHead {
    pub version: u64,
}

impl Document for Registry {
    const KIND: &'static str = "registry";
    const FORMAT: u32 = 1;
}

impl Document for RegistryHead {
    const KIND: &'static str = "registry-head";
    const FORMAT: u32 = 1;
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Reads a map and refuses a name that is in it twice, in whatever spelling: serde would silently
/// keep the last one.
fn unique_names<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Name, T>, D::Error> {
    struct Unique<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Unique<T> {
        type Value = BTreeMap<Name, T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of names")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((name, value)) = entries.next_entry::<Name, T>()? {
                let shown = name.to_string();
                if map.insert(name, value).is_some() {
                    return Err(serde::de::Error::custom(format!(
                        "the name {shown} is there twice"
                    )));
                }
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Unique(PhantomData))
}

/// The names that always exist; they pass every check that names must pass.
fn default_names() -> Option<(Name, Name)> {
    Some((
        Name::new("hive", DEFAULT_HIVE).ok()?,
        Name::new("box", DEFAULT_BOX).ok()?,
    ))
}

impl Registry {
    /// What holds before the first version is written: version 0, `default.default`.
    pub fn initial() -> Self {
        let mut registry = Self {
            version: 0,
            change: ChangeId::from_random([0; 16]),
            hives: BTreeMap::new(),
            purging: BTreeMap::new(),
            used_locations: BTreeSet::new(),
        };
        registry.insert_default();
        registry
    }

    fn insert_default(&mut self) {
        if let Some((hive, box_name)) = default_names() {
            self.hives
                .entry(hive)
                .or_default()
                .boxes
                .entry(box_name)
                .or_default();
        }
    }

    /// The next version with this content.
    pub fn succeed(mut self, predecessor: u64, change: ChangeId) -> Self {
        self.version = predecessor + 1;
        self.change = change;
        self
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        self.check().map_err(FormatError::Corrupt)?;
        sealed_json::seal(self)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut registry: Self = sealed_json::open(bytes)?;
        registry.insert_default();
        registry.check().map_err(FormatError::Corrupt)?;
        Ok(registry)
    }

    /// All frames in name order, in every state.
    pub fn frames(&self) -> impl Iterator<Item = (FrameName, &FrameRecord)> {
        self.hives.iter().flat_map(|(hive, content)| {
            content.boxes.iter().flat_map(move |(box_name, content)| {
                content.frames.iter().map(move |(frame, record)| {
                    (
                        FrameName::new(hive.clone(), box_name.clone(), frame.clone()),
                        record,
                    )
                })
            })
        })
    }

    /// The record of a name, in whatever state, with the name as it is spelled in the registry.
    pub fn frame(&self, name: &FrameName) -> Result<(FrameName, &FrameRecord), Refusal> {
        let (hive, content) = self.hive(&name.hive)?;
        let Some((box_name, content)) = content.boxes.get_key_value(&name.box_name) else {
            return Err(Refusal::BoxMissing(hive.clone(), name.box_name.clone()));
        };
        match content.frames.get_key_value(&name.frame) {
            Some((frame, record)) => Ok((
                FrameName::new(hive.clone(), box_name.clone(), frame.clone()),
                record,
            )),
            None => Err(Refusal::FrameMissing(name.clone())),
        }
    }

    /// A hive and its registered spelling.
    pub fn hive(&self, name: &Name) -> Result<(&Name, &Hive), Refusal> {
        self.hives
            .get_key_value(name)
            .ok_or_else(|| Refusal::HiveMissing(name.clone()))
    }

    /// A box and its registered spelling.
    pub fn frame_box(&self, hive: &Name, name: &Name) -> Result<(&Name, &FrameBox), Refusal> {
        let (hive, content) = self.hive(hive)?;
        content
            .boxes
            .get_key_value(name)
            .ok_or_else(|| Refusal::BoxMissing(hive.clone(), name.clone()))
    }

    /// The invariants of this module, as far as one document shows them.
    pub fn check(&self) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        let mut locations: Vec<String> =
            self.purging.keys().map(|location| fold(location)).collect();
        for (name, record) in self.frames() {
            if !ids.insert(record.id) {
                return Err(format!("two frames have the id {}", record.id));
            }
            keys::check_location(&record.location).map_err(|error| error.to_string())?;
            if record.attached && record.state == FrameState::Creating {
                return Err(format!("frame {name} is attached and being made at once"));
            }
            let folded = fold(&record.location);
            let carries_id = folded.ends_with(&format!(".{}", record.id.short()));
            if !carries_id && !self.used_locations.contains(&folded) {
                return Err(format!(
                    "location {} of frame {name} is not marked as used",
                    record.location
                ));
            }
            locations.push(folded);
        }
        // By parts, so that what lies inside a location follows it.
        locations.sort_by(|a, b| a.split('/').cmp(b.split('/')));
        for pair in locations.windows(2) {
            if keys::locations_overlap(&pair[0], &pair[1]) {
                return Err(format!("locations {} and {} overlap", pair[0], pair[1]));
            }
        }
        for location in self.purging.keys() {
            keys::check_location(location).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

impl RegistryHead {
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        sealed_json::seal(self)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        sealed_json::open(bytes)
    }
}

#[cfg(test)]
mod tests;
