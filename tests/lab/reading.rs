//! Reading a partition from an offset to its end, as an application that reads committed records does.
//!
//! The end is librdkafka's own word for it: with `enable.partition.eof` it says so when its position has reached the
//! last stable offset, past whatever markers and aborted records lie there. A partition that says neither record nor end
//! for `SILENCE_MAX` is an error, so that a check cannot pass by having read too little. Memory is bounded by the
//! consumer's queue.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, DefaultConsumerContext, base_consumer::PartitionQueue},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
};
use sha2::{Digest as _, Sha256};

/// How long a partition may give neither a record nor its end: brokers that fail over need several seconds.
const SILENCE_MAX: Duration = Duration::from_secs(180);

/// How long a request for metadata or offsets may take.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Which records are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Committed records alone.
    Committed,
    /// Those of aborted transactions, too.
    Uncommitted,
}

/// A topic's partition and an offset in it.
pub type Position = (String, i32, i64);

/// Partitions that one reader opens at the same time: opening takes a few hundred milliseconds, however many there are.
const OPEN_MAX: usize = 12;

/// One consumer, which opens a handful of partitions at a time.
pub struct PartitionReader {
    consumer: Arc<BaseConsumer>,
}

/// A partition being read.
pub struct Stream {
    name: String,
    queue: PartitionQueue<DefaultConsumerContext>,
    consumer: Arc<BaseConsumer>,
}

impl PartitionReader {
    /// A reader for whole partitions, which has connected to nothing yet.
    pub fn new(client: &ClientConfig, isolation: Isolation) -> Result<Self> {
        Self::ahead(client, isolation, "2048", "1048576")
    }

    /// A reader for a few records here and there: what is read ahead is mostly read in vain.
    pub fn shallow(client: &ClientConfig, isolation: Isolation) -> Result<Self> {
        Self::ahead(client, isolation, "64", "65536")
    }

    fn ahead(client: &ClientConfig, isolation: Isolation, queued_kib: &str, fetched_bytes: &str) -> Result<Self> {
        let mut config = client.clone();
        // librdkafka assigns partitions only where there is a group id; nothing is ever committed under it.
        config.set("group.id", "lab-reader").set("enable.auto.commit", "false");
        config.set("enable.partition.eof", "true").set("auto.offset.reset", "earliest").set("check.crcs", "true");
        let committed = isolation == Isolation::Committed;
        config.set("isolation.level", if committed { "read_committed" } else { "read_uncommitted" });
        config.set("queued.max.messages.kbytes", queued_kib).set("fetch.message.max.bytes", fetched_bytes);
        config.set("fetch.max.bytes", "8388608");
        // At their defaults, half a second at each end and a second at each full queue, waits would be most of the time.
        config.set("fetch.wait.max.ms", "10").set("fetch.queue.backoff.ms", "5");
        Ok(Self { consumer: Arc::new(config.create()?) })
    }

    /// Turns to some partitions, each named once, and away from those before. An offset that is gone means the first
    /// that is there.
    pub fn open(&self, positions: &[Position]) -> Result<Vec<Stream>> {
        // Each partition gets its queue before it is assigned: what is fetched between the two would go elsewhere.
        let streams: Option<Vec<_>> = positions
            .iter()
            .map(|(topic, partition, _)| {
                let queue = self.consumer.split_partition_queue(topic, *partition)?;
                Some(Stream { name: format!("{topic}-{partition}"), queue, consumer: self.consumer.clone() })
            })
            .collect();
        let mut list = TopicPartitionList::new();
        for (topic, partition, from) in positions {
            let from = if *from <= 0 { Offset::Beginning } else { Offset::Offset(*from) };
            list.add_partition_offset(topic, *partition, from)?;
        }
        self.consumer.assign(&list).with_context(|| format!("turning to {positions:?}"))?;
        streams.context("librdkafka has no queue for a partition")
    }

    /// Turns to one partition.
    pub fn open_one(&self, topic: &str, partition: i32, from: i64) -> Result<Stream> {
        Ok(self.open(&[(topic.to_owned(), partition, from)])?.remove(0))
    }

    /// First offset and high watermark of a partition.
    pub fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        Ok(self.consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?)
    }
}

impl Stream {
    /// The partition's name, as `topic-3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next record; none at the end.
    pub fn next(&self) -> Result<Option<BorrowedMessage<'_>>> {
        let begun = Instant::now();
        loop {
            match self.queue.poll(Duration::from_secs(1)) {
                Some(Ok(message)) => return Ok(Some(message)),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                // Brokers that fail over: librdkafka tries again by itself.
                Some(Err(error)) if begun.elapsed() < SILENCE_MAX && is_passing(&error) => {}
                Some(Err(error)) => return Err(error).with_context(|| format!("reading {}", self.name)),
                None if begun.elapsed() > SILENCE_MAX => {
                    bail!("neither a record nor the end of {} within {SILENCE_MAX:?}", self.name)
                }
                // What concerns the whole consumer waits in a queue of its own.
                None => match self.consumer.poll(Duration::ZERO) {
                    Some(Err(error)) if !is_passing(&error) => return Err(error.into()),
                    _ => {}
                },
            }
        }
    }
}

/// Shares work out into handfuls for a reader to open at once: no partition twice in one, and the partitions of a topic,
/// which tend to be of one size, in different ones.
pub(crate) fn handfuls<W>(work: Vec<W>, partition: impl Fn(&W) -> (&str, i32)) -> Vec<Vec<W>> {
    let count = work.len().div_ceil(OPEN_MAX).max(4);
    let mut handfuls: Vec<Vec<W>> = std::iter::repeat_with(Vec::new).take(count).collect();
    for (number, item) in work.into_iter().enumerate() {
        let fits = |handful: &Vec<W>| {
            handful.len() < OPEN_MAX && handful.iter().all(|other| partition(other) != partition(&item))
        };
        let begin = number % count;
        match (begin..handfuls.len()).chain(0..begin).find(|&at| fits(&handfuls[at])) {
            Some(at) => handfuls[at].push(item),
            None => handfuls.push(vec![item]),
        }
    }
    handfuls.retain(|handful| !handful.is_empty());
    handfuls
}

fn is_passing(error: &KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
    error
        .rdkafka_error_code()
        .is_some_and(|code| matches!(code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve))
}

/// The partitions of every topic of a cluster, without Kafka's own topics.
pub fn partitions(client: &ClientConfig) -> Result<BTreeMap<String, i32>> {
    let consumer: BaseConsumer = client.create()?;
    let metadata = consumer.fetch_metadata(None, ANSWER_MAX)?;
    let topics = metadata.topics().iter().filter(|topic| !topic.name().starts_with("__"));
    topics.map(|topic| Ok((topic.name().to_owned(), i32::try_from(topic.partitions().len())?))).collect()
}

/// All that an application sees of a record, but its offset, in 64 bits.
pub fn digest(message: &impl Message) -> u64 {
    let mut hash = Sha256::new();
    let mut field = |bytes: Option<&[u8]>| {
        // A length that nothing has stands for null, so that null and empty differ.
        hash.update(bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        hash.update(bytes.unwrap_or_default());
    };
    field(message.key());
    field(message.payload());
    field(Some(&message.timestamp().to_millis().unwrap_or(-1).to_le_bytes()));
    if let Some(headers) = message.headers() {
        for header in headers.iter() {
            field(Some(header.key.as_bytes()));
            field(header.value);
        }
    }
    first_64_bits(hash)
}

/// A key in 64 bits.
pub(crate) fn key_digest(key: Option<&[u8]>) -> u64 {
    first_64_bits(Sha256::new().chain_update(key.unwrap_or_default()))
}

fn first_64_bits(hash: Sha256) -> u64 {
    let hash = hash.finalize();
    u64::from_le_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

/// What differs between two records, offsets aside; none where nothing does.
pub fn difference(left: &impl Message, right: &impl Message) -> Option<String> {
    let shown = |bytes: Option<&[u8]>| match bytes {
        None => "null".to_owned(),
        Some(bytes) => format!("{} bytes {:?}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(40)])),
    };
    if left.key() != right.key() {
        return Some(format!("keys differ: {} and {}", shown(left.key()), shown(right.key())));
    }
    if left.payload() != right.payload() {
        return Some(format!("values differ: {} and {}", shown(left.payload()), shown(right.payload())));
    }
    let (left_time, right_time) = (left.timestamp().to_millis(), right.timestamp().to_millis());
    if left_time != right_time {
        return Some(format!("timestamps differ: {left_time:?} and {right_time:?}"));
    }
    let count = |count: Option<usize>| count.unwrap_or(0);
    let (left_count, right_count) =
        (count(left.headers().map(Headers::count)), count(right.headers().map(Headers::count)));
    if left_count != right_count {
        return Some(format!("numbers of headers differ: {left_count} and {right_count}"));
    }
    let (left, right) = (left.headers()?, right.headers()?);
    (0..left_count).find_map(|at| {
        let (left, right) = (left.get(at), right.get(at));
        (left.key != right.key || left.value != right.value).then(|| {
            format!("headers {at} differ: {} {} and {} {}", left.key, shown(left.value), right.key, shown(right.value))
        })
    })
}
