//! EXPLAIN ANALYZE of a shared query: it runs like any other, its rows are thrown away, and what its
//! tasks left of themselves is told instead.
//!
//! The outputs and failures are read before the query is ended, because nothing of it is there later.

use super::explain::explained_job;
use crate::chamber::Chamber;
use crate::context::Context;
use crate::forager::Known;
use crate::heartbeat::SwarmHandle;
use crate::read::ReadJob;
use apiary_engine::distributed::{Analysed, CutStage, Inputs, read_execution};
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::PlannedQuery;
use apiary_engine::store::Meadow;
use apiary_protocol::ids::{NodeId, QueryId};
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};
use datafusion::sql::parser::Statement as DfStatement;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub(super) struct Analysis {
    /// The operator at the root of the plan for one node, with what the statement asked of it; it is
    /// set on the head.
    root: Arc<dyn ExecutionPlan>,
    answer: SchemaRef,
    analysed: Option<Analysed>,
    meadow: Meadow,
    swarm: SwarmHandle,
    own: (NodeId, String),
}

impl Analysis {
    /// For EXPLAIN ANALYZE: with the statement that is explained.
    pub(super) fn of(
        context: &Context,
        job: &ReadJob,
        planned: &PlannedQuery,
    ) -> Option<(ReadJob, Self)> {
        let DfStatement::Explain(explained) = job.statement.as_ref() else {
            return None;
        };
        let root = planned.plan.downcast_ref::<AnalyzeExec>()?;
        let environment = &context.environment;
        let analysis = Self {
            answer: root.input().schema(),
            root: planned.plan.clone(),
            analysed: None,
            meadow: environment.meadow.clone(),
            swarm: context.swarm.clone(),
            own: (context.node_id, context.node_name()),
        };
        Some((explained_job(job, explained), analysis))
    }

    /// The columns of what is explained.
    pub(super) fn answer_schema(&self) -> SchemaRef {
        self.answer.clone()
    }

    /// Once it is known how the query is cut.
    pub(super) fn with_cut<'a>(
        self,
        query: QueryId,
        stages: impl Iterator<Item = &'a CutStage>,
        head: &[u32],
    ) -> Self {
        Self {
            analysed: Some(Analysed::new(query, self.own.0, stages, head)),
            ..self
        }
    }

    /// The head, with its rows thrown away and its metrics shown.
    pub(super) fn over(&self, head: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let properties = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        Ok(self.root.clone().replace_children(vec![head], properties)?)
    }

    /// The rows below the head's plan.
    pub(super) async fn rows(
        &self,
        known: &Known,
        head: &PlannedQuery,
        chamber: &Chamber,
        duration: Duration,
    ) -> Result<Vec<(String, String)>> {
        let analysed = self.analysed.as_ref();
        let analysed = analysed.ok_or_else(|| Error::Bug("an analysis of no query".into()))?;
        let execution = read_execution(&self.meadow, analysed, known).await?;
        let inputs = head.context.session_config().get_extension::<Inputs>();
        let inputs = inputs.ok_or_else(|| Error::Bug("a head without its inputs".into()))?;
        let mut rows = analysed.rows(&execution, inputs.has_fetched(), &self.names());
        let (read_bytes, requests) = inputs.totals();
        let text = format!(
            "on this node, {} ms, read {read_bytes} bytes in {requests} requests, spilled {} bytes, \
             peak {} of {} bytes",
            duration.as_millis(),
            chamber.spilled_bytes(),
            chamber.peak_bytes(),
            chamber.budget_bytes
        );
        rows.push(("head".into(), text));
        Ok(rows)
    }

    /// Names of the nodes that were seen.
    fn names(&self) -> BTreeMap<NodeId, String> {
        let view = self.swarm.view();
        let seen = view.members.iter().filter_map(|member| {
            let beat = member.beat.as_ref()?;
            Some((member.node, beat.name.clone()))
        });
        seen.chain([self.own.clone()]).collect()
    }
}
