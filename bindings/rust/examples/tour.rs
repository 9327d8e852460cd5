use apiary::Apiary;
use futures::TryStreamExt;

#[tokio::main]
async fn main() -> apiary::Result<()> {
    let apiary = Apiary::open("./apiary-data").await?;
    let mut rows = apiary.sql("SELECT name, eggs FROM hens").await?;
    while let Some(batch) = rows.try_next().await? {
        println!("{} rows", batch.num_rows());
    }
    apiary.shutdown().await
}
