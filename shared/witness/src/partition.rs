//! Reading one partition without a group, by librdkafka's "legacy simple consumer". The only unsafe code of Krossing.
//!
//! Why: the assign() that rdkafka wraps needs a `group.id`, and with any group.id librdkafka looks for a coordinator,
//! at which brokers create `__consumer_offsets`: the source would be changed by being checked. The older calls need no
//! group, run the same fetcher (isolation, CRC, end-of-partition events), and are not deprecated.
//!
//! Invariants: a topic handle lives as long as its [`Partition`], which borrows the client; messages are copied and
//! destroyed before `next` returns, so that no pointer leaves this module. Events that a former reader of the same
//! partition left behind are dropped by librdkafka itself (it stamps each with a version, raised by start and stop).
#![allow(unsafe_code, reason = "rdkafka has no safe wrapper for consumption without a group")]

use std::{ffi::CStr, ffi::CString, marker::PhantomData, ptr, slice, time::Duration};

use bytes::Bytes;
use krossing_core::{Offset, TopicPartition, ports::VisibleRecord};
use rdkafka::{
    bindings::{
        rd_kafka_consume, rd_kafka_consume_start, rd_kafka_consume_stop, rd_kafka_header_get_all, rd_kafka_headers_t,
        rd_kafka_last_error, rd_kafka_message_destroy, rd_kafka_message_errstr, rd_kafka_message_headers,
        rd_kafka_message_t, rd_kafka_message_timestamp, rd_kafka_resp_err_t, rd_kafka_timestamp_type_t,
        rd_kafka_topic_destroy, rd_kafka_topic_new, rd_kafka_topic_t,
    },
    error::RDKafkaErrorCode,
};

use crate::client::Client;

/// What a partition gives.
pub(crate) enum Event {
    /// A record, committed and not a control record.
    Record(VisibleRecord),
    /// All up to this offset was read: the last stable offset as it was.
    End(Offset),
    /// Something went wrong; librdkafka goes on by itself where it can.
    Trouble(RDKafkaErrorCode, String),
}

/// A partition being read. Stops when dropped.
pub(crate) struct Partition<'client> {
    topic: *mut rd_kafka_topic_t,
    partition: i32,
    client: PhantomData<&'client Client>,
}

impl<'client> Partition<'client> {
    /// Begins to read at `offset`.
    pub(crate) fn start(
        client: &'client Client,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<Self, RDKafkaErrorCode> {
        let name = CString::new(partition.topic.as_str()).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
        // SAFETY: the client outlives this value (`'client`); `name` lives through the call, which copies it; no
        // topic configuration is handed over.
        let topic = unsafe { rd_kafka_topic_new(client.native(), name.as_ptr(), ptr::null_mut()) };
        if topic.is_null() {
            return Err(last_error());
        }
        // From here on `drop` destroys the topic handle.
        let reading = Self { topic, partition: partition.partition.0, client: PhantomData };
        // SAFETY: the handle is valid; offset and partition are checked by the call.
        match unsafe { rd_kafka_consume_start(reading.topic, reading.partition, offset) } {
            0 => Ok(reading),
            _ => Err(last_error()),
        }
    }

    /// The next event, waited for at most so long.
    pub(crate) fn next(&mut self, patience: Duration) -> Option<Event> {
        let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the handle is valid; the answer is null or a message that is ours to destroy.
        let message = unsafe { rd_kafka_consume(self.topic, self.partition, millis) };
        if message.is_null() {
            return match last_error() {
                RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::NoError => None,
                code => Some(Event::Trouble(code, code.to_string())),
            };
        }
        // SAFETY: not null, and destroyed only below, after all of it was copied.
        let event = unsafe { read(&*message) };
        // SAFETY: ours, once.
        unsafe { rd_kafka_message_destroy(message) };
        Some(event)
    }
}

impl Drop for Partition<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is valid until the second call. Stopping a partition that was never started is refused
        // by librdkafka without harm; stopping waits for its own main thread, not for a broker.
        unsafe {
            rd_kafka_consume_stop(self.topic, self.partition);
            rd_kafka_topic_destroy(self.topic);
        }
    }
}

fn last_error() -> RDKafkaErrorCode {
    // SAFETY: reads a thread-local number.
    unsafe { rd_kafka_last_error() }.into()
}

/// # Safety
/// `message` is one that librdkafka gave and that has not been destroyed.
unsafe fn read(message: &rd_kafka_message_t) -> Event {
    match message.err {
        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {}
        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => return Event::End(message.offset),
        err => {
            // SAFETY: a message with an error has a text, valid as long as the message.
            let text = unsafe { CStr::from_ptr(rd_kafka_message_errstr(message)) };
            return Event::Trouble(err.into(), text.to_string_lossy().into_owned());
        }
    }
    let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the message is valid, `kind` is ours; answers -1 where there is none.
    let timestamp_ms = unsafe { rd_kafka_message_timestamp(message, &mut kind) };
    // SAFETY: pointer and length of one field belong together and are valid as long as the message.
    let (key, value, headers) = unsafe {
        (copy(message.key.cast(), message.key_len), copy(message.payload.cast(), message.len), read_headers(message))
    };
    Event::Record(VisibleRecord { offset: message.offset, timestamp_ms, key, value, headers })
}

/// # Safety
/// As [`read`].
unsafe fn read_headers(message: &rd_kafka_message_t) -> Vec<(Bytes, Option<Bytes>)> {
    let mut list: *mut rd_kafka_headers_t = ptr::null_mut();
    // SAFETY: the message is valid; the list stays the message's own. A message without headers is refused.
    let found = unsafe { rd_kafka_message_headers(message, &mut list) };
    if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Vec::new();
    }
    let mut headers = Vec::new();
    loop {
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list is valid as long as the message; an index behind its end is refused.
        let found = unsafe { rd_kafka_header_get_all(list, headers.len(), &mut name, &mut value, &mut length) };
        if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return headers;
        }
        // SAFETY: a found header has a name that ends in NUL, and a value of that length or null.
        let header = unsafe { (Bytes::copy_from_slice(CStr::from_ptr(name).to_bytes()), copy(value.cast(), length)) };
        headers.push(header);
    }
}

/// # Safety
/// `data` is null or points to `length` bytes.
unsafe fn copy(data: *const u8, length: usize) -> Option<Bytes> {
    // SAFETY: not null, and of that length by the caller's word.
    (!data.is_null()).then(|| Bytes::copy_from_slice(unsafe { slice::from_raw_parts(data, length) }))
}
