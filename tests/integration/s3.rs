//! The same doors over S3, spoken on a socket.

use apiary_tests::{Bench, Finished, python, repository};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(python())
            .arg(repository().join("tests/python/s3_server.py"))
            .arg("hives")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("its address");
        Self {
            child,
            endpoint: line.trim().to_string(),
        }
    }

    fn run(&self, bench: &Bench, uri: &str, secret: &str, arguments: &[&str]) -> Finished {
        let mut command = bench.command(["--storage", uri]);
        command
            .args(arguments)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .stdin(Stdio::null());
        Finished::of(command.output())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_frame_lives_in_a_bucket() {
    let (server, bench) = (Server::start(), Bench::new());
    let uri = format!(
        "s3://hives/home?region=us-east-1&endpoint={}",
        server.endpoint
    );
    let sql = |text: &str| server.run(&bench, &uri, "sesame", &["sql", "--format", "csv", text]);
    sql("CREATE TABLE t (id BIGINT, region VARCHAR) PARTITIONED BY (region)").success();
    sql("INSERT INTO t VALUES (1, 'a b'), (2, 'süd/west'), (3, 'a b')").success();
    sql("INSERT INTO t SELECT id + 10, region FROM t").success();
    assert_eq!(
        sql("SELECT region, count(*) AS n, sum(id) AS s FROM t GROUP BY region ORDER BY region")
            .success()
            .stdout,
        "region,n,s\na b,4,28\nsüd/west,2,14\n"
    );
    let shown = server.run(&bench, &uri, "sesame", &["status"]).success();
    assert!(
        !shown.stdout.contains("sesame") && !shown.stderr.contains("sesame"),
        "{shown:?}"
    );
    sql("DROP TABLE t PURGE").success();
    assert_ne!(sql("SELECT * FROM t").code, Some(0));
}

#[test]
fn secrets_do_not_belong_into_a_uri_and_a_missing_bucket_is_named() {
    let (server, bench) = (Server::start(), Bench::new());
    let uri = format!(
        "s3://user:sesame@hives/home?region=us-east-1&endpoint={}",
        server.endpoint
    );
    let finished = server.run(&bench, &uri, "sesame", &["sql", "SELECT 1"]);
    assert_ne!(finished.code, Some(0));
    assert!(!finished.stderr.contains("sesame"), "{}", finished.stderr);

    let uri = format!(
        "s3://no-such-bucket/home?region=us-east-1&endpoint={}",
        server.endpoint
    );
    let finished = server.run(&bench, &uri, "sesame", &["sql", "CREATE TABLE t (x INT)"]);
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert!(
        finished.stderr.contains("no-such-bucket"),
        "{}",
        finished.stderr
    );
}
