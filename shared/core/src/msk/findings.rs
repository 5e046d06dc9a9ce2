//! What MSK's API says against a migration, or that its owner should know.
//!
//! Beside what the brokers say and never in its place: without the rights to ask MSK a migration is prepared on the
//! brokers' word alone, and that is a warning.

use super::{Make, MskCluster, Provisioned, mode_name, partitions_per_broker};
use crate::{
    config::ClusterConfig,
    plan::{MigrationPlan, TargetInventory},
    ports::{MetadataMode, MskError, MskResult},
    precheck::{Finding, Findings, few},
    types::Side,
};

const GIB: u64 = 1 << 30;

/// Percent of a disk from which MSK's own alarms and advice begin: what producers write meanwhile must find room, too.
const DISK_PERCENT_MAX: u64 = 85;

/// What is known of both clusters. Nothing where no ARN is given.
#[derive(Debug, Clone)]
pub struct MskFacts<'a> {
    /// How the source is configured.
    pub source_config: &'a ClusterConfig,
    /// How the target is configured.
    pub target_config: &'a ClusterConfig,
    /// The source.
    pub source: &'a MskResult,
    /// The target.
    pub target: &'a MskResult,
    /// What is planned; none where a cluster could not be read.
    pub plan: Option<&'a MigrationPlan>,
    /// What is on the target; none where it could not be read.
    pub on_target: Option<&'a TargetInventory>,
}

/// Everything there is to say about them.
pub fn findings(facts: &MskFacts<'_>) -> Vec<Finding> {
    let mut found = Findings::default();
    let source = asked(Side::Source, facts.source, &mut found);
    let target = asked(Side::Target, facts.target, &mut found);
    let source = source.and_then(|cluster| one(Side::Source, cluster, facts.source_config, &mut found));
    let target = target.and_then(|cluster| one(Side::Target, cluster, facts.target_config, &mut found));
    if let Some(target) = target {
        if let (Some(plan), Some(there)) = (facts.plan, facts.on_target) {
            partitions(target, plan, there, &mut found);
        }
        if let Some(plan) = facts.plan {
            storage(target, plan, &mut found);
        }
    }
    if let (Some(source), Some(target)) = (source, target) {
        scram_secrets(source, target, facts.target_config, &mut found);
    }
    found.0
}

fn subject(side: Side) -> String {
    format!("{side}.cluster_arn")
}

fn asked<'a>(side: Side, answer: &'a MskResult, found: &mut Findings) -> Option<&'a MskCluster> {
    const WITHOUT: &str = "what its brokers tell is looked at all the same";
    match answer {
        Ok(None) => None,
        Ok(Some(cluster)) => {
            for what in &cluster.not_told {
                found.warning("W50", subject(side), what, format!("let it be asked, or go on: {WITHOUT}"));
            }
            Some(cluster)
        }
        Err(MskError::NoSuchCluster { detail }) => {
            let remedy = "correct the ARN, or the account whose credentials these are (`aws kafka list-clusters-v2`)";
            found.blocker("B50", subject(side), format!("MSK knows no such cluster: {detail}"), remedy);
            None
        }
        Err(MskError::NotAsked { detail }) => {
            let problem = format!("MSK could not be asked about it: {detail}");
            found.warning("W50", subject(side), problem, format!("let it be asked, or go on: {WITHOUT}"));
            None
        }
    }
}

/// What is said of either cluster alone. Answers its brokers, if it has some.
fn one<'a>(
    side: Side,
    cluster: &'a MskCluster,
    config: &ClusterConfig,
    found: &mut Findings,
) -> Option<&'a Provisioned> {
    let made = match &cluster.make {
        Make::Provisioned(made) => made,
        Make::Serverless => {
            found.blocker(
                "B51",
                subject(side),
                format!("{} is a serverless cluster", cluster.name),
                "name a provisioned cluster: a serverless one has no metadata mode to migrate from or to, and takes none \
                 of the settings that a copy needs",
            );
            return None;
        }
    };
    state(side, cluster, found);
    mode(side, made, found);
    if !made.logins.allow(&config.auth) {
        found.blocker(
            "B54",
            format!("{side}.auth.mode"),
            format!(
                "{} cannot be logged in to with {}, but with {}",
                cluster.name,
                mode_name(&config.auth),
                made.logins
            ),
            "change auth.mode, or enable it on the cluster (`aws kafka update-security`)",
        );
    }
    if made.tiered {
        let (problem, remedy) = match side {
            Side::Source => (
                "old records of topics with remote.storage.enable lie in its tiered storage: they are read through its \
                 brokers, more slowly",
                "allow for the time; the room that the copy takes is that of all records, also of those in the tier, which \
                 brokers do not count in the sizes that the plan is made by",
            ),
            Side::Target => (
                "it has tiered storage, which takes no records whose time is more than 24 h off with Kafka 2.8.2 and 3.7",
                "nothing with another version; topics are filled with all records on the brokers' own disks",
            ),
        };
        found.warning("W53", subject(side), problem, remedy);
    }
    Some(made)
}

fn state(side: Side, cluster: &MskCluster, found: &mut Findings) {
    let MskCluster { name, state, active_operation, .. } = cluster;
    match (state.as_str(), active_operation) {
        ("ACTIVE", _) => {}
        (_, Some(operation)) if side == Side::Source => found.blocker(
            "B52",
            subject(side),
            format!("{name} is {state} and not ACTIVE: {operation} is under way, which may be its conversion to KRaft in place"),
            "wait until it is ACTIVE, and run precheck again; once it is converted there is nothing to migrate",
        ),
        (_, operation) => {
            let operation = operation.as_ref().map(|operation| format!(": {operation} is under way")).unwrap_or_default();
            found.blocker(
                "B52",
                subject(side),
                format!("{name} is {state} and not ACTIVE{operation}"),
                "wait until it is ACTIVE, and run precheck again",
            );
        }
    }
}

fn mode(side: Side, made: &Provisioned, found: &mut Findings) {
    let (mode, signs) = made.metadata_mode();
    match (side, mode) {
        (Side::Source, MetadataMode::ZooKeeper) | (Side::Target, MetadataMode::Kraft) => {}
        (Side::Source, MetadataMode::Kraft) => found.blocker(
            "B03",
            subject(side),
            format!("by MSK it is in KRaft mode already ({signs})"),
            "check that source and target are not exchanged in the configuration",
        ),
        (Side::Target, MetadataMode::ZooKeeper) => found.blocker(
            "B04",
            subject(side),
            format!("by MSK it is in ZooKeeper mode ({signs})"),
            "make a target in KRaft mode, or check that source and target are not exchanged",
        ),
        // Nodes that could not be listed are a warning of their own, and the brokers tell.
        (_, MetadataMode::Unknown) if made.nodes.is_none() => {}
        (_, MetadataMode::Unknown) => found.blocker(
            "B53",
            subject(side),
            format!("its metadata mode is indeterminate by MSK: {signs}"),
            "wait until no conversion is under way, and run precheck again",
        ),
    }
}

fn partitions(target: &Provisioned, plan: &MigrationPlan, there: &TargetInventory, found: &mut Findings) {
    let Some((instance_type, (recommended, most))) =
        target.instance_type.as_deref().and_then(|it| Some((it, partitions_per_broker(it)?)))
    else {
        return;
    };
    let count = |partitions: usize, replicas: usize| (partitions * replicas) as u64;
    let existing = there.topics.iter().flat_map(|topic| &topic.partitions).map(|it| it.replicas.len() as u64);
    let planned = plan.topics.iter().filter(|topic| !there.has(&topic.name)).map(|topic| {
        let of = |number: i64| usize::try_from(number).unwrap_or_default();
        count(of(topic.partitions.into()), of(topic.replication_factor.into()))
    });
    let per_broker = (existing.sum::<u64>() + planned.sum::<u64>()).div_ceil(target.brokers.max(1));
    if per_broker > recommended {
        let beyond = if per_broker > most {
            format!("and more than the {most} with which MSK still updates a cluster")
        } else {
            format!("with more than {most} MSK does not update a cluster any more")
        };
        found.warning(
            "W51",
            subject(Side::Target),
            format!(
                "its brokers will hold {per_broker} partitions each (replicas counted), more than the {recommended} that \
                 are recommended for {instance_type}, {beyond}"
            ),
            "take larger brokers or more of them, or leave topics out",
        );
    }
}

fn storage(target: &Provisioned, plan: &MigrationPlan, found: &mut Findings) {
    let Some(volume_gib) = target.volume_gib else { return };
    let bytes = plan.topics.iter().fold(0u64, |sum, topic| {
        sum.saturating_add(topic.bytes.saturating_mul(u64::try_from(topic.replication_factor).unwrap_or(1)))
    });
    let there = volume_gib.saturating_mul(GIB).saturating_mul(target.brokers);
    let problem = format!(
        "the copy takes about {} GiB with its replicas, and the disks of its {} brokers have {} GiB",
        bytes.div_ceil(GIB),
        target.brokers,
        there / GIB
    );
    let remedy = "enlarge them (`aws kafka update-broker-storage`), before the migration: disks cannot be enlarged again \
                  within 6 hours";
    if bytes > there {
        found.blocker("B55", subject(Side::Target), problem, remedy);
    } else if bytes > there / 100 * DISK_PERCENT_MAX {
        let problem = format!("{problem}: more than {DISK_PERCENT_MAX} % of them");
        found.warning("W54", subject(Side::Target), problem, remedy);
    }
}

fn scram_secrets(source: &Provisioned, target: &Provisioned, config: &ClusterConfig, found: &mut Findings) {
    let (Some(at_source), Some(there)) = (&source.scram_secrets, &target.scram_secrets) else { return };
    let missing: Vec<&str> = at_source.difference(there).map(String::as_str).collect();
    if missing.is_empty() {
        return;
    }
    let arn = config.cluster_arn.as_deref().unwrap_or("ARN");
    found.warning(
        "W52",
        subject(Side::Target),
        format!(
            "{} secrets let users log in to the source with SCRAM and not to the target: {}",
            missing.len(),
            few(&missing)
        ),
        format!(
            "associate them before clients switch (`aws kafka batch-associate-scram-secret --cluster-arn {arn} \
             --secret-arn-list …`), or others for the same users"
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Auth, ConfigDrift, Tls, Trust},
        msk::{Logins, Nodes},
        plan::{PlanInput, Selection, fixture, plan},
    };

    const ARN: &str = "arn:aws:kafka:eu-west-1:123456789012:cluster/orders/1a-2b";

    fn config(auth: Auth) -> ClusterConfig {
        let (bootstrap_servers, cluster_arn) = (Vec::new(), Some(ARN.to_owned()));
        ClusterConfig { bootstrap_servers, cluster_arn, auth, tls: Some(Tls { trust: Trust::System }) }
    }

    fn cluster(kafka_version: &str, zookeeper: bool) -> MskCluster {
        let made = Provisioned {
            kafka_version: Some(kafka_version.to_owned()),
            instance_type: Some("kafka.m7g.large".to_owned()),
            brokers: 3,
            volume_gib: Some(100),
            tiered: false,
            zookeeper_address: zookeeper,
            nodes: Some(Nodes { zookeeper, controllers: !zookeeper }),
            logins: Logins { iam: true, ..Logins::default() },
            scram_secrets: Some(Default::default()),
        };
        MskCluster {
            name: "orders".to_owned(),
            state: "ACTIVE".to_owned(),
            active_operation: None,
            make: Make::Provisioned(made),
            not_told: Vec::new(),
        }
    }

    fn made(cluster: &mut MskCluster) -> &mut Provisioned {
        match &mut cluster.make {
            Make::Provisioned(made) => made,
            Make::Serverless => panic!("it is provisioned"),
        }
    }

    type Change = fn(&mut MskCluster);

    fn unchanged(_: &mut MskCluster) {}

    /// What is found where the two clusters are as they should be but for this.
    fn check(on_source: Change, on_target: Change, plan: Option<&MigrationPlan>, expected: &[(&str, &str)]) {
        let (mut source, mut target) = (cluster("3.6.0", true), cluster("3.9.x.kraft", false));
        on_source(&mut source);
        on_target(&mut target);
        let on_target = fixture::target(3);
        let found = findings(&MskFacts {
            source_config: &config(Auth::Iam),
            target_config: &config(Auth::Iam),
            source: &Ok(Some(source)),
            target: &Ok(Some(target)),
            plan,
            on_target: Some(&on_target),
        });
        let shown: Vec<_> = found.iter().map(|found| (found.code.as_str(), found.subject.as_str())).collect();
        assert_eq!(shown, expected, "{found:#?}");
    }

    const SOURCE: &str = "source.cluster_arn";
    const TARGET: &str = "target.cluster_arn";

    #[test]
    fn clusters_as_they_should_be_have_no_findings() {
        check(unchanged, unchanged, None, &[]);
    }

    #[test]
    fn what_a_cluster_is_and_what_is_done_to_it_can_be_a_blocker() {
        check(|it| it.make = Make::Serverless, unchanged, None, &[("B51", SOURCE)]);
        check(unchanged, |it| it.make = Make::Serverless, None, &[("B51", TARGET)]);
        check(|it| *it = cluster("3.9.x.kraft", false), unchanged, None, &[("B03", SOURCE)]);
        check(unchanged, |it| *it = cluster("3.6.0", true), None, &[("B04", TARGET)]);
        check(|it| made(it).kafka_version = Some("3.9.x.kraft".into()), unchanged, None, &[("B53", SOURCE)]);
        check(unchanged, |it| it.state = "CREATING".into(), None, &[("B52", TARGET)]);
        check(|it| it.state = "HEALING".into(), unchanged, None, &[("B52", SOURCE)]);
        check(
            |it| {
                (it.state, it.active_operation) =
                    ("UPDATING".into(), Some("arn:aws:kafka:x:1:cluster-operation/y".into()))
            },
            unchanged,
            None,
            &[("B52", SOURCE)],
        );
        let plaintext_only: Change = |it| made(it).logins = Logins { unauthenticated: true, ..Logins::default() };
        check(plaintext_only, plaintext_only, None, &[("B54", "source.auth.mode"), ("B54", "target.auth.mode")]);
        check(|it| made(it).tiered = true, |it| made(it).tiered = true, None, &[("W53", SOURCE), ("W53", TARGET)]);
    }

    #[test]
    fn nodes_that_may_not_be_listed_are_a_warning_and_the_brokers_tell() {
        let hidden: Change = |it| {
            let made = made(it);
            (made.nodes, made.zookeeper_address) = (None, false);
            it.not_told.push("its nodes could not be listed: AccessDeniedException".to_owned());
        };
        check(hidden, unchanged, None, &[("W50", SOURCE)]);
    }

    #[test]
    fn what_the_target_cannot_hold_is_told_before_it_is_filled() {
        let large = |partitions: i32, gib: u64| {
            let partitions = usize::try_from(partitions).expect("a number of partitions");
            let mut planned = plan(&PlanInput {
                migration_id: &"m".parse().expect("an id"),
                selection: &Selection::default(),
                lanes: 1,
                source: &fixture::source(&[("orders", partitions, &[])]),
                target: &fixture::target(3),
                on_config_drift: ConfigDrift::OverwriteWithSource,
            });
            planned.topics[0].bytes = gib << 30;
            planned
        };
        check(unchanged, unchanged, Some(&large(1_000, 80)), &[]);
        check(unchanged, unchanged, Some(&large(1_001, 80)), &[("W51", TARGET)]);
        check(unchanged, unchanged, Some(&large(10, 90)), &[("W54", TARGET)]);
        check(unchanged, unchanged, Some(&large(10, 101)), &[("B55", TARGET)]);
        check(unchanged, |it| made(it).volume_gib = None, Some(&large(10, 101)), &[]);
        check(unchanged, |it| made(it).instance_type = Some("express.m7g.large".into()), Some(&large(9_000, 1)), &[]);
    }

    #[test]
    fn secrets_that_the_target_does_not_have_are_named() {
        let has: Change = |it| made(it).scram_secrets = Some(["arn:a".to_owned(), "arn:b".to_owned()].into());
        check(has, has, None, &[]);
        check(has, |it| made(it).scram_secrets = Some(["arn:b".to_owned()].into()), None, &[("W52", TARGET)]);
        check(has, |it| made(it).scram_secrets = None, None, &[]);
    }

    #[test]
    fn an_unknown_cluster_is_a_blocker_and_one_that_cannot_be_asked_about_is_not() {
        let detail = "said so".to_owned();
        let found = findings(&MskFacts {
            source_config: &config(Auth::Iam),
            target_config: &config(Auth::Iam),
            source: &Err(MskError::NoSuchCluster { detail: detail.clone() }),
            target: &Err(MskError::NotAsked { detail }),
            plan: None,
            on_target: None,
        });
        let codes: Vec<_> = found.iter().map(|found| found.code.as_str()).collect();
        assert_eq!(codes, ["B50", "W50"]);
    }
}
