//! Logs that move under a lane, on either side.

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use krossing_core::{
    SourceOffset, TopicPartition,
    drain::OpenTransaction,
    ports::{Clock, Marker, Objects},
    records::{Codec, batch::Batches},
};
use krossing_replication::{LaneError, Notice, ScanFrom, TailOrder, load_map, open_transactions, records_behind};
use krossing_testkit::{Call, Faults, record};

use crate::bench::{
    Bench, Process, TRANSACTIONAL_ID, Tail, fill_with_everything, large_record, records, within_an_hour,
};

/// A process before whose call `number` of that name something happens, once.
fn with_event(bench: &Bench, name: &'static str, number: usize, event: impl FnOnce() + Send + 'static) -> Process {
    let (mut seen, event) = (0, Mutex::new(Some(event)));
    let faults = Faults::deciding(move |call: &Call| {
        if call.name == name {
            seen += 1;
            if seen == number + 1
                && let Some(event) = event.lock().unwrap().take()
            {
                event();
            }
        }
        None
    });
    bench.process("eventful", &faults)
}

fn gaps(process: &mut Process) -> Vec<(i64, i64)> {
    let gap = |notice| match notice {
        Notice::Gap { from, to, .. } => Some((from.0, to.0)),
        Notice::StartedOver { .. } | Notice::RolledBack { .. } => None,
    };
    process.notices().into_iter().filter_map(gap).collect()
}

async fn tail_to_the_end(bench: &Bench, process: &Process) -> Result<(), LaneError> {
    let tail = Tail::ordered(bench.stop_at_source_ends());
    within_an_hour(process.tail(bench.plan(), &tail)).await
}

#[tokio::test(start_paused = true)]
async fn what_retention_took_before_it_was_read_is_a_gap_and_no_failure() {
    // The log's new start: in the middle of a batch, at one, beyond the seed's end, at the log's end.
    for (start, appended) in [(13, 0), (20, 0), (47, 10), (50, 0), (60, 10)] {
        for reading in 0..3 {
            let bench = Bench { segment_bytes_max: 100, ..Bench::new(1) };
            let partition = bench.topic("orders", 1, &[]);
            for round in 0..5 {
                let batch = (0..10).map(|n| large_record(round * 10 + n, 300_000)).collect();
                bench.world.source.append(&partition, Codec::None, batch);
            }
            let (source, at) = (bench.world.source.clone(), partition.clone());
            let mut process = with_event(&bench, "source.fetch", reading, move || {
                if appended > 0 {
                    source.append(&at, Codec::None, records("later", 0..appended));
                }
                source.delete_records(&at, start);
            });
            tail_to_the_end(&bench, &process).await.unwrap();
            // Ends as they stood when the lane began may lie before what came later.
            tail_to_the_end(&bench, &bench.healthy()).await.unwrap();
            bench.check().await;
            let progress = bench.progress().await.remove(&partition).unwrap();
            let recorded: Vec<_> = progress.gaps.iter().map(|gap| (gap.from.0, gap.to.0)).collect();
            assert_eq!(recorded, gaps(&mut process), "log start {start} at fetch {reading}");
            for (from, to) in recorded {
                assert_eq!(to, start);
                let map = load_map(&bench.world.evidence, &progress).await.unwrap();
                assert!(map.records().all(|(source, _)| source.0 < from || source.0 >= to), "{from}..{to} was copied");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retention_ahead_of_a_tail_is_a_gap_too() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.source.append(&partition, Codec::None, records("a", 0..10));
    bench.catch_up().await.unwrap();
    bench.world.source.append(&partition, Codec::None, records("b", 0..10));
    bench.world.source.append(&partition, Codec::None, records("c", 0..10));
    for (start, gap) in [(25, (10, 25)), (30, (30, 30))] {
        bench.world.source.delete_records(&partition, start);
        let mut process = bench.healthy();
        tail_to_the_end(&bench, &process).await.unwrap();
        bench.check().await;
        let noticed = gaps(&mut process);
        assert_eq!(noticed, if gap.0 < gap.1 { vec![gap] } else { vec![] });
    }
    // Trimmed to the very end: nothing is left to read, and the tail gets there all the same.
    bench.world.source.append(&partition, Codec::None, records("d", 0..10));
    bench.world.source.delete_records(&partition, 40);
    bench.catch_up().await.unwrap();
    let progress = bench.progress().await.remove(&partition).unwrap();
    assert_eq!((progress.source_next, progress.gaps.len()), (SourceOffset(40), 2));
}

#[tokio::test(start_paused = true)]
async fn records_that_an_unclean_election_replaced_are_named() {
    for (kept, appended) in [(7, 10), (7, 0), (3, 1)] {
        let (bench, partition) = Bench::with_one_partition(2);
        for number in 0..10 {
            bench.world.source.append(&partition, Codec::None, records("a", number..number + 1));
        }
        bench.catch_up().await.unwrap();
        bench.world.source.replace_tail(&partition, kept);
        for number in 0..appended {
            bench.world.source.append(&partition, Codec::None, records("another", number..number + 1));
        }
        let tail = Tail::ordered(TailOrder::Run);
        let stopped = within_an_hour(bench.healthy().tail(bench.plan(), &tail)).await.unwrap_err();
        let LaneError::RecordsReplaced { from, to, .. } = &stopped else { panic!("{stopped:?}") };
        assert_eq!((from.0, to.0), (kept, 10), "{appended} appended");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_election_changes_nothing() {
    for at in 0..6 {
        let bench = Bench { segment_bytes_max: 300, ..Bench::new(3) };
        fill_with_everything(&bench);
        let source = bench.world.source.clone();
        let process = with_event(&bench, "source.fetch", at, move || {
            for (number, partition) in source.partitions().into_iter().enumerate() {
                source.move_leader(&partition, 1 + number as i32 % 3);
                source.append(&partition, Codec::None, vec![record("after", &format!("{partition}"))]);
            }
        });
        tail_to_the_end(&bench, &process).await.unwrap();
        bench.catch_up().await.unwrap();
        bench.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_asked_for_although_other_partitions_are_read_on() {
    for case in 0..108 {
        let (moving, read_on, leader, reading) = (case % 3, case / 3 % 3, 1 + case / 9 % 3, case / 27);
        let bench = Bench::new(3);
        bench.topic("orders", 3, &[]);
        let partitions = [0, 1, 2].map(|partition| TopicPartition::new("orders", partition));
        // Seeded before: what follows is read by the tail.
        bench.catch_up().await.unwrap();
        for partition in &partitions {
            bench.world.source.append(partition, Codec::None, records("before", 0..10));
        }
        let (source, at) = (bench.world.source.clone(), partitions.clone());
        let process = with_event(&bench, "source.fetch", reading, move || {
            source.append(&at[read_on], Codec::None, records("meanwhile", 0..10));
            source.move_leader(&at[moving], leader as i32);
        });
        // One pause and one more look, by the clock turned by hand: not by chance, some time later.
        let tailing = tail_to_the_end(&bench, &process);
        tokio::time::timeout(Duration::from_millis(400), tailing)
            .await
            .expect("its new leader is asked at once")
            .unwrap();
        tail_to_the_end(&bench, &bench.healthy()).await.unwrap();
        bench.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_is_another_topic() {
    for (remade, recreated) in [(true, true), (false, false)] {
        let (bench, partition) = Bench::with_one_partition(1);
        bench.world.source.append(&partition, Codec::None, records("a", 0..10));
        bench.catch_up().await.unwrap();
        let plan = bench.plan();
        bench.world.source.delete_topic("orders");
        if remade {
            bench.world.source.create_topic("orders", 1, &[]);
            bench.world.source.append(&partition, Codec::None, records("another topic", 0..20));
        }
        let tail = Tail::ordered(TailOrder::Run);
        let stopped = within_an_hour(bench.healthy().tail(plan, &tail)).await.unwrap_err();
        assert!(matches!(&stopped, LaneError::TopicGone { recreated: r, .. } if *r == recreated), "{stopped:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_holds_the_tail_and_is_shown_as_the_cause() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.source.append(&partition, Codec::None, records("a", 0..5));
    let (process, tail) = (bench.healthy(), Tail::ordered(TailOrder::Run));
    let orders = async {
        bench.world.clock.sleep(Duration::from_secs(2)).await;
        let mut open = bench.world.source.transactional_producer("slow");
        open.append(&partition, Codec::None, records("open", 0..2));
        bench.world.source.append(&partition, Codec::None, records("behind", 0..5));
        bench.world.clock.sleep(Duration::from_secs(2)).await;
        let lag = tail.board.partitions()[&partition];
        assert!(lag.waits_for_transaction());
        assert_eq!((lag.source_next.0, lag.lag()), (5, 7));
        // The source's end is not read for as long as that: tombstones may come and go.
        assert_eq!(lag.tombstones_doubtful_to.0, 12);
        let (source, clock) = (&bench.world.source, &bench.world.clock);
        let found = open_transactions(source, clock, std::slice::from_ref(&partition)).await.unwrap();
        let [found] = found.try_into().unwrap();
        let OpenTransaction { partition: at, producer, from, since_unix_ms, held_back } = found;
        assert_eq!((at, from, held_back), (partition.clone(), 5, 7));
        assert!(producer.is_some() && since_unix_ms.is_some());
        open.commit();
        bench.world.clock.sleep(Duration::from_secs(2)).await;
        let lag = tail.board.partitions()[&partition];
        assert!(!lag.waits_for_transaction() && lag.lag() == 0, "{lag:?}");
        let found = open_transactions(source, clock, std::slice::from_ref(&partition)).await.unwrap();
        assert_eq!(found, []);
        tail.order(bench.stop_at_source_ends());
    };
    let (ended, ()) = within_an_hour(futures::future::join(process.tail(bench.plan(), &tail), orders)).await;
    ended.unwrap();
    bench.check().await;
}

/// Brokers say OFFSET_OUT_OF_RANGE to an epoch later than any they have had, also for an offset that they hold.
#[tokio::test(start_paused = true)]
async fn an_epoch_that_the_broker_does_not_know_is_not_taken_for_lost_data() {
    use krossing_core::{LeaderEpoch, ports::Ledger};
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.source.append(&partition, Codec::None, records("a", 0..5));
    bench.catch_up().await.unwrap();
    let mut progress = bench.progress().await.remove(&partition).unwrap();
    progress.source_epoch = Some(LeaderEpoch(99));
    bench.world.ledger.save_lane_progress(crate::bench::LANE, krossing_core::Generation(1), &[progress]).await.unwrap();
    bench.world.source.append(&partition, Codec::None, records("b", 0..5));
    let mut process = bench.healthy();
    tail_to_the_end(&bench, &process).await.unwrap();
    assert_eq!(gaps(&mut process), []);
    bench.check().await;
    assert_eq!(bench.progress().await[&partition].source_epoch, Some(LeaderEpoch(0)));
}

/// The target loses its end: to a place among the newest runs, inside a chunk, between chunks, before the seed's end.
#[tokio::test(start_paused = true)]
async fn a_target_that_lost_its_end_is_filled_again() {
    let compacted = |bench: &Bench, partition: &TopicPartition, round: i64, keys: i64| {
        // Every second record goes: a run a record.
        for number in 0..keys {
            let label = format!("{round}.{number}");
            bench.world.source.append(partition, Codec::None, vec![record("same", &label), record(&label, "kept")]);
        }
        bench.world.source.compact(partition, false);
    };
    for (lost, crash) in [(1, false), (3, false), (40, false), (90, true), (250, true), (700, false), (100_000, true)] {
        let bench = Bench::new(1);
        let partition = bench.topic("table", 1, &[("cleanup.policy", "compact")]);
        compacted(&bench, &partition, -1, 300);
        bench.catch_up().await.unwrap();
        for round in 0..3 {
            compacted(&bench, &partition, round, 150);
            bench.catch_up().await.unwrap();
        }
        bench.check().await;
        let end = bench.world.target.ends(&partition).2;
        bench.world.target.replace_tail(&partition, (end - lost).max(0));
        if crash {
            for number in 0..60 {
                let faults = Faults::at(number, krossing_testkit::Fault::CrashBefore);
                let dying = bench.process("dying", &faults);
                tokio::select! {
                    ended = tail_to_the_end(&bench, &dying) => { ended.unwrap(); break }
                    () = faults.crashed() => {}
                }
            }
        }
        let mut process = bench.healthy();
        tail_to_the_end(&bench, &process).await.unwrap();
        if let Err(wrong) = bench.checked().await {
            panic!("{lost} of {end} offsets lost, crashes: {crash}: {wrong}");
        }
        if !crash {
            let rolled_back = process.notices().into_iter().any(|notice| matches!(notice, Notice::RolledBack { .. }));
            assert!(rolled_back, "{lost}");
        }
    }
}

/// The predecessor's fence reaches a log that has lost its end meanwhile.
#[tokio::test(start_paused = true)]
async fn a_marker_in_the_place_of_a_lost_record_is_not_taken_for_it() {
    for lost in 3..9 {
        let (bench, partition) = Bench::with_one_partition(1);
        bench.catch_up().await.unwrap();
        for round in 0..4 {
            bench.world.source.append(&partition, Codec::None, records(&format!("{round}"), 0..1));
            bench.catch_up().await.unwrap();
        }
        let target = &bench.world.target;
        target.replace_tail(&partition, target.ends(&partition).2 - lost);
        let fencing = target.producer_of(TRANSACTIONAL_ID).unwrap();
        for _ in 0..2 {
            target.mark(TRANSACTIONAL_ID, fencing, std::slice::from_ref(&partition)).await.unwrap();
        }
        bench.catch_up().await.unwrap();
        if let Err(wrong) = bench.checked().await {
            panic!("{lost} offsets lost: {wrong}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_of_many_gaps_has_few_chunks() {
    let bench = Bench::new(1);
    let partition = bench.topic("table", 1, &[("cleanup.policy", "compact")]);
    for number in 0..6_000 {
        let label = format!("{number}");
        bench.world.source.append(&partition, Codec::None, vec![record("same", &label), record(&label, "kept")]);
    }
    bench.world.source.compact(&partition, false);
    let bench = Bench { segment_bytes_max: 20_000, ..bench };
    bench.catch_up().await.unwrap();
    bench.check().await;
    let progress = bench.progress().await.remove(&partition).unwrap();
    let runs: u64 = progress.map_chunks.iter().map(|chunk| chunk.runs).sum();
    assert!(runs > 5_000 && progress.map_chunks.len() < 12, "{runs} runs in {} chunks", progress.map_chunks.len());
}

/// A target that has lost its seed needs the segments again: what is in them must be what was written.
#[tokio::test(start_paused = true)]
async fn a_segment_that_was_changed_is_refused_before_anything_of_it_is_sent() {
    type Change = fn(&[u8]) -> Vec<Bytes>;
    let changes: [Change; 3] = [
        |whole| vec![Bytes::copy_from_slice(&[&whole[..whole.len() - 1], &[!whole[whole.len() - 1]]].concat())],
        // Two batches in the other's place: each is whole in itself.
        |whole| {
            let whole = Bytes::copy_from_slice(whole);
            let batches: Vec<_> = Batches::new(whole).map(|batch| batch.unwrap().bytes).collect();
            let changed: Vec<_> = batches.into_iter().rev().collect();
            assert!(changed.len() > 1);
            changed
        },
        |whole| vec![Bytes::copy_from_slice(&whole[..whole.len() / 2])],
    ];
    for change in changes {
        let (bench, partition) = Bench::with_one_partition(1);
        for number in 0..5 {
            bench.world.source.append(&partition, Codec::None, records("a", number * 10..number * 10 + 10));
        }
        bench.catch_up().await.unwrap();
        let key = bench.world.segments.list("").await.unwrap().into_iter().find(|key| key.ends_with(".log")).unwrap();
        let written = bench.world.segments.get(&key).await.unwrap().unwrap();
        bench.world.segments.put(&key, change(&written)).await.unwrap();
        bench.world.target.replace_tail(&partition, 0);
        let stopped = tail_to_the_end(&bench, &bench.healthy()).await.unwrap_err();
        assert!(matches!(&stopped, LaneError::Segment { key: damaged, .. } if *damaged == key), "{stopped}");
        assert_eq!(bench.progress().await[&partition].counts.records, 0);
        bench.world.segments.put(&key, vec![written]).await.unwrap();
        tail_to_the_end(&bench, &bench.healthy()).await.unwrap();
        bench.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_lies_behind_a_mark_is_found_or_not_known_and_never_taken_for_nothing() {
    let bench = Bench::new(1);
    let [quiet, late, trimmed, anew] = ["quiet", "late", "trimmed", "anew"].map(|name| bench.topic(name, 1, &[]));
    let source = &bench.world.source;
    for partition in [&late, &trimmed, &anew] {
        source.append(partition, Codec::None, records("a", 0..10));
    }
    source.delete_records(&trimmed, 8);
    let start = |partition: &TopicPartition, offset| {
        let topic_id = source.topic_id(partition.topic.as_str());
        ScanFrom { partition: partition.clone(), topic_id, offset }
    };
    let gone = start(&TopicPartition::new("gone", 0), 0);
    let of_another = ScanFrom { topic_id: start(&late, 0).topic_id, ..start(&anew, 4) };
    let starts = vec![start(&quiet, 0), start(&late, 4), start(&trimmed, 2), gone.clone(), of_another];
    let behind =
        within_an_hour(records_behind(source, &bench.world.clock, &"m".parse().unwrap(), starts)).await.unwrap();
    let offsets: Vec<_> = behind.found.iter().map(|(partition, record)| (partition, record.offset)).collect();
    assert_eq!(offsets, [(&late, 0), (&trimmed, 0)]);
    assert_eq!(behind.unknown.keys().collect::<Vec<_>>(), [&anew, &gone.partition]);
}
