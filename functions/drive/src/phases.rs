//! From the plan to `drain_ready`: the phases that need no decision of the operator, one after another.
//!
//! Each turn does what the journal's state asks for and journals the next state once it is done. A phase that fails is
//! journaled as failed.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow};
use krossing_core::{
    lease::LeaseState,
    limits::{LEASE, LEASE_MARGIN},
    ports::{Ledger, Ports},
    precheck::{Finding, Severity},
    transition::{Position, State},
};
use krossing_replication::read_lease;
use krossing_runtime::{Migration, MigrationResult};
use krossing_worker::{TailSummary, Workers};
use serde_json::json;

use crate::{
    drive::{Drive, Planned},
    voice::{Voice, Watched},
};

/// Runs the phases until the target has kept up. Answers the lanes, which go on copying until they are stopped; none
/// where the migration was that far already.
pub(crate) async fn to_drain_ready<P: Ports>(
    drive: &mut Drive<P>,
    planned: &mut Planned,
) -> anyhow::Result<Option<Workers<P>>> {
    let done = turns(drive, planned).await;
    if let Err(error) = &done {
        drive.fail(error).await;
    }
    done
}

async fn turns<P: Ports>(drive: &mut Drive<P>, planned: &mut Planned) -> anyhow::Result<Option<Workers<P>>> {
    let mut workers: Option<Workers<P>> = None;
    if let Position::FailedIn(state) = drive.journal.standing() {
        drive.enter(state, "resumed", json!({})).await?;
    }
    loop {
        match drive.journal.tip().context("the journal is empty")? {
            State::Planned => drive.enter(State::Precheck, "", json!({})).await?,
            State::Precheck => precheck(drive, planned).await?,
            State::TopologyCopy => topology(drive, planned).await?,
            State::Seed => {
                let mut lanes = lanes_of_all(drive, planned).await?;
                seed(drive, planned, &mut lanes).await?;
                workers = Some(lanes);
            }
            State::Tail => {
                let lanes = match workers.take() {
                    Some(lanes) => lanes,
                    None => lanes_of_all(drive, planned).await?,
                };
                workers = Some(tail_to_drain_ready(drive, planned, lanes).await?);
            }
            State::DrainReady
            | State::Cutover
            | State::AwaitingClientSwitch
            | State::Validating
            | State::Finalized
            | State::RolledBack
            | State::Failed => return Ok(workers),
        }
    }
}

/// Shows findings, and says whether a migration may go on. Answers where they lie if nobody was shown them: beside the
/// evidence.
pub(crate) async fn show_findings<P: Ports>(
    migration: &Migration<P>,
    voice: &dyn Voice,
    findings: &[Finding],
) -> anyhow::Result<Option<String>> {
    findings.iter().for_each(|finding| voice.finding(finding));
    let blockers: Vec<Finding> =
        findings.iter().filter(|finding| finding.severity == Severity::Blocker).cloned().collect();
    let count = blockers.len();
    if voice.is_heard() {
        return match count {
            0 => Ok(None),
            _ => Err(anyhow!("precheck found {count} blocker(s): put right what it names and run the command again")),
        };
    }
    let place = &migration.config.evidence.place;
    let key = format!("{}/precheck.json", migration.id);
    let stored = migration.store_evidence(key, krossing_precheck::render_json(findings).into(), false).await;
    let stored = stored.map(|stored| place.of(&stored.key));
    if count == 0 {
        return Ok(Some(stored?));
    }
    // The error is what people see, and it is cut where it is long. It may be one of them that nothing can be stored.
    let whole = match stored {
        Ok(file) => format!(", all findings are in {file}"),
        Err(error) => format!(", the findings could not be stored in {place} ({error})"),
    };
    let named = krossing_precheck::render_text(&blockers);
    Err(anyhow!("precheck found {count} blocker(s){whole}: {}", named.trim_end().replace('\n', "; ")))
}

pub(crate) async fn precheck<P: Ports>(drive: &mut Drive<P>, planned: &Planned) -> anyhow::Result<()> {
    let checked = krossing_precheck::run(&drive.migration, Some(&planned.plan)).await?;
    let file = show_findings(&drive.migration, drive.voice, &checked.findings).await?;
    enter_topology(drive, &checked.findings, file).await
}

/// Journals that nothing stands in the way, and where the findings lie if nobody was shown them.
pub(crate) async fn enter_topology<P: Ports>(
    drive: &mut Drive<P>,
    findings: &[Finding],
    file: Option<String>,
) -> anyhow::Result<()> {
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning);
    let codes: BTreeSet<&str> = warnings.clone().map(|finding| finding.code.as_str()).collect();
    let named = if codes.is_empty() { String::new() } else { format!(" ({})", Vec::from_iter(codes).join(", ")) };
    let file = file.map_or_else(String::new, |file| format!(": all findings are in {file}"));
    let reason = format!("no blockers, warnings={}{named}{file}", warnings.count());
    drive.enter(State::TopologyCopy, reason, json!({ "findings": findings })).await
}

pub(crate) async fn topology<P: Ports>(drive: &mut Drive<P>, planned: &Planned) -> anyhow::Result<()> {
    let report = krossing_topology::create(&drive.migration, &planned.scope().topics).await?;
    let acls = krossing_topology::make_acls(&drive.migration, &planned.plan).await?;
    let reason = format!(
        "topics_created={} topics_unchanged={} topics_altered={} partitions={} acls_created={} acls_only_on_target={}",
        report.topics_created,
        report.topics_unchanged,
        report.topics_altered,
        planned.scope().partitions().count(),
        acls.created,
        acls.only_on_target,
    );
    drive.enter(State::Seed, reason, json!({ "topics": report, "acls": acls })).await
}

/// The lanes of everything there is now.
pub(crate) async fn lanes_of_all<P: Ports>(drive: &mut Drive<P>, planned: &mut Planned) -> anyhow::Result<Workers<P>> {
    take_in_what_appeared(drive, planned).await?;
    say_who_holds_lanes(drive, planned).await?;
    Ok(Workers::new(drive.migration.clone(), planned.lanes(), &drive.owner))
}

/// Says why it takes a while until lanes are ours.
pub(crate) async fn say_who_holds_lanes<P: Ports>(drive: &Drive<P>, planned: &Planned) -> anyhow::Result<()> {
    for owner in owners_of_before(drive, planned).await? {
        drive.voice.advice(&format!(
            "{owner} holds lanes; they are taken once it has surely stopped, which takes up to {} s where it has died",
            (LEASE + LEASE_MARGIN).as_secs()
        ));
    }
    Ok(())
}

/// Who holds lanes that this process is about to take.
async fn owners_of_before<P: Ports>(drive: &Drive<P>, planned: &Planned) -> anyhow::Result<BTreeSet<String>> {
    let mut owners = BTreeSet::new();
    for lane in planned.lanes() {
        let lease = read_lease(&drive.migration.ledger, lane.id).await.context("could not read who runs the lanes")?;
        let held = lease.filter(|(_, lease)| lease.state == LeaseState::Held && lease.owner != drive.owner);
        owners.extend(held.map(|(_, lease)| lease.owner));
    }
    Ok(owners)
}

/// Adds to the plan what has appeared on the source. Topics of an amendment whose process died before they were made
/// are made, too.
pub(crate) async fn take_in_what_appeared<P: Ports>(drive: &mut Drive<P>, planned: &mut Planned) -> anyhow::Result<()> {
    krossing_plan::amend(&drive.migration, &mut drive.journal, &planned.plan, &mut planned.amendments).await?;
    drive.show_entries();
    krossing_topology::create(&drive.migration, &planned.scope().topics).await?;
    Ok(())
}

async fn seed<P: Ports>(drive: &mut Drive<P>, planned: &Planned, workers: &mut Workers<P>) -> anyhow::Result<()> {
    let bytes_before = copied_before(drive, planned).await?;
    let progress =
        drive.voice.progress(workers.view(), Watched::Seed { bytes_total: planned.plan.bytes, bytes_before });
    let seeded = workers.seed(&mut drive.journal).await;
    drop(progress);
    drive.show_entries();
    let summary = seeded?;
    let reason = format!(
        "seeded: partitions={} records={} bytes={} seconds={}",
        summary.partitions,
        summary.records_written,
        summary.bytes_written,
        summary.took_ms.div_ceil(1000)
    );
    drive.enter(State::Tail, reason, summary).await
}

/// Bytes that earlier attempts have copied.
async fn copied_before<P: Ports>(drive: &Drive<P>, planned: &Planned) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for lane in planned.lanes() {
        let progress = drive.migration.ledger.lane_progress(lane.id).await.context("could not read the progress")?;
        bytes += progress.iter().map(|progress| progress.counts.bytes).sum::<u64>();
    }
    Ok(bytes)
}

async fn tail_to_drain_ready<P: Ports>(
    drive: &mut Drive<P>,
    planned: &mut Planned,
    mut workers: Workers<P>,
) -> anyhow::Result<Workers<P>> {
    let summary = tail(drive, planned, &mut workers).await?;
    let reason = format!(
        "drain ready: max_partition_lag={} records_replayed={} bytes_replayed={}",
        summary.lag_records_max, summary.records_replayed, summary.bytes_replayed
    );
    drive.enter(State::DrainReady, reason, summary).await?;
    Ok(workers)
}

/// Tails until the target has kept up and has no key that the source has deleted. The lanes go on.
pub(crate) async fn tail<P: Ports>(
    drive: &mut Drive<P>,
    planned: &mut Planned,
    workers: &mut Workers<P>,
) -> anyhow::Result<TailSummary> {
    let progress = drive.voice.progress(workers.view(), Watched::Tail);
    let migration = drive.migration.clone();
    let tailed = workers
        .tail_until_ready(&mut drive.journal, async |journal| appeared(&migration, planned, journal).await)
        .await;
    drop(progress);
    drive.show_entries();
    let summary = tailed?;
    let doubtful = workers.tombstones_doubtful();
    match krossing_validate::tombstones_missed(&drive.migration, &planned.scope(), &doubtful).await? {
        None => Ok(summary),
        Some(missed) => Err(missed.into()),
    }
}

/// Lanes for what has appeared on the source since the last look, its topics made on the target.
async fn appeared<P: Ports>(
    migration: &Migration<P>,
    planned: &mut Planned,
    journal: &mut krossing_core::journal::Journal,
) -> MigrationResult<Vec<krossing_replication::LanePlan>> {
    let known = planned.lanes().len();
    if !krossing_plan::amend(migration, journal, &planned.plan, &mut planned.amendments).await? {
        return Ok(Vec::new());
    }
    let scope = planned.scope();
    let newest = planned.amendments.last();
    let touched = |name: &krossing_core::TopicName| {
        newest.is_some_and(|amendment| {
            amendment.topics.iter().any(|topic| topic.name == *name)
                || amendment.partitions.iter().any(|added| added.topic == *name)
        })
    };
    let topics: Vec<_> = scope.topics.into_iter().filter(|topic| touched(&topic.name)).collect();
    krossing_topology::create(migration, &topics).await?;
    Ok(planned.lanes().split_off(known))
}
