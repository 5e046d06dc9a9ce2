//! Why a lane stopped.

use krossing_core::{
    ErrorClass, KafkaCode, LaneId, SourceOffset, TargetOffset, TopicPartition,
    codes::{RECORDS_REPLACED, SEGMENT_DAMAGED, TOPIC_GONE},
    fence::ReadBackError,
    ports::{ClusterError, StoreError},
    records::RecordError,
};

/// Why a lane stopped for good; what passes with time has been retried before.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// Another worker owns the lane now.
    #[error("{lane} is owned by {owner} now")]
    NotOwner {
        /// The lane.
        lane: LaneId,
        /// Who owns it.
        owner: String,
    },
    /// A cutover has closed the lane: no worker writes to it any more.
    #[error("{lane} was closed by a cutover")]
    Closed {
        /// The lane.
        lane: LaneId,
    },
    /// The process is coming to rest.
    #[error("{lane} was brought to rest before it was done")]
    Halted {
        /// The lane.
        lane: LaneId,
    },
    /// The target's log is not what the ledger says.
    #[error("the target's log of {lane} is not as it was left")]
    ReadBack {
        /// The lane.
        lane: LaneId,
        /// What is wrong.
        #[source]
        source: ReadBackError,
    },
    /// A batch on the source cannot be copied.
    #[error("could not copy a batch of {partition}")]
    Record {
        /// Where.
        partition: TopicPartition,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// The target refused a batch for good.
    #[error("the target refused records of {partition} at offset {offset}: {code} {detail}")]
    Refused {
        /// Where.
        partition: TopicPartition,
        /// The offset at which they would have stood.
        offset: TargetOffset,
        /// The broker's code.
        code: KafkaCode,
        /// The broker's message.
        detail: String,
    },
    /// The source refuses to be read.
    #[error("the source refuses to let {partition} be read at offset {offset}: {code}")]
    SourceRefused {
        /// Where.
        partition: TopicPartition,
        /// The offset asked for.
        offset: SourceOffset,
        /// The broker's code.
        code: KafkaCode,
    },
    /// The source topic was deleted, and perhaps made again under the same name.
    #[error(
        "{TOPIC_GONE}: {partition} is not the topic that this migration began to copy: it was deleted{} on the source; {}",
        if *.recreated { " and created again" } else { "" }, TOPIC_GONE.remedy
    )]
    TopicGone {
        /// Where.
        partition: TopicPartition,
        /// Whether a topic of that name exists.
        recreated: bool,
    },
    /// Records that were copied are not in the source's log any more: an unclean election put others in their place.
    #[error(
        "{RECORDS_REPLACED}: source offsets {from} to {to} of {partition} were copied and have since been replaced by other \
         records (unclean leader election); {}", RECORDS_REPLACED.remedy
    )]
    RecordsReplaced {
        /// Where.
        partition: TopicPartition,
        /// The first offset replaced.
        from: SourceOffset,
        /// The offset after the last one copied.
        to: SourceOffset,
    },
    /// A segment is missing or is not what was written.
    #[error("{SEGMENT_DAMAGED}: segment {key} is damaged: {detail}; {}", SEGMENT_DAMAGED.remedy)]
    Segment {
        /// Its key.
        key: String,
        /// What is wrong.
        detail: String,
    },
    /// A cluster said no, or gave no usable answer until the retries were used up.
    #[error("{lane} could not go on")]
    Cluster {
        /// The lane.
        lane: LaneId,
        /// What was attempted and what happened.
        #[source]
        source: ClusterError,
    },
    /// The ledger or the objects gave no usable answer.
    #[error("{lane} could not go on")]
    Store {
        /// The lane.
        lane: LaneId,
        /// What was attempted and what happened.
        #[source]
        source: StoreError,
    },
    /// Sessions of the lane have failed too often in a row.
    #[error("{lane} was started over {restarts} times without getting further; the last time because {reason}")]
    NoProgress {
        /// The lane.
        lane: LaneId,
        /// How often.
        restarts: u32,
        /// Why the last session ended.
        reason: String,
    },
    /// The offset map would not stay monotone: a mistake of Krossing.
    #[error("the offset map of {partition} does not fit: {detail}")]
    Map {
        /// Where.
        partition: TopicPartition,
        /// What does not fit.
        detail: String,
    },
}

impl LaneError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            LaneError::NotOwner { .. } | LaneError::Closed { .. } => ErrorClass::Fenced,
            LaneError::ReadBack { source: ReadBackError::Fenced { .. }, .. } => ErrorClass::Fenced,
            LaneError::ReadBack { .. }
            | LaneError::Record { .. }
            | LaneError::TopicGone { .. }
            | LaneError::RecordsReplaced { .. }
            | LaneError::Segment { .. } => ErrorClass::DataAtRisk,
            LaneError::Refused { .. } | LaneError::SourceRefused { .. } => ErrorClass::Refused,
            LaneError::Cluster { source, .. } => source.class(),
            LaneError::Store { source, .. } => source.class(),
            LaneError::NoProgress { .. } | LaneError::Halted { .. } => ErrorClass::Retryable,
            LaneError::Map { .. } => ErrorClass::Internal,
        }
    }
}

/// Why a session ended before its goal.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// Something is not known, or passes with time: fence, read back, go on.
    StartOver(String),
    /// Nothing that starting over would mend.
    Stop(LaneError),
    /// Another task of the session has failed; its reason is the one that counts.
    Halted,
}

impl SessionEnd {
    /// Of two reasons, the one that says more.
    pub(crate) fn graver(self, other: Self) -> Self {
        match (&self, &other) {
            (SessionEnd::Halted, _) => other,
            (SessionEnd::StartOver(_), SessionEnd::Stop(_)) => other,
            (SessionEnd::StartOver(_), SessionEnd::StartOver(_) | SessionEnd::Halted) => self,
            (SessionEnd::Stop(_), _) => self,
        }
    }
}

impl From<LaneError> for SessionEnd {
    fn from(error: LaneError) -> Self {
        SessionEnd::Stop(error)
    }
}

/// Sorts an error of a cluster: what may pass with time starts the session over.
pub(crate) fn cluster_failed(lane: LaneId, error: ClusterError) -> SessionEnd {
    match error {
        ClusterError::Unavailable { .. } => SessionEnd::StartOver(error.to_string()),
        ClusterError::Refused { .. }
        | ClusterError::NotAllowed { .. }
        | ClusterError::NotOffered { .. }
        | ClusterError::NotUnderstood { .. } => SessionEnd::Stop(LaneError::Cluster { lane, source: error }),
    }
}

/// Sorts an error of a store: what may pass with time starts the session over, which finds out who owns the lane.
pub(crate) fn store_failed(lane: LaneId, error: StoreError) -> SessionEnd {
    match error {
        StoreError::Unavailable { .. } | StoreError::Conflict { .. } => SessionEnd::StartOver(error.to_string()),
        StoreError::Missing { .. } | StoreError::Damaged { .. } | StoreError::Refused { .. } => {
            SessionEnd::Stop(LaneError::Store { lane, source: error })
        }
    }
}
