//! What a lane works with: the ports, the settings, and what all lanes of one process share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use krossing_core::{
    BrokerId, LaneId, MigrationId, SourceOffset, TopicId, TopicPartition,
    limits::WORKER_DATA_BYTES_MAX,
    ports::{Clock, Inventory, Ledger, LogReader, LogWriter, Marker, Objects, Ports},
};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

/// One partition of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanePartition {
    /// The partition.
    pub partition: TopicPartition,
    /// The source topic's identity, where the cluster has them.
    pub topic_id: Option<TopicId>,
    /// How long the source keeps its tombstones, in milliseconds; none where its topic is not compacted.
    pub tombstones_kept_ms: Option<i64>,
}

/// A lane as the plan lays it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanePlan {
    /// Its number.
    pub id: LaneId,
    /// The transactional id whose producer writes it.
    pub transactional_id: String,
    /// Its partitions, in the order they are seeded in.
    pub partitions: Vec<LanePartition>,
}

/// What the operator has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The migration: part of every key.
    pub migration: MigrationId,
    /// Who we are, for the lease.
    pub owner: String,
    /// Bytes of a segment.
    pub segment_bytes_max: usize,
    /// Partitions seeded at the same time in this process.
    pub partitions_in_parallel: usize,
    /// Bytes a second read from each source broker; none for as fast as it goes.
    pub bytes_per_second_per_broker: Option<u64>,
}

/// Something worth a line in the journal or on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Records of the source were gone before they were read.
    Gap {
        /// Where.
        partition: TopicPartition,
        /// The first offset gone.
        from: SourceOffset,
        /// The first offset there.
        to: SourceOffset,
    },
    /// A session was started over.
    StartedOver {
        /// The lane.
        lane: LaneId,
        /// Why.
        reason: String,
    },
    /// The target had lost records; they are copied again.
    RolledBack {
        /// Where.
        partition: TopicPartition,
        /// How many records.
        records: i64,
    },
}

/// Figures for progress displays. Counted, never decided upon.
#[derive(Debug, Default)]
pub struct Meter {
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    records_written: AtomicU64,
    partitions_seeded: AtomicU64,
}

impl Meter {
    /// Bytes of batches read from the source.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes of batches appended to the target.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Records appended to the target.
    pub fn records_written(&self) -> u64 {
        self.records_written.load(Ordering::Relaxed)
    }

    /// Partitions whose seed is complete.
    pub fn partitions_seeded(&self) -> u64 {
        self.partitions_seeded.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn written(&self, bytes: usize, records: u32) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.records_written.fetch_add(u64::from(records), Ordering::Relaxed);
    }

    pub(crate) fn seeded(&self) {
        self.partitions_seeded.fetch_add(1, Ordering::Relaxed);
    }
}

/// What all lanes of one process share: places for partitions, memory, bandwidth, figures.
#[derive(Debug)]
pub struct Shared {
    /// Partitions being seeded.
    pub(crate) seed_places: Semaphore,
    memory: Semaphore,
    /// Bytes read from each source broker.
    pub bandwidth: Bandwidth,
    /// The figures.
    pub meter: Meter,
    /// Where notices go.
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
    halted: AtomicBool,
}

/// One permit of the memory semaphore, in bytes.
const MEMORY_GRAIN: usize = 64 * 1024;

impl Shared {
    /// What `settings` allow this process.
    pub fn new(settings: &Settings, notices: mpsc::UnboundedSender<Notice>) -> Arc<Self> {
        Arc::new(Self {
            seed_places: Semaphore::new(settings.partitions_in_parallel.max(1)),
            memory: Semaphore::new(WORKER_DATA_BYTES_MAX / MEMORY_GRAIN),
            bandwidth: Bandwidth::new(settings.bytes_per_second_per_broker),
            meter: Meter::default(),
            notices,
            halted: AtomicBool::new(false),
        })
    }

    /// Lets every lane of the process that is seeding come to rest: one of them has failed, or the process must end.
    pub fn halt(&self) {
        self.halted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn halted(&self) -> bool {
        self.halted.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` more of record data may be held. More than there is altogether counts as all there is, so
    /// that a single large record still passes, alone.
    pub(crate) async fn memory(&self, bytes: usize) -> SemaphorePermit<'_> {
        let permits = bytes.div_ceil(MEMORY_GRAIN).clamp(1, WORKER_DATA_BYTES_MAX / MEMORY_GRAIN);
        let permits = u32::try_from(permits).expect("the worker's memory in grains is a small number");
        self.memory.acquire_many(permits).await.expect("the semaphore is never closed")
    }

    pub(crate) fn notice(&self, notice: Notice) {
        // Nobody listening means that the process is about to end; the notice is in the progress as well.
        let _ = self.notices.send(notice);
    }
}

/// A bucket of bytes for each source broker, filled at the rate the operator allows.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: Option<u64>,
    brokers: Mutex<BTreeMap<BrokerId, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// May be negative: what was read beyond the grant is paid back before the next.
    bytes: i64,
    filled_at: Instant,
    granted: u64,
}

impl Bandwidth {
    /// A cap of `bytes_per_second` for each broker; none for no cap.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, brokers: Mutex::new(BTreeMap::new()) }
    }

    /// Waits until `broker` may be asked for more. What was read is settled afterwards by [`Bandwidth::spent`].
    pub async fn grant<C: Clock>(&self, clock: &C, broker: BrokerId) {
        while let Some(wait) = self.wait(clock.now(), broker) {
            clock.sleep(wait).await;
        }
    }

    /// How long `broker` must be left alone; none if it may be asked now.
    fn wait(&self, now: Instant, broker: BrokerId) -> Option<Duration> {
        let rate = self.bytes_per_second?;
        let mut brokers = self.brokers.lock().expect("no holder panics");
        let bucket = brokers.entry(broker).or_insert(Bucket { bytes: 0, filled_at: now, granted: 0 });
        let earned = now.duration_since(bucket.filled_at).as_secs_f64() * rate as f64;
        // A second's worth may be saved up, so that a quiet broker is not flooded afterwards.
        bucket.bytes = (bucket.bytes + earned as i64).min(rate as i64);
        bucket.filled_at = now;
        (bucket.bytes < 0).then(|| Duration::from_secs_f64((-bucket.bytes) as f64 / rate as f64))
    }

    /// Counts what was read.
    pub fn spent(&self, broker: BrokerId, bytes: usize) {
        if let Some(bucket) = self.brokers.lock().expect("no holder panics").get_mut(&broker) {
            bucket.bytes -= bytes as i64;
            bucket.granted += bytes as u64;
        }
    }

    /// Bytes read from `broker` under the cap so far.
    pub fn granted_bytes(&self, broker: BrokerId) -> u64 {
        self.brokers.lock().expect("no holder panics").get(&broker).map_or(0, |bucket| bucket.granted)
    }
}

/// The ports of the data path, as one type parameter.
pub trait LanePorts: Send + Sync + 'static {
    /// The cluster that is read.
    type Source: LogReader + Inventory + 'static;
    /// The cluster that is written.
    type Target: LogReader + LogWriter + Marker + 'static;
    /// Leases and progress.
    type Ledger: Ledger;
    /// Segments and the offset map.
    type Objects: Objects;
    /// Time.
    type Clock: Clock;
}

impl<P: Ports> LanePorts for P {
    type Source = P::Source;
    type Target = P::Target;
    type Ledger = P::Ledger;
    type Objects = P::Objects;
    type Clock = P::Clock;
}

/// Everything a lane works with.
#[derive(Debug)]
pub struct LaneContext<P: LanePorts> {
    /// The source cluster.
    pub source: P::Source,
    /// The target cluster.
    pub target: P::Target,
    /// Leases and progress.
    pub ledger: P::Ledger,
    /// Segments.
    pub segments: P::Objects,
    /// The offset map.
    pub evidence: P::Objects,
    /// Time.
    pub clock: P::Clock,
    /// What the operator has set.
    pub settings: Settings,
    /// What all lanes of the process share.
    pub shared: Arc<Shared>,
}

#[cfg(test)]
mod tests {
    use krossing_testkit::HandClock;

    use super::*;

    #[test]
    fn a_capped_broker_is_left_alone_until_what_was_read_is_paid_back() {
        let start = Instant::now();
        let bandwidth = Bandwidth::new(Some(1_000));
        let broker = BrokerId(1);
        assert_eq!(bandwidth.wait(start, broker), None);
        bandwidth.spent(broker, 3_000);
        assert_eq!(bandwidth.wait(start, broker), Some(Duration::from_secs(3)));
        assert_eq!(bandwidth.wait(start + Duration::from_secs(2), broker), Some(Duration::from_secs(1)));
        assert_eq!(bandwidth.wait(start + Duration::from_secs(3), broker), None);
        assert_eq!(bandwidth.granted_bytes(broker), 3_000);
    }

    #[tokio::test(start_paused = true)]
    async fn no_broker_is_asked_before_all_that_it_gave_is_paid_back_whatever_each_answer_brought() {
        const RATE: u64 = 1_000;
        let (clock, broker, bandwidth) = (HandClock::default(), BrokerId(1), Bandwidth::new(Some(RATE)));
        let begun = clock.now();
        let answers = [5_000, 0, 1, 999, 20_000, 3, 1_000];
        for bytes in answers {
            bandwidth.grant(&clock, broker).await;
            let earned = (clock.now() - begun).as_millis() * u128::from(RATE) / 1_000;
            assert!(u128::from(bandwidth.granted_bytes(broker)) <= earned, "{bandwidth:?}");
            bandwidth.spent(broker, bytes);
        }
        assert_eq!(bandwidth.granted_bytes(broker), answers.iter().sum::<usize>() as u64);
        // Time in which nothing was read saves up a second's worth and no more.
        clock.skip(Duration::from_secs(3_600)).await;
        bandwidth.grant(&clock, broker).await;
        bandwidth.spent(broker, 2 * RATE as usize);
        assert_eq!(bandwidth.wait(clock.now(), broker), Some(Duration::from_secs(1)));
    }

    #[test]
    fn without_a_cap_nobody_waits() {
        let bandwidth = Bandwidth::new(None);
        bandwidth.spent(BrokerId(1), usize::MAX);
        assert_eq!(bandwidth.wait(Instant::now(), BrokerId(1)), None);
    }
}
