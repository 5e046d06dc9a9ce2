//! Goal: whatever dies at whichever call, the next process comes to the same topics.

use krossing_core::{
    MigrationId,
    config::Config,
    plan::{MigrationPlan, PlanInput, Selection, SourceInventory, TargetInventory, plan},
    ports::{AclBinding, ClientQuota, Groups, Inventory},
};
use krossing_testkit::{FakePorts, FakeWorld, Fault, Faults, tester};

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
    Migration { id, config, by: tester(), role_per_phase: false, ports: world.process(faults) }
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
        quotas: source.client_quotas().await.expect("no faults"),
        scram_users: Vec::new(),
    };
    let target = TargetInventory {
        cluster: target.describe_cluster().await.expect("no faults"),
        topics: Vec::new(),
        broker_configs: Configs::new(),
        configs: BTreeMap::new(),
        groups: Vec::new(),
        acls: None,
        quotas: Vec::new(),
    };
    let id: MigrationId = "m".parse().expect("a valid id");
    let selection = Selection::default();
    plan(&PlanInput {
        migration_id: &id,
        selection: &selection,
        lanes: 1,
        source: &source,
        target: &target,
        on_config_drift: ConfigDrift::OverwriteWithSource,
    })
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

#[tokio::test(start_paused = true)]
async fn settings_that_only_the_target_has_are_refused_where_that_is_wanted_and_those_of_holding_are_not() {
    let world = world();
    let plan = planned(&world).await;
    let refusing = format!("{CONFIG}  topology: {{on_config_drift: refuse}}\n");
    let migration = migration(&world, &Faults::none(), &refusing);
    create(&migration, &plan.topics).await.expect("nothing is there");
    compact_before_ready(&migration, &plan.topics).await.expect("no faults");
    create(&migration, &plan.topics).await.expect("these are our own");
    world.target.set_topic_config("orders", "leader.replication.throttled.replicas", "0:1");
    let before = all_configs(&world).await;
    let refused = create(&migration, &plan.topics).await.expect_err("somebody has set it").to_string();
    assert!(refused.contains("on_config_drift is refuse: orders (leader.replication"), "{refused}");
    assert_eq!(all_configs(&world).await, before);
}

fn rule(principal: &str, topic: &str) -> AclBinding {
    AclBinding {
        resource_type: "Topic".into(),
        resource_name: topic.into(),
        pattern_type: "Literal".into(),
        principal: principal.into(),
        host: "*".into(),
        operation: "Read".into(),
        permission: "Allow".into(),
    }
}

/// A plan with these rules, and a target that has those.
async fn with_rules(target: Option<&[AclBinding]>) -> (FakeWorld, MigrationPlan) {
    let world = world();
    world.target.set_acls(target.map(<[AclBinding]>::to_vec));
    let acls = Some(vec![rule("User:a", "orders"), rule("User:b", "orders")]);
    let plan = MigrationPlan { acls, ..planned(&world).await };
    (world, plan)
}

async fn rules_of(world: &FakeWorld) -> Vec<AclBinding> {
    world.target.acls().await.expect("no faults").unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn missing_access_rules_are_made_and_others_stay_and_a_repetition_changes_nothing() {
    let there = [rule("User:a", "orders"), rule("User:z", "state")];
    for policy in ["merge", "replace"] {
        let (world, plan) = with_rules(Some(&there)).await;
        let config = format!("{CONFIG}  acl: {{on_drift: {policy}}}\n");
        let migration = migration(&world, &Faults::none(), &config);
        let report = make_acls(&migration, &plan).await.expect("nothing stands in the way");
        assert_eq!((report.created, report.present, report.only_on_target), (1, 1, 1), "{policy}");
        assert_eq!(
            rules_of(&world).await,
            [rule("User:a", "orders"), rule("User:b", "orders"), rule("User:z", "state")]
        );
        assert_eq!(make_acls(&migration, &plan).await.expect("nothing stands in the way"), report);
        assert_eq!(acls_made(&migration).await.expect("no faults"), [rule("User:b", "orders")]);
        assert_eq!(acl_record(&migration).await.expect("no faults"), report.record);
    }
}

#[tokio::test(start_paused = true)]
async fn any_difference_of_access_rules_is_refused_where_that_is_wanted_and_nothing_is_made() {
    let config = format!("{CONFIG}  acl: {{on_drift: refuse}}\n");
    let both = [rule("User:a", "orders"), rule("User:b", "orders")];
    let more = [both[0].clone(), both[1].clone(), rule("User:z", "state")];
    for (there, sentence) in [
        (Some(&both[..1]), Some("1 only on the source (Allow User:b Read on Topic orders)")),
        (Some(&more[..]), Some("1 only on the target (Allow User:z Read on Topic state)")),
        (None, Some("the target has no authorizer")),
        (Some(&both[..]), None),
    ] {
        let (world, plan) = with_rules(there).await;
        let made = make_acls(&migration(&world, &Faults::none(), &config), &plan).await;
        match sentence {
            Some(sentence) => {
                let refused = made.expect_err("they differ").to_string();
                assert!(refused.contains(sentence) && refused.contains("acl.on_drift is refuse"), "{refused}");
            }
            None => assert_eq!(made.expect("they are equal").created, 0),
        }
        assert_eq!(rules_of(&world).await, there.unwrap_or_default());
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_without_an_authorizer_gets_no_access_rules() {
    let (world, plan) = with_rules(None).await;
    let faults = Faults::none();
    let report = make_acls(&migration(&world, &faults, CONFIG), &plan).await.expect("it is a finding of precheck");
    assert_eq!(report, AclReport { not_enforced: 2, ..AclReport::default() });
    assert!(faults.calls().iter().all(|call| call.name != "target.create_acls"));
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_call_does_not_change_which_access_rules_are_made_or_said_to_be() {
    let there = [rule("User:a", "orders"), rule("User:z", "state")];
    let counted = Faults::none();
    let (undisturbed, plan) = with_rules(Some(&there)).await;
    let expected = make_acls(&migration(&undisturbed, &counted, CONFIG), &plan).await.expect("no faults");
    for number in 0..counted.calls().len() as u64 {
        for fault in [Fault::FailBefore, Fault::FailAfter] {
            let (world, plan) = with_rules(Some(&there)).await;
            let failed = make_acls(&migration(&world, &Faults::at(number, fault), CONFIG), &plan).await;
            failed.expect_err("it was disturbed");
            let again = make_acls(&migration(&world, &Faults::none(), CONFIG), &plan).await;
            assert_eq!(again.expect("no faults"), expected, "{number} {fault:?}");
            assert_eq!(rules_of(&world).await, rules_of(&undisturbed).await, "{number} {fault:?}");
        }
    }
}

fn quota(limits: &[(&str, f64)]) -> ClientQuota {
    let limits = limits.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
    ClientQuota { entity: [("user".to_owned(), None)].into(), limits }
}

#[tokio::test(start_paused = true)]
async fn quotas_are_added_to_those_of_the_target_as_the_policy_says() {
    let there = quota(&[("producer_byte_rate", 5.0), ("request_percentage", 9.0)]);
    for (policy, producers, set) in [("overwrite_with_source", 0.5, 1), ("keep", 5.0, 1)] {
        let world = world();
        world.source.set_quotas(vec![quota(&[("consumer_byte_rate", 7.0), ("producer_byte_rate", 0.5)])]);
        world.target.set_quotas(vec![there.clone()]);
        let config = format!("{CONFIG}  topology: {{on_config_drift: {policy}}}\n");
        let migration = migration(&world, &Faults::none(), &config);
        let quotas = planned(&world).await.quotas;
        let report = set_quotas(&migration, &quotas).await.expect("nothing stands in the way");
        assert_eq!((report.quotas_set, report.quotas_kept), (set, usize::from(policy == "keep")), "{policy}");
        let expected =
            quota(&[("producer_byte_rate", producers), ("request_percentage", 9.0), ("consumer_byte_rate", 7.0)]);
        assert_eq!(world.target.client_quotas().await.expect("no faults"), [expected], "{policy}");
        assert_eq!(set_quotas(&migration, &quotas).await.expect("no faults").quotas_set, 0);
    }
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
