//! The plan: everything that a migration will do, decided once from what both clusters are.
//!
//! Later phases carry it out and choose nothing, so that a retry cannot decide differently and an operator can read
//! beforehand what will happen. What appears on the source later is an [`Amendment`], which only adds.
//!
//! Settings: a topic's *hold* settings keep the target from losing or changing what was copied, whatever the topic's
//! retention, compaction and timestamps would make of old records; its *final* settings, set when the migration is
//! finalized, make every setting have the effect it has on the source: what is set on the topic itself, and what comes
//! from the source's brokers where the target's brokers would give another value.
//!
//! Invariants: the same inventories give the same plan, byte for byte; the digest changes with any part of it; Kafka's
//! and MSK's own topics are never part of it; each partition is in one lane.
//!
//! Does not: judge. What stands in the way is [`precheck`](crate::precheck)'s to find.

mod settings;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use settings::TargetDefaults;
use settings::plan_topic;

use crate::{
    acl::is_clusters_own,
    canonical::canonical_digest,
    codes::TOPIC_GONE,
    config::ConfigDrift,
    lanes::{Candidate, Lane, split},
    ports::{
        AclBinding, ClientQuota, ClusterDescription, ConfigOrigin, Configs, GroupDescription, QuotaEntity,
        TopicDescription,
    },
    stateful::{StatefulKind, keeps_state},
    types::{BrokerId, GroupId, LaneId, MigrationId, TopicId, TopicName, TopicPartition},
};

// ── What is known of the clusters ──────────────────────────────────────────────────────────────────────────────────

/// What the source is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceInventory {
    /// Id, mode and brokers.
    pub cluster: ClusterDescription,
    /// All topics.
    pub topics: Vec<TopicDescription>,
    /// The settings of each topic, with where they come from.
    pub configs: BTreeMap<TopicName, Configs>,
    /// Bytes on disk.
    pub sizes: BTreeMap<TopicPartition, u64>,
    /// All groups.
    pub groups: Vec<GroupDescription>,
    /// Access rules; none where the cluster has no authorizer.
    pub acls: Option<Vec<AclBinding>>,
    /// Client quotas.
    pub quotas: Vec<ClientQuota>,
    /// Users with SCRAM credentials.
    pub scram_users: Vec<String>,
}

/// What the target is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetInventory {
    /// Id, mode and brokers.
    pub cluster: ClusterDescription,
    /// All topics.
    pub topics: Vec<TopicDescription>,
    /// The settings of one of its brokers, as far as it tells.
    pub broker_configs: Configs,
    /// The settings of its topics.
    pub configs: BTreeMap<TopicName, Configs>,
    /// All groups.
    pub groups: Vec<GroupDescription>,
    /// Access rules; none where the cluster has no authorizer.
    pub acls: Option<Vec<AclBinding>>,
    /// Client quotas.
    pub quotas: Vec<ClientQuota>,
}

impl TargetInventory {
    /// Whether a topic exists there.
    pub fn has(&self, topic: &TopicName) -> bool {
        self.topics.iter().any(|there| there.name == *topic)
    }

    /// The settings that are set on a topic itself.
    pub fn own_configs(&self, topic: &TopicName) -> BTreeMap<String, String> {
        let own = self.configs.get(topic).into_iter().flatten();
        let own = own.filter(|(_, entry)| entry.origin == ConfigOrigin::Topic);
        own.filter_map(|(name, entry)| Some((name.clone(), entry.value.clone()?))).collect()
    }
}

// ── What is wanted ─────────────────────────────────────────────────────────────────────────────────────────────────

/// Which topics are migrated: names, with `*` for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// A topic must match one of these.
    pub include: Vec<String>,
    /// And none of these.
    pub exclude: Vec<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Self { include: vec!["*".to_owned()], exclude: Vec::new() }
    }
}

impl Selection {
    /// Whether its patterns name a topic.
    pub fn names(&self, topic: &TopicName) -> bool {
        let name = topic.as_str();
        matches_any(self.include.iter(), name) && !matches_any(self.exclude.iter(), name)
    }

    /// Why a topic is left out; none where it is migrated.
    pub fn reason_to_leave_out(&self, topic: &TopicDescription) -> Option<LeftOutReason> {
        let name = topic.name.as_str();
        if topic.internal || matches_any(KAFKA_OWN_TOPICS, name) {
            return Some(LeftOutReason::KafkaInternal);
        }
        if matches_any(self.exclude.iter(), name) {
            return Some(LeftOutReason::Excluded);
        }
        // A name that is written out is the operator's explicit wish.
        if matches_any(TOOL_TOPICS, name) && !self.include.iter().any(|pattern| pattern == name) {
            return Some(LeftOutReason::ToolInternal);
        }
        (!matches_any(self.include.iter(), name)).then_some(LeftOutReason::NotIncluded)
    }
}

/// Never migrated: each cluster has its own.
pub(crate) const KAFKA_OWN_TOPICS: &[&str] =
    &["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata", "__amazon_msk_canary"];

/// State of tools around a cluster, which makes no sense on another: MSK Connect, Cruise Control, MirrorMaker 2, MSK
/// Replicator. `_schemas` is user data and not here.
const TOOL_TOPICS: &[&str] = &[
    "__amazon_msk_connect_*",
    "__KafkaCruiseControl*",
    "mm2-*.internal",
    "*.checkpoints.internal",
    "mskr-offset-syncs.*",
    "*.heartbeats",
];

/// Groups of MSK itself.
const TOOL_GROUPS: &[&str] = &["amazon.msk.canary.group.*"];

fn matches_any<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>, name: &str) -> bool {
    patterns.into_iter().any(|pattern| matches_glob(pattern.as_ref(), name))
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters, also none.
pub fn matches_glob(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(tail)
}

// ── The plan ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// The version of plans made now.
pub const PLAN_VERSION: u32 = 1;

/// Everything a migration will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationPlan {
    /// Of this format.
    pub version: u32,
    /// The migration.
    pub migration_id: MigrationId,
    /// The source's own id.
    pub source_cluster_id: String,
    /// The target's own id.
    pub target_cluster_id: String,
    /// The topics, by name.
    pub topics: Vec<PlannedTopic>,
    /// Topics that stay behind.
    pub topics_left_out: Vec<LeftOutTopic>,
    /// The lanes.
    pub lanes: Vec<Lane>,
    /// Groups whose positions are moved.
    pub groups: Vec<PlannedGroup>,
    /// Groups that stay behind.
    pub groups_left_out: Vec<GroupId>,
    /// Access rules to have on the target; none where the source has no authorizer.
    pub acls: Option<Vec<AclBinding>>,
    /// Access rules that are the cluster's own and stay behind.
    pub acls_left_out: Vec<AclBinding>,
    /// Quotas to have on the target.
    pub quotas: Vec<PlannedQuota>,
    /// Users whose credentials must be made on the target: they cannot be read.
    pub scram_users: Vec<String>,
    /// Bytes on the source's disks, one replica of each partition.
    pub bytes: u64,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTopic {
    /// Its name.
    pub name: TopicName,
    /// Its identity on the source, where it has one: under another, it is another topic.
    pub source_topic_id: Option<TopicId>,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas.
    pub replication_factor: i16,
    /// Whether old records of a key may be cleaned away.
    pub compacted: bool,
    /// Bytes on the source's disks, one replica of each partition.
    pub bytes: u64,
    /// The largest batch it takes on the source.
    pub max_message_bytes: i64,
    /// The settings it is made with.
    pub hold_configs: BTreeMap<String, String>,
    /// The settings it ends with; what is not named is the target's default.
    pub final_configs: BTreeMap<String, String>,
    /// Settings of the source that are not carried over, with the reason.
    pub settings_left_out: BTreeMap<String, String>,
}

impl PlannedTopic {
    /// Its partitions.
    pub fn partition_list(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        (0..self.partitions)
            .map(|p| TopicPartition { topic: self.name.clone(), partition: crate::types::PartitionId(p) })
    }

    /// How long the source keeps a tombstone before it cleans it away.
    pub fn tombstones_kept_ms(&self) -> i64 {
        // Kafka's default; a source that differs from the target's default is planned explicitly.
        const DEFAULT_MS: i64 = 24 * 60 * 60 * 1000;
        self.final_configs.get("delete.retention.ms").and_then(|kept| kept.parse().ok()).unwrap_or(DEFAULT_MS)
    }

    /// What to change before clients switch: a compacted topic gets its policy back (Connect and registries insist on
    /// it) while nothing may be compacted yet.
    pub fn ready_changes(&self) -> BTreeMap<String, Option<String>> {
        if !self.compacted {
            return BTreeMap::new();
        }
        let longest = i64::MAX.to_string();
        // Brokers refuse a lag that may be longer than the longest lag allowed.
        let changes = [
            ("cleanup.policy", "compact".to_owned()),
            ("min.compaction.lag.ms", longest.clone()),
            ("max.compaction.lag.ms", longest),
        ];
        changes.into_iter().map(|(key, value)| (key.to_owned(), Some(value))).collect()
    }

    /// What to change at the end: every final value, and whatever was only for holding is taken back.
    pub fn final_changes(&self) -> BTreeMap<String, Option<String>> {
        let held = self.hold_configs.keys().cloned().chain(self.ready_changes().into_keys());
        let mut changes: BTreeMap<String, Option<String>> = held.map(|key| (key, None)).collect();
        changes.extend(self.final_configs.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        changes
    }
}

/// A group whose positions are moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedGroup {
    /// The group.
    pub id: GroupId,
    /// `consumer`, `connect`, or empty.
    pub protocol_type: String,
    /// What it looks like, where its owner has something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_state: Option<StatefulKind>,
}

/// A client quota, its limits as text: what is hashed has no fractions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlannedQuota {
    /// Who it is for.
    pub entity: QuotaEntity,
    /// Its limits.
    pub limits: BTreeMap<String, String>,
}

/// A topic that stays behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutTopic {
    /// Its name.
    pub name: TopicName,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why a topic stays behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutReason {
    /// Kafka's or MSK's own: each cluster has its own.
    KafkaInternal,
    /// State of a tool around this cluster; include it by its full name to migrate it.
    ToolInternal,
    /// Matches `topics.exclude`.
    Excluded,
    /// Matches nothing of `topics.include`.
    NotIncluded,
}

impl LeftOutReason {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            LeftOutReason::KafkaInternal => "Kafka's or MSK's own: the target has its own",
            LeftOutReason::ToolInternal => {
                "state of a tool around the source (MirrorMaker, Connect, Cruise Control); include it by its full name \
                 to migrate it"
            }
            LeftOutReason::Excluded => "matches topics.exclude",
            LeftOutReason::NotIncluded => "matches nothing of topics.include",
        }
    }
}

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The migration.
    pub migration_id: &'a MigrationId,
    /// Which topics.
    pub selection: &'a Selection,
    /// How many lanes.
    pub lanes: usize,
    /// The source.
    pub source: &'a SourceInventory,
    /// The target.
    pub target: &'a TargetInventory,
    /// What becomes of settings that topics have on the target already.
    pub on_config_drift: ConfigDrift,
}

/// Makes the plan.
pub fn plan(input: &PlanInput<'_>) -> MigrationPlan {
    let PlanInput { migration_id, selection, lanes, source, target, .. } = *input;
    let (mut topics, mut topics_left_out) = (Vec::new(), Vec::new());
    for topic in &source.topics {
        match selection.reason_to_leave_out(topic) {
            Some(reason) => topics_left_out.push(LeftOutTopic { name: topic.name.clone(), reason }),
            None => topics.push(plan_topic(topic, input)),
        }
    }
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    topics_left_out.sort_by(|a, b| a.name.cmp(&b.name));
    let candidates = topics.iter().flat_map(|topic| candidates(topic, 0, source)).collect();
    let names: BTreeSet<&TopicName> = source.topics.iter().map(|topic| &topic.name).collect();
    let (groups_left_out, groups): (Vec<_>, Vec<_>) =
        source.groups.iter().partition(|group| matches_any(TOOL_GROUPS, group.id.as_str()));
    let (acls, acls_left_out) = plan_acls(source.acls.as_deref());
    MigrationPlan {
        version: PLAN_VERSION,
        migration_id: migration_id.clone(),
        source_cluster_id: source.cluster.cluster_id.clone(),
        target_cluster_id: target.cluster.cluster_id.clone(),
        bytes: topics.iter().fold(0, |sum: u64, topic| sum.saturating_add(topic.bytes)),
        topics,
        topics_left_out,
        lanes: split(candidates, lanes, LaneId(0)),
        groups: sorted(groups.into_iter().map(|group| plan_group(group, &names)).collect(), |a, b| a.id.cmp(&b.id)),
        groups_left_out: sorted(groups_left_out.into_iter().map(|g| g.id.clone()).collect(), Ord::cmp),
        acls,
        acls_left_out,
        quotas: sorted(source.quotas.iter().map(plan_quota).collect(), Ord::cmp),
        scram_users: sorted(source.scram_users.clone(), Ord::cmp),
    }
}

fn sorted<T>(mut items: Vec<T>, order: impl FnMut(&T, &T) -> std::cmp::Ordering) -> Vec<T> {
    items.sort_by(order);
    items
}

fn plan_group(group: &GroupDescription, topics: &BTreeSet<&TopicName>) -> PlannedGroup {
    let (id, protocol_type) = (group.id.clone(), group.protocol_type.clone());
    let keeps_state = keeps_state(id.as_str(), &protocol_type, &group.client_ids, topics);
    PlannedGroup { id, protocol_type, keeps_state }
}

fn plan_quota(quota: &ClientQuota) -> PlannedQuota {
    let limits = quota.limits.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
    PlannedQuota { entity: quota.entity.clone(), limits }
}

/// Rules to carry over, and those that are the cluster's own.
fn plan_acls(acls: Option<&[AclBinding]>) -> (Option<Vec<AclBinding>>, Vec<AclBinding>) {
    let Some(acls) = acls else { return (None, Vec::new()) };
    let (left_out, kept): (Vec<_>, Vec<_>) = acls.iter().cloned().partition(is_clusters_own);
    (Some(sorted(kept, Ord::cmp)), sorted(left_out, Ord::cmp))
}

fn candidates<'a>(
    topic: &'a PlannedTopic,
    from: i32,
    source: &'a SourceInventory,
) -> impl Iterator<Item = Candidate> + 'a {
    let described = source.topics.iter().find(|described| described.name == topic.name);
    topic.partition_list().filter(move |partition| partition.partition.0 >= from).map(move |partition| {
        let leader: Option<BrokerId> = described
            .and_then(|topic| topic.partitions.iter().find(|p| p.id == partition.partition))
            .and_then(|partition| partition.leader);
        let bytes = source.sizes.get(&partition).copied().unwrap_or(0);
        Candidate { partition, bytes, leader, compacted: topic.compacted }
    })
}

// ── Amendments ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// What appeared on the source after the plan was made. Only adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amendment {
    /// Of this format.
    pub version: u32,
    /// The first is 1.
    pub number: u32,
    /// The digest of the plan, or of the amendment before: what this one adds to.
    pub adds_to: String,
    /// New topics.
    pub topics: Vec<PlannedTopic>,
    /// New partitions of topics that were planned.
    pub partitions: Vec<AddedPartitions>,
    /// Lanes for all of them.
    pub lanes: Vec<Lane>,
}

/// New partitions of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedPartitions {
    /// The topic.
    pub topic: TopicName,
    /// How many there were.
    pub from: i32,
    /// How many there are.
    pub to: i32,
}

/// A topic that was deleted and made again: its copy is of the old one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{TOPIC_GONE}: topic {topic} was deleted and made again on the source since the plan was made (its identity was \
     {planned} and is {found}); {}", TOPIC_GONE.remedy
)]
pub struct TopicMadeAnew {
    /// The topic.
    pub topic: TopicName,
    /// Its identity in the plan.
    pub planned: TopicId,
    /// Its identity now.
    pub found: TopicId,
}

/// A plan with all that was added to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The topics with their present number of partitions, by name.
    pub topics: Vec<PlannedTopic>,
    /// All lanes.
    pub lanes: Vec<Lane>,
    /// The digest of the last amendment, or of the plan.
    pub digest: String,
    /// How many amendments there are.
    pub amendments: u32,
}

impl MigrationPlan {
    /// SHA-256 of the plan's canonical JSON, in hex.
    pub fn digest(&self) -> String {
        canonical_digest(self).expect("a plan has no fractions, so that it has a canonical form")
    }

    /// The plan with its amendments, which are given in order.
    pub fn scope(&self, amendments: &[Amendment]) -> Scope {
        let mut scope = Scope {
            topics: self.topics.clone(),
            lanes: self.lanes.clone(),
            digest: self.digest(),
            amendments: u32::try_from(amendments.len()).unwrap_or(u32::MAX),
        };
        for amendment in amendments {
            for added in &amendment.partitions {
                if let Some(topic) = scope.topics.iter_mut().find(|topic| topic.name == added.topic) {
                    topic.partitions = topic.partitions.max(added.to);
                }
            }
            scope.topics.extend(amendment.topics.iter().cloned());
            scope.lanes.extend(amendment.lanes.iter().cloned());
            scope.digest = amendment.digest();
        }
        scope.topics.sort_by(|a, b| a.name.cmp(&b.name));
        scope
    }
}

impl Amendment {
    /// SHA-256 of the amendment's canonical JSON, in hex.
    pub fn digest(&self) -> String {
        canonical_digest(self).expect("an amendment has no fractions, so that it has a canonical form")
    }
}

impl Scope {
    /// All partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.topics.iter().flat_map(PlannedTopic::partition_list)
    }

    /// A topic by its name.
    pub fn topic(&self, name: &TopicName) -> Option<&PlannedTopic> {
        self.topics.iter().find(|topic| topic.name == *name)
    }

    /// What appeared since; none where nothing did. A topic that is gone from the source stays as it was copied.
    pub fn amend(&self, input: &PlanInput<'_>) -> Result<Option<Amendment>, TopicMadeAnew> {
        let (mut topics, mut partitions, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for found in &input.source.topics {
            if input.selection.reason_to_leave_out(found).is_some() {
                continue;
            }
            let now = plan_topic(found, input);
            let Some(known) = self.topic(&found.name) else {
                new.extend(candidates(&now, 0, input.source));
                topics.push(now);
                continue;
            };
            if let (Some(planned), Some(found_id)) = (known.source_topic_id, found.id)
                && planned != found_id
            {
                return Err(TopicMadeAnew { topic: found.name.clone(), planned, found: found_id });
            }
            if now.partitions > known.partitions {
                new.extend(candidates(&now, known.partitions, input.source));
                partitions.push(AddedPartitions { topic: now.name, from: known.partitions, to: now.partitions });
            }
        }
        if new.is_empty() {
            return Ok(None);
        }
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        partitions.sort_by(|a, b| a.topic.cmp(&b.topic));
        let first = self.lanes.iter().map(|lane| lane.id.0 + 1).max().unwrap_or(0);
        // One lane: what appears during a migration is small, and each lane is a worker more.
        let lanes = split(new, 1, LaneId(first));
        let number = self.amendments + 1;
        Ok(Some(Amendment { version: PLAN_VERSION, number, adds_to: self.digest.clone(), topics, partitions, lanes }))
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Small clusters for tests of rules.

    use super::*;
    use crate::ports::{Broker, ConfigEntry, MetadataMode, PartitionDescription};
    use crate::types::PartitionId;

    pub(crate) fn cluster(id: &str, mode: MetadataMode, brokers: i32, fetch_version_max: i16) -> ClusterDescription {
        let broker = |id| Broker { id: BrokerId(id), host: format!("b{id}"), port: 9092, rack: None };
        let brokers = (1..=brokers).map(broker).collect();
        ClusterDescription { cluster_id: id.into(), metadata_mode: mode, brokers, fetch_version_max }
    }

    pub(crate) fn entry(value: &str, origin: ConfigOrigin) -> ConfigEntry {
        ConfigEntry { value: Some(value.into()), origin, sensitive: false }
    }

    pub(crate) fn group(id: &str, protocol_type: &str, members: usize) -> GroupDescription {
        let state = if members > 0 { "Stable" } else { "Empty" };
        let (id, state, protocol_type) = (id.into(), state.into(), protocol_type.into());
        GroupDescription { id, state, protocol_type, members, client_ids: Vec::new() }
    }

    /// What brokers of Kafka 3.9 tell, as far as it matters here.
    pub(crate) const DEFAULTS_3_9: &[(&str, &str, &str)] = &[
        ("cleanup.policy", "log.cleanup.policy", "delete"),
        ("compression.type", "compression.type", "producer"),
        ("delete.retention.ms", "log.cleaner.delete.retention.ms", "86400000"),
        ("local.retention.ms", "log.local.retention.ms", "-2"),
        ("max.message.bytes", "message.max.bytes", "1048588"),
        ("message.downconversion.enable", "log.message.downconversion.enable", "true"),
        ("message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms", "9223372036854775807"),
        ("message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms", "9223372036854775807"),
        ("message.timestamp.difference.max.ms", "log.message.timestamp.difference.max.ms", "9223372036854775807"),
        ("message.timestamp.type", "log.message.timestamp.type", "CreateTime"),
        ("min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio", "0.5"),
        ("min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms", "0"),
        ("min.insync.replicas", "min.insync.replicas", "1"),
        ("retention.bytes", "log.retention.bytes", "-1"),
        ("segment.bytes", "log.segment.bytes", "1073741824"),
        ("unclean.leader.election.enable", "unclean.leader.election.enable", "false"),
    ];

    /// A topic's name, its number of partitions, and settings of its own.
    pub(crate) type TopicLine<'a> = (&'a str, usize, &'a [(&'a str, &'a str)]);

    /// Topics on three brokers with three replicas.
    pub(crate) fn source(topics: &[TopicLine<'_>]) -> SourceInventory {
        let brokers = [BrokerId(1), BrokerId(2), BrokerId(3)];
        let partition = |id: usize| PartitionDescription {
            id: PartitionId(id as i32),
            leader: Some(brokers[id % 3]),
            leader_epoch: None,
            replicas: brokers.to_vec(),
            in_sync: brokers.to_vec(),
        };
        let mut inventory = SourceInventory {
            cluster: cluster("source-id", MetadataMode::ZooKeeper, 3, 12),
            topics: Vec::new(),
            configs: BTreeMap::new(),
            sizes: BTreeMap::new(),
            groups: Vec::new(),
            acls: None,
            quotas: Vec::new(),
            scram_users: Vec::new(),
        };
        for (index, (name, partitions, own)) in topics.iter().enumerate() {
            let partitions: Vec<_> = (0..*partitions).map(partition).collect();
            for (number, _) in partitions.iter().enumerate() {
                let bytes = 1000 * (index as u64 + 1) + number as u64;
                inventory.sizes.insert(TopicPartition::new(name, number as i32), bytes);
            }
            let id = Some(TopicId(uuid::Uuid::from_u128(index as u128 + 1)));
            inventory.topics.push(TopicDescription { name: (*name).into(), id, internal: false, partitions });
            let defaults = DEFAULTS_3_9.iter().map(|(topic, _, value)| (*topic, entry(value, ConfigOrigin::Default)));
            let own = own.iter().map(|(name, value)| (*name, entry(value, ConfigOrigin::Topic)));
            let configs = defaults.chain([("retention.ms", entry("604800000", ConfigOrigin::Default))]).chain(own);
            inventory.configs.insert((*name).into(), configs.map(|(name, entry)| (name.to_owned(), entry)).collect());
        }
        inventory
    }

    pub(crate) fn target(brokers: i32) -> TargetInventory {
        let defaults = DEFAULTS_3_9.iter().map(|(_, broker, value)| (*broker, entry(value, ConfigOrigin::Default)));
        let hours = [("log.retention.hours", entry("168", ConfigOrigin::Default))];
        let unset = ConfigEntry { value: None, origin: ConfigOrigin::Default, sensitive: false };
        let configs = defaults.chain(hours).chain([("log.retention.ms", unset)]);
        TargetInventory {
            cluster: cluster("target-id", MetadataMode::Kraft, brokers, 17),
            topics: Vec::new(),
            broker_configs: configs.map(|(name, entry)| (name.to_owned(), entry)).collect(),
            configs: BTreeMap::new(),
            groups: Vec::new(),
            acls: None,
            quotas: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
