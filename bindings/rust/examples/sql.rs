//! SQL in, record batches out, while the query runs.
//!
//! `cargo run -p apiary --example sql [URI]`

use apiary::Apiary;
use futures::TryStreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> apiary::Result<()> {
    let uri = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "memory://".into());
    let apiary = Apiary::open(&uri).await?;
    apiary
        .sql("CREATE TABLE IF NOT EXISTS hens AS SELECT * FROM (VALUES ('Berta', 5), ('Frieda', 7)) AS t (name, eggs)")
        .await?
        .collect()
        .await?;
    let mut rows = apiary
        .sql("SELECT name, eggs FROM hens ORDER BY eggs")
        .await?;
    println!(
        "columns: {:?}",
        rows.schema()
            .fields()
            .iter()
            .map(|field| field.name())
            .collect::<Vec<_>>()
    );
    while let Some(batch) = rows.try_next().await? {
        println!("{} rows in this batch", batch.num_rows());
    }
    apiary.shutdown().await
}
