//! Validation: what the clusters and the ledger say, read once and judged by [`krossing_core::validation`].
//!
//! Records are read by the independent client on both sides, so that a mistake of the copier cannot hide; logs' batches
//! (markers and fences are none of a client's business) are read by our own. Nothing is written anywhere, so that a
//! validation can be repeated as often as one likes.
//!
//! Invariants: nothing of the source behind its closing marker and nothing of the target behind its boundary is
//! compared; what could not be read is an error or a failed check, never a pass. Memory is bounded by
//! [`VALIDATION_PARTITIONS_IN_FLIGHT`](krossing_core::limits::VALIDATION_PARTITIONS_IN_FLIGHT) partitions, with their
//! offset maps and, where they are compacted, a slice of their keys.
//!
//! Does not: journal, store, or decide what follows.

mod compacted;
mod facts;
mod records;
mod sentinels;

use krossing_core::{
    plan::Scope,
    ports::{Clock, Ports},
    validation::{
        CheckReport, Outcome, VALIDATION_REPORT_VERSION, ValidationReport, consumer_group_reconciliation,
        counts_and_offsets, topic_parity,
    },
};
use krossing_runtime::{Migration, MigrationResult};

pub use compacted::{TombstonesMissed, compare_compacted, tombstones_missed};
use facts::Facts;

/// Runs all checks. A check that finds something is part of the report; an error means that there is no report.
pub async fn run<P: Ports>(migration: &Migration<P>, scope: &Scope) -> MigrationResult<ValidationReport> {
    let facts = Facts::load(migration, scope).await?;
    let (mut counts, mut sentinels) = (CheckReport::default(), CheckReport::default());
    let partitions = facts.complete(scope, &mut counts, &mut sentinels);
    for partition in &partitions {
        let tolerance = migration.config.validation.count_tolerance;
        counts.merge(counts_and_offsets(&partition.judged(), tolerance));
    }
    sentinels.merge(sentinels::presence(migration, &facts, &partitions).await?);
    let (spot_check_records, next_record) = records::compare(migration, &partitions, &facts.positions).await?;
    let compacted: Vec<_> = partitions
        .iter()
        .filter(|known| scope.topic(&known.partition().topic).is_some_and(|topic| topic.compacted))
        // A log that ends before its boundary has its own finding; its end could only be waited for here.
        .filter(|known| known.target_end >= known.boundary.0)
        .map(|known| known.progress.clone())
        .collect();
    let report = ValidationReport {
        version: VALIDATION_REPORT_VERSION,
        migration_id: migration.id.clone(),
        at_unix_ms: migration.clock.unix_ms(),
        overall: Outcome::Passed,
        partitions: scope.partitions().count() as u64,
        topic_parity: topic_parity(&scope.topics, &facts.source_topics, &facts.target_topics),
        counts_and_offsets: counts,
        spot_check_records,
        sentinel_presence: sentinels,
        consumer_group_reconciliation: consumer_group_reconciliation(&facts.positions, &facts.committed),
        next_record,
        compacted_keys: compare_compacted(migration, &compacted).await?,
    };
    Ok(report.conclude())
}

#[cfg(test)]
mod tests;
