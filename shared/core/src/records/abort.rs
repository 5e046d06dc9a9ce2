//! Which batches are committed data: the algorithm of Kafka's own consumer when it reads committed.
//!
//! A broker bounds a read-committed Fetch by the last stable offset and lists the aborted transactions that overlap the
//! answer, but leaves their data and all markers in the bytes: to drop them is the reader's part.
//!
//! Invariants: give it every batch of the range that the list was made for, in order and from the range's beginning,
//! also those that are skipped for other reasons: a transaction ends at its marker, and the list does not say where that
//! is. The list may be the union of the lists of consecutive ranges; a transaction that is listed twice counts once.
//!
//! Does not: notice a marker that compaction removed between two Fetches of one union (data first, the marker only
//! `delete.retention.ms` later); the producer's next transaction would be taken for aborted. So keep a union short: a
//! segment, not a partition.

use std::collections::{BTreeSet, HashSet};

use super::{ControlType, RawBatch, RecordError, record};
use crate::ports::AbortedTransaction;

/// What a batch is to a reader of committed data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Committed data, or data outside of any transaction.
    Data,
    /// Written by a broker: the marker of a transaction, or another control record.
    Control,
    /// Data of an aborted transaction.
    Aborted,
}

/// Tells committed from aborted data, batch by batch.
#[derive(Debug, Clone)]
pub struct AbortFilter {
    /// Not yet reached, by first offset.
    ahead: BTreeSet<(i64, i64)>,
    /// Producers within an aborted transaction.
    aborting: HashSet<i64>,
}

impl AbortFilter {
    /// For a range whose Fetch answers listed `aborted`.
    pub fn new(aborted: impl IntoIterator<Item = AbortedTransaction>) -> Self {
        let ahead = aborted.into_iter().map(|t| (t.first_offset, t.producer_id)).collect();
        Self { ahead, aborting: HashSet::new() }
    }

    /// What the next batch of the range is.
    pub fn verdict(&mut self, batch: &RawBatch) -> Result<Verdict, RecordError> {
        let header = &batch.header;
        while let Some(&(first_offset, producer_id)) = self.ahead.first() {
            if first_offset > header.last_offset() {
                break;
            }
            self.ahead.pop_first();
            self.aborting.insert(producer_id);
        }
        if header.is_control() {
            if record::control_type(batch)? == Some(ControlType::Abort) {
                self.aborting.remove(&header.producer.id);
            }
            return Ok(Verdict::Control);
        }
        let aborted = header.is_transactional() && self.aborting.contains(&header.producer.id);
        Ok(if aborted { Verdict::Aborted } else { Verdict::Data })
    }
}
