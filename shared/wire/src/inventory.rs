//! What a cluster is made of: brokers, topics, settings, sizes, access rules, quotas.

use std::{collections::BTreeMap, sync::Arc};

use kafka_protocol::messages::{
    DescribeAclsRequest, DescribeClientQuotasRequest, DescribeConfigsRequest, DescribeConfigsResponse,
    DescribeLogDirsRequest, DescribeUserScramCredentialsRequest, FetchRequest, MetadataResponse,
    describe_configs_request::DescribeConfigsResource, describe_configs_response::DescribeConfigsResult,
    metadata_response::MetadataResponseTopic,
};
use kafka_protocol::protocol::Request;
use krossing_core::{
    error::KafkaCode,
    limits,
    ports::{
        AclBinding, Broker as BrokerDescription, ClientQuota, ClusterDescription, ClusterResult, ConfigEntry,
        ConfigOrigin, Configs, Inventory, MetadataMode, PartitionDescription, TopicDescription,
    },
    rights::Right,
    types::{BrokerId, LeaderEpoch, PartitionId, TopicId, TopicName, TopicPartition},
};

use crate::{
    access::read_rules,
    broker::Broker,
    cluster::{WireCluster, check_code, text, wire_str},
    connection::{CallError, Connection},
};

/// Kafka's number for topics among the resources with settings.
pub(crate) const TOPIC_RESOURCE: i8 = 2;
/// The same for brokers.
pub(crate) const BROKER_RESOURCE: i8 = 4;

impl Inventory for WireCluster {
    async fn describe_cluster(&self) -> ClusterResult<ClusterDescription> {
        let mut retry = self.0.retry("describe the cluster");
        loop {
            let asked = async {
                let connection = self.0.any_connection().await?;
                let answer = self.0.metadata(Some(&[])).await?;
                describe_cluster(&connection, &answer)
            };
            match asked.await {
                Ok(description) => return Ok(description),
                Err(error) => retry.again(error).await?,
            }
        }
    }

    async fn describe_topics(&self, names: Option<&[TopicName]>) -> ClusterResult<Vec<TopicDescription>> {
        let mut retry = self.0.retry("describe topics");
        loop {
            let described = match self.0.metadata(names).await {
                Ok(answer) => answer.topics.iter().filter_map(|topic| describe_topic(topic).transpose()).collect(),
                Err(error) => Err(error),
            };
            match described {
                Ok(topics) => {
                    let mut topics: Vec<TopicDescription> = topics;
                    topics.sort_by(|a, b| a.name.cmp(&b.name));
                    return Ok(topics);
                }
                Err(error) => retry.again(error).await?,
            }
        }
    }

    async fn topic_configs(&self, topics: &[TopicName]) -> ClusterResult<BTreeMap<TopicName, Configs>> {
        let mut configs = BTreeMap::new();
        for chunk in topics.chunks(limits::TOPICS_PER_REQUEST_MAX) {
            let named = |topic: &TopicName| resource(TOPIC_RESOURCE, topic.as_str());
            let request = DescribeConfigsRequest::default().with_resources(chunk.iter().map(named).collect());
            let mut retry = self.0.retry("ask for topics' settings");
            let found = loop {
                let asked = async { read_configs(self.0.any_connection().await?.call(&request).await?) };
                match asked.await {
                    Ok(found) => break found,
                    Err(error) => retry.again(error).await?,
                }
            };
            for topic in chunk {
                let missing = || CallError::NotUnderstood(format!("nothing is said about {topic}"));
                let settings = found.get(topic.as_str()).ok_or_else(missing).map_err(|error| retry.error(error))?;
                configs.insert(topic.clone(), settings.clone());
            }
        }
        Ok(configs)
    }

    async fn broker_configs(&self, broker: BrokerId) -> ClusterResult<Configs> {
        let mut retry = self.0.retry(format!("ask for the settings of broker {broker}"));
        let name = broker.to_string();
        let request = DescribeConfigsRequest::default().with_resources(vec![resource(BROKER_RESOURCE, &name)]);
        loop {
            let asked = async {
                let mut found = read_configs(self.0.connection(broker).await?.call(&request).await?)?;
                found.remove(&name).ok_or_else(|| CallError::NotUnderstood("nothing is said about it".to_owned()))
            };
            match asked.await {
                Ok(configs) => return Ok(configs),
                Err(error) => retry.again(error).await?,
            }
        }
    }

    async fn partition_sizes(&self) -> ClusterResult<BTreeMap<TopicPartition, u64>> {
        let told = self.0.each_broker("ask for the sizes of partitions", sizes_at).await?;
        let mut sizes: BTreeMap<TopicPartition, u64> = BTreeMap::new();
        for (partition, bytes) in told.into_iter().flatten() {
            let largest = sizes.entry(partition).or_default();
            *largest = bytes.max(*largest);
        }
        Ok(sizes)
    }

    async fn acls(&self) -> ClusterResult<Option<Vec<AclBinding>>> {
        const ANY: i8 = 1;
        let request = DescribeAclsRequest::default()
            .with_resource_type_filter(ANY)
            .with_resource_name_filter(None)
            .with_pattern_type_filter(ANY)
            .with_principal_filter(None)
            .with_host_filter(None)
            .with_operation(ANY)
            .with_permission_type(ANY);
        let attempt = "ask for access rules";
        let answer = self.0.ask_any(attempt, &request).await?;
        if KafkaCode::from_wire(answer.error_code) == Some(KafkaCode::SECURITY_DISABLED) {
            return Ok(None);
        }
        check_code(answer.error_code, answer.error_message.as_ref())
            .map_err(|error| self.0.retry(attempt).error(error))?;
        Ok(Some(read_rules(&answer)))
    }

    async fn client_quotas(&self) -> ClusterResult<Vec<ClientQuota>> {
        let attempt = "ask for client quotas";
        // No components: every quota matches.
        let answer = self.0.ask_any(attempt, &DescribeClientQuotasRequest::default().with_strict(false)).await?;
        check_code(answer.error_code, answer.error_message.as_ref())
            .map_err(|error| self.0.retry(attempt).error(error))?;
        let quotas = answer.entries.iter().flatten().map(|entry| ClientQuota {
            entity: (entry.entity.iter())
                .map(|e| (e.entity_type.as_str().to_owned(), e.entity_name.as_ref().map(|n| n.as_str().to_owned())))
                .collect(),
            limits: entry.values.iter().map(|limit| (limit.key.as_str().to_owned(), limit.value)).collect(),
        });
        Ok(quotas.collect())
    }

    async fn scram_users(&self) -> ClusterResult<Vec<String>> {
        let attempt = "ask for the users with passwords (SCRAM)";
        let answer = self.0.ask_any(attempt, &DescribeUserScramCredentialsRequest::default().with_users(None)).await?;
        let refused = |error| self.0.retry(attempt).error(error);
        check_code(answer.error_code, answer.error_message.as_ref()).map_err(refused)?;
        let mut users = Vec::new();
        for user in &answer.results {
            check_code(user.error_code, user.error_message.as_ref()).map_err(refused)?;
            users.push(user.user.as_str().to_owned());
        }
        users.sort();
        Ok(users)
    }

    async fn lacking(&self, rights: &[Right]) -> ClusterResult<Vec<Right>> {
        let mut retry = self.0.retry("ask what our user may do");
        loop {
            match self.lacking_once(rights).await {
                Ok(lacking) => return Ok(lacking),
                Err(error) => retry.again(error).await?,
            }
        }
    }
}

async fn sizes_at(broker: Arc<Broker>) -> Result<Vec<(TopicPartition, u64)>, CallError> {
    // No topics means all of them.
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let answer = broker.control().await?.call(&request).await?;
    if answer.results.is_empty() {
        // This version has no code for the whole call, and every broker has a log folder.
        let detail = "the broker names none of its log folders: the right to describe the cluster is missing";
        return Err(CallError::NotAllowed(detail.to_owned()));
    }
    let mut sizes = Vec::new();
    for folder in &answer.results {
        if let Some(code) = KafkaCode::from_wire(folder.error_code) {
            // Another replica tells the size; a partition without one has no leader, which precheck sees.
            tracing::debug!(broker = %broker.id, folder = folder.log_dir.as_str(), %code, "a log folder is not readable");
            continue;
        }
        for topic in &folder.topics {
            for p in topic.partitions.iter().filter(|p| !p.is_future_key) {
                let partition = TopicPartition::new(topic.name.as_str(), p.partition_index);
                sizes.push((partition, u64::try_from(p.partition_size).unwrap_or(0)));
            }
        }
    }
    Ok(sizes)
}

fn describe_cluster(connection: &Connection, answer: &MetadataResponse) -> Result<ClusterDescription, CallError> {
    /// DescribeQuorum: offered by brokers with a quorum.
    const DESCRIBE_QUORUM: i16 = 55;
    /// UpdateMetadata: how a controller under ZooKeeper tells brokers what is so.
    const UPDATE_METADATA: i16 = 6;
    let metadata_mode = match (connection.offers(DESCRIBE_QUORUM), connection.offers(UPDATE_METADATA)) {
        (Some(_), _) => MetadataMode::Kraft,
        (None, Some(_)) => MetadataMode::ZooKeeper,
        (None, None) => MetadataMode::Unknown,
    };
    let unnamed = || CallError::NotUnderstood("the cluster has no id".to_owned());
    let mut brokers: Vec<_> = (answer.brokers.iter())
        .map(|broker| BrokerDescription {
            id: BrokerId(broker.node_id.0),
            host: broker.host.as_str().to_owned(),
            port: broker.port,
            rack: broker.rack.as_ref().map(|rack| rack.as_str().to_owned()),
        })
        .collect();
    brokers.sort_by_key(|broker| broker.id);
    Ok(ClusterDescription {
        cluster_id: answer.cluster_id.as_ref().ok_or_else(unnamed)?.as_str().to_owned(),
        metadata_mode,
        brokers,
        fetch_version_max: connection.offers(FetchRequest::KEY).map_or(-1, |(_, max)| max),
    })
}

/// A topic's description; none where there is no such topic.
fn describe_topic(topic: &MetadataResponseTopic) -> Result<Option<TopicDescription>, CallError> {
    let name = TopicName::new(topic.name.as_ref().map(|name| name.as_str()).unwrap_or_default());
    match KafkaCode::from_wire(topic.error_code) {
        Some(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION) => return Ok(None),
        Some(code) => return Err(CallError::Code(code, name.to_string())),
        None => {}
    }
    let brokers = |ids: &[kafka_protocol::messages::BrokerId]| ids.iter().map(|id| BrokerId(id.0)).collect();
    let mut partitions: Vec<_> = (topic.partitions.iter())
        .map(|p| PartitionDescription {
            id: PartitionId(p.partition_index),
            leader: (p.leader_id.0 >= 0).then_some(BrokerId(p.leader_id.0)),
            leader_epoch: (p.leader_epoch >= 0).then_some(LeaderEpoch(p.leader_epoch)),
            replicas: brokers(&p.replica_nodes),
            in_sync: brokers(&p.isr_nodes),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.id);
    if let Some((at, _)) = partitions.iter().enumerate().find(|(at, p)| usize::try_from(p.id.0) != Ok(*at)) {
        return Err(CallError::NotUnderstood(format!("{name} has no partition {at}")));
    }
    let id = (!topic.topic_id.is_nil()).then_some(TopicId(topic.topic_id));
    Ok(Some(TopicDescription { name, id, internal: topic.is_internal, partitions }))
}

fn resource(kind: i8, name: &str) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(wire_str(name))
        .with_configuration_keys(None)
}

/// Settings by resource name.
fn read_configs(answer: DescribeConfigsResponse) -> Result<BTreeMap<String, Configs>, CallError> {
    let read = |result: &DescribeConfigsResult| {
        let name = result.resource_name.as_str().to_owned();
        let detail = || format!("{name}: {}", text(result.error_message.as_ref()));
        match KafkaCode::from_wire(result.error_code) {
            Some(code) => Err(CallError::Code(code, detail())),
            None => Ok((name.clone(), result.configs.iter().map(read_entry).collect())),
        }
    };
    answer.results.iter().map(read).collect()
}

fn read_entry(
    entry: &kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult,
) -> (String, ConfigEntry) {
    let origin = match entry.config_source {
        1 => ConfigOrigin::Topic,
        2 | 3 => ConfigOrigin::DynamicBroker,
        4 => ConfigOrigin::StaticBroker,
        5 => ConfigOrigin::Default,
        _ => ConfigOrigin::Other,
    };
    let value = entry.value.as_ref().map(|value| value.as_str().to_owned());
    (entry.name.as_str().to_owned(), ConfigEntry { value, origin, sensitive: entry.is_sensitive })
}
