//! What a checker sees of every write as it takes effect, whoever believes what about it.

use crate::checkers::{chamber_1, query_2};
use crate::clock;
use crate::trace::Trace;
use apiary_protocol::keys;
use apiary_protocol::query::{ErrorClass, Outcome, QueryPlan};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// Looks at writes; keeps the first violation.
#[derive(Debug, Default)]
pub struct Watch {
    outputs: Mutex<query_2::Outputs>,
    violation: Mutex<Option<String>>,
    /// Of shared queries, with the time at which they were written.
    plans: Mutex<Vec<(Duration, QueryPlan)>>,
    /// When a node first read one of these.
    readers: Mutex<BTreeMap<String, Duration>>,
}

impl Watch {
    /// Counts what failures are written as outputs.
    pub fn written(&self, key: &str, body: &Bytes, trace: &Trace) {
        if key.starts_with("_swarm/queries/") && key.contains("/failures/") {
            trace.count("attempts_failed", 1);
        }
        if is_plan(key) {
            let plan = QueryPlan::from_bytes(body).ok();
            self.plans
                .lock()
                .extend(plan.map(|plan| (clock::now(), plan)));
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

    pub fn read(&self, key: &str, node: &str) {
        if is_plan(key) && !self.readers.lock().contains_key(node) {
            let now = clock::now();
            self.readers.lock().insert(node.to_string(), now);
        }
    }

    pub fn take_plans(&self) -> Vec<(Duration, QueryPlan)> {
        std::mem::take(&mut self.plans.lock())
    }

    pub fn take_readers(&self) -> BTreeMap<String, Duration> {
        std::mem::take(&mut self.readers.lock())
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

fn is_plan(key: &str) -> bool {
    keys::query_of(key).is_some_and(|query| keys::query_plan(query) == key)
}
