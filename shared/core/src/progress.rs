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

/// Where a source partition ended, and when it did not yet end further: when that was asked, not when the answer was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEnd {
    /// The offset after its last record.
    pub offset: SourceOffset,
    /// Milliseconds since 1970.
    pub unix_ms: i64,
}

impl SourceEnd {
    /// Of progress that an earlier version has stored: everything may be gone since.
    fn not_known() -> Self {
        Self { offset: nothing(), unix_ms: 0 }
    }

    /// Whether a tombstone written behind this end may be gone for who reads it at `read_unix_ms`, having read up to
    /// `read_to`. Where no offset has been given since, none was written.
    fn may_have_lost(self, read_to: SourceOffset, read_unix_ms: i64, tombstones_kept_ms: i64) -> bool {
        read_to > self.offset && read_unix_ms - self.unix_ms > tombstones_kept_ms
    }
}

fn nothing() -> SourceOffset {
    SourceOffset(0)
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
    /// The latest end of a compacted source before which everything has been copied.
    #[serde(default = "SourceEnd::not_known")]
    pub end_read: SourceEnd,
    /// The end that is copied towards. Not before `end_read`.
    #[serde(default = "SourceEnd::not_known")]
    pub end_ahead: SourceEnd,
    /// Below it, tombstones may have been cleaned on the source before they were read; 0 where none may have been.
    #[serde(default = "nothing")]
    pub tombstones_doubtful_to: SourceOffset,
    /// How often copying began again at an earlier offset, because the target had lost records.
    #[serde(default)]
    pub went_back_times: u32,
    /// The figures.
    pub counts: CopyCounts,
}

impl PartitionProgress {
    /// A partition of which nothing has been copied yet, begun at a time in milliseconds since 1970.
    pub fn begin(
        partition: TopicPartition,
        topic_id: Option<TopicId>,
        seed_first: SourceOffset,
        seed_end: SourceOffset,
        target_next: TargetOffset,
        unix_ms: i64,
    ) -> Self {
        let first = SourceEnd { offset: seed_first, unix_ms };
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
            end_read: first,
            end_ahead: first,
            tombstones_doubtful_to: SourceOffset(0),
            went_back_times: 0,
            counts: CopyCounts::default(),
        }
    }

    /// Whether the seed of this partition is on the target. The last segment may reach beyond where the seed ends: all
    /// of it comes from the segment, or two things would announce what stands on the target.
    pub fn seeded(&self) -> bool {
        self.source_next >= self.seed_end.max(self.stored_to)
    }

    /// Takes in at `now_unix_ms` that a compacted source, which keeps tombstones for `tombstones_kept_ms`, ends at `end`.
    /// What is read and not yet copied is left out: whoever goes on after a crash reads it again. Answers whether this is
    /// worth a save of its own: a partition that has come to its end may stay there for days, and they are not to count.
    pub fn heard(&mut self, end: SourceEnd, now_unix_ms: i64, tombstones_kept_ms: i64) -> bool {
        if self.source_next < self.end_ahead.offset {
            return false;
        }
        let before = self.end_read.offset;
        // What was written since `end_read` was read only now.
        if self.end_read.may_have_lost(self.source_next, now_unix_ms, tombstones_kept_ms) {
            self.tombstones_doubtful_to = self.tombstones_doubtful_to.max(self.source_next);
        }
        self.end_read = if self.source_next >= end.offset { end } else { self.end_ahead };
        self.end_ahead = end;
        self.end_read.offset > before
    }

    /// Goes back: what is copied from `source_next` on is copied again, from a source that may have forgotten some of it.
    pub fn go_back(&mut self, source_next: SourceOffset) {
        let long_ago = SourceEnd { offset: source_next, unix_ms: 0 };
        (self.source_next, self.end_read, self.end_ahead) = (source_next, long_ago, long_ago);
        self.went_back_times += 1;
    }

    /// `tombstones_doubtful_to` as it would be if everything up to `end` were read at `now_unix_ms`: a partition may be
    /// close enough to its end for a cutover without having reached it.
    pub fn doubtful_if_read(&self, end: SourceOffset, now_unix_ms: i64, tombstones_kept_ms: i64) -> SourceOffset {
        match self.end_read.may_have_lost(end, now_unix_ms, tombstones_kept_ms) {
            true => end,
            false => self.tombstones_doubtful_to,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEPT_MS: i64 = 1_000;

    fn begun() -> PartitionProgress {
        let partition = TopicPartition::new("prices", 0);
        PartitionProgress::begin(partition, None, SourceOffset(0), SourceOffset(0), TargetOffset(0), 0)
    }

    fn end(offset: i64, unix_ms: i64) -> SourceEnd {
        SourceEnd { offset: SourceOffset(offset), unix_ms }
    }

    /// Copies up to `source_next` of a source that ends at `end`.
    fn copied(progress: &mut PartitionProgress, source_next: i64, end: SourceEnd) -> bool {
        progress.source_next = SourceOffset(source_next);
        progress.heard(end, end.unix_ms, KEPT_MS)
    }

    #[test]
    fn a_partition_to_which_nothing_was_written_is_not_doubtful_however_long_nobody_looked() {
        let mut progress = begun();
        assert!(copied(&mut progress, 5, end(5, 10)), "that the end was reached is to be known after a restart");
        assert!(!copied(&mut progress, 5, end(5, 1_000_000)));
        assert_eq!(progress.tombstones_doubtful_to, SourceOffset(0));
        copied(&mut progress, 6, end(6, 2_000_000));
        assert_eq!(progress.tombstones_doubtful_to, SourceOffset(6));
    }

    #[test]
    fn a_partition_that_is_written_without_a_pause_is_not_doubtful_while_reading_follows() {
        let mut progress = begun();
        // Its end is never reached, only that of the time before.
        for second in 1..100 {
            let ends = end(second + 1, second * KEPT_MS / 2);
            copied(&mut progress, second, ends);
            assert_eq!(progress.doubtful_if_read(ends.offset, ends.unix_ms, KEPT_MS), SourceOffset(0), "{second}");
        }
    }

    #[test]
    fn what_is_copied_again_is_doubtful() {
        let mut progress = begun();
        copied(&mut progress, 9, end(9, 1_000_010));
        progress.go_back(SourceOffset(3));
        copied(&mut progress, 9, end(9, 1_000_020));
        assert_eq!((progress.tombstones_doubtful_to, progress.went_back_times), (SourceOffset(9), 1));
    }

    #[test]
    fn an_end_is_as_old_as_the_question_however_long_its_answer_waits() {
        let mut progress = begun();
        progress.source_next = SourceOffset(5);
        progress.heard(end(5, 10), 10, KEPT_MS);
        // Asked at 20, used at 900: what was written from 20 on is behind it.
        progress.heard(end(5, 20), 900, KEPT_MS);
        progress.source_next = SourceOffset(6);
        progress.heard(end(6, 1_030), 1_030, KEPT_MS);
        assert_eq!(progress.tombstones_doubtful_to, SourceOffset(6));
    }

    #[derive(Debug, Clone, Copy)]
    struct Turn {
        before_writing_ms: i64,
        writes: i64,
        before_reading_ms: i64,
        reads: usize,
        /// Whether the process then dies, and what was read and not copied is read again by the next.
        dies: bool,
        copies: usize,
    }

    fn turn() -> impl Strategy<Value = Turn> {
        (0i64..3_000, 0i64..5, 0i64..3_000, 0usize..8, prop::bool::weighted(0.2), 0usize..8).prop_map(
            |(before_writing_ms, writes, before_reading_ms, reads, dies, copies)| Turn {
                before_writing_ms,
                writes,
                before_reading_ms,
                reads,
                dies,
                copies,
            },
        )
    }

    proptest! {
        /// By turns a source is written to, read from, and what was read is copied, some of it later.
        #[test]
        fn whatever_was_read_too_late_is_doubtful(turns in prop::collection::vec(turn(), 1..40)) {
            let (mut progress, mut now, mut read_to, mut copied_to) = (begun(), 0, 0usize, 0usize);
            let mut stored = progress.clone();
            let mut written_unix_ms = Vec::new();
            let mut late = None;
            for turn in turns {
                now += turn.before_writing_ms;
                written_unix_ms.extend((0..turn.writes).map(|_| now));
                now += turn.before_reading_ms;
                for _ in 0..turn.reads {
                    let Some(written) = written_unix_ms.get(read_to) else { break };
                    if now - written > KEPT_MS {
                        late = late.max(Some(read_to as i64));
                    }
                    read_to += 1;
                }
                copied_to = read_to.min(copied_to + turn.copies);
                let ends = end(written_unix_ms.len() as i64, now);
                if copied(&mut progress, copied_to as i64, ends) {
                    stored = progress.clone();
                }
                let doubtful_to = progress.doubtful_if_read(ends.offset, now, KEPT_MS);
                prop_assert!(late.is_none_or(|late| late < doubtful_to.0), "{late:?} {doubtful_to:?}");
                if turn.dies {
                    // Whatever was saved since with what was copied.
                    stored.source_next = progress.source_next;
                    progress = stored.clone();
                    read_to = copied_to;
                }
            }
        }
    }
}
