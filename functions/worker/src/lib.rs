//! Runs the lanes of a migration, all in this process or one in each of many ([`tail_lane`]): the seed, then the tail until the target has kept up.
//!
//! The rules of a lane are in `krossing-replication`, the rule of when the target has kept up is in
//! `krossing_core::drain`. Here they meet the journal: gaps and roll-backs that lanes notice become entries, and what
//! appears on the source meanwhile becomes lanes.

mod lane_failure;
mod tail_lane;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use krossing_core::{
    ErrorClass, SourceOffset, TopicPartition,
    codes::{SOURCE_GAP, TARGET_ROLLED_BACK},
    drain::{DrainReadiness, PartitionDrain},
    journal::{EntryKind, Journal},
    limits::{INVENTORY_REFRESH, LEASE},
    ports::{Clock, Ledger, Ports},
};
use krossing_replication::{
    Crew, LaneContext, LaneError, LanePartition, LanePlan, Meter, Notice, PartitionLag, Settings, Shared, TailBoard,
    drain_sentence, read_lease, seed_lanes,
};
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

pub use lane_failure::{lane_failures, note_lane_failure};
pub use tail_lane::{AllLanes, LagNow, LaneReport, LaneWatch, TailEnd, lag_now, tail_lane, told_to_stop};

/// How often the board is judged.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How many of the worst partitions a snapshot names.
const LAGGARDS: usize = 5;

/// Why the lanes stopped before they were done.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A lane cannot go on.
    #[error("the copy cannot go on")]
    Lane(#[source] LaneError),
    /// A step beside the lanes failed.
    #[error("the copy cannot go on")]
    Migration(#[source] MigrationError),
    /// The target did not keep up in time.
    #[error("the target has not kept up within cutover.drain_timeout ({timeout:?}): {causes}")]
    NotDrained {
        /// The bound.
        timeout: Duration,
        /// What holds it back, partition by partition.
        causes: String,
    },
}

impl WorkerError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            WorkerError::Lane(error) => error.class(),
            WorkerError::Migration(error) => error.class(),
            // The time was the operator's; trying as long again by itself would not be.
            WorkerError::NotDrained { .. } => ErrorClass::Refused,
        }
    }
}

/// What the seed did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SeedSummary {
    /// Partitions seeded, also by earlier attempts.
    pub partitions: u64,
    /// Bytes read from the source in this attempt.
    pub bytes_read: u64,
    /// Bytes appended to the target in this attempt.
    pub bytes_written: u64,
    /// Records appended to the target in this attempt.
    pub records_written: u64,
    /// Milliseconds of this attempt.
    pub took_ms: u64,
}

/// What the tail did before the target had kept up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TailSummary {
    /// The largest lag of any partition.
    pub lag_records_max: i64,
    /// Records appended to the target.
    pub records_replayed: u64,
    /// Bytes appended to the target.
    pub bytes_replayed: u64,
    /// Milliseconds until the target had kept up.
    pub took_ms: u64,
}

/// How far the lanes are, for displays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// All partitions.
    pub partitions: u64,
    /// Partitions whose seed is on the target.
    pub partitions_seeded: u64,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Bytes appended to the target.
    pub bytes_written: u64,
    /// Records appended to the target.
    pub records_written: u64,
    /// Offsets still to be read, all partitions together.
    pub lag_records_total: i64,
    /// Offsets still to be read, of the worst partition.
    pub lag_records_max: i64,
    /// The worst partitions with their lag.
    pub laggards: Vec<(TopicPartition, i64)>,
    /// Partitions that wait for an open transaction.
    pub open_transactions: Vec<TopicPartition>,
}

/// A look at lanes that are running.
#[derive(Debug)]
pub struct View {
    partitions: Mutex<u64>,
    shared: Arc<Shared>,
    board: Mutex<Arc<TailBoard>>,
}

impl View {
    /// How far they are now.
    pub fn snapshot(&self) -> Snapshot {
        let board = self.board.lock().expect("no holder panics").partitions();
        let mut laggards: Vec<_> =
            board.iter().map(|(partition, lag)| (partition.clone(), lag.lag())).filter(|(_, lag)| *lag > 0).collect();
        laggards.sort_by_key(|(_, lag)| -lag);
        let lag_records_total = laggards.iter().map(|(_, lag)| lag).sum();
        let lag_records_max = laggards.first().map_or(0, |(_, lag)| *lag);
        laggards.truncate(LAGGARDS);
        let meter = &self.shared.meter;
        Snapshot {
            partitions: *self.partitions.lock().expect("no holder panics"),
            partitions_seeded: meter.partitions_seeded(),
            bytes_read: meter.bytes_read(),
            bytes_written: meter.bytes_written(),
            records_written: meter.records_written(),
            lag_records_total,
            lag_records_max,
            laggards,
            open_transactions: board
                .into_iter()
                .filter(|(_, lag)| lag.waits_for_transaction())
                .map(|(partition, _)| partition)
                .collect(),
        }
    }
}

/// Seeds one lane in a process of its own, until it is done or `stop` turns true. `lanes` run at the same time, so that
/// what may be read from a broker is a share of it. `reported` hears how far it is.
pub async fn seed_lane<P: Ports>(
    migration: &Arc<Migration<P>>,
    lane: &LanePlan,
    lanes: usize,
    owner: &str,
    mut stop: watch::Receiver<bool>,
    mut reported: impl FnMut(&Meter) + Send,
) -> Result<(), WorkerError> {
    let (notices, mut noticed) = mpsc::unbounded_channel();
    let share = |limit: u64| (limit / lanes.max(1) as u64).max(1);
    let settings = settings(migration, owner);
    let bytes_per_second_per_broker = settings.bytes_per_second_per_broker.map(share);
    let ctx = context(migration, Settings { bytes_per_second_per_broker, ..settings }, notices);
    let one = [lane.clone()];
    let mut seeding = std::pin::pin!(seed_lanes(&ctx, &one));
    let mut stopped = false;
    loop {
        tokio::select! {
            seeded = &mut seeding => return seeded.map_err(WorkerError::Lane),
            Some(notice) = noticed.recv() => tracing::warn!(?notice, "noticed"),
            () = told_to_stop(&mut stop), if !stopped => {
                stopped = true;
                ctx.shared.halt();
            }
            () = migration.clock.sleep(LOOK_EVERY) => reported(&ctx.shared.meter),
        }
    }
}

/// The settings of the data path, from what the operator has set.
pub fn settings<P: Ports>(migration: &Migration<P>, owner: &str) -> Settings {
    let seed = &migration.config.seed;
    Settings {
        migration: migration.id.clone(),
        owner: owner.to_owned(),
        segment_bytes_max: usize::try_from(seed.segment_max_bytes).unwrap_or(usize::MAX),
        partitions_in_parallel: seed.max_concurrent_partitions,
        bytes_per_second_per_broker: seed.max_bytes_per_second_per_broker,
    }
}

/// Everything the data path needs of a migration.
pub fn lane_context<P: Ports>(
    migration: &Migration<P>,
    owner: &str,
    notices: mpsc::UnboundedSender<Notice>,
) -> Arc<LaneContext<P>> {
    context(migration, settings(migration, owner), notices)
}

fn context<P: Ports>(
    migration: &Migration<P>,
    settings: Settings,
    notices: mpsc::UnboundedSender<Notice>,
) -> Arc<LaneContext<P>> {
    let shared = Shared::new(&settings, notices);
    Arc::new(LaneContext {
        source: migration.source.clone(),
        target: migration.target.clone(),
        ledger: migration.ledger.clone(),
        segments: migration.segments.clone(),
        evidence: migration.evidence.clone(),
        clock: migration.clock.clone(),
        settings,
        shared,
    })
}

/// The lanes of a migration in this process.
pub struct Workers<P: Ports> {
    migration: Arc<Migration<P>>,
    lanes: Vec<LanePlan>,
    ctx: Arc<LaneContext<P>>,
    view: Arc<View>,
    crew: Option<Crew<P>>,
    notices: mpsc::UnboundedReceiver<Notice>,
}

impl<P: Ports> Workers<P> {
    /// Lanes that are not running yet. `owner` names this process in the lanes' leases.
    pub fn new(migration: Arc<Migration<P>>, lanes: Vec<LanePlan>, owner: &str) -> Self {
        let (sender, notices) = mpsc::unbounded_channel();
        let ctx = lane_context(&migration, owner, sender);
        let view = Arc::new(View {
            partitions: Mutex::new(count(&lanes)),
            shared: ctx.shared.clone(),
            board: Mutex::default(),
        });
        Self { migration, lanes, ctx, view, crew: None, notices }
    }

    /// A look at them, for displays.
    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    /// Seeds every lane.
    pub async fn seed(&mut self, journal: &mut Journal) -> Result<SeedSummary, WorkerError> {
        let started = self.migration.clock.now();
        let ctx = self.ctx.clone();
        let lanes = self.lanes.clone();
        let mut seeding = std::pin::pin!(seed_lanes(&ctx, &lanes));
        let seeded = loop {
            tokio::select! {
                seeded = &mut seeding => break seeded,
                Some(notice) = self.notices.recv() => self.noted(journal, notice).await?,
            }
        };
        self.journal_notices(journal).await?;
        seeded.map_err(WorkerError::Lane)?;
        let meter = &self.ctx.shared.meter;
        Ok(SeedSummary {
            partitions: meter.partitions_seeded(),
            bytes_read: meter.bytes_read(),
            bytes_written: meter.bytes_written(),
            records_written: meter.records_written(),
            took_ms: millis(self.migration.clock.now() - started),
        })
    }

    /// Tails until the target has kept up for as long as the operator wants, and goes on tailing. `appeared` is asked
    /// now and then for lanes of what has appeared on the source.
    pub async fn tail_until_ready(
        &mut self,
        journal: &mut Journal,
        mut appeared: impl AsyncFnMut(&mut Journal) -> Result<Vec<LanePlan>, MigrationError>,
    ) -> Result<TailSummary, WorkerError> {
        let cutover = self.migration.config.cutover.clone();
        let clock = self.migration.clock.clone();
        let started = clock.now();
        let (records_before, bytes_before) =
            (self.ctx.shared.meter.records_written(), self.ctx.shared.meter.bytes_written());
        let mut crew = Crew::new(self.ctx.clone());
        self.lanes.iter().for_each(|lane| crew.add(lane.clone()));
        *self.view.board.lock().expect("no holder panics") = crew.board();
        let mut readiness = DrainReadiness::new(cutover.drain_max_partition_lag, cutover.drain_stable_window);
        let mut refreshed_at = started;
        loop {
            tokio::select! {
                error = crew.failure() => {
                    crew.stop().await.map_err(WorkerError::Lane)?;
                    self.journal_notices(journal).await?;
                    return Err(WorkerError::Lane(error));
                }
                Some(notice) = self.notices.recv() => self.noted(journal, notice).await?,
                () = clock.sleep(LOOK_EVERY) => {}
            }
            let now = clock.now();
            if now - refreshed_at >= INVENTORY_REFRESH {
                refreshed_at = now;
                for lane in appeared(journal).await.map_err(WorkerError::Migration)? {
                    crew.add(lane.clone());
                    self.lanes.push(lane);
                    *self.view.partitions.lock().expect("no holder panics") = count(&self.lanes);
                }
            }
            let board = crew.board().partitions();
            let causes =
                match readiness.judge(now, &drains(now, &board, self.lanes.iter().flat_map(|lane| &lane.partitions))) {
                    Ok(()) => break,
                    Err(causes) => causes,
                };
            if now - started > cutover.drain_timeout {
                crew.stop().await.map_err(WorkerError::Lane)?;
                let causes = drain_sentence(&self.migration.source, &clock, &causes).await;
                return Err(WorkerError::NotDrained { timeout: cutover.drain_timeout, causes });
            }
        }
        // A process that stood still believes in a long quiet window when it wakes up: only an owner's word counts.
        if let Err(taken) = self.still_ours().await {
            crew.stop().await.map_err(WorkerError::Lane)?;
            return Err(WorkerError::Lane(taken));
        }
        self.crew = Some(crew);
        let snapshot = self.view.snapshot();
        Ok(TailSummary {
            lag_records_max: snapshot.lag_records_max,
            records_replayed: snapshot.records_written - records_before,
            bytes_replayed: snapshot.bytes_written - bytes_before,
            took_ms: millis(clock.now() - started),
        })
    }

    /// Waits for a lane to fail while they go on tailing. Never returns while all is well.
    pub async fn failure(&mut self) -> WorkerError {
        match &mut self.crew {
            Some(crew) => WorkerError::Lane(crew.failure().await),
            None => std::future::pending().await,
        }
    }

    /// Brings every lane to rest.
    pub async fn stop(&mut self) -> Result<(), WorkerError> {
        match &mut self.crew {
            Some(crew) => crew.stop().await.map_err(WorkerError::Lane),
            None => Ok(()),
        }
    }

    /// Where tombstones may have been cleaned on the source before they were read, and up to which offset.
    pub fn tombstones_doubtful(&self) -> BTreeMap<TopicPartition, SourceOffset> {
        let board = self.view.board.lock().expect("no holder panics").clone();
        board.tombstones_doubtful()
    }

    /// Whether the ledger still names this process as the owner of every lane.
    async fn still_ours(&self) -> Result<(), LaneError> {
        for lane in &self.lanes {
            let lease = read_lease(&self.migration.ledger, lane.id).await;
            let lease = lease.map_err(|source| LaneError::Store { lane: lane.id, source })?;
            let owner = lease.map_or_else(|| "nobody".to_owned(), |(_, record)| record.owner);
            if owner != self.ctx.settings.owner {
                return Err(LaneError::NotOwner { lane: lane.id, owner });
            }
        }
        Ok(())
    }

    async fn noted(&self, journal: &mut Journal, notice: Notice) -> Result<(), WorkerError> {
        journal_notice(&self.migration, journal, notice).await.map_err(WorkerError::Migration)
    }

    async fn journal_notices(&mut self, journal: &mut Journal) -> Result<(), WorkerError> {
        while let Ok(notice) = self.notices.try_recv() {
            self.noted(journal, notice).await?;
        }
        Ok(())
    }
}

/// Where each planned partition stands. What was heard before a stall says nothing of now.
pub(crate) fn drains<'a>(
    now: Instant,
    board: &BTreeMap<TopicPartition, PartitionLag>,
    planned: impl IntoIterator<Item = &'a LanePartition>,
) -> BTreeMap<TopicPartition, PartitionDrain> {
    let drain = |planned: &LanePartition| {
        let lag = board.get(&planned.partition).filter(|lag| now.saturating_duration_since(lag.heard_at) < LEASE);
        lag.map_or(PartitionDrain::NotHeardOf, |lag| PartitionDrain::At {
            lag: lag.lag(),
            waits_for_transaction: lag.waits_for_transaction(),
        })
    };
    planned.into_iter().map(|planned| (planned.partition.clone(), drain(planned))).collect()
}

/// Journals gaps that lanes in other processes have met and nobody has journaled yet.
pub async fn journal_gaps<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    lanes: &[LanePlan],
) -> MigrationResult<()> {
    for lane in lanes {
        let progress = migration.ledger.lane_progress(lane.id).await.during("read how far lanes have copied")?;
        for (partition, gap) in progress.iter().flat_map(|p| p.gaps.iter().map(move |gap| (&p.partition, gap))) {
            let notice = Notice::Gap { partition: partition.clone(), from: gap.from, to: gap.to };
            let said = gap_detail(partition, gap.from, gap.to);
            if !journal.entries().iter().any(|e| e.kind == EntryKind::SourceGap && e.detail == said) {
                journal_notice(migration, journal, notice).await?;
            }
        }
    }
    Ok(())
}

fn gap_detail(partition: &TopicPartition, from: SourceOffset, to: SourceOffset) -> serde_json::Value {
    serde_json::json!({ "code": SOURCE_GAP.name, "partition": partition, "from": from, "to": to })
}

/// Journals what a lane has noticed.
pub async fn journal_notice<P: Ports>(
    migration: &Migration<P>,
    journal: &mut Journal,
    notice: Notice,
) -> MigrationResult<()> {
    let (kind, reason, detail) = match notice {
        Notice::Gap { partition, from, to } => (
            EntryKind::SourceGap,
            format!("{SOURCE_GAP}: source offsets {from} to {to} of {partition} were gone before they were read"),
            gap_detail(&partition, from, to),
        ),
        Notice::RolledBack { partition, records } => (
            EntryKind::TargetRolledBack,
            format!("{TARGET_ROLLED_BACK}: the target lost {records} records of {partition}; they are copied again"),
            serde_json::json!({ "code": TARGET_ROLLED_BACK.name, "partition": partition, "records": records }),
        ),
        Notice::StartedOver { lane, reason } => {
            tracing::warn!(%lane, reason, "a lane starts over");
            return Ok(());
        }
    };
    tracing::warn!(reason, "noticed");
    migration.note(journal, kind, reason, detail).await
}

fn count(lanes: &[LanePlan]) -> u64 {
    lanes.iter().map(|lane| lane.partitions.len() as u64).sum()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
