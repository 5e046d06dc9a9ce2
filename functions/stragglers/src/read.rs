//! Committed records of a stretch of a source partition, as the batches they lie in.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use krossing_core::{
    Offset, SourceOffset,
    cutover::sentinel_in,
    limits::{CALL_RETRY_MAX, RETRY_PAUSE_MAX, STRAGGLERS_BYTES_MAX, TAIL_FETCH_PARTITION_BYTES, TAIL_FETCH_WAIT},
    ports::{Clock, ClusterError, FetchPartition, FetchRequest, Isolation, LogReader, Ports},
    records::{AbortFilter, Batches, Verdict},
    stragglers::{STRAGGLER_RECORDS_SHOWN, StragglerRecord},
};
use krossing_replication::ScanFrom;
use krossing_runtime::{ForStep, Migration};

use crate::StragglersError;

/// What was read.
pub(crate) struct Committed {
    pub(crate) start: ScanFrom,
    /// Behind the last offset that was looked at.
    pub(crate) to: SourceOffset,
    pub(crate) records: u64,
    pub(crate) producers: BTreeSet<i64>,
    pub(crate) first_records: Vec<StragglerRecord>,
    /// Whole batches of committed data, one after another.
    pub(crate) batches: Bytes,
}

/// Reads from `start` up to `end`, or until it is enough for one decision.
pub(crate) async fn committed<P: Ports>(
    migration: &Migration<P>,
    start: ScanFrom,
    end: Offset,
) -> Result<Committed, StragglersError> {
    let (source, clock) = (&migration.source, &migration.clock);
    let attempt = "read the records behind where the source was closed";
    let (mut batches, mut producers, mut first_records) = (BytesMut::new(), BTreeSet::new(), Vec::new());
    let (mut records, mut offset) = (0, start.offset);
    let (mut fresh, mut heard) = (false, clock.now());
    let mut last_answer = "no broker leads it".to_owned();
    while offset < end && batches.len() < STRAGGLERS_BYTES_MAX {
        let leaders = source.leaders(std::slice::from_ref(&start.partition), fresh).await.during(attempt)?;
        let mut fetched = None;
        if let Some(Ok(leader)) = leaders.get(&start.partition) {
            let partition = FetchPartition {
                partition: start.partition.clone(),
                topic_id: start.topic_id,
                offset,
                last_epoch: None,
                bytes_max: TAIL_FETCH_PARTITION_BYTES,
            };
            let request = FetchRequest {
                broker: leader.broker,
                partitions: vec![partition],
                isolation: Isolation::ReadCommitted,
                wait_max: TAIL_FETCH_WAIT,
                bytes_min: 1,
                bytes_max: TAIL_FETCH_PARTITION_BYTES,
            };
            fetched = match source.fetch(request).await.during(attempt)?.remove(&start.partition) {
                Some(Ok(fetched)) => Some(fetched),
                Some(Err(code)) => {
                    last_answer = code.to_string();
                    None
                }
                None => None,
            };
        }
        let before = offset;
        if let Some(fetched) = fetched {
            last_answer = "no error".to_owned();
            let mut filter = AbortFilter::new(fetched.aborted);
            for batch in Batches::new(fetched.records) {
                let not_understood =
                    |source| StragglersError::NotUnderstood { partition: start.partition.clone(), source };
                let batch = batch.map_err(not_understood)?;
                let verdict = filter.verdict(&batch).map_err(not_understood)?;
                let header = &batch.header;
                if header.last_offset() < offset || header.base_offset >= end {
                    continue;
                }
                offset = header.last_offset() + 1;
                // A visible marker of ours that arrived late is nobody's record.
                let ours = sentinel_in(&batch, &migration.id).map_err(not_understood)?.is_some();
                if verdict == Verdict::Data && header.records_count > 0 && !ours {
                    records += u64::from(header.records_count.unsigned_abs());
                    producers.extend((header.producer.id >= 0).then_some(header.producer.id));
                    batches.extend_from_slice(&batch.bytes);
                    if first_records.len() < STRAGGLER_RECORDS_SHOWN {
                        let more = batch.records().map_err(not_understood)?;
                        first_records.extend(more.iter().map(StragglerRecord::of));
                        first_records.truncate(STRAGGLER_RECORDS_SHOWN);
                    }
                }
            }
        }
        fresh = offset == before;
        if !fresh {
            heard = clock.now();
        } else if clock.now() - heard > CALL_RETRY_MAX {
            let detail = format!(
                "{} gives nothing from offset {offset} on, and ends at {end}; its last answer: {last_answer}",
                start.partition
            );
            let side = krossing_core::Side::Source;
            return Err(ClusterError::Unavailable { side, attempt: attempt.to_owned(), detail }).during(attempt)?;
        } else {
            clock.sleep(RETRY_PAUSE_MAX).await;
        }
    }
    Ok(Committed { start, to: SourceOffset(offset), records, producers, first_records, batches: batches.freeze() })
}
