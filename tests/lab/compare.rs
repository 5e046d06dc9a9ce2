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

use crate::reading::{
    ANSWER_MAX, Isolation, PartitionReader, Position, Stream, difference, digest, handfuls, partitions,
};

/// Threads that read at the same time, each with a connection to every broker.
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
            let (there, here) =
                (at_source.get(topic).copied().unwrap_or(0), at_target.get(topic).copied().unwrap_or(0));
            if there != here || there == 0 {
                comparison.differences.push(format!("{topic}: {there} partitions on the source, {here} on the target"));
            }
            work.extend((0..there.min(here)).map(|partition| (topic.clone(), partition, 0)));
        }
        comparison.partitions = work.len();
        let (records, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let readers = || {
            let source = PartitionReader::new(&source, Isolation::Committed)?;
            Ok((source, PartitionReader::new(&target, Isolation::Committed)?))
        };
        let work = handfuls(work, |(topic, partition, _)| (topic, *partition));
        let found = for_each(work, readers, |(source, target), positions: &Vec<Position>| {
            let pairs = source.open(positions)?.into_iter().zip(target.open(positions)?);
            pairs
                .map(|(source, target)| compare_partition(&source, &target, &records, &bytes))
                .collect::<Result<Vec<_>>>()
        })?;
        comparison.differences.extend(found.into_iter().flatten().flatten());
        comparison.records = records.into_inner();
        comparison.bytes = bytes.into_inner();
        comparison.took = begun.elapsed();
        Ok(comparison)
    })
    .await?
}

fn compare_partition(
    source: &Stream,
    target: &Stream,
    records: &AtomicU64,
    bytes: &AtomicU64,
) -> Result<Option<String>> {
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
        return Ok(Some(format!("{}, record {number}: {what}", source.name())));
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
        let none = || Ok(());
        let committed = for_each(groups, none, |(), group| {
            Ok((group.clone(), committed(&source, group, &topics)?, committed(&target, group, &topics)?))
        })?;
        let wanted = |side: fn(&(String, Positions, Positions)) -> &Positions| -> BTreeSet<Position> {
            let positions = committed.iter().flat_map(side);
            positions.map(|((topic, partition), (offset, _))| (topic.clone(), *partition, *offset)).collect()
        };
        let at_source = next_records(&source, wanted(|(_, source, _)| source))?;
        let at_target = next_records(&target, wanted(|(_, _, target)| target))?;
        let mut resumptions = Vec::new();
        for (group, source, target) in &committed {
            let all: BTreeSet<_> = source.keys().chain(target.keys()).collect();
            for at in all {
                let next = |positions: &Positions, records: &NextRecords| {
                    let (offset, _) = positions.get(at)?;
                    records.get(&(at.0.clone(), at.1, *offset)).cloned()
                };
                let (left, right) = (next(source, &at_source), next(target, &at_target));
                resumptions.push(Resumption {
                    group: group.clone(),
                    topic: at.0.clone(),
                    partition: at.1,
                    source_committed: source.get(at).map(|(offset, _)| *offset),
                    target_committed: target.get(at).map(|(offset, _)| *offset),
                    source_next: left.as_ref().and_then(|next| next.first_offset),
                    target_next: right.as_ref().and_then(|next| next.first_offset),
                    problem: problem(source.get(at).zip(left), target.get(at).zip(right)),
                });
            }
        }
        Ok(resumptions)
    })
    .await?
}

/// Topic and partition, to offset and metadata.
pub type Positions = BTreeMap<(String, i32), (i64, String)>;

type NextRecords = HashMap<Position, Next>;

/// What follows an offset.
#[derive(Clone)]
struct Next {
    first_offset: Option<i64>,
    digests: Vec<u64>,
    /// Whether the offset is beyond the end of the log.
    beyond: bool,
}

fn problem(source: Option<(&(i64, String), Next)>, target: Option<(&(i64, String), Next)>) -> Option<String> {
    match (source, target) {
        (_, None) => Some("it has a position on the source alone".to_owned()),
        (None, _) => Some("it has a position on the target alone".to_owned()),
        (Some(((_, left), _)), Some(((_, right), _))) if left != right => {
            Some(format!("its metadata differ: {left:?} and {right:?}"))
        }
        (_, Some((_, next))) if next.beyond => Some("its position is beyond the target's end".to_owned()),
        (Some((_, left)), Some((_, right))) if left.digests != right.digests => {
            Some("the next records differ".to_owned())
        }
        _ => None,
    }
}

fn next_records(client: &ClientConfig, wanted: BTreeSet<Position>) -> Result<NextRecords> {
    let readers = || PartitionReader::shallow(client, Isolation::Committed);
    let work = handfuls(wanted.into_iter().collect(), |(topic, partition, _)| (topic, *partition));
    let found = for_each(work, readers, |reader, positions: &Vec<Position>| {
        let mut found = Vec::new();
        // A reader answers an offset beyond the end with the beginning, as an application suffers it; a group at the end
        // means the end.
        let mut inside = Vec::new();
        for position in positions {
            let (_, end) = reader.bounds(&position.0, position.1)?;
            if position.2 < end {
                inside.push(position.clone());
            } else {
                let next = Next { first_offset: None, digests: Vec::new(), beyond: position.2 > end };
                found.push((position.clone(), next));
            }
        }
        for (position, stream) in inside.iter().zip(reader.open(&inside)?) {
            let (mut first_offset, mut digests) = (None, Vec::new());
            while digests.len() < RESUMED_RECORDS {
                let Some(record) = stream.next()? else { break };
                first_offset.get_or_insert(record.offset());
                digests.push(digest(&record));
            }
            found.push((position.clone(), Next { first_offset, digests, beyond: false }));
        }
        Ok(found)
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// A group's positions, with the metadata beside them.
pub fn committed(client: &ClientConfig, group: &str, topics: &BTreeMap<String, i32>) -> Result<Positions> {
    let consumer: BaseConsumer = client.clone().set("group.id", group).set("enable.auto.commit", "false").create()?;
    let mut asked = TopicPartitionList::new();
    for (topic, &count) in topics {
        for partition in 0..count {
            asked.add_partition(topic, partition);
        }
    }
    let answer = consumer.committed_offsets(asked, ANSWER_MAX).with_context(|| format!("positions of {group}"))?;
    let mut positions = BTreeMap::new();
    for element in answer.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            positions
                .insert((element.topic().to_owned(), element.partition()), (offset, element.metadata().to_owned()));
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
