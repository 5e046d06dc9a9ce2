//! From the source's batches to batches that a target accepts, holding the same records.
//!
//! A target refuses batches with gaps, and stores transactional and log-append-time batches as something else. What is
//! dense, of no transaction, in create time and not small is *passed*: its records are never looked at. Small neighbours
//! are *packed* into one batch, which saves the target's broker six times the CPU; everything else is *rewritten*, record
//! by record. Packing and rewriting splice: a record's body is copied as it is, only its deltas are written anew.
//!
//! A single small batch with nothing to pack it with is passed after all: that is cheaper, and changes nothing.
//!
//! Invariants: records come out in the order they went in, each once, with their timestamps; every batch made here is
//! dense from 0 and, unless it was passed or holds one record, at most `batch_bytes_max` before compression. Memory: the
//! batch being made, one record, and what has been finished.
//!
//! Does not: decide what is data (see [`super::AbortFilter`]). After an error it must be dropped: part of a batch may be
//! in it.

use bytes::Bytes;

use super::{
    Codec, RawBatch, RawRecord, RawRecords, RecordError, RecordProblem, TimestampType,
    batch::HEADER_BYTES,
    build::{HeaderFields, put_record, record_size},
    codec,
};
use crate::{
    limits,
    progress::SourceRun,
    types::{LeaderEpoch, Producer, SourceOffset},
};

/// Bounds of repacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepackLimits {
    /// Bytes of a batch that is made, before compression; a larger record gets a batch of its own.
    pub batch_bytes_max: usize,
    /// Compressed batches smaller than this are packed.
    pub pack_below_compressed: usize,
    /// Batches that are not compressed and smaller than this are packed.
    pub pack_below_plain: usize,
    /// What one source batch may decompress to.
    pub uncompressed_bytes_max: usize,
}

impl Default for RepackLimits {
    fn default() -> Self {
        Self {
            batch_bytes_max: limits::PACKED_BATCH_BYTES_MAX,
            pack_below_compressed: limits::PACK_BELOW_COMPRESSED_BYTES,
            pack_below_plain: limits::PACK_BELOW_PLAIN_BYTES,
            uncompressed_bytes_max: limits::BATCH_UNCOMPRESSED_BYTES_MAX,
        }
    }
}

/// Makes batches for a target from the data batches of one source partition.
#[derive(Debug)]
pub struct Repacker {
    limits: RepackLimits,
    open: Option<Open>,
}

/// What is held back for the next batch to join.
#[derive(Debug)]
enum Open {
    /// One small batch that could also be passed.
    Sole(RawBatch),
    /// A batch being made.
    Packing(Packing),
}

impl Repacker {
    /// An empty one.
    pub fn new(limits: RepackLimits) -> Self {
        Self { limits, open: None }
    }

    /// Takes the next data batch of the partition, in offset order; records before `from` are left out. Gives the
    /// batches that are finished by it.
    pub fn push(&mut self, batch: &RawBatch, from: SourceOffset) -> Result<Vec<OutBatch>, RecordError> {
        let header = &batch.header;
        let mut done = Vec::new();
        if header.is_control() {
            return Err(batch.error(RecordProblem::ControlAsData));
        }
        if header.records_count == 0 || header.last_offset() < from.0 {
            return Ok(done);
        }
        if !may_pass(batch, from) {
            self.splice(batch, from, Passage::Rewritten, &mut done)?;
        } else if batch.bytes.len() >= self.pack_below(header.codec) {
            done.extend(self.finish()?);
            done.push(OutBatch::passed(batch));
        } else if self.open.as_ref().is_some_and(|open| open.codec() == header.codec) {
            self.splice(batch, from, Passage::Packed, &mut done)?;
        } else {
            done.extend(self.finish()?);
            self.open = Some(Open::Sole(batch.clone()));
        }
        Ok(done)
    }

    /// Gives what is still being packed.
    pub fn finish(&mut self) -> Result<Option<OutBatch>, RecordError> {
        match self.open.take() {
            None => Ok(None),
            Some(Open::Sole(batch)) => Ok(Some(OutBatch::passed(&batch))),
            Some(Open::Packing(packing)) => packing.finish().map(Some),
        }
    }

    /// Bytes of records held back.
    pub fn open_bytes(&self) -> usize {
        match &self.open {
            None => 0,
            Some(Open::Sole(batch)) => batch.bytes.len(),
            Some(Open::Packing(packing)) => packing.plain.len(),
        }
    }

    /// Runs of records held back.
    pub fn open_runs(&self) -> usize {
        match &self.open {
            None => 0,
            Some(Open::Sole(_)) => 1,
            Some(Open::Packing(packing)) => packing.runs.len(),
        }
    }

    fn pack_below(&self, codec: Codec) -> usize {
        if codec == Codec::None { self.limits.pack_below_plain } else { self.limits.pack_below_compressed }
    }

    /// Appends the records of `batch` to the batch being made, and begins another wherever one is full.
    fn splice(
        &mut self,
        batch: &RawBatch,
        from: SourceOffset,
        passage: Passage,
        done: &mut Vec<OutBatch>,
    ) -> Result<(), RecordError> {
        let codec = batch.header.codec;
        let mut packing = match self.open.take() {
            Some(open) if open.codec() != codec => {
                self.open = Some(open);
                done.extend(self.finish()?);
                None
            }
            Some(Open::Sole(sole)) => {
                let mut packing = None;
                self.splice_into(&mut packing, &sole, SourceOffset(i64::MIN), Passage::Packed, done)?;
                packing
            }
            Some(Open::Packing(packing)) => Some(packing),
            None => None,
        };
        self.splice_into(&mut packing, batch, from, passage, done)?;
        self.open = packing.map(Open::Packing);
        Ok(())
    }

    fn splice_into(
        &self,
        packing: &mut Option<Packing>,
        batch: &RawBatch,
        from: SourceOffset,
        passage: Passage,
        done: &mut Vec<OutBatch>,
    ) -> Result<(), RecordError> {
        let header = &batch.header;
        let mut records = RawRecords::with_bytes_max(batch, self.limits.uncompressed_bytes_max)?;
        let mut copied = false;
        while let Some(record) = records.next_record()? {
            if record.offset < from.0 {
                continue;
            }
            if let Some(full) = packing.take_if(|open| !open.takes(&record, self.limits.batch_bytes_max)) {
                done.push(full.finish()?);
            }
            packing.get_or_insert_with(|| Packing::begin(header.codec, &record)).append(&record, header.leader_epoch);
            copied = true;
        }
        if copied && let Some(open) = packing {
            match passage {
                Passage::Packed => open.packed += 1,
                Passage::Rewritten => open.rewritten += 1,
            }
        }
        Ok(())
    }
}

/// How the records of a batch that is not passed get into another.
#[derive(Debug, Clone, Copy)]
enum Passage {
    Packed,
    Rewritten,
}

/// Whether a target would store exactly these records if it got the batch with another header.
fn may_pass(batch: &RawBatch, from: SourceOffset) -> bool {
    let header = &batch.header;
    header.is_dense()
        && !header.is_transactional()
        && header.timestamp_type() == TimestampType::Create
        && header.base_offset >= from.0
}

impl Open {
    fn codec(&self) -> Codec {
        match self {
            Open::Sole(batch) => batch.header.codec,
            Open::Packing(packing) => packing.codec,
        }
    }
}

/// A batch being made: at least one record is in it.
#[derive(Debug)]
struct Packing {
    codec: Codec,
    plain: Vec<u8>,
    base_timestamp: i64,
    max_timestamp_ms: i64,
    records: i32,
    runs: Vec<SourceRun>,
    packed: u32,
    rewritten: u32,
}

impl Packing {
    fn begin(codec: Codec, first: &RawRecord<'_>) -> Self {
        Self {
            codec,
            plain: Vec::new(),
            base_timestamp: first.timestamp_ms,
            max_timestamp_ms: first.timestamp_ms,
            records: 0,
            runs: Vec::new(),
            packed: 0,
            rewritten: 0,
        }
    }

    /// Whether it has room, and a timestamp delta that does not overflow.
    fn takes(&self, record: &RawRecord<'_>, bytes_max: usize) -> bool {
        record.timestamp_ms.checked_sub(self.base_timestamp).is_some_and(|delta| {
            HEADER_BYTES + self.plain.len() + record_size(delta, self.records, record.body) <= bytes_max
        })
    }

    fn append(&mut self, record: &RawRecord<'_>, epoch: LeaderEpoch) {
        let timestamp_delta = record.timestamp_ms - self.base_timestamp;
        put_record(&mut self.plain, record.attributes, timestamp_delta, self.records, record.body);
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        self.records += 1;
        let offset = SourceOffset(record.offset);
        match self.runs.last_mut() {
            Some(run) if run.source_end() == offset && run.epoch == epoch => run.count += 1,
            _ => self.runs.push(SourceRun { source_first: offset, count: 1, epoch }),
        }
    }

    fn finish(self) -> Result<OutBatch, RecordError> {
        let mut payload = match self.codec {
            Codec::None => self.plain,
            codec => {
                let mut payload = Vec::new();
                codec::compress(codec, &self.plain, &mut payload).map_err(|e| RecordError {
                    offset: self.runs[0].source_first.0,
                    problem: RecordProblem::Compress { codec, detail: e.to_string() },
                })?;
                payload
            }
        };
        // It may wait long for its turn, and is counted by its length.
        payload.shrink_to_fit();
        Ok(OutBatch {
            source_end: self.runs[self.runs.len() - 1].source_end(),
            runs: self.runs,
            records: self.records as u32,
            max_timestamp_ms: self.max_timestamp_ms,
            passed: 0,
            packed: self.packed,
            rewritten: self.rewritten,
            codec: self.codec,
            base_timestamp: self.base_timestamp,
            payload: payload.into(),
        })
    }
}

/// A batch for the target, complete but for its producer and sequence. One that was passed still holds the Fetch answer
/// that it lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutBatch {
    /// The source offsets of its records, in order; merged while consecutive and of one leader epoch.
    pub runs: Vec<SourceRun>,
    /// How many records.
    pub records: u32,
    /// The largest timestamp; -1 where no record has one.
    pub max_timestamp_ms: i64,
    /// The source offset after its last record.
    pub source_end: SourceOffset,
    /// Source batches that ended in it and were passed as they were.
    pub passed: u32,
    /// Source batches that ended in it and were packed.
    pub packed: u32,
    /// Source batches that ended in it and were rewritten.
    pub rewritten: u32,
    codec: Codec,
    base_timestamp: i64,
    payload: Bytes,
}

impl OutBatch {
    fn passed(batch: &RawBatch) -> Self {
        let header = &batch.header;
        let run = SourceRun {
            source_first: SourceOffset(header.base_offset),
            count: i64::from(header.records_count),
            epoch: header.leader_epoch,
        };
        Self {
            runs: vec![run],
            records: header.records_count as u32,
            max_timestamp_ms: header.max_timestamp,
            source_end: run.source_end(),
            passed: 1,
            packed: 0,
            rewritten: 0,
            codec: header.codec,
            base_timestamp: header.base_timestamp,
            payload: batch.payload(),
        }
    }

    /// Bytes of the sealed batch.
    pub fn size(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// The batch as `producer` sends it, its first record with sequence number `base_sequence`.
    pub fn seal(&self, producer: Producer, base_sequence: i32) -> Bytes {
        let fields = HeaderFields {
            base_offset: 0,
            // -1: the target's leader sets it.
            leader_epoch: LeaderEpoch(-1),
            // The codec and nothing else: no transaction, create time, no delete horizon.
            attributes: self.codec.bits(),
            last_offset_delta: self.records as i32 - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp_ms,
            producer,
            base_sequence,
            records_count: self.records as i32,
        };
        fields.seal(&self.payload)
    }
}

/// The sequence number after a batch of `records` records that began with `sequence`: after the largest comes 0.
pub fn next_sequence(sequence: i32, records: u32) -> i32 {
    ((i64::from(sequence) + i64::from(records)) & i64::from(i32::MAX)) as i32
}
