//! What stands in a target partition's log between the last checkpoint and the fence.
//!
//! Why: a worker that starts does not know what its predecessor's last sends became. It raises the epoch of the lane's
//! producer, so that nothing of the predecessor can follow, and reads the log up to the control batch of that fence:
//! what stands before it is final. Counting it, and mapping the count through the write-ahead, tells which source
//! record comes next, without asking the source, which may have been compacted or trimmed meanwhile.
//!
//! Invariants: a record counts as ours only while the last fence in the log before it is of its own producer and epoch;
//! everything else is a foreign writer and stops the lane. The log is dense: a gap means that the target lost or
//! cleaned what it was told to keep.

use crate::{
    codes::{Code, FOREIGN_WRITER, TARGET_DAMAGED},
    progress::{PartitionProgress, Run, SourceRun},
    types::{Offset, Producer, TargetOffset, TopicPartition},
};

/// What of a batch's header matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBatch {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Whether it is a transaction's marker.
    pub control: bool,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
    /// Who wrote it; id -1 for a writer without one.
    pub producer: Producer,
}

/// Why the log is not what the ledger says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadBackError {
    /// Somebody else has written to a topic that is being filled.
    #[error(
        "{FOREIGN_WRITER}: {partition} on the target holds a batch at offset {offset} that Krossing did not write \
         ({producer}): somebody else writes to this topic; {}", FOREIGN_WRITER.remedy
    )]
    ForeignWriter {
        /// Where.
        partition: TopicPartition,
        /// The batch's first offset.
        offset: TargetOffset,
        /// Who wrote it.
        producer: Producer,
    },
    /// Records that were copied are gone from the target.
    #[error(
        "{TARGET_DAMAGED}: {partition} on the target continues at offset {found} where {expected} was expected: records \
         that were copied are gone; {}", TARGET_DAMAGED.remedy
    )]
    Lost {
        /// Where.
        partition: TopicPartition,
        /// The offset that must follow.
        expected: TargetOffset,
        /// The offset that follows.
        found: TargetOffset,
    },
    /// A later owner has raised the epoch again: it is we who are fenced.
    #[error("{partition} on the target was fenced by {newer} after our {ours}: this worker is no longer the owner")]
    Fenced {
        /// Where.
        partition: TopicPartition,
        /// What we fenced with.
        ours: Producer,
        /// What the log shows.
        newer: Producer,
    },
    /// A batch that cannot be read.
    #[error("{TARGET_DAMAGED}: a batch of {partition} on the target cannot be read: {detail}; {}", TARGET_DAMAGED.remedy)]
    NotUnderstood {
        /// Where.
        partition: TopicPartition,
        /// What is wrong with it.
        detail: String,
    },
    /// More of our records than were ever announced.
    #[error(
        "{TARGET_DAMAGED}: {partition} on the target holds {found} records after the checkpoint where {announced} were \
         announced; {}", TARGET_DAMAGED.remedy
    )]
    NotAnnounced {
        /// Where.
        partition: TopicPartition,
        /// How many stand there.
        found: i64,
        /// How many may.
        announced: i64,
    },
}

impl ReadBackError {
    /// Its code, where an operator has something to put right.
    pub fn code(&self) -> Option<Code> {
        match self {
            ReadBackError::ForeignWriter { .. } => Some(FOREIGN_WRITER),
            ReadBackError::Lost { .. } | ReadBackError::NotUnderstood { .. } | ReadBackError::NotAnnounced { .. } => {
                Some(TARGET_DAMAGED)
            }
            ReadBackError::Fenced { .. } => None,
        }
    }
}

/// The walk through one partition's log, from the checkpoint to the fence.
#[derive(Debug)]
pub struct ReadBack {
    partition: TopicPartition,
    next: TargetOffset,
    writer: Option<Producer>,
    lane_producer_ids: Vec<i64>,
    fence: Producer,
    records: Vec<(TargetOffset, i64)>,
    fences: u64,
    complete: bool,
}

impl ReadBack {
    /// A walk from the checkpoint of `progress` to the control batch of `fence`. `lane_producers` are all that the
    /// ledger names for this lane.
    pub fn new(progress: &PartitionProgress, lane_producers: &[Producer], fence: Producer) -> Self {
        Self {
            partition: progress.partition.clone(),
            next: progress.target_next,
            writer: progress.producer,
            lane_producer_ids: lane_producers.iter().map(|producer| producer.id).chain([fence.id]).collect(),
            fence,
            records: Vec::new(),
            fences: 0,
            complete: false,
        }
    }

    /// The offset to read next.
    pub fn next(&self) -> TargetOffset {
        self.next
    }

    /// Whether the fence has been seen: nothing after it concerns us.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Takes the next batch of the log. Batches before the checkpoint (a Fetch may begin with one) are passed over.
    pub fn see(&mut self, batch: LogBatch) -> Result<(), ReadBackError> {
        if self.complete || batch.last_offset < self.next.0 {
            return Ok(());
        }
        if batch.base_offset != self.next.0 {
            return Err(ReadBackError::Lost {
                partition: self.partition.clone(),
                expected: self.next,
                found: TargetOffset(batch.base_offset),
            });
        }
        if batch.control {
            self.see_fence(batch)?
        } else {
            self.see_records(batch)?
        }
        self.next = TargetOffset(batch.last_offset + 1);
        Ok(())
    }

    fn see_fence(&mut self, batch: LogBatch) -> Result<(), ReadBackError> {
        if !self.lane_producer_ids.contains(&batch.producer.id) {
            return Err(self.foreign(batch));
        }
        let newer = batch.producer.id == self.fence.id && batch.producer.epoch > self.fence.epoch;
        if newer {
            return Err(ReadBackError::Fenced {
                partition: self.partition.clone(),
                ours: self.fence,
                newer: batch.producer,
            });
        }
        self.writer = Some(batch.producer);
        self.fences += 1;
        self.complete = batch.producer == self.fence;
        Ok(())
    }

    fn see_records(&mut self, batch: LogBatch) -> Result<(), ReadBackError> {
        if batch.transactional || self.writer != Some(batch.producer) {
            return Err(self.foreign(batch));
        }
        self.records.push((TargetOffset(batch.base_offset), batch.last_offset - batch.base_offset + 1));
        Ok(())
    }

    fn foreign(&self, batch: LogBatch) -> ReadBackError {
        ReadBackError::ForeignWriter {
            partition: self.partition.clone(),
            offset: TargetOffset(batch.base_offset),
            producer: batch.producer,
        }
    }

    /// How many records of ours stand after the checkpoint.
    pub fn records_found(&self) -> i64 {
        self.records.iter().map(|(_, count)| count).sum()
    }

    /// Brings `progress` up to the fence: maps the records found through what was announced, in order. Answers the
    /// runs to append to the offset map.
    pub fn settle(self, progress: &mut PartitionProgress, announced: &[SourceRun]) -> Result<Vec<Run>, ReadBackError> {
        let found = self.records_found();
        let runs = pair(announced, &self.records).ok_or_else(|| ReadBackError::NotAnnounced {
            partition: self.partition.clone(),
            found,
            announced: announced.iter().map(|run| run.count).sum(),
        })?;
        if let Some(last) = runs.last() {
            progress.source_next = last.source_end();
        }
        progress.counts.records += u64::try_from(found).expect("a count of records is not negative");
        progress.counts.fences += self.fences;
        progress.target_next = self.next;
        progress.producer = Some(self.fence);
        progress.ahead.clear();
        Ok(runs)
    }
}

/// Pairs records in source order with the places they were found at; none where there are more places than records.
fn pair(announced: &[SourceRun], found: &[(TargetOffset, i64)]) -> Option<Vec<Run>> {
    let mut announced = announced.iter().copied();
    let mut current = announced.next();
    let mut runs = Vec::new();
    for &(mut target_first, mut left) in found {
        while left > 0 {
            let run = current?;
            if run.count == 0 {
                current = announced.next();
                continue;
            }
            let count = run.count.min(left);
            runs.push(Run { source_first: run.source_first, target_first, count });
            target_first = target_first.plus(count);
            left -= count;
            current = Some(SourceRun { source_first: run.source_first.plus(count), count: run.count - count, ..run });
        }
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LeaderEpoch, SourceOffset};

    const OLD: Producer = Producer { id: 7, epoch: 1 };
    const FENCE: Producer = Producer { id: 7, epoch: 2 };

    fn progress() -> PartitionProgress {
        let mut progress = PartitionProgress::begin(
            TopicPartition::new("t", 0),
            None,
            SourceOffset(100),
            SourceOffset(200),
            TargetOffset(10),
            0,
        );
        progress.producer = Some(OLD);
        progress
    }

    fn data(base_offset: i64, count: i64, producer: Producer) -> LogBatch {
        LogBatch { base_offset, last_offset: base_offset + count - 1, control: false, transactional: false, producer }
    }

    fn control(offset: i64, producer: Producer) -> LogBatch {
        LogBatch { control: true, transactional: true, ..data(offset, 1, producer) }
    }

    fn run(source_first: i64, count: i64) -> SourceRun {
        SourceRun { source_first: SourceOffset(source_first), count, epoch: LeaderEpoch(0) }
    }

    fn walk(log: &[LogBatch]) -> Result<ReadBack, ReadBackError> {
        let mut walk = ReadBack::new(&progress(), &[OLD], FENCE);
        for batch in log {
            walk.see(*batch)?;
        }
        Ok(walk)
    }

    #[test]
    fn records_before_the_fence_are_mapped_through_what_was_announced() {
        let walk = walk(&[data(5, 5, OLD), data(10, 3, OLD), data(13, 4, OLD), control(17, FENCE), data(18, 1, FENCE)])
            .expect("all ours");
        let mut progress = progress();
        let runs = walk.settle(&mut progress, &[run(100, 2), run(105, 9)]).expect("all announced");
        let run = |source, target, count| Run {
            source_first: SourceOffset(source),
            target_first: TargetOffset(target),
            count,
        };
        assert_eq!(runs, [run(100, 10, 2), run(105, 12, 1), run(106, 13, 4)]);
        assert_eq!((progress.source_next, progress.target_next), (SourceOffset(110), TargetOffset(18)));
        assert_eq!(progress.producer, Some(FENCE));
    }

    #[test]
    fn a_batch_of_a_fenced_epoch_behind_a_newer_fence_is_foreign() {
        let between = Producer { id: 7, epoch: 1 };
        let mut walk = ReadBack::new(&progress(), &[OLD], Producer { id: 7, epoch: 3 });
        walk.see(control(10, FENCE)).expect("a fence of ours");
        assert!(matches!(walk.see(data(11, 1, between)), Err(ReadBackError::ForeignWriter { .. })));
    }

    #[test]
    fn what_is_not_ours_is_named() {
        let stranger = Producer { id: 99, epoch: 0 };
        for log in [data(10, 1, stranger), control(10, stranger), LogBatch { transactional: true, ..data(10, 1, OLD) }]
        {
            let found = walk(&[log]).expect_err("it is not ours");
            let named = ["B45", "t-0", "offset 10", &log.producer.to_string(), "delete the topic's copy"];
            assert!(named.iter().all(|name| found.to_string().contains(name)), "{log:?}: {found}");
        }
    }

    #[test]
    fn a_hole_in_the_log_is_a_loss() {
        assert!(matches!(walk(&[data(11, 1, OLD)]), Err(ReadBackError::Lost { .. })));
    }

    #[test]
    fn a_later_epoch_than_our_fence_means_that_we_are_fenced() {
        let newer = Producer { id: 7, epoch: 3 };
        assert!(matches!(walk(&[control(10, newer)]), Err(ReadBackError::Fenced { .. })));
    }

    #[test]
    fn more_records_than_announced_are_refused() {
        let walk = walk(&[data(10, 3, OLD), control(13, FENCE)]).expect("all ours");
        assert!(matches!(
            walk.settle(&mut progress(), &[run(100, 2)]),
            Err(ReadBackError::NotAnnounced { found: 3, announced: 2, .. })
        ));
    }
}
