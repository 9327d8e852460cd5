//! `load`: files into a frame, in one commit.
//!
//! A load that fails leaves the storage as it was: nothing is committed, and a frame that was made
//! for it is dropped again.

use crate::args::Load;
use crate::failure::{Failure, Result};
use crate::input::{Input, TextOptions};
use crate::progress::Meter;
use crate::run::written;
use crate::signals::Interrupts;
use apiary::arrow::datatypes::SchemaRef;
use apiary::{Apiary, Error, Frame, FrameName, WriteOptions, WriteReport};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub async fn load(options: Load, apiary: &Apiary, interrupts: &Interrupts) -> Result<()> {
    let name = apiary.resolve(&options.frame)?;
    let existing = match apiary.frame(&options.frame).await {
        Ok(frame) => Some(frame),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if existing.is_some() && !options.partition_by.is_empty() {
        return Err(Failure::Usage(format!(
            "frame {name} exists, and its partitioning stays; leave --partition-by out"
        )));
    }
    let columns = match &existing {
        Some(frame) => Some(frame.schema().await?),
        None => None,
    };
    let text = TextOptions {
        delimiter: options.delimiter.map(delimiter).transpose()?,
        null: options.null.clone(),
        infer_rows: options.infer_rows,
    };
    let input = Input::examine(&options.files, options.format, text, columns.as_ref())?;
    let (frame, is_new) = match existing {
        Some(frame) => (frame, false),
        None => (
            create(apiary, &name, &input.schema, &options.partition_by).await?,
            true,
        ),
    };
    let outcome = tokio::select! {
        biased;
        () = interrupts.asked() => Err(Failure::Cancelled),
        outcome = write(&frame, input, options.overwrite) => outcome,
    };
    match outcome {
        Ok(report) => {
            eprintln!("{name}: {}", written(&report));
            Ok(())
        }
        Err(failure) => {
            if is_new && !is_unknown(&failure) {
                undo(apiary, &name).await;
            }
            Err(failure)
        }
    }
}

async fn write(frame: &Frame, input: Input, overwrite: bool) -> Result<WriteReport> {
    let done = Arc::new(AtomicU64::new(0));
    let _meter = Meter::of_load(input.total_bytes, done.clone());
    let options = WriteOptions {
        overwrite,
        ..Default::default()
    };
    Ok(frame.write_with(input.stream(done)?, options).await?)
}

async fn create(
    apiary: &Apiary,
    name: &FrameName,
    schema: &SchemaRef,
    partition_by: &[String],
) -> Result<Frame> {
    let columns: Vec<&str> = partition_by.iter().map(String::as_str).collect();
    let hive = apiary.hive(name.hive.as_str()).await?;
    let box_ns = hive.box_ns(name.box_name.as_str()).await?;
    Ok(box_ns
        .create_frame(name.frame.as_str(), schema.clone(), &columns)
        .await?)
}

/// Takes the frame away that was made for a load that failed.
async fn undo(apiary: &Apiary, name: &FrameName) {
    let undone = async {
        let hive = apiary.hive(name.hive.as_str()).await?;
        let box_ns = hive.box_ns(name.box_name.as_str()).await?;
        box_ns.drop_frame(name.frame.as_str(), true).await
    };
    if let Err(error) = undone.await {
        eprintln!("frame {name} was made for this load and stays, empty: {error}");
    }
}

/// Then rows may be there, and the frame must stay.
fn is_unknown(failure: &Failure) -> bool {
    matches!(failure, Failure::Apiary(error) if error.kind() == apiary::ErrorKind::OutcomeUnknown)
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
