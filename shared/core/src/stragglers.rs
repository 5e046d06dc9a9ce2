//! Records that reached the source behind where it was closed, and what the operator decided about them.
//!
//! Before READY one of them ends the cutover. After READY each needs a decision, which the journal holds before anything
//! is done about it: they are appended at the target's end, once, or left out. Either way they are kept among the
//! evidence, as the source's own batches, so that nothing is lost and a repetition appends the very same.
//!
//! Invariants: a decision covers source offsets that no earlier one covers; how many of its records stand on the target
//! is read from the target's log and never remembered, so that an append may be killed at any moment and repeated.
//!
//! Does not: read logs, or write to them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    evidence::StoredObject,
    journal::{EntryKind, Journal},
    records::{Batches, OutBatch, Record, RecordError, RepackLimits, Repacker},
    types::{MigrationId, Offset, Producer, SourceOffset, TargetOffset, TopicPartition},
};

/// The first record behind where a partition was closed, and who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayRecord {
    /// Its offset on the source.
    pub offset: Offset,
    /// Its producer; none where its batch carries no producer's id.
    pub producer: Option<Producer>,
}

impl StrayRecord {
    /// Who wrote it, as the end of a sentence.
    pub fn by(&self) -> String {
        self.producer.map_or_else(String::new, |producer| format!(" ({producer})"))
    }
}

/// How many stragglers of a partition are shown, so that their owner can be told.
pub const STRAGGLER_RECORDS_SHOWN: usize = 3;

/// How many characters of a key are shown.
const KEY_SHOWN: usize = 64;

/// A straggler as it is shown: enough to know whose it is, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StragglerRecord {
    /// Its offset on the source.
    pub source_offset: SourceOffset,
    /// Its timestamp in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its key as text, in hex where it is none; none where it has no key.
    pub key: Option<String>,
}

impl StragglerRecord {
    /// What is shown of a record.
    pub fn of(record: &Record) -> Self {
        Self {
            source_offset: SourceOffset(record.offset),
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref().map(key_text),
        }
    }
}

/// A key as text that a terminal can show: as it is, or in hex, cut off where it is long.
pub fn key_text(key: &[u8]) -> String {
    let text = match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        Ok(_) | Err(_) => format!("0x{}", hex::encode(key)),
    };
    if text.chars().count() <= KEY_SHOWN {
        return text;
    }
    text.chars().take(KEY_SHOWN).chain(['…']).collect()
}

/// What is done about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// They are added at the target's end.
    Append,
    /// They stay out of the target.
    Leave,
}

/// The stragglers of one partition that a decision covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stragglers {
    /// Where.
    pub partition: TopicPartition,
    /// The first source offset that is decided.
    pub from: SourceOffset,
    /// The first one that is not.
    pub to: SourceOffset,
    /// How many committed records lie between.
    pub records: u64,
    /// Who wrote them, where their batches say it.
    pub producers: BTreeSet<i64>,
    /// Where they are kept: the source's batches.
    pub kept: StoredObject,
    /// The target's end when they were to be appended; none where they are left out.
    pub target_from: Option<TargetOffset>,
}

/// A decision, as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StragglerDecision {
    /// What was decided.
    pub stragglers: Choice,
    /// Its number, from 1.
    pub number: u64,
    /// Where, and what.
    pub partitions: Vec<Stragglers>,
}

/// A step of an append, as the journal has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendStep {
    /// The decision.
    pub append: u64,
    /// Who is about to append.
    pub producer: Producer,
    /// Whether all of it was appended and read back.
    pub done: bool,
}

/// The transactional id whose producer appends stragglers to the target.
pub fn append_transactional_id(migration: &MigrationId) -> String {
    format!("krossing.{migration}.stragglers")
}

/// Where the stragglers of a decision are kept.
pub fn kept_key(migration: &MigrationId, number: u64, partition: &TopicPartition) -> String {
    format!("{migration}/stragglers/{number}/{}/{}.log", partition.topic, partition.partition)
}

/// What the journal says about stragglers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// All decisions, in order.
    pub decisions: Vec<StragglerDecision>,
    steps: Vec<AppendStep>,
}

impl Decided {
    /// Everything that the journal has.
    pub fn of(journal: &Journal) -> Self {
        let of = |kind: EntryKind| journal.entries().iter().filter(move |entry| entry.kind == kind);
        Self {
            decisions: of(EntryKind::Decision).filter_map(|entry| entry.detail_as()).collect(),
            steps: of(EntryKind::StragglersAppend).filter_map(|entry| entry.detail_as()).collect(),
        }
    }

    /// The first source offset of each partition that is not decided, where `closed_from` is what the cutover left.
    pub fn undecided_from(
        &self,
        closed_from: BTreeMap<TopicPartition, SourceOffset>,
    ) -> BTreeMap<TopicPartition, SourceOffset> {
        let mut from = closed_from;
        for stragglers in self.decisions.iter().flat_map(|decision| &decision.partitions) {
            if let Some(from) = from.get_mut(&stragglers.partition) {
                *from = stragglers.to.max(*from);
            }
        }
        from
    }

    /// The append that was decided and is not known to be complete. There is at most one.
    pub fn unfinished(&self) -> Option<&StragglerDecision> {
        let done = |number| self.steps.iter().any(|step| step.append == number && step.done);
        self.decisions.iter().find(|decision| decision.stragglers == Choice::Append && !done(decision.number))
    }

    /// Ids of all producers that may have appended records of a decision.
    pub fn producers_of(&self, number: u64) -> BTreeSet<i64> {
        self.steps.iter().filter(|step| step.append == number).map(|step| step.producer.id).collect()
    }

    /// Ids of all producers that may have appended records of any decision.
    pub fn producers(&self) -> BTreeSet<i64> {
        self.steps.iter().map(|step| step.producer.id).collect()
    }

    /// The number of the next decision.
    pub fn next_number(&self) -> u64 {
        self.decisions.len() as u64 + 1
    }

    /// Everything that is kept.
    pub fn kept(&self) -> Vec<StoredObject> {
        self.decisions.iter().flat_map(|decision| &decision.partitions).map(|p| p.kept.clone()).collect()
    }
}

/// What of kept stragglers is to be appended where `appended` of their records stand on the target already: batches for
/// the target, in order. None where more stand there than there are.
pub fn still_to_append(kept: &Bytes, appended: u64) -> Result<Option<Vec<OutBatch>>, RecordError> {
    let all = repack(kept, SourceOffset(0))?;
    let Some(from) = source_offset_after(&all, appended) else { return Ok(None) };
    if appended == 0 { Ok(Some(all)) } else { repack(kept, from).map(Some) }
}

fn repack(kept: &Bytes, from: SourceOffset) -> Result<Vec<OutBatch>, RecordError> {
    let mut repacker = Repacker::new(RepackLimits::default());
    let mut out = Vec::new();
    for batch in Batches::new(kept.clone()) {
        out.extend(repacker.push(&batch?, from)?);
    }
    out.extend(repacker.finish()?);
    Ok(out)
}

/// The source offset behind the first `records` records.
fn source_offset_after(batches: &[OutBatch], records: u64) -> Option<SourceOffset> {
    let mut left = i64::try_from(records).ok()?;
    let mut end = SourceOffset(0);
    for run in batches.iter().flat_map(|batch| &batch.runs) {
        if left <= run.count {
            return Some(if left == 0 { end } else { run.source_first.plus(left) });
        }
        left -= run.count;
        end = run.source_end();
    }
    (left == 0).then_some(end)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        journal::{Actor, KnownBy, Stamp},
        records::{BatchBuilder, Codec},
        transition::State,
    };

    fn at(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    fn kept() -> StoredObject {
        StoredObject { key: "k".to_owned(), sha256: "s".to_owned() }
    }

    fn decision(stragglers: Choice, number: u64, to: i64) -> StragglerDecision {
        let target_from = (stragglers == Choice::Append).then_some(TargetOffset(9));
        let (partition, from, to) = (at(0), SourceOffset(to - 2), SourceOffset(to));
        let stragglers_of =
            Stragglers { partition, from, to, records: 2, producers: BTreeSet::from([7]), kept: kept(), target_from };
        StragglerDecision { stragglers, number, partitions: vec![stragglers_of] }
    }

    fn stamp() -> Stamp {
        Stamp { at_unix_ms: 0, by: Actor { who: "alice@here".to_owned(), known_by: KnownBy::OperatingSystem } }
    }

    fn journal(notes: &[(EntryKind, serde_json::Value)]) -> Journal {
        let mut journal = Journal::default();
        let (entry, _) = journal.begin("f".to_owned(), stamp(), "planned", json!({})).expect("a first entry");
        journal.push(entry).expect("it is the first");
        for (kind, detail) in notes {
            let (entry, _) = journal.note(*kind, stamp(), "noted", detail.clone()).expect("plain data");
            assert_eq!(entry.to, State::Planned);
            journal.push(entry).expect("it follows");
        }
        journal
    }

    #[test]
    fn what_is_decided_is_not_asked_again_and_what_comes_later_is() {
        let closed = || BTreeMap::from([(at(0), SourceOffset(10)), (at(1), SourceOffset(20))]);
        assert_eq!(Decided::of(&journal(&[])).undecided_from(closed()), closed());
        let left = (EntryKind::Decision, json!(decision(Choice::Leave, 1, 12)));
        let decided = Decided::of(&journal(&[left, (EntryKind::Decision, json!({ "other": 1 }))]));
        let expected = BTreeMap::from([(at(0), SourceOffset(12)), (at(1), SourceOffset(20))]);
        assert_eq!(decided.undecided_from(closed()), expected);
        assert_eq!((decided.next_number(), decided.unfinished(), decided.kept()), (2, None, vec![kept()]));
    }

    #[test]
    fn a_key_is_shown_as_text_or_in_hex_and_never_at_length() {
        assert_eq!(key_text(b"order-7"), r#""order-7""#);
        assert_eq!(key_text(b"\x1b[2J"), "0x1b5b324a", "a terminal is told nothing by a key");
        assert_eq!(key_text(&[0xff]), "0xff");
        assert_eq!(key_text(&[b'a'; 500]).chars().count(), KEY_SHOWN + 1);
    }

    #[test]
    fn an_append_is_unfinished_until_it_was_read_back() {
        let producer = Producer { id: 5, epoch: 1 };
        let step = |done| (EntryKind::StragglersAppend, json!(AppendStep { append: 1, producer, done }));
        let decided = (EntryKind::Decision, json!(decision(Choice::Append, 1, 12)));
        for (notes, unfinished) in [
            (vec![decided.clone()], true),
            (vec![decided.clone(), step(false)], true),
            (vec![decided, step(false), step(true)], false),
        ] {
            let decided = Decided::of(&journal(&notes));
            assert_eq!(decided.unfinished().is_some(), unfinished);
            assert_eq!(decided.producers_of(1), notes.iter().skip(1).map(|_| 5).collect());
        }
    }

    #[test]
    fn whatever_was_appended_already_the_rest_follows_it() {
        let batch = |first: i64, records: i64| {
            let record = |offset| Record {
                offset,
                timestamp_ms: offset,
                key: None,
                value: Some(Bytes::from(offset.to_string())),
                headers: Vec::new(),
            };
            let records = (first..first + records).map(record).collect();
            BatchBuilder { codec: Codec::Lz4, records, ..BatchBuilder::new(first) }.build().expect("a batch")
        };
        // A marker of a transaction lay between them.
        let kept = Bytes::from([batch(10, 3), batch(14, 2)].concat());
        let offsets = |appended| {
            let left = still_to_append(&kept, appended).expect("whole batches")?;
            let runs = left.iter().flat_map(|out| &out.runs);
            Some(runs.flat_map(|run| run.source_first.0..run.source_end().0).collect::<Vec<_>>())
        };
        assert_eq!(offsets(0), Some(vec![10, 11, 12, 14, 15]));
        assert_eq!(offsets(2), Some(vec![12, 14, 15]));
        assert_eq!(offsets(3), Some(vec![14, 15]));
        assert_eq!(offsets(5), Some(vec![]));
        assert_eq!(offsets(6), None, "more than there were");
    }
}
