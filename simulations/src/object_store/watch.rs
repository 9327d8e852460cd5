//! What a checker sees of every write as it takes effect, whoever believes what about it.

use crate::checkers::{chamber_1, query_2};
use crate::trace::Trace;
use apiary_protocol::query::{ErrorClass, Outcome};
use bytes::Bytes;
use parking_lot::Mutex;

/// Looks at writes; keeps the first violation.
#[derive(Debug, Default)]
pub struct Watch {
    outputs: Mutex<query_2::Outputs>,
    violation: Mutex<Option<String>>,
}

impl Watch {
    /// Counts what failures are written as outputs.
    pub fn written(&self, key: &str, body: &Bytes, trace: &Trace) {
        if key.starts_with("_swarm/queries/") && key.contains("/failures/") {
            trace.count("attempts_failed", 1);
        }
        let seen = self.outputs.lock().written(key, body);
        match seen.and_then(|()| chamber_1::check(key, body)) {
            Ok(Some(output)) => {
                if let Outcome::Failed(error) = output.outcome {
                    let is_lost = error.class == ErrorClass::Input;
                    let what = if is_lost {
                        "inputs_lost"
                    } else {
                        "tasks_failed"
                    };
                    trace.count(what, 1);
                }
            }
            Ok(None) => {}
            Err(violation) => {
                self.violation.lock().get_or_insert(violation);
            }
        }
    }

    pub fn deleted(&self, key: &str) {
        self.outputs.lock().deleted(key);
    }

    pub fn check(&self) -> Result<(), String> {
        match self.violation.lock().clone() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }
}
