//! Segments, written and read.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use krossing_core::{
    SourceOffset, TopicPartition,
    ports::{AbortedTransaction, Objects, StoreError},
    progress::PartitionProgress,
    records::{
        RecordError,
        abort::{AbortFilter, Verdict},
        batch::{Batches, RawBatch},
        repack::{OutBatch, RepackLimits, Repacker},
    },
    segment::{
        SEGMENT_VERSION, SegmentIndex, first_offset_of_index_key, segment_index_key, segment_key, segment_prefix,
    },
};
use sha2::{Digest, Sha256};

use crate::{
    context::{LaneContext, LanePorts},
    error::{LaneError, SessionEnd, store_failed},
    session::Session,
};

/// Bytes of a segment read at a time.
const READ_BYTES: u64 = 4 * 1024 * 1024;

/// A segment being filled.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) index: SegmentIndex,
    parts: Vec<Bytes>,
    /// Bytes that the parts keep alive: each holds its whole answer, also what was cut off of it.
    pub(crate) held_bytes: usize,
    digest: Sha256,
    aborted: BTreeSet<AbortedTransaction>,
}

impl Draft {
    /// An empty segment from where `progress` is stored to.
    pub(crate) fn begin(progress: &PartitionProgress) -> Self {
        Self {
            index: SegmentIndex {
                version: SEGMENT_VERSION,
                partition: progress.partition.clone(),
                topic_id: progress.topic_id,
                first: progress.stored_to,
                next: progress.stored_to,
                last_epoch: progress.source_epoch,
                bytes: 0,
                batch_bytes_max: None,
                timestamp_max_ms: None,
                sha256: String::new(),
                aborted: Vec::new(),
            },
            parts: Vec::new(),
            held_bytes: 0,
            digest: Sha256::new(),
            aborted: BTreeSet::new(),
        }
    }

    /// Adds what a Fetch returned: its whole batches, and the aborted transactions it named.
    pub(crate) fn add(&mut self, records: &Bytes, aborted: Vec<AbortedTransaction>) -> Result<(), LaneError> {
        let partition = &self.index.partition;
        let mut whole_bytes = 0;
        for batch in Batches::new(records.clone()) {
            let batch = batch.map_err(|source| LaneError::Record { partition: partition.clone(), source })?;
            whole_bytes += batch.bytes.len();
            self.index.batch_bytes_max = self.index.batch_bytes_max.max(Some(batch.bytes.len() as u64));
            self.index.next = self.index.next.max(SourceOffset(batch.header.last_offset() + 1));
            self.index.last_epoch = Some(batch.header.leader_epoch);
            self.index.timestamp_max_ms = self.index.timestamp_max_ms.max(Some(batch.header.max_timestamp));
        }
        let whole = records.slice(..whole_bytes);
        self.digest.update(&whole);
        self.index.bytes += whole_bytes as u64;
        if whole_bytes > 0 {
            self.parts.push(whole);
            self.held_bytes += records.len();
        }
        self.aborted.extend(aborted);
        Ok(())
    }

    /// Stores the batches, then the index that says that they are there.
    pub(crate) async fn store<P: LanePorts>(mut self, ctx: &LaneContext<P>) -> Result<SegmentIndex, StoreError> {
        let migration = &ctx.settings.migration;
        self.index.sha256 = hex::encode(self.digest.finalize());
        self.index.aborted = self.aborted.into_iter().collect();
        let index = serde_json::to_vec(&self.index).expect("an index is plain data");
        let SegmentIndex { partition, first, .. } = &self.index;
        ctx.segments.put(&segment_key(migration, partition, *first), self.parts).await?;
        ctx.segments.put(&segment_index_key(migration, partition, *first), vec![Bytes::from(index)]).await?;
        Ok(self.index)
    }
}

/// When a segment was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// By this session, from what is to be sent now: a batch that is damaged since shows by its own checksum.
    InThisSession,
    /// By a session before, and who knows what has happened to it: its digest is read before anything of it is sent.
    Earlier,
}

/// Turns one segment into batches for the target, holding a few megabytes of it at a time.
pub(crate) struct Restore<'a, P: LanePorts> {
    session: &'a Session<P>,
    pub(crate) index: SegmentIndex,
    key: String,
    read_to: u64,
    buffer: BytesMut,
    batches: VecDeque<RawBatch>,
    ready: VecDeque<OutBatch>,
    filter: AbortFilter,
    repacker: Option<Repacker>,
    from: SourceOffset,
}

impl<'a, P: LanePorts> Restore<'a, P> {
    /// The segment that holds source offset `from` of a partition, from that offset on.
    pub(crate) async fn open(
        session: &'a Session<P>,
        partition: &TopicPartition,
        from: SourceOffset,
        written: Written,
    ) -> Result<Self, SessionEnd> {
        let ctx = &*session.ctx;
        let migration = &ctx.settings.migration;
        let store = |error| store_failed(session.plan.id, error);
        let keys = ctx.segments.list(&segment_prefix(migration, partition)).await.map_err(store)?;
        let firsts = keys.iter().filter_map(|key| first_offset_of_index_key(key));
        let damaged = |detail: String| LaneError::Segment { key: segment_prefix(migration, partition), detail };
        let first = firsts
            .filter(|first| *first <= from)
            .max()
            .ok_or_else(|| damaged(format!("there is no segment for offset {from}")))?;
        let index_key = segment_index_key(migration, partition, first);
        let index = ctx.segments.get(&index_key).await.map_err(store)?;
        let index: SegmentIndex = index.ok_or_else(|| damaged(format!("{index_key} is gone"))).and_then(|index| {
            serde_json::from_slice(&index).map_err(|error| damaged(format!("{index_key}: {error}")))
        })?;
        if index.next <= from {
            return Err(damaged(format!("the segment from {first} ends at {} before {from}", index.next)).into());
        }
        let key = segment_key(migration, partition, first);
        if written == Written::Earlier {
            check_digest(session, &key, &index).await?;
        }
        Ok(Self {
            session,
            key,
            read_to: 0,
            buffer: BytesMut::new(),
            batches: VecDeque::new(),
            ready: VecDeque::new(),
            filter: AbortFilter::new(index.aborted.iter().copied()),
            repacker: Some(Repacker::new(RepackLimits::default())),
            from,
            index,
        })
    }

    /// The next batch for the target; none at the end of the segment.
    pub(crate) async fn next(&mut self) -> Result<Option<OutBatch>, SessionEnd> {
        loop {
            if let Some(out) = self.ready.pop_front() {
                return Ok(Some(out));
            }
            if let Some(batch) = self.next_batch().await? {
                self.take(&batch)?;
            } else if let Some(mut repacker) = self.repacker.take() {
                self.ready.extend(repacker.finish().map_err(|source| self.not_copied(source))?);
            } else {
                return Ok(None);
            }
        }
    }

    fn take(&mut self, batch: &RawBatch) -> Result<(), SessionEnd> {
        match self.filter.verdict(batch).map_err(|source| self.not_copied(source))? {
            Verdict::Data if batch.header.last_offset() >= self.from.0 => {
                let repacker = self.repacker.as_mut().expect("present until the segment ends");
                let out = repacker.push(batch, self.from).map_err(|source| self.not_copied(source))?;
                self.ready.extend(out);
                Ok(())
            }
            Verdict::Data | Verdict::Control | Verdict::Aborted => Ok(()),
        }
    }

    fn not_copied(&self, source: RecordError) -> LaneError {
        LaneError::Record { partition: self.index.partition.clone(), source }
    }

    async fn next_batch(&mut self) -> Result<Option<RawBatch>, SessionEnd> {
        let mut wanted = READ_BYTES;
        while self.batches.is_empty() {
            if self.read_to == self.index.bytes {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(self.damaged("its last batch is cut off".to_owned()).into())
                };
            }
            let more = read_range(self.session, &self.key, &self.index, self.read_to, wanted).await?;
            self.read_to += more.len() as u64;
            self.buffer.extend_from_slice(&more);
            self.split()?;
            // A batch larger than what was read: read on, more at a time.
            wanted *= 2;
        }
        Ok(self.batches.pop_front())
    }

    fn split(&mut self) -> Result<(), SessionEnd> {
        let buffered = std::mem::take(&mut self.buffer).freeze();
        let mut whole_bytes = 0;
        for batch in Batches::new(buffered.clone()) {
            let batch = batch.map_err(|error| self.damaged(error.to_string()))?;
            whole_bytes += batch.bytes.len();
            self.batches.push_back(batch);
        }
        self.buffer = BytesMut::from(&buffered[whole_bytes..]);
        Ok(())
    }

    fn damaged(&self, detail: String) -> LaneError {
        LaneError::Segment { key: self.key.clone(), detail }
    }
}

/// Reads a segment once through, and compares it with what its index says was written.
async fn check_digest<P: LanePorts>(session: &Session<P>, key: &str, index: &SegmentIndex) -> Result<(), SessionEnd> {
    let mut digest = Sha256::new();
    let mut read_to = 0;
    while read_to < index.bytes {
        let bytes = read_range(session, key, index, read_to, READ_BYTES).await?;
        digest.update(&bytes);
        read_to += bytes.len() as u64;
    }
    if hex::encode(digest.finalize()) == index.sha256 {
        return Ok(());
    }
    let detail = "its content is not what was written (SHA-256)".to_owned();
    Err(LaneError::Segment { key: key.to_owned(), detail }.into())
}

/// Some bytes of a segment, at least one.
async fn read_range<P: LanePorts>(
    session: &Session<P>,
    key: &str,
    index: &SegmentIndex,
    from: u64,
    wanted: u64,
) -> Result<Bytes, SessionEnd> {
    let damaged = |detail: String| LaneError::Segment { key: key.to_owned(), detail };
    let wanted = wanted.min(index.bytes - from);
    let bytes = match session.ctx.segments.get_range(key, from, wanted).await {
        Ok(bytes) => bytes,
        Err(StoreError::Missing { .. }) => return Err(damaged("it is gone".to_owned()).into()),
        Err(error) => return Err(store_failed(session.plan.id, error)),
    };
    if bytes.is_empty() {
        return Err(damaged(format!("it ends at {from} of {} bytes", index.bytes)).into());
    }
    Ok(bytes)
}
