//! Copying while nothing goes wrong.

use std::time::Duration;

use krossing_core::{ports::Clock, records::Codec};
use krossing_replication::{Crew, TailOrder};
use krossing_testkit::{Fault, Faults};

use crate::bench::{Bench, Tail, append_everywhere, fill_with_everything, large_record, records, within_an_hour};

#[tokio::test(start_paused = true)]
async fn a_lane_seeds_every_kind_of_batch_exactly() {
    for segment_bytes_max in [32 << 20, 500] {
        let bench = Bench { segment_bytes_max, ..Bench::new(3) };
        fill_with_everything(&bench);
        within_an_hour(bench.healthy().seed(bench.plan())).await.unwrap();
        bench.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tail_follows_what_is_appended_and_ends_where_it_is_told_to() {
    for brokers in [1, 3] {
        let bench = Bench::new(brokers);
        fill_with_everything(&bench);
        let tail = Tail::ordered(TailOrder::Run);
        let process = bench.healthy();
        let clock = bench.world.clock;
        let orders = async {
            for round in 0..5 {
                clock.sleep(Duration::from_millis(300 * round as u64)).await;
                append_everywhere(&bench, round);
            }
            tail.order(bench.stop_at_source_ends());
        };
        let (ended, ()) = within_an_hour(futures::future::join(process.tail(bench.plan(), &tail), orders)).await;
        ended.unwrap();
        bench.check().await;
        for (partition, progress) in bench.progress().await {
            assert_eq!(progress.source_next.0, bench.world.source.ends(&partition).2, "{partition}");
            assert_eq!(tail.board.partitions()[&partition].lag(), 0, "{partition}");
        }
    }
}

/// Its worker is told to end, or the cutover wants the lane, before what has appeared is seeded.
#[tokio::test(start_paused = true)]
async fn a_lane_that_is_to_tail_comes_to_rest_also_while_it_still_seeds() {
    let (mut bench, partition) = Bench::with_one_partition(1);
    bench.segment_bytes_max = 1_000_000;
    for number in 0..60 {
        bench.world.source.append(&partition, Codec::None, vec![large_record(number, 900_000)]);
    }
    let slow = Duration::from_secs(2);
    let faults = Faults::deciding(move |call| (call.name == "target.produce").then_some(Fault::Slow(slow)));
    let process = bench.process("slow", &faults);
    let mut crew = Crew::new(process.ctx.clone());
    crew.add(bench.plan());
    let clock = bench.world.clock;
    clock.sleep(Duration::from_secs(30)).await;
    let told = clock.now();
    within_an_hour(crew.stop()).await.unwrap();
    assert!(clock.now() - told < Duration::from_secs(20), "{:?}", clock.now() - told);
    let records = bench.progress().await[&partition].counts.records;
    assert!((1..60).contains(&records), "{records}");
    bench.catch_up().await.unwrap();
    bench.check().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_target_lets_gather_goes_in_few_batches() {
    let (bench, partition) = Bench::with_one_partition(1);
    bench.catch_up().await.unwrap();
    let slow = Duration::from_secs(1);
    let faults = Faults::deciding(move |call| (call.name == "target.produce").then_some(Fault::Slow(slow)));
    let (process, tail) = (bench.process("slow", &faults), Tail::ordered(TailOrder::Run));
    let orders = async {
        for number in 0..200 {
            bench.world.source.append(&partition, Codec::None, records("small", number..number + 1));
            bench.world.clock.sleep(Duration::from_millis(20)).await;
        }
        tail.order(bench.stop_at_source_ends());
    };
    let (ended, ()) = within_an_hour(futures::future::join(process.tail(bench.plan(), &tail), orders)).await;
    ended.unwrap();
    bench.check().await;
    let reads = faults.calls().iter().filter(|call| call.name == "source.fetch").count();
    let sent = faults.calls().iter().filter(|call| call.name == "target.produce").count();
    assert!(reads > 100 && sent < 10, "200 batches were read in {reads} answers and sent in {sent}");
}
