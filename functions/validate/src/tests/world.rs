//! A finished migration between two small clusters in memory, to be damaged by a test.
//!
//! Logs hold what a client sees and control records; that is all that a validation reads.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use krossing_core::{
    BrokerId, GroupId, KafkaCode, LaneId, LeaderEpoch, Offset, PartitionId, Producer, SourceOffset, TargetOffset,
    TopicId, TopicName, TopicPartition,
    canonical::canonical_json,
    config::Config,
    cutover::{
        Boundary, ClosingMarker, CutoverReport, CutoverTimings, GroupTranslation, MarkerKind, cutover_report_key,
    },
    journal::Journal,
    lanes::Lane,
    offset_map::{self, sha256_hex},
    plan::{MigrationPlan, PLAN_VERSION, PlannedTopic, Scope},
    ports::{
        AccessAdmin, AclBinding, ClientQuota, Clock, ClusterDescription, ClusterResult, CommittedOffset, ConfigEntry,
        ConfigOrigin, Configs, EpochEnd, FetchRequest, Fetched, FreezeAnswer, FreezeError, GroupDescription,
        GroupOffsets, Groups, Inventory, Leader, Ledger, LogEnd, LogReader, LogWriter, Marker, NewTopic, Objects,
        PartitionDescription, PerPartition, PortSet, Ports, ProduceOutcome, ProduceRequest, ProducerDescription,
        ProducerFreeze, QuotaEntity, ReadRange, Refusals, TopicAdmin, TopicDescription, VisibleRecord, Witness,
    },
    progress::{PartitionProgress, Run},
    records::{BatchBuilder, ControlType, Record, control_batch},
    rights::Right,
    transition::State,
};
use krossing_runtime::Migration;
use krossing_testkit::{FakeMsk, FakeSigner, MemoryLedger, MemoryObjects, tester};
use serde_json::json;

/// A clock that only waiting moves.
#[derive(Debug, Clone)]
pub(crate) struct HandClock {
    begun: Instant,
    passed: Arc<Mutex<Duration>>,
}

impl Clock for HandClock {
    fn now(&self) -> Instant {
        self.begun + *self.passed.lock().unwrap()
    }

    fn unix_ms(&self) -> i64 {
        1_700_000_000_000
    }

    async fn sleep(&self, duration: Duration) {
        *self.passed.lock().unwrap() += duration;
    }
}

/// A log: records and control records by offset.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) records: BTreeMap<Offset, VisibleRecord>,
    pub(crate) controls: Vec<Offset>,
}

impl Log {
    pub(crate) fn push(&mut self, record: VisibleRecord) {
        self.records.insert(self.end, VisibleRecord { offset: self.end, ..record });
        self.end += 1;
    }

    pub(crate) fn push_control(&mut self) {
        self.controls.push(self.end);
        self.end += 1;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) logs: BTreeMap<TopicPartition, Log>,
    pub(crate) ids: BTreeMap<TopicName, TopicId>,
    pub(crate) groups: BTreeMap<GroupId, GroupOffsets>,
    pub(crate) members: BTreeMap<GroupId, usize>,
    pub(crate) settings: BTreeMap<TopicName, BTreeMap<String, String>>,
}

#[derive(Debug, Clone)]
pub(crate) struct SmallCluster {
    clock: HandClock,
    content: Arc<Mutex<Content>>,
}

impl SmallCluster {
    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    pub(crate) fn log(&self, partition: &TopicPartition, change: impl FnOnce(&mut Log)) {
        change(self.content().logs.get_mut(partition).unwrap());
    }
}

impl Inventory for SmallCluster {
    async fn describe_cluster(&self) -> ClusterResult<ClusterDescription> {
        unreachable!()
    }

    async fn describe_topics(&self, names: Option<&[TopicName]>) -> ClusterResult<Vec<TopicDescription>> {
        let content = self.content();
        let mut topics: BTreeMap<TopicName, TopicDescription> = BTreeMap::new();
        for partition in content.logs.keys() {
            let name = &partition.topic;
            if names.is_some_and(|names| !names.contains(name)) {
                continue;
            }
            let topic = topics.entry(name.clone()).or_insert_with(|| TopicDescription {
                name: name.clone(),
                id: content.ids.get(name).copied(),
                internal: false,
                partitions: Vec::new(),
            });
            topic.partitions.push(PartitionDescription {
                id: partition.partition,
                leader: Some(BrokerId(1)),
                leader_epoch: None,
                replicas: vec![BrokerId(1)],
                in_sync: vec![BrokerId(1)],
            });
        }
        Ok(topics.into_values().collect())
    }

    async fn topic_configs(&self, topics: &[TopicName]) -> ClusterResult<BTreeMap<TopicName, Configs>> {
        let content = self.content();
        let entry =
            |value: &String| ConfigEntry { value: Some(value.clone()), origin: ConfigOrigin::Topic, sensitive: false };
        let configs = |name: &TopicName| {
            let settings = content.settings.get(name).cloned().unwrap_or_default();
            settings.iter().map(|(name, value)| (name.clone(), entry(value))).collect()
        };
        Ok(topics.iter().map(|name| (name.clone(), configs(name))).collect())
    }

    async fn broker_configs(&self, _: BrokerId) -> ClusterResult<Configs> {
        unreachable!()
    }

    async fn partition_sizes(&self) -> ClusterResult<BTreeMap<TopicPartition, u64>> {
        unreachable!()
    }

    async fn acls(&self) -> ClusterResult<Option<Vec<AclBinding>>> {
        unreachable!()
    }

    async fn client_quotas(&self) -> ClusterResult<Vec<ClientQuota>> {
        unreachable!()
    }

    async fn lacking(&self, _: &[Right]) -> ClusterResult<Vec<Right>> {
        unreachable!()
    }

    async fn scram_users(&self) -> ClusterResult<Vec<String>> {
        unreachable!()
    }
}

impl LogReader for SmallCluster {
    async fn leaders(&self, partitions: &[TopicPartition], _: bool) -> ClusterResult<PerPartition<Leader>> {
        let leader = Leader { broker: BrokerId(1), epoch: None };
        Ok(partitions.iter().map(|partition| (partition.clone(), Ok(leader))).collect())
    }

    async fn fetch(&self, request: FetchRequest) -> ClusterResult<PerPartition<Fetched>> {
        let mut answer = PerPartition::new();
        for wanted in request.partitions {
            let fetched = self.content().logs[&wanted.partition].fetch(wanted.offset);
            answer.insert(wanted.partition, fetched);
        }
        let nothing = |fetched: &Result<Fetched, _>| fetched.as_ref().is_ok_and(|fetched| fetched.records.is_empty());
        if answer.values().all(nothing) {
            self.clock.sleep(request.wait_max).await;
        }
        Ok(answer)
    }

    async fn log_ends(&self, partitions: &[TopicPartition], end: LogEnd) -> ClusterResult<PerPartition<Offset>> {
        let content = self.content();
        let offset = |partition: &TopicPartition| {
            let log = content.logs.get(partition).ok_or(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION)?;
            Ok(if end == LogEnd::Earliest { log.start } else { log.end })
        };
        Ok(partitions.iter().map(|partition| (partition.clone(), offset(partition))).collect())
    }

    async fn epoch_end(&self, _: &TopicPartition, _: LeaderEpoch) -> ClusterResult<Option<EpochEnd>> {
        unreachable!()
    }

    async fn producers(&self, _: &[TopicPartition]) -> ClusterResult<PerPartition<Vec<ProducerDescription>>> {
        unreachable!()
    }
}

impl Log {
    fn fetch(&self, offset: Offset) -> Result<Fetched, KafkaCode> {
        if offset < self.start || offset > self.end {
            return Err(KafkaCode::OFFSET_OUT_OF_RANGE);
        }
        let mut records = Vec::new();
        for offset in offset..self.end {
            if self.controls.contains(&offset) {
                let producer = Producer { id: 7, epoch: 0 };
                records.extend(control_batch(producer, ControlType::Commit, 0, offset, LeaderEpoch(0), 0));
            } else if let Some(VisibleRecord { timestamp_ms, key, value, headers, .. }) = self.records.get(&offset) {
                let (timestamp_ms, key, value, headers) = (*timestamp_ms, key.clone(), value.clone(), headers.clone());
                let mut batch = BatchBuilder::new(offset);
                batch.records.push(Record { offset, timestamp_ms, key, value, headers });
                records.extend(batch.build().unwrap());
            }
        }
        Ok(Fetched {
            high_watermark: self.end,
            last_stable_offset: self.end,
            log_start: self.start,
            aborted: Vec::new(),
            records: records.into(),
            diverging: None,
        })
    }
}

impl Witness for SmallCluster {
    async fn read(
        &self,
        range: ReadRange,
        mut see: impl FnMut(VisibleRecord) -> bool + Send + 'static,
    ) -> ClusterResult<()> {
        let log = self.content().logs[&range.partition].clone();
        assert!(range.to <= log.end, "the client would wait for {} of {}: {range:?}", range.to, log.end);
        let within = log.records.range(range.from.max(log.start)..range.to.max(log.start));
        for record in within.map(|(_, record)| record.clone()).take(range.records_max) {
            if !see(record) {
                break;
            }
        }
        Ok(())
    }
}

impl LogWriter for SmallCluster {
    async fn produce(&self, _: ProduceRequest) -> ProduceOutcome {
        unreachable!()
    }
}

impl Marker for SmallCluster {
    async fn open_producer(&self, _: &str) -> ClusterResult<Producer> {
        unreachable!()
    }

    async fn mark(
        &self,
        _: &str,
        _: Producer,
        _: &[TopicPartition],
    ) -> ClusterResult<BTreeMap<TopicPartition, KafkaCode>> {
        unreachable!()
    }
}

impl AccessAdmin for SmallCluster {
    async fn create_acls(&self, _: &[AclBinding]) -> ClusterResult<Refusals<AclBinding>> {
        unreachable!()
    }

    async fn set_client_quotas(&self, _: &[ClientQuota]) -> ClusterResult<Refusals<QuotaEntity>> {
        unreachable!()
    }
}

impl TopicAdmin for SmallCluster {
    async fn create_topics(
        &self,
        _: &[NewTopic],
    ) -> ClusterResult<BTreeMap<TopicName, Result<(), (KafkaCode, String)>>> {
        unreachable!()
    }

    async fn create_partitions(&self, _: &TopicName, _: i32) -> ClusterResult<()> {
        unreachable!()
    }

    async fn alter_topic_configs(
        &self,
        changes: &BTreeMap<TopicName, BTreeMap<String, Option<String>>>,
    ) -> ClusterResult<BTreeMap<TopicName, Result<(), (KafkaCode, String)>>> {
        let mut content = self.content();
        for (topic, changes) in changes {
            let settings = content.settings.entry(topic.clone()).or_default();
            for (name, value) in changes {
                match value {
                    Some(value) => settings.insert(name.clone(), value.clone()),
                    None => settings.remove(name),
                };
            }
        }
        Ok(changes.keys().map(|topic| (topic.clone(), Ok(()))).collect())
    }
}

impl Groups for SmallCluster {
    async fn list_groups(&self) -> ClusterResult<Vec<GroupId>> {
        unreachable!()
    }

    async fn describe_groups(&self, groups: &[GroupId]) -> ClusterResult<Vec<GroupDescription>> {
        let content = self.content();
        let describe = |id: &GroupId| GroupDescription {
            id: id.clone(),
            state: "Empty".to_owned(),
            protocol_type: "consumer".to_owned(),
            members: content.members.get(id).copied().unwrap_or(0),
            client_ids: Vec::new(),
        };
        Ok(groups.iter().map(describe).collect())
    }

    async fn group_offsets(&self, groups: &[GroupId]) -> ClusterResult<BTreeMap<GroupId, GroupOffsets>> {
        let content = self.content();
        let positions = |group: &GroupId| content.groups.get(group).cloned().unwrap_or_default();
        Ok(groups.iter().map(|group| (group.clone(), positions(group))).collect())
    }

    async fn commit_group_offsets(
        &self,
        _: &GroupId,
        _: &GroupOffsets,
    ) -> ClusterResult<BTreeMap<TopicPartition, KafkaCode>> {
        unreachable!()
    }
}

#[derive(Debug)]
pub(crate) struct NobodyFreezes;

impl ProducerFreeze for NobodyFreezes {
    async fn reach(&self) -> Result<(), FreezeError> {
        unreachable!()
    }

    async fn freeze(&self, _: i64) -> Result<FreezeAnswer, FreezeError> {
        unreachable!()
    }

    async fn switch(&self, _: &[String]) -> Result<FreezeAnswer, FreezeError> {
        unreachable!()
    }

    async fn unfreeze(&self) -> Result<FreezeAnswer, FreezeError> {
        unreachable!()
    }
}

#[derive(Debug)]
pub(crate) struct SmallPorts;

impl Ports for SmallPorts {
    type Source = SmallCluster;
    type Target = SmallCluster;
    type SourceWitness = SmallCluster;
    type TargetWitness = SmallCluster;
    type Ledger = MemoryLedger;
    type Objects = MemoryObjects;
    type Clock = HandClock;
    type Freeze = NobodyFreezes;
    type Signer = FakeSigner;
    type Msk = FakeMsk;
}

/// A record as a test spells it.
pub(crate) fn record(offset: Offset, key: &'static str, value: Option<&'static str>) -> VisibleRecord {
    VisibleRecord {
        offset,
        timestamp_ms: 1_000 + offset,
        key: Some(Bytes::from_static(key.as_bytes())),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
        headers: vec![(Bytes::from_static(b"h"), Some(Bytes::from_static(b"1"))), (Bytes::from_static(b"h"), None)],
    }
}

pub(crate) fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0)
}

pub(crate) fn prices() -> TopicPartition {
    TopicPartition::new("prices", 0)
}

pub(crate) struct World {
    pub(crate) migration: Migration<SmallPorts>,
    pub(crate) plan: MigrationPlan,
    pub(crate) scope: Scope,
    pub(crate) progress: Vec<PartitionProgress>,
    pub(crate) cutover: CutoverReport,
}

impl World {
    /// A copy without a fault: `orders`, with a deleted head, a transaction's marker and an empty second partition;
    /// `prices`, compacted on the source since it was copied.
    pub(crate) async fn begin() -> Self {
        let clock = HandClock { begun: Instant::now(), passed: Arc::default() };
        let cluster = || SmallCluster { clock: clock.clone(), content: Arc::default() };
        let (source, target, evidence) = (cluster(), cluster(), MemoryObjects::default());
        let config = Config::parse(
            "migration:\n  source: {bootstrap_servers: 's:1'}\n  target: {bootstrap_servers: 't:1'}\n  \
             backup: {directory: b}\n  evidence: {directory: e}\n  \
             validation: {spot_check_records_per_partition: 50, count_tolerance: 0}\n",
            |_| None,
        )
        .unwrap();
        let plan = plan();
        let mut world = Self {
            scope: plan.scope(&[]),
            plan,
            progress: Vec::new(),
            cutover: CutoverReport {
                version: 1,
                ready_unix_ms: 1,
                freeze: "nobody had to".to_owned(),
                marker_kind: MarkerKind::Control,
                markers: Vec::new(),
                boundaries: Vec::new(),
                groups: Vec::new(),
                warnings: Vec::new(),
                timings: CutoverTimings::default(),
            },
            migration: Migration {
                id: "m".parse().unwrap(),
                config,
                by: tester(),
                role_per_phase: false,
                ports: PortSet {
                    source_witness: source.clone(),
                    target_witness: target.clone(),
                    source,
                    target,
                    ledger: MemoryLedger::default(),
                    segments: evidence.clone(),
                    evidence,
                    clock,
                    freeze: NobodyFreezes,
                    signer: FakeSigner::default(),
                    msk: FakeMsk::default(),
                },
            },
        };
        let order = |offset| record(offset, "k", Some(["a", "b", "c"][offset as usize % 3]));
        world.copy(orders(), 100, (100..105).chain(106..110).map(order).collect(), &[105], &[]);
        world.copy(TopicPartition::new("orders", 1), 0, Vec::new(), &[], &[]);
        let value = |offset, key, value| record(offset, key, value);
        world.copy(
            prices(),
            0,
            vec![
                value(0, "a", Some("1")),
                value(1, "b", Some("1")),
                value(2, "a", Some("2")),
                value(3, "c", Some("1")),
                value(4, "c", None),
                value(5, "d", Some("1")),
            ],
            &[],
            &[0, 3],
        );
        for topic in &world.plan.topics {
            let id = topic.source_topic_id.unwrap();
            world.migration.source.content().ids.insert(topic.name.clone(), id);
            world.migration.target.content().settings.insert(topic.name.clone(), topic.hold_configs.clone());
        }
        world.group("early", orders(), 0, 1);
        world.group("middle", orders(), 105, 6);
        world.group("other", orders(), 105, 6);
        world.group("done", orders(), 111, 11);
        world.group("gap", prices(), 3, 4);
        world.save().await;
        world
    }

    /// Copies a partition whole; afterwards the source compacts some records away.
    fn copy(
        &mut self,
        partition: TopicPartition,
        start: Offset,
        records: Vec<VisibleRecord>,
        controls: &[Offset],
        compacted: &[Offset],
    ) {
        let (mut source, mut target) = (Log { start, end: start, ..Log::default() }, Log::default());
        let mut progress = PartitionProgress::begin(
            partition.clone(),
            None,
            SourceOffset(start),
            SourceOffset(start),
            TargetOffset(0),
            0,
        );
        target.push_control();
        for record in records {
            source.end = record.offset;
            let run =
                Run { source_first: SourceOffset(record.offset), target_first: TargetOffset(target.end), count: 1 };
            offset_map::append(&mut progress.map_runs, run).unwrap();
            target.push(record.clone());
            source.push(record);
            progress.counts.records += 1;
        }
        source.records.retain(|offset, _| !compacted.contains(offset));
        source.controls = controls.to_vec();
        source.push_control();
        target.push_control();
        progress.counts.fences = 2;
        progress.source_next = SourceOffset(source.end);
        progress.target_next = TargetOffset(target.end);
        let marker = ClosingMarker { partition: partition.clone(), source_offset: SourceOffset(source.end - 1) };
        self.cutover.markers.push(marker);
        let boundary = Boundary { partition: partition.clone(), target_offset: TargetOffset(target.end) };
        self.cutover.boundaries.push(boundary);
        self.progress.push(progress);
        self.migration.source.content().logs.insert(partition.clone(), source);
        self.migration.target.content().logs.insert(partition, target);
    }

    fn group(&mut self, group: &str, partition: TopicPartition, source: Offset, target: Offset) {
        let (group, metadata) = (GroupId::new(group), "of the client".to_owned());
        let offsets: GroupOffsets =
            [(partition.clone(), CommittedOffset { offset: target, metadata: metadata.clone() })].into();
        self.migration.target.content().groups.insert(group.clone(), offsets);
        let (source_offset, target_offset) = (SourceOffset(source), TargetOffset(target));
        self.cutover.groups.push(GroupTranslation { group, partition, source_offset, target_offset, metadata });
    }

    /// Stores what the ledger and the evidence hold: a journal that has reached READY, anew.
    pub(crate) async fn save(&mut self) {
        self.migration.ports.ledger = MemoryLedger::default();
        let migration = &self.migration;
        let ledger = &migration.ledger;
        ledger.save_lane_progress(LaneId(0), krossing_core::Generation(1), &self.progress).await.unwrap();
        let report = Bytes::from(canonical_json(&self.cutover).unwrap());
        let digest = sha256_hex(&report);
        migration.evidence.put(&cutover_report_key(&migration.id, &digest), vec![report]).await.unwrap();
        let plan = canonical_json(&self.plan).unwrap();
        migration.evidence.put("m/plan.json", vec![plan.into()]).await.unwrap();
        let planned = json!({
            "plan": "m/plan.json", "plan_sha256": self.plan.digest(),
            "topics": 2, "partitions": 3, "groups": 5, "lanes": 1, "bytes": 0,
        });
        let mut journal = Journal::default();
        migration.begin(&mut journal, "f".to_owned(), "planned", planned).await.unwrap();
        for next in State::ALL.into_iter().skip(1).take_while(|next| *next <= State::AwaitingClientSwitch) {
            migration.enter(&mut journal, next, "on its way", json!({ "report_sha256": digest })).await.unwrap();
        }
    }
}

fn plan() -> MigrationPlan {
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let topic = |name: &str, number, partitions, compacted| PlannedTopic {
        name: TopicName::new(name),
        source_topic_id: Some(serde_json::from_value(format!("00000000-0000-0000-0000-{number:012}").into()).unwrap()),
        partitions,
        replication_factor: 1,
        compacted,
        bytes: 0,
        max_message_bytes: 1,
        hold_configs: [text("retention.ms", "-1")].into(),
        final_configs: [text("retention.ms", "1000")].into(),
        settings_left_out: BTreeMap::new(),
    };
    let partition = |topic: &str, partition| TopicPartition { topic: topic.into(), partition: PartitionId(partition) };
    MigrationPlan {
        version: PLAN_VERSION,
        migration_id: "m".parse().unwrap(),
        source_cluster_id: "s".to_owned(),
        target_cluster_id: "t".to_owned(),
        topics: vec![topic("orders", 1, 2, false), topic("prices", 2, 1, true)],
        topics_left_out: Vec::new(),
        lanes: vec![Lane {
            id: LaneId(0),
            partitions: vec![partition("orders", 0), partition("orders", 1), partition("prices", 0)],
            bytes: 0,
        }],
        groups: Vec::new(),
        groups_left_out: Vec::new(),
        acls: None,
        acls_left_out: Vec::new(),
        quotas: Vec::new(),
        scram_users: Vec::new(),
        bytes: 0,
    }
}
