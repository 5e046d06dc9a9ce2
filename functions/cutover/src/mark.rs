//! Closing markers on the source, and what may not follow them.

use std::{collections::BTreeMap, ops::ControlFlow};

use futures::future::try_join_all;
use krossing_core::{
    KafkaCode, Offset, Side, SourceOffset, TopicId, TopicPartition,
    limits::MARK_VISIBLE_WAIT_MAX,
    ports::{ClusterResult, LogEnd, LogReader, Marker, PerPartition, Ports},
};
use krossing_replication::{ScanFrom, records_behind, scan};
use krossing_runtime::{ForStep, MigrationError};

use crate::{
    Cutover, CutoverError,
    prepare::{MarkingPart, Prepared},
};

/// Marks every partition of the source, and sees the markers.
pub(crate) async fn mark<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
) -> Result<BTreeMap<TopicPartition, SourceOffset>, CutoverError> {
    let source = &cutover.migration.source;
    let before = source_ends(cutover, prepared).await?;
    tracing::debug!("the source's ends are known");
    try_join_all(prepared.parts.iter().map(|part| mark_part(cutover, part))).await?;
    tracing::debug!("the marking transactions are committed");
    let markers_of: BTreeMap<_, _> = prepared
        .parts
        .iter()
        .flat_map(|part| part.partitions.iter().map(|partition| (partition.clone(), part.producer)))
        .collect();
    let mut markers = BTreeMap::new();
    let starts = starts(&prepared.partitions, |partition| before[partition]);
    let unseen =
        scan(source, &cutover.migration.clock, starts, MARK_VISIBLE_WAIT_MAX, |partition, batch| match batch {
            Ok(batch) if batch.header.is_control() && batch.header.producer == markers_of[partition] => {
                markers.insert(partition.clone(), SourceOffset(batch.header.base_offset));
                ControlFlow::Break(())
            }
            Ok(_) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        })
        .await
        .during("see the closing markers on the source")?;
    let missing = prepared.partitions.keys().find(|partition| !markers.contains_key(*partition));
    match missing {
        None => Ok(markers),
        Some(partition) => Err(CutoverError::MarkNotSeen {
            partition: partition.clone(),
            offset: unseen.get(partition).copied().unwrap_or(before[partition]),
        }),
    }
}

async fn mark_part<P: Ports>(cutover: &Cutover<'_, P>, part: &MarkingPart) -> Result<(), CutoverError> {
    let refused = cutover
        .migration
        .source
        .mark(&part.transactional_id, part.producer, &part.partitions)
        .await
        .during("mark the source")?;
    match refused.into_iter().next() {
        None => Ok(()),
        Some((partition, code)) => Err(CutoverError::NotMarked { side: Side::Source, partition, code }),
    }
}

/// Makes sure that no record has come behind a marker. Other control batches may: they are nothing to copy.
pub(crate) async fn nothing_behind_markers<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
    markers: &BTreeMap<TopicPartition, SourceOffset>,
) -> Result<(), CutoverError> {
    let starts = starts(&prepared.partitions, |partition| markers[partition].0 + 1);
    let migration = cutover.migration;
    let found =
        records_behind(&migration.source, &migration.clock, starts).await.during("look behind the closing markers")?;
    match found.into_iter().next() {
        None => Ok(()),
        Some((partition, offset)) => Err(CutoverError::ProducerLeftBehind { partition, offset }),
    }
}

async fn source_ends<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
) -> Result<BTreeMap<TopicPartition, Offset>, CutoverError> {
    let partitions: Vec<_> = prepared.partitions.keys().cloned().collect();
    ends(cutover.migration.source.log_ends(&partitions, LogEnd::Latest).await, "read the source's ends")
}

/// One offset for each partition, or the error of one that has none.
pub(crate) fn ends(
    answer: ClusterResult<PerPartition<Offset>>,
    attempt: &'static str,
) -> Result<BTreeMap<TopicPartition, Offset>, CutoverError> {
    answer
        .during(attempt)?
        .into_iter()
        .map(|(partition, end)| {
            end.map(|end| (partition.clone(), end)).map_err(|code| refused(attempt, &partition, code))
        })
        .collect()
}

fn refused(attempt: &'static str, partition: &TopicPartition, code: KafkaCode) -> CutoverError {
    MigrationError::Refused { sentence: format!("could not {attempt}: {partition} answers {code}") }.into()
}

fn starts(
    partitions: &BTreeMap<TopicPartition, Option<TopicId>>,
    offset: impl Fn(&TopicPartition) -> Offset,
) -> Vec<ScanFrom> {
    partitions
        .iter()
        .map(|(partition, topic_id)| ScanFrom {
            partition: partition.clone(),
            topic_id: *topic_id,
            offset: offset(partition),
        })
        .collect()
}
