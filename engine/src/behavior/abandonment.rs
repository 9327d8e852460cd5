//! Abandonment: what a failed attempt teaches, and when to give up.
//!
//! Each failed attempt leaves a [`Record`]. The next attempt differs: more memory, smaller batches,
//! a spilling join. After [`ATTEMPTS_MAX`], or at once where another attempt cannot help, the query
//! fails with the whole history and a suggestion. Pure: the caller runs the attempts.
//!
//! Invariants: a query ends after at most [`ATTEMPTS_MAX`] attempts; nothing is tried again once a
//! row was delivered; no two attempts after memory ran out use the same [`Strategy`].

use crate::error::{Error, ErrorKind};
use std::fmt::Write;
use std::time::Duration;

pub const ATTEMPTS_MAX: usize = 4;
/// Rows of a batch: DataFusion's own default.
pub const BATCH_ROWS: usize = 8192;
const BATCH_ROWS_SMALL: usize = 2048;
const BATCH_ROWS_TINY: usize = 512;

/// What kind of failure it was, for the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The chamber's budget was not enough.
    Memory,
    /// A panic, contained.
    Panic,
    /// The bee died under it: nothing is known against the task.
    BeeLost,
    /// Another attempt meets the same: corrupt data, the caller's mistake, cancelled, too late,
    /// storage that stayed away through its own retries.
    Final,
}

/// Which joins of an attempt can spill. A hash join cannot; a sort-merge join can, and sorts for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpillingJoins {
    #[default]
    None,
    /// Those whose sides are too large to collect one of them whole.
    Large,
    All,
}

/// How the next attempt runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// All bees of the node, waited for, rather than what is free.
    pub whole_crew: bool,
    pub spilling_joins: SpillingJoins,
    pub batch_rows: usize,
    /// What operators that can spill may hold together, in percent of the chamber. The rest is for
    /// what they need to spill: a sort whose keys are computed, or wider than its rows, needs several
    /// times of what it holds.
    pub held_percent: u8,
    /// Spilled runs that one merge reads at once; 0 for as many as memory allows. Without a bound the
    /// sort that is done first takes all, and those beside it have nothing left to merge with.
    pub merged_runs: usize,
}

impl Strategy {
    pub const FIRST: Self = Self {
        whole_crew: false,
        spilling_joins: SpillingJoins::None,
        batch_rows: BATCH_ROWS,
        held_percent: 75,
        merged_runs: 0,
    };

    /// What differs from the first, each behind a comma.
    pub fn in_words(&self) -> String {
        let joins = match self.spilling_joins {
            SpillingJoins::None => "",
            SpillingJoins::Large => ", large joins spill",
            SpillingJoins::All => ", all joins spill",
        };
        let batches = match self.batch_rows < BATCH_ROWS {
            true => ", small batches",
            false => "",
        };
        format!("{joins}{batches}")
    }
}

/// What one failed attempt leaves.
#[derive(Clone, Debug)]
pub struct Record {
    /// `bee-0`, or what stood in its place.
    pub bee: String,
    pub strategy: Strategy,
    pub class: FailureClass,
    pub error: String,
    pub budget_bytes: u64,
    pub duration: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Again(Strategy),
    Abandon,
}

/// Sorts an error of an attempt. A panic arrives as [`Error::Bug`].
pub fn classify(error: &Error) -> FailureClass {
    match error {
        Error::ResourcesExhausted(_) => FailureClass::Memory,
        Error::Shared(inner) => classify(inner),
        other if other.kind() == ErrorKind::Bug => FailureClass::Panic,
        _ => FailureClass::Final,
    }
}

/// What to do after the attempts so far, the newest last.
///
/// The ladder for memory: every bee's budget and large joins that spill; then smaller batches, twice,
/// and all joins that can spill; and less that is held before it is spilled, and merged at once. A
/// panic and a lost bee are tried once more as they were.
pub fn plan_next(history: &[Record], rows_delivered: bool) -> Verdict {
    let Some(last) = history.last() else {
        return Verdict::Again(Strategy::FIRST);
    };
    if rows_delivered || history.len() >= ATTEMPTS_MAX {
        return Verdict::Abandon;
    }
    let times = history
        .iter()
        .filter(|record| record.class == last.class)
        .count();
    match last.class {
        FailureClass::Final => Verdict::Abandon,
        FailureClass::Panic if times > 1 => Verdict::Abandon,
        FailureClass::Panic | FailureClass::BeeLost => Verdict::Again(last.strategy),
        FailureClass::Memory => {
            let all = Strategy {
                whole_crew: true,
                spilling_joins: SpillingJoins::All,
                ..Strategy::FIRST
            };
            Verdict::Again(match times {
                1 => Strategy {
                    spilling_joins: SpillingJoins::Large,
                    held_percent: 50,
                    merged_runs: 16,
                    ..all
                },
                2 => Strategy {
                    batch_rows: BATCH_ROWS_SMALL,
                    held_percent: 50,
                    merged_runs: 8,
                    ..all
                },
                _ => Strategy {
                    batch_rows: BATCH_ROWS_TINY,
                    held_percent: 25,
                    merged_runs: 4,
                    ..all
                },
            })
        }
    }
}

/// Operators that hold all they need at once, whatever the plan, and what could be asked instead.
const ADVICE: [(&str, &str); 3] = [
    (
        "WindowPieces",
        "a window holds the rows of its largest partition at once: add PARTITION BY, or a frame that \
         ends at the current row",
    ),
    (
        "AggregateStream[",
        "an aggregate without GROUP BY holds its whole state at once: group, or aggregate fewer values",
    ),
    (
        "HashJoinInput",
        "this join cannot spill: join on equal keys of plain types, or filter its smaller side",
    ),
];

/// What a person could change, by the last failure.
fn suggestion(history: &[Record]) -> String {
    let Some(last) = history.last() else {
        return "run the statement again".into();
    };
    match last.class {
        FailureClass::Memory => {
            let memory = "give the node more memory, run it when fewer queries run, or select fewer \
                columns and rows";
            // The message names the greatest holders first.
            let named = ADVICE.iter().filter_map(|(operator, advice)| {
                let place = last.error.find(operator)?;
                Some((place, advice))
            });
            match named.min() {
                Some((_, advice)) => format!("{advice}; or {memory}"),
                None => memory.into(),
            }
        }
        FailureClass::Panic => "this is a defect: report the statement and this message".into(),
        _ => "run the statement again".into(),
    }
}

/// An attempt in words.
#[derive(Clone, Debug)]
pub struct Told {
    pub bee: String,
    /// As [`Strategy::in_words`] has it.
    pub how: String,
    pub budget_bytes: u64,
    pub duration: Duration,
    pub error: String,
}

impl Record {
    pub fn told(&self) -> Told {
        Told {
            bee: self.bee.clone(),
            how: self.strategy.in_words(),
            budget_bytes: self.budget_bytes,
            duration: self.duration,
            error: self.error.clone(),
        }
    }
}

/// The history and the suggestion as one message.
pub fn report(history: &[Record]) -> String {
    report_after(&[], history)
}

/// As [`report`], after what was tried on other nodes.
pub fn report_after(elsewhere: &[Told], history: &[Record]) -> String {
    let attempts = elsewhere.len() + history.len();
    let mut text = format!("the task was abandoned after {attempts} attempts:");
    let told = elsewhere.iter().cloned();
    let told = told.chain(history.iter().map(Record::told));
    for (index, attempt) in told.enumerate() {
        let Told {
            bee, how, error, ..
        } = &attempt;
        let _ = write!(
            text,
            " [{}] {bee} with {} MiB{how}, {} ms: {error};",
            index + 1,
            attempt.budget_bytes >> 20,
            attempt.duration.as_millis(),
        );
    }
    let _ = write!(text, " {}", suggestion(history));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(class: FailureClass, strategy: Strategy) -> Record {
        Record {
            bee: "bee-0".into(),
            strategy,
            class,
            error: "it failed".into(),
            budget_bytes: 64 << 20,
            duration: Duration::from_millis(5),
        }
    }

    /// All verdicts of a query whose attempts all end in the class.
    fn ladder(class: FailureClass) -> Vec<Strategy> {
        let mut history = Vec::new();
        let mut strategies = Vec::new();
        while let Verdict::Again(strategy) = plan_next(&history, false) {
            strategies.push(strategy);
            history.push(record(class, strategy));
        }
        strategies
    }

    #[test]
    fn each_attempt_after_memory_ran_out_differs_from_those_before() {
        let strategies = ladder(FailureClass::Memory);
        assert_eq!(strategies.len(), ATTEMPTS_MAX);
        assert_eq!(strategies[0], Strategy::FIRST);
        assert_eq!(strategies[1].spilling_joins, SpillingJoins::Large);
        assert!(strategies[1].whole_crew);
        for (index, strategy) in strategies.iter().enumerate() {
            assert!(!strategies[..index].contains(strategy));
        }
    }

    #[test]
    fn a_panic_is_tried_once_more_and_corrupt_data_never() {
        assert_eq!(ladder(FailureClass::Panic).len(), 2);
        assert_eq!(ladder(FailureClass::Final).len(), 1);
        assert_eq!(
            classify(&Error::corrupt("a/b", "torn")),
            FailureClass::Final
        );
        assert_eq!(classify(&Error::rejected("no")), FailureClass::Final);
        assert_eq!(
            classify(&Error::Bug("panicked".into())),
            FailureClass::Panic
        );
    }

    #[test]
    fn every_sequence_of_failures_ends_within_the_limit() {
        let classes = [
            FailureClass::Memory,
            FailureClass::Panic,
            FailureClass::BeeLost,
            FailureClass::Final,
        ];
        for code in 0..4usize.pow(ATTEMPTS_MAX as u32 + 1) {
            let mut history = Vec::new();
            let mut rest = code;
            while let Verdict::Again(strategy) = plan_next(&history, false) {
                history.push(record(classes[rest % 4], strategy));
                rest /= 4;
            }
            assert!(history.len() <= ATTEMPTS_MAX);
        }
    }

    #[test]
    fn nothing_is_tried_again_after_a_row_was_delivered() {
        let history = [record(FailureClass::Memory, Strategy::FIRST)];
        assert_eq!(plan_next(&history, true), Verdict::Abandon);
    }

    #[test]
    fn the_report_names_every_attempt_and_says_what_to_do() {
        let history = [
            record(FailureClass::Memory, Strategy::FIRST),
            record(
                FailureClass::Memory,
                Strategy {
                    spilling_joins: SpillingJoins::All,
                    ..Strategy::FIRST
                },
            ),
        ];
        let text = report(&history);
        assert!(text.contains("after 2 attempts") && text.contains("[2] bee-0 with 64 MiB"));
        assert!(text.contains("all joins spill") && text.contains("more memory"));
        let elsewhere = Told {
            bee: "1a2b3c4d bee-1".into(),
            ..history[1].told()
        };
        let text = report_after(&[elsewhere], &history);
        assert!(text.contains("after 3 attempts") && text.contains("[3] bee-0 with 64 MiB"));
        assert!(text.contains("[1] 1a2b3c4d bee-1 with 64 MiB, all joins spill"));
    }

    #[test]
    fn the_suggestion_fits_the_operator_that_holds_most() {
        let failed = |error: &str| {
            let failed = Record {
                error: error.into(),
                ..record(FailureClass::Memory, Strategy::FIRST)
            };
            report(&[failed])
        };
        let window = failed("WindowPieces[0]#1 consumed 9 MB. Error: AggregateStream[0] has 1 B");
        assert!(window.contains("PARTITION BY"), "{window}");
        let aggregate = failed("AggregateStream[1]#1 consumed 9 MB, WindowPieces[0] 1 MB");
        assert!(aggregate.contains("GROUP BY"), "{aggregate}");
        let other = failed("ExternalSorter[0] has 1 B");
        assert!(other.ends_with("select fewer columns and rows"), "{other}");
    }
}
