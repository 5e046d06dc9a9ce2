//! `krossing rollback`: gives the migration up, says what is left, deletes nothing.

use krossing_core::transition::Command;

use crate::{Outcome, arguments::RollbackArguments, commands::finalize::show_evidence, session::Session, show};

pub(crate) async fn run(arguments: RollbackArguments) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&arguments.existing, Command::Rollback).await?;
    let report = session.drive.rollback(arguments.producers_released).await?;
    show::event("rolled_back", &report, &report.to_string());
    show_evidence(&session).await?;
    Ok(Outcome::Done)
}
