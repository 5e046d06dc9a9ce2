//! One partition being copied, and the one way in which a batch reaches its target.

use std::sync::{Arc, Mutex};

use krossing_core::{
    KafkaCode, Offset, Producer, SourceOffset, offset_map,
    ports::{LogWriter, ProduceOutcome, ProduceRequest},
    progress::{PartitionProgress, Run},
    records::repack::{OutBatch, next_sequence},
};

use crate::{
    context::{LaneContext, LanePartition, LanePorts},
    error::{LaneError, SessionEnd},
    lease::HeldLease,
};

/// A partition within a session: its progress, and what the producer needs.
#[derive(Debug)]
pub(crate) struct PartitionCopy {
    pub(crate) plan: LanePartition,
    pub(crate) progress: PartitionProgress,
    /// Segments below were written by an earlier session, perhaps long ago.
    pub(crate) stored_before: SourceOffset,
    pub(crate) producer: Producer,
    pub(crate) sequence: i32,
    /// Largest timestamp of the last batch appended since the last fence: until when the broker remembers us.
    pub(crate) remembered_by_ms: Option<i64>,
    /// Whether it has moved on since it was last written down.
    pub(crate) unsaved: bool,
}

/// Shared between the tasks that read and write one partition. Held for moments only, never across an await.
pub(crate) type SharedCopy = Arc<Mutex<PartitionCopy>>;

impl PartitionCopy {
    /// Runs `look` on the copy.
    pub(crate) fn with<T>(copy: &SharedCopy, look: impl FnOnce(&mut PartitionCopy) -> T) -> T {
        look(&mut copy.lock().expect("no holder panics"))
    }

    fn appended(&mut self, out: &OutBatch, base_offset: Offset) -> Result<(), LaneError> {
        let mut target_first = self.progress.target_next;
        debug_assert_eq!(target_first.0, base_offset);
        for run in &out.runs {
            let run = Run { source_first: run.source_first, target_first, count: run.count };
            target_first = run.target_end();
            offset_map::append(&mut self.progress.map_runs, run).map_err(|error| LaneError::Map {
                partition: self.progress.partition.clone(),
                detail: error.to_string(),
            })?;
            // Together with the map, so that whoever saves in between saves a whole.
            self.progress.source_next = run.source_end();
        }
        self.progress.target_next = target_first;
        self.sequence = next_sequence(self.sequence, out.records);
        self.remembered_by_ms = Some(out.max_timestamp_ms);
        let counts = &mut self.progress.counts;
        counts.records += u64::from(out.records);
        counts.bytes += out.size() as u64;
        counts.batches_passed += u64::from(out.passed);
        counts.batches_packed += u64::from(out.packed);
        counts.batches_rewritten += u64::from(out.rewritten);
        Ok(())
    }
}

/// Appends one batch, and believes nothing but the expected offset.
pub(crate) async fn append<P: LanePorts>(
    ctx: &LaneContext<P>,
    lease: &HeldLease<P>,
    copy: &SharedCopy,
    out: OutBatch,
) -> Result<(), SessionEnd> {
    let (partition, expected, producer, sequence) = PartitionCopy::with(copy, |copy| {
        (copy.progress.partition.clone(), copy.progress.target_next, copy.producer, copy.sequence)
    });
    let request = ProduceRequest {
        partition: partition.clone(),
        batch: out.seal(producer, sequence),
        send_before: lease.send_before()?,
    };
    match ctx.target.produce(request).await {
        ProduceOutcome::Appended { base_offset } if base_offset == expected.0 => {
            PartitionCopy::with(copy, |copy| copy.appended(&out, base_offset))?;
            lease.appended(out.records);
            ctx.shared.meter.written(out.size(), out.records);
            Ok(())
        }
        // The next session reads the log back, and names whoever wrote there.
        ProduceOutcome::Appended { base_offset } => Err(SessionEnd::StartOver(format!(
            "records of {partition} landed at offset {base_offset} where {expected} was expected"
        ))),
        ProduceOutcome::NotAppended { reason } | ProduceOutcome::Unknown { reason } => {
            Err(SessionEnd::StartOver(format!("it is not known whether records of {partition} arrived: {reason}")))
        }
        // Our producer is forgotten or fenced. Whether the lane is still ours is found out before the next session.
        ProduceOutcome::Refused {
            code:
                code @ (KafkaCode::OUT_OF_ORDER_SEQUENCE_NUMBER
                | KafkaCode::INVALID_PRODUCER_EPOCH
                | KafkaCode::UNKNOWN_PRODUCER_ID
                | KafkaCode::PRODUCER_FENCED),
            ..
        } => Err(SessionEnd::StartOver(format!("the target does not take our producer on {partition}: {code}"))),
        ProduceOutcome::Refused { code, detail } => {
            Err(LaneError::Refused { partition, offset: expected, code, detail }.into())
        }
    }
}

/// Notes that every source offset below `source_next` is done with.
pub(crate) fn advance(copy: &SharedCopy, source_next: SourceOffset) {
    PartitionCopy::with(copy, |copy| copy.progress.source_next = copy.progress.source_next.max(source_next));
}
