//! How a migration ends: with evidence that holds for public tools, or given up with nothing changed and nothing deleted.

use std::{collections::BTreeSet, path::Path, process::Command, sync::Arc};

use anyhow::{Context, Result, ensure};
use lab::{
    Cluster, ClusterSpec, FreezeWebhook, Lab, Listener, in_lab,
    rehearsal::{Migration, Pair, command_file},
    repository,
    state::ClusterState,
    workload::{Group, LiveProducers, NewRecord, RecordingProducer, TopicSpec, create_topics},
};
use serde_json::Value;

async fn fill(cluster: &Cluster, topic: &str) -> Result<()> {
    let client = cluster.client();
    create_topics(&client, &[TopicSpec::new(topic, 2)], 1).await?;
    let producer = RecordingProducer::new(&client, &Arc::default(), topic, &[])?;
    tokio::task::block_in_place(|| {
        for number in 0..200 {
            let value = format!("{topic} {number}");
            producer.send(&NewRecord {
                partition: number % 2,
                value: Some(value.as_bytes()),
                ..NewRecord::default()
            })?;
        }
        producer.settle()
    })?;
    let positions = vec![(topic.to_owned(), 0, 40), (topic.to_owned(), 1, 100)];
    let group = Group { name: format!("readers of {topic}"), positions, metadata: String::new() };
    tokio::task::block_in_place(|| group.commit(&client))
}

/// As operators of the tool that Krossing follows have it: another place for all fields, an ARN, no topics named, and
/// its own values. Put in are only brokers, folders, and the address of the webhook.
const FOUNDING: &str = r#"
enterprise:
  msk_kraft_migration:
    source:
      bootstrap_servers: "{source}"
      cluster_arn: arn:aws:kafka:us-east-1:123456789012:cluster/prod-zk-cluster/abc-def-123
      auth:
        mode: none
    target:
      bootstrap_servers: "{target}"
      cluster_arn: arn:aws:kafka:us-east-1:123456789012:cluster/prod-kraft-cluster/ghi-jkl-456
      auth:
        mode: none
    backup:
      directory: "{folder}/segments"
    evidence:
      directory: "{folder}/evidence"
      signing_key_file: "{folder}/signing-key.pem"
      retention: 7y
    cutover:
      drain_timeout: 30m
      drain_max_partition_lag: 100
      drain_stable_window: 30s
      max_producer_freeze: 60s
      producer_freeze_webhook: "{webhook}"
    validation:
      count_tolerance: 1
      spot_check_records_per_partition: 3
    acl:
      on_drift: merge
"#;

async fn the_founding_configuration_runs(lab: &Lab, pair: &Pair) -> Result<()> {
    let webhook = FreezeWebhook::start(LiveProducers::none(&pair.source.client()), None).await?;
    let config = FOUNDING
        .replace("{source}", &pair.source.bootstrap(Listener::Plaintext))
        .replace("{target}", &pair.target.bootstrap(Listener::Plaintext))
        .replace("{webhook}", webhook.url());
    let migration = Migration::configure("founding", lab.folder().join("founding"), &config)?;
    let journal = migration.folder.join("journal");
    let place = ["--migration-id", &migration.id, "--journal-dir", &journal.to_string_lossy()].map(str::to_owned);
    let place: Vec<&str> = place.iter().map(String::as_str).collect();
    let plan =
        ["--format", "all", "--out-dir", &migration.folder.join("migration-plan").to_string_lossy()].map(str::to_owned);
    migration.start("plan", &plan.each_ref().map(String::as_str))?.finish().await?.expect_code(0)?;
    migration.start("precheck", &[])?.finish().await?.expect_code(0)?;
    for command in ["execute", "status", "cutover", "cutover-ack", "finalize"] {
        migration.start(command, &place)?.finish().await?.expect_code(0)?;
    }
    let document = migration.folder.join("evidence").join(&migration.id).join("evidence.json");
    ensure!(verified(&document, &[])?.contains("validation: PASSED"));
    ensure!(journal.join(&migration.id).join("journal.jsonl").exists(), "the journal is where it was asked for");
    Ok(())
}

/// What `krossing evidence verify` says of a document; an error with what it complained of.
fn verified(document: &Path, more: &[&str]) -> Result<String> {
    let output = Command::new(command_file()?).args(["evidence", "verify"]).arg(document).args(more).output()?;
    let (said, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success(), "{complaint}");
    Ok(said)
}

/// Runs the recipe of README, as it is written there, on a document.
fn recipe(document: &Path, folder: &Path) -> Result<String> {
    let readme = std::fs::read_to_string(repository().join("README.md"))?;
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    let recipe =
        blocks.into_iter().find(|block| block.contains("jq -j .bundle_json")).context("README has no recipe")?;
    std::fs::create_dir_all(folder)?;
    std::fs::copy(document, folder.join("evidence.json"))?;
    let output = Command::new("bash").args(["-e", "-o", "pipefail", "-c", recipe]).current_dir(folder).output()?;
    let said = format!("{}{}", String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

/// The document with another journal entry, as somebody would change it who knows the format and has no key.
fn forged(document: &Path) -> Result<Vec<u8>> {
    let mut evidence: Value = serde_json::from_slice(&std::fs::read(document)?)?;
    let bundle = evidence["bundle_json"].as_str().context("a bundle")?;
    ensure!(bundle.contains("PASSED"));
    evidence["bundle_json"] = bundle.replace("\"topics_altered\":1", "\"topics_altered\":2").into();
    Ok(serde_json::to_vec(&evidence)?)
}

async fn is_finalized_and_proved(migration: &Migration) -> Result<()> {
    for command in ["execute", "cutover", "cutover-ack", "finalize"] {
        migration.run(command).await?.expect_code(0)?;
    }
    let evidence = migration.folder.join("evidence");
    let document = evidence.join(&migration.id).join("evidence.json");
    let said = verified(&document, &["--objects", &evidence.to_string_lossy()])?;
    ensure!(said.contains("ended as finalized") && said.contains("validation: PASSED"), "{said}");
    let decided: Vec<&str> = said.lines().filter(|line| line.starts_with("decided: ")).collect();
    ensure!(decided.len() == 4 && decided.iter().all(|line| line.contains('@')), "who decided what: {said}");
    let key_id = said.lines().next().and_then(|line| line.split_whitespace().nth(3)).context("a key id")?;
    verified(&document, &["--key-id", key_id])?;
    let by_hand = recipe(&document, &migration.folder.join("recipe"))?;
    ensure!(by_hand.contains(key_id) && by_hand.contains("Signature Verified Successfully"), "{by_hand}");
    ensure!(by_hand.contains("\"validation\": \"PASSED\""), "{by_hand}");

    let forgery = migration.folder.join("forged.json");
    std::fs::write(&forgery, forged(&document)?)?;
    let refused = verified(&forgery, &[]).err().context("a forged document was believed")?;
    ensure!(refused.to_string().contains("the signature does not fit"), "{refused}");
    ensure!(recipe(&forgery, &migration.folder.join("recipe")).is_err(), "public tools believe a forged document");
    let offset_map = evidence.join(&migration.id).join("offset-map.json");
    std::fs::write(&offset_map, "{}")?;
    let refused = verified(&document, &["--objects", &evidence.to_string_lossy()]);
    ensure!(refused.is_err_and(|error| error.to_string().contains("offset-map.json")));

    // A repetition says the same and signs nothing.
    let attempts =
        || Ok::<_, anyhow::Error>(std::fs::read_dir(evidence.join(&migration.id).join("evidence-attempts"))?.count());
    let before = attempts()?;
    migration.run("finalize").await?.expect_code(0)?;
    ensure!(attempts()? == before);
    Ok(())
}

/// The events that a command tells programs; every line of its output is one.
async fn events(migration: &Migration, command: &str, more: &[&str]) -> Result<Vec<Value>> {
    let more = [&["--output", "json", "--migration-id", &migration.id], more].concat();
    let outcome = migration.start(command, &more)?.finish().await?;
    let mut events = Vec::new();
    for line in outcome.stdout.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| format!("{command} wrote {line:?}"))?;
        ensure!(event["event"].is_string(), "{command} wrote {line:?}");
        events.push(event);
    }
    let end = events.last().context("there is always an end")?;
    ensure!(end["event"] == "end" && end["exit_code"].as_i64() == outcome.code.map(i64::from), "{end} {outcome:?}");
    Ok(events)
}

fn names(events: &[Value]) -> BTreeSet<&str> {
    events.iter().filter_map(|event| event["event"].as_str()).collect()
}

/// What a program reads from `plan`, `status` and a command that is refused; and the files of a plan.
async fn tells_programs(migration: &Migration) -> Result<()> {
    let status = events(migration, "status", &["--follow"]).await?;
    ensure!(status[0]["state"] == "rolled_back" && status[0]["lag_records_max"].is_null(), "{status:?}");
    let refused = events(migration, "cutover", &[]).await?;
    ensure!(names(&refused) == BTreeSet::from(["end", "error"]), "{refused:?}");
    let events_of_plan = events(migration, "plan", &[]).await?;
    ensure!(names(&events_of_plan) == BTreeSet::from(["end", "plan"]), "{events_of_plan:?}");

    let folder = migration.folder.join("plan");
    let to_folder = ["--format", "all", "--out-dir", &folder.to_string_lossy()];
    ensure!(names(&events(migration, "plan", &to_folder).await?) == BTreeSet::from(["end", "written"]));
    let runbook = std::fs::read_to_string(folder.join("runbook.md"))?;
    ensure!(runbook.contains("krossing cutover --config") && runbook.contains("2 partitions"), "{runbook}");
    std::fs::write(folder.join("plan.txt"), "mine")?;
    let again = events(migration, "plan", &to_folder).await?;
    ensure!(again[0]["error"].as_str().is_some_and(|error| error.contains("--force")), "{again:?}");
    ensure!(std::fs::read_to_string(folder.join("plan.txt"))? == "mine", "it was written over");
    events(migration, "plan", &[&to_folder[..], &["--force"]].concat()).await?;
    ensure!(std::fs::read_to_string(folder.join("plan.txt"))?.contains("topics_to_create=1"));
    let not_made = events(migration, "plan", &["--format", "cost"]).await?;
    ensure!(not_made[0]["error"].as_str().is_some_and(|error| error.contains("infra/README.md")), "{not_made:?}");
    Ok(())
}

async fn is_given_up_without_a_trace(pair: &Pair, migration: &Migration) -> Result<()> {
    let before = ClusterState::read(&pair.source).await?;
    migration.run("execute").await?.expect_code(0)?;
    let target = ClusterState::read(&pair.target).await?;
    let why = ["--migration-id", &migration.id, "--reason", "CHG-7"];
    let said = migration.start("rollback", &why)?.finish().await?.expect_code(0)?.stdout;
    ensure!(said.contains("given_up_in=drain_ready") && said.contains("--delete --topic 'given-up'"), "{said}");
    ensure!(ClusterState::read(&pair.source).await? == before, "the source has changed");
    ensure!(ClusterState::read(&pair.target).await? == target, "the target was touched");
    let document = migration.ledger_folder().join("evidence.json");
    let proof = verified(&document, &[])?;
    ensure!(proof.contains("ended as rolled_back") && proof.contains("approve_cutover: rollback: CHG-7"), "{proof}");
    for command in ["execute", "cutover", "finalize"] {
        let refused = migration.run(command).await?.expect_code(1)?;
        ensure!(refused.stderr.contains("given up"), "{refused:?}");
    }
    migration.run("resume").await?.expect_code(0)?;
    // Given once more it publishes what was signed, and adds nothing behind it.
    migration.start("rollback", &why)?.finish().await?.expect_code(0)?;
    migration.run("rollback").await?.expect_code(0)?;
    tells_programs(migration).await
}

/// A process that goes on copying lets go before a migration is given up, and ends.
async fn nobody_copies_for_a_migration_that_is_given_up(migration: &Migration) -> Result<()> {
    let mut tailing = migration.start("execute", &["--migration-id", &migration.id, "--keep-tailing"])?;
    let rolled_back = async {
        migration.until_journaled(|entry| entry["to"] == "drain_ready").await?;
        loop {
            let outcome = migration.run("rollback").await?;
            if outcome.code == Some(0) {
                return Ok(());
            }
            // Just behind drain_ready the lock is still held.
            ensure!(outcome.stderr.contains("another command drives this migration"), "{outcome:?}");
        }
    };
    tailing.until(rolled_back).await?;
    let ended = tailing.finish().await?.expect_code(0)?;
    ensure!(ended.stderr.contains("nothing is left to tail"), "{ended:?}");
    Ok(())
}

#[test]
fn a_migration_ends_with_evidence_or_without_a_trace() {
    in_lab("ends", async |lab| {
        let (source, target) =
            tokio::try_join!(lab.zookeeper_cluster(ClusterSpec::default()), lab.kraft_cluster(ClusterSpec::default()))?;
        let pair = Pair::new(lab, source, target).await?;
        // It names no topics, so that it takes all there are.
        fill(&pair.source, "founding").await?;
        the_founding_configuration_runs(lab, &pair).await?;
        fill(&pair.source, "proved").await?;
        fill(&pair.source, "given-up").await?;
        fill(&pair.source, "let-go").await?;
        nobody_copies_for_a_migration_that_is_given_up(&pair.migration("let-go", &["let-go"], "")?).await?;
        is_given_up_without_a_trace(&pair, &pair.migration("given-up", &["given-up"], "")?).await?;
        is_finalized_and_proved(&pair.migration("proved", &["proved"], "")?).await
    });
}
