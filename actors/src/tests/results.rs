use super::{numbers, numbers_schema, settle};
use crate::chamber::Chambers;
use crate::results::{ResultsBudget, run_ahead};
use apiary_engine::behavior::mason::plan_division;
use apiary_engine::error::{Error, ErrorKind};
use apiary_engine::host::testing;
use apiary_engine::settings::Settings;
use arrow::array::Int64Array;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use std::io::Write;
use std::path::Path;
use tokio::runtime::Handle;

fn chamber() -> crate::chamber::Chamber {
    let division = plan_division(256 << 20, 1);
    let chambers =
        Chambers::new(&testing::host(), &Settings::default(), division, None).expect("chambers");
    chambers.open(1).expect("a chamber")
}

fn values(batches: &[RecordBatch]) -> Vec<i64> {
    let column = |batch: &RecordBatch| {
        batch
            .column(0)
            .as_any()
            .downcast_ref::<Int64Array>()
            .cloned()
    };
    batches
        .iter()
        .filter_map(column)
        .flat_map(|column| column.values().to_vec())
        .collect()
}

#[tokio::test]
async fn rows_come_out_in_order_however_the_reader_and_the_writer_take_turns() {
    let entropy = testing::SeededEntropy::new(11);
    for _ in 0..40 {
        let budget = ResultsBudget::new(64 << 10);
        let chamber = chamber();
        let scratch = &chamber.runtime.disk_manager;
        let (writer, reader) = run_ahead(
            numbers_schema(),
            1 + entropy.below(32 << 10),
            budget.clone(),
        );
        let mut rows = reader.into_stream(Handle::current(), ());
        let (mut written, mut read) = (0, Vec::new());
        for _ in 0..entropy.below(60) {
            let size = 1 + entropy.below(800) as i64;
            writer
                .push(numbers(written..written + size), scratch)
                .expect("room");
            written += size;
            while entropy.below(3) == 0 {
                settle().await;
                match rows.next().now_or_never() {
                    Some(Some(batch)) => read.push(batch.expect("rows")),
                    _ => break,
                }
            }
        }
        writer.finish(Ok(()));
        drop(writer);
        read.extend(rows.try_collect::<Vec<_>>().await.expect("all rows"));
        assert_eq!(values(&read), (0..written).collect::<Vec<_>>());
        assert_eq!(budget.held_bytes(), 0);
    }
}

#[tokio::test]
async fn rows_are_not_shown_before_the_buffer_is_full_or_the_plan_has_ended() {
    let chamber = chamber();
    let scratch = &chamber.runtime.disk_manager;
    let (writer, reader) = run_ahead(numbers_schema(), 64 << 10, ResultsBudget::new(1 << 20));
    let mut rows = reader.into_stream(Handle::current(), ());
    writer.push(numbers(0..10), scratch).expect("room");
    assert!(rows.next().now_or_never().is_none());
    let next = writer.restart().expect("nothing was delivered");
    next.push(numbers(5..8), scratch).expect("room");
    next.finish(Ok(()));
    let read: Vec<RecordBatch> = rows.try_collect().await.expect("rows");
    assert_eq!(
        values(&read),
        [5, 6, 7],
        "the first attempt's rows are gone"
    );
}

#[tokio::test]
async fn a_task_that_outlives_its_attempt_adds_nothing_to_the_next() {
    let chamber = chamber();
    let scratch = &chamber.runtime.disk_manager;
    let (lost, reader) = run_ahead(numbers_schema(), 64 << 10, ResultsBudget::new(1 << 20));
    lost.push(numbers(0..10), scratch).expect("room");
    // Its bee died, and the task does not know yet.
    let next = lost.restart().expect("nothing was delivered");
    next.push(numbers(0..5), scratch).expect("room");
    let refused = lost.push(numbers(10..20), scratch).expect_err("too late");
    assert_eq!(refused.kind(), ErrorKind::Cancelled);
    next.push(numbers(5..20), scratch).expect("room");
    next.finish(Ok(()));
    let rows = reader.into_stream(Handle::current(), ());
    let read: Vec<RecordBatch> = rows.try_collect().await.expect("rows");
    assert_eq!(values(&read), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_attempt_cannot_be_restarted_once_rows_were_delivered() {
    let chamber = chamber();
    let scratch = &chamber.runtime.disk_manager;
    let (writer, reader) = run_ahead(numbers_schema(), 1, ResultsBudget::new(1 << 20));
    let mut rows = reader.into_stream(Handle::current(), ());
    writer.push(numbers(0..10), scratch).expect("room");
    assert_eq!(
        rows.next().await.expect("rows").expect("rows").num_rows(),
        10
    );
    assert!(writer.restart().is_none());
    writer.finish(Err(Error::ResourcesExhausted("too much".into())));
    let error = rows.next().await.expect("an end").expect_err("an error");
    assert!(error.to_string().contains("too much"));
    assert!(rows.next().await.is_none());
}

#[tokio::test]
async fn a_writer_that_vanishes_leaves_an_error_and_never_a_short_answer() {
    let chamber = chamber();
    let (writer, reader) = run_ahead(numbers_schema(), 64 << 10, ResultsBudget::new(1 << 20));
    writer
        .push(numbers(0..10), &chamber.runtime.disk_manager)
        .expect("room");
    drop(writer);
    let ended: Result<Vec<RecordBatch>, Error> = reader
        .into_stream(Handle::current(), ())
        .try_collect()
        .await;
    assert_eq!(ended.expect_err("no answer").kind(), ErrorKind::Retry);
}

#[tokio::test]
async fn a_reader_that_goes_frees_memory_and_scratch_and_stops_the_writer() {
    let chamber = chamber();
    let scratch = &chamber.runtime.disk_manager;
    let budget = ResultsBudget::new(1 << 20);
    let (writer, reader) = run_ahead(numbers_schema(), 8 << 10, budget.clone());
    for _ in 0..20 {
        writer.push(numbers(0..500), scratch).expect("room");
    }
    assert!(budget.held_bytes() > 0 && chamber.held_scratch_bytes() > 0);
    drop(reader);
    assert_eq!((budget.held_bytes(), chamber.held_scratch_bytes()), (0, 0));
    let refused = writer
        .push(numbers(0..5), scratch)
        .expect_err("nobody reads");
    assert_eq!(refused.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn scratch_that_is_used_up_fails_the_task_and_says_which_setting() {
    let settings = Settings {
        scratch_bytes_max: 10_000,
        ..Settings::default()
    };
    let chambers = Chambers::new(
        &testing::host(),
        &settings,
        plan_division(256 << 20, 1),
        None,
    )
    .expect("chambers");
    let chamber = chambers.open(1).expect("a chamber");
    let (writer, _reader) = run_ahead(numbers_schema(), 1, ResultsBudget::new(1));
    let pushed =
        (0..100).try_for_each(|_| writer.push(numbers(0..100), &chamber.runtime.disk_manager));
    assert!(
        pushed
            .expect_err("full")
            .to_string()
            .contains("scratch_bytes_max")
    );
}

#[tokio::test]
async fn spill_files_that_wait_hold_no_descriptor_and_give_back_what_was_written() {
    let chamber = chamber();
    let mut files = Vec::new();
    for index in 0..50_u8 {
        let file = chamber.runtime.disk_manager.create_tmp_file("a batch");
        let file = file.expect("a file");
        let mut writer = file.open_writer().expect("a writer");
        writer.write_all(&[index; 300_000]).expect("room");
        writer.finish().expect("written");
        files.push(file);
    }
    let directory = files[0].path().and_then(Path::parent).expect("a directory");
    let directory = directory.to_path_buf();
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let held = open
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|path| path.starts_with(&directory))
            .count();
        assert!(held <= 1, "{held} descriptors");
    }
    for (index, file) in files.iter().enumerate() {
        let bytes: Vec<Bytes> = file
            .read_stream()
            .expect("a stream")
            .try_collect()
            .await
            .expect("bytes");
        assert_eq!(bytes.concat(), vec![index as u8; 300_000]);
    }
    let first = files[0].path().expect("a path").to_path_buf();
    drop(files);
    assert!(!first.exists() && chamber.held_scratch_bytes() == 0);
    drop(chamber);
    assert!(!directory.exists());
}
