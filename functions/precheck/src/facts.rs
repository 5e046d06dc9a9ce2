//! The facts that need more than an inventory.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::Duration,
};

use bytes::Bytes;
use krossing_core::{
    GroupId, Offset, TopicPartition,
    plan::{MigrationPlan, SourceInventory, TargetInventory},
    ports::{ClusterResult, GroupOffsets, Groups, LogEnd, LogReader, Objects, Ports},
    precheck::LogSpan,
    records::RecordProblem,
};
use krossing_replication::{ScanFrom, scan};
use krossing_runtime::{ForStep, Migration, MigrationResult};

/// The object that is written to see whether a store can be written to.
const PROBE: &str = "precheck-probe";

/// How long the first batches of all partitions may take to be read. A partition without one (everything compacted
/// away, or aborted) is waited for this long in vain.
const FIRST_BATCH_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a store cannot be written to and read back; none where it can.
pub(crate) async fn store_problem(store: &impl Objects) -> Option<String> {
    let content = Bytes::from_static(b"krossing precheck");
    if let Err(error) = store.put(PROBE, vec![content.clone()]).await {
        return Some(error.to_string());
    }
    match store.get(PROBE).await {
        Ok(Some(stored)) if stored == content => None,
        Ok(_) => Some("what was written reads back as something else".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// What the first batches of the source's partitions say.
#[derive(Debug, Default)]
pub(crate) struct FirstBatches {
    /// Those in message format 0 or 1. Later batches are in no older format than the first.
    pub(crate) old_format: BTreeMap<TopicPartition, Offset>,
    /// Partitions that could not be read, and why.
    pub(crate) unread: BTreeMap<TopicPartition, String>,
}

pub(crate) async fn first_batches<P: Ports>(
    migration: &Migration<P>,
    plan: &MigrationPlan,
    source: &SourceInventory,
) -> MigrationResult<FirstBatches> {
    // A partition without a leader is a finding of its own, and cannot be asked.
    let led: BTreeSet<TopicPartition> = source
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
        .filter(|(_, partition)| partition.leader.is_some())
        .map(|(topic, partition)| TopicPartition { topic: topic.name.clone(), partition: partition.id })
        .collect();
    let planned = plan.topics.iter().flat_map(|topic| topic.partition_list());
    let partitions: Vec<TopicPartition> = planned.filter(|partition| led.contains(partition)).collect();
    let ids: BTreeMap<_, _> = plan.topics.iter().map(|topic| (&topic.name, topic.source_topic_id)).collect();
    let spans = spans(&migration.source, &partitions).await.during("ask where the source's logs begin")?;
    let mut found = FirstBatches::default();
    let silent = partitions.iter().filter(|partition| !spans.contains_key(*partition));
    found
        .unread
        .extend(silent.map(|partition| (partition.clone(), "its leader does not say where it ends".to_owned())));
    let starts: Vec<ScanFrom> = spans
        .into_iter()
        .filter(|(_, span)| span.start < span.end)
        .map(|(partition, span)| {
            let topic_id = ids.get(&partition.topic).copied().flatten();
            ScanFrom { topic_id, partition, offset: span.start }
        })
        .collect();
    let first: BTreeMap<TopicPartition, Offset> =
        starts.iter().map(|start| (start.partition.clone(), start.offset)).collect();
    let unread = scan(&migration.source, &migration.clock, starts, FIRST_BATCH_WAIT_MAX, |partition, batch| {
        if let Err(error) = batch
            && matches!(error.problem, RecordProblem::Format { .. })
        {
            found.old_format.insert(partition.clone(), first[partition]);
        }
        ControlFlow::Break(())
    })
    .await
    .during("read the first batches of the source")?;
    let why = |(partition, offset)| (partition, format!("no answer brought its batch at offset {offset}"));
    found.unread.extend(unread.into_iter().map(why));
    Ok(found)
}

/// Where the logs of planned topics that exist on the target begin and end.
pub(crate) async fn target_logs<P: Ports>(
    migration: &Migration<P>,
    plan: &MigrationPlan,
    target: &TargetInventory,
) -> MigrationResult<BTreeMap<TopicPartition, LogSpan>> {
    let planned: BTreeSet<_> = plan.topics.iter().map(|topic| &topic.name).collect();
    let partitions: Vec<TopicPartition> = target
        .topics
        .iter()
        .filter(|topic| planned.contains(&topic.name))
        .flat_map(|topic| {
            let named = |id| TopicPartition { topic: topic.name.clone(), partition: id };
            topic.partitions.iter().map(move |partition| named(partition.id))
        })
        .collect();
    spans(&migration.target, &partitions).await.during("ask whether topics on the target are empty")
}

/// Both ends of logs; a partition that does not tell is left out.
async fn spans(
    reader: &impl LogReader,
    partitions: &[TopicPartition],
) -> ClusterResult<BTreeMap<TopicPartition, LogSpan>> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (starts, ends) =
        tokio::try_join!(reader.log_ends(partitions, LogEnd::Earliest), reader.log_ends(partitions, LogEnd::Latest))?;
    let both = starts.into_iter().filter_map(|(partition, start)| {
        let end = ends.get(&partition)?.as_ref().ok()?;
        Some((partition, LogSpan { start: start.ok()?, end: *end }))
    });
    Ok(both.collect())
}

/// Positions on the target of planned groups.
pub(crate) async fn target_positions<P: Ports>(
    migration: &Migration<P>,
    plan: &MigrationPlan,
    target: &TargetInventory,
) -> MigrationResult<BTreeMap<GroupId, GroupOffsets>> {
    let planned: BTreeSet<_> = plan.groups.iter().map(|group| &group.id).collect();
    let there = target.groups.iter().filter(|group| planned.contains(&group.id));
    let there: Vec<GroupId> = there.map(|group| group.id.clone()).collect();
    migration.target.group_offsets(&there).await.during("read the positions of groups on the target")
}
