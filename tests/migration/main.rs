//! The whole way on real brokers: what is claimed of a migration, judged from the outside.
//!
//! `KROSSING_SCALE=small` makes the large run small; `KROSSING_SHOW=1` shows what the commands print.

use anyhow::{Result, ensure};
use lab::{
    compare::{compare, groups_resume_exactly},
    in_lab,
    rehearsal::{Rehearsal, RehearsalSpec},
    workload::{Group, LiveGroup, Offsets},
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

/// From a filled source to a validated target, without a mishap.
async fn migrate(rehearsal: &mut Rehearsal) -> Result<()> {
    rehearsal.run("execute").await?.expect_code(0)?;
    let mut late = GroupWithBacklog::commit(rehearsal)?;
    rehearsal.run("cutover").await?.expect_code(0)?;
    late.goes_on(rehearsal).await?;
    rehearsal.groups.stop_live().await?;
    rehearsal.run("cutover-ack").await?.expect_code(0)?;
    nothing_lost_doubled_reordered_or_changed(rehearsal).await?;
    rehearsal.run("finalize").await?.expect_code(0)?;
    nothing_lost_doubled_reordered_or_changed(rehearsal).await
}

#[test]
fn a_migration_between_single_brokers_is_exact() {
    in_lab("single", async |lab| {
        let mut rehearsal = Rehearsal::prepare(lab, &RehearsalSpec::default()).await?;
        let before = rehearsal.source_as_it_is().await?;
        migrate(&mut rehearsal).await?;
        let after = rehearsal.source_as_it_is().await?;
        ensure!(before.configs == after.configs, "settings of the source have changed");
        Ok(())
    });
}
