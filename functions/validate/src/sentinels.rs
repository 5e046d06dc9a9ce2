//! Closing markers and last fences: where the cutover saw them, with nothing behind the markers.
//!
//! Where nothing was written to the source, its log must still reach to where it stood still.

use std::{collections::BTreeMap, ops::ControlFlow};

use futures::{StreamExt, TryStreamExt, stream};
use krossing_core::{
    Offset, SourceOffset, TopicId, TopicPartition,
    codes::STRAGGLERS,
    config::Place,
    cutover::{MarkerKind, is_sentinel_record},
    limits::{MARK_VISIBLE_WAIT_MAX, VALIDATION_PARTITIONS_IN_FLIGHT},
    ports::{LogReader, Ports, VisibleRecord},
    stragglers::{Choice, Decided},
    validation::CheckReport,
};
use krossing_replication::{ScanFrom, load_map, scan};
use krossing_runtime::{ForStep, Migration, MigrationResult};

use crate::{
    facts::{Facts, KnownPartition},
    records::{first_record, first_record_that},
};

const LOST: &str = "Somebody has changed or truncated this log: find out who, and what else is missing";

pub(crate) async fn presence<P: Ports>(
    migration: &Migration<P>,
    facts: &Facts,
    partitions: &[KnownPartition<'_>],
) -> MigrationResult<CheckReport> {
    let mut report = CheckReport { checked: partitions.len() as u64, ..CheckReport::default() };
    markers(migration, facts.marker_kind, partitions, &mut report).await?;
    fences(migration, partitions, &mut report).await?;
    left_behind(migration, partitions, &mut report).await?;
    decided(&facts.decided, &migration.config.evidence.place, &mut report);
    Ok(report)
}

async fn markers<P: Ports>(
    migration: &Migration<P>,
    kind: MarkerKind,
    partitions: &[KnownPartition<'_>],
    report: &mut CheckReport,
) -> MigrationResult<()> {
    let mut wanted = Vec::new();
    for known in partitions {
        let (partition, marker) = (known.partition(), known.marker);
        if marker.0 < known.source_start {
            report.gone_from_source += 1;
            report.note(format!("{partition}: the closing marker at {marker} was trimmed on the source (retention)"));
        } else if known.closed_from.0 > known.source_end {
            let problem = format!("the source's log ends at {}, and it was closed at {marker}", known.source_end);
            report.fail(partition, problem, LOST);
        } else {
            wanted.push((known, marker));
        }
    }
    match kind {
        MarkerKind::Control => control_markers(migration, &wanted, report).await,
        MarkerKind::Record => visible_markers(migration, &wanted, report).await,
        // What was trimmed or ends too early was found above, and more there is not to see.
        MarkerKind::None => Ok(()),
    }
}

async fn control_markers<P: Ports>(
    migration: &Migration<P>,
    wanted: &[(&KnownPartition<'_>, SourceOffset)],
    report: &mut CheckReport,
) -> MigrationResult<()> {
    let wanted =
        wanted.iter().map(|(known, marker)| (known.partition().clone(), known.progress.topic_id, marker.0)).collect();
    for (partition, (_, _, marker), found) in first_batches(&migration.source, migration, wanted).await? {
        if found != Found::Control(marker) {
            let problem = format!("there is {found} where the source was closed, at offset {marker}");
            report.fail(partition, problem, LOST);
        }
    }
    Ok(())
}

/// Visible markers are on both sides, and nowhere else on the target than the map says.
async fn visible_markers<P: Ports>(
    migration: &Migration<P>,
    wanted: &[(&KnownPartition<'_>, SourceOffset)],
    report: &mut CheckReport,
) -> MigrationResult<()> {
    let mut found = stream::iter(wanted)
        .map(|(known, marker)| async move {
            let (partition, attempt) = (known.partition(), "read closing markers");
            let (source, target) = (&migration.source_witness, &migration.target_witness);
            let on_source = first_record(source, partition, marker.0, marker.0 + 1, attempt).await?;
            let map = load_map(&migration.evidence, known.progress).await.during("read the offset map")?;
            let on_target = match map.exact(*marker).filter(|at| at.0 < known.target_end) {
                Some(at) => first_record(target, partition, at.0, at.0 + 1, attempt).await?,
                None => None,
            };
            MigrationResult::Ok((known, marker, on_source, on_target))
        })
        .buffered(VALIDATION_PARTITIONS_IN_FLIGHT);
    while let Some((known, marker, on_source, on_target)) = found.try_next().await? {
        let partition = known.partition();
        match on_source {
            Some(record) if is_sentinel_record(&record, &migration.id) => {}
            Some(_) => {
                let problem = format!("there is another record where the source was closed, at offset {marker}");
                report.fail(partition, problem, LOST);
            }
            // A tombstone of a key that never was: cleaners take it in time.
            None => {
                report.gone_from_source += 1;
                report.note(format!("{partition}: the closing marker at {marker} was compacted away on the source"));
            }
        }
        if !on_target.is_some_and(|record| is_sentinel_record(&record, &migration.id)) {
            let problem = format!("the copy of the closing marker at source offset {marker} is not on the target");
            report.fail(partition, problem, LOST);
        }
    }
    Ok(())
}

async fn fences<P: Ports>(
    migration: &Migration<P>,
    partitions: &[KnownPartition<'_>],
    report: &mut CheckReport,
) -> MigrationResult<()> {
    // A log that ends before its boundary is a finding of the counts, and must not be waited for here.
    let wanted = partitions
        .iter()
        .filter(|known| known.target_end >= known.boundary.0)
        .map(|known| (known.partition().clone(), None, known.boundary.0 - 1))
        .collect();
    for (partition, (_, _, fence), found) in first_batches(&migration.target, migration, wanted).await? {
        if found != Found::Control(fence) {
            let problem = format!("there is {found} where the target was closed, at offset {fence}");
            report.fail(partition, problem, LOST);
        }
    }
    Ok(())
}

type Wanted = (TopicPartition, Option<TopicId>, Offset);

/// What stands at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// A control batch that begins there.
    Control(Offset),
    /// Records, or anything that begins elsewhere.
    Other(Offset),
    /// Bytes that are no batch.
    NotUnderstood,
    /// Nothing within the time.
    Nothing,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Found::Control(offset) => write!(f, "a control batch of offset {offset}"),
            Found::Other(offset) => write!(f, "a batch of records of offset {offset}"),
            Found::NotUnderstood => f.write_str("a damaged batch"),
            Found::Nothing => f.write_str("nothing"),
        }
    }
}

/// The batch in which each offset lies, or the next one.
async fn first_batches<R: LogReader, P: Ports>(
    reader: &R,
    migration: &Migration<P>,
    wanted: Vec<Wanted>,
) -> MigrationResult<Vec<(TopicPartition, Wanted, Found)>> {
    let starts = wanted
        .iter()
        .map(|(partition, topic_id, offset)| ScanFrom {
            partition: partition.clone(),
            topic_id: *topic_id,
            offset: *offset,
        })
        .collect();
    let mut found = BTreeMap::new();
    scan(reader, &migration.clock, starts, MARK_VISIBLE_WAIT_MAX, |partition, batch| {
        let what = match batch {
            Ok(batch) if batch.header.is_control() => Found::Control(batch.header.base_offset),
            Ok(batch) => Found::Other(batch.header.base_offset),
            Err(_) => Found::NotUnderstood,
        };
        found.insert(partition.clone(), what);
        ControlFlow::Break(())
    })
    .await
    .during("read closing markers")?;
    let with_found = |wanted: Wanted| {
        let what = found.get(&wanted.0).copied().unwrap_or(Found::Nothing);
        (wanted.0.clone(), wanted, what)
    };
    Ok(wanted.into_iter().map(with_found).collect())
}

/// Records behind a closing marker: somebody was not told that producers have moved.
async fn left_behind<P: Ports>(
    migration: &Migration<P>,
    partitions: &[KnownPartition<'_>],
    report: &mut CheckReport,
) -> MigrationResult<()> {
    let mut found = stream::iter(partitions.iter().filter(|known| known.source_end > known.undecided_from.0))
        .map(|known| async move {
            let (from, to) = (known.undecided_from.0, known.source_end);
            let attempt = "look for records behind the closing markers";
            // A visible marker of ours that arrived late is nobody's record.
            let id = migration.id.clone();
            let of_others = move |record: &VisibleRecord| !is_sentinel_record(record, &id);
            let (witness, partition) = (&migration.source_witness, known.partition());
            let record = first_record_that(witness, partition, from, to, of_others, attempt).await?;
            MigrationResult::Ok((known, record))
        })
        .buffered(VALIDATION_PARTITIONS_IN_FLIGHT);
    while let Some((known, record)) = found.try_next().await? {
        if let Some(record) = record {
            report.fail(
                known.partition(),
                format!(
                    "{STRAGGLERS}: a record reached the source at offset {}, behind where it was closed, at {}: a producer still \
                     writes there, and the target does not have it",
                    record.offset, known.marker
                ),
                upper_first(STRAGGLERS.remedy),
            );
        }
    }
    Ok(())
}

/// A remedy stands behind a full stop here.
fn upper_first(remedy: &str) -> String {
    let mut letters = remedy.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// What the operator decided about records behind the markers; an append that was not completed is a failure.
fn decided(decided: &Decided, place: &Place, report: &mut CheckReport) {
    for decision in &decided.decisions {
        let what = match decision.stragglers {
            Choice::Append => "appended at the target's end",
            Choice::Leave => "left out of the target",
        };
        for stragglers in &decision.partitions {
            report.note(format!(
                "{}: {} records of source offsets {} to {}, behind where it was closed, were decided to be {what}; they \
                 are kept in {}",
                stragglers.partition,
                stragglers.records,
                stragglers.from,
                stragglers.to,
                place.of(&stragglers.kept.key)
            ));
        }
    }
    if let Some(unfinished) = decided.unfinished() {
        let problem = format!("decision {} to append them has not been carried out to its end", unfinished.number);
        report.fail("records left behind", problem, "Run `krossing stragglers --append`: it goes on where it ended");
    }
}
