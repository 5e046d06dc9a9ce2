//! What stands in the way of a migration, and what its owner should know: all of it at once.
//!
//! A blocker is whatever could lose or double data, or would stop the migration half way; a warning is something that
//! may surprise; an info needs nothing. Each names its subject, what is wrong and how to put it right. Codes are those
//! of the runbook where it has one, from 20 on where it has none; a code is never given another meaning.
//!
//! Invariants: the same facts give the same findings in the same order; one finding a subject and cause, however many
//! partitions it has; nothing is asked or changed here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    codes::PRECHECK,
    limits::ANSWER_BYTES_MAX,
    plan::{MigrationPlan, PlannedTopic, Selection, SourceInventory, TargetInventory},
    ports::{ClusterError, GroupOffsets, MetadataMode, ObjectLock, StoreError, TopicDescription},
    rights::MissingRight,
    stateful::topics_of_state,
    types::{GroupId, Offset, Side, TopicName, TopicPartition},
};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The migration must not begin.
    Blocker,
    /// It may begin; somebody should know.
    Warning,
    /// For the record.
    Info,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Its code: stable, for runbooks and scripts.
    pub code: String,
    /// The cluster, topic or group it is about.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// How to put it right.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Blocker => "blocker",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        write!(f, "{} {severity}: {}: {}. {}.", self.code, self.subject, self.problem, self.remedy)
    }
}

/// Where a target partition's log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSpan {
    /// The first offset still there.
    pub start: Offset,
    /// The offset the next record gets.
    pub end: Offset,
}

/// Everything that precheck looks at.
#[derive(Debug, Clone)]
pub struct PrecheckFacts<'a> {
    /// Which topics are wanted.
    pub selection: &'a Selection,
    /// The source, or why it could not be read.
    pub source: Result<&'a SourceInventory, ClusterError>,
    /// The target, or why it could not be read.
    pub target: Result<&'a TargetInventory, ClusterError>,
    /// The plan; none where a cluster could not be read.
    pub plan: Option<&'a MigrationPlan>,
    /// Why segments cannot be stored and read back.
    pub segments_problem: Option<String>,
    /// Why evidence cannot be stored and read back.
    pub evidence_problem: Option<String>,
    /// Whether signed evidence is locked, or why that is not known; none where no evidence can be stored.
    pub evidence_lock: Option<Result<ObjectLock, StoreError>>,
    /// Why whoever lets producers stand still cannot be reached.
    pub freeze_problem: Option<String>,
    /// Batches in message format 0 or 1 that were seen, one a partition.
    pub old_format: BTreeMap<TopicPartition, Offset>,
    /// Partitions of the source that have a leader and could not be read all the same, and why.
    pub unread: BTreeMap<TopicPartition, String>,
    /// The logs of target topics that are in the plan and exist.
    pub target_logs: BTreeMap<TopicPartition, LogSpan>,
    /// Positions on the target of the groups in the plan.
    pub target_positions: BTreeMap<GroupId, GroupOffsets>,
    /// Those of them that this migration's ledger wrote.
    pub written_positions: BTreeMap<GroupId, GroupOffsets>,
    /// Topics that this migration has made on the target.
    pub made_topics: BTreeSet<TopicName>,
    /// Rights that our own user lacks.
    pub missing_rights: Vec<MissingRight>,
}

/// Whether the migration must not begin.
pub fn blocks(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Blocker)
}

/// Everything there is to say about these facts, blockers first.
pub fn decide(facts: &PrecheckFacts<'_>) -> Vec<Finding> {
    let mut found = Findings::default();
    reach(facts, &mut found);
    if let Ok(source) = &facts.source {
        source_cluster(source, &mut found);
        named_topics(facts.selection, source, &mut found);
    }
    if let Ok(target) = &facts.target {
        target_cluster(target, &mut found);
    }
    if let (Ok(source), Ok(target)) = (&facts.source, &facts.target)
        && source.cluster.cluster_id == target.cluster.cluster_id
    {
        found.blocker(
            "B20",
            "clusters",
            format!("source and target are the same cluster ({})", source.cluster.cluster_id),
            "give the target's own bootstrap servers",
        );
    }
    if let (Some(plan), Ok(source), Ok(target)) = (facts.plan, &facts.source, &facts.target) {
        source_topics(plan, source, &mut found);
        target_topics(plan, target, facts, &mut found);
        message_sizes(plan, target, &mut found);
        groups(plan, target, facts, &mut found);
        for_the_record(plan, &mut found);
    }
    old_formats(&facts.old_format, &mut found);
    for (partition, why) in &facts.unread {
        found.blocker(
            "B29",
            &partition.topic,
            format!("partition {} on the source cannot be read: {why}", partition.partition),
            "see that the brokers that hold it are well, then run precheck again",
        );
    }
    found.0.sort();
    found.0.dedup();
    found.0
}

#[derive(Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        severity: Severity,
        code: &str,
        subject: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        debug_assert!(PRECHECK.iter().any(|(known, _)| *known == code), "{code} is not in the table of codes");
        let (code, subject) = (code.to_owned(), subject.to_string());
        self.0.push(Finding { severity, code, subject, problem: problem.into(), remedy: remedy.into() });
    }

    pub(crate) fn blocker(
        &mut self,
        code: &str,
        subject: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Blocker, code, subject, problem, remedy);
    }

    pub(crate) fn warning(
        &mut self,
        code: &str,
        subject: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Warning, code, subject, problem, remedy);
    }

    pub(crate) fn info(
        &mut self,
        code: &str,
        subject: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Info, code, subject, problem, remedy);
    }
}

fn reach(facts: &PrecheckFacts<'_>, found: &mut Findings) {
    const BROKERS: &str = "check bootstrap_servers, security groups, auth and tls of this cluster";
    // What our user may not do is said more clearly below than by the first call that was refused.
    let explained = |side| facts.missing_rights.iter().any(|missing| missing.side == side);
    let unread = |side, why: &ClusterError, found: &mut Findings| match (side, why) {
        (Side::Source, ClusterError::NotOffered { detail, .. }) => too_old_source(detail, found),
        (Side::Target, ClusterError::NotOffered { detail, .. }) => too_old_target(detail, found),
        _ if explained(side) => {}
        (Side::Source, why) => found.blocker("B09", side, format!("its brokers cannot be read: {why}"), BROKERS),
        (Side::Target, why) => found.blocker("B10", side, format!("its brokers cannot be read: {why}"), BROKERS),
    };
    if let Err(why) = &facts.source {
        unread(Side::Source, why, found);
    }
    if let Err(why) = &facts.target {
        unread(Side::Target, why, found);
    }
    const STORE: &str = "check that it exists, has room, and may be written to by this user";
    if let Some(why) = &facts.segments_problem {
        found.blocker("B07", "backup", format!("segments cannot be stored and read back: {why}"), STORE);
    }
    if let Some(why) = &facts.evidence_problem {
        found.blocker("B08", "evidence", format!("evidence cannot be stored and read back: {why}"), STORE);
    }
    match &facts.evidence_lock {
        None | Some(Ok(ObjectLock::On | ObjectLock::NotWanted)) => {}
        Some(Ok(ObjectLock::Missing)) => found.warning(
            "W28",
            "evidence",
            "signed evidence can be deleted: its bucket has no Object Lock",
            "make the bucket with Object Lock, or name another (evidence.s3_bucket)",
        ),
        // No more than a warning, although signing asks the same and fails where it is refused: that comes last, loses
        // nothing, and goes on once the right is there.
        Some(Err(why)) => found.warning(
            "W28",
            "evidence",
            format!("whether its bucket has Object Lock cannot be asked: {why}"),
            "see that whoever signs may ask it: before it is known, no signed evidence is stored",
        ),
    }
    if let Some(why) = &facts.freeze_problem {
        found.warning(
            "W21",
            "cutover.producer_freeze_webhook",
            format!("it cannot be reached ({why})"),
            "see that it runs and can be reached from here before the cutover: without it no producer is brought to \
             stand still; whether it does what it is asked shows at the cutover only",
        );
    }
    for missing in &facts.missing_rights {
        found.blocker("B31", missing.side, missing.problem(), missing.remedy());
    }
}

/// Fetch 12 came with Kafka 2.7 and is what every 2.8 offers: the epochs in it tell when records were replaced.
const SOURCE_FETCH_MIN: i16 = 12;
/// Fetch 16 came with Kafka 3.7, the first with KRaft on MSK.
const TARGET_FETCH_MIN: i16 = 16;

fn too_old_source(sign: &str, found: &mut Findings) {
    found.blocker("B21", Side::Source, format!("it is older than Kafka 2.8 ({sign})"), "upgrade it to 2.8 or later");
}

fn too_old_target(sign: &str, found: &mut Findings) {
    found.blocker(
        "B22",
        Side::Target,
        format!("it is older than Kafka 3.7 ({sign})"),
        "make the target with 3.7 or later",
    );
}

fn source_cluster(source: &SourceInventory, found: &mut Findings) {
    match source.cluster.metadata_mode {
        MetadataMode::ZooKeeper => {}
        MetadataMode::Kraft => found.blocker(
            "B03",
            Side::Source,
            "it is not in ZooKeeper mode but in KRaft mode",
            "check that source and target are not exchanged in the configuration",
        ),
        MetadataMode::Unknown => found.blocker(
            "B03",
            Side::Source,
            "its brokers do not tell whether it is in ZooKeeper mode",
            "grant our user Describe on the cluster, and check that no conversion is under way",
        ),
    }
    if source.cluster.fetch_version_max < SOURCE_FETCH_MIN {
        too_old_source(&format!("Fetch version {}", source.cluster.fetch_version_max), found);
    }
}

fn target_cluster(target: &TargetInventory, found: &mut Findings) {
    match target.cluster.metadata_mode {
        MetadataMode::Kraft => {}
        MetadataMode::ZooKeeper => found.blocker(
            "B04",
            Side::Target,
            "it is not in KRaft mode but in ZooKeeper mode",
            "make a target in KRaft mode, or check that source and target are not exchanged",
        ),
        MetadataMode::Unknown => found.blocker(
            "B04",
            Side::Target,
            "its brokers do not tell whether it is in KRaft mode",
            "grant our user Describe on the cluster",
        ),
    }
    if target.cluster.fetch_version_max < TARGET_FETCH_MIN {
        too_old_target(&format!("Fetch version {}", target.cluster.fetch_version_max), found);
    }
}

fn named_topics(selection: &Selection, source: &SourceInventory, found: &mut Findings) {
    let names: BTreeSet<&str> = source.topics.iter().map(|topic| topic.name.as_str()).collect();
    for pattern in &selection.include {
        if !pattern.contains('*') && !names.contains(pattern.as_str()) {
            found.blocker(
                "B30",
                pattern,
                "topics.include names it and the source does not have it",
                "correct the name, or leave it out",
            );
        }
    }
}

fn source_topics(plan: &MigrationPlan, source: &SourceInventory, found: &mut Findings) {
    if plan.topics.is_empty() {
        found.blocker("B32", Side::Source, "no topic is left to migrate", "check topics.include and topics.exclude");
    }
    let described: BTreeMap<&TopicName, &TopicDescription> = source.topics.iter().map(|t| (&t.name, t)).collect();
    for topic in plan.topics.iter().filter_map(|topic| described.get(&topic.name)) {
        let leaderless: Vec<i32> = topic.partitions.iter().filter(|p| p.leader.is_none()).map(|p| p.id.0).collect();
        if !leaderless.is_empty() {
            found.blocker(
                "B29",
                &topic.name,
                format!("{} on the source without a leader: they cannot be read", partitions(&leaderless)),
                "bring the brokers that hold them back",
            );
        }
        let behind: Vec<i32> =
            topic.partitions.iter().filter(|p| p.in_sync.len() < p.replicas.len()).map(|p| p.id.0).collect();
        if !behind.is_empty() {
            found.warning(
                "W22",
                &topic.name,
                format!("{} on the source with replicas that are not in sync", partitions(&behind)),
                "let the source recover first: a leader that fails now may lose records",
            );
        }
    }
    for topic in &plan.topics {
        for (setting, reason) in &topic.settings_left_out {
            found.warning(
                "W20",
                &topic.name,
                format!("its setting {setting} is not carried over as it is: {reason}"),
                "nothing, if that is as you want it",
            );
        }
        if topic.max_message_bytes > ANSWER_BYTES_MAX as i64 / 2 {
            found.blocker(
                "B33",
                &topic.name,
                format!(
                    "it takes batches of up to {}, more than the {} that Krossing handles",
                    bytes(topic.max_message_bytes.unsigned_abs()),
                    bytes(ANSWER_BYTES_MAX as u64 / 2)
                ),
                "lower max.message.bytes on the source if no batch is as large, or leave the topic out",
            );
        }
    }
}

fn target_topics(plan: &MigrationPlan, target: &TargetInventory, facts: &PrecheckFacts<'_>, found: &mut Findings) {
    let brokers = target.cluster.brokers.len();
    for topic in &plan.topics {
        let replicas = usize::try_from(topic.replication_factor).unwrap_or(0);
        if replicas > brokers {
            found.blocker(
                "B26",
                &topic.name,
                format!("it has {replicas} replicas and the target only {brokers} brokers"),
                "add brokers to the target, or leave the topic out",
            );
        }
    }
    let existing: BTreeMap<&TopicName, &TopicDescription> = target.topics.iter().map(|t| (&t.name, t)).collect();
    for (topic, there) in plan.topics.iter().filter_map(|t| existing.get(&t.name).map(|there| (t, there))) {
        if !facts.made_topics.contains(&topic.name) {
            target_topic(topic, there, &facts.target_logs, found);
        }
    }
}

fn target_topic(
    topic: &PlannedTopic,
    there: &TopicDescription,
    logs: &BTreeMap<TopicPartition, LogSpan>,
    found: &mut Findings,
) {
    if there.partitions.len() != usize::try_from(topic.partitions).unwrap_or(0) {
        found.blocker(
            "B25",
            &topic.name,
            format!(
                "it exists on the target with {} partitions where the source has {}",
                there.partitions.len(),
                topic.partitions
            ),
            "delete it on the target, or leave it out",
        );
    }
    let of_topic = || logs.iter().filter(|(partition, _)| partition.topic == topic.name);
    // A log that was emptied is not empty: offsets would not begin at 0, and somebody has used it.
    let used: Vec<i32> = of_topic().filter(|(_, log)| log.end > 0).map(|(p, _)| p.partition.0).collect();
    let unknown = there.partitions.len().saturating_sub(of_topic().count());
    if !used.is_empty() {
        found.blocker(
            "B24",
            &topic.name,
            format!("it exists on the target and has been written to: {}", partitions(&used)),
            "delete it on the target if its records are not needed, or leave it out",
        );
    } else if unknown > 0 {
        found.blocker(
            "B24",
            &topic.name,
            format!("it exists on the target and {unknown} of its partitions do not tell whether they are empty"),
            "bring the target's brokers back, or delete the topic there",
        );
    } else {
        found.info(
            "I22",
            &topic.name,
            "it exists on the target and is empty",
            "nothing: it is used, with the settings that topology.on_config_drift says",
        );
    }
}

/// What a request adds to the batch it carries: names of a topic and a client, and headers.
const REQUEST_OVERHEAD_BYTES: i64 = 64 * 1024;
/// `socket.request.max.bytes` where nobody has set it.
const SOCKET_REQUEST_DEFAULT_BYTES: i64 = 100 * 1024 * 1024;

/// A topic's own limit is raised on the target; what limits a batch beyond that is how large a request may be.
fn message_sizes(plan: &MigrationPlan, target: &TargetInventory, found: &mut Findings) {
    let told = target.broker_configs.get("socket.request.max.bytes").and_then(|entry| entry.value.as_ref());
    let told: Option<i64> = told.and_then(|value| value.parse().ok());
    let limit = told.unwrap_or(SOCKET_REQUEST_DEFAULT_BYTES) - REQUEST_OVERHEAD_BYTES;
    for topic in plan.topics.iter().filter(|topic| topic.max_message_bytes > limit) {
        let largest = bytes(topic.max_message_bytes.unsigned_abs());
        match told {
            Some(told) => found.blocker(
                "B11",
                &topic.name,
                format!(
                    "it takes batches of up to {largest}, and the target requests of up to {}",
                    bytes(told.unsigned_abs())
                ),
                "raise socket.request.max.bytes on the target's brokers",
            ),
            None => found.warning(
                "W04",
                &topic.name,
                format!("it takes batches of up to {largest}, and the target does not tell how large a request may be"),
                "see that socket.request.max.bytes of the target's brokers is larger",
            ),
        }
    }
}

fn groups(plan: &MigrationPlan, target: &TargetInventory, facts: &PrecheckFacts<'_>, found: &mut Findings) {
    let planned: BTreeSet<&GroupId> = plan.groups.iter().map(|group| &group.id).collect();
    for group in target.groups.iter().filter(|group| planned.contains(&group.id) && group.members > 0) {
        found.blocker(
            "B27",
            &group.id,
            format!("it already has {} members on the target", group.members),
            "stop them until the clients are switched: a group must not run on both sides",
        );
    }
    let topics: BTreeSet<&TopicName> = plan.topics.iter().map(|topic| &topic.name).collect();
    let nothing = GroupOffsets::new();
    for (group, positions) in &facts.target_positions {
        let written = facts.written_positions.get(group).unwrap_or(&nothing);
        let foreign = |(partition, position): &(&TopicPartition, &crate::ports::CommittedOffset)| {
            topics.contains(&partition.topic)
                && written.get(*partition).is_none_or(|ours| ours.offset != position.offset)
        };
        let there: BTreeSet<&TopicName> = positions.iter().filter(foreign).map(|(p, _)| &p.topic).collect();
        if !there.is_empty() {
            let names: Vec<&str> = there.iter().map(|topic| topic.as_str()).collect();
            found.blocker(
                "B28",
                group,
                format!("it has positions on the target that this migration did not write: {}", few(&names)),
                "delete the group's offsets for these topics on the target, or leave the topics out",
            );
        }
    }
    for group in &plan.groups {
        if let Some(kind) = group.keeps_state {
            let (problem, remedy) = kind.texts();
            found.info("I21", &group.id, problem, remedy);
        }
    }
    let known: BTreeSet<&str> = plan.groups.iter().map(|group| group.id.as_str()).collect();
    for (topic, kind) in topics_of_state(&topics, &known) {
        let (problem, remedy) = kind.texts();
        found.info("I21", format!("topic {topic}"), problem, remedy);
    }
}

fn for_the_record(plan: &MigrationPlan, found: &mut Findings) {
    let with_replicas = plan.topics.iter().fold(0u64, |sum, topic| {
        sum.saturating_add(topic.bytes.saturating_mul(u64::try_from(topic.replication_factor).unwrap_or(1)))
    });
    found.info(
        "I20",
        Side::Target,
        format!(
            "the copy takes about {} on its disks ({} once), and as much again in segments; until it is finalized \
             nothing is deleted there, whatever the topics' retention",
            bytes(with_replicas),
            bytes(plan.bytes)
        ),
        "see that there is room for it and for what producers write meanwhile",
    );
    if !plan.topics_left_out.is_empty() {
        let names: Vec<&str> = plan.topics_left_out.iter().map(|left| left.name.as_str()).collect();
        found.info(
            "I23",
            Side::Source,
            format!("topics that stay behind: {}", few(&names)),
            "the plan says why for each",
        );
    }
    if !plan.scram_users.is_empty() {
        let names: Vec<&str> = plan.scram_users.iter().map(String::as_str).collect();
        found.info(
            "I25",
            Side::Target,
            format!("SCRAM users whose passwords cannot be read from the source: {}", few(&names)),
            "make them on the target before clients switch",
        );
    }
}

fn old_formats(seen: &BTreeMap<TopicPartition, Offset>, found: &mut Findings) {
    let mut topics: BTreeMap<&TopicName, Vec<(i32, Offset)>> = BTreeMap::new();
    for (partition, offset) in seen {
        topics.entry(&partition.topic).or_default().push((partition.partition.0, *offset));
    }
    for (topic, places) in topics {
        let numbers: Vec<i32> = places.iter().map(|(partition, _)| *partition).collect();
        let (first, offset) = places[0];
        found.blocker(
            "B23",
            topic,
            format!(
                "it holds records in message format 0 or 1 ({}; the first at offset {offset} of partition {first})",
                partitions(&numbers)
            ),
            "have them written anew in format 2 (copy the topic on the source), let retention remove them, or leave the \
             topic out",
        );
    }
}

// ── Words ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// How many names a sentence lists before it counts the rest.
const NAMES_MAX: usize = 5;

fn partitions(numbers: &[i32]) -> String {
    let shown: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    let word = if numbers.len() == 1 { "partition" } else { "partitions" };
    format!("{word} {}", few(&shown))
}

pub(crate) fn few(names: &[&str]) -> String {
    let shown = names[..names.len().min(NAMES_MAX)].join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (number, 0);
    // One decimal is kept by counting tenths.
    let mut tenths = number.saturating_mul(10);
    while value >= 1024 && unit + 1 < UNITS.len() {
        value /= 1024;
        tenths /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) }
}

#[cfg(test)]
mod tests;
