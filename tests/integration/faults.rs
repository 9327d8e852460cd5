//! Killed processes, several processes at one frame, and a full disk harm nothing.

use apiary_tests::{Bench, Random};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn writer(bench: &Bench, writer: u64, commits: u64, rows: u64) -> Child {
    Command::new(env!("CARGO_BIN_EXE_apiary-test-writer"))
        .arg(bench.meadow())
        .arg("default.default.log")
        .args([writer.to_string(), commits.to_string(), rows.to_string()])
        .env("HOME", bench.directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the writer starts")
}

/// Commits that the writer said were acknowledged.
fn acknowledged(child: &mut Child) -> Vec<u64> {
    let output = child.stdout.take().expect("piped");
    BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("ack ")?.split(' ').next()?.parse().ok())
        .collect()
}

const LOG: &str = "CREATE TABLE log (writer BIGINT NOT NULL, \"commit\" BIGINT NOT NULL, \"row\" BIGINT NOT NULL)";

/// How many times a writer is killed.
const KILLS: u64 = 200;

#[test]
fn every_acknowledged_row_survives_kill_9_exactly_once() {
    let bench = Bench::new();
    bench.sql(LOG);
    let mut random = Random(0x5eed);
    let rows = 100;
    let mut all_acknowledged = Vec::new();
    for attempt in 0..KILLS {
        let mut child = writer(&bench, attempt, 1_000_000, rows);
        // The moment is what is random here; the outcome is not judged by time.
        std::thread::sleep(Duration::from_millis(random.below(400)));
        child.kill().expect("kill -9");
        all_acknowledged.extend(
            acknowledged(&mut child)
                .into_iter()
                .map(|commit| (attempt, commit)),
        );
        child.wait().expect("it is dead");
    }
    assert!(
        !all_acknowledged.is_empty(),
        "no writer lived long enough to commit"
    );

    let found = bench.sql(
        "SELECT writer, \"commit\", count(*) AS n, count(DISTINCT \"row\") AS d FROM log GROUP BY 1, 2 ORDER BY 1, 2",
    );
    let mut present = std::collections::BTreeSet::new();
    for line in found.lines().skip(1) {
        let values: Vec<u64> = line
            .split(',')
            .map(|text| text.parse().expect("a number"))
            .collect();
        assert_eq!(
            &values[2..],
            &[rows, rows],
            "a commit is wholly in, once: {line}"
        );
        present.insert((values[0], values[1]));
    }
    for commit in &all_acknowledged {
        assert!(
            present.contains(commit),
            "{commit:?} was acknowledged and is gone"
        );
    }
    // The next writer finds nothing to repair.
    let mut child = writer(&bench, 1_000_000, 3, rows);
    assert_eq!(acknowledged(&mut child).len(), 3);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn four_processes_append_to_one_frame_and_nothing_is_lost_doubled_or_refused() {
    let bench = Bench::new();
    bench.sql(LOG);
    let commits = 50;
    let mut children: Vec<Child> = (0..4).map(|id| writer(&bench, id, commits, 10)).collect();
    for child in &mut children {
        assert_eq!(acknowledged(child).len() as u64, commits);
        assert!(child.wait().expect("it ends").success());
    }
    assert_eq!(
        bench.sql(
            "SELECT writer, count(*) AS n, count(DISTINCT \"commit\" * 1000 + \"row\") AS d FROM log GROUP BY writer ORDER BY writer"
        ),
        "writer,n,d\n0,500,500\n1,500,500\n2,500,500\n3,500,500\n"
    );
}

#[test]
fn a_killed_load_leaves_the_frame_as_it_was() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t (a BIGINT, b VARCHAR); INSERT INTO t VALUES (1, 'kept')");
    let lines: String = (0..400_000)
        .map(|i| format!("{i},row number {i}\n"))
        .collect();
    let file = bench
        .file("big.csv", format!("a,b\n{lines}"))
        .display()
        .to_string();
    let mut random = Random(7);
    for _ in 0..8 {
        let mut child = bench
            .command(["load", "default.default.t", &file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_millis(20 + random.below(300)));
        child.kill().expect("kill -9");
        child.wait().expect("it is dead");
        let n: u64 = bench
            .sql("SELECT count(*) AS n FROM t")
            .lines()
            .nth(1)
            .expect("a row")
            .parse()
            .expect("n");
        assert_eq!(
            (n - 1) % 400_000,
            0,
            "{n} rows: a load is wholly in or wholly out"
        );
    }
    assert_eq!(
        bench.sql("SELECT b FROM t WHERE a = 1 AND b = 'kept'"),
        "b\nkept\n"
    );
}

/// All files below a directory.
fn files_below(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_query_that_is_interrupted_leaves_no_scratch_behind() {
    let bench = Bench::new();
    let scratch = bench.path("scratch");
    std::fs::create_dir(&scratch).expect("a directory");
    let setting = format!("scratch_directory={}", scratch.display());
    let text = "SELECT value, value * 7919 % 1000003 AS k, repeat('x', 100) AS s \
                FROM generate_series(1, 100000000) ORDER BY k, value";
    let mut child = bench
        .command(["--memory", "256MiB", "--set", &setting, "sql", text])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    while files_below(&scratch).len() < 4 {
        assert!(child.try_wait().expect("a status").is_none(), "it ended");
        std::thread::yield_now();
    }
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.expect("kill").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(files_below(&scratch), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_load_that_fails_or_is_killed_makes_no_frame() {
    let bench = Bench::new();
    let torn = bench.file("torn.csv", "a,b\n1,2\n3,4,5,6\n");
    let failed = bench.run(["load", "t", &torn.display().to_string()]);
    assert_ne!(failed.code, Some(0), "{failed:?}");
    assert!(bench.refused("SELECT * FROM t").contains("not found"));
    let lines: String = (0..400_000).map(|i| format!("{i},row {i}\n")).collect();
    let file = bench.file("big.csv", format!("a,b\n{lines}"));
    let mut random = Random(11);
    for attempt in 0..8 {
        let frame = format!("t{attempt}");
        let mut child = bench
            .command(["load", &frame, &file.display().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_millis(20 + random.below(300)));
        child.kill().expect("kill -9");
        child.wait().expect("it is dead");
        let count = format!("SELECT count(*) AS n FROM {frame}");
        let found = bench.run(["sql", "--format", "csv", &count]);
        match found.code {
            Some(0) => assert_eq!(found.stdout, "n\n400000\n"),
            _ => assert!(found.stderr.contains("not found"), "{found:?}"),
        }
        // Whatever has become of it, the name can be used.
        let text = format!("CREATE TABLE IF NOT EXISTS {frame} AS SELECT 1 AS a");
        bench.sql(&text);
        bench.sql(&count);
    }
}

/// A file system of 24 MiB, in a mount namespace of its own, so that a disk can be full.
#[test]
fn a_full_disk_fails_the_write_and_nothing_else() {
    let bench = Bench::new();
    let disk = bench.path("disk");
    std::fs::create_dir(&disk).expect("a directory");
    let lines: String = (0..2_000_000u64)
        .map(|i| format!("{i},{:016x}\n", Random(i).draw()))
        .collect();
    let file = bench.file("big.csv", format!("a,b\n{lines}"));
    let script = format!(
        r#"set -e
mount -t tmpfs -o size=24m none {disk}
export APIARY_STORAGE={disk}/meadow
{node} sql "CREATE TABLE t (a BIGINT, b VARCHAR); INSERT INTO t VALUES (1, 'kept')"
if {node} load default.default.t {file} 2> {errors}; then echo "the load went in"; exit 9; fi
{node} sql --format csv "SELECT count(*) AS n, max(b) AS b FROM t"
{node} sql "INSERT INTO t VALUES (2, 'after')"
{node} sql --format csv "SELECT count(*) AS n FROM t"
"#,
        disk = disk.display(),
        node = apiary_tests::node_binary().display(),
        file = file.display(),
        errors = bench.path("errors").display(),
    );
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "bash", "-c", &script])
        .env("HOME", bench.directory.path())
        .output()
        .expect("unshare");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = std::fs::read_to_string(bench.path("errors")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(errors.to_lowercase().contains("no space"), "{errors}");
    assert!(
        printed.contains("n,b\n1,kept\n") && printed.contains("n\n2\n"),
        "{printed}"
    );
}
