//! The turns of a migration that Lambdas take, each from where the journal stands.

use std::{
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use krossing_core::{
    ErrorClass, LaneId, MigrationId,
    config::FreezeConfig,
    decision::{Answer, Decided, Gate, decided_by},
    journal::{Actor, EntryKind, Journal, KnownBy},
    ports::{Clock, Version},
    transition::{Command, Position, State},
};
use krossing_drive::{
    Drive, FreezeTime, SILENT, chain, execution,
    gate::{journal_answers, last_gate},
    hand_over,
};
use krossing_runtime::{
    FreezeBy, GateFreeze, Migration, RunningExecution, SystemClock,
    connect::{LedgerPlace, Real, owner},
    lock::CommandLock,
};
use krossing_worker::told_to_stop;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{Environment, Failure, tell};

/// The longest that producers may stand still where the cutover is a Lambda: it ends after 15 minutes, whatever it does.
const FREEZE_MAX: Duration = Duration::from_secs(600);

/// What is left of a Lambda's time for its end, so that it is never cut off while producers stand still.
pub(crate) const TO_END_IN: Duration = Duration::from_secs(60);

/// How often what the journal has got in a turn is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// What a turn is asked for with.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Asked {
    pub(crate) migration_id: String,
    /// The execution that asks; none where a person invokes the function by hand.
    pub(crate) execution: Option<String>,
    /// What the gate before was answered with.
    pub(crate) decision: Option<Value>,
    /// Until when another who holds the lock is waited for; none: that ends the turn.
    #[serde(skip)]
    pub(crate) lock_by: Option<Instant>,
}

impl Asked {
    pub(crate) fn of(event: Value) -> Result<Self, Failure> {
        serde_json::from_value(event).map_err(|error| {
            Failure::refused_with(format!("the input is not understood: {error}: give {{\"migration_id\": …}}"))
        })
    }

    pub(crate) fn id(&self) -> Result<MigrationId, Failure> {
        MigrationId::from_str(&self.migration_id)
            .map_err(|error| Failure::refused_with(format!("migration_id: {error}")))
    }

    /// On whose behalf the journal is written where no operator decided.
    pub(crate) fn by(&self) -> Actor {
        let who = self.execution.clone().unwrap_or_else(|| "whoever invoked the function".to_owned());
        let known_by = if self.execution.is_some() { KnownBy::AwsIdentity } else { KnownBy::Nobody };
        Actor { who, known_by }
    }
}

/// Takes one turn: locks, looks who drives, opens, works, tells.
pub(crate) async fn turn(
    environment: &Environment,
    asked: &Asked,
    migration: Migration<Real>,
    command: impl FnOnce(Position) -> Command,
    work: impl AsyncFnOnce(&mut Drive<Real>) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    let migration = Arc::new(migration);
    let owner = owner();
    let place = environment.place(&migration.id)?;
    let _lock = lock(&place, &migration, &owner, asked.lock_by).await?;
    // Under the lock: a late turn of an execution that has ended must not meet its successor's.
    if let Some(execution) = &asked.execution {
        of_this_execution(&migration, execution).await?;
    }
    let standing = migration.journal().await?.standing();
    let mut drive = Drive::open(migration.clone(), owner, SILENT, command(standing)).await?;
    let taken = async {
        journal_answers(&drive.migration, &mut drive.journal).await?;
        work(&mut drive).await
    };
    let (over, mut is_over) = watch::channel(false);
    let work = async {
        let done = Box::pin(taken).await;
        over.send_replace(true);
        done
    };
    // A turn may take minutes, and whoever watches wants to know that producers are about to stand still.
    let told = migration.clone();
    let telling = async {
        loop {
            tokio::select! {
                () = told_to_stop(&mut is_over) => return,
                () = SystemClock.sleep(TELL_EVERY) => {}
            }
            tell::new_entries(environment, &told, asked.execution.as_deref()).await;
        }
    };
    let mut telling = std::pin::pin!(telling);
    let done = tokio::select! {
        done = work => done,
        () = &mut telling => unreachable!("it ends behind the work"),
    };
    telling.await;
    // What was journaled is told even where the turn has failed.
    tell::new_entries(environment, &told, asked.execution.as_deref()).await;
    let mut answer = done?;
    answer["migration_id"] = json!(drive.migration.id);
    answer["state"] = json!(drive.journal.standing().working_state().map_or("unborn", State::name));
    Ok(answer)
}

async fn lock(
    place: &LedgerPlace,
    migration: &Migration<Real>,
    owner: &str,
    by: Option<Instant>,
) -> Result<CommandLock, Failure> {
    let mut said = false;
    while by.is_some_and(|by| SystemClock.now() < by) {
        if let Some(lock) = CommandLock::take_when_free(place, migration, owner, log).await? {
            return Ok(lock);
        }
        if !said {
            log("another is at work: waiting for its end");
            said = true;
        }
    }
    Ok(CommandLock::take(place, migration, owner, log).await?)
}

pub(crate) fn log(said: &str) {
    tracing::info!(said, "lock");
}

/// Begins a migration with `Execute`, goes on with one with `Resume`.
fn begin_or_resume(standing: Position) -> Command {
    if standing == Position::Unborn { Command::Execute } else { Command::Resume }
}

/// Refuses whoever is not of the execution that has claimed the migration.
pub(crate) async fn of_this_execution(migration: &Migration<Real>, execution: &str) -> Result<(), Failure> {
    match execution::driving(migration).await? {
        (_, Some(driving)) if driving != execution => {
            Err(Failure::fenced(format!("the execution {driving} drives {}, and this is {execution}", migration.id)))
        }
        _ => Ok(()),
    }
}

/// How long Step Functions may take to know of an execution that it has begun or ended: what it says of one is consistent
/// in the end only (https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html).
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// How often it is asked again.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(1);

/// Whether an execution runs, as soon as that is `expected`; what it is otherwise after [`KNOWN_WITHIN`].
async fn runs(environment: &Environment, execution: &str, expected: bool) -> Result<bool, Failure> {
    let by = SystemClock.now() + KNOWN_WITHIN;
    loop {
        let runs = environment.workflow.execution(execution).await?.is_some_and(|known| known.is_running());
        if runs == expected || SystemClock.now() >= by {
            return Ok(runs);
        }
        SystemClock.sleep(ASK_AGAIN_EVERY).await;
    }
}

/// Claims the migration for this execution, unless another one runs.
async fn claim(environment: &Environment, migration: &Migration<Real>, execution: &str) -> Result<(), Failure> {
    let (version, claimed) = execution::driving(migration).await?;
    match claimed {
        Some(driving) if driving == execution => return Ok(()),
        Some(driving) if runs(environment, &driving, false).await? => {
            return Err(Failure::fenced(format!(
                "the execution {driving} drives {}: decide there, or stop it first",
                migration.id
            )));
        }
        Some(_) | None => {}
    }
    if !runs(environment, execution, true).await? {
        return Err(Failure::fenced(format!("{execution} is no execution that runs: it drives nothing")));
    }
    Ok(execution::claim(migration, version, execution).await?)
}

/// The migration that is asked for, in the name of the execution that asks.
pub(crate) async fn migration(environment: &Environment, asked: &Asked) -> Result<Migration<Real>, Failure> {
    environment.migration(asked.id()?, asked.by()).await
}

/// Where the migration stands, claimed for this execution.
pub(crate) async fn plan(environment: Environment, event: Value) -> Result<Value, Failure> {
    let asked = Asked::of(event)?;
    let cutover = &environment.config.cutover;
    if cutover.max_producer_freeze > FREEZE_MAX {
        return Err(Failure::refused_with(format!(
            "cutover.max_producer_freeze: at most {} s where Lambdas run the cutover",
            FREEZE_MAX.as_secs()
        )));
    }
    let freeze = if cutover.freeze == FreezeConfig::Confirmation { "confirmation" } else { "webhook" };
    let migration = migration(&environment, &asked).await?;
    if let Some(execution) = &asked.execution {
        claim(&environment, &migration, execution).await?;
    }
    let command = |standing| if standing == Position::Unborn { Command::Status } else { Command::Resume };
    let work = async |drive: &mut Drive<Real>| {
        // Where an operator is to decide nothing else takes up what failed; `finalize` journals itself that it tries
        // again.
        if matches!(drive.journal.standing(), Position::FailedIn(State::DrainReady | State::AwaitingClientSwitch)) {
            drive.resume_what_failed().await?;
        }
        drive.announce_switch().await?;
        Ok(json!({ "freeze": freeze }))
    };
    turn(&environment, &asked, migration, command, work).await
}

/// Up to `topology_copy`, where nothing stands in the way.
pub(crate) async fn precheck(environment: Environment, event: Value) -> Result<Value, Failure> {
    let asked = Asked::of(event)?;
    let migration = migration(&environment, &asked).await?;
    let work = async |drive: &mut Drive<Real>| {
        drive.to_topology_copy().await?;
        Ok(json!({}))
    };
    turn(&environment, &asked, migration, begin_or_resume, work).await
}

/// Makes what is missing on the target, and lays out the lanes.
pub(crate) async fn topology(environment: Environment, event: Value) -> Result<Value, Failure> {
    let asked = Asked::of(event)?;
    let migration = migration(&environment, &asked).await?;
    let work = async |drive: &mut Drive<Real>| {
        // Before lanes begin: who asks for them later has a higher question.
        let question = hand_over::question(&drive.migration).await?;
        let planned = drive.topology().await?;
        let lanes = planned.lanes().into_iter().map(|lane| lane.id);
        Ok(lanes_for_workers(lanes, question.unwrap_or(0)))
    };
    turn(&environment, &asked, migration, begin_or_resume, work).await
}

/// What the workflow hands to workers, one item a lane.
fn lanes_for_workers(lanes: impl Iterator<Item = LaneId>, asked: Version) -> Value {
    let lanes: Vec<_> = lanes.map(|lane| json!({ "lane": lane })).collect();
    json!({ "lanes": lanes, "asked": asked })
}

/// From `drain_ready` to `awaiting_client_switch`, or back with the reason. The function is ended at `until`.
pub(crate) async fn cutover(environment: Environment, event: Value, until: Instant) -> Result<Value, Failure> {
    let began = SystemClock.now();
    let asked = Asked::of(event)?;
    let mut migration = migration(&environment, &asked).await?;
    let gate = last_gate(&migration).await?.1;
    let asked_to_freeze = gate.as_ref().is_some_and(|open| open.gate == Gate::FreezeProducers);
    let Decided { by, .. } = match asked_to_freeze {
        true => decided_by(gate.as_ref(), Gate::FreezeProducers, Answer::Frozen),
        false => decided_by(gate.as_ref(), Gate::ApproveCutover, Answer::Cutover),
    };
    // A gate that is only open says nothing: there is an answer, or the definition has brought one.
    let answered = asked.execution.is_some() || gate.is_some_and(|open| open.decided.is_some());
    if let (FreezeBy::Gate(_), true) = (&migration.ports.freeze.by, asked_to_freeze && answered) {
        migration.ports.freeze = FreezeBy::Gate(GateFreeze { frozen_by: Some(by.to_string()) }).into();
    }
    migration.by = by;
    let freeze_by = until.checked_sub(migration.config.cutover.max_producer_freeze + TO_END_IN);
    let freeze = match &migration.ports.freeze.by {
        // Producers stand still since the gate was answered. When that was, the clock of whoever answered says; when this
        // began, moments later, ours.
        FreezeBy::Gate(GateFreeze { frozen_by: Some(_) }) => FreezeTime::Since(began),
        _ => FreezeTime::OncePreparedBy(freeze_by.unwrap_or(began)),
    };
    // A function does not end with the execution that has invoked it.
    let workflow = &environment.workflow;
    let running = |execution| RunningExecution { workflow: workflow.clone(), execution };
    migration.ports.freeze.during = asked.execution.clone().map(running);
    let work = async |drive: &mut Drive<Real>| {
        let planned = drive.before_cutover().await?;
        krossing_worker::journal_gaps(&drive.migration, &mut drive.journal, &planned.lanes()).await?;
        let ended = drive.cutover(&planned, freeze).await;
        if ended.is_err() {
            tell::standstill(&drive.migration.id, &drive.journal);
        }
        let report = ended?;
        tell::metrics(&drive.migration.id, None, &[("frozen_ms", report.timings.frozen_ms as f64, "Milliseconds")]);
        Ok(json!({ "frozen_ms": report.timings.frozen_ms, "positions": report.groups.len() }))
    };
    turn(&environment, &asked, migration, |_| Command::Cutover, work).await
}

/// From `awaiting_client_switch` to `validating`.
pub(crate) async fn acknowledge(environment: Environment, event: Value) -> Result<Value, Failure> {
    let asked = Asked::of(event)?;
    let mut migration = migration(&environment, &asked).await?;
    migration.by = decided_by(last_gate(&migration).await?.1.as_ref(), Gate::AcknowledgeSwitch, Answer::Switched).by;
    // Delivered twice, it is done already.
    let done = |standing| standing == Position::At(State::Validating);
    let command = |standing| if done(standing) { Command::Status } else { Command::CutoverAck };
    let work = async |drive: &mut Drive<Real>| {
        if done(drive.journal.standing()) {
            return Ok(json!({}));
        }
        let report = drive.acknowledge().await?;
        Ok(json!({ "switched": report.switched.len(), "not_switched": report.not_switched.len() }))
    };
    turn(&environment, &asked, migration, command, work).await
}

/// Gives the migration up.
pub(crate) async fn rollback(environment: Environment, event: Value) -> Result<Value, Failure> {
    let asked = Asked::of(event)?;
    let mut migration = migration(&environment, &asked).await?;
    let mut producers_released = false;
    if asked.decision.is_some() {
        let stored = last_gate(&migration).await?.1;
        let gate = stored.as_ref().map_or(Gate::ApproveCutover, |open| open.gate);
        let decided = decided_by(stored.as_ref(), gate, Answer::Rollback);
        (migration.by, producers_released) = (decided.by, decided.producers_released);
    }
    let work = async |drive: &mut Drive<Real>| match drive.rollback(producers_released).await {
        Ok(_) => Ok(json!({})),
        Err(error) => Err(not_given_up(drive, error.into()).await),
    };
    turn(&environment, &asked, migration, |_| Command::Rollback, work).await
}

/// A rollback that did not come to its end. Where it was refused at READY the definition asks again there: the journal
/// says what became of the answer that it has.
async fn not_given_up(drive: &mut Drive<Real>, failure: Failure) -> Failure {
    if failure.class != ErrorClass::Refused {
        return failure;
    }
    if has_begun_to_give_up(&drive.journal) {
        return Failure::retryable(failure.sentence);
    }
    if drive.journal.tip() == Some(State::AwaitingClientSwitch) {
        let reason = format!("the rollback was refused: {}", failure.sentence);
        let migration = drive.migration.clone();
        if let Err(error) = migration.note(&mut drive.journal, EntryKind::Notice, reason, json!({})).await {
            tracing::warn!(error = chain(&error), "the journal does not say that a rollback was refused");
        }
    }
    failure
}

/// Behind this nothing else goes on, so that a gate with another answer is no place to go back to: producers may stand
/// still until the next try lets them go on, or the evidence lacks what it adds.
fn has_begun_to_give_up(journal: &Journal) -> bool {
    journal.is_being_given_up() || journal.tip() == Some(State::RolledBack)
}

#[cfg(test)]
mod tests {
    use krossing_core::{
        TopicPartition,
        journal::Stamp,
        lanes::{Candidate, split},
    };

    use super::*;

    /// https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
    const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

    #[test]
    fn a_rollback_that_has_asked_for_the_release_is_tried_again_and_one_that_has_not_is_refused() {
        let stamp = || Stamp { at_unix_ms: 0, by: Actor { who: "alice".to_owned(), known_by: KnownBy::Nobody } };
        let mut journal = Journal::default();
        let begun = journal.begin("f1".to_owned(), stamp(), "", json!({})).expect("nothing was there").0;
        journal.push(begun).expect("the first");
        let way = State::ALL.into_iter().skip(1).take_while(|state| *state <= State::AwaitingClientSwitch);
        for state in way {
            let entered = journal.transition(state, stamp(), "", json!({})).expect("the table allows it").0;
            journal.push(entered).expect("the next");
        }
        assert!(!has_begun_to_give_up(&journal));
        let asked = journal.note(EntryKind::UnfreezeAsked, stamp(), "", json!({})).expect("a note").0;
        journal.push(asked).expect("the next");
        assert!(has_begun_to_give_up(&journal));
        let ended = journal.transition(State::RolledBack, stamp(), "", json!({})).expect("the table allows it").0;
        journal.push(ended).expect("the next");
        assert!(has_begun_to_give_up(&journal));
    }

    #[test]
    fn ten_thousand_partitions_in_as_many_lanes_as_can_be_fit_a_payload() {
        let candidate = |number| Candidate {
            partition: TopicPartition::new("orders", number),
            bytes: 0,
            leader: None,
            compacted: false,
        };
        let lanes = split((0..10_000).map(candidate).collect(), 1_000, LaneId(0));
        assert_eq!(lanes.len(), 1_000);
        let payload = lanes_for_workers(lanes.iter().map(|lane| lane.id), u64::MAX).to_string();
        assert!(payload.contains(r#"{"lane":999}"#));
        assert!(payload.len() < PAYLOAD_BYTES_MAX / 8, "{} bytes", payload.len());
    }
}
