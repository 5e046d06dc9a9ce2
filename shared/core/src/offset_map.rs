//! Where each record of the source lies on the target: an ordered list of runs, and the questions asked of it.
//!
//! A run is a stretch of records whose two offsets differ by a constant. A compaction gap, a transaction marker, aborted
//! data or a fence of ours on the target ends a run; everything between costs nothing. A partition's newest runs are in
//! its [progress](crate::progress), older ones in chunk objects ([`encode_chunk`]), so that what a worker holds is
//! bounded by what is open and not by the size of the map.
//!
//! Invariants: source and target offsets both rise from run to run; no run is empty; neighbours are merged while their
//! difference is constant. [`append`] is the only way to grow a map and keeps them; [`decode_chunk`] and
//! [`MapView::new`] check them, because what is stored may be damaged. No translation returns more than the boundary.
//!
//! Does not: look at a log, or decide where the boundary is.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    limits::{MAP_CHUNK_RUNS_MAX, PROGRESS_RUNS_MAX},
    progress::{Gap, MapChunk, Run},
    types::{MigrationId, SourceOffset, TargetOffset, TopicPartition},
};

/// Why runs cannot be a map, or bytes cannot be a chunk of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffsetMapError {
    /// A run without records, with a negative offset, or that ends beyond the largest offset.
    #[error("run of {count} records from source {source_first} to target {target_first} is not a run")]
    NotARun {
        /// Source offset of its first record.
        source_first: SourceOffset,
        /// Target offset of its first record.
        target_first: TargetOffset,
        /// How many records it claims.
        count: i64,
    },
    /// A run that begins before the one in front of it ends.
    #[error(
        "run from source {source_first} to target {target_first} begins before the map ends \
         (source {source_end}, target {target_end})"
    )]
    NotMonotone {
        /// Source offset of the run's first record.
        source_first: SourceOffset,
        /// Target offset of the run's first record.
        target_first: TargetOffset,
        /// Source offset after the map's last record.
        source_end: SourceOffset,
        /// Target offset after the map's last record.
        target_end: TargetOffset,
    },
    /// More runs than one chunk may hold.
    #[error("a chunk of {runs} runs is larger than the {MAP_CHUNK_RUNS_MAX} allowed")]
    ChunkTooLarge {
        /// How many runs.
        runs: u64,
    },
    /// Bytes that are not a chunk: cut off, changed, or of a later version.
    #[error("bytes are not a chunk of an offset map: {detail}")]
    NotAChunk {
        /// What is wrong with them.
        detail: &'static str,
    },
}

/// Appends a run to a map, merging it with the last one while the difference is constant.
pub fn append(runs: &mut Vec<Run>, run: Run) -> Result<(), OffsetMapError> {
    let fits = |first: i64| first >= 0 && first.checked_add(run.count).is_some();
    if run.count < 1 || !fits(run.source_first.0) || !fits(run.target_first.0) {
        let Run { source_first, target_first, count } = run;
        return Err(OffsetMapError::NotARun { source_first, target_first, count });
    }
    if let Some(last) = runs.last_mut() {
        let (source_end, target_end) = (last.source_end(), last.target_end());
        if run.source_first < source_end || run.target_first < target_end {
            let Run { source_first, target_first, .. } = run;
            return Err(OffsetMapError::NotMonotone { source_first, target_first, source_end, target_end });
        }
        if run.source_first == source_end && run.target_first == target_end {
            last.count += run.count;
            return Ok(());
        }
    }
    runs.push(run);
    Ok(())
}

// ── Rolling back ───────────────────────────────────────────────────────────────────────────────────────────────────

/// The chunk that must be decoded before [`truncate_to`] can cut inside it; none where the cut lies between chunks or
/// in the newest runs.
pub fn chunk_to_cut(chunks: &[MapChunk], target_end: TargetOffset) -> Option<&MapChunk> {
    chunks.iter().find(|chunk| chunk.target_first < target_end && target_end < chunk.target_end)
}

/// Rolls a map back to a target log that ends at `target_end`. Answers where the source must be read from again: the
/// first record that is no longer there; none where nothing was cut. `cut` are the runs of [`chunk_to_cut`]: what is
/// left of them becomes the newest runs.
pub fn truncate_to(
    chunks: &mut Vec<MapChunk>,
    runs: &mut Vec<Run>,
    target_end: TargetOffset,
    cut: Option<Vec<Run>>,
) -> Option<SourceOffset> {
    let kept = chunks.partition_point(|chunk| chunk.target_end <= target_end);
    if let Some(chunk) = chunks.get(kept) {
        let chunk_first = chunk.source_first;
        chunks.truncate(kept);
        *runs = cut.unwrap_or_default();
        return truncate_runs_to(runs, target_end).or(Some(chunk_first));
    }
    truncate_runs_to(runs, target_end)
}

fn truncate_runs_to(runs: &mut Vec<Run>, target_end: TargetOffset) -> Option<SourceOffset> {
    let kept = runs.partition_point(|run| run.target_end() <= target_end);
    let cut = *runs.get(kept)?;
    runs.truncate(kept);
    let left = target_end.0 - cut.target_first.0;
    if left > 0 {
        runs.push(Run { count: left, ..cut });
        Some(cut.source_first.plus(left))
    } else {
        Some(cut.source_first)
    }
}

// ── Questions ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Where in a partition's map an answer lies: what has to be read for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the chunk with this index.
    Chunk(usize),
    /// In the newest runs, or beyond all records.
    Newest,
}

/// Where the first surviving record at or after `offset` is mapped.
pub fn place_of_source(chunks: &[MapChunk], offset: SourceOffset) -> Place {
    place(chunks, chunks.partition_point(|chunk| chunk.source_end <= offset))
}

/// Where the record at target offset `offset` is mapped, if it is.
pub fn place_of_target(chunks: &[MapChunk], offset: TargetOffset) -> Place {
    place(chunks, chunks.partition_point(|chunk| chunk.target_end <= offset))
}

fn place(chunks: &[MapChunk], index: usize) -> Place {
    if index < chunks.len() { Place::Chunk(index) } else { Place::Newest }
}

/// A map, or a stretch of one, in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapView {
    runs: Vec<Run>,
}

impl MapView {
    /// The map made of decoded chunks in order and the newest runs.
    pub fn new(chunks: impl IntoIterator<Item = Vec<Run>>, newest: &[Run]) -> Result<Self, OffsetMapError> {
        let mut runs = Vec::new();
        for run in chunks.into_iter().flatten().chain(newest.iter().copied()) {
            append(&mut runs, run)?;
        }
        Ok(Self { runs })
    }

    /// Where a group that wants source offset `committed` next goes on: the first surviving record at or after it, or
    /// the boundary where none is left. Never more than the boundary.
    pub fn translate(&self, committed: SourceOffset, boundary: TargetOffset) -> TargetOffset {
        let index = self.runs.partition_point(|run| run.source_end() <= committed);
        match self.runs.get(index) {
            Some(run) => {
                let into = committed.0.saturating_sub(run.source_first.0).max(0);
                run.target_first.plus(into).min(boundary)
            }
            None => boundary,
        }
    }

    /// The map without what the source has from `end` on. A visible marker is copied like any record, and no group is to
    /// go on at it: those at the end go on behind it, at the boundary.
    pub fn before(mut self, end: SourceOffset) -> Self {
        self.runs.retain(|run| run.source_first < end);
        if let Some(last) = self.runs.last_mut() {
            last.count = last.count.min(end.0 - last.source_first.0);
        }
        self
    }

    /// The source offset of the record at target offset `offset`; none where that is no copied record.
    pub fn inverse(&self, offset: TargetOffset) -> Option<SourceOffset> {
        let run = self.runs.get(self.runs.partition_point(|run| run.target_end() <= offset))?;
        let into = offset.0.checked_sub(run.target_first.0).filter(|into| *into >= 0)?;
        Some(run.source_first.plus(into))
    }

    /// The first copied record at or after target offset `offset`, on both sides.
    pub fn first_at_or_after_target(&self, offset: TargetOffset) -> Option<(SourceOffset, TargetOffset)> {
        let run = self.runs.get(self.runs.partition_point(|run| run.target_end() <= offset))?;
        let into = offset.0.saturating_sub(run.target_first.0).max(0);
        Some((run.source_first.plus(into), run.target_first.plus(into)))
    }

    /// The target offset of exactly this source record; none where it was not copied.
    pub fn exact(&self, offset: SourceOffset) -> Option<TargetOffset> {
        let run = self.runs.get(self.runs.partition_point(|run| run.source_end() <= offset))?;
        let into = offset.0.checked_sub(run.source_first.0).filter(|into| *into >= 0)?;
        Some(run.target_first.plus(into))
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Every copied record: its offset on the source and on the target.
    pub fn records(&self) -> impl Iterator<Item = (SourceOffset, TargetOffset)> + '_ {
        self.runs.iter().flat_map(|run| (0..run.count).map(|i| (run.source_first.plus(i), run.target_first.plus(i))))
    }

    /// How many records are mapped.
    pub fn record_count(&self) -> i64 {
        self.runs.iter().map(|run| run.count).sum()
    }
}

// ── Chunks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const CHUNK_MAGIC: &[u8; 4] = b"KRMP";
const CHUNK_VERSION: u8 = 1;
/// Each run takes at least one byte for each of its three numbers.
const RUN_BYTES_MIN: usize = 3;

/// Runs as a chunk object: magic, version, number of runs, then per run three varints: source offsets skipped, target
/// offsets skipped, records.
pub fn encode_chunk(runs: &[Run]) -> Result<Bytes, OffsetMapError> {
    if runs.len() > MAP_CHUNK_RUNS_MAX {
        return Err(OffsetMapError::ChunkTooLarge { runs: runs.len() as u64 });
    }
    MapView::new([runs.to_vec()], &[])?;
    let mut bytes = Vec::with_capacity(16 + runs.len() * 8);
    bytes.extend_from_slice(CHUNK_MAGIC);
    bytes.push(CHUNK_VERSION);
    put_varint(&mut bytes, runs.len() as u64);
    let (mut source_end, mut target_end) = (0, 0);
    for run in runs {
        put_varint(&mut bytes, (run.source_first.0 - source_end) as u64);
        put_varint(&mut bytes, (run.target_first.0 - target_end) as u64);
        put_varint(&mut bytes, run.count as u64);
        (source_end, target_end) = (run.source_end().0, run.target_end().0);
    }
    Ok(bytes.into())
}

/// The runs of a chunk object. Whatever the bytes, memory stays within a few times their length.
pub fn decode_chunk(bytes: &[u8]) -> Result<Vec<Run>, OffsetMapError> {
    let broken = |detail| OffsetMapError::NotAChunk { detail };
    let rest = bytes.strip_prefix(CHUNK_MAGIC).ok_or(broken("the first four bytes are not KRMP"))?;
    let (version, mut rest) = rest.split_first().ok_or(broken("it ends before its version"))?;
    if *version != CHUNK_VERSION {
        return Err(broken("it is of a version that this Krossing does not know"));
    }
    let count = take_varint(&mut rest)?;
    if count > MAP_CHUNK_RUNS_MAX as i64 {
        return Err(OffsetMapError::ChunkTooLarge { runs: count as u64 });
    }
    let count = count as usize;
    if count > rest.len() / RUN_BYTES_MIN {
        return Err(broken("it ends before its last run"));
    }
    let mut runs = Vec::with_capacity(count);
    let (mut source_end, mut target_end) = (0i64, 0i64);
    for _ in 0..count {
        let (source_skip, target_skip) = (take_varint(&mut rest)?, take_varint(&mut rest)?);
        let records = take_varint(&mut rest)?;
        let beyond = || broken("an offset is beyond the largest there is");
        let source_first = source_end.checked_add(source_skip).ok_or_else(beyond)?;
        let target_first = target_end.checked_add(target_skip).ok_or_else(beyond)?;
        let run =
            Run { source_first: SourceOffset(source_first), target_first: TargetOffset(target_first), count: records };
        append(&mut runs, run)?;
        (source_end, target_end) = (run.source_end().0, run.target_end().0);
    }
    if rest.is_empty() { Ok(runs) } else { Err(broken("it goes on after its last run")) }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<i64, OffsetMapError> {
    let mut value = 0u64;
    // Nine groups of seven bits are the 63 bits of a non-negative i64.
    for shift in (0..63).step_by(7) {
        let (byte, rest) =
            bytes.split_first().ok_or(OffsetMapError::NotAChunk { detail: "it ends within a number" })?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value as i64);
        }
    }
    Err(OffsetMapError::NotAChunk { detail: "a number is longer than 63 bits" })
}

/// Runs that leave a partition's progress for a chunk object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spill {
    /// The object's content.
    pub bytes: Bytes,
    /// The runs in it; at least one.
    pub moved: Vec<Run>,
    /// What stays in the progress: the last run, which may still grow.
    pub kept: Vec<Run>,
}

/// What must move to a chunk object before a progress with these runs is saved; none while they are few. Store
/// [`Spill::bytes`] first, then save the progress with [`Spill::chunk`] and [`Spill::kept`].
pub fn spill(runs: &[Run]) -> Result<Option<Spill>, OffsetMapError> {
    if runs.len() <= PROGRESS_RUNS_MAX {
        return Ok(None);
    }
    let (moved, kept) = runs.split_at((runs.len() - 1).min(MAP_CHUNK_RUNS_MAX));
    Ok(Some(Spill { bytes: encode_chunk(moved)?, moved: moved.to_vec(), kept: kept.to_vec() }))
}

/// How many chunks of about the same size become one.
const FOLD: usize = 4;

/// The chunks to make one of, so that their number stays small: the last four, once they are of about the same size.
/// Each run is written again a few times at most, and a map of ten million runs has about 150 chunks.
pub fn chunks_to_fold(chunks: &[MapChunk]) -> Option<Range<usize>> {
    let last = chunks.len().checked_sub(FOLD)?..chunks.len();
    // Sizes 256, 1,024, 4,096 …: runs that a spill or a roll-back made a little fewer count as the same size.
    let size = |chunk: &MapChunk| (chunk.runs * 4 / 3 / PROGRESS_RUNS_MAX as u64).max(1).ilog(FOLD as u64);
    let same = chunks[last.clone()].windows(2).all(|pair| size(&pair[0]) == size(&pair[1]));
    let runs: u64 = chunks[last.clone()].iter().map(|chunk| chunk.runs).sum();
    (same && runs <= MAP_CHUNK_RUNS_MAX as u64).then_some(last)
}

/// The decoded runs of [`chunks_to_fold`], in order, as one chunk: store [`Spill::bytes`] under a new key, then put
/// [`Spill::chunk`] in the place of those chunks. None where they have no runs.
pub fn fold(chunks: Vec<Vec<Run>>) -> Result<Option<Spill>, OffsetMapError> {
    let moved = MapView::new(chunks, &[])?.runs;
    if moved.is_empty() {
        return Ok(None);
    }
    Ok(Some(Spill { bytes: encode_chunk(&moved)?, moved, kept: Vec::new() }))
}

impl Spill {
    /// The chunk's line in the progress, once its content is stored under `key`.
    pub fn chunk(&self, key: String) -> MapChunk {
        // Both ways to make a spill leave at least one run in it.
        let (first, last) = (self.moved[0], self.moved[self.moved.len() - 1]);
        MapChunk {
            key,
            source_first: first.source_first,
            source_end: last.source_end(),
            target_first: first.target_first,
            target_end: last.target_end(),
            records: self.moved.iter().map(|run| run.count).sum(),
            runs: self.moved.len() as u64,
            sha256: sha256_hex(&self.bytes),
        }
    }
}

/// The SHA-256 of some bytes, in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

// ── The manifest ───────────────────────────────────────────────────────────────────────────────────────────────────

/// `offset-map.json`: the ranges of every partition, and where their runs are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this format; 1.
    pub version: u32,
    /// The migration.
    pub migration_id: MigrationId,
    /// Its partitions, sorted.
    pub partitions: Vec<PartitionMap>,
}

/// One partition in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionMap {
    /// The partition.
    pub partition: TopicPartition,
    /// First and last records on both sides; none where nothing was copied.
    pub range: Option<MapRange>,
    /// The target boundary, once the cutover has set it.
    pub boundary: Option<TargetOffset>,
    /// How many records are mapped.
    pub records: i64,
    /// Chunk objects with the older runs.
    pub chunks: Vec<MapChunk>,
    /// The newest runs.
    pub newest: Vec<Run>,
    /// Lost before they were read.
    pub gaps: Vec<Gap>,
}

/// First and last mapped record on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRange {
    /// Source offset of the first.
    pub source_first: SourceOffset,
    /// Source offset of the last.
    pub source_last: SourceOffset,
    /// Target offset of the first.
    pub target_first: TargetOffset,
    /// Target offset of the last.
    pub target_last: TargetOffset,
}

/// The manifest's version.
pub const MANIFEST_VERSION: u32 = 1;

impl PartitionMap {
    /// One partition's line of the manifest.
    pub fn new(
        partition: TopicPartition,
        chunks: Vec<MapChunk>,
        newest: Vec<Run>,
        gaps: Vec<Gap>,
        boundary: Option<TargetOffset>,
    ) -> Self {
        let chunk_ends = |c: &MapChunk| (c.source_first, c.source_end, c.target_first, c.target_end);
        let run_ends = |r: &Run| (r.source_first, r.source_end(), r.target_first, r.target_end());
        let first = chunks.first().map(chunk_ends).or(newest.first().map(run_ends));
        let last = newest.last().map(run_ends).or(chunks.last().map(chunk_ends));
        let range = first.zip(last).map(|((source_first, _, target_first, _), (_, source_end, _, target_end))| {
            MapRange { source_first, source_last: source_end.plus(-1), target_first, target_last: target_end.plus(-1) }
        });
        let records = chunks.iter().map(|c| c.records).sum::<i64>() + newest.iter().map(|run| run.count).sum::<i64>();
        Self { partition, range, boundary, records, chunks, newest, gaps }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use proptest::prelude::*;

    use super::*;

    /// A log as it happens: what stands at each source offset, and where a fence of ours took a target offset.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Slot {
        /// A record that is copied.
        Record,
        /// A marker, aborted data, or a compacted record: an offset without a record to copy.
        Nothing,
        /// A record, before which a control batch of ours landed on the target.
        RecordAfterFence,
    }

    /// The model: per source offset its record's target offset, and the map made of the same history, record by record.
    struct Model {
        head: i64,
        target_of: Vec<Option<i64>>,
        runs: Vec<Run>,
        target_end: i64,
    }

    fn model(head: i64, slots: &[Slot]) -> Model {
        let (mut runs, mut target, mut target_of) = (Vec::new(), 0, Vec::new());
        for (source, slot) in (head..).zip(slots) {
            if *slot == Slot::RecordAfterFence {
                target += 1;
            }
            if *slot == Slot::Nothing {
                target_of.push(None);
                continue;
            }
            append(&mut runs, run(source, target, 1)).unwrap();
            target_of.push(Some(target));
            target += 1;
        }
        Model { head, target_of, runs, target_end: target }
    }

    fn run(source: i64, target: i64, count: i64) -> Run {
        Run { source_first: SourceOffset(source), target_first: TargetOffset(target), count }
    }

    fn slots() -> impl Strategy<Value = Vec<Slot>> {
        prop::collection::vec(
            prop_oneof![8 => Just(Slot::Record), 3 => Just(Slot::Nothing), 1 => Just(Slot::RecordAfterFence)],
            0..200,
        )
    }

    proptest! {
        #[test]
        fn the_map_is_monotone_and_merged(head in 0i64..1000, slots in slots()) {
            let runs = model(head, &slots).runs;
            for pair in runs.windows(2) {
                prop_assert!(pair[0].source_end() <= pair[1].source_first);
                prop_assert!(pair[0].target_end() <= pair[1].target_first);
                prop_assert!(pair[0].source_end() != pair[1].source_first || pair[0].target_end() != pair[1].target_first);
            }
        }

        #[test]
        fn translation_is_exact_against_a_model_of_single_records(
            head in 0i64..1000, slots in slots(), closing in 0i64..3, cut in prop::bool::ANY
        ) {
            let model = model(head, &slots);
            // A boundary inside the copied range stands for a rolled-back target: still never exceeded.
            let boundary = if cut { model.target_end / 2 } else { model.target_end + closing };
            let view = MapView::new([], &model.runs).unwrap();
            for committed in (head - 5).max(0)..head + slots.len() as i64 + 5 {
                let from = (committed - head).max(0) as usize;
                let first = model.target_of.iter().skip(from).flatten().next().copied();
                let expected = first.map_or(boundary, |target| target.min(boundary));
                prop_assert_eq!(view.translate(SourceOffset(committed), TargetOffset(boundary)), TargetOffset(expected));
            }
        }

        #[test]
        fn the_inverse_finds_each_copied_record_and_nothing_else(head in 0i64..1000, slots in slots()) {
            let model = model(head, &slots);
            let view = MapView::new([], &model.runs).unwrap();
            for target in 0..model.target_end + 3 {
                let source = model.target_of.iter().position(|t| *t == Some(target));
                let expected = source.map(|index| SourceOffset(model.head + index as i64));
                prop_assert_eq!(view.inverse(TargetOffset(target)), expected);
                if let Some(source) = expected {
                    prop_assert_eq!(view.exact(source), Some(TargetOffset(target)));
                }
                let next = view.records().find(|(_, t)| t.0 >= target);
                prop_assert_eq!(view.first_at_or_after_target(TargetOffset(target)), next);
            }
            prop_assert_eq!(view.records().count() as i64, view.record_count());
        }

        #[test]
        fn chunks_come_back_as_they_were_stored(head in 0i64..i64::MAX / 2, slots in slots(), split in 0usize..200) {
            let runs = model(head, &slots).runs;
            prop_assert_eq!(&decode_chunk(&encode_chunk(&runs).unwrap()).unwrap(), &runs);
            let (old, new) = runs.split_at(split.min(runs.len()));
            let chunk = decode_chunk(&encode_chunk(old).unwrap()).unwrap();
            prop_assert_eq!(MapView::new([chunk], new).unwrap(), MapView::new([], &runs).unwrap());
        }

        #[test]
        fn bytes_that_are_no_chunk_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode_chunk(&bytes);
            let mut headed = b"KRMP\x01".to_vec();
            headed.extend(bytes);
            let _ = decode_chunk(&headed);
        }

        #[test]
        fn a_truncated_map_is_the_map_that_was_never_longer(
            head in 0i64..1000, slots in slots(), end in 0i64..200, split in 0usize..100
        ) {
            let whole = model(head, &slots);
            // What the map was when the target's log ended there: the slots whose records lie below it.
            let below = whole.target_of.iter().position(|t| t.is_some_and(|t| t >= end)).unwrap_or(slots.len());
            let shorter = model(head, &slots[..below]);
            let (old, new) = whole.runs.split_at(split.min(whole.runs.len()));
            let mut chunks = Vec::new();
            if !old.is_empty() {
                let bytes = encode_chunk(old).unwrap();
                let spill = Spill { bytes, kept: new.to_vec(), moved: old.to_vec() };
                chunks.push(spill.chunk("0".into()));
            }
            let mut runs = new.to_vec();
            let cut = chunk_to_cut(&chunks, TargetOffset(end)).map(|_| old.to_vec());
            let next = truncate_to(&mut chunks, &mut runs, TargetOffset(end), cut);
            let chunk_runs = if chunks.is_empty() { Vec::new() } else { old.to_vec() };
            let view = MapView::new([chunk_runs], &runs).unwrap();
            prop_assert_eq!(view.runs(), &shorter.runs[..]);
            let gone = (below < slots.len()).then_some(SourceOffset(head + below as i64));
            prop_assert_eq!(next, gone);
        }
    }

    #[test]
    fn runs_that_go_back_overlap_or_are_empty_are_refused() {
        let mut runs = vec![run(10, 5, 5)];
        for bad in [run(14, 10, 1), run(15, 9, 1), run(0, 0, 1)] {
            assert!(matches!(append(&mut runs, bad), Err(OffsetMapError::NotMonotone { .. })), "{bad:?}");
        }
        for bad in [run(20, 20, 0), run(20, 20, -1), run(-1, 20, 1), run(i64::MAX, 20, 1)] {
            assert!(matches!(append(&mut runs, bad), Err(OffsetMapError::NotARun { .. })), "{bad:?}");
        }
        assert_eq!(runs, [run(10, 5, 5)]);
    }

    #[test]
    fn many_runs_leave_the_progress_but_the_growing_one_stays() {
        let mut runs: Vec<Run> = (0..PROGRESS_RUNS_MAX as i64).map(|i| run(i * 2, i, 1)).collect();
        assert_eq!(spill(&runs).unwrap(), None);
        runs.push(run(9_000, 8_000, 1));
        let spill = spill(&runs).unwrap().unwrap();
        assert_eq!(spill.kept, [run(9_000, 8_000, 1)]);
        let chunk = spill.chunk("map/0".into());
        assert_eq!((chunk.source_first.0, chunk.source_end.0, chunk.records), (0, 511, 256));
        assert_eq!(chunk.sha256, sha256_hex(&spill.bytes));
        assert_eq!(place_of_source(std::slice::from_ref(&chunk), SourceOffset(510)), Place::Chunk(0));
        assert_eq!(place_of_source(std::slice::from_ref(&chunk), SourceOffset(511)), Place::Newest);
        assert_eq!(place_of_target(&[chunk], TargetOffset(256)), Place::Newest);
    }

    #[test]
    fn a_map_of_many_runs_has_few_chunks_and_is_still_the_same_map() {
        let (mut chunks, mut contents, mut runs) = (Vec::<MapChunk>::new(), Vec::<Bytes>::new(), Vec::new());
        let (mut most, mut bytes_written) = (0, 0);
        const RUNS: i64 = 300_000;
        for i in 0..RUNS {
            append(&mut runs, run(i * 2, i, 1)).unwrap();
            let Some(spilled) = spill(&runs).unwrap() else { continue };
            runs = spilled.kept.clone();
            chunks.push(spilled.chunk(String::new()));
            contents.push(spilled.bytes);
            while let Some(range) = chunks_to_fold(&chunks) {
                let decoded = contents[range.clone()].iter().map(|c| decode_chunk(c).unwrap()).collect();
                let folded = fold(decoded).unwrap().unwrap();
                bytes_written += folded.bytes.len();
                chunks.splice(range.clone(), [folded.chunk(String::new())]);
                contents.splice(range, [folded.bytes]);
            }
            most = most.max(chunks.len());
        }
        assert!(most <= 5 * 3 + RUNS as usize / MAP_CHUNK_RUNS_MAX + 1, "{most} chunks");
        assert!(bytes_written < 5 * 3 * RUNS as usize, "{bytes_written} bytes");
        let view = MapView::new(contents.iter().map(|c| decode_chunk(c).unwrap()), &runs).unwrap();
        assert_eq!(view.record_count(), RUNS);
        assert_eq!(view.inverse(TargetOffset(RUNS - 1)), Some(SourceOffset((RUNS - 1) * 2)));
    }

    #[test]
    fn the_manifest_gives_the_ranges_on_both_sides() {
        let line =
            PartitionMap::new(TopicPartition::new("a", 0), vec![], vec![run(7, 1, 2), run(12, 3, 4)], vec![], None);
        let range = line.range.unwrap();
        assert_eq!(
            (range.source_first.0, range.source_last.0, range.target_first.0, range.target_last.0),
            (7, 15, 1, 6)
        );
        assert_eq!(line.records, 6);
        assert_eq!(PartitionMap::new(TopicPartition::new("a", 1), vec![], vec![], vec![], None).range, None);
    }
}
