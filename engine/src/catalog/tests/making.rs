//! What the marks of frames in the making lead to, and what not.

use super::*;
use crate::error::ErrorKind;
use bytes::Bytes;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3_600);
const SWEEP_AGE: Duration = Duration::from_secs(7 * 24 * 3_600);
const PLACE: &str = "default/default/t";
const CELL: &str = "default/default/t/part-0.parquet";

/// A node, and what is left of a maker of frame `t`: its mark and a cell.
async fn left_behind(store: &Store) -> Result<Catalog> {
    let maker = catalog(store, 1);
    let new = maker.plan_frame(&frame("t")).await?;
    assert_eq!(new.location, PLACE);
    maker.begin_making(&new).await?;
    let cell = Bytes::from_static(b"cell");
    maker.meadow.put(CELL, cell).await?;
    Ok(catalog(store, 2))
}

/// What a Keeper does that comes so much later; the number of cells.
async fn sweep(node: &Catalog, later: Duration) -> Result<usize> {
    let now_ms = (chrono::Utc::now() + later).timestamp_millis();
    let mut swept = 0;
    for mark in node.list_abandoned(now_ms, SWEEP_AGE).await? {
        let sweep = node.sweep_abandoned(&node.meadow, &mark, now_ms, SWEEP_AGE);
        swept += sweep.await?;
    }
    Ok(swept)
}

/// Whether the cell and the mark are there.
async fn left(node: &Catalog) -> Result<(bool, bool)> {
    let cell = node.meadow.get(CELL).await?.is_some();
    let marks = node.meadow.list(keys::MAKING_PREFIX, None).await?;
    Ok((cell, !marks.is_empty()))
}

#[tokio::test]
async fn cells_of_a_maker_that_died_are_swept_when_they_are_old() -> Result<()> {
    let store = memory();
    let node = left_behind(&store).await?;
    assert_eq!(sweep(&node, 6 * DAY).await?, 0);
    assert_eq!(left(&node).await?, (true, true));
    assert_eq!(sweep(&node, 8 * DAY).await?, 1);
    assert_eq!(left(&node).await?, (false, false));
    Ok(())
}

#[tokio::test]
async fn they_are_swept_from_beside_what_a_frame_names() -> Result<()> {
    for is_dropped in [false, true] {
        let store = memory();
        let node = left_behind(&store).await?;
        let rival = node.plan_frame(&frame("t")).await?;
        let named = Add {
            path: "part-1.parquet".into(),
            size: 4,
            data_change: true,
            ..Add::default()
        };
        let key = format!("{PLACE}/part-1.parquet");
        node.meadow.put(&key, Bytes::from_static(b"cell")).await?;
        node.create_filled(&rival, &schema(), vec![named]).await?;
        if is_dropped {
            node.drop_frame(&frame("t"), false, false).await?;
        }
        assert_eq!(sweep(&node, 8 * DAY).await?, 1);
        assert_eq!(left(&node).await?, (false, false));
        assert!(node.meadow.get(&key).await?.is_some(), "{is_dropped}");
    }
    Ok(())
}

#[tokio::test]
async fn a_table_that_somebody_brought_is_left_alone() -> Result<()> {
    for is_attached in [false, true] {
        let store = memory();
        let node = left_behind(&store).await?;
        let (other, _) = node.create_frame(&frame("other"), &schema(), false).await?;
        let first = node.meadow.get(&keys::commit(&other.location, 0)).await?;
        let first = first.unwrap_or_default();
        node.meadow.put(&keys::commit(PLACE, 0), first).await?;
        if is_attached {
            node.attach_frame(&frame("brought"), PLACE).await?;
        }
        assert_eq!(sweep(&node, 8 * DAY).await?, 0);
        assert_eq!(left(&node).await?, (true, false), "{is_attached}");
    }
    Ok(())
}

#[tokio::test]
async fn a_mark_that_cannot_be_read_leads_nowhere_and_stays() -> Result<()> {
    let store = memory();
    let node = left_behind(&store).await?;
    let marks = node.meadow.list(keys::MAKING_PREFIX, None).await?;
    let torn = Bytes::from_static(b"{\n  \"crc32\": \"");
    node.meadow.put(marks[0].location.as_ref(), torn).await?;
    let error = sweep(&node, 8 * DAY).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("_making/"), "{error}");
    assert_eq!(left(&node).await?, (true, true));
    Ok(())
}
