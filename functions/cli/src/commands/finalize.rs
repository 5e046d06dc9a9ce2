//! `krossing finalize`: checks everything, sets the planned topic settings, signs what was done.

use krossing_core::{evidence::alias_key, ports::Signer as _, transition::Command};
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
    show_evidence(&session).await?;
    Ok(Outcome::Done)
}

/// Where the signed document is, and how it is checked.
pub(crate) async fn show_evidence(session: &Session) -> anyhow::Result<()> {
    let migration = &session.drive.migration;
    let folder = &migration.config.evidence.directory;
    let file = folder.join(alias_key(&migration.id));
    let key_id = migration.signer.key_id().await?;
    let text = format!("evidence={}\nsigned_with_key_id={key_id}", file.display());
    show::event("evidence", &json!({ "file": file, "key_id": key_id }), &text);
    show::advice(&format!(
        "check it with: krossing evidence verify {} --key-id {key_id} --objects {}",
        file.display(),
        folder.display()
    ));
    Ok(())
}
