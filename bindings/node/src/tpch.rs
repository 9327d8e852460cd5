//! TPC-H: the eight tables, generated, and the 22 queries with their validation parameters.
//!
//! Source: TPC Benchmark H, revision 3, clauses 2.4.1 to 2.4.22 (texts, parameters, first-rows
//! limits). Data comes from the generator crates; nothing is downloaded.

use apiary::arrow::array::RecordBatch;
use apiary::arrow::datatypes::SchemaRef;
use apiary::arrow::error::ArrowError;
use apiary::arrow::record_batch::RecordBatchReader;
use apiary::{CancellationToken, Frame, WriteOptions, WriteReport};
use tpchgen::generators as tables;
use tpchgen::q_and_a::queries;

pub const QUERY_COUNT: u32 = 22;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Region,
    Nation,
    Supplier,
    Customer,
    Part,
    PartSupp,
    Orders,
    LineItem,
}

pub const TABLES: [Table; 8] = [
    Table::Region,
    Table::Nation,
    Table::Supplier,
    Table::Customer,
    Table::Part,
    Table::PartSupp,
    Table::Orders,
    Table::LineItem,
];

type Reader = Box<dyn RecordBatchReader<Item = Result<RecordBatch, ArrowError>> + Send>;

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Nation => "nation",
            Self::Supplier => "supplier",
            Self::Customer => "customer",
            Self::Part => "part",
            Self::PartSupp => "partsupp",
            Self::Orders => "orders",
            Self::LineItem => "lineitem",
        }
    }

    /// All rows at a scale factor, always the same ones.
    pub fn reader(self, scale: f64) -> Reader {
        use tpchgen_arrow as arrow;
        match self {
            Self::Region => Box::new(arrow::RegionArrow::new(tables::RegionGenerator::new(
                scale, 1, 1,
            ))),
            Self::Nation => Box::new(arrow::NationArrow::new(tables::NationGenerator::new(
                scale, 1, 1,
            ))),
            Self::Supplier => Box::new(arrow::SupplierArrow::new(tables::SupplierGenerator::new(
                scale, 1, 1,
            ))),
            Self::Customer => Box::new(arrow::CustomerArrow::new(tables::CustomerGenerator::new(
                scale, 1, 1,
            ))),
            Self::Part => Box::new(arrow::PartArrow::new(tables::PartGenerator::new(
                scale, 1, 1,
            ))),
            Self::PartSupp => Box::new(arrow::PartSuppArrow::new(tables::PartSuppGenerator::new(
                scale, 1, 1,
            ))),
            Self::Orders => Box::new(arrow::OrderArrow::new(tables::OrderGenerator::new(
                scale, 1, 1,
            ))),
            Self::LineItem => Box::new(arrow::LineItemArrow::new(tables::LineItemGenerator::new(
                scale, 1, 1,
            ))),
        }
    }

    pub fn schema(self) -> SchemaRef {
        self.reader(0.001).schema()
    }

    /// How many rows [`Table::reader`] gives.
    pub fn row_count(self, scale: f64) -> u64 {
        let count = match self {
            Self::Region => 5,
            Self::Nation => 25,
            Self::Supplier => tables::SupplierGenerator::calculate_row_count(scale, 1, 1),
            Self::Customer => tables::CustomerGenerator::calculate_row_count(scale, 1, 1),
            Self::Part => tables::PartGenerator::calculate_row_count(scale, 1, 1),
            Self::PartSupp => 4 * tables::PartGenerator::calculate_row_count(scale, 1, 1),
            Self::Orders => tables::OrderGenerator::calculate_row_count(scale, 1, 1),
            // One to seven lines for each order, at random: only counting tells.
            Self::LineItem => tables::LineItemGenerator::new(scale, 1, 1).iter().count() as i64,
        };
        count as u64
    }
}

/// Writes all rows of a table in one commit, unless they are there.
pub async fn fill(frame: &Frame, table: Table, scale: f64) -> apiary::Result<Option<WriteReport>> {
    if is_filled(frame, table, scale).await? {
        return Ok(None);
    }
    refill(frame, table, scale, &CancellationToken::new())
        .await
        .map(Some)
}

/// Whether a frame has the rows of a table at this scale. Another scale has another number of rows.
pub async fn is_filled(frame: &Frame, table: Table, scale: f64) -> apiary::Result<bool> {
    Ok(frame.info().await?.row_count == Some(table.row_count(scale)))
}

/// Writes all rows of a table in one commit, in place of what is there. `Cancelled` when `cancel`
/// came before the commit began.
pub async fn refill(
    frame: &Frame,
    table: Table,
    scale: f64,
    cancel: &CancellationToken,
) -> apiary::Result<WriteReport> {
    let options = WriteOptions {
        overwrite: true,
        cancel: Some(cancel.clone()),
        ..Default::default()
    };
    let rows = futures::stream::iter(table.reader(scale));
    frame.write_with(rows, options).await
}

/// The text of a query, 1 to 22, as one statement. The scale is a parameter of query 11.
pub fn query(number: u32, scale: f64) -> String {
    let fraction = format!("{:.10}", 0.0001 / scale);
    let parameters: &[&str] = match number {
        1 => &["90"],
        2 => &["15", "BRASS", "EUROPE"],
        3 => &["BUILDING", "1995-03-15"],
        4 => &["1993-07-01"],
        5 => &["ASIA", "1994-01-01"],
        6 => &["1994-01-01", "0.06", "24"],
        7 => &["FRANCE", "GERMANY"],
        8 => &["BRAZIL", "AMERICA", "ECONOMY ANODIZED STEEL"],
        9 => &["green"],
        10 => &["1993-10-01"],
        11 => &["GERMANY", &fraction],
        12 => &["MAIL", "SHIP", "1994-01-01"],
        13 => &["special", "requests"],
        14 => &["1995-09-01"],
        15 => &["1996-01-01"],
        16 => &[
            "Brand#45",
            "MEDIUM POLISHED",
            "49",
            "14",
            "23",
            "45",
            "19",
            "3",
            "36",
            "9",
        ],
        17 => &["Brand#23", "MED BOX"],
        18 => &["300"],
        19 => &["Brand#12", "Brand#23", "Brand#34", "1", "10", "20"],
        20 => &["forest", "1994-01-01", "CANADA"],
        21 => &["SAUDI ARABIA"],
        22 => &["13", "31", "23", "29", "30", "18", "17"],
        _ => &[],
    };
    let mut text = queries::query(number as i32).unwrap_or_default().to_owned();
    // From the last one on, because `:1` begins `:10`.
    for (index, parameter) in parameters.iter().enumerate().rev() {
        text = text.replace(&format!(":{}", index + 1), parameter);
    }
    let text = match number {
        // A precision that says nothing and that DataFusion's parser refuses.
        1 => text.replace("day (3)", "day"),
        15 => view_as_expression(&text),
        _ => text,
    };
    let text = text.trim().trim_end_matches(';');
    match first_rows(number) {
        Some(limit) => format!("{text}\nlimit {limit}"),
        None => text.to_owned(),
    }
}

/// How many of the first rows the specification wants.
fn first_rows(number: u32) -> Option<u32> {
    match number {
        2 | 18 | 21 => Some(100),
        3 => Some(10),
        10 => Some(20),
        _ => None,
    }
}

/// Query 15 comes as CREATE VIEW, SELECT, DROP VIEW; the specification also allows WITH.
fn view_as_expression(text: &str) -> String {
    let text = text.replace(":s", "0");
    let mut parts = text.split(';');
    let view = parts
        .next()
        .unwrap_or_default()
        .trim()
        .trim_start_matches("create view ");
    let select = parts.next().unwrap_or_default();
    match view.split_once(" as\n") {
        Some((head, body)) => format!("with {head} as (\n{body}\n){select}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_is_one_statement_without_open_parameters() {
        for number in 1..=QUERY_COUNT {
            let text = query(number, 1.0);
            assert!(!text.contains(':'), "query {number}: {text}");
            assert!(!text.contains(';'), "query {number}: {text}");
            assert!(
                text.to_lowercase().contains("select"),
                "query {number}: {text}"
            );
        }
        assert!(
            query(15, 1.0).starts_with("with revenue0"),
            "{}",
            query(15, 1.0)
        );
        assert!(
            query(11, 0.1).contains("* 0.0010000000"),
            "{}",
            query(11, 0.1)
        );
    }

    #[test]
    fn tables_have_as_many_rows_as_they_say() {
        for table in TABLES {
            let rows: usize = table
                .reader(0.001)
                .map(|batch| batch.unwrap().num_rows())
                .sum();
            assert_eq!(table.row_count(0.001), rows as u64, "{}", table.name());
        }
    }
}
