//! A small migration from its plan to the acknowledgement, killed with `kill -9` at seeded moments, and exact each time.
//!
//! A moment is a number of journal entries, of records on the target, or of milliseconds from a command's start; the
//! data hold old timestamps, aborted transactions and a producer that goes on. Each point has topics and a migration of
//! its own, so that all share one pair of clusters, and some run at a time: most of a point is waiting for a dead
//! owner's lease.
//!
//! `make test` runs three points, `KROSSING_LONG=1` twenty, `KROSSING_SEED=<n>` one of them again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lab::{
    Version,
    compare::{compare, groups_resume_exactly},
    in_lab,
    rehearsal::{Migration, Outcome, Pair},
    workload::{Group, NewRecord, RecordingProducer, create_topics},
};
use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    numbered::{TEN_YEARS_MS, Writer, ends, kept, now_ms, until, write},
    owners::pair,
};

/// Points at a time.
const TOGETHER: usize = 4;

/// Commands that a point may need: each kill costs two or three more.
const COMMANDS_MAX: usize = 20;

/// When to kill a command.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after the journal has got so many more entries.
    Entries(usize, Duration),
    /// When the target holds so many more records.
    Copied(i64),
    /// So long after its start.
    After(Duration),
}

impl Moment {
    fn draw(random: &mut ChaCha8Rng) -> Self {
        let soon = Duration::from_millis(random.random_range(0..120));
        match random.random_range(0..3) {
            0 => Moment::Entries(random.random_range(1..6), soon),
            1 => Moment::Copied(random.random_range(1..30_000)),
            _ => Moment::After(Duration::from_millis(random.random_range(0..7_000))),
        }
    }

    async fn come(self, pair: &Pair, migration: &Migration, topics: &[String; 2]) -> Result<()> {
        match self {
            Moment::Entries(more, then) => {
                let entries = || migration.journal().map_or(0, |journal| journal.len());
                let before = entries();
                until(|| Ok(entries() >= before + more)).await?;
                tokio::time::sleep(then).await;
                Ok(())
            }
            Moment::Copied(more) => {
                let before = copied(pair, topics)?;
                until(|| Ok(copied(pair, topics)? >= before + more)).await
            }
            Moment::After(then) => {
                tokio::time::sleep(then).await;
                Ok(())
            }
        }
    }
}

fn copied(pair: &Pair, topics: &[String; 2]) -> Result<i64> {
    let target = pair.target.client();
    Ok(ends(&target, &topics[0], 3)?.into_iter().chain(ends(&target, &topics[1], 1)?).sum())
}

/// A third of the transactions aborted, two of them always open beside each other.
fn transactions(pair: &Pair, topic: &str) -> Result<()> {
    tokio::task::block_in_place(|| {
        let client = pair.source.client();
        let producers = [0, 1].map(|number| {
            RecordingProducer::transactional(&client, &Default::default(), topic, &format!("{topic}-{number}"))
        });
        let [first, second] = producers;
        let (first, second) = (first?, second?);
        for round in 0..30 {
            for producer in [&first, &second] {
                producer.begin()?;
                for number in 0..3 {
                    let value = format!("{round}-{number}-{:p}", producer);
                    producer.send(&NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() })?;
                }
                producer.flush()?;
            }
            if round % 3 == 1 {
                second.abort()?
            } else {
                second.commit()?
            }
            if round % 3 == 2 { first.abort()? } else { first.commit()? }
        }
        Ok(())
    })
}

/// The command to give next, as the journal stands; none at the end.
fn next_command(migration: &Migration) -> Option<&'static str> {
    let journal = migration.journal().unwrap_or_default();
    let mut states = journal.iter().filter(|entry| entry["kind"] == "transition");
    match states.next_back().and_then(|entry| entry["to"].as_str()) {
        None => Some("execute"),
        Some("drain_ready") => Some("cutover"),
        Some("awaiting_client_switch") => Some("cutover-ack"),
        Some("validating") => None,
        Some(_) => Some("resume"),
    }
}

/// Runs a command until it ends or its moment has come; whether it was killed.
async fn run(
    pair: &Pair,
    migration: &Migration,
    topics: &[String; 2],
    command: &str,
    moment: Option<Moment>,
) -> Result<(bool, Outcome)> {
    let mut running = migration.begin(command)?;
    if let Some(moment) = moment {
        // Either it comes, or the command ends before it, which is not wrong.
        tokio::select! {
            come = moment.come(pair, migration, topics) => come?,
            ended = until(|| running.ended()) => ended?,
        }
        if !running.ended()? {
            return Ok((true, running.kill().await?));
        }
    }
    Ok((false, running.finish().await?))
}

/// Answers whether anything was killed: a command may be quicker than the look for its moment.
async fn point(pair: &Pair, seed: u64) -> Result<bool> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let source = pair.source.client();
    let topics = [format!("point-{seed}-plain"), format!("point-{seed}-transactions")];
    create_topics(&source, &[kept(&topics[0], 3), kept(&topics[1], 1)], 1).await?;
    let old = Some(now_ms() - TEN_YEARS_MS);
    write(&source, &topics[0], 3, "seed", 0..30_000, old).await?;
    transactions(pair, &topics[1])?;
    let end = ends(&source, &topics[1], 1)?[0];
    let group = Group {
        name: format!("point-{seed}"),
        positions: vec![
            (topics[0].clone(), 0, random.random_range(0..10_000)),
            (topics[0].clone(), 1, 10_000),
            (topics[1].clone(), 0, random.random_range(0..=end)),
        ],
        metadata: String::new(),
    };
    tokio::task::block_in_place(|| group.commit(&source))?;
    // Partitions of 5 MB: after the first 4 MiB of each the seed has to wait, so that it has a middle.
    let seeding = "  seed: {max_bytes_per_second_per_broker: 4MiB, segment_max_bytes: 1MiB, lanes: 2}\n";
    let migration = pair.migration(&format!("point-{seed}"), &[&topics[0], &topics[1]], seeding)?;

    let mut writer = Some(Writer::start(&source, &topics[0], 3, "live", old)?);
    let (mut kills, wanted) = (Vec::new(), random.random_range(1..3));
    for number in 0.. {
        let Some(command) = next_command(&migration) else { break };
        ensure!(number < COMMANDS_MAX, "seed {seed}: {number} commands, and not at the end");
        if command == "cutover"
            && let Some(writer) = writer.take()
        {
            writer.stop().await?;
        }
        let moment = match command {
            _ if kills.len() >= wanted => None,
            // A cutover is over soon: where nothing has been killed so far, its beginning is sure to be met.
            "cutover" if kills.is_empty() => Some(Moment::Entries(random.random_range(1..3), Duration::ZERO)),
            "cutover" => {
                let soon = Duration::from_millis(random.random_range(0..40));
                Some(Moment::Entries(random.random_range(1..5), soon))
            }
            _ => Some(Moment::draw(&mut random)),
        };
        let (killed, outcome) = run(pair, &migration, &topics, command, moment).await?;
        if killed {
            kills.push(format!("{command} at {moment:?}"));
        } else {
            ensure!(
                matches!(outcome.code, Some(0 | 10)),
                "seed {seed}, after {kills:?}: {command} ended with {outcome:#?}"
            );
        }
    }
    let target = pair.target.client();
    let compared = compare(&source, &target, &topics.into()).await?;
    ensure!(compared.differences.is_empty() && compared.records > 30_000, "seed {seed}, {kills:?}: {compared:#?}");
    let resumptions = groups_resume_exactly(&source, &target, &[group.name]).await?;
    let wrong: Vec<_> = resumptions.iter().filter(|resumption| resumption.problem.is_some()).collect();
    ensure!(resumptions.len() == 3 && wrong.is_empty(), "seed {seed}, {kills:?}: {resumptions:#?}");
    eprintln!("  seed {seed}: {} records, killed: {}", compared.records, kills.join(", "));
    Ok(!kills.is_empty())
}

#[test]
fn a_migration_killed_at_a_seeded_moment_is_exact() {
    let seeds = match std::env::var("KROSSING_SEED") {
        Ok(seed) => vec![seed.parse().expect("KROSSING_SEED is a number")],
        Err(_) if std::env::var_os("KROSSING_LONG").is_some() => (1..=20).collect(),
        Err(_) => vec![1, 2, 3],
    };
    in_lab("kills", async |lab| {
        let pair = pair(lab, Version::V3_9).await?;
        let points = stream::iter(seeds).map(|seed| {
            let pair = &pair;
            async move { point(pair, seed).await.with_context(|| format!("KROSSING_SEED={seed} runs this point again")) }
        });
        let killed: Vec<bool> = points.buffer_unordered(TOGETHER).try_collect().await?;
        let missed = killed.iter().filter(|killed| !**killed).count();
        ensure!(missed * 3 <= killed.len(), "{missed} of {} points killed nothing", killed.len());
        Ok(())
    });
}
