//! Kafka's operations in the words of IAM, for clusters whose users log in with it.
//!
//! An operation is several actions, because an action of IAM does not bring those with it that it needs: whoever may
//! `ReadData` must be let `DescribeTopic` besides. The table is that of Amazon MSK's developer guide ("Authorization
//! policy actions").
//!
//! [`access_map`] turns the source's access rules into a policy for each principal. What IAM has no words for is said
//! with each, and is never widened to what it can say: a rule that cannot be expressed is left out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{msk::Arn, ports::AclBinding};

/// What an action is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The cluster itself.
    Cluster,
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
    /// A transactional id.
    TransactionalId,
}

impl Kind {
    /// As an ARN has it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cluster => "cluster",
            Kind::Topic => "topic",
            Kind::Group => "group",
            Kind::TransactionalId => "transactional-id",
        }
    }
}

/// Policies of more characters than this AWS does not take (managed policies; white space does not count).
const POLICY_CHARACTERS_MAX: usize = 6_144;

/// What each principal of the source needs on a target whose clients log in with IAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessMap {
    /// Of this format.
    pub version: u32,
    /// By principal.
    pub principals: Vec<PrincipalAccess>,
}

/// What one principal needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrincipalAccess {
    /// `User:alice`.
    pub principal: String,
    /// For the role that takes its place.
    pub policy: Policy,
    /// Rules that no statement expresses.
    pub not_expressed: Vec<NotExpressed>,
    /// What to know besides.
    pub notes: Vec<String>,
}

/// A policy, as IAM reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    /// Of IAM's language.
    pub version: &'static str,
    /// Its statements.
    pub statement: Vec<Statement>,
}

/// A statement of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Statement {
    /// `Allow` or `Deny`.
    pub effect: String,
    /// What.
    pub action: BTreeSet<String>,
    /// On what.
    pub resource: BTreeSet<String>,
}

/// A rule that no statement expresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotExpressed {
    /// The rule.
    pub rule: String,
    /// Why not, and what to do instead.
    pub why: &'static str,
}

/// The access rules as policies. Without the target's ARN its place is left to be filled in.
pub fn access_map(rules: &[AclBinding], cluster_arn: Option<&str>) -> AccessMap {
    let mut by_principal: BTreeMap<&str, Vec<&AclBinding>> = BTreeMap::new();
    for rule in rules {
        by_principal.entry(&rule.principal).or_default().push(rule);
    }
    let resources = Resources(cluster_arn.and_then(Arn::parse));
    let principals = by_principal.into_iter().map(|(principal, rules)| access(principal, &rules, &resources));
    AccessMap { version: 1, principals: principals.collect() }
}

fn access(principal: &str, rules: &[&AclBinding], resources: &Resources<'_>) -> PrincipalAccess {
    // Actions by what they are on, and then together what is on by the same actions: policies may not be long.
    let mut actions: BTreeMap<(&str, String), BTreeSet<&str>> = BTreeMap::new();
    let cluster = resources.name(Kind::Cluster, "");
    actions.entry(("Allow", cluster.clone())).or_default().insert("kafka-cluster:Connect");
    let mut not_expressed = Vec::new();
    for rule in rules {
        match expressed(rule) {
            Ok(grants) => {
                for Grant { kind, name, action } in grants {
                    let on = resources.name(kind, &name);
                    actions.entry((rule.permission.as_str(), on)).or_default().insert(action);
                }
            }
            Err(why) => not_expressed.push(NotExpressed { rule: rule.to_string(), why }),
        }
    }
    let mut together: BTreeMap<(&str, BTreeSet<&str>), BTreeSet<String>> = BTreeMap::new();
    for ((effect, on), actions) in actions {
        together.entry((effect, actions)).or_default().insert(on);
    }
    let statement = together.into_iter().map(|((effect, action), resource)| Statement {
        effect: effect.to_owned(),
        action: action.into_iter().map(str::to_owned).collect(),
        resource,
    });
    let policy = Policy { version: "2012-10-17", statement: statement.collect() };
    let notes = notes(principal, &policy, resources);
    PrincipalAccess { principal: principal.to_owned(), policy, not_expressed, notes }
}

fn notes(principal: &str, policy: &Policy, resources: &Resources<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if principal == "User:*" {
        notes.push("these rules are for everybody: attach the policy to every role that uses the cluster".to_owned());
    }
    if principal == "User:ANONYMOUS" {
        notes.push("these rules are for clients that do not log in: there are none with IAM".to_owned());
    }
    if resources.0.is_none() {
        notes.push(
            "put partition, region, account, name and UUID of the target's ARN in the place of PARTITION:kafka:\
                    REGION:ACCOUNT and NAME/UUID"
                .to_owned(),
        );
    }
    let characters = serde_json::to_string(policy).map_or(0, |text| text.len());
    if characters > POLICY_CHARACTERS_MAX {
        notes.push(format!(
            "the policy has {characters} characters, and AWS takes {POLICY_CHARACTERS_MAX}: spread its statements over \
             several, or name resources by prefixes"
        ));
    }
    notes
}

/// An action on a resource; a name as a policy spells it.
struct Grant {
    kind: Kind,
    name: String,
    action: &'static str,
}

/// What a rule is in actions, or why it is none.
fn expressed(rule: &AclBinding) -> Result<Vec<Grant>, &'static str> {
    const UNKNOWN: &str = "IAM has no such action: nothing to do where it is the brokers' own, else ask what it is for";
    if rule.host != "*" {
        return Err(
            "IAM does not look at a client's address here: keep others out by security groups, or by a condition \
                    on aws:SourceIp or aws:SourceVpce in a policy of your own",
        );
    }
    let kind = match rule.resource_type.as_str() {
        "Cluster" => Kind::Cluster,
        "Topic" => Kind::Topic,
        "Group" => Kind::Group,
        "TransactionalId" => Kind::TransactionalId,
        _ => {
            return Err(
                "IAM knows no such resource: delegation tokens are not to be had with IAM, roles take their place",
            );
        }
    };
    let name = match rule.pattern_type.as_str() {
        "Literal" if rule.resource_name == "*" => "*".to_owned(),
        "Literal" => literal(&rule.resource_name),
        "Prefixed" => literal(&rule.resource_name) + "*",
        _ => return Err("its pattern is neither a name nor a beginning of names"),
    };
    let denied = rule.permission == "Deny";
    let all = OPERATIONS.iter().filter(|(of, _)| *of == kind).map(|(_, operation)| *operation);
    let operations: Vec<&str> = if rule.operation == "All" { all.collect() } else { vec![rule.operation.as_str()] };
    let mut grants = Vec::new();
    for operation in operations {
        let on = |kind, name: &str, action| Grant { kind, name: name.to_owned(), action };
        match (kind, operation) {
            // Topics may be made by whoever may make them on the cluster.
            (Kind::Cluster, "Create") => grants.push(on(Kind::Topic, "*", "kafka-cluster:CreateTopic")),
            _ => {
                let actions = actions(kind, operation).ok_or(UNKNOWN)?;
                // What an action needs besides is not what a rule denies.
                let actions = if denied { &actions[..1] } else { actions };
                grants.extend(actions.iter().map(|action| on(kind, &name, *action)));
            }
        }
        // Whoever may write may do so idempotently, which is what producers do by default.
        if (kind, operation, denied) == (Kind::Topic, "Write", false) {
            grants.push(on(Kind::Cluster, "", "kafka-cluster:WriteDataIdempotently"));
        }
    }
    Ok(grants)
}

/// A name in which nothing stands for anything else.
fn literal(name: &str) -> String {
    name.chars().fold(String::new(), |mut text, letter| {
        match letter {
            '*' | '?' | '$' => text.extend(["${", letter.encode_utf8(&mut [0; 4]), "}"]),
            _ => text.push(letter),
        }
        text
    })
}

/// Names resources of one cluster.
struct Resources<'a>(Option<Arn<'a>>);

impl Resources<'_> {
    fn name(&self, kind: Kind, name: &str) -> String {
        let (at, cluster) = match &self.0 {
            Some(Arn { partition, region, account, resource, .. }) => {
                let cluster = resource.strip_prefix("cluster/").unwrap_or(resource);
                (format!("arn:{partition}:kafka:{region}:{account}"), cluster)
            }
            None => ("arn:PARTITION:kafka:REGION:ACCOUNT".to_owned(), "NAME/UUID"),
        };
        match kind {
            Kind::Cluster => format!("{at}:{}/{cluster}", kind.name()),
            Kind::Topic | Kind::Group | Kind::TransactionalId => format!("{at}:{}/{cluster}/{name}", kind.name()),
        }
    }
}

/// What there is to be done with each kind, by Kafka's names: what `All` is.
const OPERATIONS: &[(Kind, &str)] = &[
    (Kind::Cluster, "Describe"),
    (Kind::Cluster, "Alter"),
    (Kind::Cluster, "Create"),
    (Kind::Cluster, "DescribeConfigs"),
    (Kind::Cluster, "AlterConfigs"),
    (Kind::Cluster, "IdempotentWrite"),
    (Kind::Topic, "Read"),
    (Kind::Topic, "Write"),
    (Kind::Topic, "Create"),
    (Kind::Topic, "Delete"),
    (Kind::Topic, "Alter"),
    (Kind::Topic, "Describe"),
    (Kind::Topic, "DescribeConfigs"),
    (Kind::Topic, "AlterConfigs"),
    (Kind::Group, "Read"),
    (Kind::Group, "Describe"),
    (Kind::Group, "Delete"),
    (Kind::TransactionalId, "Write"),
    (Kind::TransactionalId, "Describe"),
];

/// The actions that let somebody do what an operation of Kafka's access rules lets them; none where IAM knows no such
/// thing.
pub fn actions(kind: Kind, operation: &str) -> Option<&'static [&'static str]> {
    Some(match (kind, operation) {
        (Kind::Cluster, "Describe") => &["kafka-cluster:DescribeCluster"],
        (Kind::Cluster, "Alter") => &["kafka-cluster:AlterCluster"],
        (Kind::Cluster, "DescribeConfigs") => &["kafka-cluster:DescribeClusterDynamicConfiguration"],
        (Kind::Cluster, "AlterConfigs") => {
            &["kafka-cluster:AlterClusterDynamicConfiguration", "kafka-cluster:DescribeClusterDynamicConfiguration"]
        }
        (Kind::Cluster, "IdempotentWrite") => &["kafka-cluster:WriteDataIdempotently"],
        (Kind::Topic, "Read") => &["kafka-cluster:ReadData", "kafka-cluster:DescribeTopic"],
        (Kind::Topic, "Write") => &["kafka-cluster:WriteData", "kafka-cluster:DescribeTopic"],
        (Kind::Topic, "Create") => &["kafka-cluster:CreateTopic"],
        (Kind::Topic, "Delete") => &["kafka-cluster:DeleteTopic", "kafka-cluster:DescribeTopic"],
        (Kind::Topic, "Alter") => &["kafka-cluster:AlterTopic", "kafka-cluster:DescribeTopic"],
        (Kind::Topic, "Describe") => &["kafka-cluster:DescribeTopic"],
        (Kind::Topic, "DescribeConfigs") => &["kafka-cluster:DescribeTopicDynamicConfiguration"],
        (Kind::Topic, "AlterConfigs") => {
            &["kafka-cluster:AlterTopicDynamicConfiguration", "kafka-cluster:DescribeTopicDynamicConfiguration"]
        }
        (Kind::Group, "Read") => &["kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup"],
        (Kind::Group, "Describe") => &["kafka-cluster:DescribeGroup"],
        (Kind::Group, "Delete") => &["kafka-cluster:DeleteGroup", "kafka-cluster:DescribeGroup"],
        (Kind::TransactionalId, "Write") => {
            &["kafka-cluster:AlterTransactionalId", "kafka-cluster:DescribeTransactionalId"]
        }
        (Kind::TransactionalId, "Describe") => &["kafka-cluster:DescribeTransactionalId"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    const ARN: &str = "arn:aws:kafka:eu-west-1:123456789012:cluster/orders/1a-2b";
    const AT: &str = "arn:aws:kafka:eu-west-1:123456789012";

    /// `Allow Read Topic Literal orders`, of `User:a` from everywhere.
    fn rule(text: &str) -> AclBinding {
        let [permission, operation, resource_type, pattern_type, resource_name] =
            text.split(' ').collect::<Vec<_>>().try_into().expect("five words");
        AclBinding {
            resource_type: resource_type.into(),
            resource_name: resource_name.into(),
            pattern_type: pattern_type.into(),
            principal: "User:a".into(),
            host: "*".into(),
            operation: operation.into(),
            permission: permission.into(),
        }
    }

    fn map_of(rules: &[AclBinding]) -> PrincipalAccess {
        let mut map = access_map(rules, Some(ARN));
        assert_eq!(map.principals.len(), 1, "{map:#?}");
        map.principals.remove(0)
    }

    /// Effect, actions without their service, and resources without their cluster.
    fn check(rules: &[&str], expected: &[(&str, &str, &str)]) {
        let rules: Vec<AclBinding> = rules.iter().map(|text| rule(text)).collect();
        let access = map_of(&rules);
        let joined = |texts: &BTreeSet<String>| texts.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let told: Vec<(String, String, String)> = (access.policy.statement.iter())
            .map(|it| {
                let actions = joined(&it.action).replace("kafka-cluster:", "");
                let on = joined(&it.resource).replace(&format!("{AT}:"), "").replace("orders/1a-2b", "C");
                (it.effect.clone(), actions, on)
            })
            .collect();
        let expected: Vec<_> =
            expected.iter().map(|(effect, actions, on)| ((*effect).into(), (*actions).into(), (*on).into())).collect();
        assert_eq!(told, expected, "{rules:?}");
        assert_eq!(access.not_expressed, []);
    }

    #[test]
    fn names_prefixes_and_wildcards_become_resources() {
        check(
            &["Allow Read Topic Literal orders", "Allow Read Topic Prefixed app-", "Allow Read Group Literal *"],
            &[
                ("Allow", "AlterGroup DescribeGroup", "group/C/*"),
                ("Allow", "Connect", "cluster/C"),
                ("Allow", "DescribeTopic ReadData", "topic/C/app-* topic/C/orders"),
            ],
        );
        check(
            &["Allow Read Group Literal what*is?$this", "Allow Describe TransactionalId Prefixed app"],
            &[
                ("Allow", "AlterGroup DescribeGroup", "group/C/what${*}is${?}${$}this"),
                ("Allow", "Connect", "cluster/C"),
                ("Allow", "DescribeTransactionalId", "transactional-id/C/app*"),
            ],
        );
    }

    #[test]
    fn writers_may_write_idempotently_and_topics_are_made_on_topics() {
        check(
            &["Allow Write Topic Literal orders", "Allow Create Cluster Literal kafka-cluster"],
            &[
                ("Allow", "Connect WriteDataIdempotently", "cluster/C"),
                ("Allow", "CreateTopic", "topic/C/*"),
                ("Allow", "DescribeTopic WriteData", "topic/C/orders"),
            ],
        );
    }

    #[test]
    fn what_is_denied_is_that_action_alone() {
        check(
            &["Allow All Group Literal g", "Deny Read Topic Prefixed secret-"],
            &[
                ("Allow", "AlterGroup DeleteGroup DescribeGroup", "group/C/g"),
                ("Allow", "Connect", "cluster/C"),
                ("Deny", "ReadData", "topic/C/secret-*"),
            ],
        );
    }

    #[test]
    fn what_iam_has_no_words_for_is_left_out_and_told() {
        let from_one_host = AclBinding { host: "10.0.0.1".into(), ..rule("Allow Read Topic Literal orders") };
        let rules = [
            from_one_host,
            rule("Allow ClusterAction Cluster Literal kafka-cluster"),
            rule("Allow Describe DelegationToken Literal t"),
            rule("Allow Read Topic Match orders"),
        ];
        let access = map_of(&rules);
        assert_eq!(access.policy.statement.len(), 1, "{access:#?}");
        let told: Vec<&str> = access.not_expressed.iter().map(|it| it.rule.as_str()).collect();
        assert_eq!(told, rules.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(access.not_expressed[0].why.contains("aws:SourceIp"));
    }

    #[test]
    fn every_operation_of_a_kind_has_actions_and_long_policies_and_everybody_are_noted() {
        for (kind, operation) in OPERATIONS {
            assert!(
                actions(*kind, operation).is_some() || (*kind, *operation) == (Kind::Cluster, "Create"),
                "{operation}"
            );
        }
        let many = (0..200).map(|number| rule(&format!("Allow Read Topic Literal a-topic-with-a-name-{number}")));
        let many: Vec<AclBinding> = many.map(|rule| AclBinding { principal: "User:*".into(), ..rule }).collect();
        let map = access_map(&many, None);
        assert_eq!(map.principals[0].notes.len(), 3, "{:?}", map.principals[0].notes);
        let json = serde_json::to_value(&map).unwrap();
        let statement = &json["principals"][0]["policy"]["Statement"][0];
        assert_eq!(json["principals"][0]["policy"]["Version"], "2012-10-17");
        assert_eq!(statement["Resource"][0], "arn:PARTITION:kafka:REGION:ACCOUNT:cluster/NAME/UUID");
    }
}
