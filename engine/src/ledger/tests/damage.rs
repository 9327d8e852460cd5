//! Torn, truncated, changed and missing objects: an error that names the key, never a smaller table.

use super::*;
use crate::ledger::invariants;
use crate::store::testing::FaultyStore;
use apiary_protocol::keys;

/// Eleven versions, with checkpoints at 5 and 10 when asked for.
async fn filled(checkpoints: bool) -> (Ledger, Arc<Snapshot>) {
    let ledger = ledger();
    let mut newest = create(&ledger).await;
    for n in 1..=11 {
        let intent = append(&ledger, &[&format!("n{n:02}")]);
        newest = commit_one(&ledger, &newest, intent).await.unwrap().snapshot;
        if checkpoints && ledger.checkpoint_due(newest.version) {
            ledger.checkpoint(&newest).await.unwrap();
        }
    }
    (ledger, newest)
}

async fn expect_corrupt(ledger: &Ledger, key: &str) {
    let error = ledger.load().await.expect_err("damage must be seen");
    assert_eq!(corrupt_key(&error), Some(key), "{error}");
    assert!(error.to_string().contains(key));
}

#[tokio::test]
async fn a_commit_that_is_cut_or_empty_is_named() {
    let (ledger, _) = filled(false).await;
    for version in [0, 6, 11] {
        let key = keys::commit(LOCATION, version);
        let whole = ledger.meadow.get(&key).await.unwrap().unwrap();
        let line_break = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in [0, 1, whole.len() / 2, line_break, whole.len() - 1] {
            put(&ledger, &key, whole.slice(..cut)).await;
            expect_corrupt(&ledger, &key).await;
        }
        put(&ledger, &key, vec![0; whole.len()]).await;
        expect_corrupt(&ledger, &key).await;
        put(&ledger, &key, whole).await;
    }
    assert_eq!(ledger.load().await.unwrap().version, 11);
}

#[tokio::test]
async fn a_torn_commit_stops_refreshing_and_committing() {
    let (ledger, newest) = filled(false).await;
    let key = keys::commit(LOCATION, 12);
    put(&ledger, &key, Bytes::new()).await;
    let error = ledger.refresh(&newest).await.expect_err("a torn commit");
    assert_eq!(corrupt_key(&error), Some(key.as_str()));
    let error = commit_one(&ledger, &newest, append(&ledger, &["x"]))
        .await
        .expect_err("a torn commit");
    assert_eq!(corrupt_key(&error), Some(key.as_str()));
}

#[tokio::test]
async fn a_commit_that_is_missing_from_the_middle_is_named() {
    let (ledger, _) = filled(false).await;
    for version in [0, 1, 6, 10] {
        let key = keys::commit(LOCATION, version);
        let whole = ledger.meadow.get(&key).await.unwrap().unwrap();
        ledger.meadow.delete(&key).await.unwrap();
        expect_corrupt(&ledger, &key).await;
        put(&ledger, &key, whole).await;
    }
    // Following from an old snapshot sees it as soon as it reads ahead.
    let old = ledger.load_version(2).await.unwrap();
    let key = keys::commit(LOCATION, 6);
    ledger.meadow.delete(&key).await.unwrap();
    let error = ledger.refresh(&old).await.expect_err("a gap");
    assert_eq!(corrupt_key(&error), Some(key.as_str()));
}

/// With the snapshot in memory nobody reads the versions behind it, nor misses the newest.
#[tokio::test]
async fn a_look_names_any_version_that_vanished_behind_a_known_snapshot() {
    for (checkpoints, gone, needed) in [
        (false, 0, true),
        (false, 6, true),
        (false, 11, true),
        (true, 11, true),
        (true, 10, false),
        (true, 3, false),
    ] {
        let (ledger, newest) = filled(checkpoints).await;
        let same = ledger.refresh_whole(&newest).await.unwrap();
        assert!(Arc::ptr_eq(&same, &newest));
        let key = keys::commit(LOCATION, gone);
        let whole = ledger.meadow.get(&key).await.unwrap().unwrap();
        ledger.meadow.delete(&key).await.unwrap();
        ledger.refresh(&newest).await.unwrap();
        let looked = ledger.refresh_whole(&newest).await;
        match looked {
            Ok(_) => assert!(!needed, "version {gone}"),
            Err(error) => {
                assert!(needed, "version {gone}: {error}");
                assert_eq!(corrupt_key(&error), Some(key.as_str()), "{error}");
            }
        }
        put(&ledger, &key, whole).await;
        ledger.refresh_whole(&newest).await.unwrap();
    }
}

#[tokio::test]
async fn a_look_is_not_misled_by_a_late_listing_and_follows_the_log() {
    let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let ledger = ledger_over(Arc::clone(&store) as _, 1);
    let first = create(&ledger).await;
    let intent = append(&ledger, &["a"]);
    let second = commit_one(&ledger, &first, intent).await.unwrap().snapshot;
    store.hide(&keys::commit(LOCATION, 0));
    store.hide(&keys::commit(LOCATION, 1));
    ledger.refresh_whole(&second).await.unwrap();
    let newest = ledger.refresh_whole(&first).await.unwrap();
    assert_eq!(newest.version, 1);
}

#[tokio::test]
async fn a_damaged_checkpoint_is_survived_while_the_log_is_whole() {
    let (ledger, newest) = filled(true).await;
    let key = keys::checkpoint(LOCATION, 10);
    let whole = ledger.meadow.get(&key).await.unwrap().unwrap();
    let mut changed = whole.to_vec();
    changed[whole.len() / 3] ^= 1;
    let cuts = [0, 4, whole.len() / 2, whole.len() - 1].map(|cut| whole.slice(..cut));
    for damaged in cuts.into_iter().chain([Bytes::from(changed)]) {
        put(&ledger, &key, damaged).await;
        let loaded = ledger.load().await.unwrap();
        invariants::check_same_content(&loaded, &newest).unwrap();
    }
}

#[tokio::test]
async fn a_damaged_checkpoint_is_named_when_nothing_older_is_whole() {
    let (ledger, _) = filled(true).await;
    ledger
        .meadow
        .delete(&keys::commit(LOCATION, 0))
        .await
        .unwrap();
    ledger
        .meadow
        .delete(&keys::checkpoint(LOCATION, 5))
        .await
        .unwrap();
    assert_eq!(ledger.load().await.unwrap().version, 11);
    let key = keys::checkpoint(LOCATION, 10);
    let whole = ledger.meadow.get(&key).await.unwrap().unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 50) {
        put(&ledger, &key, whole.slice(..at)).await;
        expect_corrupt(&ledger, &key).await;
    }
}

#[tokio::test]
async fn no_changed_byte_of_a_checkpoint_gives_another_table() {
    let (ledger, newest) = filled(true).await;
    ledger
        .meadow
        .delete(&keys::commit(LOCATION, 0))
        .await
        .unwrap();
    ledger
        .meadow
        .delete(&keys::checkpoint(LOCATION, 5))
        .await
        .unwrap();
    let key = keys::checkpoint(LOCATION, 10);
    let whole = ledger.meadow.get(&key).await.unwrap().unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(7) {
        let mut changed = whole.to_vec();
        changed[at] ^= 0x10;
        put(&ledger, &key, changed).await;
        match ledger.load().await {
            Ok(loaded) => {
                let same_paths = paths(&loaded) == paths(&newest);
                assert!(same_paths, "byte {at} changed the table");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_nonsense_or_stale_hint_costs_only_time() {
    let (ledger, newest) = filled(true).await;
    let key = keys::last_checkpoint(LOCATION);
    for hint in [
        "",
        "{",
        "null",
        r#"{"version":-1,"size":1}"#,
        r#"{"version":9,"size":1}"#,
        r#"{"version":5,"size":1}"#,
        r#"{"version":400,"size":1}"#,
        r#"{"version":18446744073709551615,"size":1}"#,
    ] {
        put(&ledger, &key, hint.to_string()).await;
        let loaded = ledger.load().await.unwrap();
        invariants::check_same_content(&loaded, &newest).unwrap();
    }
}

#[tokio::test]
async fn an_add_that_leaves_the_location_is_refused() {
    let (ledger, newest) = filled(false).await;
    let key = keys::commit(LOCATION, 12);
    for path in [
        "../other/x.parquet",
        "s3://elsewhere/x.parquet",
        "/x.parquet",
        "a/%2E%2E/%2E%2E/x",
    ] {
        let action = serde_json::to_vec(&Action::Add(add(path, 1))).unwrap();
        put(&ledger, &key, action).await;
        let error = ledger.refresh(&newest).await.expect_err("a path outside");
        assert_eq!(corrupt_key(&error), Some(key.as_str()), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_live_with_two_deletion_vectors_is_refused() {
    let (ledger, newest) = filled(false).await;
    let mut twice = add("n03", 10);
    twice.deletion_vector = Some(apiary_protocol::delta::DeletionVector {
        storage_type: "i".into(),
        path_or_inline_dv: "x".into(),
        offset: None,
        size_in_bytes: 1,
        cardinality: 1,
    });
    let key = keys::commit(LOCATION, 12);
    put(
        &ledger,
        &key,
        serde_json::to_vec(&Action::Add(twice)).unwrap(),
    )
    .await;
    let error = ledger.refresh(&newest).await.expect_err("one file twice");
    assert_eq!(corrupt_key(&error), Some(key.as_str()), "{error}");
}

#[tokio::test]
async fn a_schema_that_cannot_be_read_names_its_log() {
    let (ledger, _) = filled(false).await;
    let key = keys::commit(LOCATION, 12);
    let mut broken = metadata("frame");
    broken.schema_string = "{\"type\":\"struct\"".into();
    let line = serde_json::json!({ "metaData": broken });
    put(&ledger, &key, line.to_string()).await;
    let error = ledger.load().await.expect_err("no schema");
    assert_eq!(corrupt_key(&error), Some(&*key), "{error}");
}

#[tokio::test]
async fn a_log_that_is_not_listed_yet_is_found_by_its_first_version() {
    let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let ledger = ledger_over(Arc::clone(&store) as Arc<dyn ObjectStore>, 1);
    assert!(matches!(ledger.load().await, Err(Error::NotFound { .. })));
    let base = create(&ledger).await;
    let one = commit_one(&ledger, &base, append(&ledger, &["a"]))
        .await
        .unwrap()
        .snapshot;
    for version in 0..2 {
        store.hide(&ledger.commit_key(version));
    }
    let loaded = ledger.load().await.unwrap();
    invariants::check_same_content(&loaded, &one).unwrap();
    let first = ledger.load_version(0).await.unwrap();
    invariants::check_same_content(&first, &base).unwrap();
    assert!(matches!(
        ledger.load_version(2).await,
        Err(Error::NotFound { .. })
    ));
}
