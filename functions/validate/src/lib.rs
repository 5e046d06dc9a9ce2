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
        CheckReport, Outcome, PartitionReport, VALIDATION_REPORT_VERSION, ValidationReport,
        consumer_group_reconciliation, counts_and_offsets, mapped_records, topic_parity,
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
    let tolerance = migration.config.validation.count_tolerance;
    let mut compared = records::compare(migration, &partitions, &facts.positions).await?;
    let (mut spot_check_records, mut next_record) = (CheckReport::default(), CheckReport::default());
    let mut by_partition = Vec::with_capacity(partitions.len());
    for known in &partitions {
        let counted = counts_and_offsets(&known.judged(), tolerance);
        let records = compared.remove(known.partition()).unwrap_or_default();
        by_partition.push(PartitionReport {
            partition: known.partition().clone(),
            outcome: counted.outcome.max(records.samples.outcome).max(records.next.outcome),
            records_copied: mapped_records(known.progress),
            source_closed_from: known.closed_from,
            target_boundary: known.boundary,
            sampled_source_offsets: records.sampled,
        });
        counts.merge(counted);
        spot_check_records.merge(records.samples);
        next_record.merge(records.next);
    }
    by_partition.sort_by(|one, other| one.partition.cmp(&other.partition));
    sentinels.merge(sentinels::presence(migration, &facts, &partitions).await?);
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
        by_partition,
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
