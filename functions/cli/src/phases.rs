//! From the plan to `drain_ready`: the phases that need no decision of the operator, one after another.
//!
//! Each turn does what the journal's state asks for and journals the next state once it is done, so that a process that
//! dies at any moment is gone on with by the same turn. A phase that fails is journaled as failed.

use anyhow::{Context, anyhow};
use krossing_core::{
    ports::Ledger,
    precheck::{Finding, Severity, blocks},
    transition::{Position, State},
    validation::Outcome,
};
use krossing_runtime::{Migration, MigrationResult, connect::Local};
use krossing_worker::{TailSummary, Workers};
use serde_json::json;

use crate::{
    progress::{Progress, Watched},
    session::{Planned, Session},
    show,
};

/// Runs the phases until the target has kept up. Answers the lanes, which go on copying until they are stopped.
pub(crate) async fn to_drain_ready(
    session: &mut Session,
    planned: &mut Planned,
) -> anyhow::Result<Option<Workers<Local>>> {
    let done = tokio::select! {
        done = turns(session, planned) => done,
        signal = interrupted() => {
            // Nothing is journaled: the state is still being worked on, and its leases run out by themselves.
            return Err(anyhow!("interrupted by {signal}; `krossing resume` goes on from here"));
        }
    };
    match done {
        Ok(workers) => Ok(workers),
        Err(error) => {
            session.fail(&error).await;
            Err(error)
        }
    }
}

async fn turns(session: &mut Session, planned: &mut Planned) -> anyhow::Result<Option<Workers<Local>>> {
    let mut workers: Option<Workers<Local>> = None;
    if let Position::FailedIn(state) = session.journal.standing() {
        session.enter(state, "resumed", json!({})).await?;
    }
    loop {
        match session.journal.tip().context("the journal is empty")? {
            State::Planned => session.enter(State::Precheck, "", json!({})).await?,
            State::Precheck => precheck(session, planned).await?,
            State::TopologyCopy => topology(session, planned).await?,
            State::Seed => {
                let mut lanes = lanes_of_all(session, planned).await?;
                seed(session, planned, &mut lanes).await?;
                workers = Some(lanes);
            }
            State::Tail => {
                let lanes = match workers.take() {
                    Some(lanes) => lanes,
                    None => lanes_of_all(session, planned).await?,
                };
                workers = Some(tail_to_drain_ready(session, planned, lanes).await?);
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

/// Shows findings, and says whether a migration may go on.
pub(crate) fn show_findings(findings: &[Finding]) -> anyhow::Result<()> {
    show::line(krossing_precheck::render_text(findings).trim_end());
    if !blocks(findings) {
        return Ok(());
    }
    let blockers = findings.iter().filter(|finding| finding.severity == Severity::Blocker).count();
    Err(anyhow!("precheck found {blockers} blocker(s): put right what it names and run the command again"))
}

async fn precheck(session: &mut Session, planned: &Planned) -> anyhow::Result<()> {
    let checked = krossing_precheck::run(&session.migration, Some(&planned.plan)).await?;
    show_findings(&checked.findings)?;
    enter_topology(session, &checked.findings).await
}

/// Journals that nothing stands in the way.
pub(crate) async fn enter_topology(session: &mut Session, findings: &[Finding]) -> anyhow::Result<()> {
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning).count();
    let reason = format!("no blockers, warnings={warnings}");
    session.enter(State::TopologyCopy, reason, json!({ "findings": findings })).await
}

async fn topology(session: &mut Session, planned: &Planned) -> anyhow::Result<()> {
    let report = krossing_topology::create(&session.migration, &planned.scope().topics).await?;
    let reason = format!(
        "topics_created={} topics_unchanged={} topics_altered={} partitions={}",
        report.topics_created,
        report.topics_unchanged,
        report.topics_altered,
        planned.scope().partitions().count()
    );
    session.enter(State::Seed, reason, &report).await
}

/// The lanes of everything there is now.
pub(crate) async fn lanes_of_all(session: &mut Session, planned: &mut Planned) -> anyhow::Result<Workers<Local>> {
    take_in_what_appeared(session, planned).await?;
    Ok(Workers::new(session.migration.clone(), planned.lanes(), &session.owner))
}

/// Adds to the plan what has appeared on the source. Topics of an amendment whose process died before they were made
/// are made, too.
pub(crate) async fn take_in_what_appeared(session: &mut Session, planned: &mut Planned) -> anyhow::Result<()> {
    krossing_plan::amend(&session.migration, &mut session.journal, &planned.plan, &mut planned.amendments).await?;
    session.show_entries();
    krossing_topology::create(&session.migration, &planned.scope().topics).await?;
    Ok(())
}

async fn seed(session: &mut Session, planned: &Planned, workers: &mut Workers<Local>) -> anyhow::Result<()> {
    let bytes_before = copied_before(session, planned).await?;
    let progress = Progress::start(workers.view(), Watched::Seed { bytes_total: planned.plan.bytes, bytes_before });
    let seeded = workers.seed(&mut session.journal).await;
    drop(progress);
    session.show_entries();
    let summary = seeded?;
    let reason = format!(
        "seeded: partitions={} records={} bytes={} seconds={}",
        summary.partitions,
        summary.records_written,
        summary.bytes_written,
        summary.took_ms.div_ceil(1000)
    );
    session.enter(State::Tail, reason, summary).await
}

/// Bytes that earlier attempts have copied.
async fn copied_before(session: &Session, planned: &Planned) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for lane in planned.lanes() {
        let progress = session.migration.ledger.lane_progress(lane.id).await.context("could not read the progress")?;
        bytes += progress.iter().map(|progress| progress.counts.bytes).sum::<u64>();
    }
    Ok(bytes)
}

async fn tail_to_drain_ready(
    session: &mut Session,
    planned: &mut Planned,
    mut workers: Workers<Local>,
) -> anyhow::Result<Workers<Local>> {
    let summary = tail(session, planned, &mut workers).await?;
    keys_are_the_same_where_tombstones_may_be_missing(session, planned).await?;
    let reason = format!(
        "drain ready: max_partition_lag={} records_replayed={} bytes_replayed={}",
        summary.lag_records_max, summary.records_replayed, summary.bytes_replayed
    );
    session.enter(State::DrainReady, reason, summary).await?;
    Ok(workers)
}

/// A tombstone that was cleaned on the source before it was read leaves a deleted key on the target. That takes a
/// partition that was behind for longer than its topic keeps tombstones: there every key is compared first.
async fn keys_are_the_same_where_tombstones_may_be_missing(session: &Session, planned: &Planned) -> anyhow::Result<()> {
    let scope = planned.scope();
    let mut doubtful = Vec::new();
    for lane in planned.lanes() {
        let progress = session.migration.ledger.lane_progress(lane.id).await.context("could not read the progress")?;
        doubtful.extend(progress.into_iter().filter(|progress| {
            let topic = scope.topic(&progress.partition.topic).filter(|topic| topic.compacted);
            topic.is_some_and(|topic| progress.behind_longest_ms > topic.tombstones_kept_ms())
        }));
    }
    if doubtful.is_empty() {
        return Ok(());
    }
    show::line(&format!("comparing keys of {} compacted partitions that took long to copy", doubtful.len()));
    let report = krossing_validate::compare_compacted(&session.migration, &doubtful).await?;
    if report.outcome != Outcome::Failed {
        return Ok(());
    }
    let found: Vec<_> =
        report.findings.iter().map(|finding| format!("{}: {}", finding.subject, finding.problem)).collect();
    Err(anyhow!(
        "compacted topics differ, because the source cleaned tombstones before they were read: {}; exclude these topics, \
         or begin a new migration that copies them faster than delete.retention.ms",
        found.join("; ")
    ))
}

/// Tails until the target has kept up. The lanes go on.
pub(crate) async fn tail(
    session: &mut Session,
    planned: &mut Planned,
    workers: &mut Workers<Local>,
) -> anyhow::Result<TailSummary> {
    let progress = Progress::start(workers.view(), Watched::Tail);
    let migration = session.migration.clone();
    let tailed = workers
        .tail_until_ready(&mut session.journal, async |journal| appeared(&migration, planned, journal).await)
        .await;
    drop(progress);
    session.show_entries();
    Ok(tailed?)
}

/// Lanes for what has appeared on the source since the last look, its topics made on the target.
async fn appeared(
    migration: &Migration<Local>,
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

/// Ends when the operator or the system wants the process to end; answers with what.
pub(crate) async fn interrupted() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Without a handler the signal ends the process at once, which is allowed at any moment.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "Ctrl-C",
        _ = terminate.recv() => "SIGTERM",
    }
}
