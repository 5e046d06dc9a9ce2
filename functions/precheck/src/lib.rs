//! Precheck: both clusters and both stores are looked at, and everything that stands in the way is said at once.
//!
//! What the facts mean is decided by [`krossing_core::precheck`]; here they are collected. A cluster that cannot be
//! read is a finding like any other, so that an operator with two problems hears of both.
//!
//! Invariants: no cluster is written to. Of the stores, one small object each is written, read back and left: that they
//! can be written to is what is to be known.

mod drift;
mod facts;
mod rights;

use krossing_core::{
    Side,
    acl::{self, AclFacts, OwnUser},
    msk::{self, MskFacts},
    plan::{MigrationPlan, SourceInventory, TargetInventory},
    ports::{Msk, Objects, Ports, ProducerFreeze},
    precheck::{Finding, PrecheckFacts, Severity, decide},
    quotas,
    rights::MissingRight,
};
use krossing_runtime::{Migration, MigrationResult};
use rights::Ours;

/// What precheck found, and what it was found on.
#[derive(Debug)]
pub struct Checked {
    /// All findings, blockers first.
    pub findings: Vec<Finding>,
    /// The plan that was checked; none where a cluster could not be read.
    pub plan: Option<MigrationPlan>,
}

/// Looks at everything. `stored` is the plan of a migration that has begun; without one it is made from what is found.
pub async fn run<P: Ports>(migration: &Migration<P>, stored: Option<&MigrationPlan>) -> MigrationResult<Checked> {
    let (source, target) = tokio::join!(krossing_plan::source(migration), krossing_plan::target(migration));
    let plan = match (&source, &target) {
        (Ok(source), Ok(target)) => {
            Some(stored.cloned().unwrap_or_else(|| krossing_plan::make(migration, source, target)))
        }
        (Err(_), _) | (_, Err(_)) => None,
    };
    let ours = rights::ours(migration, &source, &target, plan.as_ref()).await?;
    let evidence_problem = facts::store_problem(&migration.evidence).await;
    let evidence_lock = match evidence_problem {
        None => Some(migration.evidence.object_lock().await),
        Some(_) => None,
    };
    let facts = PrecheckFacts {
        selection: &migration.config.topics,
        source: source.as_ref().map_err(Clone::clone),
        target: target.as_ref().map_err(Clone::clone),
        plan: plan.as_ref(),
        segments_problem: facts::store_problem(&migration.segments).await,
        evidence_problem,
        evidence_lock,
        freeze_problem: migration.freeze.reach().await.err().map(|error| error.to_string()),
        old_format: Default::default(),
        unread: Default::default(),
        target_logs: Default::default(),
        target_positions: Default::default(),
        // Nothing of ours is on the target before topology_copy, and precheck runs before that.
        written_positions: Default::default(),
        made_topics: Default::default(),
        missing_rights: ours.missing.clone(),
    };
    let mut findings = match (&plan, &source, &target) {
        (Some(plan), Ok(source), Ok(target)) => on_both(migration, plan, (source, target), &ours, facts).await?,
        (Some(_) | None, _, _) => decide(&facts),
    };
    let (hosted_source, hosted_target) =
        tokio::join!(migration.msk.describe(Side::Source), migration.msk.describe(Side::Target));
    findings.extend(msk::findings(&MskFacts {
        source_config: &migration.config.source,
        target_config: &migration.config.target,
        source: &hosted_source,
        target: &hosted_target,
        plan: plan.as_ref(),
        on_target: target.as_ref().ok(),
    }));
    findings.sort();
    Ok(Checked { findings, plan })
}

async fn on_both<P: Ports>(
    migration: &Migration<P>,
    plan: &MigrationPlan,
    (source, target): (&SourceInventory, &TargetInventory),
    ours: &Ours<'_>,
    facts: PrecheckFacts<'_>,
) -> MigrationResult<Vec<Finding>> {
    let (first_batches, target_logs, target_positions) = tokio::join!(
        facts::first_batches(migration, plan, source),
        facts::target_logs(migration, plan, target),
        facts::target_positions(migration, plan, target),
    );
    let facts::FirstBatches { old_format, unread } =
        unless_forbidden(first_batches, Side::Source, &facts.missing_rights)?;
    let target_logs = unless_forbidden(target_logs, Side::Target, &facts.missing_rights)?;
    let target_positions = unless_forbidden(target_positions, Side::Target, &facts.missing_rights)?;
    let mut findings = decide(&PrecheckFacts { old_format, unread, target_logs, target_positions, ..facts });
    let on_drift = migration.config.topology.on_config_drift;
    findings.extend(drift::decide(on_drift, plan, target));
    findings.extend(quotas::findings(&plan.quotas, &target.quotas, on_drift));
    let own = OwnUser { principal: &ours.principal, rights: &ours.on_target, lacking: &ours.lacking_on_target };
    findings.extend(acl::findings(&AclFacts { policy: migration.config.acl.on_drift, plan, source, target, own }));
    findings.sort();
    Ok(findings)
}

/// What could not be read for want of a right: the right is the finding, and the next run looks again.
fn unless_forbidden<T: Default>(read: MigrationResult<T>, side: Side, missing: &[MissingRight]) -> MigrationResult<T> {
    match read {
        Err(_) if missing.iter().any(|missing| missing.side == side) => Ok(T::default()),
        read => read,
    }
}

/// The findings as lines, one each.
pub fn render_text(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let severity = match finding.severity {
            Severity::Blocker => "blocker",
            Severity::Warning => "warn",
            Severity::Info => "info",
        };
        let Finding { code, subject, problem, remedy, .. } = finding;
        format!("{code} {severity}: {subject}: {problem} — {remedy}\n")
    };
    findings.iter().map(line).collect()
}

/// The findings as JSON, for scripts.
pub fn render_json(findings: &[Finding]) -> String {
    serde_json::to_string_pretty(findings).expect("findings are plain data")
}

#[cfg(test)]
mod tests;
