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

/// Who waits for a task: Step Functions, and in tests whoever writes down what it hears.
pub(crate) trait Listener {
    /// The task is still being worked on.
    async fn heartbeat(&self, token: &str) -> Result<(), WorkflowError>;
    /// The task is done.
    async fn succeed(&self, token: &str, output: &Value) -> Result<(), WorkflowError>;
    /// The task has failed, by the name that the definition catches.
    async fn fail(&self, token: &str, error: &str, cause: &str) -> Result<(), WorkflowError>;
}

impl Listener for Workflow {
    async fn heartbeat(&self, token: &str) -> Result<(), WorkflowError> {
        Workflow::heartbeat(self, token).await
    }

    async fn succeed(&self, token: &str, output: &Value) -> Result<(), WorkflowError> {
        Workflow::succeed(self, token, output).await
    }

    async fn fail(&self, token: &str, error: &str, cause: &str) -> Result<(), WorkflowError> {
        Workflow::fail(self, token, error, cause).await
    }
}

/// A task, and the workflow that waits for it.
#[derive(Debug, Clone)]
pub(crate) struct Task<L> {
    pub(crate) workflow: L,
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

impl<L: Listener> Task<L> {
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
        self.run_by(&SystemClock, beaten, work).await
    }

    /// As `run`, by a clock that tests turn.
    async fn run_by<W>(
        &self,
        clock: &impl Clock,
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
            gone = self.beats(clock, &pulse, beaten) => Stop::TokenGone(gone),
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
    async fn beats(&self, clock: &impl Clock, pulse: &Pulse, beaten: impl Fn()) -> String {
        let (mut last, mut last_at) = (0, clock.now());
        loop {
            clock.sleep(BEAT_EVERY).await;
            let now = pulse.count();
            if now != last {
                match self.workflow.heartbeat(&self.token).await {
                    Ok(()) => {
                        (last, last_at) = (now, clock.now());
                        beaten();
                    }
                    Err(error @ WorkflowError::TokenGone { .. }) => return chain(&error),
                    Err(WorkflowError::Call(error)) => tracing::warn!(%error, "could not send a heartbeat"),
                }
            }
            let silent = clock.now() - last_at;
            if silent + REST_BEFORE >= self.heartbeat {
                return format!("nothing was got done, or nothing could be said, for {} s", silent.as_secs());
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

#[cfg(test)]
mod tests {
    //! Goal: of two workers of a lane the first has given it up before the workflow puts the second in its place, and
    //! nobody is told what nobody waits for.

    use std::{
        cell::{Cell, RefCell},
        time::Instant,
    };

    use krossing_core::{ErrorClass, ports::StoreError};
    use serde_json::json;

    use super::*;

    const HEARTBEAT: Duration = Duration::from_secs(180);

    /// Tokio's, which stands still while anybody has something to do.
    #[derive(Debug, Clone, Copy)]
    struct PausedClock;

    impl Clock for PausedClock {
        fn now(&self) -> Instant {
            tokio::time::Instant::now().into_std()
        }

        fn unix_ms(&self) -> i64 {
            unreachable!("no task looks at the wall clock")
        }

        async fn sleep(&self, duration: Duration) {
            tokio::time::sleep(duration).await;
        }
    }

    type Told = Result<(), WorkflowError>;

    fn gone() -> Told {
        Err(WorkflowError::TokenGone { attempt: "tell".to_owned(), code: "TaskTimedOut".to_owned() })
    }

    fn unanswered() -> Told {
        let (attempt, detail) = ("tell".to_owned(), "no answer".to_owned());
        Err(WorkflowError::Call(StoreError::Unavailable { attempt, detail }))
    }

    /// Writes down what it hears and at which second, and answers by that.
    struct Ear {
        begun: Instant,
        heard: RefCell<Vec<String>>,
        answer: fn(u64) -> Told,
    }

    impl Ear {
        fn hear(&self, token: &str, what: &str) -> Told {
            assert_eq!(token, "t-1");
            let at = (PausedClock.now() - self.begun).as_secs();
            self.heard.borrow_mut().push(format!("{at} s: {what}"));
            (self.answer)(at)
        }
    }

    impl Listener for Ear {
        async fn heartbeat(&self, token: &str) -> Told {
            self.hear(token, "heartbeat")
        }

        async fn succeed(&self, token: &str, output: &Value) -> Told {
            self.hear(token, &format!("done {output}"))
        }

        async fn fail(&self, token: &str, error: &str, cause: &str) -> Told {
            self.hear(token, &format!("{error}: {cause}"))
        }
    }

    /// A task that has ended.
    struct Ended {
        heard: Vec<String>,
        beaten: u32,
        at: u64,
        how: Result<(), Failure>,
    }

    /// A task with this work, for a workflow that answers like this at each second.
    async fn ended<W>(answer: fn(u64) -> Told, work: impl FnOnce(Pulse, watch::Receiver<bool>) -> W) -> Ended
    where
        W: Future<Output = Result<Value, Failure>>,
    {
        let workflow = Ear { begun: PausedClock.now(), heard: RefCell::default(), answer };
        let task = Task { workflow, token: "t-1".to_owned(), heartbeat: HEARTBEAT };
        let beaten = Cell::new(0);
        let how = task.run_by(&PausedClock, || beaten.set(beaten.get() + 1), work).await;
        let Ear { begun, heard, .. } = task.workflow;
        let at = (PausedClock.now() - begun).as_secs();
        Ended { heard: heard.into_inner(), beaten: beaten.get(), at, how }
    }

    async fn pass(seconds: u64) {
        PausedClock.sleep(Duration::from_secs(seconds)).await;
    }

    async fn until_told(mut stop: watch::Receiver<bool>) {
        stop.wait_for(|told| *told).await.expect("the task holds the sender");
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_are_sent_only_while_something_is_got_done_and_the_result_once() {
        let ended = ended(
            |_| Ok(()),
            |pulse, _| async move {
                pulse.beat();
                pulse.beat();
                pass(90).await;
                pulse.beat();
                pass(20).await;
                Ok(json!(7))
            },
        )
        .await;
        assert_eq!(ended.heard, ["20 s: heartbeat", "100 s: heartbeat", "110 s: done 7"]);
        assert_eq!((ended.beaten, ended.how), (2, Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_fails_is_reported_once_with_its_class() {
        let ended = ended(|_| Ok(()), |_, _| async { Err(Failure::refused_with("no room".to_owned())) }).await;
        assert_eq!(ended.heard, ["0 s: Krossing.Refused: no room"]);
        assert_eq!(ended.how, Ok(()), "the workflow has been told");
    }

    /// It says nothing of it: that the heartbeat has run out is what the workflow catches.
    #[tokio::test(start_paused = true)]
    async fn work_that_gets_nothing_done_comes_to_rest_before_its_heartbeat_runs_out() {
        let never = ended(
            |_| Ok(()),
            |_, stop| async move {
                until_told(stop).await;
                Err(stopped())
            },
        )
        .await;
        assert_eq!(never.heard, Vec::<String>::new());
        assert_eq!((never.at, never.how), ((HEARTBEAT - REST_BEFORE).as_secs(), Ok(())));

        let no_more = ended(
            |_| Ok(()),
            |pulse, stop| async move {
                pulse.beat();
                until_told(stop).await;
                Err(stopped())
            },
        )
        .await;
        assert_eq!(no_more.heard, ["20 s: heartbeat"]);
        assert_eq!((no_more.at, no_more.how), ((BEAT_EVERY + HEARTBEAT - REST_BEFORE).as_secs(), Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_nobody_waits_for_comes_to_rest_and_reports_nothing() {
        let rests = ended(
            |_| gone(),
            |pulse, stop| async move {
                pulse.beat();
                until_told(stop).await;
                pass(30).await;
                Ok(json!("too late"))
            },
        )
        .await;
        assert_eq!((rests.heard, rests.beaten), (vec!["20 s: heartbeat".to_owned()], 0));
        assert_eq!((rests.at, rests.how), (50, Ok(())));

        let never_rests = ended(
            |_| gone(),
            |pulse, _| async move {
                pulse.beat();
                std::future::pending().await
            },
        )
        .await;
        assert_eq!(never_rests.heard, ["20 s: heartbeat"]);
        assert_eq!((never_rests.at, never_rests.how), ((BEAT_EVERY + REST_WAIT_MAX).as_secs(), Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_could_not_be_sent_is_sent_again_and_stops_nothing() {
        let ended = ended(
            |at| if at < 60 { unanswered() } else { Ok(()) },
            |pulse, _| async move {
                pulse.beat();
                pass(70).await;
                Ok(json!(7))
            },
        )
        .await;
        assert_eq!(ended.heard, ["20 s: heartbeat", "40 s: heartbeat", "60 s: heartbeat", "70 s: done 7"]);
        assert_eq!((ended.beaten, ended.how), (1, Ok(())));
    }

    /// The workflow will not have heard it either, and puts another in its place.
    #[tokio::test(start_paused = true)]
    async fn work_of_which_nothing_could_be_said_for_too_long_comes_to_rest() {
        let unheard = ended(
            |_| unanswered(),
            |pulse, stop| async move {
                tokio::select! {
                    () = until_told(stop) => Err(stopped()),
                    () = async { loop { pulse.beat(); pass(1).await } } => unreachable!("it goes on for ever"),
                }
            },
        )
        .await;
        assert_eq!((unheard.at, unheard.beaten), ((HEARTBEAT - REST_BEFORE).as_secs(), 0));
        assert!(unheard.heard.iter().all(|heard| heard.ends_with("heartbeat")), "{:?}", unheard.heard);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_the_workflow_could_not_be_told_is_an_error_unless_nobody_waits_for_it() {
        let unheard = ended(|_| gone(), |_, _| async { Ok(json!(7)) }).await;
        assert_eq!((unheard.heard, unheard.how), (vec!["0 s: done 7".to_owned()], Ok(())));
        let untold = ended(|_| unanswered(), |_, _| async { Ok(json!(7)) }).await;
        assert_eq!(untold.heard, ["0 s: done 7"]);
        assert_eq!(untold.how.map_err(|failure| failure.class), Err(ErrorClass::Retryable));
    }
}
