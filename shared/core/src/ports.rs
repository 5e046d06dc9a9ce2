//! What has to be done in the world: one trait a capability, implemented by `wire`, `witness`, `local`, `aws` and by
//! the fakes of `testkit`.
//!
//! Why traits this small: the bounds of a function say what it may touch. A port that serves a cluster serves either
//! cluster and speaks of plain [`Offset`]s; the caller knows which side it asked. Batches pass as whole [`Bytes`].
//!
//! Invariants every implementation keeps: a call returns within a bound of its own, so that no caller needs a timeout
//! around it; answers are complete or an error, never silently short; a repeat of a write is harmless or refused.

use std::{collections::BTreeMap, fmt, future::Future, time::Duration, time::Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    error::{ErrorClass, KafkaCode},
    evidence::SignedEvidence,
    msk::MskCluster,
    progress::PartitionProgress,
    rights::Right,
    types::{
        BrokerId, Generation, GroupId, LaneId, LeaderEpoch, Offset, Producer, Side, TopicId, TopicName, TopicPartition,
    },
};

// ── Errors ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Why a cluster did not do what it was asked. Partition-level codes are not here: they are part of the answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// No answer, a cut connection, or codes that pass with time, until the retries were used up.
    #[error("{attempt} on the {side} cluster: no usable answer ({detail})")]
    Unavailable {
        /// The cluster asked.
        side: Side,
        /// What was attempted, on what.
        attempt: String,
        /// The last thing that was seen.
        detail: String,
    },
    /// A definite no of the broker.
    #[error("{attempt} on the {side} cluster: {code}{}", suffix(.detail))]
    Refused {
        /// The cluster asked.
        side: Side,
        /// What was attempted, on what.
        attempt: String,
        /// The broker's code.
        code: KafkaCode,
        /// The broker's message, where it sent one.
        detail: String,
    },
    /// Wrong password, certificate, or right: the same call will not succeed before somebody changes something.
    #[error("{attempt} on the {side} cluster: not allowed ({detail})")]
    NotAllowed {
        /// The cluster asked.
        side: Side,
        /// What was attempted, on what.
        attempt: String,
        /// What the broker or the TLS library said.
        detail: String,
    },
    /// The brokers are too old or too new for a call.
    #[error("{attempt} on the {side} cluster: not offered ({detail})")]
    NotOffered {
        /// The cluster asked.
        side: Side,
        /// What was attempted, on what.
        attempt: String,
        /// Which version is wanted, and which are offered.
        detail: String,
    },
    /// An answer that cannot be what it claims to be.
    #[error("{attempt} on the {side} cluster: answer not understood ({detail})")]
    NotUnderstood {
        /// The cluster asked.
        side: Side,
        /// What was attempted, on what.
        attempt: String,
        /// What is wrong with the answer.
        detail: String,
    },
}

fn suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

impl ClusterError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            ClusterError::Unavailable { .. } => ErrorClass::Retryable,
            ClusterError::Refused { .. } | ClusterError::NotAllowed { .. } | ClusterError::NotOffered { .. } => {
                ErrorClass::Refused
            }
            ClusterError::NotUnderstood { .. } => ErrorClass::Internal,
        }
    }
}

/// Why a ledger or an object store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first: what the caller believed is no longer so.
    #[error("{attempt}: somebody else has written it meanwhile")]
    Conflict {
        /// What was attempted, on what.
        attempt: String,
    },
    /// There is nothing under this name.
    #[error("{attempt}: there is nothing under this name")]
    Missing {
        /// What was attempted, on what.
        attempt: String,
    },
    /// What is stored is not what was written: cut off, changed, or of a later version.
    #[error("{attempt}: what is stored is damaged ({detail})")]
    Damaged {
        /// What was attempted, on what.
        attempt: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Disk full, no permission: the same call will not succeed before somebody changes something.
    #[error("{attempt}: {detail}")]
    Refused {
        /// What was attempted, on what.
        attempt: String,
        /// What the system said.
        detail: String,
    },
    /// No usable answer; the next may be one.
    #[error("{attempt}: {detail}")]
    Unavailable {
        /// What was attempted, on what.
        attempt: String,
        /// What the system said.
        detail: String,
    },
}

impl StoreError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            StoreError::Conflict { .. } => ErrorClass::Fenced,
            StoreError::Missing { .. } | StoreError::Damaged { .. } => ErrorClass::DataAtRisk,
            StoreError::Refused { .. } => ErrorClass::Refused,
            StoreError::Unavailable { .. } => ErrorClass::Retryable,
        }
    }
}

/// The answer of a port of a cluster.
pub type ClusterResult<T> = Result<T, ClusterError>;
/// The answer of a ledger or an object store.
pub type StoreResult<T> = Result<T, StoreError>;

// ── Time ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Time, and waiting. Only `runtime` holds the real one; tests turn theirs by hand.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The monotonic clock: what leases and budgets are counted by.
    fn now(&self) -> Instant;
    /// Milliseconds since 1970, for people and for deadlines that another process must read.
    fn unix_ms(&self) -> i64;
    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
}

// ── A cluster, read ────────────────────────────────────────────────────────────────────────────────────────────────

/// How a cluster keeps its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetadataMode {
    /// Brokers with a ZooKeeper ensemble.
    ZooKeeper,
    /// Brokers with a KRaft quorum.
    Kraft,
    /// The brokers' answers do not tell.
    Unknown,
}

/// A broker as metadata names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// Its number.
    pub id: BrokerId,
    /// The host it advertises.
    pub host: String,
    /// The port it advertises.
    pub port: i32,
    /// Its rack or availability zone, where it names one.
    pub rack: Option<String>,
}

/// A cluster at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDescription {
    /// The id the cluster gave itself.
    pub cluster_id: String,
    /// How it keeps its metadata, told by the calls that it offers.
    pub metadata_mode: MetadataMode,
    /// Its brokers, by number.
    pub brokers: Vec<Broker>,
    /// The highest version of Fetch it offers: tells brokers older than 2.8 (below 12), and what recent ones are.
    pub fetch_version_max: i16,
}

/// A partition as metadata describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDescription {
    /// Its number.
    pub id: crate::types::PartitionId,
    /// Its leader, where it has one.
    pub leader: Option<BrokerId>,
    /// How often leadership has changed, where the broker says so.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The brokers that should hold it.
    pub replicas: Vec<BrokerId>,
    /// Those of them that are in step.
    pub in_sync: Vec<BrokerId>,
}

/// A topic as metadata describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// Its name.
    pub name: TopicName,
    /// Its identity, where the cluster has them.
    pub id: Option<TopicId>,
    /// Kafka's own: offsets and transactions.
    pub internal: bool,
    /// Its partitions, by number, without a gap.
    pub partitions: Vec<PartitionDescription>,
}

/// Where a setting's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigOrigin {
    /// Set on the topic itself.
    Topic,
    /// Set for the broker or for all brokers while running.
    DynamicBroker,
    /// From the broker's file.
    StaticBroker,
    /// Kafka's default.
    Default,
    /// Anything else, or not told.
    Other,
}

/// One setting of a topic or broker, as it is in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// Its value; none where it is sensitive or unset.
    pub value: Option<String>,
    /// Where that value comes from.
    pub origin: ConfigOrigin,
    /// Whether brokers keep its value to themselves.
    pub sensitive: bool,
}

/// Settings by name.
pub type Configs = BTreeMap<String, ConfigEntry>;

/// An access rule. Texts are Kafka's own names (`Topic`, `Literal`, `Read`, `Allow`), so that a later Kafka's are kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AclBinding {
    /// `Topic`, `Group`, `Cluster`, `TransactionalId`, `DelegationToken`, `User`.
    pub resource_type: String,
    /// The resource's name, prefix, or `*`.
    pub resource_name: String,
    /// `Literal` or `Prefixed`.
    pub pattern_type: String,
    /// `User:alice`.
    pub principal: String,
    /// `*` or an address.
    pub host: String,
    /// `Read`, `Write`, `Describe`, `All` …
    pub operation: String,
    /// `Allow` or `Deny`.
    pub permission: String,
}

impl fmt::Display for AclBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource_type, resource_name, pattern_type, principal, host, operation, permission } = self;
        write!(f, "{permission} {principal} {operation} on {resource_type} {resource_name}")?;
        if pattern_type == "Prefixed" {
            f.write_str("*")?;
        }
        if host == "*" { Ok(()) } else { write!(f, " from {host}") }
    }
}

/// `user`, `client-id` or `ip` to its name; none is the default entity.
pub type QuotaEntity = BTreeMap<String, Option<String>>;

/// A client quota: who it is for, and the limits by Kafka's own keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientQuota {
    /// Who it is for.
    pub entity: QuotaEntity,
    /// `producer_byte_rate`, `consumer_byte_rate`, `request_percentage` … to its value.
    pub limits: BTreeMap<String, f64>,
}

/// What a cluster is made of.
pub trait Inventory: Send + Sync {
    /// Id, mode and brokers.
    fn describe_cluster(&self) -> impl Future<Output = ClusterResult<ClusterDescription>> + Send;
    /// All topics, or those named; one that does not exist is left out.
    fn describe_topics(
        &self,
        names: Option<&[TopicName]>,
    ) -> impl Future<Output = ClusterResult<Vec<TopicDescription>>> + Send;
    /// The settings of topics, in bulk.
    fn topic_configs(
        &self,
        topics: &[TopicName],
    ) -> impl Future<Output = ClusterResult<BTreeMap<TopicName, Configs>>> + Send;
    /// The settings of one broker.
    fn broker_configs(&self, broker: BrokerId) -> impl Future<Output = ClusterResult<Configs>> + Send;
    /// Bytes on disk of each partition: of its largest replica.
    fn partition_sizes(&self) -> impl Future<Output = ClusterResult<BTreeMap<TopicPartition, u64>>> + Send;
    /// All access rules; none where the cluster has no authorizer.
    fn acls(&self) -> impl Future<Output = ClusterResult<Option<Vec<AclBinding>>>> + Send;
    /// All client quotas.
    fn client_quotas(&self) -> impl Future<Output = ClusterResult<Vec<ClientQuota>>> + Send;
    /// Names of the users with SCRAM credentials (their passwords cannot be read).
    fn scram_users(&self) -> impl Future<Output = ClusterResult<Vec<String>>> + Send;
    /// Those of `rights` that our own user lacks. Asked by calls that change nothing, whatever the answer.
    fn lacking(&self, rights: &[Right]) -> impl Future<Output = ClusterResult<Vec<Right>>> + Send;
}

/// Which end of a partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEnd {
    /// The first offset that is still there (log start).
    Earliest,
    /// The offset the next record gets, as far as replicated (high watermark).
    Latest,
    /// As `Latest`, but never past an open transaction (last stable offset).
    LatestStable,
}

/// Whether data of open transactions is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset, with the list of aborted transactions.
    ReadCommitted,
}

/// Where to read one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// The identity it must have. Asked for in the request itself (Fetch 13), so that a topic made anew can never be
    /// read in place of the old one. None where the cluster has no identities.
    pub topic_id: Option<TopicId>,
    /// The first offset wanted.
    pub offset: Offset,
    /// Leader epoch of the last batch read: the broker compares it with its log and answers `diverging` when the
    /// records behind us have been replaced. None at the first read, and where the broker has forgotten the epoch.
    pub last_epoch: Option<LeaderEpoch>,
    /// How much of this partition; at least one batch comes whatever its size.
    pub bytes_max: u32,
}

/// One Fetch request to one broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// The broker that leads all of `partitions`.
    pub broker: BrokerId,
    /// What to read.
    pub partitions: Vec<FetchPartition>,
    /// How far to read.
    pub isolation: Isolation,
    /// How long the broker may wait for `bytes_min`.
    pub wait_max: Duration,
    /// When the broker answers before that.
    pub bytes_min: u32,
    /// How much in all.
    pub bytes_max: u32,
}

/// A transaction whose records must not arrive: those of `producer_id` from `first_offset` to its abort marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AbortedTransaction {
    /// Who wrote it.
    pub producer_id: i64,
    /// Its first offset in this partition.
    pub first_offset: Offset,
}

/// What was read of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The offset after the last replicated record.
    pub high_watermark: Offset,
    /// The offset before which no transaction is open; equals the high watermark where none is.
    pub last_stable_offset: Offset,
    /// The first offset still there.
    pub log_start: Offset,
    /// Aborted transactions that overlap `records`; empty unless read committed.
    pub aborted: Vec<AbortedTransaction>,
    /// Whole record batches as the broker keeps them; the last may be cut off, the first may begin before the offset.
    pub records: Bytes,
    /// Set, with `records` empty, where the log behind us is another one: the broker's last epoch not later than
    /// ours, and where that epoch ends.
    pub diverging: Option<EpochEnd>,
}

/// Where a leader epoch ends in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The offset after its last record.
    pub end: Offset,
}

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The broker.
    pub broker: BrokerId,
    /// Its epoch, where told.
    pub epoch: Option<LeaderEpoch>,
}

/// Who has lately written to a partition, as its leader remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerDescription {
    /// Id and epoch.
    pub producer: Producer,
    /// When it last wrote, in milliseconds since 1970 by the batch's own timestamp.
    pub last_timestamp_ms: i64,
    /// First offset of its open transaction, if one is open.
    pub open_transaction_from: Option<Offset>,
}

/// Per partition, an answer or the broker's code.
pub type PerPartition<T> = BTreeMap<TopicPartition, Result<T, KafkaCode>>;

/// Reading logs.
pub trait LogReader: Send + Sync {
    /// The leaders of partitions, from the cache, or asked for anew.
    fn leaders(
        &self,
        partitions: &[TopicPartition],
        fresh: bool,
    ) -> impl Future<Output = ClusterResult<PerPartition<Leader>>> + Send;
    /// One Fetch. Codes that pass with time (leader moved, broker starting) come back per partition: the caller asks
    /// for fresh leaders and goes on.
    fn fetch(&self, request: FetchRequest) -> impl Future<Output = ClusterResult<PerPartition<Fetched>>> + Send;
    /// One end of many logs: one request a leader, not one a partition.
    fn log_ends(
        &self,
        partitions: &[TopicPartition],
        end: LogEnd,
    ) -> impl Future<Output = ClusterResult<PerPartition<Offset>>> + Send;
    /// Where a leader epoch ends: the last epoch not later than the one asked for, none where the log has forgotten it.
    fn epoch_end(
        &self,
        partition: &TopicPartition,
        epoch: LeaderEpoch,
    ) -> impl Future<Output = ClusterResult<Option<EpochEnd>>> + Send;
    /// Who has lately written, in bulk; empty where the broker is too old to say.
    fn producers(
        &self,
        partitions: &[TopicPartition],
    ) -> impl Future<Output = ClusterResult<PerPartition<Vec<ProducerDescription>>>> + Send;
}

// ── A cluster, written ─────────────────────────────────────────────────────────────────────────────────────────────

/// One batch for one partition.
#[derive(Debug, Clone)]
pub struct ProduceRequest {
    /// Where to.
    pub partition: TopicPartition,
    /// One whole batch with base offset 0, our producer and sequence, and a right CRC.
    pub batch: Bytes,
    /// When the lease behind it ends. Looked at again immediately before the bytes go out.
    pub send_before: Instant,
}

/// What became of a batch. `Unknown` is the reason for most of the rest of the design.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProduceOutcome {
    /// It is in the log, at this offset, on all replicas in step.
    Appended {
        /// Offset of its first record.
        base_offset: Offset,
    },
    /// It is surely not in the log: never sent, or refused before anything was appended. May be tried again.
    NotAppended {
        /// Why.
        reason: String,
    },
    /// It may be in the log. Never to be sent again before the log has been read back behind a fence.
    Unknown {
        /// What was seen.
        reason: String,
    },
    /// The broker looked at it and said no for good.
    Refused {
        /// The broker's code.
        code: KafkaCode,
        /// The broker's message, where it sent one.
        detail: String,
    },
}

/// Appending to logs.
pub trait LogWriter: Send + Sync {
    /// Appends one batch with acks=all. The caller has one in flight per partition; calls for many partitions at once
    /// travel together, and a partition keeps to one connection.
    fn produce(&self, request: ProduceRequest) -> impl Future<Output = ProduceOutcome> + Send;
}

/// Transactions without records: what fences and marks are made of.
pub trait Marker: Send + Sync {
    /// Takes over a transactional id: its epoch rises, and an open transaction of a predecessor is aborted.
    fn open_producer(&self, transactional_id: &str) -> impl Future<Output = ClusterResult<Producer>> + Send;
    /// Commits a transaction without records over `partitions`, each of which then gets one control batch — some time
    /// after this returns: read the log until it is there. Answers the partitions that could not be marked.
    fn mark(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> impl Future<Output = ClusterResult<BTreeMap<TopicPartition, KafkaCode>>> + Send;
}

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTopic {
    /// Its name.
    pub name: TopicName,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas.
    pub replication_factor: i16,
    /// Its settings.
    pub configs: BTreeMap<String, String>,
}

/// Per topic, done, or the broker's code and message.
pub type PerTopic = BTreeMap<TopicName, Result<(), (KafkaCode, String)>>;

/// Making and changing topics. There is no way to delete one.
pub trait TopicAdmin: Send + Sync {
    /// Makes topics; a topic that already exists is left as it is and answered with its code.
    fn create_topics(&self, topics: &[NewTopic]) -> impl Future<Output = ClusterResult<PerTopic>> + Send;
    /// Gives a topic more partitions: `partitions` in all.
    fn create_partitions(&self, topic: &TopicName, partitions: i32) -> impl Future<Output = ClusterResult<()>> + Send;
    /// Sets topic settings (a value) or takes them back to the broker's (none); others stay as they are.
    fn alter_topic_configs(
        &self,
        changes: &BTreeMap<TopicName, BTreeMap<String, Option<String>>>,
    ) -> impl Future<Output = ClusterResult<PerTopic>> + Send;
}

/// An access rule, a quota's entity: what was refused, with the broker's code and message.
pub type Refusals<T> = Vec<(T, KafkaCode, String)>;

/// Making access rules and setting quotas. There is no way to take one away.
pub trait AccessAdmin: Send + Sync {
    /// Makes access rules; one that is there already stays as it is.
    fn create_acls(&self, rules: &[AclBinding]) -> impl Future<Output = ClusterResult<Refusals<AclBinding>>> + Send;
    /// Sets limits of quotas; limits that are not named stay as they are.
    fn set_client_quotas(
        &self,
        quotas: &[ClientQuota],
    ) -> impl Future<Output = ClusterResult<Refusals<QuotaEntity>>> + Send;
}

// ── Groups ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A group as its coordinator describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDescription {
    /// The group.
    pub id: GroupId,
    /// Kafka's name of its state: `Empty`, `Stable`, `PreparingRebalance`, `Dead` …
    pub state: String,
    /// `consumer`, `connect`, or empty for a group that only commits.
    pub protocol_type: String,
    /// How many members it has now.
    pub members: usize,
    /// What its members call themselves, each once, sorted.
    pub client_ids: Vec<String>,
}

impl GroupDescription {
    /// Whether it has ever had members: positions alone give a group no protocol, and members leave theirs behind.
    pub fn had_members(&self) -> bool {
        self.members > 0 || !self.protocol_type.is_empty()
    }
}

/// A group's position in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedOffset {
    /// The next offset it wants to read.
    pub offset: Offset,
    /// Whatever the client stored beside it.
    pub metadata: String,
}

/// A group's positions.
pub type GroupOffsets = BTreeMap<TopicPartition, CommittedOffset>;

/// Consumer groups.
pub trait Groups: Send + Sync {
    /// All groups of the cluster.
    fn list_groups(&self) -> impl Future<Output = ClusterResult<Vec<GroupId>>> + Send;
    /// Descriptions in bulk; a group that does not exist comes back in state `Dead` without members.
    fn describe_groups(&self, groups: &[GroupId]) -> impl Future<Output = ClusterResult<Vec<GroupDescription>>> + Send;
    /// All positions of each of these groups, one request a group. Waits, within its bound, for unfinished transactional
    /// commits, and says `Unavailable` where one does not end. A group without positions is answered with none.
    fn group_offsets(
        &self,
        groups: &[GroupId],
    ) -> impl Future<Output = ClusterResult<BTreeMap<GroupId, GroupOffsets>>> + Send;
    /// Commits positions for a group without members, in one request, without a leader epoch. Answers what was refused.
    /// A commit of no positions writes nothing, but finds the group's coordinator; a cluster that has never kept a
    /// position then makes the topic that it keeps them in.
    fn commit_group_offsets(
        &self,
        group: &GroupId,
        offsets: &GroupOffsets,
    ) -> impl Future<Output = ClusterResult<BTreeMap<TopicPartition, KafkaCode>>> + Send;
}

/// Everything that is asked of a source or target cluster.
pub trait Cluster: Inventory + LogReader + LogWriter + Marker + TopicAdmin + AccessAdmin + Groups + 'static {}
impl<T: Inventory + LogReader + LogWriter + Marker + TopicAdmin + AccessAdmin + Groups + 'static> Cluster for T {}

// ── The second client ──────────────────────────────────────────────────────────────────────────────────────────────

/// A record as an application sees it, read by the independent client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisibleRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp in milliseconds since 1970; -1 where it has none.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers in order, duplicates included.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Which records to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRange {
    /// The partition.
    pub partition: TopicPartition,
    /// The first offset wanted; records that are gone are skipped.
    pub from: Offset,
    /// The offset before which to stop.
    pub to: Offset,
    /// How many records at most.
    pub records_max: usize,
}

/// The independent client: reads committed records as applications do.
pub trait Witness: Send + Sync {
    /// Calls `see` with each record of the range in order, until it answers false or the range ends. Memory stays
    /// bounded whatever the range.
    fn read(
        &self,
        range: ReadRange,
        see: impl FnMut(VisibleRecord) -> bool + Send + 'static,
    ) -> impl Future<Output = ClusterResult<()>> + Send;
}

// ── Ledger and objects ─────────────────────────────────────────────────────────────────────────────────────────────

/// A document's version: rises with each write; what a conditional write names.
pub type Version = u64;

/// The migration's memory: a journal that is only appended to, small documents written by compare-and-swap, and the
/// progress of lanes.
pub trait Ledger: Send + Sync + 'static {
    /// All lines of the journal, in order, without their line ends.
    fn journal(&self) -> impl Future<Output = StoreResult<Vec<String>>> + Send;
    /// Appends line number `position` (the first is 0); `Conflict` where the journal has another length. Durable when
    /// it returns.
    fn append_journal(&self, position: usize, line: &str) -> impl Future<Output = StoreResult<()>> + Send;
    /// A small document, with its version.
    fn document(&self, name: &str) -> impl Future<Output = StoreResult<Option<(Version, Bytes)>>> + Send;
    /// Writes a document if its version is still `expected` (none: if there is none yet). Answers the new version.
    /// Durable when it returns.
    fn put_document(
        &self,
        name: &str,
        expected: Option<Version>,
        content: Bytes,
    ) -> impl Future<Output = StoreResult<Version>> + Send;
    /// The progress of every partition of a lane.
    fn lane_progress(&self, lane: LaneId) -> impl Future<Output = StoreResult<Vec<PartitionProgress>>> + Send;
    /// Writes the progress of some partitions of a lane, all or none. `Conflict` where a later generation has written
    /// already. Durable when it returns.
    fn save_lane_progress(
        &self,
        lane: LaneId,
        generation: Generation,
        progress: &[PartitionProgress],
    ) -> impl Future<Output = StoreResult<()>> + Send;
}

/// Whether signed documents can be deleted where they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectLock {
    /// By nobody, before their time.
    On,
    /// They are to be locked, and the bucket was made without.
    Missing,
    /// Nothing is to be locked: a folder knows no such thing, and segments are not kept.
    NotWanted,
}

/// Large things: segments, offset maps, plans, reports. Keys are `/`-separated paths below one prefix.
pub trait Objects: Send + Sync + 'static {
    /// Stores an object whole or not at all, replacing one of that name. Durable when it returns.
    fn put(&self, key: &str, parts: Vec<Bytes>) -> impl Future<Output = StoreResult<()>> + Send;
    /// As `put`, but `Conflict` where the name is taken.
    fn put_new(&self, key: &str, parts: Vec<Bytes>) -> impl Future<Output = StoreResult<()>> + Send;
    /// A whole object; none where there is none.
    fn get(&self, key: &str) -> impl Future<Output = StoreResult<Option<Bytes>>> + Send;
    /// Part of an object; shorter only where the object ends. `Missing` where there is none.
    fn get_range(&self, key: &str, from: u64, bytes: u64) -> impl Future<Output = StoreResult<Bytes>> + Send;
    /// All keys that begin with `prefix`, sorted.
    fn list(&self, prefix: &str) -> impl Future<Output = StoreResult<Vec<String>>> + Send;
    /// Whether a signed document that is stored now is locked.
    fn object_lock(&self) -> impl Future<Output = StoreResult<ObjectLock>> + Send;
}

// ── Producers' standstill ──────────────────────────────────────────────────────────────────────────────────────────

/// What the operator's side said to a freeze or an unfreeze.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeAnswer {
    /// Whether it confirmed the state that was asked for.
    pub confirmed: bool,
    /// Who or what answered, and what they said.
    pub detail: String,
}

/// Why a freeze could not be asked for or confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{attempt}: {detail}")]
pub struct FreezeError {
    /// What was attempted, on what.
    pub attempt: String,
    /// What was seen.
    pub detail: String,
}

/// Producers' standstill: a webhook, or a person at a terminal.
pub trait ProducerFreeze: Send + Sync {
    /// Whether it can be reached, found out without asking for anything.
    fn reach(&self) -> impl Future<Output = Result<(), FreezeError>> + Send;
    /// Asks that producers flush, close and stay away until `expires_at_unix_ms`, and waits for the answer.
    fn freeze(&self, expires_at_unix_ms: i64) -> impl Future<Output = Result<FreezeAnswer, FreezeError>> + Send;
    /// READY: says that producers are to go on on the target, and on the source no more unless they are let go on there.
    fn switch(&self, bootstrap_servers: &[String]) -> impl Future<Output = Result<FreezeAnswer, FreezeError>> + Send;
    /// Lets producers go on on the source, also those that were told to switch, and reads back that they may.
    fn unfreeze(&self) -> impl Future<Output = Result<FreezeAnswer, FreezeError>> + Send;
}

// ── Who signs ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{attempt}: {detail}")]
pub struct SignError {
    /// What was attempted, on what.
    pub attempt: String,
    /// What was seen, and what to do.
    pub detail: String,
}

/// The key that signs evidence: a file, or a key service.
pub trait Signer: Send + Sync {
    /// Makes sure that the key can be used, making it where it is the first use of one that may be made. Answers its id.
    fn key_id(&self) -> impl Future<Output = Result<String, SignError>> + Send;
    /// Signs a bundle.
    fn sign(&self, bundle_json: String) -> impl Future<Output = Result<SignedEvidence, SignError>> + Send;
}

// ── Who hosts the clusters ─────────────────────────────────────────────────────────────────────────────────────────────

/// Why MSK's API did not describe a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MskError {
    /// It knows none by this ARN.
    #[error("no such cluster: {detail}")]
    NoSuchCluster {
        /// What it said.
        detail: String,
    },
    /// It was not asked, or has not answered: no rights, no credentials, no way there.
    #[error("not asked: {detail}")]
    NotAsked {
        /// What was seen, and what to do.
        detail: String,
    },
}

/// A cluster as MSK describes it; none where it is not said to be one of MSK's.
pub type MskResult = Result<Option<MskCluster>, MskError>;

/// MSK's own API.
pub trait Msk: Send + Sync {
    /// Describes the source or the target.
    fn describe(&self, side: Side) -> impl Future<Output = MskResult> + Send;
}

// ── All of them ────────────────────────────────────────────────────────────────────────────────────────────────────

/// The ports of a whole migration, as one type parameter.
pub trait Ports: Send + Sync + 'static {
    /// The cluster that records are copied from.
    type Source: Cluster + Clone;
    /// The cluster that records are copied to.
    type Target: Cluster + Clone;
    /// The independent client of the source.
    type SourceWitness: Witness + 'static;
    /// The independent client of the target.
    type TargetWitness: Witness + 'static;
    /// Journal, documents, progress.
    type Ledger: Ledger + Clone;
    /// Segments and evidence.
    type Objects: Objects + Clone;
    /// Time.
    type Clock: Clock;
    /// Producers' standstill.
    type Freeze: ProducerFreeze + 'static;
    /// Who signs evidence.
    type Signer: Signer + 'static;
    /// Who hosts the clusters.
    type Msk: Msk;
}

/// The ports that one process has of a migration.
#[derive(Debug)]
pub struct PortSet<P: Ports> {
    /// The cluster that records are copied from.
    pub source: P::Source,
    /// The cluster that records are copied to.
    pub target: P::Target,
    /// The independent client of the source.
    pub source_witness: P::SourceWitness,
    /// The independent client of the target.
    pub target_witness: P::TargetWitness,
    /// Journal, leases, progress.
    pub ledger: P::Ledger,
    /// Segments.
    pub segments: P::Objects,
    /// Offset map, plan, reports, signed evidence.
    pub evidence: P::Objects,
    /// Time.
    pub clock: P::Clock,
    /// Producers' standstill.
    pub freeze: P::Freeze,
    /// Who signs evidence.
    pub signer: P::Signer,
    /// Who hosts the clusters.
    pub msk: P::Msk,
}
