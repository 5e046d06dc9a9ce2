//! The ports of a [`FakeCluster`]: what Krossing sees of it.

use std::collections::{BTreeMap, BTreeSet};

use krossing_core::{
    BrokerId, GroupId, KafkaCode, LeaderEpoch, Offset, Producer, TopicName, TopicPartition,
    ports::{
        AccessAdmin, AclBinding, ClientQuota, Clock, ClusterDescription, ClusterError, ClusterResult, Configs,
        EpochEnd, FetchPartition, FetchRequest, Fetched, GroupDescription, GroupOffsets, Groups, Inventory, Leader,
        LogEnd, LogReader, LogWriter, Marker, NewTopic, PartitionDescription, PerPartition, ProduceOutcome,
        ProduceRequest, ProducerDescription, QuotaEntity, Refusals, TopicAdmin, TopicDescription,
    },
    records::ControlType,
    rights::Right,
};

use crate::cluster::{FakeCluster, State, Topic, is_topic_config, partition_ids};

impl FakeCluster {
    fn refused(&self, attempt: impl Into<String>, code: KafkaCode) -> ClusterError {
        ClusterError::Refused { side: self.side, attempt: attempt.into(), code, detail: String::new() }
    }
}

// ── Inventory ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn describe(state: &State, name: &TopicName, topic: &Topic) -> TopicDescription {
    let brokers: Vec<BrokerId> = state.description.brokers.iter().map(|broker| broker.id).collect();
    let partitions = partition_ids(topic)
        .zip(&topic.logs)
        .map(|(id, log)| {
            let others = brokers.iter().copied().filter(|broker| *broker != log.leader);
            let replicas: Vec<_> = std::iter::once(log.leader).chain(others).take(topic.replicas as usize).collect();
            PartitionDescription {
                id,
                leader: Some(log.leader),
                leader_epoch: Some(log.epoch()),
                in_sync: replicas.clone(),
                replicas,
            }
        })
        .collect();
    TopicDescription { name: name.clone(), id: Some(topic.id), internal: topic.internal, partitions }
}

impl Inventory for FakeCluster {
    async fn describe_cluster(&self) -> ClusterResult<ClusterDescription> {
        Ok(self.state().description.clone())
    }

    async fn describe_topics(&self, names: Option<&[TopicName]>) -> ClusterResult<Vec<TopicDescription>> {
        let state = self.state();
        let wanted = |name: &TopicName| names.is_none_or(|names| names.contains(name));
        Ok(state
            .topics
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, topic)| describe(&state, name, topic))
            .collect())
    }

    async fn topic_configs(&self, topics: &[TopicName]) -> ClusterResult<BTreeMap<TopicName, Configs>> {
        let state = self.state();
        topics
            .iter()
            .map(|name| match state.topics.get(name) {
                Some(topic) => Ok((name.clone(), topic.all_configs())),
                None => {
                    Err(self.refused(format!("read the settings of {name}"), KafkaCode::UNKNOWN_TOPIC_OR_PARTITION))
                }
            })
            .collect()
    }

    async fn broker_configs(&self, _broker: BrokerId) -> ClusterResult<Configs> {
        Ok(self.state().broker_configs.clone())
    }

    async fn partition_sizes(&self) -> ClusterResult<BTreeMap<TopicPartition, u64>> {
        let state = self.state();
        let sized = |partition: TopicPartition| Some((partition.clone(), state.log(&partition)?.bytes()));
        Ok(state.partitions().into_iter().filter_map(sized).collect())
    }

    async fn acls(&self) -> ClusterResult<Option<Vec<AclBinding>>> {
        Ok(self.state().acls.clone())
    }

    async fn client_quotas(&self) -> ClusterResult<Vec<ClientQuota>> {
        Ok(self.state().quotas.clone())
    }

    async fn scram_users(&self) -> ClusterResult<Vec<String>> {
        Ok(self.state().scram_users.clone())
    }

    async fn lacking(&self, rights: &[Right]) -> ClusterResult<Vec<Right>> {
        let state = self.state();
        Ok(rights.iter().filter(|right| state.forbidden.contains(right)).cloned().collect())
    }
}

// ── Logs ───────────────────────────────────────────────────────────────────────────────────────────────────────────

fn fetch_one(
    state: &State,
    request: &FetchRequest,
    wanted: &FetchPartition,
    bytes_max: usize,
) -> Result<Fetched, KafkaCode> {
    let topic = state.topics.get(&wanted.partition.topic);
    if let Some(id) = wanted.topic_id
        && topic.is_none_or(|topic| topic.id != id)
    {
        return Err(KafkaCode::UNKNOWN_TOPIC_ID);
    }
    let log = state.log(&wanted.partition).ok_or(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    if log.leader != request.broker {
        return Err(KafkaCode::NOT_LEADER_OR_FOLLOWER);
    }
    log.fetch(wanted.offset, wanted.last_epoch, request.isolation, bytes_max)
}

/// One look at all partitions: the answer, and whether it is worth sending before the wait is over.
fn fetch_all(state: &State, request: &FetchRequest) -> (PerPartition<Fetched>, bool) {
    let mut answer = BTreeMap::new();
    let mut bytes = 0;
    let mut urgent = false;
    for wanted in &request.partitions {
        let room = (request.bytes_max as usize).saturating_sub(bytes);
        let bytes_max = room.min(wanted.bytes_max as usize);
        let mut fetched = fetch_one(state, request, wanted, bytes_max);
        match &mut fetched {
            // A full answer leaves the others for the next one; the first batch of all comes whatever its size.
            Ok(fetched) if bytes > 0 && fetched.records.len() > room => fetched.records.clear(),
            Ok(fetched) => {
                bytes += fetched.records.len();
                urgent |= fetched.diverging.is_some();
            }
            Err(_) => urgent = true,
        }
        answer.insert(wanted.partition.clone(), fetched);
    }
    (answer, urgent || bytes >= request.bytes_min as usize)
}

impl LogReader for FakeCluster {
    async fn leaders(&self, partitions: &[TopicPartition], fresh: bool) -> ClusterResult<PerPartition<Leader>> {
        let mut state = self.state();
        let mut answer = BTreeMap::new();
        for partition in partitions {
            let believed = state.believed_leaders.get(partition).copied().filter(|_| !fresh);
            let leader = believed.or_else(|| state.leader(partition)).ok_or(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION);
            match leader {
                Ok(leader) => state.believed_leaders.insert(partition.clone(), leader),
                Err(_) => state.believed_leaders.remove(partition),
            };
            answer.insert(partition.clone(), leader);
        }
        Ok(answer)
    }

    async fn fetch(&self, request: FetchRequest) -> ClusterResult<PerPartition<Fetched>> {
        let deadline = tokio::time::Instant::now() + request.wait_max;
        loop {
            // Registered before the look, so that what is appended in between is not missed.
            let grown = self.grown.notified();
            let (answer, ready, next_mark) = {
                let state = self.state();
                let (answer, ready) = fetch_all(&state, &request);
                (answer, ready, state.next_mark().map(tokio::time::Instant::from_std))
            };
            if ready || tokio::time::Instant::now() >= deadline {
                return Ok(answer);
            }
            // However this ends, the next thing is to look again.
            tokio::time::timeout_at(next_mark.map_or(deadline, |due| due.min(deadline)), grown).await.ok();
        }
    }

    async fn log_ends(&self, partitions: &[TopicPartition], end: LogEnd) -> ClusterResult<PerPartition<Offset>> {
        let state = self.state();
        let one = |partition: &TopicPartition| {
            let log = state.log(partition).ok_or(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION)?;
            Ok(match end {
                LogEnd::Earliest => log.start,
                LogEnd::Latest => log.end,
                LogEnd::LatestStable => log.stable_end(),
            })
        };
        Ok(partitions.iter().map(|partition| (partition.clone(), one(partition))).collect())
    }

    async fn epoch_end(&self, partition: &TopicPartition, epoch: LeaderEpoch) -> ClusterResult<Option<EpochEnd>> {
        match self.state().log(partition) {
            Some(log) => Ok(log.epoch_end(epoch)),
            None => {
                Err(self.refused(format!("ask for an epoch of {partition}"), KafkaCode::UNKNOWN_TOPIC_OR_PARTITION))
            }
        }
    }

    async fn producers(&self, partitions: &[TopicPartition]) -> ClusterResult<PerPartition<Vec<ProducerDescription>>> {
        let state = self.state();
        let one = |partition: &TopicPartition| {
            let log = state.log(partition).ok_or(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION)?;
            let described = log.producers.iter().map(|(&id, known)| ProducerDescription {
                producer: Producer { id, epoch: known.epoch },
                last_timestamp_ms: known.last_timestamp_ms,
                open_transaction_from: known.open_from,
            });
            Ok(described.collect())
        };
        Ok(partitions.iter().map(|partition| (partition.clone(), one(partition))).collect())
    }
}

impl LogWriter for FakeCluster {
    async fn produce(&self, request: ProduceRequest) -> ProduceOutcome {
        if self.clock.now() > request.send_before {
            return ProduceOutcome::NotAppended { reason: "the lease ended before it was sent".to_owned() };
        }
        let now_ms = self.clock.unix_ms();
        let appended = {
            let mut state = self.state();
            let rules = state.topics.get(&request.partition.topic).map(Topic::append_rules);
            match (rules, state.log_mut(&request.partition)) {
                (Some(rules), Some(log)) => log.produce(request.batch, &rules, now_ms),
                _ => Err(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION),
            }
        };
        self.grown.notify_waiters();
        match appended {
            Ok(base_offset) => ProduceOutcome::Appended { base_offset },
            // After these a batch may be in the log, whatever this broker knows.
            Err(code @ (KafkaCode::UNKNOWN_TOPIC_OR_PARTITION | KafkaCode::UNKNOWN_SERVER_ERROR)) => {
                ProduceOutcome::Unknown { reason: code.to_string() }
            }
            Err(code) => ProduceOutcome::Refused { code, detail: String::new() },
        }
    }
}

impl Marker for FakeCluster {
    async fn open_producer(&self, transactional_id: &str) -> ClusterResult<Producer> {
        let producer = self.state().open_producer(transactional_id, &self.clock);
        self.grown.notify_waiters();
        Ok(producer)
    }

    async fn mark(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> ClusterResult<BTreeMap<TopicPartition, KafkaCode>> {
        let ended =
            self.state().end_transaction(transactional_id, producer, ControlType::Commit, partitions, &self.clock);
        self.grown.notify_waiters();
        ended.map_err(|code| self.refused(format!("mark {} partitions", partitions.len()), code))
    }
}

// ── Topics ─────────────────────────────────────────────────────────────────────────────────────────────────────────

type TopicAnswer = Result<(), (KafkaCode, String)>;

fn create(state: &mut State, new: &NewTopic) -> TopicAnswer {
    if state.topics.contains_key(&new.name) {
        return Err((KafkaCode::TOPIC_ALREADY_EXISTS, format!("Topic '{}' already exists.", new.name)));
    }
    if new.partitions < 1 {
        return Err((KafkaCode::INVALID_PARTITIONS, "Number of partitions must be larger than 0.".to_owned()));
    }
    let brokers = state.description.brokers.len();
    if new.replication_factor < 1 || new.replication_factor as usize > brokers {
        let detail = format!("replication factor {} with {brokers} brokers", new.replication_factor);
        return Err((KafkaCode::INVALID_REPLICATION_FACTOR, detail));
    }
    if let Some(unknown) = new.configs.keys().find(|name| !is_topic_config(name)) {
        return Err((KafkaCode::INVALID_CONFIG, format!("Unknown topic config name: {unknown}")));
    }
    state.add_topic(&new.name, new.partitions, new.replication_factor, new.configs.clone());
    Ok(())
}

fn alter(state: &mut State, name: &TopicName, changes: &BTreeMap<String, Option<String>>) -> TopicAnswer {
    let Some(topic) = state.topics.get_mut(name) else {
        return Err((KafkaCode::UNKNOWN_TOPIC_OR_PARTITION, String::new()));
    };
    if let Some(unknown) = changes.keys().find(|name| !is_topic_config(name)) {
        return Err((KafkaCode::INVALID_CONFIG, format!("Unknown topic config name: {unknown}")));
    }
    for (config, value) in changes {
        match value {
            Some(value) => topic.configs.insert(config.clone(), value.clone()),
            None => topic.configs.remove(config),
        };
    }
    Ok(())
}

impl TopicAdmin for FakeCluster {
    async fn create_topics(&self, topics: &[NewTopic]) -> ClusterResult<BTreeMap<TopicName, TopicAnswer>> {
        let mut state = self.state();
        Ok(topics.iter().map(|new| (new.name.clone(), create(&mut state, new))).collect())
    }

    async fn create_partitions(&self, topic: &TopicName, partitions: i32) -> ClusterResult<()> {
        let mut state = self.state();
        let attempt = format!("give {topic} {partitions} partitions");
        let Some(known) = state.topics.get(topic) else {
            return Err(self.refused(attempt, KafkaCode::UNKNOWN_TOPIC_OR_PARTITION));
        };
        if partitions as usize <= known.logs.len() {
            return Err(self.refused(attempt, KafkaCode::INVALID_PARTITIONS));
        }
        state.add_partitions(topic, partitions);
        Ok(())
    }

    async fn alter_topic_configs(
        &self,
        changes: &BTreeMap<TopicName, BTreeMap<String, Option<String>>>,
    ) -> ClusterResult<BTreeMap<TopicName, TopicAnswer>> {
        let mut state = self.state();
        Ok(changes.iter().map(|(name, changes)| (name.clone(), alter(&mut state, name, changes))).collect())
    }
}

impl AccessAdmin for FakeCluster {
    async fn create_acls(&self, rules: &[AclBinding]) -> ClusterResult<Refusals<AclBinding>> {
        let mut state = self.state();
        let Some(acls) = &mut state.acls else {
            let refused = |rule: &AclBinding| (rule.clone(), KafkaCode::SECURITY_DISABLED, String::new());
            return Ok(rules.iter().map(refused).collect());
        };
        acls.extend_from_slice(rules);
        acls.sort();
        acls.dedup();
        Ok(Vec::new())
    }

    async fn set_client_quotas(&self, quotas: &[ClientQuota]) -> ClusterResult<Refusals<QuotaEntity>> {
        let mut state = self.state();
        for quota in quotas {
            match state.quotas.iter_mut().find(|known| known.entity == quota.entity) {
                Some(known) => known.limits.extend(quota.limits.clone()),
                None => state.quotas.push(quota.clone()),
            }
        }
        Ok(Vec::new())
    }
}

// ── Groups ─────────────────────────────────────────────────────────────────────────────────────────────────────────

impl Groups for FakeCluster {
    async fn list_groups(&self) -> ClusterResult<Vec<GroupId>> {
        Ok(self.state().groups.keys().cloned().collect())
    }

    async fn describe_groups(&self, groups: &[GroupId]) -> ClusterResult<Vec<GroupDescription>> {
        let state = self.state();
        let described = |id: &GroupId| match state.groups.get(id) {
            Some(group) => GroupDescription {
                id: id.clone(),
                state: if group.members > 0 { "Stable" } else { "Empty" }.to_owned(),
                protocol_type: group.protocol_type.clone(),
                members: group.members,
                client_ids: Vec::new(),
            },
            None => GroupDescription {
                id: id.clone(),
                state: "Dead".to_owned(),
                protocol_type: String::new(),
                members: 0,
                client_ids: Vec::new(),
            },
        };
        Ok(groups.iter().map(described).collect())
    }

    async fn group_offsets(&self, groups: &[GroupId]) -> ClusterResult<BTreeMap<GroupId, GroupOffsets>> {
        let state = self.state();
        let positions = |group: &GroupId| match state.groups.get(group) {
            Some(known) if known.unstable => Err(ClusterError::Unavailable {
                side: self.side,
                attempt: format!("read the positions of group {group}"),
                detail: KafkaCode::UNSTABLE_OFFSET_COMMIT.to_string(),
            }),
            Some(known) => Ok((group.clone(), known.offsets.clone())),
            None => Ok((group.clone(), GroupOffsets::new())),
        };
        groups.iter().map(positions).collect()
    }

    async fn commit_group_offsets(
        &self,
        group: &GroupId,
        offsets: &GroupOffsets,
    ) -> ClusterResult<BTreeMap<TopicPartition, KafkaCode>> {
        let now_ms = self.clock.unix_ms();
        let mut state = self.state();
        if state.groups.get(group).is_some_and(|known| known.members > 0) {
            return Ok(offsets.keys().map(|partition| (partition.clone(), KafkaCode::UNKNOWN_MEMBER_ID)).collect());
        }
        let known: BTreeSet<_> = offsets.keys().filter(|partition| state.log(partition).is_some()).cloned().collect();
        let taken = offsets.iter().filter(|(partition, _)| known.contains(partition));
        let taken: GroupOffsets = taken.map(|(partition, offset)| (partition.clone(), offset.clone())).collect();
        state.commit(group, &taken, now_ms);
        state.commits.push((group.clone(), taken));
        let refused = offsets.keys().filter(|partition| !known.contains(partition));
        Ok(refused.map(|partition| (partition.clone(), KafkaCode::UNKNOWN_TOPIC_OR_PARTITION)).collect())
    }
}
