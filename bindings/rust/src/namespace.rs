//! Hives and boxes as objects.

use crate::frame::Frame;
use crate::node::Apiary;
use apiary_engine::Result;
use apiary_engine::schema::FrameSchema;
use apiary_protocol::names::{FrameName, Name};
use arrow::datatypes::SchemaRef;

/// How far a drop goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropOptions {
    /// Also drops what is inside; without it, a drop is refused while there are frames.
    pub cascade: bool,
    /// Also deletes the data. Attached tables keep theirs.
    pub purge: bool,
}

/// A hive (database). A name and a handle; it holds no state of its own.
#[derive(Clone, Debug)]
pub struct Hive {
    apiary: Apiary,
    name: Name,
}

impl Hive {
    pub(crate) fn new(apiary: Apiary, name: Name) -> Self {
        Self { apiary, name }
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Makes a box; one that exists is given as it is.
    ///
    /// # Errors
    /// `NotFound` when the hive was dropped.
    pub async fn create_box(&self, name: &str) -> Result<BoxNs> {
        let name = Name::new("box", name)?;
        let catalog = self.apiary.node().catalog();
        self.apiary
            .run(catalog.create_box(&self.name, &name, true))
            .await?;
        Ok(self.member(name))
    }

    /// A box that exists.
    ///
    /// # Errors
    /// `NotFound` when it does not.
    pub async fn box_ns(&self, name: &str) -> Result<BoxNs> {
        let name = Name::new("box", name)?;
        self.apiary.view().await?.frames(&self.name, &name)?;
        Ok(self.member(name))
    }

    /// All boxes, by name.
    pub async fn boxes(&self) -> Result<Vec<BoxNs>> {
        let view = self.apiary.view().await?;
        Ok(view
            .boxes(&self.name)?
            .into_iter()
            .map(|name| self.member(name))
            .collect())
    }

    /// Drops a box; says whether there was one.
    ///
    /// # Errors
    /// `Rejected` while it has frames, unless `options.cascade`.
    pub async fn drop_box(&self, name: &str, options: DropOptions) -> Result<bool> {
        let name = Name::new("box", name)?;
        let DropOptions { cascade, purge } = options;
        let catalog = self.apiary.node().catalog();
        self.apiary
            .run(catalog.drop_box(&self.name, &name, true, cascade, purge))
            .await
    }

    fn member(&self, name: Name) -> BoxNs {
        BoxNs {
            apiary: self.apiary.clone(),
            hive: self.name.clone(),
            name,
        }
    }
}

/// A box (schema) of a hive. `Box` is Rust's; hence the longer name.
#[derive(Clone, Debug)]
pub struct BoxNs {
    apiary: Apiary,
    hive: Name,
    name: Name,
}

impl BoxNs {
    pub fn hive(&self) -> &Name {
        &self.hive
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Makes a frame with these columns; one that exists under the name is given as it is.
    /// `partition_by` names the columns whose values become directories, in order.
    ///
    /// # Errors
    /// `Unsupported` or `Rejected`, naming the column, for a type or name that a frame cannot have.
    pub async fn create_frame(
        &self,
        name: &str,
        schema: SchemaRef,
        partition_by: &[&str],
    ) -> Result<Frame> {
        let name = self.frame_name(name)?;
        let partition_by = partition_by
            .iter()
            .map(|&column| column.to_owned())
            .collect();
        let schema = FrameSchema::new(schema, partition_by)?;
        let catalog = self.apiary.node().catalog();
        self.apiary
            .run(catalog.create_frame(&name, &schema, true))
            .await?;
        Ok(Frame::new(self.apiary.clone(), name))
    }

    /// Makes a frame of a Delta table that lies in the storage already, at `location` under its root.
    pub async fn attach_frame(&self, name: &str, location: &str) -> Result<Frame> {
        let name = self.frame_name(name)?;
        self.apiary
            .run(self.apiary.node().catalog().attach_frame(&name, location))
            .await?;
        Ok(Frame::new(self.apiary.clone(), name))
    }

    /// A frame that exists.
    ///
    /// # Errors
    /// `NotFound` when it does not.
    pub async fn frame(&self, name: &str) -> Result<Frame> {
        let name = self.frame_name(name)?;
        self.apiary.view().await?.frame(&name)?;
        Ok(Frame::new(self.apiary.clone(), name))
    }

    /// All frames, by name.
    pub async fn frames(&self) -> Result<Vec<Frame>> {
        let view = self.apiary.view().await?;
        let frames = view.frames(&self.hive, &self.name)?.into_iter();
        Ok(frames
            .map(|entry| Frame::new(self.apiary.clone(), entry.name))
            .collect())
    }

    /// Drops a frame; says whether there was one. With `purge` its data is deleted too.
    pub async fn drop_frame(&self, name: &str, purge: bool) -> Result<bool> {
        let name = self.frame_name(name)?;
        self.apiary
            .run(self.apiary.node().catalog().drop_frame(&name, true, purge))
            .await
    }

    fn frame_name(&self, name: &str) -> Result<FrameName> {
        let frame = Name::new("frame", name)?;
        Ok(FrameName::new(self.hive.clone(), self.name.clone(), frame))
    }
}
