//! `krossing execute`: begins a migration, or goes on with one, until the target has kept up.
//!
//! A new migration is planned and checked before anything of it exists: one that is refused leaves no journal. At
//! `drain_ready` it catches up once more. With `--keep-tailing` the process then goes on copying until a cutover asks
//! for the lanes, goes on again where that cutover was taken back, and after READY keeps groups in step; other commands
//! may drive the migration meanwhile.

use krossing_core::transition::{Command, Position, State};
use krossing_drive::{Planned, hand_over};
use krossing_runtime::connect::{Real, new_migration_id, remove_if_unused};
use krossing_worker::Workers;
use serde_json::json;

use crate::{
    Outcome,
    arguments::ExecuteArguments,
    commands::client_switch,
    session::{RESUME_GOES_ON, Session, interrupted, unless_interrupted, warn_of_others},
    show,
};

pub(crate) async fn run(arguments: ExecuteArguments) -> anyhow::Result<Outcome> {
    let id = arguments.migration_id.unwrap_or_else(new_migration_id);
    show::event("migration", &json!({ "migration_id": id }), &format!("migration_id: {id}"));
    let mut session = Session::begin(&arguments.common, id, arguments.force_restart).await?;
    let mut planned = match session.drive.journal.standing() {
        Position::Unborn => match session.begin_new().await {
            Ok(planned) => planned,
            Err(error) => {
                remove_if_unused(&session.place);
                warn_of_others(&session.place, "this would be a new migration");
                return Err(error);
            }
        },
        Position::At(_) | Position::FailedIn(_) | Position::FailedTooOften(_) => session.drive.planned().await?,
    };
    let mut workers = caught_up(&mut session, &mut planned).await?;
    if !arguments.keep_tailing {
        workers.stop().await?;
        show::advice("nothing is tailing from now on; the cutover first copies what has arrived until then");
        show::next_command(&session.next_command(Command::Cutover));
        return Ok(Outcome::Done);
    }
    keep_tailing(session, workers).await
}

/// Lanes that have caught up and go on.
async fn caught_up(session: &mut Session, planned: &mut Planned) -> anyhow::Result<Workers<Real>> {
    unless_interrupted(RESUME_GOES_ON, session.drive.caught_up(planned)).await
}

async fn keep_tailing(mut session: Session, mut workers: Workers<Real>) -> anyhow::Result<Outcome> {
    let migration = session.drive.migration.clone();
    loop {
        let question = hand_over::question(&migration).await?;
        session.unlock();
        show::advice("tailing until a cutover");
        show::next_command(&session.next_command(Command::Cutover));
        let stop = tokio::select! {
            failed = workers.failure() => Stop::Failed(failed),
            asked = hand_over::asked(&migration, question) => { asked?; Stop::Asked }
            signal = interrupted() => Stop::Interrupted(signal),
        };
        workers.stop().await?;
        match stop {
            Stop::Failed(error) => {
                let error = anyhow::Error::from(error);
                // Another command may have driven the migration on, and knows what it needs.
                if session.when_free().await? == State::DrainReady {
                    session.drive.fail(&error).await;
                }
                return Err(error);
            }
            Stop::Interrupted(signal) => {
                show::advice(&format!("{signal}: nothing is tailing from now on"));
                return Ok(Outcome::Done);
            }
            Stop::Asked => {}
        }
        // Whoever asked drives the migration until its lock is free.
        let state = tokio::select! {
            state = session.when_free() => state?,
            _ = interrupted() => return Ok(Outcome::Done),
        };
        match state {
            State::AwaitingClientSwitch => {
                session.unlock();
                client_switch::follow(&session).await?;
                return Ok(Outcome::Done);
            }
            State::DrainReady => {
                let mut planned = session.drive.planned().await?;
                workers = caught_up(&mut session, &mut planned).await?;
            }
            State::Cutover => {
                anyhow::bail!("the cutover was killed; go on with {}", session.next_command(Command::Resume));
            }
            State::Planned
            | State::Precheck
            | State::TopologyCopy
            | State::Seed
            | State::Tail
            | State::Validating
            | State::Finalized
            | State::RolledBack
            | State::Failed => {
                show::advice(&format!("{state}: {}; nothing is left to tail", show::meaning(state)));
                return Ok(Outcome::Done);
            }
        }
    }
}

/// Why this process lets go of its lanes.
enum Stop {
    Failed(krossing_worker::WorkerError),
    Asked,
    Interrupted(&'static str),
}
