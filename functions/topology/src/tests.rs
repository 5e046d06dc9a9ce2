//! Goal: whatever dies at whichever call, the next process comes to the same topics.

use krossing_core::{
    MigrationId,
    config::Config,
    plan::{MigrationPlan, PlanInput, Selection, SourceInventory, TargetInventory, plan},
    ports::{Groups, Inventory},
};
use krossing_testkit::{FakePorts, FakeWorld, Fault, Faults};

use super::*;

const CONFIG: &str = "migration:
  source: {bootstrap_servers: 'a:1'}
  target: {bootstrap_servers: 'b:1'}
  backup: {directory: segments}
  evidence: {directory: evidence}
";

fn migration(world: &FakeWorld, faults: &Faults, config: &str) -> Migration<FakePorts> {
    let config = Config::parse(config, |_| None).expect("the configuration is right");
    let id: MigrationId = "m".parse().expect("a valid id");
    Migration::new(id, config, world.process(faults))
}

fn world() -> FakeWorld {
    let world = FakeWorld::new(3);
    world.source.create_topic("orders", 3, &[("retention.ms", "1000"), ("segment.ms", "5000")]);
    world.source.create_topic("state", 2, &[("cleanup.policy", "compact")]);
    world
}

/// The plan, made without faults and as it would be stored.
async fn planned(world: &FakeWorld) -> MigrationPlan {
    let (source, target) = (&world.source, &world.target);
    let topics = source.describe_topics(None).await.expect("no faults");
    let names: Vec<_> = topics.iter().map(|topic| topic.name.clone()).collect();
    let source = SourceInventory {
        cluster: source.describe_cluster().await.expect("no faults"),
        configs: source.topic_configs(&names).await.expect("no faults"),
        sizes: source.partition_sizes().await.expect("no faults"),
        groups: source.describe_groups(&[]).await.expect("no faults"),
        topics,
        acls: None,
        quotas: Vec::new(),
        scram_users: Vec::new(),
    };
    let target = TargetInventory {
        cluster: target.describe_cluster().await.expect("no faults"),
        topics: Vec::new(),
        broker_configs: Configs::new(),
        configs: BTreeMap::new(),
        groups: Vec::new(),
        acls: None,
    };
    let id: MigrationId = "m".parse().expect("a valid id");
    let selection = Selection::default();
    plan(&PlanInput { migration_id: &id, selection: &selection, lanes: 1, source: &source, target: &target })
}

async fn all_configs(world: &FakeWorld) -> BTreeMap<TopicName, Configs> {
    let topics = world.target.describe_topics(None).await.expect("no faults");
    let names: Vec<_> = topics.into_iter().map(|topic| topic.name).collect();
    world.target.topic_configs(&names).await.expect("no faults")
}

#[tokio::test(start_paused = true)]
async fn topics_are_made_to_hold_and_a_repetition_changes_nothing() {
    let world = world();
    let plan = planned(&world).await;
    let migration = migration(&world, &Faults::none(), CONFIG);
    let first = create(&migration, &plan.topics).await.expect("nothing stands in the way");
    assert_eq!((first.topics_created, first.topics_unchanged), (2, 0));
    assert_eq!(world.target.topic_config("orders", "retention.ms"), "-1");
    assert_eq!(world.target.topic_config("state", "cleanup.policy"), "delete");
    let made = all_configs(&world).await;
    let second = create(&migration, &plan.topics).await.expect("nothing stands in the way");
    assert_eq!(second, TopologyReport { topics_unchanged: 2, ..TopologyReport::default() });
    assert_eq!(all_configs(&world).await, made);
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_call_leaves_what_the_next_process_completes() {
    let undisturbed = world();
    let plan = planned(&undisturbed).await;
    let counted = Faults::none();
    let migration_of = |world: &FakeWorld, faults: &Faults| migration(world, faults, CONFIG);
    create(&migration_of(&undisturbed, &counted), &plan.topics).await.expect("no faults");
    let expected = all_configs(&undisturbed).await;
    for number in 0..counted.calls().len() as u64 {
        for fault in [Fault::FailBefore, Fault::FailAfter] {
            let world = world();
            let faulty = Faults::at(number, fault);
            if let Err(error) = create(&migration_of(&world, &faulty), &plan.topics).await {
                assert!(matches!(error, MigrationError::Cluster { .. }), "{number} {fault:?}: {error}");
            }
            let again = create(&migration_of(&world, &Faults::none()), &plan.topics).await;
            again.unwrap_or_else(|error| panic!("{number} {fault:?}: {error}"));
            assert_eq!(all_configs(&world).await, expected, "{number} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_topic_that_exists_gets_partitions_and_settings_and_loses_its_own() {
    let world = world();
    let plan = planned(&world).await;
    world.target.create_topic(
        "orders",
        1,
        &[("follower.replication.throttled.replicas", "0:1"), ("retention.ms", "5")],
    );
    let report = create(&migration(&world, &Faults::none(), CONFIG), &plan.topics).await.expect("it can be used");
    assert_eq!((report.topics_created, report.topics_extended, report.topics_altered), (1, 1, 1));
    let configs = &all_configs(&world).await[&TopicName::new("orders")];
    assert_eq!(configs["retention.ms"].value.as_deref(), Some("-1"));
    let taken_back = configs.get("follower.replication.throttled.replicas").map(|entry| entry.origin);
    assert_ne!(taken_back, Some(ConfigOrigin::Topic));
    assert_eq!(world.target.partitions().len(), 5);

    let keeping = format!("{CONFIG}  topology: {{on_config_drift: keep}}\n");
    world.target.set_topic_config("orders", "follower.replication.throttled.replicas", "0:1");
    create(&migration(&world, &Faults::none(), &keeping), &plan.topics).await.expect("it can be used");
    assert_eq!(world.target.topic_config("orders", "follower.replication.throttled.replicas"), "0:1");
}

#[tokio::test(start_paused = true)]
async fn more_partitions_than_the_source_has_are_refused_by_name() {
    let world = world();
    let plan = planned(&world).await;
    world.target.create_topic("orders", 4, &[]);
    let refused = create(&migration(&world, &Faults::none(), CONFIG), &plan.topics).await;
    let sentence = refused.expect_err("partitions are never taken away").to_string();
    assert!(sentence.contains("orders has 4 partitions on the target and 3 on the source"), "{sentence}");
}

#[tokio::test(start_paused = true)]
async fn the_planned_settings_come_at_the_end_and_holding_ones_are_taken_back() {
    let world = world();
    let plan = planned(&world).await;
    let migration = migration(&world, &Faults::none(), CONFIG);
    create(&migration, &plan.topics).await.expect("no faults");
    let ready = compact_before_ready(&migration, &plan.topics).await.expect("no faults");
    assert_eq!((ready.topics_altered, ready.topics_unchanged), (1, 1));
    assert_eq!(world.target.topic_config("state", "cleanup.policy"), "compact");
    assert_eq!(world.target.topic_config("state", "min.compaction.lag.ms"), i64::MAX.to_string());
    apply_final(&migration, &plan.topics).await.expect("no faults");
    assert_eq!(world.target.topic_config("orders", "retention.ms"), "1000");
    for topic in &plan.topics {
        let configs = &all_configs(&world).await[&topic.name];
        let own = configs.iter().filter(|(_, entry)| entry.origin == ConfigOrigin::Topic);
        let own: BTreeMap<_, _> =
            own.map(|(name, entry)| (name.clone(), entry.value.clone().unwrap_or_default())).collect();
        assert_eq!(own, topic.final_configs, "{}", topic.name);
    }
    let again = apply_final(&migration, &plan.topics).await.expect("no faults");
    assert_eq!(again, TopologyReport { topics_unchanged: 2, ..TopologyReport::default() });
}

#[test]
fn values_are_compared_by_what_they_mean() {
    for (found, wanted, same) in [
        ("compact,delete", "compact, delete", true),
        ("0.5", "0.50", true),
        ("9223372036854775807", "9223372036854775806", false),
        ("1", "10", false),
    ] {
        assert_eq!(same_value(found, wanted), same, "{found} and {wanted}");
    }
}
