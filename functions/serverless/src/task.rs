//! A task of the workflow that this process works on: its token, its heartbeat, its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use krossing_core::ports::Clock;
use krossing_drive::chain;
use krossing_runtime::{
    SystemClock,
    aws::{Workflow, WorkflowError},
};
use serde_json::Value;
use tokio::sync::watch;

use crate::Failure;

/// How often the workflow hears that work goes on.
const BEAT_EVERY: Duration = Duration::from_secs(20);

/// The workflow puts another worker in the place of one that it has not heard for its heartbeat's time. The other must
/// find the lane free, so that work which gets nothing done gives it up this much before.
const REST_BEFORE: Duration = Duration::from_secs(20);

/// How long work may take to come to rest once it is told to.
const REST_WAIT_MAX: Duration = Duration::from_secs(60);

/// Counts what has been got done: a heartbeat is sent only where it has grown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Something was got done.
    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A task, and the workflow that waits for it.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) workflow: Workflow,
    pub(crate) token: String,
    /// How long the workflow waits for a heartbeat.
    pub(crate) heartbeat: Duration,
}

/// How work ends that was told to stop before it was done.
pub(crate) fn stopped() -> Failure {
    Failure::retryable("the worker was told to stop".to_owned())
}

/// Why work is told to stop.
enum Stop {
    /// The platform wants the process to end.
    Signal,
    /// Nobody waits for it any more.
    TokenGone(String),
}

impl Task {
    /// Runs `work` until it is done, the platform wants the process to end, or nobody waits for it any more; then tells
    /// the workflow how it ended. `work` comes to rest when its watch turns true. `beaten` hears of each heartbeat.
    pub(crate) async fn run<W>(
        &self,
        beaten: impl Fn(),
        work: impl FnOnce(Pulse, watch::Receiver<bool>) -> W,
    ) -> Result<(), Failure>
    where
        W: Future<Output = Result<Value, Failure>>,
    {
        let pulse = Pulse::default();
        let (tell, told) = watch::channel(false);
        let mut work = std::pin::pin!(work(pulse.clone(), told));
        let stop = tokio::select! {
            ended = &mut work => return self.report(ended).await,
            gone = self.beats(&pulse, beaten) => Stop::TokenGone(gone),
            () = terminated() => Stop::Signal,
        };
        tell.send_replace(true);
        // It may have been done in the same moment: then that counts.
        let rested = tokio::time::timeout(REST_WAIT_MAX, &mut work).await.unwrap_or_else(|_| {
            tracing::warn!("the work did not come to rest in time; its leases run out by themselves");
            Err(stopped())
        });
        match stop {
            Stop::Signal => self.report(rested).await,
            Stop::TokenGone(why) => {
                tracing::warn!(why, "came to rest: nobody waits for this task any more");
                Ok(())
            }
        }
    }

    async fn report(&self, ended: Result<Value, Failure>) -> Result<(), Failure> {
        let told = match &ended {
            Ok(output) => self.workflow.succeed(&self.token, output).await,
            Err(failure) => {
                tracing::warn!(class = failure.class.name(), failure.sentence, "failed");
                self.workflow.fail(&self.token, failure.class.name(), &failure.sentence).await
            }
        };
        match told {
            Ok(()) => Ok(()),
            Err(error @ WorkflowError::TokenGone { .. }) => {
                tracing::warn!(why = chain(&error), "nobody heard how this task ended");
                Ok(())
            }
            Err(WorkflowError::Call(error)) => Err(error.into()),
        }
    }

    /// Sends heartbeats while work goes on. Ends when nobody waits for the task any more; answers how that was said.
    async fn beats(&self, pulse: &Pulse, beaten: impl Fn()) -> String {
        let (mut last, mut last_at) = (0, SystemClock.now());
        loop {
            SystemClock.sleep(BEAT_EVERY).await;
            let now = pulse.count();
            if now == last {
                let standstill = SystemClock.now() - last_at;
                if standstill + REST_BEFORE >= self.heartbeat {
                    return format!("nothing was got done for {} s", standstill.as_secs());
                }
                continue;
            }
            match self.workflow.heartbeat(&self.token).await {
                Ok(()) => {
                    (last, last_at) = (now, SystemClock.now());
                    beaten();
                }
                Err(error @ WorkflowError::TokenGone { .. }) => return chain(&error),
                Err(WorkflowError::Call(error)) => tracing::warn!(%error, "could not send a heartbeat"),
            }
        }
    }
}

/// Ends when the platform wants the process to end.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(error) => {
            tracing::warn!(%error, "SIGTERM ends this process without ceremony");
            std::future::pending().await
        }
    }
}
