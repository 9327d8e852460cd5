//! Without an executor of one's own, and with settings.
//!
//! `cargo run -p apiary --example blocking [URI]`

use apiary::Apiary;

fn main() -> apiary::Result<()> {
    let uri = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "memory://".into());
    let apiary = Apiary::builder(&uri)
        .bees(1)
        .memory(256 << 20)
        .open_blocking()?;
    apiary.block_on(async {
        let batches = apiary
            .sql("SELECT 6 * 7 AS answer")
            .await?
            .collect()
            .await?;
        println!("{} row", batches[0].num_rows());
        let status = apiary.status().await?;
        println!("{} bee on {}", status.bees.len(), status.storage);
        apiary.shutdown().await
    })
}
