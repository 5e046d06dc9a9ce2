//! Keys of a compacted topic to which clients have given another value on the target since.
//!
//! On a compacted topic the last record of a key is its value. A straggler that is appended behind what a client has
//! written since would take that back, and nobody would see it.
//!
//! Does not: close the time between this look and the append. A client that writes the same key in it is overwritten.

use std::{collections::BTreeSet, ops::ControlFlow};

use bytes::Bytes;
use krossing_core::{
    TargetOffset, TopicPartition,
    limits::MARK_VISIBLE_WAIT_MAX,
    ports::{ClusterError, LogEnd, LogReader, Ports},
    records::{Batches, RecordError},
    stragglers::key_text,
};
use krossing_replication::{ScanFrom, scan};
use krossing_runtime::{ForStep, Migration};

use crate::{StragglersError, known};

/// A key that has another value by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerKey {
    /// Where.
    pub partition: TopicPartition,
    /// The first such key, as text.
    pub key: String,
    /// The target offset of the record that a client wrote.
    pub target_offset: TargetOffset,
}

/// The first key among the stragglers `batches` to which somebody other than `ours` has written on the target at or
/// behind `from`.
pub(crate) async fn newer_key<P: Ports>(
    migration: &Migration<P>,
    partition: &TopicPartition,
    batches: Bytes,
    from: TargetOffset,
    ours: &BTreeSet<i64>,
) -> Result<Option<NewerKey>, StragglersError> {
    let not_understood = |source| StragglersError::NotUnderstood { partition: partition.clone(), source };
    let keys = keys(batches).map_err(not_understood)?;
    let attempt = "read what clients have written to the target";
    let only = [partition.clone()];
    let ends = migration.target.log_ends(&only, LogEnd::Latest).await.during(attempt)?;
    let end = known(ends, attempt)?.remove(partition).unwrap_or_default();
    let mut offset = from.0;
    while offset < end {
        let mut found = Ok(None);
        let start = ScanFrom { partition: partition.clone(), topic_id: None, offset };
        let unseen = scan(&migration.target, &migration.clock, vec![start], MARK_VISIBLE_WAIT_MAX, |_, batch| {
            let looked = batch.map_err(Clone::clone).and_then(|batch| {
                let header = &batch.header;
                let of_clients = !header.is_control() && !ours.contains(&header.producer.id);
                let hit = match of_clients {
                    true => batch
                        .records()?
                        .into_iter()
                        .find(|record| record.key.as_ref().is_some_and(|key| keys.contains(key))),
                    false => None,
                };
                Ok((hit, header.last_offset() + 1 >= end))
            });
            match looked {
                Ok((None, false)) => return ControlFlow::Continue(()),
                Ok((hit, _)) => found = Ok(hit),
                Err(error) => found = Err(error),
            }
            ControlFlow::Break(())
        })
        .await
        .during(attempt)?;
        if let Some(record) = found.map_err(not_understood)? {
            let key = key_text(record.key.as_deref().unwrap_or_default());
            return Ok(Some(NewerKey {
                partition: partition.clone(),
                key,
                target_offset: TargetOffset(record.offset),
            }));
        }
        offset = match unseen.get(partition) {
            None => end,
            Some(next) if *next > offset => *next,
            Some(next) => {
                let detail = format!("{partition} gives nothing from offset {next} on, and ends at {end}");
                let side = krossing_core::Side::Target;
                return Err(ClusterError::Unavailable { side, attempt: attempt.to_owned(), detail }).during(attempt)?;
            }
        };
    }
    Ok(None)
}

fn keys(batches: Bytes) -> Result<BTreeSet<Bytes>, RecordError> {
    let mut keys = BTreeSet::new();
    for batch in Batches::new(batches) {
        keys.extend(batch?.records()?.into_iter().filter_map(|record| record.key));
    }
    Ok(keys)
}
