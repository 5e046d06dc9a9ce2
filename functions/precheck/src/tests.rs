//! Goal: everything that stands in the way is found at once, and looking changes neither cluster.

use krossing_core::{
    MigrationId, TopicPartition,
    config::Config,
    ports::{ClusterError, Inventory},
    records::Codec,
};
use krossing_testkit::{FakeCluster, FakePorts, FakeWorld, Fault, Faults, record};

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
    world.source.create_topic("orders", 2, &[]);
    world.source.append(&TopicPartition::new("orders", 0), Codec::None, vec![record("k", "v")]);
    world.source.commit("readers", &TopicPartition::new("orders", 0), 1, "");
    world
}

fn codes(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.code.as_str()).filter(|code| !code.starts_with('I')).collect()
}

/// All that can be seen of a cluster.
async fn as_it_is(cluster: &FakeCluster) -> String {
    let topics = cluster.describe_topics(None).await.expect("no faults");
    let names: Vec<_> = topics.iter().map(|topic| topic.name.clone()).collect();
    let configs = cluster.topic_configs(&names).await.expect("no faults");
    let logs: Vec<_> = cluster.partitions().iter().map(|partition| cluster.ends(partition)).collect();
    let groups: Vec<_> = ["readers", "others"].map(|group| cluster.committed(group)).into();
    format!("{topics:?} {configs:?} {logs:?} {groups:?}")
}

#[tokio::test(start_paused = true)]
async fn nothing_stands_in_the_way_and_nothing_is_changed() {
    let world = world();
    let faults = Faults::none();
    let before = (as_it_is(&world.source).await, as_it_is(&world.target).await);
    let checked = run(&migration(&world, &faults, CONFIG), None).await.expect("both can be read");
    assert_eq!(codes(&checked.findings), Vec::<&str>::new(), "{}", render_text(&checked.findings));
    assert_eq!(checked.plan.map(|plan| plan.topics.len()), Some(1));
    assert_eq!((as_it_is(&world.source).await, as_it_is(&world.target).await), before);
    let writing = ["produce", "create_", "alter_", "commit_", "open_producer", "mark", "ledger.", "freeze."];
    for call in faults.calls() {
        assert!(!writing.iter().any(|word| call.name.contains(word)), "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_blockers_are_found_at_once() {
    let world = world();
    let partition = TopicPartition::new("orders", 0);
    world.target.create_topic("orders", 2, &[("retention.ms", "5")]);
    world.target.append(&partition, Codec::None, vec![record("k", "v")]);
    world.target.commit("readers", &partition, 1, "");
    world.target.set_members("readers", 2, "consumer");
    let refusing = format!("{CONFIG}  topology: {{on_config_drift: refuse}}\n");
    let checked = run(&migration(&world, &Faults::none(), &refusing), None).await.expect("both can be read");
    assert_eq!(codes(&checked.findings), ["B24", "B27", "B28", "B34"]);
    let text = render_text(&checked.findings);
    assert!(
        text.starts_with("B24 blocker: orders: it exists on the target and has been written to: partition 0 — "),
        "{text}"
    );
    let json: Vec<Finding> = serde_json::from_str(&render_json(&checked.findings)).expect("it is JSON");
    assert_eq!(json, checked.findings);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_or_written_is_a_finding() {
    for (call, code) in [
        ("source.describe_cluster", "B09"),
        ("target.describe_cluster", "B10"),
        ("segments.put", "B07"),
        ("evidence.get", "B08"),
    ] {
        let faults = Faults::on(call, 0, Fault::FailBefore);
        let checked = run(&migration(&world(), &faults, CONFIG), None).await.expect("said as a finding");
        assert_eq!(codes(&checked.findings), [code], "{call}");
    }
}

#[test]
fn a_cluster_that_cannot_be_connected_to_is_a_finding_and_the_other_is_not() {
    let error =
        ClusterError::Unavailable { side: Side::Target, attempt: "connect".to_owned(), detail: "no".to_owned() };
    let findings = unreachable(&[(Side::Target, error)]);
    assert_eq!(codes(&findings), ["B10"]);
}
