//! A record batch as it lies in a log: its header, read, and its bytes, whole.
//!
//! Layout: <https://kafka.apache.org/documentation/#recordbatch>. The checksum covers everything after itself, so that
//! base offset and leader epoch, which stand before it, are the broker's to set.
//!
//! Invariants: a [`RawBatch`] has a verified checksum, a known codec, offsets that fit an `i64`, and a record count that
//! its offsets have room for. What its records are is not looked at here.

use bytes::Bytes;

use super::{Codec, RecordError, RecordProblem};
use crate::types::{LeaderEpoch, Offset, Producer, SourceOffset};

/// Bytes before the length field ends: base offset and length, which the length does not count.
pub(super) const PREFIX_BYTES: usize = 12;
/// Bytes of a whole header; the records follow.
pub(super) const HEADER_BYTES: usize = 61;
/// Where the bytes begin that the checksum covers.
pub(super) const CHECKED_FROM: usize = 21;
/// The only message format that Kafka 4 takes.
pub(super) const MAGIC: i8 = 2;

const CODEC_BITS: i16 = 0x07;
pub(super) const LOG_APPEND_BIT: i16 = 0x08;
pub(super) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(super) const CONTROL_BIT: i16 = 0x20;
pub(super) const DELETE_HORIZON_BIT: i16 = 0x40;

/// Whose clock the records' timestamps are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's: each record has its own.
    Create,
    /// The broker's: all records have the batch's largest timestamp, whatever they carry.
    LogAppend,
}

/// A batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset that the records' deltas count from. After compaction no record may have it any more.
    pub base_offset: Offset,
    /// Leader epoch under which it was appended.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C over everything behind it.
    pub crc: u32,
    /// The attributes as they are; see the methods.
    pub attributes: i16,
    /// How its records are compressed.
    pub codec: Codec,
    /// Offset of the last record less the base offset, as it was written: compaction does not change it.
    pub last_offset_delta: i32,
    /// What the records' timestamp deltas count from. Where the delete-horizon bit is set it is that horizon.
    pub base_timestamp: i64,
    /// The largest timestamp of its records; -1 where they have none.
    pub max_timestamp: i64,
    /// Who wrote it; id -1 for a writer without one.
    pub producer: Producer,
    /// Sequence number of the first record; -1 without a producer id.
    pub base_sequence: i32,
    /// How many records are in it.
    pub records_count: i32,
}

impl BatchHeader {
    /// Reads the header from a whole batch; the checksum is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let offset = bytes.first_chunk().map_or(-1, |b| i64::from_be_bytes(*b));
        let wrong = |detail: String| RecordError { offset, problem: RecordProblem::Header { detail } };
        if let Some(&magic) = bytes.get(16)
            && magic as i8 != MAGIC
        {
            return Err(RecordError { offset, problem: RecordProblem::Format { magic: magic as i8 } });
        }
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(wrong(format!("it has {} bytes, fewer than a header", bytes.len())));
        };
        let attributes = i16::from_be_bytes(field(head, 21));
        let codec = Codec::from_bits(attributes & CODEC_BITS)
            .ok_or_else(|| wrong(format!("codec {} is not known", attributes & CODEC_BITS)))?;
        let header = Self {
            base_offset: i64::from_be_bytes(field(head, 0)),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(head, 12))),
            crc: u32::from_be_bytes(field(head, 17)),
            attributes,
            codec,
            last_offset_delta: i32::from_be_bytes(field(head, 23)),
            base_timestamp: i64::from_be_bytes(field(head, 27)),
            max_timestamp: i64::from_be_bytes(field(head, 35)),
            producer: Producer { id: i64::from_be_bytes(field(head, 43)), epoch: i16::from_be_bytes(field(head, 51)) },
            base_sequence: i32::from_be_bytes(field(head, 53)),
            records_count: i32::from_be_bytes(field(head, 57)),
        };
        let length = i32::from_be_bytes(field(head, 8));
        if i64::from(length) + PREFIX_BYTES as i64 != bytes.len() as i64 {
            return Err(wrong(format!("length {length} in {} bytes", bytes.len())));
        }
        let delta = header.last_offset_delta;
        if offset < 0 || delta < 0 || offset.checked_add(i64::from(delta) + 1).is_none() {
            return Err(wrong(format!("offsets from {offset} over {delta}")));
        }
        if header.records_count < 0 || i64::from(header.records_count) > i64::from(delta) + 1 {
            return Err(wrong(format!("{} records in {} offsets", header.records_count, i64::from(delta) + 1)));
        }
        Ok(header)
    }

    /// Whether it holds what brokers wrote, above all markers of transactions, and no data.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether it belongs to a transaction, as data or as its marker.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whose clock its timestamps are of.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_BIT != 0 { TimestampType::LogAppend } else { TimestampType::Create }
    }

    /// Whether compaction has stored a time in place of the base timestamp.
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    /// The last offset it covers; after compaction no record may have it any more.
    pub fn last_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// The offset after [`Self::last_offset`], on the source: where reading goes on.
    pub fn source_end(&self) -> SourceOffset {
        SourceOffset(self.last_offset() + 1)
    }

    /// Whether every offset it covers has its record.
    pub fn is_dense(&self) -> bool {
        i64::from(self.last_offset_delta) + 1 == i64::from(self.records_count)
    }
}

fn field<const N: usize>(head: &[u8; HEADER_BYTES], from: usize) -> [u8; N] {
    *head[from..].first_chunk().expect("all fields lie within a header")
}

/// A whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawBatch {
    /// Its header, read.
    pub header: BatchHeader,
    /// All of it, header and records.
    pub bytes: Bytes,
}

impl RawBatch {
    /// Takes exactly one batch, and verifies its checksum.
    pub fn parse(bytes: Bytes) -> Result<Self, RecordError> {
        let header = BatchHeader::parse(&bytes)?;
        let computed = crc32c::crc32c(&bytes[CHECKED_FROM..]);
        if computed != header.crc {
            let problem = RecordProblem::Checksum { written: header.crc, computed };
            return Err(RecordError { offset: header.base_offset, problem });
        }
        Ok(Self { header, bytes })
    }

    /// The records behind the header, compressed as the header says.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    pub(super) fn error(&self, problem: RecordProblem) -> RecordError {
        RecordError { offset: self.header.base_offset, problem }
    }
}

/// The whole batches of what a Fetch answered, in order, without a copy.
///
/// A Fetch cuts its answer at a number of bytes: an incomplete last batch ends the iteration. So does the first error,
/// since what follows cannot be found.
#[derive(Debug, Clone)]
pub struct Batches {
    rest: Bytes,
    whole_bytes: usize,
}

impl Batches {
    /// Over `records` as they were answered.
    pub fn new(records: Bytes) -> Self {
        Self { rest: records, whole_bytes: 0 }
    }

    /// Bytes of the batches given so far: where what is left begins.
    pub fn whole_bytes(&self) -> usize {
        self.whole_bytes
    }

    fn cut(&mut self) -> Result<Option<RawBatch>, RecordError> {
        let rest = &self.rest[..];
        let (Some(offset), Some(length), Some(&magic)) =
            (rest.first_chunk(), rest.get(8..).and_then(|b| b.first_chunk()), rest.get(16))
        else {
            return Ok(None);
        };
        let (offset, length) = (i64::from_be_bytes(*offset), i32::from_be_bytes(*length));
        if magic as i8 != MAGIC {
            return Err(RecordError { offset, problem: RecordProblem::Format { magic: magic as i8 } });
        }
        let whole = usize::try_from(length).map_or(0, |length| length.saturating_add(PREFIX_BYTES));
        if whole < HEADER_BYTES {
            let detail = format!("length {length}, less than a header");
            return Err(RecordError { offset, problem: RecordProblem::Header { detail } });
        }
        if whole > rest.len() {
            return Ok(None);
        }
        let batch = RawBatch::parse(self.rest.split_to(whole))?;
        self.whole_bytes += whole;
        Ok(Some(batch))
    }
}

impl Iterator for Batches {
    type Item = Result<RawBatch, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.cut().transpose();
        if !matches!(batch, Some(Ok(_))) {
            self.rest = Bytes::new();
        }
        batch
    }
}

impl std::iter::FusedIterator for Batches {}
