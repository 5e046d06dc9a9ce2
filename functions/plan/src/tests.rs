//! Goal: what is stored is what is carried out, and a process that dies at any call leaves nothing that misleads.

use krossing_core::{
    MigrationId, TopicPartition,
    config::Config,
    journal::{EntryKind, Journal},
    plan::{Amendment, MigrationPlan},
    ports::Objects,
};
use krossing_runtime::{Migration, MigrationError};
use krossing_testkit::{FakePorts, FakeWorld, Fault, Faults, record, tester};

use super::*;

const CONFIG: &str = "migration:
  source: {bootstrap_servers: 'a:1'}
  target: {bootstrap_servers: 'b:1'}
  backup: {directory: segments}
  evidence: {directory: evidence}
  topics: {exclude: [tmp-*]}
  seed: {lanes: 2}
";

fn migration(world: &FakeWorld, faults: &Faults, config: &str) -> Migration<FakePorts> {
    let config = Config::parse(config, |_| None).expect("the configuration is right");
    let id: MigrationId = "m".parse().expect("a valid id");
    Migration { id, config, by: tester(), role_per_phase: false, ports: world.process(faults) }
}

fn world() -> FakeWorld {
    let world = FakeWorld::new(3);
    world.source.create_topic("orders", 3, &[]);
    world.source.create_topic("tmp-x", 1, &[]);
    world.source.create_internal_topic("__consumer_offsets", 5);
    let partition = TopicPartition::new("orders", 1);
    world.source.append(&partition, krossing_core::records::Codec::None, vec![record("k", "v")]);
    world.source.commit("readers", &partition, 1, "");
    world
}

async fn store_plan(migration: &Migration<FakePorts>) -> Result<MigrationPlan, MigrationError> {
    let mut journal = migration.journal().await?;
    let (source, target) = collect(migration).await?;
    let plan = make(migration, &source, &target);
    store(migration, &mut journal, &plan).await?;
    Ok(plan)
}

async fn journal(world: &FakeWorld) -> Journal {
    migration(world, &Faults::none(), CONFIG).journal().await.expect("no faults")
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_loaded_as_it_was_stored() {
    let world = world();
    let migration = migration(&world, &Faults::none(), CONFIG);
    let plan = store_plan(&migration).await.expect("no faults");
    let names: Vec<_> = plan.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!((names, plan.lanes.len(), plan.groups.len()), (vec!["orders"], 2, 1));
    let journal = journal(&world).await;
    assert_eq!(load(&migration, &journal).await.expect("as stored"), plan);
    check_identity(&migration, &journal).await.expect("nothing has changed");
    let lanes = lanes(&plan, &[]);
    assert_eq!(lanes[0].transactional_id, "krossing.m.0");
    let id = world.source.topic_id("orders");
    assert!(lanes.iter().flat_map(|lane| &lane.partitions).all(|partition| partition.topic_id == id));
}

#[tokio::test(start_paused = true)]
async fn a_changed_or_lost_plan_is_refused_by_name() {
    let world = world();
    let migration = migration(&world, &Faults::none(), CONFIG);
    let plan = store_plan(&migration).await.expect("no faults");
    let journal = journal(&world).await;
    let changed = MigrationPlan { bytes: plan.bytes + 1, ..plan };
    let text = krossing_core::canonical::canonical_json(&changed).expect("a plan has no fractions");
    for content in [text.clone() + " ", text, "{}".to_owned()] {
        world.evidence.put("m/plan.json", vec![content.into()]).await.expect("no faults");
        let refused = load(&migration, &journal).await.expect_err("it is another plan").to_string();
        assert!(refused.contains("the plan m/plan.json is not the one that the journal names"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_configuration_is_another_migration() {
    let world = world();
    store_plan(&migration(&world, &Faults::none(), CONFIG)).await.expect("no faults");
    let journal = journal(&world).await;
    let moved = CONFIG.replace("evidence}", "elsewhere}");
    let refused = check_identity(&migration(&world, &Faults::none(), &moved), &journal).await;
    assert!(matches!(refused, Err(MigrationError::Journal(_))), "{refused:?}");
    world.target.describe(|target| target.cluster_id = "another".to_owned());
    let refused = check_identity(&migration(&world, &Faults::none(), CONFIG), &journal).await;
    assert!(matches!(refused, Err(MigrationError::Journal(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_call_leaves_no_plan_or_a_whole_one() {
    let counted = Faults::none();
    store_plan(&migration(&world(), &counted, CONFIG)).await.expect("no faults");
    for number in 0..counted.calls().len() as u64 {
        for fault in [Fault::FailBefore, Fault::FailAfter] {
            let world = world();
            let first = store_plan(&migration(&world, &Faults::at(number, fault), CONFIG)).await;
            // Something appears between the two processes: a plan that nobody journaled must not stand in the way.
            world.source.create_topic("later", 1, &[]);
            let whole = migration(&world, &Faults::none(), CONFIG);
            let journal = journal(&world).await;
            if journal.tip().is_some() {
                let loaded = load(&whole, &journal).await.expect("what is journaled is stored");
                assert_eq!(loaded.topics.len(), 1, "{number} {fault:?}");
            } else {
                assert!(first.is_err(), "{number} {fault:?}");
                let plan = store_plan(&whole).await.unwrap_or_else(|error| panic!("{number} {fault:?}: {error}"));
                assert_eq!(plan.topics.len(), 2, "{number} {fault:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_appears_later_is_an_amendment_and_a_topic_made_anew_is_refused() {
    let world = world();
    let migration = migration(&world, &Faults::none(), CONFIG);
    let plan = store_plan(&migration).await.expect("no faults");
    let (mut journal, mut amendments) = (journal(&world).await, Vec::<Amendment>::new());
    assert!(!amend(&migration, &mut journal, &plan, &mut amendments).await.expect("nothing appeared"));
    world.source.grow_topic("orders", 5);
    world.source.create_topic("fresh", 2, &[]);
    world.source.create_topic("tmp-y", 2, &[]);
    assert!(amend(&migration, &mut journal, &plan, &mut amendments).await.expect("no faults"));
    assert!(!amend(&migration, &mut journal, &plan, &mut amendments).await.expect("it is known now"));
    assert_eq!(journal.entries().iter().filter(|entry| entry.kind == EntryKind::Amendment).count(), 1);
    assert_eq!(load_amendments(&migration, &journal).await.expect("as stored"), amendments);
    let lanes = lanes(&plan, &amendments);
    assert_eq!((lanes.len(), lanes[2].partitions.len()), (3, 4));
    assert_eq!(plan.scope(&amendments).partitions().count(), 7);

    world.source.delete_topic("orders");
    world.source.create_topic("orders", 5, &[]);
    let refused = amend(&migration, &mut journal, &plan, &mut amendments).await.expect_err("another topic");
    assert!(refused.to_string().contains("topic orders was deleted and made again"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn topics_that_are_on_the_target_end_with_their_own_settings_where_that_is_wanted() {
    let world = world();
    world.target.create_topic("orders", 3, &[("retention.ms", "77")]);
    let keeping = format!("{CONFIG}  topology: {{on_config_drift: keep}}\n");
    let migration = migration(&world, &Faults::none(), &keeping);
    let (source, target) = collect(&migration).await.expect("no faults");
    let plan = make(&migration, &source, &target);
    assert_eq!(plan.topics[0].final_configs, [("retention.ms".to_owned(), "77".to_owned())].into());
    assert_eq!(plan.topics[0].hold_configs["retention.ms"], "-1");
}
