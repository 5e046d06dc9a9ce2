//! Goal: what each policy says of each difference, and that no rule can shut Krossing out unsaid.

use std::collections::BTreeSet;

use super::*;
use crate::{
    config::ConfigDrift,
    plan::{PlanInput, Selection, fixture, plan},
    ports::ConfigOrigin,
    types::TopicName,
};

/// `Allow alice Read Topic orders`, with `*` behind a name for those that begin with it.
fn rule(text: &str) -> AclBinding {
    let words: Vec<&str> = text.split(' ').collect();
    let [permission, who, operation, kind, name] = words[..] else { panic!("{text} is not a rule") };
    let prefix = name.strip_suffix('*').filter(|prefix| !prefix.is_empty());
    AclBinding {
        resource_type: kind.into(),
        resource_name: prefix.unwrap_or(name).into(),
        pattern_type: if prefix.is_some() { "Prefixed" } else { "Literal" }.into(),
        principal: format!("User:{who}"),
        host: "*".into(),
        operation: operation.into(),
        permission: permission.into(),
    }
}

fn rules(texts: &[&str]) -> Vec<AclBinding> {
    texts.iter().map(|text| rule(text)).collect()
}

fn krossing() -> Principal {
    Principal::by_rules("User:krossing".into(), true)
}

/// Topics `orders` and `users` on the source, and what is known of both clusters.
#[derive(Clone)]
struct World {
    policy: AclDrift,
    source: Option<Vec<AclBinding>>,
    target: Option<Vec<AclBinding>>,
    /// A topic that only the target has.
    other: Option<&'static str>,
    /// The brokers' settings that tell about authorization, by name and value.
    settings: Vec<(&'static str, Option<&'static str>)>,
    principal_known: bool,
    lacking: Vec<Right>,
}

impl World {
    /// Both clusters have an authorizer and let nobody use what has no rule.
    fn closed(source: &[&str], target: &[&str]) -> Self {
        Self {
            policy: AclDrift::Merge,
            source: Some(rules(source)),
            target: Some(rules(target)),
            other: None,
            settings: vec![("authorizer.class.name", Some("a.Authorizer"))],
            principal_known: true,
            lacking: Vec::new(),
        }
    }

    /// What has no rule on the target may be open to all: the setting is there, and its value is not told.
    fn open(source: &[&str], target: &[&str]) -> Self {
        let mut world = Self::closed(source, target);
        world.settings.push(("allow.everyone.if.no.acl.found", None));
        world
    }

    fn findings(&self) -> Vec<Finding> {
        let (id, selection) = ("m".parse().expect("an id"), Selection::default());
        let mut source = fixture::source(&[("orders", 1, &[]), ("users", 1, &[])]);
        let mut target = fixture::target(3);
        source.acls.clone_from(&self.source);
        target.acls.clone_from(&self.target);
        target.topics = self.other.iter().flat_map(|name| fixture::source(&[(*name, 1, &[])]).topics).collect();
        for (name, value) in &self.settings {
            let entry = crate::ports::ConfigEntry { value: None, ..fixture::entry("", ConfigOrigin::StaticBroker) };
            let entry = crate::ports::ConfigEntry { value: value.map(str::to_owned), ..entry };
            target.broker_configs.insert((*name).to_owned(), entry);
        }
        let plan = plan(&PlanInput {
            migration_id: &id,
            selection: &selection,
            lanes: 1,
            source: &source,
            target: &target,
            on_config_drift: ConfigDrift::OverwriteWithSource,
        });
        let rights = Rights {
            marker: crate::cutover::MarkerKind::Control,
            side: Side::Target,
            migration: &id,
            selection: &selection,
            topics: ["orders", "users"].map(TopicName::new).into(),
            groups: BTreeSet::new(),
            all_seen: true,
            makes_acls: false,
            sets_quotas: false,
        };
        let principal = Principal { known: self.principal_known, ..krossing() };
        let own = OwnUser { principal: &principal, rights: &rights, lacking: &self.lacking };
        findings(&AclFacts { policy: self.policy, plan: &plan, source: &source, target: &target, own })
    }

    fn check(&self, expected: &[(&str, &str)]) -> Vec<Finding> {
        let found = self.findings();
        let shown: Vec<_> = found.iter().map(|f| (f.code.as_str(), f.subject.as_str())).collect();
        assert_eq!(shown, expected, "{found:#?}");
        found
    }
}

/// Everything that Krossing needs, by rules.
const OURS: [&str; 9] = [
    "Allow krossing Describe Cluster kafka-cluster",
    "Allow krossing DescribeConfigs Cluster kafka-cluster",
    "Allow krossing Read Topic *",
    "Allow krossing Write Topic *",
    "Allow krossing Create Topic *",
    "Allow krossing Alter Topic *",
    "Allow krossing AlterConfigs Topic *",
    "Allow krossing All Group *",
    "Allow krossing Write TransactionalId krossing.*",
];

fn with_ours<'a>(more: &[&'a str]) -> Vec<&'a str> {
    OURS.iter().chain(more).copied().collect()
}

#[test]
fn each_policy_does_what_the_table_says_about_rules_of_one_side_only() {
    let ours = with_ours(&["Allow bob Read Topic users"]);
    let check = |policy, source: &[&str], target: &[&str], expected: &[(&str, &str)]| {
        World { policy, ..World::closed(source, target) }.check(expected);
    };
    let source = ["Allow alice Read Topic orders"];
    check(AclDrift::Merge, &source, &ours, &[("I27", "target"), ("I24", "target")]);
    check(AclDrift::Replace, &source, &ours, &[("W26", "target"), ("I24", "target")]);
    check(AclDrift::Refuse, &source, &ours, &[("B35", "target")]);
    // Each side alone is a difference, too, and rules of our own user on one of them are none.
    check(AclDrift::Refuse, &source, &OURS, &[("B35", "target")]);
    check(AclDrift::Refuse, &[], &ours, &[("B35", "target")]);
    check(AclDrift::Refuse, &source, &with_ours(&source), &[]);
    check(AclDrift::Refuse, &OURS[..2], &OURS, &[]);
}

#[test]
fn a_refusal_names_the_rules_of_both_sides() {
    let planned = rules(&["Allow alice Read Topic orders", "Allow krossing Read Topic orders"]);
    let there = rules(&["Deny bob All Group g*", "Allow bob ClusterAction Cluster kafka-cluster"]);
    let refusal = difference(&planned, &there).refusal(&krossing()).expect("they differ");
    assert_eq!(
        refusal,
        "access rules differ: 1 only on the source (Allow User:alice Read on Topic orders), 1 only on the target (Deny \
         User:bob All on Group g*)"
    );
    assert_eq!(difference(&there, &there).refusal(&krossing()), None);
}

#[test]
fn the_clusters_own_rules_stay_behind_and_are_no_difference() {
    let own = [
        "Allow ANONYMOUS Read Topic orders",
        "Allow alice Read Topic __consumer_offsets",
        "Allow alice Write Topic __transaction_state",
        "Allow broker ClusterAction Cluster kafka-cluster",
    ];
    let refusing = |source: &[&str], target: &[&str]| World {
        policy: AclDrift::Refuse,
        ..World::closed(source, &with_ours(target))
    };
    refusing(&own, &[]).check(&[("I26", "source")]);
    refusing(&[], &own).check(&[]);
    refusing(&["Allow alice Describe Cluster kafka-cluster"], &[]).check(&[("B35", "target")]);
}

#[test]
fn a_side_without_an_authorizer_is_told() {
    let source = ["Allow alice Read Topic orders"];
    let mut world = World { target: None, ..World::closed(&source, &[]) };
    world.check(&[("W23", "target")]);
    world.policy = AclDrift::Refuse;
    world.check(&[("B35", "target")]);
    world.source = None;
    world.check(&[]);
    let world = World { source: None, ..World::closed(&[], &OURS) };
    world.check(&[("W25", "source"), ("I27", "target")]);
}

#[test]
fn the_first_rules_of_resources_that_are_open_to_all_are_told_by_what_they_close() {
    // By a rule that only the target has, for a topic that has none on the source.
    let there = with_ours(&["Allow bob Read Topic ord*"]);
    let trapped = World::open(&["Allow alice Read Topic users", "Allow krossing All Topic users"], &there);
    let found = trapped.check(&[("I27", "target"), ("I24", "target"), ("W24", "Topic *")]);
    assert!(found[2].problem.contains("the first for orders, to which"), "{found:#?}");
    // By a rule that is carried over, for a topic that only the target has.
    let carried = World { other: Some("others"), ..World::open(&["Allow alice Read Topic *"], &[]) };
    let found: Vec<_> = carried.findings().into_iter().filter(|f| f.code == "W24").collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].subject == "Topic *" && found[0].problem.contains("first for others"), "{found:#?}");
    // Where nothing is open there is nothing to close.
    let closed = World { settings: vec![("allow.everyone.if.no.acl.found", Some("false"))], ..trapped };
    assert!(closed.findings().iter().all(|finding| finding.code != "W24"));
}

#[test]
fn krossing_is_locked_out_by_the_first_rule_of_another_where_everyone_is_let_in() {
    let orders = ["Allow alice Read Topic orders"];
    let locked_out = World::open(&orders, &[]);
    let found: Vec<_> = locked_out.findings().into_iter().filter(|f| f.code == "B36").collect();
    let remedies: Vec<&str> = found.iter().map(|finding| finding.remedy.as_str()).collect();
    let command = |operation: &str| {
        format!("kafka-acls --add --allow-principal 'User:krossing' --operation {operation} --topic 'orders'")
    };
    // Create is still open by the cluster, which has no rule.
    assert_eq!(remedies, ["Read", "Write", "Alter", "AlterConfigs"].map(command));
    assert!(found[0].problem.contains("User:krossing may not Read topics orders, needed for reading back"));
    // With the rules that were named, and where nobody told the setting, too.
    let named = ["Read", "Write", "Alter", "AlterConfigs"].map(|o| format!("Allow krossing {o} Topic orders"));
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    let told = |world: World| world.findings().iter().any(|finding| finding.code == "B36");
    assert!(!told(World::open(&orders, &named)));
    assert!(told(World { settings: Vec::new(), ..World::open(&orders, &[]) }));
    // One rule is not enough, nor one for another address; one for everybody is.
    assert!(told(World::open(&orders, &[])));
    let mut elsewhere = World::open(&orders, &[]);
    let elsewhere_only = AclBinding { host: "10.0.0.1".into(), ..rule("Allow krossing All Topic orders") };
    elsewhere.source.get_or_insert_default().push(elsewhere_only);
    assert!(told(elsewhere));
    assert!(!told(World::open(&["Allow alice Read Topic orders", "Allow * All Topic orders"], &[])));
}

#[test]
fn rules_that_deny_krossing_what_it_needs_are_a_blocker() {
    for denied in ["Deny * Write Topic orders", "Deny krossing All Topic or*", "Deny * Describe Topic *"] {
        let found = World::closed(&[denied], &OURS).check(&[("I27", "target"), ("I24", "target"), ("B36", "target")]);
        assert!(found[2].problem.contains("denies Krossing"), "{found:#?}");
    }
    for harmless in ["Deny alice Write Topic orders", "Deny * Delete Topic orders", "Deny * All Topic other"] {
        World::closed(&[harmless], &OURS).check(&[("I27", "target"), ("I24", "target")]);
    }
}

#[test]
fn a_super_user_is_not_locked_out() {
    let source = ["Deny * All Topic *", "Allow alice Read Topic orders"];
    let told = |world: World| world.findings().iter().any(|finding| finding.code == "B36");
    // It may do what no rule lets it do, and what has no rule is closed.
    assert!(!told(World::closed(&source, &[])));
    // Or there are rules, and none is ours.
    assert!(!told(World::open(&source, &["Allow bob Read Topic users"])));
    // What it lacks shows that it is none, and that nothing is open.
    let lacking = vec![Right { resource: Resource::Topic("orders".into()), operation: Operation::Read }];
    assert!(told(World { lacking, ..World::closed(&source, &OURS) }));
}

#[test]
fn a_user_whose_name_is_not_known_is_warned() {
    let world = World { principal_known: false, ..World::open(&["Allow alice Read Topic orders"], &[]) };
    let found = world.findings();
    assert!(found.iter().any(|finding| finding.code == "W27"), "{found:#?}");
    assert!(found.iter().all(|finding| finding.code != "B36"), "{found:#?}");
}
