//! What a cutover leaves behind, and the rules of its steps that need no cluster.
//!
//! The report is stored; a new field is optional or a new version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    limits::MARK_NAME_BYTES_MAX,
    types::{GroupId, MigrationId, SourceOffset, TargetOffset, TopicPartition},
};

/// The version of [`CutoverReport`] that this code writes.
pub const CUTOVER_REPORT_VERSION: u32 = 1;

/// Where the report of the cutover that reached READY is stored.
pub fn cutover_report_key(migration: &MigrationId) -> String {
    format!("{migration}/cutover-report.json")
}

/// A closing marker on the source: the offset that it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingMarker {
    /// Where.
    pub partition: TopicPartition,
    /// The offset of the marker: everything before it was copied, nothing may follow.
    pub source_offset: SourceOffset,
}

/// The target boundary of a partition: the offset after the target's closing fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boundary {
    /// Where.
    pub partition: TopicPartition,
    /// The first offset that an application will write.
    pub target_offset: TargetOffset,
}

/// One position of one group, translated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTranslation {
    /// The group.
    pub group: GroupId,
    /// Where.
    pub partition: TopicPartition,
    /// What the group had committed on the source.
    pub source_offset: SourceOffset,
    /// What was committed for it on the target.
    pub target_offset: TargetOffset,
    /// What the client stores beside its position.
    pub metadata: String,
}

/// How long each step took, from the freeze on, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverTimings {
    /// Asking producers to stand still, until they said that they do.
    pub freeze_ms: u64,
    /// Writing the closing markers and seeing them.
    pub mark_ms: u64,
    /// Copying up to the markers.
    pub drain_ms: u64,
    /// Fencing and closing every lane.
    pub close_ms: u64,
    /// Reading and translating group positions.
    pub translate_ms: u64,
    /// Writing them, and reading them back.
    pub commit_ms: u64,
    /// From the moment producers stood still until READY.
    pub frozen_ms: u64,
}

/// What a cutover did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverReport {
    /// Of this format.
    pub version: u32,
    /// When READY was reached, in milliseconds since 1970.
    pub ready_unix_ms: i64,
    /// How producers were brought to stand still, and who confirmed it.
    pub freeze: String,
    /// The closing markers, by partition.
    pub markers: Vec<ClosingMarker>,
    /// The target boundaries, by partition.
    pub boundaries: Vec<Boundary>,
    /// Every group position, by group and partition.
    pub groups: Vec<GroupTranslation>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub timings: CutoverTimings,
}

impl CutoverReport {
    /// The boundaries, to look up.
    pub fn boundary_of(&self) -> BTreeMap<TopicPartition, TargetOffset> {
        self.boundaries.iter().map(|boundary| (boundary.partition.clone(), boundary.target_offset)).collect()
    }

    /// The markers, to look up.
    pub fn marker_of(&self) -> BTreeMap<TopicPartition, SourceOffset> {
        self.markers.iter().map(|marker| (marker.partition.clone(), marker.source_offset)).collect()
    }
}

/// Splits partitions so that each part fits one marking transaction, all partitions of a topic together where they fit.
pub fn marking_parts(partitions: &[TopicPartition]) -> Vec<Vec<TopicPartition>> {
    let mut parts: Vec<Vec<TopicPartition>> = Vec::new();
    let mut bytes = usize::MAX;
    for partition in partitions {
        // A partition costs its number and, at worst, its topic's name again.
        let cost = partition.topic.as_str().len() + 8;
        if bytes.saturating_add(cost) > MARK_NAME_BYTES_MAX {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += cost;
        if let Some(part) = parts.last_mut() {
            part.push(partition.clone());
        }
    }
    parts
}

/// The transactional id that closes part `part` of the source.
pub fn marking_transactional_id(migration: &MigrationId, part: usize) -> String {
    format!("krossing.{migration}.mark.{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_is_in_exactly_one_marking_part_and_no_part_is_too_large() {
        let partitions: Vec<_> =
            (0..5_000).map(|number| TopicPartition::new(format!("{:0>249}", number / 10), number % 10)).collect();
        let parts = marking_parts(&partitions);
        assert_eq!(parts.concat(), partitions);
        assert!(parts.len() > 1);
        for part in parts {
            assert!(part.iter().map(|p| p.topic.as_str().len()).sum::<usize>() <= MARK_NAME_BYTES_MAX);
        }
        assert!(marking_parts(&[]).is_empty());
    }
}
