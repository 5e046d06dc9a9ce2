//! The offset map's objects: runs that can no longer grow leave the progress for chunks of their own.

use bytes::Bytes;
use krossing_core::{
    MigrationId, TargetOffset, TopicPartition,
    offset_map::{self, MapView, OffsetMapError, Spill},
    ports::{Objects, StoreError, StoreResult},
    progress::{MapChunk, PartitionProgress, Run},
};

/// The key names the content: what a roll-back cut is written anew beside the object that stored progress still names,
/// and whoever writes the same twice writes the same object.
fn chunk_key(migration: &MigrationId, partition: &TopicPartition, spill: &Spill) -> String {
    let (first, digest) = (spill.moved[0].target_first.0, offset_map::sha256_hex(&spill.bytes));
    format!("{migration}/offset-map/{}/{}/{first:020}-{}.runs", partition.topic, partition.partition, &digest[..16])
}

/// Moves the older runs of `progress` into a chunk object where they have become many, and makes one of several chunks
/// so that those stay few. Objects are stored before the progress that names them, so that a crash in between leaves
/// one that nobody names.
pub(crate) async fn spill<O: Objects>(
    objects: &O,
    migration: &MigrationId,
    progress: &mut PartitionProgress,
) -> StoreResult<()> {
    while let Some(spill) =
        offset_map::spill(&progress.map_runs).map_err(|error| damaged(&progress.partition, &error))?
    {
        let chunk = store_chunk(objects, migration, &progress.partition, &spill).await?;
        progress.map_chunks.push(chunk);
        progress.map_runs = spill.kept;
    }
    while let Some(range) = offset_map::chunks_to_fold(&progress.map_chunks) {
        let mut decoded = Vec::with_capacity(range.len());
        for chunk in &progress.map_chunks[range.clone()] {
            decoded.push(read_chunk(objects, chunk).await?);
        }
        let folded = offset_map::fold(decoded).map_err(|error| damaged(&progress.partition, &error))?;
        let Some(folded) = folded else { break };
        let chunk = store_chunk(objects, migration, &progress.partition, &folded).await?;
        progress.map_chunks.splice(range, [chunk]);
    }
    Ok(())
}

async fn store_chunk<O: Objects>(
    objects: &O,
    migration: &MigrationId,
    partition: &TopicPartition,
    spill: &Spill,
) -> StoreResult<MapChunk> {
    let chunk = spill.chunk(chunk_key(migration, partition, spill));
    objects.put(&chunk.key, vec![spill.bytes.clone()]).await?;
    Ok(chunk)
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
        progress.go_back(source_next);
    }
    let records_lost = records_before - records(progress);
    // Every offset of the target's log holds a record or a fence of ours: validation counts on it.
    let fences_lost = progress.target_next.0 - target_end.0 - records_lost;
    progress.counts.records = progress.counts.records.saturating_sub(records_lost.unsigned_abs());
    progress.counts.fences = progress.counts.fences.saturating_sub(fences_lost.unsigned_abs());
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
