//! QUERY-3: a query ends, with an answer, an abandonment report or a deadline. While things go wrong it may take its time; once nothing does any more it
//! ends soon, and not only by its deadline.

use crate::clock;
use apiary_engine::error::Error;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a statement may take when nothing goes wrong: one attempt that hangs and is found out, or
/// one node that died unseen, for each of a few stages; and once more, when an output was lost.
pub const CALM_MAX: Duration = Duration::from_secs(180);

/// A statement that ends otherwise.
pub fn unexplained(error: Error) -> String {
    format!("QUERY-3: a statement ends with an error that nothing explains: {error}")
}

/// The statements that clients wait for, and since when.
#[derive(Debug, Default)]
pub struct Waiting(BTreeMap<String, (Duration, String)>);

impl Waiting {
    pub fn begin(&mut self, client: &str, text: &str) {
        let since = (clock::now(), text.to_string());
        self.0.insert(client.to_string(), since);
    }

    pub fn end(&mut self, client: &str) {
        self.0.remove(client);
    }

    /// Whether one of these clients waits.
    pub fn any_of(&self, clients: &[String]) -> bool {
        clients.iter().any(|client| self.0.contains_key(client))
    }

    /// Nothing has gone wrong since `calm_since`.
    pub fn check(&self, calm_since: Duration) -> Result<(), String> {
        for (client, (since, text)) in &self.0 {
            let waited = clock::now().saturating_sub(calm_since.max(*since));
            if waited > CALM_MAX {
                let (waited, since) = (waited.as_secs(), since.as_secs());
                return Err(format!(
                    "QUERY-3: {client} has waited for {waited} s since nothing goes wrong any more, for \
                     what it asked at {since} s: {text}"
                ));
            }
        }
        Ok(())
    }
}
