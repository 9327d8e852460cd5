//! Names and columns that a call gives, as the crate takes them.

use crate::errors;
use crate::types::{Declared, schema_of};
use apiary::arrow::datatypes::SchemaRef;
use apiary::{Apiary, BoxNs, Error, Frame};
use pyo3::prelude::*;
use pyo3_arrow::PySchema;

/// `hive`, `box` and `frame` of a call.
pub type Place = (String, String, String);

/// `columns` is a list of (name, type, nullable, as written) or has Arrow's schema interface.
pub fn columns_of(columns: &Bound<'_, PyAny>) -> PyResult<SchemaRef> {
    let py = columns.py();
    if columns.hasattr("__arrow_c_schema__")? {
        let schema: PySchema = columns.extract()?;
        return Ok(schema.into_inner());
    }
    let declared: Vec<Declared> = columns.extract()?;
    schema_of(declared).map_err(|reason| errors::new(py, "InvalidInputError", reason))
}

pub async fn box_of(apiary: &Apiary, hive: &str, name: &str) -> Result<BoxNs, Error> {
    apiary.hive(hive).await?.box_ns(name).await
}

/// A frame by its three names, at one look.
pub async fn frame_of(apiary: &Apiary, place: &Place) -> Result<Frame, Error> {
    let parts = [&place.0, &place.1, &place.2].map(|part| quoted(part));
    apiary.frame(&parts.join(".")).await
}

/// A name as SQL takes it, whatever is in it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
