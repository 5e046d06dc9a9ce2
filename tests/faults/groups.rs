//! Groups between READY and the acknowledgement, while `krossing client-switch` runs: those that have switched are left
//! alone for good, those that still work on the source are kept in step, and nothing that is written to the target
//! meanwhile moves a translation.
//!
//! Against 4.1; with `KROSSING_LONG=1` against 3.9, too, whose group coordinator is the older one.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Version,
    compare::{Positions, committed},
    in_lab,
    rehearsal::{Migration, Pair},
    workload::{Group, LiveGroup, create_topics},
};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};

use crate::{
    numbered::{ends, kept, read, until, write},
    owners::pair,
};

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 2;

/// Positions of a group in the migration's topic, by partition.
fn positions(client: &ClientConfig, group: &str) -> Result<Vec<Option<i64>>> {
    let topics = BTreeMap::from([(TOPIC.to_owned(), PARTITIONS)]);
    let found: Positions = tokio::task::block_in_place(|| committed(client, group, &topics))?;
    Ok((0..PARTITIONS).map(|partition| found.get(&(TOPIC.to_owned(), partition)).map(|(at, _)| *at)).collect())
}

/// Has a group be at `offset` of each partition.
fn commit(client: &ClientConfig, group: &str, offset: i64) -> Result<()> {
    let positions = (0..PARTITIONS).map(|partition| (TOPIC.to_owned(), partition, offset)).collect();
    tokio::task::block_in_place(|| Group { name: group.to_owned(), positions, metadata: String::new() }.commit(client))
}

/// A member comes, gets its partitions, and leaves without having committed.
fn visit(client: &ClientConfig, group: &str, protocol: &str, topic: &str) -> Result<()> {
    let mut config = client.clone();
    config.set("group.id", group).set("group.protocol", protocol).set("enable.auto.commit", "false");
    tokio::task::block_in_place(|| {
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[topic])?;
        while consumer.assignment()?.count() == 0 {
            // Errors pass; a group that is never given a partition would hang here, and shows as that.
            drop(consumer.poll(Duration::from_millis(50)));
        }
        consumer.unsubscribe();
        Ok(())
    })
}

/// Where the records of the source are on the target, by partition; and the boundary, which is where positions at the
/// source's end lead.
struct Translation {
    places: Vec<HashMap<i64, i64>>,
    boundary: Vec<i64>,
}

impl Translation {
    fn read(pair: &Pair) -> Result<Self> {
        let (source, target) = (pair.source.client(), pair.target.client());
        let places = (0..PARTITIONS).map(|partition| {
            let there = read(&target, TOPIC, partition)?;
            let there: HashMap<u64, i64> = there.into_iter().map(|(offset, digest)| (digest, offset)).collect();
            let here = read(&source, TOPIC, partition)?.into_iter();
            here.map(|(offset, digest)| Ok((offset, *there.get(&digest).context("a record was not copied")?))).collect()
        });
        Ok(Self { places: places.collect::<Result<_>>()?, boundary: ends(&target, TOPIC, PARTITIONS)? })
    }

    fn of(&self, offset: i64) -> Vec<Option<i64>> {
        let at = self.places.iter().zip(&self.boundary);
        at.map(|(places, boundary)| Some(places.get(&offset).copied().unwrap_or(*boundary))).collect()
    }
}

/// Moves `goes-on` on the source, and waits until it is in step on the target: a round of the command has then looked
/// at every group.
async fn a_round(pair: &Pair, translation: &Translation, offset: i64) -> Result<()> {
    commit(&pair.source.client(), "goes-on", offset)?;
    let target = pair.target.client();
    until(|| Ok(positions(&target, "goes-on")? == translation.of(offset))).await
}

async fn groups_until_the_acknowledgement(lab: &Lab, version: Version) -> Result<()> {
    let pair = pair(lab, version).await?;
    let (source, target) = (pair.source.client(), pair.target.client());
    create_topics(&source, &[kept(TOPIC, PARTITIONS)], 1).await?;
    write(&source, TOPIC, PARTITIONS, "seed", 0..1_000, None).await?;
    let mut visitors = vec![("visitor", "classic")];
    if version == Version::V4_1 {
        visitors.push(("newer-visitor", "consumer"));
    }
    let names = ["goes-on", "switched", "known-before"].into_iter().chain(visitors.iter().map(|(name, _)| *name));
    for name in names {
        commit(&source, name, 100)?;
    }
    // A topic of the target's own, which a group of that name has read.
    create_topics(&target, &[kept("of-the-target", 1)], 1).await?;
    visit(&target, "known-before", "classic", "of-the-target")?;

    let migration: Migration = pair.migration("groups", &[TOPIC], "")?;
    migration.run("execute").await?.expect_code(0)?;
    migration.run("cutover").await?.expect_code(0)?;
    let translation = Translation::read(&pair)?;
    let mut following = migration.begin("client-switch")?;
    following.until(a_round(&pair, &translation, 150)).await?;
    following.until(a_round(&pair, &translation, 200)).await?;

    // One arrives, consumes, commits and leaves.
    let mut member = LiveGroup::start(&target, "switched", &[TOPIC])?;
    member.until_consumed(50).await?;
    member.stop().await?;
    let left_at = positions(&target, "switched")?;
    ensure!(left_at != translation.of(100), "{left_at:?}: it has not moved");
    commit(&source, "switched", 400)?;

    // Others are there for a moment, which nobody sees.
    following.signal("STOP")?;
    for (group, protocol) in &visitors {
        visit(&target, group, protocol, TOPIC)?;
        commit(&source, group, 400)?;
    }
    following.signal("CONT")?;
    following.until(a_round(&pair, &translation, 250)).await?;
    following.until(a_round(&pair, &translation, 300)).await?;
    let unmoved = |translation: &Translation| -> Result<()> {
        let found = positions(&target, "switched")?;
        ensure!(found == left_at, "a group that had switched was moved from {left_at:?} to {found:?}");
        for (group, _) in &visitors {
            let found = positions(&target, group)?;
            ensure!(found == translation.of(100), "{group}, which had been there, was moved to {found:?}");
        }
        Ok(())
    };
    unmoved(&translation)?;

    // New records change no translation: not of the source's end, and not of what lies before.
    write(&target, TOPIC, PARTITIONS, "written after the switch", 0..200, None).await?;
    commit(&source, "known-before", 450)?;
    following.until(a_round(&pair, &translation, 500)).await?;
    following.until(a_round(&pair, &translation, 501)).await?;
    ensure!(translation.of(501) == translation.boundary.iter().copied().map(Some).collect::<Vec<_>>());
    // A round commits its groups beside each other: one may be in step a moment before another.
    following.until(until(|| Ok(positions(&target, "known-before")? == translation.of(450)))).await?;
    unmoved(&translation)?;

    // What moves after the last round is brought into step by the acknowledgement.
    following.signal("STOP")?;
    commit(&source, "known-before", 470)?;
    migration.run("cutover-ack").await?.expect_code(0)?;
    following.signal("CONT")?;
    let said = following.finish().await?.expect_code(0)?.stdout;
    let last = said.lines().rfind(|line| line.starts_with("groups switched=")).context("it reports")?;
    ensure!(last.starts_with(&format!("groups switched={} not_switched=2", 1 + visitors.len())), "{said}");
    ensure!(positions(&target, "known-before")? == translation.of(470), "the acknowledgement came too early");
    unmoved(&translation)?;
    migration.run("finalize").await?.expect_code(0)?;
    unmoved(&translation)
}

#[test]
fn groups_that_have_switched_are_left_alone_and_the_others_are_kept_in_step() {
    in_lab("groups", async |lab| groups_until_the_acknowledgement(lab, Version::V4_1).await);
}

#[test]
fn groups_of_the_older_coordinator_are_told_apart_as_well() {
    if std::env::var_os("KROSSING_LONG").is_some() {
        in_lab("groups-3.9", async |lab| groups_until_the_acknowledgement(lab, Version::V3_9).await);
    }
}
