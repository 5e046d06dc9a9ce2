//! The offset map's objects: runs that can no longer grow leave the progress for chunks of their own.

use bytes::Bytes;
use krossing_core::{
    MigrationId, TargetOffset, TopicPartition,
    offset_map::{self, MapView, OffsetMapError},
    ports::{Objects, StoreError, StoreResult},
    progress::{MapChunk, PartitionProgress, Run},
};

fn chunk_key(migration: &MigrationId, partition: &TopicPartition, first: TargetOffset) -> String {
    format!("{migration}/offset-map/{}/{}/{:020}.runs", partition.topic, partition.partition, first.0)
}

/// Moves the older runs of `progress` into a chunk object where they have become many. The object is stored before
/// the progress that names it, so that a crash in between leaves an object that is written again, the same.
pub(crate) async fn spill<O: Objects>(
    objects: &O,
    migration: &MigrationId,
    progress: &mut PartitionProgress,
) -> StoreResult<()> {
    while let Some(spill) =
        offset_map::spill(&progress.map_runs).map_err(|error| damaged(&progress.partition, &error))?
    {
        let first = progress.map_runs[0].target_first;
        let chunk = spill.chunk(chunk_key(migration, &progress.partition, first));
        objects.put(&chunk.key, vec![spill.bytes]).await?;
        progress.map_chunks.push(chunk);
        progress.map_runs = spill.kept;
    }
    Ok(())
}

fn damaged(partition: &TopicPartition, error: &OffsetMapError) -> StoreError {
    StoreError::Damaged { attempt: format!("keep the offset map of {partition}"), detail: error.to_string() }
}

async fn read_chunk<O: Objects>(objects: &O, chunk: &MapChunk) -> StoreResult<Vec<Run>> {
    let attempt = || format!("read {}", chunk.key);
    let content: Bytes = objects.get(&chunk.key).await?.ok_or_else(|| StoreError::Missing { attempt: attempt() })?;
    if offset_map::sha256_hex(&content) != chunk.sha256 {
        return Err(StoreError::Damaged { attempt: attempt(), detail: "its digest is another".to_owned() });
    }
    offset_map::decode_chunk(&content)
        .map_err(|error| StoreError::Damaged { attempt: attempt(), detail: error.to_string() })
}

/// The whole map of a partition.
pub async fn load_map<O: Objects>(objects: &O, progress: &PartitionProgress) -> StoreResult<MapView> {
    let mut chunks = Vec::with_capacity(progress.map_chunks.len());
    for chunk in &progress.map_chunks {
        chunks.push(read_chunk(objects, chunk).await?);
    }
    MapView::new(chunks, &progress.map_runs).map_err(|error| damaged(&progress.partition, &error))
}

/// Rolls the map and the position back to what the target still holds, and answers how many records it had lost.
pub(crate) async fn roll_back<O: Objects>(
    objects: &O,
    progress: &mut PartitionProgress,
    target_end: TargetOffset,
) -> StoreResult<i64> {
    let records_before = records(progress);
    let cut = match offset_map::chunk_to_cut(&progress.map_chunks, target_end) {
        Some(chunk) => Some(read_chunk(objects, chunk).await?),
        None => None,
    };
    let read_again = offset_map::truncate_to(&mut progress.map_chunks, &mut progress.map_runs, target_end, cut);
    if let Some(source_next) = read_again {
        progress.source_next = source_next;
    }
    let records_lost = records_before - records(progress);
    progress.counts.records = progress.counts.records.saturating_sub(records_lost.unsigned_abs());
    tracing::warn!(
        partition = %progress.partition, acknowledged = %progress.target_next, %target_end,
        "the target lost what it had acknowledged"
    );
    progress.target_next = target_end;
    progress.ahead.clear();
    Ok(records_lost)
}

fn records(progress: &PartitionProgress) -> i64 {
    let in_chunks: i64 = progress.map_chunks.iter().map(|chunk| chunk.records).sum();
    in_chunks + progress.map_runs.iter().map(|run| run.count).sum::<i64>()
}
