//! Names, numbers and positions: a type for each, so that none is taken for another.
//!
//! A [`SourceOffset`] and a [`TargetOffset`] are both offsets and never comparable; ports, which serve either cluster,
//! speak of a plain [`Offset`].

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// An offset in whichever cluster the speaker means. Wrapped in [`SourceOffset`] or [`TargetOffset`] wherever both meet.
pub type Offset = i64;

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Offset);

        impl $name {
            /// The offset `records` further on.
            pub fn plus(self, records: i64) -> Self {
                Self(self.0 + records)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

offset! {
    /// An offset in a partition of the source cluster.
    SourceOffset
}
offset! {
    /// An offset in a partition of the target cluster.
    TargetOffset
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the name as a broker gave it, or as a config file spells it.
            pub fn new(name: impl AsRef<str>) -> Self {
                Self(Arc::from(name.as_ref()))
            }

            /// The name itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self::new(name)
            }
        }
    };
}

name! {
    /// A topic's name, the same on both clusters.
    TopicName
}
name! {
    /// A consumer group's id, the same on both clusters.
    GroupId
}

/// The number of a partition within its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub i32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic. Shown as `topic-3`, as Kafka's own tools do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition of it.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl AsRef<str>, partition: i32) -> Self {
        Self { topic: TopicName::new(topic), partition: PartitionId(partition) }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Which of the two clusters is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The cluster that records are copied from.
    Source,
    /// The cluster that records are copied to.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Target => "target",
        })
    }
}

/// A topic's identity: a topic that is deleted and made again under the same name has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub uuid::Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A broker's number in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BrokerId(pub i32);

impl fmt::Display for BrokerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often leadership of a partition has changed. Never carried from one cluster to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaderEpoch(pub i32);

/// Who writes to a partition: the broker refuses an older epoch of the same id (error 47) as long as it remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Producer {
    /// The producer id.
    pub id: i64,
    /// The epoch of that id; each fence raises it.
    pub epoch: i16,
}

impl fmt::Display for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "producer {} epoch {}", self.id, self.epoch)
    }
}

/// The number of a lane in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LaneId(pub u32);

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane-{}", self.0)
    }
}

/// How often a lane has changed hands. A write that carries an older generation than the ledger's is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the operator calls this migration: part of file names, object keys and transactional ids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MigrationId(String);

/// Why a text cannot be a [`MigrationId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("migration id {given:?} must be 1 to 64 of the characters a-z A-Z 0-9 . _ - and begin with a letter or digit")]
pub struct InvalidMigrationId {
    given: String,
}

impl MigrationId {
    /// The id itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MigrationId {
    type Err = InvalidMigrationId;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let starts_well = given.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if starts_well && given.len() <= 64 && given.chars().all(allowed) {
            Ok(Self(given.to_owned()))
        } else {
            Err(InvalidMigrationId { given: given.to_owned() })
        }
    }
}

impl TryFrom<String> for MigrationId {
    type Error = InvalidMigrationId;

    fn try_from(given: String) -> Result<Self, Self::Error> {
        given.parse()
    }
}

impl From<MigrationId> for String {
    fn from(id: MigrationId) -> Self {
        id.0
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_id_that_could_leave_its_folder_is_refused() {
        for given in ["", "..", "a/b", "-a", ".a", "a b", &"x".repeat(65)] {
            assert!(given.parse::<MigrationId>().is_err(), "{given:?}");
        }
        for given in ["a", "orders-2026.11", "A_b"] {
            assert_eq!(given.parse::<MigrationId>().map(String::from), Ok(given.to_owned()));
        }
    }
}
