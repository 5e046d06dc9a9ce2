//! What is done before producers stand still: catching up, and everything that needs no standstill.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use krossing_core::{
    GroupId, Producer, TopicId, TopicName, TopicPartition,
    cutover::{MarkerKind, marking_parts, marking_transactional_id},
    drain::{DrainReadiness, PartitionDrain},
    ports::{
        Clock, GroupDescription, GroupOffsets, Groups, Inventory, LogEnd, LogReader, Marker, Ports, TopicAdmin, Version,
    },
};
use krossing_replication::{Crew, TailBoard, drain_sentence};
use krossing_runtime::{ForStep, MigrationError};
use krossing_validate::tombstones_missed;

use crate::{Cutover, CutoverError};

/// How often the board is judged.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A part of the source that one transaction marks.
pub(crate) struct MarkingPart {
    pub(crate) transactional_id: String,
    pub(crate) producer: Producer,
    pub(crate) partitions: Vec<TopicPartition>,
}

/// What is ready when producers stand still.
pub(crate) struct Prepared {
    /// All partitions with the identity of their topics.
    pub(crate) partitions: BTreeMap<TopicPartition, Option<TopicId>>,
    pub(crate) parts: Vec<MarkingPart>,
    pub(crate) groups: Vec<GroupId>,
    /// Those that have had members on the target already.
    pub(crate) groups_used: BTreeSet<GroupId>,
    /// The record of who has switched that an earlier cutover may have left. A later one is somebody else's.
    pub(crate) earlier_record: Option<Version>,
}

pub(crate) async fn prepare<P: Ports>(cutover: &Cutover<'_, P>, crew: &mut Crew<P>) -> Result<Prepared, CutoverError> {
    let lanes = cutover.lanes.iter().flat_map(|lane| &lane.partitions);
    let partitions: BTreeMap<_, _> = lanes.map(|planned| (planned.partition.clone(), planned.topic_id)).collect();
    cutover.step.begin("looking for partitions that appeared");
    nothing_appeared(cutover, &partitions).await?;
    cutover.step.begin("preparing topics, markers and groups");
    give_compacted_topics_their_policy(cutover).await?;
    let (groups, groups_used) = warm_up_groups(cutover).await?;
    let parts = warm_up_markers(cutover, &partitions).await?;
    cutover.step.begin("catching up");
    catch_up(cutover, crew, &partitions).await?;
    cutover.step.begin("comparing keys where tombstones may have been missed");
    let doubtful = crew.board().tombstones_doubtful();
    if let Some(missed) = tombstones_missed(cutover.migration, cutover.scope, &doubtful).await? {
        return Err(missed.into());
    }
    let (earlier_record, _) = cutover.migration.client_switch().await?;
    Ok(Prepared { partitions, parts, groups, groups_used, earlier_record })
}

/// A topic or partition that nobody copies would be missing on the target.
pub(crate) async fn nothing_appeared<P: Ports>(
    cutover: &Cutover<'_, P>,
    partitions: &BTreeMap<TopicPartition, Option<TopicId>>,
) -> Result<(), CutoverError> {
    let migration = cutover.migration;
    let topics = migration.source.describe_topics(None).await.during("look for topics that appeared")?;
    let selection = &migration.config.topics;
    for topic in topics.iter().filter(|topic| selection.reason_to_leave_out(topic).is_none()) {
        for described in &topic.partitions {
            let partition = TopicPartition { topic: topic.name.clone(), partition: described.id };
            if !partitions.contains_key(&partition) {
                return Err(CutoverError::Appeared { partition });
            }
        }
    }
    Ok(())
}

/// Connect and schema registries insist on `compact`; nothing is compacted yet.
async fn give_compacted_topics_their_policy<P: Ports>(cutover: &Cutover<'_, P>) -> Result<(), CutoverError> {
    let changes: BTreeMap<TopicName, BTreeMap<String, Option<String>>> = cutover
        .scope
        .topics
        .iter()
        .map(|topic| (topic.name.clone(), topic.ready_changes()))
        .filter(|(_, changes)| !changes.is_empty())
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    let answers = cutover
        .migration
        .target
        .alter_topic_configs(&changes)
        .await
        .during("give compacted topics their cleanup policy on the target")?;
    match answers.into_iter().find_map(|(topic, answer)| answer.err().map(|error| (topic, error))) {
        None => Ok(()),
        Some((topic, (code, detail))) => Err(MigrationError::Refused {
            sentence: format!("the target refuses cleanup.policy=compact for {topic}: {code} {detail}"),
        }
        .into()),
    }
}

/// Finds the coordinators of all groups on both sides, and makes sure that nobody uses them on the target now. Answers
/// all, and those that were used there before.
async fn warm_up_groups<P: Ports>(cutover: &Cutover<'_, P>) -> Result<(Vec<GroupId>, BTreeSet<GroupId>), CutoverError> {
    let migration = cutover.migration;
    let groups = migration.source.list_groups().await.during("list the source's groups")?;
    let Some(first) = groups.first() else { return Ok((groups, BTreeSet::new())) };
    // A commit of nothing has a target make the topic for positions that it makes when the first commit comes: measured
    // 0.5 to 1.7 s that producers need not stand still for. Describing them then finds every group's coordinator.
    migration
        .target
        .commit_group_offsets(first, &GroupOffsets::new())
        .await
        .during("find the groups' coordinators on the target")?;
    let on_target = migration.target.describe_groups(&groups).await.during("describe the groups on the target")?;
    if let Some(active) = on_target.iter().find(|described| described.members > 0) {
        return Err(CutoverError::GroupOnTarget { group: active.id.clone(), members: active.members });
    }
    let used = on_target.into_iter().filter(GroupDescription::had_members).map(|described| described.id).collect();
    migration.source.group_offsets(&groups).await.during("read the groups' positions on the source")?;
    tracing::debug!(groups = groups.len(), "groups are warm");
    Ok((groups, used))
}

/// Finds the source's leaders, and takes the transactional ids that will mark it.
async fn warm_up_markers<P: Ports>(
    cutover: &Cutover<'_, P>,
    partitions: &BTreeMap<TopicPartition, Option<TopicId>>,
) -> Result<Vec<MarkingPart>, CutoverError> {
    let migration = cutover.migration;
    let partitions: Vec<_> = partitions.keys().cloned().collect();
    let mut parts = Vec::new();
    migration.source.log_ends(&partitions, LogEnd::Latest).await.during("read the source's ends")?;
    // A producer that is opened is written down by the source.
    if migration.config.cutover.marker != MarkerKind::Control {
        return Ok(parts);
    }
    for (number, partitions) in marking_parts(&partitions).into_iter().enumerate() {
        let transactional_id = marking_transactional_id(&migration.id, number);
        let producer = migration
            .source
            .open_producer(&transactional_id)
            .await
            .during("open the producer that marks the source")?;
        parts.push(MarkingPart { transactional_id, producer, partitions });
    }
    Ok(parts)
}

/// Lets the lanes copy until they are as close as the operator wants.
async fn catch_up<P: Ports>(
    cutover: &Cutover<'_, P>,
    crew: &mut Crew<P>,
    partitions: &BTreeMap<TopicPartition, Option<TopicId>>,
) -> Result<(), CutoverError> {
    let settings = &cutover.migration.config.cutover;
    let clock = &cutover.migration.clock;
    cutover.lanes.iter().for_each(|lane| crew.add(lane.clone()));
    let mut readiness = DrainReadiness::new(settings.drain_max_partition_lag, Duration::ZERO);
    let started = clock.now();
    loop {
        tokio::select! {
            error = crew.failure() => return Err(error.into()),
            () = clock.sleep(LOOK_EVERY) => {}
        }
        let board = crew.board().partitions();
        let drains = partitions
            .keys()
            .map(|partition| {
                let drain = board.get(partition).map_or(PartitionDrain::NotHeardOf, |lag| PartitionDrain::At {
                    lag: lag.lag(),
                    waits_for_transaction: lag.waits_for_transaction(),
                });
                (partition.clone(), drain)
            })
            .collect();
        let Err(causes) = readiness.judge(clock.now(), &drains) else { return Ok(()) };
        if clock.now() - started > settings.drain_timeout {
            let causes = drain_sentence(&cutover.migration.source, clock, &causes).await;
            return Err(CutoverError::NotCaughtUp { causes });
        }
    }
}

/// Partitions that wait for an open transaction now.
pub(crate) fn held_back(board: &TailBoard) -> Vec<TopicPartition> {
    let partitions = board.partitions().into_iter();
    partitions.filter(|(_, lag)| lag.waits_for_transaction()).map(|(partition, _)| partition).collect()
}
