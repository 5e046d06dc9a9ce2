//! The seed: source → segments → target, a pipeline for each partition.
//!
//! Storing never waits for restoring: the source is drained at its own pace, and what is stored survives any crash.
//! Restoring begins when the first segment is durable. A crash repeats at most the segment being filled; what had
//! reached the target is found by the next session's read-back and not sent again.

use std::sync::Arc;

use krossing_core::{
    SourceOffset, TopicPartition,
    limits::{PACKED_BATCH_BYTES_MAX, SEED_FETCH_BYTES, SOURCE_SILENCE_MAX},
    ports::{Clock, FetchPartition, FetchRequest, Fetched, Isolation, LogReader},
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    append::{PartitionCopy, SharedCopy, advance, append},
    context::LanePorts,
    error::{SessionEnd, cluster_failed, store_failed},
    segment::{Draft, Restore, Written},
    session::Session,
    source::{Next, SOURCE_PAUSE, judge, skip_gap},
};

/// How long a broker may wait: there is data up to the seed's end, so this only bounds an election.
const FETCH_WAIT: std::time::Duration = std::time::Duration::from_millis(500);

/// Bytes that restoring holds of a partition: what is read of its segment, and two batches on their way.
const RESTORE_BYTES: usize = 4 * 1024 * 1024 + 2 * PACKED_BATCH_BYTES_MAX;

/// Copies every partition of the lane up to where its seed ends, then fences them again: the records may be old, and a
/// broker remembers a producer by their timestamps.
pub(crate) async fn seed<P: LanePorts>(session: &Arc<Session<P>>) -> Result<(), SessionEnd> {
    let mut tasks = JoinSet::new();
    let mut seeded = Vec::new();
    for copy in &session.copies {
        if PartitionCopy::with(copy, |copy| copy.progress.seeded()) {
            session.ctx.shared.meter.seeded();
            continue;
        }
        seeded.push(copy.clone());
        let (session, copy) = (session.clone(), copy.clone());
        tasks.spawn(async move {
            let _place = session.ctx.shared.seed_places.acquire().await.expect("the semaphore is never closed");
            seed_partition(&session, &copy).await?;
            session.ctx.shared.meter.seeded();
            Ok::<(), SessionEnd>(())
        });
    }
    let mut failed: Option<SessionEnd> = None;
    // All come to rest before a reason counts, so that nothing of ours stays in flight.
    while let Some(joined) = tasks.join_next().await {
        if let Err(end) = joined.expect("seed tasks are neither cancelled nor panic") {
            failed = Some(match failed {
                Some(earlier) => earlier.graver(end),
                None => end,
            });
        }
    }
    if let Some(end) = failed {
        return Err(end);
    }
    session.refresh_fence(&seeded).await
}

async fn seed_partition<P: LanePorts>(session: &Session<P>, copy: &SharedCopy) -> Result<(), SessionEnd> {
    let stored_to = PartitionCopy::with(copy, |copy| copy.progress.stored_to);
    let (announce, stored) = watch::channel(stored_to);
    let store = async { store_all(session, copy, announce).await.inspect_err(|_| session.stop_seeding()) };
    let restore = async { restore_all(session, copy, stored).await.inspect_err(|_| session.stop_seeding()) };
    match futures::join!(store, restore) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(end), Ok(())) | (Ok(()), Err(end)) => Err(end),
        (Err(one), Err(other)) => Err(one.graver(other)),
    }
}

/// Stores the partition's log up to the seed's end, segment by segment.
async fn store_all<P: LanePorts>(
    session: &Session<P>,
    copy: &SharedCopy,
    announce: watch::Sender<SourceOffset>,
) -> Result<(), SessionEnd> {
    let ctx = &*session.ctx;
    // A single batch may be larger than what is asked for.
    let mut answer_bytes_max = SEED_FETCH_BYTES as usize;
    while PartitionCopy::with(copy, |copy| copy.progress.stored_to < copy.progress.seed_end) {
        session.go_on()?;
        let held = ctx.shared.memory(ctx.settings.segment_bytes_max + answer_bytes_max).await;
        let draft = match fill(session, copy, answer_bytes_max).await? {
            Filled::Segment(draft) => draft,
            Filled::NeedsRoom(bytes) => {
                // Given back first: two that hold room and wait for more would wait for each other.
                drop(held);
                answer_bytes_max = bytes;
                continue;
            }
        };
        let index = draft.store(ctx).await.map_err(|error| store_failed(session.plan.id, error))?;
        drop(held);
        PartitionCopy::with(copy, |copy| {
            copy.progress.stored_to = index.next;
            copy.progress.source_epoch = index.last_epoch;
        });
        session.save(std::slice::from_ref(copy)).await?;
        announce.send_replace(index.next);
    }
    Ok(())
}

/// What reading into a segment came to.
enum Filled {
    /// A segment to store.
    Segment(Box<Draft>),
    /// Nothing yet: the first answer was larger than there is room for. It is asked for again when there is.
    NeedsRoom(usize),
}

/// Reads until a segment is full or the seed's end is reached, holding room for one answer of `answer_bytes_max` beyond
/// the segment.
async fn fill<P: LanePorts>(
    session: &Session<P>,
    copy: &SharedCopy,
    answer_bytes_max: usize,
) -> Result<Filled, SessionEnd> {
    let ctx = &*session.ctx;
    let (progress, planned) = PartitionCopy::with(copy, |copy| (copy.progress.clone(), copy.plan.clone()));
    let partition = &planned.partition;
    let mut draft = Draft::begin(&progress);
    let mut fresh = false;
    let mut heard_at = ctx.clock.now();
    while draft.index.next < progress.seed_end && draft.held_bytes < ctx.settings.segment_bytes_max {
        session.go_on()?;
        if ctx.clock.now() - heard_at > SOURCE_SILENCE_MAX {
            return Err(SessionEnd::StartOver(format!("the source gave nothing of {partition} for too long")));
        }
        let asked = draft.index.next;
        let fetched = match fetch_one(session, partition, &draft, fresh).await? {
            Some(answer) => match judge(ctx, &session.plan, &planned, asked, answer).await? {
                Next::Take(fetched) => fetched,
                Next::Again => {
                    fresh = true;
                    ctx.clock.sleep(SOURCE_PAUSE).await;
                    continue;
                }
                Next::ReadFrom(offset) => {
                    draft.index.last_epoch = skip_gap(ctx, copy, asked, offset);
                    draft.index.next = offset;
                    if offset > asked {
                        // The next batch may begin inside the gap: a segment that begins behind it leaves that out.
                        break;
                    }
                    continue;
                }
            },
            None => {
                fresh = true;
                ctx.clock.sleep(SOURCE_PAUSE).await;
                continue;
            }
        };
        fresh = false;
        ctx.shared.meter.read(fetched.records.len());
        if fetched.records.len() > answer_bytes_max {
            if draft.held_bytes == 0 {
                return Ok(Filled::NeedsRoom(fetched.records.len()));
            }
            break;
        }
        draft.add(&fetched.records, fetched.aborted)?;
        if draft.index.next > asked {
            heard_at = ctx.clock.now();
        } else if fetched.high_watermark <= asked.0 {
            // The log ends before the seed's end as it stood when seeding began; nothing of it had been read.
            PartitionCopy::with(copy, |copy| copy.progress.seed_end = asked);
            break;
        }
    }
    Ok(Filled::Segment(Box::new(draft)))
}

/// One Fetch for one partition; none where no leader answered.
async fn fetch_one<P: LanePorts>(
    session: &Session<P>,
    partition: &TopicPartition,
    draft: &Draft,
    fresh: bool,
) -> Result<Option<Result<Fetched, krossing_core::KafkaCode>>, SessionEnd> {
    let ctx = &*session.ctx;
    let failed = |error| cluster_failed(session.plan.id, error);
    let leaders = ctx.source.leaders(std::slice::from_ref(partition), fresh).await.map_err(failed)?;
    let leader = match leaders.get(partition) {
        Some(Ok(leader)) => leader,
        // A topic that is gone has no leader to say so.
        Some(Err(code)) => return Ok(Some(Err(*code))),
        None => return Ok(None),
    };
    ctx.shared.bandwidth.grant(&ctx.clock, leader.broker).await;
    let request = FetchRequest {
        broker: leader.broker,
        partitions: vec![FetchPartition {
            partition: partition.clone(),
            topic_id: draft.index.topic_id,
            offset: draft.index.next.0,
            last_epoch: draft.index.last_epoch,
            bytes_max: SEED_FETCH_BYTES,
        }],
        isolation: Isolation::ReadCommitted,
        wait_max: FETCH_WAIT,
        bytes_min: 1,
        bytes_max: SEED_FETCH_BYTES,
    };
    let mut answer = match ctx.source.fetch(request).await {
        Ok(answer) => answer,
        Err(krossing_core::ports::ClusterError::Unavailable { detail, .. }) => {
            tracing::debug!(%partition, detail, "a source broker does not answer");
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let answer = answer.remove(partition);
    if let Some(Ok(fetched)) = &answer {
        ctx.shared.bandwidth.spent(leader.broker, fetched.records.len());
    }
    Ok(answer)
}

/// Restores segments as they are announced, up to the last.
async fn restore_all<P: LanePorts>(
    session: &Session<P>,
    copy: &SharedCopy,
    mut stored: watch::Receiver<SourceOffset>,
) -> Result<(), SessionEnd> {
    loop {
        session.go_on()?;
        let (partition, next) =
            PartitionCopy::with(copy, |copy| (copy.progress.partition.clone(), copy.progress.source_next));
        if next < *stored.borrow_and_update() {
            restore_segment(session, copy, &partition, next).await?;
        } else if stored.changed().await.is_err() {
            // Storing has ended: at the seed's end, or with an error of its own.
            return Ok(());
        }
    }
}

async fn restore_segment<P: LanePorts>(
    session: &Session<P>,
    copy: &SharedCopy,
    partition: &TopicPartition,
    from: SourceOffset,
) -> Result<(), SessionEnd> {
    let stored_before = PartitionCopy::with(copy, |copy| copy.stored_before);
    let written = if from < stored_before { Written::Earlier } else { Written::InThisSession };
    let mut segment = Restore::open(session, partition, from, written).await?;
    // A batch may be as large as its segment: it is held as it was read, and as it is sent.
    let largest = segment.index.bytes.min(segment.index.batch_bytes_max.unwrap_or(u64::MAX)) as usize;
    let _held = session.ctx.shared.memory(RESTORE_BYTES + 2 * largest.saturating_sub(SEED_FETCH_BYTES as usize)).await;
    while let Some(out) = segment.next().await? {
        session.go_on()?;
        append(&session.ctx, &session.lease, copy, out).await?;
        tokio::task::yield_now().await;
    }
    advance(copy, segment.index.next);
    session.save(std::slice::from_ref(copy)).await
}
