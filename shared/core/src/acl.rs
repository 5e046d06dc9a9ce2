//! Access rules: which are carried over, what becomes of those that only the target has, and whom new ones shut out.
//!
//! Rules are only ever added. That is not harmless by itself: where a cluster lets everyone use what has no rule
//! (`allow.everyone.if.no.acl.found`, MSK's default), the first rule of a resource closes it to all others, Krossing's
//! own user among them. Brokers do not tell that setting, only whether somebody has set it, so that a cluster counts as
//! open unless something shows that it is not; and super users, for whom rules mean nothing, are known by what they may
//! do although no rule says so.
//!
//! Invariants: no rule is ever taken away; rules of the cluster's own (see [`is_clusters_own`]) are neither carried over
//! nor counted as a difference; rules of our own user are carried over, but are no reason to refuse, since the two
//! clusters need different ones.
//!
//! Does not: ask or write; know the address that brokers see us come from (a rule for one host alone is not counted as
//! letting us in, and is as keeping us out).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::AclDrift,
    plan::{KAFKA_OWN_TOPICS, MigrationPlan, SourceInventory, TargetInventory},
    ports::{AclBinding, Configs},
    precheck::{Finding, Findings, few},
    rights::{GovernedBy, Operation, Principal, Resource, Right, Rights},
    types::Side,
};

/// Rules that each cluster has of its own: of nobody, of Kafka's own topics, and what brokers may do among themselves.
pub fn is_clusters_own(rule: &AclBinding) -> bool {
    rule.principal == "User:ANONYMOUS"
        || (rule.resource_type == "Topic" && KAFKA_OWN_TOPICS.contains(&rule.resource_name.as_str()))
        || (rule.resource_type == "Cluster" && rule.operation == "ClusterAction")
}

// ── What differs ───────────────────────────────────────────────────────────────────────────────────────────────────

/// Planned rules, and those that the target has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AclDifference {
    /// Planned, and not there.
    pub missing: Vec<AclBinding>,
    /// There, and not planned.
    pub only_on_target: Vec<AclBinding>,
}

/// What of `planned` is not in `there`, and the other way round.
pub fn difference(planned: &[AclBinding], there: &[AclBinding]) -> AclDifference {
    let (planned, there): (BTreeSet<_>, BTreeSet<_>) = (planned.iter().collect(), there.iter().collect());
    let cloned = |rules: &mut dyn Iterator<Item = &&AclBinding>| rules.map(|rule| (*rule).clone()).collect();
    AclDifference {
        missing: cloned(&mut planned.difference(&there)),
        only_on_target: cloned(&mut there.difference(&planned).filter(|rule| !is_clusters_own(rule))),
    }
}

impl AclDifference {
    /// Why `acl.on_drift: refuse` stops here; none where it does not. Rules of `own`, our user, are no reason.
    pub fn refusal(&self, own: &Principal) -> Option<String> {
        let of_others = |rules: &[AclBinding]| {
            let rules = rules.iter().filter(|rule| !own.is(&rule.principal));
            rules.map(ToString::to_string).collect::<Vec<_>>()
        };
        let (missing, only_there) = (of_others(&self.missing), of_others(&self.only_on_target));
        let told: Vec<String> = [("source", missing), ("target", only_there)]
            .into_iter()
            .filter(|(_, rules)| !rules.is_empty())
            .map(|(side, rules)| format!("{} only on the {side} ({})", rules.len(), list(&rules)))
            .collect();
        (!told.is_empty()).then(|| format!("access rules differ: {}", told.join(", ")))
    }
}

/// What to do about [`AclDifference::refusal`].
pub const REFUSAL_REMEDY: &str = "make the rules of both clusters equal, or set acl.on_drift to merge or replace";

fn list(rules: &[String]) -> String {
    few(&rules.iter().map(String::as_str).collect::<Vec<_>>())
}

// ── What rules mean ────────────────────────────────────────────────────────────────────────────────────────────────

/// The name of the one resource of kind `Cluster`.
const CLUSTER: &str = "kafka-cluster";

fn named(resource: &Resource) -> (&'static str, &str) {
    match resource {
        Resource::Cluster => ("Cluster", CLUSTER),
        Resource::Topic(topic) => ("Topic", topic.as_str()),
        Resource::Group(group) => ("Group", group.as_str()),
        Resource::TransactionalId(id) => ("TransactionalId", id),
    }
}

fn covers(rule: &AclBinding, (kind, name): (&str, &str)) -> bool {
    rule.resource_type == kind
        && match rule.pattern_type.as_str() {
            "Literal" => rule.resource_name == name || rule.resource_name == "*",
            "Prefixed" => name.starts_with(&rule.resource_name),
            _ => false,
        }
}

/// Whether an operation's rule brings another operation with it.
fn brings(rule: &str, operation: Operation) -> bool {
    rule == "All"
        || rule == format!("{operation:?}")
        || match operation {
            Operation::Describe => ["Read", "Write", "Delete", "Alter"].contains(&rule),
            Operation::DescribeConfigs => rule == "AlterConfigs",
            Operation::Read | Operation::Write | Operation::Create | Operation::Alter | Operation::AlterConfigs => {
                false
            }
        }
}

fn grants(rule: &AclBinding, right: &Right) -> bool {
    rule.permission == "Allow" && covers(rule, named(&right.resource)) && brings(&rule.operation, right.operation)
}

/// What may not be described cannot be used either: clients look before they read or write.
fn denies(rule: &AclBinding, right: &Right) -> bool {
    let same = rule.operation == "All" || rule.operation == format!("{:?}", right.operation);
    rule.permission == "Deny" && covers(rule, named(&right.resource)) && (same || rule.operation == "Describe")
}

/// Topics may be made by whoever may make them on the cluster.
fn or_on_cluster(right: &Right) -> Option<Right> {
    let by_topic = matches!(right.resource, Resource::Topic(_)) && right.operation == Operation::Create;
    by_topic.then_some(Right { resource: Resource::Cluster, operation: Operation::Create })
}

// ── Who is shut out ────────────────────────────────────────────────────────────────────────────────────────────────

/// Our own user on the target.
#[derive(Debug, Clone)]
pub struct OwnUser<'a> {
    /// What rules call it.
    pub principal: &'a Principal,
    /// What it needs.
    pub rights: &'a Rights<'a>,
    /// What of that it lacks now.
    pub lacking: &'a [Right],
}

impl OwnUser<'_> {
    fn is(&self, rule: &AclBinding) -> bool {
        rule.principal == "User:*" || self.principal.is(&rule.principal)
    }

    fn held(&self) -> Vec<Right> {
        self.rights.needed().into_iter().filter(|right| !self.lacking.contains(right)).collect()
    }

    /// Whether it may do something that no rule lets it do: then rules mean nothing for it.
    fn is_above_rules(&self, there: &[AclBinding], open: bool) -> bool {
        let may_be = |rule: &&AclBinding| !self.principal.known || self.is(rule);
        self.held().iter().any(|right| {
            let instead = or_on_cluster(right);
            let granted = |right: &Right| there.iter().filter(may_be).any(|rule| grants(rule, right));
            // An open cluster gives what no rule covers.
            let closed = !open || (instead.is_none() && there.iter().any(|rule| covers(rule, named(&right.resource))));
            closed && !granted(right) && !instead.is_some_and(|right| granted(&right))
        })
    }
}

/// What new rules take away from our own user.
#[derive(Debug, Default, PartialEq, Eq)]
struct ShutOut {
    /// Held because no rule was there: the first one comes, and it is another's.
    closed: Vec<Right>,
    /// New rules that deny what it needs.
    denied: Vec<AclBinding>,
}

fn shut_out(own: &OwnUser<'_>, there: &[AclBinding], new: &[AclBinding], open: bool) -> ShutOut {
    if own.principal.governed_by == GovernedBy::Policies || own.is_above_rules(there, open) {
        return ShutOut::default();
    }
    let held = own.held();
    let allowed_after = |right: &Right| {
        let mut rules = there.iter().chain(new).filter(|rule| covers(rule, named(&right.resource))).peekable();
        if rules.peek().is_none() {
            return open;
        }
        rules.any(|rule| own.is(rule) && rule.host == "*" && grants(rule, right))
    };
    let closes = |right: &Right| {
        // Where there is a rule already, more of them that allow change nothing.
        let first = !there.iter().any(|rule| covers(rule, named(&right.resource)));
        open && first && !allowed_after(right) && !or_on_cluster(right).is_some_and(|right| allowed_after(&right))
    };
    let denied = new.iter().filter(|rule| own.is(rule) && held.iter().any(|right| denies(rule, right)));
    ShutOut { closed: held.iter().filter(|right| closes(right)).cloned().collect(), denied: denied.cloned().collect() }
}

/// Whether what has no rule may be open to everyone: so unless the brokers say or show that it is not.
fn may_be_open(configs: &Configs, there: &[AclBinding], lacking: &[Right]) -> bool {
    let told_closed = match configs.get("allow.everyone.if.no.acl.found") {
        Some(entry) => entry.value.as_deref() == Some("false"),
        // Nobody has set it, and closed is the default, where the brokers tell their settings at all.
        None => configs.contains_key("authorizer.class.name"),
    };
    let shown_closed = lacking.iter().any(|right| !there.iter().any(|rule| covers(rule, named(&right.resource))));
    !told_closed && !shown_closed
}

/// Resources that get their first rule, by the kind, name and pattern of the rule.
type Closings<'a> = BTreeMap<(&'a str, &'a str, &'a str), BTreeSet<&'a str>>;

/// What is open to everyone where it is used now, and not on the target with `new`: planned topics and groups by rules
/// that only the target has, the target's other topics and groups by those that are carried over.
fn closings<'a>(facts: &'a AclFacts<'_>, there: &'a [AclBinding], new: &'a [AclBinding]) -> Closings<'a> {
    let AclFacts { plan, source, target, .. } = facts;
    let at_source = source.acls.as_deref().unwrap_or_default();
    let planned = plan.topics.iter().map(|topic| ("Topic", topic.name.as_str()));
    let planned: BTreeSet<_> = planned.chain(plan.groups.iter().map(|group| ("Group", group.id.as_str()))).collect();
    let others = target.topics.iter().filter(|topic| !topic.internal).map(|topic| ("Topic", topic.name.as_str()));
    let others = others.chain(target.groups.iter().map(|group| ("Group", group.id.as_str())));
    let others: Vec<_> = others.filter(|other| !planned.contains(other)).collect();
    let mut closings = Closings::new();
    let planned = planned.into_iter().map(|resource| (resource, at_source, there));
    for (resource, now, then) in planned.chain(others.into_iter().map(|resource| (resource, there, new))) {
        let open_now = !now.iter().any(|rule| covers(rule, resource));
        if let Some(rule) = then.iter().find(|rule| covers(rule, resource)).filter(|_| open_now) {
            let pattern = (rule.resource_type.as_str(), rule.resource_name.as_str(), rule.pattern_type.as_str());
            closings.entry(pattern).or_default().insert(resource.1);
        }
    }
    closings
}

// ── Findings ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// What is known of access rules before a migration.
#[derive(Debug, Clone)]
pub struct AclFacts<'a> {
    /// What the operator wants where the target has others.
    pub policy: AclDrift,
    /// What is planned.
    pub plan: &'a MigrationPlan,
    /// The source.
    pub source: &'a SourceInventory,
    /// The target.
    pub target: &'a TargetInventory,
    /// Us, on the target.
    pub own: OwnUser<'a>,
}

/// Everything there is to say about them.
pub fn findings(facts: &AclFacts<'_>) -> Vec<Finding> {
    let mut found = Findings::default();
    if !facts.plan.acls_left_out.is_empty() {
        let problem = format!("{} access rules are its own and stay behind", facts.plan.acls_left_out.len());
        found.info("I26", Side::Source, problem, "nothing: the plan lists them");
    }
    let planned = facts.plan.acls.as_deref();
    match (planned.unwrap_or_default(), facts.target.acls.as_deref()) {
        ([], None) => {}
        (planned, None) => no_authorizer_on_target(facts.policy, planned.len(), &mut found),
        (planned_rules, Some(there)) => {
            if planned.is_none() {
                found.warning(
                    "W25",
                    Side::Source,
                    "it has no authorizer and the target has one: applications that may do everything on the source may \
                     do on the target what rules there let them",
                    "make rules on the target for every application before clients switch",
                );
            }
            between_authorizers(facts, planned_rules, there, &mut found);
        }
    }
    found.0
}

fn no_authorizer_on_target(policy: AclDrift, planned: usize, found: &mut Findings) {
    let problem =
        format!("it has no authorizer, and the source has {planned} access rules: nothing would enforce them");
    match policy {
        AclDrift::Merge | AclDrift::Replace => found.warning(
            "W23",
            Side::Target,
            format!("{problem}, so that none is written"),
            "give the target an authorizer, if applications are not to do everything there",
        ),
        AclDrift::Refuse => found.blocker(
            "B35",
            Side::Target,
            problem,
            "give the target an authorizer, or set acl.on_drift to merge or replace",
        ),
    }
}

fn between_authorizers(facts: &AclFacts<'_>, planned: &[AclBinding], there: &[AclBinding], found: &mut Findings) {
    let AclDifference { missing, only_on_target } = &difference(planned, there);
    let texts = |rules: &[AclBinding]| list(&rules.iter().map(ToString::to_string).collect::<Vec<_>>());
    let beyond = format!("{} access rules are only there: {}", only_on_target.len(), texts(only_on_target));
    match (facts.policy, only_on_target.is_empty()) {
        (AclDrift::Merge | AclDrift::Replace, true) => {}
        (AclDrift::Merge, false) => found.info("I27", Side::Target, beyond, "nothing: they stay as they are"),
        (AclDrift::Replace, false) => found.warning(
            "W26",
            Side::Target,
            beyond,
            "remove those that should not be there (kafka-acls --remove): Krossing deletes none",
        ),
        (AclDrift::Refuse, _) => {
            if let Some(problem) = difference(planned, there).refusal(facts.own.principal) {
                found.blocker("B35", Side::Target, problem, REFUSAL_REMEDY);
            }
        }
    }
    let new: &[AclBinding] = match facts.policy {
        AclDrift::Merge | AclDrift::Replace => missing,
        AclDrift::Refuse => &[],
    };
    if !new.is_empty() {
        let problem = format!("{} access rules of the source will be made there: {}", new.len(), texts(new));
        found.info("I24", Side::Target, problem, "nothing: the plan lists them");
    }
    let open = may_be_open(&facts.target.broker_configs, there, facts.own.lacking);
    if open {
        first_rules(&closings(facts, there, new), found);
    }
    locked_out(&facts.own, &shut_out(&facts.own, there, new, open), found);
}

fn first_rules(closings: &Closings<'_>, found: &mut Findings) {
    for ((kind, name, pattern), closed) in closings {
        let beginning = if *pattern == "Prefixed" { "*" } else { "" };
        let closed: Vec<&str> = closed.iter().copied().collect();
        found.warning(
            "W24",
            format!("{kind} {name}{beginning}"),
            format!(
                "its access rules on the target are the first for {}, to which everyone has access where it is used \
                 now if allow.everyone.if.no.acl.found is true (MSK's default): whoever has no rule is shut out",
                few(&closed)
            ),
            "make rules for all its applications before clients switch, or remove those on the target",
        );
    }
}

fn locked_out(own: &OwnUser<'_>, out: &ShutOut, found: &mut Findings) {
    for right in own.rights.missing(own.principal, &out.closed) {
        let problem = format!(
            "once the planned access rules are there, {}, unless it is a super user: the target may let everyone use \
             only what has no rule (allow.everyone.if.no.acl.found)",
            right.problem()
        );
        if own.principal.known {
            found.blocker("B36", Side::Target, problem, right.remedy());
        } else {
            let remedy = format!("see that the user of our certificate has these rules there: {}", right.remedy());
            found.warning("W27", Side::Target, problem, remedy);
        }
    }
    for rule in &out.denied {
        found.blocker(
            "B36",
            Side::Target,
            format!("the planned access rule ({rule}) denies Krossing what it needs"),
            "let Krossing connect as another user, or take the rule away on the source until the migration is done",
        );
    }
}

#[cfg(test)]
mod tests;
