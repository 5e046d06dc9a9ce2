//! Kafka's operations in the words of IAM, for clusters whose users log in with it.
//!
//! An operation is several actions, because an action of IAM does not bring those with it that it needs: whoever may
//! `ReadData` must be let `DescribeTopic` besides. The table is that of Amazon MSK's developer guide ("Authorization
//! policy actions").

/// What an action is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The cluster itself.
    Cluster,
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
    /// A transactional id.
    TransactionalId,
}

impl Kind {
    /// As an ARN has it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cluster => "cluster",
            Kind::Topic => "topic",
            Kind::Group => "group",
            Kind::TransactionalId => "transactional-id",
        }
    }
}

/// The actions that let somebody do what an operation of Kafka's access rules lets them; none where IAM knows no such
/// thing.
pub fn actions(kind: Kind, operation: &str) -> Option<&'static [&'static str]> {
    Some(match (kind, operation) {
        (Kind::Cluster, "Describe") => &["kafka-cluster:DescribeCluster"],
        (Kind::Cluster, "Alter") => &["kafka-cluster:AlterCluster"],
        (Kind::Cluster, "DescribeConfigs") => &["kafka-cluster:DescribeClusterDynamicConfiguration"],
        (Kind::Cluster, "AlterConfigs") => {
            &["kafka-cluster:AlterClusterDynamicConfiguration", "kafka-cluster:DescribeClusterDynamicConfiguration"]
        }
        (Kind::Cluster, "IdempotentWrite") => &["kafka-cluster:WriteDataIdempotently"],
        (Kind::Topic, "Read") => &["kafka-cluster:ReadData", "kafka-cluster:DescribeTopic"],
        (Kind::Topic, "Write") => &["kafka-cluster:WriteData", "kafka-cluster:DescribeTopic"],
        (Kind::Topic, "Create") => &["kafka-cluster:CreateTopic"],
        (Kind::Topic, "Delete") => &["kafka-cluster:DeleteTopic", "kafka-cluster:DescribeTopic"],
        (Kind::Topic, "Alter") => &["kafka-cluster:AlterTopic", "kafka-cluster:DescribeTopic"],
        (Kind::Topic, "Describe") => &["kafka-cluster:DescribeTopic"],
        (Kind::Topic, "DescribeConfigs") => &["kafka-cluster:DescribeTopicDynamicConfiguration"],
        (Kind::Topic, "AlterConfigs") => {
            &["kafka-cluster:AlterTopicDynamicConfiguration", "kafka-cluster:DescribeTopicDynamicConfiguration"]
        }
        (Kind::Group, "Read") => &["kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup"],
        (Kind::Group, "Describe") => &["kafka-cluster:DescribeGroup"],
        (Kind::Group, "Delete") => &["kafka-cluster:DeleteGroup", "kafka-cluster:DescribeGroup"],
        (Kind::TransactionalId, "Write") => {
            &["kafka-cluster:AlterTransactionalId", "kafka-cluster:DescribeTransactionalId"]
        }
        (Kind::TransactionalId, "Describe") => &["kafka-cluster:DescribeTransactionalId"],
        _ => return None,
    })
}
