//! Several lanes tailing in one process, under one order.

use std::{collections::BTreeMap, future::pending, sync::Arc};

use krossing_core::{LaneId, progress::PartitionProgress};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    context::{LaneContext, LanePlan, LanePorts},
    error::LaneError,
    lane::{Goal, run_lane},
    tail::{TailBoard, TailControl, TailOrder},
};

/// Lanes that are tailing. They come to rest when told to; dropped before that, they end with their process's
/// connections, and their leases run out.
pub struct Crew<P: LanePorts> {
    ctx: Arc<LaneContext<P>>,
    order: watch::Sender<TailOrder>,
    board: Arc<TailBoard>,
    tasks: JoinSet<Result<(), LaneError>>,
}

impl<P: LanePorts> Crew<P> {
    /// Nobody yet.
    pub fn new(ctx: Arc<LaneContext<P>>) -> Self {
        let (order, _) = watch::channel(TailOrder::Run);
        Self { ctx, order, board: Arc::default(), tasks: JoinSet::new() }
    }

    /// One more lane: seeded where it is not yet, then tailing.
    pub fn add(&mut self, lane: LanePlan) {
        let control = TailControl { order: self.order.subscribe(), board: self.board.clone() };
        self.tasks.spawn(run_lane(self.ctx.clone(), lane, Goal::Tail(control)));
    }

    /// Where all of its partitions stand.
    pub fn board(&self) -> Arc<TailBoard> {
        self.board.clone()
    }

    /// Tells all lanes what to do from now on.
    pub fn order(&self, order: TailOrder) {
        self.order.send_replace(order);
    }

    /// Waits for a lane to fail. Never returns while all is well, also when there are no lanes.
    pub async fn failure(&mut self) -> LaneError {
        while let Some(joined) = self.tasks.join_next().await {
            if let Err(error) = joined.expect("lanes are neither cancelled nor panic") {
                return error;
            }
        }
        pending().await
    }

    /// Waits until every lane is at rest; the first failure brings the others to rest and is the answer.
    pub async fn rest(&mut self) -> Result<(), LaneError> {
        let mut failed = None;
        while let Some(joined) = self.tasks.join_next().await {
            match joined.expect("lanes are neither cancelled nor panic") {
                // One that was still seeding rests as well as any.
                Ok(()) | Err(LaneError::Halted { .. }) => {}
                Err(error) => {
                    self.order(TailOrder::Stop);
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Brings every lane to rest at once, whatever it was told before, and also where it is still seeding.
    pub async fn stop(&mut self) -> Result<(), LaneError> {
        self.ctx.shared.halt();
        self.order(TailOrder::Stop);
        self.rest().await
    }
}

/// Seeds all lanes, each in a task of its own. The first failure lets the others come to rest.
pub async fn seed_lanes<P: LanePorts>(ctx: &Arc<LaneContext<P>>, lanes: &[LanePlan]) -> Result<(), LaneError> {
    let mut tasks = JoinSet::new();
    for lane in lanes {
        tasks.spawn(run_lane(ctx.clone(), lane.clone(), Goal::Seed));
    }
    let mut failed = None;
    while let Some(joined) = tasks.join_next().await {
        if let Err(error) = joined.expect("lanes are neither cancelled nor panic") {
            ctx.shared.halt();
            // What the others say once they are halted is not the reason.
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Closes all lanes at the same time, and answers where each partition stands.
pub async fn close_lanes<P: LanePorts>(
    ctx: &Arc<LaneContext<P>>,
    lanes: &[LanePlan],
) -> Result<BTreeMap<LaneId, Vec<PartitionProgress>>, LaneError> {
    let mut tasks = JoinSet::new();
    for lane in lanes {
        let (ctx, lane) = (ctx.clone(), lane.clone());
        tasks.spawn(async move { (lane.id, crate::lane::close_lane(ctx, lane).await) });
    }
    let mut closed = BTreeMap::new();
    let mut failed = None;
    while let Some(joined) = tasks.join_next().await {
        match joined.expect("lanes are neither cancelled nor panic") {
            (lane, Ok(progress)) => {
                closed.insert(lane, progress);
            }
            (_, Err(error)) => {
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(closed), Err)
}
