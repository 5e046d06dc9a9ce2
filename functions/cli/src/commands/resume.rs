//! `krossing resume`: goes on from the journal's last entry, as far as no decision of the operator is needed.

use krossing_core::transition::{Command, ResumePoint};
use serde_json::json;

use crate::{
    Outcome,
    arguments::Existing,
    session::{RESUME_GOES_ON, Session, unless_interrupted},
    show,
};

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    // An interrupted cutover is taken back by this.
    let mut session = Session::resume(&existing, Command::Resume).await?;
    match unless_interrupted(RESUME_GOES_ON, session.drive.resume()).await? {
        ResumePoint::Run { .. } => {
            show::next_command(&session.next_command(Command::Cutover));
            Ok(Outcome::Done)
        }
        ResumePoint::Wait { state, next } => {
            show::advice(&format!("{state}: {}", show::meaning(state)));
            show::next_command(&session.next_command(next));
            Ok(Outcome::Waiting)
        }
        ResumePoint::AbandonCutover => anyhow::bail!("the interrupted cutover was not taken back"),
        ResumePoint::Finished { state } => {
            show::event("finished", &json!({ "state": state }), &format!("{state}: {}", show::meaning(state)));
            Ok(Outcome::Done)
        }
    }
}
