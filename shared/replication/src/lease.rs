//! Holding a lane: taking its lease, renewing it, proving it before each send, giving it back.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use krossing_core::{
    Generation, LaneId, Producer,
    lease::{LeaseRecord, LeaseState, Observation, send_before},
    limits::LEASE_RENEWAL,
    ports::{Clock, Ledger, StoreError, StoreResult, Version},
};

use crate::{
    context::{LaneContext, LanePlan, LanePorts},
    error::{LaneError, SessionEnd},
};

/// How often a taker looks whether the owner is still alive.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A lane that is ours, until somebody proves otherwise.
pub(crate) struct HeldLease<P: LanePorts> {
    ctx: Arc<LaneContext<P>>,
    lane: LaneId,
    generation: Generation,
    /// Whether the owner before us may still have bytes on their way to a broker.
    pub(crate) predecessor_may_live: bool,
    record: tokio::sync::Mutex<(Version, LeaseRecord)>,
    send_before: Mutex<Instant>,
    records_appended: AtomicU64,
}

/// The document that holds a lane's lease.
pub(crate) fn lease_document(lane: LaneId) -> String {
    format!("leases/{lane}")
}

impl<P: LanePorts> HeldLease<P> {
    /// Takes the lane: at once if nobody holds it, after its lease has surely ended if its owner is silent, and not at
    /// all if its owner is alive.
    pub(crate) async fn take(ctx: Arc<LaneContext<P>>, plan: &LanePlan) -> Result<Arc<Self>, LaneError> {
        let lane = plan.id;
        let store = |source| LaneError::Store { lane, source };
        let mut observation: Option<Observation> = None;
        loop {
            let looked_at = ctx.clock.now();
            let stored = read_lease(&ctx.ledger, lane).await.map_err(store)?;
            let (expected, record, predecessor_may_live) = match stored {
                None => (None, LeaseRecord::first(&ctx.settings.owner, &plan.transactional_id), false),
                Some((version, record)) => match record.state {
                    LeaseState::Closed => return Err(LaneError::Closed { lane }),
                    LeaseState::Released => (Some(version), record.taken_by(&ctx.settings.owner), false),
                    LeaseState::Held => {
                        let seen = observation.get_or_insert_with(|| Observation::new(&record, ctx.clock.now()));
                        if !seen.unchanged(&record) {
                            return Err(LaneError::NotOwner { lane, owner: record.owner });
                        }
                        if !seen.may_take(looked_at) {
                            ctx.clock.sleep(LOOK_EVERY).await;
                            continue;
                        }
                        (Some(version), record.taken_by(&ctx.settings.owner), true)
                    }
                },
            };
            let taken_at = ctx.clock.now();
            match write_lease(&ctx.ledger, lane, expected, &record).await {
                Ok(version) => {
                    return Ok(Arc::new(Self {
                        lane,
                        generation: record.generation,
                        predecessor_may_live,
                        record: tokio::sync::Mutex::new((version, record)),
                        send_before: Mutex::new(send_before(taken_at)),
                        records_appended: AtomicU64::new(0),
                        ctx,
                    }));
                }
                Err(StoreError::Conflict { .. }) => observation = None,
                Err(source) => return Err(store(source)),
            }
        }
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Until when bytes may go out, if that is still in the future.
    pub(crate) fn send_before(&self) -> Result<Instant, SessionEnd> {
        let send_before = *self.send_before.lock().expect("no holder panics");
        if self.ctx.clock.now() < send_before {
            Ok(send_before)
        } else {
            Err(SessionEnd::StartOver(format!("the lease of {} was not renewed in time", self.lane)))
        }
    }

    /// Renews the lease until it is lost. Never returns while it is ours.
    pub(crate) async fn renew(&self) -> SessionEnd {
        loop {
            self.ctx.clock.sleep(LEASE_RENEWAL).await;
            match self.update(|record| record.beat += 1).await {
                Ok(()) => {}
                Err(StoreError::Conflict { .. }) => {
                    return SessionEnd::StartOver(format!("the lease of {} was written by somebody else", self.lane));
                }
                // Sends stop by themselves when the lease runs out; until then the ledger may come back.
                Err(error) => tracing::warn!(lane = %self.lane, %error, "could not renew the lease"),
            }
        }
    }

    /// Makes sure that the lane is still ours after a session ended, and that it may be written to again.
    pub(crate) async fn confirm(&self) -> Result<(), LaneError> {
        self.as_owner(|record| record.beat += 1).await
    }

    /// All producers that have ever written this lane, the newest last.
    pub(crate) async fn producers(&self) -> Vec<Producer> {
        self.record.lock().await.1.producers.clone()
    }

    /// Writes down the producer before it fences, so that a successor knows its batches.
    pub(crate) async fn remember_producer(&self, producer: Producer) -> StoreResult<()> {
        self.update(|record| record.remember(producer)).await
    }

    /// Lets the next owner take the lane at once. Nothing of ours may be on its way any more.
    pub(crate) async fn release(&self) -> Result<(), LaneError> {
        self.as_owner(|record| record.state = LeaseState::Released).await
    }

    /// Ends the lane: nobody may write to it before a new decision opens it again.
    pub(crate) async fn close(&self) -> Result<(), LaneError> {
        self.as_owner(|record| record.state = LeaseState::Closed).await
    }

    /// Writes the record with one change, and says who owns the lane where that is somebody else by now.
    async fn as_owner(&self, change: impl Fn(&mut LeaseRecord)) -> Result<(), LaneError> {
        let store = |source| LaneError::Store { lane: self.lane, source };
        match self.update(change).await {
            Err(StoreError::Conflict { .. }) => {
                let lease = read_lease(&self.ctx.ledger, self.lane).await.map_err(store)?;
                let owner = lease.map_or_else(|| "nobody".to_owned(), |(_, record)| record.owner);
                Err(LaneError::NotOwner { lane: self.lane, owner })
            }
            written => written.map_err(store),
        }
    }

    pub(crate) fn appended(&self, records: u32) {
        self.records_appended.fetch_add(u64::from(records), Ordering::Relaxed);
    }

    pub(crate) fn records_appended(&self) -> u64 {
        self.records_appended.load(Ordering::Relaxed)
    }

    /// Writes the record with one change. A write that was cut off, or whose answer was lost, may have arrived: then the
    /// stored record is still of our generation, and the change is made to that.
    async fn update(&self, change: impl Fn(&mut LeaseRecord)) -> StoreResult<()> {
        let mut held = self.record.lock().await;
        let mut adopted = false;
        loop {
            let mut record = held.1.clone();
            change(&mut record);
            let written_from = self.ctx.clock.now();
            match write_lease(&self.ctx.ledger, self.lane, Some(held.0), &record).await {
                Ok(version) => {
                    *held = (version, record);
                    *self.send_before.lock().expect("no holder panics") = send_before(written_from);
                    return Ok(());
                }
                Err(conflict @ StoreError::Conflict { .. }) if !adopted => {
                    match read_lease(&self.ctx.ledger, self.lane).await? {
                        Some(stored) if stored.1.generation == self.generation => *held = stored,
                        Some(_) | None => return Err(conflict),
                    }
                    adopted = true;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Opens a lane that a cutover had closed, for the next decision.
pub async fn reopen_lane<L: Ledger>(ledger: &L, lane: LaneId) -> StoreResult<()> {
    let Some((version, mut record)) = read_lease(ledger, lane).await? else { return Ok(()) };
    if record.state != LeaseState::Closed {
        return Ok(());
    }
    record.state = LeaseState::Released;
    write_lease(ledger, lane, Some(version), &record).await.map(|_| ())
}

/// The lease of a lane as it stands.
pub async fn read_lease<L: Ledger>(ledger: &L, lane: LaneId) -> StoreResult<Option<(Version, LeaseRecord)>> {
    let name = lease_document(lane);
    let Some((version, content)) = ledger.document(&name).await? else { return Ok(None) };
    let record = serde_json::from_slice(&content)
        .map_err(|error| StoreError::Damaged { attempt: format!("read {name}"), detail: error.to_string() })?;
    Ok(Some((version, record)))
}

async fn write_lease<L: Ledger>(
    ledger: &L,
    lane: LaneId,
    expected: Option<Version>,
    record: &LeaseRecord,
) -> StoreResult<Version> {
    let content = serde_json::to_vec(record).expect("a lease is plain data");
    ledger.put_document(&lease_document(lane), expected, Bytes::from(content)).await
}
