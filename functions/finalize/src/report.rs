//! `report.json`: the whole migration on one page, with the places of what it rests on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use krossing_core::{
    GroupId, MigrationId, TopicPartition,
    client_switch::ClientSwitchRecord,
    cutover::{CutoverReport, CutoverTimings},
    evidence::StoredObject,
    journal::{EntryKind, Journal},
    plan::{MigrationPlan, Scope},
    progress::{CopyCounts, Gap, PartitionProgress},
    transition::State,
    validation::{Outcome, ValidationReport},
};
use serde::{Deserialize, Serialize};

const REPORT_VERSION: u32 = 1;

/// The report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalizeReport {
    /// Of this format.
    pub version: u32,
    /// The migration.
    pub migration_id: MigrationId,
    /// The Krossing that finished it.
    pub tool_version: String,
    /// When this was written, in milliseconds since 1970.
    pub written_unix_ms: i64,
    /// The source's own id.
    pub source_cluster_id: String,
    /// The target's own id.
    pub target_cluster_id: String,
    /// The digest of the plan.
    pub plan_sha256: String,
    /// The digest of the last amendment, or of the plan.
    pub scope_sha256: String,
    /// How often the plan grew.
    pub amendments: u32,
    /// How many topics.
    pub topics: u64,
    /// How many of them had their settings changed at the end.
    pub topics_altered: u64,
    /// How many partitions.
    pub partitions: u64,
    /// Every change of state until here.
    pub states: Vec<StateChange>,
    /// What was copied, and how: over all partitions.
    pub copied: CopyCounts,
    /// What was gone from the source before it was read.
    pub lost_before_read: Vec<LostRange>,
    /// The cutover.
    pub cutover: CutoverSummary,
    /// The groups.
    pub groups: GroupSummary,
    /// The validation.
    pub validation: ValidationSummary,
    /// The manifest of the offset map.
    pub offset_map: StoredObject,
    /// How many entries the journal had.
    pub journal_entries: u64,
    /// The hash of the last of them.
    pub journal_hash: String,
}

/// One change of state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// The state entered.
    pub state: State,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: i64,
    /// Why.
    pub reason: String,
}

/// Source offsets that were gone before they were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// Where.
    pub partition: TopicPartition,
    /// Which.
    pub gap: Gap,
}

/// The cutover in figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverSummary {
    /// When READY was reached, in milliseconds since 1970.
    pub ready_unix_ms: i64,
    /// How producers were brought to stand still.
    pub freeze: String,
    /// How long each step took.
    pub timings: CutoverTimings,
    /// How many partitions of the source were closed with a marker.
    pub markers: u64,
    /// What the operator was told.
    pub warnings: Vec<String>,
}

/// The groups in figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSummary {
    /// How many groups had positions.
    pub groups: u64,
    /// How many positions were carried over by the cutover.
    pub positions: u64,
    /// Those that were seen to have switched before the acknowledgement.
    pub switched: BTreeSet<GroupId>,
}

/// The validation in figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidationSummary {
    /// How it ended.
    pub overall: Outcome,
    /// How each check ended.
    pub checks: BTreeMap<String, Outcome>,
    /// The report with everything it found.
    pub report: StoredObject,
}

/// What the report is made from.
pub(crate) struct Facts<'a> {
    pub(crate) plan: &'a MigrationPlan,
    pub(crate) scope: &'a Scope,
    pub(crate) journal: &'a Journal,
    pub(crate) written_unix_ms: i64,
    pub(crate) progress: &'a BTreeMap<TopicPartition, PartitionProgress>,
    pub(crate) cutover: &'a CutoverReport,
    pub(crate) switched: &'a ClientSwitchRecord,
    pub(crate) validation: &'a ValidationReport,
    pub(crate) validation_stored: StoredObject,
    pub(crate) topics_altered: usize,
    pub(crate) offset_map: StoredObject,
}

pub(crate) fn build(facts: &Facts<'_>) -> FinalizeReport {
    let Facts { plan, scope, journal, cutover, validation, .. } = *facts;
    let changes = journal.entries().iter().filter(|entry| entry.kind == EntryKind::Transition);
    let gaps = facts.progress.values().flat_map(|progress| {
        progress.gaps.iter().map(|gap| LostRange { partition: progress.partition.clone(), gap: gap.clone() })
    });
    let switched = facts.switched.groups.iter().filter(|(_, group)| group.switched.is_some());
    FinalizeReport {
        version: REPORT_VERSION,
        migration_id: plan.migration_id.clone(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        written_unix_ms: facts.written_unix_ms,
        source_cluster_id: plan.source_cluster_id.clone(),
        target_cluster_id: plan.target_cluster_id.clone(),
        plan_sha256: plan.digest(),
        scope_sha256: scope.digest.clone(),
        amendments: scope.amendments,
        topics: scope.topics.len() as u64,
        topics_altered: facts.topics_altered as u64,
        partitions: scope.partitions().count() as u64,
        states: changes
            .map(|entry| StateChange { state: entry.to, at_unix_ms: entry.at_unix_ms, reason: entry.reason.clone() })
            .collect(),
        copied: facts.progress.values().map(|progress| progress.counts).sum(),
        lost_before_read: gaps.collect(),
        cutover: CutoverSummary {
            ready_unix_ms: cutover.ready_unix_ms,
            freeze: cutover.freeze.clone(),
            timings: cutover.timings,
            markers: cutover.markers.len() as u64,
            warnings: cutover.warnings.clone(),
        },
        groups: GroupSummary {
            groups: cutover.groups.iter().map(|position| &position.group).collect::<BTreeSet<_>>().len() as u64,
            positions: cutover.groups.len() as u64,
            switched: switched.map(|(group, _)| group.clone()).collect(),
        },
        validation: ValidationSummary {
            overall: validation.overall,
            checks: validation.checks().into_iter().map(|(name, c)| (name.to_owned(), c.outcome)).collect(),
            report: facts.validation_stored.clone(),
        },
        offset_map: facts.offset_map.clone(),
        journal_entries: journal.position() as u64,
        journal_hash: journal.tip_hash().to_owned(),
    }
}

/// The report as lines for a terminal.
impl fmt::Display for FinalizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CopyCounts { records, bytes, batches_passed, batches_packed, batches_rewritten, fences } = self.copied;
        writeln!(f, "migration={} tool_version={}", self.migration_id, self.tool_version)?;
        writeln!(f, "topics={} partitions={} amendments={}", self.topics, self.partitions, self.amendments)?;
        writeln!(f, "records_copied={records} bytes_copied={bytes} fences={fences}")?;
        writeln!(
            f,
            "batches_passed={batches_passed} batches_packed={batches_packed} batches_rewritten={batches_rewritten}"
        )?;
        writeln!(f, "producers_stood_still_ms={}", self.cutover.timings.frozen_ms)?;
        writeln!(
            f,
            "groups={} positions={} switched_before_acknowledgement={}",
            self.groups.groups,
            self.groups.positions,
            self.groups.switched.len()
        )?;
        writeln!(f, "ranges_lost_before_read={}", self.lost_before_read.len())?;
        writeln!(f, "validation={}", self.validation.overall)
    }
}
