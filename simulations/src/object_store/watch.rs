//! What a checker sees of every write as it takes effect, whoever believes what about it.

use crate::checkers::{chamber_1, query_2};
use bytes::Bytes;
use parking_lot::Mutex;

/// Looks at writes; keeps the first violation.
#[derive(Debug, Default)]
pub struct Watch {
    outputs: Mutex<query_2::Outputs>,
    violation: Mutex<Option<String>>,
}

impl Watch {
    pub fn written(&self, key: &str, body: &Bytes) {
        let seen = self.outputs.lock().written(key, body);
        let checked = seen.and_then(|()| chamber_1::check(key, body));
        if let Err(violation) = checked {
            self.violation.lock().get_or_insert(violation);
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
