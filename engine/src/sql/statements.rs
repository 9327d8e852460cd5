//! Statements that are neither queries nor writes: names, DDL, and the session.
//!
//! Their answers are small batches made here; nothing of them is planned.

use super::{Environment, Session, Statement};
use crate::catalog::RegistryView;
use crate::error::{Error, Result};
use crate::schema::FrameSchema;
use apiary_protocol::names::{FrameName, Name};
use arrow::array::{ArrayRef, StringArray};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::comparison::ilike;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;

/// Runs a statement that is neither a query nor a write of rows. Returns the session after it and
/// its rows, if it has any. CREATE TABLE … AS and INSERT are the caller's, as queries are.
pub async fn run_catalog_statement(
    environment: &Environment,
    session: &Session,
    statement: &Statement,
) -> Result<(Session, Option<RecordBatch>)> {
    let unchanged = |rows| Ok((session.clone(), rows));
    match statement {
        Statement::UseHive(_) | Statement::UseBox(_) => {
            use_names(environment, session, statement).await
        }
        Statement::ShowHives { .. }
        | Statement::ShowBoxes { .. }
        | Statement::ShowFrames { .. }
        | Statement::ShowColumns { .. } => {
            unchanged(Some(show(environment, session, statement).await?))
        }
        Statement::Describe { frame } => {
            unchanged(Some(describe(environment, &session.resolve(frame)?).await?))
        }
        Statement::CreateHive { .. }
        | Statement::CreateBox { .. }
        | Statement::CreateFrame { .. }
        | Statement::AttachFrame { .. } => {
            create(environment, session, statement).await?;
            unchanged(None)
        }
        Statement::DropHive { .. } | Statement::DropBox { .. } | Statement::DropFrame { .. } => {
            drop_names(environment, session, statement).await?;
            unchanged(None)
        }
        Statement::CreateFrameAs { .. } | Statement::Insert { .. } | Statement::Query(_) => Err(
            Error::Bug("a query was given to where catalog statements run".into()),
        ),
    }
}

async fn use_names(
    environment: &Environment,
    session: &Session,
    statement: &Statement,
) -> Result<(Session, Option<RecordBatch>)> {
    let view = environment.catalog.view().await?;
    let next = match statement {
        Statement::UseHive(hive) => Session {
            hive: known_hive(&view, hive)?,
            box_name: Name::new("box", "default")?,
        },
        Statement::UseBox(box_name) => {
            let name = Name::new("box", box_name)?;
            let known = view
                .boxes(&session.hive)?
                .into_iter()
                .find(|known| *known == name);
            let not_found = || Error::NotFound {
                what: format!("box {}.{name}", session.hive),
            };
            Session {
                hive: session.hive.clone(),
                box_name: known.ok_or_else(not_found)?,
            }
        }
        _ => session.clone(),
    };
    let message = format!("using {}.{}", next.hive, next.box_name);
    let rows = texts(&[("message", vec![message])])?;
    Ok((next, Some(rows)))
}

fn known_hive(view: &RegistryView, hive: &str) -> Result<Name> {
    let name = Name::new("hive", hive)?;
    let known = view.hives().into_iter().find(|known| *known == name);
    known.ok_or_else(|| Error::NotFound {
        what: format!("hive {name}"),
    })
}

async fn show(
    environment: &Environment,
    session: &Session,
    statement: &Statement,
) -> Result<RecordBatch> {
    let view = environment.catalog.view().await?;
    let names = |names: Vec<Name>| names.iter().map(ToString::to_string).collect();
    let all = match statement {
        Statement::ShowBoxes { hive, .. } => {
            let hive = session.hive_or_own(hive.as_deref())?;
            texts(&[("box", names(view.boxes(&hive)?))])
        }
        Statement::ShowFrames { hive, box_name, .. } => {
            let (hive, box_name) = session.box_or_own(hive.as_deref(), box_name.as_deref())?;
            let frames = view.frames(&hive, &box_name)?;
            texts(&[(
                "frame",
                frames
                    .iter()
                    .map(|entry| entry.name.frame.to_string())
                    .collect(),
            )])
        }
        Statement::ShowColumns { frame, .. } => {
            let entry = view.frame(&session.resolve(frame)?)?;
            let snapshot = environment.snapshots.snapshot(entry).await?;
            let fields = snapshot.schema.logical.fields();
            let yes_or_no = |yes: bool| if yes { "YES" } else { "NO" }.to_string();
            let is_partition = |name: &String| snapshot.schema.partition_columns.contains(name);
            texts(&[
                (
                    "column",
                    fields.iter().map(|field| field.name().clone()).collect(),
                ),
                (
                    "type",
                    fields
                        .iter()
                        .map(|field| type_name(field.data_type()))
                        .collect(),
                ),
                (
                    "nullable",
                    fields
                        .iter()
                        .map(|field| yes_or_no(field.is_nullable()))
                        .collect(),
                ),
                (
                    "partition",
                    fields
                        .iter()
                        .map(|field| yes_or_no(is_partition(field.name())))
                        .collect(),
                ),
            ])
        }
        _ => texts(&[("hive", names(view.hives()))]),
    }?;
    match statement {
        Statement::ShowHives { like: Some(like) }
        | Statement::ShowBoxes {
            like: Some(like), ..
        }
        | Statement::ShowFrames {
            like: Some(like), ..
        }
        | Statement::ShowColumns {
            like: Some(like), ..
        } => only_like(&all, like),
        _ => Ok(all),
    }
}

/// The rows whose first column is like a pattern, ignoring case, as names are compared.
fn only_like(all: &RecordBatch, pattern: &str) -> Result<RecordBatch> {
    let pattern = StringArray::new_scalar(pattern);
    let matching = ilike(all.column(0), &pattern)
        .map_err(|error| Error::rejected(format!("SQL error: LIKE: {error}")))?;
    filter_record_batch(all, &matching).map_err(|error| Error::Bug(error.to_string()))
}

/// `property` and `value`: the frame's shape and size first, where it is after that.
async fn describe(environment: &Environment, name: &FrameName) -> Result<RecordBatch> {
    let view = environment.catalog.view().await?;
    let entry = view.frame(name)?;
    let snapshot = environment.snapshots.snapshot(entry).await?;
    let column = |field: &Arc<Field>| {
        let nullability = if field.is_nullable() { "" } else { " NOT NULL" };
        format!(
            "{} {}{nullability}",
            field.name(),
            type_name(field.data_type())
        )
    };
    let columns: Vec<String> = snapshot
        .schema
        .logical
        .fields()
        .iter()
        .map(column)
        .collect();
    let rows = [
        ("schema", columns.join(", ")),
        ("partition_by", snapshot.schema.partition_columns.join(", ")),
        ("cells", snapshot.cell_count().to_string()),
        (
            "total_rows",
            snapshot
                .row_count()
                .map_or_else(|| "unknown".into(), |rows| rows.to_string()),
        ),
        ("total_bytes", snapshot.total_bytes().to_string()),
        ("name", entry.name.to_string()),
        ("id", entry.id.to_string()),
        ("location", entry.location.clone()),
        ("version", snapshot.version.to_string()),
        ("attached", entry.attached.to_string()),
    ];
    let (properties, values) = rows
        .into_iter()
        .map(|(property, value)| (property.to_string(), value))
        .unzip();
    texts(&[("property", properties), ("value", values)])
}

/// A type as people write it: string views are strings.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8View => DataType::Utf8.to_string(),
        DataType::BinaryView => DataType::Binary.to_string(),
        other => other.to_string(),
    }
}

async fn create(environment: &Environment, session: &Session, statement: &Statement) -> Result<()> {
    let catalog = &environment.catalog;
    match statement {
        Statement::CreateHive {
            hive,
            if_not_exists,
        } => {
            catalog
                .create_hive(&Name::new("hive", hive)?, *if_not_exists)
                .await?;
        }
        Statement::CreateBox {
            hive,
            box_name,
            if_not_exists,
        } => {
            let (hive, box_name) = session.box_or_own(hive.as_deref(), Some(box_name))?;
            catalog.create_box(&hive, &box_name, *if_not_exists).await?;
        }
        Statement::CreateFrame {
            frame,
            schema,
            partition_by,
            if_not_exists,
        } => {
            let name = session.resolve(frame)?;
            let schema = FrameSchema::new(Arc::clone(schema), partition_by.clone())?;
            catalog.create_frame(&name, &schema, *if_not_exists).await?;
        }
        Statement::AttachFrame {
            frame,
            location,
            if_not_exists,
        } => {
            let name = session.resolve(frame)?;
            match catalog.attach_frame(&name, location).await {
                Err(Error::AlreadyExists { .. }) if *if_not_exists => {}
                result => drop(result?),
            }
        }
        _ => {}
    }
    Ok(())
}

async fn drop_names(
    environment: &Environment,
    session: &Session,
    statement: &Statement,
) -> Result<()> {
    let catalog = &environment.catalog;
    match statement {
        Statement::DropHive {
            hive,
            if_exists,
            cascade,
            purge,
        } => {
            catalog
                .drop_hive(&Name::new("hive", hive)?, *if_exists, *cascade, *purge)
                .await?;
        }
        Statement::DropBox {
            hive,
            box_name,
            if_exists,
            cascade,
            purge,
        } => {
            let (hive, box_name) = session.box_or_own(hive.as_deref(), Some(box_name))?;
            catalog
                .drop_box(&hive, &box_name, *if_exists, *cascade, *purge)
                .await?;
        }
        Statement::DropFrame {
            frame,
            if_exists,
            purge,
        } => {
            catalog
                .drop_frame(&session.resolve(frame)?, *if_exists, *purge)
                .await?;
        }
        _ => {}
    }
    Ok(())
}

/// A batch of text columns.
pub(super) fn texts(columns: &[(&str, Vec<String>)]) -> Result<RecordBatch> {
    let field = |(name, _): &(&str, Vec<String>)| Field::new(*name, DataType::Utf8, false);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let array =
        |(_, values): &(&str, Vec<String>)| Arc::new(StringArray::from(values.clone())) as ArrayRef;
    RecordBatch::try_new(Arc::new(schema), columns.iter().map(array).collect())
        .map_err(|error| Error::Bug(error.to_string()))
}
