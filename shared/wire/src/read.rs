//! Reading logs: Fetch, both ends, where epochs end, who has written.
//!
//! Fetch speaks version 13, which names topics by id, wherever the caller knows the ids and the broker has it: a topic
//! that was deleted and made again is then another topic to the broker itself. Both versions carry the leader epoch of
//! the last batch read, so that a log that was cut back and written anew answers `diverging` instead of other records.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use kafka_protocol::messages::{
    DescribeProducersRequest, FetchRequest as WireFetchRequest, FetchResponse, ListOffsetsRequest,
    OffsetForLeaderEpochRequest,
    describe_producers_request::TopicRequest,
    fetch_request::{FetchPartition as WireFetchPartition, FetchTopic},
    fetch_response::PartitionData,
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
};
use krossing_core::{
    error::KafkaCode,
    limits,
    ports::{
        AbortedTransaction, ClusterResult, EpochEnd, FetchRequest, Fetched, Isolation, Leader, LogEnd, LogReader,
        PerPartition, ProducerDescription,
    },
    types::{LeaderEpoch, Offset, Producer, TopicName, TopicPartition},
};

use crate::{
    cluster::{WireCluster, by_topic, check_code, moved, wire_topic},
    connection::{CallError, CallOptions, Connection},
};

/// What a consumer says in place of a replica's number.
pub(crate) const CONSUMER: kafka_protocol::messages::BrokerId = kafka_protocol::messages::BrokerId(-1);

impl LogReader for WireCluster {
    async fn leaders(&self, partitions: &[TopicPartition], fresh: bool) -> ClusterResult<PerPartition<Leader>> {
        self.0.leaders_of("ask for leaders", partitions, fresh).await
    }

    async fn fetch(&self, request: FetchRequest) -> ClusterResult<PerPartition<Fetched>> {
        let retry = self.0.retry(format!("fetch from broker {}", request.broker));
        self.fetch_once(&request).await.map_err(|error| retry.error(error))
    }

    async fn log_ends(&self, partitions: &[TopicPartition], end: LogEnd) -> ClusterResult<PerPartition<Offset>> {
        let attempt = match end {
            LogEnd::Earliest => "ask for log starts",
            LogEnd::Latest | LogEnd::LatestStable => "ask for log ends",
        };
        self.0.by_leader(attempt, partitions, |connection, partitions| list_offsets(connection, partitions, end)).await
    }

    async fn epoch_end(&self, partition: &TopicPartition, epoch: LeaderEpoch) -> ClusterResult<Option<EpochEnd>> {
        let attempt = format!("ask for the end of leader epoch {} of {partition}", epoch.0);
        let asked = std::slice::from_ref(partition);
        let mut answer = self
            .0
            .by_leader(&attempt, asked, |connection, partitions| epoch_ends(connection, partitions, epoch))
            .await?;
        let retry = self.0.retry(attempt);
        match answer.remove(partition) {
            Some(Ok(end)) => Ok(end),
            Some(Err(code)) => Err(retry.error(CallError::Code(code, String::new()))),
            None => Err(retry.error(CallError::NotUnderstood("nothing is said about it".to_owned()))),
        }
    }

    async fn producers(&self, partitions: &[TopicPartition]) -> ClusterResult<PerPartition<Vec<ProducerDescription>>> {
        self.0.by_leader("ask who has written", partitions, describe_producers).await
    }
}

impl WireCluster {
    async fn fetch_once(&self, request: &FetchRequest) -> Result<PerPartition<Fetched>, CallError> {
        let broker = self.0.broker(request.broker)?;
        let lent = broker.fetch_connection().await?;
        let ids_known = request.partitions.iter().all(|p| p.topic_id.is_some());
        let version = if ids_known { lent.connection.version::<WireFetchRequest>()? } else { 12 };
        let options = CallOptions {
            version: Some(version),
            wait_max: request.wait_max + limits::REQUEST_WAIT_MAX,
            send_before: None,
        };
        let answer = lent.connection.call_with(&wire_fetch(request, version), options).await?;
        lent.give_back();
        let fetched = read_fetch(request, version, answer)?;
        let lost: BTreeSet<&TopicName> = fetched
            .iter()
            .filter_map(|(partition, result)| result.as_ref().is_err_and(|c| moved(*c)).then_some(&partition.topic))
            .collect();
        lost.into_iter().for_each(|topic| self.0.forget_leaders(topic));
        Ok(fetched)
    }
}

fn wire_fetch(request: &FetchRequest, version: i16) -> WireFetchRequest {
    let partitions = request.partitions.iter().map(|p| (&p.partition, p));
    let topics = by_topic(partitions).into_iter().map(|(topic, partitions)| {
        let id = partitions.first().and_then(|(_, p)| p.topic_id).map(|id| id.0).unwrap_or_default();
        let partitions = partitions.into_iter().map(|(number, p)| {
            WireFetchPartition::default()
                .with_partition(number)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(p.offset)
                .with_last_fetched_epoch(p.last_epoch.map_or(-1, |epoch| epoch.0))
                .with_partition_max_bytes(i32::try_from(p.bytes_max).unwrap_or(i32::MAX))
        });
        let wire = FetchTopic::default().with_partitions(partitions.collect());
        if version >= 13 { wire.with_topic_id(id) } else { wire.with_topic(wire_topic(topic)) }
    });
    WireFetchRequest::default()
        .with_replica_id(CONSUMER)
        .with_max_wait_ms(millis(request.wait_max))
        .with_min_bytes(i32::try_from(request.bytes_min).unwrap_or(i32::MAX))
        .with_max_bytes(i32::try_from(request.bytes_max).unwrap_or(i32::MAX))
        .with_isolation_level(isolation(request.isolation))
        // A full fetch without a session (KIP-227): every answer lists every partition.
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics.collect())
}

fn read_fetch(request: &FetchRequest, version: i16, answer: FetchResponse) -> Result<PerPartition<Fetched>, CallError> {
    check_code(answer.error_code, None)?;
    let ids: HashMap<_, _> =
        request.partitions.iter().filter_map(|p| Some((p.topic_id?.0, p.partition.topic.clone()))).collect();
    let mut fetched = BTreeMap::new();
    for topic in answer.responses {
        let name = if version >= 13 {
            let unknown = || CallError::NotUnderstood(format!("topic id {} was not asked for", topic.topic_id));
            ids.get(&topic.topic_id).cloned().ok_or_else(unknown)?
        } else {
            TopicName::new(topic.topic.as_str())
        };
        for partition in topic.partitions {
            fetched.insert(TopicPartition::new(name.as_str(), partition.partition_index), read_partition(partition));
        }
    }
    exactly(request.partitions.iter().map(|p| &p.partition), &fetched)?;
    Ok(fetched)
}

fn read_partition(partition: PartitionData) -> Result<Fetched, KafkaCode> {
    if let Some(code) = KafkaCode::from_wire(partition.error_code) {
        return Err(code);
    }
    let aborted = partition.aborted_transactions.unwrap_or_default();
    let diverging = &partition.diverging_epoch;
    Ok(Fetched {
        high_watermark: partition.high_watermark,
        last_stable_offset: partition.last_stable_offset,
        log_start: partition.log_start_offset,
        aborted: aborted
            .iter()
            .map(|a| AbortedTransaction { producer_id: a.producer_id.0, first_offset: a.first_offset })
            .collect(),
        records: partition.records.unwrap_or_default(),
        diverging: (diverging.end_offset >= 0)
            .then_some(EpochEnd { epoch: LeaderEpoch(diverging.epoch), end: diverging.end_offset }),
    })
}

/// An answer must speak of every partition asked for, and of no other.
pub(crate) fn exactly<'a, T>(
    asked: impl Iterator<Item = &'a TopicPartition>,
    answered: &BTreeMap<TopicPartition, T>,
) -> Result<(), CallError> {
    let asked: BTreeSet<_> = asked.collect();
    if let Some(missing) = asked.iter().find(|p| !answered.contains_key(**p)) {
        return Err(CallError::NotUnderstood(format!("nothing is said about {missing}")));
    }
    match answered.keys().find(|p| !asked.contains(p)) {
        Some(other) => Err(CallError::NotUnderstood(format!("{other} was not asked for"))),
        None => Ok(()),
    }
}

async fn list_offsets(
    connection: Arc<Connection>,
    partitions: Vec<TopicPartition>,
    end: LogEnd,
) -> Result<PerPartition<Offset>, CallError> {
    let (timestamp, level) = match end {
        LogEnd::Earliest => (-2, Isolation::ReadUncommitted),
        LogEnd::Latest => (-1, Isolation::ReadUncommitted),
        LogEnd::LatestStable => (-1, Isolation::ReadCommitted),
    };
    let topics = by_topic(partitions.iter().map(|p| (p, ()))).into_iter().map(|(topic, numbers)| {
        let wanted = numbers.into_iter().map(|(number, ())| {
            ListOffsetsPartition::default()
                .with_partition_index(number)
                .with_current_leader_epoch(-1)
                .with_timestamp(timestamp)
        });
        ListOffsetsTopic::default().with_name(wire_topic(topic)).with_partitions(wanted.collect())
    });
    let request = ListOffsetsRequest::default()
        .with_replica_id(CONSUMER)
        .with_isolation_level(isolation(level))
        .with_topics(topics.collect());
    let answer = connection.call(&request).await?;
    let mut ends = BTreeMap::new();
    for topic in &answer.topics {
        for p in &topic.partitions {
            let end = match KafkaCode::from_wire(p.error_code) {
                Some(code) => Err(code),
                None if p.offset >= 0 => Ok(p.offset),
                None => return Err(CallError::NotUnderstood(format!("offset {} as a log's end", p.offset))),
            };
            ends.insert(TopicPartition::new(topic.name.as_str(), p.partition_index), end);
        }
    }
    Ok(ends)
}

async fn epoch_ends(
    connection: Arc<Connection>,
    partitions: Vec<TopicPartition>,
    epoch: LeaderEpoch,
) -> Result<PerPartition<Option<EpochEnd>>, CallError> {
    let topics = by_topic(partitions.iter().map(|p| (p, ()))).into_iter().map(|(topic, numbers)| {
        let wanted = numbers.into_iter().map(|(number, ())| {
            OffsetForLeaderPartition::default()
                .with_partition(number)
                .with_current_leader_epoch(-1)
                .with_leader_epoch(epoch.0)
        });
        OffsetForLeaderTopic::default().with_topic(wire_topic(topic)).with_partitions(wanted.collect())
    });
    // The default of the field is a replica's debugging number, which brokers treat as a follower.
    let request = OffsetForLeaderEpochRequest::default().with_replica_id(CONSUMER).with_topics(topics.collect());
    let answer = connection.call(&request).await?;
    let mut ends = BTreeMap::new();
    for topic in &answer.topics {
        for p in &topic.partitions {
            let end =
                match KafkaCode::from_wire(p.error_code) {
                    Some(code) => Err(code),
                    None => Ok((p.end_offset >= 0)
                        .then_some(EpochEnd { epoch: LeaderEpoch(p.leader_epoch), end: p.end_offset })),
                };
            ends.insert(TopicPartition::new(topic.topic.as_str(), p.partition), end);
        }
    }
    Ok(ends)
}

async fn describe_producers(
    connection: Arc<Connection>,
    partitions: Vec<TopicPartition>,
) -> Result<PerPartition<Vec<ProducerDescription>>, CallError> {
    if !connection.can::<DescribeProducersRequest>() {
        return Ok(partitions.into_iter().map(|partition| (partition, Ok(Vec::new()))).collect());
    }
    let topics = by_topic(partitions.iter().map(|p| (p, ()))).into_iter().map(|(topic, numbers)| {
        TopicRequest::default()
            .with_name(wire_topic(topic))
            .with_partition_indexes(numbers.into_iter().map(|(number, ())| number).collect())
    });
    let answer = connection.call(&DescribeProducersRequest::default().with_topics(topics.collect())).await?;
    let mut described = BTreeMap::new();
    for topic in &answer.topics {
        for p in &topic.partitions {
            let producers = match KafkaCode::from_wire(p.error_code) {
                Some(code) => Err(code),
                None => p.active_producers.iter().map(describe_producer).collect::<Result<Vec<_>, _>>().map(Ok)?,
            };
            described.insert(TopicPartition::new(topic.name.as_str(), p.partition_index), producers);
        }
    }
    Ok(described)
}

fn describe_producer(
    state: &kafka_protocol::messages::describe_producers_response::ProducerState,
) -> Result<ProducerDescription, CallError> {
    let strange = |_| CallError::NotUnderstood(format!("producer epoch {}", state.producer_epoch));
    Ok(ProducerDescription {
        producer: Producer { id: state.producer_id.0, epoch: i16::try_from(state.producer_epoch).map_err(strange)? },
        last_timestamp_ms: state.last_timestamp,
        open_transaction_from: (state.current_txn_start_offset >= 0).then_some(state.current_txn_start_offset),
    })
}

fn isolation(isolation: Isolation) -> i8 {
    match isolation {
        Isolation::ReadUncommitted => 0,
        Isolation::ReadCommitted => 1,
    }
}

/// Milliseconds for the wire.
pub(crate) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
