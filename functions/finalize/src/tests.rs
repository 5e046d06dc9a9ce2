#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

// The same finished migration that validation is tested on, so that there is one idea of a good copy.
#[allow(dead_code, reason = "validation's tests use more of it")]
#[path = "../../validate/src/tests/world.rs"]
mod world;

use krossing_core::{
    evidence::{StoredObject, verify},
    journal::{EntryKind, Journal},
    offset_map::{Manifest, sha256_hex},
    ports::Objects,
    transition::State,
    validation::{Outcome, ValidationReport},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use world::{World, orders, prices};

use crate::{FinalizeError, FinalizeReport};

/// A finished copy whose clients have switched.
async fn switched() -> (World, Journal) {
    let world = World::begin().await;
    let mut journal = world.migration.journal().await.unwrap();
    world.migration.enter(&mut journal, State::Validating, "on its way", json!({})).await.unwrap();
    (world, journal)
}

async fn finalize(world: &World, journal: &mut Journal) -> Result<FinalizeReport, FinalizeError> {
    crate::run(&world.migration, &world.plan, &world.scope, journal).await
}

fn retention(world: &World) -> Vec<String> {
    world.migration.target.content().settings.values().map(|settings| settings["retention.ms"].clone()).collect()
}

async fn stored<T: DeserializeOwned>(world: &World, key: &str) -> (T, String) {
    let content = world.migration.evidence.get(key).await.unwrap().unwrap();
    (serde_json::from_slice(&content).unwrap(), sha256_hex(&content))
}

fn damage(world: &World) {
    world.migration.target.log(&orders(), |log| log.records.get_mut(&3).unwrap().value = None);
}

fn repair(world: &World) {
    let original = world.migration.source.content().logs[&orders()].records[&102].value.clone();
    world.migration.target.log(&orders(), |log| log.records.get_mut(&3).unwrap().value = original);
}

#[tokio::test]
async fn a_good_copy_gets_its_planned_settings_and_a_report() {
    let (world, mut journal) = switched().await;
    let report = finalize(&world, &mut journal).await.unwrap();
    assert_eq!(journal.tip(), Some(State::Finalized));
    assert_eq!(world.migration.journal().await.unwrap(), journal);
    assert_eq!(retention(&world), ["1000", "1000"]);

    let (as_stored, as_sha256) = stored::<FinalizeReport>(&world, "m/report.json").await;
    assert_eq!(as_stored, report);
    let entry = journal.entries().last().unwrap();
    assert_eq!(entry.detail, json!({ "report": { "key": "m/report.json", "sha256": as_sha256 } }));
    assert_eq!((report.copied.records, report.copied.fences), (15, 6));
    assert_eq!((report.groups.groups, report.groups.positions), (5, 5));
    assert_eq!(report.plan_sha256, world.plan.digest());
    assert_eq!(report.states.len(), 9);

    let (validation, sha256) = stored::<ValidationReport>(&world, "m/validation-report.json").await;
    assert_eq!(validation.overall, Outcome::Passed);
    assert_eq!(report.validation.report, StoredObject { key: "m/validation-report.json".to_owned(), sha256 });
    let (map, sha256) = stored::<Manifest>(&world, "m/offset-map.json").await;
    assert_eq!(report.offset_map.sha256, sha256);
    assert_eq!(map.partitions.iter().map(|partition| partition.records).collect::<Vec<_>>(), [9, 0, 6]);
    assert!(map.partitions.iter().all(|partition| partition.boundary.is_some()));
    assert!(report.to_string().ends_with("validation=PASSED\n"));

    let document = world.migration.evidence.get("m/evidence.json").await.unwrap().unwrap();
    let verified = verify(&document, None).unwrap();
    assert_eq!((verified.outcome, verified.validation.as_deref()), (State::Finalized, Some("PASSED")));
    assert_eq!(
        verified.objects,
        [report.offset_map, StoredObject { key: "m/report.json".to_owned(), sha256: as_sha256 }]
    );
}

#[tokio::test]
async fn a_failed_validation_changes_nothing_and_may_be_repeated_after_a_repair() {
    let (world, mut journal) = switched().await;
    damage(&world);
    for _ in 0..2 {
        let error = finalize(&world, &mut journal).await.unwrap_err();
        assert!(error.to_string().starts_with("validation failed: spot_check_records;"), "{error}");
        assert_eq!(journal.tip(), Some(State::Failed));
        assert_eq!(journal.entries().last().unwrap().reason, "validation failed: spot_check_records");
        assert_eq!(retention(&world), ["-1", "-1"]);
        let (validation, _) = stored::<ValidationReport>(&world, "m/validation-report.json").await;
        assert_eq!(validation.overall, Outcome::Failed);
        let document = world.migration.evidence.get("m/evidence.json").await.unwrap().unwrap();
        assert_eq!(verify(&document, None).unwrap().outcome, State::Failed);
    }
    repair(&world);
    finalize(&world, &mut journal).await.unwrap();
    assert_eq!(journal.tip(), Some(State::Finalized));
    assert_eq!(retention(&world), ["1000", "1000"]);
}

#[tokio::test]
async fn only_a_migration_that_is_being_validated_is_finalized() {
    let world = World::begin().await;
    let mut journal = world.migration.journal().await.unwrap();
    assert_eq!(journal.tip(), Some(State::AwaitingClientSwitch));
    let before = journal.clone();
    assert!(matches!(finalize(&world, &mut journal).await, Err(FinalizeError::Migration(_))));
    assert_eq!(journal, before);
    assert_eq!(retention(&world), ["-1", "-1"]);
}

/// A process died while it set topics' settings.
async fn killed_while_setting() -> (World, Journal) {
    let (world, mut journal) = switched().await;
    crate::validate(&world.migration, &world.scope, &mut journal).await.unwrap();
    world.migration.note(&mut journal, EntryKind::Finalizing, "topics get theirs", json!({})).await.unwrap();
    (world, journal)
}

#[tokio::test]
async fn a_target_that_has_begun_to_forget_as_planned_is_not_validated_again() {
    let (world, mut journal) = killed_while_setting().await;
    world.migration.target.log(&orders(), |log| log.start = 5);
    world.migration.target.log(&prices(), |log| log.records.retain(|offset, _| *offset > 2));
    finalize(&world, &mut journal).await.unwrap();
    assert_eq!(journal.tip(), Some(State::Finalized));
    assert_eq!(retention(&world), ["1000", "1000"]);
}

#[tokio::test]
async fn without_the_validation_that_passed_before_it_is_refused() {
    let (world, mut journal) = killed_while_setting().await;
    world.migration.evidence.put("m/validation-report.json", vec!["{}".into()]).await.unwrap();
    let error = finalize(&world, &mut journal).await.unwrap_err();
    assert!(error.to_string().contains("is not the one the journal names"), "{error}");
    assert_eq!(journal.tip(), Some(State::Validating));
}
