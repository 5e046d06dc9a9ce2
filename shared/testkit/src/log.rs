//! One partition's log as its leader keeps it: batches as bytes, who wrote them, and what is committed.
//!
//! What it knows about brokers is `kafka-facts`, and Kafka's `ProducerStateManager` for sequences. Pure: time is an
//! argument. Does not: recompress, keep segments, or replicate (the high watermark is the log's end).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use krossing_core::{
    BrokerId, KafkaCode, LeaderEpoch, Offset, Producer,
    ports::{AbortedTransaction, EpochEnd, Fetched, Isolation, VisibleRecord},
    records::{
        AbortFilter, BatchBuilder, Batches, Codec, ControlType, RawBatch, Record, TimestampType, Verdict,
        control_batch, control_type,
    },
};

/// Batches of a producer that a partition can tell a repeat of.
const REMEMBERED_BATCHES: usize = 5;

/// `producer.id.expiration.ms`: counted from the largest timestamp of the producer's last batch.
pub(crate) const PRODUCER_EXPIRATION_MS: i64 = 24 * 3600 * 1000;

/// What of a topic's settings matters to an append.
#[derive(Debug, Clone)]
pub(crate) struct AppendRules {
    pub(crate) batch_bytes_max: usize,
    pub(crate) log_append_time: bool,
    pub(crate) before_max_ms: i64,
    pub(crate) after_max_ms: i64,
    pub(crate) compacted: bool,
}

/// What a partition remembers of a producer.
#[derive(Debug, Clone)]
pub(crate) struct ProducerState {
    pub(crate) epoch: i16,
    /// First and last sequence, and base offset, of the last batches.
    recent: VecDeque<(i32, i32, Offset)>,
    pub(crate) last_timestamp_ms: i64,
    pub(crate) open_from: Option<Offset>,
}

/// An aborted transaction, with its marker's offset.
#[derive(Debug, Clone, Copy)]
struct Aborted {
    transaction: AbortedTransaction,
    marker: Offset,
}

/// The log of one partition.
#[derive(Debug, Clone)]
pub(crate) struct PartitionLog {
    pub(crate) leader: BrokerId,
    batches: Vec<RawBatch>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) producers: BTreeMap<i64, ProducerState>,
    aborted: Vec<Aborted>,
    /// Leader epochs, and where each began.
    epochs: Vec<(LeaderEpoch, Offset)>,
    /// Every record that was ever visible, whatever compaction and retention have taken since.
    history: BTreeMap<Offset, (i64, VisibleRecord)>,
}

impl PartitionLog {
    pub(crate) fn new(leader: BrokerId) -> Self {
        Self {
            leader,
            batches: Vec::new(),
            start: 0,
            end: 0,
            producers: BTreeMap::new(),
            aborted: Vec::new(),
            epochs: vec![(LeaderEpoch(0), 0)],
            history: BTreeMap::new(),
        }
    }

    pub(crate) fn epoch(&self) -> LeaderEpoch {
        self.epochs.last().expect("a log has an epoch").0
    }

    pub(crate) fn stable_end(&self) -> Offset {
        self.producers.values().filter_map(|state| state.open_from).min().unwrap_or(self.end)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.batches.iter().map(|batch| batch.bytes.len() as u64).sum()
    }

    // ── Appending ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// What a broker does with a batch of a Produce request.
    pub(crate) fn produce(&mut self, batch: Bytes, rules: &AppendRules, now_ms: i64) -> Result<Offset, KafkaCode> {
        let batch = accepted(batch, rules, now_ms)?;
        let header = batch.header;
        if header.producer.id >= 0
            && let Some(offset) = self.check_sequence(header.producer, header.base_sequence, last_sequence(&batch))?
        {
            return Ok(offset);
        }
        Ok(self.append(batch))
    }

    /// The offset of the batch that this one repeats, if it does.
    fn check_sequence(&self, producer: Producer, first: i32, last: i32) -> Result<Option<Offset>, KafkaCode> {
        // A partition that does not remember the producer takes any sequence.
        let Some(state) = self.producers.get(&producer.id) else { return Ok(None) };
        if producer.epoch < state.epoch {
            return Err(KafkaCode::INVALID_PRODUCER_EPOCH);
        }
        let same_epoch = producer.epoch == state.epoch;
        if same_epoch && let Some(&(_, _, offset)) = state.recent.iter().find(|r| (r.0, r.1) == (first, last)) {
            return Ok(Some(offset));
        }
        let expected = match state.recent.back() {
            Some(&(_, i32::MAX, _)) => 0,
            Some(&(_, last, _)) if same_epoch => last + 1,
            _ => 0,
        };
        if first == expected { Ok(None) } else { Err(KafkaCode::OUT_OF_ORDER_SEQUENCE_NUMBER) }
    }

    /// Appends records as an application's broker would have: `builder` with our offsets and leader epoch.
    pub(crate) fn load(&mut self, mut builder: BatchBuilder) -> Offset {
        builder.base_offset = self.end;
        builder.leader_epoch = self.epoch();
        for (offset, record) in (self.end..).zip(&mut builder.records) {
            record.offset = offset;
        }
        let bytes = builder.build().expect("records at consecutive offsets make a batch");
        self.append(RawBatch::parse(bytes).expect("the builder makes whole batches"))
    }

    fn append(&mut self, batch: RawBatch) -> Offset {
        let base_offset = self.end;
        let batch = placed(&batch, base_offset, self.epoch());
        self.remember(&batch);
        for record in batch.records().expect("an accepted batch can be read") {
            self.history.insert(record.offset, (transaction_of(&batch), visible(&batch, record)));
        }
        self.end = batch.header.last_offset() + 1;
        self.batches.push(batch);
        base_offset
    }

    /// Appends the marker that ends a transaction, or a transaction without records.
    pub(crate) fn mark(&mut self, producer: Producer, end: ControlType, now_ms: i64) {
        if self.producers.get(&producer.id).is_some_and(|state| state.epoch > producer.epoch) {
            return;
        }
        let bytes = control_batch(producer, end, 0, self.end, self.epoch(), now_ms);
        let batch = RawBatch::parse(bytes).expect("the builder makes whole batches");
        self.remember(&batch);
        if end == ControlType::Abort
            && let Some(aborted) = self.aborted.last().filter(|aborted| aborted.marker == self.end)
        {
            let (producer_id, from) = (producer.id, aborted.transaction.first_offset);
            self.history.retain(|&offset, (writer, _)| offset < from || *writer != producer_id);
        }
        self.batches.push(batch);
        self.end += 1;
    }

    /// Brings what is known about producers and transactions up to one more batch.
    fn remember(&mut self, batch: &RawBatch) {
        let header = batch.header;
        let Producer { id, epoch } = header.producer;
        if id < 0 {
            return;
        }
        let state = self.producers.entry(id).or_insert_with(|| ProducerState {
            epoch,
            recent: VecDeque::new(),
            last_timestamp_ms: header.max_timestamp,
            open_from: None,
        });
        if state.epoch != epoch {
            state.epoch = epoch;
            state.recent.clear();
        }
        state.last_timestamp_ms = header.max_timestamp;
        if header.is_control() {
            let opened = state.open_from.take();
            if let (Some(first_offset), Ok(Some(ControlType::Abort))) = (opened, control_type(batch)) {
                let transaction = AbortedTransaction { producer_id: id, first_offset };
                self.aborted.push(Aborted { transaction, marker: header.base_offset });
            }
            return;
        }
        state.recent.push_back((header.base_sequence, last_sequence(batch), header.base_offset));
        if state.recent.len() > REMEMBERED_BATCHES {
            state.recent.pop_front();
        }
        if header.is_transactional() {
            state.open_from.get_or_insert(header.base_offset);
        }
    }

    /// Forgets producers by the timestamps of what they wrote: what brokers do every ten minutes.
    pub(crate) fn forget_producers(&mut self, now_ms: i64) {
        self.producers
            .retain(|_, state| state.open_from.is_some() || now_ms - state.last_timestamp_ms < PRODUCER_EXPIRATION_MS);
    }

    // ── Reading ────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn fetch(
        &self,
        offset: Offset,
        last_epoch: Option<LeaderEpoch>,
        isolation: Isolation,
        bytes_max: usize,
    ) -> Result<Fetched, KafkaCode> {
        let mut fetched = Fetched {
            high_watermark: self.end,
            last_stable_offset: self.stable_end(),
            log_start: self.start,
            aborted: Vec::new(),
            records: Bytes::new(),
            diverging: None,
        };
        if let Some(epoch) = last_epoch {
            let end = self.epoch_end(epoch).ok_or(KafkaCode::OFFSET_OUT_OF_RANGE)?;
            if end.epoch < epoch || end.end < offset {
                fetched.diverging = Some(end);
                return Ok(fetched);
            }
        }
        if !(self.start..=self.end).contains(&offset) {
            return Err(KafkaCode::OFFSET_OUT_OF_RANGE);
        }
        let bound = match isolation {
            Isolation::ReadUncommitted => self.end,
            Isolation::ReadCommitted => self.stable_end(),
        };
        let (records, range_end) = self.read(offset, bound, bytes_max);
        fetched.records = records;
        if isolation == Isolation::ReadCommitted {
            fetched.aborted = self.aborted_between(offset, range_end);
        }
        Ok(fetched)
    }

    /// Whole batches from the one that holds `offset`, the last perhaps cut off, and the offset they reach.
    fn read(&self, offset: Offset, bound: Offset, bytes_max: usize) -> (Bytes, Offset) {
        let mut bytes = Vec::new();
        let mut range_end = offset;
        let wanted = |batch: &&RawBatch| batch.header.last_offset() >= offset && batch.header.base_offset < bound;
        for batch in self.batches.iter().filter(wanted) {
            let room = if bytes.is_empty() { usize::MAX } else { bytes_max.saturating_sub(bytes.len()) };
            bytes.extend_from_slice(&batch.bytes[..room.min(batch.bytes.len())]);
            range_end = batch.header.last_offset() + 1;
            if room <= batch.bytes.len() || bytes.len() >= bytes_max {
                break;
            }
        }
        (bytes.into(), range_end)
    }

    fn aborted_between(&self, from: Offset, to: Offset) -> Vec<AbortedTransaction> {
        let overlaps = |aborted: &&Aborted| aborted.marker >= from && aborted.transaction.first_offset < to;
        self.aborted.iter().filter(overlaps).map(|aborted| aborted.transaction).collect()
    }

    /// As brokers answer OffsetForLeaderEpoch.
    pub(crate) fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        if epoch == self.epoch() {
            return Some(EpochEnd { epoch, end: self.end });
        }
        let next = self.epochs.iter().find(|(later, _)| *later > epoch)?;
        let known = self.epochs.iter().rev().find(|(earlier, _)| *earlier <= epoch);
        Some(EpochEnd { epoch: known.map_or(epoch, |known| known.0), end: next.1 })
    }

    /// What a consumer that reads committed sees.
    pub(crate) fn visible_records(&self) -> Vec<VisibleRecord> {
        let stable_end = self.stable_end();
        let mut filter = AbortFilter::new(self.aborted.iter().map(|aborted| aborted.transaction));
        let mut records = Vec::new();
        for batch in self.batches.iter().filter(|batch| batch.header.base_offset < stable_end) {
            if filter.verdict(batch).expect("a stored batch can be read") == Verdict::Data {
                let read = batch.records().expect("a stored batch can be read");
                records.extend(read.into_iter().map(|record| visible(batch, record)));
            }
        }
        records.retain(|record| record.offset >= self.start);
        records
    }

    /// Every record that was ever visible, also those that compaction or retention have taken since.
    pub(crate) fn ever_visible(&self) -> Vec<VisibleRecord> {
        let stable_end = self.stable_end();
        self.history.range(..stable_end).map(|(_, (_, record))| record.clone()).collect()
    }

    pub(crate) fn batches(&self) -> &[RawBatch] {
        &self.batches
    }

    // ── What happens to logs ───────────────────────────────────────────────────────────────────────────────────────

    /// Another leader, with everything that was replicated.
    pub(crate) fn move_leader(&mut self, leader: BrokerId) {
        self.leader = leader;
        let epoch = LeaderEpoch(self.epoch().0 + 1);
        // An epoch under which nothing was written leaves no trace.
        self.epochs.retain(|(_, from)| *from < self.end);
        self.epochs.push((epoch, self.end));
    }

    /// An unclean election: the new leader has nothing at or after `at` (or the beginning of the batch that holds it).
    pub(crate) fn replace_tail(&mut self, at: Offset, leader: BrokerId) {
        self.batches.retain(|batch| batch.header.last_offset() < at);
        let crossed = self.batches.last().map_or(self.start, |batch| batch.header.last_offset() + 1);
        self.end = crossed.min(at).max(self.start);
        self.history.split_off(&self.end);
        self.load_producers();
        self.move_leader(leader);
    }

    /// A leader whose log was cut knows producers by what the log says about them.
    fn load_producers(&mut self) {
        let kept: Vec<_> = self.aborted.iter().filter(|aborted| aborted.marker < self.end).copied().collect();
        self.producers.clear();
        for batch in self.batches.clone() {
            self.remember(&batch);
        }
        // Compaction takes the beginnings of aborted transactions, not what is known about them.
        self.aborted = kept;
    }

    /// DeleteRecords, or retention.
    pub(crate) fn delete_before(&mut self, offset: Offset) {
        self.start = self.start.max(offset.min(self.end));
        // Epochs that ended before it are forgotten, and the one at it begins there (LeaderEpochFileCache).
        let first = self.epochs.iter().rposition(|(_, began)| *began <= self.start).unwrap_or(0);
        self.epochs.drain(..first);
        self.epochs[0].1 = self.epochs[0].1.max(self.start);
        self.batches.retain(|batch| batch.header.last_offset() >= self.start);
    }

    /// Retention by time: the oldest batches go while their last record is too old.
    pub(crate) fn expire(&mut self, before_ms: i64) {
        let kept = self.batches.iter().find(|batch| batch.header.max_timestamp >= before_ms);
        let offset = kept.map_or(self.end, |batch| batch.header.base_offset);
        self.delete_before(offset.min(self.stable_end()));
    }

    /// The cleaner: of each key the last record stays, aborted data goes, batches keep their offsets and get gaps. The
    /// newest batch is never cleaned. Tombstones go too where asked.
    pub(crate) fn compact(&mut self, tombstones: bool) {
        let Some(newest) = self.batches.last().map(|batch| batch.header.base_offset) else { return };
        let bound = self.stable_end().min(newest);
        let mut latest: BTreeMap<Bytes, Offset> = BTreeMap::new();
        let mut dropped = BTreeSet::new();
        for record in self.visible_records() {
            let key = record.key.clone().expect("a compacted topic has keys");
            if let Some(earlier) = latest.insert(key, record.offset) {
                dropped.insert(earlier);
            }
            if tombstones && record.value.is_none() {
                dropped.insert(record.offset);
            }
        }
        let visible: BTreeSet<_> = self.visible_records().into_iter().map(|record| record.offset).collect();
        let keeps = |offset: &Offset| visible.contains(offset) && !dropped.contains(offset);
        self.batches = std::mem::take(&mut self.batches)
            .into_iter()
            .filter_map(|batch| {
                if batch.header.is_control() || batch.header.base_offset >= bound {
                    Some(batch)
                } else {
                    thinned(batch, keeps)
                }
            })
            .collect();
    }
}

/// The checks of a broker, in its order where it matters; what it changes is changed.
fn accepted(bytes: Bytes, rules: &AppendRules, now_ms: i64) -> Result<RawBatch, KafkaCode> {
    let mut batches = Batches::new(bytes.clone());
    let batch = match batches.next() {
        Some(Ok(batch)) => batch,
        Some(Err(_)) => return Err(KafkaCode::CORRUPT_MESSAGE),
        None => return Err(KafkaCode::INVALID_RECORD),
    };
    let header = batch.header;
    if batches.whole_bytes() != bytes.len() || header.base_offset != 0 || header.is_control() || !header.is_dense() {
        return Err(KafkaCode::INVALID_RECORD);
    }
    if header.is_transactional() {
        return Err(KafkaCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    }
    if bytes.len() > rules.batch_bytes_max {
        return Err(KafkaCode::MESSAGE_TOO_LARGE);
    }
    let records = batch.records().map_err(|_| KafkaCode::CORRUPT_MESSAGE)?;
    let dense = records.iter().map(|record| record.offset).eq(0..i64::from(header.records_count));
    if !dense && header.codec != Codec::None {
        return Err(KafkaCode::UNKNOWN_SERVER_ERROR);
    }
    if rules.compacted && records.iter().any(|record| record.key.is_none()) {
        return Err(KafkaCode::INVALID_RECORD);
    }
    let stamped = header.timestamp_type() == TimestampType::LogAppend;
    if rules.log_append_time {
        return if stamped { Err(KafkaCode::INVALID_TIMESTAMP) } else { Ok(rewritten(&batch, records, Some(now_ms))) };
    }
    // The bit is cleared, and the producer's own timestamps come back.
    let batch = if stamped { without_stamp(&batch) } else { batch };
    for record in batch.records().map_err(|_| KafkaCode::CORRUPT_MESSAGE)? {
        let (age, lead) = (now_ms - record.timestamp_ms, record.timestamp_ms - now_ms);
        if record.timestamp_ms >= 0 && (age > rules.before_max_ms || lead > rules.after_max_ms) {
            return Err(KafkaCode::INVALID_TIMESTAMP);
        }
    }
    Ok(batch)
}

fn builder_of(batch: &RawBatch, records: Vec<Record>) -> BatchBuilder {
    let header = batch.header;
    BatchBuilder {
        last_offset: Some(header.last_offset()),
        leader_epoch: header.leader_epoch,
        codec: header.codec,
        log_append_time_ms: (header.timestamp_type() == TimestampType::LogAppend).then_some(header.max_timestamp),
        producer: header.producer,
        base_sequence: header.base_sequence,
        transactional: header.is_transactional(),
        control: header.is_control(),
        records,
        ..BatchBuilder::new(header.base_offset)
    }
}

fn rewritten(batch: &RawBatch, records: Vec<Record>, log_append_time_ms: Option<i64>) -> RawBatch {
    let builder = BatchBuilder { log_append_time_ms, ..builder_of(batch, records) };
    RawBatch::parse(builder.build().expect("records of a batch make a batch")).expect("the builder makes whole batches")
}

/// The batch without some of its records; none where none are left.
fn thinned(batch: RawBatch, keeps: impl Fn(&Offset) -> bool) -> Option<RawBatch> {
    let records = batch.records().expect("a stored batch can be read");
    let kept: Vec<_> = records.iter().filter(|record| keeps(&record.offset)).cloned().collect();
    if kept.len() == records.len() {
        return Some(batch);
    }
    let stamped = batch.header.timestamp_type() == TimestampType::LogAppend;
    (!kept.is_empty()).then(|| rewritten(&batch, kept, stamped.then_some(batch.header.max_timestamp)))
}

/// The bytes with other fields before the checksum's range, which are the broker's to set.
fn placed(batch: &RawBatch, base_offset: Offset, epoch: LeaderEpoch) -> RawBatch {
    let mut bytes = batch.bytes.to_vec();
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
    bytes[12..16].copy_from_slice(&epoch.0.to_be_bytes());
    RawBatch::parse(bytes.into()).expect("the checksum does not cover these")
}

fn without_stamp(batch: &RawBatch) -> RawBatch {
    let mut bytes = batch.bytes.to_vec();
    bytes[22] &= !0x08;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    RawBatch::parse(bytes.into()).expect("the checksum was made again")
}

fn last_sequence(batch: &RawBatch) -> i32 {
    let sequence = i64::from(batch.header.base_sequence) + i64::from(batch.header.last_offset_delta);
    i32::try_from(sequence).unwrap_or_else(|_| (sequence - i64::from(i32::MAX) - 1) as i32)
}

/// Whose transaction a batch belongs to; -1 for none.
fn transaction_of(batch: &RawBatch) -> i64 {
    if batch.header.is_transactional() { batch.header.producer.id } else { -1 }
}

fn visible(batch: &RawBatch, record: Record) -> VisibleRecord {
    let Record { offset, timestamp_ms, key, value, headers } = record;
    let stamped = batch.header.timestamp_type() == TimestampType::LogAppend;
    let timestamp_ms = if stamped { batch.header.max_timestamp } else { timestamp_ms };
    VisibleRecord { offset, timestamp_ms, key, value, headers }
}
