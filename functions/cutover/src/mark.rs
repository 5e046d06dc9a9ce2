//! Closing the source: markers, or its logs' ends where nothing may be written; and what may not follow.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use krossing_core::{
    KafkaCode, Offset, Side, SourceOffset, TopicId, TopicPartition,
    cutover::{ClosingMarker, MarkerKind, SENTINELS_DOCUMENT, Standstill, sentinel, sentinel_in},
    limits::{MARK_VISIBLE_WAIT_MAX, RETRY_PAUSE_MAX, SENTINELS_IN_FLIGHT_MAX, STANDSTILL_LOOK},
    ports::{
        Clock, ClusterError, ClusterResult, Ledger, LogEnd, LogReader, LogWriter, Marker, PerPartition, Ports,
        ProduceOutcome, ProduceRequest,
    },
    records::{BatchBuilder, RawBatch},
};
use krossing_replication::{Behind, ScanFrom, records_behind, scan};
use krossing_runtime::{ForStep, MigrationError};

use crate::{
    Cutover, CutoverError,
    prepare::{MarkingPart, Prepared},
};

/// Closes every partition of the source in the configured way, and answers where.
pub(crate) async fn mark<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
    until: Instant,
) -> Result<BTreeMap<TopicPartition, SourceOffset>, CutoverError> {
    let before = source_ends(cutover, prepared).await?;
    tracing::debug!("the source's ends are known");
    match cutover.migration.config.cutover.marker {
        MarkerKind::Control => mark_with_control_batches(cutover, prepared, before).await,
        MarkerKind::Record => mark_with_records(cutover, prepared, before, until).await,
        MarkerKind::None => stand_still(cutover, prepared, before, until).await,
    }
}

async fn mark_with_control_batches<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
    before: BTreeMap<TopicPartition, Offset>,
) -> Result<BTreeMap<TopicPartition, SourceOffset>, CutoverError> {
    try_join_all(prepared.parts.iter().map(|part| mark_part(cutover, part))).await?;
    tracing::debug!("the marking transactions are committed");
    let markers_of: BTreeMap<_, _> = prepared
        .parts
        .iter()
        .flat_map(|part| part.partitions.iter().map(|partition| (partition.clone(), part.producer)))
        .collect();
    see_markers(cutover, prepared, before, |partition, batch| {
        let header = &batch.header;
        (header.is_control() && header.producer == markers_of[partition]).then_some(header.base_offset)
    })
    .await
}

/// A visible marker in each partition, but where no record has come behind the one of a cutover that was taken back.
async fn mark_with_records<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
    mut ends: BTreeMap<TopicPartition, Offset>,
    until: Instant,
) -> Result<BTreeMap<TopicPartition, SourceOffset>, CutoverError> {
    let migration = cutover.migration;
    let attempt = "read where the last visible markers stand";
    let stored = migration.ledger.document(SENTINELS_DOCUMENT).await.during(attempt)?;
    let (version, earlier): (_, Vec<ClosingMarker>) = match stored {
        None => (None, Vec::new()),
        Some((version, content)) => (Some(version), serde_json::from_slice(&content).map_err(|error| damaged(&error))?),
    };
    let mut unmarked = prepared.partitions.clone();
    let earlier: BTreeMap<_, _> = earlier
        .into_iter()
        .filter(|marker| ends.get(&marker.partition).is_some_and(|end| *end > marker.source_offset.0))
        .map(|marker| (marker.partition, marker.source_offset))
        .collect();
    let marked = prepared.partitions.iter().filter(|(partition, _)| earlier.contains_key(partition));
    let marked: BTreeMap<_, _> = marked.map(|(partition, id)| (partition.clone(), *id)).collect();
    let attempt = "look behind the earlier visible markers";
    let behind = starts(&marked, |partition| earlier[partition].0 + 1);
    let Behind { found: followed, unknown } =
        records_behind(&migration.source, &migration.clock, &migration.id, behind).await.during(attempt)?;
    all_looked_at(unknown, attempt)?;
    // Retention may have taken one, or a cleaner; looked for where the log begins now, in a moment.
    let there = earlier_markers(cutover, starts(&marked, |partition| earlier[partition].0)).await?;
    for (partition, marker) in earlier {
        if there.get(&partition) == Some(&marker) && !followed.contains_key(&partition) {
            unmarked.remove(&partition);
            ends.insert(partition, marker.0);
        }
    }
    let unmarked: Vec<_> = unmarked.into_keys().collect();
    stream::iter(&unmarked)
        .map(|partition| write_sentinel(cutover, partition, until))
        .buffer_unordered(SENTINELS_IN_FLIGHT_MAX)
        .try_collect::<Vec<()>>()
        .await?;
    tracing::debug!("the visible markers are written");
    let markers = see_markers(cutover, prepared, ends, |_, batch| {
        // What cannot be read stops the copy, and is named there.
        sentinel_in(batch, &migration.id).ok().flatten()
    })
    .await?;
    let listed: Vec<_> = markers.iter().map(|(partition, at)| closing_marker(partition, *at)).collect();
    let content = Bytes::from(serde_json::to_vec(&listed).expect("markers are plain data"));
    let attempt = "write down where the visible markers stand";
    migration.ledger.put_document(SENTINELS_DOCUMENT, version, content).await.during(attempt)?;
    Ok(markers)
}

/// How long earlier markers are looked for: they are there or not, only an election may be waited for.
const EARLIER_MARKERS_WAIT_MAX: Duration = Duration::from_secs(5);

/// The first visible marker of ours at or behind each start, where there is one.
async fn earlier_markers<P: Ports>(
    cutover: &Cutover<'_, P>,
    starts: Vec<ScanFrom>,
) -> Result<BTreeMap<TopicPartition, SourceOffset>, CutoverError> {
    let migration = cutover.migration;
    let attempt = "look for the earlier visible markers";
    let partitions: Vec<_> = starts.iter().map(|start| start.partition.clone()).collect();
    let log_starts = ends(migration.source.log_ends(&partitions, LogEnd::Earliest).await, attempt)?;
    let still_there = starts.into_iter().filter(|start| start.offset >= log_starts[&start.partition]).collect();
    let mut found = BTreeMap::new();
    scan(&migration.source, &migration.clock, still_there, EARLIER_MARKERS_WAIT_MAX, |partition, batch| {
        let marker = batch.ok().and_then(|batch| sentinel_in(batch, &migration.id).ok().flatten());
        found.extend(marker.map(|offset| (partition.clone(), SourceOffset(offset))));
        ControlFlow::Break(())
    })
    .await
    .during(attempt)?;
    Ok(found)
}

fn closing_marker(partition: &TopicPartition, source_offset: SourceOffset) -> ClosingMarker {
    ClosingMarker { partition: partition.clone(), source_offset }
}

fn damaged(error: &serde_json::Error) -> MigrationError {
    let (what, detail) = (format!("the ledger's document {SENTINELS_DOCUMENT}"), error.to_string());
    MigrationError::NotReadBack { what, detail }
}

/// Appends the visible marker of one partition. One whose arrival is not known is looked for like the others.
async fn write_sentinel<P: Ports>(
    cutover: &Cutover<'_, P>,
    partition: &TopicPartition,
    until: Instant,
) -> Result<(), CutoverError> {
    let migration = cutover.migration;
    let compacted = cutover.scope.topic(&partition.topic).is_some_and(|topic| topic.compacted);
    let record = sentinel(&migration.id, compacted, migration.clock.unix_ms());
    let batch = BatchBuilder { records: vec![record], ..BatchBuilder::new(0) };
    let batch = batch.build().expect("one record at the batch's own offset, not compressed");
    let refused = |why: String| Err(CutoverError::SentinelNotWritten { partition: partition.clone(), why });
    loop {
        let request = ProduceRequest { partition: partition.clone(), batch: batch.clone(), send_before: until };
        match migration.source.produce(request).await {
            ProduceOutcome::Appended { .. } | ProduceOutcome::Unknown { .. } => return Ok(()),
            ProduceOutcome::Refused { code, detail } => {
                return refused(format!("{code} {detail}").trim_end().to_owned());
            }
            ProduceOutcome::NotAppended { reason } if migration.clock.now() + RETRY_PAUSE_MAX >= until => {
                return refused(reason);
            }
            ProduceOutcome::NotAppended { reason } => {
                tracing::debug!(%partition, reason, "the marker is written again");
                migration.clock.sleep(RETRY_PAUSE_MAX).await;
            }
        }
    }
}

/// Without markers: the ends, once all have stood still for the window. Given up as soon as the window cannot end within
/// the budget, so that the error names who moved.
async fn stand_still<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
    before: BTreeMap<TopicPartition, Offset>,
    until: Instant,
) -> Result<BTreeMap<TopicPartition, SourceOffset>, CutoverError> {
    let (clock, window) = (&cutover.migration.clock, cutover.migration.config.cutover.standstill_window);
    let mut standstill = Standstill::new(window, clock.now(), before);
    loop {
        if let Some((partition, end)) = standstill.moved()
            && standstill.still_at() >= until
        {
            return Err(CutoverError::NotStill { partition: partition.clone(), end: *end, window });
        }
        let left = standstill.still_at().saturating_duration_since(clock.now());
        clock.sleep(left.min(STANDSTILL_LOOK)).await;
        let asked = clock.now();
        standstill.look(asked, source_ends(cutover, prepared).await?);
        if asked >= standstill.still_at() {
            let ends = standstill.ends().iter();
            return Ok(ends.map(|(partition, end)| (partition.clone(), SourceOffset(*end))).collect());
        }
    }
}

/// Reads every partition from `from` on until `marker_in` finds its marker.
async fn see_markers<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
    from: BTreeMap<TopicPartition, Offset>,
    marker_in: impl Fn(&TopicPartition, &RawBatch) -> Option<Offset> + Send + Sync,
) -> Result<BTreeMap<TopicPartition, SourceOffset>, CutoverError> {
    let migration = cutover.migration;
    let mut markers = BTreeMap::new();
    let starts = starts(&prepared.partitions, |partition| from[partition]);
    let unseen = scan(&migration.source, &migration.clock, starts, MARK_VISIBLE_WAIT_MAX, |partition, batch| {
        let Ok(batch) = batch else { return ControlFlow::Break(()) };
        let Some(offset) = marker_in(partition, batch) else { return ControlFlow::Continue(()) };
        markers.insert(partition.clone(), SourceOffset(offset));
        ControlFlow::Break(())
    })
    .await
    .during("see the closing markers on the source")?;
    let missing = prepared.partitions.keys().find(|partition| !markers.contains_key(*partition));
    match missing {
        None => Ok(markers),
        Some(partition) => Err(CutoverError::MarkNotSeen {
            partition: partition.clone(),
            offset: unseen.get(partition).copied().unwrap_or(from[partition]),
        }),
    }
}

async fn mark_part<P: Ports>(cutover: &Cutover<'_, P>, part: &MarkingPart) -> Result<(), CutoverError> {
    let refused = cutover
        .migration
        .source
        .mark(&part.transactional_id, part.producer, &part.partitions)
        .await
        .during("mark the source")?;
    match refused.into_iter().next() {
        None => Ok(()),
        Some((partition, code)) => Err(CutoverError::NotMarked { side: Side::Source, partition, code }),
    }
}

/// A partition behind whose marker could not be looked is an error: there may be a record.
fn all_looked_at(unknown: BTreeMap<TopicPartition, String>, attempt: &'static str) -> Result<(), CutoverError> {
    let Some((partition, why)) = unknown.into_iter().next() else { return Ok(()) };
    let (side, detail) = (Side::Source, format!("{partition}: {why}"));
    Ok(Err(ClusterError::Unavailable { side, attempt: attempt.to_owned(), detail }).during(attempt)?)
}

/// Makes sure that no record has come behind where its partition was closed. Other control batches may: they are nothing
/// to copy.
pub(crate) async fn nothing_behind_markers<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
    closed_from: &BTreeMap<TopicPartition, SourceOffset>,
) -> Result<(), CutoverError> {
    let starts = starts(&prepared.partitions, |partition| closed_from[partition].0);
    let (migration, attempt) = (cutover.migration, "look behind the closing markers");
    let Behind { found, unknown } =
        records_behind(&migration.source, &migration.clock, &migration.id, starts).await.during(attempt)?;
    match found.into_iter().next() {
        None => all_looked_at(unknown, attempt),
        Some((partition, record)) => Err(CutoverError::ProducerLeftBehind { partition, record }),
    }
}

async fn source_ends<P: Ports>(
    cutover: &Cutover<'_, P>,
    prepared: &Prepared,
) -> Result<BTreeMap<TopicPartition, Offset>, CutoverError> {
    let partitions: Vec<_> = prepared.partitions.keys().cloned().collect();
    ends(cutover.migration.source.log_ends(&partitions, LogEnd::Latest).await, "read the source's ends")
}

/// One offset for each partition, or the error of one that has none.
pub(crate) fn ends(
    answer: ClusterResult<PerPartition<Offset>>,
    attempt: &'static str,
) -> Result<BTreeMap<TopicPartition, Offset>, CutoverError> {
    answer
        .during(attempt)?
        .into_iter()
        .map(|(partition, end)| {
            end.map(|end| (partition.clone(), end)).map_err(|code| refused(attempt, &partition, code))
        })
        .collect()
}

fn refused(attempt: &'static str, partition: &TopicPartition, code: KafkaCode) -> CutoverError {
    MigrationError::Refused { sentence: format!("could not {attempt}: {partition} answers {code}") }.into()
}

fn starts(
    partitions: &BTreeMap<TopicPartition, Option<TopicId>>,
    offset: impl Fn(&TopicPartition) -> Offset,
) -> Vec<ScanFrom> {
    partitions
        .iter()
        .map(|(partition, topic_id)| ScanFrom {
            partition: partition.clone(),
            topic_id: *topic_id,
            offset: offset(partition),
        })
        .collect()
}
