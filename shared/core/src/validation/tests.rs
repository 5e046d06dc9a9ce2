#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    client_switch::{GroupRecord, Switched, Written},
    cutover::{CutoverTimings, GroupTranslation, MarkerKind},
    progress::Run,
};

fn run(source_first: i64, target_first: i64, count: i64) -> Run {
    Run { source_first: SourceOffset(source_first), target_first: TargetOffset(target_first), count }
}

fn map() -> MapView {
    // Target 0 and 6 are fences; source 103 and 106 to 109 were compacted away or markers.
    MapView::new([], &[run(100, 1, 3), run(104, 4, 2), run(110, 7, 5)]).unwrap()
}

const BOUNDARY: TargetOffset = TargetOffset(13);

fn position(source: i64, target: i64) -> ExpectedPosition {
    ExpectedPosition {
        group: GroupId::new("g"),
        partition: TopicPartition::new("t", 0),
        source_offset: SourceOffset(source),
        target_offset: TargetOffset(target),
        metadata: Some(String::new()),
        switched: false,
    }
}

fn record(offset: Offset, key: &'static str, value: Option<&'static str>) -> VisibleRecord {
    VisibleRecord {
        offset,
        timestamp_ms: 1,
        key: Some(Bytes::from_static(key.as_bytes())),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
        headers: Vec::new(),
    }
}

#[track_caller]
fn next(source: i64, target: i64, source_next: Option<i64>) -> Result<Option<i64>, String> {
    let found = next_record(&position(source, target), source_next.map(SourceOffset), &map(), BOUNDARY);
    found.map(|copied_to| copied_to.map(|offset| offset.0))
}

#[test]
fn a_group_goes_on_at_the_record_the_source_would_give_it_next() {
    assert_eq!(next(0, 1, Some(100)), Ok(Some(1)));
    assert_eq!(next(103, 4, Some(104)), Ok(Some(4)));
    assert_eq!(next(107, 7, Some(110)), Ok(Some(7)));
    assert_eq!(next(115, 13, None), Ok(None));
}

#[test]
fn what_the_source_has_lost_since_may_still_stand_before_the_next_record() {
    assert_eq!(next(101, 2, Some(112)), Ok(Some(9)));
    assert_eq!(next(101, 2, None), Ok(None));
}

#[test]
fn a_group_one_off_in_either_direction_is_found() {
    assert!(next(101, 3, Some(101)).unwrap_err().contains("goes on behind it"));
    assert!(next(101, 1, Some(101)).unwrap_err().contains("read target offset 1 again"));
    // On a fence it is as good as exact for a reader, and still not what was translated.
    assert!(next(110, 6, Some(110)).unwrap_err().contains("translates to 7"));
    assert!(next(115, 14, None).unwrap_err().contains("behind the boundary"));
    assert!(next(101, 2, Some(103)).unwrap_err().contains("was not copied"));
}

proptest! {
    #[test]
    fn samples_lie_in_equal_parts_of_the_whole_range(records in 0i64..10_000_000, samples in 0usize..40) {
        let chosen = sample(&"m".parse().unwrap(), &TopicPartition::new("t", 0), records, samples);
        prop_assert_eq!(chosen.len(), samples.min(usize::try_from(records).unwrap()));
        prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(chosen.iter().all(|number| (0..records).contains(number)));
        if let (Some(first), Some(last)) = (chosen.first(), chosen.last()) {
            let part = records / chosen.len() as i64 + 1;
            prop_assert!(*first <= part && *last >= records - 1 - part);
        }
    }

    #[test]
    fn every_translation_of_the_map_passes_and_no_other(committed in 95i64..120, translated in 0i64..15) {
        let expected = map().translate(SourceOffset(committed), BOUNDARY);
        let next = map().records().find(|(source, _)| source.0 >= committed);
        let found = next_record(&position(committed, translated), next.map(|n| n.0), &map(), BOUNDARY);
        prop_assert_eq!(found.is_ok(), translated == expected.0);
    }
}

fn compare(source: &[VisibleRecord], target: &[VisibleRecord]) -> Vec<String> {
    let mut table = KeyTable::new(KeySlice::ALL, 10);
    assert!(source.iter().all(|record| table.see(Side::Source, record)));
    assert!(target.iter().all(|record| table.see(Side::Target, record)));
    let report = table.compare(&TopicPartition::new("t", 0), SourceOffset(112), SourceOffset(101), &map());
    report.findings.into_iter().map(|finding| finding.problem).collect()
}

#[test]
fn the_target_may_hold_values_that_the_source_has_superseded() {
    let target = [record(2, "a", Some("1")), record(3, "b", Some("1")), record(7, "a", Some("2"))];
    let source = [record(102, "b", Some("1")), record(110, "a", Some("2"))];
    assert_eq!(compare(&source, &target), [""; 0]);
}

#[test]
fn a_deleted_key_that_still_has_its_value_is_found_unless_a_tombstone_follows() {
    let source = [record(110, "a", Some("2"))];
    let alive = [record(2, "b", Some("1")), record(7, "a", Some("2"))];
    assert!(compare(&source, &alive)[0].contains("cleaned there before it was read"));
    let deleted = [record(2, "b", Some("1")), record(7, "a", Some("2")), record(8, "b", None)];
    assert_eq!(compare(&source, &deleted), [""; 0]);
}

#[test]
fn keys_that_differ_are_missing_or_only_on_the_target_are_found() {
    let value = |value| [record(110, "a", value)];
    assert!(compare(&value(Some("2")), &[record(7, "a", Some("3"))])[0].contains("another value"));
    assert!(compare(&value(Some("2")), &[record(7, "a", None)])[0].contains("deletes its key"));
    assert!(compare(&value(None), &[record(7, "a", Some("3"))])[0].contains("still gives a value"));
    assert!(compare(&value(Some("2")), &[])[0].contains("not on the target"));
    assert!(compare(&[], &[record(6, "a", Some("3"))])[0].contains("never on the source"));
}

#[test]
fn what_is_not_copied_yet_or_was_trimmed_is_no_difference() {
    assert_eq!(compare(&[record(113, "a", Some("2"))], &[record(7, "a", Some("1"))]), [""; 0]);
    assert_eq!(compare(&[], &[record(1, "a", Some("1"))]), [""; 0]);
}

#[test]
fn a_key_table_takes_only_its_slice_and_says_when_it_is_full() {
    let of = 3;
    let mut seen = 0;
    for index in 0..of {
        let mut table = KeyTable::new(KeySlice { index, of }, 100);
        for key in ["a", "b", "c", "d", "e", "f", "g"] {
            assert!(table.see(Side::Source, &record(0, key, None)));
        }
        seen += table.len();
    }
    assert_eq!(seen, 7);
    let mut table = KeyTable::new(KeySlice::ALL, 1);
    assert!(table.see(Side::Source, &record(0, "a", None)));
    assert!(table.see(Side::Source, &record(1, "a", None)));
    assert!(!table.see(Side::Source, &record(2, "b", None)));
    assert!(table.is_full());
}

#[test]
fn one_changed_part_of_a_record_is_named() {
    let source = record(1, "a", Some("1"));
    let with = |change: fn(&mut VisibleRecord)| {
        let mut copy = VisibleRecord { offset: 5, ..source.clone() };
        change(&mut copy);
        copy_difference(&source, TargetOffset(5), Some(&copy)).unwrap_or_default()
    };
    assert_eq!(with(|_| {}), "");
    assert!(with(|copy| copy.key = None).contains("key"));
    assert!(with(|copy| copy.value = Some(Bytes::new())).contains("value"));
    assert!(with(|copy| copy.timestamp_ms += 1).contains("timestamp is 2 instead of 1"));
    assert!(with(|copy| copy.headers.push((Bytes::new(), None))).contains("headers"));
    assert!(with(|copy| copy.offset = 6).contains("no record"));
}

#[test]
fn a_group_that_has_switched_may_stand_anywhere_and_others_nowhere_else() {
    let expected =
        [position(100, 1), ExpectedPosition { group: GroupId::new("h"), switched: true, ..position(100, 1) }];
    let at = |offset, metadata: &str| {
        let offsets: GroupOffsets =
            [(TopicPartition::new("t", 0), CommittedOffset { offset, metadata: metadata.to_owned() })].into();
        let committed = [(GroupId::new("g"), offsets.clone()), (GroupId::new("h"), offsets)].into();
        let report = consumer_group_reconciliation(&expected, &committed);
        (report.failed, report.notes.len())
    };
    assert_eq!(at(1, ""), (0, 0));
    assert_eq!(at(2, ""), (1, 1));
    assert_eq!(at(1, "x"), (1, 1));
    assert_eq!(consumer_group_reconciliation(&expected, &BTreeMap::new()).failed, 1);
}

#[test]
fn the_last_position_written_counts_and_a_switched_group_stays_switched() {
    let cutover = |group: &str| GroupTranslation {
        group: GroupId::new(group),
        partition: TopicPartition::new("t", 0),
        source_offset: SourceOffset(100),
        target_offset: TargetOffset(1),
        metadata: "m".to_owned(),
    };
    let cutover = CutoverReport {
        marker_kind: MarkerKind::Control,
        version: 1,
        ready_unix_ms: 0,
        freeze: String::new(),
        markers: Vec::new(),
        boundaries: Vec::new(),
        groups: ["followed", "kept", "switched"].map(cutover).to_vec(),
        warnings: Vec::new(),
        timings: CutoverTimings::default(),
    };
    let record = |source, target, switched| GroupRecord {
        switched,
        used_before: false,
        written: [(
            TopicPartition::new("t", 0),
            Written { source: SourceOffset(source), target: TargetOffset(target), unconfirmed_over: None },
        )]
        .into(),
    };
    let mut since = ClientSwitchRecord::default();
    since.groups.insert(GroupId::new("followed"), record(104, 4, None));
    since.groups.insert(GroupId::new("kept"), record(100, 1, None));
    since.groups.insert(GroupId::new("later"), record(101, 2, None));
    since.groups.insert(
        GroupId::new("switched"),
        GroupRecord { switched: Some(Switched::MembersSeen { members: 1 }), ..GroupRecord::default() },
    );
    let positions: Vec<_> = expected_positions(&cutover, &since)
        .into_iter()
        .map(|p| (p.group.to_string(), p.source_offset.0, p.target_offset.0, p.metadata, p.switched))
        .collect();
    let metadata = Some("m".to_owned());
    assert_eq!(
        positions,
        [
            ("followed".to_owned(), 104, 4, None, false),
            ("kept".to_owned(), 100, 1, metadata.clone(), false),
            ("later".to_owned(), 101, 2, None, false),
            ("switched".to_owned(), 100, 1, metadata, true),
        ]
    );
}

#[test]
fn a_warning_is_neither_a_pass_nor_a_failure() {
    let mut report = CheckReport::default();
    report.warn("one record more");
    assert_eq!(report.outcome, Outcome::Warning);
    let mut failed = CheckReport::default();
    failed.fail("t-0", "it is wrong", "Put it right");
    failed.merge(report);
    assert_eq!((failed.outcome, failed.failed, failed.warnings.len()), (Outcome::Failed, 1, 1));
}

#[test]
fn the_report_reads_as_lines_with_failures_behind_the_figures() {
    let passed = |checked| CheckReport { checked, ..CheckReport::default() };
    let mut sentinel_presence = passed(3);
    sentinel_presence.warn("a marker is odd");
    let mut next_record = CheckReport { checked: 4, ..CheckReport::default() };
    next_record.fail("group g on t-0", "it is wrong", "Put it right");
    let report = ValidationReport {
        version: VALIDATION_REPORT_VERSION,
        migration_id: "m".parse().unwrap(),
        at_unix_ms: 0,
        overall: Outcome::Passed,
        partitions: 3,
        by_partition: Vec::new(),
        topic_parity: passed(1),
        counts_and_offsets: passed(3),
        spot_check_records: CheckReport { gone_from_source: 2, ..passed(9) },
        sentinel_presence,
        consumer_group_reconciliation: passed(4),
        next_record,
        compacted_keys: passed(0),
    }
    .conclude();
    insta::assert_snapshot!(report, @r"
    validation=FAILED
    partitions_checked=3
    topic_parity=PASSED checked=1 failed=0
    counts_and_offsets=PASSED checked=3 failed=0
    spot_check_records=PASSED checked=9 failed=0 gone_from_source=2
    sentinel_presence=WARNING checked=3 failed=0
    consumer_group_reconciliation=PASSED checked=4 failed=0
    next_record=FAILED checked=4 failed=1
    compacted_keys=PASSED checked=0 failed=0
    next_record: group g on t-0: it is wrong. Put it right
    warning: sentinel_presence: a marker is odd
    ");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["next_record"]["outcome"], "FAILED");
    assert_eq!(json["overall"], "FAILED");
}
