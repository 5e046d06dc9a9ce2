//! What a cutover leaves behind, and the rules of its steps that need no cluster.
//!
//! The report is stored; a new field is optional or a new version.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    limits::MARK_NAME_BYTES_MAX,
    ports::VisibleRecord,
    records::{RawBatch, Record, RecordError},
    types::{GroupId, MigrationId, Offset, SourceOffset, TargetOffset, TopicPartition},
};

/// The version of [`CutoverReport`] that this code writes.
pub const CUTOVER_REPORT_VERSION: u32 = 1;

/// Where a cutover's report is stored. By its content: READY names the one that counts, and no other cutover, however
/// late, can write over it.
pub fn cutover_report_key(migration: &MigrationId, report_sha256: &str) -> String {
    format!("{migration}/cutover-report-{report_sha256:.16}.json")
}

/// What closes each source partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkerKind {
    /// A transaction without records: a control batch, which no consumer ever sees.
    #[default]
    Control,
    /// A visible record, which is copied like any other ([`sentinel`]).
    Record,
    /// Nothing is written: the log's end, once it has stood still for a while ([`Standstill`]).
    None,
}

impl MarkerKind {
    /// Reports that were stored before there were others name none: their digests must hold.
    fn is_default(&self) -> bool {
        *self == MarkerKind::default()
    }

    /// The first offset behind what is to be copied, of a partition that is closed at `marker`. A record from here on
    /// was left behind.
    pub fn closed_from(self, marker: SourceOffset) -> SourceOffset {
        match self {
            MarkerKind::Control | MarkerKind::Record => marker.plus(1),
            MarkerKind::None => marker,
        }
    }
}

/// Where a source partition was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingMarker {
    /// Where.
    pub partition: TopicPartition,
    /// The offset of the marker, or of the log's end where none was written: everything before it was copied.
    pub source_offset: SourceOffset,
}

/// The target boundary of a partition: the offset after the target's closing fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boundary {
    /// Where.
    pub partition: TopicPartition,
    /// The first offset that an application will write.
    pub target_offset: TargetOffset,
}

/// One position of one group, translated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTranslation {
    /// The group.
    pub group: GroupId,
    /// Where.
    pub partition: TopicPartition,
    /// What the group had committed on the source.
    pub source_offset: SourceOffset,
    /// What was committed for it on the target.
    pub target_offset: TargetOffset,
    /// What the client stores beside its position.
    pub metadata: String,
}

/// How long each step took, from the freeze on, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverTimings {
    /// Asking producers to stand still, until they said that they do.
    pub freeze_ms: u64,
    /// Writing the closing markers and seeing them.
    pub mark_ms: u64,
    /// Copying up to the markers.
    pub drain_ms: u64,
    /// Fencing and closing every lane.
    pub close_ms: u64,
    /// Reading and translating group positions.
    pub translate_ms: u64,
    /// Writing them, and reading them back.
    pub commit_ms: u64,
    /// From the moment producers stood still until READY.
    pub frozen_ms: u64,
}

/// What a cutover did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverReport {
    /// Of this format.
    pub version: u32,
    /// When READY was reached, in milliseconds since 1970.
    pub ready_unix_ms: i64,
    /// How producers were brought to stand still, and who confirmed it.
    pub freeze: String,
    /// What closed the partitions; control batches where it is not given.
    #[serde(default, skip_serializing_if = "MarkerKind::is_default")]
    pub marker_kind: MarkerKind,
    /// The closing markers, by partition.
    pub markers: Vec<ClosingMarker>,
    /// The target boundaries, by partition.
    pub boundaries: Vec<Boundary>,
    /// Every group position, by group and partition.
    pub groups: Vec<GroupTranslation>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub timings: CutoverTimings,
}

impl CutoverReport {
    /// The boundaries, to look up.
    pub fn boundary_of(&self) -> BTreeMap<TopicPartition, TargetOffset> {
        self.boundaries.iter().map(|boundary| (boundary.partition.clone(), boundary.target_offset)).collect()
    }

    /// The markers, to look up.
    pub fn marker_of(&self) -> BTreeMap<TopicPartition, SourceOffset> {
        self.markers.iter().map(|marker| (marker.partition.clone(), marker.source_offset)).collect()
    }

    /// The first offset of each partition at which a record was left behind.
    pub fn closed_from(&self) -> BTreeMap<TopicPartition, SourceOffset> {
        let closed = |marker: &ClosingMarker| self.marker_kind.closed_from(marker.source_offset);
        self.markers.iter().map(|marker| (marker.partition.clone(), closed(marker))).collect()
    }
}

// ── Visible markers ────────────────────────────────────────────────────────────────────────────────────────────────

/// The ledger's document that holds where the last visible markers stand: a list of [`ClosingMarker`]s. A cutover that
/// was taken back leaves them, and where nothing has come since the next one closes with the same.
pub const SENTINELS_DOCUMENT: &str = "sentinels";

/// The header by which a visible marker is known; its value is the migration's id.
pub const SENTINEL_HEADER: &str = "krossing-sentinel";

/// The visible marker of a partition: no value, and a key only where the topic is compacted. There it is a tombstone of
/// a key that never was, so that tables made from the topic do not change, and cleaners take it away in time.
pub fn sentinel(migration: &MigrationId, compacted: bool, timestamp_ms: i64) -> Record {
    let header = (Bytes::from_static(SENTINEL_HEADER.as_bytes()), Some(Bytes::from(migration.to_string())));
    Record {
        offset: 0,
        timestamp_ms,
        key: compacted.then(|| Bytes::from(format!("{SENTINEL_HEADER}-{migration}"))),
        value: None,
        headers: vec![header],
    }
}

fn is_sentinel(headers: &[(Bytes, Option<Bytes>)], migration: &MigrationId) -> bool {
    headers.iter().any(|(name, value)| {
        name == SENTINEL_HEADER.as_bytes() && value.as_deref() == Some(migration.as_str().as_bytes())
    })
}

/// Whether a record that was read is the visible marker of this migration.
pub fn is_sentinel_record(record: &VisibleRecord, migration: &MigrationId) -> bool {
    is_sentinel(&record.headers, migration)
}

/// The offset of this migration's visible marker in a batch, if it is in it. Only small batches are looked into: a
/// marker is alone in its own.
pub fn sentinel_in(batch: &RawBatch, migration: &MigrationId) -> Result<Option<Offset>, RecordError> {
    let header = &batch.header;
    if header.is_control() || header.is_transactional() || header.records_count != 1 {
        return Ok(None);
    }
    let records = batch.records()?;
    Ok(records.iter().find(|record| is_sentinel(&record.headers, migration)).map(|record| record.offset))
}

// ── Without markers ────────────────────────────────────────────────────────────────────────────────────────────────

/// Watches log ends until all of them have stood still for a window.
#[derive(Debug, Clone)]
pub struct Standstill {
    window: Duration,
    since: Instant,
    ends: BTreeMap<TopicPartition, Offset>,
    moved: Option<(TopicPartition, Offset)>,
}

impl Standstill {
    /// Begins with the ends as they are at `now`.
    pub fn new(window: Duration, now: Instant, ends: BTreeMap<TopicPartition, Offset>) -> Self {
        Self { window, since: now, ends, moved: None }
    }

    /// Looks at the ends as they were asked for at `asked`: if one has moved, the window begins again.
    pub fn look(&mut self, asked: Instant, ends: BTreeMap<TopicPartition, Offset>) {
        let moved = ends.iter().find(|(partition, end)| self.ends.get(partition) != Some(end));
        if let Some((partition, end)) = moved {
            self.moved = Some((partition.clone(), *end));
            self.since = asked;
            self.ends = ends;
        }
    }

    /// When the window ends if nothing moves any more.
    pub fn still_at(&self) -> Instant {
        self.since + self.window
    }

    /// The partition that moved last, and its end.
    pub fn moved(&self) -> Option<&(TopicPartition, Offset)> {
        self.moved.as_ref()
    }

    /// The ends as they were seen last.
    pub fn ends(&self) -> &BTreeMap<TopicPartition, Offset> {
        &self.ends
    }
}

/// Splits partitions so that each part fits one marking transaction, all partitions of a topic together where they fit.
pub fn marking_parts(partitions: &[TopicPartition]) -> Vec<Vec<TopicPartition>> {
    let mut parts: Vec<Vec<TopicPartition>> = Vec::new();
    let mut bytes = usize::MAX;
    for partition in partitions {
        // A partition costs its number and, at worst, its topic's name again.
        let cost = partition.topic.as_str().len() + 8;
        if bytes.saturating_add(cost) > MARK_NAME_BYTES_MAX {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += cost;
        if let Some(part) = parts.last_mut() {
            part.push(partition.clone());
        }
    }
    parts
}

/// The transactional id that closes part `part` of the source.
pub fn marking_transactional_id(migration: &MigrationId, part: usize) -> String {
    format!("krossing.{migration}.mark.{part}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::BatchBuilder;

    fn migration(name: &str) -> MigrationId {
        name.parse().expect("an id")
    }

    #[test]
    fn a_visible_marker_is_known_by_its_header_and_deletes_a_key_that_never_was() {
        let batch = |record: Record| {
            let batch = BatchBuilder { records: vec![Record { offset: 7, ..record }], ..BatchBuilder::new(7) };
            RawBatch::parse(batch.build().expect("one record")).expect("a batch")
        };
        let m = migration("m");
        for compacted in [false, true] {
            let marker = sentinel(&m, compacted, 1);
            assert_eq!((marker.key.is_some(), &marker.value), (compacted, &None));
            assert_eq!(sentinel_in(&batch(marker.clone()), &m), Ok(Some(7)));
            assert_eq!(sentinel_in(&batch(marker), &migration("other")), Ok(None));
        }
        let other = Record { headers: Vec::new(), ..sentinel(&m, false, 1) };
        assert_eq!(sentinel_in(&batch(other), &m), Ok(None));
    }

    #[test]
    fn a_record_is_left_behind_from_the_offset_after_a_marker_or_from_the_end_without_one() {
        let closed = [MarkerKind::Control, MarkerKind::Record, MarkerKind::None];
        assert_eq!(closed.map(|kind| kind.closed_from(SourceOffset(5)).0), [6, 6, 5]);
    }

    #[test]
    fn a_log_that_moves_begins_the_window_again() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let ends = |a: Offset, b: Offset| BTreeMap::from([(partition(0), a), (partition(1), b)]);
        let mut standstill = Standstill::new(5 * second, begun, ends(3, 4));
        standstill.look(begun + second, ends(3, 4));
        assert_eq!((standstill.still_at(), standstill.moved()), (begun + 5 * second, None));
        standstill.look(begun + 2 * second, ends(3, 6));
        assert_eq!(standstill.still_at(), begun + 7 * second);
        assert_eq!(standstill.moved(), Some(&(partition(1), 6)));
        assert_eq!(standstill.ends(), &ends(3, 6));
    }

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new("t", number)
    }

    #[test]
    fn every_partition_is_in_exactly_one_marking_part_and_no_part_is_too_large() {
        let partitions: Vec<_> =
            (0..5_000).map(|number| TopicPartition::new(format!("{:0>249}", number / 10), number % 10)).collect();
        let parts = marking_parts(&partitions);
        assert_eq!(parts.concat(), partitions);
        assert!(parts.len() > 1);
        for part in parts {
            assert!(part.iter().map(|p| p.topic.as_str().len()).sum::<usize>() <= MARK_NAME_BYTES_MAX);
        }
        assert!(marking_parts(&[]).is_empty());
    }
}
