//! A client that makes frames and drops them, while those of other nodes do the same: all changes of names
//! meet in one registry. Its own names are nobody else's, so it knows what must become of each.

use super::client;
use crate::checkers::query_3;
use crate::rng::Rng;
use crate::trace::Trace;
use apiary_actors::Node;
use apiary_engine::error::{Error, ErrorKind};
use apiary_protocol::names::FrameName;
use std::collections::BTreeMap;
use std::time::Duration;

const NAMES: u64 = 3;

/// What a name is, by what the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Absent,
    Either,
}

/// It outlives the nodes that it talks to.
#[derive(Debug)]
pub struct Namer {
    name: String,
    trace: Trace,
    rng: Rng,
    names: BTreeMap<String, Known>,
    left: u64,
}

impl Namer {
    pub fn new(index: u64, count: u64, trace: &Trace, rng: &Rng) -> Self {
        let name = format!("namer-{index}");
        let names = (0..NAMES).map(|number| (format!("named_{index}_{number}"), Known::Absent));
        Self {
            rng: rng.fork(&name),
            name,
            trace: trace.clone(),
            names: names.collect(),
            left: count,
        }
    }

    /// Makes and drops frames until it has done all. The error is a violation.
    pub async fn work(&mut self, node: &Node) -> Result<(), String> {
        while self.left > 0 {
            let pause = Duration::from_micros(self.rng.below(500_000));
            tokio::time::sleep(pause).await;
            self.left -= 1;
            self.change(node).await?;
        }
        Ok(())
    }

    async fn change(&mut self, node: &Node) -> Result<(), String> {
        let names: Vec<String> = self.names.keys().cloned().collect();
        let name = self.rng.pick(&names).cloned().unwrap_or_default();
        let before = self.names.insert(name.clone(), Known::Either);
        let (is_drop, text) = match self.rng.chance(400) {
            true => (true, format!("DROP TABLE IF EXISTS {name}")),
            false => (false, format!("CREATE TABLE {name} (x BIGINT)")),
        };
        let changed = client::execute_traced(node, &text, &self.name, &self.trace).await;
        let known = match changed {
            Ok(_) if !is_drop && before == Some(Known::There) => {
                return Err(format!("LEDGER-2: {text} succeeds though it is there"));
            }
            Ok(_) if is_drop => Known::Absent,
            Ok(_) => Known::There,
            Err(Error::AlreadyExists { .. }) if !is_drop && before != Some(Known::Absent) => {
                Known::There
            }
            // It may have been in the middle of it.
            Err(error) if matches!(error.kind(), ErrorKind::Retry | ErrorKind::OutcomeUnknown) => {
                Known::Either
            }
            Err(error) => return Err(format!("{}, from {text}", query_3::unexplained(error))),
        };
        self.trace.count("names_changed", 1);
        self.names.insert(name, known);
        Ok(())
    }

    /// What has become of the names, once nothing changes any more.
    pub async fn check(&self, node: &Node) -> Result<(), String> {
        let view = node.view().await.map_err(query_3::unexplained)?;
        for (name, known) in &self.names {
            let frame = FrameName::parse("default", "default", name);
            let is_there = view
                .frame(&frame.map_err(|error| error.to_string())?)
                .is_ok();
            if (*known == Known::There && !is_there) || (*known == Known::Absent && is_there) {
                return Err(format!(
                    "LEDGER-2: frame {name} is known as {known:?}, and there: {is_there}"
                ));
            }
        }
        Ok(())
    }
}
