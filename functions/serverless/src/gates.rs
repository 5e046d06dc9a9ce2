//! Where the workflow waits for an operator: `notify` asks, `decide` answers.

use std::sync::Arc;

use krossing_core::{
    decision::{Answer, Decided, GATE_DOCUMENT, Gate, OpenGate, may_answer},
    journal::{Actor, KnownBy},
    ports::{Clock, Ledger, StoreError},
    transition::State,
};
use krossing_runtime::{
    Migration,
    aws::{Workflow, WorkflowError},
    connect::Real,
};
use krossing_worker::lane_report;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Environment, Failure,
    failure::sentence,
    tell,
    turns::{Asked, of_this_execution, open_gate},
};

/// How many groups a question names.
const GROUPS_SHOWN: usize = 20;

/// What `notify` is asked for with, beside [`Asked`].
#[derive(Debug, Deserialize)]
struct AskedToAsk {
    gate: Gate,
    token: String,
    error: Option<Failed>,
}

/// What failed, as the definition caught it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Failed {
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) cause: String,
}

/// Opens a gate and asks the operator. The answer comes by `decide`, by the command, or with the bare token.
pub async fn notify(environment: Arc<Environment>, event: Value) -> Result<Value, Failure> {
    let wanted: AskedToAsk = serde_json::from_value(event.clone())
        .map_err(|error| Failure::refused_with(format!("the input is not understood: {error}")))?;
    let asked = Asked::of(event)?;
    let execution = asked.execution.clone().unwrap_or_default();
    let migration = environment.migration(asked.id()?, asked.by()).await?;
    of_this_execution(&migration, &execution).await?;
    let (version, stored) = open_gate(&migration).await?;
    // Delivered twice, it asks twice and opens once: an answer that was given stays.
    if stored.is_none_or(|open| open.token != wanted.token) {
        let open = OpenGate {
            gate: wanted.gate,
            token: wanted.token.clone(),
            execution: execution.clone(),
            asked_unix_ms: migration.clock.unix_ms(),
            decided: None,
        };
        let content = serde_json::to_vec(&open).expect("a gate is plain data");
        migration.ledger.put_document(GATE_DOCUMENT, version, content.into()).await?;
    }
    let mut facts = facts(&migration, wanted.gate).await?;
    if let Some(Failed { error, cause }) = &wanted.error {
        facts.push(format!("{error}: {cause}"));
    }
    let question = tell::Question {
        id: &migration.id,
        gate: wanted.gate,
        token: &wanted.token,
        execution: &execution,
        facts: &facts,
    };
    tell::new_entries(&environment, &migration, Some(&execution)).await;
    environment.bus.put(&tell::asked(&question)).await?;
    Ok(json!({ "migration_id": migration.id, "gate": wanted.gate }))
}

/// Where things stand, for whoever is to decide.
async fn facts(migration: &Migration<Real>, gate: Gate) -> Result<Vec<String>, Failure> {
    let journal = migration.journal().await?;
    let state = journal.tip().map_or("not begun", State::name);
    let mut facts = vec![format!("state={state}")];
    match gate {
        Gate::ApproveCutover | Gate::FreezeProducers => {
            let plan = krossing_cli::drive::load_planned(migration, &journal).await?;
            let mut lag = 0;
            for lane in plan.lanes() {
                lag += lane_report(migration, lane.id).await?.map_or(0, |(_, report)| report.lag_records_total);
            }
            facts.push(format!("lag_records_total={lag} groups={}", plan.plan.groups.len()));
        }
        Gate::AcknowledgeSwitch => {
            let (_, record) = migration.client_switch().await?;
            let concerned = record.groups.iter().filter(|(_, g)| g.switched.is_some() || !g.written.is_empty());
            let (switched, not): (Vec<_>, Vec<_>) = concerned.partition(|(_, group)| group.switched.is_some());
            facts.push(format!("groups switched={} not_switched={}", switched.len(), not.len()));
            if !not.is_empty() {
                let names: Vec<_> = not.iter().take(GROUPS_SHOWN).map(|(name, _)| name.as_str()).collect();
                facts.push(format!("not switched: {}", names.join(", ")));
            }
            facts.push(format!("target={}", migration.config.target.bootstrap_servers.join(",")));
        }
        Gate::AfterFailure => {}
    }
    Ok(facts)
}

/// What `decide` is asked for with.
#[derive(Debug, Deserialize)]
struct Decision {
    migration_id: String,
    decision: Answer,
    /// Who says so, in their own words.
    by: Option<String>,
    #[serde(default)]
    reason: String,
}

/// Answers the gate at which the migration waits, from a console's test event or a chat's action. The function cannot
/// know who invoked it (CloudTrail does): the journal keeps what they call themselves, as unattested.
pub async fn decide(environment: Arc<Environment>, event: Value) -> Result<Value, Failure> {
    let decision: Decision = serde_json::from_value(event).map_err(|error| {
        Failure::refused_with(format!(
            "the input is not understood: {error}: give {{\"migration_id\": …, \"decision\": …, \"by\": …, \"reason\": …}}"
        ))
    })?;
    let asked = Asked { migration_id: decision.migration_id, execution: None, decision: None };
    let who = decision.by.unwrap_or_else(|| "whoever invoked the decide function".to_owned());
    let by = Actor { who, known_by: KnownBy::Nobody };
    let migration = environment.migration(asked.id()?, by.clone()).await?;
    let gate = answer(&migration, &environment.workflow, decision.decision, by, decision.reason).await?;
    Ok(json!({ "migration_id": migration.id, "gate": gate, "decision": decision.decision }))
}

/// Answers the gate at which the migration waits: written down first, then the workflow is told. Answers which gate it
/// was.
pub async fn answer(
    migration: &Migration<Real>,
    workflow: &Workflow,
    answer: Answer,
    by: Actor,
    reason: String,
) -> Result<Gate, Failure> {
    let (version, stored) = open_gate(migration).await?;
    let open = may_answer(stored.as_ref(), answer).map_err(Failure::refused_with)?.clone();
    let decided = Decided { answer, by, reason, at_unix_ms: migration.clock.unix_ms() };
    let output = json!({ "decision": answer, "by": decided.by.to_string() });
    let content = serde_json::to_vec(&OpenGate { decided: Some(decided), ..open.clone() }).expect("plain data");
    match migration.ledger.put_document(GATE_DOCUMENT, version, content.into()).await {
        Err(StoreError::Conflict { .. }) => {
            return Err(Failure::refused_with(format!("{}: another has answered in this moment", open.gate)));
        }
        put => drop(put?),
    }
    match workflow.succeed(&open.token, &output).await {
        Ok(()) => Ok(open.gate),
        Err(error @ WorkflowError::TokenGone { .. }) => {
            Err(Failure::refused_with(format!("{} has passed: {}", open.gate, sentence(&error))))
        }
        Err(WorkflowError::Call(error)) => {
            // It was not told: the next answer must not find this one.
            let content = serde_json::to_vec(&open).expect("a gate is plain data");
            let (version, _) = open_gate(migration).await?;
            migration.ledger.put_document(GATE_DOCUMENT, version, content.into()).await?;
            Err(error.into())
        }
    }
}
