//! After something failed: producers go on, the journal says so, whoever tails comes to rest, people are told.
//!
//! Called by the definition with what it caught; by a rule when an execution ends without an end of its own (stopped,
//! timed out, failed); and by a rule when a worker's task stops, whose token then must not keep an execution waiting.

use std::time::Instant;

use krossing_core::{
    ErrorClass,
    transition::{Command, Position, State},
};
use krossing_drive::{Drive, chain, hand_over};
use krossing_runtime::{aws::WorkflowError, connect::Real};
use krossing_worker::lane_failures;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Environment, Failure,
    gates::Failed,
    tell,
    turns::{Asked, TO_END_IN, migration, turn},
};

/// What the environment variable of a task's token is called.
pub(crate) const TOKEN_VARIABLE: &str = "KROSSING_TASK_TOKEN";

/// An event of AWS.
#[derive(Debug, Deserialize)]
struct AwsEvent {
    source: String,
    detail: Value,
}

/// Takes any of the three. The function is ended at `until`.
pub(crate) async fn recover(environment: Environment, event: Value, until: Instant) -> Result<Value, Failure> {
    match serde_json::from_value::<AwsEvent>(event.clone()) {
        Ok(AwsEvent { source, detail }) if source == "aws.states" => execution_ended(environment, &detail, until).await,
        Ok(AwsEvent { source, detail }) if source == "aws.ecs" => task_stopped(&environment, &detail).await,
        Ok(AwsEvent { source, .. }) => Err(Failure::refused_with(format!("events of {source} mean nothing here"))),
        Err(_) => {
            let failed = event.get("error").cloned().unwrap_or_else(|| json!({ "Error": "Krossing.Internal" }));
            let failed: Failed = serde_json::from_value(failed)
                .map_err(|error| Failure::refused_with(format!("error is not understood: {error}")))?;
            after(environment, Asked::of(event)?, failed).await
        }
    }
}

/// An execution has ended in a way that its definition does not see. What it was doing goes on: a cutover that has
/// producers stand still holds the lock until it is over.
async fn execution_ended(environment: Environment, detail: &Value, until: Instant) -> Result<Value, Failure> {
    let text = |name: &str| detail[name].as_str().unwrap_or_default();
    let input: Value = serde_json::from_str(text("input"))
        .map_err(|error| Failure::refused_with(format!("the execution's input is not understood: {error}")))?;
    let execution = text("executionArn").to_owned();
    let migration_id = input["migration_id"].as_str().unwrap_or_default().to_owned();
    let failed = Failed { error: format!("Execution.{}", text("status")), cause: text("cause").to_owned() };
    let asked =
        Asked { migration_id, execution: Some(execution), decision: None, lock_by: until.checked_sub(TO_END_IN) };
    match after(environment, asked, failed).await {
        // Another execution has taken over, and looks after producers itself.
        Err(failure) if failure.class == ErrorClass::Fenced => Ok(json!({ "nothing_to_do": failure.sentence })),
        ended => ended,
    }
}

/// A worker's task has stopped: if it did not say how it ended, nobody waits for that any longer.
async fn task_stopped(environment: &Environment, detail: &Value) -> Result<Value, Failure> {
    let containers = detail["overrides"]["containerOverrides"].as_array().into_iter().flatten();
    let variables = containers.filter_map(|container| container["environment"].as_array()).flatten();
    let token = variables.into_iter().find(|variable| variable["name"] == TOKEN_VARIABLE);
    let Some(token) = token.and_then(|variable| variable["value"].as_str()) else {
        return Ok(json!({ "nothing_to_do": "the task had no token" }));
    };
    let why = detail["stoppedReason"].as_str().unwrap_or("no reason is given");
    let cause = format!("the worker's task has stopped: {why}");
    match environment.workflow.fail(token, ErrorClass::Retryable.name(), &cause).await {
        Ok(()) => Ok(json!({ "told": cause })),
        Err(error @ WorkflowError::TokenGone { .. }) => Ok(json!({ "nothing_to_do": chain(&error) })),
        Err(WorkflowError::Call(error)) => Err(error.into()),
    }
}

/// Whether a state that failed is journaled as failed: those that do not journal it themselves.
fn is_left_open(state: State) -> bool {
    matches!(state, State::Planned | State::Precheck | State::TopologyCopy | State::Seed | State::Tail)
}

async fn after(environment: Environment, asked: Asked, failed: Failed) -> Result<Value, Failure> {
    let Failed { error, cause } = failed;
    let migration = migration(&environment, &asked).await?;
    let work = async |drive: &mut Drive<Real>| {
        if drive.journal.standing().cutover_is_open() {
            drive.abandon_cutover().await?;
        }
        // The cutover may have died right behind READY.
        drive.announce_switch().await?;
        if drive.journal.standing() != Position::Unborn {
            hand_over::tell(&drive.migration, &drive.owner).await?;
        }
        match drive.journal.standing() {
            Position::At(state) if is_left_open(state) => {
                let lanes = drive.planned().await?.lanes();
                let of_lanes = lane_failures(&drive.migration, &lanes).await?;
                let reason = format!("{error}: {}", [vec![cause], of_lanes].concat().join("; "));
                end_as_failed(drive, state, reason).await?;
            }
            Position::At(state) if !state.is_terminal() => {
                let event = tell::failed(&drive.migration.id, state.name(), &error, &cause, asked.execution.as_deref());
                environment.bus.put(&event).await?;
            }
            Position::Unborn | Position::At(_) | Position::FailedIn(_) | Position::FailedTooOften(_) => {}
        }
        Ok(json!({}))
    };
    // As whoever only looks: neither cluster is asked anything, for producers must not wait for brokers.
    turn(&environment, &asked, migration, |_| Command::Status, work).await
}

/// Journals that `state` failed, with evidence of the attempt; without it where none can be made.
async fn end_as_failed(drive: &mut Drive<Real>, state: State, reason: String) -> Result<(), Failure> {
    let migration = drive.migration.clone();
    let ended = krossing_evidence::end(&migration, &mut drive.journal, State::Failed, reason.clone(), json!({}), &[]);
    if let Err(unsigned) = Box::pin(ended).await {
        tracing::warn!(error = chain(&unsigned), "the attempt leaves no evidence");
        drive.reload().await?;
        if drive.journal.standing() == Position::At(state) {
            drive.enter(State::Failed, reason, json!({})).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_journals_its_own_failure_is_left_alone() {
        for state in State::ALL {
            let itself = [State::DrainReady, State::Cutover, State::AwaitingClientSwitch, State::Validating];
            assert_eq!(is_left_open(state), !itself.contains(&state) && !state.is_terminal() && state != State::Failed);
        }
    }
}
