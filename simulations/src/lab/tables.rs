//! Frames and queries of three TPC-H shapes, small: each cell stands for one of [`CELL_BYTES`].
//!
//! 512 cells of lineitem are 32 GB, about what Parquet makes of scale factor 100; orders and customer
//! are in proportion. Rows are the same for every seed.

use crate::rng::Rng;
use crate::workload::answers::{plain_datafusion, register, shown};
use apiary_actors::{Node, WriteOptions};
use apiary_engine::error::Result;
use apiary_engine::settings::Settings;
use apiary_protocol::names::FrameName;
use arrow::array::{ArrayRef, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use bytes::Bytes;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use parquet::file::metadata::ParquetMetaDataReader;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a cell of lineitem stands for.
pub const CELL_BYTES: u64 = 64 << 20;
/// A full cell's rows, and row groups of so many.
const CELL_ROWS: usize = 256;
const GROUP_ROWS: usize = 64;
/// Lineitems of an order, and orders of a customer, on average.
const LINES: u64 = 4;
const ORDERS_EACH: u64 = 10;
/// Cells of lineitem for one of orders, and of orders for one of customer.
const CELLS_PER_ORDERS: u64 = 4;
const CELLS_PER_CUSTOMER: u64 = 8;

/// 1992-01-01, in days since 1970; orders come in the seven years after it.
const FIRST_DAY: i32 = 8_035;
const DAYS: u64 = 2_406;

const LINEITEM: &str = "lineitem";
const FRAMES: [&str; 3] = [LINEITEM, "orders", "customer"];

const CREATE: [&str; 3] = [
    "CREATE TABLE lineitem (l_orderkey BIGINT, l_quantity DECIMAL(15, 2), l_extendedprice DECIMAL(15, 2), \
     l_discount DECIMAL(15, 2), l_tax DECIMAL(15, 2), l_returnflag VARCHAR, l_linestatus VARCHAR, l_shipdate DATE)",
    "CREATE TABLE orders (o_orderkey BIGINT, o_custkey BIGINT, o_orderdate DATE, o_shippriority BIGINT)",
    "CREATE TABLE customer (c_custkey BIGINT, c_mktsegment VARCHAR)",
];

/// A query, with what it reads.
#[derive(Debug)]
pub struct Query {
    pub text: &'static str,
    /// Frames with the columns that it needs.
    pub reads: &'static [(&'static str, &'static [&'static str])],
}

pub const Q1: Query = Query {
    text: "SELECT l_returnflag, l_linestatus, sum(l_quantity), sum(l_extendedprice), \
           sum(l_extendedprice * (1 - l_discount)), sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)), \
           avg(l_quantity), count(*) FROM lineitem WHERE l_shipdate <= DATE '1998-09-02' \
           GROUP BY l_returnflag, l_linestatus ORDER BY l_returnflag, l_linestatus",
    reads: &[(
        LINEITEM,
        &[
            "l_quantity",
            "l_extendedprice",
            "l_discount",
            "l_tax",
            "l_returnflag",
            "l_linestatus",
            "l_shipdate",
        ],
    )],
};

pub const Q6: Query = Query {
    text: "SELECT sum(l_extendedprice * l_discount) FROM lineitem WHERE l_shipdate >= DATE '1994-01-01' \
           AND l_shipdate < DATE '1995-01-01' AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24",
    reads: &[(
        LINEITEM,
        &["l_quantity", "l_extendedprice", "l_discount", "l_shipdate"],
    )],
};

pub const Q3: Query = Query {
    text: "SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority \
           FROM customer, orders, lineitem WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey \
           AND l_orderkey = o_orderkey AND o_orderdate < DATE '1995-03-15' AND l_shipdate > DATE '1995-03-15' \
           GROUP BY l_orderkey, o_orderdate, o_shippriority ORDER BY revenue DESC, o_orderdate, l_orderkey LIMIT 10",
    reads: &[
        (
            LINEITEM,
            &["l_orderkey", "l_extendedprice", "l_discount", "l_shipdate"],
        ),
        (
            "orders",
            &["o_orderkey", "o_custkey", "o_orderdate", "o_shippriority"],
        ),
        ("customer", &["c_custkey", "c_mktsegment"]),
    ],
};

/// What a log says without any cell.
pub const ORDERS: Query = Query {
    text: "SELECT count(*) FROM orders",
    reads: &[],
};

pub const CUSTOMER: Query = Query {
    text: "SELECT count(*) FROM customer",
    reads: &[],
};

/// The rows, cell by cell, and the answers of plain DataFusion.
#[derive(Debug)]
pub struct Tables {
    cells: [Vec<RecordBatch>; 3],
    answers: BTreeMap<&'static str, String>,
}

impl Tables {
    /// So many cells of lineitem, and what the queries have to answer.
    pub async fn new(cells: u64, queries: &[&Query]) -> std::result::Result<Self, String> {
        let mut rng = Rng::new(1).fork("tables");
        let lines = cells * CELL_ROWS as u64;
        let orders = (lines / LINES).max(1);
        let customers = (orders / ORDERS_EACH).max(1);
        let order_cells = (cells / CELLS_PER_ORDERS).max(1);
        let customer_cells = (order_cells / CELLS_PER_CUSTOMER).max(1);
        let made = |batch: std::result::Result<RecordBatch, ArrowError>, cells: u64| {
            let batch = batch.map_err(|error| error.to_string())?;
            let rows = batch.num_rows().div_ceil(cells as usize).max(1);
            let starts = (0..batch.num_rows()).step_by(rows);
            let cut = starts.map(|at| batch.slice(at, rows.min(batch.num_rows() - at)));
            Ok::<_, String>(cut.collect())
        };
        let mut tables = Self {
            cells: [
                made(lineitem(lines, orders, &mut rng), cells)?,
                made(orders_of(orders, customers, &mut rng), order_cells)?,
                made(customers_of(customers, &mut rng), customer_cells)?,
            ],
            answers: BTreeMap::new(),
        };
        let plain = plain_datafusion();
        for (frame, cells) in FRAMES.iter().zip(&tables.cells) {
            register(&plain, frame, cells.clone()).map_err(|error| error.to_string())?;
        }
        for query in queries {
            let answer = async { plain.sql(query.text).await?.collect().await };
            let answer = answer.await.map_err(|error| error.to_string())?;
            tables.answers.insert(query.text, shown(&answer)?);
        }
        Ok(tables)
    }

    /// Of the node that writes them.
    pub fn settings() -> Settings {
        Settings {
            row_group_rows_max: GROUP_ROWS,
            ..Settings::default()
        }
    }

    /// Writes the frames, each batch as a cell of its own.
    pub async fn write(&self, node: &Node) -> Result<()> {
        for ((frame, create), cells) in FRAMES.iter().zip(CREATE).zip(&self.cells) {
            crate::workload::client::execute(node, create).await?;
            let frame = FrameName::parse("default", "default", frame)?;
            for cell in cells {
                let rows = futures::stream::iter([Ok(cell.clone())]);
                let input = Box::pin(RecordBatchStreamAdapter::new(cell.schema(), rows));
                node.write(&frame, input, WriteOptions::default()).await?;
            }
        }
        Ok(())
    }

    /// QUERY-1.
    pub fn check(&self, query: &Query, answer: &[RecordBatch]) -> std::result::Result<(), String> {
        let wanted = self.answers.get(query.text);
        match shown(answer)? {
            ours if Some(&ours) == wanted => Ok(()),
            ours => Err(format!("QUERY-1: {} gives\n{ours}", query.text)),
        }
    }
}

/// How many cells a query reads, and how many bytes of their columns: small ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub cells: u64,
    pub bytes: u64,
}

impl Query {
    pub fn reading(
        &self,
        objects: &BTreeMap<String, Bytes>,
    ) -> std::result::Result<Reading, String> {
        let mut reading = Reading::default();
        for (frame, columns) in self.reads {
            let prefix = format!("default/default/{frame}/");
            let cells = objects
                .range(prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(&prefix))
                .filter(|(key, _)| key.ends_with(".parquet") && !key.contains("_delta_log"));
            for (key, body) in cells {
                let footer = ParquetMetaDataReader::new().parse_and_finish(body);
                let footer = footer.map_err(|error| format!("{key}: {error}"))?;
                reading.cells += 1;
                let chunks = footer.row_groups().iter().flat_map(|group| group.columns());
                let wanted = chunks.filter(|chunk| columns.contains(&chunk.column_descr().name()));
                reading.bytes += wanted
                    .map(|chunk| chunk.compressed_size() as u64)
                    .sum::<u64>();
            }
        }
        Ok(reading)
    }
}

/// How many bytes one of a cell of lineitem stands for.
pub fn cell_factor(objects: &BTreeMap<String, Bytes>) -> u64 {
    let prefix = format!("default/default/{LINEITEM}/");
    let cells = objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && key.ends_with(".parquet"));
    let (count, bytes) = cells.fold((0, 0), |(count, bytes), (_, body)| {
        (count + 1, bytes + body.len() as u64)
    });
    CELL_BYTES * count / bytes.max(1)
}

type Made = std::result::Result<RecordBatch, ArrowError>;

fn decimals(values: impl Iterator<Item = i128>) -> std::result::Result<ArrayRef, ArrowError> {
    let values = Decimal128Array::from_iter_values(values).with_precision_and_scale(15, 2)?;
    Ok(Arc::new(values))
}

fn column(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn lineitem(rows: u64, orders: u64, rng: &mut Rng) -> Made {
    let mut draw = |bound: u64| -> Vec<u64> { (0..rows).map(|_| rng.below(bound)).collect() };
    let (prices, discounts, taxes) = (draw(10_000_000), draw(11), draw(9));
    let (quantities, days, flags) = (draw(50), draw(DAYS + 121), draw(2));
    // Lines that are shipped after the middle of 1995 are open and not returned.
    let is_open = |day: &u64| *day > 1_263;
    let returned = days.iter().zip(&flags).map(|(day, flag)| match flag {
        _ if is_open(day) => "N",
        0 => "R",
        _ => "A",
    });
    let status = days.iter().map(|day| if is_open(day) { "O" } else { "F" });
    let scaled = |values: &[u64], by: i128| -> Vec<i128> {
        values.iter().map(|value| i128::from(*value) * by).collect()
    };
    RecordBatch::try_from_iter_with_nullable([
        (
            "l_orderkey",
            column((0..rows).map(|row| (row / LINES % orders) as i64)),
            true,
        ),
        (
            "l_quantity",
            decimals(
                scaled(&quantities, 100)
                    .into_iter()
                    .map(|value| value + 100),
            )?,
            true,
        ),
        (
            "l_extendedprice",
            decimals(scaled(&prices, 1).into_iter())?,
            true,
        ),
        (
            "l_discount",
            decimals(scaled(&discounts, 1).into_iter())?,
            true,
        ),
        ("l_tax", decimals(scaled(&taxes, 1).into_iter())?, true),
        (
            "l_returnflag",
            Arc::new(StringArray::from_iter_values(returned)) as ArrayRef,
            true,
        ),
        (
            "l_linestatus",
            Arc::new(StringArray::from_iter_values(status)) as ArrayRef,
            true,
        ),
        (
            "l_shipdate",
            Arc::new(Date32Array::from_iter_values(
                days.iter().map(|day| FIRST_DAY + *day as i32),
            )) as ArrayRef,
            true,
        ),
    ])
}

fn orders_of(rows: u64, customers: u64, rng: &mut Rng) -> Made {
    let mut draw = |bound: u64| -> Vec<u64> { (0..rows).map(|_| rng.below(bound)).collect() };
    let (buyers, days) = (draw(customers), draw(DAYS));
    RecordBatch::try_from_iter_with_nullable([
        ("o_orderkey", column((0..rows).map(|row| row as i64)), true),
        (
            "o_custkey",
            column(buyers.iter().map(|key| *key as i64)),
            true,
        ),
        (
            "o_orderdate",
            Arc::new(Date32Array::from_iter_values(
                days.iter().map(|day| FIRST_DAY + *day as i32),
            )) as ArrayRef,
            true,
        ),
        ("o_shippriority", column((0..rows).map(|_| 0)), true),
    ])
}

fn customers_of(rows: u64, rng: &mut Rng) -> Made {
    const SEGMENTS: [&str; 5] = [
        "AUTOMOBILE",
        "BUILDING",
        "FURNITURE",
        "HOUSEHOLD",
        "MACHINERY",
    ];
    let segments = (0..rows).filter_map(|_| rng.pick(&SEGMENTS).copied());
    RecordBatch::try_from_iter_with_nullable([
        ("c_custkey", column((0..rows).map(|row| row as i64)), true),
        (
            "c_mktsegment",
            Arc::new(StringArray::from_iter_values(segments)) as ArrayRef,
            true,
        ),
    ])
}
