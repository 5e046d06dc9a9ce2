//! Logs that move under a migration, on either side: each provoked on real brokers, found by its own code, and followed
//! or refused.
//!
//! *Followed*, in one migration, exact in the end: retention ahead of the seed and of the tail (`W40`), a target that
//! loses the end of a log and the whole of one (`W41`), a segment that is damaged meanwhile (`B44`, until it is
//! restored), a transaction that does not end, in the tail and in the cutover (`B43`), partitions and a topic that
//! appear. Around it the target's own retention and cleaner: they are first seen to take an unprotected twin, then not
//! to touch what is held, and at last to take it as planned once the migration is final.
//!
//! *Refused*, each in a migration of its own: a topic made anew (`B40`), records replaced by an unclean election
//! (`B41`), tombstones that were cleaned before they were read (`B42`).

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use krossing_core::records::batch::Batches;
use lab::{
    ClusterSpec, Lab,
    compare::groups_resume_exactly,
    in_lab,
    reading::{Isolation, PartitionReader},
    rehearsal::{Migration, Outcome, Pair},
    workload::{Group, NewRecord, RecordingProducer, TopicSpec, create_topics},
};
use rdkafka::{
    ClientConfig, Message as _,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
};
use serde_json::Value;

use crate::numbered::{Log, TEN_YEARS_MS, difference, ends, kept, now_ms, read, trim, until, write};

/// Slow enough that there is a middle of the seed.
const CAP: &str = ", max_bytes_per_second_per_broker: 512KiB";

/// What every migration here is run with, beside the cap.
fn seed(cap: &str) -> String {
    format!("  seed: {{lanes: 1, max_concurrent_partitions: 1, segment_max_bytes: 1MiB{cap}}}\n")
}

fn entered(state: &str) -> impl Fn(&Value) -> bool {
    let state = state.to_owned();
    move |entry| entry["kind"] == "transition" && entry["to"] == state.as_str()
}

/// The journal's entries of a kind whose reason begins with a code.
fn noted(migration: &Migration, kind: &str, code: &str) -> Result<Vec<Value>> {
    let mut entries = migration.journal()?;
    entries.retain(|entry| {
        entry["kind"] == kind && entry["reason"].as_str().is_some_and(|reason| reason.starts_with(&format!("{code}: ")))
    });
    Ok(entries)
}

/// The offsets that the journal says were gone before they were read.
fn gone(migration: &Migration, topic: &str, partition: i32) -> Result<Vec<Range<i64>>> {
    let entries = noted(migration, "source_gap", "W40")?;
    let here = entries
        .iter()
        .map(|entry| &entry["detail"])
        .filter(|detail| detail["partition"]["topic"] == topic && detail["partition"]["partition"] == partition);
    here.map(|detail| Ok(detail["from"].as_i64().context("from")?..detail["to"].as_i64().context("to")?)).collect()
}

/// That a command has ended with an error whose code and subject are in its last words and in the journal's last entry.
fn refused(migration: &Migration, outcome: Outcome, state: &str, code: &str, subject: &str) -> Result<()> {
    let outcome = outcome.expect_code(1)?;
    let said = outcome.stderr.lines().rfind(|line| line.starts_with("krossing: ")).unwrap_or_default();
    ensure!(
        said.contains(&format!("{code}: ")) && said.contains(subject),
        "{code} of {subject} is not in: {outcome:#?}"
    );
    let last = migration.journal()?.pop().context("an entry")?;
    let reason = last["reason"].as_str().unwrap_or_default();
    let journaled = reason.contains(&format!("{code}: ")) && reason.contains(subject);
    ensure!(last["to"] == state && journaled, "{code} of {subject} is not in {last}");
    eprintln!("  {said}");
    Ok(())
}

/// First and last offset of a partition.
fn bounds(client: &ClientConfig, topic: &str, partition: i32) -> Result<(i64, i64)> {
    tokio::task::block_in_place(|| PartitionReader::shallow(client, Isolation::Committed)?.bounds(topic, partition))
}

/// Starts a transaction and writes `records` to it. It is open until it is aborted.
fn transaction(client: &ClientConfig, topic: &str, id: &str, records: u64) -> Result<RecordingProducer> {
    tokio::task::block_in_place(|| {
        let producer = RecordingProducer::transactional(client, &Default::default(), topic, id)?;
        producer.begin()?;
        for number in 0..records {
            let value = format!("{id}-{number}");
            producer.send(&NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() })?;
        }
        producer.flush()?;
        Ok(producer)
    })
}

/// The files below `folder` whose path has all of `parts`.
fn files(folder: &Path, parts: &[&str]) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if parts.iter().all(|part| path.to_string_lossy().contains(part)) => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// Cuts a log of a stopped broker off where its last data batch begins, or at its very beginning, as a disk does that
/// lost what was not flushed.
fn cut(folder: &Path, whole: bool) -> Result<()> {
    let log = files(folder, &[".log"]).pop().context("the partition has a log")?;
    let mut keep = 0;
    let mut at = 0;
    for batch in Batches::new(Bytes::from(std::fs::read(&log)?)) {
        let batch = batch?;
        if !whole && !batch.header.is_control() {
            keep = at;
        }
        at += batch.bytes.len() as u64;
    }
    ensure!(keep < at && (whole || keep > 0), "nothing to cut off {}", log.display());
    std::fs::OpenOptions::new().write(true).open(&log)?.set_len(keep)?;
    for made_from_it in ["index", "snapshot"] {
        for file in files(folder, &[made_from_it]) {
            std::fs::remove_file(file)?;
        }
    }
    Ok(())
}

// ── Followed ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// The topics of the migration, with their partitions in the end, and how many records of 500 bytes are in each at the
/// beginning.
const FOLLOWED: [(&str, i32, u64); 8] = [
    ("f-expired", 2, 200),
    ("f-table", 1, 600),
    ("f-trimmed", 1, 100),
    ("f-seed", 3, 9_000),
    ("f-cut-off", 1, 100),
    ("f-emptied", 1, 100),
    ("f-open", 1, 10),
    ("f-grows", 1, 60),
];

/// A group whose next records were copied and are gone from the source since.
const BEFORE_THE_GAP: &str = "before-the-gap";

struct Followed {
    pair: Pair,
    migration: Migration,
    /// What each partition has held, as it was before anything was taken from it.
    history: BTreeMap<(&'static str, i32), Log>,
    groups: Vec<String>,
}

impl Followed {
    /// Two clusters; the source's own retention and cleaner stand still: what it loses, the test takes from it.
    async fn prepare(lab: &Lab) -> Result<Self> {
        let quiet = ClusterSpec::default()
            .with("log.retention.check.interval.ms", "86400000")
            .with("log.cleaner.enable", "false");
        let (source, target) =
            tokio::try_join!(lab.zookeeper_cluster(quiet), lab.kraft_cluster(ClusterSpec::default()))?;
        let pair = Pair::new(lab, source, target).await?;
        let (source, target) = (pair.source.client(), pair.target.client());
        let topics = FOLLOWED.map(|(name, partitions, _)| Self::topic(name, partitions));
        create_topics(&source, &topics, 1).await?;
        let twins = [("twin-expired", "f-expired", 2), ("twin-table", "f-table", 1)];
        let as_theirs = |(twin, of, partitions): (&str, &str, i32)| TopicSpec {
            name: str::to_owned(twin),
            ..Self::topic(of, partitions)
        };
        create_topics(&target, &twins.map(as_theirs), 1).await?;
        for (name, partitions, records) in FOLLOWED {
            Self::fill(&source, name, name, partitions, records).await?;
        }
        for (twin, of, partitions) in twins {
            let records = FOLLOWED.iter().find(|(name, ..)| *name == of).map_or(0, |(_, _, records)| *records);
            Self::fill(&target, twin, of, partitions, records).await?;
        }
        let migration = pair.migration("followed", &["f-*"], &seed(CAP))?;
        Ok(Self { pair, migration, history: BTreeMap::new(), groups: Vec::new() })
    }

    fn topic(name: &str, partitions: i32) -> TopicSpec {
        match name {
            // Short, because the fences in the copy's only segment carry the present time.
            "f-expired" => TopicSpec::new(name, partitions).with("retention.ms", "1000"),
            "f-table" => TopicSpec::new(name, partitions)
                .with("cleanup.policy", "compact")
                .with("segment.bytes", "65536")
                .with("min.cleanable.dirty.ratio", "0.01"),
            _ => kept(name, partitions),
        }
    }

    /// Ten-year-old records, a hundred at a time: a batch must fit into a segment.
    async fn fill(client: &ClientConfig, topic: &str, label: &str, partitions: i32, records: u64) -> Result<()> {
        let old = Some(now_ms() - TEN_YEARS_MS);
        for first in (0..records).step_by(100) {
            write(client, topic, partitions, label, first..records.min(first + 100), old).await?;
        }
        Ok(())
    }

    /// Looks at a topic before something is taken from it, or at the end.
    fn remember(&mut self, topic: &'static str, partitions: i32) -> Result<()> {
        for partition in 0..partitions {
            let log = read(&self.pair.source.client(), topic, partition)?;
            self.history.entry((topic, partition)).or_insert(log);
        }
        Ok(())
    }

    fn commit(&mut self, group: &str, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let positions = vec![(topic.to_owned(), partition, offset)];
        let group = Group { name: group.to_owned(), positions, metadata: String::new() };
        self.groups.push(group.name.clone());
        tokio::task::block_in_place(|| group.commit(&self.pair.source.client()))
    }

    /// Killed in the seed; then the source loses what was not read yet.
    async fn retention_overtakes_the_seed(&mut self) -> Result<()> {
        let mut execute = self.migration.begin("execute")?;
        let segments = self.migration.folder.join("segments");
        execute.until(until(|| Ok(!files(&segments, &["f-seed", ".log"]).is_empty()))).await?;
        execute.kill().await?;
        self.remember("f-seed", 3)?;
        for partition in 0..3 {
            let (_, end) = bounds(&self.pair.source.client(), "f-seed", partition)?;
            trim(&self.pair.source.client(), "f-seed", partition, end - 10).await?;
        }
        self.migration = self.pair.migration("followed", &["f-*"], &seed(""))?;
        Ok(())
    }

    /// A transaction holds the tail back; meanwhile partitions and a topic appear, and other partitions go on.
    async fn what_appears_is_copied_while_a_transaction_is_open(&mut self) -> Result<()> {
        let (source, target) = (self.pair.source.client(), self.pair.target.client());
        let open = transaction(&source, "f-open", "lab-forgotten", 200)?;
        let mut resume = self.migration.begin("resume")?;
        resume.until(until(|| Ok(self.migration.journal()?.iter().any(entered("tail"))))).await?;

        create_topics(&source, &[kept("f-appears", 1)], 1).await?;
        write(&source, "f-appears", 1, "f-appears", 0..30, None).await?;
        let admin: AdminClient<DefaultClientContext> = source.create()?;
        for outcome in admin.create_partitions(&[NewPartitions::new("f-grows", 3)], &AdminOptions::new()).await? {
            outcome.map_err(|(topic, code)| anyhow!("growing {topic}: {code}"))?;
        }
        write(&source, "f-grows", 3, "grown", 0..60, None).await?;
        let copied = ends(&target, "f-cut-off", 1)?[0];
        write(&source, "f-cut-off", 1, "tail", 0..50, None).await?;
        let until_copied = until(|| {
            let appeared = ends(&target, "f-appears", 1)?[0] >= 30 && ends(&target, "f-grows", 3)?[2] >= 20;
            Ok(appeared && ends(&target, "f-cut-off", 1)?[0] >= copied + 50)
        });
        resume.until(until_copied).await?;
        // The lane writes down that it waits a moment after it does.
        let mut status = String::new();
        for _ in 0..10 {
            let asked = async {
                status = self.migration.run("status").await?.expect_code(0)?.stdout;
                Ok(())
            };
            resume.until(asked).await?;
            if status.contains("B43: ") {
                break;
            }
        }
        let named = status.lines().find(|line| line.contains("B43: ")).unwrap_or_default();
        let whole = ["f-open-0", "producer id", "from offset 10 on, since"].iter().all(|part| named.contains(part));
        ensure!(whole, "the open transaction is not named: {status}");
        eprintln!("  {named}");
        ensure!(!self.migration.journal()?.iter().any(entered("drain_ready")), "an open transaction holds back");

        tokio::task::block_in_place(|| open.abort())?;
        resume.finish().await?.expect_code(0)?;
        let amendments: Vec<_> = self.migration.journal()?.into_iter().filter(|e| e["kind"] == "amendment").collect();
        let partitions: i64 = amendments.iter().filter_map(|entry| entry["detail"]["partitions"].as_i64()).sum();
        ensure!(partitions == 3, "one new topic and two new partitions became {amendments:#?}");
        let gaps: Vec<_> = (0..3).map(|partition| gone(&self.migration, "f-seed", partition)).collect::<Result<_>>()?;
        ensure!(gaps.iter().flatten().next().is_some(), "the seed was killed too late");
        Ok(())
    }

    /// The target's retention and its cleaner have taken the twins; what is held has all its records.
    async fn only_what_is_held_is_kept(&self) -> Result<()> {
        let target = self.pair.target.client();
        until(|| {
            Ok((0..2).all(|partition| bounds(&target, "twin-expired", partition).is_ok_and(|(start, _)| start > 0)))
        })
        .await?;
        until(|| Ok(read(&target, "twin-table", 0)?.len() < 600)).await?;
        self.held()
    }

    fn held(&self) -> Result<()> {
        for (topic, partitions) in [("f-expired", 2), ("f-table", 1)] {
            for partition in 0..partitions {
                let source = read(&self.pair.source.client(), topic, partition)?;
                let target = read(&self.pair.target.client(), topic, partition)?;
                let wrong = difference(&source, &[], &target, |_| false);
                ensure!(!source.is_empty() && wrong.is_none(), "{topic}-{partition}: {wrong:?}");
            }
        }
        Ok(())
    }

    /// While nothing runs: the source is trimmed ahead, the target loses one log's end and the whole of another, and a
    /// byte of a segment changes.
    async fn both_sides_move_while_nothing_runs(&mut self) -> Result<()> {
        let source = self.pair.source.client();
        write(&source, "f-trimmed", 1, "later", 0..100, None).await?;
        self.remember("f-trimmed", 1)?;
        trim(&source, "f-trimmed", 0, 150).await?;
        self.commit("inside-the-gap", "f-trimmed", 0, 120)?;
        self.commit(BEFORE_THE_GAP, "f-trimmed", 0, 40)?;
        self.commit("in-the-tail", "f-cut-off", 0, 120)?;
        self.commit("in-new-partition", "f-grows", 2, 5)?;
        self.commit("in-new-topic", "f-appears", 0, 7)?;

        self.pair.target.stop_broker(1).await?;
        cut(&self.pair.target.data_folder(1).join("f-cut-off-0"), false)?;
        cut(&self.pair.target.data_folder(1).join("f-emptied-0"), true)?;
        self.pair.target.start_broker(1).await?;

        let segment =
            files(&self.migration.folder.join("segments"), &["f-emptied", ".log"]).pop().context("a segment")?;
        let written = std::fs::read(&segment)?;
        let mut damaged = written.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&segment, damaged)?;
        let outcome = self.migration.run("execute").await?;
        refused(&self.migration, outcome, "failed", "B44", "f-emptied")?;
        let lost = noted(&self.migration, "target_rolled_back", "W41")?;
        ensure!(lost.len() == 2, "two logs had lost records: {lost:#?}");

        std::fs::write(&segment, written)?;
        self.migration.run("resume").await?.expect_code(10)?;
        self.migration.run("execute").await?.expect_code(0)?;
        let gap = gone(&self.migration, "f-trimmed", 0)?;
        ensure!(matches!(&gap[..], [only] if *only == (100..150)), "{gap:?} was journaled");
        Ok(())
    }

    /// A transaction of few records does not keep a cutover from beginning; it ends within its budget, and releases.
    async fn a_cutover_waits_for_a_transaction_within_its_budget(&mut self) -> Result<()> {
        let (before, budget) = ("    drain_timeout: 5m\n", "    drain_timeout: 5m\n    max_producer_freeze: 4s\n");
        self.migration.reconfigure(before, budget)?;
        let open = transaction(&self.pair.source.client(), "f-open", "lab-forgotten", 20)?;
        let outcome = self.migration.run("cutover").await?;
        ensure!(outcome.stderr.contains("producer id"), "{outcome:#?}");
        refused(&self.migration, outcome, "drain_ready", "B43", "f-open-0")?;
        let asked: Vec<_> = self.pair.webhook.requests().iter().map(|request| request["action"].clone()).collect();
        ensure!(asked.first() == Some(&"freeze".into()) && asked.last() == Some(&"unfreeze".into()), "{asked:?}");
        tokio::task::block_in_place(|| open.abort())?;
        self.migration.reconfigure(budget, before)?;
        self.migration.run("cutover").await?.expect_code(0)?;
        Ok(())
    }

    /// Every record once and in order but for the gaps that are journaled, and every group at its own.
    async fn exact(&mut self) -> Result<()> {
        for (topic, partitions) in FOLLOWED.map(|(topic, partitions, _)| (topic, partitions)) {
            self.remember(topic, if topic == "f-grows" { 3 } else { partitions })?;
        }
        self.remember("f-appears", 1)?;
        for ((topic, partition), history) in &self.history {
            let target = read(&self.pair.target.client(), topic, *partition)?;
            let gone = gone(&self.migration, topic, *partition)?;
            let wrong = difference(history, &gone, &target, |_| false);
            ensure!(!target.is_empty() && wrong.is_none(), "{topic}-{partition} without {gone:?}: {wrong:?}");
        }
        let (source, target) = (self.pair.source.client(), self.pair.target.client());
        let resumptions = groups_resume_exactly(&source, &target, &self.groups).await?;
        ensure!(resumptions.len() == self.groups.len(), "{resumptions:#?}");
        for resumption in resumptions {
            if resumption.group == BEFORE_THE_GAP {
                // What it would read next is only on the target by now: its own next record, as if nothing were gone.
                let record =
                    |log: &Log, at| log.iter().find(|(offset, _)| Some(*offset) == at).map(|(_, digest)| *digest);
                let own = record(&self.history[&("f-trimmed", 0)], resumption.source_committed);
                let next = record(&read(&target, "f-trimmed", 0)?, resumption.target_next);
                ensure!(own.is_some() && own == next, "{resumption:#?}");
            } else {
                ensure!(resumption.problem.is_none(), "{resumption:#?}");
            }
        }
        Ok(())
    }

    /// What was held is taken once the topics have the settings they were planned with.
    async fn planned_settings_apply_in_the_end(&self) -> Result<()> {
        self.held()?;
        self.migration.run("finalize").await?.expect_code(0)?;
        let target = self.pair.target.client();
        until(|| Ok((0..2).all(|partition| bounds(&target, "f-expired", partition).is_ok_and(|(start, _)| start > 0))))
            .await?;
        // What an application writes begins a new segment, which leaves the old one to the cleaner.
        write(&target, "f-table", 1, "application", 0..40, None).await?;
        until(|| Ok(read(&target, "f-table", 0)?.len() < 600)).await
    }
}

#[test]
fn what_moves_is_followed_and_the_copy_is_exact_all_the_same() {
    in_lab("followed", async |lab| {
        let mut it = Followed::prepare(lab).await?;
        it.retention_overtakes_the_seed().await?;
        it.what_appears_is_copied_while_a_transaction_is_open().await?;
        it.only_what_is_held_is_kept().await?;
        it.both_sides_move_while_nothing_runs().await?;
        it.a_cutover_waits_for_a_transaction_within_its_budget().await?;
        it.migration.run("cutover-ack").await?.expect_code(0)?;
        it.exact().await?;
        it.planned_settings_apply_in_the_end().await
    });
}

// ── Refused ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn what_cannot_be_copied_exactly_is_refused_by_its_own_code() {
    in_lab("refused", async |lab| {
        // Two brokers, so that one of them can be left behind.
        let two = ClusterSpec { brokers: 2, ..ClusterSpec::default() };
        let (source, target) = tokio::try_join!(lab.zookeeper_cluster(two.clone()), lab.kraft_cluster(two))?;
        let pair = Pair::new(lab, source, target).await?;
        a_topic_made_anew(&pair).await?;
        tombstones_cleaned_before_they_were_read(&pair).await?;
        // The last: a broker is gone afterwards.
        records_replaced_by_an_unclean_election(&pair).await
    });
}

async fn a_topic_made_anew(pair: &Pair) -> Result<()> {
    let source = pair.source.client();
    create_topics(&source, &[kept("anew", 1), kept("anew-not", 1)], 1).await?;
    for topic in ["anew", "anew-not"] {
        write(&source, topic, 1, topic, 0..50, None).await?;
    }
    let migration = pair.migration("anew", &["anew*"], &seed(""))?;
    let mut execute = migration.start("execute", &["--migration-id", "anew", "--keep-tailing"])?;
    execute
        .until(until(|| Ok(migration.journal().is_ok_and(|entries| entries.iter().any(entered("drain_ready"))))))
        .await?;
    let admin: AdminClient<DefaultClientContext> = source.create()?;
    for outcome in admin.delete_topics(&["anew"], &AdminOptions::new()).await? {
        outcome.map_err(|(topic, code)| anyhow!("deleting {topic}: {code}"))?;
    }
    // A controller deletes in its own time, and takes no topic of that name before.
    while create_topics(&source, &[kept("anew", 1)], 1).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    write(&source, "anew", 1, "another topic", 0..80, None).await?;
    refused(&migration, execute.finish().await?, "failed", "B40", "anew-0")?;
    // Nothing of the new topic stands behind the old one's records.
    let copied = read(&pair.target.client(), "anew", 0)?;
    ensure!(copied.len() == 50, "{} records of two topics were copied into one", copied.len());
    // Nor does a later command take the one for the other.
    migration.run("cutover").await?.expect_code(1)?;
    migration.run("resume").await?.expect_code(10)?;
    refused(&migration, migration.run("execute").await?, "failed", "B40", "anew")
}

/// A record for each key; null deletes it.
fn keys(client: &ClientConfig, topic: &str, keys: Range<u64>, value: Option<&[u8]>) -> Result<()> {
    tokio::task::block_in_place(|| {
        let producer = RecordingProducer::new(client, &Default::default(), topic, &[("linger.ms", "5")])?;
        for number in keys {
            let key = format!("key-{number}");
            producer.send(&NewRecord { key: Some(key.as_bytes()), value, ..NewRecord::default() })?;
        }
        producer.settle()
    })
}

async fn tombstones_cleaned_before_they_were_read(pair: &Pair) -> Result<()> {
    let source = pair.source.client();
    let table = TopicSpec::new("table", 1)
        .with("cleanup.policy", "compact")
        .with("delete.retention.ms", "500")
        .with("segment.bytes", "16384")
        .with("min.cleanable.dirty.ratio", "0.01");
    create_topics(&source, &[table], 1).await?;
    keys(&source, "table", 0..100, Some(b"a value"))?;
    let migration = pair.migration("table", &["table"], &seed(""))?;
    migration.run("execute").await?.expect_code(0)?;

    keys(&source, "table", 0..12, None)?;
    let tombstones = || -> Result<u64> {
        tokio::task::block_in_place(|| {
            let reader = PartitionReader::new(&source, Isolation::Committed)?;
            let stream = reader.open_one("table", 0, 0)?;
            let mut found = 0;
            while let Some(record) = stream.next()? {
                found += u64::from(record.payload().is_none());
            }
            Ok(found)
        })
    };
    ensure!(tombstones()? == 12, "the source has the tombstones at first");
    let mut filler = 1_000;
    until(|| {
        // The cleaner looks at what is not in the newest segment, where there is something new.
        keys(&source, "table", filler..filler + 20, Some(&[b'x'; 500]))?;
        filler += 20;
        Ok(tombstones()? == 0)
    })
    .await?;

    // Whatever goes on from here has to find it: the cutover that copies the rest, and the tail.
    refused(&migration, migration.run("cutover").await?, "drain_ready", "B42", "12 keys of table-0")?;
    ensure!(pair.webhook.requests().is_empty(), "producers need not stand still for that");
    refused(&migration, migration.run("execute").await?, "failed", "B42", "12 keys of table-0")
}

async fn records_replaced_by_an_unclean_election(pair: &Pair) -> Result<()> {
    let source = pair.source.client();
    let spec = kept("replaced", 1).with("unclean.leader.election.enable", "true");
    create_topics(&source, &[spec], 2).await?;
    write(&source, "replaced", 1, "both", 0..50, None).await?;
    let migration = pair.migration("replaced", &["replaced"], &seed(""))?;
    migration.run("execute").await?.expect_code(0)?;

    let leader = tokio::task::block_in_place(|| -> Result<i32> {
        let consumer: BaseConsumer = source.create()?;
        let metadata = consumer.fetch_metadata(Some("replaced"), Duration::from_secs(30))?;
        Ok(metadata.topics()[0].partitions()[0].leader())
    })?;
    let (leader, follower) = (usize::try_from(leader)?, if leader == 1 { 2 } else { 1 });
    pair.source.stop_broker(follower).await?;
    write(&source, "replaced", 1, "one", 0..50, None).await?;
    migration.run("execute").await?.expect_code(0)?;
    ensure!(read(&pair.target.client(), "replaced", 0)?.len() == 100, "what the leader had alone is copied");

    pair.source.kill_broker(leader)?;
    pair.source.start_broker(follower).await?;
    until(|| Ok(bounds(&source, "replaced", 0).is_ok_and(|(_, end)| end == 50))).await?;
    write(&source, "replaced", 1, "other", 0..70, None).await?;
    let outcome = migration.run("execute").await?;
    refused(&migration, outcome, "failed", "B41", "source offsets 50 to 100 of replaced-0")
}
