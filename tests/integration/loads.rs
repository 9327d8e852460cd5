//! `load` loses nothing: what the files hold is in the frame, or the load is refused and says why.

use apiary_tests::Bench;

/// More rows than the types are guessed from below.
const GUESSED: [&str; 2] = ["--infer-rows", "2"];

fn load(bench: &Bench, name: &str, content: &str, more: &[&str]) -> apiary_tests::Finished {
    let file = bench.file(name, content).display().to_string();
    bench.run(["load", "t", &file].into_iter().chain(more.iter().copied()))
}

#[track_caller]
fn refused(finished: &apiary_tests::Finished, words: &[&str]) {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word}: {finished:?}");
    }
}

const LATE_FIELD: &str = "{\"a\":1}\n{\"a\":2}\n{\"a\":3,\"late\":\"x\"}\n";

#[test]
fn a_json_field_that_comes_late_is_refused_by_name_or_found_in_all_rows() {
    let bench = Bench::new();
    let finished = load(&bench, "a.jsonl", LATE_FIELD, &GUESSED);
    refused(&finished, &["a.jsonl", "'late'", "--infer-rows 0"]);
    assert_eq!(bench.sql("SHOW FRAMES").lines().count(), 1, "nothing stays");
    load(&bench, "a.jsonl", LATE_FIELD, &["--infer-rows", "0"]).success();
    assert_eq!(bench.sql("SELECT late FROM t WHERE a = 3"), "late\nx\n");
}

#[test]
fn a_json_field_inside_an_object_that_comes_late_is_refused_too() {
    let bench = Bench::new();
    let content = "{\"o\":{\"a\":1}}\n{\"o\":{\"a\":2}}\n{\"o\":{\"a\":3,\"late\":4}}\n";
    let finished = load(&bench, "a.jsonl", content, &GUESSED);
    refused(&finished, &["'o'", "'late'", "--infer-rows 0"]);
}

#[test]
fn all_columns_of_a_frame_are_looked_for_in_every_json_row() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t (a BIGINT, late VARCHAR, day DATE)");
    let content = "{\"a\":1}\n{\"a\":2}\n{\"a\":3,\"late\":\"x\",\"day\":\"2025-05-01\"}\n";
    load(&bench, "a.jsonl", content, &GUESSED).success();
    assert_eq!(
        bench.sql("SELECT * FROM t ORDER BY a"),
        "a,late,day\n1,,\n2,,\n3,x,2025-05-01\n"
    );
    let before = bench.objects();
    let content = "{\"a\":1}\n{\"a\":2}\n{\"a\":3,\"other\":1}\n";
    let finished = load(&bench, "b.jsonl", content, &GUESSED);
    refused(&finished, &["b.jsonl", "'other'"]);
    assert_eq!(bench.objects(), before);
    // A column that was seen in time and that the frame has not is dropped, and the user is told.
    let finished = load(&bench, "b.jsonl", content, &["--infer-rows", "0"]).success();
    assert!(
        finished.stderr.contains("warning") && finished.stderr.contains("other"),
        "{finished:?}"
    );
}

#[test]
fn a_json_number_is_not_cut_to_fit_the_guess_or_the_frame() {
    let bench = Bench::new();
    let content = "{\"a\":1}\n{\"a\":2}\n{\"a\":3.5}\n";
    refused(
        &load(&bench, "a.jsonl", content, &GUESSED),
        &["\"a\"", "3.5"],
    );
    load(&bench, "a.jsonl", content, &["--infer-rows", "0"]).success();
    assert_eq!(bench.sql("SELECT max(a) AS a FROM t"), "a\n3.5\n");

    bench.sql("DROP TABLE t; CREATE TABLE t (a INT, b ARRAY<BIGINT>)");
    let content = "{\"a\":3.0,\"b\":[1,2]}\n{\"a\":1e2}\n";
    load(&bench, "b.jsonl", content, &[]).success();
    assert_eq!(bench.sql("SELECT sum(a) AS a FROM t"), "a\n103\n");
    for content in ["{\"a\":0.5}\n", "{\"b\":[1.5]}\n"] {
        refused(&load(&bench, "c.jsonl", content, &[]), &["c.jsonl", ".5"]);
    }
}

#[test]
fn a_json_column_of_several_kinds_of_values_is_text_and_keeps_them() {
    let bench = Bench::new();
    let content = "{\"a\":1}\n{\"a\":\"x\"}\n{\"a\":2.50}\n{\"a\":true}\n";
    load(&bench, "a.jsonl", content, &[]).success();
    assert_eq!(
        bench.sql("SELECT a FROM t ORDER BY a"),
        "a\n1\n2.50\ntrue\nx\n"
    );
}

#[test]
fn csv_rows_with_other_columns_or_values_than_guessed_are_refused() {
    let bench = Bench::new();
    for (content, words) in [
        ("a,b\n1,2\n3,4\n5\n", vec!["line", "expected 2"]),
        ("a,b\n1,2\n3,4\n5,6,7\n", vec!["line", "expected 2"]),
        ("a,b\n1,2\n3,4\n5,6.5\n", vec!["6.5", "--infer-rows 0"]),
        (
            "a,b\n1,2025-05-01\n3,2025-05-02\n5,2025-05-03T10:00:00\n",
            vec!["\"b\"", "2025-05-03T10:00:00", "time of day"],
        ),
    ] {
        let finished = load(&bench, "a.csv", content, &GUESSED);
        refused(&finished, &["a.csv"]);
        refused(&finished, &words);
        assert_eq!(bench.sql("SHOW FRAMES").lines().count(), 1, "nothing stays");
    }
    let content = "a,b\n1,2025-05-01T10:00:00\n2,2025-05-01T10:00:01\n3,2025-05-01T10:00:02.125\n";
    load(&bench, "b.csv", content, &GUESSED).success();
    assert_eq!(
        bench.sql("SELECT b FROM t WHERE a = 3"),
        "b\n2025-05-01T10:00:02.125\n"
    );
}
