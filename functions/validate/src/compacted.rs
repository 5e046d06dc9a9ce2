//! Compacted topics, key by key: both sides are streamed, and only digests are kept.
//!
//! Also asked before `drain_ready`, on a source that still moves: there what lies behind the copied position is read as
//! well, because a record that is not copied yet may have made the source forget one that was.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::{StreamExt, TryStreamExt, stream};
use krossing_core::{
    Offset, Side, SourceOffset, TopicPartition,
    codes::TOMBSTONES_MISSED,
    limits::{COMPARE_KEY_SLICES_MAX, COMPARE_KEYS_MAX, VALIDATION_PARTITIONS_IN_FLIGHT},
    offset_map::MapView,
    plan::Scope,
    ports::{Ledger, LogEnd, LogReader, Ports, ReadRange, StoreError, Witness},
    progress::PartitionProgress,
    validation::{CheckReport, Finding, KeySlice, KeyTable},
};
use krossing_replication::load_map;
use krossing_runtime::{ForStep, Migration, MigrationError, MigrationResult};
use serde::{Deserialize, Serialize};

/// Keys that the source has deleted, and that have a value on the target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{TOMBSTONES_MISSED}: {}; {}", .partitions.join("; "), TOMBSTONES_MISSED.remedy)]
pub struct TombstonesMissed {
    /// Which partitions, with the number of keys and the first of them.
    pub partitions: Vec<String>,
}

/// A tombstone that was cleaned on the source before it was read leaves a deleted key on the target. That takes a
/// partition whose end was not read for longer than its topic keeps tombstones: there every key is compared.
///
/// `doubtful`, up to which offset that is so, comes from the lanes that tail now: what they have written down may be
/// older. What has been compared up to there is not compared again, also by another process: both sides are read from
/// their beginning, which may take hours.
pub async fn tombstones_missed<P: Ports>(
    migration: &Migration<P>,
    scope: &Scope,
    doubtful: &BTreeMap<TopicPartition, SourceOffset>,
) -> MigrationResult<Option<TombstonesMissed>> {
    if doubtful.is_empty() {
        return Ok(None);
    }
    tracing::info!(partitions = doubtful.len(), "comparing keys where tombstones may be missing");
    let progress = migration.progress(scope).await?;
    let mut partitions = Vec::new();
    // One at a time: a partition's map may be large, and a function that cuts over is small.
    for (partition, doubtful_to) in doubtful {
        if let Some(progress) = progress.get(partition) {
            partitions.extend(compare_doubtful(migration, progress, *doubtful_to).await?);
        }
    }
    Ok((!partitions.is_empty()).then_some(TombstonesMissed { partitions }))
}

/// How far a partition's keys have been compared, and found as on the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeysCompared {
    /// The source offset before which everything had been copied.
    source_next: SourceOffset,
    /// As in the partition's progress then: what is copied again is compared again.
    #[serde(default)]
    went_back_times: u32,
}

/// Compares a partition unless that has been done. Answers what is wrong with it.
async fn compare_doubtful<P: Ports>(
    migration: &Migration<P>,
    progress: &PartitionProgress,
    doubtful_to: SourceOffset,
) -> MigrationResult<Option<String>> {
    let (partition, attempt) = (&progress.partition, "compare keys where tombstones may be missing");
    let document = format!("keys-compared/{partition}");
    let mut expected = None;
    if let Some((version, content)) = migration.ledger.document(&document).await.during(attempt)? {
        let compared: KeysCompared = serde_json::from_slice(&content)
            .map_err(|error| StoreError::Damaged { attempt: document.clone(), detail: error.to_string() })
            .during(attempt)?;
        if compared.source_next >= doubtful_to && compared.went_back_times == progress.went_back_times {
            return Ok(None);
        }
        expected = Some(version);
    }
    let report = compare_partition(migration, progress, COMPARE_KEYS_MAX).await?;
    if let Some(Finding { subject, problem, .. }) = report.findings.first() {
        return Ok(Some(format!(
            "{} keys of {partition}, which was not read for longer than it keeps tombstones, are not as on the source: \
             {subject}: {problem}",
            report.failed
        )));
    }
    let compared = KeysCompared { source_next: progress.source_next, went_back_times: progress.went_back_times };
    let content = serde_json::to_vec(&compared).expect("two numbers serialize");
    match migration.ledger.put_document(&document, expected, content.into()).await {
        // Another has compared it as well, and has found nothing either.
        Err(StoreError::Conflict { .. }) => Ok(None),
        put => put.map(|_| None).during(attempt),
    }
}

/// How many more slices there are after a pass with too many keys.
const MORE_SLICES: u64 = 4;

/// Compares the latest value of every key of compacted partitions, as far as they are copied: the source below
/// `source_next`, the target below `target_next`.
pub async fn compare_compacted<P: Ports>(
    migration: &Migration<P>,
    partitions: &[PartitionProgress],
) -> MigrationResult<CheckReport> {
    let mut report = CheckReport::default();
    let mut found = stream::iter(partitions)
        .map(|progress| compare_partition(migration, progress, COMPARE_KEYS_MAX))
        .buffer_unordered(VALIDATION_PARTITIONS_IN_FLIGHT);
    while let Some(partition) = found.try_next().await? {
        report.merge(partition);
    }
    Ok(report)
}

pub(crate) async fn compare_partition<P: Ports>(
    migration: &Migration<P>,
    progress: &PartitionProgress,
    keys_max: usize,
) -> MigrationResult<CheckReport> {
    let map = load_map(&migration.evidence, progress).await.during("read the offset map")?;
    let mut of = 1;
    while of <= COMPARE_KEY_SLICES_MAX {
        if let Some(report) = compare_slices(migration, progress, &map, of, keys_max).await? {
            return Ok(report);
        }
        of *= MORE_SLICES;
    }
    let mut report = CheckReport::default();
    report.fail(
        &progress.partition,
        format!("it has too many keys to be compared ({COMPARE_KEY_SLICES_MAX} passes of {keys_max} are not enough)"),
        "Compare it with a tool of your own, or split the topic",
    );
    Ok(report)
}

/// All keys, slice by slice; none where a slice has too many of them.
async fn compare_slices<P: Ports>(
    migration: &Migration<P>,
    progress: &PartitionProgress,
    map: &MapView,
    of: u64,
    keys_max: usize,
) -> MigrationResult<Option<CheckReport>> {
    let mut report = CheckReport::default();
    for index in 0..of {
        let table = Arc::new(Mutex::new(KeyTable::new(KeySlice { index, of }, keys_max)));
        match compare_slice(migration, progress, map, table).await? {
            Some(slice) => report.merge(slice),
            None => return Ok(None),
        }
    }
    Ok(Some(report))
}

async fn compare_slice<P: Ports>(
    migration: &Migration<P>,
    progress: &PartitionProgress,
    map: &MapView,
    table: Arc<Mutex<KeyTable>>,
) -> MigrationResult<Option<CheckReport>> {
    let partition = &progress.partition;
    // Read twice, the second time only what came meanwhile: a record that was compacted away while we read was
    // superseded by one that is in that stretch at the latest.
    let mut from = 0;
    for _ in 0..2 {
        let to = log_end(migration, partition, LogEnd::LatestStable).await?;
        let witness = &migration.source_witness;
        if !fill(witness, Side::Source, partition, from, to, &table, "read the keys of the source").await? {
            return Ok(None);
        }
        from = to;
    }
    let to = progress.target_next.0;
    let witness = &migration.target_witness;
    if !fill(witness, Side::Target, partition, 0, to, &table, "read the keys of the target").await? {
        return Ok(None);
    }
    let source_start = SourceOffset(log_end(migration, partition, LogEnd::Earliest).await?);
    let table = table.lock().expect("nothing panics while it is held");
    Ok(Some(table.compare(partition, progress.source_next, source_start, map)))
}

/// Shows a side's records to the table; false where it got too many keys.
async fn fill<W: Witness>(
    witness: &W,
    side: Side,
    partition: &TopicPartition,
    from: Offset,
    to: Offset,
    table: &Arc<Mutex<KeyTable>>,
    attempt: &'static str,
) -> MigrationResult<bool> {
    if from >= to {
        return Ok(true);
    }
    let range = ReadRange { partition: partition.clone(), from, to, records_max: usize::MAX };
    let seen = table.clone();
    let see = move |record| seen.lock().expect("nothing panics while it is held").see(side, &record);
    witness.read(range, see).await.during(attempt)?;
    Ok(!table.lock().expect("nothing panics while it is held").is_full())
}

async fn log_end<P: Ports>(
    migration: &Migration<P>,
    partition: &TopicPartition,
    end: LogEnd,
) -> MigrationResult<Offset> {
    let wanted = std::slice::from_ref(partition);
    let answers = migration.source.log_ends(wanted, end).await.during("ask the source where a log ends")?;
    match answers.get(partition) {
        Some(Ok(offset)) => Ok(*offset),
        Some(Err(code)) => Err(refused(partition, code.to_string())),
        None => Err(refused(partition, "it was left out of the answer".to_owned())),
    }
}

fn refused(partition: &TopicPartition, why: String) -> MigrationError {
    MigrationError::Refused {
        sentence: format!(
            "the source could not be asked where {partition} ends ({why}): see that its brokers are well"
        ),
    }
}
