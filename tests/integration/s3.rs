//! The same doors over S3.

use crate::buckets::{Bucket, a_frame_lives_there, a_large_cell_lives_there};
use apiary_tests::{BUCKET, BadLink, Bench, Server};

pub fn bucket<'a>(server: &Server, bench: &'a Bench, name: &str) -> Bucket<'a> {
    bucket_at(&server.endpoint, bench, name)
}

fn bucket_at<'a>(endpoint: &str, bench: &'a Bench, name: &str) -> Bucket<'a> {
    Bucket {
        bench,
        uri: format!("s3://{name}/home?region=us-east-1&endpoint={endpoint}"),
        variables: vec![
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "sesame".into()),
        ],
    }
}

#[test]
fn a_frame_lives_in_a_bucket() {
    let (server, bench) = (Server::s3(), Bench::new());
    let bucket = bucket(&server, &bench, BUCKET);
    a_frame_lives_there(&bucket);
    a_large_cell_lives_there(&bucket);
    let shown = bucket.run(&["status"]).success();
    assert!(
        !shown.stdout.contains("sesame") && !shown.stderr.contains("sesame"),
        "{shown:?}"
    );
}

#[test]
fn an_answer_that_breaks_again_and_again_is_read_on_from_where_it_broke() {
    let (server, bench) = (Server::s3(), Bench::new());
    let straight = bucket(&server, &bench, BUCKET);
    a_large_cell_lives_there(&straight);
    let text = "SELECT count(*) AS n, sum(id) AS s, min(x) AS least, max(x) AS most FROM big";
    let wanted = straight.sql(text);

    // Columns of two megabytes per row group: none ever arrives in one piece.
    let link = BadLink::to(&server.endpoint, 256 << 10);
    let broken = bucket_at(&link.endpoint, &bench, BUCKET);
    let arguments = [
        "--set",
        "storage_deadline=10s",
        "--set",
        "cache=off",
        "sql",
        "--format",
        "csv",
        text,
    ];
    let finished = broken.run(&arguments).success();
    assert_eq!(finished.stdout, wanted);
    assert!(link.broken() > 50, "{} connections broke", link.broken());
}

#[test]
fn secrets_do_not_belong_into_a_uri_and_a_missing_bucket_is_named() {
    let (server, bench) = (Server::s3(), Bench::new());
    let mut telling = bucket(&server, &bench, BUCKET);
    telling.uri = telling.uri.replace("s3://", "s3://user:sesame@");
    let finished = telling.run(&["sql", "SELECT 1"]);
    assert_ne!(finished.code, Some(0));
    assert!(!finished.stderr.contains("sesame"), "{}", finished.stderr);

    let finished =
        bucket(&server, &bench, "no-such-bucket").run(&["sql", "CREATE TABLE t (x INT)"]);
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert!(
        finished.stderr.contains("no-such-bucket"),
        "{}",
        finished.stderr
    );
}
