//! What a migration may ask of two clusters and of its machine: requests a step, counted on the wire, and memory.
//!
//! One pair of clusters: 2,000 partitions in two lanes of 1,000, a hundred of them with 3 MB records, and 500 groups. The
//! command logs each request at TRACE, and what is counted are those lines. Where nothing grows with partitions or
//! groups a step may make a handful; a group may cost one request to fetch its positions and one to commit them.
//!
//! `KROSSING_LONG=1` writes four times as many large records.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use krossing_core::{
    GroupId, Side, TopicName, TopicPartition,
    ports::{CommittedOffset, GroupOffsets, Groups, NewTopic, TopicAdmin},
};
use krossing_wire::{Security, WireCluster, WireConfig};
use lab::{
    Cluster, ClusterSpec, Listener,
    compare::groups_resume_exactly,
    in_lab,
    rehearsal::{Migration, Outcome, Pair, Running},
};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use std::time::Duration;

/// Topics with a small record in each partition.
const SMALL_TOPICS: i32 = 19;
/// Partitions of each topic.
const WIDTH: i32 = 100;
/// All partitions: two lanes of as many as a lane may have.
const PARTITIONS: i32 = (SMALL_TOPICS + 1) * WIDTH;
/// Groups, each with positions in several partitions.
const GROUPS: usize = 500;
/// Bytes of a large record, which does not compress: the partitions' records are not alike.
const LARGE_BYTES: usize = 3_000_000;
/// Requests of one kind to one cluster in a step that must not grow: connections, lanes and tries are a few each.
const FEW: usize = 30;

/// What is counted beside the calls: how often a call was made again, for all that was left, because brokers were busy
/// (electing leaders of thousands of new partitions, for one).
const TRIES: &str = "(tries)";

fn large_records() -> usize {
    if std::env::var_os("KROSSING_LONG").is_some() { 8 } else { 2 }
}

fn small_topic(number: i32) -> String {
    format!("small-{number:02}")
}

async fn wire(cluster: &Cluster, side: Side) -> Result<WireCluster> {
    let bootstrap = cluster.bootstrap(Listener::Plaintext).split(',').map(str::to_owned).collect();
    let security = Security::default();
    Ok(WireCluster::connect(WireConfig { side, bootstrap, security, client_id: "bounds".to_owned() }).await?)
}

/// Topics, a small record in each partition of all but the last, and the groups.
async fn fill(source: &Cluster) -> Result<()> {
    let wire = wire(source, Side::Source).await?;
    let topic = |name: String, configs: &[(&str, &str)]| NewTopic {
        name: TopicName::new(name),
        partitions: WIDTH,
        replication_factor: 1,
        configs: configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    };
    let mut topics: Vec<_> = (0..SMALL_TOPICS).map(|number| topic(small_topic(number), &[])).collect();
    topics.push(topic("large".to_owned(), &[("max.message.bytes", "4000000")]));
    for topic in topics {
        let made = wire.create_topics(&[topic]).await?;
        ensure!(made.values().all(Result::is_ok), "{made:?}");
    }
    let small =
        (0..SMALL_TOPICS).flat_map(|number| (0..WIDTH).map(move |partition| (small_topic(number), partition, 20)));
    produce(source, small.collect()).await?;
    commit_groups(&wire).await
}

async fn commit_groups(wire: &WireCluster) -> Result<()> {
    let commits = (0..GROUPS).map(|number| async move {
        let topic = small_topic(i32::try_from(number)? % SMALL_TOPICS);
        let at = |offset| CommittedOffset { offset, metadata: String::new() };
        let partition = |partition| TopicPartition::new(&topic, partition);
        let offsets: GroupOffsets = (0..4).map(|n| (partition(n), at(i64::from(n % 2)))).collect();
        let refused = wire.commit_group_offsets(&GroupId::new(format!("group-{number:03}")), &offsets).await?;
        ensure!(refused.is_empty(), "{refused:?}");
        Ok(())
    });
    let commits: Vec<_> = commits.collect();
    stream::iter(commits).buffer_unordered(32).try_collect::<Vec<()>>().await?;
    Ok(())
}

async fn large(source: &Cluster, each: usize) -> Result<()> {
    let records = (0..each).flat_map(|_| (0..WIDTH).map(|partition| ("large".to_owned(), partition, LARGE_BYTES)));
    produce(source, records.collect()).await
}

/// Writes a record of so many bytes to each topic and partition named, and waits until all are there.
async fn produce(cluster: &Cluster, records: Vec<(String, i32, usize)>) -> Result<()> {
    let mut config = cluster.client();
    config.set("message.max.bytes", "4000000").set("queue.buffering.max.kbytes", "65536").set("acks", "all");
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = config.create()?;
        for (number, (topic, partition, bytes)) in records.iter().enumerate() {
            let value = vec![u8::try_from(number % 251)?; *bytes];
            let mut record = BaseRecord::<(), _>::to(topic).partition(*partition).payload(&value);
            loop {
                match producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                        producer.poll(Duration::from_millis(10));
                        record = back;
                    }
                    Err((error, _)) => return Err(error.into()),
                }
            }
        }
        Ok(producer.flush(Duration::from_secs(120))?)
    })
    .await?
}

/// How often a step asked for what, on which side.
type Requests = BTreeMap<String, BTreeMap<(Side, String), usize>>;

/// The requests of a command by its steps. Before a command names its first step it is `""`.
fn requests(outcome: &Outcome) -> Result<Requests> {
    let mut requests = Requests::new();
    let mut step = String::new();
    for line in outcome.stderr.lines() {
        if let Some((_, named)) = line.split_once("cutover step=\"") {
            step = named.trim_end_matches('"').to_owned();
        } else if let Some((_, request)) = line.split_once("request side=") {
            let (side, rest) = request.split_once(' ').context("a request names its call")?;
            let api = rest.split('"').nth(1).context("a call has a name")?;
            let side = if side == "source" { Side::Source } else { Side::Target };
            *requests.entry(step.clone()).or_default().entry((side, api.to_owned())).or_insert(0) += 1;
        } else if let Some((_, tried)) = line.split_once("trying again side=") {
            let side = if tried.starts_with("source") { Side::Source } else { Side::Target };
            *requests.entry(step.clone()).or_default().entry((side, TRIES.to_owned())).or_insert(0) += 1;
        }
    }
    ensure!(!requests.is_empty(), "no request was logged:\n{}", outcome.stderr);
    Ok(requests)
}

/// Runs a command with its requests logged; it must end well and within its memory.
async fn counted(migration: &Migration, name: &str, more: &[&str]) -> Result<Requests> {
    let mut command = migration.command(name, more)?;
    command
        .env("RUST_LOG", "krossing_wire::connection=trace,krossing_wire::cluster=debug,krossing_cutover=info,warn")
        .env("NO_COLOR", "1");
    let outcome = Running::start(command)?.finish().await?;
    eprintln!("  {name}: {:?}, {} MB", outcome.took, outcome.memory_bytes_max / 1_000_000);
    let outcome = outcome.expect_done()?;
    let requests = requests(&outcome)?;
    eprintln!("  {name}: {requests:?}");
    Ok(requests)
}

/// Every kind of request of a step may come a few times; those named as often as they say.
fn few_but(requests: &Requests, step: &str, named: &[(Side, &str, usize)]) -> Result<()> {
    let none = BTreeMap::new();
    let counted = requests.get(step).unwrap_or(&none);
    for ((side, api), count) in counted {
        if !named.iter().any(|(named_side, name, _)| named_side == side && name == api) {
            let tries = counted.get(&(*side, TRIES.to_owned())).copied().unwrap_or(0);
            ensure!(
                api == TRIES || *count <= FEW + tries,
                "{step:?}: {count} times {api} on the {side}, {tries} tries"
            );
        }
    }
    for (side, api, times) in named {
        let count = counted.get(&(*side, (*api).to_owned())).copied().unwrap_or(0);
        ensure!(count == *times, "{step:?}: {count} times {api} on the {side} instead of {times}");
    }
    Ok(())
}

/// At most so many of these.
fn at_most(requests: &Requests, step: &str, side: Side, api: &str, times: i32) -> Result<usize> {
    let count = requests.get(step).and_then(|step| step.get(&(side, api.to_owned()))).copied().unwrap_or(0);
    ensure!(count <= usize::try_from(times)?, "{step:?}: {count} times {api} on the {side}, more than {times}");
    Ok(count)
}

#[test]
fn requests_grow_with_no_partition_and_memory_with_no_lane_and_no_record() {
    in_lab("bounds", async |lab| {
        // Indexes are mapped at their full size, thousands of them.
        let spec = || ClusterSpec::default().with("log.index.size.max.bytes", "65536");
        let (source, target) = tokio::try_join!(lab.zookeeper_cluster(spec()), lab.kraft_cluster(spec()))?;
        let pair = Pair::new(lab, source, target).await?;
        fill(&pair.source).await?;
        large(&pair.source, large_records()).await?;
        let id = ["--migration-id", "wide"];
        let config = "  seed: {lanes: 2, max_concurrent_partitions: 100}\n";
        let migration = pair.migration("wide", &["*"], config)?;
        let (source, target) = (Side::Source, Side::Target);

        few_but(&counted(&migration, "plan", &[]).await?, "", &[])?;
        // A right to write positions can only be asked for group by group. Of each partition the first batch is read, and
        // large ones come one at a time.
        let mut checking = counted(&migration, "precheck", &[]).await?;
        at_most(&checking, "", source, "Fetch", WIDTH + FEW as i32)?;
        checking.get_mut("").context("precheck names no step")?.remove(&(source, "Fetch".to_owned()));
        few_but(&checking, "", &[(target, "OffsetCommit", GROUPS)])?;

        let seeding = counted(&migration, "execute", &id).await?;
        two_lanes_of_a_thousand(&migration)?;
        // Seeding reads and writes each partition by itself; whatever else `execute` does asks for all at once.
        let (named, mut seeding) = (["Fetch", "Produce"], seeding);
        let all = seeding.get_mut("").context("execute names no step")?;
        all.retain(|(_, api), _| !named.contains(&api.as_str()));
        few_but(&seeding, "", &[(target, "OffsetCommit", GROUPS)])?;

        // From `drain_ready` on only tail rounds are left. Each large record is one batch, and travels with others.
        large(&pair.source, large_records()).await?;
        let tailing = counted(&migration, "execute", &id).await?;
        let batches = WIDTH * i32::try_from(large_records())?;
        at_most(&tailing, "", target, "Produce", batches)?;
        let mut rounds = tailing;
        at_most(&rounds, "", source, "Fetch", PARTITIONS / 4)?;
        at_most(&rounds, "", target, "Fetch", PARTITIONS / 20)?;
        rounds.get_mut("").context("execute names no step")?.retain(|(_, api), _| !named.contains(&api.as_str()));
        few_but(&rounds, "", &[])?;

        // Lanes go on copying until they are closed.
        let mut cutover = counted(&migration, "cutover", &id).await?;
        for (step, counted) in &cutover {
            for (side, api) in counted.keys().filter(|(_, api)| named.contains(&api.as_str())) {
                at_most(&cutover, step, *side, api, PARTITIONS / 4)?;
            }
        }
        cutover.values_mut().for_each(|counted| counted.retain(|(_, api), _| !named.contains(&api.as_str())));
        let fetched = [(source, "OffsetFetch", GROUPS)];
        let committed = [(target, "OffsetCommit", GROUPS), (target, "OffsetFetch", GROUPS)];
        for step in cutover.keys() {
            let of_groups: &[_] = match step.as_str() {
                "preparing topics, markers and groups" | "translating the groups' positions" => &fetched,
                "committing the groups' positions" => &committed,
                _ => &[],
            };
            few_but(&cutover, step, of_groups)?;
        }
        for step in ["preparing topics, markers and groups", "marking the source", "closing the lanes"] {
            ensure!(cutover.contains_key(step), "the cutover names no step {step:?}");
        }
        let of_groups = ["translating the groups' positions", "committing the groups' positions"];
        ensure!(of_groups.iter().all(|step| cutover.contains_key(*step)), "{cutover:?}");

        let names: Vec<String> = ["group-000", "group-250", "group-499"].map(str::to_owned).to_vec();
        let resumed = groups_resume_exactly(&pair.source.client(), &pair.target.client(), &names).await?;
        let wrong: Vec<_> = resumed.iter().filter(|resumption| resumption.problem.is_some()).collect();
        ensure!(resumed.len() == 12 && wrong.is_empty(), "{resumed:#?}");
        Ok(())
    });
}

fn two_lanes_of_a_thousand(migration: &Migration) -> Result<()> {
    let plan = std::fs::read_to_string(migration.ledger_folder().join("plan.json"))?;
    let plan: serde_json::Value = serde_json::from_str(&plan)?;
    let lanes = plan["lanes"].as_array().context("a plan has lanes")?;
    let sizes: Vec<_> = lanes.iter().map(|lane| lane["partitions"].as_array().map_or(0, Vec::len)).collect();
    ensure!(sizes == [1_000, 1_000], "{sizes:?}");
    Ok(())
}
