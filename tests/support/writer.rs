//! Appends to one frame through the Rust crate, a commit each, and says what was acknowledged.
//!
//! `apiary-test-writer URI FRAME WRITER COMMITS ROWS` appends rows `(writer, commit, row)` and prints
//! `ack COMMIT VERSION` after each acknowledged commit. The parent kills it, or starts several.

use apiary::Apiary;
use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use std::error::Error;
use std::io::Write;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, uri, frame, writer, commits, rows] = arguments.as_slice() else {
        return Err("apiary-test-writer URI FRAME WRITER COMMITS ROWS".into());
    };
    let (writer, commits, rows): (i64, i64, i64) =
        (writer.parse()?, commits.parse()?, rows.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let apiary = Apiary::builder(uri).bees(1).open().await?;
        let frame = apiary.frame(frame).await?;
        let fields =
            ["writer", "commit", "row"].map(|name| Field::new(name, DataType::Int64, false));
        let schema = Arc::new(Schema::new(Vec::from(fields)));
        for commit in 0..commits {
            let columns = [
                vec![writer; rows as usize],
                vec![commit; rows as usize],
                (0..rows).collect(),
            ];
            let batch = RecordBatch::try_new(
                schema.clone(),
                columns
                    .map(|values| Arc::new(Int64Array::from(values)) as _)
                    .to_vec(),
            )?;
            let report = frame.write_batches(vec![batch]).await?;
            println!("ack {commit} {}", report.version);
            std::io::stdout().flush()?;
        }
        apiary.shutdown().await?;
        Ok(())
    })
}
