//! One behaviour over every store, and what is left of it when the store fails.

use super::testing::{Fault, Faults, FaultyStore};
use super::*;
use crate::error::ErrorKind;
use crate::host::testing::{SeededEntropy, host, threaded_host};
use futures::future::{FutureExt, join_all};
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{GetOptions, GetRange, PutMode};
use tempfile::TempDir;

fn settings() -> Settings {
    Settings {
        storage_deadline_ms: 2_000,
        // What is synced, and when, is tested beside the local store.
        sync: false,
        ..Settings::default()
    }
}

fn local(directory: &TempDir, host: &Host) -> Meadow {
    let uri = directory.path().join("meadow").display().to_string();
    Meadow::open(&uri, host, &settings()).unwrap()
}

fn faulty() -> (Arc<FaultyStore>, Meadow) {
    let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let meadow = Meadow::over(Arc::clone(&store) as _, "faulty", &host(), &settings());
    (store, meadow)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn keys(meadow: &Meadow, prefix: &str, after: Option<&str>) -> Vec<String> {
    let found = meadow.list(prefix, after).await.unwrap();
    found
        .into_iter()
        .map(|meta| meta.location.to_string())
        .collect()
}

/// Both stores at once: whatever one does, the other must do.
async fn both() -> (TempDir, [Meadow; 2]) {
    let directory = TempDir::new().unwrap();
    let host = host();
    let memory = Meadow::over(Arc::new(InMemory::new()), "memory", &host, &settings());
    let local = local(&directory, &host);
    (directory, [memory, local])
}

#[tokio::test]
async fn what_is_put_is_got_and_what_is_deleted_is_gone() {
    let (_directory, meadows) = both().await;
    for meadow in meadows {
        assert_eq!(meadow.get("a/b").await.unwrap(), None);
        meadow.put("a/b", bytes("one")).await.unwrap();
        meadow.put("a/b", bytes("three")).await.unwrap();
        assert_eq!(meadow.get("a/b").await.unwrap(), Some(bytes("three")));
        meadow.delete("a/b").await.unwrap();
        meadow.delete("a/b").await.unwrap();
        meadow.delete("never/was").await.unwrap();
        assert_eq!(meadow.get("a/b").await.unwrap(), None);
        let counts = meadow.requests();
        assert_eq!(
            (counts.put_count, counts.get_count, counts.delete_count),
            (2, 3, 3)
        );
        assert_eq!((counts.read_bytes, counts.written_bytes), (5, 8));
    }
}

#[tokio::test]
async fn a_create_is_ours_once_and_theirs_afterwards() {
    let (_directory, meadows) = both().await;
    for meadow in meadows {
        assert_eq!(
            meadow.create("k/1", bytes("mine")).await.unwrap(),
            Created::Ours
        );
        assert_eq!(
            meadow.create("k/1", bytes("mine")).await.unwrap(),
            Created::Ours
        );
        let theirs = Created::Theirs(bytes("mine"));
        assert_eq!(meadow.create("k/1", bytes("other")).await.unwrap(), theirs);
    }
}

#[tokio::test]
async fn a_list_is_sorted_stays_under_its_prefix_and_starts_after_a_key() {
    let (_directory, meadows) = both().await;
    for meadow in meadows {
        for key in ["p/b/2", "p/b/1", "p/b-x", "p/a", "pp/z", "p/c/d/e", "q"] {
            meadow.put(key, bytes(key)).await.unwrap();
        }
        assert_eq!(
            keys(&meadow, "p", None).await,
            ["p/a", "p/b-x", "p/b/1", "p/b/2", "p/c/d/e"]
        );
        assert_eq!(keys(&meadow, "p/b", None).await, ["p/b/1", "p/b/2"]);
        assert_eq!(
            keys(&meadow, "p", Some("p/b/1")).await,
            ["p/b/2", "p/c/d/e"]
        );
        assert_eq!(keys(&meadow, "p", Some("p/c/d/e")).await, [""; 0]);
        assert_eq!(keys(&meadow, "absent", None).await, [""; 0]);
        assert_eq!(keys(&meadow, "q", None).await, [""; 0]);
        let level = meadow
            .object_store()
            .list_with_delimiter(Some(&"p".into()))
            .await
            .unwrap();
        let mut prefixes: Vec<_> = level.common_prefixes.iter().map(Path::to_string).collect();
        prefixes.sort();
        assert_eq!(prefixes, ["p/b", "p/c"]);
        assert_eq!(level.objects.len(), 2);
    }
}

#[tokio::test]
async fn ranges_are_read_and_ranges_outside_are_errors() {
    let (_directory, meadows) = both().await;
    for meadow in meadows {
        meadow.put("r", bytes("0123456789")).await.unwrap();
        let store = meadow.object_store();
        let key = Path::from("r");
        assert_eq!(store.get_range(&key, 2..5).await.unwrap(), bytes("234"));
        assert_eq!(store.get_range(&key, 8..50).await.unwrap(), bytes("89"));
        assert!(store.get_range(&key, 10..12).await.is_err());
        let ranges = store.get_ranges(&key, &[7..9, 0..1, 1..3]).await.unwrap();
        assert_eq!(ranges, [bytes("78"), bytes("0"), bytes("12")]);
        let suffix = GetOptions::new().with_range(Some(GetRange::Suffix(3)));
        let suffix = store.get_opts(&key, suffix).await.unwrap();
        assert_eq!((suffix.range.clone(), suffix.meta.size), (7..10, 10));
        assert_eq!(suffix.bytes().await.unwrap(), bytes("789"));
        let head = store.head(&key).await.unwrap();
        assert_eq!(head.size, 10);
        assert!(matches!(
            store.head(&Path::from("absent")).await,
            Err(object_store::Error::NotFound { .. })
        ));
        let same = GetOptions::new().with_if_none_match(head.e_tag);
        assert!(matches!(
            store.get_opts(&key, same).await,
            Err(object_store::Error::NotModified { .. })
        ));
    }
}

#[tokio::test]
async fn an_upload_in_parts_appears_whole_or_not_at_all() {
    let (_directory, meadows) = both().await;
    for meadow in meadows {
        let store = meadow.object_store();
        let key = Path::from("big/cell");
        let mut upload = store.put_multipart(&key).await.unwrap();
        let first = upload.put_part(bytes("first ").into());
        let second = upload.put_part(bytes("second").into());
        second.await.unwrap();
        first.await.unwrap();
        assert_eq!(meadow.get("big/cell").await.unwrap(), None);
        upload.complete().await.unwrap();
        assert_eq!(
            meadow.get("big/cell").await.unwrap(),
            Some(bytes("first second"))
        );

        let mut upload = store
            .put_multipart(&Path::from("big/aborted"))
            .await
            .unwrap();
        upload.put_part(bytes("x").into()).await.unwrap();
        upload.abort().await.unwrap();
        let mut dropped = store
            .put_multipart(&Path::from("big/dropped"))
            .await
            .unwrap();
        dropped.put_part(bytes("x").into()).await.unwrap();
        drop(dropped);
        assert_eq!(keys(&meadow, "big", None).await, ["big/cell"]);
    }
}

#[tokio::test]
async fn keys_that_leave_the_root_are_refused() {
    let (_directory, meadows) = both().await;
    for meadow in meadows {
        for key in ["../x", "a/../b", "a//b", "./a", "a/."] {
            let error = meadow.put(key, bytes("x")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Rejected, "{key}");
        }
    }
}

/// The model: a store in memory. The same seeded steps are done to both.
#[tokio::test]
async fn a_local_store_does_what_one_in_memory_does() {
    for seed in 0..20 {
        let (_directory, [model, local]) = both().await;
        let random = SeededEntropy::new(seed);
        let mut parts: Vec<String> = Vec::new();
        for step in 0..150 {
            // Directories are even and objects odd, so that no key is both.
            let depth = 1 + random.below(3);
            parts.clear();
            parts.extend((1..depth).map(|_| format!("d{}", random.below(3))));
            parts.push(format!("o{}", random.below(3)));
            let key = parts.join("/");
            let body = Bytes::from(format!("{step}-{}", "x".repeat(random.below(50) as usize)));
            match random.below(6) {
                0 | 1 => {
                    let [a, b] = [
                        model.create(&key, body.clone()).await,
                        local.create(&key, body).await,
                    ];
                    assert_eq!(a.unwrap(), b.unwrap(), "seed {seed} step {step}");
                }
                2 => {
                    model.put(&key, body.clone()).await.unwrap();
                    local.put(&key, body).await.unwrap();
                }
                3 => {
                    model.delete(&key).await.unwrap();
                    local.delete(&key).await.unwrap();
                }
                4 => {
                    let [a, b] = [
                        model.get(&key).await.unwrap(),
                        local.get(&key).await.unwrap(),
                    ];
                    assert_eq!(a, b, "seed {seed} step {step}");
                }
                _ => {
                    let prefix = format!("d{}", random.below(3));
                    let after = (random.below(2) == 0).then_some(key.as_str());
                    let [a, b] = [
                        keys(&model, &prefix, after).await,
                        keys(&local, &prefix, after).await,
                    ];
                    assert_eq!(a, b, "seed {seed} step {step}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_for_the_moment_is_tried_again() {
    let (store, meadow) = faulty();
    meadow.put("k", bytes("v")).await.unwrap();
    store.fail_gets([Fault::Before, Fault::Before]);
    assert_eq!(meadow.get("k").await.unwrap(), Some(bytes("v")));
    store.fail_gets([Fault::Denied]);
    assert!(meadow.get("k").await.is_err());
    assert_eq!(meadow.requests().get_count, 4);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_keeps_breaking_off_is_read_on_and_nothing_is_read_twice() {
    let (store, meadow) = faulty();
    let body: Bytes = (0..4000u32).flat_map(u32::to_le_bytes).collect();
    meadow.put("k", body.clone()).await.unwrap();
    store.fail_gets([Fault::Broken; 8]);
    assert_eq!(meadow.get("k").await.unwrap(), Some(body.clone()));
    assert_eq!(meadow.requests().read_bytes, 16_000);
    store.fail_gets([Fault::Broken, Fault::Before, Fault::Broken]);
    let key = Path::from("k");
    let range = meadow.object_store().get_range(&key, 1000..9000);
    assert_eq!(range.await.unwrap(), body.slice(1000..9000));
    assert_eq!(meadow.requests().read_bytes, 24_000);
}

/// Breaks the first answer and replaces the object before the second request.
#[derive(Debug)]
struct Replacing(Arc<InMemory>, std::sync::atomic::AtomicUsize);

impl Faults for Replacing {
    fn on_put(&self, _: &Path, _: &PutMode) -> Fault {
        Fault::None
    }

    fn on_get(&self, path: &Path) -> Fault {
        match self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => return Fault::Broken,
            1 => {
                let put = self.0.put(path, bytes("other").into()).now_or_never();
                put.expect("at once").unwrap();
            }
            _ => {}
        }
        Fault::None
    }
}

#[tokio::test(start_paused = true)]
async fn halves_of_two_objects_are_never_put_together() {
    let inner = Arc::new(InMemory::new());
    let faults = Replacing(Arc::clone(&inner), Default::default());
    let store = FaultyStore::with(inner, faults);
    let meadow = Meadow::over(Arc::new(store), "faulty", &host(), &settings());
    meadow.put("k", bytes("value")).await.unwrap();
    assert_eq!(meadow.get("k").await.unwrap(), Some(bytes("other")));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_too_large_to_be_ours_is_corrupt() {
    let (store, meadow) = faulty();
    meadow.put("k", bytes("value")).await.unwrap();
    store.fail_gets([Fault::Huge]);
    let error = meadow.get("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("k"), "{error}");
    assert!(error.to_string().contains("2147483648 bytes"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_fails_at_the_deadline() {
    let (store, meadow) = faulty();
    store.fail_gets([Fault::Before; 10_000]);
    let before = tokio::time::Instant::now();
    let error = meadow.get("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    let late = before.elapsed() - settings().storage_deadline();
    assert!(late < std::time::Duration::from_millis(5), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listing_may_take_longer_than_one_request_and_no_page_may() {
    let slow = |wait_list_per_entry| {
        let config = ThrottleConfig {
            wait_list_per_entry,
            ..ThrottleConfig::default()
        };
        let store = ThrottledStore::new(InMemory::new(), config);
        Meadow::over(Arc::new(store), "slow", &host(), &settings())
    };
    let deadline = settings().storage_deadline();
    let meadow = slow(deadline / 4);
    for key in 0..20 {
        meadow
            .put(&format!("p/{key:02}"), bytes("x"))
            .await
            .unwrap();
    }
    assert_eq!(keys(&meadow, "p", None).await.len(), 20);
    let stuck = slow(deadline * 2);
    stuck.put("p/1", bytes("x")).await.unwrap();
    let before = tokio::time::Instant::now();
    assert!(stuck.list("p", None).await.is_err());
    assert!(before.elapsed() < deadline * 3);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_landed_without_an_answer_is_ours() {
    let (store, meadow) = faulty();
    store.fail_puts([Fault::After]);
    assert_eq!(
        meadow.create("k", bytes("mine")).await.unwrap(),
        Created::Ours
    );
    assert_eq!(meadow.requests().put_count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_create_that_wrote_nothing_is_done_again() {
    let (store, meadow) = faulty();
    store.fail_puts([Fault::Conflict, Fault::Before, Fault::Conflict]);
    assert_eq!(
        meadow.create("k", bytes("mine")).await.unwrap(),
        Created::Ours
    );
    assert_eq!(meadow.get("k").await.unwrap(), Some(bytes("mine")));
}

#[tokio::test(start_paused = true)]
async fn a_create_that_cannot_be_decided_is_unknown() {
    let (store, meadow) = faulty();
    store.fail_puts([Fault::After]);
    store.fail_gets([Fault::Before; 10_000]);
    let error = meadow.create("k", bytes("mine")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_create_that_is_denied_after_a_try_without_an_answer_is_unknown() {
    let (store, meadow) = faulty();
    store.fail_puts([Fault::Before, Fault::Denied]);
    let error = meadow.create("k", bytes("mine")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
}

#[tokio::test]
async fn a_create_that_is_denied_did_not_happen() {
    let (store, meadow) = faulty();
    store.fail_puts([Fault::Denied]);
    let error = meadow.create("k", bytes("mine")).await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(meadow.requests().put_count, 1);
}

#[tokio::test]
async fn a_store_that_ignores_the_condition_is_refused() {
    let store = FaultyStore::without_conditions(Arc::new(InMemory::new()));
    let meadow = Meadow::over(Arc::new(store), "careless://b", &host(), &settings());
    let error = meadow.prove().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(
        error
            .to_string()
            .starts_with("careless://b cannot be a meadow: 8 of 8"),
        "{error}"
    );
    assert_eq!(keys(&meadow, "_swarm", None).await, [""; 0]);
}

/// As of a store that takes one write a second of one key.
#[tokio::test(start_paused = true)]
async fn a_store_that_answers_one_rival_must_refuse_a_later_one() {
    let careless = Arc::new(FaultyStore::without_conditions(Arc::new(InMemory::new())));
    let meadow = Meadow::over(careless.clone(), "careless://b", &host(), &settings());
    careless.fail_puts([Fault::Before; 9]);
    let error = meadow.prove().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    assert_eq!(keys(&meadow, "_swarm", None).await, [""; 0]);
    let (store, meadow) = faulty();
    store.fail_puts([Fault::Before; 7]);
    meadow.prove().await.unwrap();
}

#[tokio::test]
async fn good_stores_are_proved_and_nothing_is_left_of_it() {
    let (_directory, meadows) = both().await;
    for meadow in meadows {
        meadow.prove().await.unwrap();
        let manifest = meadow.get("apiary.json").await.unwrap();
        assert!(manifest.is_some());
        meadow.prove().await.unwrap();
        assert_eq!(meadow.get("apiary.json").await.unwrap(), manifest);
        assert_eq!(keys(&meadow, "_swarm", None).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_store_whose_answers_are_lost_is_proved_at_another_try() {
    let (store, meadow) = faulty();
    meadow.prove().await.unwrap();
    for fault in [Fault::Before, Fault::After] {
        // All of the rivals: the one that won does not know it.
        store.fail_puts([fault; 8]);
        meadow.prove().await.unwrap();
        assert_eq!(keys(&meadow, "_swarm", None).await, [""; 0]);
    }
}

/// S3 may answer so to creates that meet.
#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_all_rivals_is_proved_at_another_try_and_not_for_ever() {
    let (store, meadow) = faulty();
    store.fail_puts([Fault::Conflict; 8]);
    meadow.prove().await.unwrap();
    store.fail_puts([Fault::Conflict; 800]);
    let error = meadow.prove().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    assert!(error.to_string().contains("all were refused"), "{error}");
    assert_eq!(keys(&meadow, "_swarm", None).await, [""; 0]);
}

#[tokio::test]
async fn ages_are_told_by_the_clock_of_the_store() {
    let (_directory, meadows) = both().await;
    for meadow in meadows {
        let time = meadow.prove().await.unwrap();
        meadow.put("d/k", bytes("mine")).await.unwrap();
        let now = meadow.host.clock.monotonic();
        let listed = meadow.list("d", None).await.unwrap();
        let modified_ms = listed[0].last_modified.timestamp_millis();
        assert!(time.age(modified_ms, now) < Duration::from_secs(60));
        let later = time.age(modified_ms, now + Duration::from_secs(500));
        let around = Duration::from_secs(440)..Duration::from_secs(560);
        assert!(around.contains(&later), "{later:?}");
        let earlier = time.age(modified_ms - 90_000, now);
        assert!(earlier >= Duration::from_secs(30), "{earlier:?}");
        assert_eq!(time.age(i64::MAX, now), Duration::ZERO);
    }
}

#[tokio::test]
async fn a_meadow_with_a_torn_manifest_is_refused_before_anything_is_written() {
    let (_, meadow) = faulty();
    meadow.prove().await.unwrap();
    let manifest = meadow.get("apiary.json").await.unwrap().unwrap();
    let text = String::from_utf8(manifest.to_vec()).unwrap();
    let torn = Bytes::from(text[..text.len() / 2].to_string());
    meadow.put("apiary.json", torn).await.unwrap();
    let puts = meadow.requests().put_count;
    let error = meadow.prove().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("apiary.json"), "{error}");
    assert_eq!(meadow.requests().put_count, puts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_creates_on_threads_exactly_one_wins() {
    let directory = TempDir::new().unwrap();
    let host = threaded_host();
    let uri = directory.path().display().to_string();
    let synced = Settings {
        sync: true,
        ..settings()
    };
    let open = |_| Meadow::open(&uri, &host, &synced).unwrap();
    let meadows: Vec<_> = (0..4).map(open).collect();
    for round in 0..20 {
        let key = format!("f/_delta_log/{round}");
        let attempts = (0..16).map(|writer| {
            let (meadow, key) = (meadows[writer % 4].clone(), key.clone());
            tokio::spawn(async move { meadow.create(&key, bytes(&writer.to_string())).await })
        });
        let mut winners = 0;
        for created in join_all(attempts).await {
            winners += usize::from(created.unwrap().unwrap() == Created::Ours);
        }
        assert_eq!(winners, 1);
    }
}

#[tokio::test]
async fn a_memory_meadow_is_shared_by_name_within_the_process() {
    let open = |uri: &str| Meadow::open(uri, &host(), &settings()).unwrap();
    open("memory://shared-by-two")
        .put("k", bytes("v"))
        .await
        .unwrap();
    assert_eq!(
        open("memory://shared-by-two").get("k").await.unwrap(),
        Some(bytes("v"))
    );
    assert_eq!(open("memory://of-another").get("k").await.unwrap(), None);
}

#[tokio::test]
async fn opening_a_bucket_shows_no_secret() {
    let mut settings = settings();
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "hunter1"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ] {
        settings.storage.variables.insert(name.into(), value.into());
    }
    let uri = "s3://bucket/p?endpoint=http://127.0.0.1:1&region=eu";
    let meadow = Meadow::open(uri, &host(), &settings).unwrap();
    assert_eq!(meadow.label(), "s3://bucket/p");
    assert!(!format!("{settings:?} {}", meadow.label()).contains("hunter"));
    settings
        .storage
        .variables
        .insert("AWS_ENDPOINT_URL".into(), "http://far.example".into());
    assert!(Meadow::open("s3://bucket", &host(), &settings).is_err());
}

#[tokio::test]
async fn an_emulator_of_azure_has_one_address() {
    let open = |variables: &[(&str, &str)]| {
        let mut settings = settings();
        let owned = variables
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()));
        settings.storage.variables.extend(owned);
        Meadow::open("az://box/p", &host(), &settings)
    };
    let emulator = ("AZURE_STORAGE_USE_EMULATOR", "true");
    let endpoint = (
        "AZURE_STORAGE_ENDPOINT",
        "http://127.0.0.1:1/devstoreaccount1",
    );
    assert!(open(&[emulator]).is_ok());
    let error = open(&[emulator, endpoint]).unwrap_err();
    assert!(error.to_string().contains("no other endpoint"), "{error}");
    assert!(open(&[("AZURE_STORAGE_ACCOUNT", "farm"), endpoint]).is_ok());
}

#[tokio::test]
async fn an_update_is_refused_by_a_local_store() {
    let (_directory, [_, local]) = both().await;
    let update = object_store::UpdateVersion {
        e_tag: Some("1".into()),
        version: None,
    };
    let key = Path::from("k");
    let store = local.object_store();
    let put = store.put_opts(&key, bytes("v").into(), PutMode::Update(update).into());
    let error = put.await.unwrap_err();
    assert!(error.to_string().contains("conditional update"), "{error}");
}
