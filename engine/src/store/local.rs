//! Objects as files under one directory.

/// A step of the local store that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}: {source}")]
pub(super) struct LocalFailure {
    pub step: &'static str,
    pub path: String,
    /// True when the object may be there although it is not durable.
    pub may_have_landed: bool,
    pub source: std::io::Error,
}
