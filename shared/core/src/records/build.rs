//! Batches from records: what a producer or a broker would have written. For fakes and tests, and for the few records
//! that Krossing writes of its own.
//!
//! Does not: split, or refuse what a broker would; a test may want just that.

use bytes::{BufMut, Bytes};

use super::{
    Codec, ControlType, Record, RecordError, RecordProblem,
    batch::{
        CHECKED_FROM, CONTROL_BIT, DELETE_HORIZON_BIT, HEADER_BYTES, LOG_APPEND_BIT, MAGIC, PREFIX_BYTES,
        TRANSACTIONAL_BIT,
    },
    codec, varint,
};
use crate::types::{LeaderEpoch, Offset, Producer};

/// A writer without a producer id.
pub(super) const NO_PRODUCER: Producer = Producer { id: -1, epoch: -1 };

/// The fields of a header that are not the same in all batches.
pub(super) struct HeaderFields {
    pub(super) base_offset: Offset,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) attributes: i16,
    pub(super) last_offset_delta: i32,
    pub(super) base_timestamp: i64,
    pub(super) max_timestamp: i64,
    pub(super) producer: Producer,
    pub(super) base_sequence: i32,
    pub(super) records_count: i32,
}

impl HeaderFields {
    /// The whole batch: these fields before `payload`, with length and checksum.
    pub(super) fn seal(&self, payload: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
        out.put_i64(self.base_offset);
        out.put_i32((HEADER_BYTES - PREFIX_BYTES + payload.len()) as i32);
        out.put_i32(self.leader_epoch.0);
        out.put_i8(MAGIC);
        out.put_u32(0);
        out.put_i16(self.attributes);
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.base_timestamp);
        out.put_i64(self.max_timestamp);
        out.put_i64(self.producer.id);
        out.put_i16(self.producer.epoch);
        out.put_i32(self.base_sequence);
        out.put_i32(self.records_count);
        out.put_slice(payload);
        let crc = crc32c::crc32c(&out[CHECKED_FROM..]);
        out[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&crc.to_be_bytes());
        out.into()
    }
}

/// A batch to be: set what differs from a plain one, then [`BatchBuilder::build`].
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    /// The offset that deltas count from; no record may lie before it.
    pub base_offset: Offset,
    /// The last offset covered, where that is not the last record's (compaction).
    pub last_offset: Option<Offset>,
    /// Leader epoch of the append.
    pub leader_epoch: LeaderEpoch,
    /// How it is compressed.
    pub codec: Codec,
    /// The broker's time of the append, where the topic has log-append time.
    pub log_append_time_ms: Option<i64>,
    /// The time that compaction stores, where it has.
    pub delete_horizon_ms: Option<i64>,
    /// Who writes it.
    pub producer: Producer,
    /// Sequence number of the first record.
    pub base_sequence: i32,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
    /// Whether it is a control batch.
    pub control: bool,
    /// Its records, with their own offsets.
    pub records: Vec<Record>,
}

impl BatchBuilder {
    /// A plain batch: not compressed, no producer id, create time.
    pub fn new(base_offset: Offset) -> Self {
        Self {
            base_offset,
            last_offset: None,
            leader_epoch: LeaderEpoch(0),
            codec: Codec::None,
            log_append_time_ms: None,
            delete_horizon_ms: None,
            producer: NO_PRODUCER,
            base_sequence: -1,
            transactional: false,
            control: false,
            records: Vec::new(),
        }
    }

    /// The batch.
    ///
    /// # Errors
    /// Where a record's offset does not lie in the batch, or the compressor fails.
    pub fn build(&self) -> Result<Bytes, RecordError> {
        let error = |problem| RecordError { offset: self.base_offset, problem };
        let first_timestamp = self.records.first().map_or(-1, |r| r.timestamp_ms);
        let base_timestamp = self.delete_horizon_ms.unwrap_or(first_timestamp);
        let last_offset = self.last_offset.or(self.records.last().map(|r| r.offset)).unwrap_or(self.base_offset);
        let delta = |offset: Offset| offset.checked_sub(self.base_offset).and_then(|d| i32::try_from(d).ok());
        let mut plain = Vec::new();
        for (index, record) in self.records.iter().enumerate() {
            let offset_delta = delta(record.offset).filter(|d| *d >= 0).ok_or_else(|| {
                let detail = format!("offset {} in a batch from {}", record.offset, self.base_offset);
                error(RecordProblem::Record { index: index as u32, detail })
            })?;
            put_record(&mut plain, 0, record.timestamp_ms.wrapping_sub(base_timestamp), offset_delta, &body(record));
        }
        let mut payload = Vec::new();
        codec::compress(self.codec, &plain, &mut payload)
            .map_err(|e| error(RecordProblem::Compress { codec: self.codec, detail: e.to_string() }))?;
        let last_offset_delta = delta(last_offset).filter(|d| *d >= 0).ok_or_else(|| {
            error(RecordProblem::Header { detail: format!("last offset {last_offset} from {}", self.base_offset) })
        })?;
        let bit = |set: bool, bit: i16| if set { bit } else { 0 };
        let fields = HeaderFields {
            base_offset: self.base_offset,
            leader_epoch: self.leader_epoch,
            attributes: self.codec.bits()
                | bit(self.log_append_time_ms.is_some(), LOG_APPEND_BIT)
                | bit(self.transactional, TRANSACTIONAL_BIT)
                | bit(self.control, CONTROL_BIT)
                | bit(self.delete_horizon_ms.is_some(), DELETE_HORIZON_BIT),
            last_offset_delta,
            base_timestamp,
            max_timestamp: self
                .log_append_time_ms
                .unwrap_or_else(|| self.records.iter().map(|r| r.timestamp_ms).max().unwrap_or(-1)),
            producer: self.producer,
            base_sequence: self.base_sequence,
            records_count: self.records.len() as i32,
        };
        Ok(fields.seal(&payload))
    }
}

/// The marker that ends a transaction: what a broker appends to each of its partitions.
pub fn control_batch(
    producer: Producer,
    end: ControlType,
    coordinator_epoch: i32,
    offset: Offset,
    leader_epoch: LeaderEpoch,
    timestamp_ms: i64,
) -> Bytes {
    let number: i16 = match end {
        ControlType::Abort => 0,
        ControlType::Commit => 1,
        ControlType::Other(number) => number,
    };
    let mut key = Vec::new();
    key.put_i16(0);
    key.put_i16(number);
    let mut value = Vec::new();
    value.put_i16(0);
    value.put_i32(coordinator_epoch);
    let record = Record { offset, timestamp_ms, key: Some(key.into()), value: Some(value.into()), headers: Vec::new() };
    let builder = BatchBuilder {
        leader_epoch,
        producer,
        transactional: true,
        control: true,
        records: vec![record],
        ..BatchBuilder::new(offset)
    };
    builder.build().expect("one record at the batch's own offset, not compressed")
}

/// Appends a record: its length, attributes, deltas, and `body` as it is.
#[inline]
pub(super) fn put_record(out: &mut Vec<u8>, attributes: u8, timestamp_delta: i64, offset_delta: i32, body: &[u8]) {
    let offset_delta = i64::from(offset_delta);
    let length = 1 + varint::size(timestamp_delta) + varint::size(offset_delta) + body.len();
    varint::put(out, length as i64);
    out.push(attributes);
    varint::put(out, timestamp_delta);
    varint::put(out, offset_delta);
    out.extend_from_slice(body);
}

/// How many bytes [`put_record`] appends.
#[inline]
pub(super) fn record_size(timestamp_delta: i64, offset_delta: i32, body: &[u8]) -> usize {
    let length = 1 + varint::size(timestamp_delta) + varint::size(i64::from(offset_delta)) + body.len();
    varint::size(length as i64) + length
}

fn body(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    put_nullable(&mut out, record.key.as_ref());
    put_nullable(&mut out, record.value.as_ref());
    varint::put(&mut out, record.headers.len() as i64);
    for (key, value) in &record.headers {
        put_nullable(&mut out, Some(key));
        put_nullable(&mut out, value.as_ref());
    }
    out
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&Bytes>) {
    varint::put(out, bytes.map_or(-1, |b| b.len() as i64));
    out.extend_from_slice(bytes.map_or(&[], |b| b));
}
