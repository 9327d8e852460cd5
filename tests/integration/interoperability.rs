//! A frame is a Delta table: other clients read and write it as it lies there.

use apiary_tests::{Bench, run_python};

#[test]
fn duckdb_polars_and_delta_rs_read_a_frame_as_we_do() {
    let bench = Bench::new();
    bench.file("apiary.toml", "checkpoint_interval = 10\n");
    let rows = 500;
    let file = bench.path("types.parquet");
    run_python(
        "all_types.py",
        [file.as_os_str(), rows.to_string().as_ref()],
    );
    let file = file.display().to_string();
    let config = ["--config", "apiary.toml"];
    let load = [
        "load",
        "default.default.types",
        &file,
        "--partition-by",
        "part",
    ];
    bench.run(load.into_iter().chain(config)).success();
    let inserts: String = (1..25)
        .map(|i| {
            format!("INSERT INTO types (id, part, i32, text) VALUES ({i}, 'north', {i}, 'é%');")
        })
        .collect();
    bench
        .run(["sql", &inserts].into_iter().chain(config))
        .success();

    let table = bench.meadow().join("default/default/types");
    assert!(
        table.join("_delta_log/_last_checkpoint").exists(),
        "25 commits at an interval of 10 leave a checkpoint"
    );
    let ours = bench.path("ours.arrow");
    let mut select = bench.command(["sql", "--format", "arrow", "SELECT * FROM types"]);
    let output = select.output().expect("the command runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(&ours, &output.stdout).expect("a file");
    let said = run_python("read_frame.py", [&table, &ours]);
    for client in ["duckdb", "deltalake", "polars"] {
        assert!(
            said.contains(&format!("{client}: 524 rows the same")),
            "{said}"
        );
    }
}

#[test]
fn tables_of_other_clients_read_the_same_here() {
    let bench = Bench::new();
    let foreign = bench.meadow().join("foreign");
    std::fs::create_dir_all(&foreign).expect("a directory");
    let names = run_python("foreign_tables.py", [&foreign]);
    assert_eq!(names.lines().count(), 3);
    for name in names.lines() {
        bench.sql(&format!("ATTACH FRAME {name} LOCATION 'foreign/{name}'"));
        let ours = bench.path("ours.arrow");
        let output = bench
            .command(["sql", "--format", "arrow", &format!("SELECT * FROM {name}")])
            .output()
            .expect("the command runs");
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::write(&ours, &output.stdout).expect("a file");
        let table = foreign.join(name);
        // Neither Polars nor delta-rs read deletion vectors; DuckDB does.
        let clients = if name == "with_deletion_vectors" {
            "duckdb"
        } else {
            "duckdb,deltalake,polars"
        };
        run_python(
            "read_frame.py",
            [table.as_os_str(), ours.as_os_str(), clients.as_ref()],
        );
    }
    assert_eq!(
        bench.sql("SELECT count(*) AS n, sum(id) AS s FROM with_deletion_vectors"),
        "n,s\n2196,3295946\n"
    );
}

#[test]
fn delta_rs_appends_while_we_do_and_nothing_is_lost() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE shared (id BIGINT, who VARCHAR)");
    let table = bench.meadow().join("default/default/shared");
    let inserts: String = (0..60)
        .map(|i| format!("INSERT INTO shared VALUES ({i}, 'apiary');"))
        .collect();
    let ours = bench
        .command(["sql", &inserts])
        .spawn()
        .expect("apiary-node starts");
    run_python("append_rows.py", [table.as_os_str(), "40".as_ref()]);
    let ours = ours.wait_with_output().expect("it ends");
    assert!(ours.status.success());
    assert_eq!(
        bench.sql("SELECT who, count(*) AS n, count(DISTINCT id) AS d FROM shared GROUP BY who ORDER BY who"),
        "who,n,d\napiary,60,60\ndelta-rs,40,40\n"
    );
}
