//! A node that stays cleans up after processes that were killed, and deletes nothing else.

use apiary_tests::Bench;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// A `start`ed node whose Keeper is quick.
struct Started(Child);

impl Started {
    fn on(bench: &Bench) -> Self {
        let mut child = bench
            .command(["start"])
            .env("APIARY_KEEPER_INTERVAL", "50ms")
            .env("APIARY_KEEPER_REQUESTS", "100000")
            .env("APIARY_CHECKPOINT_INTERVAL", "2")
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let ready = lines.next().expect("a line").expect("text");
        assert!(ready.starts_with("ready: "), "{ready}");
        // Read on, so that the node never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    fn stop(mut self) {
        let pid = self.0.id().to_string();
        let told = Command::new("kill").args(["-INT", &pid]).status();
        assert!(told.expect("kill").success());
        assert!(self.0.wait().expect("it ends").success());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for something that another process does.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

fn make_older(file: &Path, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    let file = std::fs::File::options().write(true).open(file);
    file.and_then(|file| file.set_modified(then))
        .expect("an older file");
}

/// Whether nothing is left but the log that tells writers so.
fn is_purged(data: &Path) -> bool {
    let log = data.join("_delta_log");
    files(data).iter().all(|file| file.starts_with(&log))
}

const MANY: &str = "CREATE TABLE t PARTITIONED BY (p) AS \
                    SELECT value AS p, value AS n FROM generate_series(1, 1500)";

#[test]
fn a_purge_whose_process_was_killed_is_finished_by_a_node_that_stays() {
    let bench = Bench::new();
    let data = bench.meadow().join("default/default/t");
    // Nothing here is about power cuts, and syncing so many cells takes a minute.
    let made = bench
        .command(["sql", MANY])
        .env("APIARY_SYNC", "false")
        .status();
    assert!(made.expect("it runs").success());
    bench.sql("CREATE TABLE kept AS SELECT 1 AS n");
    let all = files(&data);
    assert!(all.len() > 1500, "{} files", all.len());
    // One look is quick, also on a machine that is busy: the purge must not be over before.
    let log = data.join("_delta_log");
    let first = all.iter().find(|file| !file.starts_with(&log));
    let first = first.expect("a cell");
    let mut child = bench
        .command(["sql", "DROP TABLE t PURGE"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    wait_until("the purge begins", || !first.exists());
    child.kill().expect("kill -9");
    child.wait().expect("it is dead");
    let left = files(&data).len();
    assert!(!is_purged(&data), "the purge was faster than its murderer");
    assert_eq!(bench.sql("SHOW TABLES"), "frame\nkept\n");
    assert_eq!(
        files(&data).len(),
        left,
        "a one-shot command keeps no house"
    );

    let node = Started::on(&bench);
    wait_until("the purge is finished", || is_purged(&data));
    node.stop();
    assert_eq!(bench.sql("SELECT n FROM kept"), "n\n1\n");
    bench.sql("CREATE TABLE t AS SELECT 2 AS n");
    assert_eq!(bench.sql("SELECT n FROM t"), "n\n2\n");
}

#[test]
fn what_dead_processes_left_is_swept_once_it_is_old_and_nothing_else() {
    let bench = Bench::new();
    let meadow = bench.meadow();
    let frame = meadow.join("default/default/t");
    for text in [
        "CREATE TABLE t (n BIGINT)",
        "INSERT INTO t VALUES (1)",
        "INSERT OVERWRITE t VALUES (2)",
        "INSERT INTO t VALUES (3)",
    ] {
        bench.sql(text);
    }
    // Somebody else's table, with a file that its log does not name.
    let foreign = meadow.join("lake/foreign");
    copy(&frame, &foreign);
    std::fs::write(foreign.join("part-orphan.parquet"), "x").expect("a file");
    bench.sql("ATTACH FRAME foreign LOCATION 'lake/foreign'");
    files(&meadow)
        .iter()
        .for_each(|file| make_older(file, 9 * 24));
    let kept = files(&meadow);

    let orphan = frame.join("part-orphan.parquet");
    let upload = meadow.join(".apiary-staging/0123456789abcdef0123456789abcdef");
    let beat = meadow.join("_swarm/nodes/07070707070747078707070707070707");
    let proof = meadow.join("_swarm/proof/07070707070707070707070707070707");
    std::fs::create_dir_all(meadow.join("_swarm/nodes")).expect("a directory");
    std::fs::create_dir_all(meadow.join("_swarm/proof")).expect("a directory");
    std::fs::create_dir_all(meadow.join(".apiary-staging")).expect("a directory");
    let young = frame.join("part-young.parquet");
    std::fs::write(&young, "x").expect("a file");
    for (file, hours) in [(&orphan, 8 * 24), (&beat, 2), (&proof, 2)] {
        std::fs::write(file, "x").expect("a file");
        make_older(file, hours);
    }
    assert_eq!(bench.sql("SELECT sum(n) AS n FROM t"), "n\n5\n");
    assert!(orphan.exists() && beat.exists());

    let node = Started::on(&bench);
    // After the start, whose own sweep would take it.
    std::fs::write(&upload, "x").expect("a file");
    make_older(&upload, 8 * 24);
    for file in [&orphan, &beat, &proof, &upload] {
        wait_until(&format!("{} is swept", file.display()), || !file.exists());
    }
    let checkpoint = frame.join("_delta_log/00000000000000000003.checkpoint.parquet");
    wait_until("the overdue checkpoint is there", || checkpoint.exists());
    node.stop();

    for file in kept.iter().chain([&young]) {
        assert!(file.exists(), "{} is gone", file.display());
    }
    assert_eq!(bench.sql("SELECT sum(n) AS n FROM t"), "n\n5\n");
    assert_eq!(bench.sql("SELECT sum(n) AS n FROM foreign"), "n\n5\n");
    assert!(files(&meadow.join("_swarm")).is_empty());
}

/// Kills the maker of a frame when some of its cells are there.
fn make_and_kill(bench: &Bench, frame: &str) {
    let text =
        format!("CREATE TABLE {frame} AS SELECT value AS n FROM generate_series(1, 100000000)");
    let before = cells(bench).len();
    let mut child = bench
        .command(["--set", "target_cell=64KiB", "--set", "codec=none", "sql"])
        .arg(text)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    wait_until("cells are there", || cells(bench).len() > before + 1);
    child.kill().expect("kill -9");
    child.wait().expect("it is dead");
}

fn cells(bench: &Bench) -> Vec<PathBuf> {
    let all = files(&bench.meadow().join("default")).into_iter();
    let is_cell = |file: &PathBuf| file.extension().is_some_and(|kind| kind == "parquet");
    all.filter(is_cell).collect()
}

fn marks(bench: &Bench) -> Vec<PathBuf> {
    files(&bench.meadow().join("_making"))
}

#[test]
fn cells_of_a_frame_whose_maker_was_killed_are_swept_wherever_they_lie() {
    let bench = Bench::new();
    let home = bench.meadow().join("default/default");
    // At the place of a frame that was purged since, and of one that was only dropped.
    make_and_kill(&bench, "t");
    bench.sql("CREATE TABLE t AS SELECT 1 AS n; DROP TABLE t PURGE");
    assert_eq!((marks(&bench).len(), cells(&bench).len()), (1, 0));
    bench.sql("CREATE TABLE d AS SELECT 1 AS n");
    let dropped = cells(&bench);
    bench.sql("DROP TABLE d");
    // Where only the id leads to that the frame was to have.
    make_and_kill(&bench, "t");
    let of_t = cells(&bench)
        .into_iter()
        .find(|cell| !dropped.contains(cell));
    let place = of_t.and_then(|cell| cell.parent().map(Path::to_path_buf));
    let place = place.expect("a location");
    assert!(!place.ends_with("t"), "{}", place.display());
    make_and_kill(&bench, "u");
    bench.sql("CREATE TABLE u AS SELECT 1 AS n; DROP TABLE u");
    assert_eq!(marks(&bench).len(), 3);
    for mark in marks(&bench) {
        make_older(&mark, 9 * 24);
    }
    let named =
        |cell: &PathBuf| cell.starts_with(home.join("u")) && is_in_log(&home.join("u"), cell);
    let kept: Vec<PathBuf> = cells(&bench).into_iter().filter(named).collect();
    assert_eq!(kept.len(), 1);
    for cell in cells(&bench) {
        make_older(&cell, 8 * 24);
    }
    // What looks like it and is somebody else's, and what is too young.
    let foreign = home.join("export.20240101/part-0.parquet");
    let young = place.join("part-young.parquet");
    std::fs::create_dir_all(foreign.parent().expect("a parent")).expect("a directory");
    for (file, hours) in [(&foreign, 9 * 24), (&young, 6 * 24)] {
        std::fs::write(file, "x").expect("a file");
        make_older(file, hours);
    }
    let mut left = [dropped, kept, vec![foreign, young.clone()]].concat();
    left.sort();
    assert_eq!(bench.sql("SHOW TABLES"), "frame\n");
    assert!(
        cells(&bench).len() > left.len() + 3,
        "a one-shot command keeps no house"
    );

    let node = Started::on(&bench);
    wait_until("the old ones are swept", || {
        cells(&bench).len() == left.len()
    });
    wait_until("one mark is left", || marks(&bench).len() == 1);
    node.stop();
    assert_eq!(cells(&bench), left);

    make_older(&young, 8 * 24);
    let node = Started::on(&bench);
    wait_until("the last mark is gone", || marks(&bench).is_empty());
    node.stop();
    assert!(!young.exists());
    // Statements that end, well or not, leave no marks.
    bench.sql("CREATE TABLE t AS SELECT 1 AS n");
    bench.refused("CREATE TABLE v AS SELECT (value - value) / (value - value) AS n FROM generate_series(1, 9)");
    assert!(marks(&bench).is_empty());
}

/// Whether some commit of a log names a cell.
fn is_in_log(location: &Path, cell: &Path) -> bool {
    let name = cell
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    let commits = files(&location.join("_delta_log"));
    commits
        .iter()
        .any(|commit| std::fs::read_to_string(commit).is_ok_and(|text| text.contains(name)))
}

#[test]
fn scratch_of_a_killed_process_is_removed_by_the_next() {
    let bench = Bench::new();
    let scratch = bench.path("not/there/yet");
    let command = |statement: &str| {
        let mut command = bench.command(["sql", statement]);
        command
            .env("APIARY_SCRATCH_DIRECTORY", &scratch)
            .env("APIARY_MEMORY", "64MiB");
        command
    };
    let sort =
        "SELECT value, value % 7919 AS m FROM generate_series(1, 100000000) ORDER BY m, value";
    let mut child = command(sort)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let spilled = || files(&scratch).iter().any(|file| holds(file));
    wait_until("it spills", spilled);
    let mine = files(&scratch);
    assert!(command("SELECT 1").status().expect("it runs").success());
    assert!(mine.iter().any(|file| file.exists()), "it lives");
    child.kill().expect("kill -9");
    child.wait().expect("it is dead");
    assert!(spilled());
    assert!(command("SELECT 1").status().expect("it runs").success());
    assert_eq!(files(&scratch), Vec::<PathBuf>::new());
}

fn holds(file: &Path) -> bool {
    file.metadata().is_ok_and(|status| status.len() > 0)
}

#[test]
fn a_scratch_directory_that_cannot_be_made_is_named() {
    let bench = Bench::new();
    let below = bench.file("file", "x").join("below");
    let finished = bench
        .command(["sql", "SELECT 1"])
        .env("APIARY_SCRATCH_DIRECTORY", &below)
        .output();
    let message = String::from_utf8(finished.expect("it runs").stderr).expect("text");
    assert!(
        message.contains("scratch_directory") && message.contains("file/below"),
        "{message}"
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("a directory");
        std::fs::copy(&file, target).expect("a copy");
    }
}
