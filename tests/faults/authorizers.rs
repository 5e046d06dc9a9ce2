//! What the policies do on clusters with authorizers: `acl.on_drift` and `topology.on_config_drift`, each value once, on
//! one pair of clusters.
//!
//! Both let everyone use what has no access rule, as MSK does. The first migration refuses any difference. The second
//! merges and overwrites; its user on the target is nobody in particular, and would lock itself out with the first rule
//! of a topic, were it not told. The third replaces and keeps. The last refuses again, and there is nothing to refuse.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, ensure};
use lab::{
    Cluster, ClusterSpec, FreezeWebhook, Lab, Listener, Security, Version, cluster::ALICE, in_lab,
    rehearsal::Migration, workload::LiveProducers,
};

use crate::blockers::{Finding, all_findings, patiently, state, topics_on, write};

/// What of the source is planned: every rule but the two that are the cluster's own.
const CARRIED: [&str; 4] = [
    "Allow User:alice Read on Group app-*",
    "Allow User:dave Read on Topic open",
    "Allow User:erin Describe on Topic open from 10.0.0.2",
    "Deny User:mallory Write on Topic last",
];

/// What the target has of its own.
const FOREIGN: &str = "Allow User:carol Read on Topic merged";

/// What alice is told to add.
const OPERATIONS: [&str; 4] = ["Alter", "AlterConfigs", "Read", "Write"];

async fn rules_on_both(source: &Cluster, target: &Cluster) -> Result<()> {
    for rule in [
        &["--allow-principal", "User:alice", "--operation", "Read", "--group", "app-"][..],
        &["--allow-principal", "User:dave", "--operation", "Read", "--topic", "open"],
        &["--allow-principal", "User:erin", "--allow-host", "10.0.0.2", "--operation", "Describe", "--topic", "open"],
        &["--deny-principal", "User:mallory", "--operation", "Write", "--topic", "last"],
        &["--allow-principal", "User:bob", "--operation", "Read", "--topic", "__consumer_offsets"],
        &["--allow-principal", "User:broker", "--operation", "ClusterAction", "--cluster"],
    ] {
        let prefixed: &[&str] = if rule.contains(&"app-") { &["--resource-pattern-type", "prefixed"] } else { &[] };
        source.acls(&[&["--add"], rule, prefixed].concat()).await?;
    }
    target.acls(&["--add", "--allow-principal", "User:carol", "--operation", "Read", "--topic", "merged"]).await?;
    Ok(())
}

/// The rules of a cluster as findings spell them.
async fn rules_of(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let spelled = state(cluster).await?.acls.into_iter().map(|rule| {
        // Current ACLs for resource `ResourcePattern(resourceType=TOPIC, name=open, patternType=LITERAL)`:
        // (principal=User:dave, host=*, operation=READ, permissionType=ALLOW)
        let part = |name: &str| {
            let value = rule.split_once(&format!("{name}=")).map(|(_, rest)| rest.split([',', ')']).next());
            value.flatten().with_context(|| format!("no {name} in {rule}"))
        };
        let named = |text: &str| {
            let words = text.split('_').map(|word| format!("{}{}", &word[..1], word[1..].to_lowercase()));
            words.collect::<String>()
        };
        let (kind, name) = (named(part("resourceType")?), part("name")?);
        let prefix = if part("patternType")? == "PREFIXED" { "*" } else { "" };
        let from = if part("host")? == "*" { String::new() } else { format!(" from {}", part("host")?) };
        let (permission, operation) = (named(part("permissionType")?), named(part("operation")?));
        Ok(format!("{permission} {} {operation} on {kind} {name}{prefix}{from}", part("principal")?))
    });
    spelled.collect()
}

fn set(rules: impl IntoIterator<Item = impl Into<String>>) -> BTreeSet<String> {
    rules.into_iter().map(Into::into).collect()
}

/// A migration over the plaintext listeners, whose users are super users; on the target as alice where that is wanted.
fn configure(
    lab: &Lab,
    id: &str,
    (source, target): (&Cluster, &Cluster),
    webhook: &FreezeWebhook,
    (topics, as_alice, policies): (&[&str], bool, (&str, &str)),
) -> Result<Migration> {
    let there = if as_alice {
        format!(
            "bootstrap_servers: \"{}\"\n    auth: {{mode: scram-sha-512, username: {}, password: \"{}\"}}\n    tls: \
             {{enabled: true, ca_file: \"{}\"}}",
            target.bootstrap(Listener::Scram),
            ALICE.name,
            ALICE.password,
            target.ca_file().display()
        )
    } else {
        format!("bootstrap_servers: \"{}\"", target.bootstrap(Listener::Plaintext))
    };
    let config = format!(
        "migration:\n  source:\n    bootstrap_servers: \"{}\"\n  target:\n    {there}\n  backup: {{directory: \
         \"{{folder}}/segments\"}}\n  evidence: {{directory: \"{{folder}}/evidence\", signing_key_file: \
         \"{{folder}}/signing-key.pem\"}}\n  topics: {{include: {topics:?}}}\n  acl: {{on_drift: {}}}\n  topology: \
         {{on_config_drift: {}}}\n  seed: {{lanes: 1}}\n  cutover: {{drain_stable_window: 500ms, \
         producer_freeze_webhook: \"{}\"}}\n",
        source.bootstrap(Listener::Plaintext),
        policies.0,
        policies.1,
        webhook.url()
    );
    Migration::configure(id, lab.folder().join(id), &config)
}

fn told<'a>(found: &'a [Finding], code: &str) -> Vec<&'a Finding> {
    found.iter().filter(|finding| finding.code == code).collect()
}

async fn migrate(migration: &Migration) -> Result<()> {
    for command in ["execute", "cutover", "cutover-ack", "finalize"] {
        migration.run(command).await?.expect_code(0)?;
    }
    Ok(())
}

/// What the record of access rules, which the evidence names by its digest, says was made.
fn made(migration: &Migration) -> Result<BTreeSet<String>> {
    let evidence = std::fs::read_to_string(migration.ledger_folder().join("evidence.json"))?;
    ensure!(evidence.contains("acls.json"), "the evidence does not name the record of access rules");
    record(&migration.ledger_folder().join("acls.json"))
}

fn record(file: &Path) -> Result<BTreeSet<String>> {
    let record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let rules = record["created"].as_array().context("what was made")?.iter();
    Ok(rules.map(|rule| rule["principal"].as_str().unwrap_or_default().to_owned()).collect())
}

async fn refuses_what_differs(migration: &Migration, source: &Cluster, target: &Cluster) -> Result<()> {
    let before = tokio::try_join!(state(source), state(target))?;
    let found = all_findings(migration).await?;
    let [quotas, drift] = told(&found, "B34")[..] else { anyhow::bail!("{found:#?}") };
    ensure!(quotas.subject == "client quotas" && quotas.problem.contains("is 1 and not 1234567"), "{quotas:?}");
    ensure!(drift.subject == "drift-refused" && drift.problem.contains("retention.ms"), "{drift:?}");
    let [rules] = told(&found, "B35")[..] else { anyhow::bail!("{found:#?}") };
    ensure!(CARRIED.iter().chain([&FOREIGN]).all(|rule| rules.problem.contains(rule)), "{rules:?}");
    ensure!(rules.problem.contains("4 only on the source") && rules.problem.contains("1 only on the target"));
    migration.run("execute").await?.expect_code(1)?;
    ensure!(!migration.ledger_folder().exists(), "a migration that was refused has left a journal");
    let after = tokio::try_join!(state(source), state(target))?;
    ensure!(before == after, "{before:#?}\nbecame\n{after:#?}");
    Ok(())
}

async fn merges_and_overwrites_without_locking_itself_out(migration: &Migration, target: &Cluster) -> Result<()> {
    let found = all_findings(migration).await?;
    let rights: Vec<&str> = told(&found, "B36").iter().map(|finding| finding.remedy.as_str()).collect();
    let expected =
        OPERATIONS.map(|it| format!("kafka-acls --add --allow-principal 'User:alice' --operation {it} --topic 'open'"));
    ensure!(rights == expected, "{found:#?}");
    ensure!(found.iter().filter(|finding| finding.severity == "blocker").count() == 4, "{found:#?}");
    let unknown = told(&found, "W20").iter().any(|finding| finding.problem.contains("message.downconversion.enable"));
    ensure!(unknown, "Kafka 4 does not know it: {found:#?}");
    migration.run("execute").await?.expect_code(1)?;
    ensure!(rules_of(target).await? == set([FOREIGN]), "a migration that was refused has made rules");

    let mut rules = vec!["--add", "--allow-principal", "User:alice", "--topic", "open"];
    rules.extend(OPERATIONS.iter().flat_map(|operation| ["--operation", operation]));
    target.acls(&rules).await?;
    migrate(migration).await?;
    let ours = OPERATIONS.map(|operation| format!("Allow User:alice {operation} on Topic open"));
    let expected = set(CARRIED.iter().chain([&FOREIGN]).map(|rule| (*rule).to_owned()).chain(ours));
    let rules = rules_of(target).await?;
    ensure!(rules == expected, "{rules:#?}");
    ensure!(made(migration)? == set(["User:alice", "User:dave", "User:erin", "User:mallory"]));
    let settings = &state(target).await?.configs["drift-overwritten"];
    ensure!(settings["retention.ms"] == "700000", "{settings:?}");
    ensure!(settings.get("segment.ms").is_none_or(|value| value != "777777"), "{settings:?}");
    let quotas = target.configs(&["--describe", "--entity-type", "clients"]).await?;
    let limits = ["producer_byte_rate=1234567", "request_percentage=50"];
    ensure!(limits.iter().all(|limit| quotas.contains(limit)), "{quotas}");
    Ok(())
}

async fn replaces_and_keeps(migration: &Migration, source: &Cluster, target: &Cluster) -> Result<()> {
    source.acls(&["--add", "--allow-principal", "User:frank", "--operation", "All", "--topic", "replaced"]).await?;
    let (rules, settings) = (rules_of(target).await?, state(target).await?.configs["drift-kept"].clone());
    let found = all_findings(migration).await?;
    let [beyond] = told(&found, "W26")[..] else { anyhow::bail!("{found:#?}") };
    ensure!(beyond.problem.starts_with("5 access rules are only there") && beyond.problem.contains(FOREIGN));
    let trap = told(&found, "W24");
    ensure!(
        trap.iter().any(|it| it.subject == "Topic merged" && it.problem.contains("first for merged")),
        "{found:#?}"
    );
    migrate(migration).await?;
    let after = rules_of(target).await?;
    ensure!(after == &rules | &set(["Allow User:frank All on Topic replaced"]), "{after:#?}");
    ensure!(made(migration)? == set(["User:frank"]));
    let kept = &state(target).await?.configs["drift-kept"];
    ensure!(*kept == settings && kept["retention.ms"] == "111111", "{settings:?} became {kept:?}");
    Ok(())
}

async fn lets_through_what_is_equal(migration: &Migration, target: &Cluster) -> Result<()> {
    for (principal, topic, operations) in [("User:carol", "merged", &["Read"][..]), ("User:alice", "open", &OPERATIONS)]
    {
        let mut rules = vec!["--remove", "--force", "--allow-principal", principal, "--topic", topic];
        rules.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
        target.acls(&rules).await?;
    }
    let before = rules_of(target).await?;
    let found = all_findings(migration).await?;
    ensure!(found.iter().all(|finding| finding.severity != "blocker"), "{found:#?}");
    migration.run("execute").await?.expect_code(0)?;
    ensure!(record(&migration.ledger_folder().join("acls.json"))? == BTreeSet::new());
    ensure!(rules_of(target).await? == before);
    Ok(())
}

#[test]
fn each_policy_does_with_access_rules_and_settings_that_differ_what_it_says() {
    in_lab("policies", async |lab| {
        let spec = ClusterSpec { security: Security::Tls, authorizer: true, ..ClusterSpec::default() };
        let spec = spec.with("allow.everyone.if.no.acl.found", "true");
        let of_target = ClusterSpec { version: Version::V4_1, ..spec.clone() };
        let (source, target) = tokio::try_join!(lab.zookeeper_cluster(spec), lab.kraft_cluster(of_target))?;
        let retention: &[(&str, &str)] = &[("retention.ms", "700000")];
        let on_source = [
            ("open", &[("message.downconversion.enable", "false")][..]),
            ("merged", &[]),
            ("replaced", &[]),
            ("drift-refused", retention),
            ("drift-overwritten", retention),
            ("drift-kept", retention),
            ("last", &[]),
        ];
        topics_on(&source, &on_source.map(|(name, settings)| (name, &[1][..], settings))).await?;
        let other: &[(&str, &str)] = &[("retention.ms", "111111"), ("segment.ms", "777777")];
        let on_target = ["drift-refused", "drift-overwritten", "drift-kept"].map(|name| (name, &[1][..], other));
        topics_on(&target, &on_target).await?;
        for (topic, _) in on_source {
            write(&source, topic)?;
        }
        rules_on_both(&source, &target).await?;
        let quota = |limits| ["--alter", "--entity-type", "clients", "--entity-name", "app", "--add-config", limits];
        source.configs(&quota("producer_byte_rate=1234567")).await?;
        target.configs(&quota("producer_byte_rate=1,request_percentage=50")).await?;
        patiently(async || {
            let (source, target) = tokio::try_join!(rules_of(&source), rules_of(&target))?;
            ensure!(source.len() == 6 && target.len() == 1);
            Ok(())
        })
        .await?;

        let webhook = FreezeWebhook::start(LiveProducers::none(&source.client()), None).await?;
        let migration = |id: &str, topics: &[&str], as_alice, policies: (&str, &str)| {
            configure(lab, id, (&source, &target), &webhook, (topics, as_alice, policies))
        };
        let refusing = migration("refusing", &["merged", "drift-refused"], false, ("refuse", "refuse"))?;
        refuses_what_differs(&refusing, &source, &target).await?;
        let merging = migration("merging", &["open", "drift-overwritten"], true, ("merge", "overwrite_with_source"))?;
        merges_and_overwrites_without_locking_itself_out(&merging, &target).await?;
        let replacing = migration("replacing", &["merged", "replaced", "drift-kept"], false, ("replace", "keep"))?;
        replaces_and_keeps(&replacing, &source, &target).await?;
        let equal = migration("equal", &["last"], false, ("refuse", "refuse"))?;
        lets_through_what_is_equal(&equal, &target).await
    });
}
