//! Records, compared one by one: samples over the whole range, and each group's next.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::{StreamExt, TryStreamExt, stream};
use krossing_core::{
    Offset, SourceOffset, TargetOffset, TopicPartition,
    limits::{SAMPLES_SHOWN_MAX, VALIDATION_PARTITIONS_IN_FLIGHT},
    offset_map::MapView,
    ports::{Ports, ReadRange, VisibleRecord, Witness},
    validation::{CheckReport, ExpectedPosition, copy_difference, mapped_record, next_record, sample},
};
use krossing_replication::load_map;
use krossing_runtime::{ForStep, Migration, MigrationResult};

use crate::facts::KnownPartition;

const NOT_EXACT: &str = "The copy of this topic cannot be relied on: point its clients back to the source, and migrate \
                         it again";
const MOVE_GROUP: &str = "Stop the group, set its offset on the target to the one where its next record is, and look \
                          at what it has read since the switch";

/// What the comparison of a partition's records found.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// The samples.
    pub(crate) samples: CheckReport,
    /// Which they were, as far as that is shown.
    pub(crate) sampled: Vec<SourceOffset>,
    /// Each group's next record.
    pub(crate) next: CheckReport,
}

/// Samples, then each group's next record, by partition.
pub(crate) async fn compare<P: Ports>(
    migration: &Migration<P>,
    partitions: &[KnownPartition<'_>],
    positions: &[ExpectedPosition],
) -> MigrationResult<BTreeMap<TopicPartition, Compared>> {
    let mut by_partition: BTreeMap<&TopicPartition, Vec<&ExpectedPosition>> = BTreeMap::new();
    for position in positions {
        by_partition.entry(&position.partition).or_default().push(position);
    }
    stream::iter(partitions)
        .map(async |known| {
            let positions = by_partition.get(known.partition()).map_or(&[][..], Vec::as_slice);
            Ok((known.partition().clone(), compare_partition(migration, known, positions).await?))
        })
        .buffer_unordered(VALIDATION_PARTITIONS_IN_FLIGHT)
        .try_collect()
        .await
}

async fn compare_partition<P: Ports>(
    migration: &Migration<P>,
    known: &KnownPartition<'_>,
    positions: &[&ExpectedPosition],
) -> MigrationResult<Compared> {
    let map = load_map(&migration.evidence, known.progress).await.during("read the offset map")?.before(known.marker);
    let comparison = Comparison { migration, known, map };
    let (samples, sampled) = comparison.samples().await?;
    Ok(Compared { samples, sampled, next: comparison.next_records(positions).await? })
}

struct Comparison<'a, P: Ports> {
    migration: &'a Migration<P>,
    known: &'a KnownPartition<'a>,
    map: MapView,
}

impl<P: Ports> Comparison<'_, P> {
    async fn samples(&self) -> MigrationResult<(CheckReport, Vec<SourceOffset>)> {
        let (mut report, mut sampled) = (CheckReport::default(), Vec::new());
        let partition = self.known.partition();
        let wanted = self.migration.config.validation.spot_check_records_per_partition;
        for number in sample(&self.migration.id, partition, self.map.record_count(), wanted) {
            let Some((source_offset, target_offset)) = mapped_record(&self.map, number) else { continue };
            report.checked += 1;
            if sampled.len() < SAMPLES_SHOWN_MAX {
                sampled.push(source_offset);
            }
            let problem = match self.on_source(source_offset).await? {
                Some(record) => self.difference(&record).await?,
                // Compacted or trimmed there since; on the target, which holds everything, it must be.
                None => {
                    report.gone_from_source += 1;
                    let copy = self.on_target(target_offset).await?;
                    copy.is_none_or(|copy| copy.offset != target_offset.0).then(|| {
                        format!(
                            "the copy of source offset {source_offset} is gone from the target (offset {target_offset})"
                        )
                    })
                }
            };
            if let Some(problem) = problem {
                report.fail(partition, problem, NOT_EXACT);
            }
        }
        Ok((report, sampled))
    }

    async fn next_records(&self, positions: &[&ExpectedPosition]) -> MigrationResult<CheckReport> {
        let mut report = CheckReport::default();
        let mut by_offset: BTreeMap<SourceOffset, Vec<&ExpectedPosition>> = BTreeMap::new();
        for position in positions {
            by_offset.entry(position.source_offset).or_default().push(position);
        }
        // Groups often stand at the same offset: its next record is read once.
        for (committed, positions) in by_offset {
            let next = self.on_source(committed).await?;
            let difference = match &next {
                Some(record) => self.difference(record).await?,
                None => None,
            };
            for position in positions {
                report.checked += 1;
                let next_offset = next.as_ref().map(|record| SourceOffset(record.offset));
                let judged = next_record(position, next_offset, &self.map, self.known.boundary);
                if let Some(problem) = judged.err().or_else(|| difference.clone()) {
                    report.fail(position.subject(), problem, MOVE_GROUP);
                }
            }
        }
        Ok(report)
    }

    /// What is wrong with the copy of a record of the source.
    async fn difference(&self, record: &VisibleRecord) -> MigrationResult<Option<String>> {
        let Some(copied_to) = self.map.exact(SourceOffset(record.offset)) else {
            return Ok(Some(format!("the record at source offset {} was not copied", record.offset)));
        };
        Ok(copy_difference(record, copied_to, self.on_target(copied_to).await?.as_ref()))
    }

    /// The first record that the source still has at or after an offset, before its closing marker.
    async fn on_source(&self, from: SourceOffset) -> MigrationResult<Option<VisibleRecord>> {
        let witness = &self.migration.source_witness;
        // A log that ends before its marker has its own finding; asking for what is not there would be an error.
        let to = self.known.marker.0.min(self.known.source_end);
        if to <= self.known.source_start {
            return Ok(None);
        }
        first_record(witness, self.known.partition(), from.0, to, "read records of the source").await
    }

    async fn on_target(&self, at: TargetOffset) -> MigrationResult<Option<VisibleRecord>> {
        if at.0 >= self.known.target_end {
            return Ok(None);
        }
        let witness = &self.migration.target_witness;
        first_record(witness, self.known.partition(), at.0, at.0 + 1, "read records of the target").await
    }
}

/// The first committed record of a range.
pub(crate) async fn first_record<W: Witness>(
    witness: &W,
    partition: &TopicPartition,
    from: Offset,
    to: Offset,
    attempt: &'static str,
) -> MigrationResult<Option<VisibleRecord>> {
    first_record_that(witness, partition, from, to, |_| true, attempt).await
}

/// The first committed record of a range that is `wanted`.
pub(crate) async fn first_record_that<W: Witness>(
    witness: &W,
    partition: &TopicPartition,
    from: Offset,
    to: Offset,
    wanted: impl Fn(&VisibleRecord) -> bool + Send + 'static,
    attempt: &'static str,
) -> MigrationResult<Option<VisibleRecord>> {
    if from >= to {
        return Ok(None);
    }
    let found = Arc::new(Mutex::new(None));
    let range = ReadRange { partition: partition.clone(), from, to, records_max: usize::MAX };
    let seen = found.clone();
    let see = move |record| {
        if !wanted(&record) {
            return true;
        }
        *seen.lock().expect("nothing panics while it is held") = Some(record);
        false
    };
    witness.read(range, see).await.during(attempt)?;
    Ok(found.lock().expect("nothing panics while it is held").take())
}
