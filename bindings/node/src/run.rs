//! Statements one after the other, rows to stdout, reports to stderr, Ctrl-C in between.

use crate::args::Format;
use crate::failure::{Failure, Result};
use crate::output::Sink;
use crate::progress::Meter;
use crate::signals::Interrupts;
use apiary::{Answer, Apiary, CancellationToken, Error, QueryOptions, Session, Statement};
use futures::StreamExt;
use std::io::BufWriter;
use std::time::{Duration, Instant};

/// What one statement left behind.
pub struct Outcome {
    pub session: Session,
    pub duration: Duration,
}

/// How statements are run.
pub struct Runner<'a> {
    pub apiary: &'a Apiary,
    pub interrupts: &'a Interrupts,
    pub format: Format,
    /// Whether statements without rows say what they did.
    pub reports: bool,
}

impl Runner<'_> {
    /// Runs one statement to its end.
    ///
    /// # Errors
    /// `Cancelled` after an interrupt; the query was dropped and frees all it had.
    pub async fn run(&self, statement: Statement, session: &Session) -> Result<Outcome> {
        let started = Instant::now();
        let cancel = CancellationToken::new();
        let options = QueryOptions {
            cancel: Some(cancel.clone()),
            ..QueryOptions::default()
        };
        // From the beginning: a statement that writes only answers when it is done.
        let meter = Meter::of_query(options.progress.clone());
        let execute = self.apiary.execute(statement, session, options);
        let answer = match self.interrupts.told(&cancel, execute).await {
            Err(Error::Cancelled) => return Err(Failure::Cancelled),
            answer => answer?,
        };
        let session = answer.session().clone();
        if answer.has_rows() {
            self.print(answer, meter).await?;
        } else {
            self.drain(answer, meter).await?;
        }
        Ok(Outcome {
            session,
            duration: started.elapsed(),
        })
    }

    async fn print(&self, mut answer: Answer, meter: Meter) -> Result<()> {
        let out = BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
        let mut sink = Sink::start(self.format, answer.schema(), out)?;
        loop {
            let batch = tokio::select! {
                biased;
                () = self.interrupts.asked() => return Err(Failure::Cancelled),
                batch = answer.next() => batch,
            };
            match batch {
                Some(batch) => {
                    let batch = batch?;
                    meter.suspend(|| sink.write(&batch))?;
                }
                None => break,
            }
        }
        meter.finish();
        sink.finish()
    }

    /// A statement without rows has ended when it answers: an interrupt came too late for it.
    async fn drain(&self, mut answer: Answer, meter: Meter) -> Result<()> {
        while let Some(batch) = answer.next().await {
            drop(batch?);
        }
        meter.finish();
        if let (true, Some(report)) = (self.reports, answer.write_report()) {
            eprintln!("{}", written(report));
        }
        Ok(())
    }
}

/// A write's report for people.
pub fn written(report: &apiary::WriteReport) -> String {
    let mut text = format!(
        "wrote {} rows in {} cells, {}, as version {}",
        report.rows_written,
        report.cells_written,
        crate::progress::bytes(report.bytes_written),
        report.version
    );
    for warning in &report.warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As when a signal comes while a write commits: what landed is told, and is no failure.
    #[test]
    fn an_interrupt_behind_the_end_of_a_write_does_not_hide_its_report() {
        let apiary = Apiary::open_blocking("memory://a-late-interrupt").unwrap();
        let interrupts = Interrupts::silent();
        let runner = Runner {
            apiary: &apiary,
            interrupts: &interrupts,
            format: Format::Csv,
            reports: true,
        };
        apiary
            .block_on(async {
                let session = Session::new()?;
                let text = "CREATE TABLE t AS SELECT 1 AS n";
                let statement = apiary::parse(text)?.remove(0);
                let options = QueryOptions::default();
                let answer = apiary.execute(statement, &session, options).await?;
                interrupts.interrupt();
                let meter = Meter::of_query(Default::default());
                runner.drain(answer, meter).await?;
                let statement = apiary::parse("SELECT n FROM t")?.remove(0);
                let next = runner.run(statement, &session).await;
                assert!(matches!(next, Err(Failure::Cancelled)), "{:?}", next.err());
                interrupts.reset();
                apiary.shutdown().await?;
                Ok::<_, Failure>(())
            })
            .unwrap();
    }
}
