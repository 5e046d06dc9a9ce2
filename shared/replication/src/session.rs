//! The beginning of every session: raise the fence, read back what stands before it, and bring the progress up to it.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use krossing_core::{
    KafkaCode, Offset, Producer, SourceOffset, TargetOffset, TopicPartition,
    fence::{LogBatch, ReadBack, ReadBackError},
    limits::{LEASE, LEASE_MARGIN, MARK_VISIBLE_WAIT_MAX},
    offset_map,
    ports::{Clock, ClusterError, ClusterResult, Ledger, LogEnd, LogReader, Marker, PerPartition},
    progress::{PartitionProgress, SourceRun},
    records::batch::RawBatch,
};

use crate::{
    append::{PartitionCopy, SharedCopy},
    context::{LaneContext, LanePlan, LanePorts, Notice},
    error::{LaneError, SessionEnd, cluster_failed, store_failed},
    lease::HeldLease,
    map::{load_map, roll_back, spill},
    scan::{ScanFrom, scan},
    segment::{Restore, Written},
};

/// A lane between a fence and whatever ends it.
pub(crate) struct Session<P: LanePorts> {
    pub(crate) ctx: Arc<LaneContext<P>>,
    pub(crate) plan: LanePlan,
    pub(crate) lease: Arc<HeldLease<P>>,
    pub(crate) producer: Producer,
    pub(crate) copies: Vec<SharedCopy>,
    /// Held while progress is written, so that an older state never follows a newer one.
    saving: tokio::sync::Mutex<()>,
    stopping: AtomicBool,
}

impl<P: LanePorts> Session<P> {
    /// Fences the lane and finds out where each of its partitions goes on.
    pub(crate) async fn start(
        ctx: Arc<LaneContext<P>>,
        plan: LanePlan,
        lease: Arc<HeldLease<P>>,
    ) -> Result<Self, SessionEnd> {
        let progress = load_progress(&ctx, &plan).await?;
        let producer = take_producer(&ctx, &plan, &lease).await?;
        let mut session = Self {
            ctx,
            plan,
            lease,
            producer,
            copies: Vec::new(),
            saving: tokio::sync::Mutex::new(()),
            stopping: AtomicBool::new(false),
        };
        let progress = session.roll_back_what_was_lost(progress).await?;
        session.fence(session.partitions()).await?;
        let settled = session.read_back(progress).await?;
        session.copies = session
            .plan
            .partitions
            .iter()
            .zip(settled)
            .map(|(plan, progress)| {
                Arc::new(Mutex::new(PartitionCopy {
                    plan: plan.clone(),
                    stored_before: progress.stored_to,
                    progress,
                    producer,
                    sequence: 0,
                    remembered_by_ms: None,
                    unsaved: false,
                }))
            })
            .collect();
        session.save(&session.copies).await?;
        Ok(session)
    }

    /// Asks the tasks of this session to come to rest: another of them has failed.
    pub(crate) fn stop_seeding(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether to go on: not when another task of this session has failed.
    pub(crate) fn go_on(&self) -> Result<(), SessionEnd> {
        if self.stopping.load(Ordering::Relaxed) || self.ctx.shared.halted() { Err(SessionEnd::Halted) } else { Ok(()) }
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.plan.partitions.iter().map(|planned| planned.partition.clone()).collect()
    }

    /// A target that ends before what it had acknowledged has lost records: forget them, so that they are copied again.
    /// Written down before the fence, whose control batch takes the place of the first of them: a successor that knew
    /// of nothing would take it for the record.
    async fn roll_back_what_was_lost(
        &self,
        mut progress: Vec<PartitionProgress>,
    ) -> Result<Vec<PartitionProgress>, SessionEnd> {
        let ctx = &*self.ctx;
        let ends = ends_of(self.plan.id, ctx.target.log_ends(&self.partitions(), LogEnd::Latest).await)?;
        let store = |error| store_failed(self.plan.id, error);
        let mut rolled_back = Vec::new();
        for progress in &mut progress {
            let end = TargetOffset(ends[&progress.partition]);
            if end < progress.target_next {
                let end = self.end_of_what_is_left(progress, end).await?;
                let records = roll_back(&ctx.evidence, progress, end).await.map_err(store)?;
                spill(&ctx.evidence, &ctx.settings.migration, progress).await.map_err(store)?;
                ctx.shared.notice(Notice::RolledBack { partition: progress.partition.clone(), records });
                rolled_back.push(progress.clone());
            }
        }
        if !rolled_back.is_empty() {
            let (lane, generation) = (self.plan.id, self.lease.generation());
            ctx.ledger.save_lane_progress(lane, generation, &rolled_back).await.map_err(store)?;
        }
        Ok(progress)
    }

    /// Where a log that ends at `end`, and has lost its end before, stops being what was copied: a marker that was on its
    /// way when the log was cut off may stand where a record was. Such a place is a control batch now and a record in the
    /// map; from it on everything is copied again.
    async fn end_of_what_is_left(
        &self,
        progress: &PartitionProgress,
        end: TargetOffset,
    ) -> Result<TargetOffset, SessionEnd> {
        let ctx = &*self.ctx;
        let map = load_map(&ctx.evidence, progress).await.map_err(|error| store_failed(self.plan.id, error))?;
        let Some(first) = map.runs().first().map(|run| run.target_first) else { return Ok(end) };
        let (mut left, mut at) = (end, end);
        while at > first {
            let start = ScanFrom { partition: progress.partition.clone(), topic_id: None, offset: at.0 - 1 };
            let mut control = None;
            scan(&ctx.target, &ctx.clock, vec![start], MARK_VISIBLE_WAIT_MAX, |_, batch| {
                control = batch.ok().map(|batch| batch.header).filter(|header| header.is_control());
                ControlFlow::Break(())
            })
            .await
            .map_err(|error| cluster_failed(self.plan.id, error))?;
            let Some(control) = control else { break };
            at = TargetOffset(control.base_offset);
            if map.inverse(at).is_some() {
                left = at;
            }
        }
        Ok(left)
    }

    /// Runs a transaction without records over `partitions` under our producer.
    pub(crate) async fn fence(&self, partitions: Vec<TopicPartition>) -> Result<(), SessionEnd> {
        self.lease.send_before()?;
        let refused =
            self.ctx.target.mark(&self.plan.transactional_id, self.producer, &partitions).await.map_err(|error| {
                match error {
                    // Another owner has raised the epoch, or the id has expired after days without a fence. Which of them,
                    // the lease tells before the next session.
                    ClusterError::Refused {
                        code:
                            KafkaCode::INVALID_PRODUCER_EPOCH
                            | KafkaCode::PRODUCER_FENCED
                            | KafkaCode::INVALID_PRODUCER_ID_MAPPING
                            | KafkaCode::INVALID_TXN_STATE,
                        ..
                    } => SessionEnd::StartOver(error.to_string()),
                    error => cluster_failed(self.plan.id, error),
                }
            })?;
        match refused.into_iter().next() {
            None => Ok(()),
            Some((partition, code)) => {
                Err(SessionEnd::StartOver(format!("{partition} on the target could not be fenced: {code}")))
            }
        }
    }

    /// Reads each partition from its checkpoint to the fence, and settles what was found.
    async fn read_back(&self, progress: Vec<PartitionProgress>) -> Result<Vec<PartitionProgress>, SessionEnd> {
        let lane_producers = self.lease.producers().await;
        let mut walks: BTreeMap<TopicPartition, ReadBack> = progress
            .iter()
            .map(|progress| (progress.partition.clone(), ReadBack::new(progress, &lane_producers, self.producer)))
            .collect();
        let starts = progress
            .iter()
            .map(|progress| ScanFrom {
                partition: progress.partition.clone(),
                topic_id: None,
                offset: progress.target_next.0,
            })
            .collect();
        let mut wrong: Option<ReadBackError> = None;
        let unfinished = scan(&self.ctx.target, &self.ctx.clock, starts, MARK_VISIBLE_WAIT_MAX, |partition, batch| {
            let Some(walk) = walks.get_mut(partition) else { return ControlFlow::Break(()) };
            let seen = match batch {
                Ok(batch) => walk.see(log_batch(batch)),
                Err(error) => {
                    Err(ReadBackError::NotUnderstood { partition: partition.clone(), detail: error.to_string() })
                }
            };
            match seen {
                Ok(()) if !walk.complete() => ControlFlow::Continue(()),
                Ok(()) => ControlFlow::Break(()),
                Err(error) => {
                    wrong.get_or_insert(error);
                    ControlFlow::Break(())
                }
            }
        })
        .await
        .map_err(|error| cluster_failed(self.plan.id, error))?;
        let lane = self.plan.id;
        if let Some(source) = wrong {
            return Err(LaneError::ReadBack { lane, source }.into());
        }
        if let Some((partition, offset)) = unfinished.into_iter().next() {
            return Err(SessionEnd::StartOver(format!(
                "the fence of {partition} on the target was not seen at offset {offset} in time"
            )));
        }
        let mut settled = Vec::with_capacity(progress.len());
        for progress in progress {
            let walk = walks.remove(&progress.partition).expect("a walk for each partition");
            settled.push(self.settle(progress, walk).await?);
        }
        Ok(settled)
    }

    async fn settle(&self, mut progress: PartitionProgress, walk: ReadBack) -> Result<PartitionProgress, SessionEnd> {
        let from_segments = progress.source_next < progress.stored_to;
        let announced = if from_segments {
            self.announced_by_segments(&progress, walk.records_found()).await?
        } else {
            progress.ahead.clone()
        };
        let runs = walk
            .settle(&mut progress, &announced)
            .map_err(|source| LaneError::ReadBack { lane: self.plan.id, source })?;
        if !from_segments && let Some(last) = announced.iter().rfind(|run| run.source_first < progress.source_next) {
            // With the position moves the epoch that it is compared under: the older one ends before it.
            progress.source_epoch = Some(last.epoch);
        }
        for run in runs {
            offset_map::append(&mut progress.map_runs, run)
                .map_err(|error| LaneError::Map { partition: progress.partition.clone(), detail: error.to_string() })?;
        }
        Ok(progress)
    }

    /// While seeding, the segments announce what may stand on the target: the first `records` of them, in order.
    async fn announced_by_segments(
        &self,
        progress: &PartitionProgress,
        records: i64,
    ) -> Result<Vec<SourceRun>, SessionEnd> {
        let mut announced = Vec::new();
        let mut counted = 0;
        let mut from = progress.source_next;
        while counted < records && from < progress.stored_to {
            let mut segment = Restore::open(self, &progress.partition, from, Written::Earlier).await?;
            while counted < records
                && let Some(out) = segment.next().await?
            {
                counted += i64::from(out.records);
                announced.extend(out.runs);
            }
            from = segment.index.next;
        }
        Ok(announced)
    }

    /// Writes down how far `copies` have come.
    pub(crate) async fn save(&self, copies: &[SharedCopy]) -> Result<(), SessionEnd> {
        let _one_at_a_time = self.saving.lock().await;
        let progress = copies.iter().map(|copy| PartitionCopy::with(copy, |copy| copy.progress.clone())).collect();
        self.save_progress(copies, progress).await
    }

    /// Writes down `progress`, which was taken from `copies`, together with what may be appended next.
    pub(crate) async fn save_ahead(
        &self,
        copies: &[SharedCopy],
        progress: Vec<PartitionProgress>,
    ) -> Result<(), SessionEnd> {
        let _one_at_a_time = self.saving.lock().await;
        self.save_progress(copies, progress).await
    }

    /// Older runs go first, into chunks of the map; then the progress that names the chunks.
    async fn save_progress(
        &self,
        copies: &[SharedCopy],
        mut progress: Vec<PartitionProgress>,
    ) -> Result<(), SessionEnd> {
        let store = |error| store_failed(self.plan.id, error);
        for (copy, progress) in copies.iter().zip(&mut progress) {
            let runs_before = progress.map_runs.len();
            spill(&self.ctx.evidence, &self.ctx.settings.migration, progress).await.map_err(store)?;
            let moved = runs_before - progress.map_runs.len();
            PartitionCopy::with(copy, |copy| {
                // Runs may have been appended meanwhile; those that moved are still the first ones.
                copy.progress.map_runs.drain(..moved);
                copy.progress.map_chunks.clone_from(&progress.map_chunks);
            });
        }
        let (lane, generation) = (self.plan.id, self.lease.generation());
        self.ctx.ledger.save_lane_progress(lane, generation, &progress).await.map_err(store)
    }

    /// Fences `copies` again under the same epoch, so that the target remembers our producer by the present time and
    /// not by the timestamps of old records. Nothing of ours may be in flight to them.
    pub(crate) async fn refresh_fence(&self, copies: &[SharedCopy]) -> Result<(), SessionEnd> {
        if copies.is_empty() {
            return Ok(());
        }
        let starts: Vec<ScanFrom> = copies
            .iter()
            .map(|copy| {
                PartitionCopy::with(copy, |copy| ScanFrom {
                    partition: copy.progress.partition.clone(),
                    topic_id: None,
                    offset: copy.progress.target_next.0,
                })
            })
            .collect();
        let expected: BTreeMap<_, _> = starts.iter().map(|start| (start.partition.clone(), start.offset)).collect();
        self.fence(expected.keys().cloned().collect()).await?;
        let mut strange = None;
        let unfinished = scan(&self.ctx.target, &self.ctx.clock, starts, MARK_VISIBLE_WAIT_MAX, |partition, batch| {
            let ours = batch.is_ok_and(|batch| {
                let batch = log_batch(batch);
                batch.control && batch.producer == self.producer && batch.base_offset == expected[partition]
            });
            if !ours {
                strange = Some(format!("{partition} on the target does not continue with our fence"));
            }
            ControlFlow::Break(())
        })
        .await
        .map_err(|error| cluster_failed(self.plan.id, error))?;
        if let Some(reason) = strange {
            return Err(SessionEnd::StartOver(reason));
        }
        if let Some((partition, _)) = unfinished.into_iter().next() {
            return Err(SessionEnd::StartOver(format!("the fence of {partition} on the target was not seen in time")));
        }
        for copy in copies {
            PartitionCopy::with(copy, |copy| {
                copy.progress.target_next = copy.progress.target_next.plus(1);
                copy.progress.counts.fences += 1;
                copy.remembered_by_ms = None;
            });
        }
        self.save(copies).await
    }
}

pub(crate) fn log_batch(batch: &RawBatch) -> LogBatch {
    LogBatch {
        base_offset: batch.header.base_offset,
        last_offset: batch.header.last_offset(),
        control: batch.header.is_control(),
        transactional: batch.header.is_transactional(),
        producer: batch.header.producer,
    }
}

/// The stored progress in the order of the plan; partitions new to the ledger begin where the source begins.
async fn load_progress<P: LanePorts>(
    ctx: &LaneContext<P>,
    plan: &LanePlan,
) -> Result<Vec<PartitionProgress>, SessionEnd> {
    let stored = ctx.ledger.lane_progress(plan.id).await.map_err(|error| store_failed(plan.id, error))?;
    let mut stored: BTreeMap<_, _> =
        stored.into_iter().map(|progress| (progress.partition.clone(), progress)).collect();
    let new: Vec<_> = plan
        .partitions
        .iter()
        .map(|planned| planned.partition.clone())
        .filter(|partition| !stored.contains_key(partition))
        .collect();
    if !new.is_empty() {
        let firsts = ends_of(plan.id, ctx.source.log_ends(&new, LogEnd::Earliest).await)?;
        let ends = ends_of(plan.id, ctx.source.log_ends(&new, LogEnd::LatestStable).await)?;
        let targets = ends_of(plan.id, ctx.target.log_ends(&new, LogEnd::Earliest).await)?;
        for planned in &plan.partitions {
            let partition = &planned.partition;
            let Some(first) = firsts.get(partition) else { continue };
            let begun = PartitionProgress::begin(
                partition.clone(),
                planned.topic_id,
                SourceOffset(*first),
                SourceOffset(ends[partition]),
                TargetOffset(targets[partition]),
                ctx.clock.unix_ms(),
            );
            stored.insert(partition.clone(), begun);
        }
    }
    Ok(plan.partitions.iter().filter_map(|planned| stored.remove(&planned.partition)).collect())
}

/// Takes over the lane's transactional id, and writes the producer down before it is used.
async fn take_producer<P: LanePorts>(
    ctx: &LaneContext<P>,
    plan: &LanePlan,
    lease: &HeldLease<P>,
) -> Result<Producer, SessionEnd> {
    lease.send_before()?;
    let producer =
        ctx.target.open_producer(&plan.transactional_id).await.map_err(|error| cluster_failed(plan.id, error))?;
    let same_id = lease.producers().await.last().is_none_or(|last| last.id == producer.id);
    if !same_id && lease.predecessor_may_live {
        // The epoch of another id fences nobody: outwait whatever the predecessor may still have on its way.
        ctx.clock.sleep(LEASE + LEASE_MARGIN).await;
    }
    lease.remember_producer(producer).await.map_err(|error| store_failed(plan.id, error))?;
    Ok(producer)
}

/// One offset per partition, or the session starts over: a partition without an answer cannot be judged.
fn ends_of(
    lane: krossing_core::LaneId,
    answer: ClusterResult<PerPartition<Offset>>,
) -> Result<BTreeMap<TopicPartition, Offset>, SessionEnd> {
    answer
        .map_err(|error| cluster_failed(lane, error))?
        .into_iter()
        .map(|(partition, end)| match end {
            Ok(end) => Ok((partition, end)),
            Err(KafkaCode::UNKNOWN_TOPIC_OR_PARTITION) => {
                Err(LaneError::TopicGone { partition, recreated: false }.into())
            }
            Err(code) => Err(SessionEnd::StartOver(format!("the end of {partition} was not told: {code}"))),
        })
        .collect()
}
