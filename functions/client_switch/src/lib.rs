//! Between READY and the acknowledgement: keeps every group that still works on the source in step on the target, and
//! shows who has switched.
//!
//! The rule is `krossing_core::client_switch::decide`; what is about to be written is stored before it is written. A
//! group that has switched is never written again. Does not end by itself: the operator's acknowledgement ends it.

mod sentences;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use krossing_core::{
    ErrorClass, GroupId, SourceOffset, TargetOffset, TopicPartition,
    client_switch::{CLIENT_SWITCH_DOCUMENT, ClientSwitchRecord, GroupRecord, Move, Seen, Step, Switched, decide},
    cutover::CutoverReport,
    ports::{Clock, CommittedOffset, GroupOffsets, Groups, Ledger, Ports, Version},
    progress::PartitionProgress,
    stragglers::{Decided, StrayRecord},
};
use krossing_replication::{Behind, LanePlan, ScanFrom, load_map, records_behind};
use krossing_runtime::{ForStep, Migration, MigrationError};
use serde::Serialize;

pub use sentences::{left_behind, on_both};

/// How often groups are looked at.
const ROUND_EVERY: Duration = Duration::from_secs(1);

/// Groups that are looked at once more together, right before their positions are written.
const GROUPS_AT_ONCE: usize = 100;

/// How old that look may be. A process that was suspended for longer looks again: a group may have switched meanwhile.
const SEEN_AGE_MAX: Duration = Duration::from_secs(10);

/// How often the acknowledgement's round begins again because the loop, beside it, has written who has switched.
const CONTESTED_ROUNDS_MAX: usize = 10;

/// Why a round could not be finished. Each can be repeated without harm.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// A step failed.
    #[error(transparent)]
    Migration(#[from] MigrationError),
    /// Positions that were committed are not on the target.
    #[error("the position of group {group} in {partition} was committed on the target and does not read back")]
    NotReadBack {
        /// The group.
        group: GroupId,
        /// Where.
        partition: TopicPartition,
    },
    /// The process stood still in the middle of a round.
    #[error("what was seen of the groups is {} s old; nothing was written from it", .0.as_secs())]
    Outdated(Duration),
}

impl SwitchError {
    /// What an orchestrator may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            SwitchError::Migration(error) => error.class(),
            SwitchError::NotReadBack { .. } | SwitchError::Outdated(_) => ErrorClass::Retryable,
        }
    }
}

/// Where the groups stand after a round.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SwitchReport {
    /// Positions written in this round.
    pub positions_moved: usize,
    /// Groups whose clients have switched, and how that is known.
    pub switched: BTreeMap<GroupId, Switched>,
    /// Groups that still are on the source, or are nowhere.
    pub not_switched: Vec<GroupId>,
    /// Groups that have switched and have members on the source all the same: each of their records is processed twice.
    pub on_both: Vec<GroupId>,
    /// Groups whose position on the source went back; it was not followed.
    pub went_back: Vec<(GroupId, TopicPartition)>,
    /// Records behind a closing marker: producers left behind. The first of each partition.
    pub records_behind_marker: Vec<LeftBehind>,
    /// Partitions of the source behind whose closing marker could not be looked in this round, and why.
    pub not_looked_behind: Vec<String>,
}

/// The first record behind the closing marker of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftBehind {
    /// Where.
    pub partition: TopicPartition,
    /// The record.
    #[serde(flatten)]
    pub record: StrayRecord,
}

/// What lies behind the closing markers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookedBehind {
    /// The first record of each partition that has one.
    pub records_behind_marker: Vec<LeftBehind>,
    /// Partitions that could not be looked at, and why.
    pub not_looked_behind: Vec<String>,
}

/// What rounds work with.
pub struct ClientSwitch<'a, P: Ports> {
    migration: &'a Migration<P>,
    report: CutoverReport,
    progress: BTreeMap<TopicPartition, PartitionProgress>,
    starts: Vec<ScanFrom>,
}

impl<'a, P: Ports> ClientSwitch<'a, P> {
    /// Reads what the cutover has left.
    pub async fn load(migration: &'a Migration<P>, lanes: &[LanePlan]) -> Result<Self, SwitchError> {
        let report = migration.cutover_report(&migration.journal().await?).await?;
        let mut progress = BTreeMap::new();
        for lane in lanes {
            let lane = migration.ledger.lane_progress(lane.id).await.during("read the lanes' progress")?;
            progress.extend(lane.into_iter().map(|progress| (progress.partition.clone(), progress)));
        }
        let planned = lanes.iter().flat_map(|lane| &lane.partitions);
        let ids: BTreeMap<_, _> = planned.map(|planned| (&planned.partition, planned.topic_id)).collect();
        let starts = report.closed_from().into_iter().map(|(partition, closed_from)| ScanFrom {
            topic_id: ids.get(&partition).copied().flatten(),
            partition,
            offset: closed_from.0,
        });
        let starts = starts.collect();
        Ok(Self { migration, report, progress, starts })
    }

    /// A round that another one beside it does not fail.
    pub async fn contested_round(&self) -> Result<SwitchReport, SwitchError> {
        for _ in 1..CONTESTED_ROUNDS_MAX {
            match self.round().await {
                Err(error) if error.class() == ErrorClass::Fenced => {}
                ended => return ended,
            }
        }
        self.round().await
    }

    /// Looks at every group once, and brings those that have not switched into step.
    pub async fn round(&self) -> Result<SwitchReport, SwitchError> {
        let (version, mut record) = self.migration.client_switch().await?;
        let seen = self.look(&record).await?;
        let mut report = SwitchReport::default();
        let mut commits: BTreeMap<GroupId, GroupOffsets> = BTreeMap::new();
        for (group, (seen, metadata)) in &seen {
            let kept = record.groups.entry(group.clone()).or_default();
            match decide(kept, seen, false) {
                Step::SwitchedForGood(why) => {
                    kept.switched = Some(why.clone());
                    report.switched.insert(group.clone(), why);
                }
                Step::Follow(moves) => {
                    kept.announce(seen, &moves);
                    // A group without a position in a migrated topic has nothing to switch.
                    if !kept.written.is_empty() {
                        report.not_switched.push(group.clone());
                    }
                    for (partition, step) in moves {
                        match step {
                            Move::To(offset) | Move::Again(offset) => {
                                let metadata = metadata.get(&partition).cloned().unwrap_or_default();
                                let position = CommittedOffset { offset: offset.0, metadata };
                                commits.entry(group.clone()).or_default().insert(partition, position);
                            }
                            Move::Keep => {}
                            Move::SourceWentBack { .. } => report.went_back.push((group.clone(), partition)),
                        }
                    }
                }
            }
        }
        let switched: Vec<GroupId> = report.switched.keys().cloned().collect();
        if !switched.is_empty() {
            let there = self.migration.source.describe_groups(&switched).await;
            let there = there.during("describe the groups that have switched on the source")?;
            report.on_both = there.into_iter().filter(|group| group.members > 0).map(|group| group.id).collect();
        }
        let version = self.store(version, &record).await?;
        if !commits.is_empty() {
            report.positions_moved = self.commit(&commits, &mut record).await?;
            self.store(Some(version), &record).await?;
        }
        let LookedBehind { records_behind_marker, not_looked_behind } = self.look_behind().await?;
        report.records_behind_marker = records_behind_marker;
        report.not_looked_behind = not_looked_behind;
        Ok(report)
    }

    /// Looks for records behind the closing markers that nobody has decided about. Changes nothing.
    pub async fn look_behind(&self) -> Result<LookedBehind, SwitchError> {
        let decided = Decided::of(&self.migration.journal().await?);
        let undecided = decided.undecided_from(self.report.closed_from());
        let mut starts = self.starts.clone();
        starts.iter_mut().for_each(|start| start.offset = undecided[&start.partition].0);
        let (source, clock) = (&self.migration.source, &self.migration.clock);
        let behind = records_behind(source, clock, &self.migration.id, starts).await;
        let Behind { found, unknown } = behind.during("look behind the closing markers")?;
        let found = found.into_iter().map(|(partition, record)| LeftBehind { partition, record });
        let unknown = unknown.into_iter().map(|(partition, why)| format!("{partition}: {why}"));
        Ok(LookedBehind { records_behind_marker: found.collect(), not_looked_behind: unknown.collect() })
    }

    /// Which groups' clients have come to the target, as both clusters show it now and as was ever seen. Writes nothing.
    ///
    /// Rounds go on beside it, in a process without a lock. They store what they are about to write before they write
    /// it, so that the record is read after the look; and a position that is not in it counts where two looks in a row
    /// say the same. Positions without members expire: that one is gone says nothing of clients.
    pub async fn arrived(&self) -> Result<BTreeMap<GroupId, Switched>, SwitchError> {
        let mut before = None;
        for _ in 0..CONTESTED_ROUNDS_MAX {
            let seen = self.look(&self.migration.client_switch().await?.1).await?;
            let (_, record) = self.migration.client_switch().await?;
            let mut arrived: BTreeMap<GroupId, Switched> = BTreeMap::new();
            for (group, kept) in &record.groups {
                arrived.extend(kept.switched.clone().map(|switched| (group.clone(), switched)));
            }
            let nothing = GroupRecord::default();
            for (group, (seen, _)) in &seen {
                let kept = record.groups.get(group).unwrap_or(&nothing);
                if let Step::SwitchedForGood(why) = decide(kept, seen, true) {
                    arrived.insert(group.clone(), why);
                }
            }
            let fresh =
                arrived.iter().filter(|(group, _)| record.groups.get(*group).is_none_or(|g| g.switched.is_none()));
            let may_be_ours = fresh.into_iter().any(|(_, why)| matches!(why, Switched::PositionMoved { .. }));
            if !may_be_ours || before.as_ref() == Some(&arrived) {
                return Ok(arrived);
            }
            before = Some(arrived);
        }
        Ok(before.unwrap_or_default())
    }

    /// Round after round until `stop`; how each ended is shown. One that failed for now is followed by the next: brokers
    /// restart in the days this takes, and the acknowledgement writes beside it.
    pub async fn follow(
        &self,
        stop: impl Future<Output = ()> + Send,
        mut show: impl FnMut(Result<&SwitchReport, &SwitchError>) + Send,
    ) -> Result<(), SwitchError> {
        let mut stop = std::pin::pin!(stop);
        loop {
            // A round that has begun is finished: what it has announced is then also written.
            match self.round().await {
                Ok(report) => show(Ok(&report)),
                Err(error) if matches!(error.class(), ErrorClass::Retryable | ErrorClass::Fenced) => show(Err(&error)),
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = self.migration.clock.sleep(ROUND_EVERY) => {}
            }
        }
    }

    async fn store(&self, version: Option<Version>, record: &ClientSwitchRecord) -> Result<Version, SwitchError> {
        let content = Bytes::from(serde_json::to_vec(record).expect("a record is plain data"));
        let ledger = &self.migration.ledger;
        Ok(ledger.put_document(CLIENT_SWITCH_DOCUMENT, version, content).await.during("write who has switched")?)
    }

    /// Every group that may need something, on both sides.
    async fn look(
        &self,
        record: &ClientSwitchRecord,
    ) -> Result<BTreeMap<GroupId, (Seen, BTreeMap<TopicPartition, String>)>, SwitchError> {
        let source = &self.migration.source;
        let target = &self.migration.target;
        let mut groups: BTreeSet<GroupId> = record.groups.keys().cloned().collect();
        groups.extend(source.list_groups().await.during("list the source's groups")?);
        let groups: Vec<_> = groups.into_iter().collect();
        let described = target.describe_groups(&groups).await.during("describe the groups on the target")?;
        let used: BTreeMap<_, _> =
            described.into_iter().map(|group| (group.id.clone(), (group.members, group.had_members()))).collect();
        let on_source = source.group_offsets(&groups).await.during("read the groups' positions on the source")?;
        let mut on_target = target.group_offsets(&groups).await.during("read the groups' positions on the target")?;
        let positions: BTreeMap<GroupId, (GroupOffsets, GroupOffsets)> = on_source
            .into_iter()
            .map(|(group, on_source)| {
                let on_target = on_target.remove(&group).unwrap_or_default();
                (group, (on_source, on_target))
            })
            .collect();
        let translated = self.translate(record, &positions).await?;
        let mut seen = BTreeMap::new();
        for (group, (on_source, on_target)) in positions {
            let copied = |offsets: GroupOffsets| {
                offsets.into_iter().filter(|(partition, _)| self.progress.contains_key(partition))
            };
            let mut metadata = BTreeMap::new();
            let mut source = BTreeMap::new();
            for (partition, committed) in copied(on_source) {
                let offset = SourceOffset(committed.offset);
                source.insert(partition.clone(), (offset, translated[&(partition.clone(), offset)]));
                metadata.insert(partition, committed.metadata);
            }
            // Nothing of it was ever in these topics: it is none of ours.
            if source.is_empty() && record.groups.get(&group).is_none_or(|kept| kept.written.is_empty()) {
                continue;
            }
            let (target_members, target_was_used) = used.get(&group).copied().unwrap_or_default();
            let looked = Seen {
                target_members,
                target_was_used,
                source,
                target: copied(on_target).map(|(partition, at)| (partition, TargetOffset(at.offset))).collect(),
            };
            seen.insert(group, (looked, metadata));
        }
        Ok(seen)
    }

    /// Translates each position once. Those that have not moved are known; maps are loaded only for the others.
    async fn translate(
        &self,
        record: &ClientSwitchRecord,
        positions: &BTreeMap<GroupId, (GroupOffsets, GroupOffsets)>,
    ) -> Result<BTreeMap<(TopicPartition, SourceOffset), TargetOffset>, SwitchError> {
        let written = record.groups.values().flat_map(|group: &GroupRecord| &group.written);
        let mut known: BTreeMap<_, _> =
            written.map(|(partition, written)| ((partition.clone(), written.source), written.target)).collect();
        let mut wanted: BTreeMap<&TopicPartition, BTreeSet<SourceOffset>> = BTreeMap::new();
        for (on_source, _) in positions.values() {
            for (partition, committed) in on_source {
                let offset = SourceOffset(committed.offset);
                if !known.contains_key(&(partition.clone(), offset)) {
                    wanted.entry(partition).or_default().insert(offset);
                }
            }
        }
        let (boundaries, markers) = (self.report.boundary_of(), self.report.marker_of());
        for (partition, offsets) in wanted {
            let (Some(progress), Some(boundary), Some(marker)) =
                (self.progress.get(partition), boundaries.get(partition), markers.get(partition))
            else {
                continue;
            };
            let map = load_map(&self.migration.evidence, progress).await.during("read the offset map")?.before(*marker);
            for offset in offsets {
                known.insert((partition.clone(), offset), map.translate(offset, *boundary));
            }
        }
        Ok(known)
    }

    /// Commits, and answers how many positions. Each group is looked at once more right before: in a process that was
    /// suspended since the round's look, its clients may have come to the target, and gone.
    async fn commit(
        &self,
        commits: &BTreeMap<GroupId, GroupOffsets>,
        record: &mut ClientSwitchRecord,
    ) -> Result<usize, SwitchError> {
        let target = &self.migration.target;
        let mut refused = BTreeMap::new();
        let all: Vec<GroupId> = commits.keys().cloned().collect();
        for groups in all.chunks(GROUPS_AT_ONCE) {
            let described = target.describe_groups(groups).await.during("describe the groups on the target again")?;
            let looked_at = self.migration.clock.now();
            for group in described {
                let kept = record.groups.entry(group.id.clone()).or_default();
                // The next round says why.
                if kept.arrived(group.members, group.had_members()).is_some() {
                    continue;
                }
                let age = self.migration.clock.now().saturating_duration_since(looked_at);
                if age > SEEN_AGE_MAX {
                    return Err(SwitchError::Outdated(age));
                }
                let answer = target.commit_group_offsets(&group.id, &commits[&group.id]).await;
                refused.insert(group.id, answer.during("write a group's positions to the target")?);
            }
        }
        let groups: Vec<GroupId> = refused.keys().cloned().collect();
        let read_back = target.group_offsets(&groups).await.during("read the groups' positions back")?;
        for (group, found) in read_back {
            let found = found.into_iter().map(|(partition, at)| (partition, TargetOffset(at.offset))).collect();
            let missing = record.groups.entry(group.clone()).or_default().confirm(&found);
            // What is refused because members have come is found by the next round.
            if let Some(partition) = missing.into_iter().find(|partition| !refused[&group].contains_key(partition)) {
                return Err(SwitchError::NotReadBack { group, partition });
            }
        }
        Ok(refused.keys().map(|group| commits[group].len()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_with_a_record_left_behind_can_be_journaled() {
        let left =
            LeftBehind { partition: TopicPartition::new("t", 0), record: StrayRecord { offset: 7, producer: None } };
        let report = SwitchReport { records_behind_marker: vec![left], ..SwitchReport::default() };
        let written = serde_json::to_value(&report).expect("it is journaled with the acknowledgement");
        assert_eq!(written["records_behind_marker"][0]["offset"], 7);
    }
}
