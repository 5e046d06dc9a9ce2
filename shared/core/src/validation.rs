//! Validation: what is compared once the clients have switched, and what a difference means.
//!
//! The checks are judged here and read elsewhere: a judgement is a function of what both clusters and the ledger say.
//! The source may have been compacted and trimmed since it was copied, so that nothing is compared by spans of offsets
//! or by numbers counted again on the source; what the source still holds is compared through the offset map, and what
//! it no longer holds must be explained (trimmed, or superseded).
//!
//! Invariants: a check that could not look says so as a failure, never as a success; every failure names its subject,
//! what is wrong and what to do; the same facts give the same report.
//!
//! Does not: read anything, or decide what follows from a failed check.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    client_switch::ClientSwitchRecord,
    cutover::CutoverReport,
    limits::FINDINGS_SHOWN_MAX,
    offset_map::MapView,
    plan::PlannedTopic,
    ports::{CommittedOffset, GroupOffsets, TopicDescription, VisibleRecord},
    progress::PartitionProgress,
    types::{GroupId, MigrationId, Offset, Side, SourceOffset, TargetOffset, TopicPartition},
};

/// The version of [`ValidationReport`] that this code writes.
pub const VALIDATION_REPORT_VERSION: u32 = 1;

/// Where the report of the last validation is stored.
pub fn validation_report_key(migration: &MigrationId) -> String {
    format!("{migration}/validation-report.json")
}

// ── The report ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// How a check ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// Nothing is wrong.
    #[default]
    Passed,
    /// Nothing is wrong, and somebody has to know something.
    Warning,
    /// Something is wrong, or could not be looked at.
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Passed => "PASSED",
            Outcome::Warning => "WARNING",
            Outcome::Failed => "FAILED",
        })
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// On what: a topic, a partition, a group and partition.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// What one check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// How it ended.
    pub outcome: Outcome,
    /// How many topics, partitions, records, positions or keys were looked at.
    pub checked: u64,
    /// How many of them are not as they must be.
    pub failed: u64,
    /// How many the source no longer holds, so that nothing could be compared.
    pub gone_from_source: u64,
    /// The failures, sorted, as far as [`FINDINGS_SHOWN_MAX`] allows.
    pub findings: Vec<Finding>,
    /// What is no failure and has to be known, sorted, within the same bound.
    pub warnings: Vec<String>,
    /// What is worth knowing, sorted, within the same bound.
    pub notes: Vec<String>,
}

impl CheckReport {
    /// Counts a failure and says it.
    pub fn fail(&mut self, subject: impl fmt::Display, problem: impl Into<String>, remedy: impl Into<String>) {
        self.outcome = Outcome::Failed;
        self.failed += 1;
        if self.findings.len() < FINDINGS_SHOWN_MAX {
            let finding = Finding { subject: subject.to_string(), problem: problem.into(), remedy: remedy.into() };
            self.findings.push(finding);
        }
    }

    /// Says something that is no failure and that somebody has to know.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.outcome = self.outcome.max(Outcome::Warning);
        if self.warnings.len() < FINDINGS_SHOWN_MAX {
            self.warnings.push(warning.into());
        }
    }

    /// Says something that is worth knowing.
    pub fn note(&mut self, note: impl Into<String>) {
        if self.notes.len() < FINDINGS_SHOWN_MAX {
            self.notes.push(note.into());
        }
    }

    /// Takes in what the same check found elsewhere.
    pub fn merge(&mut self, other: CheckReport) {
        self.outcome = self.outcome.max(other.outcome);
        self.checked += other.checked;
        self.failed += other.failed;
        self.gone_from_source += other.gone_from_source;
        // Merged in any order, the report is the same as long as all findings are shown.
        self.findings.extend(other.findings);
        self.findings.sort();
        self.findings.truncate(FINDINGS_SHOWN_MAX);
        self.warnings.extend(other.warnings);
        self.warnings.sort();
        self.warnings.truncate(FINDINGS_SHOWN_MAX);
        self.notes.extend(other.notes);
        self.notes.sort();
        self.notes.truncate(FINDINGS_SHOWN_MAX);
    }
}

/// One partition, as the checks saw it that go by partitions: counts, samples, next records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Which.
    pub partition: TopicPartition,
    /// How these checks ended for it.
    pub outcome: Outcome,
    /// How many records were copied.
    pub records_copied: i64,
    /// The first offset on the source behind what was to be copied.
    pub source_closed_from: SourceOffset,
    /// The offset after the closing fence on the target.
    pub target_boundary: TargetOffset,
    /// The records that were compared byte by byte, by their offsets on the source: one out of each of as many equal
    /// parts of the partition, chosen by a hash of the migration's name. The first
    /// [`SAMPLES_SHOWN_MAX`](crate::limits::SAMPLES_SHOWN_MAX).
    pub sampled_source_offsets: Vec<SourceOffset>,
}

/// What validation found, check by check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidationReport {
    /// Of this format.
    pub version: u32,
    /// The migration.
    pub migration_id: MigrationId,
    /// When it was made, in milliseconds since 1970.
    pub at_unix_ms: i64,
    /// The worst of all checks.
    pub overall: Outcome,
    /// How many partitions the migration has.
    pub partitions: u64,
    /// Each of them that could be looked at, sorted.
    pub by_partition: Vec<PartitionReport>,
    /// Topics are on both sides, with the planned identity and number of partitions.
    pub topic_parity: CheckReport,
    /// The target holds as many records as were copied, from its first to its boundary.
    pub counts_and_offsets: CheckReport,
    /// Sampled records are equal on both sides.
    pub spot_check_records: CheckReport,
    /// Closing marker and last fence are where the cutover saw them, and nothing follows the marker.
    pub sentinel_presence: CheckReport,
    /// What was committed for each group is what the target has, unless the group has moved on there.
    pub consumer_group_reconciliation: CheckReport,
    /// Each group goes on at the record at which it would have gone on.
    pub next_record: CheckReport,
    /// Compacted topics have the same latest value for each key.
    pub compacted_keys: CheckReport,
}

impl ValidationReport {
    /// The checks with their names, in the order of the report.
    pub fn checks(&self) -> [(&'static str, &CheckReport); 7] {
        [
            ("topic_parity", &self.topic_parity),
            ("counts_and_offsets", &self.counts_and_offsets),
            ("spot_check_records", &self.spot_check_records),
            ("sentinel_presence", &self.sentinel_presence),
            ("consumer_group_reconciliation", &self.consumer_group_reconciliation),
            ("next_record", &self.next_record),
            ("compacted_keys", &self.compacted_keys),
        ]
    }

    /// The names of the checks that failed.
    pub fn failed_checks(&self) -> Vec<&'static str> {
        self.checks().into_iter().filter(|(_, c)| c.outcome == Outcome::Failed).map(|(name, _)| name).collect()
    }

    /// Draws the overall outcome from the checks.
    pub fn conclude(mut self) -> Self {
        self.overall = self.checks().into_iter().map(|(_, check)| check.outcome).max().unwrap_or_default();
        self
    }
}

/// The report as lines for a terminal: figures first, then every failure, then notes.
impl fmt::Display for ValidationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "validation={}", self.overall)?;
        writeln!(f, "partitions_checked={}", self.partitions)?;
        for (name, check) in self.checks() {
            write!(f, "{name}={} checked={} failed={}", check.outcome, check.checked, check.failed)?;
            if check.gone_from_source > 0 {
                write!(f, " gone_from_source={}", check.gone_from_source)?;
            }
            writeln!(f)?;
        }
        for (name, check) in self.checks() {
            for Finding { subject, problem, remedy } in &check.findings {
                writeln!(f, "{name}: {subject}: {problem}. {remedy}")?;
            }
            let more = check.failed.saturating_sub(check.findings.len() as u64);
            if more > 0 {
                writeln!(f, "{name}: and {more} more")?;
            }
        }
        for (name, check) in self.checks() {
            for warning in &check.warnings {
                writeln!(f, "warning: {name}: {warning}")?;
            }
        }
        for (name, check) in self.checks() {
            for note in &check.notes {
                writeln!(f, "note: {name}: {note}")?;
            }
        }
        Ok(())
    }
}

const BEGIN_AGAIN: &str = "The copy of this topic cannot be relied on: point its clients back to the source, and migrate \
                           it again";
const LOOK_AGAIN: &str = "See that the cluster's brokers are well, then run finalize again";

// ── Topics ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Whether every planned topic is still what was planned, on both sides.
pub fn topic_parity(planned: &[PlannedTopic], source: &[TopicDescription], target: &[TopicDescription]) -> CheckReport {
    let mut report = CheckReport::default();
    for topic in planned {
        report.checked += 1;
        let partitions = usize::try_from(topic.partitions).unwrap_or(0);
        match source.iter().find(|found| found.name == topic.name) {
            None => report.fail(
                &topic.name,
                "it is no longer on the source, so that nothing can be compared with it",
                "If it was deleted there on purpose, its copy on the target is as it was at the cutover",
            ),
            Some(found) => {
                if let (Some(planned), Some(id)) = (topic.source_topic_id, found.id)
                    && planned != id
                {
                    let problem = format!("it was deleted and made again on the source ({planned} is now {id})");
                    report.fail(&topic.name, problem, BEGIN_AGAIN);
                }
                if found.partitions.len() != partitions {
                    let problem =
                        format!("the source has {} partitions and {partitions} were copied", found.partitions.len());
                    report.fail(&topic.name, problem, BEGIN_AGAIN);
                }
            }
        }
        match target.iter().find(|found| found.name == topic.name) {
            None => report.fail(&topic.name, "it is not on the target", BEGIN_AGAIN),
            Some(found) if found.partitions.len() != partitions => {
                let problem =
                    format!("the target has {} partitions and {partitions} were planned", found.partitions.len());
                report.fail(&topic.name, problem, "Keys of new records go to other partitions than those of old ones");
            }
            Some(_) => {}
        }
    }
    report
}

// ── Counts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What ledger and clusters say of one partition.
#[derive(Debug, Clone, Copy)]
pub struct PartitionFacts<'a> {
    /// How far it was copied.
    pub progress: &'a PartitionProgress,
    /// The first offset on the source behind what was to be copied.
    pub closed_from: SourceOffset,
    /// The offset after the closing fence on the target.
    pub boundary: TargetOffset,
    /// The target's first offset.
    pub target_start: Offset,
    /// The target's end.
    pub target_end: Offset,
}

/// How many records a partition's offset map has.
pub fn mapped_records(progress: &PartitionProgress) -> i64 {
    progress.map_chunks.iter().map(|chunk| chunk.records).sum::<i64>()
        + progress.map_runs.iter().map(|run| run.count).sum::<i64>()
}

fn first_mapped(progress: &PartitionProgress) -> Option<TargetOffset> {
    let chunk = progress.map_chunks.first().map(|chunk| chunk.target_first);
    chunk.or(progress.map_runs.first().map(|run| run.target_first))
}

/// Whether the target holds what was copied: all of it, from its first record to its boundary, and nothing else.
pub fn counts_and_offsets(facts: &PartitionFacts<'_>, count_tolerance: u64) -> CheckReport {
    let PartitionFacts { progress, closed_from, boundary, target_start, target_end } = *facts;
    let mut report = CheckReport { checked: 1, ..CheckReport::default() };
    let subject = &progress.partition;
    let mapped = mapped_records(progress);
    if i64::try_from(progress.counts.records) != Ok(mapped) {
        let problem = format!("{} records were copied and the offset map has {mapped}", progress.counts.records);
        report.fail(subject, problem, BEGIN_AGAIN);
    }
    if progress.source_next < closed_from {
        let problem = format!("it was copied to source offset {} and closed at {closed_from}", progress.source_next);
        report.fail(subject, problem, BEGIN_AGAIN);
    }
    if progress.target_next != boundary {
        let problem = format!(
            "the copy ends at target offset {} and the cutover's boundary is {boundary}: somebody wrote after the lane \
             was closed",
            progress.target_next
        );
        report.fail(subject, problem, BEGIN_AGAIN);
    }
    if let Some(first) = first_mapped(progress).filter(|first| target_start > first.0) {
        let problem = format!(
            "the target's log starts at offset {target_start} and the copy at {first}: copied records are gone"
        );
        report.fail(subject, problem, BEGIN_AGAIN);
    }
    if target_end < boundary.0 {
        let problem = format!("the target's log ends at offset {target_end}, before the boundary {boundary}");
        report.fail(subject, problem, BEGIN_AGAIN);
    }
    let fences = i64::try_from(progress.counts.fences).unwrap_or(i64::MAX);
    let held = boundary.0.saturating_sub(target_start).saturating_sub(fences);
    let problem = format!("{mapped} records were copied and the target holds {held} up to its boundary");
    match held.abs_diff(mapped) {
        0 => {}
        within if within <= count_tolerance => report.warn(format!("{subject}: {problem} (within the tolerance)")),
        _ => report.fail(subject, problem, BEGIN_AGAIN),
    }
    for gap in &progress.gaps {
        report.warn(format!(
            "{subject}: source offsets {} to {} were gone before they were read (retention) and are on neither side",
            gap.from, gap.to
        ));
    }
    report
}

// ── Records ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What is different between a record and its copy; none where nothing is. Offsets are not part of a record.
pub fn record_difference(source: &VisibleRecord, target: &VisibleRecord) -> Option<String> {
    if source.key != target.key {
        return Some("its key is another".to_owned());
    }
    if source.value != target.value {
        return Some("its value is another".to_owned());
    }
    if source.timestamp_ms != target.timestamp_ms {
        return Some(format!("its timestamp is {} instead of {}", target.timestamp_ms, source.timestamp_ms));
    }
    if source.headers != target.headers {
        return Some("its headers are others, or in another order".to_owned());
    }
    None
}

/// Compares what was read at a source offset with what was read where its copy must be.
pub fn copy_difference(
    source: &VisibleRecord,
    copied_to: TargetOffset,
    target: Option<&VisibleRecord>,
) -> Option<String> {
    let problem = match target.filter(|found| found.offset == copied_to.0) {
        None => "there is no record".to_owned(),
        Some(target) => record_difference(source, target)?,
    };
    Some(format!("the record at source offset {} was copied to target offset {copied_to}: {problem}", source.offset))
}

/// Which of `records` records to sample: one out of each of `samples` equal parts, so that the whole range is covered,
/// chosen by a hash, so that a repetition looks at the same ones.
pub fn sample(migration: &MigrationId, partition: &TopicPartition, records: i64, samples: usize) -> Vec<i64> {
    let samples = i64::try_from(samples).unwrap_or(i64::MAX).min(records);
    let part_start = |part: i64| (i128::from(records) * i128::from(part) / i128::from(samples)) as i64;
    (0..samples)
        .map(|part| {
            let (start, end) = (part_start(part), part_start(part + 1));
            let hash = Sha256::digest(format!("{migration}/{}/{}/{part}", partition.topic, partition.partition));
            let number = u64::from_be_bytes(hash[..8].try_into().expect("a digest has 32 bytes"));
            start + (number % (end - start).unsigned_abs()) as i64
        })
        .collect()
}

/// The record with this number among all that are mapped, on both sides.
pub fn mapped_record(map: &MapView, number: i64) -> Option<(SourceOffset, TargetOffset)> {
    let mut left = number;
    for run in map.runs() {
        if left < run.count {
            return Some((run.source_first.plus(left), run.target_first.plus(left)));
        }
        left -= run.count;
    }
    None
}

// ── Groups ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A position of a group as Krossing wrote it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedPosition {
    /// The group.
    pub group: GroupId,
    /// Where.
    pub partition: TopicPartition,
    /// What the group had committed on the source.
    pub source_offset: SourceOffset,
    /// What was committed for it on the target.
    pub target_offset: TargetOffset,
    /// What the client stores beside its position; none where that is not known.
    pub metadata: Option<String>,
    /// Whether the group has gone on on the target since: its position there is its own.
    pub switched: bool,
}

impl ExpectedPosition {
    /// How it is named in findings.
    pub fn subject(&self) -> String {
        format!("group {} on {}", self.group, self.partition)
    }
}

/// Every position as it was written last: by the cutover, or since then for a group that went on on the source.
pub fn expected_positions(cutover: &CutoverReport, since: &ClientSwitchRecord) -> Vec<ExpectedPosition> {
    let mut positions: BTreeMap<(GroupId, TopicPartition), ExpectedPosition> = BTreeMap::new();
    for written in &cutover.groups {
        let position = ExpectedPosition {
            group: written.group.clone(),
            partition: written.partition.clone(),
            source_offset: written.source_offset,
            target_offset: written.target_offset,
            metadata: Some(written.metadata.clone()),
            switched: since.groups.get(&written.group).is_some_and(|group| group.switched.is_some()),
        };
        positions.insert((written.group.clone(), written.partition.clone()), position);
    }
    for (group, record) in &since.groups {
        for (partition, written) in &record.written {
            let key = (group.clone(), partition.clone());
            let as_at_the_cutover = positions.get(&key).is_some_and(|position| {
                (position.source_offset, position.target_offset) == (written.source, written.target)
            });
            if as_at_the_cutover {
                continue;
            }
            let position = ExpectedPosition {
                group: group.clone(),
                partition: partition.clone(),
                source_offset: written.source,
                target_offset: written.target,
                metadata: None,
                switched: record.switched.is_some(),
            };
            positions.insert(key, position);
        }
    }
    positions.into_values().collect()
}

/// Whether what was committed for each group is what the target has.
pub fn consumer_group_reconciliation(
    expected: &[ExpectedPosition],
    committed: &BTreeMap<GroupId, GroupOffsets>,
) -> CheckReport {
    let mut report = CheckReport::default();
    let mut moved_on: BTreeMap<&GroupId, u64> = BTreeMap::new();
    for position in expected {
        report.checked += 1;
        let found = committed.get(&position.group).and_then(|offsets| offsets.get(&position.partition));
        let same = |found: &CommittedOffset| {
            let same_metadata = position.metadata.as_ref().is_none_or(|metadata| *metadata == found.metadata);
            found.offset == position.target_offset.0 && same_metadata
        };
        if found.is_some_and(same) {
            continue;
        }
        if position.switched {
            *moved_on.entry(&position.group).or_default() += 1;
            continue;
        }
        let problem = match found {
            None => format!("offset {} was committed and the target has none", position.target_offset),
            Some(found) if found.offset != position.target_offset.0 => {
                format!("offset {} was committed and the target has {}", position.target_offset, found.offset)
            }
            Some(_) => "the metadata beside the offset is not what was committed".to_owned(),
        };
        report.fail(
            position.subject(),
            problem,
            "If the group's own consumers moved it, start them on the target and run finalize again; if nobody did, \
             commit the offset named here",
        );
    }
    for (group, positions) in moved_on {
        report.note(format!("group {group} has moved on on the target in {positions} partitions"));
    }
    report
}

/// Where the source's next record for a group must be found on the target; none where the source has none left. An
/// error is a sentence: why the group would skip or repeat records.
pub fn next_record(
    position: &ExpectedPosition,
    source_next: Option<SourceOffset>,
    map: &MapView,
    boundary: TargetOffset,
) -> Result<Option<TargetOffset>, String> {
    let ExpectedPosition { source_offset: committed, target_offset: translated, .. } = *position;
    if translated > boundary {
        return Err(format!("target offset {translated} lies behind the boundary {boundary}"));
    }
    let copied_to = match source_next {
        None => None,
        Some(next) => Some(map.exact(next).ok_or(format!("the record at source offset {next} was not copied"))?),
    };
    if let (Some(next), Some(copied_to)) = (source_next, copied_to)
        && translated > copied_to
    {
        return Err(format!(
            "the record at source offset {next} was copied to target offset {copied_to}, and the group goes on behind \
             it, at {translated}"
        ));
    }
    // Between the two, the target may hold only what the source has lost since. The source's next record is the first
    // that it still has from `committed` on, so that this is so unless something before `committed` stands there.
    match map.first_at_or_after_target(translated) {
        Some((repeated, at)) if repeated < committed => Err(format!(
            "the group would read target offset {at} again, the copy of source offset {repeated}, and had committed \
             {committed}"
        )),
        Some(_) | None => {
            let exact = map.translate(committed, boundary);
            if exact == translated {
                Ok(copied_to)
            } else {
                Err(format!("source offset {committed} translates to {exact}, and {translated} was committed"))
            }
        }
    }
}

// ── Keys ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Part `index` of all keys, of `of` parts by the keys' hashes: what is compared in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySlice {
    /// Which part.
    pub index: u64,
    /// Of how many.
    pub of: u64,
}

impl KeySlice {
    /// All keys.
    pub const ALL: KeySlice = KeySlice { index: 0, of: 1 };
}

/// The latest record of a key, as far as it matters.
#[derive(Debug, Clone, Copy)]
struct Latest {
    offset: Offset,
    /// Digest of all but key and offset; none for a tombstone.
    content: Option<[u8; 16]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct KeyEntry {
    source: Option<Latest>,
    target: Option<Latest>,
}

/// The latest record of each key of one partition, on both sides: digests and offsets, never the data.
#[derive(Debug)]
pub struct KeyTable {
    slice: KeySlice,
    keys_max: usize,
    full: bool,
    keys: HashMap<[u8; 16], KeyEntry>,
}

impl KeyTable {
    /// A table for a slice of the keys, and for no more than `keys_max` of them.
    pub fn new(slice: KeySlice, keys_max: usize) -> Self {
        Self { slice, keys_max, full: false, keys: HashMap::new() }
    }

    /// Whether there were more keys than it may hold: smaller slices are needed.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// How many keys were seen.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key was seen.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes the next record of a side, in the order of its log. Answers whether to go on.
    pub fn see(&mut self, side: Side, record: &VisibleRecord) -> bool {
        // Compaction drops records without a key; they can only stem from before the topic was compacted.
        let Some(key) = &record.key else { return true };
        let digest = short_digest(Sha256::new().chain_update(key));
        let number = u64::from_be_bytes(digest[..8].try_into().expect("a short digest has 16 bytes"));
        if number % self.slice.of != self.slice.index {
            return true;
        }
        if self.keys.len() >= self.keys_max && !self.keys.contains_key(&digest) {
            self.full = true;
            return false;
        }
        let latest = Latest { offset: record.offset, content: content_digest(record) };
        let entry = self.keys.entry(digest).or_default();
        match side {
            Side::Source => entry.source = Some(latest),
            Side::Target => entry.target = Some(latest),
        }
        true
    }

    /// Judges every key. `copied_to`: what the source has from there on is not copied yet, and a key that it holds
    /// there is left out. `source_start`: what lay before it was trimmed, with whatever had deleted it.
    pub fn compare(
        &self,
        partition: &TopicPartition,
        copied_to: SourceOffset,
        source_start: SourceOffset,
        map: &MapView,
    ) -> CheckReport {
        let mut report = CheckReport::default();
        let mut trimmed: u64 = 0;
        let mut wrong: Vec<(Offset, String)> = Vec::new();
        for KeyEntry { source, target } in self.keys.values() {
            if source.is_some_and(|source| source.offset >= copied_to.0) {
                continue;
            }
            report.checked += 1;
            match (source, target) {
                (Some(source), None) => wrong.push((source.offset, "its key is not on the target".to_owned())),
                (Some(Latest { offset, content: None }), Some(Latest { offset: at, content: Some(_) })) => {
                    let problem = format!("it deletes a key that target offset {at} still gives a value");
                    wrong.push((*offset, problem));
                }
                (Some(Latest { offset, content: Some(_) }), Some(Latest { offset: at, content: None })) => {
                    wrong.push((*offset, format!("target offset {at} deletes its key")));
                }
                (Some(source), Some(target)) if source.content != target.content => {
                    let problem = format!("target offset {} holds another value of its key", target.offset);
                    wrong.push((source.offset, problem));
                }
                (Some(_), Some(_)) | (None, None) | (None, Some(Latest { content: None, .. })) => {}
                (None, Some(Latest { offset, content: Some(_) })) => match map.inverse(TargetOffset(*offset)) {
                    Some(from) if from < source_start => trimmed += 1,
                    Some(from) => wrong.push((
                        from.0,
                        format!(
                            "target offset {offset} gives its key a value, and the source has deleted the key: the \
                             tombstone was cleaned there before it was read"
                        ),
                    )),
                    None => wrong
                        .push((*offset, format!("target offset {offset} holds a key that was never on the source"))),
                },
            }
        }
        wrong.sort();
        for (offset, problem) in wrong {
            report.fail(
                format!("{partition} source offset {offset}"),
                problem,
                "Produce the right value of the key, or a tombstone, to the target, and tell its consumers",
            );
        }
        if trimmed > 0 {
            report.gone_from_source += trimmed;
            report.note(format!("{partition}: {trimmed} keys lie before the source's log start (retention)"));
        }
        report
    }
}

fn short_digest(hasher: Sha256) -> [u8; 16] {
    hasher.finalize()[..16].try_into().expect("a digest has 32 bytes")
}

/// Lengths go into the digest, so that no two different records are spelled alike.
fn content_digest(record: &VisibleRecord) -> Option<[u8; 16]> {
    let value = record.value.as_ref()?;
    let mut hasher = Sha256::new();
    let mut add = |bytes: Option<&[u8]>| {
        hasher.update(bytes.map_or(-1, |bytes| bytes.len() as i64).to_be_bytes());
        hasher.update(bytes.unwrap_or_default());
    };
    add(Some(value));
    for (name, value) in &record.headers {
        add(Some(name));
        add(value.as_deref());
    }
    hasher.update(record.timestamp_ms.to_be_bytes());
    Some(short_digest(hasher))
}

/// What to say of a partition that one of the clusters did not describe.
pub fn not_looked_at(report: &mut CheckReport, partition: &TopicPartition, side: Side, why: impl fmt::Display) {
    report.fail(partition, format!("the {side} cluster could not be asked about it: {why}"), LOOK_AGAIN);
}

#[cfg(test)]
mod tests;
