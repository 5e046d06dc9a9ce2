//! The tail: source → target, directly, from where the seed ended.
//!
//! One loop for the whole lane. What was read is collected into a *window*; a window's runs are written down while the
//! window before it is being produced; then it is produced itself. So at any moment the ledger names every record that
//! may have reached the target, and there is at most one window in the making and one on its way.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use krossing_core::{
    BrokerId, LeaderEpoch, Offset, SourceOffset, TopicPartition,
    limits::{
        TAIL_FETCH_BYTES, TAIL_FETCH_PARTITION_BYTES, TAIL_FETCH_WAIT, TAIL_WINDOW_BYTES_MAX, TAIL_WINDOW_RUNS_MAX,
    },
    ports::{
        Clock, ClusterError, ClusterResult, FetchPartition, FetchRequest, Fetched, Isolation, LogReader, PerPartition,
    },
    progress::SourceEnd,
    records::{
        RecordError,
        abort::{AbortFilter, Verdict},
        batch::Batches,
        repack::{OutBatch, RepackLimits, Repacker},
    },
};
use tokio::sync::{SemaphorePermit, watch};

use crate::{
    append::{PartitionCopy, SharedCopy, advance, append},
    context::LanePorts,
    error::{LaneError, SessionEnd, cluster_failed},
    session::Session,
    source::{Next, SOURCE_PAUSE, judge, skip_gap},
};

/// How long a partition must have been quiet before it is fenced again for the sake of old timestamps.
const QUIET: Duration = Duration::from_secs(5);

/// The broker forgets a producer this long after the timestamp of its last batch: half of `producer.id.expiration.ms`
/// (24 h by default), so that a fence is in time also where clocks differ.
const REMEMBERED_FOR_MS: i64 = 12 * 60 * 60 * 1000;

/// What a tailing lane is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailOrder {
    /// Go on.
    Run,
    /// Come to rest: what was read is written, and no more is read.
    Stop,
    /// Go on up to these offsets, and come to rest when every partition has reached its own.
    StopAt(Arc<BTreeMap<TopicPartition, SourceOffset>>),
}

/// Where a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionLag {
    /// The next source offset to copy.
    pub source_next: SourceOffset,
    /// The source's end, as far as replicated.
    pub high_watermark: Offset,
    /// The offset from which a transaction is open; the end where none is.
    pub last_stable_offset: Offset,
    /// When the source last answered for it.
    pub heard_at: Instant,
    /// Below it, tombstones may have been cleaned on the source before they were read; 0 where none may have been.
    pub tombstones_doubtful_to: SourceOffset,
}

impl PartitionLag {
    /// Whether everything up to an open transaction is copied, and nothing can follow before it ends.
    pub fn waits_for_transaction(&self) -> bool {
        self.last_stable_offset < self.high_watermark && self.source_next.0 >= self.last_stable_offset
    }

    /// Offsets that are still to be read.
    pub fn lag(&self) -> i64 {
        (self.high_watermark - self.source_next.0).max(0)
    }
}

/// Where all tailing partitions of this process stand.
#[derive(Debug, Default)]
pub struct TailBoard(Mutex<BTreeMap<TopicPartition, PartitionLag>>);

impl TailBoard {
    /// All partitions that have been heard of.
    pub fn partitions(&self) -> BTreeMap<TopicPartition, PartitionLag> {
        self.0.lock().expect("no holder panics").clone()
    }

    /// Where tombstones may have been cleaned on the source before they were read, and up to which offset.
    pub fn tombstones_doubtful(&self) -> BTreeMap<TopicPartition, SourceOffset> {
        let doubtful_to = self.partitions().into_iter().map(|(partition, lag)| (partition, lag.tombstones_doubtful_to));
        doubtful_to.filter(|(_, to)| *to > SourceOffset(0)).collect()
    }

    fn put(&self, partition: &TopicPartition, lag: PartitionLag) {
        self.0.lock().expect("no holder panics").insert(partition.clone(), lag);
    }
}

/// What a lane is told while it tails, and where it shows how far it is.
#[derive(Debug, Clone)]
pub struct TailControl {
    /// What to do.
    pub order: watch::Receiver<TailOrder>,
    /// Where all of this process's partitions stand.
    pub board: Arc<TailBoard>,
}

/// What was read of one partition since the last window.
struct Gathered {
    /// Open for as long as the window is: where the target is slow, one answer of the source holds little, and each
    /// batch costs a round trip of its own.
    repacker: Repacker,
    outs: Vec<OutBatch>,
    source_next: SourceOffset,
    epoch: Option<LeaderEpoch>,
}

impl Gathered {
    fn begin(source_next: SourceOffset) -> Self {
        Self { repacker: Repacker::new(RepackLimits::default()), outs: Vec::new(), source_next, epoch: None }
    }
}

/// What was read of all partitions since the last window, and the room that the answers take which it lies in.
#[derive(Default)]
struct Window<'a> {
    gathered: BTreeMap<usize, Gathered>,
    held: Vec<SemaphorePermit<'a>>,
    bytes: usize,
    runs: usize,
}

impl Window<'_> {
    fn full(&self) -> bool {
        self.bytes >= TAIL_WINDOW_BYTES_MAX || self.runs >= TAIL_WINDOW_RUNS_MAX
    }
}

/// What was read of one partition, ready to be produced.
struct Load {
    outs: Vec<OutBatch>,
    source_next: SourceOffset,
    epoch: Option<LeaderEpoch>,
}

/// A window that nothing is added to any more.
#[derive(Default)]
struct Loads<'a> {
    loads: BTreeMap<usize, Load>,
    held: Vec<SemaphorePermit<'a>>,
}

/// Where reading is; ahead of the progress by what is in the windows.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    next: SourceOffset,
    epoch: Option<LeaderEpoch>,
    /// Not to be asked again before this: its leader was away, or its identity was asked for.
    not_before: Option<Instant>,
}

type Stage<'a> = Pin<Box<dyn Future<Output = Result<(), SessionEnd>> + Send + 'a>>;
/// What a broker answered for some places, and the room that the answer takes.
type Answer<'a> = (BrokerId, Vec<usize>, ClusterResult<PerPartition<Fetched>>, Option<SemaphorePermit<'a>>);
type Fetches<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Answer<'a>> + Send + 'a>>>;

/// Copies what arrives on the source until told to come to rest.
pub(crate) async fn tail<P: LanePorts>(session: &Session<P>, control: &mut TailControl) -> Result<(), SessionEnd> {
    // Boxed once per window; never dropped while a batch of ours is on its way, except with the lease.
    let mut stage: Option<Stage<'_>> = None;
    let ended = follow(session, control, &mut stage).await;
    match (ended, stage) {
        (Err(end), Some(stage)) => Err(match stage.await {
            Ok(()) => end,
            Err(other) => end.graver(other),
        }),
        (ended, _) => ended,
    }
}

async fn follow<'a, P: LanePorts>(
    session: &'a Session<P>,
    control: &mut TailControl,
    stage: &mut Option<Stage<'a>>,
) -> Result<(), SessionEnd> {
    let mut tail = Tail::new(session, control.board.clone());
    let mut next = Window::default();
    let mut current = Loads::default();
    let mut fetches: Fetches<'a> = FuturesUnordered::new();
    loop {
        let order = control.order.borrow_and_update().clone();
        if stage.is_none() {
            if !next.gathered.is_empty() || !current.loads.is_empty() || tail.unsaved() {
                let producing = std::mem::take(&mut current);
                let ahead = tail.close(std::mem::take(&mut next))?;
                let (save, loads) = tail.stage(producing, &ahead);
                current = ahead;
                *stage = Some(Box::pin(async move {
                    let (saved, produced) = futures::join!(save, loads);
                    produced.and(saved)
                }));
            } else if tail.at_rest(&order) {
                if order == TailOrder::Stop
                    && let Err(end) = tail.refresh(Duration::ZERO).await
                {
                    // Nothing is lost by it: the next owner fences before it writes.
                    tracing::warn!(lane = %session.plan.id, ?end, "the lane came to rest without a last fence");
                }
                // What is still being asked for lies behind what was ordered; asking has no effect to wait for.
                return Ok(());
            } else {
                tail.refresh(QUIET).await?;
            }
        }
        if !next.full() && !tail.at_rest(&order) {
            tail.ask(&mut fetches).await?;
        }
        tokio::select! {
            biased;
            done = async { stage.as_mut().expect("guarded").await }, if stage.is_some() => {
                *stage = None;
                done?;
                tail.show();
            }
            Some((broker, places, answer, held)) = fetches.next(), if !fetches.is_empty() => {
                next.held.extend(held);
                tail.take(broker, &places, answer, &mut next).await?;
            }
            changed = control.order.changed() => {
                if changed.is_err() {
                    return Err(SessionEnd::StartOver("nobody gives this lane orders any more".to_owned()));
                }
            }
            () = session.ctx.clock.sleep(SOURCE_PAUSE) => {}
        }
    }
}

struct Tail<'a, P: LanePorts> {
    session: &'a Session<P>,
    board: Arc<TailBoard>,
    places: BTreeMap<TopicPartition, usize>,
    cursors: Vec<Cursor>,
    ends: Vec<Option<(Offset, Offset, Instant)>>,
    /// When each partition was last asked for.
    asked_unix_ms: Vec<i64>,
    asked: BTreeSet<usize>,
    busy: BTreeSet<BrokerId>,
    /// Places whose leader is to be asked for anew when they are next asked about. Each for itself: what one broker's
    /// partitions learn says nothing of another's.
    leader_unknown: BTreeSet<usize>,
    turn: usize,
    appended_at: Vec<Instant>,
}

impl<'a, P: LanePorts> Tail<'a, P> {
    fn new(session: &'a Session<P>, board: Arc<TailBoard>) -> Self {
        let now = session.ctx.clock.now();
        let cursors: Vec<_> = session
            .copies
            .iter()
            .map(|copy| {
                PartitionCopy::with(copy, |copy| Cursor {
                    next: copy.progress.source_next,
                    epoch: copy.progress.source_epoch,
                    not_before: None,
                })
            })
            .collect();
        let places = session.plan.partitions.iter().enumerate();
        Self {
            places: places.map(|(place, planned)| (planned.partition.clone(), place)).collect(),
            ends: vec![None; cursors.len()],
            asked_unix_ms: vec![0; cursors.len()],
            leader_unknown: (0..cursors.len()).collect(),
            appended_at: vec![now; cursors.len()],
            cursors,
            asked: BTreeSet::new(),
            busy: BTreeSet::new(),
            turn: 0,
            session,
            board,
        }
    }

    fn copy(&self, place: usize) -> &'a SharedCopy {
        &self.session.copies[place]
    }

    /// Whether something has moved on that is not written down yet.
    fn unsaved(&self) -> bool {
        self.session.copies.iter().any(|copy| PartitionCopy::with(copy, |copy| copy.unsaved))
    }

    /// Whether everything that was ordered is on the target.
    fn at_rest(&self, order: &TailOrder) -> bool {
        match order {
            TailOrder::Run => false,
            TailOrder::Stop => true,
            TailOrder::StopAt(ends) => self.session.copies.iter().all(|copy| {
                PartitionCopy::with(copy, |copy| {
                    ends.get(&copy.progress.partition).is_none_or(|end| copy.progress.source_next >= *end)
                })
            }),
        }
    }

    /// Asks every broker that is not being waited for about its partitions.
    async fn ask(&mut self, fetches: &mut Fetches<'a>) -> Result<(), SessionEnd> {
        let session = self.session;
        let now = session.ctx.clock.now();
        let waiting: Vec<usize> = (0..self.cursors.len())
            .filter(|place| !self.asked.contains(place))
            .filter(|place| self.cursors[*place].not_before.is_none_or(|not_before| not_before <= now))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let partitions: Vec<_> =
            waiting.iter().map(|place| session.plan.partitions[*place].partition.clone()).collect();
        let fresh = waiting.iter().any(|place| self.leader_unknown.contains(place));
        let leaders = match session.ctx.source.leaders(&partitions, fresh).await {
            Ok(leaders) => leaders,
            Err(ClusterError::Unavailable { detail, .. }) => {
                tracing::debug!(detail, "the source does not tell its leaders");
                self.pause(&waiting);
                return Ok(());
            }
            Err(error) => return Err(cluster_failed(session.plan.id, error)),
        };
        waiting.iter().for_each(|place| {
            self.leader_unknown.remove(place);
        });
        let mut requests: BTreeMap<BrokerId, Vec<usize>> = BTreeMap::new();
        for place in waiting {
            match leaders.get(&session.plan.partitions[place].partition) {
                Some(Ok(leader)) if !self.busy.contains(&leader.broker) => {
                    requests.entry(leader.broker).or_default().push(place);
                }
                Some(Ok(_)) => {}
                Some(Err(code)) => {
                    // A topic that is gone has no leader to say so.
                    let planned = &session.plan.partitions[place];
                    judge(&session.ctx, &session.plan, planned, self.cursors[place].next, Err(*code)).await?;
                    self.pause(&[place]);
                }
                None => self.pause(&[place]),
            }
        }
        for (broker, mut places) in requests {
            // An answer that is full leaves out the last ones: another is the first each time.
            self.turn = self.turn.wrapping_add(1);
            let first = self.turn % places.len();
            places.rotate_left(first);
            self.busy.insert(broker);
            self.asked.extend(&places);
            let unix_ms = session.ctx.clock.unix_ms();
            places.iter().for_each(|place| self.asked_unix_ms[*place] = unix_ms);
            let request = FetchRequest {
                broker,
                partitions: places.iter().map(|place| self.fetch_partition(*place)).collect(),
                isolation: Isolation::ReadCommitted,
                wait_max: TAIL_FETCH_WAIT,
                bytes_min: 1,
                bytes_max: TAIL_FETCH_BYTES,
            };
            fetches.push(Box::pin(async move {
                session.ctx.shared.bandwidth.grant(&session.ctx.clock, broker).await;
                let answer = session.ctx.source.fetch(request).await;
                let bytes =
                    answer.iter().flat_map(BTreeMap::values).flatten().map(|fetched| fetched.records.len()).sum();
                // Waited for here, beside the window that is being sent and will give its room back.
                let held = if bytes > 0 { Some(session.ctx.shared.memory(bytes).await) } else { None };
                (broker, places, answer, held)
            }));
        }
        Ok(())
    }

    fn fetch_partition(&self, place: usize) -> FetchPartition {
        let planned = &self.session.plan.partitions[place];
        FetchPartition {
            partition: planned.partition.clone(),
            topic_id: planned.topic_id,
            offset: self.cursors[place].next.0,
            last_epoch: self.cursors[place].epoch,
            bytes_max: TAIL_FETCH_PARTITION_BYTES,
        }
    }

    fn pause(&mut self, places: &[usize]) {
        let until = self.session.ctx.clock.now() + SOURCE_PAUSE;
        for place in places {
            self.cursors[*place].not_before = Some(until);
            self.leader_unknown.insert(*place);
        }
    }

    /// Takes one broker's answer into the window.
    async fn take(
        &mut self,
        broker: BrokerId,
        places: &[usize],
        answer: ClusterResult<PerPartition<Fetched>>,
        window: &mut Window<'a>,
    ) -> Result<(), SessionEnd> {
        self.busy.remove(&broker);
        for place in places {
            self.asked.remove(place);
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(ClusterError::Unavailable { detail, .. }) => {
                tracing::debug!(%broker, detail, "a source broker does not answer");
                self.pause(places);
                return Ok(());
            }
            Err(error) => return Err(cluster_failed(self.session.plan.id, error)),
        };
        for (partition, answer) in answer {
            let Some(&place) = self.places.get(&partition) else { continue };
            let planned = &self.session.plan.partitions[place];
            let asked = self.cursors[place].next;
            match judge(&self.session.ctx, &self.session.plan, planned, asked, answer).await? {
                Next::Take(fetched) => {
                    self.session.ctx.shared.bandwidth.spent(broker, fetched.records.len());
                    self.session.ctx.shared.meter.read(fetched.records.len());
                    self.gather(place, fetched, window)?;
                }
                Next::Again => self.pause(&[place]),
                Next::ReadFrom(offset) => {
                    let epoch = skip_gap(&*self.session.ctx, self.copy(place), asked, offset);
                    self.cursors[place] = Cursor { next: offset, epoch, not_before: None };
                    let gathered = window.gathered.entry(place).or_insert_with(|| Gathered::begin(offset));
                    (gathered.source_next, gathered.epoch) = (offset, epoch);
                }
            }
            tokio::task::yield_now().await;
        }
        if window.gathered.is_empty() {
            *window = Window::default();
        }
        Ok(())
    }

    fn record_error(&self, place: usize) -> impl Fn(RecordError) -> LaneError + use<P> {
        let partition = self.session.plan.partitions[place].partition.clone();
        move |source| LaneError::Record { partition: partition.clone(), source }
    }

    /// Adds what was read to the window, and moves the cursor behind it.
    fn gather(&mut self, place: usize, fetched: Fetched, window: &mut Window<'a>) -> Result<(), LaneError> {
        let copy = self.copy(place);
        let record_error = self.record_error(place);
        let cursor = &mut self.cursors[place];
        let from = cursor.next;
        let mut filter = AbortFilter::new(fetched.aborted);
        for batch in Batches::new(fetched.records) {
            let batch = batch.map_err(&record_error)?;
            let data = filter.verdict(&batch).map_err(&record_error)? == Verdict::Data;
            if batch.header.last_offset() < from.0 {
                continue;
            }
            cursor.next = cursor.next.max(SourceOffset(batch.header.last_offset() + 1));
            cursor.epoch = Some(batch.header.leader_epoch);
            let gathered = window.gathered.entry(place).or_insert_with(|| Gathered::begin(cursor.next));
            (gathered.source_next, gathered.epoch) = (cursor.next, cursor.epoch);
            if data {
                let (runs_before, bytes_before) = (gathered.repacker.open_runs(), gathered.repacker.open_bytes());
                let outs = gathered.repacker.push(&batch, from).map_err(&record_error)?;
                window.runs += outs.iter().map(|out| out.runs.len()).sum::<usize>();
                window.runs = window.runs + gathered.repacker.open_runs() - runs_before;
                // What is being packed is held without compression.
                window.bytes += outs.iter().map(OutBatch::size).sum::<usize>();
                window.bytes = window.bytes + gathered.repacker.open_bytes() - bytes_before;
                gathered.outs.extend(outs);
            }
        }
        let now = self.session.ctx.clock.now();
        self.ends[place] = Some((fetched.high_watermark, fetched.last_stable_offset, now));
        if let Some(kept_ms) = self.session.plan.partitions[place].tombstones_kept_ms {
            // An answer may have waited for room since.
            let end = SourceEnd { offset: SourceOffset(fetched.high_watermark), unix_ms: self.asked_unix_ms[place] };
            let unix_ms = self.session.ctx.clock.unix_ms();
            PartitionCopy::with(copy, |copy| copy.unsaved |= copy.progress.heard(end, unix_ms, kept_ms));
        }
        self.show_one(place);
        Ok(())
    }

    /// What was gathered, as it will be produced.
    fn close(&self, window: Window<'a>) -> Result<Loads<'a>, LaneError> {
        let Window { gathered, held, .. } = window;
        let closed = gathered.into_iter().map(|(place, mut gathered)| {
            gathered.outs.extend(gathered.repacker.finish().map_err(self.record_error(place))?);
            let Gathered { outs, source_next, epoch, .. } = gathered;
            Ok((place, Load { outs, source_next, epoch }))
        });
        Ok(Loads { loads: closed.collect::<Result<_, LaneError>>()?, held })
    }

    fn show(&self) {
        (0..self.cursors.len()).for_each(|place| self.show_one(place));
    }

    fn show_one(&self, place: usize) {
        let Some((high_watermark, last_stable_offset, heard_at)) = self.ends[place] else { return };
        let planned = &self.session.plan.partitions[place];
        let (end, unix_ms) = (SourceOffset(high_watermark), self.session.ctx.clock.unix_ms());
        let (source_next, tombstones_doubtful_to) = PartitionCopy::with(self.copy(place), |copy| {
            let kept_ms = planned.tombstones_kept_ms;
            let doubtful_to = |kept_ms| copy.progress.doubtful_if_read(end, unix_ms, kept_ms);
            let doubtful_to = kept_ms.map_or(SourceOffset(0), doubtful_to);
            (copy.progress.source_next, doubtful_to)
        });
        let lag = PartitionLag { source_next, high_watermark, last_stable_offset, heard_at, tombstones_doubtful_to };
        self.board.put(&planned.partition, lag);
    }

    /// The next step: writes down what stands now with everything that may follow (`producing`, which is known
    /// already, and `ahead`), and produces `producing`.
    fn stage(
        &mut self,
        producing: Loads<'a>,
        ahead: &Loads<'a>,
    ) -> (
        impl Future<Output = Result<(), SessionEnd>> + Send + 'a,
        impl Future<Output = Result<(), SessionEnd>> + Send + 'a,
    ) {
        let session = self.session;
        let now = session.ctx.clock.now();
        let mut copies = Vec::new();
        let mut snapshots = Vec::new();
        for (place, copy) in session.copies.iter().enumerate() {
            let loads = [producing.loads.get(&place), ahead.loads.get(&place)];
            let known = PartitionCopy::with(copy, |copy| std::mem::take(&mut copy.unsaved));
            if !known && loads.iter().all(Option::is_none) {
                continue;
            }
            let runs =
                loads.iter().flatten().flat_map(|load| load.outs.iter().flat_map(|out| out.runs.iter().copied()));
            let mut snapshot = PartitionCopy::with(copy, |copy| copy.progress.clone());
            snapshot.ahead = runs.collect();
            copies.push(copy.clone());
            snapshots.push(snapshot);
        }
        let nothing_new = snapshots.is_empty();
        let save = async move { if nothing_new { Ok(()) } else { session.save_ahead(&copies, snapshots).await } };
        for place in producing.loads.keys() {
            self.appended_at[*place] = now;
        }
        let produce = async move {
            let Loads { loads, held: _held } = producing;
            let parts = loads.into_iter().map(|(place, load)| {
                let copy = &session.copies[place];
                async move {
                    for out in load.outs {
                        append(&session.ctx, &session.lease, copy, out).await?;
                    }
                    advance(copy, load.source_next);
                    PartitionCopy::with(copy, |copy| {
                        copy.progress.source_epoch = load.epoch.or(copy.progress.source_epoch);
                        copy.unsaved = true;
                    });
                    Ok(())
                }
                .boxed()
            });
            // All come to rest before one's error counts: nothing of ours stays in flight.
            join_all(parts).await.into_iter().collect::<Result<(), SessionEnd>>()
        };
        (save, produce)
    }

    /// Fences partitions again that have been quiet for some time, and whose last records are so old that the broker
    /// would soon forget our producer: then it would also take what an owner before us may still send.
    async fn refresh(&mut self, quiet: Duration) -> Result<(), SessionEnd> {
        let now = self.session.ctx.clock.now();
        let forgotten_before = self.session.ctx.clock.unix_ms() - REMEMBERED_FOR_MS;
        let stale: Vec<SharedCopy> = (0..self.cursors.len())
            .filter(|place| now - self.appended_at[*place] >= quiet)
            .map(|place| self.copy(place))
            .filter(|copy| {
                PartitionCopy::with(copy, |copy| {
                    copy.remembered_by_ms.is_some_and(|remembered_by| remembered_by < forgotten_before)
                })
            })
            .cloned()
            .collect();
        self.session.refresh_fence(&stale).await
    }
}
