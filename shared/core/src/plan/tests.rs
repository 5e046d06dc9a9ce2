#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use proptest::prelude::*;

use super::{fixture::*, *};

fn planned(source: &SourceInventory, target: &TargetInventory) -> MigrationPlan {
    let id = "m1".parse().unwrap();
    let selection = Selection::default();
    plan(&PlanInput {
        migration_id: &id,
        selection: &selection,
        lanes: 3,
        source,
        target,
        on_config_drift: ConfigDrift::OverwriteWithSource,
    })
}

fn one(own: &[(&str, &str)], target: &TargetInventory) -> PlannedTopic {
    planned(&source(&[("orders", 3, own)]), target).topics.remove(0)
}

fn values(map: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// Kafka 4: two settings less, one default changed.
fn target_4() -> TargetInventory {
    let mut target = target(3);
    target.broker_configs.remove("log.message.downconversion.enable");
    target.broker_configs.remove("log.message.timestamp.difference.max.ms");
    let hour = entry("3600000", ConfigOrigin::Default);
    target.broker_configs.insert("log.message.timestamp.after.max.ms".into(), hour);
    target
}

#[test]
fn a_topic_without_settings_of_its_own_needs_none_where_the_brokers_agree() {
    assert_eq!(values(&one(&[], &target(3)).final_configs), []);
}

#[test]
fn a_topic_is_held_whatever_its_own_settings_are_and_gets_them_back_at_the_end() {
    let own = [("retention.ms", "1000"), ("cleanup.policy", "compact"), ("message.timestamp.type", "LogAppendTime")];
    let topic = one(&own, &target(3));
    let longest = "9223372036854775807";
    assert_eq!(
        values(&topic.hold_configs),
        [
            ("cleanup.policy", "delete"),
            ("compression.type", "producer"),
            ("max.message.bytes", "8388608"),
            ("message.timestamp.after.max.ms", longest),
            ("message.timestamp.before.max.ms", longest),
            ("message.timestamp.difference.max.ms", longest),
            ("message.timestamp.type", "CreateTime"),
            ("min.insync.replicas", "2"),
            ("retention.bytes", "-1"),
            ("retention.ms", "-1"),
            ("unclean.leader.election.enable", "false"),
        ]
    );
    assert!(topic.compacted);
    assert_eq!(topic.ready_changes().len(), 3);
    let mut configs = topic.hold_configs.clone();
    for (key, value) in topic.ready_changes().into_iter().chain(topic.final_changes()) {
        match value {
            Some(value) => configs.insert(key, value),
            None => configs.remove(&key),
        };
    }
    assert_eq!(
        values(&configs),
        [("cleanup.policy", "compact"), ("message.timestamp.type", "LogAppendTime"), ("retention.ms", "1000")]
    );
}

#[test]
fn headroom_replicas_and_remote_storage_change_what_is_held() {
    let topic = one(&[("max.message.bytes", "10000000"), ("remote.storage.enable", "true")], &target(3));
    assert_eq!(topic.hold_configs["max.message.bytes"], "20000000");
    assert_eq!(topic.hold_configs["local.retention.ms"], "-1");
    let mut source = source(&[("orders", 1, &[])]);
    source.topics[0].partitions[0].replicas.truncate(1);
    assert_eq!(planned(&source, &target(1)).topics[0].hold_configs["min.insync.replicas"], "1");
}

#[test]
fn what_the_sources_brokers_give_is_planned_where_the_targets_give_something_else() {
    let mut target = target(3);
    target.broker_configs.insert("log.retention.hours".into(), entry("24", ConfigOrigin::StaticBroker));
    target.broker_configs.insert("min.insync.replicas".into(), entry("2", ConfigOrigin::StaticBroker));
    let topic = one(&[], &target);
    assert_eq!(values(&topic.final_configs), [("min.insync.replicas", "1"), ("retention.ms", "604800000")]);
}

#[test]
fn limits_on_timestamps_are_planned_under_the_names_that_kafka_4_knows() {
    let topic = one(&[], &target_4());
    assert_eq!(values(&topic.final_configs), [("message.timestamp.after.max.ms", "9223372036854775807")]);
    assert!(!topic.hold_configs.contains_key("message.timestamp.difference.max.ms"));
    let topic = one(
        &[("message.timestamp.difference.max.ms", "5000"), ("message.downconversion.enable", "false")],
        &target_4(),
    );
    let both = [("message.timestamp.after.max.ms", "5000"), ("message.timestamp.before.max.ms", "5000")];
    assert_eq!(values(&topic.final_configs), both);
    assert!(topic.settings_left_out.contains_key("message.downconversion.enable"));
}

#[test]
fn settings_that_mean_nothing_on_the_target_are_left_out_with_the_reason() {
    let own = [
        ("leader.replication.throttled.replicas", "0:1"),
        ("message.format.version", "2.8"),
        ("made.up", "1"),
        ("segment.bytes", "16384"),
    ];
    let topic = one(&own, &target(3));
    assert_eq!(values(&topic.final_configs), [("segment.bytes", "16384")]);
    assert_eq!(topic.settings_left_out.len(), 3);
    // While copying, a segment must hold the largest batch that packing can make.
    assert_eq!(topic.hold_configs["segment.bytes"], "8388608");
    assert_eq!(topic.final_changes()["segment.bytes"].as_deref(), Some("16384"));
    let topic = one(&[("segment.bytes", "16384")], &target_4());
    assert_eq!(topic.final_configs["segment.bytes"], "1048576");
    assert!(topic.settings_left_out["segment.bytes"].contains("16384"));
}

#[test]
fn a_target_that_does_not_tell_its_settings_gets_everything_spelled_out() {
    let mut silent = target(3);
    silent.broker_configs.clear();
    let topic = one(&[("retention.ms", "5")], &silent);
    assert_eq!(topic.final_configs["retention.ms"], "5");
    assert_eq!(topic.final_configs["segment.bytes"], "1073741824");
    assert!(!topic.final_configs.contains_key("message.downconversion.enable"));
    assert!(topic.hold_configs.contains_key("message.timestamp.before.max.ms"));
}

#[test]
fn topics_of_kafka_and_of_tools_stay_behind_unless_a_tools_topic_is_named() {
    let names =
        ["__consumer_offsets", "_schemas", "a.checkpoints.internal", "mm2-offset-syncs.b.internal", "orders", "x-dlq"];
    let all: Vec<TopicLine<'_>> = names.iter().map(|name| (*name, 1, &[][..])).collect();
    let source = source(&all);
    let check = |include: &[&str], expected: &[&str]| {
        let patterns = |all: &[&str]| all.iter().map(|p| (*p).to_owned()).collect();
        let selection = Selection { include: patterns(include), exclude: patterns(&["*-dlq"]) };
        let id = "m".parse().unwrap();
        let plan = plan(&PlanInput {
            migration_id: &id,
            selection: &selection,
            lanes: 1,
            source: &source,
            target: &target(3),
            on_config_drift: ConfigDrift::OverwriteWithSource,
        });
        let topics: Vec<&str> = plan.topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(topics, expected);
        assert_eq!(plan.topics.len() + plan.topics_left_out.len(), names.len());
    };
    check(&["*"], &["_schemas", "orders"]);
    check(&["*", "a.checkpoints.internal"], &["_schemas", "a.checkpoints.internal", "orders"]);
    check(&["__consumer_offsets", "or*s"], &["orders"]);
}

#[test]
fn globs_match_as_a_shell_would() {
    for (pattern, name) in [("*", ""), ("a*", "a"), ("*a", "ba"), ("a*b*c", "a-b-b-c"), ("a**c", "abc"), ("abc", "abc")]
    {
        assert!(matches_glob(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [("a*a", "a"), ("a*b*c", "acb"), ("*b", "bc"), ("abc", "abcd"), ("", "a")] {
        assert!(!matches_glob(pattern, name), "{pattern} {name}");
    }
}

#[test]
fn rules_groups_and_quotas_of_the_cluster_itself_stay_behind() {
    let acl = |kind: &str, name: &str, principal: &str, operation: &str| AclBinding {
        resource_type: kind.into(),
        resource_name: name.into(),
        pattern_type: "Literal".into(),
        principal: principal.into(),
        host: "*".into(),
        operation: operation.into(),
        permission: "Allow".into(),
    };
    let mut source = source(&[("orders", 1, &[])]);
    source.acls = Some(vec![
        acl("Topic", "orders", "User:a", "Read"),
        acl("Topic", "orders", "User:ANONYMOUS", "Read"),
        acl("Topic", "__consumer_offsets", "User:a", "Read"),
        acl("Cluster", "kafka-cluster", "User:b", "ClusterAction"),
        acl("Cluster", "kafka-cluster", "User:b", "Describe"),
    ]);
    source.groups = vec![group("z", "consumer", 1), group("amazon.msk.canary.group.1", "", 0), group("a", "", 0)];
    source.quotas.push(ClientQuota {
        entity: BTreeMap::from([("user".into(), None)]),
        limits: BTreeMap::from([("producer_byte_rate".into(), 1024.5)]),
    });
    let plan = planned(&source, &target(3));
    assert_eq!(plan.acls.as_ref().map(Vec::len), Some(2));
    assert_eq!(plan.acls_left_out.len(), 3);
    assert_eq!(plan.groups.iter().map(|g| g.id.as_str()).collect::<Vec<_>>(), ["a", "z"]);
    assert_eq!(plan.groups_left_out.len(), 1);
    assert_eq!(plan.quotas[0].limits["producer_byte_rate"], "1024.5");
    assert_eq!(plan.digest().len(), 64);
}

#[test]
fn a_plan_comes_back_from_storage_with_the_same_digest() {
    let plan = planned(&source(&[("a", 3, &[]), ("b", 2, &[("retention.ms", "7")])]), &target(3));
    let stored = serde_json::to_string(&plan).unwrap();
    let read: MigrationPlan = serde_json::from_str(&stored).unwrap();
    assert_eq!(read.digest(), plan.digest());
}

proptest! {
    #[test]
    fn the_digest_changes_with_any_change(topic in 0usize..3, what in 0usize..7) {
        let base = planned(&source(&[("a", 3, &[]), ("b", 2, &[]), ("c", 1, &[])]), &target(3));
        let mut changed = base.clone();
        match what {
            0 => changed.topics[topic].partitions += 1,
            1 => { changed.topics[topic].final_configs.insert("x".into(), "1".into()); }
            2 => changed.topics[topic].hold_configs.clear(),
            3 => changed.lanes.swap(0, 1),
            4 => { changed.topics.remove(topic); }
            5 => changed.bytes += 1,
            _ => changed.migration_id = "m2".parse().unwrap(),
        }
        prop_assert_ne!(base.digest(), changed.digest());
    }
}

#[test]
fn topics_on_the_target_end_as_they_are_where_that_is_wanted_also_those_that_appear_later() {
    let (id, selection) = ("m1".parse().unwrap(), Selection::default());
    let mut target = target(3);
    let there = source(&[("a", 1, &[("retention.ms", "77")]), ("b", 1, &[("segment.ms", "5")])]);
    (target.topics, target.configs) = (there.topics, there.configs);
    let input = |source| PlanInput {
        migration_id: &id,
        selection: &selection,
        lanes: 1,
        source,
        target: &target,
        on_config_drift: ConfigDrift::Keep,
    };
    let (before, after) =
        (source(&[("a", 1, &[("retention.ms", "1000")])]), source(&[("a", 1, &[]), ("b", 1, &[]), ("c", 1, &[])]));
    let plan = plan(&input(&before));
    assert_eq!(values(&plan.topics[0].final_configs), [("retention.ms", "77")]);
    assert_eq!(plan.topics[0].hold_configs["retention.ms"], "-1");
    let appeared = plan.scope(&[]).amend(&input(&after));
    let topics = appeared.unwrap().unwrap().topics;
    assert_eq!(values(&topics[0].final_configs), [("segment.ms", "5")]);
    assert_eq!(values(&topics[1].final_configs), []);
}

#[test]
fn what_appears_later_is_added_in_new_lanes_and_nothing_else_changes() {
    let (id, selection, target) = ("m1".parse().unwrap(), Selection::default(), target(3));
    let before = source(&[("a", 2, &[]), ("b", 1, &[])]);
    let after = source(&[("a", 4, &[]), ("b", 1, &[]), ("c", 2, &[])]);
    let on_config_drift = ConfigDrift::OverwriteWithSource;
    let input = |source| PlanInput {
        migration_id: &id,
        selection: &selection,
        lanes: 2,
        source,
        target: &target,
        on_config_drift,
    };
    let plan = plan(&input(&before));
    let scope = plan.scope(&[]);
    assert_eq!(scope.amend(&input(&before)).unwrap(), None);
    let amendment = scope.amend(&input(&after)).unwrap().unwrap();
    assert_eq!((amendment.number, &amendment.adds_to), (1, &plan.digest()));
    assert_eq!(amendment.partitions, [AddedPartitions { topic: "a".into(), from: 2, to: 4 }]);
    assert_eq!(amendment.topics.len(), 1);
    let amended = plan.scope(std::slice::from_ref(&amendment));
    assert_eq!(amended.amend(&input(&after)).unwrap(), None);
    let mut in_lanes: Vec<TopicPartition> = amended.lanes.iter().flat_map(|l| l.partitions.clone()).collect();
    in_lanes.sort();
    assert_eq!(in_lanes, amended.partitions().collect::<Vec<_>>());
    assert_eq!(in_lanes.len(), 7);
    assert_eq!(amended.lanes[..plan.lanes.len()], plan.lanes[..]);
    // A topic that is gone stays as it was copied; nothing is taken away.
    assert_eq!(amended.amend(&input(&before)).unwrap(), None);
}

#[test]
fn a_topic_made_anew_is_refused_by_its_identity() {
    let (id, selection, target) = ("m1".parse().unwrap(), Selection::default(), target(3));
    let mut source = source(&[("a", 2, &[])]);
    let scope = planned(&source, &target).scope(&[]);
    source.topics[0].id = Some(TopicId(uuid::Uuid::from_u128(99)));
    let on_config_drift = ConfigDrift::OverwriteWithSource;
    let (source, target) = (&source, &target);
    let input = PlanInput { migration_id: &id, selection: &selection, lanes: 2, source, target, on_config_drift };
    let refused = scope.amend(&input).unwrap_err();
    assert_eq!(refused.topic.as_str(), "a");
}
