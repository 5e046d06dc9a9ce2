//! Consumer groups: list, describe, and their positions.
//!
//! Invariants: asking about groups never makes a broker create `__consumer_offsets`, which a lookup of a coordinator
//! would; only a commit may. A position is committed without a leader epoch: the source's epochs mean nothing on the
//! target. A group's positions are complete: an unfinished transactional commit is waited for, never skipped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, DescribeGroupsRequest, GroupId as WireGroupId, ListGroupsRequest,
    OffsetCommitRequest, OffsetFetchRequest,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_fetch_request::OffsetFetchRequestTopic,
};
use krossing_core::{
    error::KafkaCode,
    limits,
    ports::{
        ClusterResult, CommittedOffset, GroupDescription, GroupOffsets, Groups, Inventory, LogEnd, LogReader,
        TopicDescription,
    },
    types::{BrokerId, GroupId, TopicName, TopicPartition},
};

use crate::{
    broker::Broker,
    cluster::{CoordinatorKind, WireCluster, by_topic, check_code, coordinator_moved, text, wire_str, wire_topic},
    connection::CallError,
    read::exactly,
};

/// Kafka's name for a group that is not there.
const DEAD: &str = "Dead";
/// Where positions are kept.
const OFFSETS_TOPIC: &str = "__consumer_offsets";

impl Groups for WireCluster {
    async fn list_groups(&self) -> ClusterResult<Vec<GroupId>> {
        let listed = self.0.each_broker("list groups", groups_of).await?;
        let groups: BTreeSet<GroupId> = listed.into_iter().flatten().collect();
        Ok(groups.into_iter().collect())
    }

    async fn describe_groups(&self, groups: &[GroupId]) -> ClusterResult<Vec<GroupDescription>> {
        let attempt = format!("describe {} groups", groups.len());
        if groups.is_empty() || self.offsets_partitions(&attempt).await?.is_none() {
            return Ok(groups.iter().map(absent).collect());
        }
        let mut retry = self.0.retry(attempt);
        let mut described: BTreeMap<GroupId, GroupDescription> = BTreeMap::new();
        let mut left: Vec<String> = groups.iter().map(|group| group.as_str().to_owned()).collect();
        while !left.is_empty() {
            let mut last = CallError::Code(KafkaCode::COORDINATOR_NOT_AVAILABLE, String::new());
            match self.describe_once(&left).await {
                Ok(answers) => {
                    for (group, answer) in answers {
                        match answer {
                            Ok(description) => {
                                described.insert(description.id.clone(), description);
                            }
                            Err(error) => {
                                self.0.forget_coordinator(CoordinatorKind::Group, &group);
                                last = error;
                            }
                        }
                    }
                }
                Err(error) => last = error,
            }
            left.retain(|group| !described.contains_key(&GroupId::new(group)));
            if !left.is_empty() {
                retry.again(last).await?;
            }
        }
        Ok(groups.iter().map(|group| described.remove(group).unwrap_or_else(|| absent(group))).collect())
    }

    async fn group_offsets(&self, groups: &[GroupId]) -> ClusterResult<BTreeMap<GroupId, GroupOffsets>> {
        let attempt = format!("ask for the positions of {} groups", groups.len());
        if groups.is_empty() {
            return Ok(BTreeMap::new());
        }
        let Some(count) = self.offsets_partitions(&attempt).await? else {
            return Ok(groups.iter().map(|group| (group.clone(), GroupOffsets::new())).collect());
        };
        let keeping: BTreeSet<TopicPartition> = groups.iter().map(|group| kept_in(group, count)).collect();
        let open = self.with_open_transactions(keeping.into_iter().collect()).await?;
        let topics = if open.is_empty() { Vec::new() } else { self.describe_topics(None).await? };
        self.find_group_coordinators(groups).await;
        let asked = groups.iter().map(|group| {
            // Asked for all positions, brokers leave out a partition whose first commit is still unfinished, without a
            // code (seen on 3.9.1 and 4.1.1): only asked for by name is it said to be unstable.
            // Not covered: a position whose transaction has just ended is known to the coordinator some milliseconds
            // after its marker is in the log, and in between it is neither open nor answered (seen once on 3.9.1 in
            // ZooKeeper mode).
            let by_name = open.contains(&kept_in(group, count)).then_some(&topics[..]);
            self.positions_of(group, by_name)
        });
        let asked: Vec<_> = asked.collect();
        stream::iter(asked).buffer_unordered(limits::GROUPS_IN_FLIGHT_MAX).try_collect().await
    }

    async fn commit_group_offsets(
        &self,
        group: &GroupId,
        offsets: &GroupOffsets,
    ) -> ClusterResult<BTreeMap<TopicPartition, KafkaCode>> {
        let topics = by_topic(offsets).into_iter().map(|(topic, positions)| {
            let positions = positions.into_iter().map(|(number, position)| {
                OffsetCommitRequestPartition::default()
                    .with_partition_index(number)
                    .with_committed_offset(position.offset)
                    .with_committed_leader_epoch(-1)
                    .with_committed_metadata(Some(wire_str(&position.metadata)))
            });
            OffsetCommitRequestTopic::default().with_name(wire_topic(topic)).with_partitions(positions.collect())
        });
        // Generation -1 and no member: only a group without members takes it.
        let request = OffsetCommitRequest::default()
            .with_group_id(wire_group(group.as_str()))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(topics.collect());
        let retry = self.0.retry(format!("commit {} positions of group {:?}", offsets.len(), group.as_str()));
        let answer = self
            .0
            .ask_coordinator(CoordinatorKind::Group, group.as_str(), retry, &request, |answer| {
                let codes = commit_codes(answer);
                exactly(offsets.keys(), &codes)?;
                let moved = codes.values().flatten().find(|code| coordinator_moved(**code));
                moved.map_or(Ok(()), |code| Err(CallError::Code(*code, String::new())))
            })
            .await?;
        Ok(commit_codes(&answer).into_iter().filter_map(|(partition, code)| Some((partition, code?))).collect())
    }
}

impl WireCluster {
    /// Looks up all coordinators in one request. What is not found is looked up again by the call that needs it.
    async fn find_group_coordinators(&self, groups: &[GroupId]) {
        let names: Vec<String> = groups.iter().map(|group| group.as_str().to_owned()).collect();
        if let Err(error) = self.0.coordinators_of(CoordinatorKind::Group, &names).await {
            tracing::debug!(?error, "the groups' coordinators are not all known yet");
        }
    }

    /// How many partitions `__consumer_offsets` has; none where there is no such topic. Where we may not see it (29),
    /// whoever asks about a group has it from a listing, and the answer is 0.
    async fn offsets_partitions(&self, attempt: &str) -> ClusterResult<Option<i32>> {
        let offsets_topic = [TopicName::new(OFFSETS_TOPIC)];
        let mut retry = self.0.retry(attempt);
        loop {
            match self.0.metadata(Some(&offsets_topic)).await {
                Ok(answer) => {
                    let topic = answer.topics.first();
                    let missing = topic.is_none_or(|t| t.error_code == KafkaCode::UNKNOWN_TOPIC_OR_PARTITION.0);
                    let count = topic.map_or(0, |topic| i32::try_from(topic.partitions.len()).unwrap_or(0));
                    return Ok((!missing).then_some(count));
                }
                Err(error) => retry.again(error).await?,
            }
        }
    }

    /// Positions of a group, asked for all at once and then by name of `topics`.
    async fn positions_of(
        &self,
        group: &GroupId,
        topics: Option<&[TopicDescription]>,
    ) -> ClusterResult<(GroupId, GroupOffsets)> {
        let attempt = format!("ask for the positions of group {:?}", group.as_str());
        let mut offsets = self.stable_offsets(group, &attempt, None).await?;
        if topics.is_some() {
            offsets.extend(self.stable_offsets(group, &attempt, topics).await?);
        }
        Ok((group.clone(), offsets))
    }

    /// Those of `partitions` in which a transaction is open; also those where it cannot be seen.
    async fn with_open_transactions(
        &self,
        mut partitions: Vec<TopicPartition>,
    ) -> ClusterResult<BTreeSet<TopicPartition>> {
        // In this order: what begins in between makes the end later, never the stable end.
        let stable = self.log_ends(&partitions, LogEnd::LatestStable).await?;
        let end = self.log_ends(&partitions, LogEnd::Latest).await?;
        partitions.retain(|partition| {
            !matches!((stable.get(partition), end.get(partition)), (Some(Ok(stable)), Some(Ok(end))) if stable >= end)
        });
        Ok(partitions.into_iter().collect())
    }

    /// Positions of a group in all partitions it has any in, or in every one of `topics`, once none is unfinished.
    async fn stable_offsets(
        &self,
        group: &GroupId,
        attempt: &str,
        topics: Option<&[TopicDescription]>,
    ) -> ClusterResult<GroupOffsets> {
        let named = |topic: &TopicDescription| {
            OffsetFetchRequestTopic::default()
                .with_name(wire_topic(&topic.name))
                .with_partition_indexes(topic.partitions.iter().map(|partition| partition.id.0).collect())
        };
        let request = OffsetFetchRequest::default()
            .with_group_id(wire_group(group.as_str()))
            .with_topics(topics.map(|topics| topics.iter().map(named).collect()))
            .with_require_stable(true);
        let retry = self.0.retry(attempt);
        let answer = self
            .0
            .ask_coordinator(CoordinatorKind::Group, group.as_str(), retry, &request, |answer| {
                check_code(answer.error_code, None)?;
                for topic in &answer.topics {
                    for p in &topic.partitions {
                        if let Some(code) = KafkaCode::from_wire(p.error_code) {
                            let partition = TopicPartition::new(topic.name.as_str(), p.partition_index);
                            return Err(CallError::Code(code, partition.to_string()));
                        }
                    }
                }
                Ok(())
            })
            .await?;
        let mut offsets = GroupOffsets::new();
        for topic in &answer.topics {
            for p in topic.partitions.iter().filter(|p| p.committed_offset >= 0) {
                let position = CommittedOffset { offset: p.committed_offset, metadata: text(p.metadata.as_ref()) };
                offsets.insert(TopicPartition::new(topic.name.as_str(), p.partition_index), position);
            }
        }
        Ok(offsets)
    }

    /// Descriptions from each coordinator, or why a group has none yet.
    async fn describe_once(
        &self,
        groups: &[String],
    ) -> Result<Vec<(String, Result<GroupDescription, CallError>)>, CallError> {
        let mut by_broker: BTreeMap<BrokerId, Vec<String>> = BTreeMap::new();
        let mut answers = Vec::new();
        for (group, coordinator) in self.0.coordinators_of(CoordinatorKind::Group, groups).await? {
            match coordinator {
                Ok(broker) => by_broker.entry(broker).or_default().push(group),
                Err(error) => answers.push((group, Err(error))),
            }
        }
        let asked = by_broker.into_iter().map(|(broker, groups)| async move {
            let described = self.describe_at(broker, &groups).await;
            (groups, described)
        });
        for (groups, described) in join_all(asked).await {
            match described {
                Ok(described) => answers.extend(described),
                Err(error) => answers.extend(groups.into_iter().map(|group| (group, Err(error.clone())))),
            }
        }
        match answers.iter().position(|(_, answer)| answer.as_ref().is_err_and(is_definite)) {
            Some(at) => answers.swap_remove(at).1.map(|_| Vec::new()),
            None => Ok(answers),
        }
    }

    async fn describe_at(
        &self,
        broker: BrokerId,
        groups: &[String],
    ) -> Result<Vec<(String, Result<GroupDescription, CallError>)>, CallError> {
        let connection = self.0.connection(broker).await?;
        let request = DescribeGroupsRequest::default().with_groups(groups.iter().map(|g| wire_group(g)).collect());
        let mut answers = BTreeMap::new();
        for group in connection.call(&request).await?.groups {
            let id = group.group_id.as_str().to_owned();
            let description = check_code(group.error_code, group.error_message.as_ref()).map(|()| GroupDescription {
                id: GroupId::new(&id),
                state: group.group_state.as_str().to_owned(),
                protocol_type: group.protocol_type.as_str().to_owned(),
                members: group.members.len(),
                client_ids: names(group.members.iter().map(|member| member.client_id.as_str())),
            });
            answers.insert(id, description);
        }
        // Groups of the newer protocol (KIP-848) are dead to this call, and have one of their own.
        let dead = answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(|group| group.state == DEAD));
        let dead: Vec<_> = dead.map(|(id, _)| wire_group(id)).collect();
        if !dead.is_empty() && connection.can::<ConsumerGroupDescribeRequest>() {
            let request = ConsumerGroupDescribeRequest::default().with_group_ids(dead);
            for group in connection.call(&request).await?.groups.iter().filter(|group| group.error_code == 0) {
                let id = group.group_id.as_str().to_owned();
                let description = GroupDescription {
                    id: GroupId::new(&id),
                    state: group.group_state.as_str().to_owned(),
                    protocol_type: "consumer".to_owned(),
                    members: group.members.len(),
                    client_ids: names(group.members.iter().map(|member| member.client_id.as_str())),
                };
                answers.insert(id, Ok(description));
            }
        }
        match groups.iter().find(|group| !answers.contains_key(*group)) {
            Some(group) => Err(CallError::NotUnderstood(format!("nothing is said about group {group:?}"))),
            None => Ok(answers.into_iter().collect()),
        }
    }
}

async fn groups_of(broker: Arc<Broker>) -> Result<Vec<GroupId>, CallError> {
    let answer = broker.control().await?.call(&ListGroupsRequest::default()).await?;
    check_code(answer.error_code, None)?;
    Ok(answer.groups.iter().map(|group| GroupId::new(group.group_id.as_str())).collect())
}

/// An error that asking again does not change.
fn is_definite(error: &CallError) -> bool {
    match error {
        CallError::NotSent(_) | CallError::Lost(_) => false,
        CallError::Code(code, _) => !coordinator_moved(*code),
        CallError::NotAllowed(_) | CallError::NotOffered(_) | CallError::NotUnderstood(_) => true,
    }
}

/// Each once, sorted.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

fn absent(group: &GroupId) -> GroupDescription {
    GroupDescription {
        id: group.clone(),
        state: DEAD.to_owned(),
        protocol_type: String::new(),
        members: 0,
        client_ids: Vec::new(),
    }
}

fn commit_codes(
    answer: &kafka_protocol::messages::OffsetCommitResponse,
) -> BTreeMap<TopicPartition, Option<KafkaCode>> {
    let topics = answer.topics.iter();
    topics
        .flat_map(|topic| {
            topic.partitions.iter().map(|p| {
                (TopicPartition::new(topic.name.as_str(), p.partition_index), KafkaCode::from_wire(p.error_code))
            })
        })
        .collect()
}

/// The partition of `__consumer_offsets`, which has `count`, that keeps a group's positions.
fn kept_in(group: &GroupId, count: i32) -> TopicPartition {
    let number = java_hash(group.as_str()).checked_abs().unwrap_or(0) % count.max(1);
    TopicPartition::new(OFFSETS_TOPIC, number)
}

fn wire_group(group: &str) -> WireGroupId {
    WireGroupId(wire_str(group))
}

/// `String.hashCode` of Java, by which brokers spread groups over the partitions of `__consumer_offsets`.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_hashed_as_java_hashes_them() {
        // As a Java virtual machine printed them.
        for (text, hash) in [("", 0), ("console-consumer-1", 35_782_224), ("größe", 98_762_257)] {
            assert_eq!(java_hash(text), hash, "{text:?}");
        }
    }
}
