//! Where a migration stands: what is read for it, and how it is told.

use std::{collections::BTreeMap, fmt, time::Duration};

use krossing_core::{
    LaneId, TopicPartition,
    codes::SOURCE_GAP,
    journal::{EntryKind, JournalEntry},
    lease::{LeaseRecord, LeaseState},
    limits::LEASE_RENEWAL,
    ports::{Clock, LogEnd, LogReader},
    progress::PartitionProgress,
    transition::{Command, Position, ResumePoint, State, resume_point},
};
use krossing_replication::{LanePlan, open_transactions, read_lease};
use krossing_runtime::ForStep;
use serde::Serialize;

use crate::{
    session::{Session, after_acknowledgement},
    show,
};

/// How many partitions are listed; the rest is counted.
const PARTITIONS_SHOWN: usize = 20;

/// A cutover whose lanes nobody runs for longer than this is not one that is about to end: the closed lanes of one that
/// goes well have nobody for a moment only.
const CUTOVER_SILENT: Duration = Duration::from_secs(15);

/// All of it, at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    migration_id: String,
    at_unix_ms: i64,
    state: State,
    meaning: &'static str,
    since_unix_ms: i64,
    /// What failed, and why.
    failed: Option<(State, String)>,
    lanes: Vec<LaneStatus>,
    /// Whether somebody copies what producers write.
    tailing: bool,
    partitions: usize,
    partitions_seeded: usize,
    records_copied: u64,
    bytes_copied: u64,
    bytes_planned: u64,
    /// Between two looks; none where nobody copies.
    bytes_per_second: Option<u64>,
    lag_records_total: i64,
    lag_records_max: i64,
    /// Partitions that are behind, the worst first.
    lag: Vec<PartitionLag>,
    /// Partitions whose lag the source does not tell, and why.
    lag_unknown: Vec<String>,
    gaps: Vec<String>,
    open_transactions: Vec<String>,
    groups: GroupsStatus,
    next_command: Option<String>,
    /// Why there is no next command.
    stuck: Option<String>,
}

#[derive(Debug, Serialize)]
struct LaneStatus {
    lane: LaneId,
    partitions: usize,
    owner: Option<String>,
    status: &'static str,
}

#[derive(Debug, Serialize)]
struct PartitionLag {
    partition: TopicPartition,
    records: i64,
}

#[derive(Debug, Default, Serialize)]
struct GroupsStatus {
    planned: usize,
    /// After READY: carried over to the target.
    carried_over: Option<usize>,
    /// After READY: seen to work on the target.
    switched: Vec<String>,
    /// After READY: not seen there yet.
    not_switched: Vec<String>,
}

type Leases = BTreeMap<LaneId, LeaseRecord>;
type AllProgress = BTreeMap<TopicPartition, PartitionProgress>;

/// Looks at everything. Takes some seconds where a lane has an owner: whether that one is alive shows only in its
/// renewing.
pub(crate) async fn look(session: &Session) -> anyhow::Result<Status> {
    let planned = session.drive.planned().await?;
    let lanes = planned.lanes();
    let migration = &session.drive.migration;
    let before = leases(session, &lanes).await?;
    let copied_before = migration.progress(&planned.scope()).await?;
    let began = migration.clock.now();
    let held = before.values().any(|lease| lease.state == LeaseState::Held);
    if held {
        migration.clock.sleep(LEASE_RENEWAL + Duration::from_millis(500)).await;
    }
    let after = if held { leases(session, &lanes).await? } else { before.clone() };
    let progress = if held { migration.progress(&planned.scope()).await? } else { copied_before.clone() };
    let seconds = (migration.clock.now() - began).as_secs_f64();

    let journal = &session.drive.journal;
    let entered: Option<&JournalEntry> = journal.entries().iter().rev().find(|e| e.kind == EntryKind::Transition);
    let tip = journal.tip().unwrap_or(State::Planned);
    let lanes: Vec<LaneStatus> = lanes.iter().map(|lane| lane_status(lane, &before, &after)).collect();
    let tailing = lanes.iter().any(|lane| lane.status == RUN);
    let next = next_command(session);
    let mut status = Status {
        migration_id: migration.id.to_string(),
        at_unix_ms: session.unix_ms(),
        state: tip,
        meaning: show::standing(journal),
        since_unix_ms: entered.map_or(0, |entry| entry.at_unix_ms),
        failed: match journal.standing() {
            Position::FailedIn(state) | Position::FailedTooOften(state) => {
                Some((state, entered.map_or_else(String::new, |entry| entry.reason.clone())))
            }
            Position::Unborn | Position::At(_) => None,
        },
        lanes,
        tailing,
        partitions: planned.scope().partitions().count(),
        partitions_seeded: progress.values().filter(|progress| progress.seeded()).count(),
        records_copied: progress.values().map(|progress| progress.counts.records).sum(),
        bytes_copied: bytes(&progress),
        bytes_planned: planned.plan.bytes,
        bytes_per_second: tailing
            .then(|| (bytes(&progress).saturating_sub(bytes(&copied_before)) as f64 / seconds) as u64),
        lag_records_total: 0,
        lag_records_max: 0,
        lag: Vec::new(),
        lag_unknown: Vec::new(),
        gaps: gaps(&progress),
        open_transactions: Vec::new(),
        groups: groups(session, planned.plan.groups.len()).await?,
        next_command: next.as_ref().ok().cloned().flatten(),
        stuck: next.err(),
    };
    lag(session, &progress, &mut status).await?;
    Ok(status)
}

fn bytes(progress: &AllProgress) -> u64 {
    progress.values().map(|progress| progress.counts.bytes).sum()
}

async fn leases(session: &Session, lanes: &[LanePlan]) -> anyhow::Result<Leases> {
    let mut leases = Leases::new();
    for lane in lanes {
        let lease = read_lease(&session.drive.migration.ledger, lane.id).await.during("read who runs the lanes")?;
        leases.extend(lease.map(|(_, record)| (lane.id, record)));
    }
    Ok(leases)
}

const RUN: &str = "run";

fn lane_status(lane: &LanePlan, before: &Leases, after: &Leases) -> LaneStatus {
    let status = match (before.get(&lane.id), after.get(&lane.id)) {
        (_, None) => "not begun",
        (None, Some(_)) => "just taken",
        (Some(before), Some(after)) => match after.state {
            LeaseState::Held if before.generation != after.generation || before.beat != after.beat => RUN,
            LeaseState::Held => "held by one that is silent",
            LeaseState::Released => "free",
            LeaseState::Closed => "closed: fenced for the last time",
        },
    };
    let owner = after.get(&lane.id).map(|lease| lease.owner.clone());
    LaneStatus { lane: lane.id, partitions: lane.partitions.len(), owner, status }
}

fn gaps(progress: &AllProgress) -> Vec<String> {
    let all = progress.values().flat_map(|progress| progress.gaps.iter().map(move |gap| (&progress.partition, gap)));
    all.map(|(partition, gap)| {
        format!(
            "{SOURCE_GAP}: source offsets {} to {} of {partition} were gone before they were read",
            gap.from, gap.to
        )
    })
    .collect()
}

async fn groups(session: &Session, planned: usize) -> anyhow::Result<GroupsStatus> {
    let mut groups = GroupsStatus { planned, ..GroupsStatus::default() };
    if !session.drive.journal.states().contains(&State::AwaitingClientSwitch) {
        return Ok(groups);
    }
    let (_, record) = session.drive.migration.client_switch().await?;
    // A group without a position in a migrated topic has nothing to carry over, and nothing to switch.
    let concerned = record.groups.iter().filter(|(_, group)| group.switched.is_some() || !group.written.is_empty());
    groups.carried_over = Some(concerned.clone().count());
    for (group, record) in concerned {
        let list = if record.switched.is_some() { &mut groups.switched } else { &mut groups.not_switched };
        list.push(group.to_string());
    }
    Ok(groups)
}

async fn lag(session: &Session, progress: &AllProgress, status: &mut Status) -> anyhow::Result<()> {
    let partitions: Vec<_> = progress.keys().cloned().collect();
    if partitions.is_empty() {
        return Ok(());
    }
    let (source, clock) = (&session.drive.migration.source, &session.drive.migration.clock);
    let ends = source.log_ends(&partitions, LogEnd::Latest).await.during("read the source's ends")?;
    for (partition, progress) in progress {
        match ends.get(partition) {
            Some(Ok(end)) => status
                .lag
                .push(PartitionLag { partition: partition.clone(), records: (end - progress.source_next.0).max(0) }),
            Some(Err(code)) => status.lag_unknown.push(format!("{partition}: lag unknown ({code})")),
            None => status.lag_unknown.push(format!("{partition}: lag unknown")),
        }
    }
    status.lag_records_total = status.lag.iter().map(|lag| lag.records).sum();
    status.lag_records_max = status.lag.iter().map(|lag| lag.records).max().unwrap_or(0);
    status.lag.retain(|lag| lag.records > 0);
    status.lag.sort_by(|a, b| b.records.cmp(&a.records).then_with(|| a.partition.cmp(&b.partition)));
    let open = open_transactions(source, clock, &partitions).await.during("look for open transactions")?;
    // One that ends in its time holds nobody back.
    let holding = open.iter().filter(|open| progress[&open.partition].source_next.0 >= open.from);
    status.open_transactions = holding.map(|open| open.sentence(status.at_unix_ms)).collect();
    Ok(())
}

/// What goes on from here; none where it has ended; an error where there is no way.
fn next_command(session: &Session) -> Result<Option<String>, String> {
    let journal = &session.drive.journal;
    let command = match resume_point(journal.states()) {
        Ok(ResumePoint::Wait { .. }) if journal.is_being_given_up() => Command::Rollback,
        Ok(ResumePoint::Run { .. } | ResumePoint::AbandonCutover) => Command::Resume,
        Ok(ResumePoint::Wait { next: Command::Finalize, .. }) => after_acknowledgement(journal),
        Ok(ResumePoint::Wait { next, .. }) => next,
        Ok(ResumePoint::Finished { .. }) => return Ok(None),
        Err(why) => return Err(why.to_string()),
    };
    Ok(Some(session.next_command(command)))
}

impl Status {
    /// Whether nothing follows.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.is_terminal()
    }

    fn eta(&self) -> Option<Duration> {
        let rate = self.bytes_per_second.filter(|rate| *rate > 0 && self.state == State::Seed)?;
        Some(Duration::from_secs(self.bytes_planned.saturating_sub(self.bytes_copied) / rate))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = Duration::from_millis(u64::try_from(self.at_unix_ms - self.since_unix_ms).unwrap_or(0));
        writeln!(f, "migration_id: {}", self.migration_id)?;
        let since = show::time(self.since_unix_ms);
        writeln!(f, "state: {} since {since} ({} ago)\n  {}", self.state, show::duration(ago), self.meaning)?;
        if let Some((state, reason)) = &self.failed {
            writeln!(f, "  {state} failed: {reason}")?;
        }
        for lane in &self.lanes {
            let by = lane.owner.as_ref().map_or_else(String::new, |owner| format!(" ({owner})"));
            writeln!(f, "{}: {} partitions, {}{by}", lane.lane, lane.partitions, lane.status)?;
        }
        let copying = matches!(self.state, State::Seed | State::Tail | State::DrainReady);
        if copying && !self.tailing {
            writeln!(f, "nothing is copying: what producers write meanwhile is only on the source")?;
        }
        if self.state == State::Cutover && !self.tailing && ago > CUTOVER_SILENT {
            writeln!(
                f,
                "THE CUTOVER SEEMS TO HAVE DIED, and producers may be standing still: run the next command now, it lets \
                 them go on"
            )?;
        }
        write!(
            f,
            "partitions={} seeded={} records={} bytes={} of {}",
            self.partitions,
            self.partitions_seeded,
            self.records_copied,
            show::bytes(self.bytes_copied),
            show::bytes(self.bytes_planned)
        )?;
        if let Some(rate) = self.bytes_per_second {
            write!(f, " rate={}/s", show::bytes(rate))?;
        }
        if let Some(eta) = self.eta() {
            write!(f, " eta={}", show::duration(eta))?;
        }
        writeln!(f, "\nlag={} max_partition_lag={}", self.lag_records_total, self.lag_records_max)?;
        for lag in self.lag.iter().take(PARTITIONS_SHOWN) {
            writeln!(f, "  {}: {}", lag.partition, lag.records)?;
        }
        if self.lag.len() > PARTITIONS_SHOWN {
            writeln!(f, "  and {} more", self.lag.len() - PARTITIONS_SHOWN)?;
        }
        for line in self.lag_unknown.iter().chain(&self.gaps).chain(&self.open_transactions) {
            writeln!(f, "  {line}")?;
        }
        match self.groups.carried_over {
            None => writeln!(f, "groups={}", self.groups.planned)?,
            Some(carried_over) => {
                writeln!(f, "groups carried over={carried_over} switched={}", self.groups.switched.len())?;
                if !self.groups.not_switched.is_empty() {
                    writeln!(f, "not switched: {}", self.groups.not_switched.join(", "))?;
                }
            }
        }
        match (&self.next_command, &self.stuck) {
            (Some(command), _) => writeln!(f, "next_command: {command}"),
            (None, Some(why)) => writeln!(f, "next: {why}"),
            (None, None) => Ok(()),
        }
    }
}
