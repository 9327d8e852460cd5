//! Python values for the placeholders of a statement.

use crate::errors;
use apiary::{Parameter, Parameters};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyTuple,
};

/// Digits that a decimal can have.
const DIGITS_MAX: usize = 38;

/// A sequence for `?` and `$1`, a mapping for `$name`.
pub fn parameters(given: Option<&Bound<'_, PyAny>>) -> PyResult<Parameters> {
    let Some(given) = given else {
        return Ok(Parameters::default());
    };
    if let Ok(named) = given.cast::<PyDict>() {
        let named = named.iter().map(|(name, value)| {
            let name: String = name.extract()?;
            let value = parameter(&value).map_err(|error| about(&value, &name, error))?;
            Ok((name.trim_start_matches(['$', ':']).to_string(), value))
        });
        return Ok(Parameters::Named(named.collect::<PyResult<_>>()?));
    }
    if given.cast::<PyString>().is_ok() || given.cast::<PyBytes>().is_ok() {
        let message = "parameters are a sequence or a mapping, not a text: write (value,)";
        return Err(errors::new(given.py(), "InvalidInputError", message.into()));
    }
    let mut values = Vec::new();
    for (index, value) in given.try_iter()?.enumerate() {
        let value = value?;
        let name = (index + 1).to_string();
        values.push(parameter(&value).map_err(|error| about(&value, &name, error))?);
    }
    Ok(Parameters::Positional(values))
}

fn about(value: &Bound<'_, PyAny>, name: &str, error: PyErr) -> PyErr {
    let py = value.py();
    if !error.is_instance_of::<pyo3::exceptions::PyException>(py) {
        return error;
    }
    let message = format!("parameter {name}: {}", error.value(py));
    let raised = errors::new(py, "InvalidInputError", message);
    raised.set_cause(py, Some(error));
    raised
}

fn parameter(value: &Bound<'_, PyAny>) -> PyResult<Parameter> {
    if value.is_none() {
        return Ok(Parameter::Null);
    }
    // A truth value is an integer in Python, and comes first.
    if let Ok(flag) = value.cast::<PyBool>() {
        return Ok(Parameter::Boolean(flag.is_true()));
    }
    if value.cast::<PyInt>().is_ok() {
        return Ok(Parameter::Integer(value.extract()?));
    }
    if value.cast::<PyFloat>().is_ok() {
        return Ok(Parameter::Float(value.extract()?));
    }
    if value.cast::<PyString>().is_ok() {
        return Ok(Parameter::Text(value.extract()?));
    }
    if value.cast::<PyBytes>().is_ok() || value.cast::<PyByteArray>().is_ok() {
        return Ok(Parameter::Bytes(value.extract()?));
    }
    if value.cast::<PyMemoryView>().is_ok() {
        return Ok(Parameter::Bytes(value.call_method0("tobytes")?.extract()?));
    }
    if value.cast::<PyList>().is_ok() || value.cast::<PyTuple>().is_ok() {
        let values = value.try_iter()?.map(|item| parameter(&item?));
        return Ok(Parameter::List(values.collect::<PyResult<_>>()?));
    }
    of_library(value)
}

/// Values of classes that are not built in.
fn of_library(value: &Bound<'_, PyAny>) -> PyResult<Parameter> {
    let py = value.py();
    let is = |module: &str, class: &str| {
        py.import(module)
            .and_then(|module| module.getattr(class))
            .and_then(|class| value.is_instance(&class))
    };
    let text = |value: &Bound<'_, PyAny>| value.call_method0("isoformat")?.extract::<String>();
    if is("decimal", "Decimal")? {
        return decimal(value);
    }
    if is("uuid", "UUID")? {
        return Ok(Parameter::Text(value.str()?.extract()?));
    }
    if is("datetime", "datetime")? {
        // pandas' "not a time" is a datetime that equals nothing.
        if value.ne(value)? {
            return Ok(Parameter::Null);
        }
        if value.getattr("tzinfo")?.is_none() {
            let text = text(value)?;
            return Ok(Parameter::Timestamp { text, utc: false });
        }
        let utc = py.import("datetime")?.getattr("timezone")?.getattr("utc")?;
        let text = text(&value.call_method1("astimezone", (utc,))?)?;
        return Ok(Parameter::Timestamp { text, utc: true });
    }
    if is("datetime", "date")? {
        return Ok(Parameter::Date(text(value)?));
    }
    if is("datetime", "time")? {
        if !value.getattr("tzinfo")?.is_none() {
            return Err(PyValueError::new_err(
                "a time of day with a zone has no type in SQL",
            ));
        }
        return Ok(Parameter::Time(text(value)?));
    }
    // numpy's scalars and zero-dimensional arrays.
    if value.hasattr("item")? && value.hasattr("dtype")? {
        let item = value.call_method0("item")?;
        if !item.hasattr("dtype")? {
            return parameter(&item);
        }
    }
    let kind = value.get_type();
    Err(PyValueError::new_err(format!(
        "a {} has no type in SQL",
        kind.name()?
    )))
}

fn decimal(value: &Bound<'_, PyAny>) -> PyResult<Parameter> {
    if !value.call_method0("is_finite")?.extract::<bool>()? {
        return Err(PyValueError::new_err("a decimal in SQL is finite"));
    }
    let text: String = value.call_method1("__format__", ("f",))?.extract()?;
    let digits = text.trim_start_matches('-');
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let precision = (whole.trim_start_matches('0').len() + part.len()).max(1);
    if precision > DIGITS_MAX {
        let message = format!("a decimal has at most {DIGITS_MAX} digits and not {precision}");
        return Err(PyValueError::new_err(message));
    }
    let (precision, scale) = (precision as u8, part.len() as i8);
    Ok(Parameter::Decimal {
        text,
        precision,
        scale,
    })
}
