//! Topics, access rules and quotas on the target: made and changed until they are what the plan says, and read back.
//!
//! Every function here compares what is with what is wanted and changes only the difference, so that a repetition, and a
//! process that died half way, come to the same end. Nothing is believed because a broker answered well: the answer of
//! a controller is not yet what brokers know, so that settings and partition counts are read until they are as wanted,
//! within a bound.
//!
//! Invariants: a topic is never deleted; partitions are never taken away; while anything may still be copied only the
//! hold settings are set; an access rule is never taken away.
//!
//! Does not: judge what stands in the way (precheck does), or journal.

mod access;

use std::collections::{BTreeMap, BTreeSet};

use krossing_core::{
    KafkaCode, TopicName,
    config::ConfigDrift,
    limits::{RETRY_PAUSE, RETRY_PAUSE_MAX, TOPICS_READ_BACK_WAIT_MAX},
    plan::PlannedTopic,
    ports::{Clock, ConfigOrigin, Configs, Inventory, NewTopic, Ports, TopicAdmin},
};
use krossing_runtime::migration::{ForStep, Migration, MigrationError, MigrationResult};
use serde::Serialize;

pub use access::{AclReport, QuotaReport, acl_record, acls_made, make_acls, set_quotas};

/// What was done, for the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TopologyReport {
    /// Topics that were made.
    pub topics_created: usize,
    /// Topics that were there and were given more partitions.
    pub topics_extended: usize,
    /// Topics whose settings were changed.
    pub topics_altered: usize,
    /// Topics that were as wanted from the beginning.
    pub topics_unchanged: usize,
}

/// Changes of one topic's settings: a value, or none to take the setting back.
type Changes = BTreeMap<String, Option<String>>;

/// Makes the topics with their hold settings. A topic that is there already gets the settings and partitions it lacks.
pub async fn create<P: Ports>(migration: &Migration<P>, topics: &[PlannedTopic]) -> MigrationResult<TopologyReport> {
    let mut report = TopologyReport::default();
    let existing = partition_counts(migration, topics).await?;
    let missing: Vec<NewTopic> = topics.iter().filter(|t| !existing.contains_key(&t.name)).map(new_topic).collect();
    if !missing.is_empty() {
        let answers = migration.target.create_topics(&missing).await.during("make the topics on the target")?;
        report.topics_created = answers.values().filter(|answer| answer.is_ok()).count();
        // A topic that is there now was made by a request whose answer was lost.
        refuse_failures("make topic", answers, &[KafkaCode::TOPIC_ALREADY_EXISTS])?;
    }
    let mut extended = BTreeSet::new();
    for topic in topics {
        let Some(&found) = existing.get(&topic.name) else { continue };
        if found > topic.partitions {
            return Err(too_many_partitions(topic, found));
        }
        if found < topic.partitions {
            let grown = migration.target.create_partitions(&topic.name, topic.partitions).await;
            grown.during("add partitions to a topic of the target")?;
            extended.insert(topic.name.clone());
        }
    }
    report.topics_extended = extended.len();
    read_back_partitions(migration, topics).await?;
    let mut hold: BTreeMap<TopicName, Changes> =
        topics.iter().map(|topic| (topic.name.clone(), hold_changes(topic))).collect();
    let drift = migration.config.topology.on_config_drift;
    if drift != ConfigDrift::Keep {
        let own = own_settings(migration, existing.keys()).await?;
        if drift == ConfigDrift::Refuse {
            refuse_foreign_settings(topics, &own)?;
        }
        for (topic, settings) in own {
            let Some(changes) = hold.get_mut(&topic) else { continue };
            settings.into_iter().for_each(|setting| _ = changes.entry(setting).or_insert(None));
        }
    }
    let altered = set_configs(migration, &hold).await?;
    report.topics_altered = altered.len();
    let touched = |topic: &&PlannedTopic| {
        !existing.contains_key(&topic.name) || extended.contains(&topic.name) || altered.contains(&topic.name)
    };
    report.topics_unchanged = topics.len() - topics.iter().filter(touched).count();
    Ok(report)
}

/// Gives compacted topics their policy back, before clients switch: nothing can be compacted yet.
pub async fn compact_before_ready<P: Ports>(
    migration: &Migration<P>,
    topics: &[PlannedTopic],
) -> MigrationResult<TopologyReport> {
    apply(migration, topics, PlannedTopic::ready_changes).await
}

/// Sets the planned values, and takes back what was only for holding: from here on the target keeps its topics as the
/// source did.
pub async fn apply_final<P: Ports>(
    migration: &Migration<P>,
    topics: &[PlannedTopic],
) -> MigrationResult<TopologyReport> {
    apply(migration, topics, PlannedTopic::final_changes).await
}

async fn apply<P: Ports>(
    migration: &Migration<P>,
    topics: &[PlannedTopic],
    changes: impl Fn(&PlannedTopic) -> Changes,
) -> MigrationResult<TopologyReport> {
    let wanted: BTreeMap<_, _> = topics.iter().map(|topic| (topic.name.clone(), changes(topic))).collect();
    let altered = set_configs(migration, &wanted).await?;
    let topics_unchanged = topics.len() - altered.len();
    Ok(TopologyReport { topics_altered: altered.len(), topics_unchanged, ..TopologyReport::default() })
}

fn new_topic(topic: &PlannedTopic) -> NewTopic {
    NewTopic {
        name: topic.name.clone(),
        partitions: topic.partitions,
        replication_factor: topic.replication_factor,
        configs: topic.hold_configs.clone(),
    }
}

fn hold_changes(topic: &PlannedTopic) -> Changes {
    topic.hold_configs.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect()
}

// ── Partitions ─────────────────────────────────────────────────────────────────────────────────────────────────────

async fn partition_counts<P: Ports>(
    migration: &Migration<P>,
    topics: &[PlannedTopic],
) -> MigrationResult<BTreeMap<TopicName, i32>> {
    let names: Vec<TopicName> = topics.iter().map(|topic| topic.name.clone()).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let described = migration.target.describe_topics(Some(&names)).await.during("describe the topics of the target")?;
    let count = |partitions: usize| i32::try_from(partitions).unwrap_or(i32::MAX);
    Ok(described.into_iter().map(|topic| (topic.name, count(topic.partitions.len()))).collect())
}

fn too_many_partitions(topic: &PlannedTopic, found: i32) -> MigrationError {
    MigrationError::Refused {
        sentence: format!(
            "topic {} has {found} partitions on the target and {} on the source: keys would be found in other \
             partitions. Delete it on the target if it is not needed there, then resume",
            topic.name, topic.partitions
        ),
    }
}

/// Waits until brokers know every topic with the number of partitions it must have.
async fn read_back_partitions<P: Ports>(migration: &Migration<P>, topics: &[PlannedTopic]) -> MigrationResult<()> {
    until_read_back(migration, || async {
        let found = partition_counts(migration, topics).await?;
        let different = topics.iter().find(|topic| found.get(&topic.name) != Some(&topic.partitions));
        Ok(different.map(|topic| {
            let has = found.get(&topic.name).map_or("none".to_owned(), i32::to_string);
            let detail = format!("{} partitions were wanted, and there are {has}", topic.partitions);
            Difference { what: format!("topic {}", topic.name), detail }
        }))
    })
    .await
}

// ── Settings ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Changes what is not yet as wanted, and reads it back. Answers the topics that were changed.
async fn set_configs<P: Ports>(
    migration: &Migration<P>,
    wanted: &BTreeMap<TopicName, Changes>,
) -> MigrationResult<BTreeSet<TopicName>> {
    let pending = pending_changes(migration, wanted).await?;
    if pending.is_empty() {
        return Ok(BTreeSet::new());
    }
    let answers = migration.target.alter_topic_configs(&pending).await.during("change topic settings on the target")?;
    refuse_failures("change the settings of topic", answers, &[])?;
    until_read_back(migration, || async {
        let still = pending_changes(migration, wanted).await?;
        Ok(still.into_iter().next().map(|(topic, changes)| {
            let names: Vec<_> = changes.keys().map(String::as_str).collect();
            let detail = format!("the broker shows another value for {}", names.join(", "));
            Difference { what: format!("the settings of topic {topic}"), detail }
        }))
    })
    .await?;
    Ok(pending.into_keys().collect())
}

/// The settings that are set on topics themselves. One that was there before may have some that the source's has not.
async fn own_settings<P: Ports>(
    migration: &Migration<P>,
    existing: impl Iterator<Item = &TopicName>,
) -> MigrationResult<BTreeMap<TopicName, Vec<String>>> {
    let names: Vec<TopicName> = existing.cloned().collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let current = migration.target.topic_configs(&names).await.during("read the topic settings of the target")?;
    let own = |configs: Configs| {
        let own = configs.into_iter().filter(|(_, entry)| entry.origin == ConfigOrigin::Topic);
        own.map(|(setting, _)| setting).collect()
    };
    Ok(current.into_iter().map(|(name, configs)| (name, own(configs))).collect())
}

/// Precheck has refused what it saw; here it is what somebody made since, or a topic that appeared later.
fn refuse_foreign_settings(topics: &[PlannedTopic], own: &BTreeMap<TopicName, Vec<String>>) -> MigrationResult<()> {
    let foreign: Vec<String> = topics
        .iter()
        .filter_map(|topic| {
            let ours = topic.final_changes();
            let settings = own.get(&topic.name)?.iter().filter(|setting| !ours.contains_key(*setting));
            let settings: Vec<&str> = settings.map(String::as_str).collect();
            (!settings.is_empty()).then(|| format!("{} ({})", topic.name, settings.join(", ")))
        })
        .collect();
    if foreign.is_empty() {
        return Ok(());
    }
    Err(MigrationError::Refused {
        sentence: format!(
            "topics exist on the target with settings that the source's do not have, and topology.on_config_drift is \
             refuse: {}. Take them back there, or set topology.on_config_drift to overwrite_with_source or keep, then \
             resume",
            foreign.join("; ")
        ),
    })
}

async fn pending_changes<P: Ports>(
    migration: &Migration<P>,
    wanted: &BTreeMap<TopicName, Changes>,
) -> MigrationResult<BTreeMap<TopicName, Changes>> {
    let names: Vec<TopicName> =
        wanted.iter().filter(|(_, changes)| !changes.is_empty()).map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let current = migration.target.topic_configs(&names).await.during("read the topic settings of the target")?;
    let unset = Configs::new();
    let mut pending = BTreeMap::new();
    for name in names {
        let left = difference(current.get(&name).unwrap_or(&unset), &wanted[&name]);
        if !left.is_empty() {
            pending.insert(name, left);
        }
    }
    Ok(pending)
}

/// What of `wanted` is not so yet. A wanted value must be set on the topic itself: one that comes from the broker could
/// change with the broker.
fn difference(current: &Configs, wanted: &Changes) -> Changes {
    let differs = |name: &String, value: &Option<String>| {
        let own = current.get(name).filter(|entry| entry.origin == ConfigOrigin::Topic);
        match (own, value) {
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
            (Some(entry), Some(value)) => !entry.value.as_deref().is_some_and(|found| same_value(found, value)),
        }
    };
    wanted.iter().filter(|(name, value)| differs(name, value)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// Brokers may spell a list or a fraction differently from how it was set.
fn same_value(found: &str, wanted: &str) -> bool {
    let items = |text: &str| text.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>();
    let same_number = || match (found.parse::<f64>(), wanted.parse::<f64>()) {
        // Whole numbers beyond 2^53 are not told apart as fractions.
        (Ok(found_number), Ok(wanted_number)) if found.contains('.') || wanted.contains('.') => {
            found_number == wanted_number
        }
        _ => false,
    };
    found == wanted || items(found) == items(wanted) || same_number()
}

// ── Answers ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn refuse_failures(
    attempt: &str,
    answers: BTreeMap<TopicName, Result<(), (KafkaCode, String)>>,
    harmless: &[KafkaCode],
) -> MigrationResult<()> {
    let failures = answers.into_iter().filter_map(|(topic, answer)| {
        let (code, detail) = answer.err().filter(|(code, _)| !harmless.contains(code))?;
        Some((topic.to_string(), code, detail))
    });
    refuse(attempt, failures)
}

/// One error that names everything that was refused; none where nothing was.
fn refuse(attempt: &str, refusals: impl Iterator<Item = (String, KafkaCode, String)>) -> MigrationResult<()> {
    let failures: Vec<String> = refusals
        .map(|(what, code, detail)| {
            let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
            format!("could not {attempt} {what} on the target: {code}{detail}")
        })
        .collect();
    if failures.is_empty() { Ok(()) } else { Err(MigrationError::Refused { sentence: failures.join("; ") }) }
}

struct Difference {
    what: String,
    detail: String,
}

/// Repeats `look` until it finds no difference, or the bound is reached.
async fn until_read_back<P, F>(migration: &Migration<P>, look: impl Fn() -> F) -> MigrationResult<()>
where
    P: Ports,
    F: Future<Output = MigrationResult<Option<Difference>>>,
{
    let deadline = migration.clock.now() + TOPICS_READ_BACK_WAIT_MAX;
    let mut pause = RETRY_PAUSE;
    while let Some(Difference { what, detail }) = look().await? {
        if migration.clock.now() >= deadline {
            return Err(MigrationError::NotReadBack { what, detail });
        }
        migration.clock.sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
