//! The reference model: what the target must contain and where groups must resume, derived from the logs alone.
//!
//! It walks records one by one and knows nothing of runs, maps, checkpoints or segments. The source may have been
//! compacted or trimmed since it was copied, so that it takes both what was ever visible there and what still is: the
//! target must hold every record that survives, may hold others that once were, and nothing else, in order. Records of
//! a partition must differ in key, value, headers or timestamp for an answer to be sharp.

use std::collections::{BTreeMap, BTreeSet};

use krossing_core::{
    Offset, SourceOffset, TargetOffset, TopicPartition,
    ports::{CommittedOffset, GroupOffsets, VisibleRecord},
};

use crate::cluster::FakeCluster;

/// Which source record each target record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairing {
    /// Source and target offset of every record of the target, in order.
    pub pairs: Vec<(SourceOffset, TargetOffset)>,
}

fn same(source: &VisibleRecord, target: &VisibleRecord) -> bool {
    let VisibleRecord { offset: _, timestamp_ms, key, value, headers } = source;
    (timestamp_ms, key, value, headers) == (&target.timestamp_ms, &target.key, &target.value, &target.headers)
}

/// Pairs the target's records with the source's, or says what is lost, doubled, out of order, changed or foreign.
pub fn pair(ever: &[VisibleRecord], surviving: &[VisibleRecord], target: &[VisibleRecord]) -> Result<Pairing, String> {
    let surviving: BTreeSet<Offset> = surviving.iter().map(|record| record.offset).collect();
    let mut pairs = Vec::with_capacity(target.len());
    let mut left = target.iter().peekable();
    for record in ever {
        if let Some(copy) = left.next_if(|copy| same(record, copy)) {
            pairs.push((SourceOffset(record.offset), TargetOffset(copy.offset)));
        } else if surviving.contains(&record.offset) {
            let found = left.peek().map_or("the target's end".to_owned(), |copy| strange(ever, copy));
            return Err(format!("source record {} is not on the target: in its place is {found}", record.offset));
        }
    }
    match left.next() {
        None => Ok(Pairing { pairs }),
        Some(copy) => Err(format!("after every source record the target goes on with {}", strange(ever, copy))),
    }
}

/// A key that a compacted copy answers with something else than what was last written for it on the source: a deleted
/// key that is back, or a value that is stale. That no record which survives is missing is for [`pair`] to say.
pub fn resurrected(ever: &[VisibleRecord], target: &[VisibleRecord]) -> Result<(), String> {
    let last = |records: &[VisibleRecord]| -> BTreeMap<_, _> {
        // A later record takes the place of an earlier one.
        records.iter().filter_map(|record| Some((record.key.clone()?, record.value.clone()))).collect()
    };
    let there = last(ever);
    let valued = last(target).into_iter().filter(|(_, value)| value.is_some());
    match valued.into_iter().find(|(key, value)| there.get(key) != Some(value)) {
        Some((key, value)) => {
            Err(format!("key {key:?} is {value:?} on the target, and {:?} on the source", there.get(&key)))
        }
        None => Ok(()),
    }
}

fn strange(ever: &[VisibleRecord], copy: &VisibleRecord) -> String {
    match ever.iter().find(|record| same(record, copy)) {
        Some(record) => format!("target record {}, which is source record {}", copy.offset, record.offset),
        None => format!("target record {}, which is none of the source's", copy.offset),
    }
}

impl Pairing {
    /// Where a group that committed `committed` on the source must resume: at the first record that was copied from
    /// there or later, and at `boundary` where there is none.
    pub fn resume(&self, committed: SourceOffset, boundary: TargetOffset) -> TargetOffset {
        self.pairs.iter().find(|(source, _)| *source >= committed).map_or(boundary, |(_, target)| *target)
    }
}

/// Compares a whole target with its source, partition by partition; all that is wrong, one sentence each.
pub fn compare(
    source: &FakeCluster,
    target: &FakeCluster,
    partitions: &[TopicPartition],
) -> Result<Vec<Pairing>, String> {
    let mut pairings = Vec::new();
    let mut wrong = Vec::new();
    for partition in partitions {
        let (ever, surviving) = (source.ever_visible(partition), source.visible_records(partition));
        match pair(&ever, &surviving, &target.visible_records(partition)) {
            Ok(pairing) => pairings.push(pairing),
            Err(sentence) => wrong.push(format!("{partition}: {sentence}")),
        }
    }
    if wrong.is_empty() { Ok(pairings) } else { Err(wrong.join("\n")) }
}

/// The positions that a group must have on the target, given its positions on the source and each partition's target
/// boundary.
pub fn translated(
    source: &FakeCluster,
    target: &FakeCluster,
    committed: &GroupOffsets,
    boundaries: &BTreeMap<TopicPartition, TargetOffset>,
) -> Result<GroupOffsets, String> {
    committed
        .iter()
        .map(|(partition, position)| {
            let pairing = compare(source, target, std::slice::from_ref(partition))?.remove(0);
            let boundary = boundaries.get(partition).ok_or_else(|| format!("{partition} has no boundary"))?;
            let offset = pairing.resume(SourceOffset(position.offset), *boundary).0;
            Ok((partition.clone(), CommittedOffset { offset, metadata: position.metadata.clone() }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(values: &[(Offset, &'static str)]) -> Vec<VisibleRecord> {
        let record = |&(offset, value): &(Offset, &'static str)| VisibleRecord {
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
        };
        values.iter().map(record).collect()
    }

    fn check(target: &[(Offset, &'static str)]) -> Result<Pairing, String> {
        let ever = records(&[(3, "a"), (4, "b"), (7, "c"), (9, "d")]);
        let surviving = records(&[(4, "b"), (9, "d")]);
        pair(&ever, &surviving, &records(target))
    }

    #[test]
    fn a_copy_may_hold_what_the_source_has_cleaned_since() {
        assert!(check(&[(0, "a"), (1, "b"), (2, "c"), (3, "d")]).is_ok());
        assert!(check(&[(1, "b"), (5, "d")]).is_ok());
    }

    #[test]
    fn what_is_lost_doubled_reordered_changed_or_foreign_is_named() {
        for (target, part) in [
            (&[(0, "a"), (1, "b")][..], "source record 9 is not on the target: in its place is the target's end"),
            (&[(0, "b"), (1, "b"), (2, "d")], "target record 1, which is source record 4"),
            (&[(0, "d"), (1, "b")], "source record 4 is not on the target"),
            (&[(0, "b"), (1, "d"), (2, "a")], "goes on with target record 2, which is source record 3"),
            (&[(0, "b"), (1, "x"), (2, "d")], "target record 1, which is none of the source's"),
        ] {
            let error = check(target).expect_err("it differs");
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_deleted_key_that_is_on_the_target_is_named() {
        let keyed = |values: &[Option<&'static str>]| -> Vec<VisibleRecord> {
            let mut keyed = records(&[(0, ""), (1, ""), (2, "")][..values.len()]);
            keyed.iter_mut().zip(values).for_each(|(record, value)| {
                (record.key, record.value) = (Some("k".into()), value.map(Into::into));
            });
            keyed
        };
        let deleted = keyed(&[Some("1"), None]);
        assert_eq!(resurrected(&deleted, &deleted), Ok(()));
        assert_eq!(resurrected(&deleted, &[]), Ok(()));
        assert!(resurrected(&deleted, &keyed(&[Some("1")])).is_err());
        assert!(resurrected(&keyed(&[Some("1"), Some("2")]), &keyed(&[Some("1")])).is_err());
    }

    #[test]
    fn a_group_resumes_at_the_first_copied_record_or_at_the_boundary() {
        let pairing = check(&[(1, "b"), (2, "c"), (5, "d")]).expect("a good copy");
        for (committed, resumed) in [(0, 1), (4, 1), (5, 2), (8, 5), (9, 5), (10, 7), (99, 7)] {
            let resume = pairing.resume(SourceOffset(committed), TargetOffset(7));
            assert_eq!(resume, TargetOffset(resumed), "committed {committed}");
        }
    }
}
