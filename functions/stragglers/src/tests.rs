#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use bytes::Bytes;
use krossing_core::{
    canonical::canonical_json,
    config::Config,
    cutover::{
        Boundary, CUTOVER_REPORT_VERSION, ClosingMarker, CutoverReport, CutoverTimings, MarkerKind, cutover_report_key,
    },
    offset_map::sha256_hex,
    plan::PlannedTopic,
    ports::Objects,
    records::Codec,
    transition::State,
};
use krossing_testkit::{FakePorts, FakeWorld, Fault, Faults, record, tester};
use serde_json::json;

use super::*;

const CONFIG: &str = "migration:
  source: {bootstrap_servers: 'a:1'}
  target: {bootstrap_servers: 'b:1'}
  backup: {directory: segments}
  evidence: {directory: evidence}
";

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn migration(world: &FakeWorld, faults: &Faults) -> Migration<FakePorts> {
    Migration {
        id: "m".parse().unwrap(),
        config: Config::parse(CONFIG, |_| None).unwrap(),
        by: tester(),
        role_per_phase: false,
        ports: world.process(faults),
    }
}

/// READY, closed without markers after one record, with stragglers in partition 0: two of a producer with a
/// transaction that it committed, one of a transaction that it aborted, and one of nobody.
async fn left_behind() -> FakeWorld {
    let world = FakeWorld::new(1);
    world.source.create_topic("t", 2, &[]);
    world.target.create_topic("t", 2, &[]);
    for cluster in [&world.source, &world.target] {
        cluster.append(&at(0), Codec::None, vec![record("k", "in time")]);
    }
    let report = CutoverReport {
        version: CUTOVER_REPORT_VERSION,
        ready_unix_ms: 1,
        freeze: "nobody had to".to_owned(),
        marker_kind: MarkerKind::None,
        markers: [(at(0), 1), (at(1), 0)]
            .map(|(partition, end)| ClosingMarker { partition, source_offset: SourceOffset(end) })
            .to_vec(),
        // The record of the copy itself is none of a client's.
        boundaries: vec![Boundary { partition: at(0), target_offset: TargetOffset(1) }],
        groups: Vec::new(),
        warnings: Vec::new(),
        timings: CutoverTimings::default(),
    };
    let migration = migration(&world, &Faults::none());
    let report = Bytes::from(canonical_json(&report).unwrap());
    let digest = sha256_hex(&report);
    migration.evidence.put(&cutover_report_key(&migration.id, &digest), vec![report]).await.unwrap();
    let mut journal = Journal::default();
    migration.begin(&mut journal, "f".to_owned(), "planned", json!({})).await.unwrap();
    for next in State::ALL.into_iter().skip(1).take_while(|next| *next <= State::AwaitingClientSwitch) {
        migration.enter(&mut journal, next, "on its way", json!({ "report_sha256": digest })).await.unwrap();
    }
    let mut producer = world.source.transactional_producer("forgotten");
    producer.append(&at(0), Codec::Lz4, vec![record("k", "late 1"), record("k", "late 2")]);
    producer.commit();
    producer.append(&at(0), Codec::None, vec![record("k", "aborted")]);
    producer.abort();
    world.source.append(&at(0), Codec::None, vec![record("k", "late 3")]);
    world
}

fn scope(world: &FakeWorld, compacted: bool) -> Scope {
    let topic = PlannedTopic {
        name: at(0).topic,
        source_topic_id: world.source.topic_id("t"),
        partitions: 2,
        replication_factor: 1,
        compacted,
        bytes: 0,
        max_message_bytes: 1_048_588,
        hold_configs: BTreeMap::new(),
        final_configs: BTreeMap::new(),
        settings_left_out: BTreeMap::new(),
    };
    Scope { topics: vec![topic], lanes: Vec::new(), digest: "d".to_owned(), amendments: 0 }
}

/// One command, about a topic that is not compacted.
async fn run(
    world: &FakeWorld,
    faults: &Faults,
    choice: Choice,
) -> Option<Result<Option<StragglerDecision>, StragglersError>> {
    command(world, faults, choice, false, &[]).await
}

async fn command(
    world: &FakeWorld,
    faults: &Faults,
    choice: Choice,
    compacted: bool,
    topics: &[&str],
) -> Option<Result<Option<StragglerDecision>, StragglersError>> {
    let migration = migration(world, faults);
    let scope = scope(world, compacted);
    let topics = topics.iter().map(|name| TopicName::new(*name)).collect();
    let command = async {
        let mut journal = migration.journal().await?;
        decide(&migration, Wanted { scope: &scope, topics: &topics }, &mut journal, choice).await
    };
    tokio::select! {
        done = command => Some(done),
        () = faults.crashed() => None,
    }
}

fn values(world: &FakeWorld) -> Vec<String> {
    let text = |value: Option<Bytes>| String::from_utf8(value.unwrap().to_vec()).unwrap();
    world.target.visible_records(&at(0)).into_iter().map(|record| text(record.value)).collect()
}

async fn decided(world: &FakeWorld) -> Decided {
    Decided::of(&migration(world, &Faults::none()).journal().await.unwrap())
}

const ALL: [&str; 4] = ["in time", "late 1", "late 2", "late 3"];

#[tokio::test(start_paused = true)]
async fn committed_records_are_found_with_who_wrote_them_and_nothing_is_changed() {
    let world = left_behind().await;
    let migration = migration(&world, &Faults::none());
    let journal = migration.journal().await.unwrap();
    let (scope, topics) = (scope(&world, false), BTreeSet::new());
    let found = find(&migration, Wanted { scope: &scope, topics: &topics }, &journal).await.unwrap();
    let producer = world.source.producer_of("forgotten").unwrap();
    let expected = Undecided {
        partition: at(0),
        from: SourceOffset(1),
        to: SourceOffset(world.source.ends(&at(0)).2),
        records: 3,
        producers: BTreeSet::from([producer.id]),
        first_records: found[0].first_records.clone(),
    };
    assert_eq!(found, [expected]);
    let keys: Vec<_> = found[0].first_records.iter().map(|shown| shown.key.as_deref().unwrap()).collect();
    assert_eq!(keys, [r#""k""#; 3]);
    assert_eq!(migration.journal().await.unwrap(), journal);
    assert_eq!(values(&world), ["in time"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_out_is_kept_and_not_asked_again() {
    let world = left_behind().await;
    let decision = run(&world, &Faults::none(), Choice::Leave).await.unwrap().unwrap().unwrap();
    assert_eq!(values(&world), ["in time"]);
    let kept = world.evidence.get(&decision.partitions[0].kept.key).await.unwrap().unwrap();
    assert!(!kept.is_empty());
    assert_eq!(run(&world, &Faults::none(), Choice::Append).await.unwrap().unwrap(), None);
    assert_eq!(decided(&world).await.unfinished(), None);
    // What comes later is a decision of its own.
    world.source.append(&at(0), Codec::None, vec![record("k", "later")]);
    run(&world, &Faults::none(), Choice::Append).await.unwrap().unwrap().unwrap();
    assert_eq!(values(&world), ["in time", "later"]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_or_failure_at_any_call_appends_each_record_once() {
    let calls = {
        let (world, faults) = (left_behind().await, Faults::none());
        run(&world, &faults, Choice::Append).await.unwrap().unwrap().unwrap();
        assert_eq!(values(&world), ALL);
        faults.calls().len() as u64
    };
    for fault in Fault::ALL {
        for number in 0..calls {
            let world = left_behind().await;
            let first = run(&world, &Faults::at(number, fault), Choice::Append).await;
            // Clients write meanwhile, and whatever is still on its way may land.
            world.target.append(&at(0), Codec::None, vec![record("k", "of a client")]);
            let again = run(&world, &Faults::none(), Choice::Append).await;
            assert!(matches!(again, Some(Ok(_))), "call {number}, {fault:?}: {first:?}, then {again:?}");
            world.clock.skip(std::time::Duration::from_secs(1)).await;
            let mut there = values(&world);
            there.retain(|value| value != "of a client");
            assert_eq!(there, ALL, "call {number}, {fault:?}: {first:?}, then {again:?}");
            assert_eq!(decided(&world).await.unfinished(), None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_that_has_begun_is_ended_before_anything_is_left_out() {
    let world = left_behind().await;
    let faults = Faults::on("target.produce", 0, Fault::CrashAfter);
    assert!(run(&world, &faults, Choice::Append).await.is_none());
    let refused = run(&world, &Faults::none(), Choice::Leave).await.unwrap().unwrap_err();
    assert!(matches!(refused, StragglersError::AppendUnfinished { number: 1 }), "{refused}");
    run(&world, &Faults::none(), Choice::Append).await.unwrap().unwrap();
    assert_eq!(values(&world), ALL);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_a_week_has_made_another_still_knows_what_the_first_appended() {
    let world = left_behind().await;
    let faults = Faults::on("target.produce", 0, Fault::CrashAfter);
    assert!(run(&world, &faults, Choice::Append).await.is_none());
    let first = world.target.producer_of("krossing.m.stragglers").unwrap();
    world.clock.skip(std::time::Duration::from_secs(8 * 24 * 3600)).await;
    run(&world, &Faults::none(), Choice::Append).await.unwrap().unwrap();
    assert_ne!(world.target.producer_of("krossing.m.stragglers").unwrap().id, first.id);
    assert_eq!(values(&world), ALL);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_still_open_is_left_to_the_next_decision() {
    let world = left_behind().await;
    let mut open = world.source.transactional_producer("open");
    open.append(&at(1), Codec::None, vec![record("k", "not yet")]);
    run(&world, &Faults::none(), Choice::Append).await.unwrap().unwrap().unwrap();
    assert!(world.target.visible_records(&at(1)).is_empty());
    open.commit();
    run(&world, &Faults::none(), Choice::Append).await.unwrap().unwrap().unwrap();
    assert_eq!(world.target.visible_records(&at(1)).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_retention_has_taken_meanwhile_needs_no_decision() {
    let world = left_behind().await;
    let (_, _, end) = world.source.ends(&at(0));
    world.source.delete_records(&at(0), end);
    assert_eq!(run(&world, &Faults::none(), Choice::Append).await.unwrap().unwrap(), None);
    world.source.append(&at(0), Codec::None, vec![record("k", "later")]);
    run(&world, &Faults::none(), Choice::Append).await.unwrap().unwrap().unwrap();
    assert_eq!(values(&world), ["in time", "later"]);
}

#[tokio::test(start_paused = true)]
async fn on_a_compacted_topic_a_key_that_a_client_has_written_since_is_not_taken_back() {
    let world = left_behind().await;
    let none = Faults::none();
    let boundary = world.target.ends(&at(0)).2;
    assert_eq!(boundary, 1, "as the cutover left it");
    world.target.append(&at(0), Codec::None, vec![record("other", "of a client")]);
    world.target.append(&at(0), Codec::Lz4, vec![record("k", "newer")]);
    let refused = command(&world, &none, Choice::Append, true, &[]).await.unwrap().unwrap_err();
    let expected = NewerKey { partition: at(0), key: "\"k\"".to_owned(), target_offset: TargetOffset(boundary + 1) };
    assert!(matches!(&refused, StragglersError::NewerOnTarget { keys } if *keys == [expected]), "{refused}");
    assert_eq!(decided(&world).await.decisions, [], "nothing is decided");
    assert_eq!(values(&world), ["in time", "of a client", "newer"]);
    command(&world, &none, Choice::Leave, true, &["t"]).await.unwrap().unwrap().unwrap();

    // What we have appended ourselves is no client's, whatever follows it.
    for later in ["later", "last"] {
        world.source.append(&at(0), Codec::None, vec![record("mine", later)]);
        command(&world, &none, Choice::Append, true, &[]).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(values(&world), ["in time", "of a client", "newer", "later", "last"]);
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_about_the_topics_that_are_named() {
    let world = left_behind().await;
    let refused = command(&world, &Faults::none(), Choice::Leave, false, &["u"]).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("--topic u"), "{refused}");
    command(&world, &Faults::none(), Choice::Append, false, &["t"]).await.unwrap().unwrap().unwrap();
    assert_eq!(values(&world), ALL);
}
