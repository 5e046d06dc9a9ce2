//! Cutovers on real brokers: what closes the source, an operator's side that does not do what it is asked, the budget,
//! and producers that are left behind, before READY and after it.
//!
//! One pair of clusters, a small migration for each kind of marker. The one that writes nothing to the source comes
//! first, so that it can be seen that the source has not even kept a transaction.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use lab::{
    Cluster, ClusterSpec, FreezeWebhook, Misbehaviour,
    compare::committed,
    in_lab,
    reading::{Isolation, PartitionReader},
    rehearsal::{Migration, Outcome, Pair, command_file},
    state::ClusterState,
    workload::{Group, NewRecord, RecordingProducer, TopicSpec, create_topics},
};
use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

/// Records of each partition before the migration.
const RECORDS: i64 = 50;

/// A record as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    offset: i64,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<String>,
}

impl Seen {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = message.headers().map(|headers| headers.iter().map(|header| header.key.to_owned()).collect());
        Self {
            offset: message.offset(),
            key: message.key().map(text),
            value: message.payload().map(text),
            headers: headers.unwrap_or_default(),
        }
    }

    fn is_sentinel(&self) -> bool {
        self.headers == ["krossing-sentinel"]
    }
}

fn read(cluster: &Cluster, topic: &str, partition: i32) -> Result<Vec<Seen>> {
    tokio::task::block_in_place(|| {
        let reader = PartitionReader::shallow(&cluster.client(), Isolation::Committed)?;
        let stream = reader.open_one(topic, partition, 0)?;
        let mut seen = Vec::new();
        while let Some(message) = stream.next()? {
            seen.push(Seen::of(&message));
        }
        Ok(seen)
    })
}

fn end(cluster: &Cluster, topic: &str, partition: i32) -> Result<i64> {
    let reader = PartitionReader::shallow(&cluster.client(), Isolation::Committed)?;
    Ok(tokio::task::block_in_place(|| reader.bounds(topic, partition))?.1)
}

fn write(cluster: &Cluster, topic: &str, partition: i32, values: &[&str]) -> Result<()> {
    tokio::task::block_in_place(|| {
        let producer = RecordingProducer::new(&cluster.client(), &Arc::default(), topic, &[])?;
        for value in values {
            let (key, value) = (Some(value.as_bytes()), Some(value.as_bytes()));
            producer.send(&NewRecord { partition, key, value, ..NewRecord::default() })?;
        }
        producer.settle()
    })
}

/// Topics of a migration, each with two partitions, and two groups: one in the middle, one at the end.
async fn fill(source: &Cluster, topics: &[TopicSpec]) -> Result<()> {
    create_topics(&source.client(), topics, 1).await?;
    for topic in topics {
        let values: Vec<String> = (0..RECORDS).map(|number| format!("{} {number}", topic.name)).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        for partition in 0..2 {
            write(source, &topic.name, partition, &values)?;
        }
        for (name, position) in [("middle", RECORDS / 2), ("end", RECORDS)] {
            let positions = (0..2).map(|partition| (topic.name.clone(), partition, position)).collect();
            let group = Group { name: format!("{name} of {}", topic.name), positions, metadata: String::new() };
            tokio::task::block_in_place(|| group.commit(&source.client()))?;
        }
    }
    Ok(())
}

/// The group in the middle goes on at the same record, the one at the end behind everything that is there.
fn groups_go_on(pair: &Pair, topic: &str, partitions: std::ops::Range<i32>) -> Result<()> {
    let position = |name: &str, partition| -> Result<i64> {
        let topics = BTreeMap::from([(topic.to_owned(), 2)]);
        let positions =
            tokio::task::block_in_place(|| committed(&pair.target.client(), &format!("{name} of {topic}"), &topics))?;
        Ok(positions.get(&(topic.to_owned(), partition)).context("a position")?.0)
    };
    for partition in partitions {
        let records = read(&pair.target, topic, partition)?;
        let from = |offset| records.iter().filter(move |record| record.offset >= offset);
        let next = from(position("middle", partition)?).next().and_then(|record| record.value.clone());
        ensure!(next == Some(format!("{topic} {}", RECORDS / 2)), "{topic}-{partition}: {next:?}");
        let behind = from(position("end", partition)?).collect::<Vec<_>>();
        ensure!(behind.is_empty(), "{topic}-{partition}: the group at the end meets {behind:?}");
    }
    Ok(())
}

/// A producer that nobody reaches: it writes to a partition until it is dropped.
struct Unreached {
    stop: Arc<AtomicBool>,
    writing: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Unreached {
    fn start(cluster: &Cluster, topic: &str) -> Self {
        let (client, topic, stop) = (cluster.client(), topic.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let writing = std::thread::spawn(move || {
            let producer = RecordingProducer::new(&client, &Arc::default(), &topic, &[("linger.ms", "0")])?;
            while !stopped.load(Ordering::Relaxed) {
                let value = Some(b"of one that nobody reaches".as_slice());
                producer.send(&NewRecord { partition: 1, value, ..NewRecord::default() })?;
                producer.settle()?;
            }
            Ok(())
        });
        Self { stop, writing: Some(writing) }
    }

    fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.writing.take().context("it is stopped once")?.join().expect("the producing thread panicked")
    }
}

impl Drop for Unreached {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A cutover that must not reach READY: producers go on, which was asked for and read back, and nothing need be copied
/// again.
async fn is_taken_back(pair: &Pair, migration: &Migration, said: &[&str]) -> Result<Outcome> {
    let before = pair.webhook.requests().len();
    let outcome = migration.run("cutover").await?.expect_code(1)?;
    for said in said {
        ensure!(outcome.stderr.contains(said), "{said:?} is not in {outcome:?}");
    }
    let actions = actions(&pair.webhook, before);
    ensure!(actions.ends_with(&["unfreeze".to_owned(), "unfreeze".to_owned()]), "{actions:?}");
    ensure!(outcome.stderr.contains("producers may go on"), "{outcome:?}");
    let journal = migration.journal()?;
    let last = |kind: &str| journal.iter().rfind(|entry| entry["kind"] == kind).cloned().unwrap_or_default();
    ensure!(last("transition")["to"] == "drain_ready", "{journal:#?}");
    ensure!(last("unfrozen")["detail"]["confirmed"] == true, "{journal:#?}");
    Ok(outcome)
}

fn actions(webhook: &FreezeWebhook, from: usize) -> Vec<String> {
    let requests = webhook.requests().into_iter().skip(from);
    requests.filter_map(|request| Some(request["action"].as_str()?.to_owned())).collect()
}

fn entered(migration: &Migration, state: &str) -> Result<usize> {
    let is = |entry: &&serde_json::Value| entry["kind"] == "transition" && entry["to"] == state;
    Ok(migration.journal()?.iter().filter(is).count())
}

/// A cutover that reaches READY: producers are told where to go on, and never again to go on where they were.
async fn reaches_ready(pair: &Pair, migration: &Migration) -> Result<()> {
    let before = pair.webhook.requests().len();
    migration.run("cutover").await?.expect_code(0)?;
    ensure!(actions(&pair.webhook, before) == ["freeze", "switch"], "{:?}", pair.webhook.requests());
    let requests = pair.webhook.requests();
    let switch = requests.last().context("a switch")?;
    ensure!(switch["bootstrap_servers"].as_array().is_some_and(|servers| !servers.is_empty()), "{switch}");
    ensure!(entered(migration, "seed")? == 1, "it was seeded again");
    Ok(())
}

async fn stragglers(migration: &Migration, more: &[&str]) -> Result<Outcome> {
    let arguments = [&["--migration-id", &migration.id][..], more].concat();
    migration.start("stragglers", &arguments)?.finish().await
}

fn evidence_of(migration: &Migration) -> Result<String> {
    let evidence: serde_json::Value =
        serde_json::from_slice(&std::fs::read(migration.ledger_folder().join("evidence.json"))?)?;
    Ok(evidence["bundle_json"].as_str().context("a bundle")?.to_owned())
}

fn evidence_verifies(migration: &Migration) -> Result<()> {
    let (document, objects) = (migration.ledger_folder().join("evidence.json"), migration.folder.join("evidence"));
    let mut verify = std::process::Command::new(command_file()?);
    let output = verify.args(["evidence", "verify"]).arg(document).arg("--objects").arg(objects).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

// ── Without markers ────────────────────────────────────────────────────────────────────────────────────────────────

async fn nothing_is_written_to_a_source_without_markers(pair: &Pair) -> Result<Migration> {
    fill(&pair.source, &[TopicSpec::new("unmarked", 2)]).await?;
    let config = "    marker: none\n    standstill_window: 1s\n    max_producer_freeze: 5s\n";
    let migration = pair.migration("unmarked", &["unmarked"], "")?;
    migration.reconfigure("  topics:", &format!("{config}  topics:"))?;
    migration.run("execute").await?.expect_code(0)?;

    let unreached = Unreached::start(&pair.source, "unmarked");
    is_taken_back(pair, &migration, &["B47", "unmarked-1 moved to end offset", "standstill_window"]).await?;
    unreached.stop()?;

    let before = ClusterState::read(&pair.source).await?;
    reaches_ready(pair, &migration).await?;
    ensure!(ClusterState::read(&pair.source).await? == before, "the source has changed");
    let folders = std::fs::read_dir(pair.source.data_folder(1))?.collect::<std::io::Result<Vec<_>>>()?;
    let transactions = folders.iter().any(|entry| entry.file_name().to_string_lossy().starts_with("__transaction"));
    ensure!(!transactions, "the source has kept a transaction");
    for partition in 0..2 {
        let values =
            |cluster| Ok::<_, anyhow::Error>(read(cluster, "unmarked", partition)?.into_iter().map(|r| r.value));
        ensure!(values(&pair.source)?.eq(values(&pair.target)?), "unmarked-{partition} differs");
    }
    Ok(migration)
}

async fn stragglers_are_named_and_appended_once(pair: &Pair, migration: &Migration) -> Result<()> {
    let (closed, before) = (end(&pair.source, "unmarked", 0)?, read(&pair.target, "unmarked", 0)?);
    write(&pair.source, "unmarked", 0, &["late 1", "late 2"])?;
    let acknowledged = migration.run("cutover-ack").await?.expect_code(0)?;
    let named = format!("B48: a record reached the source's unmarked-0 at offset {closed}");
    ensure!(acknowledged.stderr.contains(&named), "{acknowledged:?}");
    let refused = migration.run("finalize").await?.expect_code(1)?;
    ensure!(refused.stdout.contains("sentinel_presence: unmarked-0: B48"), "{refused:?}");

    let found = stragglers(migration, &[]).await?.expect_code(0)?;
    ensure!(
        found.stdout.contains(&format!("unmarked-0: records=2 source_offsets={closed}..{}", closed + 2)),
        "{found:?}"
    );
    // A client writes in between: the records come behind it.
    write(&pair.target, "unmarked", 0, &["of a client"])?;
    stragglers(migration, &["--append"]).await?.expect_code(0)?;
    let again = stragglers(migration, &["--append"]).await?.expect_code(0)?;
    ensure!(again.stdout.contains("no record left"), "{again:?}");
    let after = read(&pair.target, "unmarked", 0)?.split_off(before.len());
    let values: Vec<_> = after.iter().filter_map(|record| record.value.as_deref()).collect();
    ensure!(values == ["of a client", "late 1", "late 2"], "{after:?}");

    let finalized = migration.run("finalize").await?.expect_code(0)?;
    ensure!(finalized.stdout.contains("validation=PASSED"), "{finalized:?}");
    let bundle = evidence_of(migration)?;
    ensure!(bundle.contains("\"stragglers\":\"append\"") && bundle.contains("unmarked/stragglers/1/unmarked/0.log"));
    evidence_verifies(migration)?;
    let refused = stragglers(migration, &["--leave"]).await?.expect_code(1)?;
    ensure!(refused.stderr.contains("the migration is complete"), "{refused:?}");
    Ok(())
}

// ── Visible markers ────────────────────────────────────────────────────────────────────────────────────────────────

async fn visible_markers_close_both_sides_and_no_group_meets_them(pair: &Pair) -> Result<()> {
    let topics = [TopicSpec::new("marked", 2), TopicSpec::new("marked-table", 2).with("cleanup.policy", "compact")];
    fill(&pair.source, &topics).await?;
    let migration = pair.migration("marked", &["marked*"], "")?;
    migration.reconfigure("  topics:", "    marker: record\n  topics:")?;
    migration.run("execute").await?.expect_code(0)?;

    // A cutover that is taken back leaves its markers, and the next closes with the same.
    let client = pair.source.client();
    let open = RecordingProducer::transactional(&client, &Arc::default(), "marked", "marked-open")?;
    let value = Some(b"of a transaction that is aborted".as_slice());
    tokio::task::block_in_place(|| {
        open.begin()?;
        open.send(&NewRecord { value, ..NewRecord::default() })?;
        open.flush()
    })?;
    migration.reconfigure("    marker: record\n", "    marker: record\n    max_producer_freeze: 3s\n")?;
    is_taken_back(pair, &migration, &["B43", "marked-0"]).await?;
    migration.reconfigure("    max_producer_freeze: 3s\n", "")?;
    tokio::task::block_in_place(|| open.abort())?;
    reaches_ready(pair, &migration).await?;

    for topic in topics.iter().map(|topic| topic.name.as_str()) {
        let compacted = topic == "marked-table";
        for partition in 0..2 {
            for cluster in [&pair.source, &pair.target] {
                let records = read(cluster, topic, partition)?;
                let last = records.last().context("records")?;
                ensure!(last.is_sentinel() && last.value.is_none(), "{topic}-{partition}: {last:?}");
                ensure!(last.key.is_some() == compacted, "{topic}-{partition}: {last:?}");
                let markers = records.iter().filter(|record| record.is_sentinel()).count();
                ensure!(markers == 1, "{topic}-{partition} has {markers} visible markers");
            }
        }
        groups_go_on(pair, topic, 0..2)?;
    }

    // A client has come, so that it can only go forward.
    write(&pair.target, "marked", 0, &["of a client"])?;
    let (entries, asked) = (migration.journal()?.len(), pair.webhook.requests().len());
    let refused = migration.run("rollback").await?.expect_code(1)?;
    ensure!(refused.stderr.contains("marked-0 was written to from target offset"), "{refused:?}");
    ensure!((migration.journal()?.len(), pair.webhook.requests().len()) == (entries, asked), "{refused:?}");
    let before = read(&pair.target, "marked", 1)?;
    write(&pair.source, "marked", 1, &["late"])?;
    migration.run("cutover-ack").await?.expect_code(0)?;
    migration.run("finalize").await?.expect_code(1)?;
    stragglers(&migration, &["--leave"]).await?.expect_code(0)?;
    let finalized = migration.run("finalize").await?.expect_code(0)?;
    ensure!(finalized.stdout.contains("validation=PASSED"), "{finalized:?}");
    ensure!(read(&pair.target, "marked", 1)? == before, "what was to be left out is there");
    ensure!(evidence_of(&migration)?.contains("\"stragglers\":\"leave\""), "the decision is not in the evidence");
    evidence_verifies(&migration)
}

// ── The operator's side ────────────────────────────────────────────────────────────────────────────────────────────

async fn whatever_the_operators_side_does_producers_go_on_and_the_next_cutover_needs_no_seed(
    pair: &Pair,
) -> Result<()> {
    fill(&pair.source, &[TopicSpec::new("asked", 2)]).await?;
    let migration = pair.migration("asked", &["asked"], "")?;
    migration.reconfigure("  topics:", "    max_producer_freeze: 2s\n  topics:")?;
    migration.run("execute").await?.expect_code(0)?;
    let asking = "to freeze producers";
    for (misbehaviour, said) in [
        (Misbehaviour::SaysNothing, &["nobody confirmed that producers stand still"][..]),
        (Misbehaviour::Fails, &[asking, "500"]),
        (Misbehaviour::Redirects, &[asking, "redirects are not followed"]),
        // Whichever bound ends first.
        (Misbehaviour::Hangs, &["producers"]),
        (Misbehaviour::AnswersLate, &["producers"]),
    ] {
        pair.webhook.misbehave(Some(misbehaviour));
        is_taken_back(pair, &migration, said).await?;
        pair.webhook.misbehave(None);
    }

    // It says that they stand still, and one does not.
    migration.reconfigure("max_producer_freeze: 2s", "max_producer_freeze: 20s")?;
    let unreached = Unreached::start(&pair.source, "asked");
    is_taken_back(pair, &migration, &["B47", "asked-1 received a record at offset"]).await?;
    unreached.stop()?;

    // Nobody to ask, and somebody who says no.
    let webhook = format!("producer_freeze_webhook: \"{}\"", pair.webhook.url());
    let secret = "producer_freeze_webhook_secret: \"lab-webhook-secret\"";
    migration.reconfigure(&format!("    {webhook}\n    {secret}\n"), "")?;
    let nobody = migration.run("cutover").await?.expect_code(1)?;
    ensure!(nobody.stderr.contains("standard input is no terminal"), "{nobody:?}");
    // What was typed before it was asked for is no answer.
    let (code, said) = at_a_terminal(&migration, "cutover", "frozen\n", "no\n").await?;
    ensure!(code == Some(1) && said.contains("\"no\" was typed on the terminal"), "{said}");
    ensure!(said.contains("producers may go on"), "{said}");
    ensure!(entered(&migration, "awaiting_client_switch")? == 0);
    let (code, said) = at_a_terminal(&migration, "cutover", "no\n", "frozen\n").await?;
    ensure!(code == Some(0) && said.contains("point consumers, then producers, to the target"), "{said}");
    ensure!(entered(&migration, "seed")? == 1, "it was seeded again");
    // The other partition has what the producer that nobody reached wrote behind the group.
    groups_go_on(pair, "asked", 0..1)?;
    migration.reconfigure("  topics:", &format!("    {webhook}\n    {secret}\n  topics:"))?;
    is_given_up_after_ready(pair, &migration, "asked").await
}

/// The team stays on the source: producers go on there, which is read back and signed, and the target is left as it is.
async fn is_given_up_after_ready(pair: &Pair, migration: &Migration, topic: &str) -> Result<()> {
    let (source, target) = (ClusterState::read(&pair.source).await?, ClusterState::read(&pair.target).await?);
    let before = pair.webhook.requests().len();
    let status = migration.run("status").await?.expect_code(0)?;
    ensure!(status.stdout.contains("krossing rollback --config"), "{status:?}");
    let said = migration.run("rollback").await?.expect_code(0)?.stdout;
    ensure!(said.contains("given_up_in=awaiting_client_switch") && said.contains("producers: go on: "), "{said}");
    ensure!(said.contains(&format!("--delete --topic '{topic}'")) && !said.contains("HAVE"), "{said}");
    ensure!(actions(&pair.webhook, before) == ["unfreeze", "unfreeze"], "{:?}", actions(&pair.webhook, before));
    ensure!(ClusterState::read(&pair.source).await? == source, "the source has changed");
    ensure!(ClusterState::read(&pair.target).await? == target, "the target was touched");
    write(&pair.source, topic, 0, &["gone on"])?;
    let kinds: Vec<_> = migration.journal()?.iter().map(|entry| entry["kind"].clone()).collect();
    ensure!(kinds.ends_with(&["unfreeze_asked", "unfrozen", "transition"].map(Into::into)), "{kinds:?}");
    evidence_verifies(migration)?;
    ensure!(evidence_of(migration)?.contains("\"outcome\":\"rolled_back\""), "the evidence says something else");
    let acknowledged = migration.run("cutover-ack").await?.expect_code(1)?;
    ensure!(acknowledged.stderr.contains("given up"), "{acknowledged:?}");
    migration.run("rollback").await?.expect_code(0).map(drop)
}

/// Runs a command with a terminal in which `ahead` is typed before it asks, and `typed` when it does. Answers its exit
/// code, and what it said.
async fn at_a_terminal(migration: &Migration, name: &str, ahead: &str, typed: &str) -> Result<(Option<i32>, String)> {
    let command = migration.command(name, &["--migration-id", &migration.id])?;
    let words = std::iter::once(command.as_std().get_program()).chain(command.as_std().get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let mut terminal = tokio::process::Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut running = terminal.spawn()?;
    let (keys, screen) = (running.stdin.as_mut().context("keys")?, running.stdout.take().context("a screen")?);
    keys.write_all(ahead.as_bytes()).await?;
    let (mut lines, mut said) = (BufReader::new(screen).lines(), String::new());
    while let Some(line) = lines.next_line().await? {
        if line.contains("type frozen and Enter") {
            keys.write_all(typed.as_bytes()).await?;
        }
        said.push_str(&line);
        said.push('\n');
    }
    Ok((running.wait().await?.code(), said))
}

#[test]
fn cutovers_close_the_source_as_configured_or_are_taken_back_whatever_the_operators_side_does() {
    in_lab("cutovers", async |lab| {
        let (source, target) =
            tokio::try_join!(lab.zookeeper_cluster(ClusterSpec::default()), lab.kraft_cluster(ClusterSpec::default()))?;
        let pair = Pair::new(lab, source, target).await?;
        let unmarked = nothing_is_written_to_a_source_without_markers(&pair).await?;
        stragglers_are_named_and_appended_once(&pair, &unmarked).await?;
        visible_markers_close_both_sides_and_no_group_meets_them(&pair).await?;
        whatever_the_operators_side_does_producers_go_on_and_the_next_cutover_needs_no_seed(&pair).await
    });
}
