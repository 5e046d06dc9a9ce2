//! `krossing rollback`: gives the migration up, says what is left, deletes nothing.

use krossing_core::{
    decision::{Answer, Gate},
    transition::{Command, Position, State},
};

use crate::{
    Outcome,
    arguments::{DecisionArguments, RollbackArguments},
    commands::finalize::show_evidence,
    session::Session,
    show,
};

pub(crate) async fn run(arguments: RollbackArguments) -> anyhow::Result<Outcome> {
    let RollbackArguments { decision: DecisionArguments { existing, reason }, producers_released } = arguments;
    let mut session = Session::resume(&existing, Command::Rollback).await?;
    let gate = match session.drive.journal.standing() {
        Position::FailedIn(_) | Position::FailedTooOften(_) => Gate::AfterFailure,
        Position::At(State::AwaitingClientSwitch) => Gate::AcknowledgeSwitch,
        Position::At(_) | Position::Unborn => Gate::ApproveCutover,
    };
    session.journal_why(gate, Answer::Rollback, reason).await?;
    let report = session.drive.rollback(producers_released).await?;
    show::event("rolled_back", &report, &report.to_string());
    show_evidence(&session).await?;
    Ok(Outcome::Done)
}
