//! How far a partition has been copied: what a worker writes down before and after it acts, and reads when it starts.
//!
//! Stored; a new field is optional or a new version. Everything a successor needs to go on exactly is here and in the
//! two logs: where the source is read next, where the target's log must end, what may have been appended since
//! (`ahead`), and the last runs of the offset map.
//!
//! Invariants: every source offset below `source_next` was copied or will never be (a marker, aborted, compacted away,
//! or a gap that is listed); the target's records below `target_next` are final; `ahead` lists, in order, every record
//! that may stand at or after `target_next`.

use std::iter::Sum;

use serde::{Deserialize, Serialize};

use crate::types::{LeaderEpoch, Producer, SourceOffset, TargetOffset, TopicId, TopicPartition};

/// Records with consecutive source offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceRun {
    /// Offset of the first.
    pub source_first: SourceOffset,
    /// How many.
    pub count: i64,
    /// The source's leader epoch they were read under.
    pub epoch: LeaderEpoch,
}

impl SourceRun {
    /// The offset after the last.
    pub fn source_end(&self) -> SourceOffset {
        self.source_first.plus(self.count)
    }
}

/// Records with consecutive offsets on both sides: one line of the offset map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Run {
    /// Source offset of the first.
    pub source_first: SourceOffset,
    /// Target offset of the first.
    pub target_first: TargetOffset,
    /// How many.
    pub count: i64,
}

impl Run {
    /// The source offset after the last.
    pub fn source_end(&self) -> SourceOffset {
        self.source_first.plus(self.count)
    }

    /// The target offset after the last.
    pub fn target_end(&self) -> TargetOffset {
        self.target_first.plus(self.count)
    }
}

/// A chunk object of the offset map: runs that can no longer grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapChunk {
    /// Its key among the objects.
    pub key: String,
    /// Source offset of its first record.
    pub source_first: SourceOffset,
    /// Source offset after its last record.
    pub source_end: SourceOffset,
    /// Target offset of its first record.
    pub target_first: TargetOffset,
    /// Target offset after its last record.
    pub target_end: TargetOffset,
    /// How many records it maps.
    pub records: i64,
    /// How many runs it has.
    pub runs: u64,
    /// SHA-256 of the object, in hex.
    pub sha256: String,
}

/// Records of the source that could not be copied because they were gone before they were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first offset that was gone.
    pub from: SourceOffset,
    /// The first offset that was there again (log start).
    pub to: SourceOffset,
    /// When it was noticed, in milliseconds since 1970.
    pub noticed_unix_ms: i64,
}

/// What was done with a partition's batches: the figures of the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyCounts {
    /// Records appended to the target.
    pub records: u64,
    /// Bytes of the target batches that hold them.
    pub bytes: u64,
    /// Source batches passed as they are.
    pub batches_passed: u64,
    /// Source batches packed with neighbours.
    pub batches_packed: u64,
    /// Source batches re-written record by record.
    pub batches_rewritten: u64,
    /// Control batches of ours on the target: fences.
    pub fences: u64,
}

impl Sum for CopyCounts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            records: sum.records + one.records,
            bytes: sum.bytes + one.bytes,
            batches_passed: sum.batches_passed + one.batches_passed,
            batches_packed: sum.batches_packed + one.batches_packed,
            batches_rewritten: sum.batches_rewritten + one.batches_rewritten,
            fences: sum.fences + one.fences,
        })
    }
}

/// How far one partition has been copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// The partition.
    pub partition: TopicPartition,
    /// The source topic's identity when copying began: another one later is another topic.
    pub topic_id: Option<TopicId>,
    /// The log start of the source when seeding began.
    pub seed_first: SourceOffset,
    /// Where the seed hands over to the tail: the source's stable end when seeding began.
    pub seed_end: SourceOffset,
    /// Everything below is in segments, or never to be copied. At least `source_next` while seeding.
    pub stored_to: SourceOffset,
    /// Leader epoch of the last batch stored or copied: what a fetch is compared with.
    pub source_epoch: Option<LeaderEpoch>,
    /// Where the source is copied from next.
    pub source_next: SourceOffset,
    /// Where the target's log must end when nothing of `ahead` is in.
    pub target_next: TargetOffset,
    /// Whose batches may stand at and after `target_next`, up to the next fence in the log.
    pub producer: Option<Producer>,
    /// The write-ahead: every record that may have been appended there, in order. Empty while seeding, where the
    /// segments say it.
    pub ahead: Vec<SourceRun>,
    /// The map's older part, in objects.
    pub map_chunks: Vec<MapChunk>,
    /// The map's newest runs; the last one may still grow.
    pub map_runs: Vec<Run>,
    /// Lost before they were read.
    pub gaps: Vec<Gap>,
    /// Since when, in milliseconds since 1970, we have been reading without having reached the source's end; none while
    /// we are at the end. As stored it is never none: nobody reads while nobody runs.
    pub behind_since_unix_ms: Option<i64>,
    /// The longest time from reading an offset to reaching the source's end. Where it exceeds `delete.retention.ms` of
    /// a compacted topic, a tombstone may have been cleaned before it was read.
    pub behind_longest_ms: i64,
    /// The figures.
    pub counts: CopyCounts,
}

impl PartitionProgress {
    /// A partition of which nothing has been copied yet.
    pub fn begin(
        partition: TopicPartition,
        topic_id: Option<TopicId>,
        seed_first: SourceOffset,
        seed_end: SourceOffset,
        target_next: TargetOffset,
    ) -> Self {
        Self {
            partition,
            topic_id,
            seed_first,
            seed_end,
            stored_to: seed_first,
            source_epoch: None,
            source_next: seed_first,
            target_next,
            producer: None,
            ahead: Vec::new(),
            map_chunks: Vec::new(),
            map_runs: Vec::new(),
            gaps: Vec::new(),
            behind_since_unix_ms: None,
            behind_longest_ms: 0,
            counts: CopyCounts::default(),
        }
    }

    /// Whether the seed of this partition is on the target. The last segment may reach beyond where the seed ends: all
    /// of it comes from the segment, or two things would announce what stands on the target.
    pub fn seeded(&self) -> bool {
        self.source_next >= self.seed_end.max(self.stored_to)
    }
}
