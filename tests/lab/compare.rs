//! The independent comparison: every committed record of every partition, read from both clusters by librdkafka and
//! compared one by one: key, value, headers in order, timestamp. Offsets may differ; order and number may not.
//!
//! And whether every group resumes at the record it would have read next. Both hold no more than a few megabytes for
//! each of a handful of threads, whatever the data.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use crate::reading::{ANSWER_MAX, Isolation, PartitionReader, difference, digest, partitions};

/// Partitions read at the same time: each takes a thread and a connection to each cluster.
const READERS: usize = 3;

/// How many records from its position on are compared for a group: one would do, if no two records were equal.
const RESUMED_RECORDS: usize = 5;

/// What a comparison has found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Partitions read.
    pub partitions: usize,
    /// Records that were equal.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// The first difference of each partition that has one.
    pub differences: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Compares topics of two clusters, record by record.
pub async fn compare(source: &ClientConfig, target: &ClientConfig, topics: &BTreeSet<String>) -> Result<Comparison> {
    let (source, target, topics) = (source.clone(), target.clone(), topics.clone());
    tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        let (at_source, at_target) = (partitions(&source)?, partitions(&target)?);
        let mut comparison = Comparison::default();
        let mut work = Vec::new();
        for topic in &topics {
            let (there, here) = (at_source.get(topic).copied().unwrap_or(0), at_target.get(topic).copied().unwrap_or(0));
            if there != here || there == 0 {
                comparison.differences.push(format!("{topic}: {there} partitions on the source, {here} on the target"));
            }
            work.extend((0..there.min(here)).map(|partition| (topic.clone(), partition)));
        }
        comparison.partitions = work.len();
        let (records, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let readers = || {
            let source = PartitionReader::new(&source, Isolation::Committed)?;
            Ok((source, PartitionReader::new(&target, Isolation::Committed)?))
        };
        let found = for_each(work, readers, |(source, target), (topic, partition)| {
            compare_partition(source, target, topic, *partition, &records, &bytes)
                .with_context(|| format!("comparing {topic}-{partition}"))
        })?;
        comparison.differences.extend(found.into_iter().flatten());
        comparison.records = records.into_inner();
        comparison.bytes = bytes.into_inner();
        comparison.took = begun.elapsed();
        Ok(comparison)
    })
    .await?
}

fn compare_partition(
    source: &PartitionReader,
    target: &PartitionReader,
    topic: &str,
    partition: i32,
    records: &AtomicU64,
    bytes: &AtomicU64,
) -> Result<Option<String>> {
    source.turn_to(topic, partition, 0)?;
    target.turn_to(topic, partition, 0)?;
    for number in 0_u64.. {
        let what = match (source.next()?, target.next()?) {
            (None, None) => return Ok(None),
            (Some(left), None) => format!("the target ends, the source has offset {}", left.offset()),
            (None, Some(right)) => format!("the source ends, the target has offset {}", right.offset()),
            (Some(left), Some(right)) => match difference(&left, &right) {
                Some(what) => format!("source offset {}, target offset {}: {what}", left.offset(), right.offset()),
                None => {
                    records.fetch_add(1, Ordering::Relaxed);
                    bytes.fetch_add((left.key_len() + left.payload_len()) as u64, Ordering::Relaxed);
                    continue;
                }
            },
        };
        return Ok(Some(format!("{topic}-{partition}, record {number}: {what}")));
    }
    unreachable!("2^64 records")
}

/// Where one group resumes in one partition, on either side.
#[derive(Debug, Clone)]
pub struct Resumption {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// What it has committed on the source.
    pub source_committed: Option<i64>,
    /// What is committed on the target.
    pub target_committed: Option<i64>,
    /// The offset of the next record it would read on the source; none at the end.
    pub source_next: Option<i64>,
    /// The same on the target.
    pub target_next: Option<i64>,
    /// What is wrong; none where the next records are the same.
    pub problem: Option<String>,
}

/// For each partition that a group has a position in, on either side: the records it would read next, on both.
pub async fn groups_resume_exactly(
    source: &ClientConfig,
    target: &ClientConfig,
    groups: &[String],
) -> Result<Vec<Resumption>> {
    let (source, target, groups) = (source.clone(), target.clone(), groups.to_vec());
    tokio::task::spawn_blocking(move || {
        let topics = partitions(&source)?;
        let positions = || Ok(());
        let committed = for_each(groups, positions, |(), group| {
            Ok((group.clone(), committed(&source, group, &topics)?, committed(&target, group, &topics)?))
        })?;
        let mut work = Vec::new();
        for (group, at_source, at_target) in committed {
            let all: BTreeSet<_> = at_source.keys().chain(at_target.keys()).cloned().collect();
            work.extend(all.into_iter().map(|at| (group.clone(), at_source.get(&at).cloned(), at_target.get(&at).cloned(), at)));
        }
        let readers = || {
            let source = PartitionReader::new(&source, Isolation::Committed)?;
            Ok((source, PartitionReader::new(&target, Isolation::Committed)?))
        };
        for_each(work, readers, |(source, target), (group, at_source, at_target, (topic, partition))| {
            let next = |reader: &PartitionReader, position: &Option<(i64, String)>| match position {
                Some((offset, _)) => next_records(reader, topic, *partition, *offset),
                None => Ok(Vec::new()),
            };
            let (left, right) = (next(source, at_source)?, next(target, at_target)?);
            let digests = |records: &[(i64, u64)]| records.iter().map(|&(_, digest)| digest).collect::<Vec<_>>();
            let problem = match (at_source, at_target) {
                (Some(_), None) => Some("it has a position on the source alone".to_owned()),
                (None, _) => Some("it has a position on the target alone".to_owned()),
                (Some((_, left)), Some((_, right))) if left != right => {
                    Some(format!("its metadata differ: {left:?} and {right:?}"))
                }
                (Some(_), Some((offset, _))) if *offset > target.bounds(topic, *partition)?.1 => {
                    Some("its position is beyond the target's end".to_owned())
                }
                _ if digests(&left) != digests(&right) => Some("the next records differ".to_owned()),
                _ => None,
            };
            Ok(Resumption {
                group: group.clone(),
                topic: topic.clone(),
                partition: *partition,
                source_committed: at_source.as_ref().map(|(offset, _)| *offset),
                target_committed: at_target.as_ref().map(|(offset, _)| *offset),
                source_next: left.first().map(|&(offset, _)| offset),
                target_next: right.first().map(|&(offset, _)| offset),
                problem,
            })
        })
    })
    .await?
}

/// Offset and digest of the records that follow an offset.
fn next_records(reader: &PartitionReader, topic: &str, partition: i32, from: i64) -> Result<Vec<(i64, u64)>> {
    // An offset beyond the end would be answered by a reset to the beginning: what the application would suffer, but
    // for a group at the end it is the end that is meant.
    let (_, end) = reader.bounds(topic, partition)?;
    let mut next = Vec::new();
    if from >= end {
        return Ok(next);
    }
    reader.turn_to(topic, partition, from)?;
    while next.len() < RESUMED_RECORDS {
        let Some(record) = reader.next()? else { break };
        next.push((record.offset(), digest(&record)));
    }
    Ok(next)
}

/// A group's positions, with the metadata beside them.
pub fn committed(
    client: &ClientConfig,
    group: &str,
    topics: &BTreeMap<String, i32>,
) -> Result<HashMap<(String, i32), (i64, String)>> {
    let consumer: BaseConsumer = client.clone().set("group.id", group).set("enable.auto.commit", "false").create()?;
    let mut asked = TopicPartitionList::new();
    for (topic, &count) in topics {
        for partition in 0..count {
            asked.add_partition(topic, partition);
        }
    }
    let answer = consumer.committed_offsets(asked, ANSWER_MAX).with_context(|| format!("positions of {group}"))?;
    let mut positions = HashMap::new();
    for element in answer.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            positions.insert((element.topic().to_owned(), element.partition()), (offset, element.metadata().to_owned()));
        }
    }
    Ok(positions)
}

/// Does `work` in a few threads, each with tools of its own, and answers the results in the order of the work.
pub(crate) fn for_each<W: Sync, T, R: Send>(
    work: Vec<W>,
    tools: impl Fn() -> Result<T> + Sync,
    act: impl Fn(&T, &W) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let queue = Mutex::new(work.iter().enumerate());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..READERS.min(work.len()))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let tools = tools()?;
                    loop {
                        let next = queue.lock().expect("no panic while held").next();
                        let Some((number, item)) = next else { return Ok(()) };
                        let result = act(&tools, item)?;
                        done.lock().expect("no panic while held").push((number, result));
                    }
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a reading thread panicked"))
    })?;
    let mut done = done.into_inner().expect("no panic while held");
    done.sort_by_key(|&(number, _)| number);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
