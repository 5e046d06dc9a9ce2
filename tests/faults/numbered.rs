//! Small topics whose records say which they are, and what a copy of such a log must look like.
//!
//! No two records are alike, so that a record that is missing, stands twice or stands elsewhere shows. A log is read
//! with its offsets *before* it is damaged: that history, without what the journal says was gone, is what the target
//! must hold.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use lab::{
    reading::{Isolation, PartitionReader, digest},
    workload::{NewRecord, RecordingProducer, TopicSpec},
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Ten years, in milliseconds: far beyond what a broker remembers a producer for.
pub(crate) const TEN_YEARS_MS: i64 = 315_360_000_000;

/// Now, in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970");
    i64::try_from(now.as_millis()).expect("milliseconds since 1970 fit")
}

/// A topic that keeps what is written to it, whatever its timestamps.
pub(crate) fn kept(name: &str, partitions: i32) -> TopicSpec {
    TopicSpec::new(name, partitions).with("retention.ms", "-1")
}

/// Records of one partition, by offset.
pub(crate) type Log = Vec<(i64, u64)>;

/// Every committed record of a partition.
pub(crate) fn read(client: &ClientConfig, topic: &str, partition: i32) -> Result<Log> {
    tokio::task::block_in_place(|| {
        let reader = PartitionReader::new(client, Isolation::Committed)?;
        let stream = reader.open_one(topic, partition, 0)?;
        let mut log = Vec::new();
        while let Some(record) = stream.next()? {
            log.push((record.offset(), digest(&record)));
        }
        Ok(log)
    })
}

/// The ends of a topic's partitions; of one that is not there, 0.
pub(crate) fn ends(client: &ClientConfig, topic: &str, partitions: i32) -> Result<Vec<i64>> {
    tokio::task::block_in_place(|| {
        let reader = PartitionReader::shallow(client, Isolation::Committed)?;
        Ok((0..partitions).map(|partition| reader.bounds(topic, partition).map_or(0, |(_, end)| end)).collect())
    })
}

/// What is wrong with `target` as a copy of a log that once held `history`: every record once, in order, but for those
/// in `gone`, of which there must be none, and those that `may_miss`, which the source may have lost before they were
/// read.
pub(crate) fn difference(
    history: &Log,
    gone: &[Range<i64>],
    target: &Log,
    may_miss: impl Fn(i64) -> bool,
) -> Option<String> {
    let mut expected = history.iter().filter(|(offset, _)| !gone.iter().any(|range| range.contains(offset)));
    for (at, found) in target {
        loop {
            match expected.next() {
                Some((_, wanted)) if wanted == found => break,
                Some((offset, _)) if may_miss(*offset) => {}
                Some((offset, _)) => {
                    let known = history.iter().find(|(_, digest)| digest == found).map(|(offset, _)| offset);
                    return Some(format!(
                        "target offset {at} holds the record of source offset {known:?} where {offset} was expected"
                    ));
                }
                None => return Some(format!("target offset {at} holds a record too many")),
            }
        }
    }
    let left = expected.find(|(offset, _)| !may_miss(*offset));
    left.map(|(offset, _)| format!("the record of source offset {offset} is missing"))
}

/// Writes records `numbers` to every partition in turn. Their values begin with `label`; no other call may use the same.
pub(crate) async fn write(
    client: &ClientConfig,
    topic: &str,
    partitions: i32,
    label: &str,
    numbers: Range<u64>,
    timestamp_ms: Option<i64>,
) -> Result<()> {
    let producer = RecordingProducer::new(client, &Arc::default(), topic, &[("linger.ms", "5")])?;
    tokio::task::block_in_place(|| {
        for number in numbers {
            send(&producer, partitions, label, number, timestamp_ms)?;
        }
        producer.settle()
    })
}

/// About 500 bytes each; keys repeat, for topics that are compacted.
fn send(
    producer: &RecordingProducer,
    partitions: i32,
    label: &str,
    number: u64,
    timestamp_ms: Option<i64>,
) -> Result<()> {
    let (key, value) = (format!("key-{}", number % 40), format!("{label}-{number}-{:0450}", number * 7_919));
    producer.send(&NewRecord {
        partition: i32::try_from(number % u64::try_from(partitions)?)?,
        key: Some(key.as_bytes()),
        value: Some(value.as_bytes()),
        // Rising, as those of a producer with a clock.
        timestamp_ms: timestamp_ms.map(|timestamp| timestamp + i64::try_from(number).unwrap_or(0)),
        ..NewRecord::default()
    })
}

/// Goes on writing to a topic until it is stopped.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Writer {
    /// Starts it: a few hundred records a second.
    pub(crate) fn start(
        client: &ClientConfig,
        topic: &str,
        partitions: i32,
        label: &str,
        timestamp_ms: Option<i64>,
    ) -> Result<Self> {
        let producer = RecordingProducer::new(client, &Arc::default(), topic, &[("linger.ms", "5")])?;
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (label, stopped, counted) = (label.to_owned(), stop.clone(), written.clone());
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                send(&producer, partitions, &label, number, timestamp_ms)?;
                counted.store(number + 1, Ordering::Relaxed);
                // The pace.
                std::thread::sleep(Duration::from_millis(3));
            }
            producer.settle()
        });
        Ok(Self { stop, written, thread: Some(thread) })
    }

    /// How many records it has handed over.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Returns when everything it wrote was acknowledged.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is stopped once")?;
        tokio::task::spawn_blocking(move || thread.join().map_err(|_| anyhow!("the writer panicked"))?).await?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Waits until `reached`.
pub(crate) async fn until(mut reached: impl FnMut() -> Result<bool>) -> Result<()> {
    while !reached()? {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Deletes a partition's records below an offset, as an application or an operator may.
pub(crate) async fn trim(client: &ClientConfig, topic: &str, partition: i32, before: i64) -> Result<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(before))?;
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    for element in admin.delete_records(&list, &AdminOptions::new()).await?.elements() {
        element.error()?;
    }
    Ok(())
}

/// Replaces a topic's own settings.
pub(crate) async fn set_topic(client: &ClientConfig, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic));
    let change = settings.iter().fold(change, |change, (name, value)| change.set(name, value));
    for outcome in admin.alter_configs([&change], &AdminOptions::new()).await? {
        outcome.map_err(|(topic, code)| anyhow!("setting {topic:?}: {code}"))?;
    }
    Ok(())
}

#[test]
fn a_copy_that_is_not_exact_is_told_from_one_that_is() {
    let history: Log = (0..6).map(|offset| (offset, 100 + offset as u64)).collect();
    let copy = |records: &[u64]| records.iter().enumerate().map(|(at, record)| (at as i64, *record)).collect::<Log>();
    let check = |gone: &[Range<i64>], target: &[u64], exact: bool| {
        let found = difference(&history, gone, &copy(target), |_| false);
        assert_eq!(found.is_none(), exact, "{gone:?} {target:?}: {found:?}");
    };
    check(&[], &[100, 101, 102, 103, 104, 105], true);
    check(&[1..3], &[100, 103, 104, 105], true);
    check(&[], &[100, 101, 103, 104, 105], false);
    check(&[], &[100, 101, 101, 102, 103, 104, 105], false);
    check(&[], &[100, 102, 101, 103, 104, 105], false);
    check(&[], &[100, 101, 102, 103, 104], false);
    check(&[], &[100, 101, 102, 103, 104, 105, 106], false);
    check(&[1..3], &[100, 101, 103, 104, 105], false);
    assert!(difference(&history, &[], &copy(&[100, 102, 105]), |offset| [1, 3, 4].contains(&offset)).is_none());
}
