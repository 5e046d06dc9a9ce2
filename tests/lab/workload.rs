//! Hard data: everything that has been seen to break a copy, made from a seed, with every acknowledgement recorded.
//!
//! What is in it: every codec; headers with equal names and null values; null and empty keys and values; tombstones;
//! one record a batch; records of 900 KB and 3 MB; deleted heads; compacted topics with real gaps, also under
//! transactions; transactions committed, aborted and interleaved; log-append time; timestamps ten years off; idempotent
//! producers; empty topics; 100 partitions; names of 249 characters; dense large batches with lz4. On top, while it
//! runs: [`LiveProducers`] and [`Groups`].
//!
//! The same seed and scale give the same records (not the same batches: those depend on time). Needs a 3.9 broker:
//! 4.x refuses segments below 1 MiB and, at its defaults, timestamps in the future.

mod groups;
mod live;
mod recorder;
mod topics;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

pub use groups::{Group, Groups, LiveGroup};
pub use live::LiveProducers;
pub use recorder::{NewRecord, Offsets, Recorder, RecordingProducer, Verified};
pub use topics::{TopicSpec, create_topics};

use crate::{
    Cluster,
    compare::for_each,
    reading::{Isolation, PartitionReader},
};

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Small, with an eighth of what is only there to be much: for brokers that write everything three times.
    Tiny,
    /// About 40 MiB: for tests that want every kind and little time.
    Small,
    /// More than 1 GiB in the source's log, eight partitions above 100 MiB.
    Full,
}

impl Scale {
    /// `Full`, unless `KROSSING_SCALE` is `small`.
    pub fn from_environment() -> Self {
        match std::env::var("KROSSING_SCALE").as_deref() {
            Ok("small") => Scale::Small,
            Ok(_) | Err(_) => Scale::Full,
        }
    }

    fn pick<T>(self, small: T, full: T) -> T {
        match self {
            Scale::Tiny | Scale::Small => small,
            Scale::Full => full,
        }
    }

    /// Bytes of a partition whose records are all alike.
    fn bytes(self, small: u64, full: u64) -> u64 {
        match self {
            Scale::Tiny => small / 8,
            Scale::Small => small,
            Scale::Full => full,
        }
    }
}

/// How long the cleaner may take to have worked through the compacted topics.
const CLEANER_WAIT_MAX: Duration = Duration::from_secs(240);

/// How long a compacted topic must look the same until the cleaner counts as done: several of its rounds (500 ms).
const CLEANER_QUIET: Duration = Duration::from_millis(2_500);

/// A source that has been filled.
pub struct Workload {
    /// The topics made, the live ones included.
    pub topics: Vec<TopicSpec>,
    /// What was acknowledged.
    pub recorder: Arc<Recorder>,
    /// Bytes of keys and values handed to producers.
    pub bytes: u64,
    /// How long that took, without waiting for the cleaner.
    pub took: Duration,
    /// How long the cleaner took afterwards.
    pub cleaner_took: Duration,
}

/// What every part of the load works with.
struct Loading {
    client: ClientConfig,
    recorder: Arc<Recorder>,
    scale: Scale,
    seed: u64,
    /// Bytes that records are cut from: three quarters random, so that codecs find something and not everything.
    pool: Vec<u8>,
    now_ms: i64,
}

impl Workload {
    /// Makes the topics and fills them.
    pub async fn load(cluster: &Cluster, scale: Scale, seed: u64) -> Result<Self> {
        let begun = Instant::now();
        let client = cluster.client();
        let topics = topics::all();
        create_topics(&client, &topics, cluster.replication()).await?;
        let now_ms = i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?;
        let loading = Loading { client, recorder: Arc::default(), scale, seed, pool: pool(seed), now_ms };
        let recorder = loading.recorder.clone();
        let (loading, bytes) = tokio::task::spawn_blocking(move || {
            let bytes = loading.fill()?;
            anyhow::Ok((loading, bytes))
        })
        .await??;
        loading.delete_heads().await?;
        let took = begun.elapsed();
        let client = loading.client;
        tokio::task::spawn_blocking(move || until_cleaned(&client)).await??;
        Ok(Self { topics, recorder, bytes, took, cleaner_took: begun.elapsed() - took })
    }

    /// The topics' names.
    pub fn topic_names(&self) -> std::collections::BTreeSet<String> {
        self.topics.iter().map(|topic| topic.name.clone()).collect()
    }
}

type Part = fn(&Loading, &mut ChaCha8Rng) -> Result<u64>;

impl Loading {
    /// Runs the parts of the load, a few at a time, the longest first.
    fn fill(&self) -> Result<u64> {
        let parts: Vec<Part> = vec![
            Self::bulk,
            Self::transactions,
            Self::dense_lz4,
            Self::one_record_batches,
            Self::compacted,
            Self::compacted_transactions,
            Self::large_records,
            Self::codecs,
            Self::idempotent,
            Self::log_append_time,
            Self::old_and_future,
            Self::deleted_head,
            Self::hundred_partitions,
            Self::long_names,
        ];
        let parts: Vec<_> = parts.into_iter().enumerate().collect();
        let none = || Ok(());
        let bytes = for_each(parts, none, |(), (number, part)| {
            // A stream of its own for each part: the order in which threads take them changes nothing.
            let mut random = ChaCha8Rng::seed_from_u64(self.seed);
            random.set_stream(*number as u64);
            part(self, &mut random)
        })?;
        Ok(bytes.into_iter().sum())
    }

    fn producer(&self, topic: &str, settings: &[(&str, &str)]) -> Result<RecordingProducer> {
        RecordingProducer::new(&self.client, &self.recorder, topic, settings)
    }

    fn cut(&self, random: &mut ChaCha8Rng, bytes: usize) -> &[u8] {
        let at = random.random_range(0..=self.pool.len() - bytes);
        &self.pool[at..at + bytes]
    }

    /// Records of about 1 KiB, spread evenly, their times rising to now.
    fn evenly(
        &self,
        random: &mut ChaCha8Rng,
        producer: &RecordingProducer,
        partitions: i32,
        bytes_per_partition: u64,
    ) -> Result<u64> {
        let records = bytes_per_partition * partitions.unsigned_abs() as u64 / 1024;
        let mut bytes = 0;
        for number in 0..records {
            let key = format!("key-{:012}", number);
            let length = random.random_range(900..1100);
            let value = self.cut(random, length);
            producer.send(&NewRecord {
                partition: i32::try_from(number % partitions.unsigned_abs() as u64)?,
                key: Some(key.as_bytes()),
                value: Some(value),
                timestamp_ms: Some(self.now_ms - 3_600_000 + i64::try_from(number * 3_600_000 / records)?),
                ..NewRecord::default()
            })?;
            bytes += (key.len() + value.len()) as u64;
        }
        producer.settle()?;
        Ok(bytes)
    }

    fn bulk(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let producer = self.producer("bulk", &[("linger.ms", "50"), ("batch.size", "900000")])?;
        self.evenly(random, &producer, 4, self.scale.bytes(1 << 20, 130 << 20))
    }

    fn dense_lz4(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let settings = [("linger.ms", "100"), ("batch.size", "900000"), ("compression.codec", "lz4")];
        let producer = self.producer("dense-lz4", &settings)?;
        self.evenly(random, &producer, 4, self.scale.bytes(1 << 20, 160 << 20))
    }

    fn idempotent(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let settings = [("enable.idempotence", "true"), ("compression.codec", "snappy"), ("linger.ms", "5")];
        let producer = self.producer("idempotent", &settings)?;
        self.evenly(random, &producer, 2, self.scale.bytes(1 << 19, 8 << 20))
    }

    fn one_record_batches(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let producer = self.producer("one-record-batches", &[("batch.num.messages", "1"), ("linger.ms", "0")])?;
        self.evenly(random, &producer, 2, self.scale.bytes(1 << 20, 8 << 20))
    }

    fn large_records(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let mut bytes = 0;
        for (topic, length, codec, records) in [
            ("records-900k", 900_000, "none", self.scale.pick(4, 40)),
            ("records-900k", 900_000, "zstd", self.scale.pick(2, 20)),
            ("records-3m", 3_000_000, "none", self.scale.pick(2, 12)),
            ("records-3m", 3_000_000, "lz4", self.scale.pick(2, 12)),
        ] {
            let producer = self.producer(topic, &[("message.max.bytes", "4000000"), ("compression.codec", codec)])?;
            for number in 0..records {
                let value = self.cut(random, length);
                producer.send(&NewRecord { partition: number % 2, value: Some(value), ..NewRecord::default() })?;
                bytes += length as u64;
            }
            producer.settle()?;
        }
        Ok(bytes)
    }

    fn codecs(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let mut bytes = 0;
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let producer =
                self.producer(&format!("codec-{codec}"), &[("compression.codec", codec), ("linger.ms", "20")])?;
            bytes += self.varied(random, &producer, 3, self.scale.pick(600, 6_000))?;
        }
        Ok(bytes)
    }

    /// Records of every odd kind, in turn, with ordinary ones between them.
    fn varied(
        &self,
        random: &mut ChaCha8Rng,
        producer: &RecordingProducer,
        partitions: i32,
        records: usize,
    ) -> Result<u64> {
        let mut bytes = 0;
        for number in 0..records {
            let (key, text) = (format!("key-{}", number % 997), format!("value-{number}"));
            let length = random.random_range(10..3_000);
            let filler = self.cut(random, length);
            let mut record = NewRecord {
                partition: random.random_range(0..partitions),
                key: Some(key.as_bytes()),
                value: Some(filler),
                // Not in order: clocks of several producers never agree.
                timestamp_ms: Some(self.now_ms - random.random_range(0..7_200_000)),
                ..NewRecord::default()
            };
            match number % 16 {
                0 => record.key = None,
                1 => record.key = Some(b""),
                2 => record.value = None,
                3 => record.value = Some(b""),
                4 => (record.key, record.value) = (None, None),
                5 => (record.key, record.value) = (Some(&[][..]), Some(&[][..])),
                6 => record.headers = vec![("same", Some(b"first")), ("other", Some(b"x")), ("same", Some(b"second"))],
                7 => {
                    record.headers = vec![("null", None), ("empty", Some(b"")), ("null", None), ("", Some(b"no name"))]
                }
                8 => record.headers = vec![("h", Some(filler)); 20],
                9 => {
                    record.headers =
                        vec![("Überschrift-見出し", Some(text.as_bytes())), ("same", None), ("same", Some(b"1"))]
                }
                10 => record.timestamp_ms = None,
                _ => record.value = Some(filler),
            }
            bytes += record.value.map_or(0, <[u8]>::len) as u64;
            producer.send(&record)?;
        }
        producer.settle()?;
        Ok(bytes)
    }

    /// Half of the keys are written again and again: each repetition will be a gap.
    fn compacted(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        self.recorder.compacted("compacted");
        let producer = self.producer("compacted", &[("linger.ms", "5"), ("batch.num.messages", "50")])?;
        let mut bytes = 0;
        for number in 0..self.scale.pick(9_000, 24_000) {
            let (key, length) = (keys_often_repeated(random, number), random.random_range(300..700));
            // One in twenty deletes its key.
            let value = (number % 20 != 7).then(|| self.cut(random, length));
            let partition = random.random_range(0..3);
            producer.send(&NewRecord { partition, key: Some(key.as_bytes()), value, ..NewRecord::default() })?;
            bytes += value.map_or(0, <[u8]>::len) as u64;
        }
        producer.settle()?;
        Ok(bytes)
    }

    fn compacted_transactions(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let topic = "compacted-transactions";
        self.recorder.compacted(topic);
        let producer = RecordingProducer::transactional(&self.client, &self.recorder, topic, "lab-compacted")?;
        let mut bytes = 0;
        for number in 0..self.scale.pick(40, 120) {
            producer.begin()?;
            for record in 0..150 {
                let (key, length) = (keys_often_repeated(random, number * 150 + record), random.random_range(300..700));
                let value = self.cut(random, length);
                let record = NewRecord { key: Some(key.as_bytes()), value: Some(value), ..NewRecord::default() };
                producer.send(&record)?;
                bytes += value.len() as u64;
            }
            if number % 4 == 1 { producer.abort()? } else { producer.commit()? }
        }
        Ok(bytes)
    }

    /// Three transactions at once and a producer without any, all on the same partitions of one topic, ended in changing
    /// order, two in five of them aborted. The third also shows transactions over all partitions.
    fn transactions(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let topic = "transactions";
        let plain = self.producer(topic, &[("linger.ms", "0")])?;
        let producers = (0..3)
            .map(|number| {
                RecordingProducer::transactional(
                    &self.client,
                    &self.recorder,
                    topic,
                    &format!("lab-transactions-{number}"),
                )
            })
            .collect::<Result<Vec<_>>>()?;
        let mut bytes = 0;
        for round in 0..self.scale.pick(25, 120) {
            for producer in &producers {
                producer.begin()?;
            }
            // Most rounds are small; some fill whole batches.
            let (steps, records) = if round % 10 == 9 { (3, 400) } else { (random.random_range(1..5), 4) };
            for _ in 0..steps {
                for producer in producers.iter().chain([&plain]) {
                    for number in 0..random.random_range(1..=records) {
                        let (key, length) = (format!("{round}-{number}"), random.random_range(20..1_000));
                        let value = self.cut(random, length);
                        let partition = random.random_range(0..4);
                        let record = NewRecord {
                            partition,
                            key: Some(key.as_bytes()),
                            value: Some(value),
                            ..NewRecord::default()
                        };
                        producer.send(&record)?;
                        bytes += length as u64;
                    }
                    // Flushed in turn, so that their batches alternate in the log.
                    producer.flush()?;
                }
            }
            for offset in 0..3 {
                let producer = &producers[(round + offset) % 3];
                if random.random_range(0..5) < 2 { producer.abort()? } else { producer.commit()? }
            }
        }
        plain.settle()?;
        Ok(bytes)
    }

    fn log_append_time(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let producer = self.producer("log-append-time", &[("compression.codec", "zstd"), ("linger.ms", "5")])?;
        self.varied(random, &producer, 2, self.scale.pick(500, 5_000))
    }

    /// Ten years back and ten ahead, under a retention of twenty years, which is finite and keeps both.
    fn old_and_future(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        const TEN_YEARS_MS: i64 = 315_360_000_000;
        let producer = self.producer("old-and-future", &[("linger.ms", "5")])?;
        let records = self.scale.pick(1_000, 10_000);
        let mut bytes = 0;
        for number in 0..records {
            let length = random.random_range(100..500);
            let value = self.cut(random, length);
            // Partition 0 is all old; in partition 1 old and future records alternate.
            let (partition, number_ms) = (number % 2, i64::from(number));
            let timestamp_ms = match (partition, number / 2 % 2) {
                (1, 1) => self.now_ms + TEN_YEARS_MS + number_ms,
                _ => self.now_ms - TEN_YEARS_MS + number_ms,
            };
            let key = number.to_string();
            let (key, value) = (Some(key.as_bytes()), Some(value));
            producer.send(&NewRecord {
                partition,
                key,
                value,
                timestamp_ms: Some(timestamp_ms),
                ..NewRecord::default()
            })?;
            bytes += length as u64;
        }
        producer.settle()?;
        Ok(bytes)
    }

    fn deleted_head(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let producer = self.producer("deleted-head", &[("linger.ms", "20"), ("compression.codec", "gzip")])?;
        self.varied(random, &producer, 3, self.scale.pick(900, 6_000))
    }

    fn hundred_partitions(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let producer = self.producer("hundred-partitions", &[("linger.ms", "20")])?;
        let mut bytes = 0;
        for number in 0..self.scale.pick(2_000, 10_000) {
            let partition = number % 100;
            // Every tenth partition stays empty.
            if partition % 10 != 9 {
                let (key, length) = (number.to_string(), random.random_range(20..500));
                let value = self.cut(random, length);
                producer.send(&NewRecord {
                    partition,
                    key: Some(key.as_bytes()),
                    value: Some(value),
                    ..NewRecord::default()
                })?;
                bytes += length as u64;
            }
        }
        producer.settle()?;
        Ok(bytes)
    }

    fn long_names(&self, random: &mut ChaCha8Rng) -> Result<u64> {
        let mut bytes = 0;
        for last in ['a', 'b'] {
            let producer = self.producer(&topics::long_name(last), &[("linger.ms", "5")])?;
            bytes += self.varied(random, &producer, 2, 200)?;
        }
        Ok(bytes)
    }

    /// Deletes the first half of partition 0, in the middle of a batch, and all of partition 1.
    async fn delete_heads(&self) -> Result<()> {
        let topic = "deleted-head";
        let reader = PartitionReader::shallow(&self.client, Isolation::Committed)?;
        let (half, all) = (reader.bounds(topic, 0)?.1 / 2 + 1, reader.bounds(topic, 1)?.1);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(half))?;
        list.add_partition_offset(topic, 1, Offset::Offset(all))?;
        let admin: AdminClient<DefaultClientContext> = self.client.create()?;
        let answer = admin.delete_records(&list, &AdminOptions::new()).await.context("deleting heads")?;
        for element in answer.elements() {
            element.error()?;
        }
        self.recorder.deleted_before(topic, 0, half);
        self.recorder.deleted_before(topic, 1, all);
        Ok(())
    }
}

/// Every other key is one of forty, the others are their own.
fn keys_often_repeated(random: &mut ChaCha8Rng, number: usize) -> String {
    if number.is_multiple_of(2) { format!("often-{}", random.random_range(0..40)) } else { format!("once-{number}") }
}

fn pool(seed: u64) -> Vec<u8> {
    const WORDS: &[u8; 16] = b"order=confirmed;";
    let mut pool = vec![0; 8 << 20];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.fill(&mut pool[..]);
    for chunk in pool.chunks_exact_mut(64) {
        chunk[..WORDS.len()].copy_from_slice(WORDS);
    }
    pool
}

/// Waits until the cleaner has been over the compacted topics: records are gone, and no more go.
fn until_cleaned(client: &ClientConfig) -> Result<()> {
    let begun = Instant::now();
    let reader = PartitionReader::new(client, Isolation::Uncommitted)?;
    let mut last: Option<(Vec<i64>, Instant)> = None;
    loop {
        let mut counts = Vec::new();
        let mut gaps = true;
        for (topic, partitions) in topics::COMPACTED {
            for partition in 0..partitions {
                let (first, end) = reader.bounds(topic, partition)?;
                let stream = reader.open_one(topic, partition, 0)?;
                let mut count = 0;
                while stream.next()?.is_some() {
                    count += 1;
                }
                // A quarter gone is more than aborted records and markers can account for.
                gaps &= count < (end - first) * 3 / 4;
                counts.push(count);
            }
        }
        match &last {
            Some((before, since)) if *before == counts => {
                if gaps && since.elapsed() > CLEANER_QUIET {
                    return Ok(());
                }
            }
            _ => last = Some((counts, Instant::now())),
        }
        anyhow::ensure!(begun.elapsed() < CLEANER_WAIT_MAX, "the cleaner has not compacted: {last:?}");
        std::thread::sleep(crate::process::POLL);
    }
}
