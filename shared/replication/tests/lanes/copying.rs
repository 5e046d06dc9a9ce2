//! Copying while nothing goes wrong.

use std::time::Duration;

use krossing_core::ports::Clock;
use krossing_replication::TailOrder;

use crate::bench::{Bench, Tail, append_everywhere, fill_with_everything, within_an_hour};

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
