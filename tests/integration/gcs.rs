//! The same doors over Google Cloud Storage's protocol.

use crate::buckets::{Bucket, a_frame_lives_there, a_large_cell_lives_there};
use apiary_tests::{BUCKET, Bench, Server};

fn bucket<'a>(server: &Server, bench: &'a Bench) -> Bucket<'a> {
    Bucket {
        bench,
        uri: format!("gs://{BUCKET}/home"),
        variables: vec![
            ("GOOGLE_BASE_URL", server.endpoint.clone()),
            ("GOOGLE_SKIP_SIGNATURE", "true".into()),
        ],
    }
}

fn times(account: &serde_json::Value, kind: &str) -> u64 {
    account[kind].as_u64().unwrap_or(0)
}

#[test]
fn a_frame_lives_in_a_google_bucket() {
    let (server, bench) = (Server::gcs(), Bench::new());
    let bucket = bucket(&server, &bench);
    a_frame_lives_there(&bucket);
    a_large_cell_lives_there(&bucket);
    let account = server.finish();
    assert!(times(&account, "complete 200") >= 1, "{account}");
    assert!(times(&account, "part 200") >= 4, "{account}");
    assert!(times(&account, "read 206") >= 4, "{account}");
    // At least those that a proof loses, and the proof of every command.
    assert!(times(&account, "write 412") >= 7, "{account}");
    assert_eq!(account["uploads"], 0, "{account}");
    let objects = account["objects"].as_array().expect("names");
    let is_home =
        |name: &serde_json::Value| name.as_str().is_some_and(|name| name.starts_with("home/"));
    assert!(objects.iter().all(is_home), "{account}");
}

#[test]
fn a_google_bucket_that_ignores_conditions_is_refused_before_anything_is_written() {
    let (server, bench) = (Server::careless_gcs(), Bench::new());
    let refused = bucket(&server, &bench).run(&["sql", "CREATE TABLE t (x INT)"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("cannot be a meadow"), "{refused:?}");
    assert_eq!(server.finish()["objects"], serde_json::json!([]));
}
