//! Sizes of cells, and writes that fail.

use super::*;

/// Rows that do not compress: a multiplicative scramble of the row number.
fn noise(rows: usize) -> RecordBatch {
    let scramble = |row: usize, salt: u64| {
        ((row as u64 + 1) ^ salt.rotate_left(17))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(31)
            .wrapping_mul(salt | 1) as i64
    };
    let columns = ["a", "b", "c", "d"];
    batch(
        columns
            .iter()
            .enumerate()
            .map(|(i, name)| {
                (
                    *name,
                    ints((0..rows).map(|row| scramble(row, i as u64 * 77 + 3))),
                )
            })
            .collect(),
    )
}

#[tokio::test]
async fn cells_are_cut_near_their_target_and_the_crew_changes_no_byte() {
    let mut sizes = Vec::new();
    for crew in [1, 2, 5] {
        let world = world(256 << 20, crew);
        let rows = noise(1_000_000);
        let mut spec = spec(rows.schema().as_ref().clone(), &[]);
        spec.target_cell_bytes = 8 << 20;
        spec.row_group_rows_max = 100_000;
        let written = world.write(&spec, vec![rows]).await.unwrap();
        assert_eq!(written.rows, 1_000_000);
        assert_eq!(
            written
                .adds
                .iter()
                .filter(|add| add.size > (12 << 20))
                .count(),
            0
        );
        assert!(
            written.adds.len() >= 3 && written.adds.len() <= 5,
            "{}",
            written.adds.len()
        );
        let mut described = Vec::new();
        for add in &written.adds {
            let bytes = world.bytes(add).await;
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap();
            assert!(
                reader
                    .metadata()
                    .row_groups()
                    .iter()
                    .all(|group| group.num_rows() <= 100_000)
            );
            described.push((add.path.clone(), bytes, add.stats.clone()));
        }
        sizes.push(described);
    }
    assert!(sizes.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn a_failing_input_leaves_no_objects() {
    for partitions in [vec![], vec!["a"]] {
        let world = world(64 << 20, 2);
        let rows = noise(if partitions.is_empty() {
            400_000
        } else {
            2_000
        });
        let schema = rows.schema();
        let mut spec = spec(schema.as_ref().clone(), &partitions);
        spec.target_cell_bytes = 1 << 20;
        let failure = DataFusionError::External(Box::new(Error::rejected("the input broke")));
        let input = stream(schema, vec![Ok(rows.clone()), Ok(rows), Err(failure)]);
        let error = write_cells(
            &world.host,
            &world.meadow,
            &spec,
            input,
            world.context.clone(),
        )
        .await
        .unwrap_err();
        assert!(
            matches!(&error, Error::Rejected(text) if text == "the input broke"),
            "{error:?}"
        );
        assert_eq!(world.object_count().await, 0);
        assert_eq!(world.context.memory_pool().reserved(), 0);
    }
}

#[tokio::test]
async fn a_write_that_is_cancelled_takes_its_cells_away() {
    for partitions in [vec![], vec!["a"]] {
        let world = world(64 << 20, 2);
        let rows = noise(if partitions.is_empty() {
            400_000
        } else {
            2_000
        });
        let schema = rows.schema();
        let mut spec = spec(schema.as_ref().clone(), &partitions);
        spec.target_cell_bytes = 1 << 20;
        let rows = futures::stream::iter([Ok(rows.clone()), Ok(rows)]);
        let endless = futures::StreamExt::chain(rows, futures::stream::pending());
        let input = Box::pin(RecordBatchStreamAdapter::new(schema, endless));
        let (host, meadow) = (world.host.clone(), world.meadow.clone());
        let context = world.context.clone();
        let write =
            tokio::spawn(async move { write_cells(&host, &meadow, &spec, input, context).await });
        // Partitions are written when all rows are in.
        let is_begun = async {
            while partitions.is_empty() && world.object_count().await == 0 {
                tokio::task::yield_now().await;
            }
        };
        is_begun.await;
        write.abort();
        assert!(write.await.unwrap_err().is_cancelled());
        world.meadow.quiet().await;
        assert_eq!(world.object_count().await, 0);
        assert_eq!(world.context.memory_pool().reserved(), 0);
    }
}

#[tokio::test]
async fn an_empty_input_makes_no_cell() {
    let world = world(64 << 20, 1);
    let empty = noise(1).slice(0, 0);
    for partitions in [vec![], vec!["a"]] {
        let spec = spec(empty.schema().as_ref().clone(), &partitions);
        let written = world.write(&spec, vec![empty.clone()]).await.unwrap();
        assert_eq!((written.rows, written.adds.len()), (0, 0));
    }
}

#[tokio::test]
async fn a_huge_string_is_one_row_like_any_other() {
    let world = world(512 << 20, 2);
    let huge = "x".repeat(64 << 20);
    let rows = batch(vec![(
        "s",
        Arc::new(StringArray::from(vec!["a", huge.as_str()])),
    )]);
    let written = world
        .write(&spec(rows.schema().as_ref().clone(), &[]), vec![rows])
        .await
        .unwrap();
    let read = world.read(&written.adds[0]).await;
    assert_eq!(read.column(0).as_string::<i32>().value(1).len(), 64 << 20);
}

#[tokio::test]
async fn without_memory_a_write_fails_and_says_so() {
    let world = world(256 << 10, 1);
    let held = datafusion::execution::memory_pool::MemoryConsumer::new("other")
        .register(world.context.memory_pool());
    held.grow(256 << 10);
    let rows = noise(10);
    let error = world
        .write(&spec(rows.schema().as_ref().clone(), &[]), vec![rows])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::ResourcesExhausted(_)), "{error:?}");
}
