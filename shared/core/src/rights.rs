//! What our own user must be allowed to do on each cluster, and the access rules to add where it is not.
//!
//! Why asked for one by one, and not read from the cluster's access rules: super users, groups of principals and rules
//! by host are known to brokers alone. Who may not see topics and groups cannot be told which there are: then one that
//! does not exist is asked for in the name of each pattern of the selection, so that everything is told at once.
//!
//! Invariants: a right is in the list because a call that Krossing makes needs it, and the list is complete: a user with
//! exactly these can migrate (`tests/faults/blockers.rs`). Asks and changes nothing itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    config::Auth,
    cutover::MarkerKind,
    iam,
    plan::Selection,
    types::{GroupId, MigrationId, Side, TopicName},
};

/// What may be done, by Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Fetch records; join a group and commit.
    Read,
    /// Produce; use a transactional id.
    Write,
    /// Make topics.
    Create,
    /// Add partitions; make access rules.
    Alter,
    /// Be told that it is there.
    Describe,
    /// Read settings.
    DescribeConfigs,
    /// Change settings, and client quotas.
    AlterConfigs,
}

/// On what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// The cluster itself.
    Cluster,
    /// A topic, also one that is not there yet.
    Topic(TopicName),
    /// A group, also one that is not there yet.
    Group(GroupId),
    /// A transactional id.
    TransactionalId(String),
}

/// Something that a user may or may not do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// On what.
    pub resource: Resource,
    /// What.
    pub operation: Operation,
}

/// What access rules call our own user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// `User:alice`.
    pub name: String,
    /// Whether that is surely so: brokers make the name of a certificate by rules of their own.
    pub known: bool,
    /// What says what it may do.
    pub governed_by: GovernedBy,
}

/// What says what a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GovernedBy {
    /// Kafka's access rules.
    AccessRules,
    /// IAM policies: access rules mean nothing for whoever logs in with IAM.
    Policies,
}

impl Principal {
    /// Who logs in like this.
    pub fn of(auth: &Auth) -> Self {
        match auth {
            Auth::ScramSha512 { username, .. } => Self::by_rules(format!("User:{username}"), true),
            Auth::Mtls(identity) => Self::by_rules(format!("User:<subject of {}>", identity.file().display()), false),
            Auth::None => Self::by_rules("User:ANONYMOUS".to_owned(), true),
            Auth::Iam => {
                Self { name: "the role of this process".to_owned(), known: false, governed_by: GovernedBy::Policies }
            }
        }
    }

    /// One that access rules speak of.
    pub fn by_rules(name: String, known: bool) -> Self {
        Self { name, known, governed_by: GovernedBy::AccessRules }
    }

    /// Whether a rule is surely about this user alone.
    pub fn is(&self, named: &str) -> bool {
        self.known && self.name == named
    }
}

/// For whom rights are looked at, and on what.
#[derive(Debug, Clone)]
pub struct Rights<'a> {
    /// On which cluster.
    pub side: Side,
    /// The migration: its transactional ids begin with its name.
    pub migration: &'a MigrationId,
    /// Which topics are wanted.
    pub selection: &'a Selection,
    /// The topics that are known to be migrated.
    pub topics: BTreeSet<TopicName>,
    /// The groups that are known to be migrated.
    pub groups: BTreeSet<GroupId>,
    /// What closes the source.
    pub marker: MarkerKind,
    /// Whether these are all there are: not so where our user may not see the others.
    pub all_seen: bool,
    /// Whether access rules are to be made there.
    pub makes_acls: bool,
    /// Whether client quotas are to be set there.
    pub sets_quotas: bool,
}

/// A right that our own user lacks, on one or more resources of a kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingRight {
    /// On which cluster.
    pub side: Side,
    /// `User:alice`, as access rules name our user.
    pub principal: String,
    /// What would have to let it.
    pub governed_by: GovernedBy,
    /// What it may not do.
    pub operation: Operation,
    /// On what.
    pub scope: Scope,
    /// What Krossing needs it for.
    pub needed_for: &'static str,
}

/// What one access rule, or several that differ in a name, cover.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The cluster itself.
    Cluster,
    /// Topics of these names; `*` is all.
    Topics(Vec<String>),
    /// Topics whose names begin like this.
    TopicsFrom(Vec<String>),
    /// Groups of these names; `*` is all.
    Groups(Vec<String>),
    /// Transactional ids that begin like this.
    TransactionalIdsFrom(String),
}

/// All transactional ids of all migrations begin like this.
const TRANSACTIONAL_IDS: &str = "krossing.";

/// Names that are listed one by one; more are covered by the patterns of the selection.
const NAMES_MAX: usize = 5;

/// Stands for what our user cannot see. Nobody has such a topic or group.
const UNSEEN: &str = "krossing-precheck-unseen";

impl Rights<'_> {
    /// Everything Krossing needs there. What another right brings with it (Read brings Describe) is not listed.
    pub fn needed(&self) -> Vec<Right> {
        let mut rights: Vec<Right> =
            self.cluster().iter().map(|&(operation, _)| Right { resource: Resource::Cluster, operation }).collect();
        let unseen = self.unseen_topics().into_keys().filter(|_| !self.all_seen);
        let topics: BTreeSet<TopicName> = self.topics.iter().cloned().chain(unseen).collect();
        for (operation, _) in self.on_topics() {
            let on = |topic: &TopicName| Right { resource: Resource::Topic(topic.clone()), operation: *operation };
            rights.extend(topics.iter().map(on));
        }
        let unseen = (!self.all_seen).then(|| GroupId::new(UNSEEN));
        for group in self.groups.iter().cloned().chain(unseen) {
            rights.push(Right { resource: Resource::Group(group), operation: self.on_groups().0 });
        }
        if self.side == Side::Target || self.marker == MarkerKind::Control {
            let id = format!("{TRANSACTIONAL_IDS}{}.precheck", self.migration);
            rights.push(Right { resource: Resource::TransactionalId(id), operation: Operation::Write });
        }
        rights
    }

    /// What is lacking, as access rules would name it: one entry an operation and kind of resource.
    pub fn missing(&self, principal: &Principal, lacking: &[Right]) -> Vec<MissingRight> {
        let mut missing = Vec::new();
        let mut add = |operation, scope, needed_for| {
            missing.push(MissingRight {
                side: self.side,
                principal: principal.name.clone(),
                governed_by: principal.governed_by,
                operation,
                scope,
                needed_for,
            });
        };
        let lacks = |resource: &Resource, operation| {
            lacking.iter().any(|right| right.resource == *resource && right.operation == operation)
        };
        for (operation, needed_for) in self.cluster() {
            if lacks(&Resource::Cluster, operation) {
                add(operation, Scope::Cluster, needed_for);
            }
        }
        for (operation, needed_for) in self.on_topics() {
            let topics = lacking.iter().filter(|right| right.operation == *operation);
            let topics = topics.filter_map(|right| match &right.resource {
                Resource::Topic(topic) => Some(topic),
                Resource::Cluster | Resource::Group(_) | Resource::TransactionalId(_) => None,
            });
            let (names, beginnings) = self.topic_names(topics.collect());
            for (names, scope) in [(names, Scope::Topics as fn(_) -> _), (beginnings, Scope::TopicsFrom)] {
                if !names.is_empty() {
                    add(*operation, scope(names), *needed_for);
                }
            }
        }
        let (operation, needed_for) = self.on_groups();
        let groups = lacking.iter().filter_map(|right| match &right.resource {
            Resource::Group(group) => Some(group.as_str().to_owned()),
            Resource::Cluster | Resource::Topic(_) | Resource::TransactionalId(_) => None,
        });
        let groups: Vec<String> = groups.collect();
        if groups.len() > NAMES_MAX || groups.iter().any(|group| group == UNSEEN) {
            add(operation, Scope::Groups(vec!["*".to_owned()]), needed_for);
        } else if !groups.is_empty() {
            add(operation, Scope::Groups(groups), needed_for);
        }
        if lacking.iter().any(|right| matches!(right.resource, Resource::TransactionalId(_))) {
            let needed_for = match self.side {
                Side::Source => "the closing markers",
                Side::Target => "fencing earlier workers",
            };
            add(Operation::Write, Scope::TransactionalIdsFrom(TRANSACTIONAL_IDS.to_owned()), needed_for);
        }
        missing
    }

    /// Names, and beginnings of names, that cover `topics`.
    fn topic_names(&self, topics: BTreeSet<&TopicName>) -> (Vec<String>, Vec<String>) {
        let unseen = self.unseen_topics();
        let named = |topic: &&TopicName| unseen.get(*topic).is_none_or(|pattern| !pattern.contains('*'));
        if topics.len() <= NAMES_MAX && topics.iter().all(named) {
            return (topics.into_iter().map(|topic| topic.as_str().to_owned()).collect(), Vec::new());
        }
        let patterns = unseen.into_values().map(|pattern| match pattern.split_once('*') {
            None => (pattern.to_owned(), false),
            Some(("", _)) => ("*".to_owned(), false),
            Some((beginning, _)) => (beginning.to_owned(), true),
        });
        let (beginnings, names): (Vec<_>, Vec<_>) = patterns.partition(|(_, begins)| *begins);
        let only = |names: Vec<(String, bool)>| names.into_iter().map(|(name, _)| name).collect();
        (only(names), only(beginnings))
    }

    /// A name for each pattern of the selection: its own where it has no `*`, or one that nobody has.
    fn unseen_topics(&self) -> BTreeMap<TopicName, &str> {
        let name = |pattern: &str| match pattern.split_once('*') {
            None => TopicName::new(pattern),
            Some((beginning, _)) => TopicName::new(format!("{beginning}{UNSEEN}")),
        };
        self.selection.include.iter().map(|pattern| (name(pattern), pattern.as_str())).collect()
    }

    fn cluster(&self) -> Vec<(Operation, &'static str)> {
        match self.side {
            Side::Source => vec![
                (Operation::Describe, "seeing all groups, sizes and access rules"),
                (Operation::DescribeConfigs, "reading client quotas"),
            ],
            Side::Target => {
                let mut rights = vec![
                    (Operation::Describe, "seeing all groups and access rules"),
                    (Operation::DescribeConfigs, "reading the brokers' defaults and client quotas"),
                ];
                rights.extend(self.makes_acls.then_some((Operation::Alter, "making access rules")));
                rights.extend(self.sets_quotas.then_some((Operation::AlterConfigs, "setting client quotas")));
                rights
            }
        }
    }

    fn on_topics(&self) -> &'static [(Operation, &'static str)] {
        match self.side {
            Side::Source if self.marker == MarkerKind::None => {
                &[(Operation::Read, "copying records"), (Operation::DescribeConfigs, "copying settings")]
            }
            Side::Source => &[
                (Operation::Read, "copying records"),
                (Operation::Write, "the closing markers"),
                (Operation::DescribeConfigs, "copying settings"),
            ],
            Side::Target => &[
                (Operation::Read, "reading back what was copied, and positions of groups"),
                (Operation::Write, "copying records"),
                (Operation::Create, "making topics"),
                (Operation::Alter, "adding partitions"),
                (Operation::AlterConfigs, "setting their settings"),
            ],
        }
    }

    fn on_groups(&self) -> (Operation, &'static str) {
        match self.side {
            Side::Source => (Operation::Describe, "reading their positions"),
            Side::Target => (Operation::Read, "writing their positions"),
        }
    }
}

impl MissingRight {
    /// What is wrong.
    pub fn problem(&self) -> String {
        let Self { principal, operation, scope, needed_for, .. } = self;
        format!("{principal} may not {operation:?} {scope}, needed for {needed_for}")
    }

    /// The command that adds the access rules, or what its policies must allow.
    pub fn remedy(&self) -> String {
        let Self { principal, operation, scope, governed_by, .. } = self;
        if *governed_by == GovernedBy::Policies {
            return self.policy();
        }
        let resources = match scope {
            Scope::Cluster => "--cluster".to_owned(),
            Scope::Topics(names) => options("--topic", names),
            Scope::TopicsFrom(names) => format!("{} --resource-pattern-type prefixed", options("--topic", names)),
            Scope::Groups(names) => options("--group", names),
            Scope::TransactionalIdsFrom(id) => {
                format!("--transactional-id '{id}' --resource-pattern-type prefixed")
            }
        };
        format!("kafka-acls --add --allow-principal '{principal}' --operation {operation:?} {resources}")
    }
}

impl MissingRight {
    fn policy(&self) -> String {
        let (kind, names): (_, Vec<String>) = match &self.scope {
            Scope::Cluster => (iam::Kind::Cluster, Vec::new()),
            Scope::Topics(names) => (iam::Kind::Topic, names.clone()),
            Scope::TopicsFrom(names) => (iam::Kind::Topic, names.iter().map(|name| format!("{name}*")).collect()),
            Scope::Groups(names) => (iam::Kind::Group, names.clone()),
            Scope::TransactionalIdsFrom(id) => (iam::Kind::TransactionalId, vec![format!("{id}*")]),
        };
        let actions = iam::actions(kind, &format!("{:?}", self.operation)).unwrap_or_default();
        let on = match names.is_empty() {
            true => "the cluster".to_owned(),
            false => format!("{} {}", kind.name(), names.join(", ")),
        };
        format!("allow {} on {on} in a policy of this role", actions.join(" and "))
    }
}

fn options(option: &str, names: &[String]) -> String {
    names.iter().map(|name| format!("{option} '{name}'")).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Cluster => write!(f, "the cluster"),
            Scope::Topics(names) => write!(f, "topics {}", names.join(", ")),
            Scope::TopicsFrom(names) => write!(f, "topics {}*", names.join("*, ")),
            Scope::Groups(names) => write!(f, "groups {}", names.join(", ")),
            Scope::TransactionalIdsFrom(id) => write!(f, "transactional ids {id}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who lacks every right that is needed: the commands that are to be run.
    fn check(side: Side, include: &[&str], topics: &[&str], all_seen: bool, expected: &[&str]) {
        let migration = "m".parse().expect("an id");
        let include = include.iter().map(|&pattern| pattern.to_owned()).collect();
        let selection = Selection { include, exclude: Vec::new() };
        let topics = topics.iter().map(|&name| TopicName::new(name)).collect();
        let groups = BTreeSet::from([GroupId::new("billing")]);
        let rights = Rights {
            side,
            migration: &migration,
            selection: &selection,
            topics,
            groups,
            marker: MarkerKind::Control,
            all_seen,
            makes_acls: true,
            sets_quotas: true,
        };
        let alice = Principal::by_rules("User:alice".to_owned(), true);
        let missing = rights.missing(&alice, &rights.needed());
        let commands: Vec<String> = missing
            .iter()
            .map(|missing| missing.remedy().replace("kafka-acls --add --allow-principal 'User:alice' --operation ", ""))
            .collect();
        assert_eq!(commands, expected, "{missing:#?}");
        assert_eq!(rights.missing(&alice, &[]), []);
    }

    #[test]
    fn who_logs_in_with_iam_is_told_what_its_policies_must_allow() {
        let (migration, selection) = ("m".parse().expect("an id"), Selection::default());
        let rights = Rights {
            side: Side::Target,
            migration: &migration,
            selection: &selection,
            topics: BTreeSet::from([TopicName::new("orders")]),
            groups: BTreeSet::from([GroupId::new("billing")]),
            marker: MarkerKind::Control,
            all_seen: true,
            makes_acls: false,
            sets_quotas: false,
        };
        let missing = rights.missing(&Principal::of(&Auth::Iam), &rights.needed());
        let said: Vec<String> = missing.iter().map(MissingRight::remedy).collect();
        let expected = [
            "kafka-cluster:DescribeCluster on the cluster",
            "kafka-cluster:DescribeClusterDynamicConfiguration on the cluster",
            "kafka-cluster:ReadData and kafka-cluster:DescribeTopic on topic orders",
            "kafka-cluster:WriteData and kafka-cluster:DescribeTopic on topic orders",
            "kafka-cluster:CreateTopic on topic orders",
            "kafka-cluster:AlterTopic and kafka-cluster:DescribeTopic on topic orders",
            "kafka-cluster:AlterTopicDynamicConfiguration and kafka-cluster:DescribeTopicDynamicConfiguration on topic orders",
            "kafka-cluster:AlterGroup and kafka-cluster:DescribeGroup on group billing",
            "kafka-cluster:AlterTransactionalId and kafka-cluster:DescribeTransactionalId on transactional-id krossing.*",
        ];
        assert_eq!(said, expected.map(|what| format!("allow {what} in a policy of this role")));
    }

    #[test]
    fn what_is_seen_is_named() {
        check(
            Side::Source,
            &["*"],
            &["orders", "users"],
            true,
            &[
                "Describe --cluster",
                "DescribeConfigs --cluster",
                "Read --topic 'orders' --topic 'users'",
                "Write --topic 'orders' --topic 'users'",
                "DescribeConfigs --topic 'orders' --topic 'users'",
                "Describe --group 'billing'",
                "Write --transactional-id 'krossing.' --resource-pattern-type prefixed",
            ],
        );
    }

    #[test]
    fn a_source_that_is_not_marked_need_not_be_written_to() {
        let (migration, selection) = ("m".parse().expect("an id"), Selection::default());
        let topics = BTreeSet::from([TopicName::new("orders")]);
        for marker in [MarkerKind::Control, MarkerKind::Record, MarkerKind::None] {
            let groups = BTreeSet::new();
            let (side, topics) = (Side::Source, topics.clone());
            let rights = Rights {
                side,
                migration: &migration,
                selection: &selection,
                topics,
                groups,
                marker,
                all_seen: true,
                makes_acls: false,
                sets_quotas: false,
            };
            let writes = rights.needed().into_iter().filter(|right| right.operation == Operation::Write).count();
            let expected = match marker {
                MarkerKind::Control => 2,
                MarkerKind::Record => 1,
                MarkerKind::None => 0,
            };
            assert_eq!(writes, expected, "{marker:?}");
        }
    }

    #[test]
    fn what_may_not_be_seen_is_covered_by_the_patterns_of_the_selection() {
        check(
            Side::Target,
            &["orders", "app-*"],
            &[],
            false,
            &[
                "Describe --cluster",
                "DescribeConfigs --cluster",
                "Alter --cluster",
                "AlterConfigs --cluster",
                "Read --topic 'orders'",
                "Read --topic 'app-' --resource-pattern-type prefixed",
                "Write --topic 'orders'",
                "Write --topic 'app-' --resource-pattern-type prefixed",
                "Create --topic 'orders'",
                "Create --topic 'app-' --resource-pattern-type prefixed",
                "Alter --topic 'orders'",
                "Alter --topic 'app-' --resource-pattern-type prefixed",
                "AlterConfigs --topic 'orders'",
                "AlterConfigs --topic 'app-' --resource-pattern-type prefixed",
                "Read --group '*'",
                "Write --transactional-id 'krossing.' --resource-pattern-type prefixed",
            ],
        );
    }

    #[test]
    fn many_topics_are_covered_by_a_pattern() {
        let many = ["a", "b", "c", "d", "e", "f"];
        check(
            Side::Source,
            &["*"],
            &many,
            true,
            &[
                "Describe --cluster",
                "DescribeConfigs --cluster",
                "Read --topic '*'",
                "Write --topic '*'",
                "DescribeConfigs --topic '*'",
                "Describe --group 'billing'",
                "Write --transactional-id 'krossing.' --resource-pattern-type prefixed",
            ],
        );
    }
}
