//! Finding the newest registry version.

use super::*;
use crate::error::ErrorKind;
use crate::store::RequestCounts;
use apiary_protocol::registry::RegistryHead;

async fn with_hives(count: usize) -> Result<Store> {
    let store = memory();
    let node = catalog(&store, 1);
    for index in 0..count {
        assert!(node.create_hive(&name(&format!("h{index}")), false).await?);
    }
    Ok(store)
}

async fn hive_count(store: &Store) -> Result<usize> {
    Ok(catalog(store, 2).view().await?.hives().len())
}

#[tokio::test(start_paused = true)]
async fn default_default_is_there_before_anything_was_written() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    let view = node.view().await?;
    assert_eq!(view.version, 0);
    assert_eq!(view.hives(), [name("default")]);
    assert_eq!(view.boxes(&name("DEFAULT"))?, [name("default")]);
    assert!(view.frames(&name("default"), &name("default"))?.is_empty());
    assert!(!node.create_hive(&name("Default"), true).await?);
    assert!(
        node.drop_hive(&name("default"), true, true, true)
            .await
            .is_err()
    );
    assert!(
        node.drop_box(&name("default"), &name("default"), true, true, true)
            .await
            .is_err()
    );
    assert!(
        keys_under(&node, keys::REGISTRY_PREFIX).await?.is_empty(),
        "something was written"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn hives_and_boxes_are_made_once_and_dropped_when_empty() -> Result<()> {
    let store = memory();
    let (a, b) = (catalog(&store, 1), catalog(&store, 2));
    let (hive, inner) = (name("Sales"), name("eu"));
    assert!(a.create_hive(&hive, false).await?);
    let error = b
        .create_hive(&name("SALES"), false)
        .await
        .expect_err("twice");
    assert_eq!(error.to_string(), "hive Sales already exists");
    assert!(!b.create_hive(&name("SALES"), true).await?);
    let error = b
        .create_box(&name("x"), &inner, true)
        .await
        .expect_err("no hive");
    assert_eq!(error.to_string(), "hive x not found");
    assert!(b.create_box(&hive, &inner, false).await?);
    assert!(!a.create_box(&hive, &inner, true).await?);
    assert_eq!(
        a.view().await?.boxes(&hive)?.len(),
        2,
        "the default one too"
    );
    assert_eq!(
        a.drop_hive(&hive, false, false, false)
            .await
            .expect_err("full")
            .kind(),
        ErrorKind::Rejected
    );
    assert!(b.drop_box(&hive, &inner, false, false, false).await?);
    assert!(!b.drop_box(&hive, &inner, true, false, false).await?);
    assert!(a.drop_hive(&hive, false, false, false).await?);
    assert!(matches!(
        b.drop_hive(&hive, false, false, false).await,
        Err(Error::NotFound { .. })
    ));
    assert_eq!(b.view().await?.hives(), [name("default")]);
    check_invariants(&store).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_view_costs_one_probe_when_nothing_changed() -> Result<()> {
    let store = with_hives(5).await?;
    let node = catalog(&store, 2);
    let first = node.view().await?;
    let before = node.meadow.requests();
    let second = node.view().await?;
    let after = node.meadow.requests();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(after.get_count - before.get_count, 1);
    let others = |counts: RequestCounts| (counts.list_count, counts.put_count, counts.head_count);
    assert_eq!(others(before), others(after));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_reads_the_hint_the_head_and_one_probe() -> Result<()> {
    let store = with_hives(20).await?;
    let node = catalog(&store, 2);
    assert_eq!(node.view().await?.version, 20);
    let counts = node.meadow.requests();
    assert_eq!((counts.get_count, counts.list_count), (3, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lost_stale_or_damaged_hint_costs_only_probes() -> Result<()> {
    let store = with_hives(5).await?;
    let meadow = catalog(&store, 2).meadow;
    let stale = RegistryHead { version: 2 }.to_bytes().expect("sealed");
    let torn = stale[..20].to_vec();
    for hint in [stale, torn, Vec::new(), b"{}".to_vec()] {
        meadow.put(keys::REGISTRY_HEAD, hint.into()).await?;
        assert_eq!(hive_count(&store).await?, 6);
    }
    meadow.delete(keys::REGISTRY_HEAD).await?;
    assert_eq!(hive_count(&store).await?, 6);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_names_a_missing_version_is_an_error_and_no_empty_registry() -> Result<()> {
    let store = with_hives(2).await?;
    catalog(&store, 2).meadow.delete(&keys::registry(2)).await?;
    let error = catalog(&store, 3).view().await.expect_err("a lost version");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error
            .to_string()
            .contains("_registry/00000000000000000002.json"),
        "{error}"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_newest_version_is_named_at_once() -> Result<()> {
    let store = with_hives(3).await?;
    let warm = catalog(&store, 2);
    warm.view().await?;
    let whole = warm
        .meadow
        .get(&keys::registry(3))
        .await?
        .unwrap_or_default();
    let mut flipped = whole.to_vec();
    flipped[100] ^= 1;
    let renumbered = warm
        .meadow
        .get(&keys::registry(2))
        .await?
        .unwrap_or_default();
    for body in [
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        flipped,
        renumbered.to_vec(),
        b"{}\n".to_vec(),
    ] {
        // As the newest for one who starts, and as the next for one who knows the head.
        warm.meadow.put(&keys::registry(4), body.into()).await?;
        let started = tokio::time::Instant::now();
        for node in [&warm, &catalog(&store, 3)] {
            let read = node.view().await.expect_err("corrupt");
            let write = node
                .create_hive(&name("new"), true)
                .await
                .expect_err("corrupt");
            for error in [read, write] {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(
                    error
                        .to_string()
                        .contains("_registry/00000000000000000004.json"),
                    "{error}"
                );
            }
        }
        assert!(started.elapsed().is_zero(), "it was tried again");
    }
    warm.meadow.delete(&keys::registry(4)).await?;
    assert_eq!(hive_count(&store).await?, 4);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_version_of_a_newer_build_says_to_upgrade() -> Result<()> {
    let store = with_hives(1).await?;
    let node = catalog(&store, 2);
    let body = node
        .meadow
        .get(&keys::registry(1))
        .await?
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&body).replace("\"format\": 1", "\"format\": 2");
    let rest = text
        .split_once(",\n")
        .map(|(_, rest)| rest)
        .unwrap_or_default();
    let sealed = format!(
        "{{\n  \"crc32\": \"{:08x}\",\n{rest}",
        crc32(rest.as_bytes())
    );
    node.meadow.put(&keys::registry(2), sealed.into()).await?;
    let error = node.view().await.expect_err("newer");
    assert!(
        error.kind() == ErrorKind::Rejected && error.to_string().contains("upgrade"),
        "{error}"
    );
    Ok(())
}

/// CRC-32 (IEEE), bit by bit: an oracle that shares no code with ours.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}
