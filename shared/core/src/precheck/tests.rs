use super::*;
use crate::config::ConfigDrift;
use crate::plan::{PlanInput, fixture, plan};
use crate::ports::{CommittedOffset, ConfigEntry, ConfigOrigin};
use crate::rights::{Operation, Scope};

/// What is found after `change` of a migration with nothing in its way.
fn check(change: impl FnOnce(&mut World), expected: &[(&str, &str)]) {
    let mut world = World::quiet();
    change(&mut world);
    let found = world.findings();
    let shown: Vec<_> =
        found.iter().filter(|f| f.code != "I20").map(|f| (f.code.as_str(), f.subject.as_str())).collect();
    assert_eq!(shown, expected, "{found:#?}");
    for finding in &found {
        let letter = match finding.severity {
            Severity::Blocker => "B",
            Severity::Warning => "W",
            Severity::Info => "I",
        };
        assert!(finding.code.starts_with(letter), "{finding}");
        assert!(!finding.remedy.is_empty() && !finding.problem.ends_with('.'), "{finding}");
    }
    assert_eq!(blocks(&found), expected.iter().any(|(code, _)| code.starts_with('B')));
}

struct World {
    selection: Selection,
    source: SourceInventory,
    target: TargetInventory,
    facts: PrecheckFacts<'static>,
}

fn unread(side: Side, detail: &str) -> ClusterError {
    ClusterError::Unavailable { side, attempt: "describe it".to_owned(), detail: detail.to_owned() }
}

impl World {
    fn quiet() -> Self {
        let facts = PrecheckFacts {
            selection: Box::leak(Box::default()),
            source: Err(unread(Side::Source, "")),
            target: Err(unread(Side::Target, "")),
            plan: None,
            segments_problem: None,
            freeze_problem: None,
            evidence_problem: None,
            evidence_lock: None,
            old_format: BTreeMap::new(),
            unread: BTreeMap::new(),
            target_logs: BTreeMap::new(),
            target_positions: BTreeMap::new(),
            written_positions: BTreeMap::new(),
            made_topics: BTreeSet::new(),
            missing_rights: Vec::new(),
        };
        let source = fixture::source(&[("orders", 2, &[])]);
        Self { selection: Selection::default(), source, target: fixture::target(3), facts }
    }

    fn findings(&self) -> Vec<Finding> {
        let id = "m".parse().expect("m is an id");
        let plan = plan(&PlanInput {
            migration_id: &id,
            selection: &self.selection,
            lanes: 3,
            source: &self.source,
            target: &self.target,
            on_config_drift: ConfigDrift::OverwriteWithSource,
        });
        let facts = PrecheckFacts {
            selection: &self.selection,
            source: Ok(&self.source),
            target: Ok(&self.target),
            plan: Some(&plan),
            ..self.facts.clone()
        };
        decide(&facts)
    }
}

#[test]
fn a_migration_with_nothing_in_its_way_has_no_findings_but_the_space_it_takes() {
    check(|_| {}, &[]);
}

#[test]
fn clusters_of_the_wrong_kind_or_age_are_blockers() {
    check(|w| w.source.cluster.metadata_mode = MetadataMode::Kraft, &[("B03", "source")]);
    check(|w| w.source.cluster.metadata_mode = MetadataMode::Unknown, &[("B03", "source")]);
    check(|w| w.target.cluster.metadata_mode = MetadataMode::ZooKeeper, &[("B04", "target")]);
    check(|w| w.source.cluster.fetch_version_max = 11, &[("B21", "source")]);
    check(|w| w.target.cluster.fetch_version_max = 15, &[("B22", "target")]);
    check(|w| w.target.cluster.cluster_id = w.source.cluster.cluster_id.clone(), &[("B20", "clusters")]);
}

#[test]
fn what_cannot_be_reached_or_stored_is_a_blocker_and_all_of_it_is_told() {
    let found = decide(&PrecheckFacts {
        source: Err(unread(Side::Source, "refused")),
        target: Err(unread(Side::Target, "timeout")),
        segments_problem: Some("full".into()),
        freeze_problem: Some("reaching the freeze webhook http://ops: nobody listens".into()),
        evidence_problem: Some("read-only".into()),
        ..World::quiet().facts
    });
    let codes: Vec<&str> = found.iter().map(|f| f.code.as_str()).collect();
    assert_eq!(codes, ["B07", "B08", "B09", "B10", "W21"]);
}

#[test]
fn signed_evidence_that_can_be_deleted_and_a_lock_that_cannot_be_asked_about_are_warnings() {
    let locked = |lock| move |w: &mut World| w.facts.evidence_lock = Some(lock);
    check(locked(Ok(ObjectLock::On)), &[]);
    check(locked(Ok(ObjectLock::NotWanted)), &[]);
    check(locked(Ok(ObjectLock::Missing)), &[("W28", "evidence")]);
    let why = StoreError::Refused { attempt: "ask".into(), detail: "AccessDenied".into() };
    check(locked(Err(why)), &[("W28", "evidence")]);
}

#[test]
fn brokers_that_do_not_offer_what_is_wanted_are_too_old() {
    let not_offered = |side| ClusterError::NotOffered { side, attempt: "describe it".into(), detail: "0 to 9".into() };
    let found = decide(&PrecheckFacts {
        source: Err(not_offered(Side::Source)),
        target: Err(not_offered(Side::Target)),
        ..World::quiet().facts
    });
    let codes: Vec<&str> = found.iter().map(|f| f.code.as_str()).collect();
    assert_eq!(codes, ["B21", "B22"]);
}

#[test]
fn target_topics_that_are_not_ours_must_be_empty_and_of_the_same_shape() {
    let exists = |partitions: usize, end: Offset| {
        move |w: &mut World| {
            w.target.topics = fixture::source(&[("orders", partitions, &[])]).topics;
            for partition in 0..partitions as i32 {
                let log = LogSpan { start: end, end };
                w.facts.target_logs.insert(TopicPartition::new("orders", partition), log);
            }
        }
    };
    check(exists(2, 0), &[("I22", "orders")]);
    check(exists(2, 5), &[("B24", "orders")]);
    check(exists(3, 0), &[("B25", "orders"), ("I22", "orders")]);
    check(
        |w| {
            exists(2, 0)(w);
            w.facts.target_logs.clear();
        },
        &[("B24", "orders")],
    );
    check(
        |w| {
            exists(2, 5)(w);
            w.facts.made_topics.insert("orders".into());
        },
        &[],
    );
}

#[test]
fn too_few_brokers_leaderless_partitions_and_lagging_replicas_are_found() {
    check(|w| w.target.cluster.brokers.truncate(2), &[("B26", "orders")]);
    check(|w| w.source.topics[0].partitions[1].leader = None, &[("B29", "orders")]);
    let unread = (TopicPartition::new("orders", 1), "no answer".to_owned());
    check(|w| w.facts.unread.extend([unread]), &[("B29", "orders")]);
    check(|w| w.source.topics[0].partitions[1].in_sync.truncate(1), &[("W22", "orders")]);
}

#[test]
fn topics_that_do_not_exist_or_leave_nothing_to_do_are_blockers() {
    check(|w| w.selection.include = vec!["orders".into(), "order".into()], &[("B30", "order")]);
    check(|w| w.selection.exclude = vec!["*".into()], &[("B32", "source"), ("I23", "source")]);
}

#[test]
fn old_message_formats_are_a_blocker_by_topic() {
    check(
        |w| {
            for partition in 0..7 {
                w.facts.old_format.insert(TopicPartition::new("orders", partition), 40);
            }
        },
        &[("B23", "orders")],
    );
}

#[test]
fn groups_on_the_target_that_are_not_ours_are_blockers() {
    let position = |offset| {
        let at = CommittedOffset { offset, metadata: String::new() };
        GroupOffsets::from([(TopicPartition::new("orders", 0), at)])
    };
    let group = fixture::group("billing", "consumer", 0);
    let with = |w: &mut World| w.source.groups.push(group.clone());
    check(with, &[]);
    check(
        |w| {
            with(w);
            w.target.groups.push(fixture::group("billing", "consumer", 2));
            w.target.groups.push(fixture::group("other", "consumer", 2));
        },
        &[("B27", "billing")],
    );
    check(
        |w| {
            with(w);
            w.facts.target_positions.insert("billing".into(), position(5));
            w.facts.written_positions.insert("billing".into(), position(4));
        },
        &[("B28", "billing")],
    );
    check(
        |w| {
            with(w);
            w.facts.target_positions.insert("billing".into(), position(5));
            w.facts.written_positions.insert("billing".into(), position(5));
        },
        &[],
    );
}

#[test]
fn message_sizes_that_the_target_cannot_take_are_found() {
    let large = |bytes: &'static str| {
        move |w: &mut World| w.source = fixture::source(&[("orders", 2, &[("max.message.bytes", bytes)])])
    };
    let told =
        |value: &str| ConfigEntry { value: Some(value.into()), origin: ConfigOrigin::StaticBroker, sensitive: false };
    check(large("3000000"), &[]);
    check(
        |w| {
            large("3000000")(w);
            w.target.broker_configs.insert("socket.request.max.bytes".into(), told("3000000"));
        },
        &[("B11", "orders")],
    );
    check(large("110000000"), &[("B33", "orders"), ("W04", "orders")]);
}

#[test]
fn missing_rights_and_settings_that_stay_behind_are_told() {
    let missing = MissingRight {
        side: Side::Source,
        governed_by: crate::rights::GovernedBy::AccessRules,
        principal: "User:alice".into(),
        operation: Operation::Describe,
        scope: Scope::Cluster,
        needed_for: "sizes",
    };
    check(|w| w.facts.missing_rights.push(missing.clone()), &[("B31", "source")]);
    let unread = decide(&PrecheckFacts {
        source: Err(unread(Side::Source, "not allowed")),
        target: Err(unread(Side::Target, "timeout")),
        missing_rights: vec![missing],
        ..World::quiet().facts
    });
    let codes: Vec<&str> = unread.iter().map(|f| f.code.as_str()).collect();
    assert_eq!(codes, ["B10", "B31"], "a refusal that is explained is not told twice");
    check(|w| w.source = fixture::source(&[("orders", 2, &[("message.format.version", "2.8")])]), &[("W20", "orders")]);
}

#[test]
fn groups_that_look_as_if_they_kept_state_are_named() {
    check(
        |w| {
            w.source = fixture::source(&[("app-store-changelog", 2, &[])]);
            for (group, kind) in [
                ("app", "consumer"),
                ("connect-sink", "consumer"),
                ("workers", "connect"),
                ("spark-kafka-source-1", ""),
            ] {
                w.source.groups.push(fixture::group(group, kind, 0));
            }
        },
        &[("I21", "app"), ("I21", "connect-sink"), ("I21", "spark-kafka-source-1"), ("I21", "workers")],
    );
}

#[test]
fn sizes_are_shown_in_the_unit_that_fits() {
    for (number, text) in
        [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5120.0 TiB")]
    {
        assert_eq!(bytes(number), text);
    }
}
