//! A Lambda: JSON in, JSON out, an error by the name of its class.

use std::{
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use krossing_core::ports::Clock;
use krossing_runtime::{SystemClock, connect::NamedSecrets};
use lambda_runtime::{Context, LambdaEvent, service_fn};
use serde_json::Value;

use crate::{Environment, Failure, gates, recover, turns};

/// What every process begins with: a place for its log lines, and threads. Says why where there are none.
pub(crate) fn start() -> Option<tokio::runtime::Runtime> {
    krossing_runtime::start_tracing();
    tokio::runtime::Runtime::new().inspect_err(|error| tracing::error!(%error, "could not start")).ok()
}

/// The functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lambda {
    /// Says where a migration stands, and claims it.
    Plan,
    /// Looks for what stands in the way.
    Precheck,
    /// Makes what is missing on the target.
    Topology,
    /// Carries all groups over.
    Cutover,
    /// Takes the acknowledgement.
    ClientSwitch,
    /// Gives a migration up.
    Rollback,
    /// Looks after what has failed.
    Recover,
    /// Asks an operator.
    Notify,
    /// Takes an operator's answer.
    Decide,
}

/// What a turn comes to.
type Turn = Pin<Box<dyn Future<Output = Result<Value, Failure>>>>;

impl Lambda {
    /// Who asks and who answers log in to neither cluster.
    fn secrets(self) -> NamedSecrets {
        match self {
            Lambda::Notify | Lambda::Decide => NamedSecrets::LeftAlone,
            Lambda::Plan
            | Lambda::Precheck
            | Lambda::Topology
            | Lambda::Cutover
            | Lambda::ClientSwitch
            | Lambda::Rollback
            | Lambda::Recover => NamedSecrets::Read,
        }
    }

    /// One invocation, which the platform ends at `until`. Boxed: the compiler gives up on futures that are nested as
    /// deeply as a phase's. Here and not in each binary, so that the phases are compiled once.
    fn turn(self, environment: Environment, event: Value, until: Instant) -> Turn {
        match self {
            Lambda::Plan => Box::pin(turns::plan(environment, event)),
            Lambda::Precheck => Box::pin(turns::precheck(environment, event)),
            Lambda::Topology => Box::pin(turns::topology(environment, event)),
            Lambda::Cutover => Box::pin(turns::cutover(environment, event, until)),
            Lambda::ClientSwitch => Box::pin(turns::acknowledge(environment, event)),
            Lambda::Rollback => Box::pin(turns::rollback(environment, event)),
            Lambda::Recover => Box::pin(recover::recover(environment, event, until)),
            Lambda::Notify => Box::pin(gates::notify(environment, event)),
            Lambda::Decide => Box::pin(gates::decide(environment, event)),
        }
    }
}

/// When the platform ends an invocation.
fn ends_at(context: &Context) -> Instant {
    let now_unix_ms = u64::try_from(SystemClock.unix_ms()).unwrap_or_default();
    SystemClock.now() + Duration::from_millis(context.deadline.saturating_sub(now_unix_ms))
}

/// Answers invocations of a function until the platform ends the process.
pub fn serve(lambda: Lambda) -> ExitCode {
    let Some(runtime) = start() else { return ExitCode::FAILURE };
    let answer = service_fn(|event: LambdaEvent<Value>| async move {
        // With each invocation: what is wrong with it is an answer and not a process that will not start, and a
        // password that was changed is the new one.
        let environment = Environment::read(lambda.secrets()).await?;
        let answer = lambda.turn(environment, event.payload, ends_at(&event.context)).await;
        if let Err(failure) = &answer {
            tracing::warn!(class = failure.class.name(), failure.sentence, "failed");
        }
        answer
    });
    match runtime.block_on(lambda_runtime::run(answer)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the runtime interface of Lambda cannot be used");
            ExitCode::FAILURE
        }
    }
}
