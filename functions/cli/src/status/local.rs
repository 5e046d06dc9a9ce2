//! The status of a migration that commands drive: the ledger's, and what the clusters say. They are asked whether or not
//! they can be reached; of a migration that has ended they are asked nothing.

use krossing_client_switch::{ClientSwitch, LookedBehind};
use krossing_core::{
    Side,
    ports::{LogEnd, LogReader},
    transition::State,
};
use krossing_drive::Planned;
use krossing_replication::open_transactions;
use krossing_runtime::{ForStep, MigrationResult, connect::reach_to_look};

use super::{AllProgress, PartitionLag, Status, Unreachable, from_ledger, owners};
use crate::{session::Session, show};

/// Looks at everything. Takes some seconds where a lane or a lock has an owner: whether that one is alive shows only in
/// its renewing. `unnamed`: clusters that are not asked, and why.
pub(crate) async fn look(session: &mut Session, unnamed: &[(Side, String)]) -> anyhow::Result<Status> {
    session.drive.reload().await?;
    let planned = session.drive.planned().await?;
    let lanes = planned.lanes();
    let migration = session.drive.migration.clone();
    let (owners, unreachable) = tokio::join!(owners(&migration, &session.place, &lanes), unreachable(session, unnamed));
    let owners = owners?;
    // After it was seen who is at work: a cutover that has ended meanwhile is not one that nobody drives.
    session.drive.reload().await?;
    let mut status = from_ledger(&migration, &session.drive.journal, &planned, &owners).await?;
    status.unreachable = unreachable;
    from_clusters(session, &planned, &mut status).await?;
    status.say_what_next(&session.drive.journal, |command| session.next_command(command));
    Ok(status)
}

/// Clusters that give no answer, where they are asked at all.
async fn unreachable(session: &Session, unnamed: &[(Side, String)]) -> Vec<Unreachable> {
    if session.drive.journal.tip().is_some_and(State::is_terminal) {
        return Vec::new();
    }
    let mut silent = reach_to_look(&session.drive.migration, show::advice).await;
    for (side, why) in &mut silent {
        if let Some((_, known)) = unnamed.iter().find(|(unnamed, _)| unnamed == side) {
            why.clone_from(known);
        }
    }
    silent.into_iter().map(|(cluster, why)| Unreachable { cluster, why }).collect()
}

/// What only the clusters know; one that gives no answer after all is told as one that cannot be reached.
async fn from_clusters(session: &Session, planned: &Planned, status: &mut Status) -> anyhow::Result<()> {
    let source_is_there = status.unreachable.iter().all(|unreachable| unreachable.cluster != Side::Source);
    if status.state.is_terminal() || !source_is_there {
        return Ok(());
    }
    let asked = match session.drive.journal.ready() {
        Some(_) => behind_marker(session, planned, status).await,
        None => {
            let progress = session.drive.migration.progress(&planned.scope()).await?;
            Ok(lag(session, &progress, status).await?)
        }
    };
    if let Err(error) = asked {
        status.unreachable.push(Unreachable { cluster: Side::Source, why: show::chain(error.as_ref()) });
    }
    Ok(())
}

async fn behind_marker(session: &Session, planned: &Planned, status: &mut Status) -> anyhow::Result<()> {
    let switch = ClientSwitch::load(&session.drive.migration, &planned.lanes()).await?;
    let LookedBehind { records_behind_marker, not_looked_behind } = switch.look_behind().await?;
    status.records_behind_marker = Some(records_behind_marker);
    status.not_looked_behind = not_looked_behind;
    Ok(())
}

async fn lag(session: &Session, progress: &AllProgress, status: &mut Status) -> MigrationResult<()> {
    let partitions: Vec<_> = progress.keys().cloned().collect();
    if partitions.is_empty() {
        return Ok(());
    }
    let (source, clock) = (&session.drive.migration.source, &session.drive.migration.clock);
    let ends = source.log_ends(&partitions, LogEnd::Latest).await.during("read the source's ends")?;
    let mut lag = Vec::new();
    for (partition, progress) in progress {
        match ends.get(partition) {
            Some(Ok(end)) => {
                let records = (end - progress.source_next.0).max(0);
                lag.push(PartitionLag { partition: partition.clone(), records });
            }
            Some(Err(code)) => status.lag_unknown.push(format!("{partition}: lag unknown ({code})")),
            None => status.lag_unknown.push(format!("{partition}: lag unknown")),
        }
    }
    status.lag_records_total = Some(lag.iter().map(|lag| lag.records).sum());
    status.lag_records_max = Some(lag.iter().map(|lag| lag.records).max().unwrap_or(0));
    lag.retain(|lag| lag.records > 0);
    lag.sort_by(|a, b| b.records.cmp(&a.records).then_with(|| a.partition.cmp(&b.partition)));
    status.lag = Some(lag);
    let open = open_transactions(source, clock, &partitions).await.during("look for open transactions")?;
    // One that ends in its time holds nobody back.
    let holding = open.iter().filter(|open| progress[&open.partition].source_next.0 >= open.from);
    status.open_transactions = Some(holding.map(|open| open.sentence(status.at_unix_ms)).collect());
    Ok(())
}
