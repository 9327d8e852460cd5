//! The same doors over Azure Blob Storage, spoken by Azurite.

use crate::buckets::{Bucket, a_frame_lives_there, a_large_cell_lives_there};
use apiary_tests::{BUCKET, Bench, Server};

/// The account that every Azurite has, and its key.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

#[test]
fn a_frame_lives_in_an_azure_container() {
    let (server, bench) = (Server::azure(), Bench::new());
    let bucket = Bucket {
        bench: &bench,
        uri: format!("az://{BUCKET}/home"),
        variables: vec![
            ("AZURE_STORAGE_ACCOUNT", ACCOUNT.into()),
            ("AZURE_STORAGE_KEY", KEY.into()),
            ("AZURE_STORAGE_ENDPOINT", server.endpoint.clone()),
        ],
    };
    a_frame_lives_there(&bucket);
    a_large_cell_lives_there(&bucket);
    let account = server.finish();
    let times = |kind: &str| account[kind].as_u64().unwrap_or(0);
    assert!(times("PUT blocklist 201") >= 1, "{account}");
    assert!(times("PUT block 201") >= 4, "{account}");
    assert!(times("GET blob 206") >= 4, "{account}");
    // Those that a proof loses.
    assert!(times("PUT blob 409") >= 7, "{account}");
}
