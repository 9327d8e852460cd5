//! The engine's error, and the few kinds that callers act on.

use datafusion::error::DataFusionError;
use std::sync::Arc;

pub type Result<T, E = Error> = std::result::Result<T, E>;
type Source = Box<dyn std::error::Error + Send + Sync>;

/// What a caller can do about an error. Named by the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nothing happened; the same call may succeed later.
    Retry,
    /// It may or may not have happened: read again before repeating.
    OutcomeUnknown,
    /// The caller's mistake: the same call fails again until it is changed.
    Rejected,
    /// Bytes in the meadow or in a file are not what they must be.
    Corrupt,
    /// The caller cancelled, or its deadline passed.
    Cancelled,
    /// A defect of ours.
    Bug,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Name(#[from] apiary_protocol::names::NameError),
    /// `what` names kind and thing: "frame default.default.t".
    #[error("{what} not found")]
    NotFound { what: String },
    #[error("{what} already exists")]
    AlreadyExists { what: String },
    /// The message names the thing and says what to do.
    #[error("{0}")]
    Rejected(String),
    #[error("{0} is not supported")]
    Unsupported(String),
    #[error("{key} is corrupt: {reason}")]
    Corrupt { key: String, reason: String },
    /// Another commit won and the two do not go together.
    #[error("{0}")]
    Conflict(#[from] crate::ledger::Conflict),
    /// Rate limited, hot, or momentarily impossible.
    #[error("{what}; retry in {} ms", .retry_after.as_millis())]
    Busy {
        what: String,
        retry_after: std::time::Duration,
    },
    #[error("the outcome of {what} is unknown: {reason}")]
    OutcomeUnknown { what: String, reason: String },
    #[error("{action} {key}: {source}")]
    Store {
        action: &'static str,
        key: String,
        source: object_store::Error,
    },
    #[error("{path}: {source}")]
    Io {
        path: String,
        source: std::io::Error,
    },
    #[error("the query was cancelled")]
    Cancelled,
    #[error("the deadline of {} ms passed", .0.as_millis())]
    Deadline(std::time::Duration),
    #[error("{0}")]
    ResourcesExhausted(String),
    #[error("SQL error: {0}")]
    Sql(#[source] Box<DataFusionError>),
    #[error("{what}: {source}")]
    Other { what: String, source: Source },
    /// The same failure, told to several waiters.
    #[error("{0}")]
    Shared(Arc<Error>),
    /// A panic or a broken assumption inside; the text is what was known.
    #[error("internal error: {0}")]
    Bug(String),
}

impl Error {
    pub fn corrupt(key: impl Into<String>, reason: impl ToString) -> Self {
        Self::Corrupt {
            key: key.into(),
            reason: reason.to_string(),
        }
    }

    pub fn rejected(message: impl Into<String>) -> Self {
        Self::Rejected(message.into())
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Name(_)
            | Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::Rejected(_)
            | Self::Unsupported(_)
            | Self::Sql(_) => ErrorKind::Rejected,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Conflict(_) | Self::Busy { .. } | Self::ResourcesExhausted(_) => ErrorKind::Retry,
            Self::OutcomeUnknown { .. } => ErrorKind::OutcomeUnknown,
            Self::Store { .. } | Self::Io { .. } | Self::Other { .. } => ErrorKind::Retry,
            Self::Cancelled | Self::Deadline(_) => ErrorKind::Cancelled,
            Self::Shared(inner) => inner.kind(),
            Self::Bug(_) => ErrorKind::Bug,
        }
    }
}

impl Error {
    /// A foreign error box that may hold one of ours.
    fn of_source(source: Source) -> Self {
        match source.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(source) => match source.downcast::<DataFusionError>() {
                Ok(inner) => Self::from(*inner),
                Err(source) => Self::Other {
                    what: "query".into(),
                    source,
                },
            },
        }
    }

    /// One failure that several partitions were told: it cannot be taken apart, so what a caller can
    /// act on is copied out of it.
    fn of_shared(shared: Arc<DataFusionError>) -> Self {
        let root = shared.find_root();
        let ours = match root {
            DataFusionError::External(source) => source.downcast_ref::<Error>(),
            DataFusionError::ParquetError(inner) => match inner.as_ref() {
                parquet::errors::ParquetError::External(source) => source.downcast_ref::<Error>(),
                _ => None,
            },
            _ => None,
        };
        match (ours, root) {
            (Some(Self::Corrupt { key, reason }), _) => Self::corrupt(key, reason),
            (Some(Self::Cancelled), _) => Self::Cancelled,
            (Some(Self::Deadline(after)), _) => Self::Deadline(*after),
            (Some(Self::ResourcesExhausted(text)), _) => Self::ResourcesExhausted(text.clone()),
            (None, DataFusionError::ResourcesExhausted(_)) => {
                Self::ResourcesExhausted(root.strip_backtrace())
            }
            (None, DataFusionError::Internal(text)) => Self::Bug(text.clone()),
            (Some(ours), _) if ours.kind() != ErrorKind::Rejected => Self::Other {
                what: ours.to_string(),
                source: Box::new(DataFusionError::Shared(shared.clone())),
            },
            _ => Self::Sql(Box::new(DataFusionError::Shared(shared))),
        }
    }
}

/// Ours travels through DataFusion as `External` and is unwrapped here; the rest is classified.
impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(source) => Self::of_source(source),
            DataFusionError::Context(_, inner) => Self::from(*inner),
            DataFusionError::Diagnostic(_, inner) => Self::from(*inner),
            DataFusionError::ArrowError(inner, backtrace) => match *inner {
                arrow::error::ArrowError::ExternalError(source) => Self::of_source(source),
                other => Self::Sql(Box::new(DataFusionError::ArrowError(
                    Box::new(other),
                    backtrace,
                ))),
            },
            DataFusionError::Shared(inner) => match Arc::try_unwrap(inner) {
                Ok(inner) => Self::from(inner),
                Err(shared) => Self::of_shared(shared),
            },
            DataFusionError::ParquetError(inner) => match *inner {
                parquet::errors::ParquetError::External(source) => Self::of_source(source),
                other => Self::Other {
                    what: "reading Parquet".into(),
                    source: Box::new(other),
                },
            },
            DataFusionError::ObjectStore(source) => Self::Other {
                what: "the meadow".into(),
                source,
            },
            DataFusionError::IoError(source) => Self::Other {
                what: "a local file".into(),
                source: Box::new(source),
            },
            error @ DataFusionError::ResourcesExhausted(_) => {
                Self::ResourcesExhausted(error.strip_backtrace())
            }
            DataFusionError::Internal(text) => Self::Bug(text),
            DataFusionError::NotImplemented(what) => Self::Unsupported(what),
            other => Self::Sql(Box::new(other)),
        }
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}
