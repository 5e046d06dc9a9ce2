//! Goal: everything that stands in the way is found at once, and looking changes neither cluster.

use krossing_core::{
    MigrationId, TopicPartition,
    config::Config,
    ports::{AclBinding, ClientQuota, Inventory, MskError},
    records::Codec,
    rights::{Operation, Resource, Right},
};
use krossing_testkit::{FakeCluster, FakePorts, FakeWorld, Fault, Faults, record, tester};

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
    let writing = [
        "produce",
        "create_",
        "alter_",
        "commit_",
        "open_producer",
        "mark",
        "ledger.",
        "freeze.freeze",
        "freeze.switch",
        "freeze.unfreeze",
    ];
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

#[tokio::test(start_paused = true)]
async fn a_bucket_that_cannot_lock_evidence_is_a_warning_and_is_asked_only_where_evidence_can_be_stored() {
    for (call, code) in [("", "W28"), ("evidence.object_lock", "W28"), ("evidence.put", "B08")] {
        let world = world();
        world.evidence.take_object_lock_away();
        let faults = Faults::on(call, 0, Fault::FailBefore);
        let checked = run(&migration(&world, &faults, CONFIG), None).await.expect("said as a finding");
        assert_eq!(codes(&checked.findings), [code], "{call:?}: {}", render_text(&checked.findings));
    }
}

#[tokio::test(start_paused = true)]
async fn what_msk_says_stands_beside_what_the_brokers_say() {
    let world = world();
    world.msk.set(Side::Target, Err(MskError::NoSuchCluster { detail: "the ARN is another's".to_owned() }));
    let faults = Faults::on("msk.describe", 0, Fault::FailBefore);
    let checked = run(&migration(&world, &faults, CONFIG), None).await.expect("said as a finding");
    assert_eq!(codes(&checked.findings), ["B50", "W50"], "{}", render_text(&checked.findings));
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_cannot_be_read_is_never_taken_for_a_good_one() {
    let faults = Faults::deciding(|call| (call.name == "source.fetch").then_some(Fault::FailBefore));
    let checked = run(&migration(&world(), &faults, CONFIG), None).await.expect("said as a finding");
    assert_eq!(codes(&checked.findings), ["B29"], "{}", render_text(&checked.findings));
}

#[tokio::test(start_paused = true)]
async fn every_missing_right_of_both_clusters_is_found_with_the_rule_to_add() {
    let world = world();
    let on = |resource, operation| Right { resource, operation };
    world.source.forbid(on(Resource::Cluster, Operation::DescribeConfigs));
    world.source.forbid(on(Resource::Topic("orders".into()), Operation::Write));
    world.target.forbid(on(Resource::Group("readers".into()), Operation::Read));
    world.target.forbid(on(Resource::Topic("orders".into()), Operation::Create));
    let checked = run(&migration(&world, &Faults::none(), CONFIG), None).await.expect("both can be read");
    assert_eq!(codes(&checked.findings), ["B31", "B31", "B31", "B31"]);
    let text = render_text(&checked.findings);
    for rule in ["DescribeConfigs --cluster", "Write --topic 'orders'", "Read --group 'readers'", "Create --topic"] {
        assert!(text.contains(&format!("--operation {rule}")), "{rule} is not in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_cannot_be_read_is_asked_for_its_rights_only_if_they_may_be_why() {
    for (call, asked) in [("source.describe_cluster", false), ("source.describe_topics", false)] {
        let faults = Faults::on(call, 0, Fault::FailBefore);
        run(&migration(&world(), &faults, CONFIG), None).await.expect("said as a finding");
        assert_eq!(faults.calls().iter().any(|call| call.name == "source.lacking"), asked, "{call}");
    }
}

fn rule(principal: &str, operation: &str, topic: &str) -> AclBinding {
    AclBinding {
        resource_type: "Topic".into(),
        resource_name: topic.into(),
        pattern_type: "Literal".into(),
        principal: principal.into(),
        host: "*".into(),
        operation: operation.into(),
        permission: "Allow".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn access_rules_and_quotas_that_differ_are_findings_and_refused_where_that_is_wanted() {
    let world = world();
    world.source.set_acls(Some(vec![rule("User:a", "Read", "orders")]));
    world.target.set_acls(Some(vec![rule("User:z", "Read", "orders")]));
    let quota = |rate| ClientQuota {
        entity: [("user".to_owned(), None)].into(),
        limits: [("producer_byte_rate".to_owned(), rate)].into(),
    };
    world.source.set_quotas(vec![quota(1.0)]);
    world.target.set_quotas(vec![quota(2.0)]);
    for (policies, expected) in [
        ("", vec!["I24", "I27", "I28", "I29"]),
        ("  acl: {on_drift: replace}\n  topology: {on_config_drift: keep}\n", vec!["W26", "I24", "I28"]),
        ("  acl: {on_drift: refuse}\n  topology: {on_config_drift: refuse}\n", vec!["B34", "B35", "I29"]),
    ] {
        let config = format!("{CONFIG}{policies}");
        let checked = run(&migration(&world, &Faults::none(), &config), None).await.expect("both can be read");
        let found: Vec<&str> = checked.findings.iter().map(|f| f.code.as_str()).filter(|code| *code != "I20").collect();
        assert_eq!(found, expected, "{}", render_text(&checked.findings));
    }
}

#[tokio::test(start_paused = true)]
async fn krossing_does_not_lock_itself_out_and_needs_the_right_to_make_rules_only_where_there_are_some() {
    const SCRAM: &str = "auth: {mode: scram-sha-512, username: krossing, password: p}";
    let config = CONFIG.replace("'b:1'", &format!("'b:1', {SCRAM}"));
    let world = world();
    world.target.set_acls(Some(Vec::new()));
    world.target.forbid(Right { resource: Resource::Cluster, operation: Operation::Alter });
    let findings = async |world: &FakeWorld| {
        run(&migration(world, &Faults::none(), &config), None).await.expect("both can be read").findings
    };
    world.source.set_acls(Some(Vec::new()));
    assert_eq!(codes(&findings(&world).await), Vec::<&str>::new());
    world.source.set_acls(Some(vec![rule("User:a", "Read", "orders")]));
    let text = render_text(&findings(&world).await);
    assert!(text.contains("User:krossing may not Alter the cluster, needed for making access rules"), "{text}");

    let open = self::world();
    open.target.set_acls(Some(Vec::new()));
    open.source.set_acls(Some(vec![rule("User:a", "Read", "orders")]));
    let found = findings(&open).await;
    assert_eq!(codes(&found), ["B36", "B36", "B36", "B36"], "{}", render_text(&found));
    let rules = ["Read", "Write", "Alter", "AlterConfigs"].map(|operation| rule("User:krossing", operation, "orders"));
    open.target.set_acls(Some(rules.into()));
    assert_eq!(codes(&findings(&open).await), Vec::<&str>::new());
}
