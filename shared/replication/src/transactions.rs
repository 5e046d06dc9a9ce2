//! Who holds a partition back: the transactions that are open on it now.
//!
//! Asked where somebody is to be told, never while copying: the batch at the last stable offset is the first of the
//! transaction that holds it back, and names its producer and its time. That needs no right and no version beyond those
//! of reading.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use krossing_core::{
    Offset, TopicPartition,
    drain::{DrainCause, OpenTransaction},
    ports::{Clock, ClusterError, LogEnd, LogReader, PerPartition},
};

use crate::scan::{ScanFrom, scan};

/// How long the first batches are waited for: they are there; only an election may be waited for.
const LOOK: Duration = Duration::from_secs(5);

/// The transactions that hold back `partitions`, one a partition: that of the last stable offset.
pub async fn open_transactions<R: LogReader, C: Clock>(
    reader: &R,
    clock: &C,
    partitions: &[TopicPartition],
) -> Result<Vec<OpenTransaction>, ClusterError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let stable = reader.log_ends(partitions, LogEnd::LatestStable).await?;
    let ends = reader.log_ends(partitions, LogEnd::Latest).await?;
    let end_of = |ends: &PerPartition<Offset>, partition| ends.get(partition).cloned().and_then(Result::ok);
    let mut open: BTreeMap<TopicPartition, OpenTransaction> = BTreeMap::new();
    for partition in partitions {
        if let (Some(from), Some(end)) = (end_of(&stable, partition), end_of(&ends, partition))
            && from < end
        {
            let partition = partition.clone();
            let held_back = end - from;
            let unnamed =
                OpenTransaction { partition: partition.clone(), producer: None, from, since_unix_ms: None, held_back };
            open.insert(partition, unnamed);
        }
    }
    let starts = open.values().map(|it| ScanFrom { partition: it.partition.clone(), topic_id: None, offset: it.from });
    scan(reader, clock, starts.collect(), LOOK, |partition, batch| {
        if let (Ok(batch), Some(open)) = (batch, open.get_mut(partition))
            && batch.header.is_transactional()
            && !batch.header.is_control()
        {
            open.producer = Some(batch.header.producer);
            open.since_unix_ms = Some(batch.header.base_timestamp);
        }
        ControlFlow::Break(())
    })
    .await?;
    Ok(open.into_values().collect())
}

/// What holds a migration back, in one sentence; of transactions also whose they are.
pub async fn drain_sentence<R: LogReader, C: Clock>(reader: &R, clock: &C, causes: &[DrainCause]) -> String {
    let waiting: Vec<_> = causes
        .iter()
        .filter_map(|cause| match cause {
            DrainCause::OpenTransaction { partition, .. } => Some(partition.clone()),
            DrainCause::NotHeardOf { .. } | DrainCause::Lag { .. } | DrainCause::NotYetStable { .. } => None,
        })
        .collect();
    let open = open_transactions(reader, clock, &waiting).await.unwrap_or_else(|error| {
        // That they are open is known all the same.
        tracing::warn!(%error, "open transactions could not be looked at");
        Vec::new()
    });
    let named = |cause: &DrainCause| match cause {
        DrainCause::OpenTransaction { partition, .. } => open.iter().find(|open| open.partition == *partition),
        DrainCause::NotHeardOf { .. } | DrainCause::Lag { .. } | DrainCause::NotYetStable { .. } => None,
    };
    let now = clock.unix_ms();
    let texts = causes.iter().map(|cause| named(cause).map_or_else(|| cause.to_string(), |open| open.sentence(now)));
    texts.collect::<Vec<_>>().join("; ")
}
