//! What can be wrong with bytes of one of our formats, and who made them.
//!
//! The five faults stay apart because their remedies do: write again or restore (torn, corrupt),
//! upgrade (newer, unknown kind), look elsewhere (foreign).

/// The build that writes: kept in every object for people, and for what must match exactly.
pub const BUILD: &str = concat!("apiary ", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Shorter than it says it is: a write that did not finish, or a lost tail.
    #[error("torn: the end is missing after {length} bytes")]
    Torn { length: usize },
    #[error("damaged: {0}")]
    Corrupt(String),
    /// Not one of ours at all.
    #[error("not an Apiary object: {0}")]
    Foreign(String),
    #[error(
        "format {found} of {kind}, written by {build:?}; this build ({BUILD}) reads up to {supported}: upgrade it"
    )]
    Newer {
        kind: String,
        found: u32,
        supported: u32,
        build: String,
    },
    #[error(
        "an object of the unknown kind {kind}, written by {build:?}; this build ({BUILD}) may be too old: upgrade it"
    )]
    UnknownKind { kind: String, build: String },
    #[error("a {found} where a {expected} belongs")]
    WrongKind {
        expected: &'static str,
        found: String,
    },
}

impl FormatError {
    /// Whether a newer build would read it: the bytes are sound.
    pub fn is_too_new(&self) -> bool {
        matches!(self, Self::Newer { .. } | Self::UnknownKind { .. })
    }
}
