//! What the system may do under a local store: fail a step, lie about a link, lose power, lead away.

use super::super::cell_put;
use super::*;
use crate::host::testing::host;
use crate::host::{DirectoryEntry, DiskFiles, FileStatus, Files};
use object_store::{ObjectStoreExt, PutMode};
use parking_lot::Mutex;
use std::io::ErrorKind;
use std::path::Path as FilePath;
use tempfile::TempDir;

/// Real files with a diary, and a step that fails.
#[derive(Debug, Default)]
struct Watched {
    steps: Mutex<Vec<String>>,
    /// The step that fails, and whether it happens nevertheless.
    broken: Mutex<Option<(&'static str, bool, ErrorKind)>>,
}

impl Watched {
    fn step<T>(
        &self,
        step: &'static str,
        path: &FilePath,
        run: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.steps.lock().push(format!("{step} {name}"));
        match *self.broken.lock() {
            Some((broken, happens, kind)) if broken == step => {
                if happens {
                    run()?;
                }
                Err(kind.into())
            }
            _ => run(),
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.steps.lock())
    }

    fn syncs(&self) -> Vec<String> {
        self.take()
            .into_iter()
            .filter(|step| step.starts_with("sync"))
            .collect()
    }
}

impl Files for Watched {
    fn write(&self, path: &FilePath, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.step("write", path, || DiskFiles.write(path, offset, parts))
    }
    fn write_new(&self, path: &FilePath, parts: &[Bytes]) -> io::Result<()> {
        self.step("write_new", path, || DiskFiles.write_new(path, parts))
    }
    fn sync(&self, path: &FilePath) -> io::Result<()> {
        self.step("sync", path, || DiskFiles.sync(path))
    }
    fn link(&self, from: &FilePath, to: &FilePath) -> io::Result<()> {
        self.step("link", to, || DiskFiles.link(from, to))
    }
    fn rename(&self, from: &FilePath, to: &FilePath) -> io::Result<()> {
        self.step("rename", to, || DiskFiles.rename(from, to))
    }
    fn sync_directory(&self, path: &FilePath) -> io::Result<()> {
        self.step("sync_directory", path, || DiskFiles.sync_directory(path))
    }
    fn make_directory(&self, path: &FilePath) -> io::Result<()> {
        self.step("make", path, || DiskFiles.make_directory(path))
    }
    fn remove(&self, path: &FilePath) -> io::Result<()> {
        self.step("remove", path, || DiskFiles.remove(path))
    }
    fn remove_directory(&self, path: &FilePath) -> io::Result<()> {
        DiskFiles.remove_directory(path)
    }
    fn status(&self, path: &FilePath) -> io::Result<FileStatus> {
        self.step("status", path, || DiskFiles.status(path))
    }
    fn resolve(&self, path: &FilePath) -> io::Result<PathBuf> {
        DiskFiles.resolve(path)
    }
    fn list(&self, path: &FilePath) -> io::Result<Vec<DirectoryEntry>> {
        self.step("list", path, || DiskFiles.list(path))
    }
    fn open(&self, path: &FilePath) -> io::Result<Box<dyn OpenFile>> {
        DiskFiles.open(path)
    }
}

struct Ground {
    directory: TempDir,
    files: Arc<Watched>,
    store: LocalStore,
}

fn ground() -> Ground {
    let directory = TempDir::new().unwrap();
    let files = Arc::new(Watched::default());
    let host = Host {
        files: Arc::clone(&files) as _,
        ..host()
    };
    let store = LocalStore::new(directory.path().join("root"), &host, true);
    Ground {
        directory,
        files,
        store,
    }
}

impl Ground {
    async fn create(&self, key: &str) -> Result<PutResult> {
        self.store
            .put_opts(&Path::from(key), "body".into(), PutMode::Create.into())
            .await
    }

    fn staged_count(&self) -> usize {
        let staging = self.directory.path().join("root").join(STAGING);
        std::fs::read_dir(staging).map_or(0, Iterator::count)
    }

    fn exists(&self, key: &str) -> bool {
        self.directory.path().join("root").join(key).exists()
    }
}

#[tokio::test]
async fn a_first_create_syncs_every_new_name_and_a_second_only_its_own() {
    let ground = ground();
    ground.create("a/_delta_log/0").await.unwrap();
    let syncs = ground.files.syncs();
    let parent = ground
        .directory
        .path()
        .file_name()
        .unwrap()
        .to_string_lossy();
    assert!(
        syncs[0].starts_with("sync "),
        "the content comes before any name: {syncs:?}"
    );
    for directory in [parent.as_ref(), "root", "a"] {
        assert!(
            syncs.contains(&format!("sync_directory {directory}")),
            "{syncs:?}"
        );
    }
    assert_eq!(
        syncs.last().map(String::as_str),
        Some("sync_directory _delta_log")
    );
    ground.create("a/_delta_log/1").await.unwrap();
    let steps = ground.files.take();
    let kinds: Vec<_> = steps
        .iter()
        .map(|step| step.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "write",
            "sync",
            "status",
            "link",
            "remove",
            "sync_directory"
        ]
    );
}

#[tokio::test]
async fn nothing_under_swarm_is_synced_and_nothing_at_all_when_told_not_to() {
    let ground = ground();
    ground.create("_swarm/nodes/n").await.unwrap();
    assert_eq!(ground.files.syncs(), [""; 0]);
    let host = Host {
        files: Arc::clone(&ground.files) as _,
        ..host()
    };
    let careless = LocalStore::new(ground.directory.path().join("other"), &host, false);
    careless.put(&Path::from("a/b"), "x".into()).await.unwrap();
    assert_eq!(ground.files.syncs(), [""; 0]);
}

#[tokio::test]
async fn a_directory_that_was_made_without_sync_is_synced_for_the_first_durable_object() {
    let ground = ground();
    ground.create("_swarm/nodes/n").await.unwrap();
    ground.create("a").await.unwrap();
    let parent = ground
        .directory
        .path()
        .file_name()
        .unwrap()
        .to_string_lossy();
    assert!(
        ground
            .files
            .syncs()
            .contains(&format!("sync_directory {parent}"))
    );
}

#[tokio::test]
async fn a_failed_write_or_sync_leaves_nothing_and_names_the_path() {
    let ground = ground();
    for (step, happens) in [
        ("write", true),
        ("write", false),
        ("sync", false),
        ("link", false),
    ] {
        *ground.files.broken.lock() = Some((step, happens, ErrorKind::StorageFull));
        let error = ground.create("a/b").await.unwrap_err();
        assert!(error.to_string().contains("root/a/b"), "{error}");
        *ground.files.broken.lock() = None;
        assert!(!ground.exists("a/b"), "{step}");
        assert_eq!(ground.staged_count(), 0, "{step}");
    }
    ground.create("a/b").await.unwrap();
}

#[tokio::test]
async fn a_link_that_reports_failure_after_success_is_a_success() {
    let ground = ground();
    *ground.files.broken.lock() = Some(("link", true, ErrorKind::AlreadyExists));
    ground.create("a/b").await.unwrap();
    assert_eq!(ground.staged_count(), 0);
}

#[tokio::test]
async fn an_object_whose_name_could_not_be_synced_is_not_acknowledged() {
    let ground = ground();
    ground.create("a/0").await.unwrap();
    *ground.files.broken.lock() = Some(("sync_directory", false, ErrorKind::Other));
    let Error::Generic { source, .. } = ground.create("a/1").await.unwrap_err() else {
        panic!("another error")
    };
    assert!(
        source
            .downcast_ref::<LocalFailure>()
            .unwrap()
            .may_have_landed
    );
    assert!(
        matches!(ground.create("a/0").await, Err(Error::Generic { .. })),
        "nor told of"
    );
}

#[tokio::test]
async fn a_directory_that_is_removed_by_another_process_is_made_again() {
    let ground = ground();
    ground.create("_swarm/q/1").await.unwrap();
    let other = LocalStore::new(ground.directory.path().join("root"), &host(), true);
    other.delete(&Path::from("_swarm/q/1")).await.unwrap();
    assert!(!ground.exists("_swarm/q"));
    ground.create("_swarm/q/2").await.unwrap();
    std::fs::remove_dir_all(ground.directory.path().join("root")).unwrap();
    ground.create("_swarm/q/3").await.unwrap();
    ground.create("a/b").await.unwrap();
}

#[tokio::test]
async fn what_a_list_does_not_want_has_no_status_taken() {
    let ground = ground();
    for version in 0..20 {
        ground.create(&format!("t/{version:02}")).await.unwrap();
    }
    ground.create("u/x").await.unwrap();
    ground.files.take();
    let after = Path::from("t/17");
    let found: Vec<_> = ground
        .store
        .list_with_offset(Some(&"t".into()), &after)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(ground.files.take(), ["list t", "status 18", "status 19"]);
}

#[tokio::test]
async fn staging_is_no_key_and_in_no_list() {
    let ground = ground();
    ground.create("a").await.unwrap();
    std::fs::write(
        ground
            .directory
            .path()
            .join("root")
            .join(STAGING)
            .join("torn"),
        "x",
    )
    .unwrap();
    let found: Vec<_> = ground.store.list(None).try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(
        ground
            .store
            .list_with_delimiter(None)
            .await
            .unwrap()
            .common_prefixes
            .is_empty()
    );
    assert!(ground.create(&format!("{STAGING}/x")).await.is_err());
}

#[tokio::test]
async fn a_sweep_removes_what_is_old_and_leaves_what_may_be_in_use() {
    let ground = ground();
    ground.create("a").await.unwrap();
    let staging = ground.directory.path().join("root").join(STAGING);
    std::fs::write(staging.join("new"), "x").unwrap();
    let old = std::fs::File::create(staging.join("old")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1))
        .unwrap();
    ground
        .store
        .sweep(std::time::Duration::from_secs(24 * 3600))
        .await
        .unwrap();
    assert!(staging.join("new").exists());
    assert!(!staging.join("old").exists());
    assert_eq!(ground.staged_count(), 1);
}

#[tokio::test]
async fn a_link_out_of_the_root_is_not_followed_for_writing() {
    let ground = ground();
    ground.create("a").await.unwrap();
    let outside = ground.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, ground.directory.path().join("root/away")).unwrap();
    let error = ground.create("away/new").await.unwrap_err();
    assert!(
        error.to_string().contains("leads out of the meadow"),
        "{error}"
    );
    assert!(ground.create("away/deep/new").await.is_err());
    assert!(ground.store.delete(&Path::from("away/kept")).await.is_err());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    let found: Vec<_> = ground.store.list(None).try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn a_large_object_is_streamed_in_chunks_from_one_file() {
    let ground = ground();
    let key = Path::from("big");
    let body: Vec<u8> = (0..2 * CHUNK_BYTES + 5).map(|index| index as u8).collect();
    ground.store.put(&key, body.clone().into()).await.unwrap();
    let result = ground.store.get(&key).await.unwrap();
    ground.store.put(&key, "replaced".into()).await.unwrap();
    let chunks: Vec<Bytes> = result.into_stream().try_collect().await.unwrap();
    assert_eq!(chunks.len(), 3);
    assert_eq!(chunks.concat(), body);
}

#[tokio::test]
async fn an_upload_that_lost_a_part_is_not_completed() {
    let ground = ground();
    let mut upload = ground
        .store
        .put_multipart(&Path::from("cell"))
        .await
        .unwrap();
    *ground.files.broken.lock() = Some(("write", false, ErrorKind::StorageFull));
    assert!(upload.put_part("lost".into()).await.is_err());
    *ground.files.broken.lock() = None;
    upload.put_part("kept".into()).await.unwrap();
    assert!(upload.complete().await.is_err());
    drop(upload);
    assert!(!ground.exists("cell"));
    assert_eq!(ground.staged_count(), 0);
}

/// Runs a few jobs and then none.
#[derive(Debug)]
struct Tired(Mutex<usize>);

impl Blocking for Tired {
    fn run(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        let mut left = self.0.lock();
        if *left > 0 {
            *left -= 1;
            job();
        }
    }
}

impl Ground {
    async fn put_cell(&self, key: &str) -> Result<PutResult> {
        let key = Path::from(key);
        self.store.put_opts(&key, "cell".into(), cell_put()).await
    }

    /// Creates an object that names a cell.
    async fn create_naming(&self, key: &str, cell: &str) -> Result<PutResult> {
        let mut options = PutOptions::from(PutMode::Create);
        options.extensions.insert(Names([Path::from(cell)].into()));
        let key = Path::from(key);
        self.store.put_opts(&key, "commit".into(), options).await
    }
}

#[tokio::test]
async fn a_cell_is_written_in_place_and_synced_with_its_directory() {
    let ground = ground();
    ground.put_cell("a/0").await.unwrap();
    ground.files.take();
    ground.put_cell("a/1").await.unwrap();
    assert_eq!(
        ground.files.take(),
        ["write_new 1", "sync 1", "sync_directory a"]
    );
    assert_eq!(ground.staged_count(), 0);
    ground.create_naming("a/log/0", "a/1").await.unwrap();
    assert!(!ground.files.take().contains(&"sync 1".to_string()));
}

/// Without this a power cut could leave the commit and not the cell. The job that was to sync the
/// cell never runs here.
#[tokio::test]
async fn a_commit_has_its_name_only_after_the_cells_that_it_names_are_durable() {
    let mut ground = ground();
    ground.store.blocking = Arc::new(Tired(Mutex::new(1)));
    ground.put_cell("a/cell").await.unwrap();
    assert_eq!(
        ground.files.syncs().len(),
        2,
        "the root and its parent only"
    );
    ground.store.blocking = host().blocking;
    ground.create_naming("a/log/0", "a/cell").await.unwrap();
    let steps = ground.files.take();
    let at = |step: &str| steps.iter().position(|found| found == step).unwrap();
    assert!(at("sync cell") < at("sync_directory a"), "{steps:?}");
    assert!(at("sync_directory a") < at("link 0"), "{steps:?}");
}

#[tokio::test]
async fn what_names_a_cell_that_could_not_be_made_durable_is_not_created() {
    let ground = ground();
    *ground.files.broken.lock() = Some(("sync", false, ErrorKind::StorageFull));
    ground.put_cell("a/cell").await.unwrap();
    *ground.files.broken.lock() = None;
    let error = ground.create_naming("a/log/0", "a/cell").await.unwrap_err();
    assert!(error.to_string().contains("root/a/cell"), "{error}");
    assert!(!ground.exists("a/log/0"));
    assert_eq!(ground.staged_count(), 0);
    ground.create_naming("a/log/0", "a/other").await.unwrap();
    ground.store.delete(&Path::from("a/cell")).await.unwrap();
    assert_eq!(ground.store.disk.unsettled.count(), 0);
}

#[tokio::test]
async fn a_cell_that_could_not_be_written_leaves_nothing_and_one_that_is_there_stays() {
    let ground = ground();
    for happens in [true, false] {
        *ground.files.broken.lock() = Some(("write_new", happens, ErrorKind::StorageFull));
        let error = ground.put_cell("a/cell").await.unwrap_err();
        assert!(error.to_string().contains("root/a/cell"), "{error}");
        assert!(!ground.exists("a/cell"));
    }
    *ground.files.broken.lock() = None;
    ground.create("a/cell").await.unwrap();
    let error = ground.put_cell("a/cell").await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    let found = ground.store.get(&Path::from("a/cell")).await.unwrap();
    assert_eq!(found.bytes().await.unwrap(), "body");
}

/// The commit can be read, so whoever reads it back takes it for one that will stay.
#[tokio::test]
async fn a_commit_whose_name_could_not_be_synced_is_not_acknowledged() {
    use crate::error::ErrorKind as Kind;
    use crate::ledger::{Intent, Ledger};
    use crate::settings::Settings;
    use apiary_protocol::delta::{Format, Metadata, Protocol};
    use apiary_protocol::ids::CommitId;
    let Ground {
        directory: _directory,
        files,
        store,
    } = ground();
    let (host, settings) = (host(), Settings::default());
    let meadow = crate::store::Meadow::over(Arc::new(store), "local", &host, &settings);
    let ledger = Ledger::new(host, meadow, "h/b/f".into(), &settings);
    let column = r#"{"name":"a","type":"long","nullable":true,"metadata":{}}"#;
    let metadata = Metadata {
        id: "frame".into(),
        name: None,
        description: None,
        format: Format {
            provider: "parquet".into(),
            options: Default::default(),
        },
        schema_string: format!(r#"{{"type":"struct","fields":[{column}]}}"#),
        partition_columns: vec![],
        configuration: Default::default(),
        created_time: None,
    };
    let protocol = Protocol {
        min_reader_version: 1,
        min_writer_version: 2,
        reader_features: None,
        writer_features: None,
    };
    let first = ledger
        .create(CommitId::from_random([1; 16]), metadata, protocol)
        .await
        .unwrap();
    *files.broken.lock() = Some(("sync_directory", false, ErrorKind::Other));
    let intent = Intent::append(CommitId::from_random([2; 16]), vec![]);
    let (mut results, _) = ledger.commit(first, vec![intent]).await;
    let error = results.remove(0).expect_err("it may not survive");
    assert_eq!(error.kind(), Kind::OutcomeUnknown, "{error}");
}
