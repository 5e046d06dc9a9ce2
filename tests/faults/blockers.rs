//! Every blocker of precheck on real brokers: found, all at once, with the cluster left as it was.
//!
//! Those that can stand beside each other stand in one migration; the others, which are about a cluster as a whole, in
//! as few more as can be. Rights are a test of their own: a user who may do nothing is told every access rule to add,
//! and with exactly those a migration runs.
//!
//! B21 and B22 (brokers that are too old) are of the long form, which fetches such brokers: `KROSSING_LONG=1 make setup`.
//! Not provoked: W04 (a broker that does not tell its settings); its rule is tested in `shared/core/src/precheck.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Cluster, ClusterSpec, FreezeWebhook, Lab, Listener, Security, Version,
    cluster::ALICE,
    compare::compare,
    in_lab,
    rehearsal::Migration,
    state::ClusterState,
    workload::{Group, LiveGroup, LiveProducers, TopicSpec, create_topics},
};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde::Deserialize;

/// What precheck found, as `--format json` says it.
#[derive(Debug, Deserialize)]
pub(crate) struct Finding {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) subject: String,
    pub(crate) problem: String,
    pub(crate) remedy: String,
}

/// A code and its subject.
type Blocker = (String, String);

/// Everything that precheck finds; it must end with 1 where there are blockers.
pub(crate) async fn all_findings(migration: &Migration) -> Result<Vec<Finding>> {
    let outcome = migration.start("precheck", &["--format", "json"])?.finish().await?;
    let findings: Vec<Finding> =
        serde_json::from_str(&outcome.stdout).with_context(|| format!("no findings in {outcome:?}"))?;
    let code = if findings.iter().any(|finding| finding.severity == "blocker") { 1 } else { 0 };
    outcome.expect_code(code)?;
    ensure!(findings.iter().all(|finding| !finding.problem.is_empty() && !finding.remedy.is_empty()), "{findings:#?}");
    Ok(findings)
}

/// The blockers among them.
async fn precheck(migration: &Migration) -> Result<Vec<Finding>> {
    let found = all_findings(migration).await?;
    Ok(found.into_iter().filter(|finding| finding.severity == "blocker").collect())
}

fn named(blockers: &[Finding]) -> BTreeSet<Blocker> {
    blockers.iter().map(|blocker| (blocker.code.clone(), blocker.subject.clone())).collect()
}

fn expected(blockers: &[(&str, &str)]) -> BTreeSet<Blocker> {
    blockers.iter().map(|(code, subject)| ((*code).to_owned(), (*subject).to_owned())).collect()
}

/// A configuration for the plaintext listeners; `more` stands below `migration:`, two spaces in.
fn migration(lab: &Lab, id: &str, source: &str, target: &str, more: &str) -> Result<Migration> {
    let config = format!(
        "migration:\n  source: {{bootstrap_servers: \"{source}\"}}\n  target: {{bootstrap_servers: \"{target}\"}}\n  \
         backup: {{directory: \"{{folder}}/segments\"}}\n  evidence: {{directory: \"{{folder}}/evidence\"}}\n{more}"
    );
    Migration::configure(id, lab.folder().join(id), &config)
}

/// What is to be written in a store cannot be: a folder that is not empty has its name.
fn spoil_stores(migration: &Migration) -> Result<()> {
    for store in ["segments", "evidence"] {
        std::fs::create_dir_all(migration.folder.join(store).join("precheck-probe/in-the-way"))?;
    }
    Ok(())
}

/// A topic with one partition: its name, the brokers that hold it, its settings.
pub(crate) type TopicOn<'a> = (&'a str, &'a [i32], &'a [(&'a str, &'a str)]);

pub(crate) async fn topics_on(cluster: &Cluster, topics: &[TopicOn<'_>]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = cluster.client().create()?;
    for (name, brokers, settings) in topics {
        let replicas = [*brokers];
        let topic = NewTopic::new(name, 1, TopicReplication::Variable(&replicas));
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        for made in admin.create_topics([&topic], &AdminOptions::new()).await? {
            made.map_err(|(name, code)| anyhow::anyhow!("making {name}: {code}"))?;
        }
    }
    Ok(())
}

pub(crate) fn write(cluster: &Cluster, topic: &str) -> Result<()> {
    let producer: BaseProducer = cluster.client().create()?;
    let record = BaseRecord::<(), _>::to(topic).partition(0).payload("a record");
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(producer.flush(Duration::from_secs(30))?)
}

fn group(name: &str, topic: &str) -> Group {
    Group { name: name.to_owned(), positions: vec![(topic.to_owned(), 0, 1)], metadata: String::new() }
}

/// The state once every partition has a leader again.
pub(crate) async fn state(cluster: &Cluster) -> Result<ClusterState> {
    patiently(async || ClusterState::read(cluster).await).await
}

/// Does something again while brokers are still taking their partitions over.
pub(crate) async fn patiently<T>(act: impl AsyncFn() -> Result<T>) -> Result<T> {
    for _ in 0..100 {
        match act().await {
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            done => return done,
        }
    }
    act().await
}

/// Everything about topics, groups and stores that stands in the way of one migration.
async fn in_the_way(source: &Cluster, target: &Cluster) -> Result<LiveGroup> {
    const OLD: (&str, &str) = ("message.format.version", "0.10.2");
    topics_on(
        source,
        &[
            // Kafka makes it at the first commit, anywhere; one of the brokers will be down.
            ("__consumer_offsets", &[1], &[("cleanup.policy", "compact")]),
            ("old-format", &[1], &[OLD]),
            ("large", &[1], &[("max.message.bytes", "3000000")]),
            ("huge", &[1], &[("max.message.bytes", "90000000")]),
            ("used", &[1], &[]),
            ("narrow", &[1], &[]),
            ("drifted", &[1], &[]),
            ("two-replicas", &[1, 2], &[]),
            ("leaderless", &[2], &[]),
        ],
    )
    .await?;
    topics_on(target, &[("used", &[1], &[]), ("drifted", &[1], &[("retention.ms", "12345")])]).await?;
    create_topics(&target.client(), &[TopicSpec::new("narrow", 2)], 1).await?;
    for (cluster, topic) in [(source, "old-format"), (source, "used"), (source, "leaderless"), (target, "used")] {
        write(cluster, topic)?;
    }
    for (cluster, name) in [(source, "active"), (source, "foreign"), (target, "foreign")] {
        patiently(async || group(name, "used").commit(&cluster.client())).await?;
    }
    let active = LiveGroup::start(&target.client(), "active", &["used"])?;
    active.until_consumed(1).await?;
    Ok(active)
}

#[test]
fn brokers_that_are_too_old_are_refused_with_the_version_to_take() {
    if std::env::var_os("KROSSING_LONG").is_none() {
        return;
    }
    in_lab("too-old", async |lab| {
        let of = |version| ClusterSpec { version, ..ClusterSpec::default() };
        let (source, target) =
            tokio::try_join!(lab.zookeeper_cluster(of(Version::V2_6)), lab.kraft_cluster(of(Version::V3_6)))?;
        create_topics(&source.client(), &[TopicSpec::new("orders", 1)], 1).await?;
        let (from, to) = (source.bootstrap(Listener::Plaintext), target.bootstrap(Listener::Plaintext));
        let found = precheck(&migration(lab, "too-old", &from, &to, "")?).await?;
        ensure!(named(&found) == expected(&[("B21", "source"), ("B22", "target")]), "{found:#?}");
        Ok(())
    });
}

#[test]
fn every_blocker_is_found_at_once_and_both_clusters_stay_as_they_are() {
    in_lab("blockers", async |lab| {
        let old = ClusterSpec { brokers: 2, ..ClusterSpec::default() };
        let old = old.with("inter.broker.protocol.version", "2.8").with("offsets.topic.num.partitions", "1");
        let small = ClusterSpec::default().with("socket.request.max.bytes", "2000000");
        let (source, target) = tokio::try_join!(lab.zookeeper_cluster(old), lab.kraft_cluster(small))?;
        let mut active = in_the_way(&source, &target).await?;
        let before = (state(&source).await?, state(&target).await?);
        source.stop_broker(2).await?;
        source.until_leaderless("leaderless").await?;

        let (zookeeper, kraft) = (source.bootstrap(Listener::Plaintext), target.bootstrap(Listener::Plaintext));
        let nobody = "127.0.0.1:1";
        let all = "  topics: {include: ['*', missing]}\n  topology: {on_config_drift: refuse}\n";
        let beside = migration(lab, "beside", &zookeeper, &kraft, all)?;
        spoil_stores(&beside)?;
        let exchanged = migration(lab, "exchanged", &kraft, &zookeeper, "")?;
        let itself = migration(lab, "itself", &zookeeper, &zookeeper, "")?;
        let nothing = migration(lab, "nothing", &zookeeper, &kraft, "  topics: {exclude: ['*']}\n")?;
        let no_source = migration(lab, "no-source", nobody, &zookeeper, "")?;
        spoil_stores(&no_source)?;
        let no_target = migration(lab, "no-target", &kraft, nobody, "")?;
        let execute = async { beside.run("execute").await };
        let (beside_found, exchanged, itself, nothing, no_source, no_target, executed) = tokio::try_join!(
            precheck(&beside),
            precheck(&exchanged),
            precheck(&itself),
            precheck(&nothing),
            precheck(&no_source),
            precheck(&no_target),
            execute,
        )?;

        let all = expected(&[
            ("B07", "backup"),
            ("B08", "evidence"),
            ("B11", "huge"),
            ("B11", "large"),
            ("B23", "old-format"),
            ("B24", "used"),
            ("B25", "narrow"),
            ("B26", "two-replicas"),
            ("B27", "active"),
            ("B28", "foreign"),
            ("B29", "leaderless"),
            ("B30", "missing"),
            ("B33", "huge"),
            // The plan sets flush.ms on every topic, whose default the target does not tell.
            ("B34", "drifted"),
            ("B34", "narrow"),
            ("B34", "used"),
        ]);
        ensure!(named(&beside_found) == all, "{beside_found:#?}");
        let executed = executed.expect_code(1)?;
        let count = format!("precheck found {} blocker(s)", all.len());
        ensure!(executed.stderr.contains(&count), "{executed:?}");
        for (code, subject) in &all {
            ensure!(executed.stdout.contains(&format!("{code} blocker: {subject}: ")), "{code}: {executed:?}");
        }
        ensure!(!beside.ledger_folder().exists(), "a migration that was refused has left a journal");
        let holds = |found: &[Finding], wanted: &[(&str, &str)]| {
            ensure!(named(found).is_superset(&expected(wanted)), "{wanted:?} are not all in {found:#?}");
            Ok(())
        };
        holds(&exchanged, &[("B03", "source"), ("B04", "target")])?;
        holds(&itself, &[("B04", "target"), ("B20", "clusters")])?;
        ensure!(named(&nothing) == expected(&[("B27", "active"), ("B32", "source")]), "{nothing:#?}");
        let unreachable = expected(&[("B04", "target"), ("B07", "backup"), ("B08", "evidence"), ("B09", "source")]);
        ensure!(named(&no_source) == unreachable, "{no_source:#?}");
        ensure!(named(&no_target) == expected(&[("B03", "source"), ("B10", "target")]), "{no_target:#?}");

        source.start_broker(2).await?;
        let after = (state(&source).await?, state(&target).await?);
        ensure!(before == after, "{before:#?}\nbecame\n{after:#?}");
        active.stop().await
    });
}

// ── Rights ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A configuration for alice, who comes with a password.
async fn as_alice(lab: &Lab, source: &Cluster, target: &Cluster, webhook: &FreezeWebhook) -> Result<Migration> {
    let mut config = "migration:\n".to_owned();
    for (side, cluster) in [("source", source), ("target", target)] {
        write!(
            config,
            "  {side}:\n    bootstrap_servers: \"{}\"\n    auth: {{mode: scram-sha-512, username: {}, password: \"{}\"}}\n    \
             tls: {{enabled: true, ca_file: \"{}\"}}\n",
            cluster.bootstrap(Listener::Scram),
            ALICE.name,
            ALICE.password,
            cluster.ca_file().display()
        )?;
    }
    write!(
        config,
        "  backup: {{directory: \"{{folder}}/segments\"}}\n  evidence: {{directory: \"{{folder}}/evidence\"}}\n  \
         cutover:\n    drain_stable_window: 500ms\n    producer_freeze_webhook: \"{}\"\n",
        webhook.url()
    )?;
    Migration::configure("alice", lab.folder().join("alice"), &config)
}

/// What `kafka-acls` is to be given, in order, for each side.
fn rules(found: &[Finding], side: &str) -> BTreeSet<String> {
    let of_side = found.iter().filter(|finding| finding.code == "B31" && finding.subject == side);
    let rule = |finding: &Finding| finding.remedy.replace("kafka-acls --add --allow-principal 'User:alice' ", "");
    of_side.map(rule).collect()
}

fn set(rules: &[&str]) -> BTreeSet<String> {
    rules.iter().map(|rule| format!("--operation {rule}")).collect()
}

/// Adds rules as they were told. Rules for the same resources go in one run of the tool: each costs a JVM.
async fn add(cluster: &Cluster, rules: &BTreeSet<String>) -> Result<()> {
    let mut by_resources: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for rule in rules {
        let words: Vec<&str> = rule.split(' ').map(|word| word.trim_matches('\'')).collect();
        let ["--operation", operation, resources @ ..] = &words[..] else { bail!("{rule} is not a rule") };
        by_resources.entry(resources.join(" ")).or_default().push((*operation).to_owned());
    }
    for (resources, operations) in by_resources {
        let mut arguments = vec!["--add", "--allow-principal", "User:alice"];
        arguments.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
        arguments.extend(resources.split(' '));
        cluster.acls(&arguments).await?;
    }
    Ok(())
}

#[test]
fn every_missing_right_is_told_at_once_and_exactly_those_are_enough_for_a_migration() {
    in_lab("rights", async |lab| {
        let spec = ClusterSpec { security: Security::Tls, authorizer: true, ..ClusterSpec::default() };
        let (source, target) = tokio::try_join!(lab.zookeeper_cluster(spec.clone()), lab.kraft_cluster(spec))?;
        let topics = [TopicSpec::new("orders", 2), TopicSpec::new("users", 1)];
        create_topics(&source.client(), &topics, 1).await?;
        for topic in ["orders", "users"] {
            write(&source, topic)?;
        }
        patiently(async || group("readers", "orders").commit(&source.client())).await?;
        let webhook = FreezeWebhook::start(LiveProducers::none(&source.client()), None).await?;
        let alice = as_alice(lab, &source, &target, &webhook).await?;
        let before = tokio::try_join!(state(&source), state(&target))?;

        // Who may see nothing is told what to add for whatever there may be.
        let found = precheck(&alice).await?;
        ensure!(found.iter().all(|finding| finding.code == "B31"), "{found:#?}");
        let transactional = "Write --transactional-id 'krossing.' --resource-pattern-type prefixed";
        let on_source = set(&[
            "Describe --cluster",
            "DescribeConfigs --cluster",
            "Read --topic '*'",
            "Write --topic '*'",
            "DescribeConfigs --topic '*'",
            "Describe --group '*'",
            transactional,
        ]);
        ensure!(rules(&found, "source") == on_source, "{found:#?}");
        let on_target = set(&[
            "Describe --cluster",
            "DescribeConfigs --cluster",
            "Alter --cluster",
            "AlterConfigs --cluster",
            "Read --topic '*'",
            "Write --topic '*'",
            "Create --topic '*'",
            "Alter --topic '*'",
            "AlterConfigs --topic '*'",
            "Read --group '*'",
            transactional,
        ]);
        ensure!(rules(&found, "target") == on_target, "{found:#?}");

        // Who may see what there is, though not touch it, is told it by name.
        let cluster = set(&["Describe --cluster", "DescribeConfigs --cluster"]);
        tokio::try_join!(add(&source, &cluster), add(&target, &cluster))?;
        let found = precheck(&alice).await?;
        ensure!(found.iter().all(|finding| finding.code == "B31"), "{found:#?}");
        let both = "--topic 'orders' --topic 'users'";
        let (source_rules, target_rules) = (rules(&found, "source"), rules(&found, "target"));
        let named = ["Read", "Write", "DescribeConfigs"].map(|operation| format!("{operation} {both}"));
        let named: Vec<&str> =
            named.iter().map(String::as_str).chain(["Describe --group 'readers'", transactional]).collect();
        ensure!(source_rules == set(&named), "{found:#?}");
        let named = ["Read", "Write", "Create", "Alter", "AlterConfigs"].map(|operation| format!("{operation} {both}"));
        // Her own rules on the source are to be on the target, too.
        let more = ["Alter --cluster", "Read --group 'readers'", transactional];
        let named: Vec<&str> = named.iter().map(String::as_str).chain(more).collect();
        ensure!(target_rules == set(&named), "{found:#?}");

        // Looking has changed nothing but what we have added ourselves.
        let after = tokio::try_join!(state(&source), state(&target))?;
        let without_acls = |state: &ClusterState| ClusterState { acls: Vec::new(), ..state.clone() };
        ensure!(without_acls(&before.0) == without_acls(&after.0), "{before:#?}\nbecame\n{after:#?}");
        ensure!(without_acls(&before.1) == without_acls(&after.1), "{before:#?}\nbecame\n{after:#?}");
        no_topics_of_kafka_were_made(&target)?;

        tokio::try_join!(add(&source, &source_rules), add(&target, &target_rules))?;
        let found = precheck(&alice).await?;
        ensure!(found.is_empty(), "{found:#?}");
        for command in ["execute", "cutover", "cutover-ack", "finalize"] {
            alice.run(command).await?.expect_code(0)?;
        }
        let names = topics.iter().map(|topic| topic.name.clone()).collect();
        let compared = compare(&source.client(), &target.client(), &names).await?;
        ensure!(compared.differences.is_empty() && compared.records == 2, "{compared:#?}");
        let carried = &state(&target).await?.positions["readers"];
        ensure!(carried.contains_key(&("orders".to_owned(), 0)), "{carried:?}");
        Ok(())
    });
}

/// Neither positions nor transactions have been kept on a cluster that was only asked.
fn no_topics_of_kafka_were_made(cluster: &Cluster) -> Result<()> {
    let folder: &Path = &cluster.data_folder(1);
    let folders: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let made = folders.iter().filter_map(|path| path.file_name()?.to_str());
    let made: Vec<&str> = made
        .filter(|name| name.starts_with("__consumer_offsets-") || name.starts_with("__transaction_state-"))
        .collect();
    ensure!(made.is_empty(), "asking has made {made:?}");
    Ok(())
}
