//! The whole way on real brokers: what is claimed of a migration, judged from the outside.
//!
//! `KROSSING_SCALE=small` makes the large run small; `KROSSING_SHOW=1` shows what the commands print.

mod ends;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use krossing_core::records::batch::Batches;
use lab::{
    Cluster, Listener, Version,
    compare::{compare, groups_resume_exactly},
    in_lab,
    rehearsal::{MEMORY_BYTES_MAX, Rehearsal, RehearsalSpec},
    state::ClusterState,
    workload::{Group, LiveGroup, Offsets, Scale},
};

/// What must hold once the clients have switched: the same records, and every group at its own.
async fn nothing_lost_doubled_reordered_or_changed(rehearsal: &Rehearsal) -> Result<()> {
    let (source, target) = (rehearsal.source.client(), rehearsal.target.client());
    let compared = compare(&source, &target, &rehearsal.topics()).await?;
    eprintln!("  compared {} records of {} partitions in {:?}", compared.records, compared.partitions, compared.took);
    ensure!(compared.differences.is_empty(), "{:#?}", compared.differences);
    let acknowledged = rehearsal.workload.recorder.verify(&target, Offsets::Any).await?;
    ensure!(acknowledged.missing.is_empty() && acknowledged.extra == 0, "{acknowledged:?}");
    let resumptions = groups_resume_exactly(&source, &target, &rehearsal.groups.names()).await?;
    eprintln!("  {} positions of {} groups", resumptions.len(), rehearsal.groups.names().len());
    let wrong: Vec<_> = resumptions.iter().filter(|resumption| resumption.problem.is_some()).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// A group that is far behind at the cutover, and goes on with its backlog on the source afterwards.
struct GroupWithBacklog(Group);

impl GroupWithBacklog {
    fn commit(rehearsal: &mut Rehearsal) -> Result<Self> {
        let positions = (0..2).map(|partition| ("live-plain".to_owned(), partition, 0)).collect();
        let group = Group { name: "far-behind".to_owned(), positions, metadata: String::new() };
        group.commit(&rehearsal.source.client())?;
        rehearsal.groups.committed.push(group.clone());
        Ok(Self(group))
    }

    async fn goes_on(&mut self, rehearsal: &Rehearsal) -> Result<()> {
        let mut member = LiveGroup::start(&rehearsal.source.client(), &self.0.name, &["live-plain"])?;
        member.until_consumed(200).await?;
        member.stop().await
    }
}

/// From `drain_ready` to a validated target.
async fn cut_over_and_finalize(rehearsal: &mut Rehearsal) -> Result<()> {
    let mut late = GroupWithBacklog::commit(rehearsal)?;
    rehearsal.run("cutover").await?.expect_done()?;
    late.goes_on(rehearsal).await?;
    rehearsal.groups.stop_live().await?;
    rehearsal.run("cutover-ack").await?.expect_done()?;
    nothing_lost_doubled_reordered_or_changed(rehearsal).await?;
    rehearsal.run("finalize").await?.expect_done()?;
    nothing_lost_doubled_reordered_or_changed(rehearsal).await
}

/// The source is as it was, but for what the load wrote and one marker a partition and cutover attempt.
async fn the_source_is_as_it_was(rehearsal: &Rehearsal, before: &ClusterState, cutovers: i64) -> Result<()> {
    let after = rehearsal.source_as_it_is().await?;
    ensure!(before.topics == after.topics, "topics of the source: {:?} became {:?}", before.topics, after.topics);
    ensure!(before.configs == after.configs, "settings of the source have changed");
    ensure!(before.acls == after.acls, "access rules of the source have changed");
    for (group, positions) in before.positions.iter().filter(|(group, _)| !group.starts_with("live-")) {
        let now = after.positions.get(group);
        ensure!(now == Some(positions), "group {group} stood at {positions:?} and stands at {now:?}");
    }
    let acknowledged = rehearsal.workload.recorder.verify(&rehearsal.source.client(), Offsets::Same).await?;
    ensure!(acknowledged.missing.is_empty() && acknowledged.extra == 0, "{acknowledged:?}");
    let quiet = after.bounds.iter().filter(|((topic, _), _)| !topic.starts_with("live-") && !topic.starts_with("__"));
    for (partition, (start, end)) in quiet {
        let (start_before, end_before) = before.bounds[partition];
        ensure!(*start == start_before, "{partition:?} began at {start_before} and begins at {start}");
        ensure!(
            *end == end_before + cutovers,
            "{partition:?} ended at {end_before} and ends at {end} after {cutovers} cutovers"
        );
    }
    Ok(())
}

fn entered(state: &str) -> impl Fn(&serde_json::Value) -> bool {
    let state = state.to_owned();
    move |entry| entry["kind"] == "transition" && entry["to"] == state.as_str()
}

fn noted(kind: &str) -> impl Fn(&serde_json::Value) -> bool {
    let kind = kind.to_owned();
    move |entry| entry["kind"] == kind.as_str()
}

/// The large run: at least 1 GiB, three lanes, several segments in the large partitions, and a kill -9 in the seed, in
/// the tail and in the cutover.
#[test]
fn a_migration_that_is_killed_three_times_is_exact() {
    in_lab("killed", async |lab| {
        let scale = Scale::from_environment();
        let spec = RehearsalSpec { scale, seed: 2, ..RehearsalSpec::default() };
        let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let before = rehearsal.source_as_it_is().await?;

        let execute = rehearsal.start("execute", &["--migration-id", "lab"])?;
        rehearsal.until_stored_segments(5).await?;
        execute.kill().await?;
        let resume = rehearsal.start("resume", &["--migration-id", "lab"])?;
        rehearsal.until_journaled(entered("tail")).await?;
        resume.kill().await?;
        let resumed = rehearsal.run("resume").await?;
        ensure!(matches!(resumed.code, Some(0 | 10)), "{resumed:?}");
        ensure!(rehearsal.journal()?.iter().any(entered("drain_ready")), "{resumed:?}");
        eprintln!("  memory at most {} MB", resumed.memory_bytes_max / 1_000_000);
        ensure!(resumed.memory_bytes_max < MEMORY_BYTES_MAX, "{resumed:?}");

        let cutover = rehearsal.start("cutover", &["--migration-id", "lab"])?;
        rehearsal.until_journaled(noted("target_boundary")).await?;
        cutover.kill().await?;
        ensure!(rehearsal.producers.is_frozen(), "the killed cutover had asked producers to stand still");
        let released = rehearsal.run("resume").await?.expect_code(10)?;
        ensure!(released.stderr.contains("next_command"), "{released:?}");
        ensure!(!rehearsal.producers.is_frozen(), "a resume lets producers go on");

        cut_over_and_finalize(&mut rehearsal).await?;
        the_source_is_as_it_was(&rehearsal, &before, 2).await
    });
}

#[test]
fn a_migration_between_three_brokers_a_side_over_tls_with_scram_to_kafka_4_is_exact() {
    in_lab("three", async |lab| {
        let spec = RehearsalSpec {
            scale: Scale::Tiny,
            brokers: 3,
            listener: Listener::Scram,
            target: Version::V4_1,
            seed: 3,
            ..RehearsalSpec::default()
        };
        let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let before = rehearsal.source_as_it_is().await?;
        rehearsal.run("execute").await?.expect_done()?;
        cut_over_and_finalize(&mut rehearsal).await?;
        the_source_is_as_it_was(&rehearsal, &before, 1).await
    });
}

#[test]
fn a_migration_over_mutual_tls_passes_large_batches_as_they_are_and_packs_small_ones() {
    in_lab("mutual-tls", async |lab| {
        let spec = RehearsalSpec { listener: Listener::MutualTls, seed: 4, ..RehearsalSpec::default() };
        let mut rehearsal = Rehearsal::prepare(lab, &spec).await?;
        let before = rehearsal.source_as_it_is().await?;
        rehearsal.run("execute").await?.expect_done()?;
        batches_are_passed_and_packed(&rehearsal).await?;
        cut_over_and_finalize(&mut rehearsal).await?;
        the_source_is_as_it_was(&rehearsal, &before, 1).await
    });
}

/// The dense topic's batches are on the target byte for byte but for their headers; the one-record batches are few.
async fn batches_are_passed_and_packed(rehearsal: &Rehearsal) -> Result<()> {
    let dense = (0..4).map(|number| ("dense-lz4", number));
    for (topic, number) in dense {
        let at_source = payloads(&rehearsal.source, topic, number)?;
        let at_target = payloads(&rehearsal.target, topic, number)?;
        ensure!(!at_source.is_empty() && at_source == at_target, "{topic}-{number} was not passed as it is");
    }
    for number in 0..2 {
        let at_source = payloads(&rehearsal.source, "one-record-batches", number)?.len();
        let at_target = payloads(&rehearsal.target, "one-record-batches", number)?.len();
        ensure!(at_target * 10 < at_source, "{at_source} batches of one record became {at_target}");
    }
    Ok(())
}

/// What follows the header of each data batch of a partition, read from the broker's own files.
fn payloads(cluster: &Cluster, topic: &str, number: i32) -> Result<Vec<Bytes>> {
    let folder = cluster.data_folder(1).join(format!("{topic}-{number}"));
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    let mut payloads = Vec::new();
    for file in files {
        for batch in Batches::new(Bytes::from(std::fs::read(&file)?)) {
            let batch = batch?;
            if !batch.header.is_control() {
                payloads.push(batch.payload());
            }
        }
    }
    Ok(payloads)
}
