//! After something failed: producers go on, the journal says so, whoever tails comes to rest, people are told.
//!
//! Called by the definition with what it caught; by a rule when an execution ends without an end of its own (stopped,
//! timed out, failed); and by a rule when a worker's task stops, whose token then must not keep an execution waiting.

use std::time::Instant;

use krossing_core::{
    ErrorClass, LaneId,
    transition::{Command, Position, State},
};
use krossing_drive::{Drive, chain, hand_over};
use krossing_runtime::{aws::WorkflowError, connect::Real};
use krossing_worker::{lane_failures, note_lane_failure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Environment, Failure,
    gates::{Failed, fitting, unwrapped},
    tell,
    turns::{Asked, TO_END_IN, migration, of_this_execution, turn},
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
    let failed = Failed { error: format!("Execution.{}", text("status")), cause: unwrapped(text("cause").to_owned()) };
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
    let Some(token) = given(detail, TOKEN_VARIABLE) else {
        return Ok(json!({ "nothing_to_do": "the task had no token" }));
    };
    let Stopped { cause, left_no_word, error } = Stopped::of(detail);
    match environment.workflow.fail(token, error, &cause).await {
        Ok(()) => {
            if left_no_word {
                note_of_lane(environment, detail, &cause).await;
            }
            Ok(json!({ "told": cause }))
        }
        Err(error @ WorkflowError::TokenGone { .. }) => Ok(json!({ "nothing_to_do": chain(&error) })),
        Err(WorkflowError::Call(error)) => Err(error.into()),
    }
}

/// A variable that the state machine gave the task.
fn given<'a>(detail: &'a Value, name: &str) -> Option<&'a str> {
    let containers = detail["overrides"]["containerOverrides"].as_array()?.iter();
    let mut variables = containers.filter_map(|container| container["environment"].as_array()).flatten();
    variables.find(|variable| variable["name"] == name)?["value"].as_str()
}

/// Why a task stopped.
#[derive(Debug, PartialEq, Eq)]
struct Stopped {
    cause: String,
    /// It never began, or was killed: what it may have said of its lane is of a time before.
    left_no_word: bool,
    /// What the token is failed with.
    error: &'static str,
}

/// The error of a task that could not be started with what it was given: image, secrets, log. The definition tries it a
/// few times and not for an hour, as it names it nowhere.
const NOT_STARTED: &str = "Krossing.NotStarted";

impl Stopped {
    /// A container says more than its task where memory ran out; one that never ran has no exit code.
    fn of(detail: &Value) -> Self {
        let container = &detail["containers"][0];
        let task_says = detail["stoppedReason"].as_str().unwrap_or("no reason is given");
        let exit_code = container["exitCode"].as_i64();
        let more = exit_code.map(|code| format!("exit code {code}")).into_iter();
        let container_says = container["reason"].as_str().filter(|reason| !task_says.contains(reason));
        let more: Vec<_> = more.chain(container_says.map(str::to_owned)).collect();
        let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) };
        let not_started = ["CannotPull", "ResourceInitializationError"].iter().any(|why| task_says.starts_with(why));
        Self {
            cause: format!("the worker's task has stopped: {task_says}{more}"),
            left_no_word: exit_code.is_none_or(|code| code > SIGNALLED),
            error: if not_started { NOT_STARTED } else { ErrorClass::Retryable.name() },
        }
    }
}

/// Exit codes above this are of processes that a signal ended.
const SIGNALLED: i64 = 128;

/// Writes down why a lane's task stopped, for whoever is asked after a failure: a map keeps to itself why its lanes failed.
/// The next task of the lane, which takes half a minute to start, takes it away. That it cannot be written ends nothing.
async fn note_of_lane(environment: &Environment, detail: &Value, cause: &str) {
    let command = detail["overrides"]["containerOverrides"][0]["command"].as_array();
    let words: Vec<_> = command.into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(lane) = lane_of(&words) else { return };
    let asked = Asked {
        migration_id: given(detail, "KROSSING_MIGRATION_ID").unwrap_or_default().to_owned(),
        execution: given(detail, "KROSSING_EXECUTION").map(str::to_owned),
        decision: None,
        lock_by: None,
    };
    match migration(environment, &asked).await {
        Ok(migration) => note_lane_failure(&migration, lane, cause).await,
        Err(failure) => tracing::warn!(failure.sentence, %lane, cause, "why the lane stopped is not written down"),
    }
}

/// The lane that a command of a worker is about.
fn lane_of(command: &[&str]) -> Option<LaneId> {
    let at = command.iter().position(|word| *word == "--lane")?;
    command.get(at + 1)?.parse().ok().map(LaneId)
}

/// Whether a state that failed is journaled as failed: those that do not journal it themselves.
fn is_left_open(state: State) -> bool {
    matches!(state, State::Planned | State::Precheck | State::TopologyCopy | State::Seed | State::Tail)
}

async fn after(environment: Environment, asked: Asked, failed: Failed) -> Result<Value, Failure> {
    let Failed { error, cause } = failed;
    let migration = migration(&environment, &asked).await?;
    // Before another's lock is waited for: it may be of the execution that drives, and is then held for hours.
    if let Some(execution) = &asked.execution {
        of_this_execution(&migration, execution).await?;
    }
    let work = async |drive: &mut Drive<Real>| {
        if drive.journal.standing().cutover_is_open() {
            let abandoned = drive.abandon_cutover().await;
            tell::standstill(&drive.migration.id, &drive.journal);
            abandoned?;
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
                let reason = format!("{error}: {}", fitting(std::iter::once(cause).chain(of_lanes)).join("; "));
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

    fn check(detail: &Value, cause: &str, left_no_word: bool, error: &'static str) {
        let cause = format!("the worker's task has stopped: {cause}");
        assert_eq!(Stopped::of(detail), Stopped { cause, left_no_word, error });
    }

    #[test]
    fn why_a_task_stopped_is_said_as_exactly_as_ecs_knows() {
        let no_image = "CannotPullContainerError: pull image manifest has been retried 5 time(s)";
        let never_began = json!({ "stoppedReason": no_image, "containers": [{ "reason": no_image }] });
        check(&never_began, no_image, true, NOT_STARTED);
        let no_room = json!({ "stoppedReason": "Capacity is unavailable at this time. Please try again later" });
        check(&no_room, "Capacity is unavailable at this time. Please try again later", true, "Krossing.Retryable");
        let exited = "Essential container in task exited";
        let no_memory = json!({ "exitCode": 137, "reason": "OutOfMemoryError: container killed due to memory usage" });
        let no_memory = json!({ "stoppedReason": exited, "containers": [no_memory] });
        let said = format!("{exited} (exit code 137, OutOfMemoryError: container killed due to memory usage)");
        check(&no_memory, &said, true, "Krossing.Retryable");
        let failed = json!({ "stoppedReason": exited, "containers": [{ "exitCode": 1 }] });
        check(&failed, &format!("{exited} (exit code 1)"), false, "Krossing.Retryable");
        check(&json!({}), "no reason is given", true, "Krossing.Retryable");
    }

    #[test]
    fn what_a_worker_was_given_is_found_in_the_event_of_its_end() {
        let variables = json!([{ "name": TOKEN_VARIABLE, "value": "t-1" }]);
        let container = json!({ "name": "worker", "environment": variables });
        let detail = json!({ "overrides": { "containerOverrides": [container] } });
        assert_eq!(given(&detail, TOKEN_VARIABLE), Some("t-1"));
        assert_eq!((given(&detail, "KROSSING_EXECUTION"), given(&json!({}), TOKEN_VARIABLE)), (None, None));
        assert_eq!(lane_of(&["tail", "--lane", "7", "--asked", "2"]), Some(LaneId(7)));
        assert_eq!((lane_of(&["finalize"]), lane_of(&["seed", "--lane"])), (None, None));
    }

    #[test]
    fn what_journals_its_own_failure_is_left_alone() {
        for state in State::ALL {
            let itself = [State::DrainReady, State::Cutover, State::AwaitingClientSwitch, State::Validating];
            assert_eq!(is_left_open(state), !itself.contains(&state) && !state.is_terminal() && state != State::Failed);
        }
    }
}
