//! Where a migration stands: what is read for it, and how it is told.
//!
//! What the ledger knows is told whether or not the clusters can be reached; they are asked for what only they know: how
//! far the target is behind, and what has reached the source behind where it was closed. Of a migration that has ended
//! they are asked nothing.
//!
//! Invariants: no command is named that would be refused because another is at work; a figure that is not known is left
//! out.

use std::{collections::BTreeMap, fmt, time::Duration};

use krossing_client_switch::{ClientSwitch, LeftBehind, LookedBehind};
use krossing_core::{
    LaneId, Side, TopicPartition,
    codes::SOURCE_GAP,
    journal::{EntryKind, Journal, JournalEntry},
    lease::{LeaseRecord, LeaseState},
    limits::LEASE_RENEWAL,
    ports::{Clock, LogEnd, LogReader},
    progress::PartitionProgress,
    transition::{Command, NoResumePoint, Position, ResumePoint, State, resume_point},
};
use krossing_drive::Planned;
use krossing_replication::{LanePlan, open_transactions, read_lease};
use krossing_runtime::{
    ForStep, MigrationResult,
    connect::{LedgerPlace, reach_to_look},
    lock::{self, Driver},
};
use serde::Serialize;

use crate::{
    commands::client_switch::left_behind,
    session::{Session, after_acknowledgement},
    show,
};

/// How many partitions are listed; the rest is counted.
const PARTITIONS_SHOWN: usize = 20;

/// All of it, at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    migration_id: String,
    at_unix_ms: i64,
    state: State,
    meaning: &'static str,
    since_unix_ms: i64,
    /// What the entry says that led to this state.
    reason: String,
    /// What failed, and why.
    failed: Option<(State, String)>,
    /// The last cutover, where it did not reach READY.
    last_cutover: Option<LastCutover>,
    /// Who drives the migration now.
    driven_by: Option<String>,
    /// A cutover is open and nobody who drives it is known to be alive.
    dead_cutover: Option<DeadCutover>,
    lanes: Vec<LaneStatus>,
    /// Whether somebody copies what producers write.
    tailing: bool,
    partitions: usize,
    partitions_seeded: usize,
    records_copied: u64,
    bytes_copied: u64,
    bytes_planned: u64,
    /// Clusters that give no answer.
    unreachable: Vec<Unreachable>,
    /// None where it is not known, and from READY on, when the source is closed.
    lag_records_total: Option<i64>,
    lag_records_max: Option<i64>,
    /// Partitions that are behind, the worst first.
    lag: Vec<PartitionLag>,
    /// Partitions whose lag the source does not tell, and why.
    lag_unknown: Vec<String>,
    gaps: Vec<String>,
    open_transactions: Vec<String>,
    /// After READY, where it could be looked: the first record of each partition that nobody has decided about.
    records_behind_marker: Option<Vec<LeftBehind>>,
    /// Partitions of which that is not known, and why.
    not_looked_behind: Vec<String>,
    groups: GroupsStatus,
    /// What else is to be done.
    steps: Vec<String>,
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
struct Unreachable {
    cluster: Side,
    why: String,
}

#[derive(Debug, Serialize)]
struct PartitionLag {
    partition: TopicPartition,
    records: i64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct LastCutover {
    at_unix_ms: i64,
    reason: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct DeadCutover {
    /// Who holds the lock and is silent; none where nobody holds it.
    silent: Option<String>,
    /// Since when producers may stand still; none where they go on.
    standstill_since_unix_ms: Option<i64>,
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

/// Looks at everything. Takes some seconds where a lane or a lock has an owner: whether that one is alive shows only in
/// its renewing. `unnamed`: clusters that are not asked, and why.
pub(crate) async fn look(session: &mut Session, unnamed: &[(Side, String)]) -> anyhow::Result<Status> {
    session.drive.reload().await?;
    let planned = session.drive.planned().await?;
    let lanes = planned.lanes();
    let (owners, unreachable) = tokio::join!(owners(session, &lanes), unreachable(session, unnamed));
    let owners = owners?;
    // After it was seen who is at work: a cutover that has ended meanwhile is not one that nobody drives.
    session.drive.reload().await?;
    let mut status = from_ledger(session, &planned, &owners).await?;
    status.unreachable = unreachable;
    from_clusters(session, &planned, &mut status).await?;
    what_next(session, &mut status);
    Ok(status)
}

/// Who runs the lanes, seen twice, and who drives the migration.
struct Owners {
    before: Leases,
    after: Leases,
    driver: Driver,
}

async fn owners(session: &Session, lanes: &[LanePlan]) -> anyhow::Result<Owners> {
    let migration = &session.drive.migration;
    let (before, lock_before) = (leases(session, lanes).await?, lock::look(&session.place, migration).await?);
    // A lock in a folder is the system's: its holder is there as long as it is held.
    let renewed = lock_before.is_held() && matches!(session.place, LedgerPlace::Table(_));
    let after = if renewed || before.values().any(|lease| lease.state == LeaseState::Held) {
        migration.clock.sleep(LEASE_RENEWAL + Duration::from_millis(500)).await;
        leases(session, lanes).await?
    } else {
        before.clone()
    };
    let driver = lock::look(&session.place, migration).await?.driver_since(&lock_before);
    Ok(Owners { before, after, driver })
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

async fn from_ledger(session: &Session, planned: &Planned, owners: &Owners) -> anyhow::Result<Status> {
    let progress = session.drive.migration.progress(&planned.scope()).await?;
    let journal = &session.drive.journal;
    let entered: Option<&JournalEntry> = journal.entries().iter().rev().find(|e| e.kind == EntryKind::Transition);
    let reason = entered.map_or_else(String::new, |entry| entry.reason.clone());
    let tip = journal.tip().unwrap_or(State::Planned);
    let lanes = planned.lanes();
    let lanes: Vec<LaneStatus> = lanes.iter().map(|lane| lane_status(lane, &owners.before, &owners.after)).collect();
    Ok(Status {
        migration_id: session.drive.migration.id.to_string(),
        at_unix_ms: session.unix_ms(),
        state: tip,
        meaning: show::standing(journal),
        since_unix_ms: entered.map_or(0, |entry| entry.at_unix_ms),
        failed: match journal.standing() {
            Position::FailedIn(state) | Position::FailedTooOften(state) => Some((state, reason.clone())),
            Position::Unborn | Position::At(_) => None,
        },
        reason,
        last_cutover: last_cutover(journal),
        driven_by: match &owners.driver {
            Driver::AtWork(who) => Some(who.clone()),
            Driver::Nobody | Driver::Silent(_) => None,
        },
        dead_cutover: dead_cutover(journal, &owners.driver),
        tailing: lanes.iter().any(|lane| lane.status == RUN),
        lanes,
        partitions: planned.scope().partitions().count(),
        partitions_seeded: progress.values().filter(|progress| progress.seeded()).count(),
        records_copied: progress.values().map(|progress| progress.counts.records).sum(),
        bytes_copied: progress.values().map(|progress| progress.counts.bytes).sum(),
        bytes_planned: planned.plan.bytes,
        unreachable: Vec::new(),
        lag_records_total: None,
        lag_records_max: None,
        lag: Vec::new(),
        lag_unknown: Vec::new(),
        gaps: gaps(&progress),
        open_transactions: Vec::new(),
        records_behind_marker: None,
        not_looked_behind: Vec::new(),
        groups: groups(session, planned.plan.groups.len()).await?,
        steps: Vec::new(),
        next_command: None,
        stuck: None,
    })
}

/// How the last cutover ended, where that was not with READY.
fn last_cutover(journal: &Journal) -> Option<LastCutover> {
    let of_cutover = |entry: &&JournalEntry| entry.kind == EntryKind::Transition && entry.from == Some(State::Cutover);
    let ended = journal.entries().iter().rev().find(of_cutover)?;
    let last = LastCutover { at_unix_ms: ended.at_unix_ms, reason: ended.reason.clone() };
    (ended.to != State::AwaitingClientSwitch).then_some(last)
}

/// A cutover that is open and that nobody drives who is known to be alive.
fn dead_cutover(journal: &Journal, driver: &Driver) -> Option<DeadCutover> {
    let silent = match driver {
        Driver::AtWork(_) => return None,
        Driver::Nobody => None,
        Driver::Silent(who) => Some(who.clone()),
    };
    let asked = journal.last_since(State::Cutover, EntryKind::FreezeAsked);
    let standstill_since_unix_ms = asked.filter(|_| journal.producers_may_stand_still()).map(|entry| entry.at_unix_ms);
    journal.standing().cutover_is_open().then_some(DeadCutover { silent, standstill_since_unix_ms })
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

async fn lag(session: &Session, progress: &AllProgress, status: &mut Status) -> MigrationResult<()> {
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
    status.lag_records_total = Some(status.lag.iter().map(|lag| lag.records).sum());
    status.lag_records_max = Some(status.lag.iter().map(|lag| lag.records).max().unwrap_or(0));
    status.lag.retain(|lag| lag.records > 0);
    status.lag.sort_by(|a, b| b.records.cmp(&a.records).then_with(|| a.partition.cmp(&b.partition)));
    let open = open_transactions(source, clock, &partitions).await.during("look for open transactions")?;
    // One that ends in its time holds nobody back.
    let holding = open.iter().filter(|open| progress[&open.partition].source_next.0 >= open.from);
    status.open_transactions = holding.map(|open| open.sentence(status.at_unix_ms)).collect();
    Ok(())
}

/// What is to be done, and the command that goes on from here.
fn what_next(session: &Session, status: &mut Status) {
    let journal = &session.drive.journal;
    let command_line = |command| session.next_command(command);
    match next_command(journal, status) {
        Ok(Some(command)) => {
            if command != Command::Rollback {
                status.steps = steps(status, command_line);
            }
            // Another would be refused.
            status.next_command = status.driven_by.is_none().then(|| command_line(command));
        }
        Ok(None) => {}
        Err(why) => status.stuck = Some(why.to_string()),
    }
}

/// What goes on from here; none where it has ended; an error where there is no way.
fn next_command(journal: &Journal, status: &Status) -> Result<Option<Command>, NoResumePoint> {
    Ok(Some(match resume_point(journal.states())? {
        ResumePoint::Wait { .. } if journal.is_being_given_up() => Command::Rollback,
        ResumePoint::Run { .. } | ResumePoint::AbandonCutover => Command::Resume,
        ResumePoint::Wait { next: Command::CutoverAck, .. } if !status.groups.not_switched.is_empty() => {
            Command::ClientSwitch
        }
        ResumePoint::Wait { next: Command::Finalize, .. } => match &status.records_behind_marker {
            Some(behind) if behind.is_empty() => Command::Finalize,
            Some(_) => Command::Stragglers,
            None => after_acknowledgement(journal),
        },
        ResumePoint::Wait { next, .. } => next,
        ResumePoint::Finished { .. } => return Ok(None),
    }))
}

/// What is to be done beside, or before, the next command.
fn steps(status: &Status, command_line: impl Fn(Command) -> String) -> Vec<String> {
    let mut steps = Vec::new();
    let behind = status.records_behind_marker.as_deref().unwrap_or_default();
    steps.extend(left_behind(behind, &command_line(Command::Stragglers)));
    if status.state == State::AwaitingClientSwitch {
        let GroupsStatus { switched, not_switched, .. } = &status.groups;
        let all = switched.len() + not_switched.len();
        if !not_switched.is_empty() {
            steps.push(format!(
                "point consumers, then producers, to the target; what keeps groups in step meanwhile, and sees who has \
                 switched: {}",
                command_line(Command::ClientSwitch)
            ));
        }
        steps.push(format!(
            "{} of {all} groups were seen to have switched; once all clients have, producers too: {}",
            switched.len(),
            command_line(Command::CutoverAck)
        ));
        steps.push(format!(
            "or stay on the source, while no client has come to the target: {}",
            command_line(Command::Rollback)
        ));
    }
    steps
}

impl Status {
    /// Whether nothing follows.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.is_terminal()
    }

    /// When it was looked.
    pub(crate) fn clock_time(&self) -> String {
        show::clock_time(self.at_unix_ms)
    }

    /// The state, what it means here, and how it came to that.
    fn standing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = Duration::from_millis(u64::try_from(self.at_unix_ms - self.since_unix_ms).unwrap_or(0));
        let since = show::time(self.since_unix_ms);
        writeln!(f, "state: {} since {since} ({} ago)", self.state, show::duration(ago))?;
        match &self.dead_cutover {
            None => writeln!(f, "  {}", self.meaning)?,
            Some(dead) => write!(f, "{dead}")?,
        }
        match (&self.failed, &self.last_cutover) {
            (Some((state, reason)), _) => writeln!(f, "  {state} failed: {reason}")?,
            // Said below, with its time.
            (None, Some(last)) if last.reason == self.reason => {}
            (None, _) if self.reason.is_empty() => {}
            (None, _) => writeln!(f, "  {}", self.reason)?,
        }
        if let Some(LastCutover { at_unix_ms, reason }) = &self.last_cutover {
            writeln!(f, "  the last cutover ended without READY at {}: {reason}", show::time(*at_unix_ms))?;
        }
        Ok(())
    }

    fn owners(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(who) = &self.driven_by {
            writeln!(f, "at work: {who}; other commands than status and client-switch are refused until it has ended")?;
        }
        for lane in &self.lanes {
            let by = lane.owner.as_ref().map_or_else(String::new, |owner| format!(" ({owner})"));
            writeln!(f, "{}: {} partitions, {}{by}", lane.lane, lane.partitions, lane.status)?;
        }
        let copying = matches!(self.state, State::Seed | State::Tail | State::DrainReady);
        if copying && !self.tailing && self.driven_by.is_none() {
            writeln!(f, "nothing is copying: what producers write meanwhile is only on the source")?;
        }
        Ok(())
    }

    fn figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "partitions={} seeded={} records={} bytes={} of {}",
            self.partitions,
            self.partitions_seeded,
            self.records_copied,
            show::bytes(self.bytes_copied),
            show::bytes(self.bytes_planned)
        )?;
        for Unreachable { cluster, why } in &self.unreachable {
            let unknown = match (cluster, self.groups.carried_over) {
                (Side::Source, None) => ", so that the lag is not known",
                (Side::Source, Some(_)) => ", so that it is not known whether a producer was left behind",
                (Side::Target, _) => "",
            };
            writeln!(f, "the {cluster} could not be reached{unknown}: {why}")?;
        }
        if let (Some(total), Some(max)) = (self.lag_records_total, self.lag_records_max) {
            writeln!(f, "lag={total} max_partition_lag={max}")?;
        }
        for lag in self.lag.iter().take(PARTITIONS_SHOWN) {
            writeln!(f, "  {}: {}", lag.partition, lag.records)?;
        }
        if self.lag.len() > PARTITIONS_SHOWN {
            writeln!(f, "  and {} more", self.lag.len() - PARTITIONS_SHOWN)?;
        }
        for line in self.lag_unknown.iter().chain(&self.gaps).chain(&self.open_transactions) {
            writeln!(f, "  {line}")?;
        }
        for line in &self.not_looked_behind {
            writeln!(f, "  {line}: whether a producer was left behind is not known")?;
        }
        Ok(())
    }

    fn groups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GroupsStatus { planned, carried_over, switched, not_switched } = &self.groups;
        let Some(carried_over) = carried_over else { return writeln!(f, "groups={planned}") };
        let without = show::groups_without_positions(*planned, *carried_over);
        writeln!(f, "groups carried over={carried_over}{without} switched={}", switched.len())?;
        if !not_switched.is_empty() {
            writeln!(f, "not switched: {}", not_switched.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "migration_id: {}", self.migration_id)?;
        self.standing(f)?;
        self.owners(f)?;
        self.figures(f)?;
        self.groups(f)?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        match (&self.next_command, &self.stuck) {
            (Some(command), _) => writeln!(f, "next_command: {command}"),
            (None, Some(why)) => writeln!(f, "next: {why}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for DeadCutover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.silent {
            None => writeln!(f, "  THE CUTOVER WAS BEGUN AND NOBODY DRIVES IT: its process is dead")?,
            Some(who) => {
                writeln!(f, "  THE CUTOVER WAS BEGUN AND ITS PROCESS IS SILENT OR DEAD ({who} holds the lock)")?
            }
        }
        match self.standstill_since_unix_ms {
            Some(since) => writeln!(
                f,
                "  producers may stand still since {} UTC: run `krossing resume` NOW, it lets producers go on",
                show::clock_time(since)
            ),
            None => writeln!(f, "  producers were not asked to stand still, or go on: `krossing resume` takes it back"),
        }
    }
}

#[cfg(test)]
mod tests {
    use krossing_core::{
        journal::{Actor, KnownBy, Stamp},
        stragglers::StrayRecord,
    };
    use serde_json::json;

    use super::*;

    /// A journal with these transitions and notes, a second apart, the first at 1 s.
    fn journal(entries: &[Result<(State, &str), EntryKind>]) -> Journal {
        let mut journal = Journal::default();
        for (entry, second) in entries.iter().zip(1..) {
            let by = Actor { who: "alice@here".to_owned(), known_by: KnownBy::OperatingSystem };
            let stamp = Stamp { at_unix_ms: second * 1000, by };
            let made = match entry {
                Ok((State::Planned, reason)) => journal.begin("f1".to_owned(), stamp, *reason, json!({})),
                Ok((state, reason)) => journal.transition(*state, stamp, *reason, json!({})),
                Err(kind) => journal.note(*kind, stamp, "", json!({})),
            };
            journal.push(made.expect("the table allows it").0).expect("it is the next");
        }
        journal
    }

    /// Up to a cutover in which producers were asked to stand still, at 8 s.
    fn cut_over(more: &[Result<(State, &'static str), EntryKind>]) -> Journal {
        let way = [State::Planned, State::Precheck, State::TopologyCopy, State::Seed, State::Tail, State::DrainReady];
        let mut entries: Vec<_> = way.into_iter().map(|state| Ok((state, ""))).collect();
        entries.extend([Ok((State::Cutover, "")), Err(EntryKind::FreezeAsked)]);
        entries.extend_from_slice(more);
        journal(&entries)
    }

    fn status(journal: &Journal, driver: &Driver) -> Status {
        let state = journal.tip().expect("it has begun");
        Status {
            migration_id: "orders".to_owned(),
            at_unix_ms: 70_000,
            state,
            meaning: show::meaning(state),
            since_unix_ms: 10_000,
            reason: String::new(),
            failed: None,
            last_cutover: last_cutover(journal),
            driven_by: match driver {
                Driver::AtWork(who) => Some(who.clone()),
                Driver::Nobody | Driver::Silent(_) => None,
            },
            dead_cutover: dead_cutover(journal, driver),
            lanes: Vec::new(),
            tailing: false,
            partitions: 2,
            partitions_seeded: 2,
            records_copied: 7,
            bytes_copied: 70,
            bytes_planned: 70,
            unreachable: Vec::new(),
            lag_records_total: None,
            lag_records_max: None,
            lag: Vec::new(),
            lag_unknown: Vec::new(),
            gaps: Vec::new(),
            open_transactions: Vec::new(),
            records_behind_marker: None,
            not_looked_behind: Vec::new(),
            groups: GroupsStatus { planned: 3, ..GroupsStatus::default() },
            steps: Vec::new(),
            next_command: None,
            stuck: None,
        }
    }

    fn alice() -> Driver {
        Driver::AtWork("alice:1".to_owned())
    }

    #[test]
    fn a_cutover_that_nobody_drives_says_since_when_producers_may_stand_still() {
        let open = cut_over(&[]);
        let shown = status(&open, &Driver::Nobody).to_string();
        for expected in ["its process is dead", "since 00:00:08 UTC", "`krossing resume` NOW"] {
            assert!(shown.contains(expected), "{expected} is missing in {shown}");
        }
        assert!(!shown.contains("carried over"), "{shown}");
        let silent = status(&open, &Driver::Silent("bob:2".to_owned())).to_string();
        assert!(silent.contains("SILENT OR DEAD (bob:2 holds the lock)"), "{silent}");
        assert_eq!(dead_cutover(&open, &alice()), None);
        let released = cut_over(&[Err(EntryKind::UnfreezeAsked), Err(EntryKind::Unfrozen)]);
        let shown = status(&released, &Driver::Nobody).to_string();
        assert!(!shown.contains("stand still since"), "{shown}");
        let failed = cut_over(&[Ok((State::Failed, "the cutover was interrupted"))]);
        assert!(dead_cutover(&failed, &Driver::Nobody).is_some(), "nobody has let producers go on yet");
    }

    #[test]
    fn a_cutover_that_failed_is_told_with_its_reason_and_time_until_one_reaches_ready() {
        let why = "the cutover failed: producers were not frozen";
        let failed = cut_over(&[Ok((State::DrainReady, why))]);
        let shown = status(&failed, &Driver::Nobody).to_string();
        assert!(shown.contains(&format!("without READY at 1970-01-01T00:00:09.000000Z: {why}")), "{shown}");
        let ready = Ok((State::AwaitingClientSwitch, "READY"));
        let later = cut_over(&[Ok((State::DrainReady, why)), Ok((State::Cutover, "")), ready]);
        assert_eq!(last_cutover(&later), None);
    }

    #[test]
    fn what_is_at_work_is_named_and_no_command_that_it_would_refuse() {
        let seeding: Vec<_> =
            [State::Planned, State::Precheck, State::TopologyCopy, State::Seed].map(|state| Ok((state, ""))).into();
        let journal = journal(&seeding);
        let mut status = status(&journal, &alice());
        assert_eq!(next_command(&journal, &status), Ok(Some(Command::Resume)));
        status.next_command = None;
        let shown = status.to_string();
        assert!(shown.contains("at work: alice:1;") && !shown.contains("nothing is copying"), "{shown}");
    }

    #[test]
    fn ready_is_followed_by_switching_and_by_the_acknowledgement_once_all_have() {
        let ready = cut_over(&[Ok((State::AwaitingClientSwitch, "READY"))]);
        let mut status = status(&ready, &Driver::Nobody);
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let line = |command: Command| format!("krossing {command} …");
        status.groups.carried_over = Some(2);
        status.groups.not_switched = named(&["a", "b"]);
        assert_eq!(next_command(&ready, &status), Ok(Some(Command::ClientSwitch)));
        let said = steps(&status, line).join("\n");
        assert!(said.contains("krossing client-switch …") && said.contains("0 of 2 groups"), "{said}");
        (status.groups.switched, status.groups.not_switched) = (named(&["a", "b"]), Vec::new());
        assert_eq!(next_command(&ready, &status), Ok(Some(Command::CutoverAck)));
        assert!(status.to_string().contains("carried over=2 (of 3 planned; 1 had no position"), "{status}");
        assert!(!status.to_string().contains("lag="), "the source is closed: {status}");
    }

    #[test]
    fn records_behind_the_marker_are_named_and_come_before_finalize() {
        let acknowledged =
            cut_over(&[Ok((State::AwaitingClientSwitch, "READY")), Ok((State::Validating, "clients have switched"))]);
        let mut status = status(&acknowledged, &Driver::Nobody);
        assert_eq!(next_command(&acknowledged, &status), Ok(Some(Command::Finalize)));
        let record = StrayRecord { offset: 12, producer: None };
        status.records_behind_marker = Some(vec![LeftBehind { partition: TopicPartition::new("orders", 3), record }]);
        assert_eq!(next_command(&acknowledged, &status), Ok(Some(Command::Stragglers)));
        let said = steps(&status, |command| format!("krossing {command} …")).join("\n");
        assert!(said.contains("orders-3 at offset 12,") && said.contains("with krossing stragglers …,"), "{said}");
    }

    #[test]
    fn a_cluster_that_cannot_be_reached_is_named_with_what_is_not_known_for_it() {
        let mut status = status(&cut_over(&[Ok((State::DrainReady, ""))]), &Driver::Nobody);
        let gone = |cluster| Unreachable { cluster, why: "connect to b-1:9092".to_owned() };
        status.unreachable = vec![gone(Side::Source), gone(Side::Target)];
        let shown = status.to_string();
        let expected = "the source could not be reached, so that the lag is not known: connect to b-1:9092\n\
                        the target could not be reached: connect to b-1:9092\n";
        assert!(shown.contains(expected) && !shown.contains("lag="), "{shown}");
    }
}
