//! Names: from what a statement says to one snapshot of one frame.
//!
//! Names of hives, boxes and frames are unique ignoring case, so quoted and unquoted spellings find
//! the same thing. Within one query a frame is looked up once, whatever it is called and however
//! often: QUERY-1.

use super::plan::SNAPSHOTS_AT_ONCE;
use super::provider::FrameProvider;
use super::{Environment, Session};
use crate::catalog::RegistryView;
use crate::error::{Error, Result};
use crate::ledger::Snapshot;
use apiary_protocol::names::{FrameName, Name};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::datasource::TableType;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::OnceCell;

impl Session {
    /// `default.default`
    pub fn new() -> Result<Self> {
        Ok(Self {
            hive: Name::new("hive", "default")?,
            box_name: Name::new("box", "default")?,
        })
    }

    /// Completes a one-, two- or three-part name.
    pub fn resolve(&self, parts: &[String]) -> Result<FrameName> {
        match parts {
            [frame] => Ok(FrameName::new(
                self.hive.clone(),
                self.box_name.clone(),
                Name::new("frame", frame)?,
            )),
            [box_name, frame] => Ok(FrameName::new(
                self.hive.clone(),
                Name::new("box", box_name)?,
                Name::new("frame", frame)?,
            )),
            [hive, box_name, frame] => Ok(FrameName::parse(hive, box_name, frame)?),
            _ => Err(Error::rejected(format!(
                "{:?} is not a frame's name: it has one to three parts, hive.box.frame",
                parts.join(".")
            ))),
        }
    }

    /// The named hive, or the session's.
    pub fn hive_or_own(&self, hive: Option<&str>) -> Result<Name> {
        match hive {
            Some(hive) => Ok(Name::new("hive", hive)?),
            None => Ok(self.hive.clone()),
        }
    }

    /// The named box, or the session's.
    pub fn box_or_own(&self, hive: Option<&str>, box_name: Option<&str>) -> Result<(Name, Name)> {
        let box_name = match box_name {
            Some(box_name) => Name::new("box", box_name)?,
            None => self.box_name.clone(),
        };
        Ok((self.hive_or_own(hive)?, box_name))
    }
}

/// The frames that a query reads, at the snapshots that it sees. None of a plan that was read back.
#[derive(Clone, Debug, Default)]
pub struct Frames(pub(super) Option<Arc<QueryFrames>>);

impl Frames {
    /// In the order of the names: for conflict rules and EXPLAIN.
    pub fn snapshots(&self) -> Vec<(FrameName, Arc<Snapshot>)> {
        self.0
            .as_ref()
            .map_or_else(Vec::new, |frames| frames.snapshots())
    }
}

/// The frames that one query has met.
#[derive(Debug)]
pub struct QueryFrames {
    environment: Environment,
    view: Arc<RegistryView>,
    met: Mutex<BTreeMap<FrameName, Arc<OnceCell<Arc<FrameProvider>>>>>,
    /// Frames that `fetch_all` could not read.
    unreadable: Mutex<BTreeSet<FrameName>>,
}

impl QueryFrames {
    pub(super) fn new(environment: &Environment, view: Arc<RegistryView>) -> Arc<Self> {
        Arc::new(Self {
            environment: environment.clone(),
            view,
            met: Mutex::default(),
            unreadable: Mutex::default(),
        })
    }

    /// The frame at its snapshot of this query.
    pub(super) async fn frame(&self, name: &FrameName) -> Result<Arc<FrameProvider>> {
        let entry = self.view.frame(name)?.clone();
        let cell = Arc::clone(self.met.lock().entry(entry.name.clone()).or_default());
        let made = cell.get_or_try_init(|| async {
            let snapshot = self.environment.snapshots.snapshot(&entry).await?;
            let Environment { meadow, caches, .. } = &self.environment;
            Ok::<_, Error>(Arc::new(FrameProvider::new(
                entry,
                snapshot,
                meadow.clone(),
                Arc::clone(caches),
            )))
        });
        made.await.cloned()
    }

    /// Fetches every frame, for the lists of `information_schema`, which would otherwise wait for one
    /// after the other. An unreadable frame is missing in those lists and logged; a query that names
    /// it fails and says why.
    pub(super) async fn fetch_all(&self) {
        let mut names = vec![];
        for hive in self.view.hives() {
            for box_name in self.view.boxes(&hive).unwrap_or_default() {
                let frames = self.view.frames(&hive, &box_name).unwrap_or_default();
                names.extend(frames.into_iter().map(|entry| entry.name));
            }
        }
        let fetched = stream::iter(names).map(|name| async move {
            if let Err(error) = self.frame(&name).await {
                tracing::warn!(frame = %name, %error, "left out of information_schema");
                self.unreadable.lock().insert(name);
            }
        });
        fetched.buffer_unordered(SNAPSHOTS_AT_ONCE).collect().await
    }

    /// Whether it goes by this view, and so by what it says of every name.
    pub(super) fn is_of(&self, view: &Arc<RegistryView>) -> bool {
        Arc::ptr_eq(&self.view, view)
    }

    /// What was met, in the order of the names.
    fn snapshots(&self) -> Vec<(FrameName, Arc<Snapshot>)> {
        let met = self.met.lock();
        met.iter()
            .filter_map(|(name, cell)| Some((name.clone(), Arc::clone(&cell.get()?.snapshot))))
            .collect()
    }
}

/// All hives, as DataFusion's catalogs.
#[derive(Debug)]
pub(super) struct Hives(pub Arc<QueryFrames>);

impl CatalogProviderList for Hives {
    fn register_catalog(
        &self,
        _: String,
        _: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        self.0
            .view
            .hives()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let name = Name::new("hive", name).ok()?;
        let hive = self.0.view.hives().into_iter().find(|hive| *hive == name)?;
        Some(Arc::new(Hive {
            frames: Arc::clone(&self.0),
            hive,
        }))
    }
}

#[derive(Debug)]
struct Hive {
    frames: Arc<QueryFrames>,
    hive: Name,
}

impl Hive {
    fn boxes(&self) -> Vec<Name> {
        self.frames.view.boxes(&self.hive).unwrap_or_default()
    }
}

impl CatalogProvider for Hive {
    fn schema_names(&self) -> Vec<String> {
        self.boxes().iter().map(ToString::to_string).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let name = Name::new("box", name).ok()?;
        let box_name = self
            .boxes()
            .into_iter()
            .find(|box_name| *box_name == name)?;
        Some(Arc::new(FrameBox {
            frames: Arc::clone(&self.frames),
            hive: self.hive.clone(),
            box_name,
        }))
    }
}

#[derive(Debug)]
struct FrameBox {
    frames: Arc<QueryFrames>,
    hive: Name,
    box_name: Name,
}

impl FrameBox {
    fn name(&self, frame: &str) -> Option<FrameName> {
        let name = FrameName::new(
            self.hive.clone(),
            self.box_name.clone(),
            Name::new("frame", frame).ok()?,
        );
        self.frames
            .view
            .frame(&name)
            .ok()
            .map(|entry| entry.name.clone())
    }
}

#[async_trait]
impl SchemaProvider for FrameBox {
    fn table_names(&self) -> Vec<String> {
        let frames = self
            .frames
            .view
            .frames(&self.hive, &self.box_name)
            .unwrap_or_default();
        frames
            .iter()
            .map(|entry| entry.name.frame.to_string())
            .collect()
    }

    async fn table(
        &self,
        name: &str,
    ) -> datafusion::common::Result<Option<Arc<dyn TableProvider>>> {
        match self.name(name) {
            Some(name) if self.frames.unreadable.lock().contains(&name) => Ok(None),
            Some(name) => Ok(Some(self.frames.frame(&name).await?)),
            None => Ok(None),
        }
    }

    /// Without a look at the ledger.
    async fn table_type(&self, name: &str) -> datafusion::common::Result<Option<TableType>> {
        Ok(self.name(name).map(|_| TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.name(name).is_some()
    }
}
