//! Parts of cells on local disk, for storage that is 30 ms away.

use crate::buckets::Bucket;
use crate::s3::bucket;
use apiary_tests::{BUCKET, Bench, Finished, Server};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const LATENCY_MS: u32 = 30;
const SUMS: &str = "SELECT count(*) AS n, sum(id) AS s, min(x) AS least, max(x) AS most FROM t";

/// A frame of three cells of several megabytes, and the answer to [`SUMS`].
fn with_frame(bucket: &Bucket) -> String {
    bucket.sql("CREATE TABLE t (id BIGINT, x DOUBLE)");
    for part in 0..3 {
        let rows = format!(
            "INSERT INTO t SELECT value, random() FROM generate_series({}, {})",
            part * 200_000 + 1,
            (part + 1) * 200_000
        );
        let loaded = bucket.run(&["--set", "codec=none", "sql", &rows]);
        loaded.success();
    }
    sums(bucket, &["--set", "cache=off"])
}

fn sums(bucket: &Bucket, settings: &[&str]) -> String {
    let arguments = [settings, &["sql", "--format", "csv", SUMS]].concat();
    bucket.run(&arguments).success().stdout
}

/// What EXPLAIN ANALYZE says: the text behind `what`.
fn explained(bucket: &Bucket, what: &str) -> Option<String> {
    let text = bucket.sql(&format!("EXPLAIN ANALYZE {SUMS}"));
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(what)?.strip_prefix(','));
    line.map(|line| line.trim_matches('"').to_string())
}

/// A request that the server's account shows, and nothing else of ours makes.
fn mark(server: &Server, name: &str) {
    let address = server.endpoint.strip_prefix("http://").expect("plain http");
    let mut stream = TcpStream::connect(address).expect("the server");
    let request = format!("GET /{name} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .expect("an answer");
}

/// Reads of cells in a server's account, between each two marks.
fn cell_reads(account: &Value) -> Vec<usize> {
    let mut counts = vec![0];
    for request in account.as_array().expect("a list") {
        let [method, path] = [&request[0], &request[1]].map(|text| text.as_str().expect("text"));
        if path.starts_with("/mark") {
            counts.push(0);
        } else if method == "GET" && path.contains(".parquet") {
            *counts.last_mut().expect("a count") += 1;
        }
    }
    counts
}

fn directory(bench: &Bench) -> PathBuf {
    bench.path(".cache/apiary")
}

/// Files of cached parts.
fn parts(directory: &Path) -> Vec<PathBuf> {
    let Ok(directories) = std::fs::read_dir(directory.join("parts")) else {
        return Vec::new();
    };
    let files = directories
        .flatten()
        .flat_map(|directory| std::fs::read_dir(directory.path()).into_iter().flatten());
    files.flatten().map(|file| file.path()).collect()
}

fn bytes(files: &[PathBuf]) -> u64 {
    let sizes = files
        .iter()
        .map(|path| std::fs::metadata(path).map_or(0, |status| status.len()));
    sizes.sum()
}

#[test]
fn a_second_run_over_far_storage_makes_no_request_for_data() {
    let (server, bench) = (Server::far_s3(LATENCY_MS), Bench::new());
    let bucket = bucket(&server, &bench, BUCKET);
    let wanted = with_frame(&bucket);
    mark(&server, "mark-first");
    assert_eq!(sums(&bucket, &[]), wanted);
    mark(&server, "mark-second");
    assert_eq!(sums(&bucket, &[]), wanted);
    assert_eq!(explained(&bucket, "requests").as_deref(), Some("0"));
    let hits = explained(&bucket, "cache_hits").expect("a row");
    assert!(
        hits.ends_with(" requests saved") && !hits.starts_with("0 "),
        "{hits}"
    );
    let status = bucket.run(&["status", "--json"]).success().stdout;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert!(
        status["node"]["cache"]["used_bytes"].as_u64() > Some(8 << 20),
        "{status}"
    );
    let reads = cell_reads(&server.finish());
    assert!(reads[1] > 0, "{reads:?}");
    assert_eq!(reads[2], 0, "{reads:?}");
}

#[test]
fn eviction_keeps_to_the_limit() {
    let (server, bench) = (Server::far_s3(0), Bench::new());
    let bucket = bucket(&server, &bench, BUCKET);
    let wanted = with_frame(&bucket);
    let limit = 3 << 20;
    for _ in 0..3 {
        assert_eq!(sums(&bucket, &["--set", "cache=3MiB"]), wanted);
        let files = parts(&directory(&bench));
        assert!(
            bytes(&files) > 1 << 20 && bytes(&files) <= limit,
            "{}",
            bytes(&files)
        );
    }
}

#[test]
fn cached_parts_that_were_changed_or_torn_are_fetched_again() {
    let (server, bench) = (Server::far_s3(0), Bench::new());
    let bucket = bucket(&server, &bench, BUCKET);
    let wanted = with_frame(&bucket);
    assert_eq!(sums(&bucket, &[]), wanted);
    for damage in [
        |bytes: &mut Vec<u8>| *bytes.last_mut().expect("bytes") ^= 1,
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2),
        |bytes: &mut Vec<u8>| bytes.fill(0),
    ] {
        for path in parts(&directory(&bench)) {
            let mut bytes = std::fs::read(&path).expect("a part");
            damage(&mut bytes);
            std::fs::write(&path, bytes).expect("damaged");
        }
        mark(&server, "mark-damaged");
        assert_eq!(sums(&bucket, &[]), wanted);
        mark(&server, "mark-mended");
        assert_eq!(sums(&bucket, &[]), wanted);
    }
    let reads = cell_reads(&server.finish());
    for round in 0..3 {
        let (damaged, mended) = (reads[1 + 2 * round], reads[2 + 2 * round]);
        assert!(damaged > 0 && mended == 0, "{reads:?}");
    }
}

#[test]
fn a_process_that_is_killed_while_it_caches_leaves_what_the_next_one_can_use() {
    let (server, bench) = (Server::far_s3(LATENCY_MS), Bench::new());
    let bucket = bucket(&server, &bench, BUCKET);
    let wanted = with_frame(&bucket);
    let mut child = bucket
        .command(&["sql", SUMS])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    for _ in 0..6_000 {
        if !parts(&directory(&bench)).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("kill -9");
    child.wait().expect("it is dead");
    assert!(!parts(&directory(&bench)).is_empty());
    assert_eq!(sums(&bucket, &[]), wanted);
    mark(&server, "mark-again");
    assert_eq!(sums(&bucket, &[]), wanted);
    let reads = cell_reads(&server.finish());
    assert_eq!(reads[1], 0, "{reads:?}");
}

#[test]
fn one_process_has_the_cache_and_others_go_without() {
    let (server, bench) = (Server::far_s3(0), Bench::new());
    let bucket = bucket(&server, &bench, BUCKET);
    let wanted = with_frame(&bucket);
    let mut node = bucket
        .command(&["start", "--bees", "1", "--memory", "256MiB"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a node starts");
    let lines = BufReader::new(node.stderr.take().expect("piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("ready")));
    for _ in 0..2 {
        assert_eq!(sums(&bucket, &[]), wanted);
    }
    assert_eq!(explained(&bucket, "cache_hits"), None);
    assert!(parts(&directory(&bench)).is_empty());
    node.kill().expect("kill -9");
    node.wait().expect("it is dead");
    assert_eq!(sums(&bucket, &[]), wanted);
    assert!(!parts(&directory(&bench)).is_empty());
}

#[test]
fn a_cache_that_cannot_be_used_fails_no_query_and_one_that_is_off_leaves_nothing() {
    let (server, bench) = (Server::far_s3(0), Bench::new());
    let bucket = bucket(&server, &bench, BUCKET);
    let wanted = with_frame(&bucket);
    assert!(!directory(&bench).join("parts").exists() || parts(&directory(&bench)).is_empty());
    assert_eq!(sums(&bucket, &["--set", "cache=off"]), wanted);
    assert!(parts(&directory(&bench)).is_empty());

    let broken = bench.path("broken");
    std::fs::create_dir(&broken).expect("a directory");
    std::fs::write(broken.join("parts"), "no directory").expect("a file");
    let setting = format!("cache_directory={}", broken.display());
    let arguments = ["--set", &setting, "sql", "--format", "csv", SUMS];
    let Finished { stdout, stderr, .. } = bucket.run(&arguments).success();
    assert_eq!(stdout, wanted);
    assert_eq!(
        stderr.matches("the cache cannot be used").count(),
        1,
        "{stderr}"
    );

    let nowhere = format!("cache_directory={}", broken.join("parts/below").display());
    let refused = bucket.run(&["--set", &nowhere, "sql", SUMS]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("cache=off"), "{refused:?}");
}

#[test]
fn a_directory_of_this_machine_is_not_cached() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t AS SELECT 1 AS id");
    bench.sql("SELECT * FROM t");
    assert!(!bench.path(".cache").exists());
}
