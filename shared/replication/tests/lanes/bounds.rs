//! What a lane may use: memory, bandwidth, requests.

use std::{collections::BTreeMap, time::Duration};

use krossing_core::{
    limits::WORKER_DATA_BYTES_MAX,
    ports::{Clock, Inventory},
    records::Codec,
};
use krossing_replication::TailOrder;
use krossing_testkit::Faults;

use crate::bench::{Bench, Process, Tail, large_record, records, within_an_hour};

/// Seeds, tails two appends, and closes.
async fn whole_run(bench: &Bench, process: &Process) {
    let tail = Tail::ordered(TailOrder::Run);
    let orders = async {
        for round in 0..2 {
            bench.world.clock.sleep(Duration::from_secs(1)).await;
            for partition in bench.world.source.partitions() {
                bench.world.source.append(&partition, Codec::None, records(&format!("live {round}"), 0..1));
            }
        }
        tail.order(bench.stop_at_source_ends());
    };
    let (ended, ()) = within_an_hour(futures::future::join(process.tail(bench.plan(), &tail), orders)).await;
    ended.unwrap();
    process.close(bench.plan()).await.unwrap();
    bench.check().await;
}

async fn calls_by_name(partitions: i32) -> BTreeMap<String, usize> {
    let bench = Bench::new(3);
    bench.topic("wide", partitions, &[]);
    let faults = Faults::none();
    whole_run(&bench, &bench.process("counted", &faults)).await;
    let mut counts = BTreeMap::new();
    for call in faults.calls().into_iter().filter(|call| call.name != "target.produce") {
        *counts.entry(call.name).or_insert(0) += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn requests_do_not_grow_with_the_partitions_of_a_lane() {
    let (few, many) = (calls_by_name(10).await, calls_by_name(1_000).await);
    for (name, count) in many {
        let before = few.get(&name).copied().unwrap_or(0);
        assert!(count <= before + 5, "{name}: {before} calls for 10 partitions, {count} for 1,000");
    }
}

#[tokio::test(start_paused = true)]
async fn no_source_broker_is_read_faster_than_allowed() {
    const RATE: u64 = 100_000;
    let bench = Bench { bytes_per_second_per_broker: Some(RATE), segment_bytes_max: 50_000, ..Bench::new(2) };
    bench.topic("orders", 4, &[]);
    let fill = |numbers: std::ops::Range<u64>| {
        for partition in bench.world.source.partitions() {
            for number in numbers.clone() {
                bench.world.source.append(&partition, Codec::None, vec![large_record(number, 10_000)]);
            }
        }
    };
    fill(0..100);
    let begun = bench.world.clock.now();
    let process = bench.healthy();
    within_an_hour(process.seed(bench.plan())).await.unwrap();
    fill(100..200);
    let tail = Tail::ordered(bench.stop_at_source_ends());
    within_an_hour(process.tail(bench.plan(), &tail)).await.unwrap();
    bench.check().await;
    // Two brokers lead the partitions. Each byte that was read was granted by one of them, and none gave more than it
    // had earned by then, but for the last answers: a megabyte of each of its two partitions.
    let shared = &process.ctx.shared;
    let brokers = bench.world.source.describe_cluster().await.unwrap().brokers;
    let granted: Vec<u64> = brokers.iter().map(|broker| shared.bandwidth.granted_bytes(broker.id)).collect();
    let read = shared.meter.bytes_read();
    assert!(read >= 8_000_000 && granted.iter().sum::<u64>() == read, "{granted:?} of {read} bytes");
    let last_answers = 2_100_000;
    let earned = (bench.world.clock.now() - begun).as_millis() as u64 * RATE / 1_000;
    assert!(granted.iter().all(|granted| *granted <= earned + last_answers), "{granted:?} where {earned} are earned");
}

#[tokio::test(start_paused = true)]
async fn batches_larger_than_there_is_room_for_pass_one_at_a_time() {
    // Five partitions, four at a time, whose batches are larger than an answer, a segment, or a quarter of all room.
    let bench = Bench { segment_bytes_max: 1 << 20, ..Bench::new(1) };
    bench.topic("large", 5, &[("max.message.bytes", "104857600")]);
    for partition in bench.world.source.partitions() {
        for number in 0..2 {
            bench.world.source.append(&partition, Codec::None, vec![large_record(number, WORKER_DATA_BYTES_MAX / 8)]);
            bench.world.source.append(&partition, Codec::None, records("small", number as i64..number as i64 + 1));
        }
    }
    within_an_hour(bench.healthy().seed(bench.plan())).await.unwrap();
    bench.check().await;
}
