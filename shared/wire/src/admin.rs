//! Making and changing topics. There is no call here that deletes anything.
//!
//! Invariant: a topic or partition that was made is known to every broker, with a leader, when the call returns — as
//! far as that can be waited for — so that the caller's next question finds it whichever broker is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use futures::future::join_all;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, IncrementalAlterConfigsRequest, MetadataRequest,
    create_partitions_request::CreatePartitionsTopic,
    create_topics_request::{CreatableTopic, CreatableTopicConfig},
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    metadata_request::MetadataRequestTopic,
};
use krossing_core::{
    error::KafkaCode,
    limits,
    ports::{ClusterResult, Inventory, NewTopic, TopicAdmin},
    types::TopicName,
};

use crate::{
    broker::Broker,
    cluster::{Retry, WireCluster, check_code, passes, text, wire_str, wire_topic},
    connection::CallError,
    inventory::TOPIC_RESOURCE,
    read::millis,
};

/// Per topic, done or the broker's code and message.
type PerTopic = BTreeMap<TopicName, Result<(), (KafkaCode, String)>>;

impl TopicAdmin for WireCluster {
    async fn create_topics(&self, topics: &[NewTopic]) -> ClusterResult<PerTopic> {
        let mut done = PerTopic::new();
        for chunk in topics.chunks(limits::TOPICS_PER_REQUEST_MAX) {
            let mut retry = self.0.retry(format!("create {} topics", chunk.len()));
            let mut left: Vec<&NewTopic> = chunk.iter().collect();
            while !left.is_empty() {
                let answers = self.create_once(&left).await;
                let names = left.iter().map(|topic| &topic.name);
                let again = settle(&mut done, names, answers, &mut retry).await?;
                left.retain(|topic| again.contains(&topic.name));
            }
        }
        let made = topics.iter().filter(|topic| done.get(&topic.name).is_some_and(Result::is_ok));
        self.wait_until_known(made.map(|topic| (topic.name.clone(), topic.partitions as usize)).collect()).await?;
        Ok(done)
    }

    async fn create_partitions(&self, topic: &TopicName, partitions: i32) -> ClusterResult<()> {
        let wanted =
            CreatePartitionsTopic::default().with_name(wire_topic(topic)).with_count(partitions).with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(millis(limits::REQUEST_WAIT_MAX / 2));
        let mut retry = self.0.retry(format!("give {topic} {partitions} partitions"));
        loop {
            let asked = async {
                let answer = self.0.controller().await?.call(&request).await?;
                let nothing = || CallError::NotUnderstood("nothing is said about the topic".to_owned());
                let result = answer.results.first().ok_or_else(nothing)?;
                check_code(result.error_code, result.error_message.as_ref())
            };
            match asked.await {
                Ok(()) => break,
                // As many as asked for already: a try whose answer was lost.
                Err(CallError::Code(KafkaCode::INVALID_PARTITIONS, _))
                    if self.partition_count(topic).await? == Some(partitions as usize) =>
                {
                    break;
                }
                Err(error) => self.try_controller_again(error, &mut retry).await?,
            }
        }
        self.wait_until_known(BTreeMap::from([(topic.clone(), partitions as usize)])).await
    }

    async fn alter_topic_configs(
        &self,
        changes: &BTreeMap<TopicName, BTreeMap<String, Option<String>>>,
    ) -> ClusterResult<PerTopic> {
        let mut done = PerTopic::new();
        let all: Vec<_> = changes.iter().collect();
        for chunk in all.chunks(limits::TOPICS_PER_REQUEST_MAX) {
            let mut retry = self.0.retry(format!("change the settings of {} topics", chunk.len()));
            let mut left = chunk.to_vec();
            while !left.is_empty() {
                let answers = self.alter_once(&left).await;
                let again = settle(&mut done, left.iter().map(|(name, _)| *name), answers, &mut retry).await?;
                left.retain(|(name, _)| again.contains(*name));
            }
        }
        Ok(done)
    }
}

impl WireCluster {
    async fn create_once(&self, topics: &[&NewTopic]) -> Result<PerTopic, CallError> {
        let wanted = topics.iter().map(|topic| {
            let configs = topic.configs.iter().map(|(name, value)| {
                CreatableTopicConfig::default().with_name(wire_str(name)).with_value(Some(wire_str(value)))
            });
            CreatableTopic::default()
                .with_name(wire_topic(&topic.name))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replication_factor)
                .with_configs(configs.collect())
        });
        let request = CreateTopicsRequest::default()
            .with_topics(wanted.collect())
            .with_timeout_ms(millis(limits::REQUEST_WAIT_MAX / 2));
        let answer = self.0.controller().await?.call(&request).await?;
        let results = answer.topics.iter().map(|topic| {
            let result = KafkaCode::from_wire(topic.error_code)
                .map_or(Ok(()), |code| Err((code, text(topic.error_message.as_ref()))));
            (TopicName::new(topic.name.as_str()), result)
        });
        let results: PerTopic = results.collect();
        if results.values().any(|result| matches!(result, Err((KafkaCode::NOT_CONTROLLER, _)))) {
            self.0.metadata(Some(&[])).await?;
        }
        Ok(results)
    }

    async fn alter_once(
        &self,
        changes: &[(&TopicName, &BTreeMap<String, Option<String>>)],
    ) -> Result<PerTopic, CallError> {
        const SET: i8 = 0;
        const DELETE: i8 = 1;
        let resources = changes.iter().map(|(topic, settings)| {
            let settings = settings.iter().map(|(name, value)| {
                AlterableConfig::default()
                    .with_name(wire_str(name))
                    .with_config_operation(if value.is_some() { SET } else { DELETE })
                    .with_value(value.as_deref().map(wire_str))
            });
            AlterConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(wire_str(topic.as_str()))
                .with_configs(settings.collect())
        });
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources.collect());
        let answer = self.0.any_connection().await?.call(&request).await?;
        let results = answer.responses.iter().map(|resource| {
            let result = KafkaCode::from_wire(resource.error_code)
                .map_or(Ok(()), |code| Err((code, text(resource.error_message.as_ref()))));
            (TopicName::new(resource.resource_name.as_str()), result)
        });
        Ok(results.collect())
    }

    async fn partition_count(&self, topic: &TopicName) -> ClusterResult<Option<usize>> {
        let described = self.describe_topics(Some(std::slice::from_ref(topic))).await?;
        Ok(described.first().map(|topic| topic.partitions.len()))
    }

    async fn try_controller_again(&self, error: CallError, retry: &mut Retry) -> ClusterResult<()> {
        let moved = matches!(error, CallError::Code(KafkaCode::NOT_CONTROLLER, _) | CallError::NotSent(_));
        retry.again(error).await?;
        if moved && let Err(error) = self.0.metadata(Some(&[])).await {
            retry.again(error).await?;
        }
        Ok(())
    }

    /// Waits until every broker knows the topics with that many partitions, each with a leader.
    async fn wait_until_known(&self, topics: BTreeMap<TopicName, usize>) -> ClusterResult<()> {
        if topics.is_empty() {
            return Ok(());
        }
        let attempt = format!("wait until {} new topics have leaders", topics.len());
        let brokers = self.0.brokers(&attempt).await?;
        let until = Instant::now() + limits::CALL_RETRY_MAX;
        let mut retry = self.0.retry(attempt);
        for broker in join_all(brokers.iter().map(|broker| knows(broker, &topics))).await {
            let (broker, mut known) = broker;
            while let Err(error) = known {
                // A broker that cannot be reached learns of them when it is back.
                if matches!(error, CallError::NotSent(_)) || Instant::now() >= until {
                    tracing::debug!(broker = %broker.id, ?error, "a broker does not know the new topics yet");
                    break;
                }
                retry.again(error).await?;
                (_, known) = knows(broker, &topics).await;
            }
        }
        Ok(())
    }
}

async fn knows<'a>(broker: &'a Broker, topics: &BTreeMap<TopicName, usize>) -> (&'a Broker, Result<(), CallError>) {
    let asked = async {
        let named = |name| MetadataRequestTopic::default().with_name(Some(wire_topic(name)));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.keys().map(named).collect()))
            .with_allow_auto_topic_creation(false);
        let answer = broker.control().await?.call(&request).await?;
        for topic in &answer.topics {
            let name = TopicName::new(topic.name.as_ref().map(|name| name.as_str()).unwrap_or_default());
            let led = topic.partitions.iter().filter(|p| p.leader_id.0 >= 0).count();
            if topic.error_code != 0 || topics.get(&name).is_some_and(|wanted| led < *wanted) {
                return Err(CallError::Code(KafkaCode::LEADER_NOT_AVAILABLE, name.to_string()));
            }
        }
        Ok(())
    };
    (broker, asked.await)
}

/// Keeps what is decided; answers which topics to ask about again, after a pause.
async fn settle<'a>(
    done: &mut PerTopic,
    asked: impl Iterator<Item = &'a TopicName>,
    answers: Result<PerTopic, CallError>,
    retry: &mut Retry,
) -> ClusterResult<BTreeSet<TopicName>> {
    let asked: BTreeSet<TopicName> = asked.cloned().collect();
    let mut answers = match answers {
        Ok(answers) => answers,
        Err(error) => {
            retry.again(error).await?;
            return Ok(asked);
        }
    };
    let mut again = BTreeMap::new();
    for name in asked {
        match answers.remove(&name) {
            None => return Err(retry.error(CallError::NotUnderstood(format!("nothing is said about {name}")))),
            Some(Err((code, detail))) if passes(code) => {
                again.insert(name, (code, detail));
            }
            Some(result) => {
                done.insert(name, result);
            }
        }
    }
    let Some((_, (code, detail))) = again.first_key_value() else { return Ok(BTreeSet::new()) };
    if retry.again(CallError::Code(*code, detail.clone())).await.is_err() {
        // The tries are used up: the last codes are the answer.
        done.extend(again.into_iter().map(|(name, refused)| (name, Err(refused))));
        return Ok(BTreeSet::new());
    }
    Ok(again.into_keys().collect())
}
