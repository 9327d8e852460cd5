//! What other writers leave behind.

use super::*;
use crate::ledger::invariants;
use crate::ledger::log::Listing;
use apiary_protocol::keys;

#[tokio::test]
async fn a_table_of_another_writer_is_read_and_appended_to() {
    let ledger = ledger();
    let lines = [
        serde_json::to_string(&Action::Protocol(protocol())).unwrap(),
        serde_json::to_string(&Action::MetaData(metadata("theirs"))).unwrap(),
        r#"{"add":{"path":"p%20q/x%2520y.parquet","partitionValues":{},"size":3,"modificationTime":1,"dataChange":true}}"#.into(),
        r#"{"somethingNew":{"a":1}}"#.into(),
        r#"{"commitInfo":{"timestamp":1700000000000,"operation":"WRITE"}}"#.into(),
    ];
    put(&ledger, &keys::commit(LOCATION, 0), lines.join("\n")).await;
    let loaded = ledger.load().await.unwrap();
    assert_eq!(
        (loaded.timestamp_ms, loaded.row_count()),
        (1_700_000_000_000, None)
    );
    let landed = commit_one(&ledger, &loaded, append(&ledger, &["ours"]))
        .await
        .unwrap();
    assert_eq!(landed.snapshot.cell_count(), 2);
    // A remove finds its add however it spells the path.
    let remove = r#"{"remove":{"path":"p q/x%2520y.parquet","dataChange":true,"deletionTimestamp":1700000000001}}"#;
    put(&ledger, &keys::commit(LOCATION, 2), remove).await;
    let refreshed = ledger.refresh(&landed.snapshot).await.unwrap();
    assert_eq!(paths(&refreshed), ["ours"]);
    invariants::check_totals(&refreshed).unwrap();
}

#[test]
fn a_listing_takes_only_whole_checkpoints() {
    let prefix = "l/_delta_log";
    let part = |version: u64, index: u32, count: u32| {
        format!("{prefix}/{version:020}.checkpoint.{index:010}.{count:010}.parquet")
    };
    let keys = vec![
        keys::commit("l", 3),
        keys::commit("l", 4),
        keys::checkpoint("l", 4),
        part(4, 1, 1),
        part(6, 1, 2),
        part(6, 2, 2),
        part(7, 1, 3),
        part(7, 3, 3),
        format!("{prefix}/_last_checkpoint"),
        format!("{prefix}/00000000000000000009.crc"),
        format!("{prefix}/00000000000000000003.00000000000000000008.compacted.json"),
        format!("{prefix}/0009.json"),
        format!("{prefix}/_commits/00000000000000000009.json"),
    ];
    let sized = |keys: Vec<String>| keys.into_iter().map(|key| (key, 1));
    let listing = Listing::parse(prefix, sized(keys));
    let expected = Listing::parse(
        prefix,
        sized(vec![
            keys::commit("l", 3),
            keys::commit("l", 4),
            keys::checkpoint("l", 4),
            part(6, 2, 2),
            part(6, 1, 2),
        ]),
    );
    assert_eq!(listing, expected);
}

#[tokio::test]
async fn a_log_whose_beginning_was_cleaned_up_is_read_from_its_checkpoint() {
    let ledger = ledger();
    let mut newest = create(&ledger).await;
    for n in 1..=7 {
        let intent = append(&ledger, &[&format!("n{n}")]);
        newest = commit_one(&ledger, &newest, intent).await.unwrap().snapshot;
        if ledger.checkpoint_due(newest.version) {
            ledger.checkpoint(&newest).await.unwrap();
        }
    }
    for version in 0..=5 {
        ledger
            .meadow
            .delete(&keys::commit(LOCATION, version))
            .await
            .unwrap();
    }
    let loaded = ledger.load().await.unwrap();
    invariants::check_same_content(&loaded, &newest).unwrap();
    assert!(matches!(
        ledger.load_version(3).await,
        Err(Error::NotFound { .. })
    ));
}
