//! What can end a command, and the exit code that scripts see.

use crate::config::ConfigError;
use crate::signals::CANCELLED_CODE;
use apiary::{Error, ErrorKind};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Apiary(#[from] Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A flag or argument that clap cannot judge.
    #[error("{0}")]
    Usage(String),
    #[error("{path}: {source}")]
    File {
        path: String,
        source: std::io::Error,
    },
    /// Whoever read our output has gone. No message, no error.
    #[error("the output was closed")]
    OutputClosed,
    #[error("output: {0}")]
    Output(std::io::Error),
    #[error("cancelled")]
    Cancelled,
    /// Told already; only the code is left.
    #[error("exit code {0}")]
    Told(i32),
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            source,
        }
    }

    pub fn exit_code(&self) -> i32 {
        match self {
            Self::OutputClosed => 0,
            Self::Config(_) | Self::Usage(_) => 2,
            Self::File { .. } => 1,
            Self::Output(_) => 3,
            Self::Cancelled => CANCELLED_CODE,
            Self::Told(code) => *code,
            Self::Apiary(error) => error_code(error),
        }
    }

    /// Whether there is something to say on stderr.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::OutputClosed | Self::Told(_))
    }
}

fn error_code(error: &Error) -> i32 {
    match error {
        Error::Store { .. } | Error::Io { .. } => return 3,
        Error::Deadline(_) => return 4,
        Error::Shared(inner) => return error_code(inner),
        _ => {}
    }
    match error.kind() {
        ErrorKind::Rejected => 1,
        ErrorKind::Corrupt => 3,
        ErrorKind::Retry => 4,
        ErrorKind::OutcomeUnknown => 5,
        ErrorKind::Cancelled => CANCELLED_CODE,
        ErrorKind::Bug => 70,
    }
}

impl From<std::io::Error> for Failure {
    /// An error of writing to stdout.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Output(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_remedy() {
        let code = |error: Error| Failure::from(error).exit_code();
        assert_eq!(code(Error::rejected("no")), 1);
        assert_eq!(
            code(Error::NotFound {
                what: "frame a.b.c".into()
            }),
            1
        );
        assert_eq!(code(Error::corrupt("key", "short")), 3);
        assert_eq!(code(Error::ResourcesExhausted("memory".into())), 4);
        assert_eq!(code(Error::Deadline(std::time::Duration::from_secs(1))), 4);
        assert_eq!(code(Error::Cancelled), 130);
        assert_eq!(code(Error::Bug("oops".into())), 70);
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(closed).exit_code(), 0);
    }
}
