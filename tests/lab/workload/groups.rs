//! Consumer groups in every awkward place, and some that go on consuming.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::topics;
use crate::{
    compare::for_each,
    process::POLL,
    reading::{Isolation, PartitionReader},
};

/// How long a live group may take to get its partitions and its first record.
const JOIN_WAIT_MAX: Duration = Duration::from_secs(180);

/// One group's positions.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its id.
    pub name: String,
    /// Topic, partition, committed offset.
    pub positions: Vec<(String, i32, i64)>,
    /// What is stored beside each.
    pub metadata: String,
}

/// The groups of a workload.
pub struct Groups {
    /// Those that have committed and left.
    pub committed: Vec<Group>,
    /// Those that go on.
    pub live: Vec<LiveGroup>,
}

impl Groups {
    /// Commits the positions of 27 groups and starts three that go on consuming. The load must be complete.
    pub async fn start(client: &ClientConfig) -> Result<Self> {
        let client = client.clone();
        tokio::task::spawn_blocking(move || {
            let committed = Places::find(&client)?.groups();
            let none = || Ok(());
            for_each(committed.iter().collect(), none, |(), group| group.commit(&client))?;
            let topics = [
                ("live-on-live-plain", "live-plain"),
                ("live-on-transactions", "live-transactions"),
                ("live-on-bulk", "bulk"),
            ];
            let live = topics.map(|(group, topic)| LiveGroup::start(&client, group, &[topic]));
            Ok(Self { committed, live: live.into_iter().collect::<Result<_>>()? })
        })
        .await?
    }

    /// The ids of all.
    pub fn names(&self) -> Vec<String> {
        let live = self.live.iter().map(|group| group.name.clone());
        self.committed.iter().map(|group| group.name.clone()).chain(live).collect()
    }

    /// Stops the live ones; each commits where it has come to and leaves.
    pub async fn stop_live(&mut self) -> Result<()> {
        for group in &mut self.live {
            group.stop().await?;
        }
        Ok(())
    }
}

impl Group {
    /// Commits, as a consumer that assigns itself partitions does.
    pub fn commit(&self, client: &ClientConfig) -> Result<()> {
        let consumer: BaseConsumer =
            client.clone().set("group.id", &self.name).set("enable.auto.commit", "false").create()?;
        let mut list = TopicPartitionList::new();
        for (topic, partition, offset) in &self.positions {
            let mut element = list.add_partition(topic, *partition);
            element.set_offset(Offset::Offset(*offset))?;
            element.set_metadata(&self.metadata);
        }
        consumer.commit(&list, CommitMode::Sync).with_context(|| format!("committing for {}", self.name))
    }
}

/// Offsets in one partition at which nothing visible begins.
struct Hidden {
    start: i64,
    end: i64,
    /// Every visible record.
    committed: Vec<i64>,
    /// Records of aborted transactions.
    aborted: Vec<i64>,
    /// Offsets without any record: markers, or what the cleaner took.
    without: Vec<i64>,
}

impl Hidden {
    fn look(client: &ClientConfig, topic: &str, partition: i32) -> Result<Self> {
        let offsets = |isolation| -> Result<(Vec<i64>, (i64, i64))> {
            let reader = PartitionReader::new(client, isolation)?;
            let stream = reader.open_one(topic, partition, 0)?;
            let mut offsets = Vec::new();
            while let Some(record) = stream.next()? {
                offsets.push(record.offset());
            }
            Ok((offsets, reader.bounds(topic, partition)?))
        };
        let (committed, (start, end)) = offsets(Isolation::Committed)?;
        let (all, _) = offsets(Isolation::Uncommitted)?;
        let aborted = all.iter().copied().filter(|offset| committed.binary_search(offset).is_err()).collect();
        let without = (start..end).filter(|offset| all.binary_search(offset).is_err()).collect();
        Ok(Self { start, end, committed, aborted, without })
    }
}

/// Where the awkward places are.
struct Places {
    bounds: BTreeMap<(String, i32), (i64, i64)>,
    transactions: Hidden,
    compacted: Hidden,
    compacted_transactions: Hidden,
}

impl Places {
    fn find(client: &ClientConfig) -> Result<Self> {
        let reader = PartitionReader::shallow(client, Isolation::Committed)?;
        let mut bounds = BTreeMap::new();
        for topic in topics::all() {
            for partition in 0..topic.partitions {
                bounds.insert((topic.name.clone(), partition), reader.bounds(&topic.name, partition)?);
            }
        }
        let places = Self {
            bounds,
            transactions: Hidden::look(client, "transactions", 0)?,
            compacted: Hidden::look(client, "compacted", 0)?,
            compacted_transactions: Hidden::look(client, "compacted-transactions", 0)?,
        };
        let transactions = &places.transactions;
        ensure!(!transactions.aborted.is_empty() && !transactions.without.is_empty(), "transactions hides nothing");
        // The cleaner takes aborted records, too: what it leaves of them here are gaps.
        ensure!(places.compacted_transactions.without.len() > 100, "compacted-transactions has no gaps");
        ensure!(places.compacted.without.len() > 100, "compacted has no gaps");
        Ok(places)
    }

    fn at(&self, topic: &str, part: i64, of: i64) -> Vec<(String, i32, i64)> {
        let of_topic = self.bounds.iter().filter(|((name, _), _)| name == topic);
        of_topic
            .map(|((_, partition), (first, end))| (topic.to_owned(), *partition, first + (end - first) * part / of))
            .collect()
    }

    fn groups(&self) -> Vec<Group> {
        let long = topics::long_name('b');
        let mut groups: Vec<(&str, Vec<_>)> = vec![
            ("at-the-start", self.at("bulk", 0, 1)),
            ("at-the-start-of-transactions", self.at("transactions", 0, 1)),
            ("at-the-start-of-everything", self.bounds.keys().flat_map(|(topic, _)| self.at(topic, 0, 1)).collect()),
            ("at-the-end", self.at("dense-lz4", 1, 1)),
            ("at-the-end-of-transactions", self.at("transactions", 1, 1)),
            ("at-the-end-of-compacted", self.at("compacted", 1, 1)),
            ("at-the-end-of-nothing", self.at("empty", 1, 1)),
            ("in-the-middle-of-bulk", self.at("bulk", 1, 2)),
            ("in-the-middle-of-lz4", self.at("dense-lz4", 2, 3)),
            ("in-the-middle-of-single-batches", self.at("one-record-batches", 1, 3)),
            ("in-the-middle-of-old-and-future", self.at("old-and-future", 1, 2)),
            ("in-the-middle-of-log-append-time", self.at("log-append-time", 1, 2)),
            ("in-large-records", [self.at("records-900k", 1, 2), self.at("records-3m", 1, 2)].concat()),
            (
                "in-every-codec",
                ["none", "gzip", "snappy", "lz4", "zstd"]
                    .iter()
                    .flat_map(|codec| self.at(&format!("codec-{codec}"), 3, 7))
                    .collect(),
            ),
            ("in-a-hundred-partitions", self.at("hundred-partitions", 2, 5)),
            ("in-long-names", self.at(&long, 1, 2)),
            ("before-the-log-start", vec![("deleted-head".to_owned(), 0, 0), ("deleted-head".to_owned(), 1, 3)]),
            ("at-the-log-start", self.at("deleted-head", 0, 1)),
            (
                "partly-committed",
                self.at("bulk", 1, 4)
                    .into_iter()
                    .take(1)
                    .chain(self.at("transactions", 1, 3).into_iter().skip(2))
                    .collect(),
            ),
        ];
        let one = |topic: &str, offset| vec![(topic.to_owned(), 0, offset)];
        let (middle, last) = (|of: &[i64]| of[of.len() / 2], |of: &[i64]| of[of.len() - 1]);
        groups.extend([
            ("on-a-marker", one("transactions", middle(&self.transactions.without))),
            ("on-the-last-marker", one("transactions", last(&self.transactions.without))),
            ("inside-aborted-records", one("transactions", middle(&self.transactions.aborted))),
            ("on-the-last-aborted-record", one("transactions", last(&self.transactions.aborted))),
            ("in-a-compaction-gap", one("compacted", middle(&self.compacted.without))),
            ("in-the-first-compaction-gap", one("compacted", self.compacted.without[0])),
            (
                "in-a-gap-under-transactions",
                one("compacted-transactions", middle(&self.compacted_transactions.without)),
            ),
        ]);
        let mut groups: Vec<_> = groups
            .into_iter()
            .map(|(name, positions)| Group { name: name.to_owned(), positions, metadata: String::new() })
            .collect();
        groups.push(Group {
            name: "with-metadata".to_owned(),
            positions: one("transactions", middle(&self.transactions.committed)),
            metadata: "{\"app\":\"checkpoint 7\",\"ü\":1}".to_owned(),
        });
        // What is said of a partition's beginning must be true of the one that lost it.
        assert!(
            self.transactions.start == 0
                && self.transactions.end > 0
                && self.bounds[&("deleted-head".to_owned(), 0)].0 > 0
        );
        groups
    }
}

/// A member that consumes at a gentle pace and commits several times a second.
pub struct LiveGroup {
    /// Its id.
    pub name: String,
    stop: Arc<AtomicBool>,
    consumed: Arc<AtomicU64>,
    member: Option<JoinHandle<Result<()>>>,
}

impl LiveGroup {
    /// Starts a member of `group` on some topics; from their beginning where it has no position.
    pub fn start(client: &ClientConfig, group: &str, topics: &[&str]) -> Result<Self> {
        let mut config = client.clone();
        config.set("group.id", group).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        config.set("isolation.level", "read_committed").set("session.timeout.ms", "10000");
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(topics)?;
        let (stop, consumed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let member = {
            let (stop, consumed) = (stop.clone(), consumed.clone());
            std::thread::spawn(move || consume(&consumer, &stop, &consumed))
        };
        Ok(Self { name: group.to_owned(), stop, consumed, member: Some(member) })
    }

    /// How many records it has consumed.
    pub fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// Waits until it has consumed `more` records than now.
    pub async fn until_consumed(&self, more: u64) -> Result<()> {
        let goal = self.consumed() + more;
        let reached = async {
            while self.consumed() < goal {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(JOIN_WAIT_MAX, reached).await.with_context(|| format!("{} does not consume", self.name))
    }

    /// Has it commit where it has come to, and leave. Harmless when repeated.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(member) = self.member.take() else { return Ok(()) };
        tokio::task::spawn_blocking(move || member.join().map_err(|_| anyhow!("a live member panicked"))?).await?
    }
}

impl Drop for LiveGroup {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn consume(consumer: &BaseConsumer, stop: &AtomicBool, consumed: &AtomicU64) -> Result<()> {
    let mut since_commit = 0;
    while !stop.load(Ordering::Relaxed) {
        match consumer.poll(Duration::from_millis(100)) {
            // Errors pass or show as a group that does not consume; brokers come and go in these tests.
            None | Some(Err(_)) => {}
            Some(Ok(message)) => {
                _ = message.offset();
                since_commit += 1;
                consumed.fetch_add(1, Ordering::Relaxed);
                // The pace: 500 records a second at most, so that it stays inside its topic for as long as a test runs.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if since_commit >= 100 {
            // A rebalance or a restarting coordinator may refuse one; the next one says it again.
            _ = consumer.commit_consumer_state(CommitMode::Async);
            since_commit = 0;
        }
    }
    if since_commit > 0 {
        match consumer.commit_consumer_state(CommitMode::Sync) {
            // A rebalance came first, with which its partitions went and its positions were committed.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            committed => committed.context("the last commit of a live member")?,
        }
    }
    Ok(())
}
