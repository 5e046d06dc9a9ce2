//! Workers that die, that stand still and wake up again, and strangers on the target.
//!
//! Killed with `kill -9` in seed, tail and cutover, with records ten years old, and between each kill and the `resume`
//! after it: the target's brokers restarted, so that they forget producers by the age of their records; the source
//! compacted, and trimmed. Stopped with SIGSTOP beyond its lease while a second process takes over, then woken up. A
//! record that Krossing did not write, put on the target while it runs and while nothing runs.
//!
//! Each damage is first seen to happen: the brokers to forget on a twin beside the migration's topics, the source to
//! have lost records.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use krossing_core::{
    Producer, Side, TopicPartition,
    ports::{LogWriter, Marker as _, ProduceOutcome, ProduceRequest},
    records::{Record, build::BatchBuilder},
};
use krossing_wire::{Security, WireCluster, WireConfig};
use lab::{
    ClusterSpec, Lab, Listener, Version,
    compare::{compare, groups_resume_exactly},
    in_lab,
    rehearsal::{Migration, Pair, Running},
    workload::{Group, create_topics},
};
use rdkafka::ClientConfig;
use serde_json::Value;

use crate::numbered::{Log, TEN_YEARS_MS, Writer, difference, ends, kept, now_ms, read, set_topic, trim, until, write};

/// All partitions get their first segment at once, and then have to wait for many seconds: a middle of the seed to be
/// killed in, where partitions are larger than one answer of a broker (4 MiB).
const SLOW_SEED: &str = "  seed: {max_bytes_per_second_per_broker: 512KiB, segment_max_bytes: 1MiB, \
                         max_concurrent_partitions: 8, lanes: 1}\n";

/// Records that make two partitions of 6 MB each.
const LARGE: Range<u64> = 0..24_000;

pub(crate) async fn pair(lab: &Lab, target: Version) -> Result<Pair> {
    let (source, target) = tokio::try_join!(
        lab.zookeeper_cluster(ClusterSpec::default()),
        lab.kraft_cluster(ClusterSpec { version: target, ..ClusterSpec::default() })
    )?;
    Pair::new(lab, source, target).await
}

/// The client under test, to send what a worker would send.
async fn wire(pair: &Pair) -> Result<WireCluster> {
    let bootstrap = pair.target.bootstrap(Listener::Plaintext).split(',').map(str::to_owned).collect();
    let (side, security) = (Side::Target, Security::default());
    Ok(WireCluster::connect(WireConfig { side, bootstrap, security, client_id: "faults".to_owned() }).await?)
}

/// One old record, as `producer` would send it with this sequence number.
async fn send(wire: &WireCluster, to: &TopicPartition, producer: Producer, sequence: i32) -> Result<ProduceOutcome> {
    let record = Record {
        offset: 0,
        timestamp_ms: now_ms() - TEN_YEARS_MS,
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::from_static(b"sent by hand")),
        headers: Vec::new(),
    };
    let batch = BatchBuilder { producer, base_sequence: sequence, records: vec![record], ..BatchBuilder::new(0) };
    let (batch, send_before) = (batch.build()?, Instant::now() + Duration::from_secs(30));
    Ok(wire.produce(ProduceRequest { partition: to.clone(), batch, send_before }).await)
}

pub(crate) fn entered(state: &str) -> impl Fn(&Value) -> bool {
    let state = state.to_owned();
    move |entry| entry["kind"] == "transition" && entry["to"] == state.as_str()
}

pub(crate) fn noted(kind: &str) -> impl Fn(&Value) -> bool {
    let kind = kind.to_owned();
    move |entry| entry["kind"] == kind.as_str()
}

/// Whether the journal has an entry like that.
fn journaled(migration: &Migration, wanted: impl Fn(&Value) -> bool) -> bool {
    migration.journal().is_ok_and(|entries| entries.iter().any(wanted))
}

/// All producers that the ledger names for the migration's only lane, the newest last.
fn lane_producers(migration: &Migration) -> Result<Vec<Producer>> {
    let folder = migration.ledger_folder().join("documents/leases");
    let leases: Vec<PathBuf> =
        std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let [lease] = &leases[..] else { bail!("{leases:?} are not one lease") };
    let text = std::fs::read_to_string(lease)?;
    // Its first line is a head that the ledger checks it by.
    let (_, record) = text.split_once('\n').context("a lease has a head")?;
    Ok(serde_json::from_value(serde_json::from_str::<Value>(record)?["producers"].take())?)
}

/// Restarts the target's broker: what it remembers of producers with old records is gone.
async fn restart(pair: &Pair) -> Result<()> {
    pair.target.stop_broker(1).await?;
    pair.target.start_broker(1).await
}

// ── Killed ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The partitions of each topic below.
const PARTITIONS: i32 = 2;

/// What happens to a migration's topics beside it.
struct Damage<'a> {
    pair: &'a Pair,
    source: ClientConfig,
    wire: WireCluster,
    twin: (TopicPartition, Producer),
    /// The next offset of the twin, as long as brokers forget.
    twin_next: i64,
    /// What `trimmed` and `compacted` have ever held, by partition.
    history: BTreeMap<(&'static str, i32), Log>,
}

impl<'a> Damage<'a> {
    async fn new(pair: &'a Pair) -> Result<Self> {
        let wire = wire(pair).await?;
        create_topics(&pair.target.client(), &[kept("twin", 1)], 1).await?;
        let twin = TopicPartition::new("twin", 0);
        // Without a marker, which carries the present time.
        let producer = wire.open_producer("twin").await?;
        let sent = send(&wire, &twin, producer, 0).await?;
        ensure!(sent == ProduceOutcome::Appended { base_offset: 0 }, "{sent:?}");
        let again = send(&wire, &twin, producer, 0).await?;
        ensure!(again == sent, "a broker that remembers answers a repeat with its offset: {again:?}");
        let (source, history) = (pair.source.client(), BTreeMap::new());
        Ok(Self { pair, source, wire, twin: (twin, producer), twin_next: 1, history })
    }

    /// Restarts the target, and sees that it has forgotten: the twin's batch is appended once more.
    async fn forget(&mut self) -> Result<()> {
        restart(self.pair).await?;
        // A broker answers before it leads again; what it did not take then shows by the offset.
        let mut again = send(&self.wire, &self.twin.0, self.twin.1, 0).await?;
        while matches!(again, ProduceOutcome::Unknown { .. } | ProduceOutcome::NotAppended { .. }) {
            again = send(&self.wire, &self.twin.0, self.twin.1, 0).await?;
        }
        ensure!(again == ProduceOutcome::Appended { base_offset: self.twin_next }, "nothing was forgotten: {again:?}");
        self.twin_next += 1;
        Ok(())
    }

    /// Reads what the source holds, before some of it goes.
    fn remember(&mut self) -> Result<()> {
        for topic in ["trimmed", "compacted"] {
            for partition in 0..PARTITIONS {
                let known = self.history.entry((topic, partition)).or_default();
                let end = known.last().map_or(-1, |(offset, _)| *offset);
                known.extend(read(&self.source, topic, partition)?.into_iter().filter(|(offset, _)| *offset > end));
            }
        }
        Ok(())
    }

    /// Deletes all of `trimmed-0` but its last records, and a little of the beginning of `trimmed-1`. Answers where the
    /// first begins now.
    async fn trim(&mut self, beginning: i64) -> Result<i64> {
        self.remember()?;
        let begins = ends(&self.source, "trimmed", PARTITIONS)?[0] - 10;
        trim(&self.source, "trimmed", 0, begins).await?;
        trim(&self.source, "trimmed", 1, beginning).await?;
        Ok(begins)
    }

    /// Has the cleaner go over `compacted`, and sees that it has.
    async fn compact(&mut self) -> Result<()> {
        self.remember()?;
        set_topic(&self.source, "compacted", &COMPACTED_NOW).await?;
        write(&self.source, "compacted", PARTITIONS, "after", 0..400, None).await?;
        self.remember()?;
        for partition in 0..PARTITIONS {
            let held = self.history[&("compacted", partition)].len();
            while read(&self.source, "compacted", partition)?.len() > held / 2 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}

const COMPACTED: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    // A Fetch ends with a file of the log.
    ("segment.bytes", "4194304"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("min.compaction.lag.ms", "9223372036854775807"),
];
const COMPACTED_NOW: [(&str, &str); 4] = [COMPACTED[0], COMPACTED[1], COMPACTED[2], ("min.compaction.lag.ms", "0")];

/// The ranges that the journal says were gone before they were read.
fn gaps(migration: &Migration, partition: &str) -> Result<Vec<Range<i64>>> {
    let entries = migration.journal()?.into_iter().filter(noted("source_gap"));
    let of_it = entries.filter(|entry| {
        entry["detail"]["partition"] == partition
            || entry["reason"].as_str().is_some_and(|reason| reason.contains(&format!("{partition} ")))
    });
    of_it
        .map(|entry| {
            let offset = |name: &str| entry["detail"][name].as_i64().with_context(|| format!("{name} in {entry}"));
            Ok(offset("from")?..offset("to")?)
        })
        .collect()
}

#[test]
fn a_migration_killed_in_each_phase_is_exact_though_brokers_forget_and_the_source_is_cleaned() {
    in_lab("owners-killed", async |lab| {
        let pair = pair(lab, Version::V3_9).await?;
        let (source, target) = (pair.source.client(), pair.target.client());
        let compacted =
            COMPACTED.iter().fold(kept("compacted", PARTITIONS), |topic, (name, value)| topic.with(name, value));
        create_topics(&source, &[kept("old", PARTITIONS), kept("trimmed", PARTITIONS), compacted], 1).await?;
        let old = Some(now_ms() - TEN_YEARS_MS);
        write(&source, "old", PARTITIONS, "seed", LARGE, old).await?;
        write(&source, "trimmed", PARTITIONS, "seed", LARGE, old).await?;
        write(&source, "compacted", PARTITIONS, "seed", LARGE, None).await?;
        let mut damage = Damage::new(&pair).await?;
        let topics = ["old", "trimmed", "compacted"];
        let migration = pair.migration("killed", &topics, SLOW_SEED)?;

        // In the seed.
        let mut execute = migration.begin("execute")?;
        let some_copied = until(|| {
            let copied = topics.iter().map(|topic| ends(&target, topic, PARTITIONS)).collect::<Result<Vec<_>>>()?;
            Ok(copied.iter().flatten().all(|end| *end > 100))
        });
        execute.until(some_copied).await?;
        execute.kill().await?;
        ensure!(!journaled(&migration, entered("tail")), "the seed was over before it could be killed");
        let copied = ends(&target, "trimmed", PARTITIONS)?[0];
        damage.forget().await?;
        let begins = damage.trim(50).await?;
        damage.compact().await?;

        // In the tail, with records as old as before.
        migration.reconfigure("drain_stable_window: 500ms", "drain_stable_window: 4m")?;
        let writers = topics[..2]
            .iter()
            .map(|topic| Writer::start(&source, topic, PARTITIONS, "tail", old))
            .collect::<Result<Vec<_>>>()?;
        let mut resume = migration.begin("resume")?;
        resume.until(migration.until_journaled(entered("tail"))).await?;
        let before = ends(&target, "old", PARTITIONS)?;
        let more_copied = until(|| {
            let now = ends(&target, "old", PARTITIONS)?;
            Ok(now.iter().zip(&before).all(|(now, before)| *now > before + 50))
        });
        resume.until(more_copied).await?;
        resume.kill().await?;
        let first_gap = gaps(&migration, "trimmed-0")?;
        ensure!(
            first_gap.len() == 1 && first_gap[0].end == begins && first_gap[0].start >= copied - 2,
            "{first_gap:?} where {copied} were copied and the source began at {begins}"
        );
        for writer in writers {
            writer.stop().await?;
        }
        // More than the killed process can have read.
        write(&source, "trimmed", PARTITIONS, "not read", 0..400, old).await?;
        damage.forget().await?;
        let begins = damage.trim(60).await?;
        migration.reconfigure("drain_stable_window: 4m", "drain_stable_window: 500ms")?;
        migration.run("resume").await?.expect_code(0)?;
        let gone = gaps(&migration, "trimmed-0")?;
        ensure!(gone.len() == 2 && gone[1].end == begins, "{gone:?} where the source begins at {begins}");
        ensure!(gaps(&migration, "trimmed-1")?.is_empty(), "nothing that had not been copied was trimmed there");

        // Whoever owned the lane before is refused by the broker, whatever it has forgotten.
        damage.forget().await?;
        let producers = lane_producers(&migration)?;
        ensure!(producers.len() >= 3, "{producers:?}");
        for topic in topics {
            for partition in 0..PARTITIONS {
                let partition = TopicPartition::new(topic, partition);
                for zombie in &producers[..producers.len() - 1] {
                    let sent = send(&damage.wire, &partition, *zombie, 0).await?;
                    ensure!(is_fenced(&sent), "{zombie} wrote to {partition}: {sent:?}");
                }
            }
        }

        // In the cutover.
        let positions =
            |places: &[(&str, i64)]| places.iter().map(|(topic, at)| ((*topic).to_owned(), 0, *at)).collect();
        let groups = [
            ("in-the-seed", positions(&[("old", 333), ("trimmed", 5)])),
            ("in-the-tail", positions(&[("old", 1_010)])),
            ("in-the-first-gap", positions(&[("trimmed", gone[0].start + 1)])),
            ("in-the-second-gap", positions(&[("trimmed", gone[1].end - 1)])),
            (
                "at-the-end",
                positions(&[("old", ends(&source, "old", 1)?[0]), ("trimmed", ends(&source, "trimmed", 1)?[0])]),
            ),
        ];
        for (name, positions) in &groups {
            Group { name: (*name).to_owned(), positions: Vec::clone(positions), metadata: String::new() }
                .commit(&source)?;
        }
        let mut cutover = migration.begin("cutover")?;
        cutover.until(migration.until_journaled(noted("target_boundary"))).await?;
        cutover.kill().await?;
        let status = migration.run("status").await?.expect_code(0)?;
        let told =
            status.stdout.contains("NOBODY DRIVES IT") && status.stdout.contains("producers may stand still since");
        ensure!(told && !status.stdout.contains("carried over"), "{status:?}");
        damage.forget().await?;
        let released = migration.run("resume").await?.expect_code(10)?;
        ensure!(released.stderr.contains("next_command"), "{released:?}");
        let last = pair.webhook.requests().last().map(|request| request["action"].clone());
        ensure!(last == Some("unfreeze".into()), "a resume lets producers go on: {last:?}");
        migration.run("cutover").await?.expect_code(0)?;
        migration.run("cutover-ack").await?.expect_code(0)?;

        let compared = compare(&source, &target, &["old".to_owned()].into()).await?;
        ensure!(compared.differences.is_empty() && compared.records > LARGE.end, "{compared:#?}");
        damage.remember()?;
        for ((topic, partition), history) in &damage.history {
            let name = format!("{topic}-{partition}");
            let held: std::collections::BTreeSet<_> = read(&source, topic, *partition)?.into_iter().collect();
            // What the cleaner took may have been copied before or not.
            let cleaned = |offset| *topic == "compacted" && !held.iter().any(|(at, _)| *at == offset);
            let wrong = difference(history, &gaps(&migration, &name)?, &read(&target, topic, *partition)?, cleaned);
            ensure!(wrong.is_none(), "{name}: {wrong:?}");
        }
        let names: Vec<_> = groups.iter().map(|(name, _)| (*name).to_owned()).collect();
        let resumptions = groups_resume_exactly(&source, &target, &names).await?;
        ensure!(resumptions.len() == 7, "{resumptions:#?}");
        let (history, copied) = (&damage.history[&("trimmed", 0)], read(&target, "trimmed", 0)?);
        for resumption in &resumptions {
            if resumption.topic == "old" {
                ensure!(resumption.problem.is_none(), "{resumption:#?}");
                continue;
            }
            // The source has lost what the group would have read next, after it was copied: the target has it.
            let committed = resumption.source_committed.context("it has a position")?;
            let mut copied_ones = history.iter().filter(|(at, _)| !gone.iter().any(|gap| gap.contains(at)));
            let wanted = copied_ones.find(|(at, _)| *at >= committed).map(|(_, digest)| digest);
            let next = copied.iter().find(|(at, _)| resumption.target_next == Some(*at)).map(|(_, digest)| digest);
            ensure!(wanted == next, "{wanted:?} and {next:?} in {resumption:#?}");
        }
        migration.run("finalize").await?.expect_code(0)?;
        Ok(())
    });
}

fn is_fenced(outcome: &ProduceOutcome) -> bool {
    use krossing_core::KafkaCode;
    matches!(outcome, ProduceOutcome::Refused { code: KafkaCode::INVALID_PRODUCER_EPOCH, .. })
}

// ── Standing still ─────────────────────────────────────────────────────────────────────────────────────────────────

/// Stops a command where it holds no lock of the ledger's files but the one that says who drives: those are held for
/// moments, and a process that stands still in one of them stops everybody.
async fn freeze(command: &Running) -> Result<()> {
    let id = command.id().context("it runs")?;
    loop {
        command.signal("STOP")?;
        // Device, inode and process of each lock: `1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF`.
        let locks = std::fs::read_to_string("/proc/locks")?;
        let held = locks.lines().filter(|line| line.split_whitespace().nth(4) == Some(&id.to_string())).count();
        if held <= 1 {
            return Ok(());
        }
        command.signal("CONT")?;
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
}

/// A worker that stands still in `phase` for longer than its lease, while another takes its lane over.
async fn frozen_in(pair: &Pair, phase: &'static str) -> Result<()> {
    let (source, target) = (pair.source.client(), pair.target.client());
    let topic = format!("frozen-in-{phase}");
    create_topics(&source, &[kept(&topic, PARTITIONS)], 1).await?;
    write(&source, &topic, PARTITIONS, "seed", if phase == "seed" { LARGE } else { 0..1_500 }, None).await?;
    let migration = pair.migration(&topic, &[&topic], SLOW_SEED)?;
    // Nobody journals anything while the second is at it: what the first would journal would be taken for its word.
    migration.reconfigure("drain_stable_window: 500ms", "drain_stable_window: 12s")?;
    let writer = Writer::start(&source, &topic, PARTITIONS, "live", None)?;
    let mut first = migration.begin("execute")?;
    first.until(migration.until_journaled(entered(phase))).await?;
    first.until(until(|| Ok(ends(&target, &topic, PARTITIONS)?.iter().all(|end| *end > 100)))).await?;
    freeze(&first).await?;
    ensure!(!journaled(&migration, entered("drain_ready")), "it had done what it was to be frozen in");
    let zombie = *lane_producers(&migration)?.last().context("it writes")?;

    // On one machine the lock says no, also while its holder stands still.
    let refused = migration.run("resume").await?.expect_code(1)?;
    ensure!(refused.stderr.contains("another command drives this migration"), "{refused:?}");

    // Where there is no such lock, as between two machines, the lease decides.
    std::fs::remove_file(migration.ledger_folder().join("command.lock"))?;
    let before: i64 = ends(&target, &topic, PARTITIONS)?.iter().sum();
    let mut second = migration.begin("resume")?;
    second.until(until(|| Ok(ends(&target, &topic, PARTITIONS)?.iter().sum::<i64>() > before + 200))).await?;
    let wire = wire(pair).await?;
    for partition in 0..PARTITIONS {
        let sent = send(&wire, &TopicPartition::new(&*topic, partition), zombie, 0).await?;
        ensure!(is_fenced(&sent), "the first is refused by the broker: {sent:?}");
    }
    first.signal("CONT")?;
    let first = first.finish().await?.expect_code(1)?;
    ensure!(first.stderr.contains("is owned by"), "{first:?}");
    ensure!(!second.ended()?, "the second goes on");
    writer.stop().await?;
    second.finish().await?.expect_code(0)?;
    ensure!(!journaled(&migration, entered("failed")), "the first had no word in it any more");

    migration.run("cutover").await?.expect_code(0)?;
    let compared = compare(&source, &target, &[topic].into()).await?;
    ensure!(compared.differences.is_empty() && compared.records > 1_500, "{compared:#?}");
    Ok(())
}

/// A process that goes on copying, and holds no lock, stands still while a cutover takes its lanes.
async fn frozen_before_the_cutover(pair: &Pair) -> Result<()> {
    let (source, target) = (pair.source.client(), pair.target.client());
    let topic = "frozen-before";
    create_topics(&source, &[kept(topic, PARTITIONS)], 1).await?;
    write(&source, topic, PARTITIONS, "seed", 0..300, None).await?;
    let migration = pair.migration(topic, &[topic], "")?;
    let mut tailing = migration.start("execute", &["--migration-id", topic, "--keep-tailing"])?;
    tailing.until(migration.until_journaled(entered("drain_ready"))).await?;
    freeze(&tailing).await?;
    write(&source, topic, PARTITIONS, "meanwhile", 0..300, None).await?;
    migration.run("cutover").await?.expect_code(0)?;
    let ends_then = ends(&target, topic, PARTITIONS)?;
    write(&source, topic, PARTITIONS, "left behind", 0..50, None).await?;
    tailing.signal("CONT")?;
    let woken = tailing.finish().await?.expect_code(1)?;
    ensure!(woken.stderr.contains("closed by a cutover") || woken.stderr.contains("is owned by"), "{woken:?}");
    ensure!(ends(&target, topic, PARTITIONS)? == ends_then, "the woken one has written");
    Ok(())
}

// ── Strangers ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// A stranger with a name of its own writes one record; answers where it landed.
async fn intrude(pair: &Pair, partition: &TopicPartition) -> Result<(Producer, i64)> {
    let wire = wire(pair).await?;
    let stranger = wire.open_producer("a stranger").await?;
    match send(&wire, partition, stranger, 0).await? {
        ProduceOutcome::Appended { base_offset } => Ok((stranger, base_offset)),
        other => bail!("{other:?}"),
    }
}

/// The finding names everything, and nothing but fences is written from then on.
async fn found(
    pair: &Pair,
    migration: &Migration,
    said: &str,
    at: &TopicPartition,
    who: Producer,
    offset: i64,
) -> Result<()> {
    for name in ["B45", &at.to_string(), &format!("offset {offset}"), &who.to_string(), "delete the topic's copy"] {
        ensure!(said.contains(name), "{name} is not in: {said}");
    }
    let target = pair.target.client();
    let topic = at.topic.as_str();
    let held =
        || (0..PARTITIONS).map(|partition| Ok(read(&target, topic, partition)?.len())).collect::<Result<Vec<_>>>();
    let before = held()?;
    let again = migration.run("resume").await?.expect_code(1)?;
    ensure!(again.stderr.contains("B45") && again.stderr.contains(&format!("offset {offset}")), "{again:?}");
    ensure!(held()? == before, "records were written behind a stranger's");
    Ok(())
}

/// While it copies.
async fn a_stranger_during_the_copy(pair: &Pair) -> Result<()> {
    let (source, target) = (pair.source.client(), pair.target.client());
    let topic = "stranger-during";
    create_topics(&source, &[kept(topic, PARTITIONS)], 1).await?;
    write(&source, topic, PARTITIONS, "seed", 0..300, None).await?;
    let migration = pair.migration(topic, &[topic], "  seed: {lanes: 1}\n")?;
    migration.reconfigure("drain_stable_window: 500ms", "drain_stable_window: 4m")?;
    let writer = Writer::start(&source, topic, PARTITIONS, "live", None)?;
    let mut execute = migration.begin("execute")?;
    execute.until(until(|| Ok(ends(&target, topic, PARTITIONS)?.iter().all(|end| *end > 200)))).await?;
    let at = TopicPartition::new(topic, 1);
    let (who, offset) = intrude(pair, &at).await?;
    let stopped = execute.finish().await?.expect_code(1)?;
    let behind = read(&target, topic, 1)?.iter().filter(|(behind, _)| *behind > offset).count();
    // At most what was on its way: nothing is appended behind an answer with the wrong offset.
    let on_the_way = 900_000 / 500;
    ensure!(behind < on_the_way, "{behind} records behind the stranger's");
    writer.stop().await?;
    found(pair, &migration, &stopped.stderr, &at, who, offset).await
}

/// While nothing runs.
async fn a_stranger_between_kill_and_resume(pair: &Pair) -> Result<()> {
    let (source, target) = (pair.source.client(), pair.target.client());
    let topic = "stranger-between";
    create_topics(&source, &[kept(topic, PARTITIONS)], 1).await?;
    write(&source, topic, PARTITIONS, "seed", LARGE, None).await?;
    let migration = pair.migration(topic, &[topic], SLOW_SEED)?;
    let mut execute = migration.begin("execute")?;
    execute.until(until(|| Ok(ends(&target, topic, PARTITIONS)?.iter().all(|end| *end > 100)))).await?;
    execute.kill().await?;
    let at = TopicPartition::new(topic, 0);
    let (who, offset) = intrude(pair, &at).await?;
    let stopped = migration.run("resume").await?.expect_code(1)?;
    found(pair, &migration, &stopped.stderr, &at, who, offset).await
}

/// Where nothing arrives: the cutover finds it before any group is committed, and lets producers go on.
async fn a_stranger_where_nothing_arrives(pair: &Pair) -> Result<()> {
    let source = pair.source.client();
    let topic = "stranger-idle";
    create_topics(&source, &[kept(topic, PARTITIONS)], 1).await?;
    write(&source, topic, PARTITIONS, "seed", 0..100, None).await?;
    let migration = pair.migration(topic, &[topic], "  seed: {lanes: 1}\n")?;
    migration.run("execute").await?.expect_code(0)?;
    let at = TopicPartition::new(topic, 0);
    let (who, offset) = intrude(pair, &at).await?;
    let failed = migration.run("cutover").await?.expect_code(1)?;
    let last = migration.journal()?.pop().context("the journal has entries")?;
    ensure!(last["to"] == "drain_ready" && !journaled(&migration, noted("groups_committed")), "{last}");
    for name in ["B45", &at.to_string(), &format!("offset {offset}"), &who.to_string()] {
        ensure!(failed.stderr.contains(name), "{name} is not in: {}", failed.stderr);
    }
    Ok(())
}

#[test]
fn of_two_owners_the_older_writes_nothing_and_a_stranger_is_named() {
    in_lab("owners-two", async |lab| {
        let pair = pair(lab, Version::V4_1).await?;
        tokio::try_join!(
            frozen_in(&pair, "seed"),
            frozen_in(&pair, "tail"),
            frozen_before_the_cutover(&pair),
            a_stranger_during_the_copy(&pair),
            a_stranger_between_kill_and_resume(&pair),
            a_stranger_where_nothing_arrives(&pair),
        )?;
        Ok(())
    });
}
