//! Any port, with the [`Faults`] of one process around it: the fakes here, and the real ones alike.
//!
//! A lost answer is what the port's callers know as one: `Unavailable`, or an outcome that is not known.

use std::collections::BTreeMap;

use bytes::Bytes;
use krossing_core::{
    BrokerId, Generation, GroupId, KafkaCode, LaneId, LeaderEpoch, Offset, Producer, Side, TopicName, TopicPartition,
    evidence::SignedEvidence,
    ports::{
        AccessAdmin, AclBinding, ClientQuota, ClusterDescription, ClusterError, ClusterResult, Configs, EpochEnd,
        FetchRequest, Fetched, FreezeAnswer, FreezeError, GroupDescription, GroupOffsets, Groups, Inventory, Leader,
        Ledger, LogEnd, LogReader, LogWriter, Marker, Msk, MskError, MskResult, NewTopic, ObjectLock, Objects,
        PerPartition, ProduceOutcome, ProduceRequest, ProducerDescription, ProducerFreeze, QuotaEntity, ReadRange,
        Refusals, SignError, Signer, StoreError, StoreResult, TopicAdmin, TopicDescription, Version, VisibleRecord,
        Witness,
    },
    progress::PartitionProgress,
    rights::Right,
};

use crate::faults::{Fault, Faults};

/// A port of one process.
#[derive(Debug, Clone)]
pub struct Faulty<T> {
    inner: T,
    label: &'static str,
    side: Side,
    faults: Faults,
}

impl<T> Faulty<T> {
    /// The source cluster or its witness: calls are named `source.…`.
    pub fn source(inner: T, faults: &Faults) -> Self {
        Self { inner, label: "source", side: Side::Source, faults: faults.clone() }
    }

    /// The target cluster or its witness: calls are named `target.…`.
    pub fn target(inner: T, faults: &Faults) -> Self {
        Self { inner, label: "target", side: Side::Target, faults: faults.clone() }
    }

    /// A ledger, a store of objects, a freeze: calls are named after `label`.
    pub fn named(label: &'static str, inner: T, faults: &Faults) -> Self {
        Self { inner, label, side: Side::Target, faults: faults.clone() }
    }

    /// What it is around.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    fn cluster(&self, attempt: &str) -> ClusterError {
        ClusterError::Unavailable { side: self.side, attempt: attempt.to_owned(), detail: "injected fault".to_owned() }
    }

    fn store(&self, attempt: &str) -> StoreError {
        StoreError::Unavailable { attempt: format!("{}.{attempt}", self.label), detail: "injected fault".to_owned() }
    }

    fn standstill(&self, attempt: &str) -> FreezeError {
        FreezeError { attempt: attempt.to_owned(), detail: "injected fault".to_owned() }
    }

    fn hosting(&self, attempt: &str) -> MskError {
        MskError::NotAsked { detail: format!("{}.{attempt}: injected fault", self.label) }
    }

    fn signature(&self, attempt: &str) -> SignError {
        SignError { attempt: format!("{}.{attempt}", self.label), detail: "injected fault".to_owned() }
    }
}

/// `call!(self, error, method(arguments), subject)`: the call, numbered and decided upon.
macro_rules! call {
    ($self:ident, $error:ident, $method:ident($($argument:expr),*), $subject:expr) => {
        $self
            .faults
            .call(
                format!("{}.{}", $self.label, stringify!($method)),
                $subject,
                $self.inner.$method($($argument),*),
                || Err($self.$error(stringify!($method))),
            )
            .await
    };
}

fn list<'a, T: std::fmt::Display + 'a>(things: impl IntoIterator<Item = &'a T>) -> String {
    things.into_iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

impl<T: Inventory> Inventory for Faulty<T> {
    async fn describe_cluster(&self) -> ClusterResult<ClusterDescription> {
        call!(self, cluster, describe_cluster(), String::new())
    }

    async fn describe_topics(&self, names: Option<&[TopicName]>) -> ClusterResult<Vec<TopicDescription>> {
        call!(self, cluster, describe_topics(names), names.map_or("all".to_owned(), list))
    }

    async fn topic_configs(&self, topics: &[TopicName]) -> ClusterResult<BTreeMap<TopicName, Configs>> {
        call!(self, cluster, topic_configs(topics), list(topics))
    }

    async fn broker_configs(&self, broker: BrokerId) -> ClusterResult<Configs> {
        call!(self, cluster, broker_configs(broker), broker.to_string())
    }

    async fn partition_sizes(&self) -> ClusterResult<BTreeMap<TopicPartition, u64>> {
        call!(self, cluster, partition_sizes(), String::new())
    }

    async fn acls(&self) -> ClusterResult<Option<Vec<AclBinding>>> {
        call!(self, cluster, acls(), String::new())
    }

    async fn client_quotas(&self) -> ClusterResult<Vec<ClientQuota>> {
        call!(self, cluster, client_quotas(), String::new())
    }

    async fn scram_users(&self) -> ClusterResult<Vec<String>> {
        call!(self, cluster, scram_users(), String::new())
    }

    async fn lacking(&self, rights: &[Right]) -> ClusterResult<Vec<Right>> {
        call!(self, cluster, lacking(rights), rights.len().to_string())
    }
}

impl<T: LogReader> LogReader for Faulty<T> {
    async fn leaders(&self, partitions: &[TopicPartition], fresh: bool) -> ClusterResult<PerPartition<Leader>> {
        call!(self, cluster, leaders(partitions, fresh), list(partitions))
    }

    async fn fetch(&self, request: FetchRequest) -> ClusterResult<PerPartition<Fetched>> {
        let subject = list(request.partitions.iter().map(|wanted| &wanted.partition));
        call!(self, cluster, fetch(request), subject)
    }

    async fn log_ends(&self, partitions: &[TopicPartition], end: LogEnd) -> ClusterResult<PerPartition<Offset>> {
        call!(self, cluster, log_ends(partitions, end), list(partitions))
    }

    async fn epoch_end(&self, partition: &TopicPartition, epoch: LeaderEpoch) -> ClusterResult<Option<EpochEnd>> {
        call!(self, cluster, epoch_end(partition, epoch), partition.to_string())
    }

    async fn producers(&self, partitions: &[TopicPartition]) -> ClusterResult<PerPartition<Vec<ProducerDescription>>> {
        call!(self, cluster, producers(partitions), list(partitions))
    }
}

impl<T: LogWriter + Clone + 'static> LogWriter for Faulty<T> {
    async fn produce(&self, mut request: ProduceRequest) -> ProduceOutcome {
        let (name, subject) = (format!("{}.produce", self.label), request.partition.to_string());
        let lost = || ProduceOutcome::Unknown { reason: "injected fault".to_owned() };
        match self.faults.begin(name, subject).await {
            Some(Fault::NotSent) => ProduceOutcome::NotAppended { reason: "injected fault".to_owned() },
            Some(Fault::HappensLater(delay)) => {
                // It left in time; that it arrives late is nobody's to see.
                request.send_before += delay;
                let inner = self.inner.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    inner.produce(request).await
                });
                lost()
            }
            fault => self.faults.apply(fault, self.inner.produce(request), lost).await,
        }
    }
}

impl<T: Marker> Marker for Faulty<T> {
    async fn open_producer(&self, transactional_id: &str) -> ClusterResult<Producer> {
        call!(self, cluster, open_producer(transactional_id), transactional_id.to_owned())
    }

    async fn mark(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> ClusterResult<BTreeMap<TopicPartition, KafkaCode>> {
        call!(self, cluster, mark(transactional_id, producer, partitions), list(partitions))
    }
}

impl<T: TopicAdmin> TopicAdmin for Faulty<T> {
    async fn create_topics(
        &self,
        topics: &[NewTopic],
    ) -> ClusterResult<BTreeMap<TopicName, Result<(), (KafkaCode, String)>>> {
        call!(self, cluster, create_topics(topics), list(topics.iter().map(|topic| &topic.name)))
    }

    async fn create_partitions(&self, topic: &TopicName, partitions: i32) -> ClusterResult<()> {
        call!(self, cluster, create_partitions(topic, partitions), topic.to_string())
    }

    async fn alter_topic_configs(
        &self,
        changes: &BTreeMap<TopicName, BTreeMap<String, Option<String>>>,
    ) -> ClusterResult<BTreeMap<TopicName, Result<(), (KafkaCode, String)>>> {
        call!(self, cluster, alter_topic_configs(changes), list(changes.keys()))
    }
}

impl<T: AccessAdmin> AccessAdmin for Faulty<T> {
    async fn create_acls(&self, rules: &[AclBinding]) -> ClusterResult<Refusals<AclBinding>> {
        call!(self, cluster, create_acls(rules), list(rules))
    }

    async fn set_client_quotas(&self, quotas: &[ClientQuota]) -> ClusterResult<Refusals<QuotaEntity>> {
        call!(self, cluster, set_client_quotas(quotas), quotas.len().to_string())
    }
}

impl<T: Groups> Groups for Faulty<T> {
    async fn list_groups(&self) -> ClusterResult<Vec<GroupId>> {
        call!(self, cluster, list_groups(), String::new())
    }

    async fn describe_groups(&self, groups: &[GroupId]) -> ClusterResult<Vec<GroupDescription>> {
        call!(self, cluster, describe_groups(groups), list(groups))
    }

    async fn group_offsets(&self, groups: &[GroupId]) -> ClusterResult<BTreeMap<GroupId, GroupOffsets>> {
        call!(self, cluster, group_offsets(groups), list(groups))
    }

    async fn commit_group_offsets(
        &self,
        group: &GroupId,
        offsets: &GroupOffsets,
    ) -> ClusterResult<BTreeMap<TopicPartition, KafkaCode>> {
        call!(self, cluster, commit_group_offsets(group, offsets), group.to_string())
    }
}

impl<T: Witness> Witness for Faulty<T> {
    async fn read(
        &self,
        range: ReadRange,
        see: impl FnMut(VisibleRecord) -> bool + Send + 'static,
    ) -> ClusterResult<()> {
        let subject = range.partition.to_string();
        call!(self, cluster, read(range, see), subject)
    }
}

impl<T: Ledger> Ledger for Faulty<T> {
    async fn journal(&self) -> StoreResult<Vec<String>> {
        call!(self, store, journal(), String::new())
    }

    async fn append_journal(&self, position: usize, line: &str) -> StoreResult<()> {
        call!(self, store, append_journal(position, line), line.to_owned())
    }

    async fn document(&self, name: &str) -> StoreResult<Option<(Version, Bytes)>> {
        call!(self, store, document(name), name.to_owned())
    }

    async fn put_document(&self, name: &str, expected: Option<Version>, content: Bytes) -> StoreResult<Version> {
        call!(self, store, put_document(name, expected, content), name.to_owned())
    }

    async fn lane_progress(&self, lane: LaneId) -> StoreResult<Vec<PartitionProgress>> {
        call!(self, store, lane_progress(lane), lane.to_string())
    }

    async fn save_lane_progress(
        &self,
        lane: LaneId,
        generation: Generation,
        progress: &[PartitionProgress],
    ) -> StoreResult<()> {
        call!(self, store, save_lane_progress(lane, generation, progress), lane.to_string())
    }
}

impl<T: Objects> Objects for Faulty<T> {
    async fn put(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        call!(self, store, put(key, parts), key.to_owned())
    }

    async fn put_new(&self, key: &str, parts: Vec<Bytes>) -> StoreResult<()> {
        call!(self, store, put_new(key, parts), key.to_owned())
    }

    async fn get(&self, key: &str) -> StoreResult<Option<Bytes>> {
        call!(self, store, get(key), key.to_owned())
    }

    async fn get_range(&self, key: &str, from: u64, bytes: u64) -> StoreResult<Bytes> {
        call!(self, store, get_range(key, from, bytes), key.to_owned())
    }

    async fn list(&self, prefix: &str) -> StoreResult<Vec<String>> {
        call!(self, store, list(prefix), prefix.to_owned())
    }

    async fn object_lock(&self) -> StoreResult<ObjectLock> {
        call!(self, store, object_lock(), String::new())
    }
}

impl<T: ProducerFreeze> ProducerFreeze for Faulty<T> {
    async fn reach(&self) -> Result<(), FreezeError> {
        call!(self, standstill, reach(), String::new())
    }

    async fn freeze(&self, expires_at_unix_ms: i64) -> Result<FreezeAnswer, FreezeError> {
        call!(self, standstill, freeze(expires_at_unix_ms), String::new())
    }

    async fn switch(&self, bootstrap_servers: &[String]) -> Result<FreezeAnswer, FreezeError> {
        call!(self, standstill, switch(bootstrap_servers), bootstrap_servers.join(" "))
    }

    async fn unfreeze(&self) -> Result<FreezeAnswer, FreezeError> {
        call!(self, standstill, unfreeze(), String::new())
    }
}

impl<T: Signer> Signer for Faulty<T> {
    async fn key_id(&self) -> Result<String, SignError> {
        call!(self, signature, key_id(), String::new())
    }

    async fn sign(&self, bundle_json: String) -> Result<SignedEvidence, SignError> {
        call!(self, signature, sign(bundle_json), String::new())
    }
}

impl<T: Msk> Msk for Faulty<T> {
    async fn describe(&self, side: Side) -> MskResult {
        call!(self, hosting, describe(side), side.to_string())
    }
}
