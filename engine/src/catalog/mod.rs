//! The registry: which names exist, and the DDL flows that change it.

use crate::error::Result;
use crate::host::Host;
use crate::ledger::Snapshot;
use crate::schema::FrameSchema;
use crate::store::Meadow;
use apiary_protocol::ids::FrameId;
use apiary_protocol::names::{FrameName, Name};
use std::sync::Arc;

/// A live frame as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    pub name: FrameName,
    pub id: FrameId,
    /// Relative to the meadow's root; never reused.
    pub location: String,
    /// An existing Delta table that was attached; never purged.
    pub attached: bool,
}

/// One version of the registry: hives, boxes and frames that are live.
#[derive(Clone, Debug, Default)]
pub struct RegistryView {
    pub version: u64,
    // private maps
}

impl RegistryView {
    pub fn hives(&self) -> Vec<Name> {
        todo!()
    }
    /// `NotFound` when the hive is missing.
    pub fn boxes(&self, hive: &Name) -> Result<Vec<Name>> {
        let _ = hive;
        todo!()
    }
    pub fn frames(&self, hive: &Name, box_name: &Name) -> Result<Vec<FrameEntry>> {
        let _ = (hive, box_name);
        todo!()
    }
    pub fn frame(&self, name: &FrameName) -> Result<&FrameEntry> {
        let _ = name;
        todo!()
    }
}

/// Registry operations. Keeps the newest view it has seen and validates it before each use.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub host: Host,
    pub meadow: Meadow,
}

impl Catalog {
    pub fn new(host: Host, meadow: Meadow) -> Self {
        Self { host, meadow }
    }

    /// The newest view: one probe when nothing changed. Finishes or aborts half-made frames that it
    /// meets only when asked for that name.
    pub async fn view(&self) -> Result<Arc<RegistryView>> {
        todo!()
    }

    /// `if_not_exists`: an existing one is no error. Returns whether it was made.
    pub async fn create_hive(&self, hive: &Name, if_not_exists: bool) -> Result<bool> {
        let _ = (hive, if_not_exists);
        todo!()
    }
    pub async fn create_box(&self, hive: &Name, box_name: &Name, if_not_exists: bool) -> Result<bool> {
        let _ = (hive, box_name, if_not_exists);
        todo!()
    }
    /// Reserves id and location, writes version 0, marks it live.
    pub async fn create_frame(
        &self,
        name: &FrameName,
        schema: &FrameSchema,
        if_not_exists: bool,
    ) -> Result<(FrameEntry, Arc<Snapshot>)> {
        let _ = (name, schema, if_not_exists);
        todo!()
    }
    /// Attaches a Delta table that lies under the meadow's root at `location`.
    pub async fn attach_frame(&self, name: &FrameName, location: &str) -> Result<FrameEntry> {
        let _ = (name, location);
        todo!()
    }
    /// Commits a drop marker to the ledger, then updates the registry; `purge` deletes the data and
    /// that commit last. Returns whether there was one.
    pub async fn drop_frame(&self, name: &FrameName, if_exists: bool, purge: bool) -> Result<bool> {
        let _ = (name, if_exists, purge);
        todo!()
    }
    /// Refused while it has frames, unless `cascade`.
    pub async fn drop_box(&self, hive: &Name, box_name: &Name, if_exists: bool, cascade: bool, purge: bool) -> Result<bool> {
        let _ = (hive, box_name, if_exists, cascade, purge);
        todo!()
    }
    pub async fn drop_hive(&self, hive: &Name, if_exists: bool, cascade: bool, purge: bool) -> Result<bool> {
        let _ = (hive, if_exists, cascade, purge);
        todo!()
    }
}
