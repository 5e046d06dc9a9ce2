//! What producers were told: each record that a broker has acknowledged (and whose transaction, if any, has committed),
//! as offset and digest. The measure of "nothing lost": independent of what either cluster says afterwards.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};

use crate::{
    compare::for_each,
    reading::{Isolation, PartitionReader, Position, Stream, digest, handfuls, key_digest},
};

/// How long a producer may take to flush, or to end a transaction: brokers may be restarting under it, on a slow
/// machine. For librdkafka a record's time begins when it is handed over, and thousands may wait before it.
const SETTLE_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acknowledged {
    offset: i64,
    digest: u64,
    key: u64,
}

type Partition = (Arc<str>, i32);

/// Everything acknowledged so far. Shared by all producers of a workload.
#[derive(Default)]
pub struct Recorder {
    records: Mutex<BTreeMap<Partition, Vec<Acknowledged>>>,
    compacted: Mutex<BTreeSet<String>>,
}

/// Whether a cluster must hold the records at the offsets that were acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offsets {
    /// The cluster that was produced to.
    Same,
    /// A copy: the order must be the same.
    Any,
    /// A cluster whose brokers died under its producers: a record may stand there twice, or elsewhere than the answer to
    /// a second try said, but it must be there.
    Unsure,
}

/// What reading back has shown.
#[derive(Debug, Default)]
pub struct Verified {
    /// Acknowledged records that are there.
    pub records: u64,
    /// Records that nobody was told of: a producer that sent again after an answer was lost leaves such.
    pub extra: u64,
    /// The first record of each partition that is missing.
    pub missing: Vec<String>,
}

impl Recorder {
    /// How many records have been acknowledged.
    pub fn count(&self) -> u64 {
        self.records.lock().expect("no panic while held").values().map(|records| records.len() as u64).sum()
    }

    /// The topics that something was acknowledged in.
    pub fn topics(&self) -> BTreeSet<String> {
        self.records.lock().expect("no panic while held").keys().map(|(topic, _)| topic.to_string()).collect()
    }

    /// Says that records below an offset were deleted.
    pub fn deleted_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut records = self.records.lock().expect("no panic while held");
        if let Some(records) = records.get_mut(&(Arc::from(topic), partition)) {
            records.retain(|record| record.offset >= offset);
        }
    }

    /// Says that of a topic only the last record of each key has to be there.
    pub fn compacted(&self, topic: &str) {
        self.compacted.lock().expect("no panic while held").insert(topic.to_owned());
    }

    /// Reads a cluster and looks for every acknowledged record, in order.
    pub async fn verify(self: &Arc<Self>, client: &ClientConfig, offsets: Offsets) -> Result<Verified> {
        let (recorder, client) = (self.clone(), client.clone());
        tokio::task::spawn_blocking(move || {
            let records = recorder.records.lock().expect("no panic while held").clone();
            let compacted = recorder.compacted.lock().expect("no panic while held").clone();
            let readers = || PartitionReader::new(&client, Isolation::Committed);
            let work = handfuls(records.into_iter().collect(), |((topic, partition), _)| (topic, *partition));
            let parts = for_each(work, readers, |reader, handful| {
                let positions: Vec<Position> =
                    handful.iter().map(|((topic, partition), _)| (topic.to_string(), *partition, 0)).collect();
                let streams = reader.open(&positions)?;
                let parts = handful.iter().zip(&streams).map(|(((topic, _), records), stream)| {
                    verify_partition(stream, records.clone(), compacted.contains(&**topic), offsets)
                });
                parts.collect::<Result<Vec<_>>>()
            })?;
            Ok(parts.into_iter().flatten().fold(Verified::default(), |mut all, part| {
                all.records += part.records;
                all.extra += part.extra;
                all.missing.extend(part.missing);
                all
            }))
        })
        .await?
    }
}

fn verify_partition(
    stream: &Stream,
    mut expected: Vec<Acknowledged>,
    compacted: bool,
    offsets: Offsets,
) -> Result<Verified> {
    expected.sort_by_key(|record| record.offset);
    let last_of_key: HashMap<u64, usize> = if compacted {
        expected.iter().enumerate().map(|(at, record)| (record.key, at)).collect()
    } else {
        HashMap::new()
    };
    let may_be_gone = |at: usize| compacted && last_of_key[&expected[at].key] > at;
    let mut verified = Verified::default();
    if offsets == Offsets::Unsure {
        let mut there: HashMap<u64, u64> = HashMap::new();
        while let Some(record) = stream.next()? {
            *there.entry(digest(&record)).or_default() += 1;
            verified.extra += 1;
        }
        for (at, record) in expected.iter().enumerate() {
            match there.get_mut(&record.digest).filter(|left| **left > 0) {
                Some(left) => {
                    *left -= 1;
                    verified.records += 1;
                    verified.extra -= 1;
                }
                None if may_be_gone(at) => {}
                None => {
                    verified.missing.push(format!("{}: the record acknowledged at {}", stream.name(), record.offset))
                }
            }
        }
        return Ok(verified);
    }
    let mut missing = |range: std::ops::Range<usize>| {
        if let Some(at) = range.into_iter().find(|&at| !may_be_gone(at)) {
            verified.missing.push(format!("{}: the record acknowledged at {}", stream.name(), expected[at].offset));
        }
    };
    let (mut at, mut found_records, mut extra) = (0, 0, 0);
    while let Some(record) = stream.next()? {
        let (offset, digest) = (record.offset(), digest(&record));
        let is_it = |it: &Acknowledged| it.digest == digest && (offsets == Offsets::Any || it.offset == offset);
        match expected[at..].iter().position(is_it) {
            Some(skipped) => {
                missing(at..at + skipped);
                at += skipped + 1;
                found_records += 1;
            }
            None => extra += 1,
        }
    }
    missing(at..expected.len());
    // One a partition is enough to see where it begins.
    verified.missing.truncate(1);
    verified.records = found_records;
    verified.extra = extra;
    Ok(verified)
}

/// A record about to be produced.
#[derive(Debug, Clone, Default)]
pub struct NewRecord<'a> {
    /// Where to.
    pub partition: i32,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
    /// Its timestamp; none: now.
    pub timestamp_ms: Option<i64>,
}

/// A producer to one topic whose acknowledgements are recorded.
pub struct RecordingProducer {
    producer: ThreadedProducer<Acknowledgements>,
    topic: Arc<str>,
    recorder: Arc<Recorder>,
    sent: AtomicU64,
}

#[derive(Default)]
struct Acknowledgements {
    pending: Mutex<Pending>,
    arrived: Condvar,
}

#[derive(Default)]
struct Pending {
    acknowledged: Vec<(i32, Acknowledged)>,
    failure: Option<String>,
    arrivals: u64,
}

impl ClientContext for Acknowledgements {}

impl ProducerContext for Acknowledgements {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let outcome = match result {
            Ok(message) => {
                let (offset, digest, key) = (message.offset(), digest(message), key_digest(message.key()));
                Ok((message.partition(), Acknowledged { offset, digest, key }))
            }
            Err((error, message)) => Err(format!("{}-{}: {error}", message.topic(), message.partition())),
        };
        let mut pending = self.pending.lock().expect("no panic while held");
        match outcome {
            Ok(acknowledged) => pending.acknowledged.push(acknowledged),
            Err(failure) => pending.failure = Some(failure),
        }
        pending.arrivals += 1;
        self.arrived.notify_all();
    }
}

impl RecordingProducer {
    /// A producer with the given settings; `acks=all` unless they say otherwise.
    pub fn new(
        client: &ClientConfig,
        recorder: &Arc<Recorder>,
        topic: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let mut config = client.clone();
        config.set("acks", "all").set("queue.buffering.max.kbytes", "131072");
        config.set("message.timeout.ms", SETTLE_MAX.as_millis().to_string());
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer = config.create_with_context(Acknowledgements::default())?;
        Ok(Self { producer, topic: Arc::from(topic), recorder: recorder.clone(), sent: AtomicU64::new(0) })
    }

    /// A transactional producer, fenced in.
    pub fn transactional(client: &ClientConfig, recorder: &Arc<Recorder>, topic: &str, id: &str) -> Result<Self> {
        // A transaction's time must outlast a paused machine, and librdkafka wants a record's to be no longer.
        let times = [("transaction.timeout.ms", "120000"), ("message.timeout.ms", "120000")];
        let settings = [[("transactional.id", id), ("linger.ms", "0")], times].concat();
        let it = Self::new(client, recorder, topic, &settings)?;
        it.producer.init_transactions(SETTLE_MAX)?;
        Ok(it)
    }

    /// Hands over a record; waits while the producer's queue is full.
    pub fn send(&self, record: &NewRecord<'_>) -> Result<()> {
        let headers = (!record.headers.is_empty()).then(|| {
            let empty = OwnedHeaders::new_with_capacity(record.headers.len());
            record.headers.iter().fold(empty, |headers, &(key, value)| headers.insert(Header { key, value }))
        });
        let mut next: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).partition(record.partition);
        (next.key, next.payload, next.timestamp, next.headers) =
            (record.key, record.value, record.timestamp_ms, headers);
        loop {
            let arrivals = self.producer.context().pending.lock().expect("no panic while held").arrivals;
            match self.producer.send(next) {
                Ok(()) => {
                    self.sent.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    next = again;
                    self.wait_for_arrival(arrivals);
                }
                Err((error, _)) => return Err(error).with_context(|| format!("producing to {}", self.topic)),
            }
        }
    }

    fn wait_for_arrival(&self, seen: u64) {
        let context = self.producer.context();
        let pending = context.pending.lock().expect("no panic while held");
        // An answer that never comes is an error when it times out, and that is an arrival, too.
        drop(context.arrived.wait_while(pending, |pending| pending.arrivals == seen));
    }

    /// Waits until every record was answered; the answers are not recorded yet. (librdkafka's own flush looks every
    /// 100 ms only, when another thread takes the answers; between small transactions that is most of the time.)
    pub fn flush(&self) -> Result<()> {
        let context = self.producer.context();
        let sent = self.sent.load(Ordering::Relaxed);
        let pending = context.pending.lock().expect("no panic while held");
        let (_answered, waited) = context
            .arrived
            .wait_timeout_while(pending, SETTLE_MAX, |pending| pending.arrivals < sent)
            .expect("no panic while held");
        ensure!(!waited.timed_out(), "what was produced to {} was not answered within {SETTLE_MAX:?}", self.topic);
        Ok(())
    }

    /// Flushes, and records what was acknowledged. An error where a record was not.
    pub fn settle(&self) -> Result<()> {
        self.flush()?;
        let pending = self.take_pending();
        let mut records = self.recorder.records.lock().expect("no panic while held");
        for (partition, acknowledged) in pending.acknowledged {
            records.entry((self.topic.clone(), partition)).or_default().push(acknowledged);
        }
        match pending.failure {
            Some(failure) => bail!("a record was not acknowledged: {failure}"),
            None => Ok(()),
        }
    }

    fn take_pending(&self) -> Pending {
        let mut pending = self.producer.context().pending.lock().expect("no panic while held");
        let arrivals = pending.arrivals;
        std::mem::replace(&mut *pending, Pending { arrivals, ..Pending::default() })
    }

    /// Begins a transaction.
    pub fn begin(&self) -> Result<()> {
        Ok(self.producer.begin_transaction()?)
    }

    /// Commits it; then its records count as acknowledged.
    pub fn commit(&self) -> Result<()> {
        self.producer.commit_transaction(SETTLE_MAX).context("committing a transaction")?;
        self.settle()
    }

    /// Aborts it, its records already in the log.
    pub fn abort(&self) -> Result<()> {
        self.flush()?;
        self.producer.abort_transaction(SETTLE_MAX).context("aborting a transaction")?;
        self.take_pending();
        Ok(())
    }
}
