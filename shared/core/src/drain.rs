//! When the target has kept up: every partition within the allowed lag, without interruption, for long enough.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use crate::{
    codes::OPEN_TRANSACTION,
    types::{Offset, Producer, TopicPartition},
};

/// Where one partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionDrain {
    /// Its lane has not reported yet.
    NotHeardOf,
    /// It is tailing.
    At {
        /// Offsets still to be read: the source's high watermark minus the next offset to read.
        lag: i64,
        /// Everything up to an open transaction is copied.
        waits_for_transaction: bool,
    },
}

/// What holds a migration back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainCause {
    /// Partitions whose lanes have not reported yet.
    NotHeardOf {
        /// How many.
        partitions: usize,
    },
    /// A partition is further behind than allowed.
    Lag {
        /// Which.
        partition: TopicPartition,
        /// How far.
        lag: i64,
    },
    /// A partition is further behind than allowed because a transaction is open on the source.
    OpenTransaction {
        /// Which.
        partition: TopicPartition,
        /// How many offsets lie behind the transaction's beginning.
        lag: i64,
    },
    /// Everything is within the lag, but not yet for long enough.
    NotYetStable {
        /// How long it still takes.
        remaining: Duration,
    },
}

/// A transaction on the source that holds back what may be read as committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Where.
    pub partition: TopicPartition,
    /// Whose; none where it ended before it was looked at.
    pub producer: Option<Producer>,
    /// The offset of its first record: the last stable offset.
    pub from: Offset,
    /// The time that its producer gave that record, in milliseconds since 1970.
    pub since_unix_ms: Option<i64>,
    /// How many offsets lie from there to the end.
    pub held_back: Offset,
}

impl OpenTransaction {
    /// The whole sentence, with its code, as of `now_unix_ms`.
    pub fn sentence(&self, now_unix_ms: i64) -> String {
        let Self { partition, from, held_back, .. } = self;
        let whose = self.producer.map_or("a producer".to_owned(), |producer| {
            format!("producer id {} (epoch {})", producer.id, producer.epoch)
        });
        let since = self
            .since_unix_ms
            .map_or(String::new(), |since| format!(", since {} seconds", (now_unix_ms - since).max(0) / 1000));
        format!(
            "{OPEN_TRANSACTION}: {partition}: a transaction of {whose} is open on the source from offset {from} on{since}, \
             and holds back {held_back} offsets"
        )
    }
}

impl fmt::Display for DrainCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DrainCause::NotHeardOf { partitions } => write!(f, "{partitions} partitions have not been heard of yet"),
            DrainCause::Lag { partition, lag } => write!(f, "{partition} is {lag} offsets behind"),
            DrainCause::OpenTransaction { partition, lag } => {
                let what = "is held back by an open transaction on the source";
                write!(f, "{OPEN_TRANSACTION}: {partition} {what}, {lag} offsets before its end")
            }
            DrainCause::NotYetStable { remaining } => {
                write!(f, "the lag has to stay as it is for another {:.1} s", remaining.as_secs_f64())
            }
        }
    }
}

/// Judges the partitions of a migration again and again.
#[derive(Debug)]
pub struct DrainReadiness {
    lag_max: i64,
    stable_window: Duration,
    within_since: Option<Instant>,
}

impl DrainReadiness {
    /// Every partition may lag by `lag_max` offsets, and must not lag by more for `stable_window`.
    pub fn new(lag_max: u64, stable_window: Duration) -> Self {
        Self { lag_max: i64::try_from(lag_max).unwrap_or(i64::MAX), stable_window, within_since: None }
    }

    /// Whether the target has kept up by `now`; if not, everything that holds it back, by partition.
    pub fn judge(
        &mut self,
        now: Instant,
        partitions: &BTreeMap<TopicPartition, PartitionDrain>,
    ) -> Result<(), Vec<DrainCause>> {
        let causes = self.causes(partitions);
        if !causes.is_empty() {
            self.within_since = None;
            return Err(causes);
        }
        let since = *self.within_since.get_or_insert(now);
        let remaining = self.stable_window.saturating_sub(now - since);
        if remaining.is_zero() { Ok(()) } else { Err(vec![DrainCause::NotYetStable { remaining }]) }
    }

    fn causes(&self, partitions: &BTreeMap<TopicPartition, PartitionDrain>) -> Vec<DrainCause> {
        let mut causes = Vec::new();
        let mut not_heard_of = 0;
        for (partition, drain) in partitions {
            match *drain {
                PartitionDrain::NotHeardOf => not_heard_of += 1,
                PartitionDrain::At { lag, waits_for_transaction } if lag > self.lag_max => {
                    let partition = partition.clone();
                    causes.push(if waits_for_transaction {
                        DrainCause::OpenTransaction { partition, lag }
                    } else {
                        DrainCause::Lag { partition, lag }
                    });
                }
                PartitionDrain::At { .. } => {}
            }
        }
        if not_heard_of > 0 {
            causes.insert(0, DrainCause::NotHeardOf { partitions: not_heard_of });
        }
        causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lag: i64) -> BTreeMap<TopicPartition, PartitionDrain> {
        BTreeMap::from([(TopicPartition::new("t", 0), PartitionDrain::At { lag, waits_for_transaction: false })])
    }

    #[test]
    fn the_lag_must_stay_within_its_bound_for_the_whole_window() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut readiness = DrainReadiness::new(10, Duration::from_secs(30));
        assert!(readiness.judge(start, &at(10)).is_err());
        assert!(readiness.judge(after(29), &at(0)).is_err());
        // One moment above the bound begins the window anew.
        assert!(readiness.judge(after(29), &at(11)).is_err());
        assert!(readiness.judge(after(31), &at(10)).is_err());
        assert!(readiness.judge(after(60), &at(10)).is_err());
        assert_eq!(readiness.judge(after(61), &at(10)), Ok(()));
    }

    #[test]
    fn an_open_transaction_is_a_cause_of_its_own() {
        let partition = TopicPartition::new("t", 0);
        let waiting = PartitionDrain::At { lag: 500, waits_for_transaction: true };
        let mut readiness = DrainReadiness::new(10, Duration::ZERO);
        assert_eq!(
            readiness.judge(Instant::now(), &BTreeMap::from([(partition.clone(), waiting)])),
            Err(vec![DrainCause::OpenTransaction { partition, lag: 500 }])
        );
    }

    #[test]
    fn an_open_transaction_is_named_with_its_code_producer_place_and_time() {
        let mut open = OpenTransaction {
            partition: TopicPartition::new("orders", 3),
            producer: Some(Producer { id: 4001, epoch: 2 }),
            from: 17,
            since_unix_ms: Some(10_000),
            held_back: 500,
        };
        assert_eq!(
            open.sentence(72_500),
            "B43: orders-3: a transaction of producer id 4001 (epoch 2) is open on the source from offset 17 on, since 62 \
             seconds, and holds back 500 offsets"
        );
        (open.producer, open.since_unix_ms) = (None, None);
        assert!(open.sentence(0).contains("a transaction of a producer is open on the source from offset 17 on, and"));
    }

    #[test]
    fn a_partition_that_nobody_has_heard_of_is_not_drained() {
        let partitions = BTreeMap::from([(TopicPartition::new("t", 0), PartitionDrain::NotHeardOf)]);
        let mut readiness = DrainReadiness::new(10, Duration::ZERO);
        assert_eq!(readiness.judge(Instant::now(), &partitions), Err(vec![DrainCause::NotHeardOf { partitions: 1 }]));
    }
}
