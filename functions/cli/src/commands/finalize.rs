//! `krossing finalize`: checks everything, sets the planned topic settings, signs what was done.

use krossing_core::{evidence::alias_key, transition::Command};
use krossing_finalize::FinalizeError;
use serde_json::json;

use crate::{Outcome, arguments::Existing, session::Session, show};

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    let mut session = Session::resume(&existing, Command::Finalize).await?;
    let ended = session.drive.finalize().await;
    if let Err(error) = &ended
        && let Some(FinalizeError::NotValid { report, .. }) = error.downcast_ref()
    {
        show::event("validation", report, &report.to_string());
    }
    let report = ended?;
    show::event("finalized", &report, &report.to_string());
    let migration = &session.drive.migration;
    let evidence = migration.config.evidence.directory.join(alias_key(&migration.id));
    show::event("evidence", &json!({ "file": evidence }), &format!("evidence={}", evidence.display()));
    show::advice(&format!("check it with: krossing evidence verify {}", evidence.display()));
    Ok(Outcome::Done)
}
