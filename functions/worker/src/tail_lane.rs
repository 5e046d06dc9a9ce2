//! One lane tailing in a process of its own, and how others know how far it is.
//!
//! Where lanes are in different processes nobody sees all of their partitions. Each judges its own, and says what came
//! out in a *report*: a document of the ledger, written again and again. The target has kept up when every lane's report
//! says so at the same time, is fresh on the clock of whoever reads it, and is its lane's owner's.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use krossing_core::{
    LaneId, SourceOffset, TopicPartition,
    drain::{DrainCause, DrainReadiness, PartitionDrain},
    lease::LeaseState,
    limits::LEASE,
    ports::{Clock, Ledger, Ports, StoreError, Version},
};
use krossing_replication::{Crew, LaneError, LanePlan, read_lease};
use krossing_runtime::{ForStep, Migration, MigrationResult};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::{WorkerError, drains, lane_context};

/// How often a lane says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How many causes a report names.
const CAUSES_SHOWN: usize = 5;

/// How far a tailing lane is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneReport {
    /// Whose report it is.
    pub owner: String,
    /// Raised each time.
    pub beat: u64,
    /// Every partition has stayed within the allowed lag for as long as the operator wants.
    pub ready: bool,
    /// What holds it back, where it is not ready.
    pub causes: Vec<String>,
    /// Its partitions.
    pub partitions: usize,
    /// Those that the source has answered for lately.
    pub partitions_heard: usize,
    /// Offsets still to be read, of the worst partition.
    pub lag_records_max: i64,
    /// Offsets still to be read, all partitions together.
    pub lag_records_total: i64,
    /// Records appended to the target by this process.
    pub records_written: u64,
    /// Bytes appended to the target by this process.
    pub bytes_written: u64,
    /// Where tombstones may have been cleaned on the source before they were read, and up to which offset.
    #[serde(default)]
    pub tombstones_doubtful: Vec<(TopicPartition, SourceOffset)>,
}

/// Why a lane that tailed came to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailEnd {
    /// Somebody asked for it.
    Asked,
    /// The cutover has closed it.
    Closed,
    /// This process was told to stop.
    Stopped,
}

fn document(lane: LaneId) -> String {
    format!("tail/{lane}")
}

/// A report, and the version of its document; none before the lane has ever tailed in a process of its own.
async fn lane_report<P: Ports>(
    migration: &Migration<P>,
    lane: LaneId,
) -> MigrationResult<Option<(Version, LaneReport)>> {
    let attempt = "read how far a lane is";
    let Some((version, content)) = migration.ledger.document(&document(lane)).await.during(attempt)? else {
        return Ok(None);
    };
    let report = serde_json::from_slice(&content)
        .map_err(|error| StoreError::Damaged { attempt: document(lane), detail: error.to_string() });
    Ok(Some((version, report.during(attempt)?)))
}

/// A report whose process holds the lane; none where nobody does, or where it is of one before.
async fn report_of_owner<P: Ports>(migration: &Migration<P>, lane: LaneId) -> MigrationResult<Option<LaneReport>> {
    let Some((_, report)) = lane_report(migration, lane).await? else { return Ok(None) };
    let lease = read_lease(&migration.ledger, lane).await.during("read who runs the lanes")?;
    let owned = lease.is_some_and(|(_, lease)| lease.state == LeaseState::Held && lease.owner == report.owner);
    Ok(owned.then_some(report))
}

/// How far the target is behind, as whoever tails has said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LagNow {
    /// Offsets still to be read, of the lanes that somebody tails.
    pub records_total: i64,
    /// Offsets still to be read, of their worst partition.
    pub records_max: i64,
    /// What keeps these lanes from having kept up for long enough.
    pub causes: Vec<String>,
    /// Lanes that nobody tails: how far they are behind is not known.
    pub nobody_tails: Vec<LaneId>,
}

/// Looks at all lanes' reports once.
pub async fn lag_now<P: Ports>(migration: &Migration<P>, lanes: &[LanePlan]) -> MigrationResult<LagNow> {
    let mut lag = LagNow::default();
    for lane in lanes {
        match report_of_owner(migration, lane.id).await? {
            Some(report) => {
                lag.records_total += report.lag_records_total;
                lag.records_max = lag.records_max.max(report.lag_records_max);
                lag.causes.extend(report.causes);
            }
            None => lag.nobody_tails.push(lane.id),
        }
    }
    Ok(lag)
}

/// Writes reports of one lane.
struct Reporting<'a, P: Ports> {
    migration: &'a Migration<P>,
    lane: LaneId,
    version: Option<Version>,
}

impl<P: Ports> Reporting<'_, P> {
    /// A report that cannot be written now is followed by the next: whoever reads them sees that this one is missing.
    async fn write(&mut self, report: &LaneReport) {
        let content = Bytes::from(serde_json::to_vec(report).expect("a report is plain data"));
        let ledger = &self.migration.ledger;
        match ledger.put_document(&document(self.lane), self.version, content).await {
            Ok(version) => self.version = Some(version),
            Err(StoreError::Conflict { .. }) => match lane_report(self.migration, self.lane).await {
                Ok(stored) => self.version = stored.map(|(version, _)| version),
                Err(error) => tracing::warn!(%error, "could not read the lane's report"),
            },
            Err(error) => tracing::warn!(%error, "could not write the lane's report"),
        }
    }
}

/// Tails one lane until `asked` says so, the cutover closes it, or `stop` turns true. `reported` hears each report.
pub async fn tail_lane<P: Ports>(
    migration: &Arc<Migration<P>>,
    lane: &LanePlan,
    owner: &str,
    asked: impl Future<Output = MigrationResult<()>> + Send,
    mut stop: watch::Receiver<bool>,
    mut reported: impl FnMut(&LaneReport) + Send,
) -> Result<TailEnd, WorkerError> {
    let (notices, mut noticed) = mpsc::unbounded_channel();
    let ctx = lane_context(migration, owner, notices);
    let mut crew = Crew::new(ctx.clone());
    crew.add(lane.clone());
    let cutover = &migration.config.cutover;
    let mut readiness = DrainReadiness::new(cutover.drain_max_partition_lag, cutover.drain_stable_window);
    let stored = lane_report(migration, lane.id).await.map_err(WorkerError::Migration)?;
    let mut reporting = Reporting { migration, lane: lane.id, version: stored.map(|(version, _)| version) };
    let mut report = LaneReport { owner: owner.to_owned(), ..LaneReport::default() };
    let mut asked = std::pin::pin!(asked);
    let end = loop {
        tokio::select! {
            error = crew.failure() => {
                if matches!(error, LaneError::Closed { .. }) {
                    break TailEnd::Closed;
                }
                crew.stop().await.map_err(WorkerError::Lane)?;
                return Err(WorkerError::Lane(error));
            }
            answer = &mut asked => {
                answer.map_err(WorkerError::Migration)?;
                break TailEnd::Asked;
            }
            () = told_to_stop(&mut stop) => break TailEnd::Stopped,
            Some(notice) = noticed.recv() => {
                // Gaps are in the lane's progress: whoever drives the migration journals them.
                tracing::warn!(?notice, "noticed");
                continue;
            }
            () = migration.clock.sleep(REPORT_EVERY) => {}
        }
        let board = crew.board().partitions();
        let drains = drains(migration.clock.now(), &board, &lane.partitions);
        let judged = readiness.judge(migration.clock.now(), &drains);
        report.partitions_heard = drains.values().filter(|drain| **drain != PartitionDrain::NotHeardOf).count();
        report.beat += 1;
        report.ready = judged.is_ok();
        report.causes = judged.err().unwrap_or_default().iter().take(CAUSES_SHOWN).map(DrainCause::to_string).collect();
        report.partitions = lane.partitions.len();
        report.lag_records_max = board.values().map(|lag| lag.lag()).max().unwrap_or(0);
        report.lag_records_total = board.values().map(|lag| lag.lag()).sum();
        report.records_written = ctx.shared.meter.records_written();
        report.bytes_written = ctx.shared.meter.bytes_written();
        report.tombstones_doubtful = crew.board().tombstones_doubtful().into_iter().collect();
        reporting.write(&report).await;
        reported(&report);
    };
    match crew.stop().await {
        // A lane that is closed while it is told to stop has come to rest as well.
        Err(LaneError::Closed { .. }) | Ok(()) => Ok(end),
        Err(error) => Err(WorkerError::Lane(error)),
    }
}

/// Ends when work is to come to rest.
pub async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // Whoever could say so is gone: that is to say it.
    drop(stop.wait_for(|stop| *stop).await);
}

/// What all lanes together say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllLanes {
    /// What holds the migration back; empty where the target has kept up.
    pub causes: Vec<String>,
    /// Offsets still to be read, of the worst partition.
    pub lag_records_max: i64,
    /// Offsets still to be read, all partitions together.
    pub lag_records_total: i64,
    /// Records appended by the processes that run the lanes.
    pub records_written: u64,
    /// Bytes appended by the processes that run the lanes.
    pub bytes_written: u64,
    /// Where tombstones may have been cleaned on the source before they were read, and up to which offset.
    pub tombstones_doubtful: BTreeMap<TopicPartition, SourceOffset>,
    /// How many reports are new since the last look.
    pub heard: usize,
}

/// Reads the lanes' reports again and again.
#[derive(Debug, Default)]
pub struct LaneWatch {
    seen: BTreeMap<LaneId, (String, u64, Option<Instant>)>,
}

impl LaneWatch {
    /// What the lanes say now. A report counts once its owner has written another since the first look.
    pub async fn look<P: Ports>(&mut self, migration: &Migration<P>, lanes: &[LanePlan]) -> MigrationResult<AllLanes> {
        let mut all = AllLanes {
            causes: Vec::new(),
            lag_records_max: 0,
            lag_records_total: 0,
            records_written: 0,
            bytes_written: 0,
            tombstones_doubtful: BTreeMap::new(),
            heard: 0,
        };
        for lane in lanes {
            let Some(report) = report_of_owner(migration, lane.id).await? else {
                all.causes.push(format!("nobody tails {}", lane.id));
                continue;
            };
            let now = migration.clock.now();
            let seen = self.seen.entry(lane.id).or_insert_with(|| (report.owner.clone(), report.beat, None));
            if (&seen.0, seen.1) != (&report.owner, report.beat) {
                *seen = (report.owner.clone(), report.beat, Some(now));
                all.heard += 1;
            }
            let fresh = seen.2.is_some_and(|heard| now.saturating_duration_since(heard) < LEASE);
            if !fresh {
                all.causes.push(format!("whoever tails {} is silent", lane.id));
                continue;
            }
            if !report.ready {
                all.causes.extend(report.causes.iter().map(|cause| format!("{}: {cause}", lane.id)));
            }
            all.lag_records_max = all.lag_records_max.max(report.lag_records_max);
            all.lag_records_total += report.lag_records_total;
            all.records_written += report.records_written;
            all.bytes_written += report.bytes_written;
            all.tombstones_doubtful.extend(report.tombstones_doubtful);
        }
        Ok(all)
    }
}
