//! A Kafka cluster in memory: topics with real logs, transactions, groups, and what happens to them.
//!
//! Clones are connections to the same cluster. This file is the side that tests see: they load data as applications do
//! (whole batches of any codec, transactions) and make things happen (elections, compaction, retention, restarts). What
//! Krossing sees are the ports (`cluster_ports`), on the same state. Everything happens at once and in the order of the
//! calls; what shall be slow or fail is added around it ([`Faults`](crate::Faults)), except for the markers of
//! transactions, which may come later ([`FakeCluster::delay_markers`]).
//!
//! Does not: authorise, limit rates, or know replicas that are behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use krossing_core::{
    BrokerId, GroupId, KafkaCode, LeaderEpoch, Offset, PartitionId, Producer, Side, TopicId, TopicName, TopicPartition,
    ports::{
        AclBinding, Broker, ClientQuota, Clock, ClusterDescription, CommittedOffset, ConfigEntry, ConfigOrigin,
        Configs, GroupOffsets, Leader, MetadataMode, VisibleRecord,
    },
    records::{BatchBuilder, Codec, ControlType, RawBatch, Record},
    rights::Right,
};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    clock::HandClock,
    log::{AppendRules, PartitionLog},
};

/// How often brokers look for producers to forget.
const PRODUCER_SWEEP_MS: i64 = 10 * 60 * 1000;

/// `transactional.id.expiration.ms`.
const TRANSACTIONAL_ID_EXPIRATION_MS: i64 = 7 * 24 * 3600 * 1000;

/// `offsets.retention.minutes`.
const OFFSETS_RETENTION_MS: i64 = 7 * 24 * 3600 * 1000;

/// The settings of a topic, and Kafka's defaults.
const TOPIC_DEFAULTS: [(&str, &str); 32] = [
    ("cleanup.policy", "delete"),
    ("compression.gzip.level", "-1"),
    ("compression.lz4.level", "9"),
    ("compression.type", "producer"),
    ("compression.zstd.level", "3"),
    ("delete.retention.ms", "86400000"),
    ("file.delete.delay.ms", "60000"),
    ("flush.messages", "9223372036854775807"),
    ("flush.ms", "9223372036854775807"),
    ("follower.replication.throttled.replicas", ""),
    ("index.interval.bytes", "4096"),
    ("leader.replication.throttled.replicas", ""),
    ("local.retention.bytes", "-2"),
    ("local.retention.ms", "-2"),
    ("max.compaction.lag.ms", "9223372036854775807"),
    ("max.message.bytes", "1048588"),
    ("message.timestamp.after.max.ms", "9223372036854775807"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("message.timestamp.type", "CreateTime"),
    ("min.cleanable.dirty.ratio", "0.5"),
    ("min.compaction.lag.ms", "0"),
    ("min.insync.replicas", "1"),
    ("preallocate", "false"),
    ("remote.storage.enable", "false"),
    ("retention.bytes", "-1"),
    ("retention.ms", "604800000"),
    ("segment.bytes", "1073741824"),
    ("segment.index.bytes", "10485760"),
    ("segment.jitter.ms", "0"),
    ("segment.ms", "604800000"),
    ("unclean.leader.election.enable", "false"),
    ("message.downconversion.enable", "true"),
];

#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) internal: bool,
    pub(crate) replicas: i16,
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) logs: Vec<PartitionLog>,
}

impl Topic {
    pub(crate) fn config(&self, name: &str) -> &str {
        let default = || TOPIC_DEFAULTS.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| *value);
        self.configs.get(name).map_or_else(default, String::as_str)
    }

    fn number(&self, name: &str) -> i64 {
        self.config(name).parse().unwrap_or_else(|_| panic!("{name} is {:?}, not a number", self.config(name)))
    }

    pub(crate) fn append_rules(&self) -> AppendRules {
        AppendRules {
            batch_bytes_max: usize::try_from(self.number("max.message.bytes")).expect("a size is not negative"),
            log_append_time: self.config("message.timestamp.type") == "LogAppendTime",
            before_max_ms: self.number("message.timestamp.before.max.ms"),
            after_max_ms: self.number("message.timestamp.after.max.ms"),
            compacted: self.config("cleanup.policy").contains("compact"),
        }
    }

    pub(crate) fn all_configs(&self) -> Configs {
        let defaults = TOPIC_DEFAULTS.iter().map(|(name, value)| (*name, *value, ConfigOrigin::Default));
        let own = self.configs.iter().map(|(name, value)| (name.as_str(), value.as_str(), ConfigOrigin::Topic));
        defaults
            .chain(own)
            .map(|(name, value, origin)| {
                (name.to_owned(), ConfigEntry { value: Some(value.to_owned()), origin, sensitive: false })
            })
            .collect()
    }
}

pub(crate) fn is_topic_config(name: &str) -> bool {
    TOPIC_DEFAULTS.iter().any(|(known, _)| *known == name)
}

/// A transactional id.
#[derive(Debug, Clone)]
struct Transactional {
    producer: Producer,
    used_ms: i64,
    open: BTreeSet<TopicPartition>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) members: usize,
    pub(crate) protocol_type: String,
    pub(crate) offsets: GroupOffsets,
    /// Whether a transactional commit is not finished.
    pub(crate) unstable: bool,
    /// When it last committed or lost its last member.
    touched_ms: i64,
}

/// A marker that is on its way.
#[derive(Debug, Clone)]
struct PendingMark {
    due: std::time::Instant,
    producer: Producer,
    end: ControlType,
    partition: TopicPartition,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) description: ClusterDescription,
    pub(crate) topics: BTreeMap<TopicName, Topic>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) broker_configs: Configs,
    pub(crate) acls: Option<Vec<AclBinding>>,
    pub(crate) quotas: Vec<ClientQuota>,
    pub(crate) scram_users: Vec<String>,
    /// What our own user may not do. Said when asked; calls are not refused for it.
    pub(crate) forbidden: Vec<Right>,
    /// What clients believe about leaders until they ask afresh.
    pub(crate) believed_leaders: BTreeMap<TopicPartition, Leader>,
    transactional: BTreeMap<String, Transactional>,
    next_producer_id: i64,
    marker_delay: Duration,
    pending_marks: Vec<PendingMark>,
    swept_ms: i64,
}

impl State {
    pub(crate) fn log(&self, partition: &TopicPartition) -> Option<&PartitionLog> {
        let index = usize::try_from(partition.partition.0).ok()?;
        self.topics.get(&partition.topic)?.logs.get(index)
    }

    pub(crate) fn log_mut(&mut self, partition: &TopicPartition) -> Option<&mut PartitionLog> {
        let index = usize::try_from(partition.partition.0).ok()?;
        self.topics.get_mut(&partition.topic)?.logs.get_mut(index)
    }

    fn known(&mut self, partition: &TopicPartition) -> &mut PartitionLog {
        self.log_mut(partition).unwrap_or_else(|| panic!("the test made no partition {partition}"))
    }

    pub(crate) fn partitions(&self) -> Vec<TopicPartition> {
        let partitions = |(name, topic): (&TopicName, &Topic)| {
            (0..topic.logs.len() as i32)
                .map(|partition| TopicPartition::new(name.as_str(), partition))
                .collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(partitions).collect()
    }

    pub(crate) fn leader(&self, partition: &TopicPartition) -> Option<Leader> {
        self.log(partition).map(|log| Leader { broker: log.leader, epoch: Some(log.epoch()) })
    }

    pub(crate) fn add_topic(
        &mut self,
        name: &TopicName,
        partitions: i32,
        replicas: i16,
        configs: BTreeMap<String, String>,
    ) {
        let id = TopicId(Uuid::new_v4());
        let topic = Topic { id, internal: false, replicas, configs, logs: Vec::new() };
        self.topics.insert(name.clone(), topic);
        self.add_partitions(name, partitions);
    }

    pub(crate) fn add_partitions(&mut self, name: &TopicName, partitions: i32) {
        let brokers: Vec<_> = self.description.brokers.iter().map(|broker| broker.id).collect();
        let topic = self.topics.get_mut(name).unwrap_or_else(|| panic!("the test made no topic {name}"));
        for partition in topic.logs.len()..partitions as usize {
            topic.logs.push(PartitionLog::new(brokers[partition % brokers.len()]));
        }
    }

    // ── Transactions ───────────────────────────────────────────────────────────────────────────────────────────────

    /// InitProducerId: the epoch rises, and an open transaction is aborted.
    pub(crate) fn open_producer(&mut self, id: &str, clock: &HandClock) -> Producer {
        self.land_marks(id, clock);
        let now_ms = clock.unix_ms();
        let known = self.transactional.get(id).filter(|known| now_ms - known.used_ms < TRANSACTIONAL_ID_EXPIRATION_MS);
        let producer = match known {
            Some(known) if known.producer.epoch < i16::MAX - 1 => {
                Producer { epoch: known.producer.epoch + 1, ..known.producer }
            }
            _ => self.new_producer(),
        };
        let open = self.transactional.get(id).map(|known| (known.producer, known.open.clone()));
        for (old, partition) in open.iter().flat_map(|(old, open)| open.iter().map(|partition| (*old, partition))) {
            // The coordinator aborts under the new epoch, where the id stayed the same.
            let aborting = if old.id == producer.id { producer } else { old };
            self.add_mark(aborting, ControlType::Abort, partition.clone(), clock);
        }
        let entry = Transactional { producer, used_ms: now_ms, open: BTreeSet::new() };
        self.transactional.insert(id.to_owned(), entry);
        producer
    }

    pub(crate) fn new_producer(&mut self) -> Producer {
        self.next_producer_id += 1;
        Producer { id: self.next_producer_id, epoch: 0 }
    }

    /// AddPartitionsToTxn and EndTxn. Answers what could not be marked; then nothing was.
    pub(crate) fn end_transaction(
        &mut self,
        id: &str,
        producer: Producer,
        end: ControlType,
        added: &[TopicPartition],
        clock: &HandClock,
    ) -> Result<BTreeMap<TopicPartition, KafkaCode>, KafkaCode> {
        self.land_marks(id, clock);
        let known = self.transactional.get(id).map(|known| known.producer);
        match known {
            Some(known) if known == producer => {}
            Some(known) if known.id == producer.id => return Err(KafkaCode::INVALID_PRODUCER_EPOCH),
            _ => return Err(KafkaCode::INVALID_PRODUCER_ID_MAPPING),
        }
        if added.iter().any(|partition| self.log(partition).is_none()) {
            let refused = |partition: &TopicPartition| match self.log(partition) {
                Some(_) => KafkaCode::OPERATION_NOT_ATTEMPTED,
                None => KafkaCode::UNKNOWN_TOPIC_OR_PARTITION,
            };
            return Ok(added.iter().map(|partition| (partition.clone(), refused(partition))).collect());
        }
        let entry = self.transactional.get_mut(id).expect("it was looked at above");
        entry.used_ms = clock.unix_ms();
        let mut partitions = std::mem::take(&mut entry.open);
        partitions.extend(added.iter().cloned());
        for partition in partitions {
            self.add_mark(producer, end, partition, clock);
        }
        Ok(BTreeMap::new())
    }

    fn add_mark(&mut self, producer: Producer, end: ControlType, partition: TopicPartition, clock: &HandClock) {
        let due = clock.now() + self.marker_delay;
        self.pending_marks.push(PendingMark { due, producer, end, partition });
        self.settle(clock);
    }

    /// A coordinator ends one transaction before it takes on another of the same id.
    fn land_marks(&mut self, id: &str, clock: &HandClock) {
        if let Some(known) = self.transactional.get(id).map(|known| known.producer.id) {
            for mark in self.pending_marks.iter_mut().filter(|mark| mark.producer.id == known) {
                mark.due = clock.now();
            }
        }
        self.settle(clock);
    }

    /// Does what is due by now: markers, sweeps, expiry. Each call on the cluster begins with it.
    pub(crate) fn settle(&mut self, clock: &HandClock) {
        let (now, now_ms) = (clock.now(), clock.unix_ms());
        let (due, waiting) = std::mem::take(&mut self.pending_marks).into_iter().partition(|mark| mark.due <= now);
        self.pending_marks = waiting;
        let due: Vec<PendingMark> = due;
        for mark in due {
            if let Some(log) = self.log_mut(&mark.partition) {
                log.mark(mark.producer, mark.end, now_ms);
            }
        }
        if now_ms - self.swept_ms >= PRODUCER_SWEEP_MS {
            self.swept_ms = now_ms;
            self.forget_producers(now_ms);
        }
        self.groups.retain(|_, group| {
            if group.members == 0 && now_ms - group.touched_ms >= OFFSETS_RETENTION_MS {
                group.offsets.clear();
            }
            group.members > 0 || group.unstable || !group.offsets.is_empty()
        });
    }

    /// When the next marker comes, if one is on its way.
    pub(crate) fn next_mark(&self) -> Option<std::time::Instant> {
        self.pending_marks.iter().map(|mark| mark.due).min()
    }

    fn forget_producers(&mut self, now_ms: i64) {
        for log in self.topics.values_mut().flat_map(|topic| &mut topic.logs) {
            log.forget_producers(now_ms);
        }
    }

    pub(crate) fn commit(&mut self, group: &GroupId, offsets: &GroupOffsets, now_ms: i64) {
        let stored = self.groups.entry(group.clone()).or_default();
        stored.offsets.extend(offsets.clone());
        stored.touched_ms = now_ms;
    }
}

/// A cluster in memory.
#[derive(Debug, Clone)]
pub struct FakeCluster {
    pub(crate) side: Side,
    pub(crate) clock: HandClock,
    state: Arc<Mutex<State>>,
    /// Told whenever a log may have grown.
    pub(crate) grown: Arc<Notify>,
}

impl FakeCluster {
    /// A cluster of `brokers` brokers, numbered from 1, without topics: ZooKeeper's as source, KRaft's as target.
    pub fn new(side: Side, brokers: i32, clock: HandClock) -> Self {
        let broker = |id| Broker {
            id: BrokerId(id),
            host: format!("{side}-{id}.invalid"),
            port: 9092,
            rack: Some(format!("zone-{}", id % 3)),
        };
        let description = ClusterDescription {
            cluster_id: format!("{side}-cluster"),
            metadata_mode: match side {
                Side::Source => MetadataMode::ZooKeeper,
                Side::Target => MetadataMode::Kraft,
            },
            brokers: (1..=brokers).map(broker).collect(),
            fetch_version_max: match side {
                Side::Source => 16,
                Side::Target => 17,
            },
        };
        let state = State {
            description,
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            broker_configs: Configs::new(),
            acls: None,
            quotas: Vec::new(),
            scram_users: Vec::new(),
            forbidden: Vec::new(),
            believed_leaders: BTreeMap::new(),
            transactional: BTreeMap::new(),
            // Ids of the two clusters overlap, as real ones do.
            next_producer_id: 0,
            marker_delay: Duration::ZERO,
            pending_marks: Vec::new(),
            swept_ms: clock.unix_ms(),
        };
        Self { side, clock, state: Arc::new(Mutex::new(state)), grown: Arc::new(Notify::new()) }
    }

    /// The state as of now.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().expect("no test goes on after a panic within a fake");
        state.settle(&self.clock);
        state
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.state());
        self.grown.notify_waiters();
        answer
    }

    // ── What it is made of ─────────────────────────────────────────────────────────────────────────────────────────

    /// Changes what the cluster says of itself.
    pub fn describe(&self, change: impl FnOnce(&mut ClusterDescription)) {
        self.change(|state| change(&mut state.description));
    }

    /// Makes a topic, with as many replicas as there are brokers up to three.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.change(|state| {
            let replicas = state.description.brokers.len().min(3) as i16;
            state.add_topic(&TopicName::new(name), partitions, replicas, configs);
        });
    }

    /// Makes a topic that is Kafka's own.
    pub fn create_internal_topic(&self, name: &str, partitions: i32) {
        self.create_topic(name, partitions, &[("cleanup.policy", "compact")]);
        self.change(|state| state.topics.get_mut(&TopicName::new(name)).expect("just made").internal = true);
    }

    /// Deletes a topic, as an operator may behind our back. Made again, it has another identity.
    pub fn delete_topic(&self, name: &str) {
        let name = TopicName::new(name);
        self.change(|state| {
            state.topics.remove(&name).unwrap_or_else(|| panic!("the test made no topic {name}"));
            state.believed_leaders.retain(|partition, _| partition.topic != name);
        });
    }

    /// Gives a topic more partitions: `partitions` in all.
    pub fn grow_topic(&self, name: &str, partitions: i32) {
        self.change(|state| state.add_partitions(&TopicName::new(name), partitions));
    }

    /// Sets one of a topic's settings.
    pub fn set_topic_config(&self, name: &str, config: &str, value: &str) {
        self.change(|state| {
            let topic = state.topics.get_mut(&TopicName::new(name)).unwrap_or_else(|| panic!("no topic {name}"));
            topic.configs.insert(config.to_owned(), value.to_owned());
        });
    }

    /// One of a topic's settings as it is in effect.
    pub fn topic_config(&self, name: &str, config: &str) -> String {
        let state = self.state();
        let topic = state.topics.get(&TopicName::new(name)).unwrap_or_else(|| panic!("no topic {name}"));
        topic.config(config).to_owned()
    }

    /// The identity of a topic.
    pub fn topic_id(&self, name: &str) -> Option<TopicId> {
        self.state().topics.get(&TopicName::new(name)).map(|topic| topic.id)
    }

    /// Sets what every broker answers when asked for its settings.
    pub fn set_broker_config(&self, config: &str, value: &str) {
        let entry = ConfigEntry { value: Some(value.to_owned()), origin: ConfigOrigin::StaticBroker, sensitive: false };
        self.change(|state| state.broker_configs.insert(config.to_owned(), entry));
    }

    /// Sets access rules; none is a cluster without an authorizer.
    pub fn set_acls(&self, acls: Option<Vec<AclBinding>>) {
        self.change(|state| state.acls = acls);
    }

    /// Sets client quotas.
    pub fn set_quotas(&self, quotas: Vec<ClientQuota>) {
        self.change(|state| state.quotas = quotas);
    }

    /// Takes a right away from our own user.
    pub fn forbid(&self, right: Right) {
        self.change(|state| state.forbidden.push(right));
    }

    /// Sets the users with SCRAM credentials.
    pub fn set_scram_users(&self, users: &[&str]) {
        self.change(|state| state.scram_users = users.iter().map(|&user| user.to_owned()).collect());
    }

    // ── Data, as applications write it ─────────────────────────────────────────────────────────────────────────────

    /// Appends records as one batch of a producer without an id. Answers the first one's offset.
    pub fn append(&self, partition: &TopicPartition, codec: Codec, records: Vec<Record>) -> Offset {
        self.append_batch(partition, BatchBuilder { codec, records, ..BatchBuilder::new(0) })
    }

    /// Appends any batch: its offsets and leader epoch are set here, and nothing is refused.
    pub fn append_batch(&self, partition: &TopicPartition, mut batch: BatchBuilder) -> Offset {
        let now_ms = self.clock.unix_ms();
        self.change(|state| {
            let stamped = state.topics.get(&partition.topic).is_some_and(|topic| topic.append_rules().log_append_time);
            if stamped {
                batch.log_append_time_ms = Some(now_ms);
            }
            state.known(partition).load(batch)
        })
    }

    /// A producer with transactions.
    pub fn transactional_producer(&self, transactional_id: &str) -> TransactionalProducer {
        let producer = self.change(|state| state.open_producer(transactional_id, &self.clock));
        TransactionalProducer {
            cluster: self.clone(),
            id: transactional_id.to_owned(),
            producer,
            sequences: BTreeMap::new(),
        }
    }

    // ── What happens to clusters ───────────────────────────────────────────────────────────────────────────────────

    /// Markers of transactions come this long after the transaction's end was answered.
    pub fn delay_markers(&self, delay: Duration) {
        self.change(|state| state.marker_delay = delay);
    }

    /// Another broker leads a partition; nothing is lost.
    pub fn move_leader(&self, partition: &TopicPartition, broker: i32) {
        self.change(|state| state.known(partition).move_leader(BrokerId(broker)));
    }

    /// An unclean election: everything from `at` on is gone, and what is written next takes its offsets.
    pub fn replace_tail(&self, partition: &TopicPartition, at: Offset) {
        self.change(|state| {
            let log = state.known(partition);
            log.replace_tail(at, log.leader);
        });
    }

    /// All brokers start anew: they forget producers whose last records are older than a day.
    pub fn restart_brokers(&self) {
        let now_ms = self.clock.unix_ms();
        self.change(|state| state.forget_producers(now_ms));
    }

    /// DeleteRecords: the log begins at `offset`.
    pub fn delete_records(&self, partition: &TopicPartition, offset: Offset) {
        self.change(|state| state.known(partition).delete_before(offset));
    }

    /// Retention by time as the topic's settings have it; nothing happens to topics that are not to be deleted from.
    pub fn apply_retention(&self) {
        let now_ms = self.clock.unix_ms();
        self.change(|state| {
            for topic in state.topics.values_mut() {
                let retention_ms = topic.number("retention.ms");
                if retention_ms >= 0 && topic.config("cleanup.policy").contains("delete") {
                    topic.logs.iter_mut().for_each(|log| log.expire(now_ms - retention_ms));
                }
            }
        });
    }

    /// The cleaner on one partition, if its topic is compacted and has no lag that protects it. `tombstones`: those that
    /// are older than `delete.retention.ms` go too, as if all were.
    pub fn compact(&self, partition: &TopicPartition, tombstones: bool) {
        self.change(|state| {
            let topic = state.topics.get(&partition.topic).expect("the test made the topic");
            if topic.append_rules().compacted && topic.number("min.compaction.lag.ms") < i64::MAX {
                state.known(partition).compact(tombstones);
            }
        });
    }

    // ── Groups, as applications use them ───────────────────────────────────────────────────────────────────────────

    /// Commits a position, as a consumer does.
    pub fn commit(&self, group: &str, partition: &TopicPartition, offset: Offset, metadata: &str) {
        let position = CommittedOffset { offset, metadata: metadata.to_owned() };
        let now_ms = self.clock.unix_ms();
        self.change(|state| state.commit(&group.into(), &[(partition.clone(), position)].into(), now_ms));
    }

    /// Says how many members a group has, and of which protocol.
    pub fn set_members(&self, group: &str, members: usize, protocol_type: &str) {
        let now_ms = self.clock.unix_ms();
        self.change(|state| {
            let group = state.groups.entry(group.into()).or_default();
            group.members = members;
            group.protocol_type = protocol_type.to_owned();
            group.touched_ms = now_ms;
        });
    }

    /// Begins or ends a transactional commit of a group's positions: while it is open they cannot be read.
    pub fn set_unstable(&self, group: &str, unstable: bool) {
        self.change(|state| state.groups.entry(group.into()).or_default().unstable = unstable);
    }

    /// A group's positions, as an application would find them.
    pub fn committed(&self, group: &str) -> GroupOffsets {
        self.state().groups.get(&group.into()).map(|group| group.offsets.clone()).unwrap_or_default()
    }

    // ── What an observer sees ──────────────────────────────────────────────────────────────────────────────────────

    /// All partitions, sorted.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.state().partitions()
    }

    /// What a consumer that reads committed sees.
    pub fn visible_records(&self, partition: &TopicPartition) -> Vec<VisibleRecord> {
        self.change(|state| state.known(partition).visible_records())
    }

    /// Every record that was ever visible: what compaction, retention and DeleteRecords have taken is here too, what an
    /// unclean election took is not.
    pub fn ever_visible(&self, partition: &TopicPartition) -> Vec<VisibleRecord> {
        self.change(|state| state.known(partition).ever_visible())
    }

    /// The batches of a log as they lie in it.
    pub fn batches(&self, partition: &TopicPartition) -> Vec<RawBatch> {
        self.change(|state| state.known(partition).batches().to_vec())
    }

    /// Log start, last stable offset and log end.
    pub fn ends(&self, partition: &TopicPartition) -> (Offset, Offset, Offset) {
        self.change(|state| {
            let log = state.known(partition);
            (log.start, log.stable_end(), log.end)
        })
    }

    /// The leader epoch of a partition.
    pub fn leader_epoch(&self, partition: &TopicPartition) -> LeaderEpoch {
        self.change(|state| state.known(partition).epoch())
    }

    /// The producer of a transactional id, where there is one.
    pub fn producer_of(&self, transactional_id: &str) -> Option<Producer> {
        self.state().transactional.get(transactional_id).map(|known| known.producer)
    }
}

/// A producer with transactions, as an application has one.
#[derive(Debug)]
pub struct TransactionalProducer {
    cluster: FakeCluster,
    id: String,
    producer: Producer,
    sequences: BTreeMap<TopicPartition, i32>,
}

impl TransactionalProducer {
    /// Appends a batch within the transaction, which begins with its first.
    pub fn append(&mut self, partition: &TopicPartition, codec: Codec, records: Vec<Record>) -> Offset {
        let sequence = self.sequences.entry(partition.clone()).or_default();
        let base_sequence = *sequence;
        *sequence += records.len() as i32;
        self.cluster.change(|state| {
            let known = state.transactional.get_mut(&self.id).expect("it was opened");
            known.open.insert(partition.clone());
        });
        let producer = self.producer;
        let batch =
            BatchBuilder { codec, producer, base_sequence, transactional: true, records, ..BatchBuilder::new(0) };
        self.cluster.append_batch(partition, batch)
    }

    /// Commits what was appended since the last end.
    pub fn commit(&mut self) {
        self.end(ControlType::Commit);
    }

    /// Aborts what was appended since the last end.
    pub fn abort(&mut self) {
        self.end(ControlType::Abort);
    }

    fn end(&mut self, end: ControlType) {
        let clock = self.cluster.clock;
        let refused = self.cluster.change(|state| state.end_transaction(&self.id, self.producer, end, &[], &clock));
        assert_eq!(refused, Ok(BTreeMap::new()), "{} was taken over", self.id);
    }
}

/// A record with a key and a value, stamped with the beginning of all clocks.
pub fn record(key: &str, value: &str) -> Record {
    record_at(crate::clock::BEGINNING_UNIX_MS, key, value)
}

/// A record with a timestamp of its own.
pub fn record_at(timestamp_ms: i64, key: &str, value: &str) -> Record {
    let bytes = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
    Record { offset: 0, timestamp_ms, key: bytes(key), value: bytes(value), headers: Vec::new() }
}

/// A record that deletes a key.
pub fn tombstone(key: &str) -> Record {
    Record { value: None, ..record(key, "") }
}

pub(crate) fn partition_ids(topic: &Topic) -> impl Iterator<Item = PartitionId> {
    (0..topic.logs.len() as i32).map(PartitionId)
}
