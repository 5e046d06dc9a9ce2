//! Who may write: leases, fences, and what becomes of sends whose outcome is not known.

use std::{sync::Arc, time::Duration};

use krossing_core::{
    ErrorClass, KafkaCode, Producer,
    fence::ReadBackError,
    lease::TAKE_AFTER,
    ports::{Clock, Marker},
    records::{BatchBuilder, Codec},
};
use krossing_replication::{Goal, LaneError, Notice, TailOrder, reopen_lane, run_lane};
use krossing_testkit::{Fault, Faults, clock::BEGINNING_UNIX_MS, record_at};

use crate::bench::{Bench, LANE, TRANSACTIONAL_ID, Tail, records, within_an_hour};

#[tokio::test(start_paused = true)]
async fn a_taker_refuses_a_live_owner_and_waits_for_a_silent_one() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.source.append(&partition, Codec::None, records("a", 0..5));
    let faults = Faults::none();
    let (owner, tail) = (bench.process("owner", &faults), Tail::ordered(TailOrder::Run));
    let owning = async {
        tokio::select! {
            ended = owner.tail(bench.plan(), &tail) => panic!("{ended:?}"),
            () = faults.crashed() => {}
        }
    };
    let taking = async {
        bench.world.clock.sleep(Duration::from_secs(30)).await;
        let refused = bench.healthy().seed(bench.plan()).await;
        assert!(matches!(&refused, Err(LaneError::NotOwner { owner, .. }) if owner == "owner"), "{refused:?}");
        faults.crash();
    };
    within_an_hour(futures::future::join(owning, taking)).await;
    let silent_from = bench.world.clock.now();
    bench.world.source.append(&partition, Codec::None, records("b", 0..5));
    bench.catch_up().await.unwrap();
    assert!(bench.world.clock.now() - silent_from >= TAKE_AFTER);
    bench.check().await;

    let released_at = bench.world.clock.now();
    bench.catch_up().await.unwrap();
    assert!(bench.world.clock.now() - released_at < Duration::from_secs(1), "a released lane is taken at once");
    bench.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_lane_is_refused_until_it_is_opened_again() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.source.append(&partition, Codec::None, records("a", 0..5));
    bench.catch_up().await.unwrap();
    bench.healthy().close(bench.plan()).await.unwrap();
    let refused = bench.catch_up().await.unwrap_err();
    assert!(matches!(refused, LaneError::Closed { .. }) && refused.class() == ErrorClass::Fenced, "{refused:?}");
    bench.check().await;
    reopen_lane(&bench.world.ledger, LANE).await.unwrap();
    bench.world.source.append(&partition, Codec::None, records("b", 0..5));
    bench.catch_up().await.unwrap();
    bench.check().await;
}

/// The older worker stands still (a stopped process, a paused machine) long enough to lose its lane while it tails.
#[tokio::test(start_paused = true)]
async fn of_two_workers_on_one_lane_the_older_stops_and_nothing_is_doubled() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.source.append(&partition, Codec::None, records("a", 0..5));
    let older_tail = Tail::ordered(TailOrder::Run);
    let older_process = bench.process("older", &Faults::none());
    let mut older = Box::pin(older_process.tail(bench.plan(), &older_tail));
    let running = tokio::time::timeout(Duration::from_secs(5), &mut older).await;
    assert!(running.is_err(), "{running:?}");
    // Not polled from here on: the older one stands still.
    for round in 0..3 {
        bench.world.source.append(&partition, Codec::None, records(&format!("b {round}"), 0..5));
        let newer_tail = Tail::ordered(TailOrder::Run);
        let newer_process = bench.process("newer", &Faults::none());
        let mut newer = Box::pin(newer_process.tail(bench.plan(), &newer_tail));
        assert!(tokio::time::timeout(Duration::from_secs(20), &mut newer).await.is_err());
        if round == 0 {
            let stopped = within_an_hour(&mut older).await.unwrap_err();
            assert!(matches!(&stopped, LaneError::NotOwner { owner, .. } if owner == "newer"), "{stopped:?}");
        }
        newer_tail.order(bench.stop_at_source_ends());
        within_an_hour(newer).await.unwrap();
        bench.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_fenced_without_knowing_starts_over_and_finds_out() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.source.append(&partition, Codec::None, records("a", 0..5));
    let (process, tail) = (bench.healthy(), Tail::ordered(TailOrder::Run));
    let meddling = async {
        bench.world.clock.sleep(Duration::from_secs(3)).await;
        // A stray worker raises the epoch and dies; then something old is left for a fence, and something new to send.
        bench.world.target.open_producer(TRANSACTIONAL_ID).await.unwrap();
        bench.world.source.append(&partition, Codec::None, vec![record_at(1_000, "old", "b")]);
        bench.world.clock.sleep(Duration::from_secs(30)).await;
        bench.world.source.append(&partition, Codec::None, records("c", 0..5));
        tail.order(bench.stop_at_source_ends());
    };
    let (ended, ()) = within_an_hour(futures::future::join(process.tail(bench.plan(), &tail), meddling)).await;
    ended.unwrap();
    bench.check().await;
}

/// Days without a fence: the lane's transactional id expires, and it gets another producer.
#[tokio::test(start_paused = true)]
async fn a_transactional_id_that_expired_meanwhile_is_taken_anew() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.source.append(&partition, Codec::None, records("a", 0..5));
    let (process, tail) = (bench.healthy(), Tail::ordered(TailOrder::Run));
    let weeks = async {
        bench.world.clock.sleep(Duration::from_secs(5)).await;
        bench.world.clock.skip(Duration::from_secs(8 * 24 * 3600)).await;
        bench.world.source.append(&partition, Codec::None, vec![record_at(1_000, "old", "b")]);
        bench.world.clock.sleep(Duration::from_secs(60)).await;
        tail.order(bench.stop_at_source_ends());
    };
    let (ended, ()) = futures::future::join(process.tail(bench.plan(), &tail), weeks).await;
    ended.unwrap();
    bench.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_send_whose_outcome_is_not_known_is_found_out_and_never_repeated() {
    for skipped in 0..4 {
        for fault in [
            Fault::FailBefore,
            Fault::FailAfter,
            Fault::NotSent,
            Fault::HappensLater(Duration::from_millis(1)),
            Fault::HappensLater(Duration::from_secs(20)),
        ] {
            let (bench, partition) = Bench::with_one_partition(1);
            for round in 0..2 {
                bench.world.source.append(&partition, Codec::None, vec![crate::bench::large_record(round, 100_000)]);
            }
            let mut process = bench.process("shaken", &Faults::on("target.produce", skipped, fault));
            let tail = Tail::ordered(TailOrder::Run);
            let orders = async {
                bench.world.clock.sleep(Duration::from_secs(1)).await;
                for round in 2..4 {
                    bench.world.source.append(
                        &partition,
                        Codec::None,
                        vec![crate::bench::large_record(round, 100_000)],
                    );
                }
                bench.world.clock.sleep(Duration::from_secs(40)).await;
                tail.order(bench.stop_at_source_ends());
            };
            let (ended, ()) = within_an_hour(futures::future::join(process.tail(bench.plan(), &tail), orders)).await;
            ended.unwrap();
            bench.check().await;
            let over = process.notices().iter().filter(|n| matches!(n, Notice::StartedOver { .. })).count();
            assert_eq!(over, 1, "{fault:?} at produce {skipped}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn brokers_that_forgot_the_producer_of_old_records_change_nothing() {
    let (bench, partition) = Bench::with_one_partition(1);
    let old = |n: i64| vec![record_at(BEGINNING_UNIX_MS - 400 * 24 * 3_600_000 + n, "old", &n.to_string())];
    bench.world.source.append(&partition, Codec::None, old(0));
    let (process, tail) = (bench.healthy(), Tail::ordered(TailOrder::Run));
    let orders = async {
        for n in 1..6 {
            bench.world.clock.sleep(Duration::from_secs(if n % 2 == 0 { 1 } else { 20 })).await;
            bench.world.target.restart_brokers();
            bench.world.source.append(&partition, Codec::None, old(n));
        }
        bench.world.clock.sleep(Duration::from_secs(20)).await;
        tail.order(bench.stop_at_source_ends());
    };
    let (ended, ()) = within_an_hour(futures::future::join(process.tail(bench.plan(), &tail), orders)).await;
    ended.unwrap();
    bench.check().await;
    bench.world.target.restart_brokers();
    let late = bench.world.target.batches(&partition).last().unwrap().header;
    assert!(late.is_control(), "a quiet partition ends with a fence, so that it remembers who may write");
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_comes_to_rest_behind_old_records_is_remembered_by_the_brokers() {
    let (bench, partition) = Bench::with_one_partition(1);
    let old = |n: i64| vec![record_at(BEGINNING_UNIX_MS - 400 * 24 * 3_600_000 + n, "old", &n.to_string())];
    bench.world.source.append(&partition, Codec::None, old(0));
    let (process, tail) = (bench.healthy(), Tail::ordered(TailOrder::Run));
    let orders = async {
        bench.world.clock.sleep(Duration::from_secs(20)).await;
        bench.world.source.append(&partition, Codec::None, old(1));
        // Long enough to be copied, too short for a quiet partition's fence.
        bench.world.clock.sleep(Duration::from_secs(2)).await;
        tail.order(TailOrder::Stop);
    };
    let (ended, ()) = within_an_hour(futures::future::join(process.tail(bench.plan(), &tail), orders)).await;
    ended.unwrap();
    bench.check().await;
    let last = bench.world.target.batches(&partition).last().unwrap().header;
    assert!(last.is_control(), "whoever owned the lane before could write again after a restart of the brokers");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_writer_is_named_and_ends_the_lane() {
    let stranger = Producer { id: 4711, epoch: 3 };
    for seeded_first in [false, true] {
        let (bench, partition) = Bench::with_one_partition(1);
        bench.world.source.append(&partition, Codec::None, records("a", 0..5));
        if seeded_first {
            bench.catch_up().await.unwrap();
        }
        let foreign = BatchBuilder {
            producer: stranger,
            base_sequence: 0,
            records: records("not ours", 0..1),
            ..BatchBuilder::new(0)
        };
        bench.world.target.append_batch(&partition, foreign);
        bench.world.source.append(&partition, Codec::None, records("b", 0..5));
        let stopped = bench.catch_up().await.unwrap_err();
        let LaneError::ReadBack { source: ReadBackError::ForeignWriter { producer, .. }, .. } = &stopped else {
            panic!("{stopped:?}");
        };
        assert_eq!((*producer, stopped.class()), (stranger, ErrorClass::DataAtRisk));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_writes_while_the_lane_tails_is_noticed_at_the_next_send() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.source.append(&partition, Codec::None, records("a", 0..5));
    let (process, tail) = (bench.healthy(), Tail::ordered(TailOrder::Run));
    let meddling = async {
        bench.world.clock.sleep(Duration::from_secs(3)).await;
        bench.world.target.append(&partition, Codec::None, records("not ours", 0..1));
        bench.world.source.append(&partition, Codec::None, records("b", 0..5));
    };
    let (ended, ()) = within_an_hour(futures::future::join(process.tail(bench.plan(), &tail), meddling)).await;
    let stopped = ended.unwrap_err();
    assert!(
        matches!(&stopped, LaneError::ReadBack { source: ReadBackError::ForeignWriter { producer, .. }, .. }
            if producer.id == -1),
        "{stopped:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_the_target_refuses_for_good_ends_the_lane_with_its_code() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.world.target.set_topic_config("orders", "max.message.bytes", "100");
    bench.world.source.append(&partition, Codec::None, vec![crate::bench::large_record(0, 1_000)]);
    let stopped = bench.catch_up().await.unwrap_err();
    assert!(matches!(&stopped, LaneError::Refused { code: KafkaCode::MESSAGE_TOO_LARGE, .. }), "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_dropped_sends_nothing_more() {
    let bench = Bench { segment_bytes_max: 500, ..Bench::new(1) };
    let partition = bench.topic("orders", 1, &[]);
    for round in 0..50 {
        bench.world.source.append(&partition, Codec::None, records(&format!("{round}"), 0..20));
    }
    for after in 0..60u64 {
        let faults = Faults::none();
        let process = bench.process("dropped", &faults);
        let lane = run_lane(Arc::clone(&process.ctx), bench.plan(), Goal::Seed);
        let mut lane = Box::pin(lane);
        // So many looks at the lane, and no more.
        for _ in 0..after {
            let _ = futures::poll!(&mut lane);
            tokio::task::yield_now().await;
        }
        drop(lane);
        let calls = faults.calls().len();
        bench.world.clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(faults.calls().len(), calls, "after {after} polls");
    }
    bench.catch_up().await.unwrap();
    bench.check().await;
}
