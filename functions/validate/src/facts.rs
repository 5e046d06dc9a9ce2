//! Everything that is read before anything is judged, but for records.

use std::collections::{BTreeMap, BTreeSet};

use krossing_core::{
    GroupId, Offset, Side, SourceOffset, TargetOffset, TopicName, TopicPartition,
    cutover::MarkerKind,
    plan::Scope,
    ports::{GroupOffsets, Groups, Inventory, LogEnd, LogReader, PerPartition, Ports, TopicDescription},
    progress::PartitionProgress,
    stragglers::Decided,
    validation::{CheckReport, ExpectedPosition, PartitionFacts, expected_positions, not_looked_at},
};
use krossing_runtime::{ForStep, Migration, MigrationResult};

/// What was read.
pub(crate) struct Facts {
    pub(crate) source_topics: Vec<TopicDescription>,
    pub(crate) target_topics: Vec<TopicDescription>,
    /// Group positions as Krossing wrote them last.
    pub(crate) positions: Vec<ExpectedPosition>,
    /// Group positions as the target has them.
    pub(crate) committed: BTreeMap<GroupId, GroupOffsets>,
    progress: BTreeMap<TopicPartition, PartitionProgress>,
    markers: BTreeMap<TopicPartition, SourceOffset>,
    pub(crate) marker_kind: MarkerKind,
    /// What was decided about records behind the markers.
    pub(crate) decided: Decided,
    undecided_from: BTreeMap<TopicPartition, SourceOffset>,
    boundaries: BTreeMap<TopicPartition, TargetOffset>,
    source_start: PerPartition<Offset>,
    source_end: PerPartition<Offset>,
    target_start: PerPartition<Offset>,
    target_end: PerPartition<Offset>,
}

/// A partition of which everything is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownPartition<'a> {
    pub(crate) progress: &'a PartitionProgress,
    /// Where the source was closed: what lies before it is compared.
    pub(crate) marker: SourceOffset,
    /// The first offset behind what was to be copied.
    pub(crate) closed_from: SourceOffset,
    /// The first offset at which a record was left behind that nobody has decided about.
    pub(crate) undecided_from: SourceOffset,
    pub(crate) boundary: TargetOffset,
    pub(crate) source_start: Offset,
    pub(crate) source_end: Offset,
    pub(crate) target_start: Offset,
    pub(crate) target_end: Offset,
}

impl<'a> KnownPartition<'a> {
    pub(crate) fn partition(&self) -> &'a TopicPartition {
        &self.progress.partition
    }

    pub(crate) fn judged(&self) -> PartitionFacts<'a> {
        PartitionFacts {
            progress: self.progress,
            closed_from: self.closed_from,
            boundary: self.boundary,
            target_start: self.target_start,
            target_end: self.target_end,
        }
    }
}

impl Facts {
    pub(crate) async fn load<P: Ports>(migration: &Migration<P>, scope: &Scope) -> MigrationResult<Self> {
        let journal = migration.journal().await?;
        let cutover = migration.cutover_report(&journal).await?;
        let progress = migration.progress(scope).await?;
        let names: Vec<TopicName> = scope.topics.iter().map(|topic| topic.name.clone()).collect();
        let partitions: Vec<TopicPartition> = scope.partitions().collect();
        let (source, target) = (&migration.source, &migration.target);
        let source_topics = async { source.describe_topics(Some(&names)).await.during("describe the source's topics") };
        let target_topics = async { target.describe_topics(Some(&names)).await.during("describe the target's topics") };
        let (source_topics, target_topics) = tokio::try_join!(source_topics, target_topics)?;
        // A partition that a topic does not have would only cost the retries for unknown partitions.
        let (on_source, on_target) = (existing(&partitions, &source_topics), existing(&partitions, &target_topics));
        let (source_start, source_end) = log_ends(source, &on_source, "ask the source where its logs end").await?;
        let (target_start, target_end) = log_ends(target, &on_target, "ask the target where its logs end").await?;
        let decided = Decided::of(&journal);
        let mut positions = expected_positions(&cutover, &migration.client_switch().await?.1);
        mark_groups_with_members(migration, &mut positions).await?;
        Ok(Self {
            source_topics,
            target_topics,
            committed: committed(migration, &positions).await?,
            positions,
            progress,
            markers: cutover.marker_of(),
            marker_kind: cutover.marker_kind,
            undecided_from: decided.undecided_from(cutover.closed_from()),
            decided,
            boundaries: cutover.boundary_of(),
            source_start,
            source_end,
            target_start,
            target_end,
        })
    }

    /// The partitions that can be judged; of the others it is said what is missing.
    pub(crate) fn complete(
        &self,
        scope: &Scope,
        counts: &mut CheckReport,
        sentinels: &mut CheckReport,
    ) -> Vec<KnownPartition<'_>> {
        scope.partitions().filter_map(|partition| self.known(&partition, counts, sentinels)).collect()
    }

    fn known(
        &self,
        partition: &TopicPartition,
        counts: &mut CheckReport,
        sentinels: &mut CheckReport,
    ) -> Option<KnownPartition<'_>> {
        const AGAIN: &str = "The cutover did not cover this partition: its copy may be incomplete, migrate it again";
        let progress = self.progress.get(partition);
        if progress.is_none() {
            counts.fail(partition, "the ledger does not know it, so that nothing of it was copied", AGAIN);
        }
        let marker = self.markers.get(partition);
        if marker.is_none() {
            sentinels.fail(partition, "the cutover's report names no closing marker on the source", AGAIN);
        }
        let boundary = self.boundaries.get(partition);
        if boundary.is_none() {
            sentinels.fail(partition, "the cutover's report names no boundary on the target", AGAIN);
        }
        let mut end = |side: Side, ends: &PerPartition<Offset>| match ends.get(partition) {
            Some(Ok(offset)) => Some(*offset),
            Some(Err(code)) => {
                not_looked_at(counts, partition, side, code);
                None
            }
            None => {
                not_looked_at(counts, partition, side, "it does not exist there");
                None
            }
        };
        let (source_start, source_end) = (end(Side::Source, &self.source_start), end(Side::Source, &self.source_end));
        let (target_start, target_end) = (end(Side::Target, &self.target_start), end(Side::Target, &self.target_end));
        Some(KnownPartition {
            progress: progress?,
            marker: *marker?,
            closed_from: self.marker_kind.closed_from(*marker?),
            undecided_from: *self.undecided_from.get(partition)?,
            boundary: *boundary?,
            source_start: source_start?,
            source_end: source_end?,
            target_start: target_start?,
            target_end: target_end?,
        })
    }
}

fn existing(partitions: &[TopicPartition], topics: &[TopicDescription]) -> Vec<TopicPartition> {
    let exist: BTreeSet<_> = topics.iter().flat_map(|t| t.partitions.iter().map(|p| (&t.name, p.id))).collect();
    partitions.iter().filter(|partition| exist.contains(&(&partition.topic, partition.partition))).cloned().collect()
}

async fn log_ends<R: LogReader>(
    reader: &R,
    partitions: &[TopicPartition],
    attempt: &'static str,
) -> MigrationResult<(PerPartition<Offset>, PerPartition<Offset>)> {
    if partitions.is_empty() {
        return Ok(Default::default());
    }
    let start = async { reader.log_ends(partitions, LogEnd::Earliest).await.during(attempt) };
    let end = async { reader.log_ends(partitions, LogEnd::Latest).await.during(attempt) };
    tokio::try_join!(start, end)
}

/// A group that has members on the target goes on there: its positions are its own.
async fn mark_groups_with_members<P: Ports>(
    migration: &Migration<P>,
    positions: &mut [ExpectedPosition],
) -> MigrationResult<()> {
    let groups: BTreeSet<GroupId> =
        positions.iter().filter(|position| !position.switched).map(|position| position.group.clone()).collect();
    if groups.is_empty() {
        return Ok(());
    }
    let groups: Vec<GroupId> = groups.into_iter().collect();
    let described = migration.target.describe_groups(&groups).await.during("describe the groups on the target")?;
    let active: BTreeSet<GroupId> =
        described.into_iter().filter(|group| group.members > 0).map(|group| group.id).collect();
    for position in positions {
        position.switched |= active.contains(&position.group);
    }
    Ok(())
}

async fn committed<P: Ports>(
    migration: &Migration<P>,
    positions: &[ExpectedPosition],
) -> MigrationResult<BTreeMap<GroupId, GroupOffsets>> {
    let groups: BTreeSet<GroupId> = positions.iter().map(|position| position.group.clone()).collect();
    let groups: Vec<GroupId> = groups.into_iter().collect();
    migration.target.group_offsets(&groups).await.during("read the groups' positions on the target")
}
