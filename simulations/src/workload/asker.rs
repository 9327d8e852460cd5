//! Clients that ask: questions whose answers are known, writes that the swarm makes from queries, and
//! looks at what became of those. They note what they are told; a crash of their node drops them in the
//! middle, and they go on with the next.

use super::answers::{Facts, QUESTIONS, WIDE_QUESTIONS, integers};
use super::client;
use super::model::Model;
use crate::checkers::query_1;
use crate::checkers::query_3::Waiting;
use crate::clock;
use crate::rng::Rng;
use crate::trace::Trace;
use apiary_actors::Node;
use apiary_engine::error::{Error, ErrorKind};
use arrow::array::RecordBatch;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// In a thousand statements, those whose client loses patience.
const DROPPED: u64 = 120;
/// It waits less than two to the power of this, in microseconds.
const PATIENCE_EXPONENT: (u64, u64) = (12, 24);
/// The frame that all askers insert into.
const SINK: &str = "sink";
pub const CREATE_SINK: &str = "CREATE TABLE sink (tag BIGINT, batch BIGINT, value BIGINT)";
/// An insert takes the rows of one remainder.
const REMAINDERS: u64 = 5;

/// What became of an insert, or of a frame that was made from a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    In,
    Out,
}

/// What may go wrong just now.
#[derive(Debug, Default)]
pub struct Weather {
    /// Since when nothing goes wrong any more.
    pub calm_since: Option<Duration>,
    /// Nodes crash and freeze, and the store errs.
    pub is_stormy: bool,
    /// Coordination objects are damaged.
    pub is_damaging: bool,
}

/// Shared by all askers of a simulation.
#[derive(Debug)]
pub struct Common {
    pub facts: Facts,
    pub weather: Mutex<Weather>,
    pub waiting: Mutex<Waiting>,
    inserts: Mutex<BTreeMap<u64, Fate>>,
    frames: Mutex<BTreeMap<u64, Fate>>,
    pub trace: Trace,
}

impl Common {
    pub fn new(facts: Facts, trace: &Trace) -> Arc<Self> {
        Arc::new(Self {
            facts,
            weather: Mutex::default(),
            waiting: Mutex::default(),
            inserts: Mutex::default(),
            frames: Mutex::default(),
            trace: trace.clone(),
        })
    }
}

/// One client. It outlives the nodes that it talks to.
#[derive(Debug)]
pub struct Asker {
    pub name: String,
    common: Arc<Common>,
    /// Of the writers.
    model: Model,
    rng: Rng,
    questions: Vec<&'static str>,
    left: u64,
    next_tag: u64,
}

/// What had been acknowledged when a statement began.
struct Before {
    inserts: BTreeMap<u64, Fate>,
    batches: Vec<u64>,
}

/// What an asker does next.
enum Errand {
    Question(&'static str),
    Insert(u64),
    MakeFrame(u64),
    LookAtInserts,
    LookAtFrame(u64),
    /// At the frame of the writers.
    LookAtJournal,
    Explain(&'static str),
}

impl Asker {
    /// The `index`th asker: what it asks is among `questions`.
    pub fn new(
        index: u64,
        count: u64,
        questions: &[&'static str],
        common: &Arc<Common>,
        model: &Model,
        rng: &Rng,
    ) -> Self {
        let name = format!("asker-{index}");
        Self {
            rng: rng.fork(&name),
            name,
            common: common.clone(),
            model: model.clone(),
            questions: questions.to_vec(),
            left: count,
            next_tag: index << 32,
        }
    }

    /// Runs statements, with pauses, until all are done or the node is to stop. The error is a violation.
    pub async fn work(
        &mut self,
        node: &Node,
        is_stopping: impl Fn() -> bool,
    ) -> std::result::Result<(), String> {
        while self.left > 0 && !is_stopping() {
            let pause = Duration::from_micros(self.rng.below(2_000_000));
            tokio::time::sleep(pause).await;
            let errand = self.next_errand();
            self.left -= 1;
            self.run(node, errand, &is_stopping).await?;
        }
        Ok(())
    }

    fn next_errand(&mut self) -> Errand {
        let question = self.rng.pick(&self.questions).copied();
        let question = question.unwrap_or(QUESTIONS[0]);
        let frames: Vec<u64> = self.common.frames.lock().keys().copied().collect();
        match (self.rng.below(100), self.rng.pick(&frames)) {
            (0..10, _) => Errand::Insert(self.new_tag()),
            (10..20, _) => Errand::LookAtInserts,
            (20..26, _) => Errand::MakeFrame(self.new_tag()),
            (26..34, Some(tag)) => Errand::LookAtFrame(*tag),
            (34..38, _) => Errand::Explain(question),
            (38..48, _) => Errand::LookAtJournal,
            _ => Errand::Question(question),
        }
    }

    fn new_tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    async fn run(
        &mut self,
        node: &Node,
        errand: Errand,
        is_stopping: &impl Fn() -> bool,
    ) -> std::result::Result<(), String> {
        let common = self.common.clone();
        let before = Before {
            inserts: common.inserts.lock().clone(),
            batches: self.model.acknowledged(),
        };
        match &errand {
            Errand::Insert(tag) => common.inserts.lock().insert(*tag, Fate::Unknown),
            Errand::MakeFrame(tag) => common.frames.lock().insert(*tag, Fate::Unknown),
            _ => None,
        };
        let (text, began_at) = (errand.text(), clock::now());
        common.waiting.lock().begin(&self.name, &text);
        let patience = self.draw_patience();
        let asked = client::execute_traced(node, &text, &self.name, &common.trace);
        let answer = timeout(patience, asked).await;
        common.waiting.lock().end(&self.name);
        let Ok(answer) = answer else {
            common
                .trace
                .event(&self.name, format_args!("dropped {text}"));
            common.trace.count("queries_cancelled", 1);
            return Ok(());
        };
        let is_known_frame =
            matches!(errand, Errand::LookAtFrame(tag) if common.made(tag) == Some(Fate::In));
        match answer {
            Ok(rows) => self.learn(&errand, &rows, &before),
            Err(Error::NotFound { .. } | Error::Sql(_))
                if matches!(errand, Errand::LookAtFrame(_)) && !is_known_frame =>
            {
                Ok(())
            }
            Err(error) => {
                self.refused(&errand, &error);
                common.explain(&error, began_at, is_stopping(), &text)
            }
        }
    }

    fn draw_patience(&mut self) -> Duration {
        if !self.rng.chance(DROPPED) {
            return Duration::MAX;
        }
        let (low, high) = PATIENCE_EXPONENT;
        let bound = 1 << self.rng.between(low, high);
        Duration::from_micros(self.rng.below(bound))
    }

    fn learn(
        &self,
        errand: &Errand,
        rows: &[RecordBatch],
        before: &Before,
    ) -> std::result::Result<(), String> {
        let common = &self.common;
        match errand {
            Errand::Question(text) => common.facts.check(text, rows),
            Errand::Explain(_) => Ok(()),
            Errand::Insert(tag) => {
                common.inserts.lock().insert(*tag, Fate::In);
                common.trace.count("shared_inserts", 1);
                Ok(())
            }
            Errand::MakeFrame(tag) => {
                common.frames.lock().insert(*tag, Fate::In);
                common.trace.count("frames_made_from_queries", 1);
                Ok(())
            }
            Errand::LookAtInserts => common.check_inserts(rows, &before.inserts),
            Errand::LookAtJournal => self
                .model
                .with(|writes| query_1::check_counts(writes, &before.batches, rows)),
            Errand::LookAtFrame(tag) => common.check_frame(*tag, rows),
        }
    }

    /// A write that got an error that says that nothing happened is out.
    fn refused(&self, errand: &Errand, error: &Error) {
        if error.kind() == ErrorKind::OutcomeUnknown {
            self.common.trace.count("outcomes_unknown", 1);
            return;
        }
        let (inserts, frames) = (&self.common.inserts, &self.common.frames);
        match errand {
            Errand::Insert(tag) => inserts.lock().insert(*tag, Fate::Out),
            Errand::MakeFrame(tag) => frames.lock().insert(*tag, Fate::Out),
            _ => None,
        };
    }
}

impl Common {
    /// QUERY-3, as soon as nothing goes wrong any more.
    pub fn check_waiting(&self) -> std::result::Result<(), String> {
        match self.weather.lock().calm_since {
            Some(since) => self.waiting.lock().check(since),
            None => Ok(()),
        }
    }

    fn made(&self, tag: u64) -> Option<Fate> {
        self.frames.lock().get(&tag).copied()
    }

    /// Whether something can have gone wrong that explains an error.
    fn explain(
        &self,
        error: &Error,
        began_at: Duration,
        is_stopping: bool,
        text: &str,
    ) -> std::result::Result<(), String> {
        let weather = self.weather.lock();
        let is_calm = weather.calm_since.is_some_and(|since| began_at >= since);
        let is_wide = WIDE_QUESTIONS.iter().any(|wide| text.ends_with(wide));
        let explained = match error.kind() {
            // After all attempts, with what became of each.
            _ if is_wide && is_given_up(error) => {
                self.trace.count("queries_given_up", 1);
                true
            }
            ErrorKind::Retry | ErrorKind::OutcomeUnknown => {
                is_stopping || (weather.is_stormy && !is_calm)
            }
            // A node that was away, or could not beat, is taken for dead and its query ended.
            ErrorKind::Corrupt => {
                let can_be = weather.is_stormy || weather.is_damaging;
                can_be && !is_calm && names_coordination(error)
            }
            ErrorKind::Rejected => is_stopping,
            ErrorKind::Cancelled | ErrorKind::Bug => false,
        };
        match explained {
            true => Ok(()),
            false => Err(format!(
                "QUERY-3: a statement ends with an error that nothing explains ({:?}, calm: {is_calm}): {error}, \
                 from {text}",
                error.kind()
            )),
        }
    }

    /// Each insert is wholly in or wholly out: in when it was acknowledged before this look began, out
    /// when it was refused.
    fn check_inserts(
        &self,
        rows: &[RecordBatch],
        before: &BTreeMap<u64, Fate>,
    ) -> std::result::Result<(), String> {
        let mut found = BTreeMap::new();
        for batch in rows {
            let (tags, counts, sums) = (
                integers(batch, 0)?,
                integers(batch, 1)?,
                integers(batch, 2)?,
            );
            for index in 0..batch.num_rows() {
                let got = (counts.value(index), sums.value(index));
                if found.insert(tags.value(index) as u64, got).is_some() {
                    return Err(format!("QUERY-1: insert {} twice", tags.value(index)));
                }
            }
        }
        let now = self.inserts.lock().clone();
        for (tag, got) in &found {
            let wanted = self.insert_of(*tag);
            if *got != wanted {
                return Err(format!(
                    "LEDGER-2: insert {tag} has {got:?} rows and sum, not {wanted:?}"
                ));
            }
            if !matches!(now.get(tag), Some(Fate::In | Fate::Unknown)) {
                return Err(format!("LEDGER-2: insert {tag} was refused and is there"));
            }
        }
        let acknowledged = before.iter().filter(|(_, fate)| **fate == Fate::In);
        let missing = acknowledged
            .map(|(tag, _)| tag)
            .find(|tag| !found.contains_key(tag) && self.insert_of(**tag).0 > 0);
        match missing {
            Some(tag) => Err(format!(
                "LEDGER-2: insert {tag} was acknowledged and is gone"
            )),
            None => Ok(()),
        }
    }

    /// Rows and sum of an insert.
    fn insert_of(&self, tag: u64) -> (i64, i64) {
        let rows = self.facts.rows();
        let rows = rows.filter(|row| row.value as u64 % REMAINDERS == tag % REMAINDERS);
        rows.fold((0, 0), |(count, sum), row| (count + 1, sum + row.value))
    }

    fn check_frame(&self, tag: u64, rows: &[RecordBatch]) -> std::result::Result<(), String> {
        if self.made(tag) == Some(Fate::Out) {
            return Err(format!("LEDGER-2: frame {tag} was refused and is there"));
        }
        let mut rows_and_sum = (0, 0);
        for batch in rows {
            for index in 0..batch.num_rows() {
                rows_and_sum.0 += integers(batch, 0)?.value(index);
                rows_and_sum.1 += integers(batch, 1)?.value(index);
            }
        }
        let wanted = self.facts.rows();
        let wanted = wanted.fold((0, 0), |(count, sum), row| (count + 1, sum + row.value));
        match rows_and_sum == wanted {
            true => Ok(()),
            false => Err(format!(
                "LEDGER-2: frame {tag} is of {rows_and_sum:?} rows and sum, not {wanted:?}"
            )),
        }
    }
}

impl Errand {
    fn text(&self) -> String {
        match self {
            Self::Question(text) => (*text).to_string(),
            Self::Explain(text) => format!("EXPLAIN ANALYZE {text}"),
            Self::Insert(tag) => format!(
                "INSERT INTO {SINK} SELECT {tag} AS tag, batch, value FROM facts WHERE value % {REMAINDERS} = {}",
                tag % REMAINDERS
            ),
            Self::MakeFrame(tag) => format!(
                "CREATE TABLE made_{tag} AS SELECT label, count(*) AS c, sum(value) AS s FROM facts GROUP BY label"
            ),
            Self::LookAtInserts => {
                format!("SELECT tag, count(*), sum(value) FROM {SINK} GROUP BY tag ORDER BY tag")
            }
            Self::LookAtFrame(tag) => format!("SELECT sum(c), sum(s) FROM made_{tag}"),
            Self::LookAtJournal => {
                "SELECT batch, count(*) AS c, count(DISTINCT row) AS d FROM journal GROUP BY batch"
                    .into()
            }
        }
    }
}

/// Whether no attempt had memory enough.
fn is_given_up(error: &Error) -> bool {
    match error {
        Error::ResourcesExhausted(_) => true,
        Error::Shared(inner) => is_given_up(inner),
        _ => false,
    }
}

/// Whether an error names an object of a query.
fn names_coordination(error: &Error) -> bool {
    error.to_string().contains("_swarm/queries/")
}
