//! Reading logs batch by batch until something is found: fences, closing markers, records where none may be.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use krossing_core::{
    MigrationId, Offset, TopicId, TopicPartition,
    cutover::sentinel_in,
    limits::{TAIL_FETCH_BYTES, TAIL_FETCH_PARTITION_BYTES},
    ports::{Clock, ClusterError, FetchPartition, FetchRequest, Isolation, LogEnd, LogReader},
    records::{
        RecordError,
        batch::{Batches, RawBatch},
    },
    stragglers::StrayRecord,
};

/// How long a broker may wait for the batch we look for; short, because it is about to be written.
const WAIT: Duration = Duration::from_millis(100);

/// Pause before leaders are asked for again.
const LEADER_PAUSE: Duration = Duration::from_millis(50);

/// Where a scan of one partition begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanFrom {
    /// The partition.
    pub partition: TopicPartition,
    /// The identity it must have, where known.
    pub topic_id: Option<TopicId>,
    /// The first offset.
    pub offset: Offset,
}

/// Reads each partition's log from its start, uncommitted data included, and shows every batch to `see` until it
/// breaks for that partition. A batch that is not understood is shown as its error, and ends that partition. Answers the partitions for which it never broke within `wait_max`, with the offset that
/// was to be read next.
pub async fn scan<R: LogReader, C: Clock>(
    reader: &R,
    clock: &C,
    starts: Vec<ScanFrom>,
    wait_max: Duration,
    mut see: impl FnMut(&TopicPartition, Result<&RawBatch, &RecordError>) -> ControlFlow<()> + Send,
) -> Result<BTreeMap<TopicPartition, Offset>, ClusterError> {
    let deadline = clock.now() + wait_max;
    let ids: BTreeMap<TopicPartition, Option<TopicId>> =
        starts.iter().map(|start| (start.partition.clone(), start.topic_id)).collect();
    let mut open: BTreeMap<TopicPartition, Offset> =
        starts.into_iter().map(|start| (start.partition, start.offset)).collect();
    let mut fresh = false;
    while !open.is_empty() && clock.now() < deadline {
        let partitions: Vec<_> = open.keys().cloned().collect();
        let leaders = reader.leaders(&partitions, fresh).await?;
        let mut requests: BTreeMap<_, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, &offset) in &open {
            let Some(Ok(leader)) = leaders.get(partition) else { continue };
            requests.entry(leader.broker).or_default().push(FetchPartition {
                partition: partition.clone(),
                topic_id: ids[partition],
                offset,
                last_epoch: None,
                bytes_max: TAIL_FETCH_PARTITION_BYTES,
            });
        }
        fresh = requests.values().map(Vec::len).sum::<usize>() < open.len();
        let mut answers: FuturesUnordered<_> = requests
            .into_iter()
            .map(|(broker, partitions)| {
                reader.fetch(FetchRequest {
                    broker,
                    partitions,
                    isolation: Isolation::ReadUncommitted,
                    wait_max: WAIT,
                    bytes_min: 1,
                    bytes_max: TAIL_FETCH_BYTES,
                })
            })
            .collect();
        while let Some(answer) = answers.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(ClusterError::Unavailable { .. }) => {
                    fresh = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (partition, fetched) in answer {
                let Ok(fetched) = fetched else {
                    fresh = true;
                    continue;
                };
                let Some(offset) = open.get_mut(&partition) else { continue };
                for batch in Batches::new(fetched.records) {
                    if let Ok(batch) = &batch {
                        if batch.header.last_offset() < *offset {
                            continue;
                        }
                        *offset = batch.header.last_offset() + 1;
                    }
                    // Nothing can be read behind a batch that is not understood.
                    if see(&partition, batch.as_ref()).is_break() || batch.is_err() {
                        open.remove(&partition);
                        break;
                    }
                }
            }
        }
        drop(answers);
        if fresh {
            clock.sleep(LEADER_PAUSE).await;
        }
    }
    Ok(open)
}

/// How long is looked behind marks: what is there is there, only an election may be waited for.
const LOOK_BEHIND: Duration = Duration::from_secs(5);

/// What lies behind where partitions were closed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// The first record of each partition that has one.
    pub found: BTreeMap<TopicPartition, StrayRecord>,
    /// Partitions that could not be looked at, and why: there may be records.
    pub unknown: BTreeMap<TopicPartition, String>,
}

/// The first *record* at or after each start, where there is one. Control batches are none: they may follow a mark. Nor
/// are the migration's own visible markers: one whose answer was lost may arrive at any time, also behind the next. What
/// retention has taken is not there any more.
pub async fn records_behind<R: LogReader, C: Clock>(
    reader: &R,
    clock: &C,
    migration: &MigrationId,
    starts: Vec<ScanFrom>,
) -> Result<Behind, ClusterError> {
    let partitions: Vec<_> = starts.iter().map(|start| start.partition.clone()).collect();
    let (log_starts, ends) = futures::try_join!(
        reader.log_ends(&partitions, LogEnd::Earliest),
        reader.log_ends(&partitions, LogEnd::Latest)
    )?;
    let mut behind = Behind::default();
    let mut known: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
    let mut longer = Vec::new();
    for start in starts {
        match (log_starts.get(&start.partition), ends.get(&start.partition)) {
            (Some(Ok(log_start)), Some(Ok(end))) => {
                known.insert(start.partition.clone(), *end);
                let offset = start.offset.max(*log_start);
                longer.extend((*end > offset).then_some(ScanFrom { offset, ..start }));
            }
            (Some(Err(code)), _) | (_, Some(Err(code))) => {
                behind.unknown.insert(start.partition, code.to_string());
            }
            (None, _) | (_, None) => {
                behind.unknown.insert(start.partition, "it was left out of the answer".to_owned());
            }
        }
    }
    let unseen = scan(reader, clock, longer, LOOK_BEHIND, |partition, batch| {
        let record = match batch {
            Ok(batch) if batch.header.is_control() || matches!(sentinel_in(batch, migration), Ok(Some(_))) => {
                let more = batch.header.last_offset() + 1 < known[partition];
                return if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            }
            Ok(batch) => {
                let header = &batch.header;
                let producer = (header.producer.id >= 0).then_some(header.producer);
                StrayRecord { offset: header.base_offset, producer }
            }
            Err(error) => StrayRecord { offset: error.offset, producer: None },
        };
        behind.found.insert(partition.clone(), record);
        ControlFlow::Break(())
    })
    .await?;
    let why = |(partition, offset): (TopicPartition, Offset)| {
        let why = format!("it could not be read from offset {offset} to its end at {}", known[&partition]);
        (partition, why)
    };
    behind.unknown.extend(unseen.into_iter().map(why));
    Ok(behind)
}
