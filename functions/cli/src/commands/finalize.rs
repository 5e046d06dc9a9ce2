//! `krossing finalize`: checks everything, sets the planned topic settings, signs what was done.

use krossing_core::{evidence::alias_key, transition::Command};
use krossing_finalize::FinalizeError;

use crate::{Outcome, arguments::Existing, session::Session, show};

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&existing, Command::Finalize).await?;
    let ended = session.drive.finalize().await;
    if let Err(error) = &ended
        && let Some(FinalizeError::NotValid { report, .. }) = error.downcast_ref()
    {
        show::line(report.to_string().trim_end());
    }
    show::line(ended?.to_string().trim_end());
    let migration = &session.drive.migration;
    let evidence = migration.config.evidence.directory.join(alias_key(&migration.id));
    show::line(&format!("evidence={}", evidence.display()));
    show::advice(&format!("check it with: krossing evidence verify {}", evidence.display()));
    Ok(Outcome::Done)
}
