//! `krossing finalize`: checks everything, sets the planned topic settings, signs what was done.

use krossing_core::{
    MigrationId, config::Place, evidence::alias_key, ports::Signer as _, segment::segments_prefix, transition::Command,
};
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
    let place = &migration.config.evidence.place;
    let file = place.of(&alias_key(&migration.id));
    let key_id = migration.signer.key_id().await?;
    let text = format!("evidence={file}\nsigned_with_key_id={key_id}");
    show::event("evidence", &json!({ "file": file, "key_id": key_id }), &text);
    for (what, command) in check_it(place, &migration.id, &key_id) {
        show::advice(&format!("{what} with: {command}"));
    }
    show::advice(&what_to_keep(&migration.id, &migration.config.backup.place, place, &session.place.to_string()));
    Ok(())
}

/// What a migration that has ended leaves that nothing needs any more, and what is to be kept.
fn what_to_keep(id: &MigrationId, segments: &Place, evidence: &Place, journal: &str) -> String {
    format!(
        "nothing needs the segments of this migration any more: {} may be deleted. Keep the evidence in {} and the journal \
         in {journal}",
        segments.of(&segments_prefix(id)),
        evidence.of(id.as_str()),
    )
}

/// The commands that check the signed document of a migration, with what it takes to have it here.
pub(crate) fn check_it(place: &Place, id: &MigrationId, key_id: &str) -> Vec<(&'static str, String)> {
    let key = alias_key(id);
    let verify = |file: &str, objects: &str| {
        ("check it", format!("krossing evidence verify {file} --key-id {key_id} --objects {objects}"))
    };
    match place {
        Place::Folder(folder) => vec![verify(&place.of(&key), &folder.display().to_string())],
        Place::Bucket(_) => vec![
            ("bring it here", format!("aws s3 cp --recursive {} evidence/{id}", place.of(id.as_str()))),
            verify(&format!("evidence/{key}"), "evidence"),
        ],
    }
}

#[cfg(test)]
mod tests {
    use krossing_core::config::Bucket;

    use super::*;

    #[test]
    fn segments_may_be_deleted_and_evidence_and_journal_are_to_be_kept() {
        let id: MigrationId = "orders".parse().expect("a valid id");
        let bucket = Bucket { name: "segments".to_owned(), prefix: "zk/".to_owned(), kms_key_id: None };
        let said = what_to_keep(&id, &Place::Bucket(bucket), &Place::Folder("/ev".into()), "/ev/orders");
        let expected = "s3://segments/zk/orders/segments/ may be deleted. Keep the evidence in /ev/orders and the \
                        journal in /ev/orders";
        assert!(said.ends_with(expected), "{said}");
    }
}
