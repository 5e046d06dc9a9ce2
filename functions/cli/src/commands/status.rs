//! `krossing status`: where a migration stands, who copies, how far the target is behind, and what comes next.
//!
//! Reads only, and holds no lock: it may be asked at any time.

use std::{collections::BTreeMap, time::Duration};

use krossing_core::{
    TopicPartition,
    codes::SOURCE_GAP,
    journal::{EntryKind, JournalEntry},
    lease::{LeaseRecord, LeaseState},
    limits::LEASE_RENEWAL,
    ports::{Clock, Ledger, LogEnd, LogReader},
    progress::PartitionProgress,
    transition::{Position, ResumePoint, State, resume_point},
};
use krossing_replication::{LanePlan, open_transactions, read_lease};
use krossing_runtime::ForStep;

use crate::{Outcome, arguments::Existing, session::Session, show};

/// How many partitions are listed; the rest is counted.
const PARTITIONS_SHOWN: usize = 20;

pub(crate) async fn run(existing: Existing) -> anyhow::Result<Outcome> {
    let session = Session::watch(&existing).await?;
    let planned = session.drive.planned().await?;
    let lanes = planned.lanes();
    show_state(&session);
    let before = leases(&session, &lanes).await?;
    let held = before.values().any(|lease| lease.state == LeaseState::Held);
    if held {
        // Whether an owner is alive shows only in its renewing.
        session.drive.migration.clock.sleep(LEASE_RENEWAL + Duration::from_millis(500)).await;
    }
    let after = if held { leases(&session, &lanes).await? } else { before.clone() };
    show_lanes(&session, &lanes, &before, &after);
    show_partitions(&session, &lanes).await?;
    show_next(&session);
    Ok(Outcome::Done)
}

fn show_state(session: &Session) {
    let journal = &session.drive.journal;
    show::line(&format!("migration_id: {}", session.drive.migration.id));
    let Some(tip) = journal.tip() else { return };
    let entered: Option<&JournalEntry> = journal.entries().iter().rev().find(|e| e.kind == EntryKind::Transition);
    let since = entered.map_or_else(String::new, |entry| {
        let ago = Duration::from_millis(u64::try_from(session.unix_ms() - entry.at_unix_ms).unwrap_or(0));
        format!(" since {} ({} ago)", show::time(entry.at_unix_ms), show::duration(ago))
    });
    show::line(&format!("state: {tip}{since}"));
    show::line(&format!("  {}", show::meaning(tip)));
    match journal.standing() {
        Position::FailedIn(state) | Position::FailedTooOften(state) => {
            let reason = entered.map_or("", |entry| entry.reason.as_str());
            show::line(&format!("  {state} failed: {reason}"));
        }
        Position::Unborn | Position::At(_) => {}
    }
}

type Leases = BTreeMap<krossing_core::LaneId, LeaseRecord>;

async fn leases(session: &Session, lanes: &[LanePlan]) -> anyhow::Result<Leases> {
    let mut leases = Leases::new();
    for lane in lanes {
        let lease = read_lease(&session.drive.migration.ledger, lane.id).await.during("read who runs the lanes")?;
        leases.extend(lease.map(|(_, record)| (lane.id, record)));
    }
    Ok(leases)
}

fn show_lanes(session: &Session, lanes: &[LanePlan], before: &Leases, after: &Leases) {
    let mut tailing = false;
    for lane in lanes {
        let text = match (before.get(&lane.id), after.get(&lane.id)) {
            (Some(before), Some(after)) => match after.state {
                LeaseState::Held if before.generation != after.generation || before.beat != after.beat => {
                    tailing = true;
                    format!("run by {}", after.owner)
                }
                LeaseState::Held => format!("held by {}, which is silent", after.owner),
                LeaseState::Released => format!("free, last run by {}", after.owner),
                LeaseState::Closed => "closed: fenced for the last time".to_owned(),
            },
            (None, Some(after)) => format!("just taken by {}", after.owner),
            (_, None) => "not begun".to_owned(),
        };
        show::line(&format!("{}: {} partitions, {text}", lane.id, lane.partitions.len()));
    }
    let closed = !after.is_empty() && after.values().all(|lease| lease.state == LeaseState::Closed);
    let copying = matches!(session.drive.journal.tip(), Some(State::Seed | State::Tail | State::DrainReady));
    if copying && !tailing && !closed {
        let last = session.drive.journal.entries().last();
        let since =
            last.map_or_else(String::new, |entry| format!(" since {} or soon after", show::time(entry.at_unix_ms)));
        show::line(&format!("nothing is tailing{since}: what producers write meanwhile is only on the source"));
    }
}

async fn show_partitions(session: &Session, lanes: &[LanePlan]) -> anyhow::Result<()> {
    let mut progress: BTreeMap<TopicPartition, PartitionProgress> = BTreeMap::new();
    for lane in lanes {
        let copied =
            session.drive.migration.ledger.lane_progress(lane.id).await.during("read how far the lanes are")?;
        progress.extend(copied.into_iter().map(|progress| (progress.partition.clone(), progress)));
    }
    let partitions: Vec<_> = progress.keys().cloned().collect();
    let planned: usize = lanes.iter().map(|lane| lane.partitions.len()).sum();
    let seeded = progress.values().filter(|progress| progress.seeded()).count();
    let records: u64 = progress.values().map(|progress| progress.counts.records).sum();
    let bytes: u64 = progress.values().map(|progress| progress.counts.bytes).sum();
    show::line(&format!("partitions={planned} seeded={seeded} records={records} bytes={}", show::bytes(bytes)));
    if partitions.is_empty() {
        return Ok(());
    }
    let ends =
        session.drive.migration.source.log_ends(&partitions, LogEnd::Latest).await.during("read the source's ends")?;
    let mut lags: Vec<(i64, &TopicPartition)> = Vec::new();
    for (partition, progress) in &progress {
        match ends.get(partition) {
            Some(Ok(end)) => lags.push(((end - progress.source_next.0).max(0), partition)),
            Some(Err(code)) => show::line(&format!("  {partition}: lag unknown ({code})")),
            None => show::line(&format!("  {partition}: lag unknown")),
        }
        for gap in &progress.gaps {
            show::line(&format!(
                "  {SOURCE_GAP}: source offsets {} to {} of {partition} were gone before they were read",
                gap.from, gap.to
            ));
        }
    }
    let (source, clock) = (&session.drive.migration.source, &session.drive.migration.clock);
    for open in open_transactions(source, clock, &partitions).await.during("look for open transactions")? {
        // One that ends in its time holds nobody back.
        if progress[&open.partition].source_next.0 >= open.from {
            show::line(&format!("  {}", open.sentence(session.unix_ms())));
        }
    }
    lags.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    let total: i64 = lags.iter().map(|(lag, _)| lag).sum();
    let worst = lags.first().map_or(0, |(lag, _)| *lag);
    show::line(&format!("lag={total} max_partition_lag={worst}"));
    let behind: Vec<_> = lags.into_iter().filter(|(lag, _)| *lag > 0).collect();
    for (lag, partition) in behind.iter().take(PARTITIONS_SHOWN) {
        show::line(&format!("  {partition}: {lag}"));
    }
    if behind.len() > PARTITIONS_SHOWN {
        show::line(&format!("  and {} more", behind.len() - PARTITIONS_SHOWN));
    }
    Ok(())
}

fn show_next(session: &Session) {
    let command = match resume_point(session.drive.journal.states()) {
        Ok(ResumePoint::Run { .. } | ResumePoint::AbandonCutover) => krossing_core::transition::Command::Resume,
        Ok(ResumePoint::Wait { next, .. }) => next,
        Ok(ResumePoint::Finished { .. }) => return,
        Err(why) => {
            show::line(&format!("next: {why}"));
            return;
        }
    };
    show::line(&format!("next_command: {}", session.next_command(command)));
}
