//! What our own user may do, found out without doing it.
//!
//! Brokers tell the rights on the cluster and on topics that are there. For all else the call itself is made in a way
//! that cannot have an effect, because brokers look at rights before they look at anything else: a topic that is not
//! there, `validate_only`, no records, a producer that nobody is. Groups are asked about at any broker: looking up a
//! coordinator would make the topic that positions are kept in.
//!
//! Invariant: no request here can change a cluster, also when a topic appears between two of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest, EndTxnRequest,
    FetchRequest, GroupId as WireGroupId, IncrementalAlterConfigsRequest, MetadataRequest, OffsetCommitRequest,
    ProduceRequest, ProducerId, TransactionalId,
    create_partitions_request::CreatePartitionsTopic,
    create_topics_request::CreatableTopic,
    describe_configs_request::DescribeConfigsResource,
    fetch_request::{FetchPartition, FetchTopic},
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    metadata_request::MetadataRequestTopic,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    produce_request::{PartitionProduceData, TopicProduceData},
};
use krossing_core::{
    error::KafkaCode,
    limits,
    rights::{Operation, Resource, Right},
    types::{GroupId, TopicName},
};

use crate::{
    cluster::{WireCluster, wire_str, wire_topic},
    connection::{CallError, CallOptions},
    inventory::{BROKER_RESOURCE, TOPIC_RESOURCE},
    read::{CONSUMER, millis},
};

/// No topic can have this name.
const IMPOSSIBLE_TOPIC: &str = "krossing precheck";

/// Rights on topics that are there, and what is said of the others.
type Topics = BTreeMap<TopicName, Result<BTreeSet<Operation>, KafkaCode>>;

impl WireCluster {
    /// One round of questions; the caller tries again.
    pub(crate) async fn lacking_once(&self, rights: &[Right]) -> Result<Vec<Right>, CallError> {
        let topics: BTreeSet<&TopicName> = rights.iter().filter_map(topic_of).collect();
        let (cluster, told) = self.told_rights(&topics).await?;
        let mut probed: BTreeMap<Operation, BTreeMap<TopicName, KafkaCode>> = BTreeMap::new();
        let operations: BTreeSet<Operation> =
            rights.iter().filter(|right| topic_of(right).is_some()).map(|right| right.operation).collect();
        for operation in operations {
            let unknown = told.iter().filter(|(_, told)| told.is_err()).map(|(name, _)| name);
            let unknown: Vec<&TopicName> = unknown.collect();
            if !unknown.is_empty() {
                probed.insert(operation, self.probe_topics(operation, &unknown).await?);
            }
        }
        let groups = rights.iter().filter_map(|right| match &right.resource {
            Resource::Group(group) => Some((group, right.operation)),
            Resource::Cluster | Resource::Topic(_) | Resource::TransactionalId(_) => None,
        });
        let refused_groups = self.refused_groups(groups.collect()).await?;
        let mut lacking = Vec::new();
        for right in rights {
            let lacks = match &right.resource {
                Resource::Cluster if right.operation == Operation::DescribeConfigs => {
                    !self.may_describe_broker_configs().await?
                }
                Resource::Cluster => !cluster.contains(&right.operation),
                Resource::Topic(topic) => match told.get(topic) {
                    Some(Ok(operations)) => !operations.contains(&right.operation),
                    // Describe comes with Read, Write and Alter: without it, all of them are lacking.
                    Some(Err(KafkaCode::TOPIC_AUTHORIZATION_FAILED)) if brings_describe(right.operation) => true,
                    Some(Err(_)) | None => {
                        let code = probed.get(&right.operation).and_then(|probed| probed.get(topic));
                        code == Some(&KafkaCode::TOPIC_AUTHORIZATION_FAILED)
                    }
                },
                Resource::Group(group) => refused_groups.contains(group),
                Resource::TransactionalId(id) => !self.may_write_transactional_id(id).await?,
            };
            if lacks {
                lacking.push(right.clone());
            }
        }
        Ok(lacking)
    }

    /// What brokers tell of themselves and of topics.
    async fn told_rights(&self, topics: &BTreeSet<&TopicName>) -> Result<(BTreeSet<Operation>, Topics), CallError> {
        let named = |name: &&TopicName| MetadataRequestTopic::default().with_name(Some(wire_topic(name)));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.iter().map(named).collect()))
            .with_allow_auto_topic_creation(false)
            .with_include_cluster_authorized_operations(true)
            .with_include_topic_authorized_operations(true);
        let answer = self.0.any_connection().await?.call(&request).await?;
        let told = answer.topics.iter().map(|topic| {
            let name = TopicName::new(topic.name.as_ref().map(|name| name.as_str()).unwrap_or_default());
            let rights = match KafkaCode::from_wire(topic.error_code) {
                // A topic between leaders is there all the same.
                None | Some(KafkaCode::LEADER_NOT_AVAILABLE) => Ok(operations(topic.topic_authorized_operations)),
                Some(code) => Err(code),
            };
            (name, rights)
        });
        Ok((operations(answer.cluster_authorized_operations), told.collect()))
    }

    async fn may_describe_broker_configs(&self) -> Result<bool, CallError> {
        let metadata = self.0.metadata(Some(&[])).await?;
        let id = metadata.brokers.first().map_or(0, |broker| broker.node_id.0);
        let broker = DescribeConfigsResource::default()
            .with_resource_type(BROKER_RESOURCE)
            .with_resource_name(wire_str(&id.to_string()))
            .with_configuration_keys(Some(Vec::new()));
        let request = DescribeConfigsRequest::default().with_resources(vec![broker]);
        let answer = self.0.connection(krossing_core::BrokerId(id)).await?.call(&request).await?;
        let mut codes = answer.results.iter().map(|result| result.error_code);
        Ok(!codes.any(|code| code == KafkaCode::CLUSTER_AUTHORIZATION_FAILED.0))
    }

    async fn may_write_transactional_id(&self, id: &str) -> Result<bool, CallError> {
        // No coordinator knows this id, and a broker that is not its coordinator does nothing with it.
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(wire_str(id)))
            .with_producer_id(ProducerId(0))
            .with_producer_epoch(0)
            .with_committed(false);
        let answer = self.0.any_connection().await?.call(&request).await?;
        Ok(answer.error_code != KafkaCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED.0)
    }

    async fn refused_groups(&self, groups: Vec<(&GroupId, Operation)>) -> Result<BTreeSet<GroupId>, CallError> {
        let connection = self.0.any_connection().await?;
        let (read, seen): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|(_, operation)| *operation == Operation::Read);
        let mut refused = BTreeSet::new();
        if !seen.is_empty() {
            let groups = seen.iter().map(|(group, _)| WireGroupId(wire_str(group.as_str()))).collect();
            for group in connection.call(&DescribeGroupsRequest::default().with_groups(groups)).await?.groups {
                if group.error_code == KafkaCode::GROUP_AUTHORIZATION_FAILED.0 {
                    refused.insert(GroupId::new(group.group_id.as_str()));
                }
            }
        }
        let connection = &connection;
        let asked: Vec<_> = read
            .into_iter()
            .map(|(group, _)| async move {
                // Nothing can be committed for a topic that cannot be.
                let partition =
                    OffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(0);
                let topic = OffsetCommitRequestTopic::default()
                    .with_name(wire_topic(&TopicName::new(IMPOSSIBLE_TOPIC)))
                    .with_partitions(vec![partition]);
                let request = OffsetCommitRequest::default()
                    .with_group_id(WireGroupId(wire_str(group.as_str())))
                    .with_generation_id_or_member_epoch(-1)
                    .with_topics(vec![topic]);
                let answer = connection.call(&request).await?;
                let mut codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code);
                let refused = codes.any(|code| code == KafkaCode::GROUP_AUTHORIZATION_FAILED.0);
                Ok::<_, CallError>(refused.then(|| group.clone()))
            })
            .collect();
        let answers: Vec<Option<GroupId>> =
            stream::iter(asked).buffer_unordered(limits::GROUPS_IN_FLIGHT_MAX).try_collect().await?;
        refused.extend(answers.into_iter().flatten());
        Ok(refused)
    }

    /// The code that each topic gets; the topics are not there, or may not be seen.
    async fn probe_topics(
        &self,
        operation: Operation,
        topics: &[&TopicName],
    ) -> Result<BTreeMap<TopicName, KafkaCode>, CallError> {
        let mut codes = BTreeMap::new();
        for chunk in topics.chunks(limits::TOPICS_PER_REQUEST_MAX) {
            let answers: Vec<(String, i16)> = match operation {
                Operation::Describe => Vec::new(),
                Operation::Read => self.probe_read(chunk).await?,
                Operation::Write => self.probe_write(chunk).await?,
                Operation::Create => self.probe_create(chunk).await?,
                Operation::Alter => self.probe_alter(chunk).await?,
                Operation::DescribeConfigs => self.probe_describe_configs(chunk).await?,
                Operation::AlterConfigs => self.probe_alter_configs(chunk).await?,
            };
            let codes_of = answers
                .into_iter()
                .filter_map(|(name, code)| Some((TopicName::new(name), KafkaCode::from_wire(code)?)));
            codes.extend(codes_of);
        }
        Ok(codes)
    }

    async fn probe_read(&self, topics: &[&TopicName]) -> Result<Vec<(String, i16)>, CallError> {
        let partition = FetchPartition::default().with_partition(0).with_partition_max_bytes(1);
        let named = |name: &&TopicName| {
            FetchTopic::default().with_topic(wire_topic(name)).with_partitions(vec![partition.clone()])
        };
        let request = FetchRequest::default()
            .with_replica_id(CONSUMER)
            .with_max_wait_ms(0)
            .with_max_bytes(1)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(topics.iter().map(named).collect());
        // Later versions name topics by an identity, which a topic that is not there has not.
        let by_name = CallOptions { version: Some(12), ..CallOptions::default() };
        let answer = self.0.any_connection().await?.call_with(&request, by_name).await?;
        let codes = answer
            .responses
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|p| (topic.topic.as_str().to_owned(), p.error_code)));
        Ok(codes.collect())
    }

    async fn probe_write(&self, topics: &[&TopicName]) -> Result<Vec<(String, i16)>, CallError> {
        // Without a batch nothing can be appended: where there is such a topic after all, the answer is another code.
        let nothing = PartitionProduceData::default().with_index(0).with_records(Some(Bytes::new()));
        let named = |name: &&TopicName| {
            TopicProduceData::default().with_name(wire_topic(name)).with_partition_data(vec![nothing.clone()])
        };
        let request = ProduceRequest::default()
            .with_acks(1)
            .with_timeout_ms(millis(limits::REQUEST_WAIT_MAX / 2))
            .with_topic_data(topics.iter().map(named).collect());
        let answer = self.0.any_connection().await?.call(&request).await?;
        let codes = answer
            .responses
            .iter()
            .flat_map(|topic| topic.partition_responses.iter().map(|p| (topic.name.as_str().to_owned(), p.error_code)));
        Ok(codes.collect())
    }

    async fn probe_create(&self, topics: &[&TopicName]) -> Result<Vec<(String, i16)>, CallError> {
        let named = |name: &&TopicName| {
            CreatableTopic::default().with_name(wire_topic(name)).with_num_partitions(1).with_replication_factor(1)
        };
        let request = CreateTopicsRequest::default()
            .with_topics(topics.iter().map(named).collect())
            .with_timeout_ms(millis(limits::REQUEST_WAIT_MAX / 2))
            .with_validate_only(true);
        let answer = self.0.controller().await?.call(&request).await?;
        Ok(answer.topics.iter().map(|topic| (topic.name.as_str().to_owned(), topic.error_code)).collect())
    }

    async fn probe_alter(&self, topics: &[&TopicName]) -> Result<Vec<(String, i16)>, CallError> {
        let named = |name: &&TopicName| {
            CreatePartitionsTopic::default().with_name(wire_topic(name)).with_count(1).with_assignments(None)
        };
        let request = CreatePartitionsRequest::default()
            .with_topics(topics.iter().map(named).collect())
            .with_timeout_ms(millis(limits::REQUEST_WAIT_MAX / 2))
            .with_validate_only(true);
        let answer = self.0.controller().await?.call(&request).await?;
        Ok(answer.results.iter().map(|topic| (topic.name.as_str().to_owned(), topic.error_code)).collect())
    }

    async fn probe_describe_configs(&self, topics: &[&TopicName]) -> Result<Vec<(String, i16)>, CallError> {
        let named = |name: &&TopicName| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(wire_str(name.as_str()))
                .with_configuration_keys(Some(Vec::new()))
        };
        let request = DescribeConfigsRequest::default().with_resources(topics.iter().map(named).collect());
        let answer = self.0.any_connection().await?.call(&request).await?;
        Ok(answer.results.iter().map(|topic| (topic.resource_name.as_str().to_owned(), topic.error_code)).collect())
    }

    async fn probe_alter_configs(&self, topics: &[&TopicName]) -> Result<Vec<(String, i16)>, CallError> {
        // Taking back a setting that is not set.
        const DELETE: i8 = 1;
        let setting = AlterableConfig::default()
            .with_name(wire_str("retention.ms"))
            .with_config_operation(DELETE)
            .with_value(None);
        let named = |name: &&TopicName| {
            AlterConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(wire_str(name.as_str()))
                .with_configs(vec![setting.clone()])
        };
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(topics.iter().map(named).collect())
            .with_validate_only(true);
        let answer = self.0.any_connection().await?.call(&request).await?;
        Ok(answer.responses.iter().map(|topic| (topic.resource_name.as_str().to_owned(), topic.error_code)).collect())
    }
}

fn topic_of(right: &Right) -> Option<&TopicName> {
    match &right.resource {
        Resource::Topic(topic) => Some(topic),
        Resource::Cluster | Resource::Group(_) | Resource::TransactionalId(_) => None,
    }
}

fn brings_describe(operation: Operation) -> bool {
    match operation {
        Operation::Read | Operation::Write | Operation::Alter | Operation::Describe => true,
        Operation::Create | Operation::DescribeConfigs | Operation::AlterConfigs => false,
    }
}

/// Kafka's bit field: one bit for each operation's number.
fn operations(bits: i32) -> BTreeSet<Operation> {
    const NUMBERS: [(Operation, u32); 7] = [
        (Operation::Read, 3),
        (Operation::Write, 4),
        (Operation::Create, 5),
        (Operation::Alter, 7),
        (Operation::Describe, 8),
        (Operation::DescribeConfigs, 10),
        (Operation::AlterConfigs, 11),
    ];
    // Where nothing is told, the lowest number of all stands.
    let told = if bits == i32::MIN { 0 } else { bits };
    NUMBERS.iter().filter(|(_, number)| told & (1 << number) != 0).map(|(operation, _)| *operation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_tell_rights_as_bits() {
        assert_eq!(operations((1 << 3) | (1 << 8) | (1 << 6)), [Operation::Read, Operation::Describe].into());
        assert_eq!(operations(0), [].into());
        assert_eq!(operations(i32::MIN), [].into());
    }
}
