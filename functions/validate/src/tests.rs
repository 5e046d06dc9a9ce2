//! Each check passes on a good copy and fails on the fault it is there for.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod world;

use krossing_core::{
    GroupId, SourceOffset, TargetOffset, TopicPartition,
    client_switch::{CLIENT_SWITCH_DOCUMENT, ClientSwitchRecord, GroupRecord, Switched, Written},
    ports::{Ledger, VisibleRecord},
    progress::Gap,
    validation::{CheckReport, ValidationReport},
};
use world::{World, orders, prices, record};

async fn validate(world: &World) -> ValidationReport {
    crate::run(&world.migration, &world.scope).await.unwrap()
}

/// Damages a good copy, and expects exactly these checks to fail.
async fn check(damage: impl FnOnce(&mut World), expected: &[&str]) -> ValidationReport {
    let mut world = World::begin().await;
    damage(&mut world);
    world.save().await;
    let report = validate(&world).await;
    assert_eq!(report.failed_checks(), expected, "\n{report}");
    report
}

fn problems(check: &CheckReport) -> Vec<&str> {
    check.findings.iter().map(|finding| finding.problem.as_str()).collect()
}

/// Changes the record at target offset 3 of `orders`, the copy of source offset 102.
fn change(change: impl FnOnce(&mut VisibleRecord)) -> impl FnOnce(&mut World) {
    |world| world.migration.target.log(&orders(), |log| change(log.records.get_mut(&3).unwrap()))
}

#[tokio::test]
async fn a_good_copy_passes_every_check() {
    let report = check(|_| {}, &[]).await;
    assert_eq!(report.partitions, 3);
    let looked_at = report.checks().map(|(_, check)| check.checked);
    // Nine records of orders and six of prices; four keys.
    assert_eq!(looked_at, [2, 3, 15, 3, 5, 5, 4], "\n{report}");
    let sampled: Vec<_> = report.by_partition.iter().map(|it| (it.outcome, it.sampled_source_offsets.len())).collect();
    assert_eq!(sampled.iter().map(|(_, samples)| samples).sum::<usize>(), 15);
    assert!(sampled.iter().all(|(outcome, _)| *outcome == krossing_core::validation::Outcome::Passed));
}

#[tokio::test]
async fn a_changed_record_is_found_whatever_of_it_was_changed() {
    let expected = ["spot_check_records"];
    check(change(|record| record.value = None), &expected).await;
    check(change(|record| record.key = None), &expected).await;
    check(change(|record| record.timestamp_ms += 1), &expected).await;
    check(change(|record| record.headers.swap(0, 1)), &expected).await;
    check(change(|record| record.headers[1].1 = Some("".into())), &expected).await;
}

#[tokio::test]
async fn a_dropped_record_is_found() {
    // The rest moved up, as if it had never been copied: the map says it was.
    let report = check(
        |world| {
            world.migration.target.log(&orders(), |log| {
                let records: Vec<_> = log.records.values().cloned().collect();
                log.records.clear();
                log.controls = vec![0, 9];
                log.end = 1;
                records.into_iter().filter(|record| record.offset != 3).for_each(|record| log.push(record));
                log.end = 10;
            });
        },
        &["counts_and_offsets", "spot_check_records", "next_record"],
    )
    .await;
    assert!(problems(&report.counts_and_offsets)[0].contains("ends at offset 10, before the boundary 11"));
    // Gone from the middle, as if cleaned.
    let report = check(
        |world| world.migration.target.log(&orders(), |log| drop(log.records.remove(&3))),
        &["spot_check_records"],
    )
    .await;
    assert!(problems(&report.spot_check_records)[0].contains("there is no record"));
}

#[tokio::test]
async fn a_doubled_record_is_found() {
    check(
        |world| {
            // Twice in the target; the books know of one.
            world.migration.target.log(&orders(), |log| {
                let twice = log.records[&9].clone();
                log.controls = vec![0, 11];
                log.end = 10;
                log.push(twice);
                log.end = 12;
            });
            world.cutover.boundaries[0].target_offset = TargetOffset(12);
            world.progress[0].target_next = TargetOffset(12);
            // A group at the end would read the second one.
            world.cutover.groups.retain(|position| position.group.as_str() != "done");
        },
        &["counts_and_offsets"],
    )
    .await;
}

#[tokio::test]
async fn two_swapped_records_are_found() {
    let swap = |world: &mut World| {
        world.migration.target.log(&orders(), |log| {
            let (first, second) = (log.records[&3].clone(), log.records[&4].clone());
            log.records.insert(3, VisibleRecord { offset: 3, ..second });
            log.records.insert(4, VisibleRecord { offset: 4, ..first });
        });
    };
    let report = check(swap, &["spot_check_records"]).await;
    assert_eq!(report.spot_check_records.failed, 2);
}

#[tokio::test]
async fn records_of_the_source_that_were_never_mapped_are_found() {
    let report = check(
        |world| world.migration.source.log(&orders(), |log| drop(log.records.insert(105, record(105, "k", None)))),
        &["next_record"],
    )
    .await;
    assert!(problems(&report.next_record)[0].contains("source offset 105 was not copied"));
}

#[tokio::test]
async fn what_the_source_has_trimmed_or_compacted_since_is_no_fault() {
    let report = check(
        |world| {
            world.migration.source.log(&orders(), |log| {
                log.start = 104;
                log.records.retain(|offset, _| *offset >= 104);
            });
        },
        &[],
    )
    .await;
    assert_eq!(report.next_record.checked, 5);
    // All of it, with the marker.
    let report = check(
        |world| {
            world.migration.source.log(&orders(), |log| {
                log.start = 111;
                log.records.clear();
                log.controls.clear();
            });
        },
        &[],
    )
    .await;
    assert_eq!(report.sentinel_presence.gone_from_source, 1);
    assert_eq!(report.spot_check_records.gone_from_source, 9);
}

#[tokio::test]
async fn a_record_that_is_gone_from_both_sides_is_still_missing_on_the_target() {
    check(
        |world| {
            world.migration.source.log(&orders(), |log| log.records.clear());
            world.migration.target.log(&orders(), |log| drop(log.records.remove(&3)));
        },
        &["spot_check_records"],
    )
    .await;
}

#[tokio::test]
async fn a_group_one_off_is_found() {
    let moved = |by: i64| {
        move |world: &mut World| {
            let mut content = world.migration.target.content();
            content.groups.get_mut(&GroupId::new("middle")).unwrap().get_mut(&orders()).unwrap().offset += by;
        }
    };
    check(moved(1), &["consumer_group_reconciliation"]).await;
    check(moved(-1), &["consumer_group_reconciliation"]).await;
    // Written wrong from the beginning.
    let written = |by: i64| {
        move |world: &mut World| {
            world.cutover.groups[1].target_offset = TargetOffset(6 + by);
            moved(by)(world);
        }
    };
    let report = check(written(1), &["next_record"]).await;
    assert!(problems(&report.next_record)[0].contains("goes on behind it"));
    let report = check(written(-1), &["next_record"]).await;
    assert!(problems(&report.next_record)[0].contains("again"));
}

#[tokio::test]
async fn the_record_at_which_a_group_goes_on_is_compared() {
    let report = check(
        |world| world.migration.target.log(&orders(), |log| log.records.get_mut(&6).unwrap().value = None),
        &["spot_check_records", "next_record"],
    )
    .await;
    // Both groups that stand there.
    assert_eq!(report.next_record.failed, 2);
}

#[tokio::test]
async fn a_group_that_has_switched_may_be_anywhere() {
    let moved = |world: &mut World| {
        let mut content = world.migration.target.content();
        content.groups.get_mut(&GroupId::new("middle")).unwrap().get_mut(&orders()).unwrap().offset = 9;
        content.members.insert(GroupId::new("middle"), 1);
    };
    check(moved, &[]).await;

    let mut world = World::begin().await;
    moved(&mut world);
    world.migration.target.content().members.clear();
    let mut switched = ClientSwitchRecord::default();
    let why = Some(Switched::MembersSeen { members: 1 });
    switched.groups.insert(GroupId::new("middle"), GroupRecord { switched: why, ..GroupRecord::default() });
    let stored = serde_json::to_vec(&switched).unwrap().into();
    world.migration.ledger.put_document(CLIENT_SWITCH_DOCUMENT, None, stored).await.unwrap();
    assert_eq!(validate(&world).await.failed_checks(), [""; 0]);
}

#[tokio::test]
async fn a_group_that_was_kept_in_step_is_held_to_its_last_position() {
    let world = World::begin().await;
    let mut switched = ClientSwitchRecord::default();
    let written = Written { source: SourceOffset(108), target: TargetOffset(8), unconfirmed_over: None };
    let group = GroupRecord { written: [(orders(), written)].into(), ..GroupRecord::default() };
    switched.groups.insert(GroupId::new("middle"), group);
    let stored = serde_json::to_vec(&switched).unwrap().into();
    world.migration.ledger.put_document(CLIENT_SWITCH_DOCUMENT, None, stored).await.unwrap();
    assert_eq!(validate(&world).await.failed_checks(), ["consumer_group_reconciliation"]);
    world
        .migration
        .target
        .content()
        .groups
        .get_mut(&GroupId::new("middle"))
        .unwrap()
        .get_mut(&orders())
        .unwrap()
        .offset = 8;
    assert_eq!(validate(&world).await.failed_checks(), [""; 0]);
}

#[tokio::test]
async fn a_missing_marker_or_fence_is_found() {
    let record_there = |log: &mut world::Log, offset| {
        log.controls.retain(|control| *control != offset);
        log.records.insert(offset, record(offset, "k", None));
    };
    check(|world| world.migration.source.log(&orders(), |log| record_there(log, 110)), &["sentinel_presence"]).await;
    check(|world| world.migration.target.log(&orders(), |log| record_there(log, 10)), &["sentinel_presence"]).await;
    let nothing_there = |log: &mut world::Log| log.controls.retain(|control| *control != 110);
    let report = check(|world| world.migration.source.log(&orders(), nothing_there), &["sentinel_presence"]).await;
    assert!(problems(&report.sentinel_presence)[0].contains("there is nothing"));
    check(|world| drop(world.cutover.markers.remove(0)), &["sentinel_presence"]).await;
    check(|world| drop(world.cutover.boundaries.remove(0)), &["sentinel_presence"]).await;
}

#[tokio::test]
async fn a_producer_that_was_left_behind_is_found() {
    let report = check(
        |world| {
            world.migration.source.log(&orders(), |log| {
                log.push_control();
                log.push(record(0, "k", Some("late")));
            });
        },
        &["sentinel_presence"],
    )
    .await;
    assert!(problems(&report.sentinel_presence)[0].contains("at offset 112, behind where it was closed, at 110"));
}

#[tokio::test]
async fn what_applications_write_after_the_switch_is_not_looked_at() {
    check(
        |world| {
            for partition in [orders(), prices()] {
                world.migration.target.log(&partition, |log| log.push(record(0, "new", Some("x"))));
            }
        },
        &[],
    )
    .await;
}

#[tokio::test]
async fn a_partition_more_or_a_topic_made_anew_is_found() {
    let more = |world: &mut World, target: bool| {
        let cluster = if target { &world.migration.target } else { &world.migration.source };
        cluster.content().logs.insert(TopicPartition::new("prices", 1), Default::default());
    };
    check(|world| more(world, true), &["topic_parity"]).await;
    check(|world| more(world, false), &["topic_parity"]).await;
    check(
        |world| {
            let other = serde_json::from_value("00000000-0000-0000-0000-000000000009".into()).unwrap();
            world.migration.source.content().ids.insert("orders".into(), other);
        },
        &["topic_parity"],
    )
    .await;
    let gone =
        |world: &mut World| drop(world.migration.target.content().logs.remove(&TopicPartition::new("orders", 1)));
    check(gone, &["topic_parity", "counts_and_offsets"]).await;
}

#[tokio::test]
async fn a_target_that_has_forgotten_records_is_found() {
    let report = check(
        |world| {
            world.migration.target.log(&orders(), |log| {
                log.start = 3;
                log.records.retain(|offset, _| *offset >= 3);
            });
        },
        &["counts_and_offsets", "spot_check_records", "next_record"],
    )
    .await;
    assert!(problems(&report.counts_and_offsets).iter().any(|problem| problem.contains("starts at offset 3")));
}

#[tokio::test]
async fn a_lane_that_stopped_short_or_wrote_on_is_found() {
    check(|world| world.progress[0].source_next = SourceOffset(110), &["counts_and_offsets"]).await;
    check(|world| world.progress[0].target_next = TargetOffset(12), &["counts_and_offsets"]).await;
    let mut world = World::begin().await;
    world.scope.lanes.clear();
    assert_eq!(validate(&world).await.failed_checks(), ["counts_and_offsets"]);
}

#[tokio::test]
async fn a_count_within_the_tolerance_is_a_warning() {
    let one_fence_more = |world: &mut World| world.progress[0].counts.fences += 1;
    check(one_fence_more, &["counts_and_offsets"]).await;
    let tolerated = |world: &mut World| {
        one_fence_more(world);
        world.migration.config.validation.count_tolerance = 1;
    };
    let report = check(tolerated, &[]).await;
    assert!(report.counts_and_offsets.warnings[0].ends_with("within the tolerance)"));
}

#[tokio::test]
async fn what_was_lost_before_it_was_read_is_a_warning() {
    let gap = Gap { from: SourceOffset(90), to: SourceOffset(100), noticed_unix_ms: 0 };
    let report = check(|world| world.progress[0].gaps.push(gap), &[]).await;
    assert!(report.counts_and_offsets.warnings[0].contains("source offsets 90 to 100"));
}

#[tokio::test]
async fn a_tombstone_that_was_cleaned_before_it_was_read_is_found() {
    // The source deleted key d (source offset 5) behind our back, and nothing of it is left.
    let report =
        check(|world| world.migration.source.log(&prices(), |log| drop(log.records.remove(&5))), &["compacted_keys"])
            .await;
    assert!(problems(&report.compacted_keys)[0].contains("tombstone was cleaned"));
}

#[tokio::test]
async fn missed_tombstones_are_named_where_reading_took_longer_than_they_are_kept() {
    let world = World::begin().await;
    world.migration.source.log(&prices(), |log| drop(log.records.remove(&5)));
    let missed = async |doubtful: &[TopicPartition]| {
        let doubtful = doubtful.iter().map(|partition| (partition.clone(), SourceOffset(1))).collect();
        let missed = crate::tombstones_missed(&world.migration, &world.plan.scope(&[]), &doubtful).await.unwrap();
        missed.map_or(String::new(), |missed| missed.to_string())
    };
    assert_eq!(missed(&[]).await, "");
    for _again in 0..2 {
        assert!(missed(&[prices()]).await.starts_with("B42: 1 keys of prices-0, which was not read for longer"));
    }
}

#[tokio::test]
async fn keys_are_compared_once_for_all_that_was_doubtful_then() {
    let mut world = World::begin().await;
    let missed = async |world: &World, to: i64| {
        let doubtful = [(prices(), SourceOffset(to))].into();
        crate::tombstones_missed(&world.migration, &world.plan.scope(&[]), &doubtful).await.unwrap().is_some()
    };
    let copied_to = world.progress[2].source_next.0;
    assert!(!missed(&world, copied_to).await);
    // Would be found by whoever looked.
    world.migration.source.log(&prices(), |log| drop(log.records.remove(&5)));
    assert!(!missed(&world, copied_to).await);
    assert!(missed(&world, copied_to + 1).await);
    world.progress[2].went_back_times += 1;
    world
        .migration
        .ledger
        .save_lane_progress(krossing_core::LaneId(0), krossing_core::Generation(1), &world.progress)
        .await
        .unwrap();
    assert!(missed(&world, copied_to).await, "what is copied again is compared again");
}

#[tokio::test]
async fn a_key_with_another_value_is_found() {
    check(
        |world| world.migration.target.log(&prices(), |log| log.records.get_mut(&6).unwrap().value = None),
        &["spot_check_records", "compacted_keys"],
    )
    .await;
}

#[tokio::test]
async fn many_keys_are_compared_in_slices_with_the_same_result() {
    let world = World::begin().await;
    world.migration.source.log(&prices(), |log| drop(log.records.remove(&5)));
    let progress = &world.progress[2];
    let whole = crate::compacted::compare_partition(&world.migration, progress, 100).await.unwrap();
    let sliced = crate::compacted::compare_partition(&world.migration, progress, 1).await.unwrap();
    assert_eq!((whole.checked, whole.failed), (4, 1));
    assert_eq!(whole, sliced);
}

#[tokio::test]
async fn before_the_cutover_what_is_not_copied_yet_is_left_out() {
    let mut world = World::begin().await;
    // The lane has copied up to source offset 4; a and d moved on behind it, and a's copied value was compacted away.
    world.progress[2].source_next = SourceOffset(4);
    world.progress[2].target_next = TargetOffset(5);
    world.migration.source.log(&prices(), |log| {
        drop(log.records.remove(&2));
        log.push(record(0, "a", Some("3")));
    });
    let report = crate::compare_compacted(&world.migration, &world.progress[2..]).await.unwrap();
    assert_eq!((report.checked, report.failed), (1, 0), "{report:?}");
}
