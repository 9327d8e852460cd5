//! Our errors as exceptions: classes of `apiary.exceptions`, named by what a caller can do.

use apiary::Error;
use apiary_node::Failure;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::error::Error as StdError;

/// Errors that are told as causes of one another, at most.
const CAUSES_MAX: usize = 8;

/// An exception of a class of `apiary.exceptions`.
pub fn new(py: Python<'_>, class: &str, message: String) -> PyErr {
    instance(py, class, message).map_or_else(|error| error, PyErr::from_value)
}

fn instance<'py>(py: Python<'py>, class: &str, message: String) -> PyResult<Bound<'py, PyAny>> {
    py.import("apiary.exceptions")?
        .getattr(class)?
        .call1((message,))
}

/// An error of the crate, with what caused it as `__cause__` and `retry_after` in seconds where it
/// says when to try again.
pub fn raised(py: Python<'_>, error: Error) -> PyErr {
    let raised = new(py, class(&error), error.to_string());
    raised.set_cause(py, cause(error.source(), CAUSES_MAX));
    if let Error::Busy { retry_after, .. } = &error {
        let seconds = retry_after.as_secs_f64();
        if let Err(error) = raised.value(py).setattr("retry_after", seconds) {
            return error;
        }
    }
    raised
}

/// An error of a file that is to be written.
pub fn of_files(py: Python<'_>, failure: Failure) -> PyErr {
    match failure {
        Failure::Apiary(error) => raised(py, error),
        Failure::File { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            new(py, "NotFoundError", format!("file {path} not found"))
        }
        other => new(py, "InvalidInputError", other.to_string()),
    }
}

fn class(error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "NotFoundError",
        Error::AlreadyExists { .. } => "AlreadyExistsError",
        Error::Name(_) | Error::Rejected(_) | Error::Sql(_) => "InvalidInputError",
        Error::Unsupported(_) => "NotSupportedError",
        Error::Corrupt { .. } => "CorruptError",
        Error::Conflict(_) => "ConflictError",
        Error::Busy { .. } => "BusyError",
        Error::OutcomeUnknown { .. } => "OutcomeUnknownError",
        Error::Store { .. } | Error::Io { .. } => "StorageError",
        Error::Cancelled => "CancelledError",
        Error::Deadline(_) => "TimeoutError",
        Error::ResourcesExhausted(_) => "OutOfMemoryError",
        Error::Other { .. } => "OperationalError",
        Error::Shared(inner) => class(inner),
        Error::Bug(_) => "InternalError",
    }
}

fn cause(source: Option<&(dyn StdError + 'static)>, depth: usize) -> Option<PyErr> {
    let source = source.filter(|_| depth > 0)?;
    let text = source.to_string();
    let inner = source.source().map(|inner| (inner.to_string(), inner));
    // Wrappers that say the same again are left out.
    match inner {
        Some((inner_text, inner)) if inner_text == text => cause(Some(inner), depth),
        _ => Some(Python::attach(|py| {
            let raised = PyRuntimeError::new_err(text);
            raised.set_cause(py, cause(source.source(), depth - 1));
            raised
        })),
    }
}
