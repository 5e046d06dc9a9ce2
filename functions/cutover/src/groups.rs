//! Every group's position: read from the source, translated, written to the target, read back.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use krossing_core::{
    GroupId, SourceOffset, TargetOffset, TopicPartition,
    cutover::GroupTranslation,
    limits::GROUPS_IN_FLIGHT_MAX,
    offset_map::MapView,
    ports::{CommittedOffset, GroupOffsets, Groups, Ports},
};
use krossing_replication::load_map;
use krossing_runtime::ForStep;

use crate::{Cutover, CutoverError, close::Closed};

/// Positions of all groups in the partitions that were copied.
pub(crate) async fn snapshot<P: Ports>(
    cutover: &Cutover<'_, P>,
    groups: &[GroupId],
    closed: &Closed,
) -> Result<BTreeMap<GroupId, GroupOffsets>, CutoverError> {
    let source = &cutover.migration.source;
    let mut snapshot = source.group_offsets(groups).await.during("read the groups' positions on the source")?;
    snapshot.retain(|_, offsets| {
        offsets.retain(|partition, _| closed.contains_key(partition));
        !offsets.is_empty()
    });
    Ok(snapshot)
}

/// The same positions on the target. Maps are loaded one partition at a time, each once.
pub(crate) async fn translate<P: Ports>(
    cutover: &Cutover<'_, P>,
    snapshot: &BTreeMap<GroupId, GroupOffsets>,
    closed: &Closed,
    markers: &BTreeMap<TopicPartition, SourceOffset>,
) -> Result<Vec<GroupTranslation>, CutoverError> {
    let partitions: BTreeSet<&TopicPartition> = snapshot.values().flat_map(BTreeMap::keys).collect();
    let mut translated = Vec::new();
    for partition in partitions {
        let progress = &closed[partition];
        let map = load_map(&cutover.migration.evidence, progress)
            .await
            .during("read the offset map")?
            .before(markers[partition]);
        for (group, offsets) in snapshot {
            if let Some(committed) = offsets.get(partition) {
                translated.push(translate_one(&map, progress.target_next, group, partition, committed));
            }
        }
    }
    translated.sort_by(|a, b| (&a.group, &a.partition).cmp(&(&b.group, &b.partition)));
    Ok(translated)
}

fn translate_one(
    map: &MapView,
    boundary: TargetOffset,
    group: &GroupId,
    partition: &TopicPartition,
    committed: &CommittedOffset,
) -> GroupTranslation {
    let source_offset = SourceOffset(committed.offset);
    GroupTranslation {
        group: group.clone(),
        partition: partition.clone(),
        source_offset,
        target_offset: map.translate(source_offset, boundary),
        metadata: committed.metadata.clone(),
    }
}

/// Writes all positions, one request a group, and reads them back.
pub(crate) async fn commit<P: Ports>(
    cutover: &Cutover<'_, P>,
    translated: &[GroupTranslation],
) -> Result<(), CutoverError> {
    let mut by_group: BTreeMap<&GroupId, GroupOffsets> = BTreeMap::new();
    for translation in translated {
        let position = CommittedOffset { offset: translation.target_offset.0, metadata: translation.metadata.clone() };
        by_group.entry(&translation.group).or_default().insert(translation.partition.clone(), position);
    }
    stream::iter(&by_group)
        .map(|(group, offsets)| commit_group(cutover, group, offsets))
        .buffer_unordered(GROUPS_IN_FLIGHT_MAX)
        .try_collect::<Vec<()>>()
        .await?;
    let groups: Vec<GroupId> = by_group.keys().map(|group| (*group).clone()).collect();
    let target = &cutover.migration.target;
    let read_back = target.group_offsets(&groups).await.during("read the groups' positions back from the target")?;
    for (group, offsets) in by_group {
        for (partition, expected) in offsets {
            let found = read_back.get(group).and_then(|found| found.get(&partition));
            if found != Some(&expected) {
                return Err(CutoverError::CommitNotReadBack {
                    group: group.clone(),
                    partition,
                    expected: expected.offset,
                    found: found.map(|found| found.offset),
                });
            }
        }
    }
    Ok(())
}

async fn commit_group<P: Ports>(
    cutover: &Cutover<'_, P>,
    group: &GroupId,
    offsets: &GroupOffsets,
) -> Result<(), CutoverError> {
    let target = &cutover.migration.target;
    let refused =
        target.commit_group_offsets(group, offsets).await.during("write a group's positions to the target")?;
    match refused.into_iter().next() {
        None => Ok(()),
        Some((partition, code)) => Err(CutoverError::CommitRefused { group: group.clone(), partition, code }),
    }
}
