//! Questions about two frames that nobody changes, and their answers by plain DataFusion.

use super::rows::{Batch, Row};
use apiary_actors::{Node, WriteOptions};
use apiary_engine::error::{Error, Result};
use apiary_protocol::names::FrameName;
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{SessionConfig, SessionContext};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The frames: rows of [`Batch`]es, and a weight for three of four labels.
pub const FACTS: &str = "facts";
pub const WEIGHTS: &str = "weights";

pub const CREATE_FRAMES: [&str; 2] = [
    "CREATE TABLE facts (batch BIGINT, row BIGINT, value BIGINT, label VARCHAR)",
    "CREATE TABLE weights (label VARCHAR, weight BIGINT)",
];

/// Each gives one answer only: ordered, or a single row.
pub const QUESTIONS: &[&str] = &[
    "SELECT count(*), sum(value), min(label), max(row) FROM facts",
    "SELECT label, count(*), sum(value), avg(row) FROM facts WHERE value % 3 <> 0 GROUP BY label ORDER BY label",
    "SELECT a.label, count(*) FROM facts a JOIN facts b ON a.value = b.row AND a.batch <> b.batch GROUP BY a.label \
     ORDER BY a.label",
    "SELECT f.batch, f.row, w.weight FROM facts f LEFT JOIN weights w ON f.label = w.label ORDER BY f.batch, f.row",
    "SELECT w.label, f.n FROM weights w FULL JOIN (SELECT label, count(*) AS n FROM facts WHERE value < 300 GROUP BY \
     label) f ON w.label = f.label ORDER BY w.label, f.n",
    "SELECT w.weight, sum(a.value), count(DISTINCT b.batch) FROM facts a JOIN facts b ON a.row = b.row JOIN weights w \
     ON w.label = b.label GROUP BY w.weight ORDER BY w.weight",
    "SELECT batch, max(value) FROM facts WHERE batch IN (SELECT batch FROM facts WHERE row = 7) GROUP BY batch \
     ORDER BY batch",
    "SELECT count(*), sum(value) FROM facts f WHERE NOT EXISTS (SELECT 1 FROM weights w WHERE w.label = f.label)",
    "SELECT count(*) FROM facts WHERE label NOT IN (SELECT label FROM weights WHERE weight > 50)",
    "SELECT batch, row, rank() OVER (PARTITION BY label ORDER BY value, batch, row) FROM facts ORDER BY batch, row",
    "SELECT label, batch, row, sum(value) OVER (PARTITION BY label ORDER BY batch, row ROWS BETWEEN 3 PRECEDING AND \
     CURRENT ROW) FROM facts ORDER BY label, batch, row",
    "SELECT batch, row, lag(value, 2) OVER (ORDER BY batch, row), ntile(4) OVER (ORDER BY value, batch, row) FROM facts \
     ORDER BY batch, row",
    "SELECT k, count(*) FROM (SELECT batch AS k FROM facts UNION ALL SELECT row FROM facts UNION ALL SELECT weight FROM \
     weights) GROUP BY k ORDER BY k",
    "SELECT label FROM facts WHERE value < 500 UNION SELECT label FROM weights ORDER BY label",
    "SELECT label FROM facts WHERE value < 100 EXCEPT SELECT label FROM weights WHERE weight < 50 ORDER BY label",
    "SELECT value, batch, row FROM facts ORDER BY value DESC, batch, row LIMIT 7 OFFSET 2",
    "SELECT label, value, batch, row FROM facts ORDER BY label, value, batch, row",
    "SELECT label, b, count(*), sum(value) FROM (SELECT label, batch % 3 AS b, value FROM facts) GROUP BY ROLLUP \
     (label, b) ORDER BY label NULLS LAST, b NULLS LAST",
    "SELECT a, b, count(*), grouping(a), grouping(b) FROM (SELECT batch % 2 AS a, row % 3 AS b FROM facts) GROUP BY \
     CUBE (a, b) ORDER BY a NULLS LAST, b NULLS LAST",
    "SELECT count(DISTINCT label), count(DISTINCT value), sum(DISTINCT row) FROM facts",
    "WITH t AS (SELECT label, sum(value) AS s FROM facts GROUP BY label) SELECT label, s FROM t WHERE s > (SELECT \
     avg(s) FROM t) ORDER BY label",
    "SELECT label, count(*) AS n FROM facts GROUP BY label HAVING count(*) > 3 ORDER BY n DESC, label LIMIT 5",
    "SELECT f.label, f.row FROM facts f WHERE f.value = (SELECT max(value) FROM facts g WHERE g.label = f.label) \
     ORDER BY f.label, f.row, f.batch",
    "SELECT count(*) FROM facts a, (SELECT weight FROM weights WHERE weight < 30) b WHERE a.value > b.weight * 20",
    "SELECT label, row FROM facts WHERE value < 0 ORDER BY label, row",
    "SELECT CASE WHEN value < 250 THEN 'low' WHEN value < 750 THEN 'mid' ELSE 'high' END AS c, count(*), min(row) FROM \
     facts GROUP BY c ORDER BY c",
];

/// Whose rows are so wide that a small node's memory is not enough: the sort spills, and so does the
/// grouping; the window cannot, so that it is tried again in other ways and may be given up.
pub const WIDE_QUESTIONS: &[&str] = &[
    "SELECT count(*), max(r), min(length(text)) FROM (SELECT row_number() OVER (PARTITION BY one ORDER BY text, batch, \
     row) AS r, text FROM (SELECT batch % 1 AS one, batch, row, repeat(label, 16000) AS text FROM facts))",
    "SELECT count(*), sum(n), max(length(text)) FROM (SELECT one, text, batch, row, count(*) AS n FROM (SELECT batch % 1 \
     AS one, batch, row, repeat(label, 16000) AS text FROM facts) GROUP BY one, text, batch, row)",
    "SELECT max(n), max(length(text)) FROM (SELECT count(*) OVER (PARTITION BY one) AS n, text FROM (SELECT batch % 1 AS \
     one, repeat(label, 16000) AS text FROM facts))",
];

/// The rows, and what follows from them.
#[derive(Debug)]
pub struct Facts {
    pub batches: Vec<Batch>,
    pub weights: Vec<(String, i64)>,
    expected: BTreeMap<&'static str, String>,
}

impl Facts {
    /// So many batches, and of the questions those that are going to be asked.
    pub async fn new(
        batches: Vec<Batch>,
        questions: impl IntoIterator<Item = &'static str>,
    ) -> std::result::Result<Self, String> {
        let weights = (0..20).filter(|label| label % 4 != 1);
        let weights = weights.map(|label| (format!("label {label}"), label * 37 % 100));
        let mut facts = Self {
            batches,
            weights: weights.collect(),
            expected: BTreeMap::new(),
        };
        let plain = facts.plain().map_err(|error| error.to_string())?;
        for text in questions {
            let answer = async { plain.sql(text).await?.collect().await };
            let answer = answer
                .await
                .map_err(|error| format!("{error} from {text}"))?;
            facts.expected.insert(text, shown(&answer)?);
        }
        Ok(facts)
    }

    /// Writes the frames, each batch as a cell of its own.
    pub async fn write(&self, node: &Node) -> Result<()> {
        for batch in &self.batches {
            append(node, FACTS, batch.to_arrow()).await?;
        }
        append(node, WEIGHTS, self.weights_to_arrow()).await
    }

    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.batches.iter().flat_map(Batch::rows)
    }

    /// QUERY-1: whether this is the answer to a question.
    pub fn check(&self, text: &str, answer: &[RecordBatch]) -> std::result::Result<(), String> {
        let expected = self.expected.get(text);
        let expected = expected.ok_or(format!("nobody asked {text} of plain DataFusion"))?;
        match shown(answer)? {
            ours if ours == *expected => Ok(()),
            ours => Err(format!(
                "QUERY-1: {text} gives\n{ours}\nand should\n{expected}"
            )),
        }
    }

    fn weights_to_arrow(&self) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
        let labels: StringArray = self.weights.iter().map(|(label, _)| Some(label)).collect();
        let weights: Int64Array = self.weights.iter().map(|(_, weight)| *weight).collect();
        RecordBatch::try_from_iter_with_nullable([
            ("label", Arc::new(labels) as ArrayRef, true),
            ("weight", Arc::new(weights) as ArrayRef, true),
        ])
    }

    fn plain(&self) -> datafusion::error::Result<SessionContext> {
        let context = plain_datafusion();
        let batches = self.batches.iter().map(|batch| batch.to_arrow());
        let facts = batches.collect::<std::result::Result<Vec<_>, _>>()?;
        register(&context, FACTS, facts)?;
        register(&context, WEIGHTS, vec![self.weights_to_arrow()?])?;
        Ok(context)
    }
}

async fn append(
    node: &Node,
    frame: &str,
    batch: std::result::Result<RecordBatch, arrow::error::ArrowError>,
) -> Result<()> {
    let batch = batch.map_err(|error| Error::Bug(error.to_string()))?;
    let schema = batch.schema();
    let input = Box::pin(RecordBatchStreamAdapter::new(
        schema,
        futures::stream::iter([Ok(batch)]),
    ));
    let frame = FrameName::parse("default", "default", frame)?;
    node.write(&frame, input, WriteOptions::default()).await?;
    Ok(())
}

/// DataFusion as it comes, but for what it takes from the machine.
pub fn plain_datafusion() -> SessionContext {
    let config = SessionConfig::new()
        .with_target_partitions(2)
        .set_usize("datafusion.execution.planning_concurrency", 2);
    SessionContext::new_with_config(config)
}

pub fn register(
    context: &SessionContext,
    name: &str,
    batches: Vec<RecordBatch>,
) -> datafusion::error::Result<()> {
    let schema = batches.first().map(RecordBatch::schema);
    let schema = schema.ok_or_else(|| datafusion::common::internal_datafusion_err!("no rows"))?;
    context.register_table(name, Arc::new(MemTable::try_new(schema, vec![batches])?))?;
    Ok(())
}

/// Rows as text, without the header: names of computed columns are no part of an answer.
pub fn shown(batches: &[RecordBatch]) -> std::result::Result<String, String> {
    let table = pretty_format_batches(batches)
        .map_err(|error| error.to_string())?
        .to_string();
    Ok(table
        .lines()
        .skip(3)
        .filter(|line| !line.starts_with('+'))
        .collect::<Vec<_>>()
        .join("\n"))
}

/// A column of integers without nulls.
pub fn integers(batch: &RecordBatch, index: usize) -> std::result::Result<&Int64Array, String> {
    let column = batch.columns().get(index);
    let column = column.and_then(|column| column.as_any().downcast_ref::<Int64Array>());
    let column = column.filter(|column| column.null_count() == 0);
    column.ok_or(format!("column {index} is not of integers without nulls"))
}
