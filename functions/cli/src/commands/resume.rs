//! `krossing resume`: goes on from the journal's last entry, as far as no decision of the operator is needed.

use krossing_core::transition::{Command, Position, ResumePoint, State, resume_point};
use serde_json::json;

use crate::{Outcome, arguments::Existing, phases, session::Session, show};

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    // An interrupted cutover is taken back by this.
    let mut session = Session::resume(&existing, Command::Resume).await?;
    match resume_point(session.journal.states())? {
        ResumePoint::Run { .. } => {
            let mut planned = session.planned().await?;
            if let Some(mut workers) = phases::to_drain_ready(&mut session, &mut planned).await? {
                workers.stop().await?;
            }
            show::advice(&format!("next_command: {}", session.next_command(Command::Cutover)));
            Ok(Outcome::Done)
        }
        ResumePoint::Wait { state, next } => {
            // Finalize journals itself that it tries again.
            if matches!(session.journal.standing(), Position::FailedIn(failed) if failed != State::Validating) {
                session.enter(state, "resumed", json!({})).await?;
            }
            show::advice(&format!("{state}: {}", show::meaning(state)));
            show::advice(&format!("next_command: {}", session.next_command(next)));
            Ok(Outcome::Waiting)
        }
        ResumePoint::AbandonCutover => anyhow::bail!("the interrupted cutover was not taken back"),
        ResumePoint::Finished { state } => {
            show::line(&format!("{state}: {}", show::meaning(state)));
            Ok(Outcome::Done)
        }
    }
}
