//! The prompt: history, statements over several lines, Ctrl-C for the running query.
//!
//! A statement ends with a semicolon, found by the SQL tokenizer, so one inside a text or a comment
//! is none. Without a terminal the lines of standard input are run the same way, silently.

use crate::args::{Format, Shell};
use crate::failure::{Failure, Result};
use crate::run::Runner;
use crate::signals::Interrupts;
use apiary::{Apiary, Session};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Lines of a script that are read before they are run.
const LINES_AHEAD: usize = 16;

const HELP: &str = "\
Statements end with a semicolon and may have several lines.
  \\q         leave (so does Ctrl-D)
  \\?         this help
  \\timing    show how long statements take, or stop it
  \\format F  table, csv or json
Ctrl-C cancels the running query, or clears the line.";

/// What to do with a line that was typed.
#[derive(Debug, PartialEq)]
enum Line {
    Command(String),
    /// Statements that are complete.
    Text(String),
    Incomplete,
}

struct Prompt<'a> {
    apiary: &'a Apiary,
    interrupts: &'a Interrupts,
    runtime: &'a Runtime,
    session: Session,
    format: Format,
    timing: bool,
    pending: String,
    /// Exit code of the first statement that failed.
    failed: Option<i32>,
}

pub fn shell(
    options: &Shell,
    apiary: &Apiary,
    interrupts: &Interrupts,
    runtime: &Runtime,
) -> Result<()> {
    let mut prompt = Prompt {
        apiary,
        interrupts,
        runtime,
        session: Session::new()?,
        format: Format::Table,
        timing: false,
        pending: String::new(),
        failed: None,
    };
    if std::io::stdin().is_terminal() {
        return prompt.interactive(history(options));
    }
    let mut lines = lines_of_stdin()?;
    loop {
        let line = runtime.block_on(interrupts.or_cancelled(async { Ok(lines.recv().await) }))?;
        let Some(line) = line else { break };
        if !prompt.take(&line?)? {
            break;
        }
    }
    prompt.run_rest()?;
    prompt
        .failed
        .map_or(Ok(()), |code| Err(Failure::Told(code)))
}

/// Read by a thread, so that a signal need not wait for the next line.
fn lines_of_stdin() -> Result<mpsc::Receiver<Result<String>>> {
    let failed = |path: &str| {
        let path = path.to_owned();
        |source| Failure::File { path, source }
    };
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::Builder::new()
        .name("apiary-lines".into())
        .spawn(move || {
            for line in std::io::stdin().lock().lines() {
                if sender
                    .blocking_send(line.map_err(failed("standard input")))
                    .is_err()
                {
                    return;
                }
            }
        })
        .map_err(failed("a reading thread"))?;
    Ok(receiver)
}

fn history(options: &Shell) -> Option<PathBuf> {
    let home = || std::env::home_dir().map(|home| home.join(".apiary_history"));
    options.history.clone().or_else(home)
}

impl Prompt<'_> {
    fn interactive(&mut self, history: Option<PathBuf>) -> Result<()> {
        let terminal = |error: ReadlineError| Failure::Usage(format!("the terminal: {error}"));
        let mut editor = DefaultEditor::new().map_err(terminal)?;
        if let Some(path) = &history {
            // Absent at the first start.
            let _ = editor.load_history(path);
        }
        println!("Type SQL that ends with a semicolon, \\? for help, \\q to leave.");
        loop {
            let sign = if self.pending.is_empty() { ">" } else { "-" };
            let text = format!("{}.{}{sign} ", self.session.hive, self.session.box_name);
            match editor.readline(&text) {
                Ok(line) => {
                    if !line.trim().is_empty() {
                        let _ = editor.add_history_entry(line.as_str());
                    }
                    if self.interrupts.is_final() || !self.take(&line)? {
                        break;
                    }
                }
                Err(ReadlineError::Interrupted) => self.pending.clear(),
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(terminal(error)),
            }
        }
        if let Some(path) = &history
            && let Err(error) = editor.save_history(path)
        {
            eprintln!("history {}: {error}", path.display());
        }
        Ok(())
    }

    /// Takes a line; false when the user leaves.
    fn take(&mut self, line: &str) -> Result<bool> {
        match classify(&mut self.pending, line) {
            Line::Incomplete => Ok(true),
            Line::Text(text) => self.run(&text).map(|()| true),
            Line::Command(command) => Ok(self.command(&command)),
        }
    }

    fn command(&mut self, command: &str) -> bool {
        match command.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["\\q"] => return false,
            ["\\?"] => println!("{HELP}"),
            ["\\timing"] => {
                self.timing = !self.timing;
                println!("timing is {}", if self.timing { "on" } else { "off" });
            }
            ["\\format", "table"] => self.format = Format::Table,
            ["\\format", "csv"] => self.format = Format::Csv,
            ["\\format", "json"] => self.format = Format::Json,
            _ => {
                eprintln!("unknown command {command}; \\? shows what there is");
                self.failed.get_or_insert(2);
            }
        }
        true
    }

    /// The end of a script may lack its semicolon.
    fn run_rest(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.pending);
        if rest.trim().is_empty() {
            Ok(())
        } else {
            self.run(&rest)
        }
    }

    /// Runs what is complete. An error ends these statements and not the shell.
    fn run(&mut self, text: &str) -> Result<()> {
        let interactive = std::io::stdin().is_terminal();
        if interactive {
            // One that came while nothing ran is not meant for this statement.
            self.interrupts.reset();
        }
        match self.try_run(text) {
            Ok(()) => {
                // One that came while a statement was committing did not end it.
                if interactive {
                    self.interrupts.reset();
                }
                Ok(())
            }
            Err(failure @ Failure::OutputClosed) => Err(failure),
            Err(failure @ Failure::Cancelled) if !interactive || self.interrupts.is_final() => {
                Err(failure)
            }
            Err(failure) => {
                eprintln!("error: {failure}");
                self.failed.get_or_insert(failure.exit_code());
                Ok(())
            }
        }
    }

    fn try_run(&mut self, text: &str) -> Result<()> {
        for statement in apiary::parse(text)? {
            let runner = Runner {
                apiary: self.apiary,
                interrupts: self.interrupts,
                format: self.format,
                reports: true,
            };
            let outcome = self
                .runtime
                .block_on(runner.run(statement, &self.session))?;
            self.session = outcome.session;
            if self.timing {
                eprintln!("{:.1} ms", outcome.duration.as_secs_f64() * 1e3);
            }
        }
        Ok(())
    }
}

/// Adds a line to what is pending and says what that makes.
fn classify(pending: &mut String, line: &str) -> Line {
    if pending.trim().is_empty() && line.trim_start().starts_with('\\') {
        pending.clear();
        return Line::Command(line.trim().to_owned());
    }
    pending.push_str(line);
    pending.push('\n');
    if is_complete(pending) {
        Line::Text(std::mem::take(pending))
    } else {
        Line::Incomplete
    }
}

/// Whether the last token is a semicolon. What the tokenizer refuses is an open text or comment.
fn is_complete(text: &str) -> bool {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else {
        return false;
    };
    let last = tokens
        .iter()
        .rev()
        .find(|token| !matches!(token, Token::Whitespace(_)));
    matches!(last, Some(Token::SemiColon))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_with_a_semicolon_outside_texts_and_comments() {
        assert!(is_complete("SELECT 1;"));
        assert!(is_complete("SELECT 1; -- done"));
        assert!(!is_complete("SELECT 1"));
        assert!(!is_complete("SELECT 'a;"));
        assert!(!is_complete("SELECT 1 -- ;"));
        assert!(!is_complete("SELECT 1 /* ;"));
        assert!(!is_complete(""));
    }

    #[test]
    fn lines_are_joined_until_the_statement_is_complete() {
        let mut pending = String::new();
        assert_eq!(classify(&mut pending, "SELECT"), Line::Incomplete);
        assert_eq!(classify(&mut pending, "\\q"), Line::Incomplete);
        assert_eq!(
            classify(&mut pending, "1;"),
            Line::Text("SELECT\n\\q\n1;\n".into())
        );
        assert_eq!(classify(&mut pending, " \\q "), Line::Command("\\q".into()));
        assert!(pending.is_empty());
    }
}
