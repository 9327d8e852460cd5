//! What is swept of a frame, and the checkpoint that is made up for.

use super::*;
use crate::ledger::Kept;
use std::time::Duration;

const AGE: Duration = Duration::from_secs(3600);

async fn now_ms(ledger: &Ledger) -> i64 {
    put(ledger, "now", "x").await;
    let listed = ledger.meadow.object_store().list(None);
    let all: Vec<_> = futures::TryStreamExt::try_collect(listed).await.unwrap();
    let newest = all
        .iter()
        .map(|found: &object_store::ObjectMeta| found.last_modified);
    newest.max().expect("an object").timestamp_millis()
}

async fn keys(ledger: &Ledger) -> Vec<String> {
    let listed = ledger.meadow.list(LOCATION, None).await.unwrap();
    let listed = listed.iter().map(|found| found.location.to_string());
    listed
        .filter_map(|key| {
            Some(
                key.strip_prefix(LOCATION)?
                    .trim_start_matches('/')
                    .to_string(),
            )
        })
        .filter(|path| !path.starts_with("_delta_log"))
        .collect()
}

async fn cell(ledger: &Ledger, path: &str) {
    put(ledger, &format!("{LOCATION}/{path}"), "x").await;
}

/// A frame with a live cell, one that was removed, two that no version names, and others' files.
async fn frame() -> Ledger {
    let ledger = ledger();
    let base = create(&ledger).await;
    for path in ["live.parquet", "d=a%20b/removed.parquet", "orphan.parquet"] {
        cell(&ledger, path).await;
    }
    for path in [
        "d=a%20b/live.parquet",
        "d=1/orphan.parquet",
        "_hidden.parquet",
        "notes.txt",
    ] {
        cell(&ledger, path).await;
    }
    // The log spells a path as a URI.
    let named = [
        "live.parquet",
        "d=a%2520b/live.parquet",
        "d=a%2520b/removed.parquet",
    ];
    let intent = append(&ledger, &named);
    let base = commit_one(&ledger, &base, intent).await.unwrap().snapshot;
    let gone = remove(&base, "d=a%2520b/removed.parquet", true);
    let intent = Intent {
        actions: vec![gone],
        ..append(&ledger, &[])
    };
    commit_one(&ledger, &base, intent).await.unwrap();
    ledger
}

#[tokio::test]
async fn only_old_cells_of_no_version_are_swept() {
    let ledger = frame().await;
    let before = keys(&ledger).await;
    let now = now_ms(&ledger).await;
    let kept = ledger.keep(now, AGE).await.unwrap();
    assert_eq!(
        (kept, keys(&ledger).await),
        (Kept::default(), before.clone())
    );
    let later = now + 2 * 3_600_000;
    let kept = ledger.keep(later, AGE).await.unwrap();
    assert_eq!(kept.orphans, 2);
    let left: Vec<String> = before
        .into_iter()
        .filter(|path| !path.ends_with("orphan.parquet"))
        .collect();
    assert_eq!(keys(&ledger).await, left);
    assert_eq!(ledger.keep(later, AGE).await.unwrap(), Kept::default());
}

#[tokio::test]
async fn a_cell_whose_tombstone_is_forgotten_is_still_one_that_a_version_named() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let mut forgetful = metadata("frame");
    let retention = "delta.deletedFileRetentionDuration".to_string();
    forgetful
        .configuration
        .insert(retention, Some("interval 0 seconds".into()));
    let change = |ledger: &Ledger, actions| Intent {
        actions,
        ..append(ledger, &[])
    };
    let intent = change(&ledger, vec![Action::MetaData(forgetful)]);
    let base = commit_one(&ledger, &base, intent).await.unwrap().snapshot;
    cell(&ledger, "removed.parquet").await;
    let intent = append(&ledger, &["removed.parquet"]);
    let base = commit_one(&ledger, &base, intent).await.unwrap().snapshot;
    let gone = remove(&base, "removed.parquet", true);
    let intent = change(&ledger, vec![gone]);
    let base = commit_one(&ledger, &base, intent).await.unwrap().snapshot;
    ledger.checkpoint(&base).await.unwrap();
    assert!(ledger.load().await.unwrap().tombstones.is_empty());
    let later = now_ms(&ledger).await + 2 * 3_600_000;
    assert_eq!(ledger.keep(later, AGE).await.unwrap(), Kept::default());
    assert_eq!(keys(&ledger).await, ["removed.parquet"]);
}

#[tokio::test]
async fn a_damaged_log_means_that_nothing_is_swept() {
    let ledger = frame().await;
    let before = keys(&ledger).await;
    let key = apiary_protocol::keys::commit(LOCATION, 1);
    put(&ledger, &key, "{").await;
    let later = now_ms(&ledger).await + 2 * 3_600_000;
    let error = ledger.keep(later, AGE).await.unwrap_err();
    assert_eq!(corrupt_key(&error), Some(key.as_str()));
    assert_eq!(keys(&ledger).await, before);
}

#[tokio::test]
async fn a_checkpoint_that_its_author_did_not_write_is_made_up_for_once() {
    let ledger = ledger();
    let mut base = create(&ledger).await;
    for version in 1..=7 {
        let intent = append(&ledger, &[&format!("{version}.parquet")]);
        base = commit_one(&ledger, &base, intent).await.unwrap().snapshot;
    }
    let now = now_ms(&ledger).await;
    assert_eq!(ledger.keep(now, AGE).await.unwrap().checkpoint, Some(7));
    let hint = ledger.read_hint().await.unwrap().expect("a hint");
    assert_eq!(hint.version, 7);
    assert_eq!(paths(&ledger.load().await.unwrap()), paths(&base));
    assert_eq!(ledger.keep(now, AGE).await.unwrap(), Kept::default());
}
