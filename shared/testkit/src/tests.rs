//! The fake cluster held against what brokers were seen to do (`kafka-facts`), and the faults around it.

use std::time::Duration;

use bytes::Bytes;
use krossing_core::{
    KafkaCode, LeaderEpoch, Offset, Producer, Side, TargetOffset, TopicPartition,
    ports::{
        Clock, ClusterError, EpochEnd, FetchPartition, FetchRequest, Fetched, Groups, Isolation, LogEnd, LogReader,
        LogWriter, Marker, NewTopic, ProduceOutcome, ProduceRequest, TopicAdmin, VisibleRecord,
    },
    records::{AbortFilter, BatchBuilder, Batches, Codec, ControlType, Record, Verdict, control_batch},
};

use crate::{FakeCluster, FakeWorld, Fault, Faults, Faulty, HandClock, model, record, record_at, tombstone};

const DAY: Duration = Duration::from_secs(24 * 3600);
const OURS: Producer = Producer { id: 900, epoch: 4 };

fn cluster() -> (FakeCluster, TopicPartition) {
    let cluster = FakeCluster::new(Side::Target, 3, HandClock::default());
    cluster.create_topic("orders", 2, &[]);
    (cluster, TopicPartition::new("orders", 0))
}

/// A batch as a producer sends it.
fn batch(producer: Producer, base_sequence: i32, records: Vec<Record>) -> BatchBuilder {
    let records = (0..).zip(records).map(|(offset, record)| Record { offset, ..record }).collect();
    BatchBuilder { producer, base_sequence, records, ..BatchBuilder::new(0) }
}

fn built(batch: BatchBuilder) -> Bytes {
    batch.build().expect("a good batch")
}

fn request(cluster: &FakeCluster, partition: &TopicPartition, batch: Bytes) -> ProduceRequest {
    let send_before = cluster.clock.now() + Duration::from_secs(1);
    ProduceRequest { partition: partition.clone(), batch, send_before }
}

async fn produce(cluster: &FakeCluster, partition: &TopicPartition, batch: Bytes) -> Result<Offset, KafkaCode> {
    match cluster.produce(request(cluster, partition, batch)).await {
        ProduceOutcome::Appended { base_offset } => Ok(base_offset),
        ProduceOutcome::Refused { code, .. } => Err(code),
        other => panic!("{other:?}"),
    }
}

async fn fetch(
    cluster: &FakeCluster,
    partition: &TopicPartition,
    offset: Offset,
    last_epoch: Option<i32>,
    isolation: Isolation,
    bytes_max: u32,
) -> Result<Fetched, KafkaCode> {
    let leaders = cluster.leaders(std::slice::from_ref(partition), true).await.expect("the fake answers");
    let wanted = FetchPartition {
        partition: partition.clone(),
        topic_id: None,
        offset,
        last_epoch: last_epoch.map(LeaderEpoch),
        bytes_max,
    };
    let request = FetchRequest {
        broker: leaders[partition].expect("the partition has a leader").broker,
        partitions: vec![wanted],
        isolation,
        wait_max: Duration::ZERO,
        bytes_min: 1,
        bytes_max,
    };
    cluster.fetch(request).await.expect("the fake answers").remove(partition).expect("asked for")
}

fn values(records: &[VisibleRecord]) -> Vec<String> {
    let text =
        |record: &VisibleRecord| record.value.as_ref().map_or(String::from("-"), |v| String::from_utf8_lossy(v).into());
    records.iter().map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn batches_that_brokers_refuse_are_refused_with_their_codes() {
    let (cluster, partition) = cluster();
    cluster.create_topic("compacted", 1, &[("cleanup.policy", "compact")]);
    cluster.create_topic("stamped", 1, &[("message.timestamp.type", "LogAppendTime")]);
    cluster.create_topic("strict", 1, &[("message.timestamp.before.max.ms", "1000"), ("max.message.bytes", "100")]);
    let one = || batch(OURS, 0, vec![record("k", "v")]);
    let mut corrupt = built(one()).to_vec();
    corrupt[65] ^= 1;
    let twice = [built(one()), built(one())].concat();
    let shifted = BatchBuilder { base_offset: 5, records: vec![Record { offset: 5, ..record("k", "v") }], ..one() };
    let gap = BatchBuilder { last_offset: Some(3), ..one() };
    let transactional = BatchBuilder { transactional: true, ..one() };
    let keyless = batch(OURS, 0, vec![Record { key: None, ..record("", "v") }]);
    let stamped = BatchBuilder { log_append_time_ms: Some(1), ..one() };
    let old = batch(OURS, 0, vec![record_at(1, "k", "v")]);
    let large = batch(OURS, 0, vec![record("k", &"v".repeat(200))]);
    let marker = control_batch(OURS, ControlType::Commit, 0, 0, LeaderEpoch(0), 0);
    for (topic, bytes, code) in [
        ("orders", Bytes::from(corrupt), KafkaCode::CORRUPT_MESSAGE),
        ("orders", Bytes::from(twice), KafkaCode::INVALID_RECORD),
        ("orders", built(shifted), KafkaCode::INVALID_RECORD),
        ("orders", built(gap), KafkaCode::INVALID_RECORD),
        ("orders", built(transactional), KafkaCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        ("orders", marker, KafkaCode::INVALID_RECORD),
        ("compacted", built(keyless), KafkaCode::INVALID_RECORD),
        ("stamped", built(stamped.clone()), KafkaCode::INVALID_TIMESTAMP),
        ("strict", built(old), KafkaCode::INVALID_TIMESTAMP),
        ("strict", built(large), KafkaCode::MESSAGE_TOO_LARGE),
    ] {
        let answer = produce(&cluster, &TopicPartition::new(topic, 0), bytes).await;
        assert_eq!(answer, Err(code), "{topic}");
    }
    assert_eq!(cluster.ends(&partition), (0, 0, 0), "what is refused leaves nothing");
    assert_eq!(produce(&cluster, &partition, built(stamped)).await, Ok(0));
    assert_eq!(
        cluster.visible_records(&partition)[0].timestamp_ms,
        crate::clock::BEGINNING_UNIX_MS,
        "the stamp is lost"
    );
}

#[tokio::test(start_paused = true)]
async fn sequences_are_kept_by_the_partition_that_remembers_the_producer() {
    let (cluster, partition) = cluster();
    let send = |epoch, sequence| {
        let producer = Producer { epoch, ..OURS };
        let bytes = built(batch(producer, sequence, vec![record("k", &format!("{epoch}-{sequence}"))]));
        produce(&cluster, &partition, bytes)
    };
    for sequence in 0..7 {
        assert_eq!(send(4, sequence).await, Ok(i64::from(sequence)));
    }
    assert_eq!(send(4, 2).await, Ok(2), "one of the last five is answered with its own offset");
    assert_eq!(send(4, 1).await, Err(KafkaCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    assert_eq!(send(4, 8).await, Err(KafkaCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    assert_eq!(send(5, 7).await, Err(KafkaCode::OUT_OF_ORDER_SEQUENCE_NUMBER), "a new epoch begins at zero");
    assert_eq!(send(5, 0).await, Ok(7));
    assert_eq!(send(4, 7).await, Err(KafkaCode::INVALID_PRODUCER_EPOCH));
    assert_eq!(cluster.ends(&partition).2, 8);
}

#[tokio::test(start_paused = true)]
async fn a_partition_forgets_a_producer_of_old_records_unless_a_marker_is_younger() {
    let (cluster, partition) = cluster();
    let producer = cluster.open_producer("krossing.m.0").await.expect("the fake answers");
    let old = built(batch(producer, 0, vec![record_at(1_000, "k", "ten years old")]));
    assert_eq!(produce(&cluster, &partition, old.clone()).await, Ok(0));
    assert_eq!(produce(&cluster, &partition, old.clone()).await, Ok(0), "a repeat, while it is remembered");
    cluster.restart_brokers();
    assert_eq!(produce(&cluster, &partition, old.clone()).await, Ok(1), "the repeat was appended");

    let partitions = [partition.clone()];
    assert_eq!(cluster.mark("krossing.m.0", producer, &partitions).await, Ok([].into()));
    cluster.restart_brokers();
    assert_eq!(produce(&cluster, &partition, old.clone()).await, Ok(1), "the marker's timestamp is the present");
    cluster.clock.skip(DAY + Duration::from_secs(600)).await;
    assert_eq!(produce(&cluster, &partition, old).await, Ok(3), "a day later the sweep has passed");
}

#[tokio::test(start_paused = true)]
async fn a_fence_stands_when_its_marker_has_landed() {
    let (cluster, partition) = cluster();
    let id = "krossing.m.0";
    let older = cluster.open_producer(id).await.expect("the fake answers");
    let newer = cluster.open_producer(id).await.expect("the fake answers");
    assert_eq!((newer.id, newer.epoch), (older.id, older.epoch + 1));
    cluster.delay_markers(Duration::from_millis(80));
    assert_eq!(cluster.mark(id, newer, std::slice::from_ref(&partition)).await, Ok([].into()));
    let send = |sequence| built(batch(older, sequence, vec![record("k", &sequence.to_string())]));
    assert_eq!(produce(&cluster, &partition, send(0)).await, Ok(0), "until then the older one still writes");

    let wait = FetchRequest {
        broker: cluster.leaders(std::slice::from_ref(&partition), true).await.expect("answers")[&partition]
            .expect("led")
            .broker,
        partitions: vec![FetchPartition {
            partition: partition.clone(),
            topic_id: None,
            offset: 1,
            last_epoch: None,
            bytes_max: 1_000,
        }],
        isolation: Isolation::ReadUncommitted,
        wait_max: Duration::from_secs(5),
        bytes_min: 1,
        bytes_max: 1_000,
    };
    let begun = cluster.clock.now();
    let mut answer = cluster.fetch(wait).await.expect("the fake answers");
    assert_eq!(cluster.clock.now() - begun, Duration::from_millis(80), "a waiting fetch is woken by the marker");
    let fetched = answer.remove(&partition).expect("asked for").expect("readable");
    let marker = Batches::new(fetched.records).next().expect("a batch").expect("readable");
    assert!(marker.header.is_control());
    assert_eq!(marker.header.producer, newer);
    assert_eq!(produce(&cluster, &partition, send(1)).await, Err(KafkaCode::INVALID_PRODUCER_EPOCH));
    let refused = cluster.mark(id, older, std::slice::from_ref(&partition)).await;
    assert!(matches!(refused, Err(ClusterError::Refused { code: KafkaCode::INVALID_PRODUCER_EPOCH, .. })));
    assert_eq!(values(&cluster.visible_records(&partition)), ["0"]);
}

#[tokio::test(start_paused = true)]
async fn one_unknown_partition_keeps_all_others_from_being_marked() {
    let (cluster, partition) = cluster();
    let producer = cluster.open_producer("krossing.m.0").await.expect("the fake answers");
    let unknown = TopicPartition::new("nowhere", 0);
    let refused = cluster.mark("krossing.m.0", producer, &[partition.clone(), unknown.clone()]).await;
    let expected =
        [(partition.clone(), KafkaCode::OPERATION_NOT_ATTEMPTED), (unknown, KafkaCode::UNKNOWN_TOPIC_OR_PARTITION)];
    assert_eq!(refused, Ok(expected.into()));
    assert_eq!(cluster.ends(&partition).2, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_week_gives_a_transactional_id_another_producer() {
    let (cluster, _) = cluster();
    let first = cluster.open_producer("krossing.m.0").await.expect("the fake answers");
    cluster.clock.skip(7 * DAY).await;
    let second = cluster.open_producer("krossing.m.0").await.expect("the fake answers");
    assert_ne!(first.id, second.id);
}

#[tokio::test(start_paused = true)]
async fn aborted_and_open_transactions_stay_out_of_committed_reads() {
    let (cluster, partition) = cluster();
    let mut committed = cluster.transactional_producer("a");
    let mut aborted = cluster.transactional_producer("b");
    let mut open = cluster.transactional_producer("c");
    committed.append(&partition, Codec::Zstd, vec![record("1", "committed")]);
    aborted.append(&partition, Codec::None, vec![record("2", "aborted")]);
    committed.append(&partition, Codec::None, vec![record("3", "committed too")]);
    aborted.abort();
    committed.commit();
    aborted.append(&partition, Codec::Gzip, vec![record("4", "second try")]);
    aborted.commit();
    open.append(&partition, Codec::None, vec![record("5", "open")]);
    cluster.append(&partition, Codec::Lz4, vec![record("6", "behind the open one")]);

    assert_eq!(values(&cluster.visible_records(&partition)), ["committed", "committed too", "second try"]);
    assert_eq!(cluster.ever_visible(&partition), cluster.visible_records(&partition));
    assert_eq!(cluster.ends(&partition), (0, 7, 9));

    let fetched = fetch(&cluster, &partition, 0, None, Isolation::ReadCommitted, 1 << 20).await.expect("readable");
    assert_eq!((fetched.last_stable_offset, fetched.high_watermark, fetched.aborted.len()), (7, 9, 1));
    let mut filter = AbortFilter::new(fetched.aborted.clone());
    let data = Batches::new(fetched.records)
        .map(|batch| batch.expect("readable"))
        .filter(|batch| filter.verdict(batch) == Ok(Verdict::Data))
        .map(|batch| batch.header.base_offset);
    assert_eq!(data.collect::<Vec<_>>(), [0, 2, 5]);
    let later = fetch(&cluster, &partition, 5, None, Isolation::ReadCommitted, 1 << 20).await.expect("readable");
    assert_eq!(later.aborted, [], "it ended before");
    open.abort();
    assert_eq!(values(&cluster.visible_records(&partition))[3..], ["behind the open one"]);
    assert_eq!(cluster.ever_visible(&partition), cluster.visible_records(&partition));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_gives_one_whole_batch_at_least_and_cuts_the_last() {
    let (cluster, partition) = cluster();
    for value in ["first", "second", "third"] {
        cluster.append(&partition, Codec::None, vec![record("a", value), record("b", value)]);
    }
    let size = cluster.batches(&partition)[0].bytes.len();
    let read = |bytes_max| fetch(&cluster, &partition, 1, None, Isolation::ReadUncommitted, bytes_max);
    assert_eq!(read(1).await.expect("readable").records.len(), size, "the batch that holds the offset, whole");
    let cut = read(size as u32 + 10).await.expect("readable").records;
    assert_eq!((cut.len(), Batches::new(cut).count()), (size + 10, 1));
    for offset in [-1, 7] {
        let answer = fetch(&cluster, &partition, offset, None, Isolation::ReadUncommitted, 100).await;
        assert_eq!(answer, Err(KafkaCode::OFFSET_OUT_OF_RANGE));
    }
}

#[tokio::test(start_paused = true)]
async fn records_replaced_by_an_unclean_election_show_as_diverging() {
    let (cluster, partition) = cluster();
    for value in ["kept", "lost", "lost too"] {
        cluster.append(&partition, Codec::None, vec![record("k", value)]);
    }
    cluster.replace_tail(&partition, 1);
    cluster.append(&partition, Codec::None, vec![record("k", "new")]);
    assert_eq!(values(&cluster.visible_records(&partition)), ["kept", "new"]);
    assert_eq!(cluster.ever_visible(&partition), cluster.visible_records(&partition));

    let end = EpochEnd { epoch: LeaderEpoch(0), end: 1 };
    assert_eq!(cluster.epoch_end(&partition, LeaderEpoch(0)).await, Ok(Some(end)));
    assert_eq!(cluster.epoch_end(&partition, LeaderEpoch(9)).await, Ok(None));
    let read = |offset, epoch| fetch(&cluster, &partition, offset, Some(epoch), Isolation::ReadUncommitted, 1_000);
    let diverged = read(3, 0).await.expect("an answer");
    assert_eq!((diverged.diverging, diverged.records.len()), (Some(end), 0));
    assert_eq!(read(1, 0).await.expect("an answer").diverging, None, "what was read before it is still there");
    assert_eq!(read(2, 1).await.expect("an answer").diverging, None);
}

#[tokio::test(start_paused = true)]
async fn a_moved_leader_answers_at_its_new_place_only() {
    let (cluster, partition) = cluster();
    cluster.append(&partition, Codec::None, vec![record("k", "v")]);
    let partitions = [partition.clone()];
    let before = cluster.leaders(&partitions, false).await.expect("answers")[&partition].expect("led");
    cluster.move_leader(&partition, before.broker.0 % 3 + 1);
    let believed = cluster.leaders(&partitions, false).await.expect("answers")[&partition].expect("led");
    assert_eq!(believed, before, "clients believe until they ask afresh");
    let wanted =
        FetchPartition { partition: partition.clone(), topic_id: None, offset: 0, last_epoch: None, bytes_max: 100 };
    let request = FetchRequest {
        broker: believed.broker,
        partitions: vec![wanted],
        isolation: Isolation::ReadUncommitted,
        wait_max: Duration::from_secs(1),
        bytes_min: 1,
        bytes_max: 100,
    };
    assert_eq!(cluster.fetch(request).await.expect("answers")[&partition], Err(KafkaCode::NOT_LEADER_OR_FOLLOWER));
    assert!(fetch(&cluster, &partition, 0, Some(0), Isolation::ReadUncommitted, 100).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_cleaner_leaves_gaps_and_takes_tombstones_when_told() {
    let (cluster, _) = cluster();
    cluster.create_topic("table", 1, &[("cleanup.policy", "compact")]);
    let partition = TopicPartition::new("table", 0);
    cluster.append(&partition, Codec::Lz4, vec![record("a", "1"), record("b", "1"), record("a", "2")]);
    cluster.append(&partition, Codec::None, vec![tombstone("b")]);
    cluster.append(&partition, Codec::None, vec![record("c", "newest")]);
    cluster.compact(&partition, false);
    let offsets = || cluster.visible_records(&partition).iter().map(|record| record.offset).collect::<Vec<_>>();
    assert_eq!(offsets(), [2, 3, 4]);
    let first = cluster.batches(&partition)[0].header;
    assert_eq!((first.base_offset, first.last_offset(), first.is_dense()), (0, 2, false));
    cluster.compact(&partition, true);
    assert_eq!(offsets(), [2, 4]);
    assert_eq!(cluster.ever_visible(&partition).len(), 5);

    cluster.set_topic_config("table", "min.compaction.lag.ms", &i64::MAX.to_string());
    cluster.append(&partition, Codec::None, vec![record("a", "3")]);
    cluster.append(&partition, Codec::None, vec![record("d", "newest")]);
    cluster.compact(&partition, false);
    assert_eq!(offsets(), [2, 4, 5, 6], "a lag protects");
}

#[tokio::test(start_paused = true)]
async fn retention_takes_old_records_and_an_endless_one_does_not() {
    let (cluster, partition) = cluster();
    cluster.append(&partition, Codec::None, vec![record_at(1_000, "k", "old")]);
    cluster.append(&partition, Codec::None, vec![record("k", "young")]);
    cluster.set_topic_config("orders", "retention.ms", "-1");
    cluster.apply_retention();
    assert_eq!(cluster.visible_records(&partition).len(), 2);
    cluster.set_topic_config("orders", "retention.ms", "60000");
    cluster.apply_retention();
    assert_eq!(values(&cluster.visible_records(&partition)), ["young"]);
    assert_eq!(
        cluster.log_ends(std::slice::from_ref(&partition), LogEnd::Earliest).await,
        Ok([(partition.clone(), Ok(1))].into())
    );
    cluster.delete_records(&partition, 2);
    assert_eq!(cluster.ends(&partition), (2, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_is_another_one() {
    let (cluster, partition) = cluster();
    let old = cluster.topic_id("orders");
    cluster.delete_topic("orders");
    let new = NewTopic { name: "orders".into(), partitions: 1, replication_factor: 3, configs: [].into() };
    assert_eq!(cluster.create_topics(std::slice::from_ref(&new)).await, Ok([("orders".into(), Ok(()))].into()));
    let again = cluster.create_topics(&[new]).await.expect("answers");
    assert!(matches!(&again[&"orders".into()], Err((KafkaCode::TOPIC_ALREADY_EXISTS, _))));
    assert_ne!(cluster.topic_id("orders"), old);
    let wanted =
        FetchPartition { partition: partition.clone(), topic_id: old, offset: 0, last_epoch: None, bytes_max: 9 };
    let request = FetchRequest {
        broker: krossing_core::BrokerId(1),
        partitions: vec![wanted],
        isolation: Isolation::ReadUncommitted,
        wait_max: Duration::ZERO,
        bytes_min: 0,
        bytes_max: 9,
    };
    assert_eq!(cluster.fetch(request).await.expect("answers")[&partition], Err(KafkaCode::UNKNOWN_TOPIC_ID));
}

#[tokio::test(start_paused = true)]
async fn groups_refuse_while_they_have_members_and_forget_after_a_week_without() {
    let (cluster, partition) = cluster();
    let billing = ["billing".into()];
    cluster.commit("billing", &partition, 7, "note");
    let offsets = cluster.committed("billing");
    cluster.set_members("billing", 1, "consumer");
    let refused = cluster.commit_group_offsets(&"billing".into(), &offsets).await;
    assert_eq!(refused, Ok([(partition.clone(), KafkaCode::UNKNOWN_MEMBER_ID)].into()));
    cluster.clock.skip(30 * DAY).await;
    assert_eq!(
        cluster.group_offsets(&billing).await,
        Ok([("billing".into(), offsets.clone())].into()),
        "members keep them"
    );
    cluster.set_members("billing", 0, "consumer");
    cluster.set_unstable("billing", true);
    assert!(matches!(cluster.group_offsets(&billing).await, Err(ClusterError::Unavailable { .. })));
    cluster.set_unstable("billing", false);
    assert_eq!(cluster.commit_group_offsets(&"billing".into(), &offsets).await, Ok([].into()));
    cluster.clock.skip(7 * DAY).await;
    assert_eq!(cluster.group_offsets(&billing).await, Ok([("billing".into(), [].into())].into()));
    let described = cluster.describe_groups(&["billing".into()]).await.expect("answers");
    assert_eq!(described[0].state, "Dead");
}

// ── Faults ─────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn one_produce(fault: Fault) -> (Option<ProduceOutcome>, FakeCluster, TopicPartition) {
    let (cluster, partition) = cluster();
    let faults = Faults::on("target.produce", 0, fault);
    let target = Faulty::target(cluster.clone(), &faults);
    let request = request(&cluster, &partition, built(batch(OURS, 0, vec![record("k", "v")])));
    let outcome = tokio::select! {
        outcome = target.produce(request) => Some(outcome),
        () = faults.crashed() => None,
    };
    (outcome, cluster, partition)
}

#[tokio::test(start_paused = true)]
async fn a_fault_happens_before_or_after_the_effect_and_the_caller_cannot_tell() {
    for (fault, known, end) in [
        (Fault::FailBefore, "unknown", 0),
        (Fault::FailAfter, "unknown", 1),
        (Fault::HappensLater(DAY), "unknown", 0),
        (Fault::NotSent, "not sent", 0),
        (Fault::CrashBefore, "dead", 0),
        (Fault::CrashAfter, "dead", 1),
    ] {
        let (outcome, cluster, partition) = one_produce(fault).await;
        let seen = match outcome {
            None => "dead",
            Some(ProduceOutcome::Unknown { .. }) => "unknown",
            Some(ProduceOutcome::NotAppended { .. }) => "not sent",
            Some(other) => panic!("{other:?}"),
        };
        assert_eq!((seen, cluster.ends(&partition).2), (known, end), "{fault:?}");
        cluster.clock.sleep(2 * DAY).await;
        let late = i64::from(matches!(fault, Fault::HappensLater(_)));
        assert_eq!(cluster.ends(&partition).2, end + late, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_dead_do_nothing_more_and_their_successor_does() {
    let world = FakeWorld::new(1);
    let faults = Faults::none();
    let process = world.process(&faults);
    faults.crash();
    let commit = tokio::spawn(async move { process.target.open_producer("id").await });
    tokio::time::sleep(DAY).await;
    assert!(!commit.is_finished());
    assert_eq!(world.target.producer_of("id"), None);
    commit.abort();
    assert!(world.process(&Faults::none()).target.open_producer("id").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stands_still_goes_on_where_it_was() {
    let world = FakeWorld::new(1);
    let faults = Faults::at(0, Fault::Stop);
    let process = world.process(&faults);
    let calls = tokio::spawn(async move {
        let (one, two) = (process.target.open_producer("one"), process.target.open_producer("two"));
        tokio::join!(one, two)
    });
    faults.stopped().await;
    tokio::time::sleep(DAY).await;
    assert_eq!((world.target.producer_of("one"), world.target.producer_of("two")), (None, None));
    faults.wake();
    let (first, second) = calls.await.expect("it goes on");
    first.expect("the call goes on");
    second.expect("the call goes on");
    assert!(world.target.producer_of("one").is_some() && world.target.producer_of("two").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_seed_gives_the_same_faults_again() {
    let run = |seed| async move {
        let world = FakeWorld::new(1);
        let process = world.process(&Faults::by_seed(seed, 4, &[Fault::FailBefore, Fault::FailAfter]));
        let mut failed = Vec::new();
        for call in 0..60 {
            if process.target.list_groups().await.is_err() {
                failed.push(call);
            }
        }
        failed
    };
    let (first, again, other) = (run(7).await, run(7).await, run(8).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!((5..30).contains(&first.len()), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_are_numbered_over_all_ports_of_a_process() {
    let world = FakeWorld::new(1);
    let faults = Faults::at(1, Fault::FailBefore);
    let process = world.process(&faults);
    use krossing_core::ports::{Ledger, ProducerFreeze};
    assert!(process.source.list_groups().await.is_ok());
    assert!(process.ledger.append_journal(0, "line").await.is_err());
    assert!(process.freeze.freeze(1).await.is_ok());
    let calls: Vec<_> = faults.calls().into_iter().map(|call| (call.number, call.name)).collect();
    let expected = [(0, "source.list_groups"), (1, "ledger.append_journal"), (2, "freeze.freeze")];
    assert_eq!(calls, expected.map(|(number, name)| (number, name.to_owned())));
    assert!(world.freeze.is_frozen());
}

#[tokio::test(start_paused = true)]
async fn the_model_compares_clusters_through_what_was_cleaned_since() {
    let world = FakeWorld::new(1);
    let partition = TopicPartition::new("table", 0);
    for cluster in [&world.source, &world.target] {
        cluster.create_topic("table", 1, &[("cleanup.policy", "compact")]);
    }
    for value in ["1", "2", "3"] {
        world.source.append(&partition, Codec::None, vec![record("a", value)]);
    }
    world.target.append(&partition, Codec::Lz4, vec![record("a", "1"), record("a", "2"), record("a", "3")]);
    world.source.compact(&partition, false);
    world.source.commit("billing", &partition, 1, "note");
    let boundaries = [(partition.clone(), TargetOffset(3))].into();
    let committed = world.source.committed("billing");
    assert!(model::compare(&world.source, &world.target, std::slice::from_ref(&partition)).is_ok());
    let moved = model::translated(&world.source, &world.target, &committed, &boundaries).expect("a good copy");
    assert_eq!(moved[&partition].offset, 1);
    world.target.append(&partition, Codec::None, vec![record("a", "3")]);
    let doubled = model::compare(&world.source, &world.target, &[partition]).expect_err("doubled");
    assert!(doubled.contains("target record 3, which is source record 2"), "{doubled}");
}
