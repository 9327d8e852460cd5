//! The cache of a node whose meadow is far away.

use super::{frame, number, numbers, settle, sql, stream};
use crate::node::{Node, Role};
use crate::{CacheStatus, QueryOptions, WriteOptions};
use apiary_engine::behavior::placement::Distribute;
use apiary_engine::error::{Error, Result};
use apiary_engine::host::testing::{host, host_with_seed};
use apiary_engine::host::{Blocking, DirectoryEntry, DiskFiles, FileStatus, Files, Host, OpenFile};
use apiary_engine::settings::{Codec, Settings};
use apiary_engine::sql::{Session, parse};
use apiary_engine::store::Meadow;
use apiary_engine::store::testing::{Fault, Faults, FaultyStore};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStore, PutMode};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const ROWS: i64 = 400_000;
const SUM: &str = "SELECT sum(n) FROM t";

fn wanted() -> i64 {
    ROWS * (ROWS - 1) / 2
}

/// Counts what is read of cells, and fails what it is told to.
#[derive(Debug, Default)]
struct Cells {
    reads: AtomicU64,
    faults: Mutex<VecDeque<Fault>>,
}

impl Faults for Cells {
    fn on_put(&self, _: &Key, _: &PutMode) -> Fault {
        Fault::None
    }

    fn on_get(&self, path: &Key) -> Fault {
        if !path.as_ref().ends_with(".parquet") {
            return Fault::None;
        }
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.faults.lock().pop_front().unwrap_or(Fault::None)
    }
}

/// A meadow 30 ms away, and the disk of one machine.
struct World {
    store: Arc<FaultyStore<Cells>>,
    place: tempfile::TempDir,
    settings: Settings,
}

impl World {
    /// With a frame of one cell of some megabytes.
    async fn new() -> Self {
        let far = ThrottleConfig {
            wait_get_per_call: Duration::from_millis(30),
            ..ThrottleConfig::default()
        };
        let store = ThrottledStore::new(InMemory::new(), far);
        let place = tempfile::tempdir().expect("a directory");
        let settings = Settings {
            codec: Codec::None,
            cache_bytes_max: Some(64 << 20),
            cache_directory: Some(place.path().to_path_buf()),
            ..super::settings(2)
        };
        let world = Self {
            store: Arc::new(FaultyStore::with(Arc::new(store), Cells::default())),
            place,
            settings,
        };
        let node = world.node(host()).await;
        sql(&node, "CREATE TABLE t (n BIGINT)")
            .await
            .expect("created");
        let rows = stream(vec![numbers(0..ROWS)]);
        node.write(&frame("t"), rows, WriteOptions::default())
            .await
            .expect("written");
        node.shutdown().await.expect("a stop");
        world
    }

    async fn node(&self, host: Host) -> Node {
        let store: Arc<dyn ObjectStore> = self.store.clone();
        let meadow = Meadow::over(store, "far://away", &host, &self.settings).as_remote();
        Node::start(host, meadow, self.settings.clone(), Role::Brief)
            .await
            .expect("a node")
    }

    /// Requests for cells since the last time.
    fn reads(&self) -> u64 {
        self.store.faults.reads.swap(0, Ordering::SeqCst)
    }

    fn fail(&self, faults: &[Fault]) {
        self.store.faults.faults.lock().extend(faults);
    }

    fn parts(&self) -> Vec<PathBuf> {
        let directories = std::fs::read_dir(self.place.path().join("parts")).expect("a directory");
        let files = directories
            .flatten()
            .flat_map(|directory| std::fs::read_dir(directory.path()).into_iter().flatten());
        files.flatten().map(|file| file.path()).collect()
    }

    fn bytes_on_disk(&self) -> u64 {
        let sizes = self.parts().into_iter();
        sizes
            .map(|path| std::fs::metadata(path).map_or(0, |status| status.len()))
            .sum()
    }
}

async fn cache(node: &Node) -> CacheStatus {
    let status = node.status().await.expect("a status");
    status.cache.expect("a cache")
}

async fn sum(node: &Node) -> Result<i64> {
    number(node, SUM).await
}

async fn stop(node: Node) {
    node.shutdown().await.expect("a stop");
}

#[tokio::test(start_paused = true)]
async fn what_one_process_read_the_next_one_reads_without_a_request() {
    let world = World::new().await;
    world.reads();
    let first = world.node(host()).await;
    assert_eq!(sum(&first).await.expect("an answer"), wanted());
    assert!(world.reads() > 0);
    stop(first).await;
    let second = world.node(host_with_seed(2)).await;
    for _ in 0..2 {
        assert_eq!(sum(&second).await.expect("an answer"), wanted());
    }
    assert_eq!(world.reads(), 0);
    let cache = cache(&second).await;
    assert_eq!(cache.hits, cache.asked);
    assert!(cache.requests_saved > 0 && cache.parts > 3, "{cache:?}");
    assert!(cache.used_bytes >= world.bytes_on_disk());
    stop(second).await;
}

#[tokio::test(start_paused = true)]
async fn queries_at_the_same_time_fetch_each_part_once() {
    let world = World::new().await;
    world.reads();
    let alone = world.node(host()).await;
    assert_eq!(sum(&alone).await.expect("an answer"), wanted());
    let reads = world.reads();
    drop(alone);
    std::fs::remove_dir_all(world.place.path().join("parts")).expect("removed");
    let node = world.node(host_with_seed(2)).await;
    let sums = futures::future::join_all((0..4).map(|_| sum(&node))).await;
    for answer in sums {
        assert_eq!(answer.expect("an answer"), wanted());
    }
    assert_eq!(world.reads(), reads);
    stop(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_query_does_not_wait_for_one_that_was_taken_back_while_it_fetched() {
    let world = World::new().await;
    let node = world.node(host()).await;
    let statement = parse(SUM).expect("SQL").remove(0);
    let session = Session::new().expect("a session");
    let leading = node.execute(statement, &session, QueryOptions::default());
    let leading = leading.await.expect("a plan");
    // It is fetching the footer by now.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let following = sum(&node);
    let gone = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(leading);
    };
    let (answer, ()) = tokio::join!(following, gone);
    assert_eq!(answer.expect("an answer"), wanted());
    stop(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_fails_fails_no_query_but_its_own() {
    let world = World::new().await;
    let node = world.node(host()).await;
    world.fail(&[Fault::Denied]);
    let answers = futures::future::join_all((0..3).map(|_| sum(&node))).await;
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    assert_eq!(failed, 1, "{answers:?}");
    stop(node).await;
}

#[tokio::test(start_paused = true)]
async fn parts_that_were_torn_changed_or_removed_are_fetched_again() {
    let world = World::new().await;
    let node = world.node(host()).await;
    sum(&node).await.expect("an answer");
    stop(node).await;
    let damages: [fn(&Path); 3] = [
        |path| {
            let mut bytes = std::fs::read(path).expect("a part");
            *bytes.last_mut().expect("bytes") ^= 1;
            std::fs::write(path, bytes).expect("changed");
        },
        |path| {
            let bytes = std::fs::read(path).expect("a part");
            std::fs::write(path, &bytes[..bytes.len() / 2]).expect("torn");
        },
        |path| std::fs::remove_file(path).expect("removed"),
    ];
    for (seed, damage) in damages.into_iter().enumerate() {
        // The node does not know what comes.
        let node = world.node(host_with_seed(10 + seed as u64)).await;
        settle().await;
        world.parts().iter().for_each(|path| damage(path));
        world.reads();
        assert_eq!(sum(&node).await.expect("an answer"), wanted());
        assert!(world.reads() > 0);
        assert!(cache(&node).await.damaged > 0);
        stop(node).await;
        let next = world.node(host_with_seed(20 + seed as u64)).await;
        assert_eq!(sum(&next).await.expect("an answer"), wanted());
        assert_eq!(world.reads(), 0);
        stop(next).await;
    }
}

/// Checksums of the part are right, and the cell's own are not: it is read past the cache.
#[tokio::test(start_paused = true)]
async fn a_cell_that_does_not_go_together_is_given_up_and_read_again() {
    let world = World::new().await;
    let node = world.node(host()).await;
    // Bytes that change on their way are cached as they came.
    world.fail(&[Fault::None, Fault::Flipped]);
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    assert!(cache(&node).await.damaged > 0);
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    stop(node).await;
}

#[tokio::test(start_paused = true)]
async fn the_files_never_exceed_the_limit_and_queries_go_on() {
    let mut world = World::new().await;
    world.settings.cache_bytes_max = Some(2 << 20);
    let node = world.node(host()).await;
    for _ in 0..3 {
        assert_eq!(sum(&node).await.expect("an answer"), wanted());
        settle().await;
        assert!(world.bytes_on_disk() <= 2 << 20);
    }
    let status = cache(&node).await;
    assert!(status.evicted > 0, "{status:?}");
    stop(node).await;
    assert!(world.bytes_on_disk() <= 2 << 20);
    // A lower limit is kept from the start.
    world.settings.cache_bytes_max = Some(1 << 20);
    let node = world.node(host_with_seed(2)).await;
    assert!(cache(&node).await.used_bytes <= 1 << 20);
    stop(node).await;
    assert!(world.bytes_on_disk() <= 1 << 20);
}

/// A disk that takes no more.
#[derive(Debug, Default)]
struct FullDisk {
    disk: DiskFiles,
    is_full: AtomicBool,
}

impl FullDisk {
    fn room(&self) -> io::Result<()> {
        match self.is_full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl Files for FullDisk {
    fn write(&self, path: &Path, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        // A part of it may get there.
        let some = parts.first().map_or(&[][..], std::slice::from_ref);
        match self.room() {
            Ok(()) => self.disk.write(path, offset, parts),
            Err(error) => self.disk.write(path, offset, some).and(Err(error)),
        }
    }
    fn write_new(&self, path: &Path, parts: &[Bytes]) -> io::Result<()> {
        self.room().and_then(|()| self.disk.write_new(path, parts))
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.disk.sync(path)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_directory(path)
    }
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.room().and_then(|()| self.disk.make_directory(path))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_directory(path)
    }
    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        self.disk.status(path)
    }
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.disk.resolve(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.disk.list(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.disk.open(path)
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_no_query_and_is_written_to_again_later() {
    let world = World::new().await;
    let disk = Arc::new(FullDisk::default());
    let clock = Arc::new(apiary_engine::host::testing::SteppingClock::default());
    let host = Host {
        files: disk.clone(),
        clock: clock.clone(),
        ..host()
    };
    let node = world.node(host).await;
    settle().await;
    disk.is_full.store(true, Ordering::SeqCst);
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    settle().await;
    let full = cache(&node).await;
    assert!(full.failures == 1 && full.parts == 0, "{full:?}");
    assert_eq!(world.bytes_on_disk(), 0);
    // It is not tried again and again.
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    assert_eq!(cache(&node).await.failures, 1);
    disk.is_full.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(61));
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    settle().await;
    assert!(cache(&node).await.parts > 3);
    stop(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_used_fails_no_query() {
    let mut world = World::new().await;
    let file = world.place.path().join("file");
    std::fs::write(&file, "x").expect("a file");
    world.settings.cache_directory = Some(file);
    let node = world.node(host()).await;
    for _ in 0..2 {
        assert_eq!(sum(&node).await.expect("an answer"), wanted());
    }
    assert_eq!(cache(&node).await.hits, 0);
    stop(node).await;
}

/// A disk that does not get to what it is asked for.
#[derive(Debug, Default)]
struct Stuck {
    is_stuck: AtomicBool,
}

impl Blocking for Stuck {
    fn run(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        match self.is_stuck.load(Ordering::SeqCst) {
            // Its result never comes.
            true => std::mem::forget(job),
            false => job(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_query_waits_for_a_write_and_what_waits_is_bounded() {
    let mut world = World::new().await;
    // A cache of 4 MiB in memory: a quarter of it is for what is going to be written.
    world.settings.memory_bytes = Some(64 << 20);
    let disk = Arc::new(Stuck::default());
    let host = Host {
        blocking: disk.clone(),
        ..host()
    };
    let node = world.node(host).await;
    settle().await;
    disk.is_stuck.store(true, Ordering::SeqCst);
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    let status = cache(&node).await;
    assert!(status.dropped > 0 && status.parts == 0, "{status:?}");
    // Those that wait are given from memory.
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    assert!(cache(&node).await.hits > 0);
    stop(node).await;
}

#[tokio::test(start_paused = true)]
async fn queries_outlive_the_cache_and_it_comes_back_with_what_it_had() {
    let world = World::new().await;
    let node = world.node(host()).await;
    sum(&node).await.expect("an answer");
    settle().await;
    world.reads();
    node.kill_cache();
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    settle().await;
    world.reads();
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    assert_eq!(world.reads(), 0);
    let status = cache(&node).await;
    assert!(status.parts > 3, "{status:?}");
    stop(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_meadow_on_this_machine_has_no_cache() {
    let world = World::new().await;
    let host = host();
    let store: Arc<dyn ObjectStore> = world.store.clone();
    let meadow = Meadow::over(store, "memory://here", &host, &world.settings);
    let node = Node::start(host, meadow, world.settings.clone(), Role::Brief);
    let node = node.await.expect("a node");
    assert_eq!(sum(&node).await.expect("an answer"), wanted());
    assert!(node.status().await.expect("a status").cache.is_none());
    stop(node).await;
}

#[tokio::test(start_paused = true)]
async fn explain_analyze_tells_what_the_cache_gave() -> Result<()> {
    let world = World::new().await;
    let node = world.node(host()).await;
    sum(&node).await?;
    settle().await;
    let answer = sql(&node, &format!("EXPLAIN ANALYZE {SUM}")).await?;
    let batches: Vec<_> = answer.batches.try_collect().await?;
    let text = arrow::util::pretty::pretty_format_batches(&batches);
    let text = text
        .map_err(|error| Error::Bug(error.to_string()))?
        .to_string();
    assert!(
        text.contains("cache_hits") && text.contains(" requests saved"),
        "{text}"
    );
    assert!(text.contains("| requests          | 0 "), "{text}");
    stop(node).await;
    Ok(())
}

const GROUPS: &str = "SELECT n % 5 AS k, sum(n) AS s FROM t GROUP BY k ORDER BY k";

async fn explain(node: &Node, how: &str) -> String {
    let answer = sql(node, &format!("{how} {GROUPS}"))
        .await
        .expect("planned");
    let batches: Vec<_> = answer.batches.try_collect().await.expect("rows");
    let text = arrow::util::pretty::pretty_format_batches(&batches);
    text.expect("text").to_string()
}

#[tokio::test(start_paused = true)]
async fn tasks_go_to_the_node_that_has_their_cells_and_explain_says_so() {
    let mut world = World::new().await;
    world.settings.distribute = Distribute::On;
    let mut nodes = Vec::new();
    for number in 0..2_u64 {
        let directory = world.place.path().join(number.to_string());
        std::fs::create_dir(&directory).expect("a directory");
        world.settings.cache_directory = Some(directory);
        let host = host_with_seed(30 + number);
        let store: Arc<dyn ObjectStore> = world.store.clone();
        let meadow = Meadow::over(store, "far://away", &host, &world.settings).as_remote();
        let node = Node::start(host, meadow, world.settings.clone(), Role::Resident);
        nodes.push(node.await.expect("a node"));
    }
    let [asking, helping] = &nodes[..] else {
        panic!("two nodes")
    };
    // Until each has seen the other's heartbeat change.
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert!(!explain(asking, "EXPLAIN").await.contains("bytes cached"));
    explain(asking, "EXPLAIN ANALYZE").await;
    // Until the helper has told what it has.
    tokio::time::sleep(Duration::from_secs(130)).await;
    let helped = cache(helping).await;
    assert!(helped.parts > 0, "{helped:?}");
    let plan = explain(asking, "EXPLAIN").await;
    let place = helping.node_id().short();
    let there = plan
        .lines()
        .filter(|line| line.contains(&format!("on {place} (")));
    let there: Vec<&str> = there.collect();
    assert!(
        there.iter().any(|line| line.contains(" bytes cached, ")),
        "{plan}"
    );
    let run = explain(asking, "EXPLAIN ANALYZE").await;
    assert!(run.contains("from its cache"), "{run}");
    for node in nodes {
        stop(node).await;
    }
}
