//! One query on many machines, through storage.
//!
//! [`cut`] makes stages and tasks of a physical plan; a task is a plan whose leaves are scans and
//! reads of earlier outputs. [`run_task`] runs one and gives its whole output, which becomes one
//! object that is created if absent: whoever finished first has it, and everybody reads only that.
//! [`Inputs`] is how a running plan reads outputs. The rows of a write become cells in its tasks (see
//! [`cut_write`]); what is committed of those is the list of them.
//!
//! Nothing here waits for another node, lists, or decides who runs what: actors do.
//!
//! Invariants: a task's output is committed once (QUERY-2); what is read of an output was checked
//! against its index, and what cannot be read is an error that names it, never fewer rows (QUERY-1).

mod agreement;
mod analysis;
mod cut;
mod exchange;
mod input;
mod options;
mod output;
mod sink;
mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod write;

#[cfg(test)]
mod tests;

pub use analysis::{Analysed, Execution, read_execution, read_failures};
pub use cut::{Cut, CutStage, CutTask, ONE_TASK_GROUPS_BYTES, Spread, cut};
pub(crate) use exchange::EncodedRead;
pub use exchange::{ExchangeReadExec, Kind, Reads};
pub use input::{Inputs, StoredOutput, first_read_bytes, read_output};
use options::restored;
pub use options::saved;
pub use output::{Made, commit_failure, commit_output};
pub(crate) use sink::EncodedSink;
pub use sink::{CellWriteExec, Sink};
pub use task::{Finished, TaskJob, ready_plan, run_task};
pub use write::{CutWrite, Writes, collect_cells, cut_write, discard_cells};

use crate::error::{Error, ErrorKind};
use apiary_protocol::keys;
use apiary_protocol::query::{ErrorClass, TaskError};

/// What an error is for other nodes.
pub fn task_error(error: &Error) -> TaskError {
    let object = match error {
        Error::Corrupt { key, .. } => Some(key.clone()),
        _ => None,
    };
    let class = match (error, error.kind()) {
        (Error::Corrupt { key, .. }, _) if keys::query_of(key).is_some() => ErrorClass::Input,
        (Error::Corrupt { .. }, _) => ErrorClass::Corrupt,
        (Error::ResourcesExhausted(_), _) => ErrorClass::Memory,
        (_, ErrorKind::Rejected) => ErrorClass::Rejected,
        (_, ErrorKind::Bug) => ErrorClass::Bug,
        _ => ErrorClass::Retry,
    };
    TaskError {
        class,
        object,
        message: error.to_string(),
    }
}

/// An error of another node, as its coordinator tells it.
pub fn local_error(error: &TaskError) -> Error {
    let message = error.message.clone();
    match error.class {
        ErrorClass::Rejected => Error::rejected(message),
        ErrorClass::Corrupt | ErrorClass::Input => Error::Corrupt {
            key: error.object.clone().unwrap_or_default(),
            // The message names the object itself.
            reason: reason_of(error),
        },
        ErrorClass::Memory => Error::ResourcesExhausted(message),
        ErrorClass::Bug => Error::Bug(message),
        ErrorClass::Retry => Error::Busy {
            what: message,
            retry_after: std::time::Duration::from_millis(100),
        },
    }
}

/// The message without the object and the words that [`Error::Corrupt`] puts before it.
fn reason_of(error: &TaskError) -> String {
    let lead = format!(
        "{} is corrupt: ",
        error.object.as_deref().unwrap_or_default()
    );
    let message = error.message.as_str();
    message.strip_prefix(&lead).unwrap_or(message).to_string()
}

/// Whether an error says that an output of the query cannot be read: then the query, not the task, is
/// run again.
pub fn is_lost_input(error: &Error) -> bool {
    task_error(error).class == ErrorClass::Input
}
