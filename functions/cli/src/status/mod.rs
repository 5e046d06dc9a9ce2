//! Where a migration stands: what is read for it, and what is to be done.
//!
//! What the ledger knows is told wherever it is asked, and built here in one place. What else there is comes from
//! whoever looks: `local` asks the clusters for what only they know, how far the target is behind and what has reached
//! the source behind where it was closed; `stack` asks neither, and adds the workflow: which execution drives, and what
//! it asks. `text` tells it to people.
//!
//! Invariants: no command is named that would be refused, because another is at work or because nothing waits for it; a
//! figure that is not known is left out.

mod local;
mod stack;
mod text;

use std::{collections::BTreeMap, fmt, time::Duration};

use krossing_client_switch::{LeftBehind, left_behind};
use krossing_core::{
    LaneId, Side, TopicPartition,
    codes::{SOURCE_GAP, STRAGGLERS},
    decision::Answer,
    journal::{EntryKind, Journal, JournalEntry},
    lease::{LeaseRecord, LeaseState},
    limits::LEASE_RENEWAL,
    ports::Clock,
    progress::PartitionProgress,
    transition::{Command, Decision, NoResumePoint, Position, ResumePoint, State, resume_point},
};
use krossing_drive::Planned;
use krossing_replication::{LanePlan, read_lease};
use krossing_runtime::{
    ForStep, Migration,
    connect::{LedgerPlace, Real},
    lock::{self, Driver},
};
use serde::Serialize;

use crate::{session::after_acknowledgement, show};

pub(crate) use local::look;
pub(crate) use stack::{NotBegun, StackStatus, answering, check_begun, look_at_stack};

/// What there is to tell of a migration.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Seen {
    /// It has a journal.
    Begun(Box<Status>),
    /// It has none, and an execution that drives it, or has driven it.
    NotBegun(Box<NotBegun>),
}

impl Seen {
    /// Whether nothing will change any more.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self, Seen::Begun(status) if status.has_ended())
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Begun(status) => status.fmt(f),
            Seen::NotBegun(nothing) => nothing.fmt(f),
        }
    }
}

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
    /// Partitions that are behind, the worst first; none where the source was not asked.
    lag: Option<Vec<PartitionLag>>,
    /// Partitions, or lanes, whose lag nobody tells, and why.
    lag_unknown: Vec<String>,
    gaps: Vec<String>,
    /// None where the source was not asked.
    open_transactions: Option<Vec<String>>,
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
    /// Where a workflow drives the migration: how that stands.
    #[serde(flatten)]
    stack: Option<StackStatus>,
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

/// Who runs the lanes, seen twice, and who drives the migration.
struct Owners {
    before: Leases,
    after: Leases,
    driver: Driver,
}

/// Takes some seconds where a lane or a lock has an owner: whether that one is alive shows only in its renewing.
async fn owners(migration: &Migration<Real>, place: &LedgerPlace, lanes: &[LanePlan]) -> anyhow::Result<Owners> {
    let (before, lock_before) = (leases(migration, lanes).await?, lock::look(place, migration).await?);
    // A lock in a folder is the system's: its holder is there as long as it is held.
    let renewed = lock_before.is_held() && matches!(place, LedgerPlace::Table(_));
    let after = if renewed || before.values().any(|lease| lease.state == LeaseState::Held) {
        migration.clock.sleep(LEASE_RENEWAL + Duration::from_millis(500)).await;
        leases(migration, lanes).await?
    } else {
        before.clone()
    };
    let driver = lock::look(place, migration).await?.driver_since(&lock_before);
    Ok(Owners { before, after, driver })
}

/// All that the ledger tells. What only clusters or a workflow know is not known yet.
async fn from_ledger(
    migration: &Migration<Real>,
    journal: &Journal,
    planned: &Planned,
    owners: &Owners,
) -> anyhow::Result<Status> {
    let progress = migration.progress(&planned.scope()).await?;
    let entered: Option<&JournalEntry> = journal.entries().iter().rev().find(|e| e.kind == EntryKind::Transition);
    let reason = entered.map_or_else(String::new, |entry| entry.reason.clone());
    let tip = journal.tip().unwrap_or(State::Planned);
    let lanes = planned.lanes();
    let lanes: Vec<LaneStatus> = lanes.iter().map(|lane| lane_status(lane, &owners.before, &owners.after)).collect();
    Ok(Status {
        migration_id: migration.id.to_string(),
        at_unix_ms: migration.clock.unix_ms(),
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
        lag: None,
        lag_unknown: Vec::new(),
        gaps: gaps(&progress),
        open_transactions: None,
        records_behind_marker: None,
        not_looked_behind: Vec::new(),
        groups: groups(migration, journal, planned.plan.groups.len()).await?,
        steps: Vec::new(),
        next_command: None,
        stuck: None,
        stack: None,
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

async fn leases(migration: &Migration<Real>, lanes: &[LanePlan]) -> anyhow::Result<Leases> {
    let mut leases = Leases::new();
    for lane in lanes {
        let lease = read_lease(&migration.ledger, lane.id).await.during("read who runs the lanes")?;
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

async fn groups(migration: &Migration<Real>, journal: &Journal, planned: usize) -> anyhow::Result<GroupsStatus> {
    let mut groups = GroupsStatus { planned, ..GroupsStatus::default() };
    if !journal.states().contains(&State::AwaitingClientSwitch) {
        return Ok(groups);
    }
    let (_, record) = migration.client_switch().await?;
    // A group without a position in a migrated topic has nothing to carry over, and nothing to switch.
    let concerned = record.groups.iter().filter(|(_, group)| group.switched.is_some() || !group.written.is_empty());
    groups.carried_over = Some(concerned.clone().count());
    for (group, record) in concerned {
        let list = if record.switched.is_some() { &mut groups.switched } else { &mut groups.not_switched };
        list.push(group.to_string());
    }
    Ok(groups)
}

impl Status {
    /// Whether nothing follows.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.is_terminal()
    }

    /// What is to be done, and the command that goes on from here.
    fn say_what_next(&mut self, journal: &Journal, command_line: impl Fn(Command) -> String) {
        match self.next(journal) {
            Ok(Some(next)) => {
                self.steps = self.steps(journal, next, &command_line);
                // Another would be refused.
                self.next_command = self.driven_by.is_none().then(|| command_line(next));
            }
            Ok(None) => {}
            Err(why) => self.stuck = Some(why.to_string()),
        }
    }

    /// What goes on from here; none where it has ended; an error where there is no way.
    fn next(&self, journal: &Journal) -> Result<Option<Command>, NoResumePoint> {
        let point = resume_point(journal.states())?;
        Ok(match (point, &self.stack) {
            (ResumePoint::Finished { .. }, _) => None,
            (_, Some(stack)) => Some(stack.next(journal)),
            (ResumePoint::Wait { .. }, None) if journal.is_being_given_up() => Some(Command::Rollback),
            (ResumePoint::Run { .. } | ResumePoint::AbandonCutover, None) => Some(Command::Resume),
            (ResumePoint::Wait { next: Command::CutoverAck, .. }, None) if !self.groups.not_switched.is_empty() => {
                Some(Command::ClientSwitch)
            }
            (ResumePoint::Wait { next: Command::Finalize, .. }, None) => Some(match &self.records_behind_marker {
                Some(behind) if behind.is_empty() => Command::Finalize,
                Some(_) => Command::Stragglers,
                None => after_acknowledgement(journal),
            }),
            (ResumePoint::Wait { next, .. }, None) => Some(next),
        })
    }

    /// What is to be done beside, or before, the command that is `next`.
    fn steps(&self, journal: &Journal, next: Command, command_line: impl Fn(Command) -> String) -> Vec<String> {
        let mut steps = Vec::new();
        if next == Command::Rollback {
            return steps;
        }
        let behind = self.records_behind_marker.as_deref().unwrap_or_default();
        steps.extend(left_behind(behind, &command_line(Command::Stragglers)));
        if self.stack.is_some() && next == Command::Stragglers {
            steps.push(format!(
                "{STRAGGLERS}: records reached the source behind where it was closed, and nobody has decided about them: \
                 decide from where both clusters can be reached, then go on: {}",
                command_line(Command::Resume)
            ));
        }
        if matches!(next, Command::ClientSwitch | Command::CutoverAck) {
            let GroupsStatus { switched, not_switched, .. } = &self.groups;
            let all = switched.len() + not_switched.len();
            if !not_switched.is_empty() {
                let keeps = match &self.stack {
                    Some(_) => {
                        "the stack's worker keeps groups in step meanwhile, and sees who has switched".to_owned()
                    }
                    None => format!(
                        "what keeps groups in step meanwhile, and sees who has switched: {}",
                        command_line(Command::ClientSwitch)
                    ),
                };
                steps.push(format!("point consumers, then producers, to the target; {keeps}"));
            }
            steps.push(format!(
                "{} of {all} groups were seen to have switched; once all clients have, producers too: {}",
                switched.len(),
                command_line(Command::CutoverAck)
            ));
        }
        let can_be_given_up = match &self.stack {
            None => self.state == State::AwaitingClientSwitch,
            Some(stack) => {
                stack.takes(Answer::Rollback) && journal.permit(Command::Rollback).decision == Decision::Allowed
            }
        };
        if can_be_given_up {
            let way = match self.state {
                State::AwaitingClientSwitch => "or stay on the source, while no client has come to the target",
                _ => "or give the migration up; nothing is deleted",
            };
            steps.push(format!("{way}: {}", command_line(Command::Rollback)));
        }
        steps
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
    pub(super) fn cut_over(more: &[Result<(State, &'static str), EntryKind>]) -> Journal {
        let way = [State::Planned, State::Precheck, State::TopologyCopy, State::Seed, State::Tail, State::DrainReady];
        let mut entries: Vec<_> = way.into_iter().map(|state| Ok((state, ""))).collect();
        entries.extend([Ok((State::Cutover, "")), Err(EntryKind::FreezeAsked)]);
        entries.extend_from_slice(more);
        journal(&entries)
    }

    pub(super) fn status(journal: &Journal, driver: &Driver) -> Status {
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
            lag: None,
            lag_unknown: Vec::new(),
            gaps: Vec::new(),
            open_transactions: None,
            records_behind_marker: None,
            not_looked_behind: Vec::new(),
            groups: GroupsStatus { planned: 3, ..GroupsStatus::default() },
            steps: Vec::new(),
            next_command: None,
            stuck: None,
            stack: None,
        }
    }

    pub(super) fn line(command: Command) -> String {
        format!("krossing {command} …")
    }

    /// All that is told, with what is to be done.
    pub(super) fn told(mut status: Status, journal: &Journal) -> String {
        status.say_what_next(journal, line);
        status.to_string()
    }

    fn alice() -> Driver {
        Driver::AtWork("alice:1".to_owned())
    }

    #[test]
    fn a_cutover_that_nobody_drives_says_since_when_producers_may_stand_still() {
        let open = cut_over(&[]);
        let shown = told(status(&open, &Driver::Nobody), &open);
        for expected in ["its process is dead", "since 00:00:08 UTC", "`krossing resume …` NOW"] {
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
        let status = status(&journal, &alice());
        assert_eq!(status.next(&journal), Ok(Some(Command::Resume)));
        let shown = told(status, &journal);
        assert!(shown.contains("at work: alice:1;") && !shown.contains("nothing is copying"), "{shown}");
        assert!(!shown.contains("next_command"), "{shown}");
    }

    #[test]
    fn ready_is_followed_by_switching_and_by_the_acknowledgement_once_all_have() {
        let ready = cut_over(&[Ok((State::AwaitingClientSwitch, "READY"))]);
        let mut status = status(&ready, &Driver::Nobody);
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        status.groups.carried_over = Some(2);
        status.groups.not_switched = named(&["a", "b"]);
        assert_eq!(status.next(&ready), Ok(Some(Command::ClientSwitch)));
        let said = status.steps(&ready, Command::ClientSwitch, line).join("\n");
        assert!(said.contains("krossing client-switch …") && said.contains("0 of 2 groups"), "{said}");
        (status.groups.switched, status.groups.not_switched) = (named(&["a", "b"]), Vec::new());
        assert_eq!(status.next(&ready), Ok(Some(Command::CutoverAck)));
        assert!(status.to_string().contains("carried over=2 (of 3 planned; 1 had no position"), "{status}");
        assert!(!status.to_string().contains("lag="), "the source is closed: {status}");
    }

    #[test]
    fn records_behind_the_marker_are_named_and_come_before_finalize() {
        let acknowledged =
            cut_over(&[Ok((State::AwaitingClientSwitch, "READY")), Ok((State::Validating, "clients have switched"))]);
        let mut status = status(&acknowledged, &Driver::Nobody);
        assert_eq!(status.next(&acknowledged), Ok(Some(Command::Finalize)));
        let record = StrayRecord { offset: 12, producer: None };
        status.records_behind_marker = Some(vec![LeftBehind { partition: TopicPartition::new("orders", 3), record }]);
        assert_eq!(status.next(&acknowledged), Ok(Some(Command::Stragglers)));
        let said = status.steps(&acknowledged, Command::Stragglers, line).join("\n");
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
