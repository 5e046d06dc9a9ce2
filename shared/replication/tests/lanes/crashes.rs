//! A process dies before or after any call it makes; another one goes on, and nothing shows.
//!
//! A failing number is replayed alone with `KROSSING_CRASH_AT=<number>`, a failing seed with `KROSSING_SEED=<seed>`.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use krossing_core::{ports::Clock, progress::PartitionProgress, records::Codec};
use krossing_replication::{LaneError, TailOrder, boundaries, reopen_lane};
use krossing_testkit::{Call, FakeCluster, Fault, Faults, record, tombstone};
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

type Decide = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

/// Processes with these faults, one after another, each until it dies or ends; then a healthy one. Answers how many
/// calls the first made.
async fn survive(deciding: Vec<Decide>) -> Result<usize, String> {
    let bench = small_world();
    let rounds_done = Cell::new(0);
    let grown = Arc::new(AtomicBool::new(false));
    let mut calls = None;
    for mut decide in deciding {
        let (source, grown) = (bench.world.source.clone(), grown.clone());
        let faults = Faults::deciding(move |call| {
            // Producers are faster than the first Fetch: the last segment then reaches beyond where the seed ends.
            if call.name == "source.fetch" && !grown.swap(true, Ordering::Relaxed) {
                grow(&source);
            }
            decide(call)
        });
        let process = bench.process("shaken", &faults);
        let migrated = tokio::select! {
            migrated = within_an_hour(migrate(&bench, &process, &rounds_done)) => Some(migrated),
            () = faults.crashed() => None,
        };
        calls.get_or_insert(faults.calls().len());
        // Faults that a process survives may still end it, with an error that says: try again.
        if let Some(Ok(closed)) = migrated {
            check_boundaries(&bench, &closed)?;
        }
    }
    let healthy = bench.healthy();
    let closed = within_an_hour(migrate(&bench, &healthy, &rounds_done)).await.map_err(|error| format!("{error:?}"))?;
    check_boundaries(&bench, &closed)?;
    bench.checked().await?;
    Ok(calls.unwrap_or(0))
}

fn grow(source: &FakeCluster) {
    for partition in source.partitions() {
        for number in 0..3 {
            let label = format!("between on {partition} {number}");
            source.append(&partition, Codec::None, vec![large_record(number, 70_000)]);
            source.append(&partition, Codec::Zstd, records(&label, 0..2));
        }
    }
}

fn check_boundaries(bench: &Bench, closed: &[PartitionProgress]) -> Result<(), String> {
    for (partition, boundary) in boundaries(closed) {
        let end = bench.world.target.ends(&partition).2;
        if boundary.0 != end {
            return Err(format!("{partition}: the boundary is {boundary} where the log ends at {end}"));
        }
    }
    Ok(())
}

fn at(number: usize, fault: Fault) -> Decide {
    Box::new(move |call| (call.number == number as u64).then_some(fault))
}

/// One call in `every`, drawn with the seed, fails in one way or another.
fn by_seed(seed: u64, every: u64) -> Decide {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    Box::new(move |_| {
        let drawn = random.next_u64();
        (drawn >> 8).is_multiple_of(every).then(|| Fault::ALL[drawn as usize % Fault::ALL.len()])
    })
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_or_after_any_call_loses_and_doubles_nothing() {
    let calls = survive(vec![Box::new(|_| None)]).await.unwrap();
    let numbers = match std::env::var("KROSSING_CRASH_AT") {
        Ok(number) => vec![number.parse().unwrap()],
        Err(_) => (0..calls).collect(),
    };
    let mut failed = Vec::new();
    for fault in Fault::ALL {
        for number in numbers.iter().copied() {
            if let Err(wrong) = survive(vec![at(number, fault)]).await {
                failed.push(format!("{fault:?} at call {number} of {calls}: {wrong}"));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {calls} calls:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn faults_at_random_in_one_process_after_another_lose_and_double_nothing() {
    let seeds = match std::env::var("KROSSING_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..150).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        let processes = (0..4).map(|process| by_seed(seed * 4 + process, 20 + seed % 80)).collect();
        if let Err(wrong) = survive(processes).await {
            panic!("seed {seed}: {wrong}");
        }
    }
}
