//! Which program the command line is part of: what it calls itself, and how it starts itself again.

use std::ffi::OsString;
use std::io;
use std::process::Command;
use std::sync::OnceLock;

/// What [`crate::run`] was called as.
static RUNNING: OnceLock<Program> = OnceLock::new();

/// A program that is this command line.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    /// The words that start it; the executable of this process when there are none.
    words: Vec<OsString>,
}

impl Program {
    /// The executable of this process, under the name `apiary-node`.
    pub fn itself() -> Self {
        Self {
            name: "apiary-node".into(),
            words: Vec::new(),
        }
    }

    /// A program that people start as `name`, and that `words` start.
    pub fn started_by(name: &str, words: Vec<OsString>) -> Self {
        Self {
            name: name.into(),
            words,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes it the one that [`again`] starts; the first one stays.
    pub(crate) fn announce(self) {
        let _ = RUNNING.set(self);
    }
}

/// A command that starts this program anew, without arguments yet.
pub(crate) fn again() -> io::Result<Command> {
    let words = RUNNING.get().map(|program| program.words.as_slice());
    match words.unwrap_or_default() {
        [] => Ok(Command::new(std::env::current_exe()?)),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest);
            Ok(command)
        }
    }
}
