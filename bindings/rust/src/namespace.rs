//! Hives and boxes as objects.

use crate::frame::{Frame, InputError, first_columns, same_columns};
use crate::node::Apiary;
use apiary_actors::{WriteOptions, WriteReport};
use apiary_engine::Result;
use apiary_engine::schema::FrameSchema;
use apiary_protocol::names::{FrameName, Name};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::Stream;

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
        let (hive, box_name) = (self.name.clone(), name.clone());
        let what = format!("making box {hive}.{name}");
        self.apiary
            .change_names(&what, |catalog| async move {
                catalog.create_box(&hive, &box_name, true).await
            })
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
        let hive = self.name.clone();
        let what = format!("dropping box {hive}.{name}");
        self.apiary
            .change_names(&what, |catalog| async move {
                catalog.drop_box(&hive, &name, true, cascade, purge).await
            })
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
        let schema = FrameSchema::new(schema, owned(partition_by))?;
        let frame = name.clone();
        self.apiary
            .change_names(&format!("making frame {name}"), |catalog| async move {
                catalog.create_frame(&frame, &schema, true).await
            })
            .await?;
        Ok(Frame::new(self.apiary.clone(), name))
    }

    /// Makes a frame with these columns and a stream's rows, in one commit: nobody sees it without
    /// them. Memory stays bounded however long the stream is.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a frame of that name, also when somebody made one meanwhile;
    /// `Rejected` for data that does not fit. Then, as after any error but `OutcomeUnknown`, nothing
    /// was made.
    pub async fn create_frame_from<S, E>(
        &self,
        name: &str,
        schema: SchemaRef,
        partition_by: &[&str],
        batches: S,
        options: WriteOptions,
    ) -> Result<WriteReport>
    where
        S: Stream<Item = std::result::Result<RecordBatch, E>> + Send + 'static,
        E: Into<InputError>,
    {
        let name = self.frame_name(name)?;
        let columns = FrameSchema::new(schema.clone(), owned(partition_by))?;
        let (first, batches) = first_columns(&self.apiary, batches, &options).await?;
        let input = same_columns(first.unwrap_or(schema), batches);
        let node = self.apiary.node();
        self.apiary
            .run(node.create_frame_from(&name, columns, input, options))
            .await
    }

    /// Makes a frame of a Delta table that lies in the storage already, at `location` under its root.
    pub async fn attach_frame(&self, name: &str, location: &str) -> Result<Frame> {
        let name = self.frame_name(name)?;
        let (frame, location) = (name.clone(), location.to_owned());
        self.apiary
            .change_names(&format!("attaching frame {name}"), |catalog| async move {
                catalog.attach_frame(&frame, &location).await
            })
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
            .change_names(&format!("dropping frame {name}"), |catalog| async move {
                catalog.drop_frame(&name, true, purge).await
            })
            .await
    }

    fn frame_name(&self, name: &str) -> Result<FrameName> {
        let frame = Name::new("frame", name)?;
        Ok(FrameName::new(self.hive.clone(), self.name.clone(), frame))
    }
}

fn owned(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|&column| column.to_owned()).collect()
}
