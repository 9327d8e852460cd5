//! What statements see of one version of the registry: hives, boxes and frames that are live.

use crate::error::Result;
use apiary_protocol::ids::FrameId;
use apiary_protocol::names::{FrameName, Name};
use apiary_protocol::registry::{FrameRecord, FrameState, Refusal, Registry};
use std::collections::BTreeMap;

/// A live frame as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// As it is spelled in the registry.
    pub name: FrameName,
    pub id: FrameId,
    /// Relative to the meadow's root; never reused.
    pub location: String,
    /// An existing Delta table that was attached; never purged.
    pub attached: bool,
}

impl FrameEntry {
    pub(super) fn new(name: FrameName, record: &FrameRecord) -> Self {
        Self {
            name,
            id: record.id,
            location: record.location.clone(),
            attached: record.attached,
        }
    }
}

type Boxes = BTreeMap<Name, BTreeMap<Name, FrameEntry>>;

/// One version of the registry: hives, boxes and frames that are live. `default.default` is always
/// among them. Lists are in the order of the folded names.
#[derive(Clone, Debug)]
pub struct RegistryView {
    /// 0 when nothing was ever written.
    pub version: u64,
    hives: BTreeMap<Name, Boxes>,
}

impl Default for RegistryView {
    fn default() -> Self {
        Self::of(&Registry::initial())
    }
}

impl RegistryView {
    pub(super) fn of(registry: &Registry) -> Self {
        let mut hives: BTreeMap<Name, Boxes> = BTreeMap::new();
        for (hive, content) in &registry.hives {
            let boxes = content.boxes.keys();
            let boxes = boxes.map(|name| (name.clone(), BTreeMap::new())).collect();
            hives.insert(hive.clone(), boxes);
        }
        for (name, record) in registry.frames() {
            let boxes = hives.entry(name.hive.clone()).or_default();
            let frames = boxes.entry(name.box_name.clone()).or_default();
            if record.state == FrameState::Live {
                frames.insert(name.frame.clone(), FrameEntry::new(name, record));
            }
        }
        Self {
            version: registry.version,
            hives,
        }
    }

    pub fn hives(&self) -> Vec<Name> {
        self.hives.keys().cloned().collect()
    }

    /// `NotFound` when the hive is missing.
    pub fn boxes(&self, hive: &Name) -> Result<Vec<Name>> {
        Ok(self.boxes_of(hive)?.keys().cloned().collect())
    }

    /// `NotFound` when the hive or the box is missing.
    pub fn frames(&self, hive: &Name, box_name: &Name) -> Result<Vec<FrameEntry>> {
        let frames = self.frames_of(hive, box_name)?;
        Ok(frames.values().cloned().collect())
    }

    /// `NotFound` names what is missing: the hive, the box or the frame.
    pub fn frame(&self, name: &FrameName) -> Result<&FrameEntry> {
        self.frames_of(&name.hive, &name.box_name)?
            .get(&name.frame)
            .ok_or_else(|| super::refused(Refusal::FrameMissing(name.clone())))
    }

    fn boxes_of(&self, hive: &Name) -> Result<&Boxes> {
        self.hives
            .get(hive)
            .ok_or_else(|| super::refused(Refusal::HiveMissing(hive.clone())))
    }

    fn frames_of(&self, hive: &Name, box_name: &Name) -> Result<&BTreeMap<Name, FrameEntry>> {
        self.boxes_of(hive)?
            .get(box_name)
            .ok_or_else(|| super::refused(Refusal::BoxMissing(hive.clone(), box_name.clone())))
    }
}
