//! Asking: statements of SQL, and frames without it.

use crate::errors;
use crate::information;
use crate::node::Inner;
use crate::parameters::parameters;
use crate::places::{Place, frame_of, quoted};
use crate::rows::Rows;
use crate::types::plain;
use crate::wait::{Meter, Watch, droppable, duration, outcome};
use apiary::arrow::datatypes::{DataType, Schema};
use apiary::{Error, QueryOptions, ReadOptions};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::PoisonError;

/// Runs statements: the rows of the last one, if it has any, and what it wrote, if it did.
pub fn sql<'py>(
    py: Python<'py>,
    inner: &Inner,
    text: &str,
    given: Option<&Bound<'py, PyAny>>,
    timeout: Option<f64>,
    meter: Meter,
) -> PyResult<(Option<Rows>, Option<Bound<'py, PyDict>>)> {
    let given = parameters(given)?;
    let statements = apiary::parse(text).and_then(|statements| apiary::bind(statements, &given));
    let statements = statements.map_err(|error| errors::raised(py, error))?;
    let watch = Watch::new(&inner.closing, meter);
    let options = options(py, &watch, timeout)?;
    let session = inner
        .session
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let apiary = inner.apiary.clone();
    let run = async move { apiary.execute_all(statements, &session, options).await };
    let answer = outcome(py, &inner.apiary, &watch, run)?;
    let session = answer.session().clone();
    *inner.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    let report = answer
        .write_report()
        .map(|report| information::report(py, report));
    let report = report.transpose()?;
    let rows = answer.has_rows();
    let rows = rows.then(|| Rows::new(inner.apiary.clone(), watch, answer));
    Ok((rows, report))
}

/// Some columns of a frame, and those rows whose columns have these values, each given as text. `None`
/// for a frame without cells.
pub fn read(
    py: Python<'_>,
    inner: &Inner,
    place: &Place,
    columns: Option<Vec<String>>,
    filter: &[(String, Option<String>)],
    timeout: Option<f64>,
    meter: Meter,
) -> PyResult<Option<Rows>> {
    let watch = Watch::new(&inner.closing, meter);
    let query = options(py, &watch, timeout)?;
    let apiary = &inner.apiary;
    let answer = async {
        let frame = frame_of(apiary, place).await?;
        let info = frame.info().await?;
        let filter = predicate(&info.schema, filter)?;
        if info.cell_count == 0 {
            return Ok(None);
        }
        let read = ReadOptions {
            columns,
            filter,
            query,
        };
        frame.read_with(&read).await.map(Some)
    };
    // It changes nothing, so that nobody needs to hear what became of it.
    let answer =
        droppable(py, apiary, &watch, answer)?.map_err(|error| errors::raised(py, error))?;
    Ok(answer.map(|answer| Rows::new(apiary.clone(), watch, answer)))
}

fn options(py: Python<'_>, watch: &Watch, timeout: Option<f64>) -> PyResult<QueryOptions> {
    Ok(QueryOptions {
        deadline: duration(py, timeout)?,
        progress: watch.progress.clone(),
        cancel: Some(watch.cancel.clone()),
        presented: Some(plain),
    })
}

/// Equality with texts, in the types of the columns.
fn predicate(
    schema: &Schema,
    filter: &[(String, Option<String>)],
) -> Result<Option<String>, Error> {
    let mut parts = Vec::new();
    for (name, value) in filter {
        let (_, field) = schema.column_with_name(name).ok_or_else(|| {
            Error::rejected(format!(
                "the filter names {name:?}, which is not a column of the frame"
            ))
        })?;
        let column = quoted(name);
        parts.push(match (value, field.data_type()) {
            (None, _) => format!("{column} IS NULL"),
            (Some(value), DataType::Utf8View) => format!("{column} = {}", text(value)),
            (Some(value), other) => {
                format!(
                    "{column} = arrow_cast({}, {})",
                    text(value),
                    text(&other.to_string())
                )
            }
        });
    }
    Ok((!parts.is_empty()).then(|| parts.join(" AND ")))
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
