//! The records of a batch: as raw bytes behind their deltas, for copying, or taken apart, for looking at.
//!
//! A record is its length, attributes, timestamp delta, offset delta, and a body: key, value and headers. Copying changes
//! the deltas and never the body, so that [`RawRecords`] gives the body as one slice of a window over the decompressed
//! stream: nothing is allocated for a record, and the window holds little more than the largest one.
//!
//! Invariants: offsets rise and lie within the batch; there are exactly as many records as the header counts and nothing
//! behind them; a length that is only claimed allocates nothing.
//!
//! Does not: look into the body on the way of a copy. The source's broker has checked it, and the target's will.

use std::io::{self, Read};

use bytes::{Buf, Bytes};

use super::{
    RawBatch, RecordError, RecordProblem, TimestampType,
    codec::{Codec, Decompressor},
    varint,
};
use crate::{limits, types::Offset};

/// A record whose body stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp in milliseconds since 1970, as a consumer is given it; -1 where it has none.
    pub timestamp_ms: i64,
    /// Its own attributes: none is defined so far.
    pub attributes: u8,
    /// Key, value and headers, with their lengths.
    pub body: &'a [u8],
}

/// The records of one batch, one at a time.
pub struct RawRecords {
    batch: RawBatch,
    input: Input,
    index: i32,
    /// The least offset delta that the next record may have.
    delta_min: i64,
}

impl RawRecords {
    /// Over the records of `batch`, which may decompress to [`limits::BATCH_UNCOMPRESSED_BYTES_MAX`].
    pub fn new(batch: &RawBatch) -> Result<Self, RecordError> {
        Self::with_bytes_max(batch, limits::BATCH_UNCOMPRESSED_BYTES_MAX)
    }

    pub(super) fn with_bytes_max(batch: &RawBatch, bytes_max: usize) -> Result<Self, RecordError> {
        let input = match batch.header.codec {
            // Compaction leaves batches without records, whose codec says nothing.
            _ if batch.header.records_count == 0 => Input::Plain { rest: batch.payload(), given: 0 },
            Codec::None => Input::Plain { rest: batch.payload(), given: 0 },
            codec => {
                let stream = Decompressor::new(codec, batch.payload(), bytes_max)
                    .map_err(|e| stream_error(batch, bytes_max, &e))?;
                Input::Stream(Window::new(stream, batch.bytes.len(), bytes_max))
            }
        };
        Ok(Self { batch: batch.clone(), input, index: 0, delta_min: 0 })
    }

    /// The next record; `None` after the last one, when nothing is left behind it.
    pub fn next_record(&mut self) -> Result<Option<RawRecord<'_>>, RecordError> {
        let header = &self.batch.header;
        if self.index == header.records_count {
            return match self.input.is_at_end() {
                Ok(true) => Ok(None),
                Ok(false) => Err(self.invalid("there is more behind the last record".into())),
                Err(e) => Err(self.io_error(&e)),
            };
        }
        let length = match self.input.take_length() {
            Ok(Some(length)) => length,
            Ok(None) => return Err(self.invalid("its length is not valid or cut off".into())),
            Err(e) => return Err(self.io_error(&e)),
        };
        match self.input.fill(length) {
            Ok(true) => {}
            Ok(false) => return Err(self.invalid(format!("{length} bytes long, but the batch ends within it"))),
            Err(e) => return Err(self.io_error(&e)),
        }
        let (batch, index, delta_min) = (&self.batch, self.index, self.delta_min);
        let invalid = |detail: String| batch.error(RecordProblem::Record { index: index as u32, detail });
        let mut rest = self.input.take(length);
        let attributes = rest.try_get_u8().map_err(|_| invalid("it is empty".into()))?;
        let (Some(timestamp_delta), Some(offset_delta)) = (varint::take_i64(&mut rest), varint::take_i32(&mut rest))
        else {
            return Err(invalid("its deltas are not valid".into()));
        };
        if i64::from(offset_delta) < delta_min || offset_delta > header.last_offset_delta {
            return Err(invalid(format!("offset delta {offset_delta} after {}", delta_min - 1)));
        }
        self.index += 1;
        self.delta_min = i64::from(offset_delta) + 1;
        let timestamp_ms = match header.timestamp_type() {
            // Both of Kafka's clients let this sum wrap, and so do their writers the difference.
            TimestampType::Create => header.base_timestamp.wrapping_add(timestamp_delta),
            TimestampType::LogAppend => header.max_timestamp,
        };
        Ok(Some(RawRecord {
            offset: header.base_offset + i64::from(offset_delta),
            timestamp_ms,
            attributes,
            body: rest,
        }))
    }

    fn invalid(&self, detail: String) -> RecordError {
        self.batch.error(RecordProblem::Record { index: self.index as u32, detail })
    }

    fn io_error(&self, error: &io::Error) -> RecordError {
        stream_error(&self.batch, self.input.bytes_max(), error)
    }
}

fn stream_error(batch: &RawBatch, bytes_max: usize, error: &io::Error) -> RecordError {
    batch.error(if error.kind() == io::ErrorKind::FileTooLarge {
        RecordProblem::TooLarge { bytes_max }
    } else {
        RecordProblem::Decompress { codec: batch.header.codec, detail: error.to_string() }
    })
}

/// Where records are read from.
enum Input {
    /// The batch itself: nothing is copied.
    Plain { rest: Bytes, given: usize },
    /// A window over what the batch decompresses to.
    Stream(Window),
}

impl Input {
    /// The length before a record. `None` where it is negative, cut off, or no number.
    fn take_length(&mut self) -> io::Result<Option<usize>> {
        if let Input::Stream(window) = self {
            window.fill(5)?;
        }
        let mut rest = self.available();
        let before = rest.len();
        let length = varint::take_i32(&mut rest).and_then(|length| usize::try_from(length).ok());
        let used = before - rest.len();
        self.skip(used);
        Ok(length)
    }

    /// Whether `bytes` more are there.
    fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        match self {
            Input::Plain { .. } => Ok(bytes <= self.available().len()),
            Input::Stream(window) => window.fill(bytes),
        }
    }

    /// The next `bytes`, which must have been filled.
    fn take(&mut self, bytes: usize) -> &[u8] {
        self.skip(bytes);
        match self {
            Input::Plain { rest, given } => &rest[*given - bytes..*given],
            Input::Stream(window) => &window.buffer[window.start - bytes..window.start],
        }
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(!self.fill(1)?)
    }

    fn available(&self) -> &[u8] {
        match self {
            Input::Plain { rest, given } => &rest[*given..],
            Input::Stream(window) => &window.buffer[window.start..window.end],
        }
    }

    fn skip(&mut self, bytes: usize) {
        match self {
            Input::Plain { given, .. } => *given += bytes,
            Input::Stream(window) => window.start += bytes,
        }
    }

    fn bytes_max(&self) -> usize {
        match self {
            Input::Plain { rest, .. } => rest.len(),
            Input::Stream(window) => window.bytes_max,
        }
    }
}

/// Bytes of the window when it is made, at most: more than nearly all records have.
const WINDOW_BYTES: usize = 64 * 1024;

/// The part of a decompressed stream that is being looked at. Grows to the largest record, and only as its bytes arrive.
struct Window {
    stream: Decompressor,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
    total: usize,
    bytes_max: usize,
}

impl Window {
    fn new(stream: Decompressor, compressed_bytes: usize, bytes_max: usize) -> Self {
        let bytes = (compressed_bytes * 4).clamp(1024, WINDOW_BYTES);
        Self { stream, buffer: vec![0; bytes], start: 0, end: 0, ended: false, total: 0, bytes_max }
    }

    /// Reads on until `bytes` are available; false where the stream ends before.
    fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.end - self.start < bytes {
            if self.ended {
                return Ok(false);
            }
            if self.end == self.buffer.len() {
                if self.start > 0 {
                    self.buffer.copy_within(self.start..self.end, 0);
                    self.end -= self.start;
                    self.start = 0;
                } else {
                    let doubled = self.buffer.len() * 2;
                    self.buffer.resize(doubled, 0);
                }
            }
            let read = self.stream.read(&mut self.buffer[self.end..])?;
            self.ended = read == 0;
            self.end += read;
            self.total += read;
            if self.total > self.bytes_max {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        Ok(true)
    }
}

/// A record, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp in milliseconds since 1970; -1 where it has none.
    pub timestamp_ms: i64,
    /// Its key; none where it is null, which an empty one is not.
    pub key: Option<Bytes>,
    /// Its value; none for a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order, with repetitions. A key need not be text.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

impl RawBatch {
    /// All records of the batch, taken apart. For looking at records, not for copying them.
    pub fn records(&self) -> Result<Vec<Record>, RecordError> {
        let mut raw = RawRecords::new(self)?;
        let mut records = Vec::new();
        while let Some(record) = raw.next_record()? {
            let body = Bytes::copy_from_slice(record.body);
            let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
            let index = records.len() as u32;
            let (key, value, headers) = take_apart(body).ok_or_else(|| {
                self.error(RecordProblem::Record { index, detail: "key, value or headers do not fit it".into() })
            })?;
            records.push(Record { offset, timestamp_ms, key, value, headers });
        }
        Ok(records)
    }
}

type Body = (Option<Bytes>, Option<Bytes>, Vec<(Bytes, Option<Bytes>)>);

fn take_apart(mut body: Bytes) -> Option<Body> {
    let key = take_nullable(&mut body)?;
    let value = take_nullable(&mut body)?;
    let count = usize::try_from(take_number(&mut body)?).ok()?;
    // The count is only a claim so far: nothing is reserved for it.
    let mut headers = Vec::new();
    for _ in 0..count {
        let key = take_nullable(&mut body)??;
        headers.push((key, take_nullable(&mut body)?));
    }
    body.is_empty().then_some((key, value, headers))
}

fn take_nullable(body: &mut Bytes) -> Option<Option<Bytes>> {
    match take_number(body)? {
        ..0 => Some(None),
        length => {
            let length = length as usize;
            (length <= body.len()).then(|| Some(body.split_to(length)))
        }
    }
}

fn take_number(body: &mut Bytes) -> Option<i32> {
    let mut rest = &body[..];
    let number = varint::take_i32(&mut rest)?;
    let used = body.len() - rest.len();
    body.advance(used);
    Some(number)
}

/// What a control batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlType {
    /// The transaction of its producer has been aborted.
    Abort,
    /// The transaction of its producer has been committed.
    Commit,
    /// Something that is no end of a transaction.
    Other(i16),
}

/// What a control batch says; `None` where compaction has left nothing in it.
pub fn control_type(batch: &RawBatch) -> Result<Option<ControlType>, RecordError> {
    let mut records = RawRecords::new(batch)?;
    let Some(record) = records.next_record()? else { return Ok(None) };
    let invalid = || {
        let detail = "a control record's key must be a version and a type".into();
        batch.error(RecordProblem::Record { index: 0, detail })
    };
    let mut key = take_nullable(&mut Bytes::copy_from_slice(record.body)).flatten().ok_or_else(invalid)?;
    let (Ok(_version), Ok(number)) = (key.try_get_i16(), key.try_get_i16()) else { return Err(invalid()) };
    Ok(Some(match number {
        0 => ControlType::Abort,
        1 => ControlType::Commit,
        other => ControlType::Other(other),
    }))
}
