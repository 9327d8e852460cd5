//! One node on a disk that is full now and then: the writes that meet it fail or wait, and nothing
//! else does; when there is room again, the node goes on as it is.

use super::node;
use crate::checkers::{self, ledger_1, ledger_2, node_1, query_3};
use crate::files::SimFiles;
use crate::host::Hardware;
use crate::rng::Rng;
use crate::workload::client::{self, Writer};
use crate::workload::model::Model;
use crate::workload::rows::CREATE_FRAME;
use crate::world::World;
use futures::future::try_join_all;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

const WRITER_COUNT: u64 = 3;
const WRITES: u64 = 10;
/// Less than a cell and its commit.
const FREE_BYTES_MAX: u64 = 3000;

pub fn run(world: &mut World) -> Result<(), String> {
    let computer = world.computer("box", Hardware::default());
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    let model = Model::default();
    let mut writers: Vec<Writer> = (0..WRITER_COUNT)
        .map(|index| Writer::new(index, WRITER_COUNT, &model, &world.trace, &world.rng))
        .collect();
    running.block_on(async {
        let violation = query_3::unexplained;
        let started = node::start_on_disk(&running.host, node::settings())
            .await
            .map_err(node_1::does_not_start)?;
        client::execute(&started, CREATE_FRAME)
            .await
            .map_err(violation)?;
        let filler = running.spawn(fill(computer.disk.clone(), running.rng("filler")));
        let filler = AbortOnDropHandle::new(filler);
        let writing = writers
            .iter_mut()
            .map(|writer| writer.write_until(&started, WRITES));
        let written = try_join_all(writing).await;
        written.map_err(ledger_2::unexplained)?;
        drop(filler);
        computer.disk.limit_free_bytes(None);
        let location = node::location(&started).await.map_err(violation)?;
        let frame = node::read_frame(&node::objects_on_disk(&computer), &location, &world.trace)?;
        model.with(|writes| checkers::check_frame(writes, &frame, &mut ledger_1::Seen::new()))?;
        let rows = client::read_all(&started, &world.trace)
            .await
            .map_err(violation)?;
        model.with(|writes| checkers::check_rows(writes, &rows))?;
        started.shutdown().await.map_err(node_1::does_not_stop)?;
        node_1::check("the node", &started)
    })
}

async fn fill(disk: SimFiles, mut rng: Rng) {
    loop {
        tokio::time::sleep(Duration::from_millis(rng.below(300))).await;
        disk.limit_free_bytes(Some(rng.below(FREE_BYTES_MAX)));
        tokio::time::sleep(Duration::from_millis(rng.below(200))).await;
        disk.limit_free_bytes(None);
    }
}
