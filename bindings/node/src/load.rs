//! `load`: files into a frame, in one commit.
//!
//! A load that fails leaves the storage as it was: nothing is committed, and a frame that does not
//! exist is made together with its rows.

use crate::args::{FileFormat, Load};
use crate::failure::{Failure, Result};
use crate::input::{Input, TextOptions};
use crate::progress::Meter;
use crate::run::written;
use crate::signals::{Interrupts, in_thread};
use apiary::arrow::array::RecordBatch;
use apiary::arrow::datatypes::SchemaRef;
use apiary::{
    Apiary, CancellationToken, Error, Frame, FrameName, InputError, WriteOptions, WriteReport,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub async fn load(options: Load, apiary: &Apiary, interrupts: &Interrupts) -> Result<()> {
    let name = apiary.resolve(&options.frame)?;
    let find = async {
        match apiary.frame(&options.frame).await {
            Ok(frame) => Ok(Some(frame)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let existing = interrupts.or_cancelled(find).await?;
    let report = match existing {
        Some(frame) => append(&options, &frame, interrupts).await?,
        None => match make(&options, apiary, &name, interrupts).await {
            // Somebody was faster: a frame that exists, as any other.
            Err(Failure::Apiary(Error::AlreadyExists { .. })) => {
                let frame = apiary.frame(&options.frame).await?;
                append(&options, &frame, interrupts).await?
            }
            made => made?,
        },
    };
    eprintln!("{name}: {}", written(&report));
    Ok(())
}

/// Looks at the files, for a frame that exists or for a new one. Changes nothing.
async fn examine(options: &Load, frame: Option<&Frame>, interrupts: &Interrupts) -> Result<Input> {
    let text = TextOptions {
        delimiter: options.delimiter.map(delimiter).transpose()?,
        null: options.null.clone(),
        infer_rows: options.infer_rows,
    };
    let examine = async {
        let columns = match frame {
            Some(frame) => Some(frame.schema().await?),
            None => None,
        };
        examine_files(options.files.clone(), options.format, text, columns).await
    };
    interrupts.or_cancelled(examine).await
}

/// [`Input::examine`] on a thread of its own: a file may come slowly, or never, as that of a pipe does
/// that nobody writes to. When this is dropped the thread is left behind, and ends with the process.
pub async fn examine_files(
    files: Vec<PathBuf>,
    format: Option<FileFormat>,
    text: TextOptions,
    existing: Option<SchemaRef>,
) -> Result<Input> {
    let examine = move || Input::examine(&files, format, text, existing.as_ref());
    in_thread("apiary-examine", examine).await
}

/// Into a frame that exists.
async fn append(options: &Load, frame: &Frame, interrupts: &Interrupts) -> Result<WriteReport> {
    if !options.partition_by.is_empty() {
        return Err(Failure::Usage(format!(
            "frame {} exists, and its partitioning stays; leave --partition-by out",
            frame.name()
        )));
    }
    let input = examine(options, Some(frame), interrupts).await?;
    write(input, options.overwrite, interrupts, async |rows, how| {
        frame.write_with(rows, how).await
    })
    .await
}

/// Into a frame that does not exist, and does so only once the rows are in it.
async fn make(
    options: &Load,
    apiary: &Apiary,
    name: &FrameName,
    interrupts: &Interrupts,
) -> Result<WriteReport> {
    let input = examine(options, None, interrupts).await?;
    let (schema, columns) = (input.schema.clone(), &options.partition_by);
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let hive = apiary.hive(name.hive.as_str()).await?;
    let box_ns = hive.box_ns(name.box_name.as_str()).await?;
    let frame = name.frame.as_str();
    write(input, options.overwrite, interrupts, async |rows, how| {
        box_ns
            .create_frame_from(frame, schema, &columns, rows, how)
            .await
    })
    .await
}

type Rows = BoxStream<'static, std::result::Result<RecordBatch, InputError>>;

async fn write(
    input: Input,
    overwrite: bool,
    interrupts: &Interrupts,
    into: impl AsyncFnOnce(Rows, WriteOptions) -> apiary::Result<WriteReport>,
) -> Result<WriteReport> {
    let done = Arc::new(AtomicU64::new(0));
    let _meter = Meter::of_load(input.total_bytes, done.clone());
    let cancel = CancellationToken::new();
    let how = WriteOptions {
        overwrite,
        cancel: Some(cancel.clone()),
        ..Default::default()
    };
    let rows = input.stream(done)?.boxed();
    match interrupts.told(&cancel, into(rows, how)).await {
        Err(Error::Cancelled) => Err(Failure::Cancelled),
        report => Ok(report?),
    }
}

fn delimiter(character: char) -> Result<u8> {
    u8::try_from(character)
        .ok()
        .filter(u8::is_ascii)
        .ok_or_else(|| {
            Failure::Usage(format!(
                "--delimiter {character:?}: only an ASCII character"
            ))
        })
}
