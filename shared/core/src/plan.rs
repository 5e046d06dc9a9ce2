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

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

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

// ── Topics and their settings ──────────────────────────────────────────────────────────────────────────────────────

/// Room for batches that grow when they are packed or re-written under the same codec.
const HOLD_MESSAGE_BYTES_MIN: i64 = 8 * 1024 * 1024;

/// Kafka 4 refuses smaller segments (KIP-1030).
const SEGMENT_BYTES_MIN_KAFKA_4: i64 = 1024 * 1024;

/// Topic settings and the broker settings that give them their default. The second column is what tells whether the
/// target knows a setting at all.
const BROKER_SYNONYMS: &[(&str, &str)] = &[
    ("cleanup.policy", "log.cleanup.policy"),
    ("compression.gzip.level", "compression.gzip.level"),
    ("compression.lz4.level", "compression.lz4.level"),
    ("compression.type", "compression.type"),
    ("compression.zstd.level", "compression.zstd.level"),
    ("delete.retention.ms", "log.cleaner.delete.retention.ms"),
    ("file.delete.delay.ms", "log.segment.delete.delay.ms"),
    ("flush.messages", "log.flush.interval.messages"),
    ("flush.ms", "log.flush.interval.ms"),
    ("index.interval.bytes", "log.index.interval.bytes"),
    ("local.retention.bytes", "log.local.retention.bytes"),
    ("local.retention.ms", "log.local.retention.ms"),
    ("max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms"),
    ("max.message.bytes", "message.max.bytes"),
    ("message.downconversion.enable", "log.message.downconversion.enable"),
    ("message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms"),
    ("message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms"),
    ("message.timestamp.difference.max.ms", "log.message.timestamp.difference.max.ms"),
    ("message.timestamp.type", "log.message.timestamp.type"),
    ("min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio"),
    ("min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms"),
    ("min.insync.replicas", "min.insync.replicas"),
    ("preallocate", "log.preallocate"),
    ("retention.bytes", "log.retention.bytes"),
    ("retention.ms", "log.retention.ms"),
    ("segment.bytes", "log.segment.bytes"),
    ("segment.index.bytes", "log.index.size.max.bytes"),
    ("segment.jitter.ms", "log.roll.jitter.ms"),
    ("segment.ms", "log.roll.ms"),
    ("unclean.leader.election.enable", "unclean.leader.election.enable"),
];

/// Broker settings in larger units that count where the one in milliseconds is unset: name and milliseconds.
const BROKER_FALLBACKS: &[(&str, &str, i64)] = &[
    ("retention.ms", "log.retention.minutes", 60_000),
    ("retention.ms", "log.retention.hours", 3_600_000),
    ("segment.ms", "log.roll.hours", 3_600_000),
    ("segment.jitter.ms", "log.roll.jitter.hours", 3_600_000),
];

/// Topic settings without a broker setting of their own, and what they are where nobody set them.
const TOPIC_ONLY: &[(&str, &str)] = &[("remote.storage.enable", "false")];

/// Gone in Kafka 4.
const GONE_IN_KAFKA_4: &[&str] = &["message.downconversion.enable", "message.timestamp.difference.max.ms"];

/// Known only from some version on, or with remote storage.
const ONLY_ON_SOME: &[&str] = &[
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.zstd.level",
    "local.retention.bytes",
    "local.retention.ms",
];

/// Never carried over, and why.
const NOT_CARRIED: &[(&str, &str)] = &[
    ("leader.replication.throttled.replicas", "names brokers of the source, for a reassignment there"),
    ("follower.replication.throttled.replicas", "names brokers of the source, for a reassignment there"),
    ("message.format.version", "all records are written in format 2; the setting is gone in Kafka 4"),
];

/// What the target's brokers make of topics without settings of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetDefaults {
    values: BTreeMap<String, String>,
    known: BTreeSet<String>,
    /// Whether the brokers told their settings (MSK may tell only those that were changed).
    complete: bool,
}

impl TargetDefaults {
    /// Reads them from a broker's settings.
    pub fn of(target: &TargetInventory) -> Self {
        let told = &target.broker_configs;
        let value = |name: &str| told.get(name).and_then(|entry| entry.value.clone());
        let mut values = BTreeMap::new();
        for (topic, broker) in BROKER_SYNONYMS {
            if let Some(value) = value(broker) {
                values.insert((*topic).to_owned(), value);
            }
        }
        for (topic, broker, unit_ms) in BROKER_FALLBACKS {
            if !values.contains_key(*topic)
                && let Some(number) = value(broker).and_then(|value| value.parse::<i64>().ok())
            {
                let ms = if number < 0 { -1 } else { number.saturating_mul(*unit_ms) };
                values.insert((*topic).to_owned(), ms.to_string());
            }
        }
        values.extend(TOPIC_ONLY.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut known: BTreeSet<String> = BROKER_SYNONYMS
            .iter()
            .filter(|(_, broker)| told.contains_key(*broker))
            .map(|(topic, _)| (*topic).to_owned())
            .collect();
        // Any topic names all the settings there are.
        known.extend(target.configs.values().flat_map(|configs| configs.keys().cloned()));
        let complete = known.len() * 3 > BROKER_SYNONYMS.len();
        Self { values, known, complete }
    }

    /// What a topic without this setting gets; none where the target does not tell.
    pub fn value(&self, setting: &str) -> Option<&str> {
        self.values.get(setting).map(String::as_str)
    }

    /// Whether the target knows a topic setting; where it does not tell, what every KRaft version knows is assumed.
    pub fn knows(&self, setting: &str) -> bool {
        if self.known.contains(setting) || TOPIC_ONLY.iter().any(|(name, _)| *name == setting) {
            return true;
        }
        let everywhere = !ONLY_ON_SOME.contains(&setting) && !GONE_IN_KAFKA_4.contains(&setting);
        !self.complete && everywhere && synonym(setting).is_some()
    }

    /// Whether the target is Kafka 4 or later, as far as its settings tell.
    pub fn is_kafka_4(&self) -> bool {
        self.complete && GONE_IN_KAFKA_4.iter().all(|setting| !self.known.contains(*setting))
    }
}

fn synonym(setting: &str) -> Option<&'static str> {
    BROKER_SYNONYMS.iter().find(|(topic, _)| *topic == setting).map(|(_, broker)| *broker)
}

fn plan_topic(topic: &TopicDescription, input: &PlanInput<'_>) -> PlannedTopic {
    let PlanInput { source, target, .. } = *input;
    let no_configs = Configs::new();
    let configs = source.configs.get(&topic.name).unwrap_or(&no_configs);
    let defaults = TargetDefaults::of(target);
    let value = |name: &str| configs.get(name).and_then(|entry| entry.value.as_deref());
    let replication_factor = topic.partitions.iter().map(|p| p.replicas.len()).max().unwrap_or(1);
    let replication_factor = i16::try_from(replication_factor).unwrap_or(i16::MAX).max(1);
    let max_message_bytes = value("max.message.bytes").and_then(|v| v.parse().ok()).unwrap_or(1_048_588);
    let (final_configs, settings_left_out) = match input.on_config_drift {
        ConfigDrift::Keep if target.has(&topic.name) => (target.own_configs(&topic.name), BTreeMap::new()),
        ConfigDrift::Keep | ConfigDrift::OverwriteWithSource | ConfigDrift::Refuse => final_configs(configs, &defaults),
    };
    let hold = hold_configs(replication_factor, max_message_bytes, value("remote.storage.enable"), &defaults);
    let mut hold_configs = final_configs.clone();
    hold_configs.extend(hold);
    hold_segments(&mut hold_configs, &defaults);
    let sizes = topic.partitions.iter().map(|p| TopicPartition { topic: topic.name.clone(), partition: p.id });
    PlannedTopic {
        name: topic.name.clone(),
        source_topic_id: topic.id,
        partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
        replication_factor,
        compacted: value("cleanup.policy").is_some_and(|policy| policy.split(',').any(|p| p.trim() == "compact")),
        bytes: sizes.filter_map(|p| source.sizes.get(&p)).fold(0, |sum: u64, bytes| sum.saturating_add(*bytes)),
        max_message_bytes,
        hold_configs,
        final_configs,
        settings_left_out,
    }
}

fn hold_configs(
    replication_factor: i16,
    max_message_bytes: i64,
    remote_storage: Option<&str>,
    defaults: &TargetDefaults,
) -> BTreeMap<String, String> {
    let longest = i64::MAX.to_string();
    let headroom = max_message_bytes.saturating_mul(2).clamp(HOLD_MESSAGE_BYTES_MIN, i64::from(i32::MAX));
    let mut hold: BTreeMap<String, String> = [
        ("retention.ms", "-1".to_owned()),
        ("retention.bytes", "-1".to_owned()),
        ("cleanup.policy", "delete".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        ("max.message.bytes", headroom.to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
        ("min.insync.replicas", if replication_factor >= 2 { "2" } else { "1" }.to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    if defaults.knows("message.timestamp.before.max.ms") {
        hold.insert("message.timestamp.before.max.ms".to_owned(), longest.clone());
        hold.insert("message.timestamp.after.max.ms".to_owned(), longest.clone());
    }
    // Where both are known, the older one still counts while the newer ones are at their default (Kafka 3.6 to 3.9).
    if defaults.knows("message.timestamp.difference.max.ms") {
        hold.insert("message.timestamp.difference.max.ms".to_owned(), longest);
    }
    if remote_storage == Some("true") {
        hold.insert("local.retention.ms".to_owned(), "-1".to_owned());
        hold.insert("local.retention.bytes".to_owned(), "-1".to_owned());
    }
    hold
}

/// A batch larger than a segment is refused (error 18), and packing makes batches that the source never had.
fn hold_segments(hold: &mut BTreeMap<String, String>, defaults: &TargetDefaults) {
    let number = |value: Option<&str>| value.and_then(|value| value.parse::<i64>().ok());
    let batch = number(hold.get("max.message.bytes").map(String::as_str)).unwrap_or(HOLD_MESSAGE_BYTES_MIN);
    let segment = number(hold.get("segment.bytes").map(String::as_str).or(defaults.value("segment.bytes")));
    if segment.is_some_and(|segment| segment < batch) {
        hold.insert("segment.bytes".to_owned(), batch.to_string());
    }
}

/// The settings to end with, and those left out with the reason.
fn final_configs(configs: &Configs, defaults: &TargetDefaults) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut planned, mut left_out) = (BTreeMap::new(), BTreeMap::new());
    let remote = configs.get("remote.storage.enable").and_then(|entry| entry.value.as_deref()) == Some("true");
    for (name, entry) in timestamps_as_known(configs, defaults) {
        let own = entry.origin == ConfigOrigin::Topic;
        let Some(value) = entry.value else { continue };
        if let Some((_, reason)) = NOT_CARRIED.iter().find(|(left, _)| *left == name) {
            if own && !value.is_empty() {
                left_out.insert(name, (*reason).to_owned());
            }
            continue;
        }
        // Only remote storage gives these a meaning, and brokers refuse some of their values without it.
        if name.starts_with("local.retention.") && !remote {
            continue;
        }
        if !defaults.knows(&name) {
            if own {
                left_out.insert(name, "the target does not know this setting".to_owned());
            }
            continue;
        }
        let differs = defaults.value(&name) != Some(value.as_str());
        if own || (differs && synonym(&name).is_some()) {
            planned.insert(name, value);
        }
    }
    let small = |value: &String| value.parse::<i64>().is_ok_and(|bytes| bytes < SEGMENT_BYTES_MIN_KAFKA_4);
    if defaults.is_kafka_4() && planned.get("segment.bytes").is_some_and(small) {
        let raised = SEGMENT_BYTES_MIN_KAFKA_4.to_string();
        let was = planned.insert("segment.bytes".to_owned(), raised).unwrap_or_default();
        left_out
            .insert("segment.bytes".to_owned(), format!("raised from {was}: the least that Kafka 4 takes is 1 MiB"));
    }
    (planned, left_out)
}

/// The source's settings with its limit on timestamps under the names that the target knows. Before Kafka 3.6 there is
/// one limit for both directions, from 4.0 on there are two.
fn timestamps_as_known(configs: &Configs, defaults: &TargetDefaults) -> Configs {
    const DIFFERENCE: &str = "message.timestamp.difference.max.ms";
    let mut configs = configs.clone();
    let Some(difference) = configs.get(DIFFERENCE).cloned() else { return configs };
    if !defaults.knows("message.timestamp.before.max.ms") {
        return configs;
    }
    let longest = i64::MAX.to_string();
    for name in ["message.timestamp.before.max.ms", "message.timestamp.after.max.ms"] {
        // At its maximum the newer setting leaves the older one in force.
        let set = configs.get(name).and_then(|entry| entry.value.as_ref()).is_some_and(|value| *value != longest);
        if !set {
            configs.insert(name.to_owned(), difference.clone());
        }
    }
    configs.remove(DIFFERENCE);
    configs
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use proptest::prelude::*;

    use super::{fixture::*, *};

    fn planned(source: &SourceInventory, target: &TargetInventory) -> MigrationPlan {
        let id = "m1".parse().unwrap();
        let selection = Selection::default();
        plan(&PlanInput {
            migration_id: &id,
            selection: &selection,
            lanes: 3,
            source,
            target,
            on_config_drift: ConfigDrift::OverwriteWithSource,
        })
    }

    fn one(own: &[(&str, &str)], target: &TargetInventory) -> PlannedTopic {
        planned(&source(&[("orders", 3, own)]), target).topics.remove(0)
    }

    fn values(map: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
        map.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    /// Kafka 4: two settings less, one default changed.
    fn target_4() -> TargetInventory {
        let mut target = target(3);
        target.broker_configs.remove("log.message.downconversion.enable");
        target.broker_configs.remove("log.message.timestamp.difference.max.ms");
        let hour = entry("3600000", ConfigOrigin::Default);
        target.broker_configs.insert("log.message.timestamp.after.max.ms".into(), hour);
        target
    }

    #[test]
    fn a_topic_without_settings_of_its_own_needs_none_where_the_brokers_agree() {
        assert_eq!(values(&one(&[], &target(3)).final_configs), []);
    }

    #[test]
    fn a_topic_is_held_whatever_its_own_settings_are_and_gets_them_back_at_the_end() {
        let own =
            [("retention.ms", "1000"), ("cleanup.policy", "compact"), ("message.timestamp.type", "LogAppendTime")];
        let topic = one(&own, &target(3));
        let longest = "9223372036854775807";
        assert_eq!(
            values(&topic.hold_configs),
            [
                ("cleanup.policy", "delete"),
                ("compression.type", "producer"),
                ("max.message.bytes", "8388608"),
                ("message.timestamp.after.max.ms", longest),
                ("message.timestamp.before.max.ms", longest),
                ("message.timestamp.difference.max.ms", longest),
                ("message.timestamp.type", "CreateTime"),
                ("min.insync.replicas", "2"),
                ("retention.bytes", "-1"),
                ("retention.ms", "-1"),
                ("unclean.leader.election.enable", "false"),
            ]
        );
        assert!(topic.compacted);
        assert_eq!(topic.ready_changes().len(), 3);
        let mut configs = topic.hold_configs.clone();
        for (key, value) in topic.ready_changes().into_iter().chain(topic.final_changes()) {
            match value {
                Some(value) => configs.insert(key, value),
                None => configs.remove(&key),
            };
        }
        assert_eq!(
            values(&configs),
            [("cleanup.policy", "compact"), ("message.timestamp.type", "LogAppendTime"), ("retention.ms", "1000")]
        );
    }

    #[test]
    fn headroom_replicas_and_remote_storage_change_what_is_held() {
        let topic = one(&[("max.message.bytes", "10000000"), ("remote.storage.enable", "true")], &target(3));
        assert_eq!(topic.hold_configs["max.message.bytes"], "20000000");
        assert_eq!(topic.hold_configs["local.retention.ms"], "-1");
        let mut source = source(&[("orders", 1, &[])]);
        source.topics[0].partitions[0].replicas.truncate(1);
        assert_eq!(planned(&source, &target(1)).topics[0].hold_configs["min.insync.replicas"], "1");
    }

    #[test]
    fn what_the_sources_brokers_give_is_planned_where_the_targets_give_something_else() {
        let mut target = target(3);
        target.broker_configs.insert("log.retention.hours".into(), entry("24", ConfigOrigin::StaticBroker));
        target.broker_configs.insert("min.insync.replicas".into(), entry("2", ConfigOrigin::StaticBroker));
        let topic = one(&[], &target);
        assert_eq!(values(&topic.final_configs), [("min.insync.replicas", "1"), ("retention.ms", "604800000")]);
    }

    #[test]
    fn limits_on_timestamps_are_planned_under_the_names_that_kafka_4_knows() {
        let topic = one(&[], &target_4());
        assert_eq!(values(&topic.final_configs), [("message.timestamp.after.max.ms", "9223372036854775807")]);
        assert!(!topic.hold_configs.contains_key("message.timestamp.difference.max.ms"));
        let topic = one(
            &[("message.timestamp.difference.max.ms", "5000"), ("message.downconversion.enable", "false")],
            &target_4(),
        );
        let both = [("message.timestamp.after.max.ms", "5000"), ("message.timestamp.before.max.ms", "5000")];
        assert_eq!(values(&topic.final_configs), both);
        assert!(topic.settings_left_out.contains_key("message.downconversion.enable"));
    }

    #[test]
    fn settings_that_mean_nothing_on_the_target_are_left_out_with_the_reason() {
        let own = [
            ("leader.replication.throttled.replicas", "0:1"),
            ("message.format.version", "2.8"),
            ("made.up", "1"),
            ("segment.bytes", "16384"),
        ];
        let topic = one(&own, &target(3));
        assert_eq!(values(&topic.final_configs), [("segment.bytes", "16384")]);
        assert_eq!(topic.settings_left_out.len(), 3);
        // While copying, a segment must hold the largest batch that packing can make.
        assert_eq!(topic.hold_configs["segment.bytes"], "8388608");
        assert_eq!(topic.final_changes()["segment.bytes"].as_deref(), Some("16384"));
        let topic = one(&[("segment.bytes", "16384")], &target_4());
        assert_eq!(topic.final_configs["segment.bytes"], "1048576");
        assert!(topic.settings_left_out["segment.bytes"].contains("16384"));
    }

    #[test]
    fn a_target_that_does_not_tell_its_settings_gets_everything_spelled_out() {
        let mut silent = target(3);
        silent.broker_configs.clear();
        let topic = one(&[("retention.ms", "5")], &silent);
        assert_eq!(topic.final_configs["retention.ms"], "5");
        assert_eq!(topic.final_configs["segment.bytes"], "1073741824");
        assert!(!topic.final_configs.contains_key("message.downconversion.enable"));
        assert!(topic.hold_configs.contains_key("message.timestamp.before.max.ms"));
    }

    #[test]
    fn topics_of_kafka_and_of_tools_stay_behind_unless_a_tools_topic_is_named() {
        let names = [
            "__consumer_offsets",
            "_schemas",
            "a.checkpoints.internal",
            "mm2-offset-syncs.b.internal",
            "orders",
            "x-dlq",
        ];
        let all: Vec<TopicLine<'_>> = names.iter().map(|name| (*name, 1, &[][..])).collect();
        let source = source(&all);
        let check = |include: &[&str], expected: &[&str]| {
            let patterns = |all: &[&str]| all.iter().map(|p| (*p).to_owned()).collect();
            let selection = Selection { include: patterns(include), exclude: patterns(&["*-dlq"]) };
            let id = "m".parse().unwrap();
            let plan = plan(&PlanInput {
                migration_id: &id,
                selection: &selection,
                lanes: 1,
                source: &source,
                target: &target(3),
                on_config_drift: ConfigDrift::OverwriteWithSource,
            });
            let topics: Vec<&str> = plan.topics.iter().map(|topic| topic.name.as_str()).collect();
            assert_eq!(topics, expected);
            assert_eq!(plan.topics.len() + plan.topics_left_out.len(), names.len());
        };
        check(&["*"], &["_schemas", "orders"]);
        check(&["*", "a.checkpoints.internal"], &["_schemas", "a.checkpoints.internal", "orders"]);
        check(&["__consumer_offsets", "or*s"], &["orders"]);
    }

    #[test]
    fn globs_match_as_a_shell_would() {
        for (pattern, name) in
            [("*", ""), ("a*", "a"), ("*a", "ba"), ("a*b*c", "a-b-b-c"), ("a**c", "abc"), ("abc", "abc")]
        {
            assert!(matches_glob(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a*a", "a"), ("a*b*c", "acb"), ("*b", "bc"), ("abc", "abcd"), ("", "a")] {
            assert!(!matches_glob(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn rules_groups_and_quotas_of_the_cluster_itself_stay_behind() {
        let acl = |kind: &str, name: &str, principal: &str, operation: &str| AclBinding {
            resource_type: kind.into(),
            resource_name: name.into(),
            pattern_type: "Literal".into(),
            principal: principal.into(),
            host: "*".into(),
            operation: operation.into(),
            permission: "Allow".into(),
        };
        let mut source = source(&[("orders", 1, &[])]);
        source.acls = Some(vec![
            acl("Topic", "orders", "User:a", "Read"),
            acl("Topic", "orders", "User:ANONYMOUS", "Read"),
            acl("Topic", "__consumer_offsets", "User:a", "Read"),
            acl("Cluster", "kafka-cluster", "User:b", "ClusterAction"),
            acl("Cluster", "kafka-cluster", "User:b", "Describe"),
        ]);
        source.groups = vec![group("z", "consumer", 1), group("amazon.msk.canary.group.1", "", 0), group("a", "", 0)];
        source.quotas.push(ClientQuota {
            entity: BTreeMap::from([("user".into(), None)]),
            limits: BTreeMap::from([("producer_byte_rate".into(), 1024.5)]),
        });
        let plan = planned(&source, &target(3));
        assert_eq!(plan.acls.as_ref().map(Vec::len), Some(2));
        assert_eq!(plan.acls_left_out.len(), 3);
        assert_eq!(plan.groups.iter().map(|g| g.id.as_str()).collect::<Vec<_>>(), ["a", "z"]);
        assert_eq!(plan.groups_left_out.len(), 1);
        assert_eq!(plan.quotas[0].limits["producer_byte_rate"], "1024.5");
        assert_eq!(plan.digest().len(), 64);
    }

    #[test]
    fn a_plan_comes_back_from_storage_with_the_same_digest() {
        let plan = planned(&source(&[("a", 3, &[]), ("b", 2, &[("retention.ms", "7")])]), &target(3));
        let stored = serde_json::to_string(&plan).unwrap();
        let read: MigrationPlan = serde_json::from_str(&stored).unwrap();
        assert_eq!(read.digest(), plan.digest());
    }

    proptest! {
        #[test]
        fn the_digest_changes_with_any_change(topic in 0usize..3, what in 0usize..7) {
            let base = planned(&source(&[("a", 3, &[]), ("b", 2, &[]), ("c", 1, &[])]), &target(3));
            let mut changed = base.clone();
            match what {
                0 => changed.topics[topic].partitions += 1,
                1 => { changed.topics[topic].final_configs.insert("x".into(), "1".into()); }
                2 => changed.topics[topic].hold_configs.clear(),
                3 => changed.lanes.swap(0, 1),
                4 => { changed.topics.remove(topic); }
                5 => changed.bytes += 1,
                _ => changed.migration_id = "m2".parse().unwrap(),
            }
            prop_assert_ne!(base.digest(), changed.digest());
        }
    }

    #[test]
    fn topics_on_the_target_end_as_they_are_where_that_is_wanted_also_those_that_appear_later() {
        let (id, selection) = ("m1".parse().unwrap(), Selection::default());
        let mut target = target(3);
        let there = source(&[("a", 1, &[("retention.ms", "77")]), ("b", 1, &[("segment.ms", "5")])]);
        (target.topics, target.configs) = (there.topics, there.configs);
        let input = |source| PlanInput {
            migration_id: &id,
            selection: &selection,
            lanes: 1,
            source,
            target: &target,
            on_config_drift: ConfigDrift::Keep,
        };
        let (before, after) =
            (source(&[("a", 1, &[("retention.ms", "1000")])]), source(&[("a", 1, &[]), ("b", 1, &[]), ("c", 1, &[])]));
        let plan = plan(&input(&before));
        assert_eq!(values(&plan.topics[0].final_configs), [("retention.ms", "77")]);
        assert_eq!(plan.topics[0].hold_configs["retention.ms"], "-1");
        let appeared = plan.scope(&[]).amend(&input(&after));
        let topics = appeared.unwrap().unwrap().topics;
        assert_eq!(values(&topics[0].final_configs), [("segment.ms", "5")]);
        assert_eq!(values(&topics[1].final_configs), []);
    }

    #[test]
    fn what_appears_later_is_added_in_new_lanes_and_nothing_else_changes() {
        let (id, selection, target) = ("m1".parse().unwrap(), Selection::default(), target(3));
        let before = source(&[("a", 2, &[]), ("b", 1, &[])]);
        let after = source(&[("a", 4, &[]), ("b", 1, &[]), ("c", 2, &[])]);
        let on_config_drift = ConfigDrift::OverwriteWithSource;
        let input = |source| PlanInput {
            migration_id: &id,
            selection: &selection,
            lanes: 2,
            source,
            target: &target,
            on_config_drift,
        };
        let plan = plan(&input(&before));
        let scope = plan.scope(&[]);
        assert_eq!(scope.amend(&input(&before)).unwrap(), None);
        let amendment = scope.amend(&input(&after)).unwrap().unwrap();
        assert_eq!((amendment.number, &amendment.adds_to), (1, &plan.digest()));
        assert_eq!(amendment.partitions, [AddedPartitions { topic: "a".into(), from: 2, to: 4 }]);
        assert_eq!(amendment.topics.len(), 1);
        let amended = plan.scope(std::slice::from_ref(&amendment));
        assert_eq!(amended.amend(&input(&after)).unwrap(), None);
        let mut in_lanes: Vec<TopicPartition> = amended.lanes.iter().flat_map(|l| l.partitions.clone()).collect();
        in_lanes.sort();
        assert_eq!(in_lanes, amended.partitions().collect::<Vec<_>>());
        assert_eq!(in_lanes.len(), 7);
        assert_eq!(amended.lanes[..plan.lanes.len()], plan.lanes[..]);
        // A topic that is gone stays as it was copied; nothing is taken away.
        assert_eq!(amended.amend(&input(&before)).unwrap(), None);
    }

    #[test]
    fn a_topic_made_anew_is_refused_by_its_identity() {
        let (id, selection, target) = ("m1".parse().unwrap(), Selection::default(), target(3));
        let mut source = source(&[("a", 2, &[])]);
        let scope = planned(&source, &target).scope(&[]);
        source.topics[0].id = Some(TopicId(uuid::Uuid::from_u128(99)));
        let on_config_drift = ConfigDrift::OverwriteWithSource;
        let (source, target) = (&source, &target);
        let input = PlanInput { migration_id: &id, selection: &selection, lanes: 2, source, target, on_config_drift };
        let refused = scope.amend(&input).unwrap_err();
        assert_eq!(refused.topic.as_str(), "a");
    }
}
