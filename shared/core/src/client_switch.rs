//! Keeping a group in step until its clients have switched, and never once they have.
//!
//! Between READY and the acknowledgement a group may still work off the source's backlog. Its position on the target
//! follows, but only while the target holds the very value that Krossing wrote last: the first difference, or any
//! member ever there, also between two looks, means that its clients have arrived, and from then on the group is
//! theirs, for good.
//!
//! Invariants: a group that has switched is never written again; a position on the target never moves back, because
//! the source's does not, unless its owner has reset it there on purpose (then it is told and not followed); what was
//! written is known before it is written.
//!
//! Does not: translate, read or commit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{GroupId, SourceOffset, TargetOffset, TopicPartition};

/// The version of records written now.
pub const CLIENT_SWITCH_VERSION: u32 = 1;

/// The ledger's document that holds the [`ClientSwitchRecord`].
pub const CLIENT_SWITCH_DOCUMENT: &str = "client-switch";

/// All groups, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSwitchRecord {
    /// Of this format.
    pub version: u32,
    /// The groups, by name.
    pub groups: BTreeMap<GroupId, GroupRecord>,
}

impl Default for ClientSwitchRecord {
    fn default() -> Self {
        Self { version: CLIENT_SWITCH_VERSION, groups: BTreeMap::new() }
    }
}

/// One group, as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Why its clients are known to have switched; none while they are not.
    pub switched: Option<Switched>,
    /// Whether the group had members on the target before READY, for topics of the target's own: then that it ever had
    /// some says nothing.
    #[serde(default)]
    pub used_before: bool,
    /// What was written for it, sorted by partition.
    #[serde(with = "as_list")]
    pub written: BTreeMap<TopicPartition, Written>,
}

/// A position that was written for a group, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The position on the source that it follows.
    pub source: SourceOffset,
    /// The position on the target.
    pub target: TargetOffset,
    /// What the target held before, while the write is not known to have arrived; none once it was read back. A
    /// process may die between writing this and committing, so that either value on the target is Krossing's own.
    pub unconfirmed_over: Option<TargetOffset>,
}

/// Why a group's clients are known to have switched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Switched {
    /// Members were seen on the target.
    MembersSeen {
        /// How many.
        members: usize,
    },
    /// Members have been on the target, between two looks: a group that only ever got positions written has no
    /// protocol, and one keeps the protocol of its last members when they have left.
    MembersWereThere,
    /// A position on the target is not the one that was written.
    PositionMoved {
        /// Where.
        partition: TopicPartition,
        /// What was written.
        written: Option<TargetOffset>,
        /// What is there; none where the position is gone.
        found: Option<TargetOffset>,
    },
}

/// What is seen of one group on both sides at about the same time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Members on the target.
    pub target_members: usize,
    /// Whether the group has ever had members on the target.
    pub target_was_used: bool,
    /// Its positions on the source, each with its translation.
    pub source: BTreeMap<TopicPartition, (SourceOffset, TargetOffset)>,
    /// Its positions on the target in migrated topics.
    pub target: BTreeMap<TopicPartition, TargetOffset>,
}

/// What to do for one partition of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Commit this position on the target.
    To(TargetOffset),
    /// Leave the position as it is: it is where it should be.
    Keep,
    /// Leave it: the group's position on the source has gone back from `from`, which somebody has done on purpose.
    SourceWentBack {
        /// What was followed before.
        from: SourceOffset,
    },
    /// Commit the same position again: it has expired on the target, as positions of groups without members do.
    Again(TargetOffset),
}

/// What to do for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Its clients have switched: write nothing, now and ever.
    SwitchedForGood(Switched),
    /// Do this for each partition it has a position for.
    Follow(BTreeMap<TopicPartition, Move>),
}

/// Decides for one group. `rewrite_expired` says whether positions without members may have expired on the target
/// since they were written; where they cannot have, one that is gone was taken away by somebody.
pub fn decide(record: &GroupRecord, seen: &Seen, rewrite_expired: bool) -> Step {
    if let Some(switched) = record.arrived(seen.target_members, seen.target_was_used) {
        return Step::SwitchedForGood(switched);
    }
    for (partition, found) in &seen.target {
        let ours = record.written.get(partition);
        if !ours.is_some_and(|ours| ours.target == *found || ours.unconfirmed_over == Some(*found)) {
            let written = ours.map(|ours| ours.target);
            return moved(partition, written, Some(*found));
        }
    }
    for (partition, ours) in &record.written {
        // A write that never arrived over no earlier value leaves nothing behind.
        if !seen.target.contains_key(partition) && !rewrite_expired && !ours.may_be_absent() {
            return moved(partition, Some(ours.target), None);
        }
    }
    let moves = seen.source.iter().map(|(partition, (source, target))| {
        let there = seen.target.get(partition).copied();
        (partition.clone(), decide_partition(record.written.get(partition), there, *source, *target))
    });
    Step::Follow(moves.collect())
}

fn moved(partition: &TopicPartition, written: Option<TargetOffset>, found: Option<TargetOffset>) -> Step {
    Step::SwitchedForGood(Switched::PositionMoved { partition: partition.clone(), written, found })
}

fn decide_partition(
    written: Option<&Written>,
    there: Option<TargetOffset>,
    source: SourceOffset,
    target: TargetOffset,
) -> Move {
    let Some(written) = written else { return Move::To(target) };
    if source < written.source {
        return Move::SourceWentBack { from: written.source };
    }
    match there {
        None if written.target == target => Move::Again(target),
        // A translation cannot be less for a later position; one that is would move the group back.
        Some(_) | None if target < written.target => Move::Keep,
        Some(there) if there == target => Move::Keep,
        Some(_) | None => Move::To(target),
    }
}

impl Written {
    fn may_be_absent(&self) -> bool {
        self.unconfirmed_over == Some(NOTHING_THERE)
    }
}

/// Stands in [`Written::unconfirmed_over`] for a partition that had no position on the target.
pub const NOTHING_THERE: TargetOffset = TargetOffset(-1);

impl GroupRecord {
    /// Whether the group's clients have come to the target, by what is said of its members there.
    pub fn arrived(&self, target_members: usize, target_was_used: bool) -> Option<Switched> {
        match &self.switched {
            Some(switched) => Some(switched.clone()),
            None if target_members > 0 => Some(Switched::MembersSeen { members: target_members }),
            None if target_was_used && !self.used_before => Some(Switched::MembersWereThere),
            None => None,
        }
    }

    /// Notes positions that are about to be committed. To be stored before the commit.
    pub fn announce(&mut self, seen: &Seen, moves: &BTreeMap<TopicPartition, Move>) {
        for (partition, step) in moves {
            let (Move::To(target) | Move::Again(target)) = step else { continue };
            let Some((source, _)) = seen.source.get(partition) else { continue };
            let over = seen.target.get(partition).copied().unwrap_or(NOTHING_THERE);
            let written = Written { source: *source, target: *target, unconfirmed_over: Some(over) };
            self.written.insert(partition.clone(), written);
        }
    }

    /// Notes which announced positions were read back from the target. Answers those that were not there.
    pub fn confirm(&mut self, read_back: &BTreeMap<TopicPartition, TargetOffset>) -> Vec<TopicPartition> {
        let mut missing = Vec::new();
        for (partition, written) in self.written.iter_mut().filter(|(_, w)| w.unconfirmed_over.is_some()) {
            if read_back.get(partition) == Some(&written.target) {
                written.unconfirmed_over = None;
            } else {
                missing.push(partition.clone());
            }
        }
        missing
    }
}

/// Maps by partition as lists: JSON's keys are only texts.
mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{TopicPartition, Written};

    #[derive(Serialize, Deserialize)]
    struct Line {
        partition: TopicPartition,
        #[serde(flatten)]
        written: Written,
    }

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<TopicPartition, Written>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map.iter().map(|(p, w)| Line { partition: p.clone(), written: w.clone() }))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<BTreeMap<TopicPartition, Written>, D::Error> {
        let lines = Vec::<Line>::deserialize(from)?;
        Ok(lines.into_iter().map(|line| (line.partition, line.written)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn partition() -> TopicPartition {
        TopicPartition::new("orders", 0)
    }

    fn seen(source: Option<(i64, i64)>, target: Option<i64>) -> Seen {
        let source = source.map(|(s, t)| (partition(), (SourceOffset(s), TargetOffset(t))));
        let target = target.map(|t| (partition(), TargetOffset(t)));
        Seen { source: source.into_iter().collect(), target: target.into_iter().collect(), ..Seen::default() }
    }

    fn record(source: i64, target: i64, over: Option<i64>) -> GroupRecord {
        let unconfirmed_over = over.map(TargetOffset);
        let written = Written { source: SourceOffset(source), target: TargetOffset(target), unconfirmed_over };
        GroupRecord { written: BTreeMap::from([(partition(), written)]), ..GroupRecord::default() }
    }

    fn check(record: &GroupRecord, seen: &Seen, expected: Move) {
        assert_eq!(decide(record, seen, false), Step::Follow(BTreeMap::from([(partition(), expected)])), "{seen:?}");
    }

    fn check_switched(record: &GroupRecord, seen: &Seen) {
        let step = decide(record, seen, false);
        assert!(matches!(step, Step::SwitchedForGood(_)), "{step:?} for {seen:?}");
    }

    #[test]
    fn a_group_that_moves_on_the_source_is_followed() {
        check(&GroupRecord::default(), &seen(Some((5, 4)), None), Move::To(TargetOffset(4)));
        check(&record(5, 4, None), &seen(Some((5, 4)), Some(4)), Move::Keep);
        check(&record(5, 4, None), &seen(Some((9, 7)), Some(4)), Move::To(TargetOffset(7)));
        // The source moved over a gap: another position there, the same here.
        check(&record(5, 4, None), &seen(Some((6, 4)), Some(4)), Move::Keep);
    }

    #[test]
    fn the_first_difference_on_the_target_means_that_the_clients_have_switched() {
        check_switched(&record(5, 4, None), &seen(Some((9, 7)), Some(5)));
        check_switched(&record(5, 4, None), &seen(Some((9, 7)), Some(3)));
        check_switched(&record(5, 4, None), &seen(Some((9, 7)), None));
        check_switched(&GroupRecord::default(), &seen(Some((9, 7)), Some(1)));
        check_switched(&record(5, 4, None), &Seen { target_members: 1, ..seen(Some((9, 7)), Some(4)) });
    }

    #[test]
    fn a_member_that_was_there_for_a_moment_only_counts_unless_the_target_knew_the_group_before() {
        let visited = Seen { target_was_used: true, ..seen(Some((9, 7)), Some(4)) };
        check_switched(&record(5, 4, None), &visited);
        check(&GroupRecord { used_before: true, ..record(5, 4, None) }, &visited, Move::To(TargetOffset(7)));
    }

    #[test]
    fn a_group_that_has_switched_is_never_written_again() {
        let switched = Some(Switched::MembersSeen { members: 1 });
        let record = GroupRecord { switched, ..record(5, 4, None) };
        check_switched(&record, &seen(Some((9, 7)), Some(4)));
    }

    #[test]
    fn either_value_is_ours_while_a_write_is_not_known_to_have_arrived() {
        for there in [4, 7] {
            let expected = if there == 7 { Move::Keep } else { Move::To(TargetOffset(7)) };
            check(&record(9, 7, Some(4)), &seen(Some((9, 7)), Some(there)), expected);
        }
        check(&record(9, 7, Some(NOTHING_THERE.0)), &seen(Some((9, 7)), None), Move::Again(TargetOffset(7)));
        check_switched(&record(9, 7, Some(4)), &seen(Some((9, 7)), Some(5)));
    }

    #[test]
    fn a_position_that_expired_is_written_again_and_one_that_went_back_on_the_source_is_not_followed() {
        let step = decide(&record(5, 4, None), &seen(Some((5, 4)), None), true);
        assert_eq!(step, Step::Follow(BTreeMap::from([(partition(), Move::Again(TargetOffset(4)))])));
        let back = Move::SourceWentBack { from: SourceOffset(5) };
        check(&record(5, 4, None), &seen(Some((2, 1)), Some(4)), back);
    }

    #[test]
    fn a_record_comes_back_from_storage() {
        let mut stored = ClientSwitchRecord::default();
        stored.groups.insert("g".into(), record(5, 4, Some(2)));
        let text = serde_json::to_string(&stored).unwrap();
        assert_eq!(serde_json::from_str::<ClientSwitchRecord>(&text).unwrap(), stored);
    }

    proptest! {
        /// The goal: whatever the source does, wherever Krossing dies, and whenever clients arrive, no position that a
        /// client has set is ever overwritten, and none moves back before that.
        #[test]
        fn a_clients_position_is_never_overwritten(steps in prop::collection::vec((0u8..5, 0i64..4), 0..40)) {
            let (mut source, mut there, mut record) = (10i64, None::<i64>, GroupRecord::default());
            let mut client: Option<i64> = None;
            for (kind, by) in steps {
                match kind {
                    0 => source += by,
                    1 if by > 0 && there.is_some() => {
                        let to = there.map(|at| at + by);
                        // Exactly what a write that never arrived would have written cannot be told from it.
                        let announced = record.written.get(&partition()).filter(|w| w.unconfirmed_over.is_some());
                        if announced.map(|w| w.target.0) != to {
                            (client, there) = (to, to);
                        }
                    }
                    _ => {
                        let now = seen(Some((source, source - 3)), there);
                        match decide(&record, &now, false) {
                            Step::SwitchedForGood(why) => record.switched = Some(why),
                            Step::Follow(moves) => {
                                record.announce(&now, &moves);
                                // Dies before the commit, after it, or not at all.
                                if kind == 2 { continue; }
                                if let Some(Move::To(to) | Move::Again(to)) = moves.get(&partition()) {
                                    prop_assert!(client.is_none(), "a client's position was overwritten");
                                    prop_assert!(there.is_none_or(|there| to.0 >= there));
                                    there = Some(to.0);
                                }
                                if kind == 3 { continue; }
                                let read: BTreeMap<_, _> = there.map(|t| (partition(), TargetOffset(t))).into_iter().collect();
                                prop_assert_eq!(record.confirm(&read), Vec::new());
                            }
                        }
                    }
                }
            }
            if let Some(client) = client {
                prop_assert_eq!(there, Some(client));
            }
        }
    }
}
