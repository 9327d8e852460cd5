//! The same doors over what is not a directory: what every kind of bucket has to do.

use apiary_tests::{Bench, Finished};
use std::io::Read;
use std::process::{Command, Stdio};

/// A meadow behind a socket, and what the environment has to say about it.
pub struct Bucket<'a> {
    pub bench: &'a Bench,
    pub uri: String,
    pub variables: Vec<(&'static str, String)>,
}

impl Bucket<'_> {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bench.command(["--storage", &self.uri]);
        command.args(arguments).stdin(Stdio::null());
        command.envs(self.variables());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Finished {
        Finished::of(self.command(arguments).output())
    }

    pub fn sql(&self, text: &str) -> String {
        let finished = self.run(&["sql", "--format", "csv", text]);
        finished.success().stdout
    }

    fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, &**value))
    }

    /// Appends from two processes at once.
    fn append_together(&self, frame: &str, commits: u64, rows: u64) {
        let write = |writer: u64| {
            Command::new(env!("CARGO_BIN_EXE_apiary-test-writer"))
                .args([&self.uri, frame])
                .args([writer.to_string(), commits.to_string(), rows.to_string()])
                .env("HOME", self.bench.directory.path())
                .envs(self.variables())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the writer starts")
        };
        for mut writer in [write(0), write(1)] {
            let mut said = String::new();
            let output = writer.stdout.as_mut().expect("piped");
            output.read_to_string(&mut said).expect("text");
            assert!(writer.wait().expect("it ends").success());
            assert_eq!(said.lines().count() as u64, commits, "{said}");
        }
    }
}

/// Rows are written, loaded, read, appended to by two processes, and removed.
pub fn a_frame_lives_there(bucket: &Bucket) {
    bucket.sql("CREATE TABLE t (id BIGINT, region VARCHAR) PARTITIONED BY (region)");
    bucket.sql("INSERT INTO t VALUES (1, 'a b'), (2, 'süd/west'), (3, 'a b')");
    bucket.sql("INSERT INTO t SELECT id + 10, region FROM t");
    let file = bucket.bench.file("more.csv", "id,region\n100,100 %\n");
    let file = file.display().to_string();
    bucket.run(&["load", "t", &file]).success();
    assert_eq!(
        bucket.sql(
            "SELECT region, count(*) AS n, sum(id) AS s FROM t GROUP BY region ORDER BY region"
        ),
        "region,n,s\n100 %,1,100\na b,4,28\nsüd/west,2,14\n"
    );

    bucket.sql(
        "CREATE TABLE log (writer BIGINT NOT NULL, \"commit\" BIGINT NOT NULL, \"row\" BIGINT NOT NULL)",
    );
    bucket.append_together("default.default.log", 10, 5);
    assert_eq!(
        bucket.sql(
            "SELECT writer, count(*) AS n, count(DISTINCT \"commit\" * 10 + \"row\") AS d FROM log \
             GROUP BY writer ORDER BY writer"
        ),
        "writer,n,d\n0,50,50\n1,50,50\n"
    );

    bucket.sql("DROP TABLE t PURGE");
    assert_ne!(bucket.run(&["sql", "SELECT * FROM t"]).code, Some(0));
}

/// A cell of more parts than one is written and read by its columns.
pub fn a_large_cell_lives_there(bucket: &Bucket) {
    let made =
        "CREATE TABLE big AS SELECT value AS id, random() AS x FROM generate_series(1, 2000000)";
    bucket.run(&["--set", "codec=none", "sql", made]).success();
    assert_eq!(
        bucket.sql("SELECT count(*) AS n, sum(id) AS s FROM big WHERE id > 1999998"),
        "n,s\n2,3999999\n"
    );
    assert_eq!(
        bucket.sql("SELECT count(*) AS n FROM big WHERE x >= 0 AND x < 1"),
        "n\n2000000\n"
    );
}
