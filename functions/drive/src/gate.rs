//! Gates: where a workflow waits for an operator, as the ledger has them, and how they are answered.

use std::time::Duration;

use krossing_core::{
    decision::{Answered, Decided, GATE_DOCUMENT, Gate, OpenGate, may_answer},
    journal::{EntryKind, Journal},
    ports::{Clock, Ledger, Ports, StoreError, Version},
    transition::State,
};
use krossing_runtime::{
    ForStep, Migration, MigrationError, MigrationResult,
    aws::{Workflow, WorkflowError},
};

use crate::chain;

/// How often a gate's document is written again because another has written it in between.
const WRITES_MAX: usize = 3;

/// How often the workflow is told an answer before whoever gave it is told that it did not hear.
const TELLS_MAX: u32 = 4;

/// How long until it is told again, times the tries so far.
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The gate that is open, or was last; none before the first.
pub async fn last_gate<P: Ports>(migration: &Migration<P>) -> MigrationResult<(Option<Version>, Option<OpenGate>)> {
    let attempt = "read what is asked of the operator";
    let Some((version, content)) = migration.ledger.document(GATE_DOCUMENT).await.during(attempt)? else {
        return Ok((None, None));
    };
    let gate = serde_json::from_slice(&content)
        .map_err(|error| StoreError::Damaged { attempt: GATE_DOCUMENT.to_owned(), detail: error.to_string() });
    Ok((Some(version), Some(gate.during(attempt)?)))
}

async fn write<P: Ports>(
    migration: &Migration<P>,
    version: Option<Version>,
    gate: &OpenGate,
) -> MigrationResult<Version> {
    let content = serde_json::to_vec(gate).expect("a gate is plain data");
    let written = migration.ledger.put_document(GATE_DOCUMENT, version, content.into()).await;
    written.during("write down what is asked of the operator")
}

/// Opens a gate, with where things stand. Delivered twice, it opens once: an answer that was given stays.
pub async fn open<P: Ports>(
    migration: &Migration<P>,
    gate: Gate,
    token: &str,
    execution: &str,
    facts: &[String],
) -> MigrationResult<()> {
    let mut tries = 0;
    loop {
        let (version, stored) = last_gate(migration).await?;
        if stored.as_ref().is_some_and(|open| open.token == token) {
            return Ok(());
        }
        let open = OpenGate {
            gate,
            token: token.to_owned(),
            execution: execution.to_owned(),
            asked_unix_ms: migration.clock.unix_ms(),
            facts: facts.to_vec(),
            decided: None,
            before: stored.map(|open| open.answers()).unwrap_or_default(),
        };
        match write(migration, version, &open).await {
            // Answered in this moment, or this very question, delivered twice.
            Err(MigrationError::Store { source: StoreError::Conflict { .. }, .. }) if tries < WRITES_MAX => tries += 1,
            written => return written.map(drop),
        }
    }
}

/// Journals answers that are not yet, each by whom it was given. The caller holds the lock.
pub async fn journal_answers<P: Ports>(migration: &Migration<P>, journal: &mut Journal) -> MigrationResult<()> {
    if journal.tip().is_none_or(State::is_terminal) {
        return Ok(());
    }
    let Some(gate) = last_gate(migration).await?.1 else { return Ok(()) };
    for answered in gate.to_be_journaled(journal) {
        journal_answer(migration, journal, &answered).await?;
    }
    Ok(())
}

/// Journals an answer by whom it was given.
pub async fn journal_answer<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    answered: &Answered,
) -> MigrationResult<()> {
    let Answered { gate, decided } = answered;
    let why = if decided.reason.is_empty() { String::new() } else { format!(": {}", decided.reason) };
    let reason = format!("{gate}: {}{why}", decided.answer);
    migration.note_by(decided.by.clone(), journal, EntryKind::GateAnswered, reason, answered).await
}

/// Answers the gate at which the migration waits: written down first, then the workflow is told. Answers which gate it
/// was. What the workflow surely did not take is forgotten again, so that no evidence shows it as a decision, unless the
/// journal has got it in the moment between.
pub async fn answer<P: Ports>(
    migration: &Migration<P>,
    workflow: &Workflow,
    decided: Decided,
) -> MigrationResult<Gate> {
    let answer = decided.answer;
    let refused = |sentence| MigrationError::Refused { sentence };
    let (version, stored) = last_gate(migration).await?;
    let said = stored.as_ref().and_then(|open| open.decided.as_ref()).filter(|decided| decided.answer == answer);
    // Whoever gave it before may have died before the workflow was told, or behind that.
    let mut may_have_been_told = said.is_some();
    let answered = match (&stored, said) {
        (Some(open), Some(said)) => {
            OpenGate { decided: Some(Decided { told_again: true, ..said.clone() }), ..open.clone() }
        }
        _ => {
            let open = may_answer(stored.as_ref(), answer).map_err(refused)?;
            OpenGate { decided: Some(decided.clone()), ..open.clone() }
        }
    };
    let open = match write(migration, version, &answered).await {
        Err(MigrationError::Store { source: StoreError::Conflict { .. }, .. }) => {
            return Err(refused(format!(
                "{}: it has changed in this moment: see the status, and answer what is asked",
                answered.gate
            )));
        }
        written => written.map(|_| answered)?,
    };
    let by = open.decided.as_ref().map(|decided| decided.by.to_string());
    let output = serde_json::json!({ "decision": answer, "by": by });
    let mut tries = 1;
    loop {
        match workflow.succeed_once(&open.token, &output).await {
            Ok(()) => return Ok(open.gate),
            Err(WorkflowError::Call(error @ StoreError::Unavailable { .. })) => {
                if tries == TELLS_MAX {
                    // The same answer, given again, is told again.
                    return Err(error).during("answer the workflow");
                }
                may_have_been_told = true;
                migration.clock.sleep(TELL_AGAIN_AFTER * tries).await;
                tries += 1;
            }
            Err(error) => {
                if !may_have_been_told {
                    forget(migration, &decided).await?;
                }
                return match error {
                    WorkflowError::TokenGone { .. } if may_have_been_told => Err(refused(format!(
                        "{} has passed, and this answer may be the one that was taken: see the status",
                        open.gate
                    ))),
                    WorkflowError::TokenGone { .. } => {
                        Err(refused(format!("{} has passed: {}", open.gate, chain(&error))))
                    }
                    WorkflowError::Call(error) => Err(error).during("answer the workflow"),
                };
            }
        }
    }
}

/// Takes an answer back that was written down, wherever the gates since have carried it.
async fn forget<P: Ports>(migration: &Migration<P>, refused: &Decided) -> MigrationResult<()> {
    let mut tries = 0;
    loop {
        let (version, Some(mut gate)) = last_gate(migration).await? else { return Ok(()) };
        if !gate.forget(refused) {
            return Ok(());
        }
        match write(migration, version, &gate).await {
            Err(MigrationError::Store { source: StoreError::Conflict { .. }, .. }) if tries < WRITES_MAX => tries += 1,
            written => return written.map(drop),
        }
    }
}
