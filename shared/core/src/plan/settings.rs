//! Topics and their settings: what a topic is made with, and what it ends with.
//!
//! *Hold* settings keep the target from losing or changing what was copied; *final* settings make every setting have
//! the effect it has on the source.

use std::collections::{BTreeMap, BTreeSet};

use super::{PlanInput, PlannedTopic, TargetInventory};
use crate::{
    config::ConfigDrift,
    ports::{ConfigOrigin, Configs, TopicDescription},
    types::TopicPartition,
};

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

pub(super) fn plan_topic(topic: &TopicDescription, input: &PlanInput<'_>) -> PlannedTopic {
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
