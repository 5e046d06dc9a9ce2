//! The end of a migration: it is validated, topics get the settings and clients the quotas that were planned, and all of
//! it is recorded.
//!
//! In this order, because the planned settings let the target forget what it was told to keep: once the first topic may
//! have them (the journal says `finalizing`), the validation that passed before counts, and is not repeated against a
//! target that has begun to compact and to trim.
//!
//! Invariants: no setting is changed before a validation has passed and is journaled; what is stored is read back
//! before the journal names it; every step can be repeated. A failed validation is journaled as `failed` and may be
//! tried again after a repair.
//!
//! Does not: sign ([`krossing_evidence`] does, for every way in which a migration can end).

mod report;

use bytes::Bytes;
use krossing_core::{
    ErrorClass,
    canonical::canonical_json,
    evidence::StoredObject,
    journal::{EntryKind, Journal},
    offset_map::{MANIFEST_VERSION, Manifest, PartitionMap, sha256_hex},
    plan::{MigrationPlan, Scope},
    ports::{Clock, Objects, Ports, Signer},
    stragglers::Decided,
    transition::{Command, Decision, Position, State, permit},
    validation::{Outcome, ValidationReport, validation_report_key},
};
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use report::{CutoverSummary, FinalizeReport, GroupSummary, StateChange, ValidationSummary};

/// Why a migration could not be finalized.
#[derive(Debug, thiserror::Error)]
pub enum FinalizeError {
    /// Something is not as it must be.
    #[error("validation failed: {}; the report is in {place}", .report.failed_checks().join(", "))]
    NotValid {
        /// What was found.
        report: Box<ValidationReport>,
        /// Where that is stored, as one would type it.
        place: String,
    },
    /// A step could not be taken; it may be tried again.
    #[error(transparent)]
    Migration(#[from] MigrationError),
}

impl FinalizeError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            FinalizeError::NotValid { .. } => ErrorClass::DataAtRisk,
            FinalizeError::Migration(error) => error.class(),
        }
    }
}

/// What the journal says of a validation.
#[derive(Debug, Serialize, Deserialize)]
struct ValidatedEntry {
    outcome: Outcome,
    failed: Vec<String>,
    report: StoredObject,
}

/// Validates, sets the planned topic values, records, and ends the migration.
pub async fn run<P: Ports>(
    migration: &Migration<P>,
    plan: &MigrationPlan,
    scope: &Scope,
    journal: &mut Journal,
) -> Result<FinalizeReport, FinalizeError> {
    begin(migration, journal).await?;
    let key = format!("{}/report.json", migration.id);
    if journal.tip() == Some(State::Finalized) {
        krossing_evidence::publish(migration, journal).await?;
        return Ok(migration.stored_report(&key, "read the report").await?);
    }
    // Better to learn now that nothing can be signed than after the target has begun to forget.
    migration.signer.key_id().await.map_err(MigrationError::Sign)?;
    let (validation, validation_stored) = match validated_before(migration, journal).await? {
        Some(validated) => validated,
        None => validate(migration, scope, journal).await?,
    };
    let detail = json!({ "topics": scope.topics.len() });
    migration.note(journal, EntryKind::Finalizing, "topics get their planned settings", detail).await?;
    let topology = krossing_topology::apply_final(migration, &scope.topics).await?;
    let reason = format!(
        "topics have their planned settings: altered={} unchanged={}",
        topology.topics_altered, topology.topics_unchanged
    );
    migration.note(journal, EntryKind::Finalizing, reason, &topology).await?;
    if !plan.quotas.is_empty() {
        let quotas = krossing_topology::set_quotas(migration, &plan.quotas).await?;
        let reason = format!("client quotas: set={} kept={}", quotas.quotas_set, quotas.quotas_kept);
        migration.note(journal, EntryKind::Finalizing, reason, &quotas).await?;
    }

    let progress = migration.progress(scope).await?;
    let cutover = migration.cutover_report(journal).await?;
    let (_, switched) = migration.client_switch().await?;
    let boundaries = cutover.boundary_of();
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        migration_id: migration.id.clone(),
        partitions: progress
            .values()
            .map(|progress| {
                PartitionMap::new(
                    progress.partition.clone(),
                    progress.map_chunks.clone(),
                    progress.map_runs.clone(),
                    progress.gaps.clone(),
                    boundaries.get(&progress.partition).copied(),
                )
            })
            .collect(),
    };
    let offset_map = store(migration, format!("{}/offset-map.json", migration.id), &manifest).await?;
    let report = report::build(&report::Facts {
        plan,
        scope,
        journal,
        written_unix_ms: migration.clock.unix_ms(),
        progress: &progress,
        cutover: &cutover,
        switched: &switched,
        validation: &validation,
        validation_stored,
        topics_altered: topology.topics_altered,
        offset_map: offset_map.clone(),
    });
    let stored = store(migration, key, &report).await?;
    let reason = format!("validated and recorded in {}", migration.config.evidence.place.of(&stored.key));
    let detail = json!({ "report": stored });
    let mut objects = vec![offset_map, stored];
    objects.extend(kept_before(migration, journal).await?);
    krossing_evidence::end(migration, journal, State::Finalized, reason, detail, &objects).await?;
    Ok(report)
}

/// Makes sure that a migration may be finalized now; one whose validation has failed is being validated again.
async fn begin<P: Ports>(migration: &Migration<P>, journal: &mut Journal) -> MigrationResult<()> {
    let standing = journal.standing();
    if let Decision::Refused(sentence) = permit(Command::Finalize, standing).decision {
        return Err(MigrationError::Refused { sentence });
    }
    if standing == Position::FailedIn(State::Validating) {
        let reason = "the operator asked to validate again";
        migration.enter(journal, State::Validating, reason, json!({})).await?;
    }
    Ok(())
}

/// The validation that passed before topics began to get their planned settings; none where they have not begun to.
async fn validated_before<P: Ports>(
    migration: &Migration<P>,
    journal: &Journal,
) -> MigrationResult<Option<(ValidationReport, StoredObject)>> {
    if journal.last_since(State::AwaitingClientSwitch, EntryKind::Finalizing).is_none() {
        return Ok(None);
    }
    let refused = |how: String| MigrationError::Refused {
        sentence: format!(
            "topics have begun to get their planned settings, and the validation before that {how}: restore the \
             evidence from a copy"
        ),
    };
    let entry: ValidatedEntry = journal
        .last(EntryKind::Validated)
        .and_then(|entry| entry.detail_as())
        .ok_or_else(|| refused("is not in the journal".to_owned()))?;
    let stored = migration.evidence.get(&entry.report.key).await.during("read the validation's report")?;
    let stored = stored.ok_or_else(|| refused(format!("({}) is gone", entry.report.key)))?;
    if sha256_hex(&stored) != entry.report.sha256 {
        return Err(refused(format!("({}) is not the one the journal names", entry.report.key)));
    }
    let report = serde_json::from_slice(&stored).map_err(|error| refused(format!("cannot be read ({error})")))?;
    Ok(Some((report, entry.report)))
}

async fn validate<P: Ports>(
    migration: &Migration<P>,
    scope: &Scope,
    journal: &mut Journal,
) -> Result<(ValidationReport, StoredObject), FinalizeError> {
    let report = krossing_validate::run(migration, scope).await?;
    let stored = store(migration, validation_report_key(&migration.id), &report).await?;
    let failed: Vec<String> = report.failed_checks().into_iter().map(str::to_owned).collect();
    let reason = match report.overall {
        Outcome::Passed => "validation passed".to_owned(),
        Outcome::Warning => "validation passed with warnings".to_owned(),
        Outcome::Failed => format!("validation failed: {}", failed.join(", ")),
    };
    let detail = ValidatedEntry { outcome: report.overall, failed, report: stored.clone() };
    migration.note(journal, EntryKind::Validated, reason.clone(), &detail).await?;
    match report.overall {
        Outcome::Passed | Outcome::Warning => Ok((report, stored)),
        Outcome::Failed => {
            // The validation itself is in what is signed; its object is written over by the next one.
            let objects = kept_before(migration, journal).await?;
            krossing_evidence::end(migration, journal, State::Failed, reason, detail, &objects).await?;
            let place = migration.config.evidence.place.of(&stored.key);
            Err(FinalizeError::NotValid { report: Box::new(report), place })
        }
    }
}

/// What earlier phases have stored beside the reports.
async fn kept_before<P: Ports>(migration: &Migration<P>, journal: &Journal) -> MigrationResult<Vec<StoredObject>> {
    let acls = krossing_topology::acl_record(migration).await?;
    Ok(acls.into_iter().chain(Decided::of(journal).kept()).collect())
}

/// Stores an object as canonical JSON and reads it back.
async fn store<P: Ports>(
    migration: &Migration<P>,
    key: String,
    value: &impl Serialize,
) -> MigrationResult<StoredObject> {
    let text = canonical_json(value).expect("reports hold whole numbers and texts, which have a canonical form");
    migration.store_evidence(key, Bytes::from(text), false).await
}

#[cfg(test)]
mod tests;
