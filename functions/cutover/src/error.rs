//! Why a cutover did not reach READY.

use std::{error::Error, time::Duration};

use krossing_core::{
    ErrorClass, GroupId, KafkaCode, Offset, Side, TopicPartition,
    codes::{LEFT_BEHIND, OPEN_TRANSACTION},
    ports::FreezeError,
    stragglers::StrayRecord,
};
use krossing_replication::LaneError;
use krossing_runtime::MigrationError;
use krossing_validate::TombstonesMissed;

/// Why a cutover did not reach READY. Unless it says otherwise, producers may go on and the migration is at
/// `drain_ready` again.
#[derive(Debug, thiserror::Error)]
pub enum CutoverError {
    /// A step failed.
    #[error(transparent)]
    Migration(#[from] MigrationError),
    /// A lane cannot go on.
    #[error("the copy cannot go on")]
    Lane(#[from] LaneError),
    /// Producers could not be asked to stand still.
    #[error("producers were not brought to stand still")]
    NotFrozen(#[source] FreezeError),
    /// Producers were asked, and nobody confirmed that they stand still.
    #[error("nobody confirmed that producers stand still: {detail}")]
    FreezeNotConfirmed {
        /// What was answered instead.
        detail: String,
    },
    /// Producers could not be told that they may go on.
    #[error(
        "producers may still be standing still: they could not be told to go on; do it by hand, then `krossing resume`"
    )]
    NotReleased {
        /// What happened.
        #[source]
        source: FreezeError,
    },
    /// The target did not keep up before the freeze.
    #[error("the target is not close enough to the source to begin: {causes}")]
    NotCaughtUp {
        /// What holds it back.
        causes: String,
    },
    /// The process would have been ended while producers stand still.
    #[error(
        "producers were not asked to stand still: {step} took so long that this process might have been ended meanwhile; \
         the next cutover finds more done"
    )]
    TooLate {
        /// What was being done.
        step: &'static str,
    },
    /// The freeze took longer than the operator allows.
    #[error("cutover.max_producer_freeze ({budget:?}) ended while {step}")]
    OutOfTime {
        /// The bound.
        budget: Duration,
        /// What was being done.
        step: &'static str,
    },
    /// The freeze took longer than the operator allows, because a transaction did not end.
    #[error(
        "{OPEN_TRANSACTION}: cutover.max_producer_freeze ({budget:?}) ended while {step}; {}; {}",
        .transactions.join("; "), OPEN_TRANSACTION.remedy
    )]
    HeldBack {
        /// The bound.
        budget: Duration,
        /// What was being done.
        step: &'static str,
        /// The partitions that waited.
        partitions: Vec<TopicPartition>,
        /// What holds each of them back.
        transactions: Vec<String>,
    },
    /// The source has deleted keys that still have a value on the target.
    #[error(transparent)]
    TombstonesMissed(#[from] TombstonesMissed),
    /// READY was journaled, and what came with it or right behind it failed.
    #[error("the cutover reached READY, and then something failed: `krossing resume` goes on")]
    ReadyUnseen {
        /// What was reported first.
        #[source]
        source: Box<CutoverError>,
    },
    /// Partitions refused their closing marker.
    #[error("{partition} on the {side} could not be marked: {code}")]
    NotMarked {
        /// On which cluster.
        side: Side,
        /// Which.
        partition: TopicPartition,
        /// The broker's code.
        code: KafkaCode,
    },
    /// A closing marker was written but not seen in time.
    #[error("the closing marker of {partition} was not seen at offset {offset}")]
    MarkNotSeen {
        /// Which.
        partition: TopicPartition,
        /// Where it was looked for.
        offset: Offset,
    },
    /// A visible marker did not get into a log.
    #[error(
        "the closing marker of {partition} was not written ({why}); where the topic takes no record without value, \
         write `cutover.marker: control`"
    )]
    SentinelNotWritten {
        /// Where.
        partition: TopicPartition,
        /// What the source said.
        why: String,
    },
    /// Without markers: a log went on after the freeze.
    #[error(
        "{LEFT_BEHIND}: {partition} moved to end offset {end} while producers were said to stand still, and cannot stand still \
         for {window:?} (cutover.standstill_window) any more within the freeze; {}", LEFT_BEHIND.remedy
    )]
    NotStill {
        /// Which moved last.
        partition: TopicPartition,
        /// To where.
        end: Offset,
        /// How long all must stand still.
        window: Duration,
    },
    /// A producer was not frozen.
    #[error(
        "{LEFT_BEHIND}: {partition} received a record at offset {}, behind where it was closed{}: a producer of this topic was \
         not standing still; {}", .record.offset, .record.by(), LEFT_BEHIND.remedy
    )]
    ProducerLeftBehind {
        /// Which.
        partition: TopicPartition,
        /// The record.
        record: StrayRecord,
    },
    /// Topics or partitions appeared after the lanes were laid.
    #[error("{partition} appeared on the source after the copy began; `krossing execute` takes it up")]
    Appeared {
        /// Which.
        partition: TopicPartition,
    },
    /// A lane was closed before it had reached the marker.
    #[error("{partition} is copied up to source offset {copied_to}, and not up to {closed_from} where it was closed")]
    NotDrained {
        /// Which.
        partition: TopicPartition,
        /// How far it is copied.
        copied_to: Offset,
        /// Where it was closed.
        closed_from: Offset,
    },
    /// A group has members on the target already.
    #[error(
        "group {group} has {members} members on the target: stop them before the cutover; they would move positions"
    )]
    GroupOnTarget {
        /// Which.
        group: GroupId,
        /// How many.
        members: usize,
    },
    /// The target's log moved under the copy.
    #[error(
        "the target's log of {partition} is from {log_start} to {end}, where {expected_start} to {expected_end} was copied"
    )]
    Floor {
        /// Which.
        partition: TopicPartition,
        /// Its first offset.
        log_start: Offset,
        /// Its end.
        end: Offset,
        /// Where its first offset must be.
        expected_start: Offset,
        /// Where its end must be.
        expected_end: Offset,
    },
    /// A position could not be written.
    #[error("the position of group {group} in {partition} was refused on the target: {code}")]
    CommitRefused {
        /// Which group.
        group: GroupId,
        /// Where.
        partition: TopicPartition,
        /// The broker's code.
        code: KafkaCode,
    },
    /// A position reads back as something else.
    #[error("group {group} reads back {found:?} in {partition} on the target, where {expected} was committed")]
    CommitNotReadBack {
        /// Which group.
        group: GroupId,
        /// Where.
        partition: TopicPartition,
        /// What was written.
        expected: Offset,
        /// What was read.
        found: Option<Offset>,
    },
}

impl CutoverError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            CutoverError::Migration(error) => error.class(),
            CutoverError::Lane(error) => error.class(),
            // Producers stand still until it is done, so that it is tried again whatever the answer was.
            CutoverError::NotReleased { .. } => ErrorClass::Retryable,
            CutoverError::NotFrozen(_)
            | CutoverError::FreezeNotConfirmed { .. }
            | CutoverError::NotCaughtUp { .. }
            | CutoverError::TooLate { .. }
            | CutoverError::OutOfTime { .. }
            | CutoverError::HeldBack { .. }
            | CutoverError::ReadyUnseen { .. }
            | CutoverError::NotMarked { .. }
            | CutoverError::MarkNotSeen { .. }
            | CutoverError::SentinelNotWritten { .. }
            | CutoverError::NotStill { .. }
            | CutoverError::ProducerLeftBehind { .. }
            | CutoverError::Appeared { .. }
            | CutoverError::GroupOnTarget { .. }
            | CutoverError::CommitRefused { .. } => ErrorClass::Refused,
            CutoverError::TombstonesMissed(_)
            | CutoverError::NotDrained { .. }
            | CutoverError::Floor { .. }
            | CutoverError::CommitNotReadBack { .. } => ErrorClass::DataAtRisk,
        }
    }
}

/// An error with everything behind it, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(behind) = source {
        texts.push(behind.to_string());
        source = behind.source();
    }
    texts.dedup();
    texts.join(": ")
}
