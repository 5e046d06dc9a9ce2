//! The worker: long work, one task of the workflow a process.
//!
//! `seed` and `tail` run one lane each and write no journal; what they notice is in the lane's progress, and `drain`,
//! which drives the migration meanwhile, journals it. `client-switch` writes positions and no journal. `finalize` drives.

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, time::Duration};

use clap::{Parser, Subcommand};
use krossing_client_switch::{ClientSwitch, SwitchError, SwitchReport, left_behind};
use krossing_core::{
    ErrorClass, GroupId, LaneId,
    journal::Journal,
    limits::INVENTORY_REFRESH,
    ports::{Clock, Version},
    transition::{Command, State},
};
use krossing_drive::{Drive, Planned, SILENT, chain, gate::journal_answers, hand_over, load_planned};
use krossing_replication::LanePlan;
use krossing_runtime::{
    Migration, SystemClock,
    connect::{NamedSecrets, Real, owner, variable},
    lock::CommandLock,
};
use krossing_worker::{
    AllLanes, LaneWatch, TailEnd, WorkerError, note_lane_failure, seed_lane, tail_lane, told_to_stop,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    Environment, Failure,
    lambda::start,
    recover::TOKEN_VARIABLE,
    task::{Pulse, Task, stopped},
    tell,
    turns::{Asked, log, of_this_execution},
};

/// How often lanes' reports are read, and the journal while groups are kept in step.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often figures are said.
const FIGURES_EVERY: Duration = Duration::from_secs(10);

/// One task of a migration's workflow. The environment has the rest: KROSSING_CONFIG, KROSSING_MIGRATION_ID,
/// KROSSING_EXECUTION, KROSSING_TASK_TOKEN.
#[derive(Debug, Parser)]
#[command(name = "krossing-worker", version)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Work {
    /// Seed one lane
    Seed {
        /// Its number
        #[arg(long)]
        lane: u32,
    },
    /// Tail one lane until the cutover wants it
    Tail {
        /// Its number
        #[arg(long)]
        lane: u32,
        /// How often lanes had been asked for when this tail was begun
        #[arg(long)]
        asked: Version,
    },
    /// Drive the migration from the end of the seed until the target has kept up
    Drain {
        /// How many lanes others tail: those of topics that have appeared since are tailed here
        #[arg(long)]
        lanes: usize,
        /// Whether this execution has laid lanes out anew already
        #[arg(long, action = clap::ArgAction::Set)]
        laid_anew: bool,
    },
    /// Keep groups in step until the acknowledgement
    ClientSwitch,
    /// Validate, set the planned settings, sign the evidence
    Finalize,
}

impl Work {
    /// How long the workflow waits for a heartbeat: a large partition of a seed may take minutes to show anything.
    fn heartbeat(self) -> Duration {
        Duration::from_secs(match self {
            Work::Seed { .. } => 300,
            Work::Tail { .. } | Work::Drain { .. } | Work::ClientSwitch | Work::Finalize => 180,
        })
    }
}

/// Reads what is to be done, does it, and tells the workflow how it ended.
pub fn main() -> ExitCode {
    let Arguments { work } = Arguments::parse();
    let Some(runtime) = start() else { return ExitCode::FAILURE };
    let ended = runtime.block_on(run(work));
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(class = failure.class.name(), failure.sentence, "the workflow could not be told");
            ExitCode::FAILURE
        }
    }
}

fn given(name: &str) -> Result<String, Failure> {
    variable(name).ok_or_else(|| Failure::refused_with(format!("{name} is not set: the state machine sets it")))
}

async fn run(work: Work) -> Result<(), Failure> {
    let token = given(TOKEN_VARIABLE)?;
    // Without a configuration there may be a region all the same, to say so to whoever waits.
    let environment = match Environment::read(NamedSecrets::Read).await {
        Ok(environment) => environment,
        Err(failure) => {
            let aws = krossing_runtime::aws::Aws::load(None).await;
            let workflow = krossing_runtime::aws::Workflow::new(&aws);
            return Task { workflow, token, heartbeat: work.heartbeat() }.run(|| {}, async |_, _| Err(failure)).await;
        }
    };
    let task = Task { workflow: environment.workflow.clone(), token, heartbeat: work.heartbeat() };
    let beaten = || {
        // Where the id is wrong no work gets as far as a heartbeat.
        if let Some(Ok(id)) = variable("KROSSING_MIGRATION_ID").map(|id| id.parse()) {
            tell::metrics(&id, None, &[("heartbeat", 1.0, "Count")]);
        }
    };
    task.run(beaten, async |pulse, stop| {
        let id = given("KROSSING_MIGRATION_ID")?;
        let execution = Some(given("KROSSING_EXECUTION")?);
        let asked = Asked { migration_id: id, execution, decision: None, lock_by: None };
        let migration = Arc::new(environment.migration(asked.id()?, asked.by()).await?);
        let execution = asked.execution.clone().unwrap_or_default();
        of_this_execution(&migration, &execution).await?;
        let mut job = Job { environment: &environment, migration, execution, pulse, stop };
        match work {
            Work::Seed { lane } => job.of_lane(LaneId(lane), async |job, lane| job.seed(lane).await).await,
            Work::Tail { lane, asked } => {
                let lane = LaneId(lane);
                let ended = job.of_lane(lane, async |job, lane| job.tail(lane, asked).await).await;
                job.told(ended, &format!("nobody tails {lane}")).await
            }
            Work::Drain { lanes, laid_anew } => Box::pin(job.drain(lanes, laid_anew)).await,
            Work::ClientSwitch => {
                let ended = Box::pin(job.client_switch()).await;
                job.told(ended, "groups are not kept in step").await
            }
            Work::Finalize => Box::pin(job.finalize()).await,
        }
    })
    .await
}

/// What every kind of work has.
struct Job<'a> {
    environment: &'a Environment,
    migration: Arc<Migration<Real>>,
    execution: String,
    pulse: Pulse,
    stop: watch::Receiver<bool>,
}

impl Job<'_> {
    async fn planned(&self) -> Result<Planned, Failure> {
        Ok(load_planned(&self.migration, &self.migration.journal().await?).await?)
    }

    async fn lane(&self, id: LaneId) -> Result<(LanePlan, usize), Failure> {
        let lanes = self.planned().await?.lanes();
        let count = lanes.len();
        let lane = lanes.into_iter().find(|lane| lane.id == id);
        let lane = lane.ok_or_else(|| Failure::refused_with(format!("--lane: the plan has no {id}")))?;
        Ok((lane, count))
    }

    /// Work on one lane, whose failure the operator is to see whatever the workflow makes of it.
    async fn of_lane(
        &self,
        lane: LaneId,
        work: impl AsyncFnOnce(&Self, LaneId) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        note_lane_failure(&self.migration, lane, "").await;
        let ended = Box::pin(work(self, lane)).await;
        match &ended {
            Err(failure) if *failure != stopped() => {
                note_lane_failure(&self.migration, lane, &failure.sentence).await;
            }
            Err(_) | Ok(_) => {}
        }
        ended
    }

    /// Tells people of what does not pass by itself where the workflow goes on without this task: while a gate is open
    /// nothing else says that a lane is not tailed, and a source keeps its records for its retention only. Whoever is
    /// fenced has somebody else who does the work.
    async fn told(&self, ended: Result<Value, Failure>, what: &str) -> Result<Value, Failure> {
        let failure = match ended {
            Err(failure) if !matches!(failure.class, ErrorClass::Retryable | ErrorClass::Fenced) => failure,
            ended => return ended,
        };
        let state = match self.migration.journal().await {
            Ok(journal) => journal.standing().working_state().map_or("unborn", State::name),
            Err(error) => {
                tracing::warn!(%error, "where the migration stands is not known");
                "unknown"
            }
        };
        let class = failure.class.name();
        let cause = format!(
            "{what}: {}; if it does not go on by itself once that is put right, stop the execution, then `krossing resume`",
            failure.sentence
        );
        let event = tell::failed(&self.migration.id, state, class, &cause, Some(&self.execution));
        if let Err(error) = self.environment.bus.put(&event).await {
            tracing::warn!(%error, "nobody was told of the failure");
        }
        Err(failure)
    }

    async fn seed(&self, id: LaneId) -> Result<Value, Failure> {
        let (lane, lanes) = self.lane(id).await?;
        let (mut said, mut done) = (self.migration.clock.now(), 0);
        self.pulse.beat();
        let reported = |meter: &krossing_replication::Meter| {
            let now = meter.bytes_read() + meter.bytes_written() + meter.partitions_seeded();
            if now != done {
                done = now;
                self.pulse.beat();
            }
            if SystemClock.now() - said >= FIGURES_EVERY {
                said = SystemClock.now();
                let figures = [
                    ("bytes_written", meter.bytes_written() as f64, "Bytes"),
                    ("records_written", meter.records_written() as f64, "Count"),
                    ("partitions_left", (lane.partitions.len() as u64 - meter.partitions_seeded()) as f64, "Count"),
                ];
                tell::metrics(&self.migration.id, Some(id.0), &figures);
            }
        };
        seed_lane(&self.migration, &lane, lanes, &owner(), self.stop.clone(), reported).await.map_err(of_worker)?;
        Ok(json!({ "lane": id }))
    }

    async fn tail(&self, id: LaneId, asked: Version) -> Result<Value, Failure> {
        let (lane, _) = self.lane(id).await?;
        let seen = (asked != 0).then_some(asked);
        match self.tail_until(&lane, &owner(), hand_over::asked(&self.migration, seen)).await? {
            TailEnd::Asked | TailEnd::Closed => Ok(json!({ "lane": id })),
            TailEnd::Stopped => Err(stopped()),
        }
    }

    async fn tail_until(
        &self,
        lane: &LanePlan,
        owner: &str,
        asked: impl Future<Output = krossing_runtime::MigrationResult<()>> + Send,
    ) -> Result<TailEnd, Failure> {
        let (pulse, id) = (self.pulse.clone(), self.migration.id.clone());
        let (mut said, mut written) = (SystemClock.now(), 0);
        let reported = |report: &krossing_worker::LaneReport| {
            // Who hears nothing of the source gets nothing done, unless it still seeds what has appeared.
            if report.partitions_heard > 0 || report.bytes_written > written {
                written = report.bytes_written;
                pulse.beat();
            }
            if SystemClock.now() - said >= FIGURES_EVERY {
                said = SystemClock.now();
                let figures = [
                    ("lag_records_max", report.lag_records_max as f64, "Count"),
                    ("lag_records_total", report.lag_records_total as f64, "Count"),
                    ("bytes_written", report.bytes_written as f64, "Bytes"),
                    ("records_written", report.records_written as f64, "Count"),
                ];
                tell::metrics(&id, Some(lane.id.0), &figures);
            }
        };
        tail_lane(&self.migration, lane, owner, asked, self.stop.clone(), reported).await.map_err(of_worker)
    }

    /// Drives the migration to `drain_ready` while others tail its first lanes. Those of what has appeared since are
    /// tailed here; so that they are also while an operator is waited for, all are then laid out anew, once.
    async fn drain(mut self, lanes: usize, laid_anew: bool) -> Result<Value, Failure> {
        let owner = owner();
        let place = self.environment.place(&self.migration.id)?;
        let _lock = CommandLock::take(&place, &self.migration, &owner, log).await?;
        let mut drive = Drive::open(self.migration.clone(), owner.clone(), SILENT, Command::Resume).await?;
        journal_answers(&self.migration, &mut drive.journal).await?;
        drive.resume_what_failed().await?;
        let mut planned = drive.planned().await?;
        if drive.journal.tip() == Some(State::Seed) {
            let progress = self.migration.progress(&planned.scope()).await?;
            let left = planned.scope().partitions().count() - progress.values().filter(|one| one.seeded()).count();
            if left > 0 {
                return Err(Failure::retryable(format!("{left} partitions are not seeded yet")));
            }
            let counts: krossing_core::progress::CopyCounts = progress.values().map(|one| one.counts).sum();
            let reason =
                format!("seeded: partitions={} records={} bytes={}", progress.len(), counts.records, counts.bytes);
            let detail = json!({ "partitions": progress.len(), "records_written": counts.records, "bytes_written": counts.bytes });
            drive.enter(State::Tail, reason, detail).await?;
            tell::new_entries(self.environment, &self.migration, Some(&self.execution)).await;
        }
        let lays_anew = |planned: &Planned| !laid_anew && planned.lanes().len() > lanes;
        // A worker that had journaled it may have died before it said so, and lanes have ended because it asked them to.
        if drive.journal.tip() != Some(State::DrainReady) || !lays_anew(&planned) {
            self.keep_up(&mut drive, &mut planned, lanes).await?;
        }
        let lanes_anew = lays_anew(&planned);
        if lanes_anew {
            hand_over::tell(&self.migration, &owner).await?;
        }
        Ok(json!({ "state": State::DrainReady, "lanes_anew": lanes_anew }))
    }

    /// Until the target has kept up, and the journal says so.
    async fn keep_up(&mut self, drive: &mut Drive<Real>, planned: &mut Planned, lanes: usize) -> Result<(), Failure> {
        let ready = self.until_ready(drive, planned, lanes).await?;
        // It reads both sides of every partition in doubt, for as long as that takes.
        let scope = planned.scope();
        let missed = tokio::select! {
            missed = krossing_validate::tombstones_missed(&self.migration, &scope, &ready.tombstones_doubtful) => missed?,
            () = told_to_stop(&mut self.stop) => return Err(stopped()),
            () = alive(&self.pulse) => unreachable!("it goes on for ever"),
        };
        if let Some(missed) = missed {
            return Err(anyhow::Error::new(missed).into());
        }
        if drive.journal.tip() == Some(State::Tail) {
            let reason = format!(
                "drain ready: max_partition_lag={} records_replayed={} bytes_replayed={}",
                ready.lag_records_max, ready.records_written, ready.bytes_written
            );
            let detail = json!({
                "lag_records_max": ready.lag_records_max,
                "records_replayed": ready.records_written,
                "bytes_replayed": ready.bytes_written,
            });
            drive.enter(State::DrainReady, reason, detail).await?;
        }
        tell::new_entries(self.environment, &self.migration, Some(&self.execution)).await;
        Ok(())
    }

    async fn until_ready(
        &mut self,
        drive: &mut Drive<Real>,
        planned: &mut Planned,
        mut tailed: usize,
    ) -> Result<AllLanes, Failure> {
        let clock = self.migration.clock;
        let (started, mut refreshed) = (clock.now(), None);
        let mut watch = LaneWatch::default();
        let mut appeared: JoinSet<Result<TailEnd, WorkerError>> = JoinSet::new();
        let (stop_appeared, told) = watch::channel(false);
        let timeout = self.environment.config.cutover.drain_timeout;
        let ended = loop {
            if refreshed.is_none_or(|at| clock.now() - at >= INVENTORY_REFRESH) {
                refreshed = Some(clock.now());
                drive.take_in_what_appeared(planned).await?;
                krossing_worker::journal_gaps(&self.migration, &mut drive.journal, &planned.lanes()).await?;
            }
            for lane in planned.lanes().split_off(tailed) {
                let (migration, owner, told) = (self.migration.clone(), drive.owner.clone(), told.clone());
                appeared.spawn(async move {
                    tail_lane(&migration, &lane, &owner, std::future::pending(), told, |_| {}).await
                });
                tailed += 1;
            }
            tokio::select! {
                () = told_to_stop(&mut self.stop) => {
                    break Err(stopped());
                }
                Some(ended) = appeared.join_next() => {
                    if let Ok(Err(error)) = ended {
                        break Err(of_worker(error));
                    }
                    continue;
                }
                () = clock.sleep(LOOK_EVERY) => {}
            }
            let all = watch.look(&self.migration, &planned.lanes()).await?;
            if all.heard > 0 {
                self.pulse.beat();
            }
            if all.causes.is_empty() {
                break Ok(all);
            }
            if clock.now() - started > timeout {
                break Err(of_worker(WorkerError::NotDrained { timeout, causes: all.causes.join("; ") }));
            }
        };
        // Whoever cuts over runs lanes that nobody else does.
        stop_appeared.send_replace(true);
        while let Some(rested) = appeared.join_next().await {
            if let Ok(Err(error)) = rested {
                tracing::warn!(error = chain(&error), "a lane of what has appeared did not come to rest by itself");
            }
        }
        ended
    }

    async fn client_switch(&mut self) -> Result<Value, Failure> {
        let lanes = self.planned().await?.lanes();
        let migration = self.migration.clone();
        let switch = ClientSwitch::load(&migration, &lanes).await.map_err(anyhow::Error::new)?;
        let pulse = self.pulse.clone();
        let until = async {
            loop {
                match migration.journal().await {
                    Ok(journal) if clients_have_switched_or_will_not(&journal) => return,
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the journal could not be read; looking again"),
                }
                tokio::select! {
                    () = told_to_stop(&mut self.stop) => return,
                    () = migration.clock.sleep(LOOK_EVERY) => {}
                }
            }
        };
        let (warn, mut warnings) = mpsc::unbounded_channel();
        let stragglers = format!("`krossing stragglers --config operator.yaml --migration-id {}`", migration.id);
        let mut news = News::default();
        let show = move |round: Result<&SwitchReport, &SwitchError>| match round {
            Ok(report) => {
                pulse.beat();
                for warning in news.of(report, &stragglers) {
                    // Whoever tells is there for as long as this is.
                    _ = warn.send(warning);
                }
            }
            Err(error) => tracing::warn!(error = chain(error), "groups were not looked at; looking again"),
        };
        let telling = async {
            while let Some(warning) = warnings.recv().await {
                let event = tell::warned(&migration.id, State::AwaitingClientSwitch, &warning, &self.execution);
                if let Err(error) = self.environment.bus.put(&event).await {
                    tracing::warn!(%error, warning, "nobody was told");
                }
            }
        };
        let mut telling = std::pin::pin!(telling);
        let followed = tokio::select! {
            followed = switch.follow(until, show) => followed,
            () = &mut telling => unreachable!("it ends behind the last round"),
        };
        if tokio::time::timeout(tell::TELL_WAIT_MAX, telling).await.is_err() {
            tracing::warn!("nobody was told of all that was to be looked at");
        }
        followed.map_err(anyhow::Error::new)?;
        match clients_have_switched_or_will_not(&migration.journal().await?) {
            false => Err(stopped()),
            true => Ok(json!({})),
        }
    }

    /// Checks everything, sets the planned settings, signs. How far that is shows nowhere: it beats while it is alive.
    async fn finalize(mut self) -> Result<Value, Failure> {
        let owner = owner();
        let place = self.environment.place(&self.migration.id)?;
        let _lock = CommandLock::take(&place, &self.migration, &owner, log).await?;
        let mut drive = Drive::open(self.migration.clone(), owner, SILENT, Command::Finalize).await?;
        journal_answers(&self.migration, &mut drive.journal).await?;
        let ended = tokio::select! {
            ended = Box::pin(drive.finalize()) => ended.map_err(Failure::from),
            () = told_to_stop(&mut self.stop) => Err(stopped()),
            () = alive(&self.pulse) => unreachable!("it goes on for ever"),
        };
        tell::new_entries(self.environment, &self.migration, Some(&self.execution)).await;
        ended.map(|report| json!({ "state": State::Finalized, "records": report.copied.records }))
    }
}

/// What of the rounds of a client switch has been told.
#[derive(Default)]
struct News {
    partitions_left_behind: usize,
    groups_on_both: BTreeSet<GroupId>,
}

impl News {
    /// What somebody has to look at and has not been told. Partitions where producers were left behind may become more
    /// with each round: they are told again when there are twice as many.
    fn of(&mut self, report: &SwitchReport, stragglers: &str) -> Vec<String> {
        let on_both: Vec<_> =
            report.on_both.iter().filter(|group| self.groups_on_both.insert((*group).clone())).collect();
        let mut warnings = Vec::new();
        if let Some((first, others)) = on_both.split_first() {
            let others = if others.is_empty() { String::new() } else { format!("; so have {} others", others.len()) };
            warnings.push(format!("{}{others}", krossing_client_switch::on_both(first)));
        }
        let found = report.records_behind_marker.len();
        if found == 0 && report.not_looked_behind.is_empty() {
            // It was decided about them.
            self.partitions_left_behind = 0;
        }
        if found > 0 && found >= self.partitions_left_behind * 2 {
            self.partitions_left_behind = found;
            warnings.extend(left_behind(&report.records_behind_marker, stragglers));
        }
        warnings
    }
}

/// Beats for as long as the process is alive: for work that does not show how far it is. Never ends.
async fn alive(pulse: &Pulse) {
    loop {
        pulse.beat();
        SystemClock.sleep(FIGURES_EVERY).await;
    }
}

/// Whether groups are not to be kept in step any more: the switch is acknowledged, or the migration is being given up.
fn clients_have_switched_or_will_not(journal: &Journal) -> bool {
    journal.tip() != Some(State::AwaitingClientSwitch) || journal.is_being_given_up()
}

fn of_worker(error: WorkerError) -> Failure {
    anyhow::Error::new(error).into()
}

#[cfg(test)]
mod tests {
    use krossing_client_switch::LeftBehind;
    use krossing_core::{TopicPartition, stragglers::StrayRecord};

    use super::*;

    /// Every state of the definition that starts a worker: what it runs, and how long it waits for a heartbeat.
    fn tasks(state: &Value, found: &mut Vec<(String, u64)>) {
        if let Some(seconds) = state["HeartbeatSeconds"].as_u64() {
            found.push((state["Arguments"]["Overrides"]["ContainerOverrides"][0]["Command"].to_string(), seconds));
        }
        let below: Vec<&Value> = match state {
            Value::Object(fields) => fields.values().collect(),
            Value::Array(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        below.into_iter().for_each(|state| tasks(state, found));
    }

    #[test]
    fn what_somebody_has_to_look_at_is_told_once_and_again_when_it_is_twice_as_much() {
        let mut news = News::default();
        let mut told = |partitions: i32, on_both: &[&str]| {
            let left_behind = |partition| LeftBehind {
                partition: TopicPartition::new("orders", partition),
                record: StrayRecord { offset: 7, producer: None },
            };
            let report = SwitchReport {
                on_both: on_both.iter().copied().map(GroupId::new).collect(),
                records_behind_marker: (0..partitions).map(left_behind).collect(),
                ..SwitchReport::default()
            };
            news.of(&report, "`krossing stragglers`").len()
        };
        let rounds =
            [(0, &[][..]), (1, &["a"]), (1, &["a"]), (2, &["a", "b", "c"]), (3, &[]), (4, &[]), (0, &[]), (1, &[])];
        assert_eq!(rounds.map(|(partitions, on_both)| told(partitions, on_both)), [0, 2, 0, 2, 0, 1, 0, 1]);
    }

    #[test]
    fn workers_wait_as_long_for_something_to_be_done_as_the_definition_does() {
        let definition = include_str!("../../../statemachine/migration.asl.json");
        let mut found = Vec::new();
        tasks(&serde_json::from_str(definition).expect("the definition is JSON"), &mut found);
        let works = [
            ("seed", Work::Seed { lane: 0 }),
            ("tail", Work::Tail { lane: 0, asked: 0 }),
            ("drain", Work::Drain { lanes: 0, laid_anew: false }),
            ("client-switch", Work::ClientSwitch),
            ("finalize", Work::Finalize),
        ];
        assert_eq!(found.len(), works.len(), "{found:?}");
        for (name, work) in works {
            let (_, seconds) = found.iter().find(|(command, _)| command.contains(name)).expect(name);
            assert_eq!(work.heartbeat(), Duration::from_secs(*seconds), "{name}");
        }
    }
}
