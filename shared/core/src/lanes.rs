//! Lanes: all partitions, split into parts of about equal bytes, each with one worker at a time.
//!
//! A lane is the unit of fan-out, of leases and of fencing, and is fixed for the whole migration: a partition that
//! changed lanes would change the transactional id that fences it. Greedy, largest first: never worse than the best
//! split by more than the largest partition, and the same input gives the same lanes.
//!
//! Invariants: every partition is in exactly one lane; no lane is empty or has more than [`LANE_PARTITIONS_MAX`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    limits::LANE_PARTITIONS_MAX,
    types::{BrokerId, LaneId, MigrationId, TopicPartition},
};

/// What a partition without records still costs a worker, as bytes: spreads empty partitions by their number.
const PARTITION_WEIGHT_BYTES: u64 = 256 * 1024;

/// How far, in parts of a lane's share, a lane may be ahead of the lightest and still be chosen for its leaders.
const LEADER_SLACK: u64 = 50;

/// A lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// Its number.
    pub id: LaneId,
    /// Its partitions in the order they are seeded: compacted ones first, then the largest.
    pub partitions: Vec<TopicPartition>,
    /// Their bytes on the source's disks when the plan was made.
    pub bytes: u64,
}

/// A partition that needs a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The partition.
    pub partition: TopicPartition,
    /// Its bytes on disk.
    pub bytes: u64,
    /// The source broker that leads it.
    pub leader: Option<BrokerId>,
    /// Whether its topic is compacted: then it is seeded first, before tombstones are cleaned away.
    pub compacted: bool,
}

/// The transactional id that a lane writes with. Fixed by its name: whoever takes the lane over fences the one before.
pub fn transactional_id(migration: &MigrationId, lane: LaneId) -> String {
    format!("krossing.{migration}.{}", lane.0)
}

/// Splits partitions into `lanes` lanes, or fewer where there are fewer partitions, or more where they would be too
/// large. The first gets the number `first`.
pub fn split(mut partitions: Vec<Candidate>, lanes: usize, first: LaneId) -> Vec<Lane> {
    let count = lanes.clamp(1, partitions.len().max(1)).max(partitions.len().div_ceil(LANE_PARTITIONS_MAX));
    if partitions.is_empty() {
        return Vec::new();
    }
    let weight = |candidate: &Candidate| candidate.bytes.saturating_add(PARTITION_WEIGHT_BYTES);
    let total = partitions.iter().map(|c| u128::from(weight(c))).sum::<u128>();
    let slack = u64::try_from(total / (count as u128 * u128::from(LEADER_SLACK))).unwrap_or(u64::MAX);
    partitions.sort_by(|a, b| weight(b).cmp(&weight(a)).then_with(|| a.partition.cmp(&b.partition)));

    let mut filling: Vec<Filling> = (0..count).map(|_| Filling::default()).collect();
    for candidate in partitions {
        let open = || filling.iter().enumerate().filter(|(_, lane)| lane.members.len() < LANE_PARTITIONS_MAX);
        let lightest = open().map(|(_, lane)| lane.weight).min().unwrap_or(0);
        let chosen = open()
            .filter(|(_, lane)| lane.weight <= lightest.saturating_add(slack))
            .min_by_key(|(index, lane)| (lane.weight_led_by(candidate.leader), lane.weight, *index))
            .map(|(index, _)| index)
            .expect("there are enough lanes for all partitions, so that one is open");
        filling[chosen].take(weight(&candidate), candidate);
    }
    (first.0..).map(LaneId).zip(filling).map(|(id, lane)| lane.close(id)).collect()
}

#[derive(Default)]
struct Filling {
    members: Vec<Candidate>,
    weight: u64,
    by_leader: BTreeMap<Option<BrokerId>, u64>,
}

impl Filling {
    fn weight_led_by(&self, leader: Option<BrokerId>) -> u64 {
        self.by_leader.get(&leader).copied().unwrap_or(0)
    }

    fn take(&mut self, weight: u64, candidate: Candidate) {
        self.weight = self.weight.saturating_add(weight);
        let led = self.by_leader.entry(candidate.leader).or_default();
        *led = led.saturating_add(weight);
        self.members.push(candidate);
    }

    fn close(mut self, id: LaneId) -> Lane {
        self.members.sort_by(|a, b| {
            let order = b.compacted.cmp(&a.compacted).then(b.bytes.cmp(&a.bytes));
            order.then_with(|| a.partition.cmp(&b.partition))
        });
        let bytes = self.members.iter().fold(0u64, |sum, c| sum.saturating_add(c.bytes));
        Lane { id, partitions: self.members.into_iter().map(|c| c.partition).collect(), bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate((index, (bytes, leader, compacted)): (usize, (u64, i32, bool))) -> Candidate {
        let leader = (leader > 0).then_some(BrokerId(leader));
        Candidate { partition: TopicPartition::new("t", index as i32), bytes, leader, compacted }
    }

    fn candidates(max: usize) -> impl Strategy<Value = Vec<Candidate>> {
        let one = (prop_oneof![Just(0u64), 0u64..1 << 40], 0i32..4, prop::bool::ANY);
        prop::collection::vec(one, 0..max).prop_map(|all| all.into_iter().enumerate().map(candidate).collect())
    }

    proptest! {
        #[test]
        fn every_partition_is_in_exactly_one_lane_and_none_is_empty(all in candidates(60), lanes in 0usize..12) {
            let made = split(all.clone(), lanes, LaneId(7));
            let mut seen: Vec<_> = made.iter().flat_map(|lane| lane.partitions.clone()).collect();
            seen.sort();
            let mut expected: Vec<_> = all.iter().map(|c| c.partition.clone()).collect();
            expected.sort();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(made.len(), if all.is_empty() { 0 } else { lanes.clamp(1, all.len()) });
            prop_assert!(made.iter().all(|lane| !lane.partitions.is_empty()));
            prop_assert_eq!(made.iter().map(|l| l.bytes).sum::<u64>(), all.iter().map(|c| c.bytes).sum::<u64>());
            let numbers: Vec<u32> = made.iter().map(|lane| lane.id.0).collect();
            prop_assert_eq!(numbers, (7..7 + made.len() as u32).collect::<Vec<_>>());
        }

        #[test]
        fn lanes_differ_by_no_more_than_the_largest_partition_and_the_slack(all in candidates(60), lanes in 1usize..8) {
            let made = split(all.clone(), lanes, LaneId(0));
            let weight = |lane: &Lane| lane.bytes + lane.partitions.len() as u64 * PARTITION_WEIGHT_BYTES;
            if let (Some(most), Some(least)) = (made.iter().map(weight).max(), made.iter().map(weight).min()) {
                let total: u64 = made.iter().map(weight).sum();
                let largest = all.iter().map(|c| c.bytes + PARTITION_WEIGHT_BYTES).max().unwrap_or(0);
                prop_assert!(most - least <= largest + total / (made.len() as u64 * LEADER_SLACK));
            }
        }

        #[test]
        fn the_order_of_the_input_does_not_matter(all in candidates(30).prop_shuffle(), lanes in 1usize..5) {
            let mut sorted = all.clone();
            sorted.sort_by(|a, b| a.partition.cmp(&b.partition));
            prop_assert_eq!(split(all, lanes, LaneId(0)), split(sorted, lanes, LaneId(0)));
        }
    }

    #[test]
    fn a_lane_never_has_more_partitions_than_one_transaction_can_fence() {
        let all: Vec<_> = (0..2_500).map(|index| candidate((index, (0, 1, false)))).collect();
        let lanes = split(all, 1, LaneId(0));
        assert_eq!(lanes.len(), 3);
        assert!(lanes.iter().all(|lane| lane.partitions.len() <= LANE_PARTITIONS_MAX));
    }

    #[test]
    fn leaders_are_spread_over_lanes() {
        let all: Vec<_> = (0..30).map(|index| candidate((index, (1 << 30, index as i32 % 3 + 1, false)))).collect();
        for lane in split(all, 3, LaneId(0)) {
            for leader in 0..3 {
                let led = lane.partitions.iter().filter(|p| p.partition.0 % 3 == leader).count();
                assert!((2..=5).contains(&led), "{led} partitions of one leader in {lane:?}");
            }
        }
    }

    #[test]
    fn compacted_partitions_come_first_and_then_the_largest() {
        let all = [(5, 1, false), (9, 1, false), (1, 1, true), (2, 1, true)];
        let lanes = split(all.into_iter().enumerate().map(candidate).collect(), 1, LaneId(0));
        let order: Vec<i32> = lanes[0].partitions.iter().map(|p| p.partition.0).collect();
        assert_eq!(order, [3, 2, 1, 0]);
    }
}
