//! Access rules and client quotas on the target, added to what is there.
//!
//! What is to be made is written down before the first rule is, so that a process that died half way does not change
//! what the record says was made. Rules are made with the topics, before clients can switch; quotas at the end, because
//! before that they would slow the copy down.

use krossing_core::{
    acl::{REFUSAL_REMEDY, difference},
    canonical::canonical_json,
    config::AclDrift,
    evidence::StoredObject,
    offset_map::sha256_hex,
    plan::{MigrationPlan, PlannedQuota},
    ports::{AccessAdmin, AclBinding, Inventory, Objects, Ports},
    quotas,
    rights::Principal,
};
use krossing_runtime::migration::{ForStep, Migration, MigrationError, MigrationResult};
use serde::{Deserialize, Serialize};

use crate::{Difference, refuse, until_read_back};

/// What became of access rules, for the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AclReport {
    /// Rules that were made.
    pub created: usize,
    /// Rules that were there from the beginning.
    pub present: usize,
    /// Rules that only the target has: left as they are.
    pub only_on_target: usize,
    /// Rules that are not made, because the target has no authorizer.
    pub not_enforced: usize,
    /// Where each of them is named.
    pub record: Option<StoredObject>,
}

/// The version of [`AclRecord`] that this code writes.
const RECORD_VERSION: u32 = 1;

/// Each rule that is made, and each that only the target has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AclRecord {
    version: u32,
    created: Vec<AclBinding>,
    only_on_target: Vec<AclBinding>,
}

/// What became of quotas, for the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QuotaReport {
    /// Clients whose limits were set.
    pub quotas_set: usize,
    /// Limits that the target has otherwise, and keeps.
    pub quotas_kept: usize,
}

fn record_key<P: Ports>(migration: &Migration<P>) -> String {
    format!("{}/acls.json", migration.id)
}

/// Makes the planned access rules that the target lacks, as `acl.on_drift` says. None is taken away.
pub async fn make_acls<P: Ports>(migration: &Migration<P>, plan: &MigrationPlan) -> MigrationResult<AclReport> {
    let planned = plan.acls.as_deref().unwrap_or_default();
    let Some(there) = migration.target.acls().await.during("read the access rules of the target")? else {
        return match migration.config.acl.on_drift {
            AclDrift::Refuse if !planned.is_empty() => {
                Err(refused("the target has no authorizer for the source's access rules"))
            }
            AclDrift::Merge | AclDrift::Replace | AclDrift::Refuse => {
                Ok(AclReport { not_enforced: planned.len(), ..AclReport::default() })
            }
        };
    };
    let (record, stored) = match stored_record(migration).await? {
        Some(record) => record,
        None => decide(migration, planned, &there).await?,
    };
    let missing = |there: &[AclBinding]| -> Vec<AclBinding> {
        record.created.iter().filter(|rule| !there.contains(rule)).cloned().collect()
    };
    let wanted = missing(&there);
    if !wanted.is_empty() {
        let refusals = migration.target.create_acls(&wanted).await.during("make access rules on the target")?;
        refuse("make the access rule", refusals.into_iter().map(|(rule, c, d)| (rule.to_string(), c, d)))?;
        until_read_back(migration, || async {
            let there = migration.target.acls().await.during("read back the access rules of the target")?;
            let lost = missing(&there.unwrap_or_default()).into_iter().next();
            let detail = "it is not there".to_owned();
            Ok(lost.map(|rule| Difference { what: format!("the access rule ({rule})"), detail }))
        })
        .await?;
    }
    Ok(AclReport {
        created: record.created.len(),
        present: planned.len() - record.created.len(),
        only_on_target: record.only_on_target.len(),
        not_enforced: 0,
        record: Some(stored),
    })
}

async fn decide<P: Ports>(
    migration: &Migration<P>,
    planned: &[AclBinding],
    there: &[AclBinding],
) -> MigrationResult<(AclRecord, StoredObject)> {
    let mut difference = difference(planned, there);
    if migration.config.acl.on_drift == AclDrift::Refuse {
        if let Some(refusal) = difference.refusal(&Principal::of(&migration.config.target.auth)) {
            return Err(refused(&refusal));
        }
        difference.missing.clear();
    }
    let record =
        AclRecord { version: RECORD_VERSION, created: difference.missing, only_on_target: difference.only_on_target };
    let text = canonical_json(&record).expect("a record is made of texts, which have a canonical form");
    let stored = migration.store_evidence(record_key(migration), text.into(), false).await?;
    Ok((record, stored))
}

async fn stored_record<P: Ports>(migration: &Migration<P>) -> MigrationResult<Option<(AclRecord, StoredObject)>> {
    let key = record_key(migration);
    let Some(content) = migration.evidence.get(&key).await.during("read which access rules are made")? else {
        return Ok(None);
    };
    let stored = StoredObject { sha256: sha256_hex(&content), key };
    let record: AclRecord = serde_json::from_slice(&content).map_err(|error| MigrationError::Refused {
        sentence: format!("{} is damaged ({error}): restore it from a copy", stored.key),
    })?;
    Ok(Some((record, stored)))
}

/// The record of access rules, where there is one: it belongs to the evidence.
pub async fn acl_record<P: Ports>(migration: &Migration<P>) -> MigrationResult<Option<StoredObject>> {
    Ok(stored_record(migration).await?.map(|(_, stored)| stored))
}

/// The access rules that were made on the target.
pub async fn acls_made<P: Ports>(migration: &Migration<P>) -> MigrationResult<Vec<AclBinding>> {
    Ok(stored_record(migration).await?.map(|(record, _)| record.created).unwrap_or_default())
}

/// Sets the planned quotas, as `topology.on_config_drift` says of those that the target has otherwise.
pub async fn set_quotas<P: Ports>(migration: &Migration<P>, planned: &[PlannedQuota]) -> MigrationResult<QuotaReport> {
    if planned.is_empty() {
        return Ok(QuotaReport::default());
    }
    let on_drift = migration.config.topology.on_config_drift;
    let look = || async {
        let there = migration.target.client_quotas().await.during("read the client quotas of the target")?;
        Ok::<_, MigrationError>(quotas::changes(planned, &there, on_drift))
    };
    let changes = look().await?;
    if changes.set.is_empty() {
        return Ok(QuotaReport { quotas_set: 0, quotas_kept: changes.differing.len() });
    }
    let refusals = migration.target.set_client_quotas(&changes.set).await.during("set client quotas on the target")?;
    refuse("set the quota of", refusals.into_iter().map(|(who, c, d)| (quotas::entity(&who), c, d)))?;
    until_read_back(migration, || async {
        let left = look().await?.set.into_iter().next();
        let detail = "the target shows another limit".to_owned();
        Ok(left.map(|quota| Difference { what: format!("the quota of {}", quotas::entity(&quota.entity)), detail }))
    })
    .await?;
    let quotas_kept = look().await?.differing.len();
    Ok(QuotaReport { quotas_set: changes.set.len(), quotas_kept })
}

fn refused(why: &str) -> MigrationError {
    MigrationError::Refused { sentence: format!("{why}, and acl.on_drift is refuse: {REFUSAL_REMEDY}, then resume") }
}
