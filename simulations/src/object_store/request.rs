//! One request: what befalls it, and what is counted of it.

use super::faults::{Draw, Fate, Faults, SILENCE};
use super::{SimStore, StoreView, damage};
use crate::clock;
use object_store::path::Path;
use object_store::{Error, Result};
use std::time::Duration;

impl StoreView {
    pub(super) fn faults(&self) -> Faults {
        *self.shared.faults.lock()
    }

    /// One request: time passes, it may fail, its effect happens, time passes, its reply may be lost.
    pub(super) async fn request<T>(
        &self,
        request: Request<'_>,
        effect: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Request { what, key, .. } = request;
        let faults = self.faults();
        let is_create = request.kind == Kind::Create;
        let Draw { fate, took, .. } = request.draw.unwrap_or_else(|| {
            let mut rng = self.shared.rng.lock();
            faults.draw(is_create, request.bytes, &mut rng)
        });
        tokio::time::sleep(took / 2).await;
        let trace = &self.shared.trace;
        trace.count(request.counted(), 1);
        trace.count(request.sort(), 1);
        let failed = |reason: &str| {
            trace.event(&self.node, format_args!("{what} {key} {reason}"));
            Error::Generic {
                store: "simulated",
                source: reason.to_string().into(),
            }
        };
        match fate {
            Fate::Before => {
                trace.count("errors_before_effect", 1);
                return Err(failed("error-before-effect"));
            }
            Fate::SilentBefore => {
                // Whoever waits has a deadline of its own, and may not hear the end of it.
                trace.count("silent_connections", 1);
                tokio::time::sleep(SILENCE).await;
                return Err(failed("silence-before-effect"));
            }
            Fate::Throttled => {
                trace.count("throttled", 1);
                return Err(failed("503-slow-down"));
            }
            Fate::Refused => {
                trace.count("creates_refused_with_nothing_written", 1);
                failed("409-nothing-written");
                let (path, source) = (key.to_string(), "409 conflict".into());
                return Err(Error::AlreadyExists { path, source });
            }
            Fate::Good | Fate::After | Fate::SilentAfter => {}
        }
        if request.kind.is_write() && self.is_too_soon(key, faults.write_pause) {
            trace.count("writes_too_soon", 1);
            return Err(failed("429-too-soon"));
        }
        let result = effect.await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(Error::NotFound { .. }) => "not-found",
            Err(Error::AlreadyExists { .. }) => "already-exists",
            Err(Error::NotModified { .. }) => "not-modified",
            Err(_) => "error",
        };
        trace.event(&self.node, format_args!("{what} {key} {outcome}"));
        if result.is_ok() && request.kind.is_write() {
            self.rot(key, &faults).await;
        }
        tokio::time::sleep(took / 2).await;
        match fate {
            Fate::After => {
                self.count_lost(key);
                Err(failed("reply-lost"))
            }
            Fate::SilentAfter => {
                trace.count("silent_connections", 1);
                self.count_lost(key);
                tokio::time::sleep(SILENCE).await;
                Err(failed("silence-after-effect"))
            }
            _ => result,
        }
    }

    fn count_lost(&self, key: &Path) {
        self.shared.trace.count("replies_lost", 1);
        let is_commit = key.as_ref().contains("/_delta_log/");
        let lost = u64::from(is_commit);
        self.shared.trace.count("replies_lost_on_commits", lost);
    }

    /// Whether a key was written a moment ago, on a store that takes one write in so long.
    fn is_too_soon(&self, key: &Path, pause: Duration) -> bool {
        if pause.is_zero() {
            return false;
        }
        let (now, mut written) = (clock::now(), self.shared.written_at.lock());
        let is_soon = written.get(key).is_some_and(|at| now < *at + pause);
        if !is_soon {
            written.insert(key.clone(), now);
        }
        is_soon
    }

    /// What was written may be damaged at once.
    async fn rot(&self, key: &Path, faults: &Faults) {
        let (damaged, rows) = (faults.damaged, faults.damaged_rows);
        let can_be = match rows {
            true => damage::is_result(key.as_ref()),
            false => damage::is_coordination(key.as_ref()),
        };
        if damaged == 0 || !can_be {
            return;
        }
        let mut rng = {
            let mut rng = self.shared.rng.lock();
            if !rng.chance(damaged) {
                return;
            }
            rng.fork("damage")
        };
        // It may have been deleted by another node meanwhile: then there is nothing to damage.
        let _ = SimStore(self.shared.clone())
            .damage(key, rows, &mut rng)
            .await;
    }
}

/// A request, for the trace and for its fate.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub what: &'a str,
    pub key: &'a Path,
    pub kind: Kind,
    pub bytes: u64,
    /// When it was drawn before.
    pub draw: Option<Draw>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    Put,
    Other,
}

impl Kind {
    fn is_write(self) -> bool {
        self != Self::Other
    }
}

impl<'a> Request<'a> {
    /// What it is counted as: what a store asks money for.
    fn counted(&self) -> &'static str {
        match self.what.split(' ').next().unwrap_or_default() {
            "get" => "requests_get",
            "head" => "requests_head",
            "delete" => "requests_delete",
            "create" | "put" | "put-part" | "put-multipart" | "copy" => "requests_put",
            _ => "requests_list",
        }
    }

    /// What it is for, of those that are many.
    fn sort(&self) -> &'static str {
        let (key, is_list) = (self.key.as_ref(), self.counted() == "requests_list");
        match self.counted() {
            "requests_get" | "requests_head" | "requests_list" => {}
            _ => return "requests_that_write",
        }
        if key.ends_with(".parquet") {
            "requests_of_cells"
        } else if key == "_swarm/bell" {
            "requests_of_the_bell"
        } else if key.starts_with("_swarm/nodes") {
            match is_list {
                true => "requests_lists_of_beats",
                false => "requests_of_beats",
            }
        } else if key.starts_with("_swarm/queries/") {
            match (is_list, key.contains("/outputs/") || key.contains("/data/")) {
                (true, _) => "requests_lists_of_outputs",
                (false, true) => "requests_of_outputs",
                (false, false) => "requests_of_plans_and_ends",
            }
        } else {
            "requests_of_the_rest"
        }
    }

    pub fn new(what: &'a str, key: &'a Path) -> Self {
        Self {
            what,
            key,
            kind: Kind::Other,
            bytes: 0,
            draw: None,
        }
    }
}
