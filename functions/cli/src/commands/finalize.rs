//! `krossing finalize`: checks everything, sets the planned topic settings, writes the report.

use krossing_core::transition::Command;

use crate::{Outcome, arguments::Existing, session::Session, show};

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&existing, Command::Finalize).await?;
    show::line(&session.drive.finalize().await?.to_string());
    Ok(Outcome::Done)
}
