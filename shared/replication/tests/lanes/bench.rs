//! What every test here begins with: a world, a lane over all of its topics, processes of it, and the checks at the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use krossing_core::{
    LaneId, SourceOffset, TopicPartition,
    ports::Ledger,
    progress::PartitionProgress,
    records::{BatchBuilder, Codec, Record},
};
use krossing_replication::{
    Goal, LaneContext, LaneError, LanePartition, LanePlan, Notice, Settings, Shared, TailBoard, TailControl, TailOrder,
    close_lane, load_map, run_lane,
};
use krossing_testkit::{FakePorts, FakeWorld, Faults, clock::BEGINNING_UNIX_MS, model, record, record_at, tombstone};
use tokio::sync::{mpsc, watch};

pub(crate) const LANE: LaneId = LaneId(7);
pub(crate) const TRANSACTIONAL_ID: &str = "krossing.m.7";

/// What the target's topics are held by while they are filled.
const HOLD: [(&str, &str); 3] =
    [("retention.ms", "-1"), ("cleanup.policy", "delete"), ("max.message.bytes", "104857600")];

/// Longer than the tail waits for an answer, and shorter than tests keep it waiting.
const TOMBSTONES_KEPT_MS: i64 = 1_000;

/// A world with one lane over everything on its source.
pub(crate) struct Bench {
    pub(crate) world: FakeWorld,
    pub(crate) segment_bytes_max: usize,
    pub(crate) bytes_per_second_per_broker: Option<u64>,
}

/// One process: its context, and what it has to say.
pub(crate) struct Process {
    pub(crate) ctx: Arc<LaneContext<FakePorts>>,
    notices: mpsc::UnboundedReceiver<Notice>,
}

impl Process {
    pub(crate) fn notices(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.notices.try_recv().ok()).collect()
    }

    pub(crate) async fn seed(&self, plan: LanePlan) -> Result<(), LaneError> {
        run_lane(self.ctx.clone(), plan, Goal::Seed).await
    }

    pub(crate) async fn tail(&self, plan: LanePlan, tail: &Tail) -> Result<(), LaneError> {
        run_lane(self.ctx.clone(), plan, Goal::Tail(tail.control())).await
    }

    pub(crate) async fn close(&self, plan: LanePlan) -> Result<Vec<PartitionProgress>, LaneError> {
        close_lane(self.ctx.clone(), plan).await
    }
}

/// The orders of a tailing lane, and where it shows how far it is.
pub(crate) struct Tail {
    order: watch::Sender<TailOrder>,
    pub(crate) board: Arc<TailBoard>,
}

impl Tail {
    pub(crate) fn ordered(order: TailOrder) -> Self {
        Self { order: watch::Sender::new(order), board: Arc::default() }
    }

    pub(crate) fn order(&self, order: TailOrder) {
        self.order.send_replace(order);
    }

    fn control(&self) -> TailControl {
        TailControl { order: self.order.subscribe(), board: self.board.clone() }
    }
}

impl Bench {
    pub(crate) fn new(brokers: i32) -> Self {
        Self { world: FakeWorld::new(brokers), segment_bytes_max: 32 << 20, bytes_per_second_per_broker: None }
    }

    /// A topic on both sides: with its own settings on the source, held on the target.
    pub(crate) fn topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> TopicPartition {
        self.world.source.create_topic(name, partitions, configs);
        self.world.target.create_topic(name, partitions, &HOLD);
        TopicPartition::new(name, 0)
    }

    /// A bench with one topic of one partition.
    pub(crate) fn with_one_partition(brokers: i32) -> (Self, TopicPartition) {
        let bench = Self::new(brokers);
        let partition = bench.topic("orders", 1, &[]);
        (bench, partition)
    }

    pub(crate) fn plan(&self) -> LanePlan {
        let planned = |partition: TopicPartition| LanePartition {
            topic_id: self.world.source.topic_id(partition.topic.as_str()),
            tombstones_kept_ms: Some(TOMBSTONES_KEPT_MS),
            partition,
        };
        LanePlan {
            id: LANE,
            transactional_id: TRANSACTIONAL_ID.to_owned(),
            partitions: self.world.source.partitions().into_iter().map(planned).collect(),
        }
    }

    pub(crate) fn process(&self, owner: &str, faults: &Faults) -> Process {
        let settings = Settings {
            migration: "m".parse().unwrap(),
            owner: owner.to_owned(),
            segment_bytes_max: self.segment_bytes_max,
            partitions_in_parallel: 4,
            bytes_per_second_per_broker: self.bytes_per_second_per_broker,
        };
        let (sender, notices) = mpsc::unbounded_channel();
        let ports = self.world.process(faults);
        let shared = Shared::new(&settings, sender);
        let ctx = LaneContext {
            source: ports.source,
            target: ports.target,
            ledger: ports.ledger,
            segments: ports.segments,
            evidence: ports.evidence,
            clock: ports.clock,
            settings,
            shared,
        };
        Process { ctx: Arc::new(ctx), notices }
    }

    pub(crate) fn healthy(&self) -> Process {
        self.process("healthy", &Faults::none())
    }

    /// The source's ends as they stand: what a cutover orders a lane to reach.
    pub(crate) fn stop_at_source_ends(&self) -> TailOrder {
        let end = |partition: TopicPartition| {
            let end = self.world.source.ends(&partition).2;
            (partition, SourceOffset(end))
        };
        TailOrder::StopAt(Arc::new(self.world.source.partitions().into_iter().map(end).collect()))
    }

    /// A healthy process that seeds where needed, and tails up to the source's ends as they stand.
    pub(crate) async fn catch_up(&self) -> Result<(), LaneError> {
        let tail = Tail::ordered(self.stop_at_source_ends());
        within_an_hour(self.healthy().tail(self.plan(), &tail)).await
    }

    pub(crate) async fn progress(&self) -> BTreeMap<TopicPartition, PartitionProgress> {
        let stored = self.world.ledger.lane_progress(LANE).await.unwrap();
        stored.into_iter().map(|progress| (progress.partition.clone(), progress)).collect()
    }

    /// That the target holds exactly the source's records, that the map says so, and that the figures add up.
    pub(crate) async fn check(&self) {
        if let Err(wrong) = self.checked().await {
            panic!("{wrong}");
        }
    }

    pub(crate) async fn checked(&self) -> Result<(), String> {
        let partitions = self.world.source.partitions();
        let pairings = model::compare(&self.world.source, &self.world.target, &partitions)?;
        let progress = self.progress().await;
        for (partition, pairing) in partitions.iter().zip(pairings) {
            let progress = progress.get(partition).ok_or_else(|| format!("{partition}: no progress"))?;
            let view = load_map(&self.world.evidence, progress).await.map_err(|e| format!("{partition}: {e}"))?;
            let mapped: Vec<_> = view.records().collect();
            if mapped != pairing.pairs {
                return Err(format!("{partition}: the map says {:?} where {:?} is so", view.runs(), pairing.pairs));
            }
            // What validation relies on: everything in the target's log is a record or a fence of ours.
            let (start, _, end) = self.world.target.ends(partition);
            let records = pairing.pairs.len() as i64;
            let fences = progress.counts.fences as i64;
            if (progress.target_next.0, progress.counts.records as i64) != (end, records) {
                return Err(format!("{partition}: {progress:?} where the target ends at {end} with {records} records"));
            }
            if end - start - fences != records {
                return Err(format!("{partition}: {end} offsets from {start}, {fences} fences, {records} records"));
            }
            if !progress.ahead.is_empty() {
                return Err(format!("{partition}: at rest with something announced: {:?}", progress.ahead));
            }
        }
        Ok(())
    }
}

/// Fails a test that would wait for ever.
pub(crate) async fn within_an_hour<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), future).await.expect("it ends")
}

/// Records whose values nothing else has.
pub(crate) fn records(label: &str, numbers: std::ops::Range<i64>) -> Vec<Record> {
    numbers.map(|number| record(&format!("{label}-{number}"), &format!("value {number} of {label}"))).collect()
}

/// A record of its own, of so many bytes.
pub(crate) fn large_record(number: u64, bytes: usize) -> Record {
    Record { value: Some(vec![number as u8; bytes].into()), ..record(&format!("large-{number}"), "") }
}

/// Topics of every kind that is hard to copy.
pub(crate) fn fill_with_everything(bench: &Bench) {
    let source = &bench.world.source;
    let codecs = bench.topic("codecs", 2, &[]);
    for (number, codec) in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].into_iter().enumerate() {
        let mut batch = records(&format!("codec-{number}"), 0..3);
        batch[1].headers = vec![("h".into(), Some("1".into())), ("h".into(), None), ("".into(), Some("".into()))];
        batch[2].key = None;
        source.append(&codecs, codec, batch);
    }
    let tiny = bench.topic("tiny", 1, &[]);
    for number in 0..40 {
        source.append(&tiny, Codec::None, records("tiny", number..number + 1));
    }
    let large = bench.topic("large", 1, &[("max.message.bytes", "104857600")]);
    for number in 0..6 {
        source.append(&large, Codec::None, vec![large_record(number, 200_000)]);
        source.append(&large, Codec::Lz4, records("small beside large", number as i64 * 2..number as i64 * 2 + 2));
    }
    let gaps = bench.topic("gaps", 1, &[("cleanup.policy", "compact")]);
    for round in 0..6 {
        let key = |number: i64| record(&format!("key-{}", number * (1 + round % 2)), &format!("{round}.{number}"));
        source.append(&gaps, Codec::Zstd, (0..8).map(key).collect());
    }
    source.append(&gaps, Codec::None, vec![tombstone("key-3")]);
    source.append(&gaps, Codec::None, records("newest", 0..2));
    source.compact(&gaps, false);
    let transactions = bench.topic("transactions", 2, &[]);
    let other = TopicPartition::new("transactions", 1);
    let mut one = source.transactional_producer("one");
    let mut two = source.transactional_producer("two");
    for round in 0..4 {
        one.append(&transactions, Codec::Lz4, records(&format!("one {round}"), 0..3));
        two.append(&transactions, Codec::None, records(&format!("two {round}"), 0..2));
        two.append(&other, Codec::None, records(&format!("two there {round}"), 0..2));
        source.append(&transactions, Codec::None, records(&format!("outside {round}"), 0..1));
        one.append(&transactions, Codec::None, records(&format!("one again {round}"), 0..1));
        if round % 2 == 0 {
            one.commit()
        } else {
            one.abort()
        }
        if round % 3 == 0 { two.abort() } else { two.commit() }
    }
    let stamped = bench.topic("stamped", 1, &[("message.timestamp.type", "LogAppendTime")]);
    for round in 0..3 {
        source.append(&stamped, Codec::Gzip, records(&format!("stamped {round}"), 0..3));
    }
    let headless = bench.topic("headless", 1, &[]);
    for round in 0..3 {
        source.append(&headless, Codec::Snappy, records(&format!("headless {round}"), 0..4));
    }
    source.delete_records(&headless, 6);
    let old = bench.topic("old", 1, &[]);
    let years = 10 * 365 * 24 * 3_600_000;
    source.append(
        &old,
        Codec::None,
        (0..3).map(|n| record_at(BEGINNING_UNIX_MS - years + n, "old", &n.to_string())).collect(),
    );
    source.append(&old, Codec::None, vec![record_at(BEGINNING_UNIX_MS + years, "future", "")]);
    bench.topic("empty", 2, &[]);
}

/// One more batch on every partition, of a kind that depends on its number.
pub(crate) fn append_everywhere(bench: &Bench, round: i64) {
    let source = &bench.world.source;
    for (number, partition) in source.partitions().into_iter().enumerate() {
        let label = format!("live {round} on {partition}");
        match number % 3 {
            0 => {
                source.append(&partition, Codec::Lz4, records(&label, 0..3));
            }
            1 => {
                let mut producer = source.transactional_producer("live");
                producer.append(&partition, Codec::None, records(&label, 0..2));
                if round % 2 == 0 {
                    producer.commit()
                } else {
                    producer.abort()
                }
                source
                    .append_batch(&partition, BatchBuilder { records: records(&label, 2..4), ..BatchBuilder::new(0) });
            }
            _ => {
                let years = 10 * 365 * 24 * 3_600_000;
                source.append(&partition, Codec::None, vec![record_at(BEGINNING_UNIX_MS - years, "old", &label)]);
            }
        }
    }
}
