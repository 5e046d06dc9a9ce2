//! Completing the target: the last records, the last fence, the target boundary, and the guard of what was copied.

use std::{collections::BTreeMap, sync::Arc};

use krossing_core::{
    LaneId, SourceOffset, TargetOffset, TopicPartition,
    ports::{LogEnd, LogReader, Ports},
    progress::PartitionProgress,
};
use krossing_replication::{Crew, TailOrder, close_lanes};

use crate::{Cutover, CutoverError, mark::ends};

/// A partition whose lane is closed.
pub(crate) type Closed = BTreeMap<TopicPartition, PartitionProgress>;

/// Lets the lanes copy up to and with the markers and come to rest there.
pub(crate) async fn drain<P: Ports>(
    crew: &mut Crew<P>,
    closed_from: &BTreeMap<TopicPartition, SourceOffset>,
) -> Result<(), CutoverError> {
    crew.order(TailOrder::StopAt(Arc::new(closed_from.clone())));
    Ok(crew.rest().await?)
}

/// Fences every lane for the last time. From here on no worker writes, and what is on the target is final.
pub(crate) async fn close<P: Ports>(
    cutover: &Cutover<'_, P>,
    closed_from: &BTreeMap<TopicPartition, SourceOffset>,
) -> Result<Closed, CutoverError> {
    let closed: BTreeMap<LaneId, Vec<PartitionProgress>> = close_lanes(&cutover.ctx, cutover.lanes).await?;
    let closed: Closed =
        closed.into_values().flatten().map(|progress| (progress.partition.clone(), progress)).collect();
    for (partition, closed_from) in closed_from {
        let copied_to = closed.get(partition).map_or(SourceOffset(-1), |progress| progress.source_next);
        if copied_to < *closed_from {
            return Err(CutoverError::NotDrained {
                partition: partition.clone(),
                copied_to: copied_to.0,
                closed_from: closed_from.0,
            });
        }
    }
    Ok(closed)
}

/// The target boundary of each partition: the offset after its closing fence.
pub(crate) fn boundaries(closed: &Closed) -> BTreeMap<TopicPartition, TargetOffset> {
    closed.iter().map(|(partition, progress)| (partition.clone(), progress.target_next)).collect()
}

/// Retention or DeleteRecords on the target would show as a log that begins after what was copied first, or ends before
/// the boundary; a foreign writer as one that ends behind it.
pub(crate) async fn guard_floor<P: Ports>(cutover: &Cutover<'_, P>, closed: &Closed) -> Result<(), CutoverError> {
    let partitions: Vec<_> = closed.keys().cloned().collect();
    let target = &cutover.migration.target;
    let attempt = "read the target's log ends";
    let starts = ends(target.log_ends(&partitions, LogEnd::Earliest).await, attempt)?;
    let ends = ends(target.log_ends(&partitions, LogEnd::Latest).await, attempt)?;
    for (partition, progress) in closed {
        let (log_start, end) = (starts[partition], ends[partition]);
        let first_chunk = progress.map_chunks.first().map(|chunk| chunk.target_first);
        let first_run = progress.map_runs.first().map(|run| run.target_first);
        let expected_start = first_chunk.or(first_run).map_or(progress.target_next.0, |first| first.0);
        let expected_end = progress.target_next.0;
        if log_start > expected_start || end != expected_end {
            let partition = partition.clone();
            return Err(CutoverError::Floor { partition, log_start, end, expected_start, expected_end });
        }
    }
    Ok(())
}
