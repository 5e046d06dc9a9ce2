//! Segments: what of a source partition lies in durable storage between the two clusters.
//!
//! A segment is an object of raw record batches as the broker answered them, in Kafka's own log format and under
//! Kafka's own file name (20 digits of the base offset), so that the standard dump tool reads it. Beside it lies its
//! index, which also carries the aborted transactions that overlap it: without those its data could not be told from
//! data that was never committed.

use serde::{Deserialize, Serialize};

use crate::{
    ports::AbortedTransaction,
    types::{LeaderEpoch, MigrationId, SourceOffset, TopicId, TopicPartition},
};

/// The version of [`SegmentIndex`] that this code writes.
pub const SEGMENT_VERSION: u32 = 1;

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentIndex {
    /// The version of this format.
    pub version: u32,
    /// The partition.
    pub partition: TopicPartition,
    /// The source topic's identity, where it has one.
    pub topic_id: Option<TopicId>,
    /// The first offset asked for: the segment's name. Its first batch may begin before or after it.
    pub first: SourceOffset,
    /// The offset to read next: every offset in between is in the segment or was not in the log.
    pub next: SourceOffset,
    /// Leader epoch of its last batch.
    pub last_epoch: Option<LeaderEpoch>,
    /// How many bytes of batches.
    pub bytes: u64,
    /// Bytes of its largest batch: what restoring must have room for. None in segments that were written without it.
    #[serde(default)]
    pub batch_bytes_max: Option<u64>,
    /// The largest timestamp in it, in milliseconds since 1970.
    pub timestamp_max_ms: Option<i64>,
    /// SHA-256 of the batches, in hex.
    pub sha256: String,
    /// Aborted transactions that overlap it, also those begun before it.
    pub aborted: Vec<AbortedTransaction>,
}

/// The folder of a migration's segments.
pub fn segments_prefix(migration: &MigrationId) -> String {
    format!("{migration}/segments/")
}

/// The folder of a partition's segments.
pub fn segment_prefix(migration: &MigrationId, partition: &TopicPartition) -> String {
    format!("{}{}/{}/", segments_prefix(migration), partition.topic, partition.partition)
}

/// The object of the batches.
pub fn segment_key(migration: &MigrationId, partition: &TopicPartition, first: SourceOffset) -> String {
    format!("{}{:020}.log", segment_prefix(migration, partition), first.0)
}

/// The object of the index. Written after the batches: where it is, they are.
pub fn segment_index_key(migration: &MigrationId, partition: &TopicPartition, first: SourceOffset) -> String {
    format!("{}{:020}.json", segment_prefix(migration, partition), first.0)
}

/// The first offset of the segment that an index key names; none for any other key.
pub fn first_offset_of_index_key(key: &str) -> Option<SourceOffset> {
    let name = key.rsplit('/').next()?.strip_suffix(".json")?;
    (name.len() == 20).then(|| name.parse().ok()).flatten().map(SourceOffset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_key_names_its_first_offset() {
        let migration: MigrationId = "m".parse().expect("a good id");
        let partition = TopicPartition::new("orders", 3);
        let key = segment_index_key(&migration, &partition, SourceOffset(42));
        assert_eq!(key, "m/segments/orders/3/00000000000000000042.json");
        assert_eq!(first_offset_of_index_key(&key), Some(SourceOffset(42)));
        assert_eq!(first_offset_of_index_key("m/segments/orders/3/00000000000000000042.log"), None);
    }
}
