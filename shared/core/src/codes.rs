//! What may be found while a migration runs: a code each, what it means, and what to do.
//!
//! The codes go on where those of [`precheck`](crate::precheck) end, in one numbering: `B` stops the migration until
//! somebody has acted, `W` is survived and worth knowing. Whoever finds something puts the code before the sentence and
//! the remedy behind it, so that both stand wherever the sentence goes: on the terminal, in the journal, in a log.
//!
//! Invariant: a code is never given another meaning.

use std::fmt;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// What runbooks and scripts look for.
    pub name: &'static str,
    /// What it means.
    pub cause: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Every code, in order.
pub const ALL: &[Code] = &[
    TOPIC_GONE,
    RECORDS_REPLACED,
    TOMBSTONES_MISSED,
    OPEN_TRANSACTION,
    SEGMENT_DAMAGED,
    FOREIGN_WRITER,
    TARGET_DAMAGED,
    LEFT_BEHIND,
    STRAGGLERS,
    SOURCE_GAP,
    TARGET_ROLLED_BACK,
];

/// What `precheck` looks for, in order; the finding itself says what is wrong with what, and what to do.
pub const PRECHECK: &[(&str, &str)] = &[
    ("B03", "the source is in ZooKeeper mode"),
    ("B04", "the target is in KRaft mode"),
    ("B07", "segments can be stored and read back"),
    ("B08", "evidence can be stored and read back"),
    ("B09", "the source's brokers can be read"),
    ("B10", "the target's brokers can be read"),
    ("B11", "the target takes requests as large as a topic's batches may be"),
    ("B20", "source and target are two clusters"),
    ("B21", "the source is Kafka 2.8 or later"),
    ("B22", "the target is Kafka 3.7 or later"),
    ("B23", "no topic holds records in message format 0 or 1"),
    ("B24", "a topic that exists on the target was never written to"),
    ("B25", "a topic that exists on the target has as many partitions as on the source"),
    ("B26", "the target has as many brokers as a topic has replicas"),
    ("B27", "no group of the plan has members on the target"),
    ("B28", "no group of the plan has positions on the target that this migration did not write"),
    ("B29", "every partition of the source has a leader and can be read"),
    ("B30", "what topics.include names is on the source"),
    ("B31", "our users have the rights that a migration needs"),
    ("B32", "a topic is left to migrate"),
    ("B33", "no topic takes larger batches than Krossing handles"),
    ("B34", "with topology.on_config_drift refuse: topics and quotas on the target are as planned"),
    ("B35", "with acl.on_drift refuse: both clusters have the same access rules"),
    ("B36", "no access rule that is carried over shuts Krossing out of the target"),
    ("B50", "MSK knows the cluster of cluster_arn"),
    ("B51", "the clusters of cluster_arn are provisioned ones, and not serverless"),
    ("B52", "the clusters of cluster_arn are ACTIVE: nothing is done to them, no conversion in place for one"),
    ("B53", "MSK tells the metadata mode of the clusters of cluster_arn"),
    ("B54", "MSK lets clients log in as auth.mode says"),
    ("B55", "the target's disks hold the copy"),
    ("W04", "the target tells how large a request may be, where a topic's batches are large"),
    ("W20", "every setting of a topic is carried over as it is"),
    ("W21", "the freeze webhook can be reached"),
    ("W22", "every replica of the source is in sync"),
    ("W23", "the target has an authorizer, where the source has access rules"),
    ("W24", "no access rule on the target is the first of something that is open to everyone where it is used now"),
    ("W25", "the source has an authorizer, where the target has one"),
    ("W26", "with acl.on_drift replace: the target has no access rules that the source has not"),
    ("W27", "as B36, where it is not known what access rules call our user (mtls)"),
    ("W28", "the bucket of the evidence has Object Lock"),
    ("W50", "MSK's API tells all of the clusters of cluster_arn that it is asked for"),
    ("W51", "the target's brokers hold no more partitions than are recommended for their type"),
    ("W52", "secrets that let users log in to the source with SCRAM do so on the target"),
    ("W53", "no cluster has tiered storage"),
    ("W54", "as B55, with room to spare"),
    ("I20", "how much room the copy takes"),
    ("I21", "groups and topics of applications that keep state of their own: Kafka Streams, Connect, Flink, Spark"),
    ("I22", "topics that exist on the target and are empty"),
    ("I23", "topics that stay behind"),
    ("I24", "access rules that will be made on the target"),
    ("I25", "SCRAM users that must be made on the target"),
    ("I26", "access rules that are the source cluster's own"),
    ("I27", "with acl.on_drift merge: access rules that only the target has"),
    ("I28", "client quotas that the target has otherwise"),
    ("I29", "client quotas that will be set on the target"),
];

/// Another topic under the same name, or none.
pub const TOPIC_GONE: Code = Code {
    name: "B40",
    cause: "a topic was deleted on the source, and perhaps made again, since its copy began",
    remedy: "what was copied belongs to the old topic: delete its copy on the target, and begin a new migration (another \
             --migration-id), with topics.exclude where the topic is not to come along",
};

/// An unclean leader election, or what looks like one.
pub const RECORDS_REPLACED: Code = Code {
    name: "B41",
    cause: "records that were copied are not in the source's log any more: an unclean leader election put others in \
            their place",
    remedy: "the target holds records that the source no longer has: set unclean.leader.election.enable=false on the \
             source, delete the topic's copy on the target, and begin a new migration (another --migration-id)",
};

/// Deleted keys that would live again on the target.
pub const TOMBSTONES_MISSED: Code = Code {
    name: "B42",
    cause: "the source cleaned tombstones of a compacted topic before they were read: keys that it has deleted still \
            have a value on the target",
    remedy: "delete the topic's copy on the target and begin a new migration (another --migration-id) that reads it within \
             delete.retention.ms, or leave the topic out (topics.exclude)",
};

/// Nothing behind its beginning may be read as committed.
pub const OPEN_TRANSACTION: Code = Code {
    name: "B43",
    cause: "a transaction on the source has not ended: nothing behind its beginning may be read as committed",
    remedy: "have its producer commit or abort, or abort it with `kafka-transactions.sh abort`; then give the command again",
};

/// What is stored is not what was read from the source.
pub const SEGMENT_DAMAGED: Code = Code {
    name: "B44",
    cause: "a segment is missing or is not what was written",
    remedy: "restore it from a copy and resume; without one, delete the topic's copy on the target and begin a new \
             migration (another --migration-id)",
};

/// Somebody else writes to the topics that are being filled.
pub const FOREIGN_WRITER: Code = Code {
    name: "B45",
    cause: "a target partition holds records that Krossing did not write",
    remedy: "stop whoever writes to this topic on the target, delete the topic's copy there, and begin a new migration \
             (another --migration-id)",
};

/// The target's log does not fit what was written to it.
pub const TARGET_DAMAGED: Code = Code {
    name: "B46",
    cause: "a target partition does not hold what was written to it",
    remedy: "find out what has changed the topic's log on the target, delete its copy there, and begin a new migration \
             (another --migration-id)",
};

/// A producer that did not stand still, noticed before READY.
pub const LEFT_BEHIND: Code = Code {
    name: "B47",
    cause: "a producer went on writing to the source while producers were said to stand still",
    remedy: "find the producer of this topic that the freeze does not reach, then give `krossing cutover` again: nothing \
             need be copied anew",
};

/// A producer that was not switched, noticed after READY.
pub const STRAGGLERS: Code = Code {
    name: "B48",
    cause: "records reached the source behind where it was closed: the target does not have them",
    remedy: "stop that producer or switch it to the target, then decide: `krossing stragglers --append` adds these records \
             at the target's end, once, `krossing stragglers --leave` leaves them out",
};

/// Retention or DeleteRecords were quicker than the copy.
pub const SOURCE_GAP: Code = Code {
    name: "W40",
    cause: "records of the source were gone before they were read",
    remedy: "nothing need be done: the copy goes on from the source's log start, and groups inside the gap resume at the \
             next record; a longer retention on the source prevents more",
};

/// The target forgot what it had acknowledged.
pub const TARGET_ROLLED_BACK: Code = Code {
    name: "W41",
    cause: "the target's log ended below what it had acknowledged",
    remedy: "nothing need be done, the records are copied again; find out why the target's brokers lost them",
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_there_once_and_says_what_to_do() {
        let names: BTreeSet<_> = ALL.iter().map(|code| code.name).collect();
        assert_eq!(names.len(), ALL.len());
        for code in ALL {
            assert!(code.name.starts_with(['B', 'W']) && !code.cause.is_empty() && !code.remedy.is_empty(), "{code}");
            assert!(!code.remedy.ends_with('.'), "{code}: a remedy ends another sentence");
        }
    }
}
