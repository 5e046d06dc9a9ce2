//! A lane from the taking of its lease to its goal: sessions, one after another, until one of them gets there.

use std::{collections::BTreeMap, future::ready, sync::Arc};

use krossing_core::{
    LaneId, TargetOffset, TopicPartition,
    limits::{SESSION_PAUSE, SESSION_PAUSE_MAX, SESSION_RESTARTS_MAX},
    ports::Clock,
    progress::PartitionProgress,
};

use crate::{
    append::PartitionCopy,
    context::{LaneContext, LanePlan, LanePorts, Notice},
    error::{LaneError, SessionEnd},
    lease::HeldLease,
    seed::seed,
    session::Session,
    tail::{TailControl, tail},
};

/// How far a lane is to go.
#[derive(Debug, Clone)]
pub enum Goal {
    /// Until every partition's seed is on the target.
    Seed,
    /// Seeded, and from then on whatever arrives, until told otherwise.
    Tail(TailControl),
}

/// Runs a lane until its goal is reached, then lets go of it.
pub async fn run_lane<P: LanePorts>(ctx: Arc<LaneContext<P>>, plan: LanePlan, goal: Goal) -> Result<(), LaneError> {
    let lease = HeldLease::take(ctx.clone(), &plan).await?;
    let reached = sessions(&ctx, &plan, &lease, |session| reach(session, goal.clone())).await;
    let_go(reached, lease.release().await, plan.id)
}

/// Fences a lane for the last time and closes it: no worker writes to it after that. Answers where each partition
/// stands; its `target_next` is the offset after the closing fence, the target boundary.
pub async fn close_lane<P: LanePorts>(
    ctx: Arc<LaneContext<P>>,
    plan: LanePlan,
) -> Result<Vec<PartitionProgress>, LaneError> {
    let lease = HeldLease::take(ctx.clone(), &plan).await?;
    let reached = sessions(&ctx, &plan, &lease, |session| ready(Ok(standing(&session)))).await;
    match reached {
        Ok(progress) => let_go(Ok(progress), lease.close().await, plan.id),
        Err(error) => let_go(Err(error), lease.release().await, plan.id),
    }
}

async fn reach<P: LanePorts>(session: Session<P>, goal: Goal) -> Result<(), SessionEnd> {
    let session = Arc::new(session);
    seed(&session).await?;
    match goal {
        Goal::Seed => Ok(()),
        Goal::Tail(mut control) => tail(&session, &mut control).await,
    }
}

fn standing<P: LanePorts>(session: &Session<P>) -> Vec<PartitionProgress> {
    session.copies.iter().map(|copy| PartitionCopy::with(copy, |copy| copy.progress.clone())).collect()
}

/// The target boundary of each partition of a closed lane.
pub fn boundaries(progress: &[PartitionProgress]) -> BTreeMap<TopicPartition, TargetOffset> {
    progress.iter().map(|progress| (progress.partition.clone(), progress.target_next)).collect()
}

/// A lane that could not be let go of is taken over when its lease ends; that it was reached counts all the same.
fn let_go<T>(reached: Result<T, LaneError>, written: Result<(), LaneError>, lane: LaneId) -> Result<T, LaneError> {
    match (reached, written) {
        (Ok(value), Ok(())) => Ok(value),
        (Ok(_), Err(error)) => Err(error),
        (Err(error), written) => {
            if let Err(unwritten) = written {
                tracing::debug!(%lane, error = %unwritten, "the lease could not be given back; it will run out");
            }
            Err(error)
        }
    }
}

/// Starts a session, does `work` in it, and starts over as long as that may help.
async fn sessions<P: LanePorts, T, W: Future<Output = Result<T, SessionEnd>> + Send>(
    ctx: &Arc<LaneContext<P>>,
    plan: &LanePlan,
    lease: &Arc<HeldLease<P>>,
    work: impl Fn(Session<P>) -> W + Send + Sync,
) -> Result<T, LaneError> {
    let mut restarts = 0;
    let mut pause = SESSION_PAUSE;
    loop {
        let appended_before = lease.records_appended();
        let session = async { work(Session::start(ctx.clone(), plan.clone(), lease.clone()).await?).await };
        let end = tokio::select! {
            end = session => end,
            lost = lease.renew() => Err(lost),
        };
        let reason = match end {
            Ok(value) => return Ok(value),
            Err(SessionEnd::Stop(error)) => return Err(error),
            Err(SessionEnd::StartOver(reason)) => reason,
            Err(SessionEnd::Halted) => return Err(LaneError::Halted { lane: plan.id }),
        };
        if lease.records_appended() > appended_before {
            restarts = 0;
            pause = SESSION_PAUSE;
        }
        if restarts == SESSION_RESTARTS_MAX {
            return Err(LaneError::NoProgress { lane: plan.id, restarts, reason });
        }
        restarts += 1;
        ctx.shared.notice(Notice::StartedOver { lane: plan.id, reason });
        ctx.clock.sleep(pause).await;
        pause = (pause * 2).min(SESSION_PAUSE_MAX);
        lease.confirm().await?;
    }
}
