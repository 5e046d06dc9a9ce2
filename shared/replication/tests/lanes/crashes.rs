//! A process dies before or after any call it makes; another one goes on, and nothing shows.
//!
//! A failing number is replayed alone with `KROSSING_CRASH_AT=<number>`.

use std::{cell::Cell, time::Duration};

use krossing_core::{ports::Clock, progress::PartitionProgress, records::Codec};
use krossing_replication::{LaneError, TailOrder, boundaries, reopen_lane};
use krossing_testkit::{Call, Fault, Faults, record, tombstone};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::bench::{Bench, LANE, Process, Tail, append_everywhere, large_record, records, within_an_hour};

/// Small, and with everything that a crash may fall between: segments, gaps, transactions, epochs, old records.
fn small_world() -> Bench {
    let bench = Bench { segment_bytes_max: 400, ..Bench::new(2) };
    let source = &bench.world.source;
    let plain = bench.topic("a plain", 1, &[]);
    for round in 0..4 {
        source.append(&plain, Codec::Lz4, records(&format!("plain {round}"), 0..4));
    }
    let transactions = bench.topic("b transactions", 1, &[]);
    let mut producer = source.transactional_producer("one");
    for round in 0..3 {
        producer.append(&transactions, Codec::None, records(&format!("one {round}"), 0..3));
        source.append(&transactions, Codec::None, records(&format!("outside {round}"), 0..1));
        if round == 1 { producer.abort() } else { producer.commit() }
    }
    let compacted = bench.topic("c compacted", 1, &[("cleanup.policy", "compact")]);
    for round in 0..4 {
        source.append(
            &compacted,
            Codec::None,
            vec![record("x", &format!("{round}")), record(&format!("{round}"), "y")],
        );
    }
    source.append(&compacted, Codec::None, vec![tombstone("0"), record("last", "")]);
    source.compact(&compacted, false);
    bench
}

/// What the applications do while the lane is copied: once, whoever copies.
async fn live(bench: &Bench, rounds_done: &Cell<i64>, tail: &Tail) {
    for round in 0..3 {
        bench.world.clock.sleep(Duration::from_millis(400)).await;
        if rounds_done.get() <= round {
            rounds_done.set(round + 1);
            append_everywhere(bench, round);
            for partition in bench.world.source.partitions() {
                bench.world.source.move_leader(&partition, 1 + (round % 2) as i32);
            }
        }
    }
    bench.world.clock.sleep(Duration::from_secs(6)).await;
    tail.order(bench.stop_at_source_ends());
}

/// Seed, tail and close, as one process does it.
async fn migrate(
    bench: &Bench,
    process: &Process,
    rounds_done: &Cell<i64>,
) -> Result<Vec<PartitionProgress>, LaneError> {
    reopen_lane(&process.ctx.ledger, LANE).await.map_err(|source| LaneError::Store { lane: LANE, source })?;
    let tail = Tail::ordered(TailOrder::Run);
    let (ended, ()) = futures::join!(process.tail(bench.plan(), &tail), live(bench, rounds_done, &tail));
    ended?;
    process.close(bench.plan()).await
}

/// One process with these faults, until it dies or ends; then a healthy one. Answers how many calls the first made.
async fn survives(mut decide: impl FnMut(&Call) -> Option<Fault> + Send + 'static) -> Result<u64, String> {
    let bench = small_world();
    let source = bench.world.source.clone();
    let mut grown = false;
    let faults = Faults::deciding(move |call| {
        // Producers are faster than the first Fetch: the last segment then reaches beyond where the seed ends.
        if call.name == "source.fetch" && !std::mem::replace(&mut grown, true) {
            for partition in source.partitions() {
                for number in 0..3 {
                    let label = format!("between on {partition} {number}");
                    source.append(&partition, Codec::None, vec![large_record(number, 70_000)]);
                    source.append(&partition, Codec::Zstd, records(&label, 0..2));
                }
            }
        }
        decide(call)
    });
    let rounds_done = Cell::new(0);
    let first = bench.process("first", &faults);
    let migrated = tokio::select! {
        migrated = within_an_hour(migrate(&bench, &first, &rounds_done)) => Some(migrated),
        () = faults.crashed() => None,
    };
    let closed = match migrated {
        Some(Ok(closed)) => closed,
        // Faults that a process survives may still end it with an error that says: try again.
        Some(Err(_)) | None => within_an_hour(migrate(&bench, &bench.healthy(), &rounds_done))
            .await
            .map_err(|error| format!("the second process: {error:?}"))?,
    };
    bench.checked().await?;
    for (partition, boundary) in boundaries(&closed) {
        let end = bench.world.target.ends(&partition).2;
        if boundary.0 != end {
            return Err(format!("{partition}: the boundary is {boundary} where the log ends at {end}"));
        }
    }
    Ok(faults.calls().len() as u64)
}

/// One call in `every`, drawn with the seed, fails before or after it has happened.
fn by_seed(seed: u64, every: u64) -> impl FnMut(&Call) -> Option<Fault> + Send + 'static {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    move |_| {
        let drawn = random.next_u64();
        let fault = if drawn & 1 == 0 { Fault::FailBefore } else { Fault::FailAfter };
        ((drawn >> 1) % every == 0).then_some(fault)
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_or_after_any_call_loses_and_doubles_nothing() {
    let calls = survives(|_| None).await.unwrap();
    let numbers = match std::env::var("KROSSING_CRASH_AT") {
        Ok(number) => vec![number.parse().unwrap()],
        Err(_) => (0..calls).collect(),
    };
    let mut failed = Vec::new();
    let kinds = [
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::FailBefore,
        Fault::FailAfter,
        Fault::NotSent,
        Fault::HappensLater(Duration::from_millis(50)),
        Fault::HappensLater(Duration::from_millis(400)),
    ];
    for fault in kinds {
        for number in numbers.iter().copied() {
            if let Err(wrong) = survives(move |call| (call.number == number).then_some(fault)).await {
                failed.push(format!("{fault:?} at call {number} of {calls}: {wrong}"));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {calls} calls:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn faults_at_random_lose_and_double_nothing() {
    for seed in 0..60 {
        if let Err(wrong) = survives(by_seed(seed, 15)).await {
            panic!("seed {seed}: {wrong}");
        }
    }
}
